//! A gateway on its host: its TUN interface with addresses and routes, its firewall table and forwarding, in the order in which they
//! are safe, and their undo as one. The device itself is opened by the data plane, one queue for each worker.

use std::net::{IpAddr, Ipv6Addr};

use super::change::Change;
use super::journal::Journal;
use super::link::{self, Address, IPV6_MIN_MTU, LinkState};
use super::nat::{self, Nat};
use super::plan::{Ipv4Link, Ipv4Setting, Plan};
use super::routes::{Route, full_length, network_of};
use super::{Applied, Host, HostError, Interface, forwarding};

/// What a gateway wants of its host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySettings {
    /// The TUN interface.
    pub interface: Interface,
    /// `tun-mtu`, in bytes.
    pub mtu: u32,
    /// `txqueuelen`, in packets; `None` leaves it.
    pub tx_queue_len: Option<u32>,
    /// The longest super-packet that the interface hands us, in bytes; `None` leaves it.
    pub gso_max_size: Option<u32>,
    /// The gateway's own address: with `topology subnet` the prefix of the pool, with `net30` and `p2p` the peer.
    pub ipv4: Option<Ipv4Setting>,
    /// The gateway's own IPv6 address and its prefix length in bits.
    pub ipv6: Option<(Ipv6Addr, u8)>,
    /// `route` and `route-ipv6`: networks behind clients, and with `net30` the pool.
    pub routes: Vec<GatewayRoute>,
    /// The firewall table; `None`: none.
    pub nat: Option<Nat>,
    /// Whether to switch forwarding on, of each family that the gateway has addresses of.
    pub forwarding: bool,
}

/// A kernel route of a gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GatewayRoute {
    /// The destination; host bits are cleared.
    pub dest: IpAddr,
    /// Its length, in bits.
    pub prefix: u8,
    /// A router; `None`: into the tunnel.
    pub gateway: Option<IpAddr>,
    /// Its metric; `None` is the kernel's default.
    pub metric: Option<u32>,
}

/// A gateway that stands on its host.
#[derive(Debug)]
pub struct Raised {
    /// What to undo.
    pub applied: Applied,
    /// What is not as it was wanted, a sentence each: the gateway serves nevertheless.
    pub notes: Vec<String>,
}

/// Sets everything up. The firewall stands before the first packet can pass, and forwarding is switched on last.
///
/// # Errors
/// [`HostError`] naming the change that failed; what was changed before it is undone. Forwarding that cannot be switched on is a
/// note.
pub async fn raise(host: &Host, settings: &GatewaySettings, journal: &mut Journal) -> Result<Raised, HostError> {
    let plan = plan(settings, link::ipv6_enabled(&settings.interface.name));
    let mut applied = host.apply(&plan, journal).await?;
    let mut notes = plan.notes;
    if settings.forwarding {
        let ipv6 = plan.changes.iter().any(|change| matches!(change, Change::Address(own) if own.local.is_ipv6()));
        let failures = forwarding::enable(host, settings.ipv4.is_some(), ipv6, &mut applied, journal).await;
        notes.extend(failures.iter().map(ToString::to_string));
    }
    Ok(Raised { applied, notes })
}

/// The firewall table for a gateway whose pools are these, with what the host says of its way into the IPv6 Internet.
///
/// # Errors
/// [`HostError::Query`] when the kernel refuses to list its routes; the name of the gateway, as [`HostError::BadName`].
pub async fn nat_for(
    host: &Host,
    name: &str,
    tunnel: &Interface,
    pools: &[(IpAddr, u8)],
    client_to_client: bool,
) -> Result<Nat, HostError> {
    let uplink = host.default_route(super::routes::Family::V6, Some(tunnel)).await?.is_some();
    Nat::for_gateway(name, &tunnel.name, pools, uplink, client_to_client).map_err(HostError::BadName)
}

/// What somebody else's firewall may drop, as sentences; [`nat::foreign_drops`] says which chains.
pub fn foreign_drops(tunnel: &str, protocol: &str, port: u16) -> Vec<String> {
    match nat::foreign_drops() {
        Ok(drops) => drops.iter().map(|drop| drop.sentence(tunnel, protocol, port)).collect(),
        Err(error) => vec![format!("whether another firewall drops clients' packets could not be found out: {error}")],
    }
}

/// Decides, without touching the host: firewall, link, addresses, routes.
pub fn plan(settings: &GatewaySettings, ipv6_enabled: bool) -> Plan {
    let mut plan = Plan::default();
    let ipv6 = usable_ipv6(settings, ipv6_enabled, &mut plan.notes);
    plan.changes.extend(settings.nat.clone().map(Change::Nat));
    let interface = settings.interface.clone();
    plan.changes.push(Change::Link(LinkState {
        interface,
        mtu: settings.mtu,
        tx_queue_len: settings.tx_queue_len,
        gso_max_size: settings.gso_max_size,
    }));
    plan.changes.extend(settings.ipv4.map(|ipv4| ipv4_address(settings, ipv4)));
    plan.changes.extend(settings.ipv6.filter(|_| ipv6).map(|(local, prefix)| ipv6_address(settings, local, prefix)));
    let mut routes: Vec<Route> = Vec::new();
    for wish in settings.routes.iter().filter(|wish| ipv6 || wish.dest.is_ipv4()) {
        let route = route(settings, *wish);
        if !routes.contains(&route) {
            routes.push(route);
        }
    }
    plan.changes.extend(routes.into_iter().map(Change::Route));
    plan
}

fn usable_ipv6(settings: &GatewaySettings, enabled: bool, notes: &mut Vec<String>) -> bool {
    let wanted = settings.ipv6.is_some() || settings.routes.iter().any(|wish| wish.dest.is_ipv6());
    if !wanted {
        return false;
    }
    if !enabled {
        notes.push(format!(
            "IPv6 is switched off on {0}: its IPv6 addresses and routes are left out. To have them: sysctl -w \
             net.ipv6.conf.{0}.disable_ipv6=0; in a container, start it with --sysctl net.ipv6.conf.default.disable_ipv6=0",
            settings.interface
        ));
    } else if settings.mtu < IPV6_MIN_MTU {
        notes.push(format!(
            "tun-mtu {} is below {IPV6_MIN_MTU}, the least that IPv6 needs: IPv6 addresses and routes are left out",
            settings.mtu
        ));
    }
    enabled && settings.mtu >= IPV6_MIN_MTU
}

fn ipv4_address(settings: &GatewaySettings, ipv4: Ipv4Setting) -> Change {
    let (prefix, peer) = match ipv4.link {
        Ipv4Link::Prefix(prefix) => (prefix.min(32), None),
        Ipv4Link::Peer(peer) => (32, Some(peer.into())),
    };
    Change::Address(Address { interface: settings.interface.clone(), local: ipv4.local.into(), prefix, peer })
}

fn ipv6_address(settings: &GatewaySettings, local: Ipv6Addr, prefix: u8) -> Change {
    let (local, prefix) = (local.into(), prefix.min(128));
    Change::Address(Address { interface: settings.interface.clone(), local, prefix, peer: None })
}

/// Into the tunnel a route needs no next hop: the device has no addresses of its own to find.
fn route(settings: &GatewaySettings, wish: GatewayRoute) -> Route {
    let prefix = wish.prefix.min(full_length(wish.dest));
    Route {
        dest: network_of(wish.dest, prefix),
        prefix,
        gateway: wish.gateway,
        interface: wish.gateway.is_none().then(|| settings.interface.clone()),
        metric: wish.metric,
        first: false,
    }
}
