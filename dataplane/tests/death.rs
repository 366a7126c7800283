//! A worker that panics ends its process: packet ids and replay windows live only in the worker, so nobody may go on
//! with its keys.
#![allow(clippy::unwrap_used)] // helpers of tests are tests

mod common;

use std::os::unix::process::ExitStatusExt;
use std::process::Command;

use common::{config, start};
use dataplane::sys::IoChoice;
use dataplane::workers::manager::WorkerReport;

/// Set in the copy of this program that is to die.
const VICTIM: &str = "MINIVPN_TEST_VICTIM";

#[test]
fn a_worker_that_panics_says_so_and_ends_the_process() {
    if std::env::var_os(VICTIM).is_some() {
        let (_worker, ..) = start(config(IoChoice::Syscall), |report| match report {
            WorkerReport::EngineChosen(_) => panic!("struck down"),
            WorkerReport::Died(text) => eprintln!("last words: {text}"),
            _ => {}
        });
        unreachable!("the process has ended");
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_worker_that_panics_says_so_and_ends_the_process", "--nocapture"])
        .env(VICTIM, "1")
        .output()
        .unwrap();
    assert_eq!(output.status.signal(), Some(6), "SIGABRT, not {:?}", output.status);
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("last words: worker-0 panicked: struck down"), "{words}");
}
