//! Runs the cells of a test matrix a few at a time and gathers what failed, so that one failure hides no other.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::thread;

/// Checks every cell, `width` at a time, and panics at the end with a line for each that failed.
pub fn check_all<T: Send>(width: usize, cells: Vec<T>, title: impl Fn(&T) -> String + Sync, check: impl Fn(&T) + Sync) {
    let count = cells.len();
    let queue = Mutex::new(cells.into_iter());
    let failures = Mutex::new(Vec::new());
    let work = || {
        while let Some(cell) = take(&queue) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&cell))) {
                let line = format!("{}: {}", title(&cell), sentence(panic.as_ref()));
                failures.lock().expect("no holder of this lock panics").push(line);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..width {
            scope.spawn(work);
        }
    });
    let failures = failures.into_inner().expect("no holder of this lock panics");
    assert!(failures.is_empty(), "{} of {count} cells failed:\n{}", failures.len(), failures.join("\n"));
}

fn take<T>(queue: &Mutex<std::vec::IntoIter<T>>) -> Option<T> {
    queue.lock().expect("no holder of this lock panics").next()
}

/// What a panic said.
fn sentence(panic: &(dyn Any + Send)) -> String {
    let literal = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    literal.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failed_cell_is_named_and_every_cell_is_run() {
        let seen = Mutex::new(Vec::new());
        let odd_fails = |n: &u32| {
            seen.lock().unwrap().push(*n);
            assert!(n.is_multiple_of(2), "odd");
        };
        let run = || check_all(2, vec![1, 2, 3, 4], |n| format!("cell {n}"), odd_fails);
        let panic = catch_unwind(AssertUnwindSafe(run)).unwrap_err();
        let text = sentence(panic.as_ref());
        assert!(text.contains("2 of 4") && text.contains("cell 1: odd") && text.contains("cell 3: odd"), "{text}");
        assert!(!text.contains("cell 2"), "{text}");
        assert_eq!(seen.lock().unwrap().len(), 4);
    }
}
