//! What can go wrong with a tunnel, sorted by who has to do something about it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::stage::Stage;
use crate::exit::{Exit, Fatal};

/// Why there is no tunnel. Every form is one sentence that says what is wrong and what to do, and none holds a secret.
///
/// # Examples
/// ```
/// use minivpn::ConnectError;
/// use minivpn::exit::Exit;
///
/// let error = minivpn::parse_profile("client\nremote").unwrap_err();
/// assert!(matches!(error, ConnectError::Profile(_)));
/// assert_eq!(error.exit(), Exit::Config);
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The caller's: the profile, or something in [`Options`](crate::Options), cannot be used.
    #[error("{0}")]
    Profile(String),
    /// The caller's: the profile asks for a user name and a password and nobody gave them.
    #[error("{0}")]
    Credentials(String),
    /// The server refused us (`AUTH_FAILED`), said as soon as it says so.
    #[error("{sentence}")]
    AuthFailed {
        /// The server's own words, printable; often empty.
        reason: String,
        /// What it means.
        sentence: String,
    },
    /// TLS, or a certificate, failed on what we see ourselves.
    #[error("{0}")]
    Tls(String),
    /// Client and server cannot agree: a cipher, an option that was pushed.
    #[error("{0}")]
    Incompatible(String),
    /// Nobody answered at any address of any remote, or no packet can be sent there.
    #[error("{0}")]
    Unreachable(String),
    /// [`Options::connect_timeout`](crate::Options::connect_timeout) is over.
    #[error("no tunnel within {} s: the time was over {stage}{}", within.as_secs_f32(), last.as_ref().map_or(String::new(), |last| format!(" ({last})")))]
    Timeout {
        /// Where it was spent.
        stage: Stage,
        /// How long it was.
        within: Duration,
        /// What went wrong last, if anything had.
        last: Option<String>,
    },
    /// The server answered and does not want us now: `HALT`, `RESTART`, no answer in the middle of the handshake.
    #[error("{0}")]
    Server(String),
    /// This host: descriptors, threads, memory, or a permission are short.
    #[error("the tunnel could not be set up on this host: {0}")]
    System(#[from] io::Error),
}

impl ConnectError {
    /// What a command that ends with this error says to its caller.
    pub fn exit(&self) -> Exit {
        match self {
            ConnectError::Profile(_) | ConnectError::Credentials(_) | ConnectError::Incompatible(_) => Exit::Config,
            ConnectError::AuthFailed { .. } => Exit::Auth,
            ConnectError::Tls(_) => Exit::Tls,
            ConnectError::Unreachable(_) | ConnectError::Timeout { .. } => Exit::Unreachable,
            ConnectError::Server(_) => Exit::Other,
            ConnectError::System(error) if error.kind() == io::ErrorKind::PermissionDenied => Exit::Privilege,
            ConnectError::System(_) => Exit::Other,
        }
    }
}

impl From<ConnectError> for Fatal {
    fn from(error: ConnectError) -> Fatal {
        Fatal::new(error.exit(), error.to_string())
    }
}

/// Why a tunnel that was up carries nothing (any more). The same error comes again from every later call.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TunnelError {
    /// This side closed it.
    #[error("the tunnel is closed")]
    Closed,
    /// The server ended it: it left, asked us to come again (`RESTART`), or told us to stop (`HALT`).
    #[error("{0}")]
    Server(String),
    /// The server refused our credentials at a renegotiation.
    #[error("{0}")]
    AuthFailed(String),
    /// TLS, or a certificate, failed at a renegotiation.
    #[error("{0}")]
    Tls(String),
    /// Nothing comes from the server any more (`ping-restart`, `ping-exit`).
    #[error("{0}")]
    Silent(String),
    /// A time of the profile is over (`session-timeout`, `inactive`).
    #[error("{0}")]
    TimeOver(String),
    /// The caller's: a packet that no IP packet can be. The tunnel goes on.
    #[error("a packet of {length} bytes: an IP packet has 1 to 65535")]
    Packet {
        /// Its bytes.
        length: usize,
    },
    /// This host, or a fault of ours.
    #[error("the tunnel failed on this host: {0}")]
    System(Arc<io::Error>),
}

impl TunnelError {
    /// Whether the tunnel goes on in spite of it.
    pub fn is_transient(&self) -> bool {
        matches!(self, TunnelError::Packet { .. })
    }

    /// What a command that ends with this error says to its caller.
    pub fn exit(&self) -> Exit {
        match self {
            TunnelError::Closed => Exit::Ok,
            TunnelError::AuthFailed(_) => Exit::Auth,
            TunnelError::Tls(_) => Exit::Tls,
            TunnelError::Silent(_) => Exit::Unreachable,
            TunnelError::Server(_) | TunnelError::TimeOver(_) | TunnelError::Packet { .. } | TunnelError::System(_) => {
                Exit::Other
            }
        }
    }
}

impl From<io::Error> for TunnelError {
    fn from(error: io::Error) -> TunnelError {
        TunnelError::System(Arc::new(error))
    }
}

impl From<TunnelError> for io::Error {
    fn from(error: TunnelError) -> io::Error {
        let kind = match &error {
            TunnelError::Closed => io::ErrorKind::NotConnected,
            TunnelError::Server(_) | TunnelError::AuthFailed(_) | TunnelError::Tls(_) => io::ErrorKind::ConnectionReset,
            TunnelError::Silent(_) | TunnelError::TimeOver(_) => io::ErrorKind::TimedOut,
            TunnelError::Packet { .. } => io::ErrorKind::InvalidInput,
            TunnelError::System(error) => error.kind(),
        };
        io::Error::new(kind, error)
    }
}

impl From<TunnelError> for Fatal {
    fn from(error: TunnelError) -> Fatal {
        Fatal::new(error.exit(), error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_blame_has_the_exit_code_that_the_client_gives_it() {
        let word = || "x".to_owned();
        let table = [
            (ConnectError::Profile(word()), Exit::Config),
            (ConnectError::Credentials(word()), Exit::Config),
            (ConnectError::AuthFailed { reason: word(), sentence: word() }, Exit::Auth),
            (ConnectError::Tls(word()), Exit::Tls),
            (ConnectError::Incompatible(word()), Exit::Config),
            (ConnectError::Unreachable(word()), Exit::Unreachable),
            (
                ConnectError::Timeout { stage: Stage::Wait, within: Duration::from_secs(1), last: None },
                Exit::Unreachable,
            ),
            (ConnectError::Server(word()), Exit::Other),
            (ConnectError::System(io::ErrorKind::PermissionDenied.into()), Exit::Privilege),
            (ConnectError::System(io::ErrorKind::OutOfMemory.into()), Exit::Other),
        ];
        for (error, exit) in table {
            assert_eq!(error.exit(), exit, "{error:?}");
        }
    }

    #[test]
    fn a_timeout_says_how_long_where_and_what_was_last() {
        let last = Some("no answer from 192.0.2.1:1194".to_owned());
        let error = ConnectError::Timeout { stage: Stage::Wait, within: Duration::from_millis(1_500), last };
        let text = error.to_string();
        assert_eq!(
            text,
            "no tunnel within 1.5 s: the time was over before any server answered (no answer from 192.0.2.1:1194)"
        );
    }

    #[test]
    fn only_a_bad_packet_leaves_the_tunnel_standing() {
        assert!(TunnelError::Packet { length: 0 }.is_transient());
        assert!(!TunnelError::Closed.is_transient());
        assert_eq!(io::Error::from(TunnelError::Closed).kind(), io::ErrorKind::NotConnected);
    }
}
