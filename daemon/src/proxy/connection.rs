//! One TCP connection through the tunnel, as whoever opened it holds it.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use smoltcp::socket::tcp::{RecvError, Socket, SocketBuffer, State};
use smoltcp::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::failure::Failure;
use super::headers::Key;
use super::stack::Stack;

/// Bytes for what comes in while few connections are open: the window that the other side sees. 2 MiB carry 1 Gb/s over 16 ms.
const LARGEST_WINDOW: usize = 2 * 1024 * 1024;

/// The same when many are open.
const SMALLEST_WINDOW: usize = 64 * 1024;

/// Bytes that the buffers of all connections should take together. Beyond it each new one gets the smallest.
const MEMORY: usize = 256 * 1024 * 1024;

/// After this long without a word from the other side it is asked whether it is there.
const KEEP_ALIVE: Duration = Duration::from_secs(300);

/// After this long without an answer it is not. As long as Linux tries.
const GIVE_UP: Duration = Duration::from_secs(960);

/// What came of moving bytes.
#[derive(Debug)]
pub(super) enum Moved<R> {
    /// The other end was asked, with this result.
    Asked(R),
    /// Nothing is there (reading), or no room (writing).
    Nothing,
    /// The other side sends no more.
    Finished,
    /// The connection broke.
    Broken,
}

/// A TCP connection. Dropping it resets it, unless both sides have finished or are about to.
#[derive(Debug)]
pub(super) struct Connection {
    stack: Arc<Stack>,
    key: Key,
    local: SocketAddr,
}

impl Connection {
    /// Opens one and waits until it is established. The caller says how long: dropping the future gives it up.
    ///
    /// # Errors
    /// Every [`Failure`] but those of names and time.
    pub(super) async fn open(stack: &Arc<Stack>, remote: SocketAddr) -> Result<Connection, Failure> {
        let source = stack.source(remote)?;
        let (receive, send) = buffers(stack.lock().buffered());
        let mut socket = Socket::new(SocketBuffer::new(vec![0; receive]), SocketBuffer::new(vec![0; send]));
        socket.set_keep_alive(Some(KEEP_ALIVE));
        socket.set_timeout(Some(GIVE_UP));
        // Small writes are whoever speaks through us to join, as on a host's own socket with TCP_NODELAY.
        socket.set_nagle_enabled(false);
        let key = stack.open(Key::Tcp, receive + send, socket, |socket, context, port| {
            socket.connect(context, remote, (source, port)).map_err(|_| Failure::NotAllowed)
        })?;
        let (Key::Tcp(port) | Key::Udp(port)) = key;
        let connection = Connection { stack: Arc::clone(stack), key, local: SocketAddr::new(source, port) };
        connection.established().await?;
        Ok(connection)
    }

    /// Our end.
    pub(super) fn local(&self) -> SocketAddr {
        self.local
    }

    /// Waits until there is something to read, an end included.
    pub(super) async fn readable(&self) {
        poll_fn(|cx| self.poll_readable(cx)).await;
    }

    /// Waits until there is room to write, or the connection is over.
    pub(super) async fn writable(&self) {
        poll_fn(|cx| self.poll_writable(cx)).await;
    }

    /// Lets `pour` have received bytes; it says how many it took, and gives something back.
    pub(super) fn read_with<R>(&self, pour: impl FnOnce(&[u8]) -> (usize, R)) -> Moved<R> {
        self.with(|socket| {
            if !socket.can_recv() && socket.may_recv() {
                return Moved::Nothing;
            }
            match socket.recv(|bytes| pour(bytes)) {
                Ok(result) => Moved::Asked(result),
                Err(RecvError::Finished) => Moved::Finished,
                Err(RecvError::InvalidState) => Moved::Broken,
            }
        })
    }

    /// Lets `fill` write bytes that are to be sent; it says how many it wrote, and gives something back.
    pub(super) fn write_with<R>(&self, fill: impl FnOnce(&mut [u8]) -> (usize, R)) -> Moved<R> {
        self.with(|socket| {
            if !socket.can_send() && socket.may_send() {
                return Moved::Nothing;
            }
            socket.send(fill).map_or(Moved::Broken, Moved::Asked)
        })
    }

    /// We send no more. What was written still goes.
    pub(super) fn finish(&self) {
        self.with(|socket| {
            socket.close();
            Moved::<()>::Nothing
        });
    }

    /// Breaks it at once.
    pub(super) fn abort(&self) {
        self.with(|socket| {
            socket.abort();
            Moved::<()>::Nothing
        });
    }

    fn with<R>(&self, act: impl FnOnce(&mut Socket<'static>) -> Moved<R>) -> Moved<R> {
        let mut sockets = self.stack.lock();
        let Some(socket) = sockets.slot(self.key).and_then(|slot| slot.socket::<Socket<'static>>()) else {
            return Moved::Broken;
        };
        let moved = act(socket);
        sockets.touch(self.key);
        drop(sockets);
        self.stack.bell.notify_one();
        moved
    }

    async fn established(&self) -> Result<(), Failure> {
        poll_fn(|cx| {
            let mut sockets = self.stack.lock();
            let Some(slot) = sockets.slot(self.key) else { return Poll::Ready(Err(Failure::TunnelDown)) };
            let failure = slot.failure.unwrap_or(Failure::Refused);
            let Some(socket) = slot.socket::<Socket<'static>>() else { return Poll::Ready(Err(failure)) };
            match socket.state() {
                State::SynSent | State::SynReceived => {
                    socket.register_send_waker(cx.waker());
                    Poll::Pending
                }
                State::Closed => Poll::Ready(Err(failure)),
                _ => Poll::Ready(Ok(())),
            }
        })
        .await
    }

    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(|socket| {
            if socket.can_recv() || !socket.may_recv() {
                return Poll::Ready(());
            }
            socket.register_recv_waker(cx.waker());
            Poll::Pending
        })
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.poll(|socket| {
            if socket.can_send() || !socket.may_send() {
                return Poll::Ready(());
            }
            socket.register_send_waker(cx.waker());
            Poll::Pending
        })
    }

    fn poll(&self, ask: impl FnOnce(&mut Socket<'static>) -> Poll<()>) -> Poll<()> {
        let mut sockets = self.stack.lock();
        match sockets.slot(self.key).and_then(|slot| slot.socket()) {
            Some(socket) => ask(socket),
            None => Poll::Ready(()),
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.stack.abandon(self.key);
    }
}

/// For whoever wants a stream, as the resolver does when an answer is too long for a datagram.
impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_readable(cx).is_pending() {
            return Poll::Pending;
        }
        let moved = self.read_with(|bytes| {
            let count = bytes.len().min(buffer.remaining());
            buffer.put_slice(bytes.get(..count).unwrap_or_default());
            (count, ())
        });
        Poll::Ready(match moved {
            Moved::Asked(()) | Moved::Finished | Moved::Nothing => Ok(()),
            Moved::Broken => Err(io::ErrorKind::ConnectionReset.into()),
        })
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.poll_writable(cx).is_pending() {
            return Poll::Pending;
        }
        let moved = self.write_with(|room| {
            let count = bytes.len().min(room.len());
            if let (Some(room), Some(bytes)) = (room.get_mut(..count), bytes.get(..count)) {
                room.copy_from_slice(bytes);
            }
            (count, count)
        });
        Poll::Ready(match moved {
            Moved::Asked(count) => Ok(count),
            _ => Err(io::ErrorKind::ConnectionReset.into()),
        })
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.finish();
        Poll::Ready(Ok(()))
    }
}

/// Bytes of a new connection's two buffers when those of all others take so many together. Memory is used only as far as bytes
/// were ever waiting in it.
fn buffers(used: usize) -> (usize, usize) {
    let share = MEMORY.saturating_sub(used) / 16;
    let receive = share.clamp(SMALLEST_WINDOW, LARGEST_WINDOW);
    (receive, (receive / 2).max(SMALLEST_WINDOW))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_connections_have_large_windows_and_all_of_them_stay_bounded() {
        assert_eq!(buffers(0), (LARGEST_WINDOW, LARGEST_WINDOW / 2));
        assert_eq!(buffers(usize::MAX), (SMALLEST_WINDOW, SMALLEST_WINDOW));
        let mut used = 0;
        for _ in 0..super::super::stack::MOST_SOCKETS {
            let (receive, send) = buffers(used);
            used += receive + send;
        }
        assert!(used <= MEMORY + super::super::stack::MOST_SOCKETS * 2 * SMALLEST_WINDOW, "{used}");
    }

    /// By CUBIC (RFC 9438): the crate's default with the features that it is built with.
    #[test]
    fn congestion_is_controlled() {
        let socket = Socket::new(SocketBuffer::new(vec![0; 1]), SocketBuffer::new(vec![0; 1]));
        assert_eq!(socket.congestion_control(), smoltcp::socket::tcp::CongestionControl::Cubic);
    }
}
