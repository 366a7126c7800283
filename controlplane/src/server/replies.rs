//! How many resets of one source prefix are answered (`connect-freq-initial`). A reset's source address may be forged, so
//! the table must bear any flood: its size is fixed, and there is no limit over all prefixes together, which a flood would
//! turn against everybody.
//!
//! The table has two candidate buckets of eight places for each prefix, by a keyed hash, so that nobody can aim at a bucket.
//! A prefix that has no place takes the place of the one that got the fewest answers in its current span. That is why
//! - nobody is locked out: a newcomer always gets a place and begins at zero, whatever else the table holds;
//! - nobody gets answers without end: a prefix loses its count only when all sixteen places have a count at least as
//!   high. To win another `count` answers for one prefix, a flood must first bring thousands of other prefixes to theirs,
//!   which takes more than sixteen resets for each answer won; and an answer is never longer than its reset by more
//!   than the protocol needs.

use std::net::IpAddr;
use std::time::Duration;

use zeroize::Zeroizing;

use crate::crypto::{self, Digest};
use crate::setup::ReplyLimit;
use crate::timers::Instant;

/// Buckets; a power of two.
const BUCKETS: usize = 4_096;
/// Places of a bucket.
const PLACES: usize = 8;

/// What a prefix got. An empty place has the prefix 0, which none has.
#[derive(Clone, Copy, Debug, Default)]
struct Place {
    prefix: u64,
    since: Instant,
    count: u32,
}

impl Place {
    /// Answers in the current span.
    fn count_at(&self, now: Instant, span: Duration) -> u32 {
        if self.prefix == 0 || now.since(self.since) >= span { 0 } else { self.count }
    }
}

/// The answers of late, by prefix.
pub(super) struct Replies {
    places: Vec<Place>,
    secret: Zeroizing<[u8; 32]>,
    limit: u32,
    span: Duration,
}

impl std::fmt::Debug for Replies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Replies").field("limit", &self.limit).field("span", &self.span).finish_non_exhaustive()
    }
}

impl Replies {
    /// An empty table: about 800 KiB. `secret` must be random and known to nobody.
    pub(super) fn new(limit: ReplyLimit, secret: [u8; 32]) -> Replies {
        let places = vec![Place::default(); BUCKETS * PLACES];
        let mut replies = Replies { places, secret: Zeroizing::new(secret), limit: 0, span: Duration::ZERO };
        replies.set_limit(limit);
        replies
    }

    /// Another limit from now on.
    pub(super) fn set_limit(&mut self, limit: ReplyLimit) {
        self.limit = limit.count;
        self.span = Duration::from_secs(limit.seconds.max(1).into());
    }

    /// Whether a reset from there may be answered now; counts the answer.
    pub(super) fn permit(&mut self, now: Instant, source: IpAddr) -> bool {
        let prefix = prefix(source);
        let (span, limit) = (self.span, self.limit);
        let Some(place) = self.place_of(now, prefix) else {
            return false;
        };
        let count = place.count_at(now, span);
        if place.prefix != prefix || count == 0 {
            *place = Place { prefix, since: now, count: 0 };
        }
        if place.count >= limit {
            return false;
        }
        place.count = place.count.saturating_add(1);
        true
    }

    /// A client from there is established: its answer was well spent and does not count.
    pub(super) fn give_back(&mut self, source: IpAddr) {
        let prefix = prefix(source);
        for bucket in self.buckets(prefix) {
            if let Some(place) = self.places.iter_mut().skip(bucket * PLACES).take(PLACES).find(|p| p.prefix == prefix)
            {
                place.count = place.count.saturating_sub(1);
                return;
            }
        }
    }

    /// The prefix's place, or the one that it takes: the one with the fewest answers.
    fn place_of(&mut self, now: Instant, prefix: u64) -> Option<&mut Place> {
        let mut best: Option<(usize, u32)> = None;
        for index in self.buckets(prefix).into_iter().flat_map(|bucket| (0..PLACES).map(move |n| bucket * PLACES + n)) {
            let place = self.places.get(index)?;
            if place.prefix == prefix {
                best = Some((index, 0));
                break;
            }
            let count = place.count_at(now, self.span);
            if best.is_none_or(|(_, fewest)| count < fewest) {
                best = Some((index, count));
            }
        }
        self.places.get_mut(best?.0)
    }

    fn buckets(&self, prefix: u64) -> [usize; 2] {
        let tag = crypto::hmac(Digest::Sha256, self.secret.as_slice(), &[&prefix.to_be_bytes()]);
        let bucket = |bytes: Option<&[u8]>| {
            let number = bytes.unwrap_or_default().iter().fold(0, |n: usize, b| n << 8 | usize::from(*b));
            number % BUCKETS
        };
        [bucket(tag.as_ref().get(..4)), bucket(tag.as_ref().get(4..8))]
    }
}

/// /24 of IPv4 (also where it is mapped into IPv6), /56 of IPv6, with the family in the lowest or highest byte: never 0.
fn prefix(source: IpAddr) -> u64 {
    match source.to_canonical() {
        IpAddr::V4(v4) => 4 << 56 | u64::from(u32::from(v4) >> 8),
        IpAddr::V6(v6) => {
            let high = u64::try_from(u128::from(v6) >> 72).unwrap_or(u64::MAX);
            6 << 56 | high
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const LIMIT: ReplyLimit = ReplyLimit { count: 100, seconds: 10 };

    fn replies() -> Replies {
        Replies::new(LIMIT, [9; 32])
    }

    fn at(millis: u64) -> Instant {
        Instant(1_000_000_000_000 + millis * 1_000_000)
    }

    fn v4(n: u32) -> IpAddr {
        Ipv4Addr::from(n << 8 | 7).into()
    }

    fn given(replies: &mut Replies, now: Instant, source: IpAddr, asked: u32) -> u32 {
        (0..asked).filter(|_| replies.permit(now, source)).count() as u32
    }

    #[test]
    fn a_prefix_gets_its_count_in_a_span_and_again_in_the_next() {
        let mut replies = replies();
        assert_eq!(given(&mut replies, at(0), v4(1), 150), 100);
        assert_eq!(given(&mut replies, at(9_999), v4(1), 150), 0);
        assert_eq!(given(&mut replies, at(10_000), v4(1), 150), 100);
    }

    #[test]
    fn addresses_of_one_prefix_share_and_others_do_not() {
        let mut replies = replies();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        for (a, same, other) in [
            ("192.0.2.1", "192.0.2.254", "192.0.3.1"),
            ("198.51.100.1", "::ffff:198.51.100.9", "198.51.101.1"),
            ("2001:db8:1:200::1", "2001:db8:1:2ff::9", "2001:db8:1:300::1"),
        ] {
            assert_eq!(given(&mut replies, at(0), ip(a), 200), 100);
            assert_eq!(given(&mut replies, at(0), ip(same), 1), 0, "{same}");
            assert_eq!(given(&mut replies, at(0), ip(other), 1), 1, "{other}");
        }
    }

    #[test]
    fn an_answer_that_led_to_a_session_is_given_back() {
        let mut replies = replies();
        assert_eq!(given(&mut replies, at(0), v4(1), 150), 100);
        replies.give_back(v4(1));
        replies.give_back(v4(2));
        assert_eq!(given(&mut replies, at(0), v4(1), 5), 1);
        assert_eq!(given(&mut replies, at(0), v4(2), 150), 100, "nothing was spent, so nothing came back");
    }

    #[test]
    fn a_limit_of_zero_answers_nobody_and_a_span_of_zero_is_a_second() {
        let mut replies = Replies::new(ReplyLimit { count: 0, seconds: 0 }, [1; 32]);
        assert!(!replies.permit(at(0), v4(1)));
        replies.set_limit(ReplyLimit { count: 1, seconds: 0 });
        assert_eq!(given(&mut replies, at(0), v4(1), 3), 1);
        assert_eq!(given(&mut replies, at(1_000), v4(1), 3), 1);
    }

    /// A flood from a million forged prefixes: the one that had its share stays at it, and newcomers are answered.
    #[test]
    fn a_flood_of_many_prefixes_neither_frees_one_that_is_full_nor_locks_others_out() {
        let mut replies = replies();
        assert_eq!(given(&mut replies, at(0), v4(1), 150), 100);
        let mut won = 0;
        for n in 0..200_000 {
            assert!(replies.permit(at(5), v4(1_000 + n)));
            if n % 1_000 == 0 {
                won += given(&mut replies, at(5), v4(1), 1);
            }
        }
        assert_eq!(won, 0);
        assert!(replies.permit(at(6), Ipv6Addr::LOCALHOST.into()));
    }

    /// Many prefixes that have all had their share cannot lock a newcomer out either.
    #[test]
    fn a_table_of_full_prefixes_still_takes_newcomers() {
        let mut replies = Replies::new(ReplyLimit { count: 1, seconds: 10 }, [9; 32]);
        let answered = (0..100_000).filter(|n| replies.permit(at(0), v4(*n))).count();
        assert_eq!(answered, 100_000);
        assert!(replies.permit(at(1), v4(200_000)));
    }
}
