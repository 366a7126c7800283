//! How much memory an idle session of a gateway takes, by the growth of this process's resident memory.

#![allow(clippy::unwrap_used)] // a test may panic

mod util;

use controlplane::Wrap;
use util::crowd::Crowd;
use util::{Pki, client_setup, server_setup, static_key};

/// The most resident memory that a session may take while nothing happens, in bytes.
const MOST: usize = 32 * 1024;
/// Resident memory counts in pages of the kernel's.
const PAGE: usize = 4_096;

/// Private resident memory of this process, in bytes.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    let fields: Vec<usize> = statm.split_whitespace().map(|n| n.parse().unwrap()).collect();
    (fields[1] - fields[2]) * PAGE
}

/// Connects clients one after the other; each is forgotten once its session is up.
fn connect(crowd: &mut Crowd, pki: &Pki, from: usize, count: usize) {
    for n in from..from + count {
        let mut client = client_setup(pki);
        client.wrap = Wrap::TlsCrypt { key: static_key() };
        crowd.join(client, n, None);
        assert!(crowd.run_until(10, Crowd::all_established), "client {n}");
        crowd.run_until(1, |_| false);
        crowd.members.clear();
        crowd.server_events.clear();
    }
}

#[test]
fn a_thousand_idle_sessions_take_at_most_32_kib_each() {
    let pki = Pki::new("ca");
    let mut server = server_setup(&pki);
    server.wrap = Wrap::TlsCrypt { key: static_key() };
    server.max_clients = 2_000;
    let mut crowd = Crowd::new(server, 1);
    connect(&mut crowd, &pki, 0, 200);
    let before = resident();
    connect(&mut crowd, &pki, 200, 1_000);
    let each = resident().saturating_sub(before) / 1_000;
    println!("{each} bytes of resident memory for each idle session");
    assert_eq!(crowd.server.sessions(), 1_200);
    assert!(each <= MOST, "{each} bytes");
}
