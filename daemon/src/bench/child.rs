//! A program that runs at one end of the ground: started there, its words kept, its processor time read, ended with its
//! owner. The kernel kills it when the end's thread goes.

use std::collections::VecDeque;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::net::Net;
use crate::sys;

/// Lines that are kept of what a program says, and bytes of each.
const LINES: usize = 400;
const LINE: u64 = 4_096;
/// How long a program may take to end after SIGTERM.
const LEAVE: Duration = Duration::from_secs(3);

type Log = Arc<Mutex<VecDeque<String>>>;

/// A running program.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    child: std::process::Child,
    stdin: Option<ChildStdin>,
    log: Log,
}

impl Child {
    /// Starts a program in a namespace, on these processors. `input` is written to its standard input, which stays open
    /// until the program is to end where `hold` says so.
    ///
    /// # Errors
    /// What fork, exec or the pipe answer, with the program's name.
    pub(super) fn start(net: &Net, mut command: Command, cpus: &[usize], input: &str, hold: bool) -> io::Result<Child> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // A terminal's interrupt is ours to act upon.
        command.process_group(0).env("NO_COLOR", "1");
        sys::die_with_parent(&mut command);
        let cpus = cpus.to_vec();
        let spawned = net.run(move || on_processors(&cpus, || command.spawn()));
        let mut child = spawned.map_err(|error| io::Error::new(error.kind(), format!("{name}: {error}")))?;
        let log = Log::default();
        follow(child.stdout.take(), &log);
        follow(child.stderr.take(), &log);
        let stdin = child.stdin.take();
        let mut child = Child { name, child, stdin, log };
        if let Some(stdin) = &mut child.stdin {
            stdin.write_all(input.as_bytes())?;
        }
        if !hold {
            child.stdin = None;
        }
        Ok(child)
    }

    /// The same, under another name in what is said of it.
    pub(super) fn called(mut self, name: &str) -> Child {
        self.name = name.to_owned();
        self
    }

    /// Waits until it has said a line of which `wanted` makes something.
    ///
    /// # Errors
    /// It ended or the time passed: its last words. The flag was set: `Interrupted`.
    pub(super) fn wait_line<T>(
        &mut self,
        wanted: impl Fn(&str) -> Option<T>,
        limit: Duration,
        stop: &AtomicBool,
    ) -> io::Result<T> {
        let start = Instant::now();
        loop {
            let ended = self.ended();
            if let Some(found) = self.log.lock().unwrap_or_else(PoisonError::into_inner).iter().find_map(|l| wanted(l))
            {
                return Ok(found);
            }
            if stop.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::Interrupted.into());
            }
            if ended || start.elapsed() > limit {
                let what = if ended { "ended" } else { "did not become ready" };
                return Err(io::Error::other(format!("{} {what}: {}", self.name, self.last_words())));
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Whether it has ended.
    pub(super) fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// The last lines it said, as one.
    pub(super) fn last_words(&self) -> String {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = log.iter().rev().take(4).rev().map(|line| line.trim()).collect();
        if lines.is_empty() { "it said nothing".to_owned() } else { lines.join(" | ") }
    }

    /// The program's name: as it was started, or as it is called.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Processor time of all its threads so far, and of all processes it started, in nanoseconds; `None` when it has ended.
    pub(super) fn cpu_ns(&self) -> Option<u64> {
        family(self.child.id()).into_iter().filter_map(process_time).reduce(|sum, more| sum.saturating_add(more))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        self.stdin = None;
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw);
        // Not reaped yet, so the number is still its own.
        if let (false, Some(pid)) = (self.ended(), pid) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let start = Instant::now();
        while !self.ended() && start.elapsed() < LEAVE {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process and what descends from it. Where the kernel does not tell of children (CONFIG_PROC_CHILDREN), it alone.
fn family(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    while let Some(parent) = found.get(at).copied() {
        for task in tasks(parent) {
            let list = std::fs::read_to_string(task.join("children")).unwrap_or_default();
            found.extend(list.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        at += 1;
    }
    found
}

/// The directories of a process's threads; none when it is gone.
fn tasks(pid: u32) -> impl Iterator<Item = PathBuf> {
    std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten().map(|entry| entry.path())
}

/// Processor time of all threads of one process, in nanoseconds.
fn process_time(pid: u32) -> Option<u64> {
    let times = tasks(pid).filter_map(|task| run_time(&std::fs::read_to_string(task.join("schedstat")).ok()?));
    times.reduce(|sum, more| sum.saturating_add(more))
}

/// The first number of /proc/PID/schedstat: time spent on the processor, in nanoseconds (Documentation/scheduler/sched-stats).
fn run_time(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Lets the calling thread run on these processors while it does something: a child inherits that.
fn on_processors<T>(cpus: &[usize], work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let before = sched_getaffinity(None)?;
    let mut wanted = CpuSet::new();
    cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| wanted.set(*cpu));
    if wanted.count() > 0 {
        sched_setaffinity(None, &wanted)?;
    }
    let result = work();
    sched_setaffinity(None, &before)?;
    result
}

/// Reads what a program says until it says no more.
fn follow(stream: Option<impl Read + Send + 'static>, log: &Log) {
    let Some(stream) = stream else { return };
    let log = Arc::clone(log);
    std::thread::spawn(move || {
        let mut reader = BufReader::new(stream);
        let mut line = Vec::new();
        while reader.by_ref().take(LINE).read_until(b'\n', &mut line).is_ok_and(|read| read > 0) {
            let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
            if log.len() == LINES {
                log.pop_front();
            }
            log.push_back(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_the_first_number() {
        assert_eq!(run_time("252756 406245 1\n"), Some(252_756));
        assert_eq!(run_time(""), None);
        assert_eq!(run_time("x 1 2"), None);
    }

    #[test]
    fn a_family_is_a_process_and_what_it_started() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let (own, pid) = (std::process::id(), child.id());
        assert_eq!(family(pid), [pid]);
        let all = family(own);
        assert!(all.first() == Some(&own) && all.contains(&pid), "{all:?}");
        assert!(process_time(own).is_some_and(|ns| ns > 0));
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(process_time(pid), None);
    }

    #[test]
    fn a_thread_gets_its_processors_back() {
        let before = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|cpu| before.is_set(*cpu)).unwrap();
        let within = on_processors(&[first], || Ok(sched_getaffinity(None)?.count())).unwrap();
        assert_eq!(within, 1);
        assert_eq!(sched_getaffinity(None).unwrap(), before);
    }
}
