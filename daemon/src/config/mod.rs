//! Configuration: from the text of a profile to what we agreed to run.
//!
//! [`load`] is for running a profile, [`lint`] for looking at one. Both read it the same way: `lexer` makes words of text, `written`
//! checks their form against the table in `directives`, `agree` makes an [`agreed::ClientProfile`] of them. What a server pushes is
//! laid over that by `pushed`. Any error here means exit code 2.
#![deny(unsafe_code)]

pub mod agree;
pub mod agreed;
pub mod ciphers;
pub mod client_dir;
pub mod connection;
pub mod directives;
mod draft;
pub mod files;
pub mod identity;
mod idle;
pub mod lexer;
pub mod material;
pub mod problem;
pub mod pushed;
pub mod secrets;
pub mod server;
pub mod tunnel;
pub mod values;
pub mod written;

use std::path::Path;

use agreed::ClientProfile;
use files::{Files, OsFiles};
use problem::Problem;
use server::ServerProfile;

/// Reads a client profile and every file it names. The profile with its warnings, or every problem if one of them is an error.
pub fn load(path: &Path) -> Result<(ClientProfile, Vec<Problem>), Vec<Problem>> {
    load_with(path, &OsFiles)
}

/// [`load`] with files from elsewhere.
pub fn load_with(path: &Path, files: &dyn Files) -> Result<(ClientProfile, Vec<Problem>), Vec<Problem>> {
    let mut problems = Vec::new();
    let written = written::read(path, files, &mut problems);
    // An unreadable profile has one problem, not one for everything that is not in it.
    let readable = !(written.entries.is_empty() && problems.iter().any(Problem::is_error));
    let profile = if readable { agree::client(path, &written, files, &mut problems) } else { None };
    problems.sort_by(|a, b| a.at.cmp(&b.at));
    profile.map(|profile| (profile, problems.clone())).ok_or(problems)
}

/// Reads a server's configuration and every file it names. The configuration with its warnings, or every problem if one of them is an
/// error.
pub fn load_server(path: &Path) -> Result<(ServerProfile, Vec<Problem>), Vec<Problem>> {
    load_server_with(path, &OsFiles)
}

/// [`load_server`] with files from elsewhere.
pub fn load_server_with(path: &Path, _files: &dyn Files) -> Result<(ServerProfile, Vec<Problem>), Vec<Problem>> {
    Err(vec![Problem::error(&written::whole(path), values::Trouble::new("servers are not read yet"))])
}

/// Every problem of a profile, by place; empty when there is none.
pub fn lint(path: &Path) -> Vec<Problem> {
    lint_with(path, &OsFiles)
}

/// [`lint`] with files from elsewhere.
pub fn lint_with(path: &Path, files: &dyn Files) -> Vec<Problem> {
    load_with(path, files).map_or_else(|problems| problems, |(_, warnings)| warnings)
}

#[cfg(test)]
mod tests;
