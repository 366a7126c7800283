//! From the command line to a running client: the profile is read, what is missing on the host is named, what a killed
//! predecessor left is undone, privileges are dropped, the control process and the worker are started.

use std::collections::HashMap;
use std::path::Path;

use controlplane::SystemRandom;
use dataplane::datachannel::aead::Aead;
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::PipelineConfig;
use dataplane::sys::tundev::TunQueue;
use dataplane::sys::{IoChoice, affinity};
use dataplane::workers::manager::{self, OffloadChoice, Split, Tuning, WorkerConfig, WorkerHandle, WorkerReport};
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::control::Control;
use super::credentials::Wallet;
use super::losses::Losses;
use super::remotes::Remotes;
use super::run::{Client, PEER, Timers};
use super::signals::Signals;
use super::tunnel::{self, HostSide};
use crate::cli::{Connect, Io, Pinning};
use crate::clock;
use crate::config::{self, agreed::ClientProfile};
use crate::exit::{Exit, Fatal};
use crate::host::privileges::{self, Keep};
use crate::host::watch::{SuspendDetector, Watch};
use crate::host::{Host, journal, journal::Journal, routes};
use crate::observe::console::Console;
use crate::observe::log::Format;
use crate::supervisor;

/// A worker's reports that wait for the supervisor. They are rare; one more than this is dropped.
const REPORTS: usize = 256;

/// `minivpn connect FILE`.
pub fn main(options: Connect, format: Format, quiet: bool) -> Exit {
    match prepare_and_run(options, format, quiet) {
        Ok(()) => Exit::Ok,
        Err(fatal) => {
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

fn prepare_and_run(options: Connect, format: Format, quiet: bool) -> Result<(), Fatal> {
    let profile = load(&options.file)?;
    let console = Console::new(format, quiet);
    privileges::check().map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))?;
    let seat = processor(&options, &profile)?;
    let aead = Aead::resolve(options.aead)
        .map_err(|error| Fatal::new(Exit::Config, format!("--aead {}: {error}", options.aead)))?;
    let wallet = Wallet::open(&profile.credentials)?;
    let device = drop_privileges(&profile, &options)?;
    let ran = supervisor::block_on(async move {
        let client = assemble(profile, options, console, wallet, device, Worker { seat, aead }).await?;
        client.run().await
    });
    ran.map_err(|error| Fatal::new(Exit::Other, format!("the runtime could not be started: {error}")))?
}

/// What makes a profile unusable although every line of it is right: certificates and keys, `user` and `group`.
pub fn unusable(profile: &ClientProfile) -> Vec<String> {
    let tls = match controlplane::Client::new(profile.client_setup(), clock::now()) {
        Ok(_) => None,
        Err(controlplane::Ending::Tls(sentence)) => Some(sentence),
        Err(other) => Some(format!("{other:?}")),
    };
    let identity = privileges::identity(profile.user.as_deref(), profile.group.as_deref());
    tls.into_iter().chain(identity.err().map(|error| error.to_string())).collect()
}

fn load(file: &Path) -> Result<ClientProfile, Fatal> {
    match config::load(file) {
        Ok((profile, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Ok(profile)
        }
        Err(problems) => {
            let errors: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(Fatal::new(Exit::Config, errors.join("\n")))
        }
    }
}

/// What of the worker was settled before anything was started.
struct Worker {
    seat: Seat,
    aead: Aead,
}

async fn assemble(
    profile: ClientProfile,
    options: Connect,
    console: Console,
    wallet: Wallet,
    device: Option<TunQueue>,
    worker: Worker,
) -> Result<Client, Fatal> {
    let side = host_side(&options).await?;
    let mut setup = profile.client_setup();
    setup.iv_proto_mask = options.iv_proto_mask;
    let (control, link) = Control::start(setup)?;
    let (worker, reports) = start_worker(&options, worker, link)?;
    let other = |what: &str, error: &dyn std::fmt::Display| Fatal::new(Exit::Other, format!("{what}: {error}"));
    let mut rng = SystemRandom;
    Ok(Client {
        watch: Watch::open().map_err(|e| other("the host's network cannot be watched", &e))?,
        signals: Signals::take().map_err(|e| other("signals cannot be taken", &e))?,
        remotes: Remotes::new(profile.remotes.clone(), profile.remote_random, &mut rng),
        profile,
        options,
        console,
        control,
        worker,
        reports,
        host: side,
        wallet,
        backoff: Backoff::default(),
        rng,
        generation: 0,
        session: None,
        device,
        tunnel: None,
        had_success: false,
        tried: Vec::new(),
        known: HashMap::new(),
        last_failure: None,
        timers: Timers::default(),
        goodbyes: 0,
        suspend: SuspendDetector::new(),
        losses: Losses::default(),
        began: None,
        statistics: None,
        buffers_said: false,
        ended: None,
    })
}

/// Undoes what dead predecessors left, and opens a journal of our own.
async fn host_side(options: &Connect) -> Result<HostSide, Fatal> {
    let refused = |error: crate::host::HostError| Fatal::new(Exit::Routes, error.to_string());
    let host = Host::open().map_err(refused)?;
    let recovery = journal::recover(&options.run_dir, &host).await;
    for undone in recovery.undone {
        tracing::info!("left by a minivpn that was killed, now undone: {undone}");
    }
    for failure in recovery.failed {
        tracing::warn!("left by a minivpn that was killed: {failure}");
    }
    let journal = match Journal::create(&options.run_dir, &instance(&options.file)) {
        Ok(journal) => journal,
        Err(error) => {
            tracing::warn!("{error}: host changes could not be undone if this process were killed");
            Journal::in_memory()
        }
    };
    Ok(HostSide { host, journal })
}

/// The journal's name: of the profile, for people, and of the process, because a profile may be run twice.
fn instance(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("client");
    let plain: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
    format!("{plain}-{}", std::process::id())
}

/// Where the worker sits, and why there, for people.
#[derive(Debug, PartialEq, Eq)]
struct Seat {
    cpu: Option<usize>,
    /// For the thread that seals, when each direction has its own: never the same one.
    sealing_cpu: Option<usize>,
    why: String,
}

impl Seat {
    /// The first of these, and the second one for the thread that seals.
    fn first_of(cpus: &[usize], why: String) -> Self {
        Seat { cpu: cpus.first().copied(), sealing_cpu: cpus.get(1).copied(), why }
    }
}

/// The processor of the worker. One that this process may not run on is a mistake of the command line.
fn processor(options: &Connect, profile: &ClientProfile) -> Result<Seat, Fatal> {
    let allowed = affinity::allowed();
    let not_allowed = |what: String| {
        let list = affinity::list_text(&allowed);
        Fatal::new(Exit::Config, format!("{what}: this process may run on the processors {list} only"))
    };
    if let Some(list) = &options.cpu_list {
        let usable: Vec<usize> = list.0.iter().copied().filter(|cpu| allowed.contains(cpu)).collect();
        let wish = || format!("--cpu-list {}", affinity::list_text(&list.0));
        return if usable.is_empty() { Err(not_allowed(wish())) } else { Ok(Seat::first_of(&usable, String::new())) };
    }
    match options.cpu {
        Pinning::None => Ok(Seat::first_of(&[], String::new())),
        Pinning::To(cpu) if allowed.contains(&cpu) => Ok(Seat::first_of(&[cpu], String::new())),
        Pinning::To(cpu) => Err(not_allowed(format!("--cpu {cpu}"))),
        Pinning::Auto => Ok(near_the_network(&allowed, profile)),
    }
}

/// One of the allowed processors, on the NUMA node of the device that the traffic leaves by, where it has one. Processes started one
/// after the other get different ones.
fn near_the_network(allowed: &[usize], profile: &ClientProfile) -> Seat {
    let device = profile.bind_dev.clone().or_else(routes::default_device);
    let node = device.and_then(|device| Some((affinity::node_of(Path::new("/sys"), &device)?, device)));
    let (mut cpus, why) = match node {
        Some(((node, cpus), device)) => {
            let near: Vec<usize> = allowed.iter().copied().filter(|cpu| cpus.contains(cpu)).collect();
            match near.is_empty() {
                true => (allowed.to_vec(), format!(", no processor of {device}'s NUMA node {node} is allowed")),
                false => (near, format!(", on {device}'s NUMA node {node}")),
            }
        }
        None => (allowed.to_vec(), String::new()),
    };
    let turn = usize::try_from(std::process::id()).unwrap_or(0);
    let turn = turn.checked_rem(cpus.len()).unwrap_or(0);
    cpus.rotate_left(turn);
    Seat::first_of(&cpus, why)
}

/// `user` and `group`. While there is one thread: capabilities belong to threads. The TUN device is opened before, since
/// the device node is often root's alone.
fn drop_privileges(profile: &ClientProfile, options: &Connect) -> Result<Option<TunQueue>, Fatal> {
    if profile.user.is_none() && profile.group.is_none() {
        return Ok(None);
    }
    let device = tunnel::open_device(&profile.device, options.tun_offload.is_on())?;
    let refused = |error: &dyn std::fmt::Display| Fatal::new(Exit::Privilege, error.to_string());
    let identity = privileges::identity(profile.user.as_deref(), profile.group.as_deref());
    let identity = identity.map_err(|error| Fatal::new(Exit::Config, error.to_string()))?;
    if let Err(error) = journal::hand_over(&options.run_dir, identity.uid, identity.gid) {
        tracing::warn!("{} cannot be given to {}: {error}", options.run_dir.display(), identity.user);
    }
    let keep = Keep {
        low_ports: profile.remotes.iter().any(|remote| remote.bind.port.is_some_and(|port| port < 1024)),
        raw: profile.bind_dev.is_some(),
        nice: options.sched_fifo.is_some(),
    };
    privileges::drop_to(&identity, keep).map_err(|e| refused(&e))?;
    Ok(Some(device))
}

fn start_worker(
    options: &Connect,
    worker: Worker,
    link: link::WorkerEnd,
) -> Result<(WorkerHandle, mpsc::Receiver<WorkerReport>), Fatal> {
    let (reports, incoming) = mpsc::channel(REPORTS);
    let Worker { seat, aead } = worker;
    tracing::info!("{}", aead.info());
    let config = WorkerConfig {
        index: 0,
        cpu: seat.cpu,
        split: options.split_directions.then_some(Split { cpu: seat.sealing_cpu }),
        tuning: Tuning { fifo: options.sched_fifo, busy_poll_us: options.busy_poll },
        io: match options.io {
            Io::Auto => IoChoice::Auto,
            Io::Uring => IoChoice::Uring,
            Io::Syscall => IoChoice::Syscall,
        },
        offload: OffloadChoice {
            tun: options.tun_offload.is_on(),
            udp_gso: options.udp_gso.is_on(),
            udp_gro: options.udp_gro.is_on(),
        },
        config: PipelineConfig { routes: RouteTable::all_to(PEER), aead },
    };
    let handle = manager::spawn(config, link, move |report| {
        let report = match report {
            WorkerReport::Pinned(what) => WorkerReport::Pinned(format!("{what}{}", seat.why)),
            report => report,
        };
        // The supervisor is behind by hundreds of reports: it knows that something is wrong.
        let _ = reports.try_send(report);
    });
    let handle =
        handle.map_err(|error| Fatal::new(Exit::Other, format!("the worker could not be started: {error}")))?;
    Ok((handle, incoming))
}
