//! What a worker counts, readable by anyone at any time without disturbing it.
//!
//! One thread writes (the worker), so a counter is a relaxed load and a relaxed store, without a locked instruction.
//! Groups that different parts of the loop write stand on cache lines of their own.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::drop_reason::DropReason;

/// A counter that one thread raises and any thread reads.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Raises it by `n`. Only the worker that owns the counter may call this: two writers would lose counts.
    #[inline]
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Relaxed).wrapping_add(n), Relaxed);
    }

    /// Its value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// One direction's counters, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct DirectionStats {
    /// Inner packets (one per segment of a super-packet).
    pub inner_packets: Counter,
    /// Inner bytes: IP headers and all behind them.
    pub inner_bytes: Counter,
    /// Wire packets of the data channel.
    pub wire_packets: Counter,
    /// Wire bytes of the data channel: UDP payload.
    pub wire_bytes: Counter,
    /// Reads that brought something: TUN reads outbound, receives (trains) inbound.
    pub batches: Counter,
    /// System calls or ring entries that carried something away: sends outbound, TUN writes inbound.
    pub writes: Counter,
    /// Packets that those carried: divided by `writes`, the segments per send.
    pub written: Counter,
}

/// Drops by reason, on cache lines of their own.
#[derive(Debug)]
#[repr(align(128))]
pub struct DropStats([Counter; DropReason::COUNT]);

impl Default for DropStats {
    fn default() -> Self {
        DropStats(std::array::from_fn(|_| Counter::default()))
    }
}

/// Everything one worker counts.
#[derive(Debug, Default)]
pub struct WorkerStats {
    /// TUN to network.
    pub outbound: DirectionStats,
    /// Network to TUN.
    pub inbound: DirectionStats,
    /// Keepalives sent.
    pub pings_sent: Counter,
    /// Keepalives received.
    pub pings_received: Counter,
    /// Control datagrams handed up.
    pub control_received: Counter,
    drops: DropStats,
}

impl WorkerStats {
    /// Counts one dropped packet. Only the worker that owns the counters may call this.
    #[inline]
    pub fn drop_one(&self, reason: DropReason) {
        self.drops.0[reason.index()].add(1);
    }

    /// Counts `n` dropped packets. Only the worker that owns the counters may call this.
    #[inline]
    pub fn drop_many(&self, reason: DropReason, n: u64) {
        self.drops.0[reason.index()].add(n);
    }

    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops.0[reason.index()].get()
    }

    /// All counters at about one instant: each is exact, together they may be a few packets apart.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            outbound: DirectionSnapshot::of(&self.outbound),
            inbound: DirectionSnapshot::of(&self.inbound),
            pings_sent: self.pings_sent.get(),
            pings_received: self.pings_received.get(),
            control_received: self.control_received.get(),
            drops: std::array::from_fn(|i| self.drops.0[i].get()),
        }
    }
}

/// One direction's counters as plain numbers; see [`DirectionStats`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionSnapshot {
    /// Inner packets.
    pub inner_packets: u64,
    /// Inner bytes.
    pub inner_bytes: u64,
    /// Wire packets of the data channel.
    pub wire_packets: u64,
    /// Wire bytes of the data channel.
    pub wire_bytes: u64,
    /// Reads that brought something.
    pub batches: u64,
    /// Writes.
    pub writes: u64,
    /// Packets that the writes carried.
    pub written: u64,
}

impl DirectionSnapshot {
    fn of(live: &DirectionStats) -> Self {
        DirectionSnapshot {
            inner_packets: live.inner_packets.get(),
            inner_bytes: live.inner_bytes.get(),
            wire_packets: live.wire_packets.get(),
            wire_bytes: live.wire_bytes.get(),
            batches: live.batches.get(),
            writes: live.writes.get(),
            written: live.written.get(),
        }
    }
}

/// A worker's counters as plain numbers; see [`WorkerStats`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsSnapshot {
    /// TUN to network.
    pub outbound: DirectionSnapshot,
    /// Network to TUN.
    pub inbound: DirectionSnapshot,
    /// Keepalives sent.
    pub pings_sent: u64,
    /// Keepalives received.
    pub pings_received: u64,
    /// Control datagrams handed up.
    pub control_received: u64,
    /// Drops, indexed by [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
}

impl StatsSnapshot {
    /// Dropped packets of all reasons together.
    pub fn dropped_total(&self) -> u64 {
        self.drops.iter().sum()
    }

    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.drops[reason.index()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_is_counted_under_its_reason_only() {
        let stats = WorkerStats::default();
        stats.drop_one(DropReason::NoKey);
        stats.drop_many(DropReason::NoKey, 2);
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.dropped(DropReason::NoKey), 3);
        assert_eq!(snapshot.dropped_total(), 3);
        assert_eq!(stats.dropped(DropReason::NoRoute), 0);
    }

    #[test]
    fn the_directions_do_not_share_a_cache_line() {
        assert!(align_of::<DirectionStats>() >= 128);
        assert!(align_of::<DropStats>() >= 128);
    }
}
