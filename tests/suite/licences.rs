//! What we build on: every crate has a licence we may ship under, and the extension's crates are in THIRD-PARTY.md.
//!
//! Read from `cargo metadata`, so that a new dependency cannot slip in unseen. It says nothing about how a crate is
//! written or kept; that is judged when it is added, beside its line in Cargo.toml.

use harness::workspace;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Licences that ask for no more than a notice.
const ALLOWED: &[&str] = &[
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "0BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "ISC",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
];

/// Members that nobody installs.
const NOT_SHIPPED: &[&str] = &["xtask", "memring-tests"];

#[test]
fn every_dependency_has_a_licence_we_may_ship_under() {
    let metadata = metadata();
    let refused: Vec<String> = normal_dependencies(&metadata, &[])
        .into_iter()
        .filter(|(_, licence)| !is_allowed(licence))
        .map(|(name, licence)| format!("{name} ({licence})"))
        .collect();
    assert!(
        refused.is_empty(),
        "not on the list of licences: {}. Use another crate.",
        refused.join(", ")
    );
}

#[test]
fn third_party_md_names_every_crate_that_ships_and_no_other() {
    let shipped: BTreeMap<String, String> = normal_dependencies(&metadata(), NOT_SHIPPED);
    let text = std::fs::read_to_string(workspace().join("THIRD-PARTY.md")).expect("THIRD-PARTY.md");
    let named: BTreeMap<String, String> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| "))
        .filter_map(|line| {
            let mut cells = line.split('|').map(|cell| cell.trim().to_string());
            Some((cells.next()?, cells.next()?))
        })
        .filter(|(name, _)| name != "crate" && !name.starts_with("---"))
        .collect();
    let missing: Vec<String> = shipped
        .iter()
        .filter(|(name, licence)| named.get(*name) != Some(*licence))
        .map(|(name, licence)| format!("| {name} | {licence} | its copyright line |"))
        .collect();
    let stale: Vec<&String> = named
        .keys()
        .filter(|name| !shipped.contains_key(*name))
        .collect();
    assert!(
        missing.is_empty() && stale.is_empty(),
        "THIRD-PARTY.md lacks these rows:\n{}\nand names crates that do not ship: {stale:?}",
        missing.join("\n")
    );
}

#[test]
fn a_licence_expression_is_read_as_spdx_means_it() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "GPL-3.0 OR MIT",
        "(MIT OR GPL-2.0) AND Unicode-3.0",
        "Apache-2.0 WITH LLVM-exception OR GPL-3.0",
    ] {
        assert!(is_allowed(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND LGPL-3.0",
        "GPL-2.0 WITH Classpath-exception-2.0",
    ] {
        assert!(!is_allowed(bad), "{bad}");
    }
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_string());
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked"])
        .args(["--filter-platform", &platform])
        .current_dir(workspace())
        .output()
        .expect("run cargo metadata");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON")
}

/// Name and licence of every foreign crate the members (but `without`) need when they run or are compiled; build
/// scripts and tests left out.
fn normal_dependencies(metadata: &Value, without: &[&str]) -> BTreeMap<String, String> {
    let list = |value: &Value| -> Vec<Value> { value.as_array().cloned().unwrap_or_default() };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_string();
    let packages: BTreeMap<String, Value> = list(&metadata["packages"])
        .into_iter()
        .map(|package| (text(&package["id"]), package))
        .collect();
    let nodes: BTreeMap<String, Value> = list(&metadata["resolve"]["nodes"])
        .into_iter()
        .map(|node| (text(&node["id"]), node))
        .collect();
    let mut open: Vec<String> = list(&metadata["workspace_members"])
        .iter()
        .map(text)
        .filter(|id| !without.contains(&packages[id]["name"].as_str().unwrap_or_default()))
        .collect();
    assert!(!open.is_empty(), "the workspace has members");
    let mut seen = BTreeSet::new();
    let mut found = BTreeMap::new();
    while let Some(id) = open.pop() {
        if !seen.insert(id.clone()) {
            continue;
        }
        let package = &packages[&id];
        if !package["source"].is_null() {
            found.insert(text(&package["name"]), text(&package["license"]));
        }
        for dependency in list(&nodes[&id]["deps"]) {
            let normal = |kind: &Value| kind["kind"].is_null();
            if list(&dependency["dep_kinds"]).iter().any(normal) {
                open.push(text(&dependency["pkg"]));
            }
        }
    }
    found
}

/// Whether an SPDX expression can be fulfilled with [`ALLOWED`]; the slash is an old way to write OR.
fn is_allowed(expression: &str) -> bool {
    let expression = expression.replace('/', " OR ");
    let term = |term: &str| {
        let inner = term.trim().strip_prefix('(');
        match inner.and_then(|inner| inner.strip_suffix(')')) {
            Some(inner) => is_allowed(inner),
            None => ALLOWED.contains(&term.trim()),
        }
    };
    // AND binds closer than OR.
    parts(&expression, " OR ")
        .into_iter()
        .any(|choice| parts(choice, " AND ").into_iter().all(term))
}

/// Splits at a word that stands outside of parentheses.
fn parts<'a>(text: &'a str, word: &str) -> Vec<&'a str> {
    let (mut found, mut depth, mut start) = (Vec::new(), 0, 0);
    for (at, letter) in text.char_indices() {
        match letter {
            '(' => depth += 1,
            ')' => depth -= 1,
            ' ' if depth == 0 && at >= start && text[at..].starts_with(word) => {
                found.push(&text[start..at]);
                start = at + word.len();
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found
}
