//! A login on its way in. Each step that may take time (scripts, a password that is judged elsewhere) runs as a task of its
//! own and comes back as a [`Heard`]; nobody else waits for it.
//!
//! 1. `Login` → tls-verify, then user name and password, or a token
//! 2. the client's own file, its older sessions, a lease
//! 3. client-connect, learn-address
//! 4. its worker learns of it, routes are published, the control process admits it
//! 5. `Established`: traffic flows
//!
//! A renegotiation takes the first step and is admitted.

use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;

use controlplane::{Admission, ClientCertificateInfo, Established, Login, Secret};
use dataplane::peers::table::MAX_PEERS;
use dataplane::workers::manager::WorkerOrder;
use tokio::sync::Mutex;

use super::generations::Verdict;
use super::given::{self, Addresses};
use super::lines::Kind;
use super::password::{Judgement, Passwords};
use super::pool::Lease;
use super::run::Gateway;
use super::scripts::{CertificateFacts, CertificateRow, Deferral, Learned, LoginFacts, SessionFacts, is_exported};
use super::sessions::{Judge, Pace, Session, Stage};
use super::token::TokenSession;
use crate::clock;
use crate::config::client_dir::{self, ClientConfig};
use crate::config::problem::Problem;
use crate::config::server::ServerProfile;
use crate::messages::{self, ToControl};

/// What a client is told that is refused without a reason of its own.
const AUTH_FAILED: &str = "AUTH_FAILED";
/// `IV_PROTO_AUTH_FAIL_TEMP` of OpenVPN's peer info: the client knows `AUTH_FAILED,TEMP`, and then asks again.
const KNOWS_TEMPORARY: u32 = 1 << 8;
/// Of what a client says of itself, so many bytes are kept (it may say 16 KiB).
const MAX_KEPT: usize = 2_048;
/// What status shows of it.
const SHOWN: [&str; 3] = ["IV_VER", "IV_PLAT", "IV_GUI_VER"];
/// Of what a client says about its version, so many characters are logged.
const MAX_VERSION: usize = 64;

/// What a task found out.
#[derive(Debug)]
pub(super) enum Heard {
    /// On a user name and a password.
    Judged { generation: u32, negotiation: u32, judgement: Judgement },
    /// That this takes longer.
    Deferred { generation: u32, negotiation: u32, deferral: Deferral },
    /// On a client as a whole: its part of the configuration with what the script added.
    Configured { generation: u32, own: Result<Box<ClientConfig>, String> },
}

impl Gateway {
    /// A client has shown who it is.
    pub(super) fn on_login(&mut self, login: Login) {
        let Login { generation, negotiation, .. } = login;
        if self.sessions.get(generation).is_none() {
            match self.generations.judge(generation) {
                Verdict::New => {}
                // It was ended here, and the control process did not know yet.
                Verdict::Over => return self.refuse(generation, negotiation, "RESTART", "its session is over"),
                Verdict::Forged => {
                    return self.control.condemn(format!("it told of a session {generation}, and gave no such number"));
                }
            }
        }
        if self.stopping {
            // A client that may not log in gives up for good; this one shall try again, and then find the successor.
            return self.refuse(generation, negotiation, "RESTART", "the gateway stops");
        }
        if login.peer >= MAX_PEERS {
            return self.control.condemn(format!("it told of a peer {}, and there is none", login.peer));
        }
        let is_in = self.sessions.get(generation).is_some_and(Session::has_peer);
        let facts = LoginFacts { is_in, ..login_facts(&login) };
        match self.sessions.get(generation) {
            Some(session) if !session.is_of(&login) => {
                let reason = "the certificate is another than at the first login";
                return self.refuse(generation, negotiation, AUTH_FAILED, reason);
            }
            None if !self.sessions.has_room(self.profile.max_clients) => {
                return self.refuse(generation, negotiation, "RESTART", "max-clients is reached");
            }
            _ => {}
        }
        let prior = match self.sessions.get_mut(generation) {
            Some(session) => {
                session.path = messages::path_out(&login.path);
                session.token
            }
            None => {
                self.enter(&login, &facts);
                None
            }
        };
        let (passwords, tell) = (Rc::clone(&self.passwords), self.tell.clone());
        let now = clock::now().unix;
        let fresh = TokenSession::begin(&mut self.rng, now);
        let task = tokio::task::spawn_local(async move {
            let deferred = |deferral| _ = tell.send(Heard::Deferred { generation, negotiation, deferral });
            let judgement = judge(&passwords, &facts, prior, (now, fresh), deferred).await;
            // Nobody listens any more when the gateway ends.
            let _ = tell.send(Heard::Judged { generation, negotiation, judgement });
        });
        if let Some(session) = self.sessions.get_mut(generation) {
            session.judge = Some(Judge(task.abort_handle()));
        }
    }

    fn enter(&mut self, login: &Login, facts: &LoginFacts) {
        // A peer's number is given anew only when its last bearer has ended, and that was told before.
        if let Some(other) = self.sessions.of_peer(login.peer) {
            self.drop_session(other, "its number was given to another");
        }
        self.sessions.insert(Session {
            generation: login.generation,
            peer: login.peer,
            name: facts.common_name.clone(),
            facts: LoginFacts { password: Secret::default(), ..facts.clone() },
            certificate: login.certificate.clone(),
            path: messages::path_out(&login.path),
            stage: Stage::Judgement { negotiation: login.negotiation },
            lease: None,
            addresses: Addresses::default(),
            own: ClientConfig::default(),
            record: None,
            token: None,
            since: clock::now().unix,
            cipher: login.cipher.name(),
            wire_peer_id: login.wire_peer_id,
            keyed: clock::now().at,
            counters: Arc::default(),
            pace: Pace::default(),
            judge: None,
            announced: false,
        });
    }

    /// A task has come back.
    pub(super) fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Judged { generation, negotiation, judgement } => self.on_judged(generation, negotiation, judgement),
            Heard::Deferred { generation, negotiation, deferral: Deferral { seconds, info } } => {
                self.control.send(&ToControl::Defer { generation, negotiation, seconds, info });
            }
            Heard::Configured { generation, own } => self.on_configured(generation, own),
        }
    }

    fn on_judged(&mut self, generation: u32, negotiation: u32, judgement: Judgement) {
        // Its session may be over by now.
        let Some(session) = self.sessions.get_mut(generation) else { return };
        session.forget_judge();
        match judgement {
            Judgement::Refuse { text, reason } => self.refuse(generation, negotiation, &text, &reason),
            Judgement::Accept { username, token, session: token_session } => {
                session.token = token_session;
                if session.stage == (Stage::Judgement { negotiation }) {
                    session.facts.username.clone_from(&username);
                    if self.profile.username_as_common_name && !username.is_empty() {
                        self.sessions.rename(generation, &username);
                    }
                    self.configure(generation, negotiation, token);
                } else {
                    let admission = Box::new(Admission { push: Vec::new(), token });
                    self.control.send(&ToControl::Admit { generation, negotiation, admission });
                }
            }
        }
    }

    /// The client's own file, its older sessions, its lease; then the scripts, if there are some.
    fn configure(&mut self, generation: u32, negotiation: u32, token: Option<Secret>) {
        let Some(session) = self.sessions.get_mut(generation) else { return };
        let own = match own_part(&self.profile, &session.name) {
            Ok(own) => own,
            Err(reason) => return self.refuse(generation, negotiation, AUTH_FAILED, &reason),
        };
        session.own = own;
        let name = session.name.clone();
        if !self.profile.duplicate_cn && !name.is_empty() {
            for other in self.sessions.of_name(&name).into_iter().filter(|other| *other != generation) {
                self.close(other, "the same client came back");
            }
        }
        let lease = match self.lease_for(generation) {
            Ok(lease) => lease,
            Err(reason) => {
                let text = self.sessions.get(generation).map_or(AUTH_FAILED, |own| no_room(&own.facts.peer_info));
                return self.refuse(generation, negotiation, text, &reason);
            }
        };
        let Some(session) = self.sessions.get_mut(generation) else { return };
        session.lease = lease.map(|lease| lease.index);
        session.addresses = given::addresses(&self.profile, &session.own, lease.as_ref());
        session.stage = Stage::Scripts { negotiation, token };
        let scripts = &self.passwords.scripts;
        if !scripts.has_client_connect() && self.profile.learn_address.is_none() {
            return self.admit(generation);
        }
        session.announced = true;
        let task = Connecting {
            passwords: Rc::clone(&self.passwords),
            profile: Rc::clone(&self.profile),
            own: session.own.clone(),
            lease,
            facts: session_facts(session),
            turn: self.turns.of(&name),
        };
        let tell = self.tell.clone();
        tokio::task::spawn_local(async move {
            let own = task.run().await;
            let _ = tell.send(Heard::Configured { generation, own: own.map(Box::new) });
        });
    }

    /// A lease of the pool, unless the client has addresses of its own.
    fn lease_for(&mut self, generation: u32) -> Result<Option<Lease>, String> {
        let Some(session) = self.sessions.get(generation) else { return Ok(None) };
        let (v4, v6) = self.pool.families();
        let wanted = (v4 && session.own.ifconfig_push.is_none()) || (v6 && session.own.ifconfig_ipv6_push.is_none());
        if !wanted {
            return Ok(None);
        }
        // Several clients of one name have no claim to one address.
        let name = if self.profile.duplicate_cn { "" } else { session.name.as_str() };
        match self.pool.lease(name, session.peer) {
            Some(lease) => Ok(Some(lease)),
            None => {
                let (taken, _) = self.pool.fill();
                Err(format!("no address is free: all {taken} of the pool are in use; give `server` a larger network"))
            }
        }
    }

    fn on_configured(&mut self, generation: u32, own: Result<Box<ClientConfig>, String>) {
        let Some(session) = self.sessions.get_mut(generation) else { return };
        let Stage::Scripts { negotiation, .. } = session.stage else { return };
        match own {
            Ok(own) => {
                session.own = *own;
                let lease = session.lease.map(|index| self.pool.at(index));
                session.addresses = given::addresses(&self.profile, &session.own, lease.as_ref());
                self.admit(generation);
            }
            Err(reason) => self.refuse(generation, negotiation, AUTH_FAILED, &reason),
        }
    }

    /// Its worker learns of it, and the control process, once routes lead to it.
    fn admit(&mut self, generation: u32) {
        let Some(session) = self.sessions.get_mut(generation) else { return };
        let Stage::Scripts { negotiation, token } = std::mem::replace(&mut session.stage, Stage::Settings) else {
            return;
        };
        for warning in std::mem::take(&mut session.own.warnings) {
            if self.lines.permit(Kind::Warned, clock::now().at) {
                tracing::warn!("{}: {warning}", session.who());
            }
        }
        let admission = Box::new(Admission { push: given::push(&self.profile, session), token });
        let setup = given::peer_setup(&self.profile, session);
        tracing::debug!("{} is admitted as peer {}: {}", session.who(), session.peer, admission.push.join(","));
        // The rest was for its login.
        session.facts.peer_info = kept(std::mem::take(&mut session.facts.peer_info));
        self.workers.order_for(session.peer, WorkerOrder::AddPeer(Box::new(setup)));
        self.publication.want();
        self.held.push(ToControl::Admit { generation, negotiation, admission });
    }

    /// The client has its settings and its key.
    pub(super) fn on_established(&mut self, established: &Established) {
        let Some(session) = self.sessions.get_mut(established.generation) else { return };
        session.stage = Stage::Up;
        session.keyed = clock::now().at;
        if !self.lines.permit(Kind::Connected, session.keyed) {
            return;
        }
        let version = session.facts.peer_info.iter().find(|(name, _)| name == "IV_VER");
        let version: Option<String> = version.map(|(_, value)| printable(value).chars().take(MAX_VERSION).collect());
        tracing::info!(
            "{} connected: {}, peer-id {}, {} with {}, version {}",
            session.who(),
            session.addresses.text(),
            established.peer_id.map_or("none".to_owned(), |id| id.to_string()),
            established.tls,
            established.cipher.name(),
            version.as_deref().unwrap_or("unknown"),
        );
    }

    /// Refuses a login: the client is told `text`, the log `reason`.
    fn refuse(&mut self, generation: u32, negotiation: u32, text: &str, reason: &str) {
        if let Some(session) = self.sessions.get(generation) {
            if self.lines.permit(Kind::Refused, clock::now().at) {
                tracing::warn!("{} is refused: {reason}", session.who());
            }
            // Of a session that is up, the end is told once the client knows.
            if !session.has_peer() {
                self.drop_quietly(generation);
            }
        }
        let (text, reason) = (text.to_owned(), reason.to_owned());
        self.control.send(&ToControl::Refuse { generation, negotiation, text, reason });
    }
}

async fn judge(
    passwords: &Passwords,
    facts: &LoginFacts,
    prior: Option<TokenSession>,
    (now, fresh): (u64, TokenSession),
    deferred: impl Fn(Deferral),
) -> Judgement {
    if let Err(reason) = passwords.scripts.tls_verify(facts).await {
        return Judgement::Refuse { text: AUTH_FAILED.to_owned(), reason };
    }
    passwords.judge(facts, prior.as_ref(), now, fresh, deferred).await
}

/// A client on whose scripts one waits.
struct Connecting {
    passwords: Rc<Passwords>,
    profile: Rc<ServerProfile>,
    own: ClientConfig,
    lease: Option<Lease>,
    facts: SessionFacts,
    turn: Rc<Mutex<()>>,
}

impl Connecting {
    async fn run(mut self) -> Result<ClientConfig, String> {
        // What is told of its last session is told before.
        let turn = Rc::clone(&self.turn);
        let _turn = turn.lock().await;
        let scripts = &self.passwords.scripts;
        let directives = scripts.client_connect(&self.facts).await?;
        if !directives.text.is_empty() {
            let more =
                client_dir::parse(&directives.text, &directives.source).map_err(|problems| sentences(&problems))?;
            more.check(self.profile.topology)
                .map_err(|trouble| format!("{}: {}", directives.source, trouble.sentence()))?;
            self.own = merged(self.own, more);
        }
        if self.own.disable {
            return Err("the client-connect script disables it".to_owned());
        }
        let addresses = given::addresses(&self.profile, &self.own, self.lease.as_ref());
        (self.facts.ipv4, self.facts.ipv6) = (addresses.ipv4, addresses.ipv6);
        let own = addresses.all().map(|address| (address, None));
        let behind = self.own.iroutes.iter().map(|(network, prefix)| (*network, Some(*prefix)));
        for address in own.chain(behind) {
            scripts.learn_address(Learned::Add, address, Some(&self.facts)).await?;
        }
        Ok(self.own)
    }
}

/// What the client's file in `client-config-dir` says.
fn own_part(profile: &ServerProfile, name: &str) -> Result<ClientConfig, String> {
    let Some(dir) = &profile.client_config_dir else { return Ok(ClientConfig::default()) };
    let own = client_dir::read(&beside(&profile.directory, dir), name, profile.ccd_exclusive);
    let own = own.map_err(|problems| sentences(&problems))?.unwrap_or_default();
    own.check(profile.topology)
        .map_err(|trouble| format!("{}: {}", beside(&profile.directory, dir).display(), trouble.sentence()))?;
    if own.disable { Err("its file in client-config-dir says `disable`".to_owned()) } else { Ok(own) }
}

/// Where a relative name of the configuration starts.
fn beside(directory: &Path, name: &Path) -> std::path::PathBuf {
    directory.join(name)
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

/// What a client is told for whom no address is free: that passes, so whoever understands it is to ask again in ten seconds. Others
/// take it for a wrong password.
fn no_room(peer_info: &[(String, String)]) -> &'static str {
    let said = peer_info.iter().find(|(name, _)| name == "IV_PROTO");
    let bits: u32 = said.and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
    match bits & KNOWS_TEMPORARY {
        0 => "AUTH_FAILED,no address is free",
        _ => "AUTH_FAILED,TEMP[backoff 10,advance no]:no address is free",
    }
}

/// What a script wrote, after what the file said.
fn merged(file: ClientConfig, script: ClientConfig) -> ClientConfig {
    let mut push = file.push;
    push.retain(|option| {
        !script.push_reset && !script.push_remove.iter().any(|prefix| option.starts_with(prefix.as_str()))
    });
    push.extend(script.push);
    ClientConfig {
        ifconfig_push: script.ifconfig_push.or(file.ifconfig_push),
        ifconfig_ipv6_push: script.ifconfig_ipv6_push.or(file.ifconfig_ipv6_push),
        iroutes: [file.iroutes, script.iroutes].concat(),
        push,
        push_reset: file.push_reset || script.push_reset,
        push_remove: [file.push_remove, script.push_remove].concat(),
        disable: file.disable || script.disable,
        warnings: [file.warnings, script.warnings].concat(),
    }
}

fn login_facts(login: &Login) -> LoginFacts {
    LoginFacts {
        common_name: login.certificate.as_ref().map(|own| printable(&own.common_name)).unwrap_or_default(),
        username: printable(&login.username),
        password: login.password.clone(),
        remote: login.path.remote,
        certificate: login.certificate.as_ref().map(certificate_facts),
        peer_info: login.peer_info.clone(),
        token: None,
        is_in: false,
    }
}

/// Of what a client says of itself, what is kept while it is here: what status shows, then what scripts are told when it goes, as far as
/// there is room.
fn kept(peer_info: Vec<(String, String)>) -> Vec<(String, String)> {
    let (shown, rest): (Vec<_>, Vec<_>) = peer_info.into_iter().partition(|(name, _)| SHOWN.contains(&name.as_str()));
    let told = rest.into_iter().filter(|(name, _)| is_exported(name));
    let mut room = MAX_KEPT;
    let fits = |(name, value): &(String, String)| {
        let left = room.checked_sub(name.len() + value.len());
        room = left.unwrap_or(room);
        left.is_some()
    };
    let mut kept: Vec<_> = shown.into_iter().chain(told).filter(fits).collect();
    kept.shrink_to_fit();
    kept
}

/// Control characters become `_`. The control process did that already; names go into files and logs line by line, and it is the
/// part that strangers talk to.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '_' } else { c }).collect()
}

/// Of the leaf everything is known, of its issuers the subject.
fn certificate_facts(certificate: &ClientCertificateInfo) -> CertificateFacts {
    let leaf = CertificateRow {
        subject: certificate.subject.clone(),
        serial: Some(certificate.serial.clone()),
        serial_hex: Some(certificate.serial_hex.clone()),
        sha1: Some(certificate.sha1),
        sha256: Some(certificate.sha256),
        fields: certificate.fields.clone(),
    };
    let issuers = certificate.chain_subjects.iter().skip(1);
    let issuers = issuers.map(|subject| CertificateRow { subject: subject.clone(), ..CertificateRow::default() });
    CertificateFacts { chain: std::iter::once(leaf).chain(issuers).collect() }
}

/// What scripts are told of a session.
pub(super) fn session_facts(session: &Session) -> SessionFacts {
    SessionFacts {
        login: session.facts.clone(),
        since: session.since,
        ipv4: session.addresses.ipv4,
        ipv6: session.addresses.ipv6,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(push: &[&str]) -> ClientConfig {
        ClientConfig { push: push.iter().map(|option| (*option).to_owned()).collect(), ..ClientConfig::default() }
    }

    #[test]
    fn a_script_adds_to_the_file_and_its_addresses_win() {
        let at = |text: &str| Some((text.parse().unwrap(), "255.255.255.0".parse().unwrap()));
        let file = ClientConfig { ifconfig_push: at("10.8.0.5"), ..config(&["a 1", "b 2"]) };
        let script = ClientConfig { push_remove: vec!["a".into()], ..config(&["c 3"]) };
        let both = merged(file.clone(), script);
        assert_eq!((both.push, both.ifconfig_push), (vec!["b 2".to_owned(), "c 3".to_owned()], at("10.8.0.5")));
        let script = ClientConfig { push_reset: true, ifconfig_push: at("10.8.0.6"), ..config(&["c 3"]) };
        let both = merged(file, script);
        assert_eq!((both.push, both.ifconfig_push), (vec!["c 3".to_owned()], at("10.8.0.6")));
        assert!(both.push_reset && !both.disable);
    }

    #[test]
    fn a_client_without_an_address_is_to_ask_again_if_it_can() {
        let info =
            |value: &str| vec![("IV_VER".to_owned(), "2.6.14".to_owned()), ("IV_PROTO".to_owned(), value.to_owned())];
        assert!(no_room(&info("990")).starts_with("AUTH_FAILED,TEMP["));
        for older in [info("30"), info("x"), Vec::new()] {
            assert_eq!(no_room(&older), "AUTH_FAILED,no address is free");
        }
    }

    fn login() -> Login {
        let remote = "192.0.2.1:1194".parse().unwrap();
        Login {
            generation: 1,
            negotiation: 0,
            peer: 4,
            path: controlplane::Path { worker: 0, local: None, ifindex: 0, remote, stream: None },
            username: "user".into(),
            password: Secret::default(),
            certificate: Some(ClientCertificateInfo { common_name: "alice".into(), ..Default::default() }),
            peer_info: Vec::new(),
            cipher: controlplane::Cipher::Aes256Gcm,
            tls: String::new(),
            wire_peer_id: None,
        }
    }

    #[test]
    fn of_what_a_client_says_little_is_kept_and_what_status_shows_first() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let long = "x".repeat(900);
        let said = vec![
            pair("UV_A", &long),
            pair("UV_B", &long),
            pair("UV_C", &long),
            pair("HOSTNAME", "h"),
            pair("IV_PROTO", "990"),
            pair("IV_VER", "2.6.14"),
        ];
        let names = |all: &[(String, String)]| all.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let all = kept(said.clone());
        assert_eq!(names(&all), ["IV_VER", "UV_A", "UV_B", "IV_PROTO"]);
        assert!(all.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>() <= MAX_KEPT);
        let few = vec![pair("IV_PLAT", "linux"), pair("UV_ID", "7")];
        assert_eq!(kept(few.clone()), few);
        assert_eq!(kept(vec![pair("IV_VER", &"y".repeat(16_000)), pair("UV_ID", "7")]), [pair("UV_ID", "7")]);
    }

    #[test]
    fn names_of_a_control_process_gone_wrong_stay_on_one_line() {
        let mut login = login();
        login.username = "eve\nroot,10.8.0.2".into();
        login.certificate.as_mut().unwrap().common_name = "a\r\nb\u{1b}".into();
        let facts = login_facts(&login);
        assert_eq!((facts.username.as_str(), facts.common_name.as_str()), ("eve_root,10.8.0.2", "a__b_"));
    }

    #[test]
    fn who_logs_in_again_has_the_certificate_and_the_peer_of_the_first_time() {
        let first = login();
        let mut session = crate::gateway::sessions::tests::session(1, 4, "alice", "10.8.0.2");
        assert!(!session.is_of(&first), "it had none");
        session.certificate.clone_from(&first.certificate);
        assert!(session.is_of(&first));
        let other = ClientCertificateInfo { sha256: [1; 32], ..first.certificate.clone().unwrap() };
        assert!(!session.is_of(&Login { certificate: Some(other), ..login() }));
        assert!(!session.is_of(&Login { certificate: None, ..login() }));
        assert!(!session.is_of(&Login { peer: 5, ..login() }));
    }

    #[test]
    fn a_clients_file_that_does_not_fit_the_topology_refuses_it() {
        let folder = crate::gateway::fixture::Folder::new();
        let mut profile = crate::gateway::fixture::profile();
        profile.client_config_dir = Some(folder.path().to_owned());
        std::fs::write(folder.path().join("alice"), "ifconfig-push 10.8.0.50 10.8.0.1\n").unwrap();
        std::fs::write(folder.path().join("bob"), "ifconfig-push 10.8.0.50 255.255.255.0\n").unwrap();
        let why = own_part(&profile, "alice").unwrap_err();
        assert!(why.contains("wants a netmask, and 10.8.0.1 is none"), "{why}");
        assert!(own_part(&profile, "bob").unwrap().ifconfig_push.is_some());
        profile.topology = crate::config::tunnel::Topology::Net30;
        assert!(own_part(&profile, "alice").is_ok());
        assert!(own_part(&profile, "bob").is_err());
    }

    #[test]
    fn of_a_chain_the_leaf_is_told_whole() {
        let certificate = ClientCertificateInfo {
            common_name: "alice".into(),
            subject: "CN=alice".into(),
            serial: "7".into(),
            chain_subjects: vec!["CN=alice".into(), "CN=ca".into()],
            ..ClientCertificateInfo::default()
        };
        let facts = certificate_facts(&certificate);
        assert_eq!(facts.chain.len(), 2);
        assert_eq!((facts.chain[0].serial.as_deref(), facts.chain[1].serial.as_deref()), (Some("7"), None));
        assert_eq!(facts.chain[1].subject, "CN=ca");
    }
}
