//! Lines of the log that somebody else could make many of are written once in a while.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The least time between two lines of the same kind.
const QUIET: Duration = Duration::from_secs(30);

/// One kind of line.
#[derive(Debug, Default)]
pub(super) struct Rarely(Mutex<Option<Instant>>);

impl Rarely {
    /// Whether one may be written now; then none may for a while.
    pub(super) fn may(&self) -> bool {
        let mut last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let may = last.is_none_or(|at| at.elapsed() >= QUIET);
        if may {
            *last = Some(Instant::now());
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_and_then_none_for_a_while() {
        let rarely = Rarely::default();
        assert!(rarely.may());
        assert!(!rarely.may());
        *rarely.0.lock().unwrap() = Instant::now().checked_sub(QUIET);
        assert!(rarely.may());
    }
}
