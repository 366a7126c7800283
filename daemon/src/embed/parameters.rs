//! What a tunnel is like, as the server and we have settled it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use controlplane::Established;

use crate::config::tunnel::{Gateway, Ipv4Setup, RouteTarget, TunnelSettings};

/// What was settled when the tunnel came up.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Parameters {
    /// Our IPv4 address inside the tunnel, if there is one (`ifconfig`).
    pub ipv4: Option<Inner4>,
    /// Our IPv6 address inside the tunnel, if there is one (`ifconfig-ipv6`).
    pub ipv6: Option<Inner6>,
    /// The longest packet that the tunnel carries, in bytes (`tun-mtu`). A longer one is answered by an ICMP message that
    /// [`recv`](crate::Tunnel::recv) gives out.
    pub mtu: u16,
    /// Name servers that the server recommends (`dhcp-option DNS`, `dns server`), in its order.
    pub dns: Vec<IpAddr>,
    /// Networks that the server wants reached through the tunnel (`route`, `route-ipv6`). Nothing enforces them here.
    pub routes: Vec<InnerRoute>,
    /// The server wants everything through the tunnel (`redirect-gateway`).
    pub redirect: bool,
    /// The server's transport address.
    pub remote: SocketAddr,
    /// Our transport address.
    pub local: SocketAddr,
    /// The number that the server gave us (`peer-id`); `None`: the old form of data packets.
    pub peer_id: Option<u32>,
    /// The data channel's cipher, as `data-ciphers` writes it.
    pub cipher: &'static str,
    /// TLS version and cipher suite of the control channel, for people.
    pub tls: String,
    /// The subject of the server's certificate, for people.
    pub server: String,
    /// From the first datagram to this server until the tunnel was up.
    pub handshake: Duration,
}

/// An IPv4 address inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner4 {
    /// Ours.
    pub address: Ipv4Addr,
    /// Its network's prefix length in bits; 32 where the tunnel is point to point.
    pub prefix: u8,
    /// The other end, or `route-gateway`, when either is known.
    pub gateway: Option<Ipv4Addr>,
}

/// An IPv6 address inside the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner6 {
    /// Ours.
    pub address: Ipv6Addr,
    /// Its network's prefix length in bits.
    pub prefix: u8,
}

/// A network behind the tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InnerRoute {
    /// Its first address.
    pub network: IpAddr,
    /// Its prefix length in bits.
    pub prefix: u8,
}

impl Parameters {
    pub(super) fn new(
        settings: &TunnelSettings,
        established: &Established,
        remote: SocketAddr,
        local: SocketAddr,
        handshake: Duration,
    ) -> Parameters {
        let gateway = settings.vpn_gateway();
        Parameters {
            // An `ifconfig` that makes no sense was left out with a warning.
            ipv4: settings.ipv4().ok().flatten().map(|setup| match setup {
                Ipv4Setup::Subnet { address, prefix } => Inner4 { address, prefix, gateway },
                Ipv4Setup::PointToPoint { local, .. } => Inner4 { address: local, prefix: 32, gateway },
            }),
            ipv6: settings.ifconfig_ipv6.map(|setup| Inner6 { address: setup.local, prefix: setup.prefix }),
            mtu: settings.tun_mtu,
            dns: settings.dns.iter().flat_map(|line| name_servers(line)).collect(),
            routes: routes(settings),
            redirect: settings.redirect.is_some_and(|redirect| redirect.default_route),
            remote,
            local,
            peer_id: established.peer_id,
            cipher: established.cipher.name(),
            tls: established.tls.clone(),
            server: established.peer_subject.clone(),
            handshake,
        }
    }

    /// What a new session must give again to go on in the place of this one.
    pub(super) fn fits(&self, other: &Parameters) -> bool {
        (self.ipv4, self.ipv6, self.mtu) == (other.ipv4, other.ipv6, other.mtu)
    }
}

fn routes(settings: &TunnelSettings) -> Vec<InnerRoute> {
    let v4 = settings.routes.iter().filter(|route| route.gateway != Gateway::Net).filter_map(|route| {
        let (network, prefix) = match route.target {
            RouteTarget::Net(network, prefix) => (network, prefix),
            RouteTarget::VpnGateway => (settings.vpn_gateway()?, 32),
            // Outside the tunnel.
            RouteTarget::RemoteHost | RouteTarget::NetGateway => return None,
        };
        Some(InnerRoute { network: network.into(), prefix })
    });
    let v6 = settings.routes_ipv6.iter().filter(|route| route.gateway != Gateway::Net);
    v4.chain(v6.map(|route| InnerRoute { network: route.network.into(), prefix: route.prefix })).collect()
}

/// Those of a line as it was pushed: `dhcp-option DNS 192.0.2.1`, `dhcp-option DNS6 …`, `dns server 0 address 192.0.2.1:53 …`.
fn name_servers(line: &str) -> Vec<IpAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        ["dhcp-option", kind, address] if kind.eq_ignore_ascii_case("dns") || kind.eq_ignore_ascii_case("dns6") => {
            address.parse().into_iter().collect()
        }
        ["dns", "server", _, "address", addresses @ ..] => addresses.iter().filter_map(|word| address(word)).collect(),
        _ => Vec::new(),
    }
}

/// `192.0.2.1`, `192.0.2.1:53`, `2001:db8::1`, `[2001:db8::1]`, `[2001:db8::1]:53`.
fn address(word: &str) -> Option<IpAddr> {
    let bare = word.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(word);
    bare.parse().ok().or_else(|| word.parse::<SocketAddr>().ok().map(|address| address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_are_found_in_both_forms_of_the_option() {
        let found = |line| name_servers(line).iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(found("dhcp-option DNS 192.0.2.1"), ["192.0.2.1"]);
        assert_eq!(found("dhcp-option DNS6 2001:db8::1"), ["2001:db8::1"]);
        assert_eq!(
            found("dns server 0 address 192.0.2.1:5353 [2001:db8::2]:53 [2001:db8::3]"),
            ["192.0.2.1", "2001:db8::2", "2001:db8::3"]
        );
        assert!(found("dhcp-option DOMAIN example.org").is_empty());
        assert!(found("dhcp-option DNS nonsense").is_empty());
        assert!(found("dns search-domains example.org").is_empty());
    }

    #[test]
    fn a_point_to_point_address_has_the_other_end_as_its_gateway() {
        let mut settings = TunnelSettings::default();
        settings.apply("ifconfig", &["10.8.0.6".into(), "10.8.0.5".into()]).unwrap();
        settings.apply("route", &["192.0.2.0".into(), "255.255.255.0".into()]).unwrap();
        settings.apply("route", &["198.51.100.0".into(), "255.255.255.0".into(), "net_gateway".into()]).unwrap();
        assert!(settings.ipv4().is_ok());
        assert_eq!(settings.vpn_gateway(), Some(Ipv4Addr::new(10, 8, 0, 5)));
        assert_eq!(routes(&settings), [InnerRoute { network: Ipv4Addr::new(192, 0, 2, 0).into(), prefix: 24 }]);
    }
}
