//! Every combination of offloads and engines carries full-size datagrams, also those that the sender's kernel hands
//! over as one (USO), full-size echoes, and TCP across a hop that is smaller than both ends think. Every pair of
//! values; in the long form all of them.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;
use tests::cells::check_all;
use tests::netns::{INNER4, INNER6, Net, Ns};
use tests::ours::{Client, inner_addresses};
use tests::paced::{FULL, send_run};
use tests::pairwise::{pairwise, product};
use tests::setup::Setup;
use tests::stock::Server;
use tests::temp::Temp;
use tests::traffic::transfer;

/// The switches, each off and on; and the engines.
const SWITCHES: [[&str; 2]; 3] =
    [["--tun-offload=off", "--tun-offload=on"], ["--udp-gso=off", "--udp-gso=on"], ["--udp-gro=off", "--udp-gro=on"]];
const IO: [&str; 2] = ["uring", "syscall"];
const SIZES: [usize; 4] = [2, 2, 2, 2];
/// Cells at a time.
const SIDE_BY_SIDE: usize = 2;
/// Datagrams that one send call hands over: 29,440 bytes.
const RUN: usize = 20;

#[test]
fn every_combination_of_offloads_carries_full_size_traffic() {
    let cells = if tests::long() { product(&SIZES) } else { pairwise(&SIZES) };
    check_all(SIDE_BY_SIDE, cells, |cell| options(cell).join(" "), |cell| check(cell));
}

fn options(cell: &[usize]) -> Vec<&'static str> {
    let mut words: Vec<_> = SWITCHES.iter().zip(cell).map(|(switch, &value)| switch[value]).collect();
    words.extend(["--io", IO[cell[3]]]);
    words
}

fn check(cell: &[usize]) {
    let (net, temp) = (Net::new(), Temp::new());
    let mut setup = Setup::new();
    setup.io = IO[cell[3]];
    setup.options = options(cell)[..SWITCHES.len()].to_vec();
    let _server = Server::start(&net, &temp, &setup);
    let mut client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let (inner4, inner6) = inner_addresses(&net);

    runs(&net.client, inner4.into(), &net.server, INNER4.into());
    runs(&net.server, INNER4.into(), &net.client, inner4.into());
    full_size_echoes(&net.client, INNER4.into());
    full_size_echoes(&net.server, inner4.into());

    // The server sees it at its own interface; the client's is at 1500, and only ICMP tells it.
    net.set_far_mtu(1400);
    let bytes = if tests::long() { 20_000_000 } else { 3_000_000 };
    for (from, to, target) in [
        (&net.client, &net.server, SocketAddr::from((INNER4, 5001))),
        (&net.server, &net.client, SocketAddr::from((inner4, 5002))),
        (&net.client, &net.server, SocketAddr::from((INNER6, 5003))),
        (&net.server, &net.client, SocketAddr::from((inner6, 5004))),
    ] {
        let sent = transfer(from, to, target, bytes);
        assert!(sent.same, "TCP across a hop of 1400 bytes to {target}: {sent:?}");
    }
    assert_eq!(client.stop(), Some(0), "exit code after SIGTERM");
}

/// Datagrams handed over as runs (UDP_SEGMENT): every one arrives, whole, in order. The next run waits for the last.
fn runs(from: &Ns, source: IpAddr, to: &Ns, target: IpAddr) {
    let target = SocketAddr::new(target, 7000);
    let out = from.inside(|| UdpSocket::bind((source, 0)).expect("the source address is there"));
    let inn = to.inside(|| UdpSocket::bind(target).expect("the target address is there"));
    inn.set_read_timeout(Some(Duration::from_secs(5))).expect("a time limit can be set");
    // The last one of a run may be shorter.
    for (round, last) in [FULL, 1, FULL - 1, 700].into_iter().cycle().take(40).enumerate() {
        let len = (RUN - 1) * FULL + last;
        let bytes: Vec<u8> = (0..len).map(|at| (at / 7 + at / FULL * 13 + round) as u8).collect();
        assert!(send_run(&out, target, &bytes, FULL as u16), "the kernel takes a run");
        for (number, expected) in bytes.chunks(FULL).enumerate() {
            let mut heard = [0; 2048];
            let len =
                inn.recv(&mut heard).unwrap_or_else(|e| panic!("run {round} to {target}, datagram {number}: {e}"));
            assert!(heard[..len] == *expected, "run {round} to {target}, datagram {number} is another one");
        }
    }
}

fn full_size_echoes(from: &Ns, to: IpAddr) {
    let line = format!("ping -q -n -M do -c 20 -l 20 -s {FULL} {to}");
    let out = from.attempt(&line);
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(text.contains(" 20 received"), "{line}: {text}");
}
