//! Where the stack's packets come from and go to, and the task that moves them: one turn is a batch in, the stack, a batch out.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::stack::Stack;
use crate::embed::{Batch, Tunnel, TunnelError};

/// A line that carries IP packets: the tunnel, or in tests the other end of a pair.
pub(super) trait Packets {
    /// Why the line ended.
    type End;

    /// Waits for packets and fills the batch with as many as are there. Nothing is lost when the future is dropped.
    fn receive(&self, batch: &mut Batch) -> impl Future<Output = Result<(), Self::End>> + Send;

    /// Sends all of them, waiting while the line is full.
    fn send(&self, batch: &Batch) -> impl Future<Output = Result<(), Self::End>> + Send;
}

impl Packets for Tunnel {
    type End = TunnelError;

    async fn receive(&self, batch: &mut Batch) -> Result<(), TunnelError> {
        self.recv_batch(batch).await.map(drop)
    }

    async fn send(&self, batch: &Batch) -> Result<(), TunnelError> {
        self.send_batch(batch).await
    }
}

/// Packets of one batch.
const PACKETS: usize = 64;

/// Moves packets until the line ends; then every connection of the stack breaks.
///
/// # Errors
/// Why the line ended.
pub(super) async fn carry<P: Packets>(line: &P, stack: &Arc<Stack>) -> Result<Infallible, P::End> {
    let ended = turns(line, stack).await;
    stack.end();
    ended
}

async fn turns<P: Packets>(line: &P, stack: &Stack) -> Result<Infallible, P::End> {
    let mtu = stack.inner().mtu;
    let (mut incoming, mut outgoing) = (Batch::new(PACKETS, mtu), Batch::new(PACKETS, mtu));
    loop {
        let next = stack.work(&mut outgoing);
        if !outgoing.is_empty() {
            line.send(&outgoing).await?;
            outgoing.clear();
        }
        let sleep = async {
            match next {
                // A timer would round up to its next tick.
                Some(Duration::ZERO) => tokio::task::yield_now().await,
                Some(time) => tokio::time::sleep(time).await,
                None => std::future::pending().await,
            }
        };
        incoming.clear();
        tokio::select! {
            biased;
            received = line.receive(&mut incoming) => {
                received?;
                stack.take(&incoming, &mut outgoing);
                // Whoever was waiting for these bytes takes them away before more of them come: then the window stays open.
                tokio::task::yield_now().await;
            }
            () = stack.bell.notified() => {}
            () = sleep => {}
        }
    }
}
