//! Start, order about, and stop the workers: what the daemon sees of the packet path's threads.
//!
//! A worker is one pinned thread with its own I/O engine, or two of them, one per direction ([`Split`]). Orders reach it over a bounded queue that it looks at
//! only after its bell rang; the packet path never touches the queue. What it has to say comes back through the
//! report function given to [`spawn`], called on the worker's thread, so it must be quick (send it on a channel).

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::atomic::AtomicI32;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use link::WorkerEnd;
use link::message::Path;

use crate::datachannel::aead::AeadInfo;
use crate::peers::routes::RouteTable;
use crate::pipeline::{PeerReport, PeerSetup, PipelineConfig};
use crate::sys::affinity;
use crate::sys::bell::Bell;
use crate::sys::socket::WireSocket;
use crate::sys::tundev::TunQueue;
use crate::sys::{EngineInfo, IoChoice, ZeroCopyChoice};
use crate::tun::too_big::AnswersFrom;
use crate::workers::halves::{OpeningThread, QUEUE, Role, Said, SealingThread, Task};
use crate::workers::handover::{self, Incoming, Mates};
use crate::workers::stats::{OffloadsInUse, StatsReader, WorkerStats};
use crate::workers::worker::{Seat, Worker};

/// Orders that may wait for one worker; a sender of one more waits until the worker took one (microseconds).
pub(super) const ORDERS: usize = 64;

/// Which offloads may be used; each is probed all the same, and dropped when the kernel refuses it at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OffloadChoice {
    /// Super-packets on the TUN (TSO, USO, checksums). The queue itself is opened by the owner with
    /// [`TunQueue::open`]; this says whether the pipeline may join packets into super-packets.
    pub tun: bool,
    /// UDP_SEGMENT: one send for many datagrams.
    pub udp_gso: bool,
    /// UDP_GRO: one receive for many datagrams.
    pub udp_gro: bool,
    /// SENDMSG_ZC under io_uring: long runs leave without being copied into the kernel. It needs `udp_gso`.
    pub zero_copy: ZeroCopyChoice,
}

impl Default for OffloadChoice {
    fn default() -> Self {
        Self { tun: true, udp_gso: true, udp_gro: true, zero_copy: ZeroCopyChoice::Auto }
    }
}

/// How a worker trades CPU time for latency. By default it does not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tuning {
    /// The priority under SCHED_FIFO, 1 to 99 (sched(7)); refused, the worker runs as any thread.
    pub fifo: Option<u8>,
    /// So many microseconds after the last packet it keeps looking for the next one, before it sleeps. It keeps its CPU busy so long.
    pub busy_poll_us: u32,
    /// While datagrams come close upon each other (four in this time), so many microseconds pass before it looks again, instead of its
    /// waiting for the next one: what gathered meanwhile is opened and joined together. That delays packets by so much and saves waking up
    /// for each, for the good of who shares the CPU. 0: never.
    pub gather_us: u32,
}

/// Two directions on two threads: `worker-N-open` (network → TUN), which also does everything that is no packet, and `worker-N-seal`
/// (TUN → network). Each has an engine of its own over the same socket and the same TUN queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// The CPU to pin `worker-N-seal` to, another one than [`WorkerConfig::cpu`]; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
}

/// What a worker is started with.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its number: the thread is named `worker-N`, and paths carry it.
    pub index: u16,
    /// The CPU to pin it to; `None` leaves it to the scheduler. With the directions split, that of `worker-N-open`.
    pub cpu: Option<usize>,
    /// `None`: one thread for both directions.
    pub split: Option<Split>,
    /// Priority and busy polling.
    pub tuning: Tuning,
    /// Which I/O engine.
    pub io: IoChoice,
    /// Which offloads may be used.
    pub offload: OffloadChoice,
    /// The pipeline's settings, with the AEAD that its keys are made with.
    pub config: PipelineConfig,
}

/// What a worker can be told. Orders are carried out in the order given, between two batches.
pub enum WorkerOrder {
    /// A new control process: the old link is drained first, then dropped.
    AttachLink(Box<WorkerEnd>),
    /// Send and receive here from now on; a socket attached before is closed. `path` is the path of what comes in on
    /// a connected socket; on an unconnected one only its `worker` field counts.
    AttachSocket {
        /// The socket.
        socket: WireSocket,
        /// Its path.
        path: Path,
    },
    /// Close the socket; until another comes, what would be sent is dropped and counted.
    DetachSocket,
    /// Read and write here from now on; a queue attached before is closed.
    AttachTun(TunQueue),
    /// Close the TUN.
    DetachTun,
    /// A peer, without keys yet.
    AddPeer(Box<PeerSetup>),
    /// Change a peer's settings (a pushed `ping`, `mssfix`, …); it keeps its keys and timers.
    UpdatePeer(Box<PeerSetup>),
    /// The tunnel's MTU and who answers packets that are too long, from now on.
    SetTunnel {
        /// Bytes; `None` is no limit.
        mtu: Option<u16>,
        /// The gateway's addresses inside the tunnel.
        from: AnswersFrom,
    },
    /// Which inner destination belongs to which peer, from now on. Every worker has the same table.
    SetRoutes(Arc<RouteTable>),
    /// Whether packets of one peer for another one turn round in the workers (`client-to-client`) or go to the TUN like all others; so it
    /// begins. A worker whose directions are split does not do it: its thread that opens cannot seal.
    SetRelay(bool),
    /// The peer is elsewhere now.
    SetPath {
        /// The worker's handle of the peer.
        peer: u32,
        /// Where.
        path: Path,
    },
    /// Forget a peer and wipe its keys.
    RemovePeer {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// Tell the peer that we leave, in the data channel.
    OccExit {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// Send a keepalive now, whatever the timer says (after a change of address).
    PingNow {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// Report once, when the next authenticated packet of this peer arrives.
    ReportWhenHeard {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// End the thread. Also what dropping the handle does.
    Stop,
}

/// What a worker says. Rare: never once per packet.
#[derive(Debug)]
pub enum WorkerReport {
    /// The engine that runs. Said once, when the worker starts.
    EngineChosen(EngineInfo),
    /// Something about a peer.
    Peer(PeerReport),
    /// The socket answered this error. Said when it differs from the last one or when traffic had passed in between;
    /// the worker goes on. ECONNREFUSED means that the peer's port is closed (ICMP).
    SocketError {
        /// `errno`.
        errno: i32,
        /// Its sentence.
        text: String,
    },
    /// The TUN answered this error, under the same rule. EIO while the interface is down is not reported.
    TunError {
        /// `errno`.
        errno: i32,
        /// Its sentence.
        text: String,
    },
    /// The offloads that are in use. Said when both socket and TUN are there, and again when one of them is replaced by one that has
    /// others.
    Offloads(OffloadsInUse),
    /// An offload was refused at run time and is off from now on: its name.
    OffloadLost(&'static str),
    /// The control process wrote what its protocol forbids; its link was dropped. Data flows on.
    LinkCorrupt(String),
    /// What the thread was pinned to, or why it was not, and what else of [`Tuning`] was set, for people. Said once, before the engine,
    /// when any of it was asked for.
    Pinned(String),
    /// The worker panicked. The process ends as soon as the report function returns: packet ids and replay windows
    /// live only in the worker, so nothing may go on with its keys.
    Died(String),
}

/// The report function.
pub(crate) type Report = Box<dyn Fn(WorkerReport) + Send>;

/// The worker has ended; the order was not carried out.
#[derive(Debug, thiserror::Error)]
#[error("the worker has ended")]
pub struct WorkerGone;

/// A running worker. Dropping it stops the thread and waits for it.
#[derive(Debug)]
pub struct WorkerHandle {
    orders: SyncSender<Task>,
    bell: Bell,
    stats: StatsReader,
    engine: EngineInfo,
    aead: AeadInfo,
    end: Option<End>,
}

/// How to wait for a worker's end.
#[derive(Debug)]
pub(super) enum End {
    /// It has a thread of its own, or two.
    Thread(JoinHandle<()>),
    /// It is one of several on a thread ([`crew`](crate::workers::crew)): the sender goes with it.
    Member(Receiver<()>),
}

impl WorkerHandle {
    /// Gives an order. Fails only when the worker has ended.
    pub fn send(&self, order: WorkerOrder) -> Result<(), WorkerGone> {
        self.orders.send(Task::Order(order)).map_err(|_| WorkerGone)?;
        self.bell.ring();
        Ok(())
    }

    /// The worker's counters, readable at any time without disturbing it.
    pub fn stats(&self) -> StatsReader {
        self.stats.clone()
    }

    /// The engine that runs, and why.
    pub fn engine(&self) -> &EngineInfo {
        &self.engine
    }

    /// The AEAD that its keys are made with, and why.
    pub fn aead(&self) -> &AeadInfo {
        &self.aead
    }

    /// One of several workers of a thread.
    pub(super) fn member(
        orders: SyncSender<Task>,
        bell: Bell,
        stats: Arc<WorkerStats>,
        engine: EngineInfo,
        aead: AeadInfo,
        gone: Receiver<()>,
    ) -> Self {
        let stats = StatsReader::new(stats, None);
        Self { orders, bell, stats, engine, aead, end: Some(End::Member(gone)) }
    }

    /// Ends the worker and waits for it. Its sockets and its TUN queue are closed, its keys are wiped.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(end) = self.end.take() else {
            return;
        };
        // A worker that is gone already needs no order.
        let _ = self.send(WorkerOrder::Stop);
        match end {
            End::Thread(thread) => _ = thread.join(),
            End::Member(gone) => _ = gone.recv(),
        }
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a worker: a thread named `worker-N`, pinned, with its engine set up, or two of them ([`Split`]). Returns when the engines run.
///
/// # Errors
/// A thread could not be started, or [`IoChoice::Uring`] was asked for and io_uring is refused (the error says by
/// what and what to do).
pub fn spawn(
    config: WorkerConfig,
    link: WorkerEnd,
    on_report: impl Fn(WorkerReport) + Send + 'static,
) -> io::Result<WorkerHandle> {
    start(config, link, Bell::new()?, (Mates::none(), Incoming::none()), Box::new(on_report))
}

fn start(
    config: WorkerConfig,
    link: WorkerEnd,
    bell: Bell,
    ends: (Mates, Incoming),
    report: Report,
) -> io::Result<WorkerHandle> {
    let stats = Arc::<WorkerStats>::default();
    let aead = config.config.aead.info().clone();
    let (orders, inbox) = sync_channel(ORDERS);
    let name = format!("worker-{}", config.index);
    let mut start = Start {
        name: name.clone(),
        role: Role::Both,
        link: Some(link),
        back: None,
        inbox,
        bell: bell.try_clone()?,
        stats: Arc::clone(&stats),
        socket_error: Arc::default(),
        report,
        mates: ends.0,
        incoming: ends.1,
        config,
    };
    let mut sealing_stats = None;
    if let Some(split) = start.config.split {
        // Rare enough for a lock: neither thread reports on the packet path.
        let report = Arc::new(Mutex::new(start.report));
        start.report = shared(&report);
        let stats = sealing_stats.insert(Arc::default());
        start.role = Role::Opens(spawn_sealing(&start, split, Arc::clone(stats), shared(&report))?);
        start.name = format!("{name}-open");
    }
    let (thread, engine) = spawn_thread(start)?;
    let stats = StatsReader::new(stats, sealing_stats);
    Ok(WorkerHandle { orders, bell, stats, engine, aead, end: Some(End::Thread(thread)) })
}

/// Starts workers that hand over to each other what is another's: peer `p` is that of worker `p % n`
/// ([`handover::owner_of`]), so orders and keys for it go there; routes go to all. Each config has the worker's own number, from 0. Each
/// worker wants its socket of [`bind_group`](crate::sys::socket::bind_group) and its queue of [`TunQueue::open_group`], in the same order.
/// `on_report` is called on the threads of the workers, with the number of the one that speaks.
///
/// # Errors
/// Those of [`spawn`]; `InvalidInput` when there are not as many links as configs or none, when a number is not in its place, or when the
/// directions of one of several workers are to be split.
pub fn spawn_group(
    configs: Vec<WorkerConfig>,
    links: Vec<WorkerEnd>,
    on_report: impl Fn(u16, WorkerReport) + Send + Sync + 'static,
) -> io::Result<Vec<WorkerHandle>> {
    let placed = (0u16..).zip(&configs).all(|(number, config)| config.index == number);
    let split = configs.len() > 1 && configs.iter().any(|config| config.split.is_some());
    if configs.is_empty() || configs.len() != links.len() || !placed || split {
        let what = "a group has a link for each of its workers, which are numbered from 0 and have one thread each";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    let bells = configs.iter().map(|_| Bell::new()).collect::<io::Result<Vec<_>>>()?;
    let on_report = Arc::new(on_report);
    let ends = handover::join(&bells)?;
    let starts = configs.into_iter().zip(links).zip(bells).zip(ends);
    starts
        .map(|(((config, link), bell), ends)| {
            let (number, on_report) = (config.index, Arc::clone(&on_report));
            start(config, link, bell, ends, Box::new(move |report| on_report(number, report)))
        })
        .collect()
}

/// A report function that another thread has, too.
fn shared(report: &Arc<Mutex<Report>>) -> Report {
    let report = Arc::clone(report);
    // A report function that panicked ends the process; until then it may still be called.
    Box::new(move |said| report.lock().unwrap_or_else(PoisonError::into_inner)(said))
}

/// Starts the thread that seals, for the thread that `opens` describes.
fn spawn_sealing(opens: &Start, split: Split, stats: Arc<WorkerStats>, report: Report) -> io::Result<SealingThread> {
    let (tasks, inbox) = sync_channel(QUEUE);
    let (says, said) = sync_channel::<Said>(QUEUE);
    let bell = Bell::new()?;
    let start = Start {
        name: format!("{}-seal", opens.name),
        config: WorkerConfig { cpu: split.cpu, ..opens.config.clone() },
        role: Role::Seals,
        link: None,
        back: Some(OpeningThread::new(says, opens.bell.try_clone()?)),
        inbox,
        bell: bell.try_clone()?,
        stats,
        socket_error: Arc::clone(&opens.socket_error),
        report,
        mates: Mates::none(),
        incoming: Incoming::none(),
    };
    let (thread, _) = spawn_thread(start)?;
    Ok(SealingThread::new(tasks, said, bell, thread))
}

/// Starts one thread and waits until its engine runs.
fn spawn_thread(start: Start) -> io::Result<(JoinHandle<()>, EngineInfo)> {
    let (started, starting) = sync_channel(1);
    let thread = std::thread::Builder::new().name(start.name.clone()).spawn(move || run(start, &started))?;
    let engine = starting.recv().map_err(|_| io::Error::other("the worker ended while it started"))??;
    Ok((thread, engine))
}

/// What a new thread takes with it.
struct Start {
    name: String,
    config: WorkerConfig,
    role: Role,
    link: Option<WorkerEnd>,
    back: Option<OpeningThread>,
    inbox: Receiver<Task>,
    bell: Bell,
    stats: Arc<WorkerStats>,
    socket_error: Arc<AtomicI32>,
    report: Report,
    mates: Mates,
    incoming: Incoming,
}

/// The thread. Whatever unwinds out of it ends the process.
fn run(start: Start, started: &SyncSender<io::Result<EngineInfo>>) {
    let Start { name, config, role, link, back, inbox, bell, stats, socket_error, report, mates, incoming } = start;
    let guard = AbortOnUnwind;
    let report = Rc::new(report);
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if let Some(line) = settle(&name, &config) {
            report(WorkerReport::Pinned(line));
        }
        let speaks = !matches!(role, Role::Seals);
        let report = Rc::clone(&report);
        let seat =
            Seat { role, link, back, inbox, bell, stats, socket_error, report: Rc::clone(&report), mates, incoming };
        let mut worker = match Worker::new(&config, seat) {
            Ok(worker) => worker,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        // Of two threads, both have the same engine.
        if speaks {
            report(WorkerReport::EngineChosen(worker.engine_info().clone()));
        }
        let _ = started.send(Ok(worker.engine_info().clone()));
        worker.run();
    }));
    if let Err(panic) = outcome {
        report(WorkerReport::Died(format!("{name} panicked: {}", panic_text(&*panic))));
        std::process::abort();
    }
    std::mem::forget(guard);
}

/// Pins and tunes the calling thread; what came of it, in one line. `None`: nothing was asked for.
fn settle(name: &str, config: &WorkerConfig) -> Option<String> {
    let Tuning { fifo, busy_poll_us, .. } = config.tuning;
    let pinned = match config.cpu {
        Some(cpu) => affinity::pin(name, cpu),
        None if fifo.is_none() && busy_poll_us == 0 => return None,
        None => format!("{name} not pinned"),
    };
    let fifo = fifo.map(affinity::make_fifo);
    let polls = (busy_poll_us > 0).then(|| format!("polls for {busy_poll_us} µs before it sleeps"));
    Some([Some(pinned), fifo, polls].into_iter().flatten().collect::<Vec<_>>().join(", "))
}

/// Ends the process when the report function itself panics while a worker's death is being reported.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

pub(super) fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
