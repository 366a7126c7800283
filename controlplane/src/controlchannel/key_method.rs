//! Key method 2: the message in which each side gives its randoms, and the client its credentials and peer info
//! (OpenVPN wire protocol, key method 2). Parsed by lengths; what follows in the plaintext is left alone.

use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::crypto::Random;
use crate::error::Error;
use crate::setup::Secret;

/// The longest user name, in bytes; stock peers refuse longer ones.
pub const MAX_USERNAME: usize = 127;
/// The longest password or token that is sent, in bytes.
pub const MAX_PASSWORD: usize = 4095;
/// The most that a stock peer reads as one message, in bytes.
pub const MAX_MESSAGE: usize = 2048;
/// A two-byte length from here on is no length but the first characters of a control message: the peer left the
/// trailing fields out, as old ones do.
const NO_LENGTH: u16 = 0x2000;

/// The client's randoms.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ClientSource {
    /// 48 bytes that only the client gives.
    pub pre_master: [u8; 48],
    /// For the master secret.
    pub random1: [u8; 32],
    /// For the key expansion.
    pub random2: [u8; 32],
}

/// The server's randoms.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct ServerSource {
    /// For the master secret.
    pub random1: [u8; 32],
    /// For the key expansion.
    pub random2: [u8; 32],
}

impl std::fmt::Debug for ClientSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientSource(112 bytes)")
    }
}

impl std::fmt::Debug for ServerSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerSource(64 bytes)")
    }
}

impl ClientSource {
    /// Fresh randoms.
    pub fn new_random(rng: &mut dyn Random) -> ClientSource {
        let mut s = ClientSource { pre_master: [0; 48], random1: [0; 32], random2: [0; 32] };
        rng.fill(&mut s.pre_master);
        rng.fill(&mut s.random1);
        rng.fill(&mut s.random2);
        s
    }
}

impl ServerSource {
    /// Fresh randoms.
    pub fn new_random(rng: &mut dyn Random) -> ServerSource {
        let mut s = ServerSource { random1: [0; 32], random2: [0; 32] };
        rng.fill(&mut s.random1);
        rng.fill(&mut s.random2);
        s
    }
}

/// The client's message.
#[derive(Clone, Debug)]
pub struct ClientKeyMethod {
    /// Its randoms.
    pub source: ClientSource,
    /// Its options string.
    pub options: String,
    /// User name; empty when there is none.
    pub username: String,
    /// Password; empty when there is none.
    pub password: Secret,
    /// `NAME=value` lines; empty when there are none.
    pub peer_info: String,
}

/// The server's message. Its user name, password and peer info are always empty.
#[derive(Clone, Debug)]
pub struct ServerKeyMethod {
    /// Its randoms.
    pub source: ServerSource,
    /// Its options string.
    pub options: String,
}

impl ClientKeyMethod {
    /// The message as one TLS record's plaintext.
    ///
    /// # Errors
    /// When the user name, the password or the whole is too long.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        if self.username.len() > MAX_USERNAME {
            return Err(Error::Misuse("the user name is longer than 127 bytes"));
        }
        if self.password.0.len() > MAX_PASSWORD {
            return Err(Error::Misuse("the password or token is longer than 4095 bytes"));
        }
        let mut out = vec![0, 0, 0, 0, 2];
        out.extend_from_slice(&self.source.pre_master);
        out.extend_from_slice(&self.source.random1);
        out.extend_from_slice(&self.source.random2);
        put_string(&mut out, self.options.as_bytes())?;
        put_string(&mut out, self.username.as_bytes())?;
        put_string(&mut out, &self.password.0)?;
        put_string(&mut out, self.peer_info.as_bytes())?;
        // A long token is only understood by peers that read more.
        if out.len() > MAX_MESSAGE + MAX_PASSWORD || (out.len() > MAX_MESSAGE && self.password.0.len() <= MAX_USERNAME)
        {
            return Err(Error::Misuse("the key message is longer than 2048 bytes: push less peer info"));
        }
        Ok(out)
    }

    /// Takes the message off the front of `plaintext`: the message and its length, or `None` while it is not there
    /// as a whole.
    ///
    /// # Errors
    /// When it is another message.
    pub fn decode(plaintext: &[u8]) -> Result<Option<(ClientKeyMethod, usize)>, Error> {
        let mut r = Fields::new(plaintext);
        let Some(()) = r.header()? else {
            return Ok(None);
        };
        let (Some(pre_master), Some(random1), Some(random2)) = (r.array(), r.array(), r.array()) else {
            return Ok(None);
        };
        let Some(options) = r.string()? else {
            return Ok(None);
        };
        let (Some(username), Some(password), Some(peer_info)) = (r.optional(), r.optional(), r.optional()) else {
            return Ok(None);
        };
        let message = ClientKeyMethod {
            source: ClientSource { pre_master, random1, random2 },
            options: printable(options),
            username: text(username),
            password: Secret(password.to_vec()),
            peer_info: text(peer_info),
        };
        Ok(Some((message, r.consumed(plaintext))))
    }
}

impl ServerKeyMethod {
    /// The message as one TLS record's plaintext.
    ///
    /// # Errors
    /// When the options string is too long.
    pub fn encode(&self) -> Result<Vec<u8>, Error> {
        let mut out = vec![0, 0, 0, 0, 2];
        out.extend_from_slice(&self.source.random1);
        out.extend_from_slice(&self.source.random2);
        put_string(&mut out, self.options.as_bytes())?;
        out.extend_from_slice(&[0; 6]);
        Ok(out)
    }

    /// Takes the message off the front of `plaintext`: the message and its length, or `None` while it is not there
    /// as a whole.
    ///
    /// # Errors
    /// When it is another message.
    pub fn decode(plaintext: &[u8]) -> Result<Option<(ServerKeyMethod, usize)>, Error> {
        let mut r = Fields::new(plaintext);
        let Some(()) = r.header()? else {
            return Ok(None);
        };
        let (Some(random1), Some(random2)) = (r.array(), r.array()) else {
            return Ok(None);
        };
        let Some(options) = r.string()? else {
            return Ok(None);
        };
        for _ in 0..3 {
            if r.optional().is_none() {
                return Ok(None);
            }
        }
        let message = ServerKeyMethod { source: ServerSource { random1, random2 }, options: printable(options) };
        Ok(Some((message, r.consumed(plaintext))))
    }
}

/// A string with its length, which counts the final NUL; an empty one is a length of 0 and no bytes.
fn put_string(out: &mut Vec<u8>, text: &[u8]) -> Result<(), Error> {
    if text.is_empty() {
        out.extend_from_slice(&[0, 0]);
        return Ok(());
    }
    if text.contains(&0) {
        return Err(Error::Misuse("a string of the key message contains a NUL"));
    }
    let len = u16::try_from(text.len() + 1).map_err(|_| Error::Misuse("a string of the key message is too long"))?;
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(text);
    out.push(0);
    Ok(())
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The options string, which sentences for people quote: control characters, which could steer a terminal, are dropped.
fn printable(bytes: &[u8]) -> String {
    text(bytes).chars().filter(|c| !c.is_control()).collect()
}

/// A cursor for which "not there yet" is no error.
struct Fields<'a> {
    rest: &'a [u8],
    /// The trailing fields were left out.
    ended: bool,
}

impl<'a> Fields<'a> {
    fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes, ended: false }
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N).and_then(|bytes| bytes.try_into().ok())
    }

    /// Four zero bytes and the key method, of which only the low four bits count.
    fn header(&mut self) -> Result<Option<()>, Error> {
        let Some(head) = self.array::<5>() else {
            return Ok(None);
        };
        match head {
            [0, 0, 0, 0, method] if method & 0x0F == 2 => Ok(Some(())),
            _ => Err(Error::Malformed("the key message is not of key method 2")),
        }
    }

    fn string(&mut self) -> Result<Option<&'a [u8]>, Error> {
        let before = self.rest;
        let Some(len) = self.array().map(u16::from_be_bytes) else {
            return Ok(None);
        };
        if len >= NO_LENGTH {
            return Err(Error::Malformed("a string of the key message is too long"));
        }
        let Some(bytes) = self.take(usize::from(len)) else {
            self.rest = before;
            return Ok(None);
        };
        Ok(Some(trim_nul(bytes)))
    }

    /// A trailing field: absent when nothing follows or when what follows cannot be a length; `None` when it is
    /// there in part.
    fn optional(&mut self) -> Option<&'a [u8]> {
        if self.ended || self.rest.is_empty() {
            self.ended = true;
            return Some(&[]);
        }
        if let Some(first) = self.rest.first()
            && u16::from(*first) << 8 >= NO_LENGTH
        {
            self.ended = true;
            return Some(&[]);
        }
        self.string().ok().flatten()
    }

    fn consumed(&self, all: &[u8]) -> usize {
        all.len().saturating_sub(self.rest.len())
    }
}

/// The string without its NUL: whatever stands in the last place is taken as the NUL, and an earlier one ends it.
fn trim_nul(bytes: &[u8]) -> &[u8] {
    let bytes = bytes.split_last().map_or(bytes, |(_, head)| head);
    bytes.split(|b| *b == 0).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client() -> ClientKeyMethod {
        ClientKeyMethod {
            source: ClientSource { pre_master: [1; 48], random1: [2; 32], random2: [3; 32] },
            options: "V4,dev-type tun".into(),
            username: "ann".into(),
            password: Secret(b"secret".to_vec()),
            peer_info: "IV_VER=1\n".into(),
        }
    }

    fn server() -> ServerKeyMethod {
        ServerKeyMethod { source: ServerSource { random1: [4; 32], random2: [5; 32] }, options: "V4,tls-server".into() }
    }

    #[test]
    fn the_clients_message_has_the_documented_layout() {
        let bytes = client().encode().unwrap();
        assert_eq!(bytes[..5], [0, 0, 0, 0, 2]);
        assert_eq!(bytes[5..53], [1; 48]);
        assert_eq!(bytes[53..85], [2; 32]);
        assert_eq!(bytes[85..117], [3; 32]);
        assert_eq!(bytes[117..119], [0, 16]);
        assert_eq!(&bytes[119..135], b"V4,dev-type tun\0");
        assert_eq!(&bytes[135..141], b"\0\x04ann\0");
    }

    #[test]
    fn both_messages_survive_a_round_trip_and_leave_what_follows() {
        let mut bytes = client().encode().unwrap();
        let len = bytes.len();
        bytes.extend_from_slice(b"PUSH_REQUEST\0");
        let (m, n) = ClientKeyMethod::decode(&bytes).unwrap().unwrap();
        assert_eq!(n, len);
        assert_eq!((m.options.as_str(), m.username.as_str()), ("V4,dev-type tun", "ann"));
        assert_eq!((m.password.0.as_slice(), m.peer_info.as_str()), (&b"secret"[..], "IV_VER=1\n"));
        assert_eq!(m.source.pre_master, [1; 48]);

        let mut bytes = server().encode().unwrap();
        let len = bytes.len();
        bytes.extend_from_slice(b"PUSH_REPLY,ping 1\0");
        let (m, n) = ServerKeyMethod::decode(&bytes).unwrap().unwrap();
        assert_eq!(n, len);
        assert_eq!(m.options, "V4,tls-server");
        assert_eq!((m.source.random1, m.source.random2), ([4; 32], [5; 32]));
    }

    #[test]
    fn an_options_string_cannot_steer_a_terminal() {
        let mut message = server();
        message.options = "V4,cipher \x1b]0;x\x07A\u{9b}31m\nB".into();
        let bytes = message.encode().unwrap();
        let (m, _) = ServerKeyMethod::decode(&bytes).unwrap().unwrap();
        assert_eq!(m.options, "V4,cipher ]0;xA31mB");
        let mut message = client();
        message.options = "V4\x1b[2J".into();
        let bytes = message.encode().unwrap();
        let (m, _) = ClientKeyMethod::decode(&bytes).unwrap().unwrap();
        assert_eq!(m.options, "V4[2J");
    }

    #[test]
    fn a_message_in_pieces_is_waited_for() {
        let bytes = client().encode().unwrap();
        let fixed = 119 + 16;
        for cut in (0..fixed).chain(fixed + 1..bytes.len() - 12) {
            let decoded = ClientKeyMethod::decode(&bytes[..cut]).unwrap();
            // Only where a field ends may the rest be taken as left out.
            assert!(decoded.is_none() || [fixed, fixed + 6, fixed + 15].contains(&cut), "{cut}");
        }
    }

    #[test]
    fn an_old_server_that_leaves_trailing_fields_out_is_understood() {
        let full = server().encode().unwrap();
        let short = &full[..full.len() - 6];
        assert_eq!(ServerKeyMethod::decode(short).unwrap().unwrap().1, short.len());
        let mut with_text = short.to_vec();
        with_text.extend_from_slice(b"PUSH_REPLY,x\0");
        assert_eq!(ServerKeyMethod::decode(&with_text).unwrap().unwrap().1, short.len());
    }

    #[test]
    fn another_key_method_is_refused() {
        let mut bytes = server().encode().unwrap();
        bytes[4] = 0x12;
        assert!(ServerKeyMethod::decode(&bytes).is_ok(), "high bits of the method do not count");
        bytes[4] = 1;
        assert!(ServerKeyMethod::decode(&bytes).is_err());
        bytes[4] = 2;
        bytes[0] = 1;
        assert!(ServerKeyMethod::decode(&bytes).is_err());
    }

    #[test]
    fn names_and_passwords_at_their_limits() {
        let mut m = client();
        m.username = "u".repeat(127);
        assert!(m.encode().is_ok());
        m.username.push('u');
        assert!(m.encode().is_err());
        m.username = "u\0v".into();
        assert!(m.encode().is_err());
        m.username = "u".into();
        m.password = Secret(vec![b'p'; 4095]);
        assert!(m.encode().is_ok());
        m.password.0.push(b'p');
        assert!(m.encode().is_err());
        m.password = Secret(vec![b'p'; 127]);
        m.peer_info = "x".repeat(2000);
        assert!(m.encode().is_err());
    }

    #[test]
    fn a_string_ends_at_its_first_nul() {
        assert_eq!(trim_nul(b"ab\0cd\0"), b"ab");
        assert_eq!(trim_nul(b"abX"), b"ab");
        assert_eq!(trim_nul(b""), b"");
    }
}
