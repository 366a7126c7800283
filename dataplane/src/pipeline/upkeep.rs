//! What happens to a peer without a packet of its own: keepalives, silences, keys whose time has come.

use super::{NS_PER_S, PeerReport, Pipeline, Up};
use crate::datachannel::ping;
use crate::datachannel::usage::Usage;
use crate::drop_reason::DropReason;
use crate::networkio::gso::WireBatch;
use crate::peers::deadlines::Deadlines;
use crate::peers::table::Peer;
use crate::workers::stats::WorkerStats;

/// When a keepalive found no room in the batch: how long to wait before the next attempt.
pub(super) const RETRY_NS: u64 = 1_000_000;

impl Pipeline {
    /// Something waits that only [`tick`](Self::tick) can tell: call it in this round of the loop.
    pub fn wants_tick(&self) -> bool {
        self.deadlines.any_touched()
    }

    /// The next [`tick`](Self::tick) looks at every peer: another thread may have changed something about any of them.
    pub fn touch_all(&mut self) {
        for peer in self.peers.iter_mut() {
            self.deadlines.touch(peer);
        }
    }

    /// What time does: keepalives into `out`, silence reports, keys that retire or start to send, events that the packet path left.
    /// Returns when to call it next; `u64::MAX`: not before something else happens.
    pub fn tick(&mut self, now_ns: u64, out: &mut WireBatch, up: &mut dyn Up) -> u64 {
        while let Some(peer) = self.deadlines.next_touched() {
            if let Some(peer) = self.peers.get_mut(peer) {
                peer.touched = false;
                let due_ns = attend(now_ns, peer, out, &self.stats, up);
                self.deadlines.set(peer, due_ns);
            }
        }
        while let Some((due_ns, peer)) = self.deadlines.next_due(now_ns) {
            if let Some(peer) = self.peers.get_mut(peer)
                && Deadlines::is_due(peer, due_ns)
            {
                let due_ns = attend(now_ns, peer, out, &self.stats, up);
                self.deadlines.set(peer, due_ns);
            }
        }
        self.deadlines.next()
    }

    /// A control packet of this peer was verified: it is alive.
    pub fn peer_alive(&mut self, now_ns: u64, peer: u32, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.last_heard_ns = peer.last_heard_ns.max(now_ns);
            peer.setup.counters.heard(now_ns);
            self.deadlines.touch(peer);
            announce(peer, up);
        }
    }

    /// A control datagram was sent to this peer: no keepalive is due for a while.
    pub fn note_sent(&mut self, now_ns: u64, peer: u32) {
        if let Some(peer) = self.peers.get(peer) {
            peer.crossing.control_sent(now_ns);
        }
    }

    /// Reports [`PeerReport::FirstHeard`] at the peer's next authenticated packet, of data or of the control channel.
    pub fn listen_for(&mut self, peer: u32) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.set_awaited(true, peer.silence_reported);
        }
    }

    /// Tells the peer that we go away (explicit exit notify, for when the control process cannot). False: no key, or no room in `out`.
    pub fn occ_exit(&mut self, now_ns: u64, peer: u32, out: &mut WireBatch) -> bool {
        self.peers.get_mut(peer).is_some_and(|peer| send_in_band(now_ns, peer, &ping::EXIT, out).is_ok())
    }

    /// Sends a keepalive now. False: no key, or no room in `out`.
    pub fn ping_now(&mut self, now_ns: u64, peer: u32, out: &mut WireBatch) -> bool {
        let sent = self.peers.get_mut(peer).is_some_and(|peer| send_in_band(now_ns, peer, &ping::PING, out).is_ok());
        self.stats.pings_sent.add(u64::from(sent));
        sent
    }
}

#[cold]
pub(super) fn announce(peer: &mut Peer, up: &mut dyn Up) {
    announce_keys(peer, up);
    if peer.listening {
        up.report(PeerReport::FirstHeard { peer: peer.setup.peer });
    }
    peer.set_awaited(false, false);
}

/// What is due for one peer; when something is again.
fn attend(now_ns: u64, peer: &mut Peer, out: &mut WireBatch, stats: &WorkerStats, up: &mut dyn Up) -> u64 {
    peer.keys.advance(now_ns);
    announce_keys(peer, up);
    peer.keys.next_deadline().min(keep_alive(now_ns, peer, out, stats)).min(listen(now_ns, peer, up))
}

pub(super) fn announce_keys(peer: &mut Peer, up: &mut dyn Up) {
    while let Some(event) = peer.keys.poll_event() {
        up.event(event);
    }
}

/// Sends the keepalive that is due; when the next one is.
fn keep_alive(now_ns: u64, peer: &mut Peer, out: &mut WireBatch, stats: &WorkerStats) -> u64 {
    if peer.setup.ping_s == 0 {
        return u64::MAX;
    }
    let interval = u64::from(peer.setup.ping_s) * NS_PER_S;
    let due = peer.last_sent_ns.max(peer.crossing.control_sent_ns()).saturating_add(interval);
    if now_ns < due {
        return due;
    }
    match send_in_band(now_ns, peer, &ping::PING, out) {
        Ok(()) => stats.pings_sent.add(1),
        Err(DropReason::TooLarge) => return now_ns + RETRY_NS,
        // Without a key there is nobody to keep alive yet; a new key comes with a tick of its own.
        Err(_) => return now_ns.saturating_add(interval),
    }
    now_ns.saturating_add(interval)
}

/// Reports a silence that has become too long; when it would.
fn listen(now_ns: u64, peer: &mut Peer, up: &mut dyn Up) -> u64 {
    if peer.setup.ping_restart_s == 0 || peer.silence_reported {
        return u64::MAX;
    }
    let due = peer.last_heard_ns.saturating_add(u64::from(peer.setup.ping_restart_s) * NS_PER_S);
    if now_ns < due {
        return due;
    }
    peer.set_awaited(peer.listening, true);
    up.report(PeerReport::Silent { peer: peer.setup.peer, quiet_ns: now_ns - peer.last_heard_ns });
    u64::MAX
}

/// Seals one in-band message.
pub(super) fn send_in_band(
    now_ns: u64,
    peer: &mut Peer,
    message: &[u8],
    out: &mut WireBatch,
) -> Result<(), DropReason> {
    let overhead = peer.keys.seal.overhead().ok_or(DropReason::NoKey)?;
    let mut room = out.reserve(overhead + message.len()).ok_or(DropReason::TooLarge)?;
    let mut sealer = peer.keys.seal.reserve(Usage::packet(message.len()))?;
    if !sealer.seal(message, room.bytes()) {
        return Err(DropReason::KeyExhausted);
    }
    room.commit(&peer.setup.path);
    peer.last_sent_ns = now_ns;
    Ok(())
}
