//! The listener and its clients: the first byte decides which protocol one speaks, a task serves it to its end.

use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::associate::Association;
use super::connection::Connection;
use super::failure::Failure;
use super::login::Login;
use super::network::{Network, Target};
use super::patience::Patience;
use super::rarely::Rarely;
use super::relay::{Relayed, relay};
use super::unheard::{Ticket, Unheard};
use super::way::{self, Way};
use super::{http, socks};

/// Clients at once. Some more than there may be connections through the tunnel, so that one too many gets an answer.
pub(super) const MOST_CLIENTS: usize = super::stack::MOST_SOCKETS + 64;

/// After a failure of the host (no descriptor left) so long nobody is accepted.
const PAUSE: Duration = Duration::from_millis(100);

/// What every client's task knows.
#[derive(Debug)]
pub(super) struct Server {
    /// The way to what lies beyond the tunnel.
    pub way: watch::Receiver<Way>,
    /// What clients have to give, if anything.
    pub login: Option<Login>,
    /// How long clients have for their requests, and wait for the tunnel.
    pub patience: Patience,
    /// Clients at once.
    pub most: usize,
    /// The line of the log that there are too many connections.
    pub full: Rarely,
}

impl Server {
    /// One for [`MOST_CLIENTS`].
    pub(super) fn new(way: watch::Receiver<Way>, login: Option<Login>, patience: Patience) -> Server {
        Server { way, login, patience, most: MOST_CLIENTS, full: Rarely::default() }
    }
}

/// Serves clients until the future is dropped. To be run inside a `LocalSet`.
pub(super) async fn serve(listener: TcpListener, server: Server) -> std::convert::Infallible {
    let server = Rc::new(server);
    let unheard = Rc::<Unheard>::default();
    let (crowded, unaccepted) = (Rarely::default(), Rarely::default());
    // Its tasks end with it.
    let mut clients = JoinSet::new();
    loop {
        let client = tokio::select! {
            biased;
            Some(_) = clients.join_next() => continue,
            accepted = listener.accept() => match accepted {
                Ok((client, _)) => client,
                Err(error) => {
                    if unaccepted.may() {
                        tracing::warn!("a client could not be accepted: {error}");
                    }
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
            },
        };
        if clients.len() >= server.most {
            if crowded.may() {
                let most = server.most;
                tracing::warn!(
                    "{most} clients at once: of those that ask for nothing the oldest makes room, others are turned away"
                );
            }
            if !unheard.evict() {
                continue;
            }
            // The one that was ended, or another one that has just ended.
            clients.join_next().await;
        }
        let ticket = unheard.enter();
        let server = Rc::clone(&server);
        let task = clients.spawn_local(async move {
            if let Err(error) = client_of(&server, client, ticket).await {
                tracing::debug!("client: {error}");
            }
        });
        unheard.is_served_by(task);
    }
}

/// The ticket is given back once the request is read.
async fn client_of(server: &Server, client: TcpStream, ticket: Ticket) -> io::Result<()> {
    client.set_nodelay(true)?;
    // A client that vanished from another host is noticed some day.
    let probe = TcpKeepalive::new().with_time(Duration::from_secs(300)).with_interval(Duration::from_secs(60));
    SockRef::from(&client).set_tcp_keepalive(&probe)?;
    let mut first = [0];
    match tokio::time::timeout(server.patience.request, client.peek(&mut first)).await?? {
        0 => Ok(()),
        _ => match first {
            [5] => with_socks(server, client, ticket).await,
            [b'A'..=b'Z'] => with_http(server, client, ticket).await,
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

async fn with_http(server: &Server, mut client: TcpStream, ticket: Ticket) -> io::Result<()> {
    let read = http::request(&mut client, server.login.as_ref());
    let request = match tokio::time::timeout(server.patience.request, read).await {
        Ok(Ok(Ok(request))) => request,
        Ok(Ok(Err(refused))) => return Err(io::Error::other(format!("refused: {refused:?}"))),
        Ok(Err(error)) => return Err(error),
        Err(_) => return http::late(&mut client).await,
    };
    drop(ticket);
    match server.connect(&request.target).await {
        Ok(connection) => {
            http::accept(&mut client).await?;
            report(&request.target, relay(client, connection, &request.early).await);
            Ok(())
        }
        Err(failure) => http::fail(&mut client, failure).await,
    }
}

async fn with_socks(server: &Server, client: TcpStream, ticket: Ticket) -> io::Result<()> {
    let (there, here) = (client.peer_addr()?.ip(), client.local_addr()?.ip());
    let request = socks::request(client, server.login.as_ref());
    let request = tokio::time::timeout(server.patience.request, request).await??;
    drop(ticket);
    match request {
        socks::Request::Connect(target, waiting) => match server.connect(&target).await {
            Ok(connection) => {
                let client = waiting.accept(connection.local()).await?;
                report(&target, relay(client, connection, &[]).await);
                Ok(())
            }
            Err(failure) => waiting.fail(failure).await,
        },
        socks::Request::Associate(named, waiting) => match server.associate(there, here, &named).await {
            Ok((association, network)) => {
                let control = waiting.accept(association.bound()?).await?;
                let mut way = server.way.clone();
                // It ends with its tunnel, so that the client asks for another one.
                tokio::select! {
                    () = association.run(control) => {}
                    Ok(_) = way.wait_for(|way| !way.leads_to(&network)) => {}
                }
                Ok(())
            }
            Err(failure) => waiting.fail(failure).await,
        },
    }
}

impl Server {
    async fn connect(&self, target: &Target) -> Result<Connection, Failure> {
        let connected = self.through_the_tunnel(target).await;
        match &connected {
            Ok(_) => tracing::debug!("{target}: connected"),
            Err(failure) => self.note(target, *failure),
        }
        connected
    }

    async fn through_the_tunnel(&self, target: &Target) -> Result<Connection, Failure> {
        let network = way::opened(&self.way, self.patience.tunnel).await?;
        tokio::select! {
            biased;
            connected = network.connect(target) => connected,
            () = way::lost(&self.way, &network, self.patience.tunnel) => Err(Failure::TunnelDown),
        }
    }

    async fn associate(
        &self,
        client: IpAddr,
        here: IpAddr,
        named: &Target,
    ) -> Result<(Association, Arc<Network>), Failure> {
        let network = way::opened(&self.way, self.patience.tunnel).await?;
        let opened = Association::open(&network, client, here, named).await;
        let association = opened.inspect_err(|failure| self.note(named, *failure))?;
        Ok((association, network))
    }

    /// Where somebody wanted to go is said at the level of debugging only.
    fn note(&self, target: &Target, failure: Failure) {
        tracing::debug!("{target}: {failure}");
        if failure == Failure::Full && self.full.may() {
            tracing::warn!("{} connections at once: further ones are refused", super::stack::MOST_SOCKETS);
        }
    }
}

fn report(target: &Target, relayed: Relayed) {
    tracing::debug!("{target}: ended after {} bytes up, {} bytes down", relayed.up, relayed.down);
}
