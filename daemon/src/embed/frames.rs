//! Many packets in one buffer as the worker reads and writes them: each behind a virtio header (linux/virtio_net.h), which may say that it
//! stands for several of one TCP flow (a super-packet), that its checksum is good, or that it is to be completed.

use dataplane::tun::virtio::{VNET_HDR_LEN, VnetHeader};

/// Bytes of the longest frame.
const LONGEST: usize = VNET_HDR_LEN + 65_535;
/// Frames of one buffer: short ones must not make a turn long.
const MOST: usize = 128;

/// Frames, one directly behind the other, in memory that is allocated once.
#[derive(Debug)]
pub(crate) struct Frames {
    bytes: Vec<u8>,
    /// Where each frame ends.
    ends: Vec<usize>,
}

impl Frames {
    /// Room for so many bytes of frames, one of the longest besides, and 128 frames at most.
    pub(crate) fn new(bytes: usize) -> Frames {
        Frames { bytes: vec![0; bytes + LONGEST], ends: Vec::with_capacity(MOST) }
    }

    /// Whether it holds none.
    pub(crate) fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Forgets its frames.
    pub(crate) fn clear(&mut self) {
        self.ends.clear();
    }

    /// Whether there may be no room for one more.
    pub(crate) fn is_full(&self) -> bool {
        self.ends.len() >= MOST || self.bytes.len() - self.end() < LONGEST
    }

    /// Lets `write` make a packet of `length` bytes, and the header before it of what it made. One that has no room is written and lost,
    /// as on a full line.
    pub(crate) fn push_with<R>(&mut self, length: usize, write: impl FnOnce(&mut [u8]) -> (R, VnetHeader)) -> R {
        let begin = self.end();
        let packet = (begin + VNET_HDR_LEN, begin + VNET_HDR_LEN + length);
        let frame = self.bytes.get_mut(begin..packet.1).filter(|_| self.ends.len() < MOST);
        match frame.and_then(|frame| frame.split_first_chunk_mut::<VNET_HDR_LEN>()) {
            Some((header, packet)) => {
                let (result, described) = write(packet);
                *header = described.to_bytes();
                self.ends.push(begin + VNET_HDR_LEN + packet.len());
                result
            }
            None => write(&mut vec![0; length]).0,
        }
    }

    /// Its frames, in order, with their headers.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &[u8]> {
        let begins = std::iter::once(0).chain(self.ends.iter().copied());
        begins.zip(&self.ends).map(|(begin, &end)| self.bytes.get(begin..end).unwrap_or_default())
    }

    /// Its packets, in order, and what is said of each.
    pub(crate) fn packets(&self) -> impl Iterator<Item = (VnetHeader, &[u8])> {
        self.iter().filter_map(|frame| Some((VnetHeader::parse(frame)?, frame.get(VNET_HDR_LEN..)?)))
    }

    /// The place of the next frame, which is long enough for any; `None`: there may be no room.
    pub(super) fn vacant(&mut self) -> Option<&mut [u8]> {
        let begin = self.end();
        if self.is_full() { None } else { self.bytes.get_mut(begin..begin + LONGEST) }
    }

    /// So many bytes were written to that place.
    pub(super) fn taken(&mut self, length: usize) {
        self.ends.push(self.end() + length.min(LONGEST));
    }

    fn end(&self) -> usize {
        self.ends.last().copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(byte: u8) -> impl FnOnce(&mut [u8]) -> ((), VnetHeader) {
        move |packet| {
            packet.fill(byte);
            ((), VnetHeader { flags: byte, ..VnetHeader::default() })
        }
    }

    #[test]
    fn frames_come_back_with_what_was_said_of_them() {
        let mut frames = Frames::new(100);
        assert!(frames.is_empty());
        frames.push_with(3, made(1));
        frames.vacant().unwrap()[..12].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 8]);
        frames.taken(12);
        frames.push_with(65_000, made(2));
        let packets: Vec<_> = frames.packets().map(|(header, packet)| (header.flags, packet.len())).collect();
        assert_eq!(packets, [(1, 3), (0, 2), (2, 65_000)]);
        assert_eq!(frames.iter().map(<[u8]>::len).collect::<Vec<_>>(), [13, 12, 65_010]);
        assert!(
            frames.packets().all(|(header, packet)| header.flags == 0 || packet.iter().all(|&b| b == header.flags))
        );
        frames.clear();
        assert!(frames.is_empty() && frames.iter().next().is_none());
    }

    #[test]
    fn what_has_no_room_is_written_and_lost() {
        let mut frames = Frames::new(0);
        frames.push_with(65_535, made(1));
        assert!(frames.is_full() && frames.vacant().is_none());
        let mut written = 0;
        frames.push_with(1, |packet| {
            written = packet.len();
            ((), VnetHeader::default())
        });
        assert_eq!((written, frames.iter().count()), (1, 1));
        frames.clear();
        frames.push_with(65_536, made(1));
        assert!(frames.is_empty(), "longer than a packet can be");
    }

    #[test]
    fn the_number_of_frames_is_bounded() {
        let mut frames = Frames::new(1_000_000);
        while !frames.is_full() {
            frames.push_with(20, made(1));
        }
        assert_eq!(frames.iter().count(), MOST);
        frames.push_with(20, made(1));
        assert_eq!(frames.iter().count(), MOST);
    }
}
