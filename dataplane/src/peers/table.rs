//! The worker's peers: dense by handle, found by the peer-id on the wire or by address.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use link::message::Path;

use crate::datachannel::crossing::Crossing;
use crate::datachannel::keyring::Keyring;
use crate::pipeline::PeerSetup;
use crate::workers::handover::What;

/// Handles are below it: those peer-ids that P_DATA_V2 can carry, without the one that means none.
pub const MAX_PEERS: u32 = 0x00ff_ffff;
/// Peers with smaller handles stand in an array that is as long as the greatest of them asks for, others in a hash map: a gateway gives the
/// lowest free peer-id, so there are others only where the handle has a meaning of its own.
const DENSE: u32 = 1 << 20;
/// So long a refused address does not move a peer, in nanoseconds: its owner may be gone by then.
const REFUSED_NS: u64 = 10_000_000_000;

/// What a peer has to do with an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim {
    /// It is there: somebody said so who knows.
    Takes,
    /// It floated there. If the address is another peer's, it stays that one's: the control process judges the move, and until then nobody
    /// loses an address by what another one does.
    Asks,
    /// It is there no more.
    Leaves,
}

/// One peer: its settings, its keys, and when it was last heard.
#[derive(Debug)]
pub struct Peer {
    /// Its settings; `setup.path` is where it is now.
    pub setup: PeerSetup,
    /// Its keys.
    pub keys: Keyring,
    /// What the other half hears of it.
    pub crossing: Arc<Crossing>,
    /// When a data packet last went to it (CLOCK_BOOTTIME, nanoseconds).
    pub last_sent_ns: u64,
    /// When an authenticated packet last came from it (CLOCK_BOOTTIME, nanoseconds).
    pub last_heard_ns: u64,
    /// Its silence was reported, and it has not been heard since.
    pub silence_reported: bool,
    /// The next authenticated packet is to be reported.
    pub listening: bool,
    /// Either of the two: the next authenticated packet is more than a packet.
    pub awaited: bool,
    /// The address that it was moved back from, and until when packets from there are dropped (CLOCK_BOOTTIME, nanoseconds).
    refused: Option<(SocketAddr, u64)>,
    /// It does not float before (CLOCK_BOOTTIME, nanoseconds).
    pub(crate) floats_from_ns: u64,
    /// That it leaves was reported, and it has got no key since.
    pub(crate) left: bool,
    /// The next tick looks at it; see [`Deadlines`](super::deadlines::Deadlines).
    pub(crate) touched: bool,
    /// When a tick looks at it at the latest (CLOCK_BOOTTIME, nanoseconds).
    pub(super) due_ns: u64,
}

impl Peer {
    /// Nothing moves it to this address now.
    pub fn refuses(&self, remote: &SocketAddr, now_ns: u64) -> bool {
        self.refused.is_some_and(|(refused, until)| refused == *remote && now_ns < until)
    }

    /// Whether the next authenticated packet is to be reported, or ends a silence.
    pub fn set_awaited(&mut self, listening: bool, silence_reported: bool) {
        (self.listening, self.silence_reported) = (listening, silence_reported);
        self.awaited = listening || silence_reported;
    }
}

/// The peers of a worker.
#[derive(Debug, Default)]
pub struct PeerTable {
    dense: Vec<Option<Box<Peer>>>,
    sparse: HashMap<u32, Box<Peer>>,
    count: usize,
    /// The greatest key name that a removed peer of this handle had: a handle that is used again must not see a key again.
    last_names: HashMap<u32, (u32, u32)>,
    wire_ids: HashMap<u32, u32>,
    /// On the first of several workers also those of the others' peers.
    addresses: HashMap<SocketAddr, u32>,
    /// What the first worker is to hear of these addresses, when this is another one.
    pub(crate) moves: Option<VecDeque<What>>,
}

impl PeerTable {
    /// Adds a peer without keys, in the place of any that had its handle. False when the handle is too large.
    pub fn insert(&mut self, now_ns: u64, setup: PeerSetup) -> bool {
        self.insert_half(now_ns, setup, Arc::default())
    }

    /// The same, for a half whose other half has this crossing.
    pub fn insert_half(&mut self, now_ns: u64, setup: PeerSetup, crossing: Arc<Crossing>) -> bool {
        if setup.peer >= MAX_PEERS {
            return false;
        }
        self.remove(setup.peer);
        self.index(&setup, Claim::Takes);
        self.tell(setup.peer, setup.path.remote, Claim::Takes);
        let (handle, last_name) = (setup.peer, self.last_names.remove(&setup.peer));
        let keys = Keyring::new(setup.replay_window, setup.replay_time_s, last_name, Arc::clone(&crossing));
        let peer = Box::new(Peer {
            setup,
            keys,
            crossing,
            last_sent_ns: now_ns,
            last_heard_ns: now_ns,
            silence_reported: false,
            listening: false,
            awaited: false,
            refused: None,
            floats_from_ns: 0,
            left: false,
            touched: false,
            due_ns: u64::MAX,
        });
        self.count += 1;
        if handle >= DENSE {
            self.sparse.insert(handle, peer);
            return true;
        }
        let at = handle as usize;
        if self.dense.len() <= at {
            self.dense.resize_with(at + 1, || None);
        }
        self.dense[at] = Some(peer);
        true
    }

    /// How many peers there are.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Replaces a peer's settings; keys and timers stay. False when there is no such peer.
    pub fn update(&mut self, setup: PeerSetup) -> bool {
        self.replace(setup, Claim::Takes)
    }

    fn replace(&mut self, setup: PeerSetup, claim: Claim) -> bool {
        let Some(old) = self.get(setup.peer).map(|peer| peer.setup.clone()) else {
            return false;
        };
        self.unindex(&old);
        self.index(&setup, claim);
        if old.path.remote != setup.path.remote {
            self.tell(old.peer, old.path.remote, Claim::Leaves);
            self.tell(setup.peer, setup.path.remote, claim);
        }
        if let Some(peer) = self.get_mut(setup.peer) {
            peer.refused = None;
            peer.keys.open.set_replay(setup.replay_window, setup.replay_time_s);
            peer.setup = setup;
        }
        true
    }

    /// Forgets a peer and wipes its keys; the name of its last key is remembered.
    pub fn remove(&mut self, peer: u32) -> bool {
        let dense = self.dense.get_mut(peer as usize).and_then(Option::take);
        let Some(old) = dense.or_else(|| self.sparse.remove(&peer)) else {
            return false;
        };
        self.count -= 1;
        if let Some(name) = old.keys.last_name() {
            self.last_names.insert(peer, name);
        }
        self.unindex(&old.setup);
        self.tell(peer, old.setup.path.remote, Claim::Leaves);
        true
    }

    /// Moves a peer to another address.
    pub fn set_path(&mut self, peer: u32, path: Path) -> bool {
        self.go(peer, path, Claim::Takes)
    }

    /// A peer has moved to another address by itself.
    pub fn float(&mut self, peer: u32, path: Path) -> bool {
        self.go(peer, path, Claim::Asks)
    }

    fn go(&mut self, peer: u32, path: Path, claim: Claim) -> bool {
        let Some(mut setup) = self.get(peer).map(|peer| peer.setup.clone()) else {
            return false;
        };
        setup.path = path;
        self.replace(setup, claim)
    }

    /// Moves a peer back: the address where it was belongs to another peer, and does not move it for a while.
    pub fn move_back(&mut self, now_ns: u64, peer: u32, path: Path) -> bool {
        let Some(was) = self.get(peer).map(|peer| peer.setup.path.remote) else {
            return false;
        };
        self.set_path(peer, path);
        if let Some(peer) = self.get_mut(peer).filter(|_| was != path.remote) {
            peer.refused = Some((was, now_ns.saturating_add(REFUSED_NS)));
        }
        true
    }

    /// What a peer, perhaps one of another worker, has to do with this address.
    pub fn note_address(&mut self, remote: SocketAddr, peer: u32, claim: Claim) {
        match claim {
            Claim::Takes => _ = self.addresses.insert(remote, peer),
            Claim::Asks => _ = self.addresses.entry(remote).or_insert(peer),
            // Another may have taken it over.
            Claim::Leaves if self.addresses.get(&remote) == Some(&peer) => _ = self.addresses.remove(&remote),
            Claim::Leaves => {}
        }
    }

    /// The peer-id that its P_DATA_V2 packets carry.
    pub fn set_wire_id(&mut self, peer: u32, wire_peer_id: Option<u32>) -> bool {
        let Some(setup) = self.get(peer).map(|peer| peer.setup.clone()) else {
            return false;
        };
        setup.wire_peer_id == wire_peer_id || self.update(PeerSetup { wire_peer_id, ..setup })
    }

    /// The peer of this handle.
    #[inline]
    pub fn get(&self, peer: u32) -> Option<&Peer> {
        match self.dense.get(peer as usize) {
            Some(peer) => peer.as_deref(),
            None => get_sparse(&self.sparse, peer),
        }
    }

    /// The peer of this handle.
    #[inline]
    pub fn get_mut(&mut self, peer: u32) -> Option<&mut Peer> {
        match self.dense.get_mut(peer as usize) {
            Some(peer) => peer.as_deref_mut(),
            None => get_sparse_mut(&mut self.sparse, peer),
        }
    }

    /// All peers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        let sparse = self.sparse.values_mut().map(|peer| &mut **peer);
        self.dense.iter_mut().filter_map(Option::as_deref_mut).chain(sparse)
    }

    /// The handle of the peer whose P_DATA_V2 packets carry this peer-id. Without hashing where the handle is the peer-id
    /// (a gateway) or 0 (a client).
    #[inline]
    pub fn by_wire_id(&self, peer_id: u32) -> Option<u32> {
        let carries = |peer: &u32| self.get(*peer).is_some_and(|peer| peer.setup.wire_peer_id == Some(peer_id));
        [peer_id, 0].into_iter().find(carries).or_else(|| self.wire_ids.get(&peer_id).copied())
    }

    /// The handle of the peer at this address.
    pub fn by_address(&self, remote: &SocketAddr) -> Option<u32> {
        self.addresses.get(remote).copied()
    }

    /// Two peers never share a peer-id: the later one has it.
    fn index(&mut self, setup: &PeerSetup, claim: Claim) {
        self.note_address(setup.path.remote, setup.peer, claim);
        let Some(id) = setup.wire_peer_id else { return };
        if let Some(earlier) = self.wire_ids.insert(id, setup.peer)
            && earlier != setup.peer
            && let Some(earlier) = self.get_mut(earlier)
        {
            earlier.setup.wire_peer_id = None;
        }
    }

    /// Takes only what is this peer's own: another may have taken over its address.
    fn unindex(&mut self, setup: &PeerSetup) {
        self.note_address(setup.path.remote, setup.peer, Claim::Leaves);
        if let Some(id) = setup.wire_peer_id
            && self.wire_ids.get(&id) == Some(&setup.peer)
        {
            self.wire_ids.remove(&id);
        }
    }

    fn tell(&mut self, peer: u32, remote: SocketAddr, claim: Claim) {
        if let Some(moves) = &mut self.moves {
            moves.push_back(What::Address { remote, peer, claim });
        }
    }
}

/// Apart, so that nothing of hashing stands in the way of those who need none of it.
#[cold]
fn get_sparse(sparse: &HashMap<u32, Box<Peer>>, peer: u32) -> Option<&Peer> {
    sparse.get(&peer).map(|peer| &**peer)
}

#[cold]
fn get_sparse_mut(sparse: &mut HashMap<u32, Box<Peer>>, peer: u32) -> Option<&mut Peer> {
    sparse.get_mut(&peer).map(|peer| &mut **peer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datachannel::keyring::tests::{install, key};
    use crate::pipeline::tests::{path, setup};
    use link::message::KeyRefusal;

    fn at(peer: u32, wire_peer_id: u32, port: u16) -> PeerSetup {
        PeerSetup { peer, wire_peer_id: Some(wire_peer_id), path: path(port), ..setup() }
    }

    fn remote(port: u16) -> SocketAddr {
        path(port).remote
    }

    #[test]
    fn a_peer_is_found_by_peer_id_and_by_address() {
        let mut table = PeerTable::default();
        assert!(table.insert(0, at(3, 30, 1)) && table.insert(0, at(4, 40, 2)));
        assert_eq!((table.by_wire_id(30), table.by_wire_id(40), table.by_wire_id(3)), (Some(3), Some(4), None));
        assert_eq!((table.by_address(&remote(1)), table.by_address(&remote(3))), (Some(3), None));
        assert!(table.insert(0, at(0, 50, 5)) && table.insert(0, at(6, 6, 6)));
        let found = [50, 6, 0].map(|id| table.by_wire_id(id));
        assert_eq!(found, [Some(0), Some(6), None]);
        assert!(table.get(3).is_some() && table.get(2).is_none() && table.get(99).is_none());
        assert_eq!(table.iter_mut().count(), 4);
    }

    #[test]
    fn a_removed_peer_is_found_no_more() {
        let mut table = PeerTable::default();
        table.insert(0, at(3, 30, 1));
        assert!(table.remove(3) && !table.remove(3) && !table.remove(99));
        assert_eq!((table.by_wire_id(30), table.by_address(&remote(1))), (None, None));
        assert!(table.get(3).is_none());
    }

    #[test]
    fn a_changed_peer_is_found_where_it_is_now() {
        let mut table = PeerTable::default();
        table.insert(0, at(3, 30, 1));
        assert!(table.set_path(3, path(5)));
        assert_eq!((table.by_address(&remote(1)), table.by_address(&remote(5))), (None, Some(3)));
        assert!(table.update(at(3, 31, 6)));
        assert_eq!((table.by_wire_id(30), table.by_wire_id(31)), (None, Some(3)));
        assert!(!table.update(at(4, 1, 1)) && !table.set_path(4, path(1)));
    }

    #[test]
    fn an_address_that_another_took_over_is_not_taken_from_it() {
        let mut table = PeerTable::default();
        table.insert(0, at(30, 30, 1));
        table.insert(0, at(4, 30, 1));
        assert_eq!(table.by_wire_id(30), Some(4));
        table.remove(30);
        assert_eq!((table.by_wire_id(30), table.by_address(&remote(1))), (Some(4), Some(4)));
    }

    #[test]
    fn a_handle_that_is_used_again_never_sees_a_key_again() {
        let mut table = PeerTable::default();
        table.insert(0, setup());
        install(&mut table.get_mut(0).unwrap().keys, 0, &key(1, 1)).unwrap();
        table.insert(0, setup());
        assert_eq!(table.get(0).unwrap().keys.open.names().count(), 0);
        assert_eq!(install(&mut table.get_mut(0).unwrap().keys, 0, &key(1, 1)), Err(KeyRefusal::NotNewer));
        table.remove(0);
        table.insert(0, setup());
        assert_eq!(install(&mut table.get_mut(0).unwrap().keys, 0, &key(1, 1)), Err(KeyRefusal::NotNewer));
        assert_eq!(install(&mut table.get_mut(0).unwrap().keys, 0, &key(1, 2)), Ok(()));
    }

    #[test]
    fn a_handle_beyond_the_bound_is_refused() {
        let mut table = PeerTable::default();
        assert!(table.insert(0, PeerSetup { peer: MAX_PEERS - 1, ..setup() }));
        assert!(!table.insert(0, PeerSetup { peer: MAX_PEERS, ..setup() }));
    }

    #[test]
    fn a_great_handle_needs_no_great_table() {
        let mut table = PeerTable::default();
        let handles = [0, 7, DENSE - 1, DENSE, MAX_PEERS - 1];
        for (port, handle) in handles.into_iter().enumerate() {
            assert!(table.insert(0, at(handle, handle, port as u16 + 1)));
        }
        assert!(table.dense.len() <= DENSE as usize);
        assert_eq!((table.count(), table.iter_mut().count(), table.sparse.len()), (5, 5, 2));
        for (port, handle) in handles.into_iter().enumerate() {
            assert_eq!(table.by_wire_id(handle), Some(handle));
            assert_eq!(table.by_address(&remote(port as u16 + 1)), Some(handle));
            assert_eq!(table.get(handle).unwrap().setup.peer, handle);
        }
        assert!(table.remove(MAX_PEERS - 1) && table.get(MAX_PEERS - 1).is_none() && table.remove(7));
        assert_eq!(table.count(), 3);
    }

    #[test]
    fn a_peer_that_was_moved_back_refuses_that_address_for_a_while() {
        let mut table = PeerTable::default();
        table.insert(0, at(3, 30, 1));
        assert!(!table.move_back(0, 4, path(1)));
        table.set_path(3, path(2));
        assert!(table.move_back(100, 3, path(1)));
        let peer = table.get(3).unwrap();
        assert_eq!((peer.setup.path, table.by_address(&remote(2))), (path(1), None));
        assert!(peer.refuses(&remote(2), 100) && peer.refuses(&remote(2), 99 + REFUSED_NS));
        assert!(!peer.refuses(&remote(2), 100 + REFUSED_NS) && !peer.refuses(&remote(1), 100));
        table.set_path(3, path(5));
        assert!(!table.get(3).unwrap().refuses(&remote(2), 100), "it has gone elsewhere since");
        table.move_back(100, 3, path(5));
        assert!(!table.get(3).unwrap().refuses(&remote(5), 100), "it has not moved");
    }

    #[test]
    fn only_a_worker_that_announces_tells_where_its_peers_are() {
        let told = |peer, port, claim| What::Address { remote: remote(port), peer, claim };
        let mut table = PeerTable { moves: Some(VecDeque::new()), ..PeerTable::default() };
        table.insert(0, at(3, 30, 1));
        table.set_path(3, path(2));
        table.set_wire_id(3, Some(31));
        table.insert(0, at(5, 50, 2));
        table.remove(3);
        table.remove(5);
        let moves = [
            (3, 1, Claim::Takes),
            (3, 1, Claim::Leaves),
            (3, 2, Claim::Takes),
            (5, 2, Claim::Takes),
            (3, 2, Claim::Leaves),
            (5, 2, Claim::Leaves),
        ];
        assert_eq!(table.moves.unwrap(), moves.map(|(peer, port, claim)| told(peer, port, claim)));
        let mut table = PeerTable { moves: Some(VecDeque::new()), ..PeerTable::default() };
        table.insert(0, at(3, 30, 1));
        table.float(3, path(2));
        assert_eq!(table.moves.unwrap().back(), Some(&told(3, 2, Claim::Asks)));
        let mut table = PeerTable::default();
        table.insert(0, at(3, 30, 1));
        assert!(table.moves.is_none());
    }

    #[test]
    fn addresses_of_other_workers_peers_are_known_until_they_go() {
        let mut table = PeerTable::default();
        table.note_address(remote(1), 9, Claim::Takes);
        assert_eq!(table.by_address(&remote(1)), Some(9));
        assert!(table.get(9).is_none());
        table.note_address(remote(1), 8, Claim::Leaves);
        assert_eq!(table.by_address(&remote(1)), Some(9), "it is another peer's by now");
        table.note_address(remote(1), 9, Claim::Leaves);
        assert_eq!(table.by_address(&remote(1)), None);
        table.note_address(remote(1), 7, Claim::Asks);
        assert_eq!(table.by_address(&remote(1)), Some(7), "it was nobody's");
    }

    #[test]
    fn nobody_loses_an_address_because_another_floats_there() {
        let mut table = PeerTable::default();
        table.insert(0, at(3, 30, 1));
        table.insert(0, at(4, 40, 2));
        assert!(table.float(4, path(1)) && !table.float(9, path(1)));
        assert_eq!((table.get(4).unwrap().setup.path, table.by_address(&remote(1))), (path(1), Some(3)));
        assert_eq!(table.by_address(&remote(2)), None);
        table.move_back(0, 4, path(2));
        assert_eq!((table.by_address(&remote(1)), table.by_address(&remote(2))), (Some(3), Some(4)));
        assert!(table.float(4, path(5)));
        assert_eq!((table.by_address(&remote(5)), table.by_address(&remote(2))), (Some(4), None));
    }
}
