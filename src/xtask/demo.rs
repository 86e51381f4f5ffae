//! cargo xtask demo: the main job on real processes, from nothing installed to a table of what landed where.
//!
//! PHP does the work through the built extension; what the table says is then asked from the nodes themselves, so
//! that it shows what is there and not what PHP believes. Everything it starts has ended when it returns.

mod copies;
mod embedded;

use crate::bootstrap::{self, For};
use crate::php::Php;
use crate::run::{self, Scratch};
use crate::servers::{Memcached, PhpServer};
use crate::{Stop, failed};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// What --help prints.
pub(crate) const HELP: &str = "\
cargo xtask demo [--embedded] [--serve] [--so FILE] [--companion FILE] [--no-install]

Installs what is missing, builds the release extension and companion, starts three memcached on free loopback ports
and shows values spread over the ring and 200 sessions from parallel PHP workers. Then 200 sessions on copies: three
more nodes, each killed and brought back empty in turn while workers write; the last line counts what was lost, and
the exit code is 1 unless that is nothing. Leaves nothing running.

  --embedded    the values and the sessions without any server, in a file; then a writer is killed
  --serve       then keep a page open at a printed address until Ctrl-C
  --so FILE     an extension built before, instead of building the release one
  --companion FILE  a companion (memring) built before, instead of building the release one
  --no-install  name what is missing instead of installing it";

const NODES: usize = 3;
const VALUES: u64 = 3_000;
const SESSIONS: u64 = 200;
/// Workers at a time; each visits its share of the sessions.
const WORKERS: u64 = 8;
/// Visits of each worker to the one session all share, which only a lock keeps right.
const SHARED_VISITS: u64 = 25;
/// The session that all workers share (`worker.php`).
const SHARED: &str = "demoshared0000000000000000000000";
/// The longest one PHP worker may take.
const LIMIT: Duration = Duration::from_secs(60);

/// The subcommand.
///
/// # Errors
/// When something is missing, does not build, or anything came out otherwise than it should.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<(), Stop> {
    use lexopt::prelude::*;
    let (mut serve, mut so, mut companion, mut install) = (false, None, None, true);
    let mut embedded = false;
    while let Some(word) = parser.next()? {
        match word {
            Long("embedded") => embedded = true,
            Long("serve") => serve = true,
            Long("so") => so = Some(PathBuf::from(parser.value()?)),
            Long("companion") => companion = Some(PathBuf::from(parser.value()?)),
            Long("no-install") => install = false,
            _ => return Err(word.unexpected().into()),
        }
    }
    let needed = if embedded { For::Build } else { For::Demo };
    bootstrap::ensure(needed, install)?;
    let php = Php::find(None)?;
    let so = match so {
        Some(so) => so.canonicalize().map_err(|why| failed(so.display(), why))?,
        None => php.build()?,
    };
    if embedded {
        return embedded::show(&php, &so);
    }
    let companion = match companion {
        Some(file) => file
            .canonicalize()
            .map_err(|why| failed(file.display(), why))?,
        None => Php::build_companion()?,
    };
    let scratch = Scratch::new("demo")?;
    run::headline("three memcached");
    let nodes = (0..NODES)
        .map(|_| Memcached::start())
        .collect::<Result<Vec<_>, _>>()?;
    for node in &nodes {
        run::say(&format!("   127.0.0.1:{} (pid {})", node.port, node.pid()));
    }
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("tcp://127.0.0.1:{}", node.port))
        .collect();
    let handler = ("memcache", list.join(", "));
    let stage = Stage::set(&php, &so, scratch.path(), &nodes, (handler.0, &handler.1))?;
    let ports: Vec<String> = nodes.iter().map(|node| node.port.to_string()).collect();
    values(&stage, &ports)?;
    sessions(&stage, shared_visits)?;
    table(&nodes)?;
    copies::show(&stage, &companion)?;
    if serve {
        let page = PhpServer::start(
            &php,
            scratch.path(),
            &stage.ini,
            &[("MEMRING_PORTS".to_owned(), stage.ports(","))],
        )?;
        run::say(&format!(
            "\nhttp://127.0.0.1:{}/ is open until Ctrl-C",
            page.port
        ));
        page.wait()?;
    }
    Ok(())
}

/// What every PHP of the demo needs.
struct Stage<'run> {
    php: &'run Php,
    folder: &'run Path,
    ini: PathBuf,
    nodes: &'run [Memcached],
}

impl<'run> Stage<'run> {
    fn set(
        php: &'run Php,
        so: &Path,
        folder: &'run Path,
        nodes: &'run [Memcached],
        (handler, save_path): (&str, &str),
    ) -> Result<Self, Stop> {
        for (name, text) in [
            ("values.php", include_str!("demo/values.php")),
            ("worker.php", include_str!("demo/worker.php")),
            ("visitor.php", include_str!("demo/visitor.php")),
            ("writer.php", include_str!("demo/writer.php")),
            ("count.php", include_str!("demo/count.php")),
            ("index.php", include_str!("demo/index.php")),
        ] {
            run::write(&folder.join(name), text)?;
        }
        let ini = folder.join("php.ini");
        run::write(
            &ini,
            format!(
                "extension=\"{}\"\nerror_reporting=32767\ndisplay_errors=stderr\nhtml_errors=0\n\
                 session.save_handler={handler}\nsession.save_path=\"{save_path}\"\n",
                so.display(),
            ),
        )?;
        Ok(Self {
            php,
            folder,
            ini,
            nodes,
        })
    }

    fn ports(&self, between: &str) -> String {
        let ports: Vec<String> = self
            .nodes
            .iter()
            .map(|node| node.port.to_string())
            .collect();
        ports.join(between)
    }

    /// Runs one PHP to its end and returns what it printed.
    fn php(&self, file: &str, words: &[String]) -> Result<String, Stop> {
        let mut command = Command::new(&self.php.cli);
        command.arg("-c").arg(&self.ini);
        // A command line has no cookie and sends no header; the id comes from the script.
        command.args([
            "-d",
            "session.use_cookies=0",
            "-d",
            "session.cache_limiter=",
        ]);
        command
            .arg(self.folder.join(file))
            .args(words)
            .env("PHP_INI_SCAN_DIR", "");
        let (status, output) = run::merged(&mut command, b"", Some(LIMIT))?;
        let text = String::from_utf8_lossy(&output).into_owned();
        if status.success() {
            return Ok(text);
        }
        Err(Stop::Failed(format!(
            "{file} ended with {status}:\n{}",
            text.trim_end()
        )))
    }

    /// Runs one PHP per list of words, all at the same time.
    fn workers(&self, lists: Vec<Vec<String>>) -> Result<Vec<String>, Stop> {
        std::thread::scope(|scope| {
            let running: Vec<_> = lists
                .into_iter()
                .map(|words| scope.spawn(move || self.php("worker.php", &words)))
                .collect();
            running
                .into_iter()
                .map(|worker| {
                    worker
                        .join()
                        .unwrap_or_else(|_| Err(Stop::Failed("a worker panicked".to_owned())))
                })
                .collect()
        })
    }
}

/// Stores values on `nodes`, which are named as `values.php` takes them.
fn values(stage: &Stage<'_>, nodes: &[String]) -> Result<(), Stop> {
    run::headline(&format!(
        "{VALUES} values, each read back singly and in gets of 100 keys"
    ));
    let begin = Instant::now();
    let mut words = vec![VALUES.to_string()];
    words.extend_from_slice(nodes);
    stage.php("values.php", &words)?;
    run::say(&format!("   all equal, {} ms", begin.elapsed().as_millis()));
    Ok(())
}

/// Visits sessions; `shared_visits` looks how often the shared one was visited.
fn sessions(
    stage: &Stage<'_>,
    shared_visits: fn(&Stage<'_>) -> Result<u64, Stop>,
) -> Result<(), Stop> {
    run::headline(&format!(
        "{SESSIONS} sessions from {WORKERS} PHP workers at a time"
    ));
    let share = SESSIONS / WORKERS;
    // The second round gives every session to another worker than the first.
    for (round, shift) in [(1, 0), (2, 1)] {
        let begin = Instant::now();
        let lists = (0..WORKERS)
            .map(|worker| {
                let first = (worker + shift) % WORKERS * share;
                vec![
                    "own".to_owned(),
                    first.to_string(),
                    (first + share - 1).to_string(),
                ]
            })
            .collect();
        let printed = stage.workers(lists)?.concat();
        let right = printed
            .lines()
            .filter(|line| *line == round.to_string())
            .count();
        run::say(&format!(
            "   visit {round}: {right} of {SESSIONS} sessions as the visit before left them, {} ms",
            begin.elapsed().as_millis()
        ));
        if usize::try_from(SESSIONS) != Ok(right) {
            return Err(Stop::Failed(format!("visit {round} printed:\n{printed}")));
        }
    }
    let begin = Instant::now();
    let lists = (0..WORKERS)
        .map(|_| {
            vec![
                "shared".to_owned(),
                SHARED_VISITS.to_string(),
                String::new(),
            ]
        })
        .collect();
    stage.workers(lists)?;
    let expected = WORKERS * SHARED_VISITS;
    let counted = shared_visits(stage)?;
    run::say(&format!(
        "   one session, {WORKERS} workers: {counted} of {expected} visits counted, {} ms",
        begin.elapsed().as_millis()
    ));
    if counted == expected {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "{} visits were lost: the lock did not hold",
        expected.abs_diff(counted)
    )))
}

/// The counter of the shared session, read from the bytes on its node.
fn shared_visits(stage: &Stage<'_>) -> Result<u64, Stop> {
    for node in stage.nodes {
        let text = node.ask(&format!("get {SHARED}\r\n"))?;
        // PHP's own session format: visits|i:200;user|s:…
        if let Some((_, rest)) = text.split_once("visits|i:") {
            let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
            return digits
                .parse()
                .map_err(|why| failed("the shared session", why));
        }
    }
    Err(Stop::Failed(
        "the shared session lies on no node".to_owned(),
    ))
}

/// Prints what each node says it holds, and fails when together they do not hold what was stored.
fn table(nodes: &[Memcached]) -> Result<(), Stop> {
    run::headline("what landed where, as the nodes themselves list it");
    run::say("   node              values  sessions     bytes  connections served");
    let (mut values, mut sessions) = (BTreeSet::new(), BTreeSet::new());
    let (mut all_values, mut all_sessions) = (0, 0);
    for node in nodes {
        let dump = node.ask("lru_crawler metadump all\r\n")?;
        let keys = dump
            .lines()
            .filter_map(|line| line.strip_prefix("key=")?.split(' ').next());
        let (mut own_values, mut own_sessions) = (0, 0);
        for key in keys {
            // The list is URL-encoded.
            if key.starts_with("value%3A") || key.starts_with("value:") {
                own_values += 1;
                values.insert(key.to_owned());
            } else if key.starts_with("demo") && !key.ends_with(".lock") {
                own_sessions += 1;
                sessions.insert(key.to_owned());
            }
        }
        let stats = node.ask("stats\r\n")?;
        let stat = |name: &str| {
            let line = stats
                .lines()
                .find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
            line.unwrap_or_default().trim().to_owned()
        };
        let name = format!("127.0.0.1:{}", node.port);
        let (bytes, connections) = (stat("bytes"), stat("total_connections"));
        run::say(&format!(
            "   {name:<17} {own_values:>6}  {own_sessions:>8}  {bytes:>8}  {connections:>18}"
        ));
        all_values += own_values;
        all_sessions += own_sessions;
    }
    run::say(&format!(
        "   {:<17} {all_values:>6}  {all_sessions:>8}",
        "together"
    ));
    run::say(&format!(
        "   {} different values, {} different sessions; memcache.session_redundancy = 2 keeps each session on two nodes",
        values.len(),
        sessions.len()
    ));
    // The shared session is one more.
    if len(&values) == VALUES && len(&sessions) == SESSIONS + 1 {
        return Ok(());
    }
    Err(Stop::Failed(format!(
        "stored were {VALUES} values and {} sessions",
        SESSIONS + 1
    )))
}

fn len(set: &BTreeSet<String>) -> u64 {
    u64::try_from(set.len()).unwrap_or(u64::MAX)
}
