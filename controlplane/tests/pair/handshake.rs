//! A client and a server, both ours, on a virtual clock: the handshake in all its variants.

use crate::util::{Network, Pair, Pki, Side, client_setup, server_setup, static_key};
use controlplane::{Cipher, Digest, Event, Output, State, TlsVersion, Wrap};

#[test]
fn a_client_connects_and_both_have_the_same_keys() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 1);
    let established = pair.establish();
    assert_eq!(established.pushed.options, ["route-gateway 10.8.0.1", "ifconfig 10.8.0.2 255.255.255.0"]);
    assert_eq!(established.cipher, Cipher::Aes256Gcm);
    assert_eq!(established.peer_id, Some(0));
    assert_eq!(established.peer_subject, "C=NL, O=Test, CN=server");
    assert!(established.tls.starts_with("TLSv1.3"), "{}", established.tls);
    assert!(established.cc_exit);
    pair.assert_keys_agree();
    let key = &pair.keys(Side::Client)[0];
    assert_eq!(key.name.key_id, 0);
    assert!(key.send_from_ns <= pair.now.at.0, "the first key sends at once");
}

#[test]
fn every_wrap_and_tls_version_connects() {
    let pki = Pki::new("ca");
    let tls_auth = |direction, digest| Wrap::TlsAuth { key: static_key(), direction, digest };
    let wraps = [
        (Wrap::None, Wrap::None),
        (tls_auth(Some(1), Digest::Sha1), tls_auth(Some(0), Digest::Sha1)),
        (tls_auth(None, Digest::Sha256), tls_auth(None, Digest::Sha256)),
        (tls_auth(Some(0), Digest::Sha512), tls_auth(Some(1), Digest::Sha512)),
        (Wrap::TlsCrypt { key: static_key() }, Wrap::TlsCrypt { key: static_key() }),
    ];
    for (client_wrap, server_wrap) in wraps {
        for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
            let mut client = client_setup(&pki);
            client.wrap = client_wrap.clone();
            client.tls.version_min = version;
            client.tls.version_max = version;
            let mut server = server_setup(&pki);
            server.wrap = server_wrap.clone();
            let mut pair = Pair::new(client, server, 2);
            let established = pair.establish();
            let name = if version == TlsVersion::V1_2 { "TLSv1.2" } else { "TLSv1.3" };
            assert!(established.tls.starts_with(name));
            pair.assert_keys_agree();
        }
    }
}

#[test]
fn an_old_client_without_exporter_gets_prf_keys_and_one_without_peer_id_data_v1() {
    use controlplane::controlchannel::peer_info::iv_proto;
    let pki = Pki::new("ca");
    for mask in [
        iv_proto::TLS_KEY_EXPORT,
        iv_proto::TLS_KEY_EXPORT | iv_proto::CC_EXIT_NOTIFY,
        iv_proto::CC_EXIT_NOTIFY,
        iv_proto::REQUEST_PUSH,
        iv_proto::DATA_V2,
    ] {
        let mut client = client_setup(&pki);
        client.iv_proto_mask = mask;
        let mut pair = Pair::new(client, server_setup(&pki), 3);
        let established = pair.establish();
        pair.assert_keys_agree();
        assert_eq!(established.cc_exit, mask & iv_proto::CC_EXIT_NOTIFY == 0);
        assert_eq!(established.peer_id.is_none(), mask & iv_proto::DATA_V2 != 0);
        let record = pair.last_record().unwrap();
        assert_eq!(record.use_exporter, mask & iv_proto::TLS_KEY_EXPORT == 0);
    }
}

#[test]
fn a_long_push_reply_comes_in_parts() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 4);
    pair.gate.admission.push = (0..200).map(|i| format!("route 10.{i}.0.0 255.255.0.0")).collect();
    let expected = pair.gate.admission.push.clone();
    assert_eq!(pair.establish().pushed.options, expected);
}

#[test]
fn the_servers_preference_decides_the_cipher() {
    let pki = Pki::new("ca");
    let mut server = server_setup(&pki);
    server.data_ciphers = vec![Cipher::ChaCha20Poly1305, Cipher::Aes256Gcm];
    let mut pair = Pair::new(client_setup(&pki), server, 5);
    assert_eq!(pair.establish().cipher, Cipher::ChaCha20Poly1305);
    pair.assert_keys_agree();
}

#[test]
fn established_waits_for_the_worker() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 6);
    pair.confirm_keys = false;
    pair.connect(None);
    pair.run_for(3);
    assert_eq!(pair.keys(Side::Client).len(), 0, "the server holds its PUSH_REPLY back until its key is installed");
    let key = pair.keys(Side::Server)[0].name;
    pair.confirm(Side::Server, key);
    pair.run_for(3);
    assert!(pair.server_established().is_some());
    let key = pair.keys(Side::Client)[0].name;
    assert_eq!(pair.established(), None);
    let other = controlplane::KeyName { negotiation: 7, ..key };
    pair.confirm(Side::Client, other);
    pair.drain();
    assert_eq!(pair.established(), None, "another key does not count");
    pair.confirm(Side::Client, key);
    pair.drain();
    assert!(pair.established().is_some());
}

#[test]
fn a_worker_that_never_answers_ends_the_session() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 7);
    pair.connect(None);
    pair.run_until(5, |p| !p.keys(Side::Server).is_empty());
    pair.confirm_keys = false;
    pair.run_for(30);
    assert!(matches!(pair.ended(Side::Client), Some(controlplane::Ending::Internal(_))));
}

#[test]
fn states_come_in_order() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 8);
    pair.establish();
    let states: Vec<State> = pair
        .client_events
        .iter()
        .filter_map(|e| if let Event::State { state, .. } = e { Some(*state) } else { None })
        .collect();
    assert_eq!(states, [State::Wait, State::Auth, State::GetConfig]);
}

#[test]
fn every_early_client_packet_acknowledges_the_servers_reset() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 9);
    pair.establish();
    let early = pair.sent.iter().filter(|(from, _, _)| *from == Side::Client).skip(1).take(4);
    for (_, _, bytes) in early {
        let count = usize::from(bytes[9]);
        let ids: Vec<&[u8]> = bytes[10..10 + 4 * count].chunks(4).collect();
        assert!(ids.contains(&&[0, 0, 0, 0][..]), "{bytes:?}");
    }
}

#[test]
fn a_new_connection_drops_the_old_keys_once_it_has_its_own() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 10);
    pair.establish();
    pair.client.connect(pair.now, &mut pair.rng, 2, crate::util::client_path(), None);
    pair.drain();
    let dropped = |p: &Pair| p.client_events.iter().any(|e| matches!(e, Event::DropKeys { generation: 1, .. }));
    assert!(!dropped(&pair), "the old keys go on until there are new ones");
    assert!(pair.run_until(10, dropped), "{}", pair.story());
}

#[test]
fn disconnect_says_exit_and_the_server_hears_it() {
    use controlplane::Ending;
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 11);
    pair.establish();
    pair.client.disconnect(pair.now, 1);
    assert!(pair.run_until(2, |p| p.ended(Side::Client).is_some()));
    assert_eq!(pair.ended(Side::Client), Some(Ending::Disconnected { exit_sent: true }));
    assert_eq!(pair.ended(Side::Server), Some(Ending::PeerExited));
    assert_eq!(pair.server.sessions(), 0);
}

#[test]
fn disconnect_does_not_wait_for_a_dead_server() {
    use controlplane::Ending;
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 12);
    pair.establish();
    pair.network = Network::DEAD;
    let before = pair.now.at;
    let sent = pair.sent.len();
    pair.client.disconnect(pair.now, 1);
    assert!(pair.run_until(5, |p| p.ended(Side::Client).is_some()));
    assert_eq!(pair.ended(Side::Client), Some(Ending::Disconnected { exit_sent: true }));
    assert_eq!(pair.sent.len() - sent, 4, "EXIT is repeated within its second");
    assert!(pair.now.at.since(before) <= std::time::Duration::from_secs(1));
}

#[test]
fn disconnect_without_the_agreement_leaves_the_farewell_to_the_data_channel() {
    use controlplane::Ending;
    use controlplane::controlchannel::peer_info::iv_proto;
    let pki = Pki::new("ca");
    let mut client = client_setup(&pki);
    client.iv_proto_mask = iv_proto::CC_EXIT_NOTIFY;
    let mut pair = Pair::new(client, server_setup(&pki), 13);
    pair.establish();
    pair.client.disconnect(pair.now, 1);
    pair.drain();
    assert_eq!(pair.ended(Side::Client), Some(Ending::Disconnected { exit_sent: false }));
}

#[test]
fn a_push_request_is_repeated_every_five_seconds() {
    const CONTROL_V1: u8 = 4;
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 14);
    pair.gate.admission.push.push("push-continuation 2".into()); // its PUSH_REPLY is never complete
    pair.connect(None);
    let asking = |p: &Pair| p.client_events.iter().any(|e| matches!(e, Event::State { state: State::GetConfig, .. }));
    assert!(pair.run_until(5, asking));
    let (asked_from, already) = (pair.now.at, pair.sent.len());
    pair.run_for(20);
    let requests: Vec<u64> = pair.sent[already..]
        .iter()
        .filter(|(from, _, bytes)| *from == Side::Client && bytes[0] >> 3 == CONTROL_V1)
        .map(|(_, at, _)| at.since(asked_from).as_secs())
        .collect();
    assert_eq!(requests, [1, 6, 11, 16]);
}

#[test]
fn no_datagram_of_a_handshake_is_larger_than_max_packet_size() {
    const IP_UDP: usize = 48;
    let pki = Pki::new("ca");
    let tls_auth = |direction| Wrap::TlsAuth { key: static_key(), direction: Some(direction), digest: Digest::Sha512 };
    let tls_crypt = || Wrap::TlsCrypt { key: static_key() };
    for (client_wrap, server_wrap) in [(Wrap::None, Wrap::None), (tls_auth(1), tls_auth(0)), (tls_crypt(), tls_crypt())]
    {
        for max in [1250, 400] {
            let mut client = client_setup(&pki);
            client.wrap = client_wrap.clone();
            client.max_packet_size = max;
            let mut server = server_setup(&pki);
            server.wrap = server_wrap.clone();
            server.max_packet_size = max;
            let mut pair = Pair::new(client, server, 15);
            pair.gate.admission.push = (0..100).map(|i| format!("route 10.{i}.0.0 255.255.0.0")).collect();
            pair.establish();
            let room = usize::from(max) - IP_UDP;
            for side in [Side::Client, Side::Server] {
                let sizes = pair.sent.iter().filter(|(from, _, _)| *from == side);
                let largest = sizes.map(|(_, _, bytes)| bytes.len()).max().unwrap();
                assert!(largest <= room, "{side:?}, {max}: {largest} of {room}");
                // Room is kept for the acknowledgements that a packet may carry; the client has little to say.
                if side == Side::Server || max < 1000 {
                    assert!(largest + 40 > room, "{side:?}, {max}: {largest} of {room}");
                }
            }
        }
    }
}

#[test]
fn the_payload_of_a_servers_reset_is_not_tls() {
    let pki = Pki::new("ca");
    let mut pair = Pair::new(client_setup(&pki), server_setup(&pki), 16);
    pair.network = Network::DEAD;
    pair.connect(None);
    let reset = pair.sent[0].2.clone();
    pair.deliver(Side::Server, &reset);
    let Output::Transmit { bytes, .. } = pair.server.poll_output() else { panic!() };
    const HARD_RESET_SERVER_V2: u8 = 8;
    assert_eq!(bytes[0] >> 3, HARD_RESET_SERVER_V2);
    // Early negotiation: type 1 of two bytes.
    let with_payload = [&bytes[..], &[0, 1, 0, 2, 0, 1]].concat();
    pair.network = Network::GOOD;
    pair.deliver(Side::Client, &with_payload);
    assert!(pair.run_until(10, |p| p.established().is_some()), "{}", pair.story());
    assert_eq!(pair.client.take_dropped(), []);
    let resets = pair.sent.iter().filter(|(from, _, _)| *from == Side::Client);
    assert_eq!(resets.filter(|(_, _, bytes)| bytes[0] >> 3 == 7).count(), 1, "the answer was taken");
}

/// The extensions of the ClientHello that the client's packets from there on begin with.
fn client_hello_extensions(sent: &[(Side, controlplane::Instant, Vec<u8>)]) -> Vec<u16> {
    const CONTROL_V1: u8 = 4;
    let mut tls = Vec::new();
    for (from, _, bytes) in sent {
        if *from == Side::Client && bytes[0] >> 3 == CONTROL_V1 {
            // Opcode, session id, acknowledgements (and the session id they are for), message id.
            let acks = usize::from(bytes[9]);
            let header = 10 + 4 * acks + if acks > 0 { 8 } else { 0 } + 4;
            tls.extend_from_slice(&bytes[header..]);
        }
    }
    let (record, hello) = tls.split_at(5);
    assert_eq!(record[0], 22, "a handshake record");
    assert_eq!(hello[0], 1, "a ClientHello");
    let u16_at = |at: usize| u16::from_be_bytes([hello[at], hello[at + 1]]);
    let mut at = 4 + 2 + 32; // type and length, version, random
    at += 1 + usize::from(hello[at]); // session id
    at += 2 + usize::from(u16_at(at)); // cipher suites
    at += 1 + usize::from(hello[at]); // compression methods
    let end = at + 2 + usize::from(u16_at(at));
    at += 2;
    let mut extensions = Vec::new();
    while at < end {
        extensions.push(u16_at(at));
        at += 4 + usize::from(u16_at(at + 2));
    }
    assert_eq!(at, end);
    extensions
}

#[test]
fn a_client_hello_names_no_server_and_resumes_nothing() {
    const SERVER_NAME: u16 = 0;
    const SUPPORTED_GROUPS: u16 = 10;
    const SESSION_TICKET: u16 = 35;
    const PRE_SHARED_KEY: u16 = 41;
    const EARLY_DATA: u16 = 42;
    let pki = Pki::new("ca");
    for version in [TlsVersion::V1_2, TlsVersion::V1_3] {
        let mut client = client_setup(&pki);
        client.tls.version_max = version;
        let mut pair = Pair::new(client, server_setup(&pki), 17);
        pair.establish();
        pair.run_for(2);
        let first = client_hello_extensions(&pair.sent);
        // The second connection could resume the first one's TLS session.
        let from = pair.sent.len();
        pair.client.connect(pair.now, &mut pair.rng, 2, crate::util::client_path(), None);
        let again = |p: &Pair| {
            let up = p.client_events.iter();
            up.filter(|e| matches!(e, Event::Established(_))).count() == 2
        };
        assert!(pair.run_until(10, again), "{}", pair.story());
        let second = client_hello_extensions(&pair.sent[from..]);
        for extensions in [first, second] {
            assert!(extensions.contains(&SUPPORTED_GROUPS), "{extensions:?}");
            for absent in [SERVER_NAME, SESSION_TICKET, PRE_SHARED_KEY, EARLY_DATA] {
                assert!(!extensions.contains(&absent), "{absent}: {extensions:?}");
            }
        }
    }
}
