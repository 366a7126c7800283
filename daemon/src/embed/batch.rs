//! Many packets in one buffer, for programs that move them by the thousand.

use super::error::TunnelError;

/// Packets, one behind the other, in memory that is allocated once.
///
/// # Examples
/// ```
/// use minivpn::Batch;
///
/// let mut batch = Batch::new(2, 1500);
/// assert!(batch.push(b"one")? && batch.push(b"two")? && !batch.push(b"three")?);
/// assert_eq!(batch.iter().collect::<Vec<_>>(), [b"one", b"two"]);
/// # Ok::<(), minivpn::TunnelError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Bytes of one place.
    longest: usize,
    lengths: Vec<usize>,
    most: usize,
}

impl Batch {
    /// Room for that many packets of that many bytes each (at least one of one, at most 65,535 bytes).
    pub fn new(packets: usize, longest: usize) -> Batch {
        let (most, longest) = (packets.max(1), longest.clamp(1, 65_535));
        Batch { bytes: vec![0; most * longest], longest, lengths: Vec::with_capacity(most), most }
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.lengths.len()
    }

    /// Whether it holds none.
    pub fn is_empty(&self) -> bool {
        self.lengths.is_empty()
    }

    /// Forgets its packets.
    pub fn clear(&mut self) {
        self.lengths.clear();
    }

    /// Adds a packet; false when there is no room for one more.
    ///
    /// # Errors
    /// [`TunnelError::Packet`]: it is empty, or longer than the batch was made for.
    pub fn push(&mut self, packet: &[u8]) -> Result<bool, TunnelError> {
        if packet.is_empty() || packet.len() > self.longest {
            return Err(TunnelError::Packet { length: packet.len() });
        }
        let Some(place) = self.vacant() else { return Ok(false) };
        place[..packet.len()].copy_from_slice(packet);
        self.taken(packet.len());
        Ok(true)
    }

    /// Whether there is no room for one more.
    pub fn is_full(&self) -> bool {
        self.lengths.len() >= self.most
    }

    /// Its packets, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &[u8]> {
        self.bytes.chunks_exact(self.longest).zip(&self.lengths).map(|(place, length)| &place[..*length])
    }

    /// The place of the next packet.
    pub(super) fn vacant(&mut self) -> Option<&mut [u8]> {
        if self.lengths.len() >= self.most {
            return None;
        }
        self.bytes.chunks_exact_mut(self.longest).nth(self.lengths.len())
    }

    /// So many bytes were written to that place.
    pub(super) fn taken(&mut self, length: usize) {
        self.lengths.push(length.min(self.longest));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_gives_back_what_was_put_in_and_no_more_than_it_has_room_for() {
        let mut batch = Batch::new(3, 4);
        assert!(batch.is_empty());
        assert!(batch.push(&[1]).unwrap() && batch.push(&[2, 2, 2, 2]).unwrap() && batch.push(&[3, 3]).unwrap());
        assert!(!batch.push(&[4]).unwrap());
        assert_eq!(batch.iter().collect::<Vec<_>>(), [&[1][..], &[2, 2, 2, 2], &[3, 3]]);
        batch.clear();
        assert!(batch.is_empty() && batch.push(&[5]).unwrap());
        assert_eq!(batch.iter().next(), Some(&[5][..]));
    }

    #[test]
    fn a_packet_that_is_empty_or_too_long_is_refused() {
        let mut batch = Batch::new(1, 4);
        assert!(matches!(batch.push(&[]), Err(TunnelError::Packet { length: 0 })));
        assert!(matches!(batch.push(&[0; 5]), Err(TunnelError::Packet { length: 5 })));
        assert!(batch.is_empty());
    }
}
