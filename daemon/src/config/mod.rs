//! Configuration: from the text of a profile to what we agreed to run, or to serve.
//!
//! [`load`] is for running a client's profile, [`load_server`] for serving, [`lint`] for looking at either. All read it the same way:
//! `lexer` makes words of text, `written` checks their form against the table in `directives`; then `agree` makes an
//! [`agreed::ClientProfile`] of them, or `server_agree` a [`server::ServerProfile`]. What both sides say is in `common`. What a server
//! pushes is laid over a client's profile by `pushed`; what belongs to one client of a server is read by `client_dir`. Any error here
//! means exit code 2.
#![deny(unsafe_code)]

pub mod agree;
pub mod agreed;
pub mod ciphers;
pub mod client_dir;
mod common;
pub mod connection;
pub mod directives;
mod draft;
pub mod files;
mod helpers;
pub mod identity;
mod idle;
pub mod lexer;
mod looks;
pub mod material;
pub mod problem;
mod push_list;
pub mod pushed;
pub mod secrets;
pub mod server;
mod server_agree;
mod server_draft;
pub mod tunnel;
pub mod values;
pub mod written;

use std::path::Path;

use controlplane::Secret;

use agreed::ClientProfile;
use directives::Side;
use files::{Files, OsFiles};
use problem::Problem;
use server::ServerProfile;

use crate::clock;
use crate::host::privileges;

/// Reads a client profile and every file it names. The profile with its warnings, or every problem if one of them is an error.
pub fn load(path: &Path) -> Result<(ClientProfile, Vec<Problem>), Vec<Problem>> {
    load_with(path, &OsFiles)
}

/// [`load`] with files from elsewhere.
pub fn load_with(path: &Path, files: &dyn Files) -> Result<(ClientProfile, Vec<Problem>), Vec<Problem>> {
    agreed(path, Side::Client, files, |written, problems| agree::client(path, written, files, problems))
}

/// Reads a server's configuration and every file it names. The configuration with its warnings, or every problem if one of them is an
/// error.
pub fn load_server(path: &Path) -> Result<(ServerProfile, Vec<Problem>), Vec<Problem>> {
    load_server_with(path, &OsFiles)
}

/// [`load_server`] with files from elsewhere.
pub fn load_server_with(path: &Path, files: &dyn Files) -> Result<(ServerProfile, Vec<Problem>), Vec<Problem>> {
    agreed(path, Side::Server, files, |written, problems| server_agree::server(path, written, files, problems))
}

/// Whether a file is a server's, by what stands in it: `server`, `server-ipv6`, `mode server` or `tls-server`, and nothing that
/// only a client says. What cannot be read is a client's.
pub fn is_server(path: &Path) -> bool {
    is_server_with(path, &OsFiles)
}

/// [`is_server`] with files from elsewhere.
pub fn is_server_with(path: &Path, files: &dyn Files) -> bool {
    written::lines(path, Side::Client, files, &mut Vec::new()).side() == Side::Server
}

/// Every problem of a client's profile or of a server's configuration, by place; empty when there is none.
pub fn lint(path: &Path) -> Vec<Problem> {
    lint_with(path, &OsFiles)
}

/// [`lint`] with files from elsewhere.
pub fn lint_with(path: &Path, files: &dyn Files) -> Vec<Problem> {
    if is_server_with(path, files) {
        return load_server_with(path, files).map_or_else(|problems| problems, |(_, warnings)| warnings);
    }
    load_with(path, files).map_or_else(|problems| problems, |(_, warnings)| warnings)
}

/// What makes a server's configuration unusable although every line of it is right: certificates and keys, `user` and `group`.
pub fn unusable(profile: &ServerProfile) -> Vec<String> {
    let setup = profile.server_setup(Secret(vec![0; 32]), 1);
    let tls = match controlplane::Server::new(setup, clock::now(), &mut controlplane::SystemRandom, None) {
        Ok(_) => None,
        Err(controlplane::Ending::Tls(sentence)) => Some(sentence),
        Err(other) => Some(format!("{other:?}")),
    };
    let identity = privileges::identity(profile.user.as_deref(), profile.group.as_deref());
    tls.into_iter().chain(identity.err().map(|error| error.to_string())).collect()
}

/// Reads, agrees, and puts the problems in order.
fn agreed<T>(
    path: &Path,
    side: Side,
    files: &dyn Files,
    agree: impl FnOnce(&written::Written, &mut Vec<Problem>) -> Option<T>,
) -> Result<(T, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let written = written::read(path, side, files, &mut problems);
    // An unreadable file has one problem, not one for everything that is not in it.
    let readable = !(written.entries.is_empty() && problems.iter().any(Problem::is_error));
    let agreed = if readable { agree(&written, &mut problems) } else { None };
    // What is missing in the whole file is often a consequence of what is wrong in a line.
    problems.sort_by_key(|problem| (problem.at.line == 0, problem.at.clone()));
    agreed.map(|agreed| (agreed, problems.clone())).ok_or(problems)
}

#[cfg(test)]
mod server_tests;
#[cfg(test)]
mod tests;
