//! docs/protocol.md names functions and tests: each of them exists. Names in a document outlive what they name, unless somebody looks.

#![allow(clippy::unwrap_used)] // a test may panic

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

/// The workspace.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// The rows of every table: cells without the outer bars.
fn rows(text: &str) -> Vec<Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with('|') && !line.starts_with("|---"));
    lines.map(|line| line[1..].trim_end().trim_end_matches('|').split('|').map(str::trim).collect()).collect()
}

/// What stands in a cell between backticks.
fn quoted(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// The names that follow `fn ` in a source.
fn functions(source: &str) -> impl Iterator<Item = &str> {
    source.match_indices("fn ").map(|(at, found)| {
        let name = &source[at + found.len()..];
        &name[..name.find(|c: char| c != '_' && !c.is_ascii_alphanumeric()).unwrap_or(name.len())]
    })
}

/// True when a source has a test of this name.
fn has_test(source: &str, name: &str) -> bool {
    let Some(at) = source.find(&format!("fn {name}(")) else { return false };
    source[..at].lines().rev().take_while(|line| !line.ends_with('}')).any(|line| line.trim() == "#[test]")
}

/// Every test function of these crates.
fn collect(dir: &Path, names: &mut HashSet<String>) {
    for entry in fs::read_dir(dir).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            collect(&path, names);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            names.extend(functions(&fs::read_to_string(&path).unwrap()).map(str::to_owned));
        }
    }
}

/// Where the document's short paths begin, as its introduction says.
fn source_of(path: &str) -> PathBuf {
    match path.split_once('/') {
        Some((krate @ ("dataplane" | "daemon"), rest)) => root().join(krate).join("src").join(rest),
        _ => root().join("controlplane/src").join(path),
    }
}

#[test]
fn every_test_and_function_that_the_protocol_page_names_exists() {
    let mut known = HashSet::new();
    for krate in ["controlplane", "dataplane", "daemon", "link", "tests"] {
        for part in ["src", "tests"] {
            let dir = root().join(krate).join(part);
            if dir.is_dir() {
                collect(&dir, &mut known);
            }
        }
    }
    let page = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let (mut tests, mut missing) = (0, Vec::new());
    for section in page.split("\n## ") {
        let mut table = rows(section).into_iter();
        if table.next().is_none_or(|head| head != ["rule", "function", "test"]) {
            continue;
        }
        for row in table {
            assert_eq!(row.len(), 3, "{row:?}");
            for function in quoted(row[1]) {
                let (path, name) = function.split_once("::").unwrap();
                let source = fs::read_to_string(source_of(path)).unwrap_or_default();
                if !functions(&source).any(|found| found == name) {
                    missing.push(function);
                }
            }
            tests += quoted(row[2]).count();
            missing.extend(quoted(row[2]).filter(|&test| !known.contains(test)));
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
    assert!(tests > 200, "the tables were not found: {tests}");
}

#[test]
fn every_mistake_of_the_protocol_page_has_its_tests() {
    let page = fs::read_to_string(root().join("docs/protocol.md")).unwrap();
    let section = page.split("\n## ").find(|section| section.starts_with("What earlier implementations got wrong"));
    let mut table = rows(section.unwrap()).into_iter();
    assert_eq!(table.next().unwrap(), ["mistake", "here", "test"]);
    let mut mistakes = 0;
    for row in table {
        assert_eq!(row.len(), 3, "{row:?}");
        mistakes += usize::from(!row[0].is_empty());
        let named: Vec<&str> = quoted(row[2]).collect();
        assert!(!named.is_empty(), "{row:?}");
        for test in named {
            let (path, name) = test.split_once("::").unwrap();
            let source = fs::read_to_string(root().join(path)).unwrap_or_default();
            assert!(has_test(&source, name), "no test {test}");
        }
    }
    assert!(mistakes >= 9, "{mistakes}");
}

#[test]
fn a_name_that_is_gone_is_noticed() {
    let source = "#[test]\nfn here() {\n}\n\nfn helper() {\n}\n";
    assert!(has_test(source, "here"));
    assert!(!has_test(source, "her") && !has_test(source, "gone"), "no such function");
    assert!(!has_test(source, "helper"), "a function, but no test");
    assert_eq!(functions(source).collect::<Vec<_>>(), ["here", "helper"]);
    assert_eq!(rows("x\n| a | `b`, `c` |\n|---|---|\n| | d |\n"), [["a", "`b`, `c`"], ["", "d"]]);
    assert_eq!(quoted("`b`, `c`").collect::<Vec<_>>(), ["b", "c"]);
}
