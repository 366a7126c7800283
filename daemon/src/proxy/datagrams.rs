//! One UDP socket in the tunnel, for both families, as whoever opened it holds it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::socket::udp::{PacketBuffer, PacketMetadata, Socket};

use super::failure::Failure;
use super::headers::Key;
use super::stack::Stack;

/// Datagrams that wait in each direction; further ones are dropped, as a full socket buffer does.
const DATAGRAMS: usize = 64;

/// Bytes that wait in each direction.
const BYTES: usize = 96 * 1024;

/// A UDP socket. Dropping it closes it.
#[derive(Debug)]
pub(super) struct Datagrams {
    stack: Arc<Stack>,
    key: Key,
}

impl Datagrams {
    /// Opens one on a port that nobody can guess.
    ///
    /// # Errors
    /// [`Failure::Full`], [`Failure::TunnelDown`].
    pub(super) fn open(stack: &Arc<Stack>) -> Result<Datagrams, Failure> {
        let buffer = || PacketBuffer::new(vec![PacketMetadata::EMPTY; DATAGRAMS], vec![0; BYTES]);
        let socket = Socket::new(buffer(), buffer());
        let key = stack
            .open(Key::Udp, 2 * BYTES, socket, |socket, _, port| socket.bind(port).map_err(|_| Failure::NotAllowed))?;
        Ok(Datagrams { stack: Arc::clone(stack), key })
    }

    /// Sends a datagram, unless no more can wait: then it is dropped.
    ///
    /// # Errors
    /// [`Failure::NoSuchFamily`]; [`Failure::NotAllowed`] for one that is longer than the tunnel carries in one packet, and for an
    /// address or a port that is nobody's.
    pub(super) fn send(&self, bytes: &[u8], to: SocketAddr) -> Result<(), Failure> {
        self.stack.source(to)?;
        let headers = if to.is_ipv4() { 28 } else { 48 };
        if bytes.len() + headers > self.stack.inner().mtu || to.ip().is_unspecified() || to.port() == 0 {
            return Err(Failure::NotAllowed);
        }
        let mut sockets = self.stack.lock();
        if let Some(socket) = sockets.slot(self.key).and_then(|slot| slot.socket::<Socket<'static>>()) {
            let _ = socket.send_slice(bytes, smoltcp::wire::IpEndpoint::from(to));
        }
        sockets.touch(self.key);
        drop(sockets);
        self.stack.bell.notify_one();
        Ok(())
    }

    /// The next datagram and where it comes from. What is longer than `buffer` is cut.
    pub(super) fn poll_receive(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<(usize, SocketAddr)> {
        let mut sockets = self.stack.lock();
        let Some(socket) = sockets.slot(self.key).and_then(|slot| slot.socket::<Socket<'static>>()) else {
            return Poll::Pending;
        };
        if !socket.can_recv() {
            socket.register_recv_waker(cx.waker());
            return Poll::Pending;
        }
        let Ok((bytes, from)) = socket.recv() else { return Poll::Pending };
        let count = bytes.len().min(buffer.len());
        if let (Some(to), Some(bytes)) = (buffer.get_mut(..count), bytes.get(..count)) {
            to.copy_from_slice(bytes);
        }
        Poll::Ready((count, SocketAddr::new(from.endpoint.addr.into(), from.endpoint.port)))
    }
}

impl Drop for Datagrams {
    fn drop(&mut self) {
        self.stack.abandon(self.key);
    }
}
