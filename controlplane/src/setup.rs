//! What a caller gives and gets: profiles, paths, key names, keys to install, endings, resume records. Plain data
//! without behaviour; everything that decides something lives in another file.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop};

mod gateway;

pub use crate::crypto::Digest;
pub use gateway::{Admission, ClientCertificate, ClientCertificateInfo, Login, LoginLock, ReplyLimit, ServerSetup};

/// Bytes that wipe themselves on drop and never print.
#[derive(Clone, Default, PartialEq, Eq, Zeroize, ZeroizeOnDrop, Serialize, Deserialize)]
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
    /// The local address that was asked, when the socket is not bound to one.
    pub local: Option<IpAddr>,
    /// The interface it came in on; 0 when unknown.
    pub ifindex: u32,
    /// The peer's transport address.
    pub remote: SocketAddr,
    /// The TCP connection it belongs to; `None` on UDP.
    pub stream: Option<u32>,
}

/// Which key of which session. `generation` counts hard resets of one peer; `negotiation` counts key negotiations
/// within it, without wrapping; `key_id` is the wire's three bits: 0, then 1..=7 and round again.
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

/// A data-channel cipher.
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

    /// The cipher of that name; case does not matter.
    pub fn from_name(name: &str) -> Option<Cipher> {
        const ALL: [Cipher; 4] = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
        ALL.into_iter().find(|c| c.name().eq_ignore_ascii_case(name))
    }

    /// Whether this build's cryptographic backend has it (`ring` has no AES-192-GCM).
    pub const fn available(self) -> bool {
        !matches!(self, Cipher::Aes192Gcm) || cfg!(feature = "aws-lc")
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
    /// Ask for a renegotiation at this packet id.
    pub soft_packet_id: u32,
    /// Stop sealing after this packet id.
    pub hard_packet_id: u32,
    /// Ask after this many plaintext bytes in either direction (`reneg-bytes`); `u64::MAX` is off.
    pub soft_bytes: u64,
    /// Ask after this many packets in either direction (`reneg-pkts`); `u64::MAX` is off.
    pub soft_packets: u64,
    /// Ask after this many (16-byte blocks + packets) in either direction; `u64::MAX` is off.
    pub soft_aead: u64,
    /// Stop sealing after this many (16-byte blocks + packets).
    pub hard_aead: u64,
    /// Stop opening after this many packets that failed authentication.
    pub hard_failures: u64,
}

/// A key pair to be installed where packets are sealed and opened.
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

/// What a worker says about a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum KeyEvent {
    /// The key opens and may seal from now on.
    KeyInstalled(KeyName),
    /// The key was not installed.
    KeyRefused(KeyName, KeyRefusal),
    /// The sending direction moved to this key.
    KeySending(KeyName),
    /// The key wants a successor. Said once per key.
    KeyUsage(KeyName, UsageReason),
}

impl KeyEvent {
    /// The key it is about.
    pub const fn name(&self) -> KeyName {
        match *self {
            KeyEvent::KeyInstalled(n)
            | KeyEvent::KeyRefused(n, _)
            | KeyEvent::KeySending(n)
            | KeyEvent::KeyUsage(n, _) => n,
        }
    }
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
    /// Largest control packet with IP and UDP headers, in bytes (`max-packet-size`).
    pub max_packet_size: u16,
    /// Usage limits of a data key.
    pub limits: KeyLimits,
    /// `auth-nocache`: forget the password after it was sent (an auth-token may replace it).
    pub auth_nocache: bool,
}

/// `auth-user-pass`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Credentials {
    /// User name, at most 127 bytes.
    pub username: String,
    /// Password, at most 127 bytes (a token may be longer).
    pub password: Secret,
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

/// Where a client that was refused for now tries again (`AUTH_FAILED,TEMP[advance …]`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Advance {
    /// The same remote (`no`, and when nothing is said).
    #[default]
    Same,
    /// The next address of the same remote (`addr`).
    Address,
    /// The next remote (`remote`).
    Remote,
}

/// Who is to blame when a session ends, as far as we can see.
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
        /// Where to try again, when it is temporary.
        advance: Advance,
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
    /// Answer to `disconnect`: the peer has been told (or told as well as can be).
    Disconnected {
        /// True when EXIT went over the control channel; false when OCC exit must be sent on the data channel.
        exit_sent: bool,
    },
    /// As a server: the peer came back with a new session, which took this one's place.
    Replaced,
    /// Our own misuse or a limit of ours.
    Internal(String),
}

/// What a server pushed, option by option, not yet judged. At most 64 KiB of text in all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pushed {
    /// The options in order, without `PUSH_REPLY` and those that the control channel itself understood.
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

/// All that a new process needs to go on with a session by a SOFT_RESET. Replaced after every change. Holds no TLS
/// state: every soft reset opens a fresh TLS session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ResumeRecord {
    /// The session's generation.
    pub generation: u32,
    /// The worker's handle of the peer.
    pub peer: u32,
    /// False while a negotiation is under way (or before the first key): then a hard reset is needed.
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
    /// As a server: who the client was at its first login.
    pub login: Option<LoginLock>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cipher_names_are_found_whatever_their_case() {
        assert_eq!(Cipher::from_name("aes-256-gcm"), Some(Cipher::Aes256Gcm));
        assert_eq!(Cipher::from_name("CHACHA20-POLY1305"), Some(Cipher::ChaCha20Poly1305));
        assert_eq!(Cipher::from_name("BF-CBC"), None);
        assert_eq!(Cipher::from_name(""), None);
    }

    #[test]
    fn a_secret_does_not_print_itself() {
        assert_eq!(format!("{:?}", Secret(b"hunter2".to_vec())), "Secret(7 bytes)");
    }
}
