//! The addresses that clients get inside the tunnel: which are free, which were whose. Pure; the file they are kept in over
//! restarts is `leases.rs`.
//!
//! Every lease has a number, from 0, that stands for an IPv4 address (in topology net30 a block of four), an IPv6 address or
//! both. A client that comes back gets what it had. A new one gets the lowest that nobody had; once all had an owner, the
//! one that was left longest ago changes hands.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::config::server::{Pool4, Pool6};
use crate::config::tunnel::Topology;

/// More leases than there can be peers are of no use (a peer-id has 24 bits).
const MOST: u32 = 0xFF_FFFF;

/// What a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its number.
    pub index: u32,
    /// The IPv4 address of the client.
    pub ipv4: Option<Ipv4Addr>,
    /// The IPv6 address of the client.
    pub ipv6: Option<Ipv6Addr>,
}

/// The pool.
#[derive(Debug, Default)]
pub struct Pool {
    v4: Option<Range4>,
    v6: Option<Ipv6Addr>,
    size: u32,
    workers: u32,
    taken: HashSet<u32>,
    owners: HashMap<u32, Owner>,
    by_name: HashMap<String, u32>,
    /// Leases that have an owner who is not here, by when it left.
    left: BTreeSet<(u64, u32)>,
    leavings: u64,
    /// For each worker, the first lease of its kind that may be free and without an owner.
    lowest: Vec<u32>,
    changed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Range4 {
    start: u32,
    /// Addresses of one lease: 4 in topology net30, else 1.
    step: u32,
    /// The first address of the network: where workers count from.
    base: u32,
    local: u32,
}

#[derive(Debug)]
struct Owner {
    name: String,
    left: u64,
}

impl Pool {
    /// The pool of these ranges. `workers`: a lease is preferred whose address, counted from the network's first, falls to
    /// the client's worker (`peer % workers`), so that packets for it are read by that worker.
    pub fn new(v4: Option<&Pool4>, v6: Option<&Pool6>, topology: Topology, workers: u16) -> Pool {
        let v4 = v4.filter(|pool| pool.dynamic).map(|pool| range4(pool, topology));
        let v6 = v6.filter(|pool| pool.dynamic).map(|pool| (pool.base, size6(pool)));
        let sizes = v4.map(|(_, size)| size).into_iter().chain(v6.map(|(_, size)| size));
        let workers = u32::from(workers.max(1));
        Pool {
            size: sizes.min().unwrap_or(0).min(MOST),
            v4: v4.map(|(range, _)| range),
            v6: v6.map(|(base, _)| base),
            workers,
            lowest: vec![0; usize::try_from(workers).unwrap_or(1)],
            ..Pool::default()
        }
    }

    /// Gives a lease to a client: what it had if its name is known, else another. An empty name is never remembered.
    /// `None`: all are taken.
    pub fn lease(&mut self, name: &str, peer: u32) -> Option<Lease> {
        let index = self.own(name).or_else(|| self.unowned(peer)).or_else(|| self.longest_left())?;
        self.taken.insert(index);
        if let Some(owner) = self.owners.get(&index) {
            self.left.remove(&(owner.left, index));
        }
        if !name.is_empty() {
            self.set_owner(name, index);
        }
        Some(self.at(index))
    }

    /// A client has gone. Its lease stays its own as long as there are others.
    pub fn release(&mut self, index: u32) {
        if !self.taken.remove(&index) {
            return;
        }
        self.leavings += 1;
        let leaving = self.leavings;
        match self.owners.get_mut(&index) {
            Some(owner) => {
                owner.left = leaving;
                self.left.insert((leaving, index));
            }
            None => {
                let class = self.class(index);
                if let Some(lowest) = self.lowest.get_mut(class) {
                    *lowest = index.min(*lowest);
                }
            }
        }
    }

    /// Remembers whose a lease was, by one of its addresses. False: it is none of the pool's, or it is somebody's.
    pub fn remember(&mut self, name: &str, ipv4: Option<Ipv4Addr>, ipv6: Option<Ipv6Addr>) -> bool {
        let index = ipv4.and_then(|address| self.index4(address)).or_else(|| ipv6.and_then(|a| self.index6(a)));
        let Some(index) = index.filter(|index| !self.owners.contains_key(index)) else { return false };
        if name.is_empty() || self.by_name.contains_key(name) || self.taken.contains(&index) {
            return false;
        }
        self.set_owner(name, index);
        self.left.insert((0, index));
        true
    }

    /// Every lease that has an owner, by its number; in topology net30 with the first address of its block.
    pub fn owned(&self) -> Vec<(String, Lease)> {
        let mut all: Vec<(String, Lease)> = self
            .owners
            .iter()
            .map(|(&index, owner)| {
                let block = self.v4.map(|range| Ipv4Addr::from_bits(range.start.wrapping_add(index * range.step)));
                (owner.name.clone(), Lease { ipv4: block, ..self.at(index) })
            })
            .collect();
        all.sort_by_key(|(_, lease)| lease.index);
        all
    }

    /// Whether owners changed since the last call.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// How many leases are taken, and how many there are.
    pub fn fill(&self) -> (u64, u64) {
        (self.taken.len() as u64, u64::from(self.size))
    }

    /// Whether leases have IPv4 addresses, and whether they have IPv6 addresses.
    pub fn families(&self) -> (bool, bool) {
        (self.v4.is_some(), self.v6.is_some())
    }

    fn own(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied().filter(|index| !self.taken.contains(index))
    }

    /// The lowest lease without an owner, of the peer's worker if there is one.
    fn unowned(&mut self, peer: u32) -> Option<u32> {
        let wanted = usize::try_from(peer % self.workers).unwrap_or(0);
        let others = (0..self.lowest.len()).filter(|class| *class != wanted);
        let found = self.lowest_of(wanted);
        found.or_else(|| others.filter_map(|class| self.lowest_of(class)).min())
    }

    fn lowest_of(&mut self, class: usize) -> Option<u32> {
        let from = self.lowest.get(class).copied()?;
        let free = |index: &u32| {
            self.class(*index) == class
                && !self.taken.contains(index)
                && !self.owners.contains_key(index)
                && !self.is_local(*index)
        };
        let found = (from..self.size).find(free);
        if let Some(lowest) = self.lowest.get_mut(class) {
            *lowest = found.unwrap_or(self.size);
        }
        found
    }

    fn longest_left(&mut self) -> Option<u32> {
        self.left.first().map(|(_, index)| *index)
    }

    fn set_owner(&mut self, name: &str, index: u32) {
        if self.owners.get(&index).is_some_and(|owner| owner.name == name) {
            return;
        }
        if let Some(before) = self.owners.insert(index, Owner { name: name.to_owned(), left: 0 }) {
            self.by_name.remove(&before.name);
        }
        // Somebody who has two leases at once keeps the later one.
        if let Some(other) = self.by_name.insert(name.to_owned(), index)
            && let Some(owner) = self.owners.remove(&other)
        {
            self.left.remove(&(owner.left, other));
            let class = self.class(other);
            if let Some(lowest) = self.lowest.get_mut(class) {
                *lowest = other.min(*lowest);
            }
        }
        self.changed = true;
    }

    /// The lease of that number.
    pub fn at(&self, index: u32) -> Lease {
        Lease {
            index,
            ipv4: self.v4.map(|range| Ipv4Addr::from_bits(range.address(index))),
            ipv6: self.v6.map(|base| Ipv6Addr::from_bits(base.to_bits().wrapping_add(u128::from(index)))),
        }
    }

    /// The worker that reads packets for this lease.
    fn class(&self, index: u32) -> usize {
        let offset = self.v4.map_or(index, |range| range.address(index).wrapping_sub(range.base));
        usize::try_from(offset % self.workers).unwrap_or(0)
    }

    fn is_local(&self, index: u32) -> bool {
        self.v4.is_some_and(|range| range.block(range.local) == Some(index))
    }

    fn index4(&self, address: Ipv4Addr) -> Option<u32> {
        let index = self.v4?.block(address.to_bits())?;
        (index < self.size && !self.is_local(index)).then_some(index)
    }

    fn index6(&self, address: Ipv6Addr) -> Option<u32> {
        let index = u32::try_from(address.to_bits().checked_sub(self.v6?.to_bits())?).ok()?;
        (index < self.size).then_some(index)
    }
}

impl Range4 {
    /// The client's address.
    fn address(self, index: u32) -> u32 {
        let within = if self.step == 4 { 2 } else { 0 };
        self.start.wrapping_add(index.wrapping_mul(self.step)).wrapping_add(within)
    }

    /// The lease that an address belongs to.
    fn block(self, address: u32) -> Option<u32> {
        address.checked_sub(self.start).map(|offset| offset / self.step)
    }
}

fn range4(pool: &Pool4, topology: Topology) -> (Range4, u32) {
    let (start, end) = (pool.pool_start.to_bits(), pool.pool_end.to_bits());
    let step = if topology == Topology::Net30 { 4 } else { 1 };
    let addresses = end.checked_sub(start).map_or(0, |span| span.saturating_add(1));
    let range = Range4 { start, step, base: pool.network.to_bits(), local: pool.local.to_bits() };
    (range, addresses / step)
}

fn size6(pool: &Pool6) -> u32 {
    let host_bits = 128 - u32::from(pool.pool_prefix.min(128));
    let hosts = u128::MAX.checked_shr(128 - host_bits).unwrap_or(0);
    let within = pool.base.to_bits() & hosts;
    u32::try_from((hosts - within).saturating_add(1)).unwrap_or(MOST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(start: &str, end: &str) -> Pool4 {
        Pool4 {
            network: "10.8.0.0".parse().unwrap(),
            prefix: 24,
            netmask: "255.255.255.0".parse().unwrap(),
            local: "10.8.0.1".parse().unwrap(),
            peer: None,
            pool_start: start.parse().unwrap(),
            pool_end: end.parse().unwrap(),
            dynamic: true,
        }
    }

    fn v6(base: &str, pool_prefix: u8) -> Pool6 {
        Pool6 { local: "fd00::1".parse().unwrap(), prefix: 64, base: base.parse().unwrap(), pool_prefix, dynamic: true }
    }

    fn subnet(start: &str, end: &str) -> Pool {
        Pool::new(Some(&v4(start, end)), None, Topology::Subnet, 1)
    }

    fn address(lease: Option<Lease>) -> String {
        lease.and_then(|lease| lease.ipv4).map_or("none".to_owned(), |address| address.to_string())
    }

    #[test]
    fn clients_get_the_lowest_addresses_until_there_are_none() {
        let mut pool = subnet("10.8.0.2", "10.8.0.4");
        let names = ["a", "b", "c", "d"];
        let given: Vec<String> = names.iter().map(|name| address(pool.lease(name, 0))).collect();
        assert_eq!(given, ["10.8.0.2", "10.8.0.3", "10.8.0.4", "none"]);
        assert_eq!(pool.fill(), (3, 3));
    }

    #[test]
    fn who_comes_back_gets_what_it_had_and_others_get_what_nobody_had() {
        let mut pool = subnet("10.8.0.2", "10.8.0.9");
        let a = pool.lease("a", 0).unwrap();
        pool.release(a.index);
        assert_eq!(address(pool.lease("b", 0)), "10.8.0.3", "a's is kept for a");
        assert_eq!(pool.lease("a", 0), Some(a));
    }

    #[test]
    fn when_all_have_owners_the_one_that_left_first_loses_it() {
        let mut pool = subnet("10.8.0.2", "10.8.0.3");
        let (a, b) = (pool.lease("a", 0).unwrap(), pool.lease("b", 0).unwrap());
        pool.release(b.index);
        pool.release(a.index);
        assert_eq!(pool.lease("c", 0), Some(b), "b left before a");
        assert_eq!(pool.lease("a", 0), Some(a));
        assert_eq!(pool.lease("b", 0), None, "and c holds what b had");
    }

    #[test]
    fn one_name_twice_gets_two_leases() {
        let mut pool = subnet("10.8.0.2", "10.8.0.9");
        let (one, two) = (pool.lease("a", 0).unwrap(), pool.lease("a", 0).unwrap());
        assert_ne!(one.index, two.index);
        pool.release(one.index);
        pool.release(two.index);
        assert_eq!(pool.lease("a", 0), Some(two));
        assert_eq!(pool.lease("b", 0), Some(one), "which has no owner any more");
    }

    #[test]
    fn a_client_without_a_name_is_not_remembered() {
        let mut pool = subnet("10.8.0.2", "10.8.0.9");
        let one = pool.lease("", 0).unwrap();
        assert!(pool.owned().is_empty());
        pool.release(one.index);
        assert_eq!(pool.lease("", 0), Some(one));
    }

    #[test]
    fn a_release_of_what_is_not_taken_changes_nothing() {
        let mut pool = subnet("10.8.0.2", "10.8.0.3");
        pool.lease("a", 0).unwrap();
        pool.release(1);
        pool.release(7);
        assert_eq!(pool.fill(), (1, 2));
        assert_eq!(address(pool.lease("b", 0)), "10.8.0.3");
    }

    #[test]
    fn in_net30_a_lease_is_a_block_of_four() {
        let mut pool = Pool::new(Some(&v4("10.8.0.4", "10.8.0.15")), None, Topology::Net30, 1);
        let given: Vec<String> = ["a", "b", "c", "d"].iter().map(|name| address(pool.lease(name, 0))).collect();
        assert_eq!(given, ["10.8.0.6", "10.8.0.10", "10.8.0.14", "none"]);
        assert_eq!(pool.owned()[1].1.ipv4, Some("10.8.0.8".parse().unwrap()), "the file has the block");
        let mut pool = Pool::new(Some(&v4("10.8.0.4", "10.8.0.15")), None, Topology::Net30, 1);
        assert!(pool.remember("x", Some("10.8.0.8".parse().unwrap()), None));
        assert_eq!(address(pool.lease("x", 0)), "10.8.0.10");
    }

    #[test]
    fn both_families_go_together_and_the_smaller_one_ends_first() {
        let pools = (v4("10.8.0.2", "10.8.0.200"), v6("fd00::fffe", 112));
        let mut pool = Pool::new(Some(&pools.0), Some(&pools.1), Topology::Subnet, 1);
        let one = pool.lease("a", 0).unwrap();
        assert_eq!((one.ipv4, one.ipv6), (Some("10.8.0.2".parse().unwrap()), Some("fd00::fffe".parse().unwrap())));
        assert_eq!(pool.lease("b", 0).unwrap().ipv6, Some("fd00::ffff".parse().unwrap()));
        assert_eq!(pool.lease("c", 0), None);
    }

    #[test]
    fn an_ipv6_pool_alone_serves() {
        let mut pool = Pool::new(None, Some(&v6("fd00::1000", 64)), Topology::Subnet, 1);
        assert_eq!(pool.fill().1, u64::from(MOST), "no more than peers");
        let one = pool.lease("a", 0).unwrap();
        assert_eq!((one.ipv4, one.ipv6), (None, Some("fd00::1000".parse().unwrap())));
        assert!(pool.remember("b", None, Some("fd00::1007".parse().unwrap())));
        assert!(!pool.remember("c", None, Some("fd00::fff".parse().unwrap())), "below the pool");
        assert_eq!(pool.lease("b", 0).unwrap().ipv6, Some("fd00::1007".parse().unwrap()));
    }

    #[test]
    fn the_gateways_own_address_is_never_given() {
        let mut pool = subnet("10.8.0.1", "10.8.0.2");
        assert_eq!(address(pool.lease("a", 0)), "10.8.0.2");
        assert_eq!(pool.lease("b", 0), None);
        assert!(!subnet("10.8.0.1", "10.8.0.2").remember("x", Some("10.8.0.1".parse().unwrap()), None));
    }

    #[test]
    fn an_address_of_the_peers_worker_is_preferred() {
        let mut pool = Pool::new(Some(&v4("10.8.0.2", "10.8.0.6")), None, Topology::Subnet, 2);
        assert_eq!(address(pool.lease("a", 1)), "10.8.0.3");
        assert_eq!(address(pool.lease("b", 3)), "10.8.0.5");
        assert_eq!(address(pool.lease("c", 0)), "10.8.0.2");
        assert_eq!(address(pool.lease("d", 5)), "10.8.0.4", "any is better than none");
    }

    #[test]
    fn what_a_file_says_is_remembered_once() {
        let mut pool = subnet("10.8.0.2", "10.8.0.9");
        let at = |text: &str| Some(text.parse().unwrap());
        assert!(pool.remember("a", at("10.8.0.5"), None));
        assert!(!pool.remember("b", at("10.8.0.5"), None), "it is a's");
        assert!(!pool.remember("a", at("10.8.0.6"), None), "a has one");
        assert!(!pool.remember("c", at("10.8.0.10"), None), "outside");
        assert!(!pool.remember("", at("10.8.0.6"), None));
        assert_eq!(address(pool.lease("a", 0)), "10.8.0.5");
        assert_eq!(address(pool.lease("b", 0)), "10.8.0.2");
    }

    #[test]
    fn a_pool_that_is_not_there_gives_nothing() {
        let none = Pool4 { dynamic: false, ..v4("10.8.0.2", "10.8.0.9") };
        assert_eq!(Pool::new(Some(&none), None, Topology::Subnet, 1).lease("a", 0), None);
        assert_eq!(subnet("10.8.0.9", "10.8.0.2").lease("a", 0), None);
    }
}
