//! The event loop of a client: everything that can happen, and where it is dealt with. What is done about it stands in
//! `attempt.rs` (connecting), `established.rs` (the tunnel comes up), `moving.rs` (the host changed) and `leaving.rs`.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use controlplane::{Event, Instant, ResumeRecord, SystemRandom};
use dataplane::pipeline::PeerReport;
use dataplane::sys::socket::WireSocket;
use dataplane::sys::tundev::TunQueue;
use dataplane::workers::manager::{WorkerHandle, WorkerOrder, WorkerReport};
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::credentials::Wallet;
use super::endings::Failure;
use super::flapping::Flapping;
use super::losses::Losses;
use super::remotes::Remotes;
use super::tunnel::{HostSide, Tunnel};
use crate::cli::Connect;
use crate::clock;
use crate::config::agreed::{ClientProfile, Remote};
use crate::control_child::{Control, FromChild};
use crate::exit::{Exit, Fatal};
use crate::host::watch::{SuspendDetector, Watch};
use crate::messages::{FromControl, ToControl};
use crate::observe::console::{Console, State, Totals};
use crate::observe::statistics::{self, Figures, Reading};
use crate::signals::{Signal, Signals};
use crate::timers::{Timer, Timers};

/// A client has one peer on its worker.
pub(crate) const PEER: u32 = 0;
/// The live line, the clock that notices a suspend.
const TICK: Duration = Duration::from_secs(1);
/// A suspend that is shorter than this is not worth a new path.
const SUSPENDED: Duration = Duration::from_secs(2);

/// A client and all it owns.
pub(super) struct Client {
    pub(super) profile: ClientProfile,
    pub(super) options: Connect,
    pub(super) console: Console,
    pub(super) control: Control,
    pub(super) worker: WorkerHandle,
    pub(super) reports: mpsc::Receiver<WorkerReport>,
    pub(super) host: HostSide,
    pub(super) watch: Watch,
    pub(super) signals: Signals,
    pub(super) remotes: Remotes,
    pub(super) wallet: Wallet,
    pub(super) backoff: Backoff,
    pub(super) flapping: Flapping,
    pub(super) rng: SystemRandom,
    pub(super) generation: u32,
    pub(super) session: Option<Session>,
    /// Opened before privileges were dropped, not yet in use.
    pub(super) device: Option<TunQueue>,
    pub(super) tunnel: Option<Tunnel>,
    pub(super) had_success: bool,
    pub(super) tried: Vec<String>,
    /// What names resolved to last; names may not be resolvable while the tunnel is down and the default route leads into it.
    pub(super) known: HashMap<String, Vec<SocketAddr>>,
    pub(super) last_failure: Option<Failure>,
    pub(super) timers: Timers<Due>,
    pub(super) goodbyes: u32,
    pub(super) suspend: SuspendDetector,
    pub(super) losses: Losses,
    /// When the tunnel first came up.
    pub(super) began: Option<Reading>,
    /// When statistics were said last.
    pub(super) statistics: Option<Reading>,
    pub(super) buffers_said: bool,
    pub(super) ended: Option<Result<(), Fatal>>,
}

/// The session that is being made or carries traffic.
pub(super) struct Session {
    pub(super) generation: u32,
    pub(super) remote: Remote,
    pub(super) address: SocketAddr,
    pub(super) path: link::Path,
    pub(super) local: SocketAddr,
    pub(super) phase: Phase,
    pub(super) record: Option<Box<ResumeRecord>>,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Resets are being sent; nobody answered.
    Unanswered,
    /// The server answered.
    Negotiating,
    /// Traffic flows since then.
    Up(Instant),
}

/// The timers of a client, each a sentence. Of several that are due the first one here comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Due {
    /// The server must have taken our goodbye by now.
    Goodbye,
    /// The pause after a failure ends: try again.
    Attempt,
    /// A remote that has not answered by now (`connect-timeout`) is left.
    Answer,
    /// The host's network changed; it is looked at again now that it has settled.
    Settled,
    /// After a rebind, an authenticated packet must have come by now, or a new session is made.
    Heard,
    /// `session-timeout` ends the connection.
    SessionEnd,
    /// `inactive`: the totals are compared.
    Inactive,
    /// The live line is drawn and the clocks are compared.
    Tick,
}

impl Timer for Due {
    const OF_SESSION: &'static [Due] = &[Due::Answer, Due::Heard, Due::SessionEnd, Due::Inactive];
}

impl Client {
    /// Connects and carries traffic until it is told to stop or cannot go on.
    pub(super) async fn run(mut self) -> Result<(), Fatal> {
        self.timers.set(Due::Tick, clock::now().at + TICK);
        self.timers.set(Due::Attempt, clock::now().at);
        while self.ended.is_none() {
            let wait = self.timers.next().map_or(TICK, |at| at.since(clock::now().at)).min(TICK);
            tokio::select! {
                from = self.control.next() => self.on_control(from).await,
                Some(report) = self.reports.recv() => self.on_report(report).await,
                event = self.watch.next() => self.on_host_event(event),
                signal = self.signals.next() => self.on_signal(signal).await,
                () = tokio::time::sleep(wait) => {}
            }
            while let Some(due) = self.timers.take_due(clock::now().at) {
                self.on_timer(due).await;
            }
        }
        self.take_down().await;
        self.ended.take().unwrap_or(Ok(()))
    }

    async fn on_control(&mut self, from: FromChild) {
        match from {
            FromChild::Message(FromControl::Ready) => {
                tracing::debug!("the control process {} is ready", self.control.pid())
            }
            FromChild::Message(FromControl::Refused(ending)) => self.on_ending(ending),
            FromChild::Message(FromControl::Event(event)) => self.on_event(event).await,
            FromChild::Message(FromControl::Dropped(counts)) => {
                let list: Vec<String> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
                tracing::debug!("control datagrams not accepted: {}", list.join(", "));
            }
            // A gateway's, and what was taken before.
            FromChild::Message(FromControl::Reloaded(_) | FromControl::Moved { .. } | FromControl::Heartbeat) => {}
            FromChild::Died(why) => self.on_control_death(&why),
        }
    }

    /// The data plane has not noticed. Its successor goes on with the session, or a new one is made.
    fn on_control_death(&mut self, why: &str) {
        tracing::warn!("the control process died ({why}); starting it anew, data flows on");
        match self.control.restart() {
            Ok(links) => links.into_iter().for_each(|link| self.order(WorkerOrder::AttachLink(Box::new(link)))),
            Err(fatal) => return self.end(Err(fatal)),
        }
        if self.timers.is_set(Due::Goodbye) {
            return self.say_goodbye_by_worker();
        }
        let Some(session) = &mut self.session else { return };
        let record = session.record.take().filter(|record| record.resumable && matches!(session.phase, Phase::Up(_)));
        match record {
            Some(record) => {
                let resume = ToControl::Resume { record, path: session.path, credentials: self.wallet.credentials() };
                self.control.send(&resume);
            }
            None => self.start_over("the control process died in the middle of a negotiation"),
        }
    }

    async fn on_event(&mut self, event: Event) {
        let current = self.session.as_ref().map(|session| session.generation);
        match event {
            Event::AuthToken { token, username, .. } => self.wallet.take_token(token, username),
            Event::Info { text, .. } => tracing::info!("the server says: {text}"),
            Event::State { generation, state } if Some(generation) == current => self.on_state(state),
            Event::Established(established) if Some(established.generation) == current => {
                self.on_established(*established).await
            }
            Event::Record(record) if Some(record.generation) == current => {
                if let Some(session) = &mut self.session {
                    session.record = Some(record);
                }
            }
            Event::Renegotiated { name } => {
                self.timers.stop(Due::Heard);
                tracing::info!("renegotiated: key {} in use (number {})", name.key_id, name.negotiation);
            }
            Event::RenegotiationFailed { why, .. } => {
                tracing::warn!("a renegotiation failed ({why}); the old key goes on")
            }
            Event::Ended { generation, ending } if Some(generation) == current => self.on_ending(ending),
            // Of a session that was left in the meantime, or the workers' own.
            _ => {}
        }
    }

    fn on_state(&mut self, state: controlplane::State) {
        let Some(session) = &mut self.session else { return };
        let shown = match state {
            controlplane::State::Wait => State::Wait,
            controlplane::State::Auth => State::Auth,
            controlplane::State::GetConfig => State::GetConfig,
            controlplane::State::AuthPending => State::AuthPending,
        };
        if state != controlplane::State::Wait && session.phase == Phase::Unanswered {
            session.phase = Phase::Negotiating;
            self.timers.stop(Due::Answer);
        }
        let address = session.address.to_string();
        self.console.state(shown, &address);
    }

    async fn on_report(&mut self, report: WorkerReport) {
        match report {
            WorkerReport::EngineChosen(info) => tracing::info!("{info}"),
            WorkerReport::Pinned(what) => tracing::info!("{what}"),
            WorkerReport::Offloads(offloads) => tracing::info!("offloads in use: {offloads}"),
            WorkerReport::OffloadLost(name) => tracing::warn!("the kernel refuses {name}: going on without it"),
            WorkerReport::Peer(PeerReport::FirstHeard { .. }) => self.timers.stop(Due::Heard),
            // Of a session that is over, whose keys the worker still has, neither says anything new.
            WorkerReport::Peer(PeerReport::OccExit { .. } | PeerReport::Silent { .. }) if !self.is_up() => {}
            WorkerReport::Peer(PeerReport::OccExit { .. }) => self.on_ending(controlplane::Ending::PeerExited),
            WorkerReport::Peer(PeerReport::Silent { quiet_ns, .. }) => self.on_silence(Duration::from_nanos(quiet_ns)),
            WorkerReport::SocketError { errno, text } => self.on_socket_error(errno, &text),
            WorkerReport::TunError { text, .. } => tracing::warn!("the TUN device answers: {text}"),
            WorkerReport::LinkCorrupt(why) => self.control.condemn(format!("it broke the link's protocol: {why}")),
            WorkerReport::Died(why) => {
                self.end(Err(Fatal::new(Exit::Other, format!("a worker died, and keys must not outlive it: {why}"))));
            }
        }
    }

    async fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Stop if self.timers.is_set(Due::Goodbye) => self.end(Ok(())),
            Signal::Stop => self.leave(),
            Signal::Anew => self.start_over("a signal asks for it"),
            Signal::Statistics => self.log_statistics().await,
        }
    }

    async fn on_timer(&mut self, due: Due) {
        match due {
            Due::Goodbye => self.say_goodbye_by_worker(),
            Due::Attempt => self.attempt().await,
            Due::Answer => self.on_ending(controlplane::Ending::Unanswered),
            Due::Settled => self.look_at_host().await,
            Due::Heard => self.start_over("nothing comes from the server any more"),
            Due::SessionEnd => self.leave_because("session-timeout"),
            Due::Inactive => self.look_at_activity(),
            Due::Tick => self.tick().await,
        }
    }

    async fn tick(&mut self) {
        self.timers.set(Due::Tick, clock::now().at + TICK);
        let suspended = self.suspend.look();
        if suspended > SUSPENDED {
            tracing::info!("this machine was suspended for {} s", suspended.as_secs());
            self.control.wake();
            self.after_suspend();
        }
        if self.is_up() && self.console.wants_live() {
            self.look_at_tun_drops().await;
            let (totals, lost) = (self.totals(), self.losses.now());
            self.console.live(Duration::from_nanos(clock::now().at.0), totals, lost);
        }
    }

    /// Bytes inside the tunnel.
    pub(super) fn totals(&self) -> Totals {
        let snapshot = self.worker.stats().snapshot();
        Totals { received: snapshot.inbound.inner_bytes, sent: snapshot.outbound.inner_bytes }
    }

    fn is_up(&self) -> bool {
        self.session.as_ref().is_some_and(|session| matches!(session.phase, Phase::Up(_)))
    }

    /// Reads how many packets the TUN device dropped; the worker cannot see those.
    pub(super) async fn look_at_tun_drops(&mut self) {
        let Some(tunnel) = &self.tunnel else { return };
        if let Some(dropped) = self.host.host.tx_dropped(tunnel.interface()).await {
            self.losses.read_tun(tunnel.index(), dropped);
        }
    }

    /// All counters as a block of lines, with rates since the last one.
    pub(super) async fn log_statistics(&mut self) {
        self.look_at_tun_drops().await;
        let now = self.reading();
        let figures = Figures {
            worker: 0,
            others: "the server",
            engine: self.worker.engine().name,
            aead: self.worker.aead().name,
            now,
            before: self.statistics.replace(now).or(self.began),
            lost: self.losses.now(),
        };
        for line in statistics::block(&figures) {
            tracing::info!("{line}");
        }
    }

    /// The counters as they stand.
    pub(super) fn reading(&self) -> Reading {
        Reading { at: Duration::from_nanos(clock::now().at.0), counters: self.worker.stats().snapshot() }
    }

    /// What the kernel granted the socket, once.
    pub(super) fn say_buffers(&mut self, socket: &WireSocket) {
        if std::mem::replace(&mut self.buffers_said, true) {
            return;
        }
        let polled = match (self.options.data.busy_poll, socket.busy_polled()) {
            (0, _) => "",
            (_, true) => ", busy polling where the device has NAPI",
            (_, false) => ", busy polling refused",
        };
        match socket.buffers() {
            Ok(buffers) => {
                tracing::info!("socket buffers: {} to receive, {} to send{polled}", buffers.receive, buffers.send)
            }
            Err(error) => tracing::warn!("the socket does not say its buffers: {error}"),
        }
    }

    /// Tells the worker. A worker that is gone has said so in a report that is still to come.
    pub(super) fn order(&self, order: WorkerOrder) {
        if let Err(gone) = self.worker.send(order) {
            tracing::error!("{gone}");
        }
    }

    /// The run is over after this event.
    pub(super) fn end(&mut self, how: Result<(), Fatal>) {
        self.ended.get_or_insert(how);
    }
}
