//! Why something could not be reached through the tunnel, and how that is said in SOCKS5, in HTTP and to a person.

use fast_socks5::ReplyError;

/// Why a connection through the tunnel did not come about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The other side answered with a reset.
    #[error("the connection was refused")]
    Refused,
    /// Nobody answered in time.
    #[error("nobody answered in time")]
    TimedOut,
    /// A router said that the host cannot be reached.
    #[error("the host cannot be reached")]
    HostUnreachable,
    /// A router said that the network cannot be reached.
    #[error("the network cannot be reached")]
    NetworkUnreachable,
    /// A router, or the host, said that the way is closed by its administrator.
    #[error("the way to the host is closed by an administrator")]
    Prohibited,
    /// The tunnel has no address of this family.
    #[error("the tunnel has no address of the destination's family (IPv4 or IPv6)")]
    NoSuchFamily,
    /// An address that is nobody's beyond a tunnel: loopback, multicast, unspecified; or port 0.
    #[error("the address is none that lies beyond the tunnel")]
    NotAllowed,
    /// The name has no address.
    #[error("the name has no address")]
    NoSuchName,
    /// The name servers did not answer.
    #[error("the name servers did not answer")]
    NoAnswer,
    /// The name servers answered that they do not know.
    #[error("the name servers cannot say (SERVFAIL, REFUSED)")]
    NoVerdict,
    /// There is no name server to ask.
    #[error("there is no name server in the tunnel: the server pushed none; name one with --dns")]
    NoNameServer,
    /// As many connections as are permitted.
    #[error("too many connections at once")]
    Full,
    /// The tunnel is being connected again.
    #[error("the tunnel is down: its server is away, and is being connected to again")]
    TunnelDown,
}

impl Failure {
    /// The reply field of SOCKS5 (RFC 1928, section 6). It knows no time-out; "TTL expired" is what others use for it.
    pub(super) fn socks(self) -> ReplyError {
        match self {
            Failure::Refused => ReplyError::ConnectionRefused,
            Failure::TimedOut => ReplyError::TtlExpired,
            Failure::HostUnreachable
            | Failure::NoSuchName
            | Failure::NoAnswer
            | Failure::NoVerdict
            | Failure::NoNameServer => ReplyError::HostUnreachable,
            Failure::NetworkUnreachable | Failure::NoSuchFamily | Failure::TunnelDown => ReplyError::NetworkUnreachable,
            Failure::Prohibited | Failure::NotAllowed => ReplyError::ConnectionNotAllowed,
            Failure::Full => ReplyError::GeneralFailure,
        }
    }

    /// The status of an HTTP answer (RFC 9110, section 15) with its reason phrase.
    pub(super) fn http(self) -> (u16, &'static str) {
        match self {
            Failure::TimedOut | Failure::NoAnswer => (504, "Gateway Timeout"),
            Failure::Prohibited | Failure::NotAllowed => (403, "Forbidden"),
            Failure::Full | Failure::TunnelDown => (503, "Service Unavailable"),
            Failure::Refused
            | Failure::HostUnreachable
            | Failure::NetworkUnreachable
            | Failure::NoSuchFamily
            | Failure::NoSuchName
            | Failure::NoVerdict
            | Failure::NoNameServer => (502, "Bad Gateway"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_code() {
        let codes = [
            (Failure::Refused, 5, 502),
            (Failure::TimedOut, 6, 504),
            (Failure::HostUnreachable, 4, 502),
            (Failure::NetworkUnreachable, 3, 502),
            (Failure::Prohibited, 2, 403),
            (Failure::NoSuchFamily, 3, 502),
            (Failure::NotAllowed, 2, 403),
            (Failure::NoSuchName, 4, 502),
            (Failure::NoAnswer, 4, 504),
            (Failure::NoVerdict, 4, 502),
            (Failure::NoNameServer, 4, 502),
            (Failure::Full, 1, 503),
            (Failure::TunnelDown, 3, 503),
        ];
        for (failure, socks, http) in codes {
            assert_eq!((failure.socks().as_u8(), failure.http().0), (socks, http), "{failure:?}");
        }
    }
}
