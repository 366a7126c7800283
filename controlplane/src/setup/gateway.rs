//! What a gateway gives and gets: its profile, the logins it has to judge, and what it answers. Plain data.

use serde::{Deserialize, Serialize};

use super::{Cipher, Digest, KeyLimits, Path, Secret, TlsSetup, Wrap};

/// What a server's profile asks of the control channel. Times in seconds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerSetup {
    /// The control channel's protection.
    pub wrap: Wrap,
    /// TLS. `ca_pem` may be empty where no client certificate is asked for.
    pub tls: TlsSetup,
    /// `verify-client-cert`
    pub client_certificate: ClientCertificate,
    /// `data-ciphers`, in order of preference.
    pub data_ciphers: Vec<Cipher>,
    /// `data-ciphers-fallback`, for clients that do not negotiate.
    pub fallback_cipher: Option<Cipher>,
    /// `auth`, for the options string.
    pub auth: Digest,
    /// `tun-mtu`, for the options string.
    pub tun_mtu: u16,
    /// `tls-timeout`
    pub tls_timeout: u32,
    /// `hand-window`: how long a handshake may take, and how long a login may wait for its answer.
    pub hand_window: u32,
    /// `tran-window`
    pub tran_window: u32,
    /// `reneg-sec`; 0 is off.
    pub reneg_sec: u32,
    /// `max-packet-size`, bytes.
    pub max_packet_size: u16,
    /// Usage limits of a data key.
    pub limits: KeyLimits,
    /// `max-clients`: no more sessions than this, complete or not; peer ids are below it. At most 2^24 - 1 counts.
    pub max_clients: u32,
    /// Secret of the stateless cookies, 32 random bytes. A process that takes over gets its predecessor's, so that it
    /// honours what that one answered.
    pub cookie_secret: Secret,
    /// `connect-freq-initial`: answers to resets, for each source prefix.
    pub replies: ReplyLimit,
    /// Data-plane workers; the one of a peer is `peer % workers`. 0 counts as 1.
    pub workers: u16,
    /// The first session's generation: 1, or above every generation that workers may still know from a control process
    /// that died. 0 counts as 1.
    pub first_generation: u32,
}

/// `verify-client-cert`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClientCertificate {
    /// `require`: no session without a good certificate.
    #[default]
    Require,
    /// `optional`: a certificate that is shown must be good.
    Optional,
    /// `none`: it is not asked for.
    None,
}

/// `connect-freq-initial count seconds`: so many answers to resets for each source prefix (/24 of IPv4, /56 of IPv6) in so
/// many seconds. A session that is established gives its answer back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplyLimit {
    /// How many.
    pub count: u32,
    /// In how many seconds; 0 counts as 1.
    pub seconds: u32,
}

impl Default for ReplyLimit {
    /// 100 in 10 s.
    fn default() -> ReplyLimit {
        ReplyLimit { count: 100, seconds: 10 }
    }
}

/// A client has shown who it is, in its first negotiation or a later one, and waits for `admit` or `refuse`. Nothing is
/// installed or pushed before.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// The session.
    pub generation: u32,
    /// The negotiation's number: 0 for the first.
    pub negotiation: u32,
    /// The worker's handle of the peer.
    pub peer: u32,
    /// Where the client is.
    pub path: Path,
    /// User name, at most 127 bytes, control characters replaced by `_`; empty when there is none. The same in every
    /// login of a session.
    pub username: String,
    /// Password or token, at most 4,095 bytes; empty when there is none.
    pub password: Secret,
    /// The certificate that was verified; `None` when none was asked for or shown.
    pub certificate: Option<ClientCertificateInfo>,
    /// `IV_`, `UV_` and further variables, at most 64; names of letters, digits and `_`, values without control characters.
    pub peer_info: Vec<(String, String)>,
    /// The data cipher agreed.
    pub cipher: Cipher,
    /// TLS version and cipher suite, for people.
    pub tls: String,
    /// The peer-id that is pushed; `None` for clients that cannot be given one (P_DATA_V1).
    pub wire_peer_id: Option<u32>,
}

/// A verified client certificate. Texts hold no control characters; those that a CA may make as long as it likes are cut
/// at 512 characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificateInfo {
    /// The last common name of the subject, 1 to 64 bytes.
    pub common_name: String,
    /// The subject as OpenVPN prints it: `C=…, O=…, CN=…`.
    pub subject: String,
    /// Serial number, decimal.
    pub serial: String,
    /// Serial number, bytes in lower-case hexadecimal with colons between them.
    pub serial_hex: String,
    /// SHA-1 of the DER.
    pub sha1: [u8; 20],
    /// SHA-256 of the DER.
    pub sha256: [u8; 32],
    /// End of validity, unix seconds.
    pub not_after: u64,
    /// Subjects of the chain, leaf first, up to the CA where `ca` holds it.
    pub chain_subjects: Vec<String>,
    /// Name fields of the leaf's subject in its order, at most 64: `("CN", "alice")`.
    pub fields: Vec<(String, String)>,
}

/// The answer to a login that is accepted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Admission {
    /// Options to push, in order, without those that are negotiated (peer-id, cipher, protocol-flags). Only the answer to
    /// the first login of a session is pushed.
    pub push: Vec<String>,
    /// A token that replaces the password from now on: pushed as `auth-token` with the first answer; after a renegotiation
    /// sent as a `PUSH_REPLY` of its own.
    pub token: Option<Secret>,
}

/// Who a session's client was at its first login. A later login that differs ends the session.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LoginLock {
    /// User name; empty when there is none.
    pub username: String,
    /// Common name of the certificate.
    pub common_name: Option<String>,
    /// SHA-256 of the certificate.
    pub certificate: Option<[u8; 32]>,
}
