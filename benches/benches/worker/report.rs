//! What is said: progress, the table, JSON.

use std::fmt::Write as _;
use std::io::{IsTerminal, Write as _};

use crate::args::Args;
use crate::figures::Series;
use crate::lab::Lab;
use crate::machine::Machine;
use crate::subject::Engine;

/// The engines tie when their ratio's interval reaches down to this.
const TIE: f64 = 1.03;

/// What the figures depend on.
pub fn preamble(args: &Args, lab: &Lab, machine: &Machine) {
    let cpus = dataplane::sys::affinity::allowed().len();
    println!("machine: {}, {cpus} CPUs, Linux {}", machine.cpu, machine.kernel);
    let seals: Vec<_> = machine.seal_ns.iter().map(|(aead, ns)| format!("{} {ns:.0} ns", aead.name())).collect();
    println!("a system call: {:.0} ns; sealing 1,400 B: {}", machine.call_ns, seals.join(", "));
    println!("worker on CPU {}, generator on CPU {}; {}", args.cpu, args.generator_cpu, lab.offload());
    if !lab.drops_whole_runs() {
        println!(
            "note: drop0 does not say that it takes UDP_SEGMENT whole: the seal rows include software segmentation"
        );
    }
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    println!("load before: {}\n", load.split(' ').take(3).collect::<Vec<_>>().join(" "));
}

/// One line that is written over; nothing when nobody looks.
pub fn progress(text: &str) {
    let mut out = std::io::stderr();
    if out.is_terminal() {
        let _ = write!(out, "\r\x1b[K{text}");
        let _ = out.flush();
    }
}

/// The table, one line for each row and AEAD.
pub fn table(results: &[Series]) {
    let base = results.iter().map(|series| series.engine).find(|engine| *engine != Engine::Uring);
    let base = base.unwrap_or(Engine::Syscall);
    println!(
        "{:<44} {:<9} {:>20} {:>20} {:>22} {:>7} {:>17} {:>6}",
        "ns per inner packet: median [p25–p75]",
        "AEAD",
        base.name(),
        Engine::Uring.name(),
        format!("uring/{} [95 %]", base.name()),
        "target",
        "reached",
        "group"
    );
    for (syscall, uring) in pairs(results) {
        let Some(any) = syscall.or(uring) else { continue };
        let target = any.aead.target(&any.row);
        let ratio = syscall.zip(uring).map(|(syscall, uring)| uring.over(syscall));
        let ratio = ratio.map_or(String::new(), |r| {
            let mark = if r.low <= TIE { "" } else { " !" };
            format!("{:.3} [{:.3}–{:.3}]{mark}", r.median, r.low, r.high)
        });
        let reached = target.map_or("-".into(), |target| {
            let verdict = |series: Option<&Series>| {
                series.map_or("-", |s| if s.spread()[1] <= f64::from(target) { "reached" } else { "missed" })
            };
            format!("{} / {}", verdict(syscall), verdict(uring))
        });
        println!(
            "{:<44} {:<9} {:>20} {:>20} {:>22} {:>7} {:>17} {:>6.1}",
            any.row.title,
            any.aead.name(),
            syscall.map_or(String::new(), spread),
            uring.map_or(String::new(), spread),
            ratio,
            target.map_or("-".into(), |target| format!("≤ {target}")),
            reached,
            any.grouping(),
        );
    }
    println!("\n`!`: the engines do not tie (95 % interval above {TIE}). group: packets per send or TUN write.");
}

fn spread(series: &Series) -> String {
    let [low, middle, high] = series.spread();
    format!("{middle:.0} [{low:.0}–{high:.0}]")
}

/// Both engines of each row and AEAD, side by side.
fn pairs(results: &[Series]) -> Vec<(Option<&Series>, Option<&Series>)> {
    let mut pairs: Vec<(Option<&Series>, Option<&Series>)> = Vec::new();
    for series in results {
        let same =
            |other: &Option<&Series>| other.is_some_and(|o| o.row.name == series.row.name && o.aead == series.aead);
        let at = pairs.iter().position(|(a, b)| same(a) || same(b)).unwrap_or_else(|| {
            pairs.push((None, None));
            pairs.len() - 1
        });
        match series.engine {
            Engine::Syscall | Engine::UringCopy => pairs[at].0 = Some(series),
            Engine::Uring => pairs[at].1 = Some(series),
        }
    }
    pairs
}

/// Every figure. The names in it are our own, without quotes or backslashes.
pub fn json(args: &Args, machine: &Machine, results: &[Series]) -> String {
    let seals: Vec<_> = machine.seal_ns.iter().map(|(aead, ns)| format!("\"{}\": {ns:.1}", aead.name())).collect();
    let mut out = format!(
        "{{\n  \"machine\": \"{}\",\n  \"kernel\": \"{}\",\n  \"call_ns\": {:.1},\n  \"seal_1400_ns\": {{{}}},\n  \"reps\": {},\n  \"rounds\": {},\n  \"cpu\": {},\n  \"generator_cpu\": {},\n  \"results\": [",
        machine.cpu,
        machine.kernel,
        machine.call_ns,
        seals.join(", "),
        args.reps,
        args.rounds,
        args.cpu,
        args.generator_cpu
    );
    for (number, series) in results.iter().enumerate() {
        let [p25, median, p75] = series.spread();
        let all: Vec<String> = series.figures.iter().map(|figure| format!("{:.2}", figure.ns)).collect();
        let overhead = series.figures.first().map_or(0.0, |figure| figure.overhead);
        let target = series.aead.target(&series.row).map_or("null".into(), |target| target.to_string());
        let _ = write!(
            out,
            "{}\n    {{\"row\": \"{}\", \"engine\": \"{}\", \"aead\": \"{}\", \"median_ns\": {median:.2}, \"p25_ns\": {p25:.2}, \
             \"p75_ns\": {p75:.2}, \"target_ns\": {target}, \"packets_per_write\": {:.2}, \"overhead_ns\": {overhead:.2}, \"ns\": [{}]}}",
            if number == 0 { "" } else { "," },
            series.row.name,
            series.engine.name(),
            series.aead.name(),
            series.grouping(),
            all.join(", ")
        );
    }
    out.push_str("\n  ],\n  \"ratios\": [");
    let ratios = pairs(results).into_iter().filter_map(|(syscall, uring)| Some((syscall?, uring?)));
    for (number, (syscall, uring)) in ratios.enumerate() {
        let ratio = uring.over(syscall);
        let _ = write!(
            out,
            "{}\n    {{\"row\": \"{}\", \"aead\": \"{}\", \"uring_over_syscall\": {:.4}, \"low\": {:.4}, \"high\": {:.4}}}",
            if number == 0 { "" } else { "," },
            syscall.row.name,
            syscall.aead.name(),
            ratio.median,
            ratio.low,
            ratio.high
        );
    }
    out.push_str("\n  ]\n}\n");
    out
}
