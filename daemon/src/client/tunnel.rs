//! The tunnel of a client on its host: the TUN device, its addresses and routes, and their undo. It outlives a session:
//! while the client reconnects the device stays, so that nothing leaves by another way, and a new session that wants the
//! same settings changes nothing.

use std::net::IpAddr;
use std::time::Duration;

use dataplane::sys::tundev::{TunOptions, TunQueue};

use crate::config::agreed::Device;
use crate::config::tunnel::{Gateway, Ipv4Setup, RouteGateway, RouteTarget, Silence, TunnelSettings};
use crate::exit::{Exit, Fatal};
use crate::host::change::Change;
use crate::host::plan::{self, Ipv4Link, Ipv4Setting, Plan, RedirectFlags, RouteWish, Surroundings};
use crate::host::routes::Route;
use crate::host::{Applied, Host, HostError, Interface, journal::Journal};

/// Changes that are logged one by one.
const CHANGES_SHOWN: usize = 32;

/// The handle on the host's network and the journal of what was changed.
pub(super) struct HostSide {
    /// Netlink.
    pub host: Host,
    /// What to undo.
    pub journal: Journal,
}

/// What the device holds for us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Queue {
    /// Packets, or super-packets, that wait (`txqueuelen`); one more is dropped.
    pub length: u32,
    /// The longest super-packet in bytes; `None` leaves it as it is.
    pub super_packet: Option<u32>,
}

/// A tunnel that stands.
pub(super) struct Tunnel {
    interface: Interface,
    settings: TunnelSettings,
    server: IpAddr,
    applied: Applied,
    activity: u64,
}

/// Opens the TUN device.
///
/// # Errors
/// [`Exit::Privilege`] with the command that helps.
pub(super) fn open_device(device: &Device, offload: bool) -> Result<TunQueue, Fatal> {
    let options = TunOptions { name: device.name.clone().unwrap_or_default(), multi_queue: false, offload };
    TunQueue::open(&options).map_err(|error| Fatal::new(Exit::Privilege, error.to_string()))
}

impl Tunnel {
    /// Gives the device its addresses and routes.
    ///
    /// # Errors
    /// [`Exit::Routes`] naming the change that failed; what was changed before it is undone.
    pub(super) async fn raise(
        name: &str,
        settings: TunnelSettings,
        server: IpAddr,
        queue: Queue,
        side: &mut HostSide,
    ) -> Result<Tunnel, Fatal> {
        let refused = |error: HostError| Fatal::new(Exit::Routes, error.to_string());
        let interface = side.host.interface(name).await.map_err(refused)?;
        let around = side.host.surroundings(&interface, server).await.map_err(refused)?;
        let wanted = host_settings(&settings, &interface, server, queue, &around)?;
        let plan = Plan::make(&wanted, &around);
        for note in &plan.notes {
            tracing::warn!("{note}");
        }
        let applied = side.host.apply(&plan, &mut side.journal).await.map_err(refused)?;
        for change in applied.changes().take(CHANGES_SHOWN) {
            tracing::info!("{}", change.doing());
        }
        if let Some(more @ 1..) = applied.changes().count().checked_sub(CHANGES_SHOWN) {
            tracing::info!("and {more} routes more");
        }
        Ok(Tunnel { interface, settings, server, applied, activity: 0 })
    }

    /// Whether a session with these settings to this server can take over the tunnel as it is.
    pub(super) fn fits(&self, settings: &TunnelSettings, server: IpAddr) -> bool {
        self.settings == *settings && self.server == server
    }

    /// The interface.
    pub(super) fn interface(&self) -> &Interface {
        &self.interface
    }

    /// The interface's index.
    pub(super) fn index(&self) -> u32 {
        self.interface.index
    }

    /// The interface's name.
    pub(super) fn name(&self) -> &str {
        &self.interface.name
    }

    /// `explicit-exit-notify` when pushed.
    pub(super) fn explicit_exit_notify(&self) -> Option<u32> {
        self.settings.explicit_exit_notify
    }

    /// `ping-exit` instead of `ping-restart`.
    pub(super) fn exits_on_silence(&self) -> bool {
        matches!(self.settings.silence, Some(Silence::Exit(_)))
    }

    /// `inactive`: the pause to the next look, or `None` when too little was carried since the last one.
    pub(super) fn next_activity_check(&mut self, total: u64) -> Option<Duration> {
        let inactive = self.settings.inactive?;
        let carried = total.saturating_sub(self.activity);
        self.activity = total;
        (carried > inactive.bytes).then(|| Duration::from_secs(u64::from(inactive.seconds)))
    }

    /// Another address will be tried while the tunnel stands, dead, with its routes: packets to it leave as they did before the
    /// tunnel. Undone with the tunnel.
    pub(super) async fn lead_to(&mut self, address: IpAddr, side: &mut HostSide) {
        let routed = self.applied.changes().any(|change| change.is_host_route(address));
        let around = match side.host.surroundings(&self.interface, address).await {
            Ok(around) if address != self.server && !routed => around,
            Ok(_) => return,
            Err(error) => return tracing::warn!("{error}"),
        };
        // Reached outside the tunnel already: no route of ours swallows it.
        let way = if address.is_ipv4() { around.default_v4 } else { around.default_v6 };
        let (None, Some(way)) = (around.to_server, way) else { return };
        if let Err(error) =
            self.applied.add(&side.host, Change::Route(Route::to_host(address, &way)), &mut side.journal).await
        {
            tracing::warn!("{error}");
        }
    }

    /// The host's own network changed: the server's route follows it.
    pub(super) async fn follow_host(&mut self, side: &mut HostSide) {
        let way = match side.host.surroundings(&self.interface, self.server).await {
            Ok(around) => around.to_server,
            Err(error) => return tracing::warn!("{error}"),
        };
        let way = way.filter(|hop| hop.interface.index != self.interface.index);
        if let Err(error) =
            self.applied.move_server_route(&side.host, self.server, way.as_ref(), &mut side.journal).await
        {
            tracing::warn!("the server's own route could not follow the host's network: {error}");
        }
    }

    /// Undoes every change.
    pub(super) async fn take_down(self, side: &mut HostSide) {
        for failure in self.applied.undo(&side.host, &mut side.journal).await {
            tracing::warn!("while undoing: {failure}");
        }
    }
}

/// The settings as the host's planner reads them.
fn host_settings(
    settings: &TunnelSettings,
    interface: &Interface,
    server: IpAddr,
    queue: Queue,
    around: &Surroundings,
) -> Result<plan::TunnelSettings, Fatal> {
    let unusable = |error: crate::config::values::Trouble| {
        Fatal::new(Exit::Routes, format!("the tunnel's address cannot be used: {}", error.what))
    };
    let ipv4 = settings.ipv4().map_err(unusable)?.filter(|_| !settings.ifconfig_noexec);
    let routes = if settings.route_noexec { Vec::new() } else { wishes(settings, server, around) };
    Ok(plan::TunnelSettings {
        interface: interface.clone(),
        mtu: u32::from(settings.tun_mtu),
        tx_queue_len: Some(queue.length),
        gso_max_size: queue.super_packet,
        ipv4: ipv4.map(|setup| match setup {
            Ipv4Setup::Subnet { address, prefix } => Ipv4Setting { local: address, link: Ipv4Link::Prefix(prefix) },
            Ipv4Setup::PointToPoint { local, peer } => Ipv4Setting { local, link: Ipv4Link::Peer(peer) },
        }),
        ipv6: settings.ifconfig_ipv6.filter(|_| !settings.ifconfig_noexec).map(|setup| (setup.local, setup.prefix)),
        routes,
        redirect: settings.redirect.filter(|_| !settings.route_noexec).map(|flags| RedirectFlags {
            def1: flags.def1,
            local: flags.local,
            autolocal: flags.autolocal,
            bypass_dhcp: flags.bypass_dhcp,
            bypass_dns: flags.bypass_dns,
            block_local: flags.block_local,
            ipv6: flags.ipv6,
            not_ipv4: flags.not_ipv4,
            private: !flags.default_route,
        }),
        route_gateway: match settings.route_gateway {
            Some(RouteGateway::Address(gateway)) => Some(gateway),
            Some(RouteGateway::Dhcp) | None => None,
        },
        route_metric: settings.route_metric,
        server,
    })
}

fn wishes(settings: &TunnelSettings, server: IpAddr, around: &Surroundings) -> Vec<RouteWish> {
    let net_gateway = around.default_v4.as_ref().and_then(|hop| hop.gateway);
    let v4 = settings.routes.iter().filter_map(|route| {
        let (dest, prefix) = match route.target {
            RouteTarget::Net(net, prefix) => (IpAddr::V4(net), prefix),
            RouteTarget::RemoteHost => (server, if server.is_ipv4() { 32 } else { 128 }),
            RouteTarget::VpnGateway => (IpAddr::V4(settings.vpn_gateway()?), 32),
            RouteTarget::NetGateway => (net_gateway?, 32),
        };
        Some(RouteWish { dest, prefix, gateway: gateway(route.gateway), metric: route.metric })
    });
    let v6 = settings.routes_ipv6.iter().map(|route| RouteWish {
        dest: IpAddr::V6(route.network),
        prefix: route.prefix,
        gateway: gateway(route.gateway),
        metric: route.metric,
    });
    v4.chain(v6).collect()
}

fn gateway(gateway: Gateway) -> plan::Gateway {
    match gateway {
        Gateway::Vpn => plan::Gateway::Vpn,
        Gateway::Net => plan::Gateway::Net,
        Gateway::Address(address) => plan::Gateway::Ip(address),
    }
}
