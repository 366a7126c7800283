//! Doorbells: how a sleeping thread is woken. An eventfd for whoever sleeps in io_uring, epoll or poll (workers, the
//! supervisor), and a futex word in the shared memory for the control process, which needs no descriptor to sleep.
//! When to ring is decided in `sleep`.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{EventfdFlags, PollFd, PollFlags, poll};
use rustix::thread::{Timespec, futex};

use crate::shm::Sleeper;
use crate::sleep;
use crate::sync::Ordering;

/// An eventfd (eventfd(2)), non-blocking and close-on-exec.
#[derive(Clone, Debug)]
pub struct EventBell {
    fd: Arc<OwnedFd>,
}

impl EventBell {
    /// A new one.
    ///
    /// # Errors
    /// What eventfd(2) said.
    pub fn new() -> io::Result<EventBell> {
        let fd = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(EventBell::from_fd(fd))
    }

    /// One that another process made.
    pub fn from_fd(fd: OwnedFd) -> EventBell {
        EventBell { fd: Arc::new(fd) }
    }

    /// Wakes who waits for it, now or next.
    pub fn ring(&self) {
        // A full counter (EAGAIN) is a bell that rings already. A bell that is broken otherwise cannot be told to
        // anybody from here: whoever sleeps on it sees the other process's end instead.
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// Blocks until it has rung, a signal came, or the time is over (`None`: never). May return early.
    pub fn wait(&self, timeout: Option<Duration>) {
        let timeout = timeout.map(timespec);
        // Every error is a reason to look at the rings.
        let _ = poll(&mut [PollFd::new(&self.fd, PollFlags::IN)], timeout.as_ref());
    }

    /// Silences it; returns whether it had rung. Not needed by an edge-triggered waiter.
    pub fn drain(&self) -> bool {
        let mut count = [0; 8];
        rustix::io::read(&self.fd, &mut count).is_ok()
    }
}

impl AsFd for EventBell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A futex word in the shared mapping (futex(2), not private, because it crosses processes).
#[derive(Clone, Debug)]
pub struct FutexBell {
    sleeper: Sleeper,
}

impl FutexBell {
    pub(crate) fn new(sleeper: Sleeper) -> FutexBell {
        FutexBell { sleeper }
    }

    /// Wakes who waits, or makes the next [`FutexBell::wait`] with an older value return at once.
    pub fn ring(&self) {
        let word = self.sleeper.futex();
        word.fetch_add(1, Ordering::Release);
        // Fails only for an unmapped or unaligned word, which this is not.
        let _ = futex::wake(word, futex::Flags::empty(), 1);
    }

    /// The value to give to [`FutexBell::wait`]; to be read before the last look at the rings.
    pub fn value(&self) -> u32 {
        self.sleeper.futex().load(Ordering::Acquire)
    }

    /// Sleeps until the bell has rung since [`FutexBell::value`] returned `seen`, a signal came, or the time is over
    /// (`None`: never). The time does not pass while the machine is suspended: ring on resume. May return early.
    pub fn wait(&self, seen: u32, timeout: Option<Duration>) {
        let timeout = timeout.map(timespec);
        // Every error is a reason to look at the rings: EAGAIN (it rang), ETIMEDOUT, EINTR.
        let _ = futex::wait(self.sleeper.futex(), futex::Flags::empty(), seen, timeout.as_ref());
    }
}

/// Either kind.
#[derive(Clone, Debug)]
pub enum Bell {
    /// An eventfd.
    Event(EventBell),
    /// A futex word.
    Futex(FutexBell),
}

impl Bell {
    /// What [`FutexBell::value`] says; an eventfd needs no such value, because it stays readable.
    pub(crate) fn value(&self) -> u32 {
        match self {
            Bell::Event(_) => 0,
            Bell::Futex(bell) => bell.value(),
        }
    }

    /// Sleeps until it has rung since [`Bell::value`] returned `seen`, or the time is over. May return early.
    pub(crate) fn wait(&self, seen: u32, timeout: Option<Duration>) {
        match self {
            Bell::Event(bell) => {
                bell.wait(timeout);
                bell.drain();
            }
            Bell::Futex(bell) => bell.wait(seen, timeout),
        }
    }
}

/// The thread at the other end: its NEED_WAKE word and its bell.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    sleeper: Sleeper,
    bell: Bell,
}

impl Remote {
    pub(crate) fn new(sleeper: Sleeper, bell: Bell) -> Remote {
        Remote { sleeper, bell }
    }

    /// Rings if it sleeps. To be called after publishing.
    pub(crate) fn ring_if_asleep(&self) {
        if sleep::must_ring(self.sleeper.need_wake()) {
            self.ring();
        }
    }

    /// Rings in any case.
    pub(crate) fn ring(&self) {
        match &self.bell {
            Bell::Event(bell) => bell.ring(),
            Bell::Futex(bell) => bell.ring(),
        }
    }
}

fn timespec(duration: Duration) -> Timespec {
    Timespec { tv_sec: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX), tv_nsec: duration.subsec_nanos().into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shm::Mapping;

    fn futex_bell() -> FutexBell {
        let (mapping, _fd) = Mapping::create(4_096).unwrap();
        FutexBell::new(Sleeper::new(&Arc::new(mapping), 64))
    }

    #[test]
    fn an_event_bell_is_silent_until_it_rings_and_after_it_was_drained() {
        let bell = EventBell::new().unwrap();
        assert!(!bell.drain());
        bell.ring();
        bell.clone().ring();
        assert!(bell.drain());
        assert!(!bell.drain());
    }

    #[test]
    fn a_full_event_counter_does_not_block_the_ringer() {
        let bell = EventBell::new().unwrap();
        rustix::io::write(&bell, &(u64::MAX - 1).to_ne_bytes()).unwrap();
        bell.ring();
        assert!(bell.drain());
    }

    #[test]
    fn a_futex_bell_that_rang_before_the_wait_does_not_let_it_sleep() {
        let bell = futex_bell();
        let seen = bell.value();
        bell.ring();
        bell.wait(seen, None);
        assert_ne!(bell.value(), seen);
    }

    #[test]
    fn a_futex_bell_wakes_a_sleeper_in_another_thread() {
        let bell = futex_bell();
        let seen = bell.value();
        let ringer = std::thread::spawn({
            let bell = bell.clone();
            move || bell.ring()
        });
        while bell.value() == seen {
            bell.wait(seen, None);
        }
        ringer.join().unwrap();
    }

    #[test]
    fn a_wait_with_a_timeout_ends_without_a_ring() {
        let bell = futex_bell();
        let seen = bell.value();
        bell.wait(seen, Some(Duration::from_millis(1)));
        assert_eq!(bell.value(), seen);
    }

    #[test]
    fn a_remote_is_rung_only_when_it_sleeps_and_once() {
        let (mapping, _fd) = Mapping::create(4_096).unwrap();
        let sleeper = Sleeper::new(&Arc::new(mapping), 0);
        let bell = EventBell::new().unwrap();
        let remote = Remote::new(sleeper.clone(), Bell::Event(bell.clone()));
        remote.ring_if_asleep();
        assert!(!bell.drain());
        sleep::announce(sleeper.need_wake());
        remote.ring_if_asleep();
        assert!(bell.drain());
        remote.ring_if_asleep();
        assert!(!bell.drain());
        sleep::announce(sleeper.need_wake());
        sleep::cancel(sleeper.need_wake());
        remote.ring_if_asleep();
        assert!(!bell.drain());
    }
}
