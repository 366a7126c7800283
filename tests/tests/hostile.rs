//! What strangers and echoes on the line can do to a tunnel: nothing that its users would notice.

use std::net::SocketAddr;
use std::thread;
use std::time::Duration;
use tests::netns::{INNER4, Net, ROUTER4, SERVER4};
use tests::ours::{Client, inner_addresses};
use tests::relay::{Relay, Way, Weather};
use tests::setup::{Setup, Wrap};
use tests::stock::{Server, UP};
use tests::temp::Temp;
use tests::traffic::{Shape, Stream};

/// Opcode of a data packet with a peer-id.
const DATA_V2: u8 = 9;

fn relay(net: &Net, weather: Weather) -> Relay {
    Relay::start(&net.router, (ROUTER4, 1194).into(), (SERVER4, 1194).into(), weather)
}

/// Runs numbered packets down to the client while `meddle` works on the line: all arrive, each once.
///
/// With tls-crypt: without any wrap a stranger's reset may begin a session of OpenVPN's in place of the running one.
fn unharmed_by(meddle: impl FnOnce(&Relay)) {
    let (net, temp, mut setup) = (Net::new(), Temp::new(), Setup::new().through_relay());
    setup.wrap = Wrap::TlsCrypt;
    let relay = relay(&net, Weather { record: true, ..Weather::default() });
    let _server = Server::start(&net, &temp, &setup);
    let mut client = Client::up(&net, &temp, &setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let (inner, _) = inner_addresses(&net);
    let here = SocketAddr::from((inner, 7000));
    let down = Stream::start(&net.server, INNER4.into(), &net.client, here, Shape::SMALL);
    thread::sleep(Duration::from_secs(2));
    meddle(&relay);
    thread::sleep(Duration::from_secs(1));
    let report = down.finish(Duration::from_secs(1));
    println!("{report}");
    assert!(report.complete() && report.doubled == 0, "{report}");
    assert!(client.process.running() && client.process.count(UP) == 1, "the session did not go on");
}

/// Injects a datagram and waits a little: in one burst they would overflow the client's socket, and that loses packets.
fn paced(relay: &Relay, bytes: Vec<u8>) {
    relay.inject(Way::Down, bytes);
    thread::sleep(Duration::from_micros(250));
}

fn data_packets(relay: &Relay) -> Vec<Vec<u8>> {
    let down = relay.recorded().into_iter().filter(|(way, _)| *way == Way::Down);
    let data: Vec<Vec<u8>> = down.map(|(_, bytes)| bytes).filter(|bytes| bytes[0] >> 3 == DATA_V2).collect();
    assert!(data.len() > 1000, "only {} data packets on the line", data.len());
    data
}

#[test]
fn replayed_data_packets_are_not_delivered_again() {
    unharmed_by(|relay| {
        for bytes in data_packets(relay) {
            paced(relay, bytes);
        }
    });
}

#[test]
fn data_packets_with_a_flipped_bit_are_dropped() {
    unharmed_by(|relay| {
        for (n, mut bytes) in data_packets(relay).into_iter().enumerate() {
            // Past the first byte, so that it stays a data packet; every other position has its turn.
            let at = 1 + n % (bytes.len() - 1);
            bytes[at] ^= 1 << (n % 8);
            paced(relay, bytes);
        }
    });
}

#[test]
fn datagrams_of_every_length_and_opcode_do_no_harm() {
    unharmed_by(|relay| {
        for length in 0..=200usize {
            for opcode in 0..32u8 {
                let bytes = (0..length).map(|n| if n == 0 { opcode << 3 } else { (n * 37) as u8 }).collect();
                paced(relay, bytes);
            }
        }
    });
}

#[test]
fn a_handshake_completes_among_bogus_packets() {
    for wrap in [Wrap::TlsAuth, Wrap::TlsCrypt] {
        let (net, temp) = (Net::new(), Temp::new());
        let mut setup = Setup::new().through_relay();
        setup.wrap = wrap;
        let slow = Weather { delay: Duration::from_millis(50), ..Weather::default() };
        let relay = relay(&net, slow);
        let _server = Server::start(&net, &temp, &setup);
        let mut client = Client::start(&net, &temp, &setup);
        // Five hundred a second from before its first packet until it is up.
        let mut n = 0u32;
        while client.process.count(UP) == 0 && n < 10_000 {
            let opcode = [4u8, 5, 8, 3, 7, 9][n as usize % 6];
            let bytes = (0..90u32).map(|i| if i == 0 { opcode << 3 } else { (i.wrapping_mul(n + 17) >> 1) as u8 });
            relay.inject(Way::Down, bytes.collect());
            n += 1;
            thread::sleep(Duration::from_millis(2));
        }
        println!("{wrap:?}: up after {n} bogus packets");
        client.expect_up();
        assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(3)).is_some(), "{wrap:?}: no echo");
    }
}
