//! Whether a control process hangs, from questions that it answers and from the time in between. Pure; who asks is `control_child.rs`.
//!
//! Whatever it says counts as an answer. Time in which nobody looked counts for nothing: the machine was suspended, or the supervisor did
//! not run either.

use std::time::Duration;

use controlplane::Instant;

/// After so long without a word it is asked.
const BEAT: Duration = Duration::from_secs(2);
/// So many answers may be missing.
const MISSED: u32 = 3;
/// Before its first word it has to be started and to take its configuration.
const BIRTH: Duration = Duration::from_secs(30);
/// Supervisors look once a second. Two looks that are further apart say nothing about what was between them.
const LAPSE: Duration = Duration::from_secs(2);

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    /// Nothing.
    Fine,
    /// It is to be asked.
    Ask,
    /// It hangs: nothing came for so long, although it was asked.
    Gone(Duration),
}

/// The state of one process.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    looked: Instant,
    /// When it spoke last, was asked, or was overlooked for a while.
    since: Instant,
    asked: bool,
    spoke: bool,
}

impl Heartbeat {
    /// Of a process that is started now.
    pub(crate) fn new(now: Instant) -> Heartbeat {
        Heartbeat { looked: now, since: now, asked: false, spoke: false }
    }

    /// It said something, or took what waited for it.
    pub(crate) fn heard(&mut self, now: Instant) {
        (self.since, self.asked, self.spoke) = (now, false, true);
    }

    /// What its silence means now. Call it once a second or more often.
    pub(crate) fn look(&mut self, now: Instant) -> Beat {
        let lapse = now.since(std::mem::replace(&mut self.looked, now));
        if lapse > LAPSE {
            self.since = now;
        }
        let quiet = now.since(self.since);
        match (self.spoke, self.asked) {
            (false, _) if quiet >= BIRTH => Beat::Gone(quiet),
            (true, true) if quiet >= BEAT * MISSED => Beat::Gone(quiet),
            (true, false) if quiet >= BEAT => {
                (self.since, self.asked) = (now, true);
                Beat::Ask
            }
            _ => Beat::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(1_000_000_000_000 + ms * 1_000_000)
    }

    /// A process that has said that it is ready, at 0.
    fn ready() -> Heartbeat {
        let mut heartbeat = Heartbeat::new(at(0));
        heartbeat.heard(at(0));
        heartbeat
    }

    /// What comes of looking every second from `from` to `to`, both in seconds: the first thing that is not fine.
    fn watch(heartbeat: &mut Heartbeat, from: u64, to: u64) -> Option<(u64, Beat)> {
        let mut looks = (from..=to).map(|second| (second, heartbeat.look(at(second * 1_000))));
        looks.find(|(_, beat)| *beat != Beat::Fine)
    }

    #[test]
    fn one_that_says_nothing_is_asked_and_given_up_after_three_beats() {
        let mut heartbeat = ready();
        assert_eq!(watch(&mut heartbeat, 1, 100), Some((2, Beat::Ask)));
        assert_eq!(watch(&mut heartbeat, 3, 100), Some((8, Beat::Gone(Duration::from_secs(6)))));
    }

    #[test]
    fn one_that_answers_is_asked_again_and_again() {
        let mut heartbeat = ready();
        let mut asked = 0;
        for second in 1..=100 {
            match heartbeat.look(at(second * 1_000)) {
                Beat::Fine => {}
                Beat::Ask => {
                    asked += 1;
                    // It was busy: the answer comes just in time.
                    let answer = second * 1_000 + 999;
                    heartbeat.heard(at(answer));
                }
                Beat::Gone(quiet) => panic!("given up after {quiet:?}"),
            }
        }
        assert!(asked > 30, "{asked}");
    }

    #[test]
    fn one_that_talks_is_not_asked() {
        let mut heartbeat = ready();
        for second in 1..=100 {
            heartbeat.heard(at(second * 1_000 - 1));
            assert_eq!(heartbeat.look(at(second * 1_000)), Beat::Fine);
        }
    }

    #[test]
    fn time_in_which_the_machine_was_suspended_does_not_count() {
        let mut heartbeat = ready();
        assert_eq!(watch(&mut heartbeat, 1, 100), Some((2, Beat::Ask)));
        assert_eq!(watch(&mut heartbeat, 3, 7), None);
        // An hour later both wake up.
        assert_eq!(watch(&mut heartbeat, 3_600, 3_605), None);
        heartbeat.heard(at(3_605_500));
        assert_eq!(watch(&mut heartbeat, 3_606, 3_606), None);
        // One that still hangs is found out from then on.
        let mut hung = ready();
        assert_eq!(watch(&mut hung, 1, 100), Some((2, Beat::Ask)));
        assert_eq!(watch(&mut hung, 3_600, 4_000), Some((3_606, Beat::Gone(Duration::from_secs(6)))));
    }

    #[test]
    fn one_that_is_never_ready_is_given_up_after_half_a_minute() {
        let mut heartbeat = Heartbeat::new(at(0));
        assert_eq!(watch(&mut heartbeat, 1, 100), Some((30, Beat::Gone(BIRTH))));
    }
}
