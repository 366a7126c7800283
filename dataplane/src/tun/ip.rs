//! Reading IP packets: just what the packet path needs to know, checked against the packet's length.

use std::net::IpAddr;

/// IPPROTO_TCP
pub const TCP: u8 = 6;
/// IPPROTO_UDP
pub const UDP: u8 = 17;
/// Bytes of an IPv6 header.
pub const V6_HEADER: usize = 40;
/// Bytes of an IPv4 header without options.
pub const V4_HEADER: usize = 20;

/// What the IP header says. IPv6 extension headers are not walked: `protocol` is the first next header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IpInfo {
    /// IPv6 rather than IPv4.
    pub v6: bool,
    /// Where the IP header ends: 20 to 60, or 40.
    pub l4: usize,
    /// The packet's length by its header, at most that of its bytes.
    pub total: usize,
    /// Protocol, or next header.
    pub protocol: u8,
    /// It is a fragment (IPv4 only: IPv6 fragments have another `protocol`).
    pub fragment: bool,
}

/// Reads the header. `None`: neither IPv4 nor IPv6, or lengths that contradict each other or the bytes.
#[inline]
pub fn parse(packet: &[u8]) -> Option<IpInfo> {
    match packet.first()? >> 4 {
        4 => parse_v4(packet),
        6 => parse_v6(packet),
        _ => None,
    }
}

#[inline]
fn parse_v4(packet: &[u8]) -> Option<IpInfo> {
    let header: &[u8; V4_HEADER] = packet.first_chunk()?;
    let l4 = usize::from(header[0] & 0x0f) * 4;
    let total = usize::from(u16::from_be_bytes([header[2], header[3]]));
    if l4 < V4_HEADER || total < l4 || total > packet.len() {
        return None;
    }
    // More fragments, or an offset.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    Some(IpInfo { v6: false, l4, total, protocol: header[9], fragment })
}

#[inline]
fn parse_v6(packet: &[u8]) -> Option<IpInfo> {
    let header: &[u8; V6_HEADER] = packet.first_chunk()?;
    let total = V6_HEADER + usize::from(u16::from_be_bytes([header[4], header[5]]));
    if total > packet.len() {
        return None;
    }
    Some(IpInfo { v6: true, l4: V6_HEADER, total, protocol: header[6], fragment: false })
}

impl IpInfo {
    /// Source and destination together, for a pseudo-header. Empty when `packet` is not the one that was read.
    #[inline]
    pub fn addresses<'a>(&self, packet: &'a [u8]) -> &'a [u8] {
        packet.get(if self.v6 { 8..40 } else { 12..20 }).unwrap_or_default()
    }

    /// The source address.
    pub fn source(&self, packet: &[u8]) -> IpAddr {
        self.address(packet, 8, 12)
    }

    /// The destination address.
    pub fn destination(&self, packet: &[u8]) -> IpAddr {
        self.address(packet, 24, 16)
    }

    fn address(&self, packet: &[u8], at_v6: usize, at_v4: usize) -> IpAddr {
        if self.v6 {
            let bytes = packet.get(at_v6..).and_then(|rest| rest.first_chunk::<16>());
            IpAddr::from(*bytes.unwrap_or(&[0; 16]))
        } else {
            let bytes = packet.get(at_v4..).and_then(|rest| rest.first_chunk::<4>());
            IpAddr::from(*bytes.unwrap_or(&[0; 4]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4() -> Vec<u8> {
        let mut packet = vec![0; 28];
        packet[0] = 0x45;
        packet[3] = 28;
        packet[9] = UDP;
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        packet
    }

    fn v6() -> Vec<u8> {
        let mut packet = vec![0; 48];
        packet[0] = 0x60;
        packet[5] = 8;
        packet[6] = UDP;
        packet[23] = 1;
        packet[39] = 2;
        packet
    }

    #[test]
    fn both_versions_are_read() {
        let packet = v4();
        let info = parse(&packet).unwrap();
        assert_eq!(info, IpInfo { v6: false, l4: 20, total: 28, protocol: UDP, fragment: false });
        assert_eq!(info.source(&packet), IpAddr::from([10, 0, 0, 1]));
        assert_eq!(info.destination(&packet), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(info.addresses(&packet), [10, 0, 0, 1, 10, 0, 0, 2]);

        let packet = v6();
        let info = parse(&packet).unwrap();
        assert_eq!(info, IpInfo { v6: true, l4: 40, total: 48, protocol: UDP, fragment: false });
        assert_eq!(info.source(&packet), "::1".parse::<IpAddr>().unwrap());
        assert_eq!(info.destination(&packet), "::2".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn lengths_that_contradict_are_refused() {
        let changed = |packet: Vec<u8>, at: usize, byte: u8| {
            let mut packet = packet;
            packet[at] = byte;
            parse(&packet)
        };
        assert!(changed(v4(), 0, 0x44).is_none(), "header shorter than 20");
        assert!(changed(v4(), 0, 0x48).is_none(), "header longer than the packet");
        assert!(changed(v4(), 0, 0x47).is_some(), "options");
        assert!(changed(v4(), 3, 29).is_none(), "total longer than the bytes");
        assert!(changed(v4(), 3, 19).is_none(), "total shorter than the header");
        assert!(changed(v4(), 0, 0x55).is_none(), "version 5");
        assert!(changed(v6(), 5, 9).is_none(), "payload longer than the bytes");
        assert!(changed(v6(), 5, 7).is_some(), "bytes behind the packet");
        assert!(parse(&v4()[..19]).is_none() && parse(&v6()[..39]).is_none() && parse(&[]).is_none());
    }

    #[test]
    fn first_and_later_fragments_are_recognised() {
        for (high, low, fragment) in
            [(0x20, 0, true), (0, 1, true), (0x1f, 0xff, true), (0x40, 0, false), (0x80, 0, false)]
        {
            let mut packet = v4();
            (packet[6], packet[7]) = (high, low);
            assert_eq!(parse(&packet).unwrap().fragment, fragment);
        }
    }
}
