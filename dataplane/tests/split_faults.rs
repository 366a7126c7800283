//! The situations of `faults` with a thread for each direction.

#[path = "faults.rs"]
mod faults;

const _: () = assert!(faults::common::SPLIT);
