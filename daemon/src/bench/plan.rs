//! What is measured in which order: pure. Contenders take turns within a round (A B C, B C A, …), so that what drifts on the
//! machine falls on all of them alike.

use std::time::Duration;

use super::results::{Direction, Link, Test};

/// TCP connections of the parallel tests.
pub(super) const FLOWS: u32 = 4;

/// What each kind of test runs for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Repetitions of everything.
    pub(super) rounds: u32,
    /// Links.
    pub(super) links: Vec<Link>,
    /// Tests.
    pub(super) tests: Vec<Test>,
    /// What is measured of each.
    pub(super) window: Duration,
    /// What runs before that and is not counted: TCP finds its speed.
    pub(super) warm_up: Duration,
}

/// One measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// From 0.
    pub(super) round: u32,
    /// The link.
    pub(super) link: Link,
    /// The test.
    pub(super) test: Test,
    /// Whose turn it is.
    pub(super) contender: usize,
}

/// What a test takes beside its window and its warm-up: connections, and a pause in which queues empty.
pub(super) const PAUSE: Duration = Duration::from_millis(150);

impl Plan {
    /// All measurements with this many contenders, in order.
    pub(super) fn steps(&self, contenders: usize) -> Vec<Step> {
        let mut steps = Vec::new();
        for round in 0..self.rounds {
            for &link in &self.links {
                for &test in &self.tests {
                    let turn = rotation(contenders, round as usize);
                    steps.extend(turn.map(|contender| Step { round, link, test, contender }));
                }
            }
        }
        steps
    }

    /// About how long all measurements with this many contenders take.
    pub(super) fn time(&self, contenders: usize) -> Duration {
        let each = [self.links.len(), self.tests.len(), contenders]
            .into_iter()
            .fold(self.rounds, |product, count| product.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)));
        self.step_time().saturating_mul(each)
    }

    /// About how long a measurement takes.
    pub(super) fn step_time(&self) -> Duration {
        self.window + self.warm_up + PAUSE
    }
}

/// `0..count`, begun one further each round.
fn rotation(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round) % count)
}

/// The tests by name.
pub(super) const TESTS: [(&str, Test); 9] = [
    ("tcp-up", Test::TcpSingle { direction: Direction::Up }),
    ("tcp-down", Test::TcpSingle { direction: Direction::Down }),
    ("parallel-up", Test::TcpParallel { flows: FLOWS, direction: Direction::Up }),
    ("parallel-down", Test::TcpParallel { flows: FLOWS, direction: Direction::Down }),
    ("udp-64", Test::Udp { size: 64, direction: Direction::Up }),
    ("udp-512", Test::Udp { size: 512, direction: Direction::Up }),
    ("udp-1300", Test::Udp { size: 1_300, direction: Direction::Up }),
    ("latency-idle", Test::LatencyIdle),
    ("latency-loaded", Test::LatencyLoaded),
];

/// The tests of `--quick`.
pub(super) const QUICK: [&str; 4] = ["tcp-up", "tcp-down", "udp-64", "latency-idle"];

/// A test's name.
pub(super) fn name(test: Test) -> &'static str {
    TESTS.iter().find_map(|(name, known)| (*known == test).then_some(*name)).unwrap_or("other")
}

/// The tests that the words mean, in the order of [`TESTS`]. A word is a name or what stands before its `-`.
///
/// # Errors
/// A word that means none.
pub(super) fn tests(words: &[impl AsRef<str>]) -> Result<Vec<Test>, String> {
    let means = |word: &str, name: &str| name == word || name.split('-').next() == Some(word);
    for word in words.iter().map(AsRef::as_ref) {
        if !TESTS.iter().any(|(name, _)| means(word, name)) {
            let known: Vec<&str> = TESTS.iter().map(|(name, _)| *name).collect();
            return Err(format!("--tests {word}: there is no such test; there are {}", known.join(", ")));
        }
    }
    let wanted = |name: &str| words.iter().any(|word| means(word.as_ref(), name));
    Ok(TESTS.iter().filter(|(name, _)| wanted(name)).map(|(_, test)| *test).collect())
}

/// The links that the words mean, offloaded first.
///
/// # Errors
/// A word that means none.
pub(super) fn links(words: &[impl AsRef<str>]) -> Result<Vec<Link>, String> {
    let known = [("offloaded", Link::Offloaded), ("segmented", Link::Segmented)];
    for word in words.iter().map(AsRef::as_ref) {
        if !known.iter().any(|(name, _)| *name == word) {
            return Err(format!("--links {word}: there is no such link; there are offloaded and segmented"));
        }
    }
    let wanted = |name: &str| words.iter().any(|word| word.as_ref() == name);
    Ok(known.into_iter().filter(|(name, _)| wanted(name)).map(|(_, link)| link).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan {
        Plan {
            rounds: 3,
            links: vec![Link::Offloaded, Link::Segmented],
            tests: vec![TESTS[0].1, TESTS[4].1],
            window: Duration::from_secs(3),
            warm_up: Duration::from_secs(1),
        }
    }

    #[test]
    fn contenders_take_turns_and_begin_one_further_each_round() {
        let steps = plan().steps(3);
        let turns = |round| -> Vec<usize> {
            let of_round = steps.iter().filter(|step| step.round == round && step.link == Link::Offloaded);
            of_round.filter(|step| step.test == TESTS[0].1).map(|step| step.contender).collect()
        };
        assert_eq!((turns(0), turns(1), turns(2)), (vec![0, 1, 2], vec![1, 2, 0], vec![2, 0, 1]));
        assert_eq!(steps.len(), 3 * 2 * 2 * 3);
        assert_eq!(plan().time(3), plan().step_time() * 36);
        // A B C and then the next test, not A A A.
        assert!(steps.windows(2).all(|pair| pair[0].contender != pair[1].contender || pair[0].test != pair[1].test));
    }

    #[test]
    fn every_combination_occurs_once_a_round() {
        let mut steps: Vec<String> = plan().steps(2).iter().map(|step| format!("{step:?}")).collect();
        steps.sort();
        let all = steps.len();
        steps.dedup();
        assert_eq!(steps.len(), all);
    }

    #[test]
    fn nobody_to_measure_is_nothing_to_do() {
        assert!(plan().steps(0).is_empty());
    }

    #[test]
    fn words_mean_tests_and_families_of_tests() {
        assert_eq!(tests(&["udp"]).unwrap().len(), 3);
        assert_eq!(tests(&["latency-idle", "tcp-up"]).unwrap(), vec![TESTS[0].1, Test::LatencyIdle]);
        assert_eq!(tests(&QUICK).unwrap().len(), QUICK.len());
        assert!(tests(&["udp-65"]).unwrap_err().contains("udp-64"));
        assert!(tests(&[""]).is_err());
        assert!(TESTS.iter().all(|(word, test)| name(*test) == *word));
    }

    #[test]
    fn words_mean_links() {
        assert_eq!(links(&["segmented", "offloaded"]).unwrap(), vec![Link::Offloaded, Link::Segmented]);
        assert_eq!(links(&["segmented"]).unwrap(), vec![Link::Segmented]);
        assert!(links(&["wifi"]).is_err());
    }
}
