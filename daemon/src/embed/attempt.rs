//! Connecting: the next address, a socket, a session on it; and what follows when it fails.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::Duration;

use dataplane::sys::socket::WireSocket;
use dataplane::workers::manager::WorkerOrder;

use super::fault::Fault;
use super::room::Word;
use super::stage::Stage;
use super::supervisor::{Due, Life, Session, Supervisor};
use crate::client::attempt::{BETWEEN_ROUNDS, RESOLVE_WITHIN};
use crate::client::endings::{self, Failure, Place};
use crate::client::established::unestablished_peer;
use crate::client::remotes::Next;
use crate::client::silence::Silence;
use crate::client::transport::{self, Transport};
use crate::clock;
use crate::config::agreed::Remote;
use crate::host::resolve::{self, ResolveError};
use crate::messages::ToControl;

/// However many remotes there are, each has so long to answer.
const SHORTEST: Duration = Duration::from_secs(3);
/// Addresses that are kept for the sentence.
const TRIED_SHOWN: usize = 8;
/// A fixed local port (`lport`) may be held by the session before; then it is tried again after this.
const PORT_PAUSE: Duration = Duration::from_millis(20);

impl Supervisor {
    /// Tries the next address, passing over those to which no packet can even be sent.
    pub(super) fn attempt(&mut self) {
        loop {
            match self.remotes.next() {
                Next::Resolve(remote) => {
                    let remote = remote.clone();
                    self.enter(Stage::Resolve);
                    if !self.resolve(remote) {
                        return;
                    }
                }
                Next::Try(remote, address) => {
                    let remote = remote.clone();
                    self.note_tried(address.to_string());
                    match self.open_socket(&remote, address) {
                        Ok(transport) => return self.begin(remote, transport),
                        Err(error) if error.kind() == io::ErrorKind::AddrInUse && self.generation > 0 => {
                            self.remotes.again();
                            self.timers.set(Due::Attempt, clock::now().at + PORT_PAUSE);
                            return;
                        }
                        Err(error) => self.note_failure(Failure::NoWay(address, error.to_string())),
                    }
                }
                Next::RoundOver(rounds) => return self.round_over(rounds),
            }
        }
    }

    /// True: the addresses are known already. Names are resolved by a thread of their own, since the system's resolver blocks.
    fn resolve(&mut self, remote: Remote) -> bool {
        let (port, family) = (remote.port, remote.family.into());
        if let Some(found) = resolve::literal(&remote.host, port, family) {
            self.take_addresses(&remote, found);
            return true;
        }
        self.question = self.question.wrapping_add(1);
        let (id, question, door, host) = (self.id, self.question, self.door.clone(), remote.host.clone());
        let asked = std::thread::Builder::new().name("minivpn-resolve".into()).spawn(move || {
            let found = resolve::resolve_blocking(&host, port, family);
            // Nobody may be there to hear it any more.
            let _ = door.say(Word::Resolved(id, question, found));
        });
        match asked {
            Ok(_) => {
                self.timers.set(Due::Resolve, clock::now().at + RESOLVE_WITHIN);
                self.asked = Some(remote);
                false
            }
            Err(source) => {
                self.take_addresses(&remote, Err(ResolveError::Failed { host: remote.host.clone(), source }));
                true
            }
        }
    }

    /// The resolver has answered.
    pub(super) fn on_resolved(&mut self, question: u32, found: Result<Vec<SocketAddr>, ResolveError>) {
        // A question that was given up has another number, or nobody who asks.
        if question == self.question
            && let Some(remote) = self.asked.take()
        {
            self.timers.stop(Due::Resolve);
            self.take_addresses(&remote, found);
            self.attempt();
        }
    }

    /// The resolver has not answered: the next remote.
    pub(super) fn resolver_is_late(&mut self) {
        if let Some(remote) = self.asked.take() {
            let host = remote.host.clone();
            self.take_addresses(&remote, Err(ResolveError::TimedOut { host, within: RESOLVE_WITHIN }));
            self.attempt();
        }
    }

    fn take_addresses(&mut self, remote: &Remote, found: Result<Vec<SocketAddr>, ResolveError>) {
        let addresses = found.unwrap_or_else(|error| {
            self.note_tried(format!("{}:{}", remote.host, remote.port));
            self.note_failure(Failure::Unresolved(error.to_string()));
            Vec::new()
        });
        self.remotes.resolved(addresses);
    }

    fn open_socket(&mut self, remote: &Remote, address: SocketAddr) -> io::Result<Transport> {
        if let Some(socket) = &self.socket {
            return adopt(socket, address);
        }
        if remote.bind.port.is_some() {
            self.order(WorkerOrder::DetachSocket);
        }
        transport::open(&self.profile, remote, address, 0)
    }

    fn begin(&mut self, remote: Remote, transport: Transport) {
        self.generation = self.generation.saturating_add(1);
        let Transport { socket, path, local } = transport;
        tracing::debug!("tunnel {}: trying {} from {local}", self.id, path.remote);
        self.order(WorkerOrder::AttachSocket { socket, path });
        self.order(WorkerOrder::AddPeer(Box::new(unestablished_peer(&self.profile, self.generation, path))));
        self.timers.forget_session();
        let now = clock::now().at;
        self.timers.set(Due::Answer, now + self.share(&remote));
        let generation = self.generation;
        let silence = Silence::default();
        self.session =
            Some(Session { generation, remote, path, local, began: now, answered: false, silence, up: None });
        self.enter(Stage::Connect);
        let credentials = self.wallet.credentials();
        self.say(&ToControl::Connect { generation: self.generation, path, credentials });
    }

    /// How long this address may keep us waiting for an answer: what is left of the time is shared with those behind it.
    fn share(&self, remote: &Remote) -> Duration {
        let own = Duration::from_secs(u64::from(remote.connect_timeout));
        let left = self.timers.at(Due::Deadline).map_or(self.connect_timeout, |at| at.since(clock::now().at));
        let candidates = u32::try_from(self.remotes.ahead()).unwrap_or(u32::MAX).saturating_add(1);
        own.min((left / candidates).max(SHORTEST))
    }

    fn round_over(&mut self, rounds: u32) {
        let limit = self.profile.connect_retry_max.unwrap_or(1);
        if self.life == Life::Connecting && rounds >= limit {
            let fatal = endings::unreachable(&self.tried, self.last_failure.as_ref(), &self.profile.wrap);
            return self.fail(Fault::Unreachable(fatal.sentence));
        }
        self.enter(Stage::Pause);
        self.timers.set(Due::Attempt, clock::now().at + BETWEEN_ROUNDS);
    }

    /// Something answered and it failed: again, later.
    pub(super) fn again(&mut self, why: &str, at_least: Duration, place: Place) {
        self.last_failure = Some(Failure::Answered(why.to_owned()));
        self.remotes.steer(place, self.life == Life::Reconnecting);
        let pause = self.backoff.next(&mut self.rng).max(at_least);
        self.retry(why, pause);
    }

    /// Again, after this pause.
    pub(super) fn retry(&mut self, why: &str, pause: Duration) {
        tracing::debug!("tunnel {}: {why}; trying again in {pause:?}", self.id);
        if !pause.is_zero() {
            self.enter(Stage::Pause);
        }
        self.timers.set(Due::Attempt, clock::now().at + pause);
    }

    /// The address that is being tried is no good; the next one at once.
    pub(super) fn give_up_address(&mut self, failure: Failure) {
        self.forget_session();
        self.note_failure(failure);
        self.timers.set(Due::Attempt, clock::now().at);
    }

    pub(super) fn note_failure(&mut self, failure: Failure) {
        tracing::debug!("tunnel {}: {failure}", self.id);
        self.last_failure = Some(failure);
    }

    fn note_tried(&mut self, address: String) {
        if self.tried.len() < TRIED_SHOWN && !self.tried.contains(&address) {
            self.tried.push(address);
        }
    }
}

/// The caller's socket, connected to this address.
fn adopt(socket: &UdpSocket, address: SocketAddr) -> io::Result<Transport> {
    if socket.peer_addr().ok() != Some(address) {
        socket.connect(address)?;
    }
    let socket = WireSocket::adopt(socket.try_clone()?.into())?;
    let local = socket.local_addr()?;
    let path = link::Path { worker: 0, local: None, ifindex: 0, remote: address, stream: None };
    Ok(Transport { socket, path, local })
}
