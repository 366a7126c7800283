//! The tunnel as smoltcp sees it at one moment: at most one packet that came in, and the batch that goes out.

use smoltcp::phy::{self, DeviceCapabilities, Medium};
use smoltcp::time::Instant;

use crate::embed::Batch;

/// One packet in, a batch out.
#[derive(Debug)]
pub(super) struct Device<'a> {
    /// The packet that has not been looked at yet.
    pub incoming: Option<&'a [u8]>,
    /// Where packets go. What answers an incoming one is lost when this is full; sockets keep theirs.
    pub outgoing: &'a mut Batch,
    /// The longest packet that the tunnel carries, in bytes.
    pub mtu: usize,
}

impl phy::Device for Device<'_> {
    type RxToken<'b>
        = Incoming<'b>
    where
        Self: 'b;
    type TxToken<'b>
        = Outgoing<'b>
    where
        Self: 'b;

    fn receive(&mut self, _: Instant) -> Option<(Incoming<'_>, Outgoing<'_>)> {
        let packet = self.incoming.take()?;
        Some((Incoming(packet), Outgoing(self.outgoing)))
    }

    fn transmit(&mut self, _: Instant) -> Option<Outgoing<'_>> {
        (!self.outgoing.is_full()).then_some(Outgoing(self.outgoing))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ip;
        capabilities.max_transmission_unit = self.mtu;
        capabilities
    }
}

/// A packet that came in.
#[derive(Debug)]
pub(super) struct Incoming<'a>(&'a [u8]);

impl phy::RxToken for Incoming<'_> {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, look: F) -> R {
        look(self.0)
    }
}

/// Room for a packet that goes out.
#[derive(Debug)]
pub(super) struct Outgoing<'a>(&'a mut Batch);

impl phy::TxToken for Outgoing<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, length: usize, write: F) -> R {
        self.0.push_with(length, write)
    }
}
