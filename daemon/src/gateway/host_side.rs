//! The gateway's side of its host: addresses and routes of the interface, and what `gateway up` wants besides.

use std::net::IpAddr;

use dataplane::networkio::gso::fitting_super_packet;

use super::given::OVERHEAD_V2;
use super::started::Extras;
use crate::cli::gateway::GatewayServe;
use crate::config::server::{self, ServerProfile};
use crate::config::tunnel::Topology;
use crate::exit::{Exit, Fatal};
use crate::host::gateway_link::{self, GatewayRoute, GatewaySettings, Raised};
use crate::host::journal::Journal;
use crate::host::plan::{Ipv4Link, Ipv4Setting};
use crate::host::{Host, HostError, Interface};

/// `txqueuelen` when the configuration says nothing: twice what the kernel gives a TUN device.
const QUEUE: u32 = 1_000;

/// Addresses, routes, and what `gateway up` wants besides.
pub(super) async fn raise(
    profile: &ServerProfile,
    options: &GatewayServe,
    extras: &Extras,
    (host, interface): (&Host, &Interface),
    journal: &mut Journal,
) -> Result<Raised, Fatal> {
    let failed = |error: HostError| Fatal::new(Exit::Routes, error.to_string());
    let pools: Vec<(IpAddr, u8)> = profile
        .ipv4
        .iter()
        .map(|pool| (pool.network.into(), pool.prefix))
        .chain(profile.ipv6.iter().map(|pool| (pool.base.into(), pool.prefix)))
        .collect();
    let masqueraded = if extras.nat { pools.as_slice() } else { &[] };
    let nat = match extras.forwarding {
        true => Some(
            gateway_link::nat_for(host, &extras.name, interface, masqueraded, profile.client_to_client)
                .await
                .map_err(failed)?,
        ),
        false => None,
    };
    let joined = options.data.tun_offload.is_on() && options.data.udp_gso.is_on();
    let settings = GatewaySettings {
        interface: interface.clone(),
        mtu: u32::from(profile.tun_mtu),
        tx_queue_len: Some(profile.device.txqueuelen.unwrap_or(QUEUE)),
        gso_max_size: joined.then(|| fitting_super_packet(profile.tun_mtu, OVERHEAD_V2)),
        ipv4: profile.ipv4.filter(|_| !profile.ifconfig_noexec).map(|pool| ipv4_setting(&pool, profile.topology)),
        ipv6: profile.ipv6.filter(|_| !profile.ifconfig_noexec).map(|pool| (pool.local, pool.prefix)),
        routes: if profile.route_noexec { Vec::new() } else { kernel_routes(profile) },
        nat,
        forwarding: extras.forwarding,
    };
    let raised = gateway_link::raise(host, &settings, journal).await.map_err(failed)?;
    raised.applied.changes().for_each(|change| tracing::info!("{}", change.doing()));
    raised.notes.iter().for_each(|note| tracing::warn!("{note}"));
    Ok(raised)
}

fn ipv4_setting(pool: &server::Pool4, topology: Topology) -> Ipv4Setting {
    let link = match (topology, pool.peer) {
        (Topology::Subnet, _) | (_, None) => Ipv4Link::Prefix(pool.prefix),
        (_, Some(peer)) => Ipv4Link::Peer(peer),
    };
    Ipv4Setting { local: pool.local, link }
}

fn kernel_routes(profile: &ServerProfile) -> Vec<GatewayRoute> {
    let route = |route: &server::KernelRoute| GatewayRoute {
        dest: route.network,
        prefix: route.prefix,
        gateway: None,
        metric: route.metric,
    };
    profile.routes.iter().map(route).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::server::Pool4;
    use crate::gateway::fixture::profile;
    use std::net::Ipv4Addr;

    #[test]
    fn the_interface_is_set_up_by_topology() {
        let pool = profile().ipv4.unwrap();
        assert_eq!(ipv4_setting(&pool, Topology::Subnet).link, Ipv4Link::Prefix(24));
        let peer = Ipv4Addr::new(10, 8, 0, 2);
        let point_to_point = Pool4 { peer: Some(peer), ..pool };
        assert_eq!(ipv4_setting(&point_to_point, Topology::Net30).link, Ipv4Link::Peer(peer));
    }
}
