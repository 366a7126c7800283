//! The names that a user gives: of a gateway, of a client, of the host that clients connect to. Each is checked where it
//! is read, because it becomes part of a path, a certificate, a unit's name or a line of a configuration.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest name of a client, in bytes: the upper bound of a common name (RFC 5280, ub-common-name).
pub const LONGEST_CLIENT: usize = 64;
/// The longest name of a gateway, in bytes.
pub const LONGEST_GATEWAY: usize = 32;
/// The longest host name, in bytes (RFC 1035, 2.3.4).
const LONGEST_HOST: usize = 253;
/// The longest label of a host name, in bytes (RFC 1035, 2.3.4).
const LONGEST_LABEL: usize = 63;

/// A client's name: the common name of its certificate. 1 to 64 of ASCII letters, digits, `.`, `_`, `-` and `@`, the
/// first of them neither `.` nor `-`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClientName(String);

/// A gateway's name: of its state directory, socket, unit and table. 1 to 32 of ASCII letters, digits, `_` and `-`, the
/// first of them a letter or a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GatewayName(String);

/// Where clients connect to: a host name, or an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Endpoint {
    /// A host name, in the form in which it was given.
    Host(String),
    /// An address.
    Address(IpAddr),
}

/// What is wrong with a name, and what is allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadName(&'static str);

impl ClientName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl GatewayName {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name of the gateway's TUN device, at most 15 bytes (IFNAMSIZ in linux/if.h): `mvpn-` and the name, which is
    /// cut where it is longer than 10 bytes and told from others by a digest of the whole.
    pub fn device(&self) -> String {
        if self.0.len() <= 10 {
            return format!("mvpn-{}", self.0);
        }
        let digest = controlplane::crypto::sha256(self.0.as_bytes());
        let start: String = self.0.chars().take(4).collect();
        let tail: String = digest.iter().take(3).map(|byte| format!("{byte:02x}")).collect();
        format!("mvpn-{start}{tail}")
    }
}

impl FromStr for ClientName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<ClientName, BadName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-@".contains(&byte);
        let sized = (1..=LONGEST_CLIENT).contains(&text.len());
        if sized && text.bytes().all(plain) && !text.starts_with(['.', '-']) {
            return Ok(ClientName(text.to_owned()));
        }
        Err(BadName(
            "a client's name is 1 to 64 of the letters a-z, A-Z, digits, . _ - @, and does not begin with . or -",
        ))
    }
}

impl FromStr for GatewayName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<GatewayName, BadName> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
        let sized = (1..=LONGEST_GATEWAY).contains(&text.len());
        if sized && text.bytes().all(plain) && text.starts_with(|first: char| first.is_ascii_alphanumeric()) {
            return Ok(GatewayName(text.to_owned()));
        }
        Err(BadName(
            "a gateway's name is 1 to 32 of the letters a-z, A-Z, digits, _ -, and begins with a letter or digit",
        ))
    }
}

impl FromStr for Endpoint {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Endpoint, BadName> {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(address) = bare.parse() {
            return Ok(Endpoint::Address(address));
        }
        // A name that ends in a number is a mistyped address (RFC 1123, 2.1).
        let last_is_number = text.rsplit('.').next().is_none_or(|last| last.bytes().all(|byte| byte.is_ascii_digit()));
        if text.len() <= LONGEST_HOST && text.split('.').all(is_label) && !last_is_number {
            return Ok(Endpoint::Host(text.to_owned()));
        }
        Err(BadName(
            "the name or address of this host as clients know it, like vpn.example.com; the port goes to --port",
        ))
    }
}

/// A part of a host name between dots. Underscores are not allowed in host names but occur.
fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    (1..=LONGEST_LABEL).contains(&label.len())
        && label.bytes().all(plain)
        && !label.starts_with('-')
        && !label.ends_with('-')
}

impl fmt::Display for ClientName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for GatewayName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Endpoint::Host(name) => f.write_str(name),
            Endpoint::Address(address) => address.fmt(f),
        }
    }
}

impl TryFrom<String> for ClientName {
    type Error = BadName;

    fn try_from(text: String) -> Result<ClientName, BadName> {
        text.parse()
    }
}

impl TryFrom<String> for GatewayName {
    type Error = BadName;

    fn try_from(text: String) -> Result<GatewayName, BadName> {
        text.parse()
    }
}

impl TryFrom<String> for Endpoint {
    type Error = BadName;

    fn try_from(text: String) -> Result<Endpoint, BadName> {
        text.parse()
    }
}

impl From<ClientName> for String {
    fn from(name: ClientName) -> String {
        name.0
    }
}

impl From<GatewayName> for String {
    fn from(name: GatewayName) -> String {
        name.0
    }
}

impl From<Endpoint> for String {
    fn from(endpoint: Endpoint) -> String {
        endpoint.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_named_by_plain_characters() {
        for good in ["alice", "alice@example.com", "a", "Bob_2.phone-x", "_x", "@x", &"n".repeat(64)] {
            assert_eq!(good.parse::<ClientName>().map(|name| name.0), Ok(good.to_owned()));
        }
        let long = "n".repeat(65);
        for bad in
            ["", ".alice", "-alice", "a/b", "../x", "a b", "a\nb", "ä", "a\"b", "a,b", "a=b", "a;b", "a\0b", &long]
        {
            assert!(bad.parse::<ClientName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_gateway_is_named_so_that_a_unit_and_a_table_can_be() {
        for good in ["default", "eu-1", "a", &"g".repeat(32)] {
            assert!(good.parse::<GatewayName>().is_ok(), "{good}");
        }
        for bad in ["", "-a", "_a", "a.b", "a/b", "a@b", "..", &"g".repeat(33)] {
            assert!(bad.parse::<GatewayName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_device_has_a_name_that_fits_and_is_its_own() {
        let device = |name: &str| name.parse::<GatewayName>().unwrap().device();
        assert_eq!(device("default"), "mvpn-default");
        assert_eq!(device("tenletters"), "mvpn-tenletters");
        let (one, other) = (device("a-long-name-1"), device("a-long-name-2"));
        assert_ne!(one, other);
        assert!(one.starts_with("mvpn-a-lo") && one.len() == 15, "{one}");
    }

    #[test]
    fn an_endpoint_is_a_host_name_or_an_address() {
        let read = |text: &str| text.parse::<Endpoint>();
        assert_eq!(read("vpn.example.com"), Ok(Endpoint::Host("vpn.example.com".to_owned())));
        assert_eq!(read("192.0.2.1"), Ok(Endpoint::Address([192, 0, 2, 1].into())));
        assert_eq!(read("[2001:db8::1]").unwrap().to_string(), "2001:db8::1");
        let long = format!("{}com", "abcdefg.".repeat(40));
        for bad in
            ["", "a b", "vpn.example.com:1194", "192.0.2.256", "1.2", "-a.b", "a-.b", "a..b", "a\nb", "a.b.", &long]
        {
            assert!(read(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_bad_name_is_not_read_from_a_file_either() {
        assert!(serde_json::from_str::<ClientName>("\"../x\"").is_err());
        assert!(serde_json::from_str::<GatewayName>("\"a/b\"").is_err());
        assert_eq!(serde_json::to_string(&"x".parse::<ClientName>().unwrap()).unwrap(), "\"x\"");
    }
}
