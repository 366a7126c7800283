//! The first byte of every OpenVPN packet: `opcode << 3 | key-id`. Only its meaning belongs here.

use crate::error::Malformed;
use crate::ids::{KeyId, Role};

/// The opcodes that OpenVPN 2.x accepts, 3..=11. Key-method 1, opcodes 1 and 2, is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Opcode {
    /// Start of a renegotiation under a new key-id.
    SoftResetV1 = 3,
    /// A piece of the TLS stream.
    ControlV1 = 4,
    /// Acknowledgements only: no message id, no payload.
    AckV1 = 5,
    /// Data channel without peer-id.
    DataV1 = 6,
    /// The client's first packet.
    HardResetClientV2 = 7,
    /// The server's first packet.
    HardResetServerV2 = 8,
    /// Data channel with a 24-bit peer-id.
    DataV2 = 9,
    /// The client's first packet under tls-crypt-v2, its wrapped key appended.
    HardResetClientV3 = 10,
    /// `ControlV1` with the wrapped tls-crypt-v2 key appended.
    ControlWkcV1 = 11,
}

impl Opcode {
    /// Opcode and key-id of a packet's first byte.
    ///
    /// # Errors
    ///
    /// [`Malformed::UnknownOpcode`] for an opcode outside 3..=11.
    pub fn parse_first(byte: u8) -> Result<(Self, KeyId), Malformed> {
        let opcode = match byte >> 3 {
            3 => Self::SoftResetV1,
            4 => Self::ControlV1,
            5 => Self::AckV1,
            6 => Self::DataV1,
            7 => Self::HardResetClientV2,
            8 => Self::HardResetServerV2,
            9 => Self::DataV2,
            10 => Self::HardResetClientV3,
            11 => Self::ControlWkcV1,
            _ => return Err(Malformed::UnknownOpcode),
        };
        Ok((opcode, KeyId::from_first_byte(byte)))
    }

    /// The first byte of a packet with this opcode and `key_id`.
    #[must_use]
    pub const fn first_byte(self, key_id: KeyId) -> u8 {
        (self as u8) << 3 | key_id.get()
    }

    /// The name of the wire protocol's description, `P_CONTROL_V1` and so on.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::SoftResetV1 => "P_CONTROL_SOFT_RESET_V1",
            Self::ControlV1 => "P_CONTROL_V1",
            Self::AckV1 => "P_ACK_V1",
            Self::DataV1 => "P_DATA_V1",
            Self::HardResetClientV2 => "P_CONTROL_HARD_RESET_CLIENT_V2",
            Self::HardResetServerV2 => "P_CONTROL_HARD_RESET_SERVER_V2",
            Self::DataV2 => "P_DATA_V2",
            Self::HardResetClientV3 => "P_CONTROL_HARD_RESET_CLIENT_V3",
            Self::ControlWkcV1 => "P_CONTROL_WKC_V1",
        }
    }

    /// Whether the packet belongs to the data channel.
    #[must_use]
    pub const fn is_data(self) -> bool {
        matches!(self, Self::DataV1 | Self::DataV2)
    }

    /// Whether the packet starts a connection.
    #[must_use]
    pub const fn is_hard_reset(self) -> bool {
        matches!(self, Self::HardResetClientV2 | Self::HardResetServerV2 | Self::HardResetClientV3)
    }

    /// Whether the packet starts a TLS session: a hard or a soft reset.
    #[must_use]
    pub const fn is_reset(self) -> bool {
        self.is_hard_reset() || matches!(self, Self::SoftResetV1)
    }

    /// Whether the packet has a message id: every control packet but ACK_V1.
    #[must_use]
    pub const fn has_message_id(self) -> bool {
        !self.is_data() && !matches!(self, Self::AckV1)
    }

    /// Whether a peer in this role may send the packet.
    #[must_use]
    pub const fn may_come_from(self, sender: Role) -> bool {
        match self {
            Self::HardResetServerV2 => matches!(sender, Role::Server),
            Self::HardResetClientV2 | Self::HardResetClientV3 | Self::ControlWkcV1 => {
                matches!(sender, Role::Client)
            }
            Self::SoftResetV1 | Self::ControlV1 | Self::AckV1 | Self::DataV1 | Self::DataV2 => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_byte_survives_a_round_trip_for_all_legal_opcodes_and_only_those() {
        for byte in 0..=u8::MAX {
            match Opcode::parse_first(byte) {
                Ok((opcode, key_id)) => {
                    assert!((3..=11).contains(&(byte >> 3)));
                    assert_eq!(opcode.first_byte(key_id), byte);
                }
                Err(reason) => {
                    assert!(!(3..=11).contains(&(byte >> 3)));
                    assert_eq!(reason, Malformed::UnknownOpcode);
                }
            }
        }
    }

    #[test]
    fn resets_come_only_from_the_role_that_may_send_them() {
        let cases = [
            (Opcode::HardResetClientV2, true, false),
            (Opcode::HardResetClientV3, true, false),
            (Opcode::ControlWkcV1, true, false),
            (Opcode::HardResetServerV2, false, true),
            (Opcode::SoftResetV1, true, true),
            (Opcode::ControlV1, true, true),
            (Opcode::AckV1, true, true),
        ];
        for (opcode, client, server) in cases {
            assert_eq!(opcode.may_come_from(Role::Client), client, "{opcode:?}");
            assert_eq!(opcode.may_come_from(Role::Server), server, "{opcode:?}");
        }
    }

    #[test]
    fn opcodes_are_told_apart_by_what_they_carry() {
        assert!(Opcode::DataV2.is_data() && Opcode::DataV1.is_data() && !Opcode::AckV1.is_data());
        assert!(Opcode::SoftResetV1.is_reset() && !Opcode::SoftResetV1.is_hard_reset());
        assert!(Opcode::HardResetServerV2.is_hard_reset() && !Opcode::ControlV1.is_reset());
        assert!(Opcode::ControlV1.has_message_id() && !Opcode::AckV1.has_message_id());
        assert!(!Opcode::DataV2.has_message_id());
    }
}
