//! Peer info: the `NAME=value` lines by which a client says what it can do. Only what works is advertised.

use crate::setup::Cipher;

/// Bits of IV_PROTO (OpenVPN wire protocol, peer info).
pub mod iv_proto {
    /// P_DATA_V2 with a peer-id.
    pub const DATA_V2: u32 = 1 << 1;
    /// The server may push without being asked.
    pub const REQUEST_PUSH: u32 = 1 << 2;
    /// Data keys by the TLS exporter.
    pub const TLS_KEY_EXPORT: u32 = 1 << 3;
    /// `AUTH_PENDING,timeout n` is understood.
    pub const AUTH_PENDING_KW: u32 = 1 << 4;
    /// EXIT on the control channel, and `protocol-flags`.
    pub const CC_EXIT_NOTIFY: u32 = 1 << 7;
    /// `AUTH_FAILED,TEMP` is understood.
    pub const AUTH_FAIL_TEMP: u32 = 1 << 8;
    /// All that works here.
    pub const ALL: u32 = DATA_V2 | REQUEST_PUSH | TLS_KEY_EXPORT | AUTH_PENDING_KW | CC_EXIT_NOTIFY | AUTH_FAIL_TEMP;
}

/// The largest `tun-mtu` that a server may push, in bytes.
pub const MAX_TUN_MTU: u16 = 1600;

/// The client's lines. `mask` holds IV_PROTO bits to clear; `extra` are further `NAME=value` pairs, of which those
/// that could not stand on a line of their own are left out.
pub fn build(ciphers: &[Cipher], mask: u32, extra: &[(String, String)]) -> String {
    let names: Vec<&str> = ciphers.iter().map(|c| c.name()).collect();
    let mut lines = vec![
        format!("IV_VER={}", env!("CARGO_PKG_VERSION")),
        "IV_PLAT=linux".into(),
        "IV_TCPNL=1".into(),
        format!("IV_MTU={MAX_TUN_MTU}"),
    ];
    // By its definition IV_NCP=2 promises both of these.
    if ciphers.contains(&Cipher::Aes128Gcm) && ciphers.contains(&Cipher::Aes256Gcm) {
        lines.push("IV_NCP=2".into());
    }
    lines.push(format!("IV_CIPHERS={}", names.join(":")));
    lines.push(format!("IV_PROTO={}", iv_proto::ALL & !mask));
    let plain = |s: &str| s.chars().all(|c| !c.is_control());
    for (name, value) in extra {
        let known = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
        if known && plain(value) {
            lines.push(format!("{name}={value}"));
        }
    }
    lines.push(String::new());
    lines.join("\n")
}

/// The most variables of one client that are handed on.
const MAX_PAIRS: usize = 64;

/// A client's lines as pairs, for scripts and people: at most 64, names of letters, digits and `_`, values without control
/// characters. Others are left out.
pub fn pairs(text: &str) -> Vec<(String, String)> {
    let named = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    text.lines()
        .filter_map(|line| line.split_once('='))
        .filter(|(name, value)| named(name) && !value.contains(char::is_control))
        .take(MAX_PAIRS)
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// What a server reads in a client's lines.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerInfo {
    /// IV_PROTO; 0 when not given.
    pub proto: u32,
    /// IV_CIPHERS; `None` when not given.
    pub ciphers: Option<Vec<String>>,
    /// IV_NCP; 0 when not given.
    pub ncp: u32,
    /// IV_MTU, bytes.
    pub mtu: Option<u16>,
}

impl PeerInfo {
    /// Reads the lines; unknown and malformed ones are ignored.
    pub fn parse(text: &str) -> PeerInfo {
        let mut info = PeerInfo::default();
        for (name, value) in text.lines().filter_map(|line| line.split_once('=')) {
            match name {
                "IV_PROTO" => info.proto = value.parse().unwrap_or(0),
                "IV_NCP" => info.ncp = value.parse().unwrap_or(0),
                "IV_MTU" => info.mtu = value.parse().ok(),
                "IV_CIPHERS" => info.ciphers = Some(value.split(':').map(str::to_owned).collect()),
                _ => {}
            }
        }
        info
    }

    /// The server's choice: its first cipher that the client has; `occ` is the cipher of the client's options
    /// string, `fallback` is `data-ciphers-fallback`. `None` when nothing is shared.
    pub fn choose(&self, ours: &[Cipher], occ: Option<&str>, fallback: Option<Cipher>) -> Option<Cipher> {
        let theirs: Vec<Cipher> = match &self.ciphers {
            Some(names) => names.iter().filter_map(|n| Cipher::from_name(n)).collect(),
            None => {
                let old = if self.ncp >= 2 { vec![Cipher::Aes256Gcm, Cipher::Aes128Gcm] } else { Vec::new() };
                old.into_iter().chain(occ.and_then(Cipher::from_name)).collect()
            }
        };
        let shared = ours.iter().copied().find(|c| theirs.contains(c));
        let negotiates = self.ciphers.is_some() || self.ncp >= 2;
        shared.or(if negotiates { None } else { fallback }).filter(|c| c.available())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: [Cipher; 2] = [Cipher::Aes256Gcm, Cipher::Aes128Gcm];

    #[test]
    fn a_client_advertises_only_what_works() {
        let text = build(&BOTH, 0, &[("UV_X".into(), "1".into())]);
        assert!(text.ends_with("IV_NCP=2\nIV_CIPHERS=AES-256-GCM:AES-128-GCM\nIV_PROTO=414\nUV_X=1\n"), "{text}");
        let masked = PeerInfo::parse(&build(&BOTH[..1], iv_proto::TLS_KEY_EXPORT | iv_proto::DATA_V2, &[]));
        assert_eq!(masked.proto, 404);
        assert_eq!(masked.ncp, 0, "IV_NCP=2 would promise AES-128-GCM as well");
    }

    #[test]
    fn a_clients_lines_become_pairs_that_a_script_can_bear() {
        let text = "IV_VER=2.6.14\nUV_X=a=b\n=1\nA B=1\nnothing\nUV_C=\u{7f}\nUV_D=";
        let expected = [("IV_VER", "2.6.14"), ("UV_X", "a=b"), ("UV_D", "")];
        let got = pairs(text);
        assert_eq!(got.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>(), expected);
        assert_eq!(pairs(&"A=1\n".repeat(1_000)).len(), 64);
    }

    #[test]
    fn a_line_cannot_be_smuggled_in() {
        let extra = [("UV_A".into(), "x\nIV_PROTO=0".into()), ("A B".into(), "1".into()), (String::new(), "1".into())];
        let text = build(&BOTH, 0, &extra);
        assert!(!text.contains("UV_A") && !text.contains("A B") && !text.contains("\n="), "{text}");
        assert_eq!(PeerInfo::parse(&text).proto, iv_proto::ALL);
    }

    #[test]
    fn names_are_read_exactly() {
        let info = PeerInfo::parse("UV_IV_PROTO=773\nIV_PROTO=x\nIV_MTU=99999\nnonsense\n");
        assert_eq!(info, PeerInfo::default());
    }

    #[test]
    fn the_server_chooses_its_first_cipher_that_the_client_has() {
        let chacha = Cipher::ChaCha20Poly1305;
        let with = |text: &str| PeerInfo::parse(text);
        assert_eq!(with("IV_CIPHERS=AES-128-GCM").choose(&BOTH, Some("AES-256-GCM"), None), Some(Cipher::Aes128Gcm));
        assert_eq!(
            with("IV_NCP=2").choose(&[chacha, Cipher::Aes128Gcm], Some("CHACHA20-POLY1305"), None),
            Some(chacha)
        );
        assert_eq!(with("IV_NCP=2").choose(&BOTH, None, None), Some(Cipher::Aes256Gcm));
        assert_eq!(with("").choose(&BOTH, Some("BF-CBC"), None), None);
        assert_eq!(with("").choose(&BOTH, Some("BF-CBC"), Some(chacha)), Some(chacha));
        assert_eq!(with("IV_CIPHERS=BF-CBC").choose(&BOTH, None, Some(chacha)), None);
    }
}
