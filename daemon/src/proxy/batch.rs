//! A batch of IP packets in one buffer: what is read from the tunnel at once, and what is written to it at once.

/// Packets of one batch.
pub(super) const SLOTS: usize = 64;

/// Up to [`SLOTS`] packets, each in a slot of the same length.
#[derive(Debug)]
pub(super) struct Batch {
    bytes: Vec<u8>,
    lengths: Vec<usize>,
    slot: usize,
}

impl Batch {
    /// An empty one for packets of up to `slot` bytes.
    pub(super) fn new(slot: usize) -> Batch {
        Batch { bytes: vec![0; slot * SLOTS], lengths: Vec::with_capacity(SLOTS), slot }
    }

    /// Forgets all packets.
    pub(super) fn clear(&mut self) {
        self.lengths.clear();
    }

    /// Packets in it.
    pub(super) fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Whether there is no room for another.
    pub(super) fn is_full(&self) -> bool {
        self.lengths.len() == SLOTS
    }

    /// The packets, in order.
    pub(super) fn packets(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.slot).zip(&self.lengths).filter_map(|(slot, &length)| slot.get(..length))
    }

    /// The slot of the next packet, which counts once [`Batch::commit`] says how long it is; `None` when full.
    pub(super) fn room(&mut self) -> Option<&mut [u8]> {
        if self.is_full() {
            return None;
        }
        let start = self.lengths.len() * self.slot;
        self.bytes.get_mut(start..start + self.slot)
    }

    /// Takes in what was written to [`Batch::room`]: `length` bytes, which is no more than the slot has.
    pub(super) fn commit(&mut self, length: usize) {
        if !self.is_full() {
            self.lengths.push(length.min(self.slot));
        }
    }

    /// Lets `write` make a packet of `length` bytes in the next slot. One that has no room is written and lost, as on any full line.
    pub(super) fn push_with<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> R) -> R {
        match self.room().and_then(|room| room.get_mut(..length)) {
            Some(room) => {
                let result = write(room);
                self.commit(length);
                result
            }
            None => write(&mut vec![0; length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_in_order_and_as_long_as_they_were() {
        let mut batch = Batch::new(8);
        batch.push_with(3, |room| room.copy_from_slice(b"abc"));
        batch.push_with(0, |_| ());
        batch.push_with(8, |room| room.copy_from_slice(b"12345678"));
        assert_eq!(batch.packets().collect::<Vec<_>>(), [&b"abc"[..], b"", b"12345678"]);
        batch.clear();
        assert!(batch.is_empty() && batch.packets().next().is_none());
    }

    #[test]
    fn what_has_no_room_is_lost_and_nothing_else() {
        let mut batch = Batch::new(4);
        batch.push_with(5, |room| room.fill(1));
        assert!(batch.is_empty(), "longer than a slot");
        for _ in 0..SLOTS {
            batch.push_with(4, |room| room.fill(2));
        }
        assert!(batch.is_full() && batch.room().is_none());
        batch.push_with(4, |room| room.fill(3));
        batch.commit(4);
        assert_eq!(batch.len(), SLOTS);
        assert!(batch.packets().all(|packet| packet == [2; 4]));
    }
}
