//! What lies beyond the tunnel: from a destination as a client names it to an open connection.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::connection::Connection;
use super::failure::Failure;
use super::names::Names;
use super::patience::Patience;
use super::stack::Stack;

/// Addresses of one name that are tried.
const ADDRESSES: usize = 8;

/// A destination as a client names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// By its address.
    Address(SocketAddr),
    /// By its name, and the port.
    Name(String, u16),
}

impl Target {
    /// From a host, which may be an address in text (an IPv6 one in brackets or not), and a port.
    pub(super) fn new(host: &str, port: u16) -> Target {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        match bare.parse::<IpAddr>() {
            Ok(address) => Target::Address(SocketAddr::new(address, port)),
            Err(_) => Target::Name(host.to_owned(), port),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Address(address) => write!(f, "{address}"),
            // What a client sends goes to a log line: nothing that moves a terminal's cursor.
            Target::Name(name, port) => write!(f, "{}:{port}", name.escape_default()),
        }
    }
}

/// One tunnel's stack and its names.
#[derive(Debug)]
pub(super) struct Network {
    /// TCP and UDP.
    pub stack: Arc<Stack>,
    names: Names,
    patience: Patience,
}

impl Network {
    /// Over this stack, with these name servers.
    pub(super) fn new(stack: Arc<Stack>, servers: &[IpAddr], patience: Patience) -> Network {
        let names = Names::new(&stack, servers, patience);
        Network { stack, names, patience }
    }

    /// A connection to the first address that answers.
    ///
    /// # Errors
    /// What the last address that was tried said.
    pub(super) async fn connect(&self, target: &Target) -> Result<Connection, Failure> {
        let all = async {
            let mut last = Failure::NoSuchName;
            for address in self.resolve(target).await?.into_iter().take(ADDRESSES) {
                match tokio::time::timeout(self.patience.address, Connection::open(&self.stack, address)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(failure @ (Failure::Full | Failure::TunnelDown))) => return Err(failure),
                    Ok(Err(failure)) => last = failure,
                    Err(_) => last = Failure::TimedOut,
                }
            }
            Err(last)
        };
        tokio::time::timeout(self.patience.connection, all).await.unwrap_or(Err(Failure::TimedOut))
    }

    /// The addresses of a destination, all of which may be used.
    ///
    /// # Errors
    /// Those of [`Names::addresses`]; [`Failure::NotAllowed`], [`Failure::NoSuchFamily`].
    pub(super) async fn resolve(&self, target: &Target) -> Result<Vec<SocketAddr>, Failure> {
        match target {
            Target::Address(address) => {
                // Programs with one socket for both families write IPv4 addresses as IPv6 ones (RFC 4291, section 2.5.5.2).
                let address = SocketAddr::new(address.ip().to_canonical(), address.port());
                self.judge(address)?;
                Ok(vec![address])
            }
            Target::Name(name, port) => {
                let found = self.names.addresses(name).await?;
                let found = found.into_iter().map(|address| SocketAddr::new(address.to_canonical(), *port));
                let (good, bad): (Vec<_>, Vec<_>) = found.partition(|address| self.judge(*address).is_ok());
                match bad.first() {
                    Some(bad) if good.is_empty() => self.judge(*bad).map(|()| good),
                    _ => Ok(good),
                }
            }
        }
    }

    fn judge(&self, address: SocketAddr) -> Result<(), Failure> {
        let ip = address.ip();
        let broadcast = matches!(ip, IpAddr::V4(ip) if ip.is_broadcast());
        if address.port() == 0 || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || broadcast {
            return Err(Failure::NotAllowed);
        }
        if self.stack.inner().reaches(ip) { Ok(()) } else { Err(Failure::NoSuchFamily) }
    }
}

#[cfg(test)]
mod tests {
    use super::super::stack::Inner;
    use super::*;

    fn network() -> Network {
        let inner = Inner { ipv4: Some(([10, 8, 0, 2].into(), 24)), ipv6: None, mtu: 1_500 };
        Network::new(Arc::new(Stack::new(inner)), &["fd08::1".parse().unwrap()], Patience::default())
    }

    #[test]
    fn a_host_in_text_is_an_address_where_it_looks_like_one() {
        let address = |text: &str| Target::Address(text.parse().unwrap());
        assert_eq!(Target::new("10.0.0.1", 80), address("10.0.0.1:80"));
        assert_eq!(Target::new("[fd00::1]", 443), address("[fd00::1]:443"));
        assert_eq!(Target::new("fd00::1", 443), address("[fd00::1]:443"));
        assert_eq!(Target::new("a.example", 80), Target::Name("a.example".into(), 80));
        assert_eq!(Target::new("a\n\u{1b}", 80).to_string(), "a\\n\\u{1b}:80");
    }

    #[tokio::test]
    async fn addresses_that_are_nobodys_beyond_the_tunnel_are_refused() {
        let network = network();
        for nobody in ["127.0.0.1:80", "0.0.0.0:80", "224.0.0.1:80", "255.255.255.255:80", "10.0.0.1:0", "[::1]:80"] {
            let target = Target::Address(nobody.parse().unwrap());
            assert_eq!(network.resolve(&target).await, Err(Failure::NotAllowed), "{nobody}");
        }
        let mapped = Target::Address("[::ffff:127.0.0.1]:80".parse().unwrap());
        assert_eq!(network.resolve(&mapped).await, Err(Failure::NotAllowed));
        let six = Target::Address("[fd00::1]:80".parse().unwrap());
        assert_eq!(network.resolve(&six).await, Err(Failure::NoSuchFamily));
        let four = Target::Address("10.0.0.1:80".parse().unwrap());
        assert!(network.resolve(&four).await.is_ok());
        let mapped = Target::Address("[::ffff:10.0.0.1]:80".parse().unwrap());
        assert_eq!(network.resolve(&mapped).await, network.resolve(&four).await);
    }

    #[tokio::test]
    async fn a_name_needs_a_server_that_the_tunnel_reaches() {
        let name = Target::Name("a.example".into(), 80);
        assert_eq!(network().resolve(&name).await, Err(Failure::NoNameServer));
    }
}
