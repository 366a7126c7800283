//! The data channel's wire format (OpenVPN wire protocol, AEAD data packets):
//!
//! ```text
//! P_DATA_V2  [opcode 9 << 3 | key-id][peer-id 3][packet id 4][tag 16][ciphertext]   authenticated: the first 8 bytes
//! P_DATA_V1  [opcode 6 << 3 | key-id]           [packet id 4][tag 16][ciphertext]   authenticated: the packet id
//! ```

use crate::drop_reason::DropReason;

/// The opcode of P_DATA_V1.
pub const OP_DATA_V1: u8 = 6;
/// The opcode of P_DATA_V2.
pub const OP_DATA_V2: u8 = 9;
/// The peer-id that means "none": the peer is found by its address, as for P_DATA_V1.
pub const NO_PEER_ID: u32 = 0x00ff_ffff;
/// Bytes of the packet id.
pub const PACKET_ID_LEN: usize = 4;
/// Bytes of the tag.
pub const TAG_LEN: usize = 16;

/// What stands before the tag of a received data packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataHeader {
    /// The three bits that name the key.
    pub key_id: u8,
    /// The peer-id of P_DATA_V2, unless it is [`NO_PEER_ID`].
    pub peer_id: Option<u32>,
    /// The packet id.
    pub packet_id: u32,
    /// The authenticated bytes start here …
    aad_start: usize,
    /// … and end here, where the tag starts.
    tag_start: usize,
}

/// A data packet's parts.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Authenticated, not encrypted.
    pub aad: &'a [u8],
    /// The tag.
    pub tag: &'a [u8; TAG_LEN],
    /// At least one byte.
    pub ciphertext: &'a [u8],
}

impl DataHeader {
    /// Reads the header of a datagram whose opcode is P_DATA_V1 or P_DATA_V2.
    ///
    /// # Errors
    /// [`DropReason::TooShort`] without a whole header, tag and one byte; [`DropReason::UnknownOpcode`] for any other opcode.
    #[inline]
    pub fn parse(datagram: &[u8]) -> Result<(DataHeader, Parts<'_>), DropReason> {
        let first = *datagram.first().ok_or(DropReason::TooShort)?;
        match first >> 3 {
            OP_DATA_V2 => Self::parse_v2(first, datagram),
            OP_DATA_V1 => Self::parse_v1(first, datagram),
            _ => Err(DropReason::UnknownOpcode),
        }
    }

    #[inline]
    fn parse_v2(first: u8, datagram: &[u8]) -> Result<(DataHeader, Parts<'_>), DropReason> {
        let &[_, a, b, c, i, j, k, l] = datagram.first_chunk().ok_or(DropReason::TooShort)?;
        let peer_id = u32::from_be_bytes([0, a, b, c]);
        let header = DataHeader {
            key_id: first & 7,
            peer_id: (peer_id != NO_PEER_ID).then_some(peer_id),
            packet_id: u32::from_be_bytes([i, j, k, l]),
            aad_start: 0,
            tag_start: 8,
        };
        Ok((header, header.parts(datagram)?))
    }

    fn parse_v1(first: u8, datagram: &[u8]) -> Result<(DataHeader, Parts<'_>), DropReason> {
        let &[_, i, j, k, l] = datagram.first_chunk().ok_or(DropReason::TooShort)?;
        let header = DataHeader {
            key_id: first & 7,
            peer_id: None,
            packet_id: u32::from_be_bytes([i, j, k, l]),
            aad_start: 1,
            tag_start: 5,
        };
        Ok((header, header.parts(datagram)?))
    }

    #[inline]
    fn parts<'a>(&self, datagram: &'a [u8]) -> Result<Parts<'a>, DropReason> {
        let (head, rest) = datagram.split_at_checked(self.tag_start).ok_or(DropReason::TooShort)?;
        let (tag, ciphertext) = rest.split_first_chunk().ok_or(DropReason::TooShort)?;
        if ciphertext.is_empty() {
            return Err(DropReason::TooShort);
        }
        Ok(Parts { aad: &head[self.aad_start..], tag, ciphertext })
    }
}

/// What every packet sealed with one key starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SendHeader {
    /// P_DATA_V1: the opcode byte.
    V1(u8),
    /// P_DATA_V2: the opcode byte and the peer-id.
    V2([u8; 4]),
}

impl SendHeader {
    /// P_DATA_V2 with a peer-id (its lower 24 bits), or P_DATA_V1 without; `key_id` is taken modulo 8.
    pub fn new(peer_id: Option<u32>, key_id: u8) -> Self {
        match peer_id {
            Some(peer_id) => {
                let [_, a, b, c] = peer_id.to_be_bytes();
                SendHeader::V2([OP_DATA_V2 << 3 | (key_id & 7), a, b, c])
            }
            None => SendHeader::V1(OP_DATA_V1 << 3 | (key_id & 7)),
        }
    }

    /// By how many bytes a sealed packet is longer than its plaintext: 24 or 21.
    pub const fn overhead(&self) -> usize {
        match self {
            SendHeader::V1(_) => 1 + PACKET_ID_LEN + TAG_LEN,
            SendHeader::V2(_) => 4 + PACKET_ID_LEN + TAG_LEN,
        }
    }

    /// Writes header and packet id into `out` and gives back its parts: authenticated bytes, tag and ciphertext.
    /// `None` when `out` is shorter than [`overhead`](Self::overhead).
    #[inline]
    pub fn write<'a>(
        &self,
        packet_id: u32,
        out: &'a mut [u8],
    ) -> Option<(&'a [u8], &'a mut [u8; TAG_LEN], &'a mut [u8])> {
        let id = packet_id.to_be_bytes();
        let (aad, rest): (&[u8], &mut [u8]) = match *self {
            SendHeader::V2([first, a, b, c]) => {
                let (head, rest) = out.split_first_chunk_mut::<8>()?;
                *head = [first, a, b, c, id[0], id[1], id[2], id[3]];
                (head, rest)
            }
            SendHeader::V1(first) => {
                let (head, rest) = out.split_first_chunk_mut::<5>()?;
                *head = [first, id[0], id[1], id[2], id[3]];
                (&head[1..], rest)
            }
        };
        let (tag, ciphertext) = rest.split_first_chunk_mut()?;
        Some((aad, tag, ciphertext))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        for (peer_id, overhead, aad) in [(Some(0x0a0b0c), 24, 8), (None, 21, 4)] {
            let header = SendHeader::new(peer_id, 5);
            assert_eq!(header.overhead(), overhead);
            let mut packet = vec![0; overhead + 3];
            let (written, tag, body) = header.write(0x0102_0304, &mut packet).unwrap();
            assert_eq!((written.len(), body.len()), (aad, 3));
            tag.fill(9);
            body.fill(8);
            let (read, parts) = DataHeader::parse(&packet).unwrap();
            assert_eq!((read.key_id, read.peer_id, read.packet_id), (5, peer_id, 0x0102_0304));
            assert_eq!((parts.aad.len(), parts.tag, parts.ciphertext), (aad, &[9; 16], &[8, 8, 8][..]));
        }
    }

    #[test]
    fn a_packet_without_one_byte_of_ciphertext_is_too_short() {
        for (first, shortest) in [(OP_DATA_V2 << 3, 25), (OP_DATA_V1 << 3, 22)] {
            let mut packet = vec![0; shortest];
            packet[0] = first;
            assert!(DataHeader::parse(&packet).is_ok());
            for len in 0..shortest {
                assert_eq!(DataHeader::parse(&packet[..len]).unwrap_err(), DropReason::TooShort, "{len}");
            }
        }
    }

    #[test]
    fn other_opcodes_are_not_data() {
        for opcode in (0..32).filter(|op| ![OP_DATA_V1, OP_DATA_V2].contains(op)) {
            assert_eq!(DataHeader::parse(&[opcode << 3; 100]).unwrap_err(), DropReason::UnknownOpcode);
        }
    }

    #[test]
    fn the_highest_peer_id_means_none() {
        let mut packet = [0xff; 30];
        packet[0] = OP_DATA_V2 << 3;
        assert_eq!(DataHeader::parse(&packet).unwrap().0.peer_id, None);
        packet[3] = 0xfe;
        assert_eq!(DataHeader::parse(&packet).unwrap().0.peer_id, Some(0xff_fffe));
    }

    #[test]
    fn a_buffer_without_room_is_refused() {
        assert!(SendHeader::new(Some(1), 0).write(1, &mut [0; 23]).is_none());
        assert!(SendHeader::new(None, 0).write(1, &mut [0; 20]).is_none());
    }
}
