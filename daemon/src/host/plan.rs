//! What a tunnel wants of its host, decided without touching it: from the agreed settings and the host's surroundings
//! to a list of changes, in the order in which they are to be made. Pure; every rule here has a row in the tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::Interface;
use super::change::Change;
use super::link::{Address, IPV6_MIN_MTU, LinkState};
use super::routes::{NextHop, Route, contains, full_length, network_of};

/// What the configuration and the server's push agreed on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelSettings {
    /// The tunnel interface.
    pub interface: Interface,
    /// `tun-mtu`, in bytes.
    pub mtu: u32,
    /// `txqueuelen`, in packets.
    pub tx_queue_len: Option<u32>,
    /// The longest super-packet that the interface hands us, in bytes; `None` leaves it.
    pub gso_max_size: Option<u32>,
    /// `ifconfig`
    pub ipv4: Option<Ipv4Setting>,
    /// `ifconfig-ipv6`: our address and its prefix length in bits.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// `route` and `route-ipv6`, in their order.
    pub routes: Vec<RouteWish>,
    /// `redirect-gateway` and `redirect-private`
    pub redirect: Option<RedirectFlags>,
    /// `route-gateway`: the way into the tunnel for IPv4 where no peer address says it.
    pub route_gateway: Option<Ipv4Addr>,
    /// `route-metric`: for routes that name none.
    pub route_metric: Option<u32>,
    /// The server's transport address, as connected.
    pub server: IpAddr,
}

/// `ifconfig`, after `topology` has said what its second word means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Setting {
    /// Our address.
    pub local: Ipv4Addr,
    /// What is on the link.
    pub link: Ipv4Link,
}

/// The two shapes of an IPv4 tunnel link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ipv4Link {
    /// `topology subnet`: a network of this prefix length in bits.
    Prefix(u8),
    /// `topology net30` and `p2p`: this peer.
    Peer(Ipv4Addr),
}

/// The prefix length of a netmask; `None` when its ones are not contiguous.
pub fn prefix_of(netmask: Ipv4Addr) -> Option<u8> {
    let ones = netmask.to_bits().leading_ones();
    let contiguous = netmask.to_bits().count_ones() == ones;
    contiguous.then(|| u8::try_from(ones).ok()).flatten()
}

/// A wanted route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouteWish {
    /// The destination; host bits are cleared by the plan.
    pub dest: IpAddr,
    /// Its length, in bits.
    pub prefix: u8,
    /// The way.
    pub gateway: Gateway,
    /// Its metric.
    pub metric: Option<u32>,
}

/// The gateway word of a route.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    /// `vpn_gateway`, `default` or nothing: into the tunnel.
    Vpn,
    /// `net_gateway`: where the default route went before.
    Net,
    /// An address.
    Ip(IpAddr),
}

/// The flags of `redirect-gateway` and `redirect-private`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RedirectFlags {
    /// `def1`: two halves instead of a default route.
    pub def1: bool,
    /// `local`: the server is on our own network, it needs no route of its own.
    pub local: bool,
    /// `autolocal`: find that out. The plan always does.
    pub autolocal: bool,
    /// `bypass-dhcp`: accepted; a route to the DHCP server is never needed, since it is on the link.
    pub bypass_dhcp: bool,
    /// `bypass-dns`: accepted and not done.
    pub bypass_dns: bool,
    /// `block-local`: accepted and not done; the plan says so.
    pub block_local: bool,
    /// `ipv6`: all of IPv6 too.
    pub ipv6: bool,
    /// `!ipv4`: not IPv4.
    pub not_ipv4: bool,
    /// `redirect-private`: the server's own route, but nothing redirected.
    pub private: bool,
}

/// What the plan needs to know of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// The IPv4 default route outside the tunnel.
    pub default_v4: Option<NextHop>,
    /// The IPv6 default route outside the tunnel.
    pub default_v6: Option<NextHop>,
    /// How the server is reached outside the tunnel.
    pub to_server: Option<NextHop>,
    /// Whether the tunnel interface may have IPv6.
    pub ipv6: bool,
}

/// The changes to make, in order, and what the user should know about what is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// In the order in which they are made.
    pub changes: Vec<Change>,
    /// One sentence each.
    pub notes: Vec<String>,
}

/// More notes on routes than this are only counted.
const MAX_ROUTE_NOTES: usize = 32;

/// With `def1`: two routes that win over any default route without replacing it.
const HALVES_V4: [(Ipv4Addr, u8); 2] = [(Ipv4Addr::UNSPECIFIED, 1), (Ipv4Addr::new(128, 0, 0, 0), 1)];

/// All IPv6 that may be routed: ::/3, 2000::/4, 3000::/4 and fc00::/7 (OpenVPN's `redirect-gateway ipv6`).
const PARTS_V6: [(Ipv6Addr, u8); 4] = [
    (Ipv6Addr::UNSPECIFIED, 3),
    (Ipv6Addr::new(0x2000, 0, 0, 0, 0, 0, 0, 0), 4),
    (Ipv6Addr::new(0x3000, 0, 0, 0, 0, 0, 0, 0), 4),
    (Ipv6Addr::new(0xfc00, 0, 0, 0, 0, 0, 0, 0), 7),
];

impl Plan {
    /// Decides. Order: link, addresses, the server's own route (before anything could take its packets into the
    /// tunnel), the redirect, the routes.
    pub fn make(settings: &TunnelSettings, around: &Surroundings) -> Self {
        let mut plan = Plan::default();
        let settings = &plan.without_server_address(settings);
        let ipv6 = plan.usable_ipv6(settings, around);
        plan.link(settings);
        plan.addresses(settings, ipv6);
        let mut routes = plan.redirect(settings, around, ipv6);
        routes.extend(plan.wishes(settings, around, ipv6));
        plan.changes.extend(plan_server_route(settings, around, &routes, &mut plan.notes).map(Change::Route));
        routes.dedup();
        plan.changes.extend(routes.into_iter().map(Change::Route));
        plan
    }

    /// The server's own route, when the plan has one.
    pub fn server_route(&self, server: IpAddr) -> Option<&Change> {
        self.changes.iter().find(|change| change.is_host_route(server))
    }

    /// A tunnel address that is the server's own would cut the way to it, also for the next attempt to connect.
    fn without_server_address(&mut self, settings: &TunnelSettings) -> TunnelSettings {
        let mut kept = settings.clone();
        let server = settings.server;
        kept.ipv4 = kept.ipv4.filter(|ipv4| server != ipv4.local && ipv4.link != peer_link(server));
        kept.ipv6 = kept.ipv6.filter(|(local, _)| server != *local);
        if (&kept.ipv4, &kept.ipv6) != (&settings.ipv4, &settings.ipv6) {
            self.notes.push(format!("the tunnel's address is left out: it is {server}, the server's own"));
        }
        kept
    }

    fn usable_ipv6(&mut self, settings: &TunnelSettings, around: &Surroundings) -> bool {
        let wanted = settings.ipv6.is_some()
            || settings.redirect.is_some_and(|flags| flags.ipv6)
            || settings.routes.iter().any(|wish| wish.dest.is_ipv6());
        if !wanted {
            return false;
        }
        if !around.ipv6 {
            self.notes.push(format!(
                "IPv6 is switched off on {0} (sysctl net.ipv6.conf.{0}.disable_ipv6): its IPv6 addresses and routes are left out",
                settings.interface
            ));
        } else if settings.mtu < IPV6_MIN_MTU {
            self.notes.push(format!(
                "tun-mtu {} is below {IPV6_MIN_MTU}, the least that IPv6 needs: IPv6 addresses and routes are left out",
                settings.mtu
            ));
        }
        around.ipv6 && settings.mtu >= IPV6_MIN_MTU
    }

    fn link(&mut self, settings: &TunnelSettings) {
        self.changes.push(Change::Link(LinkState {
            interface: settings.interface.clone(),
            mtu: settings.mtu,
            tx_queue_len: settings.tx_queue_len,
            gso_max_size: settings.gso_max_size,
        }));
    }

    fn addresses(&mut self, settings: &TunnelSettings, ipv6: bool) {
        let interface = &settings.interface;
        if let Some(ipv4) = settings.ipv4 {
            let (prefix, peer) = match ipv4.link {
                Ipv4Link::Prefix(prefix) => (prefix.min(32), None),
                Ipv4Link::Peer(peer) => (32, Some(peer.into())),
            };
            let local = ipv4.local.into();
            self.changes.push(Change::Address(Address { interface: interface.clone(), local, prefix, peer }));
        }
        if let Some((local, prefix)) = settings.ipv6
            && ipv6
        {
            let (local, prefix) = (local.into(), prefix.min(128));
            self.changes.push(Change::Address(Address { interface: interface.clone(), local, prefix, peer: None }));
        }
    }

    fn redirect(&mut self, settings: &TunnelSettings, around: &Surroundings, ipv6: bool) -> Vec<Route> {
        let Some(flags) = settings.redirect else { return Vec::new() };
        if flags.block_local {
            self.notes.push("redirect-gateway block-local is not done: the local network stays reachable".to_owned());
        }
        let mut routes = Vec::new();
        if flags.private {
            return routes;
        }
        if !flags.not_ipv4 {
            if settings.ipv4.is_none() {
                self.notes.push("redirect-gateway: no IPv4 address was given, IPv4 is not redirected".to_owned());
            } else if flags.def1 {
                routes.extend(
                    HALVES_V4.map(|(dest, prefix)| into_tunnel(settings, dest.into(), prefix, settings.route_metric)),
                );
            } else {
                routes.push(default_into_tunnel(settings, around.default_v4.as_ref()));
            }
        }
        if flags.ipv6 && ipv6 {
            routes.extend(
                PARTS_V6.map(|(dest, prefix)| into_tunnel(settings, dest.into(), prefix, settings.route_metric)),
            );
        }
        routes
    }

    fn wishes(&mut self, settings: &TunnelSettings, around: &Surroundings, ipv6: bool) -> Vec<Route> {
        let mut routes = Vec::new();
        let mut left_out = 0_usize;
        for wish in &settings.routes {
            if wish.dest.is_ipv6() && !ipv6 {
                continue; // said once already
            }
            match wished(settings, around, wish) {
                Ok(route) => routes.push(route),
                Err(why) => {
                    left_out += 1;
                    if left_out <= MAX_ROUTE_NOTES {
                        self.notes.push(format!("route {}/{} is left out: {why}", wish.dest, wish.prefix));
                    }
                }
            }
        }
        if left_out > MAX_ROUTE_NOTES {
            self.notes.push(format!("and {} routes more are left out", left_out - MAX_ROUTE_NOTES));
        }
        routes
    }
}

/// A route through the tunnel interface. The gateway is named where it is known to be on the tunnel's link.
fn into_tunnel(settings: &TunnelSettings, dest: IpAddr, prefix: u8, metric: Option<u32>) -> Route {
    let gateway = if dest.is_ipv4() { tunnel_gateway(settings).map(IpAddr::V4) } else { None };
    Route { dest, prefix, gateway, interface: Some(settings.interface.clone()), metric, first: false }
}

/// A default route that wins over the present one: a lower metric where there is room, in front of it where not.
fn default_into_tunnel(settings: &TunnelSettings, present: Option<&NextHop>) -> Route {
    let mut route = into_tunnel(settings, Ipv4Addr::UNSPECIFIED.into(), 0, None);
    route.first = present.is_some_and(|hop| hop.metric == 0);
    route
}

fn tunnel_gateway(settings: &TunnelSettings) -> Option<Ipv4Addr> {
    let ipv4 = settings.ipv4?;
    let gateway = match ipv4.link {
        Ipv4Link::Peer(peer) => settings.route_gateway.unwrap_or(peer),
        Ipv4Link::Prefix(_) => settings.route_gateway?,
    };
    (on_tunnel_link(settings, gateway.into()) && gateway != ipv4.local).then_some(gateway)
}

fn on_tunnel_link(settings: &TunnelSettings, address: IpAddr) -> bool {
    let in_v4 = settings.ipv4.is_some_and(|ipv4| match ipv4.link {
        Ipv4Link::Prefix(prefix) => contains(ipv4.local.into(), prefix, address),
        Ipv4Link::Peer(peer) => address == IpAddr::V4(peer),
    });
    in_v4 || settings.ipv6.is_some_and(|(local, prefix)| contains(local.into(), prefix, address))
}

fn wished(settings: &TunnelSettings, around: &Surroundings, wish: &RouteWish) -> Result<Route, String> {
    if wish.prefix > full_length(wish.dest) {
        return Err(format!("/{} is longer than an address", wish.prefix));
    }
    let dest = network_of(wish.dest, wish.prefix);
    // Packets to the server that went into the tunnel would come out of it as packets to the server, for ever.
    if dest == settings.server && wish.prefix == full_length(dest) && wish.gateway != Gateway::Net {
        return Err("it leads to the server itself".to_owned());
    }
    let metric = wish.metric.or(settings.route_metric);
    let plain = |gateway, interface| Route { dest, prefix: wish.prefix, gateway, interface, metric, first: false };
    match wish.gateway {
        Gateway::Vpn => {
            let addressed = if dest.is_ipv4() { settings.ipv4.is_some() } else { settings.ipv6.is_some() };
            if !addressed {
                return Err("the tunnel has no address of its family".to_owned());
            }
            Ok(into_tunnel(settings, dest, wish.prefix, metric))
        }
        Gateway::Net => {
            let present = if dest.is_ipv4() { &around.default_v4 } else { &around.default_v6 };
            let hop = present.as_ref().ok_or("net_gateway is asked for, and this host has no default route")?;
            Ok(plain(hop.gateway, Some(hop.interface.clone())))
        }
        Gateway::Ip(gateway) if gateway.is_ipv4() != dest.is_ipv4() => {
            Err(format!("its gateway {gateway} is of the other family"))
        }
        // Some servers name the client's own address: what is meant is the tunnel.
        Gateway::Ip(gateway) if is_own(settings, gateway) => Ok(plain(None, Some(settings.interface.clone()))),
        Gateway::Ip(gateway) if on_tunnel_link(settings, gateway) => {
            Ok(plain(Some(gateway), Some(settings.interface.clone())))
        }
        Gateway::Ip(gateway) => Ok(plain(Some(gateway), None)),
    }
}

/// The link whose peer is this address; of IPv6 there is none.
fn peer_link(address: IpAddr) -> Ipv4Link {
    match address {
        IpAddr::V4(address) => Ipv4Link::Peer(address),
        // No tunnel has the peer 0.0.0.0.
        IpAddr::V6(_) => Ipv4Link::Peer(Ipv4Addr::UNSPECIFIED),
    }
}

fn is_own(settings: &TunnelSettings, address: IpAddr) -> bool {
    settings.ipv4.is_some_and(|ipv4| IpAddr::V4(ipv4.local) == address)
        || settings.ipv6.is_some_and(|(local, _)| IpAddr::V6(local) == address)
}

/// The server's own route by the old way, when one of our routes (or the tunnel's network) would swallow its packets.
fn plan_server_route(
    settings: &TunnelSettings,
    around: &Surroundings,
    routes: &[Route],
    notes: &mut Vec<String>,
) -> Option<Route> {
    let server = settings.server;
    let into_tunnel = |route: &&Route| route.interface.as_ref() == Some(&settings.interface);
    let swallowing = |route: &&Route| into_tunnel(route) && route.covers(server);
    let swallowed = routes.iter().any(|route| swallowing(&route)) || on_tunnel_link(settings, server);
    // Networks of links are smaller than this: what is larger does not win over them.
    let large = if server.is_ipv4() { 8 } else { 16 };
    let wins_over_link =
        routes.iter().any(|route| swallowing(&route) && route.prefix > large) || on_tunnel_link(settings, server);
    let asked = settings.redirect.is_some_and(|flags| flags.private);
    let local = settings.redirect.is_some_and(|flags| flags.local);
    if local || !(swallowed || asked) {
        return None;
    }
    match &around.to_server {
        Some(hop) if hop.gateway.is_some() || wins_over_link => Some(Route::to_host(server, hop)),
        Some(_) => None, // on a link of ours, which is more specific than what swallows it
        None => {
            notes.push(format!("the way to the server {server} is unknown, it gets no route of its own"));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn v4(text: &str) -> Ipv4Addr {
        text.parse().unwrap()
    }

    fn tun() -> Interface {
        Interface { name: "tun0".to_owned(), index: 7 }
    }

    fn eth() -> Interface {
        Interface { name: "eth0".to_owned(), index: 2 }
    }

    fn settings() -> TunnelSettings {
        TunnelSettings {
            interface: tun(),
            mtu: 1500,
            tx_queue_len: None,
            gso_max_size: None,
            ipv4: Some(Ipv4Setting { local: v4("10.8.0.2"), link: Ipv4Link::Prefix(24) }),
            ipv6: None,
            routes: Vec::new(),
            redirect: None,
            route_gateway: Some(v4("10.8.0.1")),
            route_metric: None,
            server: ip("198.51.100.1"),
        }
    }

    fn hop(gateway: Option<&str>, metric: u32) -> NextHop {
        NextHop { gateway: gateway.map(ip), interface: eth(), metric }
    }

    fn around() -> Surroundings {
        Surroundings {
            default_v4: Some(hop(Some("192.0.2.1"), 100)),
            default_v6: Some(hop(Some("fe80::1"), 1024)),
            to_server: Some(hop(Some("192.0.2.1"), 0)),
            ipv6: true,
        }
    }

    fn lines(settings: &TunnelSettings, around: &Surroundings) -> Vec<String> {
        Plan::make(settings, around).changes.iter().skip(1).map(ToString::to_string).collect()
    }

    const ADDRESS: &str = "address 10.8.0.2/24 dev tun0";
    const TO_SERVER: &str = "route 198.51.100.1/32 via 192.0.2.1 dev eth0";

    #[test]
    fn a_plain_tunnel_gets_its_link_and_address() {
        let plan = Plan::make(&settings(), &around());
        let all: Vec<String> = plan.changes.iter().map(ToString::to_string).collect();
        assert_eq!(all, ["link tun0 up mtu 1500", ADDRESS]);
        assert!(plan.notes.is_empty());
    }

    #[test]
    fn a_point_to_point_tunnel_routes_by_its_peer() {
        let mut settings = settings();
        settings.ipv4 = Some(Ipv4Setting { local: v4("10.8.0.6"), link: Ipv4Link::Peer(v4("10.8.0.5")) });
        settings.route_gateway = None;
        settings.routes = vec![RouteWish { dest: ip("10.8.0.1"), prefix: 32, gateway: Gateway::Vpn, metric: None }];
        assert_eq!(
            lines(&settings, &around()),
            ["address 10.8.0.6 peer 10.8.0.5 dev tun0", "route 10.8.0.1/32 via 10.8.0.5 dev tun0"]
        );
    }

    #[test]
    fn redirect_gateway_flags() {
        let def1 = RedirectFlags { def1: true, ..RedirectFlags::default() };
        let halves = ["route 0.0.0.0/1 via 10.8.0.1 dev tun0", "route 128.0.0.0/1 via 10.8.0.1 dev tun0"];
        let whole = "route 0.0.0.0/0 via 10.8.0.1 dev tun0";
        let v6 =
            ["route ::/3 dev tun0", "route 2000::/4 dev tun0", "route 3000::/4 dev tun0", "route fc00::/7 dev tun0"];
        let cases: Vec<(&str, RedirectFlags, Vec<&str>)> = vec![
            ("def1", def1, vec![TO_SERVER, halves[0], halves[1]]),
            ("none", RedirectFlags::default(), vec![TO_SERVER, whole]),
            ("local", RedirectFlags { local: true, ..def1 }, vec![halves[0], halves[1]]),
            ("bypass-dhcp", RedirectFlags { bypass_dhcp: true, ..def1 }, vec![TO_SERVER, halves[0], halves[1]]),
            (
                "ipv6",
                RedirectFlags { ipv6: true, ..def1 },
                vec![TO_SERVER, halves[0], halves[1], v6[0], v6[1], v6[2], v6[3]],
            ),
            ("ipv6 !ipv4", RedirectFlags { ipv6: true, not_ipv4: true, ..def1 }, v6.to_vec()),
            ("private", RedirectFlags { private: true, ..RedirectFlags::default() }, vec![TO_SERVER]),
        ];
        for (name, flags, expected) in cases {
            let settings = TunnelSettings { redirect: Some(flags), ..settings() };
            let got = lines(&settings, &around());
            assert_eq!(got[0], ADDRESS, "{name}");
            assert_eq!(got[1..], expected, "{name}");
        }
    }

    #[test]
    fn a_server_on_our_own_link_needs_no_route() {
        let settings =
            TunnelSettings { redirect: Some(RedirectFlags { def1: true, ..RedirectFlags::default() }), ..settings() };
        let around = Surroundings { to_server: Some(hop(None, 0)), ..around() };
        assert!(Plan::make(&settings, &around).server_route(settings.server).is_none());
        assert!(Plan::make(&settings, &super::tests::around()).server_route(settings.server).is_some());
    }

    #[test]
    fn a_pushed_route_cannot_take_the_servers_packets_into_the_tunnel() {
        let wish = |dest: &str, prefix, gateway| RouteWish { dest: ip(dest), prefix, gateway, metric: Some(1) };
        for gateway in
            [Gateway::Vpn, Gateway::Ip(ip("10.8.0.9")), Gateway::Ip(ip("10.8.0.2")), Gateway::Ip(ip("192.0.2.9"))]
        {
            let settings = TunnelSettings { routes: vec![wish("198.51.100.1", 32, gateway)], ..settings() };
            let plan = Plan::make(&settings, &around());
            assert_eq!((plan.changes.len(), plan.notes.len()), (2, 1), "{gateway:?}");
        }
        let outside = TunnelSettings { routes: vec![wish("198.51.100.1", 32, Gateway::Net)], ..settings() };
        assert_eq!(lines(&outside, &around())[1], "route 198.51.100.1/32 via 192.0.2.1 dev eth0 metric 1");
        let neighbour = TunnelSettings { routes: vec![wish("198.51.100.2", 32, Gateway::Vpn)], ..settings() };
        assert_eq!(lines(&neighbour, &around()).len(), 2);
    }

    #[test]
    fn a_server_on_our_own_link_is_kept_there_against_routes_that_would_win() {
        let on_link = Surroundings { to_server: Some(hop(None, 0)), ..around() };
        let server_route = |prefix| {
            let wish = RouteWish { dest: ip("198.51.100.1"), prefix, gateway: Gateway::Vpn, metric: None };
            let settings = TunnelSettings { routes: vec![wish], ..settings() };
            Plan::make(&settings, &on_link).server_route(settings.server).map(ToString::to_string)
        };
        for prefix in [9, 24, 31] {
            assert_eq!(server_route(prefix).as_deref(), Some("route 198.51.100.1/32 dev eth0"), "/{prefix}");
        }
        assert_eq!(server_route(8), None);
        let inside = TunnelSettings {
            ipv4: Some(Ipv4Setting { local: v4("198.51.100.2"), link: Ipv4Link::Prefix(30) }),
            ..settings()
        };
        assert!(Plan::make(&inside, &on_link).server_route(inside.server).is_some());
    }

    #[test]
    fn the_servers_address_is_never_the_tunnels() {
        let peer = |local: &str, peer: &str| Some(Ipv4Setting { local: v4(local), link: Ipv4Link::Peer(v4(peer)) });
        for (ipv4, kept) in [
            (peer("10.8.0.6", "198.51.100.1"), false),
            (peer("198.51.100.1", "10.8.0.5"), false),
            (Some(Ipv4Setting { local: v4("198.51.100.1"), link: Ipv4Link::Prefix(24) }), false),
            (peer("10.8.0.6", "198.51.100.2"), true),
        ] {
            let plan = Plan::make(&TunnelSettings { ipv4, ..settings() }, &around());
            let addressed = plan.changes.iter().any(|change| matches!(change, Change::Address(_)));
            assert_eq!((addressed, plan.notes.is_empty()), (kept, kept), "{ipv4:?}");
        }
        let v6 = TunnelSettings {
            server: ip("2001:db8::1"),
            ipv6: Some(("2001:db8::1".parse().unwrap(), 64)),
            ..settings()
        };
        assert_eq!(lines(&v6, &around()), [ADDRESS]);
    }

    #[test]
    fn notes_on_thousands_of_routes_are_counted() {
        let wish = RouteWish { dest: ip("10.0.0.0"), prefix: 33, gateway: Gateway::Vpn, metric: None };
        let plan = |n| Plan::make(&TunnelSettings { routes: vec![wish; n], ..settings() }, &around());
        assert_eq!(plan(MAX_ROUTE_NOTES).notes.len(), MAX_ROUTE_NOTES);
        let many = plan(4_096).notes;
        assert_eq!(many.len(), MAX_ROUTE_NOTES + 1);
        assert_eq!(many.last().unwrap(), "and 4064 routes more are left out");
    }

    #[test]
    fn an_unknown_way_to_the_server_is_said() {
        let settings =
            TunnelSettings { redirect: Some(RedirectFlags { def1: true, ..RedirectFlags::default() }), ..settings() };
        let plan = Plan::make(&settings, &Surroundings { to_server: None, ..around() });
        assert_eq!(plan.notes.len(), 1);
        assert!(plan.notes[0].contains("198.51.100.1"));
    }

    #[test]
    fn a_default_route_without_metric_is_preceded_not_deleted() {
        let settings = TunnelSettings { redirect: Some(RedirectFlags::default()), ..settings() };
        for (metric, first) in [(0, true), (100, false)] {
            let around = Surroundings { default_v4: Some(hop(Some("192.0.2.1"), metric)), ..around() };
            let plan = Plan::make(&settings, &around);
            let Some(Change::Route(route)) = plan.changes.last() else { panic!("{plan:?}") };
            assert_eq!((route.prefix, route.first, route.metric), (0, first, None), "metric {metric}");
        }
    }

    #[test]
    fn a_pushed_route_over_the_server_gets_the_server_its_own_route() {
        let wish = RouteWish { dest: ip("198.51.100.7"), prefix: 24, gateway: Gateway::Vpn, metric: Some(9) };
        let near = TunnelSettings { routes: vec![wish], ..settings() };
        assert_eq!(
            lines(&near, &around()),
            [ADDRESS, TO_SERVER, "route 198.51.100.0/24 via 10.8.0.1 dev tun0 metric 9"]
        );
        let far = TunnelSettings { routes: vec![RouteWish { dest: ip("203.0.113.0"), ..wish }], ..settings() };
        assert_eq!(lines(&far, &around()), [ADDRESS, "route 203.0.113.0/24 via 10.8.0.1 dev tun0 metric 9"]);
    }

    #[test]
    fn routes_go_by_the_gateway_they_name() {
        let route = |dest: &str, prefix, gateway| RouteWish { dest: ip(dest), prefix, gateway, metric: None };
        let cases = [
            (route("10.1.0.0", 16, Gateway::Vpn), Some("route 10.1.0.0/16 via 10.8.0.1 dev tun0")),
            (route("10.1.0.0", 16, Gateway::Net), Some("route 10.1.0.0/16 via 192.0.2.1 dev eth0")),
            (route("10.1.0.0", 16, Gateway::Ip(ip("10.8.0.9"))), Some("route 10.1.0.0/16 via 10.8.0.9 dev tun0")),
            (route("10.1.0.0", 16, Gateway::Ip(ip("10.8.0.2"))), Some("route 10.1.0.0/16 dev tun0")),
            (route("10.1.0.0", 16, Gateway::Ip(ip("192.0.2.9"))), Some("route 10.1.0.0/16 via 192.0.2.9")),
            (route("10.1.0.0", 16, Gateway::Ip(ip("fe80::1"))), None),
            (route("10.1.2.3", 33, Gateway::Vpn), None),
            (route("2001:db8::", 32, Gateway::Vpn), Some("route 2001:db8::/32 dev tun0")),
            (route("2001:db8::", 32, Gateway::Net), Some("route 2001:db8::/32 via fe80::1 dev eth0")),
        ];
        for (wish, expected) in cases {
            let settings =
                TunnelSettings { routes: vec![wish], ipv6: Some(("fd00::2".parse().unwrap(), 64)), ..settings() };
            let plan = Plan::make(&settings, &around());
            let got = plan.changes.iter().skip(3).map(ToString::to_string).next();
            assert_eq!(got.as_deref(), expected, "{wish:?}");
            assert_eq!(plan.notes.len(), usize::from(expected.is_none()), "{wish:?}");
        }
    }

    #[test]
    fn net_gateway_without_a_default_route_is_left_out_and_said() {
        let wish = RouteWish { dest: ip("10.1.0.0"), prefix: 16, gateway: Gateway::Net, metric: None };
        let settings = TunnelSettings { routes: vec![wish], ..settings() };
        let plan = Plan::make(&settings, &Surroundings { default_v4: None, ..around() });
        assert_eq!(plan.changes.len(), 2);
        assert!(plan.notes[0].contains("no default route"));
    }

    #[test]
    fn ipv6_is_left_out_where_the_host_cannot() {
        let wish = RouteWish { dest: ip("2001:db8::"), prefix: 32, gateway: Gateway::Vpn, metric: None };
        let full = TunnelSettings { routes: vec![wish], ipv6: Some(("fd00::2".parse().unwrap(), 64)), ..settings() };
        assert_eq!(lines(&full, &around()).len(), 3);
        let off = Plan::make(&full, &Surroundings { ipv6: false, ..around() });
        assert_eq!((off.changes.len(), off.notes.len()), (2, 1));
        let small = Plan::make(&TunnelSettings { mtu: 1279, ..full.clone() }, &around());
        assert_eq!((small.changes.len(), small.notes.len()), (2, 1));
        let enough = Plan::make(&TunnelSettings { mtu: 1280, ..full }, &around());
        assert_eq!((enough.changes.len(), enough.notes.len()), (4, 0));
    }

    #[test]
    fn a_gateway_outside_the_tunnel_network_is_not_named() {
        let mut settings = settings();
        settings.routes = vec![RouteWish { dest: ip("10.1.0.0"), prefix: 16, gateway: Gateway::Vpn, metric: None }];
        for gateway in [Some(v4("172.16.0.1")), Some(v4("10.8.0.2")), None] {
            settings.route_gateway = gateway;
            assert_eq!(lines(&settings, &around())[1], "route 10.1.0.0/16 dev tun0");
        }
    }

    #[test]
    fn netmasks() {
        for (mask, prefix) in [
            ("255.255.255.0", Some(24)),
            ("0.0.0.0", Some(0)),
            ("255.255.255.255", Some(32)),
            ("255.0.255.0", None),
            ("0.0.0.255", None),
        ] {
            assert_eq!(prefix_of(v4(mask)), prefix, "{mask}");
        }
    }
}
