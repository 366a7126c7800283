//! Nothing on the packet path allocates: every allocation that a worker's thread makes in the steady state is counted,
//! and there may be none, on either engine.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use common::{End, addresses, config, inner, name};
use dataplane::datachannel::aead::{Aead, AeadChoice};
use dataplane::sys::IoChoice;
use dataplane::tun::virtio::VNET_HDR_LEN;
use dataplane::workers::manager::WorkerReport;
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
    io: IoChoice,
    aead: AeadChoice,
    addresses: (std::net::SocketAddr, std::net::SocketAddr),
    keys: ([u8; 40], [u8; 40]),
) -> End {
    let mut config = config(io);
    config.config.aead = Aead::resolve(aead).unwrap();
    let mut end = End::with(config, addresses.0, addresses.1, keys.0, keys.1, |report| {
        // The report function runs on the worker's thread.
        if let WorkerReport::EngineChosen(_) = report {
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

#[test]
fn no_packet_costs_an_allocation() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (one, two) = addresses();
        let near = end(io, AeadChoice::Auto, (one, two), ([1; 40], [2; 40]));
        let far = end(io, OWN, (two, one), ([2; 40], [1; 40]));
        traffic(&near, &far, 120);
        COUNTED.store(0, Ordering::Relaxed);
        COUNTING.store(true, Ordering::Relaxed);
        traffic(&near, &far, 300);
        COUNTING.store(false, Ordering::Relaxed);
        let stats = near.stats().snapshot();
        assert!(stats.outbound.writes < stats.outbound.written, "runs were sent as runs");
        assert_eq!(COUNTED.load(Ordering::Relaxed), 0, "{io:?}");

        // The counter counts: an installed key is allocated.
        COUNTING.store(true, Ordering::Relaxed);
        let mut near = near;
        near.install(name(1));
        COUNTING.store(false, Ordering::Relaxed);
        assert!(COUNTED.load(Ordering::Relaxed) > 0);
    }
}
