//! The options string that both sides show each other (historically compared, today only logged). Its link-mtu
//! follows OpenVPN's historic formula, because old peers complain when it differs.

use crate::crypto::Digest;
use crate::ids::Role;
use crate::setup::{Cipher, Wrap};

/// What the options string is made of.
#[derive(Clone, Copy, Debug)]
pub struct OptionsInput<'a> {
    /// Whose string.
    pub role: Role,
    /// `cipher` as written; empty when unset.
    pub cipher: &'a str,
    /// `data-ciphers`: only a cipher that is listed here is announced.
    pub data_ciphers: &'a [Cipher],
    /// Whether options are pulled; without that, the cipher is announced in any case.
    pub pull: bool,
    /// `auth`
    pub auth: Digest,
    /// `tun-mtu`, bytes
    pub tun_mtu: u16,
    /// Whether the transport is TCP.
    pub tcp: bool,
    /// The control channel's protection.
    pub wrap: &'a Wrap,
}

/// Builds the string, without its final NUL.
pub fn options_string(input: &OptionsInput<'_>) -> String {
    let class = CipherClass::of(input.cipher);
    let link_mtu = usize::from(input.tun_mtu) + class.overhead(input.auth) + 1 + if input.tcp { 2 } else { 0 };
    let proto = match (input.tcp, input.role) {
        (false, _) => "UDPv4",
        (true, Role::Client) => "TCPv4_CLIENT",
        (true, Role::Server) => "TCPv4_SERVER",
    };
    let mut parts = vec![
        "V4".to_string(),
        "dev-type tun".into(),
        format!("link-mtu {link_mtu}"),
        format!("tun-mtu {}", input.tun_mtu),
        format!("proto {proto}"),
    ];
    let tls_auth = match input.wrap {
        Wrap::TlsAuth { direction, .. } => {
            parts.extend(direction.map(|d| format!("keydir {d}")));
            true
        }
        _ => false,
    };
    let listed = input.data_ciphers.iter().any(|c| c.name().eq_ignore_ascii_case(input.cipher));
    if listed || (!input.pull && !input.cipher.is_empty()) {
        parts.push(format!("cipher {}", input.cipher.to_ascii_uppercase()));
    }
    let auth = if matches!(class, CipherClass::Aead { .. }) { "[null-digest]" } else { input.auth.name() };
    parts.push(format!("auth {auth}"));
    parts.push(format!("keysize {}", key_bits(input.cipher)));
    if tls_auth {
        parts.push("tls-auth".into());
    }
    parts.push("key-method 2".into());
    parts.push(if input.role == Role::Client { "tls-client" } else { "tls-server" }.into());
    parts.join(",")
}

/// The cipher that a peer's options string names.
pub fn cipher_of(options: &str) -> Option<&str> {
    options.split(',').find_map(|part| part.strip_prefix("cipher "))
}

#[derive(Clone, Copy, Debug)]
enum CipherClass {
    None,
    Block { bytes: usize },
    Aead { block: usize },
}

impl CipherClass {
    fn of(name: &str) -> CipherClass {
        let name = name.to_ascii_uppercase();
        match name.as_str() {
            "NONE" => CipherClass::None,
            "CHACHA20-POLY1305" => CipherClass::Aead { block: 1 },
            n if n.ends_with("-GCM") => CipherClass::Aead { block: 16 },
            n if n.starts_with("AES-") || n.starts_with("CAMELLIA-") || n.starts_with("ARIA-") => {
                CipherClass::Block { bytes: 16 }
            }
            // Unset means BF-CBC here, which has blocks of 8 bytes, as have the other old ones.
            _ => CipherClass::Block { bytes: 8 },
        }
    }

    /// Packet id, IV, padding, tag or HMAC, in bytes.
    fn overhead(self, auth: Digest) -> usize {
        match self {
            CipherClass::None => 4 + auth.len(),
            CipherClass::Block { bytes } => 4 + bytes + bytes + auth.len(),
            CipherClass::Aead { block } => 4 + 16 + 12 + block,
        }
    }
}

fn key_bits(cipher: &str) -> usize {
    if let Some(known) = Cipher::from_name(cipher) {
        return known.key_len() * 8;
    }
    cipher.split('-').find_map(|part| part.parse().ok()).unwrap_or(128)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::setup::Secret;

    const LIST: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    fn input<'a>(cipher: &'a str, wrap: &'a Wrap) -> OptionsInput<'a> {
        OptionsInput {
            role: Role::Client,
            cipher,
            data_ciphers: &LIST,
            pull: true,
            auth: Digest::Sha1,
            tun_mtu: 1500,
            tcp: false,
            wrap,
        }
    }

    #[test]
    fn the_strings_are_those_of_stock_clients() {
        assert_eq!(
            options_string(&input("", &Wrap::None)),
            "V4,dev-type tun,link-mtu 1541,tun-mtu 1500,proto UDPv4,auth SHA1,keysize 128,key-method 2,tls-client"
        );
        assert_eq!(
            options_string(&input("AES-256-GCM", &Wrap::None)),
            "V4,dev-type tun,link-mtu 1549,tun-mtu 1500,proto UDPv4,cipher AES-256-GCM,auth [null-digest],keysize 256,\
             key-method 2,tls-client"
        );
        let wrap = Wrap::TlsAuth { key: Secret(vec![0; 256]), direction: Some(1), digest: Digest::Sha256 };
        let tls_auth = OptionsInput { auth: Digest::Sha256, ..input("", &wrap) };
        assert_eq!(
            options_string(&tls_auth),
            "V4,dev-type tun,link-mtu 1553,tun-mtu 1500,proto UDPv4,keydir 1,auth SHA256,keysize 128,tls-auth,\
             key-method 2,tls-client"
        );
    }

    #[test]
    fn link_mtu_follows_the_historic_formula() {
        let wrap = Wrap::None;
        let mtu = |cipher| {
            let s = options_string(&OptionsInput { tun_mtu: 1400, ..input(cipher, &wrap) });
            s.split(',').nth(2).map(str::to_owned)
        };
        assert_eq!(mtu("AES-128-CBC").as_deref(), Some("link-mtu 1457"));
        assert_eq!(mtu("AES-256-GCM").as_deref(), Some("link-mtu 1449"));
    }

    #[test]
    fn a_cipher_that_is_not_offered_is_not_announced_when_pulling() {
        let wrap = Wrap::None;
        assert_eq!(cipher_of(&options_string(&input("AES-128-CBC", &wrap))), None);
        let p2p = OptionsInput { pull: false, ..input("AES-128-CBC", &wrap) };
        assert_eq!(cipher_of(&options_string(&p2p)), Some("AES-128-CBC"));
    }

    #[test]
    fn the_peers_cipher_is_found_in_its_string() {
        assert_eq!(cipher_of("V4,dev-type tun,cipher AES-256-GCM,auth x"), Some("AES-256-GCM"));
        assert_eq!(cipher_of("V4,dev-type tun"), None);
    }
}
