//! Several workers as one gateway: every packet that goes in comes out at the right place or is counted, whichever worker it came to.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;
#[path = "common/group.rs"]
mod gateway;
#[path = "common/net.rs"]
mod net;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::channel;
use std::time::Duration;

use common::config;
use dataplane::drop_reason::DropReason;
use dataplane::peers::routes::Route;
use dataplane::pipeline::{PeerReport, PeerSetup};
use dataplane::sys::IoChoice;
use dataplane::sys::socket::{SocketOptions, WireSocket, bind_group};
use dataplane::sys::steering::Steering;
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::tun::virtio::VNET_HDR_LEN;
use dataplane::workers::handover::owner_of;
use dataplane::workers::manager::{Split, WorkerConfig, WorkerOrder, WorkerReport, spawn_group};
use gateway::{Client, Group, SERVER, inner_address, localhost, number, packet, until, wire_socket};
use link::message::{Path, WorkerCommand, WorkerEvent};
use net::{Net, ip};

const BOTH: [IoChoice; 2] = [IoChoice::Syscall, IoChoice::Uring];

#[test]
fn every_client_has_one_worker_and_its_queue() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..8, true);
        for round in 0..50 {
            for client in &mut clients {
                client.send(&packet(inner_address(client.peer), SERVER, round));
            }
            for client in &mut clients {
                let written = group.written_by(group.owner(client.peer));
                assert_eq!(number(&written), round);
                group.read_by(group.owner(client.peer), &packet(SERVER, inner_address(client.peer), round));
                let (got, from) = client.recv();
                assert_eq!((got, from), (packet(SERVER, inner_address(client.peer), round), client.gateway));
            }
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 400);
        for stats in group.stats() {
            assert_eq!((stats.inbound.inner_packets, stats.outbound.inner_packets), (200, 200), "half of the clients");
            let handed = [stats.inbound.handed_over, stats.outbound.handed_over, stats.inbound.taken_over];
            assert_eq!((handed, stats.outbound.taken_over), ([0; 3], 0), "the kernel knew where to");
        }
        for client in &clients {
            assert_eq!((client.counters.packets_in(), client.counters.packets_out()), (50, 50));
            assert!(client.counters.last_heard_ns() > 0 && client.counters.key_since_ns() > 0);
        }
        group.assert_exact(&clients, 400, 400);
    }
}

#[test]
fn what_the_tun_gives_to_the_wrong_worker_is_handed_over() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..8, true);
        for round in 0..100 {
            for client in &mut clients {
                group.read_by(1 - group.owner(client.peer), &packet(SERVER, inner_address(client.peer), round));
            }
            for client in &mut clients {
                assert_eq!(client.recv().0, packet(SERVER, inner_address(client.peer), round), "in order");
            }
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 800);
        for stats in group.stats() {
            let out = stats.outbound;
            assert_eq!((out.handed_over, out.taken_over, out.inner_packets), (400, 400, 400));
        }
        group.assert_exact(&clients, 0, 800);
    }
}

#[test]
fn clients_without_a_peer_id_are_found_by_their_address() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..8, false);
        // A stranger who says no peer-id either is nobody's.
        let mut stranger = Client::new(9, false, group.addresses[0]);
        stranger.begin();
        for round in 0..20 {
            for client in &mut clients {
                client.send(&packet(inner_address(client.peer), SERVER, round));
                assert_eq!(number(&group.written_by(group.owner(client.peer))), round);
            }
            stranger.send(&packet(inner_address(9), SERVER, round));
        }
        until("all are counted", || group.dropped(DropReason::UnknownPeer) == 20);
        let stats = group.stats();
        assert_eq!((stats[0].inbound.handed_over, stats[1].inbound.taken_over), (80, 80));
        assert_eq!((stats[0].inbound.inner_packets, stats[1].inbound.inner_packets), (80, 80));
        group.assert_exact(&clients, 180, 0);

        // One that went away is nobody's either.
        group.workers[1].send(WorkerOrder::RemovePeer { peer: 1 }).unwrap();
        let mut sent = 180;
        until("it is forgotten", || {
            clients[1].send(&packet(inner_address(1), SERVER, 1));
            sent += 1;
            until("it is counted", || group.sum(|stats| stats.inbound.wire_packets) == sent && group.nothing_written());
            group.workers[0].stats().dropped(DropReason::UnknownPeer) > 20
        });
    }
}

#[test]
fn a_datagram_at_the_wrong_socket_is_handed_over_and_answered_from_the_owners() {
    for io in BOTH {
        // Two sockets that are no group: everything comes to the worker that was asked.
        let mut group = Group::with(io, vec![wire_socket(localhost()), wire_socket(localhost())], |_, _| ());
        let mut clients: Vec<Client> = (0..8).map(|peer| group.client(peer, true, 1 - group.owner(peer))).collect();
        group.route(&clients);
        for round in 0..50 {
            for client in &mut clients {
                client.send(&packet(inner_address(client.peer), SERVER, round));
            }
            for client in &mut clients {
                assert_eq!(number(&group.written_by(group.owner(client.peer))), round);
                group.read_by(0, &packet(SERVER, inner_address(client.peer), round));
                let (got, from) = client.recv();
                assert_eq!(number(&got), round);
                assert_eq!(from, group.addresses[group.owner(client.peer)]);
            }
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 400);
        for stats in group.stats() {
            assert_eq!((stats.inbound.handed_over, stats.inbound.taken_over), (200, 200));
        }
        group.assert_exact(&clients, 400, 400);
    }
}

#[test]
fn clients_reach_each_other_only_when_they_may() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..6, true);
        let (mut sent, mut read) = (0, 0);
        for relay in [false, true, false] {
            group.order_all(|| WorkerOrder::SetRelay(relay));
            for (from, to) in (0..6).flat_map(|from| (0..6).map(move |to| (from, to))).filter(|(from, to)| from != to) {
                let wanted = packet(inner_address(from), inner_address(to), from * 10 + to);
                clients[from as usize].send(&wanted);
                sent += 1;
                if relay {
                    assert_eq!(clients[to as usize].recv().0, wanted, "{from} to {to}");
                } else {
                    assert_eq!(group.written_by(group.owner(from)), wanted, "the kernel decides");
                }
            }
            // To everybody, to the gateway, to nobody: the kernel's matter.
            for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 251), SERVER, Ipv4Addr::new(192, 0, 2, 1)] {
                let wanted = packet(inner_address(3), to, 1);
                clients[3].send(&wanted);
                sent += 1;
                assert_eq!(group.written_by(1), wanted, "{to}");
            }
            group.read_by(0, &packet(SERVER, inner_address(3), 5));
            read += 1;
            assert_eq!(number(&clients[3].recv().0), 5);
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 33);
        assert!(group.nothing_written() && clients.iter().all(Client::nothing_came));
        assert_eq!(group.sum(|stats| stats.relayed), 30);
        // Of each of 6 clients, 3 of the 5 others are the other worker's; and one packet of three rounds came to the wrong queue.
        assert_eq!(group.sum(|stats| stats.outbound.handed_over), 18 + 3);
        group.assert_exact(&clients, sent, read);
    }
}

#[test]
fn a_source_that_is_not_the_clients_goes_nowhere() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..4, true);
        group.order_all(|| WorkerOrder::SetRelay(true));
        for from in 0..4 {
            for forged in (0..4).filter(|forged| *forged != from) {
                clients[from as usize].send(&packet(inner_address(forged), inner_address(forged), 1));
                clients[from as usize].send(&packet(inner_address(forged), SERVER, 1));
            }
            clients[from as usize].send(&packet(SERVER, inner_address(from), 1));
        }
        until("all are counted", || group.dropped(DropReason::SourceNotAllowed) == 28);
        assert!(group.nothing_written() && clients.iter().all(Client::nothing_came));
        group.assert_exact(&clients, 28, 0);
        assert!(clients.iter().all(|client| client.counters.packets_in() == 0));
    }
}

#[test]
fn a_full_ring_drops_and_counts() {
    for io in BOTH {
        let (hold, held) = channel::<()>();
        let held = std::sync::Mutex::new(held);
        let sockets = bind_group(localhost(), 2, &SocketOptions::default()).unwrap();
        // The report function stands on the worker's thread: so this worker takes nothing for a while.
        let mut group = Group::with(io, sockets, move |worker, report| {
            if worker == 1 && matches!(report, WorkerReport::Peer(PeerReport::FirstHeard { .. })) {
                let _ = held.lock().unwrap().recv();
            }
        });
        let mut clients = group.clients(0..2, true);
        group.workers[1].send(WorkerOrder::ReportWhenHeard { peer: 1 }).unwrap();
        group.order_all(|| WorkerOrder::SetRelay(false));
        let heard = |group: &Group| {
            let heard = group.told.try_iter().any(|(_, report)| matches!(report, WorkerReport::Peer(_)));
            assert!(!heard, "it is still in the report function");
            group.workers[1].stats().snapshot().inbound.batches > 0
        };
        let mut sent = 0;
        clients[1].send(&packet(inner_address(1), SERVER, 1));
        sent += 1;
        until("the worker stands", || heard(&group));
        let readers = group.readers();
        let mut read = 0;
        until("the ring is full", || {
            group.read_by(0, &packet(SERVER, inner_address(1), 1));
            read += 1;
            readers[0].dropped(DropReason::HandoverFull) > 100
        });
        until("all are read", || {
            readers[0].snapshot().outbound.handed_over + readers[0].dropped(DropReason::HandoverFull) == read
        });
        let handed = readers[0].snapshot().outbound.handed_over;
        assert!(handed > 1_000, "{handed}");
        drop(hold);
        for _ in 0..handed.min(100) {
            assert_eq!(number(&clients[1].recv().0), 1);
        }
        until("the rest is sealed", || readers[1].snapshot().outbound.inner_packets == handed);
        until("the one packet is written", || readers[1].snapshot().inbound.written == sent);
        group.assert_exact(&clients, sent, read);
        // And it goes on.
        while !clients[1].nothing_came() {}
        group.read_by(0, &packet(SERVER, inner_address(1), 2));
        assert_eq!(number(&clients[1].recv().0), 2);
    }
}

#[test]
fn a_client_that_moves_keeps_its_worker_and_a_refused_move_is_taken_back() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..2, true);
        let home = clients[1].path();
        let mut sent = 0;
        for round in 0..3 {
            // Another source port: another hash, if the kernel went by that.
            clients[1].socket = Client::socket(localhost());
            // It may float once a second; what it sends before that is taken all the same.
            let floated = loop {
                clients[1].send(&packet(inner_address(1), SERVER, round));
                assert_eq!(number(&group.written_by(1)), round);
                sent += 1;
                if let Some(event) = group.control.recv_event(1).unwrap() {
                    break event;
                }
                std::thread::sleep(Duration::from_millis(20));
            };
            let WorkerEvent::Floated { peer, path } = floated else { panic!("something else") };
            assert_eq!((peer, path.remote), (1, clients[1].path().remote));
            group.read_by(1, &packet(SERVER, inner_address(1), round));
            assert_eq!(number(&clients[1].recv().0), round, "answers follow");
        }
        let stats = group.stats();
        assert_eq!((stats[0].inbound.wire_packets, stats[1].inbound.wire_packets), (0, sent));
        // The control process takes the last one back.
        let back = Client::socket(localhost());
        let path = Path { remote: back.local_addr().unwrap(), ..home };
        group.control.send_command(1, &WorkerCommand::SetPath { peer: 1, path }).unwrap();
        group.order_all(|| WorkerOrder::SetRelay(false));
        for _ in 0..3 {
            clients[1].send(&packet(inner_address(1), SERVER, 99));
        }
        until("all are counted", || group.dropped(DropReason::WrongAddress) == 3);
        clients[1].socket = back;
        group.read_by(1, &packet(SERVER, inner_address(1), 7));
        assert_eq!(number(&clients[1].recv().0), 7);
        clients[1].send(&packet(inner_address(1), SERVER, 8));
        assert_eq!(number(&group.written_by(1)), 8);
        assert!(group.control.recv_event(1).unwrap().is_none(), "it did not move");
    }
}

#[test]
fn control_packets_of_every_workers_peers_are_those_of_known_peers() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let clients = group.clients(0..4, true);
        let stranger = Client::socket(localhost());
        let control = [4 << 3; 30];
        // All come to the first worker. Known ones are handed out first.
        let next = |group: &mut Group| loop {
            match group.control.recv_datagram(0).unwrap() {
                Some(datagram) => return datagram.path.remote,
                None => group.control.wait(None).unwrap(),
            }
        };
        for client in &clients {
            until("the first worker knows the address", || {
                let before = group.workers[0].stats().snapshot().control_received;
                stranger.send_to(&control, group.addresses[0]).unwrap();
                client.socket.send_to(&control, group.addresses[0]).unwrap();
                until("both are up", || group.workers[0].stats().snapshot().control_received == before + 2);
                let first = next(&mut group);
                let second = next(&mut group);
                assert_ne!(first, second);
                first == client.path().remote
            });
        }
        assert_eq!(group.workers[1].stats().snapshot().control_received, 0);
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    for (any, asked) in
        [("0.0.0.0:0", "127.0.0.5"), ("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "127.0.0.5"), ("[::]:0", "::1")]
    {
        for io in BOTH {
            let sockets = bind_group(any.parse().unwrap(), 2, &SocketOptions::default()).unwrap();
            let mut group = Group::with(io, sockets, |_, _| ());
            let gateway = SocketAddr::new(asked.parse::<IpAddr>().unwrap(), group.addresses[0].port());
            group.addresses = vec![gateway; 2];
            let mut clients = group.clients(0..2, true);
            for client in &mut clients {
                // The supervisor knows the path from the control packets, which come to the first worker.
                client.socket.send_to(&[7 << 3; 20], gateway).unwrap();
                let path = loop {
                    match group.control.recv_datagram(0).unwrap() {
                        Some(datagram) => break datagram.path,
                        None => group.control.wait(None).unwrap(),
                    }
                };
                assert_eq!((path.local, path.remote), (Some(gateway.ip()), client.path().remote));
                let setup = PeerSetup { path, ..client.setup() };
                group.workers[group.owner(client.peer)].send(WorkerOrder::UpdatePeer(Box::new(setup))).unwrap();
                group.order_all(|| WorkerOrder::SetRelay(false));
                client.send(&packet(inner_address(client.peer), SERVER, 1));
                assert_eq!(number(&group.written_by(group.owner(client.peer))), 1);
                group.read_by(group.owner(client.peer), &packet(SERVER, inner_address(client.peer), 2));
                let (got, from) = client.recv();
                assert_eq!((number(&got), from), (2, gateway), "{any} {asked}");
            }
        }
    }
}

#[test]
fn an_ipv6_socket_takes_ipv4_unless_told_otherwise() {
    for only_v6 in [false, true] {
        let any = "[::]:0".parse().unwrap();
        let group = bind_group(any, 2, &SocketOptions { only_v6, ..Default::default() }).unwrap();
        let port = group[0].local_addr().unwrap().port();
        assert_eq!(group[1].local_addr().unwrap().port(), port);
        assert_eq!(UdpSocket::bind(("0.0.0.0", port)).is_ok(), only_v6);
    }
    assert!(WireSocket::open_group(&SocketOptions::default(), 2).is_err(), "no address");
    let one = bind_group(localhost(), 1, &SocketOptions::default()).unwrap();
    assert_eq!(one.len(), 1);
    assert!(UdpSocket::bind(one[0].local_addr().unwrap()).is_err());
}

#[test]
fn a_group_that_cannot_be_is_refused() {
    let links = |count: usize| link::create::<(), ()>(count).unwrap().2;
    let numbered = |index| WorkerConfig { index, ..config(IoChoice::Syscall) };
    let refused = |configs: Vec<WorkerConfig>, count| spawn_group(configs, links(count), |_, _| ()).is_err();
    assert!(refused(vec![], 1), "nobody");
    assert!(refused(vec![numbered(0), numbered(1)], 1), "a link is missing");
    assert!(refused(vec![numbered(0), numbered(2)], 2) && refused(vec![numbered(1), numbered(0)], 2), "numbers");
    let split = WorkerConfig { split: Some(Split::default()), ..numbered(1) };
    assert!(refused(vec![numbered(0), split], 2));
    assert!(!refused(vec![numbered(0), numbered(1)], 2));
    assert!(!refused(vec![WorkerConfig { split: Some(Split::default()), ..numbered(0) }], 1), "one may be split");
}

#[test]
fn the_tun_gives_each_queue_the_packets_of_its_workers_peers() {
    const QUEUES: u16 = 3;
    let net = Net::new();
    net.run(|| {
        let options = TunOptions { name: "tun0".into(), multi_queue: false, offload: false };
        let queues = TunQueue::open_group(&options, QUEUES).unwrap();
        assert!(queues.iter().all(|queue| queue.name() == "tun0"));
        ip("addr add 10.8.0.1/16 dev tun0");
        ip("-6 addr add fd08::1/64 dev tun0 nodad");
        ip("link set tun0 txqueuelen 5000 up");
        let base_v6: Ipv6Addr = "fd08::a".parse().unwrap();
        let steering = Steering { workers: QUEUES, base_v4: inner_address(0), base_v6 };
        queues[1].steer(&steering).unwrap();
        let v4 = UdpSocket::bind("10.8.0.1:0").unwrap();
        let mut frame = [0; 2_000];
        let mut take = |queue: usize| loop {
            match rustix::io::read(&queues[queue], &mut frame) {
                // What the kernel says by itself over IPv6 is not meant.
                Ok(len) if frame[VNET_HDR_LEN] >> 4 == 4 => return Some(frame[VNET_HDR_LEN..len].to_vec()),
                Ok(_) => {}
                Err(_) => return None,
            }
        };
        for peer in 0..300 {
            v4.send_to(b"packet", (inner_address(peer), 9)).unwrap();
            let owner = usize::from(owner_of(peer, QUEUES));
            // Another CPU may be sending on the interface, and then sends this one as well, a moment later.
            let mut packet = None;
            until("it comes to its worker's queue", || {
                packet = take(owner);
                packet.is_some()
            });
            assert_eq!(packet.unwrap()[16..20], inner_address(peer).octets());
        }
        assert!((0..QUEUES.into()).all(|queue| take(queue).is_none()));
        let v6 = UdpSocket::bind("[::]:0").unwrap();
        for peer in 0..30 {
            let to = Ipv6Addr::from_bits(base_v6.to_bits() + u128::from(peer));
            until("the interface is ready", || v6.send_to(b"packet", (to, 9)).is_ok());
            let owner = usize::from(owner_of(peer, QUEUES));
            let mut frame = [0; 2_000];
            until("it comes to its worker's queue", || {
                std::iter::from_fn(|| rustix::io::read(&queues[owner], &mut frame).ok().map(|_| frame))
                    .any(|frame| frame[VNET_HDR_LEN + 24..VNET_HDR_LEN + 40] == to.octets())
            });
        }
    });
}

#[test]
fn a_route_says_more_than_the_order_of_addresses() {
    const QUEUES: u16 = 3;
    let net = Net::new();
    net.run(|| {
        let options = TunOptions { name: "tun0".into(), multi_queue: false, offload: false };
        let queues = TunQueue::open_group(&options, QUEUES).unwrap();
        ip("addr add 10.8.0.1/16 dev tun0");
        ip("-6 addr add fd08::1/64 dev tun0 nodad");
        ip("link set tun0 txqueuelen 5000 up");
        ip("route add 10.20.0.0/16 dev tun0");
        ip("-6 route add fd20::/32 dev tun0");
        let base_v6: Ipv6Addr = "fd08::a".parse().unwrap();
        let mut steered = queues[0].steer(&Steering { workers: QUEUES, base_v4: inner_address(0), base_v6 }).unwrap();
        let (v4, v6) = (UdpSocket::bind("10.8.0.1:0").unwrap(), UdpSocket::bind("[fd08::1]:0").unwrap());
        // The queue that a packet to this address comes to.
        let queue_of = |to: &str| {
            let to: IpAddr = to.parse().unwrap();
            let (socket, at, len) = if to.is_ipv4() { (&v4, 16, 4) } else { (&v6, 24, 16) };
            until("the interface is ready", || socket.send_to(b"packet", (to, 9)).is_ok());
            let mut found = None;
            until("it comes to a queue", || {
                for (queue, tun) in (0u32..).zip(&queues) {
                    let mut frame = [0; 2_000];
                    while rustix::io::read(tun, &mut frame).is_ok() {
                        let packet = &frame[VNET_HDR_LEN..];
                        let bytes = &packet[at..at + len];
                        let is_it = match to {
                            IpAddr::V4(to) => packet[0] >> 4 == 4 && bytes == to.octets(),
                            IpAddr::V6(to) => packet[0] >> 4 == 6 && bytes == to.octets(),
                        };
                        found = is_it.then_some(queue).or(found);
                    }
                }
                found.is_some()
            });
            found.unwrap()
        };
        let route = |address: &str, prefix_len, peer| Route { address: address.parse().unwrap(), prefix_len, peer };
        // By their order these would be of queues 1, 2 and 0, and of 1 in IPv6.
        let addresses = ["10.8.0.11", "10.8.0.12", "10.8.0.13", "fd08::b"];
        assert_eq!(addresses.map(queue_of), [1, 2, 0, 1]);
        steered
            .follow(&[
                route("10.8.0.11", 32, 3),
                route("10.8.0.12", 32, 4),
                route("10.8.0.13", 32, 5),
                route("fd08::b", 128, 5),
                route("10.20.0.0", 16, 4),
                route("10.20.30.0", 24, 3),
                route("fd20::", 32, 8),
                route("fd20:0:1::", 48, 7),
            ])
            .unwrap();
        assert_eq!(addresses.map(queue_of), [0, 1, 2, 2]);
        assert_eq!(["10.20.30.255", "10.20.31.0", "10.20.29.255", "10.20.0.0"].map(queue_of), [0, 1, 1, 1]);
        assert_eq!(["fd20:0:1::9", "fd20:0:2::9", "fd20::1"].map(queue_of), [1, 2, 2]);
        assert_eq!(queue_of("10.8.0.14"), 1, "in no route: by its order");
        // 10.8.0.11 is another peer's, 10.8.0.12 is nobody's, the inner network is gone.
        steered.follow(&[route("10.8.0.11", 32, 8), route("10.8.0.13", 32, 5), route("10.20.0.0", 16, 4)]).unwrap();
        assert_eq!(addresses.map(queue_of), [2, 2, 2, 1]);
        assert_eq!(queue_of("10.20.30.255"), 1);
        steered.follow(&[]).unwrap();
        assert_eq!(addresses.map(queue_of), [1, 2, 0, 1]);
        // More than one new prefix under one that is there, and back.
        let all: Vec<Route> = (0..200)
            .map(|n| Route { address: IpAddr::V4(inner_address(n)), prefix_len: 32, peer: n / 7 })
            .chain([route("10.8.0.0", 16, 1)])
            .collect();
        steered.follow(&all).unwrap();
        for n in 0..200 {
            assert_eq!(queue_of(&inner_address(n).to_string()), u32::from(owner_of(n / 7, QUEUES)), "{n}");
        }
        assert_eq!(queue_of("10.8.200.1"), 1);
    });
}
