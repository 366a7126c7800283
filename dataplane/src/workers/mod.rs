//! The threads that run the pipeline, and what they count.

pub mod manager;
pub mod stats;
mod worker;
