//! What a worker counts, readable by anyone at any time without disturbing it.
//!
//! One thread writes (the worker), so a counter is a relaxed load and a relaxed store, without a locked instruction.
//! Groups that different parts of the loop write stand on cache lines of their own.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::drop_reason::DropReason;
use crate::tun::coalesce::TunOffload;

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
    /// Reads that brought something: TUN reads outbound, receives (trains) inbound; and what was relayed or taken over.
    pub batches: Counter,
    /// System calls or ring entries that carried something away: sends outbound, TUN writes inbound.
    pub writes: Counter,
    /// Packets that those carried: divided by `writes`, the segments per send.
    pub written: Counter,
    /// Packets that were handed to the worker that has their peer: datagrams inbound, inner packets outbound. That one counts them as
    /// if they had come to it; here they are in no other counter.
    pub handed_over: Counter,
    /// Packets that another worker handed over. They are in the other counters, too.
    pub taken_over: Counter,
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

/// Which offloads a worker uses at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OffloadsInUse {
    /// Towards the TUN: what packets are joined into super-packets. Reads follow what the queue was opened with.
    pub tun: TunOffload,
    /// UDP_SEGMENT: one send for many datagrams.
    pub udp_gso: bool,
    /// UDP_GRO: one receive for many datagrams.
    pub udp_gro: bool,
    /// SENDMSG_ZC: long runs leave without being copied into the kernel. On a socket for many peers, only by the devices where that pays.
    pub zero_copy: bool,
}

impl OffloadsInUse {
    fn switches(&mut self) -> [(&mut bool, &'static str); 8] {
        [
            (&mut self.tun.csum, "csum"),
            (&mut self.tun.tso4, "tso4"),
            (&mut self.tun.tso6, "tso6"),
            (&mut self.tun.uso4, "uso4"),
            (&mut self.tun.uso6, "uso6"),
            (&mut self.udp_gso, "UDP_SEGMENT"),
            (&mut self.udp_gro, "UDP_GRO"),
            (&mut self.zero_copy, "SENDMSG_ZC"),
        ]
    }

    fn to_bits(mut self) -> u32 {
        self.switches().iter().enumerate().map(|(bit, (on, _))| u32::from(**on) << bit).sum()
    }

    fn from_bits(bits: u32) -> Self {
        let mut offloads = Self::default();
        for (bit, (on, _)) in offloads.switches().into_iter().enumerate() {
            *on = bits & (1 << bit) != 0;
        }
        offloads
    }
}

impl fmt::Display for OffloadsInUse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut copy = *self;
        let switches = copy.switches();
        let (tun, udp) = switches.split_at(5);
        for (name, group) in [("TUN", tun), ("socket", udp)] {
            let on: Vec<&str> = group.iter().filter(|(on, _)| **on).map(|(_, name)| *name).collect();
            let separator = if name == "TUN" { "" } else { ", " };
            let list = if on.is_empty() { "none".to_owned() } else { on.join(" ") };
            write!(f, "{separator}{name} {list}")?;
        }
        Ok(())
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
    /// Packets that were too long and answered by ICMP into the TUN; each is one TUN write more than packets that arrived.
    pub too_big_answers: Counter,
    /// Packets that came from one peer for another one and did not go to the TUN; each is an inner packet inbound, and what became of it
    /// is counted outbound, here or where it was handed over.
    pub relayed: Counter,
    offloads: AtomicU32,
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

    /// Notes what is in use from now on. Only the worker may call this.
    pub fn set_offloads(&self, offloads: OffloadsInUse) {
        self.offloads.store(offloads.to_bits(), Relaxed);
    }

    /// The offloads in use.
    pub fn offloads(&self) -> OffloadsInUse {
        OffloadsInUse::from_bits(self.offloads.load(Relaxed))
    }

    /// All counters at about one instant: each is exact, together they may be a few packets apart.
    pub fn snapshot(&self) -> StatsSnapshot {
        StatsSnapshot {
            outbound: DirectionSnapshot::of(&self.outbound),
            inbound: DirectionSnapshot::of(&self.inbound),
            pings_sent: self.pings_sent.get(),
            pings_received: self.pings_received.get(),
            control_received: self.control_received.get(),
            too_big_answers: self.too_big_answers.get(),
            relayed: self.relayed.get(),
            offloads: self.offloads(),
            drops: std::array::from_fn(|i| self.drops.0[i].get()),
        }
    }
}

/// Reads a worker's counters: of its one thread, or of both as one sum. Each thread writes its own, so a counter has one writer.
#[derive(Clone, Debug, Default)]
pub struct StatsReader {
    /// Of the thread that opens, or of the one thread.
    stats: Arc<WorkerStats>,
    /// Of the thread that seals, if it is another one.
    sealing: Option<Arc<WorkerStats>>,
}

impl StatsReader {
    pub(crate) fn new(stats: Arc<WorkerStats>, sealing: Option<Arc<WorkerStats>>) -> Self {
        StatsReader { stats, sealing }
    }

    /// All counters at about one instant: each is exact, together they may be a few packets apart.
    pub fn snapshot(&self) -> StatsSnapshot {
        let mut sum = self.stats.snapshot();
        if let Some(sealing) = &self.sealing {
            sum.add_sealing(&sealing.snapshot());
        }
        sum
    }

    /// How many packets were dropped for this reason.
    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.stats.dropped(reason) + self.sealing.as_ref().map_or(0, |sealing| sealing.dropped(reason))
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
    /// Packets handed to another worker.
    pub handed_over: u64,
    /// Packets that another worker handed over.
    pub taken_over: u64,
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
            handed_over: live.handed_over.get(),
            taken_over: live.taken_over.get(),
        }
    }

    /// Inner packets of one read; 0 before the first.
    pub fn packets_per_read(&self) -> f64 {
        ratio(self.inner_packets, self.batches)
    }

    /// Packets of one write: segments per send outbound, packets per TUN write inbound; 0 before the first.
    pub fn packets_per_write(&self) -> f64 {
        ratio(self.written, self.writes)
    }

    fn add(&mut self, more: &Self) {
        self.inner_packets += more.inner_packets;
        self.inner_bytes += more.inner_bytes;
        self.wire_packets += more.wire_packets;
        self.wire_bytes += more.wire_bytes;
        self.batches += more.batches;
        self.writes += more.writes;
        self.written += more.written;
        self.handed_over += more.handed_over;
        self.taken_over += more.taken_over;
    }

    /// Writes for one read; 0 before the first.
    pub fn writes_per_read(&self) -> f64 {
        ratio(self.writes, self.batches)
    }

    /// What was counted between two snapshots; 0 for what was not.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        DirectionSnapshot {
            inner_packets: self.inner_packets.wrapping_sub(before.inner_packets),
            inner_bytes: self.inner_bytes.wrapping_sub(before.inner_bytes),
            wire_packets: self.wire_packets.wrapping_sub(before.wire_packets),
            wire_bytes: self.wire_bytes.wrapping_sub(before.wire_bytes),
            batches: self.batches.wrapping_sub(before.batches),
            writes: self.writes.wrapping_sub(before.writes),
            written: self.written.wrapping_sub(before.written),
            handed_over: self.handed_over.wrapping_sub(before.handed_over),
            taken_over: self.taken_over.wrapping_sub(before.taken_over),
        }
    }
}

fn ratio(of: u64, to: u64) -> f64 {
    if to == 0 { 0.0 } else { of as f64 / to as f64 }
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
    /// Packets that were too long and answered by ICMP into the TUN.
    pub too_big_answers: u64,
    /// Packets relayed from one peer to another.
    pub relayed: u64,
    /// The offloads in use.
    pub offloads: OffloadsInUse,
    /// Drops, indexed by [`DropReason::index`].
    pub drops: [u64; DropReason::COUNT],
}

impl StatsSnapshot {
    /// Adds what the thread that seals counted. Of the offloads, UDP_SEGMENT is its own.
    fn add_sealing(&mut self, sealing: &StatsSnapshot) {
        self.outbound.add(&sealing.outbound);
        self.inbound.add(&sealing.inbound);
        self.pings_sent += sealing.pings_sent;
        self.pings_received += sealing.pings_received;
        self.control_received += sealing.control_received;
        self.too_big_answers += sealing.too_big_answers;
        self.relayed += sealing.relayed;
        self.offloads.udp_gso = sealing.offloads.udp_gso;
        self.offloads.zero_copy = sealing.offloads.zero_copy;
        for (sum, more) in self.drops.iter_mut().zip(&sealing.drops) {
            *sum += more;
        }
    }

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
    fn what_two_threads_counted_is_read_as_one_sum() {
        let (opening, sealing) = (Arc::new(WorkerStats::default()), Arc::new(WorkerStats::default()));
        let reader = StatsReader::new(Arc::clone(&opening), Some(Arc::clone(&sealing)));
        for (factor, stats) in [(1, &opening), (100, &sealing)] {
            for (direction, base) in [(&stats.outbound, 1), (&stats.inbound, 10)] {
                let counters = [
                    &direction.inner_packets,
                    &direction.inner_bytes,
                    &direction.wire_packets,
                    &direction.wire_bytes,
                    &direction.batches,
                    &direction.writes,
                    &direction.written,
                    &direction.handed_over,
                    &direction.taken_over,
                ];
                (base..).zip(counters).for_each(|(n, counter)| counter.add(n * factor));
            }
            let rest = [
                &stats.pings_sent,
                &stats.pings_received,
                &stats.control_received,
                &stats.too_big_answers,
                &stats.relayed,
            ];
            (20..).zip(rest).for_each(|(n, counter)| counter.add(n * factor));
            stats.drop_many(DropReason::NoKey, 5 * factor);
        }
        opening.set_offloads(OffloadsInUse { udp_gso: true, udp_gro: true, zero_copy: true, ..Default::default() });
        sealing.set_offloads(OffloadsInUse { udp_gso: false, ..Default::default() });
        let sum = reader.snapshot();
        let direction = |base: u64| DirectionSnapshot {
            inner_packets: base * 101,
            inner_bytes: (base + 1) * 101,
            wire_packets: (base + 2) * 101,
            wire_bytes: (base + 3) * 101,
            batches: (base + 4) * 101,
            writes: (base + 5) * 101,
            written: (base + 6) * 101,
            handed_over: (base + 7) * 101,
            taken_over: (base + 8) * 101,
        };
        assert_eq!((sum.outbound, sum.inbound), (direction(1), direction(10)));
        assert_eq!(
            [sum.pings_sent, sum.pings_received, sum.control_received, sum.too_big_answers, sum.relayed],
            [20 * 101, 21 * 101, 22 * 101, 23 * 101, 24 * 101]
        );
        assert_eq!((sum.dropped_total(), reader.dropped(DropReason::NoKey)), (505, 505));
        assert_eq!(sum.offloads, OffloadsInUse { udp_gso: false, udp_gro: true, ..Default::default() });
        let alone = StatsReader::new(opening.clone(), None);
        assert_eq!((alone.snapshot(), alone.dropped(DropReason::NoKey)), (opening.snapshot(), 5));
    }

    #[test]
    fn offloads_survive_the_way_through_the_counters() {
        let stats = WorkerStats::default();
        assert_eq!(stats.offloads(), OffloadsInUse::default());
        for bits in 0..1 << 8 {
            let offloads = OffloadsInUse::from_bits(bits);
            assert_eq!(offloads.to_bits(), bits);
            stats.set_offloads(offloads);
            assert_eq!(stats.snapshot().offloads, offloads);
        }
    }

    #[test]
    fn offloads_are_said_in_one_line() {
        assert_eq!(OffloadsInUse::default().to_string(), "TUN none, socket none");
        let tun = TunOffload { csum: true, tso4: true, ..Default::default() };
        let some = OffloadsInUse { tun, udp_gro: true, ..Default::default() };
        assert_eq!(some.to_string(), "TUN csum tso4, socket UDP_GRO");
    }

    #[test]
    fn ratios_say_how_full_reads_and_writes_are() {
        let sums = DirectionSnapshot { inner_packets: 86, batches: 2, writes: 4, written: 84, ..Default::default() };
        assert_eq!((sums.packets_per_read(), sums.packets_per_write(), sums.writes_per_read()), (43.0, 21.0, 2.0));
        assert_eq!(DirectionSnapshot::default().packets_per_write(), 0.0);
        assert_eq!(sums.since(&sums), DirectionSnapshot::default());
        let before = DirectionSnapshot { writes: 1, ..Default::default() };
        assert_eq!(sums.since(&before), DirectionSnapshot { writes: 3, ..sums });
    }

    #[test]
    fn the_directions_do_not_share_a_cache_line() {
        assert!(align_of::<DirectionStats>() >= 128);
        assert!(align_of::<DropStats>() >= 128);
    }
}
