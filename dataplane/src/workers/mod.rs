//! The threads that run the pipeline, and what they count.

pub mod crew;
mod gathering;
mod halves;
pub mod handover;
pub mod manager;
pub mod stats;
mod worker;
