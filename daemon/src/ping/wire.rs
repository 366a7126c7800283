//! What a ping goes over, and the loop that does it: the tunnel, or in tests a responder with a clock of its own.

use std::cell::Cell;
use std::time::{Duration, Instant};

use super::host::News;
use super::pinger::Pinger;
use crate::exit::Fatal;
use crate::signals::{Signal, Signals};
use crate::{Tunnel, TunnelError};

/// The longest packet that IP permits, in bytes.
pub(super) const LONGEST: usize = 65_535;

/// What waiting for a packet came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Came {
    /// A packet of so many bytes.
    Packet(usize),
    /// Nothing until then.
    Nothing,
    /// The user has had enough.
    Interrupt,
}

/// Something that carries IP packets, with the clock that goes with it.
pub(super) trait Wire {
    /// Since it was up.
    fn now(&self) -> Duration;

    /// Sends a packet.
    async fn send(&mut self, packet: &[u8]) -> Result<(), Fatal>;

    /// Waits for a packet until then.
    async fn receive(&mut self, packet: &mut [u8], until: Duration) -> Result<Came, Fatal>;
}

/// Pings until it is over, or interrupted.
///
/// # Errors
/// The tunnel has ended.
pub(super) async fn run(
    wire: &mut impl Wire,
    pinger: &mut Pinger,
    tell: &mut impl FnMut(Duration, &Pinger, usize, &News),
) -> Result<(), Fatal> {
    let mut packet = vec![0; LONGEST];
    loop {
        while let Some((host, news)) = pinger.expire(wire.now()) {
            tell(wire.now(), pinger, host, &news);
        }
        if let Some(request) = pinger.next_request(wire.now()) {
            wire.send(&request).await?;
            continue;
        }
        let Some(until) = pinger.wake(wire.now()) else { return Ok(()) };
        match wire.receive(&mut packet, until).await? {
            Came::Packet(length) => {
                let news = packet.get(..length).and_then(|packet| pinger.take(wire.now(), packet));
                if let Some((host, news)) = news {
                    tell(wire.now(), pinger, host, &news);
                }
            }
            Came::Nothing => {}
            Came::Interrupt => return Ok(()),
        }
    }
}

/// The tunnel.
#[derive(Debug)]
pub(super) struct TunnelWire<'a> {
    pub(super) tunnel: &'a Tunnel,
    pub(super) signals: &'a mut Signals,
    pub(super) since: Instant,
    /// Nobody reads what is said any more, so it is over.
    pub(super) unheard: &'a Cell<bool>,
}

impl Wire for TunnelWire<'_> {
    fn now(&self) -> Duration {
        self.since.elapsed()
    }

    async fn send(&mut self, packet: &[u8]) -> Result<(), Fatal> {
        Ok(self.tunnel.send(packet).await?)
    }

    async fn receive(&mut self, packet: &mut [u8], until: Duration) -> Result<Came, Fatal> {
        if self.unheard.get() {
            return Ok(Came::Interrupt);
        }
        tokio::select! {
            came = self.tunnel.recv(packet) => match came {
                Ok(length) => Ok(Came::Packet(length)),
                Err(TunnelError::Packet { .. }) => Ok(Came::Nothing),
                Err(error) => Err(error.into()),
            },
            () = tokio::time::sleep_until((self.since + until).into()) => Ok(Came::Nothing),
            () = stopped(self.signals) => Ok(Came::Interrupt),
        }
    }
}

/// Waits for a signal that ends a program: SIGINT, SIGTERM, and SIGHUP of a terminal that is gone.
pub(super) async fn stopped(signals: &mut Signals) {
    while signals.next().await == Signal::Statistics {}
}
