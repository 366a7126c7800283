//! The listener and its clients: the first byte decides which protocol one speaks, a task serves it to its end.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};

use super::associate::Association;
use super::connection::Connection;
use super::failure::Failure;
use super::login::Login;
use super::network::{Network, Target};
use super::patience::Patience;
use super::relay::{Relayed, relay};
use super::{http, socks};

/// Clients at once. Some more than there may be connections through the tunnel, so that one too many gets an answer.
pub(super) const MOST_CLIENTS: usize = super::stack::MOST_SOCKETS + 64;

/// After a failure of the host (no descriptor left) so long nobody is accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// The least time between two warnings of the same kind.
const QUIET: Duration = Duration::from_secs(30);

/// What every client's task knows.
#[derive(Debug)]
pub(super) struct Server {
    /// What lies beyond the tunnel; `None` while it is being connected.
    pub network: watch::Receiver<Option<Arc<Network>>>,
    /// What clients have to give, if anything.
    pub login: Option<Login>,
    /// How long clients have for their requests.
    pub patience: Patience,
}

/// Serves clients until the future is dropped. To be run inside a `LocalSet`.
pub(super) async fn serve(listener: TcpListener, server: Server) -> std::convert::Infallible {
    let server = Rc::new(server);
    let places = Arc::new(Semaphore::new(MOST_CLIENTS));
    let warned = Cell::new(None);
    // Its tasks end with it.
    let mut clients = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = clients.join_next() => {}
            accepted = listener.accept() => match (accepted, Arc::clone(&places).try_acquire_owned()) {
                (Ok((client, _)), Ok(place)) => {
                    let server = Rc::clone(&server);
                    clients.spawn_local(async move {
                        if let Err(error) = client_of(&server, client).await {
                            tracing::debug!("client: {error}");
                        }
                        drop(place);
                    });
                }
                (Ok(_), Err(_)) => warn(&warned, format_args!("{MOST_CLIENTS} clients at once: one more is turned away")),
                (Err(error), _) => {
                    warn(&warned, format_args!("a client could not be accepted: {error}"));
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

fn warn(last: &Cell<Option<Instant>>, what: std::fmt::Arguments<'_>) {
    if last.get().is_none_or(|at| at.elapsed() >= QUIET) {
        tracing::warn!("{what}");
        last.set(Some(Instant::now()));
    }
}

async fn client_of(server: &Server, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    // A client that vanished from another host is noticed some day.
    let probe = TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(60));
    SockRef::from(&client).set_tcp_keepalive(&probe)?;
    let mut first = [0];
    match tokio::time::timeout(server.patience.request, client.peek(&mut first)).await?? {
        0 => Ok(()),
        _ => match first {
            [5] => with_socks(server, client).await,
            [b'A'..=b'Z'] => with_http(server, client).await,
            [4] => {
                // SOCKS4 has an answer for "no", which its clients understand. Unread bytes would turn it into a reset.
                let mut client = client;
                let _ = client.try_read(&mut [0; 1_024]);
                client.write_all(&[0, 91, 0, 0, 0, 0, 0, 0]).await?;
                Err(io::Error::new(io::ErrorKind::Unsupported, "it speaks SOCKS4, which has no IPv6 and no names"))
            }
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, "it speaks neither SOCKS5 nor HTTP")),
        },
    }
}

async fn with_http(server: &Server, mut client: TcpStream) -> io::Result<()> {
    let request = match tokio::time::timeout(server.patience.request, http::request(&mut client, server.login.as_ref()))
        .await??
    {
        Ok(request) => request,
        Err(refused) => return Err(io::Error::other(format!("refused: {refused:?}"))),
    };
    match server.connect(&request.target).await {
        Ok(connection) => {
            http::accept(&mut client).await?;
            report(&request.target, relay(client, connection, &request.early).await);
            Ok(())
        }
        Err(failure) => http::fail(&mut client, failure).await,
    }
}

async fn with_socks(server: &Server, client: TcpStream) -> io::Result<()> {
    let (there, here) = (client.peer_addr()?.ip(), client.local_addr()?.ip());
    match tokio::time::timeout(server.patience.request, socks::request(client, server.login.as_ref())).await?? {
        socks::Request::Connect(target, waiting) => match server.connect(&target).await {
            Ok(connection) => {
                let client = waiting.accept(connection.local()).await?;
                report(&target, relay(client, connection, &[]).await);
                Ok(())
            }
            Err(failure) => waiting.fail(failure).await,
        },
        socks::Request::Associate(waiting) => match server.associate(there, here).await {
            Ok((association, network)) => {
                let control = waiting.accept(association.bound()?).await?;
                let mut present = server.network.clone();
                // It ends with its tunnel, so that the client asks for another one.
                tokio::select! {
                    () = association.run(control) => {}
                    Ok(_) = present.wait_for(|now| !now.as_ref().is_some_and(|now| Arc::ptr_eq(now, &network))) => {}
                }
                Ok(())
            }
            Err(failure) => waiting.fail(failure).await,
        },
    }
}

impl Server {
    fn network(&self) -> Result<Arc<Network>, Failure> {
        self.network.borrow().clone().ok_or(Failure::TunnelDown)
    }

    async fn connect(&self, target: &Target) -> Result<Connection, Failure> {
        let connected = self.network()?.connect(target).await;
        match &connected {
            Ok(_) => tracing::debug!("{target}: connected"),
            Err(failure @ (Failure::NoNameServer | Failure::Full)) => tracing::warn!("{target}: {failure}"),
            Err(failure) => tracing::debug!("{target}: {failure}"),
        }
        connected
    }

    async fn associate(&self, client: IpAddr, here: IpAddr) -> Result<(Association, Arc<Network>), Failure> {
        let network = self.network()?;
        Ok((Association::open(&network, client, here).await?, network))
    }
}

fn report(target: &Target, relayed: Relayed) {
    tracing::debug!("{target}: ended after {} bytes up, {} bytes down", relayed.up, relayed.down);
}
