//! The atomics that the ring logic is written with: `core`'s in production, loom's when the model checker runs
//! (`--cfg loom`). Nothing else belongs here.

#[cfg(not(loom))]
pub use core::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

#[cfg(loom)]
pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
