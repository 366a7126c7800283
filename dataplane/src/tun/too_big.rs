//! The answer to an inner packet that is too long for the tunnel: ICMP "fragmentation needed" (RFC 792, RFC 1191) or ICMPv6
//! "packet too big" (RFC 4443), as a packet for the TUN, and how often such answers are given. What is too long is decided elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::checksum::{Sum, pseudo_header};
use super::ip::{self, IpInfo};

/// The longest answer in bytes: an ICMPv6 error fits the smallest MTU of IPv6 (RFC 4443 §3.2).
pub const MAX_ANSWER: usize = 1280;
/// The longest ICMP error over IPv4 in bytes (RFC 1812 §4.3.2.3).
const MAX_ANSWER_V4: usize = 576;
/// Type, code, checksum and the four bytes that hold the MTU.
const ICMP_HEADER: usize = 8;
/// A smaller MTU than IPv6 has anywhere is not believed (RFC 8201 §4).
const V6_MIN_MTU: usize = 1280;
/// Where errors of routers come from: precedence 6, internetwork control (RFC 1812 §4.3.2.5).
const TOS: u8 = 0xc0;
const HOPS: u8 = 64;
const ICMP: u8 = 1;
const ICMPV6: u8 = 58;
/// IPv6 extension headers that are walked past, at most.
const MAX_EXTENSIONS: usize = 8;

/// Answers at once, after a silence.
const BURST: u64 = 32;
/// One more answer after so many nanoseconds: 100 in a second.
const INTERVAL_NS: u64 = 10_000_000;

/// Who the answers come from. Without an address they come from the destination of the packet, which the TUN leads to, so that no
/// reverse path filter minds; our own address would be refused as a martian.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AnswersFrom {
    /// The gateway inside the tunnel.
    pub v4: Option<Ipv4Addr>,
    /// The gateway inside the tunnel.
    pub v6: Option<Ipv6Addr>,
}

/// Writes the answer to `packet` into `out` and gives its length. `packet` is the first that was refused, its headers and checksums
/// complete, and `ip` what its header says; `mtu` is the longest packet in bytes that would have passed.
///
/// `None` where the RFCs forbid an answer, or where it would say nothing: no DF in an IPv4 packet, an ICMP error, a fragment other than the first,
/// multicast or broadcast, a source that is no single host, an MTU that IPv6 does not go down to.
pub fn answer(packet: &[u8], ip: &IpInfo, mtu: usize, from: &AnswersFrom, out: &mut [u8; MAX_ANSWER]) -> Option<usize> {
    let packet = packet.get(..ip.total)?;
    if mtu >= ip.total {
        return None;
    }
    match (ip.source(packet), ip.destination(packet)) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            let deserves = deserves_v4(packet, ip) && is_host_v4(source) && is_host_v4(target);
            let from = from.v4.filter(|&gateway| gateway != source).unwrap_or(target);
            deserves.then(|| write_v4(packet, mtu, from, source, out))?
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            let deserves = mtu >= V6_MIN_MTU && deserves_v6(packet) && is_host_v6(source) && is_host_v6(target);
            let from = from.v6.filter(|&gateway| gateway != source).unwrap_or(target);
            deserves.then(|| write_v6(packet, mtu, from, source, out))?
        }
        _ => None,
    }
}

/// RFC 1122 §3.2.2: no answer to an ICMP error, nor to a fragment other than the first. Without DF a router would have cut the packet.
fn deserves_v4(packet: &[u8], ip: &IpInfo) -> bool {
    let (Some(&high), Some(&low)) = (packet.get(6), packet.get(7)) else { return false };
    let (dont_fragment, offset) = (high & 0x40 != 0, u16::from_be_bytes([high & 0x1f, low]));
    // Echo, router discovery, timestamp, information, address mask: the messages that are no errors.
    let asks = |kind: &u8| matches!(kind, 0 | 8 | 9 | 10 | 13..=18);
    dont_fragment && offset == 0 && (ip.protocol != ICMP || packet.get(ip.l4).is_some_and(asks))
}

fn is_host_v4(address: Ipv4Addr) -> bool {
    let reserved = address.octets()[0] >= 240;
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast() || reserved)
}

/// RFC 4443 §2.4 (e): no answer to an ICMPv6 error or a redirect.
fn deserves_v6(packet: &[u8]) -> bool {
    let (mut next, mut at) = (packet.get(6).copied(), ip::V6_HEADER);
    for _ in 0..MAX_EXTENSIONS {
        let len = match next {
            Some(ICMPV6) => return packet.get(at).is_some_and(|&kind| kind >= 128 && kind != 137),
            // Hop-by-hop, routing, destination options: 8 bytes, and as many more eights as the header says (RFC 8200 §4).
            Some(0 | 43 | 60) => packet.get(at + 1).map(|&eights| 8 + 8 * usize::from(eights)),
            // A fragment: 13 bits of offset.
            Some(44) => match (packet.get(at + 2), packet.get(at + 3)) {
                (Some(0), Some(low)) if low & 0xf8 == 0 => Some(8),
                _ => None,
            },
            Some(_) => return true,
            None => None,
        };
        let Some(len) = len else { return false };
        (next, at) = (packet.get(at).copied(), at + len);
    }
    false
}

fn is_host_v6(address: Ipv6Addr) -> bool {
    !(address.is_unspecified() || address.is_loopback() || address.is_multicast())
}

fn write_v4(packet: &[u8], mtu: usize, from: Ipv4Addr, to: Ipv4Addr, out: &mut [u8; MAX_ANSWER]) -> Option<usize> {
    let quote = packet.get(..packet.len().min(MAX_ANSWER_V4 - ip::V4_HEADER - ICMP_HEADER))?;
    let total = ip::V4_HEADER + ICMP_HEADER + quote.len();
    let (header, message) = out.get_mut(..total)?.split_at_mut_checked(ip::V4_HEADER)?;
    header.fill(0);
    header[0] = 0x45;
    header[1] = TOS;
    header[2..4].copy_from_slice(&u16::try_from(total).ok()?.to_be_bytes());
    header[8] = HOPS;
    header[9] = ICMP;
    header[12..16].copy_from_slice(&from.octets());
    header[16..20].copy_from_slice(&to.octets());
    let checksum = Sum::default().bytes(header).checksum();
    header[10..12].copy_from_slice(&checksum);
    // Destination unreachable, fragmentation needed; the MTU in the last two of the unused bytes (RFC 1191 §4).
    let [high, low] = u16::try_from(mtu).ok()?.to_be_bytes();
    message[..ICMP_HEADER].copy_from_slice(&[3, 4, 0, 0, 0, 0, high, low]);
    message[ICMP_HEADER..].copy_from_slice(quote);
    let checksum = Sum::default().bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum);
    Some(total)
}

fn write_v6(packet: &[u8], mtu: usize, from: Ipv6Addr, to: Ipv6Addr, out: &mut [u8; MAX_ANSWER]) -> Option<usize> {
    let quote = packet.get(..packet.len().min(MAX_ANSWER - ip::V6_HEADER - ICMP_HEADER))?;
    let total = ip::V6_HEADER + ICMP_HEADER + quote.len();
    let (header, message) = out.get_mut(..total)?.split_at_mut_checked(ip::V6_HEADER)?;
    header.fill(0);
    header[0] = 0x60;
    header[4..6].copy_from_slice(&u16::try_from(message.len()).ok()?.to_be_bytes());
    header[6] = ICMPV6;
    header[7] = HOPS;
    header[8..24].copy_from_slice(&from.octets());
    header[24..40].copy_from_slice(&to.octets());
    message[..4].copy_from_slice(&[2, 0, 0, 0]);
    message[4..8].copy_from_slice(&u32::try_from(mtu).ok()?.to_be_bytes());
    message[ICMP_HEADER..].copy_from_slice(quote);
    let pseudo = pseudo_header(&header[8..40], ICMPV6, message.len());
    let checksum = pseudo.bytes(message).checksum();
    message[2..4].copy_from_slice(&checksum);
    Some(total)
}

/// A bucket of tokens: [`BURST`] at most, one more every [`INTERVAL_NS`].
#[derive(Debug, Default)]
struct Bucket {
    /// When it will be full again, in nanoseconds.
    full_ns: u64,
}

impl Bucket {
    fn take(&mut self, now_ns: u64) -> bool {
        let full_ns = self.full_ns.max(now_ns).saturating_add(INTERVAL_NS);
        let granted = full_ns - now_ns <= BURST * INTERVAL_NS;
        if granted {
            self.full_ns = full_ns;
        }
        granted
    }
}

/// What of the tunnel limits an inner packet's length, and the answer that waits for the TUN, one at a time: whoever gets none asks
/// again by sending again.
#[derive(Debug)]
pub struct TooBig {
    /// The tunnel's MTU in bytes.
    pub tunnel_mtu: usize,
    /// The longest UDP payload in bytes that may be sent: by the path where fragments are forbidden, else by UDP.
    pub max_payload: usize,
    /// Whom the answers come from.
    pub from: AnswersFrom,
    bucket: Bucket,
    noticed: bool,
    answer: Box<[u8; MAX_ANSWER]>,
    len: usize,
}

impl TooBig {
    /// No limits but `max_payload` bytes.
    pub fn new(max_payload: usize) -> Self {
        TooBig {
            tunnel_mtu: usize::MAX,
            max_payload,
            from: AnswersFrom::default(),
            bucket: Bucket::default(),
            noticed: false,
            answer: Box::new([0; MAX_ANSWER]),
            len: 0,
        }
    }

    /// The longest inner packet that passes, in bytes, when sealing adds `overhead` bytes.
    #[inline]
    pub fn longest(&self, overhead: usize) -> usize {
        self.tunnel_mtu.min(self.max_payload.saturating_sub(overhead))
    }

    /// Whether a packet that was refused now is worth looking at: not too many were.
    pub fn grant(&mut self, now_ns: u64) -> bool {
        let granted = !self.noticed && self.bucket.take(now_ns);
        self.noticed |= granted;
        granted
    }

    /// Prepares the answer, see [`answer`].
    pub fn prepare(&mut self, packet: &[u8], ip: &IpInfo, mtu: usize) {
        self.len = answer(packet, ip, mtu, &self.from, &mut self.answer).unwrap_or(0);
    }

    /// Whether a packet was refused since the last [`take`](Self::take).
    #[inline]
    pub fn noticed(&self) -> bool {
        self.noticed
    }

    /// The answer that waits, once; `None` when none is due.
    pub fn take(&mut self) -> Option<&[u8]> {
        self.noticed = false;
        let len = std::mem::take(&mut self.len);
        self.answer.get(..len).filter(|answer| !answer.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

    /// UDP of 10.8.0.2:1 to 192.0.2.1:2 with DF, `len` bytes in all.
    fn v4(len: u16) -> Vec<u8> {
        let mut packet = vec![0; usize::from(len)];
        packet[..20].copy_from_slice(&[0x45, 0, 0, 0, 0, 1, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 2, 192, 0, 2, 1]);
        packet[2..4].copy_from_slice(&len.to_be_bytes());
        packet[20..28].copy_from_slice(&[0, 1, 0, 2, 0, 0, 0, 0]);
        packet
    }

    /// UDP of fd00::2 to 2001:db8::1, `len` bytes in all.
    fn v6(len: u16) -> Vec<u8> {
        let mut packet = vec![0; usize::from(len)];
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&(len - 40).to_be_bytes());
        packet[6] = ip::UDP;
        packet[7] = 64;
        packet[8] = 0xfd;
        packet[23] = 2;
        packet[24..28].copy_from_slice(&[0x20, 1, 0x0d, 0xb8]);
        packet[39] = 1;
        packet
    }

    fn answer_of(packet: &[u8], mtu: usize, from: AnswersFrom) -> Option<Vec<u8>> {
        let mut out = [0xaa; MAX_ANSWER];
        let ip = ip::parse(packet).unwrap();
        answer(packet, &ip, mtu, &from, &mut out).map(|len| out[..len].to_vec())
    }

    fn answered(packet: &[u8]) -> bool {
        answer_of(packet, 1300, AnswersFrom::default()).is_some()
    }

    fn changed(mut packet: Vec<u8>, at: usize, byte: u8) -> Vec<u8> {
        packet[at] = byte;
        packet
    }

    #[test]
    fn fragmentation_needed_has_these_bytes() {
        let packet = v4(1400);
        let from = AnswersFrom { v4: Some(GATEWAY), v6: None };
        let answer = answer_of(&packet, 1352, from).unwrap();
        assert_eq!(answer.len(), 576);
        // Both checksums were reckoned word by word, elsewhere (RFC 1071 §4.1).
        assert_eq!(
            answer[..28],
            [
                0x45, 0xc0, 0x02, 0x40, 0, 0, 0, 0, 64, 1, 0x63, 0xeb, 10, 8, 0, 1, 10, 8, 0, 2, //
                3, 4, 0x61, 0x1a, 0, 0, 0x05, 0x48
            ]
        );
        assert_eq!(answer[28..], packet[..548]);
    }

    #[test]
    fn packet_too_big_has_these_bytes() {
        let packet = v6(1400);
        let from = AnswersFrom { v4: None, v6: Some("fd00::1".parse().unwrap()) };
        let answer = answer_of(&packet, 1320, from).unwrap();
        assert_eq!(answer.len(), 1280);
        let mut header = vec![0x60, 0, 0, 0, 0x04, 0xd8, 58, 64];
        header.extend("fd00::1".parse::<Ipv6Addr>().unwrap().octets());
        header.extend("fd00::2".parse::<Ipv6Addr>().unwrap().octets());
        assert_eq!(answer[..40], header);
        assert_eq!((answer[40], answer[41]), (2, 0));
        assert_eq!(answer[44..48], [0, 0, 0x05, 0x28]);
        assert_eq!(answer[48..], packet[..1232]);
        // By the rule of RFC 4443 §2.3, word by word.
        let mut words: u32 = 58 + 1240;
        for pair in answer[8..].chunks(2) {
            words += u32::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        assert_eq!((words & 0xffff) + (words >> 16), 0xffff);
    }

    #[test]
    fn a_short_packet_is_quoted_whole() {
        let packet = v4(300);
        let answer = answer_of(&packet, 299, AnswersFrom::default()).unwrap();
        assert_eq!(answer[28..], packet);
        assert!(answer_of(&packet, 300, AnswersFrom::default()).is_none(), "it fits");
    }

    #[test]
    fn without_a_gateway_the_destination_answers() {
        assert_eq!(answer_of(&v4(1400), 1300, AnswersFrom::default()).unwrap()[12..16], [192, 0, 2, 1]);
        let own = AnswersFrom { v4: Some([10, 8, 0, 2].into()), v6: None };
        assert_eq!(answer_of(&v4(1400), 1300, own).unwrap()[12..16], [192, 0, 2, 1], "never from the source itself");
        assert_eq!(answer_of(&v6(1400), 1300, AnswersFrom::default()).unwrap()[8..24], v6(1400)[24..40]);
    }

    #[test]
    fn what_the_rfcs_forbid_is_not_answered() {
        assert!(answered(&v4(1400)) && answered(&v6(1400)));
        assert!(!answered(&changed(v4(1400), 6, 0)), "without DF");
        assert!(!answered(&changed(v4(1400), 7, 1)), "a later fragment");
        assert!(answered(&changed(v4(1400), 6, 0x60)), "the first fragment");
        assert!(!answered(&changed(v4(1400), 16, 224)), "to a group");
        assert!(!answered(&changed(v4(1400), 16, 255)), "to everybody");
        assert!(!answered(&changed(v4(1400), 12, 239)), "from a group");
        assert!(!answered(&changed(v4(1400), 12, 127)), "from the loopback");
        assert!(!answered(&changed(v6(1400), 24, 0xff)), "to a group");
        assert!(!answered(&changed(v6(1400), 8, 0xff)), "from a group");
        let nobody = [&v6(1400)[..8], &[0; 16], &v6(1400)[24..]].concat();
        assert!(!answered(&nobody), "from nobody");
        assert!(answer_of(&v6(1400), 1279, AnswersFrom::default()).is_none(), "less than IPv6 has anywhere");
        assert!(answer_of(&v6(1400), 1280, AnswersFrom::default()).is_some());
        assert!(answer_of(&v4(1400), 600, AnswersFrom::default()).is_some());
    }

    #[test]
    fn icmp_is_answered_when_it_asks_and_not_when_it_complains() {
        let v4_of = |kind| changed(changed(v4(1400), 9, ICMP), 20, kind);
        for (kind, expected) in
            [(8, true), (0, true), (13, true), (3, false), (4, false), (5, false), (11, false), (12, false)]
        {
            assert_eq!(answered(&v4_of(kind)), expected, "ICMP type {kind}");
        }
        let v6_of = |kind| changed(changed(v6(1400), 6, ICMPV6), 40, kind);
        for (kind, expected) in
            [(128, true), (129, true), (135, true), (1, false), (2, false), (127, false), (137, false)]
        {
            assert_eq!(answered(&v6_of(kind)), expected, "ICMPv6 type {kind}");
        }
    }

    #[test]
    fn extension_headers_are_walked() {
        let behind = |extension: u8, bytes: [u8; 8], kind: u8| {
            let mut packet = changed(v6(1400), 6, extension);
            packet[40..48].copy_from_slice(&bytes);
            packet[48] = kind;
            answered(&packet)
        };
        for extension in [0, 43, 60] {
            assert!(behind(extension, [ICMPV6, 0, 0, 0, 0, 0, 0, 0], 128));
            assert!(!behind(extension, [ICMPV6, 0, 0, 0, 0, 0, 0, 0], 1));
        }
        assert!(behind(44, [ICMPV6, 0, 0, 1, 0, 0, 0, 9], 128), "the first fragment");
        assert!(!behind(44, [ICMPV6, 0, 0, 8, 0, 0, 0, 9], 128), "the second");
        assert!(!behind(44, [ICMPV6, 0, 1, 0, 0, 0, 0, 9], 128), "a later one");
        assert!(!behind(0, [0, 0, 0, 0, 0, 0, 0, 0], 0), "an endless chain");
        assert!(!behind(0, [ICMPV6, 255, 0, 0, 0, 0, 0, 0], 128), "a chain that leads out of the packet");
    }

    #[test]
    fn answers_are_rationed() {
        let mut too_big = TooBig::new(65_507);
        let mut ask = |now_ns| {
            let granted = too_big.grant(now_ns);
            too_big.take();
            granted
        };
        let start = 5_000_000_000;
        assert_eq!((0..100).filter(|_| ask(start)).count() as u64, BURST);
        assert!(!ask(start + INTERVAL_NS - 1));
        assert!(ask(start + INTERVAL_NS));
        assert!(!ask(start + INTERVAL_NS));
        assert_eq!((0..100).filter(|_| ask(start + 1_000 * INTERVAL_NS)).count() as u64, BURST, "no more are saved up");
        assert!(!ask(start), "a clock that stood still");
    }

    #[test]
    fn one_answer_waits_at_a_time() {
        let mut too_big = TooBig::new(1_400);
        assert_eq!(too_big.longest(24), 1_376);
        too_big.tunnel_mtu = 1_300;
        assert_eq!(too_big.longest(24), 1_300);
        assert!(too_big.take().is_none());
        let packet = v4(1400);
        assert!(too_big.grant(0) && !too_big.grant(0));
        too_big.prepare(&packet, &ip::parse(&packet).unwrap(), 1300);
        assert!(too_big.noticed());
        assert_eq!(too_big.take().unwrap().len(), 576);
        assert!(!too_big.noticed() && too_big.take().is_none());
    }
}
