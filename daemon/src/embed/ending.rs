//! How a session and a tunnel end: what is made of the server's word, of silence and of ICMP, and leaving.

use std::time::Duration;

use controlplane::Ending;
use dataplane::workers::manager::WorkerOrder;

use super::fault::Fault;
use super::stage::Stage;
use super::supervisor::{Due, Life, Session, Supervisor, UNANSWERED};
use crate::client::endings::{self, Failure, Place, Verdict};
use crate::client::flapping;
use crate::client::leaving::{GOODBYE, MOST_GOODBYES};
use crate::clock;
use crate::messages::ToControl;

/// An authenticated packet must come this soon after ICMP said that the server's port is closed.
const REFUSED_HEARD_WITHIN: Duration = Duration::from_millis(1_500);

impl Supervisor {
    /// A session ended, or could not be made.
    pub(super) fn on_ending(&mut self, ending: Ending) {
        let address = self.session.as_ref().map(|session| session.path.remote);
        let lived = self.forget_session();
        if self.life == Life::Leaving {
            return self.on_left(matches!(ending, Ending::Disconnected { exit_sent: true }));
        }
        if let Some(lived) = lived.filter(|_| flapping::may_be_dropped(&ending)) {
            self.flapping.lost(clock::now().at, lived);
        }
        let verdict = endings::judge(ending.clone(), self.profile.auth_retry, self.wallet.offers(), lived.is_some());
        self.backoff.connection_lived(lived.unwrap_or_default());
        match verdict {
            Verdict::Fatal(fatal) => self.fail(Fault::of(&ending, fatal.sentence)),
            // There is nobody to ask.
            Verdict::AskPassword(why) => self.fail(Fault::of(&ending, why)),
            Verdict::Left { .. } => self.fail(Fault::Server("the session was ended".to_owned())),
            Verdict::NextAddress => {
                if let Some(address) = address {
                    self.note_failure(Failure::Silence(address));
                }
                self.timers.set(Due::Attempt, clock::now().at);
            }
            Verdict::WithPassword if self.goes_on() => {
                self.wallet.drop_token();
                self.remotes.again();
                // A server that gives tokens and then refuses them is not asked without a pause for ever.
                let pause = if lived.is_some() { self.backoff.next(&mut self.rng) } else { Duration::ZERO };
                self.retry("the server wants the password again", pause);
            }
            Verdict::WithPassword => {
                self.fail(Fault::of(&ending, "AUTH_FAILED: the server does not take its token any more".to_owned()));
            }
            Verdict::Again { why, at_least, place } if self.goes_on() => self.again(&why, at_least, place),
            Verdict::Again { why, .. } => self.fail(Fault::of(&ending, why)),
        }
    }

    /// Whether another attempt follows; if so, of a tunnel that was up, its time begins.
    fn goes_on(&mut self) -> bool {
        if self.life == Life::Up && self.reconnect {
            self.life = Life::Reconnecting;
            self.timers.set(Due::Deadline, clock::now().at + self.connect_timeout);
            self.timers.set(Due::Unanswered, clock::now().at + UNANSWERED);
        }
        matches!(self.life, Life::Connecting | Life::Reconnecting)
    }

    /// Leaves the session without a word; how long it had carried traffic.
    pub(super) fn forget_session(&mut self) -> Option<Duration> {
        self.timers.forget_session();
        let Session { generation, up, .. } = self.session.take()?;
        self.say(&ToControl::Forget { generation });
        up.map(|since| clock::now().at.since(since))
    }

    /// The server does not answer any more, as far as we can see.
    pub(super) fn lost(&mut self, why: &str) {
        self.forget_session();
        if self.goes_on() {
            self.again(why, Duration::ZERO, Place::Same);
        } else {
            self.fail(Fault::Silent(why.to_owned()));
        }
    }

    /// Connecting has taken too long.
    pub(super) fn too_late(&mut self) {
        let unanswered = self.session.as_ref().filter(|session| !session.answered);
        let unanswered = unanswered.map(|session| session.silence.sentence(session.path.remote, &self.profile.wrap));
        let last = unanswered.or_else(|| self.last_failure.as_ref().map(ToString::to_string));
        self.fail(Fault::Timeout(self.stage, self.connect_timeout, last));
    }

    /// ICMP said that the server's port is closed, or that there is no way to it.
    pub(super) fn on_socket_error(&mut self, errno: i32, text: &str) {
        let Some(session) = &self.session else { return };
        let (address, generation) = (session.path.remote, session.generation);
        match errno {
            // It can be forged by who guesses our port, so it ends no session: the server is asked for a renegotiation, which only who
            // holds the session can answer.
            libc::ECONNREFUSED if session.up.is_some() && self.life == Life::Up => {
                if !self.timers.is_set(Due::Heard) {
                    self.order(WorkerOrder::ReportWhenHeard { peer: self.peer() });
                    self.say(&ToControl::Renegotiate { generation });
                    self.timers.set(Due::Heard, clock::now().at + REFUSED_HEARD_WITHIN);
                }
            }
            libc::ECONNREFUSED if !session.answered => self.give_up_address(Failure::Refused(address)),
            libc::EHOSTUNREACH | libc::ENETUNREACH if !session.answered => {
                self.give_up_address(Failure::NoWay(address, text.to_owned()));
            }
            _ => tracing::debug!("tunnel {}: the socket answers: {text}", self.id),
        }
    }

    /// Tells the server, then ends. Ends at once when there is nobody to tell.
    pub(super) fn leave(&mut self) {
        match (self.life, &self.session) {
            (Life::Leaving | Life::Over, _) => {}
            (Life::Up, Some(Session { generation, up: Some(_), .. })) => {
                let generation = *generation;
                self.life = Life::Leaving;
                self.timers.forget_session();
                self.timers.set(Due::Goodbye, clock::now().at + GOODBYE);
                self.enter(Stage::Leave);
                self.say(&ToControl::Disconnect { generation });
            }
            _ => self.life = Life::Over,
        }
    }

    /// `session-timeout` and `inactive` end a tunnel as its program does.
    pub(super) fn leave_because(&mut self, why: &str) {
        self.end_with(Fault::TimeOver(why.to_owned()));
    }

    /// The control plane has said goodbye, or could not: then the worker says it.
    fn on_left(&mut self, exit_sent: bool) {
        if exit_sent { self.life = Life::Over } else { self.say_goodbye_by_worker() }
    }

    /// OCC exit in the data channel, for servers without `cc-exit`. It is not acknowledged, so it may be said more than once.
    pub(super) fn say_goodbye_by_worker(&mut self) {
        let pushed = self.settings.as_ref().and_then(|settings| settings.explicit_exit_notify);
        let own = self.profile.remotes.first().and_then(|remote| remote.explicit_exit_notify);
        for _ in 0..pushed.or(own).unwrap_or(1).clamp(1, MOST_GOODBYES) {
            self.order(WorkerOrder::OccExit { peer: self.peer() });
        }
        self.life = Life::Over;
    }
}
