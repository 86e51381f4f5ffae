//! `resync-speed [KEYS [BYTES]]`: how long a node that came back empty needs to get KEYS sessions of BYTES bytes, and
//! what visitors notice of it.
//!
//! Three memcached of the harness, three copies. First visitors alone, then a node is killed, comes back empty, and
//! gets a pass while the visitors go on. One line for each. It is a meter, not a gate: it fails only when something
//! is wrong. With `MEMRING_MEMCACHED_NEW` the nodes are of that version.

use harness::Memcached;
use memring_pool::call::{Call, Verb};
use memring_pool::config::{Mode, NodeSpec, Placement, Policy};
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::replica::{Founded, Resynced, Trust};
use memring_pool::session::Store;
use memring_pool::session::fenced::{Fenced, Terms};
use memring_pool::wire::fenced::{Flags, Header};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const NODES: usize = 3;
const RECORD: &[u8] = b"~r";
const LIFE: u32 = 86_400;
/// How long the visitors are watched without a pass.
const CALM: Duration = Duration::from_secs(5);
/// Stores that are under way at the same time while the nodes are filled.
const WINDOW: usize = 1_000;

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let mut number = |otherwise: usize| match words.next() {
        None => Some(otherwise),
        Some(word) => word.parse().ok(),
    };
    let (Some(keys), Some(bytes)) = (number(100_000), number(500)) else {
        eprintln!("usage: resync-speed [KEYS [BYTES]]");
        return ExitCode::from(2);
    };
    match measure(keys, bytes) {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("{sentence}");
            ExitCode::FAILURE
        }
    }
}

fn measure(keys: usize, bytes: usize) -> Result<(), String> {
    // Room for twice the values: memcached keeps them in slabs of sizes that do not quite fit.
    let room = (keys * (bytes + 200) * 2 / 1_000_000 + 64).to_string();
    let arguments = ["-m", &room];
    let mut nodes: Vec<Memcached> = (0..NODES)
        .map(|_| Memcached::newer(&arguments).unwrap_or_else(|| Memcached::with(&arguments)))
        .collect();
    let mut pool = pool(&nodes);
    let mut call = Call::new();
    call.reset(Verb::Get);
    let founded = pool.found(RECORD, 1, &mut call);
    if founded != Founded::New {
        return Err(format!("the pool could not be founded: {founded:?}"));
    }
    let survey = pool.records(RECORD, &mut call);
    let begin = Instant::now();
    for (place, node) in nodes.iter().enumerate() {
        let record = survey.record(place).filter(|r| r.trust == Trust::Trusted);
        let inc = record.ok_or("a new node is not trusted")?.inc;
        fill(node, inc, keys, bytes).map_err(|why| format!("filling a node: {why}"))?;
    }
    println!(
        "filled: {NODES} nodes with {keys} items of {bytes} bytes in {:.1} s",
        begin.elapsed().as_secs_f64()
    );
    let end = AtomicBool::new(false);
    let before = std::thread::scope(|scope| {
        let visitors = scope.spawn(|| visit(&nodes, keys, &end));
        std::thread::sleep(CALM);
        end.store(true, Ordering::Relaxed);
        visitors
            .join()
            .map_err(|_| "the visitors' thread ended".to_owned())?
    })?;
    println!("visitors alone:     {}", before.line());
    let last = nodes.last_mut().ok_or("no nodes")?;
    last.kill();
    last.restart();
    end.store(false, Ordering::Relaxed);
    let (during, took, passes) = std::thread::scope(|scope| {
        let visitors = scope.spawn(|| visit(&nodes, keys, &end));
        let begin = Instant::now();
        let mut passes = 1;
        let mut result = Err("the node is not trusted after 20 passes".to_owned());
        while passes < 20 {
            match pool.resync(NODES - 1, RECORD, 2 + passes, &mut call).end {
                Resynced::Trusted | Resynced::Nothing => {
                    result = Ok(begin.elapsed());
                    break;
                }
                Resynced::Stopped { place } => {
                    result = Err(format!(
                        "node {place} does not answer as it should: {:?}",
                        call.events()
                    ));
                    break;
                }
                Resynced::Again | Resynced::Copy => passes += 1,
            }
        }
        end.store(true, Ordering::Relaxed);
        let during = visitors
            .join()
            .map_err(|_| "the visitors' thread ended".to_owned())??;
        Ok::<_, String>((during, result?, passes))
    })?;
    println!("visitors in a pass: {}", during.line());
    let there = nodes.last().map_or(0, |node| node.stat("curr_items"));
    println!(
        "resync: {there} items in {:.1} s, {:.0} a second, {passes} passes",
        took.as_secs_f64(),
        there as f64 / took.as_secs_f64()
    );
    if there < keys as u64 {
        return Err(format!(
            "{} of {keys} items are missing",
            keys as u64 - there
        ));
    }
    Ok(())
}

fn pool(nodes: &[Memcached]) -> Pool {
    let mut directory = Directory::new();
    let mut pool = Pool::new(Policy {
        placement: Placement::Rendezvous,
        mode: Mode::Fenced,
        ..Policy::default()
    });
    for node in nodes {
        let mut spec = NodeSpec::tcp("127.0.0.1", node.port());
        spec.retry_interval = 0;
        pool.add(spec, &mut directory);
    }
    pool
}

fn name(number: usize) -> String {
    format!("session{number:020}")
}

/// Stores the sessions as a close would have.
fn fill(node: &Memcached, inc: u16, keys: usize, bytes: usize) -> Result<(), std::io::Error> {
    let mut stream = TcpStream::connect(node.address())?;
    let flags = Flags {
        inc,
        ..Flags::default()
    };
    let version = node.raw("version\r\n", "\r\n");
    let newer = !String::from_utf8_lossy(&version).contains("1.6.1");
    for first in (0..keys).step_by(WINDOW) {
        let mut out = Vec::new();
        for number in first..keys.min(first + WINDOW) {
            let version = (1 << 40) + number as u64;
            let mut value = Vec::new();
            let mut words = format!("F{} T{LIFE} q", flags.word());
            if newer {
                words.push_str(&format!(" E{version}"));
            } else {
                let header = Header {
                    version,
                    inc,
                    tombstone: false,
                };
                header.append(&mut value);
            }
            value.resize(value.len() + bytes, b'x');
            out.extend_from_slice(
                format!("ms {} {} {words}\r\n", name(number), value.len()).as_bytes(),
            );
            out.extend_from_slice(&value);
            out.extend_from_slice(b"\r\n");
        }
        out.extend_from_slice(b"mn\r\n");
        stream.write_all(&out)?;
        let mut end = [0; 4];
        stream.read_exact(&mut end)?;
        if &end != b"MN\r\n" {
            return Err(std::io::Error::other("a store was refused"));
        }
    }
    Ok(())
}

/// What visitors noticed.
struct Noticed {
    times: Vec<Duration>,
    refused: usize,
}

impl Noticed {
    fn line(&self) -> String {
        let at = |share: f64| {
            let place = (self.times.len() as f64 * share) as usize;
            self.times
                .get(place)
                .map_or(0.0, |time| time.as_secs_f64() * 1e6)
        };
        format!(
            "{} sessions opened and closed, {} refused; median {:.0} µs, p99 {:.0} µs, longest {:.0} µs",
            self.times.len(),
            self.refused,
            at(0.5),
            at(0.99),
            at(0.999_999)
        )
    }
}

/// One visitor after the other, until the end: a session is opened, changed and closed.
fn visit(nodes: &[Memcached], keys: usize, end: &AtomicBool) -> Result<Noticed, String> {
    let terms = Terms {
        wait: Duration::from_secs(5),
        lease: Duration::from_secs(30),
        life: LIFE,
    };
    let mut sessions = Fenced::new(pool(nodes), b"", terms);
    let mut noticed = Noticed {
        times: Vec::new(),
        refused: 0,
    };
    let value = vec![b'y'; 500];
    let mut number = 0;
    while !end.load(Ordering::Relaxed) {
        // A stride without a common factor: another session each time.
        number = (number + 7_919) % keys;
        let id = name(number);
        let begin = Instant::now();
        let done = sessions
            .read(id.as_bytes(), true)
            .and_then(|_| sessions.write(id.as_bytes(), &value, LIFE));
        noticed.times.push(begin.elapsed());
        noticed.refused += usize::from(done.is_err());
    }
    noticed.times.sort();
    Ok(noticed)
}
