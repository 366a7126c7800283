//! Renegotiation from either side, its rules for keys, and its failures.

use std::time::Duration;

use controlplane::{Ending, Event, KeyEvent, KeyName, UsageReason, Wrap};

use crate::util::{Network, Pair, Pki, Side, client_setup, server_setup, static_key};

fn pair(seed: u64) -> Pair {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    let mut server = server_setup(&pki);
    client.wrap = Wrap::TlsCrypt { key: static_key() };
    server.wrap = Wrap::TlsCrypt { key: static_key() };
    let mut pair = Pair::new(client, server, seed);
    pair.establish();
    pair
}

fn start(pair: &mut Pair, side: Side) {
    match side {
        Side::Client => pair.client.renegotiate(pair.now, &mut pair.rng, 1),
        Side::Server => pair.server.renegotiate(pair.now, &mut pair.rng, 1),
    }
    pair.drain();
}

fn both_have(pair: &mut Pair, count: usize) -> bool {
    pair.run_until(70, |p| p.renegotiated(Side::Client).len() >= count && p.renegotiated(Side::Server).len() >= count)
}

#[test]
fn twenty_in_a_row_from_each_side_and_both_at_once() {
    let starters: [&[Side]; 3] = [&[Side::Client], &[Side::Server], &[Side::Client, Side::Server]];
    for sides in starters {
        let mut pair = pair(30);
        for n in 1..=20 {
            for side in sides {
                start(&mut pair, *side);
            }
            assert!(both_have(&mut pair, n), "{sides:?} {n}: {}", pair.story());
            pair.run_for(1);
        }
        let key_ids: Vec<u8> = pair.renegotiated(Side::Client).iter().map(|k| k.key_id).collect();
        assert_eq!(key_ids, [1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6, 7, 1, 2, 3, 4, 5, 6], "{sides:?}");
        let numbers: Vec<u32> = pair.renegotiated(Side::Server).iter().map(|k| k.negotiation).collect();
        assert_eq!(numbers, (1..=20).collect::<Vec<_>>(), "one negotiation each, also when both begin");
        pair.assert_keys_agree();
        assert_eq!(pair.ended(Side::Client), None);
    }
}

/// Who sees an unprotected control channel can begin renegotiations and break them, but not as fast as it can send.
#[test]
fn forged_soft_resets_do_not_make_a_storm() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 37);
    pair.establish();
    let of_server = |(side, _, _): &&(Side, _, Vec<u8>)| *side == Side::Server;
    let seen = pair.sent.iter().find(of_server).unwrap().2[1..9].to_vec();
    let forged = |opcode, key_id: u32, message_id: u8, payload: &[u8]| {
        let key_id = (1 + (key_id % 7)) as u8;
        [&[opcode << 3 | key_id], &seen[..], &[0, 0, 0, 0, message_id], payload].concat()
    };
    const SOFT_RESET: u8 = 3;
    const CONTROL: u8 = 4;
    for n in 0..70 {
        pair.deliver(Side::Client, &forged(SOFT_RESET, n, 0, b""));
        pair.deliver(Side::Client, &forged(CONTROL, n, 1, b"this is not TLS"));
        pair.drain();
    }
    let failed = |p: &Pair| {
        let events = p.events(Side::Client).iter();
        events.filter(|e| matches!(e, Event::RenegotiationFailed { .. })).count()
    };
    assert_eq!(failed(&pair), 1);
    assert_eq!(pair.ended(Side::Client), None);
}

#[test]
fn it_works_on_a_bad_network_from_both_sides() {
    for seed in 0..20 {
        let mut pair = pair(seed);
        pair.network = Network::BAD;
        start(&mut pair, Side::Client);
        if seed.is_multiple_of(2) {
            start(&mut pair, Side::Server);
        }
        assert!(both_have(&mut pair, 1), "seed {seed}: {}", pair.story());
        pair.assert_keys_agree();
    }
}

#[test]
fn the_client_acknowledges_the_servers_key_message_only_after_the_key_is_installed() {
    let mut pair = pair(31);
    pair.confirm_keys = false;
    start(&mut pair, Side::Client);
    pair.run_until(10, |p| p.keys(Side::Server).len() == 2);
    let key = pair.keys(Side::Server)[1].name;
    pair.confirm(Side::Server, key);
    pair.run_until(10, |p| p.keys(Side::Client).len() == 2);
    let from = pair.sent.len();
    pair.run_for(20);
    let client_packets = pair.sent[from..].iter().filter(|(s, _, _)| *s == Side::Client).count();
    let server_packets = pair.sent[from..].iter().filter(|(s, _, _)| *s == Side::Server).count();
    assert_eq!(client_packets, 0, "no acknowledgement goes out");
    assert!(server_packets >= 4, "the server repeats its key message");
    assert!(pair.renegotiated(Side::Server).is_empty() && pair.renegotiated(Side::Client).is_empty());
    let key = pair.keys(Side::Client)[1].name;
    let another = KeyName { negotiation: 9, ..key };
    pair.confirm(Side::Client, another);
    pair.drain();
    assert!(pair.renegotiated(Side::Client).is_empty(), "another key does not count");
    pair.confirm(Side::Client, key);
    assert!(both_have(&mut pair, 1));
}

#[test]
fn the_server_sends_its_key_message_only_after_the_key_is_installed() {
    let mut pair = pair(32);
    pair.confirm_keys = false;
    start(&mut pair, Side::Server);
    pair.run_for(10);
    assert_eq!(pair.keys(Side::Server).len(), 2);
    assert_eq!(pair.keys(Side::Client).len(), 1, "the client cannot make the key yet");
}

#[test]
fn a_new_key_sends_after_the_hand_window_counted_from_its_reset() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.reneg_sec = 3600;
    let mut pair = Pair::new(client, server_setup(&pki), 33);
    pair.establish();
    let begun = pair.now.at;
    start(&mut pair, Side::Client);
    assert!(both_have(&mut pair, 1));
    let key = &pair.keys(Side::Client)[1];
    assert_eq!(key.send_from_ns, (begun + Duration::from_secs(60)).0);
    assert!(key.retire_previous_ns >= (begun + Duration::from_secs(3600)).0);
}

#[test]
fn half_of_reneg_sec_bounds_the_switch() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.reneg_sec = 20;
    let mut pair = Pair::new(client, server_setup(&pki), 34);
    pair.establish();
    let begun = pair.now.at;
    start(&mut pair, Side::Client);
    assert!(both_have(&mut pair, 1));
    assert_eq!(pair.keys(Side::Client)[1].send_from_ns, (begun + Duration::from_secs(10)).0);
}

fn send_with(pair: &Pair) -> Vec<KeyName> {
    pair.client_events.iter().filter_map(|e| if let Event::SendWith(n) = e { Some(*n) } else { None }).collect()
}

#[test]
fn the_next_renegotiation_switches_to_the_newest_key() {
    let mut pair = pair(35);
    start(&mut pair, Side::Client);
    assert!(both_have(&mut pair, 1));
    assert_eq!(send_with(&pair), [], "the first key sends already");
    start(&mut pair, Side::Server);
    assert!(both_have(&mut pair, 2));
    assert_eq!(send_with(&pair), [pair.keys(Side::Client)[1].name]);
    // Once the worker says that it switched, there is nothing to say.
    let newest = pair.keys(Side::Client)[2].name;
    pair.key_event(Side::Client, KeyEvent::KeySending(newest));
    start(&mut pair, Side::Client);
    assert!(both_have(&mut pair, 3));
    assert_eq!(send_with(&pair).len(), 1);
}

#[test]
fn keys_age_by_reneg_sec_with_jitter() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.reneg_sec = 1000;
    let mut pair = Pair::new(client, server_setup(&pki), 36);
    pair.establish();
    pair.run_for(890);
    assert!(pair.renegotiated(Side::Client).is_empty());
    pair.run_for(115);
    assert_eq!(pair.renegotiated(Side::Client).len(), 1);
    pair.run_for(1005);
    assert_eq!(pair.renegotiated(Side::Client).len(), 2);
    pair.assert_keys_agree();
}

#[test]
fn usage_of_the_newest_key_asks_for_the_next() {
    let mut pair = pair(37);
    let first = pair.keys(Side::Client)[0].name;
    pair.key_event(Side::Client, KeyEvent::KeyUsage(KeyName { generation: 9, ..first }, UsageReason::Bytes));
    pair.run_for(5);
    assert!(pair.renegotiated(Side::Client).is_empty(), "another generation");
    pair.key_event(Side::Client, KeyEvent::KeyUsage(first, UsageReason::Bytes));
    assert!(both_have(&mut pair, 1));
    pair.key_event(Side::Client, KeyEvent::KeyUsage(first, UsageReason::Bytes));
    pair.run_for(5);
    assert_eq!(pair.renegotiated(Side::Client).len(), 1, "an old key does not ask");
}

#[test]
fn a_renegotiation_without_answer_fails_is_tried_again_with_the_same_key_id_and_succeeds() {
    let mut pair = pair(38);
    pair.network = Network::DEAD;
    start(&mut pair, Side::Client);
    pair.run_for(65);
    assert!(pair.client_events.iter().any(|e| matches!(e, Event::RenegotiationFailed { .. })));
    assert_eq!(pair.ended(Side::Client), None, "the old key goes on");
    pair.network = Network::GOOD;
    assert!(both_have(&mut pair, 1), "{}", pair.story());
    let name = pair.renegotiated(Side::Client)[0];
    assert_eq!((name.key_id, name.negotiation), (1, 2), "the key-id is the server's, the number never repeats");
}

#[test]
fn a_session_ends_when_its_last_key_expires_without_a_successor() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.tran_window = 200;
    let mut pair = Pair::new(client, server_setup(&pki), 39);
    pair.establish();
    pair.network = Network::DEAD;
    start(&mut pair, Side::Client);
    pair.run_for(199);
    assert_eq!(pair.ended(Side::Client), None);
    pair.run_for(2);
    assert!(matches!(pair.ended(Side::Client), Some(Ending::HandshakeTimeout { .. })));
}

#[test]
fn a_refused_key_fails_the_renegotiation_only() {
    let mut pair = pair(40);
    pair.confirm_keys = false;
    start(&mut pair, Side::Client);
    pair.run_until(10, |p| p.keys(Side::Server).len() == 2);
    let key = pair.keys(Side::Server)[1].name;
    pair.confirm(Side::Server, key);
    pair.run_until(10, |p| p.keys(Side::Client).len() == 2);
    let key = pair.keys(Side::Client)[1].name;
    pair.key_event(Side::Client, KeyEvent::KeyRefused(key, controlplane::KeyRefusal::BadKey));
    pair.drain();
    assert!(pair.client_events.iter().any(|e| matches!(e, Event::RenegotiationFailed { .. })));
    assert_eq!(pair.ended(Side::Client), None);
}

#[test]
fn the_wraps_counter_runs_on_across_renegotiations() {
    let mut pair = pair(41);
    start(&mut pair, Side::Client);
    assert!(both_have(&mut pair, 1));
    for side in [Side::Client, Side::Server] {
        let ids: Vec<u32> = pair
            .sent
            .iter()
            .filter(|(from, _, _)| *from == side)
            .map(|(_, _, b)| u32::from_be_bytes([b[9], b[10], b[11], b[12]]))
            .collect();
        assert!(ids.windows(2).all(|two| two[0] < two[1]), "{side:?} {ids:?}");
    }
}

#[test]
fn a_login_that_is_no_longer_good_ends_the_session_at_the_renegotiation() {
    use controlplane::{Credentials, Secret};
    let pki = Pki::new("ca");
    let login = |password: &str| Credentials { username: "ann".into(), password: Secret(password.into()) };
    for (nocache, survives) in [(false, true), (true, false)] {
        let mut client = client_setup(&pki);
        client.auth_nocache = nocache;
        let mut pair = Pair::new(client, server_setup(&pki), 42);
        pair.gate.users = Some(vec![login("secret")]);
        pair.connect(Some(login("secret")));
        pair.run_for(3);
        assert!(pair.established().is_some());
        start(&mut pair, Side::Client);
        pair.run_for(8);
        assert_eq!(pair.renegotiated(Side::Client).len() == 1, survives);
        let refused = matches!(pair.ended(Side::Client), Some(Ending::AuthFailed { .. }));
        assert_eq!(refused, !survives, "auth-nocache has forgotten the password");
    }
}

#[test]
fn a_certificate_that_expires_meanwhile_fails_the_renegotiation_but_not_the_key() {
    let pki = Pki::new("ca");
    let leaf = pki.leaf(&crate::util::pki::Leaf {
        not_after: 2027,
        ..crate::util::pki::Leaf::named("server", rcgen::ExtendedKeyUsagePurpose::ServerAuth)
    });
    let mut server = server_setup(&pki);
    server.tls = crate::util::tls_setup(&pki, &leaf);
    let mut pair = Pair::new(client_setup(&pki), server, 43);
    pair.establish();
    pair.run_for(60 * 86_400);
    start(&mut pair, Side::Client);
    pair.run_for(5);
    let failed = pair
        .client_events
        .iter()
        .any(|e| matches!(e, Event::RenegotiationFailed { why, .. } if why.contains("expired on 2027-01-01")));
    assert!(failed, "{}", pair.story());
    assert_eq!(pair.ended(Side::Client), None);
}

/// A key that no packet came for is sent with after half the key's age, at most after `hand-window`; where keys do not
/// age, after 4 s.
#[test]
fn a_new_key_is_sent_with_at_a_time_that_is_counted_from_its_reset() {
    for (reneg_sec, hand_window, expected) in [(0, 60, 4), (0, 3, 3), (100, 60, 50), (200, 60, 60), (3600, 5, 5)] {
        let pki = Pki::new("ca");
        let mut client = client_setup(&pki);
        let mut server = server_setup(&pki);
        (client.reneg_sec, client.hand_window) = (reneg_sec, hand_window);
        (server.reneg_sec, server.hand_window) = (reneg_sec, hand_window);
        let mut pair = Pair::new(client, server, 38);
        pair.establish();
        let (begun, delay) = (pair.now.at, pair.network.delay);
        start(&mut pair, Side::Client);
        assert!(both_have(&mut pair, 1), "{}", pair.story());
        for (side, reset_sent) in [(Side::Client, begun), (Side::Server, begun + delay)] {
            let send_from = reset_sent + Duration::from_secs(expected);
            assert_eq!(
                pair.keys(side)[1].send_from_ns,
                send_from.0,
                "{side:?}, reneg-sec {reneg_sec}, hand-window {hand_window}"
            );
        }
    }
}
