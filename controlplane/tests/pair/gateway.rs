//! One server and its clients: logins that somebody else judges, who may take whose place, moves, and another certificate
//! list for what follows.

use controlplane::{
    Admission, ClientCertificate, Credentials, Ending, Event, KeyEvent, Secret, Server, ServerSetup, Wrap,
};
use rcgen::ExtendedKeyUsagePurpose::ClientAuth;

use crate::util::crowd::{Crowd, address, path};
use crate::util::pki::Leaf;
use crate::util::{Pair, Pki, Side, client_setup, server_setup, static_key, tls_setup};

fn login(username: &str, password: &str) -> Credentials {
    Credentials { username: username.into(), password: Secret(password.into()) }
}

fn crypt() -> Wrap {
    Wrap::TlsCrypt { key: static_key() }
}

fn setup(pki: &Pki) -> ServerSetup {
    ServerSetup { wrap: crypt(), max_clients: 100, ..server_setup(pki) }
}

fn client(pki: &Pki) -> controlplane::ClientSetup {
    controlplane::ClientSetup { wrap: crypt(), ..client_setup(pki) }
}

fn crowd_of(pki: &Pki, count: usize) -> Crowd {
    let mut crowd = Crowd::new(setup(pki), 80);
    (0..count).for_each(|n| {
        crowd.join(client(pki), n, None);
    });
    assert!(crowd.run_until(10, Crowd::all_established));
    crowd.run_for(1);
    crowd
}

fn pair(seed: u64) -> Pair {
    let pki = Pki::new("ca");
    Pair::new(client(&pki), setup(&pki), seed)
}

#[test]
fn forty_clients_at_once_get_peers_of_their_own() {
    let pki = Pki::new("ca");
    let crowd = crowd_of(&pki, 40);
    let mut peers: Vec<u32> = crowd.logins().iter().map(|l| l.peer).collect();
    peers.sort_unstable();
    assert_eq!(peers, (0..40).collect::<Vec<_>>());
    assert_eq!(crowd.server.sessions(), 40);
    assert_eq!((crowd.server.worker_of(5), crowd.endings()), (0, Vec::new()));
}

#[test]
fn a_login_says_who_the_client_is() {
    let pki = Pki::new("ca");
    let mut setup = client(&pki);
    setup.peer_info = vec![("UV_ID".into(), "x".into())];
    let mut pair = Pair::new(setup, self::setup(&pki), 81);
    pair.connect(Some(login("a\tnn", "secret")));
    assert!(pair.run_until(5, |p| p.established().is_some()));
    let login = &pair.logins()[0];
    assert_eq!((login.generation, login.negotiation, login.peer, login.wire_peer_id), (1, 0, 0, Some(0)));
    assert_eq!((login.username.as_str(), &login.password), ("a_nn", &Secret(b"secret".to_vec())));
    assert_eq!(login.path, crate::util::server_path());
    assert!(login.peer_info.contains(&("UV_ID".into(), "x".into())), "{:?}", login.peer_info);
    let certificate = login.certificate.as_ref().unwrap();
    assert_eq!(certificate.common_name, "client");
    assert_eq!(certificate.subject, "C=NL, O=Test, CN=client");
    assert_eq!((certificate.serial.as_str(), certificate.serial_hex.as_str()), ("4354", "11:02"));
    assert_eq!(certificate.sha256, controlplane::crypto::sha256(&pki.client.der));
    assert_eq!(certificate.sha1, controlplane::crypto::sha1(&pki.client.der));
    assert_eq!(certificate.not_after, 2_208_988_800, "2040-01-01");
    assert_eq!(certificate.chain_subjects, ["C=NL, O=Test, CN=client", "C=NL, O=Test, CN=ca"]);
    let fields: Vec<(&str, &str)> = certificate.fields.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
    assert_eq!(fields, [("C", "NL"), ("O", "Test"), ("CN", "client")]);
}

#[test]
fn nothing_is_installed_or_pushed_before_the_login_is_accepted() {
    use controlplane::controlchannel::peer_info::iv_proto;
    let pki = Pki::new("ca");
    for mask in [0, iv_proto::REQUEST_PUSH] {
        let mut setup = client(&pki);
        setup.iv_proto_mask = mask;
        let mut pair = Pair::new(setup, self::setup(&pki), 82);
        pair.gate.open = false;
        pair.connect(None);
        pair.run_for(20);
        assert_eq!(pair.logins().len(), 1);
        assert!(pair.keys(Side::Server).is_empty() && pair.keys(Side::Client).is_empty());
        let admission = pair.gate.admission.clone();
        let (now, rng) = (pair.now, &mut pair.rng);
        assert!(!pair.server.admit(now, rng, 1, 1, admission.clone()), "another negotiation");
        assert!(!pair.server.admit(now, rng, 2, 0, admission.clone()), "another session");
        pair.drain();
        assert!(pair.keys(Side::Server).is_empty());
        assert!(pair.server.admit(pair.now, &mut pair.rng, 1, 0, admission.clone()));
        assert!(!pair.server.admit(pair.now, &mut pair.rng, 1, 0, admission), "once");
        // The client that had asked meanwhile does not ask again.
        let sent = pair.sent.len();
        assert!(pair.run_until(1, |p| p.established().is_some()), "{}", pair.story());
        assert!(pair.sent[sent..].iter().any(|(from, _, _)| *from == Side::Server));
        pair.assert_keys_agree();
    }
}

#[test]
fn a_login_that_nobody_judges_is_refused_after_the_hand_window() {
    let mut pair = pair(83);
    pair.gate.open = false;
    pair.connect(None);
    pair.run_for(59);
    assert_eq!(pair.ended(Side::Server), None);
    pair.run_for(7);
    assert!(matches!(pair.ended(Side::Server), Some(Ending::AuthFailed { reason, .. }) if reason.contains("judged")));
    assert!(pair.ended(Side::Client).is_some());
    let admission = pair.gate.admission.clone();
    assert!(!pair.server.admit(pair.now, &mut pair.rng, 1, 0, admission), "too late");
    assert!(pair.keys(Side::Server).is_empty());
    assert_eq!(pair.server.sessions(), 0);
}

#[test]
fn a_login_that_is_deferred_may_take_longer_and_the_client_waits() {
    use controlplane::controlchannel::peer_info::iv_proto;
    let pki = Pki::new("ca");
    for waits in [true, false] {
        let mut setup = client(&pki);
        setup.iv_proto_mask = if waits { 0 } else { iv_proto::AUTH_PENDING_KW };
        // Half of it is how long a client lets itself be kept waiting.
        setup.reneg_sec = 3_600;
        let mut pair = Pair::new(setup, self::setup(&pki), 88);
        pair.gate.open = false;
        pair.connect(None);
        assert!(pair.run_until(5, |p| p.logins().len() == 1));
        let (now, rng) = (pair.now, &mut pair.rng);
        assert!(!pair.server.defer(now, rng, 1, 1, 120, None), "another negotiation");
        assert!(pair.server.defer(now, rng, 1, 0, 120, Some("WEB_AUTH::https://example.com/\n")));
        pair.drain();
        pair.run_for(100);
        assert_eq!(pair.ended(Side::Server), None, "the server waits");
        let events = |wanted: fn(&Event) -> bool| pair.client_events.iter().filter(|event| wanted(event)).count();
        let pending = events(|e| matches!(e, Event::State { state: controlplane::State::AuthPending, .. }));
        let told = events(|e| matches!(e, Event::Info { text, .. } if text.contains("WEB_AUTH")));
        assert_eq!((pending, told), if waits { (1, 1) } else { (0, 0) }, "{}", pair.story());
        assert_eq!(pair.ended(Side::Client).is_none(), waits, "{}", pair.story());
        if waits {
            let admission = pair.gate.admission.clone();
            assert!(pair.server.admit(pair.now, &mut pair.rng, 1, 0, admission));
            assert!(pair.run_until(5, |p| p.established().is_some()), "{}", pair.story());
        }
        let (now, rng) = (pair.now, &mut pair.rng);
        assert!(!pair.server.defer(now, rng, 1, u32::from(!waits), 120, None), "nothing waits any more");
    }
}

fn renegotiate(pair: &mut Pair) {
    pair.server.renegotiate(pair.now, &mut pair.rng, 1);
    pair.drain();
}

#[test]
fn a_renegotiation_waits_for_its_login() {
    let mut pair = pair(84);
    pair.establish();
    pair.gate.open = false;
    renegotiate(&mut pair);
    pair.run_for(10);
    assert_eq!(pair.logins().last().unwrap().negotiation, 1);
    assert_eq!((pair.keys(Side::Server).len(), pair.keys(Side::Client).len()), (1, 1));
    let admission = Admission::default();
    assert!(!pair.server.admit(pair.now, &mut pair.rng, 1, 0, admission.clone()), "the first was judged");
    assert!(pair.server.admit(pair.now, &mut pair.rng, 1, 1, admission));
    assert!(pair.run_until(5, |p| p.renegotiated(Side::Client).len() == 1), "{}", pair.story());
    pair.assert_keys_agree();
}

#[test]
fn a_renegotiation_whose_login_nobody_judges_fails_and_the_old_key_goes_on() {
    let mut pair = pair(85);
    pair.establish();
    pair.gate.open = false;
    renegotiate(&mut pair);
    pair.run_for(61);
    let failed = pair
        .server_events
        .iter()
        .any(|e| matches!(e, Event::RenegotiationFailed { why, .. } if why.contains("the answer to its login")));
    assert!(failed, "{}", pair.story());
    assert_eq!(pair.ended(Side::Server), None);
    assert!(!pair.server.admit(pair.now, &mut pair.rng, 1, 1, Admission::default()), "too late");
}

#[test]
fn a_refusal_in_a_renegotiation_ends_the_session_and_its_keys_at_once() {
    let mut pair = pair(86);
    pair.establish();
    pair.gate.open = false;
    renegotiate(&mut pair);
    pair.run_until(5, |p| p.logins().len() == 2);
    assert!(!pair.server.refuse(pair.now, &mut pair.rng, 1, 2, "AUTH_FAILED", "there is no such negotiation"));
    assert!(pair.server.refuse(pair.now, &mut pair.rng, 1, 1, "AUTH_FAILED,go\naway", "not any more"));
    pair.drain();
    let dropped =
        |p: &Pair| p.server_events.iter().filter(|e| matches!(e, Event::DropKeys { generation: 1, .. })).count();
    assert_eq!(dropped(&pair), 1);
    pair.run_for(2);
    assert!(matches!(pair.ended(Side::Client), Some(Ending::AuthFailed { reason, .. }) if reason == "go_away"));
    assert_eq!(pair.ended(Side::Server), None, "it may still have to be told again");
    assert!(!pair.server.admit(pair.now, &mut pair.rng, 1, 1, Admission::default()));
    pair.run_for(4);
    assert!(matches!(pair.ended(Side::Server), Some(Ending::AuthFailed { reason, .. }) if reason == "not any more"));
    assert_eq!((pair.server.sessions(), dropped(&pair), pair.keys(Side::Server).len()), (0, 1, 1));
}

#[test]
fn a_login_that_was_accepted_can_still_be_refused() {
    let mut pair = pair(87);
    pair.establish();
    assert!(pair.server.refuse(pair.now, &mut pair.rng, 1, 0, "AUTH_FAILED", "second thoughts"));
    pair.run_for(1);
    assert!(matches!(pair.ended(Side::Client), Some(Ending::AuthFailed { .. })));
    pair.run_for(6);
    assert_eq!(pair.server.sessions(), 0);
    assert!(!pair.server.refuse(pair.now, &mut pair.rng, 1, 0, "AUTH_FAILED", "it has gone"));
}

#[test]
fn a_second_dismissal_does_not_prolong_the_session() {
    let mut pair = pair(88);
    pair.establish();
    pair.network = crate::util::Network::DEAD;
    pair.server.dismiss(pair.now, &mut pair.rng, 1, "RESTART");
    pair.run_for(4);
    pair.server.dismiss(pair.now, &mut pair.rng, 1, "RESTART");
    pair.run_for(2);
    assert_eq!(pair.server.sessions(), 0);
}

#[test]
fn a_session_that_is_closed_ends_without_a_word() {
    let mut pair = pair(89);
    pair.establish();
    pair.run_for(1);
    let sent = pair.sent.len();
    pair.server.close(pair.now, 2);
    pair.drain();
    assert_eq!(pair.server.sessions(), 1, "another generation");
    pair.server.close(pair.now, 1);
    pair.drain();
    assert_eq!(pair.ended(Side::Server), Some(Ending::Disconnected { exit_sent: false }));
    assert_eq!((pair.sent.len(), pair.server.sessions()), (sent, 0));
    assert!(pair.server_events.iter().any(|e| matches!(e, Event::DropKeys { peer: 0, generation: 1 })));
}

#[test]
fn a_token_is_pushed_and_renewed_after_a_renegotiation() {
    let mut pair = pair(90);
    pair.gate.admission.token = Some(Secret(b"SESS_ID_AT_1".to_vec()));
    pair.connect(Some(login("ann", "secret")));
    assert!(pair.run_until(5, |p| p.established().is_some()));
    let established = format!("{:?}", pair.server_established().unwrap());
    assert!(!established.contains("SESS_ID"), "{established}");
    pair.gate.admission.token = Some(Secret(b"SESS_ID_AT_2".to_vec()));
    renegotiate(&mut pair);
    pair.run_for(3);
    let tokens: Vec<Secret> = pair
        .client_events
        .iter()
        .filter_map(|e| if let Event::AuthToken { token, .. } = e { Some(token.clone()) } else { None })
        .collect();
    assert_eq!(tokens, [Secret(b"SESS_ID_AT_1".to_vec()), Secret(b"SESS_ID_AT_2".to_vec())]);
    assert_eq!(pair.logins()[1].password, Secret(b"SESS_ID_AT_1".to_vec()), "the client logs in with what it has");
    // One that would be more than one word is not sent.
    pair.gate.admission.token = Some(Secret(b"a,route 0.0.0.0".to_vec()));
    renegotiate(&mut pair);
    pair.run_for(3);
    assert_eq!(pair.renegotiated(Side::Client).len(), 2);
    assert_eq!(pair.logins()[2].password, Secret(b"SESS_ID_AT_2".to_vec()));
}

#[test]
fn options_that_would_spoil_the_push_are_left_out() {
    let mut pair = pair(91);
    let good = pair.gate.admission.push.clone();
    pair.gate.admission.push.extend(["a\nb".into(), "x".repeat(2_000), String::new()]);
    assert_eq!(pair.establish().pushed.options, good);
}

#[test]
fn another_user_name_in_a_renegotiation_ends_the_session() {
    for (pushed, survives) in [("YW5u", true), ("Ym9i", false)] {
        let mut pair = pair(92);
        pair.gate.admission.token = Some(Secret(b"token".to_vec()));
        pair.gate.admission.push.push(format!("auth-token-user {pushed}"));
        pair.connect(Some(login("ann", "secret")));
        assert!(pair.run_until(5, |p| p.established().is_some()));
        renegotiate(&mut pair);
        pair.run_for(8);
        assert_eq!(pair.renegotiated(Side::Client).len() == 1, survives, "{}", pair.story());
        assert_eq!(pair.logins().len() == 2, survives, "nobody is asked about a stranger");
        let refused =
            matches!(pair.ended(Side::Server), Some(Ending::AuthFailed { reason, .. }) if reason.contains("user name"));
        assert_eq!(refused, !survives);
    }
}

#[test]
fn another_certificate_in_a_renegotiation_ends_the_session() {
    let pki = Pki::new("ca");
    let renewed = pki.leaf(&Leaf { serial: 3, ..Leaf::named("client", ClientAuth) });
    let other = pki.leaf(&Leaf { serial: 4, ..Leaf::named("mallory", ClientAuth) });
    for (identity, words) in [(&pki.client, ""), (&renewed, "the certificate is another"), (&other, "common name")] {
        let mut pair = Pair::new(client(&pki), setup(&pki), 93);
        pair.establish();
        pair.run_for(2);
        // Whoever has stolen the session's record goes on with it, with a certificate of its own.
        let record = pair.last_record().unwrap();
        let mut thief = client(&pki);
        thief.tls = tls_setup(&pki, identity);
        pair.drop_in_flight();
        pair.client = controlplane::Client::new(thief, pair.now).unwrap();
        pair.client.resume(pair.now, &mut pair.rng, record, crate::util::client_path(), None);
        pair.run_for(8);
        assert_eq!(pair.renegotiated(Side::Server).len(), usize::from(words.is_empty()), "{}", pair.story());
        match pair.ended(Side::Server) {
            Some(Ending::AuthFailed { reason, .. }) => assert!(!words.is_empty() && reason.contains(words), "{reason}"),
            ending => assert!(words.is_empty(), "{ending:?}"),
        }
    }
}

#[test]
fn a_certificate_may_be_optional_or_not_asked_for() {
    let pki = Pki::new("ca");
    let stranger = Pki::new("stranger");
    let mut without = client(&pki);
    without.tls.cert_pem = String::new();
    without.tls.key_pem = Secret::default();
    let mut bad = client(&pki);
    bad.tls.cert_pem = stranger.client.cert_pem.clone();
    bad.tls.key_pem = Secret(stranger.client.key_pem.clone().into_bytes());
    for (wanted, shown, connects, known) in [
        (ClientCertificate::Require, &without, false, false),
        (ClientCertificate::Require, &bad, false, false),
        (ClientCertificate::Optional, &client(&pki), true, true),
        (ClientCertificate::Optional, &without, true, false),
        (ClientCertificate::Optional, &bad, false, false),
        (ClientCertificate::None, &without, true, false),
        (ClientCertificate::None, &bad, true, false),
    ] {
        let mut server = setup(&pki);
        server.client_certificate = wanted;
        if wanted == ClientCertificate::None {
            server.tls.ca_pem = String::new();
        }
        let mut pair = Pair::new(shown.clone(), server, 94);
        pair.connect(None);
        pair.run_for(4);
        assert_eq!(pair.established().is_some(), connects, "{wanted:?}: {}", pair.story());
        let certificates: Vec<bool> = pair.logins().iter().map(|l| l.certificate.is_some()).collect();
        assert_eq!(certificates, if connects { vec![known] } else { vec![] }, "{wanted:?}");
    }
}

#[test]
fn a_client_without_a_common_name_or_with_an_endless_one_is_refused() {
    let pki = Pki::new("ca");
    let endless = "x".repeat(65);
    for (name, words) in [("", "has no common name"), (endless.as_str(), "longer than 64 bytes")] {
        let leaf = pki.leaf(&Leaf { serial: 5, ..Leaf::named(name, ClientAuth) });
        let mut setup = client(&pki);
        setup.tls = tls_setup(&pki, &leaf);
        let mut pair = Pair::new(setup, self::setup(&pki), 95);
        pair.connect(None);
        pair.run_for(3);
        assert!(matches!(pair.ended(Side::Server), Some(Ending::Tls(why)) if why.contains(words)), "{}", pair.story());
    }
}

#[test]
fn a_peer_that_floated_is_followed_and_its_control_packets_wait_for_the_report() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 3);
    crowd.server.take_dropped();
    crowd.members[1].at = address(50);
    let (now, generation) = (crowd.now, 1);
    crowd.members[1].client.renegotiate(now, &mut crowd.rng, generation);
    crowd.run_for(3);
    let dropped = crowd.server.take_dropped();
    assert!(matches!(dropped.as_slice(), [(reason, n)] if reason == "wrong_address" && *n > 0), "{dropped:?}");
    assert_eq!((crowd.members[1].renegotiated(), crowd.server.sessions()), (0, 3));
    let peer = crowd.logins().iter().find(|l| l.path.remote == address(1)).unwrap().peer;
    crowd.server.floated(crowd.now, peer, path(address(50)));
    assert!(crowd.run_until(10, |c| c.members[1].renegotiated() == 1));
    assert_eq!(crowd.server.take_dropped(), []);
    assert!(!crowd.server_events.iter().any(|e| matches!(e, Event::MoveBack { .. })));
    // Its old address is free for others, and what comes from there is not its own any more.
    crowd.members[1].at = address(1);
    let now = crowd.now;
    crowd.members[1].client.renegotiate(now, &mut crowd.rng, generation);
    crowd.run_for(3);
    assert_eq!(crowd.members[1].renegotiated(), 1);
    assert!(crowd.server.take_dropped().iter().any(|(reason, _)| reason == "wrong_address"));
}

fn move_back(crowd: &Crowd) -> Vec<(u32, std::net::SocketAddr)> {
    let moves = crowd.server_events.iter().filter_map(|e| match e {
        Event::MoveBack { peer, path } => Some((*peer, path.remote)),
        _ => None,
    });
    moves.collect()
}

#[test]
fn a_move_to_the_address_of_another_client_is_refused() {
    let pki = Pki::new("ca");
    let other = pki.leaf(&Leaf { serial: 6, ..Leaf::named("other", ClientAuth) });
    let mut crowd = crowd_of(&pki, 1);
    let mut setup = client(&pki);
    setup.tls = tls_setup(&pki, &other);
    crowd.join(setup, 1, None);
    assert!(crowd.run_until(10, Crowd::all_established));
    crowd.server.floated(crowd.now, 1, path(address(0)));
    crowd.server.floated(crowd.now, 7, path(address(0)));
    crowd.drain();
    assert_eq!(move_back(&crowd), [(1, address(1))], "a peer that is not there moves nowhere");
    // Both go on where they were.
    for member in 0..2 {
        let now = crowd.now;
        crowd.members[member].client.renegotiate(now, &mut crowd.rng, 1);
    }
    assert!(crowd.run_until(5, |c| c.members.iter().all(|m| m.renegotiated() == 1)));
    // To where it is already: nothing to refuse.
    crowd.server.floated(crowd.now, 1, path(address(1)));
    crowd.drain();
    assert_eq!((move_back(&crowd).len(), crowd.server.sessions()), (1, 2));
}

#[test]
fn a_client_that_moves_onto_an_older_session_of_its_own_replaces_it() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 2);
    crowd.server.floated(crowd.now, 1, path(address(0)));
    crowd.drain();
    assert_eq!(move_back(&crowd), []);
    let old = crowd.logins().iter().find(|l| l.peer == 0).unwrap().generation;
    assert_eq!(crowd.endings(), [(old, Ending::Replaced)]);
    assert!(crowd.server_events.iter().any(|e| matches!(e, Event::DropKeys { peer: 0, .. })));
}

#[test]
fn nobody_moves_before_data_can_flow() {
    let pki = Pki::new("ca");
    let mut crowd = Crowd::new(setup(&pki), 96);
    crowd.gate.open = false;
    crowd.join(client(&pki), 0, None);
    assert!(crowd.run_until(5, |c| c.logins().len() == 1));
    crowd.server.floated(crowd.now, 0, path(address(1)));
    crowd.drain();
    assert_eq!(move_back(&crowd), [(0, address(0))]);
}

#[test]
fn a_client_that_comes_back_from_the_same_address_replaces_its_old_session() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 2);
    crowd.connect(0, None);
    assert!(crowd.run_until(10, |c| c.members[0].established() == 2));
    assert_eq!((crowd.endings(), crowd.server.sessions()), (vec![(1, Ending::Replaced)], 2));
    let peers: Vec<u32> = crowd.logins().iter().map(|l| l.peer).collect();
    assert_eq!(peers, [0, 1, 2], "both are there until the new one is complete");
    crowd.connect(1, None);
    assert!(crowd.run_until(10, |c| c.members[1].established() == 2));
    assert_eq!(crowd.logins().last().unwrap().peer, 0, "the lowest free one");
}

#[test]
fn a_flood_from_one_prefix_does_not_lock_another_out() {
    let pki = Pki::new("ca");
    let mut crowd = Crowd::new(ServerSetup { wrap: Wrap::None, ..setup(&pki) }, 97);
    let mut answers = 0;
    for n in 0..10_000_u32 {
        let mut reset = vec![0x38];
        reset.extend_from_slice(&[&n.to_be_bytes()[..], &[1; 4], &[0; 5]].concat());
        let from = std::net::SocketAddr::new(std::net::Ipv4Addr::from(0xC000_0200 | n & 0xFF).into(), 1_000 + n as u16);
        crowd.server.handle_datagram(crowd.now, &mut crowd.rng, &path(from), &reset);
        while let controlplane::Output::Transmit { bytes, .. } = crowd.server.poll_output() {
            assert!(bytes.len() <= reset.len() + 12);
            answers += 1;
        }
    }
    assert_eq!((answers, crowd.server.sessions()), (100, 0));
    assert_eq!(crowd.server.take_dropped(), [("rate_limited".to_owned(), 9_900)]);
    crowd.join(client_setup(&pki), 0, None);
    assert!(crowd.run_until(2, Crowd::all_established), "another prefix is served meanwhile");
}

#[test]
fn sessions_that_are_established_do_not_count_as_a_flood() {
    let pki = Pki::new("ca");
    let mut server = setup(&pki);
    server.replies = controlplane::ReplyLimit { count: 2, seconds: 10 };
    let mut crowd = Crowd::new(server, 98);
    for n in 0..5 {
        let member = crowd.join(client(&pki), 0, None);
        crowd.members[member].at.set_port(50_000 + n);
        crowd.drop_in_flight();
        crowd.connect(member, None);
        assert!(crowd.run_until(1, Crowd::all_established), "{n}");
    }
}

/// The server's process is gone; another takes the records of all sessions.
fn die_and_resume(crowd: &mut Crowd, setup: ServerSetup) {
    let ended: Vec<u32> = crowd.endings().iter().map(|(generation, _)| *generation).collect();
    let records = crowd.records();
    let paths: Vec<(u32, controlplane::Path)> = crowd.logins().iter().map(|l| (l.generation, l.path)).collect();
    crowd.drop_in_flight();
    crowd.server = Server::new(setup, crowd.now, &mut crowd.rng, None).unwrap();
    for (generation, record) in records.into_iter().filter(|(generation, _)| !ended.contains(generation)) {
        let (_, path) = paths.iter().rev().find(|(g, _)| *g == generation).unwrap();
        crowd.server.resume(crowd.now, &mut crowd.rng, record, *path);
    }
    crowd.drain();
}

#[test]
fn every_session_outlives_the_death_of_the_servers_process() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 6);
    for death in 1..=3 {
        die_and_resume(&mut crowd, setup(&pki));
        assert_eq!(crowd.server.sessions(), 6);
        assert!(crowd.run_until(10, |c| c.members.iter().all(|m| m.renegotiated() == death)), "{death}");
        crowd.run_for(2);
    }
    assert!(crowd.members.iter().all(|m| m.established() == 1 && m.ending().is_none()));
    assert_eq!(crowd.endings(), []);
    // No key is named twice, and each has its counterpart.
    let keys: Vec<_> =
        crowd.server_events.iter().filter_map(|e| if let Event::InstallKey(k) = e { Some(k) } else { None }).collect();
    let mut names: Vec<_> = keys.iter().map(|k| k.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!((names.len(), keys.len()), (24, 24));
    for member in &crowd.members {
        for key in member.events.iter().filter_map(|e| if let Event::InstallKey(k) = e { Some(k) } else { None }) {
            assert!(
                keys.iter().any(|k| k.seal == key.open && k.open == key.seal && k.wire_peer_id == key.wire_peer_id)
            );
        }
    }
    // A newcomer gets a number and a peer of its own.
    crowd.join(client(&pki), 20, None);
    assert!(crowd.run_until(5, Crowd::all_established));
    let newest = crowd.logins().last().unwrap().clone();
    assert_eq!((newest.generation, newest.peer), (7, 6));
}

#[test]
fn a_resumed_session_still_belongs_to_who_logged_in_first() {
    let pki = Pki::new("ca");
    let mut crowd = Crowd::new(setup(&pki), 99);
    crowd.join(client(&pki), 0, Some(login("ann", "secret")));
    assert!(crowd.run_until(5, Crowd::all_established));
    crowd.run_for(1);
    let lock = crowd.records()[&1].login.clone().unwrap();
    assert_eq!((lock.username.as_str(), lock.common_name.as_deref()), ("ann", Some("client")));
    assert_eq!(lock.certificate, Some(controlplane::crypto::sha256(&pki.client.der)));
    let mut record = crowd.records()[&1].clone();
    record.login.as_mut().unwrap().username = "bob".into();
    crowd.server_events.push(Event::Record(Box::new(record)));
    die_and_resume(&mut crowd, setup(&pki));
    crowd.run_for(8);
    assert!(matches!(crowd.endings().as_slice(), [(1, Ending::AuthFailed { .. })]), "{:?}", crowd.endings());
}

#[test]
fn a_client_that_sleeps_through_the_death_is_waited_for() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 1);
    crowd.dead = true;
    die_and_resume(&mut crowd, setup(&pki));
    crowd.run_for(300);
    assert_eq!((crowd.endings(), crowd.server.sessions()), (vec![], 1));
    crowd.dead = false;
    assert!(crowd.run_until(70, |c| c.members[0].renegotiated() == 1));
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 2);
    let records = crowd.records();
    let (a, b) = (records[&1].clone(), records[&2].clone());
    let mut server = setup(&pki);
    server.max_clients = 2;
    crowd.server = Server::new(server, crowd.now, &mut crowd.rng, None).unwrap();
    crowd.server_events.clear();
    let mut refused = |record: &controlplane::ResumeRecord, at: usize| {
        crowd.server.resume(crowd.now, &mut crowd.rng, record.clone(), path(address(at)));
        crowd.drain();
        let words = match crowd.endings().pop() {
            Some((_, Ending::Internal(words))) => words,
            other => format!("{other:?}"),
        };
        crowd.server_events.clear();
        words
    };
    let changed = |change: fn(&mut controlplane::ResumeRecord)| {
        let mut record = b.clone();
        change(&mut record);
        record
    };
    assert!(refused(&changed(|r| r.resumable = false), 1).contains("under way"));
    assert!(refused(&changed(|r| r.remote_sid = [0; 8]), 1).contains("zero"));
    assert!(refused(&changed(|r| r.peer = u32::MAX), 1).contains("peer-id"));
    assert_eq!(refused(&a, 0), "None");
    assert!(refused(&b, 0).contains("another session is at its client's address"));
    assert!(refused(&changed(|r| r.peer = 0), 1).contains("another session has its peer-id"));
    assert_eq!(refused(&b, 1), "None", "what was refused left nothing behind");
    assert_eq!(refused(&b, 1), "None", "once is enough");
    assert!(refused(&changed(|r| (r.generation, r.peer) = (9, 9)), 2).contains("max-clients"));
    assert_eq!(crowd.server.sessions(), 2);
}

#[test]
fn a_reload_concerns_what_follows_and_leaves_live_sessions_alone() {
    let pki = Pki::new("ca");
    let kept = pki.leaf(&Leaf { serial: 7, ..Leaf::named("kept", ClientAuth) });
    let mut crowd = crowd_of(&pki, 1);
    let mut new = setup(&pki);
    new.tls.crl_pem = Some(pki.crl(&[2], 2030));
    let mut broken = new.clone();
    broken.tls.crl_pem = Some("no CRL".into());
    assert!(matches!(crowd.server.reload(crowd.now, broken), Err(Ending::Tls(why)) if why.contains("crl-verify")));
    crowd.connect(0, None);
    assert!(crowd.run_until(5, |c| c.members[0].established() == 2), "a broken profile changes nothing");
    assert_eq!(crowd.server.reload(crowd.now, new), Ok(()));
    crowd.run_for(30);
    assert_eq!((crowd.members[0].ending(), crowd.server.sessions()), (None, 1));
    crowd.join(client(&pki), 1, None);
    let mut other = client(&pki);
    other.tls = tls_setup(&pki, &kept);
    crowd.join(other, 2, None);
    crowd.run_for(5);
    assert!(matches!(crowd.members[1].ending(), Some(Ending::Tls(_))));
    let revoked = |(_, ending): &(u32, Ending)| matches!(ending, Ending::Tls(why) if why.contains("revoked"));
    assert!(crowd.endings().iter().any(revoked));
    assert_eq!(crowd.members[2].established(), 1);
    // The live session's next negotiation goes by the list as well; its key goes on, and who revoked it closes it.
    let now = crowd.now;
    crowd.members[0].client.renegotiate(now, &mut crowd.rng, 2);
    crowd.run_for(5);
    assert_eq!(crowd.members[0].renegotiated(), 0);
    assert!(
        crowd
            .server_events
            .iter()
            .any(|e| matches!(e, Event::RenegotiationFailed { why, .. } if why.contains("revoked")))
    );
}

#[test]
fn a_reload_may_lower_max_clients() {
    let pki = Pki::new("ca");
    let mut crowd = crowd_of(&pki, 3);
    let mut new = setup(&pki);
    new.max_clients = 2;
    assert_eq!(crowd.server.reload(crowd.now, new), Ok(()));
    crowd.join(client(&pki), 5, None);
    crowd.run_for(5);
    assert_eq!((crowd.server.sessions(), crowd.members[3].established()), (3, 0));
    crowd.server.close(crowd.now, 1);
    crowd.server.close(crowd.now, 2);
    assert!(crowd.run_until(10, |c| c.members[3].established() == 1));
}

#[test]
fn a_successor_honours_the_cookies_of_its_predecessor() {
    let pki = Pki::new("ca");
    for same in [true, false] {
        let mut crowd = Crowd::new(setup(&pki), 100);
        crowd.join(client(&pki), 0, None);
        let reset_answered = |c: &Crowd| {
            c.members[0].events.iter().any(|e| matches!(e, Event::State { state: controlplane::State::Auth, .. }))
        };
        assert!(crowd.run_until(1, reset_answered));
        let mut successor = setup(&pki);
        if !same {
            successor.cookie_secret = Secret(vec![1; 32]);
        }
        crowd.server = Server::new(successor, crowd.now, &mut crowd.rng, None).unwrap();
        assert_eq!(crowd.run_until(5, Crowd::all_established), same);
    }
    let mut short = setup(&pki);
    short.cookie_secret.0.pop();
    let mut crowd = crowd_of(&pki, 0);
    assert!(matches!(Server::new(short, crowd.now, &mut crowd.rng, None), Err(Ending::Internal(_))));
}

#[test]
fn a_key_event_of_another_session_changes_nothing() {
    let mut pair = pair(101);
    pair.confirm_keys = false;
    pair.connect(None);
    pair.run_until(5, |p| !p.keys(Side::Server).is_empty());
    let name = pair.keys(Side::Server)[0].name;
    pair.key_event(Side::Server, KeyEvent::KeyInstalled(controlplane::KeyName { generation: 2, ..name }));
    pair.drain();
    assert!(pair.server_established().is_none());
    pair.key_event(Side::Server, KeyEvent::KeyInstalled(name));
    pair.drain();
    assert!(pair.server_established().is_some());
}
