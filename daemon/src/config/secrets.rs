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
