//! A profile from a file or from text, with its problems as one error.

use std::io;
use std::path::Path;

use super::error::ConnectError;
use crate::config;
use crate::config::agreed::ClientProfile;
use crate::config::problem::Problem;

/// Reads a client's profile (`.ovpn`) and every file that it names. What is not wrong but worth a warning is logged
/// ([`tracing`](https://docs.rs/tracing)).
///
/// # Errors
/// [`ConnectError::Profile`] with a line for each problem, which says where it is.
pub fn load_profile(path: impl AsRef<Path>) -> Result<ClientProfile, ConnectError> {
    settle(config::load(path.as_ref()))
}

/// Reads a client's profile that has everything inline (`<ca>`, `<cert>`, `<key>` …).
///
/// # Errors
/// As [`load_profile`]; a profile that names a file cannot be used.
///
/// # Examples
/// ```
/// let error = minivpn::parse_profile("client\nremote vpn.example.org\nca ca.pem\n").unwrap_err();
/// assert!(error.to_string().contains("ca.pem"));
/// ```
pub fn parse_profile(text: &str) -> Result<ClientProfile, ConnectError> {
    let name = Path::new("profile");
    let files = |path: &Path| match path == name {
        true => Ok(text.as_bytes().to_vec()),
        false => Err(io::Error::new(io::ErrorKind::NotFound, "a profile that is given as text has everything inline")),
    };
    settle(config::load_with(name, &files))
}

fn settle(read: Result<(ClientProfile, Vec<Problem>), Vec<Problem>>) -> Result<ClientProfile, ConnectError> {
    match read {
        Ok((profile, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            Ok(profile)
        }
        Err(problems) => {
            let lines: Vec<String> = problems.iter().filter(|p| p.is_error()).map(ToString::to_string).collect();
            Err(ConnectError::Profile(lines.join("\n")))
        }
    }
}
