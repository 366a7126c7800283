//! Sends without a copy, against the real kernel on devices that drop, hold back and hand on.

use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::sync::mpsc::channel;

use super::*;
use crate::networkio::gso::MAX_UDP_PAYLOAD;
use crate::sys::bell::Bell;
use crate::sys::socket::SocketOptions;
use crate::sys::tests::{Diary, collect, connected, in_namespace, path_to, put, without_copies};
use crate::sys::uring::UringEngine;
use crate::sys::{Engine, Trouble};

impl ZeroCopy {
    /// Every run leaves without a copy, however short.
    pub(in crate::sys) fn take_all(&mut self) {
        self.least = (0, 0);
    }

    pub(super) fn free(&self) -> usize {
        self.pool.as_ref().map_or(0, |pool| pool.free.len())
    }

    fn owed(&self) -> u32 {
        self.pool.as_ref().map_or(0, |pool| pool.slots.iter().map(|slot| slot.owed).sum())
    }
}

const SEGMENT: usize = 1_400;
const CAPACITY: usize = 200_000;

/// A batch of runs: long ones, and short ones between them; every packet tells its number and the round's.
fn fill(batch: &mut WireBatch, path: &Path, round: u8) -> Vec<Vec<u8>> {
    let sizes = [(30, SEGMENT), (1, 60), (40, 900), (3, 100), (1, 700), (40, SEGMENT)];
    let sizes = sizes.into_iter().flat_map(|(count, size)| std::iter::repeat_n(size, count));
    let packets: Vec<Vec<u8>> =
        sizes.enumerate().map(|(n, size)| [vec![n as u8], vec![round ^ n as u8; size - 1]].concat()).collect();
    packets.iter().for_each(|packet| put(batch, path, packet));
    packets
}

fn engine(choice: ZeroCopyChoice, remote: SocketAddr) -> (UringEngine, Bell) {
    let bell = Bell::new().unwrap();
    let mut engine = UringEngine::new(&bell).unwrap();
    engine.set_zero_copy(choice);
    engine.attach_socket(connected(remote), path_to(remote)).unwrap();
    (engine, bell)
}

/// Until the kernel has notified for all sends.
fn settle(engine: &mut UringEngine) {
    while engine.zero_copy_mut().owed() > 0 {
        engine.sleep(u64::MAX);
    }
}

#[test]
fn runs_and_what_stands_between_them_arrive_in_order_round_after_round() {
    for (bind, named) in [("127.0.0.1:0", true), ("127.0.0.1:0", false), ("[::1]:0", false)] {
        let bell = Bell::new().unwrap();
        let mut far = UringEngine::new(&bell).unwrap();
        let gateway =
            WireSocket::open(&SocketOptions { bind: Some(bind.parse().unwrap()), ..Default::default() }).unwrap();
        let to = gateway.local_addr().unwrap();
        far.attach_socket(gateway, path_to(to)).unwrap();
        let mut near = without_copies(&bell);
        near.zero_copy_mut().least = (LEAST_FIXED, LEAST);
        let near_socket = match named {
            true => {
                WireSocket::open(&SocketOptions { bind: Some(bind.parse().unwrap()), ..Default::default() }).unwrap()
            }
            false => connected(to),
        };
        near.attach_socket(near_socket, path_to(to)).unwrap();
        assert!(near.zero_copy());
        let (mut diary, mut far_diary) = (Diary::default(), Diary::default());
        let mut batch = WireBatch::new(CAPACITY, 64, true);
        let mut copied = 0;
        for round in 0..40 {
            let packets = fill(&mut batch, &path_to(to), round);
            near.send(&mut diary, &mut batch);
            assert!(batch.is_empty());
            assert_eq!(collect(&mut far, &mut far_diary, packets.len()), packets, "round {round}");
            let tag = batch.buffer().tag().unwrap();
            let pool = near.zero_copy_mut().pool.as_ref().unwrap();
            assert_eq!((tag.0, pool.slots[usize::from(tag.1)].owed), (pool.id, 0), "nobody reads what is written next");
            assert!(pool.fixed, "registered");
            copied = near.zero_copy_mut().copied;
        }
        settle(&mut near);
        copied = copied.max(near.zero_copy_mut().copied);
        assert!(copied > 40, "they left without a copy, and the loopback made one: {copied}");
        assert_eq!(near.zero_copy_mut().free(), usize::from(BUFFERS) - 1, "all are back but the batch's");
        assert_eq!((diary.sent, diary.sends, diary.dropped.len(), diary.troubles.len()), (40 * 115, 200, 0, 0));
        assert!(near.zero_copy(), "it was told to, whatever is copied");
    }
}

#[test]
fn what_is_switched_off_or_loops_is_copied() {
    let far = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = far.local_addr().unwrap();
    for choice in [ZeroCopyChoice::Off, ZeroCopyChoice::Auto] {
        let (mut engine, _bell) = engine(choice, to);
        let mut batch = WireBatch::new(CAPACITY, 64, true);
        for round in 0..3 {
            fill(&mut batch, &path_to(to), round);
            engine.send(&mut Diary::default(), &mut batch);
        }
        assert!(!engine.zero_copy() && engine.zero_copy_mut().pool.is_none(), "{choice:?}");
    }
    let (mut engine, _bell) = engine(ZeroCopyChoice::On, to);
    assert!(engine.zero_copy());
    engine.set_gso(false);
    assert!(!engine.zero_copy(), "without UDP_SEGMENT there are no runs");
}

/// A device that takes UDP_SEGMENT and drops.
const DROPS: [&str; 3] = ["link add d0 type ifb", "addr add 10.9.0.1/24 dev d0", "link set d0 up"];

fn ip(arguments: &str) {
    assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
}

fn tc(arguments: &str) {
    assert!(Command::new("tc").args(arguments.split(' ')).status().unwrap().success(), "tc {arguments}");
}

#[test]
fn a_device_that_takes_runs_gets_them_without_a_copy() {
    in_namespace(&DROPS, || {
        let to = "10.9.0.2:9".parse().unwrap();
        let (mut engine, _bell) = engine(ZeroCopyChoice::Auto, to);
        assert!(engine.zero_copy(), "the device says so");
        let mut batch = WireBatch::new(CAPACITY, 64, true);
        let mut diary = Diary::default();
        for round in 0..20 {
            fill(&mut batch, &path_to(to), round);
            engine.send(&mut diary, &mut batch);
        }
        settle(&mut engine);
        assert_eq!(engine.zero_copy_mut().copied, 0, "nothing was copied");
        assert_eq!((diary.sent, diary.dropped.len(), diary.troubles.len()), (20 * 115, 0, 0));
        let pool = engine.zero_copy_mut().pool.as_ref().unwrap();
        assert!(pool.slots.iter().all(|slot| *slot == Slot { owed: 0, failed: 0 }));

        // One socket for everybody: by the interface of each path.
        let options = SocketOptions { bind: Some("0.0.0.0:0".parse().unwrap()), ..Default::default() };
        engine.attach_socket(WireSocket::open(&options).unwrap(), path_to(to)).unwrap();
        let index = std::fs::read_to_string("/sys/class/net/lo/ifindex").map_or(1, |text| text.trim().parse().unwrap());
        let Way::By(devices) = engine.zero_copy_mut().way.clone() else { panic!("by its devices") };
        assert!(engine.zero_copy() && !devices.contains(&index) && devices.len() == 1, "{devices:?}");
        let run = |ifindex, len| {
            let path = Path { ifindex, ..path_to(to) };
            Run { path, start: 0, len, segment: 1_000, count: 17, oversize: false }
        };
        let zero_copy = engine.zero_copy_mut();
        let takes = |run: Run| zero_copy.takes(&run);
        assert!(takes(run(devices[0], LEAST_FIXED)) && !takes(run(devices[0], LEAST_FIXED - 1)));
        assert!(!takes(run(index, LEAST_FIXED)) && !takes(run(0, LEAST_FIXED)));
        assert!(!takes(Run { count: 1, ..run(devices[0], MAX_UDP_PAYLOAD) }), "a single packet is no run");
    });
}

#[test]
fn while_a_device_holds_all_buffers_batches_are_copied() {
    in_namespace(&DROPS, || {
        // A little goes at once, the rest waits in the device's queue.
        tc("qdisc add dev d0 root tbf rate 8kbit burst 70k limit 100m");
        let to = "10.9.0.2:9".parse().unwrap();
        let (mut engine, _bell) = engine(ZeroCopyChoice::Auto, to);
        let mut batch = WireBatch::new(CAPACITY, 64, true);
        let mut diary = Diary::default();
        for round in 0..30 {
            fill(&mut batch, &path_to(to), round);
            engine.send(&mut diary, &mut batch);
            let tag = batch.buffer().tag().unwrap();
            let pool = engine.zero_copy_mut().pool.as_ref().unwrap();
            assert_eq!(pool.slots[usize::from(tag.1)].owed, 0, "nobody reads what is written next");
        }
        assert_eq!((diary.sent, diary.dropped.len()), (30 * 115, 0), "all the same");
        assert_eq!(engine.zero_copy_mut().free(), 0, "all are on their way");
        assert!(engine.zero_copy_mut().owed() >= 7 * 2);
        // The device goes, and its queue with it: the kernel is done with everything.
        ip("link del d0");
        settle(&mut engine);
        assert_eq!((engine.zero_copy_mut().free(), engine.zero_copy_mut().copied), (usize::from(BUFFERS) - 1, 0));
    });
}

#[test]
fn an_engine_that_ends_while_a_device_reads_leaves_the_buffers_alone() {
    in_namespace(&DROPS, || {
        tc("qdisc add dev d0 root tbf rate 8kbit burst 70k limit 100m");
        let to = "10.9.0.2:9".parse().unwrap();
        let (mut engine, _bell) = engine(ZeroCopyChoice::Auto, to);
        let mut batch = WireBatch::new(CAPACITY, 64, true);
        for round in 0..5 {
            fill(&mut batch, &path_to(to), round);
            engine.send(&mut Diary::default(), &mut batch);
        }
        assert!(engine.zero_copy_mut().owed() > 0);
        drop(engine);
        assert!(put_is_possible(&mut batch));
    });
}

fn put_is_possible(batch: &mut WireBatch) -> bool {
    batch.reserve(100).is_some()
}

#[test]
fn a_device_that_says_so_and_copies_all_the_same_is_believed_no_longer() {
    let bridge = [
        "link add br0 type bridge",
        "link add w0 type veth peer name w1",
        "link set w0 master br0 up",
        "addr add 10.9.0.1/24 dev br0",
        "link set br0 up",
    ];
    in_namespace(&bridge, || {
        let (tell, told) = channel();
        let (go, gone) = channel::<()>();
        // The other host, where the datagrams wait in a socket.
        let far = std::thread::spawn(move || {
            in_namespace(&[], move || {
                tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
                gone.recv().unwrap();
                ip("addr add 10.9.0.2/24 dev w1");
                ip("link set w1 up");
                let _socket = UdpSocket::bind("10.9.0.2:9").unwrap();
                tell.send(rustix::thread::gettid().as_raw_nonzero()).unwrap();
                let _ = gone.recv();
            });
        });
        ip(&format!("link set w1 netns {}", told.recv().unwrap()));
        go.send(()).unwrap();
        told.recv().unwrap();
        let to = "10.9.0.2:9".parse().unwrap();
        let (mut engine, _bell) = engine(ZeroCopyChoice::Auto, to);
        assert!(engine.zero_copy(), "a bridge may lead to a card");
        let mut batch = WireBatch::new(CAPACITY, 64, true);
        let mut diary = Diary::default();
        let mut rounds = 0;
        // A link that has just come up drops for a while.
        while diary.troubles.is_empty() {
            fill(&mut batch, &path_to(to), rounds as u8);
            engine.send(&mut diary, &mut batch);
            settle(&mut engine);
            std::thread::sleep(std::time::Duration::from_millis(1));
            rounds += 1;
            assert!(rounds < 3_000, "it goes on copying");
        }
        assert!(!engine.zero_copy());
        for round in 0..20 {
            fill(&mut batch, &path_to(to), round);
            engine.send(&mut diary, &mut batch);
        }
        assert_eq!(diary.troubles, [Trouble::ZeroCopyLost], "told once");
        assert_eq!((diary.sent, diary.dropped.len()), ((rounds + 20) * 115, 0));
        // Another socket may leave by another device.
        engine.attach_socket(connected(to), path_to(to)).unwrap();
        assert!(engine.zero_copy());
        drop(go);
        far.join().unwrap();
    });
}
