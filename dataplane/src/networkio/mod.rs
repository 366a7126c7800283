//! What goes to the network and what comes from it, as batches: [`gso`] outgoing, [`gro`] incoming. No sockets here.

pub mod gro;
pub mod gso;
