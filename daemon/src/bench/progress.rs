//! What the user sees while a run goes on: a bar with the time left on a terminal, a line now and then elsewhere.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Progress through a known number of steps.
#[derive(Debug)]
pub(super) struct Progress {
    kind: Kind,
    steps: usize,
    done: usize,
    /// What a step takes until it is known better.
    guess: Duration,
    began: Instant,
}

#[derive(Debug)]
enum Kind {
    Silent,
    Bar(ProgressBar),
    Lines { last: Option<Instant> },
}

impl Progress {
    /// For this many steps, each of about this time.
    pub(super) fn new(steps: usize, guess: Duration, quiet: bool) -> Progress {
        let kind = match (quiet, std::io::stderr().is_terminal()) {
            (true, _) => Kind::Silent,
            (false, true) => Kind::Bar(bar(steps)),
            (false, false) => Kind::Lines { last: None },
        };
        Progress { kind, steps, done: 0, guess, began: Instant::now() }
    }

    /// A step begins.
    pub(super) fn step(&mut self, what: &str) {
        let left = clock(left(self.steps, self.done, self.began.elapsed(), self.guess));
        match &mut self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => {
                bar.set_position(self.done as u64);
                bar.set_message(format!("{left} left  {what}"));
            }
            Kind::Lines { last } => {
                if last.is_none_or(|last| last.elapsed() >= LINE_EVERY) {
                    *last = Some(Instant::now());
                    eprintln!("{}/{} {left} left  {what}", self.done + 1, self.steps);
                }
            }
        }
        self.done += 1;
    }

    /// Something to say in between.
    pub(super) fn say(&self, text: &str) {
        match &self.kind {
            Kind::Silent => {}
            Kind::Bar(bar) => bar.println(text),
            Kind::Lines { .. } => eprintln!("{text}"),
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Kind::Bar(bar) = &self.kind {
            bar.finish_and_clear();
        }
    }
}

fn bar(steps: usize) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("[{bar:30}] {pos}/{len}  {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// How long the rest takes: as long for each as those before, or as guessed.
fn left(steps: usize, done: usize, elapsed: Duration, guess: Duration) -> Duration {
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    let each = if done == 0 { guess } else { elapsed / count(done) };
    each.saturating_mul(count(steps.saturating_sub(done)))
}

/// Minutes and seconds.
pub(super) fn clock(time: Duration) -> String {
    format!("{}:{:02}", time.as_secs() / 60, time.as_secs() % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_is_guessed_first_and_known_later() {
        let seconds = Duration::from_secs;
        assert_eq!(left(10, 0, seconds(0), seconds(3)), seconds(30));
        assert_eq!(left(10, 5, seconds(10), seconds(3)), seconds(10));
        assert_eq!(left(10, 12, seconds(10), seconds(3)), seconds(0));
        assert_eq!(clock(seconds(125)), "2:05");
    }
}
