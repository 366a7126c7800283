//! A certificate's serial number.

use std::fmt;
use std::str::FromStr;

use controlplane::Random;
use serde::{Deserialize, Serialize};

/// A serial number of at most 128 bits. Printed as 32 hexadecimal digits, as `openssl x509 -serial` prints ours but for
/// the case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(u128);

/// Text that is no serial number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a serial number is at most 32 hexadecimal digits")]
pub struct BadSerial;

impl Serial {
    /// A new one: 126 random bits after `01`, so that it is positive and always 16 bytes long (RFC 5280, 4.1.2.2: at most
    /// 20 bytes, positive, unique).
    pub fn random(rng: &mut dyn Random) -> Serial {
        let mut bytes = [0; 16];
        rng.fill(&mut bytes);
        bytes[0] = bytes[0] & 0x3f | 0x40;
        Serial(u128::from_be_bytes(bytes))
    }

    /// The number that a certificate carries as these big-endian bytes; `None` when it is longer than 128 bits.
    pub fn from_bytes(bytes: &[u8]) -> Option<Serial> {
        let first = bytes.iter().position(|byte| *byte != 0).unwrap_or(bytes.len());
        let bytes = bytes.get(first..)?;
        if bytes.len() > 16 {
            return None;
        }
        Some(Serial(bytes.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))))
    }

    /// Big-endian, without leading zero bytes.
    pub fn to_bytes(self) -> Vec<u8> {
        let bytes = self.0.to_be_bytes();
        bytes.into_iter().skip_while(|byte| *byte == 0).collect()
    }

    /// As OpenVPN prints it for scripts (`tls_serial_0`): decimal.
    pub fn decimal(self) -> String {
        self.0.to_string()
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl FromStr for Serial {
    type Err = BadSerial;

    fn from_str(text: &str) -> Result<Serial, BadSerial> {
        let sized = (1..=32).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        u128::from_str_radix(text, 16).ok().filter(|_| sized).map(Serial).ok_or(BadSerial)
    }
}

impl TryFrom<String> for Serial {
    type Error = BadSerial;

    fn try_from(text: String) -> Result<Serial, BadSerial> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> String {
        serial.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::Seeded;

    #[test]
    fn a_random_serial_is_positive_long_and_new() {
        let mut rng = Seeded(1);
        let some: Vec<Serial> = (0..200).map(|_| Serial::random(&mut rng)).collect();
        assert!(some.iter().all(|serial| serial.to_bytes().len() == 16 && serial.to_bytes()[0] & 0xc0 == 0x40));
        assert_eq!(some.iter().collect::<std::collections::HashSet<_>>().len(), 200);
    }

    #[test]
    fn a_serial_survives_every_way_of_writing_it() {
        let serial = Serial::random(&mut Seeded(2));
        assert_eq!(Serial::from_bytes(&serial.to_bytes()), Some(serial));
        assert_eq!(serial.to_string().parse(), Ok(serial));
        assert_eq!(serial.to_string().to_uppercase().parse(), Ok(serial));
        assert_eq!(Serial(0x1ff).decimal(), "511");
        assert_eq!(Serial::from_bytes(&[0, 1, 255]), Some(Serial(0x1ff)));
        assert_eq!(Serial::from_bytes(&[0; 30]), Some(Serial(0)));
        assert_eq!(Serial::from_bytes(&[1; 17]), None);
        for bad in ["", "xyz", "+1", "-1", &"0".repeat(33)] {
            assert_eq!(bad.parse::<Serial>(), Err(BadSerial), "{bad}");
        }
    }
}
