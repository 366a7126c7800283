//! One thread of a worker: one engine, one loop. Mostly it is the whole worker; with the directions split, one such thread opens
//! and does everything that is no packet, and one seals ([`halves`](crate::workers::halves)).
//! A turn takes in what completed, runs the pipeline over it, and sends what came of it; it never waits to fill a batch, and it
//! sleeps only when a turn found nothing to do.
//!
//! A turn, in order:
//! 1. trains from the socket → pipeline → one write per frame to the TUN
//! 2. frames from the TUN → pipeline → one send for all of them
//! 3. what other workers handed over, the same ways
//! 4. orders, when their bell rang
//! 5. commands and datagrams of the control process
//! 6. what is due by the clock
//!
//! With busy polling, a turn that found nothing is followed by more of them for a while before the worker sleeps.
//!
//! A full ring, a full socket and a full TUN drop and count: nothing here waits for anybody.

use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, TryRecvError};

use link::message::{Datagram, MAX_DATAGRAM, Path, WorkerCommand, WorkerEvent};
use link::{LinkError, WorkerEnd};

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::WireBatch;
use crate::pipeline::{BatchFull, PeerReport, PeerSetup, Pipeline, Up};
use crate::sys::bell::Bell;
use crate::sys::socket::WireSocket;
use crate::sys::syscall::SyscallEngine;
use crate::sys::{self, Awaits, Engine, EngineInfo, Observer, Step, Trouble, clock};
use crate::tun::coalesce::{TunBatch, TunOffload};
use crate::tun::ip;
use crate::workers::gathering::Gathering;
use crate::workers::halves::{OpeningThread, Role, Said, SealingThread, Task};
use crate::workers::handover::{Incoming, Mates, Taken, What};
use crate::workers::manager::{OffloadChoice, Report, WorkerConfig, WorkerOrder, WorkerReport};
use crate::workers::stats::{OffloadsInUse, WorkerStats};

/// A batch of wire packets is sent once it holds so many bytes: about what one UDP_SEGMENT call carries.
const FLUSH_BYTES: usize = 60_000;
/// A batch takes one more super-packet, sealed, when it is just below that.
const WIRE_BYTES: usize = FLUSH_BYTES + 3 * 65_536;
/// UDP_MAX_SEGMENTS of linux/udp.h before Linux 6.9; more gains nothing.
const MAX_SEGMENTS: usize = 64;
/// Commands, and datagrams, of the control process in one turn.
const LINK_BUDGET: usize = 64;

/// Things that other workers handed over, in one turn.
const MATES_BUDGET: usize = 256;

/// So many times that budget is granted to a link that is being replaced: more than its rings hold.
const LAST_WORDS: usize = 64;

const NS_PER_US: u64 = 1_000;

/// A worker, on its own thread.
pub(crate) struct Worker {
    engine: Box<dyn Engine>,
    pipeline: Pipeline,
    wire: WireBatch,
    tun: TunBatch,
    incoming: Incoming,
    up: Upward,
    notes: Notes,
    role: Role,
    inbox: Receiver<Task>,
    bell: Bell,
    offload: OffloadChoice,
    /// A link that replaces the present one at the end of the turn.
    next_link: Option<Box<WorkerEnd>>,
    stopping: bool,
    /// How long a turn may find nothing before the worker sleeps.
    busy_poll_ns: u64,
    /// When a turn found something, at last.
    busy_ns: u64,
    /// Whether to let datagrams gather before the next look.
    gathering: Gathering,
    /// The socket refuses datagrams above the path MTU instead of fragmenting them.
    forbids_fragments: bool,
    now_ns: u64,
    next_tick_ns: u64,
}

/// Where a thread sits: what it does, and how the others reach it and it reaches them.
pub(crate) struct Seat {
    pub(crate) role: Role,
    /// To the control process; a thread that seals has none.
    pub(crate) link: Option<WorkerEnd>,
    /// To the thread that opens, for one that seals.
    pub(crate) back: Option<OpeningThread>,
    pub(crate) inbox: Receiver<Task>,
    /// Rings when something is in the inbox, or was said by the other thread.
    pub(crate) bell: Bell,
    pub(crate) stats: Arc<WorkerStats>,
    /// The socket's error that was said last, of both threads; see [`Notes`].
    pub(crate) socket_error: Arc<AtomicI32>,
    pub(crate) report: Rc<Report>,
    /// What goes to the other workers, and what comes from them.
    pub(crate) mates: Mates,
    pub(crate) incoming: Incoming,
}

/// What a turn came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    Busy,
    Idle,
    Stop,
}

impl Worker {
    /// Sets up the engine; to be called on the worker's thread.
    pub(crate) fn new(config: &WorkerConfig, seat: Seat) -> io::Result<Self> {
        let mut engine = sys::engine(config.io, seat.bell.try_clone()?)?;
        if let Some(link) = &seat.link {
            engine.watch_link(Some(Bell::same_as(link.bell_fd())?))?;
        }
        Ok(Self::with(engine, config, seat))
    }

    /// One of several workers of a thread, which takes turns and never sleeps by itself. The bell of its link wakes the thread.
    pub(crate) fn one_of_crew(config: &WorkerConfig, seat: Seat) -> io::Result<Self> {
        let engine = SyscallEngine::sleepless(seat.bell.try_clone()?, "one thread has several workers".into());
        Ok(Self::with(Box::new(engine), config, seat))
    }

    fn with(mut engine: Box<dyn Engine>, config: &WorkerConfig, seat: Seat) -> Self {
        let Seat { role, link, back, inbox, bell, stats, socket_error, report, mates, incoming } = seat;
        engine.listen_to(!matches!(role, Role::Seals), !matches!(role, Role::Opens(_)));
        engine.set_gso(config.offload.udp_gso);
        engine.set_zero_copy(config.offload.zero_copy);
        let mut pipeline = Pipeline::new(Arc::clone(&stats), config.config.clone());
        pipeline.set_mates(mates);
        Self {
            engine,
            pipeline,
            incoming,
            wire: WireBatch::new(WIRE_BYTES, MAX_SEGMENTS, config.offload.udp_gso),
            tun: TunBatch::new(TunOffload::default()),
            up: Upward {
                link,
                back,
                failed: None,
                moved: Vec::new(),
                proven: false,
                stats: Arc::clone(&stats),
                report: Rc::clone(&report),
            },
            notes: Notes::new(stats, report, socket_error, !matches!(role, Role::Seals)),
            role,
            inbox,
            bell,
            offload: config.offload,
            next_link: None,
            stopping: false,
            busy_poll_ns: u64::from(config.tuning.busy_poll_us) * NS_PER_US,
            busy_ns: 0,
            gathering: Gathering::new(config.tuning.gather_us),
            forbids_fragments: false,
            now_ns: clock::boottime_ns(),
            next_tick_ns: 0,
        }
    }

    pub(crate) fn engine_info(&self) -> &EngineInfo {
        self.engine.info()
    }

    /// The loop. Returns when it was told to stop, or its handle is gone.
    pub(crate) fn run(&mut self) {
        loop {
            self.now_ns = clock::boottime_ns();
            match self.turn() {
                Turn::Busy => self.busy_ns = self.now_ns,
                Turn::Idle if self.now_ns - self.busy_ns.min(self.now_ns) < self.busy_poll_ns => std::hint::spin_loop(),
                Turn::Idle => match self.gathering.pause(self.now_ns) {
                    Some(pause) => std::thread::sleep(pause),
                    None => self.sleep(),
                },
                Turn::Stop => return,
            }
        }
    }

    /// One turn, for a thread that has several workers.
    pub(crate) fn take_turn(&mut self) -> Turn {
        self.now_ns = clock::boottime_ns();
        self.turn()
    }

    /// What another turn waits for, besides orders and the link.
    pub(crate) fn awaits(&self) -> Awaits<'_> {
        self.engine.awaits()
    }

    /// When another turn is due by the clock.
    pub(crate) fn due_ns(&self) -> u64 {
        self.next_tick_ns
    }

    /// Announces that the thread will sleep and looks once more. False: another turn is due. Orders ring a bell that stays rung.
    pub(crate) fn prepare_sleep(&mut self) -> bool {
        !self.bell.is_rung() && self.up.link.as_mut().is_none_or(WorkerEnd::prepare_sleep)
    }

    /// The thread does not sleep any more.
    pub(crate) fn awake(&self) {
        if let Some(link) = &self.up.link {
            link.awake();
        }
    }

    fn turn(&mut self) -> Turn {
        // ICMP may have come with nothing to send behind it.
        if std::mem::take(&mut self.notes.path_mtu) {
            self.fit_path_mtu();
            if let Role::Opens(seal) = &mut self.role {
                seal.hand(Task::FitPathMtu);
            }
        }
        let mut busy = !matches!(self.role, Role::Seals) && self.inbound();
        self.tell_sealing();
        busy |= !matches!(self.role, Role::Opens(_)) && self.outbound();
        busy |= self.take_over();
        let mut ordered = self.heed_orders();
        if ordered && matches!(self.role, Role::Seals) {
            // The bell rang, perhaps because of what the other thread heard.
            self.pipeline.touch_all();
        }
        let commanded = self.serve_link();
        if !self.is_installing()
            && let Some(link) = self.next_link.take()
        {
            self.attach_link(link);
            ordered = true;
        }
        if self.stopping {
            return Turn::Stop;
        }
        if commanded || ordered || self.now_ns >= self.next_tick_ns || self.pipeline.wants_tick() {
            self.tick();
        }
        self.flush_wire();
        let left = self.pipeline.part();
        if busy || commanded || ordered || left { Turn::Busy } else { Turn::Idle }
    }

    fn inbound(&mut self) -> bool {
        let (pipeline, tun, up, now) = (&mut self.pipeline, &mut self.tun, &mut self.up, self.now_ns);
        let trains = self.engine.receive(&mut self.notes, &mut |train| {
            pipeline.inbound(now, train, tun, up);
            if tun.wants_flush() || pipeline.wants_relay() { Step::Stop } else { Step::More }
        });
        if trains == 0 {
            return false;
        }
        self.gathering.came(trains);
        self.notes.heard();
        self.flush_tun();
        true
    }

    /// Writes what arrived to the TUN, and sends what turned round.
    fn flush_tun(&mut self) {
        if !self.tun.is_empty() {
            self.engine.write_tun(&mut self.notes, &mut self.tun);
            if let Some(udp) = self.notes.tun_offload_lost.take() {
                self.lose_tun_offload(udp);
            }
        }
        if self.pipeline.has_relayed() {
            self.relay();
        }
    }

    /// Seals what peers sent to peers.
    fn relay(&mut self) {
        let mut number = 0;
        while let Some(relayed) = self.pipeline.relay(self.now_ns, number, &mut self.wire) {
            match relayed {
                Ok(()) => number += 1,
                Err(BatchFull) if !self.wire.is_empty() => self.flush_wire(),
                Err(BatchFull) => {
                    self.up.stats.drop_many(DropReason::TooLarge, 1);
                    number += 1;
                }
            }
            if self.wire.bytes().len() >= FLUSH_BYTES {
                self.flush_wire();
            }
        }
        self.flush_wire();
        if self.pipeline.too_big().noticed() {
            self.answer_too_big();
        }
    }

    /// What other workers handed over. True when there was something.
    fn take_over(&mut self) -> bool {
        let mut any = false;
        for _ in 0..MATES_BUDGET {
            let (pipeline, wire, tun, up, now) =
                (&mut self.pipeline, &mut self.wire, &mut self.tun, &mut self.up, self.now_ns);
            let taken = self.incoming.take(|what, bytes| match what {
                What::Datagram { .. } if tun.wants_flush() || pipeline.wants_relay() => Taken::Again,
                What::Datagram { path } => {
                    let segment = bytes.len();
                    pipeline.take_datagram(now, Train { bytes, segment, path }, tun, up);
                    Taken::Done
                }
                What::Frame { peer } => match pipeline.take_frame(now, peer, bytes, wire) {
                    Ok(()) => Taken::Done,
                    Err(BatchFull) if !wire.is_empty() => Taken::Again,
                    Err(BatchFull) => {
                        up.stats.drop_many(DropReason::TooLarge, 1);
                        Taken::Done
                    }
                },
                What::Address { remote, peer, claim } => {
                    pipeline.peers.note_address(remote, peer, claim);
                    Taken::Done
                }
            });
            match taken {
                None => break,
                Some(taken) => {
                    any = true;
                    if taken == Taken::Again || self.wire.bytes().len() >= FLUSH_BYTES {
                        self.flush_wire();
                        self.flush_tun();
                    }
                }
            }
        }
        if any {
            self.flush_tun();
            self.flush_wire();
            if self.pipeline.too_big().noticed() {
                self.answer_too_big();
            }
        }
        any
    }

    /// The TUN refuses super-packets of TCP, or of UDP: none are made from now on.
    #[cold]
    fn lose_tun_offload(&mut self, udp: bool) {
        let tun = &mut self.notes.offloads.tun;
        if udp {
            (tun.uso4, tun.uso6) = (false, false);
        } else {
            (tun.tso4, tun.tso6) = (false, false);
        }
        self.tun.set_offload(*tun);
        self.notes.lost(if udp { "USO of the TUN" } else { "TSO of the TUN" });
    }

    fn outbound(&mut self) -> bool {
        let (pipeline, wire, up, now) = (&mut self.pipeline, &mut self.wire, &self.up, self.now_ns);
        let frames = self.engine.read_tun(&mut self.notes, &mut |frame| match pipeline.outbound(now, frame, wire) {
            Ok(()) if wire.bytes().len() < FLUSH_BYTES => Step::More,
            Ok(()) => Step::Stop,
            Err(BatchFull) if !wire.is_empty() => Step::Again,
            Err(BatchFull) => {
                // It would not fit next time either.
                up.stats.drop_many(DropReason::TooLarge, 1);
                Step::More
            }
        });
        let sent = !self.wire.is_empty();
        self.flush_wire();
        if self.pipeline.too_big().noticed() {
            self.answer_too_big();
        }
        frames > 0 || sent
    }

    /// A packet was refused for its length: its sender is told, unless the path carries more by now than we knew.
    #[cold]
    fn answer_too_big(&mut self) {
        let before = self.pipeline.too_big().max_payload;
        self.fit_path_mtu();
        let too_big = self.pipeline.too_big();
        let grown = too_big.max_payload > before;
        let Some(answer) = too_big.take().filter(|_| !grown) else { return };
        // The batch is empty: what arrived was written in the same turn.
        let Some(landed) = self.tun.land(answer.len()) else { return };
        landed.copy_from_slice(answer);
        match ip::parse(self.tun.landed()) {
            Some(info) => _ = self.tun.accept(&info),
            None => self.tun.discard(),
        }
        self.up.stats.too_big_answers.add(1);
        self.engine.write_tun(&mut self.notes, &mut self.tun);
    }

    fn flush_wire(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        self.engine.send(&mut self.notes, &mut self.wire);
        if std::mem::take(&mut self.notes.path_mtu) {
            self.fit_path_mtu();
        }
    }

    /// Packets above the path MTU travel without UDP_SEGMENT, which refuses them, or not at all, where fragments are forbidden.
    fn fit_path_mtu(&mut self) {
        let known = self.engine.max_payload();
        if let Some(bytes) = known {
            self.wire.set_max_segment(bytes);
        }
        self.pipeline.set_max_payload(known.filter(|_| self.forbids_fragments));
    }

    /// Tells the thread that seals, if there is one, what the packets that came mean to it.
    fn tell_sealing(&mut self) {
        let Role::Opens(seal) = &mut self.role else { return };
        if std::mem::take(&mut self.up.proven) {
            seal.ring();
        }
        for (peer, path) in self.up.moved.drain(..) {
            seal.hand(Task::Order(WorkerOrder::SetPath { peer, path }));
        }
    }

    /// Takes in what the thread that seals says.
    fn hear_sealing(&mut self) {
        let Role::Opens(seal) = &mut self.role else { return };
        while let Some(said) = seal.hear() {
            match said {
                Said::Installed(name, installed) => self.pipeline.installed(name, installed, &mut self.up),
                Said::Event(event) => self.pipeline.sealing_says(event, &mut self.up),
            }
        }
    }

    /// A key is on its way to the thread that seals.
    fn is_installing(&self) -> bool {
        matches!(&self.role, Role::Opens(seal) if seal.is_installing())
    }

    /// What the control process wants. True when there was something.
    fn serve_link(&mut self) -> bool {
        match self.serve() {
            Ok(any) => any,
            Err(error) => {
                self.drop_link(error);
                true
            }
        }
    }

    fn serve(&mut self) -> Result<bool, LinkError> {
        let mut any = false;
        for _ in 0..LINK_BUDGET {
            let Some(command) = self.next_command()? else {
                break;
            };
            any = true;
            // An order given before the command was sent is carried out before it: a peer is there before its key.
            self.heed_orders();
            self.obey(command);
        }
        let Some(link) = self.up.link.as_mut() else {
            return Ok(any);
        };
        for _ in 0..LINK_BUDGET {
            let Some(datagram) = link.recv_datagram()? else {
                break;
            };
            any = true;
            self.engine.send_datagram(&mut self.notes, &datagram.path, datagram.bytes);
            // Control packets keep the peer's timer as quiet as data does.
            if let Some(peer) = self.pipeline.peers.by_address(&datagram.path.remote) {
                self.pipeline.note_sent(self.now_ns, peer);
            }
        }
        link.flush()?;
        self.up.failed.take().map_or(Ok(any), Err)
    }

    fn next_command(&mut self) -> Result<Option<WorkerCommand>, LinkError> {
        // Commands are answered in their order, so none is taken before the last one is.
        if self.is_installing() {
            return Ok(None);
        }
        self.up.link.as_mut().map_or(Ok(None), WorkerEnd::recv_command)
    }

    fn obey(&mut self, command: WorkerCommand) {
        let Some(command) = self.share_command(command) else { return };
        match command {
            WorkerCommand::InstallKey(key) => self.pipeline.install_key(self.now_ns, key, &mut self.up),
            WorkerCommand::SendWith(name) => self.pipeline.send_with(name, &mut self.up),
            WorkerCommand::DropKeys { peer, generation } => self.pipeline.drop_keys(peer, generation, &mut self.up),
            WorkerCommand::PeerAlive { peer } => self.pipeline.peer_alive(self.now_ns, peer, &mut self.up),
            WorkerCommand::SetPath { peer, path } => _ = self.pipeline.move_back(self.now_ns, peer, path),
        }
    }

    /// Hands the thread that seals, if there is one, its part of a command; what is left for this thread.
    fn share_command(&mut self, command: WorkerCommand) -> Option<WorkerCommand> {
        let Role::Opens(seal) = &mut self.role else { return Some(command) };
        match command {
            // It opens here before it seals there, and is said to be installed when both have it.
            WorkerCommand::InstallKey(key) => match self.pipeline.install_opening(self.now_ns, &key) {
                Ok(sealing) => seal.hand(Task::Install(sealing)),
                Err(refusal) => self.pipeline.installed(key.name, Err(refusal), &mut self.up),
            },
            WorkerCommand::SendWith(name) => seal.hand(Task::SendWith(name)),
            WorkerCommand::DropKeys { peer, generation } => {
                seal.hand(Task::DropKeys { peer, generation });
                return Some(command);
            }
            WorkerCommand::SetPath { peer, path } => {
                seal.hand(Task::Order(WorkerOrder::SetPath { peer, path }));
                return Some(command);
            }
            WorkerCommand::PeerAlive { .. } => return Some(command),
        }
        None
    }

    fn drop_link(&mut self, error: LinkError) {
        self.up.link = None;
        // Without a link there is nothing to be woken for; an engine that cannot forget a bell only wakes too often.
        let _ = self.engine.watch_link(None);
        (self.up.report)(WorkerReport::LinkCorrupt(error.to_string()));
    }

    /// Carries out what was ordered; true when there was something.
    fn heed_orders(&mut self) -> bool {
        if !self.bell.rang() {
            return false;
        }
        self.hear_sealing();
        loop {
            match self.inbox.try_recv() {
                Ok(Task::Order(WorkerOrder::Stop)) | Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return true;
                }
                Ok(Task::Order(order)) => {
                    if let Some(order) = self.share_order(order) {
                        self.carry_out(order);
                    }
                }
                Ok(task) => self.seal_task(task),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// What the thread that opens has this one do.
    fn seal_task(&mut self, task: Task) {
        let now = self.now_ns;
        match task {
            Task::Order(order) => self.carry_out(order),
            Task::AddPeer(setup, crossing) => self.pipeline.add_sealing_peer(now, *setup, crossing),
            Task::Install(key) => {
                let name = key.name();
                let installed = self.pipeline.install_sealing(now, key);
                self.up.say(Said::Installed(name, installed));
            }
            Task::SendWith(name) => self.pipeline.send_with(name, &mut self.up),
            Task::DropKeys { peer, generation } => self.pipeline.drop_keys(peer, generation, &mut self.up),
            Task::FitPathMtu => self.fit_path_mtu(),
        }
    }

    /// Hands the thread that seals, if there is one, its part of an order; what is left for this thread.
    fn share_order(&mut self, order: WorkerOrder) -> Option<WorkerOrder> {
        let Role::Opens(seal) = &mut self.role else { return Some(order) };
        let part = match &order {
            WorkerOrder::AttachLink(_) | WorkerOrder::ReportWhenHeard { .. } | WorkerOrder::Stop => return Some(order),
            WorkerOrder::OccExit { .. } | WorkerOrder::PingNow { .. } | WorkerOrder::SetTunnel { .. } => {
                seal.hand(Task::Order(order));
                return None;
            }
            WorkerOrder::AddPeer(setup) => {
                add_peer(self.now_ns, setup, &mut self.pipeline, seal);
                return None;
            }
            WorkerOrder::AttachSocket { socket, path } => match socket.try_clone() {
                Ok(socket) => WorkerOrder::AttachSocket { socket, path: *path },
                Err(error) => {
                    self.notes.trouble(Trouble::Socket(error.raw_os_error().unwrap_or(0)));
                    WorkerOrder::DetachSocket
                }
            },
            WorkerOrder::AttachTun(tun) => match tun.try_clone() {
                Ok(tun) => WorkerOrder::AttachTun(tun),
                Err(error) => {
                    self.notes.trouble(Trouble::Tun(error.raw_os_error().unwrap_or(0)));
                    WorkerOrder::DetachTun
                }
            },
            WorkerOrder::DetachSocket => WorkerOrder::DetachSocket,
            WorkerOrder::DetachTun => WorkerOrder::DetachTun,
            WorkerOrder::UpdatePeer(setup) => {
                let (opens, seals) = halves(setup);
                seal.hand(Task::Order(WorkerOrder::UpdatePeer(Box::new(seals))));
                return Some(WorkerOrder::UpdatePeer(Box::new(opens)));
            }
            WorkerOrder::SetRoutes(routes) => WorkerOrder::SetRoutes(Arc::clone(routes)),
            // What this thread opened it cannot seal.
            WorkerOrder::SetRelay(_) => return None,
            WorkerOrder::SetPath { peer, path } => WorkerOrder::SetPath { peer: *peer, path: *path },
            WorkerOrder::RemovePeer { peer } => WorkerOrder::RemovePeer { peer: *peer },
        };
        seal.hand(Task::Order(part));
        Some(order)
    }

    fn carry_out(&mut self, order: WorkerOrder) {
        let now = self.now_ns;
        match order {
            // Between two commands of the old link is no place to leave it.
            WorkerOrder::AttachLink(link) => self.next_link = Some(link),
            WorkerOrder::AttachSocket { socket, path } => self.attach_socket(socket, path),
            WorkerOrder::DetachSocket => {
                self.engine.detach_socket();
                self.notes.has_socket = false;
            }
            WorkerOrder::AttachTun(tun) => self.attach_tun(tun),
            WorkerOrder::DetachTun => {
                self.engine.detach_tun();
                self.notes.has_tun = false;
            }
            WorkerOrder::SetTunnel { mtu, from } => self.pipeline.set_tunnel(mtu, from),
            WorkerOrder::AddPeer(setup) => self.pipeline.add_peer(now, *setup),
            // Orders about a peer that is gone meanwhile have nothing to change.
            WorkerOrder::UpdatePeer(setup) => _ = self.pipeline.update_peer(now, *setup),
            WorkerOrder::SetPath { peer, path } => _ = self.pipeline.set_path(peer, path),
            WorkerOrder::SetRoutes(routes) => self.pipeline.set_routes(routes),
            WorkerOrder::SetRelay(on) => self.pipeline.set_relay(on),
            WorkerOrder::RemovePeer { peer } => _ = self.pipeline.remove_peer(peer),
            WorkerOrder::OccExit { peer } => _ = self.pipeline.occ_exit(now, peer, &mut self.wire),
            WorkerOrder::PingNow { peer } => _ = self.pipeline.ping_now(now, peer, &mut self.wire),
            WorkerOrder::ReportWhenHeard { peer } => self.pipeline.listen_for(peer),
            WorkerOrder::Stop => {}
        }
        // Orders that follow may detach the socket: what this one wants sent goes first.
        self.flush_wire();
    }

    fn attach_link(&mut self, link: Box<WorkerEnd>) {
        // Keys that the old control process sent are installed before it is forgotten. It should be dead; if it is not,
        // it does not keep us here. If it dies in the middle of a word, that is no news: its successor must not be blamed.
        for _ in 0..LAST_WORDS {
            if !matches!(self.serve(), Ok(true)) {
                break;
            }
        }
        if self.is_installing() {
            // There may be more of them behind that one.
            self.next_link = Some(link);
            return;
        }
        self.up.failed = None;
        self.up.link = None;
        match Bell::same_as(link.bell_fd()).and_then(|bell| self.engine.watch_link(Some(bell))) {
            Ok(()) => self.up.link = Some(*link),
            Err(error) => (self.up.report)(WorkerReport::LinkCorrupt(format!("its bell cannot be watched: {error}"))),
        }
    }

    fn attach_socket(&mut self, mut socket: WireSocket, path: Path) {
        let gso = self.offload.udp_gso && socket.gso();
        if !self.offload.udp_gro {
            socket.set_gro(false);
        }
        self.forbids_fragments = socket.forbids_fragments();
        (self.notes.offloads.udp_gso, self.notes.offloads.udp_gro) = (gso, socket.gro());
        self.engine.set_gso(gso);
        self.wire.set_gso(gso);
        self.notes.heard();
        self.notes.has_socket = true;
        if let Err(error) = self.engine.attach_socket(socket, path) {
            self.notes.trouble(Trouble::Socket(error.raw_os_error().unwrap_or(0)));
        }
        self.notes.offloads.zero_copy = self.engine.zero_copy();
        self.fit_path_mtu();
        self.notes.say_offloads();
    }

    fn attach_tun(&mut self, tun: sys::tundev::TunQueue) {
        let offload = if self.offload.tun { tun.offload() } else { TunOffload::default() };
        self.tun.set_offload(offload);
        self.notes.offloads.tun = offload;
        self.notes.tun = None;
        self.notes.has_tun = true;
        if let Err(error) = self.engine.attach_tun(tun) {
            self.notes.trouble(Trouble::Tun(error.raw_os_error().unwrap_or(0)));
        }
        self.notes.say_offloads();
    }

    fn tick(&mut self) {
        self.next_tick_ns = self.pipeline.tick(self.now_ns, &mut self.wire, &mut self.up);
    }

    fn sleep(&mut self) {
        if self.up.link.as_mut().is_some_and(|link| !link.prepare_sleep()) {
            return;
        }
        if self.incoming.prepare_sleep() {
            self.engine.sleep(self.next_tick_ns);
            self.incoming.awake();
        }
        self.awake();
    }
}

/// What the pipeline wants to tell, on its way to the rings and to the supervisor.
struct Upward {
    link: Option<WorkerEnd>,
    /// What a thread that seals has instead of a link.
    back: Option<OpeningThread>,
    failed: Option<LinkError>,
    /// Peers that floated, for the thread that seals.
    moved: Vec<(u32, Path)>,
    /// A peer proved a newer key, for the thread that seals.
    proven: bool,
    stats: Arc<WorkerStats>,
    report: Rc<Report>,
}

impl Up for Upward {
    fn control(&mut self, path: Path, bytes: &[u8], known: bool) {
        if bytes.len() > MAX_DATAGRAM {
            return self.stats.drop_many(DropReason::ControlTooLong, 1);
        }
        // Without a control process this is loss on the wire, which its protocol expects.
        let taken = self.link.as_mut().is_some_and(|link| link.send_datagram(known, &Datagram { path, bytes }));
        if !taken {
            self.stats.drop_many(DropReason::ControlRingFull, 1);
        }
    }

    fn event(&mut self, event: WorkerEvent) {
        if self.back.is_some() {
            return self.say(Said::Event(event));
        }
        if let WorkerEvent::Floated { peer, path } = event {
            self.moved.push((peer, path));
        }
        if let Some(link) = self.link.as_mut()
            && let Err(error) = link.send_event(&event)
        {
            self.failed = Some(error);
        }
    }

    fn report(&mut self, report: PeerReport) {
        (self.report)(WorkerReport::Peer(report));
    }

    fn proven(&mut self) {
        self.proven = true;
    }
}

impl Upward {
    /// On a thread that seals.
    fn say(&self, said: Said) {
        if let Some(back) = &self.back {
            back.say(said);
        }
    }
}

/// The settings of the half that opens and of the half that seals: each has the timer of its own direction.
fn halves(setup: &PeerSetup) -> (PeerSetup, PeerSetup) {
    (PeerSetup { ping_s: 0, ..setup.clone() }, PeerSetup { ping_restart_s: 0, ..setup.clone() })
}

/// Adds a peer on both threads.
fn add_peer(now_ns: u64, setup: &PeerSetup, pipeline: &mut Pipeline, seal: &mut SealingThread) {
    let (opens, seals) = halves(setup);
    pipeline.add_peer(now_ns, opens);
    if let Some(peer) = pipeline.peers.get(setup.peer) {
        seal.hand(Task::AddPeer(Box::new(seals), Arc::clone(&peer.crossing)));
    }
}

/// Counts what the engine tells, and reports an error once until something went well again.
struct Notes {
    stats: Arc<WorkerStats>,
    report: Rc<Report>,
    /// The socket's error that was said last, by either thread; 0 is none, or something came since.
    socket: Arc<AtomicI32>,
    tun: Option<i32>,
    /// The kernel learned another path MTU.
    path_mtu: bool,
    /// The TUN refused a super-packet: of UDP, or of TCP.
    tun_offload_lost: Option<bool>,
    offloads: OffloadsInUse,
    /// What was said of them.
    said: Option<OffloadsInUse>,
    has_socket: bool,
    has_tun: bool,
    /// Not on a thread that seals: its other half says it.
    says_offloads: bool,
}

impl Notes {
    fn new(stats: Arc<WorkerStats>, report: Rc<Report>, socket: Arc<AtomicI32>, says_offloads: bool) -> Self {
        Notes {
            stats,
            report,
            socket,
            tun: None,
            path_mtu: false,
            tun_offload_lost: None,
            offloads: OffloadsInUse::default(),
            said: None,
            has_socket: false,
            has_tun: false,
            says_offloads,
        }
    }

    /// Says which offloads are in use, when that is known and something new.
    fn say_offloads(&mut self) {
        self.stats.set_offloads(self.offloads);
        if self.says_offloads
            && self.has_socket
            && self.has_tun
            && self.said.replace(self.offloads) != Some(self.offloads)
        {
            (self.report)(WorkerReport::Offloads(self.offloads));
        }
    }

    /// An offload is off from now on.
    fn lost(&mut self, name: &'static str) {
        self.stats.set_offloads(self.offloads);
        self.said = Some(self.offloads);
        (self.report)(WorkerReport::OffloadLost(name));
    }

    /// Something came from the network.
    fn heard(&mut self) {
        if self.socket.load(Relaxed) != 0 {
            self.socket.store(0, Relaxed);
        }
    }
}

impl Observer for Notes {
    fn dropped(&mut self, reason: DropReason, packets: u64) {
        self.stats.drop_many(reason, packets);
    }

    fn sent(&mut self, segments: u64, _bytes: u64) {
        self.stats.outbound.writes.add(1);
        self.stats.outbound.written.add(segments);
    }

    fn written(&mut self, packets: u64) {
        self.stats.inbound.writes.add(1);
        self.stats.inbound.written.add(packets);
        self.tun = None;
    }

    fn trouble(&mut self, trouble: Trouble) {
        match trouble {
            Trouble::GsoLost => {
                (self.offloads.udp_gso, self.offloads.zero_copy) = (false, false);
                self.lost("UDP_SEGMENT");
            }
            Trouble::ZeroCopyLost => {
                self.offloads.zero_copy = false;
                self.lost("to send without a copy (it copies all the same)");
            }
            Trouble::TunOffloadLost { udp } => self.tun_offload_lost = Some(udp),
            Trouble::PathMtu => self.path_mtu = true,
            // An interface that is down answers EIO to every write.
            Trouble::Tun(libc::EIO) => {}
            // What ICMP said of an earlier datagram, when nothing was being sent.
            Trouble::Socket(libc::EMSGSIZE) if self.socket.load(Relaxed) == libc::EMSGSIZE => self.path_mtu = true,
            Trouble::Socket(errno) if self.socket.swap(errno, Relaxed) != errno => {
                self.path_mtu |= errno == libc::EMSGSIZE;
                (self.report)(WorkerReport::SocketError { errno, text: text(errno) });
            }
            Trouble::Tun(errno) if self.tun != Some(errno) => {
                self.tun = Some(errno);
                (self.report)(WorkerReport::TunError { errno, text: text(errno) });
            }
            Trouble::Socket(_) | Trouble::Tun(_) => {}
        }
    }
}

fn text(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}
