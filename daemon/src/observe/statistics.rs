//! What a run came to, as a block of lines: on SIGUSR2 (as stock OpenVPN does) and at the end. Pure: numbers in, sentences out;
//! rates are computed here, from two readings, and never by a worker.

use std::time::Duration;

use dataplane::drop_reason::DropReason;
use dataplane::workers::stats::{DirectionSnapshot, StatsSnapshot};

use super::console::{bits, bytes};

/// Packets that the kernel dropped before a worker saw them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// At the TUN device: its queue towards us was full (`tx_dropped` of the interface).
    pub tun: u64,
    /// At the socket: its receive buffer was full.
    pub socket: u64,
}

/// A worker's counters at an instant of any steady clock.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    /// When.
    pub at: Duration,
    /// The counters.
    pub counters: StatsSnapshot,
}

/// Everything about one worker.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    /// Its number.
    pub worker: u16,
    /// Who is at the other end of the network: `the server`, `clients`.
    pub others: &'a str,
    /// The I/O engine's name.
    pub engine: &'a str,
    /// The AEAD backend's name.
    pub aead: &'a str,
    /// Now.
    pub now: Reading,
    /// When figures were shown last, or the start; what the rates are of.
    pub before: Option<Reading>,
    /// What the kernel dropped.
    pub lost: Lost,
}

/// The block, a line each.
pub fn block(figures: &Figures<'_>) -> Vec<String> {
    let Reading { at, counters } = figures.now;
    let since = |direction: fn(&StatsSnapshot) -> DirectionSnapshot| {
        figures.before.map(|before| {
            let seconds = at.saturating_sub(before.at).as_secs_f64();
            (seconds, direction(&counters).since(&direction(&before.counters)))
        })
    };
    vec![
        format!(
            "worker {}: engine {}, AEAD {}, offloads: {}",
            figures.worker, figures.engine, figures.aead, counters.offloads
        ),
        way(&format!("to {}", figures.others), ["TUN reads", "sends"], &counters.outbound, since(|c| c.outbound)),
        way(&format!("from {}", figures.others), ["receives", "TUN writes"], &counters.inbound, since(|c| c.inbound)),
        format!(
            "keepalives {} sent, {} received; control datagrams {} received; packets too long, answered by ICMP {}",
            counters.pings_sent, counters.pings_received, counters.control_received, counters.too_big_answers
        ),
        drops(&counters, figures.lost),
    ]
}

fn way(name: &str, calls: [&str; 2], sums: &DirectionSnapshot, since: Option<(f64, DirectionSnapshot)>) -> String {
    let [reads, writes] = calls;
    let rate = match since {
        Some((seconds, more)) if seconds >= 0.001 => format!(
            " (over {seconds:.1} s: {}, {:.0} packets/s)",
            bits(more.inner_bytes as f64 * 8.0 / seconds),
            more.inner_packets as f64 / seconds
        ),
        _ => String::new(),
    };
    format!(
        "{name}: {} packets, {} inside{rate}; {} packets, {} on the wire; {} {reads} of {:.1} packets, {} {writes} of {:.1}, {:.2} {writes} for each of the {reads}",
        sums.inner_packets,
        bytes(sums.inner_bytes),
        sums.wire_packets,
        bytes(sums.wire_bytes),
        sums.batches,
        sums.packets_per_read(),
        sums.writes,
        sums.packets_per_write(),
        sums.writes_per_read(),
    )
}

/// What is zero is not mentioned.
fn drops(counters: &StatsSnapshot, lost: Lost) -> String {
    let reasons = DropReason::ALL.iter().map(|&reason| (reason.name(), counters.dropped(reason)));
    let kernel = [("tun_queue_full", lost.tun), ("socket_buffer_full", lost.socket)];
    let list: Vec<String> =
        reasons.chain(kernel).filter(|(_, count)| *count > 0).map(|(name, count)| format!("{name} {count}")).collect();
    if list.is_empty() { "dropped: none".to_owned() } else { format!("dropped: {}", list.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::workers::stats::WorkerStats;

    fn reading(seconds: u64, packets: u64) -> Reading {
        let stats = WorkerStats::default();
        stats.outbound.inner_packets.add(packets);
        stats.outbound.inner_bytes.add(packets * 1_000);
        stats.outbound.wire_packets.add(packets);
        stats.outbound.batches.add(packets / 40);
        stats.outbound.writes.add(packets / 20);
        stats.outbound.written.add(packets);
        Reading { at: Duration::from_secs(seconds), counters: stats.snapshot() }
    }

    fn figures(now: Reading, before: Option<Reading>, lost: Lost) -> String {
        block(&Figures { worker: 0, others: "the server", engine: "syscall", aead: "aws-lc", now, before, lost })
            .join("\n")
    }

    #[test]
    fn the_block_has_totals_ratios_and_rates() {
        let text = figures(reading(14, 4_000), Some(reading(10, 2_000)), Lost::default());
        for part in [
            "worker 0: engine syscall, AEAD aws-lc, offloads: TUN none, socket none",
            "to the server: 4000 packets, 4.00 MB inside (over 4.0 s: 4.00 Mb/s, 500 packets/s)",
            "100 TUN reads of 40.0 packets, 200 sends of 20.0, 2.00 sends for each",
            "from the server: 0 packets",
            "dropped: none",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn without_an_earlier_reading_there_are_no_rates() {
        let text = figures(reading(14, 4_000), None, Lost::default());
        assert!(!text.contains("over") && !text.contains("NaN") && !text.contains("inf"), "{text}");
        let text = figures(reading(14, 4_000), Some(reading(14, 4_000)), Lost::default());
        assert!(!text.contains("over") && !text.contains("NaN"), "{text}");
    }

    #[test]
    fn drops_are_named_where_there_are_some() {
        let stats = WorkerStats::default();
        stats.drop_many(DropReason::NoKey, 3);
        let now = Reading { at: Duration::ZERO, counters: stats.snapshot() };
        let text = figures(now, None, Lost { tun: 5, socket: 0 });
        assert!(text.ends_with("dropped: no_key 3, tun_queue_full 5"), "{text}");
        let text = figures(now, None, Lost { tun: 0, socket: 7 });
        assert!(text.ends_with("dropped: no_key 3, socket_buffer_full 7"), "{text}");
    }
}
