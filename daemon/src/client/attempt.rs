//! Connecting: the next address, a fresh socket, a session on it; and what follows when it fails.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use controlplane::Ending;
use dataplane::workers::manager::WorkerOrder;

use super::endings::{self, Failure, Place, Verdict};
use super::flapping;
use super::remotes::Next;
use super::run::{Client, Due, Phase, Session};
use super::{established, transport};
use crate::clock;
use crate::config::agreed::Remote;
use crate::exit::{Exit, Fatal};
use crate::host::resolve;
use crate::messages::ToControl;
use crate::observe::console::State;

/// Between two rounds over remotes of which none answered: unanswered resets are at most 2 s apart.
pub(crate) const BETWEEN_ROUNDS: Duration = Duration::from_secs(1);
/// A name that is not resolved by then is passed over in this round.
pub(crate) const RESOLVE_WITHIN: Duration = Duration::from_secs(10);
/// How long a fixed local port may stay taken by the session before.
const PORT_FREE_WITHIN: Duration = Duration::from_millis(100);
/// Addresses named in the sentence of exit code 4.
const TRIED_SHOWN: usize = 8;

impl Client {
    /// Tries the next address, passing over those to which no packet can even be sent.
    pub(super) async fn attempt(&mut self) {
        loop {
            match self.remotes.next() {
                Next::Resolve(remote) => {
                    let remote = remote.clone();
                    self.resolve(&remote).await;
                }
                Next::Try(remote, address) => {
                    let remote = remote.clone();
                    self.note_tried(address.to_string());
                    if let Some(tunnel) = &mut self.tunnel {
                        tunnel.lead_to(address.ip(), &mut self.host).await;
                    }
                    match self.open_socket(&remote, address) {
                        Ok(transport) => return self.begin(remote, transport),
                        Err(error) => self.note_failure(Failure::NoWay(address, error.to_string())),
                    }
                }
                Next::RoundOver(rounds) => return self.round_over(rounds),
            }
        }
    }

    /// A socket for a session. A fixed local port (`lport`) is free only once the worker has let go of the socket before.
    ///
    /// # Errors
    /// As [`transport::open`].
    pub(super) fn open_socket(&mut self, remote: &Remote, address: SocketAddr) -> io::Result<transport::Transport> {
        if remote.bind.port.is_some() {
            self.losses.release();
            self.order(WorkerOrder::DetachSocket);
        }
        let patience = Instant::now() + PORT_FREE_WITHIN;
        loop {
            match transport::open(&self.profile, remote, address, self.options.data.busy_poll) {
                // The worker takes microseconds; nothing else here is in a hurry meanwhile.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < patience => {
                    std::thread::sleep(Duration::from_millis(1));
                }
                opened => return opened,
            }
        }
    }

    async fn resolve(&mut self, remote: &Remote) {
        let name = format!("{}:{}", remote.host, remote.port);
        self.console.state(State::Resolve, &name);
        match resolve::resolve(&remote.host, remote.port, remote.family.into(), RESOLVE_WITHIN).await {
            Ok(addresses) => {
                self.known.insert(name, addresses.clone());
                self.remotes.resolved(addresses);
            }
            Err(error) => {
                self.note_failure(Failure::Unresolved(error.to_string()));
                let before = self.known.get(&name).cloned().unwrap_or_default();
                self.note_tried(name);
                self.remotes.resolved(before);
            }
        }
    }

    fn begin(&mut self, remote: Remote, transport: transport::Transport) {
        self.generation = self.generation.saturating_add(1);
        let transport::Transport { socket, path, local } = transport;
        tracing::debug!("trying {} from {local}", path.remote);
        self.say_buffers(&socket);
        self.losses.watch(&socket);
        self.order(WorkerOrder::AttachSocket { socket, path });
        let peer = established::unestablished_peer(&self.profile, self.generation, path);
        self.order(WorkerOrder::AddPeer(Box::new(peer)));
        let credentials = self.wallet.credentials();
        self.timers.forget_session();
        self.timers.set(Due::Answer, clock::now().at + Duration::from_secs(u64::from(remote.connect_timeout)));
        self.session = Some(Session {
            generation: self.generation,
            address: path.remote,
            remote,
            path,
            local,
            phase: Phase::Unanswered,
            record: None,
        });
        self.control.send(&ToControl::Connect { generation: self.generation, path, credentials });
    }

    fn round_over(&mut self, rounds: u32) {
        let limit = self.profile.connect_retry_max.unwrap_or(1);
        if !self.had_success && rounds >= limit {
            return self.end(Err(endings::unreachable(&self.tried, self.last_failure.as_ref(), &self.profile.wrap)));
        }
        self.timers.set(Due::Attempt, clock::now().at + BETWEEN_ROUNDS);
    }

    /// A session ended, or could not be made.
    pub(super) fn on_ending(&mut self, ending: Ending) {
        let session = self.session.take();
        self.timers.forget_session();
        let lived = match &session {
            Some(Session { phase: Phase::Up(since), .. }) => Some(clock::now().at.since(*since)),
            _ => None,
        };
        if let Some(session) = &session {
            self.control.send(&ToControl::Forget { generation: session.generation });
        }
        self.backoff.connection_lived(lived.unwrap_or_default());
        if let Some(lived) = lived.filter(|_| flapping::may_be_dropped(&ending)) {
            self.flapping.lost(clock::now().at, lived);
        }
        match endings::judge(ending, self.profile.auth_retry, self.wallet.offers(), lived.is_some()) {
            Verdict::Fatal(fatal) => self.end(Err(fatal)),
            Verdict::Left { exit_sent } => self.on_left(exit_sent),
            Verdict::NextAddress => {
                if let Some(session) = session {
                    self.note_failure(Failure::Silence(session.address));
                }
                self.timers.set(Due::Attempt, clock::now().at);
            }
            Verdict::WithPassword => {
                self.wallet.drop_token();
                self.remotes.again();
                // A server that gives tokens and then refuses them is not asked without a pause for ever.
                let pause = if lived.is_some() { self.pause_after(lived) } else { Duration::ZERO };
                self.retry("the server wants the password again", pause);
            }
            Verdict::AskPassword(why) => {
                tracing::warn!("{why}");
                match self.wallet.ask_again(&self.profile.credentials) {
                    Ok(()) => {
                        self.remotes.again();
                        self.retry("with another password", Duration::ZERO);
                    }
                    Err(fatal) => self.end(Err(Fatal::new(Exit::Auth, fatal.sentence))),
                }
            }
            Verdict::Again { why, at_least, place } => self.again(&why, at_least, place, lived),
        }
    }

    fn again(&mut self, why: &str, at_least: Duration, place: Place, lived: Option<Duration>) {
        self.last_failure = Some(Failure::Answered(why.to_owned()));
        self.remotes.steer(place, self.had_success);
        let pause = self.pause_after(lived);
        self.retry(why, pause.max(at_least));
    }

    /// A server that restarts after it served us is met at once; one that fails again and again is left in peace.
    fn pause_after(&mut self, lived: Option<Duration>) -> Duration {
        let fresh = self.backoff.is_fresh();
        let pause = self.backoff.next(&mut self.rng);
        if lived.is_some() && fresh { Duration::ZERO } else { pause }
    }

    fn retry(&mut self, why: &str, pause: Duration) {
        if self.had_success {
            self.console.state(State::Reconnecting, why);
        }
        let when = if pause.is_zero() { "at once".to_owned() } else { format!("in {:.1} s", pause.as_secs_f64()) };
        tracing::info!("{why}; trying again {when}");
        self.timers.set(Due::Attempt, clock::now().at + pause);
    }

    /// Leaves the session without a word and makes a new one with the same server at once.
    pub(super) fn start_over(&mut self, why: &str) {
        if let Some(session) = self.session.take() {
            self.control.send(&ToControl::Forget { generation: session.generation });
        }
        self.timers.forget_session();
        self.remotes.again();
        self.retry(why, Duration::ZERO);
    }

    /// The address that is being tried is no good; the next one at once.
    pub(super) fn give_up_address(&mut self, failure: Failure) {
        if let Some(session) = self.session.take() {
            self.control.send(&ToControl::Forget { generation: session.generation });
        }
        self.timers.forget_session();
        self.note_failure(failure);
        self.timers.set(Due::Attempt, clock::now().at);
    }

    /// A failure that repeats itself, as while a server is down, is said once.
    fn note_failure(&mut self, failure: Failure) {
        if self.last_failure.as_ref() == Some(&failure) {
            tracing::debug!("{failure}");
        } else {
            tracing::info!("{failure}");
        }
        self.last_failure = Some(failure);
    }

    fn note_tried(&mut self, address: String) {
        if self.tried.len() < TRIED_SHOWN && !self.tried.contains(&address) {
            self.tried.push(address);
        }
    }
}
