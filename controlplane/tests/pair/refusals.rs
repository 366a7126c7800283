//! What ends a session, and what must not.

use std::time::Duration;

use controlplane::{Cipher, Credentials, Digest, Ending, Event, Secret, Wrap};

use crate::util::{Network, Pair, Pki, Side, client_path, client_setup, server_setup, static_key};

fn login(username: &str, password: &str) -> Credentials {
    Credentials { username: username.into(), password: Secret(password.into()) }
}

fn pair() -> Pair {
    let pki = Pki::new("ca");
    Pair::new(client_setup(&pki), server_setup(&pki), 20)
}

#[test]
fn a_server_that_never_stops_talking_is_heard_for_a_while() {
    let mut pair = pair();
    pair.establish();
    let flood = format!("INFO,a{}", "\0INFO,a".repeat(2_000));
    pair.server.dismiss(pair.now, &mut pair.rng, 1, &flood);
    pair.drain();
    pair.run_for(3);
    let told = pair.events(Side::Client).iter().filter(|e| matches!(e, Event::Info { .. })).count();
    assert_eq!(told, 32);
}

#[test]
fn a_forged_certificate_with_an_endless_name_makes_a_short_sentence() {
    let stranger = Pki::new("stranger");
    let name = "\u{1b}".repeat(30_000);
    let forged = stranger.leaf(&crate::util::pki::Leaf::named(&name, rcgen::ExtendedKeyUsagePurpose::ServerAuth));
    let pki = Pki::new("ca");
    let mut server = server_setup(&pki);
    server.tls.cert_pem = forged.cert_pem;
    server.tls.key_pem = Secret(forged.key_pem.into_bytes());
    let mut pair = Pair::new(client_setup(&pki), server, 26);
    pair.connect(None);
    pair.run_for(30);
    let Some(Ending::Tls(sentence)) = pair.ended(Side::Client) else { panic!("{}", pair.story()) };
    assert!(sentence.len() < 2_048, "{}", sentence.len());
    assert!(!sentence.contains('\u{1b}'));
}

#[test]
fn nobody_there_is_unanswered_after_the_hand_window() {
    let mut pair = pair();
    pair.network = Network::DEAD;
    pair.connect(None);
    pair.run_for(59);
    assert_eq!(pair.ended(Side::Client), None);
    pair.run_for(2);
    assert_eq!(pair.ended(Side::Client), Some(Ending::Unanswered));
    let resets: Vec<_> = pair.sent.iter().map(|(_, at, bytes)| (*at, bytes[0])).collect();
    assert!(resets.len() >= 29, "{}", resets.len());
    for two in resets.windows(2) {
        assert_eq!(two[1].1, 0x38);
        assert!(two[1].0.since(two[0].0) <= Duration::from_secs(2));
    }
}

#[test]
fn a_server_that_falls_silent_is_a_handshake_timeout() {
    let mut pair = pair();
    pair.connect(None);
    pair.run_until(1, |p| {
        p.client_events.iter().any(|e| matches!(e, Event::State { state: controlplane::State::Auth, .. }))
    });
    pair.network = Network::DEAD;
    pair.drop_in_flight();
    pair.run_for(61);
    assert!(
        matches!(pair.ended(Side::Client), Some(Ending::HandshakeTimeout { awaiting }) if awaiting.contains("TLS")),
        "{:?}",
        pair.ended(Side::Client)
    );
}

#[test]
fn another_tls_crypt_key_is_silence() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    let mut server = server_setup(&pki);
    client.wrap = Wrap::TlsCrypt { key: static_key() };
    let mut other = static_key();
    other.0.iter_mut().for_each(|b| *b ^= 1);
    server.wrap = Wrap::TlsCrypt { key: other };
    let mut pair = Pair::new(client, server, 21);
    pair.connect(None);
    pair.run_for(61);
    assert_eq!(pair.ended(Side::Client), Some(Ending::Unanswered));
    assert!(pair.server.take_dropped().iter().any(|(reason, n)| reason == "bad_tag" && *n > 10));
}

#[test]
fn the_same_key_direction_on_both_sides_is_silence() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    let mut server = server_setup(&pki);
    let wrap = Wrap::TlsAuth { key: static_key(), direction: Some(1), digest: Digest::Sha1 };
    client.wrap = wrap.clone();
    server.wrap = wrap;
    let mut pair = Pair::new(client, server, 22);
    pair.connect(None);
    pair.run_for(61);
    assert_eq!(pair.ended(Side::Client), Some(Ending::Unanswered));
}

#[test]
fn logins_are_checked() {
    let pki = Pki::new("ca");
    let users = vec![login("ann", "secret"), login("bob", "other")];
    for (given, good) in [
        (Some(login("ann", "secret")), true),
        (Some(login("bob", "other")), true),
        (Some(login("ann", "other")), false),
        (Some(login("ann", "secre")), false),
        (None, false),
    ] {
        let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 23);
        pair.gate.users = Some(users.clone());
        pair.connect(given);
        pair.run_for(8);
        assert_eq!(pair.established().is_some(), good);
        let refused = matches!(
            pair.ended(Side::Client),
            Some(Ending::AuthFailed { retry_after: None, session_token: false, .. })
        );
        assert_eq!(refused, !good);
        assert_eq!(pair.server.sessions(), usize::from(good));
    }
}

#[test]
fn no_shared_cipher_is_said_by_the_server() {
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.data_ciphers = vec![Cipher::ChaCha20Poly1305];
    let mut server = server_setup(&pki);
    server.data_ciphers = vec![Cipher::Aes128Gcm];
    let mut pair = Pair::new(client, server, 24);
    pair.connect(None);
    pair.run_for(5);
    assert!(
        matches!(pair.ended(Side::Client), Some(Ending::AuthFailed { reason, .. }) if reason.contains("no shared cipher"))
    );
}

#[test]
fn a_pushed_flag_that_was_not_offered_is_incompatible() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 25);
    pair.gate.admission.push.push("protocol-flags tls-ekm aead-epoch".into());
    pair.connect(None);
    pair.run_for(5);
    assert!(
        matches!(pair.ended(Side::Client), Some(Ending::Incompatible(why)) if why.contains("aead-epoch")),
        "{:?}",
        pair.ended(Side::Client)
    );
}

#[test]
fn a_server_that_uses_a_cipher_of_its_own_is_incompatible() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 28);
    // The later of two wins: a server that pushes another cipher than the one it chose.
    pair.gate.admission.push.push("push-continuation 2".into());
    pair.connect(None);
    pair.run_until(5, |p| p.server_established().is_some());
    pair.server.dismiss(pair.now, &mut pair.rng, 1, "PUSH_REPLY,cipher AES-128-CBC,push-continuation 1");
    pair.run_for(5);
    assert!(
        matches!(pair.ended(Side::Client), Some(Ending::Incompatible(why)) if why.contains("AES-128-CBC")),
        "{:?}",
        pair.ended(Side::Client)
    );
}

#[test]
fn a_server_that_never_pushes_is_a_handshake_timeout_and_auth_pending_prolongs_it() {
    let pki = Pki::new("ca");
    for (pending, lasts) in
        [(None, 62), (Some("AUTH_PENDING,timeout 90"), 92), (Some("AUTH_PENDING,timeout 9999"), 102)]
    {
        let mut client = client_setup(&pki);
        client.reneg_sec = 200;
        let mut pair = Pair::new(client, server_setup(&pki), 29);
        pair.gate.admission.push.push("push-continuation 2".into());
        pair.connect(None);
        pair.run_until(5, |p| p.server_established().is_some());
        if let Some(text) = pending {
            pair.server.dismiss(pair.now, &mut pair.rng, 1, text);
        }
        pair.run_for(lasts - 4);
        assert_eq!(pair.ended(Side::Client), None, "{pending:?}");
        pair.run_for(5);
        assert!(
            matches!(pair.ended(Side::Client), Some(Ending::HandshakeTimeout { awaiting }) if awaiting == "PUSH_REPLY")
        );
    }
}

#[test]
fn messages_that_end_a_session() {
    type Expected = fn(&Ending) -> bool;
    let cases: [(&str, Expected); 5] = [
        ("RESTART", |e| matches!(e, Ending::Restart { next_remote: false, .. })),
        ("RESTART,[N]:go", |e| matches!(e, Ending::Restart { next_remote: true, message } if message == "go")),
        ("HALT,closed", |e| matches!(e, Ending::Halt(why) if why == "closed")),
        ("EXIT", |e| *e == Ending::PeerExited),
        ("AUTH_FAILED,SESSION: token expired", |e| matches!(e, Ending::AuthFailed { session_token: true, .. })),
    ];
    for (text, expected) in cases {
        let mut pair = pair();
        pair.establish();
        pair.server.dismiss(pair.now, &mut pair.rng, 1, text);
        pair.run_for(8);
        let ending = pair.ended(Side::Client).unwrap();
        assert!(expected(&ending), "{text}: {ending:?}");
        assert_eq!(pair.server.sessions(), 0);
        let last_client = pair.sent.iter().rev().find(|(from, _, _)| *from == Side::Client).unwrap();
        assert_eq!(last_client.2[0] >> 3, 5, "the message is acknowledged before the session ends");
    }
}

#[test]
fn other_messages_do_not_end_a_session() {
    for text in ["INFO,hello", "INFO_PRE,WEB_AUTH::x", "NONSENSE", "PUSH_REPLY,route 1.2.3.4", "RESTARTED", "EXIT\tNOW"]
    {
        let mut pair = pair();
        pair.establish();
        pair.server.dismiss(pair.now, &mut pair.rng, 1, text);
        pair.run_for(8);
        assert_eq!(pair.ended(Side::Client), None, "{text}");
        let info = pair.client_events.iter().any(|e| matches!(e, Event::Info { .. }));
        assert_eq!(info, text.starts_with("INFO"));
    }
}

#[test]
fn a_token_replaces_the_password() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 26);
    pair.gate.admission.token = Some(Secret(b"SESS_ID_AT_abc".to_vec()));
    pair.gate.admission.push.push("auth-token-user YW5u".into());
    pair.connect(Some(login("x", "y")));
    pair.run_for(3);
    assert!(pair.client_events.iter().any(|e| matches!(
        e,
        Event::AuthToken { token, username: Some(u), .. } if token.0 == b"SESS_ID_AT_abc" && u == "ann"
    )));
    let record = pair.last_record().unwrap();
    assert_eq!(record.auth_token, Some(Secret(b"SESS_ID_AT_abc".to_vec())));
    assert_eq!(record.auth_token_user.as_deref(), Some("ann"));
    assert_eq!(pair.established().unwrap().pushed.options.len(), 2, "the token is not an option for others");
}

#[test]
fn garbage_and_strangers_change_nothing() {
    for wrap in [Wrap::None, Wrap::TlsCrypt { key: static_key() }] {
        let pki = Pki::new("ca");
        let mut client = client_setup(&pki);
        let mut server = server_setup(&pki);
        client.wrap = wrap.clone();
        server.wrap = wrap.clone();
        let mut pair = Pair::new(client, server, 27);
        pair.establish();
        let before = pair.client_events.len();
        let samples: Vec<Vec<u8>> = pair.sent.iter().map(|(_, _, bytes)| bytes.clone()).collect();
        for bytes in &samples {
            // Reflected, truncated, damaged: from the right address.
            for len in 0..bytes.len().min(60) {
                pair.deliver(Side::Client, &bytes[..len]);
            }
            for bit in 0..80 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                pair.deliver(Side::Client, &damaged);
            }
        }
        // A hard reset of another server session.
        let mut reset = vec![0x40];
        reset.extend_from_slice(&[7; 8]);
        reset.extend_from_slice(&[0, 0, 0, 0, 0]);
        pair.deliver(Side::Client, &reset);
        pair.drain();
        pair.run_for(5);
        assert_eq!(pair.ended(Side::Client), None);
        let others: Vec<_> = pair.client_events[before..]
            .iter()
            .filter(|e| !matches!(e, Event::PeerAlive { .. } | Event::Record(_)))
            .collect();
        if wrap != Wrap::None {
            assert!(others.is_empty(), "{others:?}");
        }
        assert!(!pair.client.take_dropped().is_empty());
        assert!(pair.client.take_dropped().is_empty(), "counters start anew");
    }
}

#[test]
fn a_packet_from_another_address_is_not_taken() {
    let mut pair = pair();
    pair.network = Network::DEAD;
    pair.connect(None);
    let reset = pair.sent[0].2.clone();
    pair.server.handle_datagram(pair.now, &mut pair.rng, &crate::util::server_path(), &reset);
    let controlplane::Output::Transmit { bytes: reply, .. } = pair.server.poll_output() else { panic!() };
    let mut elsewhere = client_path();
    elsewhere.remote.set_port(1195);
    pair.client.handle_datagram(pair.now, &mut pair.rng, &elsewhere, &reply);
    assert_eq!(pair.client.take_dropped(), [("wrong_address".to_owned(), 1)]);
    pair.client.handle_datagram(pair.now, &mut pair.rng, &client_path(), &reply);
    assert_eq!(pair.client.take_dropped(), []);
}

#[test]
fn a_reset_that_does_not_echo_our_session_id_is_not_taken() {
    let mut pair = pair();
    pair.network = Network::DEAD;
    pair.connect(None);
    let reset = pair.sent[0].2.clone();
    pair.deliver(Side::Server, &reset);
    let controlplane::Output::Transmit { bytes: reply, .. } = pair.server.poll_output() else { panic!() };
    let mut spoofed = reply.clone();
    spoofed[14] ^= 1; // in the echoed session id
    pair.deliver(Side::Client, &spoofed);
    let mut no_ack = reply[..9].to_vec();
    no_ack.extend_from_slice(&[0, 0, 0, 0, 0]);
    pair.deliver(Side::Client, &no_ack);
    pair.drain();
    let auth =
        |p: &Pair| p.client_events.iter().any(|e| matches!(e, Event::State { state: controlplane::State::Auth, .. }));
    assert!(!auth(&pair));
    pair.deliver(Side::Client, &reply);
    pair.drain();
    assert!(auth(&pair));
}

#[test]
fn forget_is_silent() {
    let mut pair = pair();
    pair.establish();
    let events = pair.client_events.len();
    pair.client.forget(1);
    pair.run_for(30);
    assert_eq!(pair.client_events.len(), events);
}

/// A plain packet of the server's session, made by somebody who knows its session id.
fn forged(pair: &Pair, first_byte: u8, rest: &[u8]) -> Vec<u8> {
    let from_server = pair.sent.iter().find(|(from, _, _)| *from == Side::Server);
    let sid = &from_server.unwrap().2[1..9];
    [&[first_byte], sid, rest].concat()
}

fn only_drop(pair: &mut Pair, bytes: &[u8]) -> String {
    pair.client.take_dropped();
    pair.deliver(Side::Client, bytes);
    pair.drain();
    let dropped = pair.client.take_dropped();
    assert!(dropped.len() <= 1, "{dropped:?}");
    dropped.into_iter().next().map(|(reason, _)| reason).unwrap_or_default()
}

#[test]
fn a_packet_of_another_session_is_not_taken() {
    let mut pair = pair();
    pair.establish();
    pair.run_for(5);
    let soft_reset = [0, 0, 0, 0, 0];
    let mut other = forged(&pair, 0x19, &soft_reset);
    other[3] ^= 1;
    assert_eq!(only_drop(&mut pair, &other), "unknown_session");
    assert_eq!(pair.last_record().unwrap().next_key_id, 1);
    let right = forged(&pair, 0x19, &soft_reset);
    assert_eq!(only_drop(&mut pair, &right), "");
    assert_eq!(
        pair.last_record().unwrap().next_key_id,
        2,
        "the same packet of the right session begins a renegotiation"
    );
}

#[test]
fn a_soft_reset_of_a_key_id_that_is_not_the_next_is_not_taken() {
    let mut pair = pair();
    pair.establish();
    for key_id in [2, 3, 7] {
        let packet = forged(&pair, 0x18 | key_id, &[0, 0, 0, 0, 0]);
        assert_eq!(only_drop(&mut pair, &packet), "wrong_key_id");
    }
}

#[test]
fn a_key_id_begins_with_its_own_kind_of_reset() {
    let mut pair = pair();
    pair.establish();
    pair.network = Network::DEAD;
    pair.client.renegotiate(pair.now, &mut pair.rng, 1);
    pair.drain();
    let control = forged(&pair, 0x21, &[0, 0, 0, 0, 0, 22, 3, 3]);
    assert_eq!(only_drop(&mut pair, &control), "unexpected_state");
    let hard = forged(&pair, 0x41, &[0, 0, 0, 0, 0]);
    assert_eq!(only_drop(&mut pair, &hard), "unexpected_opcode");
    let soft = forged(&pair, 0x19, &[0, 0, 0, 0, 0]);
    assert_eq!(only_drop(&mut pair, &soft), "");
}

#[test]
fn answers_to_resets_are_limited() {
    let mut pair = pair();
    pair.network = Network::DEAD;
    pair.connect(None);
    let reset = pair.sent[0].2.clone();
    let mut answers = 0;
    for _ in 0..150 {
        pair.deliver(Side::Server, &reset);
        while matches!(pair.server.poll_output(), controlplane::Output::Transmit { .. }) {
            answers += 1;
        }
    }
    assert_eq!(answers, 100);
    assert_eq!(pair.server.take_dropped(), [("rate_limited".to_owned(), 50)]);
    assert_eq!(pair.server.sessions(), 0, "a reset leaves no state");
}

#[test]
fn a_full_server_takes_nobody_in() {
    let pki = Pki::new("ca");
    let mut server = server_setup(&pki);
    server.max_clients = 0;
    let mut pair = Pair::new(client_setup(&pki), server, 70);
    pair.connect(None);
    pair.run_for(5);
    assert_eq!(pair.server.sessions(), 0);
    assert!(pair.server.take_dropped().iter().any(|(reason, _)| reason == "too_many_sessions"));
}

#[test]
fn the_peers_presence_is_reported_at_most_once_a_second() {
    let mut pair = pair();
    let begun = pair.now.at;
    pair.establish();
    pair.run_for(2);
    let seconds = pair.now.at.since(begun).as_secs() as usize;
    let alive = pair.client_events.iter().filter(|e| matches!(e, Event::PeerAlive { .. })).count();
    assert!((1..=seconds + 1).contains(&alive), "{alive} in {seconds} s");
}
