//! The first look at a datagram: data of which peer, control, or nothing of ours.

use std::net::SocketAddr;

use crate::datachannel::header::{DataHeader, OP_DATA_V1, OP_DATA_V2, Parts};
use crate::drop_reason::DropReason;
use crate::peers::table::PeerTable;

/// The lowest and highest opcode of the control channel (OpenVPN wire protocol; 6 and 9 between them are data).
const CONTROL_OPCODES: std::ops::RangeInclusive<u8> = 3..=11;

/// What a datagram is, by its first byte.
#[derive(Clone, Copy, Debug)]
pub enum Kind<'a> {
    /// A data packet.
    Data(DataHeader, Parts<'a>),
    /// For the control process.
    Control,
}

/// Tells data from control.
///
/// # Errors
/// [`DropReason::Empty`], [`DropReason::UnknownOpcode`], [`DropReason::TooShort`].
#[inline]
pub fn classify(datagram: &[u8]) -> Result<Kind<'_>, DropReason> {
    let first = *datagram.first().ok_or(DropReason::Empty)?;
    match first >> 3 {
        OP_DATA_V1 | OP_DATA_V2 => DataHeader::parse(datagram).map(|(header, parts)| Kind::Data(header, parts)),
        opcode if CONTROL_OPCODES.contains(&opcode) => Ok(Kind::Control),
        _ => Err(DropReason::UnknownOpcode),
    }
}

/// Whose data packet this is: by peer-id, and without one by address.
///
/// # Errors
/// [`DropReason::UnknownPeer`].
#[inline]
pub fn owner(peers: &PeerTable, peer_id: Option<u32>, remote: &SocketAddr) -> Result<u32, DropReason> {
    match peer_id {
        Some(peer_id) => peers.by_wire_id(peer_id),
        None => peers.by_address(remote),
    }
    .ok_or(DropReason::UnknownPeer)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(datagram: &[u8]) -> Result<bool, DropReason> {
        classify(datagram).map(|kind| matches!(kind, Kind::Data(..)))
    }

    #[test]
    fn every_opcode_by_table() {
        for opcode in 0..32u8 {
            for key_id in 0..8 {
                let mut datagram = [0; 60];
                datagram[0] = opcode << 3 | key_id;
                let expected = match opcode {
                    6 | 9 => Ok(true),
                    3..=11 => Ok(false),
                    _ => Err(DropReason::UnknownOpcode),
                };
                assert_eq!(kind(&datagram), expected, "opcode {opcode}");
            }
        }
    }

    #[test]
    fn nothing_and_too_little_are_refused() {
        assert_eq!(kind(&[]), Err(DropReason::Empty));
        assert_eq!(kind(&[9 << 3; 24]), Err(DropReason::TooShort));
        assert_eq!(kind(&[6 << 3; 21]), Err(DropReason::TooShort));
        assert_eq!(kind(&[4 << 3]), Ok(false));
    }
}
