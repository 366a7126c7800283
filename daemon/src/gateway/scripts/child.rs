//! One run of a script: a process of a group of its own, without standard input, whose output goes to the log, and which
//! is killed with all it started when its time is over or nobody waits for it any more.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe;
use tokio::process::Command;
use tokio::time::{Instant, timeout_at};

use super::environment::{Environment, printable};

/// Lines of one run that are logged; the rest is read and forgotten, so that no script waits for a full pipe.
const MAX_LINES: usize = 20;
/// Of a line, what is logged, in bytes.
const MAX_LINE: usize = 200;

/// What to run.
pub(super) struct Child<'a> {
    /// `script_type`: what the log calls it.
    pub(super) kind: &'static str,
    /// The command of the configuration.
    pub(super) command: &'a [String],
    /// What OpenVPN adds to it.
    pub(super) arguments: Vec<String>,
    /// Its whole environment.
    pub(super) environment: Environment,
}

/// Why there is no exit status.
#[derive(Debug, thiserror::Error)]
pub(super) enum Failure {
    /// The command has no words. The configuration's reader does not let that through.
    #[error("the command is empty")]
    Empty,
    /// It could not be started.
    #[error("it could not be started: {0}")]
    Start(#[from] io::Error),
    /// It ran too long and was killed.
    #[error("it took too long and was killed")]
    TooLong,
    /// It ended by a signal.
    #[error("it ended by a signal")]
    Signal,
}

impl Child<'_> {
    /// Runs it to its end in a directory (empty: the current one) and gives its exit status.
    ///
    /// # Errors
    /// [`Failure`]
    pub(super) async fn run(self, directory: &Path, deadline: Instant) -> Result<i32, Failure> {
        let (program, words) = self.command.split_first().ok_or(Failure::Empty)?;
        let (reader, writer) = io::pipe()?;
        let mut command = Command::new(located(directory, program));
        command
            .args(words)
            .args(&self.arguments)
            .env_clear()
            .envs(self.environment.pairs())
            .stdin(Stdio::null())
            .stdout(writer.try_clone()?)
            .stderr(writer)
            .process_group(0)
            .kill_on_drop(true);
        if !directory.as_os_str().is_empty() {
            command.current_dir(directory);
        }
        let mut child = command.spawn()?;
        drop(command); // and with it our ends of the pipe's mouth
        let group = Group(child.id().and_then(|id| Pid::from_raw(id.cast_signed())));
        tokio::spawn(log_output(self.kind, pipe::Receiver::from_owned_fd(reader.into())?, deadline));
        match timeout_at(deadline, child.wait()).await {
            Ok(status) => {
                group.leave();
                status?.code().ok_or(Failure::Signal)
            }
            Err(_) => Err(Failure::TooLong),
        }
    }
}

/// Whether a command's program can be run, for a sentence at the start instead of one at each login. What is looked up
/// in PATH is found out when it runs.
pub(super) fn is_runnable(directory: &Path, program: &str) -> io::Result<()> {
    if !program.contains('/') {
        return Ok(());
    }
    let program = located(directory, program);
    if !std::fs::metadata(&program)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    Ok(rustix::fs::access(program, rustix::fs::Access::EXEC_OK)?)
}

/// A program that is named with a slash starts from the directory; any other is looked up in PATH.
fn located(directory: &Path, program: &str) -> PathBuf {
    if program.contains('/') { directory.join(program) } else { PathBuf::from(program) }
}

/// A process group that dies when dropped. What a script leaves in the background when it ends by itself, lives on:
/// that is how a deferred answer is worked out.
struct Group(Option<Pid>);

impl Group {
    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(leader) = self.0 {
            // The leader has not been waited for, so the number is still its own.
            let _ = kill_process_group(leader, Signal::KILL);
        }
    }
}

/// Reads until everybody who could write has closed the pipe, or, when the script is gone and something in the
/// background keeps it open, as long again as the script might have run.
async fn log_output(kind: &'static str, mut pipe: pipe::Receiver, deadline: Instant) {
    let end = deadline + deadline.saturating_duration_since(Instant::now());
    let mut lines = Lines::default();
    let mut buffer = vec![0; 4_096];
    while let Ok(Ok(count)) = timeout_at(end, pipe.read(&mut buffer)).await
        && count > 0
    {
        lines.feed(buffer.get(..count).unwrap_or_default(), |line| tracing::info!("{kind} script: {line}"));
    }
    lines.finish(|line| tracing::info!("{kind} script: {line}"));
}

/// Output as lines that may be logged: printable, short and few.
#[derive(Default)]
struct Lines {
    open: Vec<u8>,
    said: usize,
}

impl Lines {
    fn feed(&mut self, bytes: &[u8], mut say: impl FnMut(&str)) {
        for &byte in bytes {
            match byte {
                b'\n' => self.finish(&mut say),
                _ if self.open.len() < MAX_LINE => self.open.push(byte),
                _ => {}
            }
        }
    }

    fn finish(&mut self, mut say: impl FnMut(&str)) {
        let line = std::mem::take(&mut self.open);
        if line.is_empty() || self.said > MAX_LINES {
            return;
        }
        self.said += 1;
        if self.said > MAX_LINES {
            say("more than that is not logged");
        } else {
            let text: String = String::from_utf8_lossy(&printable(&line)).chars().filter(|c| !c.is_control()).collect();
            say(&text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn shell(script: &str) -> Vec<String> {
        ["/bin/sh", "-c", script].map(str::to_owned).to_vec()
    }

    async fn run(script: &str, limit: Duration) -> Result<i32, Failure> {
        let child = Child {
            kind: "test",
            command: &shell(script),
            arguments: vec!["name".to_owned(), "a b".to_owned()],
            environment: Environment::default(),
        };
        child.run(Path::new(""), Instant::now() + limit).await
    }

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn the_exit_status_is_the_answer() {
        assert_eq!(run("exit 0", LONG).await.unwrap(), 0);
        assert_eq!(run("exit 2", LONG).await.unwrap(), 2);
        assert!(matches!(run("kill -9 $$", LONG).await, Err(Failure::Signal)));
    }

    #[tokio::test]
    async fn words_are_handed_over_without_a_shell_and_nothing_is_inherited() {
        assert_eq!(run("test \"$1\" = 'a b' && test -z \"$HOME$CARGO\" && ! read line", LONG).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_script_runs_where_it_is_told_to() {
        let command = ["./sh", "-c", "test \"$(pwd -P)\" = \"$(cd /bin && pwd -P)\""].map(str::to_owned);
        let child =
            Child { kind: "test", command: &command, arguments: Vec::new(), environment: Environment::default() };
        assert_eq!(child.run(Path::new("/bin"), Instant::now() + LONG).await.unwrap(), 0);
        let child =
            Child { kind: "test", command: &command, arguments: Vec::new(), environment: Environment::default() };
        assert!(child.run(Path::new("/etc"), Instant::now() + LONG).await.is_err());
    }

    #[tokio::test]
    async fn a_script_that_hangs_is_killed_with_its_children() {
        let marker = std::env::temp_dir().join(format!("minivpn-hang-{}", std::process::id()));
        let script = format!("sleep 3600 & echo $! > {}; wait", marker.display());
        assert!(matches!(run(&script, Duration::from_millis(500)).await, Err(Failure::TooLong)));
        let sleeper: i32 = std::fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
        std::fs::remove_file(marker).unwrap();
        let state = || std::fs::read_to_string(format!("/proc/{sleeper}/stat"));
        // Dead, or a zombie that whoever inherited it has not looked at yet.
        while state().is_ok_and(|state| !state.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn a_script_that_nobody_waits_for_is_killed() {
        let marker = std::env::temp_dir().join(format!("minivpn-dropped-{}", std::process::id()));
        let script = format!("echo $$ > {}.new; mv {0}.new {0}; sleep 3600", marker.display());
        let task = tokio::spawn(async move { run(&script, LONG).await });
        while !marker.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let shell: i32 = std::fs::read_to_string(&marker).unwrap().trim().parse().unwrap();
        std::fs::remove_file(marker).unwrap();
        task.abort();
        assert!(task.await.unwrap_err().is_cancelled());
        while std::fs::read_to_string(format!("/proc/{shell}/stat")).is_ok_and(|state| !state.contains(") Z ")) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn huge_output_does_not_stop_a_script() {
        assert_eq!(run("head -c 4000000 /dev/zero; head -c 4000000 /dev/zero >&2", LONG).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_stays_in_the_background_lives_on_and_does_not_hold_the_answer_up() {
        let marker = std::env::temp_dir().join(format!("minivpn-background-{}", std::process::id()));
        let script = "(while [ ! -e M ]; do sleep 0.05; done; echo said; rm M) & exit 2";
        assert_eq!(run(&script.replace('M', &marker.display().to_string()), LONG).await.unwrap(), 2);
        std::fs::write(&marker, "").unwrap();
        while marker.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    #[tokio::test]
    async fn what_cannot_be_started_says_why() {
        let command = ["/no/such/script".to_owned()];
        let child =
            Child { kind: "test", command: &command, arguments: Vec::new(), environment: Environment::default() };
        assert!(matches!(child.run(Path::new(""), Instant::now() + LONG).await, Err(Failure::Start(_))));
        let child = Child { kind: "test", command: &[], arguments: Vec::new(), environment: Environment::default() };
        assert!(matches!(child.run(Path::new(""), Instant::now() + LONG).await, Err(Failure::Empty)));
        let here = Path::new("");
        assert!(is_runnable(here, "/no/such/script").is_err() && is_runnable(here, "/etc").is_err());
        assert!(is_runnable(here, "/bin/sh").is_ok() && is_runnable(here, "sh").is_ok());
        assert!(is_runnable(Path::new("/bin"), "./sh").is_ok() && is_runnable(Path::new("/etc"), "./sh").is_err());
    }

    #[test]
    fn output_is_logged_in_few_short_printable_lines() {
        let mut said = Vec::new();
        let mut lines = Lines::default();
        lines.feed(b"one\n\ntwo \x1b[2J", |line| said.push(line.to_owned()));
        lines.feed(b"half\n", |line| said.push(line.to_owned()));
        assert_eq!(said, ["one", "two _[2Jhalf"]);
        lines.feed(&[b'x'; 10_000], |line| said.push(line.to_owned()));
        lines.finish(|line| said.push(line.to_owned()));
        assert_eq!(said.last().map(String::len), Some(MAX_LINE));
        lines.feed(&b"y\n".repeat(100_000), |line| said.push(line.to_owned()));
        assert_eq!(said.len(), MAX_LINES + 1);
    }
}
