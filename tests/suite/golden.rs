//! Comparing what we print with what the original printed, case by case, with named differences.
//!
//! A difference is written out in full: the answer expected of us stands beside the case, and the row of the
//! README's compatibility table that explains it. A listed difference that does not differ fails too, so the
//! list cannot rot.

use std::fmt::Write;

// The rows of the README's compatibility table that explain a difference; `ROWS` lists them all.
pub(crate) const NOT_FOUND: &str = "NOT_FOUND is no node fault";
pub(crate) const CALLERS_KEYS: &str = "Arrays come back under the caller's keys";
pub(crate) const FLOATS: &str = "Floats keep their digits";
pub(crate) const DEFAULTS: &str = "increment() and decrement() store their default";
pub(crate) const PORTS: &str = "Ports above 65535 are refused";
pub(crate) const NINTH: &str = "addServer() takes a ninth argument";
pub(crate) const SASL: &str = "setSaslAuthData() says it as memcached -Y takes it";
pub(crate) const NAMES: &str = "Messages of ini_set() name their own setting";
pub(crate) const PREFIXES: &str = "A prefix belongs to its pool";
pub(crate) const UNCHANGED: &str = "Unchanged sessions are touched";

const ROWS: &[&str] = &[
    NOT_FOUND,
    CALLERS_KEYS,
    FLOATS,
    DEFAULTS,
    PORTS,
    NINTH,
    SASL,
    NAMES,
    PREFIXES,
    UNCHANGED,
];

/// A place where we differ from the original on purpose.
pub(crate) struct Difference {
    /// The label of the case.
    pub(crate) case: &'static str,
    /// What we print under that label, one line per element.
    pub(crate) ours: &'static [&'static str],
    /// The row of the compatibility table.
    pub(crate) row: &'static str,
}

/// One labelled piece of a record.
#[derive(Debug, PartialEq)]
struct Case {
    label: String,
    lines: Vec<String>,
}

/// Splits a record at its `* label` lines; lines before the first one belong to the label "".
fn cases(text: &str) -> Vec<Case> {
    let mut cases = vec![Case {
        label: String::new(),
        lines: Vec::new(),
    }];
    for line in text.lines() {
        match line.strip_prefix("* ") {
            Some(label) => cases.push(Case {
                label: label.to_string(),
                lines: Vec::new(),
            }),
            None => cases
                .last_mut()
                .unwrap()
                .lines
                .push(line.trim_end().to_string()),
        }
    }
    cases.retain(|case| !(case.label.is_empty() && case.lines.is_empty()));
    cases
}

/// Fails with every case that is neither equal to the record nor to its named difference.
#[track_caller]
pub(crate) fn compare(record: &str, ours: &str, differences: &[Difference]) {
    let (record, ours) = (cases(record), cases(ours));
    let mut report = String::new();
    let mut used = vec![false; differences.len()];
    for case in &record {
        let Some(mine) = ours.iter().find(|mine| mine.label == case.label) else {
            writeln!(
                report,
                "* {}\n   is missing: PHP ended before it",
                case.label
            )
            .unwrap();
            continue;
        };
        let named = differences
            .iter()
            .position(|difference| difference.case == case.label);
        let expected: Vec<&str> = match named {
            Some(at) => differences[at].ours.to_vec(),
            None => case.lines.iter().map(String::as_str).collect(),
        };
        if let Some(at) = named {
            used[at] = true;
            if mine.lines == case.lines && mine.lines != expected {
                let row = differences[at].row;
                writeln!(
                    report,
                    "* {}\n   equals the original; drop the difference \"{row}\"",
                    case.label
                )
                .unwrap();
                continue;
            }
        }
        if mine.lines != expected {
            let why = named.map_or(String::new(), |at| {
                format!(" (difference: {})", differences[at].row)
            });
            writeln!(report, "* {}{why}", case.label).unwrap();
            for line in expected {
                writeln!(report, "  -{line}").unwrap();
            }
            for line in &mine.lines {
                writeln!(report, "  +{line}").unwrap();
            }
        }
    }
    for case in &ours {
        if !record.iter().any(|recorded| recorded.label == case.label) {
            writeln!(report, "* {}\n   is not in the record", case.label).unwrap();
        }
    }
    for (difference, used) in differences.iter().zip(used) {
        if !used {
            writeln!(
                report,
                "* {}\n   is listed as a difference and is no case of the record",
                difference.case
            )
            .unwrap();
        }
    }
    assert!(report.is_empty(), "- expected, + ours\n{report}");
}

/// A recorded file.
pub(crate) fn read(name: &str) -> String {
    let path = harness::place::golden().join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Says why a comparison with the original itself is left out, or gives the path of its shared object.
pub(crate) fn original() -> Option<std::path::PathBuf> {
    let original = harness::php::original();
    if original.is_none() {
        harness::skip("MEMRING_PECL_SO names no build of pecl-memcache");
    }
    original
}

#[test]
fn every_named_difference_is_a_row_of_the_readme() {
    let readme = harness::workspace().join("README.md");
    let Ok(text) = std::fs::read_to_string(&readme) else {
        harness::skip("there is no README.md");
        return;
    };
    let missing: Vec<_> = ROWS.iter().filter(|row| !text.contains(**row)).collect();
    assert!(
        missing.is_empty(),
        "README.md: the compatibility table lacks the rows {missing:?}"
    );
}
