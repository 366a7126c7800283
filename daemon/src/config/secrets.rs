//! Texts that must not end in logs or in freed memory, and the static key file. Raw bytes that cross a ring are
//! [`controlplane::Secret`].

use std::fmt;

use controlplane::Secret;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::values::Trouble;

/// A text that wipes itself on drop and never prints.
#[derive(Clone, Default, PartialEq, Eq, Zeroize, ZeroizeOnDrop)]
pub struct SecretText(String);

impl SecretText {
    /// The text.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<&str> for SecretText {
    fn from(text: &str) -> Self {
        SecretText(text.to_owned())
    }
}

impl fmt::Debug for SecretText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretText({} bytes)", self.0.len())
    }
}

/// Length of a static key, in bytes: two pairs of a cipher key and an HMAC key of 64 bytes each.
pub const STATIC_KEY_LEN: usize = 256;

/// The 256 bytes of an "OpenVPN Static key V1" (`tls-auth`, `tls-crypt`): hexadecimal digits between the two marker lines; white space
/// does not matter, and neither does what is written around them.
pub fn static_key(text: &str) -> Result<Secret, Trouble> {
    let body = text
        .split_once("-----BEGIN OpenVPN Static key V1-----")
        .and_then(|(_, rest)| rest.split_once("-----END OpenVPN Static key V1-----"))
        .map(|(body, _)| body)
        .ok_or_else(|| {
            Trouble::new("no OpenVPN static key in it").instead("make one with `openvpn --genkey secret ta.key`")
        })?;
    let mut digits = Zeroizing::new(Vec::with_capacity(body.len()));
    for c in body.chars().filter(|c| !c.is_ascii_whitespace()) {
        let digit = c.to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        digits.push(digit.ok_or_else(|| Trouble::new("the static key has something that is not a hexadecimal digit"))?);
    }
    if digits.len() != 2 * STATIC_KEY_LEN {
        let what = format!("the static key has {} hexadecimal digits instead of {}", digits.len(), 2 * STATIC_KEY_LEN);
        return Err(Trouble::new(what).instead("copy it again, all of its lines"));
    }
    Ok(Secret(digits.chunks_exact(2).map(|pair| pair.iter().fold(0, |byte, digit| (byte << 4) | digit)).collect()))
}

/// Length of the key of `auth-gen-token-secret`, in bytes: a cipher key and an HMAC key of 64 bytes each.
pub const TOKEN_KEY_LEN: usize = 128;

/// The first 128 bytes of an "OpenVPN auth-token server key": base64 between the two marker lines. What follows them is not used.
pub fn token_key(text: &str) -> Result<Secret, Trouble> {
    use base64::Engine;
    let body = text
        .split_once("-----BEGIN OpenVPN auth-token server key-----")
        .and_then(|(_, rest)| rest.split_once("-----END OpenVPN auth-token server key-----"))
        .map(|(body, _)| body)
        .ok_or_else(|| {
            Trouble::new("no key for tokens in it").instead("make one with `openvpn --genkey auth-token token.key`")
        })?;
    let digits = Zeroizing::new(body.split_ascii_whitespace().collect::<String>());
    let bytes = base64::engine::general_purpose::STANDARD.decode(digits.as_str()).map(Zeroizing::new);
    let bytes = bytes.map_err(|_| Trouble::new("the key for tokens is not base64"))?;
    match bytes.get(..TOKEN_KEY_LEN) {
        Some(key) => Ok(Secret(key.to_vec())),
        None => {
            let what = format!("the key for tokens has {} bytes instead of {TOKEN_KEY_LEN}", bytes.len());
            Err(Trouble::new(what).instead("copy it again, all of its lines"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key_file(digits: &str) -> String {
        format!(
            "#\n# 2048 bit OpenVPN static key\n-----BEGIN OpenVPN Static key V1-----\n{digits}\n-----END OpenVPN Static key V1-----\n"
        )
    }

    #[test]
    fn a_secret_prints_its_length_only() {
        assert_eq!(format!("{:?}", SecretText::from("hunter2")), "SecretText(7 bytes)");
    }

    #[test]
    fn a_static_key_is_256_bytes_however_its_lines_are_broken() {
        let hex: String = (0..=255_u8).map(|byte| format!("{byte:02x}")).collect();
        let expected: Vec<u8> = (0..=255).collect();
        assert_eq!(static_key(&key_file(&hex)).unwrap().0, expected);
        let broken: String = hex.to_uppercase().chars().map(|c| format!("{c} \r\n")).collect();
        assert_eq!(static_key(&key_file(&broken)).unwrap().0, expected);
    }

    #[test]
    fn a_key_for_tokens_is_the_first_128_bytes() {
        use base64::Engine;
        let file = |bytes: &[u8]| {
            let text = base64::engine::general_purpose::STANDARD.encode(bytes);
            let (one, two) = text.split_at(text.len() / 2);
            format!(
                "-----BEGIN OpenVPN auth-token server key-----\n{one}\r\n{two}\n-----END OpenVPN auth-token server key-----\n"
            )
        };
        let long: Vec<u8> = (0..=255).collect();
        for bytes in [&long[..], &long[..128]] {
            assert_eq!(token_key(&file(bytes)).unwrap().0, long[..128]);
        }
        assert!(token_key(&file(&long[..127])).unwrap_err().what.contains("127 bytes instead of 128"));
        assert!(token_key(&file(&long).replace("AAEC", "*AEC")).unwrap_err().what.contains("not base64"));
        assert!(token_key("").unwrap_err().sentence().contains("--genkey auth-token"));
    }

    #[test]
    fn a_damaged_static_key_is_refused_without_showing_it() {
        let hex = "ab".repeat(256);
        for wrong in [
            key_file(&hex[1..]),
            key_file(&format!("{hex}a")),
            key_file(&hex.replace('a', "g")),
            hex.clone(),
            String::new(),
        ] {
            let trouble = static_key(&wrong).unwrap_err();
            assert!(!trouble.sentence().contains("abab") && !trouble.sentence().contains("bb"));
        }
    }
}
