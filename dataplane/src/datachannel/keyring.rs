//! The data keys of one peer: what opens ([`opening`](super::opening)) and what seals ([`sealing`](super::sealing)), and the rules
//! for both. One thread may use both halves, or two threads one each: then each has a ring whose other half stays empty.
//!
//! - A key's name `(generation, negotiation)` must be greater than that of every key the peer ever had: no nonce can be used twice.
//! - The sending direction moves to a newer key at the first of: a packet authenticated on it, its `send_from_ns`,
//!   [`SealingKeys::send_with`], or the end of the key that sends. The first key of a newer generation sends at once.
//! - A key opens before it seals: the peer may answer on it at once.
//! - Keys of one generation retire at the `retire_previous_ns` of their successor; those of an older generation stay until
//!   [`Keyring::drop_keys`], or until a fourth key displaces them.
//! - At a soft limit the key asks for a successor, once, whichever half reaches it; at a hard limit it stops.
//!
//! What the control process has to hear is collected and read with [`Keyring::poll_event`].

use std::sync::Arc;

use link::message::{InstallKey, KeyRefusal, WorkerEvent};

use super::aead::Aead;
use super::crossing::Crossing;
use super::opening::OpeningKeys;
use super::sealing::{NewSealingKey, SealingKeys};

/// How many keys a peer has at a time.
pub const SLOTS: usize = 3;

/// The keys of one peer.
#[derive(Debug)]
pub struct Keyring {
    /// What seals; without keys on a thread that only opens.
    pub seal: SealingKeys,
    /// What opens; without keys on a thread that only seals.
    pub open: OpeningKeys,
}

impl Keyring {
    /// No keys. `last`: the greatest name that the peer ever had, so that none is installed twice. `crossing`: the same one for both
    /// threads where there are two.
    pub fn new(replay_window: u32, replay_time_s: u32, last: Option<(u32, u32)>, crossing: Arc<Crossing>) -> Self {
        Keyring {
            seal: SealingKeys::new(last, Arc::clone(&crossing)),
            open: OpeningKeys::new(replay_window, replay_time_s, last, crossing),
        }
    }

    /// The greatest name ever installed.
    pub fn last_name(&self) -> Option<(u32, u32)> {
        self.seal.last_name().max(self.open.last_name())
    }

    /// Installs the opening half of a key, to be used with this AEAD. What comes back is for [`SealingKeys::install`], here or on the
    /// other thread; if that refuses it, [`OpeningKeys::forget`] is due.
    ///
    /// # Errors
    /// [`KeyRefusal::NotNewer`], [`KeyRefusal::BadKey`]: neither half has it.
    pub fn install_opening(&mut self, aead: &Aead, now_ns: u64, key: &InstallKey) -> Result<NewSealingKey, KeyRefusal> {
        let name = (key.name.generation, key.name.negotiation);
        if self.last_name().is_some_and(|last| name <= last) {
            return Err(KeyRefusal::NotNewer);
        }
        let sealing = NewSealingKey::new(aead, key).ok_or(KeyRefusal::BadKey)?;
        self.open.install(aead, now_ns, key)?;
        Ok(sealing)
    }

    /// Forgets every key of a generation.
    pub fn drop_keys(&mut self, generation: u32) {
        self.seal.drop_keys(generation);
        self.open.drop_keys(generation);
    }

    /// What time does: keys retire, the sending direction moves on. Call it in every tick.
    pub fn advance(&mut self, now_ns: u64) {
        self.seal.advance(now_ns);
        self.open.advance(now_ns);
    }

    /// When [`advance`](Self::advance) next has something to do; `u64::MAX`: never.
    pub fn next_deadline(&self) -> u64 {
        self.seal.next_deadline().min(self.open.next_deadline())
    }

    /// There is something for [`poll_event`](Self::poll_event) to tell.
    #[inline]
    pub fn has_events(&self) -> bool {
        self.seal.has_events() || self.open.has_events()
    }

    /// The next thing that the control process has to hear.
    pub fn poll_event(&mut self) -> Option<WorkerEvent> {
        while let Some(event) = self.seal.poll_event() {
            if self.is_news(&event) {
                return Some(event);
            }
        }
        self.open.poll_event()
    }

    /// Whether this event of a sealing half, here or on the other thread, is to be told: not when the opening half has asked for a
    /// successor of the same key already.
    pub fn is_news(&mut self, event: &WorkerEvent) -> bool {
        match event {
            WorkerEvent::KeyUsage(name, _) => self.open.may_ask(*name),
            _ => true,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::super::header::DataHeader;
    use super::super::usage::Usage;
    use super::*;
    use crate::drop_reason::DropReason;
    use link::message::{Cipher, DirectionKey, KeyLimits, KeyName, Secret, UsageReason};

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
        Keyring::new(64, 15, None, Arc::default())
    }

    /// Both halves at once.
    pub(crate) fn install(ring: &mut Keyring, now_ns: u64, key: &InstallKey) -> Result<(), KeyRefusal> {
        let sealing = ring.install_opening(&Aead::default(), now_ns, key)?;
        ring.seal.install(now_ns, sealing)
    }

    fn with(keys: &[InstallKey]) -> Keyring {
        let mut ring = ring();
        for key in keys {
            install(&mut ring, 0, key).unwrap();
        }
        while ring.poll_event().is_some() {}
        ring
    }

    fn events(ring: &mut Keyring) -> Vec<WorkerEvent> {
        std::iter::from_fn(|| ring.poll_event()).collect()
    }

    fn seal(ring: &mut Keyring, plaintext: &[u8]) -> Result<Vec<u8>, DropReason> {
        let overhead = ring.seal.overhead().ok_or(DropReason::NoKey)?;
        let mut out = vec![0; overhead + plaintext.len()];
        assert!(ring.seal.reserve(Usage::packet(plaintext.len()))?.seal(plaintext, &mut out));
        Ok(out)
    }

    fn open(ring: &mut Keyring, now_ns: u64, packet: &[u8]) -> Result<bool, DropReason> {
        let (header, parts) = DataHeader::parse(packet).unwrap();
        ring.open.begin_batch(now_ns);
        let opened = ring.open.open(now_ns, &header, &parts, &mut vec![0; parts.ciphertext.len()]);
        // As a batch does.
        ring.seal.follow();
        opened
    }

    /// A packet sealed with this key and no other.
    fn sealed_with(key: &InstallKey) -> Vec<u8> {
        seal(&mut with(std::slice::from_ref(key)), b"hello").unwrap()
    }

    #[test]
    fn without_a_key_nothing_is_sealed_or_opened() {
        let mut ring = ring();
        assert_eq!(ring.seal.overhead(), None);
        assert_eq!(ring.seal.reserve(Usage::packet(1)).unwrap_err(), DropReason::NoKey);
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Err(DropReason::UnknownKey));
        assert_eq!((ring.next_deadline(), ring.poll_event()), (u64::MAX, None));
    }

    #[test]
    fn the_first_key_sends_at_once_and_counts_its_packets_from_1() {
        let mut ring = ring();
        install(&mut ring, 0, &key(0, 0)).unwrap();
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
        install(&mut ring, 0, &key(1, 2)).unwrap();
        for (generation, negotiation) in [(1, 2), (1, 1), (0, 9), (0, 0)] {
            assert_eq!(install(&mut ring, 0, &key(generation, negotiation)), Err(KeyRefusal::NotNewer));
        }
        assert_eq!(install(&mut ring, 0, &key(1, 3)), Ok(()));
        assert_eq!(install(&mut ring, 0, &key(2, 0)), Ok(()));
        ring.drop_keys(2);
        assert_eq!(install(&mut ring, 0, &key(2, 0)), Err(KeyRefusal::NotNewer), "not even after it was dropped");
        let mut later = Keyring::new(64, 15, ring.last_name(), Arc::default());
        assert_eq!(install(&mut later, 0, &key(2, 0)), Err(KeyRefusal::NotNewer), "nor by a peer of the same handle");
        assert_eq!(install(&mut later, 0, &key(2, 1)), Ok(()));
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
            assert_eq!(install(&mut ring, 0, &bad), Err(KeyRefusal::BadKey));
        }
        assert_eq!(install(&mut ring, 0, &good), Ok(()));
    }

    #[test]
    fn the_successor_sends_when_a_packet_authenticated_on_it() {
        let mut ring = with(&[key(0, 0), key(0, 1)]);
        assert_eq!(ring.seal.sending(), Some(key(0, 0).name));
        let mut forged = sealed_with(&key(0, 1));
        forged[30 - 2] ^= 1;
        assert_eq!(open(&mut ring, 0, &forged), Err(DropReason::AuthenticationFailed));
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Ok(true));
        assert_eq!(ring.seal.sending(), Some(key(0, 0).name));
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 1))), Ok(true));
        assert_eq!(ring.seal.sending(), Some(key(0, 1).name));
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
    }

    #[test]
    fn the_successor_sends_from_its_instant_on() {
        let next = InstallKey { send_from_ns: 10 * SECOND, ..key(0, 1) };
        let mut ring = with(&[key(0, 0), next]);
        assert_eq!(ring.next_deadline(), 10 * SECOND);
        ring.advance(10 * SECOND - 1);
        assert_eq!(ring.seal.sending(), Some(key(0, 0).name));
        ring.advance(10 * SECOND);
        assert_eq!(ring.seal.sending(), Some(key(0, 1).name));
        assert_eq!(ring.next_deadline(), u64::MAX);
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
        let late = InstallKey { send_from_ns: 5 * SECOND, ..key(0, 2) };
        install(&mut ring, 10 * SECOND, &late).unwrap();
        assert_eq!(ring.seal.sending(), Some(key(0, 2).name), "the instant has passed already");
    }

    #[test]
    fn the_successor_sends_when_told() {
        let mut ring = with(&[key(0, 0), key(0, 1)]);
        ring.seal.send_with(key(0, 9).name);
        assert_eq!(ring.seal.sending(), Some(key(0, 0).name), "no such key");
        ring.seal.send_with(key(0, 1).name);
        assert_eq!(ring.seal.sending(), Some(key(0, 1).name));
        ring.seal.send_with(key(0, 0).name);
        assert_eq!(ring.seal.sending(), Some(key(0, 1).name), "never back");
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
        assert_eq!(ring.open.names().collect::<Vec<_>>(), [key(0, 1).name]);
        assert_eq!(ring.seal.sending(), Some(key(0, 1).name), "the one that is left sends");
        assert_eq!(events(&mut ring), [WorkerEvent::KeySending(key(0, 1).name)]);
    }

    #[test]
    fn a_new_generation_sends_at_once_and_the_old_one_opens_until_it_is_dropped() {
        let next = InstallKey { retire_previous_ns: 0, ..key(1, 0) };
        let mut ring = with(&[key(0, 0), next]);
        assert_eq!(ring.seal.sending(), Some(key(1, 0).name));
        // Both have key-id 0.
        assert_eq!(open(&mut ring, SECOND, &sealed_with(&key(0, 0))), Ok(true));
        assert_eq!(open(&mut ring, SECOND, &sealed_with(&key(1, 0))), Ok(true));
        assert_eq!(ring.seal.sending(), Some(key(1, 0).name), "an old key does not take the sending direction back");
        ring.drop_keys(0);
        let mut old = with(&[key(0, 0)]);
        let second = (0..2).map(|_| seal(&mut old, b"hello").unwrap()).last().unwrap();
        assert_eq!(open(&mut ring, SECOND, &second), Err(DropReason::AuthenticationFailed));
        assert_eq!(ring.seal.sending(), Some(key(1, 0).name));
    }

    #[test]
    fn dropping_the_generation_that_sends_leaves_the_rest_to_send() {
        let mut ring = with(&[key(0, 0), key(1, 0)]);
        ring.drop_keys(1);
        assert_eq!(ring.seal.sending(), Some(key(0, 0).name));
        ring.drop_keys(0);
        assert_eq!((ring.seal.sending(), ring.seal.overhead()), (None, None));
        assert_eq!(ring.seal.reserve(Usage::packet(1)).unwrap_err(), DropReason::NoKey);
    }

    #[test]
    fn a_fourth_key_displaces_the_oldest() {
        let mut ring = with(&[key(0, 0), key(0, 1), key(0, 2)]);
        assert_eq!(ring.seal.sending(), Some(key(0, 0).name));
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Ok(true));
        install(&mut ring, 0, &key(0, 3)).unwrap();
        assert_eq!(ring.open.names().map(|name| name.negotiation).collect::<Vec<_>>(), [3, 2, 1]);
        assert_eq!(open(&mut ring, 0, &sealed_with(&key(0, 0))), Err(DropReason::UnknownKey));
        // The key that sent is gone: a packet must still find one.
        ring.advance(0);
        assert!(ring.seal.sending().is_some());
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
        let mut sealer = ring.seal.reserve(Usage::packets(2, 3, 3)).unwrap();
        assert!(sealer.seal(b"abc", &mut out));
        assert_eq!(out[4..8], 1u32.to_be_bytes());
        assert!(sealer.seal(b"abc", &mut out));
        assert_eq!(out[4..8], 2u32.to_be_bytes());
        let mut sealer = ring.seal.reserve(Usage::packet(3)).unwrap();
        assert!(sealer.seal(b"abc", &mut out));
        assert_eq!(out[4..8], 4u32.to_be_bytes());
        assert!(!sealer.seal(b"abc", &mut out), "one more than was reserved");
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
        assert_eq!(ring.seal.reserve(Usage::packets(5, 1, 1)).unwrap_err(), DropReason::KeyExhausted);
        assert!(ring.seal.reserve(Usage::packets(4, 1, 1)).is_ok());
        assert_eq!(ring.seal.reserve(Usage::packet(1)).unwrap_err(), DropReason::KeyExhausted);
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

    /// The two halves on two threads: each in a ring of its own, with one crossing.
    struct Halves {
        opens: Keyring,
        seals: Keyring,
    }

    impl Halves {
        fn new() -> Self {
            let crossing = Arc::<Crossing>::default();
            let ring = || Keyring::new(64, 15, None, Arc::clone(&crossing));
            Halves { opens: ring(), seals: ring() }
        }

        fn install(&mut self, key: &InstallKey) {
            let sealing = self.opens.install_opening(&Aead::default(), 0, key).unwrap();
            self.seals.seal.install(0, sealing).unwrap();
        }

        fn open(&mut self, packet: &[u8]) -> Result<bool, DropReason> {
            open(&mut self.opens, 0, packet)
        }
    }

    #[test]
    fn the_half_that_seals_follows_what_the_other_half_opened() {
        let mut halves = Halves::new();
        halves.install(&key(0, 0));
        halves.install(&key(0, 1));
        events(&mut halves.seals);
        let mut forged = sealed_with(&key(0, 1));
        forged[30 - 2] ^= 1;
        assert_eq!(halves.open(&forged), Err(DropReason::AuthenticationFailed));
        halves.seals.seal.follow();
        assert!(!halves.opens.open.take_proven());
        assert_eq!(halves.seals.seal.sending(), Some(key(0, 0).name));
        assert_eq!(halves.open(&sealed_with(&key(0, 1))), Ok(true));
        assert!(halves.opens.open.take_proven() && !halves.opens.open.take_proven(), "news once");
        assert_eq!((halves.opens.seal.sending(), events(&mut halves.opens)), (None, vec![]));
        halves.seals.seal.follow();
        assert_eq!(events(&mut halves.seals), [WorkerEvent::KeySending(key(0, 1).name)]);
        assert_eq!(halves.open(&sealed_with(&key(0, 0))), Ok(true));
        halves.seals.seal.follow();
        assert_eq!(halves.seals.seal.sending(), Some(key(0, 1).name), "never back");
    }

    #[test]
    fn a_key_that_is_proven_before_it_can_seal_sends_as_soon_as_it_can() {
        let mut halves = Halves::new();
        halves.install(&key(0, 0));
        let sealing = halves.opens.install_opening(&Aead::default(), 0, &key(0, 1)).unwrap();
        assert_eq!(halves.open(&sealed_with(&key(0, 1))), Ok(true));
        halves.seals.seal.follow();
        assert_eq!(halves.seals.seal.sending(), Some(key(0, 0).name));
        halves.seals.seal.install(0, sealing).unwrap();
        assert_eq!(halves.seals.seal.sending(), Some(key(0, 1).name));
    }

    #[test]
    fn a_proof_that_is_gone_again_promotes_nothing_else() {
        let mut halves = Halves::new();
        halves.install(&key(0, 0));
        halves.install(&key(0, 1));
        halves.install(&key(1, 0));
        assert_eq!(halves.open(&sealed_with(&key(1, 0))), Ok(true));
        halves.seals.drop_keys(1);
        assert_eq!(halves.seals.seal.sending(), Some(key(0, 1).name), "the newest that is left");
        halves.seals.seal.follow();
        assert_eq!(halves.seals.seal.sending(), Some(key(0, 1).name));
    }

    #[test]
    fn both_halves_together_ask_once() {
        let limits = KeyLimits { soft_packets: 2, ..LIMITS };
        let name = key(0, 0).name;
        let usage = WorkerEvent::KeyUsage(name, UsageReason::Packets);
        for sealing_first in [true, false] {
            let mut halves = Halves::new();
            halves.install(&InstallKey { limits, ..key(0, 0) });
            events(&mut halves.seals);
            (0..2).for_each(|_| _ = seal(&mut halves.seals, b"x").unwrap());
            let mut peer = with(&[key(0, 0)]);
            (0..2).for_each(|_| _ = halves.open(&seal(&mut peer, b"x").unwrap()).unwrap());
            let said = events(&mut halves.seals);
            assert_eq!(said, std::slice::from_ref(&usage), "it cannot know");
            if sealing_first {
                assert!(halves.opens.is_news(&said[0]));
                assert_eq!(events(&mut halves.opens), []);
            } else {
                assert_eq!(events(&mut halves.opens), std::slice::from_ref(&usage));
                assert!(!halves.opens.is_news(&said[0]));
            }
            assert!(halves.opens.is_news(&WorkerEvent::KeySending(name)));
            assert!(halves.opens.is_news(&WorkerEvent::KeyUsage(key(9, 9).name, UsageReason::Bytes)), "not its key");
        }
        // In one ring it is one question, too.
        let mut ring = with(&[InstallKey { limits, ..key(0, 0) }]);
        let mut peer = with(&[key(0, 0)]);
        for _ in 0..2 {
            seal(&mut ring, b"x").unwrap();
            open(&mut ring, 0, &seal(&mut peer, b"x").unwrap()).unwrap();
        }
        assert_eq!(events(&mut ring), [usage]);
    }

    #[test]
    fn a_key_that_cannot_seal_opens_nothing_and_one_that_was_forgotten_no_more() {
        let mut halves = Halves::new();
        let short = DirectionKey { key: Secret(vec![1; 16]), implicit_iv: Secret(vec![1; 8]) };
        let bad = InstallKey { seal: short, ..key(0, 0) };
        assert_eq!(halves.opens.install_opening(&Aead::default(), 0, &bad).unwrap_err(), KeyRefusal::BadKey);
        assert_eq!(halves.open(&sealed_with(&key(0, 0))), Err(DropReason::UnknownKey));
        halves.install(&key(0, 0));
        halves.opens.open.forget(key(0, 1).name);
        assert_eq!(halves.open(&sealed_with(&key(0, 0))), Ok(true));
        halves.opens.open.forget(key(0, 0).name);
        assert_eq!(halves.opens.open.names().count(), 0);
    }

    #[test]
    fn each_half_refuses_a_name_that_is_not_newer() {
        let mut halves = Halves::new();
        halves.install(&key(0, 1));
        let again = NewSealingKey::new(&Aead::default(), &key(0, 1)).unwrap();
        assert_eq!(halves.seals.seal.install(0, again), Err(KeyRefusal::NotNewer), "no packet id twice");
        assert_eq!(
            halves.opens.install_opening(&Aead::default(), 0, &key(0, 1)).unwrap_err(),
            KeyRefusal::NotNewer,
            "no packet twice"
        );
        assert_eq!((halves.opens.last_name(), halves.seals.last_name()), (Some((0, 1)), Some((0, 1))));
    }
}
