//! tls-crypt (version 1): every control packet encrypted and authenticated with a key that both sides
//! were given. The synthetic initialisation vector is the tag itself (OpenVPN wire protocol).
//!
//! ```text
//! wire: [opcode 1][session id 8][replay id 4][timestamp 4][tag 32][ciphertext]
//! tag        = HMAC-SHA256(Ka, the 17 bytes before the tag || body)
//! ciphertext = AES-256-CTR(Ke, initial counter = tag[0..16], body)
//! ```

use zeroize::Zeroizing;

use crate::crypto::{self, Digest};
use crate::error::DropReason;
use crate::ids::Role;
use crate::packet::reader::Reader;
use crate::wrap::replay::PacketId;
use crate::wrap::static_key::{Pair, StaticKey};
use crate::wrap::{HEADER_LEN, Header};

/// Length of the tag in bytes.
const TAG_LEN: usize = 32;

/// The keys of tls-crypt for one side.
#[derive(Clone)]
pub(super) struct TlsCrypt {
    send: Keys,
    receive: Keys,
}

/// The keys of one direction: Ke and Ka.
#[derive(Clone)]
struct Keys {
    cipher: Zeroizing<[u8; 32]>,
    hmac: Zeroizing<Vec<u8>>,
}

impl TlsCrypt {
    /// Bytes added to a packet: replay id, timestamp, tag.
    pub(super) const OVERHEAD: usize = PacketId::LEN + TAG_LEN;

    /// The server sends with the first key pair, the client with the second; `key-direction` has no say.
    pub(super) fn new(key: &StaticKey, role: Role) -> Self {
        let (send, receive) = match role {
            Role::Server => (Pair::Key0, Pair::Key1),
            Role::Client => (Pair::Key1, Pair::Key0),
        };
        Self { send: Keys::new(key, send), receive: Keys::new(key, receive) }
    }

    /// The datagram for `body`.
    pub(super) fn seal(&self, header: Header, packet: PacketId, body: &[u8]) -> Vec<u8> {
        let associated = [header.to_bytes().as_slice(), &packet.to_bytes()].concat();
        self.send.seal(&associated, body)
    }

    /// Packet id and body of an authentic datagram.
    pub(super) fn open(&self, datagram: &[u8]) -> Result<(PacketId, Vec<u8>), DropReason> {
        let (associated, sealed) =
            datagram.split_at_checked(HEADER_LEN + PacketId::LEN).ok_or(DropReason::Truncated)?;
        let mut reader = Reader::new(associated);
        reader.take(HEADER_LEN)?;
        let packet = PacketId::from_bytes(reader.array()?);
        Ok((packet, self.receive.open(associated, sealed)?))
    }
}

impl Keys {
    fn new(key: &StaticKey, pair: Pair) -> Self {
        Self { cipher: key.cipher(pair), hmac: key.hmac(pair, Digest::Sha256.len()) }
    }

    /// `associated || tag || ciphertext`
    fn seal(&self, associated: &[u8], body: &[u8]) -> Vec<u8> {
        let tag = crypto::hmac(Digest::Sha256, &self.hmac, &[associated, body]);
        let mut datagram = [associated, tag.as_ref(), body].concat();
        if let Some(text) = datagram.get_mut(associated.len() + TAG_LEN..) {
            crypto::aes256_ctr(&self.cipher, &initial_counter(tag.as_ref()), text);
        }
        datagram
    }

    /// The body of `tag || ciphertext`. The text is decrypted before its tag can be checked, and wiped if
    /// the check fails.
    fn open(&self, associated: &[u8], sealed: &[u8]) -> Result<Vec<u8>, DropReason> {
        let (tag, text) = sealed.split_at_checked(TAG_LEN).ok_or(DropReason::Truncated)?;
        let mut body = Zeroizing::new(text.to_vec());
        crypto::aes256_ctr(&self.cipher, &initial_counter(tag), &mut body);
        let expected = crypto::hmac(Digest::Sha256, &self.hmac, &[associated, &body]);
        if !crypto::ct_eq(expected.as_ref(), tag) {
            return Err(DropReason::BadTag);
        }
        Ok(std::mem::take(&mut *body))
    }
}

/// The first 16 bytes of the tag.
fn initial_counter(tag: &[u8]) -> [u8; 16] {
    let mut counter = [0; 16];
    counter.iter_mut().zip(tag).for_each(|(to, from)| *to = *from);
    counter
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::vectors::hex;

    /// The answer that OpenVPN's own unit test expects for a key of 256 times 0xBA.
    #[test]
    fn the_key_of_a_renegotiation_gives_the_known_answer() {
        let key = StaticKey::from_bytes(&[0xba; 256]);
        let expected = hex(
            "0000000100000000 e319277f1c8d6e6a7796a855337b9cfb56e1f13a870e6647dfa195c92c17a015 ba4967a11d55ea1a06a7",
        );
        let keys = TlsCrypt::new(&key, Role::Client).send;
        assert_eq!(keys.seal(&expected[..8], b"1234567890"), expected);
        assert_eq!(keys.open(&expected[..8], &expected[8..]), Ok(b"1234567890".to_vec()));
        let other = StaticKey::from_bytes(&[0xba ^ 0x42; 256]);
        let keys = TlsCrypt::new(&other, Role::Client).send;
        assert_ne!(keys.seal(&expected[..8], b"1234567890")[8..], expected[8..]);
        assert_eq!(keys.open(&expected[..8], &expected[8..]), Err(DropReason::BadTag));
    }
}
