//! Routes through rtnetlink: add and remove our own, and ask where packets go today. Ours carry their own protocol
//! number, so that they can be told from everybody else's and listed: `ip route show proto 183`.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures_util::StreamExt;
use rtnetlink::packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType, RouteVia,
};
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use super::change::Outcome;
use super::link::gone_is_fine;
use super::{Host, HostError, Interface, io_error, is_errno};

/// The protocol number of our routes (`rtm_protocol`; linux/rtnetlink.h leaves numbers that it does not name to
/// daemons). Put `183 minivpn` into /etc/iproute2/rt_protos.d/minivpn.conf to see the name.
pub const PROTOCOL: u8 = 0xb7;

/// An address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A route of ours in the main table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// The destination; its host bits are zero.
    pub dest: IpAddr,
    /// Its length, in bits.
    pub prefix: u8,
    /// The next hop; `None`: on the link itself.
    pub gateway: Option<IpAddr>,
    /// The interface; `None`: the kernel finds it by the gateway.
    pub interface: Option<Interface>,
    /// The metric, lower wins; `None` is the kernel's default (0 for IPv4, 1024 for IPv6).
    pub metric: Option<u32>,
    /// Stand before an existing route of the same destination and metric (IPv4), instead of giving way to it.
    pub first: bool,
}

impl Route {
    /// The route to one host by the way given.
    pub fn to_host(host: IpAddr, by: &NextHop) -> Self {
        Self {
            dest: host,
            prefix: full_length(host),
            gateway: by.gateway,
            interface: Some(by.interface.clone()),
            metric: None,
            first: false,
        }
    }

    /// Whether this route is for exactly this host.
    pub fn is_to_host(&self, host: IpAddr) -> bool {
        self.dest == host && self.prefix == full_length(host)
    }

    /// Whether an address falls into this route.
    pub fn covers(&self, address: IpAddr) -> bool {
        contains(self.dest, self.prefix, address)
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route {}/{}", self.dest, self.prefix)?;
        if let Some(gateway) = self.gateway {
            write!(f, " via {gateway}")?;
        }
        if let Some(interface) = &self.interface {
            write!(f, " dev {interface}")?;
        }
        match self.metric {
            Some(metric) => write!(f, " metric {metric}"),
            None => Ok(()),
        }
    }
}

/// Where packets leave the host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NextHop {
    /// The router; `None` when the destination is on the link itself (or is this host).
    pub gateway: Option<IpAddr>,
    /// The interface.
    pub interface: Interface,
    /// The metric of the route; 0 where the kernel does not say.
    pub metric: u32,
}

/// The prefix length of a single host, in bits.
pub const fn full_length(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

/// Whether an address falls into a network. A prefix that is too long contains nothing.
pub fn contains(network: IpAddr, prefix: u8, address: IpAddr) -> bool {
    match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => {
            prefix <= 32 && mask_v4(network, prefix) == mask_v4(address, prefix)
        }
        (IpAddr::V6(network), IpAddr::V6(address)) => {
            prefix <= 128 && mask_v6(network, prefix) == mask_v6(address, prefix)
        }
        _ => false,
    }
}

/// The network that an address is in: the address with its host bits cleared. Prefixes beyond the family's length
/// count as that length.
pub fn network_of(address: IpAddr, prefix: u8) -> IpAddr {
    match address {
        IpAddr::V4(address) => mask_v4(address, prefix).into(),
        IpAddr::V6(address) => mask_v6(address, prefix).into(),
    }
}

fn mask_v4(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let host_bits = 32_u32.saturating_sub(u32::from(prefix));
    let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
    Ipv4Addr::from_bits(address.to_bits() & mask)
}

fn mask_v6(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let host_bits = 128_u32.saturating_sub(u32::from(prefix));
    let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
    Ipv6Addr::from_bits(address.to_bits() & mask)
}

impl Host {
    /// The default route of a family in the main table with the lowest metric, ours and those over `except` left out.
    ///
    /// # Errors
    /// [`HostError::Query`] when the kernel refuses the dump.
    pub async fn default_route(
        &self,
        family: Family,
        except: Option<&Interface>,
    ) -> Result<Option<NextHop>, HostError> {
        let routes = self.dump(family).await.map_err(|source| HostError::Query { what: "the routes", source })?;
        let except = except.map(|interface| interface.index);
        let best = routes
            .iter()
            .filter(|route| is_foreign_default(route))
            .filter_map(hop_of)
            .filter(|hop| Some(hop.index) != except)
            .min_by_key(|hop| hop.metric);
        self.named(best).await
    }

    /// How packets to this address leave the host now; `None` when they do not.
    ///
    /// # Errors
    /// [`HostError::Query`] when the kernel refuses the question.
    pub async fn route_to(&self, address: IpAddr) -> Result<Option<NextHop>, HostError> {
        let mut message = RouteMessage::default();
        message.header.address_family = family_of(address);
        message.header.destination_prefix_length = full_length(address);
        message.attributes.push(RouteAttribute::Destination(address.into()));
        let mut answers = self.netlink.route().get(message).execute();
        let hop = match answers.next().await {
            Some(Ok(route)) if matches!(route.header.kind, RouteType::Unicast | RouteType::Local) => hop_of(&route),
            Some(Ok(_)) => None, // blackhole, unreachable, prohibit
            Some(Err(error)) => match io_error(error) {
                error if is_errno(&error, UNREACHABLE) => None,
                source => return Err(HostError::Query { what: "the route to the server", source }),
            },
            None => None,
        };
        self.named(hop).await
    }

    /// Our routes (protocol [`PROTOCOL`]) in the main table, as `(destination, prefix)`.
    ///
    /// # Errors
    /// [`HostError::Query`] when the kernel refuses the dump.
    pub async fn own_routes(&self, family: Family) -> Result<Vec<(IpAddr, u8)>, HostError> {
        let routes = self.dump(family).await.map_err(|source| HostError::Query { what: "the routes", source })?;
        let ours = routes.iter().filter(|route| route.header.protocol == RouteProtocol::from(PROTOCOL));
        Ok(ours.map(|route| (destination_of(route, family), route.header.destination_prefix_length)).collect())
    }

    pub(crate) async fn add_route(&self, route: &Route) -> io::Result<Outcome> {
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewRoute(route_message(route)));
        // Without EXCL the kernel puts an IPv4 route before its equals (what `ip route prepend` does).
        let exclusive = if route.first && route.dest.is_ipv4() { 0 } else { NLM_F_EXCL };
        message.header.flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | exclusive;
        match self.ask(message).await {
            Ok(()) => Ok(Outcome::Made),
            Err(error) if is_errno(&error, &[libc::EEXIST]) => match self.leads_the_same_way(route).await? {
                true => Ok(Outcome::AlreadyThere),
                false => Ok(Outcome::Contradicted),
            },
            Err(error) => Err(error),
        }
    }

    /// Whether the route that exists in the place of this one has the same next hop.
    async fn leads_the_same_way(&self, route: &Route) -> io::Result<bool> {
        let family = if route.dest.is_ipv4() { Family::V4 } else { Family::V6 };
        let same_place = |there: &&RouteMessage| {
            there.header.destination_prefix_length == route.prefix && destination_of(there, family) == route.dest
        };
        let same_way = |hop: Hop| {
            hop.gateway == route.gateway
                && route.interface.as_ref().is_none_or(|interface| interface.index == hop.index)
        };
        let routes = self.dump(family).await?;
        Ok(routes.iter().filter(same_place).filter_map(hop_of).any(same_way))
    }

    pub(crate) async fn delete_route(&self, route: &Route) -> io::Result<()> {
        if let Some(interface) = &route.interface
            && !self.is_still(interface).await?
        {
            return Ok(()); // the kernel removed it with its interface
        }
        gone_is_fine(self.netlink.route().del(route_message(route)).execute().await)
    }

    async fn ask(&self, message: NetlinkMessage<RouteNetlinkMessage>) -> io::Result<()> {
        let mut answers = self.netlink.clone().request(message).map_err(io_error)?;
        while let Some(answer) = answers.next().await {
            if let NetlinkPayload::Error(error) = answer.payload
                && error.code.is_some()
            {
                return Err(error.to_io());
            }
        }
        Ok(())
    }

    async fn dump(&self, family: Family) -> io::Result<Vec<RouteMessage>> {
        let mut message = RouteMessage::default();
        message.header.address_family = match family {
            Family::V4 => AddressFamily::Inet,
            Family::V6 => AddressFamily::Inet6,
        };
        let mut answers = self.netlink.route().get(message).execute();
        let mut routes = Vec::new();
        while let Some(answer) = answers.next().await {
            routes.push(answer.map_err(io_error)?);
        }
        // The dump lists every table; the local table's entries and policy tables are not where we work.
        routes.retain(|route| route.header.table == RouteHeader::RT_TABLE_MAIN);
        Ok(routes)
    }

    async fn named(&self, hop: Option<Hop>) -> Result<Option<NextHop>, HostError> {
        let Some(hop) = hop else { return Ok(None) };
        let interface = self
            .interface_at(hop.index)
            .await
            .map_err(|source| HostError::Query { what: "the interface of a route", source })?;
        Ok(interface.map(|interface| NextHop { gateway: hop.gateway, interface, metric: hop.metric }))
    }
}

const UNREACHABLE: &[i32] =
    &[libc::ENETUNREACH, libc::EHOSTUNREACH, libc::ESRCH, libc::EACCES, libc::EINVAL, libc::EAFNOSUPPORT];

/// A next hop as the kernel says it.
struct Hop {
    gateway: Option<IpAddr>,
    index: u32,
    metric: u32,
}

fn is_foreign_default(route: &RouteMessage) -> bool {
    route.header.destination_prefix_length == 0
        && route.header.kind == RouteType::Unicast
        && route.header.protocol != RouteProtocol::from(PROTOCOL)
}

/// The next hop of a route, the first one of several.
fn hop_of(route: &RouteMessage) -> Option<Hop> {
    let mut hop = Hop { gateway: None, index: 0, metric: 0 };
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(metric) => hop.metric = *metric,
            RouteAttribute::MultiPath(several) => {
                let Some(first) = several.first() else { continue };
                hop.index = first.interface_index;
                hop.gateway = first.attributes.iter().find_map(gateway_of);
            }
            RouteAttribute::Oif(index) => hop.index = *index,
            other => hop.gateway = gateway_of(other).or(hop.gateway),
        }
    }
    (hop.index != 0).then_some(hop)
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip_of(address),
        RouteAttribute::Via(RouteVia::Inet(address)) => Some((*address).into()),
        RouteAttribute::Via(RouteVia::Inet6(address)) => Some((*address).into()),
        _ => None,
    }
}

fn ip_of(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(address) => Some((*address).into()),
        RouteAddress::Inet6(address) => Some((*address).into()),
        _ => None,
    }
}

fn destination_of(route: &RouteMessage, family: Family) -> IpAddr {
    let given = route.attributes.iter().find_map(|attribute| match attribute {
        RouteAttribute::Destination(address) => ip_of(address),
        _ => None,
    });
    given.unwrap_or(match family {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    })
}

fn family_of(address: IpAddr) -> AddressFamily {
    if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_message(route: &Route) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family_of(route.dest);
    message.header.destination_prefix_length = route.prefix;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::from(PROTOCOL);
    message.header.kind = RouteType::Unicast;
    // An IPv4 route without a gateway must say that its hosts are on the link (rtnetlink(7)).
    let on_link = route.gateway.is_none() && route.dest.is_ipv4();
    message.header.scope = if on_link { RouteScope::Link } else { RouteScope::Universe };
    if route.prefix > 0 {
        message.attributes.push(RouteAttribute::Destination(route.dest.into()));
    }
    match (route.dest, route.gateway) {
        (_, None) => {}
        (IpAddr::V4(_), Some(IpAddr::V6(gateway))) => {
            message.attributes.push(RouteAttribute::Via(RouteVia::Inet6(gateway)));
        }
        (_, Some(gateway)) => message.attributes.push(RouteAttribute::Gateway(gateway.into())),
    }
    if let Some(interface) = &route.interface {
        message.attributes.push(RouteAttribute::Oif(interface.index));
    }
    if let Some(metric) = route.metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    message
}

/// The device of the default route, by /proc/net/route (IPv4 first; the least metric), for whoever asks before there is a netlink
/// socket.
pub fn default_device() -> Option<String> {
    let read = |file| std::fs::read_to_string(file).unwrap_or_default();
    default_device_v4(&read("/proc/net/route")).or_else(|| default_device_v6(&read("/proc/net/ipv6_route")))
}

/// Iface Destination Gateway Flags RefCnt Use Metric Mask …
fn default_device_v4(table: &str) -> Option<String> {
    let routes = table.lines().skip(1).filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [device, "00000000", _, _, _, _, metric, "00000000", ..] => {
                Some((metric.parse::<u32>().ok()?, device.to_owned()))
            }
            _ => None,
        }
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, device)| device)
}

/// Destination, its length, source, its length, next hop, metric, reference count, use count, flags, device.
fn default_device_v6(table: &str) -> Option<String> {
    let routes = table.lines().filter_map(|line| {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            // The kernel's own "unreachable" default stands on lo.
            [dest, "00", _, _, _, metric, _, _, _, device] if device != "lo" && dest.bytes().all(|b| b == b'0') => {
                Some((u32::from_str_radix(metric, 16).ok()?, device.to_owned()))
            }
            _ => None,
        }
    });
    routes.min_by_key(|(metric, _)| *metric).map(|(_, device)| device)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_of_the_default_route_is_the_one_of_least_metric() {
        let table = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
            wlan0\t00000000\t0101A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0\n\
            eth1\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
            tun9\t00000000\t0100080A\t0003\t0\t0\t0\t00000080\t0\t0\t0\n";
        assert_eq!(default_device_v4(table).as_deref(), Some("eth1"), "half of the addresses is no default");
        assert_eq!(default_device_v4("Iface\n"), None);
        let zero = "00000000000000000000000000000000";
        let line = |metric: &str, len: &str, device: &str| {
            format!(
                "{zero} {len} {zero} 00 fe800000000000000000000000000001 {metric} 00000001 00000000 00000003     {device}\n"
            )
        };
        let table =
            [line("ffffffff", "00", "lo"), line("00000400", "00", "eth2"), line("00000001", "40", "eth3")].concat();
        assert_eq!(default_device_v6(&table).as_deref(), Some("eth2"));
        assert_eq!(default_device_v6(&line("ffffffff", "00", "lo")), None);
    }

    #[test]
    fn an_address_falls_into_networks_of_its_family_only() {
        let cases = [
            ("10.8.0.0", 24, "10.8.0.255", true),
            ("10.8.0.0", 24, "10.8.1.0", false),
            ("0.0.0.0", 0, "255.1.2.3", true),
            ("0.0.0.0", 1, "127.255.255.255", true),
            ("0.0.0.0", 1, "128.0.0.0", false),
            ("10.8.0.1", 32, "10.8.0.1", true),
            ("10.8.0.1", 32, "10.8.0.2", false),
            ("10.8.0.1", 33, "10.8.0.1", false),
            ("2000::", 4, "2001:db8::1", true),
            ("2000::", 4, "3001:db8::1", false),
            ("::", 0, "fe80::1", true),
            ("::", 0, "10.0.0.1", false),
            ("fc00::1", 128, "fc00::1", true),
            ("fc00::1", 129, "fc00::1", false),
        ];
        for (network, prefix, address, expected) in cases {
            let answer = contains(network.parse().unwrap(), prefix, address.parse().unwrap());
            assert_eq!(answer, expected, "{address} in {network}/{prefix}");
        }
    }

    #[test]
    fn host_bits_are_cleared() {
        assert_eq!(network_of("10.8.3.7".parse().unwrap(), 22), "10.8.0.0".parse::<IpAddr>().unwrap());
        assert_eq!(network_of("10.8.3.7".parse().unwrap(), 0), "0.0.0.0".parse::<IpAddr>().unwrap());
        assert_eq!(network_of("10.8.3.7".parse().unwrap(), 200), "10.8.3.7".parse::<IpAddr>().unwrap());
        assert_eq!(network_of("2001:db8::ff".parse().unwrap(), 120), "2001:db8::".parse::<IpAddr>().unwrap());
    }
}
