//! `minivpn ping …`: what a user may type.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// The most bytes of payload: an IPv4 packet of 65,535 bytes without its headers.
const MAX_SIZE: u16 = 65_507;

/// `minivpn ping …`
#[derive(Clone, Debug, Args)]
#[command(after_help = PING_EXIT_CODES)]
pub struct Ping {
    /// The profile (.ovpn)
    pub file: PathBuf,
    /// Who is to answer: addresses, or names that the tunnel's name servers know [default: the tunnel's gateway]
    #[arg(value_name = "HOST", num_args = 0..=64)]
    pub hosts: Vec<String>,
    /// Echo requests to each host [default: until interrupted, or -w]
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub count: Option<u64>,
    /// Seconds from one request to the next, 0.01 to 3600
    #[arg(short, long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    pub interval: Duration,
    /// Bytes of payload in a request: 8 more are ICMP, 20 (IPv6: 40) more are IP
    #[arg(short, long, value_name = "BYTES", default_value_t = 56, value_parser = clap::value_parser!(u16).range(0..=i64::from(MAX_SIZE)))]
    pub size: u16,
    /// Stop after so many seconds, whatever was answered
    #[arg(short = 'w', long, value_name = "SECONDS", value_parser = deadline)]
    pub deadline: Option<Duration>,
    /// Seconds after which a request without an answer is lost, 0.01 to 300
    #[arg(short = 'W', long, value_name = "SECONDS", default_value = "2", value_parser = patience)]
    pub timeout: Duration,
    /// The most routers on the way (IPv6: hop limit)
    #[arg(short, long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u8).range(1..))]
    pub ttl: u8,
    /// Names become IPv4 addresses
    #[arg(short = '4', long, conflicts_with = "ipv6")]
    pub ipv4: bool,
    /// Names become IPv6 addresses
    #[arg(short = '6', long)]
    pub ipv6: bool,
    /// Resolve nothing: every HOST is an address
    #[arg(short, long, conflicts_with = "resolve_outside")]
    pub numeric: bool,
    /// Ask this host's name servers for names, outside of the tunnel
    #[arg(long)]
    pub resolve_outside: bool,
    /// One JSON object a line, the last one is the summary
    #[arg(long)]
    pub json: bool,
    /// Seconds that connecting may take
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = deadline)]
    pub connect_timeout: Duration,
}

const PING_EXIT_CODES: &str = "Exit codes: 0 every host answered at least once, 1 some host did not (or the tunnel ended); \
2 to 7 as of `minivpn connect` when there is no tunnel";

fn interval(text: &str) -> Result<Duration, String> {
    seconds(text, 0.01, 3_600.0)
}

fn patience(text: &str) -> Result<Duration, String> {
    seconds(text, 0.01, 300.0)
}

fn deadline(text: &str) -> Result<Duration, String> {
    seconds(text, 0.01, 31_536_000.0)
}

fn seconds(text: &str, least: f64, most: f64) -> Result<Duration, String> {
    let known = text.parse::<f64>().ok().filter(|value| (least..=most).contains(value));
    known.map(Duration::from_secs_f64).ok_or_else(|| format!("a number of seconds from {least} to {most}"))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::cli::{Cli, Command};

    fn ping(words: &[&str]) -> Result<Ping, clap::Error> {
        Cli::try_parse_from([&["minivpn", "ping", "x.ovpn"], words].concat()).map(|cli| match cli.command {
            Command::Ping(ping) => ping,
            other => unreachable!("{other:?}"),
        })
    }

    #[test]
    fn the_defaults_are_those_of_ping() {
        let plain = ping(&[]).unwrap();
        assert_eq!((plain.hosts.len(), plain.count, plain.size, plain.ttl), (0, None, 56, 64));
        assert_eq!((plain.interval, plain.timeout), (Duration::from_secs(1), Duration::from_secs(2)));
        assert_eq!((plain.deadline, plain.json, plain.connect_timeout), (None, false, Duration::from_secs(60)));
    }

    #[test]
    fn flags_are_those_of_ping() {
        let all =
            ping(&["-n", "-c", "3", "-i", "0.2", "-s", "0", "-w", "9", "-W", ".5", "-t", "1", "-6", "a", "b"]).unwrap();
        assert_eq!((all.count, all.size, all.ttl, all.numeric, all.ipv6), (Some(3), 0, 1, true, true));
        assert_eq!((all.interval, all.timeout), (Duration::from_millis(200), Duration::from_millis(500)));
        assert_eq!((all.deadline, all.hosts), (Some(Duration::from_secs(9)), vec!["a".to_owned(), "b".to_owned()]));
        assert!(Cli::try_parse_from(["minivpn", "ping", "-q", "x.ovpn"]).unwrap().quiet);
    }

    #[test]
    fn values_have_their_bounds() {
        for wrong in [
            ["-c", "0"],
            ["-i", "0.009"],
            ["-i", "3601"],
            ["-i", "NaN"],
            ["-i", "-1"],
            ["-s", "65508"],
            ["-W", "301"],
            ["-W", "0"],
            ["-w", "inf"],
            ["-t", "0"],
            ["-t", "256"],
        ] {
            assert!(ping(&wrong).is_err(), "{wrong:?}");
        }
        for right in [["-i", "0.01"], ["-i", "3600"], ["-s", "65507"], ["-W", "300"], ["-t", "255"]] {
            assert!(ping(&right).is_ok(), "{right:?}");
        }
        assert!(ping(&["-4", "-6"]).is_err() && ping(&["-n", "--resolve-outside"]).is_err());
        assert!(ping(&["h"; 64]).is_ok() && ping(&["h"; 65]).is_err());
    }
}
