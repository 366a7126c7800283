//! What becomes of a tunnel: told by its supervisor, awaited by the program, by tasks and by threads alike.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::error::{ConnectError, TunnelError};
use super::parameters::Parameters;
use super::pipe::Pipe;

/// What became of connecting.
pub(super) type Answer = Result<(Pipe, Parameters), ConnectError>;

/// One tunnel's, shared by its supervisor and the program.
#[derive(Debug, Default)]
pub(super) struct Fate {
    state: Mutex<State>,
    changed: Condvar,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Of connecting, until the program has taken it.
    answer: Option<Answer>,
    /// Why it carries nothing any more.
    why: Option<TunnelError>,
    /// Nothing is left of it on the threads.
    gone: bool,
}

impl Fate {
    /// Connecting is over.
    pub(super) fn answer(&self, answer: Answer) {
        self.lock().answer = Some(answer);
        self.wake();
    }

    /// What [`answer`](Self::answer) says. Once.
    pub(super) async fn answered(&self) -> Answer {
        self.when(State::take_answer).await
    }

    /// [`answered`](Self::answered) that blocks the thread.
    pub(super) fn answered_blocking(&self) -> Answer {
        self.wait(State::take_answer)
    }

    /// It carries nothing any more. The first reason stays.
    pub(super) fn end(&self, why: TunnelError) {
        self.lock().why.get_or_insert(why);
    }

    /// Nothing is left of it.
    pub(super) fn set_gone(&self) {
        self.lock().gone = true;
        self.wake();
    }

    /// Why it carries nothing any more. Whoever ends a tunnel says so first; what ended without a word has failed.
    pub(super) fn why(&self) -> TunnelError {
        self.lock().why.get_or_insert_with(|| lost().into()).clone()
    }

    /// Waits until nothing is left of it.
    ///
    /// # Errors
    /// It ended otherwise than by being closed.
    pub(super) async fn gone(&self) -> Result<(), TunnelError> {
        self.when(State::verdict).await
    }

    /// [`gone`](Self::gone) that blocks the thread.
    pub(super) fn gone_blocking(&self) -> Result<(), TunnelError> {
        self.wait(State::verdict)
    }

    async fn when<T>(&self, look: fn(&mut State) -> Option<T>) -> T {
        loop {
            // Made before the look, so that nothing is missed in between.
            let notified = self.notify.notified();
            let seen = look(&mut self.lock());
            if let Some(seen) = seen {
                return seen;
            }
            notified.await;
        }
    }

    fn wait<T>(&self, look: fn(&mut State) -> Option<T>) -> T {
        let mut state = self.lock();
        loop {
            if let Some(seen) = look(&mut state) {
                return seen;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn wake(&self) {
        self.changed.notify_all();
        self.notify.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take_answer(&mut self) -> Option<Answer> {
        self.answer.take().or_else(|| self.gone.then(|| Err(lost().into())))
    }

    fn verdict(&mut self) -> Option<Result<(), TunnelError>> {
        self.gone.then(|| match &self.why {
            None | Some(TunnelError::Closed) => Ok(()),
            Some(why) => Err(why.clone()),
        })
    }
}

fn lost() -> io::Error {
    io::Error::other("a thread that all tunnels of the process share has failed; connect again")
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

    #[test]
    fn what_ended_without_a_word_has_failed_and_goes_on_to_say_so() {
        let fate = Fate::default();
        assert!(matches!(fate.why(), TunnelError::System(_)));
        fate.end(TunnelError::Closed);
        assert!(matches!(fate.why(), TunnelError::System(_)));
        let fate = Fate::default();
        fate.end(TunnelError::Closed);
        assert!(matches!(fate.why(), TunnelError::Closed));
    }

    #[test]
    fn an_answer_that_nobody_gives_is_an_error_and_not_a_hang() {
        let fate = Fate::default();
        fate.answer(Err(ConnectError::Tls("x".into())));
        assert!(matches!(fate.answered_blocking(), Err(ConnectError::Tls(_))));
        fate.set_gone();
        assert!(matches!(fate.answered_blocking(), Err(ConnectError::System(_))));
    }
}
