//! Who may be talked to: [`table`] from the wire to a peer, [`routes`] from an inner address to a peer, [`counters`] what came and
//! went, [`deadlines`] when to look at whom.

pub mod counters;
pub mod deadlines;
pub mod routes;
pub mod table;
