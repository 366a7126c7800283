//! report.html: one file without script or anything from outside, that says what was measured, where, how, and what came
//! out. Every text that is not a literal here passes through `text::html`.

use std::fmt::Write as _;

use super::plots::Plot;
use super::view::{self, Advantage, LINKS, Measure};
use super::{stats, text};
use crate::bench::results::{Latency, Link, Results, Sample, Series, Test};

const STYLE: &str = include_str!("style.css");

const HOW: &str = "<p>Two network namespaces of this machine are joined by a veth pair. A contender runs at each end and \
carries the same traffic, made by minivpn's own generator; <b>veth</b> is the same traffic without a tunnel. On the \
<b>offloaded</b> link super-packets cross whole, as with a network card that segments and coalesces by itself; on the \
<b>segmented</b> link every packet is cut to the MTU before it crosses.</p>\
<p>All contenders run one after the other in every round, so that whatever changes on the machine meets all of them. \
<b>Up</b> is from client to server. Both ends share the processors of one machine: the figures compare programs, they are not \
what two machines would reach. Throughput is payload that arrived; a datagram that was lost does not count.</p>\
<p>UDP is what an application such as a QUIC server sends: datagrams of one size in trains of up to 64 (65,000 bytes at most), each \
train one send that the kernel cuts (UDP_SEGMENT), and taken as they come, joined or not (UDP_GRO). A tunnel whose interface takes \
UDP super-packets gets the trains whole, for every other one the kernel cuts them first. Where the kernel refuses trains, datagrams \
are sent one by one, many in one call. <b>ns per packet</b> is the processor time of the programs at both ends together, divided by \
the packets that arrived.</p>";

const READING: &str = "<p><b>Median</b> and <b>p25&#8211;p75</b> are over the rounds. <b>minivpn's best</b> is the engine \
and cipher library with the best median of the test. Its <b>advantage</b> is the median of the ratios round by round, p25&#8211;p75 \
in brackets; above 1 minivpn is better, in throughput as in round-trip time. <b>95&#8239;%</b> is the bootstrap interval of that \
median, given from 5 rounds on: when it includes 1, the two are not told apart. In the plots a bar ends at the median, the \
line through its end goes from p25 to p75, each circle is a round.</p>";

/// The page, with the plots in it.
pub(crate) fn page(results: &Results, plots: &[Plot]) -> String {
    let mut page = String::new();
    let started = text::html(&results.started);
    // A String takes everything: writing to it cannot fail.
    let _ = write!(
        page,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>minivpn bench, {started}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n\
         <h1>minivpn bench</h1>\n<p class=\"soft\">{started}</p>\n"
    );
    page.push_str(&where_it_ran(results));
    for link in LINKS {
        page.push_str(&link_section(results, link, plots));
    }
    page.push_str(&crypto(results, plots));
    let _ = write!(page, "<h2>How it was measured</h2>\n{HOW}\n<h2>How to read it</h2>\n{READING}\n");
    page.push_str("</main>\n</body>\n</html>\n");
    page
}

fn where_it_ran(results: &Results) -> String {
    let machine = &results.machine;
    let memory = format!("{} GiB", text::number(machine.memory_bytes as f64 / f64::from(1 << 30)));
    let mut rows: Vec<Vec<String>> = [
        ("processor", machine.cpu.clone()),
        ("processors used", machine.cores.to_string()),
        ("memory", memory),
        ("kernel", machine.kernel.clone()),
        ("system", machine.os.clone()),
        ("virtualization", machine.virtualization.clone()),
    ]
    .map(|(name, value)| vec![name.to_owned(), value])
    .into();
    rows.extend(results.versions.iter().map(|(name, version)| vec![name.clone(), version.clone()]));
    let mut part = format!("<h2>Machine and versions</h2>\n{}", words(&["", ""], &rows));
    let command = text::html(&text::command(&results.command_line));
    let _ = write!(part, "<h3>Command line</h3>\n<pre>{command}</pre>\n");
    let offloads = offloads(results);
    if !offloads.is_empty() {
        part.push_str("<h3>Offloads in use</h3>\n");
        part.push_str(&words(&["contender", "link", "offloads"], &offloads));
    }
    part.push_str("<h3>Not measured</h3>\n");
    match results.skipped.is_empty() {
        true => part.push_str("<p>Nothing was skipped.</p>\n"),
        false => {
            let rows: Vec<_> = results.skipped.iter().map(|s| vec![s.contender.clone(), s.reason.clone()]).collect();
            part.push_str(&words(&["contender", "why"], &rows));
        }
    }
    part
}

/// What each contender used on each link, once.
fn offloads(results: &Results) -> Vec<Vec<String>> {
    let mut rows: Vec<Vec<String>> = Vec::new();
    for series in &results.series {
        let row = vec![series.contender.clone(), view::link_name(series.link).to_owned(), series.offloads.clone()];
        if !rows.contains(&row) {
            rows.push(row);
        }
    }
    rows
}

fn link_section(results: &Results, link: Link, plots: &[Plot]) -> String {
    let tests = view::tests(results, link);
    if tests.is_empty() {
        return String::new();
    }
    let mut part = format!("<h2>The {} link</h2>\n", view::link_name(link));
    part.push_str(&figures(plots, Some(link)));
    for test in tests {
        let _ = writeln!(part, "<h3>{}</h3>", text::html(&view::test_name(test)));
        part.push_str(&test_table(results, link, test));
    }
    part
}

fn test_table(results: &Results, link: Link, test: Test) -> String {
    let best = view::best_minivpn(results, link, test);
    let round_trips = Measure::of(test).less_is_better();
    let own: &[&str] =
        if round_trips { &["p99", "p99.9", "longest"] } else { &["ns per packet", "lost", "sent again"] };
    let head = [&["contender", "median", "p25–p75", "rounds"], own, &["minivpn's best against it", "95 %"]].concat();
    let mut rows = String::new();
    for series in view::series(results, link, test) {
        let mut cells = vec![series.contender.clone()];
        cells.extend(spread(series));
        cells.extend(if round_trips { trips(series) } else { transfer(series) });
        let is_best = best.is_some_and(|best| best.contender == series.contender);
        let advantage = best.filter(|_| !is_best).and_then(|best| view::advantage(best, series));
        cells.extend(if is_best { ["best minivpn".to_owned(), String::new()] } else { ratio(advantage) });
        let class = if view::is_minivpn(&series.contender) { " class=\"ours\"" } else { "" };
        let _ = writeln!(rows, "<tr{class}>{}</tr>", cells_of("td", &cells));
    }
    table("", &head, &rows)
}

/// Median, quartiles and number of the figures that the test is about.
fn spread(series: &Series) -> [String; 3] {
    let Some(summary) = stats::summary(&view::values(series)) else {
        return ["–".to_owned(), "–".to_owned(), series.samples.len().to_string()];
    };
    let unit = Measure::of(series.test).unit();
    let (divisor, prefix) = if unit == "µs" { (1.0, "") } else { text::prefix(summary.median) };
    let [p25, median, p75] = [summary.p25, summary.median, summary.p75].map(|value| text::number(value / divisor));
    [format!("{median} {prefix}{unit}"), format!("{p25}–{p75}"), summary.count.to_string()]
}

fn transfer(series: &Series) -> [String; 3] {
    let cost = stats::median(&view::costs(series)).map_or("–".to_owned(), text::number);
    let lost = match series.test {
        Test::Udp { .. } => median_of(series, |sample| Some(sample.loss)).map_or("–".to_owned(), text::percent),
        _ => "–".to_owned(),
    };
    let again = match series.test {
        Test::Udp { .. } => "–".to_owned(),
        _ => series.samples.iter().fold(0u64, |sum, sample| sum.saturating_add(sample.retransmits)).to_string(),
    };
    [cost, lost, again]
}

fn trips(series: &Series) -> [String; 3] {
    let of: [fn(&Latency) -> f64; 3] = [|trip| trip.p99, |trip| trip.p999, |trip| trip.max];
    of.map(|of| {
        let median = median_of(series, |sample| sample.latency_us.as_ref().map(of));
        median.map_or("–".to_owned(), |median| format!("{} µs", text::number(median)))
    })
}

fn median_of(series: &Series, of: impl Fn(&Sample) -> Option<f64>) -> Option<f64> {
    stats::median(&series.samples.iter().filter_map(of).collect::<Vec<_>>())
}

fn ratio(advantage: Option<Advantage>) -> [String; 2] {
    let Some(Advantage { ratio, interval }) = advantage else { return ["–".to_owned(), String::new()] };
    let [p25, median, p75] = [ratio.p25, ratio.median, ratio.p75].map(text::number);
    let interval = interval.map_or("–".to_owned(), |i| format!("{}–{}", text::number(i.low), text::number(i.high)));
    [format!("{median}× ({p25}–{p75})"), interval]
}

fn crypto(results: &Results, plots: &[Plot]) -> String {
    if results.crypto.is_empty() {
        return String::new();
    }
    let mut rows = String::new();
    for row in &results.crypto {
        let rate = |ns: f64| format!("{} Gb/s", text::number(row.size as f64 * 8.0 / ns));
        let mut cells = vec![row.backend.clone(), row.cipher.clone(), row.size.to_string()];
        cells.extend([text::number(row.seal_ns), text::number(row.open_ns), rate(row.seal_ns), rate(row.open_ns)]);
        let _ = writeln!(rows, "<tr>{}</tr>", cells_of("td", &cells));
    }
    let head = ["library", "cipher", "bytes", "sealing, ns", "opening, ns", "sealing", "opening"];
    format!("<h2>AEAD</h2>\n{}{}", figures(plots, None), table("", &head, &rows))
}

fn figures(plots: &[Plot], link: Option<Link>) -> String {
    let mut part = String::new();
    for plot in plots.iter().filter(|plot| plot.link == link) {
        let Some(svg) = &plot.svg else { continue };
        let label = format!("<svg role=\"img\" aria-label=\"{}\" ", text::html(&plot.title));
        // In HTML the namespace is understood.
        let svg = svg.replacen("<svg ", &label, 1).replacen(" xmlns=\"http://www.w3.org/2000/svg\"", "", 1);
        let _ = write!(part, "<figure class=\"wide\">\n{svg}</figure>\n");
    }
    part
}

/// A table of words, with names in the first column.
fn words(head: &[&str], rows: &[Vec<String>]) -> String {
    let body = rows.iter().map(|row| format!("<tr>{}</tr>\n", cells_of("td", row))).collect::<String>();
    table(" class=\"words\"", head, &body)
}

fn table(class: &str, head: &[&str], rows: &str) -> String {
    let head = match head.iter().all(|title| title.is_empty()) {
        true => String::new(),
        false => format!("<thead><tr>{}</tr></thead>\n", cells_of("th", head)),
    };
    format!("<div class=\"wide\"><table{class}>\n{head}<tbody>\n{rows}</tbody>\n</table></div>\n")
}

fn cells_of(tag: &str, cells: &[impl AsRef<str>]) -> String {
    cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", text::html(cell.as_ref()))).collect()
}
