//! Thousands of clients in this one process: the product's own pure client over UDP sockets, one each, with no TUN and no data
//! channel (what comes on it is counted and dropped). One thread, which waits for all sockets at once and for the next deadline.

use crate::netns::Ns;
use crate::pki::Identity;
use crate::setup::{Setup, Tls, Wrap};
use controlplane::wrap::static_key::StaticKey;
use controlplane::{
    Cipher, Client, ClientSetup, Digest, Event, Instant, KeyEvent, KeyLimits, Now, Output, Path, PeerUsage, Secret,
    SystemRandom, TlsSetup, TlsVersion,
};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustix::time::{ClockId, clock_gettime};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The highest opcode of the data channel is P_DATA_V2; the other one is P_DATA_V1.
const DATA: [u8; 2] = [6, 9];

/// How fast clients come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// So many are on their way at any time.
    AtOnce(usize),
    /// So many begin each second, evenly.
    PerSecond(u32),
}

/// The clients. Their sessions are left as they are when this is dropped.
#[derive(Debug)]
pub struct Load {
    clients: Vec<Simulated>,
    epoll: OwnedFd,
    /// Deadlines of clients by their number; one that a client no longer has is passed over.
    deadlines: BinaryHeap<Reverse<(Instant, usize)>>,
    begun: usize,
    up: usize,
    ended: Vec<String>,
    data: u64,
}

/// One client.
#[derive(Debug)]
struct Simulated {
    client: Client,
    socket: UdpSocket,
    path: Path,
    wake: Option<Instant>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    Connecting,
    Up,
    Gone,
}

impl Load {
    /// Clients with these profiles, whose sockets are in this namespace. None of them connects yet.
    pub fn new(ns: &Ns, server: SocketAddr, setups: Vec<ClientSetup>) -> Self {
        allow_descriptors(setups.len());
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).expect("an epoll can be made");
        let sockets = ns.inside(|| setups.iter().map(|_| socket(server)).collect::<Vec<_>>());
        let made = setups.into_iter().zip(sockets).zip(0u64..).map(|((setup, socket), number)| {
            let data = epoll::EventData::new_u64(number);
            epoll::add(&epoll, &socket, data, epoll::EventFlags::IN).expect("a socket can be waited for");
            Simulated::new(setup, socket, server)
        });
        let clients = made.collect();
        Self { clients, epoll, deadlines: BinaryHeap::new(), begun: 0, up: 0, ended: Vec::new(), data: 0 }
    }

    /// Lets the next `count` clients connect; how long it took until all of them were up, or `None` where some were not after
    /// `limit`.
    pub fn connect(&mut self, count: usize, pace: Pace, limit: Duration) -> Option<Duration> {
        let start = now().at;
        let (first, target) = (self.begun, (self.begun + count).min(self.clients.len()));
        loop {
            let passed = now().at.since(start);
            let due = match pace {
                Pace::AtOnce(width) => self.up + self.ended.len() + width,
                Pace::PerSecond(rate) => first + whole(passed.as_secs_f64() * f64::from(rate)) + 1,
            };
            while self.begun < due.min(target) {
                self.begin();
            }
            if self.up + self.ended.len() >= target {
                return (self.up >= target).then_some(passed);
            }
            if passed > limit {
                return None;
            }
            self.turn(now().at + Duration::from_millis(1));
        }
    }

    /// Keeps the sessions for so long.
    pub fn rest(&mut self, time: Duration) {
        let until = now().at + time;
        while now().at < until {
            self.turn(until);
        }
    }

    /// How many clients are connected.
    pub fn up(&self) -> usize {
        self.up
    }

    /// Why clients are not connected that were, or that tried.
    pub fn ended(&self) -> &[String] {
        &self.ended
    }

    /// Datagrams of the data channel that came: the gateway's pings.
    pub fn data(&self) -> u64 {
        self.data
    }

    fn begin(&mut self) {
        let number = self.begun;
        self.begun += 1;
        let Some(one) = self.clients.get_mut(number) else { return };
        one.stage = Stage::Connecting;
        one.client.connect(now(), &mut SystemRandom, 1, one.path, None);
        self.settle(number);
    }

    /// One wait, until this instant at the longest, and what came of it.
    fn turn(&mut self, until: Instant) {
        let next = self.deadlines.peek().map_or(until, |Reverse((at, _))| (*at).min(until));
        let wait = next.since(now().at);
        let wait = Timespec::try_from(wait).expect("no wait of a test is longer than a timespec");
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("epoll_wait: {error}"),
        }
        for event in events {
            let data = event.data;
            self.read(usize::try_from(data.u64()).expect("what was given was an index"));
        }
        self.keep_deadlines();
    }

    fn read(&mut self, number: usize) {
        let Some(one) = self.clients.get_mut(number) else { return };
        let mut bytes = [0; 2048];
        // An error is what ICMP said of the gateway's port: the client sends again.
        while let Ok(len) = one.socket.recv(&mut bytes) {
            let datagram = &bytes[..len];
            if datagram.first().is_some_and(|first| DATA.contains(&(first >> 3))) {
                self.data += 1;
            } else {
                one.client.handle_datagram(now(), &mut SystemRandom, &one.path, datagram);
            }
        }
        self.settle(number);
    }

    fn keep_deadlines(&mut self) {
        while let Some(Reverse((at, number))) = self.deadlines.peek().copied().filter(|due| due.0.0 <= now().at) {
            self.deadlines.pop();
            if let Some(one) = self.clients.get_mut(number).filter(|one| one.wake == Some(at)) {
                one.client.handle_timeout(now(), &mut SystemRandom);
                self.settle(number);
            }
        }
    }

    /// Does what a client wants done, after each call of it.
    fn settle(&mut self, number: usize) {
        let Some(one) = self.clients.get_mut(number) else { return };
        let before = one.stage;
        let (wake, why) = one.carry_out();
        if one.wake != wake {
            one.wake = wake;
            self.deadlines.extend(wake.map(|at| Reverse((at, number))));
        }
        if before != Stage::Up && one.stage == Stage::Up {
            self.up += 1;
        }
        if before != Stage::Gone && one.stage == Stage::Gone {
            self.up -= usize::from(before == Stage::Up);
            self.ended.push(format!("client {number}: {}", why.unwrap_or_default()));
        }
    }
}

impl Simulated {
    fn new(setup: ClientSetup, socket: UdpSocket, remote: SocketAddr) -> Self {
        let client = Client::new(setup, now()).expect("a test's profile is good");
        let path = Path { worker: 0, local: None, ifindex: 0, remote, stream: None };
        Self { client, socket, path, wake: None, stage: Stage::Waiting }
    }

    /// The next deadline, and why the session ended if it did.
    fn carry_out(&mut self) -> (Option<Instant>, Option<String>) {
        let mut why = None;
        loop {
            match self.client.poll_output() {
                // What the kernel does not take is sent again.
                Output::Transmit { bytes, .. } => drop(self.socket.send(&bytes)),
                Output::Event(Event::InstallKey(key)) => {
                    self.client.handle_key_event(now(), &mut SystemRandom, KeyEvent::KeyInstalled(key.name));
                }
                Output::Event(Event::Established(_)) => self.stage = Stage::Up,
                Output::Event(Event::Ended { ending, .. }) => {
                    self.stage = Stage::Gone;
                    why = Some(format!("{ending:?}"));
                }
                Output::Event(_) => {}
                Output::Idle { wake } => return (wake.map(|(at, _)| at), why),
            }
        }
    }
}

/// What the profile of a setup says, with this certificate.
pub fn client_setup(setup: &Setup, id: &Identity) -> ClientSetup {
    let key = |text: &str| {
        let key = StaticKey::parse(text).expect("a test's static key is one");
        Secret(key.as_bytes().to_vec())
    };
    let version = match setup.tls {
        Tls::V12 => TlsVersion::V1_2,
        Tls::V13 => TlsVersion::V1_3,
    };
    ClientSetup {
        wrap: match setup.wrap {
            Wrap::None => controlplane::Wrap::None,
            Wrap::TlsCrypt => controlplane::Wrap::TlsCrypt { key: key(&setup.client_static) },
            Wrap::TlsAuth | Wrap::TlsAuthBidirectional => {
                let direction = (setup.wrap == Wrap::TlsAuth).then_some(1);
                controlplane::Wrap::TlsAuth { key: key(&setup.client_static), direction, digest: Digest::Sha1 }
            }
        },
        tls: TlsSetup {
            ca_pem: setup.client_trusts.clone(),
            cert_pem: id.cert.clone(),
            key_pem: Secret(id.key.clone().into_bytes()),
            crl_pem: None,
            peer_usage: Some(PeerUsage::Server),
            verify_name: None,
            fingerprints: Vec::new(),
            version_min: version,
            version_max: version,
        },
        data_ciphers: vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305],
        fallback_cipher: None,
        options_cipher: String::new(),
        auth: Digest::Sha1,
        tun_mtu: 1500,
        pull: true,
        iv_proto_mask: 0,
        peer_info: Vec::new(),
        tls_timeout: 2,
        hand_window: 60,
        tran_window: 3600,
        reneg_sec: 0,
        max_packet_size: 1250,
        limits: KeyLimits {
            soft_packet_id: u32::MAX,
            hard_packet_id: u32::MAX,
            soft_bytes: u64::MAX,
            soft_packets: u64::MAX,
            soft_aead: u64::MAX,
            hard_aead: u64::MAX,
            hard_failures: u64::MAX,
        },
        auth_nocache: false,
    }
}

/// A socket for each client, and some descriptors for everything else.
fn allow_descriptors(clients: usize) {
    let maximum = getrlimit(Resource::Nofile).maximum;
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("anybody may go up to the hard limit");
    let enough = maximum.is_none_or(|most| most > clients as u64 + 500);
    assert!(enough, "{clients} clients need more descriptors than the {maximum:?} of this process (`ulimit -Hn`)");
}

fn socket(server: SocketAddr) -> UdpSocket {
    let any = match server.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => "::".parse().expect("an address"),
    };
    let socket = UdpSocket::bind((any, 0)).expect("there is a free port");
    socket.connect(server).expect("the server's address has a route");
    socket.set_nonblocking(true).expect("a socket can be made not to block");
    socket
}

fn now() -> Now {
    let boot = clock_gettime(ClockId::Boottime);
    let unix = clock_gettime(ClockId::Realtime);
    let nanos = boot.tv_sec * 1_000_000_000 + boot.tv_nsec;
    let positive = |value: i64| u64::try_from(value).expect("no clock is negative");
    Now { at: Instant(positive(nanos)), unix: positive(unix.tv_sec) }
}

fn whole(number: f64) -> usize {
    number as usize
}
