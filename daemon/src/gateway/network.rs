//! An IPv4 or IPv6 network as a user writes it (`10.8.0.0/24`), and what a gateway derives from it.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A network: an address whose host bits are zero, and the prefix length in bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Network<A> {
    address: A,
    prefix: u8,
}

/// A family of addresses, as far as networks need it.
pub trait Family: Copy + fmt::Display + FromStr {
    /// The length of an address, in bits.
    const BITS: u8;
    /// The address as a number.
    fn number(self) -> u128;
    /// The address of a number; what does not fit is cut.
    fn from_number(number: u128) -> Self;
}

impl Family for Ipv4Addr {
    const BITS: u8 = 32;

    fn number(self) -> u128 {
        u32::from(self).into()
    }

    fn from_number(number: u128) -> Ipv4Addr {
        Ipv4Addr::from(u32::try_from(number & u128::from(u32::MAX)).unwrap_or_default())
    }
}

impl Family for Ipv6Addr {
    const BITS: u8 = 128;

    fn number(self) -> u128 {
        self.into()
    }

    fn from_number(number: u128) -> Ipv6Addr {
        number.into()
    }
}

/// What is wrong with a network.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadNetwork {
    /// Not of the form ADDRESS/PREFIX.
    #[error("a network is written as ADDRESS/PREFIX, like 10.8.0.0/24 or fd00:1234::/64")]
    Form,
    /// Bits behind the prefix.
    #[error("the address has bits behind its prefix; did you mean {0}?")]
    HostBits(String),
}

impl<A: Family> Network<A> {
    /// The network of this prefix length that an address lies in; lengths beyond the family's count as it.
    pub fn of(address: A, prefix: u8) -> Network<A> {
        let prefix = prefix.min(A::BITS);
        Network { address: A::from_number(address.number() & !host_mask(A::BITS, prefix)), prefix }
    }

    /// The network's address.
    pub fn address(self) -> A {
        self.address
    }

    /// The length of the prefix, in bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The addresses in it.
    pub fn size(self) -> u128 {
        host_mask(A::BITS, self.prefix).saturating_add(1)
    }

    /// The address so many after the network's own, which is the gateway's for 1.
    pub fn nth(self, number: u128) -> A {
        A::from_number(self.address.number() | (number & host_mask(A::BITS, self.prefix)))
    }

    /// Whether they share an address.
    pub fn overlaps(self, other: Network<A>) -> bool {
        let prefix = self.prefix.min(other.prefix);
        Network::of(self.address, prefix).address.number() == Network::of(other.address, prefix).address.number()
    }
}

impl Network<Ipv4Addr> {
    /// The netmask, as OpenVPN's directives want it.
    pub fn netmask(self) -> Ipv4Addr {
        Ipv4Addr::from_number(!host_mask(32, self.prefix))
    }
}

/// The bits behind a prefix.
fn host_mask(bits: u8, prefix: u8) -> u128 {
    match bits.saturating_sub(prefix) {
        0 => 0,
        host => u128::MAX >> (128 - u32::from(host.min(128))),
    }
}

impl<A: Family> FromStr for Network<A> {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Network<A>, BadNetwork> {
        let (address, prefix) = text.split_once('/').ok_or(BadNetwork::Form)?;
        let address: A = address.parse().map_err(|_| BadNetwork::Form)?;
        let prefix: u8 = prefix.parse().map_err(|_| BadNetwork::Form)?;
        if prefix > A::BITS {
            return Err(BadNetwork::Form);
        }
        let network = Network::of(address, prefix);
        if network.address.number() != address.number() {
            return Err(BadNetwork::HostBits(network.to_string()));
        }
        Ok(network)
    }
}

impl<A: Family> fmt::Display for Network<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl<A: Family> Serialize for Network<A> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de, A: Family> Deserialize<'de> for Network<A> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Network<A>, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A network of either family: what `--route` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(untagged)]
pub enum AnyNetwork {
    /// IPv4.
    V4(Network<Ipv4Addr>),
    /// IPv6.
    V6(Network<Ipv6Addr>),
}

impl FromStr for AnyNetwork {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<AnyNetwork, BadNetwork> {
        match text.split('/').next().and_then(|address| address.parse().ok()) {
            Some(IpAddr::V4(_)) => text.parse().map(AnyNetwork::V4),
            Some(IpAddr::V6(_)) => text.parse().map(AnyNetwork::V6),
            None => Err(BadNetwork::Form),
        }
    }
}

impl fmt::Display for AnyNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AnyNetwork::V4(network) => network.fmt(f),
            AnyNetwork::V6(network) => network.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(text: &str) -> Network<Ipv4Addr> {
        text.parse().unwrap()
    }

    #[test]
    fn a_network_is_an_address_and_a_prefix() {
        let pool = v4("10.8.0.0/24");
        assert_eq!(
            (pool.netmask().to_string(), pool.size(), pool.nth(1).to_string()),
            ("255.255.255.0".into(), 256, "10.8.0.1".into())
        );
        assert_eq!(pool.to_string(), "10.8.0.0/24");
        assert_eq!((v4("0.0.0.0/0").netmask(), v4("0.0.0.0/0").size()), (Ipv4Addr::UNSPECIFIED, 1 << 32));
        assert_eq!((v4("192.0.2.1/32").netmask(), v4("192.0.2.1/32").size()), (Ipv4Addr::BROADCAST, 1));
        let pool: Network<Ipv6Addr> = "fd00:1::/64".parse().unwrap();
        assert_eq!((pool.nth(1).to_string(), pool.size()), ("fd00:1::1".into(), 1 << 64));
    }

    #[test]
    fn what_is_no_network_is_refused_and_host_bits_are_named() {
        for bad in ["10.8.0.0", "10.8.0.0/33", "10.8.0/24", "10.8.0.0/-1", "fd00::/64", "x/8", "", "10.8.0.0/24/1"] {
            assert_eq!(bad.parse::<Network<Ipv4Addr>>(), Err(BadNetwork::Form), "{bad}");
        }
        let said = "10.8.0.1/24".parse::<Network<Ipv4Addr>>().unwrap_err().to_string();
        assert!(said.contains("10.8.0.0/24"), "{said}");
    }

    #[test]
    fn networks_overlap_where_one_holds_the_other() {
        assert!(v4("10.8.0.0/24").overlaps(v4("10.0.0.0/8")));
        assert!(v4("10.0.0.0/8").overlaps(v4("10.8.0.0/24")));
        assert!(!v4("10.8.0.0/24").overlaps(v4("10.8.1.0/24")));
        assert!(v4("0.0.0.0/0").overlaps(v4("10.8.1.0/24")));
    }

    #[test]
    fn either_family_is_told_by_the_address() {
        assert_eq!("10.0.0.0/8".parse(), Ok(AnyNetwork::V4(v4("10.0.0.0/8"))));
        assert_eq!("fd00::/8".parse::<AnyNetwork>().unwrap().to_string(), "fd00::/8");
        assert!("fd00::1/8".parse::<AnyNetwork>().is_err());
        let text = serde_json::to_string(&v4("10.0.0.0/8")).unwrap();
        assert_eq!(serde_json::from_str::<AnyNetwork>(&text).unwrap(), AnyNetwork::V4(v4("10.0.0.0/8")));
        assert!(serde_json::from_str::<AnyNetwork>("\"10.0.0.1/8\"").is_err());
    }
}
