//! The event loop of a gateway: everything that can happen, and where it is dealt with. What is done about it stands in
//! `admission.rs` (a login), `ending.rs` (sessions and the gateway end), `reload.rs` and `answers.rs`.

use std::rc::Rc;
use std::time::Duration;

use controlplane::{Event, Instant, ResumeRecord, Secret, SystemRandom};
use dataplane::pipeline::PeerReport;
use dataplane::workers::manager::WorkerReport;
use tokio::sync::mpsc;

use super::admission::Heard;
use super::generations::Generations;
use super::lines::{Kind, Lines};
use super::password::Passwords;
use super::pool::Pool;
use super::publication::{Publication, Turn};
use super::reload::Watched;
use super::sessions::{Sessions, Stage, Turns};
use super::socket::{Listener, Request};
use super::started::Facts;
use super::whereabouts::Noted;
use super::workers::Workers;
use crate::clock;
use crate::config::server::ServerProfile;
use crate::control_child::{Control, FromChild};
use crate::exit::{Exit, Fatal};
use crate::host::gateway_link::Raised;
use crate::host::journal::Journal;
use crate::host::{Host, Interface};
use crate::messages::{FromControl, ToControl};
use crate::observe::console::Console;
use crate::observe::notify;
use crate::observe::statistics::Reading;
use crate::signals::{Signal, Signals};

/// What else is there is dealt with before the table of routes is made anew, up to so many messages.
const BURST: usize = 512;
/// Sessions that a new control process is told of between two looks at everything else.
const RESUME_BURST: usize = 64;
/// Room in the control process's ring is looked for this often while it is wanted.
const ROOM: Duration = Duration::from_millis(2);
/// Clients' rates are of the last so long.
const PACE: Duration = Duration::from_secs(5);
/// The longest sleep: clocks are compared, the service manager's watchdog is fed.
const TICK: Duration = Duration::from_secs(1);

/// A gateway and all it owns.
pub(super) struct Gateway {
    pub(super) profile: Rc<ServerProfile>,
    pub(super) facts: Facts,
    pub(super) console: Console,
    pub(super) control: Control,
    pub(super) workers: Workers,
    pub(super) reports: mpsc::Receiver<(u16, WorkerReport)>,
    pub(super) host: Host,
    pub(super) journal: Journal,
    pub(super) interface: Interface,
    pub(super) raised: Option<Raised>,
    pub(super) signals: Signals,
    /// Held for their files.
    pub(super) socket: Option<(Listener, Noted)>,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) sessions: Sessions,
    pub(super) turns: Turns,
    pub(super) pool: Pool,
    pub(super) passwords: Rc<Passwords>,
    /// What tasks found out.
    pub(super) heard: mpsc::UnboundedReceiver<Heard>,
    pub(super) tell: mpsc::UnboundedSender<Heard>,
    pub(super) cookie_secret: Secret,
    pub(super) rng: SystemRandom,
    pub(super) generations: Generations,
    pub(super) lines: Lines,
    /// Admissions that wait until every worker routes to their clients.
    pub(super) held: Vec<ToControl>,
    pub(super) publication: Publication,
    /// Sessions that the new control process is still to be told of.
    pub(super) resuming: Vec<u32>,
    pub(super) restarts: u32,
    /// Since when no control process is ready.
    pub(super) headless: Option<Instant>,
    pub(super) timers: Timers,
    pub(super) watched: Watched,
    /// A configuration that the control process is judging, and who asked.
    pub(super) reloading: Option<super::reload::Reloading>,
    /// Scripts of sessions that are over.
    pub(super) farewells: tokio::task::JoinSet<()>,
    pub(super) statistics: Vec<Reading>,
    pub(super) stopping: bool,
    pub(super) ended: Option<Result<(), Fatal>>,
}

/// Every timer of the gateway, each a sentence. An empty one is off.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Clients have had their time to be told that the gateway stops.
    pub(super) goodbye: Option<Instant>,
    /// The status file is written.
    pub(super) status: Option<Instant>,
    /// Leases are written, when owners changed.
    pub(super) leases: Option<Instant>,
    /// Files that change by themselves (the CRL) are looked at.
    pub(super) files: Option<Instant>,
    /// The service manager is told that we live.
    pub(super) watchdog: Option<Instant>,
    /// The control process may have room for more sessions.
    pub(super) resume: Option<Instant>,
    /// The table of routes may be made anew.
    pub(super) routes: Option<Instant>,
    /// Clients' counters are read, for their rates.
    pub(super) pace: Option<Instant>,
}

/// A timer that went off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    Goodbye,
    Status,
    Leases,
    Files,
    Watchdog,
    Resume,
    Routes,
    Pace,
}

impl Timers {
    fn all(&mut self) -> [(&mut Option<Instant>, Due); 8] {
        [
            (&mut self.goodbye, Due::Goodbye),
            (&mut self.status, Due::Status),
            (&mut self.leases, Due::Leases),
            (&mut self.files, Due::Files),
            (&mut self.watchdog, Due::Watchdog),
            (&mut self.resume, Due::Resume),
            (&mut self.routes, Due::Routes),
            (&mut self.pace, Due::Pace),
        ]
    }

    fn next(&mut self) -> Option<Instant> {
        self.all().into_iter().filter_map(|(at, _)| *at).min()
    }

    fn take_due(&mut self, now: Instant) -> Option<Due> {
        let (at, due) = self.all().into_iter().find(|(at, _)| at.is_some_and(|at| at <= now))?;
        *at = None;
        Some(due)
    }
}

impl Gateway {
    /// Serves until it is told to stop or cannot go on.
    pub(super) async fn run(mut self) -> Result<(), Fatal> {
        self.begin();
        while self.ended.is_none() {
            let wait = self.timers.next().map_or(TICK, |at| at.since(clock::now().at)).min(TICK);
            tokio::select! {
                from = self.control.next() => self.on_control(from),
                Some((worker, report)) = self.reports.recv() => self.on_report(worker, report),
                Some(heard) = self.heard.recv() => self.on_heard(heard),
                signal = self.signals.next() => self.on_signal(signal).await,
                Some(request) = self.requests.recv() => self.on_request(request),
                () = tokio::time::sleep(wait) => {}
            }
            self.take_what_is_there();
            while let Some(due) = self.timers.take_due(clock::now().at) {
                self.on_timer(due);
            }
            self.publish();
            for summary in self.lines.summaries(clock::now().at) {
                tracing::info!("{summary}");
            }
        }
        self.take_down().await;
        self.ended.take().unwrap_or(Ok(()))
    }

    fn begin(&mut self) {
        let now = clock::now().at;
        self.statistics = self.readings();
        self.timers.status = self.profile.status.as_ref().map(|_| now);
        self.timers.leases = self.lease_pause().map(|pause| now + pause);
        self.timers.files = Some(now + super::reload::LOOK);
        self.timers.watchdog = notify::watchdog_pause().map(|_| now);
        self.timers.pace = Some(now);
        self.console.completed();
        notify::ready(&self.line());
    }

    /// For the service manager and people.
    pub(super) fn line(&self) -> String {
        let here = self.here();
        format!("serving {here} {} on {}", if here == 1 { "client" } else { "clients" }, self.facts.listen)
    }

    /// How many clients' traffic flows.
    pub(super) fn here(&self) -> usize {
        self.sessions.iter().filter(|session| session.stage == Stage::Up).count()
    }

    /// One table of routes then serves many logins.
    fn take_what_is_there(&mut self) {
        for _ in 0..BURST {
            if self.ended.is_some() {
                return;
            }
            if let Some(from) = self.control.heard() {
                self.on_control(from);
            } else if let Ok(heard) = self.heard.try_recv() {
                self.on_heard(heard);
            } else if let Ok((worker, report)) = self.reports.try_recv() {
                self.on_report(worker, report);
            } else {
                return;
            }
        }
    }

    /// Workers learn the routes before a client learns that it is admitted: its first packet finds its way.
    fn publish(&mut self) {
        let begun = clock::now().at;
        match self.publication.turn(begun) {
            Turn::Fresh => {}
            Turn::Wait(at) => return self.timers.routes = Some(at),
            Turn::Make => {
                self.workers.publish(&self.sessions.routes());
                self.publication.made(begun, clock::now().at);
            }
        }
        for admission in std::mem::take(&mut self.held) {
            self.control.send(&admission);
        }
    }

    fn on_control(&mut self, from: FromChild) {
        match from {
            FromChild::Message(FromControl::Ready) => {
                tracing::debug!("the control process {} is ready", self.control.pid());
                self.headless = None;
            }
            // Taken before.
            FromChild::Message(FromControl::Heartbeat) => {}
            FromChild::Message(FromControl::Refused(ending)) => self.end(Err(super::parts::refused(&ending))),
            FromChild::Message(FromControl::Event(event)) => self.on_event(event),
            FromChild::Message(FromControl::Moved { peer, path }) => self.on_moved(peer, path),
            FromChild::Message(FromControl::Reloaded(outcome)) => self.on_reloaded(outcome),
            FromChild::Message(FromControl::Dropped(counts)) => {
                let list: Vec<String> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
                tracing::debug!("control datagrams not accepted: {}", list.join(", "));
            }
            FromChild::Died(why) => self.on_control_death(&why),
        }
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Login(login) => self.on_login(*login),
            Event::Established(established) => self.on_established(&established),
            Event::Record(record) => self.on_record(record),
            Event::Renegotiated { name } => {
                if let Some(session) = self.sessions.get_mut(name.generation) {
                    session.keyed = clock::now().at;
                    if self.lines.permit(Kind::Renegotiated, session.keyed) {
                        let who = session.who();
                        tracing::info!("{who} renegotiated: key {} in use (number {})", name.key_id, name.negotiation);
                    }
                }
            }
            Event::RenegotiationFailed { generation, why } => {
                if let Some(session) = self.sessions.get(generation)
                    && self.lines.permit(Kind::Failed, clock::now().at)
                {
                    tracing::warn!("{}: a renegotiation failed ({why}); the old key goes on", session.who());
                }
            }
            Event::Ended { generation, ending } => self.on_ended(generation, ending),
            // Of a client, or the workers' own.
            _ => {}
        }
    }

    fn on_record(&mut self, record: Box<ResumeRecord>) {
        if !self.sessions.keep_record(record) {
            self.control.condemn("its record of a session names the peer of another".to_owned());
        }
    }

    fn on_moved(&mut self, peer: u32, path: link::Path) {
        let Some(session) = self.sessions.of_peer(peer).and_then(|generation| self.sessions.get_mut(generation)) else {
            return;
        };
        if session.path.remote != path.remote && self.lines.permit(Kind::Moved, clock::now().at) {
            tracing::info!("{} is at {} now", session.who(), path.remote);
        }
        session.path = path;
    }

    /// The data plane has not noticed. The successor goes on with every session that can be resumed; the others end.
    fn on_control_death(&mut self, why: &str) {
        tracing::warn!("the control process died ({why}); starting it anew, data flows on");
        self.restarts = self.restarts.saturating_add(1);
        // One that dies before it was ready does not begin it anew.
        self.headless.get_or_insert(clock::now().at);
        self.generations.succeed();
        let configuration = self.configuration();
        self.control.set_configuration(configuration);
        match self.control.restart() {
            Ok(links) => self.workers.relink(links),
            Err(fatal) => return self.end(Err(fatal)),
        }
        self.held.clear();
        self.forget_reload("the control process died meanwhile; try again");
        if self.stopping {
            return;
        }
        for generation in self.sessions.generations() {
            let resumable = self.sessions.get(generation).is_some_and(|session| {
                session.stage == Stage::Up && session.record.as_ref().is_some_and(|record| record.resumable)
            });
            if !resumable {
                self.drop_session(generation, "the control process died in the middle of its negotiation");
            }
        }
        self.resuming = self.sessions.generations();
        self.resume_some();
    }

    /// As many as its ring has room for; the rest follows.
    fn resume_some(&mut self) {
        for _ in 0..RESUME_BURST {
            if self.resuming.is_empty() || !self.control.has_room() {
                break;
            }
            let Some(session) = self.resuming.pop().and_then(|generation| self.sessions.get(generation)) else {
                continue;
            };
            if let Some(record) = &session.record {
                self.control.send(&ToControl::ResumeClient { record: record.clone(), path: session.path });
            }
        }
        self.timers.resume = (!self.resuming.is_empty()).then(|| clock::now().at + ROOM);
    }

    fn on_report(&mut self, worker: u16, report: WorkerReport) {
        match report {
            WorkerReport::EngineChosen(info) => tracing::info!("worker {worker}: {info}"),
            WorkerReport::Pinned(what) => tracing::info!("{what}"),
            WorkerReport::Offloads(offloads) => tracing::info!("worker {worker}: offloads in use: {offloads}"),
            WorkerReport::OffloadLost(name) => {
                tracing::warn!("worker {worker}: the kernel refuses {name}: going on without it");
            }
            WorkerReport::Peer(PeerReport::OccExit { peer }) => self.on_peer_gone(peer, "it said that it leaves"),
            WorkerReport::Peer(PeerReport::Silent { peer, quiet_ns }) => {
                let quiet = Duration::from_nanos(quiet_ns).as_secs();
                self.on_peer_gone(peer, &format!("ping-restart: it was silent for {quiet} s"));
            }
            WorkerReport::Peer(PeerReport::FirstHeard { .. }) => {}
            // What ICMP said of one client's port is no trouble of the socket's.
            WorkerReport::SocketError { errno: libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH, text } => {
                tracing::debug!("worker {worker}: the socket answers: {text}");
            }
            WorkerReport::SocketError { text, .. } => tracing::warn!("worker {worker}: the socket answers: {text}"),
            WorkerReport::TunError { text, .. } => tracing::warn!("worker {worker}: the TUN device answers: {text}"),
            WorkerReport::LinkCorrupt(why) => self.control.condemn(format!("it broke the link's protocol: {why}")),
            WorkerReport::Died(why) => {
                let sentence = format!("a worker died, and keys must not outlive it: {why}");
                self.end(Err(Fatal::new(Exit::Other, sentence)));
            }
        }
    }

    async fn on_signal(&mut self, signal: Signal) {
        match signal {
            Signal::Stop if self.stopping => self.end(Ok(())),
            Signal::Stop => self.leave(),
            Signal::Anew => self.reload(None),
            Signal::Statistics => self.log_statistics().await,
        }
    }

    fn on_timer(&mut self, due: Due) {
        let now = clock::now().at;
        match due {
            Due::Goodbye => self.end(Ok(())),
            Due::Status => self.write_status(),
            Due::Leases => {
                self.store_leases();
                self.timers.leases = self.lease_pause().map(|pause| now + pause);
            }
            Due::Files => {
                self.look_at_files();
                self.timers.files = Some(now + super::reload::LOOK);
            }
            Due::Watchdog => {
                notify::watchdog();
                self.timers.watchdog = notify::watchdog_pause().map(|pause| now + pause);
            }
            Due::Resume => self.resume_some(),
            // Published at the end of each turn.
            Due::Routes => {}
            Due::Pace => {
                self.sessions.read_pace(now);
                self.timers.pace = Some(now + PACE);
            }
        }
    }

    /// What a control process is told first.
    pub(super) fn configuration(&self) -> ToControl {
        let (workers, first) = (self.workers.count(), self.generations.first());
        let setup = super::parts::server_setup(&self.profile, &self.cookie_secret, workers, first);
        ToControl::ConfigureGateway(Box::new(setup))
    }

    /// The run is over after this event.
    pub(super) fn end(&mut self, how: Result<(), Fatal>) {
        self.ended.get_or_insert(how);
    }
}
