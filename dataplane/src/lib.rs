//! The packet path: between TUN and the network, with the data channel's AEAD in between, and the threads that run it.
//!
//! The pipeline is pure: no system call, no clock, no lock, no allocation per packet. `unsafe` lives in `sys` only.
#![deny(unsafe_code)]

pub mod datachannel;
pub mod drop_reason;
pub mod networkio;
pub mod packetmuxer;
pub mod peers;
pub mod pipeline;
#[allow(unsafe_code)]
pub mod sys;
pub mod tun;
pub mod workers;
