//! The worker that is measured, and how one figure is taken.

use std::error::Error;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use dataplane::datachannel::aead::{self, Aead, AeadChoice, AeadError};
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::{PeerSetup, PipelineConfig, SourceRule};
use dataplane::sys::{IoChoice, ZeroCopyChoice};
use dataplane::workers::manager::{
    OffloadChoice, Tuning, WorkerConfig, WorkerHandle, WorkerOrder, WorkerReport, spawn,
};
use dataplane::workers::stats::StatsReader;
use link::message::{Cipher, DirectionKey, InstallKey, KeyLimits, KeyName, Secret, WorkerCommand, WorkerEvent};

use crate::figures::{Figure, median};
use crate::lab::Lab;
use crate::rows::Row;
use crate::traffic::Generator;

/// The peer-id on the wire.
pub const WIRE_PEER: u32 = 5;
/// Key and implicit IV of what the worker seals.
const SEAL: [u8; 40] = [1; 40];
/// Key and implicit IV of what it opens.
pub const OPEN: [u8; 40] = [2; 40];

/// How often the worker is looked at while it drains. Rarely enough to leave its cache lines alone.
const LOOK: Duration = Duration::from_micros(100);
/// No queue takes longer.
const PATIENCE: Duration = Duration::from_secs(5);
/// Rounds with an empty queue for each figure.
const EMPTY_ROUNDS: usize = 5;

/// An I/O engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    /// Plain system calls.
    Syscall,
    /// io_uring, which copies what it sends: what sending without a copy is compared with.
    UringCopy,
    /// io_uring.
    Uring,
}

impl Engine {
    /// Those of the table.
    pub const BOTH: [Self; 2] = [Self::Syscall, Self::Uring];
    /// All.
    pub const ALL: [Self; 3] = [Self::Syscall, Self::UringCopy, Self::Uring];

    /// For the command line and the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syscall => "syscall",
            Self::UringCopy => "uring-copy",
            Self::Uring => "uring",
        }
    }

    fn choice(self) -> IoChoice {
        match self {
            Self::Syscall => IoChoice::Syscall,
            Self::UringCopy | Self::Uring => IoChoice::Uring,
        }
    }

    fn offload(self) -> OffloadChoice {
        let zero_copy = if self == Self::UringCopy { ZeroCopyChoice::Off } else { ZeroCopyChoice::Auto };
        OffloadChoice { zero_copy, ..OffloadChoice::default() }
    }
}

/// An AEAD backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// The library that this build is linked with.
    Library,
    /// Intel's ipsec-mb, where the host has it.
    IpsecMb,
    /// No cryptography at all: what everything else costs.
    #[cfg(feature = "no-crypto")]
    None,
}

impl Backend {
    const ALL: &[Self] = &[
        Self::Library,
        Self::IpsecMb,
        #[cfg(feature = "no-crypto")]
        Self::None,
    ];

    /// Those that this build and this host have.
    pub fn present() -> Vec<Self> {
        Self::ALL.iter().copied().filter(|backend| backend.resolve().is_ok()).collect()
    }

    /// For the command line and the table.
    pub fn name(self) -> &'static str {
        match self {
            Self::Library => aead::BACKEND,
            Self::IpsecMb => "ipsec-mb",
            #[cfg(feature = "no-crypto")]
            Self::None => "none",
        }
    }

    /// Nanoseconds to reach in this row.
    pub fn target(self, row: &Row) -> Option<u32> {
        match self {
            Self::Library => row.target_aws_lc,
            Self::IpsecMb => row.target_ipsec_mb,
            #[cfg(feature = "no-crypto")]
            Self::None => None,
        }
    }

    /// What the product makes keys with.
    ///
    /// # Errors
    /// The host has no such library, or it failed its vectors.
    pub fn resolve(self) -> Result<Aead, AeadError> {
        match self {
            Self::Library => Ok(Aead::default()),
            Self::IpsecMb => Aead::resolve(AeadChoice::IpsecMb),
            #[cfg(feature = "no-crypto")]
            Self::None => Ok(Aead::none()),
        }
    }
}

/// A key as the ring carries it.
pub fn direction(bytes: &[u8; 40]) -> DirectionKey {
    DirectionKey { key: Secret(bytes[..32].to_vec()), implicit_iv: Secret(bytes[32..].to_vec()) }
}

/// A worker of the product, with everything but its source.
pub struct Subject {
    worker: WorkerHandle,
    stats: StatsReader,
    thread: Thread,
    row: Row,
    aead: Backend,
    // The other ends of its link live as long as the worker.
    _control: link::ControlEnd<(), ()>,
    _supervisor: link::SupervisorEnd<(), ()>,
}

impl Subject {
    /// Starts a worker with a peer and a key.
    pub fn start(lab: &Lab, row: Row, engine: Engine, aead: Backend, cpu: usize) -> Result<Self, Box<dyn Error>> {
        let (shared, supervisor, mut ends) = link::create::<(), ()>(1)?;
        let mut control = shared.into_control_end();
        let config = WorkerConfig {
            split: None,
            tuning: Tuning::default(),
            index: 0,
            cpu: Some(cpu),
            io: engine.choice(),
            offload: engine.offload(),
            config: PipelineConfig { routes: RouteTable::all_to(0), aead: aead.resolve()? },
        };
        let (tell, told) = channel();
        let worker = spawn(config, ends.remove(0), move |report| match report {
            // This runs on the worker's thread.
            WorkerReport::EngineChosen(_) => drop(tell.send(rustix::thread::gettid().as_raw_nonzero().get())),
            WorkerReport::Pinned(_) | WorkerReport::Offloads(_) => {}
            other => eprintln!("\nthe worker says: {other:?}"),
        })?;
        let thread = Thread(told.recv()?);
        let (socket, path) = if row.seals() { lab.departures()? } else { lab.arrivals()? };
        worker.send(WorkerOrder::AddPeer(Box::new(peer(path))))?;
        if row.seals() {
            worker.send(WorkerOrder::AttachSocket { socket, path })?;
        } else {
            worker.send(WorkerOrder::AttachTun(lab.tun()?))?;
        }
        control.send_command(0, &WorkerCommand::InstallKey(install()))?;
        loop {
            match control.recv_event(0)? {
                Some(WorkerEvent::KeyInstalled(_)) => break,
                Some(WorkerEvent::KeyRefused(_, why)) => return Err(format!("the key was refused: {why:?}").into()),
                Some(_) => {}
                None => control.wait(None)?,
            }
        }
        Ok(Self { stats: worker.stats(), worker, thread, row, aead, _control: control, _supervisor: supervisor })
    }

    /// One figure: the median of so many drained queues, each less what an empty one costs.
    pub fn figure(&mut self, lab: &Lab, generator: &mut Generator, rounds: usize) -> Result<Figure, Box<dyn Error>> {
        let mut empty = (0..EMPTY_ROUNDS).map(|_| self.drain(lab, 0)).collect::<Result<Vec<_>, _>>()?;
        let overhead = median(&mut empty);
        let (mut ns, mut grouping) = (Vec::with_capacity(rounds), Vec::with_capacity(rounds));
        let packets = self.row.packets();
        for _ in 0..rounds {
            let before = self.direction();
            generator.fill(self.aead)?;
            if self.direction() != before {
                return Err("the worker ran while its queue was filled".into());
            }
            let cpu = self.drain(lab, packets)?;
            let after = self.direction();
            ns.push((cpu - overhead) / packets as f64);
            grouping.push((after.written - before.written) as f64 / (after.writes - before.writes).max(1) as f64);
        }
        Ok(Figure { ns: median(&mut ns), grouping: median(&mut grouping), overhead: overhead / packets as f64 })
    }

    fn direction(&self) -> dataplane::workers::stats::DirectionSnapshot {
        let stats = self.stats.snapshot();
        if self.row.seals() { stats.outbound } else { stats.inbound }
    }

    /// Gives the worker its source until it has carried away so many packets, and takes it back: CPU time in nanoseconds.
    fn drain(&mut self, lab: &Lab, packets: u64) -> Result<f64, Box<dyn Error>> {
        let (before, drops) = (self.direction(), self.stats.snapshot().dropped_total());
        let start = self.thread.asleep()?;
        if self.row.seals() {
            self.worker.send(WorkerOrder::AttachTun(lab.tun()?))?;
        } else {
            let (socket, path) = lab.arrivals()?;
            self.worker.send(WorkerOrder::AttachSocket { socket, path })?;
        }
        let deadline = Instant::now() + PATIENCE;
        while self.direction().written - before.written < packets {
            std::thread::sleep(LOOK);
            if Instant::now() > deadline {
                let (now, stats) = (self.direction(), self.stats.snapshot());
                return Err(format!(
                    "{} of {packets} packets came through, {} were dropped: {:?}",
                    now.written - before.written,
                    stats.dropped_total() - drops,
                    stats.drops
                )
                .into());
            }
        }
        let end = self.thread.asleep_after(start)?;
        if self.stats.snapshot().dropped_total() != drops {
            return Err("the worker dropped packets".into());
        }
        self.worker.send(if self.row.seals() { WorkerOrder::DetachTun } else { WorkerOrder::DetachSocket })?;
        self.thread.asleep_after(end)?;
        Ok((end.cpu_ns - start.cpu_ns) as f64)
    }
}

fn peer(path: link::message::Path) -> PeerSetup {
    PeerSetup {
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
    }
}

fn install() -> InstallKey {
    InstallKey {
        name: KeyName { peer: 0, generation: 1, negotiation: 0, key_id: 0 },
        cipher: Cipher::Aes256Gcm,
        seal: direction(&SEAL),
        open: direction(&OPEN),
        wire_peer_id: Some(WIRE_PEER),
        send_from_ns: 0,
        retire_previous_ns: u64::MAX,
        limits: KeyLimits {
            soft_packet_id: u32::MAX,
            hard_packet_id: u32::MAX,
            soft_bytes: u64::MAX,
            soft_packets: u64::MAX,
            soft_aead: u64::MAX,
            hard_aead: u64::MAX,
            hard_failures: 1 << 36,
        },
    }
}

/// A thread of this process, as the scheduler knows it.
#[derive(Clone, Copy, Debug)]
struct Thread(i32);

/// What the scheduler says of a thread that sleeps (Documentation/scheduler/sched-stats.rst).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Account {
    cpu_ns: u64,
    /// How often it was put onto a CPU.
    turns: u64,
}

impl Thread {
    /// Waits until it sleeps, and reads its account then.
    ///
    /// A thread shows as sleeping a little before it leaves its CPU, and its account is brought up to date only then: it must
    /// look the same twice.
    fn asleep(self) -> Result<Account, Box<dyn Error>> {
        self.asleep_when(|_| true)
    }

    /// The same, once it has run again since `before`.
    fn asleep_after(self, before: Account) -> Result<Account, Box<dyn Error>> {
        self.asleep_when(|account| account != before)
    }

    fn asleep_when(self, enough: impl Fn(Account) -> bool) -> Result<Account, Box<dyn Error>> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let account = self.account()?;
            std::thread::sleep(LOOK);
            if self.sleeps()? && self.account()? == account && enough(account) {
                return Ok(account);
            }
        }
        Err("the worker does not come to rest, or does not wake up".into())
    }

    fn account(self) -> Result<Account, Box<dyn Error>> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/schedstat", self.0))?;
        let mut numbers = text.split_whitespace().map(str::parse::<u64>);
        match (numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(cpu_ns)), Some(Ok(_)), Some(Ok(turns))) => Ok(Account { cpu_ns, turns }),
            _ => Err("this kernel has no scheduler statistics (CONFIG_SCHED_INFO)".into()),
        }
    }

    fn sleeps(self) -> Result<bool, Box<dyn Error>> {
        let text = std::fs::read_to_string(format!("/proc/self/task/{}/stat", self.0))?;
        // The name in brackets may hold anything; the state stands behind it.
        Ok(text.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('S')))
    }
}
