//! Start, order about, and stop the workers: what the daemon sees of the packet path's threads.
//!
//! A worker is one pinned thread with its own I/O engine. Orders reach it over a bounded queue that it looks at
//! only after its bell rang; the packet path never touches the queue. What it has to say comes back through the
//! report function given to [`spawn`], called on the worker's thread, so it must be quick (send it on a channel).

use std::any::Any;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
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
use crate::sys::{EngineInfo, IoChoice};
use crate::workers::stats::WorkerStats;
use crate::workers::worker::Worker;

/// Orders that may wait for one worker; a sender of one more waits until the worker took one (microseconds).
const ORDERS: usize = 64;

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
}

impl Default for OffloadChoice {
    fn default() -> Self {
        Self { tun: true, udp_gso: true, udp_gro: true }
    }
}

/// What a worker is started with.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// Its number: the thread is named `worker-N`, and paths carry it.
    pub index: u16,
    /// The CPU to pin it to; `None` leaves it to the scheduler.
    pub cpu: Option<usize>,
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
    /// Which inner destination belongs to which peer, from now on.
    SetRoutes(Box<RouteTable>),
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
    /// An offload was refused at run time and is off from now on: its name.
    OffloadLost(&'static str),
    /// The control process wrote what its protocol forbids; its link was dropped. Data flows on.
    LinkCorrupt(String),
    /// What the thread was pinned to, or why it was not, for people. Said once, before the engine, when pinning was asked.
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
    orders: SyncSender<WorkerOrder>,
    bell: Bell,
    stats: Arc<WorkerStats>,
    engine: EngineInfo,
    aead: AeadInfo,
    thread: Option<JoinHandle<()>>,
}

impl WorkerHandle {
    /// Gives an order. Fails only when the worker has ended.
    pub fn send(&self, order: WorkerOrder) -> Result<(), WorkerGone> {
        self.orders.send(order).map_err(|_| WorkerGone)?;
        self.bell.ring();
        Ok(())
    }

    /// The worker's counters, readable at any time without disturbing it.
    pub fn stats(&self) -> Arc<WorkerStats> {
        Arc::clone(&self.stats)
    }

    /// The engine that runs, and why.
    pub fn engine(&self) -> &EngineInfo {
        &self.engine
    }

    /// The AEAD that its keys are made with, and why.
    pub fn aead(&self) -> &AeadInfo {
        &self.aead
    }

    /// Ends the thread and waits for it. Its sockets and its TUN queue are closed, its keys are wiped.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        // A worker that is gone already needs no order.
        let _ = self.send(WorkerOrder::Stop);
        let _ = thread.join();
    }
}

impl Drop for WorkerHandle {
    fn drop(&mut self) {
        self.end();
    }
}

/// Starts a worker: a thread named `worker-N`, pinned, with its engine set up. Returns when the engine runs.
///
/// # Errors
/// The thread could not be started, or [`IoChoice::Uring`] was asked for and io_uring is refused (the error says by
/// what and what to do).
pub fn spawn(
    config: WorkerConfig,
    link: WorkerEnd,
    on_report: impl Fn(WorkerReport) + Send + 'static,
) -> io::Result<WorkerHandle> {
    let stats = Arc::new(WorkerStats::default());
    let bell = Bell::new()?;
    let aead = config.config.aead.info().clone();
    let (orders, queue) = sync_channel(ORDERS);
    let (started, starting) = sync_channel(1);
    let start = Start {
        name: format!("worker-{}", config.index),
        config,
        link,
        queue,
        bell: bell.try_clone()?,
        stats: Arc::clone(&stats),
        report: Box::new(on_report),
    };
    let thread = std::thread::Builder::new().name(start.name.clone()).spawn(move || run(start, &started))?;
    let engine = starting.recv().map_err(|_| io::Error::other("the worker ended while it started"))??;
    Ok(WorkerHandle { orders, bell, stats, engine, aead, thread: Some(thread) })
}

/// What the new thread takes with it.
struct Start {
    name: String,
    config: WorkerConfig,
    link: WorkerEnd,
    queue: Receiver<WorkerOrder>,
    bell: Bell,
    stats: Arc<WorkerStats>,
    report: Report,
}

/// The thread. Whatever unwinds out of it ends the process.
fn run(start: Start, started: &SyncSender<io::Result<EngineInfo>>) {
    let name = start.name.clone();
    let guard = AbortOnUnwind;
    let report = start.report;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        if let Some(cpu) = start.config.cpu {
            report(WorkerReport::Pinned(affinity::pin(&name, cpu)));
        }
        let worker = Worker::new(start.config, start.link, start.queue, start.bell, start.stats, &report);
        let mut worker = match worker {
            Ok(worker) => worker,
            Err(error) => {
                let _ = started.send(Err(error));
                return;
            }
        };
        report(WorkerReport::EngineChosen(worker.engine_info().clone()));
        let _ = started.send(Ok(worker.engine_info().clone()));
        worker.run();
    }));
    if let Err(panic) = outcome {
        report(WorkerReport::Died(format!("{name} panicked: {}", panic_text(&*panic))));
        std::process::abort();
    }
    std::mem::forget(guard);
}

/// Ends the process when the report function itself panics while a worker's death is being reported.
struct AbortOnUnwind;

impl Drop for AbortOnUnwind {
    fn drop(&mut self) {
        std::process::abort();
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message")
}
