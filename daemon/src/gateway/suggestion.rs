//! Commands that a user is told to run: they lead to the gateway that the user spoke of, and can be pasted as they stand.

use std::fmt;
use std::path::Path;

use super::names::{ClientName, GatewayName};
use super::state;

/// The gateway's name where none is given.
pub const DEFAULT_NAME: &str = "default";

/// The words by which commands find one gateway: none for the only one in the usual place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suggestions {
    name: String,
    state: String,
}

impl Suggestions {
    /// For the gateway of this name with this state directory.
    pub fn of(name: &GatewayName, directory: &Path) -> Suggestions {
        let usual = Path::new(state::ROOT).join(name.as_str());
        Suggestions {
            name: if name.as_str() == DEFAULT_NAME { String::new() } else { format!(" --name {name}") },
            state: if directory == usual { String::new() } else { format!(" --state-dir {}", quoted(directory)) },
        }
    }

    /// A command that takes `--name` and `--state-dir`: `client show alice` becomes
    /// `minivpn client show alice --name eu --state-dir /srv/eu`.
    pub fn command(&self, words: impl fmt::Display) -> String {
        format!("minivpn {words}{}{}", self.name, self.state)
    }

    /// A command about one client: `show` becomes `minivpn client show alice`.
    pub fn client(&self, verb: &str, client: &ClientName) -> String {
        self.command(format_args!("client {verb} {client}"))
    }

    /// A command to the running gateway, which takes `--name` alone: the gateway has noted where it listens.
    pub fn to_running(&self, words: impl fmt::Display) -> String {
        format!("minivpn {words}{}", self.name)
    }
}

/// A path as one word of a shell's command line (POSIX, 2.2.2 Single-Quotes).
pub fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:,@%".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.into_owned(),
        false => format!("'{}'", text.replace('\'', "'\\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(name: &str, directory: &str) -> String {
        Suggestions::of(&name.parse().unwrap(), Path::new(directory)).command("client list")
    }

    #[test]
    fn a_command_names_what_is_not_as_usual_and_nothing_else() {
        assert_eq!(of("default", "/var/lib/minivpn/default"), "minivpn client list");
        assert_eq!(of("eu", "/var/lib/minivpn/eu"), "minivpn client list --name eu");
        assert_eq!(of("default", "/srv/vpn"), "minivpn client list --state-dir /srv/vpn");
        assert_eq!(
            of("eu", "/var/lib/minivpn/default"),
            "minivpn client list --name eu --state-dir /var/lib/minivpn/default"
        );
    }

    #[test]
    fn a_command_to_a_running_gateway_has_no_state_directory() {
        let eu = Suggestions::of(&"eu".parse().unwrap(), Path::new("/srv/eu"));
        assert_eq!(eu.to_running("status"), "minivpn status --name eu");
    }

    #[test]
    fn a_path_is_one_word_of_a_shell() {
        assert_eq!(quoted(Path::new("/srv/my vpn")), "'/srv/my vpn'");
        assert_eq!(quoted(Path::new("/srv/$HOME/it's")), "'/srv/$HOME/it'\\''s'");
        assert_eq!(quoted(Path::new("/srv/a-b_c.d@e")), "/srv/a-b_c.d@e");
    }
}
