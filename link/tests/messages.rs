//! Every message survives its encoding, secrets print nothing, and bytes that are no message are refused.

#![allow(clippy::unwrap_used)] // helpers of tests, too, end a test by panicking

mod common;

use std::fmt::Debug;
use std::net::SocketAddr;

use common::{FromControl, ToControl};
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
    assert!(postcard::from_bytes::<T>(cut).is_err(), "cut short: {message:?}");
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
    KeyName { peer: 2, generation: 3, negotiation: 300, key_id: 7 }
}

fn install() -> InstallKey {
    InstallKey {
        name: name(),
        cipher: Cipher::ChaCha20Poly1305,
        seal: DirectionKey { key: secret(32), implicit_iv: secret(8) },
        open: DirectionKey { key: secret(31), implicit_iv: secret(7) },
        wire_peer_id: Some(0xFF_FFFF),
        send_from_ns: u64::MAX,
        retire_previous_ns: 1,
        limits: limits(),
    }
}

fn to_control() -> Vec<ToControl> {
    vec![
        ToControl::Number(u32::MAX),
        ToControl::Text { number: 1, path: path(), text: "ca".into() },
        ToControl::Password(Some(secret(12))),
        ToControl::Password(None),
        ToControl::End,
    ]
}

fn from_control() -> Vec<FromControl> {
    vec![
        FromControl::Ready,
        FromControl::Number(300),
        FromControl::Text { number: 1, text: "hello".into() },
        FromControl::Token(Box::new(secret(64))),
    ]
}

fn worker_events() -> Vec<WorkerEvent> {
    let mut all = vec![
        WorkerEvent::KeyInstalled(name()),
        WorkerEvent::KeySending(name()),
        WorkerEvent::Floated { peer: 1, path: path() },
    ];
    for refusal in [KeyRefusal::UnknownPeer, KeyRefusal::NotNewer, KeyRefusal::BadKey] {
        all.push(WorkerEvent::KeyRefused(name(), refusal));
    }
    for reason in [UsageReason::PacketId, UsageReason::Bytes, UsageReason::Packets, UsageReason::AeadLimit] {
        all.push(WorkerEvent::KeyUsage(name(), reason));
    }
    all
}

fn worker_commands() -> Vec<WorkerCommand> {
    vec![
        WorkerCommand::InstallKey(install()),
        WorkerCommand::SendWith(name()),
        WorkerCommand::DropKeys { peer: 1, generation: 2 },
        WorkerCommand::PeerAlive { peer: 3 },
    ]
}

#[test]
fn every_message_survives_its_encoding() {
    to_control().iter().for_each(round_trip);
    from_control().iter().for_each(round_trip);
    worker_events().iter().for_each(round_trip);
    worker_commands().iter().for_each(round_trip);
}

#[test]
fn every_message_crosses_the_rings_of_a_link() {
    let (shared, mut supervisor, mut workers) = create::<ToControl, FromControl>(2).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let big = ToControl::Text { number: 1, path: path(), text: "x".repeat(700 * 1_024) };
    for message in to_control().iter().chain([&big]) {
        supervisor.send(message).unwrap();
        assert_eq!(control.recv_from_supervisor().unwrap().as_ref(), Some(message));
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
fn an_answer_of_64_kib_crosses_and_one_beyond_the_bound_is_refused() {
    let (shared, mut supervisor, _workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let message = |bytes| FromControl::Text { number: 1, text: "x".repeat(bytes) };
    control.send_to_supervisor(&message(64 * 1_024)).unwrap();
    assert_eq!(supervisor.recv(), Ok(Some(message(64 * 1_024))));
    assert_eq!(control.send_to_supervisor(&message(72 * 1_024)), Err(LinkError::TooLong));
}

#[test]
fn a_secret_prints_its_length_only() {
    let text = format!("{:?} {:?}", install(), ToControl::Password(Some(secret(12))));
    assert!(text.contains("Secret(32 bytes)") && text.contains("Secret(12 bytes)"));
    assert!(!text.contains("[0, 1"), "{text}");
}

#[test]
fn a_key_name_is_newer_by_generation_first_and_negotiation_next() {
    let at = |generation, negotiation, key_id| KeyName { peer: 1, generation, negotiation, key_id };
    assert!(at(1, 9, 1) < at(2, 0, 0));
    assert!(at(1, 7, 7) < at(1, 8, 1));
    assert!(at(1, 8, 1) > at(1, 7, 7));
}

#[test]
fn a_datagram_borrows_its_bytes() {
    let datagram = Datagram { path: path(), bytes: &[1, 2, 3] };
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
    assert_eq!(decoded.remote, "[fe80::1]:1194".parse::<SocketAddr>().unwrap());
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
    fn one_flipped_bit_makes_no_decoder_panic(which in 0..to_control().len(), at in any::<usize>(), bit in 0..8u32) {
        let mut bytes = postcard::to_stdvec(&to_control()[which]).unwrap();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        let _ = postcard::from_bytes::<ToControl>(&bytes);
    }
}
