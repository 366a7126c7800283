//! The data keys of one peer: up to three that open, one of them seals.
//!
//! - A key's name `(generation, negotiation)` must be greater than that of every key the peer ever had: no nonce can be used twice.
//! - The sending direction moves to a newer key at the first of: a packet authenticated on it, its `send_from_ns`, [`Keyring::send_with`],
//!   or the end of the key that sends. The first key of a newer generation sends at once.
//! - Keys of one generation retire at the `retire_previous_ns` of their successor; those of an older generation stay until
//!   [`Keyring::drop_keys`], or until a fourth key displaces them.
//! - At a soft limit the key asks for a successor, once; at a hard limit it stops.
//!
//! What the control process has to hear is collected and read with [`Keyring::poll_event`].

use link::message::{InstallKey, KeyLimits, KeyName, KeyRefusal, Path, UsageReason, WorkerEvent};

use super::aead::{Aead, OpeningKey, PacketIds, SealingKey};
use super::header::{DataHeader, Parts, SendHeader};
use super::replay::ReplayWindow;
use crate::drop_reason::DropReason;
use crate::networkio::gso::WireBatch;
use crate::tun::split::Segments;

/// How many keys open at a time.
pub const RECEIVE_SLOTS: usize = 3;

/// The keys of one peer.
#[derive(Debug)]
pub struct Keyring {
    /// Newest first, at most [`RECEIVE_SLOTS`].
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
    replay_window: u32,
    replay_time_s: u32,
}

/// One installed key pair.
#[derive(Debug)]
struct Slot {
    name: KeyName,
    header: SendHeader,
    seal: SealingKey,
    open: OpeningKey,
    replay: ReplayWindow,
    limits: KeyLimits,
    /// The next packet id to seal with. It starts at 1 and is never set back.
    next_id: u64,
    sent: Usage,
    received: Usage,
    failures: u64,
    asks: Asks,
    send_from_ns: u64,
    expires_ns: u64,
}

/// What one direction of a key has carried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Packets.
    pub packets: u64,
    /// Plaintext bytes.
    pub bytes: u64,
    /// 16-byte blocks of plaintext and packets together, as the AEAD limits count.
    pub aead: u64,
}

impl Usage {
    /// One packet of `len` bytes.
    #[inline]
    pub fn packet(len: usize) -> Self {
        Usage { packets: 1, bytes: len as u64, aead: len.div_ceil(16) as u64 + 1 }
    }

    /// `count` packets of `len` bytes each and one of `last` bytes.
    #[inline]
    pub fn packets(count: usize, len: usize, last: usize) -> Self {
        let (n, one, end) = (count as u64, Usage::packet(len), Usage::packet(last));
        Usage { packets: n + 1, bytes: n * one.bytes + end.bytes, aead: n * one.aead + end.aead }
    }

    #[inline]
    fn add(&mut self, more: Usage) {
        self.packets = self.packets.saturating_add(more.packets);
        self.bytes = self.bytes.saturating_add(more.bytes);
        self.aead = self.aead.saturating_add(more.aead);
    }
}

/// The one question for a successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asks {
    NotYet,
    Wants(UsageReason),
    Told,
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

impl Keyring {
    /// No keys. `last`: the greatest name that the peer ever had, so that none is installed twice.
    pub fn new(replay_window: u32, replay_time_s: u32, last: Option<(u32, u32)>) -> Self {
        Keyring {
            slots: Vec::with_capacity(RECEIVE_SLOTS + 1),
            sending: None,
            last,
            sending_moved: false,
            has_events: false,
            replay_window,
            replay_time_s,
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

    /// The name of the key that seals.
    pub fn sending(&self) -> Option<KeyName> {
        self.sending_slot().map(|slot| slot.name)
    }

    /// The names of all keys that open, newest first.
    pub fn names(&self) -> impl Iterator<Item = KeyName> {
        self.slots.iter().map(|slot| slot.name)
    }

    /// By how many bytes a packet grows when it is sealed now; `None` without a key.
    #[inline]
    pub fn overhead(&self) -> Option<usize> {
        self.sending_slot().map(|slot| slot.header.overhead())
    }

    /// Installs a key, to be used with this AEAD. The caller tells the control process what came of it, before it polls events.
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
        let first_of_generation = self.slots.first().is_none_or(|newest| newest.name.generation < key.name.generation);
        self.slots.insert(0, Box::new(slot));
        self.sending = self.sending.map(|at| at + 1);
        self.slots.truncate(RECEIVE_SLOTS);
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

    /// Forgets every key of a generation.
    pub fn drop_keys(&mut self, generation: u32) {
        let sending = self.sending();
        self.slots.retain(|slot| slot.name.generation != generation);
        self.find_sending(sending);
    }

    /// What time does: keys retire, the sending direction moves on. Call it in every tick.
    pub fn advance(&mut self, now_ns: u64) {
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

    /// The next thing that the control process has to hear.
    pub fn poll_event(&mut self) -> Option<WorkerEvent> {
        if std::mem::take(&mut self.sending_moved)
            && let Some(name) = self.sending()
        {
            return Some(WorkerEvent::KeySending(name));
        }
        for slot in &mut self.slots {
            if let Asks::Wants(reason) = slot.asks {
                slot.asks = Asks::Told;
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
            self.has_events |= slot.ask(reason, true);
            return Err(DropReason::KeyExhausted);
        }
        let ids = PacketIds::new(first, usage.packets).ok_or(DropReason::KeyExhausted)?;
        slot.next_id = end;
        slot.sent.add(usage);
        self.has_events |= slot.ask(UsageReason::PacketId, end > u64::from(slot.limits.soft_packet_id));
        self.has_events |= slot.ask_if_used(slot.sent);
        Ok(Sealer { key: &mut slot.seal, header: &slot.header, ids })
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
        for at in 0..self.slots.len() {
            let slot = &mut self.slots[at];
            if slot.name.key_id != header.key_id || now_ns >= slot.expires_ns {
                continue;
            }
            match slot.open(header.packet_id, parts, out) {
                Ok(highest) => {
                    self.has_events |= slot.ask_if_used(slot.received);
                    self.promote(at);
                    return Ok(highest);
                }
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    /// Moves the sending direction to a slot that is newer than the one that sends.
    #[inline]
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

impl Slot {
    fn new(aead: &Aead, key: &InstallKey, replay_window: u32, replay_time_s: u32) -> Option<Self> {
        if key.name.key_id > 7 || key.wire_peer_id.is_some_and(|id| id > 0x00ff_ffff) {
            return None;
        }
        Some(Slot {
            name: key.name,
            header: SendHeader::new(key.wire_peer_id, key.name.key_id),
            seal: SealingKey::new(aead, key.cipher, &key.seal)?,
            open: OpeningKey::new(aead, key.cipher, &key.open)?,
            replay: ReplayWindow::new(replay_window, replay_time_s),
            limits: key.limits,
            next_id: 1,
            sent: Usage::default(),
            received: Usage::default(),
            failures: 0,
            asks: Asks::NotYet,
            send_from_ns: key.send_from_ns,
            expires_ns: u64::MAX,
        })
    }

    #[inline]
    fn open(&mut self, packet_id: u32, parts: &Parts<'_>, out: &mut [u8]) -> Result<bool, DropReason> {
        if self.failures >= self.limits.hard_failures {
            return Err(DropReason::FailureLimit);
        }
        self.replay.peek(packet_id)?;
        if !self.open.open(packet_id, parts, out) {
            self.failures += 1;
            return Err(DropReason::AuthenticationFailed);
        }
        let highest = packet_id > self.replay.highest();
        self.replay.commit(packet_id);
        self.received.add(Usage::packet(out.len()));
        Ok(highest)
    }

    /// Asks for a successor when `reached`; true when that is news.
    #[inline]
    fn ask(&mut self, reason: UsageReason, reached: bool) -> bool {
        let news = reached && self.asks == Asks::NotYet;
        if news {
            self.asks = Asks::Wants(reason);
        }
        news
    }

    #[inline]
    fn ask_if_used(&mut self, usage: Usage) -> bool {
        if self.asks != Asks::NotYet {
            return false;
        }
        self.ask(UsageReason::Bytes, usage.bytes >= self.limits.soft_bytes)
            || self.ask(UsageReason::Packets, usage.packets >= self.limits.soft_packets)
            || self.ask(UsageReason::AeadLimit, usage.aead >= self.limits.soft_aead)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use link::message::{Cipher, DirectionKey, Secret};

    pub(crate) const LIMITS: KeyLimits = KeyLimits {
        soft_packet_id: 0xff00_0000,
        hard_packet_id: u32::MAX,
        soft_bytes: u64::MAX,
        soft_packets: u64::MAX,
        soft_aead: u64::MAX,
        hard_aead: (1 << 36) - 1,
        hard_failures: 1 << 36,
    };
    pub(crate) const SECOND: u64 = 1_000_000_000;

    /// A key pair of its own for every name; both directions are the same, so that a ring can open what it sealed.
    pub(crate) fn key(generation: u32, negotiation: u32) -> InstallKey {
        let byte = (generation * 16 + negotiation + 1) as u8;
        let direction = DirectionKey { key: Secret(vec![byte; 32]), implicit_iv: Secret(vec![byte; 8]) };
        InstallKey {
            name: KeyName { peer: 0, generation, negotiation, key_id: (negotiation % 8) as u8 },
            cipher: Cipher::Aes256Gcm,
            seal: direction.clone(),
            open: direction,
            wire_peer_id: Some(5),
            send_from_ns: u64::MAX,
            retire_previous_ns: u64::MAX,
            limits: LIMITS,
        }
    }

    fn ring() -> Keyring {
        Keyring::new(64, 15, None)
    }

    fn with(keys: &[InstallKey]) -> Keyring {
        let mut ring = ring();
        for key in keys {
            ring.install(&Aead::default(), 0, key).unwrap();
        }
        while ring.poll_event().is_some() {}
        ring
    }

    fn events(ring: &mut Keyring) -> Vec<WorkerEvent> {
        std::iter::from_fn(|| ring.poll_event()).collect()
    }

    fn seal(ring: &mut Keyring, plaintext: &[u8]) -> Result<Vec<u8>, DropReason> {
        let overhead = ring.overhead().ok_or(DropReason::NoKey)?;
        let mut out = vec![0; overhead + plaintext.len()];
        assert!(ring.reserve(Usage::packet(plaintext.len()))?.seal(plaintext, &mut out));
        Ok(out)
    }

    fn open(ring: &mut Keyring, now_ns: u64, packet: &[u8]) -> Result<bool, DropReason> {
        let (header, parts) = DataHeader::parse(packet).unwrap();
        ring.begin_batch(now_ns);
        ring.open(now_ns, &header, &parts, &mut vec![0; parts.ciphertext.len()])
    }

    /// A packet sealed with this key and no other.
    fn sealed_with(key: &InstallKey) -> Vec<u8> {
        seal(&mut with(std::slice::from_ref(key)), b"hello").unwrap()
    }

    #[test]
    fn without_a_key_nothing_is_sealed_or_opened() {
        let mut ring = ring();
        assert_eq!(ring.overhead(), None);
        assert_eq!(ring.reserve(Usage::packet(1)).unwrap_err(), DropReason::NoKey);
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Err(DropReason::UnknownKey));
        assert_eq!((ring.next_deadline(), ring.poll_event()), (u64::MAX, None));
    }

    #[test]
    fn the_first_key_sends_at_once_and_counts_its_packets_from_1() {
        let mut ring = ring();
        ring.install(&Aead::default(), 0, &key(0, 0)).unwrap();
        assert!(ring.has_events());
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 0).name)]);
        assert!(!ring.has_events());
        for id in 1..=3u32 {
            let packet = seal(&mut ring, b"hello").unwrap();
            assert_eq!(packet[..4], [9 << 3, 0, 0, 5]);
            assert_eq!(packet[4..8], id.to_be_bytes());
        }
    }

    #[test]
    fn a_name_that_is_not_newer_is_refused() {
        let mut ring = ring();
        ring.install(&Aead::default(), 0, &key(1, 2)).unwrap();
        for (generation, negotiation) in [(1, 2), (1, 1), (0, 9), (0, 0)] {
            assert_eq!(ring.install(&Aead::default(), 0, &key(generation, negotiation)), Err(KeyRefusal::NotNewer));
        }
        assert_eq!(ring.install(&Aead::default(), 0, &key(1, 3)), Ok(()));
        assert_eq!(ring.install(&Aead::default(), 0, &key(2, 0)), Ok(()));
        ring.drop_keys(2);
        assert_eq!(
            ring.install(&Aead::default(), 0, &key(2, 0)),
            Err(KeyRefusal::NotNewer),
            "not even after it was dropped"
        );
        let mut later = Keyring::new(64, 15, ring.last_name());
        assert_eq!(
            later.install(&Aead::default(), 0, &key(2, 0)),
            Err(KeyRefusal::NotNewer),
            "nor by a peer of the same handle"
        );
        assert_eq!(later.install(&Aead::default(), 0, &key(2, 1)), Ok(()));
    }

    #[test]
    fn a_bad_key_is_refused_and_its_name_may_still_come() {
        let mut ring = ring();
        let good = key(0, 0);
        let short = DirectionKey { key: Secret(vec![1; 16]), implicit_iv: Secret(vec![1; 8]) };
        for bad in [
            InstallKey { seal: short.clone(), ..good.clone() },
            InstallKey { open: short, ..good.clone() },
            InstallKey { wire_peer_id: Some(1 << 24), ..good.clone() },
            InstallKey { name: KeyName { key_id: 8, ..good.name }, ..good.clone() },
        ] {
            assert_eq!(ring.install(&Aead::default(), 0, &bad), Err(KeyRefusal::BadKey));
        }
        assert_eq!(ring.install(&Aead::default(), 0, &good), Ok(()));
    }

    #[test]
    fn the_successor_sends_when_a_packet_authenticated_on_it() {
        let mut ring = with(&[key(0, 0), key(0, 1)]);
        assert_eq!(ring.sending(), Some(key(0, 0).name));
        let mut forged = sealed_with(&key(0, 1));
        forged[30 - 2] ^= 1;
        assert_eq!(open(&mut ring, 0, &forged), Err(DropReason::AuthenticationFailed));
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Ok(true));
        assert_eq!(ring.sending(), Some(key(0, 0).name));
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 1))), Ok(true));
        assert_eq!(ring.sending(), Some(key(0, 1).name));
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
    }

    #[test]
    fn the_successor_sends_from_its_instant_on() {
        let next = InstallKey { send_from_ns: 10 * SECOND, ..key(0, 1) };
        let mut ring = with(&[key(0, 0), next]);
        assert_eq!(ring.next_deadline(), 10 * SECOND);
        ring.advance(10 * SECOND - 1);
        assert_eq!(ring.sending(), Some(key(0, 0).name));
        ring.advance(10 * SECOND);
        assert_eq!(ring.sending(), Some(key(0, 1).name));
        assert_eq!(ring.next_deadline(), u64::MAX);
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
        let late = InstallKey { send_from_ns: 5 * SECOND, ..key(0, 2) };
        ring.install(&Aead::default(), 10 * SECOND, &late).unwrap();
        assert_eq!(ring.sending(), Some(key(0, 2).name), "the instant has passed already");
    }

    #[test]
    fn the_successor_sends_when_told() {
        let mut ring = with(&[key(0, 0), key(0, 1)]);
        ring.send_with(key(0, 9).name);
        assert_eq!(ring.sending(), Some(key(0, 0).name), "no such key");
        ring.send_with(key(0, 1).name);
        assert_eq!(ring.sending(), Some(key(0, 1).name));
        ring.send_with(key(0, 0).name);
        assert_eq!(ring.sending(), Some(key(0, 1).name), "never back");
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
    }

    #[test]
    fn the_old_key_opens_until_it_retires() {
        let next = InstallKey { retire_previous_ns: 10 * SECOND, ..key(0, 1) };
        let mut ring = with(&[key(0, 0), next]);
        let mut old = with(&[key(0, 0)]);
        assert_eq!(open(&mut ring, 10 * SECOND - 1, &seal(&mut old, b"1").unwrap()), Ok(true));
        assert_eq!(open(&mut ring, 10 * SECOND, &seal(&mut old, b"2").unwrap()), Err(DropReason::UnknownKey));
        assert_eq!(ring.next_deadline(), 10 * SECOND);
        ring.advance(10 * SECOND);
        assert_eq!(ring.names().collect::<Vec<_>>(), [key(0, 1).name]);
        assert_eq!(ring.sending(), Some(key(0, 1).name), "the one that is left sends");
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
    }

    #[test]
    fn a_new_generation_sends_at_once_and_the_old_one_opens_until_it_is_dropped() {
        let next = InstallKey { retire_previous_ns: 0, ..key(1, 0) };
        let mut ring = with(&[key(0, 0), next]);
        assert_eq!(ring.sending(), Some(key(1, 0).name));
        // Both have key-id 0.
        assert_eq!(open(&mut ring, SECOND, &sealed_with(&key(0, 0))), Ok(true));
        assert_eq!(open(&mut ring, SECOND, &sealed_with(&key(1, 0))), Ok(true));
        assert_eq!(ring.sending(), Some(key(1, 0).name), "an old key does not take the sending direction back");
        ring.drop_keys(0);
        let mut old = with(&[key(0, 0)]);
        let second = (0..2).map(|_| seal(&mut old, b"hello").unwrap()).last().unwrap();
        assert_eq!(open(&mut ring, SECOND, &second), Err(DropReason::AuthenticationFailed));
        assert_eq!(ring.sending(), Some(key(1, 0).name));
    }

    #[test]
    fn dropping_the_generation_that_sends_leaves_the_rest_to_send() {
        let mut ring = with(&[key(0, 0), key(1, 0)]);
        ring.drop_keys(1);
        assert_eq!(ring.sending(), Some(key(0, 0).name));
        ring.drop_keys(0);
        assert_eq!((ring.sending(), ring.overhead()), (None, None));
        assert_eq!(ring.reserve(Usage::packet(1)).unwrap_err(), DropReason::NoKey);
    }

    #[test]
    fn a_fourth_key_displaces_the_oldest() {
        let mut ring = with(&[key(0, 0), key(0, 1), key(0, 2)]);
        assert_eq!(ring.sending(), Some(key(0, 0).name));
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Ok(true));
        ring.install(&Aead::default(), 0, &key(0, 3)).unwrap();
        assert_eq!(ring.names().map(|name| name.negotiation).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Err(DropReason::UnknownKey));
        // The key that sent is gone: a packet must still find one.
        ring.advance(0);
        assert!(ring.sending().is_some());
        assert!(seal(&mut ring, b"x").is_ok());
    }

    #[test]
    fn a_packet_opens_once() {
        let mut ring = with(&[key(0, 0)]);
        let mut peer = with(&[key(0, 0)]);
        let first = seal(&mut peer, b"1").unwrap();
        let second = seal(&mut peer, b"2").unwrap();
        assert_eq!(open(&mut ring, 0, &second), Ok(true));
        assert_eq!(open(&mut ring, 0, &first), Ok(false), "a late one");
        assert_eq!(open(&mut ring, 0, &first), Err(DropReason::Replayed));
        assert_eq!(open(&mut ring, 0, &second), Err(DropReason::Replayed));
    }

    #[test]
    fn a_forged_packet_does_not_move_the_window() {
        let mut ring = with(&[key(0, 0)]);
        let packet = sealed_with(&key(0, 0));
        let mut forged = packet.clone();
        forged[4] = 0xff;
        assert_eq!(open(&mut ring, 0, &forged), Err(DropReason::AuthenticationFailed));
        assert_eq!(open(&mut ring, 0, &packet), Ok(true));
    }

    #[test]
    fn reserved_ids_follow_one_another_and_unused_ones_are_lost() {
        let mut ring = with(&[key(0, 0)]);
        let mut out = [0; 24 + 3];
        let mut sealer = ring.reserve(Usage::packets(2, 3, 3)).unwrap();
        assert!(sealer.seal(b"abc", &mut out));
        assert_eq!(out[4..8], 1u32.to_be_bytes());
        assert!(sealer.seal(b"abc", &mut out));
        assert_eq!(out[4..8], 2u32.to_be_bytes());
        let mut sealer = ring.reserve(Usage::packet(3)).unwrap();
        assert!(sealer.seal(b"abc", &mut out));
        assert_eq!(out[4..8], 4u32.to_be_bytes());
        assert!(!sealer.seal(b"abc", &mut out), "one more than was reserved");
    }

    #[test]
    fn usage_counts_blocks_and_packets() {
        assert_eq!(Usage::packet(16), Usage { packets: 1, bytes: 16, aead: 2 });
        assert_eq!(Usage::packet(17), Usage { packets: 1, bytes: 17, aead: 3 });
        assert_eq!(Usage::packets(2, 33, 16), Usage { packets: 3, bytes: 82, aead: 10 });
    }

    /// Seals one-byte packets (2 AEAD units each) until the key refuses; how many it sealed and what it asked for.
    fn exhaust(limits: KeyLimits, at_most: u64) -> (u64, Vec<(u64, UsageReason)>) {
        let mut ring = with(&[InstallKey { limits, ..key(0, 0) }]);
        let mut asked = Vec::new();
        for count in 1..=at_most {
            let sealed = seal(&mut ring, b"x");
            for event in events(&mut ring) {
                match event {
                    WorkerEvent::KeyUsage(_, reason) => asked.push((count, reason)),
                    other => panic!("{other:?}"),
                }
            }
            if let Err(reason) = sealed {
                assert_eq!(reason, DropReason::KeyExhausted);
                return (count - 1, asked);
            }
        }
        (at_most, asked)
    }

    #[test]
    fn sealing_stops_at_the_hard_limits() {
        assert_eq!(exhaust(KeyLimits { hard_packet_id: 5, ..LIMITS }, 20), (5, vec![(6, UsageReason::PacketId)]));
        assert_eq!(exhaust(KeyLimits { hard_aead: 10, ..LIMITS }, 20), (5, vec![(6, UsageReason::AeadLimit)]));
        assert_eq!(exhaust(KeyLimits { hard_aead: 11, ..LIMITS }, 20), (5, vec![(6, UsageReason::AeadLimit)]));
        assert_eq!(exhaust(LIMITS, 20), (20, vec![]));
    }

    #[test]
    fn a_batch_that_would_cross_the_hard_limit_reserves_nothing() {
        let limits = KeyLimits { hard_packet_id: 5, ..LIMITS };
        let mut ring = with(&[InstallKey { limits, ..key(0, 0) }]);
        assert_eq!(ring.reserve(Usage::packets(5, 1, 1)).unwrap_err(), DropReason::KeyExhausted);
        assert!(ring.reserve(Usage::packets(4, 1, 1)).is_ok());
        assert_eq!(ring.reserve(Usage::packet(1)).unwrap_err(), DropReason::KeyExhausted);
    }

    #[test]
    fn the_key_asks_once_at_each_soft_limit() {
        for (limits, at, reason) in [
            (KeyLimits { soft_packet_id: 4, ..LIMITS }, 4, UsageReason::PacketId),
            (KeyLimits { soft_packets: 4, ..LIMITS }, 4, UsageReason::Packets),
            (KeyLimits { soft_bytes: 4, ..LIMITS }, 4, UsageReason::Bytes),
            (KeyLimits { soft_aead: 8, ..LIMITS }, 4, UsageReason::AeadLimit),
            (KeyLimits { soft_aead: 7, ..LIMITS }, 4, UsageReason::AeadLimit),
        ] {
            assert_eq!(exhaust(limits, 20), (20, vec![(at, reason)]));
        }
    }

    #[test]
    fn what_is_received_counts_too() {
        for (limits, reason) in [
            (KeyLimits { soft_packets: 2, ..LIMITS }, UsageReason::Packets),
            (KeyLimits { soft_bytes: 10, ..LIMITS }, UsageReason::Bytes),
            (KeyLimits { soft_aead: 4, ..LIMITS }, UsageReason::AeadLimit),
        ] {
            let mut ring = with(&[InstallKey { limits, ..key(0, 0) }]);
            let mut peer = with(&[key(0, 0)]);
            for expected in [0, 1, 0] {
                open(&mut ring, 0, &seal(&mut peer, b"hello").unwrap()).unwrap();
                let asked = events(&mut ring);
                assert_eq!(asked, vec![WorkerEvent::KeyUsage(key(0, 0).name, reason); expected]);
            }
        }
    }

    #[test]
    fn a_key_that_failed_too_often_opens_nothing() {
        let limits = KeyLimits { hard_failures: 3, ..LIMITS };
        let mut ring = with(&[InstallKey { limits, ..key(0, 0) }]);
        let packet = sealed_with(&key(0, 0));
        let mut forged = packet.clone();
        forged[20] ^= 1;
        for _ in 0..2 {
            assert_eq!(open(&mut ring, 0, &forged), Err(DropReason::AuthenticationFailed));
        }
        assert_eq!(open(&mut ring, 0, &packet), Ok(true));
        assert_eq!(
            open(&mut ring, 0, &{
                let mut next = forged;
                next[7] = 2;
                next
            }),
            Err(DropReason::AuthenticationFailed)
        );
        let mut peer = with(&[key(0, 0)]);
        let second = (0..2).map(|_| seal(&mut peer, b"hello").unwrap()).last().unwrap();
        assert_eq!(open(&mut ring, 0, &second), Err(DropReason::FailureLimit));
    }
}
