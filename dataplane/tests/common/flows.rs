//! Generated flows for the tests of split and coalesce, and what must not change when packets are joined and split again.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::split;
use dataplane::tun::virtio::{VNET_HDR_LEN, VnetHeader};
use dataplane::tun::{ip, virtio};
use proptest::prelude::*;

#[allow(dead_code)]
#[path = "../../src/tun/test_packets.rs"]
mod test_packets;

pub use test_packets::{ACK, CWR, FIN, PSH, Packet, plain_sum};

pub const ECE: u8 = 0x40;
pub const ALL: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };

/// Frames as a TUN has them: what the virtio header says, and the packet.
pub type Frame = (VnetHeader, Vec<u8>);

/// Any packet that a kernel would hand over as a super-packet, and a segment size for it.
pub fn super_packet() -> impl Strategy<Value = (Packet, usize)> {
    let shape = (any::<bool>(), any::<bool>(), 1usize..20_000, any::<u8>(), 2u8..=255);
    let numbers = (any::<u32>(), any::<u32>(), any::<u16>(), any::<u16>(), any::<bool>());
    let options = (0usize..=10, 0usize..=10, 0usize..=6);
    // ECN (CE, CWR, ECE), PSH and FIN in every combination.
    (shape, numbers, options, 0u8..16, 1usize..3000).prop_map(|(shape, numbers, options, bits, size)| {
        let (v6, udp, len, tos, ttl) = shape;
        let (seq, ack, id, window, dont_fragment) = numbers;
        let flags = [FIN, PSH, ECE, CWR]
            .iter()
            .enumerate()
            .fold(ACK, |flags, (bit, flag)| if bits >> bit & 1 == 1 { flags | flag } else { flags });
        let flags = if udp { ACK } else { flags };
        let packet = Packet {
            v6,
            udp,
            tos,
            ttl,
            seq,
            ack,
            id,
            window,
            dont_fragment,
            flags,
            ip_options: vec![1; options.0 * 4],
            options: vec![1; options.1 * 4],
            extension: options.2,
            ..Packet::with_payload(len)
        };
        // A kernel makes at most so many segments of a datagram.
        let size = if udp { size.max(len.div_ceil(64)) } else { size };
        (packet, size)
    })
}

/// A step of several interleaved flows.
#[derive(Clone, Debug)]
pub struct Step {
    flow: usize,
    len: usize,
    pub oddity: Oddity,
}

/// What is odd about a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Oddity {
    None,
    Push,
    Fin,
    CongestionExperienced,
    Cwr,
    Ttl,
    /// IPv4 options or an IPv6 extension header.
    IpOptions,
    TcpOptions,
    Window,
    Ack,
    Lost,
    Repeated,
    /// A payload byte is not what the checksum says.
    Broken,
    /// UDP's checksum is 0.
    NoChecksum,
    Fragment,
    /// The transport header contradicts itself.
    Malformed,
    OtherId,
}

pub fn steps() -> impl Strategy<Value = Vec<Step>> {
    use Oddity::*;
    let odd = prop::sample::select(vec![
        Push,
        Fin,
        CongestionExperienced,
        Cwr,
        Ttl,
        IpOptions,
        TcpOptions,
        Window,
        Ack,
        Lost,
        Repeated,
        Broken,
        NoChecksum,
        Fragment,
        Malformed,
        OtherId,
    ]);
    let oddity = prop_oneof![5 => Just(None), 1 => odd];
    let len = prop_oneof![4 => Just(500usize), 1 => 0usize..700, 1 => 0usize..9];
    let step = (0usize..12, len, oddity).prop_map(|(flow, len, oddity)| Step { flow, len, oddity });
    // Flows come in bursts, as from a link with GRO.
    let burst = (step, 1usize..8).prop_map(|(step, times)| vec![step; times]);
    prop::collection::vec(burst, 1..40).prop_map(|bursts| bursts.concat())
}

/// The packets of the steps, each with the number of its flow.
pub fn packets(steps: &[Step]) -> Vec<(usize, Vec<u8>)> {
    let mut flows: Vec<Packet> = (0..12u8)
        .map(|flow| Packet {
            host: flow / 3 + 2,
            source_port: 1000 + u16::from(flow),
            v6: flow % 2 == 0,
            udp: flow % 3 == 0,
            dont_fragment: flow % 4 < 2,
            ..Packet::default()
        })
        .collect();
    steps.iter().map(|step| (step.flow, packet(&mut flows[step.flow], step))).collect()
}

fn packet(stream: &mut Packet, step: &Step) -> Vec<u8> {
    let fill = stream.seq as usize;
    let payload = (0..step.len).map(|at| ((fill + at) * 7 % 251) as u8).collect();
    let mut packet = Packet { payload, ..stream.clone() };
    match step.oddity {
        Oddity::Push => packet.flags |= PSH,
        Oddity::Fin => packet.flags |= FIN,
        Oddity::CongestionExperienced => packet.tos = 3,
        Oddity::Cwr => packet.flags |= CWR,
        Oddity::Ttl => packet.ttl = 9,
        Oddity::IpOptions => (packet.ip_options, packet.extension) = (vec![1; 8], 1),
        Oddity::TcpOptions => packet.options = vec![1; 12],
        Oddity::Window => packet.window += 1,
        Oddity::Ack => packet.ack += 1,
        Oddity::Lost => packet.seq = packet.seq.wrapping_add(step.len as u32),
        Oddity::OtherId => packet.id = packet.id.wrapping_add(1000),
        _ => {}
    }
    let next = match step.oddity {
        Oddity::Repeated => packet.seq,
        _ => packet.seq.wrapping_add(step.len as u32),
    };
    let mut bytes = packet.bytes();
    spoil(&packet, step.oddity, &mut bytes);
    (stream.seq, stream.id) = (next, stream.id.wrapping_add(1));
    bytes
}

fn spoil(packet: &Packet, oddity: Oddity, bytes: &mut [u8]) {
    let last = bytes.len() - 1;
    match oddity {
        Oddity::Broken => bytes[last] ^= 0x40,
        Oddity::NoChecksum if packet.udp && !packet.v6 => bytes[packet.checksum_at()..][..2].fill(0),
        Oddity::Fragment if !packet.v6 => {
            (bytes[6], bytes[7]) = (0x20, 0);
            rewrite_v4_checksum(bytes);
        }
        Oddity::Malformed if packet.udp => bytes[packet.l4() + 4] ^= 0x80,
        Oddity::Malformed => bytes[packet.l4() + 12] = 0xf0,
        _ => {}
    }
}

pub fn rewrite_v4_checksum(bytes: &mut [u8]) {
    let l4 = usize::from(bytes[0] & 15) * 4;
    bytes[10..12].fill(0);
    let checksum = !plain_sum(&[&bytes[..l4]]);
    bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
}

/// Our split of a frame.
pub fn split(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    let mut frame = [&header.to_bytes()[..], packet].concat();
    let plan = split::plan(&frame).unwrap_or_else(|reason| panic!("{reason:?}: {header:?}"));
    let mut segments = plan.segments(&mut frame);
    let mut packets = Vec::new();
    while let Some(packet) = segments.next() {
        packets.push(packet.to_vec());
    }
    packets
}

/// Our frames for these packets.
pub fn coalesce<'a>(packets: impl IntoIterator<Item = &'a Vec<u8>>) -> Vec<Frame> {
    let mut batch = TunBatch::new(ALL);
    let mut frames = Vec::new();
    for packet in packets {
        if batch.wants_flush() {
            take(&mut batch, &mut frames);
        }
        batch.land(packet.len()).unwrap().copy_from_slice(packet);
        assert!(batch.accept(&ip::parse(packet).unwrap()));
    }
    take(&mut batch, &mut frames);
    frames
}

fn take(batch: &mut TunBatch, frames: &mut Vec<Frame>) {
    for frame in batch.frames() {
        frames.push((VnetHeader::parse(frame).unwrap(), frame[VNET_HDR_LEN..].to_vec()));
    }
    batch.clear();
}

/// The flow of a packet of [`packets`]: in every oddity the destination and, unless it was a header that moved, the source port tell.
pub fn flow_of(packet: &[u8]) -> (u8, u16) {
    let (host, l4) = match packet[0] >> 4 {
        4 => (packet[19], usize::from(packet[0] & 15) * 4),
        _ if packet[6] == 60 => (packet[39], 48 + usize::from(packet[41]) * 8),
        _ => (packet[39], 40),
    };
    (host, u16::from_be_bytes([packet[l4], packet[l4 + 1]]))
}

/// The packets flow by flow, in their order, as far as joining must keep them: the id of an IPv4 packet that is never
/// fragmented carries no meaning (RFC 6864 §4.1), and a super-packet has only its first one.
pub fn by_flow(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let mut flows = vec![Vec::new(); 12];
    for mut packet in packets {
        let (_, port) = flow_of(&packet);
        if packet[0] >> 4 == 4 && packet[6] == 0x40 {
            packet[4..6].fill(0);
            rewrite_v4_checksum(&mut packet);
        }
        flows[usize::from(port) - 1000].push(packet);
    }
    flows
}
