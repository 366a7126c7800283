//! A client and a server on a virtual clock with a seeded network between them. Nothing sleeps.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)] // each test program uses its own part

pub mod crowd;
pub mod pki;

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Mutex;
use std::time::Duration;

use controlplane::{
    Admission, Cipher, Client, ClientCertificate, ClientSetup, Credentials, Digest, Ending, Established, Event,
    InstallKey, Instant, KeyEvent, KeyLimits, KeyName, Login, Now, Output, Path, Random, ReplyLimit, ResumeRecord,
    Secret, Server, ServerSetup, TlsSetup, TlsVersion, Wrap,
};
use rand_chacha::ChaCha20Rng;
use rand_core::{Rng, SeedableRng};

pub use pki::Pki;

/// 2026-11-22, within the validity of the test certificates.
pub const START_UNIX: u64 = 1_795_305_600;

/// A seeded source.
pub struct Seeded(pub ChaCha20Rng);

impl Seeded {
    pub fn new(seed: u64) -> Seeded {
        Seeded(ChaCha20Rng::seed_from_u64(seed))
    }

    /// True with this probability in percent.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.0.next_u32() % 100 < percent
    }

    pub fn below(&mut self, n: u64) -> u64 {
        self.0.next_u64() % n.max(1)
    }
}

impl Random for Seeded {
    fn fill(&mut self, out: &mut [u8]) {
        self.0.fill_bytes(out);
    }
}

/// The same for rustls, which wants a `'static` one.
#[derive(Debug)]
struct TlsRandom(Mutex<ChaCha20Rng>);

impl rustls::crypto::SecureRandom for TlsRandom {
    fn fill(&self, out: &mut [u8]) -> Result<(), rustls::crypto::GetRandomFailed> {
        self.0.lock().unwrap().fill_bytes(out);
        Ok(())
    }
}

pub fn tls_random(seed: u64) -> &'static dyn rustls::crypto::SecureRandom {
    Box::leak(Box::new(TlsRandom(Mutex::new(ChaCha20Rng::seed_from_u64(seed)))))
}

pub const LIMITS: KeyLimits = KeyLimits {
    soft_packet_id: 0xFF00_0000,
    hard_packet_id: u32::MAX,
    soft_bytes: u64::MAX,
    soft_packets: u64::MAX,
    soft_aead: u64::MAX,
    hard_aead: u64::MAX,
    hard_failures: u64::MAX,
};

pub fn static_key() -> Secret {
    Secret((0..=255).collect())
}

pub fn tls_setup(pki: &Pki, identity: &pki::Identity) -> TlsSetup {
    TlsSetup {
        ca_pem: pki.ca_pem.clone(),
        cert_pem: identity.cert_pem.clone(),
        key_pem: Secret(identity.key_pem.clone().into_bytes()),
        crl_pem: None,
        peer_usage: None,
        verify_name: None,
        fingerprints: Vec::new(),
        version_min: TlsVersion::V1_2,
        version_max: TlsVersion::V1_3,
    }
}

pub fn client_setup(pki: &Pki) -> ClientSetup {
    ClientSetup {
        wrap: Wrap::None,
        tls: TlsSetup { peer_usage: Some(controlplane::PeerUsage::Server), ..tls_setup(pki, &pki.client) },
        data_ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
        fallback_cipher: None,
        options_cipher: String::new(),
        auth: Digest::Sha1,
        tun_mtu: 1500,
        pull: true,
        iv_proto_mask: 0,
        peer_info: Vec::new(),
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3600,
        reneg_sec: 0,
        max_packet_size: 1250,
        limits: LIMITS,
        auth_nocache: false,
    }
}

pub fn server_setup(pki: &Pki) -> ServerSetup {
    ServerSetup {
        wrap: Wrap::None,
        tls: tls_setup(pki, &pki.server),
        data_ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
        fallback_cipher: None,
        auth: Digest::Sha1,
        tun_mtu: 1500,
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3600,
        reneg_sec: 0,
        max_packet_size: 1250,
        limits: LIMITS,
        max_clients: 8,
        client_certificate: ClientCertificate::Require,
        cookie_secret: Secret(vec![0x5C; 32]),
        replies: ReplyLimit::default(),
        workers: 1,
        first_generation: 1,
    }
}

/// What a supervisor does about logins.
pub struct Gate {
    /// Judge at once. Off: see [`Pair::logins`].
    pub open: bool,
    /// Accepted logins; `None` accepts every client with a good certificate.
    pub users: Option<Vec<Credentials>>,
    /// What an accepted client is given.
    pub admission: Admission,
}

impl Gate {
    pub fn new() -> Gate {
        let push = vec!["route-gateway 10.8.0.1".into(), "ifconfig 10.8.0.2 255.255.255.0".into()];
        Gate { open: true, users: None, admission: Admission { push, token: None } }
    }

    pub fn accepts(&self, login: &Login) -> bool {
        let same = |user: &Credentials| user.username == login.username && user.password == login.password;
        self.users.as_ref().is_none_or(|users| users.iter().any(same))
    }

    /// Judges a login.
    pub fn judge(&self, server: &mut Server, now: Now, rng: &mut Seeded, login: &Login) {
        let (generation, negotiation) = (login.generation, login.negotiation);
        let known = if self.accepts(login) {
            server.admit(now, rng, generation, negotiation, self.admission.clone())
        } else {
            server.refuse(now, rng, generation, negotiation, "AUTH_FAILED", "wrong user name or password")
        };
        assert!(known, "{login:?}");
    }
}

/// What the network does to datagrams.
#[derive(Clone, Copy)]
pub struct Network {
    pub delay: Duration,
    /// Extra delay by chance up to this: reorders.
    pub jitter: Duration,
    pub loss_percent: u32,
    pub duplicate_percent: u32,
}

impl Network {
    pub const GOOD: Network =
        Network { delay: Duration::from_millis(10), jitter: Duration::ZERO, loss_percent: 0, duplicate_percent: 0 };
    pub const BAD: Network = Network {
        delay: Duration::from_millis(20),
        jitter: Duration::from_millis(120),
        loss_percent: 20,
        duplicate_percent: 10,
    };
    pub const DEAD: Network = Network { loss_percent: 100, ..Network::GOOD };
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

pub struct Pair {
    pub client: Client,
    pub server: Server,
    pub now: Now,
    pub rng: Seeded,
    pub network: Network,
    /// Confirm keys at once, as a worker does. Off: see `confirm`.
    pub confirm_keys: bool,
    pub gate: Gate,
    pub client_events: Vec<Event>,
    pub server_events: Vec<Event>,
    /// Every datagram that was sent, with its time.
    pub sent: Vec<(Side, Instant, Vec<u8>)>,
    in_flight: BTreeMap<(u64, u64), (Side, Vec<u8>)>,
    sequence: u64,
    last_outputs: Vec<String>,
}

pub fn client_path() -> Path {
    path(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 1194))
}

pub fn server_path() -> Path {
    path(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7)), 40_000))
}

fn path(remote: SocketAddr) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote, stream: None }
}

impl Pair {
    pub fn new(client: ClientSetup, server: ServerSetup, seed: u64) -> Pair {
        let now = Now { at: Instant(1_000_000_000_000), unix: START_UNIX };
        let mut rng = Seeded::new(seed);
        let server = Server::new(server, now, &mut rng, Some(tls_random(seed ^ 1))).unwrap();
        let client = Client::with_tls_random(client, now, Some(tls_random(seed ^ 2))).unwrap();
        Pair {
            client,
            server,
            now,
            rng,
            network: Network::GOOD,
            confirm_keys: true,
            gate: Gate::new(),
            client_events: Vec::new(),
            server_events: Vec::new(),
            sent: Vec::new(),
            in_flight: BTreeMap::new(),
            sequence: 0,
            last_outputs: Vec::new(),
        }
    }

    pub fn connect(&mut self, credentials: Option<Credentials>) {
        self.client.connect(self.now, &mut self.rng, 1, client_path(), credentials);
        self.drain();
    }

    /// Connects and waits until both ends carry data.
    pub fn establish(&mut self) -> Established {
        self.connect(None);
        assert!(
            self.run_until(60, |p| p.established().is_some() && p.server_established().is_some()),
            "{}",
            self.story()
        );
        self.established().unwrap()
    }

    /// Runs until the condition holds: false when it did not within so many virtual seconds.
    pub fn run_until(&mut self, seconds: u64, mut done: impl FnMut(&Pair) -> bool) -> bool {
        let end = self.now.at + Duration::from_secs(seconds);
        self.drain();
        for _ in 0..100_000 {
            if done(self) {
                return true;
            }
            if !self.step(end) {
                return done(self);
            }
        }
        panic!("the pair does not come to rest: {}", self.story());
    }

    /// Lets time pass.
    pub fn run_for(&mut self, seconds: u64) {
        self.run_until(seconds, |_| false);
    }

    /// The next thing in time; false when there is none before `end` (the clock then stands at `end`).
    fn step(&mut self, end: Instant) -> bool {
        let arrival = self.in_flight.keys().next().map(|(at, _)| Instant(*at));
        let client = wake(self.client.poll_output());
        let server = wake(self.server.poll_output());
        let next = [arrival, client, server].into_iter().flatten().min().unwrap_or(Instant::FAR_FUTURE);
        if next > end {
            self.set_time(end);
            return false;
        }
        self.set_time(next.max(self.now.at));
        if arrival.is_some_and(|at| at <= self.now.at) {
            if let Some((_, (to, bytes))) = self.in_flight.pop_first() {
                self.deliver(to, &bytes);
            }
        } else {
            self.client.handle_timeout(self.now, &mut self.rng);
            self.server.handle_timeout(self.now, &mut self.rng);
        }
        self.drain();
        true
    }

    fn set_time(&mut self, at: Instant) {
        let base = Instant(1_000_000_000_000);
        self.now = Now { at, unix: START_UNIX + at.since(base).as_secs() };
    }

    pub fn deliver(&mut self, to: Side, bytes: &[u8]) {
        match to {
            Side::Client => self.client.handle_datagram(self.now, &mut self.rng, &client_path(), bytes),
            Side::Server => self.server.handle_datagram(self.now, &mut self.rng, &server_path(), bytes),
        }
    }

    pub fn drain(&mut self) {
        loop {
            let mut quiet = true;
            while let Some(output) = some(self.client.poll_output()) {
                quiet = false;
                self.on_output(Side::Client, output);
            }
            while let Some(output) = some(self.server.poll_output()) {
                quiet = false;
                self.on_output(Side::Server, output);
            }
            if quiet {
                return;
            }
        }
    }

    fn on_output(&mut self, side: Side, output: Output) {
        self.last_outputs.push(format!("{:?} {side:?} {}", self.now.at, short(&output)));
        match output {
            Output::Transmit { bytes, .. } => self.send(side, bytes),
            Output::Event(event) => {
                if let (Event::InstallKey(key), true) = (&event, self.confirm_keys) {
                    self.confirm(side, key.name);
                }
                if let (Event::Login(login), true) = (&event, self.gate.open) {
                    self.gate.judge(&mut self.server, self.now, &mut self.rng, login);
                }
                match side {
                    Side::Client => self.client_events.push(event),
                    Side::Server => self.server_events.push(event),
                }
            }
            Output::Idle { .. } => {}
        }
    }

    pub fn confirm(&mut self, side: Side, name: KeyName) {
        self.key_event(side, KeyEvent::KeyInstalled(name));
    }

    pub fn key_event(&mut self, side: Side, event: KeyEvent) {
        match side {
            Side::Client => self.client.handle_key_event(self.now, &mut self.rng, event),
            Side::Server => self.server.handle_key_event(self.now, &mut self.rng, event),
        }
    }

    fn send(&mut self, from: Side, bytes: Vec<u8>) {
        assert!(bytes.len() <= 1250 - 48, "{} bytes do not fit into max-packet-size", bytes.len());
        self.sent.push((from, self.now.at, bytes.clone()));
        let to = if from == Side::Client { Side::Server } else { Side::Client };
        let copies = if self.rng.percent(self.network.duplicate_percent) { 2 } else { 1 };
        for _ in 0..copies {
            if self.rng.percent(self.network.loss_percent) {
                continue;
            }
            let jitter = self.rng.below(self.network.jitter.as_nanos() as u64 + 1);
            let at = self.now.at + self.network.delay + Duration::from_nanos(jitter);
            self.sequence += 1;
            self.in_flight.insert((at.0, self.sequence), (to, bytes.clone()));
        }
    }

    pub fn drop_in_flight(&mut self) {
        self.in_flight.clear();
    }

    pub fn established(&self) -> Option<Established> {
        self.client_events.iter().find_map(|e| match e {
            Event::Established(e) => Some((**e).clone()),
            _ => None,
        })
    }

    pub fn server_established(&self) -> Option<Established> {
        self.server_events.iter().rev().find_map(|e| match e {
            Event::Established(e) => Some((**e).clone()),
            _ => None,
        })
    }

    pub fn ended(&self, side: Side) -> Option<Ending> {
        self.events(side).iter().find_map(|e| match e {
            Event::Ended { ending, .. } => Some(ending.clone()),
            _ => None,
        })
    }

    pub fn events(&self, side: Side) -> &[Event] {
        match side {
            Side::Client => &self.client_events,
            Side::Server => &self.server_events,
        }
    }

    pub fn keys(&self, side: Side) -> Vec<InstallKey> {
        let keys = self.events(side).iter().filter_map(|e| match e {
            Event::InstallKey(key) => Some(key.clone()),
            _ => None,
        });
        keys.collect()
    }

    pub fn renegotiated(&self, side: Side) -> Vec<KeyName> {
        let names = self.events(side).iter().filter_map(|e| match e {
            Event::Renegotiated { name } => Some(*name),
            _ => None,
        });
        names.collect()
    }

    pub fn logins(&self) -> Vec<Login> {
        let logins = self.server_events.iter().filter_map(|e| match e {
            Event::Login(login) => Some((**login).clone()),
            _ => None,
        });
        logins.collect()
    }

    pub fn last_record(&self) -> Option<ResumeRecord> {
        self.last_record_of(Side::Client)
    }

    pub fn last_record_of(&self, side: Side) -> Option<ResumeRecord> {
        self.events(side).iter().rev().find_map(|e| match e {
            Event::Record(r) => Some((**r).clone()),
            _ => None,
        })
    }

    /// Both ends have the same keys, each the other way round, for every negotiation that completed.
    pub fn assert_keys_agree(&self) {
        let (client, server) = (self.keys(Side::Client), self.keys(Side::Server));
        assert!(!client.is_empty());
        for key in &client {
            let other = server.iter().rev().find(|k| k.name.negotiation == key.name.negotiation).unwrap();
            assert_eq!(key.seal, other.open);
            assert_eq!(key.open, other.seal);
            assert_eq!((key.cipher, key.name.key_id), (other.cipher, other.name.key_id));
            assert_eq!(key.wire_peer_id, other.wire_peer_id);
        }
    }

    /// The last outputs, for a failing test.
    pub fn story(&self) -> String {
        let from = self.last_outputs.len().saturating_sub(80);
        self.last_outputs[from..].join("\n")
    }
}

fn some(output: Output) -> Option<Output> {
    if matches!(output, Output::Idle { .. }) { None } else { Some(output) }
}

fn wake(output: Output) -> Option<Instant> {
    match output {
        Output::Idle { wake } => wake.map(|(at, _)| at),
        other => panic!("not drained: {other:?}"),
    }
}

fn short(output: &Output) -> String {
    match output {
        Output::Transmit { bytes, .. } => {
            format!("sends opcode {} key {} of {} bytes", bytes[0] >> 3, bytes[0] & 7, bytes.len())
        }
        other => format!("{other:?}").chars().take(160).collect(),
    }
}
