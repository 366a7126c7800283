//! The options of a worker against the real kernel: fuller sends by a fitted super-packet, each offload's switch, the answer to
//! packets that are too long, priority and busy polling. Every namespace is of the test's own.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;
#[path = "common/net.rs"]
mod net;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;

use common::{End, addresses, config, name, path_to};
use dataplane::drop_reason::DropReason;
use dataplane::networkio::gso::fitting_super_packet;
use dataplane::sys::IoChoice;
use dataplane::sys::socket::{MtuDiscovery, SocketOptions, WireSocket};
use dataplane::tun::too_big::AnswersFrom;
use dataplane::workers::manager::{OffloadChoice, Tuning, WorkerConfig, WorkerOrder, WorkerReport};
use dataplane::workers::stats::OffloadsInUse;
use link::message::WorkerEvent;
use net::{Net, ip};

const IO: [IoChoice; 2] = [IoChoice::Syscall, IoChoice::Uring];
/// What P_DATA_V2 and its tag add to a packet.
const OVERHEAD: usize = 24;

/// Two hosts with a tunnel between them, which crosses the loopback of a third namespace.
struct Tunnel {
    near: End,
    far: End,
    near_net: Net,
    far_net: Net,
    between: Net,
    addresses: (SocketAddr, SocketAddr),
}

fn tunnel(io: IoChoice, offload: OffloadChoice) -> Tunnel {
    let (near_net, far_net, between) = (Net::new(), Net::new(), Net::new());
    let (one, two) = addresses();
    let settings = WorkerConfig { offload, ..config(io) };
    let other = settings.clone();
    let mut near = between.run(move || End::with(settings, one, two, [1; 40], [2; 40], |_| ()));
    let mut far = between.run(move || End::with(other, two, one, [2; 40], [1; 40], |_| ()));
    near.worker.send(WorkerOrder::AttachTun(near_net.tun(1, 1500, offload.tun))).unwrap();
    far.worker.send(WorkerOrder::AttachTun(far_net.tun(2, 1500, offload.tun))).unwrap();
    assert_eq!(near.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    assert_eq!(far.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    Tunnel { near, far, near_net, far_net, between, addresses: (one, two) }
}

/// Sends so many bytes from one host to the other by TCP.
fn stream(from: &Net, to: &Net, listen: &'static str, bytes: usize) {
    let listener = to.run(move || TcpListener::bind(listen).unwrap());
    let sender = from.run(move || {
        let mut stream = TcpStream::connect(listen).unwrap();
        std::thread::spawn(move || {
            let chunk = vec![7; 1 << 20];
            for part in (0..bytes).step_by(chunk.len()) {
                stream.write_all(&chunk[..chunk.len().min(bytes - part)]).unwrap();
            }
        })
    });
    let (mut stream, _) = listener.accept().unwrap();
    let (mut buffer, mut heard) = (vec![0; 1 << 20], 0);
    loop {
        match stream.read(&mut buffer).unwrap() {
            0 => break,
            len => heard += len,
        }
    }
    sender.join().unwrap();
    assert_eq!(heard, bytes);
}

#[test]
fn a_fitted_super_packet_becomes_one_send() {
    for io in IO {
        let Tunnel { near, near_net, far_net, far: _far, .. } = tunnel(io, OffloadChoice::default());
        let measure = |listen| {
            let before = near.stats().snapshot().outbound;
            stream(&near_net, &far_net, listen, 300_000_000);
            near.stats().snapshot().outbound.since(&before)
        };
        let plain = measure("10.77.0.2:5001");
        let size = fitting_super_packet(1500, OVERHEAD);
        near_net.run(move || ip(&format!("link set tun0 gso_max_size {size}")));
        let fitted = measure("10.77.0.2:5002");
        for (name, sums) in [("as it comes", plain), ("fitted", fitted)] {
            eprintln!(
                "{io:?} {name}: {:.1} packets a read, {:.1} segments a send, {:.3} sends a read",
                sums.packets_per_read(),
                sums.packets_per_write(),
                sums.writes_per_read()
            );
        }
        assert!(fitted.writes_per_read() <= 1.01, "{fitted:?}");
        assert!(fitted.packets_per_write() > plain.packets_per_write(), "{plain:?} {fitted:?}");
        assert!(fitted.packets_per_write() > 30.0, "{fitted:?}");
    }
}

#[test]
fn every_offload_has_its_switch() {
    let all = OffloadChoice::default();
    for io in IO {
        for (tun, udp_gso, udp_gro) in
            [(true, true, true), (false, true, true), (true, false, true), (true, true, false)]
        {
            let tunnel = tunnel(io, OffloadChoice { tun, udp_gso, udp_gro, ..all });
            stream(&tunnel.near_net, &tunnel.far_net, "10.77.0.2:5001", 5_000_000);
            let (out, inn) = (tunnel.near.stats().snapshot(), tunnel.far.stats().snapshot());
            let (sealed, opened) = (out.outbound, inn.inbound);
            let case = format!("{io:?} tun {tun} gso {udp_gso} gro {udp_gro}: {sealed:?} {opened:?}");
            assert_eq!(sealed.inner_packets > sealed.batches, tun, "super-packets read, {case}");
            assert_eq!(opened.written > opened.writes, tun, "super-packets written, {case}");
            assert_eq!(sealed.written > sealed.writes, udp_gso, "runs sent, {case}");
            // Trains arrive where both ends have it; TUN frames that come one by one make short ones.
            if tun {
                assert_eq!(opened.wire_packets > opened.batches, udp_gso && udp_gro, "trains received, {case}");
            }
            let said = inn.offloads;
            assert_eq!((said.tun.csum, said.tun.tso4, said.tun.uso6), (tun, tun, tun));
            assert_eq!((said.udp_gso, said.udp_gro), (udp_gso, udp_gro));
            if (OffloadChoice { tun, udp_gso, udp_gro, ..all }) == all {
                assert_eq!(said.to_string(), "TUN csum tso4 tso6 uso4 uso6, socket UDP_SEGMENT UDP_GRO");
            }
        }
    }
}

#[test]
fn offloads_are_said_once_when_socket_and_tun_are_there() {
    let tunnel = tunnel(IoChoice::Auto, OffloadChoice::default());
    stream(&tunnel.near_net, &tunnel.far_net, "10.77.0.2:5001", 10_000);
    let said: Vec<OffloadsInUse> = tunnel
        .near
        .reports
        .try_iter()
        .filter_map(|report| match report {
            WorkerReport::Offloads(offloads) => Some(offloads),
            _ => None,
        })
        .collect();
    // The harness attaches a pair of sockets first, which has no offloads, and then the TUN.
    assert_eq!(said.len(), 2, "{said:?}");
    assert_eq!(said[1], tunnel.near.stats().snapshot().offloads);
    assert!(said[1].tun.tso4 && !said[0].tun.csum);
}

/// Gives an end a socket that refuses fragments, in place of the one it has.
fn forbid_fragments(between: &Net, end: &End, local: SocketAddr, remote: SocketAddr) {
    end.worker.send(WorkerOrder::DetachSocket).unwrap();
    let options = SocketOptions {
        bind: Some(local),
        remote: Some(remote),
        mtu_discovery: Some(MtuDiscovery::Yes),
        ..Default::default()
    };
    let socket = between.run(move || {
        loop {
            match WireSocket::open(&options) {
                Ok(socket) => return socket,
                // The worker closes the old one when it comes to the order.
                Err(error) => assert_eq!(error.raw_os_error(), Some(libc::EADDRINUSE)),
            }
        }
    });
    end.worker.send(WorkerOrder::AttachSocket { socket, path: path_to(remote) }).unwrap();
}

fn ping(net: &Net, arguments: &'static str) -> String {
    net.run(move || {
        let out = Command::new("ping").args(arguments.split(' ')).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    })
}

#[test]
fn senders_learn_the_smaller_mtu_of_the_path() {
    for io in IO {
        let tunnel = tunnel(io, OffloadChoice::default());
        let (one, two) = tunnel.addresses;
        // 1,400 bytes of IPv4 carry 1,372 of UDP, which carry 1,348 of the tunnel.
        tunnel.between.run(|| ip("link set lo mtu 1400"));
        forbid_fragments(&tunnel.between, &tunnel.near, one, two);
        forbid_fragments(&tunnel.between, &tunnel.far, two, one);

        // TCP finds out by itself.
        stream(&tunnel.far_net, &tunnel.near_net, "10.77.0.1:5001", 3_000_000);
        assert!(tunnel.far.stats().snapshot().too_big_answers > 0);

        let fits = ping(&tunnel.near_net, "-n -M do -c 1 -W 5 -s 1320 10.77.0.2");
        assert!(fits.contains(" 1 received"), "{fits}");
        let told = ping(&tunnel.near_net, "-n -M do -c 1 -W 5 -s 1321 10.77.0.2");
        assert!(told.contains("From 10.77.0.2 icmp_seq=1 Frag needed and DF set (mtu = 1348)"), "{told}");
        let fits = ping(&tunnel.near_net, "-6 -n -M do -c 1 -W 5 -s 1300 fd77::2");
        assert!(fits.contains(" 1 received"), "{fits}");
        let told = ping(&tunnel.near_net, "-6 -n -M do -c 1 -W 5 -s 1301 fd77::2");
        assert!(told.contains("Packet too big: mtu=1348"), "{told}");
        let stats = tunnel.near.stats();
        assert_eq!(stats.snapshot().too_big_answers, 2);
        assert_eq!(stats.dropped(DropReason::TooBig), 2);
        let learned = tunnel.near_net.run(|| Command::new("ip").args(["route", "get", "10.77.0.2"]).output().unwrap());
        let learned = String::from_utf8_lossy(&learned.stdout).into_owned();
        assert!(learned.contains("mtu 1348"), "{learned}");

        stream(&tunnel.near_net, &tunnel.far_net, "[fd77::2]:5001", 3_000_000);
        // One that may be cut into fragments gets no answer, and is dropped.
        let before = stats.snapshot().too_big_answers;
        let quiet = ping(&tunnel.near_net, "-n -M dont -c 1 -W 1 -s 1400 10.77.0.2");
        assert!(quiet.contains(" 0 received") || quiet.contains(" 1 received"), "{quiet}");
        assert_eq!(stats.snapshot().too_big_answers, before);
    }
}

#[test]
fn an_mtu_that_shrinks_and_grows_is_followed() {
    for io in IO {
        let tunnel = tunnel(io, OffloadChoice::default());
        let (one, two) = tunnel.addresses;
        forbid_fragments(&tunnel.between, &tunnel.near, one, two);
        forbid_fragments(&tunnel.between, &tunnel.far, two, one);
        let full = "-n -M do -c 1 -W 5 -s 1472 10.77.0.2";
        assert!(ping(&tunnel.near_net, full).contains(" 1 received"));

        tunnel.between.run(|| ip("link set lo mtu 1400"));
        // The first one is sealed and refused by the kernel, the second is answered.
        let out = ping(&tunnel.near_net, "-n -M do -c 2 -i 0.2 -W 1 -s 1472 10.77.0.2");
        assert!(out.contains("mtu = 1348") && out.contains(" 0 received"), "{out}");

        tunnel.between.run(|| ip("link set lo mtu 65536"));
        tunnel.near_net.run(|| ip("route flush cache"));
        let out = ping(&tunnel.near_net, "-n -M do -c 4 -i 0.2 -W 1 -s 1472 10.77.0.2");
        assert!(!out.contains("Frag needed") && !out.contains(" 0 received"), "{out}");
    }
}

#[test]
fn what_exceeds_the_tunnels_mtu_is_answered_by_the_gateway() {
    let tunnel = tunnel(IoChoice::Auto, OffloadChoice::default());
    let from = AnswersFrom { v4: Some([10, 77, 0, 9].into()), v6: None };
    // A packet may overtake an order: it is another one that is judged by it.
    let until = |expected: &str| {
        let mut said = String::new();
        for _ in 0..20 {
            tunnel.near_net.run(|| ip("route flush cache"));
            said = ping(&tunnel.near_net, "-n -M do -c 1 -W 5 -s 1373 10.77.0.2");
            if said.contains(expected) {
                return;
            }
        }
        panic!("{said}");
    };
    tunnel.near.worker.send(WorkerOrder::SetTunnel { mtu: Some(1400), from }).unwrap();
    until("From 10.77.0.9 icmp_seq=1 Frag needed and DF set (mtu = 1400)");
    tunnel.near.worker.send(WorkerOrder::SetTunnel { mtu: None, from }).unwrap();
    until(" 1 received");
}

/// How often the thread of this name went to sleep by itself.
fn sleeps(thread: &str) -> u64 {
    for task in std::fs::read_dir("/proc/self/task").unwrap().flatten() {
        let read = |file: &str| std::fs::read_to_string(task.path().join(file)).unwrap_or_default();
        if read("comm").trim() == thread {
            let status = read("status");
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            return line.unwrap().trim().parse().unwrap();
        }
    }
    panic!("no thread {thread}");
}

#[test]
fn a_worker_that_polls_does_not_sleep_between_packets() {
    for (at, io) in IO.into_iter().enumerate() {
        let mut slept = [0, 0];
        for (slot, busy_poll_us) in [0, 1_000_000].into_iter().enumerate() {
            let (one, two) = addresses();
            let index = u16::try_from(70 + 2 * at + slot).unwrap();
            let tuning = Tuning { busy_poll_us, ..Tuning::default() };
            let near = End::with(WorkerConfig { index, tuning, ..config(io) }, one, two, [1; 40], [2; 40], |_| ());
            // Datagrams of nobody: received, looked at, dropped.
            let other = UdpSocket::bind(two).unwrap();
            other.connect(one).unwrap();
            let stats = near.stats();
            for packet in 0..200 {
                while stats.dropped(DropReason::UnknownOpcode) < packet {
                    std::thread::yield_now();
                }
                // Time enough to fall asleep.
                std::thread::sleep(std::time::Duration::from_millis(2));
                other.send(&[0; 20]).unwrap();
            }
            slept[slot] = sleeps(&format!("worker-{index}"));
        }
        let [plain, polling] = slept;
        assert!(plain > 150, "{io:?}: {slept:?}");
        assert!(polling < 100, "{io:?}: {slept:?}");
    }
}

#[test]
fn a_worker_that_lets_packets_gather_sleeps_less_often_and_gets_them_all() {
    const PACKETS: u64 = 400;
    for (at, io) in IO.into_iter().enumerate() {
        let mut slept = [0, 0];
        for (slot, gather_us) in [0, 1_000_000].into_iter().enumerate() {
            let (one, two) = addresses();
            let index = u16::try_from(80 + 2 * at + slot).unwrap();
            let tuning = Tuning { gather_us, ..Tuning::default() };
            let near = End::with(WorkerConfig { index, tuning, ..config(io) }, one, two, [1; 40], [2; 40], |_| ());
            let other = UdpSocket::bind(two).unwrap();
            other.connect(one).unwrap();
            let stats = near.stats();
            for _ in 0..PACKETS {
                other.send(&[0; 20]).unwrap();
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            while stats.dropped(DropReason::UnknownOpcode) < PACKETS {
                std::thread::yield_now();
            }
            slept[slot] = sleeps(&format!("worker-{index}"));
        }
        let [plain, gathering] = slept;
        assert!(plain > 200 && gathering < 100, "{io:?}: {slept:?}");
    }
}

#[test]
fn what_was_pinned_and_set_is_said_in_one_line() {
    let (one, two) = addresses();
    let tuning = Tuning { fifo: Some(3), busy_poll_us: 50, ..Tuning::default() };
    let cpu = dataplane::sys::affinity::allowed().first().copied();
    let settings = WorkerConfig { index: 9, cpu, tuning, ..config(IoChoice::Auto) };
    let end = End::with(settings, one, two, [1; 40], [2; 40], |_| ());
    let first = end.reports.recv().unwrap();
    let WorkerReport::Pinned(line) = first else { panic!("{first:?}") };
    let cpu = cpu.unwrap();
    assert_eq!(line, format!("worker-9 pinned to CPU {cpu}, SCHED_FIFO 3, polls for 50 µs before it sleeps"));

    let (one, two) = addresses();
    let end = End::with(config(IoChoice::Auto), one, two, [1; 40], [2; 40], |_| ());
    assert!(matches!(end.reports.recv().unwrap(), WorkerReport::EngineChosen(_)), "nothing asked, nothing said");
}
