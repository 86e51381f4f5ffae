//! The phpt format: a test is one file of sections, PHP's own form, so that anybody who knows PHP can write one.
//!
//! Here is what a file says and whether an output answers it; `phpt_run` runs it. Ours is a subset of run-tests.php,
//! and a section it does not know is an error, never silently left out.

use crate::php::Php;
use crate::run;
use crate::{Stop, failed};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// The sections there are.
const SECTIONS: &[&str] = &[
    "TEST",
    "DESCRIPTION",
    "CREDITS",
    "EXTENSIONS",
    "SKIPIF",
    "INI",
    "ENV",
    "ARGS",
    "STDIN",
    "GET",
    "POST",
    "COOKIE",
    "FILE",
    "FILE_EXTERNAL",
    "EXPECT",
    "EXPECTF",
    "EXPECTREGEX",
    "CLEAN",
];

/// Words that only the command line binary understands; a file with one of them is not asked from a web server.
/// What no word shows, a SKIPIF on PHP_SAPI says.
const CLI_WORDS: &[&str] = &[
    "STDIN",
    "STDOUT",
    "STDERR",
    "PHP_BINARY",
    "TEST_PHP_EXECUTABLE",
    "pcntl_",
    "$argv",
    "$argc",
];

/// One parsed test.
#[derive(Debug)]
pub(crate) struct Phpt {
    /// The file it was read from.
    pub(crate) path: PathBuf,
    sections: BTreeMap<String, String>,
}

impl Phpt {
    /// Reads a test.
    ///
    /// # Errors
    /// When the file cannot be read, has an unknown or repeated section, or lacks one it needs.
    pub(crate) fn read(path: &Path) -> Result<Self, Stop> {
        let bytes = std::fs::read(path).map_err(|why| failed(path.display(), why))?;
        let sections =
            parse(&String::from_utf8_lossy(&bytes)).map_err(|why| failed(path.display(), why))?;
        Ok(Self {
            path: path.to_path_buf(),
            sections,
        })
    }

    /// The text of a section; empty when there is none.
    pub(crate) fn section(&self, name: &str) -> &str {
        self.sections.get(name).map_or("", String::as_str)
    }

    /// The headline.
    pub(crate) fn title(&self) -> &str {
        self.section("TEST").trim()
    }

    /// The PHP code, read from beside the test where it is kept in a file of its own.
    ///
    /// # Errors
    /// When that file cannot be read.
    pub(crate) fn code(&self) -> Result<String, Stop> {
        let other = self.section("FILE_EXTERNAL").trim();
        if other.is_empty() {
            return Ok(self.section("FILE").to_owned());
        }
        let file = self.path.with_file_name(other);
        std::fs::read_to_string(&file).map_err(|why| failed(file.display(), why))
    }

    /// Whether it can be run by the command line binary.
    pub(crate) fn fits_php_cli(&self) -> bool {
        ["GET", "POST", "COOKIE"]
            .iter()
            .all(|name| self.section(name).is_empty())
    }

    /// Whether it can be asked from a web server.
    pub(crate) fn fits_a_web_server(&self, code: &str) -> bool {
        self.section("ARGS").is_empty()
            && self.section("STDIN").is_empty()
            && !CLI_WORDS.iter().any(|word| code.contains(word))
    }

    /// Why this output is not the expected one; `None` when it is.
    ///
    /// # Errors
    /// When PHP cannot be run to match a pattern.
    pub(crate) fn mismatch(&self, output: &[u8], php: &Php) -> Result<Option<String>, Stop> {
        let output = String::from_utf8_lossy(output).replace("\r\n", "\n");
        let output = output.trim();
        if self.sections.contains_key("EXPECT") {
            let expected = self.section("EXPECT").trim();
            return Ok((output != expected).then(|| difference(expected, output)));
        }
        let (expected, pattern) = if self.sections.contains_key("EXPECTF") {
            let expected = self.section("EXPECTF").trim();
            (expected, format!("/^{}$/s", format_to_pattern(expected)))
        } else {
            let expected = self.section("EXPECTREGEX").trim();
            (expected, format!("/^{}$/s", expected.replace('/', "\\/")))
        };
        Ok((!matches(&pattern, output, php)?).then(|| difference(expected, output)))
    }
}

fn parse(text: &str) -> Result<BTreeMap<String, String>, String> {
    let mut sections = BTreeMap::new();
    let mut current: Option<String> = None;
    for line in text.replace("\r\n", "\n").split_inclusive('\n') {
        if let Some(name) = section_name(line.trim_end()) {
            if !SECTIONS.contains(&name) {
                return Err(format!(
                    "the section --{name}-- is not known here; known are {}",
                    SECTIONS.join(", ")
                ));
            }
            if sections.insert(name.to_owned(), String::new()).is_some() {
                return Err(format!("the section --{name}-- comes twice"));
            }
            current = Some(name.to_owned());
        } else {
            match current.as_ref().and_then(|name| sections.get_mut(name)) {
                Some(section) => section.push_str(line),
                None => return Err("a phpt begins with --TEST--".to_owned()),
            }
        }
    }
    let count = |names: &[&str]| {
        names
            .iter()
            .filter(|name| sections.contains_key(**name))
            .count()
    };
    if count(&["TEST"]) != 1 || count(&["FILE", "FILE_EXTERNAL"]) != 1 {
        return Err("a phpt has one --TEST-- and one --FILE-- or --FILE_EXTERNAL--".to_owned());
    }
    if count(&["EXPECT", "EXPECTF", "EXPECTREGEX"]) != 1 {
        return Err("a phpt has one of --EXPECT--, --EXPECTF--, --EXPECTREGEX--".to_owned());
    }
    Ok(sections)
}

fn section_name(line: &str) -> Option<&str> {
    let name = line.strip_prefix("--")?.strip_suffix("--")?;
    let word = !name.is_empty()
        && name
            .bytes()
            .all(|byte| byte.is_ascii_uppercase() || byte == b'_');
    word.then_some(name)
}

/// The placeholders of EXPECTF, as PHP's "phpt" guide lists them.
const PLACEHOLDERS: &[(char, &str)] = &[
    ('e', r"\/"),
    ('s', r"[^\r\n]+"),
    ('S', r"[^\r\n]*"),
    ('a', r".+"),
    ('A', r".*"),
    ('w', r"\s*"),
    ('i', r"[+-]?\d+"),
    ('d', r"\d+"),
    ('x', r"[0-9a-fA-F]+"),
    ('f', r"[+-]?(?:\d+|(?=\.\d))(?:\.\d+)?(?:[Ee][+-]?\d+)?"),
    ('c', r"."),
    ('0', r"\x00"),
];

/// Makes a PCRE pattern of an EXPECTF text; `%r…%r` is a pattern within it.
fn format_to_pattern(text: &str) -> String {
    let mut pattern = String::new();
    // Every second piece stands between two %r.
    for (number, piece) in text.split("%r").enumerate() {
        if number % 2 == 1 {
            pattern.push_str(&format!("(?:{})", piece.replace('/', "\\/")));
            continue;
        }
        let mut letters = piece.chars().peekable();
        while let Some(letter) = letters.next() {
            let next = letters.peek().copied();
            match PLACEHOLDERS
                .iter()
                .find(|(mark, _)| letter == '%' && Some(*mark) == next)
            {
                Some((_, part)) => {
                    pattern.push_str(part);
                    letters.next();
                }
                None => {
                    if letter.is_ascii_punctuation() {
                        pattern.push('\\');
                    }
                    pattern.push(letter);
                }
            }
        }
    }
    pattern
}

/// Reads the pattern's length, the pattern and the text from stdin.
const MATCH: &str = r#"$n = (int) fgets(STDIN); $p = $n > 0 ? stream_get_contents(STDIN, $n) : "";
$r = preg_match($p, stream_get_contents(STDIN));
if ($r === false) { echo preg_last_error_msg(); exit(2); } exit($r ? 0 : 1);"#;

/// Asks PHP itself, whose patterns these are.
fn matches(pattern: &str, text: &str, php: &Php) -> Result<bool, Stop> {
    let mut command = Command::new(&php.cli);
    command.args([
        "-n",
        "-d",
        "pcre.jit=0",
        "-d",
        "pcre.backtrack_limit=100000000",
        "-r",
        MATCH,
    ]);
    let input = format!("{}\n{pattern}{text}", pattern.len());
    let (status, said) = run::merged(
        &mut command,
        input.as_bytes(),
        Some(Duration::from_secs(60)),
    )?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => Err(failed(
            "the expectation is no pattern PHP can use",
            String::from_utf8_lossy(&said),
        )),
    }
}

/// Shows where two texts part: the lines they do not share at the beginning and the end, at most 20 of each.
fn difference(expected: &str, output: &str) -> String {
    let (left, right): (Vec<&str>, Vec<&str>) =
        (expected.lines().collect(), output.lines().collect());
    let same = left
        .iter()
        .zip(&right)
        .take_while(|(one, other)| one == other)
        .count();
    let room = left.len().min(right.len()) - same;
    let tail = left
        .iter()
        .rev()
        .zip(right.iter().rev())
        .take(room)
        .take_while(|(one, other)| one == other)
        .count();
    let mut text = format!("from line {}:\n", same + 1);
    for (sign, lines) in [('-', &left), ('+', &right)] {
        let differing: Vec<_> = lines.iter().take(lines.len() - tail).skip(same).collect();
        for line in differing.iter().take(20) {
            text.push_str(&format!("     {sign} {line}\n"));
        }
        if let Some(more) = differing.len().checked_sub(20).filter(|more| *more > 0) {
            text.push_str(&format!("     {sign} … and {more} more lines\n"));
        }
    }
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_its_sections() {
        let sections = parse("--TEST--\nsets\n--FILE--\n<?php\n--$i;\n--EXPECT--\nok\n").unwrap();
        assert_eq!(sections.get("FILE").unwrap(), "<?php\n--$i;\n");
        assert_eq!(sections.get("TEST").unwrap(), "sets\n");
    }

    #[test]
    fn an_unknown_a_repeated_and_a_missing_section_are_refused() {
        assert!(
            parse("--TEST--\na\n--FILE--\nb\n--EXPECTED--\nc\n")
                .unwrap_err()
                .contains("EXPECTED")
        );
        assert!(
            parse("--TEST--\na\n--TEST--\nb\n")
                .unwrap_err()
                .contains("twice")
        );
        assert!(
            parse("--TEST--\na\n--FILE--\nb\n")
                .unwrap_err()
                .contains("EXPECTF")
        );
    }

    #[test]
    fn placeholders_become_patterns_and_the_rest_stands_for_itself() {
        assert_eq!(format_to_pattern("a.b (%d) 100%"), r"a\.b \(\d+\) 100\%");
        assert_eq!(format_to_pattern("%r[ab]/%r%s"), r"(?:[ab]\/)[^\r\n]+");
    }

    #[test]
    fn a_difference_names_the_first_line_that_differs() {
        let text = difference("a\nb\nc\nd", "a\nx\nd");
        assert!(
            text.starts_with("from line 2:\n     - b\n     - c\n     + x\n"),
            "{text}"
        );
    }
}
