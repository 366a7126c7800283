//! A server endpoint: answers resets without state, accepts sessions whose cookie was proved, and gives each the
//! options it was told to push. Pools, per-client settings and login hooks belong to a gateway around it.

use std::time::Duration;

use rustls::crypto::SecureRandom;

use crate::client::wrap_config;
use crate::controlchannel::options::{OptionsInput, options_string};
use crate::crypto::{Digest, Random};
use crate::error::DropReason;
use crate::ids::{Role, SessionId};
use crate::listener::{Listener, ListenerVerdict};
use crate::output::{Drops, Event, Output, OutputQueue};
use crate::session::{Context, Session, Settings, Side};
use crate::setup::{Cipher, Credentials, Ending, KeyEvent, KeyLimits, Path, TlsSetup, Wrap};
use crate::timers::{Instant, Now, earliest};
use crate::tlssession::TlsConfig;

/// Answers to resets, at most this many in [`REPLY_SPAN`].
const MAX_REPLIES: u32 = 100;
/// See [`MAX_REPLIES`].
const REPLY_SPAN: Duration = Duration::from_secs(10);

/// What a server's profile asks of the control channel. Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSetup {
    /// The control channel's protection.
    pub wrap: Wrap,
    /// TLS; a client certificate is always required.
    pub tls: TlsSetup,
    /// `data-ciphers`, in order of preference.
    pub data_ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback`, for clients that do not negotiate.
    pub fallback_cipher: Option<Cipher>,
    /// `auth`, for the options string.
    pub auth: Digest,
    /// `tun-mtu`, for the options string.
    pub tun_mtu: u16,
    /// Options to push, in order, without those that are negotiated (peer-id, cipher, protocol-flags).
    pub push: Vec<String>,
    /// Accepted logins; `None` accepts every client with a good certificate.
    pub users: Option<Vec<Credentials>>,
    /// `tls-timeout`
    pub tls_timeout: u32,
    /// `hand-window`
    pub hand_window: u32,
    /// `tran-window`
    pub tran_window: u32,
    /// `reneg-sec`; 0 is off.
    pub reneg_sec: u32,
    /// `max-packet-size`, bytes.
    pub max_packet_size: u16,
    /// Usage limits of a data key.
    pub limits: KeyLimits,
    /// `max-clients`
    pub max_clients: usize,
}

/// A server's control plane. Driven as [`crate::Client`] is.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    listener: Listener,
    sessions: Vec<Session>,
    max_clients: usize,
    next_generation: u32,
    replies: Replies,
    out: OutputQueue,
    drops: Drops,
}

/// The limit of answers to resets.
#[derive(Debug, Default)]
struct Replies {
    since: Instant,
    count: u32,
}

impl Replies {
    fn permit(&mut self, now: Instant) -> bool {
        if now.since(self.since) >= REPLY_SPAN {
            *self = Replies { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= MAX_REPLIES
    }
}

impl Server {
    /// Takes a profile.
    ///
    /// # Errors
    /// As [`crate::Client::new`].
    pub fn new(
        setup: ServerSetup,
        now: Now,
        rng: &mut dyn Random,
        tls_random: Option<&'static dyn SecureRandom>,
    ) -> Result<Server, Ending> {
        let tls = TlsConfig::new(Role::Server, &setup.tls, now.unix, tls_random).map_err(Ending::Tls)?;
        let settings = settings(&setup, tls)?;
        let listener = Listener::new(settings.wrap.clone(), setup.hand_window, rng)
            .map_err(|e| Ending::Internal(e.to_string()))?;
        Ok(Server {
            settings,
            listener,
            sessions: Vec::new(),
            max_clients: setup.max_clients,
            next_generation: 1,
            replies: Replies::default(),
            out: OutputQueue::default(),
            drops: Drops::default(),
        })
    }

    /// Takes a control datagram.
    pub fn handle_datagram(&mut self, now: Now, rng: &mut dyn Random, path: &Path, bytes: &[u8]) {
        self.settings.tls.set_time(now.unix);
        let result = match session_of(&mut self.sessions, path, bytes) {
            Some(session) => {
                let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
                session.handle_datagram(&mut ctx, path, bytes)
            }
            None => self.listen(now, rng, path, bytes),
        };
        if let Err(reason) = result {
            self.drops.count(reason);
        }
        self.sweep();
    }

    /// A deadline has come.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn Random) {
        self.each(now, rng, |session, ctx| session.handle_timeout(ctx));
    }

    /// A worker's word about a key.
    pub fn handle_key_event(&mut self, now: Now, rng: &mut dyn Random, event: KeyEvent) {
        self.each(now, rng, |session, ctx| session.handle_key_event(ctx, event));
    }

    /// Renegotiates a session's key now.
    pub fn renegotiate(&mut self, now: Now, rng: &mut dyn Random, generation: u32) {
        self.each(now, rng, |session, ctx| {
            if session.generation == generation {
                session.renegotiate(ctx);
            }
        });
    }

    /// Sends a last message (`RESTART`, `HALT,reason`, `AUTH_FAILED,reason`) and ends the session five seconds later.
    pub fn dismiss(&mut self, now: Now, rng: &mut dyn Random, generation: u32, text: &str) {
        self.each(now, rng, |session, ctx| {
            if session.generation == generation {
                session.server_dismisses(ctx, text);
            }
        });
    }

    /// The next thing to do. Call until it says [`Output::Idle`], after every input.
    pub fn poll_output(&mut self) -> Output {
        self.out.pop().unwrap_or_else(|| {
            let wakes = self.sessions.iter().map(|s| s.wake(&self.settings));
            Output::Idle { wake: wakes.fold(None, earliest) }
        })
    }

    /// How many sessions there are, complete or not.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// Datagrams that were not accepted since the last call, by reason.
    pub fn take_dropped(&mut self) -> Vec<(String, u64)> {
        self.drops.take()
    }

    fn listen(&mut self, now: Now, rng: &mut dyn Random, path: &Path, bytes: &[u8]) -> Result<(), DropReason> {
        match self.listener.handle_datagram(now, path.remote, bytes) {
            ListenerVerdict::Reply(bytes) if self.replies.permit(now.at) => {
                self.out.transmit(*path, bytes);
                Ok(())
            }
            ListenerVerdict::Reply(_) => Err(DropReason::RateLimited),
            ListenerVerdict::Create(new) => {
                if self.sessions.len() >= self.max_clients {
                    return Err(DropReason::TooManySessions);
                }
                let generation = self.next_generation;
                self.next_generation = generation.saturating_add(1);
                let peer = self.free_peer();
                let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
                self.sessions.push(Session::accept(&mut ctx, generation, peer, *path, *new));
                Ok(())
            }
            ListenerVerdict::Drop(reason) => Err(reason),
        }
    }

    fn free_peer(&self) -> u32 {
        (0..).find(|id| self.sessions.iter().all(|s| s.peer() != *id)).unwrap_or(u32::MAX)
    }

    fn each(&mut self, now: Now, rng: &mut dyn Random, mut act: impl FnMut(&mut Session, &mut Context<'_>)) {
        self.settings.tls.set_time(now.unix);
        for session in &mut self.sessions {
            let mut ctx = Context { now, rng: &mut *rng, settings: &self.settings, out: &mut self.out };
            act(session, &mut ctx);
        }
        self.sweep();
    }

    /// Removes what has ended, with its keys.
    fn sweep(&mut self) {
        let out = &mut self.out;
        self.sessions.retain(|s| {
            if s.has_ended() && s.has_keys() {
                out.event(Event::DropKeys { peer: s.peer(), generation: s.generation });
            }
            !s.has_ended()
        });
    }
}

/// By the sender's address and the session id in front of every protection.
fn session_of<'a>(sessions: &'a mut [Session], path: &Path, bytes: &[u8]) -> Option<&'a mut Session> {
    let sid = bytes.get(1..9)?.try_into().ok().and_then(SessionId::from_bytes)?;
    sessions.iter_mut().find(|s| s.path.remote == path.remote && s.remote_sid() == Some(sid))
}

fn settings(setup: &ServerSetup, tls: TlsConfig) -> Result<Settings, Ending> {
    let data_ciphers: Vec<Cipher> = setup.data_ciphers.iter().copied().filter(|c| c.available()).collect();
    let options = |tcp| {
        options_string(&OptionsInput {
            role: Role::Server,
            cipher: "",
            data_ciphers: &data_ciphers,
            pull: true,
            auth: setup.auth,
            tun_mtu: setup.tun_mtu,
            tcp,
            wrap: &setup.wrap,
        })
    };
    let seconds = |s: u32| Duration::from_secs(s.into());
    Ok(Settings {
        tls,
        wrap: wrap_config(&setup.wrap, Role::Server)?,
        options: [options(false), options(true)],
        fallback: setup.fallback_cipher.filter(|c| c.available()),
        tls_timeout: seconds(setup.tls_timeout.max(1)),
        hand_window: seconds(setup.hand_window.max(1)),
        tran_window: seconds(setup.tran_window),
        reneg: (setup.reneg_sec > 0).then(|| seconds(setup.reneg_sec)),
        max_packet_size: setup.max_packet_size,
        limits: setup.limits,
        side: Side::Server { push: setup.push.clone(), users: setup.users.clone() },
        data_ciphers,
    })
}
