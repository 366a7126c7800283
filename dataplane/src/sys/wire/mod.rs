//! The direct calls of both engines, none of which waits: sending, receiving, and the TUN.

use std::io;

use rustix::io::Errno;

mod port;
mod receiver;
mod sender;

pub(super) use port::TunPort;
pub(super) use receiver::Receiver;
pub(super) use sender::{Sender, local_of, name_for, packets, pending};

/// Why no more was handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// There was none, so whatever comes now wakes a poll.
    Empty,
    /// The last call brought less than it could have taken: most likely there is no more. An error after the last datagram looks
    /// the same, and behind it there may be some that no poll is woken for, because the queue was not empty when they came.
    Short,
    /// The pipeline had enough, or the turn was over: there may be more.
    Enough,
    /// The interface was deleted, or the other end of the pair closed.
    Gone,
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::IO)
}
