//! The primitives of the control channel: HMAC, AES-256-CTR, the TLS 1.0 PRF, SHA-256, random bytes
//! and comparison in constant time. Apart from the TLS provider this is the only file that names a
//! cryptographic library; protocols and key slices belong to their own files.

#[cfg(feature = "aws-lc")]
use aws_lc_rs as backend;
#[cfg(all(feature = "ring", not(feature = "aws-lc")))]
use ring as backend;

use aes::Aes256;
use backend::rand::SecureRandom as _;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use hmac::{Hmac, KeyInit as _, Mac as _};
use md5::Md5;
use serde::{Deserialize, Serialize};
use sha1::Sha1;
use subtle::ConstantTimeEq as _;
use zeroize::{Zeroize as _, Zeroizing};

#[cfg(not(any(feature = "aws-lc", feature = "ring")))]
compile_error!("one of the features `aws-lc` and `ring` is needed");

/// A source of random bytes. A parameter everywhere, so that a seed replays any run.
pub trait Random {
    /// Fills `out` with bytes that nobody can predict.
    fn fill(&mut self, out: &mut [u8]);
}

/// The operating system's random source, through the cryptographic library. The first use may read
/// the kernel's entropy, so warm it up before a system-call filter is installed.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    /// # Panics
    ///
    /// If the kernel gives no random bytes. No key or session id may then be made, and nothing that a
    /// peer sends can bring this about.
    fn fill(&mut self, out: &mut [u8]) {
        backend::rand::SystemRandom::new().fill(out).expect("the kernel gives random bytes");
    }
}

/// The digests that `auth` may name for tls-auth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Digest {
    /// SHA-1: what tls-auth uses where `auth` is not given.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl Digest {
    /// Length of the digest, which is also the length of OpenVPN's HMAC key, in bytes.
    #[must_use]
    #[allow(clippy::len_without_is_empty)] // no digest is empty
    pub const fn len(self) -> usize {
        match self {
            Self::Sha1 => 20,
            Self::Sha256 => 32,
            Self::Sha384 => 48,
            Self::Sha512 => 64,
        }
    }

    /// The digest with this OpenVPN name, in either case: `SHA1`, `SHA256`, `SHA384`, `SHA512`, with or
    /// without a hyphen after `SHA`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        const NAMES: [(&str, Digest); 8] = [
            ("SHA1", Digest::Sha1),
            ("SHA-1", Digest::Sha1),
            ("SHA256", Digest::Sha256),
            ("SHA-256", Digest::Sha256),
            ("SHA384", Digest::Sha384),
            ("SHA-384", Digest::Sha384),
            ("SHA512", Digest::Sha512),
            ("SHA-512", Digest::Sha512),
        ];
        NAMES.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|&(_, digest)| digest)
    }

    /// The name as OpenVPN writes it on the wire: `SHA1`, `SHA256`, `SHA384`, `SHA512`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }
}

/// The output of an HMAC: [`Digest::len`] bytes, wiped when dropped.
#[derive(Clone)]
pub struct Tag {
    bytes: [u8; 64],
    len: usize,
}

impl AsRef<[u8]> for Tag {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Drop for Tag {
    fn drop(&mut self) {
        self.bytes.zeroize();
    }
}

/// HMAC (RFC 2104) over `parts` as if they were one message, without joining them in memory.
#[must_use]
pub fn hmac(digest: Digest, key: &[u8], parts: &[&[u8]]) -> Tag {
    let algorithm = match digest {
        Digest::Sha1 => backend::hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        Digest::Sha256 => backend::hmac::HMAC_SHA256,
        Digest::Sha384 => backend::hmac::HMAC_SHA384,
        Digest::Sha512 => backend::hmac::HMAC_SHA512,
    };
    let mut context = backend::hmac::Context::with_key(&backend::hmac::Key::new(algorithm, key));
    parts.iter().for_each(|part| context.update(part));
    let signed = context.sign();
    let mut tag = Tag { bytes: [0; 64], len: digest.len() };
    tag.bytes[..tag.len].copy_from_slice(signed.as_ref());
    tag
}

/// SHA-256 (FIPS 180-4).
#[must_use]
pub fn sha256(data: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(backend::digest::digest(&backend::digest::SHA256, data).as_ref());
    out
}

/// SHA-1 (FIPS 180-4), as a name for certificates only.
#[must_use]
pub fn sha1(data: &[u8]) -> [u8; 20] {
    use sha1::Digest as _;
    Sha1::digest(data).into()
}

/// Encrypts or decrypts `data` in place with AES-256-CTR; the whole of `iv` is the first block's
/// 128-bit big-endian counter (NIST SP 800-38A).
pub fn aes256_ctr(key: &[u8; 32], iv: &[u8; 16], data: &mut [u8]) {
    Ctr128BE::<Aes256>::new(key.into(), iv.into()).apply_keystream(data);
}

/// Whether both are equal, without telling by the time it takes where they differ. The lengths are
/// not secret.
#[must_use]
pub fn ct_eq(a: &[u8], b: &[u8]) -> bool {
    a.ct_eq(b).into()
}

/// The pseudo-random function of TLS 1.0 and 1.1 (RFC 2246 section 5): P_MD5 over the first half of
/// `secret`, xor P_SHA-1 over the second half (the halves share the middle byte if the length is
/// odd). `parts` is the label and the seed, one after the other. Fills `out`.
///
/// OpenVPN peers before 2.6 derive their data keys with it.
pub fn tls1_prf(secret: &[u8], parts: &[&[u8]], out: &mut [u8]) {
    let half = secret.len().div_ceil(2);
    let (first, second) = (&secret[..half], &secret[secret.len() - half..]);
    out.fill(0);
    xor_p_hash::<20>(|parts| hmac_sha1(second, parts), parts, out);
    xor_p_hash::<16>(|parts| hmac_md5(first, parts), parts, out);
}

/// P_hash of RFC 2246 section 5, xored into `out`. `N` is the digest's length.
fn xor_p_hash<const N: usize>(mac: impl Fn(&[&[u8]]) -> Zeroizing<[u8; N]>, seed: &[&[u8]], out: &mut [u8]) {
    let mut a = mac(seed);
    for chunk in out.chunks_mut(N) {
        let mut parts: Vec<&[u8]> = vec![a.as_slice()];
        parts.extend_from_slice(seed);
        let block = mac(&parts);
        chunk.iter_mut().zip(block.iter()).for_each(|(to, from)| *to ^= from);
        a = mac(&[a.as_slice()]);
    }
}

fn hmac_md5(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 16]> {
    let mut mac = Hmac::<Md5>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

fn hmac_sha1(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 20]> {
    let mut mac = Hmac::<Sha1>::new_from_slice(key).expect("HMAC takes a key of any length");
    parts.iter().for_each(|part| mac.update(part));
    Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wrap::vectors::hex;

    const LOREM: &[u8] = b"Lorem ipsum dolor sit amet, consectetur adipisici elit, sed eiusmod tempor incidunt ut labore et dolore magna aliqua.";

    #[test]
    fn the_tls1_prf_gives_the_known_answer() {
        let seed = b"Quis aute irure reprehenderit in voluptate velit esse cillum dolore";
        let seed2 = b"Quis aute iure reprehenderit in voluptate velit esse cillum dolore";
        let expected = hex("d98c8518c85e946927916acfc2d592fbb1567e4b4b1459e6a904ac2ddab72d67");
        let mut out = [0; 32];
        tls1_prf(LOREM, &[seed2], &mut out);
        assert_eq!(out.as_slice(), expected);
        tls1_prf(LOREM, &[&seed2[..10], &seed2[10..]], &mut out);
        assert_eq!(out.as_slice(), expected, "the cut between label and seed does not matter");
        tls1_prf(LOREM, &[seed], &mut out);
        assert_ne!(out.as_slice(), expected, "another seed");
        let mut secret = LOREM.to_vec();
        secret[58] ^= 1;
        tls1_prf(&secret, &[seed2], &mut out);
        assert_ne!(out.as_slice(), expected, "another middle byte, which both halves share");
    }

    #[test]
    fn the_tls1_prf_chain_of_an_openvpn_key_method_gives_the_known_answer() {
        let pre_master: Vec<u8> = (0..0x30).collect();
        let client_sid: Vec<u8> = (0xc0..0xc8).collect();
        let server_sid: Vec<u8> = (0xd0..0xd8).collect();
        let mut master = [0; 48];
        tls1_prf(&pre_master, &[b"OpenVPN master secret", &[0x11; 32], &[0x33; 32]], &mut master);
        assert_eq!(
            master.as_slice(),
            hex("7c7d0aa80f877d74f501c2ea05659ec1e9c43e7f245177a047cd1915d2d348c74033f9abecf460388499d42ed73346f5")
        );
        let mut key2 = [0; 256];
        let seed: [&[u8]; 5] = [b"OpenVPN key expansion", &[0x22; 32], &[0x44; 32], &client_sid, &server_sid];
        tls1_prf(&master, &seed, &mut key2);
        assert_eq!(key2[..32], hex("286f8d5d9e0f7fe4d5f7ac38b85163a33b0085dd93bf580b9e5c8781ca960ad2"));
        assert_eq!(sha256(&key2).as_slice(), hex("3ef77e00e7906c3e6aaa77a205ec690b411023eda96f70f82155d7ba391e07fd"));
        master[0] ^= 1;
        let mut other = [0; 256];
        tls1_prf(&master, &seed, &mut other);
        assert_ne!(key2, other);
    }

    #[test]
    fn hmac_sha1_gives_the_known_answer() {
        let mut key = [0; 20];
        key[0] = 0x0b;
        let expected = hex("58ea5af04294e917ed84b9f0833023ae8ba77eb8");
        assert_eq!(hmac(Digest::Sha1, &key, &[LOREM, LOREM]).as_ref(), expected);
        assert_ne!(hmac(Digest::Sha1, &key, &[LOREM]).as_ref(), expected);
        assert_eq!(hmac_sha1(&key, &[LOREM, LOREM]).as_slice(), expected);
        key[19] = 1;
        assert_ne!(hmac(Digest::Sha1, &key, &[LOREM, LOREM]).as_ref(), expected);
    }

    /// RFC 4231 test case 1 for the SHA-2 digests.
    #[test]
    fn hmac_gives_the_answers_of_rfc_4231() {
        let key = [0x0b; 20];
        let cases = [
            (Digest::Sha256, "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"),
            (
                Digest::Sha384,
                "afd03944d84895626b0825f4ab46907f15f9dadbe4101ec682aa034c7cebc59cfaea9ea9076ede7f4af152e8b2fa9cb6",
            ),
            (
                Digest::Sha512,
                "87aa7cdea5ef619d4ff0b4241a1d6cb02379f4e2ce4ec2787ad0b30545e17cdedaa833b7d6b8a702038b274eaea3f4e4be9d914eeb61f1702e696c203a126854",
            ),
        ];
        for (digest, expected) in cases {
            let tag = hmac(digest, &key, &[b"Hi ", b"There"]);
            assert_eq!(tag.as_ref(), hex(expected), "{digest:?}");
            assert_eq!(tag.as_ref().len(), digest.len());
            assert_ne!(hmac(digest, &key, &[b"Hi There!"]).as_ref(), hex(expected));
        }
    }

    /// NIST SP 800-38A, F.5.5.
    #[test]
    fn aes_256_ctr_gives_the_answer_of_sp_800_38a() {
        let key: [u8; 32] = hex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4").try_into().unwrap();
        let iv: [u8; 16] = hex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff").try_into().unwrap();
        let mut data = hex("6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51");
        let expected = hex("601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5");
        let plain = data.clone();
        aes256_ctr(&key, &iv, &mut data);
        assert_eq!(data, expected);
        aes256_ctr(&key, &iv, &mut data);
        assert_eq!(data, plain);
        let mut other = iv;
        other[15] ^= 1;
        aes256_ctr(&key, &other, &mut data);
        assert_ne!(data, expected);
    }

    /// The counter is 128 bits wide: it must carry out of the low 64.
    #[test]
    fn the_ctr_counter_carries_over_its_whole_width() {
        let key = [7; 32];
        let mut whole = [0; 32];
        aes256_ctr(&key, &[0xff; 16], &mut whole);
        let mut second = [0; 16];
        aes256_ctr(&key, &[0; 16], &mut second);
        assert_eq!(whole[16..], second);
    }

    #[test]
    fn sha256_gives_the_answer_of_fips_180() {
        let expected = hex("ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(sha256(b"abc").as_slice(), expected);
        assert_ne!(sha256(b"abd").as_slice(), expected);
    }

    #[test]
    fn equal_means_every_byte_and_the_length() {
        assert!(ct_eq(b"", b""));
        assert!(ct_eq(b"abc", b"abc"));
        assert!(!ct_eq(b"abc", b"abd"));
        assert!(!ct_eq(b"abc", b"xbc"));
        assert!(!ct_eq(b"abc", b"abcd"));
    }

    #[test]
    fn the_system_random_source_does_not_repeat_itself() {
        let (mut a, mut b) = ([0; 32], [0; 32]);
        let mut random = SystemRandom;
        random.fill(&mut a);
        random.fill(&mut b);
        assert_ne!(a, b);
        assert_ne!(a, [0; 32]);
    }

    #[test]
    fn digests_are_named_in_either_case() {
        assert_eq!(Digest::from_name("sha256"), Some(Digest::Sha256));
        assert_eq!(Digest::from_name("SHA-512"), Some(Digest::Sha512));
        assert_eq!(Digest::from_name("MD5"), None);
        for digest in [Digest::Sha1, Digest::Sha256, Digest::Sha384, Digest::Sha512] {
            assert_eq!(Digest::from_name(digest.name()), Some(digest));
        }
    }
}
