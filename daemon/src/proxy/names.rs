//! Names, asked of name servers inside the tunnel. Nothing of the host's own resolution is used: not its servers, not its files.

use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hickory_resolver::Resolver;
use hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::iocompat::AsyncIoTokioAsStd;
use hickory_resolver::net::runtime::{DnsUdpSocket, RuntimeProvider, TokioHandle, TokioTime};
use hickory_resolver::net::{DnsError, NetError};

use super::connection::Connection;
use super::datagrams::Datagrams;
use super::failure::Failure;
use super::patience::Patience;
use super::stack::{Inner, Stack};
use super::voice::Voice;

/// Addresses of one name that are looked at.
const MOST_ADDRESSES: usize = 64;

/// How often a question is asked.
const ATTEMPTS: usize = 2;

/// Answers that are remembered, as long as they say. A hostile one takes up to a megabyte: 64 KiB over TCP, of a few thousand addresses.
const REMEMBERED: u64 = 64;

/// The name servers of one tunnel.
#[derive(Debug)]
pub(super) struct Names {
    resolver: Option<Resolver<Inside>>,
    voice: Arc<Voice>,
    patience: Patience,
}

impl Names {
    /// Names are asked of these servers, in this order. Those of a family that the tunnel has not are left out.
    pub(super) fn new(stack: &Arc<Stack>, servers: &[IpAddr], patience: Patience) -> Names {
        let inner = *stack.inner();
        let servers: Vec<NameServerConfig> =
            servers.iter().filter(|ip| inner.reaches(**ip)).map(|ip| NameServerConfig::udp_and_tcp(*ip)).collect();
        let voice = Arc::<Voice>::default();
        if servers.is_empty() {
            return Names { resolver: None, voice, patience };
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let (stack, heard) = (Arc::clone(stack), Arc::clone(&voice));
        let inside = Inside { stack, tasks: TokioHandle::default(), voice: heard, patience };
        let mut builder = Resolver::builder_with_config(config, inside);
        set(builder.options_mut(), &inner, patience);
        Names { resolver: builder.build().ok(), voice, patience }
    }

    /// The addresses of a name that the tunnel can reach, best first.
    ///
    /// # Errors
    /// [`Failure::NoNameServer`], [`Failure::NoSuchName`], [`Failure::NoVerdict`], [`Failure::NoAnswer`]; [`Failure::Full`] and
    /// [`Failure::TunnelDown`], when the question cannot be asked.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let resolver = self.resolver.as_ref().ok_or(Failure::NoNameServer)?;
        // Where nobody has answered, nobody is waited for as long as somebody who might only be slow.
        let patience = if self.voice.is_silent() { self.patience.question } else { self.patience.name };
        let before = self.voice.words();
        let failure = match tokio::time::timeout(patience, resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => {
                let addresses: Vec<IpAddr> = found.iter().take(MOST_ADDRESSES).collect();
                return if addresses.is_empty() { Err(Failure::NoSuchName) } else { Ok(addresses) };
            }
            Ok(Err(error)) => {
                tracing::debug!("{}: {}", name.escape_default(), error.to_string().escape_default());
                judge(&error)
            }
            Err(_) => Failure::NoAnswer,
        };
        if failure == Failure::NoAnswer {
            self.voice.is_missed(before);
        }
        Err(failure)
    }
}

fn judge(error: &NetError) -> Failure {
    match error {
        NetError::Dns(DnsError::NoRecordsFound(_)) => Failure::NoSuchName,
        // What is no name at all has no address either.
        NetError::Proto(_) => Failure::NoSuchName,
        NetError::Dns(_) => Failure::NoVerdict,
        NetError::Io(error) => own(error).unwrap_or(Failure::NoAnswer),
        _ => Failure::NoAnswer,
    }
}

/// What kept a question from being asked: no server is to blame.
fn own(error: &io::Error) -> Option<Failure> {
    let failure = error.get_ref()?.downcast_ref::<Failure>()?;
    matches!(failure, Failure::Full | Failure::TunnelDown).then_some(*failure)
}

fn set(options: &mut ResolverOpts, inner: &Inner, patience: Patience) {
    options.timeout = patience.question;
    options.attempts = ATTEMPTS;
    options.cache_size = REMEMBERED;
    options.use_hosts_file = ResolveHosts::Never;
    // The stack takes a port that nobody can guess, which the resolver would otherwise look for itself.
    options.os_port_selection = true;
    options.ip_strategy = match (inner.ipv4, inner.ipv6) {
        (Some(_), Some(_)) => LookupIpStrategy::Ipv4AndIpv6,
        (None, Some(_)) => LookupIpStrategy::Ipv6Only,
        (_, None) => LookupIpStrategy::Ipv4Only,
    };
}

/// Opens the resolver's sockets in the tunnel.
#[derive(Clone)]
struct Inside {
    stack: Arc<Stack>,
    tasks: TokioHandle,
    voice: Arc<Voice>,
    patience: Patience,
}

impl RuntimeProvider for Inside {
    type Handle = TokioHandle;
    type Timer = TokioTime;
    type Udp = Question;
    type Tcp = AsyncIoTokioAsStd<Connection>;

    fn create_handle(&self) -> TokioHandle {
        self.tasks.clone()
    }

    fn connect_tcp(
        &self,
        server: SocketAddr,
        _: Option<SocketAddr>,
        patience: Option<Duration>,
    ) -> Pin<Box<dyn Send + Future<Output = io::Result<Self::Tcp>>>> {
        let (stack, voice) = (Arc::clone(&self.stack), Arc::clone(&self.voice));
        let patience = patience.unwrap_or(self.patience.question);
        Box::pin(async move {
            let opened = tokio::time::timeout(patience, Connection::open(&stack, server)).await;
            match opened {
                Ok(Ok(connection)) => {
                    voice.is_heard();
                    Ok(AsyncIoTokioAsStd(connection))
                }
                Ok(Err(failure)) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, failure)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn bind_udp(&self, _: SocketAddr, _: SocketAddr) -> Pin<Box<dyn Send + Future<Output = io::Result<Question>>>> {
        let voice = Arc::clone(&self.voice);
        let opened = Datagrams::open(&self.stack).map(|socket| Question { socket, voice });
        Box::pin(async move { opened.map_err(io::Error::other) })
    }
}

/// The socket of one question.
struct Question {
    socket: Datagrams,
    voice: Arc<Voice>,
}

impl DnsUdpSocket for Question {
    type Time = TokioTime;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.socket.poll_receive(cx, buffer).map(|received| {
            self.voice.is_heard();
            Ok(received)
        })
    }

    fn poll_send_to(&self, _: &mut Context<'_>, bytes: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        Poll::Ready(self.socket.send(bytes, to).map(|()| bytes.len()).map_err(io::Error::other))
    }
}
