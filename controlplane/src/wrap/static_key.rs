//! The static key of tls-auth and tls-crypt: 256 bytes, and the text file that holds them. How the
//! bytes are used is each protection's own matter, apart from where the four keys lie.

use std::fmt;

use zeroize::{Zeroize as _, Zeroizing};

/// The line before the key.
const BEGIN: &str = "-----BEGIN OpenVPN Static key V1-----";
/// The line after the key.
const END: &str = "-----END OpenVPN Static key V1-----";

/// 256 bytes: two key pairs, each 64 bytes for a cipher and 64 for an HMAC. Wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct StaticKey(Box<[u8; Self::LEN]>);

/// Which of the two key pairs of a [`StaticKey`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pair {
    /// Bytes 0..128.
    Key0,
    /// Bytes 128..256.
    Key1,
}

/// What is wrong with the text of a static key. Lines count from 1. Nothing of the key is quoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StaticKeyError {
    /// There is no BEGIN line.
    #[error("no line \"-----BEGIN OpenVPN Static key V1-----\"")]
    NoBegin,
    /// There is no END line after the BEGIN line.
    #[error("no line \"-----END OpenVPN Static key V1-----\" after the BEGIN line")]
    NoEnd,
    /// Something else than hexadecimal digits and white space.
    #[error("line {line}: a character that is not a hexadecimal digit")]
    NotHex {
        /// The line.
        line: usize,
    },
    /// The key has another length than 512 digits.
    #[error("{digits} hexadecimal digits where 512 (256 bytes) are needed")]
    WrongLength {
        /// Digits found.
        digits: usize,
    },
}

impl StaticKey {
    /// Length in bytes.
    pub const LEN: usize = 256;

    /// The key with these bytes.
    #[must_use]
    pub fn from_bytes(bytes: &[u8; Self::LEN]) -> Self {
        Self(Box::new(*bytes))
    }

    /// The key with these bytes, or `None` if there are not exactly 256.
    #[must_use]
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self::from_bytes)
    }

    /// Reads the text form: 512 hexadecimal digits between the lines
    /// `-----BEGIN OpenVPN Static key V1-----` and `-----END OpenVPN Static key V1-----`, in lines of any
    /// length. Text outside of these lines is ignored, as are lines within that start with `#` or `;`.
    ///
    /// # Errors
    ///
    /// [`StaticKeyError`], which says what is wrong and where.
    pub fn parse(text: &str) -> Result<Self, StaticKeyError> {
        let mut lines = text.lines().zip(1..).map(|(line, number)| (line.trim(), number));
        lines.find(|&(line, _)| line == BEGIN).ok_or(StaticKeyError::NoBegin)?;
        let mut bytes = Zeroizing::new([0; Self::LEN]);
        let mut digits = 0usize;
        for (line, number) in lines {
            if line == END {
                return match digits {
                    512 => Ok(Self::from_bytes(&bytes)),
                    _ => Err(StaticKeyError::WrongLength { digits }),
                };
            }
            if line.starts_with(['#', ';']) {
                continue;
            }
            for character in line.chars().filter(|c| !c.is_whitespace()) {
                let digit = character.to_digit(16).ok_or(StaticKeyError::NotHex { line: number })?;
                if let Some(byte) = bytes.get_mut(digits / 2) {
                    // A digit is below 16, so it fits.
                    *byte = *byte << 4 | digit as u8;
                }
                digits = digits.saturating_add(1);
            }
        }
        Err(StaticKeyError::NoEnd)
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }

    /// The first 32 bytes of a pair's cipher key: what AES-256 takes.
    pub(crate) fn cipher(&self, pair: Pair) -> Zeroizing<[u8; 32]> {
        let mut key = Zeroizing::new([0; 32]);
        let from = pair.offset();
        key.copy_from_slice(&self.0[from..from + 32]);
        key
    }

    /// The first `len` bytes, at most 64, of a pair's HMAC key.
    pub(crate) fn hmac(&self, pair: Pair, len: usize) -> Zeroizing<Vec<u8>> {
        let from = pair.offset() + 64;
        Zeroizing::new(self.0[from..from + len.min(64)].to_vec())
    }
}

impl Pair {
    const fn offset(self) -> usize {
        match self {
            Self::Key0 => 0,
            Self::Key1 => 128,
        }
    }
}

impl Drop for StaticKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl fmt::Debug for StaticKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StaticKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn text(body: &str) -> String {
        format!("#\n# 2048 bit OpenVPN static key\n#\n{BEGIN}\n{body}\n{END}\nleft over\n")
    }

    fn counting() -> String {
        (0..=255).map(|n| format!("{n:02x}{}", if n % 16 == 15 { "\n" } else { "" })).collect()
    }

    #[test]
    fn a_key_file_is_read_with_lines_of_any_length() {
        let expected: Vec<u8> = (0..=255).collect();
        let one_line = counting().replace('\n', "");
        let spaced = counting().replace('0', " 0 ").to_uppercase();
        let windows = counting().replace('\n', "\r\n");
        for body in [counting(), one_line, spaced, windows, format!("# note\n{}", counting())] {
            assert_eq!(StaticKey::parse(&text(&body)).unwrap().as_bytes(), expected.as_slice());
        }
    }

    #[test]
    fn what_is_wrong_with_a_key_file_is_said() {
        let digits = counting();
        let cases = [
            (text(&digits).replace("BEGIN", "START"), StaticKeyError::NoBegin),
            (text(&digits).replace("END", "STOP"), StaticKeyError::NotHex { line: 22 }),
            (format!("{BEGIN}\n{digits}"), StaticKeyError::NoEnd),
            (String::new(), StaticKeyError::NoBegin),
            (text(&digits.replace("0f", "0g")), StaticKeyError::NotHex { line: 5 }),
            (text(&digits[..digits.len() - 2]), StaticKeyError::WrongLength { digits: 511 }),
            (text(&format!("{digits}0")), StaticKeyError::WrongLength { digits: 513 }),
            (text(&format!("{digits}00")), StaticKeyError::WrongLength { digits: 514 }),
            (text(""), StaticKeyError::WrongLength { digits: 0 }),
        ];
        for (text, expected) in cases {
            assert_eq!(StaticKey::parse(&text), Err(expected), "{expected}");
        }
    }

    #[test]
    fn the_four_keys_lie_where_the_format_puts_them() {
        let key = StaticKey::parse(&text(&counting())).unwrap();
        assert_eq!(key.cipher(Pair::Key0)[0], 0);
        assert_eq!(key.hmac(Pair::Key0, 20)[0], 64);
        assert_eq!(key.cipher(Pair::Key1)[0], 128);
        assert_eq!(key.hmac(Pair::Key1, 20)[0], 192);
        assert_eq!(key.hmac(Pair::Key1, 20).len(), 20);
        assert_eq!(key.hmac(Pair::Key1, 64)[63], 255);
    }

    #[test]
    fn a_key_has_exactly_256_bytes_and_does_not_show_them() {
        assert!(StaticKey::from_slice(&[0; 255]).is_none());
        assert!(StaticKey::from_slice(&[0; 257]).is_none());
        let key = StaticKey::from_slice(&[0xab; 256]).unwrap();
        assert_eq!(format!("{key:?}"), "StaticKey(..)");
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic(body in "\\PC*") {
            let _ = StaticKey::parse(&body);
            let _ = StaticKey::parse(&text(&body));
        }
    }
}
