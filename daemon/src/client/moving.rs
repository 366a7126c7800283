//! The host changed under a session: another address, another link, a suspend. The session moves with it: a new socket, a
//! packet on it (the server floats us by our peer-id), and an answer must come soon, or a new session is made.

use std::io;
use std::net::UdpSocket;
use std::time::Duration;

use dataplane::workers::manager::WorkerOrder;

use super::endings::Failure;
use super::run::{Client, Due, PEER, Phase, Session};
use crate::clock;
use crate::host::watch::HostEvent;
use crate::messages::ToControl;

/// Changes come in bursts; the host is looked at once it has been quiet for so long.
pub(super) const SETTLE: Duration = Duration::from_millis(200);
/// An authenticated packet must come this soon after ICMP said that the server's port is closed.
const REFUSED_HEARD_WITHIN: Duration = Duration::from_millis(1_500);
/// An authenticated packet must come this soon after a move.
const HEARD_WITHIN: Duration = Duration::from_secs(3);

impl Client {
    /// Something happened to the host's network; more of it follows as a rule.
    pub(super) fn on_host_event(&mut self, event: io::Result<HostEvent>) {
        match event {
            Ok(event) => tracing::debug!("{event:?}"),
            Err(error) => tracing::warn!("the host's network cannot be watched: {error}"),
        }
        self.timers.set(Due::Settled, clock::now().at + SETTLE);
    }

    /// The host's addresses, links or routes changed.
    pub(super) async fn look_at_host(&mut self) {
        if let Some(tunnel) = &mut self.tunnel {
            tunnel.follow_host(&mut self.host).await;
        }
        let Some(session) = &self.session else { return };
        match local_address_towards(session) {
            Some(local) if local == session.local.ip() => {}
            Some(local) => {
                tracing::info!("our address towards the server is {local} now, it was {}", session.local.ip());
                self.move_session();
            }
            None => tracing::info!("there is no way to the server now; waiting for one"),
        }
    }

    /// Time passed without us: the server may have forgotten us, a NAT surely has.
    pub(super) fn after_suspend(&mut self) {
        self.move_session();
    }

    fn move_session(&mut self) {
        let Some(session) = &self.session else { return };
        if !matches!(session.phase, Phase::Up(_)) {
            return self.start_over("our address changed while connecting");
        }
        let (remote, address) = (session.remote.clone(), session.address);
        let transport = match self.open_socket(&remote, address) {
            Ok(transport) => transport,
            Err(error) => return self.start_over(&format!("no socket towards {address}: {error}")),
        };
        let Some(session) = &mut self.session else { return };
        (session.path, session.local) = (transport.path, transport.local);
        let (generation, path) = (session.generation, session.path);
        self.losses.watch(&transport.socket);
        self.order(WorkerOrder::AttachSocket { socket: transport.socket, path });
        self.order(WorkerOrder::SetPath { peer: PEER, path });
        self.order(WorkerOrder::ReportWhenHeard { peer: PEER });
        self.order(WorkerOrder::PingNow { peer: PEER });
        self.control.send(&ToControl::Rebind { generation, path });
        // A keepalive is not answered. A renegotiation is, and only by who holds the session.
        self.control.send(&ToControl::Renegotiate { generation });
        self.timers.set(Due::Heard, clock::now().at + HEARD_WITHIN);
    }

    /// ICMP can be forged by who guesses our port, so it ends no session: the server is asked for a renegotiation, which only
    /// who holds the session can answer, and has a moment to do so.
    fn ask_whether_it_lives(&mut self) {
        let Some(session) = &self.session else { return };
        if self.timers.is_set(Due::Heard) {
            return;
        }
        tracing::info!("{} refuses our packets: has the server gone?", session.address);
        let generation = session.generation;
        self.order(WorkerOrder::ReportWhenHeard { peer: PEER });
        self.control.send(&ToControl::Renegotiate { generation });
        self.timers.set(Due::Heard, clock::now().at + REFUSED_HEARD_WITHIN);
    }

    /// ICMP said that the server's port is closed, or that there is no way to it.
    pub(super) fn on_socket_error(&mut self, errno: i32, text: &str) {
        let Some(session) = &self.session else { return };
        match (errno, session.phase) {
            (libc::ECONNREFUSED, Phase::Up(_)) => self.ask_whether_it_lives(),
            (libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH, Phase::Unanswered) => {
                let failure = match errno {
                    libc::ECONNREFUSED => Failure::Refused(session.address),
                    _ => Failure::NoWay(session.address, text.to_owned()),
                };
                self.give_up_address(failure);
            }
            _ => tracing::debug!("the socket answers: {text}"),
        }
    }
}

/// The address that the kernel would send from. `None`: there is no route.
fn local_address_towards(session: &Session) -> Option<std::net::IpAddr> {
    let any: std::net::SocketAddr = if session.address.is_ipv4() {
        (std::net::Ipv4Addr::UNSPECIFIED, 0).into()
    } else {
        (std::net::Ipv6Addr::UNSPECIFIED, 0).into()
    };
    let probe = UdpSocket::bind(any).ok()?;
    probe.connect(session.address).ok()?;
    Some(probe.local_addr().ok()?.ip())
}
