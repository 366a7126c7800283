//! When the table of routes is made anew. That costs as much as there are sessions: with a table for every login, a crowd that comes would
//! cost the square of its number. So each table is followed by a rest, a multiple of what it took; admissions wait for the next one. Pure.

use std::time::Duration;

use controlplane::Instant;

/// A rest is so many times as long as the table before it took: making tables takes no more than a tenth of the time.
const REST: u32 = 9;
/// The longest rest, when something else held us up while the table was made.
const LONGEST: Duration = Duration::from_millis(500);

/// Whether a new table is wanted, and from when on it may be made.
#[derive(Debug, Default)]
pub(super) struct Publication {
    wanted: bool,
    rests_until: Instant,
}

/// What is to be done about the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// It is as it should be.
    Fresh,
    /// It is to be made now; call [`Publication::made`] afterwards.
    Make,
    /// It is to be made at this instant.
    Wait(Instant),
}

impl Publication {
    /// Some address belongs to somebody else than before.
    pub(super) fn want(&mut self) {
        self.wanted = true;
    }

    /// What is to be done now.
    pub(super) fn turn(&self, now: Instant) -> Turn {
        match self.wanted {
            false => Turn::Fresh,
            true if now < self.rests_until => Turn::Wait(self.rests_until),
            true => Turn::Make,
        }
    }

    /// A table with everything that was wanted was made between these instants.
    pub(super) fn made(&mut self, begun: Instant, done: Instant) {
        self.wanted = false;
        self.rests_until = done + done.since(begun).saturating_mul(REST).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn at(ms: u64) -> Instant {
        Instant(ms * MS)
    }

    #[test]
    fn the_first_change_is_published_at_once_and_the_next_one_after_a_rest() {
        let mut publication = Publication::default();
        assert_eq!(publication.turn(at(100)), Turn::Fresh);
        publication.want();
        assert_eq!(publication.turn(at(100)), Turn::Make);
        publication.made(at(100), at(102));
        assert_eq!(publication.turn(at(102)), Turn::Fresh);
        publication.want();
        assert_eq!(publication.turn(at(102)), Turn::Wait(at(120)));
        assert_eq!(publication.turn(Instant(at(120).0 - 1)), Turn::Wait(at(120)));
        assert_eq!(publication.turn(at(120)), Turn::Make, "and stays due until it is made");
        assert_eq!(publication.turn(at(121)), Turn::Make);
    }

    #[test]
    fn a_table_that_took_no_time_asks_for_no_rest() {
        let mut publication = Publication::default();
        publication.made(at(5), at(5));
        publication.want();
        assert_eq!(publication.turn(at(5)), Turn::Make);
    }

    #[test]
    fn nobody_waits_long_because_the_machine_was_busy() {
        let mut publication = Publication::default();
        publication.made(at(0), at(60_000));
        publication.want();
        assert_eq!(publication.turn(at(60_000)), Turn::Wait(at(60_500)));
    }

    #[test]
    fn a_crowd_costs_a_tenth_of_the_time_and_everybody_gets_in() {
        // A login every millisecond; a table takes a microsecond for each session.
        let (mut publication, mut now, mut spent, mut published) = (Publication::default(), 0u64, 0u64, 0u64);
        for login in 1..=5_000u64 {
            now = now.max(login * 1_000);
            publication.want();
            if publication.turn(Instant(now * 1_000)) == Turn::Make {
                publication.made(Instant(now * 1_000), Instant((now + login) * 1_000));
                (now, spent, published) = (now + login, spent + login, login);
            }
        }
        assert!(spent <= now / 10 + 5_000, "{spent} of {now} microseconds");
        assert!(published > 4_900, "{published}");
    }
}
