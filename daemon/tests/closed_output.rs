//! Commands whose standard output is closed before they are done (`minivpn client list | head -1`) do what they were asked for and
//! end with the status of that.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("minivpn-closed-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory for the test");
        Folder(path)
    }

    fn state(&self) -> PathBuf {
        self.0.join("state")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The exit code and what was said on standard error, with a standard output that nobody reads.
fn unread(words: &[&str], state: &Path) -> (Option<i32>, String) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let mut command = Command::new(env!("CARGO_BIN_EXE_minivpn"));
    command.args(words).stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped());
    if words.first().is_some_and(|word| matches!(*word, "client" | "pki" | "gateway")) {
        command.arg("--state-dir").arg(state);
    }
    let output = command.output().expect("minivpn runs");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_reader_that_is_gone_changes_no_exit_status() {
    let folder = Folder::new("commands");
    let state = folder.state();
    let out = folder.0.display().to_string();
    let made =
        unread(&["gateway", "up", "--no-serve", "--endpoint", "192.0.2.1", "--client", "alice", "--out", &out], &state);
    assert_eq!(made.0, Some(0), "{}", made.1);
    let missing = folder.0.join("missing.conf").display().to_string();
    for (words, code) in [
        (vec!["client", "list"], 0),
        (vec!["client", "list", "--json"], 0),
        (vec!["pki", "show"], 0),
        (vec!["pki", "show", "--json"], 0),
        (vec!["client", "revoke", "alice"], 0),
        (vec!["config", "lint", &missing], 2),
        (vec!["healthcheck", "--socket", &missing], 1),
    ] {
        let (status, said) = unread(&words, &state);
        assert_eq!(status, Some(code), "{words:?}: {said}");
        assert!(!said.contains("panicked"), "{words:?}: {said}");
    }
}
