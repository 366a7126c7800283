//! A worker with a thread for each direction: the situations of `pair` and `order` again, and what the two threads have to tell each
//! other while packets flow.
#![allow(clippy::unwrap_used)] // helpers of tests are tests
#![allow(clippy::duplicate_mod)] // each of the two programs has its helpers

#[path = "order.rs"]
mod order;
#[path = "pair.rs"]
mod pair;

use std::thread::{scope, yield_now};

use dataplane::drop_reason::DropReason;
use dataplane::pipeline::{PeerReport, PeerSetup};
use dataplane::sys::IoChoice;
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::workers::manager::{Split, WorkerConfig, WorkerOrder, WorkerReport};
use link::message::{InstallKey, KeyLimits, KeyRefusal, UsageReason, WorkerCommand, WorkerEvent};
use pair::common::{self, ENGINES, End, SPLIT, addresses, config, inner, name, path_to, peer, recv, socket};
use pair::flow;

const _: () = assert!(SPLIT);

/// A key that sends only when told, or when the peer has proven it.
fn waiting(end: &End, negotiation: u32) -> InstallKey {
    InstallKey { send_from_ns: u64::MAX, ..common::key(name(negotiation), &end.seal, &end.open) }
}

fn command(end: &mut End, command: WorkerCommand) {
    end.control.send_command(0, &command).unwrap();
}

/// The next event of the worker.
fn event(end: &mut End) -> WorkerEvent {
    loop {
        match end.control.recv_event(0).unwrap() {
            Some(event) => return event,
            None => end.control.wait(None).unwrap(),
        }
    }
}

/// Changes the keys once, as a renegotiation does: both have the new one, one begins, the other follows what arrives.
fn renegotiate(first: &mut End, second: &mut End, negotiation: u32) {
    for end in [&mut *first, &mut *second] {
        let key = waiting(end, negotiation);
        command(end, WorkerCommand::InstallKey(key));
        assert_eq!(event(end), WorkerEvent::KeyInstalled(name(negotiation)));
    }
    command(first, WorkerCommand::SendWith(name(negotiation)));
    assert_eq!(event(first), WorkerEvent::KeySending(name(negotiation)));
    // Other packets may be under way, or none.
    first.worker.send(WorkerOrder::PingNow { peer: 0 }).unwrap();
    assert_eq!(event(second), WorkerEvent::KeySending(name(negotiation)), "because of a packet alone");
}

#[test]
fn keys_change_under_traffic_and_nothing_is_lost() {
    for (near, far) in ENGINES {
        let (mut near, mut far) = common::pair(near, far);
        assert!([&mut near, &mut far].into_iter().all(|end| event(end) == WorkerEvent::KeySending(name(0))));
        let [one, two] = [&near, &far].map(|end| end.packets.try_clone().unwrap());
        let mut changes = 0;
        scope(|scope| {
            let flows = [scope.spawn(|| flow(&one, &two, 20_000, 1)), scope.spawn(|| flow(&two, &one, 20_000, 2))];
            while !flows.iter().all(|flow| flow.is_finished()) {
                changes += 1;
                let (first, second) = if changes % 2 == 0 { (&mut near, &mut far) } else { (&mut far, &mut near) };
                renegotiate(first, second, changes);
            }
        });
        assert!(changes > 3, "{changes}");
        for end in [&near, &far] {
            let stats = end.stats().snapshot();
            assert_eq!((stats.dropped_total(), stats.inbound.inner_packets), (0, 20_000), "{stats:?}");
        }
    }
}

#[test]
fn an_idle_pair_follows_a_key_without_sending() {
    for (near, far) in ENGINES {
        let (mut near, mut far) = common::pair(near, far);
        assert!([&mut near, &mut far].into_iter().all(|end| event(end) == WorkerEvent::KeySending(name(0))));
        // One lost wake-up of the thread that seals and this waits for ever.
        (1..200).for_each(|negotiation| renegotiate(&mut near, &mut far, negotiation));
    }
}

#[test]
fn a_dropped_generation_neither_opens_nor_seals() {
    for (near, far) in ENGINES {
        let (mut near, far) = common::pair(near, far);
        command(&mut near, WorkerCommand::DropKeys { peer: 0, generation: 1 });
        // The half that opens has carried it out when it answers this; the other one does so in its time.
        assert_eq!(near.install(name(0)), WorkerEvent::KeyRefused(name(0), KeyRefusal::NotNewer));
        let (near_stats, far_stats) = (near.stats(), far.stats());
        far.send(&inner(0, 100));
        while near_stats.dropped(DropReason::UnknownKey) == 0 {
            yield_now();
        }
        for tried in 1.. {
            near.send(&inner(0, 100));
            while near_stats.snapshot().outbound.batches < tried {
                yield_now();
            }
            if near_stats.dropped(DropReason::NoKey) > 0 {
                break;
            }
        }
        let sent = near_stats.snapshot().outbound.wire_packets;
        near.send(&inner(0, 100));
        while near_stats.dropped(DropReason::NoKey) < 2 {
            yield_now();
        }
        assert_eq!(near_stats.snapshot().outbound.wire_packets, sent);
        assert_eq!(far_stats.snapshot().dropped_total(), 0);
    }
}

#[test]
fn a_key_asks_for_its_successor_once_though_both_threads_count() {
    for (near, far) in ENGINES {
        let (mut near, mut far) = common::pair(near, far);
        let limits = KeyLimits { soft_packets: 10, ..waiting(&near, 1).limits };
        let key = InstallKey { limits, send_from_ns: 0, ..waiting(&near, 1) };
        assert_eq!(far.install(name(1)), WorkerEvent::KeyInstalled(name(1)));
        command(&mut near, WorkerCommand::InstallKey(key));
        assert_eq!(near.answer(), WorkerEvent::KeyInstalled(name(1)));
        flow(&near.packets, &far.packets, 100, 1);
        flow(&far.packets, &near.packets, 100, 2);
        let mut asked = 0;
        // What was said stands before the answer to this.
        let successor = waiting(&near, 2);
        command(&mut near, WorkerCommand::InstallKey(successor));
        loop {
            match event(&mut near) {
                WorkerEvent::KeyUsage(of, UsageReason::Packets) if of == name(1) => asked += 1,
                WorkerEvent::KeyInstalled(last) if last == name(2) => break,
                WorkerEvent::KeyInstalled(_) | WorkerEvent::KeySending(_) => {}
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(asked, 1);
    }
}

/// An end whose socket hears everybody, with a peer of these settings.
fn open_end(io: IoChoice, local: std::net::SocketAddr, setup: PeerSetup, keys: ([u8; 40], [u8; 40])) -> End {
    let path = setup.path;
    let end = End::with(config(io), local, path.remote, keys.0, keys.1, |_| ());
    end.worker.send(WorkerOrder::DetachSocket).unwrap();
    end.worker.send(WorkerOrder::UpdatePeer(Box::new(setup))).unwrap();
    let options = SocketOptions { bind: Some(local), ..SocketOptions::default() };
    let socket = loop {
        // Both threads let go of the port in their time.
        match WireSocket::open(&options) {
            Ok(socket) => break socket,
            Err(_) => yield_now(),
        }
    };
    end.worker.send(WorkerOrder::AttachSocket { socket, path }).unwrap();
    end
}

#[test]
fn what_is_sealed_follows_a_peer_that_floats() {
    for (near_io, far_io) in ENGINES {
        let ((one, two), (three, _)) = (addresses(), addresses());
        let setup = PeerSetup { float: true, ..peer(path_to(two)) };
        let mut near = open_end(near_io, one, setup, ([1; 40], [2; 40]));
        let mut far = End::new(far_io, two, one, [2; 40], [1; 40]);
        assert_eq!(near.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
        assert_eq!(far.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
        flow(&far.packets, &near.packets, 10, 1);
        flow(&near.packets, &far.packets, 10, 2);
        far.worker.send(WorkerOrder::AttachSocket { socket: socket(three, one), path: path_to(one) }).unwrap();
        far.worker.send(WorkerOrder::PingNow { peer: 0 }).unwrap();
        let moved = loop {
            if let WorkerEvent::Floated { peer: 0, path } = event(&mut near) {
                break path.remote;
            }
        };
        assert_eq!(moved, three);
        // The thread that seals hears of it a moment later.
        let stats = far.stats();
        while stats.snapshot().inbound.wire_packets < 11 {
            near.worker.send(WorkerOrder::PingNow { peer: 0 }).unwrap();
            yield_now();
        }
        near.send(&inner(7, 100));
        assert_eq!(recv(&far.packets), inner(7, 100)[dataplane::tun::virtio::VNET_HDR_LEN..]);
    }
}

#[test]
fn each_thread_keeps_the_timer_of_its_direction() {
    for (near, far) in ENGINES {
        let (near, far) = common::pair(near, far);
        let setup = PeerSetup { ping_s: 1, ping_restart_s: 1, ..peer(near.path) };
        near.worker.send(WorkerOrder::UpdatePeer(Box::new(setup))).unwrap();
        // The far end says nothing, and hears the near one all the same.
        let silent = loop {
            if let WorkerReport::Peer(report) = near.reports.recv().unwrap() {
                break report;
            }
        };
        assert!(matches!(silent, PeerReport::Silent { peer: 0, quiet_ns } if quiet_ns >= 1_000_000_000), "{silent:?}");
        let stats = far.stats();
        while stats.snapshot().pings_received < 2 {
            yield_now();
        }
        near.worker.send(WorkerOrder::ReportWhenHeard { peer: 0 }).unwrap();
        let heard = loop {
            // The first of them may come before the order.
            far.worker.send(WorkerOrder::PingNow { peer: 0 }).unwrap();
            match near.reports.try_recv() {
                Ok(WorkerReport::Peer(PeerReport::Silent { .. })) | Err(_) => yield_now(),
                Ok(WorkerReport::Peer(report)) => break report,
                Ok(_) => {}
            }
        };
        assert_eq!(heard, PeerReport::FirstHeard { peer: 0 });
    }
}

#[test]
fn a_removed_peer_neither_sends_nor_is_heard() {
    for (near, far) in ENGINES {
        let (near, far) = common::pair(near, far);
        near.worker.send(WorkerOrder::RemovePeer { peer: 0 }).unwrap();
        let stats = near.stats();
        while stats.dropped(DropReason::NoRoute) == 0 {
            near.send(&inner(0, 100));
            yield_now();
        }
        far.send(&inner(0, 100));
        while stats.dropped(DropReason::UnknownPeer) == 0 {
            yield_now();
        }
    }
}

#[test]
fn two_threads_are_pinned_each_to_its_own_processor_and_both_end() {
    let allowed = dataplane::sys::affinity::allowed();
    let (open, seal) = (allowed[0], *allowed.last().unwrap());
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (one, two) = addresses();
        let settings =
            WorkerConfig { index: 81, cpu: Some(open), split: Some(Split { cpu: Some(seal) }), ..config(io) };
        let end = End::with(settings, one, two, [1; 40], [2; 40], |_| ());
        let pinned: Vec<String> = (0..2)
            .map(|_| match end.reports.recv().unwrap() {
                WorkerReport::Pinned(text) => text,
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [format!("worker-81-seal pinned to CPU {seal}"), format!("worker-81-open pinned to CPU {open}")];
        assert_eq!(pinned, expected);
        assert_eq!(threads("worker-81"), 2);
        end.worker.stop();
        // The kernel takes a thread that was joined off the list a moment later.
        while threads("worker-81") > 0 {
            yield_now();
        }
    }
}

/// How many threads of this process have a name that begins so.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap().flatten();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("comm")).ok());
    names.filter(|comm| comm.starts_with(name)).count()
}
