//! Who is here: every session whose login was told, by its generation, its peer and its client's name. Only the book;
//! what is done about a session stands in `admission.rs` and `ending.rs`.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use controlplane::{ClientCertificateInfo, Instant, ResumeRecord};
use dataplane::peers::counters::PeerCounters;
use dataplane::peers::routes::Route;
use tokio::sync::Mutex;

use super::given::Addresses;
use super::scripts::LoginFacts;
use super::token::TokenSession;
use crate::config::client_dir::ClientConfig;

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
    /// learn-address was told of its addresses, client-connect of itself.
    pub(super) announced: bool,
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

    /// Name and address, for people.
    pub(super) fn who(&self) -> String {
        let name = if self.name.is_empty() { "a client without a name" } else { &self.name };
        format!("{name}/{}", self.path.remote)
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
    all: HashMap<u32, Session>,
    by_peer: HashMap<u32, u32>,
    by_name: HashMap<String, BTreeSet<u32>>,
}

impl Sessions {
    /// Enters a session.
    pub(super) fn insert(&mut self, session: Session) {
        let generation = session.generation;
        self.by_peer.insert(session.peer, generation);
        self.by_name.entry(session.name.clone()).or_default().insert(generation);
        self.all.insert(generation, session);
    }

    /// Strikes a session out.
    pub(super) fn remove(&mut self, generation: u32) -> Option<Session> {
        let session = self.all.remove(&generation)?;
        // The number may have gone to another meanwhile.
        if self.by_peer.get(&session.peer) == Some(&generation) {
            self.by_peer.remove(&session.peer);
        }
        forget(&mut self.by_name, &session.name, generation);
        Some(session)
    }

    /// A session.
    pub(super) fn get(&self, generation: u32) -> Option<&Session> {
        self.all.get(&generation)
    }

    /// A session, to be changed; neither its name nor its numbers.
    pub(super) fn get_mut(&mut self, generation: u32) -> Option<&mut Session> {
        self.all.get_mut(&generation)
    }

    /// Gives it another name (`username-as-common-name`).
    pub(super) fn rename(&mut self, generation: u32, name: &str) {
        let Some(session) = self.all.get_mut(&generation) else { return };
        forget(&mut self.by_name, &session.name, generation);
        session.name = name.to_owned();
        session.facts.common_name = name.to_owned();
        self.by_name.entry(name.to_owned()).or_default().insert(generation);
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
        self.all.values()
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
        let mut found: Vec<u32> = self.all.values().filter(listed).map(|session| session.generation).collect();
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
            announced: false,
        }
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
