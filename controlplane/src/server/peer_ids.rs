//! The handles of peers: the lowest free one is taken, so that they stay dense and spread evenly over the workers.

use std::collections::BTreeMap;

use crate::ids::PeerId;

/// Free peer-ids as ranges, so that taking and giving back cost O(log n) and all of them together little memory.
#[derive(Debug)]
pub(super) struct PeerIds {
    /// First id of each free range → the id after its last one.
    free: BTreeMap<u32, u32>,
}

impl PeerIds {
    /// Every id that the wire can carry is free: 0 to 2^24 - 2. The one above stands for "none".
    pub(super) fn new() -> PeerIds {
        PeerIds { free: BTreeMap::from([(0, PeerId::MAX.saturating_add(1))]) }
    }

    /// The lowest free id.
    pub(super) fn take_lowest(&mut self) -> Option<u32> {
        let (id, end) = self.free.pop_first()?;
        self.put(id.saturating_add(1), end);
        Some(id)
    }

    /// This id, if it is free.
    pub(super) fn take(&mut self, id: u32) -> bool {
        let Some((&start, &end)) = self.free.range(..=id).next_back().filter(|(_, end)| **end > id) else {
            return false;
        };
        self.free.remove(&start);
        self.put(start, id);
        self.put(id.saturating_add(1), end);
        true
    }

    /// An id that was taken.
    pub(super) fn give_back(&mut self, id: u32) {
        let (mut start, mut end) = (id, id.saturating_add(1));
        if let Some((&before, &until)) = self.free.range(..id).next_back() {
            if until > id {
                return; // it was free
            }
            if until == id {
                start = before;
            }
        }
        if let Some(after) = self.free.remove(&end) {
            end = after;
        }
        self.put(start, end);
    }

    fn put(&mut self, start: u32, end: u32) {
        if start < end {
            self.free.insert(start, end);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_lowest_free_id_is_taken_and_ranges_join_again() {
        let mut ids = PeerIds::new();
        assert_eq!((0..5).filter_map(|_| ids.take_lowest()).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        for id in [1, 3, 2] {
            ids.give_back(id);
        }
        assert_eq!(ids.free.len(), 2, "{ids:?}");
        assert_eq!((0..4).filter_map(|_| ids.take_lowest()).collect::<Vec<_>>(), [1, 2, 3, 5]);
        for id in [5, 4, 3, 2, 1, 0] {
            ids.give_back(id);
        }
        assert_eq!(ids.free, PeerIds::new().free);
    }

    #[test]
    fn an_id_is_given_once() {
        let mut ids = PeerIds::new();
        assert!(ids.take(7));
        assert!(!ids.take(7));
        assert_eq!((0..8).filter_map(|_| ids.take_lowest()).collect::<Vec<_>>(), [0, 1, 2, 3, 4, 5, 6, 8]);
        ids.give_back(3);
        ids.give_back(3);
        assert_eq!((ids.take_lowest(), ids.take_lowest()), (Some(3), Some(9)));
        assert!(ids.take(PeerId::MAX));
        assert!(!ids.take(PeerId::MAX + 1), "it stands for none");
    }

    #[test]
    fn it_agrees_with_a_set() {
        let (mut ids, mut taken) = (PeerIds::new(), BTreeSet::new());
        let mut seed = 1u32;
        for _ in 0..5_000 {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let pick = seed >> 24;
            match pick % 3 {
                0 => assert_eq!(ids.take(pick), taken.insert(pick)),
                1 => {
                    let lowest = (0..).find(|id| !taken.contains(id)).unwrap();
                    assert_eq!(ids.take_lowest(), Some(lowest));
                    taken.insert(lowest);
                }
                _ => {
                    taken.remove(&pick);
                    ids.give_back(pick);
                }
            }
        }
    }
}
