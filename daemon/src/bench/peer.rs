//! One end of a tunnel as the benchmark runs it: a data plane with its keys installed directly over the ring, without a
//! control channel, in a process of its own whose processor time can be told. The benchmark starts it, tells it on
//! standard input what to be, and closes that to end it.

use std::io::{self, BufRead, Read, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use dataplane::datachannel::aead::{Aead, AeadChoice};
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::{PeerSetup, PipelineConfig, SourceRule};
use dataplane::sys::IoChoice;
use dataplane::sys::socket::{SocketOptions, WireSocket};
use dataplane::sys::tundev::{TunOptions, TunQueue};
use dataplane::tun::coalesce::TunOffload;
use dataplane::workers::manager::{
    OffloadChoice, Tuning, WorkerConfig, WorkerGone, WorkerHandle, WorkerOrder, WorkerReport, spawn,
};
use link::message::{Cipher, DirectionKey, InstallKey, KeyLimits, KeyName, Path, Secret, WorkerCommand, WorkerEvent};
use serde::{Deserialize, Serialize};

/// The word after the program's name that makes this executable one end of a benchmarked tunnel.
pub const BENCH_PEER: &str = "bench-peer";

/// Bytes of a direction's key: AES-256 and the implicit part of the nonce.
pub(super) const KEY: usize = 40;

/// The peer-id on the wire.
const WIRE_PEER: u32 = 1;
/// How long a worker may take to install a key.
const INSTALL: Duration = Duration::from_secs(5);
/// The longest order, in bytes.
const ORDER: u64 = 64 << 10;

/// What such a process is told: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    /// The TUN interface that it makes.
    pub(super) device: String,
    /// Where it listens.
    pub(super) local: SocketAddr,
    /// Where its peer listens.
    pub(super) remote: SocketAddr,
    /// `uring` or `syscall`.
    pub(super) engine: String,
    /// What seals and opens, by the name that `--aead` takes.
    pub(super) aead: String,
    /// Where its worker is pinned.
    pub(super) cpu: Option<usize>,
    /// The key it seals with, and the implicit part of its nonces: [`KEY`] bytes.
    pub(super) seal: Secret,
    /// The same of what it opens with.
    pub(super) open: Secret,
}

/// What it answers: one line of JSON.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Answer {
    /// The tunnel stands.
    Ready {
        /// What is in use, for people.
        offloads: String,
    },
    /// It does not, for this reason.
    Failed(String),
}

/// The process's whole life.
pub fn main() -> ExitCode {
    let mut input = io::stdin().lock();
    match read_order(&mut input).and_then(|order| End::start(&order)) {
        Ok(end) => {
            let (mut rest, answer) = ([0; 64], Answer::Ready { offloads: end.offloads.clone() });
            let told = tell(&answer);
            // Nothing more comes; the end of the stream is the order to leave.
            while told.is_ok() && input.read(&mut rest).is_ok_and(|read| read > 0) {}
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = tell(&Answer::Failed(error.to_string()));
            ExitCode::FAILURE
        }
    }
}

fn read_order(input: &mut impl BufRead) -> io::Result<Order> {
    let mut line = String::new();
    input.take(ORDER).read_line(&mut line)?;
    Ok(serde_json::from_str(&line)?)
}

fn tell(answer: &Answer) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{}", serde_json::to_string(answer)?)?;
    out.flush()
}

/// A data plane that runs. The supervisor's end of the link is held because its loss would be one end's death.
struct End {
    _worker: WorkerHandle,
    _control: link::ControlEnd<(), ()>,
    _supervisor: link::SupervisorEnd<(), ()>,
    offloads: String,
}

impl End {
    fn start(order: &Order) -> io::Result<End> {
        let choice: AeadChoice = order.aead.parse().map_err(io::Error::other)?;
        let aead = Aead::resolve(choice).map_err(io::Error::other)?;
        let tun = TunQueue::open(&TunOptions { name: order.device.clone(), multi_queue: false, offload: true })
            .map_err(io::Error::other)?;
        let socket = WireSocket::open(&SocketOptions {
            bind: Some(order.local),
            remote: Some(order.remote),
            ..SocketOptions::default()
        })?;
        let config = WorkerConfig {
            index: 0,
            cpu: order.cpu,
            split: None,
            tuning: Tuning::default(),
            io: if order.engine == "uring" { IoChoice::Uring } else { IoChoice::Syscall },
            offload: OffloadChoice::default(),
            config: PipelineConfig { routes: RouteTable::all_to(0), aead },
        };
        let (shared, supervisor, mut ends) = link::create::<(), ()>(1)?;
        let end = ends.pop().ok_or_else(|| io::Error::other("the link has no worker's end"))?;
        let worker = spawn(config, end, complain)?;
        let offloads = in_use(&worker, tun.offload(), &socket);
        attach(&worker, order.remote, socket, tun).map_err(io::Error::other)?;
        let mut control = shared.into_control_end();
        install(&mut control, order)?;
        Ok(End { _worker: worker, _control: control, _supervisor: supervisor, offloads })
    }
}

/// What goes wrong is for whoever reads the benchmark's log.
fn complain(report: WorkerReport) {
    match report {
        WorkerReport::EngineChosen(_) | WorkerReport::Pinned(_) | WorkerReport::Peer(_) => {}
        other => eprintln!("{other:?}"),
    }
}

fn attach(worker: &WorkerHandle, remote: SocketAddr, socket: WireSocket, tun: TunQueue) -> Result<(), WorkerGone> {
    let path = Path { worker: 0, local: None, ifindex: 0, remote, stream: None };
    worker.send(WorkerOrder::AddPeer(Box::new(PeerSetup {
        peer: 0,
        generation: None,
        path,
        wire_peer_id: Some(WIRE_PEER),
        replay_window: 8_192,
        replay_time_s: 15,
        mssfix: None,
        ping_s: 0,
        ping_restart_s: 0,
        float: false,
        source: SourceRule::Any,
        counters: Default::default(),
    })))?;
    worker.send(WorkerOrder::AttachSocket { socket, path })?;
    worker.send(WorkerOrder::AttachTun(tun))
}

fn install(control: &mut link::ControlEnd<(), ()>, order: &Order) -> io::Result<()> {
    let name = KeyName { peer: 0, generation: 1, negotiation: 0, key_id: 0 };
    let key = InstallKey {
        name,
        cipher: Cipher::Aes256Gcm,
        seal: direction(&order.seal)?,
        open: direction(&order.open)?,
        wire_peer_id: Some(WIRE_PEER),
        send_from_ns: 0,
        retire_previous_ns: u64::MAX,
        limits: KeyLimits {
            soft_packet_id: u32::MAX,
            hard_packet_id: u32::MAX,
            soft_bytes: u64::MAX,
            soft_packets: u64::MAX,
            soft_aead: u64::MAX,
            hard_aead: (1 << 36) - 1,
            hard_failures: 1 << 36,
        },
    };
    control.send_command(0, &WorkerCommand::InstallKey(key)).map_err(io::Error::other)?;
    let patience = Instant::now() + INSTALL;
    while Instant::now() < patience {
        match control.recv_event(0).map_err(io::Error::other)? {
            Some(WorkerEvent::KeyInstalled(_)) => return Ok(()),
            Some(WorkerEvent::KeyRefused(_, why)) => return Err(io::Error::other(format!("key refused: {why:?}"))),
            Some(_) => {}
            None => control.wait(Some(Duration::from_millis(100))).map_err(io::Error::other)?,
        }
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, "the worker did not install its key"))
}

fn direction(key: &Secret) -> io::Result<DirectionKey> {
    match key.0.split_at_checked(KEY - 8) {
        Some((key, iv)) if iv.len() == 8 => {
            Ok(DirectionKey { key: Secret(key.to_vec()), implicit_iv: Secret(iv.to_vec()) })
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a key of the wrong length")),
    }
}

fn in_use(worker: &WorkerHandle, tun: TunOffload, socket: &WireSocket) -> String {
    let tun = [(tun.csum, "csum"), (tun.tso4, "tso4"), (tun.tso6, "tso6"), (tun.uso4, "uso4"), (tun.uso6, "uso6")];
    let tun: Vec<&str> = tun.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
    let udp = [(socket.gso(), "UDP_SEGMENT"), (socket.gro(), "UDP_GRO")];
    let udp: Vec<&str> = udp.into_iter().filter_map(|(on, name)| on.then_some(name)).collect();
    format!(
        "{}, AES-256-GCM by {}, TUN {}, socket {}",
        worker.engine().name,
        worker.aead().name,
        or_none(&tun.join("+")),
        or_none(&udp.join("+")),
    )
}

fn or_none(text: &str) -> &str {
    if text.is_empty() { "without offloads" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_cut_into_cipher_key_and_nonce_and_other_lengths_are_refused() {
        let key = direction(&Secret((0..40).collect())).unwrap();
        assert_eq!((key.key.0.len(), key.implicit_iv.0.clone()), (32, (32..40).collect()));
        assert!(direction(&Secret(vec![1; 39])).is_err());
        assert!(direction(&Secret(vec![1; 41])).is_err());
        assert!(direction(&Secret(Vec::new())).is_err());
    }

    #[test]
    fn an_order_that_is_no_json_is_an_error() {
        assert!(read_order(&mut &b"nonsense\n"[..]).is_err());
        assert!(read_order(&mut &b""[..]).is_err());
    }
}
