//! What is counted for one peer, readable by anyone at any time without disturbing the worker that counts.
//!
//! Each word has one writer: the direction that opens, or the one that seals. So, as with the worker's own counters, raising one is a
//! relaxed load and a relaxed store. The directions stand on cache lines of their own, because they may be two threads.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::workers::stats::Counter;

/// The counters of one peer. Whoever orders the peer keeps an `Arc` of them; a worker never sets them back.
///
/// Packets and bytes are those inside of the tunnel (one per segment of a super-packet; IP headers and all behind them), so that the sums
/// over all peers are what went to the TUN and came from it, and what was relayed.
#[derive(Debug, Default)]
pub struct PeerCounters {
    inbound: Inbound,
    outbound: Outbound,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Inbound {
    packets: Counter,
    bytes: Counter,
    last_heard_ns: AtomicU64,
}

#[derive(Debug, Default)]
#[repr(align(64))]
struct Outbound {
    packets: Counter,
    bytes: Counter,
    key_since_ns: AtomicU64,
}

impl PeerCounters {
    /// Packets that came from the peer and were taken: authenticated, well formed, with a source that is the peer's.
    pub fn packets_in(&self) -> u64 {
        self.inbound.packets.get()
    }

    /// Their bytes.
    pub fn bytes_in(&self) -> u64 {
        self.inbound.bytes.get()
    }

    /// Packets that were sealed for the peer, keepalives not included.
    pub fn packets_out(&self) -> u64 {
        self.outbound.packets.get()
    }

    /// Their bytes.
    pub fn bytes_out(&self) -> u64 {
        self.outbound.bytes.get()
    }

    /// When something authenticated last came from the peer: a data packet, a keepalive, a control packet (CLOCK_BOOTTIME,
    /// nanoseconds); 0 is never.
    pub fn last_heard_ns(&self) -> u64 {
        self.inbound.last_heard_ns.load(Relaxed)
    }

    /// When the newest key was installed (CLOCK_BOOTTIME, nanoseconds); 0 is never.
    pub fn key_since_ns(&self) -> u64 {
        self.outbound.key_since_ns.load(Relaxed)
    }

    /// Only the direction that opens calls this.
    #[inline]
    pub(crate) fn came(&self, packets: u64, bytes: u64, now_ns: u64) {
        self.inbound.packets.add(packets);
        self.inbound.bytes.add(bytes);
        self.heard(now_ns);
    }

    /// Only the direction that opens calls this.
    #[inline]
    pub(crate) fn heard(&self, now_ns: u64) {
        self.inbound.last_heard_ns.store(now_ns, Relaxed);
    }

    /// Only the direction that seals calls this.
    #[inline]
    pub(crate) fn went(&self, packets: u64, bytes: u64) {
        self.outbound.packets.add(packets);
        self.outbound.bytes.add(bytes);
    }

    /// Only the direction that seals calls this.
    pub(crate) fn has_key_since(&self, now_ns: u64) {
        self.outbound.key_since_ns.store(now_ns, Relaxed);
    }
}

/// Two are equal when they are the same ones: what they count is no part of a peer's settings.
impl PartialEq for PeerCounters {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for PeerCounters {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_direction_counts_its_own() {
        let counters = PeerCounters::default();
        counters.came(2, 300, 7);
        counters.came(1, 50, 9);
        counters.went(5, 1_000);
        counters.has_key_since(3);
        assert_eq!((counters.packets_in(), counters.bytes_in(), counters.last_heard_ns()), (3, 350, 9));
        assert_eq!((counters.packets_out(), counters.bytes_out(), counters.key_since_ns()), (5, 1_000, 3));
        counters.heard(11);
        assert_eq!((counters.packets_in(), counters.last_heard_ns()), (3, 11));
    }

    #[test]
    fn counters_are_equal_to_themselves_alone() {
        let (one, other) = (PeerCounters::default(), PeerCounters::default());
        assert!(one == one && one != other);
    }
}
