//! What has become of a tunnel: told by its supervisor, read by the program.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::error::TunnelError;

/// How a tunnel ended, if it has.
#[derive(Debug, Default)]
pub(super) struct Fate {
    state: Mutex<State>,
    over: Condvar,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    why: Option<TunnelError>,
    /// Nothing is left of it on the threads.
    gone: bool,
}

impl Fate {
    /// It carries nothing any more. The first reason stays.
    pub(super) fn end(&self, why: TunnelError) {
        self.lock().why.get_or_insert(why);
    }

    /// Nothing is left of it.
    pub(super) fn set_gone(&self) {
        let mut state = self.lock();
        state.why.get_or_insert(TunnelError::Closed);
        state.gone = true;
        drop(state);
        self.over.notify_all();
        self.notify.notify_waiters();
    }

    /// Why it carries nothing any more.
    pub(super) fn why(&self) -> TunnelError {
        self.lock().why.clone().unwrap_or(TunnelError::Closed)
    }

    /// Waits until nothing is left of it.
    ///
    /// # Errors
    /// It ended otherwise than by being closed.
    pub(super) async fn gone(&self) -> Result<(), TunnelError> {
        loop {
            // Made before the look, so that nothing is missed in between.
            let notified = self.notify.notified();
            if self.lock().gone {
                return self.verdict();
            }
            notified.await;
        }
    }

    /// [`gone`](Self::gone) that blocks the thread.
    pub(super) fn gone_blocking(&self) -> Result<(), TunnelError> {
        let mut state = self.lock();
        while !state.gone {
            state = self.over.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        drop(state);
        self.verdict()
    }

    fn verdict(&self) -> Result<(), TunnelError> {
        match self.why() {
            TunnelError::Closed => Ok(()),
            why => Err(why),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays_and_closing_is_none() {
        let fate = Fate::default();
        fate.end(TunnelError::Server("left".into()));
        fate.end(TunnelError::Closed);
        fate.set_gone();
        assert!(matches!(fate.gone_blocking(), Err(TunnelError::Server(_))));
        let fate = Fate::default();
        fate.set_gone();
        assert!(fate.gone_blocking().is_ok());
    }
}
