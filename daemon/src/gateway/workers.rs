//! The workers as one group: started together, ordered one by one or all at once.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use dataplane::datachannel::aead::Aead;
use dataplane::peers::routes::{Route, RouteTable};
use dataplane::pipeline::PipelineConfig;
use dataplane::sys::socket::{SocketOptions, SocketWatch, WireSocket, bind_group};
use dataplane::sys::steering::{Steered, Steering};
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::workers::manager::{self, WorkerHandle, WorkerOrder, WorkerReport};
use dataplane::workers::stats::StatsSnapshot;
use link::WorkerEnd;
use tokio::sync::mpsc;

use crate::cli::DataPath;
use crate::data_path::{self, Seat};
use crate::exit::{Exit, Fatal};

/// Reports of all workers that wait for the supervisor; one more than this is dropped. A peer's silence is told once: were it lost,
/// its session would stay for ever. So there is room for all peers of a large gateway, whose network fails at one moment; what is not
/// used costs nothing.
const REPORTS: usize = 1 << 20;

/// What each worker reads and writes: the sockets of one address and the queues of one device, in the order of the workers.
#[derive(Debug)]
pub(super) struct Ends {
    /// One for each worker.
    pub(super) sockets: Vec<WireSocket>,
    /// One for each worker.
    pub(super) queues: Vec<TunQueue>,
    /// What [`steer`] said.
    pub(super) steered: Option<io::Result<Steered>>,
}

/// So long a port may be taken: a gateway that was killed a moment ago has gone before its io_uring rings have, and they hold its sockets.
const PORT_PATIENCE: Duration = Duration::from_secs(2);
const PORT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the sockets. Blocks for up to two seconds where the port is taken.
///
/// # Errors
/// [`Exit::Privilege`] for a port that needs one, [`Exit::Other`] for one that is taken or an address that is not ours.
pub(super) fn bind(address: SocketAddr, options: &SocketOptions, workers: u16) -> Result<Vec<WireSocket>, Fatal> {
    let until = Instant::now() + PORT_PATIENCE;
    let bound = loop {
        match bind_group(address, workers, options) {
            Err(error) if error.raw_os_error() == Some(libc::EADDRINUSE) && Instant::now() < until => {
                std::thread::sleep(PORT_PAUSE);
            }
            bound => break bound,
        }
    };
    bound.map_err(|error| {
        let (exit, hint) = match error.raw_os_error() {
            Some(libc::EACCES | libc::EPERM) => (Exit::Privilege, " (ports below 1024 need CAP_NET_BIND_SERVICE)"),
            Some(libc::EADDRINUSE) => (Exit::Other, " (another server listens there: `ss -lunp` names it)"),
            Some(libc::EADDRNOTAVAIL) => (Exit::Config, " (`local` must be an address of this host)"),
            _ => (Exit::Other, ""),
        };
        Fatal::new(exit, format!("cannot listen on {address}: {error}{hint}"))
    })
}

/// Opens the queues of the TUN device.
///
/// # Errors
/// [`Exit::Privilege`] with the command that helps.
pub(super) fn open(name: &str, offload: bool, workers: u16) -> Result<Vec<TunQueue>, Fatal> {
    let options = TunOptions { name: name.to_owned(), multi_queue: false, offload };
    TunQueue::open_group(&options, workers).map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))
}

/// Lets the kernel find the worker of an inner destination, of which there is a question only with several workers. Wants CAP_BPF, so it
/// is to be called before privileges are dropped; where it fails, packets are handed over, which costs a little and is said.
pub(super) fn steer(queues: &[TunQueue], steering: &Steering) -> Option<io::Result<Steered>> {
    queues.first().filter(|_| steering.workers > 1).map(|queue| queue.steer(steering))
}

/// The running workers.
pub(super) struct Workers {
    handles: Vec<WorkerHandle>,
    seats: Vec<Seat>,
    /// What their sockets dropped is read here; `None`: there was no descriptor to spare, and it stays unknown.
    watches: Vec<Option<SocketWatch>>,
    /// How the TUN's packets find their worker; `None`: they do not, or there is one worker.
    steered: Option<Steered>,
    /// The first thing that the kernel refused of it, as a sentence.
    handing_over: Option<String>,
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
        let config = |(index, seat): (u16, &Seat)| {
            let config = PipelineConfig { routes: RouteTable::default(), aead: aead.clone() };
            data_path::worker_config(options, index, seat, config)
        };
        let configs = (0..).zip(&seats).map(config).collect();
        let whys: Vec<String> = seats.iter().map(|seat| seat.why.clone()).collect();
        let handles = manager::spawn_group(configs, links, move |worker, report| {
            let report = match report {
                WorkerReport::Pinned(what) => {
                    let why = whys.get(usize::from(worker)).map(String::as_str).unwrap_or_default();
                    WorkerReport::Pinned(format!("{what}{why}"))
                }
                report => report,
            };
            // The supervisor is behind by thousands of reports: it knows that something is wrong.
            let _ = reports.try_send((worker, report));
        });
        let failed = |error| Fatal::new(Exit::Other, format!("the workers could not be started: {error}"));
        let handles = handles.map_err(failed)?;
        Ok((Workers { handles, seats, watches: Vec::new(), steered: None, handing_over: None }, incoming))
    }

    /// Gives them their sockets and queues.
    pub(super) fn attach(&mut self, ends: Ends, listen: SocketAddr) {
        match ends.steered {
            Some(Ok(steered)) => {
                self.steered = Some(steered);
                // Whether the kernel takes routes is known before there are any.
                self.steer_by(&[]);
            }
            Some(Err(error)) => self.hand_over(format!(
                "packets from the TUN are handed over between workers, the kernel does not steer them: {error}"
            )),
            None => {}
        }
        self.watches = ends.sockets.iter().map(|socket| socket.watch().ok()).collect();
        for ((worker, queue), socket) in (0..).zip(ends.queues).zip(ends.sockets) {
            // Of what comes in on a socket that is not connected, the source is known by each datagram.
            let path = link::Path { worker, local: None, ifindex: 0, remote: listen, stream: None };
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
    pub(super) fn publish(&mut self, routes: &[Route]) {
        self.steer_by(routes);
        let table = Arc::new(RouteTable::new(routes));
        self.order_all(|| WorkerOrder::SetRoutes(Arc::clone(&table)));
    }

    fn steer_by(&mut self, routes: &[Route]) {
        match self.steered.as_mut().map(|steered| steered.follow(routes)) {
            None => {}
            Some(Ok(())) => self.handing_over = None,
            Some(Err(error)) => self.hand_over(format!(
                "packets from the TUN are handed over between workers where a client's address does not follow its peer-id \
                 (a remembered lease, `ifconfig-push`, `iroute`), the kernel does not take its route: {error}"
            )),
        }
    }

    /// Says once that this is so.
    fn hand_over(&mut self, sentence: String) {
        if self.handing_over.is_none() {
            tracing::info!("{sentence}");
            self.handing_over = Some(sentence);
        }
    }

    /// Why packets from the TUN are handed over, if the kernel does not do what it could about it.
    pub(super) fn handing_over(&self) -> Option<&str> {
        self.handing_over.as_deref()
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

    /// Datagrams that the kernel dropped at the socket of this worker, because its buffer was full, as far as that is known.
    pub(super) fn lost(&self, worker: u16) -> u64 {
        let watch = self.watches.get(usize::from(worker)).and_then(Option::as_ref);
        watch.and_then(|watch| watch.dropped().ok()).map_or(0, u64::from)
    }

    /// Each with its seat.
    pub(super) fn each(&self) -> impl Iterator<Item = (u16, &WorkerHandle, &Seat)> {
        (0..).zip(&self.handles).zip(&self.seats).map(|((index, handle), seat)| (index, handle, seat))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A socket whose buffer is full, with a few datagrams dropped.
    fn overrun() -> WireSocket {
        let bind = Some("127.0.0.1:0".parse().unwrap());
        let socket = WireSocket::open(&SocketOptions { bind, receive_buffer: Some(1), ..Default::default() }).unwrap();
        let sender = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        for _ in 0..20 {
            sender.send_to(&[0; 2_000], socket.local_addr().unwrap()).unwrap();
        }
        socket
    }

    #[test]
    fn what_a_workers_socket_dropped_is_its_own() {
        let quiet = WireSocket::open(&SocketOptions::default()).unwrap();
        let watches = vec![quiet.watch().ok(), overrun().watch().ok(), None];
        let workers = Workers { handles: Vec::new(), seats: Vec::new(), watches, steered: None, handing_over: None };
        assert!(workers.lost(1) > 0);
        assert_eq!((workers.lost(0), workers.lost(2), workers.lost(9)), (0, 0, 0));
    }
}
