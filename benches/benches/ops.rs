//! Every operation of the packet path by every way the kernel offers: the matrix behind the choices of the io_uring
//! engine. `cargo bench -p benches --bench ops [-- --rounds N] [-- --only TEXT] [-- --json FILE]`, as root.
//!
//! Real TUN, UDP sockets, ifb and lo in a network namespace that ends with the process. The ways of one row run in
//! turns, A B C B C A ..., and are compared within each turn; what fills a queue before an operation is not timed,
//! unless the row says so. A way that the kernel refuses is a line with the errno.

use std::fmt::Write as _;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;
use std::rc::Rc;
use std::time::{Duration, Instant};

use benches::rounds::{quantile, ratio, sorted, summary};
use dataplane::sys::affinity;
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::trial::doorbell::{Doorbell, wakes};
use dataplane::sys::trial::{self, BATCH, DirectReceiver, DirectSender, Mode, Multishot, Op, TrialRing};
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::tun::virtio::VNET_HDR_LEN;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::io::Errno;

type Error = Box<dyn std::error::Error>;
type Call = Box<dyn FnMut(usize) -> Result<(), Errno>>;

/// Payload of one segment, and segments of a train: 61,232 bytes.
const SEGMENT: u16 = 1_424;
const SEGMENTS: usize = 43;
/// The same for a super-packet of the TUN: 58,800 bytes.
const TUN_SEGMENT: u16 = 1_400;
const TUN_SEGMENTS: usize = 42;
/// Buffers of a multishot's buffer ring, many, as many as recvmmsg(2) has, and few.
const BUFFERS: u16 = 64;
const SOME: u16 = 16;
const FEW: u16 = 8;
/// Wake-ups per round and way.
const WAKES: usize = 100;

fn main() -> Result<(), Error> {
    let options = Options::parse()?;
    let Some(options) = options else {
        println!("ops: measures only under `cargo bench`");
        return Ok(());
    };
    // A thread of its own: its namespace ends with it.
    match std::thread::spawn(move || measure(&options).map_err(|error| error.to_string())).join() {
        Ok(outcome) => Ok(outcome?),
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

struct Options {
    rounds: usize,
    only: Option<String>,
    json: Option<String>,
}

impl Options {
    /// `None` when cargo does not want a measurement (`cargo test --benches`).
    fn parse() -> Result<Option<Self>, Error> {
        let mut options = Self { rounds: 31, only: None, json: None };
        let mut bench = false;
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or(format!("{word} wants a value"));
            match word.as_str() {
                "--bench" => bench = true,
                "--rounds" => options.rounds = value()?.parse::<usize>()?.max(1),
                "--only" => options.only = Some(value()?),
                "--json" => options.json = Some(value()?),
                _ => return Err(format!("unknown: {word} (there are --rounds N, --only TEXT, --json FILE)").into()),
            }
        }
        Ok(bench.then_some(options))
    }
}

fn measure(options: &Options) -> Result<(), Error> {
    trial::enter_new_network().map_err(|error| format!("a network namespace (needs root): {error}"))?;
    std::fs::write("/proc/sys/net/ipv4/ip_forward", "0")?;
    std::fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")?;
    for command in ["link set lo up", "link add ifb0 type ifb", "addr add 10.30.0.1/24 dev ifb0", "link set ifb0 up"] {
        ip(command)?;
    }
    let cpus = affinity::allowed();
    let (first, last) = (cpus.first().copied().unwrap_or(0), cpus.last().copied().unwrap_or(0));
    let mut report = Report::new(options.rounds);
    println!("{}\n{}", report.machine, affinity::pin("measured thread", first));

    report.note(format!("a system call that does nothing (getppid): {:.0} ns", empty_call_ns()));

    let tun = open_tun()?;
    let mut rows = Vec::new();
    rows.extend(tun_reads(&tun)?);
    rows.extend(tun_writes(&tun)?);
    rows.extend(receives()?);
    rows.extend(sends("ifb, drops, takes GSO", Some("10.30.0.2:9".parse()?))?);
    rows.extend(sends("lo, to a socket", None)?);
    rows.extend(modes(&tun)?);
    for mut row in rows {
        if options.only.as_ref().is_none_or(|only| row.object.contains(only.as_str())) {
            row.run(options.rounds);
            report.add(&row.object, "ns", row.ways.into_iter().map(|way| (way.name, way.outcome)).collect());
        }
    }
    if options.only.as_ref().is_none_or(|only| "doorbell".contains(only.as_str())) {
        doorbells(options.rounds, [first, last], &mut report);
        affinity::pin("measured thread", first);
    }
    if options.only.as_ref().is_none_or(|only| "NAPI".contains(only.as_str())) {
        napi(&mut report)?;
    }
    report.finish(options.json.as_deref())
}

/// The median of a few runs.
fn empty_call_ns() -> f64 {
    let run = |_| {
        let start = Instant::now();
        for _ in 0..1_000 {
            std::hint::black_box(rustix::process::getppid());
        }
        start.elapsed().as_nanos() as f64 / 1_000.0
    };
    quantile(&sorted(&(0..51).map(run).collect::<Vec<_>>()), 0.5).unwrap_or(0.0)
}

/// How an operation is done.
enum Actor {
    /// By calls.
    Calls(Call),
    /// By entries of a ring, all submitted together.
    Batch(TrialRing, Op),
    /// By an armed multishot operation.
    Armed(TrialRing, Multishot),
    /// By an armed poll, and calls when it says so.
    Polled(TrialRing, Call),
    /// The kernel or the library refused to set it up.
    Refused(Errno),
}

impl Actor {
    fn batch(mode: Mode, fd: impl AsFd, op: Op, payload: &[u8], segment: Option<u16>) -> Self {
        Self::ring(TrialRing::new(mode, fd.as_fd()), |mut ring| {
            ring.load(payload, segment);
            if matches!(op, Op::ReadFixed | Op::WriteFixed | Op::SendMessageZcFixed | Op::SendZcFixed) {
                ring.register()?;
            }
            Ok(Self::Batch(ring, op))
        })
    }

    fn armed(mode: Mode, fd: impl AsFd, multishot: Multishot, buffers: u16) -> Self {
        Self::ring(TrialRing::new(mode, fd.as_fd()), |mut ring| {
            if multishot == Multishot::ReadFixedFile {
                ring.register()?;
            }
            ring.provide_buffers(buffers)?;
            Ok(Self::Armed(ring, multishot))
        })
    }

    fn polled(fd: impl AsFd, call: Call) -> Self {
        Self::ring(TrialRing::new(Mode::Deferred, fd.as_fd()), |ring| Ok(Self::Polled(ring, call)))
    }

    fn ring(ring: std::io::Result<TrialRing>, make: impl FnOnce(TrialRing) -> std::io::Result<Self>) -> Self {
        ring.and_then(make).unwrap_or_else(|error| Self::Refused(Errno::from_io_error(&error).unwrap_or(Errno::IO)))
    }

    fn begin(&mut self) -> Result<(), Errno> {
        match self {
            Self::Armed(ring, multishot) => ring.arm(*multishot).and_then(|()| ring.submit()),
            Self::Polled(ring, _) => ring.arm(Multishot::Poll).and_then(|()| ring.submit()),
            Self::Refused(error) => Err(*error),
            _ => Ok(()),
        }
    }

    fn act(&mut self, count: usize) -> Result<(), Errno> {
        match self {
            Self::Calls(call) => call(count),
            Self::Batch(ring, op) => ring.batch(*op, count),
            Self::Armed(ring, _) => ring.take(count),
            Self::Polled(ring, call) => ring.poll().and_then(|()| call(count)),
            Self::Refused(error) => Err(*error),
        }
    }

    fn end(&mut self) {
        if let Self::Armed(ring, _) | Self::Polled(ring, _) = self {
            ring.disarm();
        }
    }
}

/// One line of a row.
struct Way {
    name: &'static str,
    actor: Actor,
    outcome: Result<Vec<f64>, Errno>,
}

fn way(name: &'static str, actor: Actor) -> Way {
    Way { name, actor, outcome: Ok(Vec::new()) }
}

/// One object of measurement; the first way is what the others are compared with.
struct Row {
    object: String,
    /// Operations that are done together, and how often that is repeated in a round.
    together: usize,
    turns: usize,
    /// Makes so many packets available.
    fill: Box<dyn FnMut(usize) -> std::io::Result<()>>,
    fill_is_timed: bool,
    /// Takes away what is left.
    clear: Box<dyn FnMut()>,
    ways: Vec<Way>,
}

impl Row {
    fn run(&mut self, rounds: usize) {
        // The first round warms up.
        for round in 0..=rounds {
            for place in 0..self.ways.len() {
                let chosen = (round + place) % self.ways.len();
                if self.ways[chosen].outcome.is_err() {
                    continue;
                }
                let took = self.round(chosen);
                let outcome = &mut self.ways[chosen].outcome;
                match (took, outcome) {
                    (Ok(ns), Ok(samples)) if round > 0 => samples.push(ns),
                    (Err(error), outcome) => *outcome = Err(error),
                    _ => {}
                }
            }
        }
    }

    /// Nanoseconds per operation: the median over the turns, so that a turn in which the thread lost its CPU does not
    /// count.
    fn round(&mut self, chosen: usize) -> Result<f64, Errno> {
        (self.clear)();
        let actor = &mut self.ways[chosen].actor;
        let mut turns = Vec::with_capacity(self.turns);
        let mut outcome = actor.begin();
        for _ in 0..self.turns {
            if outcome.is_err() {
                break;
            }
            let before = Instant::now();
            if (self.fill)(self.together).is_err() {
                outcome = Err(Errno::IO);
                break;
            }
            let start = if self.fill_is_timed { before } else { Instant::now() };
            outcome = actor.act(self.together);
            turns.push(start.elapsed().as_nanos() as f64);
            if matches!(actor, Actor::Calls(_) | Actor::Batch(..)) {
                (self.clear)();
            }
        }
        actor.end();
        outcome?;
        Ok(quantile(&sorted(&turns), 0.5).unwrap_or(0.0) / self.together as f64)
    }
}

fn ip(command: &str) -> Result<(), Error> {
    let status = Command::new("ip").args(command.split(' ')).status()?;
    if status.success() { Ok(()) } else { Err(format!("ip {command}").into()) }
}

fn open_tun() -> Result<Rc<TunQueue>, Error> {
    let tun = TunQueue::open(&TunOptions { name: "ops0".into(), multi_queue: false, offload: true })?;
    for command in ["addr add 10.20.0.1/24 dev ops0", "link set ops0 txqueuelen 1000 up"] {
        ip(command)?;
    }
    println!("TUN offloads: {:?}", tun.offload());
    Ok(Rc::new(tun))
}

/// Puts UDP datagrams into the TUN's queue.
fn feed(payload: usize, segment: u16) -> Result<Box<dyn FnMut(usize) -> std::io::Result<()>>, Error> {
    let socket = UdpSocket::bind("10.20.0.1:0")?;
    socket.connect("10.20.0.2:9")?;
    trial::set_segment(socket.as_fd(), segment)?;
    let payload = vec![0x5A; payload];
    Ok(Box::new(move |count| (0..count).try_for_each(|_| socket.send(&payload).map(drop))))
}

fn drain_tun(tun: &Rc<TunQueue>) -> Box<dyn FnMut()> {
    let (tun, mut buffer) = (Rc::clone(tun), vec![0; 65_792]);
    Box::new(move || while rustix::io::read(&*tun, &mut buffer[..]).is_ok() {})
}

/// So many reads into one buffer, and one more that finds nothing when `to_the_end`.
fn read_calls(tun: &Rc<TunQueue>, to_the_end: bool) -> Call {
    let (tun, mut buffer) = (Rc::clone(tun), vec![0; 65_792]);
    Box::new(move |count| {
        for _ in 0..count {
            rustix::io::read(&*tun, &mut buffer[..])?;
        }
        match to_the_end.then(|| rustix::io::read(&*tun, &mut buffer[..])) {
            Some(Ok(_)) => Err(Errno::EXIST),
            _ => Ok(()),
        }
    })
}

/// poll(2) on as many descriptors as the system-call engine has, then the calls.
fn after_poll(fd: OwnedFd, mut calls: Call) -> Result<Call, Error> {
    let silent: Vec<OwnedFd> = (0..4).map(|_| eventfd(0, EventfdFlags::CLOEXEC)).collect::<Result<_, _>>()?;
    Ok(Box::new(move |count| {
        let mut polled: Vec<PollFd<'_>> = Vec::with_capacity(5);
        polled.extend(silent.iter().map(|fd| PollFd::new(fd, PollFlags::IN)));
        polled.push(PollFd::new(&fd, PollFlags::IN));
        poll(&mut polled, None)?;
        calls(count)
    }))
}

fn tun_reads(tun: &Rc<TunQueue>) -> Result<Vec<Row>, Error> {
    let sizes = [("64 B", 36, 0, 100), ("1,420 B", 1_392, 0, 100)];
    let long = ("59 KB USO", usize::from(TUN_SEGMENT) * TUN_SEGMENTS, TUN_SEGMENT, 20);
    let mut rows = Vec::new();
    for (name, payload, segment, turns) in sizes.into_iter().chain([long]) {
        rows.push(Row {
            object: format!("TUN read, {name}, 32 together"),
            together: BATCH,
            turns,
            fill: feed(payload, segment)?,
            fill_is_timed: false,
            clear: drain_tun(tun),
            ways: vec![
                way("read(2), one buffer", Actor::Calls(read_calls(tun, false))),
                way("READ", Actor::batch(Mode::Deferred, &**tun, Op::Read, &[], None)),
                way("READ_FIXED, fixed file", Actor::batch(Mode::Deferred, &**tun, Op::ReadFixed, &[], None)),
                way("READ_MULTISHOT, 64 buffers", Actor::armed(Mode::Deferred, &**tun, Multishot::Read, BUFFERS)),
                way(
                    "READ_MULTISHOT, fixed file",
                    Actor::armed(Mode::Deferred, &**tun, Multishot::ReadFixedFile, BUFFERS),
                ),
            ],
        });
    }
    for together in [1, 4] {
        for (name, payload, segment, turns) in [sizes[1], long] {
            let calls = after_poll(tun.as_fd().try_clone_to_owned()?, read_calls(tun, true))?;
            rows.push(Row {
                object: format!("TUN wake and read to the end, {name}, {together} there"),
                together,
                turns: turns * 5,
                fill: feed(payload, segment)?,
                fill_is_timed: false,
                clear: drain_tun(tun),
                ways: vec![
                    way("poll(2), read(2)", Actor::Calls(calls)),
                    way("multishot poll, read(2)", Actor::polled(&**tun, read_calls(tun, true))),
                    way("READ_MULTISHOT, 64 buffers", Actor::armed(Mode::Deferred, &**tun, Multishot::Read, BUFFERS)),
                    way("READ_MULTISHOT, 8 buffers", Actor::armed(Mode::Deferred, &**tun, Multishot::Read, FEW)),
                ],
            });
        }
    }
    Ok(rows)
}

fn tun_writes(tun: &Rc<TunQueue>) -> Result<Vec<Row>, Error> {
    let frames =
        [("64 B", single(64), 60), ("1,420 B", single(1_420), 60), ("60 KB TCP GSO", tcp_super_packet(60_000), 20)];
    let mut rows = Vec::new();
    for (together, (name, frame, turns)) in [BATCH, 4, 1].into_iter().flat_map(|n| frames.clone().map(|f| (n, f))) {
        let (file, frames) = (Rc::clone(tun), vec![frame.clone(); BATCH]);
        let write =
            move |count| frames.iter().take(count).try_for_each(|frame| rustix::io::write(&*file, frame).map(drop));
        let ring = |op| Actor::batch(Mode::Deferred, &**tun, op, &frame, None);
        rows.push(Row {
            object: format!("TUN write, {name}, {together} together"),
            together,
            turns: turns * if together == BATCH { 1 } else { 4 },
            fill: Box::new(|_| Ok(())),
            fill_is_timed: false,
            clear: drain_tun(tun),
            ways: vec![
                way("write(2)", Actor::Calls(Box::new(write))),
                way("WRITE", ring(Op::Write)),
                way("WRITE_FIXED, fixed file", ring(Op::WriteFixed)),
            ],
        });
    }
    Ok(rows)
}

/// An IPv4 header to an address that is routed nowhere: the kernel takes the packet and drops it after routing.
fn ipv4(total: usize, protocol: u8) -> [u8; 20] {
    let mut header = [0x45, 0, 0, 0, 0, 1, 0, 0, 64, protocol, 0, 0, 10, 20, 0, 2, 198, 51, 100, 1];
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    let sum = header.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum::<u32>();
    let sum = (sum & 0xFFFF) + (sum >> 16);
    header[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    header
}

fn single(total: usize) -> Vec<u8> {
    let mut frame = vec![0; VNET_HDR_LEN + total];
    frame[VNET_HDR_LEN..VNET_HDR_LEN + 20].copy_from_slice(&ipv4(total, 17));
    frame
}

fn tcp_super_packet(total: usize) -> Vec<u8> {
    let mut frame = single(total);
    // struct virtio_net_hdr: NEEDS_CSUM, TCPV4, header length, segment size, start and place of the checksum.
    frame[..2].copy_from_slice(&[1, 1]);
    for (at, value) in [(2, 40u16), (4, 1_380), (6, 20), (8, 16)] {
        frame[at..at + 2].copy_from_slice(&value.to_ne_bytes());
    }
    frame[VNET_HDR_LEN..VNET_HDR_LEN + 20].copy_from_slice(&ipv4(total, 6));
    // TCP: header of five words, ACK.
    frame[VNET_HDR_LEN + 32..VNET_HDR_LEN + 34].copy_from_slice(&[0x50, 0x10]);
    frame
}

/// A plain socket, and the product's connected to it, with room for whatever is in flight here.
fn lo_pair() -> Result<(UdpSocket, WireSocket), Error> {
    let near = UdpSocket::bind("127.0.0.1:0")?;
    let options =
        SocketOptions { remote: Some(near.local_addr()?), receive_buffer: Some(64 << 20), ..Default::default() };
    let far = WireSocket::open(&options)?;
    near.connect(far.local_addr()?)?;
    Ok((near, far))
}

fn another(socket: &WireSocket) -> Result<WireSocket, Error> {
    Ok(WireSocket::adopt(socket.as_fd().try_clone_to_owned()?)?)
}

fn drain_socket(socket: &WireSocket) -> Result<Box<dyn FnMut()>, Error> {
    let mut receiver = DirectReceiver::new(another(socket)?);
    Ok(Box::new(move || while receiver.receive().is_ok() {}))
}

fn receive_calls(socket: &WireSocket) -> Result<Call, Error> {
    let mut receiver = DirectReceiver::new(another(socket)?);
    Ok(Box::new(move |count| {
        let mut got = 0;
        while got < count {
            got += receiver.receive()?;
        }
        Ok(())
    }))
}

fn send_calls(
    socket: UdpSocket,
    payload: usize,
    segment: u16,
) -> Result<Box<dyn FnMut(usize) -> std::io::Result<()>>, Error> {
    trial::set_segment(socket.as_fd(), segment)?;
    let payload = vec![0x5A; payload];
    Ok(Box::new(move |count| (0..count).try_for_each(|_| socket.send(&payload).map(drop))))
}

fn receives() -> Result<Vec<Row>, Error> {
    let kinds = [
        ("64 B", 64, 0, 32, 60),
        ("1,420 B", 1_420, 0, 32, 60),
        ("61 KB GRO trains", usize::from(SEGMENT) * SEGMENTS, SEGMENT, 32, 20),
        ("1,420 B", 1_420, 0, 1, 400),
        ("61 KB GRO trains", usize::from(SEGMENT) * SEGMENTS, SEGMENT, 1, 200),
        ("1,420 B", 1_420, 0, 4, 200),
        ("61 KB GRO trains", usize::from(SEGMENT) * SEGMENTS, SEGMENT, 4, 60),
    ];
    let mut rows = Vec::new();
    for (name, payload, segment, together, turns) in kinds {
        let (near, far) = lo_pair()?;
        let mut ways = match together {
            1 | 4 => {
                let calls = after_poll(far.as_fd().try_clone_to_owned()?, receive_calls(&far)?)?;
                vec![
                    way("poll(2), recvmmsg(2)", Actor::Calls(calls)),
                    way("multishot poll, recvmmsg(2)", Actor::polled(&far, receive_calls(&far)?)),
                ]
            }
            _ => vec![way("recvmmsg(2), 16 a call", Actor::Calls(receive_calls(&far)?))],
        };
        let armed = |buffers| Actor::armed(Mode::Deferred, &far, Multishot::ReceiveMessage, buffers);
        ways.push(way("RECVMSG multishot, 64 buffers", armed(BUFFERS)));
        ways.push(way("RECVMSG multishot, 16 buffers", armed(SOME)));
        ways.push(way("RECVMSG multishot, 8 buffers", armed(FEW)));
        ways.push(way("RECVMSG", Actor::batch(Mode::Deferred, &far, Op::ReceiveMessage, &[], None)));
        rows.push(Row {
            object: match together {
                1 | 4 => format!("UDP wake and receive, {name}, {together} there"),
                _ => format!("UDP receive, {name}, 32 together"),
            },
            together,
            turns,
            fill: send_calls(near, payload, segment)?,
            fill_is_timed: false,
            clear: drain_socket(&far)?,
            ways,
        });
    }
    Ok(rows)
}

/// To this peer, or to a socket of our own.
fn sends(sink: &str, remote: Option<SocketAddr>) -> Result<Vec<Row>, Error> {
    let mut rows = Vec::new();
    let train = |count| (vec![0x5A; usize::from(SEGMENT) * count], Some(SEGMENT));
    for (name, (payload, segment), turns) in [
        ("64 B", (vec![0x5A; 64], None), 40),
        ("2 x 1,424 B UDP_SEGMENT", train(2), 40),
        ("4 x 1,424 B UDP_SEGMENT", train(4), 40),
        ("8 x 1,424 B UDP_SEGMENT", train(8), 40),
        ("16 x 1,424 B UDP_SEGMENT", train(16), 20),
        ("61 KB UDP_SEGMENT", train(SEGMENTS), 20),
    ] {
        let sink_socket = WireSocket::adopt(UdpSocket::bind("127.0.0.1:0")?.into())?;
        let target = remote.map_or_else(|| sink_socket.local_addr(), Ok)?;
        let socket = WireSocket::open(&SocketOptions { remote: Some(target), ..Default::default() })?;
        let ours = WireSocket::open(&SocketOptions { remote: Some(target), ..Default::default() })?;
        trial::set_segment(ours.as_fd(), segment.unwrap_or(0))?;
        let calls = |at_once| -> Result<Call, Error> {
            let mut sender = DirectSender::new(socket.as_fd(), &payload, segment)?;
            Ok(Box::new(move |count| sender.send(count, at_once)))
        };
        let ring = |op| Actor::batch(Mode::Deferred, &socket, op, &payload, segment);
        rows.push(Row {
            object: format!("UDP send, {name}, over {sink}, 32 together"),
            together: BATCH,
            turns,
            fill: Box::new(|_| Ok(())),
            fill_is_timed: false,
            clear: drain_socket(&sink_socket)?,
            ways: vec![
                way("sendmmsg(2), 32 a call", Actor::Calls(calls(BATCH)?)),
                way("sendmmsg(2), 1 a call", Actor::Calls(calls(1)?)),
                way("SENDMSG", ring(Op::SendMessage)),
                way("SENDMSG_ZC", ring(Op::SendMessageZc)),
                way("SENDMSG_ZC, fixed buffer", ring(Op::SendMessageZcFixed)),
                way("SEND_ZC, fixed buffer", Actor::batch(Mode::Deferred, &ours, Op::SendZcFixed, &payload, None)),
            ],
        });
    }
    Ok(rows)
}

fn modes(tun: &Rc<TunQueue>) -> Result<Vec<Row>, Error> {
    let named = [
        ("DEFER_TASKRUN", Mode::Deferred),
        ("COOP_TASKRUN", Mode::Cooperative),
        ("no flag", Mode::Plain),
        ("SQPOLL", Mode::SqPoll),
    ];
    let (near, far) = lo_pair()?;
    let mut loops = vec![way("recvmmsg(2)", Actor::Calls(receive_calls(&far)?))];
    let mut reads = vec![way("read(2)", Actor::Calls(read_calls(tun, false)))];
    for (name, mode) in named {
        loops.push(way(name, Actor::armed(mode, &far, Multishot::ReceiveMessage, BUFFERS)));
        reads.push(way(name, Actor::batch(mode, &**tun, Op::Read, &[], None)));
    }
    Ok(vec![
        Row {
            object: "Ring modes: UDP 1,420 B sent (timed too) and received by multishot, 32 together".into(),
            together: BATCH,
            turns: 30,
            fill: send_calls(near, 1_420, 0)?,
            fill_is_timed: true,
            clear: drain_socket(&far)?,
            ways: loops,
        },
        Row {
            object: "Ring modes: TUN READ, 1,420 B, 32 together".into(),
            together: BATCH,
            turns: 30,
            fill: feed(1_392, 0)?,
            fill_is_timed: false,
            clear: drain_tun(tun),
            ways: reads,
        },
    ])
}

fn doorbells(rounds: usize, cpus: [usize; 2], report: &mut Report) {
    let named = [
        ("eventfd, poll(2)", Doorbell::PollCall),
        ("eventfd, multishot poll", Doorbell::MultishotPoll),
        ("MSG_RING from a ring", Doorbell::MessageRing),
        ("MSG_RING by register", Doorbell::MessageRegister),
    ];
    let parts = ["one way, p50", "one way, p99", "what ringing costs, p50"];
    let mut lines: Vec<Vec<Outcome>> = vec![vec![Ok(Vec::new()); named.len()]; parts.len()];
    for round in 0..=rounds {
        for place in 0..named.len() {
            let chosen = (round + place) % named.len();
            if lines[0][chosen].is_err() {
                continue;
            }
            let took = wakes(named[chosen].1, WAKES, Duration::from_micros(50), cpus);
            for (part, line) in lines.iter_mut().enumerate() {
                match (&took, &mut line[chosen]) {
                    (Ok(wakes), Ok(samples)) if round > 0 => {
                        let (of, at) =
                            [(&wakes.latency_ns, 0.5), (&wakes.latency_ns, 0.99), (&wakes.cost_ns, 0.5)][part];
                        let of = sorted(&of.iter().map(|&ns| ns as f64).collect::<Vec<_>>());
                        samples.extend(quantile(&of, at));
                    }
                    (Err(error), line) => *line = Err(Errno::from_io_error(error).unwrap_or(Errno::IO)),
                    _ => {}
                }
            }
        }
    }
    for (part, line) in parts.into_iter().zip(lines) {
        let object = format!("Doorbell between two CPUs, {WAKES} wake-ups a round: {part}");
        report.add(&object, "ns", named.iter().map(|(name, _)| *name).zip(line).collect());
    }
}

/// What the kernel says to busy polling, and whether there is anything to poll.
fn napi(report: &mut Report) -> Result<(), Error> {
    for (name, mode) in [("DEFER_TASKRUN", Mode::Deferred), ("no flag", Mode::Plain)] {
        let answer = match trial::try_napi(mode) {
            Ok(us) => format!("accepted, {us} us"),
            Err(error) => format!("refused: {error}"),
        };
        report.note(format!("IORING_REGISTER_NAPI (27), 50 us, ring with {name}: {answer}"));
    }
    let (near, far) = lo_pair()?;
    near.send(b"?")?;
    while DirectReceiver::new(another(&far)?).receive().is_err() {}
    report.note(format!("SO_INCOMING_NAPI_ID of a socket that received over lo: {}", trial::napi_id(far.as_fd())?));
    for gro in ["off", "on"] {
        let id = veth_napi_id(gro).map_or_else(|error| format!("not found out: {error}"), |id| id.to_string());
        report.note(format!("SO_INCOMING_NAPI_ID of a socket that received over veth, gro {gro}: {id}"));
    }
    Ok(())
}

/// The NAPI id behind a veth end in a second namespace.
fn veth_napi_id(gro: &'static str) -> Result<i32, Error> {
    let (tid_out, tid) = std::sync::mpsc::channel();
    let (go, gone) = std::sync::mpsc::channel::<()>();
    let (ready, is_ready) = std::sync::mpsc::channel::<()>();
    let far = std::thread::spawn(move || -> Result<i32, String> {
        let say = |error: Error| error.to_string();
        trial::enter_new_network().map_err(|error| error.to_string())?;
        tid_out.send(rustix::thread::gettid()).map_err(|error| error.to_string())?;
        gone.recv().map_err(|error| error.to_string())?;
        let set = Command::new("ethtool").args(["-K", "ops2", "gro", gro]).status();
        if !set.is_ok_and(|status| status.success()) {
            return Err("ethtool is missing or refused".into());
        }
        ip("addr add 10.40.0.2/24 dev ops2").and_then(|()| ip("link set ops2 up")).map_err(say)?;
        let socket = UdpSocket::bind("10.40.0.2:9").map_err(|error| error.to_string())?;
        socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(|error| error.to_string())?;
        ready.send(()).map_err(|error| error.to_string())?;
        socket.recv(&mut [0; 8]).map_err(|error| error.to_string())?;
        trial::napi_id(socket.as_fd()).map_err(|error| error.to_string())
    });
    let tid = tid.recv()?.as_raw_nonzero();
    ip("link add ops1 type veth peer name ops2")?;
    ip(&format!("link set ops2 netns {tid}"))?;
    ip("addr add 10.40.0.1/24 dev ops1")?;
    ip("link set ops1 up")?;
    go.send(())?;
    if is_ready.recv().is_ok() {
        let socket = UdpSocket::bind("10.40.0.1:0")?;
        socket.send_to(b"?", "10.40.0.2:9")?;
    }
    let outcome = far.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    let _ = ip("link del ops1");
    Ok(outcome?)
}

type Outcome = Result<Vec<f64>, Errno>;

/// The table on the terminal, and the same as JSON.
struct Report {
    machine: String,
    rounds: usize,
    rows: Vec<String>,
    notes: Vec<String>,
}

impl Report {
    fn new(rounds: usize) -> Self {
        let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let field = |name: &str| {
            let line = cpu.lines().find(|line| line.starts_with(name)).unwrap_or_default();
            line.split(": ").nth(1).unwrap_or("?").to_owned()
        };
        let date =
            Command::new("date").arg("-Is").output().map(|out| String::from_utf8_lossy(&out.stdout).into_owned());
        let machine = format!(
            "{} | kernel {} | {} (family {}, model {}) | load before: {}",
            date.unwrap_or_default().trim(),
            read("/proc/sys/kernel/osrelease"),
            field("model name"),
            field("cpu family"),
            field("model\t"),
            read("/proc/loadavg"),
        );
        Self { machine, rounds, rows: Vec::new(), notes: Vec::new() }
    }

    fn add(&mut self, object: &str, unit: &str, ways: Vec<(&'static str, Outcome)>) {
        println!("\n{object}");
        let base = ways.first().and_then(|(_, outcome)| outcome.as_ref().ok().cloned()).unwrap_or_default();
        let mut lines = Vec::new();
        for (place, (name, outcome)) in ways.iter().enumerate() {
            let text = match outcome.as_ref().map(|samples| (summary(samples), ratio(samples, &base))) {
                Err(errno) => {
                    println!("  {name:<32} refused: {errno}");
                    format!(r#"{{"way":{},"refused":{}}}"#, quoted(name), quoted(&errno.to_string()))
                }
                Ok((Some(took), compared)) => {
                    let (low, high) = took.quartiles;
                    print!("  {name:<32} {:>8.0} {unit} [{low:.0}-{high:.0}]", took.median);
                    let mut text = format!(
                        r#"{{"way":{},"median":{:.1},"p25":{low:.1},"p75":{high:.1}"#,
                        quoted(name),
                        took.median
                    );
                    if let Some(compared) = compared.filter(|_| place > 0) {
                        let (least, most) = compared.interval;
                        print!("   x{:.3} [{least:.3}-{most:.3}]", compared.median);
                        let _ = write!(text, r#","ratio":{:.4},"low":{least:.4},"high":{most:.4}"#, compared.median);
                    }
                    println!();
                    text + "}"
                }
                Ok((None, _)) => continue,
            };
            lines.push(text);
        }
        self.rows.push(format!(
            r#"{{"object":{},"unit":{},"ways":[{}]}}"#,
            quoted(object),
            quoted(unit),
            lines.join(",")
        ));
    }

    fn note(&mut self, note: String) {
        println!("{note}");
        self.notes.push(quoted(&note));
    }

    fn finish(mut self, json: Option<&str>) -> Result<(), Error> {
        println!();
        self.note(format!("load after: {}", read("/proc/loadavg")));
        if let Some(file) = json {
            let text = format!(
                "{{\"machine\":{},\"rounds\":{},\n\"rows\":[\n{}\n],\n\"notes\":[{}]}}\n",
                quoted(&self.machine),
                self.rounds,
                self.rows.join(",\n"),
                self.notes.join(",")
            );
            std::fs::write(file, text)?;
        }
        Ok(())
    }
}

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A JSON string; the texts here have no control characters.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
