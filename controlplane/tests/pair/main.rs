//! A client and a server, both ours, on a virtual clock.

#[path = "../util/mod.rs"]
mod util;

mod certificates;
mod handshake;
mod refusals;
mod renegotiation;
mod resume;
