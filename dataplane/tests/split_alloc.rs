//! The situation of `alloc` with a thread for each direction: neither of them allocates.

#[path = "alloc.rs"]
mod alloc;

const _: () = assert!(alloc::common::SPLIT);
