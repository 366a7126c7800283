//! The worker's clock: CLOCK_BOOTTIME, which also counts while the machine is suspended.

use rustix::time::{ClockId, Timespec, clock_gettime};

/// Now, in nanoseconds since boot, suspended time included (clock_gettime(2)). Read once per turn.
pub fn boottime_ns() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(now.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(nanos)
}

/// The same instant as the kernel writes it.
pub fn timespec(ns: u64) -> Timespec {
    // The quotient of a u64 by a billion always fits; the remainder is below a billion.
    Timespec { tv_sec: (ns / 1_000_000_000) as i64, tv_nsec: (ns % 1_000_000_000) as _ }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_never_goes_back_and_counts_nanoseconds() {
        let first = boottime_ns();
        let second = boottime_ns();
        assert!(second >= first);
        assert!(first > 1_000_000, "the machine has been up for more than a millisecond");
    }

    #[test]
    fn an_instant_is_split_into_seconds_and_nanoseconds() {
        let split = timespec(3_000_000_007);
        assert_eq!((split.tv_sec, split.tv_nsec), (3, 7));
    }
}
