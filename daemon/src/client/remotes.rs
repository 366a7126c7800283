//! Which remote, and which of its addresses, is tried next; and when a round over all of them is complete. Pure: names
//! are resolved by the caller.

use std::collections::VecDeque;
use std::net::SocketAddr;

use controlplane::Random;

use super::endings::Place;
use crate::config::agreed::Remote;

/// The remotes of a profile in the order in which they are tried.
#[derive(Debug)]
pub(crate) struct Remotes {
    order: Vec<Remote>,
    next: usize,
    rounds: u32,
    excused: bool,
    addresses: VecDeque<SocketAddr>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next<'a> {
    /// Resolve this remote, give its addresses to [`Remotes::resolved`], ask again.
    Resolve(&'a Remote),
    /// Try this address of this remote.
    Try(&'a Remote, SocketAddr),
    /// All remotes have been tried this many times; asking again begins another round.
    RoundOver(u32),
}

impl Remotes {
    /// In the profile's order, or shuffled with `remote-random`.
    pub(crate) fn new(mut order: Vec<Remote>, random: bool, rng: &mut dyn Random) -> Remotes {
        if random {
            shuffle(&mut order, rng);
        }
        Remotes { order, next: 0, rounds: 0, excused: false, addresses: VecDeque::new() }
    }

    /// The next thing to do.
    pub(crate) fn next(&mut self) -> Next<'_> {
        if let Some(address) = self.addresses.pop_front() {
            // `addresses` is filled for the remote that was handed out last, so `next` is at least one.
            let remote = &self.order[self.next.saturating_sub(1)];
            return Next::Try(remote, address);
        }
        if self.next >= self.order.len() {
            self.next = 0;
            if !std::mem::take(&mut self.excused) {
                self.rounds = self.rounds.saturating_add(1);
            }
            return Next::RoundOver(self.rounds);
        }
        self.next += 1;
        Next::Resolve(&self.order[self.next - 1])
    }

    /// The addresses of the remote that [`Next::Resolve`] named; empty when it has none.
    pub(crate) fn resolved(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.addresses = addresses.into_iter().collect();
    }

    /// The remote that carries a connection failed: try this very remote again first, at fresh addresses, because
    /// most often it is the server that was restarted.
    pub(crate) fn again(&mut self) {
        self.addresses.clear();
        self.next = self.next.saturating_sub(1);
    }

    /// A server answered that we shall come again: this round does not count.
    pub(crate) fn excuse(&mut self) {
        self.excused = true;
    }

    /// `RESTART` with the wish to go elsewhere: leave the addresses of this remote.
    pub(crate) fn leave(&mut self) {
        self.addresses.clear();
    }

    /// Says where the next attempt goes, after one that was answered and failed.
    pub(crate) fn steer(&mut self, place: Place, had_success: bool) {
        match place {
            Place::NextRemote => {
                self.excuse();
                self.leave();
            }
            Place::Same => self.again(),
            Place::Usual if had_success => self.again(),
            Place::Usual => {}
            // What stands next in the queue.
            Place::NextAddress => self.excuse(),
        }
    }

    /// How many more there are to try in this round, as far as is known: addresses of this remote, and remotes behind it.
    pub(crate) fn ahead(&self) -> usize {
        self.addresses.len() + self.order.len().saturating_sub(self.next)
    }
}

fn shuffle(order: &mut [Remote], rng: &mut dyn Random) {
    for i in (1..order.len()).rev() {
        let mut bytes = [0; 8];
        rng.fill(&mut bytes);
        let j = u64::from_le_bytes(bytes) % (i as u64 + 1);
        order.swap(i, usize::try_from(j).unwrap_or(0));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::agreed::{Bind, Family};

    struct Zero;
    impl Random for Zero {
        fn fill(&mut self, out: &mut [u8]) {
            out.fill(0);
        }
    }

    fn remotes(hosts: &[&str], random: bool) -> Remotes {
        let remote = |host: &&str| Remote {
            host: (*host).to_owned(),
            port: 1194,
            family: Family::Any,
            bind: Bind::default(),
            connect_timeout: 120,
            explicit_exit_notify: None,
            mssfix: None,
            mtu_disc: None,
        };
        Remotes::new(hosts.iter().map(remote).collect(), random, &mut Zero)
    }

    fn address(last: u8) -> SocketAddr {
        ([192, 0, 2, last], 1194).into()
    }

    /// What comes next, as a word.
    fn next(remotes: &mut Remotes) -> String {
        match remotes.next() {
            Next::Resolve(remote) => format!("resolve {}", remote.host),
            Next::Try(remote, address) => format!("try {} {}", remote.host, address.ip()),
            Next::RoundOver(rounds) => format!("round {rounds}"),
        }
    }

    #[test]
    fn every_address_of_every_remote_is_tried_before_a_round_is_over() {
        let mut remotes = remotes(&["a", "b"], false);
        assert_eq!(next(&mut remotes), "resolve a");
        remotes.resolved([address(1), address(2)]);
        assert_eq!(next(&mut remotes), "try a 192.0.2.1");
        assert_eq!(next(&mut remotes), "try a 192.0.2.2");
        assert_eq!(next(&mut remotes), "resolve b");
        remotes.resolved([]);
        assert_eq!(next(&mut remotes), "round 1");
        assert_eq!(next(&mut remotes), "resolve a");
    }

    #[test]
    fn a_round_in_which_a_server_asked_for_patience_does_not_count() {
        let mut remotes = remotes(&["a"], false);
        next(&mut remotes);
        remotes.excuse();
        assert_eq!(next(&mut remotes), "round 0");
        next(&mut remotes);
        assert_eq!(next(&mut remotes), "round 1");
    }

    #[test]
    fn a_remote_that_failed_after_it_served_is_tried_again_first() {
        let mut remotes = remotes(&["a", "b"], false);
        next(&mut remotes);
        remotes.resolved([address(1), address(2)]);
        next(&mut remotes);
        remotes.again();
        assert_eq!(next(&mut remotes), "resolve a");
    }

    #[test]
    fn a_server_that_sends_us_elsewhere_is_left_with_all_its_addresses() {
        let mut remotes = remotes(&["a", "b"], false);
        next(&mut remotes);
        remotes.resolved([address(1), address(2)]);
        next(&mut remotes);
        remotes.leave();
        assert_eq!(next(&mut remotes), "resolve b");
    }

    #[test]
    fn remote_random_keeps_every_remote() {
        let mut remotes = remotes(&["a", "b", "c"], true);
        let mut seen: Vec<String> = (0..3).map(|_| next(&mut remotes)).collect();
        assert_ne!(seen, ["resolve a", "resolve b", "resolve c"]);
        seen.sort();
        assert_eq!(seen, ["resolve a", "resolve b", "resolve c"]);
    }

    /// What follows an attempt at the first of two addresses of `a`, before `b`.
    fn after(place: Place, had_success: bool) -> String {
        let mut remotes = remotes(&["a", "b"], false);
        next(&mut remotes);
        remotes.resolved([address(1), address(2)]);
        next(&mut remotes);
        remotes.steer(place, had_success);
        next(&mut remotes)
    }

    #[test]
    fn the_next_attempt_goes_where_the_server_says() {
        for had_success in [false, true] {
            assert_eq!(after(Place::Same, had_success), "resolve a");
            assert_eq!(after(Place::NextAddress, had_success), "try a 192.0.2.2");
            assert_eq!(after(Place::NextRemote, had_success), "resolve b");
        }
    }

    #[test]
    fn without_a_word_only_a_server_that_served_us_is_met_again() {
        assert_eq!(after(Place::Usual, true), "resolve a");
        assert_eq!(after(Place::Usual, false), "try a 192.0.2.2");
    }

    #[test]
    fn what_is_still_ahead_shrinks_with_every_attempt() {
        let mut remotes = remotes(&["a", "b"], false);
        assert_eq!(remotes.ahead(), 2);
        next(&mut remotes);
        remotes.resolved([address(1), address(2)]);
        assert_eq!(remotes.ahead(), 3);
        next(&mut remotes);
        next(&mut remotes);
        assert_eq!(remotes.ahead(), 1);
    }
}
