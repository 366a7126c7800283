//! Two workers in one process, joined by UDP over the loopback; the test holds the other ends: the packets that come and
//! go in place of a TUN, and the control process's end of the link.
#![allow(dead_code, unreachable_pub)] // each test program uses its part

use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, channel};

use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::{PeerSetup, PipelineConfig, SourceRule};
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::tundev::TunQueue;
use dataplane::sys::{IoChoice, ZeroCopyChoice};
use dataplane::tun::coalesce::TunOffload;
use dataplane::tun::virtio::VNET_HDR_LEN;
use dataplane::workers::manager::{
    OffloadChoice, Split, Tuning, WorkerConfig, WorkerHandle, WorkerOrder, WorkerReport, spawn,
};
use dataplane::workers::stats::StatsReader;
use link::message::{Cipher, DirectionKey, InstallKey, KeyLimits, KeyName, Path, Secret, WorkerCommand, WorkerEvent};

/// What supervisor and control process tell each other is no matter here.
pub type ControlEnd = link::ControlEnd<(), ()>;
pub type SupervisorEnd = link::SupervisorEnd<(), ()>;

/// The peer-id on the wire in all of these tests.
pub const WIRE_PEER: u32 = 5;

/// Every pair of engines.
pub const ENGINES: [(IoChoice, IoChoice); 4] = [
    (IoChoice::Syscall, IoChoice::Syscall),
    (IoChoice::Uring, IoChoice::Uring),
    (IoChoice::Syscall, IoChoice::Uring),
    (IoChoice::Uring, IoChoice::Syscall),
];

/// Every engine, and io_uring once more when long runs leave without a copy.
pub const WAYS: [(IoChoice, ZeroCopyChoice); 3] = [
    (IoChoice::Syscall, ZeroCopyChoice::Off),
    (IoChoice::Uring, ZeroCopyChoice::Off),
    (IoChoice::Uring, ZeroCopyChoice::On),
];

/// Whether workers have a thread for each direction: in the test programs of these names, which run the same situations.
pub const SPLIT: bool = matches!(env!("CARGO_CRATE_NAME").as_bytes(), b"split" | b"split_alloc" | b"split_faults");

/// One worker and what the test holds of it.
pub struct End {
    pub worker: WorkerHandle,
    pub packets: UnixDatagram,
    pub control: ControlEnd,
    pub supervisor: SupervisorEnd,
    pub reports: Receiver<WorkerReport>,
    pub path: Path,
    pub seal: [u8; 40],
    pub open: [u8; 40],
}

/// Two addresses on the loopback that no other test of this run uses.
pub fn addresses() -> (SocketAddr, SocketAddr) {
    static NEXT: AtomicU8 = AtomicU8::new(0);
    let (run, pair) = ((std::process::id() % 250) as u8 + 1, NEXT.fetch_add(1, Ordering::Relaxed));
    let address = |last| SocketAddr::from((Ipv4Addr::new(127, run, pair, last), 1194));
    (address(1), address(2))
}

pub fn path_to(remote: SocketAddr) -> Path {
    Path { worker: 0, local: None, ifindex: 0, remote, stream: None }
}

pub fn socket(local: SocketAddr, remote: SocketAddr) -> WireSocket {
    WireSocket::open(&SocketOptions { bind: Some(local), remote: Some(remote), ..Default::default() }).unwrap()
}

pub fn peer(path: Path) -> PeerSetup {
    PeerSetup {
        peer: 0,
        generation: None,
        path,
        wire_peer_id: Some(WIRE_PEER),
        replay_window: 8192,
        replay_time_s: 15,
        mssfix: None,
        ping_s: 0,
        ping_restart_s: 0,
        float: false,
        source: SourceRule::Any,
        counters: Default::default(),
    }
}

pub fn name(negotiation: u32) -> KeyName {
    KeyName { peer: 0, generation: 1, negotiation, key_id: (negotiation % 8) as u8 }
}

pub fn key(name: KeyName, seal: &[u8; 40], open: &[u8; 40]) -> InstallKey {
    let direction = |bytes: &[u8; 40]| DirectionKey {
        key: Secret(bytes[..32].to_vec()),
        implicit_iv: Secret(bytes[32..].to_vec()),
    };
    InstallKey {
        name,
        cipher: Cipher::Aes256Gcm,
        seal: direction(seal),
        open: direction(open),
        wire_peer_id: Some(WIRE_PEER),
        send_from_ns: 0,
        retire_previous_ns: u64::MAX,
        limits: KeyLimits {
            soft_packet_id: 0xFF00_0000,
            hard_packet_id: u32::MAX,
            soft_bytes: u64::MAX,
            soft_packets: u64::MAX,
            soft_aead: u64::MAX,
            hard_aead: u64::MAX,
            hard_failures: 1 << 36,
        },
    }
}

pub fn config(io: IoChoice) -> WorkerConfig {
    WorkerConfig {
        index: 0,
        cpu: None,
        split: SPLIT.then(Split::default),
        tuning: Tuning::default(),
        io,
        offload: OffloadChoice::default(),
        config: PipelineConfig { routes: RouteTable::all_to(0), ..PipelineConfig::default() },
    }
}

/// The same, with or without copies on the way out.
pub fn config_of((io, zero_copy): (IoChoice, ZeroCopyChoice)) -> WorkerConfig {
    let config = config(io);
    WorkerConfig { offload: OffloadChoice { zero_copy, ..config.offload }, ..config }
}

/// A worker with its link, without socket and packets.
pub fn start(
    config: WorkerConfig,
    on_report: impl Fn(&WorkerReport) + Send + 'static,
) -> (WorkerHandle, ControlEnd, SupervisorEnd, Receiver<WorkerReport>) {
    let (shared, supervisor, mut ends) = link::create::<(), ()>(1).unwrap();
    let (tell, reports) = channel();
    let worker = spawn(config, ends.remove(0), move |report| {
        on_report(&report);
        let _ = tell.send(report);
    })
    .unwrap();
    (worker, shared.into_control_end(), supervisor, reports)
}

impl End {
    /// A worker with socket, packets and peer, but without a key.
    pub fn new(io: IoChoice, local: SocketAddr, remote: SocketAddr, seal: [u8; 40], open: [u8; 40]) -> Self {
        Self::with(config(io), local, remote, seal, open, |_| ())
    }

    pub fn with(
        config: WorkerConfig,
        local: SocketAddr,
        remote: SocketAddr,
        seal: [u8; 40],
        open: [u8; 40],
        on_report: impl Fn(&WorkerReport) + Send + 'static,
    ) -> Self {
        let (worker, control, supervisor, reports) = start(config, on_report);
        let (packets, theirs) = UnixDatagram::pair().unwrap();
        let path = path_to(remote);
        let tun = TunQueue::from_packets(theirs.into(), TunOffload::default()).unwrap();
        worker.send(WorkerOrder::AddPeer(Box::new(peer(path)))).unwrap();
        worker.send(WorkerOrder::AttachSocket { socket: socket(local, remote), path }).unwrap();
        worker.send(WorkerOrder::AttachTun(tun)).unwrap();
        Self { worker, packets, control, supervisor, reports, path, seal, open }
    }

    /// Installs a key and waits for the answer.
    pub fn install(&mut self, name: KeyName) -> WorkerEvent {
        let command = WorkerCommand::InstallKey(key(name, &self.seal, &self.open));
        self.control.send_command(0, &command).unwrap();
        self.answer()
    }

    /// The next event that answers an installation.
    pub fn answer(&mut self) -> WorkerEvent {
        loop {
            match self.control.recv_event(0).unwrap() {
                Some(event @ (WorkerEvent::KeyInstalled(_) | WorkerEvent::KeyRefused(..))) => {
                    return event;
                }
                Some(_) => {}
                None => self.control.wait(None).unwrap(),
            }
        }
    }

    pub fn stats(&self) -> StatsReader {
        self.worker.stats()
    }

    pub fn send(&self, packet: &[u8]) {
        self.packets.send(packet).unwrap();
    }
}

/// The next packet, without its virtio header.
pub fn recv(packets: &UnixDatagram) -> Vec<u8> {
    let mut frame = vec![0; 70_000];
    let len = packets.recv(&mut frame).unwrap();
    frame[VNET_HDR_LEN..len].to_vec()
}

/// Two workers that can reach each other, each with the first key.
pub fn pair(near: IoChoice, far: IoChoice) -> (End, End) {
    let (mut near, mut far) = pair_without_keys(near, far);
    assert_eq!(near.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    assert_eq!(far.install(name(0)), WorkerEvent::KeyInstalled(name(0)));
    (near, far)
}

/// Two workers that can reach each other.
pub fn pair_without_keys(near: IoChoice, far: IoChoice) -> (End, End) {
    let (one, two) = addresses();
    let (up, down) = ([1; 40], [2; 40]);
    (End::new(near, one, two, up, down), End::new(far, two, one, down, up))
}

/// An inner IPv4/UDP packet behind an empty virtio header. `number` stands first in a payload of `payload` bytes (at
/// least 4).
pub fn inner(number: u32, payload: usize) -> Vec<u8> {
    let mut packet = vec![0; VNET_HDR_LEN];
    let (udp, total) = ((8 + payload) as u16, (28 + payload) as u16);
    packet.extend([0x45, 0]);
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 8, 0, 1, 10, 8, 0, 2]);
    let sum = packet[VNET_HDR_LEN..].chunks(2).map(|word| u32::from(word[0]) << 8 | u32::from(word[1])).sum::<u32>();
    let folded = (sum & 0xffff) + (sum >> 16);
    let check = !((folded & 0xffff) + (folded >> 16)) as u16;
    packet[VNET_HDR_LEN + 10..VNET_HDR_LEN + 12].copy_from_slice(&check.to_be_bytes());
    packet.extend([0x04, 0xd2, 0x16, 0x2e]);
    packet.extend(udp.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(number.to_be_bytes());
    packet.extend((4..payload).map(|at| (at as u8).wrapping_add(number as u8)));
    packet
}

/// A reproducible sequence of numbers below `bound`.
pub struct Dice(pub u64);

impl Dice {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}
