//! Which remote, and which of its addresses, is tried next; and when a round over all of them is complete. Pure: names
//! are resolved by the caller.

use std::collections::VecDeque;
use std::net::SocketAddr;

use controlplane::Random;

use crate::config::agreed::{ClientProfile, Remote};

/// The remotes of a profile in the order in which they are tried.
#[derive(Debug)]
pub(super) struct Remotes {
    order: Vec<Remote>,
    next: usize,
    rounds: u32,
    addresses: VecDeque<SocketAddr>,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<'a> {
    /// Resolve this remote, give its addresses to [`Remotes::resolved`], ask again.
    Resolve(&'a Remote),
    /// Try this address of this remote.
    Try(&'a Remote, SocketAddr),
    /// All remotes have been tried this many times; asking again begins another round.
    RoundOver(u32),
}

impl Remotes {
    /// In the profile's order, or shuffled with `remote-random`.
    pub(super) fn new(profile: &ClientProfile, rng: &mut dyn Random) -> Remotes {
        let mut order = profile.remotes.clone();
        if profile.remote_random {
            shuffle(&mut order, rng);
        }
        Remotes { order, next: 0, rounds: 0, addresses: VecDeque::new() }
    }

    /// The next thing to do.
    pub(super) fn next(&mut self) -> Next<'_> {
        if let Some(address) = self.addresses.pop_front() {
            // `addresses` is filled for the remote that was handed out last, so `next` is at least one.
            let remote = &self.order[self.next.saturating_sub(1)];
            return Next::Try(remote, address);
        }
        if self.next >= self.order.len() {
            self.next = 0;
            self.rounds = self.rounds.saturating_add(1);
            return Next::RoundOver(self.rounds);
        }
        self.next += 1;
        Next::Resolve(&self.order[self.next - 1])
    }

    /// The addresses of the remote that [`Next::Resolve`] named; empty when it has none.
    pub(super) fn resolved(&mut self, addresses: impl IntoIterator<Item = SocketAddr>) {
        self.addresses = addresses.into_iter().collect();
    }

    /// The remote that carries a connection failed: try this very remote again first, at fresh addresses, because
    /// most often it is the server that was restarted.
    pub(super) fn again(&mut self) {
        self.addresses.clear();
        self.next = self.next.saturating_sub(1);
    }

    /// `RESTART` with the wish to go elsewhere: leave the addresses of this remote.
    pub(super) fn leave(&mut self) {
        self.addresses.clear();
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
