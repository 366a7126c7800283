//! The daemon's clocks: CLOCK_BOOTTIME for every timer, so that time spent suspended counts, and wall time for
//! certificates and wrap timestamps.

use std::time::{SystemTime, UNIX_EPOCH};

use controlplane::{Instant, Now};

/// The present.
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Now { at: Instant(dataplane::sys::clock::boottime_ns()), unix }
}

/// A moment by the local calendar, as `2026-11-22 18:46:42`: how OpenVPN writes dates for scripts and in its status file.
pub fn ascii(unix: u64) -> String {
    let [year, month, day, hour, minute, second] = crate::sys::local_time(unix).unwrap_or_default();
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
}
