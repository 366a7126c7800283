//! A client profile and the files it names, all from the input; the same input is then read as a server's configuration and
//! as the file of one client. There are at most a few problems a line, each of them one printable sentence, and what is
//! taken gives settings for the control channel and every remote, or pools that hold together.
//!
//! A byte 0xFF, which no UTF-8 text has, ends one file and begins the next: the profile, `included.conf`, `ca.crt`,
//! `ta.key`, `pass.txt`.

use std::cell::Cell;
use std::io;
use std::path::Path;

use controlplane::Secret;
use minivpn::config::problem::Problem;
use minivpn::config::server::ServerProfile;
use minivpn::config::{client_dir, lint_with, load_server_with, load_with};

const NAMES: [&str; 5] = ["p.ovpn", "included.conf", "ca.crt", "ta.key", "pass.txt"];
const CERT: &str = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";

/// Runs one input.
pub fn run(data: &[u8]) {
    let lines = Cell::new(0);
    let files = |path: &Path| {
        let at = NAMES.iter().position(|name| Some(*name) == path.to_str()).ok_or(io::ErrorKind::NotFound)?;
        let text = match (data.split(|byte| *byte == 0xFF).nth(at), NAMES[at]) {
            (Some(text), _) => text.to_vec(),
            (None, "ca.crt") => CERT.into(),
            (None, _) => return Err(io::ErrorKind::NotFound.into()),
        };
        lines.set(lines.get() + 1 + text.iter().filter(|byte| **byte == b'\n').count());
        Ok(text)
    };
    let problems = match load_with(Path::new("p.ovpn"), &files) {
        Ok((profile, warnings)) => {
            let setup = profile.client_setup();
            assert_eq!(setup.limits, profile.timers.key_limits());
            assert!(!profile.remotes.is_empty());
            for remote in &profile.remotes {
                let _ = remote.mssfix(profile.settings.tun_mtu);
            }
            warnings
        }
        Err(problems) => refused(problems),
    };
    look(&problems, lines.replace(0));
    let problems = match load_server_with(Path::new("p.ovpn"), &files) {
        Ok((profile, warnings)) => {
            holds(&profile);
            warnings
        }
        Err(problems) => refused(problems),
    };
    look(&problems, lines.replace(0));
    look(&lint_with(Path::new("p.ovpn"), &files), lines.replace(0));
    one_client(data);
}

fn one_client(data: &[u8]) {
    let first = data.split(|byte| *byte == 0xFF).next().unwrap_or_default();
    let text = String::from_utf8_lossy(first);
    let problems = match client_dir::parse(&text, "alice") {
        Ok(config) => {
            let list = config.push_list(&["route 10.0.0.0 255.0.0.0".to_owned(), "ping 10".to_owned()]);
            assert!(list.len() <= config.push.len() + 2);
            config.warnings
        }
        Err(problems) => refused(problems),
    };
    look(&problems, 1 + first.iter().filter(|byte| **byte == b'\n').count());
}

/// What a gateway relies on.
fn holds(profile: &ServerProfile) {
    let setup = profile.server_setup(Secret(vec![0; 32]), 2);
    assert_eq!(setup.limits, profile.timers.key_limits());
    assert!((1..=0xFF_FFFF).contains(&profile.max_clients) && !profile.data_ciphers.is_empty());
    assert!(profile.listen.socket_address().port() > 0);
    if let Some(pool) = profile.ipv4 {
        assert!(pool.pool_start <= pool.pool_end);
        assert!(!pool.dynamic || !(pool.pool_start..=pool.pool_end).contains(&pool.local));
    }
}

fn refused(problems: Vec<Problem>) -> Vec<Problem> {
    assert!(problems.iter().any(|problem| problem.is_error()), "refused without a reason");
    problems
}

fn look(problems: &[Problem], lines: usize) {
    assert!(problems.len() <= 16 + 4 * lines, "{} problems of {lines} lines", problems.len());
    for problem in problems {
        let text = problem.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
