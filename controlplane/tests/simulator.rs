//! Seeds: a handshake and a renegotiation through a network that loses a fifth, duplicates a tenth and reorders.
//! A server that dies goes on through it as well. 100 seeds, or 1,000 with MINIVPN_TEST_LONG=1. A failing seed is printed and replays by MINIVPN_SEED=n.

mod util;

use controlplane::{ClientSetup, Digest, Server, ServerSetup, TlsVersion, Wrap};
use util::{Network, Pair, Pki, Side, client_setup, server_path, server_setup, static_key};

fn seeds() -> std::ops::Range<u64> {
    if let Some(seed) = std::env::var("MINIVPN_SEED").ok().and_then(|s| s.parse().ok()) {
        return seed..seed + 1;
    }
    let long = std::env::var("MINIVPN_TEST_LONG").is_ok_and(|v| v == "1");
    0..if long { 1000 } else { 100 }
}

/// Wrap and TLS version vary with the seed.
fn setups(pki: &Pki, seed: u64) -> (ClientSetup, ServerSetup) {
    let mut client = client_setup(pki);
    let mut server = server_setup(pki);
    let auth = |direction| Wrap::TlsAuth { key: static_key(), direction: Some(direction), digest: Digest::Sha256 };
    (client.wrap, server.wrap) = match seed % 3 {
        0 => (Wrap::None, Wrap::None),
        1 => (auth(1), auth(0)),
        _ => (Wrap::TlsCrypt { key: static_key() }, Wrap::TlsCrypt { key: static_key() }),
    };
    client.tls.version_max = if seed.is_multiple_of(2) { TlsVersion::V1_3 } else { TlsVersion::V1_2 };
    (client, server)
}

fn pair(pki: &Pki, seed: u64) -> Pair {
    let (client, server) = setups(pki, seed);
    let mut pair = Pair::new(client, server, seed);
    pair.network = Network::BAD;
    pair
}

#[test]
fn a_handshake_completes_within_sixty_seconds_on_a_bad_network() {
    let pki = Pki::new("ca");
    let mut slowest = 0;
    for seed in seeds() {
        let mut pair = pair(&pki, seed);
        let begun = pair.now.at;
        pair.connect(None);
        let done = pair.run_until(60, |p| p.established().is_some() && p.server_established().is_some());
        assert!(done, "MINIVPN_SEED={seed}: {}", pair.story());
        pair.assert_keys_agree();
        slowest = slowest.max(pair.now.at.since(begun).as_secs());
    }
    println!("slowest handshake: {slowest} s");
}

#[test]
fn a_renegotiation_completes_within_sixty_seconds_on_a_bad_network() {
    let pki = Pki::new("ca");
    for seed in seeds() {
        let mut pair = pair(&pki, seed);
        pair.network = Network::GOOD;
        pair.establish();
        pair.network = Network::BAD;
        if seed % 3 != 1 {
            pair.client.renegotiate(pair.now, &mut pair.rng, 1);
        }
        if seed % 3 != 2 {
            pair.server.renegotiate(pair.now, &mut pair.rng, 1);
        }
        let done = pair
            .run_until(60, |p| !p.renegotiated(Side::Client).is_empty() && !p.renegotiated(Side::Server).is_empty());
        assert!(done, "MINIVPN_SEED={seed}: {}", pair.story());
        pair.assert_keys_agree();
        assert_eq!(pair.renegotiated(Side::Client).len(), 1, "MINIVPN_SEED={seed}");
    }
}

#[test]
fn a_server_that_died_goes_on_with_its_session_on_a_bad_network() {
    let pki = Pki::new("ca");
    for seed in seeds() {
        let mut pair = pair(&pki, seed);
        pair.network = Network::GOOD;
        pair.establish();
        pair.run_for(2);
        pair.network = Network::BAD;
        let record = pair.last_record_of(Side::Server).unwrap();
        let random = util::tls_random(seed ^ 4);
        pair.server = Server::new(setups(&pki, seed).1, pair.now, &mut pair.rng, Some(random)).unwrap();
        pair.server.resume(pair.now, &mut pair.rng, record, server_path());
        let done = pair
            .run_until(70, |p| !p.renegotiated(Side::Client).is_empty() && !p.renegotiated(Side::Server).is_empty());
        assert!(done, "MINIVPN_SEED={seed}: {}", pair.story());
        pair.assert_keys_agree();
        assert_eq!((pair.ended(Side::Client), pair.ended(Side::Server)), (None, None), "MINIVPN_SEED={seed}");
    }
}

#[test]
fn a_seed_replays_the_same_run() {
    let pki = Pki::new("ca");
    let run = || {
        let mut pair = pair(&pki, 5);
        pair.connect(None);
        pair.run_until(60, |p| p.established().is_some());
        pair.sent.iter().map(|(side, at, bytes)| (*side, *at, bytes.len())).collect::<Vec<_>>()
    };
    assert_eq!(run(), run());
}
