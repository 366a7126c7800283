//! A client, and across from it a real server, with everything in between in the input's hands: datagrams delivered,
//! lost, repeated, damaged, invented; key events, timeouts, reconnections, resumptions in any order. After every input
//! each end is drained; what comes out of one is bounded in number and in length, and nothing comes of a generation
//! that has ended.
//!
//! TLS draws its own random numbers from the system, so that an input may take another way inside of TLS.

use std::collections::VecDeque;
use std::net::SocketAddr;

use controlplane::ids::{KeyId, Role, SessionId};
use controlplane::packet::opcode::Opcode;
use controlplane::wrap::{StaticKey, WrapConfig, Wrapper};
use controlplane::{
    Admission, Cipher, Client, ClientCertificate, ClientSetup, Credentials, Digest, Event, InstallKey, Instant,
    KeyEvent, KeyLimits, KeyName, KeyRefusal, Login, Now, Output, Path, PeerUsage, Random, ReplyLimit, ResumeRecord,
    Secret, Server, ServerSetup, TlsSetup, TlsVersion, UsageReason, Wrap,
};

use crate::input::Input;

/// More operations than this tell nothing new.
const MAX_STEPS: usize = 64;
/// No single input makes an end say more than this.
const MAX_OUTPUTS: usize = 64;
/// 2027-01-15, within the validity of the certificates.
pub(crate) const START_UNIX: u64 = 1_800_000_000;
/// `max-packet-size`, in bytes.
pub(crate) const MAX_PACKET: u16 = 1_250;
const STATIC_KEY: [u8; 256] = [0x5A; 256];

/// A certificate authority, a server and a client that exist for this target only.
const CA: &str = include_str!("pki/ca.pem");
const SERVER: (&str, &str) = (include_str!("pki/server.pem"), include_str!("pki/server.key.pem"));
const CLIENT: (&str, &str) = (include_str!("pki/client.pem"), include_str!("pki/client.key.pem"));

/// Runs one input: a byte of settings, then operations.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else {
        return;
    };
    let mut world = World::new(settings);
    for _ in 0..MAX_STEPS {
        if world.step(&mut input).is_none() {
            return;
        }
    }
}

/// Not random at all: the same input takes the same way, outside of TLS.
pub(crate) struct Counter(pub(crate) u64);

impl Random for Counter {
    fn fill(&mut self, out: &mut [u8]) {
        for chunk in out.chunks_mut(8) {
            self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
            let mixed = (self.0 ^ self.0 >> 31).wrapping_mul(0xBF58_476D_1CE4_E5B9);
            chunk.copy_from_slice(&mixed.to_le_bytes()[..chunk.len()]);
        }
    }
}

pub(crate) fn path(port: u16) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)), stream: None }
}

fn tls((cert, key): (&str, &str), peer_usage: PeerUsage) -> TlsSetup {
    TlsSetup {
        ca_pem: CA.into(),
        cert_pem: cert.into(),
        key_pem: Secret(key.as_bytes().to_vec()),
        crl_pem: None,
        peer_usage: Some(peer_usage),
        verify_name: None,
        fingerprints: Vec::new(),
        version_min: TlsVersion::V1_2,
        version_max: TlsVersion::V1_3,
    }
}

fn limits() -> KeyLimits {
    KeyLimits {
        soft_packet_id: 0xFF00_0000,
        hard_packet_id: u32::MAX,
        soft_bytes: u64::MAX,
        soft_packets: u64::MAX,
        soft_aead: u64::MAX,
        hard_aead: (1 << 36) - 1,
        hard_failures: 1 << 36,
    }
}

pub(crate) fn wrap(settings: u8, role: Role) -> (Wrap, WrapConfig) {
    let (key, secret) = (StaticKey::from_bytes(&STATIC_KEY), || Secret(STATIC_KEY.to_vec()));
    let (digest, direction) = (Digest::Sha1, Some(u8::from(role == Role::Client)));
    match settings & 3 {
        0 | 1 => (Wrap::None, WrapConfig::None),
        2 => (Wrap::TlsAuth { key: secret(), direction, digest }, WrapConfig::TlsAuth { key, direction, digest }),
        _ => (Wrap::TlsCrypt { key: secret() }, WrapConfig::TlsCrypt { key, role }),
    }
}

fn ciphers() -> Vec<Cipher> {
    vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305]
}

pub(crate) fn client_setup(settings: u8) -> ClientSetup {
    ClientSetup {
        wrap: wrap(settings, Role::Client).0,
        tls: tls(CLIENT, PeerUsage::Server),
        data_ciphers: ciphers(),
        fallback_cipher: (settings & 4 != 0).then_some(Cipher::Aes256Gcm),
        options_cipher: String::new(),
        auth: Digest::Sha1,
        tun_mtu: 1_500,
        pull: settings & 8 == 0,
        iv_proto_mask: if settings & 16 == 0 { 0 } else { u32::MAX },
        peer_info: vec![("UV_ID".into(), "x".into())],
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3_600,
        reneg_sec: if settings & 32 == 0 { 0 } else { 100 },
        max_packet_size: MAX_PACKET,
        limits: limits(),
        auth_nocache: settings & 64 != 0,
    }
}

pub(crate) fn server_setup(settings: u8) -> ServerSetup {
    ServerSetup {
        wrap: wrap(settings, Role::Server).0,
        tls: tls(SERVER, PeerUsage::Client),
        data_ciphers: ciphers(),
        fallback_cipher: None,
        auth: Digest::Sha1,
        tun_mtu: 1_500,
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3_600,
        reneg_sec: 0,
        max_packet_size: MAX_PACKET,
        limits: limits(),
        max_clients: 4,
        client_certificate: ClientCertificate::Require,
        cookie_secret: Secret(vec![7; 32]),
        replies: ReplyLimit { count: u32::MAX, seconds: 1 },
        workers: 1,
        first_generation: 1,
    }
}

pub(crate) fn credentials(password: &str) -> Credentials {
    Credentials { username: "user".into(), password: Secret(password.as_bytes().to_vec()) }
}

#[derive(Clone, Copy, PartialEq)]
enum End {
    Client,
    Server,
}

/// Both ends and what is on its way between them.
struct World {
    client: Client,
    server: Server,
    now: Now,
    rng: Counter,
    /// Seals what the input invents, so that it gets past the protection.
    forger: Wrapper,
    server_sid: SessionId,
    to_client: VecDeque<Vec<u8>>,
    to_server: VecDeque<Vec<u8>>,
    /// Keys that wait for a worker's word.
    keys: VecDeque<(End, KeyName)>,
    last_name: KeyName,
    record: Option<ResumeRecord>,
    generation: u32,
    /// The last session has ended: nothing more may come of it.
    ended: bool,
    /// The server wants the right password.
    choosy: bool,
}

impl World {
    fn new(settings: u8) -> World {
        let now = Now { at: Instant(1_000_000_000), unix: START_UNIX };
        let mut rng = Counter(u64::from(settings));
        let client = Client::new(client_setup(settings), now).unwrap_or_else(|ending| panic!("{ending:?}"));
        let server =
            Server::new(server_setup(settings), now, &mut rng, None).unwrap_or_else(|ending| panic!("{ending:?}"));
        // Its replay ids are ahead of the server's.
        let forger = Wrapper::resume(wrap(settings, Role::Server).1, 1 << 16, START_UNIX as u32, None);
        let mut world = World {
            client,
            server,
            now,
            rng,
            forger: forger.unwrap_or_else(|error| panic!("{error}")),
            server_sid: SessionId::new_random(&mut Counter(1)),
            to_client: VecDeque::new(),
            to_server: VecDeque::new(),
            keys: VecDeque::new(),
            last_name: KeyName { peer: 0, generation: 1, negotiation: 0, key_id: 0 },
            record: None,
            generation: 0,
            ended: false,
            choosy: settings & 128 != 0,
        };
        world.connect("right");
        world
    }

    /// One operation; `None` at the end of the input.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 16 {
            0..=2 => self.exchange(input.byte()? % 32),
            3 => self.damage(End::Client, input)?,
            4 => self.damage(End::Server, input)?,
            5 => drop(self.to_client.pop_front()),
            6 => drop(self.to_server.pop_front()),
            7 => self.repeat(),
            8 => self.deliver(End::Client, input.some()?),
            9 => self.deliver(End::Server, input.some()?),
            10 => self.forge(input)?,
            11 => self.pass_time(input.number()?),
            12 => self.key_event(input)?,
            13 => self.connect(if input.byte()? & 1 == 0 { "right" } else { "wrong" }),
            14 => self.resume(input)?,
            _ => self.command(input)?,
        }
        Some(())
    }

    /// An honest network and honest workers, for so many datagrams each way.
    fn exchange(&mut self, count: u8) {
        for _ in 0..count {
            if let Some(bytes) = self.to_server.pop_front() {
                self.deliver(End::Server, &bytes);
            }
            if let Some(bytes) = self.to_client.pop_front() {
                self.deliver(End::Client, &bytes);
            }
            while let Some((end, name)) = self.keys.pop_front() {
                self.tell(end, KeyEvent::KeyInstalled(name));
                self.tell(end, KeyEvent::KeySending(name));
            }
        }
    }

    fn deliver(&mut self, end: End, bytes: &[u8]) {
        match end {
            End::Client => self.client.handle_datagram(self.now, &mut self.rng, &path(1194), bytes),
            End::Server => self.server.handle_datagram(self.now, &mut self.rng, &path(40_000), bytes),
        }
        self.drain();
    }

    fn damage(&mut self, end: End, input: &mut Input<'_>) -> Option<()> {
        let (at, flip) = (usize::from(input.number()?), input.byte()?);
        let queue = if end == End::Client { &mut self.to_client } else { &mut self.to_server };
        if let Some(mut bytes) = queue.pop_front() {
            let at = at % bytes.len();
            if flip == 0 {
                bytes.truncate(at);
            } else {
                bytes[at] ^= flip;
            }
            self.deliver(end, &bytes);
        }
        Some(())
    }

    fn repeat(&mut self) {
        for queue in [&mut self.to_client, &mut self.to_server] {
            if let Some(first) = queue.front().cloned() {
                queue.push_back(first);
            }
        }
    }

    /// A datagram that looks like the server's: opcode, key-id and body are the input's.
    fn forge(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (opcode, key_id) = Opcode::parse_first(input.byte()?).unwrap_or((Opcode::ControlV1, KeyId::FIRST));
        let body = input.some()?;
        let bytes = self.forger.seal_body(self.now.unix, opcode, key_id, self.server_sid, body);
        self.deliver(End::Client, &bytes);
        Some(())
    }

    /// In tenths of a second.
    fn pass_time(&mut self, tenths: u16) {
        let at = self.now.at.0.saturating_add(u64::from(tenths) * 100_000_000);
        self.now = Now { at: Instant(at), unix: START_UNIX + at / 1_000_000_000 };
        self.client.handle_timeout(self.now, &mut self.rng);
        self.server.handle_timeout(self.now, &mut self.rng);
        self.drain();
    }

    /// A worker's word, of a key that is waiting, of the last one, or of one that never was.
    fn key_event(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [kind, which] = input.take()?;
        let name = match which & 3 {
            0 => self.keys.pop_front().map_or(self.last_name, |(_, name)| name),
            1 => self.last_name,
            2 => KeyName { negotiation: self.last_name.negotiation.wrapping_add(1), ..self.last_name },
            _ => KeyName { peer: 0, generation: self.generation, negotiation: u32::from(which), key_id: which % 8 },
        };
        let refusals = [KeyRefusal::UnknownPeer, KeyRefusal::NotNewer, KeyRefusal::BadKey];
        let reasons = [UsageReason::PacketId, UsageReason::Bytes, UsageReason::Packets, UsageReason::AeadLimit];
        let event = match kind & 3 {
            0 => KeyEvent::KeyInstalled(name),
            1 => KeyEvent::KeyRefused(name, refusals[usize::from(kind >> 2) % refusals.len()]),
            2 => KeyEvent::KeySending(name),
            _ => KeyEvent::KeyUsage(name, reasons[usize::from(kind >> 2) % reasons.len()]),
        };
        self.tell(if which & 4 == 0 { End::Client } else { End::Server }, event);
        Some(())
    }

    fn tell(&mut self, end: End, event: KeyEvent) {
        match end {
            End::Client => self.client.handle_key_event(self.now, &mut self.rng, event),
            End::Server => self.server.handle_key_event(self.now, &mut self.rng, event),
        }
        self.drain();
    }

    fn connect(&mut self, password: &str) {
        self.begin();
        let credentials = Some(credentials(password));
        self.client.connect(self.now, &mut self.rng, self.generation, path(1194), credentials);
        self.drain();
    }

    /// With the last record, as it was or with other numbers.
    fn resume(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [how, number] = input.take()?;
        let Some(mut record) = self.record.clone() else {
            return Some(());
        };
        self.begin();
        record.generation = self.generation;
        match how & 7 {
            0 => record.resumable = !record.resumable,
            1 => record.next_key_id = number,
            2 => record.next_negotiation = u32::MAX - u32::from(number),
            3 => record.wrap_send_next = u32::from(number),
            4 => record.remote_sid = [number; 8],
            5 => record.local_sid = [number; 8],
            _ => {}
        }
        // The server takes no other user name than the first one.
        let credentials = Some(credentials("right"));
        self.client.resume(self.now, &mut self.rng, record, path(1194), credentials);
        self.drain();
        Some(())
    }

    fn begin(&mut self) {
        self.generation += 1;
        self.ended = false;
    }

    fn command(&mut self, input: &mut Input<'_>) -> Option<()> {
        let [what, which] = input.take()?;
        let generation = self.generation.saturating_sub(u32::from(which & 1));
        match what % 6 {
            0 => self.client.renegotiate(self.now, &mut self.rng, generation),
            1 => self.server.renegotiate(self.now, &mut self.rng, u32::from(which)),
            2 => self.client.rebind(self.now, generation, path(1195)),
            3 => self.server.dismiss(self.now, &mut self.rng, u32::from(which), "RESTART,[N]later"),
            // Each of the others is the last word of its session.
            4 if !self.ended => self.client.disconnect(self.now, self.generation),
            _ => self.client.forget(generation),
        }
        self.drain();
        Some(())
    }

    fn drain(&mut self) {
        let mut outputs = 0;
        loop {
            match self.client.poll_output() {
                Output::Transmit { bytes, .. } => self.sent(End::Client, bytes),
                Output::Event(event) => self.client_event(event),
                Output::Idle { .. } => break,
            }
            outputs += 1;
        }
        loop {
            match self.server.poll_output() {
                Output::Transmit { bytes, .. } => self.sent(End::Server, bytes),
                Output::Event(Event::InstallKey(key)) => self.install(End::Server, &key),
                Output::Event(Event::Login(login)) => self.judge(&login),
                Output::Event(_) => {}
                Output::Idle { .. } => break,
            }
            outputs += 1;
        }
        assert!(outputs <= MAX_OUTPUTS, "{outputs} outputs after one input");
        assert!(self.server.sessions() <= 4);
    }

    fn judge(&mut self, login: &Login) {
        let (generation, negotiation) = (login.generation, login.negotiation);
        if self.choosy && login.password != credentials("right").password {
            self.server.refuse(self.now, &mut self.rng, generation, negotiation, "AUTH_FAILED", "wrong password");
            return;
        }
        let push = vec!["ifconfig 10.8.0.2 255.255.255.0".into()];
        let admission = Admission { push, token: Some(Secret(b"abc".to_vec())) };
        self.server.admit(self.now, &mut self.rng, generation, negotiation, admission);
    }

    fn sent(&mut self, from: End, bytes: Vec<u8>) {
        assert!(bytes.len() <= usize::from(MAX_PACKET), "{} bytes", bytes.len());
        let queue = match from {
            End::Client => &mut self.to_server,
            End::Server => {
                let sid = bytes.get(1..9).and_then(|sid| sid.try_into().ok()).and_then(SessionId::from_bytes);
                self.server_sid = sid.unwrap_or(self.server_sid);
                &mut self.to_client
            }
        };
        queue.push_back(bytes);
        // A network that keeps no more than this.
        queue.truncate(256);
    }

    fn install(&mut self, end: End, key: &InstallKey) {
        assert_eq!((key.seal.key.0.len(), key.seal.implicit_iv.0.len()), (key.cipher.key_len(), 8));
        assert_eq!((key.open.key.0.len(), key.open.implicit_iv.0.len()), (key.cipher.key_len(), 8));
        assert!(key.name.key_id < 8);
        if end == End::Client {
            assert!(key.name > self.last_name || key.name.negotiation == 0, "{:?} twice", key.name);
            self.last_name = key.name;
        }
        self.keys.push_back((end, key.name));
    }

    fn client_event(&mut self, event: Event) {
        match event {
            Event::InstallKey(key) => {
                assert!(!self.ended, "a key for a session that has ended");
                self.install(End::Client, &key);
            }
            Event::Established(established) => assert_eq!(established.generation, self.generation),
            Event::Record(record) => {
                assert_eq!(record.generation, self.generation);
                self.record = Some(*record);
            }
            Event::Ended { generation, .. } => {
                assert_eq!(generation, self.generation);
                assert!(!self.ended, "a session ends once");
                self.ended = true;
            }
            Event::Info { text, .. } => assert!(!text.contains(char::is_control), "{text:?}"),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seeds' honest exchange, which must get as far as it looks, or the target tells nothing.
    const HANDSHAKE: [u8; 12] = [0, 31, 11, 15, 0, 0, 31, 11, 15, 0, 0, 31];

    fn after(settings: u8, steps: &[u8]) -> World {
        let mut world = World::new(settings);
        let mut input = Input(steps);
        while world.step(&mut input).is_some() {}
        world
    }

    #[test]
    fn an_honest_exchange_establishes_a_session_under_every_protection() {
        for settings in [0, 2, 3, 0x80, 0x20] {
            let world = after(settings, &HANDSHAKE);
            assert!(world.record.is_some_and(|record| record.resumable), "settings {settings:#x}");
            assert!(!world.ended);
        }
    }

    #[test]
    fn a_wrong_password_is_refused_and_a_renegotiation_and_a_resumption_give_new_keys() {
        assert!(after(0x80, &[&[13, 1][..], &HANDSHAKE].concat()).ended);
        let renegotiated = after(0, &[&HANDSHAKE[..], &[15, 0, 0, 0, 31, 0, 31]].concat());
        assert_eq!((renegotiated.last_name.generation, renegotiated.last_name.negotiation), (1, 1));
        let resumed = after(3, &[&HANDSHAKE[..], &[14, 7, 0, 0, 31, 0, 31]].concat());
        assert_eq!((resumed.last_name.generation, resumed.ended), (2, false));
    }

    #[test]
    fn what_is_forged_gets_past_the_protection() {
        for settings in [0, 2, 3] {
            let mut world = after(settings, &[0, 1]);
            world.client.take_dropped();
            let body = [4, 0x20, 5, 0, 0, 0, 0, 9];
            world.forge(&mut Input(&body[1..]));
            let dropped = world.client.take_dropped();
            assert!(
                dropped.iter().all(|(reason, _)| !reason.contains("tag") && !reason.contains("replay")),
                "{dropped:?}"
            );
        }
    }
}
