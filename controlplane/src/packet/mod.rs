//! Control packets as bytes: the first byte ([`opcode`]), the fields behind the protection
//! ([`control`]), and the checked cursor that reads them ([`reader`]). No state and no secrets.

pub mod control;
pub mod opcode;
pub mod reader;

pub use control::{AckList, ControlPacket};
pub use opcode::Opcode;
