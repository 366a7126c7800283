//! Inner address → peer, by longest prefix. The table is immutable: a change is a new table, published to every worker.

use std::net::IpAddr;

/// Which inner addresses belong to which peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Every address belongs to this peer: nothing else is looked at.
    all: Option<u32>,
    /// Single addresses: thousands of them, one or two of each client.
    hosts_v4: Hosts<u32>,
    hosts_v6: Hosts<u128>,
    /// Shorter prefixes: few.
    v4: Vec<Level>,
    v6: Vec<Level>,
}

/// Whole addresses, found by hashing: a table with open addressing that is at most half full. What is in it comes from the gateway's own
/// pools and configuration; who sends packets to other addresses can do no worse than walk the longest run of them.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hosts<T> {
    /// A power of two of places, or none.
    places: Vec<Option<(T, u32)>>,
    used: usize,
}

impl<T> Default for Hosts<T> {
    fn default() -> Self {
        Hosts { places: Vec::new(), used: 0 }
    }
}

trait Bits: Copy + Eq {
    /// 64 bits that depend on all of them.
    fn fold(self) -> u64;
}

impl Bits for u32 {
    #[inline]
    fn fold(self) -> u64 {
        self.into()
    }
}

impl Bits for u128 {
    #[inline]
    fn fold(self) -> u64 {
        // Both halves count: a pool varies the lower one, networks behind clients perhaps the higher one.
        (self as u64) ^ ((self >> 64) as u64).rotate_left(32)
    }
}

impl<T: Bits> Hosts<T> {
    #[inline]
    fn get(&self, bits: T) -> Option<u32> {
        if self.places.is_empty() {
            return None;
        }
        let mut at = self.home(bits);
        while let Some((found, peer)) = self.places[at] {
            if found == bits {
                return Some(peer);
            }
            at = (at + 1) & (self.places.len() - 1);
        }
        None
    }

    fn insert(&mut self, bits: T, peer: u32) {
        if 2 * (self.used + 1) > self.places.len() {
            self.grow();
        }
        let mut at = self.home(bits);
        while let Some((found, _)) = self.places[at]
            && found != bits
        {
            at = (at + 1) & (self.places.len() - 1);
        }
        self.used += usize::from(self.places[at].is_none());
        self.places[at] = Some((bits, peer));
    }

    fn grow(&mut self) {
        let bigger = (2 * self.places.len()).max(8);
        let old = std::mem::replace(&mut self.places, vec![None; bigger]);
        self.used = 0;
        for (bits, peer) in old.into_iter().flatten() {
            self.insert(bits, peer);
        }
    }

    /// Where an address would like to stand: the highest bits of a product with 2^64 divided by the golden ratio. The table is not empty.
    #[inline]
    fn home(&self, bits: T) -> usize {
        let spread = bits.fold().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // The table's length is a power of two, at least 8, so the shift is in 1..=61 and the result below the length.
        (spread >> (64 - self.places.len().trailing_zeros())) as usize
    }
}

/// All prefixes of one length.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Level {
    /// Bits that are not compared, of 128 (IPv4 addresses stand in the lowest 32 bits).
    host_bits: u32,
    /// The prefix without its host bits, and its peer; sorted.
    prefixes: Vec<(u128, u32)>,
}

/// One prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Any address in it.
    pub address: IpAddr,
    /// Its length in bits; more than the family has is taken as all of them.
    pub prefix_len: u8,
    /// The worker's handle of the peer.
    pub peer: u32,
}

impl RouteTable {
    /// A client's table: every address belongs to this peer.
    pub fn all_to(peer: u32) -> Self {
        RouteTable { all: Some(peer), ..RouteTable::default() }
    }

    /// A table of prefixes. Of two routes for the same prefix the later one counts.
    pub fn new(routes: &[Route]) -> Self {
        let mut table = RouteTable::default();
        for route in routes {
            let len = u32::from(route.prefix_len);
            match route.address {
                IpAddr::V4(address) if len >= 32 => table.hosts_v4.insert(address.to_bits(), route.peer),
                IpAddr::V4(address) => insert(&mut table.v4, 32 - len, address.to_bits().into(), route.peer),
                IpAddr::V6(address) if len >= 128 => table.hosts_v6.insert(address.to_bits(), route.peer),
                IpAddr::V6(address) => insert(&mut table.v6, 128 - len, address.to_bits(), route.peer),
            }
        }
        table
    }

    /// Whose address this is.
    #[inline]
    pub fn lookup(&self, address: impl FnOnce() -> IpAddr) -> Option<u32> {
        if self.all.is_some() {
            return self.all;
        }
        match address() {
            IpAddr::V4(address) => {
                let bits = address.to_bits();
                self.hosts_v4.get(bits).or_else(|| find(&self.v4, bits.into()))
            }
            IpAddr::V6(address) => {
                let bits = address.to_bits();
                self.hosts_v6.get(bits).or_else(|| find(&self.v6, bits))
            }
        }
    }
}

fn insert(levels: &mut Vec<Level>, host_bits: u32, bits: u128, peer: u32) {
    let at = match levels.binary_search_by_key(&host_bits, |level| level.host_bits) {
        Ok(at) => at,
        Err(at) => {
            levels.insert(at, Level { host_bits, prefixes: Vec::new() });
            at
        }
    };
    let prefixes = &mut levels[at].prefixes;
    let prefix = network(bits, host_bits);
    match prefixes.binary_search_by_key(&prefix, |entry| entry.0) {
        Ok(at) => prefixes[at].1 = peer,
        Err(at) => prefixes.insert(at, (prefix, peer)),
    }
}

/// The levels stand in order of growing `host_bits`: the longest prefix is met first.
fn find(levels: &[Level], bits: u128) -> Option<u32> {
    levels.iter().find_map(|level| {
        let prefix = network(bits, level.host_bits);
        let at = level.prefixes.binary_search_by_key(&prefix, |entry| entry.0).ok()?;
        Some(level.prefixes[at].1)
    })
}

fn network(bits: u128, host_bits: u32) -> u128 {
    bits.checked_shr(host_bits).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn route(address: &str, prefix_len: u8, peer: u32) -> Route {
        Route { address: address.parse().unwrap(), prefix_len, peer }
    }

    fn lookup(table: &RouteTable, address: &str) -> Option<u32> {
        table.lookup(|| address.parse().unwrap())
    }

    #[test]
    fn a_client_sends_everything_to_its_peer() {
        let table = RouteTable::all_to(7);
        assert_eq!(lookup(&table, "10.0.0.1"), Some(7));
        assert_eq!(lookup(&table, "2001:db8::1"), Some(7));
        assert_eq!(lookup(&RouteTable::default(), "10.0.0.1"), None);
    }

    #[test]
    fn the_longest_prefix_wins() {
        let table = RouteTable::new(&[
            route("0.0.0.0", 0, 1),
            route("10.8.0.0", 16, 2),
            route("10.8.1.0", 24, 3),
            route("10.8.1.5", 32, 4),
            route("2001:db8::", 32, 5),
            route("2001:db8::7", 128, 6),
        ]);
        for (address, peer) in [
            ("192.0.2.1", Some(1)),
            ("10.8.2.1", Some(2)),
            ("10.8.1.6", Some(3)),
            ("10.8.1.5", Some(4)),
            ("2001:db8::8", Some(5)),
            ("2001:db8::7", Some(6)),
            ("2001:db9::7", None),
            ("::", None),
        ] {
            assert_eq!(lookup(&table, address), peer, "{address}");
        }
    }

    #[test]
    fn ten_thousand_clients_are_all_found_and_nobody_else_is() {
        let address = |family: usize, client: u32| -> IpAddr {
            match family {
                0 => IpAddr::V4((0x0a08_0002 + client).into()),
                1 => IpAddr::V6((0xfd00_u128 << 112 | u128::from(client + 2)).into()),
                // Clients that differ in the higher half alone.
                _ => IpAddr::V6((0xfd01_u128 << 112 | u128::from(client) << 64 | 1).into()),
            }
        };
        let mut routes = Vec::new();
        for family in 0..3 {
            routes.extend((0..10_000).map(|client| Route {
                address: address(family, client),
                prefix_len: 128,
                peer: client,
            }));
        }
        let table = RouteTable::new(&routes);
        for family in 0..3 {
            assert!((0..10_000).all(|client| table.lookup(|| address(family, client)) == Some(client)));
            assert!((10_000..20_000).all(|client| table.lookup(|| address(family, client)).is_none()));
        }
    }

    #[test]
    fn a_default_route_of_one_family_says_nothing_about_the_other() {
        let table = RouteTable::new(&[route("::", 0, 1)]);
        assert_eq!(lookup(&table, "ffff::1"), Some(1));
        assert_eq!(lookup(&table, "0.0.0.1"), None);
    }

    #[test]
    fn of_two_equal_prefixes_the_later_counts() {
        let table = RouteTable::new(&[route("10.1.2.3", 8, 1), route("10.0.0.0", 8, 2)]);
        assert_eq!(lookup(&table, "10.200.0.1"), Some(2));
    }

    proptest! {
        #[test]
        fn the_table_agrees_with_a_search_through_the_list(
            routes in prop::collection::vec((any::<u32>(), 0u8..=32, 0u32..9), 0..40),
            probes in prop::collection::vec((any::<u32>(), 0usize..40), 1..40),
        ) {
            let list: Vec<Route> = routes.iter()
                .map(|&(bits, prefix_len, peer)| Route { address: IpAddr::V4(bits.into()), prefix_len, peer })
                .collect();
            let table = RouteTable::new(&list);
            for (noise, near) in probes {
                let bits = match routes.get(near) { Some(&(base, _, _)) => base ^ (noise & 0xff), None => noise };
                let mut best: Option<(u8, u32)> = None;
                for &(base, len, peer) in &routes {
                    let same = (base ^ bits).leading_zeros() >= u32::from(len);
                    if same && best.is_none_or(|(best_len, _)| len >= best_len) {
                        best = Some((len, peer));
                    }
                }
                prop_assert_eq!(table.lookup(|| IpAddr::V4(bits.into())), best.map(|(_, peer)| peer));
            }
        }
    }
}
