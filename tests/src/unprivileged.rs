//! Our executable as somebody without any privilege: user `nobody`, no capability, and none to be had.

use crate::netns::Ns;
use crate::ours::executable;
use crate::temp::Temp;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

/// What takes every privilege away from the program that follows.
const NOBODY: [&str; 8] = [
    "--reuid=nobody",
    "--regid=nogroup",
    "--clear-groups",
    "--bounding-set=-all",
    "--inh-caps=-all",
    "--ambient-caps=-all",
    "--no-new-privs",
    "--",
];

/// A command of our executable in a namespace, as nobody. The executable is copied to where nobody may read it.
pub fn command(ns: &Ns, temp: &Temp, words: &[&str]) -> Command {
    let mut command = ns.command("setpriv");
    command.args(NOBODY).arg(readable(temp)).args(words).env("NO_COLOR", "1");
    command
}

fn readable(temp: &Temp) -> PathBuf {
    let copy = temp.path().join("minivpn");
    if !copy.exists() {
        fs::copy(executable(), &copy).expect("the executable can be copied");
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("chmod of our own file");
    }
    copy
}
