//! Control messages beside a datagram (cmsg(3)): the segment size of GRO and GSO, and the local address.
//!
//! Written and read as bytes, without pointers: a header of length (native word), level and type (32 bits each),
//! then the data, padded to the native word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const WORD: usize = size_of::<usize>();
/// `struct cmsghdr`: length, level, type.
const HEADER: usize = WORD + 4 + 4;

/// Bytes of control that one message needs at most, in either direction: segment size and `in6_pktinfo`.
pub const CONTROL: usize = 2 * align(HEADER + 20);

/// A buffer for the control messages of one datagram, aligned as the kernel wants it.
#[derive(Clone, Copy, Debug)]
#[repr(C, align(8))]
pub struct Control {
    bytes: [u8; CONTROL],
}

impl Default for Control {
    fn default() -> Self {
        Self { bytes: [0; CONTROL] }
    }
}

const fn align(len: usize) -> usize {
    len.div_ceil(WORD) * WORD
}

/// What the kernel said beside a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// The size of every segment but the last, when the kernel joined several (UDP_GRO).
    pub segment: Option<usize>,
    /// The local address that was asked (IP_PKTINFO, IPV6_PKTINFO).
    pub local: Option<IpAddr>,
    /// The interface; 0 when unknown.
    pub ifindex: u32,
}

impl Control {
    /// The bytes, for the kernel to fill.
    pub fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Writes the messages of an outgoing datagram and returns their length in bytes: UDP_SEGMENT when `segment` is
    /// given, the source address when `local` is.
    pub fn write(&mut self, segment: Option<u16>, local: Option<(IpAddr, u32)>) -> usize {
        let mut at = 0;
        if let Some(segment) = segment {
            at += self.put(at, libc::SOL_UDP, libc::UDP_SEGMENT, &segment.to_ne_bytes());
        }
        match local {
            Some((IpAddr::V4(address), ifindex)) => {
                // struct in_pktinfo: ifindex, source address, destination address (not used when sending)
                let mut info = [0u8; 12];
                info[..4].copy_from_slice(&ifindex.to_ne_bytes());
                info[4..8].copy_from_slice(&address.octets());
                at += self.put(at, libc::IPPROTO_IP, libc::IP_PKTINFO, &info);
            }
            Some((IpAddr::V6(address), ifindex)) => {
                // struct in6_pktinfo: address, ifindex
                let mut info = [0u8; 20];
                info[..16].copy_from_slice(&address.octets());
                info[16..].copy_from_slice(&ifindex.to_ne_bytes());
                at += self.put(at, libc::IPPROTO_IPV6, libc::IPV6_PKTINFO, &info);
            }
            None => {}
        }
        at
    }

    fn put(&mut self, at: usize, level: i32, kind: i32, data: &[u8]) -> usize {
        let room = align(HEADER + data.len());
        // CONTROL has room for the two messages that `write` can ask for.
        let slot = &mut self.bytes[at..at + room];
        slot.fill(0);
        slot[..WORD].copy_from_slice(&(HEADER + data.len()).to_ne_bytes());
        slot[WORD..WORD + 4].copy_from_slice(&level.to_ne_bytes());
        slot[WORD + 4..HEADER].copy_from_slice(&kind.to_ne_bytes());
        slot[HEADER..HEADER + data.len()].copy_from_slice(data);
        room
    }
}

/// Reads the control messages that came with a datagram; what is not understood is passed over.
pub fn read(mut bytes: &[u8]) -> Received {
    let mut received = Received::default();
    while let Some((level, kind, data, rest)) = next(bytes) {
        match (level, kind) {
            (libc::SOL_UDP, libc::UDP_GRO) => {
                received.segment = word(data).and_then(|size| usize::try_from(size).ok()).filter(|&size| size > 0);
            }
            (libc::IPPROTO_IP, libc::IP_PKTINFO) => {
                if let (Some(ifindex), Some(address)) = (word(data), data.get(8..12)) {
                    // ipi_addr: the destination written in the packet's header
                    let octets = <[u8; 4]>::try_from(address).unwrap_or_default();
                    received.local = Some(IpAddr::V4(Ipv4Addr::from(octets)));
                    received.ifindex = ifindex;
                }
            }
            (libc::IPPROTO_IPV6, libc::IPV6_PKTINFO) => {
                if let (Some(address), Some(ifindex)) = (data.get(..16), data.get(16..).and_then(word)) {
                    let octets = <[u8; 16]>::try_from(address).unwrap_or_default();
                    received.local = Some(IpAddr::V6(Ipv6Addr::from(octets)).to_canonical());
                    received.ifindex = ifindex;
                }
            }
            _ => {}
        }
        bytes = rest;
    }
    received
}

fn word(data: &[u8]) -> Option<u32> {
    Some(u32::from_ne_bytes(data.get(..4)?.try_into().ok()?))
}

/// The first message, and what follows it; `None` at the end or when the length is nonsense.
fn next(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let len = usize::from_ne_bytes(bytes.get(..WORD)?.try_into().ok()?);
    let level = i32::from_ne_bytes(bytes.get(WORD..WORD + 4)?.try_into().ok()?);
    let kind = i32::from_ne_bytes(bytes.get(WORD + 4..HEADER)?.try_into().ok()?);
    let data = bytes.get(HEADER..len)?;
    Some((level, kind, data, bytes.get(align(len)..).unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_the_kernel_headers_describe() {
        let mut control = Control::default();
        assert_eq!(control.write(None, None), 0);
        let len = control.write(Some(1400), Some(("192.0.2.7".parse().unwrap(), 3)));
        assert_eq!(len, 24 + 32);
        let (level, kind, data, rest) = next(&control.bytes[..len]).unwrap();
        assert_eq!((level, kind, data), (libc::SOL_UDP, libc::UDP_SEGMENT, &1400u16.to_ne_bytes()[..]));
        let (level, kind, data, rest) = next(rest).unwrap();
        assert_eq!((level, kind, data.len()), (0, libc::IP_PKTINFO, 12));
        assert_eq!(data[4..8], [192, 0, 2, 7]);
        assert!(rest.is_empty());
    }

    #[test]
    fn a_v6_source_address_fits_beside_a_segment_size() {
        let mut control = Control::default();
        let len = control.write(Some(9), Some(("2001:db8::1".parse().unwrap(), 2)));
        assert_eq!(len, 24 + 40);
        let seen = read(&control.bytes[..len]);
        assert_eq!(seen, Received { segment: None, local: Some("2001:db8::1".parse().unwrap()), ifindex: 2 });
    }

    #[test]
    fn the_segment_size_of_a_train_is_read() {
        let mut control = Control::default();
        let len = control.put(0, libc::SOL_UDP, libc::UDP_GRO, &1424u32.to_ne_bytes());
        assert_eq!(read(&control.bytes[..len]).segment, Some(1424));
        assert_eq!(read(&control.bytes[..len - 8]).segment, None, "cut off: not read");
        let len = control.put(0, libc::SOL_UDP, libc::UDP_GRO, &0u32.to_ne_bytes());
        assert_eq!(read(&control.bytes[..len]).segment, None, "a size of nothing is no size");
    }

    #[test]
    fn a_length_that_lies_ends_the_reading() {
        let mut control = Control::default();
        let len = control.put(0, libc::SOL_UDP, libc::UDP_GRO, &1424u32.to_ne_bytes());
        for lie in [0, 1, HEADER - 1, len + 1, usize::MAX] {
            control.bytes[..WORD].copy_from_slice(&lie.to_ne_bytes());
            assert_eq!(read(&control.bytes[..len]), Received::default(), "length {lie}");
        }
    }
}
