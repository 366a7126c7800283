//! A gateway's endpoint: answers resets without state, accepts sessions whose cookie was proved, has their logins judged by
//! its caller, and carries many of them. Address pools, per-client settings, passwords and scripts belong to the caller.
//!
//! [`sessions`] finds a session, [`replies`] limits answers to resets, [`peer_ids`] gives out the peers' handles; this file
//! holds the inputs and what follows for other sessions when one changes.

mod peer_ids;
mod replies;
mod sessions;
#[cfg(test)]
mod tests;

use std::time::Duration;

use rustls::crypto::SecureRandom;

use crate::client::wrap_config;
use crate::controlchannel::options::{OptionsInput, options_string};
use crate::crypto::Random;
use crate::error::DropReason;
use crate::ids::{PeerId, Role, SessionId};
use crate::listener::{Cookie, Listener, ListenerVerdict, NewSession};
use crate::output::{Drops, Event, Output, OutputQueue};
use crate::session::{Context, Session, Settings, Side, Standing};
use crate::setup::{Admission, Cipher, Ending, KeyEvent, Path, ReplyLimit, ResumeRecord, ServerSetup};
use crate::timers::Now;
use crate::tlssession::TlsConfig;

use replies::Replies;
use sessions::{Sessions, place};

/// At most so many sessions whose clients have not shown who they are. A further one takes the place of the oldest: a
/// flood from real addresses, which the limit of answers slows down, then costs only those that take long.
const MAX_HALF_OPEN: usize = 2_048;
/// When `max-clients` is reached, a session that has been half-open for so long makes room for a newcomer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Sessions of a control process that died come back one by one, this far apart.
const RESUME_APART: Duration = Duration::from_millis(1);
/// A turn deals with so many deadlines; the next one follows at once. What thousands of sessions say that end at the same
/// moment is then told piece by piece.
const MAX_DUE: usize = 256;

/// A server's control plane. Driven as [`crate::Client`] is; additionally every [`Event::Login`] is to be answered by
/// [`Server::admit`] or [`Server::refuse`], at any time within `hand-window`.
#[derive(Debug)]
pub struct Server {
    settings: Settings,
    listener: Listener,
    sessions: Sessions,
    max_clients: usize,
    workers: u16,
    next_generation: u32,
    replies: Replies,
    /// Sessions that were opened, by prefix: a cookie is good for more than one, so the limit of answers is none of these.
    openings: Replies,
    tls_random: Option<&'static dyn SecureRandom>,
    out: OutputQueue,
    drops: Drops,
}

impl Server {
    /// Takes a profile.
    ///
    /// # Errors
    /// As [`crate::Client::new`]; [`Ending::Internal`] when the cookie secret has not 32 bytes.
    pub fn new(
        setup: ServerSetup,
        now: Now,
        rng: &mut dyn Random,
        tls_random: Option<&'static dyn SecureRandom>,
    ) -> Result<Server, Ending> {
        let settings = settings(&setup, now, tls_random)?;
        let listener = listener(&setup, &settings)?;
        let mut secrets = [[0; 32]; 2];
        secrets.iter_mut().for_each(|secret| rng.fill(secret));
        Ok(Server {
            settings,
            listener,
            sessions: Sessions::new(),
            max_clients: max_clients(&setup),
            workers: setup.workers.max(1),
            next_generation: setup.first_generation.max(1),
            replies: Replies::new(setup.replies, secrets[0]),
            openings: Replies::new(openings(setup.replies), secrets[1]),
            tls_random,
            out: OutputQueue::default(),
            drops: Drops::default(),
        })
    }

    /// Takes a control datagram.
    pub fn handle_datagram(&mut self, now: Now, rng: &mut dyn Random, path: &Path, bytes: &[u8]) {
        self.settings.tls.set_time(now.unix);
        let sid = client_sid(bytes);
        let result = match sid.and_then(|sid| self.sessions.find(place(path), sid)) {
            Some(generation) => self
                .with(now, rng, generation, |session, ctx| session.handle_datagram(ctx, path, bytes))
                .unwrap_or(Err(DropReason::UnknownSession)),
            None => self.listen(now, rng, path, bytes).map_err(|reason| match reason {
                // A packet that would have been taken from where its client is. It has to wait until a worker reports that
                // the client has moved: who proves itself by a data packet is followed, and nobody else.
                DropReason::BadCookie | DropReason::NoCookie | DropReason::WrongKeyId
                    if sid.is_some_and(|sid| self.sessions.knows(sid)) =>
                {
                    DropReason::WrongAddress
                }
                reason => reason,
            }),
        };
        if let Err(reason) = result {
            self.drops.count(reason);
        }
    }

    /// A deadline has come. Of many that have come at once, [`Output::Idle`] tells that more are due now.
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn Random) {
        for generation in self.sessions.due(now.at, MAX_DUE) {
            self.with(now, rng, generation, |session, ctx| session.handle_timeout(ctx));
        }
    }

    /// A worker's word about a key.
    pub fn handle_key_event(&mut self, now: Now, rng: &mut dyn Random, event: KeyEvent) {
        self.with(now, rng, event.name().generation, |session, ctx| session.handle_key_event(ctx, event));
    }

    /// Renegotiates a session's key now.
    pub fn renegotiate(&mut self, now: Now, rng: &mut dyn Random, generation: u32) {
        self.with(now, rng, generation, |session, ctx| session.renegotiate(ctx));
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
        let act = |session: &mut Session, ctx: &mut Context<'_>| session.server_admits(ctx, negotiation, admission);
        self.with(now, rng, generation, act).unwrap_or(false)
    }

    /// The answer to a first login will take up to so many seconds from now: it may, also longer than `hand-window`, and a client that understands
    /// AUTH_PENDING is asked to wait, with `info` for its user (INFO_PRE). Says whether a first login was waiting. An answer within a
    /// renegotiation has `hand-window` and no longer.
    pub fn defer(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        generation: u32,
        negotiation: u32,
        seconds: u32,
        info: Option<&str>,
    ) -> bool {
        let act = |session: &mut Session, ctx: &mut Context<'_>| session.server_defers(ctx, negotiation, seconds, info);
        self.with(now, rng, generation, act).unwrap_or(false)
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
        let act =
            |session: &mut Session, ctx: &mut Context<'_>| session.server_refuses_login(ctx, negotiation, text, reason);
        self.with(now, rng, generation, act).unwrap_or(false)
    }

    /// Sends a last message (`RESTART`, `HALT,reason`, `AUTH_FAILED,reason`) and ends the session five seconds later.
    pub fn dismiss(&mut self, now: Now, rng: &mut dyn Random, generation: u32, text: &str) {
        self.with(now, rng, generation, |session, ctx| session.server_dismisses(ctx, text));
    }

    /// Ends a session at once, without a word to the client.
    pub fn close(&mut self, now: Now, generation: u32) {
        self.abandon(now, generation, Ending::Disconnected { exit_sent: false });
    }

    /// A worker has seen the peer at another path, by a packet that authenticated, and answers there. The session's control
    /// packets follow. The move is refused by [`Event::MoveBack`] when the session carries no data, and when another live
    /// session is there; unless that is of the same client (same certificate or user name), which has then come back,
    /// and the other session ends.
    pub fn floated(&mut self, now: Now, peer: u32, path: Path) {
        let Some(session) = self.sessions.of_peer(peer).and_then(|generation| self.sessions.get(generation)) else {
            return;
        };
        let (generation, known) = (session.generation, session.path);
        let settled = session.standing() == Standing::Settled && known.stream.is_none() && path.stream.is_none();
        match self.sessions.settled_at(place(&path)).filter(|other| *other != generation) {
            _ if !settled => return self.out.event(Event::MoveBack { peer, path: known }),
            Some(other) if !self.is_same_client(generation, other) => {
                return self.out.event(Event::MoveBack { peer, path: known });
            }
            Some(other) => self.abandon(now, other, Ending::Replaced),
            None => {}
        }
        self.sessions.move_to(generation, path);
    }

    /// Goes on with a session of a process that died, by a SOFT_RESET with a fresh TLS session. `path` is where the peer
    /// is now. The login is told again. A record that cannot be used is answered by [`Event::Ended`].
    pub fn resume(&mut self, now: Now, rng: &mut dyn Random, record: ResumeRecord, path: Path) {
        self.settings.tls.set_time(now.unix);
        let generation = record.generation;
        if self.sessions.get(generation).is_some() {
            return;
        }
        self.next_generation = self.next_generation.max(generation.saturating_add(1));
        if let Err(ending) = self.take_back(now, rng, &record, path) {
            self.out.event(Event::Ended { generation, ending });
            self.out.event(Event::DropKeys { peer: record.peer, generation });
        }
    }

    /// Takes another profile for what follows: certificates, CRL, ciphers, limits, the control channel's protection.
    /// Sessions stay as they are; their next renegotiation goes by the new profile. `workers` and `first_generation` do
    /// not change.
    ///
    /// # Errors
    /// As [`Server::new`]; the old profile then stays.
    pub fn reload(&mut self, now: Now, setup: ServerSetup) -> Result<(), Ending> {
        let settings = settings(&setup, now, self.tls_random)?;
        self.listener = listener(&setup, &settings)?;
        self.settings = settings;
        self.max_clients = max_clients(&setup);
        self.replies.set_limit(setup.replies);
        self.openings.set_limit(openings(setup.replies));
        Ok(())
    }

    /// The next thing to do. Call until it says [`Output::Idle`], after every input.
    pub fn poll_output(&mut self) -> Output {
        self.out.pop().unwrap_or_else(|| Output::Idle { wake: self.sessions.wake() })
    }

    /// How many sessions there are, complete or not.
    pub fn sessions(&self) -> usize {
        self.sessions.len()
    }

    /// The worker that a peer belongs to.
    pub fn worker_of(&self, peer: u32) -> u16 {
        u16::try_from(peer % u32::from(self.workers)).unwrap_or(0)
    }

    /// Datagrams that were not accepted since the last call, by reason.
    pub fn take_dropped(&mut self) -> Vec<(String, u64)> {
        self.drops.take()
    }

    fn listen(&mut self, now: Now, rng: &mut dyn Random, path: &Path, bytes: &[u8]) -> Result<(), DropReason> {
        match self.listener.handle_datagram(now, path.remote, bytes) {
            ListenerVerdict::Reply(bytes) if self.replies.permit(now.at, path.remote.ip()) => {
                self.out.transmit(*path, bytes);
                Ok(())
            }
            ListenerVerdict::Reply(_) => Err(DropReason::RateLimited),
            ListenerVerdict::Create(new) => self.create(now, rng, path, *new),
            ListenerVerdict::Drop(reason) => Err(reason),
        }
    }

    fn create(&mut self, now: Now, rng: &mut dyn Random, path: &Path, new: NewSession) -> Result<(), DropReason> {
        if !self.openings.permit(now.at, path.remote.ip()) {
            return Err(DropReason::RateLimited);
        }
        self.make_room(now)?;
        let generation = self.next_generation;
        self.next_generation = generation.checked_add(1).ok_or(DropReason::TooManySessions)?;
        let peer = self.sessions.take_peer().ok_or(DropReason::TooManySessions)?;
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        let session = Session::accept(&mut ctx, generation, peer, *path, new);
        self.sessions.insert(session, now.at);
        self.refresh(now, generation);
        Ok(())
    }

    /// Room for one more session, if need be at the cost of one that is half-open.
    fn make_room(&mut self, now: Now) -> Result<(), DropReason> {
        let full = self.sessions.len() >= self.max_clients;
        let crowded = self.sessions.half_open() >= MAX_HALF_OPEN;
        if !full && !crowded {
            return Ok(());
        }
        let (oldest, since) = self.sessions.oldest_half_open().ok_or(DropReason::TooManySessions)?;
        if !crowded && now.at.since(since) < PATIENCE {
            return Err(DropReason::TooManySessions);
        }
        self.abandon(now, oldest, Ending::Replaced);
        // After a reload with a lower `max-clients` there may be more than one too many.
        if self.sessions.len() >= self.max_clients { Err(DropReason::TooManySessions) } else { Ok(()) }
    }

    fn take_back(&mut self, now: Now, rng: &mut dyn Random, record: &ResumeRecord, path: Path) -> Result<(), Ending> {
        let unusable = |what: &str| Ending::Internal(format!("the resume record cannot be used: {what}"));
        if self.sessions.settled_at(place(&path)).is_some() {
            return Err(unusable("another session is at its client's address"));
        }
        if self.sessions.len() >= self.max_clients {
            return Err(unusable("max-clients is reached"));
        }
        if !self.sessions.take_this_peer(record.peer) {
            return Err(unusable("another session has its peer-id"));
        }
        let delay = RESUME_APART.saturating_mul(u32::try_from(self.sessions.len()).unwrap_or(u32::MAX));
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        match Session::resume(&mut ctx, record, path, None, delay) {
            Ok(session) => {
                self.sessions.insert(session, now.at);
                self.refresh(now, record.generation);
                Ok(())
            }
            Err(ending) => {
                self.sessions.give_peer_back(record.peer);
                Err(ending)
            }
        }
    }

    /// Whether two sessions are of one client, as far as it has shown who it is.
    fn is_same_client(&self, a: u32, b: u32) -> bool {
        let lock = |generation| self.sessions.get(generation).and_then(Session::lock);
        match (lock(a), lock(b)) {
            (Some(a), Some(b)) => a == b && (a.certificate.is_some() || !a.username.is_empty()),
            _ => false,
        }
    }

    fn abandon(&mut self, now: Now, generation: u32, ending: Ending) {
        self.with(now, &mut NoChance, generation, |session, ctx| session.abandon(ctx, ending));
    }

    /// Every call into a session goes through here. `None`: there is none of this generation.
    fn with<T>(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        generation: u32,
        act: impl FnOnce(&mut Session, &mut Context<'_>) -> T,
    ) -> Option<T> {
        self.settings.tls.set_time(now.unix);
        let session = self.sessions.get_mut(generation)?;
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        let result = act(session, &mut ctx);
        self.refresh(now, generation);
        Some(result)
    }

    /// What follows from a session's change.
    fn refresh(&mut self, now: Now, generation: u32) {
        let Some(refreshed) = self.sessions.refresh(generation, &self.settings) else {
            return;
        };
        if refreshed.has_settled
            && let Some(session) = self.sessions.get(generation)
        {
            self.replies.give_back(session.path.remote.ip());
            self.openings.give_back(session.path.remote.ip());
        }
        if let Some(session) = refreshed.ended.filter(|session| session.has_keys()) {
            self.out.event(Event::DropKeys { peer: session.peer(), generation });
        }
        // The same client, or one to whom its address was given: the older session's packets cannot come any more.
        if let Some(displaced) = refreshed.displaced {
            self.abandon(now, displaced, Ending::Replaced);
        }
    }
}

/// How many sessions a prefix may open: twice as many as it gets answers, because spans do not begin together, and who is
/// refused sends again.
fn openings(replies: ReplyLimit) -> ReplyLimit {
    ReplyLimit { count: replies.count.saturating_mul(2), ..replies }
}

/// Nothing that is ended draws a number.
struct NoChance;

impl Random for NoChance {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
    }
}

/// The session id in front of every protection.
fn client_sid(bytes: &[u8]) -> Option<SessionId> {
    bytes.get(1..9)?.try_into().ok().and_then(SessionId::from_bytes)
}

fn max_clients(setup: &ServerSetup) -> usize {
    usize::try_from(setup.max_clients.min(PeerId::MAX.saturating_add(1))).unwrap_or(usize::MAX)
}

fn listener(setup: &ServerSetup, settings: &Settings) -> Result<Listener, Ending> {
    let secret = setup.cookie_secret.0.as_slice().try_into();
    let secret = secret.map_err(|_| Ending::Internal("the cookie secret must have 32 bytes".into()))?;
    let cookie = Cookie::new(secret, setup.hand_window);
    Listener::with_cookie(settings.wrap.clone(), cookie).map_err(|e| Ending::Internal(e.to_string()))
}

fn settings(setup: &ServerSetup, now: Now, tls_random: Option<&'static dyn SecureRandom>) -> Result<Settings, Ending> {
    let tls = TlsConfig::server(&setup.tls, setup.client_certificate, now.unix, tls_random).map_err(Ending::Tls)?;
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
        observed: false,
    })
}
