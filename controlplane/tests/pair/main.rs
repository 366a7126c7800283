//! A client and a server, both ours, on a virtual clock.

#![allow(clippy::unwrap_used)] // a test may panic

#[path = "../util/mod.rs"]
mod util;

mod certificates;
mod gateway;
mod handshake;
mod mistakes;
mod refusals;
mod renegotiation;
mod resume;
mod trace;
