//! What an onlooker is told of a handshake.

use std::time::Duration;

use controlplane::error::DropReason;
use controlplane::ids::{KeyId, MessageId};
use controlplane::packet::Opcode;
use controlplane::trace::{Packet, Record, Stage, What};
use controlplane::{Client, Credentials, Digest, Ending, Secret, TlsVersion, Wrap};

use crate::util::{Network, Pair, Pki, Side, client_path, client_setup, server_setup, static_key, tls_random};

fn observed(pki: &Pki, seed: u64) -> Pair {
    let mut pair = Pair::new(client_setup(pki), server_setup(pki), seed);
    pair.client.observe(true);
    pair
}

fn records(pair: &mut Pair) -> Vec<Record> {
    let trace = pair.client.take_trace();
    assert_eq!(trace.missed, 0);
    trace.records
}

fn stages(records: &[Record]) -> Vec<Stage> {
    records.iter().filter(|r| r.what == What::Stage).map(|r| r.stage).collect()
}

fn packet(record: &Record) -> Option<&Packet> {
    match &record.what {
        What::In(packet) | What::Out(packet) | What::Dropped(packet, _) => Some(packet),
        What::Stage => None,
    }
}

fn out(records: &[Record]) -> Vec<&Packet> {
    records.iter().filter(|r| matches!(r.what, What::Out(_))).filter_map(packet).collect()
}

fn dropped(records: &[Record]) -> Vec<(Stage, DropReason, &Packet)> {
    let dropped = records.iter().filter_map(|r| match &r.what {
        What::Dropped(packet, reason) => Some((r.stage, *reason, packet)),
        _ => None,
    });
    dropped.collect()
}

/// The names of one direction, in order.
fn names(records: &[Record], incoming: bool) -> Vec<&'static str> {
    let wanted = records.iter().filter(|r| matches!(r.what, What::In(_)) == incoming);
    wanted.filter_map(packet).flat_map(|packet| packet.names.clone()).collect()
}

const ALL_STAGES: [Stage; 7] =
    [Stage::Initial, Stage::PreStart, Stage::Start, Stage::SentKey, Stage::GotKey, Stage::Active, Stage::GeneratedKeys];

#[test]
fn a_handshake_is_told_from_the_first_packet_to_the_last_stage() {
    let pki = Pki::new("ca");
    let mut pair = observed(&pki, 100);
    pair.establish();
    let records = records(&mut pair);
    assert_eq!(stages(&records), ALL_STAGES);
    assert!(records.windows(2).all(|two| two[0].at <= two[1].at), "in the order of time");
    assert!(records.iter().all(|r| r.generation == 1));
    let first = out(&records)[0];
    assert_eq!(first.opcode, Some(Opcode::HardResetClientV2));
    assert_eq!((first.key_id, first.message_id, first.send_attempts), (Some(KeyId::FIRST), Some(MessageId(0)), 1));
    assert_eq!((first.payload_size, first.datagram_size, first.remote_session_id), (0, 14, None));
    let answer = records.iter().find_map(|r| if let What::In(packet) = &r.what { Some((r, packet)) } else { None });
    let (record, answer) = answer.unwrap();
    assert_eq!(answer.opcode, Some(Opcode::HardResetServerV2));
    assert_eq!((record.stage, answer.send_attempts, answer.duplicate), (Stage::PreStart, 0, false));
    assert_eq!(answer.acks.as_slice(), [MessageId(0)]);
    assert_eq!(answer.remote_session_id, first.session_id);
    assert!(dropped(&records).is_empty());
    // Every datagram that was sent is there, and no other.
    let sizes: Vec<usize> =
        pair.sent.iter().filter(|(side, ..)| *side == Side::Client).map(|(.., b)| b.len()).collect();
    assert_eq!(out(&records).iter().map(|p| p.datagram_size).collect::<Vec<_>>(), sizes);
}

#[test]
fn what_tls_leaves_in_the_clear_is_named_and_what_it_hides_is_called_encrypted() {
    let pki = Pki::new("ca");
    for (version, mine, theirs) in [
        (
            TlsVersion::V1_3,
            ["client_hello", "change_cipher_spec", "encrypted_handshake", "encrypted", "key_message", "push_request"]
                .as_slice(),
            ["server_hello", "change_cipher_spec", "encrypted_handshake", "encrypted", "key_message", "push_reply"]
                .as_slice(),
        ),
        (
            TlsVersion::V1_2,
            [
                "client_hello",
                "certificate",
                "client_key_exchange",
                "certificate_verify",
                "change_cipher_spec",
                "encrypted_handshake",
                "encrypted",
                "key_message",
                "push_request",
            ]
            .as_slice(),
            [
                "server_hello",
                "certificate",
                "server_key_exchange",
                "certificate_request",
                "server_hello_done",
                "change_cipher_spec",
                "encrypted_handshake",
                "encrypted",
                "key_message",
                "push_reply",
            ]
            .as_slice(),
        ),
    ] {
        let (mut client, server) = (client_setup(&pki), server_setup(&pki));
        (client.tls.version_min, client.tls.version_max) = (version, version);
        // So that the client asks.
        client.iv_proto_mask = controlplane::controlchannel::peer_info::iv_proto::REQUEST_PUSH;
        let mut pair = Pair::new(client, server, 101);
        pair.client.observe(true);
        pair.establish();
        let records = records(&mut pair);
        for (incoming, expected) in [(false, mine), (true, theirs)] {
            let mut names = names(&records, incoming);
            let mut seen = Vec::new();
            names.retain(|name| {
                !seen.contains(name) && {
                    seen.push(*name);
                    true
                }
            });
            assert_eq!(names, expected, "{version:?}, incoming {incoming}");
        }
    }
}

#[test]
fn repeated_packets_count_their_attempts_and_keep_their_names() {
    let pki = Pki::new("ca");
    let mut pair = observed(&pki, 102);
    pair.connect(None);
    pair.run_until(1, |p| {
        !p.client_events.is_empty() && p.sent.iter().any(|(s, _, b)| *s == Side::Client && b[0] == 0x20)
    });
    pair.network = Network::DEAD;
    pair.drop_in_flight();
    pair.run_for(8);
    pair.network = Network::GOOD;
    assert!(pair.run_until(30, |p| p.established().is_some()));
    let records = records(&mut pair);
    let hello: Vec<_> = out(&records).into_iter().filter(|p| p.names.contains(&"client_hello")).collect();
    let attempts: Vec<u32> = hello.iter().map(|p| p.send_attempts).collect();
    assert_eq!(attempts, (1..=u32::try_from(attempts.len()).unwrap()).collect::<Vec<_>>());
    assert!(attempts.len() >= 3, "{attempts:?}");
    assert!(hello.iter().all(|p| p.message_id == Some(MessageId(1))));
    assert_eq!(stages(&records), ALL_STAGES);
}

#[test]
fn a_packet_that_came_before_is_marked() {
    let pki = Pki::new("ca");
    let mut pair = observed(&pki, 103);
    pair.network.duplicate_percent = 100;
    pair.establish();
    pair.run_for(1);
    let records = records(&mut pair);
    let came = |duplicate| {
        let is = |p: &&Packet| p.send_attempts == 0 && p.duplicate == duplicate;
        records.iter().filter_map(packet).filter(is).filter_map(|p| p.message_id).collect::<Vec<_>>()
    };
    let mut first = came(false);
    assert!(first.iter().all(|id| came(true).contains(id)), "each came twice");
    let all = first.len();
    first.sort_by_key(|id| id.0);
    first.dedup();
    assert_eq!(first.len(), all, "each is new once");
    let again = records.iter().filter_map(packet).filter(|p| p.duplicate);
    assert!(again.into_iter().all(|p| p.names.is_empty()));
}

#[test]
fn a_silent_server_is_resets_and_an_error() {
    let pki = Pki::new("ca");
    let mut pair = observed(&pki, 104);
    pair.network = Network::DEAD;
    pair.connect(None);
    pair.run_for(61);
    assert_eq!(pair.ended(Side::Client), Some(Ending::Unanswered));
    let records = records(&mut pair);
    assert_eq!(stages(&records), [Stage::Initial, Stage::PreStart, Stage::Error]);
    let attempts: Vec<u32> = out(&records).iter().map(|p| p.send_attempts).collect();
    assert_eq!(attempts, (1..=u32::try_from(attempts.len()).unwrap()).collect::<Vec<_>>());
    assert!(attempts.len() >= 29);
}

/// A server's reset without acknowledgement; one that acknowledges our reset and echoes another session id; a message.
fn forged(sid: u8) -> [Vec<u8>; 3] {
    let sid = [sid; 8];
    [
        [&[0x40][..], &sid, &[0, 0, 0, 0, 0]].concat(),
        [&[0x40][..], &sid, &[1, 0, 0, 0, 0], &[0x77; 8], &[0, 0, 0, 0]].concat(),
        [&[0x20][..], &sid, &[0, 0, 0, 0, 1], b"nonsense"].concat(),
    ]
}

fn inject(pair: &mut Pair, bytes: &[u8]) {
    pair.deliver(Side::Client, bytes);
    pair.drain();
}

#[test]
fn forged_packets_are_told_with_the_reason_why_they_were_ignored() {
    let pki = Pki::new("ca");
    let mut pair = observed(&pki, 105);
    pair.connect(None);
    for bytes in forged(0x66).iter().chain([&vec![0xF8; 30], &vec![0x48; 30], &vec![0x40; 5], &Vec::new()]) {
        inject(&mut pair, bytes);
    }
    assert!(pair.run_until(30, |p| p.established().is_some()), "{}", pair.story());
    forged(0x66).iter().for_each(|bytes| inject(&mut pair, bytes));
    let records = records(&mut pair);
    let told: Vec<_> = dropped(&records).into_iter().map(|(stage, reason, _)| (stage, reason)).collect();
    let (early, late) = (Stage::PreStart, Stage::GeneratedKeys);
    let expected = [
        (early, DropReason::UnexpectedState),
        (early, DropReason::WrongRemoteSession),
        (early, DropReason::UnexpectedState),
        (early, DropReason::UnknownOpcode),
        (early, DropReason::NotControl),
        (early, DropReason::Truncated),
        (early, DropReason::Empty),
        (late, DropReason::UnknownSession),
        (late, DropReason::WrongRemoteSession),
        (late, DropReason::UnknownSession),
    ];
    assert_eq!(told, expected);
    let seen = dropped(&records)[1].2;
    assert_eq!((seen.opcode, seen.opcode_number), (Some(Opcode::HardResetServerV2), Some(8)));
    assert_eq!(seen.session_id.unwrap().to_string(), "6666666666666666");
    assert_eq!(seen.remote_session_id.unwrap().to_string(), "7777777777777777");
    assert_eq!((seen.message_id, seen.acks.as_slice()), (Some(MessageId(0)), [MessageId(0)].as_slice()));
    let unknown = dropped(&records)[3].2;
    assert_eq!((unknown.opcode, unknown.opcode_number, unknown.datagram_size), (None, Some(31), 30));
    // The counters say the same.
    let counted: u64 = pair.client.take_dropped().iter().map(|(_, n)| n).sum();
    assert_eq!(counted, 10);
}

#[test]
fn a_packet_with_a_wrong_tag_shows_only_its_outside() {
    let pki = Pki::new("ca");
    let (mut client, mut server) = (client_setup(&pki), server_setup(&pki));
    let wrap = |direction| Wrap::TlsAuth { key: static_key(), direction, digest: Digest::Sha256 };
    (client.wrap, server.wrap) = (wrap(Some(1)), wrap(Some(0)));
    let mut pair = Pair::new(client, server, 106);
    pair.client.observe(true);
    pair.establish();
    let (_, _, mut replayed) = pair.sent.iter().find(|(side, ..)| *side == Side::Server).cloned().unwrap();
    inject(&mut pair, &replayed);
    *replayed.last_mut().unwrap() ^= 1;
    inject(&mut pair, &replayed);
    let records = records(&mut pair);
    let told = dropped(&records);
    assert_eq!(
        told.iter().map(|(_, reason, _)| *reason).collect::<Vec<_>>(),
        [DropReason::Replayed, DropReason::BadTag]
    );
    for (.., packet) in told {
        assert!(packet.opcode.is_some() && packet.session_id.is_some());
        assert_eq!((packet.message_id, packet.acks.len(), packet.payload_size), (None, 0, 0));
    }
}

#[test]
fn neither_a_refused_login_nor_its_trace_shows_the_password() {
    let pki = Pki::new("ca");
    let mut pair = observed(&pki, 107);
    let given = |password: &str| Credentials { username: "ann".into(), password: Secret(password.into()) };
    pair.gate.users = Some(vec![given("right-horse")]);
    pair.connect(Some(given("wrong-battery")));
    pair.run_for(8);
    assert!(matches!(pair.ended(Side::Client), Some(Ending::AuthFailed { .. })));
    let records = records(&mut pair);
    let expected = [&ALL_STAGES[..6], &[Stage::Error]].concat();
    assert_eq!(stages(&records), expected);
    let place = records.iter().position(|r| packet(r).is_some_and(|p| p.names.contains(&"auth_failed"))).unwrap();
    let error = records.iter().position(|r| r.stage == Stage::Error).unwrap();
    assert!(place < error, "the packet stands before what it caused");
    assert_eq!(records[place].stage, Stage::Active);
    let text = format!("{records:?}");
    for secret in ["battery", "horse", "ann\"", "PUSH_", "AUTH_FAILED"] {
        assert!(!text.contains(secret), "{secret}");
    }
}

#[test]
fn nobody_is_told_who_did_not_ask_and_nobody_who_asked_no_more() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 108);
    pair.establish();
    assert_eq!(pair.client.take_trace(), Default::default());
    // In the middle of a session: packets are told, names of what began before are not known.
    pair.client.observe(true);
    inject(&mut pair, &forged(1)[0]);
    assert_eq!(records(&mut pair).len(), 1);
    pair.client.observe(false);
    inject(&mut pair, &forged(1)[0]);
    assert_eq!(pair.client.take_trace(), Default::default());
}

#[test]
fn a_datagram_without_a_session_is_told_as_well() {
    let pki = Pki::new("ca");
    let pair = observed(&pki, 109);
    let (now, mut rng) = (pair.now, pair.rng);
    let mut client = Client::with_tls_random(client_setup(&pki), now, Some(tls_random(1))).unwrap();
    client.observe(true);
    client.handle_datagram(now, &mut rng, &client_path(), &forged(9)[1]);
    let records = client.take_trace().records;
    assert_eq!(dropped(&records)[0].1, DropReason::UnknownSession);
    assert_eq!((records[0].generation, records[0].stage), (0, Stage::Initial));
}

#[test]
fn a_bad_network_changes_what_is_told_and_nothing_else() {
    let pki = Pki::new("ca");
    for seed in 0..20 {
        let run = |observe: bool| {
            let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 200 + seed);
            pair.network = Network::BAD;
            pair.client.observe(observe);
            pair.connect(None);
            pair.run_for(60);
            // Not the bytes: the cryptographic library has chance of its own.
            let sent: Vec<_> = pair.sent.iter().map(|(side, at, bytes)| (*side, *at, bytes[0])).collect();
            (records(&mut pair), sent)
        };
        let ((told, sent), (nothing, unseen)) = (run(true), run(false));
        assert!(nothing.is_empty());
        assert_eq!(sent, unseen, "seed {seed}: an onlooker changes nothing");
        assert_eq!(out(&told).len(), sent.iter().filter(|(side, ..)| *side == Side::Client).count());
        assert!(told.windows(2).all(|two| two[1].at.since(two[0].at) < Duration::from_secs(60)));
    }
}
