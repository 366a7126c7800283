//! The OpenVPN data channel: [`header`] the wire format, [`aead`] sealing and opening, [`replay`] the window,
//! [`keyring`] which key when, with its halves [`opening`] and [`sealing`] and what [`crossing`] they share, [`ping`] the in-band messages, [`mssfix`] TCP segments that fit.

pub mod aead;
pub mod crossing;
pub mod header;
pub mod keyring;
pub mod mssfix;
pub mod opening;
pub mod ping;
pub mod replay;
pub mod sealing;
pub mod usage;
