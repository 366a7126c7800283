//! The run on a terminal: for every link and kind of test a table of contenders by tests with the medians, and below it how
//! many times better minivpn's best is.

use std::fmt::Write as _;

use super::view::{self, LINKS, Measure};
use super::{stats, text};
use crate::bench::results::{Link, Results, Test};

/// Columns for the name of a contender.
const NAME: usize = 26;
/// Columns of a figure, with the blanks before it.
const CELL: usize = 12;
/// Figures in a row: 26 + 6 × 12 are 98 columns.
const CELLS: usize = 6;

/// See [`super::table`].
pub(crate) fn table(results: &Results) -> String {
    let mut out = String::new();
    for link in LINKS {
        for measure in [Measure::Throughput, Measure::PacketRate, Measure::RoundTrip] {
            let tests: Vec<Test> =
                view::tests(results, link).into_iter().filter(|test| Measure::of(*test) == measure).collect();
            for tests in tests.chunks(CELLS) {
                block(&mut out, results, link, measure, tests);
            }
        }
    }
    crypto(&mut out, results);
    for skipped in &results.skipped {
        let (contender, reason) = (text::short(&skipped.contender, NAME), text::short(&skipped.reason, 58));
        let _ = writeln!(out, "not measured: {contender}: {reason}");
    }
    if out.is_empty() {
        out.push_str("nothing was measured\n");
    }
    out
}

fn block(out: &mut String, results: &Results, link: Link, measure: Measure, tests: &[Test]) {
    let better = if measure.less_is_better() { "lower is better" } else { "higher is better" };
    let what = match measure {
        Measure::Throughput => "throughput in b/s",
        Measure::PacketRate => "received packets/s",
        Measure::RoundTrip => "median round trip in µs",
    };
    let _ = writeln!(out, "{} link, {what} (medians, {better})", view::link_name(link));
    row(out, "", tests.iter().map(|test| short_name(*test)));
    let contenders = view::contenders(results);
    for contender in &contenders {
        let median = |test: &Test| {
            let series = view::series(results, link, *test).find(|series| series.contender == *contender)?;
            stats::median(&view::values(series))
        };
        let figures: Vec<Option<f64>> = tests.iter().map(median).collect();
        if figures.iter().any(Option::is_some) {
            let write = if measure.less_is_better() { text::number } else { text::scaled };
            row(out, contender, figures.into_iter().map(|figure| figure.map_or("–".to_owned(), write)));
        }
    }
    ratios(out, results, link, tests, &contenders);
    out.push('\n');
}

fn ratios(out: &mut String, results: &Results, link: Link, tests: &[Test], contenders: &[&str]) {
    let mut titled = false;
    for contender in contenders.iter().filter(|contender| !view::is_minivpn(contender)) {
        let ratio = |test: &Test| {
            let theirs = view::series(results, link, *test).find(|series| series.contender == *contender)?;
            Some(view::advantage(view::best_minivpn(results, link, *test)?, theirs)?.ratio.median)
        };
        let ratios: Vec<Option<f64>> = tests.iter().map(ratio).collect();
        if ratios.iter().all(Option::is_none) {
            continue;
        }
        if !titled {
            out.push_str("  minivpn's best, times better than\n");
            titled = true;
        }
        let cell = |ratio: Option<f64>| ratio.map_or("–".to_owned(), |ratio| format!("{}×", text::number(ratio)));
        row(out, &format!("  {contender}"), ratios.into_iter().map(cell));
    }
}

fn crypto(out: &mut String, results: &Results) {
    if results.crypto.is_empty() {
        return;
    }
    out.push_str("AEAD, ns per operation (lower is better)\n");
    row(out, "", ["cipher", "", "bytes", "sealing", "opening"].map(str::to_owned).into_iter());
    for line in &results.crypto {
        let cipher = text::short(&line.cipher, 2 * CELL - 2);
        let _ = writeln!(
            out,
            "{:NAME$}{cipher:>width$}{:>CELL$}{:>CELL$}{:>CELL$}",
            text::short(&line.backend, NAME),
            text::number(line.size as f64),
            text::number(line.seal_ns),
            text::number(line.open_ns),
            width = 2 * CELL,
        );
    }
    out.push('\n');
}

fn row(out: &mut String, name: &str, cells: impl Iterator<Item = String>) {
    let mut line = format!("{:NAME$}", text::short(name, NAME));
    for cell in cells {
        let _ = write!(line, "{:>CELL$}", text::short(&cell, CELL - 1));
    }
    out.push_str(line.trim_end());
    out.push('\n');
}

/// At most 11 columns.
fn short_name(test: Test) -> String {
    let way = view::direction(test).map(view::direction_name).unwrap_or_default();
    match test {
        Test::TcpSingle { .. } => format!("1 flow {way}"),
        Test::TcpParallel { flows, .. } => format!("{flows} fl. {way}"),
        Test::Udp { size, .. } => format!("{size} B {way}"),
        Test::LatencyIdle => "idle".to_owned(),
        Test::LatencyLoaded => "under load".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample_run::{full_run, hostile_run, run};

    #[test]
    fn no_line_is_wider_than_100_columns() {
        for results in [full_run(), hostile_run(), run()] {
            for line in table(&results).lines() {
                assert!(line.chars().count() <= 100, "{line}");
                assert!(!line.contains(char::is_control), "{line:?}");
            }
        }
    }

    #[test]
    fn medians_and_ratios_stand_in_the_row_of_their_contender() {
        let table = table(&full_run());
        let row = |start: &str| table.lines().find(|line| line.starts_with(start)).unwrap().split_whitespace();
        let openvpn: Vec<_> = row("openvpn ").collect();
        assert_eq!(openvpn[1..5], ["970", "M", "970", "M"]);
        let ratio: Vec<_> = row("  openvpn ").collect();
        assert_eq!(ratio[1], "12.5×");
        assert!(table.contains("not measured: tailscale"));
    }

    #[test]
    fn a_run_without_figures_says_so() {
        assert_eq!(table(&run()), "nothing was measured\n");
    }
}
