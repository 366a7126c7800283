//! The tunnel as a program holds it. All of it works through `&self`, from any number of threads and tasks.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::error::{ConnectError, TunnelError};
use super::halves::{Reader, Writer};
use super::options::Options;
use super::parameters::Parameters;
use super::pipe::{Pipe, Way};
use super::room::{self, Seat};
use super::supervisor::Form;
use crate::config::agreed::ClientProfile;

/// A tunnel that is up: it gives out and takes IP packets.
///
/// Receiving and sending take `&self`, as `UdpSocket`'s do, and are safe to cancel: a packet is taken whole or stays. A reader that is
/// too slow loses packets (the kernel holds a few hundred for it), as with any datagram socket; a sender that is too fast waits.
///
/// Dropping it tells the server and returns at once; [`close`](Tunnel::close) waits until that is done. The threads behind it
/// (`minivpn-control` and `minivpn-worker`, shared by all tunnels of the process) end with the last tunnel.
#[derive(Debug)]
pub struct Tunnel {
    pub(super) ends: Arc<Ends>,
}

/// What the tunnel and its halves share.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) pipe: Pipe,
    parameters: Parameters,
    seat: Seat,
}

impl Tunnel {
    pub(super) fn new(pipe: Pipe, parameters: Parameters, seat: Seat) -> Tunnel {
        Tunnel { ends: Arc::new(Ends { pipe, parameters, seat }) }
    }

    /// Connects: tries the profile's remotes in their order and comes back with the tunnel, or with what is wrong.
    ///
    /// Works on any executor; receiving and sending asynchronously want tokio's reactor. Dropping the future gives up and leaves
    /// nothing behind, at whatever stage it was.
    ///
    /// # Errors
    /// [`ConnectError`], by who has to do something about it; at the latest after [`Options::connect_timeout`].
    ///
    /// # Examples
    /// ```no_run
    /// # async fn run() -> Result<(), minivpn::ConnectError> {
    /// use minivpn::{ConnectError, Options, Tunnel, load_profile};
    ///
    /// let options = Options::default().with_password("alice", "secret");
    /// match Tunnel::connect(load_profile("office.ovpn")?, options).await {
    ///     Ok(tunnel) => println!("up after {:?}", tunnel.parameters().handshake),
    ///     Err(ConnectError::AuthFailed { .. }) => println!("the password is wrong"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn connect(profile: ClientProfile, options: Options) -> Result<Tunnel, ConnectError> {
        room::begin(profile, options, Form::Single)?.established().await
    }

    /// [`connect`](Tunnel::connect) that blocks the thread. Not for use within an asynchronous task.
    ///
    /// # Errors
    /// As [`connect`](Tunnel::connect).
    ///
    /// # Examples
    /// ```no_run
    /// use minivpn::{Options, Tunnel, load_profile};
    ///
    /// let tunnel = Tunnel::connect_blocking(load_profile("office.ovpn")?, Options::default())?;
    /// let mut packet = vec![0; usize::from(tunnel.parameters().mtu)];
    /// let length = tunnel.recv_blocking(&mut packet)?;
    /// println!("{:?}", &packet[..length]);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn connect_blocking(profile: ClientProfile, options: Options) -> Result<Tunnel, ConnectError> {
        room::begin(profile, options, Form::Single)?.established_blocking()
    }

    /// What was settled when the tunnel came up.
    pub fn parameters(&self) -> &Parameters {
        &self.ends.parameters
    }

    /// Waits for a packet and gives its length; it is cut when `packet` is shorter, so make it
    /// [`mtu`](Parameters::mtu) bytes long.
    ///
    /// # Errors
    /// [`TunnelError`]: the tunnel has ended; every later call says the same.
    pub async fn recv(&self, packet: &mut [u8]) -> Result<usize, TunnelError> {
        self.ends.recv(packet).await
    }

    /// [`recv`](Tunnel::recv) that blocks the thread.
    ///
    /// # Errors
    /// As [`recv`](Tunnel::recv).
    pub fn recv_blocking(&self, packet: &mut [u8]) -> Result<usize, TunnelError> {
        self.ends.recv_blocking(packet)
    }

    /// [`recv_blocking`](Tunnel::recv_blocking) for that long at most; `None` when nothing came.
    ///
    /// # Errors
    /// As [`recv`](Tunnel::recv).
    pub fn recv_timeout(&self, packet: &mut [u8], limit: Duration) -> Result<Option<usize>, TunnelError> {
        self.ends.recv_timeout(packet, limit)
    }

    /// A packet, if there is one.
    ///
    /// # Errors
    /// As [`recv`](Tunnel::recv).
    pub fn try_recv(&self, packet: &mut [u8]) -> Result<Option<usize>, TunnelError> {
        self.ends.try_recv(packet)
    }

    /// Waits for packets and fills `batch` with those that are there (what it held is forgotten); how many.
    ///
    /// # Errors
    /// As [`recv`](Tunnel::recv).
    pub async fn recv_batch(&self, batch: &mut Batch) -> Result<usize, TunnelError> {
        self.ends.recv_batch(batch).await
    }

    /// Fills `batch` with the packets that are there (what it held is forgotten); how many, 0 when there are none.
    ///
    /// # Errors
    /// As [`recv`](Tunnel::recv).
    pub fn try_recv_batch(&self, batch: &mut Batch) -> Result<usize, TunnelError> {
        self.ends.try_recv_batch(batch)
    }

    /// Sends an IP packet; waits while the tunnel has no room for it. Like any datagram it may get lost further on.
    ///
    /// # Errors
    /// [`TunnelError::Packet`] for what no IP packet can be; otherwise the tunnel has ended.
    pub async fn send(&self, packet: &[u8]) -> Result<(), TunnelError> {
        self.ends.send(packet).await
    }

    /// [`send`](Tunnel::send) that blocks the thread.
    ///
    /// # Errors
    /// As [`send`](Tunnel::send).
    pub fn send_blocking(&self, packet: &[u8]) -> Result<(), TunnelError> {
        self.ends.send_blocking(packet)
    }

    /// Sends a packet if there is room for it; false when there is none.
    ///
    /// # Errors
    /// As [`send`](Tunnel::send).
    pub fn try_send(&self, packet: &[u8]) -> Result<bool, TunnelError> {
        self.ends.try_send(packet)
    }

    /// Sends every packet of a batch, in order.
    ///
    /// # Errors
    /// As [`send`](Tunnel::send). When the future is dropped, an unknown number of them was sent.
    pub async fn send_batch(&self, batch: &Batch) -> Result<(), TunnelError> {
        self.ends.send_batch(batch).await
    }

    /// [`send_batch`](Tunnel::send_batch) that blocks the thread.
    ///
    /// # Errors
    /// As [`send`](Tunnel::send).
    pub fn send_batch_blocking(&self, batch: &Batch) -> Result<(), TunnelError> {
        batch.iter().try_for_each(|packet| self.ends.send_blocking(packet))
    }

    /// Two halves, for two tasks or threads. The tunnel lives as long as one of them.
    pub fn split(self) -> (Reader, Writer) {
        (Reader { ends: Arc::clone(&self.ends) }, Writer { ends: self.ends })
    }

    /// Begins to close: whoever waits to receive or to send is woken with [`TunnelError::Closed`], and the server is told.
    pub fn shutdown(&self) {
        self.ends.shutdown();
    }

    /// Tells the server (`explicit-exit-notify`, or EXIT on the control channel) and waits until that is done, 2 s at most.
    ///
    /// # Errors
    /// The tunnel had ended before by itself: why.
    pub async fn close(self) -> Result<(), TunnelError> {
        self.ends.shutdown();
        self.ends.seat.gone().await
    }

    /// [`close`](Tunnel::close) that blocks the thread.
    ///
    /// # Errors
    /// As [`close`](Tunnel::close).
    pub fn close_blocking(self) -> Result<(), TunnelError> {
        self.ends.shutdown();
        self.ends.seat.gone_blocking()
    }
}

/// For poll(2) and its kind: readable when [`try_recv`](Tunnel::try_recv) has something to say. Not to be read or written.
impl AsFd for Tunnel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }
}

impl Ends {
    pub(super) fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    pub(super) async fn recv(&self, packet: &mut [u8]) -> Result<usize, TunnelError> {
        let pipe = &self.pipe;
        self.received(pipe.ready(Way::In, || pipe.try_recv(packet)).await)
    }

    pub(super) fn recv_blocking(&self, packet: &mut [u8]) -> Result<usize, TunnelError> {
        let came = self.pipe.block(Way::In, None, || self.pipe.try_recv(packet));
        self.received(came.unwrap_or(Ok(0)))
    }

    pub(super) fn recv_timeout(&self, packet: &mut [u8], limit: Duration) -> Result<Option<usize>, TunnelError> {
        let came = self.pipe.block(Way::In, Some(limit), || self.pipe.try_recv(packet));
        came.map(|came| self.received(came)).transpose()
    }

    pub(super) fn try_recv(&self, packet: &mut [u8]) -> Result<Option<usize>, TunnelError> {
        match self.pipe.try_recv(packet) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            came => self.received(came).map(Some),
        }
    }

    pub(super) async fn recv_batch(&self, batch: &mut Batch) -> Result<usize, TunnelError> {
        batch.clear();
        let (pipe, first) = (&self.pipe, &mut *batch);
        let came = pipe.ready(Way::In, move || take(pipe, first)).await;
        self.received(came)?;
        Ok(self.fill(batch))
    }

    pub(super) fn try_recv_batch(&self, batch: &mut Batch) -> Result<usize, TunnelError> {
        batch.clear();
        match take(&self.pipe, batch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            came => self.received(came)?,
        };
        Ok(self.fill(batch))
    }

    /// Fills what is left of a batch. An end that comes now comes again with the next call.
    fn fill(&self, batch: &mut Batch) -> usize {
        while matches!(take(&self.pipe, batch), Ok(1..)) {}
        batch.len()
    }

    /// An end of the pipe is the end of the tunnel.
    pub(super) fn received(&self, came: io::Result<usize>) -> Result<usize, TunnelError> {
        match came {
            Ok(length @ 1..) => Ok(length),
            Ok(0) => Err(self.seat.why()),
            Err(error) => Err(self.failed(error)),
        }
    }

    pub(super) async fn send(&self, packet: &[u8]) -> Result<(), TunnelError> {
        check(packet)?;
        let pipe = &self.pipe;
        pipe.ready(Way::Out, || pipe.try_send(packet)).await.map_err(|error| self.failed(error))
    }

    pub(super) fn send_blocking(&self, packet: &[u8]) -> Result<(), TunnelError> {
        check(packet)?;
        let sent = self.pipe.block(Way::Out, None, || self.pipe.try_send(packet));
        sent.unwrap_or(Ok(())).map_err(|error| self.failed(error))
    }

    pub(super) fn try_send(&self, packet: &[u8]) -> Result<bool, TunnelError> {
        check(packet)?;
        match self.pipe.try_send(packet) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(self.failed(error)),
        }
    }

    pub(super) async fn send_batch(&self, batch: &Batch) -> Result<(), TunnelError> {
        for packet in batch.iter() {
            self.send(packet).await?;
        }
        Ok(())
    }

    pub(super) fn shutdown(&self) {
        self.seat.leave();
        self.pipe.shut();
    }

    pub(super) fn failed(&self, error: io::Error) -> TunnelError {
        match error.kind() {
            io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset | io::ErrorKind::NotConnected => self.seat.why(),
            _ => error.into(),
        }
    }
}

/// The next packet into the next place: its length, 0 at the end or when the batch is full.
fn take(pipe: &Pipe, batch: &mut Batch) -> io::Result<usize> {
    let Some(place) = batch.vacant() else { return Ok(0) };
    let length = pipe.try_recv(place)?;
    if length > 0 {
        batch.taken(length);
    }
    Ok(length)
}

fn check(packet: &[u8]) -> Result<(), TunnelError> {
    match packet.len() {
        1..=65_535 => Ok(()),
        length => Err(TunnelError::Packet { length }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tunnels_and_their_halves_go_between_threads_and_so_do_their_futures() {
        fn both<T: Send + Sync>() {}
        fn sent<T: Send>(_: &T) {}
        both::<Tunnel>();
        both::<Reader>();
        both::<Writer>();
        let _ = |profile: ClientProfile| sent(&Tunnel::connect(profile, Options::default()));
    }
}
