//! What a start is given besides the configuration, and what comes of it.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::scripts::GatewayFacts;
use super::workers::Workers;
use crate::host::Interface;
use crate::host::gateway_link::Raised;

/// What is not in the configuration.
#[derive(Default)]
pub struct Extras {
    /// What the gateway is called: in the names of its journal, its socket and its firewall table.
    pub name: String,
    /// `gateway up`: forwarding is switched on, and a firewall table keeps clients apart. `gateway run` leaves the host's
    /// forwarding and firewall alone.
    pub forwarding: bool,
    /// With [`Extras::forwarding`]: that table masquerades the pool as well.
    pub nat: bool,
    /// The state directory, of a gateway that has one.
    pub state: Option<PathBuf>,
    /// Called once, when clients can connect.
    pub ready: Option<Ready>,
}

/// What [`Extras::ready`] is called with the facts of.
pub type Ready = Box<dyn FnOnce(&Started)>;

impl fmt::Debug for Extras {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Extras")
            .field("name", &self.name)
            .field("forwarding", &self.forwarding)
            .field("nat", &self.nat)
            .finish_non_exhaustive()
    }
}

/// What came of a start, for a checklist.
#[derive(Clone, Debug, Default)]
pub struct Started {
    /// The TUN device.
    pub device: String,
    /// Where clients are awaited.
    pub listen: Option<SocketAddr>,
    /// The changes of the host, as phrases.
    pub changes: Vec<String>,
    /// What is not as it was wanted, a sentence each.
    pub notes: Vec<String>,
    /// Engine and AEAD of the workers, and why not something faster; whether they hand packets over because the kernel does not steer.
    pub data_path: Vec<String>,
    /// Where commands are taken; `None` when there is no socket.
    pub socket: Option<PathBuf>,
}

/// What a gateway knows of itself.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// What it is called.
    pub(super) name: String,
    /// Where it listens.
    pub(super) listen: SocketAddr,
    /// What scripts are told.
    pub(super) gateway: GatewayFacts,
}

pub(super) fn started(
    interface: &Interface,
    listen: SocketAddr,
    raised: &Raised,
    workers: &Workers,
    socket: Option<PathBuf>,
) -> Started {
    let mut data_path: Vec<String> = Vec::new();
    for (_, handle, _) in workers.each() {
        for line in [handle.engine().to_string(), handle.aead().to_string()] {
            if !data_path.contains(&line) {
                data_path.push(line);
            }
        }
    }
    data_path.extend(workers.handing_over().map(str::to_owned));
    Started {
        device: interface.name.clone(),
        listen: Some(listen),
        changes: raised.applied.changes().map(|change| change.doing()).collect(),
        notes: raised.notes.clone(),
        data_path,
        socket,
    }
}
