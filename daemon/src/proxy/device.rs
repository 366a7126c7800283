//! The tunnel as smoltcp sees it at one moment: at most one packet that came in, and the frames that go out. As a network card would, it
//! takes TCP without a checksum and in pieces longer than a packet; who completes and splits them is the worker.

use std::num::{NonZeroU16, NonZeroUsize};

use dataplane::tun::checksum::pseudo_header;
use dataplane::tun::ip::{self, IpInfo};
use dataplane::tun::virtio::{F_NEEDS_CSUM, GSO_TCPV4, GSO_TCPV6, VnetHeader};
use smoltcp::phy::{self, Checksum, DeviceCapabilities, Medium, PacketMeta};
use smoltcp::time::Instant;

use crate::embed::Frames;

/// Where the checksum stands in a TCP header (RFC 9293, section 3.1).
const TCP_CHECKSUM: usize = 16;

/// Bytes of the longest super-packet that goes out. It travels as one burst, which a server's receive buffer has to take.
const LONGEST: usize = 32 * 1024;

/// One packet in, frames out.
#[derive(Debug)]
pub(super) struct Device<'a> {
    /// The packet that has not been looked at yet. Whoever gives it has looked at its checksum if it is TCP ([`is_broken`]).
    pub incoming: Option<&'a [u8]>,
    /// Where packets go. What answers an incoming one is lost when this is full; sockets keep theirs.
    pub outgoing: &'a mut Frames,
    /// The longest packet that the tunnel carries, in bytes. It decides what the other side is told (MSS), not what may come in: that may
    /// be joined from many.
    pub mtu: usize,
}

/// Next header of IPv6: hop-by-hop options (RFC 8200 §4.3), behind which the stack would find TCP that nobody has looked at.
const HOP_BY_HOP: u8 = 0;

/// Whether this is TCP with a wrong checksum, or hides whether it is.
pub(super) fn is_broken(packet: &[u8]) -> bool {
    if ip::parse(packet).is_some_and(|ip| ip.v6 && ip.protocol == HOP_BY_HOP) {
        return true;
    }
    let Some((ip, pseudo, transport)) = tcp(packet) else { return false };
    !pseudo_header(ip.addresses(packet), ip::TCP, pseudo).bytes(transport).is_intact()
}

/// What the IP header says, the length of the transport header with its payload, and these two; of TCP alone.
fn tcp(packet: &[u8]) -> Option<(IpInfo, usize, &[u8])> {
    let ip = ip::parse(packet).filter(|ip| ip.protocol == ip::TCP && !ip.fragment)?;
    let transport = packet.get(ip.l4..ip.total)?;
    Some((ip, transport.len(), transport))
}

impl phy::Device for Device<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing { frames: self.outgoing, segment: None }))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (!self.outgoing.is_full()).then_some(Outgoing { frames: self.outgoing, segment: None })
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities.checksum.tcp = Checksum::None;
        // Of IPv6 the crate sends no packet that is longer than the MTU, whoever would split it.
        capabilities.segmentation.tcpv4 = NonZeroUsize::new(LONGEST);
        capabilities
    }
}

/// A packet that came in.
#[derive(Debug)]
pub(super) struct Incoming<'a>(&'a [u8]);

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(self.0)
    }
}

/// Room for a packet that goes out.
#[derive(Debug)]
pub(super) struct Outgoing<'a> {
    frames: &'a mut Frames,
    /// Payload bytes of each packet that it is to be split into.
    segment: Option<NonZeroU16>,
}

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.frames.push_with(length, |packet| {
            let result = write(packet);
            (result, left_to_do(packet, self.segment).unwrap_or_default())
        })
    }

    fn set_meta(&mut self, meta: PacketMeta) {
        self.segment = meta.segmentation_offload_size;
    }
}

/// Writes the pseudo-header's sum where the checksum of TCP belongs, and says what is left to be done. `None`: not TCP, complete as it is.
fn left_to_do(packet: &mut [u8], segment: Option<NonZeroU16>) -> Option<VnetHeader> {
    let (ip, length, transport) = tcp(packet)?;
    let headers = ip.l4 + usize::from(transport.get(12)? >> 4) * 4;
    let partial = pseudo_header(ip.addresses(packet), ip::TCP, length).partial();
    packet.get_mut(ip.l4 + TCP_CHECKSUM..)?.first_chunk_mut::<2>()?.copy_from_slice(&partial);
    let one = VnetHeader {
        flags: F_NEEDS_CSUM,
        csum_start: u16::try_from(ip.l4).ok()?,
        csum_offset: TCP_CHECKSUM as u16,
        ..VnetHeader::default()
    };
    let Some(segment) = segment else { return Some(one) };
    Some(VnetHeader {
        gso_type: if ip.v6 { GSO_TCPV6 } else { GSO_TCPV4 },
        hdr_len: u16::try_from(headers).ok()?,
        gso_size: segment.get(),
        ..one
    })
}

#[cfg(test)]
mod tests {
    use dataplane::tun::split;
    use smoltcp::phy::{Device as _, TxToken as _};

    use super::*;

    /// A TCP packet over IPv4 without any checksum of its own.
    fn packet(payload: usize) -> Vec<u8> {
        let mut packet = vec![7; 40 + payload];
        packet[..40].fill(0);
        packet[0] = 0x45;
        packet[2..4].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        (packet[6], packet[8], packet[9]) = (0x40, 64, 6);
        packet[12..20].copy_from_slice(&[10, 8, 0, 1, 10, 8, 0, 2]);
        (packet[32], packet[33]) = (5 << 4, 0x10);
        packet
    }

    /// What the worker sends for it.
    fn sent(packet: &[u8], segment: Option<NonZeroU16>) -> Vec<Vec<u8>> {
        let mut frames = Frames::new(0);
        let mut device = Device { incoming: None, outgoing: &mut frames, mtu: 1_400 };
        let mut token = device.transmit(Instant::ZERO).unwrap();
        let mut meta = PacketMeta::default();
        meta.segmentation_offload_size = segment;
        token.set_meta(meta);
        token.consume(packet.len(), |room| room.copy_from_slice(packet));
        let mut frame = frames.iter().next().unwrap().to_vec();
        let plan = split::plan(&frame).unwrap();
        let mut segments = plan.segments(&mut frame);
        std::iter::from_fn(|| segments.next().map(|packet| packet.to_vec())).collect()
    }

    #[test]
    fn a_packet_leaves_with_its_checksum() {
        let whole = packet(100);
        assert!(is_broken(&whole));
        let sent = sent(&whole, None);
        assert_eq!(sent.len(), 1);
        assert!(!is_broken(&sent[0]));
        assert_eq!((&sent[0][..36], &sent[0][38..]), (&whole[..36], &whole[38..]));
    }

    #[test]
    fn a_long_one_leaves_in_pieces() {
        let sent = sent(&packet(3_000), NonZeroU16::new(1_360));
        assert_eq!(sent.iter().map(Vec::len).collect::<Vec<_>>(), [1_400, 1_400, 320]);
        assert!(sent.iter().all(|packet| !is_broken(packet)));
    }

    #[test]
    fn one_bit_that_fell_over_is_found_and_other_protocols_are_not_judged() {
        let mut packet = sent(&packet(99), None).remove(0);
        assert!(!is_broken(&packet));
        packet[138] ^= 1;
        assert!(is_broken(&packet));
        packet[9] = 17;
        assert!(!is_broken(&packet));
        assert!(!is_broken(&packet[..30]) && !is_broken(&[]));
    }

    #[test]
    fn options_that_hide_what_is_behind_them_are_refused() {
        let mut packet = [0; 60];
        packet[0] = 0x60;
        packet[5] = 20;
        packet[6] = 59;
        assert!(!is_broken(&packet), "no next header");
        packet[6] = HOP_BY_HOP;
        assert!(is_broken(&packet));
    }

    #[test]
    fn the_other_side_is_told_the_mtu_and_not_what_may_come_joined() {
        let mut frames = Frames::new(0);
        let device = Device { incoming: None, outgoing: &mut frames, mtu: 1_400 };
        assert_eq!(device.capabilities().ip_mtu(), 1_400);
    }
}
