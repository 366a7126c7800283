//! A client profile and the files it names, all from the input. There are at most a few problems a line, each of them
//! one printable sentence, and a profile that is taken gives settings for the control channel and every remote.
//!
//! A byte 0xFF, which no UTF-8 text has, ends one file and begins the next: the profile, `included.conf`, `ca.crt`,
//! `ta.key`, `pass.txt`.

use std::cell::Cell;
use std::io;
use std::path::Path;

use minivpn::config::load_with;

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
        Err(problems) => {
            assert!(problems.iter().any(|problem| problem.is_error()), "refused without a reason");
            problems
        }
    };
    assert!(problems.len() <= 16 + 4 * lines.get(), "{} problems of {} lines", problems.len(), lines.get());
    for problem in problems {
        let text = problem.to_string();
        assert!(!text.contains(char::is_control), "{text:?}");
    }
}
