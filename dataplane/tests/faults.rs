//! Exactness under faults: whatever the kernel answers, every packet that went in came out or is counted under one
//! reason for not coming out, and no buffer is missing afterwards. On both engines; the complete form
//! (`MINIVPN_TEST_LONG=1`) sends 24 million packets through each.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

pub(crate) mod common;
#[path = "common/net.rs"]
mod net;

use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use common::{Dice, End, WAYS, addresses, config_of, name, path_to, peer};
use dataplane::drop_reason::DropReason;
use dataplane::sys::IoChoice;
use dataplane::sys::cmsg::Control;
use dataplane::sys::faults::{self, Fault};
use dataplane::sys::socket::{MtuDiscovery, SocketOptions, WireSocket};
use dataplane::sys::tundev::TunQueue;
use dataplane::tun::checksum::pseudo_header;
use dataplane::tun::coalesce::TunOffload;
use dataplane::tun::virtio::{F_NEEDS_CSUM, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader};
use dataplane::workers::manager::{OffloadChoice, WorkerConfig, WorkerOrder};
use dataplane::workers::stats::{StatsReader, StatsSnapshot};
use link::message::WorkerEvent;
use net::{Net, ip};

/// Packets under way in each direction: fewer than a socket's buffer holds, however they are cut.
const WINDOW: u64 = 1_500;
/// How long nothing may move before a test gives up waiting and looks at the sums.
const PATIENCE: Duration = Duration::from_secs(10);
/// Inner packets that never reached the socket.
const UNSENT: [DropReason; 7] = [
    DropReason::NotIp,
    DropReason::BadOffload,
    DropReason::NoRoute,
    DropReason::NoKey,
    DropReason::KeyExhausted,
    DropReason::TooLarge,
    DropReason::TooBig,
];
/// Wire packets that the kernel did not take.
const NOT_TAKEN: [DropReason; 3] = [DropReason::SocketFull, DropReason::MessageTooLong, DropReason::SocketError];
/// Inner packets that TUN did not take.
const NOT_WRITTEN: [DropReason; 2] = [DropReason::TunFull, DropReason::TunError];
const ALL: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };

/// The schedule of faults is one for the process: tests take turns.
fn turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn long() -> bool {
    std::env::var_os("MINIVPN_TEST_LONG").is_some_and(|value| value == "1")
}

fn sum(stats: &StatsSnapshot, reasons: &[DropReason]) -> u64 {
    reasons.iter().map(|&reason| stats.dropped(reason)).sum()
}

/// One worker of a pair, in the calling thread's namespace, with a key.
fn end(config: WorkerConfig, options: SocketOptions, keys: ([u8; 40], [u8; 40])) -> End {
    let (worker, control, supervisor, reports) = common::start(config, |_| ());
    let (packets, theirs) = UnixDatagram::pair().unwrap();
    // A reader that is kept waiting must not be taken for a fault: beyond net.core.wmem_max, as root may.
    for side in [&packets, &theirs] {
        rustix::net::sockopt::set_socket_send_buffer_size_force(side, 16 << 20).unwrap();
    }
    let path = path_to(options.remote.unwrap());
    worker.send(WorkerOrder::AddPeer(Box::new(peer(path)))).unwrap();
    worker.send(WorkerOrder::AttachSocket { socket: WireSocket::open(&options).unwrap(), path }).unwrap();
    worker.send(WorkerOrder::AttachTun(TunQueue::from_packets(theirs.into(), ALL).unwrap())).unwrap();
    let mut end = End { worker, packets, control, supervisor, reports, path, seal: keys.0, open: keys.1 };
    assert_eq!(end.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    end
}

/// Two of them on the loopback of a namespace that is theirs.
fn pair(net: &Net, config: WorkerConfig, options: SocketOptions) -> (End, End) {
    net.run(move || {
        // So that frames wait in the queue instead of being dropped, as they do in a TUN's.
        std::fs::write("/proc/sys/net/unix/max_dgram_qlen", "4096").unwrap();
        let (one, two) = addresses();
        let to = |bind, remote| SocketOptions { bind: Some(bind), remote: Some(remote), ..options.clone() };
        let near = end(config.clone(), to(one, two), ([1; 40], [2; 40]));
        let far = end(config, to(two, one), ([2; 40], [1; 40]));
        (near, far)
    })
}

/// Datagrams that the sockets of this namespace dropped because their buffers were full.
fn socket_drops(net: &Net) -> u64 {
    net.run(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/udp").unwrap();
        table.lines().skip(1).map(|line| line.split_whitespace().last().unwrap().parse::<u64>().unwrap()).sum()
    })
}

/// Byte `at` of packet `number`.
fn byte(number: u32, at: usize) -> u8 {
    (number.wrapping_mul(31) as u8).wrapping_add(at as u8)
}

/// A frame of `count` numbered packets of `size` bytes of payload (at least 8) each, the last one of `last`.
fn frame(number: u32, count: usize, size: usize, last: usize, checksum: bool) -> Vec<u8> {
    let payload = (count - 1) * size + last;
    let super_packet = count > 1;
    let header = VnetHeader {
        flags: if super_packet || checksum { F_NEEDS_CSUM } else { 0 },
        gso_type: if super_packet { GSO_UDP_L4 } else { 0 },
        hdr_len: 28,
        gso_size: if super_packet { size as u16 } else { 0 },
        csum_start: 20,
        csum_offset: 6,
    };
    let mut frame = if super_packet || checksum { header.to_bytes() } else { [0; VNET_HDR_LEN] }.to_vec();
    let start = frame.len();
    frame.extend([0x45, 0]);
    frame.extend((28 + payload as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
    let words = frame[start..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let folded = (words & 0xffff) + (words >> 16);
    let check = !((folded & 0xffff) + (folded >> 16)) as u16;
    frame[start + 10..start + 12].copy_from_slice(&check.to_be_bytes());
    frame.extend([0x04, 0xd2, 0x16, 0x2e]);
    frame.extend((8 + payload as u16).to_be_bytes());
    let partial = pseudo_header(&frame[start + 12..start + 20], 17, 8 + payload).partial();
    frame.extend(if header.flags != 0 { partial } else { [0, 0] });
    for index in 0..count {
        let number = number + index as u32;
        let len = if index + 1 == count { last } else { size };
        frame.extend(number.to_be_bytes());
        frame.extend((len as u16).to_be_bytes());
        frame.extend((6..len).map(|at| byte(number, at)));
    }
    frame
}

/// Sends at least so many packets in frames of every kind, never more than a window ahead of the far worker. How many.
fn generate(near: &UnixDatagram, stats: [&StatsReader; 2], packets: u64, seed: u64) -> u64 {
    let mut dice = Dice(seed);
    let mut sent = 0;
    while sent < packets {
        let size = 8 + dice.below(1_392);
        let most = [1, 1, 1, 4, 20, 45][dice.below(6)].min(60_000 / size);
        let count = 1 + dice.below(most);
        let last = if count > 1 { 8 + dice.below(size - 7) } else { size };
        if !has_room(sent, stats) {
            break;
        }
        near.send(&frame(sent as u32, count, size, last, dice.below(3) > 0)).unwrap();
        sent += count as u64;
    }
    sent
}

/// Waits until fewer than a window of the packets sent are neither dropped nor arrived. False: nothing moves.
fn has_room(sent: u64, [near, far]: [&StatsReader; 2]) -> bool {
    let under_way = || {
        let near = near.snapshot();
        sent - sum(&near, &UNSENT) - sum(&near, &NOT_TAKEN) - far.snapshot().inbound.wire_packets
    };
    let (mut before, mut since) = (u64::MAX, Instant::now());
    loop {
        let now = under_way();
        if now < WINDOW {
            return true;
        }
        if now != before {
            (before, since) = (now, Instant::now());
        }
        if since.elapsed() > PATIENCE {
            return false;
        }
        std::thread::yield_now();
    }
}

/// Reads frames until told that no more come; how many packets, all of them unbroken and in order.
fn collect(packets: &UnixDatagram, done: &AtomicBool) -> u64 {
    packets.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    let mut frame = vec![0; 70_000];
    let (mut count, mut next) = (0, 0);
    loop {
        let last_look = done.load(Relaxed);
        let Ok(len) = packets.recv(&mut frame) else {
            if last_look {
                return count;
            }
            continue;
        };
        let header = VnetHeader::parse(&frame).unwrap();
        let payload = &frame[VNET_HDR_LEN + 28..len];
        let size = if header.gso_size > 0 { usize::from(header.gso_size) } else { payload.len() };
        for packet in payload.chunks(size) {
            let number = u32::from_be_bytes(*packet.first_chunk().unwrap());
            assert!(number >= next, "packet {number} came after {next}");
            assert_eq!(usize::from(u16::from_be_bytes([packet[4], packet[5]])), packet.len(), "packet {number}");
            let broken = packet.iter().enumerate().skip(6).find(|&(at, &found)| found != byte(number, at));
            assert_eq!(broken, None, "packet {number}");
            next = number + 1;
            count += 1;
        }
    }
}

/// Waits until everything has arrived, so long as something moves: a worker may be kept from its processor for a while.
fn settle(stats: [&StatsReader; 2], arrived: impl Fn(&StatsSnapshot, &StatsSnapshot) -> bool) {
    let look = || stats.map(StatsReader::snapshot);
    let (mut before, mut since) = (look(), Instant::now());
    while !arrived(&before[0], &before[1]) && since.elapsed() < PATIENCE {
        sleep(Duration::from_millis(20));
        let now = look();
        if now != before {
            (before, since) = (now, Instant::now());
        }
    }
}

/// Whether all that was sent into the near worker is dropped, `lost` at the far socket, or written behind the far worker.
fn passed(near: &StatsSnapshot, far: &StatsSnapshot, sent: u64, lost: u64) -> bool {
    let (out, inn) = (&near.outbound, &far.inbound);
    let refused = far.dropped_total() - sum(far, &UNSENT) - sum(far, &NOT_TAKEN);
    sent == out.inner_packets + sum(near, &UNSENT)
        && out.inner_packets == out.written + sum(near, &NOT_TAKEN)
        && out.written == inn.wire_packets + lost
        && inn.wire_packets + far.too_big_answers == inn.written + refused
}

/// Every packet of one direction: `sent` went into the near worker, `read` were read behind the far one, `lost` are
/// those that the far socket counts as dropped.
fn assert_exact(near: &StatsSnapshot, far: &StatsSnapshot, sent: u64, read: u64, lost: u64) {
    let (out, inn) = (&near.outbound, &far.inbound);
    let all = format!("near {near:?}\nfar {far:?}");
    assert_eq!(sent, out.inner_packets + sum(near, &UNSENT), "read from TUN: {all}");
    assert_eq!(out.wire_packets, out.inner_packets, "sealed: {all}");
    assert_eq!(out.wire_packets, out.written + sum(near, &NOT_TAKEN), "handed to the socket: {all}");
    assert_eq!(out.written, inn.wire_packets + lost, "taken by the kernel: {all}");
    let refused = far.dropped_total() - sum(far, &UNSENT) - sum(far, &NOT_TAKEN) - sum(far, &NOT_WRITTEN);
    assert_eq!(inn.wire_packets, inn.inner_packets + refused, "opened: {all}");
    // What the far worker answers with ICMP itself goes into its TUN too.
    let handed = inn.inner_packets + far.too_big_answers;
    assert_eq!(handed, inn.written + sum(far, &NOT_WRITTEN), "handed to TUN: {all}");
    assert_eq!(inn.written, read, "taken by TUN: {all}");
}

/// Both directions at once, so many packets each; then the sums.
fn exchange(net: &Net, near: End, far: End, packets: u64, seed: u64) -> [StatsSnapshot; 2] {
    let (near_stats, far_stats) = (near.stats(), far.stats());
    let (one, two): (&StatsReader, &StatsReader) = (&near_stats, &far_stats);
    let done = &AtomicBool::new(false);
    let (sent, read) = scope(|scope| {
        let readers = [&far.packets, &near.packets].map(|packets| scope.spawn(move || collect(packets, done)));
        let up = scope.spawn(|| generate(&near.packets, [one, two], packets, seed));
        let down = scope.spawn(|| generate(&far.packets, [two, one], packets, !seed));
        let sent = [up, down].map(|sender| sender.join().unwrap());
        faults::stop();
        settle([one, two], |one, two| passed(one, two, sent[0], 0) && passed(two, one, sent[1], 0));
        done.store(true, Relaxed);
        (sent, readers.map(|reader| reader.join().unwrap()))
    });
    let lost = socket_drops(net);
    near.worker.stop();
    far.worker.stop();
    let (near, far) = (near_stats.snapshot(), far_stats.snapshot());
    assert_eq!(lost, 0, "no socket overflows within the window");
    assert_exact(&near, &far, sent[0], read[0], 0);
    assert_exact(&far, &near, sent[1], read[1], 0);
    assert!(sent.iter().all(|&sent| sent >= packets), "nothing got stuck: {near:?} {far:?}");
    [near, far]
}

/// Every kind of fault that the engine can meet really happened, and things went on nevertheless.
fn assert_met(io: IoChoice, before: &[u64; 16]) {
    for (fault, before) in FAULTS.into_iter().zip(before) {
        let met = faults::count(fault) > *before;
        let possible = match fault {
            Fault::PollEnds => io == IoChoice::Uring,
            _ => true,
        };
        assert_eq!(met, possible, "{fault:?} under {io:?}");
    }
}

const FAULTS: [Fault; 16] = [
    Fault::SendAgain,
    Fault::SendNoBuffers,
    Fault::SendIo,
    Fault::GsoRefused,
    Fault::SendTooLong,
    Fault::SendLinkDown,
    Fault::SendRefused,
    Fault::SendInterrupted,
    Fault::SendShort,
    Fault::Receive,
    Fault::PollEnds,
    Fault::ReadInterrupted,
    Fault::WriteFull,
    Fault::WriteDown,
    Fault::WriteShort,
    Fault::WriteInterrupted,
];

#[test]
fn every_packet_is_accounted_for_while_calls_fail() {
    let _turn = turn();
    let (rounds, packets) = if long() { (12, 1_000_000) } else { (2, 125_000) };
    for way in WAYS {
        let before = FAULTS.map(faults::count);
        let start = Instant::now();
        let (mut taken, mut dropped) = (0, 0);
        for round in 0..rounds {
            let net = Net::new();
            let (near, far) = pair(&net, config_of(way), SocketOptions::default());
            faults::start(round, 200);
            let stats = exchange(&net, near, far, packets, round);
            taken += stats.iter().map(|stats| stats.inbound.written).sum::<u64>();
            dropped += stats.iter().map(StatsSnapshot::dropped_total).sum::<u64>();
        }
        eprintln!("{way:?}: {taken} packets through, {dropped} dropped and counted, {:?}", start.elapsed());
        assert!(taken > rounds * packets, "most packets cross: {taken}");
        assert_met(way.0, &before);
    }
}

#[test]
fn without_faults_nothing_is_dropped_at_all() {
    let _turn = turn();
    for way in WAYS {
        let net = Net::new();
        let (near, far) = pair(&net, config_of(way), SocketOptions::default());
        for stats in exchange(&net, near, far, 50_000, 7) {
            assert_eq!(stats.dropped_total(), 0, "{stats:?}");
            assert!(stats.outbound.written > 3 * stats.outbound.writes, "runs were sent: {stats:?}");
            assert!(stats.inbound.written > 2 * stats.inbound.writes, "super-packets were written: {stats:?}");
        }
    }
}

#[test]
fn what_a_small_receive_buffer_loses_is_what_the_kernel_counts() {
    let _turn = turn();
    for way in WAYS {
        let net = Net::new();
        // One datagram each: the socket counts buffers, not segments.
        let offload = OffloadChoice { udp_gso: false, udp_gro: false, ..OffloadChoice::default() };
        let options =
            SocketOptions { receive_buffer: Some(8_000), send_buffer: Some(4_608), ..SocketOptions::default() };
        let (near, far) = pair(&net, WorkerConfig { offload, ..config_of(way) }, options);
        let (near_stats, far_stats) = (near.stats(), far.stats());
        let done = AtomicBool::new(false);
        let (mut sent, mut read) = (0, 0);
        scope(|scope| {
            let reader = scope.spawn(|| collect(&far.packets, &done));
            let mut dice = Dice(11);
            while sent < 200_000 || (socket_drops(&net) == 0 && sent < 5_000_000) {
                let count = 1 + dice.below(40);
                near.packets.send(&frame(sent as u32, count, 1_000, 1_000, true)).unwrap();
                sent += count as u64;
            }
            settle([&near_stats, &far_stats], |near, far| passed(near, far, sent, socket_drops(&net)));
            done.store(true, Relaxed);
            read = reader.join().unwrap();
        });
        let lost = socket_drops(&net);
        near.worker.stop();
        far.worker.stop();
        assert!(lost > 0, "a small buffer overflows");
        assert_exact(&near_stats.snapshot(), &far_stats.snapshot(), sent, read, lost);
    }
}

/// Frames that a TUN gave to its reader, and frames that it took.
fn tun_counters(net: &Net) -> (u64, u64) {
    net.run(|| {
        let table = std::fs::read_to_string("/proc/thread-self/net/dev").unwrap();
        let line = table.lines().find_map(|line| line.trim().strip_prefix("tun0:")).unwrap();
        let columns: Vec<u64> = line.split_whitespace().map(|column| column.parse().unwrap()).collect();
        (columns[9], columns[1])
    })
}

/// Datagrams of many sizes through a TUN, some of them as runs (UDP_SEGMENT), until told to stop.
fn blast(net: &Net, to: &'static str, stats: [StatsReader; 2], stop: &AtomicBool) {
    let socket = net.run(|| std::net::UdpSocket::bind("0.0.0.0:0").unwrap());
    let target: socket2::SockAddr = to.parse::<std::net::SocketAddr>().unwrap().into();
    let mut dice = Dice(to.len() as u64);
    let bytes = vec![0x5a; 60_000];
    let gone = || {
        let near = stats[0].snapshot();
        sum(&near, &UNSENT) + sum(&near, &NOT_TAKEN) + stats[1].snapshot().inbound.wire_packets
    };
    let mut sent = 0;
    while !stop.load(Relaxed) {
        let size = 1 + dice.below(1_400);
        let count = 1 + dice.below(40);
        let mut control = Control::default();
        let len = control.write(Some(size as u16), None);
        let payload = [std::io::IoSlice::new(&bytes[..size * count])];
        let run = socket2::MsgHdr::new().with_addr(&target).with_buffers(&payload);
        let run = if count > 1 { run.with_control(&control.as_mut_bytes()[..len]) } else { run };
        // While an interface is down, it says so.
        if socket2::SockRef::from(&socket).sendmsg(&run, 0).is_ok() {
            sent += count as u64;
        }
        let (mut before, mut since) = (gone(), Instant::now());
        while sent.saturating_sub(before) > WINDOW / 3 {
            std::thread::yield_now();
            let now = gone();
            if now != before {
                (before, since) = (now, Instant::now());
            } else if since.elapsed() > Duration::from_millis(100) {
                // What was in the queue of an interface that went down is gone.
                sent = before;
            }
        }
        // Fragments are more than were sent.
        sent = sent.max(before);
    }
}

/// Frames that wait in a socket.
fn waiting(packets: &UnixDatagram) -> u64 {
    packets.set_nonblocking(true).unwrap();
    std::iter::from_fn(|| packets.recv(&mut [0; 16]).ok()).count() as u64
}

fn until(mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() && start.elapsed() < PATIENCE {
        sleep(Duration::from_millis(1));
    }
}

#[test]
fn interfaces_that_go_down_and_change_their_mtu_lose_nothing_uncounted() {
    let _turn = turn();
    for way in WAYS {
        let (wire, near_net, far_net) = (Net::new(), Net::new(), Net::new());
        let options = SocketOptions { mtu_discovery: Some(MtuDiscovery::Yes), ..SocketOptions::default() };
        let (near, far) = pair(&wire, config_of(way), options);
        near.worker.send(WorkerOrder::AttachTun(near_net.tun(1, 1500, true))).unwrap();
        far.worker.send(WorkerOrder::AttachTun(far_net.tun(2, 1500, true))).unwrap();
        let (near_stats, far_stats) = (near.stats(), far.stats());
        let stop = AtomicBool::new(false);
        scope(|scope| {
            let stats = [near_stats.clone(), far_stats.clone()];
            let back = [far_stats.clone(), near_stats.clone()];
            scope.spawn(|| blast(&near_net, "10.77.0.2:9", stats, &stop));
            scope.spawn(|| blast(&far_net, "10.77.0.1:9", back, &stop));
            for _ in 0..5 {
                let before = far_stats.dropped(DropReason::TunError);
                far_net.run(|| ip("link set tun0 down"));
                until(|| far_stats.dropped(DropReason::TunError) > before);
                far_net.run(|| ip("link set tun0 up"));
                let before = near_stats.dropped(DropReason::MessageTooLong);
                wire.run(|| ip("link set lo mtu 1300"));
                until(|| near_stats.dropped(DropReason::MessageTooLong) > before);
                wire.run(|| ip("link set lo mtu 65536"));
                near_net.run(|| ip("link set tun0 mtu 1000"));
                let before = far_stats.snapshot().inbound.written;
                until(|| far_stats.snapshot().inbound.written > before);
                near_net.run(|| ip("link set tun0 mtu 1500"));
            }
            stop.store(true, Relaxed);
        });
        settle([&near_stats, &far_stats], |near, far| {
            let read = [tun_counters(&near_net).0, tun_counters(&far_net).0];
            let known = [near, far].map(|from| from.outbound.inner_packets + sum(from, &UNSENT));
            [near.outbound.batches, far.outbound.batches] == read
                && passed(near, far, known[0], 0)
                && passed(far, near, known[1], 0)
        });
        let (near_tun, far_tun) = (tun_counters(&near_net), tun_counters(&far_net));
        // What came before a worker had its TUN went to the pair of sockets that it had before.
        let earlier = [&near.packets, &far.packets].map(waiting);
        let lost = socket_drops(&wire);
        near.worker.stop();
        far.worker.stop();
        let (near, far) = (near_stats.snapshot(), far_stats.snapshot());
        assert!(far.dropped(DropReason::TunError) > 0 && near.dropped(DropReason::MessageTooLong) > 0, "{near:?}");
        assert_eq!(lost, 0, "no socket overflows within the window");
        let up = (&near, &far, near_tun.0, far_tun.1 + earlier[1]);
        let down = (&far, &near, far_tun.0, near_tun.1 + earlier[0]);
        for (from, to, read, written) in [up, down] {
            assert_eq!(
                (from.outbound.batches, to.inbound.writes),
                (read, written),
                "as the TUNs count: {from:?} {to:?}"
            );
            let inner = from.outbound.inner_packets + sum(from, &UNSENT);
            assert_exact(from, to, inner, to.inbound.written, 0);
        }
    }
}
