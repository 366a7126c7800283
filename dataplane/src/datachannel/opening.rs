//! The half of a peer's keys that opens: up to three of them, their replay windows and their failure limits. What the sealing half
//! has to know of it, that a packet authenticated on a newer key, it writes into [`Crossing`].

use std::sync::Arc;

use link::message::{InstallKey, KeyLimits, KeyName, KeyRefusal, WorkerEvent};

use super::aead::{Aead, OpeningKey};
use super::crossing::Crossing;
use super::header::{DataHeader, Parts};
use super::keyring::SLOTS;
use super::replay::ReplayWindow;
use super::usage::{Asks, Usage};
use crate::drop_reason::DropReason;

/// The keys of one peer that open.
#[derive(Debug)]
pub struct OpeningKeys {
    /// Newest first, at most [`SLOTS`].
    // Boxed, so that a key is never moved: a move would leave a copy behind that nobody wipes.
    #[allow(clippy::vec_box)]
    slots: Vec<Box<Slot>>,
    /// The greatest name ever installed.
    last: Option<(u32, u32)>,
    /// A newer key was proven, and nobody was told yet.
    proven: bool,
    /// Some key has a usage event to tell.
    has_events: bool,
    replay_window: u32,
    replay_time_s: u32,
    crossing: Arc<Crossing>,
}

#[derive(Debug)]
struct Slot {
    name: KeyName,
    key: OpeningKey,
    replay: ReplayWindow,
    limits: KeyLimits,
    received: Usage,
    failures: u64,
    asks: Asks,
    expires_ns: u64,
}

impl OpeningKeys {
    /// No keys. `last`: the greatest name that the peer ever had, so that none is installed twice.
    pub fn new(replay_window: u32, replay_time_s: u32, last: Option<(u32, u32)>, crossing: Arc<Crossing>) -> Self {
        OpeningKeys {
            slots: Vec::with_capacity(SLOTS + 1),
            last,
            proven: false,
            has_events: false,
            replay_window,
            replay_time_s,
            crossing,
        }
    }

    /// The window of keys installed from now on.
    pub fn set_replay(&mut self, window: u32, time_s: u32) {
        (self.replay_window, self.replay_time_s) = (window, time_s);
    }

    /// The greatest name ever installed.
    pub fn last_name(&self) -> Option<(u32, u32)> {
        self.last
    }

    /// The names of all keys, newest first.
    pub fn names(&self) -> impl Iterator<Item = KeyName> {
        self.slots.iter().map(|slot| slot.name)
    }

    /// Installs a key, to be used with this AEAD.
    ///
    /// # Errors
    /// [`KeyRefusal::NotNewer`], [`KeyRefusal::BadKey`].
    pub fn install(&mut self, aead: &Aead, now_ns: u64, key: &InstallKey) -> Result<(), KeyRefusal> {
        let name = (key.name.generation, key.name.negotiation);
        if self.last.is_some_and(|last| name <= last) {
            return Err(KeyRefusal::NotNewer);
        }
        let slot = Slot::new(aead, key, self.replay_window, self.replay_time_s).ok_or(KeyRefusal::BadKey)?;
        self.last = Some(name);
        for older in self.slots.iter_mut().filter(|older| older.name.generation == key.name.generation) {
            older.expires_ns = older.expires_ns.min(key.retire_previous_ns);
        }
        self.slots.insert(0, Box::new(slot));
        self.slots.truncate(SLOTS);
        self.advance(now_ns);
        Ok(())
    }

    /// Forgets one key, which the sealing half refused. Its name does not come again.
    pub fn forget(&mut self, name: KeyName) {
        self.slots.retain(|slot| slot.name != name);
    }

    /// Forgets every key of a generation.
    pub fn drop_keys(&mut self, generation: u32) {
        self.slots.retain(|slot| slot.name.generation != generation);
    }

    /// What time does: keys retire. Call it in every tick.
    pub fn advance(&mut self, now_ns: u64) {
        self.slots.retain(|slot| now_ns < slot.expires_ns);
    }

    /// When [`advance`](Self::advance) next has something to do; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        self.slots.iter().map(|slot| slot.expires_ns).min().unwrap_or(u64::MAX)
    }

    /// There is something for [`poll_event`](Self::poll_event) to tell.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.has_events
    }

    /// Since the last call, a newer key than ever before was proven: the sealing half may follow.
    #[inline]
    pub fn take_proven(&mut self) -> bool {
        self.proven && std::mem::take(&mut self.proven)
    }

    /// The next thing that the control process has to hear: [`WorkerEvent::KeyUsage`].
    pub fn poll_event(&mut self) -> Option<WorkerEvent> {
        for slot in &mut self.slots {
            if let Some(reason) = slot.asks.take() {
                return Some(WorkerEvent::KeyUsage(slot.name, reason));
            }
        }
        self.has_events = false;
        None
    }

    /// Whether the sealing half's question for this key's successor is the first one. From now on it counts as told.
    pub fn may_ask(&mut self, name: KeyName) -> bool {
        match self.slots.iter_mut().find(|slot| slot.name == name) {
            Some(slot) => std::mem::replace(&mut slot.asks, Asks::Told) != Asks::Told,
            None => true,
        }
    }

    /// Moves the replay windows' time on. Call it once per batch, before [`open`](Self::open).
    #[inline]
    pub fn begin_batch(&mut self, now_ns: u64) {
        for slot in &mut self.slots {
            slot.replay.advance(now_ns);
        }
    }

    /// Opens a packet into `out` (as long as its ciphertext) and remembers its id. `true`: its id is the highest of its key, so that
    /// it is no late packet. Two generations may share a key-id: the newer key is tried first.
    ///
    /// # Errors
    /// [`DropReason::UnknownKey`], or what the last key tried objected to; `out` is undefined then.
    #[inline]
    pub fn open(
        &mut self,
        now_ns: u64,
        header: &DataHeader,
        parts: &Parts<'_>,
        out: &mut [u8],
    ) -> Result<bool, DropReason> {
        let mut refusal = DropReason::UnknownKey;
        for slot in &mut self.slots {
            if slot.name.key_id != header.key_id || now_ns >= slot.expires_ns {
                continue;
            }
            match slot.open(header.packet_id, parts, out) {
                Ok(highest) => {
                    self.has_events |= slot.asks.ask_if_used(slot.received, &slot.limits);
                    self.proven |= self.crossing.prove(slot.name);
                    return Ok(highest);
                }
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }
}

impl Slot {
    fn new(aead: &Aead, key: &InstallKey, replay_window: u32, replay_time_s: u32) -> Option<Self> {
        Some(Slot {
            name: key.name,
            key: OpeningKey::new(aead, key.cipher, &key.open)?,
            replay: ReplayWindow::new(replay_window, replay_time_s),
            limits: key.limits,
            received: Usage::default(),
            failures: 0,
            asks: Asks::default(),
            expires_ns: u64::MAX,
        })
    }

    #[inline]
    fn open(&mut self, packet_id: u32, parts: &Parts<'_>, out: &mut [u8]) -> Result<bool, DropReason> {
        if self.failures >= self.limits.hard_failures {
            return Err(DropReason::FailureLimit);
        }
        self.replay.peek(packet_id)?;
        if !self.key.open(packet_id, parts, out) {
            self.failures += 1;
            return Err(DropReason::AuthenticationFailed);
        }
        let highest = packet_id > self.replay.highest();
        self.replay.commit(packet_id);
        self.received.add(Usage::packet(out.len()));
        Ok(highest)
    }
}
