//! Settings of the tunnel that a profile may have and a server may push: addresses, routes, MTU, keepalive. The type, and how
//! one directive changes it. Knows neither files nor permission: who may say what is decided by `agree.rs` and `pushed.rs`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::values::{self, Trouble};

/// At most this many routes are kept, IPv4 and IPv6 together: a bound on what a server can make the host do.
pub const MAX_ROUTES: usize = 4_096;
/// At most this many lines about name servers are kept.
pub const MAX_DNS_LINES: usize = 64;
/// Largest MTU that may be pushed, in bytes (OpenVPN's `tun-mtu-max`); announced to the server as `IV_MTU`.
pub const MAX_PUSHED_MTU: u16 = 1_600;
/// Shortest prefix of a tunnel's own IPv4 network: the kernel routes all of it into the tunnel, whatever filters of routes say.
pub const MIN_IPV4_PREFIX: u8 = 8;
/// Shortest prefix of a tunnel's own IPv6 network, likewise.
pub const MIN_IPV6_PREFIX: u8 = 32;
/// Smallest MTU of a tunnel, in bytes.
pub const MIN_MTU: u16 = 100;

/// What the tunnel looks like to the host. Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// `topology`: how [`ifconfig`](Self::ifconfig) is to be read. 2.6's default for a client is `net30`.
    pub topology: Topology,
    /// `ifconfig`, raw; see [`ipv4`](Self::ipv4).
    pub ifconfig: Option<(Ipv4Addr, Ipv4Addr)>,
    /// `ifconfig-ipv6`
    pub ifconfig_ipv6: Option<Ipv6Setup>,
    /// `route`, at most [`MAX_ROUTES`] with the IPv6 ones.
    pub routes: Vec<Route>,
    /// `route-ipv6`
    pub routes_ipv6: Vec<RouteIpv6>,
    /// `redirect-gateway` and `redirect-private`; flags of several lines add up.
    pub redirect: Option<Redirect>,
    /// `route-gateway`: the default of `vpn_gateway`.
    pub route_gateway: Option<RouteGateway>,
    /// `route-metric`: of routes that have none.
    pub route_metric: Option<u32>,
    /// `tun-mtu` in bytes; default 1500.
    pub tun_mtu: u16,
    /// `ping n`: send a keepalive after n seconds without a packet sent; `None` is off.
    pub ping: Option<u32>,
    /// `ping-restart` and `ping-exit`; `None` is never.
    pub silence: Option<Silence>,
    /// `inactive`: exit after that long without traffic of people.
    pub inactive: Option<Inactive>,
    /// `session-timeout`: exit after that long.
    pub session_timeout: Option<u32>,
    /// `explicit-exit-notify` when pushed, `Some(0)` being off; the profile's own is in each remote.
    pub explicit_exit_notify: Option<u32>,
    /// `dhcp-option` and `dns` lines, as they were written; shown, not applied.
    pub dns: Vec<String>,
    /// `sndbuf` of the transport socket in bytes; `None` is 8 MiB. The profile's only: a pushed one meets a socket that is open.
    pub sndbuf: Option<u32>,
    /// `rcvbuf`, likewise
    pub rcvbuf: Option<u32>,
    /// `ifconfig-noexec`: leave the addresses to somebody else.
    pub ifconfig_noexec: bool,
    /// `route-noexec`: leave the routes to somebody else.
    pub route_noexec: bool,
}

impl Default for TunnelSettings {
    fn default() -> Self {
        TunnelSettings {
            topology: Topology::default(),
            ifconfig: None,
            ifconfig_ipv6: None,
            routes: Vec::new(),
            routes_ipv6: Vec::new(),
            redirect: None,
            route_gateway: None,
            route_metric: None,
            tun_mtu: 1_500,
            ping: None,
            silence: None,
            inactive: None,
            session_timeout: None,
            explicit_exit_notify: None,
            dns: Vec::new(),
            sndbuf: None,
            rcvbuf: None,
            ifconfig_noexec: false,
            route_noexec: false,
        }
    }
}

/// `topology`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Topology {
    /// `net30`: a /30 for each client, used as point to point
    #[default]
    Net30,
    /// `p2p`: point to point
    P2p,
    /// `subnet`: one subnet for all
    Subnet,
}

/// The tunnel's IPv4 address, by topology.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv4Setup {
    /// `topology subnet`
    Subnet {
        /// Our address.
        address: Ipv4Addr,
        /// Prefix length, 0..=32.
        prefix: u8,
    },
    /// `topology net30` and `p2p`
    PointToPoint {
        /// Our address.
        local: Ipv4Addr,
        /// The other end.
        peer: Ipv4Addr,
    },
}

impl Ipv4Setup {
    /// Our address.
    pub fn local(&self) -> Ipv4Addr {
        match self {
            Ipv4Setup::Subnet { address, .. } => *address,
            Ipv4Setup::PointToPoint { local, .. } => *local,
        }
    }
}

/// `ifconfig-ipv6 local/bits [remote]`, of which the remote plays no part on a TUN device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Setup {
    /// Our address.
    pub local: Ipv6Addr,
    /// Prefix length, 0..=128.
    pub prefix: u8,
}

/// Where a route goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// `vpn_gateway`, or nothing: through the tunnel.
    Vpn,
    /// `net_gateway`: through the default gateway that the host had before.
    Net,
    /// This address.
    Address(IpAddr),
}

/// `route-gateway`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteGateway {
    /// This address.
    Address(Ipv4Addr),
    /// `dhcp`: only meaningful on TAP; treated as unset.
    Dhcp,
}

/// What a `route` leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RouteTarget {
    /// A network: its first address and its prefix length. Host bits are zero.
    Net(Ipv4Addr, u8),
    /// `remote_host`: the server's own transport address
    RemoteHost,
    /// `vpn_gateway`: the tunnel's gateway, /32
    VpnGateway,
    /// `net_gateway`: the gateway that the host had before, /32
    NetGateway,
}

/// `route`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// What it leads to.
    pub target: RouteTarget,
    /// Through what.
    pub gateway: Gateway,
    /// Its metric; `None` takes `route-metric`.
    pub metric: Option<u32>,
}

/// `route-ipv6`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteIpv6 {
    /// First address of the network; host bits are zero.
    pub network: Ipv6Addr,
    /// Prefix length, 0..=128.
    pub prefix: u8,
    /// Through what.
    pub gateway: Gateway,
    /// Its metric; `None` takes `route-metric`.
    pub metric: Option<u32>,
}

/// Flags of `redirect-gateway` and `redirect-private`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redirect {
    /// `redirect-gateway`: the IPv4 default route goes into the tunnel, unless [`not_ipv4`](Self::not_ipv4).
    /// False for `redirect-private`, which only makes the exceptions.
    pub default_route: bool,
    /// `local`: the server is on a directly connected network, no host route to it is needed.
    pub local: bool,
    /// `autolocal`: find out whether `local` holds.
    pub autolocal: bool,
    /// `def1`: 0.0.0.0/1 and 128.0.0.0/1 instead of replacing the default route.
    pub def1: bool,
    /// `bypass-dhcp`
    pub bypass_dhcp: bool,
    /// `bypass-dns`
    pub bypass_dns: bool,
    /// `block-local`: keep the local network out of reach.
    pub block_local: bool,
    /// `ipv6`: ::/3, 2000::/4, 3000::/4 and fc00::/7 go into the tunnel too.
    pub ipv6: bool,
    /// `!ipv4`
    pub not_ipv4: bool,
}

/// What to do when nothing was heard from the peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Silence {
    /// `ping-restart n`: connect again after n seconds
    Restart(u32),
    /// `ping-exit n`: end after n seconds
    Exit(u32),
}

/// `inactive`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inactive {
    /// Exit after this long …
    pub seconds: u32,
    /// … with fewer bytes than this.
    pub bytes: u64,
}

impl TunnelSettings {
    /// Lays one directive over the settings. `Ok(false)`: it is none of ours. On an error nothing has changed.
    /// `args` has as many entries as the table allows for `name`.
    pub fn apply(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        Ok(self.apply_address(name, args)? || self.apply_route(name, args)? || self.apply_timer(name, args)?)
    }

    /// The tunnel's IPv4 address, read by the topology. `None` when there is no `ifconfig`.
    pub fn ipv4(&self) -> Result<Option<Ipv4Setup>, Trouble> {
        let Some((local, second)) = self.ifconfig else {
            return Ok(None);
        };
        if self.topology != Topology::Subnet {
            return Ok(Some(Ipv4Setup::PointToPoint { local, peer: second }));
        }
        let prefix = netmask_of_ifconfig(second)?;
        Ok(Some(Ipv4Setup::Subnet { address: local, prefix }))
    }

    /// What `vpn_gateway` stands for: `route-gateway`, or the other end of a point-to-point tunnel. `None` on a subnet without
    /// `route-gateway`: the interface itself.
    pub fn vpn_gateway(&self) -> Option<Ipv4Addr> {
        if let Some(RouteGateway::Address(gateway)) = self.route_gateway {
            return Some(gateway);
        }
        match self.ipv4() {
            Ok(Some(Ipv4Setup::PointToPoint { peer, .. })) => Some(peer),
            _ => None,
        }
    }

    fn apply_address(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("ifconfig", [local, second]) => self.ifconfig = Some((unicast(local)?, values::ipv4(second)?)),
            ("ifconfig-ipv6", [local, rest @ ..]) => self.ifconfig_ipv6 = Some(ipv6_setup(local, rest.first())?),
            ("topology", [kind]) => self.topology = topology(kind)?,
            ("tun-mtu", [mtu, ..]) => self.tun_mtu = values::number16(mtu, MIN_MTU..=u16::MAX, "bytes")?,
            ("dhcp-option" | "dns", _) => self.add_dns(name, args)?,
            ("ifconfig-noexec", _) => self.ifconfig_noexec = true,
            ("sndbuf", [bytes]) => self.sndbuf = buffer_size(bytes)?,
            ("rcvbuf", [bytes]) => self.rcvbuf = buffer_size(bytes)?,
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_route(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("route", [target, rest @ ..]) => {
                let route = route(target, rest)?;
                self.room_for_route()?;
                self.routes.push(route);
            }
            ("route-ipv6", [target, rest @ ..]) => {
                let route = route_ipv6(target, rest)?;
                self.room_for_route()?;
                self.routes_ipv6.push(route);
            }
            ("route-gateway", [gateway]) if gateway == "dhcp" => self.route_gateway = Some(RouteGateway::Dhcp),
            ("route-gateway", [gateway]) => self.route_gateway = Some(RouteGateway::Address(values::ipv4(gateway)?)),
            ("route-metric", [metric]) => self.route_metric = Some(route_metric(metric)?),
            ("route-noexec", _) => self.route_noexec = true,
            ("redirect-gateway", flags) => self.redirect = Some(redirect(self.redirect, true, flags)?),
            ("redirect-private", flags) => self.redirect = Some(redirect(self.redirect, false, flags)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn apply_timer(&mut self, name: &str, args: &[String]) -> Result<bool, Trouble> {
        match (name, args) {
            ("ping", [after]) => self.ping = positive(values::seconds(after)?),
            ("ping-restart", [after]) => self.silence = positive(values::seconds(after)?).map(Silence::Restart),
            ("ping-exit", [after]) => self.silence = positive(values::seconds(after)?).map(Silence::Exit),
            ("keepalive", [ping, restart]) => {
                let (ping, restart) = keepalive(ping, restart)?;
                self.ping = Some(ping);
                self.silence = Some(Silence::Restart(restart));
            }
            ("inactive", [after, bytes @ ..]) => self.inactive = inactive(after, bytes.first())?,
            ("session-timeout", [after]) => self.session_timeout = positive(values::seconds(after)?),
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn add_dns(&mut self, name: &str, args: &[String]) -> Result<(), Trouble> {
        if self.dns.len() >= MAX_DNS_LINES {
            return Err(Trouble::new(format!("more than {MAX_DNS_LINES} lines about name servers")));
        }
        self.dns.push(format!("{name} {}", args.join(" ")));
        Ok(())
    }

    fn room_for_route(&self) -> Result<(), Trouble> {
        if self.routes.len() + self.routes_ipv6.len() >= MAX_ROUTES {
            return Err(Trouble::new(format!("more than {MAX_ROUTES} routes")));
        }
        Ok(())
    }
}

/// 0 is off.
fn positive(value: u32) -> Option<u32> {
    Some(value).filter(|value| *value > 0)
}

pub(super) fn unicast(text: &str) -> Result<Ipv4Addr, Trouble> {
    let address = values::ipv4(text)?;
    if address.is_unspecified() || address.is_multicast() || address.is_broadcast() || address.is_loopback() {
        return Err(Trouble::new(format!("{address} cannot be a tunnel's address")));
    }
    Ok(address)
}

/// A netmask, refusing what is an address of a point-to-point tunnel.
fn netmask_of_ifconfig(mask: Ipv4Addr) -> Result<u8, Trouble> {
    let prefix = values::netmask(mask).map_err(|_| {
        Trouble::new(format!("topology subnet wants a netmask in ifconfig, and {mask} is none"))
            .instead("write `topology net30` (or `p2p`) if it is the peer's address")
    })?;
    if prefix < MIN_IPV4_PREFIX {
        return Err(Trouble::new(format!("a network of /{prefix} is too large for a tunnel"))
            .instead(format!("use one of /{MIN_IPV4_PREFIX} or smaller, and `route` for what is behind it")));
    }
    Ok(prefix)
}

fn topology(kind: &str) -> Result<Topology, Trouble> {
    match kind {
        "net30" => Ok(Topology::Net30),
        "p2p" => Ok(Topology::P2p),
        "subnet" => Ok(Topology::Subnet),
        _ => {
            Err(Trouble::new(format!("unknown topology {}", values::quoted(kind)))
                .instead("write net30, p2p or subnet"))
        }
    }
}

/// The second address may be missing (2.7 writes it so). It is checked and not kept: nothing is sent to it.
fn ipv6_setup(local: &str, peer: Option<&String>) -> Result<Ipv6Setup, Trouble> {
    let (local, prefix) = values::ipv6_with_bits(local)?;
    if local.is_unspecified() || local.is_multicast() || local.is_loopback() {
        return Err(Trouble::new(format!("{local} cannot be a tunnel's address")));
    }
    if prefix < MIN_IPV6_PREFIX {
        return Err(Trouble::new(format!("a network of /{prefix} is too large for a tunnel"))
            .instead(format!("use one of /{MIN_IPV6_PREFIX} or smaller, and `route-ipv6` for what is behind it")));
    }
    peer.map(|text| values::ipv6(text)).transpose()?;
    Ok(Ipv6Setup { local, prefix })
}

/// `sndbuf` and `rcvbuf`: at most 256 MiB; 0 is as if it were not written.
pub(super) fn buffer_size(bytes: &str) -> Result<Option<u32>, Trouble> {
    values::number32(bytes, 0..=1 << 28, "bytes").map(positive)
}

fn route_metric(text: &str) -> Result<u32, Trouble> {
    values::number32(text, 0..=u32::MAX, "")
}

/// `[netmask [gateway [metric]]]`, each of which may be `default`.
fn route(target: &str, rest: &[String]) -> Result<Route, Trouble> {
    let given = |index: usize| rest.get(index).map(String::as_str).filter(|text| *text != "default");
    let prefix = given(0).map(|mask| values::ipv4(mask).and_then(values::netmask)).transpose()?.unwrap_or(32);
    let gateway = given(1).map_or(Ok(Gateway::Vpn), |text| gateway(text, |text| values::ipv4(text).map(IpAddr::V4)))?;
    let metric = given(2).map(route_metric).transpose()?;
    Ok(Route { target: route_target(target, prefix)?, gateway, metric })
}

fn route_target(target: &str, prefix: u8) -> Result<RouteTarget, Trouble> {
    Ok(match target {
        "remote_host" => RouteTarget::RemoteHost,
        "vpn_gateway" => RouteTarget::VpnGateway,
        "net_gateway" => RouteTarget::NetGateway,
        _ => {
            let address =
                values::ipv4(target).map_err(|trouble| trouble.instead("routes by host name are not supported"))?;
            RouteTarget::Net(values::ipv4_network(address, prefix), prefix)
        }
    })
}

/// `[gateway [metric]]`
fn route_ipv6(target: &str, rest: &[String]) -> Result<RouteIpv6, Trouble> {
    let given = |index: usize| rest.get(index).map(String::as_str).filter(|text| *text != "default");
    let (address, prefix) = values::ipv6_with_bits(target)?;
    let gateway = given(0).map_or(Ok(Gateway::Vpn), |text| gateway(text, |text| values::ipv6(text).map(IpAddr::V6)))?;
    let metric = given(1).map(route_metric).transpose()?;
    Ok(RouteIpv6 { network: values::ipv6_network(address, prefix), prefix, gateway, metric })
}

fn gateway(text: &str, address: impl Fn(&str) -> Result<IpAddr, Trouble>) -> Result<Gateway, Trouble> {
    match text {
        "vpn_gateway" => Ok(Gateway::Vpn),
        "net_gateway" | "net_gateway_ipv6" => Ok(Gateway::Net),
        _ => address(text)
            .map(Gateway::Address)
            .map_err(|trouble| trouble.instead("write vpn_gateway, net_gateway or an address")),
    }
}

fn redirect(before: Option<Redirect>, default_route: bool, flags: &[String]) -> Result<Redirect, Trouble> {
    let mut redirect = before.unwrap_or_default();
    redirect.default_route |= default_route;
    for flag in flags {
        match flag.as_str() {
            "local" => redirect.local = true,
            "autolocal" => redirect.autolocal = true,
            "def1" => redirect.def1 = true,
            "bypass-dhcp" => redirect.bypass_dhcp = true,
            "bypass-dns" => redirect.bypass_dns = true,
            "block-local" => redirect.block_local = true,
            "ipv6" => redirect.ipv6 = true,
            "!ipv4" => redirect.not_ipv4 = true,
            _ => {
                return Err(Trouble::new(format!("unknown flag {}", values::quoted(flag))).instead(
                    "known are local, autolocal, def1, bypass-dhcp, bypass-dns, block-local, ipv6 and !ipv4",
                ));
            }
        }
    }
    Ok(redirect)
}

/// `keepalive`, as written: the peer must have time for two pings, else every lost one is an outage.
pub(super) fn keepalive(ping: &str, restart: &str) -> Result<(u32, u32), Trouble> {
    let (ping, restart) =
        (values::number32(ping, 1..=31_536_000, "seconds")?, values::number32(restart, 1..=31_536_000, "seconds")?);
    if restart / 2 < ping {
        return Err(Trouble::new(format!(
            "the second number of keepalive must be at least twice the first, and {restart} is not"
        ))
        .instead(format!("write `keepalive {ping} {}`", ping.saturating_mul(6))));
    }
    Ok((ping, restart))
}

fn inactive(after: &str, bytes: Option<&String>) -> Result<Option<Inactive>, Trouble> {
    let seconds = values::seconds(after)?;
    let bytes = bytes.map(|text| values::number(text, 0..=u64::MAX, "bytes")).transpose()?.unwrap_or(0);
    Ok(positive(seconds).map(|seconds| Inactive { seconds, bytes }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(lines: &[&str]) -> Result<TunnelSettings, Trouble> {
        let mut settings = TunnelSettings::default();
        for line in lines {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            assert!(settings.apply(&words[0], &words[1..])?, "{line} is not a tunnel setting");
        }
        Ok(settings)
    }

    #[test]
    fn ifconfig_is_read_by_the_topology_whichever_comes_first() {
        let subnet = Some(Ipv4Setup::Subnet { address: Ipv4Addr::new(10, 8, 0, 2), prefix: 24 });
        assert_eq!(with(&["ifconfig 10.8.0.2 255.255.255.0", "topology subnet"]).unwrap().ipv4(), Ok(subnet));
        let p2p = Some(Ipv4Setup::PointToPoint { local: Ipv4Addr::new(10, 8, 0, 6), peer: Ipv4Addr::new(10, 8, 0, 5) });
        assert_eq!(with(&["ifconfig 10.8.0.6 10.8.0.5"]).unwrap().ipv4(), Ok(p2p));
        assert!(with(&["ifconfig 10.8.0.6 10.8.0.5", "topology subnet"]).unwrap().ipv4().is_err());
        assert_eq!(TunnelSettings::default().ipv4(), Ok(None));
    }

    #[test]
    fn an_address_that_no_host_can_have_is_refused() {
        for wrong in ["0.0.0.0", "255.255.255.255", "224.0.0.1", "127.0.0.1", "fd00::1", "10.8.0"] {
            assert!(with(&[&format!("ifconfig {wrong} 255.255.255.0")]).is_err(), "{wrong}");
        }
        for wrong in ["::/64", "::1/64", "ff02::1/64", "fd00::1/129", "fd00::1/x", "10.0.0.1/24"] {
            assert!(with(&[&format!("ifconfig-ipv6 {wrong} fd00::2")]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn routes_have_defaults_for_mask_gateway_and_metric() {
        let settings = with(&[
            "route 10.1.2.3",
            "route 10.1.2.3 255.255.0.0 net_gateway 7",
            "route 10.1.0.0 default default 9",
            "route 10.1.0.0 255.255.0.0 10.8.0.1",
            "route remote_host 255.255.255.255 net_gateway",
            "route-ipv6 fd00:1::5/48",
            "route-ipv6 2000::/3 fd00::1 5",
        ])
        .unwrap();
        let net = |a, b, c, d, prefix| RouteTarget::Net(Ipv4Addr::new(a, b, c, d), prefix);
        let expected = [
            (net(10, 1, 2, 3, 32), Gateway::Vpn, None),
            (net(10, 1, 0, 0, 16), Gateway::Net, Some(7)),
            (net(10, 1, 0, 0, 32), Gateway::Vpn, Some(9)),
            (net(10, 1, 0, 0, 16), Gateway::Address("10.8.0.1".parse().unwrap()), None),
            (RouteTarget::RemoteHost, Gateway::Net, None),
        ];
        assert_eq!(settings.routes.iter().map(|r| (r.target, r.gateway, r.metric)).collect::<Vec<_>>(), expected);
        assert_eq!(settings.routes_ipv6[0].network, "fd00:1::".parse::<Ipv6Addr>().unwrap());
        assert_eq!((settings.routes_ipv6[1].prefix, settings.routes_ipv6[1].metric), (3, Some(5)));
    }

    #[test]
    fn a_route_that_makes_no_sense_is_refused() {
        for wrong in [
            "route example.com",
            "route 10.0.0.0 255.0.255.0",
            "route 10.0.0.0 255.0.0.0 fd00::1",
            "route 10.0.0.0 255.0.0.0 vpn_gateway -1",
            "route-ipv6 10.0.0.0/8",
            "route-ipv6 fd00::/64 10.0.0.1",
        ] {
            assert!(with(&[wrong]).is_err(), "{wrong}");
        }
    }

    #[test]
    fn there_is_a_bound_on_routes_and_name_servers() {
        let mut settings = TunnelSettings::default();
        let route = ["10.0.0.0".to_owned()];
        for _ in 0..MAX_ROUTES {
            assert_eq!(settings.apply("route", &route), Ok(true));
        }
        assert!(settings.apply("route", &route).is_err());
        assert!(settings.apply("route-ipv6", &["fd00::/64".to_owned()]).is_err());
        assert_eq!(settings.routes.len(), MAX_ROUTES);
        let dns = ["DNS".to_owned(), "10.8.0.1".to_owned()];
        for _ in 0..MAX_DNS_LINES {
            assert_eq!(settings.apply("dhcp-option", &dns), Ok(true));
        }
        assert!(settings.apply("dhcp-option", &dns).is_err());
    }

    #[test]
    fn flags_of_several_redirect_lines_add_up() {
        let redirect = with(&["redirect-gateway def1", "redirect-private ipv6 bypass-dhcp"]).unwrap().redirect.unwrap();
        assert!(redirect.default_route && redirect.def1 && redirect.ipv6 && redirect.bypass_dhcp && !redirect.not_ipv4);
        assert!(!with(&["redirect-private def1"]).unwrap().redirect.unwrap().default_route);
        assert!(with(&["redirect-gateway def2"]).is_err());
    }

    #[test]
    fn the_last_word_on_silence_wins_and_zero_is_never() {
        assert_eq!(with(&["ping-restart 60", "ping-exit 5"]).unwrap().silence, Some(Silence::Exit(5)));
        assert_eq!(with(&["keepalive 10 120"]).unwrap().silence, Some(Silence::Restart(120)));
        assert_eq!(with(&["keepalive 10 120", "ping-restart 0"]).unwrap().silence, None);
        assert_eq!(with(&["ping 0"]).unwrap().ping, None);
        assert!(with(&["keepalive 10 20"]).is_ok());
        assert!(with(&["keepalive 10 19"]).is_err());
    }

    #[test]
    fn the_gateway_of_the_tunnel_is_the_named_one_or_the_peer() {
        assert_eq!(with(&["ifconfig 10.8.0.6 10.8.0.5"]).unwrap().vpn_gateway(), Some(Ipv4Addr::new(10, 8, 0, 5)));
        let named = with(&["ifconfig 10.8.0.6 10.8.0.5", "route-gateway 10.8.0.9"]).unwrap();
        assert_eq!(named.vpn_gateway(), Some(Ipv4Addr::new(10, 8, 0, 9)));
        assert_eq!(with(&["ifconfig 10.8.0.6 255.255.255.0", "topology subnet"]).unwrap().vpn_gateway(), None);
    }
}
