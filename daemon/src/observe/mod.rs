//! What a person or a program sees of a running minivpn: log lines, states, rates.

pub mod console;
pub mod log;
pub mod notify;
pub mod output;
pub mod prompt;
pub mod statistics;
