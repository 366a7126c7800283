//! `minivpn trace …`: what a user may type.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

/// `minivpn trace FILE`
#[derive(Clone, Debug, Args)]
pub struct Trace {
    /// The profile (.ovpn)
    pub file: PathBuf,
    /// Trace this server instead of the profile's, with the profile's keys and certificates; the port is 1194 unless said
    #[arg(long, value_name = "HOST[:PORT]", value_parser = remote)]
    pub remote: Option<(String, u16)>,
    /// Trace every address of every remote, and do not stop at the first one that lets us in
    #[arg(long)]
    pub all: bool,
    /// Give an address up after so many seconds [default: the profile's hand-window and connect-timeout]
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub timeout: Option<Duration>,
    /// Write the events to a file, one JSON object a line; `-` is standard output
    #[arg(long, value_name = "FILE")]
    pub out: Option<PathBuf>,
    /// Write the events to standard output, one JSON object a line
    #[arg(long, conflicts_with = "out")]
    pub json: bool,
    /// Draw the handshake on a time line: on the terminal, and as a picture if a file is named
    #[arg(long, value_name = "FILE.svg", num_args = 0..=1, value_parser = picture)]
    #[allow(clippy::option_option)] // clap: not said, said without a file, said with one
    pub waterfall: Option<Option<PathBuf>>,
    /// Act as an older peer: clear these IV_PROTO bits
    #[arg(long, hide = true, default_value_t = 0, value_parser = super::number)]
    pub iv_proto_mask: u32,
}

impl Trace {
    /// Whether standard output belongs to a program.
    pub fn json_on_stdout(&self) -> bool {
        self.json || self.out.as_deref().is_some_and(|file| file.as_os_str() == "-")
    }
}

fn remote(text: &str) -> Result<(String, u16), String> {
    const WANTED: &str = "a host or an address, and after a colon its port: vpn.example.com:1194, [2001:db8::1]:1194";
    let port = |port: &str| port.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(|| WANTED.to_owned());
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, "")) => (host, 1194),
        Some((host, rest)) => (host, port(rest.strip_prefix(':').unwrap_or_default())?),
        // More than one colon is an IPv6 address without a port.
        None => match text.split_once(':') {
            Some((host, rest)) if !rest.contains(':') => (host, port(rest)?),
            _ => (text, 1194),
        },
    };
    if host.is_empty() || host.contains(char::is_whitespace) {
        Err(WANTED.to_owned())
    } else {
        Ok((host.to_owned(), port))
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().ok().filter(|seconds| (0.1..=3_600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "seconds, from 0.1 to 3600".to_owned())
}

fn picture(text: &str) -> Result<PathBuf, String> {
    if text.ends_with(".svg") {
        return Ok(text.into());
    }
    Err("the name of a picture ends in .svg; put the profile before --waterfall".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use clap::Parser;

    fn parse(words: &[&str]) -> Result<Trace, clap::Error> {
        Cli::try_parse_from([&["minivpn", "trace"], words].concat()).map(|cli| match cli.command {
            Command::Trace(trace) => trace,
            other => unreachable!("{other:?}"),
        })
    }

    #[test]
    fn a_server_is_named_with_or_without_its_port() {
        let of = |text: &str| remote(text).ok();
        assert_eq!(of("vpn.example.com"), Some(("vpn.example.com".into(), 1194)));
        assert_eq!(of("192.0.2.1:443"), Some(("192.0.2.1".into(), 443)));
        assert_eq!(of("2001:db8::1"), Some(("2001:db8::1".into(), 1194)));
        assert_eq!(of("[2001:db8::1]:443"), Some(("2001:db8::1".into(), 443)));
        assert_eq!(of("[2001:db8::1]"), Some(("2001:db8::1".into(), 1194)));
        for wrong in ["", ":1194", "host:", "host:0", "host:65536", "[::1]443", "a b"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_drawing_needs_no_file_and_a_file_is_a_picture() {
        assert_eq!(parse(&["x.ovpn"]).unwrap().waterfall, None);
        assert_eq!(parse(&["x.ovpn", "--waterfall"]).unwrap().waterfall, Some(None));
        assert_eq!(parse(&["x.ovpn", "--waterfall", "y.svg"]).unwrap().waterfall, Some(Some("y.svg".into())));
        assert!(parse(&["--waterfall", "x.ovpn"]).is_err());
    }

    #[test]
    fn standard_output_is_json_by_either_word() {
        assert!(parse(&["x.ovpn", "--json"]).unwrap().json_on_stdout());
        assert!(parse(&["x.ovpn", "--out", "-"]).unwrap().json_on_stdout());
        assert!(!parse(&["x.ovpn", "--out", "trace.json"]).unwrap().json_on_stdout());
        assert!(parse(&["x.ovpn", "--json", "--out", "-"]).is_err());
    }

    #[test]
    fn a_time_limit_is_bounded() {
        assert_eq!(parse(&["x.ovpn", "--timeout", "2.5"]).unwrap().timeout, Some(Duration::from_millis(2_500)));
        for wrong in ["0", "-1", "nan", "inf", "3601", "soon"] {
            assert!(parse(&["x.ovpn", &format!("--timeout={wrong}")]).is_err(), "{wrong}");
        }
    }
}
