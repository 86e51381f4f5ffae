//! pecl-memcache's own phpt files, run with another extension in its place: the meter of how drop-in we are.
//!
//! Their files name fixed ports, a socket in a system directory and a host on the internet that swallows
//! packets. A temp copy gets loopback replacements; nothing of the suite is kept in this project.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use crate::hostile::BlackHole;
use crate::memcached::Memcached;
use crate::php::binary;
use crate::place::TempDir;
use crate::process::Process;

/// Ports for which the suite's balance keys fall on the servers its tests expect
/// (they hash `localhost:port`); the third one nobody listens on.
const PORTS: [u16; 3] = [24211, 24212, 24213];

/// What became of one run.
#[derive(Clone, Debug, Default)]
pub struct Score {
    /// Names of tests that passed.
    pub passed: Vec<String>,
    /// Names of tests that failed, with the word run-tests used.
    pub failed: Vec<(String, String)>,
    /// Names of tests that were skipped.
    pub skipped: Vec<String>,
    /// What differed, by test, as run-tests wrote it.
    pub differences: Vec<(String, String)>,
}

impl Score {
    /// `78 passed, 0 failed, 9 skipped`.
    pub fn line(&self) -> String {
        format!(
            "{} passed, {} failed, {} skipped",
            self.passed.len(),
            self.failed.len(),
            self.skipped.len()
        )
    }
}

/// Runs the suite in `tests` (left untouched) with the extension `so` and `memcache.protocol` set to `protocol`.
///
/// `only` narrows it to files whose name contains one of these words; empty means all.
///
/// # Errors
/// A sentence when the suite could not be run at all.
pub fn run(tests: &Path, so: &Path, protocol: &str, only: &[String]) -> Result<Score, String> {
    let run_tests = run_tests_script()?;
    let _one = Memcached::on(PORTS[0], &[]);
    let _two = Memcached::on(PORTS[1], &[]);
    let on_socket = Memcached::on_socket();
    let hole = BlackHole::start();
    let copy = TempDir::new("pecl-suite");
    let files = prepare(tests, copy.path(), on_socket.socket(), hole.port(), only)?;

    let result = copy.path().join("result.txt");
    let log = std::fs::File::create(copy.path().join("output.txt")).map_err(|e| e.to_string())?;
    let mut command = Command::new(binary());
    command
        .arg("-n")
        .arg(run_tests)
        .arg("-p")
        .arg(binary())
        .args(["-n", "-q"]);
    command
        .args(["-d", &format!("extension={}", so.display())])
        // 056 lets four objects meet a dead node and wants each to pay for it, which is what sharing spares them.
        .args(["-d", "memring.shared=off"])
        .arg("-W")
        .arg(&result)
        .args(&files);
    command
        .env("MEMCACHE_PROTOCOL", protocol)
        .env("NO_INTERACTION", "1")
        .current_dir(copy.path());
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().map_err(|e| e.to_string())?)
        .stderr(log);
    let mut process = Process::start(&mut command).map_err(|e| format!("cannot start php: {e}"))?;
    let ended = process.wait(Duration::from_secs(1200));
    process.kill();
    if ended.is_none() {
        return Err("the suite ran for more than 20 minutes and was stopped".into());
    }
    read(&result, copy.path())
}

/// Copies the suite and points it at this run's servers; returns the phpt files to run.
fn prepare(
    tests: &Path,
    to: &Path,
    socket: &Path,
    hole: u16,
    only: &[String],
) -> Result<Vec<PathBuf>, String> {
    let replacements = [
        ("11211".to_string(), PORTS[0].to_string()),
        ("11212".to_string(), PORTS[1].to_string()),
        ("11213".to_string(), PORTS[2].to_string()),
        (
            "unix:///var/run/memcached/memcached.sock".to_string(),
            format!("unix://{}", socket.display()),
        ),
    ];
    let mut files = Vec::new();
    let entries =
        std::fs::read_dir(tests).map_err(|e| format!("cannot read {}: {e}", tests.display()))?;
    for entry in entries.filter_map(Result::ok) {
        let name = entry.file_name().to_string_lossy().to_string();
        if !entry.path().is_file() || !(name.ends_with(".phpt") || name.ends_with(".inc")) {
            continue;
        }
        let bytes = std::fs::read(entry.path()).map_err(|e| format!("cannot read {name}: {e}"))?;
        let mut bytes = replace(&bytes, b"'10.254.254.254'", b"'127.0.0.1'");
        bytes = replace(
            &bytes,
            b"$unreachablePort = 11211",
            format!("$unreachablePort = {hole}").as_bytes(),
        );
        for (old, new) in &replacements {
            bytes = replace(&bytes, old.as_bytes(), new.as_bytes());
        }
        std::fs::write(to.join(&name), bytes).map_err(|e| format!("cannot write {name}: {e}"))?;
        if name.ends_with(".phpt")
            && (only.is_empty() || only.iter().any(|word| name.contains(word.as_str())))
        {
            files.push(to.join(&name));
        }
    }
    files.sort();
    if files.is_empty() {
        Err(format!("{} holds no phpt file to run", tests.display()))
    } else {
        Ok(files)
    }
}

/// Replaces on bytes, since some of the files are not UTF-8.
fn replace(text: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.windows(old.len()).position(|window| window == old) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(new);
        rest = &rest[at + old.len()..];
    }
    out.extend_from_slice(rest);
    out
}

/// Reads what run-tests wrote: one line per test, a word and a path.
fn read(result: &Path, copy: &Path) -> Result<Score, String> {
    let text = std::fs::read_to_string(result).map_err(|_| {
        let output = std::fs::read_to_string(copy.join("output.txt")).unwrap_or_default();
        format!("run-tests wrote no result; its output:\n{output}")
    })?;
    let mut score = Score::default();
    for line in text.lines() {
        let Some((word, path)) = line.split_once('\t') else {
            continue;
        };
        let name = Path::new(path.trim())
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .to_string();
        match word.trim() {
            "PASSED" => score.passed.push(name),
            "SKIPPED" => score.skipped.push(name),
            other => {
                let difference =
                    std::fs::read(copy.join(format!("{name}.diff"))).unwrap_or_default();
                score.differences.push((
                    name.clone(),
                    String::from_utf8_lossy(&difference).to_string(),
                ));
                score.failed.push((name, other.to_string()));
            }
        }
    }
    Ok(score)
}

/// PHP's own test runner, which comes with its development package.
fn run_tests_script() -> Result<PathBuf, String> {
    let candidates = [
        PathBuf::from("/usr/lib/php"),
        PathBuf::from("/usr/local/lib/php"),
    ];
    candidates
        .iter()
        .filter_map(|directory| std::fs::read_dir(directory).ok())
        .flat_map(|entries| entries.filter_map(Result::ok))
        .map(|entry| entry.path())
        .flat_map(|path| [path.join("build/run-tests.php"), path.join("run-tests.php")])
        .find(|path| path.is_file())
        .ok_or_else(|| "run-tests.php was not found: apt-get install php-dev".to_string())
}
