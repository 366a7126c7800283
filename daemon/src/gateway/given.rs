//! What a client is given: its addresses, the options that are pushed to it, and what its worker is told about it. Pure:
//! configuration, the client's own part of it and a lease in, values out.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use dataplane::datachannel::mssfix::{self, MssLimits, Transport};
use dataplane::pipeline::{PeerSetup, SourceRule};

use super::pool::Lease;
use super::scripts::{Beside4, Inner4, Inner6};
use super::sessions::Session;
use crate::config::agreed::MssFix;
use crate::config::client_dir::ClientConfig;
use crate::config::server::ServerProfile;
use crate::config::tunnel::Topology;

/// P_DATA_V2 with an AEAD cipher: opcode and peer-id 4, packet id 4, tag 16 bytes.
pub(super) const OVERHEAD_V2: usize = 24;
/// P_DATA_V1: opcode 1, packet id 4, tag 16 bytes.
const OVERHEAD_V1: usize = 21;

/// A client's addresses inside.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Addresses {
    /// IPv4
    pub(super) ipv4: Option<Inner4>,
    /// IPv6
    pub(super) ipv6: Option<Inner6>,
}

impl Addresses {
    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = IpAddr> {
        let v4 = self.ipv4.map(|own| IpAddr::V4(own.address));
        v4.into_iter().chain(self.ipv6.map(|own| IpAddr::V6(own.address)))
    }

    /// For people.
    pub(super) fn text(&self) -> String {
        let all: Vec<String> = self.all().map(|address| address.to_string()).collect();
        if all.is_empty() { "no address".to_owned() } else { all.join(" ") }
    }
}

/// The addresses of a client: its own (`ifconfig-push`), else those of its lease.
pub(super) fn addresses(profile: &ServerProfile, own: &ClientConfig, lease: Option<&Lease>) -> Addresses {
    let leased4 = lease.and_then(|lease| lease.ipv4);
    let ipv4 = match own.ifconfig_push {
        Some((address, second)) => Some(Inner4 { address, beside: beside(profile.topology, second) }),
        None => leased4.zip(profile.ipv4).map(|(address, pool)| {
            let second = match profile.topology {
                Topology::Subnet => pool.netmask,
                Topology::Net30 => Ipv4Addr::from_bits(address.to_bits().wrapping_sub(1)),
                Topology::P2p => pool.local,
            };
            Inner4 { address, beside: beside(profile.topology, second) }
        }),
    };
    let leased6 =
        lease.and_then(|lease| lease.ipv6).zip(profile.ipv6).map(|(address, pool)| (address, pool.pool_prefix));
    let ipv6 = own.ifconfig_ipv6_push.or(leased6).map(|(address, prefix)| {
        let other_end = profile.ipv6.map_or(std::net::Ipv6Addr::UNSPECIFIED, |pool| pool.local);
        Inner6 { address, prefix, other_end }
    });
    Addresses { ipv4, ipv6 }
}

fn beside(topology: Topology, second: Ipv4Addr) -> Beside4 {
    if topology == Topology::Subnet { Beside4::Netmask(second) } else { Beside4::OtherEnd(second) }
}

/// Everything that is pushed to a client but what the control plane negotiated: the server's list as the client's own part
/// changes it, without routes to networks that are behind the client itself, then its addresses.
pub(super) fn push(profile: &ServerProfile, session: &Session) -> Vec<String> {
    let own = &session.own;
    let removed = |option: &str| own.push_remove.iter().any(|prefix| option.starts_with(prefix.as_str()));
    let servers = profile.push.iter().filter(|option| !own.push_reset && !removed(option));
    let behind = |option: &&String| !route_of(option).is_some_and(|route| own.iroutes.contains(&route));
    let mut list: Vec<String> = servers.chain(&own.push).filter(behind).cloned().collect();
    let blocked = |name: &str| own.push_remove.iter().any(|removed| removed == name);
    let ipv6 = session.addresses.ipv6.filter(|_| !blocked("ifconfig-ipv6"));
    list.extend(
        ipv6.map(|Inner6 { address, prefix, other_end }| format!("ifconfig-ipv6 {address}/{prefix} {other_end}")),
    );
    let ipv4 = session.addresses.ipv4.filter(|_| !blocked("ifconfig"));
    list.extend(ipv4.map(|Inner4 { address, beside: Beside4::Netmask(second) | Beside4::OtherEnd(second) }| {
        format!("ifconfig {address} {second}")
    }));
    // Who says how large an MTU it can take is told ours.
    if session.facts.peer_info.iter().any(|(name, _)| name == "IV_MTU") {
        list.push(format!("tun-mtu {}", profile.tun_mtu));
    }
    list
}

/// The network of a pushed `route` or `route-ipv6`.
fn route_of(option: &str) -> Option<(IpAddr, u8)> {
    let mut words = option.split_ascii_whitespace();
    match words.next()? {
        "route" => {
            let network: Ipv4Addr = words.next()?.parse().ok()?;
            let mask: u32 =
                words.next().map_or(Some(u32::MAX), |mask| Some(mask.parse::<Ipv4Addr>().ok()?.to_bits()))?;
            let prefix = mask.leading_ones();
            let network = network.to_bits() & mask;
            Some((Ipv4Addr::from_bits(network).into(), u8::try_from(prefix).ok()?))
        }
        "route-ipv6" => {
            let (network, prefix) = words.next()?.split_once('/')?;
            Some((network.parse::<std::net::Ipv6Addr>().ok()?.into(), prefix.parse().ok()?))
        }
        _ => None,
    }
}

/// What the worker of a client is told.
pub(super) fn peer_setup(profile: &ServerProfile, session: &Session) -> PeerSetup {
    let (ping_s, ping_restart_s) = profile.keepalive.unwrap_or((0, 0));
    PeerSetup {
        peer: session.peer,
        generation: Some(session.generation),
        path: session.path,
        wire_peer_id: session.wire_peer_id,
        replay_window: profile.replay_window.packets,
        replay_time_s: profile.replay_window.seconds,
        mssfix: mss_limits(profile, session),
        ping_s,
        ping_restart_s,
        // Without a peer-id in its packets a client is known by its address alone.
        float: session.wire_peer_id.is_some(),
        source: SourceRule::Routed,
        counters: Arc::clone(&session.counters),
    }
}

/// What a SYN may announce so that its answers fit (`mssfix`), by the transport's family.
fn mss_limits(profile: &ServerProfile, session: &Session) -> Option<MssLimits> {
    let fix = match profile.mssfix {
        MssFix::Off => return None,
        MssFix::Mtu(size) => mssfix::MssFix::Mtu(size),
        MssFix::Payload(size) => mssfix::MssFix::Payload(size),
        MssFix::Fixed(size) => mssfix::MssFix::Fixed(size),
    };
    let data_overhead = if session.wire_peer_id.is_some() { OVERHEAD_V2 } else { OVERHEAD_V1 };
    let v6 = session.path.remote.ip().to_canonical().is_ipv6();
    Some(mssfix::mss_limits(fix, Transport { v6, stream: false, data_overhead }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::profile;
    use crate::gateway::sessions::tests::session;

    fn lease(v4: &str, v6: &str) -> Lease {
        Lease { index: 0, ipv4: v4.parse().ok(), ipv6: v6.parse().ok() }
    }

    fn pushed(lines: &[&str], change: impl FnOnce(&mut Session)) -> Vec<String> {
        let mut session = session(1, 0, "a", "10.8.0.2");
        change(&mut session);
        let mut profile = profile();
        profile.push = lines.iter().map(|line| (*line).to_owned()).collect();
        push(&profile, &session)
    }

    #[test]
    fn a_lease_becomes_addresses_by_topology() {
        let second = |topology| {
            let mut profile = profile();
            profile.topology = topology;
            addresses(&profile, &ClientConfig::default(), Some(&lease("10.8.0.6", "fd00::1000")))
        };
        let subnet = second(Topology::Subnet);
        assert_eq!(subnet.ipv4.unwrap().beside, Beside4::Netmask("255.255.255.0".parse().unwrap()));
        assert_eq!(second(Topology::Net30).ipv4.unwrap().beside, Beside4::OtherEnd("10.8.0.5".parse().unwrap()));
        assert_eq!(second(Topology::P2p).ipv4.unwrap().beside, Beside4::OtherEnd("10.8.0.1".parse().unwrap()));
        let six = subnet.ipv6.unwrap();
        assert_eq!(
            (six.address.to_string(), six.prefix, six.other_end.to_string()),
            ("fd00::1000".into(), 64, "fd00::1".into())
        );
    }

    #[test]
    fn addresses_of_its_own_come_before_those_of_the_pool() {
        let own = ClientConfig {
            ifconfig_push: Some(("10.8.0.77".parse().unwrap(), "255.255.255.0".parse().unwrap())),
            ifconfig_ipv6_push: Some(("fd00::77".parse().unwrap(), 96)),
            ..ClientConfig::default()
        };
        let given = addresses(&profile(), &own, Some(&lease("10.8.0.6", "fd00::1000")));
        assert_eq!(given.text(), "10.8.0.77 fd00::77");
        assert_eq!(given.ipv6.unwrap().prefix, 96);
        assert_eq!(addresses(&profile(), &ClientConfig::default(), None).text(), "no address");
    }

    #[test]
    fn the_clients_part_removes_resets_and_adds() {
        let lines = ["topology subnet", "route 10.0.0.0 255.0.0.0", "dhcp-option DNS 10.8.0.1"];
        let removed = pushed(&lines, |s| {
            s.own.push_remove = vec!["dhcp-option".into()];
            s.own.push = vec!["dhcp-option DNS 10.9.9.9".into()];
        });
        assert_eq!(removed, [lines[0], lines[1], "dhcp-option DNS 10.9.9.9", "ifconfig 10.8.0.2 255.255.255.0"]);
        let reset = pushed(&lines, |s| {
            s.own.push_reset = true;
            s.own.push = vec!["route-gateway 10.8.0.1".into()];
        });
        assert_eq!(reset, ["route-gateway 10.8.0.1", "ifconfig 10.8.0.2 255.255.255.0"]);
        assert_eq!(pushed(&lines, |s| s.own.push_remove = vec!["ifconfig".into()]), lines);
    }

    #[test]
    fn a_client_gets_no_route_to_what_is_behind_itself() {
        let lines = [
            "route 10.20.0.0 255.255.0.0",
            "route 10.21.0.0 255.255.0.0 vpn_gateway 5",
            "route-ipv6 fd20::/64",
            "route 10.20.0.9",
        ];
        let list = pushed(&lines, |s| {
            s.own.iroutes = vec![("10.20.0.0".parse().unwrap(), 16), ("fd20::".parse().unwrap(), 64)];
        });
        assert_eq!(list, [lines[1], lines[3], "ifconfig 10.8.0.2 255.255.255.0"]);
    }

    #[test]
    fn who_names_its_mtu_is_told_ours() {
        let list = pushed(&[], |s| s.facts.peer_info = vec![("IV_MTU".into(), "1600".into())]);
        assert_eq!(list, ["ifconfig 10.8.0.2 255.255.255.0", "tun-mtu 1500"]);
    }

    #[test]
    fn a_worker_learns_timers_limits_and_that_sources_are_checked() {
        let mut profile = profile();
        profile.keepalive = Some((10, 120));
        let setup = peer_setup(&profile, &session(1, 9, "a", "10.8.0.2"));
        assert_eq!((setup.peer, setup.wire_peer_id, setup.ping_s, setup.ping_restart_s), (9, Some(9), 10, 120));
        assert_eq!((setup.source, setup.float), (SourceRule::Routed, true));
        assert_eq!(setup.mssfix, Some(MssLimits { v4: 1_400, v6: 1_380 }));
        let mut old = session(1, 9, "a", "10.8.0.2");
        old.wire_peer_id = None;
        assert!(!peer_setup(&profile, &old).float, "a packet without a peer-id cannot say whose it is");
    }
}
