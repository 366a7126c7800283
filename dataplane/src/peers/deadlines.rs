//! When which peer is to be looked at, so that a tick costs what is due and not what there is.
//!
//! A peer stands in the heap with the instant at which something may be due. Most deadlines move away all the time (a keepalive with
//! every packet that is sent): nothing is done about that, the peer is looked at too early, and then stands there anew. A deadline that
//! comes nearer is rare; whoever changes one calls [`Deadlines::touch`], and the next tick looks at the peer.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::table::Peer;

/// See the file's text.
#[derive(Debug, Default)]
pub struct Deadlines {
    heap: BinaryHeap<Reverse<(u64, u32)>>,
    touched: Vec<u32>,
}

impl Deadlines {
    /// There will be so many peers: none of them needs memory to be touched.
    pub fn expect(&mut self, peers: usize) {
        self.touched.reserve(peers.saturating_sub(self.touched.len()));
    }

    /// Something about this peer changed: the next tick looks at it.
    #[inline]
    pub fn touch(&mut self, peer: &mut Peer) {
        if !peer.touched {
            peer.touched = true;
            self.touched.push(peer.setup.peer);
        }
    }

    /// Some peer was touched.
    #[inline]
    pub fn any_touched(&self) -> bool {
        !self.touched.is_empty()
    }

    /// The next peer that was touched.
    pub fn next_touched(&mut self) -> Option<u32> {
        self.touched.pop()
    }

    /// The next peer whose instant has come, and that instant. It may have another one meanwhile: see [`is_due`](Self::is_due).
    pub fn next_due(&mut self, now_ns: u64) -> Option<(u64, u32)> {
        let Reverse((due_ns, peer)) = *self.heap.peek()?;
        if due_ns > now_ns {
            return None;
        }
        self.heap.pop();
        Some((due_ns, peer))
    }

    /// Whether the instant is still the peer's; if so, it has none any more.
    pub fn is_due(peer: &mut Peer, due_ns: u64) -> bool {
        let due = peer.due_ns == due_ns;
        if due {
            peer.due_ns = u64::MAX;
        }
        due
    }

    /// The peer is to be looked at again at this instant (CLOCK_BOOTTIME, nanoseconds), or not before it is touched (`u64::MAX`).
    pub fn set(&mut self, peer: &mut Peer, due_ns: u64) {
        // Earlier is early enough.
        if due_ns < peer.due_ns {
            peer.due_ns = due_ns;
            self.heap.push(Reverse((due_ns, peer.setup.peer)));
        }
    }

    /// The next instant at which a peer may have to be looked at; `u64::MAX`: none.
    pub fn next(&self) -> u64 {
        self.heap.peek().map_or(u64::MAX, |Reverse((due_ns, _))| *due_ns)
    }
}

#[cfg(test)]
mod tests {
    use super::super::table::PeerTable;
    use super::*;
    use crate::pipeline::PeerSetup;
    use crate::pipeline::tests::{path, setup};

    fn table(peers: u32) -> PeerTable {
        let mut table = PeerTable::default();
        for peer in 0..peers {
            table.insert(0, PeerSetup { peer, wire_peer_id: Some(peer), path: path(peer as u16 + 1), ..setup() });
        }
        table
    }

    fn due(deadlines: &mut Deadlines, table: &mut PeerTable, now_ns: u64) -> Vec<u32> {
        let mut found = Vec::new();
        while let Some((due_ns, peer)) = deadlines.next_due(now_ns) {
            if Deadlines::is_due(table.get_mut(peer).unwrap(), due_ns) {
                found.push(peer);
            }
        }
        found
    }

    #[test]
    fn peers_are_due_in_the_order_of_their_instants() {
        let (mut deadlines, mut table) = (Deadlines::default(), table(3));
        assert_eq!(deadlines.next(), u64::MAX);
        for (peer, at) in [(0, 30), (1, 10), (2, 20)] {
            deadlines.set(table.get_mut(peer).unwrap(), at);
        }
        assert_eq!(deadlines.next(), 10);
        assert_eq!(due(&mut deadlines, &mut table, 9), []);
        assert_eq!(due(&mut deadlines, &mut table, 20), [1, 2]);
        assert_eq!(deadlines.next(), 30);
    }

    #[test]
    fn a_later_instant_waits_for_the_earlier_one_and_an_earlier_one_replaces_it() {
        let (mut deadlines, mut table) = (Deadlines::default(), table(1));
        deadlines.set(table.get_mut(0).unwrap(), 20);
        deadlines.set(table.get_mut(0).unwrap(), 50);
        assert_eq!(deadlines.next(), 20);
        deadlines.set(table.get_mut(0).unwrap(), 10);
        assert_eq!(due(&mut deadlines, &mut table, 15), [0]);
        assert_eq!(due(&mut deadlines, &mut table, 100), [], "the one before counts no more");
        deadlines.set(table.get_mut(0).unwrap(), u64::MAX);
        assert_eq!(deadlines.next(), u64::MAX);
    }

    #[test]
    fn a_peer_is_touched_once() {
        let (mut deadlines, mut table) = (Deadlines::default(), table(2));
        deadlines.expect(2);
        for peer in [1, 1, 0] {
            deadlines.touch(table.get_mut(peer).unwrap());
        }
        assert!(deadlines.any_touched());
        assert_eq!(
            [deadlines.next_touched(), deadlines.next_touched(), deadlines.next_touched()],
            [Some(0), Some(1), None]
        );
        assert!(!deadlines.any_touched());
    }
}
