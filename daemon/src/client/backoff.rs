//! How long to wait before trying again after a failure that was answered: 1 s doubling to 15 s, jittered, so that a
//! server that comes back is not met by all its clients in the same moment.

use std::time::Duration;

use controlplane::Random;

/// First pause.
const FIRST: Duration = Duration::from_secs(1);
/// Longest pause.
const LONGEST: Duration = Duration::from_secs(15);
/// A connection that lived this long was a success: the next failure starts from [`FIRST`].
const SETTLED: Duration = Duration::from_secs(60);

/// The pauses of one client.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// The pause before the next attempt: the doubled one, and up to a quarter of it less.
    pub(crate) fn next(&mut self, rng: &mut dyn Random) -> Duration {
        let whole = FIRST.saturating_mul(1 << self.failures.min(4)).min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        whole - whole.mul_f64(f64::from(random_byte(rng)) / 255.0 / 4.0)
    }

    /// True until the first pause, and again once a connection has settled.
    pub(crate) fn is_fresh(&self) -> bool {
        self.failures == 0
    }

    /// A connection ended after living this long.
    pub(crate) fn connection_lived(&mut self, lived: Duration) {
        if lived >= SETTLED {
            self.failures = 0;
        }
    }
}

fn random_byte(rng: &mut dyn Random) -> u8 {
    let mut byte = [0];
    rng.fill(&mut byte);
    byte[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u8);
    impl Random for Fixed {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(self.0);
        }
    }

    #[test]
    fn pauses_double_up_to_fifteen_seconds() {
        let mut backoff = Backoff::default();
        let pauses: Vec<u64> = (0..7).map(|_| backoff.next(&mut Fixed(0)).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 15, 15, 15]);
    }

    #[test]
    fn jitter_takes_at_most_a_quarter() {
        assert_eq!(Backoff::default().next(&mut Fixed(255)), Duration::from_millis(750));
    }

    #[test]
    fn only_a_connection_that_settled_starts_over() {
        let mut backoff = Backoff::default();
        backoff.next(&mut Fixed(0));
        backoff.connection_lived(SETTLED - Duration::from_secs(1));
        assert_eq!(backoff.next(&mut Fixed(0)).as_secs(), 2);
        backoff.connection_lived(SETTLED);
        assert_eq!(backoff.next(&mut Fixed(0)).as_secs(), 1);
    }
}
