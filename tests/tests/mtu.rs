//! Full-size packets through a tunnel of MTU 1500, and TCP across a hop that is smaller than both ends think.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;
use tests::netns::{INNER4, INNER6, Net};
use tests::ours::{Client, inner_addresses};
use tests::setup::{Family, Setup};
use tests::stock::Server;
use tests::temp::Temp;
use tests::traffic::{Shape, Stream, transfer};

/// Dropped in this order, so that a panic still finds the logs.
struct Tunnel {
    client4: IpAddr,
    client6: IpAddr,
    _client: Client,
    _server: Server,
    _temp: Temp,
    net: Net,
}

fn tunnel(net: Net, setup: &Setup) -> Tunnel {
    let temp = Temp::new();
    let server = Server::start(&net, &temp, setup);
    let client = Client::up(&net, &temp, setup);
    assert!(net.client.until_answered(INNER4.into(), Duration::from_secs(5)).is_some(), "no echo");
    let (v4, v6) = inner_addresses(&net);
    Tunnel { net, client4: v4.into(), client6: v6.into(), _client: client, _server: server, _temp: temp }
}

#[test]
fn a_full_size_echo_passes_both_ways() {
    for family in [Family::V4, Family::V6] {
        let tunnel = tunnel(Net::new(), &Setup::new().family(family));
        let asks = [
            (&tunnel.net.client, 1472, INNER4.into()),
            (&tunnel.net.client, 1452, INNER6.into()),
            (&tunnel.net.server, 1472, tunnel.client4),
            (&tunnel.net.server, 1452, tunnel.client6),
        ];
        for (ns, size, to) in asks {
            // All at once: behind its last request ping waits for one interval only, which is a second then.
            let line = format!("ping -q -n -M do -c 20 -l 20 -s {size} {to}");
            let out = ns.attempt(&line);
            let text = String::from_utf8_lossy(&out.stdout).into_owned();
            assert!(text.contains(" 20 received"), "outside {family:?}: {line}: {text}");
        }
        let larger = tunnel.net.client.attempt(&format!("ping -q -n -M do -c 1 -W 1 -s 1473 {INNER4}"));
        assert!(!larger.status.success(), "the tunnel's MTU is 1500, so 1501 bytes must not pass unfragmented");
    }
}

#[test]
fn full_size_datagrams_pass_both_ways() {
    let tunnel = tunnel(Net::new(), &Setup::new());
    let (here, there) = (SocketAddr::new(tunnel.client4, 7000), SocketAddr::from((INNER4, 7000)));
    let up = Stream::start(&tunnel.net.client, here.ip(), &tunnel.net.server, there, Shape::FULL);
    let down = Stream::start(&tunnel.net.server, there.ip(), &tunnel.net.client, here, Shape::FULL);
    std::thread::sleep(Duration::from_secs(3));
    for report in [up, down].map(|stream| stream.finish(Duration::from_secs(1))) {
        assert!(report.complete(), "{report}");
    }
}

#[test]
fn tcp_crosses_a_hop_of_mtu_1400() {
    for family in [Family::V4, Family::V6] {
        let net = Net::new();
        // The server sees it at its own interface; the client's is at 1500, and only ICMP tells it.
        net.set_far_mtu(1400);
        let tunnel = tunnel(net, &Setup::new().family(family));
        let bytes = 3_000_000;
        let (net, far) = (&tunnel.net, SocketAddr::from((INNER4, 5001)));
        let ways = [
            transfer(&net.client, &net.server, far, bytes),
            transfer(&net.server, &net.client, SocketAddr::new(tunnel.client4, 5002), bytes),
            transfer(&net.client, &net.server, SocketAddr::from((INNER6, 5003)), bytes),
            transfer(&net.server, &net.client, SocketAddr::new(tunnel.client6, 5004), bytes),
        ];
        for way in ways {
            println!("outside {family:?}: {:.0} Mb/s", way.mbit());
            assert!(way.same, "outside {family:?}: {way:?}");
        }
    }
}
