//! The OpenVPN data channel: [`header`] the wire format, [`aead`] sealing and opening, [`replay`] the window,
//! [`keyring`] which key when, [`ping`] the in-band messages, [`mssfix`] TCP segments that fit.

pub mod aead;
pub mod header;
pub mod keyring;
pub mod mssfix;
pub mod ping;
pub mod replay;
