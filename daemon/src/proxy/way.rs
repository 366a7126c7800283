//! Whether there is a way through the tunnel now, as the clients' tasks see it. A server that restarts is away for a second or two: so
//! long a request waits. After that it is told, so that nobody hangs.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::failure::Failure;
use super::network::Network;

/// The way to what lies beyond the tunnel.
#[derive(Clone, Debug, Default)]
pub(super) enum Way {
    /// There is no tunnel: one is being connected.
    #[default]
    None,
    /// There is one whose server is away. Its connections wait for the server.
    Interrupted(Arc<Network>),
    /// There is one.
    Open(Arc<Network>),
}

impl Way {
    /// Whether it leads to this network, now or when the server is back.
    pub(super) fn leads_to(&self, network: &Arc<Network>) -> bool {
        matches!(self, Way::Interrupted(own) | Way::Open(own) if Arc::ptr_eq(own, network))
    }

    fn open(&self) -> Option<&Arc<Network>> {
        match self {
            Way::Open(network) => Some(network),
            Way::None | Way::Interrupted(_) => None,
        }
    }

    fn is_open_to(&self, network: &Arc<Network>) -> bool {
        self.open().is_some_and(|own| Arc::ptr_eq(own, network))
    }
}

/// What lies beyond the tunnel. A way that is closed is waited for so long.
///
/// # Errors
/// [`Failure::TunnelDown`].
pub(super) async fn opened(way: &watch::Receiver<Way>, patience: Duration) -> Result<Arc<Network>, Failure> {
    let mut way = way.clone();
    let seen = tokio::time::timeout(patience, way.wait_for(|way| way.open().is_some())).await;
    match seen {
        Ok(Ok(way)) => way.open().cloned().ok_or(Failure::TunnelDown),
        Ok(Err(_)) | Err(_) => Err(Failure::TunnelDown),
    }
}

/// Waits until this network is out of reach for good, or has been so long.
pub(super) async fn lost(way: &watch::Receiver<Way>, network: &Arc<Network>, patience: Duration) {
    let mut way = way.clone();
    loop {
        let closed = way.wait_for(|way| !way.is_open_to(network)).await.map(|way| way.leads_to(network));
        match closed {
            Ok(true) => {}
            Ok(false) => return,
            // Nobody says anything any more: it stays as it is.
            Err(_) => return std::future::pending().await,
        }
        let changed = way.wait_for(|way| way.is_open_to(network) || !way.leads_to(network));
        if tokio::time::timeout(patience, changed).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::patience::Patience;
    use super::super::stack::{Inner, Stack};
    use super::*;

    const SHORT: Duration = Duration::from_millis(50);
    const LONG: Duration = Duration::from_secs(60);

    fn network() -> Arc<Network> {
        let inner = Inner { ipv4: Some(([10, 8, 0, 2].into(), 24)), ipv6: None, mtu: 1_500 };
        Arc::new(Network::new(Arc::new(Stack::new(inner)), &[], Patience::default()))
    }

    #[tokio::test]
    async fn a_way_that_stays_closed_is_said_to_be_and_one_that_opens_is_taken() {
        let (one, two) = (network(), network());
        for closed in [Way::None, Way::Interrupted(Arc::clone(&one))] {
            let (_sender, seen) = watch::channel(closed);
            assert_eq!(opened(&seen, SHORT).await.unwrap_err(), Failure::TunnelDown);
        }
        let (sender, seen) = watch::channel(Way::Interrupted(one));
        let waits = opened(&seen, LONG);
        let opens = async { sender.send_replace(Way::Open(Arc::clone(&two))) };
        let (network, _) = tokio::join!(waits, opens);
        assert!(Arc::ptr_eq(&network.unwrap(), &two));
        assert!(opened(&seen, Duration::ZERO).await.is_ok(), "an open way is not waited for");
    }

    #[tokio::test]
    async fn a_network_is_lost_with_its_tunnel_and_after_a_long_interruption() {
        let (one, two) = (network(), network());
        for gone in [Way::None, Way::Open(two)] {
            let (_sender, seen) = watch::channel(gone);
            lost(&seen, &one, LONG).await;
        }
        let (_sender, seen) = watch::channel(Way::Interrupted(Arc::clone(&one)));
        lost(&seen, &one, SHORT).await;
    }

    #[tokio::test]
    async fn a_network_that_comes_back_in_time_is_not_lost() {
        let one = network();
        let (sender, seen) = watch::channel(Way::Open(Arc::clone(&one)));
        let lost = lost(&seen, &one, LONG);
        tokio::pin!(lost);
        for way in [Way::Open(Arc::clone(&one)), Way::Interrupted(Arc::clone(&one)), Way::Open(Arc::clone(&one))] {
            sender.send_replace(way);
            assert!(tokio::time::timeout(SHORT, &mut lost).await.is_err());
        }
        sender.send_replace(Way::None);
        lost.await;
    }
}
