//! From the command line to a running gateway: the configuration is read, sockets and the TUN device are opened, privileges
//! are dropped, the control process takes its configuration, the host is set up, the workers start.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use controlplane::{Random, Secret, SystemRandom};
use dataplane::tun::too_big::AnswersFrom;
use dataplane::workers::manager::{WorkerOrder, WorkerReport};
use tokio::sync::mpsc;

use super::generations::Generations;
use super::lines::Lines;
use super::parts::{gateway_facts, passwords, pool, refused, server_setup, socket_options, steering};
use super::password::Passwords;
use super::pool::Pool;
use super::publication::Publication;
use super::reload::Watched;
use super::run::{Gateway, Timers};
use super::sessions::{Sessions, Turns};
use super::started::{Extras, Facts, started};
use super::whereabouts::{self, Noted};
use super::workers::{self, Ends, Workers};
use super::{host_side, running, socket as requests};
use crate::cli::gateway::{GatewayRun, GatewayServe};
use crate::config;
use crate::config::server::ServerProfile;
use crate::control_child::{Control, FromChild};
use crate::data_path::{self, Seat};
use crate::exit::{Exit, Fatal};
use crate::host::gateway_link::Raised;
use crate::host::journal::{self, Journal};
use crate::host::privileges::{self, Keep};
use crate::host::{Host, HostError, Interface, routes};
use crate::messages::{FromControl, ToControl};
use crate::observe::console::Console;
use crate::signals::Signals;
use crate::supervisor;

/// No more workers than this unless they are asked for.
const MOST_WORKERS: usize = 16;
/// A control process that has not taken its configuration by then is not going to.
const READY: Duration = Duration::from_secs(30);

/// `minivpn gateway run`: serves an OpenVPN server's configuration.
///
/// # Errors
/// What cannot be run, or why it ended.
pub fn run(options: &GatewayRun, console: Console) -> Result<(), Fatal> {
    let profile = load(&options.config)?;
    let extras = Extras { name: instance(&options.config), ..Extras::default() };
    running::refuse_configured(&extras.name, &options.serve)?;
    serve(profile, options.serve.clone(), extras, console)
}

/// Reads a server's configuration; warnings are logged.
///
/// # Errors
/// [`Exit::Config`] with everything that is wrong with it.
pub fn load(file: &Path) -> Result<ServerProfile, Fatal> {
    match config::load_server(file) {
        Ok((profile, warnings)) => {
            warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
            Ok(profile)
        }
        Err(problems) => {
            let errors: Vec<String> = problems.iter().map(ToString::to_string).collect();
            Err(Fatal::new(Exit::Config, errors.join("\n")))
        }
    }
}

/// Whether the options fit together. Asked before anything is made or opened.
///
/// # Errors
/// [`Exit::Config`] with what to say instead.
pub(super) fn check(options: &GatewayServe) -> Result<(), Fatal> {
    match worker_count(options) {
        2.. if options.data.split_directions => {
            let many = worker_count(options);
            let sentence = format!("--split-directions is for one worker, and there would be {many}: say --workers 1");
            Err(Fatal::new(Exit::Config, sentence))
        }
        _ => Ok(()),
    }
}

/// Serves until it is told to stop.
///
/// # Errors
/// What cannot be run, or why it ended.
pub fn serve(profile: ServerProfile, options: GatewayServe, extras: Extras, console: Console) -> Result<(), Fatal> {
    check(&options)?;
    privileges::check().map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))?;
    let workers = worker_count(&options);
    let device = profile.bind_dev.clone().or_else(routes::default_device);
    let seats = data_path::seats(&options.data, workers, device)?;
    let aead = data_path::aead(&options.data)?;
    let group = u16::try_from(workers).unwrap_or(1);
    let sockets = workers::bind(profile.listen.socket_address(), &socket_options(&profile, &options), group)?;
    let name = profile.device.name.clone().unwrap_or_default();
    let queues = workers::open(&name, options.data.tun_offload.is_on(), group)?;
    let steered = workers::steer(&queues, &steering(&profile, group));
    // Another user could not even find out that nobody listens at what root left.
    let socket = socket_path(&options, &extras.name);
    if let Err(error) = requests::remove_dead(&socket) {
        tracing::debug!("{} cannot be removed: {error}", socket.display());
    }
    drop_privileges(&profile, &options)?;
    let opened = Opened { seats, aead, ends: Ends { sockets, queues, steered } };
    let ran = supervisor::block_on(async move {
        let mut prepared = prepare(&profile, &options, &extras, opened).await?;
        // Last of all that can fail: who changed the host ends by undoing that.
        let Prepared { host, interface, journal, .. } = &mut prepared;
        let raised = host_side::raise(&profile, &options, &extras, (host, interface), journal).await?;
        assemble(profile, options, extras, console, prepared, raised).run().await
    });
    ran.map_err(|error| Fatal::new(Exit::Other, format!("the runtime could not be started: {error}")))?
}

/// What was settled and opened before anything was started.
struct Opened {
    seats: Vec<Seat>,
    aead: dataplane::datachannel::aead::Aead,
    ends: Ends,
}

/// Everything that a gateway is made of but its changes of the host.
struct Prepared {
    host: Host,
    journal: Journal,
    interface: Interface,
    facts: Facts,
    passwords: Passwords,
    pool: Pool,
    cookie_secret: Secret,
    generations: Generations,
    rng: SystemRandom,
    control: Control,
    workers: Workers,
    reports: mpsc::Receiver<(u16, WorkerReport)>,
    ends: Ends,
    signals: Signals,
}

async fn prepare(
    profile: &ServerProfile,
    options: &GatewayServe,
    extras: &Extras,
    opened: Opened,
) -> Result<Prepared, Fatal> {
    let Opened { seats, aead, ends } = opened;
    let refused = |error: HostError| Fatal::new(Exit::Routes, error.to_string());
    let (host, journal) = journal::begin(&options.data.run_dir, &extras.name).await.map_err(refused)?;
    let listen = ends.sockets.first().and_then(|socket| socket.local_addr().ok());
    let listen = listen.unwrap_or_else(|| profile.listen.socket_address());
    let device = ends.queues.first().map(|queue| queue.name().to_owned()).unwrap_or_default();
    let mut rng = SystemRandom;
    let facts = Facts { gateway: gateway_facts(profile, &device, listen), name: extras.name.clone(), listen };
    let passwords = passwords(profile, &facts.gateway, &mut rng)?;
    let pool = pool(profile, seats.len());

    let mut cookie_secret = Secret(vec![0; 32]);
    rng.fill(&mut cookie_secret.0);
    let count = u16::try_from(seats.len()).unwrap_or(u16::MAX);
    let generations = Generations::new();
    let setup = server_setup(profile, &cookie_secret, count, generations.first());
    let (mut control, links) = Control::start(ToControl::ConfigureGateway(Box::new(setup)), seats.len())?;
    wait_until_ready(&mut control).await?;

    // Before anything is changed that a signal would leave so.
    let signals = Signals::take();
    let signals = signals.map_err(|error| Fatal::new(Exit::Other, format!("signals cannot be taken: {error}")))?;
    let interface = host.interface(&device).await.map_err(refused)?;
    tracing::info!("{}", aead.info());
    let (workers, reports) = Workers::start(&options.data, seats, &aead, links)?;
    Ok(Prepared {
        host,
        journal,
        interface,
        facts,
        passwords,
        pool,
        cookie_secret,
        generations,
        rng,
        control,
        workers,
        reports,
        ends,
        signals,
    })
}

/// The host is changed by now: nothing here can fail, so that every end is the gateway's own, which undoes it.
fn assemble(
    profile: ServerProfile,
    options: GatewayServe,
    mut extras: Extras,
    console: Console,
    prepared: Prepared,
    raised: Raised,
) -> Gateway {
    let Prepared { facts, mut workers, ends, interface, generations, .. } = prepared;
    let listen = facts.listen;
    workers.attach(ends, listen);
    let from = AnswersFrom { v4: profile.ipv4.map(|pool| pool.local), v6: profile.ipv6.map(|pool| pool.local) };
    workers.order_all(|| WorkerOrder::SetTunnel { mtu: Some(profile.tun_mtu), from });

    let (socket, requests) = request_socket(&options, &extras);
    if let Some(ready) = extras.ready.take() {
        let path = socket.as_ref().map(|_| socket_path(&options, &extras.name));
        ready(&started(&interface, listen, &raised, &workers, path));
    }
    let (tell, heard) = mpsc::unbounded_channel();
    let gateway = Gateway {
        signals: prepared.signals,
        watched: Watched::of(&profile),
        profile: Rc::new(profile),
        facts,
        console,
        control: prepared.control,
        workers,
        reports: prepared.reports,
        host: prepared.host,
        journal: prepared.journal,
        interface,
        raised: Some(raised),
        socket,
        requests,
        sessions: Sessions::default(),
        turns: Turns::default(),
        pool: prepared.pool,
        passwords: Rc::new(prepared.passwords),
        heard,
        tell,
        cookie_secret: prepared.cookie_secret,
        rng: prepared.rng,
        generations,
        lines: Lines::default(),
        held: Vec::new(),
        publication: Publication::default(),
        resuming: Vec::new(),
        restarts: 0,
        headless: None,
        timers: Timers::default(),
        reloading: None,
        farewells: tokio::task::JoinSet::new(),
        statistics: Vec::new(),
        stopping: false,
        ended: None,
    };
    gateway.relay(gateway.profile.client_to_client);
    gateway
}

/// A gateway's name from its configuration's: `/etc/openvpn/server.conf` is `server`.
fn instance(file: &Path) -> String {
    let stem = file.file_stem().and_then(|stem| stem.to_str()).unwrap_or_default();
    let plain: String = stem.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).take(32).collect();
    if plain.is_empty() { "gateway".to_owned() } else { plain }
}

fn worker_count(options: &GatewayServe) -> usize {
    let own = || std::thread::available_parallelism().map_or(1, usize::from).min(MOST_WORKERS);
    options.workers.map_or_else(own, usize::from).max(1)
}

/// `user` and `group`. While there is one thread: capabilities belong to threads.
fn drop_privileges(profile: &ServerProfile, options: &GatewayServe) -> Result<(), Fatal> {
    if profile.user.is_none() && profile.group.is_none() {
        return Ok(());
    }
    let identity = privileges::identity(profile.user.as_deref(), profile.group.as_deref());
    let identity = identity.map_err(|error| Fatal::new(Exit::Config, error.to_string()))?;
    if let Err(error) = journal::hand_over(&options.data.run_dir, identity.uid, identity.gid) {
        tracing::warn!("{} cannot be given to {}: {error}", options.data.run_dir.display(), identity.user);
    }
    // The sockets are bound already.
    let keep = Keep { low_ports: false, raw: false, nice: options.data.sched_fifo.is_some() };
    privileges::drop_to(&identity, keep).map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))
}

async fn wait_until_ready(control: &mut Control) -> Result<(), Fatal> {
    loop {
        match tokio::time::timeout(READY, control.next()).await {
            Ok(FromChild::Message(FromControl::Ready)) => return Ok(()),
            Ok(FromChild::Message(FromControl::Refused(ending))) => return Err(refused(&ending)),
            Ok(FromChild::Message(_)) => {}
            Ok(FromChild::Died(why)) => {
                return Err(Fatal::new(Exit::Other, format!("the control process died while it started: {why}")));
            }
            Err(_) => return Err(Fatal::new(Exit::Other, "the control process does not answer".to_owned())),
        }
    }
}

pub(super) fn socket_path(options: &GatewayServe, name: &str) -> PathBuf {
    options.socket.clone().unwrap_or_else(|| options.data.run_dir.join(requests::file_name(name)))
}

/// Where commands are taken. A gateway without it serves all the same.
fn request_socket(
    options: &GatewayServe,
    extras: &Extras,
) -> (Option<(requests::Listener, Noted)>, mpsc::Receiver<requests::Request>) {
    let path = socket_path(options, &extras.name);
    match requests::serve(&path) {
        Ok((listener, receiver)) => {
            let noted = whereabouts::note(&extras.name, &path, extras.state.as_deref());
            (Some((listener, noted)), receiver)
        }
        Err(error) => {
            tracing::warn!("commands cannot be taken at {}: {error}", path.display());
            (None, mpsc::channel(1).1)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateway_is_called_as_its_configuration() {
        assert_eq!(instance(Path::new("/etc/openvpn/server.conf")), "server");
        assert_eq!(instance(Path::new("my server (2).conf")), "myserver2");
        assert_eq!(instance(Path::new("...")), "gateway");
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        serve: GatewayServe,
    }

    fn serve_options(words: &[&str]) -> GatewayServe {
        <Line as clap::Parser>::parse_from([&["gateway"], words].concat()).serve
    }

    #[test]
    fn directions_are_split_with_one_worker_only() {
        let fatal = check(&serve_options(&["--split-directions", "--workers", "2"])).unwrap_err();
        assert_eq!(fatal.exit, Exit::Config);
        assert!(fatal.sentence.contains("--workers 1"), "{fatal}");
        assert!(check(&serve_options(&["--split-directions", "--workers", "1"])).is_ok());
        assert!(check(&serve_options(&["--workers", "2"])).is_ok());
    }
}
