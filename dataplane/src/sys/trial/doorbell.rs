//! One thread wakes another that sleeps: by an eventfd and poll(2), by an eventfd and an armed poll of io_uring, and by
//! a message from ring to ring. What is measured is the way of the wake-up and what it costs the one who rings.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{IoUring, cqueue, opcode};
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::sys::affinity;
use crate::sys::trial::{Mode, build};

/// How the one who rings and the one who sleeps agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doorbell {
    /// write(2) to an eventfd; the sleeper is in poll(2) and reads the eventfd afterwards.
    PollCall,
    /// write(2) to an eventfd; the sleeper's ring has a multishot poll on it.
    MultishotPoll,
    /// IORING_OP_MSG_RING from the ringer's ring to the sleeper's.
    MessageRing,
    /// The same without a ring of one's own: IORING_REGISTER_SEND_MSG_RING.
    MessageRegister,
}

/// What a series of wake-ups took, in nanoseconds, one entry each.
#[derive(Clone, Debug, Default)]
pub struct Wakes {
    /// From the instant before ringing to the first instruction after sleeping.
    pub latency_ns: Vec<u64>,
    /// The ringer's call.
    pub cost_ns: Vec<u64>,
}

/// IORING_REGISTER_SEND_MSG_RING of linux/io_uring.h.
const REGISTER_SEND_MSG_RING: libc::c_uint = 31;
/// IORING_OP_MSG_RING of linux/io_uring.h.
const OP_MSG_RING: u8 = 40;
/// A wake-up that has not come after this time will not come.
const PATIENCE: Duration = Duration::from_secs(1);

/// So often a sleeper looks whether the series is over.
const SHIFT: Duration = Duration::from_millis(20);

/// What both threads see.
struct Shared {
    start: Instant,
    rung_at: AtomicU64,
    rung: AtomicU64,
    seen: AtomicU64,
    over: AtomicBool,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Rings `count` times, each `pause` after the sleeper went back to sleep, with the sleeper on the first CPU and the
/// ringer (the calling thread, which stays there) on the second.
///
/// # Errors
/// What setting up or ringing answers; TimedOut when a wake-up did not come.
pub fn wakes(doorbell: Doorbell, count: usize, pause: Duration, cpus: [usize; 2]) -> io::Result<Wakes> {
    let shared = Shared {
        start: Instant::now(),
        rung_at: AtomicU64::new(0),
        rung: AtomicU64::new(0),
        seen: AtomicU64::new(0),
        over: AtomicBool::new(false),
    };
    let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let sleepers = event.try_clone()?;
    let (ready, ring_fd) = channel();
    std::thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            affinity::pin("sleeper", cpus[0]);
            sleep_on(doorbell, sleepers, &shared, ready)
        });
        affinity::pin("ringer", cpus[1]);
        let outcome = ring_often(doorbell, &event, &shared, &ring_fd, count, pause);
        shared.over.store(true, Ordering::Release);
        let latency_ns = sleeper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        outcome.map(|cost_ns| Wakes { latency_ns, cost_ns })
    })
}

fn ring_often(
    doorbell: Doorbell,
    event: &OwnedFd,
    shared: &Shared,
    ring_fd: &Receiver<RawFd>,
    count: usize,
    pause: Duration,
) -> io::Result<Vec<u64>> {
    let target = ring_fd.recv().map_err(|_| io::Error::other("the sleeper could not be set up"))?;
    let mut ring = build(Mode::Deferred)?;
    let mut costs = Vec::with_capacity(count);
    for turn in 1..=count as u64 {
        let settled = Instant::now() + pause;
        while Instant::now() < settled {
            std::hint::spin_loop();
        }
        let before = shared.now();
        shared.rung_at.store(before, Ordering::Relaxed);
        shared.rung.store(turn, Ordering::Release);
        match doorbell {
            Doorbell::PollCall | Doorbell::MultishotPoll => drop(rustix::io::write(event, &1u64.to_ne_bytes())?),
            Doorbell::MessageRing => message(&mut ring, target)?,
            Doorbell::MessageRegister => message_without_ring(target)?,
        }
        costs.push(shared.now().saturating_sub(before));
        while shared.seen.load(Ordering::Acquire) < turn {
            if settled.elapsed() > PATIENCE {
                return Err(io::ErrorKind::TimedOut.into());
            }
            std::hint::spin_loop();
        }
    }
    Ok(costs)
}

fn message(ring: &mut IoUring, target: RawFd) -> io::Result<()> {
    let entry = opcode::MsgRingData::new(Fd(target), 0, 1, None).build();
    // SAFETY: the entry points to no memory.
    unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
    ring.submit_and_wait(1)?;
    let result = ring.completion().next().map_or(0, |completion| completion.result());
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) }
}

fn message_without_ring(target: RawFd) -> io::Result<()> {
    // struct io_uring_sqe: opcode at 0, descriptor at 4, the other ring's user_data at 8; IORING_MSG_DATA is 0.
    let mut entry = [0u64; 8];
    entry[0] = u64::from_ne_bytes({
        let mut word = [0u8; 8];
        word[0] = OP_MSG_RING;
        word[4..].copy_from_slice(&target.to_ne_bytes());
        word
    });
    entry[1] = 1;
    // SAFETY: the call reads one `struct io_uring_sqe` of 64 bytes, which `entry` is in size and alignment; it is
    // borrowed for the call, and the operation is complete when it returns.
    let answer =
        unsafe { libc::syscall(libc::SYS_io_uring_register, -1, REGISTER_SEND_MSG_RING, entry.as_ptr(), 1u32) };
    if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

fn sleep_on(doorbell: Doorbell, event: OwnedFd, shared: &Shared, ready: Sender<RawFd>) -> io::Result<Vec<u64>> {
    // Whatever ends this function early ends the channel, and so the ringer.
    let mut ring = build(Mode::Deferred)?;
    let mut latencies = Vec::new();
    arm(&mut ring, doorbell, &event)?;
    let _ = ready.send(ring.as_raw_fd());
    let mut seen = 0;
    while !shared.over.load(Ordering::Acquire) {
        match doorbell {
            Doorbell::PollCall => {
                let patience = rustix::time::Timespec { tv_sec: 0, tv_nsec: SHIFT.as_nanos() as i64 };
                poll(&mut [PollFd::new(&event, PollFlags::IN)], Some(&patience))?;
            }
            _ => sleep_in(&ring)?,
        }
        let now = shared.now();
        let rung = shared.rung.load(Ordering::Acquire);
        if rung != seen {
            latencies.push(now.saturating_sub(shared.rung_at.load(Ordering::Relaxed)));
        }
        match doorbell {
            Doorbell::PollCall => drop(rustix::io::read(&event, &mut [0u8; 8])),
            _ => {
                let more = ring.completion().all(|completion| cqueue::more(completion.flags()));
                if !more && doorbell == Doorbell::MultishotPoll {
                    arm(&mut ring, doorbell, &event)?;
                }
            }
        }
        seen = rung;
        shared.seen.store(seen, Ordering::Release);
    }
    Ok(latencies)
}

fn sleep_in(ring: &IoUring) -> io::Result<()> {
    let patience = io_uring::types::Timespec::from(SHIFT);
    let args = io_uring::types::SubmitArgs::new().timespec(&patience);
    match ring.submitter().submit_with_args(1, &args) {
        Ok(_) => Ok(()),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR)) => Ok(()),
        Err(error) => Err(error),
    }
}

fn arm(ring: &mut IoUring, doorbell: Doorbell, event: &OwnedFd) -> io::Result<()> {
    if doorbell == Doorbell::MultishotPoll {
        let entry = opcode::PollAdd::new(Fd(event.as_fd().as_raw_fd()), libc::POLLIN as u32).multi(true).build();
        // SAFETY: the entry points to no memory; the kernel has its own reference to the descriptor.
        unsafe { ring.submission().push(&entry) }.map_err(io::Error::other)?;
        ring.submit()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_ring_of_every_doorbell_is_heard() {
        let cpus = affinity::allowed();
        let cpus = [cpus[0], *cpus.last().unwrap()];
        let all = [Doorbell::PollCall, Doorbell::MultishotPoll, Doorbell::MessageRing, Doorbell::MessageRegister];
        for doorbell in all {
            match wakes(doorbell, 20, Duration::from_micros(10), cpus) {
                Ok(wakes) => assert_eq!((wakes.latency_ns.len(), wakes.cost_ns.len()), (20, 20), "{doorbell:?}"),
                // Before Linux 6.13.
                Err(error) => assert!(doorbell == Doorbell::MessageRegister, "{doorbell:?}: {error}"),
            }
        }
    }

    #[test]
    fn a_message_to_something_that_is_no_ring_is_refused() {
        let event = eventfd(0, EventfdFlags::CLOEXEC).unwrap();
        let mut ring = build(Mode::Deferred).unwrap();
        assert!(message(&mut ring, event.as_raw_fd()).is_err());
        assert!(message_without_ring(event.as_raw_fd()).is_err());
    }
}
