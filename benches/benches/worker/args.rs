//! The command line.

use std::error::Error;
use std::path::PathBuf;

use crate::rows::{ROWS, Row};
use crate::subject::{Backend, Engine};

/// What to measure, and how often.
#[derive(Debug)]
pub struct Args {
    /// Which rows; all by default.
    pub rows: Vec<Row>,
    /// Which engines; both by default.
    pub engines: Vec<Engine>,
    /// Which AEAD backends; by default all that are there.
    pub aeads: Vec<Backend>,
    /// Figures per row, engine and AEAD.
    pub reps: usize,
    /// Queues drained for one figure.
    pub rounds: usize,
    /// The worker's CPU.
    pub cpu: usize,
    /// The generator's CPU.
    pub generator_cpu: usize,
    /// Where to write the results.
    pub json: Option<PathBuf>,
}

const USAGE: &str = "\
usage: cargo bench -p benches --bench worker -- [OPTIONS]
  --rows A,B,…      rows to measure (a name, or a prefix of names); all by default
  --engines A,B     syscall, uring; instead of syscall also uring-copy, which never sends without a copy
  --aead A,B,…      backends; by default all that are there
  --reps N          repetitions of every row, interleaved over engines and backends (15)
  --rounds N        queues drained for one figure (12)
  --queue N         packets or trains in the queue when the worker starts (the row's own: 1000 packets, 64 trains)
  --cpu N           the worker's CPU (the last one)
  --generator-cpu N the generator's CPU (the worker's: what it sends is in that CPU's slabs)
  --json FILE       write every figure there";

impl Args {
    /// Reads the process's arguments; `None` without `--bench`, which cargo bench says and cargo test does not.
    pub fn read() -> Result<Option<Self>, Box<dyn Error>> {
        let (mut benching, mut queue) = (false, None);
        let last = dataplane::sys::affinity::allowed().last().copied().unwrap_or(0);
        let mut args = Self {
            rows: ROWS.to_vec(),
            engines: Engine::BOTH.to_vec(),
            aeads: Backend::present(),
            reps: 15,
            rounds: 12,
            cpu: last,
            generator_cpu: last,
            json: None,
        };
        let mut words = std::env::args().skip(1);
        while let Some(word) = words.next() {
            let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
            match word.as_str() {
                "--bench" => benching = true,
                "--rows" => args.rows = rows(&value()?)?,
                "--engines" => args.engines = named(&value()?, &Engine::ALL, |engine| engine.name())?,
                "--aead" => args.aeads = named(&value()?, &Backend::present(), |aead| aead.name())?,
                "--reps" => args.reps = value()?.parse::<usize>()?.max(1),
                "--rounds" => args.rounds = value()?.parse::<usize>()?.max(1),
                "--cpu" => args.cpu = value()?.parse()?,
                "--generator-cpu" => args.generator_cpu = value()?.parse()?,
                "--queue" => queue = Some(value()?.parse::<usize>()?.max(1)),
                "--json" => args.json = Some(value()?.into()),
                "--help" | "-h" => {
                    println!("{USAGE}");
                    std::process::exit(0);
                }
                _ => return Err(format!("{word}?\n{USAGE}").into()),
            }
        }
        if [Engine::Syscall, Engine::UringCopy].iter().all(|engine| args.engines.contains(engine)) {
            return Err(format!("syscall and uring-copy are compared with uring one at a time\n{USAGE}").into());
        }
        for row in &mut args.rows {
            row.queue = queue.unwrap_or(row.queue);
        }
        Ok(benching.then_some(args))
    }
}

/// Rows whose name is a word of the list; where there is none, those whose name begins with it.
fn rows(list: &str) -> Result<Vec<Row>, String> {
    let mut chosen = Vec::new();
    for word in list.split(',') {
        let exact: Vec<_> = ROWS.into_iter().filter(|row| row.name == word).collect();
        let found =
            if exact.is_empty() { ROWS.into_iter().filter(|row| row.name.starts_with(word)).collect() } else { exact };
        if found.is_empty() {
            let names: Vec<_> = ROWS.iter().map(|row| row.name).collect();
            return Err(format!("no row {word}; there are {}", names.join(", ")));
        }
        chosen.extend(found);
    }
    Ok(chosen)
}

fn named<T: Copy>(list: &str, all: &[T], name: impl Fn(&T) -> &'static str) -> Result<Vec<T>, String> {
    let find = |word: &str| {
        all.iter().find(|one| name(one) == word).copied().ok_or_else(|| {
            let names: Vec<_> = all.iter().map(&name).collect();
            format!("no {word} here; there are {}", names.join(", "))
        })
    };
    list.split(',').map(find).collect()
}
