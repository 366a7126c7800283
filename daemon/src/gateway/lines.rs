//! Lines that as many sessions may cause as there are: of each kind so many in a second are logged, then one says how many more there were.
//! Pure; the event loop gives the clock and does the logging.

use std::time::Duration;

use controlplane::Instant;

/// Of each kind so many lines in a second are logged.
const EACH: u32 = 100;
/// See [`EACH`].
const SPAN: Duration = Duration::from_secs(1);

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// A client connected.
    Connected,
    /// A client's key is new.
    Renegotiated,
    /// A renegotiation failed.
    Failed,
    /// A client is at another address.
    Moved,
    /// A login is refused.
    Refused,
    /// A client is gone.
    Gone,
    /// There is something about a client's own part of the configuration.
    Warned,
}

impl Kind {
    const ALL: [Kind; 7] =
        [Kind::Connected, Kind::Renegotiated, Kind::Failed, Kind::Moved, Kind::Refused, Kind::Gone, Kind::Warned];

    fn summary(self, more: u32) -> String {
        let what = match self {
            Kind::Connected => "clients connected",
            Kind::Renegotiated => "renegotiations ended well",
            Kind::Failed => "renegotiations failed",
            Kind::Moved => "clients moved to another address",
            Kind::Refused => "logins were refused",
            Kind::Gone => "clients are gone",
            Kind::Warned => "warnings about single clients",
        };
        format!("{more} more {what} within a second: not logged one by one")
    }
}

/// How many lines of each kind there were of late.
#[derive(Debug, Default)]
pub(super) struct Lines {
    spans: [Span; Kind::ALL.len()],
}

#[derive(Clone, Copy, Debug, Default)]
struct Span {
    /// `None`: nothing was said in the last second.
    begun: Option<Instant>,
    said: u32,
    more: u32,
}

impl Lines {
    /// Whether a line of this kind may be logged now. One that may not is counted.
    pub(super) fn permit(&mut self, kind: Kind, now: Instant) -> bool {
        let Some(span) = self.spans.get_mut(kind as usize) else { return true };
        // What a span that is over left unsaid is still to be said: until then it goes on.
        if span.begun.is_none_or(|begun| span.more == 0 && now.since(begun) >= SPAN) {
            *span = Span { begun: Some(now), ..Span::default() };
        }
        let permitted = span.said < EACH;
        let counter = if permitted { &mut span.said } else { &mut span.more };
        *counter = counter.saturating_add(1);
        permitted
    }

    /// A line about each kind of which too many came, once its second is over.
    pub(super) fn summaries(&mut self, now: Instant) -> Vec<String> {
        let over = |span: &Span| span.begun.is_some_and(|begun| now.since(begun) >= SPAN);
        let kinds = Kind::ALL.into_iter().zip(&mut self.spans);
        let told = kinds.filter(|(_, span)| span.more > 0 && over(span));
        told.map(|(kind, span)| kind.summary(std::mem::take(span).more)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(5_000_000_000 + ms * 1_000_000)
    }

    fn permitted(lines: &mut Lines, kind: Kind, now: Instant, times: u32) -> u32 {
        (0..times).filter(|_| lines.permit(kind, now)).count().try_into().unwrap()
    }

    #[test]
    fn a_crowd_is_logged_in_so_many_lines_and_one() {
        let mut lines = Lines::default();
        assert_eq!(permitted(&mut lines, Kind::Renegotiated, at(0), 5_000), EACH);
        assert_eq!(permitted(&mut lines, Kind::Gone, at(0), 3), 3, "of another kind");
        assert!(lines.summaries(at(999)).is_empty());
        let said = lines.summaries(at(1_000));
        assert_eq!(said, ["4900 more renegotiations ended well within a second: not logged one by one"]);
        assert!(lines.summaries(at(2_000)).is_empty(), "said once");
        assert_eq!(permitted(&mut lines, Kind::Renegotiated, at(2_000), 1), 1);
    }

    #[test]
    fn what_comes_slowly_is_logged_for_ever() {
        let mut lines = Lines::default();
        for second in 0..1_000 {
            assert_eq!(permitted(&mut lines, Kind::Connected, at(second * 1_000), EACH), EACH);
            assert!(lines.summaries(at(second * 1_000)).is_empty());
        }
    }

    #[test]
    fn what_was_left_out_is_told_also_when_nobody_asked_in_time() {
        let mut lines = Lines::default();
        permitted(&mut lines, Kind::Refused, at(0), EACH + 1);
        assert_eq!(permitted(&mut lines, Kind::Refused, at(5_000), 1), 0, "the sum is told first");
        assert_eq!(lines.summaries(at(5_000)), ["2 more logins were refused within a second: not logged one by one"]);
    }
}
