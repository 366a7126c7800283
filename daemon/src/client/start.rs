//! From the command line to a running client: the profile is read, what is missing on the host is named, what a killed
//! predecessor left is undone, privileges are dropped, the control process and the worker are started.

use std::collections::HashMap;
use std::path::Path;

use controlplane::SystemRandom;
use dataplane::datachannel::aead::Aead;
use dataplane::peers::routes::RouteTable;
use dataplane::pipeline::PipelineConfig;
use dataplane::sys::tundev::TunQueue;
use dataplane::workers::manager::{self, WorkerHandle, WorkerReport};
use tokio::sync::mpsc;

use super::backoff::Backoff;
use super::credentials::Wallet;
use super::flapping::Flapping;
use super::losses::Losses;
use super::remotes::Remotes;
use super::run::{Client, PEER};
use super::tunnel::{self, HostSide};
use crate::cli::Connect;
use crate::clock;
use crate::config::{self, agreed::ClientProfile};
use crate::control_child::Control;
use crate::data_path::{self, Seat};
use crate::exit::{Exit, Fatal};
use crate::host::privileges::{self, Keep};
use crate::host::watch::{SuspendDetector, Watch};
use crate::host::{journal, routes};
use crate::messages::ToControl;
use crate::observe::console::Console;
use crate::observe::log::Format;
use crate::signals::Signals;
use crate::supervisor;
use crate::timers::Timers;

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
    let device = profile.bind_dev.clone().or_else(routes::default_device);
    let seat = data_path::seats(&options.data, 1, device)?.into_iter().next().unwrap_or_default();
    let aead = data_path::aead(&options.data)?;
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

/// The profile, with its warnings logged.
///
/// # Errors
/// [`Exit::Config`] with every problem on a line.
pub(crate) fn load(file: &Path) -> Result<ClientProfile, Fatal> {
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
    let refused = |error: crate::host::HostError| Fatal::new(Exit::Routes, error.to_string());
    let (host, journal) = journal::begin(&options.data.run_dir, &instance(&options.file)).await.map_err(refused)?;
    let side = HostSide { host, journal };
    let mut setup = profile.client_setup();
    setup.iv_proto_mask = options.iv_proto_mask;
    let (control, links) = Control::start(ToControl::ConfigureClient(Box::new(setup)), 1)?;
    let (worker, reports) = start_worker(&options, worker, links)?;
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
        flapping: Flapping::default(),
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

/// The journal's name: of the profile, for people, and of the process, because a profile may be run twice.
fn instance(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or("client");
    let plain: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(32).collect();
    format!("{plain}-{}", std::process::id())
}

/// `user` and `group`. While there is one thread: capabilities belong to threads. The TUN device is opened before, since
/// the device node is often root's alone.
fn drop_privileges(profile: &ClientProfile, options: &Connect) -> Result<Option<TunQueue>, Fatal> {
    if profile.user.is_none() && profile.group.is_none() {
        return Ok(None);
    }
    let device = tunnel::open_device(&profile.device, options.data.tun_offload.is_on())?;
    let refused = |error: &dyn std::fmt::Display| Fatal::new(Exit::Privilege, error.to_string());
    let identity = privileges::identity(profile.user.as_deref(), profile.group.as_deref());
    let identity = identity.map_err(|error| Fatal::new(Exit::Config, error.to_string()))?;
    if let Err(error) = journal::hand_over(&options.data.run_dir, identity.uid, identity.gid) {
        tracing::warn!("{} cannot be given to {}: {error}", options.data.run_dir.display(), identity.user);
    }
    let keep = Keep {
        low_ports: profile.remotes.iter().any(|remote| remote.bind.port.is_some_and(|port| port < 1024)),
        raw: profile.bind_dev.is_some(),
        nice: options.data.sched_fifo.is_some(),
    };
    privileges::drop_to(&identity, keep).map_err(|e| refused(&e))?;
    Ok(Some(device))
}

fn start_worker(
    options: &Connect,
    worker: Worker,
    links: Vec<link::WorkerEnd>,
) -> Result<(WorkerHandle, mpsc::Receiver<WorkerReport>), Fatal> {
    let (reports, incoming) = mpsc::channel(REPORTS);
    let Worker { seat, aead } = worker;
    tracing::info!("{}", aead.info());
    let config =
        data_path::worker_config(&options.data, 0, &seat, PipelineConfig { routes: RouteTable::all_to(PEER), aead });
    let link = links.into_iter().next();
    let link = link.ok_or_else(|| Fatal::new(Exit::Other, "the link was made without a worker".to_owned()))?;
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
