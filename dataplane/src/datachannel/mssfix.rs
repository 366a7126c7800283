//! TCP connections through the tunnel announce segments that fit: the MSS option of a SYN is lowered, in both directions
//! (OpenVPN's `mssfix`). Only whole packets with a plain TCP header are touched; whatever looks odd passes unchanged.

use crate::tun::checksum;
use crate::tun::ip::{self, IpInfo};

/// The largest MSS that a SYN may announce, per inner address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MssLimits {
    /// For inner IPv4, in bytes of TCP payload.
    pub v4: u16,
    /// For inner IPv6.
    pub v6: u16,
}

/// The forms of the `mssfix` directive. Sizes in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MssFix {
    /// `mssfix N mtu`: the outer packet has at most N bytes, IP and UDP headers included. 1,492 is the default.
    Mtu(u16),
    /// `mssfix N`: the UDP payload has at most N bytes.
    Payload(u16),
    /// `mssfix N fixed`: the inner packet has at most N bytes.
    Fixed(u16),
}

/// The default of `mssfix` at a tun-mtu of 1,500.
pub const DEFAULT: MssFix = MssFix::Mtu(1492);

/// What the transport adds to an inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transport {
    /// Outer IPv6 rather than IPv4.
    pub v6: bool,
    /// TCP rather than UDP.
    pub stream: bool,
    /// What a data packet is longer than its plaintext, in bytes:
    /// [`SendHeader::overhead`](super::header::SendHeader::overhead).
    pub data_overhead: usize,
}

/// No SYN is clamped below this: a limit so small is a mistake, and a peer could not use it.
const SMALLEST: usize = 64;

/// The limits that follow from the directive and the transport.
pub fn mss_limits(fix: MssFix, transport: Transport) -> MssLimits {
    let framing = if transport.stream { 2 } else { 0 };
    let outer = if transport.v6 { 40 } else { 20 } + if transport.stream { 20 } else { 8 };
    let inner = match fix {
        MssFix::Mtu(bytes) => usize::from(bytes).saturating_sub(transport.data_overhead + framing + outer),
        MssFix::Payload(bytes) => usize::from(bytes).saturating_sub(transport.data_overhead + framing),
        MssFix::Fixed(bytes) => usize::from(bytes),
    };
    // At most 65,535, as what it comes from.
    let limit = |headers: usize| inner.saturating_sub(headers).max(SMALLEST) as u16;
    MssLimits { v4: limit(40), v6: limit(60) }
}

const FLAGS: usize = 13;
const SYN: u8 = 2;
const CHECKSUM: usize = 16;
const OPTION_END: u8 = 0;
const OPTION_NOP: u8 = 1;
const OPTION_MSS: u8 = 2;

/// Lowers the MSS of a SYN or SYN-ACK to the limit and corrects the checksum. `partial`: the checksum field holds only the
/// pseudo-header's sum, which does not cover the option. True when something was changed.
#[inline]
pub fn clamp(packet: &mut [u8], ip: &IpInfo, limits: &MssLimits, partial: bool) -> bool {
    if ip.protocol != ip::TCP || ip.fragment {
        return false;
    }
    match packet.get_mut(ip.l4..ip.total) {
        Some(segment) if segment.get(FLAGS).is_some_and(|flags| flags & SYN != 0) => {
            clamp_segment(segment, if ip.v6 { limits.v6 } else { limits.v4 }, partial)
        }
        _ => false,
    }
}

#[cold]
fn clamp_segment(segment: &mut [u8], limit: u16, partial: bool) -> bool {
    let Some((at, announced)) = find_mss(segment) else {
        return false;
    };
    if u16::from_be_bytes(announced) <= limit {
        return false;
    }
    let lowered = limit.to_be_bytes();
    let Some(field) = segment.get_mut(at..at + 2) else {
        return false;
    };
    field.copy_from_slice(&lowered);
    if !partial && let Some(field) = segment.get_mut(CHECKSUM..CHECKSUM + 2) {
        let updated = checksum::update([field[0], field[1]], announced, lowered, at % 2 == 1);
        field.copy_from_slice(&updated);
    }
    true
}

/// Where the MSS stands in the TCP header, and what it is.
fn find_mss(segment: &[u8]) -> Option<(usize, [u8; 2])> {
    let header_len = usize::from(*segment.get(12)? >> 4) * 4;
    let header = segment.get(..header_len)?;
    let mut at = 20;
    loop {
        match *header.get(at)? {
            OPTION_END => return None,
            OPTION_NOP => at += 1,
            kind => {
                let len = usize::from(*header.get(at + 1)?);
                if len < 2 || at + len > header.len() {
                    return None;
                }
                if kind == OPTION_MSS {
                    return (len == 4).then(|| (at + 2, [header[at + 2], header[at + 3]]));
                }
                at += len;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tun::checksum::pseudo_header;

    const LIMITS: MssLimits = MssLimits { v4: 1400, v6: 1380 };
    const GCM_V2: Transport = Transport { v6: false, stream: false, data_overhead: 24 };

    /// A TCP segment of these flags and options (a multiple of 4 bytes), with a correct checksum.
    fn tcp(v6: bool, flags: u8, options: &[u8]) -> Vec<u8> {
        let l4 = if v6 { 40 } else { 20 };
        let mut packet = vec![0u8; l4 + 20 + options.len()];
        let total = packet.len();
        if v6 {
            packet[0] = 0x60;
            packet[5] = (total - 40) as u8;
            packet[6] = ip::TCP;
            packet[8..40].fill(0x21);
        } else {
            packet[0] = 0x45;
            packet[3] = total as u8;
            packet[9] = ip::TCP;
            packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        }
        packet[l4 + 12] = ((5 + options.len() / 4) << 4) as u8;
        packet[l4 + 13] = flags;
        packet[l4 + 20..].copy_from_slice(options);
        let info = ip::parse(&packet).unwrap();
        let sum = pseudo_header(info.addresses(&packet), ip::TCP, total - l4).bytes(&packet[l4..]).checksum();
        packet[l4 + 16..l4 + 18].copy_from_slice(&sum);
        packet
    }

    fn is_intact(packet: &[u8]) -> bool {
        let info = ip::parse(packet).unwrap();
        pseudo_header(info.addresses(packet), ip::TCP, info.total - info.l4).bytes(&packet[info.l4..]).is_intact()
    }

    fn clamped(packet: &[u8], partial: bool) -> (bool, Vec<u8>) {
        let mut packet = packet.to_vec();
        let info = ip::parse(&packet).unwrap();
        (clamp(&mut packet, &info, &LIMITS, partial), packet)
    }

    #[test]
    fn the_limits_by_table() {
        let v6 = Transport { v6: true, ..GCM_V2 };
        let v1 = Transport { data_overhead: 21, ..GCM_V2 };
        let stream = Transport { stream: true, ..GCM_V2 };
        for (fix, transport, v4, v6) in [
            (DEFAULT, GCM_V2, 1400, 1380),
            (DEFAULT, v6, 1380, 1360),
            (DEFAULT, v1, 1403, 1383),
            (DEFAULT, stream, 1386, 1366),
            (MssFix::Payload(1400), GCM_V2, 1336, 1316),
            (MssFix::Payload(1400), stream, 1334, 1314),
            (MssFix::Fixed(1400), GCM_V2, 1360, 1340),
            (MssFix::Mtu(10), GCM_V2, 64, 64),
            (MssFix::Fixed(u16::MAX), GCM_V2, 65_495, 65_475),
        ] {
            assert_eq!(mss_limits(fix, transport), MssLimits { v4, v6 }, "{fix:?} {transport:?}");
        }
    }

    #[test]
    fn syn_and_syn_ack_are_clamped_in_both_families() {
        for (v6, limit) in [(false, 1400u16), (true, 1380)] {
            for flags in [SYN, SYN | 0x10] {
                let packet = tcp(v6, flags, &[2, 4, 0x05, 0xb4, 1, 1, 1, 0]);
                let (changed, after) = clamped(&packet, false);
                let l4 = if v6 { 40 } else { 20 };
                assert!(changed && is_intact(&after));
                assert_eq!(after[l4 + 22..l4 + 24], limit.to_be_bytes());
            }
        }
    }

    #[test]
    fn an_mss_at_an_odd_place_keeps_its_checksum_right() {
        let packet = tcp(false, SYN, &[1, 2, 4, 0x05, 0xb4, 1, 1, 0]);
        let (changed, after) = clamped(&packet, false);
        assert!(changed && is_intact(&after));
        assert_eq!(after[43..45], 1400u16.to_be_bytes());
    }

    #[test]
    fn a_partial_checksum_is_left_alone() {
        let packet = tcp(false, SYN, &[2, 4, 0x05, 0xb4]);
        let (changed, after) = clamped(&packet, true);
        assert!(changed);
        assert_eq!(after[36..38], packet[36..38]);
        assert_eq!(after[42..44], 1400u16.to_be_bytes());
    }

    #[test]
    fn what_is_small_enough_or_no_syn_passes_unchanged() {
        let mss = |mss: u16| [2, 4, mss.to_be_bytes()[0], mss.to_be_bytes()[1]];
        assert!(!clamped(&tcp(false, SYN, &mss(1400)), false).0);
        assert!(clamped(&tcp(false, SYN, &mss(1401)), false).0);
        assert!(!clamped(&tcp(false, 0x10, &mss(1460)), false).0, "no SYN");
        let mut fragment = tcp(false, SYN, &mss(1460));
        fragment[7] = 1;
        assert!(!clamped(&fragment, false).0, "a fragment");
        let mut udp = tcp(false, SYN, &mss(1460));
        udp[9] = ip::UDP;
        assert!(!clamped(&udp, false).0, "no TCP");
    }

    #[test]
    fn malformed_options_pass_unchanged() {
        for options in [
            &[2, 3, 0xff, 0xff][..], // MSS of another length
            &[3, 0, 2, 4, 0xff, 0xff, 0, 0],
            &[3, 1, 2, 4, 0xff, 0xff, 0, 0],
            &[3, 9, 2, 4, 0xff, 0xff, 0, 0], // reaches past the header
            &[1, 1, 2, 4],                   // cut off
            &[1, 1, 1, 2],
            &[0, 2, 4, 0xff], // behind the end
        ] {
            let packet = tcp(false, SYN, options);
            assert_eq!(clamped(&packet, false), (false, packet), "{options:?}");
        }
        let mut long_header = tcp(false, SYN, &[2, 4, 0xff, 0xff]);
        long_header[32] = 0xf0;
        assert!(!clamped(&long_header, false).0, "header longer than the packet");
        let mut short_header = tcp(false, SYN, &[2, 4, 0xff, 0xff]);
        short_header[32] = 0x10;
        assert!(!clamped(&short_header, false).0, "header shorter than 20");
        let short = &tcp(false, SYN, &[])[..33];
        let info = IpInfo { v6: false, l4: 20, total: 33, protocol: ip::TCP, fragment: false };
        assert!(!clamp(&mut short.to_vec(), &info, &LIMITS, false));
    }
}
