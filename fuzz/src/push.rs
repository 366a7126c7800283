//! Control messages, the collector of PUSH_REPLY, and the judgement of what was pushed. Lines and warnings are
//! printable and few, and options that are sent again, in as many messages as they need, arrive as they were.
//!
//! The first byte says in pieces of how many bytes the plaintext arrives.

use std::path::Path;
use std::sync::OnceLock;

use controlplane::Cipher;
use controlplane::controlchannel::message::{Lines, MAX_WAITING, Message};
use controlplane::controlchannel::push::{MAX_PUSHED, PushCollector, PushReply, agree_cipher, split_reply};
use minivpn::config::agreed::ClientProfile;
use minivpn::config::{load_with, pushed};

/// Every kind of filter, and settings that pushed ones replace.
const PROFILE: &str = "client\ndev tun\nremote vpn.example.com\nremote-cert-tls server\nauth-user-pass\nca ca.crt\n\
    tun-mtu 1400\nping 7\nroute 10.9.0.0 255.255.0.0\n\
    pull-filter ignore \"route 10.66\"\npull-filter accept \"route \"\npull-filter reject \"block-\"\n";
const CA: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    let Some((&piece, text)) = data.split_first() else {
        return;
    };
    let mut lines = Lines::default();
    let mut collector = PushCollector::default();
    for piece in text.chunks(usize::from(piece).max(1)) {
        lines.extend(piece);
        while let Some(line) = lines.next_line() {
            let Ok(line) = line else {
                continue;
            };
            assert!(line.len() <= MAX_WAITING && !line.contains(char::is_control), "{line:?}");
            message(&line, &mut collector);
        }
    }
}

fn message(line: &str, collector: &mut PushCollector) {
    if let Message::PushReply(text) = Message::parse(line)
        && let Ok(Some(reply)) = collector.take(&text)
    {
        judge(&reply);
        send_again(&reply.pushed.options);
    }
}

fn judge(reply: &PushReply) {
    let bytes: usize = reply.pushed.options.iter().map(String::len).sum();
    assert!(bytes <= MAX_PUSHED);
    let _ = agree_cipher(reply.cipher.as_deref(), None, &[Cipher::Aes256Gcm], None);
    let read = pushed::read(profile(), &reply.pushed.options);
    assert!(read.warnings.len() <= 33, "{} warnings", read.warnings.len());
    for text in read.warnings.iter().chain(&read.refusal) {
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}

fn send_again(options: &[String]) {
    let bytes: usize = options.iter().map(String::len).sum();
    if bytes > MAX_PUSHED / 2 {
        return;
    }
    let mut collector = PushCollector::default();
    let mut arrived = None;
    for part in split_reply(options) {
        assert!(arrived.is_none(), "the last part is the last");
        let Message::PushReply(text) = Message::parse(&part) else {
            panic!("{part:?}");
        };
        arrived = collector.take(&text).unwrap_or_else(|_| panic!("{bytes} bytes are not too many"));
    }
    assert_eq!(arrived.map(|reply| reply.pushed.options).as_deref(), Some(options));
}

fn profile() -> &'static ClientProfile {
    static READ: OnceLock<ClientProfile> = OnceLock::new();
    READ.get_or_init(|| {
        let files = |path: &Path| match path.to_str() {
            Some("p.ovpn") => Ok(PROFILE.into()),
            Some("ca.crt") => Ok(CA.into()),
            _ => Err(std::io::ErrorKind::NotFound.into()),
        };
        load_with(Path::new("p.ovpn"), &files).unwrap_or_else(|problems| panic!("{problems:?}")).0
    })
}
