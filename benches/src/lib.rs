//! What the benchmarks share.

pub mod rounds;
