//! What a thread is told: orders of the supervisor, commands and datagrams of the control process, and, with the directions split,
//! what each of a worker's two threads has the other do.

use std::sync::Arc;
use std::sync::mpsc::TryRecvError;

use link::message::{Path, WorkerCommand};
use link::{LinkError, WorkerEnd};

use super::Worker;
use crate::pipeline::{PeerSetup, Pipeline};
use crate::sys::bell::Bell;
use crate::sys::socket::WireSocket;
use crate::sys::tundev::TunQueue;
use crate::sys::{Observer, Trouble};
use crate::tun::coalesce::TunOffload;
use crate::workers::halves::{Role, Said, SealingThread, Task};
use crate::workers::manager::{WorkerOrder, WorkerReport};

/// Commands, and datagrams, of the control process in one turn.
const LINK_BUDGET: usize = 64;

/// So many times that budget is granted to a link that is being replaced: more than its rings hold.
const LAST_WORDS: usize = 64;

impl Worker {
    /// Tells the thread that seals, if there is one, what the packets that came mean to it.
    pub(super) fn tell_sealing(&mut self) {
        let Role::Opens(seal) = &mut self.role else { return };
        if std::mem::take(&mut self.up.proven) {
            seal.ring();
        }
        for (peer, path) in self.up.moved.drain(..) {
            seal.hand(Task::Order(WorkerOrder::SetPath { peer, path }));
        }
    }

    /// Takes in what the thread that seals says.
    fn hear_sealing(&mut self) {
        let Role::Opens(seal) = &mut self.role else { return };
        while let Some(said) = seal.hear() {
            match said {
                Said::Installed(name, installed) => self.pipeline.installed(name, installed, &mut self.up),
                Said::Event(event) => self.pipeline.sealing_says(event, &mut self.up),
            }
        }
    }

    /// A key is on its way to the thread that seals.
    pub(super) fn is_installing(&self) -> bool {
        matches!(&self.role, Role::Opens(seal) if seal.is_installing())
    }

    /// What the control process wants. True when there was something.
    pub(super) fn serve_link(&mut self) -> bool {
        match self.serve() {
            Ok(any) => any,
            Err(error) => {
                self.drop_link(error);
                true
            }
        }
    }

    fn serve(&mut self) -> Result<bool, LinkError> {
        let mut any = false;
        for _ in 0..LINK_BUDGET {
            let Some(command) = self.next_command()? else {
                break;
            };
            any = true;
            // An order given before the command was sent is carried out before it: a peer is there before its key.
            self.heed_orders();
            self.obey(command);
        }
        let Some(link) = self.up.link.as_mut() else {
            return Ok(any);
        };
        for _ in 0..LINK_BUDGET {
            let Some(datagram) = link.recv_datagram()? else {
                break;
            };
            any = true;
            self.engine.send_datagram(&mut self.notes, &datagram.path, datagram.bytes);
            // Control packets keep the peer's timer as quiet as data does.
            if let Some(peer) = self.pipeline.peers.by_address(&datagram.path.remote) {
                self.pipeline.note_sent(self.now_ns, peer);
            }
        }
        link.flush()?;
        self.up.failed.take().map_or(Ok(any), Err)
    }

    fn next_command(&mut self) -> Result<Option<WorkerCommand>, LinkError> {
        // Commands are answered in their order, so none is taken before the last one is.
        if self.is_installing() {
            return Ok(None);
        }
        self.up.link.as_mut().map_or(Ok(None), WorkerEnd::recv_command)
    }

    fn obey(&mut self, command: WorkerCommand) {
        let Some(command) = self.share_command(command) else { return };
        match command {
            WorkerCommand::InstallKey(key) => self.pipeline.install_key(self.now_ns, key, &mut self.up),
            WorkerCommand::SendWith(name) => self.pipeline.send_with(name, &mut self.up),
            WorkerCommand::DropKeys { peer, generation } => self.pipeline.drop_keys(peer, generation, &mut self.up),
            WorkerCommand::PeerAlive { peer } => self.pipeline.peer_alive(self.now_ns, peer, &mut self.up),
            WorkerCommand::SetPath { peer, path } => _ = self.pipeline.move_back(self.now_ns, peer, path),
        }
    }

    /// Hands the thread that seals, if there is one, its part of a command; what is left for this thread.
    fn share_command(&mut self, command: WorkerCommand) -> Option<WorkerCommand> {
        let Role::Opens(seal) = &mut self.role else { return Some(command) };
        match command {
            // It opens here before it seals there, and is said to be installed when both have it.
            WorkerCommand::InstallKey(key) => match self.pipeline.install_opening(self.now_ns, &key) {
                Ok(sealing) => seal.hand(Task::Install(sealing)),
                Err(refusal) => self.pipeline.installed(key.name, Err(refusal), &mut self.up),
            },
            WorkerCommand::SendWith(name) => seal.hand(Task::SendWith(name)),
            WorkerCommand::DropKeys { peer, generation } => {
                seal.hand(Task::DropKeys { peer, generation });
                return Some(command);
            }
            WorkerCommand::SetPath { peer, path } => {
                seal.hand(Task::Order(WorkerOrder::SetPath { peer, path }));
                return Some(command);
            }
            WorkerCommand::PeerAlive { .. } => return Some(command),
        }
        None
    }

    fn drop_link(&mut self, error: LinkError) {
        self.up.link = None;
        // Without a link there is nothing to be woken for; an engine that cannot forget a bell only wakes too often.
        let _ = self.engine.watch_link(None);
        (self.up.report)(WorkerReport::LinkCorrupt(error.to_string()));
    }

    /// Carries out what was ordered; true when there was something.
    pub(super) fn heed_orders(&mut self) -> bool {
        if !self.bell.rang() {
            return false;
        }
        self.hear_sealing();
        loop {
            match self.inbox.try_recv() {
                Ok(Task::Order(WorkerOrder::Stop)) | Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return true;
                }
                Ok(Task::Order(order)) => {
                    if let Some(order) = self.share_order(order) {
                        self.carry_out(order);
                    }
                }
                Ok(task) => self.seal_task(task),
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    /// What the thread that opens has this one do.
    fn seal_task(&mut self, task: Task) {
        let now = self.now_ns;
        match task {
            Task::Order(order) => self.carry_out(order),
            Task::AddPeer(setup, crossing) => self.pipeline.add_sealing_peer(now, *setup, crossing),
            Task::Install(key) => {
                let name = key.name();
                let installed = self.pipeline.install_sealing(now, key);
                self.up.say(Said::Installed(name, installed));
            }
            Task::SendWith(name) => self.pipeline.send_with(name, &mut self.up),
            Task::DropKeys { peer, generation } => self.pipeline.drop_keys(peer, generation, &mut self.up),
            Task::FitPathMtu => self.fit_path_mtu(),
        }
    }

    /// Hands the thread that seals, if there is one, its part of an order; what is left for this thread.
    fn share_order(&mut self, order: WorkerOrder) -> Option<WorkerOrder> {
        let Role::Opens(seal) = &mut self.role else { return Some(order) };
        let part = match &order {
            WorkerOrder::AttachLink(_) | WorkerOrder::ReportWhenHeard { .. } | WorkerOrder::Stop => return Some(order),
            WorkerOrder::OccExit { .. } | WorkerOrder::PingNow { .. } | WorkerOrder::SetTunnel { .. } => {
                seal.hand(Task::Order(order));
                return None;
            }
            WorkerOrder::AddPeer(setup) => {
                add_peer(self.now_ns, setup, &mut self.pipeline, seal);
                return None;
            }
            WorkerOrder::AttachSocket { socket, path } => match socket.try_clone() {
                Ok(socket) => WorkerOrder::AttachSocket { socket, path: *path },
                Err(error) => {
                    self.notes.trouble(Trouble::Socket(error.raw_os_error().unwrap_or(0)));
                    WorkerOrder::DetachSocket
                }
            },
            WorkerOrder::AttachTun(tun) => match tun.try_clone() {
                Ok(tun) => WorkerOrder::AttachTun(tun),
                Err(error) => {
                    self.notes.trouble(Trouble::Tun(error.raw_os_error().unwrap_or(0)));
                    WorkerOrder::DetachTun
                }
            },
            WorkerOrder::DetachSocket => WorkerOrder::DetachSocket,
            WorkerOrder::DetachTun => WorkerOrder::DetachTun,
            WorkerOrder::UpdatePeer(setup) => {
                let (opens, seals) = halves(setup);
                seal.hand(Task::Order(WorkerOrder::UpdatePeer(Box::new(seals))));
                return Some(WorkerOrder::UpdatePeer(Box::new(opens)));
            }
            WorkerOrder::SetRoutes(routes) => WorkerOrder::SetRoutes(Arc::clone(routes)),
            // What this thread opened it cannot seal.
            WorkerOrder::SetRelay(_) => return None,
            WorkerOrder::SetPath { peer, path } => WorkerOrder::SetPath { peer: *peer, path: *path },
            WorkerOrder::RemovePeer { peer } => WorkerOrder::RemovePeer { peer: *peer },
        };
        seal.hand(Task::Order(part));
        Some(order)
    }

    fn carry_out(&mut self, order: WorkerOrder) {
        let now = self.now_ns;
        match order {
            // Between two commands of the old link is no place to leave it.
            WorkerOrder::AttachLink(link) => self.next_link = Some(link),
            WorkerOrder::AttachSocket { socket, path } => self.attach_socket(socket, path),
            WorkerOrder::DetachSocket => {
                self.engine.detach_socket();
                self.notes.has_socket = false;
            }
            WorkerOrder::AttachTun(tun) => self.attach_tun(tun),
            WorkerOrder::DetachTun => {
                self.engine.detach_tun();
                self.notes.has_tun = false;
            }
            WorkerOrder::SetTunnel { mtu, from } => self.pipeline.set_tunnel(mtu, from),
            WorkerOrder::AddPeer(setup) => self.pipeline.add_peer(now, *setup),
            // Orders about a peer that is gone meanwhile have nothing to change.
            WorkerOrder::UpdatePeer(setup) => _ = self.pipeline.update_peer(now, *setup),
            WorkerOrder::SetPath { peer, path } => _ = self.pipeline.set_path(peer, path),
            WorkerOrder::SetRoutes(routes) => self.pipeline.set_routes(routes),
            WorkerOrder::SetRelay(on) => self.pipeline.set_relay(on),
            WorkerOrder::RemovePeer { peer } => _ = self.pipeline.remove_peer(peer),
            WorkerOrder::OccExit { peer } => _ = self.pipeline.occ_exit(now, peer, &mut self.wire),
            WorkerOrder::PingNow { peer } => _ = self.pipeline.ping_now(now, peer, &mut self.wire),
            WorkerOrder::ReportWhenHeard { peer } => self.pipeline.listen_for(peer),
            WorkerOrder::Stop => {}
        }
        // Orders that follow may detach the socket: what this one wants sent goes first.
        self.flush_wire();
    }

    pub(super) fn attach_link(&mut self, link: Box<WorkerEnd>) {
        // Keys that the old control process sent are installed before it is forgotten. It should be dead; if it is not,
        // it does not keep us here. If it dies in the middle of a word, that is no news: its successor must not be blamed.
        for _ in 0..LAST_WORDS {
            if !matches!(self.serve(), Ok(true)) {
                break;
            }
        }
        if self.is_installing() {
            // There may be more of them behind that one.
            self.next_link = Some(link);
            return;
        }
        self.up.failed = None;
        self.up.link = None;
        match Bell::same_as(link.bell_fd()).and_then(|bell| self.engine.watch_link(Some(bell))) {
            Ok(()) => self.up.link = Some(*link),
            Err(error) => (self.up.report)(WorkerReport::LinkCorrupt(format!("its bell cannot be watched: {error}"))),
        }
    }

    fn attach_socket(&mut self, mut socket: WireSocket, path: Path) {
        let gso = self.offload.udp_gso && socket.gso();
        if !self.offload.udp_gro {
            socket.set_gro(false);
        }
        self.forbids_fragments = socket.forbids_fragments();
        (self.notes.offloads.udp_gso, self.notes.offloads.udp_gro) = (gso, socket.gro());
        self.engine.set_gso(gso);
        self.wire.set_gso(gso);
        self.notes.heard();
        self.notes.has_socket = true;
        if let Err(error) = self.engine.attach_socket(socket, path) {
            self.notes.trouble(Trouble::Socket(error.raw_os_error().unwrap_or(0)));
        }
        self.notes.offloads.zero_copy = self.engine.zero_copy();
        self.fit_path_mtu();
        self.notes.say_offloads();
    }

    fn attach_tun(&mut self, tun: TunQueue) {
        let offload = if self.offload.tun { tun.offload() } else { TunOffload::default() };
        self.tun.set_offload(offload);
        self.notes.offloads.tun = offload;
        self.notes.tun = None;
        self.notes.has_tun = true;
        if let Err(error) = self.engine.attach_tun(tun) {
            self.notes.trouble(Trouble::Tun(error.raw_os_error().unwrap_or(0)));
        }
        self.notes.say_offloads();
    }
}

/// The settings of the half that opens and of the half that seals: each has the timer of its own direction.
fn halves(setup: &PeerSetup) -> (PeerSetup, PeerSetup) {
    (PeerSetup { ping_s: 0, ..setup.clone() }, PeerSetup { ping_restart_s: 0, ..setup.clone() })
}

/// Adds a peer on both threads.
fn add_peer(now_ns: u64, setup: &PeerSetup, pipeline: &mut Pipeline, seal: &mut SealingThread) {
    let (opens, seals) = halves(setup);
    pipeline.add_peer(now_ns, opens);
    if let Some(peer) = pipeline.peers.get(setup.peer) {
        seal.hand(Task::AddPeer(Box::new(seals), Arc::clone(&peer.crossing)));
    }
}
