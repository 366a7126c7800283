//! The server's bookkeeping, with sessions that strangers open and do not finish.

use std::net::{Ipv4Addr, SocketAddr};

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, PKCS_ED25519};

use super::*;
use crate::crypto::{Digest, SystemRandom};
use crate::ids::{KeyId, MessageId};
use crate::packet::control::{AckList, ControlPacket};
use crate::packet::opcode::Opcode;
use crate::setup::{ClientCertificate, KeyLimits, ReplyLimit, Secret, TlsSetup, TlsVersion, Wrap};
use crate::timers::Instant;
use crate::wrap::{WrapConfig, Wrapper};

fn setup(max_clients: u32) -> ServerSetup {
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let pem = params.self_signed(&key).unwrap().pem();
    let tls = TlsSetup {
        ca_pem: pem.clone(),
        cert_pem: pem,
        key_pem: Secret(key.serialize_pem().into_bytes()),
        crl_pem: None,
        peer_usage: None,
        verify_name: None,
        fingerprints: Vec::new(),
        version_min: TlsVersion::V1_2,
        version_max: TlsVersion::V1_3,
    };
    let limits = KeyLimits {
        soft_packet_id: u32::MAX,
        hard_packet_id: u32::MAX,
        soft_bytes: u64::MAX,
        soft_packets: u64::MAX,
        soft_aead: u64::MAX,
        hard_aead: u64::MAX,
        hard_failures: u64::MAX,
    };
    ServerSetup {
        wrap: Wrap::None,
        tls,
        client_certificate: ClientCertificate::Require,
        data_ciphers: vec![Cipher::Aes256Gcm],
        fallback_cipher: None,
        auth: Digest::Sha1,
        tun_mtu: 1_500,
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3_600,
        reneg_sec: 0,
        max_packet_size: 1_250,
        limits,
        max_clients,
        cookie_secret: Secret(vec![3; 32]),
        replies: ReplyLimit::default(),
        workers: 3,
        first_generation: 5,
    }
}

fn server(max_clients: u32) -> Server {
    Server::new(setup(max_clients), now(0), &mut SystemRandom, None).unwrap()
}

fn now(millis: u64) -> Now {
    Now { at: Instant(1_000_000_000_000 + millis * 1_000_000), unix: 1_795_305_600 + millis / 1_000 }
}

fn from(n: u32) -> Path {
    let remote = SocketAddr::new(Ipv4Addr::from(0x0A00_0001 + (n << 8)).into(), 1_194);
    Path { worker: 0, local: None, ifindex: 0, remote, stream: None }
}

fn sid(n: u32) -> SessionId {
    SessionId::from_bytes_nonzero((u64::from(n) | 1 << 40).to_be_bytes())
}

/// The ACK by which a stranger opens a session.
fn ack(now: Now, path: &Path, sid: SessionId) -> Vec<u8> {
    let cookie = Cookie::new([3; 32], 60).session_id(now.unix, path.remote, sid);
    let packet = ControlPacket {
        opcode: Opcode::AckV1,
        key_id: KeyId::FIRST,
        session_id: sid,
        acks: AckList::from_slice(&[MessageId(0)]).unwrap(),
        remote_session_id: Some(cookie),
        message_id: None,
        payload: Vec::new(),
    };
    Wrapper::new(WrapConfig::None).unwrap().seal(now.unix, &packet).unwrap()
}

fn open(server: &mut Server, now: Now, n: u32) {
    let path = from(n);
    server.handle_datagram(now, &mut SystemRandom, &path, &ack(now, &path, sid(n)));
    while !matches!(server.poll_output(), Output::Idle { .. }) {}
}

fn is_there(server: &Server, n: u32) -> bool {
    server.sessions.find(place(&from(n)), sid(n)).is_some()
}

#[test]
fn half_open_sessions_are_bounded_and_the_oldest_gives_way() {
    let mut server = server(1_000_000);
    let most = u32::try_from(MAX_HALF_OPEN).unwrap();
    (0..most + 10).for_each(|n| open(&mut server, now(u64::from(n)), n));
    assert_eq!(server.sessions(), MAX_HALF_OPEN);
    assert!((0..10).all(|n| !is_there(&server, n)) && (10..most + 10).all(|n| is_there(&server, n)));
    server.sessions.assert_consistent();
    assert_eq!(server.take_dropped(), []);
    // They age out by hand-window.
    server.handle_timeout(now(59_000), &mut SystemRandom);
    assert_eq!(server.sessions(), MAX_HALF_OPEN);
    server.handle_timeout(now(100_000), &mut SystemRandom);
    assert_eq!(server.sessions(), MAX_HALF_OPEN - MAX_DUE, "not all in one turn");
    while matches!(server.poll_output(), Output::Event(_)) {}
    let Output::Idle { wake: Some((at, _)) } = server.poll_output() else { panic!("more are due") };
    assert!(at <= now(100_000).at);
    (0..MAX_HALF_OPEN / MAX_DUE).for_each(|_| server.handle_timeout(now(100_000), &mut SystemRandom));
    assert_eq!((server.sessions(), server.sessions.half_open()), (0, 0));
    server.sessions.assert_consistent();
}

#[test]
fn a_full_server_lets_only_those_give_way_that_take_long() {
    let mut server = server(2);
    open(&mut server, now(0), 1);
    open(&mut server, now(2_000), 2);
    open(&mut server, now(4_999), 3);
    assert!(is_there(&server, 1) && is_there(&server, 2) && !is_there(&server, 3));
    assert_eq!(server.take_dropped(), [("too_many_sessions".to_owned(), 1)]);
    open(&mut server, now(5_000), 3);
    assert!(!is_there(&server, 1) && is_there(&server, 2) && is_there(&server, 3));
    assert_eq!(server.take_dropped(), []);
    server.sessions.assert_consistent();
}

#[test]
fn one_address_has_one_half_open_session() {
    let mut server = server(10);
    let path = from(1);
    for n in 1..=3 {
        server.handle_datagram(now(0), &mut SystemRandom, &path, &ack(now(0), &path, sid(n)));
    }
    assert_eq!(server.sessions(), 1);
    assert!(server.sessions.find(place(&path), sid(3)).is_some());
    server.sessions.assert_consistent();
}

/// Two cookies of one address would otherwise make a session, and use up a generation, with each datagram.
#[test]
fn a_prefix_cannot_open_sessions_without_end_by_cookies_that_it_has() {
    let mut server = server(10);
    let path = from(1);
    let packets = [1, 2].map(|n| ack(now(0), &path, sid(n)));
    let open = |server: &mut Server, millis, times: usize| {
        for packet in packets.iter().cycle().take(times) {
            server.handle_datagram(now(millis), &mut SystemRandom, &path, packet);
            while !matches!(server.poll_output(), Output::Idle { .. }) {}
        }
    };
    let limit = 2 * ReplyLimit::default().count;
    open(&mut server, 0, 5_000);
    assert_eq!(server.next_generation, 5 + limit);
    assert_eq!(server.sessions(), 1, "the last one that was opened stays");
    server.sessions.assert_consistent();
    // Others are not kept from it, and neither is this one once its span is over.
    let other = from(2);
    server.handle_datagram(now(0), &mut SystemRandom, &other, &ack(now(0), &other, sid(9)));
    assert_eq!(server.next_generation, 6 + limit);
    open(&mut server, 10_000, 2);
    assert!(server.next_generation > 6 + limit);
}

#[test]
fn a_packet_from_elsewhere_with_a_known_session_id_makes_and_moves_nothing() {
    let mut server = server(10);
    open(&mut server, now(0), 1);
    let here = ack(now(0), &from(1), sid(1));
    server.handle_datagram(now(0), &mut SystemRandom, &from(2), &here);
    assert_eq!(server.take_dropped(), [("wrong_address".to_owned(), 1)]);
    let mut strange = here.clone();
    strange[1] ^= 1;
    server.handle_datagram(now(0), &mut SystemRandom, &from(2), &strange);
    assert_eq!(server.take_dropped(), [("bad_cookie".to_owned(), 1)]);
    assert_eq!(server.sessions(), 1);
    assert!(is_there(&server, 1));
}

#[test]
fn only_what_is_due_is_looked_at() {
    let mut server = server(100);
    for n in 0..10 {
        open(&mut server, now(u64::from(n) * 1_000), n);
    }
    assert_eq!(server.sessions.due(now(59_999).at, 100), [0; 0]);
    assert_eq!(server.sessions.due(now(60_000).at, 100), [5]);
    assert_eq!(server.sessions.due(now(62_000).at, 100), [5, 6, 7]);
    assert!(matches!(server.poll_output(), Output::Idle { wake: Some((at, _)) } if at == now(60_000).at));
}

#[test]
fn generations_begin_where_the_caller_says_and_peers_belong_to_workers() {
    let mut server = server(10);
    (0..4).for_each(|n| open(&mut server, now(0), n));
    assert_eq!(server.sessions.due(now(60_000).at, 100), [5, 6, 7, 8]);
    assert_eq!((0..5).map(|peer| server.worker_of(peer)).collect::<Vec<_>>(), [0, 1, 2, 0, 1]);
    server.next_generation = u32::MAX;
    open(&mut server, now(0), 9);
    assert_eq!(server.take_dropped(), [("too_many_sessions".to_owned(), 1)], "no number is given twice");
    server.sessions.assert_consistent();
}
