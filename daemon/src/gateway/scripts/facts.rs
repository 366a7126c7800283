//! What scripts are told: about the gateway, a login, a session. Only values; how they are named in the environment is
//! `environment.rs`'s matter.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use controlplane::Secret;

/// What every script is told about the gateway.
#[derive(Clone, Debug, Default)]
pub struct GatewayFacts {
    /// The configuration file as it was named.
    pub config: String,
    /// The TUN device's name.
    pub device: String,
    /// `tun-mtu`, in bytes.
    pub tun_mtu: u32,
    /// The port listened on.
    pub local_port: u16,
    /// The TUN device's IPv4 address, with its netmask (`topology subnet`) or its remote end (`net30`, `p2p`).
    pub ipv4: Option<Inner4>,
    /// The TUN device's IPv6 address, its remote end where it has one, and the length of the prefix in bits.
    pub ipv6: Option<Inner6>,
    /// `verb`
    pub verb: u8,
    /// When the gateway began, in seconds since 1970.
    pub since: u64,
    /// `setenv` of the configuration.
    pub setenv: Vec<(String, String)>,
}

/// An IPv4 address and what stands beside it in `ifconfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner4 {
    /// The address.
    pub address: Ipv4Addr,
    /// The netmask or the other end.
    pub beside: Beside4,
}

/// The second word of `ifconfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Beside4 {
    /// `topology subnet`
    Netmask(Ipv4Addr),
    /// `topology net30` and `p2p`
    OtherEnd(Ipv4Addr),
}

/// An IPv6 address with the length of its prefix, and the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inner6 {
    /// The address.
    pub address: Ipv6Addr,
    /// Bits.
    pub prefix: u8,
    /// The other end.
    pub other_end: Ipv6Addr,
}

/// A certificate chain that was verified.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Its certificates, the client's first.
    pub chain: Vec<CertificateRow>,
}

/// One certificate. What is not known is not told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CertificateRow {
    /// The subject as OpenVPN prints it: `C=DE, O=Example, CN=alice`.
    pub subject: String,
    /// The serial number, decimal.
    pub serial: Option<String>,
    /// The serial number, hexadecimal with colons.
    pub serial_hex: Option<String>,
    /// SHA-1 of the certificate.
    pub sha1: Option<[u8; 20]>,
    /// SHA-256 of the certificate.
    pub sha256: Option<[u8; 32]>,
    /// The fields of the subject, in their order: `("CN", "alice")`.
    pub fields: Vec<(String, String)>,
}

/// What is known when a client logs in, and when it renegotiates.
#[derive(Clone, Debug)]
pub struct LoginFacts {
    /// The common name of its certificate; empty without one.
    pub common_name: String,
    /// The user name; empty without one.
    pub username: String,
    /// The password, or the token that stands for it.
    pub password: Secret,
    /// Its address in the outer network.
    pub remote: SocketAddr,
    /// Its certificates.
    pub certificate: Option<CertificateFacts>,
    /// What it said about itself (`IV_*`, `UV_*`).
    pub peer_info: Vec<(String, String)>,
    /// The token's session and what the password was; only with `auth-gen-token`.
    pub token: Option<TokenFacts>,
    /// Its traffic flows: it renegotiates.
    pub is_in: bool,
}

/// Of `auth-gen-token`, for the environment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenFacts {
    /// `session_id`
    pub session_id: String,
    /// `session_state`
    pub session_state: &'static str,
}

/// What is known of a client whose login was accepted.
#[derive(Clone, Debug)]
pub struct SessionFacts {
    /// Its login; the password is never told again.
    pub login: LoginFacts,
    /// When it logged in, in seconds since 1970.
    pub since: u64,
    /// The IPv4 address it is given.
    pub ipv4: Option<Inner4>,
    /// The IPv6 address it is given; `other_end` is the gateway's.
    pub ipv6: Option<Inner6>,
}

/// What a session came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes from the client.
    pub bytes_received: u64,
    /// Bytes to the client.
    pub bytes_sent: u64,
    /// Its length in seconds.
    pub seconds: u64,
}

/// What happens to an inner address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Learned {
    /// A client got it.
    Add,
    /// Another client has it now.
    Update,
    /// Nobody has it any more.
    Delete,
}

impl Learned {
    /// The script's first argument.
    pub fn word(&self) -> &'static str {
        match self {
            Learned::Add => "add",
            Learned::Update => "update",
            Learned::Delete => "delete",
        }
    }
}
