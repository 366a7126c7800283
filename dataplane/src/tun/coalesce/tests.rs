//! What is joined, what is not, and that nothing is lost or reordered.

use proptest::prelude::*;

use super::*;
use crate::tun::checksum::Sum;
use crate::tun::test_packets::{ACK, FIN, PSH, Packet, SYN};
use crate::tun::virtio::{F_DATA_VALID, GSO_NONE};

const ALL: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };

fn put(batch: &mut TunBatch, packet: &[u8]) -> bool {
    let Some(room) = batch.land(packet.len()) else {
        return false;
    };
    room.copy_from_slice(packet);
    let info = ip::parse(packet).unwrap();
    batch.accept(&info)
}

fn frames(batch: &mut TunBatch) -> Vec<(VnetHeader, Vec<u8>)> {
    batch.frames().map(|frame| (VnetHeader::parse(frame).unwrap(), frame[VNET_HDR_LEN..].to_vec())).collect()
}

fn coalesce(offload: TunOffload, packets: &[Vec<u8>]) -> Vec<(VnetHeader, Vec<u8>)> {
    let mut batch = TunBatch::new(offload);
    for packet in packets {
        assert!(put(&mut batch, packet));
    }
    frames(&mut batch)
}

/// How many packets each frame holds, told from its headers.
fn counts(frames: &[(VnetHeader, Vec<u8>)]) -> Vec<usize> {
    frames
        .iter()
        .map(|(header, packet)| match header.gso_size {
            0 => 1,
            size => (packet.len() - usize::from(header.hdr_len)).div_ceil(size.into()),
        })
        .collect()
}

fn verified() -> VnetHeader {
    VnetHeader { flags: F_DATA_VALID, ..VnetHeader::default() }
}

fn kinds() -> impl Iterator<Item = Packet> {
    [(false, false), (false, true), (true, false), (true, true)].into_iter().map(|(v6, udp)| Packet {
        v6,
        udp,
        ..Packet::with_payload(5000)
    })
}

/// The packet that follows `packet` in its stream.
fn follower(packet: &Packet) -> Packet {
    Packet {
        seq: packet.seq.wrapping_add(packet.payload.len() as u32),
        id: packet.id.wrapping_add(1),
        ..packet.clone()
    }
}

fn count_of_two(first: &Packet, second: &Packet) -> Vec<usize> {
    counts(&coalesce(ALL, &[first.bytes(), second.bytes()]))
}

#[test]
fn segments_of_every_kind_become_the_super_packet_again() {
    for packet in kinds() {
        for size in [100, 1400, 2500, 4999] {
            let frames = coalesce(ALL, &packet.segments(size));
            assert_eq!(frames, [(packet.super_header(size), packet.partial_bytes())], "{size}");
        }
    }
}

#[test]
fn a_push_ends_the_super_packet_and_stays_in_it() {
    let packet = Packet { flags: ACK | PSH, ..Packet::with_payload(300) };
    let mut segments = packet.segments(100);
    segments.extend(Packet { seq: packet.seq + 300, ..Packet::with_payload(100) }.segments(100));
    let frames = coalesce(ALL, &segments);
    assert_eq!(frames[0], (packet.super_header(100), packet.partial_bytes()));
    assert_eq!(counts(&frames), [3, 1]);
}

#[test]
fn a_packet_alone_is_told_to_be_verified() {
    for packet in kinds() {
        assert_eq!(coalesce(ALL, &[packet.bytes()]), [(verified(), packet.bytes())]);
    }
}

#[test]
fn followers_are_joined_and_everything_else_is_not() {
    for first in kinds() {
        let first = Packet { payload: vec![3; 200], ..first };
        let next = follower(&first);
        assert_eq!(count_of_two(&first, &next), [2]);
        let shorter = Packet { payload: vec![4; 199], ..next.clone() };
        assert_eq!(count_of_two(&first, &shorter), [2]);
        for (what, other) in [
            ("longer", Packet { payload: vec![4; 201], ..next.clone() }),
            ("TTL", Packet { ttl: 63, ..next.clone() }),
            ("TOS", Packet { tos: 2, ..next.clone() }),
            ("host", Packet { host: 2, ..next.clone() }),
            ("port", Packet { source_port: 1001, ..next.clone() }),
        ] {
            assert_eq!(count_of_two(&first, &other), [1, 1], "{what} {first:?}");
        }
    }
}

#[test]
fn tcp_that_differs_is_not_joined() {
    for v6 in [false, true] {
        let first = Packet { v6, options: vec![1; 12], ..Packet::with_payload(200) };
        let next = follower(&first);
        assert_eq!(count_of_two(&first, &next), [2]);
        for (what, other) in [
            ("sequence", Packet { seq: next.seq + 1, ..next.clone() }),
            ("repeated", first.clone()),
            ("ack", Packet { ack: 78, ..next.clone() }),
            ("window", Packet { window: 513, ..next.clone() }),
            ("options", Packet { options: vec![0; 12], ..next.clone() }),
            ("fewer options", Packet { options: vec![1; 8], ..next.clone() }),
            ("FIN", Packet { flags: ACK | FIN, ..next.clone() }),
            ("SYN", Packet { flags: ACK | SYN, ..next.clone() }),
            ("URG", Packet { flags: ACK | 0x20, ..next.clone() }),
            ("ECE", Packet { flags: ACK | 0x40, ..next.clone() }),
            ("CWR", Packet { flags: ACK | 0x80, ..next.clone() }),
            ("no ACK", Packet { flags: 0, ..next.clone() }),
            ("no payload", Packet { payload: vec![], ..next.clone() }),
        ] {
            assert_eq!(count_of_two(&first, &other), [1, 1], "{what}");
            // Nor does a later one join past it, even if it would fit.
            let later = coalesce(ALL, &[first.bytes(), other.bytes(), next.bytes()]);
            assert_ne!(counts(&later)[0], 2, "{what}");
        }
    }
}

#[test]
fn ipv4_ids_count_only_where_fragments_may_be_made() {
    let free = Packet { dont_fragment: false, ..Packet::with_payload(200) };
    assert_eq!(count_of_two(&free, &follower(&free)), [2]);
    assert_eq!(count_of_two(&free, &Packet { id: free.id, ..follower(&free) }), [1, 1]);
    let bound = Packet::with_payload(200);
    assert_eq!(count_of_two(&bound, &Packet { id: bound.id, ..follower(&bound) }), [2]);
    assert_eq!(count_of_two(&bound, &Packet { dont_fragment: false, ..follower(&bound) }), [1, 1]);
    let options = Packet { ip_options: vec![1; 4], ..Packet::with_payload(200) };
    assert_eq!(count_of_two(&options, &follower(&options)), [2]);
    assert_eq!(count_of_two(&options, &Packet { ip_options: vec![0; 4], ..follower(&options) }), [1, 1]);
}

#[test]
fn a_broken_checksum_passes_alone_and_unchanged() {
    for packet in kinds() {
        let first = Packet { payload: vec![3; 200], ..packet };
        let next = follower(&first);
        let good = [first.bytes(), next.bytes()];
        for broken_one in 0..2 {
            for at in [1, first.checksum_at(), first.headers() + 50] {
                // Byte 1 is covered by IPv4's header checksum only; in IPv6 it makes another flow label.
                let mut packets = good.clone();
                packets[broken_one][at] ^= 1;
                let frames = coalesce(ALL, &packets);
                assert_eq!(counts(&frames), [1, 1]);
                assert_eq!(frames[broken_one].1, packets[broken_one]);
                if at != 1 {
                    assert_eq!(frames[broken_one].0, VnetHeader::default());
                }
            }
        }
    }
}

#[test]
fn udp_without_a_checksum_passes_alone() {
    let packet = Packet { udp: true, ..Packet::with_payload(100) };
    let mut bytes = packet.bytes();
    bytes[26..28].fill(0);
    let frames = coalesce(ALL, &[bytes.clone(), bytes.clone()]);
    assert_eq!(frames, [(VnetHeader::default(), bytes.clone()), (VnetHeader::default(), bytes.clone())]);
    assert_eq!(counts(&coalesce(ALL, &[packet.bytes(), bytes])), [1, 1]);
}

#[test]
fn fragments_pass_alone_and_close_the_flows_between_their_addresses() {
    let first = Packet { udp: true, ..Packet::with_payload(100) };
    let next = follower(&first);
    let mut fragment = first.bytes();
    fragment[6] = 0x20;
    fragment[10..12].fill(0);
    let sum = Sum::default().bytes(&fragment[..20]).checksum();
    fragment[10..12].copy_from_slice(&sum);
    let frames = coalesce(ALL, &[first.bytes(), fragment.clone(), next.bytes()]);
    assert_eq!(counts(&frames), [1, 1, 1]);
    assert_eq!(frames[1], (VnetHeader::default(), fragment.clone()));
    // Between other addresses it closes nothing.
    let other = Packet { host: 2, ..first.clone() };
    let frames = coalesce(ALL, &[other.bytes(), fragment, follower(&other).bytes()]);
    assert_eq!(counts(&frames), [2, 1]);
}

#[test]
fn interleaved_flows_are_joined_each_for_itself() {
    let flows: Vec<Vec<Vec<u8>>> =
        (0..4).map(|host| Packet { host, source_port: 9, ..Packet::with_payload(1000) }.segments(100)).collect();
    let mut mixed = Vec::new();
    for at in 0..10 {
        for flow in &flows {
            mixed.push(flow[at].clone());
        }
    }
    let frames = coalesce(ALL, &mixed);
    assert_eq!(counts(&frames), [10; 4]);
    for (host, (_, packet)) in frames.iter().enumerate() {
        let whole = Packet { host: host as u8, source_port: 9, ..Packet::with_payload(1000) };
        assert_eq!(*packet, whole.partial_bytes());
    }
}

#[test]
fn an_acknowledgement_of_another_flow_does_not_close_this_one() {
    let first = Packet::with_payload(100);
    let ack = Packet { source_port: 5, payload: vec![], ..first.clone() };
    let frames = coalesce(ALL, &[first.bytes(), ack.bytes(), follower(&first).bytes()]);
    assert_eq!(counts(&frames), [2, 1]);
}

#[test]
fn each_offload_has_its_switch() {
    for packet in kinds() {
        let packet = Packet { payload: vec![1; 300], ..packet };
        let own = match (packet.udp, packet.v6) {
            (false, false) => TunOffload { tso4: false, ..ALL },
            (false, true) => TunOffload { tso6: false, ..ALL },
            (true, false) => TunOffload { uso4: false, ..ALL },
            (true, true) => TunOffload { uso6: false, ..ALL },
        };
        let alone: Vec<_> = packet.segments(100).into_iter().map(|segment| (VnetHeader::default(), segment)).collect();
        for offload in [own, TunOffload { csum: false, ..ALL }, TunOffload::default()] {
            assert_eq!(coalesce(offload, &packet.segments(100)), alone);
        }
    }
}

#[test]
fn a_super_packet_keeps_to_64_kib_and_udp_to_64_segments() {
    let tcp = coalesce(ALL, &Packet::with_payload(65_000).segments(1300));
    assert_eq!(counts(&tcp), [50]);
    let mut batch = TunBatch::new(ALL);
    let stream = Packet::with_payload(60_000);
    let more = Packet { seq: stream.seq.wrapping_add(60_000), ..Packet::with_payload(10_000) };
    for segment in stream.segments(1000).iter().chain(&more.segments(1000)) {
        assert!(put(&mut batch, segment));
    }
    assert_eq!(counts(&frames(&mut batch)), [65, 5]);
    let udp = Packet { udp: true, ..Packet::with_payload(100 * 65) };
    assert_eq!(counts(&coalesce(ALL, &udp.segments(100))), [64, 1]);
}

#[test]
fn what_is_discarded_leaves_no_trace() {
    let packet = Packet::with_payload(300);
    let segments = packet.segments(100);
    let mut batch = TunBatch::new(ALL);
    batch.land(50).unwrap().fill(0xff);
    batch.discard();
    assert!(batch.is_empty());
    for segment in &segments {
        assert!(put(&mut batch, segment));
        batch.land(1400).unwrap().fill(0xff);
        batch.discard();
        // Forgotten without a word.
        batch.land(700).unwrap().fill(0xee);
    }
    assert_eq!(frames(&mut batch), [(packet.super_header(100), packet.partial_bytes())]);
    assert_eq!(batch.packets(), 3);
}

#[test]
fn a_cleared_batch_starts_anew() {
    let packet = Packet::with_payload(200);
    let mut batch = TunBatch::new(ALL);
    assert!(put(&mut batch, &packet.segments(100)[0]));
    assert!(!batch.is_empty());
    batch.clear();
    assert!(batch.is_empty() && batch.packets() == 0 && frames(&mut batch).is_empty());
    assert!(put(&mut batch, &packet.segments(100)[1]));
    assert_eq!(counts(&frames(&mut batch)), [1]);
}

#[test]
fn more_flows_than_slots_go_through_one_by_one() {
    let packets: Vec<Vec<u8>> = (0..20).map(|host| Packet { host, ..Packet::with_payload(100) }.bytes()).collect();
    let mut batch = TunBatch::new(ALL);
    for packet in &packets {
        assert!(put(&mut batch, packet));
    }
    assert!(batch.wants_flush());
    let out: Vec<Vec<u8>> = frames(&mut batch).into_iter().map(|(_, packet)| packet).collect();
    assert_eq!(out, packets);
}

#[test]
fn a_batch_that_wants_no_flush_takes_a_whole_train_of_the_smallest_packets() {
    let tiny = [0x45, 0, 0, 20, 0, 0, 0, 0, 64, 59, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
    for offload in [ALL, TunOffload::default()] {
        let mut batch = TunBatch::new(offload);
        while !batch.wants_flush() {
            for _ in 0..65_507 / (20 + 21) {
                assert!(put(&mut batch, &tiny));
            }
        }
        let capacity = batch.frames.capacity();
        while put(&mut batch, &tiny) {}
        assert_eq!(batch.frames.capacity(), capacity, "a full batch allocates nothing");
        assert!(batch.land(MAX_PACKET + 1).is_none());
    }
}

/// A step of a random stream: which flow, what payload length, and whether something is odd about the packet.
#[derive(Clone, Debug)]
struct Step {
    flow: u8,
    len: usize,
    odd: u8,
}

fn step() -> impl Strategy<Value = Step> {
    let len = prop_oneof![4 => Just(500usize), 1 => 0usize..700, 1 => 0usize..30];
    (0u8..12, len, 0u8..16).prop_map(|(flow, len, odd)| Step { flow, len, odd })
}

/// What the frames stand for, by the independent segmentation of the test packets: flow by flow, in order.
fn expand(frames: &[(VnetHeader, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (header, packet) in frames {
        if header.gso_type == GSO_NONE {
            packets.push(packet.clone());
            continue;
        }
        let mut frame = [&header.to_bytes()[..], packet].concat();
        let plan = crate::tun::split::plan(&frame).unwrap();
        let mut segments = plan.segments(&mut frame);
        while let Some(segment) = segments.next() {
            packets.push(segment.to_vec());
        }
    }
    packets
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 256 }))]

    #[test]
    fn every_packet_comes_out_again_in_the_order_of_its_flow(steps in prop::collection::vec(step(), 1..150)) {
        let mut flows: Vec<Packet> = (0..12u8)
            .map(|flow| Packet {
                host: flow / 3, source_port: u16::from(flow), v6: flow % 2 == 0, udp: flow % 3 == 0,
                dont_fragment: flow % 4 < 2, ..Packet::default()
            })
            .collect();
        let mut sent = vec![Vec::new(); 12];
        let mut batch = TunBatch::new(ALL);
        for Step { flow, len, odd } in steps {
            let stream = &mut flows[usize::from(flow)];
            stream.payload = vec![odd; len];
            stream.flags = match odd { 0 => ACK | PSH, 1 => ACK | FIN, _ => ACK };
            stream.ttl = if odd == 2 { 3 } else { 64 };
            let mut bytes = stream.bytes();
            if odd == 3 {
                let last = bytes.len() - 1;
                bytes[last] ^= 0x40;
            }
            *stream = follower(stream);
            prop_assert!(put(&mut batch, &bytes));
            sent[usize::from(flow)].push(bytes);
        }
        let mut received = vec![Vec::new(); 12];
        for packet in expand(&frames(&mut batch)) {
            let info = ip::parse(&packet).unwrap();
            let port = packet[info.l4 + 1];
            received[usize::from(port)].push(packet);
        }
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn no_packet_makes_it_panic(packets in prop::collection::vec(
        (prop::collection::vec(any::<u8>(), 1..200), prop::sample::select(vec![0x45u8, 0x60, 0x4f, 0x46]), any::<bool>()), 1..30)) {
        let mut batch = TunBatch::new(ALL);
        for (mut bytes, first, tcp) in packets {
            bytes[0] = first;
            let len = bytes.len();
            if len > 48 {
                bytes[2..4].copy_from_slice(&(len as u16).to_be_bytes());
                let protocol = if tcp { 6 } else { 17 };
                if first == 0x60 {
                    bytes[4..6].copy_from_slice(&((len - 40) as u16).to_be_bytes());
                    bytes[6] = protocol;
                } else {
                    bytes[9] = protocol;
                }
            }
            if let Some(info) = ip::parse(&bytes) {
                batch.land(len).unwrap().copy_from_slice(&bytes);
                prop_assert!(batch.accept(&info));
            }
        }
        let _ = frames(&mut batch);
    }
}
