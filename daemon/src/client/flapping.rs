//! Sessions that are lost again and again although the server is there each time: seen from the outside, that is what a profile in use
//! twice looks like. A server keeps one session per name unless it is told otherwise (`duplicate-cn`), and drops the older one without a
//! word; that one falls silent, comes back, and so drops the other.

use std::time::Duration;

use controlplane::{Ending, Instant};

/// Losses in a row after which it is said.
const LOSSES: u32 = 3;

/// A session that lived longer was no victim: two that drop each other each live for `ping-restart` (at most a few minutes) or two.
const LONGEST_LIFE: Duration = Duration::from_secs(15 * 60);

/// A server that was there all the time lets us in again so soon after a loss, with the longest pause between attempts (15 s). One that
/// restarts, or a network that was away, takes longer or is not lost so often.
const PROMPT: Duration = Duration::from_secs(20);

/// What is said.
const SENTENCE: &str = "the session was lost three times in a row, and the server let us in again at once each time: most likely this \
                        profile is in use by another client as well, and the server keeps only the newest session of a certificate or \
                        user (it has no `duplicate-cn`). Give each client a profile of its own";

/// What one client has seen.
#[derive(Debug, Default)]
pub(crate) struct Flapping {
    lost: Option<Instant>,
    losses: u32,
    said: bool,
}

impl Flapping {
    /// A session that had carried traffic for `lived` went silent or was dropped.
    pub(crate) fn lost(&mut self, now: Instant, lived: Duration) {
        self.losses = if lived < LONGEST_LIFE { self.losses.saturating_add(1) } else { 0 };
        self.lost = Some(now);
    }

    /// A session is up. The sentence that is due now, once.
    pub(crate) fn is_up(&mut self, now: Instant) -> Option<&'static str> {
        let prompt = self.lost.take().is_some_and(|lost| now.since(lost) <= PROMPT);
        if !prompt {
            self.losses = 0;
        }
        (self.losses >= LOSSES && !std::mem::replace(&mut self.said, true)).then_some(SENTENCE)
    }
}

/// Whether a session that ended so may have been dropped for another one. What the server gives a reason for is not.
pub(crate) fn may_be_dropped(ending: &Ending) -> bool {
    matches!(ending, Ending::Unanswered | Ending::PeerExited | Ending::Replaced)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sessions that each live for `lived` and are back `away` after they were lost: after how many losses it is said.
    fn said_after(losses: u32, lived: Duration, away: Duration) -> Vec<u32> {
        let (mut flapping, mut now) = (Flapping::default(), Instant(0));
        assert_eq!(flapping.is_up(now), None);
        let mut said = Vec::new();
        for loss in 1..=losses {
            now = now + lived;
            flapping.lost(now, lived);
            now = now + away;
            if flapping.is_up(now).is_some() {
                said.push(loss);
            }
        }
        said
    }

    #[test]
    fn who_is_dropped_again_and_again_by_a_server_that_is_there_is_told_why_once() {
        assert_eq!(said_after(9, 120 * SECOND, SECOND), [3]);
        assert_eq!(said_after(9, LONGEST_LIFE - SECOND, PROMPT), [3]);
    }

    #[test]
    fn a_long_life_a_long_absence_and_two_losses_say_nothing() {
        assert_eq!(said_after(2, 120 * SECOND, SECOND), [0; 0]);
        assert_eq!(said_after(9, LONGEST_LIFE, SECOND), [0; 0]);
        assert_eq!(said_after(9, 120 * SECOND, PROMPT + SECOND), [0; 0]);
    }

    #[test]
    fn only_losses_in_a_row_count() {
        let mut flapping = Flapping::default();
        let mut now = Instant(0);
        for lived in [60, 60, 3_600, 60, 60] {
            now = now + Duration::from_secs(lived);
            flapping.lost(now, Duration::from_secs(lived));
            assert_eq!(flapping.is_up(now), None);
        }
        now = now + 60 * SECOND;
        flapping.lost(now, 60 * SECOND);
        assert!(flapping.is_up(now).is_some());
    }

    #[test]
    fn what_the_server_gives_a_reason_for_is_no_drop() {
        assert!(may_be_dropped(&Ending::PeerExited) && may_be_dropped(&Ending::Unanswered));
        assert!(!may_be_dropped(&Ending::Halt(String::new())));
        assert!(!may_be_dropped(&Ending::Restart { message: String::new(), next_remote: false }));
        assert!(!may_be_dropped(&Ending::Disconnected { exit_sent: true }));
    }
}
