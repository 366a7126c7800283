//! The workers as one group: started together, ordered one by one or all at once.

use std::net::Ipv4Addr;
use std::sync::Arc;

use dataplane::datachannel::aead::Aead;
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::PipelineConfig;
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::workers::manager::{self, WorkerHandle, WorkerOrder, WorkerReport};
use dataplane::workers::stats::StatsSnapshot;
use link::WorkerEnd;
use tokio::sync::mpsc;

use crate::cli::DataPath;
use crate::data_path::{self, Seat};
use crate::exit::{Exit, Fatal};

/// Reports of all workers that wait for the supervisor. They are rare; one more than this is dropped.
const REPORTS: usize = 4_096;

/// What each worker reads and writes: the sockets of one address and the queues of one device, in the order of the workers.
#[derive(Debug)]
pub(super) struct Ends {
    /// One for each worker.
    pub(super) sockets: Vec<WireSocket>,
    /// One for each worker.
    pub(super) queues: Vec<TunQueue>,
}

/// Opens the sockets.
///
/// # Errors
/// [`Exit::Privilege`] for a port that needs one, [`Exit::Other`] for one that is taken or an address that is not ours.
pub(super) fn bind(options: &SocketOptions, workers: usize) -> Result<Vec<WireSocket>, Fatal> {
    if workers != 1 {
        return Err(Fatal::new(Exit::Config, "more than one worker is not there yet: say --workers 1"));
    }
    let address = options.bind.map(|address| address.to_string()).unwrap_or_default();
    let socket = WireSocket::open(options).map_err(|error| {
        let (exit, hint) = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => (Exit::Privilege, " (ports below 1024 need CAP_NET_BIND_SERVICE)"),
            Some(libc::EADDRINUSE) => (Exit::Other, " (another server listens there: `ss -lunp` names it)"),
            Some(libc::EADDRNOTAVAIL) => (Exit::Config, " (`local` must be an address of this host)"),
            _ => (Exit::Other, ""),
        };
        Fatal::new(exit, format!("cannot listen on {address}: {error}{hint}"))
    })?;
    Ok(vec![socket])
}

/// Opens the queues of the TUN device.
///
/// # Errors
/// [`Exit::Privilege`] with the command that helps.
pub(super) fn open(name: &str, offload: bool, _workers: usize) -> Result<Vec<TunQueue>, Fatal> {
    let options = TunOptions { name: name.to_owned(), multi_queue: false, offload };
    let queue = TunQueue::open(&options).map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))?;
    Ok(vec![queue])
}

/// The running workers.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    seats: Vec<Seat>,
}

impl Workers {
    /// Starts them, without sockets and queues. Their reports come with the worker's number.
    ///
    /// # Errors
    /// A thread or its engine could not be started.
    pub(super) fn start(
        options: &DataPath,
        seats: Vec<Seat>,
        aead: &Aead,
        links: Vec<WorkerEnd>,
    ) -> Result<(Workers, mpsc::Receiver<(u16, WorkerReport)>), Fatal> {
        let (reports, incoming) = mpsc::channel(REPORTS);
        let mut handles = Vec::new();
        for ((index, seat), link) in (0..).zip(&seats).zip(links) {
            let config = PipelineConfig { routes: RouteTable::default(), aead: aead.clone() };
            let config = data_path::worker_config(options, index, seat, config);
            let (reports, why) = (reports.clone(), seat.why.clone());
            let handle = manager::spawn(config, link, move |report| {
                let report = match report {
                    WorkerReport::Pinned(what) => WorkerReport::Pinned(format!("{what}{why}")),
                    report => report,
                };
                // The supervisor is behind by thousands of reports: it knows that something is wrong.
                let _ = reports.try_send((index, report));
            });
            let failed = |error| Fatal::new(Exit::Other, format!("worker {index} could not be started: {error}"));
            handles.push(handle.map_err(failed)?);
        }
        Ok((Workers { handles, seats }, incoming))
    }

    /// Gives them their sockets and queues. `network`: what leases are counted from, so that the kernel gives a packet to the worker of
    /// its client where it can.
    pub(super) fn attach(&self, ends: Ends, _network: Option<Ipv4Addr>, any: std::net::SocketAddr) {
        for ((worker, queue), socket) in (0..).zip(ends.queues).zip(ends.sockets) {
            let path = link::Path { worker, local: None, ifindex: 0, remote: any, stream: None };
            self.order(worker, WorkerOrder::AttachTun(queue));
            self.order(worker, WorkerOrder::AttachSocket { socket, path });
        }
    }

    /// How many there are, 1 at least.
    pub(super) fn count(&self) -> u16 {
        u16::try_from(self.handles.len()).unwrap_or(u16::MAX).max(1)
    }

    /// The worker of a peer.
    pub(super) fn of(&self, peer: u32) -> u16 {
        u16::try_from(peer % u32::from(self.count())).unwrap_or(0)
    }

    /// Tells one. A worker that is gone has said so in a report that is still to come.
    pub(super) fn order(&self, worker: u16, order: WorkerOrder) {
        let Some(handle) = self.handles.get(usize::from(worker)) else { return };
        if let Err(gone) = handle.send(order) {
            tracing::error!("worker {worker}: {gone}");
        }
    }

    /// Tells the worker of a peer.
    pub(super) fn order_for(&self, peer: u32, order: WorkerOrder) {
        self.order(self.of(peer), order);
    }

    /// Tells all.
    pub(super) fn order_all(&self, order: impl Fn() -> WorkerOrder) {
        (0..self.count()).for_each(|worker| self.order(worker, order()));
    }

    /// Which inner address belongs to which peer, from now on.
    pub(super) fn publish(&self, table: RouteTable) {
        let table = Arc::new(table);
        self.order_all(|| WorkerOrder::SetRoutes(Box::new((*table).clone())));
    }

    /// New links, of a new control process.
    pub(super) fn relink(&self, links: Vec<WorkerEnd>) {
        for (worker, link) in (0..).zip(links) {
            self.order(worker, WorkerOrder::AttachLink(Box::new(link)));
        }
    }

    /// Their counters, in order.
    pub(super) fn counters(&self) -> Vec<StatsSnapshot> {
        self.handles.iter().map(|handle| handle.stats().snapshot()).collect()
    }

    /// Each with its seat.
    pub(super) fn each(&self) -> impl Iterator<Item = (u16, &WorkerHandle, &Seat)> {
        (0..).zip(&self.handles).zip(&self.seats).map(|((index, handle), seat)| (index, handle, seat))
    }

    /// Ends them all.
    pub(super) fn stop(self) {
        self.handles.into_iter().for_each(WorkerHandle::stop);
    }
}
