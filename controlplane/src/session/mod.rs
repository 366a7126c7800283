//! One peer: its current, next and previous negotiation, the push exchange, renegotiation and exit. This file
//! holds the state, the inputs and the way out; what either role does about a happening is in [`client_side`] and
//! [`server_side`], what concerns keys and resume records in [`keying`].

mod client_side;
mod keying;
mod server_side;

use std::time::Duration;

use zeroize::Zeroizing;

use crate::controlchannel::push::PushCollector;
use crate::crypto::Random;
use crate::error::DropReason;
use crate::ids::{KeyId, Role, SessionId};
use crate::listener::NewSession;
use crate::negotiation::{Happening, Negotiation, Terms, max_payload};
use crate::output::{Event, OutputQueue};
use crate::packet::control::ControlPacket;
use crate::packet::opcode::Opcode;
use crate::setup::{
    Cipher, Credentials, Ending, Established, KeyEvent, KeyLimits, KeyName, LoginLock, Path, ResumeRecord, Secret,
    State,
};
use crate::timers::{Instant, Now, TimerReason, earliest};
use crate::tlssession::TlsConfig;
use crate::trace::{Sent, Stage};
use crate::wrap::{WrapConfig, Wrapper};

/// An unanswered SOFT_RESET of a resumed session is given up after this time.
const RESUME_ANSWER: Duration = Duration::from_secs(10);
/// How long EXIT may wait for its acknowledgement.
const EXIT_ACK: Duration = Duration::from_secs(1);
/// In that second an ordinary retransmission would come too late, so EXIT is repeated this often.
const EXIT_REPEAT: Duration = Duration::from_millis(300);
/// How long a worker may take to install a first key.
const KEY_INSTALL: Duration = Duration::from_secs(10);
/// The verified presence of the peer is reported at most this often.
const ALIVE: Duration = Duration::from_secs(1);

/// A peer's SOFT_RESET begins a renegotiation at most this often. An earlier one is dropped like a lost packet, and comes
/// again: a peer must not make us do TLS handshakes, or say that they failed, as fast as it can send.
const PEER_RENEGOTIATES: Duration = Duration::from_secs(1);
/// What a server's messages make us tell the caller: at most so many events in [`WORDS_SPAN`]; what is above is dropped.
const MAX_WORDS_EVENTS: u32 = 32;
/// See [`MAX_WORDS_EVENTS`].
const WORDS_SPAN: Duration = Duration::from_secs(10);

/// See [`Settings::switch_after`]. An acknowledgement that lets the peer use the key may be lost once and be repeated after
/// the 2 s of `tls-timeout`.
const SWITCH_UNAGED: Duration = Duration::from_secs(4);

/// What all sessions of an endpoint have in common.
#[derive(Debug)]
pub(crate) struct Settings {
    pub(crate) tls: TlsConfig,
    pub(crate) wrap: WrapConfig,
    pub(crate) data_ciphers: Vec<Cipher>,
    pub(crate) fallback: Option<Cipher>,
    /// The options string on UDP and on TCP.
    pub(crate) options: [String; 2],
    pub(crate) tls_timeout: Duration,
    pub(crate) hand_window: Duration,
    pub(crate) tran_window: Duration,
    /// `None`: keys do not age.
    pub(crate) reneg: Option<Duration>,
    pub(crate) max_packet_size: u16,
    pub(crate) limits: KeyLimits,
    pub(crate) side: Side,
    /// Somebody looks on.
    pub(crate) observed: bool,
}

/// What only one role has.
#[derive(Debug)]
pub(crate) enum Side {
    Client { pull: bool, peer_info: String, auth_nocache: bool },
    Server,
}

impl Settings {
    pub(crate) fn role(&self) -> Role {
        match self.side {
            Side::Client { .. } => Role::Client,
            Side::Server => Role::Server,
        }
    }

    /// When a new key is sent with, counted from the queuing of its reset, if nothing says so earlier: as late as stock
    /// peers do. Where keys do not age (`reneg-sec 0`, common in profiles) only the peer renegotiates, at a pace that is
    /// not known here, and a key that it has forgotten must not be sent with: then it is as early as is safe.
    pub(crate) fn switch_after(&self) -> Duration {
        self.hand_window.min(self.reneg.map_or(SWITCH_UNAGED, |reneg| reneg / 2))
    }

    fn terms(&self, wrapper: &Wrapper) -> Terms {
        Terms {
            role: self.role(),
            tls_timeout: self.tls_timeout,
            max_payload: max_payload(self.max_packet_size, wrapper.overhead()),
            observed: self.observed,
        }
    }
}

/// What an input brings along: the present, chance, the common settings, and the way out.
pub(crate) struct Context<'a> {
    pub(crate) now: Now,
    pub(crate) rng: &'a mut dyn Random,
    pub(crate) settings: &'a Settings,
    pub(crate) out: &'a mut OutputQueue,
}

/// Which of a session's negotiations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Current,
    Next,
    Previous,
}

/// How far a session is, as an endpoint of many sessions has to know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing is known of the peer but that it has its address.
    HalfOpen,
    /// TLS is done and the login was told; no data flows yet.
    Proven,
    /// Data flows.
    Settled,
    /// The last message may still be acknowledged.
    Leaving,
    /// Nothing more comes.
    Ended,
}

/// One peer.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) generation: u32,
    peer: u32,
    pub(crate) path: Path,
    wrapper: Wrapper,
    /// Below this, wrap packet ids have been reserved in the resume record.
    wrap_reserved: u32,
    local_sid: SessionId,
    remote_sid: Option<SessionId>,
    /// The first negotiation, or the newest that completed.
    current: Option<Negotiation>,
    /// A renegotiation under way.
    next: Option<Negotiation>,
    /// The lame duck: still answers what the peer repeats.
    previous: Option<Negotiation>,
    renegotiating: bool,
    next_number: u32,
    next_key_id: KeyId,
    phase: Phase,
    agreed: Option<Agreed>,
    /// The key that a worker has to confirm.
    installing: Option<KeyName>,
    newest: Option<NewestKey>,
    deadlines: Deadlines,
    credentials: Option<Credentials>,
    token: Option<Secret>,
    token_user: Option<String>,
    last_alive: Option<Instant>,
    /// When the last renegotiation began.
    last_begun: Option<Instant>,
    words: Words,
    last_record: Option<ResumeRecord>,
    /// As a server: who the client was at its first login.
    lock: Option<LoginLock>,
    /// As a server: the negotiation whose login the caller is judging.
    judging: Option<u32>,
    /// As a server: a token to be told once the renegotiation is complete.
    token_to_tell: Option<Secret>,
    /// The worker was told to forget the keys.
    keys_dropped: bool,
}

/// Where the session stands as a whole.
#[derive(Debug)]
enum Phase {
    /// The first negotiation.
    Negotiating,
    /// As a client: waits for PUSH_REPLY.
    GetConfig(Box<GetConfig>),
    /// As a server: the caller is judging the first login.
    LoggingIn(LoggingIn),
    /// Waits for the worker to confirm the first key; as a server, then for PUSH_REQUEST.
    Installing(Installing),
    /// Data flows.
    Up,
    /// EXIT was sent.
    Exiting { deadline: Instant, repeat_at: Instant },
    /// As a server: the last message may still be acknowledged.
    Lingering { deadline: Instant, ending: Ending },
    /// Nothing more comes.
    Ended,
}

#[derive(Debug)]
struct GetConfig {
    since: Instant,
    request_at: Instant,
    deadline: Instant,
    collector: PushCollector,
    /// The server's options string.
    options: String,
}

#[derive(Debug)]
struct LoggingIn {
    deadline: Instant,
    /// The client has asked for its settings, or need not ask.
    push_wanted: bool,
    /// The client negotiates its cipher, so that it is to be told.
    names_cipher: bool,
    /// The client waits as long as AUTH_PENDING says.
    waits: bool,
}

#[derive(Debug)]
struct Installing {
    established: Box<Established>,
    deadline: Option<Instant>,
    /// As a server: the client has asked, or need not ask.
    push_wanted: bool,
    /// As a server: the messages of PUSH_REPLY. They may hold a token.
    reply: Zeroizing<Vec<String>>,
}

/// What both sides agreed on, for all keys of the session.
#[derive(Clone, Copy, Debug)]
struct Agreed {
    cipher: Cipher,
    use_exporter: bool,
    cc_exit: bool,
    wire_peer_id: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct NewestKey {
    name: KeyName,
    sending: bool,
}

/// Deadlines of an established session.
#[derive(Debug, Default)]
struct Deadlines {
    renegotiate: Option<Instant>,
    again: Option<Instant>,
    /// The current key is no longer good; only set while it awaits its successor.
    expire: Option<Instant>,
    resume: Option<Instant>,
    retire: Option<Instant>,
}

/// How much a server's messages have made us tell lately.
#[derive(Debug, Default)]
struct Words {
    since: Instant,
    count: u32,
}

impl Words {
    fn permit(&mut self, now: Instant) -> bool {
        if self.count == 0 || now.since(self.since) >= WORDS_SPAN {
            *self = Words { since: now, count: 0 };
        }
        self.count = self.count.saturating_add(1);
        self.count <= MAX_WORDS_EVENTS
    }
}

impl Session {
    /// A client's session: queues the hard reset.
    pub(crate) fn connect(
        ctx: &mut Context<'_>,
        generation: u32,
        path: Path,
        credentials: Option<Credentials>,
    ) -> Result<Session, Ending> {
        if let Some(log) = ctx.out.trace.as_deref_mut() {
            log.begin(ctx.now.at, generation);
        }
        let wrapper = Wrapper::new(ctx.settings.wrap.clone()).map_err(|e| Ending::Internal(e.to_string()))?;
        let local_sid = SessionId::new_random(ctx.rng);
        let mut session = Session::new(generation, 0, path, wrapper, local_sid, credentials);
        let terms = ctx.settings.terms(&session.wrapper);
        let first = Negotiation::begin(&terms, 0, KeyId::FIRST, ctx.now.at);
        session.current = Some(first.map_err(|e| Ending::Internal(e.to_string()))?);
        ctx.out.event(Event::State { generation, state: State::Wait });
        session.settle(ctx);
        Ok(session)
    }

    /// A session that goes on after its process died. As a server, its SOFT_RESET waits for `delay`, so that many sessions
    /// do not come at once: their keys go on in the meantime.
    pub(crate) fn resume(
        ctx: &mut Context<'_>,
        record: &ResumeRecord,
        path: Path,
        credentials: Option<Credentials>,
        delay: Duration,
    ) -> Result<Session, Ending> {
        if let Some(log) = ctx.out.trace.as_deref_mut() {
            log.begin(ctx.now.at, record.generation);
        }
        let unusable = |what: &str| Ending::Internal(format!("the resume record cannot be used: {what}"));
        if !record.resumable {
            return Err(unusable("a negotiation was under way"));
        }
        let sid = |bytes| SessionId::from_bytes(bytes).ok_or_else(|| unusable("a session id is zero"));
        let key_id = KeyId::new(record.next_key_id).filter(|k| *k != KeyId::FIRST);
        let wrapper =
            Wrapper::resume(ctx.settings.wrap.clone(), record.wrap_send_next, record.wrap_send_time, record.wrap_recv)
                .map_err(|e| unusable(&e.to_string()))?;
        let mut session =
            Session::new(record.generation, record.peer, path, wrapper, sid(record.local_sid)?, credentials);
        session.remote_sid = Some(sid(record.remote_sid)?);
        session.wrap_reserved = record.wrap_send_next;
        session.next_number = record.next_negotiation;
        session.next_key_id = key_id.ok_or_else(|| unusable("its key-id is none of a renegotiation"))?;
        session.agreed = Some(Agreed {
            cipher: record.cipher,
            use_exporter: record.use_exporter,
            cc_exit: record.cc_exit,
            wire_peer_id: record.wire_peer_id,
        });
        session.token = record.auth_token.clone();
        session.token_user = record.auth_token_user.clone();
        session.lock = record.login.clone();
        session.phase = Phase::Up;
        session.newest = session.key_before_resume();
        // A client that finds nobody connects anew. A server that hears nothing leaves it to the data channel to find out
        // that its client has gone: it may only be asleep.
        if ctx.settings.role() == Role::Client {
            session.deadlines.resume = Some(ctx.now.at + RESUME_ANSWER);
        }
        if delay.is_zero() {
            session.start_renegotiation(ctx);
        } else {
            session.deadlines.again = Some(ctx.now.at + delay);
        }
        session.settle(ctx);
        Ok(session)
    }

    /// A server's session, after a cookie was proved; `new.packet` is its first packet.
    pub(crate) fn accept(ctx: &mut Context<'_>, generation: u32, peer: u32, path: Path, new: NewSession) -> Session {
        let mut session = Session::new(generation, peer, path, new.wrapper, new.server_sid, None);
        session.remote_sid = Some(new.client_sid);
        let terms = ctx.settings.terms(&session.wrapper);
        session.current = Some(Negotiation::accepted(&terms, &ctx.settings.tls, ctx.now.at));
        // What the first packet holds is lost like any other packet if it is not acceptable.
        let _ = session.dispatch(ctx, new.packet);
        session.settle(ctx);
        session
    }

    fn new(
        generation: u32,
        peer: u32,
        path: Path,
        wrapper: Wrapper,
        local_sid: SessionId,
        credentials: Option<Credentials>,
    ) -> Session {
        Session {
            generation,
            peer,
            path,
            wrapper,
            wrap_reserved: 0,
            local_sid,
            remote_sid: None,
            current: None,
            next: None,
            previous: None,
            renegotiating: false,
            next_number: 1,
            next_key_id: KeyId::FIRST.next(),
            phase: Phase::Negotiating,
            agreed: None,
            installing: None,
            newest: None,
            deadlines: Deadlines::default(),
            credentials,
            token: None,
            token_user: None,
            last_alive: None,
            last_begun: None,
            words: Words::default(),
            last_record: None,
            lock: None,
            judging: None,
            token_to_tell: None,
            keys_dropped: false,
        }
    }

    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.phase, Phase::Ended)
    }

    /// Whether a worker may hold keys of this session.
    pub(crate) fn has_keys(&self) -> bool {
        (self.newest.is_some() || self.installing.is_some()) && !self.keys_dropped
    }

    pub(crate) fn standing(&self) -> Standing {
        match self.phase {
            Phase::Negotiating | Phase::GetConfig(_) => Standing::HalfOpen,
            Phase::LoggingIn(_) | Phase::Installing(_) => Standing::Proven,
            Phase::Up | Phase::Exiting { .. } => Standing::Settled,
            Phase::Lingering { .. } => Standing::Leaving,
            Phase::Ended => Standing::Ended,
        }
    }

    pub(crate) fn lock(&self) -> Option<&LoginLock> {
        self.lock.as_ref()
    }

    pub(crate) fn peer(&self) -> u32 {
        self.peer
    }

    pub(crate) fn remote_sid(&self) -> Option<SessionId> {
        self.remote_sid
    }

    /// Takes a datagram of this session's peer.
    pub(crate) fn handle_datagram(
        &mut self,
        ctx: &mut Context<'_>,
        path: &Path,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        if path.remote != self.path.remote || path.stream != self.path.stream {
            return Err(DropReason::WrongAddress);
        }
        let opened = self.wrapper.authenticate(datagram)?;
        let packet = opened.decode()?;
        if let Some(log) = ctx.out.trace.as_deref_mut() {
            log.decoded(&packet);
        }
        self.check_sids(ctx.settings.role(), &packet)?;
        // Only now: another session's packets must not move this one's window.
        self.wrapper.commit(&opened)?;
        let result = self.dispatch(ctx, packet);
        self.report_alive(ctx);
        self.settle(ctx);
        result
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now.at;
        self.expire_phase(ctx);
        self.expire_keys(ctx);
        if self.deadlines.retire.is_some_and(|at| at <= now) {
            self.deadlines.retire = None;
            self.previous = None;
        }
        for slot in [Slot::Current, Slot::Next] {
            // An unanswered reset is repeated at a constant pace.
            if let Some(n) = self.slot(slot).as_mut()
                && n.expects_reset()
                && n.transport.sender.next_deadline().is_some_and(|at| at <= now)
            {
                n.transport.sender.burst(now);
            }
        }
        self.settle(ctx);
    }

    /// Takes a worker's word about a key of this session.
    pub(crate) fn handle_key_event(&mut self, ctx: &mut Context<'_>, event: KeyEvent) {
        if event.name().generation != self.generation || self.has_ended() {
            return;
        }
        match event {
            KeyEvent::KeyInstalled(name) => self.on_key_installed(ctx, name),
            KeyEvent::KeyRefused(name, why) => self.on_key_refused(ctx, name, why),
            KeyEvent::KeySending(name) => {
                if let Some(newest) = self.newest.as_mut().filter(|n| n.name == name) {
                    newest.sending = true;
                }
            }
            KeyEvent::KeyUsage(name, _) => {
                if self.newest.is_some_and(|n| n.name == name) {
                    self.start_renegotiation(ctx);
                }
            }
        }
        self.settle(ctx);
    }

    /// Starts a renegotiation now, if the session is up and none is under way.
    pub(crate) fn renegotiate(&mut self, ctx: &mut Context<'_>) {
        self.start_renegotiation(ctx);
        self.settle(ctx);
    }

    /// Says EXIT, where that was agreed, and ends.
    pub(crate) fn disconnect(&mut self, ctx: &mut Context<'_>) {
        let told = matches!(self.phase, Phase::Up) && self.agreed.is_some_and(|a| a.cc_exit);
        match self.current.as_mut().filter(|n| told && n.is_active()) {
            Some(current) => {
                current.send_text("EXIT");
                self.next = None;
                self.renegotiating = false;
                let now = ctx.now.at;
                self.phase = Phase::Exiting { deadline: now + EXIT_ACK, repeat_at: now + EXIT_REPEAT };
                self.settle(ctx);
            }
            None => self.end(ctx, Ending::Disconnected { exit_sent: false }),
        }
    }

    /// The next deadline.
    pub(crate) fn wake(&self, settings: &Settings) -> Option<(Instant, TimerReason)> {
        let mut wake = self.phase_wake(settings);
        let mut add = |at: Option<Instant>, reason| wake = earliest(wake, at.map(|at| (at, reason)));
        if self.has_ended() {
            return None;
        }
        for n in [&self.current, &self.next, &self.previous].into_iter().flatten() {
            add(n.transport.sender.next_deadline(), TimerReason::Retransmit);
        }
        add(self.deadlines.retire, TimerReason::Retire);
        if matches!(self.phase, Phase::Up) {
            match &self.next {
                Some(next) => {
                    add(Some(next.begun + settings.hand_window), TimerReason::HandWindow);
                    add(self.deadlines.resume, TimerReason::ResumeAnswer);
                }
                None => {
                    add(self.deadlines.renegotiate, TimerReason::Renegotiate);
                    add(self.deadlines.again, TimerReason::RenegotiateAgain);
                }
            }
            add(self.deadlines.expire, TimerReason::Retire);
        }
        wake
    }

    fn phase_wake(&self, settings: &Settings) -> Option<(Instant, TimerReason)> {
        match &self.phase {
            Phase::Negotiating => {
                let begun = self.current.as_ref()?.begun;
                Some((begun + settings.hand_window, TimerReason::HandWindow))
            }
            Phase::GetConfig(g) => {
                earliest(Some((g.request_at, TimerReason::PushRequest)), Some((g.deadline, TimerReason::PushReply)))
            }
            Phase::LoggingIn(login) => Some((login.deadline, TimerReason::Login)),
            Phase::Installing(i) => i.deadline.map(|at| (at, TimerReason::KeyInstall)),
            Phase::Exiting { deadline, repeat_at } => Some((*deadline.min(repeat_at), TimerReason::ExitAck)),
            Phase::Lingering { deadline, .. } => Some((*deadline, TimerReason::Linger)),
            Phase::Up | Phase::Ended => None,
        }
    }

    fn slot(&mut self, slot: Slot) -> &mut Option<Negotiation> {
        match slot {
            Slot::Current => &mut self.current,
            Slot::Next => &mut self.next,
            Slot::Previous => &mut self.previous,
        }
    }

    /// Whether the packet is between this peer and us.
    fn check_sids(&self, role: Role, packet: &ControlPacket) -> Result<(), DropReason> {
        if !packet.opcode.may_come_from(role.peer()) {
            return Err(DropReason::UnexpectedOpcode);
        }
        if packet.remote_session_id.is_some_and(|sid| sid != self.local_sid) {
            return Err(DropReason::WrongRemoteSession);
        }
        match self.remote_sid {
            Some(sid) if sid != packet.session_id => Err(DropReason::UnknownSession),
            Some(_) => Ok(()),
            // The answer to our reset acknowledges it, echoing our session id: nobody else knows it.
            None if packet.opcode == Opcode::HardResetServerV2 && packet.remote_session_id.is_some() => Ok(()),
            None => Err(DropReason::UnexpectedState),
        }
    }

    /// Gives a checked packet to its negotiation, and does what follows.
    fn dispatch(&mut self, ctx: &mut Context<'_>, packet: ControlPacket) -> Result<(), DropReason> {
        if packet.opcode == Opcode::SoftResetV1
            && packet.key_id == self.next_key_id
            && self.next.is_none()
            && self.last_begun.is_none_or(|last| ctx.now.at.since(last) >= PEER_RENEGOTIATES)
        {
            self.start_renegotiation(ctx);
        }
        let slot = self.slot_of(packet.key_id).ok_or(DropReason::WrongKeyId)?;
        self.remote_sid.get_or_insert(packet.session_id);
        let tls = &ctx.settings.tls;
        let negotiation = self.slot(slot).as_mut().ok_or(DropReason::WrongKeyId)?;
        let id = packet.message_id.filter(|_| ctx.settings.observed);
        let duplicate = id.is_some_and(|id| negotiation.transport.receiver.has(id));
        let result = negotiation.receive(packet, tls);
        if let Some(log) = ctx.out.trace.as_deref_mut() {
            log.taken(duplicate, negotiation.take_heard());
        }
        if slot == Slot::Next {
            self.deadlines.resume = None;
        }
        while let Some(happening) = self.slot(slot).as_mut().and_then(Negotiation::pop) {
            // What it tells has happened, and what it leads to has not.
            self.note_stage(ctx);
            self.on_happening(ctx, slot, happening);
            self.note_stage(ctx);
        }
        result
    }

    fn slot_of(&self, key_id: KeyId) -> Option<Slot> {
        let has = |n: &Option<Negotiation>| n.as_ref().is_some_and(|n| n.key_id == key_id);
        if has(&self.next) {
            Some(Slot::Next)
        } else if has(&self.current) {
            Some(Slot::Current)
        } else if has(&self.previous) {
            Some(Slot::Previous)
        } else {
            None
        }
    }

    fn on_happening(&mut self, ctx: &mut Context<'_>, slot: Slot, happening: Happening) {
        match (happening, &self.phase) {
            (_, Phase::Ended | Phase::Exiting { .. } | Phase::Lingering { .. }) => {}
            (Happening::Failed(why), _) => self.on_tls_failure(ctx, slot, why),
            (happening, _) => match ctx.settings.side {
                Side::Client { .. } => self.client_happening(ctx, slot, happening),
                Side::Server => self.server_happening(ctx, slot, happening),
            },
        }
    }

    fn on_tls_failure(&mut self, ctx: &mut Context<'_>, slot: Slot, why: String) {
        match (slot, &self.phase) {
            (Slot::Next, _) => self.renegotiation_failed(ctx, why),
            // The keys go on without the TLS session that made them.
            (_, Phase::Up) | (Slot::Previous, _) => {}
            (Slot::Current, _) => self.end(ctx, Ending::Tls(why)),
        }
    }

    fn expire_phase(&mut self, ctx: &mut Context<'_>) {
        let now = ctx.now.at;
        if !matches!(self.phase, Phase::GetConfig(_)) {
            let Some((at, _)) = self.phase_wake(ctx.settings) else {
                return;
            };
            if at > now {
                return;
            }
        }
        match &mut self.phase {
            Phase::Negotiating => {
                let awaiting = self.current.as_ref().map_or("", Negotiation::awaiting);
                let ending = match self.remote_sid {
                    None => Ending::Unanswered,
                    Some(_) => Ending::HandshakeTimeout { awaiting: awaiting.into() },
                };
                self.end(ctx, ending);
            }
            Phase::GetConfig(_) => self.client_get_config_timers(ctx),
            Phase::LoggingIn(_) => self.server_login_expires(ctx),
            Phase::Installing(_) => self.end(ctx, Ending::Internal("the worker did not install the key".into())),
            Phase::Exiting { deadline, .. } if *deadline <= now => {
                self.end(ctx, Ending::Disconnected { exit_sent: true });
            }
            Phase::Exiting { repeat_at, .. } => {
                *repeat_at = now + EXIT_REPEAT;
                if let Some(current) = self.current.as_mut() {
                    current.transport.sender.burst(now);
                }
            }
            Phase::Lingering { ending, .. } => {
                let ending = ending.clone();
                self.end(ctx, ending);
            }
            Phase::Up | Phase::Ended => {}
        }
    }

    fn report_alive(&mut self, ctx: &mut Context<'_>) {
        let due = self.last_alive.is_none_or(|last| ctx.now.at.since(last) >= ALIVE);
        if due && !self.has_ended() {
            self.last_alive = Some(ctx.now.at);
            ctx.out.event(Event::PeerAlive { peer: self.peer });
        }
    }

    /// Ends the session without a word to the peer. `ending` is told to the caller, unless it never heard of the session.
    pub(crate) fn abandon(&mut self, ctx: &mut Context<'_>, ending: Ending) {
        if !matches!(self.standing(), Standing::HalfOpen | Standing::Ended) {
            ctx.out.event(Event::Ended { generation: self.generation, ending });
        }
        self.phase = Phase::Ended;
    }

    /// Ends the session: what must still be said goes out before the event.
    fn end(&mut self, ctx: &mut Context<'_>, ending: Ending) {
        if self.has_ended() {
            return;
        }
        self.flush(ctx);
        self.phase = Phase::Ended;
        if let Some(log) = ctx.out.trace.as_deref_mut()
            && !matches!(ending, Ending::Disconnected { .. })
        {
            log.stage(ctx.now.at, Stage::Error);
        }
        ctx.out.event(Event::Ended { generation: self.generation, ending });
    }

    /// After every input: what has become possible, the record, and the datagrams.
    fn settle(&mut self, ctx: &mut Context<'_>) {
        if self.has_ended() {
            return;
        }
        self.server_promotes_when_acknowledged(ctx);
        self.note_stage(ctx);
        if matches!(self.phase, Phase::Exiting { .. }) {
            self.flush(ctx);
            if self.current.as_ref().is_none_or(Negotiation::all_acknowledged) {
                self.end(ctx, Ending::Disconnected { exit_sent: true });
            }
            return;
        }
        self.keep_record(ctx);
        self.flush(ctx);
    }

    /// Transmits what is due in every negotiation.
    fn flush(&mut self, ctx: &mut Context<'_>) {
        for slot in [Slot::Current, Slot::Next, Slot::Previous] {
            if let Some(mut negotiation) = self.slot(slot).take() {
                self.flush_one(ctx, &mut negotiation);
                *self.slot(slot) = Some(negotiation);
            }
        }
    }

    fn flush_one(&mut self, ctx: &mut Context<'_>, n: &mut Negotiation) {
        n.pump(ctx.now.at);
        let (key_id, session_id) = (n.key_id, self.local_sid);
        while let Some(due) = n.transport.sender.due(ctx.now.at) {
            let (opcode, message_id, payload) = (due.opcode, Some(due.id), due.payload.to_vec());
            let (id, attempt) = (due.id, due.attempt);
            let acks = n.transport.acks.take_for_control();
            let remote_session_id = self.remote_sid.filter(|_| !acks.is_empty());
            let packet = ControlPacket { opcode, key_id, session_id, acks, remote_session_id, message_id, payload };
            self.transmit(ctx, &packet, || Sent { attempt, names: n.names_of(id) });
        }
        n.rest();
        while n.transport.acks.has_pending() {
            let acks = n.transport.acks.take_for_ack();
            let packet = ControlPacket {
                opcode: Opcode::AckV1,
                key_id,
                session_id,
                acks,
                remote_session_id: self.remote_sid,
                message_id: None,
                payload: Vec::new(),
            };
            self.transmit(ctx, &packet, || Sent { attempt: 1, names: Vec::new() });
        }
    }

    /// `sent` is asked only if somebody looks on.
    fn transmit(&mut self, ctx: &mut Context<'_>, packet: &ControlPacket, sent: impl FnOnce() -> Sent) {
        self.reserve_wrap_id(ctx);
        // A packet that we built wrongly is as good as lost.
        if let Ok(bytes) = self.wrapper.seal(ctx.now.unix, packet) {
            if let Some(log) = ctx.out.trace.as_deref_mut() {
                log.outgoing(ctx.now.at, packet, bytes.len(), sent());
            }
            ctx.out.transmit(self.path, bytes);
        }
    }

    /// Tells an onlooker where the session stands, if that is somewhere else than before.
    fn note_stage(&self, ctx: &mut Context<'_>) {
        let Some(log) = ctx.out.trace.as_deref_mut() else {
            return;
        };
        let stage = match &self.phase {
            Phase::Negotiating => self.current.as_ref().and_then(Negotiation::standing),
            Phase::GetConfig(_) | Phase::LoggingIn(_) | Phase::Installing(_) => Some(Stage::Active),
            Phase::Up | Phase::Exiting { .. } | Phase::Lingering { .. } => Some(Stage::GeneratedKeys),
            Phase::Ended => None,
        };
        if let Some(stage) = stage {
            log.stage(ctx.now.at, stage);
        }
    }
}
