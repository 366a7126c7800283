//! Nothing on the packet path allocates: every allocation that a worker's thread makes in the steady state is counted,
//! and there may be none: sealing and opening, single packets and super-packets, on either engine.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

pub(crate) mod common;
#[path = "common/group.rs"]
mod gateway;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{End, WAYS, addresses, config_of, inner, name};
use dataplane::datachannel::aead::{Aead, AeadChoice};
use dataplane::sys::tundev::TunQueue;
use dataplane::sys::{IoChoice, ZeroCopyChoice};
use dataplane::tun::checksum::{Sum, pseudo_header};
use dataplane::tun::coalesce::TunOffload;
use dataplane::tun::ip::{TCP, UDP};
use dataplane::tun::virtio::{F_NEEDS_CSUM, GSO_TCPV4, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader};
use dataplane::workers::manager::{WorkerOrder, WorkerReport};
use gateway::{Client, Group, SERVER, inner_address, localhost, number, packet, wire_socket};
use link::message::WorkerEvent;

struct Counting;

static COUNTED: AtomicU64 = AtomicU64::new(0);
static COUNTING: AtomicBool = AtomicBool::new(false);

thread_local! {
    /// Set on a worker's thread.
    static WORKER: Cell<bool> = const { Cell::new(false) };
}

// SAFETY: every call is passed to the system's allocator unchanged, whose promises are thereby ours; what is done before
// it touches an atomic and a thread-local without destructor and without lazy initialisation, and so allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if COUNTING.load(Ordering::Relaxed) && WORKER.get() {
            COUNTED.fetch_add(1, Ordering::Relaxed);
        }
        // SAFETY: the caller's promise about `layout` is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `alloc` above with the same layout, and so from `System`.
        unsafe { System.dealloc(memory, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn end(
    way: (IoChoice, ZeroCopyChoice),
    aead: AeadChoice,
    addresses: (std::net::SocketAddr, std::net::SocketAddr),
    keys: ([u8; 40], [u8; 40]),
) -> End {
    let mut config = config_of(way);
    config.config.aead = Aead::resolve(aead).unwrap();
    // Both threads of a worker with two say how they were tuned.
    config.tuning.busy_poll_us = u32::from(common::SPLIT);
    let mut end = End::with(config, addresses.0, addresses.1, keys.0, keys.1, |report| {
        // The report function runs on the worker's thread.
        if let WorkerReport::EngineChosen(_) | WorkerReport::Pinned(_) = report {
            WORKER.set(true);
        }
    });
    assert_eq!(end.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    end
}

/// The build's own library; the other end has whatever is best on the host.
const OWN: AeadChoice = if cfg!(feature = "aws-lc") { AeadChoice::AwsLc } else { AeadChoice::Ring };

/// Bursts of every size, there and back.
fn traffic(near: &End, far: &End, bursts: u32) {
    let mut frame = vec![0; 4_000];
    for burst in 0..bursts {
        for (from, to) in [(near, far), (far, near)] {
            let count = 1 + burst % 60;
            for number in 0..count {
                // Mostly one size, so that runs and trains form.
                from.send(&inner(number, if number % 16 == 15 { 300 } else { 1_300 }));
            }
            for number in 0..count {
                let len = to.packets.recv(&mut frame).unwrap();
                assert_eq!(frame[VNET_HDR_LEN + 28..len][..4], number.to_be_bytes());
            }
        }
    }
}

/// Gives the worker packets that take super-packets, as a TUN does.
fn with_offload(mut end: End) -> End {
    let (ours, theirs) = UnixDatagram::pair().unwrap();
    let all = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };
    let tun = TunQueue::from_packets(theirs.into(), all).unwrap();
    end.worker.send(WorkerOrder::AttachTun(tun)).unwrap();
    // What arrives before would be written to the old one.
    let attached = |report| matches!(report, WorkerReport::Offloads(offloads) if offloads.tun == all);
    assert!(end.reports.iter().any(attached));
    end.packets = ours;
    end
}

/// Bytes of IPv4 and transport headers.
fn headers(protocol: u8) -> usize {
    if protocol == TCP { 40 } else { 28 }
}

/// A super-packet as a TUN read gives it: so many payload bytes, cut every 1,380.
fn super_frame(protocol: u8, payload: usize, sequence: u32) -> Vec<u8> {
    let len = headers(protocol) + payload;
    let (gso_type, csum_offset) = if protocol == TCP { (GSO_TCPV4, 16u16) } else { (GSO_UDP_L4, 6) };
    let mut packet = vec![0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, protocol, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2];
    packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
    let sum = Sum::default().bytes(&packet).checksum();
    packet[10..12].copy_from_slice(&sum);
    packet.extend([0x04, 0xd2, 0x16, 0x2e]);
    if protocol == TCP {
        packet.extend(sequence.to_be_bytes());
        packet.extend([0, 0, 0, 1, 0x50, 0x10, 1, 0, 0, 0, 0, 0]);
    } else {
        packet.extend((len as u16 - 20).to_be_bytes());
        packet.extend([0, 0]);
    }
    packet.resize(len, 0x5a);
    let at = 20 + usize::from(csum_offset);
    packet[at..at + 2].copy_from_slice(&pseudo_header(&[10, 8, 0, 1, 10, 8, 0, 2], protocol, len - 20).partial());
    let hdr_len = headers(protocol) as u16;
    let header = VnetHeader { flags: F_NEEDS_CSUM, gso_type, hdr_len, gso_size: 1_380, csum_start: 20, csum_offset };
    [&header.to_bytes()[..], &packet].concat()
}

/// Super-packets of every size, TCP and UDP, there and back; every payload byte arrives.
fn super_traffic(near: &End, far: &End, bursts: u32) {
    let mut frame = vec![0; 70_000];
    for burst in 0..bursts {
        for (from, to) in [(near, far), (far, near)] {
            for protocol in [TCP, UDP] {
                let payload = 1_381 + (burst as usize * 977) % 56_000;
                from.packets.send(&super_frame(protocol, payload, burst * 60_000)).unwrap();
                let mut arrived = 0;
                while arrived < payload {
                    let len = to.packets.recv(&mut frame).unwrap();
                    assert_eq!(frame[VNET_HDR_LEN + 9], protocol);
                    arrived += len - VNET_HDR_LEN - headers(protocol);
                }
                assert_eq!(arrived, payload);
            }
        }
    }
}

/// Counts what the workers allocate during `work`.
fn allocations(work: impl FnOnce()) -> u64 {
    COUNTED.store(0, Ordering::Relaxed);
    COUNTING.store(true, Ordering::Relaxed);
    work();
    COUNTING.store(false, Ordering::Relaxed);
    COUNTED.load(Ordering::Relaxed)
}

/// Two workers and four clients without anything in the right place: from each TUN queue to each client, from each client to the TUN by
/// the wrong socket, and from each client to each other.
fn group_traffic(group: &Group, clients: &mut [Client], rounds: u32) {
    // What the clients and the test itself allocate does not count.
    for round in 0..rounds {
        for at in 0..clients.len() {
            let inner = inner_address(clients[at].peer);
            for queue in 0..2 {
                group.read_by(queue, &packet(SERVER, inner, round));
                assert_eq!(number(&clients[at].recv().0), round);
            }
            clients[at].send(&packet(inner, SERVER, round));
            assert_eq!(number(&group.written_by(group.owner(clients[at].peer))), round);
            for to in (0..clients.len()).filter(|to| *to != at) {
                let wanted = packet(inner, inner_address(clients[to].peer), round);
                clients[at].send(&wanted);
                assert_eq!(number(&clients[to].recv().0), round);
            }
        }
    }
}

fn group_allocates_nothing(io: IoChoice) {
    let sockets = vec![wire_socket(localhost()), wire_socket(localhost())];
    let mut group = Group::with(io, sockets, |_, report| {
        if let WorkerReport::EngineChosen(_) = report {
            WORKER.set(true);
        }
    });
    let mut clients: Vec<Client> = (0..4).map(|peer| group.client(peer, true, 1 - group.owner(peer))).collect();
    group.route(&clients);
    group.order_all(|| WorkerOrder::SetRelay(true));
    group_traffic(&group, &mut clients, 20);
    assert_eq!(allocations(|| group_traffic(&group, &mut clients, 200)), 0, "{io:?}, several workers");
    let relayed: u64 = group.readers().iter().map(|stats| stats.snapshot().relayed).sum();
    assert_eq!(relayed, 220 * 12);
}

/// One test, because the count is the process's: nothing else may run beside it.
#[test]
fn no_packet_costs_an_allocation() {
    for way in WAYS {
        let (one, two) = addresses();
        let near = end(way, AeadChoice::Auto, (one, two), ([1; 40], [2; 40]));
        let far = end(way, OWN, (two, one), ([2; 40], [1; 40]));
        traffic(&near, &far, 120);
        assert_eq!(allocations(|| traffic(&near, &far, 300)), 0, "{way:?}, single packets");
        let stats = near.stats().snapshot();
        assert_eq!(stats.offloads.zero_copy, way.1 == ZeroCopyChoice::On);
        assert!(stats.outbound.writes < stats.outbound.written, "runs were sent as runs");
        assert_eq!(stats.inbound.writes, stats.inbound.written, "without offloads every packet is a frame");

        let (near, far) = (with_offload(near), with_offload(far));
        super_traffic(&near, &far, 60);
        let before = (near.stats().snapshot(), far.stats().snapshot());
        assert_eq!(allocations(|| super_traffic(&near, &far, 300)), 0, "{way:?}, super-packets");
        for (end, before) in [(&near, before.0), (&far, before.1)] {
            let now = end.stats().snapshot();
            let (read, packets) = (
                now.outbound.batches - before.outbound.batches,
                now.outbound.inner_packets - before.outbound.inner_packets,
            );
            assert!(packets > 10 * read, "super-packets were taken apart: {packets} of {read}");
            let (writes, written) =
                (now.inbound.writes - before.inbound.writes, now.inbound.written - before.inbound.written);
            assert!(written > 10 * writes, "and put together again: {written} in {writes}");
            assert_eq!(now.dropped_total(), 0);
        }

        group_allocates_nothing(way.0);

        // The counter counts: an installed key is allocated.
        let mut near = near;
        let installed = allocations(|| {
            near.install(name(1));
        });
        assert!(installed > 0);
    }
}
