//! Packets joined for TUN, without the rest of the pipeline. Taken apart again as a card would, the frames are the packets that went in:
//! none lost, none new, those that stand alone unchanged, and each flow in its order (a packet without ports counts as one of every
//! flow between its addresses). A super-packet says the truth about itself, and nothing is called verified that is not intact.

use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::ip::{self, TCP, UDP};
use dataplane::tun::virtio::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader,
};

use crate::flow;
use crate::input::Input;

/// More packets than this tell nothing new.
const MAX_STEPS: usize = 160;

/// Runs one input: a byte of settings, then operations.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else {
        return;
    };
    let mut joiner = Joiner::new(settings);
    for _ in 0..MAX_STEPS {
        if step(&mut joiner, &mut input).is_none() {
            break;
        }
    }
    joiner.flush();
}

fn step(joiner: &mut Joiner, input: &mut Input<'_>) -> Option<()> {
    match input.byte()? % 8 {
        0 => joiner.flush(),
        1 => joiner.abandon(usize::from(input.number()?)),
        2 => {
            // Consecutive segments of one flow, whole or with one of them broken.
            let (size, broken) = (input.number()?, input.byte()?);
            let made = flow::packet(input)?;
            let size = made.cap_segments(size);
            if made.whole && size > 0 && made.headers().is_some_and(|headers| headers < made.bytes.len()) {
                let header = VnetHeader::parse(&made.offloaded(Some(size))).unwrap_or_default();
                let header = VnetHeader { gso_type: header.gso_type & 0x7f, ..header };
                for (index, mut segment) in flow::segments(&header, &made.bytes).into_iter().take(200).enumerate() {
                    if index == usize::from(broken) {
                        let at = segment.len() - 1;
                        segment[at] ^= 0x10;
                    }
                    joiner.put(&segment);
                }
            }
        }
        _ => {
            let packet = flow::packet(input)?.bytes;
            joiner.put(&packet);
        }
    }
    Some(())
}

/// A batch, and what went in.
pub(crate) struct Joiner {
    offload: TunOffload,
    batch: TunBatch,
    sent: Vec<Vec<u8>>,
}

/// A packet that came out, and whether it stood alone.
struct Received {
    packet: Vec<u8>,
    alone: bool,
}

impl Joiner {
    pub(crate) fn new(settings: u8) -> Joiner {
        let on = |bit: u8| settings & bit == 0;
        let offload = TunOffload { csum: on(1), tso4: on(2), tso6: on(4), uso4: on(8), uso6: on(16) };
        Joiner { offload, batch: TunBatch::new(offload), sent: Vec::new() }
    }

    pub(crate) fn put(&mut self, packet: &[u8]) {
        let Some(ip) = ip::parse(packet) else {
            return;
        };
        if self.batch.wants_flush() {
            self.flush();
        }
        let before = self.batch.packets();
        let Some(room) = self.batch.land(packet.len()) else {
            panic!("a batch that wants no flush has room");
        };
        room.copy_from_slice(packet);
        assert!(self.batch.accept(&ip));
        assert_eq!(self.batch.packets(), before + 1);
        self.sent.push(packet.to_vec());
    }

    /// Lands something that is not accepted; half of them without a word.
    fn abandon(&mut self, len: usize) {
        if let Some(room) = self.batch.land(len) {
            room.fill(0xdd);
        }
        if len.is_multiple_of(2) {
            self.batch.discard();
        }
    }

    pub(crate) fn flush(&mut self) {
        let mut received = Vec::new();
        for frame in self.batch.frames() {
            take_apart(&self.offload, frame, &mut received);
        }
        self.batch.clear();
        let sent = std::mem::take(&mut self.sent);
        assert_eq!(received.len(), sent.len());
        check_order(&sent, &received);
    }
}

fn take_apart(offload: &TunOffload, frame: &[u8], received: &mut Vec<Received>) {
    let Some(header) = VnetHeader::parse(frame) else {
        panic!("a frame has a header");
    };
    let packet = &frame[VNET_HDR_LEN..];
    if header.gso_type == GSO_NONE {
        let verified = VnetHeader { flags: F_DATA_VALID, ..VnetHeader::default() };
        assert!(header == VnetHeader::default() || header == verified, "{header:?}");
        if header == verified {
            let Some(ip) = ip::parse(packet) else {
                panic!("verified, but no IP packet");
            };
            assert!(ip.protocol == TCP || ip.protocol == UDP);
            assert!(!ip.fragment && flow::is_intact(packet, ip.v6, ip.protocol, ip.l4), "verified");
        }
        received.push(Received { packet: packet.to_vec(), alone: true });
        return;
    }
    check_super(offload, &header, packet);
    for packet in flow::segments(&header, packet) {
        received.push(Received { packet, alone: false });
    }
}

fn check_super(offload: &TunOffload, header: &VnetHeader, packet: &[u8]) {
    assert!(packet.len() <= 65_535);
    let Some(ip) = ip::parse(packet) else {
        panic!("a super-packet is an IP packet");
    };
    let (gso_type, allowed, len, offset) = match (ip.protocol, ip.v6) {
        (TCP, false) => (GSO_TCPV4, offload.tso4, usize::from(packet[ip.l4 + 12] >> 4) * 4, 16),
        (TCP, true) => (GSO_TCPV6, offload.tso6, usize::from(packet[ip.l4 + 12] >> 4) * 4, 16),
        (_, false) => (GSO_UDP_L4, offload.uso4, 8, 6),
        (_, true) => (GSO_UDP_L4, offload.uso6, 8, 6),
    };
    let headers = ip.l4 + len;
    let expected = VnetHeader {
        flags: F_NEEDS_CSUM,
        gso_type,
        hdr_len: headers as u16,
        gso_size: header.gso_size,
        csum_start: ip.l4 as u16,
        csum_offset: offset as u16,
    };
    assert_eq!(*header, expected);
    assert!(offload.csum && allowed, "{offload:?}");
    assert_eq!(ip.total, packet.len());
    let count = (packet.len() - headers).div_ceil(usize::from(header.gso_size));
    assert!(count > 1 && (ip.protocol == TCP || count <= 64));
    assert!(ip.v6 || flow::fold(flow::sum(&packet[..ip.l4])) == 0xffff, "the IPv4 header's checksum");
    let at = ip.l4 + offset;
    let partial = flow::fold(flow::pseudo_sum(packet, ip.v6, ip.protocol, packet.len() - ip.l4));
    assert_eq!(packet[at..at + 2], partial.to_be_bytes());
}

/// Addresses and version; the ports when there are any.
fn key(packet: &[u8]) -> (Vec<u8>, Option<Vec<u8>>) {
    let (v6, addresses) = (packet[0] >> 4 == 6, if packet[0] >> 4 == 6 { 8..40 } else { 12..20 });
    let protocol = packet[if v6 { 6 } else { 9 }];
    let ports = flow::ports(packet).map(|ports| [&[protocol], ports].concat());
    (packet[addresses].to_vec(), ports)
}

fn check_order(sent: &[Vec<u8>], received: &[Received]) {
    let sent_keys: Vec<_> = sent.iter().map(|packet| key(packet)).collect();
    let received_keys: Vec<_> = received.iter().map(|received| key(&received.packet)).collect();
    let mut flows = sent_keys.clone();
    flows.sort();
    flows.dedup();
    for (addresses, ports) in flows {
        let belongs = |(its, its_ports): &(Vec<u8>, Option<Vec<u8>>)| {
            *its == addresses && (its_ports.is_none() || *its_ports == ports)
        };
        let went = sent.iter().zip(&sent_keys).filter(|(_, key)| belongs(key)).map(|(packet, _)| packet);
        let came = received.iter().zip(&received_keys).filter(|(_, key)| belongs(key)).map(|(received, _)| received);
        let (went, came): (Vec<_>, Vec<_>) = (went.collect(), came.collect());
        assert_eq!(went.len(), came.len(), "lost, or from nowhere");
        for (went, came) in went.iter().zip(&came) {
            let same = if came.alone { **went == came.packet } else { flow::same_packet(went, &came.packet) };
            assert!(same, "alone: {}\nsent {went:02x?}\ncame {:02x?}", came.alone, came.packet);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_of_segments_is_joined_into_one_frame() {
        let mut joiner = Joiner::new(0);
        let segments = [2, 100, 0, 200, 8, 0, 1, 0, 0x10, 0xFF, 0xE8, 3];
        assert_eq!(step(&mut joiner, &mut Input(&segments)), Some(()));
        assert_eq!((joiner.batch.packets(), joiner.batch.frames().count()), (10, 1));
        joiner.flush();
        assert!(joiner.sent.is_empty());
    }

    #[test]
    #[should_panic(expected = "sent")]
    fn a_flow_out_of_order_is_noticed() {
        let mut joiner = Joiner::new(0);
        let segments = [2, 100, 0, 200, 8, 0, 1, 0, 0x10, 0xFF, 0xE8, 3];
        step(&mut joiner, &mut Input(&segments));
        joiner.sent.swap(3, 4);
        joiner.flush();
    }
}
