//! What comes out of an endpoint, and the queue that keeps it in order. Order matters: a resume record leaves
//! before the datagram that it protects, a key before the acknowledgement that lets the peer use it.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::error::DropReason;
use crate::setup::{Ending, Established, InstallKey, KeyName, Login, Path, ResumeRecord, Secret, State};
use crate::timers::{Instant, TimerReason};
use crate::trace;

/// What `poll_output` gives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send these bytes as one datagram.
    Transmit {
        /// Where to.
        path: Path,
        /// The datagram, at most `max-packet-size` less IP and UDP headers.
        bytes: Vec<u8>,
    },
    /// Something happened.
    Event(Event),
    /// Nothing more: call `handle_timeout` at `wake`, unless something else comes first.
    Idle {
        /// The next deadline and its reason; `None` when nothing is awaited.
        wake: Option<(Instant, TimerReason)>,
    },
}

/// What an endpoint tells its caller.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Event {
    /// A session changed state.
    State {
        /// The session.
        generation: u32,
        /// Now.
        state: State,
    },
    /// Install this key, and answer with `handle_key_event`.
    InstallKey(InstallKey),
    /// Send with this key from now on (the next renegotiation begins).
    SendWith(KeyName),
    /// Forget every key of this generation.
    DropKeys {
        /// The worker's handle of the peer.
        peer: u32,
        /// The generation.
        generation: u32,
    },
    /// A control packet of this peer was verified (said at most once a second).
    PeerAlive {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// A session can carry data.
    Established(Box<Established>),
    /// A renegotiation completed and its key is installed.
    Renegotiated {
        /// The key.
        name: KeyName,
    },
    /// A renegotiation did not complete in time; the old key goes on and another attempt follows.
    RenegotiationFailed {
        /// The session.
        generation: u32,
        /// Why.
        why: String,
    },
    /// Replaces the last record of this generation.
    Record(Box<ResumeRecord>),
    /// Text for people: `INFO`, `INFO_PRE` and the like.
    Info {
        /// The session.
        generation: u32,
        /// Printable text.
        text: String,
    },
    /// The server gave a token that replaces the password.
    AuthToken {
        /// The session.
        generation: u32,
        /// The token.
        token: Secret,
        /// `auth-token-user`, when pushed.
        username: Option<String>,
    },
    /// As a server: a client's key message is here, in its first negotiation or a later one. Answered by `admit` or
    /// `refuse`; without an answer within `hand-window` the login fails.
    Login(Box<Login>),
    /// As a server: the peer's move to another address, which a worker reported, is refused: its datagrams go to this
    /// path as before.
    MoveBack {
        /// The worker's handle of the peer.
        peer: u32,
        /// Where the control plane knows the peer to be.
        path: Path,
    },
    /// A session ended. Nothing more comes from this generation. As a server: said also of sessions whose login was never
    /// told, because their handshake failed.
    Ended {
        /// The session.
        generation: u32,
        /// Why.
        ending: Ending,
    },
}

/// Outputs in the order in which they must take effect.
#[derive(Debug, Default)]
pub(crate) struct OutputQueue {
    queue: VecDeque<Output>,
    /// What is noted while somebody looks on.
    pub(crate) trace: Option<Box<trace::Log>>,
}

impl OutputQueue {
    pub(crate) fn event(&mut self, event: Event) {
        self.queue.push_back(Output::Event(event));
    }

    pub(crate) fn transmit(&mut self, path: Path, bytes: Vec<u8>) {
        self.queue.push_back(Output::Transmit { path, bytes });
    }

    pub(crate) fn pop(&mut self) -> Option<Output> {
        self.queue.pop_front()
    }
}

/// Datagrams that were not accepted, by reason.
#[derive(Debug)]
pub(crate) struct Drops([u64; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Drops {
        Drops([0; DropReason::COUNT])
    }
}

impl Drops {
    pub(crate) fn count(&mut self, reason: DropReason) {
        if let Some(counter) = self.0.get_mut(reason.index()) {
            *counter = counter.saturating_add(1);
        }
    }

    /// The counters above zero, which start anew.
    pub(crate) fn take(&mut self) -> Vec<(String, u64)> {
        let counted = std::mem::take(self);
        let named = DropReason::ALL.iter().zip(counted.0);
        named.filter(|(_, n)| *n > 0).map(|(reason, n)| (reason.as_str().to_owned(), n)).collect()
    }
}
