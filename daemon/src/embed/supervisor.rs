//! One tunnel on the control thread: its events, its timers, and what it is told by the program. It is the client's supervisor without a
//! host to change. What is done about connecting stands in `attempt.rs`; how it ends, in `ending.rs`.

use std::fmt;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use controlplane::trace::{self, What};
use controlplane::{Established, Event, Instant, SystemRandom};
use dataplane::datachannel::aead::Aead;
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::{PeerReport, PipelineConfig};
use dataplane::sys::tundev::TunQueue;
use dataplane::tun::coalesce::TunOffload;
use dataplane::tun::too_big::AnswersFrom;
use dataplane::workers::crew::Crew;
use dataplane::workers::manager::{self, OffloadChoice, Tuning, WorkerConfig, WorkerHandle, WorkerOrder, WorkerReport};
use link::EventBell;

use super::fate::Fate;
use super::fault::Fault;
use super::options::Options;
use super::parameters::Parameters;
use super::pipe::{self, Pipe};
use super::progress::{Observer, Progress};
use super::room::{Door, Word};
use super::stage::Stage;
use crate::client::backoff::Backoff;
use crate::client::credentials::Wallet;
use crate::client::endings::Failure;
use crate::client::established::established_peer;
use crate::client::flapping::Flapping;
use crate::client::remotes::Remotes;
use crate::client::run::PEER;
use crate::client::silence;
use crate::clock;
use crate::config::agreed::{ClientProfile, Remote};
use crate::config::pushed;
use crate::config::tunnel::{Silence, TunnelSettings};
use crate::control_plane::{ControlPlane, ROOM, Rest};
use crate::messages::{FromControl, SupervisorEnd, ToControl};
use crate::timers::{Timer, Timers};

/// Reports of a worker that wait; they are rare, and one more than this is dropped.
const REPORTS: usize = 256;
/// Connecting that was not answered for so long is told of.
pub(super) const UNANSWERED: Duration = Duration::from_secs(5);
/// And again, once.
const STILL_UNANSWERED: Duration = Duration::from_secs(20);
/// Rounds between supervisor and control plane in one turn; what is left comes with the next one.
const ROUNDS: usize = 16;

/// In which form the program gets its packets and gives them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// Each alone.
    Single,
    /// Those of a TCP flow joined, with the offloads of a TUN queue; for a program that takes the worker's CPU as it comes.
    Joined,
}

/// While packets come fast, the worker of a program that takes joined ones lets them gather for so long.
const GATHER_US: u32 = 100;

impl Form {
    /// What the worker may leave to its program. Datagrams stay single: nobody there would take them apart.
    fn offload(self) -> TunOffload {
        match self {
            Form::Single => TunOffload::default(),
            Form::Joined => TunOffload { csum: true, tso4: true, tso6: true, uso4: false, uso6: false },
        }
    }

    fn tuning(self) -> Tuning {
        match self {
            Form::Single => Tuning::default(),
            Form::Joined => Tuning { gather_us: GATHER_US, ..Tuning::default() },
        }
    }
}

/// A tunnel that wants to be made.
pub(super) struct Entry {
    id: u64,
    profile: ClientProfile,
    options: Options,
    form: Form,
    wallet: Wallet,
    aead: Aead,
    told: Told,
}

/// The program is told when this goes, whatever the reason.
struct Told(Arc<Fate>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.set_gone();
    }
}

impl Entry {
    pub(super) fn new(
        id: u64,
        profile: ClientProfile,
        options: Options,
        form: Form,
        wallet: Wallet,
        aead: Aead,
        fate: Arc<Fate>,
    ) -> Entry {
        Entry { id, profile, options, form, wallet, aead, told: Told(fate) }
    }

    pub(super) fn id(&self) -> u64 {
        self.id
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Entry({})", self.id)
    }
}

/// One tunnel. Its fields go in this order: the worker before the program is told that nothing is left.
pub(super) struct Supervisor {
    pub(super) id: u64,
    pub(super) door: Door,
    worker: WorkerHandle,
    /// Reports that the worker has made and that were not heard yet.
    waiting: Arc<AtomicUsize>,
    plane: ControlPlane,
    pub(super) end: SupervisorEnd,
    pub(super) profile: ClientProfile,
    pub(super) connect_timeout: Duration,
    pub(super) reconnect: bool,
    /// The caller's.
    pub(super) socket: Option<UdpSocket>,
    pub(super) remotes: Remotes,
    pub(super) wallet: Wallet,
    pub(super) backoff: Backoff,
    pub(super) flapping: Flapping,
    pub(super) rng: SystemRandom,
    pub(super) generation: u32,
    pub(super) session: Option<Session>,
    pub(super) life: Life,
    pub(super) stage: Stage,
    pub(super) timers: Timers<Due>,
    observer: Option<Observer>,
    pub(super) last_failure: Option<Failure>,
    pub(super) tried: Vec<String>,
    /// The number of the last question to the resolver, and the remote it is about.
    pub(super) question: u32,
    pub(super) asked: Option<Remote>,
    form: Form,
    /// Both ends, until the tunnel is up.
    pair: Option<(Pipe, OwnedFd)>,
    parameters: Option<Parameters>,
    /// What was pushed.
    pub(super) settings: Option<TunnelSettings>,
    /// Bytes carried when `inactive` was looked at last.
    activity: u64,
    told: Told,
}

/// The session that is being made or carries traffic.
pub(super) struct Session {
    pub(super) generation: u32,
    pub(super) remote: Remote,
    pub(super) path: link::Path,
    pub(super) local: SocketAddr,
    pub(super) began: Instant,
    pub(super) answered: bool,
    /// Until it is.
    pub(super) silence: silence::Silence,
    /// Traffic flows since then.
    pub(super) up: Option<Instant>,
}

/// How far a tunnel has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// The program waits for it.
    Connecting,
    /// It carries packets.
    Up,
    /// It carried packets, and is being made again.
    Reconnecting,
    /// The server is being told.
    Leaving,
    /// Nothing is to be done any more.
    Over,
}

/// The timers of a tunnel, each a sentence. Of several that are due the first one here comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The server must have taken our goodbye by now.
    Goodbye,
    /// Connecting may take no longer.
    Deadline,
    /// The resolver must have answered by now.
    Resolve,
    /// The next attempt begins.
    Attempt,
    /// A remote that has not answered by now is left.
    Answer,
    /// An authenticated packet must have come by now, or the server has gone.
    Heard,
    /// `session-timeout` ends the tunnel.
    SessionEnd,
    /// `inactive`: the totals are compared.
    Inactive,
    /// Whoever waits is told that nobody answers.
    Unanswered,
}

impl Timer for Due {
    const OF_SESSION: &'static [Due] = &[Due::Answer, Due::Heard, Due::SessionEnd, Due::Inactive];
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next turn is due then, or when something comes.
    At(Option<Instant>),
    /// It is over: to be dropped.
    Over,
}

impl Supervisor {
    /// Begins to connect. `None`: that failed, and the program has been told.
    pub(super) fn new(entry: Entry, door: &Door, crew: &mut Option<Crew>) -> Option<Supervisor> {
        let Entry { id, profile, options, form, wallet, aead, told } = entry;
        let waiting = Arc::<AtomicUsize>::default();
        let made = Parts::make(id, door, (&options, form), aead, &waiting, crew);
        let Parts { plane, end, worker, pair } = match made {
            Ok(parts) => parts,
            Err(error) => {
                told.0.answer(Err(error.into()));
                return None;
            }
        };
        let mut rng = SystemRandom;
        let Options { socket, observer, .. } = options;
        let remotes = remotes(&profile, socket.as_ref(), &mut rng);
        let now = clock::now().at;
        let mut timers = Timers::default();
        timers.set(Due::Deadline, now + options.connect_timeout);
        timers.set(Due::Unanswered, now + UNANSWERED);
        timers.set(Due::Attempt, now);
        let mut supervisor = Supervisor {
            id,
            door: door.clone(),
            worker,
            waiting,
            plane,
            end,
            profile,
            connect_timeout: options.connect_timeout,
            reconnect: options.reconnect,
            socket,
            remotes,
            wallet,
            backoff: Backoff::default(),
            flapping: Flapping::default(),
            rng,
            generation: 0,
            session: None,
            life: Life::Connecting,
            stage: Stage::Resolve,
            timers,
            observer,
            last_failure: None,
            tried: Vec::new(),
            question: 0,
            asked: None,
            form,
            pair: Some(pair),
            parameters: None,
            settings: None,
            activity: 0,
            told,
        };
        supervisor.tell(&Progress::Stage(Stage::Resolve));
        let setup = supervisor.profile.client_setup();
        supervisor.say(&ToControl::ConfigureClient(Box::new(setup)));
        Some(supervisor)
    }

    /// Everything that is to be done now.
    pub(super) fn turn(&mut self) -> Next {
        for _ in 0..ROUNDS {
            while let Some(due) = self.timers.take_due(clock::now().at) {
                self.on_timer(due);
            }
            let rest = match self.plane.turn() {
                Ok(rest) => rest,
                Err(error) => {
                    self.fail(Fault::System(io::Error::other(error)));
                    return Next::Over;
                }
            };
            self.look_on();
            let heard = self.hear();
            if self.life == Life::Over {
                return Next::Over;
            }
            if !heard {
                let plane = match rest {
                    Rest::Room => Some(clock::now().at + ROOM),
                    Rest::Until(wake) => wake,
                };
                return Next::At(self.timers.next().into_iter().chain(plane).min());
            }
        }
        Next::At(Some(clock::now().at))
    }

    /// Announces that the thread will sleep. False: there is something to do.
    pub(super) fn prepare_sleep(&mut self) -> bool {
        // A link that broke is found by the next turn.
        self.plane.prepare_sleep().unwrap_or(false)
    }

    /// The thread does not sleep any more.
    pub(super) fn awake(&self) {
        self.plane.awake();
    }

    /// What the control plane says. True when there was something.
    fn hear(&mut self) -> bool {
        let mut any = false;
        while self.life != Life::Over {
            match self.end.recv() {
                Ok(Some(message)) => {
                    any = true;
                    self.on_control(message);
                }
                Ok(None) => break,
                Err(error) => self.fail(Fault::System(io::Error::other(error))),
            }
        }
        if let Err(error) = self.end.flush() {
            self.fail(Fault::System(io::Error::other(error)));
        }
        any
    }

    fn on_control(&mut self, message: FromControl) {
        match message {
            FromControl::Refused(ending) => self.on_ending(ending),
            FromControl::Event(event) => self.on_event(event),
            FromControl::Dropped(counts) => {
                tracing::debug!("tunnel {}: control datagrams dropped: {counts:?}", self.id)
            }
            FromControl::Ready | FromControl::Reloaded(_) | FromControl::Moved { .. } | FromControl::Heartbeat => {}
        }
    }

    fn on_event(&mut self, event: Event) {
        let current = self.session.as_ref().map(|session| session.generation);
        match event {
            Event::AuthToken { token, username, .. } => self.wallet.take_token(token, username),
            Event::Info { text, .. } => tracing::info!("tunnel {}: the server says: {text}", self.id),
            Event::State { generation, state } if Some(generation) == current => self.on_state(state),
            Event::Established(established) if Some(established.generation) == current => {
                self.on_established(&established);
            }
            Event::Renegotiated { .. } => self.timers.stop(Due::Heard),
            Event::RenegotiationFailed { why, .. } => {
                tracing::debug!("tunnel {}: a renegotiation failed ({why}); the old key goes on", self.id);
            }
            Event::Ended { generation, ending } if Some(generation) == current => self.on_ending(ending),
            // Of a session that was left in the meantime, the workers' own, and what only a process that may die needs.
            _ => {}
        }
    }

    fn on_state(&mut self, state: controlplane::State) {
        let Some(session) = &mut self.session else { return };
        if session.up.is_some() {
            return;
        }
        if state != controlplane::State::Wait && !std::mem::replace(&mut session.answered, true) {
            self.timers.stop(Due::Answer);
        }
        if state == controlplane::State::AuthPending && self.stage == Stage::GetConfig {
            self.enter(Stage::AuthPending);
        }
    }

    /// Follows the handshake.
    fn look_on(&mut self) {
        for record in self.plane.take_trace().records {
            let Some(session) = self.session.as_mut().filter(|session| session.generation == record.generation) else {
                continue;
            };
            if session.up.is_some() {
                continue;
            }
            if !session.answered {
                session.silence.note(&record);
            }
            if record.what == What::Stage
                && let Some(stage) = stage_of(record.stage)
            {
                self.enter(stage);
            }
        }
    }

    /// The tunnel is at this stage now.
    pub(super) fn enter(&mut self, stage: Stage) {
        if self.stage != stage {
            self.stage = stage;
            self.tell(&Progress::Stage(stage));
        }
    }

    fn tell(&mut self, progress: &Progress) {
        if let Some(observer) = &mut self.observer {
            observer.tell(progress);
        }
    }

    /// Nobody has answered for a while: whoever waits had better know why that may be.
    fn say_unanswered(&mut self) {
        let now = clock::now().at;
        let left = self.timers.at(Due::Deadline).map_or(Duration::ZERO, |at| at.since(now));
        let waited = self.connect_timeout.saturating_sub(left);
        if waited < STILL_UNANSWERED {
            self.timers.set(Due::Unanswered, now + (STILL_UNANSWERED - waited));
        }
        let Some(session) = self.session.as_ref().filter(|session| !session.answered) else { return };
        let (remote, resets) = (session.path.remote, session.silence.resets());
        let sentence = session.silence.sentence(remote, &self.profile.wrap);
        tracing::debug!("tunnel {}: {sentence}", self.id);
        self.tell(&Progress::Unanswered { remote, resets, waited, sentence });
    }

    /// What the worker says.
    pub(super) fn on_report(&mut self, report: WorkerReport) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        let up = self.session.as_ref().is_some_and(|session| session.up.is_some());
        match report {
            WorkerReport::Peer(PeerReport::FirstHeard { .. }) => self.timers.stop(Due::Heard),
            WorkerReport::Peer(PeerReport::OccExit { .. }) if up => self.on_ending(controlplane::Ending::PeerExited),
            WorkerReport::Peer(PeerReport::Silent { quiet_ns, .. }) if up => {
                self.on_silence(Duration::from_nanos(quiet_ns));
            }
            WorkerReport::SocketError { errno, text } => self.on_socket_error(errno, &text),
            WorkerReport::LinkCorrupt(why) | WorkerReport::Died(why) => self.fail(Fault::System(io::Error::other(why))),
            other => tracing::debug!("tunnel {}: {other:?}", self.id),
        }
    }

    fn on_timer(&mut self, due: Due) {
        match due {
            Due::Deadline => self.too_late(),
            Due::Attempt => self.attempt(),
            Due::Resolve => self.resolver_is_late(),
            Due::Answer => self.on_ending(controlplane::Ending::Unanswered),
            Due::Heard => self.lost("nothing comes from the server any more"),
            Due::Goodbye => self.say_goodbye_by_worker(),
            Due::SessionEnd => self.leave_because("session-timeout: the time of this tunnel is over"),
            Due::Inactive => self.look_at_activity(),
            Due::Unanswered => self.say_unanswered(),
        }
    }

    /// The server's settings are judged and the worker is told.
    fn on_established(&mut self, established: &Established) {
        let pushed = pushed::read(&self.profile, &established.pushed.options);
        for warning in &pushed.warnings {
            tracing::debug!("tunnel {}: {warning}", self.id);
        }
        if let Some(why) = pushed.refusal {
            return self.on_ending(controlplane::Ending::Incompatible(why));
        }
        let settings = pushed.settings;
        let now = clock::now().at;
        let Some(session) = &mut self.session else { return };
        session.up = Some(now);
        let setup = established_peer(&self.profile, &session.remote, session.path, &settings, established);
        let took = now.since(session.began);
        let parameters = Parameters::new(&settings, established, session.path.remote, session.local, took);
        let seconds = |n: u32| now + Duration::from_secs(u64::from(n));
        self.timers.set(Due::SessionEnd, settings.session_timeout.map(seconds));
        self.timers.set(Due::Inactive, settings.inactive.map(|inactive| seconds(inactive.seconds)));
        for timer in [Due::Answer, Due::Deadline, Due::Unanswered] {
            self.timers.stop(timer);
        }
        self.order(WorkerOrder::UpdatePeer(Box::new(setup)));
        let from = AnswersFrom { v4: settings.vpn_gateway(), v6: None };
        self.order(WorkerOrder::SetTunnel { mtu: Some(settings.tun_mtu), from });
        if let Some(sentence) = self.flapping.is_up(now) {
            tracing::warn!("tunnel {}: {sentence}", self.id);
        }
        self.settings = Some(settings);
        self.activity = self.carried();
        self.hand_over(parameters);
    }

    /// Gives the tunnel to the program, or lets it go on with the one it has.
    fn hand_over(&mut self, parameters: Parameters) {
        self.life = Life::Up;
        self.enter(Stage::Up);
        if let Some(before) = &self.parameters {
            if !before.fits(&parameters) {
                let sentence = "the server gives another address or MTU after connecting again";
                self.fail(Fault::Server(sentence.to_owned()));
            }
            return;
        }
        let Some((pipe, workers)) = self.pair.take() else { return };
        match TunQueue::from_packets(workers, self.form.offload()) {
            Ok(queue) => self.order(WorkerOrder::AttachTun(queue)),
            Err(error) => return self.fail(Fault::System(error)),
        }
        self.parameters = Some(parameters.clone());
        self.told.0.answer(Ok((pipe, parameters)));
    }

    /// `inactive n [bytes]`: fewer bytes than that within n seconds end the tunnel.
    fn look_at_activity(&mut self) {
        let Some(inactive) = self.settings.as_ref().and_then(|settings| settings.inactive) else { return };
        let total = self.carried();
        if total.saturating_sub(self.activity) <= inactive.bytes {
            return self.leave_because("inactive: too little was carried");
        }
        self.activity = total;
        self.timers.set(Due::Inactive, clock::now().at + Duration::from_secs(u64::from(inactive.seconds)));
    }

    /// Bytes inside the tunnel, both ways.
    fn carried(&self) -> u64 {
        let counted = self.worker.stats().snapshot();
        counted.inbound.inner_bytes.saturating_add(counted.outbound.inner_bytes)
    }

    /// `ping-restart`, `ping-exit`.
    fn on_silence(&mut self, quiet: Duration) {
        let exits = matches!(self.settings.as_ref().and_then(|s| s.silence), Some(Silence::Exit(_)));
        let sentence = format!("the server was silent for {} s", quiet.as_secs());
        if exits {
            return self.fail(Fault::Silent(format!("ping-exit: {sentence}")));
        }
        if let Some(Session { up: Some(since), .. }) = &self.session {
            let now = clock::now().at;
            self.flapping.lost(now, now.since(*since));
        }
        self.lost(&format!("ping-restart: {sentence}"));
    }

    /// The program is told why, at the end of this turn nothing is left.
    pub(super) fn fail(&mut self, fault: Fault) {
        match self.life {
            Life::Over | Life::Leaving => {}
            Life::Connecting => self.told.0.answer(Err(fault.into_connect_error())),
            Life::Up | Life::Reconnecting => self.told.0.end(fault.into_tunnel_error()),
        }
        self.life = Life::Over;
    }

    /// The tunnel ends for this reason after the server has been told.
    pub(super) fn end_with(&mut self, fault: Fault) {
        self.told.0.end(fault.into_tunnel_error());
        self.leave();
    }

    /// Tells the worker. One that is gone has said so in a report that is still to come.
    pub(super) fn order(&self, order: WorkerOrder) {
        if let Err(gone) = self.worker.send(order) {
            tracing::debug!("tunnel {}: {gone}", self.id);
        }
    }

    /// Tells the control plane.
    pub(super) fn say(&mut self, message: &ToControl) {
        if let Err(error) = self.end.send(message) {
            self.fail(match error {
                link::LinkError::TooLong => Fault::Incompatible(
                    "the profile's certificates or revocation list are too large (768 KiB in all)".to_owned(),
                ),
                other => Fault::System(io::Error::other(other)),
            });
        }
    }

    pub(super) fn peer(&self) -> u32 {
        PEER
    }
}

/// What a stage of the first key is to a program.
fn stage_of(stage: trace::Stage) -> Option<Stage> {
    Some(match stage {
        trace::Stage::PreStart => Stage::Wait,
        trace::Stage::Start => Stage::Auth,
        trace::Stage::SentKey | trace::Stage::GotKey => Stage::Keys,
        trace::Stage::Active => Stage::GetConfig,
        trace::Stage::GeneratedKeys => Stage::Install,
        trace::Stage::Initial | trace::Stage::Error => return None,
    })
}

/// With a connected socket of the caller's there is one remote, with the settings of the profile's first.
fn remotes(profile: &ClientProfile, socket: Option<&UdpSocket>, rng: &mut SystemRandom) -> Remotes {
    let fixed = socket.and_then(|socket| socket.peer_addr().ok()).zip(profile.remotes.first());
    match fixed {
        Some((peer, first)) => {
            let only = Remote { host: peer.ip().to_string(), port: peer.port(), ..first.clone() };
            Remotes::new(vec![only], false, rng)
        }
        None => Remotes::new(profile.remotes.clone(), profile.remote_random, rng),
    }
}

/// What runs a tunnel.
struct Parts {
    plane: ControlPlane,
    end: SupervisorEnd,
    worker: WorkerHandle,
    pair: (Pipe, OwnedFd),
}

impl Parts {
    fn make(
        id: u64,
        door: &Door,
        (options, form): (&Options, Form),
        aead: Aead,
        waiting: &Arc<AtomicUsize>,
        crew: &mut Option<Crew>,
    ) -> io::Result<Parts> {
        let pair = pipe::pair()?;
        let config = WorkerConfig {
            index: 0,
            cpu: None,
            split: None,
            tuning: form.tuning(),
            io: options.engine,
            offload: OffloadChoice { tun: form == Form::Joined, ..OffloadChoice::default() },
            config: PipelineConfig { routes: RouteTable::all_to(PEER), aead },
        };
        let (control, waiting) = (door.bell(), Arc::clone(waiting));
        let report = {
            let door = door.clone();
            move |report| {
                // Nothing else ends a tunnel whose worker has died.
                let last = matches!(report, WorkerReport::Died(_));
                if (waiting.fetch_add(1, Ordering::Relaxed) < REPORTS || last)
                    && door.say(Word::Said(id, report)).is_ok()
                {
                    return;
                }
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
        };
        let (plane, end, worker) = if options.own_worker {
            let (plane, end, link) = link::create_within(control, &EventBell::new()?)?;
            (plane, end, manager::spawn(config, link, report)?)
        } else {
            let crew = living(crew)?;
            let (plane, end, link) = link::create_within(control, crew.link_bell())?;
            (plane, end, crew.add(config, link, report)?)
        };
        Ok(Parts { plane: ControlPlane::observed(plane), end, worker, pair })
    }
}

/// The thread that the tunnels share: the one that is there, or a new one when there is none or it has ended.
fn living(crew: &mut Option<Crew>) -> io::Result<&Crew> {
    let there = match crew.take().filter(|crew| !crew.has_ended()) {
        Some(there) => there,
        None => Crew::start("minivpn-worker")?,
    };
    Ok(crew.insert(there))
}
