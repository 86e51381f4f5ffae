//! The extension under test and the PHP command line that loads it.
//!
//! `MEMRING_SO` names a built extension; without it the release build is made current once per test run.
//! PHP runs with `-n`, so no ini file and no other extension of this machine takes part.

use std::ffi::OsStr;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crate::place::{TempDir, program, workspace};
use crate::process::Process;

/// The built extension: `MEMRING_SO`, else `libmemring.so` of an up-to-date release build.
pub fn extension() -> &'static Path {
    static EXTENSION: OnceLock<PathBuf> = OnceLock::new();
    EXTENSION.get_or_init(|| {
        if let Some(path) = std::env::var_os("MEMRING_SO") {
            let path = PathBuf::from(path);
            return path
                .canonicalize()
                .unwrap_or_else(|e| panic!("MEMRING_SO={}: {e}", path.display()));
        }
        // Always asked for: a stale file under target would let a broken tree pass. A fresh one costs nothing.
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "--release", "-p", "memring"])
            .current_dir(workspace())
            .status()
            .expect("run cargo");
        assert!(
            status.success(),
            "`cargo build --release -p memring` failed; its messages stand above"
        );
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace().join("target"), PathBuf::from);
        target.join("release/libmemring.so")
    })
}

/// The original's shared object, named by `MEMRING_PECL_SO`; it proves that a comparison compares.
pub fn original() -> Option<PathBuf> {
    std::env::var_os("MEMRING_PECL_SO").map(PathBuf::from)
}

/// The PHP command line binary: `MEMRING_PHP`, else `php`.
pub fn binary() -> PathBuf {
    std::env::var_os("MEMRING_PHP")
        .map(PathBuf::from)
        .or_else(|| program(&["php", "php8.2", "php8.4"]))
        .expect("php is not installed: apt-get install php-cli")
}

/// One way of running PHP: which extension, which ini lines, which environment, how long.
#[derive(Clone, Debug)]
pub struct Php {
    extensions: Vec<PathBuf>,
    ini: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    limit: Duration,
    state: Arc<TempDir>,
}

impl Default for Php {
    fn default() -> Php {
        Php::new()
    }
}

impl Php {
    /// PHP with the extension under test, 60 s to finish, errors on standard output.
    ///
    /// It shares what it knows of failed nodes with its clones only: a port that another test's server left
    /// would else be marked here.
    pub fn new() -> Php {
        let php = Php::bare().extension(extension());
        let directory = php.state.path().display().to_string();
        php.ini("memring.state_dir", directory)
    }

    /// PHP without any extension of ours.
    pub fn bare() -> Php {
        Php {
            extensions: Vec::new(),
            ini: Vec::new(),
            environment: Vec::new(),
            limit: Duration::from_secs(60),
            state: Arc::new(TempDir::new("state")),
        }
        .ini("display_errors", "1")
        .ini("error_reporting", "-1")
        .ini("html_errors", "0")
        .ini("log_errors", "0")
    }

    /// Loads one more extension, a path or a name PHP finds itself.
    pub fn extension(mut self, path: impl AsRef<Path>) -> Php {
        self.extensions.push(path.as_ref().to_path_buf());
        self
    }

    /// Adds an ini line.
    pub fn ini(mut self, name: &str, value: impl ToString) -> Php {
        self.ini.push((name.to_string(), value.to_string()));
        self
    }

    /// Sets an environment variable.
    pub fn env(mut self, name: &str, value: impl ToString) -> Php {
        self.environment.push((name.to_string(), value.to_string()));
        self
    }

    /// The time after which it is killed and the output says so.
    pub fn limit(mut self, limit: Duration) -> Php {
        self.limit = limit;
        self
    }

    /// Runs a script text; `<?php` is put before it when it lacks one.
    pub fn run(&self, script: &str) -> Output {
        self.start(script).finish()
    }

    /// Runs a script file.
    pub fn run_file(&self, file: &Path) -> Output {
        self.spawn(&[OsStr::new("-f"), file.as_os_str()], None)
            .finish()
    }

    /// Starts a script text and returns at once, so that the test can act while it runs.
    pub fn start(&self, script: &str) -> Running {
        let head = if script.starts_with("<?php") {
            ""
        } else {
            "<?php\n"
        };
        // A file, not standard input: only then PHP defines STDIN and STDERR.
        let directory = TempDir::new("script");
        let file = directory.file("script.php", format!("{head}{script}"));
        self.spawn(&[OsStr::new("-f"), file.as_os_str()], Some(directory))
    }

    /// The arguments that select ini file, extensions and ini lines; php-fpm takes the same.
    pub fn arguments(&self) -> Vec<String> {
        let mut arguments = vec!["-n".to_string()];
        for extension in &self.extensions {
            arguments.extend(["-d".into(), format!("extension={}", extension.display())]);
        }
        for (name, value) in &self.ini {
            // Quoted, so that an empty value or one with `;` and `=` arrives as it stands.
            arguments.extend(["-d".into(), format!("{name}=\"{value}\"")]);
        }
        arguments
    }

    /// The environment it adds; php-fpm takes the same.
    pub(crate) fn environment(&self) -> &[(String, String)] {
        &self.environment
    }

    fn spawn(&self, arguments: &[&OsStr], directory: Option<TempDir>) -> Running {
        let mut command = Command::new(binary());
        command.args(self.arguments()).args(arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = Process::start(&mut command).expect("start php");
        let stdout = collect(process.child().stdout.take());
        let stderr = collect(process.child().stderr.take());
        Running {
            process,
            stdout,
            stderr,
            started: Instant::now(),
            limit: self.limit,
            _directory: directory,
            _state: Arc::clone(&self.state),
        }
    }
}

fn collect(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        bytes
    })
}

/// A script that was started and not yet waited for.
#[derive(Debug)]
pub struct Running {
    process: Process,
    stdout: std::thread::JoinHandle<Vec<u8>>,
    stderr: std::thread::JoinHandle<Vec<u8>>,
    started: Instant,
    limit: Duration,
    _directory: Option<TempDir>,
    _state: Arc<TempDir>,
}

impl Running {
    /// The process id of this PHP.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Kills it as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Waits for its end, or kills it at its limit.
    ///
    /// # Panics
    /// When a debug PHP reports a leak.
    #[track_caller]
    pub fn finish(mut self) -> Output {
        let left = self.limit.saturating_sub(self.started.elapsed());
        let status = self.process.wait(left);
        let took = self.started.elapsed();
        // The pipes close only when nothing of the script is left.
        self.process.kill();
        let stderr = self.stderr.join().unwrap_or_default();
        // Only a debug PHP says so; whatever else a test looks for, a leak is its failure.
        let said = String::from_utf8_lossy(&stderr);
        assert!(
            !said.contains(" memory leaks detected ==="),
            "memory of the request was never freed:\n{said}"
        );
        Output {
            stdout: self.stdout.join().unwrap_or_default(),
            stderr,
            code: status.and_then(|status| status.code()),
            signal: status
                .and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status)),
            timed_out: status.is_none(),
            took,
        }
    }
}

/// What a finished PHP left.
#[derive(Clone, Debug)]
pub struct Output {
    /// Standard output, byte for byte.
    pub stdout: Vec<u8>,
    /// Standard error, byte for byte.
    pub stderr: Vec<u8>,
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether it was killed at its limit.
    pub timed_out: bool,
    /// From start to end.
    pub took: Duration,
}

impl Output {
    /// Standard output as text, trimmed at its end.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim_end().to_string()
    }

    /// Standard output of a script that must have ended well, else a panic that shows everything.
    #[track_caller]
    pub fn ok(&self) -> String {
        assert!(
            self.code == Some(0) && !self.timed_out,
            "php ended with code {:?}, signal {:?}, timed out: {}\n--- stdout\n{}\n--- stderr\n{}",
            self.code,
            self.signal,
            self.timed_out,
            self.text(),
            String::from_utf8_lossy(&self.stderr)
        );
        self.text()
    }
}
