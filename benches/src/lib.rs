//! What the benchmarks of this package share: inner packets as a host would send them.
//!
//! How to run and how to read: README.md beside this package's Cargo.toml.

pub mod packets;
pub mod rounds;
