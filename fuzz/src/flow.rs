//! Inner packets with everything that a split or a join must look at, and what a network card would make of a
//! super-packet: written plainly, with checksums of its own reckoning, so that it can judge the fast one.

use dataplane::tun::ip::{TCP, UDP, V4_HEADER, V6_HEADER};
use dataplane::tun::virtio::{
    F_NEEDS_CSUM, GSO_ECN, GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader,
};

use crate::inner;
use crate::input::Input;

/// A packet whose checksums are right.
#[derive(Clone, Debug)]
pub(crate) struct Made {
    pub(crate) bytes: Vec<u8>,
    pub(crate) v6: bool,
    pub(crate) protocol: u8,
    /// Where the transport header starts.
    pub(crate) l4: usize,
    /// The headers are such that a kernel would segment it.
    pub(crate) whole: bool,
}

/// What is done to a packet: bits of one byte.
const OPTIONS: u8 = 0x01;
const CHANGED: u8 = 0x02;
const NO_CHECKSUM: u8 = 0x04;
const PAYLOAD: u8 = 0x08;

/// The next packet: one of [`inner`]'s, perhaps with IP options or extension headers, with changed header fields, without a UDP
/// checksum, with a payload that tells each byte from its neighbours. `None` at the end of the input.
pub(crate) fn packet(input: &mut Input<'_>) -> Option<Made> {
    let how = input.byte()?;
    let inner = inner::packet(input)?;
    let mut made = Made { bytes: inner.bytes, v6: inner.v6, protocol: inner.protocol, l4: inner.l4, whole: true };
    if made.headers().is_none() {
        made.whole = false;
        return Some(made);
    }
    if how & OPTIONS != 0 {
        made.insert_options(usize::from(input.byte()? % 10) + 1);
    }
    if how & CHANGED != 0 {
        for _ in 0..input.byte()? % 4 {
            let (at, value) = (usize::from(input.byte()?), input.byte()?);
            if let Some(byte) = made.bytes.get_mut(at) {
                *byte = value;
            }
        }
    }
    made.whole &= made.is_whole();
    if how & PAYLOAD != 0
        && let Some(headers) = made.headers()
    {
        for (at, byte) in made.bytes[headers..].iter_mut().enumerate() {
            *byte = byte.wrapping_add((at * 31 + at / 256) as u8);
        }
    }
    if made.whole {
        made.complete();
        if how & NO_CHECKSUM != 0 && made.protocol == UDP {
            made.bytes[made.l4 + 6..made.l4 + 8].fill(0);
        }
    }
    Some(made)
}

impl Made {
    /// Bytes of all headers, when the bytes hold them.
    pub(crate) fn headers(&self) -> Option<usize> {
        let transport = self.bytes.get(self.l4..)?;
        let len = if self.protocol == UDP { 8 } else { usize::from(*transport.get(12)? >> 4) * 4 };
        (len >= 8 && (self.protocol == UDP || len >= 20) && len <= transport.len()).then_some(self.l4 + len)
    }

    /// More segments of one packet tell nothing new, and take time.
    pub(crate) fn cap_segments(&self, size: u16) -> u16 {
        if size == 0 { 0 } else { size.max((self.bytes.len() / 256) as u16) }
    }

    pub(crate) fn checksum_at(&self) -> usize {
        self.l4 + if self.protocol == UDP { 6 } else { 16 }
    }

    /// IPv4: `words` of NOP. IPv6: a destination options header of as many 8-byte units.
    fn insert_options(&mut self, words: usize) {
        let len = if self.v6 { words * 8 } else { words * 4 };
        if self.bytes.len() + len > 65_535 {
            return;
        }
        let options = if self.v6 {
            // PadN (RFC 8200 §4.2).
            let mut header = vec![0; len];
            (header[0], header[1], header[2], header[3]) = (self.protocol, (words - 1) as u8, 1, (len - 4) as u8);
            self.bytes[6] = 60;
            header
        } else {
            self.bytes[0] = 0x45 + words as u8;
            vec![1; len]
        };
        self.bytes.splice(self.l4..self.l4, options);
        self.l4 += len;
        self.set_length();
    }

    fn set_length(&mut self) {
        let len = self.bytes.len();
        if self.v6 {
            self.bytes[4..6].copy_from_slice(&((len - V6_HEADER) as u16).to_be_bytes());
        } else {
            self.bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        }
    }

    /// Version, lengths, protocol and place of the transport header are still what they were made.
    fn is_whole(&self) -> bool {
        let (bytes, len) = (&self.bytes, self.bytes.len());
        let word = |at: usize| usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]));
        let ip = if self.v6 {
            let next = if self.l4 == V6_HEADER { self.protocol } else { 60 };
            bytes[0] >> 4 == 6 && word(4) + V6_HEADER == len && bytes[6] == next
        } else {
            usize::from(bytes[0]) == 0x40 + self.l4 / 4
                && word(2) == len
                && word(6) & 0x3fff == 0
                && bytes[9] == self.protocol
        };
        let chain = !self.v6
            || self.l4 == V6_HEADER
            || (bytes[40] == self.protocol && usize::from(bytes[41]) * 8 + 8 == self.l4 - V6_HEADER);
        let udp = self.protocol != UDP || word(self.l4 + 4) == len - self.l4;
        ip && chain && udp && self.headers().is_some()
    }

    /// Sets the checksums.
    pub(crate) fn complete(&mut self) {
        complete(&mut self.bytes, self.v6, self.protocol, self.l4);
    }

    /// As a TUN read that leaves the work to the reader: only the pseudo-header's sum, and the header that says so.
    pub(crate) fn offloaded(&self, gso_size: Option<u16>) -> Vec<u8> {
        let gso_type = match (gso_size, self.protocol, self.v6) {
            (None, ..) => GSO_NONE,
            (_, UDP, _) => GSO_UDP_L4,
            (_, _, false) => GSO_TCPV4,
            (_, _, true) => GSO_TCPV6,
        };
        let cwr = gso_size.is_some() && self.protocol == TCP && self.bytes[self.l4 + 13] & 0x80 != 0;
        let header = VnetHeader {
            flags: F_NEEDS_CSUM,
            gso_type: gso_type | if cwr { GSO_ECN } else { 0 },
            hdr_len: self.headers().unwrap_or(0) as u16,
            gso_size: gso_size.unwrap_or(0),
            csum_start: self.l4 as u16,
            csum_offset: (self.checksum_at() - self.l4) as u16,
        };
        let mut frame = [&header.to_bytes()[..], &self.bytes].concat();
        let at = VNET_HDR_LEN + self.checksum_at();
        let sum = pseudo_sum(&self.bytes, self.v6, self.protocol, self.bytes.len() - self.l4);
        frame[at..at + 2].copy_from_slice(&fold(sum).to_be_bytes());
        frame
    }
}

/// The 16-bit words of `bytes`, an odd last byte before a zero (RFC 1071 §4.1).
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    bytes.chunks(2).map(|pair| u64::from(pair[0]) << 8 | u64::from(*pair.get(1).unwrap_or(&0))).sum()
}

pub(crate) fn fold(mut sum: u64) -> u16 {
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

pub(crate) fn pseudo_sum(packet: &[u8], v6: bool, protocol: u8, len: usize) -> u64 {
    sum(&packet[if v6 { 8..40 } else { 12..20 }]) + u64::from(protocol) + len as u64
}

fn complete(bytes: &mut [u8], v6: bool, protocol: u8, l4: usize) {
    if !v6 {
        bytes[10..12].fill(0);
        let checksum = !fold(sum(&bytes[..l4]));
        bytes[10..12].copy_from_slice(&checksum.to_be_bytes());
    }
    let at = l4 + if protocol == UDP { 6 } else { 16 };
    bytes[at..at + 2].fill(0);
    let total = pseudo_sum(bytes, v6, protocol, bytes.len() - l4) + sum(&bytes[l4..]);
    let checksum = match !fold(total) {
        0 if protocol == UDP => 0xffff,
        checksum => checksum,
    };
    bytes[at..at + 2].copy_from_slice(&checksum.to_be_bytes());
}

/// Whether both checksums of a packet are right.
pub(crate) fn is_intact(packet: &[u8], v6: bool, protocol: u8, l4: usize) -> bool {
    let total = pseudo_sum(packet, v6, protocol, packet.len() - l4) + sum(&packet[l4..]);
    (v6 || fold(sum(&packet[..l4])) == 0xffff) && fold(total) == 0xffff
}

/// What a network card makes of a super-packet (or a packet) that says of itself what it is.
pub(crate) fn segments(header: &VnetHeader, packet: &[u8]) -> Vec<Vec<u8>> {
    if header.gso_type == GSO_NONE {
        return vec![packet.to_vec()];
    }
    let (v6, l4) = (packet[0] >> 4 == 6, usize::from(header.csum_start));
    let protocol = if header.gso_type == GSO_UDP_L4 { UDP } else { TCP };
    let headers = l4 + if protocol == UDP { 8 } else { usize::from(packet[l4 + 12] >> 4) * 4 };
    let (front, payload) = packet.split_at(headers);
    let size = usize::from(header.gso_size);
    let last = payload.len().div_ceil(size) - 1;
    let segment = |(index, chunk): (usize, &[u8])| {
        let mut bytes = [front, chunk].concat();
        let len = bytes.len();
        if v6 {
            bytes[4..6].copy_from_slice(&((len - V6_HEADER) as u16).to_be_bytes());
        } else {
            let id = u16::from_be_bytes([front[4], front[5]]).wrapping_add(index as u16);
            bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
            bytes[4..6].copy_from_slice(&id.to_be_bytes());
        }
        if protocol == UDP {
            bytes[l4 + 4..l4 + 6].copy_from_slice(&((len - l4) as u16).to_be_bytes());
        } else {
            let sequence = u32::from_be_bytes([front[l4 + 4], front[l4 + 5], front[l4 + 6], front[l4 + 7]]);
            let sequence = sequence.wrapping_add((index * size) as u32);
            bytes[l4 + 4..l4 + 8].copy_from_slice(&sequence.to_be_bytes());
            let gone = if index > 0 { 0x80 } else { 0 } | if index < last { 0x09 } else { 0 };
            bytes[l4 + 13] &= !gone;
        }
        complete(&mut bytes, v6, protocol, l4);
        bytes
    };
    payload.chunks(size).enumerate().map(segment).collect()
}

/// What joining and splitting may change: the id of an IPv4 packet that is never fragmented (RFC 6864 §4.1), and of the two forms
/// of a checksum that is zero the one that is written.
pub(crate) fn same_packet(a: &[u8], b: &[u8]) -> bool {
    normal(a) == normal(b)
}

fn normal(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    let (v6, l4) = match packet[0] >> 4 {
        4 => (false, usize::from(packet[0] & 15) * 4),
        _ => (true, V6_HEADER),
    };
    if !v6 && packet[6] & 0x40 != 0 {
        packet[4..6].fill(0);
    }
    if !v6 {
        packet[10..12].fill(0);
    }
    let at = match packet[if v6 { 6 } else { 9 }] {
        TCP => l4 + 16,
        _ => l4 + 6,
    };
    if let Some(field) = packet.get_mut(at..at + 2)
        && field == [0xff, 0xff]
    {
        field.fill(0);
    }
    packet
}

/// Where the ports stand, if a plain reader of IP headers sees any.
pub(crate) fn ports(packet: &[u8]) -> Option<&[u8]> {
    let v6 = packet[0] >> 4 == 6;
    let (l4, protocol) = if v6 { (V6_HEADER, packet[6]) } else { (usize::from(packet[0] & 15) * 4, packet[9]) };
    let fragment = !v6 && u16::from_be_bytes([packet[6], packet[7]]) & 0x3fff != 0;
    let plain = !fragment && l4 >= V4_HEADER && (protocol == TCP || protocol == UDP);
    plain.then(|| packet.get(l4..l4 + 4)).flatten()
}
