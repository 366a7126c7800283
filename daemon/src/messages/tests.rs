//! Every message survives its encoding, bytes that are no message are refused, secrets print nothing, and the two
//! translations keep every field. All values differ from each other, so that an exchanged field shows.

use std::fmt::Debug;

use controlplane::{Advance, Cipher, Digest, Established, PeerUsage, Pushed, Secret, State, TlsSetup, TlsVersion};
use controlplane::{ClientCertificate, ClientCertificateInfo, Login, LoginLock, ReplyLimit, VerifyName, Wrap};
use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::*;

/// What every secret here is made of: letters that stand nowhere else.
const HIDDEN: &[u8] = b"zqxj";

fn secret(len: usize) -> Secret {
    Secret(HIDDEN.iter().copied().cycle().take(len).collect())
}

fn path() -> link::Path {
    link::Path {
        worker: 1,
        local: Some("2001:db8::2".parse().unwrap()),
        ifindex: 3,
        remote: "192.0.2.4:1194".parse().unwrap(),
        stream: Some(5),
    }
}

fn name() -> controlplane::KeyName {
    controlplane::KeyName { peer: 2, generation: 3, negotiation: 400, key_id: 5 }
}

fn link_name() -> link::KeyName {
    link::KeyName { peer: 2, generation: 3, negotiation: 400, key_id: 5 }
}

fn limits_in() -> controlplane::KeyLimits {
    controlplane::KeyLimits {
        soft_packet_id: 0xFF00_0000,
        hard_packet_id: u32::MAX,
        soft_bytes: 13,
        soft_packets: 14,
        soft_aead: 15,
        hard_aead: (1 << 36) - 1,
        hard_failures: 1 << 36,
    }
}

fn key(cipher: Cipher) -> controlplane::InstallKey {
    let direction = |key: u8, iv: u8| controlplane::DirectionKey {
        key: Secret([HIDDEN, &[key; 28]].concat()),
        implicit_iv: Secret([HIDDEN, &[iv; 4]].concat()),
    };
    controlplane::InstallKey {
        name: name(),
        cipher,
        seal: direction(1, 2),
        open: direction(3, 4),
        wire_peer_id: Some(0xFF_FFFE),
        send_from_ns: u64::MAX,
        retire_previous_ns: 6,
        limits: limits_in(),
    }
}

fn tls() -> TlsSetup {
    TlsSetup {
        ca_pem: "ca".into(),
        cert_pem: "cert".into(),
        key_pem: secret(1_704),
        crl_pem: Some("crl".into()),
        peer_usage: Some(PeerUsage::Server),
        verify_name: Some(VerifyName::Subject("C=DE, CN=server".into())),
        fingerprints: vec![[1; 32], [2; 32]],
        version_min: TlsVersion::V1_2,
        version_max: TlsVersion::V1_3,
    }
}

fn setup(wrap: Wrap) -> ClientSetup {
    ClientSetup {
        wrap,
        tls: tls(),
        data_ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305, Cipher::Aes192Gcm],
        fallback_cipher: Some(Cipher::Aes256Gcm),
        options_cipher: "AES-256-CBC".into(),
        auth: Digest::Sha1,
        tun_mtu: 1_500,
        pull: true,
        iv_proto_mask: 0b1000,
        peer_info: vec![("UV_ID".into(), "x".into())],
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3_600,
        reneg_sec: 0,
        max_packet_size: 1_250,
        limits: limits_in(),
        auth_nocache: true,
    }
}

fn record() -> ResumeRecord {
    ResumeRecord {
        generation: 4,
        peer: 5,
        resumable: true,
        local_sid: [1; 8],
        remote_sid: [2; 8],
        next_negotiation: 6,
        next_key_id: 7,
        cipher: Cipher::Aes256Gcm,
        use_exporter: true,
        cc_exit: false,
        wire_peer_id: Some(0),
        auth_token: Some(secret(40)),
        auth_token_user: Some("dXNlcg==".into()),
        wrap_send_next: 8,
        wrap_send_time: 1_700_000_000,
        wrap_recv: Some((9, 1_700_000_001)),
        login: Some(LoginLock {
            username: "user".into(),
            common_name: Some("client".into()),
            certificate: Some([3; 32]),
        }),
    }
}

fn server_setup() -> ServerSetup {
    let client = setup(Wrap::None);
    ServerSetup {
        wrap: Wrap::TlsCrypt { key: secret(256) },
        tls: client.tls,
        client_certificate: ClientCertificate::Optional,
        data_ciphers: vec![Cipher::Aes256Gcm],
        fallback_cipher: None,
        auth: Digest::Sha1,
        tun_mtu: 1_500,
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3_600,
        reneg_sec: 3_600,
        max_packet_size: 1_250,
        limits: client.limits,
        max_clients: 1_024,
        cookie_secret: secret(32),
        replies: ReplyLimit::default(),
        workers: 2,
        first_generation: 9,
    }
}

fn to_control() -> Vec<ToControl> {
    let credentials = || Some(Credentials { username: "user".into(), password: secret(12) });
    let tls_auth = Wrap::TlsAuth { key: secret(256), direction: Some(1), digest: Digest::Sha512 };
    let mut all = vec![
        ToControl::Connect { generation: 1, path: path(), credentials: credentials() },
        ToControl::Connect { generation: 1, path: path(), credentials: None },
        ToControl::Resume { record: Box::new(record()), path: path(), credentials: credentials() },
        ToControl::Rebind { generation: 2, path: path() },
        ToControl::Disconnect { generation: 3 },
        ToControl::Forget { generation: 4 },
        ToControl::Renegotiate { generation: u32::MAX },
        ToControl::ConfigureGateway(Box::new(server_setup())),
        ToControl::ReloadGateway(Box::new(server_setup())),
        ToControl::Admit {
            generation: 1,
            negotiation: 2,
            admission: Box::new(Admission { push: vec!["topology subnet".into()], token: Some(secret(91)) }),
        },
        ToControl::Refuse { generation: 1, negotiation: 0, text: "AUTH_FAILED".into(), reason: "no".into() },
        ToControl::Dismiss { generation: 1, text: "RESTART".into() },
        ToControl::Close { generation: 1 },
        ToControl::ResumeClient { record: Box::new(record()), path: path() },
        ToControl::Heartbeat,
        ToControl::Defer { generation: 1, negotiation: 2, seconds: 3, info: Some("OPEN_URL:x".into()) },
    ];
    for wrap in [Wrap::None, tls_auth, Wrap::TlsCrypt { key: secret(256) }] {
        all.push(ToControl::ConfigureClient(Box::new(setup(wrap))));
    }
    all
}

fn endings() -> Vec<Ending> {
    vec![
        Ending::AuthFailed { reason: "no".into(), retry_after: Some(5), session_token: true, advance: Advance::Remote },
        Ending::Tls("t".into()),
        Ending::Incompatible("i".into()),
        Ending::Unanswered,
        Ending::HandshakeTimeout { awaiting: "TLS".into() },
        Ending::Restart { message: "m".into(), next_remote: true },
        Ending::Halt("h".into()),
        Ending::PeerExited,
        Ending::Disconnected { exit_sent: true },
        Ending::Replaced,
        Ending::Internal("x".into()),
    ]
}

fn login() -> Login {
    Login {
        generation: 1,
        negotiation: 2,
        peer: 3,
        path: messages_path(),
        username: "user".into(),
        password: secret(12),
        certificate: Some(ClientCertificateInfo { common_name: "client".into(), ..ClientCertificateInfo::default() }),
        peer_info: vec![("IV_VER".into(), "2.6.14".into())],
        cipher: Cipher::Aes256Gcm,
        tls: "TLSv1.3".into(),
        wire_peer_id: Some(3),
    }
}

/// The control plane's words for [`path`].
fn messages_path() -> controlplane::Path {
    super::path_in(&path())
}

/// Events that the supervisor hears.
fn supervisor_events() -> Vec<Event> {
    let established = Established {
        generation: 1,
        pushed: Pushed { options: vec!["route 10.0.0.0 255.0.0.0".into(), "ping 10".into()] },
        cipher: Cipher::Aes128Gcm,
        peer_id: Some(3),
        tls: "TLSv1.3".into(),
        peer_subject: "CN=server".into(),
        cc_exit: true,
    };
    let mut all = vec![
        Event::Established(Box::new(established)),
        Event::Renegotiated { name: name() },
        Event::RenegotiationFailed { generation: 1, why: "w".into() },
        Event::Record(Box::new(record())),
        Event::Info { generation: 1, text: "hello".into() },
        Event::AuthToken { generation: 1, token: secret(64), username: Some("u".into()) },
        Event::Login(Box::new(login())),
    ];
    for state in [State::Wait, State::Auth, State::GetConfig, State::AuthPending] {
        all.push(Event::State { generation: 2, state });
    }
    all.extend(endings().into_iter().map(|ending| Event::Ended { generation: 3, ending }));
    all
}

/// Events that workers hear, and what they hear then.
fn worker_events() -> Vec<(Event, link::WorkerCommand)> {
    use link::WorkerCommand as To;
    vec![
        (Event::SendWith(name()), To::SendWith(link_name())),
        (Event::DropKeys { peer: 1, generation: 2 }, To::DropKeys { peer: 1, generation: 2 }),
        (Event::PeerAlive { peer: 3 }, To::PeerAlive { peer: 3 }),
        (Event::InstallKey(key(Cipher::Aes256Gcm)), To::InstallKey(link_key(link::Cipher::Aes256Gcm))),
        (Event::MoveBack { peer: 6, path: messages_path() }, To::SetPath { peer: 6, path: path() }),
    ]
}

fn from_control() -> Vec<FromControl> {
    let mut all =
        vec![FromControl::Ready, FromControl::Heartbeat, FromControl::Dropped(vec![("replay".into(), u64::MAX)])];
    all.extend(endings().into_iter().map(FromControl::Refused));
    all.extend([FromControl::Reloaded(Ok(())), FromControl::Reloaded(Err(Ending::Tls("t".into())))]);
    all.push(FromControl::Moved { peer: 6, path: path() });
    all.extend(supervisor_events().into_iter().map(FromControl::Event));
    // They never come this way, and yet they must not be misunderstood.
    all.extend(worker_events().into_iter().map(|(event, _)| FromControl::Event(event)));
    all
}

/// The link's words for [`key`].
fn link_key(cipher: link::Cipher) -> link::InstallKey {
    let direction = |key: u8, iv: u8| link::DirectionKey {
        key: link::Secret([HIDDEN, &[key; 28]].concat()),
        implicit_iv: link::Secret([HIDDEN, &[iv; 4]].concat()),
    };
    link::InstallKey {
        name: link_name(),
        cipher,
        seal: direction(1, 2),
        open: direction(3, 4),
        wire_peer_id: Some(0xFF_FFFE),
        send_from_ns: u64::MAX,
        retire_previous_ns: 6,
        limits: link::KeyLimits {
            soft_packet_id: 0xFF00_0000,
            hard_packet_id: u32::MAX,
            soft_bytes: 13,
            soft_packets: 14,
            soft_aead: 15,
            hard_aead: (1 << 36) - 1,
            hard_failures: 1 << 36,
        },
    }
}

/// The number of a message's variant. A new variant does not compile here until it has a number, and then the lists
/// above must have it.
fn to_variant(message: &ToControl) -> usize {
    match message {
        ToControl::ConfigureClient(_) => 0,
        ToControl::Connect { .. } => 1,
        ToControl::Resume { .. } => 2,
        ToControl::Rebind { .. } => 3,
        ToControl::Disconnect { .. } => 4,
        ToControl::Forget { .. } => 5,
        ToControl::Renegotiate { .. } => 6,
        ToControl::ConfigureGateway(_) => 7,
        ToControl::ReloadGateway(_) => 8,
        ToControl::Admit { .. } => 9,
        ToControl::Refuse { .. } => 10,
        ToControl::Dismiss { .. } => 11,
        ToControl::Close { .. } => 12,
        ToControl::ResumeClient { .. } => 13,
        ToControl::Heartbeat => 14,
        ToControl::Defer { .. } => 15,
    }
}

/// As [`to_variant`].
fn from_variant(message: &FromControl) -> usize {
    match message {
        FromControl::Ready => 0,
        FromControl::Refused(_) => 1,
        FromControl::Dropped(_) => 2,
        FromControl::Event(event) => match event {
            Event::State { .. } => 3,
            Event::InstallKey(_) => 4,
            Event::SendWith(_) => 5,
            Event::DropKeys { .. } => 6,
            Event::PeerAlive { .. } => 7,
            Event::Established(_) => 8,
            Event::Renegotiated { .. } => 9,
            Event::RenegotiationFailed { .. } => 10,
            Event::Record(_) => 11,
            Event::Info { .. } => 12,
            Event::AuthToken { .. } => 13,
            Event::Ended { .. } => 14,
            Event::Login(_) => 15,
            Event::MoveBack { .. } => 16,
        },
        FromControl::Reloaded(_) => 17,
        FromControl::Moved { .. } => 18,
        FromControl::Heartbeat => 19,
    }
}

fn every_variant(mut numbers: Vec<usize>, count: usize) {
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers, (0..count).collect::<Vec<_>>());
}

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let bytes = postcard::to_stdvec(message).unwrap();
    let (decoded, rest) = postcard::take_from_bytes::<T>(&bytes).unwrap();
    assert_eq!(&decoded, message);
    assert!(rest.is_empty());
    let cut = &bytes[..bytes.len() - 1];
    assert!(postcard::from_bytes::<T>(cut).is_err(), "cut short: {message:?}");
}

#[test]
fn every_message_survives_its_encoding() {
    every_variant(to_control().iter().map(to_variant).collect(), 16);
    every_variant(from_control().iter().map(from_variant).collect(), 20);
    to_control().iter().for_each(round_trip);
    from_control().iter().for_each(round_trip);
    for name in [VerifyName::Name("n".into()), VerifyName::NamePrefix("p".into())] {
        round_trip(&name);
    }
}

/// The bytes of [`HIDDEN`], read as text or as a list of numbers, in either print of `message`.
fn shows_a_secret(message: &dyn Debug) -> bool {
    let listed = format!("{HIDDEN:?}");
    let print = format!("{message:?}{message:#?}");
    // The pretty print has one number a line.
    let flat: String = print.split_whitespace().collect();
    let numbers: String = listed.trim_matches(['[', ']']).split_whitespace().collect();
    flat.contains(&numbers) || flat.contains("zqxj") || flat.contains("7a71786a")
}

#[test]
fn no_message_prints_a_secret() {
    for message in to_control() {
        assert!(!shows_a_secret(&message), "{message:?}");
    }
    for message in from_control() {
        assert!(!shows_a_secret(&message), "{message:?}");
    }
    for (_, command) in worker_events() {
        assert!(!shows_a_secret(&command), "{command:?}");
    }
    assert!(shows_a_secret(&HIDDEN) && shows_a_secret(&"zqxj"), "the search finds what it looks for");
}

#[test]
fn a_path_keeps_every_field_in_both_directions() {
    let known = controlplane::Path {
        worker: 1,
        local: Some("2001:db8::2".parse().unwrap()),
        ifindex: 3,
        remote: "192.0.2.4:1194".parse().unwrap(),
        stream: Some(5),
    };
    assert_eq!(path_in(&path()), known);
    assert_eq!(path_out(&known), path());
    let bare = link::Path { local: None, stream: None, ..path() };
    assert_eq!((path_in(&bare).local, path_in(&bare).stream), (None, None));
}

#[test]
fn what_a_worker_says_of_a_key_keeps_its_name_and_its_reason() {
    let said = |event| key_event(&event).unwrap();
    assert_eq!(said(link::WorkerEvent::KeyInstalled(link_name())), KeyEvent::KeyInstalled(name()));
    assert_eq!(said(link::WorkerEvent::KeySending(link_name())), KeyEvent::KeySending(name()));
    for (from, to) in [
        (link::KeyRefusal::UnknownPeer, controlplane::KeyRefusal::UnknownPeer),
        (link::KeyRefusal::NotNewer, controlplane::KeyRefusal::NotNewer),
        (link::KeyRefusal::BadKey, controlplane::KeyRefusal::BadKey),
    ] {
        assert_eq!(said(link::WorkerEvent::KeyRefused(link_name(), from)), KeyEvent::KeyRefused(name(), to));
    }
    for (from, to) in [
        (link::UsageReason::PacketId, controlplane::UsageReason::PacketId),
        (link::UsageReason::Bytes, controlplane::UsageReason::Bytes),
        (link::UsageReason::Packets, controlplane::UsageReason::Packets),
        (link::UsageReason::AeadLimit, controlplane::UsageReason::AeadLimit),
    ] {
        assert_eq!(said(link::WorkerEvent::KeyUsage(link_name(), from)), KeyEvent::KeyUsage(name(), to));
    }
    assert_eq!(key_event(&link::WorkerEvent::Floated { peer: 1, path: path() }), None, "no key is concerned");
}

#[test]
fn what_a_worker_has_to_do_keeps_every_field() {
    for (event, command) in worker_events() {
        assert_eq!(worker_command(event), Ok(command));
    }
    for (from, to) in [
        (Cipher::Aes128Gcm, link::Cipher::Aes128Gcm),
        (Cipher::Aes192Gcm, link::Cipher::Aes192Gcm),
        (Cipher::Aes256Gcm, link::Cipher::Aes256Gcm),
        (Cipher::ChaCha20Poly1305, link::Cipher::ChaCha20Poly1305),
    ] {
        let command = link::WorkerCommand::InstallKey(link_key(to));
        assert_eq!(worker_command(Event::InstallKey(key(from))), Ok(command));
    }
    let v1 = controlplane::InstallKey { wire_peer_id: None, ..key(Cipher::Aes256Gcm) };
    let expected = link::InstallKey { wire_peer_id: None, ..link_key(link::Cipher::Aes256Gcm) };
    assert_eq!(worker_command(Event::InstallKey(v1)), Ok(link::WorkerCommand::InstallKey(expected)));
}

#[test]
fn what_concerns_the_supervisor_comes_back_unchanged() {
    for event in supervisor_events() {
        assert_eq!(worker_command(event.clone()), Err(Box::new(event)));
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = postcard::from_bytes::<ToControl>(&bytes);
        let _ = postcard::from_bytes::<FromControl>(&bytes);
    }

    #[test]
    fn one_flipped_bit_makes_no_decoder_panic(which in any::<usize>(), at in any::<usize>(), bit in 0..8u32) {
        let messages = (to_control(), from_control());
        let mut down = postcard::to_stdvec(&messages.0[which % messages.0.len()]).unwrap();
        let mut up = postcard::to_stdvec(&messages.1[which % messages.1.len()]).unwrap();
        for bytes in [&mut down, &mut up] {
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
        }
        let _ = postcard::from_bytes::<ToControl>(&down);
        let _ = postcard::from_bytes::<FromControl>(&up);
    }
}
