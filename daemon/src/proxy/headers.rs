//! What the stack has to know of a packet before any of its sockets sees it: whose it is, or whose connection an ICMP error ends.
//! Everything here is a peer's bytes: no index that is not checked.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::failure::Failure;

/// IP protocol numbers (IANA).
const TCP: u8 = 6;
const UDP: u8 = 17;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;

/// Which socket: a port is used once for each protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Key {
    /// The connection of this local TCP port.
    Tcp(u16),
    /// The socket of this local UDP port.
    Udp(u16),
}

/// What a packet is to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Meant {
    /// For this socket, if there is one.
    For(Key),
    /// Somebody could not deliver what the local TCP port sent to the address.
    Undelivered(u16, SocketAddr, Failure),
    /// For no socket: the stack answers or drops it.
    Nobody,
}

/// Looks at the headers. Fragments are nobody's: the ports are in the first one only.
pub(super) fn meant(packet: &[u8]) -> Meant {
    read(packet).unwrap_or(Meant::Nobody)
}

fn read(packet: &[u8]) -> Option<Meant> {
    let header = ip(packet)?;
    let payload = header.payload;
    match header.protocol {
        TCP => Some(Meant::For(Key::Tcp(u16_at(payload, 2)?))),
        UDP => Some(Meant::For(Key::Udp(u16_at(payload, 2)?))),
        ICMP if header.source.is_ipv4() => {
            // RFC 792: type 3 is destination unreachable; the rest of the packet begins with the header it is about.
            let failure = match (*payload.first()?, *payload.get(1)?) {
                (3, 0 | 5 | 6 | 8 | 11) => Failure::NetworkUnreachable,
                (3, 1 | 7 | 12) => Failure::HostUnreachable,
                (3, 2 | 3) => Failure::Refused,
                (3, 9 | 10 | 13) => Failure::Prohibited,
                _ => return None,
            };
            undelivered(payload.get(8..)?, failure)
        }
        ICMPV6 if header.source.is_ipv6() => {
            // RFC 4443, section 3.1.
            let failure = match (*payload.first()?, *payload.get(1)?) {
                (1, 0) => Failure::NetworkUnreachable,
                (1, 2 | 3) => Failure::HostUnreachable,
                (1, 4) => Failure::Refused,
                (1, 1 | 5 | 6) => Failure::Prohibited,
                _ => return None,
            };
            undelivered(payload.get(8..)?, failure)
        }
        _ => None,
    }
}

fn undelivered(ours: &[u8], failure: Failure) -> Option<Meant> {
    let header = ip(ours)?;
    if header.protocol != TCP {
        return None;
    }
    let (from, to) = (u16_at(header.payload, 0)?, u16_at(header.payload, 2)?);
    Some(Meant::Undelivered(from, SocketAddr::new(header.destination, to), failure))
}

struct Ip<'a> {
    source: IpAddr,
    destination: IpAddr,
    protocol: u8,
    payload: &'a [u8],
}

fn ip(packet: &[u8]) -> Option<Ip<'_>> {
    match packet.first()? >> 4 {
        4 => {
            let length = usize::from(packet.first()? & 0x0f) * 4;
            // More fragments, or not the first one (RFC 791).
            if length < 20 || u16_at(packet, 6)? & 0x3fff != 0 {
                return None;
            }
            let address = |at: usize| Some(IpAddr::V4(Ipv4Addr::from(packet.get(at..)?.first_chunk::<4>().copied()?)));
            let (source, destination) = (address(12)?, address(16)?);
            Some(Ip { source, destination, protocol: *packet.get(9)?, payload: packet.get(length..)? })
        }
        6 => {
            let address = |at: usize| Some(IpAddr::V6(Ipv6Addr::from(packet.get(at..)?.first_chunk::<16>().copied()?)));
            let (source, destination) = (address(8)?, address(24)?);
            Some(Ip { source, destination, protocol: *packet.get(6)?, payload: packet.get(40..)? })
        }
        _ => None,
    }
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..)?.first_chunk::<2>().copied()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet from 10.8.0.1 to 10.8.0.2.
    fn v4(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2];
        packet.extend_from_slice(payload);
        packet
    }

    fn v6(protocol: u8, payload: &[u8]) -> Vec<u8> {
        let mut packet = vec![0x60, 0, 0, 0, 0, 0, protocol, 64];
        packet.extend(Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 1).octets());
        packet.extend(Ipv6Addr::new(0xfd08, 0, 0, 0, 0, 0, 0, 2).octets());
        packet.extend_from_slice(payload);
        packet
    }

    #[test]
    fn a_packet_belongs_to_the_socket_of_its_destination_port() {
        let ports = [0x01, 0x00, 0x02, 0x01, 0, 0, 0, 0];
        assert_eq!(meant(&v4(TCP, &ports)), Meant::For(Key::Tcp(0x201)));
        assert_eq!(meant(&v4(UDP, &ports)), Meant::For(Key::Udp(0x201)));
        assert_eq!(meant(&v6(TCP, &ports)), Meant::For(Key::Tcp(0x201)));
        assert_eq!(meant(&v4(ICMP, &ports)), Meant::Nobody);
    }

    #[test]
    fn options_are_skipped_and_fragments_are_nobodys() {
        let mut packet = v4(TCP, &[1, 1, 1, 1, 0, 1, 0, 9]);
        packet[0] = 0x46;
        assert_eq!(meant(&packet), Meant::For(Key::Tcp(9)));
        packet[6] = 0x20;
        assert_eq!(meant(&packet), Meant::Nobody);
        packet[6] = 0x40;
        assert_eq!(meant(&packet), Meant::For(Key::Tcp(9)), "don't fragment is no fragment");
    }

    #[test]
    fn an_icmp_error_names_the_connection_it_is_about() {
        let about = |protocol| v4(protocol, &[0x12, 0x34, 0, 80, 0, 0, 0, 0]);
        let error = |kind, code, protocol| v4(ICMP, &[&[kind, code, 0, 0, 0, 0, 0, 0], &about(protocol)[..]].concat());
        let to: SocketAddr = "10.8.0.2:80".parse().unwrap();
        assert_eq!(meant(&error(3, 1, TCP)), Meant::Undelivered(0x1234, to, Failure::HostUnreachable));
        assert_eq!(meant(&error(3, 0, TCP)), Meant::Undelivered(0x1234, to, Failure::NetworkUnreachable));
        assert_eq!(meant(&error(3, 3, TCP)), Meant::Undelivered(0x1234, to, Failure::Refused));
        assert_eq!(meant(&error(3, 13, TCP)), Meant::Undelivered(0x1234, to, Failure::Prohibited));
        assert_eq!(meant(&error(3, 4, TCP)), Meant::Nobody, "a path MTU is no failure");
        assert_eq!(meant(&error(11, 0, TCP)), Meant::Nobody);
        assert_eq!(meant(&error(3, 1, UDP)), Meant::Nobody);
        let about = v6(TCP, &[0x12, 0x34, 0, 80]);
        let error = v6(ICMPV6, &[&[1, 4, 0, 0, 0, 0, 0, 0], &about[..]].concat());
        let to: SocketAddr = "[fd08::2]:80".parse().unwrap();
        assert_eq!(meant(&error), Meant::Undelivered(0x1234, to, Failure::Refused));
    }

    #[test]
    fn a_packet_that_ends_anywhere_is_nobodys() {
        let about = v4(TCP, &[0x12, 0x34, 0, 80]);
        let error = v4(ICMP, &[&[3, 1, 0, 0, 0, 0, 0, 0], &about[..]].concat());
        for whole in [v4(TCP, &[0, 1, 0, 2]), v6(UDP, &[0, 1, 0, 2]), error] {
            assert_ne!(meant(&whole), Meant::Nobody);
            for length in 0..whole.len() {
                assert_eq!(meant(&whole[..length]), Meant::Nobody);
            }
        }
    }
}
