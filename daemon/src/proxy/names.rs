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

use super::connection::Connection;
use super::datagrams::Datagrams;
use super::failure::Failure;
use super::patience::Patience;
use super::stack::{Inner, Stack};

/// How often a question is asked.
const ATTEMPTS: usize = 2;

/// Answers that are remembered, as long as they say.
const REMEMBERED: u64 = 4_096;

/// The name servers of one tunnel.
#[derive(Debug)]
pub(super) struct Names {
    resolver: Option<Resolver<Inside>>,
    patience: Patience,
}

impl Names {
    /// Names are asked of these servers, in this order. Those of a family that the tunnel has not are left out.
    pub(super) fn new(stack: &Arc<Stack>, servers: &[IpAddr], patience: Patience) -> Names {
        let inner = *stack.inner();
        let servers: Vec<NameServerConfig> =
            servers.iter().filter(|ip| inner.reaches(**ip)).map(|ip| NameServerConfig::udp_and_tcp(*ip)).collect();
        if servers.is_empty() {
            return Names { resolver: None, patience };
        }
        let config = ResolverConfig::from_parts(None, Vec::new(), servers);
        let inside = Inside { stack: Arc::clone(stack), tasks: TokioHandle::default(), patience };
        let mut builder = Resolver::builder_with_config(config, inside);
        set(builder.options_mut(), &inner, patience);
        Names { resolver: builder.build().ok(), patience }
    }

    /// The addresses of a name that the tunnel can reach, best first.
    ///
    /// # Errors
    /// [`Failure::NoNameServer`], [`Failure::NoSuchName`], [`Failure::NoAnswer`].
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Failure> {
        let resolver = self.resolver.as_ref().ok_or(Failure::NoNameServer)?;
        match tokio::time::timeout(self.patience.name, resolver.lookup_ip(name)).await {
            Ok(Ok(found)) => {
                let addresses: Vec<IpAddr> = found.iter().collect();
                if addresses.is_empty() { Err(Failure::NoSuchName) } else { Ok(addresses) }
            }
            Ok(Err(error)) => {
                tracing::debug!("{}: {}", name.escape_default(), error.to_string().escape_default());
                // What is no name at all has no address either.
                let answered =
                    error.is_no_records_found() || matches!(error, hickory_resolver::net::NetError::Proto(_));
                Err(if answered { Failure::NoSuchName } else { Failure::NoAnswer })
            }
            Err(_) => Err(Failure::NoAnswer),
        }
    }
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
        let stack = Arc::clone(&self.stack);
        let patience = patience.unwrap_or(self.patience.question);
        Box::pin(async move {
            let opened = tokio::time::timeout(patience, Connection::open(&stack, server)).await;
            match opened {
                Ok(Ok(connection)) => Ok(AsyncIoTokioAsStd(connection)),
                Ok(Err(failure)) => Err(io::Error::new(io::ErrorKind::ConnectionRefused, failure)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            }
        })
    }

    fn bind_udp(&self, _: SocketAddr, _: SocketAddr) -> Pin<Box<dyn Send + Future<Output = io::Result<Question>>>> {
        let opened = Datagrams::open(&self.stack).map(Question);
        Box::pin(async move { opened.map_err(io::Error::other) })
    }
}

/// The socket of one question.
struct Question(Datagrams);

impl DnsUdpSocket for Question {
    type Time = TokioTime;

    fn poll_recv_from(&self, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<(usize, SocketAddr)>> {
        self.0.poll_receive(cx, buffer).map(Ok)
    }

    fn poll_send_to(&self, _: &mut Context<'_>, bytes: &[u8], to: SocketAddr) -> Poll<io::Result<usize>> {
        Poll::Ready(self.0.send(bytes, to).map(|()| bytes.len()).map_err(io::Error::other))
    }
}
