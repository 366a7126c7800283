//! Every message survives its encoding, secrets print nothing, and bytes that are no message are refused.

use std::fmt::Debug;
use std::net::SocketAddr;

use link::*;
use proptest::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

fn round_trip<T: Serialize + DeserializeOwned + PartialEq + Debug>(message: &T) {
    let bytes = postcard::to_stdvec(message).unwrap();
    let (decoded, rest) = postcard::take_from_bytes::<T>(&bytes).unwrap();
    assert_eq!(&decoded, message);
    assert!(rest.is_empty());
    let cut = &bytes[..bytes.len() - 1];
    assert!(
        postcard::from_bytes::<T>(cut).is_err(),
        "cut short: {message:?}"
    );
}

fn secret(len: usize) -> Secret {
    Secret((0..len).map(|index| index as u8).collect())
}

fn path() -> Path {
    Path {
        worker: 1,
        local: Some("2001:db8::1".parse().unwrap()),
        ifindex: 7,
        remote: "192.0.2.7:1194".parse().unwrap(),
        stream: Some(9),
    }
}

fn limits() -> KeyLimits {
    KeyLimits {
        soft_packet_id: 0xFF00_0000,
        hard_packet_id: u32::MAX,
        soft_bytes: u64::MAX,
        soft_packets: 5,
        soft_aead: 6,
        hard_aead: (1 << 36) - 1,
        hard_failures: 1 << 36,
    }
}

fn name() -> KeyName {
    KeyName {
        peer: 2,
        generation: 3,
        negotiation: 300,
        key_id: 7,
    }
}

fn setup(ca_pem: String) -> ClientSetup {
    ClientSetup {
        wrap: Wrap::TlsAuth {
            key: secret(256),
            direction: Some(1),
            digest: Digest::Sha512,
        },
        tls: TlsSetup {
            ca_pem,
            cert_pem: "cert".into(),
            key_pem: secret(1_704),
            crl_pem: Some("crl".into()),
            peer_usage: Some(PeerUsage::Server),
            verify_name: Some(VerifyName::Subject("C=DE, CN=server".into())),
            fingerprints: vec![[1; 32], [2; 32]],
            version_min: TlsVersion::V1_2,
            version_max: TlsVersion::V1_3,
        },
        data_ciphers: vec![
            Cipher::Aes256Gcm,
            Cipher::Aes128Gcm,
            Cipher::ChaCha20Poly1305,
            Cipher::Aes192Gcm,
        ],
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
        limits: limits(),
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
    }
}

fn credentials() -> Credentials {
    Credentials {
        username: "user".into(),
        password: secret(12),
    }
}

fn install() -> InstallKey {
    InstallKey {
        name: name(),
        cipher: Cipher::ChaCha20Poly1305,
        seal: DirectionKey {
            key: secret(32),
            implicit_iv: secret(8),
        },
        open: DirectionKey {
            key: secret(31),
            implicit_iv: secret(7),
        },
        wire_peer_id: Some(0xFF_FFFF),
        send_from_ns: u64::MAX,
        retire_previous_ns: 1,
        limits: limits(),
    }
}

fn to_control() -> Vec<ToControl> {
    vec![
        ToControl::ConfigureClient(Box::new(setup("ca".into()))),
        ToControl::Connect {
            generation: 1,
            path: path(),
            credentials: Some(credentials()),
        },
        ToControl::Connect {
            generation: 1,
            path: path(),
            credentials: None,
        },
        ToControl::Resume {
            record: Box::new(record()),
            path: path(),
            credentials: None,
        },
        ToControl::Rebind {
            generation: 2,
            path: path(),
        },
        ToControl::Disconnect { generation: 3 },
        ToControl::Forget { generation: 4 },
        ToControl::Renegotiate {
            generation: u32::MAX,
        },
    ]
}

fn endings() -> Vec<Ending> {
    vec![
        Ending::AuthFailed {
            reason: "no".into(),
            retry_after: Some(5),
            session_token: true,
        },
        Ending::Tls("t".into()),
        Ending::Incompatible("i".into()),
        Ending::Unanswered,
        Ending::HandshakeTimeout {
            awaiting: "TLS".into(),
        },
        Ending::Restart {
            message: "m".into(),
            next_remote: true,
        },
        Ending::Halt("h".into()),
        Ending::PeerExited,
        Ending::Disconnected { exit_sent: true },
        Ending::Internal("x".into()),
    ]
}

fn from_control() -> Vec<FromControl> {
    let established = Established {
        generation: 1,
        pushed: Pushed {
            options: vec!["route 10.0.0.0 255.0.0.0".into(), "ping 10".into()],
        },
        cipher: Cipher::Aes128Gcm,
        peer_id: Some(3),
        tls: "TLSv1.3".into(),
        peer_subject: "CN=server".into(),
        cc_exit: true,
    };
    let mut all = vec![
        FromControl::Ready,
        FromControl::Established(Box::new(established)),
        FromControl::Renegotiated { name: name() },
        FromControl::RenegotiationFailed {
            generation: 1,
            why: "w".into(),
        },
        FromControl::Record(Box::new(record())),
        FromControl::Info {
            generation: 1,
            text: "hello".into(),
        },
        FromControl::AuthToken {
            generation: 1,
            token: secret(64),
            username: None,
        },
        FromControl::Dropped {
            counts: vec![("replay".into(), u64::MAX)],
        },
    ];
    for state in [
        State::Wait,
        State::Auth,
        State::GetConfig,
        State::AuthPending,
    ] {
        all.push(FromControl::State {
            generation: 2,
            state,
        });
    }
    for ending in endings() {
        all.push(FromControl::Refused(ending.clone()));
        all.push(FromControl::Ended {
            generation: 3,
            ending,
        });
    }
    all
}

fn worker_events() -> Vec<WorkerEvent> {
    let mut all = vec![
        WorkerEvent::KeyInstalled(name()),
        WorkerEvent::KeySending(name()),
        WorkerEvent::Floated {
            peer: 1,
            path: path(),
        },
    ];
    for refusal in [
        KeyRefusal::UnknownPeer,
        KeyRefusal::NotNewer,
        KeyRefusal::BadKey,
    ] {
        all.push(WorkerEvent::KeyRefused(name(), refusal));
    }
    for reason in [
        UsageReason::PacketId,
        UsageReason::Bytes,
        UsageReason::Packets,
        UsageReason::AeadLimit,
    ] {
        all.push(WorkerEvent::KeyUsage(name(), reason));
    }
    all
}

fn worker_commands() -> Vec<WorkerCommand> {
    vec![
        WorkerCommand::InstallKey(install()),
        WorkerCommand::SendWith(name()),
        WorkerCommand::DropKeys {
            peer: 1,
            generation: 2,
        },
        WorkerCommand::PeerAlive { peer: 3 },
    ]
}

#[test]
fn every_message_survives_its_encoding() {
    to_control().iter().for_each(round_trip);
    from_control().iter().for_each(round_trip);
    worker_events().iter().for_each(round_trip);
    worker_commands().iter().for_each(round_trip);
    for wrap in [Wrap::None, Wrap::TlsCrypt { key: secret(256) }] {
        round_trip(&wrap);
    }
    for name in [
        VerifyName::Name("n".into()),
        VerifyName::NamePrefix("p".into()),
    ] {
        round_trip(&name);
    }
}

#[test]
fn every_message_crosses_the_rings_of_a_link() {
    let (shared, mut supervisor, mut workers) = create::<ToControl, FromControl>(2).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let big = ToControl::ConfigureClient(Box::new(setup("x".repeat(700 * 1_024))));
    for message in to_control().iter().chain([&big]) {
        supervisor.send(message).unwrap();
        assert_eq!(
            control.recv_from_supervisor().unwrap().as_ref(),
            Some(message)
        );
    }
    for message in &from_control() {
        control.send_to_supervisor(message).unwrap();
        assert_eq!(supervisor.recv().unwrap().as_ref(), Some(message));
    }
    for (index, worker) in workers.iter_mut().enumerate() {
        assert_eq!(worker.index(), index);
        for event in &worker_events() {
            worker.send_event(event).unwrap();
            assert_eq!(control.recv_event(index).unwrap().as_ref(), Some(event));
        }
        for command in &worker_commands() {
            control.send_command(index, command).unwrap();
            assert_eq!(worker.recv_command().unwrap().as_ref(), Some(command));
        }
    }
}

#[test]
fn a_pushed_configuration_of_64_kib_crosses_and_a_longer_one_is_refused() {
    let (shared, mut supervisor, _workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let message = |bytes| FromControl::Info {
        generation: 1,
        text: "x".repeat(bytes),
    };
    control.send_to_supervisor(&message(64 * 1_024)).unwrap();
    assert_eq!(supervisor.recv(), Ok(Some(message(64 * 1_024))));
    assert_eq!(
        control.send_to_supervisor(&message(72 * 1_024)),
        Err(LinkError::TooLong)
    );
}

#[test]
fn a_secret_prints_its_length_only() {
    let text = format!("{:?} {:?}", install(), credentials());
    assert!(text.contains("Secret(32 bytes)") && text.contains("Secret(12 bytes)"));
    assert!(!text.contains("[0, 1"), "{text}");
}

#[test]
fn a_key_name_is_newer_by_generation_first_and_negotiation_next() {
    let at = |generation, negotiation, key_id| KeyName {
        peer: 1,
        generation,
        negotiation,
        key_id,
    };
    assert!(at(1, 9, 1) < at(2, 0, 0));
    assert!(at(1, 7, 7) < at(1, 8, 1));
    assert!(at(1, 8, 1) > at(1, 7, 7));
}

#[test]
fn a_datagram_borrows_its_bytes() {
    let datagram = Datagram {
        path: path(),
        bytes: &[1, 2, 3],
    };
    let encoded = postcard::to_stdvec(&datagram).unwrap();
    let decoded: Datagram<'_> = postcard::from_bytes(&encoded).unwrap();
    assert_eq!(decoded, datagram);
    assert!(encoded.as_ptr_range().contains(&decoded.bytes.as_ptr()));
}

#[test]
fn a_scoped_address_keeps_what_the_ring_can_carry() {
    // Scope and flow label do not cross: the interface travels in `ifindex`.
    let mut path = path();
    path.remote = "[fe80::1%3]:1194".parse().unwrap();
    let encoded = postcard::to_stdvec(&path).unwrap();
    let decoded: Path = postcard::from_bytes(&encoded).unwrap();
    assert_eq!(
        decoded.remote,
        "[fe80::1]:1194".parse::<SocketAddr>().unwrap()
    );
    assert_eq!(decoded.ifindex, 7);
}

proptest! {
    #[test]
    fn no_bytes_make_a_decoder_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = postcard::from_bytes::<ToControl>(&bytes);
        let _ = postcard::from_bytes::<FromControl>(&bytes);
        let _ = postcard::from_bytes::<WorkerEvent>(&bytes);
        let _ = postcard::from_bytes::<WorkerCommand>(&bytes);
        let _ = postcard::from_bytes::<Datagram<'_>>(&bytes);
    }

    #[test]
    fn one_flipped_bit_makes_no_decoder_panic(which in 0..8usize, at in any::<usize>(), bit in 0..8u32) {
        let mut bytes = postcard::to_stdvec(&to_control()[which]).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = postcard::from_bytes::<ToControl>(&bytes);
    }
}
