//! Pairs of workers over the loopback: what goes in comes out, what does not is counted, and neither a lost control
//! process nor a strange packet disturbs it. Every situation runs on both engines.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

pub(crate) mod common;

use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;

use common::{
    Dice, ENGINES, End, SPLIT, addresses, config, inner, name, pair, pair_without_keys, path_to, recv, start,
};
use dataplane::datachannel::aead::{Aead, AeadChoice};
use dataplane::drop_reason::DropReason;
use dataplane::pipeline::PeerReport;
use dataplane::sys::IoChoice;
use dataplane::tun::virtio::VNET_HDR_LEN;
use dataplane::workers::manager::{WorkerOrder, WorkerReport, spawn};
use dataplane::workers::stats::StatsSnapshot;
use link::message::{Datagram, KeyRefusal, WorkerCommand, WorkerEvent};

/// Packets under way in each direction: fewer than the smallest queue between two ends holds.
const WINDOW: u32 = 100;

/// Sends packets of random sizes one way and checks each at the other end.
pub(crate) fn flow(from: &UnixDatagram, to: &UnixDatagram, count: u32, seed: u64) {
    let (mut sizes, mut again) = (Dice(seed), Dice(seed));
    let size = |dice: &mut Dice| 4 + dice.below(1_400);
    let check = |number: u32, size: usize| assert_eq!(recv(to), inner(number, size)[VNET_HDR_LEN..], "packet {number}");
    for number in 0..count {
        if number >= WINDOW {
            check(number - WINDOW, size(&mut again));
        }
        from.send(&inner(number, size(&mut sizes))).unwrap();
    }
    for number in count.saturating_sub(WINDOW)..count {
        check(number, size(&mut again));
    }
}

/// What one end sent, the other received, to the packet.
fn assert_sums(from: &StatsSnapshot, to: &StatsSnapshot, packets: u64) {
    assert_eq!((from.outbound.inner_packets, to.inbound.inner_packets), (packets, packets));
    assert_eq!(from.outbound.inner_bytes, to.inbound.inner_bytes);
    assert_eq!(from.outbound.wire_packets, to.inbound.wire_packets);
    assert_eq!(from.outbound.wire_bytes, to.inbound.wire_bytes);
    assert_eq!((from.outbound.written, to.inbound.written), (packets, packets));
}

#[test]
fn packets_of_random_sizes_cross_both_ways_and_every_sum_agrees() {
    for (near, far) in ENGINES {
        let (near, far) = pair(near, far);
        let (one, two) = (&near.packets, &far.packets);
        std::thread::scope(|scope| {
            scope.spawn(|| flow(one, two, 20_000, 1));
            scope.spawn(|| flow(two, one, 20_000, 2));
        });
        let (near_stats, far_stats) = (near.stats(), far.stats());
        // Counters are final once the threads have ended.
        near.worker.stop();
        far.worker.stop();
        let (near, far) = (near_stats.snapshot(), far_stats.snapshot());
        assert_sums(&near, &far, 20_000);
        assert_sums(&far, &near, 20_000);
        assert_eq!((near.dropped_total(), far.dropped_total()), (0, 0), "{near:?} {far:?}");
    }
}

#[test]
fn workers_with_different_aeads_understand_each_other() {
    let own = Aead::default();
    let best = Aead::resolve(AeadChoice::Auto).unwrap();
    // On x86-64 it must be installed: scripts/ensure-tools does.
    assert_eq!(own.info().name != best.info().name, cfg!(target_arch = "x86_64"), "{}", best.info());
    for (near_io, far_io) in ENGINES {
        let (one, two) = addresses();
        let end = |io, aead: &Aead, from, to, seal, open| {
            let mut config = config(io);
            config.config.aead = aead.clone();
            let mut end = End::with(config, from, to, seal, open, |_| ());
            assert_eq!(end.worker.aead(), aead.info());
            assert_eq!(end.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
            end
        };
        let near = end(near_io, &own, one, two, [1; 40], [2; 40]);
        let far = end(far_io, &best, two, one, [2; 40], [1; 40]);
        for (from, to) in [(&near, &far), (&far, &near)] {
            flow(&from.packets, &to.packets, 1_000, 7);
        }
    }
}

#[test]
fn a_key_that_is_not_newer_is_refused() {
    for (near, far) in ENGINES {
        let (mut near, _far) = pair(near, far);
        assert_eq!(near.install(name(0)), WorkerEvent::KeyRefused(name(0), KeyRefusal::NotNewer));
        assert_eq!(near.install(name(1)), WorkerEvent::KeyInstalled(name(1)));
        assert_eq!(near.install(name(0)), WorkerEvent::KeyRefused(name(0), KeyRefusal::NotNewer));
        let stranger = link::message::KeyName { peer: 9, ..name(2) };
        assert_eq!(near.install(stranger), WorkerEvent::KeyRefused(stranger, KeyRefusal::UnknownPeer));
    }
}

#[test]
fn without_a_key_packets_are_dropped_and_counted() {
    for (near, far) in ENGINES {
        let (mut near, mut far) = pair_without_keys(near, far);
        for number in 0..10 {
            near.send(&inner(number, 100));
        }
        let stats = near.stats();
        while stats.dropped(DropReason::NoKey) < 10 {
            std::thread::yield_now();
        }
        assert_eq!(near.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
        assert_eq!(far.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
        flow(&near.packets, &far.packets, 10, 3);
        assert_eq!(stats.dropped(DropReason::NoKey), 10);
    }
}

#[test]
fn data_moves_on_without_a_control_process_and_takes_the_keys_of_the_next() {
    for (near, far) in ENGINES {
        let (mut near, mut far) = pair(near, far);
        assert_eq!(far.install(name(1)), WorkerEvent::KeyInstalled(name(1)));
        // What the old one still wrote is carried out before the new one is listened to.
        near.control.send_command(0, &WorkerCommand::InstallKey(common::key(name(1), &near.seal, &near.open))).unwrap();
        let (shared, supervisor, mut ends) = link::create::<(), ()>(1).unwrap();
        near.control = shared.into_control_end();
        near.supervisor = supervisor;
        flow(&near.packets, &far.packets, 1_000, 4);
        near.worker.send(WorkerOrder::AttachLink(Box::new(ends.remove(0)))).unwrap();
        assert_eq!(near.install(name(1)), WorkerEvent::KeyRefused(name(1), KeyRefusal::NotNewer));
        assert_eq!(near.install(name(2)), WorkerEvent::KeyInstalled(name(2)));
        assert_eq!(far.install(name(2)), WorkerEvent::KeyInstalled(name(2)));
        for (from, to) in [(&near, &far), (&far, &near)] {
            flow(&from.packets, &to.packets, 1_000, 5);
        }
    }
}

#[test]
fn a_link_that_is_scribbled_on_is_dropped_and_data_moves_on() {
    for (near_io, far_io) in ENGINES {
        let (mut near, far) = pair(near_io, far_io);
        let (shared, _supervisor, mut ends) = link::create::<(), ()>(1).unwrap();
        let memory = shared.memfd().try_clone_to_owned().unwrap();
        let bell = shared.worker_bells().next().unwrap().try_clone_to_owned().unwrap();
        near.worker.send(WorkerOrder::AttachLink(Box::new(ends.remove(0)))).unwrap();
        // Every index of every ring becomes impossible.
        let length = rustix::fs::fstat(&memory).unwrap().st_size as usize;
        rustix::io::pwrite(&memory, &vec![0xA5; length], 0).unwrap();
        rustix::io::write(&bell, &1u64.to_ne_bytes()).unwrap();
        while !near.reports.recv().is_ok_and(|report| matches!(report, WorkerReport::LinkCorrupt(_))) {}
        flow(&near.packets, &far.packets, 1_000, 6);
        // And the next control process is listened to.
        let (shared, _supervisor, mut ends) = link::create::<(), ()>(1).unwrap();
        near.control = shared.into_control_end();
        near.worker.send(WorkerOrder::AttachLink(Box::new(ends.remove(0)))).unwrap();
        assert_eq!(near.install(name(1)), WorkerEvent::KeyInstalled(name(1)));
    }
}

/// A worker whose peer is a socket of the test.
fn worker_and_socket(io: IoChoice) -> (End, UdpSocket) {
    let (one, two) = addresses();
    let far = UdpSocket::bind(two).unwrap();
    far.connect(one).unwrap();
    (End::new(io, one, two, [1; 40], [2; 40]), far)
}

#[test]
fn control_datagrams_go_up_and_come_down() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (mut end, far) = worker_and_socket(io);
        for round in 0..200u8 {
            // P_CONTROL_HARD_RESET_SERVER_V2 with key-id 0.
            far.send(&[0x40, round]).unwrap();
            let heard = loop {
                match end.control.recv_datagram(0).unwrap() {
                    Some(datagram) => break (datagram.path, datagram.bytes.to_vec()),
                    None => end.control.wait(None).unwrap(),
                }
            };
            assert_eq!(heard, (end.path, vec![0x40, round]));
            let answer = Datagram { path: end.path, bytes: &[0x28, round] };
            assert!(end.control.send_datagram(0, &answer));
            let mut bytes = [0; 16];
            let len = far.recv(&mut bytes).unwrap();
            assert_eq!(bytes[..len], [0x28, round]);
        }
        assert_eq!(end.stats().snapshot().dropped_total(), 0);
    }
}

#[test]
fn a_full_ring_upwards_drops_control_datagrams_and_counts_every_one() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (mut end, far) = worker_and_socket(io);
        let stats = end.stats();
        let settled = || {
            let now = stats.snapshot();
            now.control_received
        };
        // A few at a time, so that the kernel drops none of them.
        for sent in 1..=2_000u64 {
            far.send(&[0x40; 1_200]).unwrap();
            while settled() < sent {
                std::thread::yield_now();
            }
        }
        let mut taken = 0;
        while end.control.recv_datagram(0).unwrap().is_some() {
            taken += 1;
        }
        let dropped = stats.dropped(DropReason::ControlRingFull);
        assert!(dropped > 0 && taken > 0, "{taken} taken, {dropped} dropped");
        assert_eq!(taken + dropped, 2_000);
        // There is room again.
        far.send(&[0x40, 7]).unwrap();
        while end.control.recv_datagram(0).unwrap().is_none() {
            end.control.wait(None).unwrap();
        }
    }
}

#[test]
fn orders_and_commands_are_heard_in_the_middle_of_traffic() {
    for (near, far) in ENGINES {
        let (mut near, mut far) = pair(near, far);
        let stop = std::sync::atomic::AtomicBool::new(false);
        let (packets, echo) = (near.packets.try_clone().unwrap(), far.packets.try_clone().unwrap());
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    packets.send(&inner(0, 1_000)).unwrap();
                }
            });
            scope.spawn(|| {
                echo.set_read_timeout(Some(std::time::Duration::from_millis(100))).unwrap();
                let mut frame = [0; 2_000];
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    let _ = echo.recv(&mut frame);
                }
            });
            for negotiation in 1..100 {
                assert_eq!(near.install(name(negotiation)), WorkerEvent::KeyInstalled(name(negotiation)));
                assert_eq!(far.install(name(negotiation)), WorkerEvent::KeyInstalled(name(negotiation)));
                far.worker.send(WorkerOrder::ReportWhenHeard { peer: 0 }).unwrap();
                loop {
                    if let WorkerReport::Peer(PeerReport::FirstHeard { peer: 0 }) = far.reports.recv().unwrap() {
                        break;
                    }
                }
            }
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
        });
    }
}

#[test]
fn an_idle_worker_hears_every_order_and_every_command() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (mut end, _far) = worker_and_socket(io);
        // One lost wake-up and this waits for ever.
        for negotiation in 0..2_000 {
            assert_eq!(end.install(name(negotiation)), WorkerEvent::KeyInstalled(name(negotiation)));
        }
        let (_, two) = addresses();
        for _ in 0..2_000 {
            end.worker.send(WorkerOrder::SetPath { peer: 0, path: path_to(two) }).unwrap();
        }
    }
}

#[test]
fn a_peer_whose_port_is_closed_is_reported_once_and_heard_again_later() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (mut end, far) = worker_and_socket(io);
        let ours = far.peer_addr().unwrap();
        let two = far.local_addr().unwrap();
        assert_eq!(end.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
        drop(far);
        for number in 0..100 {
            end.send(&inner(number, 100));
        }
        let errno = loop {
            if let WorkerReport::SocketError { errno, .. } = end.reports.recv().unwrap() {
                break errno;
            }
        };
        assert_eq!(errno, 111, "ECONNREFUSED");
        let far = UdpSocket::bind(two).unwrap();
        far.send_to(&[0x40, 1], ours).unwrap();
        while end.control.recv_datagram(0).unwrap().is_none() {
            end.control.wait(None).unwrap();
        }
        assert!(!end.reports.try_iter().any(|report| matches!(report, WorkerReport::SocketError { .. })), "said once");
    }
}

#[test]
fn a_stopped_worker_has_closed_its_socket_and_its_packets() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (end, far) = worker_and_socket(io);
        let ours = far.peer_addr().unwrap();
        assert!(UdpSocket::bind(ours).is_err(), "in use");
        end.worker.stop();
        UdpSocket::bind(ours).unwrap();
        assert!(end.packets.send(b"x").is_err(), "the other end of the pair is closed");
    }
}

#[test]
fn a_worker_stops_although_nobody_takes_its_packets() {
    for (near, far) in ENGINES {
        let (near, far) = pair(near, far);
        let stats = far.stats();
        // Until the far worker can get rid of no more: nobody reads what it opens.
        let mut number = 0;
        while stats.snapshot().dropped_total() == 0 {
            near.send(&inner(number, 1_200));
            number += 1;
        }
        near.worker.stop();
        far.worker.stop();
    }
}

#[test]
fn an_unknown_opcode_stops_no_worker() {
    for io in [IoChoice::Syscall, IoChoice::Uring] {
        let (mut end, far) = worker_and_socket(io);
        assert_eq!(end.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
        let stats = end.stats();
        let unknown = (0..32u8).filter(|opcode| !(3..=11).contains(opcode));
        let mut sent = 0;
        for first in unknown.flat_map(|opcode| (0..8).map(move |key_id| opcode << 3 | key_id)) {
            far.send(&[first; 60]).unwrap();
            sent += 1;
            // One at a time, so that the kernel drops none of them.
            while stats.snapshot().dropped_total() < sent {
                std::thread::yield_now();
            }
        }
        assert_eq!(stats.dropped(DropReason::UnknownOpcode), sent);
        end.send(&inner(7, 100));
        let mut bytes = [0; 200];
        assert_eq!(far.recv(&mut bytes).unwrap(), 128 + 24, "data goes on");
        far.send(&[0x40, 1]).unwrap();
        while end.control.recv_datagram(0).unwrap().is_none() {
            end.control.wait(None).unwrap();
        }
    }
}

#[test]
fn the_engine_that_was_asked_for_runs_and_the_thread_is_pinned() {
    for (io, expected) in [(IoChoice::Syscall, "syscall"), (IoChoice::Uring, "io_uring"), (IoChoice::Auto, "io_uring")]
    {
        let mut config = config(io);
        config.cpu = Some(dataplane::sys::affinity::allowed()[0]);
        let (worker, _control, _supervisor, reports) = start(config, |_| ());
        assert_eq!(worker.engine().name, expected);
        let pinned = reports.recv().unwrap();
        let expected = if SPLIT { "worker-0-open pinned to CPU " } else { "worker-0 pinned to CPU " };
        assert!(matches!(&pinned, WorkerReport::Pinned(text) if text.starts_with(expected)), "{pinned:?}");
        let chosen = reports.recv().unwrap();
        assert!(matches!(&chosen, WorkerReport::EngineChosen(info) if info == worker.engine()), "{chosen:?}");
    }
}

#[test]
fn an_order_to_a_worker_that_has_ended_is_refused() {
    let (_shared, _supervisor, mut ends) = link::create::<(), ()>(1).unwrap();
    let worker = spawn(config(IoChoice::Syscall), ends.remove(0), |_| ()).unwrap();
    worker.send(WorkerOrder::Stop).unwrap();
    while worker.send(WorkerOrder::DetachTun).is_ok() {
        std::thread::yield_now();
    }
}
