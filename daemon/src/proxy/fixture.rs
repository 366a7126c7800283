//! The other side of the tunnel in tests: a second stack at the far end of a pair of queues, with some servers in it.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use dataplane::tun::coalesce::{TunBatch, TunOffload};
use dataplane::tun::virtio::{VNET_HDR_LEN, VnetHeader};
use dataplane::tun::{ip, split};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::socket::{tcp, udp};
use smoltcp::time::Instant;
use smoltcp::wire::{HardwareAddress, IpAddress, IpCidr};
use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};

use super::device::Device;
use super::login::Login;
use super::network::Network;
use super::packets::{Packets, carry};
use super::patience::Patience;
use super::server::{MOST_CLIENTS, Server, serve};
use super::stack::{Inner, Stack};
use super::way::Way;
use crate::embed::Frames;

pub(super) const MTU: usize = 1_400;
pub(super) const FAR4: &str = "10.8.0.1";
pub(super) const FAR6: &str = "fd08::1";
/// Nobody has it.
pub(super) const NOBODY: &str = "10.8.0.99";
/// Gives back what it gets, over TCP and UDP, and ends when the client has.
pub(super) const ECHO: u16 = 7;
/// Sends [`MUCH`] bytes of a pattern and ends.
pub(super) const SOURCE: u16 = 80;
/// Takes everything; when the client has ended, says how much it was, and ends.
pub(super) const SINK: u16 = 9;
/// Breaks every connection at the first byte.
pub(super) const BREAKS: u16 = 66;
/// Nobody listens.
pub(super) const CLOSED: u16 = 81;
pub(super) const MUCH: usize = 3_000_000;

/// One end of a line that carries single packets and drops them when it is full. As a worker does, it splits what goes in and joins what
/// comes out.
pub(super) struct Line {
    to: mpsc::Sender<Vec<u8>>,
    from: Mutex<(mpsc::Receiver<Vec<u8>>, TunBatch)>,
    longest: Arc<Longest>,
}

/// Bytes of the longest packets that its stack was given, and gave.
#[derive(Default)]
pub(super) struct Longest {
    pub given: AtomicUsize,
    pub taken: AtomicUsize,
}

const JOINS: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: false, uso6: false };

pub(super) fn pair() -> (Line, Line) {
    let (one, two) = (mpsc::channel(4_096), mpsc::channel(4_096));
    let line = |to, from| Line { to, from: Mutex::new((from, TunBatch::new(JOINS))), longest: Arc::default() };
    (line(one.0, two.1), line(two.0, one.1))
}

impl Packets for Line {
    type End = io::Error;

    async fn receive(&self, frames: &mut Frames) -> io::Result<()> {
        frames.clear();
        let mut from = self.from.lock().await;
        let (from, joined) = &mut *from;
        let mut next = Some(from.recv().await.ok_or(io::ErrorKind::BrokenPipe)?);
        let mut room = 64;
        while let Some(packet) = next {
            joined.land(packet.len()).unwrap().copy_from_slice(&packet);
            match ip::parse(&packet) {
                Some(info) => assert!(joined.accept(&info)),
                None => joined.discard(),
            }
            room -= 1;
            next = if room == 0 || joined.wants_flush() { None } else { from.try_recv().ok() };
        }
        for frame in joined.frames() {
            let packet = &frame[VNET_HDR_LEN..];
            self.longest.given.fetch_max(packet.len(), Relaxed);
            frames.push_with(packet.len(), |room| {
                room.copy_from_slice(packet);
                ((), VnetHeader::parse(frame).unwrap())
            });
        }
        joined.clear();
        Ok(())
    }

    async fn send(&self, frames: &Frames) -> io::Result<()> {
        for frame in frames.iter() {
            self.longest.taken.fetch_max(frame.len() - VNET_HDR_LEN, Relaxed);
            let mut frame = frame.to_vec();
            let plan = split::plan(&frame).unwrap();
            let mut packets = plan.segments(&mut frame);
            while let Some(packet) = packets.next() {
                assert!(packet.len() <= MTU, "{}", packet.len());
                let _ = self.to.try_send(packet.to_vec());
            }
        }
        Ok(())
    }
}

/// A proxy on a port of the host, over a line whose far end has the servers. Ends with the runtime.
pub(super) struct Proxy {
    pub address: SocketAddr,
    pub stack: Arc<Stack>,
    /// Of the proxy's end of the line.
    pub longest: Arc<Longest>,
    pub network: Arc<Network>,
    pub way: watch::Sender<Way>,
}

/// Starts one; inside a `LocalSet`.
pub(super) async fn proxy(dns: &[&str], login: Option<Login>, patience: Patience) -> Proxy {
    small_proxy(dns, login, patience, MOST_CLIENTS).await
}

/// Starts one for so many clients; inside a `LocalSet`.
pub(super) async fn small_proxy(dns: &[&str], login: Option<Login>, patience: Patience, most: usize) -> Proxy {
    let (near, far) = pair();
    let longest = Arc::clone(&near.longest);
    tokio::spawn(Far::new(far, 300).run());
    let inner =
        Inner { ipv4: Some(([10, 8, 0, 2].into(), 24)), ipv6: Some(("fd08::2".parse().unwrap(), 64)), mtu: MTU };
    let stack = Arc::new(Stack::new(inner));
    let dns: Vec<IpAddr> = dns.iter().map(|text| text.parse().unwrap()).collect();
    let network = Arc::new(Network::new(Arc::clone(&stack), &dns, patience));
    let (way, seen) = watch::channel(Way::Open(Arc::clone(&network)));
    let carried = Arc::clone(&stack);
    tokio::spawn(async move { carry(&near, &carried).await });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(serve(listener, Server { most, ..Server::new(seen, login, patience) }));
    Proxy { address, stack, longest, network, way }
}

/// Byte `at` of what [`SOURCE`] sends.
pub(super) fn pattern(at: usize) -> u8 {
    (at % 251) as u8
}

struct Far {
    line: Line,
    interface: Interface,
    sockets: SocketSet<'static>,
    tcp: Vec<Served>,
    udp: Vec<(u16, SocketHandle)>,
    started: std::time::Instant,
}

struct Served {
    port: u16,
    handle: SocketHandle,
    moved: usize,
    said: bool,
}

impl Far {
    fn new(line: Line, each: usize) -> Far {
        let mut nothing = Frames::new(0);
        let mut device = Device { incoming: None, outgoing: &mut nothing, mtu: MTU };
        let mut interface = Interface::new(Config::new(HardwareAddress::Ip), &mut device, Instant::ZERO);
        interface.update_ip_addrs(|addresses| {
            for (text, prefix) in [(FAR4, 24), (FAR6, 64)] {
                let ip: IpAddr = text.parse().unwrap();
                addresses.push(IpCidr::new(IpAddress::from(ip), prefix)).unwrap();
            }
        });
        let mut sockets = SocketSet::new(Vec::new());
        let mut tcp = Vec::new();
        for (port, many) in [(ECHO, each), (SOURCE, 4), (SINK, 4), (BREAKS, 4), (53, 4)] {
            for _ in 0..many {
                let bytes = if port == ECHO { 16 * 1024 } else { 128 * 1024 };
                let buffer = || tcp::SocketBuffer::new(vec![0; bytes]);
                let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
                tcp.push(Served { port, handle, moved: 0, said: false });
            }
        }
        let udp = [ECHO, 53].map(|port| {
            let buffer = || udp::PacketBuffer::new(vec![udp::PacketMetadata::EMPTY; 64], vec![0; 65_536]);
            let mut socket = udp::Socket::new(buffer(), buffer());
            socket.bind(port).unwrap();
            (port, sockets.add(socket))
        });
        Far { line, interface, sockets, tcp, udp: udp.to_vec(), started: std::time::Instant::now() }
    }

    async fn run(mut self) {
        let (mut incoming, mut outgoing) = (Frames::new(192 * 1024), Frames::new(64 * 1024));
        // Whoever comes first finds somebody who listens.
        self.serve();
        loop {
            let waited = tokio::time::timeout(Duration::from_millis(2), self.line.receive(&mut incoming)).await;
            if matches!(waited, Ok(Err(_))) {
                return;
            }
            let now = Instant::from_micros(self.started.elapsed().as_micros() as i64);
            for (_, packet) in incoming.packets() {
                let mut device = Device { incoming: Some(packet), outgoing: &mut outgoing, mtu: MTU };
                self.interface.poll_ingress_single(now, &mut device, &mut self.sockets);
            }
            self.serve();
            loop {
                let mut device = Device { incoming: None, outgoing: &mut outgoing, mtu: MTU };
                while self.interface.poll_egress(now, &mut device, &mut self.sockets)
                    == smoltcp::iface::PollResult::SocketStateChanged
                {}
                if outgoing.is_empty() {
                    break;
                }
                self.line.send(&outgoing).await.unwrap();
                outgoing.clear();
            }
        }
    }

    fn serve(&mut self) {
        for served in &mut self.tcp {
            served.turn(self.sockets.get_mut(served.handle));
        }
        for &(port, handle) in &self.udp {
            let socket = self.sockets.get_mut::<udp::Socket<'_>>(handle);
            while let Ok((bytes, from)) = socket.recv() {
                let answer = if port == 53 { dns(bytes, false) } else { Some(bytes.to_vec()) };
                let Some(answer) = answer else { continue };
                if port == 53 && answer.windows(6).any(|word| word == b"forged") {
                    forge(&answer).iter().for_each(|forged| socket.send_slice(forged, from.endpoint).unwrap());
                }
                let _ = socket.send_slice(&answer, from.endpoint);
            }
        }
    }
}

impl Served {
    fn turn(&mut self, socket: &mut tcp::Socket<'static>) {
        if !socket.is_open() {
            socket.abort();
            (self.moved, self.said) = (0, false);
            socket.listen(self.port).unwrap();
            return;
        }
        if !socket.is_active() {
            return;
        }
        let ended = !socket.may_recv() && matches!(socket.state(), tcp::State::CloseWait);
        match self.port {
            ECHO => {
                while socket.can_recv() && socket.can_send() {
                    let room = socket.send_capacity() - socket.send_queue();
                    let bytes = socket.recv(|bytes| {
                        let count = bytes.len().min(room);
                        (count, bytes[..count].to_vec())
                    });
                    socket.send_slice(&bytes.unwrap()).unwrap();
                }
                if ended {
                    socket.close();
                }
            }
            SOURCE => {
                while self.moved < MUCH && socket.can_send() {
                    let at = self.moved;
                    let sent = socket.send(|room| {
                        let count = room.len().min(MUCH - at);
                        room[..count].iter_mut().enumerate().for_each(|(i, byte)| *byte = pattern(at + i));
                        (count, count)
                    });
                    self.moved += sent.unwrap();
                }
                if self.moved == MUCH {
                    socket.close();
                }
            }
            SINK => {
                while socket.can_recv() {
                    self.moved += socket.recv(|bytes| (bytes.len(), bytes.len())).unwrap();
                }
                if ended && !self.said {
                    self.said = true;
                    socket.send_slice(self.moved.to_string().as_bytes()).unwrap();
                    socket.close();
                }
            }
            BREAKS if socket.can_recv() => socket.abort(),
            53 if socket.recv_queue() > 2 => {
                let mut query = vec![0; 512];
                let count = socket.recv_slice(&mut query).unwrap();
                let Some(answer) = dns(&query[2..count], true) else { return };
                let mut framed = (answer.len() as u16).to_be_bytes().to_vec();
                framed.extend(answer);
                socket.send_slice(&framed).unwrap();
            }
            53 if ended => socket.close(),
            _ => {}
        }
    }
}

/// A name server that knows a few names: `both.test`, `six.test`, `dead.test` (an address of nobody, then one that answers),
/// `host.test` (loopback), `long.test` (an answer only over TCP), `huge.test` (the longest one that a message can hold), `loop.test` (an
/// alias of itself), `forged.test` (forgeries come first); `silent.test` is never answered, `refused.test` is refused.
fn dns(query: &[u8], stream: bool) -> Option<Vec<u8>> {
    let (mut at, mut name) = (12, String::new());
    while query[at] != 0 {
        let end = at + 1 + usize::from(query[at]);
        name += &String::from_utf8_lossy(&query[at + 1..end]).to_ascii_lowercase();
        name.push('.');
        at = end;
    }
    let question = &query[12..at + 5];
    let kind = query[at + 2];
    let known: &[&str] = match name.as_str() {
        "both.test." => &[FAR4, FAR6],
        "six.test." => &[FAR6],
        "dead.test." => &[NOBODY, FAR4],
        "host.test." => &["127.0.0.1"],
        "long.test." | "huge.test." | "forged.test." => &[FAR4],
        "silent.test." => return None,
        _ => &[],
    };
    let truncated = matches!(name.as_str(), "long.test." | "huge.test.") && !stream;
    let times = if name == "huge.test." { 4_000 } else { 1 };
    let mut records = Vec::new();
    let mut count = 0_u16;
    for ip in known.iter().map(|text| text.parse::<IpAddr>().unwrap()) {
        let data = match ip {
            IpAddr::V4(ip) if kind == 1 => ip.octets().to_vec(),
            IpAddr::V6(ip) if kind == 28 => ip.octets().to_vec(),
            _ => continue,
        };
        for _ in 0..if truncated { 0 } else { times } {
            count += 1;
            records.extend([0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, data.len() as u8]);
            records.extend(&data);
        }
    }
    if name == "loop.test." {
        count = 1;
        records.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60, 0, 2, 0xc0, 12]);
    }
    let code = match name.as_str() {
        "loop.test." => 0,
        "refused.test." => 5,
        _ if known.is_empty() => 3,
        _ => 0,
    };
    let count = count.to_be_bytes();
    let flags = [0x81 | if truncated { 2 } else { 0 }, 0x80 | code];
    Some([&query[..2], &flags, &[0, 1], &count, &[0, 0, 0, 0], question, &records].concat())
}

/// What somebody else might send before the answer: another number, another question, too short, each with an address of nobody.
fn forge(answer: &[u8]) -> Vec<Vec<u8>> {
    let mut elsewhere = answer.to_vec();
    let at = elsewhere.len() - 1;
    elsewhere[at] = 99;
    let mut number = elsewhere.clone();
    number[1] ^= 1;
    let mut question = elsewhere;
    question[13] = b'g';
    vec![number, question, answer[..1].to_vec()]
}
