//! Where the stack's packets come from and go to, and the task that moves them: one turn is a batch in, the stack, a batch out.

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::batch::Batch;
use super::stack::Stack;

/// A line that carries IP packets: the tunnel, or in tests the other end of a pair.
pub(super) trait Packets {
    /// Waits for packets and adds as many as are there and have room. Nothing is lost when the future is dropped.
    fn receive(&self, batch: &mut Batch) -> impl Future<Output = io::Result<()>> + Send;

    /// Sends all of them, waiting while the line is full.
    fn send(&self, batch: &mut Batch) -> impl Future<Output = io::Result<()>> + Send;
}

/// Moves packets until the line ends; then every connection of the stack breaks.
///
/// # Errors
/// Why the line ended.
pub(super) async fn carry(line: &impl Packets, stack: &Arc<Stack>) -> io::Result<std::convert::Infallible> {
    let ended = turns(line, stack).await;
    stack.end();
    ended
}

async fn turns(line: &impl Packets, stack: &Stack) -> io::Result<std::convert::Infallible> {
    let mtu = stack.inner().mtu;
    let (mut incoming, mut outgoing) = (Batch::new(mtu), Batch::new(mtu));
    loop {
        let next = stack.work(&mut outgoing);
        if !outgoing.is_empty() {
            line.send(&mut outgoing).await?;
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
