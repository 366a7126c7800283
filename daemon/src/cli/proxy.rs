//! `minivpn proxy …`: what a user may type.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;
use dataplane::datachannel::aead::AeadChoice;

/// Where the proxy listens unless told otherwise.
const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);

/// `minivpn proxy …`
#[derive(Clone, Debug, Args)]
pub struct Proxy {
    /// The profile (.ovpn)
    pub file: PathBuf,
    /// Where clients connect, with SOCKS5 or HTTP CONNECT. Port 0 takes a free one
    #[arg(long, value_name = "ADDRESS:PORT", default_value_t = LISTEN, value_parser = listen)]
    pub listen: SocketAddr,
    /// Name servers inside the tunnel, instead of those that the server pushes
    #[arg(long, value_name = "ADDRESS,…", value_delimiter = ',')]
    pub dns: Vec<IpAddr>,
    /// Clients have to give this user name, and a password
    #[arg(long, value_name = "NAME", requires = "password_file")]
    pub user: Option<String>,
    /// The first line of this file is the password
    #[arg(long, value_name = "FILE", requires = "user")]
    pub password_file: Option<PathBuf>,
    /// Seconds that connecting to the server may take
    #[arg(long, value_name = "N", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    pub connect_timeout: u64,
    /// What encrypts: `aws-lc` or `ring` (whichever this build has), `ipsec-mb` (AES-GCM of Intel's libIPSec_MB.so.1), or
    /// `auto` (ipsec-mb where the host has it)
    #[arg(long, value_name = "auto|aws-lc|ring|ipsec-mb", default_value = "auto")]
    pub aead: AeadChoice,
}

/// An address and a port. `localhost` is this host's alone (RFC 6761, section 6.3), whatever a resolver says of it; no other name is
/// looked up: what it says today may be everybody's tomorrow.
fn listen(text: &str) -> Result<SocketAddr, String> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (host, port) = text.rsplit_once(':').unwrap_or((text, ""));
    let wanted = "wanted is an address and a port, such as 127.0.0.1:1080, [::1]:1080, localhost:1080, or 0.0.0.0:1080 for everybody";
    match port.parse() {
        Ok(port) if host.eq_ignore_ascii_case("localhost") => Ok(SocketAddr::new(LISTEN.ip(), port)),
        Ok(_) if host.contains(':') => Err(format!("an IPv6 address stands in brackets; {wanted}")),
        Ok(_) if host.is_empty() => Err(format!("the address is missing; {wanted}")),
        Ok(_) => Err(format!("`{host}` is no address, and names other than localhost are not looked up; {wanted}")),
        Err(_) if port.is_empty() => Err(format!("the port is missing; {wanted}")),
        Err(_) => Err(format!("`{port}` is no port (0 to 65535); {wanted}")),
    }
}

#[cfg(test)]
mod tests {
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn proxy(words: &[&str]) -> Result<super::Proxy, clap::Error> {
        let words = [&["minivpn", "proxy", "x.ovpn"], words].concat();
        Cli::try_parse_from(words).map(|cli| match cli.command {
            Command::Proxy(proxy) => proxy,
            other => unreachable!("{other:?}"),
        })
    }

    #[test]
    fn it_listens_for_this_host_alone_unless_told_otherwise() {
        assert!(proxy(&[]).unwrap().listen.ip().is_loopback());
        assert_eq!(proxy(&["--listen", "[::]:8080"]).unwrap().listen.port(), 8080);
        assert_eq!(proxy(&["--dns", "10.8.0.1,fd08::1"]).unwrap().dns.len(), 2);
        assert!(proxy(&["--dns", "dns.example"]).is_err());
    }

    #[test]
    fn localhost_is_this_host_alone_and_other_names_are_not_looked_up() {
        let at = |text: &str| proxy(&["--listen", text]).unwrap().listen.to_string();
        assert_eq!(at("localhost:1091"), "127.0.0.1:1091");
        assert_eq!(at("LocalHost:0"), "127.0.0.1:0");
        assert_eq!(at("[::1]:1091"), "[::1]:1091");
        let why = |text: &str| proxy(&["--listen", text]).unwrap_err().to_string();
        for (text, blamed) in [
            ("8080", "the port is missing"),
            ("127.0.0.1", "the port is missing"),
            ("localhost:", "the port is missing"),
            (":8080", "the address is missing"),
            ("::1:8080", "in brackets"),
            ("localhost:66000", "`66000` is no port"),
            ("localhost.example:80", "`localhost.example` is no address"),
        ] {
            let error = why(text);
            assert!(error.contains(blamed) && error.contains("127.0.0.1:1080"), "{text}: {error}");
        }
    }

    #[test]
    fn a_user_name_needs_a_password_and_the_other_way_round() {
        assert!(proxy(&["--user", "ann"]).is_err());
        assert!(proxy(&["--password-file", "f"]).is_err());
        assert!(proxy(&["--user", "ann", "--password-file", "f"]).is_ok());
    }
}
