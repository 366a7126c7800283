//! Why a tunnel is not, or no more: one form while it is being made and after it was up, and the two errors that come of it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use controlplane::Ending;

use super::error::{ConnectError, TunnelError};
use super::stage::Stage;

/// What ended a tunnel, or keeps it from being made.
#[derive(Debug)]
pub(super) enum Fault {
    /// `AUTH_FAILED`: the server's words, and the sentence.
    Auth(String, String),
    /// TLS, or a certificate.
    Tls(String),
    /// Nothing to agree on.
    Incompatible(String),
    /// Nobody answers.
    Unreachable(String),
    /// The time for connecting is over.
    Timeout(Stage, Duration, Option<String>),
    /// The server's wish, or its silence in the middle of something.
    Server(String),
    /// The server fell silent.
    Silent(String),
    /// A time of the profile is over.
    TimeOver(String),
    /// This host.
    System(io::Error),
}

impl Fault {
    /// What a session's ending comes to, with the sentence that was made of it.
    pub(super) fn of(ending: &Ending, sentence: String) -> Fault {
        match ending {
            Ending::AuthFailed { reason, .. } => Fault::Auth(reason.clone(), sentence),
            Ending::Tls(_) => Fault::Tls(sentence),
            Ending::Incompatible(_) => Fault::Incompatible(sentence),
            Ending::Internal(_) => Fault::System(io::Error::other(sentence)),
            _ => Fault::Server(sentence),
        }
    }

    /// Of a tunnel that was being made.
    pub(super) fn into_connect_error(self) -> ConnectError {
        match self {
            Fault::Auth(reason, sentence) => ConnectError::AuthFailed { reason, sentence },
            Fault::Tls(sentence) => ConnectError::Tls(sentence),
            Fault::Incompatible(sentence) => ConnectError::Incompatible(sentence),
            Fault::Unreachable(sentence) => ConnectError::Unreachable(sentence),
            Fault::Timeout(stage, within, last) => ConnectError::Timeout { stage, within, last },
            Fault::Server(sentence) | Fault::Silent(sentence) | Fault::TimeOver(sentence) => {
                ConnectError::Server(sentence)
            }
            Fault::System(error) => ConnectError::System(error),
        }
    }

    /// Of a tunnel that was up.
    pub(super) fn into_tunnel_error(self) -> TunnelError {
        match self {
            Fault::Auth(_, sentence) => TunnelError::AuthFailed(sentence),
            Fault::Tls(sentence) => TunnelError::Tls(sentence),
            Fault::Server(sentence) | Fault::Incompatible(sentence) => TunnelError::Server(sentence),
            Fault::Unreachable(sentence) | Fault::Silent(sentence) => TunnelError::Silent(sentence),
            Fault::Timeout(stage, within, last) => {
                TunnelError::Silent(ConnectError::Timeout { stage, within, last }.to_string())
            }
            Fault::TimeOver(sentence) => TunnelError::TimeOver(sentence),
            Fault::System(error) => TunnelError::System(Arc::new(error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use controlplane::Advance;

    use super::*;

    #[test]
    fn a_refusal_keeps_the_servers_words_and_is_no_timeout() {
        let (reason, advance) = ("no such user".to_owned(), Advance::Same);
        let ending = Ending::AuthFailed { reason, retry_after: None, session_token: false, advance };
        let error = Fault::of(&ending, "AUTH_FAILED".into()).into_connect_error();
        assert!(matches!(&error, ConnectError::AuthFailed { reason, .. } if reason == "no such user"), "{error:?}");
        let error = Fault::of(&ending, "AUTH_FAILED".into()).into_tunnel_error();
        assert!(matches!(error, TunnelError::AuthFailed(_)));
    }

    #[test]
    fn every_ending_is_blamed_on_somebody() {
        let blame = |ending: Ending| Fault::of(&ending, "x".into()).into_connect_error();
        assert!(matches!(blame(Ending::Tls("x".into())), ConnectError::Tls(_)));
        assert!(matches!(blame(Ending::Incompatible("x".into())), ConnectError::Incompatible(_)));
        assert!(matches!(blame(Ending::Halt("x".into())), ConnectError::Server(_)));
        assert!(matches!(blame(Ending::Internal("x".into())), ConnectError::System(_)));
        assert!(matches!(Fault::Silent("x".into()).into_tunnel_error(), TunnelError::Silent(_)));
    }
}
