//! TUN → network: [`Pipeline::outbound`], and what of other workers and of peers goes the same way.

use super::{BatchFull, Pipeline};
use crate::datachannel::mssfix;
use crate::drop_reason::DropReason;
use crate::networkio::gso::{MAX_UDP_PAYLOAD, WireBatch};
use crate::tun::too_big::TooBig;
use crate::tun::virtio::VNET_HDR_LEN;
use crate::tun::{ip, split};
use crate::workers::handover::What;

impl Pipeline {
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
        let packet = &frame[VNET_HDR_LEN..];
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
            let packet = &mut frame[VNET_HDR_LEN..];
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
