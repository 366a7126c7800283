//! One super-packet that grows: what may begin it, what may continue it, and the headers of the whole.

use super::TunOffload;
use crate::tun::checksum::{Sum, pseudo_header};
use crate::tun::ip::{self, IpInfo};
use crate::tun::virtio::{
    F_DATA_VALID, F_NEEDS_CSUM, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader,
};

/// The longest packet, and super-packet, in bytes.
pub(super) const MAX_PACKET: usize = 65_535;
/// The longest headers of a super-packet: IPv4 with options and TCP with options.
pub(super) const MAX_HEADERS: usize = 120;
const SLOT_LEN: usize = VNET_HDR_LEN + MAX_PACKET;
/// `UDP_MAX_SEGMENTS` of kernels before 6.9 (linux/udp.h).
pub(super) const MAX_UDP_SEGMENTS: usize = 64;

const TCP_ACK: u8 = 0x10;
const TCP_PSH: u8 = 0x08;
const TCP_CHECKSUM: usize = 16;
const UDP_CHECKSUM: usize = 6;

/// One super-packet: virtio header, headers of its first packet, payloads of all.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) buf: Box<[u8]>,
    /// Bytes in use, virtio header included.
    pub(super) end: usize,
    pub(super) open: bool,
    /// Packets in it.
    pub(super) count: usize,
    pub(super) shape: Shape,
    /// The sequence number that the next packet must have (TCP).
    pub(super) next_seq: u32,
}

/// A packet that continues a super-packet.
#[derive(Clone, Copy, Debug)]
pub(super) struct Continuation {
    pub(super) payload: usize,
    pub(super) next_seq: u32,
    pub(super) push: bool,
}

/// What a packet that may be joined looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Shape {
    pub(super) v6: bool,
    pub(super) protocol: u8,
    pub(super) l4: usize,
    /// Bytes of all headers.
    pub(super) headers: usize,
    /// Payload bytes.
    pub(super) size: usize,
}

impl Slot {
    /// An empty one; its memory is allocated once.
    pub(super) fn new() -> Self {
        Self {
            buf: vec![0; SLOT_LEN].into_boxed_slice(),
            end: 0,
            open: false,
            count: 0,
            shape: Shape::default(),
            next_seq: 0,
        }
    }

    /// A packet of `len` bytes that continues it can be opened over its end: its own headers stay clear of that.
    #[inline]
    pub(super) fn has_room_behind(&self, len: usize) -> bool {
        let headers = self.shape.headers;
        self.open && len > headers && self.end >= VNET_HDR_LEN + 2 * headers && self.end - headers + len <= SLOT_LEN
    }

    /// The headers of its first packet.
    #[inline]
    fn headers(&self) -> &[u8] {
        &self.buf[VNET_HDR_LEN..VNET_HDR_LEN + self.shape.headers]
    }

    /// Whether the packet may become its next segment. Looks at the packet's checksum last.
    #[inline]
    pub(super) fn continued_by(&self, packet: &[u8], ip: &IpInfo) -> Option<Continuation> {
        let shape = &self.shape;
        let alike = ip.v6 == shape.v6
            && ip.protocol == shape.protocol
            && ip.l4 == shape.l4
            && !ip.fragment
            && ip.total == packet.len()
            && packet.len() > shape.headers;
        let payload = packet.len().checked_sub(shape.headers)?;
        if !alike || !self.open || payload > shape.size || self.end + payload > SLOT_LEN {
            return None;
        }
        let first = self.headers();
        if !same_ip(first, packet, shape, self.count) {
            return None;
        }
        let next = match shape.protocol {
            ip::TCP => self.continued_by_tcp(first.get(shape.l4..)?, packet.get(shape.l4..shape.headers)?, payload)?,
            _ => self.continued_by_udp(first.get(shape.l4..)?, packet.get(shape.l4..shape.headers)?, payload)?,
        };
        is_intact(packet, ip).then_some(next)
    }

    #[inline]
    fn continued_by_tcp(&self, first: &[u8], header: &[u8], payload: usize) -> Option<Continuation> {
        let (a, a_options) = first.split_first_chunk::<20>()?;
        let (b, b_options) = header.split_first_chunk::<20>()?;
        let same = a[..4] == b[..4]
            && a[8..13] == b[8..13]
            && a[14..16] == b[14..16]
            && a[18..] == b[18..]
            && a_options == b_options;
        let sequence = u32::from_be_bytes([b[4], b[5], b[6], b[7]]);
        if !same || sequence != self.next_seq || b[13] & !TCP_PSH != TCP_ACK {
            return None;
        }
        let next_seq = sequence.wrapping_add(payload as u32);
        Some(Continuation { payload, next_seq, push: b[13] & TCP_PSH != 0 })
    }

    #[inline]
    fn continued_by_udp(&self, first: &[u8], header: &[u8], payload: usize) -> Option<Continuation> {
        let a: &[u8; 8] = first.first_chunk()?;
        let b: &[u8; 8] = header.first_chunk()?;
        let good = a[..4] == b[..4] && is_udp_header(b, payload);
        good.then_some(Continuation { payload, next_seq: 0, push: false })
    }

    /// The payload of the next packet stands behind its end.
    #[inline]
    pub(super) fn grow(&mut self, next: Continuation) {
        self.end += next.payload;
        self.count += 1;
        self.next_seq = next.next_seq;
        if next.push {
            self.buf[VNET_HDR_LEN + self.shape.l4 + 13] |= TCP_PSH;
        }
        let full = self.shape.protocol == ip::UDP && self.count == MAX_UDP_SEGMENTS;
        self.open = next.payload == self.shape.size && !next.push && !full;
    }

    /// The packet belongs to the same flow: what does not join may not overtake. A packet without ports (a fragment, or behind extension
    /// headers) might belong to any flow between its addresses.
    pub(super) fn is_flow_of(&self, packet: &[u8], ip: &IpInfo) -> bool {
        let first = self.headers();
        let addresses = if self.shape.v6 { first.get(8..40) } else { first.get(12..20) };
        if ip.v6 != self.shape.v6 || addresses != Some(ip.addresses(packet)) {
            return false;
        }
        match ports(packet, ip) {
            Some(ports) => {
                ip.protocol == self.shape.protocol && first.get(self.shape.l4..self.shape.l4 + 4) == Some(ports)
            }
            None => true,
        }
    }

    /// Closes it and writes the headers of the whole.
    pub(super) fn finish(&mut self) {
        self.open = false;
        if self.count == 1 {
            let header = VnetHeader { flags: F_DATA_VALID, gso_type: GSO_NONE, ..VnetHeader::default() };
            self.buf[..VNET_HDR_LEN].copy_from_slice(&header.to_bytes());
            return;
        }
        let Shape { v6, protocol, l4, headers, size } = self.shape;
        let (gso_type, csum_offset) = match (protocol, v6) {
            (ip::TCP, false) => (GSO_TCPV4, TCP_CHECKSUM),
            (ip::TCP, true) => (GSO_TCPV6, TCP_CHECKSUM),
            _ => (GSO_UDP_L4, UDP_CHECKSUM),
        };
        let header = VnetHeader {
            flags: F_NEEDS_CSUM,
            gso_type,
            hdr_len: headers as u16,
            gso_size: size as u16,
            csum_start: l4 as u16,
            csum_offset: csum_offset as u16,
        };
        let (vnet, packet) = self.buf[..self.end].split_at_mut(VNET_HDR_LEN);
        vnet.copy_from_slice(&header.to_bytes());
        write_lengths(packet, &self.shape);
        let addresses = if v6 { &packet[8..40] } else { &packet[12..20] };
        let partial = pseudo_header(addresses, protocol, packet.len() - l4).partial();
        packet[l4 + csum_offset..l4 + csum_offset + 2].copy_from_slice(&partial);
    }
}

/// The lengths of a super-packet's headers, and the IPv4 header's checksum.
fn write_lengths(packet: &mut [u8], shape: &Shape) {
    let len = packet.len();
    if shape.v6 {
        packet[4..6].copy_from_slice(&((len - ip::V6_HEADER) as u16).to_be_bytes());
    } else {
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet[10..12].fill(0);
        let checksum = Sum::default().bytes(&packet[..shape.l4]).checksum();
        packet[10..12].copy_from_slice(&checksum);
    }
    if shape.protocol == ip::UDP {
        packet[shape.l4 + 4..shape.l4 + 6].copy_from_slice(&((len - shape.l4) as u16).to_be_bytes());
    }
}

impl Shape {
    /// What a packet looks like that may begin a super-packet, and the sequence number behind it.
    pub(super) fn of_first(packet: &[u8], ip: &IpInfo, offload: &TunOffload) -> Option<(Shape, u32)> {
        if ip.fragment || ip.total != packet.len() || !offload.joins(ip.v6, ip.protocol) {
            return None;
        }
        let transport = packet.get(ip.l4..)?;
        let (len, next_seq) = match ip.protocol {
            ip::TCP => first_of_tcp(transport)?,
            _ => first_of_udp(transport)?,
        };
        let (headers, size) = (ip.l4 + len, transport.len() - len);
        let shape = Shape { v6: ip.v6, protocol: ip.protocol, l4: ip.l4, headers, size };
        (headers <= MAX_HEADERS).then_some((shape, next_seq))
    }
}

/// Header length and next sequence number of a TCP segment with payload and no flag but ACK.
fn first_of_tcp(transport: &[u8]) -> Option<(usize, u32)> {
    let header: &[u8; 20] = transport.first_chunk()?;
    let len = usize::from(header[12] >> 4) * 4;
    if len < 20 || transport.len() <= len || header[13] != TCP_ACK {
        return None;
    }
    let sequence = u32::from_be_bytes([header[4], header[5], header[6], header[7]]);
    Some((len, sequence.wrapping_add((transport.len() - len) as u32)))
}

/// Header length of a UDP datagram with payload and checksum.
fn first_of_udp(transport: &[u8]) -> Option<(usize, u32)> {
    let header: &[u8; 8] = transport.first_chunk()?;
    let payload = transport.len() - 8;
    (payload > 0 && is_udp_header(header, payload)).then_some((8, 0))
}

/// Its length is right, and it has a checksum: 0 stands for "none", and a super-packet's segments all get one.
#[inline]
fn is_udp_header(header: &[u8; 8], payload: usize) -> bool {
    usize::from(u16::from_be_bytes([header[4], header[5]])) == 8 + payload && header[6..] != [0, 0]
}

/// Everything in the IP header but lengths, checksum and, within the rules, the id is equal.
#[inline]
fn same_ip(first: &[u8], packet: &[u8], shape: &Shape, count: usize) -> bool {
    if shape.v6 {
        let (Some(a), Some(b)) = (first.first_chunk::<40>(), packet.first_chunk::<40>()) else {
            return false;
        };
        return a[..4] == b[..4] && a[6..8] == b[6..8] && a[8..] == b[8..];
    }
    let (Some((a, a_rest)), Some((b, b_rest))) = (first.split_first_chunk::<20>(), packet.split_first_chunk::<20>())
    else {
        return false;
    };
    let options = shape.l4 - ip::V4_HEADER;
    let dont_fragment = a[6] & 0x40 != 0;
    let expected_id = u16::from_be_bytes([a[4], a[5]]).wrapping_add(count as u16);
    a[..2] == b[..2]
        && a[6..10] == b[6..10]
        && a[12..] == b[12..]
        && (dont_fragment || b[4..6] == expected_id.to_be_bytes())
        && (options == 0 || a_rest.get(..options) == b_rest.get(..options))
}

/// Ports of a packet whose TCP or UDP header follows the IP header.
fn ports<'a>(packet: &'a [u8], ip: &IpInfo) -> Option<&'a [u8]> {
    let plain = !ip.fragment && (ip.protocol == ip::TCP || ip.protocol == ip::UDP);
    plain.then(|| packet.get(ip.l4..ip.l4 + 4)).flatten()
}

/// The checksums of IPv4 header and transport are right.
#[inline]
pub(super) fn is_intact(packet: &[u8], ip: &IpInfo) -> bool {
    let (header, transport) = match packet.split_at_checked(ip.l4) {
        Some(parts) => parts,
        None => return false,
    };
    (ip.v6 || Sum::default().bytes(header).is_intact())
        && pseudo_header(ip.addresses(packet), ip.protocol, transport.len()).bytes(transport).is_intact()
}
