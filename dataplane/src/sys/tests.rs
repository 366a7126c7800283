//! Both engines under the same situations, against the real kernel. What needs an interface of its own runs in a network
//! namespace of its own, on a thread of its own.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::sync::mpsc;

use super::socket::SocketOptions;
use super::*;
use crate::networkio::gso::WireBatch;
use crate::tun::coalesce::TunOffload;
use crate::tun::ip;
use crate::tun::test_packets::Packet;
use crate::tun::virtio::VNET_HDR_LEN;

/// Writes down what an engine says.
#[derive(Default)]
pub(super) struct Diary {
    pub(super) dropped: HashMap<DropReason, u64>,
    pub(super) sends: u64,
    pub(super) sent: u64,
    written: u64,
    pub(super) troubles: Vec<Trouble>,
}

impl Observer for Diary {
    fn dropped(&mut self, reason: DropReason, packets: u64) {
        *self.dropped.entry(reason).or_default() += packets;
    }
    fn sent(&mut self, segments: u64, _bytes: u64) {
        self.sends += 1;
        self.sent += segments;
    }
    fn written(&mut self, packets: u64) {
        self.written += packets;
    }
    fn trouble(&mut self, trouble: Trouble) {
        self.troubles.push(trouble);
    }
}

/// Runs a situation on both engines, and on the one of io_uring once more when it sends every run without a copy; each gets the bell
/// that stands for orders.
fn on_both(mut situation: impl FnMut(Box<dyn Engine>, Bell)) {
    for choice in [IoChoice::Syscall, IoChoice::Uring] {
        let bell = Bell::new().unwrap();
        let engine = engine(choice, bell.try_clone().unwrap()).unwrap();
        eprintln!("{}", engine.info());
        situation(engine, bell);
    }
    let bell = Bell::new().unwrap();
    situation(Box::new(without_copies(&bell)), bell);
}

/// An engine that sends every run without a copy.
pub(super) fn without_copies(bell: &Bell) -> uring::UringEngine {
    let mut engine = uring::UringEngine::new(bell).unwrap();
    engine.set_zero_copy(ZeroCopyChoice::On);
    engine.zero_copy_mut().take_all();
    engine
}

/// Runs on a thread in a network namespace of its own, with `lo` up and these `ip` commands carried out.
pub(super) fn in_namespace(commands: &[&str], body: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // SAFETY: CLONE_NEWNET changes the calling thread's network namespace and no memory or descriptor; no other
            // thread's view changes.
            let answer = unsafe { libc::unshare(libc::CLONE_NEWNET) };
            assert_eq!(answer, 0, "needs root");
            for command in ["link set lo up"].iter().chain(commands) {
                let status = Command::new("ip").args(command.split(' ')).status().unwrap();
                assert!(status.success(), "ip {command}");
            }
            body();
        });
        if let Err(panic) = thread.join() {
            std::panic::resume_unwind(panic);
        }
    });
}

pub(super) fn path_to(remote: SocketAddr) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote, stream: None }
}

pub(super) fn connected(remote: SocketAddr) -> WireSocket {
    WireSocket::open(&SocketOptions { remote: Some(remote), ..Default::default() }).unwrap()
}

/// A plain blocking socket of the other side.
fn far_side() -> (UdpSocket, SocketAddr) {
    let far = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = far.local_addr().unwrap();
    (far, address)
}

pub(super) fn put(batch: &mut WireBatch, path: &Path, packet: &[u8]) {
    let mut room = batch.reserve(packet.len()).unwrap();
    room.bytes().copy_from_slice(packet);
    room.commit(path);
}

/// Datagrams until as many came.
pub(super) fn collect(engine: &mut dyn Engine, diary: &mut Diary, wanted: usize) -> Vec<Vec<u8>> {
    let mut heard = Vec::new();
    while heard.len() < wanted {
        let trains = engine.receive(diary, &mut |train| {
            heard.extend(train.bytes.chunks(train.segment).map(<[u8]>::to_vec));
            Step::More
        });
        if trains == 0 {
            engine.sleep(u64::MAX);
        }
    }
    heard
}

/// Packets of many sizes, each telling its number; every size comes several times so that runs form.
fn packets() -> Vec<Vec<u8>> {
    let sizes = (0..400).map(|n| [40, 1400, 1400, 900, 1400][n / 7 % 5]);
    sizes.enumerate().map(|(n, size)| [vec![(n / 256) as u8, n as u8], vec![n as u8; size]].concat()).collect()
}

#[test]
fn a_batch_of_mixed_runs_arrives_complete_and_in_order() {
    on_both(|mut near, _bell| {
        on_both(|mut far, _bell| {
            let gateway =
                WireSocket::open(&SocketOptions { bind: Some(([127, 0, 0, 1], 0).into()), ..Default::default() })
                    .unwrap();
            let address = gateway.local_addr().unwrap();
            let client = connected(address);
            let client_address = client.local_addr().unwrap();
            near.attach_socket(client, path_to(address)).unwrap();
            far.attach_socket(gateway, path_to(([0, 0, 0, 0], 0).into())).unwrap();
            let (mut near_diary, mut far_diary) = (Diary::default(), Diary::default());

            let mut batch = WireBatch::new(1 << 20, 64, true);
            packets().iter().for_each(|packet| put(&mut batch, &path_to(address), packet));
            near.send(&mut near_diary, &mut batch);
            assert!(batch.is_empty());
            assert_eq!(collect(&mut *far, &mut far_diary, 400), packets());
            assert!(near_diary.sent == 400 && near_diary.sends < 100, "runs were sent as runs: {}", near_diary.sends);

            // And back, from a socket that is not connected.
            packets().iter().for_each(|packet| put(&mut batch, &path_to(client_address), packet));
            far.send(&mut far_diary, &mut batch);
            assert_eq!(collect(&mut *near, &mut near_diary, 400), packets());
            assert!(near_diary.dropped.is_empty() && far_diary.dropped.is_empty());
            assert!(near_diary.troubles.is_empty() && far_diary.troubles.is_empty());
        });
    });
}

#[test]
fn the_path_tells_who_sent_and_which_address_was_asked() {
    on_both(|mut engine, _bell| {
        for bind in ["0.0.0.0:0", "[::]:0"] {
            let gateway =
                WireSocket::open(&SocketOptions { bind: Some(bind.parse().unwrap()), ..Default::default() }).unwrap();
            let port = gateway.local_addr().unwrap().port();
            engine.attach_socket(gateway, path_to(([0, 0, 0, 0], 0).into())).unwrap();
            let (far, address) = far_side();
            far.send_to(b"hello", (Ipv4Addr::new(127, 0, 0, 9), port)).unwrap();
            let mut seen = None;
            while seen.is_none() {
                let trains = engine.receive(&mut Diary::default(), &mut |train| {
                    seen = Some(train.path);
                    Step::More
                });
                if trains == 0 {
                    engine.sleep(u64::MAX);
                }
            }
            let seen = seen.unwrap();
            assert_eq!((seen.remote, seen.local), (address, Some([127, 0, 0, 9].into())), "{bind}");
            assert_eq!(seen.ifindex, 1, "lo");
            // The answer leaves from the address that was asked.
            engine.send_datagram(&mut Diary::default(), &seen, b"answer");
            let mut answer = [0; 16];
            let (len, from) = far.recv_from(&mut answer).unwrap();
            assert_eq!((&answer[..len], from), (&b"answer"[..], (Ipv4Addr::new(127, 0, 0, 9), port).into()), "{bind}");
        }
    });
}

#[test]
fn trains_that_the_pipeline_did_not_want_yet_come_with_the_next_call() {
    on_both(|mut engine, _bell| {
        let (far, address) = far_side();
        let socket = connected(address);
        far.connect(socket.local_addr().unwrap()).unwrap();
        engine.attach_socket(socket, path_to(address)).unwrap();
        // Different sizes, so that they are not joined.
        for n in 0..40u8 {
            far.send(&vec![n; 1 + usize::from(n % 2) * 700]).unwrap();
        }
        let mut heard = Vec::new();
        while heard.len() < 40 {
            let trains = engine.receive(&mut Diary::default(), &mut |train| {
                heard.extend(train.bytes.chunks(train.segment).map(|packet| packet[0]));
                Step::Stop
            });
            assert!(trains <= 1, "it was told to stop");
            if trains == 0 {
                engine.sleep(u64::MAX);
            }
        }
        assert_eq!(heard, (0..40).collect::<Vec<u8>>());
    });
}

#[test]
fn a_frame_that_the_pipeline_wants_again_comes_again_unchanged() {
    on_both(|mut engine, _bell| {
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        engine.attach_tun(TunQueue::from_packets(ours.into(), TunOffload::default()).unwrap()).unwrap();
        for frame in [&b"first"[..], b"second"] {
            theirs.send(frame).unwrap();
        }
        let mut seen: Vec<Vec<u8>> = Vec::new();
        while seen.len() < 3 {
            let used = engine.read_tun(&mut Diary::default(), &mut |frame| {
                seen.push(frame.to_vec());
                if seen.len() == 1 { Step::Again } else { Step::More }
            });
            if used == 0 {
                engine.sleep(u64::MAX);
            }
        }
        assert_eq!(seen, [&b"first"[..], b"first", b"second"]);
    });
}

/// This many packets, each of another length, none of which can be joined.
fn tun_packets(count: usize) -> (TunBatch, Vec<Vec<u8>>) {
    let mut batch = TunBatch::new(TunOffload::default());
    let packets: Vec<_> =
        (0..count).map(|n| Packet { udp: true, payload: vec![n as u8; 8 + n], ..Packet::default() }.bytes()).collect();
    for packet in &packets {
        batch.land(packet.len()).unwrap().copy_from_slice(packet);
        assert!(batch.accept(&ip::parse(packet).unwrap()));
    }
    (batch, packets)
}

/// Gives an engine a TUN that is a socket, with room for so many bytes; the other end, which does not wait.
fn with_tun(engine: &mut dyn Engine, room: usize) -> UnixDatagram {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    socket2::SockRef::from(&ours).set_send_buffer_size(room).unwrap();
    theirs.set_nonblocking(true).unwrap();
    engine.attach_tun(TunQueue::from_packets(ours.into(), TunOffload::default()).unwrap()).unwrap();
    theirs
}

/// The packets of the frames that wait there.
fn written_to(theirs: &UnixDatagram) -> Vec<Vec<u8>> {
    let mut frame = [0; 2000];
    std::iter::from_fn(|| theirs.recv(&mut frame).ok().map(|len| frame[VNET_HDR_LEN..len].to_vec())).collect()
}

#[test]
fn frames_few_and_many_reach_the_tun_once_each_and_in_order() {
    on_both(|mut engine, _bell| {
        let theirs = with_tun(&mut *engine, 200_000);
        let mut diary = Diary::default();
        for count in [0, 1, 11, 12, 13, 31, 32, 33, 43, 44, 64, 100, 12] {
            let (mut batch, packets) = tun_packets(count);
            theirs.send(b"meanwhile").unwrap();
            diary.written = 0;
            engine.write_tun(&mut diary, &mut batch);
            assert_eq!((diary.written, batch.is_empty()), (count as u64, true));
            assert_eq!(written_to(&theirs), packets);
            // What else completed while the writes were waited for is not lost.
            let mut read = 0;
            while read == 0 {
                engine.sleep(u64::MAX);
                read = engine.read_tun(&mut diary, &mut |_| Step::More);
            }
        }
        assert!(diary.dropped.is_empty() && diary.troubles.is_empty());
    });
}

#[test]
fn frames_that_a_full_tun_does_not_take_are_counted_and_the_others_written() {
    on_both(|mut engine, _bell| {
        let theirs = with_tun(&mut *engine, 8_000);
        let mut diary = Diary::default();
        let (mut batch, packets) = tun_packets(100);
        engine.write_tun(&mut diary, &mut batch);
        let arrived = written_to(&theirs);
        assert!((1..100).contains(&arrived.len()), "{}", arrived.len());
        assert_eq!(arrived, packets[..arrived.len()]);
        assert_eq!(diary.written, arrived.len() as u64);
        assert_eq!(diary.dropped, HashMap::from([(DropReason::TunFull, 100 - diary.written)]));
        assert!(diary.troubles.is_empty());
    });
}

#[test]
fn frames_for_an_interface_that_is_down_or_gone_are_counted() {
    in_namespace(&[], || {
        on_both(|mut engine, _bell| {
            let options = tundev::TunOptions { name: "t2".into(), ..Default::default() };
            let mut diary = Diary::default();
            engine.write_tun(&mut diary, &mut tun_packets(40).0);
            assert_eq!(diary.dropped, HashMap::from([(DropReason::TunError, 40)]));
            assert!(diary.troubles.is_empty());
            engine.attach_tun(TunQueue::open(&options).unwrap()).unwrap();
            engine.write_tun(&mut diary, &mut tun_packets(40).0);
            assert_eq!((diary.written, diary.dropped), (0, HashMap::from([(DropReason::TunError, 80)])));
            assert_eq!(diary.troubles, [Trouble::Tun(libc::EIO); 40]);
        });
    });
}

#[test]
fn a_sleeping_engine_is_woken_by_whatever_comes() {
    on_both(|mut engine, orders| {
        let (far, address) = far_side();
        let socket = connected(address);
        far.connect(socket.local_addr().unwrap()).unwrap();
        let (ours, theirs) = UnixDatagram::pair().unwrap();
        let link = Bell::new().unwrap();
        engine.attach_socket(socket, path_to(address)).unwrap();
        engine.attach_tun(TunQueue::from_packets(ours.into(), TunOffload::default()).unwrap()).unwrap();
        engine.watch_link(Some(link.try_clone().unwrap())).unwrap();
        let (asleep, wake) = mpsc::channel();
        let waker = std::thread::spawn(move || {
            for source in wake {
                match source {
                    0 => drop(far.send(b"datagram")),
                    1 => drop(theirs.send(&[0; VNET_HDR_LEN + 20])),
                    2 => orders.ring(),
                    _ => link.ring(),
                }
            }
            orders
        });
        // A wake-up that is lost leaves this thread asleep for ever.
        for round in 0..2_000 {
            let source = round % 4;
            asleep.send(source).unwrap();
            let mut done = false;
            while !done {
                engine.sleep(u64::MAX);
                let datagrams = engine.receive(&mut Diary::default(), &mut |_| Step::More);
                let frames = engine.read_tun(&mut Diary::default(), &mut |_| Step::More);
                done = [datagrams > 0, frames > 0, true, true][source];
            }
        }
        drop(asleep);
        waker.join().unwrap();
    });
}

#[test]
fn a_deadline_ends_the_sleep_and_a_nearer_one_ends_it_earlier() {
    on_both(|mut engine, _bell| {
        let hour = clock::boottime_ns() + 3_600_000_000_000;
        engine.sleep(clock::boottime_ns());
        for _ in 0..20 {
            let soon = clock::boottime_ns() + 100_000;
            // The far deadline is what is armed when the near one comes.
            engine.sleep(soon);
            while clock::boottime_ns() < soon {
                engine.sleep(soon.min(hour));
            }
        }
        assert!(clock::boottime_ns() < hour);
    });
}

#[test]
fn a_closed_port_is_told_and_does_not_end_anything() {
    on_both(|mut engine, _bell| {
        let (far, address) = far_side();
        let socket = connected(address);
        let ours = socket.local_addr().unwrap();
        drop(far);
        engine.attach_socket(socket, path_to(address)).unwrap();
        let mut diary = Diary::default();
        while !diary.troubles.contains(&Trouble::Socket(libc::ECONNREFUSED)) {
            engine.send_datagram(&mut diary, &path_to(address), b"anybody?");
            engine.receive(&mut diary, &mut |_| Step::More);
        }
        let far = UdpSocket::bind(address).unwrap();
        far.send_to(b"here", ours).unwrap();
        // The error of a datagram that was under way may still come; what was sent meanwhile does not.
        assert_eq!(collect(&mut *engine, &mut diary, 1), [b"here"]);
        engine.send_datagram(&mut diary, &path_to(address), b"good");
        assert_eq!(far.recv(&mut [0; 16]).unwrap(), 4);
    });
}

#[test]
fn segments_above_the_path_mtu_leave_one_by_one() {
    in_namespace(&["link set lo mtu 1000"], || {
        on_both(|mut engine, _bell| {
            let (far, address) = far_side();
            engine.attach_socket(connected(address), path_to(address)).unwrap();
            let mut diary = Diary::default();
            let mut batch = WireBatch::new(1 << 20, 64, true);
            for n in 0..5u8 {
                put(&mut batch, &path_to(address), &[n; 1400]);
            }
            put(&mut batch, &path_to(address), &[5; 500]);
            engine.send(&mut diary, &mut batch);
            for n in 0..6u8 {
                let mut packet = [0; 2000];
                let len = far.recv(&mut packet).unwrap();
                assert_eq!((len, packet[0]), (if n < 5 { 1400 } else { 500 }, n));
            }
            assert!(diary.troubles.contains(&Trouble::PathMtu), "{:?}", diary.troubles);
            assert!(!diary.troubles.contains(&Trouble::GsoLost), "it was not UDP_SEGMENT's fault");
            assert_eq!(diary.sent, 6);
            assert_eq!(engine.max_payload(), Some(972));
        });
    });
}

#[test]
fn a_datagram_above_the_path_mtu_is_counted_when_fragments_are_forbidden() {
    in_namespace(&["link set lo mtu 1000"], || {
        on_both(|mut engine, _bell| {
            let (_far, address) = far_side();
            let options = SocketOptions {
                remote: Some(address),
                mtu_discovery: Some(socket::MtuDiscovery::Yes),
                ..Default::default()
            };
            engine.attach_socket(WireSocket::open(&options).unwrap(), path_to(address)).unwrap();
            let mut diary = Diary::default();
            let mut batch = WireBatch::new(1 << 20, 64, true);
            for size in [1400, 1400, 900] {
                put(&mut batch, &path_to(address), &vec![1; size]);
            }
            engine.send(&mut diary, &mut batch);
            assert_eq!(diary.dropped.get(&DropReason::MessageTooLong), Some(&2));
            assert_eq!(diary.sent, 1);
        });
    });
}

#[test]
fn gso_that_the_kernel_refuses_is_switched_off_and_nothing_is_lost() {
    on_both(|mut engine, _bell| {
        let (far, address) = far_side();
        let socket = connected(address);
        // The kernel refuses UDP_SEGMENT on a socket without checksums.
        socket::forbid_checksums(&socket).unwrap();
        engine.attach_socket(socket, path_to(address)).unwrap();
        let mut diary = Diary::default();
        let mut batch = WireBatch::new(1 << 20, 64, true);
        for _ in 0..2 {
            for n in 0..100u8 {
                put(&mut batch, &path_to(address), &[n; 100]);
            }
            engine.send(&mut diary, &mut batch);
            for n in 0..100u8 {
                let mut packet = [0; 200];
                assert_eq!((far.recv(&mut packet).unwrap(), packet[0]), (100, n));
            }
        }
        assert_eq!(diary.troubles, [Trouble::GsoLost], "told once");
        assert_eq!((diary.sent, diary.sends), (200, 200));
        put(&mut batch, &path_to(address), &[0; 10]);
        put(&mut batch, &path_to(address), &[0; 10]);
        assert_eq!(batch.runs().len(), 2, "the batch does not form runs any more");
    });
}

#[test]
fn a_full_socket_drops_and_counts_and_never_waits() {
    // Nobody answers ARP on this link, so what is sent stays in the queue and fills the send buffer.
    let link =
        ["link add v0 type veth peer name v1", "addr add 192.0.2.1/24 dev v0", "link set v0 up", "link set v1 up"];
    in_namespace(&link, || {
        on_both(|mut engine, _bell| {
            let address: SocketAddr = "192.0.2.2:9".parse().unwrap();
            let options = SocketOptions { remote: Some(address), send_buffer: Some(20_000), ..Default::default() };
            engine.attach_socket(WireSocket::open(&options).unwrap(), path_to(address)).unwrap();
            let mut diary = Diary::default();
            let mut batch = WireBatch::new(1 << 20, 64, true);
            for n in 0..200 {
                put(&mut batch, &path_to(address), &vec![1; 1000 + n % 2]);
            }
            engine.send(&mut diary, &mut batch);
            let full = diary.dropped.get(&DropReason::SocketFull).copied().unwrap_or(0);
            assert!(full > 0 && diary.sent > 0, "{} sent, {full} dropped", diary.sent);
            assert_eq!(diary.sent + diary.dropped.values().sum::<u64>(), 200, "every packet is accounted for");
        });
    });
}

#[test]
fn without_a_socket_everything_is_counted_as_dropped() {
    on_both(|mut engine, _bell| {
        let address = ([127, 0, 0, 1], 9).into();
        let mut diary = Diary::default();
        let mut batch = WireBatch::new(1 << 20, 64, true);
        (0..3).for_each(|_| put(&mut batch, &path_to(address), &[1; 100]));
        engine.send(&mut diary, &mut batch);
        engine.send_datagram(&mut diary, &path_to(address), b"x");
        assert_eq!(diary.dropped.get(&DropReason::SocketError), Some(&4));
        assert_eq!(engine.receive(&mut diary, &mut |_| Step::More), 0);
        assert_eq!(engine.read_tun(&mut diary, &mut |_| Step::More), 0);
    });
}

#[test]
fn a_socket_that_was_replaced_is_closed_and_heard_no_more() {
    on_both(|mut engine, _bell| {
        let (far, address) = far_side();
        let old = connected(address);
        let old_address = old.local_addr().unwrap();
        engine.attach_socket(old, path_to(address)).unwrap();
        far.send_to(b"old", old_address).unwrap();
        let new = connected(address);
        let new_address = new.local_addr().unwrap();
        engine.attach_socket(new, path_to(address)).unwrap();
        far.send_to(b"new", new_address).unwrap();
        assert_eq!(collect(&mut *engine, &mut Diary::default(), 1), [b"new"]);
        // Its port is free again: the kernel holds no reference to it.
        UdpSocket::bind(old_address).unwrap();
        engine.detach_socket();
        UdpSocket::bind(new_address).unwrap();
    });
}

#[test]
fn a_tun_queue_that_is_detached_can_be_opened_again_at_once() {
    in_namespace(&[], || {
        on_both(|mut engine, _bell| {
            let options = tundev::TunOptions { name: "t0".into(), multi_queue: false, offload: true };
            for _ in 0..3 {
                let queue = TunQueue::open(&options).unwrap();
                assert_eq!(queue.name(), "t0");
                let all = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };
                assert_eq!(queue.offload(), all, "this kernel has them all");
                engine.attach_tun(queue).unwrap();
                engine.detach_tun();
            }
            engine.attach_tun(TunQueue::open(&options).unwrap()).unwrap();
            let second = TunQueue::open(&options);
            assert!(matches!(second, Err(tundev::TunError::Busy(_))), "{second:?}");
            engine.detach_tun();
            let plain = TunQueue::open(&tundev::TunOptions { offload: false, ..options }).unwrap();
            assert_eq!(plain.offload(), TunOffload::default());
        });
    });
}

#[test]
fn an_interface_that_is_deleted_is_told_once_and_then_forgotten() {
    in_namespace(&[], || {
        on_both(|mut engine, bell| {
            let options = tundev::TunOptions { name: "t1".into(), ..Default::default() };
            engine.attach_tun(TunQueue::open(&options).unwrap()).unwrap();
            assert!(Command::new("ip").args(["link", "del", "t1"]).status().unwrap().success());
            let mut diary = Diary::default();
            while diary.troubles.is_empty() {
                engine.sleep(u64::MAX);
                engine.read_tun(&mut diary, &mut |_| Step::More);
            }
            assert_eq!(diary.troubles.len(), 1, "{:?}", diary.troubles);
            // Nothing of it wakes the engine any more: only the bell ends this sleep.
            let ringer = std::thread::spawn(move || bell.ring());
            engine.sleep(u64::MAX);
            ringer.join().unwrap();
        });
    });
}

/// Lets io_uring_setup(2) answer `errno` on this thread from now on, as container runtimes do.
fn refuse_io_uring(errno: u32) {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let is_setup = libc::sock_filter {
        jf: 1,
        ..statement(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_setup as u32)
    };
    // The first word of `struct seccomp_data` is the number of the system call.
    let mut program = [
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        is_setup,
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | errno),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: PR_SET_NO_NEW_PRIVS takes numbers. seccomp(2) copies the program, whose pointer and length are those of the
    // array above, before it returns; without the TSYNC flag it concerns the calling thread only.
    unsafe {
        assert_eq!(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
        assert_eq!(libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const filter), 0);
    }
}

#[test]
fn where_io_uring_is_refused_the_other_engine_runs_and_says_why() {
    for (errno, word) in [(libc::ENOSYS, "ENOSYS"), (libc::EPERM, "EPERM")] {
        std::thread::spawn(move || {
            refuse_io_uring(errno as u32);
            let auto = engine(IoChoice::Auto, Bell::new().unwrap()).unwrap();
            assert_eq!(auto.info().name, "syscall");
            assert!(auto.info().why.contains(word), "{}", auto.info());
            let error = engine(IoChoice::Uring, Bell::new().unwrap()).map(|_| ()).unwrap_err();
            assert!(error.to_string().contains(word), "{error}");
            let asked = engine(IoChoice::Syscall, Bell::new().unwrap()).unwrap();
            assert_eq!(asked.info().why, "asked for");
        })
        .join()
        .unwrap();
    }
}
