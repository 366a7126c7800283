//! The socket pair between a program and the worker: a SOCK_SEQPACKET, on which a packet lies behind a virtio header (10 bytes,
//! linux/virtio_net.h) as it would on a TUN queue. For single packets the header is added and taken off here, and always zero; frames
//! ([`Frames`](super::frames::Frames)) go as they are.

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, SocketFlags, SocketType,
};
use tokio::io::unix::AsyncFd;

use crate::sys;

/// `struct virtio_net_hdr` without `num_buffers`.
const HEADER: usize = 10;
/// Bytes asked for in each direction; the kernel grants what net.core.wmem_max allows.
const BUFFER: usize = 4 << 20;

/// A program's end.
#[derive(Debug)]
pub(super) struct Pipe {
    fd: Arc<OwnedFd>,
    /// Made when somebody waits asynchronously for the first time, by the runtime that is there then.
    reactor: OnceLock<AsyncFd<Arc<OwnedFd>>>,
    making: Mutex<()>,
}

/// What is waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Way {
    /// A packet, or the end.
    In,
    /// Room for a packet, or the end.
    Out,
}

/// A program's end and the worker's.
///
/// # Errors
/// No descriptors left.
pub(super) fn pair() -> io::Result<(Pipe, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let (ours, workers) = rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?;
    for end in [&ours, &workers] {
        // Less only means that less waits in it.
        let _ = rustix::net::sockopt::set_socket_send_buffer_size(end, BUFFER);
    }
    Ok((Pipe { fd: Arc::new(ours), reactor: OnceLock::new(), making: Mutex::new(()) }, workers))
}

impl Pipe {
    /// The next packet, cut to what `packet` holds; `Ok(0)` is the end.
    ///
    /// # Errors
    /// `WouldBlock`: there is none. `ConnectionReset` is an end as well.
    pub(super) fn try_recv(&self, packet: &mut [u8]) -> io::Result<usize> {
        if packet.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "a buffer of no bytes cannot take a packet"));
        }
        let mut header = [0; HEADER];
        loop {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(packet)];
            let mut nothing = RecvAncillaryBuffer::default();
            match rustix::net::recvmsg(&self.fd, &mut parts, &mut nothing, RecvFlags::DONTWAIT) {
                Ok(message) if message.bytes == 0 => return Ok(0),
                // The worker writes no frame without a packet; one that had none would be taken for the end.
                Ok(message) if message.bytes <= HEADER => {}
                Ok(message) => return Ok(message.bytes - HEADER),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The next frame as the worker wrote it, cut to what `frame` holds; `Ok(0)` is the end.
    ///
    /// # Errors
    /// As [`try_recv`](Self::try_recv).
    pub(super) fn try_recv_frame(&self, frame: &mut [u8]) -> io::Result<usize> {
        loop {
            match rustix::io::read(&self.fd, &mut *frame) {
                Ok(0) => return Ok(0),
                Ok(length) if length <= HEADER => {}
                Ok(length) => return Ok(length),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands a frame over as it is.
    ///
    /// # Errors
    /// As [`try_send`](Self::try_send).
    pub(super) fn try_send_frame(&self, frame: &[u8]) -> io::Result<()> {
        loop {
            match rustix::net::send(&self.fd, frame, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::NOBUFS) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Hands a packet over.
    ///
    /// # Errors
    /// `WouldBlock`: there is no room. `BrokenPipe` and `ConnectionReset` are the end.
    pub(super) fn try_send(&self, packet: &[u8]) -> io::Result<()> {
        let parts = [IoSlice::new(&[0; HEADER]), IoSlice::new(packet)];
        loop {
            let mut nothing = SendAncillaryBuffer::default();
            // A program need not have ignored SIGPIPE.
            let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
            match rustix::net::sendmsg(&self.fd, &parts, &mut nothing, flags) {
                Ok(_) => return Ok(()),
                Err(rustix::io::Errno::INTR) => {}
                // Memory of the kernel's is short for a moment.
                Err(rustix::io::Errno::NOBUFS) => return Err(io::ErrorKind::WouldBlock.into()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Tries until it does not say `WouldBlock`; blocks the thread meanwhile. `None`: that long, and nothing.
    pub(super) fn block<T>(
        &self,
        way: Way,
        limit: Option<Duration>,
        mut attempt: impl FnMut() -> io::Result<T>,
    ) -> Option<io::Result<T>> {
        let until = limit.and_then(|limit| Instant::now().checked_add(limit));
        loop {
            match attempt() {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return Some(done),
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return None;
            }
            self.wait(way, left);
        }
    }

    fn wait(&self, way: Way, limit: Option<Duration>) {
        let events = match way {
            Way::In => PollFlags::IN,
            Way::Out => PollFlags::OUT,
        };
        let timeout = limit.map(|limit| Timespec {
            tv_sec: i64::try_from(limit.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: limit.subsec_nanos().into(),
        });
        // Every answer is a reason to try.
        let _ = poll(&mut [PollFd::new(&self.fd, events)], timeout.as_ref());
    }

    /// Tries until it does not say `WouldBlock`.
    pub(super) async fn ready<T>(&self, way: Way, mut attempt: impl FnMut() -> io::Result<T> + Send) -> io::Result<T> {
        // A packet that is there needs no runtime.
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            done => return done,
        }
        let reactor = self.reactor()?;
        loop {
            let mut guard = match way {
                Way::In => reactor.readable().await?,
                Way::Out => reactor.writable().await?,
            };
            if let Ok(done) = guard.try_io(|_| attempt()) {
                return done;
            }
        }
    }

    fn reactor(&self) -> io::Result<&AsyncFd<Arc<OwnedFd>>> {
        if let Some(reactor) = self.reactor.get() {
            return Ok(reactor);
        }
        let handle = tokio::runtime::Handle::try_current();
        handle
            .map_err(|_| io::Error::other("asynchronous use of a tunnel needs a tokio runtime with its I/O driver"))?;
        // A descriptor is watched once.
        let _one = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(reactor) = self.reactor.get() {
            return Ok(reactor);
        }
        let made = sys::both_ways(Arc::clone(&self.fd))?;
        Ok(self.reactor.get_or_init(|| made))
    }

    /// Nothing goes in or out from now on; whoever waits is woken.
    pub(super) fn shut(&self) {
        let _ = rustix::net::shutdown(&self.fd, Shutdown::Both);
    }
}

impl AsFd for Pipe {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}
