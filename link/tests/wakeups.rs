//! Three threads on one link, sleeping on real futexes and eventfds: no wake-up is lost, no command is dropped, and
//! a flood of one class does not touch another. A lost wake-up would leave the test hanging.

#![allow(clippy::unwrap_used)] // helpers of tests, too, end a test by panicking

mod common;

use common::{Control, FromControl, Supervisor, ToControl};
use link::*;

const ROUNDS: u32 = 20_000;

fn path(worker: usize) -> Path {
    Path { worker: worker as u16, local: None, ifindex: 0, remote: "192.0.2.1:1194".parse().unwrap(), stream: None }
}

fn key(negotiation: u32) -> KeyName {
    KeyName { peer: 1, generation: 1, negotiation, key_id: 0 }
}

fn worker_command(worker: &mut WorkerEnd) -> WorkerCommand {
    loop {
        if let Some(command) = worker.recv_command().unwrap() {
            return command;
        }
        worker.wait(None);
    }
}

fn supervisor_message(supervisor: &mut Supervisor) -> FromControl {
    loop {
        if let Some(message) = supervisor.recv().unwrap() {
            return message;
        }
        supervisor.wait(None);
    }
}

fn control_event(control: &mut Control, worker: usize) -> WorkerEvent {
    loop {
        if let Some(event) = control.recv_event(worker).unwrap() {
            return event;
        }
        control.wait(None).unwrap();
    }
}

fn control_message(control: &mut Control) -> ToControl {
    loop {
        if let Some(message) = control.recv_from_supervisor().unwrap() {
            return message;
        }
        control.wait(None).unwrap();
    }
}

#[test]
fn a_round_trip_between_a_worker_and_the_control_thread_always_ends() {
    let (shared, _supervisor, mut workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let mut worker = workers.remove(0);
    let thread = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            assert_eq!(worker_command(&mut worker), WorkerCommand::SendWith(key(round)));
            worker.send_event(&WorkerEvent::KeySending(key(round))).unwrap();
        }
    });
    for round in 0..ROUNDS {
        control.send_command(0, &WorkerCommand::SendWith(key(round))).unwrap();
        assert_eq!(control_event(&mut control, 0), WorkerEvent::KeySending(key(round)));
    }
    thread.join().unwrap();
}

#[test]
fn a_round_trip_between_the_supervisor_and_the_control_thread_always_ends() {
    let (shared, mut supervisor, _workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let thread = std::thread::spawn(move || {
        for round in 0..ROUNDS {
            assert_eq!(control_message(&mut control), ToControl::Number(round));
            control.send_to_supervisor(&FromControl::Number(round)).unwrap();
        }
    });
    for round in 0..ROUNDS {
        supervisor.send(&ToControl::Number(round)).unwrap();
        assert_eq!(supervisor_message(&mut supervisor), FromControl::Number(round));
    }
    thread.join().unwrap();
}

#[test]
fn a_producer_that_sleeps_with_a_full_queue_goes_on_when_there_is_room() {
    let (shared, _supervisor, mut workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let mut worker = workers.remove(0);
    let events = 10_000;
    let thread = std::thread::spawn(move || {
        for round in 0..events {
            worker.send_event(&WorkerEvent::KeySending(key(round))).unwrap();
        }
        // From now on only the bell can tell this thread that there is room: falling asleep, it moves what fits. What it waits
        // for comes only after all of that arrived.
        worker_command(&mut worker)
    });
    for round in 0..events {
        assert_eq!(control_event(&mut control, 0), WorkerEvent::KeySending(key(round)));
    }
    control.send_command(0, &WorkerCommand::SendWith(key(0))).unwrap();
    thread.join().unwrap();
}

#[test]
fn a_flood_of_strangers_does_not_touch_known_peers_or_events() {
    let (shared, _supervisor, mut workers) = create::<ToControl, FromControl>(2).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    let worker = &mut workers[1];
    for _ in 0..10_000 {
        worker.send_datagram(false, &Datagram { path: path(1), bytes: b"stranger" });
    }
    assert_eq!((worker.dropped_known(), worker.dropped_unknown()), (0, 10_000 - 64));
    assert!(worker.send_datagram(true, &Datagram { path: path(1), bytes: b"friend" }));
    worker.send_event(&WorkerEvent::KeyInstalled(key(1))).unwrap();
    assert_eq!(control.recv_event(1), Ok(Some(WorkerEvent::KeyInstalled(key(1)))));
    assert_eq!(control.recv_datagram(1).unwrap().unwrap().bytes, b"friend", "known peers come first");
    for _ in 0..64 {
        assert_eq!(control.recv_datagram(1).unwrap().unwrap().bytes, b"stranger");
    }
    assert_eq!(control.recv_datagram(1), Ok(None));
    assert_eq!(control.recv_datagram(0), Ok(None), "the other worker sent nothing");
}

#[test]
fn datagrams_go_down_and_those_beyond_the_ring_are_counted() {
    let (shared, _supervisor, mut workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    for _ in 0..257 {
        control.send_datagram(0, &Datagram { path: path(0), bytes: b"answer" });
    }
    assert_eq!(control.dropped(0), 1);
    for _ in 0..256 {
        assert_eq!(workers[0].recv_datagram().unwrap().unwrap().bytes, b"answer");
    }
    assert_eq!(workers[0].recv_datagram(), Ok(None));
}

#[test]
fn nobody_sleeps_while_there_is_something_to_receive() {
    let (shared, mut supervisor, mut workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    assert!(supervisor.prepare_sleep());
    assert!(workers[0].prepare_sleep());
    supervisor.awake();
    workers[0].awake();
    control.send_to_supervisor(&FromControl::Ready).unwrap();
    control.send_datagram(0, &Datagram { path: path(0), bytes: b"x" });
    assert!(!supervisor.drain_bell() && !workers[0].drain_bell(), "both are awake: no bell");
    assert!(!supervisor.prepare_sleep());
    assert!(!workers[0].prepare_sleep());
    workers[0].send_datagram(true, &Datagram { path: path(0), bytes: b"x" });
    control.wait(None).unwrap();
}

#[test]
fn a_worker_that_does_not_exist_is_an_error_and_not_a_panic() {
    let (shared, _supervisor, _workers) = create::<ToControl, FromControl>(1).unwrap();
    let mut control = shared.into_control_end::<ToControl, FromControl>();
    assert_eq!(control.workers(), 1);
    assert_eq!(control.recv_datagram(1), Err(LinkError::NoSuchWorker));
    assert_eq!(control.recv_event(1), Err(LinkError::NoSuchWorker));
    assert_eq!(control.send_command(1, &WorkerCommand::PeerAlive { peer: 0 }), Err(LinkError::NoSuchWorker));
    assert!(!control.send_datagram(1, &Datagram { path: path(1), bytes: b"x" }));
}

#[test]
fn a_link_has_at_least_one_worker_and_at_most_the_maximum() {
    assert!(create::<ToControl, FromControl>(0).is_err());
    assert!(create::<ToControl, FromControl>(MAX_WORKERS + 1).is_err());
    assert_eq!(create::<ToControl, FromControl>(MAX_WORKERS).unwrap().2.len(), MAX_WORKERS);
}

#[test]
fn one_thread_is_the_control_plane_of_many_links_and_another_their_workers() {
    const LINKS: usize = 4;
    let (control_bell, worker_bell) = (EventBell::new().unwrap(), EventBell::new().unwrap());
    let (mut controls, mut workers, mut supervisors) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LINKS {
        let (control, supervisor, worker) =
            create_within::<ToControl, FromControl>(&control_bell, &worker_bell).unwrap();
        controls.push(control);
        supervisors.push(supervisor);
        workers.push(worker);
    }
    let thread = std::thread::spawn(move || {
        let mut answered = 0;
        while answered < LINKS as u32 * ROUNDS {
            let mut sleepy = true;
            for worker in &mut workers {
                while let Some(WorkerCommand::SendWith(name)) = worker.recv_command().unwrap() {
                    worker.send_event(&WorkerEvent::KeySending(name)).unwrap();
                    answered += 1;
                }
                sleepy &= worker.prepare_sleep();
            }
            if sleepy && answered < LINKS as u32 * ROUNDS {
                worker_bell.wait(None);
            }
            worker_bell.drain();
            workers.iter().for_each(WorkerEnd::awake);
        }
    });
    let mut asked = [0; LINKS];
    for control in &mut controls {
        control.send_command(0, &WorkerCommand::SendWith(key(0))).unwrap();
    }
    while asked.iter().any(|rounds| *rounds < ROUNDS) {
        let mut sleepy = true;
        for (control, rounds) in controls.iter_mut().zip(&mut asked) {
            while let Some(event) = control.recv_event(0).unwrap() {
                assert_eq!(event, WorkerEvent::KeySending(key(*rounds)));
                *rounds += 1;
                if *rounds < ROUNDS {
                    control.send_command(0, &WorkerCommand::SendWith(key(*rounds))).unwrap();
                }
            }
            sleepy &= control.prepare_sleep().unwrap();
        }
        if sleepy && asked.iter().any(|rounds| *rounds < ROUNDS) {
            control_bell.wait(None);
        }
        control_bell.drain();
        controls.iter().for_each(Control::awake);
    }
    thread.join().unwrap();
    drop(supervisors);
}
