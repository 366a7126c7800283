//! Several workers as one gateway, with real sockets on the loopback; the clients are pipelines without workers, and the test holds the
//! other ends of the TUN queues. Every packet that goes in comes out at the right place or is counted, whichever worker it came to.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;
#[path = "common/net.rs"]
mod net;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use common::{ControlEnd, SupervisorEnd, config, key};
use dataplane::drop_reason::DropReason;
use dataplane::networkio::gro::Train;
use dataplane::networkio::gso::WireBatch;
use dataplane::peers::counters::PeerCounters;
use dataplane::peers::routes::{Route, RouteTable};
use dataplane::pipeline::{PeerReport, PeerSetup, Pipeline, PipelineConfig, SourceRule, Up};
use dataplane::sys::IoChoice;
use dataplane::sys::socket::{SocketOptions, WireSocket, bind_group};
use dataplane::sys::steering::Steering;
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::virtio::VNET_HDR_LEN;
use dataplane::workers::handover::owner_of;
use dataplane::workers::manager::{Split, WorkerConfig, WorkerHandle, WorkerOrder, WorkerReport, spawn_group};
use dataplane::workers::stats::{StatsReader, StatsSnapshot, WorkerStats};
use link::message::{KeyName, KeyRefusal, Path, WorkerCommand, WorkerEvent};
use net::{Net, ip};

const BOTH: [IoChoice; 2] = [IoChoice::Syscall, IoChoice::Uring];
/// Longer than any machine needs.
const PATIENCE: Duration = Duration::from_secs(20);

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::yield_now();
    }
}

/// The inner address of a peer.
fn inner_address(peer: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(0x0a08_000a + peer)
}

const SERVER: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 1);

/// An IPv4 packet of 20 bytes of header, a number and some more.
fn packet(from: Ipv4Addr, to: Ipv4Addr, number: u32) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0, 0, 64, 253, 0, 0];
    packet.extend(from.octets());
    packet.extend(to.octets());
    packet.extend(number.to_be_bytes());
    packet.resize(24 + number as usize % 900, 7);
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    packet
}

fn number(packet: &[u8]) -> u32 {
    u32::from_be_bytes(packet[20..24].try_into().unwrap())
}

fn wire_socket(local: SocketAddr) -> WireSocket {
    WireSocket::open(&SocketOptions { bind: Some(local), ..Default::default() }).unwrap()
}

fn localhost() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

struct Group {
    workers: Vec<WorkerHandle>,
    /// In place of the TUN queues.
    queues: Vec<UnixDatagram>,
    addresses: Vec<SocketAddr>,
    control: ControlEnd,
    _supervisor: SupervisorEnd,
    told: Receiver<(u16, WorkerReport)>,
}

impl Group {
    /// Two workers with a group of sockets.
    fn of_two(io: IoChoice) -> Self {
        Self::with(io, bind_group(localhost(), 2, &SocketOptions::default()).unwrap(), |_, _| ())
    }

    fn with(
        io: IoChoice,
        sockets: Vec<WireSocket>,
        on_report: impl Fn(u16, &WorkerReport) + Send + Sync + 'static,
    ) -> Self {
        let count = sockets.len();
        let configs = (0..count as u16).map(|index| {
            let own = PipelineConfig { routes: RouteTable::default(), ..PipelineConfig::default() };
            WorkerConfig { index, config: own, ..config(io) }
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

    fn workers(&self) -> u16 {
        self.workers.len() as u16
    }

    fn owner(&self, peer: u32) -> usize {
        owner_of(peer, self.workers()).into()
    }

    /// A client with its peer and its key. `v2`: it has a peer-id. Its datagrams go to the socket of worker `to`.
    fn client(&mut self, peer: u32, v2: bool, to: usize) -> Client {
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
    fn clients(&mut self, peers: std::ops::Range<u32>, v2: bool) -> Vec<Client> {
        let clients = peers.map(|peer| self.client(peer, v2, 0)).collect::<Vec<_>>();
        self.route(&clients);
        clients
    }

    fn route(&mut self, clients: &[Client]) {
        let routes: Vec<Route> = clients
            .iter()
            .map(|client| Route { address: inner_address(client.peer).into(), prefix_len: 32, peer: client.peer })
            .collect();
        let table = Arc::new(RouteTable::new(&routes));
        self.order_all(|| WorkerOrder::SetRoutes(Arc::clone(&table)));
    }

    /// Gives every worker an order, and waits until it was carried out: orders come before commands, and this command is answered.
    fn order_all(&mut self, order: impl Fn() -> WorkerOrder) {
        for index in 0..self.workers.len() {
            self.workers[index].send(order()).unwrap();
            let nobody = KeyName { peer: 1_000, generation: 0, negotiation: 0, key_id: 0 };
            let key = key(nobody, &[0; 40], &[0; 40]);
            self.control.send_command(index, &WorkerCommand::InstallKey(key)).unwrap();
            assert_eq!(self.event(index), WorkerEvent::KeyRefused(nobody, KeyRefusal::UnknownPeer));
        }
    }

    fn event(&mut self, worker: usize) -> WorkerEvent {
        loop {
            match self.control.recv_event(worker).unwrap() {
                Some(event) => return event,
                None => self.control.wait(None).unwrap(),
            }
        }
    }

    /// Puts a packet into a TUN queue.
    fn read_by(&self, queue: usize, packet: &[u8]) {
        self.queues[queue].send(&[&[0; VNET_HDR_LEN][..], packet].concat()).unwrap();
    }

    /// The next packet that a worker wrote to its TUN queue.
    fn written_by(&self, queue: usize) -> Vec<u8> {
        let mut frame = [0; 2_000];
        let len = self.queues[queue].recv(&mut frame).unwrap();
        frame[VNET_HDR_LEN..len].to_vec()
    }

    fn nothing_written(&self) -> bool {
        self.queues.iter().all(|queue| {
            queue.set_nonblocking(true).unwrap();
            let empty = queue.recv(&mut [0; 1]).is_err();
            queue.set_nonblocking(false).unwrap();
            empty
        })
    }

    fn stats(&self) -> Vec<StatsSnapshot> {
        self.workers.iter().map(|worker| worker.stats().snapshot()).collect()
    }

    fn readers(&self) -> Vec<StatsReader> {
        self.workers.iter().map(WorkerHandle::stats).collect()
    }

    fn sum(&self, of: impl Fn(&StatsSnapshot) -> u64) -> u64 {
        self.stats().iter().map(of).sum()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|stats| stats.dropped(reason))
    }

    /// Every packet is somewhere. `sent`: datagrams of the clients; `read`: packets that the TUN gave.
    fn assert_exact(&self, clients: &[Client], sent: u64, read: u64) {
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
struct Nobody;

impl Up for Nobody {
    fn control(&mut self, _: Path, _: &[u8], _: bool) {}
    fn event(&mut self, _: WorkerEvent) {}
    fn report(&mut self, _: PeerReport) {}
}

/// The other side of a peer.
struct Client {
    peer: u32,
    v2: bool,
    up: [u8; 40],
    down: [u8; 40],
    pipeline: Pipeline,
    out: WireBatch,
    tun: TunBatch,
    socket: UdpSocket,
    gateway: SocketAddr,
    counters: Arc<PeerCounters>,
}

impl Client {
    fn new(peer: u32, v2: bool, gateway: SocketAddr) -> Self {
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

    fn socket(local: SocketAddr) -> UdpSocket {
        let socket = UdpSocket::bind(local).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        socket
    }

    fn name(&self) -> KeyName {
        KeyName { peer: self.peer, generation: 1, negotiation: 0, key_id: 0 }
    }

    fn path(&self) -> Path {
        Path { worker: 0, local: None, ifindex: 0, remote: self.socket.local_addr().unwrap(), stream: None }
    }

    /// As the gateway sees it.
    fn setup(&self) -> PeerSetup {
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
    fn begin(&mut self) {
        let path = Path { remote: self.gateway, ..self.path() };
        let wire_peer_id = self.v2.then_some(self.peer);
        self.pipeline.add_peer(1, PeerSetup { wire_peer_id, float: true, ..common::peer(path) });
        let mut own = key(KeyName { peer: 0, ..self.name() }, &self.up, &self.down);
        own.wire_peer_id = wire_peer_id;
        self.pipeline.install_key(1, own, &mut Nobody);
    }

    /// A datagram with this packet.
    fn seal(&mut self, packet: &[u8]) -> Vec<u8> {
        let mut frame = [&[0; VNET_HDR_LEN][..], packet].concat();
        self.pipeline.outbound(1, &mut frame, &mut self.out).unwrap();
        let sealed = self.out.bytes().to_vec();
        self.out.clear();
        assert!(!sealed.is_empty());
        sealed
    }

    fn send(&mut self, packet: &[u8]) {
        let sealed = self.seal(packet);
        self.socket.send_to(&sealed, self.gateway).unwrap();
    }

    /// The next packet, and where it came from.
    fn recv(&mut self) -> (Vec<u8>, SocketAddr) {
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

    fn nothing_came(&self) -> bool {
        self.socket.set_nonblocking(true).unwrap();
        let empty = self.socket.recv(&mut [0; 1]).is_err();
        self.socket.set_nonblocking(false).unwrap();
        empty
    }
}

#[test]
fn every_client_has_one_worker_and_its_queue() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..8, true);
        for round in 0..50 {
            for client in &mut clients {
                client.send(&packet(inner_address(client.peer), SERVER, round));
            }
            for client in &mut clients {
                let written = group.written_by(group.owner(client.peer));
                assert_eq!(number(&written), round);
                group.read_by(group.owner(client.peer), &packet(SERVER, inner_address(client.peer), round));
                let (got, from) = client.recv();
                assert_eq!((got, from), (packet(SERVER, inner_address(client.peer), round), client.gateway));
            }
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 400);
        for stats in group.stats() {
            assert_eq!((stats.inbound.inner_packets, stats.outbound.inner_packets), (200, 200), "half of the clients");
            let handed = [stats.inbound.handed_over, stats.outbound.handed_over, stats.inbound.taken_over];
            assert_eq!((handed, stats.outbound.taken_over), ([0; 3], 0), "the kernel knew where to");
        }
        for client in &clients {
            assert_eq!((client.counters.packets_in(), client.counters.packets_out()), (50, 50));
            assert!(client.counters.last_heard_ns() > 0 && client.counters.key_since_ns() > 0);
        }
        group.assert_exact(&clients, 400, 400);
    }
}

#[test]
fn what_the_tun_gives_to_the_wrong_worker_is_handed_over() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..8, true);
        for round in 0..100 {
            for client in &mut clients {
                group.read_by(1 - group.owner(client.peer), &packet(SERVER, inner_address(client.peer), round));
            }
            for client in &mut clients {
                assert_eq!(client.recv().0, packet(SERVER, inner_address(client.peer), round), "in order");
            }
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 800);
        for stats in group.stats() {
            let out = stats.outbound;
            assert_eq!((out.handed_over, out.taken_over, out.inner_packets), (400, 400, 400));
        }
        group.assert_exact(&clients, 0, 800);
    }
}

#[test]
fn clients_without_a_peer_id_are_found_by_their_address() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..8, false);
        // A stranger who says no peer-id either is nobody's.
        let mut stranger = Client::new(9, false, group.addresses[0]);
        stranger.begin();
        for round in 0..20 {
            for client in &mut clients {
                client.send(&packet(inner_address(client.peer), SERVER, round));
                assert_eq!(number(&group.written_by(group.owner(client.peer))), round);
            }
            stranger.send(&packet(inner_address(9), SERVER, round));
        }
        until("all are counted", || group.dropped(DropReason::UnknownPeer) == 20);
        let stats = group.stats();
        assert_eq!((stats[0].inbound.handed_over, stats[1].inbound.taken_over), (80, 80));
        assert_eq!((stats[0].inbound.inner_packets, stats[1].inbound.inner_packets), (80, 80));
        group.assert_exact(&clients, 180, 0);

        // One that went away is nobody's either.
        group.workers[1].send(WorkerOrder::RemovePeer { peer: 1 }).unwrap();
        let mut sent = 180;
        until("it is forgotten", || {
            clients[1].send(&packet(inner_address(1), SERVER, 1));
            sent += 1;
            until("it is counted", || group.sum(|stats| stats.inbound.wire_packets) == sent && group.nothing_written());
            group.workers[0].stats().dropped(DropReason::UnknownPeer) > 20
        });
    }
}

#[test]
fn a_datagram_at_the_wrong_socket_is_handed_over_and_answered_from_the_owners() {
    for io in BOTH {
        // Two sockets that are no group: everything comes to the worker that was asked.
        let mut group = Group::with(io, vec![wire_socket(localhost()), wire_socket(localhost())], |_, _| ());
        let mut clients: Vec<Client> = (0..8).map(|peer| group.client(peer, true, 1 - group.owner(peer))).collect();
        group.route(&clients);
        for round in 0..50 {
            for client in &mut clients {
                client.send(&packet(inner_address(client.peer), SERVER, round));
            }
            for client in &mut clients {
                assert_eq!(number(&group.written_by(group.owner(client.peer))), round);
                group.read_by(0, &packet(SERVER, inner_address(client.peer), round));
                let (got, from) = client.recv();
                assert_eq!(number(&got), round);
                assert_eq!(from, group.addresses[group.owner(client.peer)]);
            }
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 400);
        for stats in group.stats() {
            assert_eq!((stats.inbound.handed_over, stats.inbound.taken_over), (200, 200));
        }
        group.assert_exact(&clients, 400, 400);
    }
}

#[test]
fn clients_reach_each_other_only_when_they_may() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..6, true);
        let (mut sent, mut read) = (0, 0);
        for relay in [false, true, false] {
            group.order_all(|| WorkerOrder::SetRelay(relay));
            for (from, to) in (0..6).flat_map(|from| (0..6).map(move |to| (from, to))).filter(|(from, to)| from != to) {
                let wanted = packet(inner_address(from), inner_address(to), from * 10 + to);
                clients[from as usize].send(&wanted);
                sent += 1;
                if relay {
                    assert_eq!(clients[to as usize].recv().0, wanted, "{from} to {to}");
                } else {
                    assert_eq!(group.written_by(group.owner(from)), wanted, "the kernel decides");
                }
            }
            // To everybody, to the gateway, to nobody: the kernel's matter.
            for to in [Ipv4Addr::BROADCAST, Ipv4Addr::new(224, 0, 0, 251), SERVER, Ipv4Addr::new(192, 0, 2, 1)] {
                let wanted = packet(inner_address(3), to, 1);
                clients[3].send(&wanted);
                sent += 1;
                assert_eq!(group.written_by(1), wanted, "{to}");
            }
            group.read_by(0, &packet(SERVER, inner_address(3), 5));
            read += 1;
            assert_eq!(number(&clients[3].recv().0), 5);
        }
        until("all are counted", || group.sum(|stats| stats.outbound.written) == 33);
        assert!(group.nothing_written() && clients.iter().all(Client::nothing_came));
        assert_eq!(group.sum(|stats| stats.relayed), 30);
        // Of each of 6 clients, 3 of the 5 others are the other worker's; and one packet of three rounds came to the wrong queue.
        assert_eq!(group.sum(|stats| stats.outbound.handed_over), 18 + 3);
        group.assert_exact(&clients, sent, read);
    }
}

#[test]
fn a_source_that_is_not_the_clients_goes_nowhere() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..4, true);
        group.order_all(|| WorkerOrder::SetRelay(true));
        for from in 0..4 {
            for forged in (0..4).filter(|forged| *forged != from) {
                clients[from as usize].send(&packet(inner_address(forged), inner_address(forged), 1));
                clients[from as usize].send(&packet(inner_address(forged), SERVER, 1));
            }
            clients[from as usize].send(&packet(SERVER, inner_address(from), 1));
        }
        until("all are counted", || group.dropped(DropReason::SourceNotAllowed) == 28);
        assert!(group.nothing_written() && clients.iter().all(Client::nothing_came));
        group.assert_exact(&clients, 28, 0);
        assert!(clients.iter().all(|client| client.counters.packets_in() == 0));
    }
}

#[test]
fn a_full_ring_drops_and_counts() {
    for io in BOTH {
        let (hold, held) = channel::<()>();
        let held = std::sync::Mutex::new(held);
        let sockets = bind_group(localhost(), 2, &SocketOptions::default()).unwrap();
        // The report function stands on the worker's thread: so this worker takes nothing for a while.
        let mut group = Group::with(io, sockets, move |worker, report| {
            if worker == 1 && matches!(report, WorkerReport::Peer(PeerReport::FirstHeard { .. })) {
                let _ = held.lock().unwrap().recv();
            }
        });
        let mut clients = group.clients(0..2, true);
        group.workers[1].send(WorkerOrder::ReportWhenHeard { peer: 1 }).unwrap();
        group.order_all(|| WorkerOrder::SetRelay(false));
        let heard = |group: &Group| {
            let heard = group.told.try_iter().any(|(_, report)| matches!(report, WorkerReport::Peer(_)));
            assert!(!heard, "it is still in the report function");
            group.workers[1].stats().snapshot().inbound.batches > 0
        };
        let mut sent = 0;
        clients[1].send(&packet(inner_address(1), SERVER, 1));
        sent += 1;
        until("the worker stands", || heard(&group));
        let readers = group.readers();
        let mut read = 0;
        until("the ring is full", || {
            group.read_by(0, &packet(SERVER, inner_address(1), 1));
            read += 1;
            readers[0].dropped(DropReason::HandoverFull) > 100
        });
        until("all are read", || {
            readers[0].snapshot().outbound.handed_over + readers[0].dropped(DropReason::HandoverFull) == read
        });
        let handed = readers[0].snapshot().outbound.handed_over;
        assert!(handed > 1_000, "{handed}");
        drop(hold);
        for _ in 0..handed.min(100) {
            assert_eq!(number(&clients[1].recv().0), 1);
        }
        until("the rest is sealed", || readers[1].snapshot().outbound.inner_packets == handed);
        until("the one packet is written", || readers[1].snapshot().inbound.written == sent);
        group.assert_exact(&clients, sent, read);
        // And it goes on.
        while !clients[1].nothing_came() {}
        group.read_by(0, &packet(SERVER, inner_address(1), 2));
        assert_eq!(number(&clients[1].recv().0), 2);
    }
}

#[test]
fn a_client_that_moves_keeps_its_worker_and_a_refused_move_is_taken_back() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let mut clients = group.clients(0..2, true);
        let home = clients[1].path();
        for round in 0..20 {
            // Another source port: another hash, if the kernel went by that.
            clients[1].socket = Client::socket(localhost());
            clients[1].send(&packet(inner_address(1), SERVER, round));
            assert_eq!(number(&group.written_by(1)), round);
            let WorkerEvent::Floated { peer, path } = group.event(1) else { panic!("something else") };
            assert_eq!((peer, path.remote), (1, clients[1].path().remote));
            group.read_by(1, &packet(SERVER, inner_address(1), round));
            assert_eq!(number(&clients[1].recv().0), round, "answers follow");
        }
        let stats = group.stats();
        assert_eq!((stats[0].inbound.wire_packets, stats[1].inbound.wire_packets), (0, 20));
        // The control process takes the last one back.
        let back = Client::socket(localhost());
        let path = Path { remote: back.local_addr().unwrap(), ..home };
        group.control.send_command(1, &WorkerCommand::SetPath { peer: 1, path }).unwrap();
        group.order_all(|| WorkerOrder::SetRelay(false));
        for _ in 0..3 {
            clients[1].send(&packet(inner_address(1), SERVER, 99));
        }
        until("all are counted", || group.dropped(DropReason::WrongAddress) == 3);
        clients[1].socket = back;
        group.read_by(1, &packet(SERVER, inner_address(1), 7));
        assert_eq!(number(&clients[1].recv().0), 7);
        clients[1].send(&packet(inner_address(1), SERVER, 8));
        assert_eq!(number(&group.written_by(1)), 8);
        assert!(group.control.recv_event(1).unwrap().is_none(), "it did not move");
    }
}

#[test]
fn control_packets_of_every_workers_peers_are_those_of_known_peers() {
    for io in BOTH {
        let mut group = Group::of_two(io);
        let clients = group.clients(0..4, true);
        let stranger = Client::socket(localhost());
        let control = [4 << 3; 30];
        // All come to the first worker. Known ones are handed out first.
        let next = |group: &mut Group| loop {
            match group.control.recv_datagram(0).unwrap() {
                Some(datagram) => return datagram.path.remote,
                None => group.control.wait(None).unwrap(),
            }
        };
        for client in &clients {
            until("the first worker knows the address", || {
                let before = group.workers[0].stats().snapshot().control_received;
                stranger.send_to(&control, group.addresses[0]).unwrap();
                client.socket.send_to(&control, group.addresses[0]).unwrap();
                until("both are up", || group.workers[0].stats().snapshot().control_received == before + 2);
                let first = next(&mut group);
                let second = next(&mut group);
                assert_ne!(first, second);
                first == client.path().remote
            });
        }
        assert_eq!(group.workers[1].stats().snapshot().control_received, 0);
    }
}

#[test]
fn answers_leave_from_the_address_that_was_asked() {
    for (any, asked) in
        [("0.0.0.0:0", "127.0.0.5"), ("0.0.0.0:0", "127.0.0.77"), ("[::]:0", "127.0.0.5"), ("[::]:0", "::1")]
    {
        for io in BOTH {
            let sockets = bind_group(any.parse().unwrap(), 2, &SocketOptions::default()).unwrap();
            let mut group = Group::with(io, sockets, |_, _| ());
            let gateway = SocketAddr::new(asked.parse::<IpAddr>().unwrap(), group.addresses[0].port());
            group.addresses = vec![gateway; 2];
            let mut clients = group.clients(0..2, true);
            for client in &mut clients {
                // The supervisor knows the path from the control packets, which come to the first worker.
                client.socket.send_to(&[7 << 3; 20], gateway).unwrap();
                let path = loop {
                    match group.control.recv_datagram(0).unwrap() {
                        Some(datagram) => break datagram.path,
                        None => group.control.wait(None).unwrap(),
                    }
                };
                assert_eq!((path.local, path.remote), (Some(gateway.ip()), client.path().remote));
                let setup = PeerSetup { path, ..client.setup() };
                group.workers[group.owner(client.peer)].send(WorkerOrder::UpdatePeer(Box::new(setup))).unwrap();
                client.send(&packet(inner_address(client.peer), SERVER, 1));
                assert_eq!(number(&group.written_by(group.owner(client.peer))), 1);
                group.read_by(group.owner(client.peer), &packet(SERVER, inner_address(client.peer), 2));
                let (got, from) = client.recv();
                assert_eq!((number(&got), from), (2, gateway), "{any} {asked}");
            }
        }
    }
}

#[test]
fn an_ipv6_socket_takes_ipv4_unless_told_otherwise() {
    for only_v6 in [false, true] {
        let any = "[::]:0".parse().unwrap();
        let group = bind_group(any, 2, &SocketOptions { only_v6, ..Default::default() }).unwrap();
        let port = group[0].local_addr().unwrap().port();
        assert_eq!(group[1].local_addr().unwrap().port(), port);
        assert_eq!(UdpSocket::bind(("0.0.0.0", port)).is_ok(), only_v6);
    }
    assert!(WireSocket::open_group(&SocketOptions::default(), 2).is_err(), "no address");
    let one = bind_group(localhost(), 1, &SocketOptions::default()).unwrap();
    assert_eq!(one.len(), 1);
    assert!(UdpSocket::bind(one[0].local_addr().unwrap()).is_err());
}

#[test]
fn a_group_that_cannot_be_is_refused() {
    let links = |count: usize| link::create::<(), ()>(count).unwrap().2;
    let numbered = |index| WorkerConfig { index, ..config(IoChoice::Syscall) };
    let refused = |configs: Vec<WorkerConfig>, count| spawn_group(configs, links(count), |_, _| ()).is_err();
    assert!(refused(vec![], 1), "nobody");
    assert!(refused(vec![numbered(0), numbered(1)], 1), "a link is missing");
    assert!(refused(vec![numbered(0), numbered(2)], 2) && refused(vec![numbered(1), numbered(0)], 2), "numbers");
    let split = WorkerConfig { split: Some(Split::default()), ..numbered(1) };
    assert!(refused(vec![numbered(0), split], 2));
    assert!(!refused(vec![numbered(0), numbered(1)], 2));
    assert!(!refused(vec![WorkerConfig { split: Some(Split::default()), ..numbered(0) }], 1), "one may be split");
}

#[test]
fn the_tun_gives_each_queue_the_packets_of_its_workers_peers() {
    const QUEUES: u16 = 3;
    let net = Net::new();
    net.run(|| {
        let options = TunOptions { name: "tun0".into(), multi_queue: false, offload: false };
        let queues = TunQueue::open_group(&options, QUEUES).unwrap();
        assert!(queues.iter().all(|queue| queue.name() == "tun0"));
        ip("addr add 10.8.0.1/16 dev tun0");
        ip("-6 addr add fd08::1/64 dev tun0 nodad");
        ip("link set tun0 txqueuelen 5000 up");
        let base_v6: Ipv6Addr = "fd08::a".parse().unwrap();
        let steering = Steering { workers: QUEUES, base_v4: inner_address(0), base_v6 };
        queues[1].steer(&steering).unwrap();
        let v4 = UdpSocket::bind("10.8.0.1:0").unwrap();
        let mut frame = [0; 2_000];
        let mut take = |queue: usize| loop {
            match rustix::io::read(&queues[queue], &mut frame) {
                // What the kernel says by itself over IPv6 is not meant.
                Ok(len) if frame[VNET_HDR_LEN] >> 4 == 4 => return Some(frame[VNET_HDR_LEN..len].to_vec()),
                Ok(_) => {}
                Err(_) => return None,
            }
        };
        for peer in 0..300 {
            v4.send_to(b"packet", (inner_address(peer), 9)).unwrap();
            let owner = usize::from(owner_of(peer, QUEUES));
            let packet = take(owner).unwrap();
            assert_eq!(packet[16..20], inner_address(peer).octets());
        }
        assert!((0..QUEUES.into()).all(|queue| take(queue).is_none()));
        let v6 = UdpSocket::bind("[::]:0").unwrap();
        for peer in 0..30 {
            let to = Ipv6Addr::from_bits(base_v6.to_bits() + u128::from(peer));
            until("the interface is ready", || v6.send_to(b"packet", (to, 9)).is_ok());
            let owner = usize::from(owner_of(peer, QUEUES));
            let mut frame = [0; 2_000];
            let found = std::iter::from_fn(|| rustix::io::read(&queues[owner], &mut frame).ok().map(|_| frame))
                .any(|frame| frame[VNET_HDR_LEN + 24..VNET_HDR_LEN + 40] == to.octets());
            assert!(found, "{to}");
        }
    });
}
