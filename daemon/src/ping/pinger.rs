//! All hosts together: when the next requests are due, to whom a packet belongs, and when it is over. No clock and no socket.

use std::net::IpAddr;
use std::time::Duration;

use super::echo::{self, Incoming};
use super::host::{Host, News};

/// What was asked for. Times are counted from the moment the tunnel was up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Requests to each host; `None`: without end.
    pub count: Option<u64>,
    /// From one round of requests to the next.
    pub interval: Duration,
    /// Bytes of payload.
    pub size: u16,
    /// After this a request without an answer is lost.
    pub timeout: Duration,
    /// The end, whatever was answered.
    pub deadline: Option<Duration>,
    /// The most routers on the way.
    pub hop_limit: u8,
}

/// A host that is to be pinged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Target {
    /// As the user wrote it.
    pub name: String,
    /// Our address of the same family.
    pub source: IpAddr,
    /// Its address.
    pub address: IpAddr,
}

/// The state of all of it.
#[derive(Debug)]
pub(super) struct Pinger {
    plan: Plan,
    hosts: Vec<Host>,
    /// When the next round of requests is due.
    next_round: Duration,
    /// Rounds that were begun.
    rounds: u64,
    /// The host whose request of this round is next.
    next_host: usize,
}

impl Pinger {
    /// Pings `targets` from `begin` on; each of them gets an identifier of its own, counted from `ident`.
    pub(super) fn new(plan: Plan, targets: Vec<Target>, ident: u16, begin: Duration) -> Pinger {
        let idents = (0..=u16::MAX).map(|n| ident.wrapping_add(n));
        let host = |(target, ident): (Target, u16)| Host::new(target.name, target.source, target.address, ident);
        let hosts: Vec<Host> = targets.into_iter().zip(idents).map(host).collect();
        let next_host = hosts.len();
        Pinger { plan, hosts, next_round: begin, rounds: 0, next_host }
    }

    /// The hosts, in the order in which they were given.
    pub(super) fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The next request that is due, if one is.
    pub(super) fn next_request(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.is_over(now) {
            return None;
        }
        if self.next_host >= self.hosts.len() {
            if !self.has_more_rounds() || self.next_round > now {
                return None;
            }
            self.rounds += 1;
            // Rounds that were missed (a machine that slept) are not made up for.
            let planned = self.next_round + self.plan.interval;
            self.next_round = if planned > now { planned } else { now + self.plan.interval };
            self.next_host = 0;
        }
        let host = self.hosts.get_mut(self.next_host)?;
        self.next_host += 1;
        host.request(now, self.plan.size, self.plan.hop_limit)
    }

    /// A request whose time is over, if there is one, and its host's place.
    pub(super) fn expire(&mut self, now: Duration) -> Option<(usize, News)> {
        let timeout = self.plan.timeout;
        self.hosts.iter_mut().enumerate().find_map(|(at, host)| Some((at, host.expire(now, timeout)?)))
    }

    /// Takes a packet out of the tunnel; what there is to tell, and of which host.
    pub(super) fn take(&mut self, now: Duration, packet: &[u8]) -> Option<(usize, News)> {
        let (mut hosts, size) = (self.hosts.iter_mut().enumerate(), self.plan.size);
        match echo::read(packet) {
            Incoming::Reply(reply) => hosts.find_map(|(at, host)| Some((at, host.on_reply(now, &reply, size)?))),
            Incoming::Error(error) => hosts.find_map(|(at, host)| Some((at, host.on_error(error.clone())?))),
            Incoming::Other => None,
        }
    }

    /// When there is something to do again; `None`: it is over.
    pub(super) fn wake(&mut self, now: Duration) -> Option<Duration> {
        if self.is_over(now) {
            return None;
        }
        let timeout = self.plan.timeout;
        let losses = self.hosts.iter_mut().filter_map(|host| host.next_loss(timeout));
        let loss = losses.min();
        let round = if self.next_host < self.hosts.len() { Some(now) } else { None };
        let round = round.or(self.has_more_rounds().then_some(self.next_round));
        let next = [loss, round].into_iter().flatten().min()?;
        Some(self.plan.deadline.map_or(next, |deadline| next.min(deadline)))
    }

    /// True when every host has answered at least once.
    pub(super) fn all_answered(&self) -> bool {
        self.hosts.iter().all(|host| host.counts.received > 0)
    }

    fn has_more_rounds(&self) -> bool {
        self.plan.count.is_none_or(|count| self.rounds < count)
    }

    fn is_over(&self, now: Duration) -> bool {
        self.hosts.is_empty() || self.plan.deadline.is_some_and(|deadline| now >= deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::super::responder;
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pinger(count: Option<u64>, deadline: Option<Duration>) -> Pinger {
        let plan = Plan { count, interval: SECOND, size: 8, timeout: 2 * SECOND, deadline, hop_limit: 64 };
        let target = |last: u8| Target {
            name: last.to_string(),
            source: [10, 8, 0, 2].into(),
            address: [10, 8, 0, last].into(),
        };
        Pinger::new(plan, vec![target(1), target(3)], 0xFFFF, Duration::ZERO)
    }

    /// Requests that are due now.
    fn due(pinger: &mut Pinger, now: Duration) -> Vec<Vec<u8>> {
        std::iter::from_fn(|| pinger.next_request(now)).collect()
    }

    #[test]
    fn a_round_is_a_request_to_each_host_and_every_host_has_its_ident() {
        let mut pinger = pinger(Some(2), None);
        let requests = due(&mut pinger, Duration::ZERO);
        let idents: Vec<&[u8]> = requests.iter().map(|packet| &packet[24..26]).collect();
        assert_eq!(idents, [[0xFF, 0xFF], [0, 0]]);
        assert!(due(&mut pinger, SECOND - Duration::from_nanos(1)).is_empty());
        assert_eq!(pinger.wake(Duration::ZERO), Some(SECOND));
        assert_eq!(due(&mut pinger, SECOND).len(), 2);
        assert_eq!(pinger.wake(SECOND), Some(2 * SECOND), "no round is left: the first loss is next");
        assert!(due(&mut pinger, 2 * SECOND).is_empty());
    }

    #[test]
    fn a_reply_goes_to_the_host_that_it_is_from() {
        let mut pinger = pinger(Some(1), None);
        let requests = due(&mut pinger, Duration::ZERO);
        for (at, request) in requests.iter().enumerate().rev() {
            let reply = responder::reply(request).unwrap();
            assert!(!pinger.all_answered());
            let (host, _) = pinger.take(SECOND, &reply).unwrap();
            assert_eq!(host, at);
        }
        assert!(pinger.all_answered());
        assert_eq!(pinger.wake(SECOND), None, "everything is settled");
    }

    #[test]
    fn rounds_that_were_missed_are_not_made_up_for() {
        let mut pinger = pinger(None, None);
        due(&mut pinger, Duration::ZERO);
        assert_eq!(due(&mut pinger, 100 * SECOND).len(), 2);
        assert!(due(&mut pinger, 101 * SECOND - Duration::from_nanos(1)).is_empty());
        assert_eq!(due(&mut pinger, 101 * SECOND).len(), 2);
        // A little late is made up for, so that the pace is kept.
        assert_eq!(due(&mut pinger, 102 * SECOND + SECOND / 2).len(), 2);
        assert_eq!(due(&mut pinger, 103 * SECOND).len(), 2);
    }

    #[test]
    fn a_deadline_is_the_end_whatever_is_under_way() {
        let mut pinger = pinger(None, Some(SECOND / 2));
        due(&mut pinger, Duration::ZERO);
        assert_eq!(pinger.wake(Duration::ZERO), Some(SECOND / 2));
        assert_eq!(pinger.wake(SECOND / 2), None);
        assert!(due(&mut pinger, SECOND).is_empty());
    }
}
