//! The two hot functions, [`Pipeline::outbound`] and [`Pipeline::inbound`], and the commands that change what they do.
//! No system call, no clock, no lock, no allocation on the packet path, no log line.
//!
//! Stages outbound (TUN → network), one TUN read at a time:
//! 1. `plan`: virtio header and inner headers are consistent; how many packets it becomes
//! 2. destination → peer ([`routes`](crate::peers::routes)); what is too long is refused ([`too_big`](crate::tun::too_big))
//! 3. MSS of a SYN is clamped ([`mssfix`](crate::datachannel::mssfix))
//! 4. one reservation of packet ids for all of them ([`sealing`](crate::datachannel::sealing))
//! 5. per packet: headers and checksum ([`split`](crate::tun::split)), then sealed straight into the outgoing batch
//!    ([`aead`](crate::datachannel::aead))
//!
//! Stages inbound (network → TUN), one train of datagrams at a time:
//! 1. first byte → data, control or drop ([`packetmuxer`](crate::packetmuxer))
//! 2. peer by peer-id or address, key by key-id
//! 3. replay window: peek; open straight into the batch towards TUN; replay window: commit
//! 4. keepalive and exit stop here
//! 5. source address allowed; MSS of a SYN clamped
//! 6. for another peer, where peers may talk to each other: aside ([`relay`](crate::tun::relay)), and from there outbound
//! 7. joined to its flow's super-packet ([`coalesce`](crate::tun::coalesce))
//!
//! With several workers, what belongs to another one's peer leaves at stage 2 and goes on there at the same stage
//! ([`handover`](crate::workers::handover)).

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use link::message::{InstallKey, KeyName, KeyRefusal, MAX_DATAGRAM, Path, WorkerEvent};

use crate::datachannel::aead::Aead;
use crate::datachannel::crossing::Crossing;
use crate::datachannel::header::{DataHeader, Parts};
use crate::datachannel::mssfix::{self, MssLimits};
use crate::datachannel::ping::{self, InBand};
use crate::datachannel::sealing::NewSealingKey;
use crate::datachannel::usage::Usage;
use crate::drop_reason::DropReason;
use crate::networkio::gro::Train;
use crate::networkio::gso::{MAX_UDP_PAYLOAD, WireBatch};
use crate::packetmuxer::{self, Kind};
use crate::peers::counters::PeerCounters;
use crate::peers::deadlines::Deadlines;
use crate::peers::routes::RouteTable;
use crate::peers::table::{Peer, PeerTable};
use crate::tun::coalesce::TunBatch;
use crate::tun::ip;
use crate::tun::relay::RelayBatch;
use crate::tun::split;
use crate::tun::too_big::{AnswersFrom, TooBig};
use crate::workers::handover::{Mates, What};
use crate::workers::stats::WorkerStats;

/// What the pipeline hands to its worker: all of it goes to a ring, none of it is on the packet path.
pub trait Up {
    /// A control datagram (anything that is not P_DATA). `known`: its source is the address of a peer.
    fn control(&mut self, path: Path, bytes: &[u8], known: bool);
    /// For the control process.
    fn event(&mut self, event: WorkerEvent);
    /// For the supervisor.
    fn report(&mut self, report: PeerReport);
    /// A packet authenticated on a newer key: where another thread seals, it may follow.
    fn proven(&mut self) {}
}

/// What the supervisor hears about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerReport {
    /// Nothing authenticated came for `ping_restart_s`. Said once per silence.
    Silent {
        /// The worker's handle of the peer.
        peer: u32,
        /// How long it has been quiet, in nanoseconds.
        quiet_ns: u64,
    },
    /// The peer said that it goes away (OCC exit).
    OccExit {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// The first authenticated packet, of data or of the control channel, since the last [`Pipeline::listen_for`].
    FirstHeard {
        /// The worker's handle of the peer.
        peer: u32,
    },
}

/// Which inner source addresses a peer may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceRule {
    /// Any (a client trusts its server with every address).
    #[default]
    Any,
    /// Only those that the route table sends to this peer (a gateway's clients).
    Routed,
}

/// Everything about a peer but its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSetup {
    /// The worker's handle: a small number, dense (0 on a client, the peer-id on a gateway).
    pub peer: u32,
    /// Where its packets come from and go to.
    pub path: Path,
    /// The peer-id that its P_DATA_V2 packets carry; `None`: only P_DATA_V1 (and peer-id 0xFFFFFF) from its address.
    pub wire_peer_id: Option<u32>,
    /// `replay-window n`: packets, 0 to 65,536; 0 means strictly in order. 8,192 by default.
    pub replay_window: u32,
    /// `replay-window n t`: seconds, 0 is off; 15 by default.
    pub replay_time_s: u32,
    /// `mssfix`; `None` is off.
    pub mssfix: Option<MssLimits>,
    /// `ping`: send a keepalive after so many seconds without sending; 0 is off.
    pub ping_s: u32,
    /// `ping-restart`: report silence after so many seconds without hearing; 0 is off.
    pub ping_restart_s: u32,
    /// Whether an authenticated packet from another address moves the peer there.
    pub float: bool,
    /// Which inner source addresses it may use.
    pub source: SourceRule,
    /// What is counted for it. The same ones again in every later setup of this peer, or its counts begin anew.
    pub counters: Arc<PeerCounters>,
}

/// What is the same for all peers of a worker.
#[derive(Clone, Debug, Default)]
pub struct PipelineConfig {
    /// Which inner destination belongs to which peer; a client's is [`RouteTable::all_to`].
    pub routes: RouteTable,
    /// What its keys are made with.
    pub aead: Aead,
}

/// [`Pipeline::outbound`] did nothing: send what is in the batch, clear it, and call again with the same frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFull;

/// One worker's packet path. Times are CLOCK_BOOTTIME in nanoseconds.
#[derive(Debug)]
pub struct Pipeline {
    /// The peers.
    pub peers: PeerTable,
    routes: Arc<RouteTable>,
    aead: Aead,
    stats: Arc<WorkerStats>,
    too_big: TooBig,
    deadlines: Deadlines,
    /// Packets of a peer for another one; none where they go to the TUN like all others.
    relay: Option<Box<RelayBatch>>,
    mates: Mates,
}

const NS_PER_S: u64 = 1_000_000_000;
/// When a keepalive found no room in the batch: how long to wait before the next attempt.
const RETRY_NS: u64 = 1_000_000;
/// A peer floats at most this often. What comes from elsewhere in between is taken and moves nobody: a peer that sends from two addresses in
/// turn must not make the control process, the supervisor and its log work as fast as it can send.
const FLOAT_PAUSE_NS: u64 = NS_PER_S;

impl Pipeline {
    /// A pipeline without peers.
    pub fn new(stats: Arc<WorkerStats>, config: PipelineConfig) -> Self {
        let PipelineConfig { routes, aead } = config;
        Pipeline {
            peers: PeerTable::default(),
            routes: Arc::new(routes),
            aead,
            stats,
            too_big: TooBig::new(MAX_UDP_PAYLOAD),
            deadlines: Deadlines::default(),
            relay: None,
            mates: Mates::none(),
        }
    }

    /// The other workers, to which goes what is theirs. To be called before there are peers.
    pub fn set_mates(&mut self, mates: Mates) {
        self.peers.moves = mates.announces().then(Default::default);
        self.mates = mates;
    }

    /// Tells the others what they have to know and wakes those who have something to take. Call it once per turn. True: it could not tell
    /// all, call it again soon.
    #[inline]
    pub fn part(&mut self) -> bool {
        let mut left = false;
        if let Some(moves) = &mut self.peers.moves
            && !moves.is_empty()
        {
            self.mates.announce(moves);
            left = !moves.is_empty();
        }
        self.mates.wake();
        left
    }

    /// One TUN read: virtio header and packet, or super-packet. Its packets stand sealed in `out` afterwards, or are counted as dropped;
    /// the frame's contents are used up.
    ///
    /// # Errors
    /// [`BatchFull`]: nothing was done and the frame is as it was. Send and clear `out`, then call again with the same frame.
    pub fn outbound(&mut self, now_ns: u64, frame: &mut [u8], out: &mut WireBatch) -> Result<(), BatchFull> {
        let tried = self.try_outbound(now_ns, frame, out);
        self.after_outbound(tried)
    }

    /// The same for a frame that another worker handed over, because it is for this peer.
    ///
    /// # Errors
    /// [`BatchFull`], as with [`outbound`](Self::outbound).
    pub fn take_frame(
        &mut self,
        now_ns: u64,
        peer: u32,
        frame: &mut [u8],
        out: &mut WireBatch,
    ) -> Result<(), BatchFull> {
        let plan = split::plan(frame);
        let packets = plan.as_ref().map_or(1, |plan| plan.count() as u64);
        let tried = plan.map_err(|reason| Stop::Drop(reason, 1)).and_then(|plan| match self.peers.get(peer) {
            Some(_) => self.seal(now_ns, peer, plan, frame, out),
            // It went away meanwhile.
            None => Err(Stop::Drop(DropReason::NoRoute, packets)),
        });
        self.after_outbound(tried)?;
        self.stats.outbound.taken_over.add(packets);
        Ok(())
    }

    /// One packet that was set aside for another peer: as if the TUN had given it back. `number` counts from 0; `None`: there are no more,
    /// and what was set aside is forgotten.
    pub fn relay(&mut self, now_ns: u64, number: usize, out: &mut WireBatch) -> Option<Result<(), BatchFull>> {
        let mut relay = self.relay.take()?;
        let relayed = relay.frame(number).map(|frame| self.outbound(now_ns, frame, out));
        if relayed.is_none() {
            relay.clear();
        }
        self.relay = Some(relay);
        relayed
    }

    /// Packets were set aside for [`relay`](Self::relay).
    #[inline]
    pub fn has_relayed(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| !relay.is_empty())
    }

    /// There may be no room for the next train: [`relay`](Self::relay) first.
    #[inline]
    pub fn wants_relay(&self) -> bool {
        self.relay.as_ref().is_some_and(|relay| relay.wants_flush())
    }

    /// Whether packets from one peer to another turn round here (`client-to-client`) or go to the TUN like all others. Those to a multicast
    /// or broadcast address always do.
    pub fn set_relay(&mut self, on: bool) {
        match on {
            true => _ = self.relay.get_or_insert_default(),
            false => self.relay = None,
        }
    }

    #[inline]
    fn after_outbound(&mut self, tried: Result<(), Stop>) -> Result<(), BatchFull> {
        match tried {
            Ok(()) => Ok(()),
            Err(Stop::BatchFull) => Err(BatchFull),
            Err(Stop::Drop(reason, packets)) => {
                self.stats.outbound.batches.add(1);
                self.stats.drop_many(reason, packets);
                Ok(())
            }
            Err(Stop::HandedOver(packets)) => {
                self.stats.outbound.handed_over.add(packets);
                Ok(())
            }
        }
    }

    #[inline]
    fn try_outbound(&mut self, now_ns: u64, frame: &mut [u8], out: &mut WireBatch) -> Result<(), Stop> {
        let plan = split::plan(frame).map_err(|reason| Stop::Drop(reason, 1))?;
        let packet = &frame[crate::tun::virtio::VNET_HDR_LEN..];
        match self.routes.lookup(|| plan.ip.destination(packet)) {
            Some(peer) => self.seal(now_ns, peer, plan, frame, out),
            None => Err(Stop::Drop(DropReason::NoRoute, plan.count() as u64)),
        }
    }

    /// A frame for a peer that is not here: another worker's, or nobody's.
    #[cold]
    fn not_here(&mut self, peer: u32, frame: &[u8], packets: u64) -> Stop {
        match self.mates.other(peer) {
            Some(owner) if self.mates.hand(owner, What::Frame { peer }, frame) => Stop::HandedOver(packets),
            Some(_) => Stop::Drop(DropReason::HandoverFull, packets),
            None => Stop::Drop(DropReason::NoRoute, packets),
        }
    }

    #[inline]
    fn seal(
        &mut self,
        now_ns: u64,
        peer: u32,
        plan: split::Plan,
        frame: &mut [u8],
        out: &mut WireBatch,
    ) -> Result<(), Stop> {
        let packets = plan.count() as u64;
        let stop = |reason| Stop::Drop(reason, packets);
        let Some(peer) = self.peers.get_mut(peer) else {
            return Err(self.not_here(peer, frame, packets));
        };

        peer.keys.seal.follow();
        let overhead = peer.keys.seal.overhead().ok_or(stop(DropReason::NoKey))?;
        let usage = plan.usage();
        let wire_bytes = usage.bytes as usize + plan.count() * overhead;
        let longest = self.too_big.longest(overhead);
        if plan.longest() > longest {
            return Err(refuse(now_ns, &mut self.too_big, plan, frame, overhead));
        }
        if !out.fits(plan.count(), wire_bytes) {
            return Err(if out.is_empty() { stop(DropReason::TooLarge) } else { Stop::BatchFull });
        }
        if let Some(limits) = &peer.setup.mssfix {
            let packet = &mut frame[crate::tun::virtio::VNET_HDR_LEN..];
            mssfix::clamp(packet, &plan.ip, limits, plan.checksum_is_partial());
        }

        let mut sealer = match peer.keys.seal.reserve(usage) {
            Ok(sealer) => sealer,
            Err(reason) => {
                // A key that has reached its hard limit may ask for its successor with its last word.
                self.deadlines.touch(peer);
                return Err(stop(reason));
            }
        };
        let sealed = sealer.seal_all(&mut plan.segments(frame), &peer.setup.path, out) as u64;
        peer.last_sent_ns = now_ns;
        if peer.keys.has_events() {
            self.deadlines.touch(peer);
        }
        peer.setup.counters.went(sealed, usage.bytes);
        let stats = &self.stats.outbound;
        stats.batches.add(1);
        stats.inner_packets.add(sealed);
        stats.inner_bytes.add(usage.bytes);
        stats.wire_packets.add(sealed);
        stats.wire_bytes.add(wire_bytes as u64);
        if sealed < packets {
            // Ids and room were reserved, so this does not happen; if it did, nothing may be missing from the sums.
            self.stats.drop_many(DropReason::KeyExhausted, packets - sealed);
        }
        Ok(())
    }

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
                    match self.owner(now_ns, &header, &path, &mut owner, &mut sums) {
                        Ok(at) => {
                            self.data(now_ns, at, &path, &header, &parts, tun, up).map(|bytes| sums.add_inner(bytes))
                        }
                        Err(reason) => self.elsewhere(reason, &header, path, datagram, &mut sums),
                    }
                }
                Ok(Kind::Control) => self.control(path, datagram, up),
                Err(reason) => Err(reason),
            };
            if let Err(reason) = outcome {
                self.stats.drop_one(reason);
            }
        }
        self.credit(now_ns, owner, &mut sums);
        sums.flush(&self.stats);
    }

    /// One datagram that another worker handed over.
    pub fn take_datagram(&mut self, now_ns: u64, train: Train<'_>, tun: &mut TunBatch, up: &mut dyn Up) {
        self.stats.inbound.taken_over.add(1);
        self.inbound(now_ns, train, tun, up);
    }

    /// Counts for a peer what came from it since the last time.
    #[inline]
    fn credit(&self, now_ns: u64, owner: Option<Owner>, sums: &mut InboundSums) {
        if let Some(peer) = owner.and_then(|owner| self.peers.get(owner.peer))
            && sums.authenticated
        {
            peer.setup.counters.came(sums.inner_packets - sums.credited.0, sums.inner_bytes - sums.credited.1, now_ns);
        }
        sums.credited = (sums.inner_packets, sums.inner_bytes);
        sums.authenticated = false;
    }

    /// A data packet that is of no peer of this worker, or of none that may send it.
    #[cold]
    fn elsewhere(
        &mut self,
        reason: DropReason,
        header: &DataHeader,
        path: Path,
        datagram: &[u8],
        sums: &mut InboundSums,
    ) -> Result<(), DropReason> {
        let peer = header.peer_id.or_else(|| self.peers.by_address(&path.remote));
        let other = peer.filter(|_| reason == DropReason::UnknownPeer).and_then(|peer| self.mates.other(peer));
        let owner = other.ok_or(reason)?;
        if !self.mates.hand(owner, What::Datagram { path }, datagram) {
            return Err(DropReason::HandoverFull);
        }
        sums.wire_packets -= 1;
        sums.wire_bytes -= datagram.len() as u64;
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

    /// Whose packet this is; looked up once for packets of one train with the same peer-id.
    #[inline]
    fn owner(
        &mut self,
        now_ns: u64,
        header: &DataHeader,
        path: &Path,
        known: &mut Option<Owner>,
        sums: &mut InboundSums,
    ) -> Result<Owner, DropReason> {
        if let Some(owner) = known
            && owner.peer_id == header.peer_id
        {
            return Ok(*owner);
        }
        self.credit(now_ns, known.take(), sums);
        let peer = packetmuxer::owner(&self.peers, header, &path.remote)?;
        let found = self.peers.get_mut(peer).ok_or(DropReason::UnknownPeer)?;
        let moved = found.setup.path.remote != path.remote || found.setup.path.stream != path.stream;
        if moved && (!found.setup.float || found.refuses(&path.remote, now_ns)) {
            return Err(DropReason::WrongAddress);
        }
        found.keys.open.begin_batch(now_ns);
        let owner = Owner { peer_id: header.peer_id, peer, moved };
        *known = Some(owner);
        Ok(owner)
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
        if owner.moved && highest {
            self.float(now_ns, owner.peer, path, up);
        }
        match ping::classify(tun.landed()) {
            InBand::Packet => self.deliver(owner.peer, len, tun),
            in_band => {
                tun.discard();
                self.in_band(owner.peer, in_band, up)
            }
        }
    }

    #[inline]
    fn deliver(&mut self, peer: u32, len: usize, tun: &mut TunBatch) -> Result<usize, DropReason> {
        let outcome = self.checked(peer, tun.landed());
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
    fn checked(&self, peer: u32, packet: &mut [u8]) -> Result<ip::IpInfo, DropReason> {
        let info = ip::parse(packet).ok_or(DropReason::MalformedInner)?;
        let setup = &self.peers.get(peer).ok_or(DropReason::UnknownPeer)?.setup;
        if setup.source == SourceRule::Routed && self.routes.lookup(|| info.source(packet)) != Some(peer) {
            return Err(DropReason::SourceNotAllowed);
        }
        if let Some(limits) = &setup.mssfix {
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

    /// Installs a key and says what came of it: [`WorkerEvent::KeyInstalled`] or [`WorkerEvent::KeyRefused`].
    pub fn install_key(&mut self, now_ns: u64, key: InstallKey, up: &mut dyn Up) {
        let installed = self.install_opening(now_ns, &key).and_then(|sealing| self.install_sealing(now_ns, sealing));
        self.installed(key.name, installed, up);
    }

    /// Installs the half of a key that opens. The other half comes back, for [`install_sealing`](Self::install_sealing), here or on
    /// the thread that seals; what comes of that is for [`installed`](Self::installed).
    ///
    /// # Errors
    /// [`KeyRefusal`]: also for [`installed`](Self::installed).
    pub fn install_opening(&mut self, now_ns: u64, key: &InstallKey) -> Result<NewSealingKey, KeyRefusal> {
        let peer = self.peers.get_mut(key.name.peer).ok_or(KeyRefusal::UnknownPeer)?;
        let sealing = peer.keys.install_opening(&self.aead, now_ns, key)?;
        peer.left = false;
        // The peer may use the key as soon as it is installed, before the supervisor has said more about it.
        self.peers.set_wire_id(key.name.peer, key.wire_peer_id);
        self.touch(key.name.peer);
        Ok(sealing)
    }

    /// Installs the half of a key that seals.
    ///
    /// # Errors
    /// [`KeyRefusal::UnknownPeer`], [`KeyRefusal::NotNewer`].
    pub fn install_sealing(&mut self, now_ns: u64, key: NewSealingKey) -> Result<(), KeyRefusal> {
        let peer = self.peers.get_mut(key.name().peer).ok_or(KeyRefusal::UnknownPeer)?;
        peer.keys.seal.install(now_ns, key)?;
        peer.setup.counters.has_key_since(now_ns);
        self.deadlines.touch(peer);
        Ok(())
    }

    fn touch(&mut self, peer: u32) {
        if let Some(peer) = self.peers.get_mut(peer) {
            self.deadlines.touch(peer);
        }
    }

    /// Both halves have the key, or one of them refused it: says so.
    pub fn installed(&mut self, name: KeyName, installed: Result<(), KeyRefusal>, up: &mut dyn Up) {
        match installed {
            Ok(()) => up.event(WorkerEvent::KeyInstalled(name)),
            Err(refusal) => {
                // A name that was there before is another key's.
                if refusal != KeyRefusal::NotNewer
                    && let Some(peer) = self.peers.get_mut(name.peer)
                {
                    peer.keys.open.forget(name);
                }
                up.event(WorkerEvent::KeyRefused(name, refusal));
            }
        }
        self.changed_keys(name.peer, up);
    }

    /// An event of the thread that seals: told, unless it asks what this half has asked already.
    pub fn sealing_says(&mut self, event: WorkerEvent, up: &mut dyn Up) {
        let peer = match &event {
            WorkerEvent::KeyUsage(name, _) => self.peers.get_mut(name.peer),
            _ => None,
        };
        if peer.is_none_or(|peer| peer.keys.is_news(&event)) {
            up.event(event);
        }
    }

    /// Sends with this key from now on.
    pub fn send_with(&mut self, name: KeyName, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(name.peer) {
            peer.keys.seal.send_with(name);
        }
        self.changed_keys(name.peer, up);
    }

    /// Forgets every key of this generation of the peer.
    pub fn drop_keys(&mut self, peer: u32, generation: u32, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.keys.drop_keys(generation);
        }
        self.changed_keys(peer, up);
    }

    fn changed_keys(&mut self, peer: u32, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(peer) {
            announce_keys(peer, up);
            self.deadlines.touch(peer);
        }
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

    /// Adds a peer, in the place of any that had its handle; that one's keys are gone. A handle that is not below
    /// [`MAX_PEERS`](crate::peers::table::MAX_PEERS) is ignored: its keys will be refused with [`KeyRefusal::UnknownPeer`].
    pub fn add_peer(&mut self, now_ns: u64, setup: PeerSetup) {
        let peer = setup.peer;
        self.peers.insert(now_ns, setup);
        self.added(peer);
    }

    fn added(&mut self, peer: u32) {
        self.deadlines.expect(self.peers.count());
        self.touch(peer);
    }

    /// The same on the thread that seals; `crossing` is that of the peer on the thread that opens.
    pub fn add_sealing_peer(&mut self, now_ns: u64, setup: PeerSetup, crossing: Arc<Crossing>) {
        let peer = setup.peer;
        self.peers.insert_half(now_ns, setup, crossing);
        self.added(peer);
    }

    /// Replaces a peer's settings; keys and timers stay. The replay window takes effect with the next key; a silence that was
    /// reported counts anew from now on. False: no such peer.
    pub fn update_peer(&mut self, now_ns: u64, setup: PeerSetup) -> bool {
        if let Some(peer) = self.peers.get_mut(setup.peer) {
            if peer.silence_reported {
                peer.set_awaited(peer.listening, false);
                peer.last_heard_ns = now_ns;
            }
            self.deadlines.touch(peer);
        }
        self.peers.update(setup)
    }

    /// Forgets a peer and its keys. False: no such peer.
    pub fn remove_peer(&mut self, peer: u32) -> bool {
        self.peers.remove(peer)
    }

    /// Moves a peer to another address. False: no such peer.
    pub fn set_path(&mut self, peer: u32, path: Path) -> bool {
        self.peers.set_path(peer, path)
    }

    /// Moves a peer back to where it was: the move that was reported is refused, and not repeated for some seconds. False: no such peer.
    pub fn move_back(&mut self, now_ns: u64, peer: u32, path: Path) -> bool {
        self.peers.move_back(now_ns, peer, path)
    }

    /// The longest UDP payload in bytes that may be sent, where the path forbids longer ones; `None`: whatever UDP carries.
    pub fn set_max_payload(&mut self, bytes: Option<usize>) {
        self.too_big.max_payload = bytes.unwrap_or(MAX_UDP_PAYLOAD).min(MAX_UDP_PAYLOAD);
    }

    /// The tunnel's MTU in bytes (`None`: no limit), and whom the answers to longer packets come from.
    pub fn set_tunnel(&mut self, mtu: Option<u16>, from: AnswersFrom) {
        self.too_big.tunnel_mtu = mtu.map_or(usize::MAX, usize::from);
        self.too_big.from = from;
    }

    /// What was refused for its length, and the answer that waits for the TUN.
    pub fn too_big(&mut self) -> &mut TooBig {
        &mut self.too_big
    }

    /// Replaces the table of inner addresses.
    pub fn set_routes(&mut self, routes: impl Into<Arc<RouteTable>>) {
        self.routes = routes.into();
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

/// Why [`Pipeline::try_outbound`] stopped.
enum Stop {
    BatchFull,
    /// So many packets are dropped.
    Drop(DropReason, u64),
    /// So many packets went to another worker.
    HandedOver(u64),
}

/// A packet, or the packets of a super-packet, are too long to be sent. The first of them is answered.
#[cold]
fn refuse(now_ns: u64, too_big: &mut TooBig, plan: split::Plan, frame: &mut [u8], overhead: usize) -> Stop {
    let (packets, longest, ip) = (plan.count() as u64, plan.longest(), plan.ip);
    if longest + overhead > MAX_UDP_PAYLOAD {
        return Stop::Drop(DropReason::TooLarge, packets);
    }
    if too_big.grant(now_ns) {
        let mut segments = plan.segments(frame);
        if let Some(packet) = segments.next() {
            // The header of a super-packet's first segment has a length of its own.
            let ip = ip::parse(packet).unwrap_or(ip);
            too_big.prepare(packet, &ip, too_big.longest(overhead));
        }
    }
    Stop::Drop(DropReason::TooBig, packets)
}

/// Whose packets a train carries.
#[derive(Clone, Copy, Debug)]
struct Owner {
    peer_id: Option<u32>,
    peer: u32,
    /// They come from another address than the peer's.
    moved: bool,
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
    /// Something authenticated came since then.
    authenticated: bool,
}

impl InboundSums {
    #[inline]
    fn add_inner(&mut self, bytes: usize) {
        self.authenticated = true;
        self.inner_packets += u64::from(bytes != 0);
        self.inner_bytes += bytes as u64;
    }

    fn flush(self, stats: &WorkerStats) {
        stats.inbound.wire_packets.add(self.wire_packets);
        stats.inbound.wire_bytes.add(self.wire_bytes);
        stats.inbound.inner_packets.add(self.inner_packets);
        stats.inbound.inner_bytes.add(self.inner_bytes);
    }
}

#[cold]
fn announce(peer: &mut Peer, up: &mut dyn Up) {
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

fn announce_keys(peer: &mut Peer, up: &mut dyn Up) {
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
fn send_in_band(now_ns: u64, peer: &mut Peer, message: &[u8], out: &mut WireBatch) -> Result<(), DropReason> {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::datachannel::keyring::tests::{LIMITS, SECOND, key};
    use crate::tun::coalesce::TunOffload;
    use crate::tun::test_packets::{Packet, SYN};
    use crate::tun::virtio::VNET_HDR_LEN;
    use link::message::{Cipher, DirectionKey, KeyLimits, Secret, UsageReason};
    use proptest::prelude::*;
    use std::net::SocketAddr;

    pub(crate) fn path(port: u16) -> Path {
        Path { worker: 0, local: None, ifindex: 0, remote: SocketAddr::from(([192, 0, 2, 1], port)), stream: None }
    }

    pub(crate) fn setup() -> PeerSetup {
        PeerSetup {
            peer: 0,
            path: path(1194),
            wire_peer_id: Some(5),
            replay_window: 8192,
            replay_time_s: 15,
            mssfix: None,
            ping_s: 0,
            ping_restart_s: 0,
            float: false,
            source: SourceRule::Any,
            counters: Arc::default(),
        }
    }

    const ALL: TunOffload = TunOffload { csum: true, tso4: true, tso6: true, uso4: true, uso6: true };

    #[derive(Default)]
    struct Heard {
        control: Vec<(Vec<u8>, bool)>,
        events: Vec<WorkerEvent>,
        reports: Vec<PeerReport>,
    }

    impl Up for Heard {
        fn control(&mut self, _: Path, bytes: &[u8], known: bool) {
            self.control.push((bytes.to_vec(), known));
        }
        fn event(&mut self, event: WorkerEvent) {
            self.events.push(event);
        }
        fn report(&mut self, report: PeerReport) {
            self.reports.push(report);
        }
    }

    /// A pipeline with its batches.
    struct End {
        pipeline: Pipeline,
        stats: Arc<WorkerStats>,
        out: WireBatch,
        tun: TunBatch,
        heard: Heard,
    }

    impl End {
        fn new(setup: PeerSetup) -> Self {
            let mut end = End::without_key(setup, RouteTable::all_to(0));
            end.install(key(0, 0));
            end.heard.events.clear();
            end
        }

        fn without_key(setup: PeerSetup, routes: RouteTable) -> Self {
            let stats = Arc::new(WorkerStats::default());
            let mut pipeline = Pipeline::new(stats.clone(), PipelineConfig { routes, ..PipelineConfig::default() });
            pipeline.add_peer(0, setup);
            let out = WireBatch::new(256 * 1024, 64, true);
            End { pipeline, stats, out, tun: TunBatch::new(ALL), heard: Heard::default() }
        }

        fn install(&mut self, key: InstallKey) {
            self.pipeline.install_key(0, key, &mut self.heard);
        }

        /// Sends a TUN read; the datagrams that leave, run by run.
        fn send(&mut self, frame: &[u8]) -> Vec<Vec<u8>> {
            self.out.clear();
            assert_eq!(self.pipeline.outbound(1, &mut frame.to_vec(), &mut self.out), Ok(()));
            self.datagrams()
        }

        fn datagrams(&self) -> Vec<Vec<u8>> {
            let runs = self.out.runs().iter();
            runs.flat_map(|run| self.out.bytes()[run.start..run.start + run.len].chunks(run.segment))
                .map(<[u8]>::to_vec)
                .collect()
        }

        fn receive(&mut self, datagram: &[u8]) {
            self.receive_at(1, path(1194), datagram, datagram.len());
        }

        fn receive_at(&mut self, now_ns: u64, path: Path, bytes: &[u8], segment: usize) {
            let train = Train { bytes: &mut bytes.to_vec(), segment, path };
            self.pipeline.inbound(now_ns, train, &mut self.tun, &mut self.heard);
        }

        /// What TUN gets, without virtio headers.
        fn packets(&mut self) -> Vec<Vec<u8>> {
            let packets = self.tun.frames().map(|frame| frame[VNET_HDR_LEN..].to_vec()).collect();
            self.tun.clear();
            packets
        }

        fn tick(&mut self, now_ns: u64) -> u64 {
            self.out.clear();
            self.pipeline.tick(now_ns, &mut self.out, &mut self.heard)
        }

        fn dropped(&self, reason: DropReason) -> u64 {
            let snapshot = self.stats.snapshot();
            assert_eq!(snapshot.dropped_total(), snapshot.dropped(reason), "nothing else was dropped");
            snapshot.dropped(reason)
        }
    }

    /// Both ends with the same keys.
    fn pair() -> (End, End) {
        (End::new(setup()), End::new(setup()))
    }

    fn with_cipher(cipher: Cipher, wire_peer_id: Option<u32>) -> InstallKey {
        let direction = DirectionKey { key: Secret(vec![9; cipher.key_len()]), implicit_iv: Secret(vec![3; 8]) };
        InstallKey { cipher, seal: direction.clone(), open: direction, wire_peer_id, ..key(0, 0) }
    }

    #[test]
    fn a_packet_crosses_with_every_cipher_and_both_headers() {
        let ciphers = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
        for cipher in ciphers.into_iter().filter(|&cipher| crate::datachannel::aead::supports(cipher)) {
            for (wire_peer_id, overhead) in [(Some(5), 24), (None, 21)] {
                let mut ends = [0, 1].map(|_| End::without_key(setup(), RouteTable::all_to(0)));
                for end in &mut ends {
                    end.install(with_cipher(cipher, wire_peer_id));
                }
                let packet = Packet::default();
                let wire = ends[0].send(&packet.frame());
                assert_eq!((wire.len(), wire[0].len()), (1, packet.bytes().len() + overhead));
                ends[1].receive(&wire[0]);
                assert_eq!(ends[1].packets(), [packet.bytes()]);
            }
        }
    }

    #[test]
    fn a_packet_of_every_length_is_sealed_without_padding() {
        let ciphers = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
        for cipher in ciphers.into_iter().filter(|&cipher| crate::datachannel::aead::supports(cipher)) {
            let mut ends = [0, 1].map(|_| End::without_key(setup(), RouteTable::all_to(0)));
            for end in &mut ends {
                end.install(with_cipher(cipher, Some(5)));
            }
            // Every remainder of a block, several times over, and both sides of a full packet.
            for payload in (0..=80).chain(1_300..=1_400) {
                let packet = Packet::with_payload(payload).bytes();
                let wire = ends[0].send(&Packet::with_payload(payload).frame());
                assert_eq!((wire.len(), wire[0].len()), (1, packet.len() + 24), "{cipher:?}, {payload}");
                ends[1].receive(&wire[0]);
                assert_eq!(ends[1].packets(), [packet], "{cipher:?}, {payload}");
            }
            assert_eq!(ends[1].stats.snapshot().dropped_total(), 0);
        }
    }

    #[test]
    fn a_super_packet_crosses_as_one_run_and_one_frame() {
        let (mut a, mut b) = pair();
        for packet in [Packet::with_payload(60_000), Packet { v6: true, ..Packet::with_payload(60_000) }] {
            let wire = a.send(&packet.super_frame(1400));
            assert_eq!(wire.len(), 43);
            assert_eq!(a.out.runs().len(), 1);
            let run = a.out.runs()[0];
            assert_eq!((run.path, run.count, run.segment), (path(1194), 43, packet.headers() + 1400 + 24));
            let bytes = a.out.bytes().to_vec();
            b.receive_at(1, path(1194), &bytes, run.segment);
            assert_eq!(b.packets(), [packet.partial_bytes()]);
        }
        let (sent, received) = (a.stats.snapshot().outbound, b.stats.snapshot().inbound);
        assert_eq!((sent.batches, sent.inner_packets, sent.wire_packets), (2, 86, 86));
        assert_eq!(sent.wire_bytes, sent.inner_bytes + 86 * 24);
        assert_eq!((received.batches, received.inner_packets, received.inner_bytes), (2, 86, sent.inner_bytes));
        assert_eq!(received.wire_bytes, sent.wire_bytes);
    }

    #[test]
    fn a_full_batch_leaves_the_frame_as_it_was() {
        let (mut a, mut b) = pair();
        let packet = Packet::with_payload(60_000);
        let mut sent = 0;
        loop {
            let mut frame = packet.super_frame(1000);
            match a.pipeline.outbound(1, &mut frame, &mut a.out) {
                Ok(()) => sent += 60,
                Err(BatchFull) => {
                    assert_eq!(frame, packet.super_frame(1000));
                    assert!(a.out.bytes().len() + 60 * 1064 > 256 * 1024);
                    break;
                }
            }
        }
        let wire = a.send(&packet.super_frame(1000));
        let id = u32::from_be_bytes(wire[0][4..8].try_into().unwrap());
        assert_eq!(id, sent + 1, "no packet id was used for it");
        for datagram in &wire {
            b.receive(datagram);
        }
        assert_eq!(b.packets(), [packet.partial_bytes()]);
        assert_eq!(a.stats.snapshot().dropped_total(), 0);
    }

    #[test]
    fn what_cannot_be_sent_is_counted_packet_by_packet() {
        let mut end = End::without_key(setup(), RouteTable::all_to(0));
        assert!(end.send(&Packet::with_payload(1000).super_frame(100)).is_empty());
        assert_eq!(end.dropped(DropReason::NoKey), 10);

        let mut end = End::without_key(setup(), RouteTable::default());
        assert!(end.send(&Packet::default().frame()).is_empty());
        assert_eq!(end.dropped(DropReason::NoRoute), 1);

        let mut end = End::new(setup());
        assert!(end.send(&[0; 50]).is_empty());
        assert_eq!(end.dropped(DropReason::NotIp), 1);

        let mut end = End::new(setup());
        assert!(end.send(&Packet::with_payload(65_507 - 24 - 40 + 1).frame()).is_empty());
        assert_eq!(end.dropped(DropReason::TooLarge), 1);
        assert_eq!(end.send(&Packet::with_payload(65_507 - 24 - 40).frame())[0].len(), 65_507);

        let limits = KeyLimits { hard_packet_id: 3, ..LIMITS };
        let mut end = End::without_key(setup(), RouteTable::all_to(0));
        end.install(InstallKey { limits, ..key(0, 0) });
        assert!(end.send(&Packet::with_payload(1000).super_frame(100)).is_empty());
        assert_eq!(end.dropped(DropReason::KeyExhausted), 10);
        assert!(end.pipeline.wants_tick());
        end.tick(1);
        assert_eq!(end.heard.events.last(), Some(&WorkerEvent::KeyUsage(key(0, 0).name, UsageReason::PacketId)));
    }

    #[test]
    fn what_cannot_be_received_is_counted_by_reason() {
        let (mut a, _) = pair();
        let wire = a.send(&Packet::default().frame()).remove(0);
        let change = |at: usize, to: u8| {
            let mut changed = wire.clone();
            changed[at] = to;
            changed
        };
        for (reason, datagram) in [
            (DropReason::UnknownOpcode, change(0, 1)),
            (DropReason::TooShort, wire[..24].to_vec()),
            (DropReason::UnknownPeer, change(3, 6)),
            (DropReason::UnknownKey, change(0, wire[0] | 1)),
            (DropReason::AuthenticationFailed, change(8, wire[8] ^ 1)),
            (DropReason::Replayed, change(7, 0)),
            (DropReason::ControlTooLong, vec![4 << 3; MAX_DATAGRAM + 1]),
        ] {
            let mut b = End::new(setup());
            b.receive(&datagram);
            assert_eq!(b.dropped(reason), 1, "{reason:?}");
            assert!(b.packets().is_empty() && b.heard.control.is_empty());
            b.receive(&wire);
            assert_eq!(b.packets(), [Packet::default().bytes()], "the right one still passes");
            b.receive(&wire);
            assert_eq!(b.stats.dropped(DropReason::Replayed), 1 + u64::from(reason == DropReason::Replayed));
        }
    }

    #[test]
    fn an_authenticated_payload_that_is_no_packet_is_dropped() {
        let (mut a, mut b) = pair();
        for payload in [&[0x45u8, 0, 0][..], &[0x10; 30], &ping::OCC_MAGIC] {
            a.out.clear();
            let peer = a.pipeline.peers.get_mut(0).unwrap();
            send_in_band(1, peer, payload, &mut a.out).unwrap();
            b.receive(&a.datagrams()[0]);
        }
        assert!(b.packets().is_empty());
        assert_eq!(b.stats.dropped(DropReason::MalformedInner), 2);
        assert_eq!(b.stats.dropped(DropReason::IgnoredOcc), 1);
    }

    #[test]
    fn control_packets_go_up_with_what_is_known_of_their_source() {
        let mut end = End::new(setup());
        let datagram = [7 << 3; 30];
        end.receive(&datagram);
        end.receive_at(1, path(9), &datagram, 30);
        assert_eq!(end.heard.control, [(datagram.to_vec(), true), (datagram.to_vec(), false)]);
        assert_eq!(end.stats.snapshot().control_received, 2);
        assert_eq!(end.stats.snapshot().inbound.wire_packets, 0);
    }

    #[test]
    fn a_train_of_everything_is_taken_apart() {
        let (mut a, mut b) = pair();
        let wire = a.send(&Packet::with_payload(300).super_frame(100));
        let mut bytes = wire[0].clone();
        bytes.extend(vec![4 << 3; wire[0].len()]);
        bytes.extend(&wire[1]);
        bytes.extend([5 << 3; 10]);
        b.receive_at(1, path(1194), &bytes, wire[0].len());
        assert_eq!(b.heard.control.len(), 2);
        assert_eq!(b.packets().len(), 1);
        let mut end = End::new(setup());
        end.receive_at(1, path(1194), &[5 << 3; 10], 0);
        assert_eq!(end.heard.control.len(), 10, "a segment size of 0 is taken as 1");
    }

    #[test]
    fn a_packet_from_another_address_is_dropped_unless_the_peer_may_float() {
        let (mut a, mut b) = pair();
        let first = a.send(&Packet::default().frame()).remove(0);
        let second = a.send(&Packet::default().frame()).remove(0);
        b.receive_at(1, path(9), &first, first.len());
        assert_eq!(b.dropped(DropReason::WrongAddress), 1);

        let mut b = End::new(PeerSetup { float: true, ..setup() });
        let mut forged = second.clone();
        forged[20] ^= 1;
        b.receive_at(1, path(9), &forged, forged.len());
        assert_eq!(b.pipeline.peers.get(0).unwrap().setup.path, path(1194));
        b.receive_at(1, path(9), &second, second.len());
        assert_eq!(b.pipeline.peers.get(0).unwrap().setup.path, path(9));
        assert_eq!(b.heard.events, [WorkerEvent::Floated { peer: 0, path: path(9) }]);
        b.receive_at(1, path(8), &first, first.len());
        assert_eq!(b.pipeline.peers.get(0).unwrap().setup.path, path(9), "a late packet moves nobody");
        assert_eq!(b.heard.events.len(), 1);
        assert_eq!(b.pipeline.peers.by_address(&path(9).remote), Some(0));
    }

    #[test]
    fn a_peer_that_sends_from_two_addresses_in_turn_moves_once_a_second() {
        let (mut a, _) = pair();
        let mut b = End::new(PeerSetup { float: true, ..setup() });
        let mut from = |b: &mut End, now_ns, port| {
            let wire = a.send(&Packet::default().frame()).remove(0);
            b.receive_at(now_ns, path(port), &wire, wire.len());
            assert_eq!(b.packets().len(), 1, "nothing is lost by it");
        };
        for turn in 0..1_000 {
            from(&mut b, SECOND, 9 + turn % 2);
        }
        assert_eq!(b.heard.events, [WorkerEvent::Floated { peer: 0, path: path(9) }]);
        assert_eq!(b.dropped(DropReason::WrongAddress), 0);
        from(&mut b, 2 * SECOND - 1, 10);
        assert_eq!(b.heard.events.len(), 1);
        from(&mut b, 2 * SECOND, 10);
        assert_eq!(b.heard.events[1..], [WorkerEvent::Floated { peer: 0, path: path(10) }]);
    }

    #[test]
    fn a_source_address_that_is_not_the_peers_is_dropped() {
        let routes = |address: &str| {
            let route = crate::peers::routes::Route { address: address.parse().unwrap(), prefix_len: 32, peer: 0 };
            RouteTable::new(&[route])
        };
        for (address, allowed) in [("10.0.0.9", true), ("10.0.0.8", false)] {
            let (mut a, mut b) = pair();
            b.pipeline.update_peer(1, PeerSetup { source: SourceRule::Routed, ..setup() });
            b.pipeline.set_routes(routes(address));
            let wire = a.send(&Packet::default().frame()).remove(0);
            b.receive(&wire);
            assert_eq!(b.packets().len(), usize::from(allowed));
            assert_eq!(b.dropped(DropReason::SourceNotAllowed), u64::from(!allowed));
        }
    }

    #[test]
    fn the_mss_is_clamped_in_both_directions() {
        let limits = MssLimits { v4: 1400, v6: 1380 };
        let clamping = PeerSetup { mssfix: Some(limits), ..setup() };
        let syn = Packet { flags: SYN, options: vec![2, 4, 0x05, 0xb4], ..Packet::with_payload(0) };
        let clamped = Packet { options: vec![2, 4, 0x05, 0x78], ..syn.clone() };
        let partial = [&syn.checksum_header().to_bytes()[..], &syn.partial_bytes()].concat();
        for (sender, receiver, frame) in [
            (clamping.clone(), setup(), syn.frame()),
            (setup(), clamping.clone(), syn.frame()),
            (clamping.clone(), setup(), partial.clone()),
            (clamping.clone(), clamping, partial),
        ] {
            let (mut a, mut b) = (End::new(sender), End::new(receiver));
            let wire = a.send(&frame).remove(0);
            b.receive(&wire);
            assert_eq!(b.packets(), [clamped.bytes()]);
        }
        let (mut a, mut b) = pair();
        let wire = a.send(&syn.frame()).remove(0);
        b.receive(&wire);
        assert_eq!(b.packets(), [syn.bytes()], "off");
    }

    #[test]
    fn a_keepalive_is_sent_when_nothing_else_was() {
        let (mut a, mut b) = (End::new(PeerSetup { ping_s: 10, ..setup() }), End::new(setup()));
        assert_eq!(a.tick(0), 10 * SECOND);
        a.out.clear();
        a.pipeline.outbound(3 * SECOND, &mut Packet::default().frame(), &mut a.out).unwrap();
        assert_eq!(a.tick(10 * SECOND), 13 * SECOND);
        assert!(a.out.is_empty());
        a.pipeline.note_sent(5 * SECOND, 0);
        assert_eq!(a.tick(13 * SECOND), 15 * SECOND);
        assert!(a.out.is_empty());
        assert_eq!(a.tick(15 * SECOND), 25 * SECOND);
        b.receive(&a.datagrams()[0]);
        assert!(b.packets().is_empty());
        assert_eq!((a.stats.snapshot().pings_sent, b.stats.snapshot().pings_received), (1, 1));
        assert_eq!(b.stats.snapshot().inbound.inner_packets, 0);
        assert_eq!(b.stats.snapshot().dropped_total(), 0);
    }

    #[test]
    fn without_a_key_or_a_setting_no_keepalive_is_sent() {
        let mut end = End::without_key(PeerSetup { ping_s: 10, ..setup() }, RouteTable::all_to(0));
        assert_eq!(end.tick(10 * SECOND), 20 * SECOND);
        assert!(end.out.is_empty());
        assert!(!end.pipeline.ping_now(1, 0, &mut end.out) && !end.pipeline.occ_exit(1, 0, &mut end.out));
        let mut end = End::new(setup());
        assert_eq!(end.tick(1000 * SECOND), u64::MAX);
        assert!(end.out.is_empty());
        assert!(end.pipeline.ping_now(1, 0, &mut end.out) && !end.pipeline.ping_now(1, 9, &mut end.out));
        assert_eq!(end.stats.snapshot().pings_sent, 1);
    }

    #[test]
    fn a_keepalive_that_finds_no_room_is_tried_again_soon() {
        let mut end = End::new(PeerSetup { ping_s: 10, ..setup() });
        while end.out.reserve(MAX_UDP_PAYLOAD).is_some_and(|room| {
            room.commit(&path(1));
            true
        }) {}
        while let Some(room) = end.out.reserve(1) {
            room.commit(&path(1));
        }
        let deadline = end.pipeline.tick(10 * SECOND, &mut end.out, &mut end.heard);
        assert_eq!(deadline, 10 * SECOND + RETRY_NS);
        assert_eq!(end.tick(deadline), deadline + 10 * SECOND);
        assert_eq!(end.datagrams().len(), 1);
    }

    #[test]
    fn silence_is_reported_once_until_the_peer_is_heard_again() {
        let (mut a, mut b) = (End::new(setup()), End::new(PeerSetup { ping_restart_s: 60, ..setup() }));
        assert_eq!(b.tick(59 * SECOND), 60 * SECOND);
        b.pipeline.peer_alive(10 * SECOND, 0, &mut b.heard);
        assert_eq!(b.tick(60 * SECOND), 70 * SECOND);
        assert!(b.heard.reports.is_empty());
        assert_eq!(b.tick(71 * SECOND), u64::MAX);
        assert_eq!(b.heard.reports, [PeerReport::Silent { peer: 0, quiet_ns: 61 * SECOND }]);
        b.tick(200 * SECOND);
        assert_eq!(b.heard.reports.len(), 1);

        let wire = a.send(&Packet::default().frame()).remove(0);
        let mut forged = wire.clone();
        forged[20] ^= 1;
        b.receive_at(200 * SECOND, path(1194), &forged, forged.len());
        assert_eq!(b.tick(201 * SECOND), u64::MAX, "a forged packet is no sign of life");
        b.receive_at(202 * SECOND, path(1194), &wire, wire.len());
        assert_eq!(b.tick(203 * SECOND), 262 * SECOND);
        b.tick(262 * SECOND);
        assert_eq!(b.heard.reports.len(), 2);
    }

    #[test]
    fn the_peers_exit_is_reported() {
        let (mut a, mut b) = pair();
        assert!(a.pipeline.occ_exit(1, 0, &mut a.out));
        b.receive(&a.datagrams()[0]);
        assert_eq!(b.heard.reports, [PeerReport::OccExit { peer: 0 }]);
        assert!(b.packets().is_empty());
    }

    #[test]
    fn an_exit_that_is_said_again_is_reported_once() {
        let (mut a, mut b) = pair();
        for _ in 0..3 {
            a.out.clear();
            assert!(a.pipeline.occ_exit(1, 0, &mut a.out));
            b.receive(&a.datagrams()[0]);
        }
        assert_eq!(b.heard.reports, [PeerReport::OccExit { peer: 0 }]);
        assert_eq!(b.dropped(DropReason::IgnoredOcc), 2, "and each datagram is counted");
    }

    #[test]
    fn the_first_packet_is_reported_when_someone_listens() {
        let (mut a, mut b) = pair();
        for round in 0..2 {
            let wire = a.send(&Packet::default().frame()).remove(0);
            b.receive(&wire);
            assert_eq!(b.heard.reports.len(), round);
            b.pipeline.listen_for(0);
            b.receive(&wire);
            assert_eq!(b.heard.reports.len(), round, "a replay is not heard");
            let wire = [a.send(&Packet::default().frame()), a.send(&Packet::default().frame())].concat();
            b.receive(&wire[0]);
            b.receive(&wire[1]);
            assert_eq!(b.heard.reports, vec![PeerReport::FirstHeard { peer: 0 }; round + 1]);
        }
    }

    #[test]
    fn commands_on_keys_are_answered() {
        let mut end = End::without_key(setup(), RouteTable::all_to(0));
        let (first, second) = (key(0, 0), key(0, 1));
        end.install(first.clone());
        end.install(first.clone());
        let mut stranger = key(0, 0);
        stranger.name.peer = 8;
        end.install(stranger.clone());
        end.install(second.clone());
        end.pipeline.send_with(second.name, &mut end.heard);
        end.pipeline.drop_keys(0, 0, &mut end.heard);
        assert_eq!(
            end.heard.events,
            [
                WorkerEvent::KeyInstalled(first.name),
                WorkerEvent::KeySending(first.name),
                WorkerEvent::KeyRefused(first.name, KeyRefusal::NotNewer),
                WorkerEvent::KeyRefused(stranger.name, KeyRefusal::UnknownPeer),
                WorkerEvent::KeyInstalled(second.name),
                WorkerEvent::KeySending(second.name),
            ]
        );
        assert!(end.send(&Packet::default().frame()).is_empty());
        assert_eq!(end.dropped(DropReason::NoKey), 1);
    }

    #[test]
    fn the_tick_promotes_a_key_in_time_and_returns_when() {
        let mut end = End::new(setup());
        end.install(InstallKey { send_from_ns: 5 * SECOND, retire_previous_ns: 9 * SECOND, ..key(0, 1) });
        end.heard.events.clear();
        assert!(end.pipeline.wants_tick());
        assert_eq!(end.tick(SECOND), 5 * SECOND);
        assert!(!end.pipeline.wants_tick() && end.heard.events.is_empty());
        assert_eq!(end.tick(5 * SECOND), 9 * SECOND);
        assert_eq!(end.heard.events, [WorkerEvent::KeySending(key(0, 1).name)]);
        assert_eq!(end.tick(9 * SECOND), u64::MAX);
    }

    #[test]
    fn a_packet_on_the_new_key_moves_the_sending_direction() {
        let (mut a, mut b) = pair();
        a.install(key(0, 1));
        b.install(key(0, 1));
        a.pipeline.send_with(key(0, 1).name, &mut a.heard);
        b.heard.events.clear();
        b.receive(&a.send(&Packet::default().frame())[0]);
        assert_eq!(b.heard.events, [WorkerEvent::KeySending(key(0, 1).name)]);
        assert_eq!(b.send(&Packet::default().frame())[0][0] & 7, 1);
    }

    #[test]
    fn of_many_peers_those_are_looked_at_that_are_due() {
        let mut end = End::without_key(setup(), RouteTable::all_to(0));
        for peer in 1..=1_000 {
            let port = peer as u16;
            end.pipeline.add_peer(
                0,
                PeerSetup { peer, wire_peer_id: Some(peer), path: path(port), ping_restart_s: peer, ..setup() },
            );
        }
        assert!(end.pipeline.remove_peer(7));
        // One that was heard in time, one whose patience was shortened, one that begins anew in its old place.
        let later = |setup: PeerSetup| PeerSetup { path: path(9_000), ..setup };
        for second in 1..=1_000u32 {
            let now = u64::from(second) * SECOND;
            if second == 400 {
                end.pipeline.peer_alive(now, 500, &mut end.heard);
                end.pipeline.update_peer(now, later(PeerSetup { peer: 900, ping_restart_s: 450, ..setup() }));
                end.pipeline
                    .add_peer(now, PeerSetup { peer: 7, wire_peer_id: Some(7), ping_restart_s: 101, ..setup() });
            }
            let next = end.tick(now);
            // Nobody is due in second 7.
            assert!(next > now && (next <= now + SECOND || [6, 1_000].contains(&second)), "{second}");
            let quiet: Vec<u32> = end
                .heard
                .reports
                .drain(..)
                .map(|report| match report {
                    PeerReport::Silent { peer, .. } => peer,
                    other => panic!("{other:?}"),
                })
                .collect();
            let expected: &[u32] = match second {
                7 | 500 => &[],
                450 => &[450, 900],
                501 => &[7, 501],
                900 => &[500],
                other => &[other],
            };
            let mut quiet = quiet;
            quiet.sort_unstable();
            assert_eq!(quiet, expected, "{second}");
        }
    }

    #[test]
    fn a_packet_for_another_peer_turns_round_and_one_for_all_does_not() {
        let routes =
            |address: &str| crate::peers::routes::Route { address: address.parse().unwrap(), prefix_len: 32, peer: 0 };
        for (to, on, turns) in [
            ([10, 0, 0, 2], true, true),
            ([10, 0, 0, 2], false, false),
            ([10, 0, 0, 3], true, false),
            ([224, 0, 0, 2], true, false),
            ([255; 4], true, false),
        ] {
            let (mut a, mut b) = pair();
            b.pipeline.set_relay(on);
            let table = ["10.0.0.2", "224.0.0.2", "255.255.255.255"].map(routes);
            b.pipeline.set_routes(RouteTable::new(&table));
            let mut packet = Packet::default().bytes();
            packet[16..20].copy_from_slice(&to);
            let frame = [&[0; VNET_HDR_LEN][..], &packet].concat();
            b.receive(&a.send(&frame)[0]);
            assert_eq!(b.pipeline.has_relayed(), turns, "{to:?}");
            assert_eq!(b.packets().len(), usize::from(!turns));
            assert_eq!(b.stats.snapshot().relayed, u64::from(turns));
            assert_eq!(b.stats.snapshot().inbound.inner_packets, 1);
            b.out.clear();
            assert_eq!(b.pipeline.relay(1, 0, &mut b.out), turns.then_some(Ok(())));
            assert_eq!(b.pipeline.relay(1, 1, &mut b.out), None);
            assert!(!b.pipeline.has_relayed());
            assert_eq!(b.datagrams().len(), usize::from(turns));
        }
    }

    #[test]
    fn what_is_taken_over_for_a_peer_that_is_gone_has_no_route() {
        let mut end = End::new(setup());
        let mut frame = Packet::with_payload(1000).super_frame(100);
        assert_eq!(end.pipeline.take_frame(1, 3, &mut frame, &mut end.out), Ok(()));
        assert_eq!((end.stats.dropped(DropReason::NoRoute), end.stats.snapshot().outbound.taken_over), (10, 10));
        assert_eq!(end.pipeline.take_frame(1, 0, &mut frame, &mut end.out), Ok(()));
        assert_eq!(end.datagrams().len(), 10);
        assert_eq!(end.pipeline.take_frame(1, 0, &mut [0; 20], &mut end.out), Ok(()));
        assert_eq!((end.stats.dropped(DropReason::NotIp), end.stats.snapshot().dropped_total()), (1, 11));
    }

    #[test]
    fn what_a_peer_sent_and_got_is_credited_to_it_alone() {
        let (mut a, mut b) = pair();
        let other = PeerSetup { peer: 1, wire_peer_id: Some(6), path: path(7), counters: Arc::default(), ..setup() };
        let mine = Arc::clone(&b.pipeline.peers.get(0).unwrap().setup.counters);
        b.pipeline.add_peer(1, other.clone());
        let wire = a.send(&Packet::with_payload(300).super_frame(100));
        let mut train = wire.concat();
        // Not authenticated, and another peer's: neither is credited.
        let mut forged = wire[0].clone();
        forged[3] = 6;
        train.extend(&forged);
        b.receive_at(9, path(1194), &train, wire[0].len());
        b.packets();
        let bytes = a.stats.snapshot().outbound.inner_bytes;
        assert_eq!((mine.packets_in(), mine.bytes_in(), mine.last_heard_ns()), (3, bytes, 9));
        assert_eq!((other.counters.packets_in(), other.counters.last_heard_ns()), (0, 0));
        b.out.clear();
        b.send(&Packet::with_payload(200).super_frame(100));
        assert_eq!((mine.packets_out(), mine.packets_in()), (2, 3));
        assert!(a.pipeline.ping_now(1, 0, &mut a.out));
        let ping = a.datagrams().pop().unwrap();
        b.receive_at(12, path(1194), &ping, ping.len());
        assert_eq!((mine.packets_in(), mine.last_heard_ns()), (3, 12), "a keepalive is a sign of life and no packet");
    }

    #[test]
    fn a_removed_peer_is_unknown() {
        let (mut a, mut b) = pair();
        let wire = a.send(&Packet::default().frame()).remove(0);
        assert!(b.pipeline.remove_peer(0) && !b.pipeline.remove_peer(0));
        assert!(!b.pipeline.update_peer(1, setup()) && !b.pipeline.set_path(0, path(1)));
        b.receive(&wire);
        assert_eq!(b.dropped(DropReason::UnknownPeer), 1);
    }

    proptest! {
        #[test]
        fn no_datagram_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), segment in 0usize..400, first in 0u8..16) {
            let mut end = End::new(setup());
            let mut bytes = bytes;
            if let Some(byte) = bytes.first_mut() { *byte = first << 3; }
            end.receive_at(1, path(1194), &bytes, segment);
            prop_assert!(end.packets().is_empty());
        }

        #[test]
        fn no_authenticated_payload_makes_it_panic(mut payload in prop::collection::vec(any::<u8>(), 1..300), version in 0u8..3) {
            if version > 0 { payload[0] = version << 5 | 5 }
            let mut a = End::new(setup());
            let mut b = End::new(PeerSetup { mssfix: Some(MssLimits { v4: 1, v6: 1 }), ..setup() });
            send_in_band(1, a.pipeline.peers.get_mut(0).unwrap(), &payload, &mut a.out).unwrap();
            b.receive(&a.datagrams()[0]);
            let _ = b.packets();
        }
    }
}
