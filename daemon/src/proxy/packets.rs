//! Where the stack's packets come from and go to, and the task that moves them: one turn is a batch in, the stack, a batch out.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use super::stack::Stack;
use crate::embed::{Frames, Trunk, TunnelError};

/// A line that carries IP packets: the tunnel, or in tests the other end of a pair.
pub(super) trait Packets {
    /// Why the line ended.
    type End;

    /// Waits for frames, empties the buffer and fills it with as many as are there. Nothing is lost when the future is dropped.
    fn receive(&self, frames: &mut Frames) -> impl Future<Output = Result<(), Self::End>> + Send;

    /// Sends all of them, waiting while the line is full.
    fn send(&self, frames: &Frames) -> impl Future<Output = Result<(), Self::End>> + Send;
}

impl Packets for Trunk {
    type End = TunnelError;

    async fn receive(&self, frames: &mut Frames) -> Result<(), TunnelError> {
        self.receive(frames).await
    }

    async fn send(&self, frames: &Frames) -> Result<(), TunnelError> {
        self.send(frames).await
    }
}

/// Bytes that a turn takes in, a frame more or less.
const INCOMING: usize = 192 * 1024;
/// Bytes that a turn sends, likewise: about what a server's receive buffer takes at once.
const OUTGOING: usize = 64 * 1024;

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
    let (mut incoming, mut outgoing) = (Frames::new(INCOMING), Frames::new(OUTGOING));
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

#[cfg(test)]
mod tests {
    use dataplane::tun::checksum::Sum;
    use dataplane::tun::virtio::{F_DATA_VALID, VnetHeader};

    use super::*;
    use crate::proxy::stack::Inner;

    /// How many answers there are to a TCP segment for nobody whose checksum is wrong.
    fn answers(flags: u8) -> usize {
        let mut packet = [0; 40];
        (packet[0], packet[3], packet[8], packet[9]) = (0x45, 40, 64, 6);
        packet[12..20].copy_from_slice(&[10, 8, 0, 1, 10, 8, 0, 2]);
        let sum = Sum::default().bytes(&packet[..20]).checksum();
        packet[10..12].copy_from_slice(&sum);
        packet[20..24].copy_from_slice(&[0, 1, 0, 2]);
        (packet[32], packet[33]) = (5 << 4, 2);
        let stack = Stack::new(Inner { ipv4: Some(([10, 8, 0, 2].into(), 24)), ipv6: None, mtu: 1_500 });
        let (mut incoming, mut outgoing) = (Frames::new(0), Frames::new(0));
        incoming.push_with(packet.len(), |room| {
            room.copy_from_slice(&packet);
            ((), VnetHeader { flags, ..VnetHeader::default() })
        });
        stack.take(&incoming, &mut outgoing);
        outgoing.iter().count()
    }

    #[test]
    fn a_checksum_is_looked_at_where_the_worker_has_not() {
        assert_eq!(answers(0), 0, "it is dropped");
        assert_eq!(answers(F_DATA_VALID), 1, "a reset");
    }
}
