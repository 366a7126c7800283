//! Datagrams with a source address that is not the sender's, for what strangers do to a gateway.

use crate::netns::Ns;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::net::{Ipv4Addr, SocketAddrV4};

/// Bytes of an IPv4 header without options (RFC 791).
const IP: usize = 20;
/// Bytes of a UDP header (RFC 768).
const UDP: usize = 8;
/// `SOCK_RAW`, socket(2).
const SOCK_RAW: i32 = 3;
/// `IPPROTO_RAW`, raw(7): the sender writes the IP header itself.
const IPPROTO_RAW: i32 = 255;

/// Sends IPv4 datagrams as from anywhere.
#[derive(Debug)]
pub struct Forger {
    socket: Socket,
    target: SocketAddrV4,
}

impl Forger {
    /// From this namespace to this address.
    pub fn new(ns: &Ns, target: SocketAddrV4) -> Self {
        let raw = || Socket::new(Domain::IPV4, Type::from(SOCK_RAW), Some(Protocol::from(IPPROTO_RAW)));
        let socket = ns.inside(|| raw().expect("root may make a raw socket"));
        Self { socket, target }
    }

    /// Sends one datagram as from this address; whether the kernel took it.
    pub fn send(&self, source: SocketAddrV4, payload: &[u8]) -> bool {
        let to = SockAddr::from(SocketAddrV4::new(*self.target.ip(), 0));
        self.socket.send_to(&datagram(source, self.target, payload), &to).is_ok()
    }
}

/// The whole packet. The kernel fills in length, identification and checksum of the IP header (raw(7)); UDP may do without a
/// checksum over IPv4.
fn datagram(source: SocketAddrV4, target: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0u8; IP + UDP];
    packet[0] = 0x45;
    packet[8] = 64;
    packet[9] = 17;
    packet[12..16].copy_from_slice(&source.ip().octets());
    packet[16..20].copy_from_slice(&target.ip().octets());
    packet[20..22].copy_from_slice(&source.port().to_be_bytes());
    packet[22..24].copy_from_slice(&target.port().to_be_bytes());
    let length = u16::try_from(UDP + payload.len()).expect("a datagram is shorter than 64 KiB");
    packet[24..26].copy_from_slice(&length.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// A client's first packet without any protection: P_CONTROL_HARD_RESET_CLIENT_V2 of this session, message 0.
pub fn hard_reset(session: u64) -> Vec<u8> {
    let mut packet = vec![7 << 3];
    packet.extend_from_slice(&session.to_be_bytes());
    packet.extend_from_slice(&[0; 5]);
    packet
}

/// A client's second packet without any protection: P_CONTROL_V1 of this session with message 1, which acknowledges message 0
/// of the server's session.
pub fn second(session: u64, server: u64, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![4 << 3];
    packet.extend_from_slice(&session.to_be_bytes());
    packet.extend_from_slice(&[1, 0, 0, 0, 0]);
    packet.extend_from_slice(&server.to_be_bytes());
    packet.extend_from_slice(&1u32.to_be_bytes());
    packet.extend_from_slice(payload);
    packet
}

/// The server's session in its answer to a reset, as long as that acknowledges one message.
pub fn session_of_answer(packet: &[u8]) -> Option<u64> {
    let session = packet.get(1..9)?.first_chunk()?;
    (packet.first()? >> 3 == 8).then(|| u64::from_be_bytes(*session))
}

/// An address of the prefixes 10.200.0.0/24, 10.200.1.0/24, …: host `host` (1 to 254) of prefix number `prefix` (below 256).
pub fn stranger(prefix: u32, host: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::new(10, 200, 0, 0).to_bits() + prefix % 256 * 256 + 1 + host % 254)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forged_datagram_has_its_addresses_and_its_length() {
        let source = SocketAddrV4::new(stranger(1, 4), 4000);
        let got = datagram(source, SocketAddrV4::new(Ipv4Addr::new(10, 71, 2, 2), 1194), b"abc");
        assert_eq!((got.len(), &got[12..16], got[9]), (31, [10, 200, 1, 5].as_slice(), 17));
        assert_eq!((&got[20..22], &got[24..26]), ([0x0f, 0xa0].as_slice(), [0, 11].as_slice()));
    }

    #[test]
    fn control_packets_are_as_the_protocol_writes_them() {
        assert_eq!(hard_reset(1), [0x38, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]);
        let got = second(1, 2, b"x");
        assert_eq!((got.len(), got[0], got[9], got[21], got[25]), (27, 0x20, 1, 2, 1));
        assert_eq!(session_of_answer(&[0x40, 0, 0, 0, 0, 0, 0, 0, 9, 1]), Some(9));
        assert_eq!(session_of_answer(&hard_reset(9)), None);
    }
}
