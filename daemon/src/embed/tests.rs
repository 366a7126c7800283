//! Tunnels to a peer in this process: a gateway's control plane and worker on a UDP socket of the loopback interface, which sends every
//! packet back with its addresses exchanged. No privilege is needed.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use controlplane::{Admission, Event, PeerUsage, ReplyLimit};
use dataplane::datachannel::aead::Aead;
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::{PeerSetup, PipelineConfig, SourceRule};
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::tundev::TunQueue;
use dataplane::tun::checksum::{Sum, pseudo_header};
use dataplane::tun::coalesce::TunOffload;
use dataplane::tun::virtio::{F_NEEDS_CSUM, GSO_TCPV4, VnetHeader};
use dataplane::workers::manager::{self, OffloadChoice, Tuning, WorkerConfig, WorkerHandle, WorkerOrder};
use link::EventBell;

use super::pipe::{self, Pipe};
use super::room;
use super::*;
use crate::config::agreed::ClientProfile;
use crate::control_plane::ControlPlane;
use crate::control_plane::tests::Certificates;
use crate::gateway::pki::Purpose;
use crate::messages::{FromControl, SupervisorEnd, ToControl, path_out};

/// Long enough for the slowest machine.
const PATIENCE: Duration = Duration::from_secs(60);
const OURS: Ipv4Addr = Ipv4Addr::new(10, 8, 0, 2);

/// The threads are the process's, so these tests take turns.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The threads of the library that run.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.ok()?.path().join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| name.trim().to_owned()).collect();
    names.retain(|name| name.starts_with("minivpn-c") || name.starts_with("minivpn-w"));
    names.sort();
    names
}

fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come; threads: {:?}", threads());
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// What the peer counts.
#[derive(Default)]
struct Seen {
    stop: AtomicBool,
    logins: AtomicUsize,
    ended: AtomicUsize,
}

/// A running gateway.
struct Peer {
    address: SocketAddr,
    certificates: Certificates,
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

impl Peer {
    /// One that admits everybody, or nobody.
    fn start(admits: bool) -> Peer {
        let certificates = Certificates::new();
        let mut setup = certificates.gateway(1, 1);
        setup.max_clients = 1_000;
        setup.replies = ReplyLimit { count: 100_000, seconds: 1 };
        let bind = Some("127.0.0.1:0".parse().unwrap());
        let socket = WireSocket::open(&SocketOptions { bind, ..SocketOptions::default() }).unwrap();
        let (address, seen) = (socket.local_addr().unwrap(), Arc::<Seen>::default());
        let counted = Arc::clone(&seen);
        let thread = std::thread::spawn(move || {
            let mut ground = Ground::new(socket, admits, counted);
            ground.end.send(&ToControl::ConfigureGateway(Box::new(setup))).unwrap();
            ground.run();
        });
        Peer { address, certificates, seen, thread: Some(thread) }
    }

    fn profile(&self) -> ClientProfile {
        profile(&self.certificates, self.address)
    }

    fn connect(&self) -> Tunnel {
        Tunnel::connect_blocking(self.profile(), Options::default()).unwrap()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.seen.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn profile(certificates: &Certificates, address: SocketAddr) -> ClientProfile {
    let tls = certificates.tls("client", Purpose::Client, PeerUsage::Server);
    let key = String::from_utf8(tls.key_pem.0.clone()).unwrap();
    let text = format!(
        "client\ndev tun\nremote {} {}\nremote-cert-tls server\n<ca>\n{}</ca>\n<cert>\n{}</cert>\n<key>\n{key}</key>\n",
        address.ip(),
        address.port(),
        tls.ca_pem,
        tls.cert_pem,
    );
    parse_profile(&text).unwrap()
}

/// Everything of the gateway, on one thread and its worker's.
struct Ground {
    plane: ControlPlane,
    end: SupervisorEnd,
    worker: WorkerHandle,
    inside: Pipe,
    admits: bool,
    seen: Arc<Seen>,
}

impl Ground {
    fn new(socket: WireSocket, admits: bool, seen: Arc<Seen>) -> Ground {
        let (control, worker) = (EventBell::new().unwrap(), EventBell::new().unwrap());
        let (plane, end, link) = link::create_within(&control, &worker).unwrap();
        let worker = manager::spawn(worker_config(), link, |_| {}).unwrap();
        let (inside, queue) = pipe::pair().unwrap();
        let path =
            link::Path { worker: 0, local: None, ifindex: 0, remote: "127.0.0.1:9".parse().unwrap(), stream: None };
        worker.send(WorkerOrder::AttachSocket { socket, path }).unwrap();
        let queue = TunQueue::from_packets(queue, TunOffload::default()).unwrap();
        worker.send(WorkerOrder::AttachTun(queue)).unwrap();
        Ground { plane: ControlPlane::new(plane), end, worker, inside, admits, seen }
    }

    fn run(&mut self) {
        while !self.seen.stop.load(SeqCst) {
            self.plane.turn().unwrap();
            while let Some(said) = self.end.recv().unwrap() {
                self.hear(said);
            }
            let mut packet = [0; 2_048];
            let mut idle = true;
            while let Ok(length @ 20..) = self.inside.try_recv(&mut packet) {
                idle = false;
                exchange_addresses(&mut packet[..length]);
                let _ = self.inside.try_send(&packet[..length]);
            }
            if idle {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    fn hear(&mut self, said: FromControl) {
        match said {
            FromControl::Event(Event::Login(login)) => {
                self.seen.logins.fetch_add(1, SeqCst);
                let (generation, negotiation) = (login.generation, login.negotiation);
                if !self.admits {
                    let (text, reason) = ("AUTH_FAILED,not today".into(), "not today".into());
                    return self.end.send(&ToControl::Refuse { generation, negotiation, text, reason }).unwrap();
                }
                let peer = PeerSetup {
                    generation: None,
                    peer: login.peer,
                    path: path_out(&login.path),
                    wire_peer_id: login.wire_peer_id,
                    replay_window: 8_192,
                    replay_time_s: 15,
                    mssfix: None,
                    ping_s: 0,
                    ping_restart_s: 0,
                    float: false,
                    source: SourceRule::Any,
                    counters: Arc::default(),
                };
                self.worker.send(WorkerOrder::AddPeer(Box::new(peer))).unwrap();
                // Who came last gets the packets.
                let routes = Arc::new(RouteTable::all_to(login.peer));
                self.worker.send(WorkerOrder::SetRoutes(routes)).unwrap();
                let push =
                    ["topology subnet", "ifconfig 10.8.0.2 255.255.255.0", "route-gateway 10.8.0.1", "tun-mtu 1400"];
                let push = push.map(str::to_owned).to_vec();
                let admission = Box::new(Admission { push, token: None });
                self.end.send(&ToControl::Admit { generation, negotiation, admission }).unwrap();
            }
            FromControl::Event(Event::Ended { .. }) => _ = self.seen.ended.fetch_add(1, SeqCst),
            _ => {}
        }
    }
}

fn worker_config() -> WorkerConfig {
    WorkerConfig {
        index: 9,
        cpu: None,
        split: None,
        tuning: Tuning::default(),
        io: IoChoice::Syscall,
        offload: OffloadChoice { tun: false, ..OffloadChoice::default() },
        config: PipelineConfig { routes: RouteTable::default(), aead: Aead::default() },
    }
}

fn exchange_addresses(packet: &mut [u8]) {
    let (first, second) = packet[12..20].split_at_mut(4);
    first.swap_with_slice(second);
}

/// An IPv4 packet of that length, from and to which bytes follow from its number.
fn packet(number: u16, length: u16) -> Vec<u8> {
    let mut packet = vec![number as u8; usize::from(length)];
    packet[..20].fill(0);
    packet[0] = 0x45;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet[4..6].copy_from_slice(&number.to_be_bytes());
    (packet[8], packet[9]) = (64, 253);
    packet[12..16].copy_from_slice(&OURS.octets());
    packet[16..20].copy_from_slice(&[10, 8, 0, 1]);
    packet
}

fn echo(tunnel: &Tunnel, count: u16) {
    let mut came = [0; 2_048];
    for number in 1..=count {
        let sent = packet(number, 20 + number % 1_300);
        tunnel.send_blocking(&sent).unwrap();
        let length = tunnel.recv_timeout(&mut came, PATIENCE).unwrap().expect("an answer");
        exchange_addresses(&mut came[..length]);
        assert_eq!(came[..length], sent, "packet {number}");
    }
}

#[test]
fn a_tunnel_carries_packets_and_says_what_was_settled() {
    let _alone = alone();
    let peer = Peer::start(true);
    let tunnel = peer.connect();
    let parameters = tunnel.parameters().clone();
    let inner = Inner4 { address: OURS, prefix: 24, gateway: Some(Ipv4Addr::new(10, 8, 0, 1)) };
    assert_eq!((parameters.ipv4, parameters.mtu, parameters.remote), (Some(inner), 1_400, peer.address));
    assert_eq!((parameters.cipher, parameters.ipv6), ("AES-256-GCM", None));
    echo(&tunnel, 500);
    assert_eq!(threads(), ["minivpn-control", "minivpn-worker"]);
    assert!(matches!(tunnel.send_blocking(&[]), Err(TunnelError::Packet { length: 0 })));
    assert_eq!(tunnel.try_recv(&mut [0; 64]).unwrap(), None);
    tunnel.close_blocking().unwrap();
    until("the server's word of the end", || peer.seen.ended.load(SeqCst) == 1);
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn both_kinds_of_worker_and_all_forms_of_waiting_carry_the_same() {
    let _alone = alone();
    let peer = Peer::start(true);
    let options = Options { own_worker: true, ..Options::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (reader, writer) = Tunnel::connect(peer.profile(), options).await.unwrap().split();
        let (mut out, mut into) = (Batch::new(8, 1_400), Batch::new(8, 1_400));
        for number in 1..=8 {
            assert!(out.push(&packet(number, 100)).unwrap());
        }
        writer.send_batch(&out).await.unwrap();
        let mut numbers = Vec::new();
        while numbers.len() < 8 {
            reader.recv_batch(&mut into).await.unwrap();
            numbers.extend(into.iter().map(|packet| packet[5]));
        }
        assert_eq!(numbers, (1..=8).collect::<Vec<u8>>());
        let waits = tokio::spawn(async move { reader.recv(&mut [0; 64]).await });
        tokio::task::yield_now().await;
        writer.shutdown();
        assert!(matches!(waits.await.unwrap(), Err(TunnelError::Closed)));
    });
    until("the end of the threads", || threads().is_empty());
}

const SEGMENT: usize = 1_000;
const SEGMENTS: usize = 20;

/// A TCP packet that carries these bytes at that place of its stream. Its checksum holds only the pseudo-header's sum.
fn tcp(at: usize, payload: &[u8]) -> Vec<u8> {
    let mut packet = packet(0, 40 + payload.len() as u16);
    (packet[6], packet[9]) = (0x40, 6);
    packet[20..40].fill(0);
    packet[24..28].copy_from_slice(&(at as u32).to_be_bytes());
    (packet[32], packet[33]) = (5 << 4, 0x10);
    packet[40..].copy_from_slice(payload);
    let sum = Sum::default().bytes(&packet[..20]).checksum();
    packet[10..12].copy_from_slice(&sum);
    let partial = pseudo_header(&packet[12..20], 6, packet.len() - 20).partial();
    packet[36..38].copy_from_slice(&partial);
    packet
}

fn stream() -> Vec<u8> {
    (0..SEGMENTS * SEGMENT).map(|at| (at % 251) as u8).collect()
}

#[test]
fn a_program_gets_each_packet_alone_even_where_they_could_be_joined() {
    let _alone = alone();
    let peer = Peer::start(true);
    let tunnel = peer.connect();
    let stream = stream();
    for (number, payload) in stream.chunks(SEGMENT).enumerate() {
        let mut packet = tcp(number * SEGMENT, payload);
        let sum = Sum::default().bytes(&packet[20..]).checksum();
        packet[36..38].copy_from_slice(&sum);
        tunnel.send_blocking(&packet).unwrap();
    }
    let mut came = vec![0; 65_535];
    for payload in stream.chunks(SEGMENT) {
        let length = tunnel.recv_timeout(&mut came, PATIENCE).unwrap().expect("an answer");
        assert_eq!(&came[40..length], payload);
    }
}

#[test]
fn a_stack_gets_packets_joined_and_what_it_gives_joined_is_split() {
    let _alone = alone();
    let peer = Peer::start(true);
    let stream = stream();
    let joined = tcp(0, &stream);
    let described = VnetHeader {
        flags: F_NEEDS_CSUM,
        gso_type: GSO_TCPV4,
        hdr_len: 40,
        gso_size: SEGMENT as u16,
        csum_start: 20,
        csum_offset: 16,
    };
    let (mut out, mut into) = (Frames::new(0), Frames::new(200_000));
    out.push_with(joined.len(), |room| (room.copy_from_slice(&joined), described));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let options = Options { own_worker: true, ..Options::default() };
        let trunk = Trunk::connect(peer.profile(), options).await.unwrap();
        let (begun, mut longest) = (Instant::now(), 0);
        // The peer answers packet by packet. How many of them are here at a time is up to the scheduler.
        while longest <= usize::from(trunk.parameters().mtu) {
            assert!(begun.elapsed() < PATIENCE, "the longest had {longest} bytes");
            trunk.send(&out).await.unwrap();
            let mut bytes = Vec::new();
            while bytes.len() < stream.len() {
                tokio::time::timeout(PATIENCE, trunk.receive(&mut into)).await.unwrap().unwrap();
                for (header, packet) in into.packets() {
                    assert_eq!(header.gso_type == GSO_TCPV4, packet.len() > 40 + SEGMENT);
                    bytes.extend_from_slice(&packet[40..]);
                    longest = longest.max(packet.len());
                }
            }
            assert!(bytes == stream);
        }
        trunk.close().await.unwrap();
    });
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn a_refusal_is_an_error_of_its_own() {
    let _alone = alone();
    let peer = Peer::start(false);
    match Tunnel::connect_blocking(peer.profile(), Options::default()) {
        Err(ConnectError::AuthFailed { reason, .. }) => assert!(reason.contains("not today"), "{reason}"),
        other => panic!("{other:?}"),
    }
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn connecting_that_is_dropped_at_any_moment_leaves_no_thread() {
    let _alone = alone();
    let peer = Peer::start(true);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (profile, mut established) = (peer.profile(), 0);
    for step in 0..60u64 {
        let pause = Duration::from_micros(step * step * 40);
        let connecting = Tunnel::connect(profile.clone(), Options::default());
        established += usize::from(runtime.block_on(async { tokio::time::timeout(pause, connecting).await }).is_ok());
    }
    println!("{established} of 60 were established");
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn silence_and_a_closed_port_are_two_errors() {
    let _alone = alone();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let profile = profile(&Certificates::new(), silent.local_addr().unwrap());
    let options = || Options { connect_timeout: Duration::from_millis(300), ..Options::default() };
    let error = Tunnel::connect_blocking(profile.clone(), options()).unwrap_err();
    assert!(matches!(error, ConnectError::Timeout { stage: Stage::Wait, .. }), "{error:?}");
    drop(silent);
    let error = Tunnel::connect_blocking(profile, Options::default()).unwrap_err();
    assert!(matches!(error, ConnectError::Unreachable(_)), "{error:?}");
    until("the end of the threads", || threads().is_empty());
}

/// What an observer hears.
fn heard(options: Options) -> (Options, Receiver<Progress>) {
    let (say, heard) = channel();
    (options.on_progress(move |progress| _ = say.send(progress.clone())), heard)
}

/// A tunnel to nobody that is being made on a thread of its own, and that has sent its reset.
fn connecting_to(silent: &UdpSocket) -> JoinHandle<Result<Tunnel, ConnectError>> {
    let profile = profile(&Certificates::new(), silent.local_addr().unwrap());
    let (options, heard) = heard(Options::default());
    let connecting = std::thread::spawn(move || Tunnel::connect_blocking(profile, options));
    assert!(heard.iter().any(|progress| progress == Progress::Stage(Stage::Wait)));
    connecting
}

#[test]
fn an_observer_hears_every_stage_in_its_order() {
    let _alone = alone();
    let peer = Peer::start(true);
    let (options, heard) = heard(Options::default());
    let tunnel = Tunnel::connect_blocking(peer.profile(), options).unwrap();
    echo(&tunnel, 20);
    tunnel.close_blocking().unwrap();
    let stages = [
        Stage::Resolve,
        Stage::Connect,
        Stage::Wait,
        Stage::Auth,
        Stage::Keys,
        Stage::GetConfig,
        Stage::Install,
        Stage::Up,
        Stage::Leave,
    ];
    assert_eq!(heard.iter().collect::<Vec<_>>(), stages.map(Progress::Stage));
}

#[test]
fn who_waits_for_nobody_is_told_what_may_be_wrong() {
    let _alone = alone();
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let profile = profile(&Certificates::new(), address);
    let (options, heard) = heard(Options { connect_timeout: Duration::from_millis(5_200), ..Options::default() });
    let error = Tunnel::connect_blocking(profile, options).unwrap_err();
    let told: Vec<Progress> = heard.iter().filter(|progress| !matches!(progress, Progress::Stage(_))).collect();
    let [Progress::Unanswered { remote, resets, waited, sentence }] = &told[..] else { panic!("{told:?}") };
    assert!(*remote == address && *resets > 1 && *waited >= Duration::from_secs(5), "{told:?}");
    let begins = format!("no answer from {address} to {resets} resets: check the address");
    assert!(sentence.starts_with(&begins), "{sentence}");
    let ConnectError::Timeout { stage: Stage::Wait, last: Some(last), .. } = &error else { panic!("{error:?}") };
    assert!(last.starts_with(&format!("no answer from {address} to ")) && last.contains("tls-crypt"), "{error}");
    until("the end of the threads", || threads().is_empty());
}

/// Panics when it is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        panic!("as it is meant to");
    }
}

#[test]
fn a_worker_thread_that_fails_ends_its_tunnels_and_the_next_one_gets_another() {
    let _alone = alone();
    let (peer, other, silent) = (Peer::start(true), Peer::start(true), UdpSocket::bind("127.0.0.1:0").unwrap());
    let options = Options { own_worker: true, ..Options::default() };
    let apart = Tunnel::connect_blocking(other.profile(), options).unwrap();
    let (tunnel, connecting) = (peer.connect(), connecting_to(&silent));
    echo(&tunnel, 20);
    room::have_done(|crew| {
        let (crew, bomb) = (crew.as_ref().unwrap(), Bomb);
        let bell = EventBell::new().unwrap();
        let (_, _, link) = link::create_within::<(), ()>(&bell, crew.link_bell()).unwrap();
        drop(crew.add(worker_config(), link, move |_| _ = &bomb).unwrap());
    });
    let ended = tunnel.recv_timeout(&mut [0; 2_048], PATIENCE);
    assert!(matches!(ended, Err(TunnelError::System(_))), "{ended:?}");
    assert!(matches!(tunnel.send_blocking(&packet(1, 100)), Err(TunnelError::System(_))));
    let error = connecting.join().unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::System(_)), "{error:?}");
    assert!(matches!(tunnel.close_blocking(), Err(TunnelError::System(_))));
    let next = peer.connect();
    echo(&next, 20);
    echo(&apart, 20);
    assert_eq!(threads(), ["minivpn-control", "minivpn-worker"]);
    drop((next, apart));
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn a_control_thread_that_fails_ends_its_tunnels_and_the_next_one_gets_another() {
    let _alone = alone();
    let (peer, silent) = (Peer::start(true), UdpSocket::bind("127.0.0.1:0").unwrap());
    let (tunnel, connecting) = (peer.connect(), connecting_to(&silent));
    echo(&tunnel, 20);
    room::have_done(|_| panic!("as it is meant to"));
    let ended = tunnel.recv_timeout(&mut [0; 2_048], PATIENCE);
    assert!(matches!(ended, Err(TunnelError::System(_))), "{ended:?}");
    let error = connecting.join().unwrap().unwrap_err();
    assert!(matches!(error, ConnectError::System(_)), "{error:?}");
    assert!(matches!(tunnel.close_blocking(), Err(TunnelError::System(_))));
    let next = peer.connect();
    echo(&next, 20);
    until("the end of the thread that failed", || threads() == ["minivpn-control", "minivpn-worker"]);
    drop(next);
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn a_name_that_nobody_knows_is_told() {
    let _alone = alone();
    let mut profile = profile(&Certificates::new(), "127.0.0.1:9".parse().unwrap());
    profile.remotes[0].host = "no such name".into();
    let error = Tunnel::connect_blocking(profile, Options::default()).unwrap_err();
    assert!(matches!(&error, ConnectError::Unreachable(why) if why.contains("no such name")), "{error:?}");
}

#[test]
fn a_certificate_that_is_none_is_found_before_anything_is_sent() {
    let _alone = alone();
    let mut profile = profile(&Certificates::new(), "127.0.0.1:9".parse().unwrap());
    profile.tls.cert_pem = "nonsense".into();
    let error = Tunnel::connect_blocking(profile, Options::default()).unwrap_err();
    assert!(matches!(error, ConnectError::Tls(_)), "{error:?}");
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn two_tunnels_share_the_threads_and_the_last_one_ends_them() {
    let _alone = alone();
    let (one, other) = (Peer::start(true), Peer::start(true));
    let (first, second) = (one.connect(), other.connect());
    echo(&first, 50);
    echo(&second, 50);
    assert_eq!(threads(), ["minivpn-control", "minivpn-worker"]);
    first.close_blocking().unwrap();
    echo(&second, 50);
    assert_eq!(threads(), ["minivpn-control", "minivpn-worker"]);
    drop(second);
    until("the end of the threads", || threads().is_empty());
}

#[test]
fn the_callers_socket_is_used_and_its_peer_is_the_server() {
    let _alone = alone();
    let peer = Peer::start(true);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(peer.address).unwrap();
    let local = socket.local_addr().unwrap();
    let mut profile = peer.profile();
    profile.remotes[0].host = "somewhere else".into();
    let tunnel = Tunnel::connect_blocking(profile, Options { socket: Some(socket), ..Options::default() }).unwrap();
    assert_eq!((tunnel.parameters().local, tunnel.parameters().remote), (local, peer.address));
    echo(&tunnel, 20);
}
