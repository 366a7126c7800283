//! The daemon's clocks: CLOCK_BOOTTIME for every timer, so that time spent suspended counts, and wall time for
//! certificates and wrap timestamps.

use std::time::{SystemTime, UNIX_EPOCH};

use controlplane::{Instant, Now};

/// The present.
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Now { at: Instant(dataplane::sys::clock::boottime_ns()), unix }
}
