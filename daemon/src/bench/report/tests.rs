//! The report as a whole: what is written can be read, is well-formed, and carries nothing but figures and harmless text.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;

use super::sample_run::{full_run, hostile_run, run, tcp_series};
use super::*;
use crate::bench::results::{LoadError, Results};

/// A directory that goes when it is dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Scratch {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("minivpn-report-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }

    fn text(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.join(name)).unwrap()
    }

    fn file(&self, contents: &[u8]) -> PathBuf {
        let path = self.0.join("other.json");
        std::fs::write(&path, contents).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The names of all elements, in order; an error when tags do not match, an attribute is not quoted, or a `&` or `<`
/// stands for itself. `void` elements have no end.
fn elements(markup: &str, void: &[&str]) -> Result<Vec<String>, String> {
    let (mut open, mut seen, mut rest) = (Vec::new(), Vec::new(), markup);
    while let Some(start) = rest.find('<') {
        entities(&rest[..start])?;
        rest = &rest[start + 1..];
        let end = tag_end(rest)?;
        let tag = &rest[..end];
        rest = &rest[end + 1..];
        let name =
            tag.trim_start_matches('/').split(|c: char| c.is_whitespace() || c == '/').next().unwrap().to_owned();
        if tag.starts_with('!') {
            continue;
        }
        if tag.starts_with('/') {
            let expected = open.pop().ok_or_else(|| format!("</{name}> ends nothing"))?;
            if expected != name {
                return Err(format!("</{name}> ends <{expected}>"));
            }
            continue;
        }
        seen.push(name.clone());
        if name == "style" {
            rest = &rest[rest.find("</style>").ok_or("style without end")?..];
        }
        if !tag.ends_with('/') && !void.contains(&name.as_str()) {
            open.push(name);
        }
    }
    entities(rest)?;
    if open.is_empty() { Ok(seen) } else { Err(format!("left open: {open:?}")) }
}

/// Where the tag ends, quotes considered.
fn tag_end(tag: &str) -> Result<usize, String> {
    let mut quoted = false;
    for (index, c) in tag.char_indices() {
        match c {
            '"' => quoted = !quoted,
            '<' => return Err(format!("< inside a tag: {tag:.80}")),
            '>' if !quoted => return Ok(index),
            _ => {}
        }
    }
    Err(format!("a tag without end: {tag:.80}"))
}

fn entities(text: &str) -> Result<(), String> {
    for part in text.split('&').skip(1) {
        let name = part.split(';').next().unwrap_or_default();
        let known = ["amp", "lt", "gt", "quot", "apos"].contains(&name) || name.starts_with('#');
        if !known {
            return Err(format!("& stands for itself before {part:.20}"));
        }
    }
    Ok(())
}

/// What every report must keep to, whatever the run was.
fn check(results: &Results) -> Scratch {
    let scratch = Scratch::new();
    std::fs::remove_dir(&scratch.0).unwrap(); // made by `write`
    let written = write(&scratch.0, results).unwrap();
    assert!(written.first().unwrap().ends_with("results.json") && written.last().unwrap().ends_with("report.html"));
    assert_eq!(std::fs::read_dir(&scratch.0).unwrap().count(), written.len());
    for svg in written.iter().filter(|path| path.extension().is_some_and(|e| e == "svg")) {
        check_svg(&std::fs::read_to_string(svg).unwrap(), &svg.display().to_string());
    }
    check_page(&scratch.text("report.html"));
    scratch
}

fn check_svg(svg: &str, name: &str) {
    let allowed = ["svg", "rect", "text", "polyline", "polygon", "circle", "line"];
    for element in elements(svg, &[]).unwrap_or_else(|error| panic!("{name}: {error}")) {
        assert!(allowed.contains(&element.as_str()), "{name}: <{element}>");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "{name}");
    assert!(!svg.contains(|c: char| c.is_control() && c != '\n'), "{name}");
    for number in svg.split(|c: char| !c.is_ascii_digit() && c != '-').filter_map(|part| part.parse::<i64>().ok()) {
        assert!(number.abs() < 100_000_000, "{name}: {number}");
    }
}

fn check_page(page: &str) {
    let seen = elements(page, &["meta"]).unwrap_or_else(|error| panic!("{error}"));
    for banned in ["script", "img", "link", "iframe", "a", "image", "object"] {
        assert!(!seen.iter().any(|element| element == banned), "<{banned}>");
    }
    assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("url("));
    assert!(page.contains("prefers-color-scheme:dark") && page.contains("width=device-width"));
    assert!(!page.contains("NaN") && !page.contains(|c: char| c.is_control() && c != '\n'));
}

#[test]
fn a_full_report_is_well_formed_and_complete() {
    let results = full_run();
    let here = check(&results);
    let page = here.text("report.html");
    assert_eq!(page.matches("<svg ").count(), 13);
    for expected in [
        "minivpn bench --out &#39;my report&#39;",
        "Example CPU @ 2.0 GHz",
        "6.1.0-example",
        "8.00 GiB",
        "<td>openvpn</td><td>2.6.3</td>",
        "<td>tailscale</td><td>tailscaled is not installed</td>",
        "The offloaded link",
        "The segmented link",
        "TCP, 4 flows, down",
        "12.5× (12.5–12.5)",
        "TUN TSO4 TSO6 USO, UDP_SEGMENT, UDP_GRO",
        "How it was measured",
        "best minivpn",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
}

/// Equal but for the last bit of a fraction, which serde_json's fast reading of numbers does not keep.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if a.is_f64() && b.is_f64() => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            (a - b).abs() <= a.abs() * f64::EPSILON
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

#[test]
fn results_come_back_as_they_were_written() {
    for results in [run(), full_run()] {
        let here = check(&results);
        let back = Results::load(here.0.join("results.json")).unwrap();
        let [back, written] = [&back, &results].map(|results| serde_json::to_value(results).unwrap());
        assert!(same(&back, &written));
    }
}

#[test]
fn a_run_without_figures_still_reports_where_it_ran() {
    let here = check(&run());
    let page = here.text("report.html");
    assert!(page.contains("Nothing was skipped.") && page.contains("Debian GNU/Linux 12"));
    assert!(!page.contains("<svg"));
}

#[test]
fn one_sample_is_reported_without_an_interval() {
    let results = Results { series: vec![tcp_series("minivpn", &[1e9]), tcp_series("veth", &[2e9])], ..run() };
    let here = check(&results);
    assert!(here.text("report.html").contains("<td>0.50× (0.50–0.50)</td><td>–</td>"));
}

#[test]
fn hostile_names_and_huge_figures_stay_text_and_figures() {
    let here = check(&hostile_run());
    let back = Results::load(here.0.join("results.json")).unwrap();
    assert_eq!(back.series[0].contender, hostile_run().series[0].contender);
    assert!(back.series.iter().flat_map(|s| &s.samples).any(|sample| sample.bits_per_second.is_nan()));
    assert!(back.series.iter().flat_map(|s| &s.samples).any(|sample| sample.bits_per_second == f64::MAX));
}

#[test]
fn plots_of_an_earlier_run_do_not_stay() {
    let scratch = Scratch::new();
    write(&scratch.0, &full_run()).unwrap();
    assert!(scratch.0.join("crypto.svg").exists());
    write(&scratch.0, &run()).unwrap();
    assert!(!scratch.0.join("crypto.svg").exists());
}

#[test]
fn a_file_that_cannot_be_written_is_named() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.0.join("udp.csv")).unwrap();
    let error = write(&scratch.0, &run()).unwrap_err().to_string();
    assert!(error.contains("udp.csv"), "{error}");
    assert!(scratch.0.join("results.json").exists());
}

#[test]
fn results_that_cannot_be_read_say_why_and_what_to_do() {
    let scratch = Scratch::new();
    let missing = Results::load(scratch.0.join("missing")).unwrap_err();
    assert!(matches!(missing, LoadError::Unreadable { .. }) && missing.to_string().contains("minivpn bench --out DIR"));
    for broken in ["", "[]", "{}", "nonsense", "{\"schema\":1}", "{\"schema\":-1}"] {
        let error = Results::load(scratch.file(broken.as_bytes())).unwrap_err();
        assert!(matches!(error, LoadError::Malformed { .. }), "{broken}: {error}");
    }
    let whole = serde_json::to_string(&full_run()).unwrap();
    let error = Results::load(scratch.file(&whole.as_bytes()[..whole.len() / 2])).unwrap_err();
    assert!(matches!(error, LoadError::Malformed { .. }), "{error}");
}

#[test]
fn another_schema_is_refused_even_when_its_form_is_another() {
    let scratch = Scratch::new();
    for contents in ["{\"schema\":2}", "{\"schema\":0,\"series\":7}", "{\"schema\":18446744073709551615}"] {
        let error = Results::load(scratch.file(contents.as_bytes())).unwrap_err();
        assert!(matches!(error, LoadError::Schema { .. }), "{contents}: {error}");
    }
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    assert!(matches!(Results::load("/dev/zero").unwrap_err(), LoadError::TooLarge { .. }));
}

#[test]
fn the_check_of_markup_finds_what_is_broken() {
    for good in ["", "<a><b/></a>", "<a x=\"1>0\">&lt;</a>", "<a><meta></a>"] {
        assert!(elements(good, &["meta"]).is_ok(), "{good}");
    }
    for broken in ["<a>", "</a>", "<a><b></a></b>", "<a", "a & b", "<a <b>", "&nbsp;"] {
        assert!(elements(broken, &["meta"]).is_err(), "{broken}");
    }
}
