//! The replay window of the control channel: which (timestamp, id) pairs of the peer were seen.
//! Peek before authentication has been paid for or acted upon, commit after it.

/// The long packet id of tls-auth and tls-crypt. Ordered by timestamp first, then by id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct PacketId {
    /// Unix seconds, which the sender fixed at its first packet.
    pub time: u32,
    /// Counter of the sender's transmissions, from 1. 0 is never valid.
    pub id: u32,
}

impl PacketId {
    /// Length on the wire, in bytes.
    pub const LEN: usize = 8;

    /// The wire form: id, then timestamp, big-endian.
    pub(super) fn to_bytes(self) -> [u8; Self::LEN] {
        (u64::from(self.id) << 32 | u64::from(self.time)).to_be_bytes()
    }

    /// Reads the wire form.
    pub(super) fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        let both = u64::from_be_bytes(bytes);
        // The halves of a u64 are a u32 each.
        Self { id: (both >> 32) as u32, time: both as u32 }
    }
}

/// A sliding window over the last 64 ids of one timestamp. An older timestamp is refused, a newer one
/// starts the window anew.
///
/// OpenVPN's `replay-window` also has a time in seconds, after which a gap is given up. Control packets
/// are ordered and deduplicated by their message ids as well, so that part is left out here.
#[derive(Debug, Clone, Default)]
pub struct ReplayWindow {
    high: Option<PacketId>,
    /// Bit n is set if `high.id - n` was seen.
    seen: u64,
}

impl ReplayWindow {
    /// How many ids below and including the highest are told apart.
    pub const SIZE: u32 = 64;

    /// A window that has seen nothing.
    #[must_use]
    pub const fn new() -> Self {
        Self { high: None, seen: 0 }
    }

    /// A window that takes everything at or below `high` as seen: the continuation of a window of
    /// which only the highest id was recorded.
    #[must_use]
    pub const fn resumed(high: PacketId) -> Self {
        Self { high: Some(high), seen: u64::MAX }
    }

    /// The highest id committed so far.
    #[must_use]
    pub const fn high(&self) -> Option<PacketId> {
        self.high
    }

    /// Whether the id is new. Changes nothing.
    #[must_use]
    pub fn is_new(&self, packet: PacketId) -> bool {
        if packet.id == 0 {
            return false;
        }
        let Some(high) = self.high else { return true };
        if packet > high {
            return true;
        }
        let distance = high.id - packet.id.min(high.id);
        packet.time == high.time && distance < Self::SIZE && self.seen & (1 << distance) == 0
    }

    /// Remembers the id of an authenticated packet. False, and nothing changes, if it is not new.
    #[must_use]
    pub fn commit(&mut self, packet: PacketId) -> bool {
        if !self.is_new(packet) {
            return false;
        }
        match self.high {
            Some(high) if packet < high => self.seen |= 1 << (high.id - packet.id),
            Some(high) if packet.time == high.time => {
                // A jump beyond the window leaves nothing of it.
                self.seen = self.seen.checked_shl(packet.id - high.id).unwrap_or(0) | 1;
                self.high = Some(packet);
            }
            _ => {
                self.seen = 1;
                self.high = Some(packet);
            }
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    const fn at(time: u32, id: u32) -> PacketId {
        PacketId { time, id }
    }

    /// Commits each id of the table in turn and compares the verdicts.
    fn run(window: &mut ReplayWindow, table: &[(PacketId, bool)]) {
        for (step, &(packet, new)) in table.iter().enumerate() {
            assert_eq!(window.is_new(packet), new, "peek at step {step}: {packet:?}");
            assert_eq!(window.commit(packet), new, "commit at step {step}: {packet:?}");
            assert!(!window.commit(packet), "again at step {step}: {packet:?}");
        }
    }

    #[test]
    fn ids_of_one_timestamp_are_accepted_once_and_out_of_order_within_64() {
        run(
            &mut ReplayWindow::new(),
            &[
                (at(9, 0), false),
                (at(9, 5), true),
                (at(9, 3), true),
                (at(9, 0), false),
                (at(9, 100), true),
                (at(9, 36), false),
                (at(9, 37), true),
                (at(9, 5), false),
                (at(9, 99), true),
                (at(9, 164), true),
                (at(9, 100), false),
                (at(9, 101), true),
                (at(9, u32::MAX), true),
                (at(9, u32::MAX - 63), true),
                (at(9, u32::MAX - 64), false),
                (at(9, 1), false),
            ],
        );
    }

    #[test]
    fn a_shift_by_exactly_the_window_forgets_and_by_one_less_remembers() {
        run(&mut ReplayWindow::new(), &[(at(9, 10), true), (at(9, 73), true), (at(9, 10), false)]);
        run(&mut ReplayWindow::new(), &[(at(9, 10), true), (at(9, 74), true), (at(9, 11), true)]);
    }

    #[test]
    fn an_older_timestamp_is_refused_and_a_newer_one_starts_anew() {
        run(
            &mut ReplayWindow::new(),
            &[
                (at(9, 50), true),
                (at(8, 51), false),
                (at(8, u32::MAX), false),
                (at(10, 1), true),
                (at(9, 51), false),
                (at(10, 2), true),
                (at(11, 100), true),
                (at(11, 50), true),
            ],
        );
    }

    #[test]
    fn a_resumed_window_refuses_everything_up_to_its_record() {
        let mut window = ReplayWindow::resumed(at(9, 50));
        for id in 0..=50 {
            assert!(!window.commit(at(9, id)), "{id}");
        }
        assert!(!window.commit(at(8, 51)));
        run(&mut window, &[(at(9, 53), true), (at(9, 50), false), (at(9, 51), true), (at(9, 52), true)]);
        assert_eq!(window.high(), Some(at(9, 53)));
        run(&mut ReplayWindow::resumed(at(9, 50)), &[(at(10, 1), true)]);
    }

    #[test]
    fn a_peek_changes_nothing() {
        let window = ReplayWindow::new();
        assert!(window.is_new(at(9, 1)));
        assert!(window.is_new(at(9, 1)));
        assert_eq!(window.high(), None);
    }

    proptest! {
        #[test]
        fn the_window_agrees_with_a_set(ids in prop::collection::vec((0u32..3, 0u32..300), 0..400)) {
            let mut window = ReplayWindow::new();
            let mut seen = HashSet::new();
            let mut high: Option<PacketId> = None;
            for (time, id) in ids {
                let packet = at(time, id);
                let expected = id != 0 && match high {
                    None => true,
                    Some(high) if packet > high => true,
                    Some(high) => time == high.time && high.id - id < 64 && !seen.contains(&(time, id)),
                };
                prop_assert_eq!(window.commit(packet), expected);
                if expected {
                    seen.insert((time, id));
                    high = high.max(Some(packet));
                }
            }
        }
    }
}
