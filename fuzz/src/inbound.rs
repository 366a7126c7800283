//! Trains from the network through the pipeline towards TUN: arbitrary bytes, and packets sealed with the right key whose
//! inner packet is arbitrary, whole, damaged or replayed. Every datagram is counted once: handed up, delivered,
//! understood as an in-band message, or dropped for a reason. And what the frames for TUN hold, taken apart again, is as
//! many packets as were delivered.

use std::net::SocketAddr;
use std::sync::Arc;

use dataplane::datachannel::aead::{Aead, SealingKey};
use dataplane::datachannel::header::SendHeader;
use dataplane::datachannel::mssfix::{MssFix, Transport, mss_limits};
use dataplane::datachannel::ping;
use dataplane::networkio::gro::Train;
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::{PeerReport, PeerSetup, Pipeline, PipelineConfig, SourceRule, Up};
use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::split;
use dataplane::workers::stats::WorkerStats;
use link::{Cipher, DirectionKey, InstallKey, KeyLimits, KeyName, MAX_DATAGRAM, Path, Secret, WorkerEvent};

use crate::inner;
use crate::input::Input;

/// The longest train that a receive can bring.
const MAX_TRAIN: usize = 65_535;
/// More operations than this tell nothing new.
const MAX_STEPS: usize = 64;
/// The peer-id on the wire.
pub(crate) const WIRE_PEER: u32 = 5;

/// Runs one input: a byte of settings, then operations.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else {
        return;
    };
    let mut end = End::new(settings);
    for _ in 0..MAX_STEPS {
        if end.step(&mut input).is_none() {
            break;
        }
    }
    end.flush();
}

/// Where the peer is; or where it moved to.
pub(crate) fn path(port: u16) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)), stream: None }
}

/// The one peer.
pub(crate) fn peer(settings: u8) -> PeerSetup {
    let transport = Transport { v6: false, stream: false, data_overhead: 24 };
    PeerSetup {
        peer: 0,
        generation: None,
        path: path(1194),
        wire_peer_id: (settings & 1 == 0).then_some(WIRE_PEER),
        replay_window: if settings & 2 == 0 { 8_192 } else { 0 },
        replay_time_s: 15,
        mssfix: (settings & 4 != 0).then(|| mss_limits(MssFix::Mtu(1_400), transport)),
        ping_s: 0,
        ping_restart_s: 0,
        float: settings & 8 != 0,
        source: if settings & 16 == 0 { SourceRule::Any } else { SourceRule::Routed },
        counters: Default::default(),
    }
}

/// A direction's key.
pub(crate) fn direction() -> DirectionKey {
    DirectionKey { key: Secret(vec![7; 32]), implicit_iv: Secret(vec![9; 8]) }
}

/// The one key, the same in both directions; `tight`: with limits that a few packets reach.
pub(crate) fn key(settings: u8, tight: bool) -> InstallKey {
    let bound = |tight_bound: u64| if tight { tight_bound } else { 1 << 36 };
    InstallKey {
        name: KeyName { peer: 0, generation: 1, negotiation: 0, key_id: 0 },
        cipher: Cipher::Aes256Gcm,
        seal: direction(),
        open: direction(),
        wire_peer_id: (settings & 1 == 0).then_some(WIRE_PEER),
        send_from_ns: 0,
        retire_previous_ns: u64::MAX,
        limits: KeyLimits {
            soft_packet_id: if tight { 8 } else { 0xFF00_0000 },
            hard_packet_id: if tight { 64 } else { u32::MAX },
            soft_bytes: bound(2_000),
            soft_packets: bound(3),
            soft_aead: bound(100),
            hard_aead: bound(5_000),
            hard_failures: bound(5),
        },
    }
}

/// What the pipeline handed up.
#[derive(Default)]
pub(crate) struct Heard {
    exits: u64,
    refused: bool,
}

impl Up for Heard {
    fn control(&mut self, _: Path, bytes: &[u8], _: bool) {
        assert!(bytes.len() <= MAX_DATAGRAM);
    }

    fn event(&mut self, event: WorkerEvent) {
        self.refused |= matches!(event, WorkerEvent::KeyRefused(..));
    }

    fn report(&mut self, report: PeerReport) {
        self.exits += u64::from(matches!(report, PeerReport::OccExit { .. }));
    }
}

/// A pipeline with one peer and one key.
pub(crate) fn pipeline(settings: u8, stats: &Arc<WorkerStats>) -> Pipeline {
    let mut pipeline =
        Pipeline::new(stats.clone(), PipelineConfig { routes: RouteTable::all_to(0), ..PipelineConfig::default() });
    pipeline.add_peer(0, peer(settings));
    let mut heard = Heard::default();
    pipeline.install_key(0, key(settings, settings & 32 != 0), &mut heard);
    assert!(!heard.refused);
    pipeline
}

struct End {
    pipeline: Pipeline,
    stats: Arc<WorkerStats>,
    tun: TunBatch,
    heard: Heard,
    sealing: SealingKey,
    header: SendHeader,
    packet_id: u32,
    now_ns: u64,
    /// Datagrams that came in.
    arrived: u64,
    /// Packets that were taken out of the batch.
    written: u64,
}

impl End {
    fn new(settings: u8) -> End {
        let stats = Arc::new(WorkerStats::default());
        let all = settings & 64 == 0;
        let Some(sealing) = SealingKey::new(&Aead::default(), Cipher::Aes256Gcm, &direction()) else {
            unreachable!("a good key");
        };
        End {
            pipeline: pipeline(settings, &stats),
            stats,
            tun: TunBatch::new(TunOffload { csum: true, tso4: true, tso6: all, uso4: all, uso6: all }),
            heard: Heard::default(),
            sealing,
            header: SendHeader::new((settings & 1 == 0).then_some(WIRE_PEER), 0),
            packet_id: 0,
            now_ns: 1,
            arrived: 0,
            written: 0,
        }
    }

    /// One operation; `None` at the end of the input.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        match input.byte()? % 6 {
            0 => {
                let (segment, bytes) = (usize::from(input.byte()?), input.some()?);
                self.arrive(bytes.to_vec(), segment, 1194);
            }
            1 => {
                let packet = inner::packet(input)?.bytes;
                self.sealed_train(1, &packet, input)?;
            }
            2 => {
                let (count, packet) = (usize::from(input.byte()? % 16), inner::packet(input)?.bytes);
                self.sealed_train(count, &packet, input)?;
            }
            3 => {
                let message =
                    [&ping::PING[..], &ping::EXIT[..], &ping::OCC_MAGIC[..], &[]][usize::from(input.byte()? % 4)];
                self.sealed_train(1, message, input)?;
            }
            4 => self.now_ns = self.now_ns.saturating_add(u64::from(input.number()?) * 1_000_000),
            _ => self.flush(),
        }
        Some(())
    }

    /// `count` packets with the same inner packet, perhaps moved, damaged, repeated or out of order.
    fn sealed_train(&mut self, count: usize, packet: &[u8], input: &mut Input<'_>) -> Option<()> {
        let [how, jump] = input.take()?;
        let segment = packet.len() + self.header.overhead();
        let mut train = Vec::new();
        for _ in 0..count.min(MAX_TRAIN / segment) {
            self.packet_id = match how & 3 {
                0 | 1 => self.packet_id.saturating_add(1),
                2 => self.packet_id.saturating_add(u32::from(jump) << 8),
                _ => self.packet_id.saturating_sub(u32::from(jump)),
            };
            let mut datagram = vec![0; segment];
            assert!(self.sealing.seal(&self.header, self.packet_id, packet, &mut datagram));
            train.append(&mut datagram);
        }
        if how & 4 != 0 && !train.is_empty() {
            let at = usize::from(input.number()?) % train.len();
            train[at] ^= 1 << (jump % 8);
        }
        self.arrive(train, segment, if how & 8 == 0 { 1194 } else { 1195 });
        Some(())
    }

    fn arrive(&mut self, mut bytes: Vec<u8>, segment: usize, port: u16) {
        if self.tun.wants_flush() {
            self.flush();
        }
        self.arrived += bytes.len().div_ceil(segment.max(1)) as u64;
        let train = Train { bytes: &mut bytes, segment, path: path(port) };
        self.pipeline.inbound(self.now_ns, train, &mut self.tun, &mut self.heard);
        let stats = self.stats.snapshot();
        let in_band = self.stats.pings_received.get() + self.heard.exits;
        let delivered = stats.inbound.inner_packets;
        let counted = self.stats.control_received.get() + delivered + in_band + stats.dropped_total();
        assert_eq!(counted, self.arrived, "every datagram once: {stats:?}");
        assert_eq!(self.written + self.tun.packets(), delivered);
    }

    /// Takes the frames apart again.
    fn flush(&mut self) {
        let delivered = self.tun.packets();
        let mut packets = 0;
        for frame in self.tun.frames() {
            let plan = split::plan(frame)
                .unwrap_or_else(|reason| panic!("{reason:?}: {:02x?}", &frame[..50.min(frame.len())]));
            packets += plan.count() as u64;
        }
        assert_eq!(packets, delivered);
        self.written += delivered;
        self.tun.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_of_a_flow_are_joined_and_damaged_ones_dropped() {
        let mut end = End::new(0);
        let packet = |step: u8| [1, 0, 0, step, 0x10, 0xFF, 100, 0, 0, 0];
        for step in 1..=8 {
            assert_eq!(end.step(&mut Input(&packet(step))), Some(()));
        }
        assert_eq!((end.tun.packets(), end.tun.frames().count()), (8, 1), "one super-packet");
        end.flush();
        let damaged = [1, 0, 0, 9, 0x10, 0xFF, 100, 0, 4, 0, 40, 0];
        assert_eq!(end.step(&mut Input(&damaged)), Some(()));
        assert_eq!((end.tun.packets(), end.stats.snapshot().dropped_total()), (0, 1));
    }
}
