//! The replay window of one key: which packet ids may still come.
//!
//! Look with [`peek`](ReplayWindow::peek) before opening a packet, remember with [`commit`](ReplayWindow::commit) after it
//! authenticated: a forged packet must not move the window. Two rules (OpenVPN's `replay-window n t`): an id lies less than `n` below the
//! highest and was not seen before; and it does not lie at or below an id that arrived more than `t` seconds ago. The second rule
//! works on coarse marks, taken once per batch at most: a late packet may be accepted for up to `t`/16 longer than `t`.

use std::collections::VecDeque;

use crate::drop_reason::DropReason;

/// The largest `n`, in packets.
pub const MAX_WINDOW: u32 = 65_536;

/// The marks of the time rule are this fraction of `t` apart.
const MARKS_PER_T: u64 = 16;

/// See the module.
#[derive(Debug)]
pub struct ReplayWindow {
    highest: u32,
    /// Ids up to this one are too late. 0 at first, so that id 0 is always refused.
    floor: u32,
    size: u32,
    /// A ring of bits, indexed by the id; a power of two of words, at least `size` bits. The bits of as many ids as there are
    /// places, up to the highest, are exact; no place belongs to an id above it.
    bits: Box<[u64]>,
    time_ns: u64,
    next_mark_ns: u64,
    marks: VecDeque<Mark>,
}

/// At this time the highest id was this one: it had come by then.
#[derive(Clone, Copy, Debug)]
struct Mark {
    at_ns: u64,
    highest: u32,
}

impl ReplayWindow {
    /// `size` in packets, at most [`MAX_WINDOW`] (more is taken as that), 0: exactly in order, nothing may be missing;
    /// `time_s` in seconds, 0: no time rule.
    pub fn new(size: u32, time_s: u32) -> Self {
        let size = size.min(MAX_WINDOW);
        let words = size.div_ceil(64).next_power_of_two();
        ReplayWindow {
            highest: 0,
            floor: 0,
            size,
            bits: vec![0; words as usize].into_boxed_slice(),
            time_ns: u64::from(time_s) * 1_000_000_000,
            next_mark_ns: 0,
            marks: VecDeque::with_capacity(MARKS_PER_T as usize + 2),
        }
    }

    /// The highest id committed so far; 0 before the first.
    pub fn highest(&self) -> u32 {
        self.highest
    }

    /// Whether this id may still come.
    ///
    /// # Errors
    /// [`DropReason::Replayed`]: seen, below the window, 0, or (size 0) out of order. [`DropReason::TooLate`]: the time rule.
    #[inline]
    pub fn peek(&self, id: u32) -> Result<(), DropReason> {
        if id > self.highest {
            return if self.size != 0 || id == self.highest + 1 { Ok(()) } else { Err(DropReason::Replayed) };
        }
        if self.highest - id >= self.size || id == 0 || self.is_set(id) {
            return Err(DropReason::Replayed);
        }
        if id <= self.floor { Err(DropReason::TooLate) } else { Ok(()) }
    }

    /// Remembers an id that [`peek`](Self::peek) allowed and whose packet authenticated.
    #[inline]
    pub fn commit(&mut self, id: u32) {
        if id > self.highest {
            // Of those in between; the id's own is set below.
            if id - self.highest > 1 {
                self.clear(self.highest + 1, id - 1);
            }
            self.highest = id;
        }
        let (word, bit) = self.place(id);
        self.bits[word] |= bit;
    }

    /// Moves the time rule on. Call it once per batch, before its packets; cheap when nothing is due.
    #[inline]
    pub fn advance(&mut self, now_ns: u64) {
        if now_ns >= self.next_mark_ns && self.time_ns != 0 {
            self.mark(now_ns);
        }
    }

    fn mark(&mut self, now_ns: u64) {
        while let Some(mark) = self.marks.front()
            && mark.at_ns.saturating_add(self.time_ns) < now_ns
        {
            self.floor = mark.highest;
            self.marks.pop_front();
        }
        // Marks are a sixteenth apart and live for one `t`: the queue never grows beyond its first allocation.
        self.marks.push_back(Mark { at_ns: now_ns, highest: self.highest });
        self.next_mark_ns = now_ns.saturating_add((self.time_ns / MARKS_PER_T).max(1));
    }

    #[inline]
    fn place(&self, id: u32) -> (usize, u64) {
        ((id as usize / 64) & (self.bits.len() - 1), 1 << (id % 64))
    }

    #[inline]
    fn is_set(&self, id: u32) -> bool {
        let (word, bit) = self.place(id);
        self.bits[word] & bit != 0
    }

    /// Clears the places of the ids from `first` to `last`, which is not less.
    fn clear(&mut self, first: u32, last: u32) {
        let mask = self.bits.len() - 1;
        let (from, to) = (u64::MAX << (first % 64), u64::MAX >> (63 - last % 64));
        let (first, last) = (first as usize / 64, last as usize / 64);
        if first == last {
            self.bits[first & mask] &= !(from & to);
            return;
        }
        self.bits[first & mask] &= !from;
        self.bits[last & mask] &= !to;
        let between = (last - first - 1).min(self.bits.len());
        for word in first + 1..first + 1 + between {
            self.bits[word & mask] = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn take(window: &mut ReplayWindow, id: u32) -> bool {
        let fresh = window.peek(id).is_ok();
        if fresh {
            window.commit(id);
        }
        fresh
    }

    #[test]
    fn the_window_by_table() {
        // (size, ids in order of arrival with the expected answer)
        let table: &[(u32, &[(u32, bool)])] = &[
            (64, &[(0, false), (1, true), (1, false), (0, false)]),
            (64, &[(1, true), (3, true), (2, true), (2, false), (3, false), (4, true)]),
            (64, &[(100, true), (37, true), (36, false), (37, false), (99, true)]),
            (64, &[(64, true), (1, true), (65, true), (1, false), (2, true)]),
            (1, &[(5, true), (4, false), (6, true), (8, true), (7, false)]),
            (0, &[(1, true), (2, true), (2, false), (4, false), (3, true), (4, true)]),
            (0, &[(2, false), (1, true)]),
            (8192, &[(8192, true), (1, true), (8193, true), (1, false), (2, true), (8193 + 8191, true), (8192, false)]),
            (8192, &[(9000, true), (808, false), (809, true)]),
            (65_536, &[(65_536, true), (1, true), (65_537, true), (2, true), (1, false)]),
            (64, &[(u32::MAX, true), (u32::MAX, false), (u32::MAX - 63, true), (u32::MAX - 64, false)]),
            (64, &[(1, true), (u32::MAX, true), (1, false), (u32::MAX - 1, true)]),
            // What stood in the places of ids that were skipped does not count for these.
            (64, &[(10, true), (12, true), (76, true), (74, true), (75, true), (76, false), (13, true), (12, false)]),
            (64, &[(63, true), (64, true), (129, true), (127, true), (128, true), (66, true), (65, false)]),
            (128, &[(60, true), (70, true), (190, true), (188, true), (189, true), (187, true), (70, false)]),
        ];
        for (size, steps) in table {
            let mut window = ReplayWindow::new(*size, 15);
            for (step, &(id, expected)) in steps.iter().enumerate() {
                assert_eq!(take(&mut window, id), expected, "size {size}, step {step}, id {id}");
            }
        }
    }

    #[test]
    fn every_id_of_a_full_window_is_taken_once_in_any_order() {
        for size in [1, 63, 64, 65, 128, 8192] {
            let mut window = ReplayWindow::new(size, 0);
            assert!(take(&mut window, 3 * size));
            for id in (2 * size + 1..3 * size).rev() {
                assert!(take(&mut window, id), "size {size} id {id}");
            }
            for id in 0..=3 * size {
                assert!(!take(&mut window, id), "size {size} id {id}");
            }
        }
    }

    #[test]
    fn a_window_takes_no_more_memory_than_its_ids_need() {
        for (size, words) in [(0, 1), (1, 1), (64, 1), (65, 2), (8192, 128), (MAX_WINDOW, 1024), (u32::MAX, 1024)] {
            assert_eq!(ReplayWindow::new(size, 0).bits.len(), words, "{size}");
        }
    }

    #[test]
    fn a_peek_changes_nothing() {
        let mut window = ReplayWindow::new(64, 15);
        assert!(window.peek(1000).is_ok());
        assert!(take(&mut window, 1));
        assert_eq!(window.highest(), 1);
        assert!(window.peek(1000).is_ok());
    }

    #[test]
    fn a_packet_below_one_that_is_older_than_t_is_too_late() {
        let mut window = ReplayWindow::new(8192, 15);
        window.advance(0);
        assert!(take(&mut window, 10));
        window.advance(SECOND);
        assert!(take(&mut window, 20));
        // 16 s: the mark of 1 s (when 10 was the highest) is just t old, not older.
        window.advance(16 * SECOND);
        assert_eq!(window.peek(9), Ok(()));
        window.advance(17 * SECOND + 1);
        assert_eq!(window.peek(9), Err(DropReason::TooLate));
        assert_eq!(window.peek(10), Err(DropReason::Replayed));
        assert_eq!(window.peek(11), Ok(()));
        assert_eq!(window.peek(21), Ok(()));
    }

    #[test]
    fn without_t_a_packet_is_never_too_late() {
        let mut window = ReplayWindow::new(8192, 0);
        window.advance(0);
        assert!(take(&mut window, 10));
        for second in 1..1000 {
            window.advance(second * SECOND);
        }
        assert!(take(&mut window, 9));
    }

    #[test]
    fn the_marks_never_outgrow_their_allocation() {
        let mut window = ReplayWindow::new(64, 1);
        let capacity = window.marks.capacity();
        for step in 0..10_000u64 {
            window.advance(step * 1_000_000);
        }
        assert_eq!(window.marks.capacity(), capacity);
        assert!(window.marks.len() <= MARKS_PER_T as usize + 2);
    }

    proptest! {
        /// A set of everything seen is the oracle.
        #[test]
        fn the_window_agrees_with_a_set(
            size in prop_oneof![1u32..200, Just(8192u32)],
            start in 0u32..300,
            steps in prop::collection::vec((0u8..3, 0u32..400), 1..300),
        ) {
            let mut window = ReplayWindow::new(size, 0);
            let mut seen = std::collections::HashSet::new();
            let mut highest = 0u32;
            let mut base = start;
            for (kind, delta) in steps {
                let id = match kind {
                    0 => base + delta % 4,
                    1 => base.saturating_sub(delta),
                    _ => base + delta * 50,
                };
                let fresh = id > highest || (id != 0 && highest - id < size && !seen.contains(&id));
                prop_assert_eq!(take(&mut window, id), fresh, "id {} highest {}", id, highest);
                if fresh {
                    seen.insert(id);
                    highest = highest.max(id);
                    base = highest;
                }
            }
        }
    }
}
