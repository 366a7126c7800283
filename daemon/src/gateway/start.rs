//! From the command line to a running gateway: the configuration is read, sockets and the TUN device are opened, privileges
//! are dropped, the control process takes its configuration, the host is set up, the workers start.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use controlplane::{Ending, Random, ReplyLimit, Secret, ServerSetup, SystemRandom};
use dataplane::networkio::gso::fitting_super_packet;
use dataplane::sys::socket::{self, SocketOptions};
use dataplane::sys::steering::Steering;
use dataplane::tun::too_big::AnswersFrom;
use dataplane::workers::manager::{WorkerOrder, WorkerReport};
use tokio::sync::mpsc;

use super::given::OVERHEAD_V2;
use super::password::Passwords;
use super::pool::Pool;
use super::publication::Publication;
use super::reload::Watched;
use super::run::{Gateway, Timers};
use super::scripts::{Beside4, GatewayFacts, Inner4, Inner6, ScriptSetup, Scripts, UserPassScript};
use super::sessions::{Sessions, Turns};
use super::token::Tokens;
use super::workers::{self, Ends, Workers};
use super::{leases, socket as requests};
use crate::cli::gateway::{GatewayRun, GatewayServe};
use crate::clock;
use crate::config;
use crate::config::agreed::MtuDiscovery;
use crate::config::server::{self, ServerProfile};
use crate::config::tunnel::Topology;
use crate::control_child::{Control, FromChild};
use crate::data_path::{self, Seat};
use crate::exit::{Exit, Fatal};
use crate::host::gateway_link::{self, GatewayRoute, GatewaySettings, Raised};
use crate::host::journal::{self, Journal};
use crate::host::plan::{Ipv4Link, Ipv4Setting};
use crate::host::privileges::{self, Keep};
use crate::host::{Host, HostError, Interface, routes};
use crate::messages::{FromControl, ToControl};
use crate::observe::console::Console;
use crate::signals::Signals;
use crate::supervisor;

/// No more workers than this unless they are asked for.
const MOST_WORKERS: usize = 16;
/// `txqueuelen` when the configuration says nothing: twice what the kernel gives a TUN device.
const QUEUE: u32 = 1_000;
/// A control process that has not taken its configuration by then is not going to.
const READY: Duration = Duration::from_secs(30);

/// What is not in the configuration.
#[derive(Default)]
pub struct Extras {
    /// What the gateway is called: in the names of its journal, its socket and its firewall table.
    pub name: String,
    /// `gateway up`: forwarding is switched on, and a firewall table keeps clients apart. `gateway run` leaves the host's
    /// forwarding and firewall alone.
    pub forwarding: bool,
    /// With [`Extras::forwarding`]: that table masquerades the pool as well.
    pub nat: bool,
    /// Called once, when clients can connect.
    pub ready: Option<Ready>,
}

/// What [`Extras::ready`] is called with the facts of.
pub type Ready = Box<dyn FnOnce(&Started)>;

impl fmt::Debug for Extras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extras")
            .field("name", &self.name)
            .field("forwarding", &self.forwarding)
            .field("nat", &self.nat)
            .finish_non_exhaustive()
    }
}

/// What came of a start, for a checklist.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// The TUN device.
    pub device: String,
    /// Where clients are awaited.
    pub listen: Option<SocketAddr>,
    /// The changes of the host, as phrases.
    pub changes: Vec<String>,
    /// What is not as it was wanted, a sentence each.
    pub notes: Vec<String>,
    /// Engine and AEAD of the workers, and why not something faster.
    pub data_path: Vec<String>,
    /// Where commands are taken; `None` when there is no socket.
    pub socket: Option<PathBuf>,
}

/// What a gateway knows of itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// What it is called.
    pub(super) name: String,
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// What scripts are told.
    pub(super) gateway: GatewayFacts,
}

/// `minivpn gateway run`: serves an OpenVPN server's configuration.
///
/// # Errors
/// What cannot be run, or why it ended.
pub fn run(options: &GatewayRun, console: Console) -> Result<(), Fatal> {
    let profile = load(&options.config)?;
    let extras = Extras { name: instance(&options.config), ..Extras::default() };
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
    drop_privileges(&profile, &options)?;
    let opened = Opened { seats, aead, ends: Ends { sockets, queues } };
    let ran = supervisor::block_on(async move {
        let mut prepared = prepare(&profile, &options, &extras, opened).await?;
        // Last of all that can fail: who changed the host ends by undoing that.
        let raised = raise(&profile, &options, &extras, &mut prepared).await?;
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
    let setup = server_setup(profile, &cookie_secret, count, 1);
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
    let Prepared { facts, mut workers, ends, interface, .. } = prepared;
    let listen = facts.listen;
    workers.attach(ends, &steering(&profile, workers.count()), listen);
    let from = AnswersFrom { v4: profile.ipv4.map(|pool| pool.local), v6: profile.ipv6.map(|pool| pool.local) };
    workers.order_all(|| WorkerOrder::SetTunnel { mtu: Some(profile.tun_mtu), from });

    let (socket, requests) = request_socket(&options, &extras.name);
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
        newest: 0,
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

fn socket_options(profile: &ServerProfile, options: &GatewayServe) -> SocketOptions {
    let bytes = |size: Option<u32>| size.and_then(|n| usize::try_from(n).ok());
    SocketOptions {
        bind: Some(profile.listen.socket_address()),
        remote: None,
        only_v6: profile.listen.ipv6_only,
        mtu_discovery: profile.mtu_disc.map(|wish| match wish {
            MtuDiscovery::No => socket::MtuDiscovery::No,
            MtuDiscovery::Maybe => socket::MtuDiscovery::Maybe,
            MtuDiscovery::Yes => socket::MtuDiscovery::Yes,
        }),
        mark: profile.mark,
        device: profile.bind_dev.clone(),
        receive_buffer: bytes(profile.rcvbuf),
        send_buffer: bytes(profile.sndbuf),
        busy_poll_us: (options.data.busy_poll > 0).then_some(options.data.busy_poll),
    }
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

/// A configuration that the control process cannot use, in a sentence.
pub(super) fn refused(ending: &Ending) -> Fatal {
    match ending {
        Ending::Tls(sentence) => Fatal::new(Exit::Tls, sentence.clone()),
        Ending::Incompatible(sentence) | Ending::Internal(sentence) => Fatal::new(Exit::Config, sentence.clone()),
        other => Fatal::new(Exit::Other, format!("{other:?}")),
    }
}

/// The control plane's part of the configuration. Generations begin at `first`.
pub(super) fn server_setup(profile: &ServerProfile, cookie_secret: &Secret, workers: u16, first: u32) -> ServerSetup {
    ServerSetup {
        wrap: profile.wrap.clone(),
        tls: profile.tls.clone(),
        client_certificate: match profile.client_certificate {
            server::ClientCertificate::Require => controlplane::ClientCertificate::Require,
            server::ClientCertificate::Optional => controlplane::ClientCertificate::Optional,
            server::ClientCertificate::None => controlplane::ClientCertificate::None,
        },
        data_ciphers: profile.data_ciphers.clone(),
        fallback_cipher: profile.fallback_cipher,
        auth: profile.auth,
        tun_mtu: profile.tun_mtu,
        tls_timeout: profile.timers.tls_timeout,
        hand_window: profile.timers.hand_window,
        tran_window: profile.timers.tran_window,
        reneg_sec: profile.timers.reneg_sec,
        max_packet_size: profile.max_packet_size,
        limits: profile.timers.key_limits(),
        max_clients: profile.max_clients,
        cookie_secret: cookie_secret.clone(),
        replies: ReplyLimit { count: profile.connect_freq_initial.0, seconds: profile.connect_freq_initial.1 },
        workers,
        first_generation: first,
    }
}

/// What judges passwords.
///
/// # Errors
/// [`Exit::Config`]: a script that may not or cannot be run, a secret that is too short.
pub(super) fn passwords(
    profile: &ServerProfile,
    gateway: &GatewayFacts,
    rng: &mut dyn Random,
) -> Result<Passwords, Fatal> {
    let wrong = |sentence: String| Fatal::new(Exit::Config, sentence);
    let setup = ScriptSetup {
        security: profile.script_security,
        user_pass_verify: profile
            .user_pass_verify
            .clone()
            .map(|script| UserPassScript { command: script.command, via_env: script.via_env }),
        tls_verify: profile.tls_verify.clone(),
        client_connect: profile.client_connect.clone(),
        client_disconnect: profile.client_disconnect.clone(),
        learn_address: profile.learn_address.clone(),
        limit: Duration::from_secs(u64::from(profile.timers.hand_window)),
        temporary: profile.tmp_dir.clone(),
        directory: profile.directory.clone(),
        gateway: gateway.clone(),
    };
    let (scripts, warnings) = Scripts::new(setup).map_err(wrong)?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
    let tokens = profile.auth_gen_token.as_ref().map(|wish| {
        let renewal = token_renewal(wish.renewal, profile.timers.reneg_sec);
        Tokens::new(wish.lifetime, renewal, wish.external_auth, wish.secret.as_ref(), rng)
    });
    let tokens = tokens.transpose().map_err(|why| wrong(format!("auth-gen-token-secret: {why}")))?;
    Ok(Passwords { scripts, tokens, optional: profile.user_pass_optional })
}

/// How often a token is renewed: at renegotiations only, whatever shorter time `auth-gen-token` wishes, and a client must
/// not lose its session by a token that nobody renewed in time. 0: nobody knows when, so a token is good as long as its session.
fn token_renewal(wish: Option<u32>, reneg_sec: u32) -> u32 {
    match (wish, reneg_sec) {
        (_, 0) | (Some(0), _) => 0,
        (wish, reneg_sec) => wish.unwrap_or(reneg_sec).max(reneg_sec),
    }
}

fn gateway_facts(profile: &ServerProfile, device: &str, listen: SocketAddr) -> GatewayFacts {
    GatewayFacts {
        config: profile.files.config.display().to_string(),
        device: device.to_owned(),
        tun_mtu: u32::from(profile.tun_mtu),
        local_port: listen.port(),
        ipv4: profile.ipv4.map(|pool| Inner4 {
            address: pool.local,
            beside: pool.peer.map_or(Beside4::Netmask(pool.netmask), Beside4::OtherEnd),
        }),
        ipv6: profile.ipv6.map(|pool| Inner6 { address: pool.local, prefix: pool.prefix, other_end: pool.local }),
        verb: 1,
        since: clock::now().unix,
        setenv: profile.setenv.clone(),
    }
}

fn pool(profile: &ServerProfile, workers: usize) -> Pool {
    let workers = u16::try_from(workers).unwrap_or(1);
    let mut pool = Pool::new(profile.ipv4.as_ref(), profile.ipv6.as_ref(), profile.topology, workers);
    if let Some((path, _)) = &profile.pool_persist {
        let path = profile.directory.join(path);
        match leases::load(&path, &mut pool) {
            Ok(0) => {}
            Ok(count) => tracing::info!("{count} leases are remembered from {}", path.display()),
            Err(error) => tracing::warn!("{}: leases cannot be read: {error}", path.display()),
        }
        pool.take_changed();
    }
    pool
}

/// Inner destinations count from the network's first address, as leases do.
fn steering(profile: &ServerProfile, workers: u16) -> Steering {
    let base_v4 = profile.ipv4.map_or(Ipv4Addr::UNSPECIFIED, |pool| pool.network);
    // The IPv6 address of a lease is then as far from its base as the IPv4 address is.
    let ahead = profile.ipv4.map_or(0, |pool| pool.pool_start.to_bits().wrapping_sub(pool.network.to_bits()));
    let base_v6 = profile.ipv6.map_or(0, |pool| pool.base.to_bits()).wrapping_sub(u128::from(ahead));
    Steering { workers, base_v4, base_v6: Ipv6Addr::from_bits(base_v6) }
}

/// Addresses, routes, and what `gateway up` wants besides.
async fn raise(
    profile: &ServerProfile,
    options: &GatewayServe,
    extras: &Extras,
    prepared: &mut Prepared,
) -> Result<Raised, Fatal> {
    let Prepared { host, interface, journal, .. } = prepared;
    let failed = |error: HostError| Fatal::new(Exit::Routes, error.to_string());
    let pools: Vec<(IpAddr, u8)> = profile
        .ipv4
        .iter()
        .map(|pool| (pool.network.into(), pool.prefix))
        .chain(profile.ipv6.iter().map(|pool| (pool.base.into(), pool.prefix)))
        .collect();
    let masqueraded = if extras.nat { pools.as_slice() } else { &[] };
    let nat = match extras.forwarding {
        true => Some(
            gateway_link::nat_for(host, &extras.name, interface, masqueraded, profile.client_to_client)
                .await
                .map_err(failed)?,
        ),
        false => None,
    };
    let joined = options.data.tun_offload.is_on() && options.data.udp_gso.is_on();
    let settings = GatewaySettings {
        interface: interface.clone(),
        mtu: u32::from(profile.tun_mtu),
        tx_queue_len: Some(profile.device.txqueuelen.unwrap_or(QUEUE)),
        gso_max_size: joined.then(|| fitting_super_packet(profile.tun_mtu, OVERHEAD_V2)),
        ipv4: profile.ipv4.filter(|_| !profile.ifconfig_noexec).map(|pool| ipv4_setting(&pool, profile.topology)),
        ipv6: profile.ipv6.filter(|_| !profile.ifconfig_noexec).map(|pool| (pool.local, pool.prefix)),
        routes: if profile.route_noexec { Vec::new() } else { kernel_routes(profile) },
        nat,
        forwarding: extras.forwarding,
    };
    let raised = gateway_link::raise(host, &settings, journal).await.map_err(failed)?;
    raised.applied.changes().for_each(|change| tracing::info!("{}", change.doing()));
    raised.notes.iter().for_each(|note| tracing::warn!("{note}"));
    Ok(raised)
}

fn ipv4_setting(pool: &server::Pool4, topology: Topology) -> Ipv4Setting {
    let link = match (topology, pool.peer) {
        (Topology::Subnet, _) | (_, None) => Ipv4Link::Prefix(pool.prefix),
        (_, Some(peer)) => Ipv4Link::Peer(peer),
    };
    Ipv4Setting { local: pool.local, link }
}

fn kernel_routes(profile: &ServerProfile) -> Vec<GatewayRoute> {
    let route = |route: &server::KernelRoute| GatewayRoute {
        dest: route.network,
        prefix: route.prefix,
        gateway: None,
        metric: route.metric,
    };
    profile.routes.iter().map(route).collect()
}

fn socket_path(options: &GatewayServe, name: &str) -> PathBuf {
    options.socket.clone().unwrap_or_else(|| options.data.run_dir.join(format!("{name}.sock")))
}

/// Where commands are taken. A gateway without it serves all the same.
fn request_socket(
    options: &GatewayServe,
    name: &str,
) -> (Option<requests::Listener>, mpsc::Receiver<requests::Request>) {
    let path = socket_path(options, name);
    match requests::serve(&path) {
        Ok((listener, receiver)) => (Some(listener), receiver),
        Err(error) => {
            tracing::warn!("commands cannot be taken at {}: {error}", path.display());
            (None, mpsc::channel(1).1)
        }
    }
}

fn started(
    interface: &Interface,
    listen: SocketAddr,
    raised: &Raised,
    workers: &Workers,
    socket: Option<PathBuf>,
) -> Started {
    let mut data_path: Vec<String> = Vec::new();
    for (_, handle, _) in workers.each() {
        for line in [handle.engine().to_string(), handle.aead().to_string()] {
            if !data_path.contains(&line) {
                data_path.push(line);
            }
        }
    }
    Started {
        device: interface.name.clone(),
        listen: Some(listen),
        changes: raised.applied.changes().map(|change| change.doing()).collect(),
        notes: raised.notes.clone(),
        data_path,
        socket,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::agreed::{Device, Family, MssFix, ReplayWindow, Timers};
    use crate::config::server::{Listen, Pool4, Pool6, ServerFiles};
    use controlplane::{Cipher, Digest, TlsSetup, TlsVersion, Wrap};

    /// A small gateway, 10.8.0.0/24 and fd00::/64, topology subnet.
    pub(in crate::gateway) fn profile() -> ServerProfile {
        ServerProfile {
            listen: Listen { address: None, port: 1194, family: Family::V4, ipv6_only: false, multihome: false },
            device: Device::default(),
            topology: Topology::Subnet,
            ipv4: Some(Pool4 {
                network: Ipv4Addr::new(10, 8, 0, 0),
                prefix: 24,
                netmask: Ipv4Addr::new(255, 255, 255, 0),
                local: Ipv4Addr::new(10, 8, 0, 1),
                peer: None,
                pool_start: Ipv4Addr::new(10, 8, 0, 2),
                pool_end: Ipv4Addr::new(10, 8, 0, 253),
                dynamic: true,
            }),
            ipv6: Some(Pool6 {
                local: "fd00::1".parse().unwrap(),
                prefix: 64,
                base: "fd00::1000".parse().unwrap(),
                pool_prefix: 64,
                dynamic: true,
            }),
            pool_persist: None,
            routes: Vec::new(),
            ifconfig_noexec: false,
            route_noexec: false,
            push: Vec::new(),
            wrap: Wrap::None,
            tls: TlsSetup {
                ca_pem: String::new(),
                cert_pem: String::new(),
                key_pem: Secret::default(),
                crl_pem: None,
                peer_usage: None,
                verify_name: None,
                fingerprints: Vec::new(),
                version_min: TlsVersion::V1_2,
                version_max: TlsVersion::V1_3,
            },
            client_certificate: server::ClientCertificate::Require,
            username_as_common_name: false,
            user_pass_verify: None,
            user_pass_optional: false,
            auth_gen_token: None,
            tls_verify: None,
            client_connect: None,
            client_disconnect: None,
            learn_address: None,
            script_security: 1,
            setenv: Vec::new(),
            tmp_dir: "/tmp".into(),
            directory: PathBuf::new(),
            client_config_dir: None,
            ccd_exclusive: false,
            client_to_client: false,
            duplicate_cn: false,
            max_clients: 1_024,
            keepalive: None,
            float: false,
            connect_freq_initial: (100, 10),
            explicit_exit_notify: None,
            data_ciphers: vec![Cipher::Aes256Gcm],
            fallback_cipher: None,
            auth: Digest::Sha1,
            timers: Timers {
                tls_timeout: 2,
                hand_window: 60,
                tran_window: 3_600,
                reneg_sec: 3_600,
                reneg_bytes: None,
                reneg_pkts: None,
            },
            replay_window: ReplayWindow { packets: 8_192, seconds: 15 },
            tun_mtu: 1_500,
            mssfix: MssFix::Mtu(1_492),
            mtu_disc: None,
            max_packet_size: 1_250,
            sndbuf: None,
            rcvbuf: None,
            status: None,
            user: None,
            group: None,
            mark: None,
            bind_dev: None,
            files: ServerFiles::default(),
        }
    }

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

    #[test]
    fn a_token_is_good_until_it_is_renewed() {
        // wish, reneg-sec, what a token's life is twice of
        let table = [
            (None, 3_600, 3_600),
            (Some(60), 3_600, 3_600),
            (Some(7_200), 3_600, 7_200),
            (Some(600), 30, 600),
            (Some(60), 0, 0),
            (None, 0, 0),
        ];
        for (wish, reneg_sec, expected) in table {
            assert_eq!(token_renewal(wish, reneg_sec), expected, "{wish:?} {reneg_sec}");
        }
        let mut profile = profile();
        profile.timers.reneg_sec = 3_600;
        profile.auth_gen_token =
            Some(server::AuthGenToken { lifetime: 0, renewal: Some(60), external_auth: false, secret: None });
        let passwords = passwords(&profile, &GatewayFacts::default(), &mut SystemRandom).unwrap();
        let tokens = passwords.tokens.unwrap();
        let session = super::super::token::TokenSession { id: [1; 12], begun: 1_000 };
        let token = tokens.issue("alice", &session, 1_000);
        let state = |now| tokens.check("alice", &token.0, now, None).state.name();
        assert_eq!((state(1_000 + 3_600), state(1_000 + 7_200)), ("Authenticated", "Expired"));
    }

    #[test]
    fn the_interface_is_set_up_by_topology() {
        let pool = profile().ipv4.unwrap();
        assert_eq!(ipv4_setting(&pool, Topology::Subnet).link, Ipv4Link::Prefix(24));
        let peer = Ipv4Addr::new(10, 8, 0, 2);
        let point_to_point = Pool4 { peer: Some(peer), ..pool };
        assert_eq!(ipv4_setting(&point_to_point, Topology::Net30).link, Ipv4Link::Peer(peer));
    }

    #[test]
    fn the_control_plane_hears_what_the_configuration_says() {
        let mut profile = profile();
        profile.client_certificate = server::ClientCertificate::Optional;
        profile.connect_freq_initial = (7, 3);
        let setup = server_setup(&profile, &Secret(vec![1; 32]), 3, 9);
        assert_eq!(setup.client_certificate, controlplane::ClientCertificate::Optional);
        assert_eq!((setup.workers, setup.first_generation, setup.max_clients), (3, 9, 1_024));
        assert_eq!((setup.replies.count, setup.replies.seconds), (7, 3));
    }
}
