//! The two halves of a tunnel that was split.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::error::TunnelError;
use super::parameters::Parameters;
use super::tunnel::Ends;

/// The half that receives. See [`Tunnel::split`](crate::Tunnel::split).
#[derive(Debug)]
pub struct Reader {
    pub(super) ends: Arc<Ends>,
}

/// The half that sends. See [`Tunnel::split`](crate::Tunnel::split).
#[derive(Debug)]
pub struct Writer {
    pub(super) ends: Arc<Ends>,
}

impl Reader {
    /// What was settled when the tunnel came up.
    pub fn parameters(&self) -> &Parameters {
        self.ends.parameters()
    }

    /// As [`Tunnel::recv`](crate::Tunnel::recv).
    ///
    /// # Errors
    /// Likewise.
    pub async fn recv(&self, packet: &mut [u8]) -> Result<usize, TunnelError> {
        self.ends.recv(packet).await
    }

    /// As [`Tunnel::recv_blocking`](crate::Tunnel::recv_blocking).
    ///
    /// # Errors
    /// Likewise.
    pub fn recv_blocking(&self, packet: &mut [u8]) -> Result<usize, TunnelError> {
        self.ends.recv_blocking(packet)
    }

    /// As [`Tunnel::recv_timeout`](crate::Tunnel::recv_timeout).
    ///
    /// # Errors
    /// Likewise.
    pub fn recv_timeout(&self, packet: &mut [u8], limit: Duration) -> Result<Option<usize>, TunnelError> {
        self.ends.recv_timeout(packet, limit)
    }

    /// As [`Tunnel::try_recv`](crate::Tunnel::try_recv).
    ///
    /// # Errors
    /// Likewise.
    pub fn try_recv(&self, packet: &mut [u8]) -> Result<Option<usize>, TunnelError> {
        self.ends.try_recv(packet)
    }

    /// As [`Tunnel::recv_batch`](crate::Tunnel::recv_batch).
    ///
    /// # Errors
    /// Likewise.
    pub async fn recv_batch(&self, batch: &mut Batch) -> Result<usize, TunnelError> {
        self.ends.recv_batch(batch).await
    }

    /// As [`Tunnel::try_recv_batch`](crate::Tunnel::try_recv_batch).
    ///
    /// # Errors
    /// Likewise.
    pub fn try_recv_batch(&self, batch: &mut Batch) -> Result<usize, TunnelError> {
        self.ends.try_recv_batch(batch)
    }

    /// As [`Tunnel::shutdown`](crate::Tunnel::shutdown), for both halves.
    pub fn shutdown(&self) {
        self.ends.shutdown();
    }
}

impl Writer {
    /// What was settled when the tunnel came up.
    pub fn parameters(&self) -> &Parameters {
        self.ends.parameters()
    }

    /// As [`Tunnel::send`](crate::Tunnel::send).
    ///
    /// # Errors
    /// Likewise.
    pub async fn send(&self, packet: &[u8]) -> Result<(), TunnelError> {
        self.ends.send(packet).await
    }

    /// As [`Tunnel::send_blocking`](crate::Tunnel::send_blocking).
    ///
    /// # Errors
    /// Likewise.
    pub fn send_blocking(&self, packet: &[u8]) -> Result<(), TunnelError> {
        self.ends.send_blocking(packet)
    }

    /// As [`Tunnel::try_send`](crate::Tunnel::try_send).
    ///
    /// # Errors
    /// Likewise.
    pub fn try_send(&self, packet: &[u8]) -> Result<bool, TunnelError> {
        self.ends.try_send(packet)
    }

    /// As [`Tunnel::send_batch`](crate::Tunnel::send_batch).
    ///
    /// # Errors
    /// Likewise.
    pub async fn send_batch(&self, batch: &Batch) -> Result<(), TunnelError> {
        self.ends.send_batch(batch).await
    }

    /// As [`Tunnel::shutdown`](crate::Tunnel::shutdown), for both halves.
    pub fn shutdown(&self) {
        self.ends.shutdown();
    }
}

/// For poll(2) and its kind: readable when [`try_recv`](Reader::try_recv) has something to say. Not to be read or written.
impl AsFd for Reader {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ends.as_fd()
    }
}
