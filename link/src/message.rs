//! What crosses the rings: every message between the supervisor, the control process and the workers.
//!
//! A message is a serde enum in postcard form. No pointer crosses, no descriptor crosses. A reader treats the
//! writer as an enemy: what it decodes is validated again before it is used. Secrets travel in [`Secret`], which
//! wipes itself and prints nothing.
//!
//! | from → to | type | class |
//! |---|---|---|
//! | supervisor → control process | [`ToControl`] | command |
//! | control process → supervisor | [`FromControl`] | command |
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
    /// No such peer.
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
}

/// The protection of the control channel.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wrap {
    /// None.
    None,
    /// `tls-auth`
    TlsAuth {
        /// The 256 bytes of the static key.
        key: Secret,
        /// `key-direction`; `None` is bidirectional.
        direction: Option<u8>,
        /// The digest of `auth`.
        digest: Digest,
    },
    /// `tls-crypt`
    TlsCrypt {
        /// The 256 bytes of the static key.
        key: Secret,
    },
}

/// The digest of `auth`, as tls-auth uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Digest {
    /// SHA1, the default
    Sha1,
    /// SHA256
    Sha256,
    /// SHA384
    Sha384,
    /// SHA512
    Sha512,
}

/// `verify-x509-name` and its type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerifyName {
    /// The whole subject, as OpenVPN prints it (`C=…, O=…, CN=…`).
    Subject(String),
    /// The common name.
    Name(String),
    /// A prefix of the common name.
    NamePrefix(String),
}

/// What the peer's certificate must be for (`remote-cert-tls`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PeerUsage {
    /// `remote-cert-tls server`
    Server,
    /// `remote-cert-tls client`
    Client,
}

/// A TLS protocol version (`tls-version-min`, `tls-version-max`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TlsVersion {
    /// TLS 1.2
    V1_2,
    /// TLS 1.3
    V1_3,
}

/// The TLS identity and what the peer's must be. PEM texts as they stood in the profile.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsSetup {
    /// `<ca>`: one or more certificates.
    pub ca_pem: String,
    /// `<cert>` (and `<extra-certs>`): our chain, leaf first; empty when the profile has none.
    pub cert_pem: String,
    /// `<key>`: PKCS#8, PKCS#1 or SEC1.
    pub key_pem: Secret,
    /// `crl-verify`: one or more CRLs.
    pub crl_pem: Option<String>,
    /// `remote-cert-tls`
    pub peer_usage: Option<PeerUsage>,
    /// `verify-x509-name`
    pub verify_name: Option<VerifyName>,
    /// `peer-fingerprint`: SHA-256 of the peer's leaf; when present without `<ca>`, no chain is built.
    pub fingerprints: Vec<[u8; 32]>,
    /// `tls-version-min`
    pub version_min: TlsVersion,
    /// `tls-version-max`
    pub version_max: TlsVersion,
}

/// What a client profile asks of the control channel. Times in seconds unless said otherwise.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientSetup {
    /// The control channel's protection.
    pub wrap: Wrap,
    /// TLS.
    pub tls: TlsSetup,
    /// `data-ciphers`, in order of preference (on a client: what is offered and accepted).
    pub data_ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback` (or an old `cipher`), for peers that do not negotiate.
    pub fallback_cipher: Option<Cipher>,
    /// `cipher` as written, for the options string; empty when unset.
    pub options_cipher: String,
    /// `auth`, for the options string.
    pub auth: Digest,
    /// `tun-mtu`, for the options string.
    pub tun_mtu: u16,
    /// Whether to pull options from the server (`client`, `pull`).
    pub pull: bool,
    /// `IV_PROTO` bits to clear: tests act as an older peer.
    pub iv_proto_mask: u32,
    /// `push-peer-info`: UV_ and host variables, `NAME=value`.
    pub peer_info: Vec<(String, String)>,
    /// `tls-timeout`: first retransmission after this many seconds.
    pub tls_timeout: u32,
    /// `hand-window`
    pub hand_window: u32,
    /// `tran-window`
    pub tran_window: u32,
    /// `reneg-sec`; 0 is off.
    pub reneg_sec: u32,
    /// Largest control packet with IP and UDP headers (`max-packet-size`).
    pub max_packet_size: u16,
    /// Usage limits of a data key.
    pub limits: KeyLimits,
    /// `auth-nocache`: forget the password after it was sent (an auth-token may replace it).
    pub auth_nocache: bool,
}

/// `auth-user-pass`. A fresh copy comes with each [`ToControl::Connect`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User name, at most 127 bytes.
    pub username: String,
    /// Password, at most 127 bytes (a token may be longer).
    pub password: Secret,
}

/// What the supervisor tells the control process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToControl {
    /// First message to a client's control process.
    ConfigureClient(Box<ClientSetup>),
    /// Begin a session with a hard reset.
    Connect {
        /// A number never given before in this run.
        generation: u32,
        /// Where.
        path: Path,
        /// User name and password, when the profile asks for them.
        credentials: Option<Credentials>,
    },
    /// Go on with a session of a control process that died, by a SOFT_RESET.
    Resume {
        /// The last [`FromControl::Record`] of the session.
        record: Box<ResumeRecord>,
        /// Where the peer is now.
        path: Path,
        /// As in `Connect`.
        credentials: Option<Credentials>,
    },
    /// Our address changed, or the peer's: send to this path from now on.
    Rebind {
        /// The session.
        generation: u32,
        /// The new path.
        path: Path,
    },
    /// Tell the peer that we leave (EXIT when negotiated; the worker sends OCC exit otherwise), then answer
    /// [`FromControl::Ended`].
    Disconnect {
        /// The session.
        generation: u32,
    },
    /// Drop the session without a word (a new one will replace it).
    Forget {
        /// The session.
        generation: u32,
    },
    /// Renegotiate the key now (tests and `SIGUSR2`-like commands).
    Renegotiate {
        /// The session.
        generation: u32,
    },
}

/// Session states, by the names of OpenVPN's management interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum State {
    /// A reset was sent.
    Wait,
    /// The peer answered; TLS and key exchange.
    Auth,
    /// PUSH_REQUEST was sent.
    GetConfig,
    /// The server asked us to wait for its authentication (`AUTH_PENDING`).
    AuthPending,
}

/// Who is to blame when a session ends, as far as we can see. Decides the exit code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ending {
    /// The server refused us: `AUTH_FAILED` and its reason.
    AuthFailed {
        /// The server's words, printable.
        reason: String,
        /// `Some(seconds)`: temporary, try again after that long (`AUTH_FAILED,TEMP`).
        retry_after: Option<u32>,
        /// The refusal concerned a session token: drop it and try with the password.
        session_token: bool,
    },
    /// TLS or a certificate check failed on our side: the sentence says what and what to do.
    Tls(String),
    /// We and the peer cannot agree (cipher, protocol): the sentence says what to change.
    Incompatible(String),
    /// No answer to our resets within `hand-window`.
    Unanswered,
    /// The peer answered, but the negotiation did not complete within `hand-window`.
    HandshakeTimeout {
        /// What was awaited.
        awaiting: String,
    },
    /// `RESTART`: connect again.
    Restart {
        /// The server's words.
        message: String,
        /// Try the next remote.
        next_remote: bool,
    },
    /// `HALT`: do not connect again.
    Halt(String),
    /// The peer said EXIT.
    PeerExited,
    /// Answer to `Disconnect`: the peer has been told (or told as well as can be).
    Disconnected {
        /// True when EXIT went over the control channel; false when the worker must send OCC exit.
        exit_sent: bool,
    },
    /// Our own misuse or a limit of ours.
    Internal(String),
}

/// What a server pushed, option by option, syntax checked but not yet judged. At most 64 KiB of text in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The options in order, without `PUSH_REPLY` and `push-continuation`.
    pub options: Vec<String>,
}

/// A session has keys and settings: the tunnel can be brought up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Established {
    /// The session.
    pub generation: u32,
    /// What the server pushed.
    pub pushed: Pushed,
    /// The data cipher agreed.
    pub cipher: Cipher,
    /// The peer-id that the server gave us.
    pub peer_id: Option<u32>,
    /// TLS version and cipher suite, for people.
    pub tls: String,
    /// The peer's certificate subject, for people.
    pub peer_subject: String,
    /// The server can be told EXIT on the control channel (`cc-exit`).
    pub cc_exit: bool,
}

/// What the control process tells the supervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FromControl {
    /// It is sandboxed and has taken its configuration.
    Ready,
    /// The configuration cannot be used (a key that does not parse, a certificate of ours that expired): fatal, with blame.
    Refused(Ending),
    /// A session changed state.
    State {
        /// The session.
        generation: u32,
        /// Now.
        state: State,
    },
    /// A session can carry data.
    Established(Box<Established>),
    /// A renegotiation completed and its key is installed.
    Renegotiated {
        /// The key.
        name: KeyName,
    },
    /// A renegotiation did not complete in time; the old key goes on and another attempt follows.
    RenegotiationFailed {
        /// The session.
        generation: u32,
        /// Why.
        why: String,
    },
    /// New resume record: replaces the last one of this generation.
    Record(Box<ResumeRecord>),
    /// `INFO`, `INFO_PRE`, `ECHO` and the like: text for people.
    Info {
        /// The session.
        generation: u32,
        /// Printable text.
        text: String,
    },
    /// The server gave a token that replaces the password (kept for reconnects).
    AuthToken {
        /// The session.
        generation: u32,
        /// The token.
        token: Secret,
        /// `auth-token-user`, when pushed.
        username: Option<String>,
    },
    /// A session ended.
    Ended {
        /// The session.
        generation: u32,
        /// Why.
        ending: Ending,
    },
    /// Control datagrams that were not accepted, by reason (at most one message a second; counters, not events).
    Dropped {
        /// `(reason, count since the last message)`
        counts: Vec<(String, u64)>,
    },
}

/// All that a new control process needs to go on with a session by a SOFT_RESET. Replaced after every change. Holds no TLS state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeRecord {
    /// The session's generation.
    pub generation: u32,
    /// The worker's handle of the peer.
    pub peer: u32,
    /// A negotiation was under way that cannot be resumed (no key 0 yet): a hard reset is needed.
    pub resumable: bool,
    /// Our session id.
    pub local_sid: [u8; 8],
    /// The peer's.
    pub remote_sid: [u8; 8],
    /// The first negotiation number that was never begun.
    pub next_negotiation: u32,
    /// The key-id that goes with it.
    pub next_key_id: u8,
    /// The agreed cipher.
    pub cipher: Cipher,
    /// Exporter keys (true) or TLS1-PRF (false).
    pub use_exporter: bool,
    /// The server can be told EXIT on the control channel.
    pub cc_exit: bool,
    /// Our peer-id on the wire.
    pub wire_peer_id: Option<u32>,
    /// Session token, when the server gave one.
    pub auth_token: Option<Secret>,
    /// `auth-token-user`.
    pub auth_token_user: Option<String>,
    /// First wrap packet id that was never used: reserved ahead, so that none is used twice.
    pub wrap_send_next: u32,
    /// The timestamp that goes with the wrap's packet ids (unix seconds).
    pub wrap_send_time: u32,
    /// The peer's highest wrap packet id and its timestamp: nothing at or below it is accepted after a resume.
    pub wrap_recv: Option<(u32, u32)>,
}
