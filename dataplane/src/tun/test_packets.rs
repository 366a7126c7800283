//! Packets for tests, also those of `dataplane/tests`, built field by field with checksums of their own reckoning.
#![allow(unreachable_pub)] // integration tests include this file

use super::virtio::{F_NEEDS_CSUM, GSO_ECN, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, VnetHeader};

pub const FIN: u8 = 0x01;
pub const SYN: u8 = 0x02;
pub const PSH: u8 = 0x08;
pub const ACK: u8 = 0x10;
pub const CWR: u8 = 0x80;

/// A TCP or UDP packet over IPv4 or IPv6.
#[derive(Clone, Debug)]
pub struct Packet {
    pub v6: bool,
    pub udp: bool,
    pub tos: u8,
    pub ttl: u8,
    pub id: u16,
    pub dont_fragment: bool,
    pub ip_options: Vec<u8>,
    /// Destination options between the IPv6 header and the transport header, in units of 8 bytes.
    pub extension: usize,
    pub host: u8,
    pub source_port: u16,
    pub seq: u32,
    pub ack: u32,
    pub flags: u8,
    pub window: u16,
    pub options: Vec<u8>,
    pub payload: Vec<u8>,
}

impl Default for Packet {
    fn default() -> Self {
        Packet {
            v6: false,
            udp: false,
            tos: 0,
            ttl: 64,
            id: 7,
            dont_fragment: true,
            ip_options: Vec::new(),
            extension: 0,
            host: 1,
            source_port: 1000,
            seq: 5000,
            ack: 77,
            flags: ACK,
            window: 512,
            options: Vec::new(),
            payload: vec![1; 100],
        }
    }
}

/// RFC 1071 §4.1, word by word; not inverted.
pub fn plain_sum(parts: &[&[u8]]) -> u16 {
    let bytes = parts.concat();
    let mut sum = 0u32;
    for pair in bytes.chunks(2) {
        sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

impl Packet {
    pub fn with_payload(len: usize) -> Self {
        Packet { payload: (0..len).map(|i| (i * 7 % 251) as u8).collect(), ..Packet::default() }
    }

    pub fn l4(&self) -> usize {
        if self.v6 { 40 + self.extension * 8 } else { 20 + self.ip_options.len() }
    }

    pub fn headers(&self) -> usize {
        self.l4() + if self.udp { 8 } else { 20 + self.options.len() }
    }

    fn protocol(&self) -> u8 {
        if self.udp { 17 } else { 6 }
    }

    fn addresses(&self) -> Vec<u8> {
        match self.v6 {
            true => {
                let mut addresses = vec![0x20; 32];
                addresses[31] = self.host;
                addresses
            }
            false => vec![10, 0, 0, 9, 10, 0, 0, self.host],
        }
    }

    fn ip_header(&self) -> Vec<u8> {
        let total = self.headers() + self.payload.len();
        if self.v6 {
            let len = ((total - 40) as u16).to_be_bytes();
            let next = if self.extension > 0 { 60 } else { self.protocol() };
            let mut header = vec![0x60 | self.tos >> 4, self.tos << 4, 3, 4, len[0], len[1], next, self.ttl];
            header.extend(self.addresses());
            if self.extension > 0 {
                // One PadN (RFC 8200 §4.2).
                header.extend([self.protocol(), (self.extension - 1) as u8, 1, (self.extension * 8 - 4) as u8]);
                header.resize(self.l4(), 0);
            }
            return header;
        }
        let len = (total as u16).to_be_bytes();
        let id = self.id.to_be_bytes();
        let dont_fragment = if self.dont_fragment { 0x40 } else { 0 };
        let mut header = vec![
            0x40 | (self.l4() / 4) as u8,
            self.tos,
            len[0],
            len[1],
            id[0],
            id[1],
            dont_fragment,
            0,
            self.ttl,
            self.protocol(),
            0,
            0,
        ];
        header.extend(self.addresses());
        header.extend(&self.ip_options);
        let sum = !plain_sum(&[&header]);
        header[10..12].copy_from_slice(&sum.to_be_bytes());
        header
    }

    fn transport(&self) -> Vec<u8> {
        let len = (self.headers() - self.l4() + self.payload.len()) as u16;
        let mut bytes = self.source_port.to_be_bytes().to_vec();
        bytes.extend([0x1f, 0x90]);
        if self.udp {
            bytes.extend(len.to_be_bytes());
            bytes.extend([0, 0]);
        } else {
            bytes.extend(self.seq.to_be_bytes());
            bytes.extend(self.ack.to_be_bytes());
            bytes.extend([((5 + self.options.len() / 4) << 4) as u8, self.flags]);
            bytes.extend(self.window.to_be_bytes());
            bytes.extend([0, 0, 0, 0]);
            bytes.extend(&self.options);
        }
        bytes.extend(&self.payload);
        bytes
    }

    pub fn checksum_at(&self) -> usize {
        self.l4() + if self.udp { 6 } else { 16 }
    }

    fn pseudo(&self) -> Vec<u8> {
        let len = ((self.headers() - self.l4() + self.payload.len()) as u16).to_be_bytes();
        let mut pseudo = self.addresses();
        pseudo.extend([0, self.protocol(), len[0], len[1]]);
        pseudo
    }

    /// The packet with its checksums.
    pub fn bytes(&self) -> Vec<u8> {
        let transport = self.transport();
        let mut sum = !plain_sum(&[&self.pseudo(), &transport]);
        if self.udp && sum == 0 {
            sum = 0xffff;
        }
        let mut bytes = self.ip_header();
        bytes.extend(transport);
        bytes[self.checksum_at()..self.checksum_at() + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The packet with only the pseudo-header's sum in its checksum field.
    pub fn partial_bytes(&self) -> Vec<u8> {
        let mut bytes = self.bytes();
        let sum = plain_sum(&[&self.pseudo()]);
        bytes[self.checksum_at()..self.checksum_at() + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The virtio header of a packet that leaves its checksum to the reader.
    pub fn checksum_header(&self) -> VnetHeader {
        VnetHeader {
            flags: F_NEEDS_CSUM,
            csum_start: self.l4() as u16,
            csum_offset: (self.checksum_at() - self.l4()) as u16,
            ..VnetHeader::default()
        }
    }

    /// The virtio header of this packet as a super-packet with segments of `size` bytes.
    pub fn super_header(&self, size: usize) -> VnetHeader {
        let gso_type = match (self.udp, self.v6) {
            (true, _) => GSO_UDP_L4,
            (false, false) => GSO_TCPV4,
            (false, true) => GSO_TCPV6,
        };
        let ecn = if self.flags & CWR != 0 { GSO_ECN } else { 0 };
        VnetHeader {
            gso_type: gso_type | ecn,
            gso_size: size as u16,
            hdr_len: self.headers() as u16,
            ..self.checksum_header()
        }
    }

    /// As a TUN read: one packet without work left.
    pub fn frame(&self) -> Vec<u8> {
        [&VnetHeader::default().to_bytes()[..], &self.bytes()].concat()
    }

    /// As a TUN read: a super-packet.
    pub fn super_frame(&self, size: usize) -> Vec<u8> {
        [&self.super_header(size).to_bytes()[..], &self.partial_bytes()].concat()
    }

    /// The packets that a network card would make of it.
    pub fn segments(&self, size: usize) -> Vec<Vec<u8>> {
        let chunks: Vec<&[u8]> = self.payload.chunks(size).collect();
        let last = chunks.len() - 1;
        let segment = |(index, payload): (usize, &&[u8])| {
            let mut flags = self.flags;
            if index != 0 {
                flags &= !CWR;
            }
            if index != last {
                flags &= !(FIN | PSH);
            }
            Packet {
                id: self.id.wrapping_add(index as u16),
                seq: self.seq.wrapping_add((index * size) as u32),
                flags,
                payload: payload.to_vec(),
                ..self.clone()
            }
            .bytes()
        };
        chunks.iter().enumerate().map(segment).collect()
    }
}
