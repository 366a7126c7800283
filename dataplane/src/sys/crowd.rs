//! Sleeping for many engines on one thread: one poll(2) over all their descriptors, one bell, one timer.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};

use crate::sys::bell::Bell;
use crate::sys::syscall::Timer;

/// Descriptors in front of those of the engines: the bell and the timer.
const OWN: usize = 2;

/// What one thread sleeps on.
pub struct Crowd {
    polled: Vec<libc::pollfd>,
    bell: Bell,
    timer: Timer,
}

impl Crowd {
    /// Sleeps on this bell, and on what is added.
    ///
    /// # Errors
    /// No descriptor left for the timer.
    pub fn new(bell: Bell) -> io::Result<Self> {
        Ok(Self { polled: Vec::new(), bell, timer: Timer::new()? })
    }

    /// Forgets what was added.
    pub fn clear(&mut self) {
        self.polled.clear();
        self.polled.extend([asked(Some(self.bell.as_fd())), asked(Some(self.timer.fd.as_fd()))]);
    }

    /// Adds a descriptor; nothing takes a place as well. Places are counted from 0 after [`clear`](Self::clear).
    pub fn add(&mut self, fd: Option<BorrowedFd<'_>>) {
        self.polled.push(asked(fd));
    }

    /// Waits until a descriptor has something or the bell rings, at the latest until this CLOCK_BOOTTIME instant (nanoseconds); `None` looks
    /// and does not wait. May return early. The bell is silent afterwards.
    pub fn wait(&mut self, until_ns: Option<u64>) {
        if let Some(until_ns) = until_ns {
            self.timer.arm(until_ns);
        }
        let timeout = if until_ns.is_some() { -1 } else { 0 };
        let count = self.polled.len() as libc::nfds_t;
        // SAFETY: the pointer is that of a vector of `count` initialised `pollfd`, borrowed for the whole call; the kernel writes their
        // `revents`, for which every value is valid, and nothing else. A number that is no open descriptor (any more) is answered by
        // POLLNVAL, a negative one is passed over.
        let answer = unsafe { libc::poll(self.polled.as_mut_ptr(), count, timeout) };
        if answer < 0 {
            // A signal is a reason to look at everything.
            self.polled.iter_mut().filter(|polled| polled.fd >= 0).for_each(|polled| polled.revents = libc::POLLIN);
        }
        if self.said(0) {
            self.bell.take();
        }
        if self.said(1) {
            self.timer.fired();
        }
    }

    /// Whether the descriptor at that place has something: data, its end, or an error.
    pub fn is_ready(&self, place: usize) -> bool {
        self.said(place.saturating_add(OWN))
    }

    fn said(&self, index: usize) -> bool {
        self.polled.get(index).is_some_and(|polled| polled.revents != 0)
    }
}

fn asked(fd: Option<BorrowedFd<'_>>) -> libc::pollfd {
    libc::pollfd { fd: fd.map_or(-1, |fd| fd.as_raw_fd()), events: libc::POLLIN, revents: 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::clock;
    use std::os::unix::net::UnixDatagram;

    fn crowd() -> (Crowd, Bell) {
        let bell = Bell::new().unwrap();
        let mut crowd = Crowd::new(bell.try_clone().unwrap()).unwrap();
        crowd.clear();
        (crowd, bell)
    }

    #[test]
    fn whoever_has_something_is_named_and_nobody_else() {
        let (mut crowd, _bell) = crowd();
        let (near, far) = UnixDatagram::pair().unwrap();
        let (silent, _other) = UnixDatagram::pair().unwrap();
        far.send(b"x").unwrap();
        crowd.add(None);
        crowd.add(Some(silent.as_fd()));
        crowd.add(Some(near.as_fd()));
        crowd.wait(Some(u64::MAX));
        assert_eq!([0, 1, 2, 3].map(|place| crowd.is_ready(place)), [false, false, true, false]);
    }

    #[test]
    fn the_bell_the_time_and_impatience_end_a_wait() {
        let (mut crowd, bell) = crowd();
        crowd.wait(None);
        crowd.wait(Some(clock::boottime_ns() + 1_000_000));
        bell.ring();
        crowd.wait(Some(u64::MAX));
        assert!(!bell.take(), "it is silent again");
        assert!(!crowd.is_ready(0));
    }
}
