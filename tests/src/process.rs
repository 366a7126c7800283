//! A child process with its log in a file, stopped by its process id and never left behind.

use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// A running child; killed and reaped on drop. Both its output streams go to one file.
#[derive(Debug)]
pub struct Process {
    what: String,
    child: Child,
    log: PathBuf,
    code: Option<i32>,
}

impl Process {
    /// Starts a command whose output is appended to `log`. `what` names it in messages.
    pub fn start(what: &str, mut command: Command, log: &Path) -> Self {
        let file = File::options().append(true).create(true).open(log).expect("the log can be written");
        let again = file.try_clone().expect("a descriptor can be copied");
        command.stdin(Stdio::null()).stdout(file).stderr(again);
        let child = command.spawn().unwrap_or_else(|e| panic!("{what} cannot be started: {e}"));
        Self { what: what.to_owned(), child, log: log.to_owned(), code: None }
    }

    /// The child's process id.
    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id()).expect("a process id fits 32 bits")
    }

    /// The process id of the child's first child: the control process of a supervisor.
    pub fn first_child(&self) -> Option<i32> {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.pid())).ok()?;
        let children = tasks.flatten().filter_map(|task| fs::read_to_string(task.path().join("children")).ok());
        children.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).next()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How often a text occurs in what it has written.
    pub fn count(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// Waits until one of the texts was written; true if so within `limit`, false also when the child ended without it.
    pub fn wait_log(&mut self, texts: &[&str], limit: Duration) -> bool {
        self.wait_count(texts, 1, limit)
    }

    /// Waits until the texts together were written `n` times.
    pub fn wait_count(&mut self, texts: &[&str], n: usize, limit: Duration) -> bool {
        let start = Instant::now();
        loop {
            let ended = self.try_code().is_some();
            let log = self.log();
            if texts.iter().map(|text| log.matches(text).count()).sum::<usize>() >= n {
                return true;
            }
            if ended || start.elapsed() > limit {
                return false;
            }
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// As [`Process::wait_log`], but panics with the end of the log where the text does not come.
    pub fn expect_log(&mut self, texts: &[&str], limit: Duration) {
        let came = self.wait_log(texts, limit);
        assert!(came, "{} did not say {texts:?} within {limit:?}; it said:\n{}", self.what, tail(&self.log(), 60));
    }

    /// Sends a signal to the child.
    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> bool {
        self.try_code().is_none()
    }

    /// Waits for the end; its exit code, 128 + n where signal n ended it, or `None` after `limit`.
    pub fn wait_exit(&mut self, limit: Duration) -> Option<i32> {
        let start = Instant::now();
        while self.try_code().is_none() && start.elapsed() < limit {
            thread::sleep(Duration::from_millis(10));
        }
        self.code
    }

    /// Asks it to end by SIGTERM and waits; its exit code, or `None` where it did not within `limit`.
    pub fn stop(&mut self, limit: Duration) -> Option<i32> {
        if self.running() {
            self.signal(Signal::TERM);
        }
        self.wait_exit(limit)
    }

    /// Ends it by SIGKILL and reaps it.
    pub fn kill(&mut self) {
        if self.running() {
            self.signal(Signal::KILL);
            let _ = self.wait_exit(Duration::from_secs(5));
        }
    }

    fn try_code(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        if self.code.is_none()
            && let Ok(Some(status)) = self.child.try_wait()
        {
            self.code = status.code().or_else(|| status.signal().map(|n| 128 + n));
        }
        self.code
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("--- end of the log of {} ---\n{}", self.what, tail(&self.log(), 40));
        }
        if self.stop(Duration::from_secs(4)).is_none() {
            self.kill();
        }
    }
}

/// Sends a signal to a process by its id; nothing happens where it is gone.
pub fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}

/// The last `n` lines of a text.
pub fn tail(text: &str, n: usize) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(n)..].join("\n")
}

/// Polls a condition every 20 ms until it holds; whether it did within `limit`.
pub fn until(limit: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    loop {
        if holds() {
            return true;
        }
        if start.elapsed() > limit {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
}
