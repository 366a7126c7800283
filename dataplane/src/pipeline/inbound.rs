//! Network → TUN: [`Pipeline::inbound`], one train at a time.

use std::net::{IpAddr, Ipv4Addr};

use link::message::{MAX_DATAGRAM, Path, WorkerEvent};

use super::upkeep::announce;
use super::{NS_PER_S, PeerReport, Pipeline, SourceRule, Up};
use crate::datachannel::header::{DataHeader, Parts};
use crate::datachannel::mssfix::{self, MssLimits};
use crate::datachannel::ping::{self, InBand};
use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::packetmuxer::{self, Kind};
use crate::tun::coalesce::TunBatch;
use crate::tun::ip;
use crate::workers::handover::What;
use crate::workers::stats::WorkerStats;

/// A peer floats at most this often. What comes from elsewhere in between is taken and moves nobody: a peer that sends from two addresses in
/// turn must not make the control process, the supervisor and its log work as fast as it can send.
const FLOAT_PAUSE_NS: u64 = NS_PER_S;

impl Pipeline {
    /// One train. Data packets go to `tun`, everything else up. Call it only while [`TunBatch::wants_flush`] is false.
    pub fn inbound(&mut self, now_ns: u64, train: Train<'_>, tun: &mut TunBatch, up: &mut dyn Up) {
        let Train { bytes, segment, path } = train;
        self.stats.inbound.batches.add(1);
        let mut sums = InboundSums::default();
        let mut owner: Option<Owner> = None;
        for datagram in bytes.chunks(segment.max(1)) {
            let outcome = match packetmuxer::classify(datagram) {
                Ok(Kind::Data(header, parts)) => {
                    sums.wire_packets += 1;
                    sums.wire_bytes += datagram.len() as u64;
                    let found = match owner {
                        // Looked up once for packets of one train with the same peer-id.
                        Some(owner) if owner.peer_id == header.peer_id => Ok(owner),
                        earlier => {
                            if let Some(earlier) = earlier {
                                self.credit(now_ns, earlier, sums.not_credited());
                            }
                            let found = self.owner(now_ns, header.peer_id, &path);
                            owner = found.ok();
                            found
                        }
                    };
                    match found {
                        Ok(at) => {
                            self.data(now_ns, at, &path, &header, &parts, tun, up).map(|bytes| sums.add_inner(bytes))
                        }
                        Err(reason) => self
                            .elsewhere(reason, header.peer_id, &path, datagram)
                            .map(|()| sums.take_back(datagram.len())),
                    }
                }
                Ok(Kind::Control) => self.control(path, datagram, up),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                self.stats.drop_one(reason);
            }
        }
        if let Some(owner) = owner {
            self.credit(now_ns, owner, sums.not_credited());
        }
        sums.flush(&self.stats);
    }

    /// One datagram that another worker handed over.
    pub fn take_datagram(&mut self, now_ns: u64, train: Train<'_>, tun: &mut TunBatch, up: &mut dyn Up) {
        self.stats.inbound.taken_over.add(1);
        self.inbound(now_ns, train, tun, up);
    }

    /// Counts for a peer what came from it: packets and bytes, unless nothing was authenticated.
    fn credit(&self, now_ns: u64, owner: Owner, (packets, bytes): (u64, u64)) {
        if let Some(peer) = self.peers.get(owner.peer)
            && peer.last_heard_ns == now_ns
        {
            peer.setup.counters.came(packets, bytes, now_ns);
        }
    }

    /// A data packet that is of no peer of this worker, or of none that may send it.
    #[cold]
    fn elsewhere(
        &mut self,
        reason: DropReason,
        peer_id: Option<u32>,
        path: &Path,
        datagram: &[u8],
    ) -> Result<(), DropReason> {
        let peer = peer_id.or_else(|| self.peers.by_address(&path.remote));
        let other = peer.filter(|_| reason == DropReason::UnknownPeer).and_then(|peer| self.mates.other(peer));
        let owner = other.ok_or(reason)?;
        if !self.mates.hand(owner, What::Datagram { path: *path }, datagram) {
            return Err(DropReason::HandoverFull);
        }
        self.stats.inbound.handed_over.add(1);
        Ok(())
    }

    fn control(&mut self, path: Path, datagram: &[u8], up: &mut dyn Up) -> Result<(), DropReason> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(DropReason::ControlTooLong);
        }
        self.stats.control_received.add(1);
        up.control(path, datagram, self.peers.by_address(&path.remote).is_some());
        Ok(())
    }

    /// Whose packets these are.
    #[inline(never)] // once a train, and nothing of the others' registers
    fn owner(&mut self, now_ns: u64, peer_id: Option<u32>, path: &Path) -> Result<Owner, DropReason> {
        let peer = packetmuxer::owner(&self.peers, peer_id, &path.remote)?;
        let found = self.peers.get_mut(peer).ok_or(DropReason::UnknownPeer)?;
        let moved = found.setup.path.remote != path.remote || found.setup.path.stream != path.stream;
        if moved && (!found.setup.float || found.refuses(&path.remote, now_ns)) {
            return Err(DropReason::WrongAddress);
        }
        found.keys.open.begin_batch(now_ns);
        Ok(Owner { peer_id, peer, moved })
    }

    /// One data packet. How many inner bytes went to TUN: 0 when it was an in-band message.
    #[inline]
    #[allow(clippy::too_many_arguments)] // one call site; a struct of them would only be taken apart again
    fn data(
        &mut self,
        now_ns: u64,
        owner: Owner,
        path: &Path,
        header: &DataHeader,
        parts: &Parts<'_>,
        tun: &mut TunBatch,
        up: &mut dyn Up,
    ) -> Result<usize, DropReason> {
        let peer = self.peers.get_mut(owner.peer).ok_or(DropReason::UnknownPeer)?;
        let len = parts.ciphertext.len();
        let landed = tun.land(len).ok_or(DropReason::TunFull)?;
        let highest = match peer.keys.open.open(now_ns, header, parts, landed) {
            Ok(highest) => highest,
            Err(reason) => {
                tun.discard();
                return Err(reason);
            }
        };
        peer.last_heard_ns = now_ns;
        let proven = peer.keys.open.take_proven();
        if proven || peer.keys.has_events() || peer.awaited {
            if proven {
                peer.keys.seal.follow();
                up.proven();
            }
            self.deadlines.touch(peer);
            announce(peer, up);
        }
        let checks = Checks { source: peer.setup.source, mssfix: peer.setup.mssfix };
        if owner.moved && highest {
            self.float(now_ns, owner.peer, path, up);
        }
        match ping::classify(tun.landed()) {
            InBand::Packet => self.deliver(owner.peer, checks, len, tun),
            in_band => {
                tun.discard();
                self.in_band(owner.peer, in_band, up)
            }
        }
    }

    #[inline]
    fn deliver(&mut self, peer: u32, checks: Checks, len: usize, tun: &mut TunBatch) -> Result<usize, DropReason> {
        let outcome = self.checked(peer, checks, tun.landed());
        match outcome {
            Ok(info) if self.relay.is_some() && self.turns_round(&info, tun.landed()) => {
                tun.discard();
                Ok(len)
            }
            Ok(info) if tun.accept(&info) => Ok(len),
            Ok(_) => Err(DropReason::TunFull),
            Err(reason) => {
                tun.discard();
                Err(reason)
            }
        }
    }

    /// Sets a packet aside that is for another peer. There is room, because trains come only while [`wants_relay`](Self::wants_relay) is
    /// false; if there were none, the TUN would take it.
    #[inline(never)]
    fn turns_round(&mut self, info: &ip::IpInfo, packet: &[u8]) -> bool {
        let to = info.destination(packet);
        let to_many = to.is_multicast() || to == IpAddr::V4(Ipv4Addr::BROADCAST);
        let aside = !to_many
            && self.routes.lookup(|| to).is_some()
            && self.relay.as_mut().is_some_and(|relay| relay.push(packet));
        self.stats.relayed.add(u64::from(aside));
        aside
    }

    /// The inner packet is well formed and its source allowed; its MSS is clamped.
    #[inline]
    fn checked(&self, peer: u32, checks: Checks, packet: &mut [u8]) -> Result<ip::IpInfo, DropReason> {
        let info = ip::parse(packet).ok_or(DropReason::MalformedInner)?;
        if checks.source == SourceRule::Routed && self.routes.lookup(|| info.source(packet)) != Some(peer) {
            return Err(DropReason::SourceNotAllowed);
        }
        if let Some(limits) = &checks.mssfix {
            mssfix::clamp(packet, &info, limits, false);
        }
        Ok(info)
    }

    #[cold]
    fn in_band(&mut self, peer: u32, message: InBand, up: &mut dyn Up) -> Result<usize, DropReason> {
        match message {
            InBand::Ping => self.stats.pings_received.add(1),
            // Said once: a peer must not fill the queue that others' silence is told by.
            InBand::Exit if self.peers.get_mut(peer).is_some_and(|peer| std::mem::replace(&mut peer.left, true)) => {
                return Err(DropReason::IgnoredOcc);
            }
            InBand::Exit => up.report(PeerReport::OccExit { peer }),
            InBand::OtherOcc | InBand::Packet => return Err(DropReason::IgnoredOcc),
        }
        Ok(0)
    }

    #[cold]
    fn float(&mut self, now_ns: u64, peer: u32, path: &Path, up: &mut dyn Up) {
        let Some(found) = self.peers.get_mut(peer) else { return };
        if found.setup.path.remote == path.remote || now_ns < found.floats_from_ns {
            return;
        }
        found.floats_from_ns = now_ns.saturating_add(FLOAT_PAUSE_NS);
        if self.peers.float(peer, *path) {
            up.event(WorkerEvent::Floated { peer, path: *path });
        }
    }
}

/// Whose packets a train carries.
#[derive(Clone, Copy, Debug)]
struct Owner {
    peer_id: Option<u32>,
    peer: u32,
    /// They come from another address than the peer's.
    moved: bool,
}

/// What a peer's settings say about its packets, so that it is not looked up again for them.
#[derive(Clone, Copy, Debug)]
struct Checks {
    source: SourceRule,
    mssfix: Option<MssLimits>,
}

/// Counters of one train, added to the worker's once.
#[derive(Default)]
struct InboundSums {
    wire_packets: u64,
    wire_bytes: u64,
    inner_packets: u64,
    inner_bytes: u64,
    /// Of these, what a peer was credited with.
    credited: (u64, u64),
}

impl InboundSums {
    #[inline]
    fn add_inner(&mut self, bytes: usize) {
        self.inner_packets += u64::from(bytes != 0);
        self.inner_bytes += bytes as u64;
    }

    /// A datagram that another worker counts.
    fn take_back(&mut self, bytes: usize) {
        self.wire_packets -= 1;
        self.wire_bytes -= bytes as u64;
    }

    /// Inner packets and bytes since the last call.
    #[inline]
    fn not_credited(&mut self) -> (u64, u64) {
        let all = (self.inner_packets, self.inner_bytes);
        let before = std::mem::replace(&mut self.credited, all);
        (all.0 - before.0, all.1 - before.1)
    }

    fn flush(self, stats: &WorkerStats) {
        stats.inbound.wire_packets.add(self.wire_packets);
        stats.inbound.wire_bytes.add(self.wire_bytes);
        stats.inbound.inner_packets.add(self.inner_packets);
        stats.inbound.inner_bytes.add(self.inner_bytes);
    }
}
