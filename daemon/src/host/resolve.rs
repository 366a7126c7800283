//! Names to addresses: a remote's host and port to the socket addresses to try, in the resolver's order.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use crate::config::agreed::Family;

/// The most addresses of one name that are tried. Names with more exist (large pools); trying them all would take longer
/// than anybody waits.
pub const MAX_ADDRESSES: usize = 32;

/// Which addresses are wanted (`proto udp4`, `udp6`, or either).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FamilyHint {
    /// Either.
    #[default]
    Any,
    /// IPv4 only.
    V4,
    /// IPv6 only.
    V6,
}

impl From<Family> for FamilyHint {
    fn from(family: Family) -> FamilyHint {
        match family {
            Family::Any => FamilyHint::Any,
            Family::V4 => FamilyHint::V4,
            Family::V6 => FamilyHint::V6,
        }
    }
}

impl FamilyHint {
    fn wants(self, address: IpAddr) -> bool {
        match self {
            FamilyHint::Any => true,
            FamilyHint::V4 => address.is_ipv4(),
            FamilyHint::V6 => address.is_ipv6(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            FamilyHint::Any => "IP",
            FamilyHint::V4 => "IPv4",
            FamilyHint::V6 => "IPv6",
        }
    }
}

/// Why a remote has no address.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    /// The resolver said no.
    #[error("cannot resolve {host}: {source}")]
    Failed {
        /// The name.
        host: String,
        /// The resolver's answer.
        #[source]
        source: io::Error,
    },
    /// The resolver said nothing.
    #[error("cannot resolve {host}: no answer within {} s", within.as_secs())]
    TimedOut {
        /// The name.
        host: String,
        /// How long was waited.
        within: Duration,
    },
    /// There are addresses, of the other family.
    #[error("{host} has no {family} address")]
    WrongFamily {
        /// The name.
        host: String,
        /// The family that was asked for.
        family: &'static str,
    },
}

/// Resolves. A literal address (IPv6 also in brackets or with a scope, `fe80::1%eth0`) needs no resolver. At most
/// [`MAX_ADDRESSES`] addresses, without duplicates.
///
/// The system's resolver blocks a thread of tokio's; after a time-out that thread ends with its own time-out.
///
/// # Errors
/// [`ResolveError`]
pub async fn resolve(
    host: &str,
    port: u16,
    family: FamilyHint,
    within: Duration,
) -> Result<Vec<SocketAddr>, ResolveError> {
    if let Some(literal) = literal(host, port, family) {
        return literal;
    }
    let bare = bare(host);
    match tokio::time::timeout(within, tokio::net::lookup_host((bare, port))).await {
        Ok(Ok(found)) => wanted(host, family, found),
        Ok(Err(source)) => Err(ResolveError::Failed { host: host.to_owned(), source }),
        Err(_) => Err(ResolveError::TimedOut { host: host.to_owned(), within }),
    }
}

/// [`resolve`] of a literal address; `None`: it is a name.
pub fn literal(host: &str, port: u16, family: FamilyHint) -> Option<Result<Vec<SocketAddr>, ResolveError>> {
    let literal = bare(host).parse::<IpAddr>().ok()?;
    Some(wanted(host, family, [SocketAddr::new(literal, port)].into_iter()))
}

/// [`resolve`] on the calling thread, for as long as the system's resolver takes.
///
/// # Errors
/// [`ResolveError`]
pub fn resolve_blocking(host: &str, port: u16, family: FamilyHint) -> Result<Vec<SocketAddr>, ResolveError> {
    match (bare(host), port).to_socket_addrs() {
        Ok(found) => wanted(host, family, found),
        Err(source) => Err(ResolveError::Failed { host: host.to_owned(), source }),
    }
}

/// Without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host)
}

fn wanted(
    host: &str,
    family: FamilyHint,
    found: impl Iterator<Item = SocketAddr>,
) -> Result<Vec<SocketAddr>, ResolveError> {
    let mut addresses: Vec<SocketAddr> = Vec::new();
    for address in found.filter(|address| family.wants(address.ip())) {
        if addresses.len() < MAX_ADDRESSES && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.is_empty() {
        return Err(ResolveError::WrongFamily { host: host.to_owned(), family: family.name() });
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn literals_need_no_resolver() {
        // A zero time-out: only a literal can be answered in it.
        for (host, family, expected) in [
            ("192.0.2.1", FamilyHint::Any, "192.0.2.1:1194"),
            ("192.0.2.1", FamilyHint::V4, "192.0.2.1:1194"),
            ("2001:db8::1", FamilyHint::V6, "[2001:db8::1]:1194"),
            ("[2001:db8::1]", FamilyHint::Any, "[2001:db8::1]:1194"),
        ] {
            let got = resolve(host, 1194, family, Duration::ZERO).await.unwrap();
            assert_eq!(got, [expected.parse().unwrap()]);
        }
    }

    #[tokio::test]
    async fn the_other_family_is_an_error_that_says_so() {
        let error = resolve("192.0.2.1", 1, FamilyHint::V6, LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "192.0.2.1 has no IPv6 address");
        let error = resolve("::1", 1, FamilyHint::V4, LONG).await.unwrap_err();
        assert_eq!(error.to_string(), "::1 has no IPv4 address");
    }

    #[tokio::test]
    async fn a_name_of_this_host_resolves() {
        let got = resolve("localhost", 53, FamilyHint::Any, LONG).await.unwrap();
        assert!(got.iter().all(|address| address.ip().is_loopback() && address.port() == 53));
    }

    #[tokio::test]
    async fn a_name_that_cannot_exist_fails() {
        let error = resolve("a..b", 53, FamilyHint::Any, LONG).await.unwrap_err();
        assert!(matches!(error, ResolveError::Failed { .. }), "{error}");
    }

    #[test]
    fn many_addresses_are_cut_and_doubles_dropped() {
        let many = (0..100_u16).map(|n| SocketAddr::new([10, 0, 0, 1].into(), n / 2));
        let got = wanted("pool", FamilyHint::Any, many).unwrap();
        assert_eq!(got.len(), MAX_ADDRESSES);
        assert_eq!(got[1].port(), 1);
    }
}
