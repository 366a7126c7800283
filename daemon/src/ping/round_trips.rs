//! Round trip times, summed up as they come: nothing is kept of a single one.

use std::time::Duration;

/// The sums of some round trips.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct RoundTrips {
    count: u64,
    least: f64,
    most: f64,
    mean: f64,
    /// The sum of the squared distances from the mean (Welford's recurrence, which loses nothing to cancellation).
    squares: f64,
}

/// What they come to, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Summary {
    /// The shortest.
    pub min: f64,
    /// Their mean.
    pub avg: f64,
    /// The longest.
    pub max: f64,
    /// Their standard deviation (of all of them, not of a sample).
    pub stddev: f64,
}

impl RoundTrips {
    /// One more.
    pub(super) fn add(&mut self, time: Duration) {
        let time = milliseconds(time);
        self.count += 1;
        self.least = if self.count == 1 { time } else { self.least.min(time) };
        self.most = self.most.max(time);
        let before = time - self.mean;
        self.mean += before / self.count as f64;
        self.squares += before * (time - self.mean);
    }

    /// The sums; `None` without any.
    pub(super) fn summary(&self) -> Option<Summary> {
        let deviation = || (self.squares / self.count as f64).sqrt();
        (self.count > 0).then(|| Summary { min: self.least, avg: self.mean, max: self.most, stddev: deviation() })
    }
}

/// A duration in milliseconds.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(times: &[u64]) -> Option<Summary> {
        let mut sums = RoundTrips::default();
        times.iter().for_each(|&ms| sums.add(Duration::from_millis(ms)));
        sums.summary()
    }

    #[test]
    fn known_values_give_known_sums() {
        for (times, [min, avg, max, stddev]) in [
            (&[7][..], [7.0, 7.0, 7.0, 0.0]),
            (&[2, 4, 4, 4, 5, 5, 7, 9], [2.0, 5.0, 9.0, 2.0]),
            (&[9, 7, 5, 5, 4, 4, 4, 2], [2.0, 5.0, 9.0, 2.0]),
            (&[10, 20], [10.0, 15.0, 20.0, 5.0]),
        ] {
            let found = of(times).unwrap();
            let close = |a: f64, b: f64| (a - b).abs() < 1e-9;
            assert!(close(found.min, min) && close(found.max, max), "{found:?}");
            assert!(close(found.avg, avg) && close(found.stddev, stddev), "{found:?}");
        }
        assert_eq!(of(&[]), None);
    }

    #[test]
    fn a_small_deviation_on_a_large_mean_is_not_lost() {
        let mut sums = RoundTrips::default();
        for n in 0..100_000u64 {
            sums.add(Duration::from_micros(3_600_000_000 + 2 * (n % 2)));
        }
        let deviation = sums.summary().unwrap().stddev;
        assert!((deviation - 0.001).abs() < 1e-6, "{deviation}");
    }
}
