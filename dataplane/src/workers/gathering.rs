//! When a worker lets datagrams gather instead of waking up for each of them ([`Tuning::gather_us`](super::manager::Tuning::gather_us)):
//! while they come fast, and only then, because every pause delays what comes in it.

use std::time::Duration;

/// Looks in a row that must have found datagrams coming fast before a pause is made: a short burst is over by then, and an exchange of
/// questions and answers never gets there.
const LOOKS: u32 = 16;
/// Datagrams in the time of one pause that are fast.
const FAST: u64 = 4;

/// How fast datagrams came lately. Times are in nanoseconds of one clock.
#[derive(Debug)]
pub(super) struct Gathering {
    /// The length of a pause; 0: none is ever made.
    pause_ns: u64,
    /// When there was nothing more to do, at last.
    looked_ns: u64,
    /// Datagrams (or trains of them) since then.
    came: u64,
    /// Looks in a row that found them coming fast.
    fast: u32,
}

impl Gathering {
    pub(super) fn new(pause_us: u32) -> Gathering {
        Gathering { pause_ns: u64::from(pause_us) * 1_000, looked_ns: 0, came: 0, fast: 0 }
    }

    /// So many datagrams, or trains of them, were received.
    #[inline]
    pub(super) fn came(&mut self, count: usize) {
        self.came += count as u64;
    }

    /// There is nothing more to do: how long to pause; `None`: wait for the next one.
    pub(super) fn pause(&mut self, now_ns: u64) -> Option<Duration> {
        if self.pause_ns == 0 {
            return None;
        }
        let passed = now_ns.saturating_sub(std::mem::replace(&mut self.looked_ns, now_ns));
        let came = std::mem::take(&mut self.came);
        let fast = came.saturating_mul(self.pause_ns) >= passed.saturating_mul(FAST) && came > 0;
        self.fast = if fast { self.fast.saturating_add(1) } else { 0 };
        (self.fast >= LOOKS).then(|| Duration::from_nanos(self.pause_ns))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Option<Duration> = Some(Duration::from_micros(100));

    /// Looks every `every_us` at which `came` datagrams are found; what the last one says.
    fn after(gathering: &mut Gathering, now_us: &mut u64, looks: u32, every_us: u64, came: usize) -> Option<Duration> {
        let mut said = None;
        for _ in 0..looks {
            *now_us += every_us;
            gathering.came(came);
            said = gathering.pause(*now_us * 1_000);
        }
        said
    }

    #[test]
    fn a_fast_stream_gathers_after_a_while_and_for_as_long_as_it_is_fast() {
        let (mut gathering, mut now) = (Gathering::new(100), 1_000);
        // The first look has a long time behind it.
        assert_eq!(after(&mut gathering, &mut now, LOOKS, 10, 1), None);
        assert_eq!(after(&mut gathering, &mut now, 1, 10, 1), PAUSE);
        assert_eq!(after(&mut gathering, &mut now, 1_000, 150, 13), PAUSE);
        assert_eq!(after(&mut gathering, &mut now, 1, 150, 5), None, "too few in that time");
        assert_eq!(after(&mut gathering, &mut now, LOOKS - 1, 10, 1), None, "it begins anew");
        assert_eq!(after(&mut gathering, &mut now, 1, 10, 1), PAUSE);
        assert_eq!(after(&mut gathering, &mut now, 1, 0, 0), None, "nothing came");
    }

    #[test]
    fn questions_and_answers_are_not_delayed() {
        let (mut gathering, mut now) = (Gathering::new(100), 1_000);
        assert_eq!(after(&mut gathering, &mut now, 1_000, 26, 1), None);
        assert_eq!(after(&mut gathering, &mut now, 1_000, 1, 0), None, "turns that found no datagram");
    }

    #[test]
    fn whoever_did_not_ask_for_it_never_waits() {
        let (mut gathering, mut now) = (Gathering::new(0), 1_000);
        assert_eq!(after(&mut gathering, &mut now, 1_000, 1, 64), None);
    }
}
