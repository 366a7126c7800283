//! The Internet checksum (RFC 1071): sums that are folded late, pseudo-headers, and incremental updates (RFC 1624).
//!
//! A one's complement sum does not depend on byte order, so everything is summed as the host's words and stored back
//! the same way. Long inputs are summed by the widest vectors of this CPU ([`sys::simd`](crate::sys::simd)).

use crate::sys::simd;

/// From this many bytes on the vectors win what choosing them costs; headers and small packets are summed in place.
const VECTORS_PAY: usize = 128;

/// A sum that is not folded yet. It holds at least 64 KiB of words many times over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sum(u64);

impl Sum {
    /// Adds bytes; an odd last byte is followed by a zero. Only the last piece of a sum may have an odd length.
    #[inline]
    #[must_use]
    pub fn bytes(self, bytes: &[u8]) -> Self {
        Sum(self.0 + if bytes.len() < VECTORS_PAY { simd::scalar(bytes) } else { simd::sum(bytes) })
    }

    /// Adds a 16-bit number.
    #[inline]
    #[must_use]
    pub fn number(self, number: u16) -> Self {
        Sum(self.0 + u64::from(number.to_be()))
    }

    /// Takes a 16-bit number away again.
    #[inline]
    #[must_use]
    pub fn without(self, number: u16) -> Self {
        self.number(!number)
    }

    /// The sum folded to 16 bits, as it is stored where the kernel or the hardware completes it (not inverted).
    #[inline]
    pub fn partial(self) -> [u8; 2] {
        self.fold().to_ne_bytes()
    }

    /// The checksum as it is stored: folded and inverted.
    #[inline]
    pub fn checksum(self) -> [u8; 2] {
        (!self.fold()).to_ne_bytes()
    }

    /// The sum of everything, checksum included, is that of an intact packet.
    #[inline]
    pub fn is_intact(self) -> bool {
        self.fold() == 0xffff
    }

    #[inline]
    fn fold(self) -> u16 {
        let mut sum = self.0;
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff_ffff) + (sum >> 32);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }
}

/// The pseudo-header of TCP and UDP (RFC 9293 §3.1, RFC 8200 §8.1): `addresses` are source and destination together
/// (8 or 32 bytes), `len` is that of transport header and payload.
#[inline]
pub fn pseudo_header(addresses: &[u8], protocol: u8, len: usize) -> Sum {
    // RFC 8200 has the length as 32 bits; a packet here has less than 2^17 bytes.
    Sum::default().bytes(addresses).number(u16::from(protocol)).number((len >> 16) as u16).number(len as u16)
}

/// The checksum after a 16-bit field changed from `old` to `new` (RFC 1624, equation 3). `odd`: the field starts at an odd
/// offset of the checksummed bytes, so its bytes stand in each other's place.
pub fn update(checksum: [u8; 2], old: [u8; 2], new: [u8; 2], odd: bool) -> [u8; 2] {
    let order = |[a, b]: [u8; 2]| if odd { [b, a] } else { [a, b] };
    let not = |[a, b]: [u8; 2]| [!a, !b];
    Sum::default().bytes(&not(checksum)).bytes(&not(order(old))).bytes(&order(new)).checksum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// RFC 1071 §4.1, word by word.
    fn plain(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    #[test]
    fn the_example_of_rfc_1071_comes_out() {
        let sum = Sum::default().bytes(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]);
        assert_eq!(sum.partial(), [0xdd, 0xf2]);
        assert_eq!(sum.checksum(), [!0xdd, !0xf2]);
    }

    #[test]
    fn an_intact_header_is_told_from_a_broken_one() {
        let header = [
            0x45, 0x00, 0x00, 0x73, 0x00, 0x00, 0x40, 0x00, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0x00, 0x01, 0xc0, 0xa8,
            0x00, 0xc7,
        ];
        assert!(Sum::default().bytes(&header).is_intact());
        for at in 0..header.len() {
            let mut broken = header;
            broken[at] ^= 4;
            assert!(!Sum::default().bytes(&broken).is_intact());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

        #[test]
        fn the_sum_agrees_with_the_plain_one(bytes in prop::collection::vec(any::<u8>(), 0..3000), number: u16) {
            let sum = Sum::default().number(number).bytes(&bytes);
            let expected = plain(&[&number.to_be_bytes()[..], &bytes].concat());
            prop_assert_eq!(sum.partial(), expected.to_be_bytes());
        }

        #[test]
        fn what_was_added_can_be_taken_away(bytes in prop::collection::vec(any::<u8>(), 1..300), number: u16) {
            let sum = Sum::default().number(1).bytes(&bytes);
            prop_assert_eq!(sum.number(number).without(number).partial(), sum.partial());
        }

        #[test]
        fn an_update_agrees_with_a_new_sum(
            mut bytes in prop::collection::vec(any::<u8>(), 4..100), at: prop::sample::Index, new: [u8; 2],
        ) {
            let at = at.index(bytes.len() - 1);
            let before = Sum::default().bytes(&bytes).checksum();
            let old = [bytes[at], bytes[at + 1]];
            bytes[at..at + 2].copy_from_slice(&new);
            let after = Sum::default().bytes(&bytes).checksum();
            let updated = update(before, old, new, at % 2 == 1);
            // 0x0000 and 0xffff are the same number in one's complement.
            let number = |checksum: [u8; 2]| u16::from_be_bytes(checksum) % 0xffff;
            prop_assert_eq!(number(updated), number(after));
        }

        #[test]
        fn all_ones_do_not_overflow(len in 60_000usize..65_536) {
            let bytes = vec![0xff; len];
            let sum = Sum::default().bytes(&bytes);
            prop_assert_eq!(u16::from_be_bytes(sum.partial()), plain(&bytes));
        }
    }
}
