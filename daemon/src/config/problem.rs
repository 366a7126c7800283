//! What is wrong with a configuration, where, and what to write instead.

use std::fmt;
use std::sync::Arc;

use super::values::Trouble;

/// A place in a configuration file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Its line from 1; 0 speaks of the whole file.
    pub line: u32,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => f.write_str(&self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Whether a profile can be used all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// It cannot.
    Error,
    /// It can, but not all of it does what it says.
    Warning,
}

/// One finding. Displayed as `profile.ovpn:12: error: unknown directive "remot": did you mean "remote"?`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Error or warning.
    pub severity: Severity,
    /// Where.
    pub at: At,
    /// What is wrong: one sentence without a full stop, printable. Never holds key material or a password.
    pub what: String,
    /// What to write instead.
    pub instead: Option<String>,
}

impl Problem {
    /// An error at a place.
    pub fn error(at: &At, trouble: Trouble) -> Self {
        Problem {
            severity: Severity::Error,
            at: at.clone(),
            what: plain(trouble.what),
            instead: trouble.instead.map(plain),
        }
    }

    /// A warning at a place.
    pub fn warning(at: &At, trouble: Trouble) -> Self {
        Problem { severity: Severity::Warning, ..Problem::error(at, trouble) }
    }

    /// Whether it keeps the profile from being used.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

/// A profile may come from anywhere: no sentence about it, whatever it repeats, moves a terminal's cursor.
fn plain(text: String) -> String {
    if text.contains(char::is_control) { text.replace(char::is_control, "\u{fffd}") } else { text }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{}: {severity}: {}", self.at, self.what)?;
        match &self.instead {
            Some(instead) => write!(f, ": {instead}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_its_place() {
        let mut at = At { file: "profile.ovpn".into(), line: 12 };
        let trouble = Trouble::new("unknown directive \"remot\"").instead("did you mean \"remote\"?");
        let line = Problem::error(&at, trouble).to_string();
        assert_eq!(line, "profile.ovpn:12: error: unknown directive \"remot\": did you mean \"remote\"?");
        at.line = 0;
        assert_eq!(Problem::warning(&at, Trouble::new("no ca")).to_string(), "profile.ovpn: warning: no ca");
    }

    #[test]
    fn a_control_character_is_not_repeated() {
        let at = At { file: "p".into(), line: 1 };
        let trouble = Trouble::new("a\u{1b}[2Jb").instead("c\nd");
        assert_eq!(Problem::error(&at, trouble).to_string(), "p:1: error: a\u{fffd}[2Jb: c\u{fffd}d");
    }
}
