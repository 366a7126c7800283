//! A gateway's control plane in its loop, on a thread, over a real link. The test is its supervisor and its workers, and the
//! clients are pure ones, whose datagrams it carries.

use std::time::{Duration, Instant as Moment};

use controlplane::{
    Admission, ClientCertificate, ClientSetup, Digest, KeyEvent, PeerUsage, ReplyLimit, ResumeRecord, Secret,
    ServerSetup, TlsSetup, TlsVersion, Wrap,
};
use link::{WorkerCommand, WorkerEnd, WorkerEvent};

use super::*;
use crate::config::agreed::Timers;
use crate::gateway::pki::{self, Authority, Purpose};
use crate::messages::SupervisorEnd;

const TIMERS: Timers = Timers {
    tls_timeout: 2,
    hand_window: 60,
    tran_window: 3_600,
    reneg_sec: 3_600,
    reneg_bytes: None,
    reneg_pkts: None,
};

/// Long enough for the slowest machine; what is waited for is a handshake on this one.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Certificates {
    ca: String,
    authority: Authority,
}

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let now = clock::now().unix;
        let key = pki::new_key().unwrap();
        let ca = pki::new_authority("test", &key, now, &mut SystemRandom).unwrap();
        let authority = Authority::load(&ca, &key).unwrap();
        Certificates { ca, authority }
    }

    pub(crate) fn tls(&self, name: &str, purpose: Purpose, peer: PeerUsage) -> TlsSetup {
        let identity = self.authority.issue(name, &purpose, 30, clock::now().unix, &mut SystemRandom).unwrap();
        TlsSetup {
            ca_pem: self.ca.clone(),
            cert_pem: identity.certificate,
            key_pem: Secret(identity.key.as_bytes().to_vec()),
            crl_pem: None,
            peer_usage: Some(peer),
            verify_name: None,
            fingerprints: Vec::new(),
            version_min: TlsVersion::V1_2,
            version_max: TlsVersion::V1_3,
        }
    }

    pub(crate) fn gateway(&self, workers: u16, first_generation: u32) -> ServerSetup {
        let purpose = Purpose::Server("vpn.example.com".parse().unwrap());
        ServerSetup {
            wrap: Wrap::None,
            tls: self.tls("server", purpose, PeerUsage::Client),
            client_certificate: ClientCertificate::Require,
            data_ciphers: vec![controlplane::Cipher::Aes256Gcm],
            fallback_cipher: None,
            auth: Digest::Sha1,
            tun_mtu: 1_500,
            tls_timeout: 2,
            hand_window: 60,
            tran_window: 3_600,
            reneg_sec: 3_600,
            max_packet_size: 1_250,
            limits: TIMERS.key_limits(),
            max_clients: 16,
            cookie_secret: Secret(vec![7; 32]),
            replies: ReplyLimit::default(),
            workers,
            first_generation,
        }
    }

    fn client(&self, name: &str) -> Client {
        let setup = ClientSetup {
            wrap: Wrap::None,
            tls: self.tls(name, Purpose::Client, PeerUsage::Server),
            data_ciphers: vec![controlplane::Cipher::Aes256Gcm],
            fallback_cipher: None,
            options_cipher: String::new(),
            auth: Digest::Sha1,
            tun_mtu: 1_500,
            pull: true,
            iv_proto_mask: 0,
            peer_info: Vec::new(),
            tls_timeout: 2,
            hand_window: 60,
            tran_window: 3_600,
            reneg_sec: 0,
            max_packet_size: 1_250,
            limits: TIMERS.key_limits(),
            auth_nocache: false,
        };
        Client::new(setup, clock::now()).unwrap()
    }
}

/// What the test saw.
#[derive(Debug, Default)]
struct Seen {
    logins: Vec<(u32, u32, u32, String)>,
    established: Vec<u32>,
    ended: Vec<u32>,
    records: Vec<ResumeRecord>,
    renegotiated: usize,
    reloaded: Option<Result<(), Ending>>,
    moved: Vec<u32>,
    /// Keys by the worker that got them.
    keys: Vec<(usize, u32)>,
    pushed: Vec<Vec<String>>,
}

/// A gateway's control plane with everything around it.
struct Stage {
    supervisor: SupervisorEnd,
    workers: Vec<WorkerEnd>,
    clients: Vec<Client>,
    seen: Seen,
    push: Option<Vec<String>>,
}

impl Stage {
    fn new(setup: ServerSetup, clients: Vec<Client>) -> Stage {
        let (shared, mut supervisor, workers) =
            link::create::<ToControl, FromControl>(usize::from(setup.workers)).unwrap();
        let end = shared.into_control_end();
        // It lives until the test's process ends: a control plane has nothing else to do.
        std::thread::spawn(move || ControlPlane::new(end).run());
        supervisor.send(&ToControl::ConfigureGateway(Box::new(setup))).unwrap();
        let push = Some(vec!["topology subnet".to_owned(), "ifconfig 10.8.0.2 255.255.255.0".to_owned()]);
        Stage { supervisor, workers, clients, seen: Seen::default(), push }
    }

    fn address(client: usize) -> std::net::SocketAddr {
        std::net::SocketAddr::new("192.0.2.1".parse().unwrap(), 40_000 + u16::try_from(client).unwrap())
    }

    fn path(client: usize) -> link::Path {
        link::Path { worker: 0, local: None, ifindex: 0, remote: Stage::address(client), stream: None }
    }

    fn connect(&mut self, client: usize) {
        let remote = "192.0.2.9:1194".parse().unwrap();
        let path = controlplane::Path { worker: 0, local: None, ifindex: 0, remote, stream: None };
        self.clients[client].connect(clock::now(), &mut SystemRandom, 1, path, None);
    }

    /// Carries datagrams, installs keys and admits whoever logs in, until something is seen.
    fn until(&mut self, what: &str, done: impl Fn(&Seen) -> bool) {
        let begun = Moment::now();
        while !done(&self.seen) {
            assert!(begun.elapsed() < PATIENCE, "{what} does not come: {:?}", self.seen);
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.drain_clients();
        while let Some(said) = self.supervisor.recv().unwrap() {
            self.hear(said);
        }
        self.supervisor.flush().unwrap();
        for worker in 0..self.workers.len() {
            self.work(worker);
        }
        std::thread::sleep(Duration::from_micros(200));
    }

    fn drain_clients(&mut self) {
        for (index, client) in self.clients.iter_mut().enumerate() {
            client.handle_timeout(clock::now(), &mut SystemRandom);
            loop {
                match client.poll_output() {
                    Output::Transmit { bytes, .. } => {
                        let datagram = link::Datagram { path: Stage::path(index), bytes: &bytes };
                        self.workers[0].send_datagram(false, &datagram);
                    }
                    Output::Event(Event::InstallKey(key)) => {
                        let event = KeyEvent::KeyInstalled(key.name);
                        client.handle_key_event(clock::now(), &mut SystemRandom, event);
                    }
                    Output::Event(Event::Established(established)) => {
                        self.seen.pushed.push(established.pushed.options.clone());
                    }
                    Output::Event(_) => {}
                    Output::Idle { .. } => break,
                }
            }
        }
    }

    fn hear(&mut self, said: FromControl) {
        match said {
            FromControl::Event(Event::Login(login)) => {
                let name = login.certificate.as_ref().map(|own| own.common_name.clone()).unwrap_or_default();
                let (generation, negotiation) = (login.generation, login.negotiation);
                self.seen.logins.push((generation, negotiation, login.peer, name));
                let answer = match &self.push {
                    Some(push) => {
                        let admission = Box::new(Admission { push: push.clone(), token: None });
                        ToControl::Admit { generation, negotiation, admission }
                    }
                    None => {
                        let (text, reason) = ("AUTH_FAILED,not today".into(), "not today".into());
                        ToControl::Refuse { generation, negotiation, text, reason }
                    }
                };
                self.supervisor.send(&answer).unwrap();
            }
            FromControl::Event(Event::Established(established)) => self.seen.established.push(established.generation),
            FromControl::Event(Event::Ended { generation, .. }) => self.seen.ended.push(generation),
            FromControl::Event(Event::Record(record)) => self.seen.records.push(*record),
            FromControl::Event(Event::Renegotiated { .. }) => self.seen.renegotiated += 1,
            FromControl::Reloaded(outcome) => self.seen.reloaded = Some(outcome),
            FromControl::Moved { peer, .. } => self.seen.moved.push(peer),
            _ => {}
        }
    }

    fn work(&mut self, worker: usize) {
        while let Some(command) = self.workers[worker].recv_command().unwrap() {
            if let WorkerCommand::InstallKey(key) = command {
                self.seen.keys.push((worker, key.name.peer));
                self.workers[worker].send_event(&WorkerEvent::KeyInstalled(key.name)).unwrap();
            }
        }
        while let Some(datagram) = self.workers[worker].recv_datagram().unwrap() {
            let client = usize::from(datagram.path.remote.port() - 40_000);
            let path = messages::path_in(&Stage::path(client));
            let path = controlplane::Path { remote: "192.0.2.9:1194".parse().unwrap(), ..path };
            self.clients[client].handle_datagram(clock::now(), &mut SystemRandom, &path, datagram.bytes);
        }
        self.workers[worker].flush().unwrap();
    }
}

#[test]
fn clients_log_in_are_admitted_and_get_their_keys_on_their_workers() {
    let certificates = Certificates::new();
    let clients = vec![certificates.client("alice"), certificates.client("bob")];
    let mut stage = Stage::new(certificates.gateway(2, 1), clients);
    stage.connect(0);
    stage.until("the first", |seen| seen.established.len() == 1);
    stage.connect(1);
    stage.until("the second", |seen| seen.established.len() == 2 && seen.pushed.len() == 2);
    let seen = &stage.seen;
    assert_eq!(seen.logins[0], (1, 0, 0, "alice".to_owned()));
    assert_eq!(seen.logins[1], (2, 0, 1, "bob".to_owned()));
    assert_eq!(seen.keys, [(0, 0), (1, 1)], "each on the worker of its peer");
    assert!(seen.pushed[0].contains(&"ifconfig 10.8.0.2 255.255.255.0".to_owned()), "{:?}", seen.pushed);
}

#[test]
fn who_is_refused_is_told_and_ends() {
    let certificates = Certificates::new();
    let mut stage = Stage::new(certificates.gateway(1, 1), vec![certificates.client("alice")]);
    stage.push = None;
    stage.connect(0);
    stage.until("the end", |seen| seen.ended == [1]);
    assert!(stage.seen.established.is_empty() && stage.seen.keys.is_empty());
}

#[test]
fn a_successor_goes_on_with_a_session_from_its_record() {
    let certificates = Certificates::new();
    let mut stage = Stage::new(certificates.gateway(1, 1), vec![certificates.client("alice")]);
    stage.connect(0);
    let resumable = |seen: &Seen| seen.records.last().is_some_and(|record| record.resumable);
    stage.until("a record", move |seen| seen.established.len() == 1 && !seen.pushed.is_empty() && resumable(seen));
    let record = stage.seen.records.last().cloned().unwrap();
    let clients = std::mem::take(&mut stage.clients);
    let mut stage = Stage::new(certificates.gateway(1, 2), clients);
    let resume = ToControl::ResumeClient { record: Box::new(record), path: Stage::path(0) };
    stage.supervisor.send(&resume).unwrap();
    stage.until("the renegotiation", |seen| seen.renegotiated == 1);
    assert_eq!(stage.seen.logins.len(), 1, "its login is judged again");
    assert!(stage.seen.logins[0].1 > 0 && stage.seen.logins[0].0 == 1, "{:?}", stage.seen.logins);
    assert!(stage.seen.ended.is_empty());
}

#[test]
fn a_configuration_that_cannot_be_used_leaves_the_old_one() {
    let certificates = Certificates::new();
    let mut stage = Stage::new(certificates.gateway(1, 1), vec![certificates.client("alice")]);
    let mut broken = certificates.gateway(1, 1);
    broken.tls.cert_pem = "x".into();
    stage.supervisor.send(&ToControl::ReloadGateway(Box::new(broken))).unwrap();
    stage.until("an answer", |seen| seen.reloaded.is_some());
    assert!(matches!(stage.seen.reloaded, Some(Err(Ending::Tls(_)))));
    stage.seen.reloaded = None;
    stage.supervisor.send(&ToControl::ReloadGateway(Box::new(certificates.gateway(1, 1)))).unwrap();
    stage.until("an answer", |seen| seen.reloaded.is_some());
    assert_eq!(stage.seen.reloaded, Some(Ok(())));
    stage.connect(0);
    stage.until("a session", |seen| seen.established.len() == 1);
}

#[test]
fn a_float_is_told_to_the_supervisor() {
    let certificates = Certificates::new();
    let mut stage = Stage::new(certificates.gateway(1, 1), vec![certificates.client("alice")]);
    stage.connect(0);
    stage.until("a session", |seen| seen.established.len() == 1);
    stage.workers[0].send_event(&WorkerEvent::Floated { peer: 0, path: Stage::path(5) }).unwrap();
    stage.until("the move", |seen| seen.moved == [0]);
}

#[test]
fn a_supervisor_that_is_behind_is_not_told_more_than_its_queue_holds() {
    const EVENTS: u32 = 10_000;
    let certificates = Certificates::new();
    let (shared, mut supervisor, mut workers) = link::create::<ToControl, FromControl>(1).unwrap();
    let mut plane = ControlPlane::new(shared.into_control_end());
    supervisor.send(&ToControl::ConfigureGateway(Box::new(certificates.gateway(1, 1)))).unwrap();
    plane.take_commands().unwrap();
    assert_eq!(supervisor.recv().unwrap(), Some(FromControl::Ready));
    let path = Stage::path(0);
    for peer in 0..EVENTS {
        workers[0].send_event(&WorkerEvent::Floated { peer, path }).unwrap();
        plane.take_events(0).unwrap();
    }
    // Nothing was lost by waiting, and the order is kept.
    let mut next = 0;
    while next < EVENTS {
        while let Some(said) = supervisor.recv().unwrap() {
            assert_eq!(said, FromControl::Moved { peer: next, path });
            next += 1;
        }
        plane.end.wait_for_room(Duration::from_millis(1)).unwrap();
        workers[0].flush().unwrap();
        plane.take_events(0).unwrap();
    }
}
