//! Keys come, are used, go.

use link::message::KeyName;

use super::*;

#[test]
fn commands_on_keys_are_answered() {
    let mut end = End::without_key(setup(), RouteTable::all_to(0));
    let (first, second) = (key(0, 0), key(0, 1));
    end.install(first.clone());
    end.install(first.clone());
    let mut stranger = key(0, 0);
    stranger.name.peer = 8;
    end.install(stranger.clone());
    end.install(second.clone());
    end.pipeline.send_with(second.name, &mut end.heard);
    end.pipeline.drop_keys(0, 0, &mut end.heard);
    assert_eq!(
        end.heard.events,
        [
            WorkerEvent::KeyInstalled(first.name),
            WorkerEvent::KeySending(first.name),
            WorkerEvent::KeyRefused(first.name, KeyRefusal::NotNewer),
            WorkerEvent::KeyRefused(stranger.name, KeyRefusal::UnknownPeer),
            WorkerEvent::KeyInstalled(second.name),
            WorkerEvent::KeySending(second.name),
        ]
    );
    assert!(end.send(&Packet::default().frame()).is_empty());
    assert_eq!(end.dropped(DropReason::NoKey), 1);
}

/// Believed, its name would be greater than that of every key to come.
#[test]
fn a_key_of_another_generation_than_the_peers_changes_nothing() {
    let mut end = End::without_key(PeerSetup { generation: Some(7), ..setup() }, RouteTable::all_to(0));
    let of = |generation| InstallKey { name: KeyName { generation, ..key(0, 0).name }, ..key(0, 0) };
    [u32::MAX, 8, 6, 7].into_iter().for_each(|generation| end.install(of(generation)));
    end.pipeline.add_peer(0, PeerSetup { generation: Some(8), ..setup() });
    end.install(of(8));
    let refused = |generation| WorkerEvent::KeyRefused(of(generation).name, KeyRefusal::UnknownPeer);
    let installed: Vec<_> =
        end.heard.events.iter().filter(|event| !matches!(event, WorkerEvent::KeySending(_))).cloned().collect();
    assert_eq!(
        installed,
        [
            refused(u32::MAX),
            refused(8),
            refused(6),
            WorkerEvent::KeyInstalled(of(7).name),
            WorkerEvent::KeyInstalled(of(8).name),
        ]
    );
}

#[test]
fn the_tick_promotes_a_key_in_time_and_returns_when() {
    let mut end = End::new(setup());
    end.install(InstallKey { send_from_ns: 5 * SECOND, retire_previous_ns: 9 * SECOND, ..key(0, 1) });
    end.heard.events.clear();
    assert!(end.pipeline.wants_tick());
    assert_eq!(end.tick(SECOND), 5 * SECOND);
    assert!(!end.pipeline.wants_tick() && end.heard.events.is_empty());
    assert_eq!(end.tick(5 * SECOND), 9 * SECOND);
    assert_eq!(end.heard.events, [WorkerEvent::KeySending(key(0, 1).name)]);
    assert_eq!(end.tick(9 * SECOND), u64::MAX);
}

#[test]
fn a_packet_on_the_new_key_moves_the_sending_direction() {
    let (mut a, mut b) = pair();
    a.install(key(0, 1));
    b.install(key(0, 1));
    a.pipeline.send_with(key(0, 1).name, &mut a.heard);
    b.heard.events.clear();
    b.receive(&a.send(&Packet::default().frame())[0]);
    assert_eq!(b.heard.events, [WorkerEvent::KeySending(key(0, 1).name)]);
    assert_eq!(b.send(&Packet::default().frame())[0][0] & 7, 1);
}
