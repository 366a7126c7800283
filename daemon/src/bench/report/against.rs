//! Two runs compared: what became faster, what slower, and what cannot be told.

use std::fmt::Write as _;

use super::view::{self, Measure};
use super::{SEED, stats, text};
use crate::bench::results::{CryptoRow, Machine, Results, Series};

/// Columns for the name of a series.
const NAME: usize = 52;

/// See [`super::against`].
pub(crate) fn against(old: &Results, new: &Results) -> String {
    let mut out = format!("{} against {}\n", text::short(&new.started, 40), text::short(&old.started, 40));
    for difference in differences(&old.machine, &new.machine) {
        let _ = writeln!(out, "{}", text::short(&difference, 100));
    }
    let _ = writeln!(out, "\n{:NAME$}{:>11}{:>11}{:>10}  verdict", "", "old", "new", "new/old");
    let (mut compared, mut alone) = (0u32, String::new());
    for series in &new.series {
        match old.series.iter().find(|other| same_series(other, series)) {
            Some(other) => {
                compared += 1;
                compare(&mut out, other, series);
            }
            None => only(&mut alone, "new", &name(series)),
        }
    }
    for series in old.series.iter().filter(|series| !new.series.iter().any(|other| same_series(other, series))) {
        only(&mut alone, "old", &name(series));
    }
    compared += compare_crypto(&mut out, &mut alone, old, new);
    if compared == 0 {
        out.push_str("nothing was measured in both runs\n");
    }
    if !alone.is_empty() {
        let _ = write!(out, "\nmeasured in one run only\n{alone}");
    }
    out.push_str("\nsame: the 95 % interval of the ratio includes 1; few: fewer than 5 rounds say nothing\n");
    out
}

/// Sentences on what makes figures of the two runs incomparable.
fn differences(old: &Machine, new: &Machine) -> Vec<String> {
    let fields = [
        ("processor", old.cpu.clone(), new.cpu.clone()),
        ("number of processors", old.cores.to_string(), new.cores.to_string()),
        ("kernel", old.kernel.clone(), new.kernel.clone()),
        ("virtualization", old.virtualization.clone(), new.virtualization.clone()),
    ];
    let changed = fields.into_iter().filter(|(_, old, new)| old != new);
    changed
        .map(|(what, old, new)| {
            format!("warning: another {what}: {} then, {} now", text::short(&old, 30), text::short(&new, 30))
        })
        .collect()
}

fn same_series(a: &Series, b: &Series) -> bool {
    a.contender == b.contender && a.link == b.link && a.test == b.test
}

fn compare(out: &mut String, old: &Series, new: &Series) {
    let measure = Measure::of(new.test);
    let (old_values, new_values) = (view::values(old), view::values(new));
    let medians = [stats::median(&old_values), stats::median(&new_values)];
    let verdict = verdict(measure, &old_values, &new_values);
    line(out, &name(new), medians, measure.less_is_better(), verdict);
}

fn verdict(measure: Measure, old: &[f64], new: &[f64]) -> &'static str {
    match stats::ratio_interval(new, old, SEED) {
        None => "few",
        Some(interval) if interval.contains(1.0) => "same",
        Some(interval) if measure.better(interval.low, 1.0) => "faster",
        Some(_) => "slower",
    }
}

/// Returns how many rows were compared. A row has one figure, of which no interval is known: it gets no verdict.
fn compare_crypto(out: &mut String, alone: &mut String, old: &Results, new: &Results) -> u32 {
    let same = |a: &CryptoRow, b: &CryptoRow| a.backend == b.backend && a.cipher == b.cipher && a.size == b.size;
    let mut compared = 0;
    for row in &new.crypto {
        let Some(other) = old.crypto.iter().find(|other| same(other, row)) else {
            only(alone, "new", &crypto_name(row, ""));
            continue;
        };
        compared += 1;
        line(out, &crypto_name(row, ", sealing, ns"), [Some(other.seal_ns), Some(row.seal_ns)], true, "");
        line(out, &crypto_name(row, ", opening, ns"), [Some(other.open_ns), Some(row.open_ns)], true, "");
    }
    for row in old.crypto.iter().filter(|row| !new.crypto.iter().any(|other| same(other, row))) {
        only(alone, "old", &crypto_name(row, ""));
    }
    compared
}

fn line(out: &mut String, name: &str, medians: [Option<f64>; 2], plain: bool, verdict: &str) {
    let write = if plain { text::number } else { text::scaled };
    let [old, new] = medians.map(|median| median.map_or("–".to_owned(), write));
    let ratio = match medians {
        [Some(old), Some(new)] => text::number(new / old),
        _ => "–".to_owned(),
    };
    let row = format!("{:NAME$}{old:>11}{new:>11}{ratio:>10}  {verdict}", text::short(name, NAME));
    let _ = writeln!(out, "{}", row.trim_end());
}

fn only(alone: &mut String, run: &str, name: &str) {
    let _ = writeln!(alone, "  {run}: {}", text::short(name, 80));
}

fn name(series: &Series) -> String {
    let (link, test) = (view::link_name(series.link), view::test_name(series.test));
    format!("{} {link}, {test}", text::short(&series.contender, 25))
}

fn crypto_name(row: &CryptoRow, figure: &str) -> String {
    format!("{} {}, {} bytes{figure}", text::short(&row.backend, 10), text::short(&row.cipher, 18), row.size)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample_run::{full_run, hostile_run, latency_series, run, tcp_series};
    use crate::bench::results::Test;

    const OLD: [f64; 5] = [100e6, 101e6, 99e6, 102e6, 98e6];

    fn with(series: Vec<Series>) -> Results {
        Results { series, ..run() }
    }

    fn verdict_of(old: Series, new: Series) -> String {
        let text = against(&with(vec![old]), &with(vec![new]));
        text.lines().nth(3).unwrap().split_whitespace().last().unwrap().to_owned()
    }

    #[test]
    fn more_throughput_is_faster_and_a_longer_round_trip_slower() {
        let tcp = |values: [f64; 5]| tcp_series("minivpn", &values);
        let trip = |values: [f64; 5]| latency_series("minivpn", Test::LatencyIdle, &values);
        let double = OLD.map(|value| value * 2.0);
        let a_little_more = OLD.map(|value| value * 1.001);
        assert_eq!(verdict_of(tcp(OLD), tcp(double)), "faster");
        assert_eq!(verdict_of(tcp(double), tcp(OLD)), "slower");
        assert_eq!(verdict_of(tcp(OLD), tcp(OLD)), "same");
        assert_eq!(verdict_of(tcp(OLD), tcp(a_little_more)), "same");
        assert_eq!(verdict_of(trip(OLD), trip(double)), "slower");
        assert_eq!(verdict_of(trip(double), trip(OLD)), "faster");
        assert_eq!(verdict_of(trip(OLD), trip(OLD)), "same");
    }

    #[test]
    fn few_rounds_have_no_verdict() {
        assert_eq!(verdict_of(tcp_series("minivpn", &OLD[..4]), tcp_series("minivpn", &OLD.map(|v| v * 9.0))), "few");
        assert_eq!(verdict_of(tcp_series("minivpn", &[]), tcp_series("minivpn", &OLD)), "few");
    }

    #[test]
    fn medians_and_their_ratio_are_shown() {
        let new = OLD.map(|value| value * 2.0);
        let text = against(&with(vec![tcp_series("minivpn", &OLD)]), &with(vec![tcp_series("minivpn", &new)]));
        let row = text.lines().nth(3).unwrap();
        assert!(row.contains("100 M") && row.contains("200 M") && row.contains("2.00"), "{row}");
    }

    #[test]
    fn what_one_run_has_alone_is_named_with_its_run() {
        let text = against(&with(vec![tcp_series("openvpn", &OLD)]), &with(vec![tcp_series("boringtun", &OLD)]));
        assert!(text.contains("nothing was measured in both"));
        assert!(text.contains("  old: openvpn offloaded, TCP, 1 flow, up"), "{text}");
        assert!(text.contains("  new: boringtun offloaded, TCP, 1 flow, up"), "{text}");
    }

    #[test]
    fn another_machine_or_kernel_is_said_at_the_top() {
        let mut other = run();
        assert!(!against(&run(), &other).contains("another"));
        other.machine.kernel = "7.0".to_owned();
        other.machine.cpu = "Other CPU".to_owned();
        let text = against(&run(), &other);
        let top: Vec<_> = text.lines().take(3).collect();
        assert_eq!(top[1], "warning: another processor: Example CPU @ 2.0 GHz then, Other CPU now");
        assert_eq!(top[2], "warning: another kernel: 6.1.0-example then, 7.0 now");
    }

    #[test]
    fn the_comparison_fits_a_terminal_and_cannot_steer_it() {
        for (old, new) in [(full_run(), full_run()), (hostile_run(), hostile_run()), (hostile_run(), full_run())] {
            for line in against(&old, &new).lines() {
                assert!(line.chars().count() <= 100, "{line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }
}
