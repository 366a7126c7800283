//! A bell: an eventfd that wakes a sleeping worker.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, eventfd};

/// An eventfd (eventfd(2)). Ringing twice before the worker looks is the same as ringing once.
#[derive(Debug)]
pub struct Bell {
    fd: Arc<OwnedFd>,
    /// Rung and not yet answered, for a thread that is awake and has no descriptor to look at.
    rung: Arc<AtomicBool>,
}

impl Bell {
    /// A new bell, silent.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn new() -> io::Result<Self> {
        let fd = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { fd: Arc::new(fd), rung: Arc::default() })
    }

    /// The same bell, for another owner.
    ///
    /// # Errors
    /// None; a bell that is given away need not know that.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: Arc::clone(&self.fd), rung: Arc::clone(&self.rung) })
    }

    /// A bell that wakes whoever sleeps on this one, and keeps for itself whether it rang: for one of several workers of a thread.
    #[must_use]
    pub fn beside(&self) -> Self {
        Self { fd: Arc::clone(&self.fd), rung: Arc::default() }
    }

    /// An eventfd that somebody else owns, to be slept on; [`rang`](Self::rang) knows only of ringing through this value.
    ///
    /// # Errors
    /// No descriptor left.
    pub fn same_as(fd: BorrowedFd<'_>) -> io::Result<Self> {
        Ok(Self { fd: Arc::new(fd.try_clone_to_owned()?), rung: Arc::default() })
    }

    /// Rings it. Cannot fail in a way that matters: a full counter is a bell that rings already.
    pub fn ring(&self) {
        self.rung.store(true, Ordering::Release);
        let _ = rustix::io::write(&self.fd, &1u64.to_ne_bytes());
    }

    /// True once after it rang. Everything done before [`ring`](Self::ring) is seen. Costs one load when it did not.
    pub fn rang(&self) -> bool {
        self.rung.load(Ordering::Relaxed) && self.rung.swap(false, Ordering::Acquire)
    }

    /// Whether [`rang`](Self::rang) would say so.
    pub fn is_rung(&self) -> bool {
        self.rung.load(Ordering::Acquire)
    }

    /// Silences the descriptor; true when it had rung. Only for an eventfd that is known to be readable, or non-blocking.
    pub fn take(&self) -> bool {
        let mut count = [0u8; 8];
        matches!(rustix::io::read(&self.fd, &mut count), Ok(8))
    }
}

impl AsFd for Bell {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl AsRawFd for Bell {
    fn as_raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_rung_twice_is_taken_once() {
        let bell = Bell::new().unwrap();
        let other = bell.try_clone().unwrap();
        assert!(!bell.take(), "silent at first");
        other.ring();
        other.ring();
        assert!(bell.take());
        assert!(!bell.take());
        assert!(bell.rang());
        assert!(!bell.rang() && !other.rang());
    }

    #[test]
    fn a_bell_beside_another_wakes_the_same_sleeper_and_is_answered_alone() {
        let bell = Bell::new().unwrap();
        let (one, other) = (bell.beside(), bell.beside());
        one.ring();
        assert!(bell.take(), "the thread wakes");
        assert!(one.is_rung() && !other.is_rung() && !bell.is_rung());
        assert!(one.rang() && !one.rang());
    }
}
