//! Split and coalesce held to somebody else's: the segmentation and the joining of `tun-rs`, over generated flows with IPv4
//! options, IPv6 extension headers, ECN, PSH and FIN, odd sizes, checksums of zero, fragments and malformed headers.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

#[path = "common/flows.rs"]
mod flows;

use dataplane::tun::split;
use dataplane::tun::virtio::{GSO_ECN, GSO_NONE, VNET_HDR_LEN, VnetHeader};
use flows::{ACK, Frame, Oddity, PSH, Packet, by_flow, coalesce, packets, steps, super_packet};
use proptest::prelude::*;

/// Its segments of a super-packet, or `None` when it refuses.
fn their_split(header: &VnetHeader, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut input = packet.to_vec();
    let theirs = tun_rs::VirtioNetHdr::decode(&header.to_bytes()).unwrap();
    let count = packet.len() / usize::from(header.gso_size).max(1) + 1;
    let longest = usize::from(header.hdr_len) + usize::from(header.gso_size);
    let mut out = vec![vec![0; longest.min(packet.len())]; count];
    let mut sizes = vec![0; count];
    let made = tun_rs::gso_split(&mut input, theirs, &mut out, &mut sizes, 0, packet[0] >> 4 == 6).ok()?;
    let cut = |(mut bytes, size): (Vec<u8>, usize)| {
        bytes.truncate(size);
        bytes
    };
    Some(out.into_iter().zip(sizes).take(made).map(cut).collect())
}

/// Its frames for these packets.
fn their_coalesce(packets: &[Vec<u8>]) -> Vec<Frame> {
    let room = |packet: &Vec<u8>| {
        let mut buf = Vec::with_capacity(70_000);
        buf.resize(VNET_HDR_LEN, 0);
        buf.extend_from_slice(packet);
        buf
    };
    let mut bufs: Vec<Vec<u8>> = packets.iter().map(room).collect();
    let (mut tcp, mut udp, mut order) = (Default::default(), Default::default(), Vec::new());
    tun_rs::handle_gro(&mut bufs, VNET_HDR_LEN, &mut tcp, &mut udp, true, &mut order).unwrap();
    let frame = |at: usize| (VnetHeader::parse(&bufs[at]).unwrap(), bufs[at][VNET_HDR_LEN..].to_vec());
    order.into_iter().map(frame).collect()
}

fn expand(frames: &[Frame], split: impl Fn(&VnetHeader, &[u8]) -> Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let of = |(header, packet): &Frame| match header.gso_type {
        GSO_NONE => vec![packet.clone()],
        _ => split(header, packet),
    };
    frames.iter().flat_map(of).collect()
}

fn bytes(numbered: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
    numbered.iter().map(|(_, bytes)| bytes.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(512) })]

    #[test]
    fn a_super_packet_is_split_as_theirs((packet, size) in super_packet()) {
        let (header, bytes) = (packet.super_header(size), packet.partial_bytes());
        let ours = split_of(&header, &bytes);
        prop_assert_eq!(&ours, &their_split(&header, &bytes));
        prop_assert!(ours.is_some() || packet.headers() > split::MAX_HEADERS);
    }

    /// A header byte is anything: whatever we take and they take too, comes out the same.
    #[test]
    fn a_changed_header_is_refused_or_split_as_theirs(
        (packet, size) in super_packet(), at in any::<prop::sample::Index>(), value: u8,
    ) {
        let (header, mut bytes) = (packet.super_header(size), packet.partial_bytes());
        // Not what the frame's length, its header length and the pseudo-header's sum hang on: they trust other fields for that.
        let fixed = if packet.v6 { 4..6 } else { 2..4 };
        let addresses = if packet.v6 { 8..40 } else { 12..20 };
        let at = at.index(packet.headers());
        let data_offset = !packet.udp && at == packet.l4() + 12;
        let checksum = (packet.checksum_at()..packet.checksum_at() + 2).contains(&at);
        prop_assume!(!fixed.contains(&at) && !addresses.contains(&at) && !data_offset && !checksum);
        bytes[at] = value;
        if let Some(ours) = split_of(&header, &bytes)
            && let Some(theirs) = their_split(&header, &bytes)
        {
            prop_assert_eq!(ours, theirs);
        }
    }

    /// Virtio fields are anything: what does not fit the packet is refused by us at least where it is by them.
    #[test]
    fn a_lying_virtio_header_is_refused(
        (packet, size) in super_packet(), gso_type in 0u8..8, csum_start in 0u16..100, ecn: bool, zero_size: bool,
    ) {
        let good = packet.super_header(size);
        let gso_type = gso_type | if ecn { GSO_ECN } else { 0 };
        let gso_size = if zero_size { 0 } else { good.gso_size };
        let header = VnetHeader { gso_type, csum_start, gso_size, ..good };
        let bytes = packet.partial_bytes();
        let fits = csum_start == good.csum_start && gso_type & !GSO_ECN == good.gso_type & !GSO_ECN && gso_size != 0;
        if gso_type & !GSO_ECN != GSO_NONE && !fits {
            prop_assert_eq!(split_of(&header, &bytes), None);
        }
    }

    #[test]
    fn our_super_packets_split_by_them_are_what_went_in(steps in steps()) {
        let sent = packets(&steps);
        let frames = coalesce(sent.iter().map(|(_, bytes)| bytes));
        let received = expand(&frames, |header, packet| their_split(header, packet).unwrap());
        prop_assert_eq!(by_flow(received), by_flow(bytes(&sent)));
    }

    #[test]
    fn their_super_packets_split_by_us_are_what_went_in(steps in steps()) {
        // They join without looking at TCP windows and IPv4 ids, and past packets that they do not join: no order, then.
        let steps: Vec<_> = steps.into_iter().filter(|step| step.oddity != Oddity::Window).collect();
        let sent = packets(&steps);
        let frames = their_coalesce(&bytes(&sent));
        let received = expand(&frames, |header, packet| split_of(header, packet).unwrap());
        prop_assert_eq!(sorted_without_ids(by_flow(received)), sorted_without_ids(by_flow(bytes(&sent))));
    }

    /// Where both join all, the frames are the same.
    #[test]
    fn a_clean_run_is_joined_as_theirs(
        v6: bool, udp: bool, options in 0usize..=10, len in 2usize..40_000, size in 1usize..1500, push: bool, tos: u8,
    ) {
        let size = if udp { size.max(len.div_ceil(64)) } else { size }.min(len - 1);
        let flags = if push && !udp { ACK | PSH } else { ACK };
        let packet = Packet { v6, udp, flags, tos, options: vec![1; options * 4], ..Packet::with_payload(len) };
        let segments = packet.segments(size);
        let ours = coalesce(&segments);
        prop_assert_eq!(&ours, &[(packet.super_header(size), packet.partial_bytes())]);
        let theirs = their_coalesce(&segments);
        prop_assert_eq!(ours, theirs);
    }

    /// A super-packet that the kernel gave us and that our peer joins again is the same super-packet, unless a rule forbids to join.
    #[test]
    fn joining_what_was_split_gives_the_super_packet_back((packet, size) in super_packet()) {
        let header = packet.super_header(size);
        let Some(segments) = split_of(&header, &packet.partial_bytes()) else {
            return Ok(());
        };
        let frames = coalesce(&segments);
        let again = expand(&frames, |header, packet| split_of(header, packet).unwrap());
        prop_assert_eq!(without_df_ids(&again), without_df_ids(&segments));
        // A single packet with PSH alone is no run; odd flags and extension headers are not joined.
        let joins = segments.len() > 1
            && (packet.udp || packet.flags & !PSH == ACK)
            && (!packet.v6 || packet.extension == 0);
        prop_assert_eq!(frames.len() == 1 && segments.len() > 1, joins);
        if joins {
            prop_assert_eq!(&frames[0], &(header, packet.partial_bytes()));
        }
    }
}

fn split_of(header: &VnetHeader, packet: &[u8]) -> Option<Vec<Vec<u8>>> {
    let frame = [&header.to_bytes()[..], packet].concat();
    split::plan(&frame).ok().map(|_| flows::split(header, packet))
}

fn without_df_ids(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    packets.iter().map(|packet| without_id(packet, |flags| flags == 0x40)).collect()
}

fn sorted_without_ids(flows: Vec<Vec<Vec<u8>>>) -> Vec<Vec<Vec<u8>>> {
    let of = |flow: Vec<Vec<u8>>| {
        let mut flow: Vec<_> = flow.iter().map(|packet| without_id(packet, |_| true)).collect();
        flow.sort();
        flow
    };
    flows.into_iter().map(of).collect()
}

fn without_id(packet: &[u8], when: impl Fn(u8) -> bool) -> Vec<u8> {
    let mut packet = packet.to_vec();
    if packet[0] >> 4 == 4 && when(packet[6]) {
        packet[4..6].fill(0);
        flows::rewrite_v4_checksum(&mut packet);
    }
    packet
}
