//! A PHP that runs the rows of the bench with one client, and what of it is counted from outside.

use super::PLACE;
use crate::php::Php;
use crate::run::{self, Running};
use crate::{Stop, failed};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a PHP may take to start and to run one slice.
const LIMIT: Duration = Duration::from_secs(60);

/// One client library.
#[derive(Clone, Debug)]
pub(crate) struct Contender {
    /// Its name in the table, which the PHP file knows, too.
    pub(crate) name: &'static str,
    /// What `extension=` loads, in order.
    extensions: Vec<PathBuf>,
    /// Ports of its nodes.
    ports: Vec<u16>,
    /// `session.save_handler`.
    handler: &'static str,
}

/// Ours on Redis nodes.
pub(crate) const OURS_ON_REDIS: &str = "memring-redis";

/// Ours on a database of this host, with no server.
pub(crate) const OURS_EMBEDDED: &str = "memring-embedded";

/// Are the nodes of the client of this name Redis servers?
pub(crate) fn is_on_redis(name: &str) -> bool {
    name == "phpredis" || name == OURS_ON_REDIS
}

/// Has the client of this name anything like the row? phpredis has one node and no copies, and
/// copies on Redis nodes are not measured; a database of the host is one node, and has no connection
/// to keep.
pub(crate) fn takes_part(name: &str, row: &str) -> bool {
    match row {
        "multi-4" => name != "phpredis" && name != OURS_EMBEDDED,
        _ if name == OURS_EMBEDDED => !row.ends_with("-copied") && row != "session-kept",
        _ => !is_on_redis(name) || !row.ends_with("-copied"),
    }
}

impl Contender {
    /// A client of `name` that needs these extensions.
    pub(crate) fn new(name: &'static str, extensions: Vec<PathBuf>, ports: Vec<u16>) -> Contender {
        let handler = match name {
            "php-memcached" => "memcached",
            "phpredis" => "redis",
            _ => "memcache",
        };
        Contender {
            name,
            extensions,
            ports,
            handler,
        }
    }

    /// The words of a PHP with this client, run by `first` where there are any (strace, valgrind).
    fn command(&self, php: &Php, file: &Path, first: &[&str]) -> Result<Command, Stop> {
        let words = first
            .iter()
            .map(Into::into)
            .chain([php.cli.clone().into_os_string()]);
        let mut words: Vec<std::ffi::OsString> = words.collect();
        let first = words.remove(0);
        let mut command = Command::new(first);
        command.args(words).arg("-n");
        for extension in &self.extensions {
            command.arg("-d");
            command.arg(format!("extension={}", extension.display()));
        }
        let node = self.ports.first().copied().unwrap_or_default();
        let folder = file.with_file_name("database");
        if self.name == OURS_EMBEDDED {
            run::make_dir(&folder)?;
        }
        let database = format!("embedded://{}", folder.display());
        let place = match (self.handler, self.name) {
            ("memcached", _) => format!("{PLACE}:{node}"),
            (_, OURS_EMBEDDED) => database.clone(),
            (_, OURS_ON_REDIS) => format!("redis://{PLACE}:{node}"),
            _ => format!("tcp://{PLACE}:{node}"),
        };
        for setting in [
            format!("session.save_handler={}", self.handler),
            format!("session.save_path={place}"),
            "session.use_cookies=0".to_owned(),
            "session.cache_limiter=".to_owned(),
            "session.gc_probability=0".to_owned(),
            // The others lock a session, too.
            "redis.session.locking_enabled=1".to_owned(),
            "memory_limit=1G".to_owned(),
            // What is printed counts as sent, and then no session setting can be changed.
            "display_errors=stderr".to_owned(),
        ] {
            command.arg("-d").arg(setting);
            // As under a web server.
            command.args(["-d", "memring.copy_hold=1"]);
        }
        if self.name == "memring" {
            let pools = file.with_file_name("bench.toml");
            run::write(&pools, self.pools())?;
            let setting = format!("memring.config_file={}", pools.display());
            command.arg("-d").arg(setting);
            // As under a web server.
            command.args(["-d", "memring.copy_hold=1"]);
        }
        let ports: Vec<String> = self.ports.iter().map(u16::to_string).collect();
        let places = match self.name {
            OURS_EMBEDDED => database,
            _ => ports.join(","),
        };
        command.arg(file).arg(self.name).arg(places);
        command.stdin(Stdio::null());
        Ok(command)
    }

    /// The file with the pools of the rows with copies: the first two nodes.
    fn pools(&self) -> String {
        let nodes = self.ports.iter().take(2);
        let nodes = nodes.map(|port| format!("\"memcached://{PLACE}:{port}\""));
        let nodes: Vec<String> = nodes.collect();
        let nodes = nodes.join(", ");
        format!(
            "[pool.bench]\nnodes = [{nodes}]\nmode = \"sync\"\n[pool.later]\nnodes = [{nodes}]\nmode = \"async\"\n"
        )
    }

    /// Starts a PHP that waits for rows.
    ///
    /// # Errors
    /// When it does not come up.
    pub(crate) fn start(&self, php: &Php, folder: &Path, file: &Path) -> Result<Worker, Stop> {
        let path = folder.join(format!("{}.sock", self.name));
        let _ = std::fs::remove_file(&path);
        let broken = |why: std::io::Error| failed(format!("PHP with {}", self.name), why);
        let listener = UnixListener::bind(&path).map_err(broken)?;
        listener.set_nonblocking(true).map_err(broken)?;
        let mut command = self.command(php, file, &[])?;
        let mut running = Running::start(command.arg(&path))?;
        let begin = Instant::now();
        let stream = loop {
            match listener.accept() {
                Ok((stream, _)) => break stream,
                Err(_) if !running.ended() && begin.elapsed() < LIMIT => {
                    std::thread::sleep(Duration::from_millis(2));
                }
                Err(why) => return Err(broken(why)),
            }
        };
        stream.set_nonblocking(false).map_err(broken)?;
        stream.set_read_timeout(Some(LIMIT)).map_err(broken)?;
        let answers = BufReader::new(stream.try_clone().map_err(broken)?);
        let mut worker = Worker {
            name: self.name,
            hello: String::new(),
            stream,
            answers,
            running,
        };
        worker.hello = worker.line()?;
        Ok(worker)
    }

    /// System calls of one pass through a row; `None` where strace cannot trace, or not this row.
    pub(crate) fn system_calls(
        &self,
        php: &Php,
        scratch: &Path,
        file: &Path,
        row: &str,
    ) -> Option<f64> {
        if !takes_part(self.name, row) {
            return None;
        }
        let output = scratch.join("strace.txt");
        let report = output.to_string_lossy().into_owned();
        let words = ["strace", "-f", "-c", "-o", report.as_str()];
        self.difference(php, file, row, [20, 220], &words, || {
            let text = std::fs::read_to_string(&output).ok()?;
            // "100.00  0.123456  1  4711  12 total": calls stand fourth.
            let total = text
                .lines()
                .rfind(|line| line.trim_end().ends_with("total"))?;
            total.split_whitespace().nth(3)?.parse().ok()
        })
    }

    /// Instructions of the client in one pass through a row; `None` where valgrind is missing.
    pub(crate) fn instructions(
        &self,
        php: &Php,
        scratch: &Path,
        file: &Path,
        row: &str,
    ) -> Option<f64> {
        if !takes_part(self.name, row) {
            return None;
        }
        let output = scratch.join("callgrind.out");
        let option = format!("--callgrind-out-file={}", output.display());
        let words = ["valgrind", "--tool=callgrind", "--quiet", option.as_str()];
        self.difference(php, file, row, [20, 120], &words, || {
            let text = std::fs::read(&output).ok()?;
            let text = String::from_utf8_lossy(&text);
            let total = text.lines().rfind(|line| line.starts_with("totals:"))?;
            total.split_whitespace().nth(1)?.parse().ok()
        })
    }

    /// What one pass more costs: a short and a long run, so that PHP's start counts for nothing.
    fn difference(
        &self,
        php: &Php,
        file: &Path,
        row: &str,
        counts: [u32; 2],
        words: &[&str],
        read: impl Fn() -> Option<f64>,
    ) -> Option<f64> {
        let run = |count: u32| {
            let mut command = self.command(php, file, words).ok()?;
            command.args(["once", row, &count.to_string()]);
            let (status, _) = run::merged(&mut command, b"", Some(LIMIT)).ok()?;
            if status.success() { read() } else { None }
        };
        let [short, long] = counts;
        Some((run(long)? - run(short)?) / f64::from(long - short))
    }
}

/// A running PHP that waits for rows.
pub(crate) struct Worker {
    /// The contender's name.
    pub(crate) name: &'static str,
    /// "PHP-version extension-version date".
    pub(crate) hello: String,
    stream: UnixStream,
    answers: BufReader<UnixStream>,
    running: Running,
}

impl Worker {
    /// Runs a row and returns its answer, most often nanoseconds.
    ///
    /// # Errors
    /// When PHP ended or the row gave a wrong result.
    pub(crate) fn ask(&mut self, row: &str, count: u32) -> Result<String, Stop> {
        writeln!(self.stream, "{row} {count}")
            .map_err(|why| failed(format!("PHP with {}", self.name), why))?;
        let answer = self.line()?;
        if answer == "failed" {
            return Err(Stop::Failed(format!(
                "row \"{row}\" gave a wrong result with {}",
                self.name
            )));
        }
        Ok(answer)
    }

    /// The same as a duration.
    ///
    /// # Errors
    /// As [`Worker::ask`].
    pub(crate) fn time(&mut self, row: &str, count: u32) -> Result<Duration, Stop> {
        let answer = self.ask(row, count)?;
        answer
            .parse()
            .map(Duration::from_nanos)
            .map_err(|why| failed(format!("PHP with {} said \"{answer}\"", self.name), why))
    }

    fn line(&mut self) -> Result<String, Stop> {
        let mut line = String::new();
        self.answers
            .read_line(&mut line)
            .map_err(|why| failed(format!("PHP with {}", self.name), why))?;
        if line.is_empty() {
            return Err(Stop::Failed(format!("PHP with {} ended", self.name)));
        }
        Ok(line.trim_end().to_owned())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.running.kill();
    }
}
