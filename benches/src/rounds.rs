//! Interleaved rounds: what several ways of doing the same took, round by round, and how they compare. The host's noise
//! hits the ways of one round alike, so ratios are taken within a round.

/// Resamples of the bootstrap.
const RESAMPLES: usize = 2_000;

/// What one way took.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Summary {
    /// The median over the rounds, in the unit of the samples.
    pub median: f64,
    /// The first and third quartile.
    pub quartiles: (f64, f64),
}

/// One way compared with another.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Ratio {
    /// The median of the rounds' ratios.
    pub median: f64,
    /// The 95 % interval of that median, by bootstrap over the rounds.
    pub interval: (f64, f64),
}

/// Median and quartiles; `None` without samples.
pub fn summary(samples: &[f64]) -> Option<Summary> {
    let sorted = sorted(samples);
    Some(Summary { median: quantile(&sorted, 0.5)?, quartiles: (quantile(&sorted, 0.25)?, quantile(&sorted, 0.75)?) })
}

/// The samples' ratio to the base's of the same round; `None` when the rounds differ in number, or there is none.
pub fn ratio(samples: &[f64], base: &[f64]) -> Option<Ratio> {
    if samples.len() != base.len() {
        return None;
    }
    let ratios: Vec<f64> = samples.iter().zip(base).map(|(sample, base)| sample / base).collect();
    let median = quantile(&sorted(&ratios), 0.5)?;
    let mut dice = 0x9E37_79B9_7F4A_7C15u64;
    let mut medians = Vec::with_capacity(RESAMPLES);
    for _ in 0..RESAMPLES {
        let resample: Vec<f64> = ratios.iter().map(|_| ratios[roll(&mut dice) % ratios.len()]).collect();
        medians.push(quantile(&sorted(&resample), 0.5)?);
    }
    let medians = sorted(&medians);
    Some(Ratio { median, interval: (quantile(&medians, 0.025)?, quantile(&medians, 0.975)?) })
}

/// The sample below which this part (0 to 1) of the ascending samples lies, interpolated.
pub fn quantile(sorted: &[f64], part: f64) -> Option<f64> {
    let place = part.clamp(0.0, 1.0) * sorted.len().checked_sub(1)? as f64;
    let (below, above) = (place.floor() as usize, place.ceil() as usize);
    Some(sorted[below] + (sorted[above] - sorted[below]) * (place - place.floor()))
}

/// In ascending order.
pub fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// xorshift64*: the same resamples in every run.
fn roll(state: &mut u64) -> usize {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    (state.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_samples_they_belong_to() {
        let sorted = sorted(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(quantile(&sorted, 0.5), Some(2.5));
        assert_eq!(quantile(&sorted, 0.0), Some(1.0));
        assert_eq!(quantile(&sorted, 1.0), Some(4.0));
        assert_eq!(quantile(&[], 0.5), None);
        assert_eq!(summary(&[4.0, 1.0, 3.0, 2.0]).unwrap().quartiles, (1.75, 3.25));
    }

    #[test]
    fn a_drift_that_both_ways_share_does_not_widen_the_ratio() {
        let base: Vec<f64> = (1..=20).map(f64::from).collect();
        let slower: Vec<f64> = base.iter().map(|sample| sample * 1.5).collect();
        let ratio = ratio(&slower, &base).unwrap();
        assert_eq!((ratio.median, ratio.interval), (1.5, (1.5, 1.5)));
    }

    #[test]
    fn the_interval_holds_the_median_and_is_wider_with_noise() {
        let base = [1.0; 15];
        let noisy: Vec<f64> = (0..15).map(|round| 0.8 + 0.03 * f64::from(round)).collect();
        let Ratio { median, interval } = ratio(&noisy, &base).unwrap();
        assert!(interval.0 < median && median < interval.1, "{interval:?}");
        assert!(interval.0 > 0.8 && interval.1 < 1.22, "{interval:?}");
    }

    #[test]
    fn rounds_that_do_not_pair_are_not_compared() {
        assert_eq!(ratio(&[1.0, 2.0], &[1.0]), None);
        assert_eq!(ratio(&[], &[]), None);
    }
}
