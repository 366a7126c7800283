//! Two pipelines, one for each end of a tunnel, without sockets and devices.

mod inbound;
mod keys;
mod outbound;
mod upkeep;

use std::net::SocketAddr;
use std::sync::Arc;

use link::message::{
    Cipher, DirectionKey, InstallKey, KeyLimits, KeyRefusal, MAX_DATAGRAM, Secret, UsageReason, WorkerEvent,
};
use proptest::prelude::*;

use super::upkeep::{RETRY_NS, send_in_band};
use super::*;
use crate::datachannel::keyring::tests::{LIMITS, SECOND, key};
use crate::datachannel::ping;
use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::WireBatch;
use crate::tun::coalesce::{TunBatch, TunOffload};
use crate::tun::test_packets::{Packet, SYN};
use crate::tun::virtio::VNET_HDR_LEN;

pub(crate) fn path(port: u16) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)), stream: None }
}

pub(crate) fn setup() -> PeerSetup {
    PeerSetup {
        peer: 0,
        generation: None,
        path: path(1194),
        wire_peer_id: Some(5),
        replay_window: 8192,
        replay_time_s: 15,
        mssfix: None,
        ping_s: 0,
        ping_restart_s: 0,
        float: false,
        source: SourceRule::Any,
        counters: Arc::default(),
    }
}

const ALL: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };

#[derive(Default)]
struct Heard {
    control: Vec<(Vec<u8>, bool)>,
    events: Vec<WorkerEvent>,
    reports: Vec<PeerReport>,
}

impl Up for Heard {
    fn control(&mut self, _: Path, bytes: &[u8], known: bool) {
        self.control.push((bytes.to_vec(), known));
    }
    fn event(&mut self, event: WorkerEvent) {
        self.events.push(event);
    }
    fn report(&mut self, report: PeerReport) {
        self.reports.push(report);
    }
}

/// A pipeline with its batches.
struct End {
    pipeline: Pipeline,
    stats: Arc<WorkerStats>,
    out: WireBatch,
    tun: TunBatch,
    heard: Heard,
}

impl End {
    fn new(setup: PeerSetup) -> Self {
        let mut end = End::without_key(setup, RouteTable::all_to(0));
        end.install(key(0, 0));
        end.heard.events.clear();
        end
    }

    fn without_key(setup: PeerSetup, routes: RouteTable) -> Self {
        let stats = Arc::new(WorkerStats::default());
        let mut pipeline = Pipeline::new(stats.clone(), PipelineConfig { routes, ..PipelineConfig::default() });
        pipeline.add_peer(0, setup);
        let out = WireBatch::new(256 * 1024, 64, true);
        End { pipeline, stats, out, tun: TunBatch::new(ALL), heard: Heard::default() }
    }

    fn install(&mut self, key: InstallKey) {
        self.pipeline.install_key(0, key, &mut self.heard);
    }

    /// Sends a TUN read; the datagrams that leave, run by run.
    fn send(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
        self.out.clear();
        assert_eq!(self.pipeline.outbound(1, &mut frame.to_vec(), &mut self.out), Ok(()));
        self.datagrams()
    }

    fn datagrams(&self) -> Vec<Vec<u8>> {
        let runs = self.out.runs().iter();
        runs.flat_map(|run| self.out.bytes()[run.start..run.start + run.len].chunks(run.segment))
            .map(<[u8]>::to_vec)
            .collect()
    }

    fn receive(&mut self, datagram: &[u8]) {
        self.receive_at(1, path(1194), datagram, datagram.len());
    }

    fn receive_at(&mut self, now_ns: u64, path: Path, bytes: &[u8], segment: usize) {
        let train = Train { bytes: &mut bytes.to_vec(), segment, path };
        self.pipeline.inbound(now_ns, train, &mut self.tun, &mut self.heard);
    }

    /// What TUN gets, without virtio headers.
    fn packets(&mut self) -> Vec<Vec<u8>> {
        let packets = self.tun.frames().map(|frame| frame[VNET_HDR_LEN..].to_vec()).collect();
        self.tun.clear();
        packets
    }

    fn tick(&mut self, now_ns: u64) -> u64 {
        self.out.clear();
        self.pipeline.tick(now_ns, &mut self.out, &mut self.heard)
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        let snapshot = self.stats.snapshot();
        assert_eq!(snapshot.dropped_total(), snapshot.dropped(reason), "nothing else was dropped");
        snapshot.dropped(reason)
    }
}

/// Both ends with the same keys.
fn pair() -> (End, End) {
    (End::new(setup()), End::new(setup()))
}

fn with_cipher(cipher: Cipher, wire_peer_id: Option<u32>) -> InstallKey {
    let direction = DirectionKey { key: Secret(vec![9; cipher.key_len()]), implicit_iv: Secret(vec![3; 8]) };
    InstallKey { cipher, seal: direction.clone(), open: direction, wire_peer_id, ..key(0, 0) }
}

#[test]
fn a_packet_crosses_with_every_cipher_and_both_headers() {
    let ciphers = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    for cipher in ciphers.into_iter().filter(|&cipher| crate::datachannel::aead::supports(cipher)) {
        for (wire_peer_id, overhead) in [(Some(5), 24), (None, 21)] {
            let mut ends = [0, 1].map(|_| End::without_key(setup(), RouteTable::all_to(0)));
            for end in &mut ends {
                end.install(with_cipher(cipher, wire_peer_id));
            }
            let packet = Packet::default();
            let wire = ends[0].send(&packet.frame());
            assert_eq!((wire.len(), wire[0].len()), (1, packet.bytes().len() + overhead));
            ends[1].receive(&wire[0]);
            assert_eq!(ends[1].packets(), [packet.bytes()]);
        }
    }
}

#[test]
fn a_super_packet_crosses_as_one_run_and_one_frame() {
    let (mut a, mut b) = pair();
    for packet in [Packet::with_payload(60_000), Packet { v6: true, ..Packet::with_payload(60_000) }] {
        let wire = a.send(&packet.super_frame(1400));
        assert_eq!(wire.len(), 43);
        assert_eq!(a.out.runs().len(), 1);
        let run = a.out.runs()[0];
        assert_eq!((run.path, run.count, run.segment), (path(1194), 43, packet.headers() + 1400 + 24));
        let bytes = a.out.bytes().to_vec();
        b.receive_at(1, path(1194), &bytes, run.segment);
        assert_eq!(b.packets(), [packet.partial_bytes()]);
    }
    let (sent, received) = (a.stats.snapshot().outbound, b.stats.snapshot().inbound);
    assert_eq!((sent.batches, sent.inner_packets, sent.wire_packets), (2, 86, 86));
    assert_eq!(sent.wire_bytes, sent.inner_bytes + 86 * 24);
    assert_eq!((received.batches, received.inner_packets, received.inner_bytes), (2, 86, sent.inner_bytes));
    assert_eq!(received.wire_bytes, sent.wire_bytes);
}

#[test]
fn the_mss_is_clamped_in_both_directions() {
    let limits = MssLimits { v4: 1400, v6: 1380 };
    let clamping = PeerSetup { mssfix: Some(limits), ..setup() };
    let syn = Packet { flags: SYN, options: vec![2, 4, 0x05, 0xb4], ..Packet::with_payload(0) };
    let clamped = Packet { options: vec![2, 4, 0x05, 0x78], ..syn.clone() };
    let partial = [&syn.checksum_header().to_bytes()[..], &syn.partial_bytes()].concat();
    for (sender, receiver, frame) in [
        (clamping.clone(), setup(), syn.frame()),
        (setup(), clamping.clone(), syn.frame()),
        (clamping.clone(), setup(), partial.clone()),
        (clamping.clone(), clamping, partial),
    ] {
        let (mut a, mut b) = (End::new(sender), End::new(receiver));
        let wire = a.send(&frame).remove(0);
        b.receive(&wire);
        assert_eq!(b.packets(), [clamped.bytes()]);
    }
    let (mut a, mut b) = pair();
    let wire = a.send(&syn.frame()).remove(0);
    b.receive(&wire);
    assert_eq!(b.packets(), [syn.bytes()], "off");
}
