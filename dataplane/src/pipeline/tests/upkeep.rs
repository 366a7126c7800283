//! Keepalives and silences.

use super::*;

#[test]
fn a_keepalive_is_sent_when_nothing_else_was() {
    let (mut a, mut b) = (End::new(PeerSetup { ping_s: 10, ..setup() }), End::new(setup()));
    assert_eq!(a.tick(0), 10 * SECOND);
    a.out.clear();
    a.pipeline.outbound(3 * SECOND, &mut Packet::default().frame(), &mut a.out).unwrap();
    assert_eq!(a.tick(10 * SECOND), 13 * SECOND);
    assert!(a.out.is_empty());
    a.pipeline.note_sent(5 * SECOND, 0);
    assert_eq!(a.tick(13 * SECOND), 15 * SECOND);
    assert!(a.out.is_empty());
    assert_eq!(a.tick(15 * SECOND), 25 * SECOND);
    b.receive(&a.datagrams()[0]);
    assert!(b.packets().is_empty());
    assert_eq!((a.stats.snapshot().pings_sent, b.stats.snapshot().pings_received), (1, 1));
    assert_eq!(b.stats.snapshot().inbound.inner_packets, 0);
    assert_eq!(b.stats.snapshot().dropped_total(), 0);
}

#[test]
fn without_a_key_or_a_setting_no_keepalive_is_sent() {
    let mut end = End::without_key(PeerSetup { ping_s: 10, ..setup() }, RouteTable::all_to(0));
    assert_eq!(end.tick(10 * SECOND), 20 * SECOND);
    assert!(end.out.is_empty());
    assert!(!end.pipeline.ping_now(1, 0, &mut end.out) && !end.pipeline.occ_exit(1, 0, &mut end.out));
    let mut end = End::new(setup());
    assert_eq!(end.tick(1000 * SECOND), u64::MAX);
    assert!(end.out.is_empty());
    assert!(end.pipeline.ping_now(1, 0, &mut end.out) && !end.pipeline.ping_now(1, 9, &mut end.out));
    assert_eq!(end.stats.snapshot().pings_sent, 1);
}

#[test]
fn a_keepalive_that_finds_no_room_is_tried_again_soon() {
    let mut end = End::new(PeerSetup { ping_s: 10, ..setup() });
    while end.out.reserve(MAX_UDP_PAYLOAD).is_some_and(|room| {
        room.commit(&path(1));
        true
    }) {}
    while let Some(room) = end.out.reserve(1) {
        room.commit(&path(1));
    }
    let deadline = end.pipeline.tick(10 * SECOND, &mut end.out, &mut end.heard);
    assert_eq!(deadline, 10 * SECOND + RETRY_NS);
    assert_eq!(end.tick(deadline), deadline + 10 * SECOND);
    assert_eq!(end.datagrams().len(), 1);
}

#[test]
fn silence_is_reported_once_until_the_peer_is_heard_again() {
    let (mut a, mut b) = (End::new(setup()), End::new(PeerSetup { ping_restart_s: 60, ..setup() }));
    assert_eq!(b.tick(59 * SECOND), 60 * SECOND);
    b.pipeline.peer_alive(10 * SECOND, 0, &mut b.heard);
    assert_eq!(b.tick(60 * SECOND), 70 * SECOND);
    assert!(b.heard.reports.is_empty());
    assert_eq!(b.tick(71 * SECOND), u64::MAX);
    assert_eq!(b.heard.reports, [PeerReport::Silent { peer: 0, quiet_ns: 61 * SECOND }]);
    b.tick(200 * SECOND);
    assert_eq!(b.heard.reports.len(), 1);

    let wire = a.send(&Packet::default().frame()).remove(0);
    let mut forged = wire.clone();
    forged[20] ^= 1;
    b.receive_at(200 * SECOND, path(1194), &forged, forged.len());
    assert_eq!(b.tick(201 * SECOND), u64::MAX, "a forged packet is no sign of life");
    b.receive_at(202 * SECOND, path(1194), &wire, wire.len());
    assert_eq!(b.tick(203 * SECOND), 262 * SECOND);
    b.tick(262 * SECOND);
    assert_eq!(b.heard.reports.len(), 2);
}

#[test]
fn of_many_peers_those_are_looked_at_that_are_due() {
    let mut end = End::without_key(setup(), RouteTable::all_to(0));
    for peer in 1..=1_000 {
        let port = peer as u16;
        end.pipeline.add_peer(
            0,
            PeerSetup { peer, wire_peer_id: Some(peer), path: path(port), ping_restart_s: peer, ..setup() },
        );
    }
    assert!(end.pipeline.remove_peer(7));
    // One that was heard in time, one whose patience was shortened, one that begins anew in its old place.
    let later = |setup: PeerSetup| PeerSetup { path: path(9_000), ..setup };
    for second in 1..=1_000u32 {
        let now = u64::from(second) * SECOND;
        if second == 400 {
            end.pipeline.peer_alive(now, 500, &mut end.heard);
            end.pipeline.update_peer(now, later(PeerSetup { peer: 900, ping_restart_s: 450, ..setup() }));
            end.pipeline.add_peer(now, PeerSetup { peer: 7, wire_peer_id: Some(7), ping_restart_s: 101, ..setup() });
        }
        let next = end.tick(now);
        // Nobody is due in second 7.
        assert!(next > now && (next <= now + SECOND || [6, 1_000].contains(&second)), "{second}");
        let quiet: Vec<u32> = end
            .heard
            .reports
            .drain(..)
            .map(|report| match report {
                PeerReport::Silent { peer, .. } => peer,
                other => panic!("{other:?}"),
            })
            .collect();
        let expected: &[u32] = match second {
            7 | 500 => &[],
            450 => &[450, 900],
            501 => &[7, 501],
            900 => &[500],
            other => &[other],
        };
        let mut quiet = quiet;
        quiet.sort_unstable();
        assert_eq!(quiet, expected, "{second}");
    }
}
