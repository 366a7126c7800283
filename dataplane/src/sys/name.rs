//! A socket address as the kernel writes it (`struct sockaddr_in`, `struct sockaddr_in6`; ip(7), ipv6(7)), without
//! pointers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Bytes of the longer of the two.
pub(super) const NAME: usize = 28;
const V4: usize = 16;

/// Room for an address, aligned as the kernel's structures are.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C, align(8))]
pub(super) struct Name {
    bytes: [u8; NAME],
}

impl Name {
    /// The bytes, for the kernel to read or fill.
    pub(super) fn as_mut_bytes(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Writes an address; its length in bytes.
    pub(super) fn write(&mut self, address: SocketAddr) -> usize {
        self.bytes = [0; NAME];
        self.bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
        match address {
            SocketAddr::V4(v4) => {
                self.bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
                self.bytes[4..8].copy_from_slice(&v4.ip().octets());
                V4
            }
            SocketAddr::V6(v6) => {
                self.bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
                self.bytes[4..8].copy_from_slice(&v6.flowinfo().to_ne_bytes());
                self.bytes[8..24].copy_from_slice(&v6.ip().octets());
                self.bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
                NAME
            }
        }
    }
}

/// Reads an address; an IPv4 address that came over an IPv6 socket is an IPv4 address. `None` when it is neither, or
/// cut short.
pub(super) fn read(bytes: &[u8]) -> Option<SocketAddr> {
    let family = u16::from_ne_bytes(*bytes.first_chunk()?);
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(family) {
        libc::AF_INET => {
            let octets: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddr::from((Ipv4Addr::from(octets), port)))
        }
        libc::AF_INET6 => {
            let octets: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = u32::from_ne_bytes(bytes.get(24..28)?.try_into().ok()?);
            match Ipv6Addr::from(octets).to_canonical() {
                IpAddr::V4(v4) => Some(SocketAddr::from((v4, port))),
                IpAddr::V6(v6) => Some(std::net::SocketAddrV6::new(v6, port, 0, scope).into()),
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_round_trip() {
        for address in ["192.0.2.1:1194", "[2001:db8::1]:443"] {
            let address: SocketAddr = address.parse().unwrap();
            let mut name = Name::default();
            let len = name.write(address);
            assert_eq!(read(&name.bytes[..len]), Some(address));
            assert_eq!(read(&name.bytes[..len / 4]), None, "cut short");
            assert_eq!(len, socket2::SockAddr::from(address).len() as usize);
        }
    }

    #[test]
    fn a_mapped_address_is_read_as_ipv4() {
        let mut name = Name::default();
        let len = name.write("[::ffff:192.0.2.1]:7".parse().unwrap());
        assert_eq!(read(&name.bytes[..len]), Some("192.0.2.1:7".parse().unwrap()));
    }

    #[test]
    fn another_family_is_no_address() {
        let mut name = Name::default();
        name.write("192.0.2.1:1".parse().unwrap());
        name.bytes[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
        assert_eq!(read(&name.bytes), None);
    }
}
