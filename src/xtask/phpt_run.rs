//! Runs the phpt files: each under php-cli, and those that need nothing of it also behind php-fpm and behind Apache
//! with mod_php.
//!
//! Every run has memcached nodes, a server and a php.ini of its own, all fresh: a test can kill its nodes, fill them
//! or flush them, and no other test notices. A start costs 20 to 200 ms, which two slots in parallel hide.
//! The test's PHP stands in a copy of the folders it may look into, so the work tree stays clean.

use crate::php::Php;
use crate::phpt::Phpt;
use crate::run::{self, Scratch};
use crate::servers::{self, Apache, Fpm, Memcached, Request, Sapi};
use crate::test::{Counts, remember_failure};
use crate::{Stop, failed};
use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// As many at a time as the smallest supported machine has cores.
const SLOTS: usize = 2;
/// The longest one test may take. Valgrind gets ten times as much.
const LIMIT: Duration = Duration::from_secs(60);
/// The nodes every test finds in MEMRING_PORT1, MEMRING_PORT2, …
const NODES: usize = 3;
/// What a test may look into, seen from the root of the work tree.
const FOLDERS: &[&str] = &["tests/phpt", "tests/golden", "php", "stubs"];

/// The php.ini of a test before its own INI section; the values PHP's own test runner uses, where they matter.
const INI: &str = "error_reporting=32767\ndisplay_errors=1\ndisplay_startup_errors=1\nlog_errors=0\nhtml_errors=0\n\
    error_prepend_string=\nerror_append_string=\ndocref_root=\ndocref_ext=.html\nmemory_limit=128M\n\
    precision=14\nserialize_precision=-1\noutput_buffering=0\nimplicit_flush=0\nzend.assertions=1\n\
    report_memleaks=1\ndate.timezone=UTC\nopcache.enable=0\nmax_execution_time=0\nvariables_order=EGPCS\n";

/// How PHP is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// php file.php
    Cli,
    /// php-fpm over FastCGI.
    Fpm,
    /// Apache prefork with mod_php.
    Apache,
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Way::Cli => "php-cli",
            Way::Fpm => "php-fpm",
            Way::Apache => "mod_php",
        }
    }
}

/// What is to be run.
#[derive(Debug)]
pub(crate) struct Plan {
    /// With which PHP.
    pub(crate) php: Php,
    /// The extension under test.
    pub(crate) so: PathBuf,
    /// Only tests whose file name or title contains this.
    pub(crate) filter: Option<String>,
    /// The ways to go.
    pub(crate) ways: Vec<Way>,
    /// Whether php-cli runs under valgrind, where every invalid access and definite leak is a failure.
    pub(crate) valgrind: bool,
}

/// How a run of one test ended.
enum Outcome {
    Passed,
    Failed(String),
    Skipped(String),
}

/// Runs the plan and returns the counts.
///
/// # Errors
/// When nothing can be run at all. A test that cannot be run is a failed test.
pub(crate) fn run_all(plan: &Plan) -> Result<Counts, Stop> {
    let mut jobs = VecDeque::new();
    let mut counts = Counts::default();
    for path in files()? {
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let test = match Phpt::read(&path) {
            Ok(test) => test,
            Err(stop) => {
                run::say(&format!("   failed  {name}: {}", text_of(stop)));
                remember_failure(&name);
                counts.failed += 1;
                continue;
            }
        };
        if plan
            .filter
            .as_ref()
            .is_some_and(|part| !name.contains(part) && !test.title().contains(part))
        {
            continue;
        }
        let code = test.code()?;
        let test = std::sync::Arc::new(test);
        for way in &plan.ways {
            if if *way == Way::Cli {
                test.fits_php_cli()
            } else {
                test.fits_a_web_server(&code)
            } {
                jobs.push_back((*way, std::sync::Arc::clone(&test)));
            }
        }
    }
    // One way after the other, so that the lines of one stand together.
    jobs.make_contiguous().sort_by_key(|(way, _)| *way as u8);
    run::headline(&format!("phpt: {} runs", jobs.len()));
    let total = jobs.len();
    let state = Mutex::new((jobs, counts, Instant::now()));
    let lock = || state.lock().unwrap_or_else(PoisonError::into_inner);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..SLOTS)
            .map(|_| {
                scope.spawn(|| -> Result<(), Stop> {
                    let slot = Slot::new(plan)?;
                    while let Some((way, test)) = { lock().0.pop_front() } {
                        let outcome = slot
                            .run(way, &test)
                            .unwrap_or_else(|stop| Outcome::Failed(text_of(stop)));
                        let name = test
                            .path
                            .file_stem()
                            .unwrap_or_default()
                            .to_string_lossy()
                            .into_owned();
                        let mut state = lock();
                        let (_, counts, told) = &mut *state;
                        match outcome {
                            Outcome::Passed => counts.passed += 1,
                            Outcome::Failed(why) => {
                                counts.failed += 1;
                                remember_failure(&format!("{} {name}", way.name()));
                                run::say(&format!(
                                    "   failed  {} {name}: {}\n     {}",
                                    way.name(),
                                    test.title(),
                                    why.trim_end()
                                ));
                            }
                            Outcome::Skipped(why) => {
                                counts.skipped += 1;
                                run::say(&format!("   skipped {} {name}: {why}", way.name()));
                            }
                        }
                        if told.elapsed() > Duration::from_secs(5) {
                            *told = Instant::now();
                            run::say(&format!(
                                "   … {} of {total}, now {}",
                                counts.total(),
                                way.name()
                            ));
                        }
                    }
                    Ok(())
                })
            })
            .collect();
        workers
            .into_iter()
            .try_for_each(|worker| match worker.join() {
                Ok(result) => result,
                Err(_) => Err(Stop::Failed("a phpt slot panicked".to_owned())),
            })
    })?;
    let counts = lock().1;
    run::say(&format!("   phpt: {counts}"));
    Ok(counts)
}

/// The tests, in order of their names.
fn files() -> Result<Vec<PathBuf>, Stop> {
    let folder = run::root().join("tests/phpt");
    let list = std::fs::read_dir(&folder).map_err(|why| failed(folder.display(), why))?;
    let mut files: Vec<PathBuf> = list
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "phpt")
    });
    files.sort();
    Ok(files)
}

fn text_of(stop: Stop) -> String {
    match stop {
        Stop::Usage(text) | Stop::Failed(text) => text,
        Stop::Told => "see above".to_owned(),
    }
}

/// One place where one test at a time runs.
struct Slot<'plan> {
    plan: &'plan Plan,
    scratch: Scratch,
}

impl<'plan> Slot<'plan> {
    fn new(plan: &'plan Plan) -> Result<Self, Stop> {
        let scratch = Scratch::new("phpt")?;
        for folder in FOLDERS {
            let from = run::root().join(folder);
            if from.is_dir() {
                copy_tree(&from, &scratch.path().join("pages").join(folder))?;
            }
        }
        let copied = scratch.path().join("memring.so");
        run::copy(&plan.so, &copied)?;
        servers::open_to_all(&copied);
        Ok(Self { plan, scratch })
    }

    fn run(&self, way: Way, test: &Phpt) -> Result<Outcome, Stop> {
        // Logs, configuration and sockets of this run only.
        let folder = self.scratch.path().join("run");
        let _ = std::fs::remove_dir_all(&folder);
        run::make_dir(&folder)?;
        servers::give_to_worker(&folder);
        let nodes = (0..NODES)
            .map(|_| Memcached::start())
            .collect::<Result<Vec<_>, _>>()?;
        let socket = folder.join("memcached.sock");
        let _on_socket = Memcached::start_on_socket(&socket)?;
        let mut env = vec![
            ("MEMRING_SAPI".to_owned(), way.name().to_owned()),
            (
                "MEMRING_SO".to_owned(),
                self.scratch.path().join("memring.so").display().to_string(),
            ),
            ("MEMRING_SOCK".to_owned(), socket.display().to_string()),
            ("MEMRING_TMP".to_owned(), folder.display().to_string()),
            ("LC_ALL".to_owned(), "C".to_owned()),
            ("TZ".to_owned(), "UTC".to_owned()),
        ];
        for (number, node) in nodes.iter().enumerate() {
            env.push((format!("MEMRING_PORT{}", number + 1), node.port.to_string()));
            env.push((format!("MEMRING_PID{}", number + 1), node.pid().to_string()));
        }
        for line in test.section("ENV").lines() {
            if let Some((name, value)) = line.split_once('=') {
                env.push((name.trim().to_owned(), value.trim().to_owned()));
            }
        }
        let pages = self.scratch.path().join("pages/tests/phpt");
        let ini = folder.join("php.ini");
        match self.ini_text(test, &env, &pages, &folder) {
            Ok(text) => run::write(&ini, text)?,
            Err(why) => return Ok(Outcome::Skipped(why)),
        }
        servers::open_to_all(&ini);
        env.push((
            "TEST_PHP_EXECUTABLE".to_owned(),
            self.plan.php.cli.display().to_string(),
        ));
        env.push(("TEST_PHP_ARGS".to_owned(), format!("-c {}", ini.display())));
        let mut sapi: Box<dyn Sapi> = match way {
            Way::Cli => Box::new(Cli {
                php: &self.plan.php,
                ini: ini.clone(),
                folder: folder.clone(),
                env: env.clone(),
                args: test
                    .section("ARGS")
                    .split_whitespace()
                    .map(str::to_owned)
                    .collect(),
                input: test.section("STDIN").to_owned(),
                valgrind: self.plan.valgrind,
            }),
            Way::Fpm => Box::new(Fpm::start(&self.plan.php, &folder, &ini, &env)?),
            Way::Apache => Box::new(Apache::start(&self.plan.php, &folder, &pages, &ini, &env)?),
        };
        let stem = test
            .path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let page = |kind: &str, code: &str| -> Result<PathBuf, Stop> {
            let file = pages.join(format!("{stem}{kind}.php"));
            run::write(&file, code)?;
            servers::open_to_all(&file);
            Ok(file)
        };
        if !test.section("SKIPIF").is_empty() {
            let file = page(".skip", test.section("SKIPIF"))?;
            let said = sapi.page(&file, &Request::default())?.unwrap_or_default();
            let said = String::from_utf8_lossy(&said).trim().to_owned();
            if let Some(reason) = said.strip_prefix("skip") {
                return Ok(Outcome::Skipped(reason.trim().to_owned()));
            }
            if !said.is_empty() {
                return Ok(Outcome::Failed(format!(
                    "its SKIPIF said neither \"skip …\" nor nothing: {said}"
                )));
            }
        }
        let file = page("", &test.code()?)?;
        let post = test.section("POST").trim();
        let cookie = test.section("COOKIE").trim();
        let request = Request {
            query: test.section("GET").trim().to_owned(),
            post: (!post.is_empty()).then(|| post.to_owned()),
            cookie: (!cookie.is_empty()).then(|| cookie.to_owned()),
        };
        let answer = sapi.page(&file, &request);
        if !test.section("CLEAN").is_empty() {
            let file = page(".clean", test.section("CLEAN"))?;
            let mut command = Command::new(&self.plan.php.cli);
            command
                .arg("-c")
                .arg(&ini)
                .arg(&file)
                .env("PHP_INI_SCAN_DIR", "")
                .envs(env);
            run::merged(&mut command, b"", Some(LIMIT))?;
        }
        let outcome = match answer? {
            None => Outcome::Failed(format!("PHP ended in the middle of it\n{}", sapi.log())),
            Some(output) => match test.mismatch(&output, &self.plan.php)? {
                // Said past a pattern that takes anything, too.
                None if leak_reported(&output) => {
                    Outcome::Failed(String::from_utf8_lossy(&output).into_owned())
                }
                None => Outcome::Passed,
                Some(difference) => Outcome::Failed(format!("{difference}{}", sapi.log())),
            },
        };
        // What the test left beside its page must not meet the next one.
        let _ = std::fs::remove_file(&file);
        Ok(outcome)
    }

    /// The php.ini of one run, or the extension that is not to be had.
    fn ini_text(
        &self,
        test: &Phpt,
        env: &[(String, String)],
        pages: &Path,
        folder: &Path,
    ) -> Result<String, String> {
        let php = &self.plan.php;
        let mut text = String::from(INI);
        // A node's mark must not reach the next test, which may get the same port.
        text.push_str(&format!("memring.state_dir=\"{}\"\n", folder.display()));
        text.push_str(&format!("extension_dir=\"{}\"\n", php.extensions.display()));
        for name in test.section("EXTENSIONS").split_whitespace() {
            if name == "memring" || php.built_in.contains(&name.to_lowercase()) {
                continue;
            }
            if !php.extensions.join(format!("{name}.so")).exists() {
                return Err(format!("the extension {name} is not installed"));
            }
            text.push_str(&format!("extension={name}\n"));
        }
        let own = self.scratch.path().join("memring.so");
        // A test about the order of extensions loads ours itself, by {ENV:MEMRING_SO}.
        if !test.section("INI").contains("{ENV:MEMRING_SO}") {
            text.push_str(&format!("extension=\"{}\"\n", own.display()));
        }
        for line in test.section("INI").lines() {
            let Some((name, value)) = line.split_once('=') else {
                continue;
            };
            let mut value = value.trim().to_owned();
            value = value
                .replace("{PWD}", &pages.display().to_string())
                .replace("{TMP}", &folder.display().to_string());
            for (name, own) in env {
                value = value.replace(&format!("{{ENV:{name}}}"), own);
            }
            text.push_str(&format!(
                "{}={}\n",
                name.trim(),
                quoted(name.trim(), &value)
            ));
        }
        Ok(text)
    }
}

/// A value as php.ini wants it: quoted where it holds more than a plain word, since `&`, `?` and `;` mean something
/// there. error_reporting is a sum of constants and stays as it is.
fn quoted(name: &str, value: &str) -> String {
    let plain = value
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'/' | b'-'));
    if plain || name == "error_reporting" || value.starts_with('"') {
        return value.to_owned();
    }
    format!("\"{}\"", value.replace('"', "\\\""))
}

/// Copies a folder without its phpt files, readable for a server's worker and writable where it is one.
fn copy_tree(from: &Path, to: &Path) -> Result<(), Stop> {
    run::make_dir(to)?;
    servers::open_to_all(to);
    servers::give_to_worker(to);
    let list = std::fs::read_dir(from).map_err(|why| failed(from.display(), why))?;
    for entry in list.filter_map(Result::ok) {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy_tree(&path, &target)?;
        } else if path.extension().is_none_or(|extension| extension != "phpt") {
            run::copy(&path, &target)?;
            servers::open_to_all(&target);
        }
    }
    Ok(())
}

/// The command line binary, as one more way to run a page.
struct Cli<'plan> {
    php: &'plan Php,
    ini: PathBuf,
    folder: PathBuf,
    env: Vec<(String, String)>,
    args: Vec<String>,
    input: String,
    valgrind: bool,
}

/// Whether a debug PHP said at its end that memory of a request was never freed. The words are the last line of its
/// report, which follows the page's own output.
fn leak_reported(output: &[u8]) -> bool {
    String::from_utf8_lossy(output)
        .lines()
        .any(|line| line.starts_with("=== Total ") && line.ends_with(" memory leaks detected ==="))
}

/// Our own status for "valgrind found something".
const VALGRIND_FOUND: i32 = 99;

impl Sapi for Cli<'_> {
    fn page(&mut self, file: &Path, request: &Request) -> Result<Option<Vec<u8>>, Stop> {
        if !request.query.is_empty() || request.post.is_some() || request.cookie.is_some() {
            return Err(Stop::Failed(
                "php-cli has no GET, POST or COOKIE".to_owned(),
            ));
        }
        let mut command = if self.valgrind {
            let mut command = Command::new("valgrind");
            command.args([
                "--quiet",
                "--leak-check=full",
                "--errors-for-leak-kinds=definite",
                "--num-callers=30",
            ]);
            command.arg(format!("--error-exitcode={VALGRIND_FOUND}"));
            command.arg(format!(
                "--log-file={}",
                self.folder.join("valgrind.log").display()
            ));
            command.arg(&self.php.cli);
            // PHP's own allocator hides what happens inside its pages; unloading hides the names.
            command
                .env("USE_ZEND_ALLOC", "0")
                .env("ZEND_DONT_UNLOAD_MODULES", "1");
            command
        } else {
            Command::new(&self.php.cli)
        };
        command.arg("-c").arg(&self.ini).arg(file).args(&self.args);
        command
            .env("PHP_INI_SCAN_DIR", "")
            .envs(self.env.iter().cloned());
        if let Some(folder) = file.parent() {
            command.current_dir(folder);
        }
        let limit = if self.valgrind { LIMIT * 10 } else { LIMIT };
        let begin = Instant::now();
        let (status, mut output) = run::merged(&mut command, self.input.as_bytes(), Some(limit))?;
        if begin.elapsed() >= limit {
            output.extend_from_slice(format!("\n[ended after {} s]", limit.as_secs()).as_bytes());
        }
        if status.code() == Some(VALGRIND_FOUND) && self.valgrind {
            output.extend_from_slice(b"\n[valgrind found something]");
        }
        if status.code().is_none() {
            output.extend_from_slice(format!("\n[{status}]").as_bytes());
        }
        Ok(Some(output))
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("valgrind.log")).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leak_report_is_seen_behind_the_output_of_the_page() {
        let report = b"done\n[now]  Script:  'a.php'\nfile.c(1) :  Freeing 0x1 (8 bytes)\n=== Total 1 memory leaks detected ===\n";
        assert!(leak_reported(report));
        assert!(!leak_reported(b"done\nno memory leaks detected\n"));
    }

    #[test]
    fn an_ini_value_with_a_meaning_of_its_own_is_quoted() {
        assert_eq!(
            quoted("session.save_path", "tcp://a:1?weight=2&b"),
            "\"tcp://a:1?weight=2&b\""
        );
        assert_eq!(quoted("memcache.protocol", "binary"), "binary");
        assert_eq!(
            quoted("error_reporting", "E_ALL & ~E_NOTICE"),
            "E_ALL & ~E_NOTICE"
        );
        assert_eq!(quoted("x", "\"as is\""), "\"as is\"");
    }
}
