//! The worker's peers: dense by handle, found by the peer-id on the wire or by address.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use link::message::Path;

use crate::datachannel::crossing::Crossing;
use crate::datachannel::keyring::Keyring;
use crate::pipeline::PeerSetup;

/// The largest number of peers of one worker. Handles are below it.
pub const MAX_PEERS: u32 = 65_536;

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
}

/// The peers of a worker.
#[derive(Debug, Default)]
pub struct PeerTable {
    peers: Vec<Option<Box<Peer>>>,
    /// The greatest key name that a removed peer of this handle had: a handle that is used again must not see a key again.
    last_names: Vec<Option<(u32, u32)>>,
    wire_ids: HashMap<u32, u32>,
    addresses: HashMap<SocketAddr, u32>,
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
        let at = setup.peer as usize;
        self.remove(setup.peer);
        if self.peers.len() <= at {
            self.peers.resize_with(at + 1, || None);
            self.last_names.resize(at + 1, None);
        }
        self.index(&setup);
        let keys = Keyring::new(setup.replay_window, setup.replay_time_s, self.last_names[at], Arc::clone(&crossing));
        self.peers[at] = Some(Box::new(Peer {
            setup,
            keys,
            crossing,
            last_sent_ns: now_ns,
            last_heard_ns: now_ns,
            silence_reported: false,
            listening: false,
        }));
        true
    }

    /// Replaces a peer's settings; keys and timers stay. False when there is no such peer.
    pub fn update(&mut self, setup: PeerSetup) -> bool {
        let Some(old) = self.get(setup.peer).map(|peer| peer.setup.clone()) else {
            return false;
        };
        self.unindex(&old);
        self.index(&setup);
        if let Some(peer) = self.get_mut(setup.peer) {
            peer.keys.open.set_replay(setup.replay_window, setup.replay_time_s);
            peer.setup = setup;
        }
        true
    }

    /// Forgets a peer and wipes its keys; the name of its last key is remembered.
    pub fn remove(&mut self, peer: u32) -> bool {
        let Some(old) = self.peers.get_mut(peer as usize).and_then(Option::take) else {
            return false;
        };
        self.last_names[peer as usize] = old.keys.last_name();
        self.unindex(&old.setup);
        true
    }

    /// Moves a peer to another address.
    pub fn set_path(&mut self, peer: u32, path: Path) -> bool {
        let Some(mut setup) = self.get(peer).map(|peer| peer.setup.clone()) else {
            return false;
        };
        setup.path = path;
        self.update(setup)
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
        self.peers.get(peer as usize)?.as_deref()
    }

    /// The peer of this handle.
    #[inline]
    pub fn get_mut(&mut self, peer: u32) -> Option<&mut Peer> {
        self.peers.get_mut(peer as usize)?.as_deref_mut()
    }

    /// All peers.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.peers.iter_mut().filter_map(Option::as_deref_mut)
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
    fn index(&mut self, setup: &PeerSetup) {
        self.addresses.insert(setup.path.remote, setup.peer);
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
        if self.addresses.get(&setup.path.remote) == Some(&setup.peer) {
            self.addresses.remove(&setup.path.remote);
        }
        if let Some(id) = setup.wire_peer_id
            && self.wire_ids.get(&id) == Some(&setup.peer)
        {
            self.wire_ids.remove(&id);
        }
    }
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
}
