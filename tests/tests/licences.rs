//! What we link: permissive licences only, and one cryptography backend, not both.

use serde_json::Value;
use std::env;
use std::process::Command;

/// Licences that ask for no more than a notice.
const ALLOWED: [&str; 13] = [
    "MIT",
    "MIT-0",
    "Apache-2.0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "0BSD",
    "Zlib",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "OpenSSL",
];

fn cargo(args: &[&str]) -> String {
    let program = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let out = Command::new(program).args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().expect("cargo starts");
    assert!(out.status.success(), "cargo {args:?}: {}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).expect("cargo writes UTF-8")
}

#[test]
fn every_dependency_has_a_permissive_licence() {
    let text = cargo(&["metadata", "--format-version=1", "--filter-platform=x86_64-unknown-linux-gnu"]);
    let metadata: Value = serde_json::from_str(&text).expect("cargo metadata is JSON");
    let used: Vec<&str> =
        metadata["resolve"]["nodes"].as_array().expect("nodes").iter().filter_map(|n| n["id"].as_str()).collect();
    let packages = metadata["packages"].as_array().expect("packages");
    let packages: Vec<&Value> =
        packages.iter().filter(|p| p["id"].as_str().is_some_and(|id| used.contains(&id))).collect();
    assert!(packages.len() > 50, "only {} packages seen", packages.len());
    let refused: Vec<String> = packages
        .iter()
        .filter(|package| !package["license"].as_str().is_some_and(permissive))
        .map(|package| format!("{} {}: {}", package["name"], package["version"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "not on the list of permissive licences:\n{}", refused.join("\n"));
}

#[test]
fn one_cryptography_backend_is_linked() {
    let linked = |feature| {
        let args =
            ["tree", "-p", "minivpn", "-e", "normal", "--prefix", "none", "--no-default-features", "-F", feature];
        let names: Vec<String> =
            cargo(&args).lines().filter_map(|line| Some(line.split(' ').next()?.to_owned())).collect();
        ["aws-lc-rs", "ring"].map(|backend| names.iter().any(|name| name == backend))
    };
    assert_eq!(linked("aws-lc"), [true, false], "of aws-lc-rs and ring, in a build with aws-lc");
    assert_eq!(linked("ring"), [false, true], "of aws-lc-rs and ring, in a build with ring");
}

/// Whether an SPDX expression can be met by allowed licences alone; `/` is the old way to write OR.
fn permissive(expression: &str) -> bool {
    let spaced = expression.replace('(', " ( ").replace(')', " ) ").replace('/', " OR ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = alternatives(&words);
    met && rest.is_empty()
}

fn alternatives<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = conjunction(words);
    while let ["OR", more @ ..] = rest {
        let (other, after) = conjunction(more);
        (met, rest) = (met || other, after);
    }
    (met, rest)
}

fn conjunction<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = single(words);
    while let ["AND", more @ ..] = rest {
        let (other, after) = single(more);
        (met, rest) = (met && other, after);
    }
    (met, rest)
}

fn single<'a>(words: &'a [&'a str]) -> (bool, &'a [&'a str]) {
    match words {
        ["(", inner @ ..] => match alternatives(inner) {
            (met, [")", rest @ ..]) => (met, rest),
            // Left unread, so that an unclosed bracket is refused.
            _ => (false, words),
        },
        // An exception only ever permits more.
        [name, "WITH", _, rest @ ..] | [name, rest @ ..] => (ALLOWED.contains(name), rest),
        [] => (false, words),
    }
}

#[test]
fn an_expression_is_read_as_it_is_meant() {
    assert!(permissive("MIT OR Apache-2.0"));
    assert!(permissive("GPL-3.0 OR MIT"));
    assert!(permissive("MIT/Apache-2.0"));
    assert!(permissive("ISC AND (Apache-2.0 OR ISC) AND OpenSSL"));
    assert!(permissive("Apache-2.0 WITH LLVM-exception OR GPL-2.0"));
    assert!(!permissive("GPL-3.0"));
    assert!(!permissive("MIT AND GPL-3.0"));
    assert!(!permissive("(MIT OR Apache-2.0) AND MPL-2.0"));
    assert!(!permissive("MIT OR (Apache-2.0"));
    assert!(!permissive(""));
}
