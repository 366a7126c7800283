//! The half of a peer's keys that seals: packet ids, the usage limits of the sending direction, and which key sends. It knows
//! nothing of what arrives but what [`Crossing`] tells it.
//!
//! No nonce is used twice, because a key's name must be greater than that of every key that was ever installed here, and because
//! packet ids only grow.

use std::sync::Arc;

use link::message::{InstallKey, KeyLimits, KeyName, KeyRefusal, Path, UsageReason, WorkerEvent};

use super::aead::{Aead, PacketIds, SealingKey};
use super::crossing::{Crossing, rank};
use super::header::SendHeader;
use super::keyring::SLOTS;
use super::usage::{Asks, Usage};
use crate::drop_reason::DropReason;
use crate::networkio::gso::WireBatch;
use crate::tun::split::Segments;

/// The keys of one peer that seal: one sends, the others wait or stand by until they retire.
#[derive(Debug)]
pub struct SealingKeys {
    /// Newest first, at most [`SLOTS`].
    // Boxed, so that a key is never moved: a move would leave a copy behind that nobody wipes.
    #[allow(clippy::vec_box)]
    slots: Vec<Box<Slot>>,
    /// Which slot seals.
    sending: Option<usize>,
    /// The greatest name ever installed.
    last: Option<(u32, u32)>,
    /// The sending direction moved, and nobody was told yet.
    sending_moved: bool,
    /// Some key has a usage event to tell, or `sending_moved`.
    has_events: bool,
    crossing: Arc<Crossing>,
}

/// A key that can seal and is not installed yet. It may go to another thread.
#[derive(Debug)]
pub struct NewSealingKey(Box<Slot>);

#[derive(Debug)]
struct Slot {
    name: KeyName,
    header: SendHeader,
    key: SealingKey,
    limits: KeyLimits,
    /// The next packet id to seal with. It starts at 1 and is never set back.
    next_id: u64,
    sent: Usage,
    asks: Asks,
    send_from_ns: u64,
    /// When its predecessors of the same generation end.
    retire_previous_ns: u64,
    expires_ns: u64,
}

/// Packet ids that are reserved, and the key that goes with them. An id that is not used is lost, never reused.
#[derive(Debug)]
pub struct Sealer<'a> {
    key: &'a mut SealingKey,
    header: &'a SendHeader,
    ids: PacketIds,
}

impl Sealer<'_> {
    /// Seals with the next reserved id; see [`SealingKey::seal`]. False also when no reserved id is left.
    #[inline]
    pub fn seal(&mut self, plaintext: &[u8], out: &mut [u8]) -> bool {
        self.ids.take().is_some_and(|id| self.key.seal(self.header, id, plaintext, out))
    }

    /// Seals every packet into the batch with consecutive ids; see [`SealingKey::seal_all`]. How many it sealed.
    #[inline]
    pub fn seal_all(&mut self, packets: &mut Segments<'_>, path: &Path, out: &mut WireBatch) -> usize {
        self.key.seal_all(self.header, &mut self.ids, packets, path, out)
    }
}

impl NewSealingKey {
    /// The sealing direction of this key. `None`: it is no key of its cipher, or a number in it is out of bounds.
    pub fn new(aead: &Aead, key: &InstallKey) -> Option<Self> {
        if key.name.key_id > 7 || key.wire_peer_id.is_some_and(|id| id > 0x00ff_ffff) {
            return None;
        }
        Some(NewSealingKey(Box::new(Slot {
            name: key.name,
            header: SendHeader::new(key.wire_peer_id, key.name.key_id),
            key: SealingKey::new(aead, key.cipher, &key.seal)?,
            limits: key.limits,
            next_id: 1,
            sent: Usage::default(),
            asks: Asks::default(),
            send_from_ns: key.send_from_ns,
            retire_previous_ns: key.retire_previous_ns,
            expires_ns: u64::MAX,
        })))
    }

    /// Its name.
    pub fn name(&self) -> KeyName {
        self.0.name
    }
}

impl SealingKeys {
    /// No keys. `last`: the greatest name that the peer ever had, so that none is installed twice.
    pub fn new(last: Option<(u32, u32)>, crossing: Arc<Crossing>) -> Self {
        let slots = Vec::with_capacity(SLOTS + 1);
        SealingKeys { slots, sending: None, last, sending_moved: false, has_events: false, crossing }
    }

    /// The greatest name ever installed.
    pub fn last_name(&self) -> Option<(u32, u32)> {
        self.last
    }

    /// The name of the key that seals.
    pub fn sending(&self) -> Option<KeyName> {
        self.sending_slot().map(|slot| slot.name)
    }

    /// By how many bytes a packet grows when it is sealed now; `None` without a key.
    #[inline]
    pub fn overhead(&self) -> Option<usize> {
        self.sending_slot().map(|slot| slot.header.overhead())
    }

    /// Installs a key.
    ///
    /// # Errors
    /// [`KeyRefusal::NotNewer`].
    pub fn install(&mut self, now_ns: u64, key: NewSealingKey) -> Result<(), KeyRefusal> {
        let NewSealingKey(slot) = key;
        let (generation, name) = (slot.name.generation, (slot.name.generation, slot.name.negotiation));
        if self.last.is_some_and(|last| name <= last) {
            return Err(KeyRefusal::NotNewer);
        }
        self.last = Some(name);
        for older in self.slots.iter_mut().filter(|older| older.name.generation == generation) {
            older.expires_ns = older.expires_ns.min(slot.retire_previous_ns);
        }
        let first_of_generation = self.slots.first().is_none_or(|newest| newest.name.generation < generation);
        self.slots.insert(0, slot);
        self.sending = self.sending.map(|at| at + 1);
        self.slots.truncate(SLOTS);
        if first_of_generation {
            self.send_from_slot(0);
        }
        self.advance(now_ns);
        Ok(())
    }

    /// Moves the sending direction to this key, unless it already sends with a newer one or the name is unknown.
    pub fn send_with(&mut self, name: KeyName) {
        if let Some(at) = self.slots.iter().position(|slot| slot.name == name) {
            self.promote(at);
        }
    }

    /// Moves the sending direction to the newest key that the peer has proven to have. Call it once per batch, before
    /// [`overhead`](Self::overhead) and [`reserve`](Self::reserve). Costs one relaxed load when there is no news.
    #[inline]
    pub fn follow(&mut self) {
        let proven = self.crossing.proven();
        if proven > self.sending_slot().map_or(0, |slot| rank(slot.name)) {
            self.follow_to(proven);
        }
    }

    #[cold]
    fn follow_to(&mut self, proven: u64) {
        // It may not be here yet, or no more.
        if let Some(at) = self.slots.iter().position(|slot| rank(slot.name) == proven) {
            self.promote(at);
        }
    }

    /// Forgets every key of a generation.
    pub fn drop_keys(&mut self, generation: u32) {
        let sending = self.sending();
        self.slots.retain(|slot| slot.name.generation != generation);
        self.find_sending(sending);
    }

    /// What time does: keys retire, the sending direction moves on. Call it in every tick.
    pub fn advance(&mut self, now_ns: u64) {
        self.follow();
        let sending = self.sending();
        self.slots.retain(|slot| now_ns < slot.expires_ns);
        self.find_sending(sending);
        let due = self.slots.iter().position(|slot| now_ns >= slot.send_from_ns);
        if let Some(at) = due {
            self.promote(at);
        }
    }

    /// When [`advance`](Self::advance) next has something to do; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        let sending = self.sending.unwrap_or(0);
        let switches = self.slots.iter().take(sending).map(|slot| slot.send_from_ns);
        let ends = self.slots.iter().map(|slot| slot.expires_ns);
        switches.chain(ends).min().unwrap_or(u64::MAX)
    }

    /// There is something for [`poll_event`](Self::poll_event) to tell.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.has_events
    }

    /// The next thing that the control process has to hear: [`WorkerEvent::KeySending`], [`WorkerEvent::KeyUsage`].
    pub fn poll_event(&mut self) -> Option<WorkerEvent> {
        if std::mem::take(&mut self.sending_moved)
            && let Some(name) = self.sending()
        {
            return Some(WorkerEvent::KeySending(name));
        }
        for slot in &mut self.slots {
            if let Some(reason) = slot.asks.take() {
                return Some(WorkerEvent::KeyUsage(slot.name, reason));
            }
        }
        self.has_events = false;
        None
    }

    /// Reserves consecutive packet ids for the packets that `usage` sums up.
    ///
    /// # Errors
    /// [`DropReason::NoKey`], or [`DropReason::KeyExhausted`] at a hard limit: then nothing is reserved.
    #[inline]
    pub fn reserve(&mut self, usage: Usage) -> Result<Sealer<'_>, DropReason> {
        let slot = self.sending.and_then(|at| self.slots.get_mut(at)).ok_or(DropReason::NoKey)?;
        let first = slot.next_id;
        let end = first + usage.packets;
        let used = slot.sent.aead.saturating_add(usage.aead);
        let ids_are_used_up = end - 1 > u64::from(slot.limits.hard_packet_id);
        if ids_are_used_up || used > slot.limits.hard_aead {
            let reason = if ids_are_used_up { UsageReason::PacketId } else { UsageReason::AeadLimit };
            self.has_events |= slot.asks.ask(reason, true);
            return Err(DropReason::KeyExhausted);
        }
        let ids = PacketIds::new(first, usage.packets).ok_or(DropReason::KeyExhausted)?;
        slot.next_id = end;
        slot.sent.add(usage);
        self.has_events |= slot.asks.ask(UsageReason::PacketId, end > u64::from(slot.limits.soft_packet_id));
        self.has_events |= slot.asks.ask_if_used(slot.sent, &slot.limits);
        Ok(Sealer { key: &mut slot.key, header: &slot.header, ids })
    }

    /// Moves the sending direction to a slot that is newer than the one that sends.
    fn promote(&mut self, at: usize) {
        if self.sending.is_none_or(|sending| at < sending) {
            self.send_from_slot(at);
        }
    }

    fn send_from_slot(&mut self, at: usize) {
        self.sending = Some(at);
        self.sending_moved = true;
        self.has_events = true;
    }

    /// Slots have gone: finds the sending key again, or the newest instead of it.
    fn find_sending(&mut self, was: Option<KeyName>) {
        self.sending = was.and_then(|name| self.slots.iter().position(|slot| slot.name == name));
        if self.sending.is_none() && !self.slots.is_empty() {
            self.send_from_slot(0);
        }
    }

    #[inline]
    fn sending_slot(&self) -> Option<&Slot> {
        self.sending.and_then(|at| self.slots.get(at)).map(|slot| &**slot)
    }
}
