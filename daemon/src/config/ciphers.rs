//! Names of ciphers and digests, and which of them this build can do.

use controlplane::{Cipher, Digest};

use super::values::{Trouble, quoted};

/// What a cipher's name in a profile means to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Named {
    /// We have it.
    Available(Cipher),
    /// The cipher is known and this build cannot do it, for this reason.
    Unavailable(&'static str),
}

/// `data-ciphers` when the profile has none (OpenVPN 2.6).
pub const DEFAULT: [Cipher; 3] = [Cipher::Aes256Gcm, Cipher::Aes128Gcm, Cipher::ChaCha20Poly1305];

/// AES-192-GCM is not in the `ring` backend.
const HAS_AES_192: bool = cfg!(any(feature = "aws-lc", not(feature = "ring")));

/// A cipher by its name in any case.
pub fn cipher(name: &str) -> Result<Named, Trouble> {
    let upper = name.to_ascii_uppercase();
    let all = [Cipher::Aes128Gcm, Cipher::Aes192Gcm, Cipher::Aes256Gcm, Cipher::ChaCha20Poly1305];
    if let Some(cipher) = all.into_iter().find(|cipher| cipher.name() == upper) {
        let missing = cipher == Cipher::Aes192Gcm && !HAS_AES_192;
        return Ok(if missing {
            Named::Unavailable("this build's crypto backend (ring) does not have it")
        } else {
            Named::Available(cipher)
        });
    }
    let modes = ["-CBC", "-CFB", "-CFB1", "-CFB8", "-OFB"];
    let families = ["AES-", "BF-", "DES-", "CAMELLIA-", "ARIA-", "CAST5-", "SEED-", "SM4-", "RC2-", "IDEA-"];
    let old = families.iter().any(|family| upper.starts_with(family)) && modes.iter().any(|mode| upper.ends_with(mode));
    if old || upper == "NONE" {
        return Ok(Named::Unavailable("only AEAD ciphers are supported"));
    }
    Err(Trouble::new(format!("unknown cipher {}", quoted(name))).instead("write for example AES-256-GCM"))
}

/// `data-ciphers`: what is available, in order and once each, and a sentence on each one left out. A `?` before a name makes it optional.
pub fn list(text: &str) -> Result<(Vec<Cipher>, Vec<Trouble>), Trouble> {
    let (mut ciphers, mut left_out) = (Vec::new(), Vec::new());
    for name in text.split(':') {
        let optional = name.starts_with('?');
        let name = name.trim_start_matches('?');
        match cipher(name) {
            _ if name.eq_ignore_ascii_case("DEFAULT") => ciphers.extend(DEFAULT),
            Ok(Named::Available(cipher)) => ciphers.push(cipher),
            Ok(Named::Unavailable(_)) | Err(_) if optional => {}
            Ok(Named::Unavailable(why)) => {
                left_out.push(Trouble::new(format!("{} is left out: {why}", name.to_ascii_uppercase())))
            }
            Err(trouble) => return Err(trouble),
        }
    }
    let mut seen = Vec::new();
    ciphers.retain(|cipher| {
        !seen.contains(cipher) && {
            seen.push(*cipher);
            true
        }
    });
    if ciphers.is_empty() {
        return Err(Trouble::new("none of these ciphers is available")
            .instead("write `data-ciphers AES-256-GCM:AES-128-GCM:CHACHA20-POLY1305`"));
    }
    Ok((ciphers, left_out))
}

/// `auth`: a digest by its name in any case, as OpenSSL spells them. `None`: known, and not one that we have.
pub fn digest(name: &str) -> Result<Option<Digest>, Trouble> {
    let upper = name.to_ascii_uppercase();
    let bare = upper.strip_prefix("RSA-").unwrap_or(&upper);
    match bare {
        "SHA1" | "SHA-1" | "SHA" => Ok(Some(Digest::Sha1)),
        "SHA256" | "SHA-256" | "SHA2-256" => Ok(Some(Digest::Sha256)),
        "SHA384" | "SHA-384" | "SHA2-384" => Ok(Some(Digest::Sha384)),
        "SHA512" | "SHA-512" | "SHA2-512" => Ok(Some(Digest::Sha512)),
        "NONE" | "MD5" | "MD4" | "SHA224" | "RIPEMD160" | "BLAKE2B512" | "BLAKE2S256" | "WHIRLPOOL" | "SM3" => Ok(None),
        _ if bare.starts_with("SHA3-") || bare.starts_with("SHA512-") => Ok(None),
        _ => {
            Err(Trouble::new(format!("unknown digest {}", quoted(name)))
                .instead("write SHA1, SHA256, SHA384 or SHA512"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_known_in_any_case() {
        assert_eq!(cipher("aes-256-gcm"), Ok(Named::Available(Cipher::Aes256Gcm)));
        assert_eq!(cipher("ChaCha20-Poly1305"), Ok(Named::Available(Cipher::ChaCha20Poly1305)));
        for old in ["AES-256-CBC", "BF-CBC", "none", "camellia-128-cfb8"] {
            assert!(matches!(cipher(old), Ok(Named::Unavailable(_))), "{old}");
        }
        for wrong in ["", "AES-257-GCM", "AES", "-CBC"] {
            assert!(cipher(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn aes_192_follows_the_backend() {
        assert_eq!(matches!(cipher("AES-192-GCM"), Ok(Named::Available(_))), HAS_AES_192);
    }

    #[test]
    fn a_list_keeps_its_order_and_says_what_is_left_out() {
        let (ciphers, left_out) =
            list("CHACHA20-POLY1305:AES-256-CBC:aes-128-gcm:?BF-CBC:?NEW-GCM:CHACHA20-POLY1305").unwrap();
        assert_eq!(ciphers, [Cipher::ChaCha20Poly1305, Cipher::Aes128Gcm]);
        assert_eq!(left_out.len(), 1);
        assert!(left_out[0].what.starts_with("AES-256-CBC is left out"));
        assert_eq!(list("DEFAULT").unwrap().0, DEFAULT);
        assert!(list("AES-256-CBC").is_err());
        assert!(list("AES-256-GCM:NEW-GCM").is_err());
        assert!(list("").is_err());
    }

    #[test]
    fn digests_are_known_by_the_names_of_openssl() {
        for (name, digest_of) in [
            ("sha1", Digest::Sha1),
            ("RSA-SHA256", Digest::Sha256),
            ("SHA2-384", Digest::Sha384),
            ("SHA512", Digest::Sha512),
        ] {
            assert_eq!(digest(name), Ok(Some(digest_of)));
        }
        assert_eq!(digest("MD5"), Ok(None));
        assert!(digest("SHA257").is_err());
    }
}
