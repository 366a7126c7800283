//! `minivpn bench`: tunnels measured on the user's machine, by one command, with nothing left behind.
//!
//! | file | what belongs in it |
//! |---|---|
//! | `net` | the two namespaces and the link between them |
//! | `child` | a program that runs in one of them |
//! | `contender` | who is measured, and how a tunnel of each is raised |
//! | `traffic` | the generator |
//! | `plan` | what is measured in which order |
//! | `measure` | one measurement |
//! | `run` | the whole run |
//! | `crypto` | the AEAD alone |
//! | `machine`, `progress` | where it ran; what is seen meanwhile |
//! | `results`, `report` | what came out, and how it is told |

mod child;
mod contender;
mod crypto;
mod machine;
mod measure;
mod net;
mod plan;
mod progress;
pub mod report;
pub mod results;
mod run;
mod traffic;

use std::path::{Path, PathBuf};

pub use contender::Engine;

use crate::cli::{Bench, BenchCommand};
use crate::exit::{Exit, Fatal};
use results::Results;

/// `minivpn bench …`
pub fn main(options: &Bench, quiet: bool) -> Exit {
    let ran = match &options.command {
        Some(BenchCommand::Crypto(crypto)) => run::crypto(crypto, quiet),
        None => run::tunnels(options, quiet),
    };
    match ran {
        Ok(()) => Exit::Ok,
        Err(fatal) => {
            tracing::error!("{fatal}");
            fatal.exit
        }
    }
}

/// The directory of a report. Made before the measuring, so that minutes are not spent on what cannot be written; taken
/// away again where nothing came of it.
#[derive(Debug)]
struct OutDir {
    path: PathBuf,
    made: bool,
}

impl OutDir {
    fn prepare(wish: Option<&Path>, started: &str) -> Result<OutDir, Fatal> {
        let default = || PathBuf::from(format!("minivpn-bench-{}", started.replace(':', "")));
        let path = wish.map_or_else(default, Path::to_owned);
        let made = !path.exists();
        std::fs::create_dir_all(&path).map_err(|error| {
            let sentence = format!("cannot make the directory {}: {error}; choose another with --out", path.display());
            Fatal::new(Exit::Other, sentence)
        })?;
        Ok(OutDir { path, made })
    }

    /// Writes the report and shows what it says; the directory stays.
    fn fill(mut self, results: &Results, old: Option<&Results>, quiet: bool) -> Result<(), Fatal> {
        let files = report::write(&self.path, results).map_err(|error| {
            Fatal::new(Exit::Other, format!("cannot write the report to {}: {error}", self.path.display()))
        })?;
        self.made = false;
        if quiet {
            return Ok(());
        }
        print!("{}", report::table(results));
        if let Some(old) = old {
            print!("{}", report::against(old, results));
        }
        for file in files {
            println!("wrote {}", file.display());
        }
        Ok(())
    }
}

impl Drop for OutDir {
    fn drop(&mut self) {
        if self.made {
            // Only an empty one goes.
            let _ = std::fs::remove_dir(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_which_nothing_came_is_gone_and_one_that_was_there_stays() {
        let path = std::env::temp_dir().join(format!("minivpn-bench-test-{}", std::process::id()));
        drop(OutDir::prepare(Some(&path), "now").unwrap());
        assert!(!path.exists());
        std::fs::create_dir(&path).unwrap();
        drop(OutDir::prepare(Some(&path), "now").unwrap());
        assert!(path.exists());
        std::fs::remove_dir(&path).unwrap();
        assert!(OutDir::prepare(Some(Path::new("/proc/no/such")), "now").unwrap_err().sentence.contains("--out"));
    }
}
