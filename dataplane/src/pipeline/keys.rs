//! Keys come, are used, go; what is said of that.

use link::message::{InstallKey, KeyName, KeyRefusal, WorkerEvent};

use super::upkeep::announce_keys;
use super::{Pipeline, Up};
use crate::datachannel::sealing::NewSealingKey;
use crate::peers::table::Peer;

impl Pipeline {
    /// Installs a key and says what came of it: [`WorkerEvent::KeyInstalled`] or [`WorkerEvent::KeyRefused`].
    pub fn install_key(&mut self, now_ns: u64, key: InstallKey, up: &mut dyn Up) {
        let installed = self.install_opening(now_ns, &key).and_then(|sealing| self.install_sealing(now_ns, sealing));
        self.installed(key.name, installed, up);
    }

    /// Installs the half of a key that opens. The other half comes back, for [`install_sealing`](Self::install_sealing), here or on
    /// the thread that seals; what comes of that is for [`installed`](Self::installed).
    ///
    /// # Errors
    /// [`KeyRefusal`]: also for [`installed`](Self::installed).
    pub fn install_opening(&mut self, now_ns: u64, key: &InstallKey) -> Result<NewSealingKey, KeyRefusal> {
        let of_its_own = |peer: &&mut Peer| peer.setup.generation.is_none_or(|own| own == key.name.generation);
        let peer = self.peers.get_mut(key.name.peer).filter(of_its_own).ok_or(KeyRefusal::UnknownPeer)?;
        let sealing = peer.keys.install_opening(&self.aead, now_ns, key)?;
        peer.left = false;
        // The peer may use the key as soon as it is installed, before the supervisor has said more about it.
        self.peers.set_wire_id(key.name.peer, key.wire_peer_id);
        self.touch(key.name.peer);
        Ok(sealing)
    }

    /// Installs the half of a key that seals.
    ///
    /// # Errors
    /// [`KeyRefusal::UnknownPeer`], [`KeyRefusal::NotNewer`].
    pub fn install_sealing(&mut self, now_ns: u64, key: NewSealingKey) -> Result<(), KeyRefusal> {
        let peer = self.peers.get_mut(key.name().peer).ok_or(KeyRefusal::UnknownPeer)?;
        peer.keys.seal.install(now_ns, key)?;
        peer.setup.counters.has_key_since(now_ns);
        self.deadlines.touch(peer);
        Ok(())
    }

    /// Both halves have the key, or one of them refused it: says so.
    pub fn installed(&mut self, name: KeyName, installed: Result<(), KeyRefusal>, up: &mut dyn Up) {
        match installed {
            Ok(()) => up.event(WorkerEvent::KeyInstalled(name)),
            Err(refusal) => {
                // A name that was there before is another key's.
                if refusal != KeyRefusal::NotNewer
                    && let Some(peer) = self.peers.get_mut(name.peer)
                {
                    peer.keys.open.forget(name);
                }
                up.event(WorkerEvent::KeyRefused(name, refusal));
            }
        }
        self.changed_keys(name.peer, up);
    }

    /// An event of the thread that seals: told, unless it asks what this half has asked already.
    pub fn sealing_says(&mut self, event: WorkerEvent, up: &mut dyn Up) {
        let peer = match &event {
            WorkerEvent::KeyUsage(name, _) => self.peers.get_mut(name.peer),
            _ => None,
        };
        if peer.is_none_or(|peer| peer.keys.is_news(&event)) {
            up.event(event);
        }
    }

    /// Sends with this key from now on.
    pub fn send_with(&mut self, name: KeyName, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(name.peer) {
            peer.keys.seal.send_with(name);
        }
        self.changed_keys(name.peer, up);
    }

    /// Forgets every key of this generation of the peer.
    pub fn drop_keys(&mut self, peer: u32, generation: u32, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(peer) {
            peer.keys.drop_keys(generation);
        }
        self.changed_keys(peer, up);
    }

    fn changed_keys(&mut self, peer: u32, up: &mut dyn Up) {
        if let Some(peer) = self.peers.get_mut(peer) {
            announce_keys(peer, up);
            self.deadlines.touch(peer);
        }
    }
}
