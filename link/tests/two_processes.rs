//! The link between two real processes: this test binary starts itself again as the control process, which gets its
//! descriptors by number and echoes what it receives. Also: what a control process that has been taken over can do
//! to the others, which is nothing but errors.

#![allow(clippy::unwrap_used)] // helpers of tests, too, end a test by panicking

mod common;

use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};

use common::{Control, FromControl, Supervisor, ToControl};
use link::layout::total_bytes;
use link::*;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};

/// Set in the child: what it should do, and its descriptors.
const CHILD: &str = "LINK_TEST_CHILD";

const SMALL_MESSAGES: u32 = 1_000_000;
const BIG_MESSAGE: usize = 700 * 1_024;
const BIG_ANSWER: usize = 70 * 1_024;

/// Starts this binary again, running only `test`, with inherited descriptors.
fn start_child(test: &str, shared: &Shared) -> Child {
    let bell = shared.worker_bells().next().unwrap();
    let inherited = [shared.memfd(), bell, shared.supervisor_bell()];
    // Duplicates without close-on-exec, closed again as soon as the child has its own.
    let duplicates = inherited.map(inheritable);
    let numbers: Vec<String> = duplicates.iter().map(|fd| fd.as_raw_fd().to_string()).collect();
    Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, numbers.join(" "))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap()
}

fn inheritable(fd: BorrowedFd<'_>) -> OwnedFd {
    let duplicate = fd.try_clone_to_owned().unwrap();
    let flags = fcntl_getfd(&duplicate).unwrap();
    fcntl_setfd(&duplicate, flags.difference(FdFlags::CLOEXEC)).unwrap();
    duplicate
}

/// In the child: its three descriptors, reopened by number through /proc, which needs no unsafe code.
fn child_descriptors() -> Option<[OwnedFd; 3]> {
    let numbers = std::env::var(CHILD).ok()?;
    let numbers: Vec<i32> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    Some([reopen(numbers[0]), pidfd_copy(numbers[1]), pidfd_copy(numbers[2])])
}

fn reopen(number: i32) -> OwnedFd {
    std::fs::File::options().read(true).write(true).open(format!("/proc/self/fd/{number}")).unwrap().into()
}

/// An eventfd cannot be reopened by path; pidfd_getfd(2) on ourselves duplicates it by number.
fn pidfd_copy(number: i32) -> OwnedFd {
    use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open};
    let this = pidfd_open(getpid(), PidfdFlags::empty()).unwrap();
    pidfd_getfd(this, number, PidfdGetfdFlags::empty()).unwrap()
}

fn open_control() -> Option<Control> {
    let [memfd, worker_bell, supervisor_bell] = child_descriptors()?;
    Some(Control::open(memfd, vec![worker_bell], supervisor_bell).unwrap())
}

fn await_bell(fd: BorrowedFd<'_>) {
    let _ = poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)], None);
}

fn text(len: usize, seed: u32) -> String {
    (0..len).map(|index| char::from(b'a' + ((index as u32).wrapping_mul(7).wrapping_add(seed) % 26) as u8)).collect()
}

fn key(negotiation: u32) -> KeyName {
    KeyName { peer: negotiation ^ 0x5555, generation: 1, negotiation, key_id: 0 }
}

/// The child: answers every event with a command, and a big message with a big one; ends on `End`.
fn echo(mut control: Control) {
    control.send_to_supervisor(&FromControl::Ready).unwrap();
    loop {
        while let Some(event) = control.recv_event(0).unwrap() {
            let WorkerEvent::KeyInstalled(name) = event else { panic!("{event:?}") };
            control.send_command(0, &WorkerCommand::SendWith(name)).unwrap();
        }
        match control.recv_from_supervisor().unwrap() {
            Some(ToControl::Text { number, text: question, .. }) => {
                assert_eq!(question, text(BIG_MESSAGE, number));
                let text = text(BIG_ANSWER, number + 1);
                control.send_to_supervisor(&FromControl::Text { number, text }).unwrap();
            }
            Some(ToControl::End) => break,
            Some(other) => panic!("{other:?}"),
            None => control.wait(None).unwrap(),
        }
    }
}

fn next_message(supervisor: &mut Supervisor) -> FromControl {
    loop {
        if let Some(message) = supervisor.recv().unwrap() {
            return message;
        }
        supervisor.wait(None);
    }
}

fn exchange_small(worker: &mut WorkerEnd) {
    let (mut sent, mut received) = (0, 0);
    while received < SMALL_MESSAGES {
        while sent < SMALL_MESSAGES && sent - received < 2_000 {
            worker.send_event(&WorkerEvent::KeyInstalled(key(sent))).unwrap();
            sent += 1;
        }
        while let Some(command) = worker.recv_command().unwrap() {
            assert_eq!(command, WorkerCommand::SendWith(key(received)));
            received += 1;
        }
        // Nothing comes, and nobody rings, while no answer is outstanding.
        if sent > received && worker.prepare_sleep() {
            await_bell(worker.bell_fd());
            worker.awake();
            worker.drain_bell();
        }
    }
}

#[test]
fn a_million_messages_and_long_ones_cross_between_two_processes() {
    if let Some(control) = open_control() {
        return echo(control);
    }
    let (shared, mut supervisor, mut workers) = create::<ToControl, FromControl>(1).unwrap();
    let test = "a_million_messages_and_long_ones_cross_between_two_processes";
    let mut child = start_child(test, &shared);
    assert_eq!(next_message(&mut supervisor), FromControl::Ready);
    let mut worker = workers.remove(0);
    let thread = std::thread::spawn(move || exchange_small(&mut worker));
    let path = Path { worker: 0, local: None, ifindex: 0, remote: "192.0.2.1:1194".parse().unwrap(), stream: None };
    for number in 0..20 {
        supervisor.send(&ToControl::Text { number, path, text: text(BIG_MESSAGE, number) }).unwrap();
        let answer = FromControl::Text { number, text: text(BIG_ANSWER, number + 1) };
        assert_eq!(next_message(&mut supervisor), answer);
    }
    thread.join().unwrap();
    supervisor.send(&ToControl::End).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The child of the next test: overwrites the whole mapping with noise, again and again.
fn scribble(memfd: &OwnedFd, supervisor_bell: &OwnedFd) {
    let mapping = Mapping::from_fd(memfd, total_bytes(1)).unwrap();
    let mut noise = 0x9E37_79B9_7F4A_7C15_u64;
    for _ in 0..50 {
        for word in mapping.words() {
            noise ^= noise << 13;
            noise ^= noise >> 7;
            noise ^= noise << 17;
            word.store(noise, link::sync::Ordering::Relaxed);
        }
    }
    rustix::io::write(supervisor_bell, &1u64.to_ne_bytes()).unwrap();
}

#[test]
fn a_control_process_that_scribbles_causes_errors_and_no_panic() {
    if let Some([memfd, _worker_bell, supervisor_bell]) = child_descriptors() {
        return scribble(&memfd, &supervisor_bell);
    }
    let (shared, mut supervisor, mut workers) = create::<ToControl, FromControl>(1).unwrap();
    let test = "a_control_process_that_scribbles_causes_errors_and_no_panic";
    let mut child = start_child(test, &shared);
    let worker = &mut workers[0];
    let path = Path { worker: 0, local: None, ifindex: 0, remote: "192.0.2.1:1194".parse().unwrap(), stream: None };
    // The bell rings once, when the child is done.
    while !supervisor.drain_bell() {
        let _ = supervisor.recv();
        let _ = supervisor.send(&ToControl::Number(1));
        let _ = worker.recv_command();
        let _ = worker.recv_datagram();
        worker.send_datagram(true, &Datagram { path, bytes: b"x" });
        let _ = worker.send_event(&WorkerEvent::KeyInstalled(key(1)));
        supervisor.awake();
    }
    assert!(child.wait().unwrap().success());
    assert_eq!(supervisor.recv(), Err(LinkError::Corrupt));
    assert_eq!(worker.recv_command(), Err(LinkError::Corrupt));
    assert_eq!(worker.recv_datagram(), Err(LinkError::Corrupt));
    assert!(!worker.prepare_sleep(), "an error is something to be told");
}

#[test]
fn a_memory_made_for_another_number_of_workers_is_refused() {
    let (shared, _supervisor, _workers) = create::<ToControl, FromControl>(2).unwrap();
    let bells: Vec<OwnedFd> = shared.worker_bells().map(|bell| bell.try_clone_to_owned().unwrap()).collect();
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned().unwrap();
    let open = |bells| Control::open(own(shared.memfd()), bells, own(shared.supervisor_bell()));
    assert!(open(bells.into_iter().take(1).collect()).is_err());
    assert!(open(Vec::new()).is_err());
    let bells = shared.worker_bells().map(own).collect();
    assert_eq!(open(bells).unwrap().workers(), 2);
}
