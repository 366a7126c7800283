//! What comes from the network: taken, dropped, counted, reported.

use super::*;

#[test]
fn what_cannot_be_received_is_counted_by_reason() {
    let (mut a, _) = pair();
    let wire = a.send(&Packet::default().frame()).remove(0);
    let change = |at: usize, to: u8| {
        let mut changed = wire.clone();
        changed[at] = to;
        changed
    };
    for (reason, datagram) in [
        (DropReason::UnknownOpcode, change(0, 1)),
        (DropReason::TooShort, wire[..24].to_vec()),
        (DropReason::UnknownPeer, change(3, 6)),
        (DropReason::UnknownKey, change(0, wire[0] | 1)),
        (DropReason::AuthenticationFailed, change(8, wire[8] ^ 1)),
        (DropReason::Replayed, change(7, 0)),
        (DropReason::ControlTooLong, vec![4 << 3; MAX_DATAGRAM + 1]),
    ] {
        let mut b = End::new(setup());
        b.receive(&datagram);
        assert_eq!(b.dropped(reason), 1, "{reason:?}");
        assert!(b.packets().is_empty() && b.heard.control.is_empty());
        b.receive(&wire);
        assert_eq!(b.packets(), [Packet::default().bytes()], "the right one still passes");
        b.receive(&wire);
        assert_eq!(b.stats.dropped(DropReason::Replayed), 1 + u64::from(reason == DropReason::Replayed));
    }
}

#[test]
fn an_authenticated_payload_that_is_no_packet_is_dropped() {
    let (mut a, mut b) = pair();
    for payload in [&[0x45u8, 0, 0][..], &[0x10; 30], &ping::OCC_MAGIC] {
        a.out.clear();
        let peer = a.pipeline.peers.get_mut(0).unwrap();
        send_in_band(1, peer, payload, &mut a.out).unwrap();
        b.receive(&a.datagrams()[0]);
    }
    assert!(b.packets().is_empty());
    assert_eq!(b.stats.dropped(DropReason::MalformedInner), 2);
    assert_eq!(b.stats.dropped(DropReason::IgnoredOcc), 1);
}

#[test]
fn control_packets_go_up_with_what_is_known_of_their_source() {
    let mut end = End::new(setup());
    let datagram = [7 << 3; 30];
    end.receive(&datagram);
    end.receive_at(1, path(9), &datagram, 30);
    assert_eq!(end.heard.control, [(datagram.to_vec(), true), (datagram.to_vec(), false)]);
    assert_eq!(end.stats.snapshot().control_received, 2);
    assert_eq!(end.stats.snapshot().inbound.wire_packets, 0);
}

#[test]
fn a_train_of_everything_is_taken_apart() {
    let (mut a, mut b) = pair();
    let wire = a.send(&Packet::with_payload(300).super_frame(100));
    let mut bytes = wire[0].clone();
    bytes.extend(vec![4 << 3; wire[0].len()]);
    bytes.extend(&wire[1]);
    bytes.extend([5 << 3; 10]);
    b.receive_at(1, path(1194), &bytes, wire[0].len());
    assert_eq!(b.heard.control.len(), 2);
    assert_eq!(b.packets().len(), 1);
    let mut end = End::new(setup());
    end.receive_at(1, path(1194), &[5 << 3; 10], 0);
    assert_eq!(end.heard.control.len(), 10, "a segment size of 0 is taken as 1");
}

#[test]
fn a_packet_from_another_address_is_dropped_unless_the_peer_may_float() {
    let (mut a, mut b) = pair();
    let first = a.send(&Packet::default().frame()).remove(0);
    let second = a.send(&Packet::default().frame()).remove(0);
    b.receive_at(1, path(9), &first, first.len());
    assert_eq!(b.dropped(DropReason::WrongAddress), 1);

    let mut b = End::new(PeerSetup { float: true, ..setup() });
    let mut forged = second.clone();
    forged[20] ^= 1;
    b.receive_at(1, path(9), &forged, forged.len());
    assert_eq!(b.pipeline.peers.get(0).unwrap().setup.path, path(1194));
    b.receive_at(1, path(9), &second, second.len());
    assert_eq!(b.pipeline.peers.get(0).unwrap().setup.path, path(9));
    assert_eq!(b.heard.events, [WorkerEvent::Floated { peer: 0, path: path(9) }]);
    b.receive_at(1, path(8), &first, first.len());
    assert_eq!(b.pipeline.peers.get(0).unwrap().setup.path, path(9), "a late packet moves nobody");
    assert_eq!(b.heard.events.len(), 1);
    assert_eq!(b.pipeline.peers.by_address(&path(9).remote), Some(0));
}

#[test]
fn a_peer_that_sends_from_two_addresses_in_turn_moves_once_a_second() {
    let (mut a, _) = pair();
    let mut b = End::new(PeerSetup { float: true, ..setup() });
    let mut from = |b: &mut End, now_ns, port| {
        let wire = a.send(&Packet::default().frame()).remove(0);
        b.receive_at(now_ns, path(port), &wire, wire.len());
        assert_eq!(b.packets().len(), 1, "nothing is lost by it");
    };
    for turn in 0..1_000 {
        from(&mut b, SECOND, 9 + turn % 2);
    }
    assert_eq!(b.heard.events, [WorkerEvent::Floated { peer: 0, path: path(9) }]);
    assert_eq!(b.dropped(DropReason::WrongAddress), 0);
    from(&mut b, 2 * SECOND - 1, 10);
    assert_eq!(b.heard.events.len(), 1);
    from(&mut b, 2 * SECOND, 10);
    assert_eq!(b.heard.events[1..], [WorkerEvent::Floated { peer: 0, path: path(10) }]);
}

#[test]
fn a_source_address_that_is_not_the_peers_is_dropped() {
    let routes = |address: &str| {
        let route = crate::peers::routes::Route { address: address.parse().unwrap(), prefix_len: 32, peer: 0 };
        RouteTable::new(&[route])
    };
    for (address, allowed) in [("10.0.0.9", true), ("10.0.0.8", false)] {
        let (mut a, mut b) = pair();
        b.pipeline.update_peer(1, PeerSetup { source: SourceRule::Routed, ..setup() });
        b.pipeline.set_routes(routes(address));
        let wire = a.send(&Packet::default().frame()).remove(0);
        b.receive(&wire);
        assert_eq!(b.packets().len(), usize::from(allowed));
        assert_eq!(b.dropped(DropReason::SourceNotAllowed), u64::from(!allowed));
    }
}

#[test]
fn the_peers_exit_is_reported() {
    let (mut a, mut b) = pair();
    assert!(a.pipeline.occ_exit(1, 0, &mut a.out));
    b.receive(&a.datagrams()[0]);
    assert_eq!(b.heard.reports, [PeerReport::OccExit { peer: 0 }]);
    assert!(b.packets().is_empty());
}

#[test]
fn an_exit_that_is_said_again_is_reported_once() {
    let (mut a, mut b) = pair();
    for _ in 0..3 {
        a.out.clear();
        assert!(a.pipeline.occ_exit(1, 0, &mut a.out));
        b.receive(&a.datagrams()[0]);
    }
    assert_eq!(b.heard.reports, [PeerReport::OccExit { peer: 0 }]);
    assert_eq!(b.dropped(DropReason::IgnoredOcc), 2, "and each datagram is counted");
}

#[test]
fn the_first_packet_is_reported_when_someone_listens() {
    let (mut a, mut b) = pair();
    for round in 0..2 {
        let wire = a.send(&Packet::default().frame()).remove(0);
        b.receive(&wire);
        assert_eq!(b.heard.reports.len(), round);
        b.pipeline.listen_for(0);
        b.receive(&wire);
        assert_eq!(b.heard.reports.len(), round, "a replay is not heard");
        let wire = [a.send(&Packet::default().frame()), a.send(&Packet::default().frame())].concat();
        b.receive(&wire[0]);
        b.receive(&wire[1]);
        assert_eq!(b.heard.reports, vec![PeerReport::FirstHeard { peer: 0 }; round + 1]);
    }
}

#[test]
fn a_packet_for_another_peer_turns_round_and_one_for_all_does_not() {
    let routes =
        |address: &str| crate::peers::routes::Route { address: address.parse().unwrap(), prefix_len: 32, peer: 0 };
    for (to, on, turns) in [
        ([10, 0, 0, 2], true, true),
        ([10, 0, 0, 2], false, false),
        ([10, 0, 0, 3], true, false),
        ([224, 0, 0, 2], true, false),
        ([255; 4], true, false),
    ] {
        let (mut a, mut b) = pair();
        b.pipeline.set_relay(on);
        let table = ["10.0.0.2", "224.0.0.2", "255.255.255.255"].map(routes);
        b.pipeline.set_routes(RouteTable::new(&table));
        let mut packet = Packet::default().bytes();
        packet[16..20].copy_from_slice(&to);
        let frame = [&[0; VNET_HDR_LEN][..], &packet].concat();
        b.receive(&a.send(&frame)[0]);
        assert_eq!(b.pipeline.has_relayed(), turns, "{to:?}");
        assert_eq!(b.packets().len(), usize::from(!turns));
        assert_eq!(b.stats.snapshot().relayed, u64::from(turns));
        assert_eq!(b.stats.snapshot().inbound.inner_packets, 1);
        b.out.clear();
        assert_eq!(b.pipeline.relay(1, 0, &mut b.out), turns.then_some(Ok(())));
        assert_eq!(b.pipeline.relay(1, 1, &mut b.out), None);
        assert!(!b.pipeline.has_relayed());
        assert_eq!(b.datagrams().len(), usize::from(turns));
    }
}

#[test]
fn what_a_peer_sent_and_got_is_credited_to_it_alone() {
    let (mut a, mut b) = pair();
    let other = PeerSetup { peer: 1, wire_peer_id: Some(6), path: path(7), counters: Arc::default(), ..setup() };
    let mine = Arc::clone(&b.pipeline.peers.get(0).unwrap().setup.counters);
    b.pipeline.add_peer(1, other.clone());
    let wire = a.send(&Packet::with_payload(300).super_frame(100));
    let mut train = wire.concat();
    // Not authenticated, and another peer's: neither is credited.
    let mut forged = wire[0].clone();
    forged[3] = 6;
    train.extend(&forged);
    b.receive_at(9, path(1194), &train, wire[0].len());
    b.packets();
    let bytes = a.stats.snapshot().outbound.inner_bytes;
    assert_eq!((mine.packets_in(), mine.bytes_in(), mine.last_heard_ns()), (3, bytes, 9));
    assert_eq!((other.counters.packets_in(), other.counters.last_heard_ns()), (0, 0));
    b.out.clear();
    b.send(&Packet::with_payload(200).super_frame(100));
    assert_eq!((mine.packets_out(), mine.packets_in()), (2, 3));
    assert!(a.pipeline.ping_now(1, 0, &mut a.out));
    let ping = a.datagrams().pop().unwrap();
    b.receive_at(12, path(1194), &ping, ping.len());
    assert_eq!((mine.packets_in(), mine.last_heard_ns()), (3, 12), "a keepalive is a sign of life and no packet");
}

#[test]
fn a_removed_peer_is_unknown() {
    let (mut a, mut b) = pair();
    let wire = a.send(&Packet::default().frame()).remove(0);
    assert!(b.pipeline.remove_peer(0) && !b.pipeline.remove_peer(0));
    assert!(!b.pipeline.update_peer(1, setup()) && !b.pipeline.set_path(0, path(1)));
    b.receive(&wire);
    assert_eq!(b.dropped(DropReason::UnknownPeer), 1);
}

proptest! {
    #[test]
    fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), segment in 0usize..400, first in 0u8..16) {
        let mut end = End::new(setup());
        let mut bytes = bytes;
        if let Some(byte) = bytes.first_mut() { *byte = first << 3; }
        end.receive_at(1, path(1194), &bytes, segment);
        prop_assert!(end.packets().is_empty());
    }

    #[test]
    fn no_authenticated_payload_makes_it_panic(mut payload in prop::collection::vec(any::<u8>(), 1..300), version in 0u8..3) {
        if version > 0 { payload[0] = version << 5 | 5 }
        let mut a = End::new(setup());
        let mut b = End::new(PeerSetup { mssfix: Some(MssLimits { v4: 1, v6: 1 }), ..setup() });
        send_in_band(1, a.pipeline.peers.get_mut(0).unwrap(), &payload, &mut a.out).unwrap();
        b.receive(&a.datagrams()[0]);
        let _ = b.packets();
    }
}
