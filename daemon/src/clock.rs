//! The daemon's clocks: CLOCK_BOOTTIME for every timer, so that time spent suspended counts, and wall time for
//! certificates and wrap timestamps.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use controlplane::{Instant, Now};
use rustix::time::{ClockId, clock_gettime};

/// The present.
pub fn now() -> Now {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Now { at: Instant(dataplane::sys::clock::boottime_ns()), unix }
}

/// How long this machine has been suspended since it booted: grows only over a suspend.
pub fn suspended() -> Duration {
    let monotonic = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(monotonic.tv_sec).unwrap_or(0);
    let nanos = u32::try_from(monotonic.tv_nsec).unwrap_or(0);
    Duration::from_nanos(dataplane::sys::clock::boottime_ns()).saturating_sub(Duration::new(seconds, nanos))
}
