//! Results as the report looks at them: which contenders, links and tests there are, which figure of a test counts, and how
//! minivpn's best compares with the others.

use std::collections::BTreeSet;

use super::stats::{self, Interval, Summary};
use crate::bench::results::{Direction, Link, Results, Sample, Series, Test};

/// The links, in the order of the report.
pub(crate) const LINKS: [Link; 2] = [Link::Offloaded, Link::Segmented];

/// The directions, in the order of the report.
pub(crate) const DIRECTIONS: [Direction; 2] = [Direction::Up, Direction::Down];

/// The figure of a sample that a test is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Measure {
    /// Bits a second.
    Throughput,
    /// Packets a second.
    PacketRate,
    /// Median round trip in µs: the only one of which less is better.
    RoundTrip,
}

impl Measure {
    /// What `test` is about.
    pub(crate) fn of(test: Test) -> Measure {
        match test {
            Test::TcpSingle { .. } | Test::TcpParallel { .. } => Measure::Throughput,
            Test::Udp { .. } => Measure::PacketRate,
            Test::LatencyIdle | Test::LatencyLoaded => Measure::RoundTrip,
        }
    }

    /// The figure; none when the sample has none or it is not finite.
    pub(crate) fn value(self, sample: &Sample) -> Option<f64> {
        let value = match self {
            Measure::Throughput => sample.bits_per_second,
            Measure::PacketRate => sample.packets_per_second,
            Measure::RoundTrip => sample.latency_us.as_ref()?.p50,
        };
        value.is_finite().then_some(value)
    }

    /// True when less is better.
    pub(crate) fn less_is_better(self) -> bool {
        self == Measure::RoundTrip
    }

    /// True when `a` is better than `b`.
    pub(crate) fn better(self, a: f64, b: f64) -> bool {
        if self.less_is_better() { a < b } else { a > b }
    }

    /// The unit, to stand behind a figure written with a prefix.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Measure::Throughput => "b/s",
            Measure::PacketRate => "packets/s",
            Measure::RoundTrip => "µs",
        }
    }
}

/// minivpn's best against another contender in one test.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Advantage {
    /// Ratios of the rounds, above 1 where minivpn was better.
    pub(crate) ratio: Summary,
    /// 95 % interval of their median, when there are rounds enough.
    pub(crate) interval: Option<Interval>,
}

/// True for the contenders that are this program.
pub(crate) fn is_minivpn(contender: &str) -> bool {
    contender == "minivpn" || contender.starts_with("minivpn/")
}

/// Every contender, in the order in which the run names them.
pub(crate) fn contenders(results: &Results) -> Vec<&str> {
    let mut seen = BTreeSet::new();
    results.series.iter().map(|series| series.contender.as_str()).filter(|name| seen.insert(*name)).collect()
}

/// The tests that were made on a link.
pub(crate) fn tests(results: &Results, link: Link) -> Vec<Test> {
    let tests: BTreeSet<Test> = results.series.iter().filter(|series| series.link == link).map(|s| s.test).collect();
    tests.into_iter().collect()
}

/// The series of one test on one link, in the order of the run.
pub(crate) fn series(results: &Results, link: Link, test: Test) -> impl Iterator<Item = &Series> {
    results.series.iter().filter(move |series| series.link == link && series.test == test)
}

/// The figures of a series by what its test is about.
pub(crate) fn values(series: &Series) -> Vec<f64> {
    by_round(series).into_iter().map(|(_, value)| value).collect()
}

/// Processor time per packet in ns, where it was measured.
pub(crate) fn costs(series: &Series) -> Vec<f64> {
    series.samples.iter().filter_map(|sample| sample.ns_per_packet).filter(|cost| cost.is_finite()).collect()
}

/// The minivpn with the best median in this test.
pub(crate) fn best_minivpn(results: &Results, link: Link, test: Test) -> Option<&Series> {
    let measure = Measure::of(test);
    let mut best: Option<(&Series, f64)> = None;
    for series in series(results, link, test).filter(|series| is_minivpn(&series.contender)) {
        let Some(median) = stats::median(&values(series)) else { continue };
        if best.is_none_or(|(_, other)| measure.better(median, other)) {
            best = Some((series, median));
        }
    }
    best.map(|(series, _)| series)
}

/// How much better `ours` is than `theirs`, paired by round; none when they share no round.
pub(crate) fn advantage(ours: &Series, theirs: &Series) -> Option<Advantage> {
    let (ours_by_round, theirs_by_round) = (by_round(ours), by_round(theirs));
    let ratios = match Measure::of(ours.test).less_is_better() {
        true => stats::paired_ratios(&theirs_by_round, &ours_by_round),
        false => stats::paired_ratios(&ours_by_round, &theirs_by_round),
    };
    Some(Advantage { ratio: stats::summary(&ratios)?, interval: stats::median_interval(&ratios, super::SEED) })
}

/// The name of a link.
pub(crate) fn link_name(link: Link) -> &'static str {
    match link {
        Link::Offloaded => "offloaded",
        Link::Segmented => "segmented",
    }
}

/// The name of a direction.
pub(crate) fn direction_name(direction: Direction) -> &'static str {
    match direction {
        Direction::Up => "up",
        Direction::Down => "down",
    }
}

/// Which way a test's data goes; round trips go both.
pub(crate) fn direction(test: Test) -> Option<Direction> {
    match test {
        Test::TcpSingle { direction } | Test::TcpParallel { direction, .. } | Test::Udp { direction, .. } => {
            Some(direction)
        }
        Test::LatencyIdle | Test::LatencyLoaded => None,
    }
}

/// The name of a test without its direction.
pub(crate) fn kind_name(test: Test) -> String {
    match test {
        Test::TcpSingle { .. } => "TCP, 1 flow".to_owned(),
        Test::TcpParallel { flows, .. } => format!("TCP, {flows} flows"),
        Test::Udp { size, .. } => format!("UDP, {size} bytes"),
        Test::LatencyIdle => "round trip, idle".to_owned(),
        Test::LatencyLoaded => "round trip, under load".to_owned(),
    }
}

/// The full name of a test.
pub(crate) fn test_name(test: Test) -> String {
    match direction(test) {
        Some(direction) => format!("{}, {}", kind_name(test), direction_name(direction)),
        None => kind_name(test),
    }
}

fn by_round(series: &Series) -> Vec<(u32, f64)> {
    let measure = Measure::of(series.test);
    series.samples.iter().filter_map(|sample| Some((sample.round, measure.value(sample)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample_run::{latency_series, run, tcp_series};

    const UP: Test = Test::TcpSingle { direction: Direction::Up };

    #[test]
    fn the_best_minivpn_has_the_highest_throughput_and_the_shortest_round_trip() {
        let mut results = run();
        results.series = vec![
            tcp_series("veth", &[50e9]),
            tcp_series("minivpn/uring/ring", &[9e9]),
            tcp_series("minivpn/uring/ipsec-mb", &[11e9]),
            tcp_series("minivpn/syscall/ring", &[10e9]),
            tcp_series("minivpnish", &[12e9]),
            latency_series("minivpn/uring/ring", Test::LatencyIdle, &[30.0]),
            latency_series("minivpn/syscall/ring", Test::LatencyIdle, &[20.0]),
        ];
        let best = |test| best_minivpn(&results, Link::Offloaded, test).map(|series| series.contender.as_str());
        assert_eq!(best(UP), Some("minivpn/uring/ipsec-mb"));
        assert_eq!(best(Test::LatencyIdle), Some("minivpn/syscall/ring"));
        assert_eq!(best(Test::LatencyLoaded), None);
        assert!(best_minivpn(&results, Link::Segmented, UP).is_none());
    }

    #[test]
    fn an_advantage_is_above_1_when_we_are_faster_and_when_our_round_trip_is_shorter() {
        let ours = tcp_series("minivpn", &[20.0, 22.0, 24.0]);
        let theirs = tcp_series("openvpn", &[2.0, 2.0, 2.0]);
        assert_eq!(advantage(&ours, &theirs).unwrap().ratio.median, 11.0);
        assert_eq!(advantage(&ours, &theirs).unwrap().interval, None);
        let ours = latency_series("minivpn", Test::LatencyIdle, &[10.0; 5]);
        let theirs = latency_series("openvpn", Test::LatencyIdle, &[40.0; 5]);
        let advantage = advantage(&ours, &theirs).unwrap();
        assert_eq!(advantage.ratio.median, 4.0);
        assert_eq!(advantage.interval, Some(Interval { low: 4.0, high: 4.0 }));
    }

    #[test]
    fn contenders_keep_the_order_of_the_run_and_come_once() {
        let mut results = run();
        results.series =
            vec![tcp_series("veth", &[1.0]), tcp_series("b", &[1.0]), tcp_series("a", &[1.0]), tcp_series("b", &[1.0])];
        assert_eq!(contenders(&results), ["veth", "b", "a"]);
        assert_eq!(super::tests(&results, Link::Offloaded), [UP]);
        assert!(super::tests(&results, Link::Segmented).is_empty());
    }
}
