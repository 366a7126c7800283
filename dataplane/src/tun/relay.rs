//! Packets of one peer for another one, between the moment when they were opened and the moment when they are sealed again, in the form
//! in which a TUN would have given them back. They stand alone: what is sealed one after the other for one peer is sent together anyway.

use super::virtio::{VNET_HDR_LEN, VnetHeader};

/// What one train can fill at most: its packets are shorter than its datagrams by more than a virtio header.
const MAX_TRAIN: usize = 65_536;
const CAPACITY: usize = 4 * MAX_TRAIN;
/// No IP packet is shorter than this.
const MIN_FRAME: usize = VNET_HDR_LEN + 20;

/// See the file's text. Memory is allocated once.
#[derive(Debug)]
pub struct RelayBatch {
    buf: Box<[u8]>,
    len: usize,
    /// Where each frame begins and ends.
    frames: Vec<(usize, usize)>,
}

impl Default for RelayBatch {
    fn default() -> Self {
        RelayBatch {
            buf: vec![0; CAPACITY].into_boxed_slice(),
            len: 0,
            frames: Vec::with_capacity(CAPACITY / MIN_FRAME),
        }
    }
}

impl RelayBatch {
    /// Copies a packet behind a virtio header that asks for nothing. False: no room.
    pub fn push(&mut self, packet: &[u8]) -> bool {
        let (start, end) = (self.len, self.len + VNET_HDR_LEN + packet.len());
        if self.frames.len() == self.frames.capacity() {
            return false;
        }
        let Some(frame) = self.buf.get_mut(start..end) else { return false };
        frame[..VNET_HDR_LEN].copy_from_slice(&VnetHeader::default().to_bytes());
        frame[VNET_HDR_LEN..].copy_from_slice(packet);
        self.frames.push((start, end));
        self.len = end;
        true
    }

    /// Nothing waits.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// The next train might not fit.
    pub fn wants_flush(&self) -> bool {
        self.buf.len() - self.len < MAX_TRAIN || self.frames.capacity() - self.frames.len() < MAX_TRAIN / MIN_FRAME
    }

    /// The frame with this number, in the order in which they came.
    pub fn frame(&mut self, number: usize) -> Option<&mut [u8]> {
        let (start, end) = *self.frames.get(number)?;
        self.buf.get_mut(start..end)
    }

    /// Forgets the frames; the memory stays.
    pub fn clear(&mut self) {
        self.len = 0;
        self.frames.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_come_back_as_frames_in_order() {
        let mut batch = RelayBatch::default();
        assert!(batch.is_empty() && batch.push(&[1; 20]) && batch.push(&[2; 30]));
        assert!(!batch.is_empty());
        assert_eq!(batch.frame(0).unwrap(), [&[0; VNET_HDR_LEN][..], &[1; 20]].concat());
        assert_eq!(batch.frame(1).unwrap(), [&[0; VNET_HDR_LEN][..], &[2; 30]].concat());
        assert!(batch.frame(2).is_none());
        batch.clear();
        assert!(batch.is_empty() && batch.frame(0).is_none());
    }

    #[test]
    fn a_batch_that_wants_no_flush_takes_another_train() {
        for len in [20, 1_400, 60_000] {
            let mut batch = RelayBatch::default();
            while !batch.wants_flush() {
                // Datagrams of a whole train, each 21 bytes longer than its packet.
                for _ in 0..MAX_TRAIN / (len + 21) {
                    assert!(batch.push(&vec![0; len]), "{len}");
                }
            }
            while batch.push(&vec![0; len]) {}
            assert!(batch.wants_flush());
        }
    }
}
