//! A server endpoint: answers resets without state, accepts sessions whose cookie was proved, and gives each the
//! options it was told to push. Pools, per-client settings and login hooks belong to a gateway around it.

use std::time::Duration;

use rustls::crypto::SecureRandom;

use crate::client::wrap_config;
use crate::controlchannel::options::{OptionsInput, options_string};
use crate::crypto::Random;
use crate::error::DropReason;
use crate::ids::{Role, SessionId};
use crate::listener::{Cookie, Listener, ListenerVerdict};
use crate::output::{Drops, Event, Output, OutputQueue};
use crate::session::{Context, Session, Settings, Side};
use crate::setup::{Admission, Cipher, Ending, KeyEvent, Path, ResumeRecord, Secret, ServerSetup};
use crate::timers::{Instant, Now, earliest};
use crate::tlssession::TlsConfig;

/// Answers to resets, at most this many in [`REPLY_SPAN`].
const MAX_REPLIES: u32 = 100;
/// See [`MAX_REPLIES`].
const REPLY_SPAN: Duration = Duration::from_secs(10);

/// A server's control plane. Driven as [`crate::Client`] is.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    listener: Listener,
    sessions: Vec<Session>,
    max_clients: usize,
    workers: u16,
    tls_random: Option<&'static dyn SecureRandom>,
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
        let _ = rng;
        let tls = TlsConfig::server(&setup.tls, setup.client_certificate, now.unix, tls_random).map_err(Ending::Tls)?;
        let settings = settings(&setup, tls)?;
        let listener = listener(&setup, &settings)?;
        Ok(Server {
            settings,
            listener,
            sessions: Vec::new(),
            max_clients: usize::try_from(setup.max_clients).unwrap_or(usize::MAX),
            workers: setup.workers.max(1),
            tls_random,
            next_generation: setup.first_generation.max(1),
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

    /// Accepts a login: its key is installed, and the client gets its settings once it is. Says whether such a login was
    /// waiting: an answer that comes late, or to another negotiation, does nothing.
    pub fn admit(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        generation: u32,
        negotiation: u32,
        admission: Admission,
    ) -> bool {
        let (mut admission, mut done) = (Some(admission), false);
        self.each(now, rng, |session, ctx| {
            if session.generation == generation
                && let Some(admission) = admission.take()
            {
                done = session.server_admits(ctx, negotiation, admission);
            }
        });
        done
    }

    /// Refuses a login: the client is told `text` (`AUTH_FAILED`, `AUTH_FAILED,reason`, …), its keys are dropped, and the
    /// session ends five seconds later with [`Ending::AuthFailed`] and `reason`, which the client does not see. Says
    /// whether the session had such a negotiation; one that was admitted already is refused all the same.
    pub fn refuse(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        generation: u32,
        negotiation: u32,
        text: &str,
        reason: &str,
    ) -> bool {
        let mut done = false;
        self.each(now, rng, |session, ctx| {
            if session.generation == generation {
                done = session.server_refuses_login(ctx, negotiation, text, reason);
            }
        });
        done
    }

    /// Ends a session at once, without a word to the client.
    pub fn close(&mut self, now: Now, generation: u32) {
        self.each(now, &mut NoChance, |session, ctx| {
            if session.generation == generation {
                session.end(ctx, Ending::Disconnected { exit_sent: false });
            }
        });
    }

    /// A worker has seen the peer at another path, by a packet that authenticated, and answers there. Its control packets
    /// follow, unless the move is refused: [`Event::MoveBack`].
    pub fn floated(&mut self, now: Now, peer: u32, path: Path) {
        let _ = now;
        let taken = self.sessions.iter().any(|s| s.peer() != peer && s.path.remote == path.remote);
        if let Some(session) = self.sessions.iter_mut().find(|s| s.peer() == peer) {
            if taken {
                self.out.event(Event::MoveBack { peer, path: session.path });
            } else {
                session.path = path;
            }
        }
    }

    /// Goes on with a session of a process that died, by a SOFT_RESET with a fresh TLS session. `path` is where the peer
    /// is now. A record that cannot be used is answered by [`Event::Ended`].
    pub fn resume(&mut self, now: Now, rng: &mut dyn Random, record: ResumeRecord, path: Path) {
        self.settings.tls.set_time(now.unix);
        let generation = record.generation;
        self.next_generation = self.next_generation.max(generation.saturating_add(1));
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        match Session::resume(&mut ctx, &record, path, None, Duration::ZERO) {
            Ok(session) => self.sessions.push(session),
            Err(ending) => self.out.event(Event::Ended { generation, ending }),
        }
    }

    /// Takes another profile for what follows: certificates, CRL, ciphers, limits. Sessions stay as they are; their next
    /// renegotiation goes by the new profile.
    ///
    /// # Errors
    /// As [`Server::new`]; the old profile then stays.
    pub fn reload(&mut self, now: Now, setup: ServerSetup) -> Result<(), Ending> {
        let tls = TlsConfig::server(&setup.tls, setup.client_certificate, now.unix, self.tls_random);
        let settings = settings(&setup, tls.map_err(Ending::Tls)?)?;
        self.listener = listener(&setup, &settings)?;
        self.settings = settings;
        self.max_clients = usize::try_from(setup.max_clients).unwrap_or(usize::MAX);
        Ok(())
    }

    /// The worker that a peer belongs to.
    pub fn worker_of(&self, peer: u32) -> u16 {
        u16::try_from(peer % u32::from(self.workers)).unwrap_or(0)
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

/// Nothing that is ended draws a number.
struct NoChance;

impl Random for NoChance {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
    }
}

fn listener(setup: &ServerSetup, settings: &Settings) -> Result<Listener, Ending> {
    let Secret(bytes) = &setup.cookie_secret;
    let secret = bytes.as_slice().try_into().map_err(|_| Ending::Internal("a cookie secret has 32 bytes".into()))?;
    let cookie = Cookie::new(secret, setup.hand_window);
    Listener::with_cookie(settings.wrap.clone(), cookie).map_err(|e| Ending::Internal(e.to_string()))
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
        side: Side::Server,
        data_ciphers,
    })
}
