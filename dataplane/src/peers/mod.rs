//! Who may be talked to: [`table`] from the wire to a peer, [`routes`] from an inner address to a peer.

pub mod routes;
pub mod table;
