//! One thread of a worker: one engine, one loop. Mostly it is the whole worker; with the directions split, one such thread opens
//! and does everything that is no packet, and one seals ([`halves`](crate::workers::halves)).
//! A turn takes in what completed, runs the pipeline over it, and sends what came of it; it never waits to fill a batch, and it
//! sleeps only when a turn found nothing to do. (Where it was asked to, it pauses before it looks for datagrams that come fast:
//! [`gathering`](crate::workers::gathering); nothing but a stack in the same process does.)
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
use std::sync::atomic::AtomicI32;
use std::sync::mpsc::Receiver;

use link::WorkerEnd;

use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::WireBatch;
use crate::pipeline::{BatchFull, Pipeline};
use crate::sys::bell::Bell;
use crate::sys::syscall::SyscallEngine;
use crate::sys::{self, Awaits, Engine, EngineInfo, Step, clock};
use crate::tun::coalesce::{TunBatch, TunOffload};
use crate::tun::ip;
use crate::workers::gathering::Gathering;
use crate::workers::halves::{OpeningThread, Role, Task};
use crate::workers::handover::{Incoming, Mates, Taken, What};
use crate::workers::manager::{OffloadChoice, Report, WorkerConfig};
use crate::workers::stats::WorkerStats;
use notes::Notes;
use upward::Upward;

mod notes;
mod service;
mod upward;

/// A batch of wire packets is sent once it holds so many bytes: about what one UDP_SEGMENT call carries.
const FLUSH_BYTES: usize = 60_000;
/// A batch takes one more super-packet, sealed, when it is just below that.
const WIRE_BYTES: usize = FLUSH_BYTES + 3 * 65_536;
/// UDP_MAX_SEGMENTS of linux/udp.h before Linux 6.9; more gains nothing.
const MAX_SEGMENTS: usize = 64;
/// Things that other workers handed over, in one turn.
const MATES_BUDGET: usize = 256;

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
