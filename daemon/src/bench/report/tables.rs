//! The CSV files: every sample a row, figures unrounded, empty where there is none.

use std::io;

use super::{text, view};
use crate::bench::results::{Results, Sample, Series, Test};

/// Name and contents of every CSV file; a table without rows has its header.
pub(crate) fn all(results: &Results) -> io::Result<Vec<(&'static str, Vec<u8>)>> {
    Ok(vec![
        ("throughput.csv", throughput(results)?),
        ("udp.csv", udp(results)?),
        ("latency.csv", latency(results)?),
        ("crypto.csv", crypto(results)?),
    ])
}

fn throughput(results: &Results) -> io::Result<Vec<u8>> {
    let header = ["contender", "link", "flows", "direction", "round", "bits_per_second", "packets_per_second", "loss"];
    csv(header.iter().chain(&["retransmits", "ns_per_packet", "offloads"]), rows(results), |series, sample| {
        let flows = match series.test {
            Test::TcpSingle { .. } => 1,
            Test::TcpParallel { flows, .. } => flows,
            _ => return None,
        };
        let mut row = start(series, flows.to_string(), sample);
        row.extend([sample.bits_per_second, sample.packets_per_second, sample.loss].map(figure));
        row.extend([sample.retransmits.to_string(), sample.ns_per_packet.map(figure).unwrap_or_default()]);
        row.push(words(&series.offloads));
        Some(row)
    })
}

fn udp(results: &Results) -> io::Result<Vec<u8>> {
    let header = ["contender", "link", "size_bytes", "direction", "round", "packets_per_second", "bits_per_second"];
    csv(header.iter().chain(&["loss", "ns_per_packet", "offloads"]), rows(results), |series, sample| {
        let Test::Udp { size, .. } = series.test else { return None };
        let mut row = start(series, size.to_string(), sample);
        row.extend([sample.packets_per_second, sample.bits_per_second, sample.loss].map(figure));
        row.extend([sample.ns_per_packet.map(figure).unwrap_or_default(), words(&series.offloads)]);
        Some(row)
    })
}

fn latency(results: &Results) -> io::Result<Vec<u8>> {
    let header = ["contender", "link", "load", "round", "min_us", "p50_us", "p90_us", "p99_us", "p999_us", "max_us"];
    csv(header.iter().chain(&["offloads"]), rows(results), |series, sample| {
        let load = match series.test {
            Test::LatencyIdle => "idle",
            Test::LatencyLoaded => "loaded",
            _ => return None,
        };
        let trip = sample.latency_us.as_ref()?;
        let mut row = vec![words(&series.contender), view::link_name(series.link).to_owned()];
        row.extend([load.to_owned(), sample.round.to_string()]);
        row.extend([trip.min, trip.p50, trip.p90, trip.p99, trip.p999, trip.max].map(figure));
        row.push(words(&series.offloads));
        Some(row)
    })
}

fn crypto(results: &Results) -> io::Result<Vec<u8>> {
    let header = ["backend", "cipher", "size_bytes", "seal_ns", "open_ns"];
    csv(header.iter(), results.crypto.iter().map(|row| (row, ())), |row, ()| {
        let mut cells = vec![words(&row.backend), words(&row.cipher), row.size.to_string()];
        cells.extend([row.seal_ns, row.open_ns].map(figure));
        Some(cells)
    })
}

/// A header, and the row of each item that has one.
fn csv<'a, A, B>(
    header: impl Iterator<Item = &'a &'static str>,
    items: impl Iterator<Item = (A, B)>,
    row: impl Fn(A, B) -> Option<Vec<String>>,
) -> io::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(header)?;
    for cells in items.filter_map(|(a, b)| row(a, b)) {
        writer.write_record(cells)?;
    }
    writer.into_inner().map_err(|error| error.into_error())
}

fn rows(results: &Results) -> impl Iterator<Item = (&Series, &Sample)> {
    results.series.iter().flat_map(|series| series.samples.iter().map(move |sample| (series, sample)))
}

fn start(series: &Series, variant: String, sample: &Sample) -> Vec<String> {
    let direction = view::direction(series.test).map(view::direction_name).unwrap_or_default();
    let link = view::link_name(series.link).to_owned();
    vec![words(&series.contender), link, variant, direction.to_owned(), sample.round.to_string()]
}

fn figure(value: f64) -> String {
    if value.is_finite() { value.to_string() } else { String::new() }
}

/// Spreadsheets run a cell that starts like a formula.
fn words(words: &str) -> String {
    let words = text::clean(words);
    if words.starts_with(['=', '+', '-', '@']) { format!("'{words}") } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::report::sample_run::{full_run, hostile_run, run};

    fn read(bytes: &[u8]) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(false).from_reader(bytes);
        reader.records().map(|record| record.unwrap().iter().map(str::to_owned).collect()).collect()
    }

    #[test]
    fn every_sample_has_its_row_in_one_table() {
        let results = full_run();
        let rows: Vec<_> = all(&results).unwrap().iter().map(|(_, bytes)| read(bytes).len() - 1).collect();
        let samples: usize = results.series.iter().map(|series| series.samples.len()).sum();
        assert_eq!(rows[..3].iter().sum::<usize>(), samples);
        assert_eq!(rows[3], results.crypto.len());
        let first = &read(&all(&results).unwrap()[0].1)[1];
        assert_eq!(first[..6], ["veth", "offloaded", "1", "up", "0", "22320000000"]);
    }

    #[test]
    fn a_run_without_figures_has_headers_only() {
        for (name, bytes) in all(&run()).unwrap() {
            assert_eq!(read(&bytes).len(), 1, "{name}");
        }
    }

    #[test]
    fn no_cell_is_a_formula_or_no_number() {
        for (name, bytes) in all(&hostile_run()).unwrap() {
            for cell in read(&bytes).concat() {
                let number = cell.parse::<f64>();
                assert!(number.as_ref().is_ok_and(|n| n.is_finite()) || number.is_err(), "{name}: {cell}");
                assert!(!cell.starts_with(['=', '+', '@']) && !cell.contains(char::is_control), "{name}: {cell}");
            }
        }
        assert_eq!(words("-x"), "'-x");
        assert_eq!(words("x-"), "x-");
    }
}
