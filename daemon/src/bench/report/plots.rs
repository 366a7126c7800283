//! Which plots a report has, and in which colours.

use std::collections::BTreeSet;
use std::io;

use plotters::style::RGBColor;

use super::bars::{Bar, Bars, Group};
use super::canvas::Marker;
use super::lines::{Line, Lines, Panel};
use super::view::{self, DIRECTIONS, LINKS, Measure};
use super::{stats, text};
use crate::bench::results::{CryptoRow, Direction, Latency, Link, Results, Series, Test};

/// A plot of the report.
pub(crate) struct Plot {
    /// Name of its file.
    pub(crate) file: String,
    /// The link it is about; none for the AEAD.
    pub(crate) link: Option<Link>,
    /// What it shows, for those who cannot see it.
    pub(crate) title: String,
    /// The plot; none when the run has no figures for it.
    pub(crate) svg: Option<String>,
}

/// Shades of minivpn, darkest first, in the order of the run.
const MINIVPN: [u32; 6] = [0x1650b5, 0x2f7df0, 0x6aa5f7, 0x9cc4fb, 0x12398a, 0x4c6fbf];
/// What others are known by; the rest is grey.
const OTHERS: [(&str, u32); 6] = [
    ("openvpn", 0xe0701a),
    ("wireguard-go", 0x2c9a4b),
    ("boringtun", 0x9a5cc0),
    ("wireguard (kernel)", 0x12756b),
    ("ovpn (kernel)", 0xc0392f),
    ("veth", 0x8a929b),
];
/// Contenders without a colour of their own.
const GREYS: [u32; 3] = [0x6b7178, 0xa9b0b8, 0x50565c];
/// AEAD backends, in the order of the run.
const BACKENDS: [u32; 5] = [0x2f7df0, 0xe0701a, 0x2c9a4b, 0x9a5cc0, 0x6b7178];

/// Every plot that a report can have, those without figures too.
pub(crate) fn all(results: &Results) -> io::Result<Vec<Plot>> {
    let mut plots = Vec::new();
    for link in LINKS {
        let name = view::link_name(link);
        for direction in DIRECTIONS {
            let way = view::direction_name(direction);
            let title = format!("TCP throughput, {name} link, {way}");
            let bars = bars(results, link, Some(direction), Measure::Throughput, &title);
            plots.push(Plot {
                file: format!("throughput-{name}-{way}.svg"),
                link: Some(link),
                title,
                svg: bars.draw()?,
            });
            let title = format!("UDP packets received, {name} link, {way}");
            let bars = self::bars(results, link, Some(direction), Measure::PacketRate, &title);
            plots.push(Plot { file: format!("udp-{name}-{way}.svg"), link: Some(link), title, svg: bars.draw()? });
        }
        let title = format!("Round-trip times, {name} link");
        let svg = latency(results, link, &title).draw()?;
        plots.push(Plot { file: format!("latency-{name}.svg"), link: Some(link), title, svg });
        let title = format!("Processor time per packet, {name} link");
        let svg = costs(results, link, &title).draw()?;
        plots.push(Plot { file: format!("ns-per-packet-{name}.svg"), link: Some(link), title, svg });
    }
    let title = "AEAD, one operation".to_owned();
    plots.push(Plot { file: "crypto.svg".to_owned(), link: None, svg: crypto(results, &title).draw()?, title });
    Ok(plots)
}

fn bars(results: &Results, link: Link, way: Option<Direction>, measure: Measure, title: &str) -> Bars {
    let tests = view::tests(results, link).into_iter();
    let tests = tests.filter(|test| Measure::of(*test) == measure && view::direction(*test) == way);
    let groups = tests.map(|test| group(results, link, test, &view::kind_name(test), view::values)).collect();
    let axis = if measure == Measure::Throughput { "received inside the tunnel" } else { "received" };
    Bars { title: title.to_owned(), unit: measure.unit(), axis, groups }
}

fn costs(results: &Results, link: Link, title: &str) -> Bars {
    let group = |test| group(results, link, test, &view::test_name(test), view::costs);
    let mut groups: Vec<Group> = view::tests(results, link).into_iter().map(group).collect();
    groups.iter_mut().for_each(|group| group.bars.retain(|bar| !bar.values.is_empty()));
    groups.retain(|group| !group.bars.is_empty());
    let axis = "processor time of both ends per packet received, lower is better";
    Bars { title: title.to_owned(), unit: "ns", axis, groups }
}

fn group(results: &Results, link: Link, test: Test, title: &str, values: impl Fn(&Series) -> Vec<f64>) -> Group {
    let bar = |series: &Series| Bar {
        name: series.contender.clone(),
        colour: colour(results, &series.contender),
        values: values(series),
    };
    Group { title: title.to_owned(), bars: view::series(results, link, test).map(bar).collect() }
}

/// Percentiles on an axis of tails (each step is a tenth of the round trips before), where a CDF shows only its upper edge.
fn latency(results: &Results, link: Link, title: &str) -> Lines {
    let panel = |(test, title): (Test, &str)| Panel {
        title: title.to_owned(),
        lines: view::series(results, link, test).filter_map(|series| latency_line(results, series)).collect(),
    };
    let mut panels: Vec<Panel> =
        [(Test::LatencyIdle, "idle"), (Test::LatencyLoaded, "under load")].into_iter().map(panel).collect();
    panels.retain(|panel| !panel.lines.is_empty());
    let ticks = [(0.0, "0"), (0.5, "50"), (0.9, "90"), (0.99, "99"), (0.999, "99.9"), (0.9999, "99.99")];
    Lines {
        title: title.to_owned(),
        x_title: "percentile of the round trips (%)",
        x_ticks: ticks.iter().map(|(share, label)| (tail(*share), (*label).to_owned())).collect(),
        y_title: "round-trip time (µs)",
        panels,
    }
}

fn latency_line(results: &Results, series: &Series) -> Option<Line> {
    let rounds: Vec<&Latency> = series.samples.iter().filter_map(|sample| sample.latency_us.as_ref()).collect();
    let middle = |of: fn(&Latency) -> f64| stats::median(&rounds.iter().map(|round| of(round)).collect::<Vec<_>>());
    let known =
        [(0.5, middle(|l| l.p50)), (0.9, middle(|l| l.p90)), (0.99, middle(|l| l.p99)), (0.999, middle(|l| l.p999))];
    let marks: Vec<(f64, f64)> = known.iter().filter_map(|(share, trip)| Some((tail(*share), (*trip)?))).collect();
    // The line is the median of the rounds as well, so that one odd round does not draw it; the histogram's whole
    // microseconds are too coarse below some ten of them.
    let mut points: Vec<(f64, f64)> = middle(|l| l.min).map(|least| (0.0, least)).into_iter().collect();
    points.extend(&marks);
    points.extend(far_tail(&rounds));
    let index = view::contenders(results).iter().position(|name| *name == series.contender).unwrap_or_default();
    let (colour, marker) = (colour(results, &series.contender), Marker::of(index));
    (!marks.is_empty()).then(|| Line { name: series.contender.clone(), colour, marker, points, marks })
}

/// The 99.99th percentile of all rounds together, when there are round trips enough to have one.
fn far_tail(rounds: &[&Latency]) -> Option<(f64, f64)> {
    let mut buckets: Vec<(u64, u64)> = rounds.iter().flat_map(|round| round.histogram.iter().copied()).collect();
    buckets.sort_unstable();
    let total: u128 = buckets.iter().map(|(_, count)| u128::from(*count)).sum();
    if total < 10_000 {
        return None;
    }
    let wanted = (total - total / 10_000).max(1);
    let mut seen = 0u128;
    let edge = buckets.iter().find(|(_, count)| {
        seen += u128::from(*count);
        seen >= wanted
    });
    edge.map(|(edge, _)| (tail(0.9999), *edge as f64))
}

/// The place of a percentile: how many times the rest was cut to a tenth.
fn tail(share: f64) -> f64 {
    -(1.0 - share).log10()
}

fn crypto(results: &Results, title: &str) -> Lines {
    let sizes: BTreeSet<usize> = results.crypto.iter().map(|row| row.size).collect();
    let panel = |title: &str, figure: fn(&CryptoRow) -> f64| Panel {
        title: title.to_owned(),
        lines: crypto_lines(results, figure),
    };
    let mut panels = vec![panel("sealing", |row| row.seal_ns), panel("opening", |row| row.open_ns)];
    panels.retain(|panel| !panel.lines.is_empty());
    Lines {
        title: title.to_owned(),
        x_title: "plaintext (bytes)",
        x_ticks: sizes.iter().map(|size| (place(*size), size.to_string())).collect(),
        y_title: "time (ns), lower is better",
        panels,
    }
}

fn crypto_lines(results: &Results, figure: fn(&CryptoRow) -> f64) -> Vec<Line> {
    let (backends, ciphers) = (names(results, |row| &row.backend), names(results, |row| &row.cipher));
    let mut lines = Vec::new();
    for (b, backend) in backends.iter().enumerate() {
        for (c, cipher) in ciphers.iter().enumerate() {
            let rows = results.crypto.iter().filter(|row| row.backend == *backend && row.cipher == *cipher);
            let points = rows.map(|row| (place(row.size), figure(row)));
            let mut points: Vec<(f64, f64)> = points.filter(|(_, time)| time.is_finite() && *time > 0.0).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let name = format!("{}, {}", text::short(backend, 10), cipher);
            let colour = paler(BACKENDS[b % BACKENDS.len()], c);
            if !points.is_empty() {
                lines.push(Line { name, colour, marker: Marker::of(c), marks: points.clone(), points });
            }
        }
    }
    lines
}

fn names<'a>(results: &'a Results, of: impl Fn(&'a CryptoRow) -> &'a String) -> Vec<&'a str> {
    let mut seen = BTreeSet::new();
    results.crypto.iter().map(|row| of(row).as_str()).filter(|name| seen.insert(*name)).collect()
}

/// Sizes are drawn by their logarithm.
fn place(size: usize) -> f64 {
    (size.max(1) as f64).log2()
}

/// The colour of a contender, the same in every plot of the report.
fn colour(results: &Results, contender: &str) -> RGBColor {
    let contenders = view::contenders(results);
    let index_among = |like: &dyn Fn(&str) -> bool| {
        contenders.iter().filter(|name| like(name)).position(|name| *name == contender).unwrap_or_default()
    };
    if view::is_minivpn(contender) {
        return rgb(MINIVPN[index_among(&view::is_minivpn) % MINIVPN.len()]);
    }
    if let Some((_, colour)) = OTHERS.iter().find(|(name, _)| *name == contender) {
        return rgb(*colour);
    }
    let nameless = |name: &str| !view::is_minivpn(name) && !OTHERS.iter().any(|(known, _)| *known == name);
    rgb(GREYS[index_among(&nameless) % GREYS.len()])
}

/// A colour `step` thirds of the way to white, twice at most.
fn paler(colour: u32, step: usize) -> RGBColor {
    let RGBColor(r, g, b) = rgb(colour);
    let mix = |channel: u8| channel + ((255 - channel) / 10) * [0, 4, 6][step.min(2)];
    RGBColor(mix(r), mix(g), mix(b))
}

fn rgb(colour: u32) -> RGBColor {
    let [_, r, g, b] = colour.to_be_bytes();
    RGBColor(r, g, b)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample_run::{full_run, latency_series, run};

    #[test]
    fn contenders_of_a_full_run_have_colours_of_their_own() {
        let results = full_run();
        let colours: BTreeSet<_> = view::contenders(&results)
            .iter()
            .map(|name| {
                let c = colour(&results, name);
                (c.0, c.1, c.2)
            })
            .collect();
        assert_eq!(colours.len(), view::contenders(&results).len());
        for name in view::contenders(&results).into_iter().filter(|name| view::is_minivpn(name)) {
            let RGBColor(r, g, b) = colour(&results, name);
            assert!(b > g && g > r, "{name} is not blue");
        }
    }

    #[test]
    fn a_full_run_has_every_plot_and_an_empty_one_none() {
        assert!(all(&full_run()).unwrap().iter().all(|plot| plot.svg.is_some()));
        assert!(all(&run()).unwrap().iter().all(|plot| plot.svg.is_none()));
        assert_eq!(all(&run()).unwrap().len(), 13);
    }

    #[test]
    fn the_far_tail_needs_ten_thousand_round_trips() {
        let latency = |histogram: &[(u64, u64)]| Latency { histogram: histogram.to_vec(), ..Latency::default() };
        assert_eq!(far_tail(&[&latency(&[(10, 9_999)])]), None);
        assert_eq!(far_tail(&[]), None);
        assert_eq!(far_tail(&[&latency(&[(10, 9_999), (500, 1)])]), Some((tail(0.9999), 10.0)));
        assert_eq!(far_tail(&[&latency(&[(10, 9_998), (500, 2)])]), Some((tail(0.9999), 500.0)));
        assert_eq!(far_tail(&[&latency(&[(10, 5_000)]), &latency(&[(7, 5_000)])]), Some((tail(0.9999), 10.0)));
        assert!(far_tail(&[&latency(&[(1, u64::MAX), (2, u64::MAX)])]).is_some());
    }

    #[test]
    fn percentiles_are_drawn_by_their_tails() {
        for (share, place) in [(0.0, 0.0), (0.9, 1.0), (0.99, 2.0), (0.9999, 4.0)] {
            assert!((tail(share) - place).abs() < 1e-6, "{share}");
        }
    }

    #[test]
    fn a_latency_plot_shows_the_load_that_was_measured_only() {
        let mut results = run();
        results.series.push(latency_series("veth", Test::LatencyIdle, &[10.0]));
        let plot = latency(&results, Link::Offloaded, "title");
        assert_eq!(plot.panels.iter().map(|panel| panel.title.as_str()).collect::<Vec<_>>(), ["idle"]);
    }
}
