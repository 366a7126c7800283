//! What is told about a run: the files of `--out`, the comparison of `--against`, the table on the terminal.
//!
//! | file | what belongs in it |
//! |---|---|
//! | `view` | which figure counts, in which order, who is compared with whom |
//! | `stats` | median, quartiles, paired ratios, bootstrap |
//! | `text` | how figures are written, how foreign text is made harmless |
//! | `tables` | the CSV files |
//! | `canvas`, `bars`, `lines`, `plots` | drawing; the two kinds of plot; which plots there are |
//! | `page`, `style.css` | report.html |
//! | `against`, `terminal` | what the terminal shows |

mod against;
mod bars;
mod canvas;
mod lines;
mod page;
mod plots;
#[cfg(test)]
mod sample_run;
mod stats;
mod tables;
mod terminal;
pub(crate) mod text;
mod view;

use std::io;
use std::path::{Path, PathBuf};

use super::results::Results;

/// Of every bootstrap: the same results give the same report.
const SEED: u64 = 1;

/// Writes the report into `dir`, which is made if it is missing: results.json, four CSV files, an SVG file per plot and
/// report.html, which needs none of the others. Returns the files, results.json first and report.html last.
///
/// Files of an earlier report in `dir` are replaced; plots that this run has no figures for are removed. The error is that
/// of the file that could not be written; what was written before it stays.
pub fn write(dir: &Path, results: &Results) -> io::Result<Vec<PathBuf>> {
    std::fs::create_dir_all(dir)?;
    let mut written = Vec::new();
    // First what cannot be had again: the figures.
    save(dir, "results.json", &serde_json::to_vec_pretty(results)?, &mut written)?;
    for (name, bytes) in tables::all(results)? {
        save(dir, name, &bytes, &mut written)?;
    }
    let plots = plots::all(results)?;
    for plot in &plots {
        match &plot.svg {
            Some(svg) => save(dir, &plot.file, svg.as_bytes(), &mut written)?,
            None => remove(&dir.join(&plot.file))?,
        }
    }
    save(dir, "report.html", page::page(results, &plots).as_bytes(), &mut written)?;
    Ok(written)
}

/// Compares a run with an earlier one, series by series, in 100 columns: both medians, their ratio, and whether the
/// difference is more than chance (`same` when the 95 % bootstrap interval of the ratio includes 1). Series that only one
/// of them has, and another machine, are named.
pub fn against(old: &Results, new: &Results) -> String {
    against::against(old, new)
}

/// The run as tables of at most 100 columns: medians by contender and test, and how minivpn's best compares.
pub fn table(results: &Results) -> String {
    terminal::table(results)
}

fn save(dir: &Path, name: &str, bytes: &[u8], written: &mut Vec<PathBuf>) -> io::Result<()> {
    let path = dir.join(name);
    let named = |error: io::Error| io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()));
    std::fs::write(&path, bytes).map_err(named)?;
    written.push(path);
    Ok(())
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
