//! `minivpn bench`: what was measured and how it is told.

pub mod report;
pub mod results;
