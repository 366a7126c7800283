//! The command: what it needs is looked at, then the tunnel is connected, clients are served, and a tunnel that ends is connected
//! again, until a signal says that it is enough.

use std::cell::RefCell;
use std::convert::Infallible;
use std::fs::File;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use controlplane::{Credentials, Secret, SystemRandom};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::LocalSet;
use zeroize::Zeroizing;

use super::login::Login;
use super::network::Network;
use super::packets::carry;
use super::patience::Patience;
use super::rarely::Rarely;
use super::server::{MOST_CLIENTS, Server, serve};
use super::stack::{Inner, Stack};
use super::way::Way;
use crate::cli::proxy::Proxy;
use crate::client::backoff::Backoff;
use crate::client::credentials::Wallet;
use crate::config::agreed::ClientProfile;
use crate::embed::{ConnectError, IoChoice, Options, Parameters, Progress, Stage, Trunk, TunnelError, load_profile};
use crate::exit::{Exit, Fatal};
use crate::outln;
use crate::signals::{Signal, Signals};

/// The longest password, in bytes (RFC 1929), and the end of its line.
const LONGEST_PASSWORD: u64 = 255 + 2;

/// Descriptors that the process needs besides those of its clients.
const OTHER_DESCRIPTORS: u64 = 64;

/// `minivpn proxy FILE`.
pub fn main(options: &Proxy, quiet: bool) -> Exit {
    match run(options, quiet) {
        Ok(()) => Exit::Ok,
        Err(fatal) => {
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

fn run(options: &Proxy, quiet: bool) -> Result<(), Fatal> {
    let profile = load_profile(&options.file)?;
    let login = login(options)?;
    let credentials = Wallet::open(&profile.credentials)?.credentials();
    if let Some(warning) = open_to_others(options.listen, login.is_some()) {
        tracing::warn!("{warning}");
    }
    permit_descriptors();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Fatal::new(Exit::Other, format!("the runtime could not start: {error}")))?;
    let (log, advised) = (Log::default(), Arc::default());
    let command = Running { options, quiet, profile, credentials, log, advised };
    LocalSet::new().block_on(&runtime, command.run(login))
}

/// The command as it runs.
struct Running<'a> {
    options: &'a Proxy,
    quiet: bool,
    profile: ClientProfile,
    credentials: Option<Credentials>,
    log: Log,
    /// What to look at was said.
    advised: Arc<AtomicBool>,
}

/// What must not fill the log while a server comes and goes.
#[derive(Debug, Default)]
struct Log {
    away: Rarely,
    /// Why the last attempt failed.
    failure: RefCell<String>,
}

impl Log {
    /// Why there is no tunnel: the same reason again and again is said once.
    fn failed(&self, error: &ConnectError) {
        let sentence = error.to_string();
        if *self.failure.borrow() == sentence {
            tracing::debug!("{sentence}");
        } else {
            tracing::warn!("{sentence}; trying again, clients are refused meanwhile");
            self.failure.replace(sentence);
        }
    }

    /// There is a tunnel.
    fn connected(&self) {
        self.failure.take();
    }
}

impl Running<'_> {
    async fn run(self, login: Option<Login>) -> Result<(), Fatal> {
        let mut signals =
            Signals::take().map_err(|error| Fatal::new(Exit::Other, format!("signals cannot be taken: {error}")))?;
        let listen = self.options.listen;
        let listener =
            TcpListener::bind(listen).await.map_err(|error| Fatal::new(Exit::Other, unusable(listen, &error)))?;
        let address = listener.local_addr().unwrap_or(listen);
        let (way, seen) = watch::channel(Way::None);
        let mut first = Some(tokio::select! {
            tunnel = self.connect() => tunnel?,
            () = stop(&mut signals) => return Ok(()),
        });
        // Only now, so that nobody is answered by a proxy that never gets a tunnel.
        let served = tokio::task::spawn_local(serve(listener, Server::new(seen, login, Patience::default())));
        if !self.quiet {
            outln!("SOCKS5 and HTTP proxy on {address}");
        }
        let mut backoff = Backoff::default();
        let ended = loop {
            let connected = match first.take() {
                Some(tunnel) => Ok(tunnel),
                None => tokio::select! {
                    tunnel = self.connect() => tunnel,
                    () = stop(&mut signals) => break Ok(()),
                },
            };
            match connected {
                Ok((tunnel, stage)) => {
                    self.log.connected();
                    let up = Instant::now();
                    if self.until_it_ends(tunnel, stage, &way, &mut signals).await {
                        break Ok(());
                    }
                    // A server that lets us in and drops us at once is asked less and less often.
                    backoff.connection_lived(up.elapsed());
                }
                Err(error) if is_final(&error) => break Err(error.into()),
                Err(error) => self.log.failed(&error),
            }
            tokio::select! {
                () = tokio::time::sleep(backoff.next(&mut SystemRandom)) => {}
                () = stop(&mut signals) => break Ok(()),
            }
        };
        served.abort();
        ended
    }

    /// A tunnel, and the stage at which it is from then on.
    async fn connect(&self) -> Result<(Trunk, watch::Receiver<Stage>), ConnectError> {
        let (stage, seen) = watch::channel(Stage::Resolve);
        let advised = Arc::clone(&self.advised);
        let wishes = Options {
            credentials: self.credentials.clone(),
            connect_timeout: Duration::from_secs(self.options.connect_timeout),
            aead: self.options.aead,
            reconnect: true,
            // There is no other tunnel, and the thread of its own lets packets gather; plain calls take many of them at once.
            own_worker: true,
            engine: IoChoice::Syscall,
            ..Options::default()
        };
        let wishes = wishes.on_progress(move |progress| match progress {
            Progress::Stage(now) => drop(stage.send_replace(*now)),
            Progress::Unanswered { sentence, waited, .. } if !advised.swap(true, Ordering::Relaxed) => {
                tracing::warn!("no tunnel after {} s, still trying: {sentence}", waited.as_secs());
            }
            _ => {}
        });
        Ok((Trunk::connect(self.profile.clone(), wishes).await?, seen))
    }

    /// True when a signal ended it.
    async fn until_it_ends(
        &self,
        tunnel: Trunk,
        stage: watch::Receiver<Stage>,
        way: &watch::Sender<Way>,
        signals: &mut Signals,
    ) -> bool {
        let parameters = tunnel.parameters();
        let servers = if self.options.dns.is_empty() { &parameters.dns } else { &self.options.dns };
        tell(parameters, servers);
        let stack = Arc::new(Stack::new(inner(parameters)));
        let network = Arc::new(Network::new(Arc::clone(&stack), servers, Patience::default()));
        way.send_replace(Way::Open(Arc::clone(&network)));
        let error = tokio::select! {
            Err(error) = carry(&tunnel, &stack) => Some(error),
            never = self.follow(stage, &network, way) => match never {},
            () = stop(signals) => None,
        };
        way.send_replace(Way::None);
        stack.end();
        match error {
            Some(TunnelError::Closed) | None => {
                // Why it could not be told that we leave changes nothing now.
                let _ = tunnel.close().await;
                true
            }
            Some(error) => {
                tracing::warn!("the tunnel ended: {error}; it is connected again");
                false
            }
        }
    }

    /// Tells clients and the log when the server is away and when it is back, until the tunnel is dropped.
    async fn follow(
        &self,
        mut stage: watch::Receiver<Stage>,
        network: &Arc<Network>,
        way: &watch::Sender<Way>,
    ) -> Infallible {
        loop {
            // The tunnel is given out a moment before its stage says that it is up.
            if stage.wait_for(|stage| *stage == Stage::Up).await.is_err() {
                break;
            }
            way.send_replace(Way::Open(Arc::clone(network)));
            if stage.wait_for(|stage| !matches!(stage, Stage::Up | Stage::Leave)).await.is_err() {
                break;
            }
            way.send_replace(Way::Interrupted(Arc::clone(network)));
            let (since, said) = (Instant::now(), self.log.away.may());
            if said {
                tracing::warn!("the server is away; connecting again, new connections are refused meanwhile");
            }
            let back = stage.wait_for(|stage| *stage == Stage::Up).await.is_ok();
            if back && said {
                tracing::info!("the server is back after {:.1} s; connections go on", since.elapsed().as_secs_f64());
            }
        }
        // The reason comes with the packets' end.
        std::future::pending().await
    }
}

/// What is said of an address that others can reach.
fn open_to_others(listen: SocketAddr, has_login: bool) -> Option<String> {
    (!listen.ip().to_canonical().is_loopback() && !has_login).then(|| {
        format!(
            "{listen} is not of this host alone: everybody who reaches it can use the tunnel; \
             set --user and --password-file, or listen on 127.0.0.1"
        )
    })
}

/// Why an address cannot be listened on, and what to do.
fn unusable(listen: SocketAddr, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{listen} is in use by another program (or another `minivpn proxy`): choose another port with --listen, 0 takes a free one"
        ),
        io::ErrorKind::AddrNotAvailable => format!(
            "{} is no address of this host: --listen wants one of its own, such as 127.0.0.1 or 0.0.0.0 (all of them)",
            listen.ip()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("port {} needs a privilege: choose one of 1024 and more with --listen", listen.port())
        }
        _ => format!("{listen} cannot be listened on: {error}; choose another with --listen"),
    }
}

/// Whether connecting again would end the same way.
fn is_final(error: &ConnectError) -> bool {
    !matches!(
        error,
        ConnectError::Unreachable(_) | ConnectError::Timeout { .. } | ConnectError::Server(_) | ConnectError::System(_)
    )
}

async fn stop(signals: &mut Signals) {
    while signals.next().await != Signal::Stop {}
}

fn inner(parameters: &Parameters) -> Inner {
    Inner {
        ipv4: parameters.ipv4.map(|inner| (inner.address, inner.prefix)),
        ipv6: parameters.ipv6.map(|inner| (inner.address, inner.prefix)),
        mtu: usize::from(parameters.mtu),
    }
}

fn tell(parameters: &Parameters, servers: &[std::net::IpAddr]) {
    let own = [parameters.ipv4.map(|i| i.address.to_string()), parameters.ipv6.map(|i| i.address.to_string())];
    let own: Vec<String> = own.into_iter().flatten().collect();
    let names: Vec<String> = servers.iter().map(ToString::to_string).collect();
    tracing::info!(
        "tunnel to {} is up as {}, {}; name servers: {}",
        parameters.remote,
        own.join(" and "),
        parameters.cipher,
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
    if names.is_empty() {
        tracing::warn!("the server pushed no name server: only addresses can be connected to, unless --dns names one");
    }
}

fn login(options: &Proxy) -> Result<Option<Login>, Fatal> {
    let (Some(user), Some(file)) = (&options.user, &options.password_file) else { return Ok(None) };
    let password = password(file).map_err(|what| Fatal::new(Exit::Config, format!("{}: {what}", file.display())))?;
    if user.is_empty() || user.len() > 255 {
        return Err(Fatal::new(Exit::Config, "--user: a name of 1 to 255 bytes, and without a colon for HTTP clients"));
    }
    Ok(Some(Login::new(user.clone(), password)))
}

/// The first line of a file.
fn password(file: &Path) -> Result<Secret, String> {
    let mut text = Zeroizing::new(Vec::with_capacity(512));
    let opened = File::open(file).and_then(|file| file.take(LONGEST_PASSWORD + 1).read_to_end(&mut text));
    opened.map_err(|error| format!("it cannot be read: {error}"))?;
    let line = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    match line.len() {
        1..=255 => Ok(Secret(line.to_vec())),
        0 => Err("its first line is empty: write the password there".to_owned()),
        _ => Err("its first line is longer than a password can be (255 bytes)".to_owned()),
    }
}

/// As many descriptors as all clients may need: two for each (a datagram association has two), if the host permits.
fn permit_descriptors() {
    let wanted = 2 * MOST_CLIENTS as u64 + OTHER_DESCRIPTORS;
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < wanted) {
        let current = limit.maximum.map_or(wanted, |maximum| maximum.min(wanted));
        // Whoever is one too many is told so.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(current), maximum: limit.maximum });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<Vec<u8>, String> {
        let file = std::env::temp_dir().join(format!("minivpn-proxy-password-{}", std::process::id()));
        std::fs::write(&file, bytes).unwrap();
        let password = password(&file).map(|secret| secret.0.clone());
        std::fs::remove_file(&file).unwrap();
        password
    }

    #[test]
    fn the_password_is_the_first_line_of_its_file() {
        assert_eq!(read(b"s3cret").unwrap(), b"s3cret");
        assert_eq!(read(b"s3cret\r\nmore\n").unwrap(), b"s3cret");
        assert_eq!(read(&[b'x'; 255]).unwrap().len(), 255);
        assert!(read(&[b'x'; 256]).unwrap_err().contains("255"));
        assert!(read(&[b'x'; 100_000]).unwrap_err().contains("255"));
        assert!(read(b"").unwrap_err().contains("empty"));
        assert!(read(b"\nsecond").unwrap_err().contains("empty"));
        assert!(password(Path::new("/nonexistent/password")).unwrap_err().contains("read"));
    }

    #[test]
    fn an_address_that_others_reach_is_warned_of_unless_they_need_a_password() {
        let warned = |listen: &str, has_login| open_to_others(listen.parse().unwrap(), has_login).is_some();
        for open in ["0.0.0.0:1080", "[::]:1080", "192.0.2.1:1080", "[::ffff:192.0.2.1]:1080"] {
            assert!(warned(open, false), "{open}");
            assert!(!warned(open, true), "{open}");
        }
        for own in ["127.0.0.1:1080", "127.0.0.2:0", "[::1]:1080", "[::ffff:127.0.0.1]:1080"] {
            assert!(!warned(own, false), "{own}");
        }
    }

    #[test]
    fn an_address_that_cannot_be_used_is_blamed_for_the_right_thing() {
        let why = |kind: io::ErrorKind| unusable("192.0.2.1:80".parse().unwrap(), &kind.into());
        assert!(why(io::ErrorKind::AddrInUse).starts_with("192.0.2.1:80 is in use"));
        assert!(why(io::ErrorKind::AddrNotAvailable).starts_with("192.0.2.1 is no address of this host"));
        assert!(why(io::ErrorKind::PermissionDenied).starts_with("port 80 needs a privilege"));
        assert!(why(io::ErrorKind::OutOfMemory).contains("cannot be listened on"));
    }

    #[test]
    fn what_nobody_can_mend_by_waiting_ends_the_command() {
        assert!(is_final(&ConnectError::Profile(String::new())));
        assert!(is_final(&ConnectError::AuthFailed { reason: String::new(), sentence: String::new() }));
        assert!(is_final(&ConnectError::Tls(String::new())));
        assert!(!is_final(&ConnectError::Unreachable(String::new())));
        assert!(!is_final(&ConnectError::Server(String::new())));
    }
}
