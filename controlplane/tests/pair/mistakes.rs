//! Mistakes that earlier implementations made on the control channel, each as a situation: what must happen instead.
//! docs/protocol.md lists these and those that are tested elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use controlplane::{Credentials, Ending, Event, Secret, State, Wrap};

use crate::util::{Network, Pair, Pki, Side, client_setup, server_setup, static_key};

const CONTROL_V1: u8 = 4;
const ACK_V1: u8 = 5;
const HARD_RESET_SERVER_V2: u8 = 8;

fn pair() -> Pair {
    let pki = Pki::new("ca");
    Pair::new(client_setup(&pki), server_setup(&pki), 80)
}

/// The session id under which the server speaks, once it has spoken.
fn server_session(pair: &Pair) -> [u8; 8] {
    let (_, _, bytes) = pair.sent.iter().find(|(from, _, _)| *from == Side::Server).unwrap();
    bytes[1..9].try_into().unwrap()
}

/// What an unwrapped packet acknowledges.
fn acknowledged(bytes: &[u8]) -> Vec<u32> {
    let ids = bytes[10..].chunks_exact(4).take(usize::from(bytes[9]));
    ids.map(|id| u32::from_be_bytes(id.try_into().unwrap())).collect()
}

/// The message id of an unwrapped packet, if it has one.
fn message_id(bytes: &[u8]) -> Option<u32> {
    let acks = usize::from(bytes[9]);
    let at = 10 + if acks > 0 { 4 * acks + 8 } else { 0 };
    (bytes[0] >> 3 != ACK_V1).then(|| u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap()))
}

fn is_in(pair: &Pair, wanted: State) -> bool {
    pair.client_events.iter().any(|event| matches!(event, Event::State { state, .. } if *state == wanted))
}

#[test]
fn an_unknown_opcode_once_the_tunnel_is_up_is_dropped_and_the_session_goes_on() {
    let mut pair = pair();
    pair.establish();
    pair.run_for(5);
    let sid = server_session(&pair);
    let events = pair.client_events.len();
    let mut sent = 0;
    for opcode in (0..32u8).filter(|opcode| !(3..=11).contains(opcode)) {
        for key_id in 0..8 {
            for rest in [&[][..], &sid, &[&sid[..], &[0; 5]].concat(), &[0xFF; 1_200]] {
                pair.deliver(Side::Client, &[&[opcode << 3 | key_id], rest].concat());
                sent += 1;
            }
        }
    }
    pair.drain();
    assert_eq!(pair.client.take_dropped(), [("unknown_opcode".to_owned(), sent)]);
    assert_eq!(pair.client_events.len(), events, "nobody is told, nothing changes");
    pair.client.renegotiate(pair.now, &mut pair.rng, 1);
    assert!(pair.run_until(20, |p| p.renegotiated(Side::Client).len() == 1), "{}", pair.story());
}

#[test]
fn nothing_is_acknowledged_that_was_not_accepted() {
    let mut pair = pair();
    pair.establish();
    pair.run_for(5);
    let sid = server_session(&pair);
    let from_server = pair.sent.iter().filter(|(from, _, _)| *from == Side::Server);
    let last = from_server.filter_map(|(_, _, bytes)| message_id(bytes)).max().unwrap();
    // (opcode and key-id, message id, why it is not taken)
    let control = CONTROL_V1 << 3;
    for (first, id, reason) in [
        (control, last + 13, "out_of_window"),
        (control, last + 1_000, "out_of_window"),
        (control | 3, last + 1, "wrong_key_id"),
        (HARD_RESET_SERVER_V2 << 3, last + 1, "reset_id_not_zero"),
        (control, last + 12, ""), // the last one that the window has room for
    ] {
        let before = pair.sent.len();
        pair.client.take_dropped();
        let packet = [&[first], &sid[..], &[0], &id.to_be_bytes(), &[23, 3, 3]].concat();
        pair.deliver(Side::Client, &packet);
        pair.drain();
        let dropped: Vec<String> = pair.client.take_dropped().into_iter().map(|(reason, _)| reason).collect();
        assert_eq!(dropped.concat(), reason);
        pair.run_for(1);
        let acked = pair.sent[before..]
            .iter()
            .any(|(from, _, bytes)| *from == Side::Client && acknowledged(bytes).contains(&id));
        assert_eq!(acked, reason.is_empty(), "message {id}, {reason:?}");
    }
}

#[test]
fn the_seventh_unacknowledged_message_waits_and_is_not_lost() {
    let mut pair = pair();
    pair.gate.admission.push = (0..600).map(|n| format!("route 10.{}.{}.0 255.255.255.0", n / 256, n % 256)).collect();
    let expected = pair.gate.admission.push.clone();
    // The server says nothing more until its key is installed, and then a dozen messages at once.
    pair.confirm_keys = false;
    pair.connect(None);
    assert!(pair.run_until(10, |p| !p.keys(Side::Server).is_empty()));
    pair.run_for(1);
    let before = pair.sent.len();
    let said = |pair: &Pair| -> BTreeSet<u32> {
        let sent = pair.sent[before..].iter().filter(|(from, _, _)| *from == Side::Server);
        sent.filter_map(|(_, _, bytes)| message_id(bytes)).collect()
    };
    pair.network = Network::DEAD;
    pair.confirm_keys = true;
    let key = pair.keys(Side::Server)[0].name;
    pair.confirm(Side::Server, key);
    pair.run_for(10);
    assert_eq!(said(&pair).len(), 6, "as many as may be on their way, again and again");
    pair.network = Network::GOOD;
    assert!(pair.run_until(30, |p| p.established().is_some()), "{}", pair.story());
    assert_eq!(pair.established().unwrap().pushed.options, expected);
    assert!(said(&pair).len() > 12, "{:?}", said(&pair));
}

/// A server's reset that somebody made up: under this session id, for these acknowledgements.
fn reset(session: [u8; 8], echo: Option<[u8; 8]>) -> Vec<u8> {
    let first = [HARD_RESET_SERVER_V2 << 3];
    match echo {
        None => [&first, &session[..], &[0], &[0; 4]].concat(),
        Some(echo) => [&first, &session[..], &[1], &[0; 4], &echo[..], &[0; 4]].concat(),
    }
}

#[test]
fn a_spoofed_server_reset_changes_nothing_at_any_stage() {
    let stages: [fn(&Pair) -> bool; 4] = [
        |p| is_in(p, State::Wait),
        |p| is_in(p, State::Auth),
        |p| is_in(p, State::GetConfig),
        |p| p.established().is_some() && p.server_established().is_some(),
    ];
    let pki = Pki::new("ca");
    for wrap in [Wrap::None, Wrap::TlsCrypt { key: static_key() }] {
        for (number, stage) in stages.iter().enumerate() {
            let (mut client, mut server) = (client_setup(&pki), server_setup(&pki));
            client.wrap = wrap.clone();
            server.wrap = wrap.clone();
            let mut pair = Pair::new(client, server, 81);
            pair.connect(None);
            assert!(pair.run_until(20, stage), "{}", pair.story());
            let client_sid: [u8; 8] = pair.sent[0].2[1..9].try_into().unwrap();
            let mut spoofed = vec![reset([7; 8], None), reset([7; 8], Some([9; 8])), reset(client_sid, None)];
            // Who sees the packets knows the ids. Without a wrap the first answer to our reset is believed, later ones are not.
            if number > 0 || wrap != Wrap::None {
                spoofed.push(reset([7; 8], Some(client_sid)));
            }
            if number > 0 && wrap == Wrap::None {
                spoofed.push(reset(server_session(&pair), None));
            }
            pair.client.take_dropped();
            let known = pair.client_events.len();
            for _ in 0..50 {
                for bytes in &spoofed {
                    pair.deliver(Side::Client, bytes);
                }
            }
            pair.drain();
            let news: Vec<_> = pair.client_events[known..]
                .iter()
                .filter(|event| !matches!(event, Event::PeerAlive { .. } | Event::Record(_)))
                .collect();
            assert!(news.is_empty(), "stage {number}: {news:?}");
            let dropped: u64 = pair.client.take_dropped().iter().map(|(_, count)| *count).sum();
            assert!(dropped >= 150, "stage {number}: {dropped}");
            assert!(pair.run_until(30, |p| p.established().is_some()), "stage {number}: {}", pair.story());
            pair.client.renegotiate(pair.now, &mut pair.rng, 1);
            assert!(pair.run_until(20, |p| p.renegotiated(Side::Client).len() == 1), "stage {number}");
            assert_eq!(pair.ended(Side::Client), None, "stage {number}");
            pair.assert_keys_agree();
        }
    }
}

#[test]
fn auth_failed_is_said_at_once_and_is_no_timeout() {
    // At once, and after the server took its time: then the client is asking for its settings again and again.
    for thinks in [0, 20] {
        let mut pair = pair();
        pair.gate.open = false;
        let login = Credentials { username: "ann".into(), password: Secret(b"wrong".to_vec()) };
        pair.connect(Some(login));
        assert!(pair.run_until(10, |p| !p.logins().is_empty()));
        pair.run_for(thinks);
        assert_eq!(pair.ended(Side::Client), None);
        let login = pair.logins().remove(0);
        let refused_at = pair.now.at;
        let (generation, negotiation) = (login.generation, login.negotiation);
        assert!(pair.server.refuse(
            pair.now,
            &mut pair.rng,
            generation,
            negotiation,
            "AUTH_FAILED,no such user",
            "test"
        ));
        assert!(pair.run_until(60, |p| p.ended(Side::Client).is_some()));
        let ending = pair.ended(Side::Client);
        assert!(matches!(&ending, Some(Ending::AuthFailed { reason, .. }) if reason == "no such user"), "{ending:?}");
        let took = pair.now.at.since(refused_at);
        assert!(took <= Duration::from_millis(100), "ten times the way of a packet: {took:?}");
    }
}
