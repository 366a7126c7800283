//! Values inside directives: numbers, addresses, networks, names. Each either yields a checked value or a sentence that says what
//! was expected.

use std::net::{Ipv4Addr, Ipv6Addr};

/// What is wrong with a directive, without its position.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// One sentence, without a full stop.
    pub what: String,
    /// What to write instead, when we know.
    pub instead: Option<String>,
}

impl Trouble {
    /// A trouble without advice.
    pub fn new(what: impl Into<String>) -> Self {
        Trouble { what: what.into(), instead: None }
    }

    /// The same with advice.
    pub fn instead(mut self, instead: impl Into<String>) -> Self {
        self.instead = Some(instead.into());
        self
    }

    /// Both parts as one line.
    pub fn sentence(&self) -> String {
        match &self.instead {
            Some(instead) => format!("{}: {instead}", self.what),
            None => self.what.clone(),
        }
    }
}

/// A decimal number in `range`; `unit` goes into the sentence (`"seconds"`), and may be empty.
pub fn number(text: &str, range: std::ops::RangeInclusive<u64>, unit: &str) -> Result<u64, Trouble> {
    let wrong = || {
        let of = if unit.is_empty() { "" } else { " of " };
        Trouble::new(format!("{} is not a number{of}{unit} from {} to {}", quoted(text), range.start(), range.end()))
    };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(wrong());
    }
    text.parse().ok().filter(|value| range.contains(value)).ok_or_else(wrong)
}

/// A decimal number in `range` that fits 32 bits.
pub fn number32(text: &str, range: std::ops::RangeInclusive<u32>, unit: &str) -> Result<u32, Trouble> {
    let wide = u64::from(*range.start())..=u64::from(*range.end());
    number(text, wide, unit).map(|value| u32::try_from(value).unwrap_or(u32::MAX))
}

/// A decimal number in `range` that fits 16 bits.
pub fn number16(text: &str, range: std::ops::RangeInclusive<u16>, unit: &str) -> Result<u16, Trouble> {
    let wide = u64::from(*range.start())..=u64::from(*range.end());
    number(text, wide, unit).map(|value| u16::try_from(value).unwrap_or(u16::MAX))
}

/// Seconds, at most a year: what is longer is a mistake, and sums of a few never overflow.
pub fn seconds(text: &str) -> Result<u32, Trouble> {
    number32(text, 0..=31_536_000, "seconds")
}

/// A port number, 1..=65535.
pub fn port(text: &str) -> Result<u16, Trouble> {
    number16(text, 1..=u16::MAX, "port")
        .map_err(|_| Trouble::new(format!("{} is not a port", quoted(text))).instead("write a number from 1 to 65535"))
}

/// An IPv4 address.
pub fn ipv4(text: &str) -> Result<Ipv4Addr, Trouble> {
    text.parse().map_err(|_| Trouble::new(format!("{} is not an IPv4 address", quoted(text))))
}

/// An IPv6 address.
pub fn ipv6(text: &str) -> Result<Ipv6Addr, Trouble> {
    text.parse().map_err(|_| Trouble::new(format!("{} is not an IPv6 address", quoted(text))))
}

/// `address/bits`
pub fn ipv6_with_bits(text: &str) -> Result<(Ipv6Addr, u8), Trouble> {
    let (address, bits) = text.split_once('/').unwrap_or((text, "128"));
    let bits = number(bits, 0..=128, "bits")?;
    Ok((ipv6(address)?, u8::try_from(bits).unwrap_or(128)))
}

/// Prefix length of a netmask; refuses masks with holes.
pub fn netmask(mask: Ipv4Addr) -> Result<u8, Trouble> {
    let bits = u32::from(mask);
    if bits.leading_ones() + bits.trailing_zeros().min(32) < 32 {
        return Err(Trouble::new(format!("{mask} is not a netmask")).instead("write one like 255.255.255.0"));
    }
    Ok(u8::try_from(bits.leading_ones()).unwrap_or(32))
}

/// The first address of the network that `address` lies in.
pub fn ipv4_network(address: Ipv4Addr, prefix: u8) -> Ipv4Addr {
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    Ipv4Addr::from(u32::from(address) & mask)
}

/// The first address of the network that `address` lies in.
pub fn ipv6_network(address: Ipv6Addr, prefix: u8) -> Ipv6Addr {
    let mask = u128::MAX.checked_shl(128 - u32::from(prefix.min(128))).unwrap_or(0);
    Ipv6Addr::from(u128::from(address) & mask)
}

/// An interface name as the kernel takes it (`dev_valid_name` in net/core/dev.c): 1..=15 bytes, no `/`, `:` or space, not `.` or `..`.
pub fn interface(text: &str) -> Result<String, Trouble> {
    let fits = (1..=15).contains(&text.len()) && text != "." && text != "..";
    if fits && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/' && byte != b':') {
        return Ok(text.to_owned());
    }
    Err(Trouble::new(format!("{} is not an interface name", quoted(text))).instead("at most 15 letters and digits"))
}

/// Text from outside, for a sentence: in quotes, printable, at most 60 characters.
pub fn quoted(text: &str) -> String {
    format!("\"{}\"", printable(text))
}

/// Text from outside, for a sentence that marks it in another way than by quotes: printable, at most 60 characters.
pub fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(60).flat_map(char::escape_debug).collect();
    if text.chars().nth(60).is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_must_be_digits_within_its_range() {
        assert_eq!(number("0", 0..=10, "seconds"), Ok(0));
        assert_eq!(number("10", 0..=10, "seconds"), Ok(10));
        for wrong in ["", "11", "-1", "+1", "1s", " 1", "99999999999999999999"] {
            assert!(number(wrong, 0..=10, "seconds").is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_port_is_never_zero() {
        assert_eq!(port("65535"), Ok(65_535));
        assert!(port("0").is_err());
        assert!(port("65536").is_err());
    }

    #[test]
    fn a_netmask_has_no_holes() {
        let of = |text: &str| netmask(text.parse().unwrap());
        assert_eq!(of("0.0.0.0"), Ok(0));
        assert_eq!(of("255.255.255.0"), Ok(24));
        assert_eq!(of("255.255.255.255"), Ok(32));
        assert!(of("255.0.255.0").is_err());
        assert!(of("0.0.0.1").is_err());
    }

    #[test]
    fn host_bits_of_a_network_are_cleared() {
        assert_eq!(ipv4_network(Ipv4Addr::new(10, 8, 0, 77), 24), Ipv4Addr::new(10, 8, 0, 0));
        assert_eq!(ipv4_network(Ipv4Addr::new(10, 8, 0, 77), 0), Ipv4Addr::UNSPECIFIED);
        assert_eq!(ipv4_network(Ipv4Addr::new(10, 8, 0, 77), 32), Ipv4Addr::new(10, 8, 0, 77));
        assert_eq!(ipv6_network("fd00::77".parse().unwrap(), 64), "fd00::".parse::<Ipv6Addr>().unwrap());
        assert_eq!(ipv6_network("fd00::77".parse().unwrap(), 0), Ipv6Addr::UNSPECIFIED);
    }

    #[test]
    fn an_interface_name_is_one_the_kernel_takes() {
        assert!(interface("tun0").is_ok());
        assert!(interface("abcdefghijklmno").is_ok());
        for wrong in ["", ".", "..", "a/b", "a:b", "a b", "abcdefghijklmnop", "tün"] {
            assert!(interface(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn control_characters_never_reach_a_sentence() {
        assert_eq!(quoted("a\u{1b}[2J\"b"), "\"a\\u{1b}[2J\\\"b\"");
    }
}
