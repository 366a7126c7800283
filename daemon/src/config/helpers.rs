//! What the helper directives of a server stand for: `server`, `server-ipv6` and `keepalive`, expanded as OpenVPN 2.6 expands them
//! (its manual, "Server Mode"). Pure: addresses in, addresses and options out.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::server::{KernelRoute, Pool4, Pool6};
use super::tunnel::{MIN_IPV4_PREFIX, Topology};
use super::values::{self, Trouble};

/// What `server` stands for, besides `mode server` and `tls-server`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Expanded {
    /// `ifconfig` and `ifconfig-pool`
    pub(super) pool: Pool4,
    /// `route`
    pub(super) route: Option<KernelRoute>,
    /// `push`
    pub(super) push: Vec<String>,
}

/// `server network netmask [nopool]`
pub(super) fn server(
    topology: Topology,
    network: Ipv4Addr,
    prefix: u8,
    nopool: bool,
    client_to_client: bool,
) -> Result<Expanded, Trouble> {
    let longest = if topology == Topology::Subnet { 30 } else { 29 };
    if !(MIN_IPV4_PREFIX..=longest).contains(&prefix) {
        return Err(Trouble::new(format!("a network of /{prefix} is not between /{MIN_IPV4_PREFIX} and /{longest}"))
            .instead("write it like `server 10.8.0.0 255.255.255.0`"));
    }
    let netmask = netmask_of(prefix);
    let at = |offset: u32| Ipv4Addr::from(u32::from(network).saturating_add(offset));
    let last = u32::from(network) | !u32::from(netmask);
    let (peer, start, end) = match topology {
        Topology::Subnet => (None, at(2), last.saturating_sub(1)),
        // The last block stays free, unless there is no other.
        Topology::Net30 | Topology::P2p => (Some(at(2)), at(4), last.saturating_sub(if prefix == 29 { 0 } else { 4 })),
    };
    let pool = Pool4 {
        network,
        prefix,
        netmask,
        local: at(1),
        peer,
        pool_start: start,
        pool_end: end.into(),
        dynamic: !nopool,
    };
    let mut push = Vec::new();
    match topology {
        Topology::Subnet => push.push(format!("route-gateway {}", at(1))),
        _ if client_to_client => push.push(format!("route {network} {netmask}")),
        Topology::Net30 => push.push(format!("route {}", at(1))),
        Topology::P2p => {}
    }
    push.push(format!("topology {}", name_of(topology)));
    let route = KernelRoute { network: network.into(), prefix, metric: None };
    Ok(Expanded { pool, route: Some(route).filter(|_| topology != Topology::Subnet), push })
}

/// `server-ipv6 network/bits`
pub(super) fn server_ipv6(network: Ipv6Addr, prefix: u8) -> Result<Pool6, Trouble> {
    if !(64..=124).contains(&prefix) {
        return Err(Trouble::new(format!("a network of /{prefix} is not between /64 and /124"))
            .instead("write it like `server-ipv6 fd00:1234::/64`"));
    }
    if values::ipv6_network(network, prefix) != network {
        return Err(Trouble::new(format!("{network} is not the first address of a network of /{prefix}"))
            .instead(format!("write {}/{prefix}", values::ipv6_network(network, prefix))));
    }
    let at = |offset: u128| Ipv6Addr::from(u128::from(network).saturating_add(offset));
    let base = at(if prefix < 112 { 0x1000 } else { 2 });
    Ok(Pool6 { local: at(1), prefix, base, pool_prefix: prefix, dynamic: true })
}

/// `keepalive a b`: the server's own side, and what is pushed.
pub(super) fn keepalive(ping: u32, restart: u32) -> ((u32, u32), [String; 2]) {
    // Clients notice first: what they try again finds a server that still waits for them.
    ((ping, restart.saturating_mul(2)), [format!("ping {ping}"), format!("ping-restart {restart}")])
}

/// The mask of a prefix length.
pub(super) fn netmask_of(prefix: u8) -> Ipv4Addr {
    values::ipv4_network(Ipv4Addr::BROADCAST, prefix)
}

/// The name of a topology.
pub(super) const fn name_of(topology: Topology) -> &'static str {
    match topology {
        Topology::Net30 => "net30",
        Topology::P2p => "p2p",
        Topology::Subnet => "subnet",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Topology::{Net30, P2p, Subnet};

    /// Each: topology, prefix, client-to-client; peer, end of the pool, route?, pushes. The network is 10.8.0.0.
    #[test]
    fn server_stands_for_what_the_manual_says() {
        type Row =
            (Topology, u8, bool, Option<&'static str>, &'static str, &'static str, bool, &'static [&'static str]);
        let table: [Row; 8] = [
            (Subnet, 24, false, None, "10.8.0.2", "10.8.0.254", false, &["route-gateway 10.8.0.1", "topology subnet"]),
            (Subnet, 24, true, None, "10.8.0.2", "10.8.0.254", false, &["route-gateway 10.8.0.1", "topology subnet"]),
            (Subnet, 30, false, None, "10.8.0.2", "10.8.0.2", false, &["route-gateway 10.8.0.1", "topology subnet"]),
            (Net30, 24, false, Some("10.8.0.2"), "10.8.0.4", "10.8.0.251", true, &["route 10.8.0.1", "topology net30"]),
            (
                Net30,
                24,
                true,
                Some("10.8.0.2"),
                "10.8.0.4",
                "10.8.0.251",
                true,
                &["route 10.8.0.0 255.255.255.0", "topology net30"],
            ),
            (Net30, 29, false, Some("10.8.0.2"), "10.8.0.4", "10.8.0.7", true, &["route 10.8.0.1", "topology net30"]),
            (P2p, 16, false, Some("10.8.0.2"), "10.8.0.4", "10.8.255.251", true, &["topology p2p"]),
            (
                P2p,
                16,
                true,
                Some("10.8.0.2"),
                "10.8.0.4",
                "10.8.255.251",
                true,
                &["route 10.8.0.0 255.255.0.0", "topology p2p"],
            ),
        ];
        let network = Ipv4Addr::new(10, 8, 0, 0);
        for (topology, prefix, c2c, peer, start, end, route, push) in table {
            let found = server(topology, network, prefix, false, c2c).unwrap();
            let pool = found.pool;
            assert_eq!((pool.network, pool.prefix, pool.netmask), (network, prefix, netmask_of(prefix)));
            assert_eq!(pool.local, Ipv4Addr::new(10, 8, 0, 1));
            assert_eq!(pool.peer, peer.map(|peer| peer.parse().unwrap()), "{topology:?}");
            assert_eq!((pool.pool_start.to_string(), pool.pool_end.to_string()), (start.to_owned(), end.to_owned()));
            assert!(pool.dynamic);
            assert_eq!(
                found.route.map(|route| (route.network, route.prefix)),
                route.then_some((network.into(), prefix))
            );
            assert_eq!(found.push, push, "{topology:?} {c2c}");
        }
        assert!(!server(Subnet, network, 24, true, false).unwrap().pool.dynamic, "nopool");
    }

    #[test]
    fn a_network_has_room_for_a_client_and_is_not_half_the_world() {
        let network = Ipv4Addr::new(10, 0, 0, 0);
        for (topology, prefix, good) in [
            (Subnet, 8, true),
            (Subnet, 7, false),
            (Subnet, 31, false),
            (Net30, 8, true),
            (Net30, 30, false),
            (P2p, 30, false),
        ] {
            assert_eq!(server(topology, network, prefix, false, false).is_ok(), good, "{topology:?} {prefix}");
        }
    }

    #[test]
    fn the_ipv6_pool_leaves_room_below_where_there_is_some() {
        for (text, base) in [
            ("fd00:1::/64", "fd00:1::1000"),
            ("fd00:1::/111", "fd00:1::1000"),
            ("fd00:1::/112", "fd00:1::2"),
            ("fd00:1::/124", "fd00:1::2"),
        ] {
            let (network, prefix) = values::ipv6_with_bits(text).unwrap();
            let pool = server_ipv6(network, prefix).unwrap();
            assert_eq!((pool.local.to_string(), pool.base.to_string()), ("fd00:1::1".to_owned(), base.to_owned()));
            assert_eq!((pool.prefix, pool.pool_prefix, pool.dynamic), (prefix, prefix, true));
        }
        for wrong in ["fd00::/63", "fd00::/125", "fd00::5/64"] {
            let (network, prefix) = values::ipv6_with_bits(wrong).unwrap();
            assert!(server_ipv6(network, prefix).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_server_waits_twice_as_long_as_its_clients() {
        let (own, push) = keepalive(10, 60);
        assert_eq!((own, push), ((10, 120), ["ping 10".to_owned(), "ping-restart 60".to_owned()]));
    }
}
