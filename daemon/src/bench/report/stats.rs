//! Statistics over the rounds of a series: median, quartiles, ratios paired by round, bootstrap intervals. Figures only;
//! which figure of a sample counts is `view`'s.
//!
//! Values that are not finite are no values: every function leaves them out.

/// Fewer values than this give no interval: the range of four values covers their median 87 times in 100, that of five
/// 94 times, and no method knows more than the range.
pub(crate) const MIN_FOR_INTERVAL: usize = 5;

/// How often the bootstrap draws.
const RESAMPLES: usize = 2000;

/// The middle of some values and their spread.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Summary {
    /// How many values.
    pub(crate) count: usize,
    /// A quarter of the values is below.
    pub(crate) p25: f64,
    /// Half of the values is below.
    pub(crate) median: f64,
    /// Three quarters of the values are below.
    pub(crate) p75: f64,
}

/// A 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Interval {
    /// Its lower end.
    pub(crate) low: f64,
    /// Its upper end.
    pub(crate) high: f64,
}

impl Interval {
    /// True when `value` is inside; the ends belong to the interval.
    pub(crate) fn contains(&self, value: f64) -> bool {
        self.low <= value && value <= self.high
    }
}

/// Middle and spread; none of no values.
pub(crate) fn summary(values: &[f64]) -> Option<Summary> {
    let sorted = sorted(values);
    Some(Summary {
        count: sorted.len(),
        p25: quantile(&sorted, 0.25)?,
        median: quantile(&sorted, 0.5)?,
        p75: quantile(&sorted, 0.75)?,
    })
}

/// The median; none of no values.
pub(crate) fn median(values: &[f64]) -> Option<f64> {
    quantile(&sorted(values), 0.5)
}

/// `ours / theirs` of every round that both have. A round in which theirs is 0 has no ratio.
pub(crate) fn paired_ratios(ours: &[(u32, f64)], theirs: &[(u32, f64)]) -> Vec<f64> {
    let of_round = |round: u32| theirs.iter().find(|(other, _)| *other == round).map(|(_, value)| *value);
    let ratio = |&(round, value): &(u32, f64)| of_round(round).map(|their| value / their);
    ours.iter().filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
}

/// The bootstrap's 95 % interval of the median; none of fewer than [`MIN_FOR_INTERVAL`] values. The same seed gives the
/// same interval.
pub(crate) fn median_interval(values: &[f64], seed: u64) -> Option<Interval> {
    let values = enough(values)?;
    let mut random = SplitMix(seed);
    percentiles((0..RESAMPLES).filter_map(|_| resampled_median(&values, &mut random)).collect())
}

/// The same of `median(numerator) / median(denominator)`, the two drawn independently: for runs that were not paired.
pub(crate) fn ratio_interval(numerator: &[f64], denominator: &[f64], seed: u64) -> Option<Interval> {
    let (numerator, denominator) = (enough(numerator)?, enough(denominator)?);
    let mut random = SplitMix(seed);
    let mut draw = |_| Some(resampled_median(&numerator, &mut random)? / resampled_median(&denominator, &mut random)?);
    percentiles((0..RESAMPLES).filter_map(&mut draw).collect())
}

fn enough(values: &[f64]) -> Option<Vec<f64>> {
    let values = sorted(values);
    (values.len() >= MIN_FOR_INTERVAL).then_some(values)
}

fn percentiles(drawn: Vec<f64>) -> Option<Interval> {
    let drawn = sorted(&drawn);
    Some(Interval { low: quantile(&drawn, 0.025)?, high: quantile(&drawn, 0.975)? })
}

fn resampled_median(values: &[f64], random: &mut SplitMix) -> Option<f64> {
    let draw = |_| values.get(random.below(values.len())).copied();
    median(&(0..values.len()).map(draw).collect::<Option<Vec<f64>>>()?)
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    values
}

/// Linear between neighbours, the first value at 0 and the last at 1.
fn quantile(sorted: &[f64], at: f64) -> Option<f64> {
    let position = at * sorted.len().checked_sub(1)? as f64;
    let low = *sorted.get(position.floor() as usize)?;
    let high = *sorted.get(position.ceil() as usize)?;
    let share = position - position.floor();
    // Weighted before they are added: the sum of two huge values is not finite.
    Some((low * (1.0 - share) + high * share).clamp(low, high))
}

/// SplitMix64 (Steele, Lea, Flood 2014): enough to draw with, the same on every machine.
struct SplitMix(u64);

impl SplitMix {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// 0 to `bound - 1`; 0 of an empty range.
    fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_quartiles_of_even_odd_single_and_no_values() {
        type Quartiles = Option<(f64, f64, f64)>;
        let table: &[(&[f64], Quartiles)] = &[
            (&[], None),
            (&[f64::NAN, f64::INFINITY], None),
            (&[7.0], Some((7.0, 7.0, 7.0))),
            (&[1.0, 3.0], Some((1.5, 2.0, 2.5))),
            (&[3.0, 1.0, 2.0], Some((1.5, 2.0, 2.5))),
            (&[4.0, 1.0, 3.0, 2.0], Some((1.75, 2.5, 3.25))),
            (&[5.0, 1.0, 4.0, 2.0, 3.0], Some((2.0, 3.0, 4.0))),
            (&[1.0, f64::NAN, 3.0], Some((1.5, 2.0, 2.5))),
            (&[f64::MAX, f64::MAX], Some((f64::MAX, f64::MAX, f64::MAX))),
            (&[-2.0, 2.0], Some((-1.0, 0.0, 1.0))),
        ];
        for (values, expected) in table {
            let found = summary(values).map(|s| (s.p25, s.median, s.p75));
            assert_eq!(found, *expected, "{values:?}");
            assert_eq!(median(values), expected.map(|(_, median, _)| median), "{values:?}");
        }
        assert_eq!(summary(&[1.0, f64::NAN, 3.0]).unwrap().count, 2);
    }

    #[test]
    fn ratios_pair_what_ran_in_the_same_round() {
        type Rounds = &'static [(u32, f64)];
        let table: &[(Rounds, Rounds, &[f64])] = &[
            (&[], &[], &[]),
            (&[(0, 6.0)], &[], &[]),
            (&[(0, 6.0)], &[(0, 3.0)], &[2.0]),
            (&[(0, 6.0)], &[(1, 3.0)], &[]),
            (&[(0, 6.0), (1, 8.0)], &[(1, 2.0), (0, 3.0)], &[2.0, 4.0]),
            (&[(0, 6.0)], &[(0, 0.0)], &[]),
            (&[(0, 0.0)], &[(0, 3.0)], &[0.0]),
            (&[(0, f64::NAN)], &[(0, 3.0)], &[]),
            (&[(0, f64::MAX)], &[(0, 1e-300)], &[]),
        ];
        for (ours, theirs, expected) in table {
            assert_eq!(paired_ratios(ours, theirs), *expected, "{ours:?} {theirs:?}");
        }
    }

    #[test]
    fn four_values_have_no_interval_and_five_have() {
        assert_eq!(median_interval(&[], 1), None);
        assert_eq!(median_interval(&[1.0], 1), None);
        assert_eq!(median_interval(&[1.0, 2.0, 3.0, 4.0], 1), None);
        assert_eq!(median_interval(&[1.0, 2.0, 3.0, 4.0, f64::NAN], 1), None);
        assert_eq!(median_interval(&[1.0, 2.0, 3.0, 4.0, 5.0], 1), Some(Interval { low: 1.0, high: 5.0 }));
        assert_eq!(ratio_interval(&[1.0; 5], &[1.0; 4], 1), None);
        assert_eq!(ratio_interval(&[1.0; 4], &[1.0; 5], 1), None);
    }

    #[test]
    fn the_interval_is_around_the_median_and_narrows_with_more_values() {
        let spread = |n: usize| (0..n).map(|i| 100.0 + 20.0 * (i as f64 + 0.5) / n as f64).collect::<Vec<_>>();
        for n in [5, 6, 15, 16, 60] {
            let interval = median_interval(&spread(n), 42).unwrap();
            assert!(interval.contains(110.0), "{n}: {interval:?}");
        }
        let width = |n| median_interval(&spread(n), 42).map(|i| i.high - i.low).unwrap();
        assert!(width(60) < width(15) / 1.5);
    }

    #[test]
    fn the_same_seed_gives_the_same_interval_and_another_another() {
        let values: Vec<f64> = (0..40).map(|i| f64::from(i * i)).collect();
        assert_eq!(median_interval(&values, 7), median_interval(&values, 7));
        let others: Vec<_> = (0..20).map(|seed| median_interval(&values, seed)).collect();
        assert!(others.iter().any(|other| *other != others[0]));
    }

    #[test]
    fn ratios_of_runs_that_differ_exclude_1_and_of_like_runs_include_it() {
        let old = [100.0, 101.0, 99.0, 102.0, 98.0];
        let doubled = old.map(|value| value * 2.0);
        let interval = ratio_interval(&doubled, &old, 3).unwrap();
        assert!(interval.low > 1.8 && interval.high < 2.2, "{interval:?}");
        assert!(ratio_interval(&old, &old, 3).unwrap().contains(1.0));
        assert_eq!(ratio_interval(&old, &[0.0; 5], 3), None);
    }

    #[test]
    fn the_ends_belong_to_an_interval() {
        let interval = Interval { low: 1.0, high: 2.0 };
        for (value, inside) in [(0.99, false), (1.0, true), (1.5, true), (2.0, true), (2.01, false), (f64::NAN, false)]
        {
            assert_eq!(interval.contains(value), inside, "{value}");
        }
    }
}
