//! Two workers with real TUN interfaces, each in a namespace of its own, joined by UDP over the loopback of a third:
//! what two hosts say to each other through the tunnel, on both engines, with and without offloads.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;
#[path = "common/net.rs"]
mod net;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use common::{ENGINES, End, addresses, name};
use dataplane::sys::IoChoice;
use dataplane::workers::manager::{WorkerOrder, WorkerReport};
use link::message::WorkerEvent;
use net::{Net, ip};

/// Two hosts with a tunnel between them. The namespaces go last.
struct Tunnel {
    near: End,
    far: End,
    near_net: Net,
    far_net: Net,
}

/// For what comes at once, unless it is lost.
const PATIENCE: Duration = Duration::from_secs(30);

fn tunnel(engines: (IoChoice, IoChoice), offload: (bool, bool)) -> Tunnel {
    let (one, two) = addresses();
    let (near_net, far_net) = (Net::new(), Net::new());
    let mut near = End::new(engines.0, one, two, [1; 40], [2; 40]);
    let mut far = End::new(engines.1, two, one, [2; 40], [1; 40]);
    near.worker.send(WorkerOrder::AttachTun(near_net.tun(1, 1500, offload.0))).unwrap();
    far.worker.send(WorkerOrder::AttachTun(far_net.tun(2, 1500, offload.1))).unwrap();
    assert_eq!(near.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    assert_eq!(far.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    Tunnel { near, far, near_net, far_net }
}

/// Byte number `at` of a stream.
fn byte(at: usize) -> u8 {
    (at.wrapping_mul(31) >> 3) as u8
}

/// Sends a stream through the tunnel from one host to the other, and checks every byte of it.
fn stream(from: &Net, to: &Net, listen: &'static str, bytes: usize) {
    let listener = to.run(move || TcpListener::bind(listen).unwrap());
    let sender = from.run(move || {
        let mut stream = TcpStream::connect(listen).unwrap();
        std::thread::spawn(move || {
            let data: Vec<u8> = (0..bytes).map(byte).collect();
            stream.write_all(&data).unwrap();
        })
    });
    let (mut stream, _) = listener.accept().unwrap();
    let mut data = Vec::with_capacity(bytes);
    stream.read_to_end(&mut data).unwrap();
    sender.join().unwrap();
    assert_eq!(data.len(), bytes);
    let wrong = data.iter().enumerate().position(|(at, &found)| found != byte(at));
    assert_eq!(wrong, None);
}

#[test]
fn tcp_crosses_both_ways_in_super_packets() {
    for engines in ENGINES {
        let Tunnel { near, far, near_net, far_net } = tunnel(engines, (true, true));
        stream(&near_net, &far_net, "10.77.0.2:5001", 20_000_000);
        stream(&far_net, &near_net, "10.77.0.1:5001", 20_000_000);
        stream(&near_net, &far_net, "[fd77::2]:5001", 5_000_000);
        for (end, other) in [(&near, &far), (&far, &near)] {
            let (stats, there) = (end.stats().snapshot(), other.stats().snapshot());
            let (out, inn) = (stats.outbound, there.inbound);
            assert!(out.inner_packets > 2 * out.batches, "super-packets were read: {out:?}");
            assert!(out.written > 2 * out.writes, "runs were sent: {out:?}");
            assert!(inn.written > 2 * inn.writes, "super-packets were written: {inn:?}");
        }
    }
}

#[test]
fn tcp_crosses_when_an_end_has_no_offloads() {
    for engines in [ENGINES[0], ENGINES[1]] {
        for offload in [(true, false), (false, true), (false, false)] {
            let tunnel = tunnel(engines, offload);
            stream(&tunnel.near_net, &tunnel.far_net, "10.77.0.2:5001", 2_000_000);
            stream(&tunnel.far_net, &tunnel.near_net, "10.77.0.1:5001", 2_000_000);
        }
    }
}

#[test]
fn datagrams_of_every_size_come_back_unchanged() {
    for engines in [ENGINES[0], ENGINES[1]] {
        let tunnel = tunnel(engines, (true, true));
        for host in ["10.77.0", "fd77:"] {
            let address = move |last: u8, port: u16| -> SocketAddr {
                let text = if host.contains('.') {
                    format!("{host}.{last}:{port}")
                } else {
                    format!("[{host}:{last}]:{port}")
                };
                text.parse().unwrap()
            };
            let far = tunnel.far_net.run(move || UdpSocket::bind(address(2, 7)).unwrap());
            let near = tunnel.near_net.run(move || UdpSocket::bind(address(1, 0)).unwrap());
            near.connect(address(2, 7)).unwrap();
            until_it_carries(&near, &far);
            for socket in [&near, &far] {
                socket.set_read_timeout(Some(PATIENCE)).unwrap();
            }
            // 1,472 bytes fill the MTU of 1,500 over IPv4; what is longer comes in fragments.
            for size in [0, 1, 3, 100, 1_400, 1_452, 1_453, 1_472, 1_473, 4_000, 9_000] {
                let data: Vec<u8> = (0..size).map(byte).collect();
                near.send(&data).unwrap();
                let mut heard = [0; 10_000];
                let (len, from) = far.recv_from(&mut heard).unwrap();
                assert_eq!(heard[..len], data, "{size} there");
                far.send_to(&heard[..len], from).unwrap();
                let len = near.recv(&mut heard).unwrap();
                assert_eq!(heard[..len], data, "{size} back");
            }
        }
    }
}

/// The kernel takes packets for an IPv6 address only a moment after its interface is up.
fn until_it_carries(near: &UdpSocket, far: &UdpSocket) {
    let mut heard = [0; 8];
    for socket in [near, far] {
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    }
    for attempt in 0..200_u64 {
        near.send(&attempt.to_be_bytes()).unwrap();
        // What was sent before this one comes before it, or never.
        while let Ok((len, from)) = far.recv_from(&mut heard) {
            far.send_to(&heard[..len], from).unwrap();
            if heard[..len] == attempt.to_be_bytes() {
                break;
            }
        }
        while let Ok(len) = near.recv(&mut heard) {
            if heard[..len] == attempt.to_be_bytes() {
                return;
            }
        }
    }
    panic!("nothing comes back");
}

#[test]
fn an_interface_that_goes_down_and_up_again_goes_on() {
    for engines in [ENGINES[0], ENGINES[1]] {
        let tunnel = tunnel(engines, (true, true));
        stream(&tunnel.near_net, &tunnel.far_net, "10.77.0.2:5001", 100_000);
        tunnel.far_net.run(|| ip("link set tun0 down"));
        let near = tunnel.near_net.run(|| UdpSocket::bind("10.77.0.1:0").unwrap());
        let stats = tunnel.far.stats();
        let refused = dataplane::drop_reason::DropReason::TunError;
        while stats.dropped(refused) < 10 {
            near.send_to(b"anybody?", "10.77.0.2:9").unwrap();
        }
        tunnel.far_net.run(|| ip("link set tun0 up"));
        stream(&tunnel.near_net, &tunnel.far_net, "10.77.0.2:5001", 100_000);
        let told = tunnel.far.reports.try_iter().any(|report| matches!(report, WorkerReport::TunError { .. }));
        assert!(!told, "being down is no error");
    }
}
