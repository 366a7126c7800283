//! A session is established: what the server pushed is judged, the host is set up, the worker is told, and then the
//! sentence that everybody waits for is printed.

use controlplane::{Ending, Established};
use dataplane::datachannel::mssfix::{self, MssLimits};
use dataplane::networkio::gso::fitting_super_packet;
use dataplane::pipeline::{PeerSetup, SourceRule};
use dataplane::tun::too_big::AnswersFrom;
use dataplane::workers::manager::WorkerOrder;

use super::run::{Client, Due, PEER, Phase};
use super::tunnel::{self, Tunnel};
use crate::clock;
use crate::config::agreed::{ClientProfile, MssFix, Remote};
use crate::config::pushed;
use crate::config::tunnel::{Ipv4Setup, Silence, TunnelSettings};
use crate::exit::Fatal;
use crate::observe::console::State;

/// `txqueuelen` when the profile says nothing: twice what the kernel gives a TUN device.
const QUEUE: u32 = 1_000;

/// A peer that has no keys yet: nothing is expected of it, the control plane has its own timers.
pub(crate) fn unestablished_peer(profile: &ClientProfile, generation: u32, path: link::Path) -> PeerSetup {
    PeerSetup {
        peer: PEER,
        generation: Some(generation),
        path,
        wire_peer_id: None,
        replay_window: profile.replay_window.packets,
        replay_time_s: profile.replay_window.seconds,
        mssfix: None,
        ping_s: 0,
        ping_restart_s: 0,
        float: false,
        source: SourceRule::Any,
        counters: Default::default(),
    }
}

/// A peer whose keys are there, as the server's settings want it.
pub(crate) fn established_peer(
    profile: &ClientProfile,
    remote: &Remote,
    path: link::Path,
    settings: &TunnelSettings,
    established: &Established,
) -> PeerSetup {
    PeerSetup {
        wire_peer_id: established.peer_id,
        mssfix: mss_limits(remote, path.remote.is_ipv6(), settings.tun_mtu, established),
        ping_s: settings.ping.unwrap_or(0),
        ping_restart_s: match settings.silence {
            Some(Silence::Restart(seconds) | Silence::Exit(seconds)) => seconds,
            None => 0,
        },
        ..unestablished_peer(profile, established.generation, path)
    }
}

impl Client {
    /// Brings the tunnel up.
    pub(super) async fn on_established(&mut self, established: Established) {
        tracing::info!(
            "{} with {}, data channel {}, peer-id {}",
            established.tls,
            established.peer_subject,
            established.cipher.name(),
            established.peer_id.map_or("none".to_owned(), |id| id.to_string())
        );
        let pushed = pushed::read(&self.profile, &established.pushed.options);
        for warning in &pushed.warnings {
            tracing::warn!("{warning}");
        }
        if let Some(why) = pushed.refusal {
            return self.on_ending(Ending::Incompatible(why));
        }
        let settings = pushed.settings;
        for line in &settings.dns {
            tracing::info!("name servers are not applied in this version: {line}");
        }
        if let Err(fatal) = self.set_up_host(&settings).await {
            return self.end(Err(fatal));
        }
        self.carry(&settings, &established);
    }

    async fn set_up_host(&mut self, settings: &TunnelSettings) -> Result<(), Fatal> {
        let Some(session) = &self.session else { return Ok(()) };
        let server = session.address.ip();
        if self.tunnel.as_ref().is_some_and(|tunnel| tunnel.fits(settings, server)) {
            return Ok(());
        }
        self.console.state(State::AssignIp, &addresses(settings));
        let old = self.tunnel.take();
        let name = match old {
            Some(tunnel) => {
                let name = tunnel.name().to_owned();
                tunnel.take_down(&mut self.host).await;
                name
            }
            None => {
                let queue = match self.device.take() {
                    Some(queue) => queue,
                    None => tunnel::open_device(&self.profile.device, self.options.data.tun_offload.is_on())?,
                };
                let name = queue.name().to_owned();
                self.order(WorkerOrder::AttachTun(queue));
                name
            }
        };
        self.console.state(State::AddRoutes, &name);
        let joined = self.options.data.tun_offload.is_on() && self.options.data.udp_gso.is_on();
        let queue = tunnel::Queue {
            length: self.profile.device.txqueuelen.unwrap_or(QUEUE),
            super_packet: joined.then(|| fitting_super_packet(settings.tun_mtu, OVERHEAD_V2)),
        };
        let tunnel = Tunnel::raise(&name, settings.clone(), server, queue, &mut self.host).await?;
        self.watch.ignore(Some(tunnel.index()));
        self.tunnel = Some(tunnel);
        self.look_at_tun_drops().await;
        Ok(())
    }

    /// Tells the worker what its peer is like, and everybody that traffic flows.
    fn carry(&mut self, settings: &TunnelSettings, established: &Established) {
        let now = clock::now().at;
        let totals = self.totals();
        let Some(session) = &mut self.session else { return };
        session.phase = Phase::Up(now);
        let setup = established_peer(&self.profile, &session.remote, session.path, settings, established);
        let seconds = |n: u32| now + std::time::Duration::from_secs(u64::from(n));
        self.timers.stop(Due::Answer);
        self.timers.set(Due::SessionEnd, settings.session_timeout.map(seconds));
        self.timers.set(Due::Inactive, settings.inactive.map(|inactive| seconds(inactive.seconds)));
        let server = session.address.to_string();
        self.order(WorkerOrder::UpdatePeer(Box::new(setup)));
        let from = AnswersFrom { v4: settings.vpn_gateway(), v6: None };
        self.order(WorkerOrder::SetTunnel { mtu: Some(settings.tun_mtu), from });
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.next_activity_check(totals.received.saturating_add(totals.sent));
            let detail = format!("{} on {} via {server}", addresses(settings), tunnel.name());
            self.console.state(State::Connected, &detail);
        }
        self.had_success = true;
        if let Some(sentence) = self.flapping.is_up(now) {
            tracing::warn!("{sentence}");
        }
        if self.began.is_none() {
            self.began = Some(self.reading());
        }
        self.console.completed();
    }
}

/// What a SYN may announce so that its answers fit (`mssfix`), by the transport's family and the cipher.
fn mss_limits(remote: &Remote, v6: bool, tun_mtu: u16, established: &Established) -> Option<MssLimits> {
    let fix = match remote.mssfix(tun_mtu) {
        MssFix::Off => return None,
        MssFix::Mtu(size) => mssfix::MssFix::Mtu(size),
        MssFix::Payload(size) => mssfix::MssFix::Payload(size),
        MssFix::Fixed(size) => mssfix::MssFix::Fixed(size),
    };
    let data_overhead = if established.peer_id.is_some() { OVERHEAD_V2 } else { OVERHEAD_V1 };
    let transport = mssfix::Transport { v6, stream: false, data_overhead };
    Some(mssfix::mss_limits(fix, transport))
}

/// P_DATA_V2 with an AEAD cipher: opcode and peer-id 4, packet id 4, tag 16 bytes.
const OVERHEAD_V2: usize = 24;
/// P_DATA_V1: opcode 1, packet id 4, tag 16 bytes.
const OVERHEAD_V1: usize = 21;

fn addresses(settings: &TunnelSettings) -> String {
    let v4 = settings.ipv4().ok().flatten().map(|setup| match setup {
        Ipv4Setup::Subnet { address, prefix } => format!("{address}/{prefix}"),
        Ipv4Setup::PointToPoint { local, peer } => format!("{local} peer {peer}"),
    });
    let v6 = settings.ifconfig_ipv6.map(|setup| format!("{}/{}", setup.local, setup.prefix));
    v4.into_iter().chain(v6).collect::<Vec<_>>().join(" ")
}
