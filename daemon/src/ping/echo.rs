//! Echo requests and what comes back: IP packets to and from their parts. ICMP is RFC 792 and RFC 4443; the layouts are `smoltcp`'s.

use std::net::IpAddr;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    Icmpv4DstUnreachable, Icmpv4Message, Icmpv4Packet, Icmpv4Repr, Icmpv4TimeExceeded, Icmpv6DstUnreachable,
    Icmpv6Message, Icmpv6Packet, Icmpv6ParamProblem, Icmpv6Repr, Icmpv6TimeExceeded, IpProtocol, Ipv4Packet, Ipv4Repr,
    Ipv6Packet, Ipv6Repr,
};

/// Bytes of an ICMP header, with its identifier and sequence number.
pub(super) const ICMP_HEADER: usize = 8;
const IPV4_HEADER: usize = 20;
const IPV6_HEADER: usize = 40;

/// Bytes of the headers before a payload towards that address.
pub(super) fn headers(to: IpAddr) -> usize {
    ICMP_HEADER + if to.is_ipv4() { IPV4_HEADER } else { IPV6_HEADER }
}

/// One echo request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'a> {
    /// Our address in the tunnel.
    pub source: IpAddr,
    /// Who is to answer.
    pub destination: IpAddr,
    /// The most routers on the way.
    pub hop_limit: u8,
    /// Whose request it is.
    pub ident: u16,
    /// Which one.
    pub sequence: u16,
    /// What comes back unchanged.
    pub payload: &'a [u8],
}

impl Request<'_> {
    /// The packet (IPv4: not to be fragmented). `None` when the addresses are of two families, or it is longer than IP permits.
    pub(super) fn packet(&self) -> Option<Vec<u8>> {
        let payload_len = ICMP_HEADER + self.payload.len();
        let (ident, seq_no, data) = (self.ident, self.sequence, self.payload);
        let (next_header, hop_limit) = (IpProtocol::Icmp, self.hop_limit);
        let checksums = ChecksumCapabilities::default();
        let mut packet = vec![0; headers(self.destination) + self.payload.len()];
        if packet.len() > usize::from(u16::MAX) {
            return None;
        }
        match (self.source, self.destination) {
            (IpAddr::V4(src_addr), IpAddr::V4(dst_addr)) => {
                let ip = Ipv4Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
                ip.emit(&mut Ipv4Packet::new_unchecked(&mut packet[..]), &checksums);
                let icmp = Icmpv4Repr::EchoRequest { ident, seq_no, data };
                icmp.emit(&mut Icmpv4Packet::new_unchecked(&mut packet[IPV4_HEADER..]), &checksums);
            }
            (IpAddr::V6(src_addr), IpAddr::V6(dst_addr)) => {
                let next_header = IpProtocol::Icmpv6;
                let ip = Ipv6Repr { src_addr, dst_addr, next_header, payload_len, hop_limit };
                ip.emit(&mut Ipv6Packet::new_unchecked(&mut packet[..]));
                let icmp = Icmpv6Repr::EchoRequest { ident, seq_no, data };
                let mut place = Icmpv6Packet::new_unchecked(&mut packet[IPV6_HEADER..]);
                icmp.emit(&src_addr, &dst_addr, &mut place, &checksums);
            }
            _ => return None,
        }
        Some(packet)
    }
}

/// What a packet out of the tunnel is to us.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Incoming<'a> {
    /// An echo reply, perhaps to us.
    Reply(Reply<'a>),
    /// A router or a host has no use for a request of ours, perhaps.
    Error(IcmpError),
    /// Anything else.
    Other,
}

/// An echo reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply<'a> {
    /// Who sent it.
    pub from: IpAddr,
    /// What is left of its hop limit.
    pub hop_limit: u8,
    /// Whose request is answered.
    pub ident: u16,
    /// Which one.
    pub sequence: u16,
    /// What came back.
    pub payload: &'a [u8],
    /// In which state.
    pub state: State,
}

/// How a reply came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// Whole, and its checksums are right.
    Sound,
    /// Shorter than its IP header says.
    Cut,
    /// A checksum is wrong.
    BadChecksum,
}

/// An ICMP error about an echo request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct IcmpError {
    /// Who complains.
    pub from: IpAddr,
    /// Whose request it is about.
    pub ident: u16,
    /// Which one.
    pub sequence: u16,
    /// Where that was sent to.
    pub destination: IpAddr,
    /// The complaint, in words.
    pub what: String,
}

/// Reads a packet.
pub(super) fn read(packet: &[u8]) -> Incoming<'_> {
    let read = match packet.first().map(|first| first >> 4) {
        Some(4) => read_v4(packet),
        Some(6) => read_v6(packet),
        _ => None,
    };
    read.unwrap_or(Incoming::Other)
}

fn read_v4(packet: &[u8]) -> Option<Incoming<'_>> {
    let ip = packet.get(..IPV4_HEADER).map(|_| Ipv4Packet::new_unchecked(packet))?;
    let (header, total) = (usize::from(ip.header_len()), usize::from(ip.total_len()));
    let fragment = ip.more_frags() || ip.frag_offset() != 0;
    if ip.next_header() != IpProtocol::Icmp || fragment || header < IPV4_HEADER || packet.len() < header {
        return None;
    }
    let body = packet.get(header..total.min(packet.len()))?;
    let icmp = Icmpv4Packet::new_checked(body).ok()?;
    let state = state(packet.len() < total, || ip.verify_checksum() && icmp.verify_checksum());
    let from = IpAddr::V4(ip.src_addr());
    match icmp.msg_type() {
        Icmpv4Message::EchoReply if icmp.msg_code() == 0 => Some(Incoming::Reply(Reply {
            from,
            hop_limit: ip.hop_limit(),
            ident: icmp.echo_ident(),
            sequence: icmp.echo_seq_no(),
            payload: body.get(ICMP_HEADER..)?,
            state,
        })),
        kind if state == State::Sound => {
            let what = complaint_v4(kind, icmp.msg_code(), body)?;
            error_v4(from, what, body.get(ICMP_HEADER..)?)
        }
        _ => None,
    }
}

/// Routers quote the packet that they complain about: its header and at least 8 bytes more (RFC 792), which is all of a request's own.
fn error_v4(from: IpAddr, what: String, quoted: &[u8]) -> Option<Incoming<'static>> {
    let ip = quoted.get(..IPV4_HEADER).map(|_| Ipv4Packet::new_unchecked(quoted))?;
    let icmp = Icmpv4Packet::new_checked(quoted.get(usize::from(ip.header_len())..)?).ok()?;
    let ours = ip.next_header() == IpProtocol::Icmp && icmp.msg_type() == Icmpv4Message::EchoRequest;
    let (ident, sequence) = (icmp.echo_ident(), icmp.echo_seq_no());
    let destination = IpAddr::V4(ip.dst_addr());
    ours.then_some(Incoming::Error(IcmpError { from, ident, sequence, destination, what }))
}

fn read_v6(packet: &[u8]) -> Option<Incoming<'_>> {
    let ip = packet.get(..IPV6_HEADER).map(|_| Ipv6Packet::new_unchecked(packet))?;
    if ip.next_header() != IpProtocol::Icmpv6 {
        return None;
    }
    let body = packet.get(IPV6_HEADER..ip.total_len().min(packet.len()))?;
    let icmp = Icmpv6Packet::new_checked(body).ok()?;
    let (source, destination) = (ip.src_addr(), ip.dst_addr());
    let state = state(packet.len() < ip.total_len(), || icmp.verify_checksum(&source, &destination));
    let from = IpAddr::V6(source);
    match icmp.msg_type() {
        Icmpv6Message::EchoReply if icmp.msg_code() == 0 => Some(Incoming::Reply(Reply {
            from,
            hop_limit: ip.hop_limit(),
            ident: icmp.echo_ident(),
            sequence: icmp.echo_seq_no(),
            payload: body.get(ICMP_HEADER..)?,
            state,
        })),
        kind if state == State::Sound => {
            let what = complaint_v6(kind, icmp.msg_code(), body)?;
            error_v6(from, what, body.get(ICMP_HEADER..)?)
        }
        _ => None,
    }
}

fn error_v6(from: IpAddr, what: String, quoted: &[u8]) -> Option<Incoming<'static>> {
    let ip = quoted.get(..IPV6_HEADER).map(|_| Ipv6Packet::new_unchecked(quoted))?;
    // Of kinds that it does not know, smoltcp takes shorter ones for whole.
    let icmp = quoted.get(IPV6_HEADER..).filter(|icmp| icmp.len() >= ICMP_HEADER)?;
    let icmp = Icmpv6Packet::new_checked(icmp).ok()?;
    let ours = ip.next_header() == IpProtocol::Icmpv6 && icmp.msg_type() == Icmpv6Message::EchoRequest;
    let (ident, sequence) = (icmp.echo_ident(), icmp.echo_seq_no());
    let destination = IpAddr::V6(ip.dst_addr());
    ours.then_some(Incoming::Error(IcmpError { from, ident, sequence, destination, what }))
}

fn state(cut: bool, sums_are_right: impl FnOnce() -> bool) -> State {
    match cut {
        true => State::Cut,
        false if sums_are_right() => State::Sound,
        false => State::BadChecksum,
    }
}

/// What an ICMP message says of a packet; `None` when it is no complaint.
fn complaint_v4(kind: Icmpv4Message, code: u8, body: &[u8]) -> Option<String> {
    Some(match kind {
        Icmpv4Message::DstUnreachable => match Icmpv4DstUnreachable::from(code) {
            Icmpv4DstUnreachable::FragRequired => format!("packet too big, MTU {}", mtu(body.get(6..8)?)),
            Icmpv4DstUnreachable::Unknown(code) => format!("destination unreachable, code {code}"),
            reason => reason.to_string(),
        },
        Icmpv4Message::TimeExceeded => match Icmpv4TimeExceeded::from(code) {
            Icmpv4TimeExceeded::Unknown(code) => format!("time exceeded, code {code}"),
            reason => reason.to_string(),
        },
        Icmpv4Message::ParamProblem => format!("parameter problem, code {code}"),
        _ => return None,
    })
}

fn complaint_v6(kind: Icmpv6Message, code: u8, body: &[u8]) -> Option<String> {
    Some(match kind {
        Icmpv6Message::DstUnreachable => match Icmpv6DstUnreachable::from(code) {
            Icmpv6DstUnreachable::Unknown(code) => format!("destination unreachable, code {code}"),
            reason => reason.to_string(),
        },
        Icmpv6Message::PktTooBig => format!("packet too big, MTU {}", mtu(body.get(4..8)?)),
        Icmpv6Message::TimeExceeded => match Icmpv6TimeExceeded::from(code) {
            Icmpv6TimeExceeded::Unknown(code) => format!("time exceeded, code {code}"),
            reason => reason.to_string(),
        },
        Icmpv6Message::ParamProblem => match Icmpv6ParamProblem::from(code) {
            Icmpv6ParamProblem::Unknown(code) => format!("parameter problem, code {code}"),
            reason => reason.to_string().trim_end_matches('.').to_owned(),
        },
        _ => return None,
    })
}

fn mtu(field: &[u8]) -> u32 {
    field.iter().fold(0, |sum, &byte| sum << 8 | u32::from(byte))
}

#[cfg(test)]
mod tests {
    use super::super::responder;
    use super::*;

    const FAMILIES: [(&str, &str, &str); 2] = [("10.8.0.2", "10.8.0.1", "10.9.9.9"), ("fd00::2", "fd00::1", "fd99::9")];

    fn request<'a>(family: (&str, &str, &str), payload: &'a [u8]) -> Request<'a> {
        let (source, destination) = (family.0.parse().unwrap(), family.1.parse().unwrap());
        Request { source, destination, hop_limit: 9, ident: 0x1234, sequence: 0xFFFE, payload }
    }

    #[test]
    fn a_request_has_the_documented_bytes() {
        let bytes = request(FAMILIES[0], &[0xAA, 0xBB]).packet().unwrap();
        let expected = [
            0x45, 0, 0, 30, 0, 0, 0x40, 0, 9, 1, 0x5D, 0xCD, 10, 8, 0, 2, 10, 8, 0, 1, // IPv4: DF, TTL 9, ICMP
            8, 0, 0x3B, 0x11, 0x12, 0x34, 0xFF, 0xFE, 0xAA, 0xBB,
        ];
        assert_eq!(bytes, expected);
        let bytes = request(FAMILIES[1], &[0xAA]).packet().unwrap();
        assert_eq!(bytes[..8], [0x60, 0, 0, 0, 0, 9, 58, 9]);
        assert_eq!((bytes[40], bytes[41], &bytes[44..]), (128, 0, &[0x12, 0x34, 0xFF, 0xFE, 0xAA][..]));
    }

    #[test]
    fn two_families_make_no_packet_and_neither_does_one_that_is_too_long() {
        let mut mixed = request(FAMILIES[0], &[]);
        mixed.destination = "fd00::1".parse().unwrap();
        assert_eq!(mixed.packet(), None);
        assert_eq!(request(FAMILIES[0], &[0; 65_508]).packet(), None);
        assert_eq!(request(FAMILIES[0], &[0; 65_507]).packet().unwrap().len(), 65_535);
    }

    #[test]
    fn a_reply_is_read_in_both_families() {
        for family in FAMILIES {
            let sent = request(family, &[1, 2, 3]).packet().unwrap();
            let bytes = responder::reply(&sent).unwrap();
            let Incoming::Reply(reply) = read(&bytes) else { panic!("{bytes:?}") };
            assert_eq!((reply.from, reply.state), (family.1.parse().unwrap(), State::Sound));
            assert_eq!((reply.ident, reply.sequence, reply.payload), (0x1234, 0xFFFE, &[1, 2, 3][..]));
            assert_eq!(reply.hop_limit, 64);
            assert_eq!(read(&sent), Incoming::Other, "a request is no reply");
        }
    }

    #[test]
    fn every_flipped_bit_of_a_reply_is_noticed_or_makes_it_something_else() {
        for family in FAMILIES {
            let good = responder::reply(&request(family, &[1, 2, 3]).packet().unwrap()).unwrap();
            // Of the IPv6 header only addresses and protocol are covered by a sum.
            let from = if family.0.contains(':') { 8 } else { 0 };
            for bit in from * 8..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                assert!(!matches!(read(&bad), Incoming::Reply(Reply { state: State::Sound, .. })), "{bit}");
            }
        }
    }

    #[test]
    fn a_cut_reply_is_cut_and_no_length_panics() {
        for family in FAMILIES {
            let good = responder::reply(&request(family, &[1, 2, 3]).packet().unwrap()).unwrap();
            let headers = good.len() - 3;
            for len in 0..good.len() {
                match read(&good[..len]) {
                    Incoming::Reply(reply) => {
                        assert_eq!((reply.state, reply.payload.len()), (State::Cut, len - headers));
                    }
                    other => assert!(len < headers && other == Incoming::Other, "{len}: {other:?}"),
                }
            }
            // What follows the packet is not part of it.
            let longer = [&good[..], &[7; 9]].concat();
            assert!(matches!(read(&longer), Incoming::Reply(Reply { state: State::Sound, payload: [1, 2, 3], .. })));
        }
    }

    #[test]
    fn a_fragment_is_not_looked_at() {
        let good = responder::reply(&request(FAMILIES[0], &[1; 64]).packet().unwrap()).unwrap();
        for (at, bits) in [(6, 0x20), (7, 1)] {
            let mut bad = good.clone();
            bad[at] |= bits;
            assert_eq!(read(&bad), Incoming::Other);
        }
    }

    #[test]
    fn errors_say_what_is_wrong_with_which_request() {
        let table = [
            (0, (3, 0), "destination network unreachable"),
            (0, (3, 1), "destination host unreachable"),
            (0, (3, 4), "packet too big, MTU 1280"),
            (0, (3, 99), "destination unreachable, code 99"),
            (0, (11, 0), "time-to-live exceeded in transit"),
            (0, (12, 1), "parameter problem, code 1"),
            (1, (1, 0), "no route to destination"),
            (1, (1, 3), "address unreachable"),
            (1, (2, 0), "packet too big, MTU 1280"),
            (1, (3, 0), "hop limit exceeded in transit"),
            (1, (4, 1), "unrecognized next header type"),
        ];
        for (family, (kind, code), words) in table {
            let family = FAMILIES[family];
            let sent = request(family, &[5; 40]).packet().unwrap();
            for quoted in [headers(family.1.parse().unwrap()), sent.len()] {
                let bytes = responder::error(&sent[..quoted], family.2.parse().unwrap(), kind, code, 1_280);
                let Incoming::Error(error) = read(&bytes) else { panic!("{words}: {bytes:?}") };
                assert_eq!((error.what.as_str(), error.from), (words, family.2.parse().unwrap()));
                assert_eq!((error.ident, error.sequence), (0x1234, 0xFFFE));
                assert_eq!(error.destination, family.1.parse::<IpAddr>().unwrap());
            }
            let less = headers(family.1.parse().unwrap()) - 1;
            let bytes = responder::error(&sent[..less], family.2.parse().unwrap(), kind, code, 1_280);
            assert_eq!(read(&bytes), Incoming::Other, "too little is quoted");
        }
    }

    #[test]
    fn an_error_about_something_else_or_with_a_wrong_sum_is_not_ours() {
        for (family, kind, icmp) in [(FAMILIES[0], 3, 20), (FAMILIES[1], 1, 40)] {
            let mut sent = request(family, &[]).packet().unwrap();
            let mut damaged = responder::error(&sent, family.2.parse().unwrap(), kind, 0, 0);
            assert!(matches!(read(&damaged), Incoming::Error(_)));
            damaged[icmp + 2] ^= 1;
            assert_eq!(read(&damaged), Incoming::Other);
            for other in [0, 129, 200, 255] {
                sent[icmp] = other; // a reply, or something that nobody knows
                for quoted in icmp..=sent.len() {
                    let about = responder::error(&sent[..quoted], family.2.parse().unwrap(), kind, 0, 0);
                    assert_eq!(read(&about), Incoming::Other, "{other}, {quoted}");
                }
            }
        }
    }
}
