//! Several workers on one thread, which take turns: for programs with many tunnels of their own, each of which has little to do. Every
//! worker is whole, with its own engine (plain system calls), pipeline and link; the thread looks after those that have something and
//! sleeps for all of them at once.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use link::{EventBell, WorkerEnd};

use crate::sys::bell::Bell;
use crate::sys::crowd::Crowd;
use crate::sys::{EngineInfo, clock};
use crate::workers::halves::{Role, Task};
use crate::workers::handover::{Incoming, Mates};
use crate::workers::manager::{ORDERS, Report, WorkerConfig, WorkerHandle, WorkerReport, panic_text};
use crate::workers::stats::WorkerStats;
use crate::workers::worker::{Seat, Turn, Worker};

/// Rounds in which only the busy ones take turns, between two looks at the others.
const ROUNDS: usize = 8;

/// A thread for workers. Dropping it ends the thread, with every worker that is still on it.
#[derive(Debug)]
pub struct Crew {
    newcomers: Option<Sender<Newcomer>>,
    bell: Bell,
    /// The same one, for links.
    link_bell: EventBell,
    thread: Option<JoinHandle<()>>,
}

impl Crew {
    /// Starts a thread of that name (15 bytes are seen), which nothing pins.
    ///
    /// # Errors
    /// No thread or descriptor left.
    pub fn start(name: &str) -> io::Result<Self> {
        let link_bell = EventBell::new()?;
        let bell = Bell::same_as(link_bell.as_fd())?;
        let crowd = Crowd::new(bell.try_clone()?)?;
        let (newcomers, inbox) = channel();
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(crowd, &inbox))?;
        Ok(Self { newcomers: Some(newcomers), bell, link_bell, thread: Some(thread) })
    }

    /// The bell that the worker's end of a link must have.
    pub fn link_bell(&self) -> &EventBell {
        &self.link_bell
    }

    /// Adds a worker. Of its settings those of its thread play no part here (`cpu`, `split`, `tuning`, `io`); `link` must have been made
    /// with [`link_bell`](Self::link_bell), and no other can be attached later. `on_report` is called on the thread.
    ///
    /// A worker that panics is gone with its keys and says [`WorkerReport::Died`]; the others go on.
    ///
    /// # Errors
    /// The thread has ended.
    pub fn add(
        &self,
        config: WorkerConfig,
        link: WorkerEnd,
        on_report: impl Fn(WorkerReport) + Send + 'static,
    ) -> io::Result<WorkerHandle> {
        let ended = || io::Error::other("the thread of the workers has ended");
        let stats = Arc::<WorkerStats>::default();
        let aead = config.config.aead.info().clone();
        let bell = self.bell.beside();
        let (orders, inbox) = sync_channel(ORDERS);
        let (started, starting) = sync_channel(1);
        let (stays, gone) = sync_channel(0);
        let newcomer = Newcomer {
            config,
            link,
            inbox,
            bell: bell.try_clone()?,
            stats: Arc::clone(&stats),
            report: Box::new(on_report),
            started,
            stays,
        };
        let newcomers = self.newcomers.as_ref().ok_or_else(ended)?;
        newcomers.send(newcomer).map_err(|_| ended())?;
        self.bell.ring();
        let engine = starting.recv().map_err(|_| ended())??;
        Ok(WorkerHandle::member(orders, bell, stats, engine, aead, gone))
    }
}

impl Drop for Crew {
    fn drop(&mut self) {
        self.newcomers = None;
        self.bell.ring();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A worker that wants to be on the thread.
struct Newcomer {
    config: WorkerConfig,
    link: WorkerEnd,
    inbox: Receiver<Task>,
    bell: Bell,
    stats: Arc<WorkerStats>,
    report: Report,
    started: SyncSender<io::Result<EngineInfo>>,
    stays: SyncSender<()>,
}

/// A worker on the thread.
struct Member {
    worker: Worker,
    report: Rc<Report>,
    /// It may have something to do.
    ready: bool,
    /// Goes last: its handle waits for that.
    _stays: SyncSender<()>,
}

fn run(mut crowd: Crowd, inbox: &Receiver<Newcomer>) {
    let mut members: Vec<Member> = Vec::new();
    loop {
        if take_in(inbox, &mut members).is_err() {
            return;
        }
        for _ in 0..ROUNDS {
            members.retain_mut(Member::take_turn);
            if !members.iter().any(|member| member.ready) {
                break;
            }
        }
        sleep(&mut crowd, &mut members);
    }
}

/// Takes in who wants to be here; an error when nobody can come any more.
fn take_in(inbox: &Receiver<Newcomer>, members: &mut Vec<Member>) -> Result<(), std::sync::mpsc::TryRecvError> {
    loop {
        match inbox.try_recv() {
            Ok(newcomer) => members.extend(Member::new(newcomer)),
            Err(std::sync::mpsc::TryRecvError::Empty) => return Ok(()),
            Err(ended) => return Err(ended),
        }
    }
}

/// Looks who has something to do, and sleeps until somebody has.
fn sleep(crowd: &mut Crowd, members: &mut [Member]) {
    crowd.clear();
    let mut until_ns = u64::MAX;
    let mut ready = false;
    for member in members.iter_mut() {
        // Announced in any case, so that what comes from now on rings.
        member.ready |= !member.worker.prepare_sleep();
        let awaits = member.worker.awaits();
        crowd.add(awaits.socket);
        crowd.add(awaits.tun);
        let more = awaits.more;
        member.ready |= more;
        ready |= member.ready;
        until_ns = until_ns.min(member.worker.due_ns());
    }
    crowd.wait((!ready).then_some(until_ns));
    let now_ns = clock::boottime_ns();
    for (index, member) in members.iter_mut().enumerate() {
        member.worker.awake();
        member.ready |= crowd.is_ready(2 * index) || crowd.is_ready(2 * index + 1) || member.worker.due_ns() <= now_ns;
    }
}

impl Member {
    fn new(newcomer: Newcomer) -> Option<Self> {
        let Newcomer { config, link, inbox, bell, stats, report, started, stays } = newcomer;
        let report = Rc::new(report);
        let seat = Seat {
            role: Role::Both,
            link: Some(link),
            back: None,
            inbox,
            bell,
            stats,
            socket_error: Arc::default(),
            report: Rc::clone(&report),
            mates: Mates::none(),
            incoming: Incoming::none(),
        };
        match Worker::one_of_crew(&config, seat) {
            Ok(worker) => {
                // Whoever asked for it may have gone; then so has its handle, and the first turn ends it.
                let _ = started.send(Ok(worker.engine_info().clone()));
                Some(Self { worker, report, ready: true, _stays: stays })
            }
            Err(error) => {
                let _ = started.send(Err(error));
                None
            }
        }
    }

    /// One turn, if there is something to do. False: it has ended.
    fn take_turn(&mut self) -> bool {
        if !self.ready {
            return true;
        }
        // What a worker that panicked leaves is dropped, with its keys, and never used again.
        match catch_unwind(AssertUnwindSafe(|| self.worker.take_turn())) {
            Ok(Turn::Busy) => true,
            Ok(Turn::Idle) => {
                self.ready = false;
                true
            }
            Ok(Turn::Stop) => false,
            Err(panic) => {
                (self.report)(WorkerReport::Died(format!("it panicked: {}", panic_text(&*panic))));
                false
            }
        }
    }
}
