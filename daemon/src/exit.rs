//! The exit codes: one place that says what a process status of minivpn means.

use std::io;
use std::process::ExitCode;

/// Why the process ends, as its exit status. Scripts and service managers rely on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done as asked.
    Ok,
    /// 1: anything that has no number of its own.
    Other,
    /// 2: wrong usage or a configuration that cannot be run.
    Config,
    /// 3: the server refused our authentication for good.
    Auth,
    /// 4: no server could be reached.
    Unreachable,
    /// 5: TLS or a certificate failed on what we see ourselves.
    Tls,
    /// 6: a privilege or the TUN device is missing.
    Privilege,
    /// 7: routes or name resolution could not be set up.
    Routes,
    /// 8: this gateway runs already.
    Running,
}

impl Exit {
    /// The process status.
    pub fn status(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Other => 1,
            Exit::Config => 2,
            Exit::Auth => 3,
            Exit::Unreachable => 4,
            Exit::Tls => 5,
            Exit::Privilege => 6,
            Exit::Routes => 7,
            Exit::Running => 8,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.status())
    }
}

/// A failure that ends the process: its status and one sentence that says what is wrong and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{sentence}")]
pub struct Fatal {
    /// The process status.
    pub exit: Exit,
    /// What is wrong, where, and what to do. Never holds a secret.
    pub sentence: String,
}

impl Fatal {
    /// Builds one.
    pub fn new(exit: Exit, sentence: impl Into<String>) -> Fatal {
        Fatal { exit, sentence: sentence.into() }
    }
}

/// What a sentence that ends with this error goes on with: how to be permitted, where that is what is missing.
pub fn permitted(error: &io::Error) -> &'static str {
    advice(error.kind(), rustix::process::geteuid().is_root())
}

fn advice(kind: io::ErrorKind, root: bool) -> &'static str {
    match kind {
        io::ErrorKind::PermissionDenied if !root => ": run it as root (sudo)",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_root_and_was_refused_is_told_to_use_sudo() {
        assert!(advice(io::ErrorKind::PermissionDenied, false).contains("sudo"));
        assert_eq!(advice(io::ErrorKind::PermissionDenied, true), "", "root was refused for another reason");
        assert_eq!(advice(io::ErrorKind::NotFound, false), "");
    }
}
