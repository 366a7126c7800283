//! SOCKS5 (RFC 1928) as the server speaks it, with user name and password (RFC 1929) where the proxy has them. The messages are the
//! crate's; the password is read here, so that it is wiped and compared as passwords are everywhere else.

use std::io;
use std::net::SocketAddr;

use fast_socks5::server::states::{Authenticated, CommandRead};
use fast_socks5::server::{
    AuthMethod, AuthMethodSuccessState, NoAuthentication, Socks5ServerProtocol, SocksServerError,
};
use fast_socks5::util::target_addr::TargetAddr;
use fast_socks5::{ReplyError, Socks5Command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use super::failure::Failure;
use super::login::Login;
use super::network::Target;

/// What a client asks for.
#[derive(Debug)]
pub(super) enum Request {
    /// A connection to there.
    Connect(Target, Waiting),
    /// Datagrams, for as long as this connection lasts, from an address that the client may name.
    Associate(Target, Waiting),
}

/// A client that waits for the answer to its request.
pub(super) struct Waiting(Socks5ServerProtocol<TcpStream, CommandRead>);

impl std::fmt::Debug for Waiting {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Waiting")
    }
}

impl Waiting {
    /// Answers that it is done; `bound` is the address of our end.
    ///
    /// # Errors
    /// The client's socket failed.
    pub(super) async fn accept(self, bound: SocketAddr) -> io::Result<TcpStream> {
        self.0.reply_success(bound).await.map_err(other)
    }

    /// Says why not.
    ///
    /// # Errors
    /// The client's socket failed.
    pub(super) async fn fail(self, failure: Failure) -> io::Result<()> {
        self.0.reply_error(&failure.socks()).await.map_err(other)
    }
}

/// Reads a request. One that is not understood, or whose password is wrong, has been answered as far as the protocol has an answer.
///
/// # Errors
/// The client's socket failed or ended, or the client does not speak the protocol.
pub(super) async fn request(client: TcpStream, login: Option<&Login>) -> io::Result<Request> {
    let opened = Socks5ServerProtocol::start(client);
    let known: Socks5ServerProtocol<TcpStream, Authenticated> = match login {
        None => opened.negotiate_auth(&[NoAuthentication]).await.map_err(other)?.finish_auth(),
        Some(login) => opened.negotiate_auth(&[ByPassword]).await.map_err(other)?.check(login).await?.finish_auth(),
    };
    let (waiting, command, target) = known.read_command().await.map_err(other)?;
    match command {
        Socks5Command::TCPConnect => Ok(Request::Connect(from(target), Waiting(waiting))),
        Socks5Command::UDPAssociate => Ok(Request::Associate(from(target), Waiting(waiting))),
        Socks5Command::TCPBind => {
            waiting.reply_error(&ReplyError::CommandNotSupported).await.map_err(other)?;
            Err(io::Error::new(io::ErrorKind::Unsupported, "the client asked for BIND"))
        }
    }
}

/// A destination of the crate's as ours. A name may be an address in text.
pub(super) fn from(target: TargetAddr) -> Target {
    match target {
        TargetAddr::Ip(address) => Target::Address(address),
        TargetAddr::Domain(name, port) => Target::new(&name, port),
    }
}

fn other(error: SocksServerError) -> io::Error {
    io::Error::other(error)
}

/// The method "user name and password".
#[derive(Clone, Copy, Debug)]
struct ByPassword;

impl AuthMethod<TcpStream> for ByPassword {
    type StartingState = Unknown;

    fn method_id(self) -> u8 {
        2
    }

    fn new(self, client: TcpStream) -> Unknown {
        Unknown(client)
    }
}

/// A client that has to give its password now.
struct Unknown(TcpStream);

/// A client that gave the right one.
struct Admitted(TcpStream);

impl Unknown {
    async fn check(self, login: &Login) -> io::Result<Admitted> {
        let mut client = self.0;
        // RFC 1929: version 1, then each with its length before it.
        if client.read_u8().await? != 1 {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not the version of RFC 1929"));
        }
        let user = field(&mut client).await?;
        let password = field(&mut client).await?;
        let admitted = login.admits(&user, &password);
        client.write_all(&[1, u8::from(!admitted)]).await?;
        if admitted {
            return Ok(Admitted(client));
        }
        client.shutdown().await?;
        Err(io::Error::new(io::ErrorKind::PermissionDenied, "wrong user name or password"))
    }
}

impl AuthMethodSuccessState<TcpStream> for Admitted {
    fn into_inner(self) -> TcpStream {
        self.0
    }
}

async fn field(client: &mut TcpStream) -> io::Result<Zeroizing<Vec<u8>>> {
    let length = usize::from(client.read_u8().await?);
    let mut bytes = Zeroizing::new(vec![0; length]);
    client.read_exact(&mut bytes).await?;
    Ok(bytes)
}
