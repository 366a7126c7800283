//! Sealing and opening of data packets: one interface over the AEAD library that the build chose.
//!
//! The tag stands before the ciphertext, and the nonce is the packet id followed by the 8 bytes of the key's implicit IV
//! (OpenVPN wire protocol, AEAD data packets). Both directions work from one buffer into another, so that a packet is moved
//! once, by the cipher itself where the library can; nothing is allocated.

#[cfg(not(feature = "aws-lc"))]
use ring::aead;

#[cfg(feature = "aws-lc")]
use aws_lc_rs::aead;

use aead::{Aad, LessSafeKey, Nonce, UnboundKey};
use link::message::{Cipher, DirectionKey};
use zeroize::Zeroize;

use super::header::{Parts, SendHeader, TAG_LEN};

/// Bytes of the implicit part of the nonce.
pub const IMPLICIT_IV_LEN: usize = 8;

/// The library behind this build's keys, for status output.
pub const BACKEND: &str = if cfg!(feature = "aws-lc") { "aws-lc" } else { "ring" };

/// Whether this build can do the cipher (AES-192-GCM needs aws-lc).
pub fn supports(cipher: Cipher) -> bool {
    algorithm(cipher).is_some()
}

#[cfg(feature = "aws-lc")]
fn algorithm(cipher: Cipher) -> Option<&'static aead::Algorithm> {
    Some(match cipher {
        Cipher::Aes128Gcm => &aead::AES_128_GCM,
        Cipher::Aes192Gcm => &aead::AES_192_GCM,
        Cipher::Aes256Gcm => &aead::AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    })
}

#[cfg(not(feature = "aws-lc"))]
fn algorithm(cipher: Cipher) -> Option<&'static aead::Algorithm> {
    match cipher {
        Cipher::Aes128Gcm => Some(&aead::AES_128_GCM),
        Cipher::Aes192Gcm => None,
        Cipher::Aes256Gcm => Some(&aead::AES_256_GCM),
        Cipher::ChaCha20Poly1305 => Some(&aead::CHACHA20_POLY1305),
    }
}

/// One direction's key, ready for use. The implicit IV is wiped on drop; the expanded key is freed by the library
/// (aws-lc wipes what it frees).
struct Key {
    key: LessSafeKey,
    implicit_iv: [u8; IMPLICIT_IV_LEN],
}

impl Key {
    fn new(cipher: Cipher, key: &DirectionKey) -> Option<Self> {
        let bytes = key.key.0.as_slice();
        let implicit_iv = key.implicit_iv.0.as_slice().try_into().ok()?;
        if bytes.len() != cipher.key_len() || bytes.iter().all(|&byte| byte == 0) {
            return None;
        }
        let key = LessSafeKey::new(UnboundKey::new(algorithm(cipher)?, bytes).ok()?);
        Some(Key { key, implicit_iv })
    }

    #[inline]
    fn nonce(&self, packet_id: u32) -> Nonce {
        let mut nonce = [0; PACKET_ID_AND_IV];
        nonce[..4].copy_from_slice(&packet_id.to_be_bytes());
        nonce[4..].copy_from_slice(&self.implicit_iv);
        Nonce::assume_unique_for_key(nonce)
    }
}

const PACKET_ID_AND_IV: usize = 4 + IMPLICIT_IV_LEN;

impl Drop for Key {
    fn drop(&mut self) {
        self.implicit_iv.zeroize();
    }
}

/// The key we seal with.
pub struct SealingKey(Key);

impl SealingKey {
    /// `None` when the lengths are wrong, the key is all zero, or the build lacks the cipher.
    pub fn new(cipher: Cipher, key: &DirectionKey) -> Option<Self> {
        Key::new(cipher, key).map(SealingKey)
    }

    /// Writes the whole wire packet into `out`, which is `header.overhead()` bytes longer than `plaintext`. False when
    /// the lengths do not fit; `out` is undefined then. The caller gives every packet id once.
    #[inline]
    pub fn seal(&self, header: &SendHeader, packet_id: u32, plaintext: &[u8], out: &mut [u8]) -> bool {
        let Some((aad, tag, ciphertext)) = header.write(packet_id, out) else {
            return false;
        };
        ciphertext.len() == plaintext.len() && self.seal_parts(packet_id, aad, plaintext, ciphertext, tag)
    }

    #[cfg(feature = "aws-lc")]
    #[inline]
    fn seal_parts(
        &self,
        packet_id: u32,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        let nonce = self.0.nonce(packet_id);
        self.0.key.seal_out_of_place_scatter(nonce, Aad::from(aad), plaintext, ciphertext, &[], tag).is_ok()
    }

    #[cfg(not(feature = "aws-lc"))]
    #[inline]
    fn seal_parts(
        &self,
        packet_id: u32,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        ciphertext.copy_from_slice(plaintext);
        match self.0.key.seal_in_place_separate_tag(self.0.nonce(packet_id), Aad::from(aad), ciphertext) {
            Ok(computed) => {
                tag.copy_from_slice(computed.as_ref());
                true
            }
            Err(_) => false,
        }
    }
}

/// The key we open with.
pub struct OpeningKey(Key);

impl OpeningKey {
    /// `None` when the lengths are wrong, the key is all zero, or the build lacks the cipher.
    pub fn new(cipher: Cipher, key: &DirectionKey) -> Option<Self> {
        Key::new(cipher, key).map(OpeningKey)
    }

    /// Verifies and decrypts into `out`, which is as long as the ciphertext. False when the tag does not match or the lengths
    /// differ: `out` is undefined then, the ciphertext is untouched.
    #[cfg(feature = "aws-lc")]
    #[inline]
    pub fn open(&self, packet_id: u32, parts: &Parts<'_>, out: &mut [u8]) -> bool {
        let nonce = self.0.nonce(packet_id);
        self.0.key.open_separate_gather(nonce, Aad::from(parts.aad), parts.ciphertext, parts.tag, out).is_ok()
    }

    /// Verifies and decrypts into `out`, which is as long as the ciphertext. False when the tag does not match or the lengths
    /// differ: `out` is undefined then, the ciphertext is untouched.
    #[cfg(not(feature = "aws-lc"))]
    #[inline]
    pub fn open(&self, packet_id: u32, parts: &Parts<'_>, out: &mut [u8]) -> bool {
        if parts.ciphertext.len() != out.len() {
            return false;
        }
        out.copy_from_slice(parts.ciphertext);
        let tag = aead::Tag::from(*parts.tag);
        self.0.key.open_in_place_separate_tag(self.0.nonce(packet_id), Aad::from(parts.aad), tag, out, 0..).is_ok()
    }
}

impl std::fmt::Debug for SealingKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SealingKey")
    }
}

impl std::fmt::Debug for OpeningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OpeningKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::datachannel::header::DataHeader;
    use crate::datachannel::ping::PING;
    use link::message::Secret;
    use proptest::prelude::*;

    const CIPHERS: [Cipher; 4] = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];

    fn ciphers() -> impl Iterator<Item = Cipher> {
        CIPHERS.into_iter().filter(|&cipher| supports(cipher))
    }

    fn direction(key: &[u8], implicit_iv: &[u8]) -> DirectionKey {
        DirectionKey { key: Secret(key.to_vec()), implicit_iv: Secret(implicit_iv.to_vec()) }
    }

    fn pair(cipher: Cipher) -> (SealingKey, OpeningKey) {
        let key: Vec<u8> = (1..=cipher.key_len() as u8).collect();
        let key = direction(&key, b"implicit");
        (SealingKey::new(cipher, &key).unwrap(), OpeningKey::new(cipher, &key).unwrap())
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    fn open(key: &OpeningKey, packet: &[u8]) -> Option<Vec<u8>> {
        let (header, parts) = DataHeader::parse(packet).ok()?;
        let mut out = vec![0; parts.ciphertext.len()];
        key.open(header.packet_id, &parts, &mut out).then_some(out)
    }

    fn seal(key: &SealingKey, header: SendHeader, packet_id: u32, plaintext: &[u8]) -> Vec<u8> {
        let mut out = vec![0; header.overhead() + plaintext.len()];
        assert!(key.seal(&header, packet_id, plaintext, &mut out));
        out
    }

    #[test]
    fn the_published_packet_with_a_made_up_opcode_comes_out() {
        let base = b"abcdefgh01234567ABCDEFGHjkuchenl";
        let key2: Vec<u8> = (0..=255u8).map(|i| base[usize::from(i) % 32] ^ i).collect();
        let key = direction(&key2[..32], &key2[64..72]);
        let plaintext = b"The quick little fox jumps over the bureaucratic hurdles";
        let expected = hex(
            "0700001700000001 1fdd908f0e9dc25e79d832020d58e73f 2262f977d6bb2118fa0ea82e6b1706d949aefcb5efcbbacd5c09a9ab45
             f4d391d3f68794cb0b82c3d33389b61622b3281598e2ff6d5cc38b",
        );
        let seal_key = SealingKey::new(Cipher::Aes256Gcm, &key).unwrap();
        assert_eq!(seal(&seal_key, SendHeader::V2([7, 0, 0, 0x17]), 1, plaintext), expected);

        let parts =
            Parts { aad: &expected[..8], tag: expected[8..24].try_into().unwrap(), ciphertext: &expected[24..] };
        let mut out = [0; 56];
        assert!(OpeningKey::new(Cipher::Aes256Gcm, &key).unwrap().open(1, &parts, &mut out));
        assert_eq!(&out, plaintext);
    }

    #[test]
    fn the_known_ping_packets_come_out() {
        let key2: Vec<u8> = (0..=255).collect();
        for (cipher, expected) in [
            (Cipher::Aes256Gcm, "4900002a00000007319d9c60d457c1ecf44276a8d62f227ed0c8549eefb870f4ff085acf1ee59063"),
            (
                Cipher::ChaCha20Poly1305,
                "4900002a00000007aaaee037d83addd5cc2f44abd3d2b8e6ce0d4ccaf1b81c775043ad6499b56239",
            ),
        ] {
            let key = direction(&key2[..32], &key2[64..72]);
            let sealed = seal(&SealingKey::new(cipher, &key).unwrap(), SendHeader::new(Some(42), 1), 7, &PING);
            assert_eq!(sealed, hex(expected), "{}", cipher.name());
            assert_eq!(open(&OpeningKey::new(cipher, &key).unwrap(), &sealed).unwrap(), PING);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        for cipher in ciphers() {
            let (seal_key, open_key) = pair(cipher);
            for (peer_id, unauthenticated) in [(Some(3), 0), (None, 1)] {
                let sealed = seal(&seal_key, SendHeader::new(peer_id, 2), 9, b"a packet");
                assert_eq!(open(&open_key, &sealed).unwrap(), b"a packet");
                // The opcode byte of P_DATA_V1 is not authenticated: flipping it makes another opcode or key-id.
                for at in unauthenticated..sealed.len() {
                    let mut forged = sealed.clone();
                    forged[at] ^= 1;
                    assert_eq!(open(&open_key, &forged), None, "{} byte {at}", cipher.name());
                }
                assert_eq!(open(&open_key, &sealed[..sealed.len() - 1]), None);
            }
        }
    }

    #[test]
    fn a_failed_open_leaves_the_ciphertext_for_the_next_key() {
        for cipher in ciphers() {
            let (seal_key, open_key) = pair(cipher);
            let other = direction(&vec![7; cipher.key_len()], b"implicit");
            let other = OpeningKey::new(cipher, &other).unwrap();
            let sealed = seal(&seal_key, SendHeader::new(Some(3), 2), 9, &[5; 1400]);
            assert_eq!(open(&other, &sealed), None);
            assert_eq!(open(&open_key, &sealed).unwrap(), [5; 1400]);
        }
    }

    #[test]
    fn another_implicit_iv_opens_nothing() {
        for cipher in ciphers() {
            let key: Vec<u8> = (1..=cipher.key_len() as u8).collect();
            let other = OpeningKey::new(cipher, &direction(&key, b"implicis")).unwrap();
            let sealed = seal(&pair(cipher).0, SendHeader::new(Some(3), 2), 9, b"a packet");
            assert_eq!(open(&other, &sealed), None);
        }
    }

    #[test]
    fn keys_of_wrong_length_and_zero_keys_are_refused() {
        for cipher in ciphers() {
            let len = cipher.key_len();
            assert!(SealingKey::new(cipher, &direction(&vec![1; len], &[0; 8])).is_some());
            for bad in [
                direction(&vec![1; len - 1], &[0; 8]),
                direction(&vec![1; len + 1], &[0; 8]),
                direction(&vec![0; len], &[0; 8]),
                direction(&vec![1; len], &[0; 7]),
                direction(&vec![1; len], &[0; 9]),
            ] {
                assert!(SealingKey::new(cipher, &bad).is_none());
                assert!(OpeningKey::new(cipher, &bad).is_none());
            }
        }
    }

    #[test]
    fn aes_192_is_there_exactly_where_the_library_has_it() {
        assert_eq!(supports(Cipher::Aes192Gcm), cfg!(feature = "aws-lc"));
        let key = direction(&[1; 24], &[0; 8]);
        assert_eq!(SealingKey::new(Cipher::Aes192Gcm, &key).is_some(), cfg!(feature = "aws-lc"));
    }

    #[test]
    fn lengths_that_do_not_fit_are_refused() {
        let (seal_key, open_key) = pair(Cipher::Aes256Gcm);
        let header = SendHeader::new(Some(3), 2);
        assert!(!seal_key.seal(&header, 1, b"abc", &mut [0; 24 + 2]));
        assert!(!seal_key.seal(&header, 1, b"abc", &mut [0; 24 + 4]));
        let sealed = seal(&seal_key, header, 1, b"abc");
        let (_, parts) = DataHeader::parse(&sealed).unwrap();
        assert!(!open_key.open(1, &parts, &mut [0; 2]));
        assert!(!open_key.open(1, &parts, &mut [0; 4]));
    }

    proptest! {
        #[test]
        fn what_was_sealed_opens(plaintext in prop::collection::vec(any::<u8>(), 1..2000), id: u32, v1: bool) {
            for cipher in ciphers() {
                let (seal_key, open_key) = pair(cipher);
                let header = SendHeader::new((!v1).then_some(77), 3);
                let sealed = seal(&seal_key, header, id, &plaintext);
                prop_assert_eq!(open(&open_key, &sealed).unwrap(), plaintext.clone());
            }
        }
    }
}
