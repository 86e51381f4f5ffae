//! The rules of the house that a compiler does not check: the staircase, the size of files, where `unsafe` may
//! stand, and what must not stand anywhere. Each message says what to do.

use harness::workspace;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Lines a file may have before its head must say why it is longer.
const COMFORTABLE_LINES: usize = 600;

/// Every file below `directory` with one of these endings.
fn files(directory: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![directory.to_path_buf()];
    while let Some(directory) = open.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries.filter_map(Result::ok) {
            let path = entry.path();
            let name = entry.file_name().to_string_lossy().to_string();
            if path.is_dir() {
                // Build output, and records of another program.
                if !matches!(
                    name.as_str(),
                    "target" | ".git" | "golden" | "corpus" | "artifacts"
                ) {
                    open.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// A path as a reader of the project writes it.
fn short(path: &Path) -> String {
    path.strip_prefix(workspace())
        .unwrap_or(path)
        .display()
        .to_string()
}

/// The code of a line: without a trailing comment. Rough, and enough for a scan of words.
fn code(line: &str) -> &str {
    line.split("//").next().unwrap_or("")
}

/// The stairs: first words of the rows of the table in the library's head.
fn stairs(head: &str) -> Vec<String> {
    head.lines()
        .take_while(|line| line.starts_with("//!"))
        .filter_map(|line| line.strip_prefix("//! | `")?.split('`').next())
        .map(|name| name.trim_end_matches('/').to_string())
        .collect()
}

/// The names after `crate::` in a text, from single paths and from `use crate::{a, b::c}`.
fn used(text: &str) -> Vec<String> {
    let text: String = text
        .lines()
        .map(|line| format!("{}\n", code(line)))
        .collect();
    let mut names = Vec::new();
    for (at, _) in text.match_indices("crate::") {
        // `$crate::` in a macro and `memring_pool_crate::` are other things.
        if text[..at]
            .ends_with(|before: char| before.is_alphanumeric() || before == '_' || before == '$')
        {
            continue;
        }
        let rest = &text[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let mut depth = 0;
                let mut name = String::new();
                for character in list.chars() {
                    match character {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => names.push(first_word(&std::mem::take(&mut name))),
                        _ if depth == 0 => name.push(character),
                        _ => {}
                    }
                }
                names.push(first_word(&name));
            }
            None => names.push(first_word(rest)),
        }
    }
    names.retain(|name| name.starts_with(|first: char| first.is_ascii_lowercase()));
    names
}

fn first_word(text: &str) -> String {
    text.trim()
        .chars()
        .take_while(|character| character.is_alphanumeric() || *character == '_')
        .collect()
}

#[test]
fn a_file_of_the_pool_uses_only_files_above_it_on_the_stairs() {
    let pool = workspace().join("src/pool");
    let stairs = stairs(&read(&pool.join("lib.rs")));
    assert!(
        stairs.len() > 5,
        "the table of files in the head of src/pool/lib.rs was not found"
    );
    let mut report = String::new();
    for path in files(&pool, &[".rs"]) {
        let inside = path.strip_prefix(&pool).unwrap();
        let room = inside
            .iter()
            .next()
            .unwrap()
            .to_string_lossy()
            .trim_end_matches(".rs")
            .to_string();
        // Fuzz targets, benches and examples stand outside the house.
        if matches!(
            room.as_str(),
            "lib" | "fuzz" | "benches" | "examples" | "tests"
        ) {
            continue;
        }
        let Some(step) = stairs.iter().position(|stair| *stair == room) else {
            writeln!(
                report,
                "{}: `{room}` has no row in the table of src/pool/lib.rs; give it one",
                short(&path)
            )
            .unwrap();
            continue;
        };
        for name in used(&read(&path)) {
            match stairs.iter().position(|stair| *stair == name) {
                Some(other) if other > step => writeln!(
                    report,
                    "{} uses crate::{name}, which stands below it. Hand the value in as an argument, or move what \
                     both need into a file above `{room}`",
                    short(&path)
                )
                .unwrap(),
                _ => {} // a file above, itself, or a name of this crate's root
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn the_scan_for_used_names_sees_every_form() {
    let text = "use crate::error::Error;\nuse crate::{item::{Key, Ttl}, ring};\n// crate::pool\nlet x = crate::node::f();\n$crate::no";
    assert_eq!(used(text), ["error", "item", "ring", "node"]);
}

#[test]
fn a_long_file_of_the_library_says_why_it_is_long() {
    let mut report = String::new();
    for path in files(&workspace().join("src"), &[".rs"]) {
        let text = read(&path);
        let lines = text.lines().count();
        let head: Vec<&str> = text
            .lines()
            .take_while(|line| line.starts_with("//!"))
            .collect();
        if lines > COMFORTABLE_LINES && !head.iter().any(|line| line.contains("Long because")) {
            writeln!(
                report,
                "{} has {lines} lines. Split it by subject, or say \"Long because …\" in its head",
                short(&path)
            )
            .unwrap();
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn every_file_says_in_its_head_what_it_is() {
    let mut report = String::new();
    for directory in ["src", "tests"] {
        for path in files(&workspace().join(directory), &[".rs"]) {
            if !read(&path).starts_with("//!") {
                writeln!(
                    report,
                    "{} does not start with a `//!` sentence that says what it is",
                    short(&path)
                )
                .unwrap();
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn unsafe_stands_only_where_the_house_allows_it() {
    let allowed = |path: &str| {
        path.starts_with("src/extension/ffi/")
            || path == "src/extension/ffi.rs"
            || path == "src/pool/shared.rs"
            || path == "src/pool/shared/lmdb.rs"
    };
    let word = concat!("un", "safe"); // so that this file passes its own scan
    let mut report = String::new();
    for directory in ["src", "tests"] {
        for path in files(&workspace().join(directory), &[".rs"]) {
            if allowed(&short(&path)) {
                continue;
            }
            for (number, line) in read(&path).lines().enumerate() {
                let is_word = |part: &str| part == word;
                let named = code(line)
                    .split(|c: char| !c.is_alphanumeric() && c != '_')
                    .any(is_word);
                // A text that speaks of it is no block, function or impl.
                if named && !code(line).contains('"') {
                    let place = format!("{}:{}", short(&path), number + 1);
                    writeln!(
                        report,
                        "{place} is {word}. Move it behind a safe function in src/extension/ffi/"
                    )
                    .unwrap();
                }
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn nothing_names_a_directory_of_the_machine_it_was_written_on() {
    let mut places = vec![format!("{}/", workspace().display())];
    if let Some(parent) = workspace()
        .parent()
        .filter(|parent| parent.iter().count() > 1)
    {
        places.push(format!("{}/", parent.display()));
    }
    places.extend(
        std::env::var("HOME")
            .ok()
            .filter(|home| home.len() > 1)
            .map(|home| format!("{home}/")),
    );
    let endings = [
        ".rs", ".toml", ".md", ".php", ".phpt", ".ini", ".yml", ".sh", ".tsv", ".txt", ".inc",
    ];
    let mut report = String::new();
    for path in files(&workspace(), &endings) {
        let text = String::from_utf8_lossy(&std::fs::read(&path).unwrap()).to_string();
        for (number, line) in text.lines().enumerate() {
            if places.iter().any(|place| line.contains(place.as_str())) {
                writeln!(
                    report,
                    "{}:{} names a directory of this machine: {}",
                    short(&path),
                    number + 1,
                    line.trim()
                )
                .unwrap();
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}

#[test]
fn no_stub_is_left_in_the_code() {
    // In two pieces, so that this file passes its own scan.
    let marks = [
        ("to", "do!("),
        ("unimpl", "emented!("),
        ("FIX", "ME"),
        ("TO", "DO"),
        ("db", "g!("),
    ]
    .map(|(a, b)| format!("{a}{b}"));
    let mut report = String::new();
    for directory in ["src", "tests", "php", "stubs"] {
        for path in files(&workspace().join(directory), &[".rs", ".php", ".phpt"]) {
            for (number, line) in read(&path).lines().enumerate() {
                if marks.iter().any(|mark| line.contains(mark.as_str())) {
                    writeln!(
                        report,
                        "{}:{}: finish it: {}",
                        short(&path),
                        number + 1,
                        line.trim()
                    )
                    .unwrap();
                }
            }
        }
    }
    assert!(report.is_empty(), "{report}");
}
