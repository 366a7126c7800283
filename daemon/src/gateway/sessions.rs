//! Who is here: every session whose login was told, by its generation, its peer and its client's name. Only the book;
//! what is done about a session stands in `admission.rs` and `ending.rs`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use controlplane::{ClientCertificateInfo, Instant, Login, ResumeRecord};
use dataplane::peers::counters::PeerCounters;
use dataplane::peers::routes::Route;
use tokio::sync::Mutex;

use super::given::Addresses;
use super::scripts::LoginFacts;
use super::token::TokenSession;
use crate::config::client_dir::ClientConfig;

/// Clients may be in the book twice while they come back, even when it is full.
const BEING_REPLACED: usize = 1_024;

/// A client, from its first login on.
#[derive(Debug)]
pub(super) struct Session {
    /// Its number for the life of this gateway.
    pub(super) generation: u32,
    /// Its peer-id.
    pub(super) peer: u32,
    /// What scripts are told; the password is wiped once it was judged.
    pub(super) facts: LoginFacts,
    /// The name it goes by: its certificate's, or the user's.
    pub(super) name: String,
    /// Its certificate.
    pub(super) certificate: Option<ClientCertificateInfo>,
    /// Where it is.
    pub(super) path: link::Path,
    /// How far it has come.
    pub(super) stage: Stage,
    /// The lease of the pool that it holds, by its number.
    pub(super) lease: Option<u32>,
    /// What it was given.
    pub(super) addresses: Addresses,
    /// What its own file and the script say.
    pub(super) own: ClientConfig,
    /// For a new control process.
    pub(super) record: Option<Box<ResumeRecord>>,
    /// `auth-gen-token`
    pub(super) token: Option<TokenSession>,
    /// When it logged in, in seconds since 1970.
    pub(super) since: u64,
    /// The data cipher.
    pub(super) cipher: &'static str,
    /// The peer-id on the wire, when it has one.
    pub(super) wire_peer_id: Option<u32>,
    /// When its present key was made.
    pub(super) keyed: Instant,
    /// What its worker counts.
    pub(super) counters: Arc<PeerCounters>,
    /// How fast it is of late.
    pub(super) pace: Pace,
    /// Who judges its last login, while that goes on.
    pub(super) judge: Option<Judge>,
    /// learn-address was told of its addresses, client-connect of itself.
    pub(super) announced: bool,
}

/// How fast a session is, from two readings of its counters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pace {
    /// When it was read last, and the bytes from and to the client then.
    read: Option<(Instant, [u64; 2])>,
    /// Bits a second from and to the client; `None` before there were two readings.
    pub(super) rates: Option<[u64; 2]>,
}

impl Pace {
    /// Takes a reading: bytes from the client and to it so far.
    pub(super) fn read(&mut self, now: Instant, bytes: [u64; 2]) {
        if let Some((before, had)) = self.read {
            let micros = now.since(before).as_micros().max(1);
            let rate = |has: u64, had: u64| {
                let bits = u128::from(has.saturating_sub(had)) * 8;
                u64::try_from(bits * 1_000_000 / micros).unwrap_or(u64::MAX)
            };
            self.rates = Some([rate(bytes[0], had[0]), rate(bytes[1], had[1])]);
        }
        self.read = Some((now, bytes));
    }
}

/// A task that judges a login, and ends with whoever waits for its verdict: a client that comes and goes, or logs in again and again,
/// must not keep the few places busy in which scripts run.
#[derive(Debug)]
pub(super) struct Judge(pub(super) tokio::task::AbortHandle);

impl Drop for Judge {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// How far a session has come. Each is named for what it waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Its password, and what else is judged.
    Judgement {
        /// The negotiation that is to be answered.
        negotiation: u32,
    },
    /// What client-connect and learn-address say.
    Scripts {
        /// The negotiation that is to be answered.
        negotiation: u32,
        /// What `auth-gen-token` gives it.
        token: Option<controlplane::Secret>,
    },
    /// The control process: it was admitted.
    Settings,
    /// Nothing: traffic flows.
    Up,
}

impl Session {
    /// Its worker knows it.
    pub(super) fn has_peer(&self) -> bool {
        matches!(self.stage, Stage::Settings | Stage::Up)
    }

    /// Whether who logs in again is who logged in first.
    pub(super) fn is_of(&self, login: &Login) -> bool {
        let digest = |certificate: &Option<ClientCertificateInfo>| certificate.as_ref().map(|own| own.sha256);
        self.peer == login.peer && digest(&self.certificate) == digest(&login.certificate)
    }

    /// Forgets the judge, if it is done: the handle to a task keeps the memory of all that it worked with. One that judges a later
    /// login goes on.
    pub(super) fn forget_judge(&mut self) {
        self.judge.take_if(|judge| judge.0.is_finished());
    }

    /// Name and address, for people.
    pub(super) fn who(&self) -> String {
        let remote = self.path.remote;
        match (self.name.as_str(), self.facts.username.as_str()) {
            ("", "") => format!("a client without a name/{remote}"),
            // Not a name that it is known by: nobody has judged it yet.
            ("", username) => format!("user {username}/{remote}"),
            (name, _) => format!("{name}/{remote}"),
        }
    }

    /// What the worker is to route to it.
    fn prefixes(&self) -> impl Iterator<Item = (IpAddr, u8)> + '_ {
        let v4 = self.addresses.ipv4.map(|own| (IpAddr::V4(own.address), 32));
        let v6 = self.addresses.ipv6.map(|own| (IpAddr::V6(own.address), 128));
        v4.into_iter().chain(v6).chain(self.own.iroutes.iter().copied())
    }
}

/// The book.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Boxed: a table of thousands is up to half empty, and lies there twice while it grows.
    all: HashMap<u32, Box<Session>>,
    by_peer: HashMap<u32, u32>,
    by_name: HashMap<String, BTreeSet<u32>>,
}

impl Sessions {
    /// Enters a session.
    pub(super) fn insert(&mut self, session: Session) {
        let generation = session.generation;
        self.by_peer.insert(session.peer, generation);
        self.by_name.entry(session.name.clone()).or_default().insert(generation);
        self.all.insert(generation, Box::new(session));
    }

    /// Strikes a session out.
    pub(super) fn remove(&mut self, generation: u32) -> Option<Session> {
        let session = *self.all.remove(&generation)?;
        // The number may have gone to another meanwhile.
        if self.by_peer.get(&session.peer) == Some(&generation) {
            self.by_peer.remove(&session.peer);
        }
        forget(&mut self.by_name, &session.name, generation);
        Some(session)
    }

    /// A session.
    pub(super) fn get(&self, generation: u32) -> Option<&Session> {
        self.all.get(&generation).map(|session| &**session)
    }

    /// A session, to be changed; neither its name nor its numbers.
    pub(super) fn get_mut(&mut self, generation: u32) -> Option<&mut Session> {
        self.all.get_mut(&generation).map(|session| &mut **session)
    }

    /// Gives it another name (`username-as-common-name`).
    pub(super) fn rename(&mut self, generation: u32, name: &str) {
        let Some(session) = self.all.get_mut(&generation) else { return };
        forget(&mut self.by_name, &session.name, generation);
        session.name = name.to_owned();
        session.facts.common_name = name.to_owned();
        self.by_name.entry(name.to_owned()).or_default().insert(generation);
    }

    /// Whether there is room for one more of at most so many clients. The control process counts them itself; this bounds what one
    /// that has gone wrong can make us keep.
    pub(super) fn has_room(&self, max_clients: u32) -> bool {
        self.all.len() < usize::try_from(max_clients).unwrap_or(usize::MAX).saturating_add(BEING_REPLACED)
    }

    /// Keeps the record of a session for a new control process. False: it is not of this session's peer, and a control process that
    /// went on with it would give the client the keys of another.
    pub(super) fn keep_record(&mut self, record: Box<ResumeRecord>) -> bool {
        let Some(session) = self.all.get_mut(&record.generation) else { return true };
        let is_its_own = session.peer == record.peer;
        if is_its_own {
            session.record = Some(record);
        }
        is_its_own
    }

    /// The session of a peer.
    pub(super) fn of_peer(&self, peer: u32) -> Option<u32> {
        self.by_peer.get(&peer).copied()
    }

    /// The sessions of a name, oldest first.
    pub(super) fn of_name(&self, name: &str) -> Vec<u32> {
        self.by_name.get(name).map(|all| all.iter().copied().collect()).unwrap_or_default()
    }

    /// Every session, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Session> {
        self.all.values().map(|session| &**session)
    }

    /// Reads the counters of those whose traffic flows.
    pub(super) fn read_pace(&mut self, now: Instant) {
        for session in self.all.values_mut().filter(|session| session.stage == Stage::Up) {
            session.pace.read(now, [session.counters.bytes_in(), session.counters.bytes_out()]);
        }
    }

    /// Every generation, oldest first.
    pub(super) fn generations(&self) -> Vec<u32> {
        let mut all: Vec<u32> = self.all.keys().copied().collect();
        all.sort_unstable();
        all
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Whose certificate has one of these serial numbers (as in a CRL: hexadecimal without colons or leading zeros).
    pub(super) fn with_serial(&self, is_listed: impl Fn(&str) -> bool) -> Vec<u32> {
        let listed = |session: &&Session| {
            session.certificate.as_ref().is_some_and(|certificate| is_listed(&plain_serial(&certificate.serial_hex)))
        };
        let mut found: Vec<u32> = self.iter().filter(listed).map(|session| session.generation).collect();
        found.sort_unstable();
        found
    }

    /// Which inner address belongs to which peer. Of two who claim the same, the newer session has it.
    pub(super) fn routes(&self) -> Vec<Route> {
        let mut routes: Vec<(u32, Route)> = Vec::with_capacity(self.all.len() * 2);
        for session in self.all.values().filter(|session| session.has_peer()) {
            let route = |(address, prefix_len)| Route { address, prefix_len, peer: session.peer };
            routes.extend(session.prefixes().map(|prefix| (session.generation, route(prefix))));
        }
        // In ascending order the table is built without moving anything.
        routes.sort_unstable_by_key(|(generation, route)| (route.prefix_len, route.address, *generation));
        routes.into_iter().map(|(_, route)| route).collect()
    }
}

/// Whose scripts run: those of one name one after the other, in the order in which they were asked for, so that the end of a
/// session is told before the beginning of the next.
#[derive(Debug, Default)]
pub(super) struct Turns {
    by_name: HashMap<String, Weak<Mutex<()>>>,
}

impl Turns {
    /// The turn of this name: to be locked while its scripts run.
    pub(super) fn of(&mut self, name: &str) -> Rc<Mutex<()>> {
        if let Some(turn) = self.by_name.get(name).and_then(Weak::upgrade) {
            return turn;
        }
        // Names that nobody waits for are forgotten before there are many.
        if self.by_name.len() >= 64 && self.by_name.len().is_power_of_two() {
            self.by_name.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Rc::new(Mutex::new(()));
        self.by_name.insert(name.to_owned(), Rc::downgrade(&turn));
        turn
    }
}

fn forget<K: std::hash::Hash + Eq>(map: &mut HashMap<K, BTreeSet<u32>>, key: &K, generation: u32) {
    if let Some(all) = map.get_mut(key) {
        all.remove(&generation);
        if all.is_empty() {
            map.remove(key);
        }
    }
}

/// A serial number without its decoration: `00:0A:fF` is `aff`.
pub(super) fn plain_serial(text: &str) -> String {
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).map(|c| c.to_ascii_lowercase()).collect();
    let plain = digits.trim_start_matches('0');
    if plain.is_empty() { "0".to_owned() } else { plain.to_owned() }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::gateway::scripts::{Beside4, Inner4};
    use dataplane::peers::routes::RouteTable;

    pub(in crate::gateway) fn session(generation: u32, peer: u32, name: &str, address: &str) -> Session {
        let remote = "192.0.2.1:1194".parse().unwrap();
        let mask = Beside4::Netmask("255.255.255.0".parse().unwrap());
        Session {
            generation,
            peer,
            facts: LoginFacts {
                common_name: name.into(),
                username: String::new(),
                password: controlplane::Secret::default(),
                remote,
                certificate: None,
                peer_info: Vec::new(),
                token: None,
                is_in: false,
            },
            name: name.into(),
            certificate: None,
            path: link::Path { worker: 0, local: None, ifindex: 0, remote, stream: None },
            stage: Stage::Up,
            lease: None,
            addresses: Addresses { ipv4: Some(Inner4 { address: address.parse().unwrap(), beside: mask }), ipv6: None },
            own: ClientConfig::default(),
            record: None,
            token: None,
            since: 0,
            cipher: "AES-256-GCM",
            wire_peer_id: Some(peer),
            keyed: Instant::default(),
            counters: Arc::default(),
            pace: Pace::default(),
            judge: None,
            announced: false,
        }
    }

    #[test]
    fn who_has_no_certificate_is_called_by_the_user_name_that_was_tried() {
        let mut one = session(1, 0, "", "10.8.0.2");
        assert_eq!(one.who(), "a client without a name/192.0.2.1:1194");
        one.facts.username = "alice".into();
        assert_eq!(one.who(), "user alice/192.0.2.1:1194");
        one.name = "laptop".into();
        assert_eq!(one.who(), "laptop/192.0.2.1:1194");
    }

    #[test]
    fn a_pace_is_known_from_the_second_reading_on() {
        let at = |seconds: u64| Instant(seconds * 1_000_000_000);
        let mut pace = Pace::default();
        pace.read(at(10), [1_000, 0]);
        assert_eq!(pace.rates, None);
        pace.read(at(14), [3_000, 500]);
        assert_eq!(pace.rates, Some([4_000, 1_000]));
        pace.read(at(16), [3_000, 500]);
        assert_eq!(pace.rates, Some([0, 0]), "of late, not since ever");
        pace.read(at(16), [3_001, 500]);
        assert!(pace.rates.is_some(), "two readings at once divide by nothing");
    }

    #[test]
    fn the_pace_is_read_of_those_whose_traffic_flows() {
        let mut book = Sessions::default();
        book.insert(session(1, 0, "a", "10.8.0.2"));
        book.insert(Session { stage: Stage::Settings, ..session(2, 1, "b", "10.8.0.3") });
        book.read_pace(Instant(1));
        book.read_pace(Instant(2_000_000_001));
        let rates = |generation| book.get(generation).unwrap().pace.rates;
        assert_eq!((rates(1), rates(2)), (Some([0, 0]), None));
    }

    #[test]
    fn a_session_is_found_by_peer_and_by_name_until_it_goes() {
        let mut book = Sessions::default();
        book.insert(session(5, 1, "a", "10.8.0.2"));
        book.insert(session(3, 0, "a", "10.8.0.3"));
        assert_eq!((book.of_peer(1), book.of_peer(0), book.of_peer(2)), (Some(5), Some(3), None));
        assert_eq!(book.of_name("a"), [3, 5], "oldest first");
        assert!(book.remove(3).is_some() && book.remove(3).is_none());
        assert_eq!((book.of_name("a"), book.of_peer(0), book.len()), (vec![5], None, 1));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_verdict_that_nobody_waits_for_is_not_worked_out() {
        let tasks = tokio::task::LocalSet::new();
        let begin = || {
            let (held, gone) = tokio::sync::oneshot::channel::<()>();
            let task = tasks.spawn_local(async move {
                let _held = held;
                std::future::pending::<()>().await;
            });
            (Judge(task.abort_handle()), gone)
        };
        let mut book = Sessions::default();
        book.insert(session(1, 0, "a", "10.8.0.2"));
        let (first, first_gone) = begin();
        let (second, mut second_gone) = begin();
        book.get_mut(1).unwrap().judge = Some(first);
        book.get_mut(1).unwrap().judge = Some(second);
        tasks.run_until(async { assert!(first_gone.await.is_err(), "it logged in again") }).await;
        assert!(second_gone.try_recv() == Err(tokio::sync::oneshot::error::TryRecvError::Empty));
        drop(book.remove(1));
        tasks.run_until(async { assert!(second_gone.await.is_err(), "it left") }).await;
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_judge_is_forgotten_once_it_is_done() {
        let tasks = tokio::task::LocalSet::new();
        let mut one = session(1, 0, "a", "10.8.0.2");
        let (verdict, waits) = tokio::sync::oneshot::channel::<()>();
        let task = tasks.spawn_local(async move { _ = waits.await });
        one.judge = Some(Judge(task.abort_handle()));
        tasks.run_until(tokio::task::yield_now()).await;
        one.forget_judge();
        assert!(one.judge.is_some(), "it still judges");
        verdict.send(()).unwrap();
        tasks.run_until(async { assert!(task.await.is_ok()) }).await;
        one.forget_judge();
        assert!(one.judge.is_none());
    }

    #[test]
    fn the_book_has_an_end() {
        let mut book = Sessions::default();
        let all = u32::try_from(BEING_REPLACED).unwrap() + 1;
        for generation in 0..all {
            assert!(book.has_room(1), "{generation}");
            book.insert(session(generation, generation, "a", "10.8.0.2"));
        }
        assert!(!book.has_room(1) && book.has_room(2) && book.has_room(u32::MAX));
    }

    #[test]
    fn a_record_that_names_another_peer_is_not_kept() {
        let mut book = Sessions::default();
        book.insert(session(1, 4, "a", "10.8.0.2"));
        let record = |generation, peer| {
            Box::new(ResumeRecord {
                generation,
                peer,
                resumable: true,
                local_sid: [1; 8],
                remote_sid: [2; 8],
                next_negotiation: 1,
                next_key_id: 1,
                cipher: controlplane::Cipher::Aes256Gcm,
                use_exporter: true,
                cc_exit: true,
                wire_peer_id: Some(peer),
                auth_token: None,
                auth_token_user: None,
                wrap_send_next: 1,
                wrap_send_time: 1,
                wrap_recv: None,
                login: None,
            })
        };
        assert!(!book.keep_record(record(1, 5)) && book.get(1).unwrap().record.is_none());
        assert!(book.keep_record(record(1, 4)) && book.get(1).unwrap().record.is_some());
        assert!(book.keep_record(record(2, 4)), "a session that is over already");
    }

    #[test]
    fn a_peers_number_that_went_to_another_stays_there() {
        let mut book = Sessions::default();
        book.insert(session(1, 7, "a", "10.8.0.2"));
        book.insert(session(2, 7, "b", "10.8.0.3"));
        book.remove(1);
        assert_eq!(book.of_peer(7), Some(2));
    }

    #[test]
    fn a_name_that_changes_is_found_under_the_new_one() {
        let mut book = Sessions::default();
        book.insert(session(1, 0, "certificate", "10.8.0.2"));
        book.rename(1, "user");
        assert_eq!((book.of_name("certificate"), book.of_name("user")), (vec![], vec![1]));
        book.remove(1);
        assert!(book.of_name("user").is_empty());
    }

    #[test]
    fn addresses_and_networks_lead_to_their_peer_once_it_is_admitted() {
        let mut book = Sessions::default();
        let mut one = session(1, 4, "a", "10.8.0.2");
        one.own.iroutes = vec![("10.20.0.0".parse().unwrap(), 16)];
        book.insert(one);
        book.insert(Session { stage: Stage::Judgement { negotiation: 0 }, ..session(2, 5, "b", "10.8.0.3") });
        let table = RouteTable::new(&book.routes());
        let to = |address: &str| table.lookup(|| address.parse().unwrap());
        assert_eq!((to("10.8.0.2"), to("10.20.3.4"), to("10.8.0.3")), (Some(4), Some(4), None));
    }

    #[test]
    fn of_two_with_the_same_address_the_newer_one_has_it() {
        for order in [[1, 2], [2, 1]] {
            let mut book = Sessions::default();
            order.into_iter().for_each(|generation| book.insert(session(generation, generation + 10, "a", "10.8.0.2")));
            let table = RouteTable::new(&book.routes());
            assert_eq!(table.lookup(|| "10.8.0.2".parse().unwrap()), Some(12));
        }
    }

    #[test]
    fn scripts_of_one_name_take_turns_and_names_are_forgotten() {
        let mut turns = Turns::default();
        let one = turns.of("a");
        assert!(Rc::ptr_eq(&one, &turns.of("a")) && !Rc::ptr_eq(&one, &turns.of("b")));
        for number in 0..1_000 {
            turns.of(&number.to_string());
        }
        assert!(turns.by_name.len() <= 128, "{}", turns.by_name.len());
        assert!(Rc::ptr_eq(&one, &turns.of("a")), "somebody waits");
    }

    #[test]
    fn serial_numbers_compare_without_their_decoration() {
        assert_eq!(plain_serial("00:0A:fF"), "aff");
        assert_eq!(plain_serial("0"), "0");
        let mut book = Sessions::default();
        let certificate =
            Some(ClientCertificateInfo { serial_hex: "0a:ff".into(), ..ClientCertificateInfo::default() });
        book.insert(Session { certificate, ..session(1, 0, "a", "10.8.0.2") });
        book.insert(session(2, 1, "b", "10.8.0.3"));
        assert_eq!(book.with_serial(|serial| serial == "aff"), [1]);
        assert!(book.with_serial(|serial| serial == "a").is_empty());
    }
}
