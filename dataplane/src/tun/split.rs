//! One TUN read → the packets that it stands for.
//!
//! A super-packet becomes segments as the kernel's own segmentation would make them: IPv4 gets its total length, id + i and
//! header checksum, IPv6 its payload length; TCP its sequence number, FIN and PSH in the last only, CWR in the first only; UDP its
//! length; and each its checksum: like the kernel, from the pseudo-header's sum that the frame brings, which knows the final
//! destination where an IPv6 routing header names another one. Each segment is built where its payload already lies: the headers are written over the end of the segment
//! before it, which must be used up by then. So no payload is copied here.

use super::checksum::Sum;
use super::ip::{self, IpInfo};
use super::virtio::{F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader};
use crate::datachannel::usage::Usage;
use crate::drop_reason::DropReason;

/// The longest headers of a super-packet, IP and transport together, in bytes. IPv4 and TCP with all options have 120.
pub const MAX_HEADERS: usize = 192;

const TCP_CWR: u8 = 0x80;
const TCP_PSH: u8 = 0x08;
const TCP_FIN: u8 = 0x01;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// What one TUN read becomes. Everything in it was checked against the frame's length.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// What the IP header says.
    pub ip: IpInfo,
    work: Work,
    /// Where the transport header starts.
    l4: usize,
    /// Bytes of all headers; of the whole packet when it is not a super-packet.
    headers: usize,
    /// Payload bytes of each segment but the last.
    size: usize,
    /// Bytes of the packet.
    len: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// One packet, complete.
    None,
    /// One packet whose checksum at this offset, over everything from `l4` on, is to be completed.
    Checksum(usize),
    /// A TCP super-packet.
    Tcp,
    /// A UDP super-packet.
    Udp,
}

/// Reads a frame (virtio header and packet) without changing it.
///
/// # Errors
/// [`DropReason::NotIp`], [`DropReason::BadOffload`].
#[inline]
pub fn plan(frame: &[u8]) -> Result<Plan, DropReason> {
    let header = VnetHeader::parse(frame).ok_or(DropReason::BadOffload)?;
    let packet = &frame[VNET_HDR_LEN..];
    let ip = ip::parse(packet).ok_or(DropReason::NotIp)?;
    const TCPV4_ECN: u8 = GSO_TCPV4 | GSO_ECN;
    const TCPV6_ECN: u8 = GSO_TCPV6 | GSO_ECN;
    match header.gso_type {
        GSO_NONE => plan_one(&header, packet, ip),
        GSO_TCPV4 | TCPV4_ECN if !ip.v6 => plan_super(&header, packet, ip, Work::Tcp),
        GSO_TCPV6 | TCPV6_ECN if ip.v6 => plan_super(&header, packet, ip, Work::Tcp),
        GSO_UDP_L4 => plan_super(&header, packet, ip, Work::Udp),
        _ => Err(DropReason::BadOffload),
    }
}

#[inline]
fn plan_one(header: &VnetHeader, packet: &[u8], ip: IpInfo) -> Result<Plan, DropReason> {
    let len = ip.total;
    let mut plan = Plan { ip, work: Work::None, l4: ip.l4, headers: len, size: 0, len, count: 1 };
    if header.flags & F_NEEDS_CSUM != 0 {
        plan.l4 = usize::from(header.csum_start);
        let at = plan.l4 + usize::from(header.csum_offset);
        if plan.l4 < ip.l4 || at + 2 > len || len > packet.len() {
            return Err(DropReason::BadOffload);
        }
        plan.work = Work::Checksum(at);
    }
    Ok(plan)
}

fn plan_super(header: &VnetHeader, packet: &[u8], ip: IpInfo, work: Work) -> Result<Plan, DropReason> {
    let protocol = if work == Work::Tcp { ip::TCP } else { ip::UDP };
    let l4 = usize::from(header.csum_start);
    let placed = if ip.protocol == protocol { l4 == ip.l4 } else { ip.v6 && leads_to(packet, &ip, l4, protocol) };
    if header.flags & F_NEEDS_CSUM == 0 || ip.fragment || !placed {
        return Err(DropReason::BadOffload);
    }
    let packet = &packet[..ip.total];
    let headers = l4 + transport_header_len(packet, l4, work).ok_or(DropReason::BadOffload)?;
    let size = usize::from(header.gso_size);
    if size == 0 || headers > MAX_HEADERS || headers >= ip.total {
        return Err(DropReason::BadOffload);
    }
    let count = (ip.total - headers).div_ceil(size);
    Ok(Plan { ip, work, l4, headers, size, len: ip.total, count })
}

/// The IPv6 extension headers that a kernel segments behind (RFC 8200 §4: hop-by-hop, routing, destination options) end at `l4`, and there
/// stands this protocol.
fn leads_to(packet: &[u8], ip: &IpInfo, l4: usize, protocol: u8) -> bool {
    const EXTENSIONS: [u8; 3] = [0, 43, 60];
    let (mut at, mut next) = (ip.l4, ip.protocol);
    while at < l4 && EXTENSIONS.contains(&next) {
        // The length is in units of 8 bytes, without the first.
        let Some(&[following, units]) = packet.get(at..at + 2) else {
            return false;
        };
        (at, next) = (at + 8 * (usize::from(units) + 1), following);
    }
    at == l4 && next == protocol
}

fn transport_header_len(packet: &[u8], l4: usize, work: Work) -> Option<usize> {
    let header = packet.get(l4..)?;
    match work {
        Work::Tcp => {
            let len = usize::from(*header.get(12)? >> 4) * 4;
            (len >= 20 && len <= header.len()).then_some(len)
        }
        _ => (header.len() >= 8).then_some(8),
    }
}

impl Plan {
    /// How many packets; at least 1.
    #[inline]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Bytes of the first packet, which is the longest.
    #[inline]
    pub fn longest(&self) -> usize {
        self.len.min(self.headers + self.size)
    }

    /// Bytes of the last packet.
    #[inline]
    fn last(&self) -> usize {
        self.len - (self.count - 1) * self.size
    }

    /// All packets together.
    #[inline]
    pub fn usage(&self) -> Usage {
        Usage::packets(self.count - 1, self.longest(), self.last())
    }

    /// The checksum of the transport header holds only the pseudo-header's sum.
    #[inline]
    pub fn checksum_is_partial(&self) -> bool {
        self.work != Work::None
    }

    /// The packets of the frame that was planned. The frame's contents are used up.
    #[inline]
    pub fn segments(self, frame: &mut [u8]) -> Segments<'_> {
        let packet = frame.get_mut(VNET_HDR_LEN..VNET_HDR_LEN + self.len).unwrap_or_default();
        let template = match self.work {
            Work::Tcp | Work::Udp => Template::of(packet, &self),
            Work::None | Work::Checksum(_) => None,
        };
        Segments { packet, plan: self, template, next: 0 }
    }
}

/// The headers of a super-packet, and the sums of what is the same in all segments.
#[derive(Debug)]
struct Template {
    /// Checksums are 0, and so are the lengths and the id of IPv4 and the length of UDP.
    headers: [u8; MAX_HEADERS],
    /// The IPv4 id of the first segment.
    id: u16,
    /// The TCP sequence number of the first segment.
    sequence: u32,
    /// The TCP flags of the super-packet.
    flags: u8,
    /// The IPv4 header without length and id.
    ip: Sum,
    /// The pseudo-header without the length.
    pseudo: Sum,
}

impl Template {
    #[inline]
    fn of(packet: &[u8], plan: &Plan) -> Option<Template> {
        let mut template = Template {
            headers: [0; MAX_HEADERS],
            id: 0,
            sequence: 0,
            flags: 0,
            ip: Sum::default(),
            pseudo: Sum::default(),
        };
        template.headers.get_mut(..plan.headers)?.copy_from_slice(packet.get(..plan.headers)?);
        template.take_ip(&plan.ip)?;
        template.take_transport(plan)?;
        Some(template)
    }

    #[inline]
    fn take_ip(&mut self, ip: &IpInfo) -> Option<()> {
        if ip.v6 {
            return Some(());
        }
        let header = self.headers.get_mut(..ip.l4)?;
        let fixed: &mut [u8; ip::V4_HEADER] = header.first_chunk_mut()?;
        self.id = u16::from_be_bytes([fixed[4], fixed[5]]);
        fixed[2..6].fill(0);
        fixed[10..12].fill(0);
        self.ip = Sum::default().bytes(header);
        Some(())
    }

    #[inline]
    fn take_transport(&mut self, plan: &Plan) -> Option<()> {
        let transport = self.headers.get_mut(plan.l4..)?;
        let at = if plan.work == Work::Tcp {
            let header: &mut [u8; 20] = transport.first_chunk_mut()?;
            self.sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
            self.flags = header[13];
            TCP_CHECKSUM
        } else {
            UDP_CHECKSUM
        };
        let partial = transport.get_mut(at..at + 2)?;
        // The length in the pseudo-header is that of the super-packet. It fits: no IP header says more.
        self.pseudo = Sum::default().bytes(partial).without((plan.len - plan.l4) as u16);
        partial.fill(0);
        Some(())
    }

    #[inline]
    fn write_ip(&self, segment: &mut [u8], ip: &IpInfo, index: usize) -> Option<()> {
        let len = segment.len();
        if ip.v6 {
            let header: &mut [u8; ip::V6_HEADER] = segment.first_chunk_mut()?;
            header[4..6].copy_from_slice(&((len - ip::V6_HEADER) as u16).to_be_bytes());
            return Some(());
        }
        let header: &mut [u8; ip::V4_HEADER] = segment.first_chunk_mut()?;
        let id = self.id.wrapping_add(index as u16);
        header[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        header[4..6].copy_from_slice(&id.to_be_bytes());
        header[10..12].copy_from_slice(&self.ip.number(len as u16).number(id).checksum());
        Some(())
    }

    #[inline]
    fn write_tcp(&self, segment: &mut [u8], plan: &Plan, index: usize) -> Option<()> {
        let transport = segment.get_mut(plan.l4..)?;
        let header: &mut [u8; 20] = transport.first_chunk_mut()?;
        let sequence = self.sequence.wrapping_add((index * plan.size) as u32);
        header[4..8].copy_from_slice(&sequence.to_be_bytes());
        let not_first = if index > 0 { TCP_CWR } else { 0 };
        let not_last = if index + 1 < plan.count { TCP_FIN | TCP_PSH } else { 0 };
        header[13] = self.flags & !(not_first | not_last);
        let checksum = self.pseudo.number(transport.len() as u16).bytes(transport).checksum();
        transport.get_mut(TCP_CHECKSUM..TCP_CHECKSUM + 2)?.copy_from_slice(&checksum);
        Some(())
    }

    #[inline]
    fn write_udp(&self, segment: &mut [u8], plan: &Plan) -> Option<()> {
        let transport = segment.get_mut(plan.l4..)?;
        let len = transport.len() as u16;
        transport.get_mut(4..6)?.copy_from_slice(&len.to_be_bytes());
        let checksum = never_zero(self.pseudo.number(len).bytes(transport).checksum());
        transport.get_mut(UDP_CHECKSUM..UDP_CHECKSUM + 2)?.copy_from_slice(&checksum);
        Some(())
    }
}

/// The packets of one frame, one after the other.
#[derive(Debug)]
pub struct Segments<'a> {
    packet: &'a mut [u8],
    plan: Plan,
    /// Of a super-packet.
    template: Option<Template>,
    next: usize,
}

impl Segments<'_> {
    /// The next packet, complete with its checksums. It overwrites parts of the one before it.
    // Each packet borrows from the frame that the next one changes: no iterator can say that.
    #[allow(clippy::should_implement_trait)]
    #[inline]
    pub fn next(&mut self) -> Option<&mut [u8]> {
        let index = self.next;
        if index >= self.plan.count {
            return None;
        }
        self.next += 1;
        match self.plan.work {
            Work::None => Some(self.packet),
            Work::Checksum(at) => {
                complete_checksum(self.packet, self.plan.l4, at);
                Some(self.packet)
            }
            Work::Tcp | Work::Udp => self.segment(index),
        }
    }

    #[inline]
    fn segment(&mut self, index: usize) -> Option<&mut [u8]> {
        let (plan, template) = (&self.plan, self.template.as_ref()?);
        let start = index * plan.size;
        let end = plan.len.min(start + plan.headers + plan.size);
        let segment = self.packet.get_mut(start..end)?;
        segment.get_mut(..plan.headers)?.copy_from_slice(template.headers.get(..plan.headers)?);
        template.write_ip(segment, &plan.ip, index)?;
        match plan.work {
            Work::Tcp => template.write_tcp(segment, plan, index)?,
            _ => template.write_udp(segment, plan)?,
        }
        Some(segment)
    }
}

/// The pseudo-header's sum is in the field already.
fn complete_checksum(packet: &mut [u8], l4: usize, at: usize) {
    let Some(covered) = packet.get(l4..) else {
        return;
    };
    let checksum = never_zero(Sum::default().bytes(covered).checksum());
    if let Some(field) = packet.get_mut(at..at + 2) {
        field.copy_from_slice(&checksum);
    }
}

/// In UDP 0 stands for "none", so it becomes its other form (RFC 768). The same number elsewhere, and the kernel does it everywhere:
/// behind IPv6 extension headers the IP header does not tell that it is UDP.
fn never_zero(checksum: [u8; 2]) -> [u8; 2] {
    if checksum == [0, 0] { [0xff, 0xff] } else { checksum }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::test_packets::{ACK, CWR, FIN, PSH, Packet};
    use proptest::prelude::*;

    fn split(frame: &[u8]) -> Result<Vec<Vec<u8>>, DropReason> {
        let mut frame = frame.to_vec();
        let plan = plan(&frame)?;
        let usage = plan.usage();
        let mut segments = plan.segments(&mut frame);
        let mut packets = Vec::new();
        while let Some(packet) = segments.next() {
            packets.push(packet.to_vec());
        }
        assert_eq!(usage.packets, packets.len() as u64);
        assert_eq!(usage.bytes, packets.iter().map(Vec::len).sum::<usize>() as u64);
        assert_eq!(usage.aead, packets.iter().map(|packet| packet.len().div_ceil(16) as u64 + 1).sum::<u64>());
        assert_eq!(plan.longest(), packets.iter().map(Vec::len).max().unwrap());
        Ok(packets)
    }

    fn kinds() -> impl Iterator<Item = Packet> {
        [(false, false), (false, true), (true, false), (true, true)].into_iter().map(|(v6, udp)| Packet {
            v6,
            udp,
            ..Packet::with_payload(5000)
        })
    }

    #[test]
    fn super_packets_of_every_kind_become_what_a_card_makes_of_them() {
        // Miri takes its time with thousands of segments.
        let sizes = [1, 7, 100, 1400, 2500, 4999, 5000, 60_000];
        let sizes = if cfg!(miri) { &sizes[2..] } else { &sizes[..] };
        for packet in kinds() {
            for &size in sizes {
                assert_eq!(split(&packet.super_frame(size)).unwrap(), packet.segments(size), "{size}");
            }
        }
    }

    #[test]
    fn flags_stand_where_they_belong() {
        let packet = Packet { flags: ACK | PSH | FIN | CWR, ..Packet::with_payload(300) };
        let segments = split(&packet.super_frame(100)).unwrap();
        let flags: Vec<u8> = segments.iter().map(|segment| segment[33]).collect();
        assert_eq!(flags, [ACK | CWR, ACK, ACK | PSH | FIN]);
        assert_eq!(segments, packet.segments(100));
    }

    #[test]
    fn options_and_wrapping_numbers_survive() {
        let packet = Packet {
            ip_options: vec![1; 8],
            options: vec![1; 12],
            id: 0xffff,
            seq: 0xffff_ffff - 50,
            ..Packet::with_payload(1000)
        };
        assert_eq!(split(&packet.super_frame(300)).unwrap(), packet.segments(300));
    }

    #[test]
    fn behind_extension_headers_the_kernel_says_where_the_transport_starts() {
        // A hop-by-hop header of 8 bytes with padding, before UDP.
        let plain = Packet { v6: true, udp: true, ..Packet::with_payload(250) };
        let extend = |mut bytes: Vec<u8>| {
            let len = u16::from_be_bytes([bytes[4], bytes[5]]) + 8;
            bytes[4..6].copy_from_slice(&len.to_be_bytes());
            bytes[6] = 0;
            bytes.splice(40..40, [17, 0, 1, 4, 0, 0, 0, 0]);
            bytes
        };
        let header = VnetHeader { csum_start: 48, hdr_len: 56, ..plain.super_header(100) };
        let frame = [&header.to_bytes()[..], &extend(plain.partial_bytes())].concat();
        let expected: Vec<Vec<u8>> = plain.segments(100).into_iter().map(extend).collect();
        assert_eq!(split(&frame).unwrap(), expected);
    }

    #[test]
    fn one_packet_stays_as_it_is() {
        for packet in kinds() {
            assert_eq!(split(&packet.frame()).unwrap(), [packet.bytes()]);
        }
    }

    #[test]
    fn a_checksum_left_to_us_is_completed() {
        for packet in kinds() {
            let frame = [&packet.checksum_header().to_bytes()[..], &packet.partial_bytes()].concat();
            assert_eq!(split(&frame).unwrap(), [packet.bytes()]);
        }
    }

    #[test]
    fn a_udp_checksum_of_zero_becomes_its_other_form() {
        // The last two bytes of the payload bring the sum to 0xffff, so that the checksum is 0.
        let mut packet = Packet { udp: true, payload: vec![0; 10], ..Packet::default() };
        let bytes = packet.bytes();
        let checksum = [bytes[packet.checksum_at()], bytes[packet.checksum_at() + 1]];
        packet.payload[8..].copy_from_slice(&checksum);
        assert_eq!(packet.bytes()[26..28], [0xff, 0xff]);
        let frame = [&packet.checksum_header().to_bytes()[..], &packet.partial_bytes()].concat();
        assert_eq!(split(&frame).unwrap(), [packet.bytes()]);
        assert_eq!(split(&packet.super_frame(10)).unwrap(), [packet.bytes()]);
    }

    #[test]
    fn a_checksum_that_comes_out_as_zero_is_written_in_its_other_form_behind_extension_headers_too() {
        for extension in [0, 2] {
            let mut packet = Packet { v6: true, udp: true, extension, payload: vec![0, 0], ..Packet::default() };
            let at = packet.checksum_at();
            packet.payload = packet.bytes()[at..at + 2].to_vec();
            let frame = [&packet.checksum_header().to_bytes()[..], &packet.partial_bytes()].concat();
            let segments = split(&frame).unwrap();
            assert_eq!(segments[0][at..at + 2], [0xff, 0xff]);
            assert_eq!(segments, [packet.bytes()]);
        }
    }

    /// An IPv6 routing header: the pseudo-header has the final destination, the IPv6 header the next stop (RFC 8200 §8.1).
    #[test]
    fn the_pseudo_headers_sum_is_the_kernels_not_that_of_the_addresses() {
        for udp in [false, true] {
            let end = Packet { v6: true, udp, extension: 3, ..Packet::with_payload(300) };
            let mut frame = end.super_frame(100);
            frame[VNET_HDR_LEN + 39] = 99;
            let expected = end.segments(100).into_iter().map(|mut segment| {
                segment[39] = 99;
                segment
            });
            assert_eq!(split(&frame).unwrap(), expected.collect::<Vec<_>>());
        }
    }

    #[test]
    fn extension_headers_that_do_not_lead_to_the_transport_header_are_refused() {
        for udp in [false, true] {
            let packet = Packet { v6: true, udp, extension: 2, ..Packet::with_payload(300) };
            let good = packet.super_frame(100);
            assert!(plan(&good).is_ok());
            // The kind of the first one, what it says follows, its length, and where the virtio header looks.
            for (at, value) in [(10 + 6, 44), (10 + 6, 59), (10 + 40, 50), (10 + 41, 0), (10 + 41, 2), (6, 40), (6, 64)]
            {
                let mut bad = good.clone();
                bad[at] = value;
                assert_eq!(plan(&bad).unwrap_err(), DropReason::BadOffload, "{at} {value}");
            }
        }
    }

    #[test]
    fn udp_has_no_ecn_flag() {
        let packet = Packet { udp: true, ..Packet::with_payload(300) };
        let mut frame = packet.super_frame(100);
        assert!(plan(&frame).is_ok());
        frame[1] |= GSO_ECN;
        assert_eq!(plan(&frame).unwrap_err(), DropReason::BadOffload);
    }

    #[test]
    fn headers_that_contradict_the_packet_are_refused() {
        let packet = Packet::with_payload(500);
        let good = packet.super_header(100);
        let frame = |header: VnetHeader| [&header.to_bytes()[..], &packet.partial_bytes()].concat();
        assert!(plan(&frame(good)).is_ok());
        for (what, bad) in [
            ("no checksum", VnetHeader { flags: 0, ..good }),
            ("size 0", VnetHeader { gso_size: 0, ..good }),
            ("checksum starts elsewhere", VnetHeader { csum_start: 24, ..good }),
            ("the other family", VnetHeader { gso_type: GSO_TCPV6, ..good }),
            ("the other protocol", VnetHeader { gso_type: GSO_UDP_L4, ..good }),
            ("ECN without TCP", VnetHeader { gso_type: GSO_NONE | GSO_ECN, ..good }),
            ("UFO", VnetHeader { gso_type: 3, ..good }),
            ("no such type", VnetHeader { gso_type: 9, ..good }),
            ("checksum behind the end", VnetHeader { gso_type: GSO_NONE, csum_offset: 60_000, ..good }),
            ("checksum inside IP", VnetHeader { gso_type: GSO_NONE, csum_start: 10, ..good }),
        ] {
            assert_eq!(plan(&frame(bad)).unwrap_err(), DropReason::BadOffload, "{what}");
        }
        let mut short_tcp = frame(good);
        short_tcp[10 + 32] = 0x40;
        assert_eq!(plan(&short_tcp).unwrap_err(), DropReason::BadOffload);
        let mut fragment = frame(good);
        fragment[10 + 6] = 0x20;
        assert_eq!(plan(&fragment).unwrap_err(), DropReason::BadOffload);
        let empty = Packet { payload: vec![], ..packet.clone() };
        assert_eq!(plan(&empty.super_frame(100)).unwrap_err(), DropReason::BadOffload);
    }

    #[test]
    fn what_is_no_ip_packet_is_refused() {
        assert_eq!(plan(&[0; 5]).unwrap_err(), DropReason::BadOffload);
        assert_eq!(plan(&[0; 10]).unwrap_err(), DropReason::NotIp);
        assert_eq!(plan(&[0; 50]).unwrap_err(), DropReason::NotIp);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 256 }))]

        #[test]
        fn any_super_packet_becomes_what_a_card_makes_of_it(
            v6: bool, udp: bool, len in 1usize..20_000, size in 1usize..3000, seq: u32, id: u16, tos: u8,
            options in 0usize..=10, ip_options in 0usize..=10, flags in prop::sample::select(vec![ACK, ACK | PSH, ACK | FIN]),
        ) {
            let packet = Packet {
                v6, udp, seq, id, tos, flags,
                options: vec![1; options * 4],
                ip_options: vec![1; ip_options * 4],
                ..Packet::with_payload(len)
            };
            prop_assert_eq!(split(&packet.super_frame(size)).unwrap(), packet.segments(size));
        }

        #[test]
        fn no_frame_makes_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..400), version in prop::sample::select(vec![4u8, 6]),
            gso in prop::sample::select(vec![0u8, 1, 4, 5, 0x81]), consistent: bool) {
            if let Some(first) = bytes.get_mut(10) { *first = version << 4 | 5; }
            if let Some(kind) = bytes.get_mut(1) { *kind = gso; }
            let len = bytes.len();
            if consistent && len > 50 {
                bytes[0] = 1;
                bytes[6..8].copy_from_slice(&(if version == 4 { 20u16 } else { 40 }).to_ne_bytes());
                bytes[12..14].copy_from_slice(&((len - 10) as u16).to_be_bytes());
                if version == 6 { bytes[14..16].copy_from_slice(&((len - 50) as u16).to_be_bytes()); }
                let at = if version == 4 { 19 } else { 16 };
                bytes[at] = if gso == 5 { 17 } else { 6 };
            }
            let _ = split(&bytes);
        }
    }
}
