//! The two hot functions, [`Pipeline::outbound`] and [`Pipeline::inbound`], and the commands that change what they do.
//! No system call, no clock, no lock, no allocation on the packet path, no log line.
//!
//! Here is what a pipeline is made of and its settings; `outbound` and `inbound` are the two ways, `keys` and `upkeep` what is done between
//! packets.
//!
//! Stages outbound (TUN → network), one TUN read at a time:
//! 1. `plan`: virtio header and inner headers are consistent; how many packets it becomes
//! 2. destination → peer ([`routes`](crate::peers::routes)); what is too long is refused ([`too_big`](crate::tun::too_big))
//! 3. MSS of a SYN is clamped ([`mssfix`](crate::datachannel::mssfix))
//! 4. one reservation of packet ids for all of them ([`sealing`](crate::datachannel::sealing))
//! 5. per packet: headers and checksum ([`split`](crate::tun::split)), then sealed straight into the outgoing batch
//!    ([`aead`](crate::datachannel::aead))
//!
//! Stages inbound (network → TUN), one train of datagrams at a time:
//! 1. first byte → data, control or drop ([`packetmuxer`](crate::packetmuxer))
//! 2. peer by peer-id or address, key by key-id
//! 3. replay window: peek; open straight into the batch towards TUN; replay window: commit
//! 4. keepalive and exit stop here
//! 5. source address allowed; MSS of a SYN clamped
//! 6. for another peer, where peers may talk to each other: aside ([`relay`](crate::tun::relay)), and from there outbound
//! 7. joined to its flow's super-packet ([`coalesce`](crate::tun::coalesce))
//!
//! With several workers, what belongs to another one's peer leaves at stage 2 and goes on there at the same stage
//! ([`handover`](crate::workers::handover)).

mod inbound;
mod keys;
mod outbound;
mod upkeep;

use std::sync::Arc;

use link::message::{Path, WorkerEvent};

use crate::datachannel::aead::Aead;
use crate::datachannel::crossing::Crossing;
use crate::datachannel::mssfix::MssLimits;
use crate::networkio::gso::MAX_UDP_PAYLOAD;
use crate::peers::counters::PeerCounters;
use crate::peers::deadlines::Deadlines;
use crate::peers::routes::RouteTable;
use crate::peers::table::PeerTable;
use crate::tun::relay::RelayBatch;
use crate::tun::too_big::{AnswersFrom, TooBig};
use crate::workers::handover::Mates;
use crate::workers::stats::WorkerStats;

/// What the pipeline hands to its worker: all of it goes to a ring, none of it is on the packet path.
pub trait Up {
    /// A control datagram (anything that is not P_DATA). `known`: its source is the address of a peer.
    fn control(&mut self, path: Path, bytes: &[u8], known: bool);
    /// For the control process.
    fn event(&mut self, event: WorkerEvent);
    /// For the supervisor.
    fn report(&mut self, report: PeerReport);
    /// A packet authenticated on a newer key: where another thread seals, it may follow.
    fn proven(&mut self) {}
}

/// What the supervisor hears about a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerReport {
    /// Nothing authenticated came for `ping_restart_s`. Said once per silence.
    Silent {
        /// The worker's handle of the peer.
        peer: u32,
        /// How long it has been quiet, in nanoseconds.
        quiet_ns: u64,
    },
    /// The peer said that it goes away (OCC exit).
    OccExit {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// The first authenticated packet, of data or of the control channel, since the last [`Pipeline::listen_for`].
    FirstHeard {
        /// The worker's handle of the peer.
        peer: u32,
    },
}

/// Which inner source addresses a peer may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceRule {
    /// Any (a client trusts its server with every address).
    #[default]
    Any,
    /// Only those that the route table sends to this peer (a gateway's clients).
    Routed,
}

/// Everything about a peer but its keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerSetup {
    /// The worker's handle: a small number, dense (0 on a client, the peer-id on a gateway).
    pub peer: u32,
    /// The only generation whose keys it takes, so that no forged name makes those of its successors old; `None`: any.
    pub generation: Option<u32>,
    /// Where its packets come from and go to.
    pub path: Path,
    /// The peer-id that its P_DATA_V2 packets carry; `None`: only P_DATA_V1 (and peer-id 0xFFFFFF) from its address.
    pub wire_peer_id: Option<u32>,
    /// `replay-window n`: packets, 0 to 65,536; 0 means strictly in order. 8,192 by default.
    pub replay_window: u32,
    /// `replay-window n t`: seconds, 0 is off; 15 by default.
    pub replay_time_s: u32,
    /// `mssfix`; `None` is off.
    pub mssfix: Option<MssLimits>,
    /// `ping`: send a keepalive after so many seconds without sending; 0 is off.
    pub ping_s: u32,
    /// `ping-restart`: report silence after so many seconds without hearing; 0 is off.
    pub ping_restart_s: u32,
    /// Whether an authenticated packet from another address moves the peer there.
    pub float: bool,
    /// Which inner source addresses it may use.
    pub source: SourceRule,
    /// What is counted for it. The same ones again in every later setup of this peer, or its counts begin anew.
    pub counters: Arc<PeerCounters>,
}

/// What is the same for all peers of a worker.
#[derive(Clone, Debug, Default)]
pub struct PipelineConfig {
    /// Which inner destination belongs to which peer; a client's is [`RouteTable::all_to`].
    pub routes: RouteTable,
    /// What its keys are made with.
    pub aead: Aead,
}

/// [`Pipeline::outbound`] did nothing: send what is in the batch, clear it, and call again with the same frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchFull;

/// One worker's packet path. Times are CLOCK_BOOTTIME in nanoseconds.
#[derive(Debug)]
pub struct Pipeline {
    /// The peers.
    pub peers: PeerTable,
    routes: Arc<RouteTable>,
    aead: Aead,
    stats: Arc<WorkerStats>,
    too_big: TooBig,
    deadlines: Deadlines,
    /// Packets of a peer for another one; none where they go to the TUN like all others.
    relay: Option<Box<RelayBatch>>,
    mates: Mates,
}

const NS_PER_S: u64 = 1_000_000_000;

impl Pipeline {
    /// A pipeline without peers.
    pub fn new(stats: Arc<WorkerStats>, config: PipelineConfig) -> Self {
        let PipelineConfig { routes, aead } = config;
        Pipeline {
            peers: PeerTable::default(),
            routes: Arc::new(routes),
            aead,
            stats,
            too_big: TooBig::new(MAX_UDP_PAYLOAD),
            deadlines: Deadlines::default(),
            relay: None,
            mates: Mates::none(),
        }
    }

    /// The other workers, to which goes what is theirs. To be called before there are peers.
    pub fn set_mates(&mut self, mates: Mates) {
        self.peers.moves = mates.announces().then(Default::default);
        self.mates = mates;
    }

    /// Tells the others what they have to know and wakes those who have something to take. Call it once per turn. True: it could not tell
    /// all, call it again soon.
    #[inline]
    pub fn part(&mut self) -> bool {
        let mut left = false;
        if let Some(moves) = &mut self.peers.moves
            && !moves.is_empty()
        {
            self.mates.announce(moves);
            left = !moves.is_empty();
        }
        self.mates.wake();
        left
    }

    fn touch(&mut self, peer: u32) {
        if let Some(peer) = self.peers.get_mut(peer) {
            self.deadlines.touch(peer);
        }
    }

    /// Adds a peer, in the place of any that had its handle; that one's keys are gone. A handle that is not below
    /// [`MAX_PEERS`](crate::peers::table::MAX_PEERS) is ignored: its keys will be refused with [`KeyRefusal::UnknownPeer`](link::message::KeyRefusal::UnknownPeer).
    pub fn add_peer(&mut self, now_ns: u64, setup: PeerSetup) {
        let peer = setup.peer;
        self.peers.insert(now_ns, setup);
        self.added(peer);
    }

    fn added(&mut self, peer: u32) {
        self.deadlines.expect(self.peers.count());
        self.touch(peer);
    }

    /// The same on the thread that seals; `crossing` is that of the peer on the thread that opens.
    pub fn add_sealing_peer(&mut self, now_ns: u64, setup: PeerSetup, crossing: Arc<Crossing>) {
        let peer = setup.peer;
        self.peers.insert_half(now_ns, setup, crossing);
        self.added(peer);
    }

    /// Replaces a peer's settings; keys and timers stay. The replay window takes effect with the next key; a silence that was
    /// reported counts anew from now on. False: no such peer.
    pub fn update_peer(&mut self, now_ns: u64, setup: PeerSetup) -> bool {
        if let Some(peer) = self.peers.get_mut(setup.peer) {
            if peer.silence_reported {
                peer.set_awaited(peer.listening, false);
                peer.last_heard_ns = now_ns;
            }
            self.deadlines.touch(peer);
        }
        self.peers.update(setup)
    }

    /// Forgets a peer and its keys. False: no such peer.
    pub fn remove_peer(&mut self, peer: u32) -> bool {
        self.peers.remove(peer)
    }

    /// Moves a peer to another address. False: no such peer.
    pub fn set_path(&mut self, peer: u32, path: Path) -> bool {
        self.peers.set_path(peer, path)
    }

    /// Moves a peer back to where it was: the move that was reported is refused, and not repeated for some seconds. False: no such peer.
    pub fn move_back(&mut self, now_ns: u64, peer: u32, path: Path) -> bool {
        self.peers.move_back(now_ns, peer, path)
    }

    /// The longest UDP payload in bytes that may be sent, where the path forbids longer ones; `None`: whatever UDP carries.
    pub fn set_max_payload(&mut self, bytes: Option<usize>) {
        self.too_big.max_payload = bytes.unwrap_or(MAX_UDP_PAYLOAD).min(MAX_UDP_PAYLOAD);
    }

    /// The tunnel's MTU in bytes (`None`: no limit), and whom the answers to longer packets come from.
    pub fn set_tunnel(&mut self, mtu: Option<u16>, from: AnswersFrom) {
        self.too_big.tunnel_mtu = mtu.map_or(usize::MAX, usize::from);
        self.too_big.from = from;
    }

    /// What was refused for its length, and the answer that waits for the TUN.
    pub fn too_big(&mut self) -> &mut TooBig {
        &mut self.too_big
    }

    /// Replaces the table of inner addresses.
    pub fn set_routes(&mut self, routes: impl Into<Arc<RouteTable>>) {
        self.routes = routes.into();
    }
}

#[cfg(test)]
pub(crate) mod tests;
