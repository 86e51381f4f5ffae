//! cargo xtask bench: what the extension costs beside the other clients and beside no client at all.
//!
//! ```text
//!   one CPU:  bare loop ─┐
//!             memring ───┼─► the same nodes, the same keys, the same values
//!             rivals  ───┘
//! ```
//!
//! A figure is a share of the bare loop: its time divided by the client's, for the same work, so that 1.00 is as fast
//! as the sockets allow. Each round has servers and clients of its own; in it bare loop and clients take turns in
//! short slices, and the best slice of each counts, so that other work on the machine disturbs all of them or none.
//! This is a measurement and no test: it fails when something gives wrong results, never because something was slow.

mod apart;
mod bare;
mod contender;
mod report;
mod shape;

use crate::php::Php;
use crate::run::{self, Running, Scratch};
use crate::servers::Memcached;
use crate::{Stop, bootstrap, failed, matrix};
use bare::Bare;
use contender::{Contender, OURS_EMBEDDED, OURS_ON_REDIS, Worker};
use report::{Facts, Report, Row};
use shape::{redis_shape, shape};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// What --help prints.
pub(crate) const HELP: &str = "\
cargo xtask bench [--rounds N] [--quick] [--pecl SO] [--so FILE] [--instructions] [--no-record] [--debian-13]

Measures the release extension beside php-memcached and phpredis (where installed) and beside a bare write+read loop
that says the same words to the same nodes, all on one CPU. Starts its own servers on free loopback ports and leaves
nothing running. Prints one table and keeps it under tests/bench/record/.

  --rounds N      rounds, at least 1 (default 7)
  --quick         two rounds of short slices, no record: to see that everything works
  --pecl SO       also measure this build of pecl-memcache
  --so FILE       an extension built before, instead of building the release one
  --instructions  count instructions per operation, too, with valgrind (some minutes)
  --no-record     print only
  --debian-13     the same in Debian 13, made once under target/matrix by debootstrap: its PHP, its servers, and
                  php-memcached and phpredis as they come with it; needs root, and no --pecl or --so";

const PLACE: &str = "127.0.0.1";
/// Nodes of the row with several.
const NODES: usize = 4;
/// Turns each contender has in a round. Many short ones: on a busy machine some then pass undisturbed.
const SLICES: u32 = 30;

/// Bars that ours is held to on Redis nodes, shares of the bare loop there.
const REDIS_BARS: [(&str, f64); 3] = [("get", 0.92), ("multi-1", 0.80), ("multi-4", 0.80)];

/// Bar of a get from a database of this host: so many times as fast as a bare loop on a server beside it.
const EMBEDDED_BAR: f64 = 10.0;

/// Rows: name, passes in one slice, and the bar that memring is held to, a share of the bare loop.
const ROWS: [(&str, u32, Option<f64>); 13] = [
    ("get", 150, Some(0.92)),
    ("set", 150, Some(0.92)),
    ("miss", 150, None),
    ("get-10k", 120, None),
    ("set-10k", 120, None),
    ("multi-1", 40, Some(0.78)),
    ("multi-4", 25, Some(0.80)),
    ("increment", 150, None),
    ("session", 25, None),
    ("session-kept", 50, None),
    ("session-copied", 40, None),
    ("set-copied", 100, Some(0.90)),
    ("get-copied", 150, None),
];

struct Options {
    rounds: u32,
    quick: bool,
    pecl: Option<PathBuf>,
    so: Option<PathBuf>,
    instructions: bool,
    record: bool,
    debian_13: bool,
}

impl Options {
    fn slices(&self) -> u32 {
        if self.quick { SLICES / 5 } else { SLICES }
    }
}

/// The subcommand.
///
/// # Errors
/// When something is missing or gives wrong results; never for being slow.
pub(crate) fn main(mut parser: lexopt::Parser) -> Result<(), Stop> {
    use lexopt::prelude::*;
    let mut options = Options {
        rounds: 7,
        quick: false,
        pecl: None,
        so: None,
        instructions: false,
        record: true,
        debian_13: false,
    };
    while let Some(word) = parser.next()? {
        match word {
            Long("rounds") => options.rounds = parser.value()?.parse::<u32>()?.max(1),
            Long("quick") => options.quick = true,
            Long("pecl") => options.pecl = Some(found(PathBuf::from(parser.value()?))?),
            Long("so") => options.so = Some(found(PathBuf::from(parser.value()?))?),
            Long("instructions") => options.instructions = true,
            Long("no-record") => options.record = false,
            Long("debian-13") => options.debian_13 = true,
            _ => return Err(word.unexpected().into()),
        }
    }
    if options.quick {
        options.rounds = options.rounds.min(2);
        options.record = false;
    }
    if options.debian_13 {
        return in_debian_13(&options);
    }
    let php = Php::find(None)?;
    let so = match options.so.take() {
        Some(so) => so,
        None => php.build()?,
    };
    let report = measure(&php, &so, &options)?;
    let text = report.text();
    run::say(&format!("\n{text}"));
    if options.record {
        let folder = run::root().join("tests/bench/record");
        run::make_dir(&folder)?;
        let file = free_name(&folder, &report.facts.date);
        run::write(&file, text)?;
        run::say(&format!("kept in {}", file.display()));
    }
    Ok(())
}

/// The same command in Debian 13, with all options that are as good there as here.
fn in_debian_13(options: &Options) -> Result<(), Stop> {
    if options.pecl.is_some() || options.so.is_some() {
        return Err(Stop::Usage(
            "--debian-13 takes no --pecl and no --so: what was built for this PHP does not fit the one there"
                .to_owned(),
        ));
    }
    let mut words = vec!["--rounds".to_owned(), options.rounds.to_string()];
    let flags = [
        ("--quick", options.quick),
        ("--instructions", options.instructions),
        ("--no-record", !options.record),
    ];
    let asked = flags.into_iter().filter(|(_, is_asked)| *is_asked);
    words.extend(asked.map(|(flag, _)| flag.to_owned()));
    matrix::bench(&words)
}

fn found(path: PathBuf) -> Result<PathBuf, Stop> {
    path.canonicalize()
        .map_err(|why| failed(path.display(), why))
}

/// "2025-01-31.md", or with a number behind the date when that is taken.
fn free_name(folder: &Path, date: &str) -> PathBuf {
    let first = folder.join(format!("{date}.md"));
    let later = (2..).map(|number| folder.join(format!("{date}-{number}.md")));
    std::iter::once(first)
        .chain(later)
        .find(|file| !file.exists())
        .unwrap_or_else(|| folder.join("record.md"))
}

/// Keeps this process and all it starts on one CPU, the last it may use.
fn pin() -> Result<(), Stop> {
    let last = cpus()?.last().copied();
    stay_on(last.ok_or_else(|| Stop::Failed("no CPU may be used".to_owned()))?)
}

/// The CPUs this process may use.
fn cpus() -> Result<Vec<usize>, Stop> {
    use rustix::thread::{CpuSet, sched_getaffinity};
    let allowed = sched_getaffinity(None).map_err(|why| failed("which CPUs may be used", why))?;
    Ok((0..CpuSet::MAX_CPU)
        .filter(|cpu| allowed.is_set(*cpu))
        .collect())
}

/// Keeps this process, and what it starts from now on, on one CPU.
fn stay_on(cpu: usize) -> Result<(), Stop> {
    use rustix::thread::{CpuSet, sched_setaffinity};
    let mut one = CpuSet::new();
    one.set(cpu);
    sched_setaffinity(None, &one).map_err(|why| failed("staying on one CPU", why))
}

/// Servers and clients of one round.
struct Field {
    ports: Vec<u16>,
    contenders: Vec<Contender>,
    workers: Vec<Worker>,
    bare: Bare,
    bare_redis: Option<Bare>,
    /// Which key lies where, as our own client says: on memcached nodes, and on Redis ones.
    places: [String; 2],
    redis_ports: Vec<u16>,
    _nodes: Vec<Memcached>,
    _redis: Vec<Redis>,
}

impl Field {
    fn start(
        php: &Php,
        so: &Path,
        options: &Options,
        scratch: &Path,
        file: &Path,
    ) -> Result<Field, Stop> {
        let nodes = (0..NODES)
            .map(|_| Memcached::start())
            .collect::<Result<Vec<_>, _>>()?;
        let ports: Vec<u16> = nodes.iter().map(|node| node.port).collect();
        let mut redis = Vec::new();
        while redis.len() < NODES
            && let Some(node) = Redis::start()?
        {
            redis.push(node);
        }
        let redis_ports: Vec<u16> = redis.iter().map(|node| node.port).collect();
        let contenders = contenders(php, so, options, &ports, &redis_ports);
        let mut workers = Vec::new();
        for contender in &contenders {
            let mut worker = contender.start(php, scratch, file)?;
            worker.ask("fill", 1)?;
            workers.push(worker);
        }
        let mut places_of = |name| {
            let mut workers = workers.iter_mut();
            let ours = workers.find(|worker| worker.name == name);
            ours.map_or_else(|| Ok(String::new()), |ours| ours.ask("places", 1))
        };
        let places = [places_of("memring")?, places_of(OURS_ON_REDIS)?];
        let bare = Bare::connect(&ports)?;
        let bare_redis = (!redis_ports.is_empty())
            .then(|| Bare::connect(&redis_ports))
            .transpose()?;
        Ok(Field {
            ports,
            contenders,
            workers,
            bare,
            bare_redis,
            places,
            redis_ports,
            _nodes: nodes,
            _redis: redis,
        })
    }

    /// Measures one row: slices in turns, the best of each counts.
    fn measure(&mut self, row: &mut Row, name: &str, count: u32, slices: u32) -> Result<(), Stop> {
        let [places, redis_places] = &self.places;
        let shape = shape(name, &self.ports, places);
        let redis_shape = redis_shape(name, &self.redis_ports, redis_places);
        let fresh = name == "session";
        let mut best = vec![Duration::MAX; self.workers.len()];
        let (mut best_bare, mut best_redis) = (Duration::MAX, Duration::MAX);
        for _ in 0..slices {
            best_bare = best_bare.min(self.bare.run(&shape, fresh, count)?);
            for (worker, best) in self.workers.iter_mut().zip(&mut best) {
                if !contender::takes_part(worker.name, name) {
                    continue;
                }
                if contender::is_on_redis(worker.name) {
                    let bare = self.bare_redis.as_mut();
                    let Some(bare) = bare.filter(|_| !redis_shape.is_empty()) else {
                        continue;
                    };
                    best_redis = best_redis.min(bare.run(&redis_shape, fresh, count)?);
                }
                *best = (*best).min(worker.time(name, count)?);
            }
        }
        for (index, (worker, best)) in self.workers.iter().zip(best).enumerate() {
            let yardstick = match contender::is_on_redis(worker.name) {
                true => best_redis,
                false => best_bare,
            };
            if best < Duration::MAX {
                row.add(index, yardstick / count, best / count);
            }
        }
        Ok(())
    }
}

fn measure(php: &Php, so: &Path, options: &Options) -> Result<Report, Stop> {
    let scratch = Scratch::new("bench")?;
    let file = scratch.path().join("loop.php");
    run::write(&file, include_str!("../../tests/bench/loop.php"))?;
    let all = cpus()?;
    pin()?;
    let start = || Field::start(php, so, options, scratch.path(), &file);
    let mut field = start()?;
    run::headline("clients");
    for worker in &field.workers {
        run::say(&format!("   {}: {}", worker.name, worker.hello));
    }
    let mut rows: Vec<Row> = ROWS
        .iter()
        .map(|(name, _, bar)| {
            let mut redis = REDIS_BARS.iter();
            let redis_bar = redis.find(|(row, _)| row == name).map(|(_, bar)| *bar);
            let embedded_bar = (*name == "get").then_some(EMBEDDED_BAR);
            Row::new(name, [*bar, redis_bar, embedded_bar], field.workers.len())
        })
        .collect();
    let slices = options.slices();
    for round in 1..=options.rounds {
        run::headline(&format!("round {round} of {}", options.rounds));
        let _beat = run::Heartbeat::start("measuring");
        if round > 1 {
            // Where a process lies in memory makes a few hundredths: each round has its own.
            field = start()?;
        }
        for (row, (name, count, _)) in rows.iter_mut().zip(ROWS) {
            field.measure(row, name, count, slices)?;
        }
    }
    let facts = facts(&field.workers, options)?;
    field.workers.clear();
    let apart = apart::measure(php, so, &all, options.rounds, scratch.path(), &file)?;
    let contenders = &field.contenders;
    let mut report = Report {
        names: contenders.iter().map(|c| c.name).collect(),
        memory: memory(php, contenders, scratch.path(), &file)?,
        facts,
        rows,
        apart,
    };
    count(php, contenders, scratch.path(), &file, options, &mut report);
    Ok(report)
}

/// Counts what noise does not change: system calls and, when asked for, instructions.
fn count(
    php: &Php,
    contenders: &[Contender],
    scratch: &Path,
    file: &Path,
    options: &Options,
    report: &mut Report,
) {
    run::headline("system calls");
    let _beat = run::Heartbeat::start("counting");
    for row in &mut report.rows {
        row.calls = contenders
            .iter()
            .map(|one| one.system_calls(php, scratch, file, row.name))
            .collect();
        if options.instructions {
            row.instructions = contenders
                .iter()
                .map(|one| one.instructions(php, scratch, file, row.name))
                .collect();
        }
    }
}

/// Bytes per object and per connection of each contender, each in a PHP that has done nothing else.
fn memory(
    php: &Php,
    contenders: &[Contender],
    scratch: &Path,
    file: &Path,
) -> Result<Vec<[String; 2]>, Stop> {
    run::headline("memory");
    let ask = |one: &Contender, what: &str| one.start(php, scratch, file)?.ask(what, 500);
    contenders
        .iter()
        .map(|one| Ok([ask(one, "object")?, ask(one, "connection")?]))
        .collect()
}

fn contenders(
    php: &Php,
    so: &Path,
    options: &Options,
    ports: &[u16],
    redis: &[u16],
) -> Vec<Contender> {
    let mut all = vec![Contender::new(
        "memring",
        vec![so.to_owned()],
        ports.to_vec(),
    )];
    // What Debian's builds of these need loaded before them.
    let rival = |name: &str, needs: &[&str]| -> Option<Vec<PathBuf>> {
        let file = |name: &str| php.extensions.join(format!("{name}.so"));
        let files: Vec<PathBuf> = needs
            .iter()
            .map(|need| file(need))
            .filter(|need| need.is_file())
            .chain([file(name)])
            .collect();
        file(name).is_file().then_some(files)
    };
    match rival("memcached", &["igbinary", "msgpack"]) {
        Some(files) => all.push(Contender::new("php-memcached", files, ports.to_vec())),
        None => run::say("   php-memcached is not installed (package php-memcached): left out"),
    }
    if let Some(pecl) = &options.pecl {
        all.push(Contender::new(
            "pecl-memcache",
            vec![pecl.clone()],
            ports.to_vec(),
        ));
    }
    let so = vec![so.to_owned()];
    all.push(Contender::new(OURS_EMBEDDED, so.clone(), Vec::new()));
    if !redis.is_empty() {
        all.push(Contender::new(OURS_ON_REDIS, so, redis.to_vec()));
    }
    match (rival("redis", &["igbinary"]), redis) {
        (Some(files), [first, ..]) => all.push(Contender::new("phpredis", files, vec![*first])),
        _ => run::say("   phpredis or redis-server is not installed: left out"),
    }
    all
}

fn facts(workers: &[Worker], options: &Options) -> Result<Facts, Stop> {
    let line = |program: &str, words: &[&str]| {
        let text = run::quiet(
            program,
            Command::new(program).current_dir(run::root()).args(words),
        )
        .unwrap_or_default();
        text.lines().next().unwrap_or_default().trim().to_owned()
    };
    let hello = |worker: &Worker, at: usize| {
        worker
            .hello
            .split(' ')
            .nth(at)
            .unwrap_or_default()
            .to_owned()
    };
    let first = workers.first().ok_or_else(|| bootstrap::not_found("PHP"))?;
    let mut versions = vec![format!("PHP {}", hello(first, 0))];
    versions.extend(
        workers
            .iter()
            .map(|one| format!("{} {}", one.name, hello(one, 1))),
    );
    versions.push(line("memcached", &["-V"]));
    if run::program("redis-server").is_some() {
        let text = line("redis-server", &["--version"]);
        versions.push(text.split(" sha=").next().unwrap_or_default().to_owned());
    }
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let model = read("/proc/cpuinfo");
    let cpus = model
        .lines()
        .filter(|line| line.starts_with("processor"))
        .count();
    let model = model
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown CPU", |name| {
        name.trim_start_matches([' ', '\t', ':'])
    });
    Ok(Facts {
        date: hello(first, 2),
        revision: line("git", &["rev-parse", "--short", "HEAD"]),
        versions: versions.join(" · "),
        machine: format!(
            "{model} · Linux {} · load {} · client and servers on one CPU of {cpus}",
            read("/proc/sys/kernel/osrelease").trim(),
            read("/proc/loadavg").split(' ').next().unwrap_or_default(),
        ),
        method: format!(
            "median [min, max] of {} rounds; in each the best of {} short slices, bare loop and clients in turns",
            options.rounds,
            options.slices()
        ),
    })
}

/// A redis-server for the columns of phpredis and of ours on Redis nodes.
struct Redis {
    port: u16,
    running: Running,
}

impl Redis {
    /// One on a free port, in memory only; `None` where it is not installed.
    fn start() -> Result<Option<Redis>, Stop> {
        let Some(program) = run::program("redis-server") else {
            return Ok(None);
        };
        let port = TcpListener::bind((PLACE, 0))
            .and_then(|listener| listener.local_addr())
            .map_err(|why| failed("no free port", why))?
            .port();
        let mut command = Command::new(program);
        command.args([
            "--bind",
            PLACE,
            "--port",
            &port.to_string(),
            "--save",
            "",
            "--appendonly",
            "no",
        ]);
        let running = Running::start_in_group(command.stdin(Stdio::null()).stdout(Stdio::null()))?;
        let mut redis = Redis { port, running };
        let begin = Instant::now();
        while TcpStream::connect((PLACE, port)).is_err() {
            if redis.running.ended() || begin.elapsed() > Duration::from_secs(20) {
                return Err(Stop::Failed("redis-server does not start".to_owned()));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(Some(redis))
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.running.kill();
    }
}
