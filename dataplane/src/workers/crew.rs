//! Several workers on one thread, which take turns: for programs with many tunnels of their own, each of which has little to do. Every
//! worker is whole, with its own engine (plain system calls), pipeline and link; the thread looks after those that have something and
//! sleeps for all of them at once.

use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    /// Nobody is looked after any more.
    ended: Arc<AtomicBool>,
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
        let ended = Arc::<AtomicBool>::default();
        let end = End(Arc::clone(&ended));
        let thread = std::thread::Builder::new().name(name.into()).spawn(move || run(crowd, inbox, end))?;
        Ok(Self { newcomers: Some(newcomers), bell, link_bell, ended, thread: Some(thread) })
    }

    /// Whether the thread has failed, and takes no worker any more.
    pub fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    /// The bell that the worker's end of a link must have.
    pub fn link_bell(&self) -> &EventBell {
        &self.link_bell
    }

    /// Adds a worker. Of its settings those of its thread play no part here (`cpu`, `split`, `tuning`, `io`); `link` must have been made
    /// with [`link_bell`](Self::link_bell), and no other can be attached later. `on_report` is called on the thread.
    ///
    /// A worker that panics is gone with its keys and says [`WorkerReport::Died`]; the others go on. Should the thread itself panic, all
    /// of them say so, and are gone.
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

/// Marks that the thread has ended.
struct End(Arc<AtomicBool>);

impl Drop for End {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// The thread.
fn run(mut crowd: Crowd, inbox: Receiver<Newcomer>, end: End) {
    let mut members = Vec::new();
    let outcome = catch_unwind(AssertUnwindSafe(|| look_after(&mut crowd, &inbox, &mut members)));
    // Whoever hears that a worker has died may ask for another one at once, and gets another thread.
    drop((inbox, end));
    let Err(panic) = outcome else { return };
    let why = format!("the thread of the workers panicked: {}", panic_text(&*panic));
    for member in members {
        // What one of them does when it is told, or dropped, is no matter to the others.
        let _ = catch_unwind(AssertUnwindSafe(|| {
            (member.report)(WorkerReport::Died(why.clone()));
            drop(member);
        }));
    }
}

/// Gives turns until nobody can come any more.
fn look_after(crowd: &mut Crowd, inbox: &Receiver<Newcomer>, members: &mut Vec<Member>) {
    while take_in(inbox, members).is_ok() {
        for _ in 0..ROUNDS {
            members.retain_mut(Member::take_turn);
            if !members.iter().any(|member| member.ready) {
                break;
            }
        }
        sleep(crowd, members);
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::datachannel::aead::Aead;
    use crate::peers::routes::RouteTable;
    use crate::pipeline::PipelineConfig;
    use crate::sys::IoChoice;
    use crate::workers::manager::{OffloadChoice, Tuning};

    /// Long enough for the slowest machine.
    const PATIENCE: Duration = Duration::from_secs(60);

    /// Adds a worker with that report function.
    fn add(crew: &Crew, report: impl Fn(WorkerReport) + Send + 'static) -> io::Result<WorkerHandle> {
        let config = WorkerConfig {
            index: 0,
            cpu: None,
            split: None,
            tuning: Tuning::default(),
            io: IoChoice::Syscall,
            offload: OffloadChoice::default(),
            config: PipelineConfig { routes: RouteTable::default(), aead: Aead::default() },
        };
        let (_, _, link) = link::create_within::<(), ()>(&EventBell::new()?, crew.link_bell())?;
        crew.add(config, link, report)
    }

    /// Panics when it is dropped.
    struct Bomb;

    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("as it is meant to");
        }
    }

    #[test]
    fn a_thread_that_panics_says_that_all_its_workers_died_and_takes_no_more() {
        let crew = Crew::start("crew-test").unwrap();
        let (say, said) = channel();
        let survivor = add(&crew, move |report| _ = say.send(report)).unwrap();
        let bomb = Bomb;
        let fatal = add(&crew, move |_| _ = &bomb).unwrap();
        assert!(!crew.has_ended());
        assert!(said.try_recv().is_err());
        drop(fatal);
        let died = said.recv_timeout(PATIENCE).unwrap();
        assert!(matches!(&died, WorkerReport::Died(why) if why.contains("as it is meant to")), "{died:?}");
        assert!(crew.has_ended());
        assert!(add(&crew, |_| {}).is_err());
        // Neither waits for what is gone.
        drop(survivor);
        drop(crew);
    }

    #[test]
    fn a_thread_that_is_left_ends_without_a_word() {
        let crew = Crew::start("crew-test").unwrap();
        let (say, said) = channel();
        let worker = add(&crew, move |report| _ = say.send(report)).unwrap();
        drop(worker);
        drop(crew);
        assert_eq!(said.iter().count(), 0);
    }
}
