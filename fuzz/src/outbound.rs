//! TUN reads, each a virtio header and a packet or super-packet, through the pipeline. Every frame becomes so many wire
//! packets as are counted, or is dropped for a reason; every wire packet opens with the key, no packet id comes twice,
//! and what is inside is an IP packet as long as it says.

use std::sync::Arc;

use dataplane::datachannel::aead::{Aead, OpeningKey};
use dataplane::datachannel::header::DataHeader;
use dataplane::networkio::gso::WireBatch;
use dataplane::pipeline::{BatchFull, Pipeline};
use dataplane::tun::ip;
use dataplane::tun::virtio::{F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader};
use dataplane::workers::stats::WorkerStats;
use link::Cipher;

use crate::inbound::{WIRE_PEER, direction, pipeline};
use crate::inner::{self, Inner};
use crate::input::Input;

/// More frames than this tell nothing new.
const MAX_STEPS: usize = 32;

/// Runs one input: a byte of settings, then frames.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else {
        return;
    };
    let stats = Arc::new(WorkerStats::default());
    let Some(opening) = OpeningKey::new(&Aead::default(), Cipher::Aes256Gcm, &direction()) else {
        unreachable!("a good key");
    };
    let mut out = WireBatch::new(0, 64, settings & 64 == 0);
    out.set_max_segment(if settings & 128 == 0 { 1_472 } else { 65_507 });
    let wire_peer = (settings & 1 == 0).then_some(WIRE_PEER);
    let pipeline = pipeline(settings, &stats);
    let mut end = End { pipeline, stats, out, opening, wire_peer, last_id: 0, sent: 0 };
    for _ in 0..MAX_STEPS {
        let Some(mut frame) = frame(&mut input) else {
            break;
        };
        end.send(&mut frame);
    }
    end.flush();
}

/// A virtio header, arbitrary or one that fits, and a packet.
fn frame(input: &mut Input<'_>) -> Option<Vec<u8>> {
    let how = input.byte()?;
    let gso_size = input.number()?;
    let header = if how & 3 == 0 { Some(input.take()?) } else { None };
    let packet = inner::packet(input)?;
    let header = header.unwrap_or_else(|| fitting(&packet, how, gso_size).to_bytes());
    let mut frame = [&header[..], &packet.bytes].concat();
    // Cut short, or with bytes behind the packet.
    match how & 0x30 {
        0x10 => frame.truncate(frame.len().saturating_sub(usize::from(how >> 6))),
        0x20 => frame.extend_from_slice(&[0; 3]),
        _ => {}
    }
    Some(frame)
}

fn fitting(packet: &Inner, how: u8, gso_size: u16) -> VnetHeader {
    let (gso_type, csum_offset) = match (packet.protocol, packet.v6) {
        (ip::UDP, _) => (GSO_UDP_L4, 6),
        (_, false) => (GSO_TCPV4, 16),
        (_, true) => (GSO_TCPV6, 16),
    };
    VnetHeader {
        flags: if how & 4 == 0 { F_NEEDS_CSUM } else { 0 },
        gso_type: if how & 8 == 0 { gso_type } else { GSO_NONE },
        hdr_len: 0,
        gso_size,
        csum_start: packet.l4 as u16,
        csum_offset,
    }
}

struct End {
    pipeline: Pipeline,
    stats: Arc<WorkerStats>,
    out: WireBatch,
    opening: OpeningKey,
    wire_peer: Option<u32>,
    last_id: u32,
    /// Wire packets that were opened.
    sent: u64,
}

impl End {
    fn send(&mut self, frame: &mut [u8]) {
        let before = frame.to_vec();
        let done = |stats: &WorkerStats| stats.outbound.wire_packets.get() + stats.snapshot().dropped_total();
        let counted = done(&self.stats);
        if self.pipeline.outbound(1, frame, &mut self.out) == Err(BatchFull) {
            assert!(frame == before, "a frame that did not fit is as it was");
            assert_eq!(done(&self.stats), counted);
            self.flush();
            assert_eq!(self.pipeline.outbound(1, frame, &mut self.out), Ok(()), "the batch was empty");
        }
        assert!(done(&self.stats) > counted, "sent or dropped");
        let waiting: u64 = self.out.runs().iter().map(|run| run.count as u64).sum();
        assert_eq!(self.sent + waiting, self.stats.outbound.wire_packets.get());
    }

    /// Opens everything in the batch.
    fn flush(&mut self) {
        let mut end = 0;
        for run in self.out.runs() {
            assert_eq!(run.start, end, "runs lie behind one another");
            end = run.start + run.len;
            let datagrams = self.out.bytes()[run.start..end].chunks(run.segment);
            assert_eq!(datagrams.len(), run.count);
            for datagram in datagrams {
                self.last_id = open(&mut self.opening, datagram, self.wire_peer, self.last_id);
                self.sent += 1;
            }
        }
        assert_eq!(end, self.out.bytes().len());
        self.out.clear();
    }
}

/// Opens one wire packet; its packet id.
fn open(key: &mut OpeningKey, datagram: &[u8], wire_peer: Option<u32>, last_id: u32) -> u32 {
    let (header, parts) = DataHeader::parse(datagram).unwrap_or_else(|reason| panic!("{reason:?}"));
    assert!(header.packet_id > last_id && header.peer_id == wire_peer, "{header:?} after {last_id}");
    let mut inner = vec![0; parts.ciphertext.len()];
    assert!(key.open(header.packet_id, &parts, &mut inner), "what we seal opens");
    assert!(ip::parse(&inner).is_some_and(|ip| ip.total <= inner.len()));
    header.packet_id
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_made_header_fits_and_splits_every_kind_of_super_packet() {
        for (shape, header) in [(0, 20), (1, 20), (2, 8), (3, 8)] {
            let bytes = [1, 100, 0, shape, 0, 1, 0x10, 0xFF, 0xE8, 3];
            let frame = frame(&mut Input(&bytes)).unwrap_or_default();
            let plan = dataplane::tun::split::plan(&frame).unwrap_or_else(|reason| panic!("{shape}: {reason:?}"));
            assert_eq!((plan.count(), plan.longest()), (10, plan.ip.l4 + header + 100));
        }
    }
}
