//! Order: packet ids leave the worker in order and pass the wire in order, TCP inside arrives in order, and what the
//! kernel accepted arrives. Seen by listening on both sides: on the wire (a veth pair) and at the far TUN.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;
#[path = "common/net.rs"]
mod net;

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::os::fd::OwnedFd;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::{scope, sleep};
use std::time::Duration;

use common::{End, WAYS, WIRE_PEER, config, name, path_to, peer};
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::sys::{IoChoice, ZeroCopyChoice};
use dataplane::workers::manager::{OffloadChoice, WorkerConfig, WorkerOrder};
use link::message::WorkerEvent;
use net::{Net, ip};
use rustix::net::{AddressFamily, Protocol, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};

const NEAR: &str = "192.0.2.1:1194";
const FAR: &str = "192.0.2.2:1194";
const BYTES: usize = 20_000_000;
/// ETH_P_ALL (linux/if_ether.h) in network byte order, as packet(7) wants it.
const EVERYTHING: u32 = 0x0300;
/// First byte and peer-id of every data packet: P_DATA_V2 (opcode 9) with key-id 0 (OpenVPN wire protocol).
const DATA: [u8; 4] = [9 << 3, 0, 0, WIRE_PEER as u8];

/// Two hosts, two workers, and a wire between them with a namespace at each end.
struct Tunnel {
    near: End,
    far: End,
    near_net: Net,
    far_net: Net,
    // Behind the workers: sockets close before their namespaces end.
    _near_wire: Net,
    far_wire: Net,
}

fn tunnel(way: (IoChoice, ZeroCopyChoice), offload: bool) -> Tunnel {
    let nets: [Net; 4] = std::array::from_fn(|_| Net::new());
    let [near_net, far_net, near_wire, far_wire] = nets;
    let there = far_wire.run(|| rustix::thread::gettid().as_raw_nonzero());
    near_wire.run(move || {
        ip(&format!("link add v0 type veth peer name v0 netns {there}"));
        ip("addr add 192.0.2.1/24 dev v0");
        ip("link set v0 up");
    });
    far_wire.run(|| {
        ip("addr add 192.0.2.2/24 dev v0");
        ip("link set v0 up");
    });
    // A link that has just come up may lose the first question for its neighbour, which is asked again after a second.
    let knows =
        || near_wire.run(|| Command::new("ping").args("-q -n -c 1 -W 1 192.0.2.2".split(' ')).output().unwrap());
    while !knows().status.success() {}
    let choice = OffloadChoice { tun: offload, udp_gso: offload, udp_gro: offload, zero_copy: way.1 };
    let config = WorkerConfig { offload: choice, ..config(way.0) };
    let end = |wire: &Net, host: &Net, last, bind: &str, remote: &str, keys: ([u8; 40], [u8; 40])| {
        let (bind, remote) = (bind.parse().unwrap(), remote.parse().unwrap());
        let queue = tun(host, last, offload);
        let config = config.clone();
        wire.run(move || end(config, bind, remote, queue, keys))
    };
    let near = end(&near_wire, &near_net, 1, NEAR, FAR, ([1; 40], [2; 40]));
    let far = end(&far_wire, &far_net, 2, FAR, NEAR, ([2; 40], [1; 40]));
    Tunnel { near, far, near_net, far_net, _near_wire: near_wire, far_wire }
}

/// A TUN on which nothing is sent but by the test: without IPv6 there are no solicitations.
fn tun(host: &Net, last: u8, offload: bool) -> TunQueue {
    host.run(move || {
        std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1").unwrap();
        let queue = TunQueue::open(&TunOptions { name: "tun0".into(), multi_queue: false, offload }).unwrap();
        ip(&format!("addr add 10.77.0.{last}/24 dev tun0"));
        ip("link set tun0 mtu 1400 txqueuelen 5000 up");
        // No timer guesses at a loss: on a busy machine it would be wrong. What is left is sent again only when
        // acknowledgements tell of a loss or of another order.
        std::fs::write("/proc/sys/net/ipv4/tcp_early_retrans", "0").unwrap();
        ip("route change 10.77.0.0/24 dev tun0 proto kernel scope link rto_min 20s");
        queue
    })
}

fn end(config: WorkerConfig, bind: SocketAddr, remote: SocketAddr, tun: TunQueue, keys: ([u8; 40], [u8; 40])) -> End {
    let (worker, control, supervisor, reports) = common::start(config, |_| ());
    let path = path_to(remote);
    let options = SocketOptions { bind: Some(bind), remote: Some(remote), ..SocketOptions::default() };
    worker.send(WorkerOrder::AddPeer(Box::new(peer(path)))).unwrap();
    worker.send(WorkerOrder::AttachSocket { socket: WireSocket::open(&options).unwrap(), path }).unwrap();
    worker.send(WorkerOrder::AttachTun(tun)).unwrap();
    let (packets, _) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let mut end = End { worker, packets, control, supervisor, reports, path, seal: keys.0, open: keys.1 };
    assert_eq!(end.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    end
}

/// A socket that hears every packet of its namespace, with its link header.
fn tap(net: &Net) -> OwnedFd {
    net.run(|| {
        let protocol = Some(Protocol::from_raw(NonZeroU32::new(EVERYTHING).unwrap()));
        let tap = socket_with(AddressFamily::PACKET, SocketType::RAW, SocketFlags::NONBLOCK, protocol).unwrap();
        sockopt::set_socket_recv_buffer_size_force(&tap, 512 << 20).unwrap();
        tap
    })
}

/// Everything that the tap hears until nothing more comes after the end.
fn listen(tap: &OwnedFd, done: &AtomicBool, mut each: impl FnMut(&[u8])) {
    let mut packet = vec![0; 70_000];
    loop {
        let last_look = done.load(Relaxed);
        match recv(tap, &mut packet[..], RecvFlags::empty()) {
            Ok((_, len)) => each(&packet[..len]),
            Err(_) if last_look => return,
            Err(_) => sleep(Duration::from_micros(200)),
        }
    }
}

/// The ids of the data packets that came over the wire from the near worker, in the order in which they came.
fn wire_ids(tap: &OwnedFd, done: &AtomicBool) -> Vec<u32> {
    let mut ids = Vec::new();
    listen(tap, done, |frame| {
        // Ethernet, IPv4 without options, UDP, from the near worker.
        let udp = frame.get(14..).filter(|ip| frame[12..14] == [8, 0] && ip.len() > 28 && ip[9] == 17);
        if let Some(ip) = udp.filter(|ip| ip[12..16] == [192, 0, 2, 1]) {
            ids.extend(train_ids(&ip[28..]));
        }
    });
    ids
}

/// The packet ids of a train that was not segmented yet: every packet but the last is as long as the first, which
/// ends where the same four bytes and the next id stand.
fn train_ids(train: &[u8]) -> Vec<u32> {
    let id = |packet: &[u8]| {
        assert_eq!(packet[..4], DATA, "a data packet");
        u32::from_be_bytes(packet[4..8].try_into().unwrap())
    };
    let next = [DATA, id(train).wrapping_add(1).to_be_bytes()].concat();
    let size = train.windows(8).position(|window| window == next).unwrap_or(train.len());
    train.chunks(size).map(id).collect()
}

/// The TCP connections towards the far host, as its TUN hears them.
#[derive(Default, Debug)]
struct Inside {
    segments: u64,
    out_of_order: u64,
    /// The sequence number that each connection (by its ports) goes on with.
    next: HashMap<[u8; 4], u32>,
}

impl Inside {
    /// A packet as a TUN shows it, without link header: each TCP segment has to begin where the one before it ended.
    fn hear(&mut self, packet: &[u8]) {
        // IPv4 without options, TCP, from the near host.
        let tcp = packet.len() >= 40 && packet[0] == 0x45 && packet[9] == 6 && packet[12..16] == [10, 77, 0, 1];
        if !tcp {
            return;
        }
        let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
        let header = 20 + usize::from(packet[32] >> 4) * 4;
        let (ports, flags) = (packet[20..24].try_into().unwrap(), packet[33]);
        let sequence = u32::from_be_bytes(packet[24..28].try_into().unwrap());
        // SYN and FIN take a number of their own.
        let occupies = (total - header) as u32 + u32::from(flags & 3 != 0);
        let expected = self.next.entry(ports).or_insert(sequence);
        self.segments += 1;
        self.out_of_order += u64::from(*expected != sequence);
        *expected = sequence.wrapping_add(occupies);
    }
}

fn tcp_order(tap: &OwnedFd, done: &AtomicBool) -> Inside {
    let mut inside = Inside::default();
    listen(tap, done, |packet| inside.hear(packet));
    inside
}

/// TCP segments that this host has sent again.
fn retransmitted(net: &Net) -> u64 {
    net.run(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/snmp").unwrap();
        let mut tcp = table.lines().filter_map(|line| line.strip_prefix("Tcp: ")).map(str::split_whitespace);
        let (names, values) = (tcp.next().unwrap(), tcp.next().unwrap());
        names.zip(values).find(|(name, _)| *name == "RetransSegs").unwrap().1.parse().unwrap()
    })
}

/// Streams from the near host to the far one, so many at once.
fn streams(near: &Net, far: &Net, flows: usize) {
    let listener = far.run(|| TcpListener::bind("10.77.0.2:5001").unwrap());
    let senders: Vec<TcpStream> =
        (0..flows).map(|_| near.run(|| TcpStream::connect("10.77.0.2:5001").unwrap())).collect();
    scope(|scope| {
        for mut sender in senders {
            scope.spawn(move || sender.write_all(&vec![0x77; BYTES / flows]).unwrap());
            let mut receiver = listener.accept().unwrap().0;
            scope.spawn(move || {
                let mut heard = Vec::new();
                assert_eq!(receiver.read_to_end(&mut heard).unwrap(), BYTES / flows);
            });
        }
    });
}

#[test]
fn packet_ids_on_the_wire_and_tcp_inside_stay_in_order_and_nothing_is_sent_twice() {
    for way in WAYS {
        for (offload, flows) in [(true, 1), (true, 4), (false, 1)] {
            let tunnel = tunnel(way, offload);
            let done = AtomicBool::new(false);
            let (wire, host) = (tap(&tunnel.far_wire), tap(&tunnel.far_net));
            let (ids, inside) = scope(|scope| {
                let ids = scope.spawn(|| wire_ids(&wire, &done));
                let inside = scope.spawn(|| tcp_order(&host, &done));
                streams(&tunnel.near_net, &tunnel.far_net, flows);
                // The last acknowledgements are under way.
                sleep(Duration::from_millis(100));
                done.store(true, Relaxed);
                (ids.join().unwrap(), inside.join().unwrap())
            });
            let (near, far) = (tunnel.near.stats().snapshot(), tunnel.far.stats().snapshot());
            let again = (retransmitted(&tunnel.near_net), retransmitted(&tunnel.far_net));
            let what = format!("{way:?}, offloads {offload}, {flows} flows, sent again {again:?}: {near:?} {far:?}");
            // The ids of a key begin at 1 and no id is left out: strictly increasing, and complete.
            let wrong = ids.iter().zip(1..).position(|(&id, expected)| id != expected);
            assert_eq!(wrong.map(|at| (at, ids[at])), None, "{what}");
            assert_eq!(ids.len() as u64, near.outbound.written, "as many as the kernel accepted: {what}");
            assert_eq!(far.inbound.wire_packets, near.outbound.written, "and none is lost: {what}");
            assert_eq!(near.inbound.wire_packets, far.outbound.written, "nor on the way back: {what}");
            assert_eq!((near.dropped_total(), far.dropped_total()), (0, 0), "{what}");
            assert!(inside.segments > 100 && inside.out_of_order == 0, "{inside:?} {what}");
            assert_eq!(again, (0, 0), "{what}");
            assert_eq!(near.outbound.written > 2 * near.outbound.writes, offload, "{what}");
        }
    }
}

#[test]
fn a_train_tells_its_ids_and_a_swapped_one_is_seen() {
    let packet = |id: u32, len: usize| [&DATA[..], &id.to_be_bytes(), &vec![7; len - 8]].concat();
    assert_eq!(train_ids(&packet(9, 100)), [9]);
    assert_eq!(train_ids(&[packet(9, 100), packet(10, 100), packet(11, 40)].concat()), [9, 10, 11]);
    let swapped = [packet(9, 100), packet(10, 100), packet(12, 100), packet(11, 100)].concat();
    assert_eq!(train_ids(&swapped), [9, 10, 12, 11]);
}

#[test]
fn a_segment_that_comes_too_early_or_twice_is_seen() {
    let segment = |sequence: u32, payload: usize, flags: u8| {
        let mut packet = vec![0; 40 + payload];
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        packet[9] = 6;
        packet[12..16].copy_from_slice(&[10, 77, 0, 1]);
        packet[24..28].copy_from_slice(&sequence.to_be_bytes());
        (packet[32], packet[33]) = (5 << 4, flags);
        packet
    };
    let disorder = |segments: &[(u32, usize, u8)]| {
        let mut inside = Inside::default();
        segments.iter().for_each(|&(sequence, payload, flags)| inside.hear(&segment(sequence, payload, flags)));
        assert_eq!(inside.segments, segments.len() as u64);
        inside.out_of_order
    };
    assert_eq!(disorder(&[(9, 0, 2), (10, 0, 16), (10, 100, 16), (110, 50, 16), (160, 0, 17), (161, 0, 16)]), 0);
    assert_eq!(disorder(&[(9, 0, 2), (10, 100, 16), (10, 100, 16), (110, 50, 16)]), 1, "twice");
    assert_eq!(disorder(&[(10, 100, 16), (210, 100, 16), (110, 100, 16), (310, 50, 16)]), 3, "swapped");
}
