//! What crosses the rings to and from the workers: datagrams, keys, and what is said about them. What the supervisor
//! and the control process say to each other is not here: the ends are generic over it, and its owner defines it.
//!
//! A message is a serde enum in postcard form. No pointer crosses, no descriptor crosses. A reader treats the
//! writer as an enemy: what it decodes is validated again before it is used. Secrets travel in [`Secret`], which
//! wipes itself and prints nothing.
//!
//! | from → to | type | class |
//! |---|---|---|
//! | supervisor → control process | the owner's `To` | command |
//! | control process → supervisor | the owner's `From` | command |
//! | worker → control process | [`Datagram`] | datagram, known or unknown source |
//! | worker → control process | [`WorkerEvent`] | command |
//! | control process → worker | [`Datagram`] | datagram (to be sent) |
//! | control process → worker | [`WorkerCommand`] | command |

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

/// Bytes that wipe themselves on drop and never print.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret({} bytes)", self.0.len())
    }
}

/// Where a datagram came in, or where one has to go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Path {
    /// The worker whose socket carried it.
    pub worker: u16,
    /// The local address that was asked, when the socket is not bound to one (gateway, `multihome`).
    pub local: Option<IpAddr>,
    /// The interface it came in on; 0 when unknown.
    pub ifindex: u32,
    /// The peer's transport address.
    pub remote: SocketAddr,
    /// The TCP connection it belongs to; `None` on UDP.
    pub stream: Option<u32>,
}

/// A control datagram (everything that is not P_DATA), on its way up or down. At most [`MAX_DATAGRAM`] bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Datagram<'a> {
    /// Its path.
    pub path: Path,
    /// The UDP payload.
    #[serde(borrow)]
    pub bytes: &'a [u8],
}

/// The longest control datagram that crosses a ring, in bytes. Longer ones are dropped and counted: stock sends at most 1,250.
pub const MAX_DATAGRAM: usize = 1_900;

/// Which key of which session. `generation` counts hard resets of one peer (given by the supervisor on a client, by the
/// listener on a gateway); `negotiation` counts key negotiations within it, without wrapping. A worker refuses a
/// `(generation, negotiation)` that is not greater than the last one it had from the same peer, so that no key is ever
/// installed twice. `key_id` is the wire's three bits: 0, then 1..=7 and round again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct KeyName {
    /// The worker's handle of the peer (the gateway's peer-id; 0 on a client).
    pub peer: u32,
    /// The session's generation.
    pub generation: u32,
    /// The negotiation's number within the generation, from 0.
    pub negotiation: u32,
    /// The three bits on the wire.
    pub key_id: u8,
}

/// A data-channel cipher that both planes know.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    /// AES-128-GCM
    Aes128Gcm,
    /// AES-192-GCM; not available on the `ring` backend
    Aes192Gcm,
    /// AES-256-GCM
    Aes256Gcm,
    /// CHACHA20-POLY1305
    ChaCha20Poly1305,
}

impl Cipher {
    /// Key length in bytes.
    pub const fn key_len(self) -> usize {
        match self {
            Cipher::Aes128Gcm => 16,
            Cipher::Aes192Gcm => 24,
            Cipher::Aes256Gcm | Cipher::ChaCha20Poly1305 => 32,
        }
    }

    /// The name on the wire and in configuration files.
    pub const fn name(self) -> &'static str {
        match self {
            Cipher::Aes128Gcm => "AES-128-GCM",
            Cipher::Aes192Gcm => "AES-192-GCM",
            Cipher::Aes256Gcm => "AES-256-GCM",
            Cipher::ChaCha20Poly1305 => "CHACHA20-POLY1305",
        }
    }
}

/// One direction's data key: the cipher key and the 8 bytes that follow the packet id in the nonce.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DirectionKey {
    /// `Cipher::key_len()` bytes.
    pub key: Secret,
    /// The implicit part of the nonce, 8 bytes.
    pub implicit_iv: Secret,
}

/// When a key asks for its successor, and when it stops. Every count is per direction and per key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyLimits {
    /// Ask for a renegotiation at this packet id (0xFF00_0000 on the wire's 32 bits).
    pub soft_packet_id: u32,
    /// Stop sealing after this packet id.
    pub hard_packet_id: u32,
    /// Ask after this many plaintext bytes in either direction (`reneg-bytes`); `u64::MAX` is off.
    pub soft_bytes: u64,
    /// Ask after this many packets in either direction (`reneg-pkts`); `u64::MAX` is off.
    pub soft_packets: u64,
    /// Ask after this many (16-byte blocks + packets) in either direction: ¾ of the AEAD limit; `u64::MAX` is off.
    pub soft_aead: u64,
    /// Stop sealing after this many (16-byte blocks + packets): the AEAD limit, 2^36 − 1 for AES-GCM.
    pub hard_aead: u64,
    /// Stop opening after this many packets that failed authentication: 2^36.
    pub hard_failures: u64,
}

/// Install a key pair in a worker. The worker answers [`WorkerEvent::KeyInstalled`] or [`WorkerEvent::KeyRefused`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstallKey {
    /// Its name.
    pub name: KeyName,
    /// The cipher of both directions.
    pub cipher: Cipher,
    /// The key we seal with.
    pub seal: DirectionKey,
    /// The key we open with.
    pub open: DirectionKey,
    /// `Some(peer-id)`: send P_DATA_V2 with it; `None`: send P_DATA_V1. Both are accepted.
    pub wire_peer_id: Option<u32>,
    /// Send with this key from this CLOCK_BOOTTIME instant on (nanoseconds), if no packet authenticated on it before.
    /// The first key of a generation sends at once.
    pub send_from_ns: u64,
    /// Open with the keys it replaces until this CLOCK_BOOTTIME instant (nanoseconds).
    pub retire_previous_ns: u64,
    /// When to ask for the next one.
    pub limits: KeyLimits,
}

/// Why a worker did not install a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyRefusal {
    /// No such peer, or the key is of another generation than the peer.
    UnknownPeer,
    /// The name is not newer than the last one: installing it could use a nonce twice.
    NotNewer,
    /// Wrong key lengths, or a cipher this build cannot do.
    BadKey,
}

/// Why a worker asks for a new key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum UsageReason {
    /// `soft_packet_id` was reached.
    PacketId,
    /// `soft_bytes` was reached.
    Bytes,
    /// `soft_packets` was reached.
    Packets,
    /// `soft_aead` was reached.
    AeadLimit,
}

/// What a worker tells the control process (commands: never dropped).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerEvent {
    /// The key opens and may seal from now on.
    KeyInstalled(KeyName),
    /// The key was not installed.
    KeyRefused(KeyName, KeyRefusal),
    /// The sending direction moved to this key.
    KeySending(KeyName),
    /// The key wants a successor. Said once per key.
    KeyUsage(KeyName, UsageReason),
    /// A gateway's peer moved after a packet from the new address authenticated.
    Floated {
        /// The worker's handle of the peer.
        peer: u32,
        /// Where it is now.
        path: Path,
    },
}

/// What the control process tells a worker (commands: never dropped).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerCommand {
    /// Install a key.
    InstallKey(InstallKey),
    /// Send with this key from now on (the next renegotiation begins).
    SendWith(KeyName),
    /// Forget every key of this generation of the peer.
    DropKeys {
        /// The worker's handle of the peer.
        peer: u32,
        /// The generation to forget.
        generation: u32,
    },
    /// A control packet of this peer was verified: it is alive.
    PeerAlive {
        /// The worker's handle of the peer.
        peer: u32,
    },
    /// The peer is there, whatever the worker reported with [`WorkerEvent::Floated`]: the move is refused, because the address is another
    /// peer's. For some seconds packets from the refused address are dropped, so that they do not move it again.
    SetPath {
        /// The worker's handle of the peer.
        peer: u32,
        /// Where its packets go to.
        path: Path,
    },
}
