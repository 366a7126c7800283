//! The signals that a client and a gateway understand.

use std::io;

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// SIGTERM, SIGINT: tell the other side, undo everything, exit 0.
    Stop,
    /// SIGHUP, SIGUSR1: begin again: a client connects anew, a gateway reads everything anew and drops nobody.
    Anew,
    /// SIGUSR2: log the counters.
    Statistics,
}

/// The streams of signals.
#[derive(Debug)]
pub(crate) struct Signals {
    terminate: Stream,
    interrupt: Stream,
    hangup: Stream,
    user1: Stream,
    user2: Stream,
}

impl Signals {
    /// Takes the signals over from their default actions.
    ///
    /// # Errors
    /// A handler could not be installed.
    pub(crate) fn take() -> io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next one. Safe to drop and call again.
    pub(crate) async fn next(&mut self) -> Signal {
        tokio::select! {
            _ = self.terminate.recv() => Signal::Stop,
            _ = self.interrupt.recv() => Signal::Stop,
            _ = self.hangup.recv() => Signal::Anew,
            _ = self.user1.recv() => Signal::Anew,
            _ = self.user2.recv() => Signal::Statistics,
        }
    }
}
