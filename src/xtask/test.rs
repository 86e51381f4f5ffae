//! cargo xtask test: the one test command. It runs everything, whatever failed before, and its last line is the sum.

use crate::bootstrap::{self, For};
use crate::matrix;
use crate::orphans;
use crate::php::Php;
use crate::phpt_run::{self, Plan, Way};
use crate::run::{self, cargo};
use crate::{Stop, failed};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// What --help prints.
pub(crate) const HELP: &str = "\
cargo xtask test [--filter TEXT] [--only STEP] [--php PHP_CONFIG] [--so FILE]
                 [--valgrind] [--matrix] [--no-install]

Runs every check and every test: fmt, clippy, doc, unit tests, the suite against real servers,
and the phpt files under php-cli, php-fpm and Apache's mod_php. Missing packages are installed by apt-get.
The last line is the sum: N passed, N failed, N skipped. A check that fails counts as one failed.

  --filter TEXT     only tests whose name contains TEXT, and no checks
  --only STEP       one of: checks, unit, suite, phpt, matrix (may be given more than once)
  --php PHP_CONFIG  the php-config of another PHP than the one in PATH
  --so FILE         an extension built before, instead of building the release one
  --valgrind        phpt under php-cli only, each below valgrind; a finding is a failure
  --matrix          the suite also on the servers of Debian 13 (memcached 1.6.38, Redis 8, Valkey 8, php-memcached of
                    PHP 8.4), then phpt with other PHPs: Debian 13's and a thread-safe debug build. Both are kept
                    under target/matrix; needs root. With --only suite --filter contract: the contracts on those servers
  --no-install      name what is missing instead of installing it";

/// How many tests ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Did what they should.
    pub(crate) passed: u64,
    /// Did not.
    pub(crate) failed: u64,
    /// Could not be run here, with a reason printed.
    pub(crate) skipped: u64,
}

impl Counts {
    /// All of them.
    pub(crate) fn total(self) -> u64 {
        self.passed + self.failed + self.skipped
    }

    /// Reads the line [`Display`](fmt::Display) writes.
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split(", ");
        let mut number = |word: &str| parts.next()?.strip_suffix(word)?.parse().ok();
        Some(Self {
            passed: number(" passed")?,
            failed: number(" failed")?,
            skipped: number(" skipped")?,
        })
    }

    /// Adds another sum to this one.
    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

/// The names of what failed, for the list at the end: the reasons are pages above it.
static FAILED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// Puts a name on that list.
pub(crate) fn remember_failure(name: &str) {
    FAILED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(name.to_owned());
}

/// The lines about what could not run here, for the same end.
static SKIPPED: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The parts of a full run, in their order.
const STEPS: &[&str] = &["checks", "unit", "suite", "phpt", "matrix"];

#[derive(Debug)]
struct Wish {
    filter: Option<String>,
    steps: Vec<String>,
    php: Option<PathBuf>,
    so: Option<PathBuf>,
    valgrind: bool,
    matrix: bool,
    install: bool,
}

/// The subcommand.
///
/// # Errors
/// When the words are wrong, something is missing, or anything failed.
pub(crate) fn main(parser: lexopt::Parser) -> Result<(), Stop> {
    let wish = parse(parser)?;
    let begin = Instant::now();
    let mut counts = Counts::default();
    orphans::adopt();
    let outcome = steps(&wish, &mut counts);
    for line in orphans::end_all() {
        run::say(&format!("   failed  a test left a server behind: {line}"));
        remember_failure(&format!("left behind: {line}"));
        counts.failed += 1;
    }
    if let Err(stop) = outcome {
        // Whatever kept us from running the rest is a failure in the sum, too.
        counts.failed += 1;
        match stop {
            Stop::Usage(text) | Stop::Failed(text) => run::say(&format!("xtask: {text}")),
            Stop::Told => {}
        }
    }
    let list = SKIPPED.lock().unwrap_or_else(PoisonError::into_inner);
    if !list.is_empty() {
        run::headline("what could not run here, and why");
        list.iter().for_each(|line| run::say(&format!("   {line}")));
    }
    drop(list);
    let list = FAILED.lock().unwrap_or_else(PoisonError::into_inner);
    if !list.is_empty() {
        run::headline("what failed; why stands above");
        list.iter().for_each(|name| run::say(&format!("   {name}")));
    }
    run::headline(&format!("done after {} s", begin.elapsed().as_secs()));
    run::say(&counts.to_string());
    if counts.failed == 0 {
        Ok(())
    } else {
        Err(Stop::Told)
    }
}

fn parse(mut parser: lexopt::Parser) -> Result<Wish, Stop> {
    use lexopt::prelude::*;
    let mut wish = Wish {
        filter: None,
        steps: Vec::new(),
        php: None,
        so: None,
        valgrind: false,
        matrix: false,
        install: true,
    };
    while let Some(word) = parser.next()? {
        match word {
            Long("filter") => wish.filter = Some(parser.value()?.string()?),
            Long("only") => {
                let step = parser.value()?.string()?;
                if !STEPS.contains(&step.as_str()) {
                    return Err(Stop::Usage(format!(
                        "--only knows {}, not \"{step}\"",
                        STEPS.join(", ")
                    )));
                }
                wish.steps.push(step);
            }
            Long("php") => wish.php = Some(PathBuf::from(parser.value()?)),
            Long("so") => {
                let so = PathBuf::from(parser.value()?);
                wish.so = Some(so.canonicalize().map_err(|why| failed(so.display(), why))?);
            }
            Long("matrix") => wish.matrix = true,
            Long("valgrind") => wish.valgrind = true,
            Long("no-install") => wish.install = false,
            _ => return Err(word.unexpected().into()),
        }
    }
    if wish.steps.is_empty() {
        let all = if wish.valgrind { &["phpt"] } else { STEPS };
        let all = all.iter().filter(|step| **step != "matrix" || wish.matrix);
        wish.steps = all.map(|step| (*step).to_owned()).collect();
    }
    if wish.filter.is_some() {
        wish.steps.retain(|step| step != "checks");
    }
    Ok(wish)
}

fn steps(wish: &Wish, counts: &mut Counts) -> Result<(), Stop> {
    let wants = |step: &str| wish.steps.iter().any(|wanted| wanted == step);
    bootstrap::ensure(For::Test, wish.install)?;
    let php = Php::find(wish.php.as_deref())?;
    if wants("checks") {
        checks(&php, counts);
    }
    if wants("unit") {
        // The extension links only inside PHP, and the suite needs it built: both come later.
        let mut command = cargo([
            "test",
            "--workspace",
            "--exclude",
            "memring",
            "--exclude",
            "memring-tests",
        ]);
        cargo_test("unit tests", command.arg("--no-fail-fast"), wish, counts)?;
    }
    if wants("suite") || wants("phpt") {
        with_extension(wish, php, counts)?;
    }
    if wants("matrix") {
        matrix::run_all(wish.filter.as_deref(), wish.install, counts)?;
    }
    Ok(())
}

/// The tests that need the extension built.
fn with_extension(wish: &Wish, php: Php, counts: &mut Counts) -> Result<(), Stop> {
    let wants = |step: &str| wish.steps.iter().any(|wanted| wanted == step);
    let so = match &wish.so {
        Some(so) => so.clone(),
        None => php.build()?,
    };
    if wants("suite") {
        let mut command = cargo(["test", "--package", "memring-tests", "--no-fail-fast"]);
        command.env("MEMRING_SO", &so).env("MEMRING_PHP", &php.cli);
        if wish.matrix {
            newer_servers(&mut command, wish.install, counts);
        }
        cargo_test(
            "the suite, against real servers",
            &mut command,
            wish,
            counts,
        )?;
    }
    if wants("phpt") {
        let plan = Plan {
            ways: ways(&php, wish),
            php,
            so,
            filter: wish.filter.clone(),
            valgrind: wish.valgrind,
        };
        counts.add(phpt_run::run_all(&plan)?);
    }
    Ok(())
}

/// Names the servers of the matrix to the suite. Without them it says itself what it left out, and runs.
fn newer_servers(command: &mut Command, install: bool, counts: &mut Counts) {
    match matrix::servers(install) {
        Ok(variables) => drop(command.envs(variables)),
        Err(stop) => {
            if let Stop::Usage(text) | Stop::Failed(text) = stop {
                run::say(&format!("   failed  the newer servers: {text}"));
            }
            remember_failure("matrix: the newer servers");
            counts.failed += 1;
        }
    }
}

/// A PHP named on the command line may have no web servers; the default one must have both.
fn ways(php: &Php, wish: &Wish) -> Vec<Way> {
    let mut ways = vec![Way::Cli];
    let named = wish.php.is_some();
    if !wish.valgrind && (!named || php.fpm().is_some()) {
        ways.push(Way::Fpm);
    }
    if !wish.valgrind && (!named || php.apache_module().is_some()) {
        ways.push(Way::Apache);
    }
    ways
}

/// fmt, clippy and doc. They look at the release profile where they have the choice, so that the crates below the
/// extension, bindgen among them, are built once and not twice.
fn checks(php: &Php, counts: &mut Counts) {
    let mut clippy = cargo([
        "clippy",
        "--release",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    let mut doc = cargo(["doc", "--release", "--workspace", "--no-deps"]);
    doc.env("RUSTDOCFLAGS", "-D warnings -D missing_docs");
    php.name_to_build_scripts(&mut clippy);
    php.name_to_build_scripts(&mut doc);
    let mut all = [
        ("cargo fmt --check", cargo(["fmt", "--all", "--check"])),
        ("cargo clippy, no warning allowed", clippy),
        ("cargo doc, everything public described", doc),
    ];
    for (label, command) in &mut all {
        if let Err(Stop::Failed(text)) = run::shown(label, command) {
            run::say(&format!("   failed  {text}"));
            remember_failure(label);
            counts.failed += 1;
        }
    }
}

/// Runs a `cargo test`, shows it, and adds up its result lines.
fn cargo_test(
    label: &str,
    command: &mut Command,
    wish: &Wish,
    counts: &mut Counts,
) -> Result<(), Stop> {
    if let Some(filter) = &wish.filter {
        command.arg("--").arg(filter);
    }
    let file = run::target().join(format!("skips.{}", std::process::id()));
    run::make_dir(&run::target())?;
    run::write(&file, "")?;
    command.env("MEMRING_SKIPS", &file);
    let mut found = Counts::default();
    let mut failed = BTreeSet::new();
    let status = run::lines(label, command, |line| {
        if let Some(more) = result_line(line) {
            found.add(more);
        }
        if let Some(name) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.strip_suffix(" ... FAILED"))
        {
            remember_failure(name);
            failed.insert(name.to_owned());
        }
        // Passed tests are hundreds of lines that say nothing new.
        if !(line.starts_with("test ") && line.ends_with("... ok") || line.is_empty()) {
            run::say(line);
        }
    })?;
    let skips = Skips::read(&std::fs::read_to_string(&file).unwrap_or_default());
    let _ = std::fs::remove_file(&file);
    skips.take_from(&mut found, &failed);
    SKIPPED
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .extend(skips.lines());
    counts.add(found);
    if !status.success() && found.failed == 0 {
        // Not a test but the build, or a crash of the whole binary.
        counts.failed += 1;
        remember_failure(label);
        run::say(&format!("   failed  {label}: cargo ended with {status}"));
    }
    Ok(())
}

/// Reads "test result: ok. 12 passed; 0 failed; 1 ignored; …".
fn result_line(line: &str) -> Option<Counts> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number = |word: &str| {
        numbers
            .split("; ")
            .find_map(|part| part.strip_suffix(word))
            .and_then(|number| number.trim().parse().ok())
    };
    Some(Counts {
        passed: number("passed")?,
        failed: number("failed")?,
        skipped: number("ignored")?,
    })
}

/// What the tests themselves found that they cannot do here; libtest knows nothing of it and counts them as passed.
#[derive(Debug, Default, PartialEq, Eq)]
struct Skips {
    /// Tests of which nothing ran, each with its first reason.
    whole: BTreeMap<String, String>,
    /// Reasons why a part of a test did not run, each with the tests it was said in.
    parts: BTreeMap<String, BTreeSet<String>>,
}

impl Skips {
    /// Reads the lines that the harness wrote: "TEST: reason", or "TEST (in part): reason".
    fn read(text: &str) -> Self {
        let mut skips = Self::default();
        for (name, reason) in text.lines().filter_map(|line| line.split_once(": ")) {
            let reason = reason.to_owned();
            match name.strip_suffix(" (in part)") {
                Some(name) => {
                    let tests = skips.parts.entry(reason).or_default();
                    tests.insert(name.to_owned());
                }
                None => {
                    skips.whole.entry(name.to_owned()).or_insert(reason);
                }
            }
        }
        skips
    }

    /// Counts the skipped tests as that instead of passed; one that failed all the same stays a failure.
    fn take_from(&self, counts: &mut Counts, failed: &BTreeSet<String>) {
        for _ in self.whole.keys().filter(|name| !failed.contains(*name)) {
            if let Some(passed) = counts.passed.checked_sub(1) {
                counts.passed = passed;
                counts.skipped += 1;
            }
        }
    }

    /// A line for each test, and one for each reason why parts of tests were left out.
    fn lines(&self) -> Vec<String> {
        let whole = self.whole.iter();
        let mut lines: Vec<String> = whole.map(|(name, why)| format!("{name}: {why}")).collect();
        for (why, tests) in &self.parts {
            lines.push(format!("a part of {} tests: {why}", tests.len()));
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_that_could_not_run_is_counted_once_and_as_skipped_not_as_passed() {
        let skips = Skips::read(
            "a::b: no strace: none\na::b: no strace: none\nc (in part): no IPv6\nd (in part): no IPv6\n\
             e: no root\nf (in part): no IPv6\nf: nothing at all\n",
        );
        let mut counts = Counts {
            passed: 10,
            failed: 1,
            skipped: 2,
        };
        skips.take_from(&mut counts, &BTreeSet::from(["e".to_owned()]));
        assert_eq!(counts.to_string(), "8 passed, 1 failed, 4 skipped");
        assert_eq!(
            skips.lines(),
            [
                "a::b: no strace: none",
                "e: no root",
                "f: nothing at all",
                "a part of 3 tests: no IPv6"
            ]
        );
    }

    #[test]
    fn a_run_that_crashed_before_its_sum_has_no_fewer_than_no_tests_passed() {
        let mut counts = Counts::default();
        Skips::read("a: no root\n").take_from(&mut counts, &BTreeSet::new());
        assert_eq!(counts, Counts::default());
    }

    #[test]
    fn a_result_line_of_cargo_test_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 4 filtered out; finished in 0.01s";
        assert_eq!(
            result_line(line),
            Some(Counts {
                passed: 12,
                failed: 3,
                skipped: 1
            })
        );
        assert_eq!(result_line("test a ... ok"), None);
    }

    #[test]
    fn the_sum_has_the_words_a_machine_looks_for() {
        let counts = Counts {
            passed: 1,
            failed: 2,
            skipped: 3,
        };
        assert_eq!(counts.to_string(), "1 passed, 2 failed, 3 skipped");
        assert_eq!(Counts::parse(&counts.to_string()), Some(counts));
        assert_eq!(Counts::parse("phpt: 1 passed, 2 failed, 3 skipped"), None);
    }
}
