//! A client endpoint: at most one live session, towards a remote that the caller chose. Which remote, when to try
//! again and what to do with pushed options is the caller's business.

use std::time::Duration;

use rustls::crypto::SecureRandom;

use crate::controlchannel::options::{OptionsInput, options_string};
use crate::controlchannel::peer_info;
use crate::crypto::Random;
use crate::error::DropReason;
use crate::ids::Role;
use crate::output::{Drops, Event, Output, OutputQueue};
use crate::session::{Context, Session, Settings, Side};
use crate::setup::{Cipher, ClientSetup, Credentials, Ending, KeyEvent, Path, ResumeRecord, Wrap};
use crate::timers::Now;
use crate::tlssession::TlsConfig;
use crate::trace::{Log, Trace};
use crate::wrap::WrapConfig;
use crate::wrap::static_key::StaticKey;

/// Generations whose keys are to be dropped when the next first key is installed; more than this many are never
/// remembered, because a worker keeps no more.
const MAX_OLD: usize = 16;

/// A client's control plane. See the crate's first page for the order of calls.
///
/// Keys of a session that ended or was replaced stay until the first key of its successor is installed
/// ([`Event::DropKeys`]), so that a farewell can still be sent with them and a reconnection leaves no gap.
#[derive(Debug)]
pub struct Client {
    settings: Settings,
    session: Option<Session>,
    old_generations: Vec<u32>,
    out: OutputQueue,
    drops: Drops,
}

impl Client {
    /// Takes a profile: reads its certificates and keys and builds the TLS configuration.
    ///
    /// # Errors
    /// [`Ending::Tls`] with a sentence that says what to renew or to correct: a certificate of ours that expired, a
    /// key that does not fit, a PEM that does not parse, a CA that cannot be used. [`Ending::Incompatible`] when no
    /// cipher is left.
    pub fn new(setup: ClientSetup, now: Now) -> Result<Client, Ending> {
        Client::with_tls_random(setup, now, None)
    }

    /// As [`Client::new`], with a random source for TLS (tests: a seeded one).
    ///
    /// # Errors
    /// As [`Client::new`].
    pub fn with_tls_random(
        setup: ClientSetup,
        now: Now,
        random: Option<&'static dyn SecureRandom>,
    ) -> Result<Client, Ending> {
        let tls = TlsConfig::client(&setup.tls, now.unix, random).map_err(Ending::Tls)?;
        let settings = settings(&setup, tls)?;
        Ok(Client {
            settings,
            session: None,
            old_generations: Vec::new(),
            out: OutputQueue::default(),
            drops: Drops::default(),
        })
    }

    /// Begins a session with a hard reset. A session that is still there is dropped without a word.
    pub fn connect(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        generation: u32,
        path: Path,
        credentials: Option<Credentials>,
    ) {
        self.retire();
        self.settings.tls.set_time(now.unix);
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        match Session::connect(&mut ctx, generation, path, credentials) {
            Ok(session) => self.session = Some(session),
            Err(ending) => self.out.event(Event::Ended { generation, ending }),
        }
    }

    /// Goes on with a session of a process that died, by a SOFT_RESET with a fresh TLS session.
    pub fn resume(
        &mut self,
        now: Now,
        rng: &mut dyn Random,
        record: ResumeRecord,
        path: Path,
        credentials: Option<Credentials>,
    ) {
        self.retire();
        self.settings.tls.set_time(now.unix);
        let generation = record.generation;
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        match Session::resume(&mut ctx, &record, path, credentials, Duration::ZERO) {
            Ok(session) => self.session = Some(session),
            Err(ending) => self.out.event(Event::Ended { generation, ending }),
        }
    }

    /// Takes a control datagram (anything that is not P_DATA). Bad ones are counted, never answered.
    pub fn handle_datagram(&mut self, now: Now, rng: &mut dyn Random, path: &Path, bytes: &[u8]) {
        if let Some(log) = self.out.trace.as_deref_mut() {
            log.incoming(now.at, bytes);
        }
        let mut result = Err(DropReason::UnknownSession);
        self.with_session(now, rng, |session, ctx| result = session.handle_datagram(ctx, path, bytes));
        if let Err(reason) = result {
            self.drops.count(reason);
            if let Some(log) = self.out.trace.as_deref_mut() {
                log.dropped(reason);
            }
        }
    }

    /// The deadline of the last [`Output::Idle`] has come (calling earlier does no harm).
    pub fn handle_timeout(&mut self, now: Now, rng: &mut dyn Random) {
        self.with_session(now, rng, |session, ctx| session.handle_timeout(ctx));
    }

    /// A worker's word about a key. Events about other generations are ignored.
    pub fn handle_key_event(&mut self, now: Now, rng: &mut dyn Random, event: KeyEvent) {
        self.with_session(now, rng, |session, ctx| session.handle_key_event(ctx, event));
        let live = self.session.as_ref().map(|s| s.generation);
        if let KeyEvent::KeyInstalled(name) = event
            && Some(name.generation) == live
        {
            for generation in self.old_generations.drain(..).filter(|old| *old != name.generation) {
                self.out.event(Event::DropKeys { peer: name.peer, generation });
            }
        }
    }

    /// Our address changed, or the peer's: send to this path from now on.
    pub fn rebind(&mut self, now: Now, generation: u32, path: Path) {
        let _ = now;
        if let Some(session) = self.session.as_mut().filter(|s| s.generation == generation) {
            session.path = path;
        }
    }

    /// Tells the peer that we leave (EXIT, when negotiated); ends with [`Ending::Disconnected`] within a second.
    pub fn disconnect(&mut self, now: Now, generation: u32) {
        if self.session.as_ref().is_some_and(|s| s.generation == generation) {
            self.with_session(now, &mut NoChance, |session, ctx| session.disconnect(ctx));
        } else {
            let ending = Ending::Disconnected { exit_sent: false };
            self.out.event(Event::Ended { generation, ending });
        }
    }

    /// Drops the session without a word and without an event. Its keys stay until the next session has some.
    pub fn forget(&mut self, generation: u32) {
        if self.session.as_ref().is_some_and(|s| s.generation == generation) {
            self.retire();
        }
    }

    /// Renegotiates the key now.
    pub fn renegotiate(&mut self, now: Now, rng: &mut dyn Random, generation: u32) {
        if self.session.as_ref().is_some_and(|s| s.generation == generation) {
            self.with_session(now, rng, |session, ctx| session.renegotiate(ctx));
        }
    }

    /// The next thing to do. Call until it says [`Output::Idle`], after every input.
    pub fn poll_output(&mut self) -> Output {
        self.out
            .pop()
            .unwrap_or_else(|| Output::Idle { wake: self.session.as_ref().and_then(|s| s.wake(&self.settings)) })
    }

    /// Datagrams that were not accepted since the last call, by reason.
    pub fn take_dropped(&mut self) -> Vec<(String, u64)> {
        self.drops.take()
    }

    /// Notes from now on what happens, for [`Client::take_trace`], or stops doing so. A session that is there already goes on
    /// without the names of its messages. Off by default, and then it costs nothing.
    pub fn observe(&mut self, on: bool) {
        self.settings.observed = on;
        self.out.trace = on.then(|| self.out.trace.take().unwrap_or_default());
    }

    /// What happened since the last call; empty unless [`Client::observe`] was said. The records of one input stand in the
    /// order in which things happened, and what `poll_output` gives belongs after them.
    pub fn take_trace(&mut self) -> Trace {
        self.out.trace.as_deref_mut().map(Log::take).unwrap_or_default()
    }

    fn with_session(&mut self, now: Now, rng: &mut dyn Random, act: impl FnOnce(&mut Session, &mut Context<'_>)) {
        self.settings.tls.set_time(now.unix);
        let Some(session) = self.session.as_mut() else {
            return;
        };
        let mut ctx = Context { now, rng, settings: &self.settings, out: &mut self.out };
        act(session, &mut ctx);
        if session.has_ended() {
            self.retire();
        }
    }

    fn retire(&mut self) {
        if let Some(old) = self.session.take().filter(Session::has_keys)
            && !self.old_generations.contains(&old.generation)
        {
            self.old_generations.truncate(MAX_OLD - 1);
            self.old_generations.push(old.generation);
        }
    }
}

/// Leaving makes no key and no id, so it draws nothing.
struct NoChance;

impl Random for NoChance {
    fn fill(&mut self, out: &mut [u8]) {
        out.fill(0);
    }
}

fn settings(setup: &ClientSetup, tls: TlsConfig) -> Result<Settings, Ending> {
    let data_ciphers: Vec<Cipher> = setup.data_ciphers.iter().copied().filter(|c| c.available()).collect();
    if setup.pull && data_ciphers.is_empty() && setup.fallback_cipher.is_none() {
        return Err(Ending::Incompatible(
            "no data cipher is left that this build has: add AES-256-GCM to data-ciphers".into(),
        ));
    }
    let options = |tcp| {
        options_string(&OptionsInput {
            role: Role::Client,
            cipher: &setup.options_cipher,
            data_ciphers: &data_ciphers,
            pull: setup.pull,
            auth: setup.auth,
            tun_mtu: setup.tun_mtu,
            tcp,
            wrap: &setup.wrap,
        })
    };
    let seconds = |s: u32| Duration::from_secs(s.into());
    Ok(Settings {
        tls,
        wrap: wrap_config(&setup.wrap, Role::Client)?,
        options: [options(false), options(true)],
        fallback: setup.fallback_cipher.filter(|c| c.available()),
        tls_timeout: seconds(setup.tls_timeout.max(1)),
        hand_window: seconds(setup.hand_window.max(1)),
        tran_window: seconds(setup.tran_window),
        reneg: (setup.reneg_sec > 0).then(|| seconds(setup.reneg_sec)),
        max_packet_size: setup.max_packet_size,
        limits: setup.limits,
        side: Side::Client {
            pull: setup.pull,
            peer_info: peer_info::build(&data_ciphers, setup.iv_proto_mask, &setup.peer_info),
            auth_nocache: setup.auth_nocache,
        },
        data_ciphers,
        observed: false,
    })
}

/// The protection as the wrap wants it.
pub(crate) fn wrap_config(wrap: &Wrap, role: Role) -> Result<WrapConfig, Ending> {
    let static_key = |bytes: &[u8]| {
        StaticKey::from_slice(bytes).ok_or_else(|| Ending::Internal("a static key must have 256 bytes".into()))
    };
    Ok(match wrap {
        Wrap::None => WrapConfig::None,
        Wrap::TlsAuth { key, direction, digest } => {
            WrapConfig::TlsAuth { key: static_key(&key.0)?, direction: *direction, digest: *digest }
        }
        Wrap::TlsCrypt { key } => WrapConfig::TlsCrypt { key: static_key(&key.0)?, role },
    })
}
