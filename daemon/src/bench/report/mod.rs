//! What is told about a run: the files of `--out`, the comparison of `--against`, the table on the terminal.

use std::io;
use std::path::{Path, PathBuf};

use super::results::Results;

/// Writes the whole report into `dir`, which is made if it is missing, and returns the files, results.json first.
pub fn write(dir: &Path, results: &Results) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let path = dir.join("results.json");
    std::fs::write(&path, serde_json::to_vec_pretty(results)?)?;
    Ok(vec![path])
}

/// Compares two runs, series by series, for the terminal.
pub fn against(_old: &Results, _new: &Results) -> String {
    String::new()
}

/// The run as a table for a terminal of 100 columns.
pub fn table(_results: &Results) -> String {
    String::new()
}
