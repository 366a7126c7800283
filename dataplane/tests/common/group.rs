//! Several workers as one gateway, with real sockets on the loopback; the clients are pipelines without workers, and the test holds the
//! other ends of the TUN queues.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use super::common::{self, ControlEnd, SupervisorEnd, config, key};
use dataplane::drop_reason::DropReason;
use dataplane::networkio::gro::Train;
use dataplane::networkio::gso::WireBatch;
use dataplane::peers::counters::PeerCounters;
use dataplane::peers::routes::{Route, RouteTable};
use dataplane::pipeline::{PeerReport, PeerSetup, Pipeline, PipelineConfig, SourceRule, Up};
use dataplane::sys::IoChoice;
use dataplane::sys::socket::{SocketOptions, WireSocket, bind_group};
use dataplane::sys::tundev::TunQueue;
use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::virtio::VNET_HDR_LEN;
use dataplane::workers::handover::owner_of;
use dataplane::workers::manager::{WorkerConfig, WorkerHandle, WorkerOrder, WorkerReport, spawn_group};
use dataplane::workers::stats::{StatsReader, StatsSnapshot, WorkerStats};
use link::message::{KeyName, KeyRefusal, Path, WorkerCommand, WorkerEvent};

/// Longer than any machine needs.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// The inner address of a peer.
pub fn inner_address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a08_000a + peer)
}

pub const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// An IPv4 packet of 20 bytes of header, a number and some more.
pub fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(number.to_be_bytes());
    packet.resize(24 + number as usize % 900, 7);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

pub fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

pub fn wire_socket(local: SocketAddr) -> WireSocket {
    WireSocket::open(&SocketOptions { bind: Some(local), ..Default::default() }).unwrap()
}

pub fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

pub struct Group {
    pub workers: Vec<WorkerHandle>,
    /// In place of the TUN queues.
    pub queues: Vec<UnixDatagram>,
    pub addresses: Vec<SocketAddr>,
    pub control: ControlEnd,
    pub _supervisor: SupervisorEnd,
    pub told: Receiver<(u16, WorkerReport)>,
}

impl Group {
    /// Two workers with a group of sockets.
    pub fn of_two(io: IoChoice) -> Self {
        Self::with(io, bind_group(localhost(), 2, &SocketOptions::default()).unwrap(), |_, _| ())
    }

    pub fn with(
        io: IoChoice,
        sockets: Vec<WireSocket>,
        on_report: impl Fn(u16, &WorkerReport) + Send + Sync + 'static,
    ) -> Self {
        let count = sockets.len();
        let configs = (0..count as u16).map(|index| {
            let own = PipelineConfig { routes: RouteTable::default(), ..PipelineConfig::default() };
            WorkerConfig { index, config: own, split: None, ..config(io) }
        });
        let (shared, supervisor, ends) = link::create::<(), ()>(count).unwrap();
        let (tell, told) = channel();
        let workers = spawn_group(configs.collect(), ends, move |worker, report| {
            on_report(worker, &report);
            let _ = tell.send((worker, report));
        })
        .unwrap();
        let (mut queues, mut addresses) = (Vec::new(), Vec::new());
        for (index, (worker, socket)) in (0u16..).zip(workers.iter().zip(sockets)) {
            let (ours, theirs) = UnixDatagram::pair().unwrap();
            ours.set_read_timeout(Some(PATIENCE)).unwrap();
            addresses.push(socket.local_addr().unwrap());
            let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
            let path = Path { worker: index, local: None, ifindex: 0, remote: nowhere, stream: None };
            worker.send(WorkerOrder::AttachSocket { socket, path }).unwrap();
            let tun = TunQueue::from_packets(theirs.into(), TunOffload::default()).unwrap();
            worker.send(WorkerOrder::AttachTun(tun)).unwrap();
            queues.push(ours);
        }
        Self { workers, queues, addresses, control: shared.into_control_end(), _supervisor: supervisor, told }
    }

    pub fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    pub fn owner(&self, peer: u32) -> usize {
        owner_of(peer, self.workers()).into()
    }

    /// A client with its peer and its key. `v2`: it has a peer-id. Its datagrams go to the socket of worker `to`.
    pub fn client(&mut self, peer: u32, v2: bool, to: usize) -> Client {
        let mut client = Client::new(peer, v2, self.addresses[to]);
        let owner = self.owner(peer);
        let setup = client.setup();
        self.workers[owner].send(WorkerOrder::AddPeer(Box::new(setup))).unwrap();
        let mut own = key(client.name(), &client.down, &client.up);
        own.wire_peer_id = v2.then_some(peer);
        self.control.send_command(owner, &WorkerCommand::InstallKey(own)).unwrap();
        assert_eq!(self.event(owner), WorkerEvent::KeyInstalled(client.name()));
        assert_eq!(self.event(owner), WorkerEvent::KeySending(client.name()));
        client.begin();
        client
    }

    /// Clients with these handles, and routes to all of them.
    pub fn clients(&mut self, peers: std::ops::Range<u32>, v2: bool) -> Vec<Client> {
        let clients = peers.map(|peer| self.client(peer, v2, 0)).collect::<Vec<_>>();
        self.route(&clients);
        clients
    }

    pub fn route(&mut self, clients: &[Client]) {
        let routes: Vec<Route> = clients
            .iter()
            .map(|client| Route { address: inner_address(client.peer).into(), prefix_len: 32, peer: client.peer })
            .collect();
        let table = Arc::new(RouteTable::new(&routes));
        self.order_all(|| WorkerOrder::SetRoutes(Arc::clone(&table)));
    }

    /// Gives every worker an order, and waits until it was carried out: orders come before commands, and this command is answered.
    pub fn order_all(&mut self, order: impl Fn() -> WorkerOrder) {
        for index in 0..self.workers.len() {
            self.workers[index].send(order()).unwrap();
            let nobody = KeyName { peer: 1_000, generation: 0, negotiation: 0, key_id: 0 };
            let key = key(nobody, &[0; 40], &[0; 40]);
            self.control.send_command(index, &WorkerCommand::InstallKey(key)).unwrap();
            assert_eq!(self.event(index), WorkerEvent::KeyRefused(nobody, KeyRefusal::UnknownPeer));
        }
    }

    pub fn event(&mut self, worker: usize) -> WorkerEvent {
        loop {
            match self.control.recv_event(worker).unwrap() {
                Some(event) => return event,
                None => self.control.wait(None).unwrap(),
            }
        }
    }

    /// Puts a packet into a TUN queue.
    pub fn read_by(&self, queue: usize, packet: &[u8]) {
        self.queues[queue].send(&[&[0; VNET_HDR_LEN][..], packet].concat()).unwrap();
    }

    /// The next packet that a worker wrote to its TUN queue.
    pub fn written_by(&self, queue: usize) -> Vec<u8> {
        let mut frame = [0; 2_000];
        let len = self.queues[queue].recv(&mut frame).unwrap();
        frame[VNET_HDR_LEN..len].to_vec()
    }

    pub fn nothing_written(&self) -> bool {
        self.queues.iter().all(|queue| {
            queue.set_nonblocking(true).unwrap();
            let empty = queue.recv(&mut [0; 1]).is_err();
            queue.set_nonblocking(false).unwrap();
            empty
        })
    }

    pub fn stats(&self) -> Vec<StatsSnapshot> {
        self.workers.iter().map(|worker| worker.stats().snapshot()).collect()
    }

    pub fn readers(&self) -> Vec<StatsReader> {
        self.workers.iter().map(WorkerHandle::stats).collect()
    }

    pub fn sum(&self, of: impl Fn(&StatsSnapshot) -> u64) -> u64 {
        self.stats().iter().map(of).sum()
    }

    pub fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|stats| stats.dropped(reason))
    }

    /// Every packet is somewhere. `sent`: datagrams of the clients; `read`: packets that the TUN gave.
    pub fn assert_exact(&self, clients: &[Client], sent: u64, read: u64) {
        // A packet is here before the counter says that it was written.
        until("everything is counted", || {
            let written = self.sum(|stats| stats.inbound.written + stats.outbound.written);
            let sum = |of: fn(&StatsSnapshot) -> u64| self.sum(of);
            let inner = sum(|stats| stats.inbound.inner_packets + stats.outbound.inner_packets);
            let lost = self.dropped(DropReason::TunFull) + self.dropped(DropReason::TunError);
            inner == written + sum(|stats| stats.relayed) + lost
        });
        let all = format!("{:#?}", self.stats());
        const OUTBOUND: [DropReason; 3] = [DropReason::NoRoute, DropReason::NoKey, DropReason::HandoverFull];
        const TUN: [DropReason; 2] = [DropReason::TunFull, DropReason::TunError];
        let of = |reasons: &[DropReason]| reasons.iter().map(|reason| self.dropped(*reason)).sum::<u64>();
        let refused = self.sum(StatsSnapshot::dropped_total) - of(&OUTBOUND) - of(&TUN);
        let (inner_in, inner_out) =
            (self.sum(|stats| stats.inbound.inner_packets), self.sum(|stats| stats.outbound.inner_packets));
        let relayed = self.sum(|stats| stats.relayed);
        assert_eq!(sent, self.sum(|stats| stats.inbound.wire_packets), "received: {all}");
        assert_eq!(sent, inner_in + refused, "opened: {all}");
        assert_eq!(
            inner_in,
            self.sum(|stats| stats.inbound.written) + relayed + of(&TUN),
            "to the TUN, or relayed: {all}"
        );
        assert_eq!(read + relayed, inner_out + of(&OUTBOUND), "sealed: {all}");
        assert_eq!(inner_out, self.sum(|stats| stats.outbound.written), "sent: {all}");
        for direction in [|stats: &StatsSnapshot| stats.inbound, |stats: &StatsSnapshot| stats.outbound] {
            let (handed, taken) =
                (self.sum(|stats| direction(stats).handed_over), self.sum(|stats| direction(stats).taken_over));
            assert_eq!(handed, taken, "{all}");
        }
        let credited =
            |count: fn(&PeerCounters) -> u64| clients.iter().map(|client| count(&client.counters)).sum::<u64>();
        assert_eq!((credited(PeerCounters::packets_in), credited(PeerCounters::packets_out)), (inner_in, inner_out));
        let bytes = |of: fn(&StatsSnapshot) -> u64| self.sum(of);
        assert_eq!(credited(PeerCounters::bytes_in), bytes(|stats| stats.inbound.inner_bytes));
        assert_eq!(credited(PeerCounters::bytes_out), bytes(|stats| stats.outbound.inner_bytes));
    }
}

/// What a client hears besides packets.
pub struct Nobody;

impl Up for Nobody {
    fn control(&mut self, _: Path, _: &[u8], _: bool) {}
    fn event(&mut self, _: WorkerEvent) {}
    fn report(&mut self, _: PeerReport) {}
}

/// The other side of a peer.
pub struct Client {
    pub peer: u32,
    pub v2: bool,
    pub up: [u8; 40],
    pub down: [u8; 40],
    pub pipeline: Pipeline,
    pub out: WireBatch,
    pub tun: TunBatch,
    pub socket: UdpSocket,
    pub gateway: SocketAddr,
    pub counters: Arc<PeerCounters>,
}

impl Client {
    pub fn new(peer: u32, v2: bool, gateway: SocketAddr) -> Self {
        let stats = Arc::<WorkerStats>::default();
        let config = PipelineConfig { routes: RouteTable::all_to(0), ..PipelineConfig::default() };
        let local = if gateway.is_ipv6() { SocketAddr::from((Ipv6Addr::LOCALHOST, 0)) } else { localhost() };
        Self {
            peer,
            v2,
            up: [peer as u8 + 1; 40],
            down: [peer as u8 + 101; 40],
            pipeline: Pipeline::new(stats, config),
            out: WireBatch::new(0, 64, false),
            tun: TunBatch::new(TunOffload::default()),
            socket: Self::socket(local),
            gateway,
            counters: Arc::default(),
        }
    }

    pub fn socket(local: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind(local).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    pub fn name(&self) -> KeyName {
        KeyName { peer: self.peer, generation: 1, negotiation: 0, key_id: 0 }
    }

    pub fn path(&self) -> Path {
        Path { worker: 0, local: None, ifindex: 0, remote: self.socket.local_addr().unwrap(), stream: None }
    }

    /// As the gateway sees it.
    pub fn setup(&self) -> PeerSetup {
        PeerSetup {
            peer: self.peer,
            path: self.path(),
            wire_peer_id: self.v2.then_some(self.peer),
            float: self.v2,
            source: SourceRule::Routed,
            counters: Arc::clone(&self.counters),
            ..common::peer(self.path())
        }
    }

    /// The client's own peer and key: the gateway.
    pub fn begin(&mut self) {
        let path = Path { remote: self.gateway, ..self.path() };
        let wire_peer_id = self.v2.then_some(self.peer);
        self.pipeline.add_peer(1, PeerSetup { wire_peer_id, float: true, ..common::peer(path) });
        let mut own = key(KeyName { peer: 0, ..self.name() }, &self.up, &self.down);
        own.wire_peer_id = wire_peer_id;
        self.pipeline.install_key(1, own, &mut Nobody);
    }

    /// A datagram with this packet.
    pub fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; VNET_HDR_LEN][..], packet].concat();
        self.pipeline.outbound(1, &mut frame, &mut self.out).unwrap();
        let sealed = self.out.bytes().to_vec();
        self.out.clear();
        assert!(!sealed.is_empty());
        sealed
    }

    pub fn send(&mut self, packet: &[u8]) {
        let sealed = self.seal(packet);
        self.socket.send_to(&sealed, self.gateway).unwrap();
    }

    /// The next packet, and where it came from.
    pub fn recv(&mut self) -> (Vec<u8>, SocketAddr) {
        let mut datagram = [0; 2_000];
        let (len, from) = self.socket.recv_from(&mut datagram).unwrap();
        let path = Path { remote: from, ..self.path() };
        let train = Train { bytes: &mut datagram[..len], segment: len, path };
        self.pipeline.inbound(1, train, &mut self.tun, &mut Nobody);
        let frames: Vec<Vec<u8>> = self.tun.frames().map(<[u8]>::to_vec).collect();
        self.tun.clear();
        assert_eq!(frames.len(), 1, "client {}", self.peer);
        (frames[0][VNET_HDR_LEN..].to_vec(), from)
    }

    pub fn nothing_came(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let empty = self.socket.recv(&mut [0; 1]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        empty
    }
}
