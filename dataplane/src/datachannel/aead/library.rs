//! Keys of the AEAD library that the build chose: aws-lc or ring.

#[cfg(not(feature = "aws-lc"))]
use ring::aead;

#[cfg(feature = "aws-lc")]
use aws_lc_rs::aead;

use aead::{Aad, LessSafeKey, UnboundKey};
use link::message::Cipher;

use super::{PaddedNonce, TAG_LEN};

/// The library's name.
pub(super) const NAME: &str = if cfg!(feature = "aws-lc") { "aws-lc" } else { "ring" };

/// The library's name for the cipher; `None` when it has none.
#[cfg(feature = "aws-lc")]
pub(super) fn algorithm(cipher: Cipher) -> Option<&'static aead::Algorithm> {
    Some(match cipher {
        Cipher::Aes128Gcm => &aead::AES_128_GCM,
        Cipher::Aes192Gcm => &aead::AES_192_GCM,
        Cipher::Aes256Gcm => &aead::AES_256_GCM,
        Cipher::ChaCha20Poly1305 => &aead::CHACHA20_POLY1305,
    })
}

/// The library's name for the cipher; `None` when it has none.
#[cfg(not(feature = "aws-lc"))]
pub(super) fn algorithm(cipher: Cipher) -> Option<&'static aead::Algorithm> {
    match cipher {
        Cipher::Aes128Gcm => Some(&aead::AES_128_GCM),
        Cipher::Aes192Gcm => None,
        Cipher::Aes256Gcm => Some(&aead::AES_256_GCM),
        Cipher::ChaCha20Poly1305 => Some(&aead::CHACHA20_POLY1305),
    }
}

/// An expanded key. The library frees it (aws-lc wipes what it frees).
pub(super) struct Key(LessSafeKey);

impl Key {
    /// `None` when the length is wrong or the library lacks the cipher.
    pub(super) fn new(cipher: Cipher, key: &[u8]) -> Option<Self> {
        UnboundKey::new(algorithm(cipher)?, key).ok().map(|key| Key(LessSafeKey::new(key)))
    }

    /// Encrypts `plaintext` into `ciphertext` and writes the tag. False when the two differ in length.
    #[cfg(feature = "aws-lc")]
    #[inline]
    pub(super) fn seal(
        &mut self,
        padded: PaddedNonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        let same = plaintext.len() == ciphertext.len();
        same && self.0.seal_out_of_place_scatter(nonce(padded), Aad::from(aad), plaintext, ciphertext, &[], tag).is_ok()
    }

    /// Encrypts `plaintext` into `ciphertext` and writes the tag. False when the two differ in length.
    #[cfg(not(feature = "aws-lc"))]
    #[inline]
    pub(super) fn seal(
        &mut self,
        padded: PaddedNonce,
        aad: &[u8],
        plaintext: &[u8],
        ciphertext: &mut [u8],
        tag: &mut [u8; TAG_LEN],
    ) -> bool {
        if plaintext.len() != ciphertext.len() {
            return false;
        }
        ciphertext.copy_from_slice(plaintext);
        match self.0.seal_in_place_separate_tag(nonce(padded), Aad::from(aad), ciphertext) {
            Ok(computed) => {
                tag.copy_from_slice(computed.as_ref());
                true
            }
            Err(_) => false,
        }
    }

    /// Decrypts `ciphertext` into `plaintext`. False when the tag differs, or the lengths do: `plaintext` is undefined then.
    #[cfg(feature = "aws-lc")]
    #[inline]
    pub(super) fn open(
        &mut self,
        padded: PaddedNonce,
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> bool {
        self.0.open_separate_gather(nonce(padded), Aad::from(aad), ciphertext, tag, plaintext).is_ok()
    }

    /// Decrypts `ciphertext` into `plaintext`. False when the tag differs, or the lengths do: `plaintext` is undefined then.
    #[cfg(not(feature = "aws-lc"))]
    #[inline]
    pub(super) fn open(
        &mut self,
        padded: PaddedNonce,
        aad: &[u8],
        ciphertext: &[u8],
        tag: &[u8; TAG_LEN],
        plaintext: &mut [u8],
    ) -> bool {
        if plaintext.len() != ciphertext.len() {
            return false;
        }
        plaintext.copy_from_slice(ciphertext);
        let tag = aead::Tag::from(*tag);
        self.0.open_in_place_separate_tag(nonce(padded), Aad::from(aad), tag, plaintext, 0..).is_ok()
    }
}

#[inline]
fn nonce(padded: PaddedNonce) -> aead::Nonce {
    let [a, b, c, d, e, f, g, h, i, j, k, l, ..] = padded.to_le_bytes();
    aead::Nonce::assume_unique_for_key([a, b, c, d, e, f, g, h, i, j, k, l])
}
