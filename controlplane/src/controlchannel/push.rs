//! PUSH_REPLY: collected over its parts, its options separated; those that concern the control channel itself are
//! understood here, all others are handed on as text.

use crate::controlchannel::key_method::{MAX_PASSWORD, MAX_USERNAME};
use crate::controlchannel::message::words;
use crate::setup::{Cipher, Pushed, Secret};

/// The most text that one server may push, in bytes.
pub const MAX_PUSHED: usize = 64 * 1024;
/// The most bytes of one PUSH_REPLY message that a server sends, so that stock clients take it.
pub const PART_BYTES: usize = 940;

/// A complete PUSH_REPLY.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PushReply {
    /// What the caller has to judge.
    pub pushed: Pushed,
    /// `cipher`
    pub cipher: Option<String>,
    /// `peer-id`; `None` when not pushed or switched off (-1, 16777215).
    pub peer_id: Option<u32>,
    /// `tls-ekm` by either option.
    pub tls_ekm: bool,
    /// `protocol-flags cc-exit`
    pub cc_exit: bool,
    /// A word of `protocol-flags` or `key-derivation` that is not understood and changes the wire.
    pub unknown_flag: Option<String>,
    /// `auth-token`
    pub auth_token: Option<Secret>,
    /// `auth-token-user`, decoded.
    pub auth_token_user: Option<String>,
}

/// Why a PUSH_REPLY was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooMuchPushed;

/// Gathers the parts of a PUSH_REPLY.
#[derive(Clone, Debug, Default)]
pub struct PushCollector {
    reply: PushReply,
    bytes: usize,
}

impl PushCollector {
    /// Takes the text after `PUSH_REPLY` (empty, or beginning with a comma): the whole reply after its last part.
    ///
    /// # Errors
    /// More than [`MAX_PUSHED`] bytes in all.
    pub fn take(&mut self, text: &str) -> Result<Option<PushReply>, TooMuchPushed> {
        self.bytes = self.bytes.saturating_add(text.len());
        if self.bytes > MAX_PUSHED {
            return Err(TooMuchPushed);
        }
        let mut more = false;
        for option in text.split(',').map(str::trim).filter(|o| !o.is_empty()) {
            match option.strip_prefix("push-continuation") {
                Some(value) => more = value.trim() == "2",
                None => self.option(option),
            }
        }
        if more {
            return Ok(None);
        }
        self.bytes = 0;
        Ok(Some(std::mem::take(&mut self.reply)))
    }

    fn option(&mut self, option: &str) {
        let (name, value) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let value = value.trim();
        let reply = &mut self.reply;
        match name {
            "cipher" => reply.cipher = Some(words(value)),
            "peer-id" => reply.peer_id = value.parse().ok().filter(|id| *id <= crate::ids::PeerId::MAX),
            "key-derivation" | "protocol-flags" => value.split_whitespace().for_each(|word| match word {
                "tls-ekm" => reply.tls_ekm = true,
                "cc-exit" => reply.cc_exit = true,
                other => reply.unknown_flag = Some(words(other)),
            }),
            // One that fits no key message would end every later login before it is sent.
            "auth-token" => {
                reply.auth_token = (value.len() <= MAX_PASSWORD).then(|| Secret(value.as_bytes().to_vec()));
            }
            "auth-token-user" => reply.auth_token_user = decode_user(value),
            _ => reply.pushed.options.push(option.to_owned()),
        }
    }
}

/// Why no data cipher was agreed, for people.
///
/// # Errors
/// A sentence that says what to change.
pub fn agree_cipher(
    pushed: Option<&str>,
    occ: Option<&str>,
    ours: &[Cipher],
    fallback: Option<Cipher>,
) -> Result<Cipher, String> {
    let usable = |c: &Cipher| (ours.contains(c) || fallback == Some(*c)) && c.available();
    let agreed = match pushed {
        Some(name) => {
            return Cipher::from_name(name).filter(usable).ok_or_else(|| not_offered(name));
        }
        None => occ.and_then(Cipher::from_name).filter(usable).or(fallback.filter(|c| c.available())),
    };
    agreed.ok_or_else(|| {
        let theirs = words(occ.unwrap_or("none named"));
        format!(
            "the server negotiates no data cipher and the one it uses ({theirs}) is not in data-ciphers: have the \
             server use one of data-ciphers, or set data-ciphers-fallback"
        )
    })
}

fn not_offered(name: &str) -> String {
    match Cipher::from_name(name) {
        Some(c) if !c.available() => {
            format!(
                "the server chose the data cipher {name}, which this build does not have: change the server's data-ciphers"
            )
        }
        Some(_) => format!("the server chose the data cipher {name}, which is not in data-ciphers: add it there"),
        None => format!(
            "the server chose the data cipher {name}, which is not supported: have it use AES-256-GCM, AES-128-GCM or \
             CHACHA20-POLY1305"
        ),
    }
}

fn decode_user(value: &str) -> Option<String> {
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    let bytes = STANDARD.decode(value).ok()?;
    String::from_utf8(bytes).ok().filter(|s| (1..=MAX_USERNAME).contains(&s.len()) && !s.chars().any(char::is_control))
}

/// A server's PUSH_REPLY in as many messages as it needs.
pub fn split_reply(options: &[String]) -> Vec<String> {
    const HEAD: &str = "PUSH_REPLY";
    let mut parts = vec![String::from(HEAD)];
    for option in options {
        let last = parts.last().map_or(0, String::len);
        if last + option.len() + 1 > PART_BYTES {
            parts.push(String::from(HEAD));
        }
        if let Some(part) = parts.last_mut() {
            part.push(',');
            part.push_str(option);
        }
    }
    let count = parts.len();
    if count > 1 {
        for (i, part) in parts.iter_mut().enumerate() {
            part.push_str(if i + 1 == count { ",push-continuation 1" } else { ",push-continuation 2" });
        }
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_of_the_control_channel_are_understood_and_the_others_handed_on() {
        let text = ",route-gateway 10.8.0.1,ifconfig 10.8.0.2 255.255.255.0,peer-id 7,cipher AES-256-GCM,\
                    protocol-flags cc-exit tls-ekm,tun-mtu 1500,auth-token SESS_ID_AT_x,auth-token-user YW5u";
        let reply = PushCollector::default().take(text).unwrap().unwrap();
        assert_eq!(reply.pushed.options, ["route-gateway 10.8.0.1", "ifconfig 10.8.0.2 255.255.255.0", "tun-mtu 1500"]);
        assert_eq!((reply.peer_id, reply.cipher.as_deref()), (Some(7), Some("AES-256-GCM")));
        assert!(reply.tls_ekm && reply.cc_exit);
        assert_eq!(reply.unknown_flag, None);
        assert_eq!(reply.auth_token, Some(Secret(b"SESS_ID_AT_x".to_vec())));
        assert_eq!(reply.auth_token_user.as_deref(), Some("ann"));
    }

    #[test]
    fn a_reply_in_parts_is_complete_with_its_last_part() {
        let mut c = PushCollector::default();
        assert_eq!(c.take(",route 10.0.0.0,push-continuation 2"), Ok(None));
        assert_eq!(c.take(",ping 10,push-continuation 2"), Ok(None));
        let reply = c.take(",peer-id 1,push-continuation 1").unwrap().unwrap();
        assert_eq!(reply.pushed.options, ["route 10.0.0.0", "ping 10"]);
        assert_eq!(reply.peer_id, Some(1));
    }

    #[test]
    fn a_server_cannot_push_without_end() {
        let mut c = PushCollector::default();
        let part = format!(",{},push-continuation 2", "x".repeat(1000));
        let results: Vec<_> = (0..80).map(|_| c.take(&part)).collect();
        assert_eq!(results.iter().filter(|r| r.is_err()).count(), 80 - MAX_PUSHED / part.len());
    }

    #[test]
    fn a_token_or_name_that_fits_no_key_message_is_not_taken() {
        use base64::Engine;
        let take = |text: String| PushCollector::default().take(&text).unwrap().unwrap();
        for (len, taken) in [(MAX_PASSWORD, true), (MAX_PASSWORD + 1, false)] {
            let reply = take(format!(",auth-token {}", "t".repeat(len)));
            assert_eq!(reply.auth_token.is_some(), taken, "{len}");
        }
        for (name, taken) in
            [("u".repeat(MAX_USERNAME), true), ("u".repeat(MAX_USERNAME + 1), false), ("a\x1b[2Jb".to_owned(), false)]
        {
            let name = base64::engine::general_purpose::STANDARD.encode(name);
            let reply = take(format!(",auth-token-user {name}"));
            assert_eq!(reply.auth_token_user.is_some(), taken, "{name}");
        }
    }

    #[test]
    fn a_peer_id_that_is_switched_off_is_none() {
        for off in ["-1", "16777215", "x", ""] {
            let reply = PushCollector::default().take(&format!(",peer-id {off}")).unwrap().unwrap();
            assert_eq!(reply.peer_id, None, "{off}");
        }
        let reply = PushCollector::default().take(",peer-id 16777214").unwrap().unwrap();
        assert_eq!(reply.peer_id, Some(16_777_214));
    }

    #[test]
    fn a_flag_that_was_not_offered_is_noticed() {
        for flag in ["aead-epoch", "dyn-tls-crypt"] {
            let reply = PushCollector::default().take(&format!(",protocol-flags tls-ekm {flag}")).unwrap().unwrap();
            assert_eq!(reply.unknown_flag.as_deref(), Some(flag));
        }
    }

    #[test]
    fn the_cipher_is_the_pushed_one_or_the_servers_or_the_fallback() {
        let ours = [Cipher::Aes256Gcm];
        let chacha = Some(Cipher::ChaCha20Poly1305);
        assert_eq!(agree_cipher(Some("aes-256-gcm"), None, &ours, None), Ok(Cipher::Aes256Gcm));
        assert!(agree_cipher(Some("AES-128-GCM"), None, &ours, None).is_err());
        assert!(agree_cipher(Some("AES-128-GCM"), Some("AES-256-GCM"), &ours, chacha).is_err());
        assert_eq!(agree_cipher(Some("CHACHA20-POLY1305"), None, &ours, chacha), Ok(Cipher::ChaCha20Poly1305));
        assert_eq!(agree_cipher(None, Some("AES-256-GCM"), &ours, chacha), Ok(Cipher::Aes256Gcm));
        assert_eq!(agree_cipher(None, Some("BF-CBC"), &ours, chacha), Ok(Cipher::ChaCha20Poly1305));
        assert!(agree_cipher(None, Some("BF-CBC"), &ours, None).is_err());
        assert!(agree_cipher(None, None, &ours, None).is_err());
    }

    #[test]
    fn a_long_reply_is_split_and_joined_again() {
        let options: Vec<String> = (0..120).map(|i| format!("route 10.{i}.0.0 255.255.0.0")).collect();
        let parts = split_reply(&options);
        assert!(parts.len() > 2 && parts.iter().all(|p| p.len() < 1024));
        let mut c = PushCollector::default();
        let mut whole = None;
        for part in &parts {
            assert!(whole.is_none());
            whole = c.take(part.strip_prefix("PUSH_REPLY").unwrap()).unwrap();
        }
        assert_eq!(whole.unwrap().pushed.options, options);
        assert_eq!(split_reply(&options[..1]).len(), 1);
    }
}
