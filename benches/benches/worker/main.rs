//! The single-worker benchmark: what one inner packet costs one worker, in nanoseconds of its thread's CPU time.
//!
//! ```text
//! cargo bench -p benches --bench worker
//! cargo bench -p benches --bench worker -- --rows seal-1420,open-1420 --engines syscall --reps 30 --json /tmp/worker.json
//! ```
//!
//! What is measured is the product's own worker: `workers::manager::spawn`, a real TUN, a real UDP socket, a key installed
//! over the ring. It needs root, because it makes a network namespace (unshare(2)) for itself alone; everything lives in it
//! and vanishes with the process.
//!
//! How. The worker sleeps without its source (the TUN when it seals, the socket when it opens) while a generator fills
//! that source's queue; this is not timed. Then the worker gets the source, drains it, and sleeps again. Its thread's CPU
//! time over the drain (`/proc/thread-self/schedstat`, exact for a thread that sleeps), less what the same round costs with
//! an empty queue, is divided by the inner packets that [`WorkerStats`](dataplane::workers::stats::WorkerStats) counted. The queue is never
//! empty while the clock runs, the generator never runs meanwhile, and nothing but the worker's thread is counted.
//!
//! What that includes: every system call the thread makes, and what the kernel does inside them. When it seals that is the
//! whole transmit path down to a device (`ifb`) that takes UDP_SEGMENT as hardware does and drops; when it opens, the receive
//! path of the TUN up to the routing decision, where the packet ends (there is no route, and no forwarding). What it does not
//! include: the softirq that puts a datagram into the socket's queue, which runs where the generator sends.
//!
//! A repetition of a row is one figure per engine and AEAD, one after the other (A B A B …); a figure is the median of its rounds.
//! The table gives the median over all repetitions, p25–p75 in brackets, and for the engines the median of
//! the ratios within each repetition with a bootstrap 95 % interval: a ratio is better than two medians, because both of its
//! parts saw the same minute of the machine. io_uring holds when the interval reaches down to 1.03.
//!
//! The targets were set on a machine with an EPYC of the Zen 5 generation and Linux 6.18: on another machine only the ratios mean something.

#![allow(unreachable_pub)] // modules of a program

mod args;
mod figures;
mod lab;
mod machine;
mod report;
mod rows;
mod subject;
mod traffic;

use std::error::Error;

use args::Args;
use figures::Series;
use lab::Lab;
use machine::Machine;
use rows::Row;
use subject::Subject;
use traffic::Generator;

fn main() -> Result<(), Box<dyn Error>> {
    let Some(args) = Args::read()? else {
        println!("nothing is measured without --bench");
        return Ok(());
    };
    // Before any thread: all of them are to live in the same namespace.
    let lab = Lab::new()?;
    let machine = Machine::look(&args.aeads);
    report::preamble(&args, &lab, &machine);
    let mut results = Vec::new();
    for (number, &row) in args.rows.iter().enumerate() {
        report::progress(&format!("{} ({} of {})", row.name, number + 1, args.rows.len()));
        results.extend(measure(&args, &lab, row)?);
    }
    report::progress("");
    report::table(&results);
    if let Some(file) = &args.json {
        std::fs::write(file, report::json(&args, &machine, &results))?;
    }
    Ok(())
}

/// One row: every AEAD on every engine, interleaved.
fn measure(args: &Args, lab: &Lab, row: Row) -> Result<Vec<Series>, Box<dyn Error>> {
    let mut subjects = Vec::new();
    for &aead in &args.aeads {
        for &engine in &args.engines {
            subjects.push((Subject::start(lab, row, engine, aead, args.cpu)?, Series::new(row, engine, aead)));
        }
    }
    let mut generator = Generator::start(lab, row, &args.aeads, args.generator_cpu)?;
    for (subject, _) in &mut subjects {
        subject.figure(lab, &mut generator, 2)?; // caches, slabs and the branch predictor
    }
    for rep in 0..args.reps {
        for (subject, series) in &mut subjects {
            report::progress(&format!(
                "{} {}/{}: {}, {}",
                row.name,
                rep + 1,
                args.reps,
                series.aead.name(),
                series.engine.name()
            ));
            series.push(subject.figure(lab, &mut generator, args.rounds)?);
        }
    }
    Ok(subjects.into_iter().map(|(_, series)| series).collect())
}
