//! One host that is pinged: which requests are under way to it, what became of the others, and the sums.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::time::Duration;

use super::echo::{IcmpError, Reply, Request, State};
use super::round_trips::{RoundTrips, Summary};

/// How many requests are remembered, so that late and second answers are known for what they are. Half of the range of sequence
/// numbers: each of them means one request.
const REMEMBERED: usize = 32_768;

/// A host.
#[derive(Debug)]
pub(super) struct Host {
    /// As the user wrote it.
    pub name: String,
    /// Where its requests go.
    pub address: IpAddr,
    /// What happened so far.
    pub counts: Counts,
    source: IpAddr,
    ident: u16,
    /// The last requests, in order.
    probes: VecDeque<Probe>,
    /// The number of the first of them; numbers start at 1.
    first: u64,
    /// The first number that may be waiting.
    waiting: u64,
    highest_answered: u64,
    round_trips: RoundTrips,
}

/// What happened to a host's requests.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Requests.
    pub sent: u64,
    /// Those that were answered in time, by a whole and unchanged reply.
    pub received: u64,
    /// Second and later answers.
    pub duplicates: u64,
    /// First answers after that to a later request.
    pub out_of_order: u64,
    /// Answers after the time was over; they are no receipt.
    pub late: u64,
    /// Replies that were shorter than their request; they are no receipt.
    pub truncated: u64,
    /// Replies with another payload, or a wrong checksum; they are no receipt.
    pub corrupt: u64,
    /// Requests that a router, or the host, complained about.
    pub errors: u64,
}

impl Counts {
    /// Requests that were not answered, in percent.
    pub(super) fn loss_percent(&self) -> f64 {
        match self.sent {
            0 => 0.0,
            sent => 100.0 * sent.saturating_sub(self.received) as f64 / sent as f64,
        }
    }
}

/// One request.
#[derive(Clone, Copy, Debug)]
struct Probe {
    at: Duration,
    fate: Fate,
}

/// What became of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Waiting,
    Answered,
    Lost,
    Failed,
}

/// Something to tell about a host.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum News {
    /// A whole and unchanged reply.
    Reply {
        /// Who sent it.
        from: IpAddr,
        /// Which request it answers, from 1 on.
        number: u64,
        /// Bytes of ICMP.
        bytes: usize,
        /// What was left of its hop limit.
        hop_limit: u8,
        /// From request to reply.
        round_trip: Duration,
        /// How it stands to other replies.
        order: Arrival,
    },
    /// A reply that does not count.
    Spoiled {
        /// Who sent it.
        from: IpAddr,
        /// Which request it answers.
        number: u64,
        /// Bytes of ICMP.
        bytes: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A complaint about a request.
    Error {
        /// Who complains.
        from: IpAddr,
        /// About which request.
        number: u64,
        /// In words.
        what: String,
    },
    /// No answer in time.
    Lost {
        /// To which request.
        number: u64,
    },
}

/// How a reply stands to other replies and to its time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arrival {
    /// As it should be.
    InOrder,
    /// After the reply to a later request.
    OutOfOrder,
    /// There was a reply to the same request before.
    Duplicate,
    /// Its request had been given up.
    Late,
}

impl Host {
    /// A host that knows its requests by `ident`.
    pub(super) fn new(name: String, source: IpAddr, address: IpAddr, ident: u16) -> Host {
        Host {
            name,
            address,
            counts: Counts::default(),
            source,
            ident,
            probes: VecDeque::new(),
            first: 1,
            waiting: 1,
            highest_answered: 0,
            round_trips: RoundTrips::default(),
        }
    }

    /// The sums of its round trips; `None` when there was none.
    pub(super) fn round_trips(&self) -> Option<Summary> {
        self.round_trips.summary()
    }

    /// The next request, with `size` bytes of payload.
    pub(super) fn request(&mut self, now: Duration, size: u16, hop_limit: u8) -> Option<Vec<u8>> {
        if self.probes.len() == REMEMBERED {
            self.probes.pop_front();
            self.first += 1;
            self.waiting = self.waiting.max(self.first);
        }
        self.counts.sent += 1;
        self.probes.push_back(Probe { at: now, fate: Fate::Waiting });
        let sequence = self.counts.sent as u16;
        let payload = payload(self.ident, sequence, size);
        let (source, destination, ident) = (self.source, self.address, self.ident);
        Request { source, destination, hop_limit, ident, sequence, payload: &payload }.packet()
    }

    /// When the oldest request that is waiting is lost; `None` when none waits.
    pub(super) fn next_loss(&mut self, patience: Duration) -> Option<Duration> {
        while self.probe(self.waiting).is_some_and(|probe| probe.fate != Fate::Waiting) {
            self.waiting += 1;
        }
        self.probe(self.waiting).map(|probe| probe.at + patience)
    }

    /// Gives up the oldest request if its time is over.
    pub(super) fn expire(&mut self, now: Duration, patience: Duration) -> Option<News> {
        self.next_loss(patience).filter(|at| *at <= now)?;
        let number = self.waiting;
        self.probe_mut(number)?.fate = Fate::Lost;
        Some(News::Lost { number })
    }

    /// Takes a reply, if it is to a request of this host.
    pub(super) fn on_reply(&mut self, now: Duration, reply: &Reply<'_>, size: u16) -> Option<News> {
        let number = self.number_of(reply.ident, reply.sequence)?;
        let sent = payload(self.ident, reply.sequence, size);
        let (from, bytes) = (reply.from, super::echo::ICMP_HEADER + reply.payload.len());
        let spoiled = |what| Some(News::Spoiled { from, number, bytes, what });
        if reply.state == State::BadChecksum {
            self.counts.corrupt += 1;
            return spoiled("bad checksum");
        }
        if !sent.starts_with(reply.payload) {
            self.counts.corrupt += 1;
            return spoiled("wrong data");
        }
        if reply.state == State::Cut || reply.payload.len() < sent.len() {
            self.counts.truncated += 1;
            return spoiled("truncated");
        }
        let probe = self.probe_mut(number)?;
        let (fate, at) = (std::mem::replace(&mut probe.fate, Fate::Answered), probe.at);
        let round_trip = now.saturating_sub(at);
        let order = self.order(number, fate);
        match order {
            Arrival::Duplicate => self.counts.duplicates += 1,
            Arrival::Late => self.counts.late += 1,
            Arrival::OutOfOrder => self.counts.out_of_order += 1,
            Arrival::InOrder => {}
        }
        if matches!(order, Arrival::InOrder | Arrival::OutOfOrder) {
            self.counts.received += 1;
            self.highest_answered = self.highest_answered.max(number);
            self.round_trips.add(round_trip);
        }
        Some(News::Reply { from, number, bytes, hop_limit: reply.hop_limit, round_trip, order })
    }

    fn order(&self, number: u64, fate: Fate) -> Arrival {
        match fate {
            Fate::Answered => Arrival::Duplicate,
            Fate::Lost | Fate::Failed => Arrival::Late,
            Fate::Waiting if number < self.highest_answered => Arrival::OutOfOrder,
            Fate::Waiting => Arrival::InOrder,
        }
    }

    /// Takes a complaint, if it is about a request of this host.
    pub(super) fn on_error(&mut self, error: IcmpError) -> Option<News> {
        let number = self.number_of(error.ident, error.sequence).filter(|_| error.destination == self.address)?;
        let probe = self.probe_mut(number)?;
        if probe.fate == Fate::Waiting {
            probe.fate = Fate::Failed;
        }
        self.counts.errors += 1;
        Some(News::Error { from: error.from, number, what: error.what })
    }

    /// The number of the request with this sequence number, if it is remembered.
    fn number_of(&self, ident: u16, sequence: u16) -> Option<u64> {
        let ahead = sequence.wrapping_sub(self.first as u16);
        (ident == self.ident && usize::from(ahead) < self.probes.len()).then(|| self.first + u64::from(ahead))
    }

    fn probe(&self, number: u64) -> Option<&Probe> {
        self.probes.get(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }

    fn probe_mut(&mut self, number: u64) -> Option<&mut Probe> {
        self.probes.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// What a request carries: bytes that differ from request to request and along their length, so that a reply shows what was mixed up.
fn payload(ident: u16, sequence: u16, size: u16) -> Vec<u8> {
    let mut state = u32::from(ident) << 16 | u32::from(sequence) | 1 << 31;
    let step = |_| {
        // xorshift32 (Marsaglia, 2003).
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    (0..size).map(step).collect()
}

#[cfg(test)]
mod tests {
    use super::super::echo::{self, Incoming};
    use super::super::responder;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);
    const SIZE: u16 = 56;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn host() -> Host {
        Host::new("h".into(), "10.8.0.2".parse().unwrap(), "10.8.0.1".parse().unwrap(), 77)
    }

    fn send(host: &mut Host, at: Duration) -> Vec<u8> {
        responder::reply(&host.request(at, SIZE, 64).unwrap()).unwrap()
    }

    fn take(host: &mut Host, at: Duration, packet: &[u8]) -> Option<News> {
        match echo::read(packet) {
            Incoming::Reply(reply) => host.on_reply(at, &reply, SIZE),
            Incoming::Error(error) => host.on_error(error),
            Incoming::Other => None,
        }
    }

    fn order(news: Option<News>) -> (u64, Arrival) {
        match news {
            Some(News::Reply { number, order, .. }) => (number, order),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reply_is_counted_once_and_its_time_is_taken() {
        let mut host = host();
        let reply = send(&mut host, ms(100));
        let news = take(&mut host, ms(112), &reply);
        let Some(News::Reply { round_trip, bytes, number, .. }) = news else { panic!("{news:?}") };
        assert_eq!((round_trip, bytes, number), (ms(12), 64, 1));
        assert_eq!(order(take(&mut host, ms(113), &reply)), (1, Arrival::Duplicate));
        assert_eq!(host.counts, Counts { sent: 1, received: 1, duplicates: 1, ..Counts::default() });
        assert_eq!(host.round_trips().unwrap().max, 12.0, "a duplicate is no round trip");
    }

    #[test]
    fn replies_in_another_order_are_receipts_all_the_same() {
        let mut host = host();
        let replies: Vec<_> = (0..3).map(|n| send(&mut host, ms(n))).collect();
        assert_eq!(order(take(&mut host, ms(10), &replies[1])), (2, Arrival::InOrder));
        assert_eq!(order(take(&mut host, ms(11), &replies[0])), (1, Arrival::OutOfOrder));
        assert_eq!(order(take(&mut host, ms(12), &replies[2])), (3, Arrival::InOrder));
        assert_eq!(host.counts, Counts { sent: 3, received: 3, out_of_order: 1, ..Counts::default() });
    }

    #[test]
    fn what_is_not_answered_in_time_is_lost_and_comes_too_late() {
        let mut host = host();
        let first = send(&mut host, ms(0));
        let second = send(&mut host, ms(500));
        assert_eq!(host.next_loss(PATIENCE), Some(ms(2_000)));
        assert_eq!(host.expire(ms(1_999), PATIENCE), None);
        assert_eq!(host.expire(ms(2_000), PATIENCE), Some(News::Lost { number: 1 }));
        assert_eq!(host.next_loss(PATIENCE), Some(ms(2_500)));
        assert_eq!(order(take(&mut host, ms(2_001), &first)), (1, Arrival::Late));
        assert_eq!(order(take(&mut host, ms(2_002), &first)), (1, Arrival::Duplicate));
        assert_eq!(order(take(&mut host, ms(2_003), &second)), (2, Arrival::InOrder));
        assert_eq!(host.next_loss(PATIENCE), None);
        assert_eq!(host.counts, Counts { sent: 2, received: 1, late: 1, duplicates: 1, ..Counts::default() });
        assert_eq!(host.counts.loss_percent(), 50.0);
    }

    #[test]
    fn truncated_and_corrupt_replies_count_as_such_and_not_as_receipts() {
        let mut host = host();
        let good = send(&mut host, ms(0));
        let request = host.request(ms(1), SIZE, 64).unwrap();
        let shorter = responder::reply(&responder::shortened(&request, 10)).unwrap();
        assert!(matches!(
            take(&mut host, ms(2), &shorter),
            Some(News::Spoiled { number: 2, bytes: 54, what: "truncated", .. })
        ));
        let mut longer = good.clone();
        longer[3] += 1; // the IP header speaks of a byte that is not there
        assert!(matches!(take(&mut host, ms(2), &longer), Some(News::Spoiled { number: 1, what: "truncated", .. })));
        let cut = &good[..good.len() - 1];
        assert!(matches!(take(&mut host, ms(2), cut), Some(News::Spoiled { number: 1, what: "truncated", .. })));
        let mut changed = request.clone();
        *changed.last_mut().unwrap() ^= 1;
        let changed = responder::reply(&changed).unwrap();
        assert!(matches!(take(&mut host, ms(3), &changed), Some(News::Spoiled { what: "wrong data", .. })));
        let longer = responder::reply(&responder::lengthened(&request, 1)).unwrap();
        assert!(matches!(take(&mut host, ms(3), &longer), Some(News::Spoiled { what: "wrong data", .. })));
        let mut damaged = good.clone();
        damaged[40] ^= 1;
        assert!(matches!(take(&mut host, ms(4), &damaged), Some(News::Spoiled { what: "bad checksum", .. })));
        assert_eq!(host.counts, Counts { sent: 2, truncated: 3, corrupt: 3, ..Counts::default() });
        assert_eq!(order(take(&mut host, ms(5), &good)), (1, Arrival::InOrder), "the right one still counts");
    }

    #[test]
    fn an_error_settles_a_request_but_an_answer_after_it_is_told() {
        let mut host = host();
        let request = host.request(ms(0), SIZE, 64).unwrap();
        let error = responder::error(&request, "10.9.9.9".parse().unwrap(), 3, 1, 0);
        let news = take(&mut host, ms(3), &error);
        assert!(matches!(&news, Some(News::Error { number: 1, what, .. }) if what == "destination host unreachable"));
        assert_eq!(host.next_loss(PATIENCE), None, "nothing to wait for");
        let reply = responder::reply(&request).unwrap();
        assert_eq!(order(take(&mut host, ms(4), &reply)), (1, Arrival::Late));
        assert_eq!(host.counts, Counts { sent: 1, errors: 1, late: 1, ..Counts::default() });
        take(&mut host, ms(5), &error);
        assert_eq!(
            order(take(&mut host, ms(6), &reply)),
            (1, Arrival::Duplicate),
            "an error after an answer changes nothing"
        );
    }

    #[test]
    fn what_answers_no_request_of_ours_is_nobodys() {
        let mut host = host();
        let request = host.request(ms(0), SIZE, 64).unwrap();
        let mut other = Host::new("o".into(), "10.8.0.2".parse().unwrap(), "10.8.0.3".parse().unwrap(), 78);
        let foreign = send(&mut other, ms(0));
        assert_eq!(take(&mut host, ms(1), &foreign), None, "another ident");
        other.request(ms(1), SIZE, 64).unwrap();
        let mut ahead = Host { ident: 77, ..other };
        let unsent = send(&mut ahead, ms(2));
        assert_eq!(take(&mut host, ms(3), &unsent), None, "a sequence number that was not used yet");
        let mut elsewhere = request;
        elsewhere[19] = 9;
        let error = responder::error(&elsewhere, "10.9.9.9".parse().unwrap(), 3, 1, 0);
        assert_eq!(take(&mut host, ms(4), &error), None, "an error about another destination");
        assert_eq!(host.counts, Counts { sent: 1, ..Counts::default() });
    }

    #[test]
    fn sequence_numbers_come_round_and_only_the_last_requests_are_remembered() {
        let mut host = host();
        let mut kept = Vec::new();
        for number in 1..=70_001u64 {
            let reply = send(&mut host, ms(number));
            if number % 1_000 == 0 {
                kept.push((number, reply));
            } else {
                take(&mut host, ms(number), &reply);
            }
        }
        assert_eq!(host.probes.len(), REMEMBERED);
        for (number, reply) in kept {
            let news = take(&mut host, ms(70_002), &reply);
            if number > 70_001 - REMEMBERED as u64 {
                assert_eq!(order(news), (number, Arrival::OutOfOrder));
            } else {
                assert!(!matches!(news, Some(News::Reply { order: Arrival::InOrder, .. })), "{number}: {news:?}");
            }
        }
        assert_eq!(host.counts.sent, 70_001);
    }

    #[test]
    fn payloads_differ_between_requests_and_hosts() {
        assert_eq!(payload(1, 2, 56), payload(1, 2, 56));
        assert_ne!(payload(1, 2, 56), payload(1, 3, 56));
        assert_ne!(payload(1, 2, 56), payload(2, 2, 56));
        assert_eq!((payload(0, 0, 0).len(), payload(0, 0, 1_400).len()), (0, 1_400));
        assert!(payload(0, 0, 1_400).windows(8).all(|bytes| bytes.iter().any(|byte| *byte != bytes[0])));
    }
}
