//! Time as a parameter: instants, and the one list of timers. A deadline always carries the reason for which it
//! was set. Nothing here, and nothing in this crate, asks a clock.

use std::ops::Add;
use std::time::Duration;

/// A point on CLOCK_BOOTTIME, in nanoseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Instant(pub u64);

impl Instant {
    /// The latest instant that can be named (about 584 years after boot).
    pub const FAR_FUTURE: Instant = Instant(u64::MAX);

    /// Time that has passed since `earlier`; zero when `earlier` is not earlier.
    pub const fn since(self, earlier: Instant) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Instant {
    type Output = Instant;

    /// Saturates at [`Instant::FAR_FUTURE`].
    fn add(self, d: Duration) -> Instant {
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Instant(self.0.saturating_add(nanos))
    }
}

/// The present, as the caller sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// CLOCK_BOOTTIME: every timer counts in it.
    pub at: Instant,
    /// Seconds since 1970-01-01 UTC: wrap timestamps and certificate validity.
    pub unix: u64,
}

/// Why a deadline was set. The whole list of timers of the control channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TimerReason {
    /// A control packet was not acknowledged in time and is due again.
    Retransmit,
    /// A negotiation must be complete within `hand-window`.
    HandWindow,
    /// PUSH_REQUEST is due: one second after the key exchange, then every five seconds.
    PushRequest,
    /// PUSH_REPLY must have come within `hand-window` (or as long as AUTH_PENDING granted).
    PushReply,
    /// As a server: the caller must have judged a login within `hand-window`.
    Login,
    /// The worker must confirm the first key.
    KeyInstall,
    /// `reneg-sec` has passed since the key was made.
    Renegotiate,
    /// A renegotiation failed; another attempt is due.
    RenegotiateAgain,
    /// A replaced key's transition window (`tran-window`) ends.
    Retire,
    /// The peer must answer the SOFT_RESET that resumes a session.
    ResumeAnswer,
    /// EXIT must be acknowledged; after that the session ends all the same.
    ExitAck,
    /// A server keeps a refused session for a moment, so that its last message can be acknowledged.
    Linger,
}

/// The earlier of two deadlines.
pub(crate) fn earliest(
    a: Option<(Instant, TimerReason)>,
    b: Option<(Instant, TimerReason)>,
) -> Option<(Instant, TimerReason)> {
    match (a, b) {
        (Some(a), Some(b)) => Some(if b.0 < a.0 { b } else { a }),
        (a, None) => a,
        (None, b) => b,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instant_saturates_instead_of_wrapping() {
        assert_eq!(Instant(u64::MAX - 1) + Duration::from_secs(1), Instant::FAR_FUTURE);
        assert_eq!(Instant(5).since(Instant(9)), Duration::ZERO);
        assert_eq!(Instant(9).since(Instant(5)), Duration::from_nanos(4));
    }

    #[test]
    fn the_earlier_deadline_wins_and_keeps_its_reason() {
        let a = Some((Instant(3), TimerReason::Retransmit));
        let b = Some((Instant(2), TimerReason::HandWindow));
        assert_eq!(earliest(a, b), b);
        assert_eq!(earliest(b, a), b);
        assert_eq!(earliest(a, None), a);
        assert_eq!(earliest(None, b), b);
    }
}
