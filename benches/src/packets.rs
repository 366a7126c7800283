//! Inner packets and super-packets over IPv4, with correct checksums, made by the product's own checksum functions.

use dataplane::tun::checksum::{Sum, pseudo_header};
use dataplane::tun::ip::{TCP, UDP, V4_HEADER};
use dataplane::tun::virtio::{F_NEEDS_CSUM, GSO_TCPV4, GSO_UDP_L4, VNET_HDR_LEN, VnetHeader};

/// What a flow consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// Consecutive segments of one TCP connection, nothing but ACK set.
    Tcp,
    /// Datagrams of one UDP flow.
    Udp,
    /// The same with checksum 0: such packets may not be joined (RFC 768: the sender computed none).
    UdpUnsummed,
}

impl Inner {
    /// Bytes of the IPv4 and the transport header.
    pub fn headers(self) -> usize {
        V4_HEADER + if self == Inner::Tcp { 20 } else { 8 }
    }

    /// Where the checksum stands in the packet.
    fn checksum_at(self) -> usize {
        V4_HEADER + if self == Inner::Tcp { 16 } else { 6 }
    }
}

/// One flow: every packet continues the one before it.
#[derive(Clone, Debug)]
pub struct Flow {
    packet: Vec<u8>,
    inner: Inner,
    id: u16,
    sequence: u32,
}

impl Flow {
    /// A flow of packets of `len` bytes (headers to 65,535) from this port.
    pub fn new(inner: Inner, len: usize, source_port: u16) -> Self {
        let protocol = if inner == Inner::Tcp { TCP } else { UDP };
        // DF; from an address that is nobody's to one that nobody routes.
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 88, 0, 1, 10, 99, 0, 1];
        packet[2..4].copy_from_slice(&(len as u16).to_be_bytes());
        packet.extend(source_port.to_be_bytes());
        packet.extend(5_000u16.to_be_bytes());
        match inner {
            // Sequence, acknowledgement, five words and ACK, window, checksum, urgent pointer.
            Inner::Tcp => packet.extend([0, 0, 0, 0, 0, 0, 0, 1, 0x50, 0x10, 0x10, 0, 0, 0, 0, 0]),
            _ => {
                packet.extend(((len - V4_HEADER) as u16).to_be_bytes());
                packet.extend([0, 0]);
            }
        }
        packet.resize(len, 0x5a);
        Self { packet, inner, id: 0, sequence: 0 }
    }

    /// The next packet.
    // It borrows from the flow that the next one changes: no iterator can say that.
    #[allow(clippy::should_implement_trait)]
    pub fn next(&mut self) -> &[u8] {
        self.id = self.id.wrapping_add(1);
        self.packet[4..6].copy_from_slice(&self.id.to_be_bytes());
        self.packet[10..12].fill(0);
        let sum = Sum::default().bytes(&self.packet[..V4_HEADER]).checksum();
        self.packet[10..12].copy_from_slice(&sum);
        if self.inner == Inner::Tcp {
            self.packet[V4_HEADER + 4..V4_HEADER + 8].copy_from_slice(&self.sequence.to_be_bytes());
            self.sequence = self.sequence.wrapping_add((self.packet.len() - self.inner.headers()) as u32);
        }
        if self.inner != Inner::UdpUnsummed {
            let at = self.inner.checksum_at();
            self.packet[at..at + 2].fill(0);
            let (ip, transport) = self.packet.split_at(V4_HEADER);
            let sum = pseudo_header(&ip[12..20], ip[9], transport.len()).bytes(transport).checksum();
            self.packet[at..at + 2].copy_from_slice(&sum);
        }
        &self.packet
    }
}

/// A super-packet as a TUN read gives it: virtio header, headers with a partial checksum, `segments` payloads of `size` bytes.
pub fn super_frame(inner: Inner, segments: usize, size: usize) -> Vec<u8> {
    let mut flow = Flow::new(inner, inner.headers() + segments * size, 4_000);
    let mut packet = flow.next().to_vec();
    let at = inner.checksum_at();
    let partial = pseudo_header(&packet[12..20], packet[9], packet.len() - V4_HEADER).partial();
    packet[at..at + 2].copy_from_slice(&partial);
    let header = VnetHeader {
        flags: F_NEEDS_CSUM,
        gso_type: if inner == Inner::Tcp { GSO_TCPV4 } else { GSO_UDP_L4 },
        hdr_len: inner.headers() as u16,
        gso_size: size as u16,
        csum_start: V4_HEADER as u16,
        csum_offset: (at - V4_HEADER) as u16,
    };
    [&header.to_bytes()[..], &packet].concat()
}

/// One packet as a TUN read gives it, with a checksum that is still to be completed.
pub fn single_frame(inner: Inner, len: usize) -> Vec<u8> {
    let mut frame = super_frame(inner, 1, len - inner.headers());
    let header = VnetHeader { gso_type: 0, gso_size: 0, ..VnetHeader::parse(&frame).unwrap_or_default() };
    frame[..VNET_HDR_LEN].copy_from_slice(&header.to_bytes());
    frame
}

#[cfg(test)]
mod tests {
    use super::*;
    use dataplane::tun::split;

    #[test]
    fn a_super_packet_splits_into_packets_with_correct_checksums() {
        for inner in [Inner::Tcp, Inner::Udp] {
            for mut frame in [super_frame(inner, 42, 1_380), single_frame(inner, 1_420)] {
                let plan = split::plan(&frame).unwrap();
                let mut segments = plan.segments(&mut frame);
                while let Some(packet) = segments.next() {
                    assert!(intact(packet));
                }
            }
        }
    }

    #[test]
    fn packets_of_a_flow_are_intact_and_consecutive() {
        for inner in [Inner::Tcp, Inner::Udp] {
            let mut flow = Flow::new(inner, 1_420, 1);
            let (first, second) = (flow.next().to_vec(), flow.next().to_vec());
            assert!(intact(&first) && intact(&second));
            assert_ne!(first, second);
            let mut broken = second;
            broken[100] ^= 1;
            assert!(!intact(&broken));
        }
        assert_eq!(Flow::new(Inner::UdpUnsummed, 64, 1).next()[26..28], [0, 0]);
    }

    fn intact(packet: &[u8]) -> bool {
        let (ip, transport) = packet.split_at(V4_HEADER);
        Sum::default().bytes(ip).is_intact()
            && pseudo_header(&ip[12..20], ip[9], transport.len()).bytes(transport).is_intact()
    }
}
