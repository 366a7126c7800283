//! A new key for tls-crypt, in the text form of OpenVPN's static key files.

use std::fmt::Write as _;

use controlplane::Random;
use controlplane::wrap::static_key::StaticKey;
use zeroize::Zeroizing;

/// Bytes in a line of the file.
const IN_A_LINE: usize = 16;

/// 256 new random bytes as the text of a key file.
pub fn new(rng: &mut dyn Random) -> Zeroizing<String> {
    let mut bytes = Zeroizing::new([0; StaticKey::LEN]);
    rng.fill(&mut *bytes);
    // Reserved whole, so that no copy stays behind when it grows.
    let mut text = Zeroizing::new(String::with_capacity(1_024));
    text.push_str("-----BEGIN OpenVPN Static key V1-----\n");
    for line in bytes.chunks(IN_A_LINE) {
        for byte in line {
            // Writing into a string does not fail.
            let _ = write!(text, "{byte:02x}");
        }
        text.push('\n');
    }
    text.push_str("-----END OpenVPN Static key V1-----\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::fixture::Seeded;

    #[test]
    fn a_new_key_is_read_back_and_is_another_each_time() {
        let mut rng = Seeded(1);
        let (one, other) = (new(&mut rng), new(&mut rng));
        assert_ne!(*one, *other);
        let mut expected = [0; StaticKey::LEN];
        Seeded(1).fill(&mut expected);
        assert_eq!(StaticKey::parse(&one).unwrap().as_bytes(), &expected);
        assert_eq!(one.lines().count(), 18);
    }
}
