//! Who uses a cache: workers with requests, and a tend for each host.
//!
//! Each is a process that makes a pool of the real code and calls it as the extension does: a
//! request is a few calls, then what follows the answer, then a pause. What was asked and what
//! came of it goes to `values`.

use std::sync::Arc;
use std::time::Duration;

use memring_pool::call::{Call, Outcome, Verb};
use memring_pool::config::{Care, Mode, NodeSpec, Placement, Policy};
use memring_pool::item::KeyRule;
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::later;
use memring_pool::pool::rules::Rules;
use memring_pool::probe;
use memring_pool::wire::Store;

use super::faults::Plan;
use super::processes::{Part, Program, Seat, Setup, play};
use super::values::{Act, End, Seen, Values};
use super::world::Phase;

/// Keys with values; those behind them are counters.
const KEYS: usize = 5;
/// Counters.
const COUNTERS: usize = 2;

/// What a worker of a script does.
#[derive(Clone, Copy, Debug)]
pub(super) enum Do {
    Set(usize),
    /// Twice in one request.
    Sets(usize),
    Get(usize),
    Add(usize),
    Delete(usize),
    Count(usize),
    Flush,
}

/// A worker of a script: its host, and what it does when, milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) host: usize,
    pub(super) acts: Vec<(u64, Do)>,
}

/// A pool of a cache, and who uses it.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    pub(super) mode: Mode,
    /// Per node: does it take versions?
    pub(super) nodes: Vec<bool>,
    pub(super) hosts: usize,
    /// Workers of each host.
    pub(super) workers: usize,
    pub(super) rules: Rules,
    pub(super) plan: Plan,
    /// Milliseconds.
    pub(super) duration: u64,
    /// What the clocks of all hosts but the first are off by, milliseconds.
    pub(super) clock: i64,
    /// Somebody flushes now and then.
    pub(super) flushes: bool,
    /// Node views of hosts differ while a node is cut off.
    pub(super) apart: bool,
    /// Closing takes nothing back from the network, as if `Socket::abort` did nothing.
    pub(super) deaf: bool,
    /// A second fault excuses nothing.
    pub(super) strict: bool,
    /// Who plays, where chance does not say it.
    pub(super) cast: Vec<Role>,
}

impl Cache {
    /// Workers by chance.
    pub(super) fn new(mode: Mode, nodes: &[bool], hosts: usize, plan: Plan) -> Cache {
        Cache {
            mode,
            nodes: nodes.to_vec(),
            hosts,
            workers: if hosts == 1 { 3 } else { 2 },
            rules: Rules::ALL,
            plan,
            duration: 12_000,
            clock: 0,
            flushes: true,
            apart: false,
            deaf: false,
            strict: false,
            cast: Vec::new(),
        }
    }

    fn pool(&self, care: Care) -> (Pool, Directory) {
        let policy = Policy {
            placement: Placement::Rendezvous,
            mode: self.mode,
            name: "cache".into(),
            hold: Duration::from_millis(1),
            ..Policy::default()
        };
        let (mut pool, mut directory) = (Pool::new(policy), Directory::new());
        pool.set_rules(self.rules);
        for node in 0..self.nodes.len() {
            // The port is the node's number and 1.
            let mut spec = NodeSpec::tcp("10.0.0.1", node as u16 + 1);
            if care == Care::Prober {
                spec.retry_interval = 0;
                spec.care = Care::Prober;
            }
            pool.add(spec, &mut directory);
        }
        (pool, directory)
    }
}

/// The key of a number.
fn name(key: usize) -> String {
    format!("key{key}")
}

/// Plays one seed of a cache.
pub(super) fn visit(cache: &Cache, seed: u64, trace: bool) -> Values {
    let (mut pool, _directory) = cache.pool(Care::Probed);
    let homes = (0..KEYS + COUNTERS).map(|key| pool.preferred(name(key).as_bytes(), 2));
    let mut values = Values::new(homes.collect(), cache.hosts > 1);
    values.strict = cache.strict;
    let mut parts = Vec::new();
    let part = |host, program: Program| Part { host, program };
    let shared = Arc::new(cache.clone());
    for role in &cache.cast {
        let (shared, role) = (Arc::clone(&shared), role.clone());
        let host = role.host;
        let acts = move |seat: &Seat| Worker::new(&shared, seat).follows(&role.acts);
        parts.push(part(host, Arc::new(acts)));
    }
    for host in 0..cache.hosts {
        for _ in 0..if cache.cast.is_empty() {
            cache.workers
        } else {
            0
        } {
            let shared = Arc::clone(&shared);
            let works = move |seat: &Seat| Worker::new(&shared, seat).works();
            parts.push(part(host, Arc::new(works)));
        }
        let shared = Arc::clone(&shared);
        parts.push(part(host, Arc::new(move |seat: &Seat| tend(&shared, seat))));
    }
    let clocks = (0..cache.hosts).map(|host| match host {
        0 => 0,
        _ => cache.clock,
    });
    let setup = Setup {
        nodes: cache.nodes.clone(),
        parts,
        clocks: clocks.collect(),
        duration: cache.duration * 1000,
        plan: cache.plan.clone(),
        apart: cache.apart,
        deaf: cache.deaf,
        sessions: None,
    };
    play(setup, values, seed, trace)
}

/// memring tend, as `companion::cache` has it.
fn tend(cache: &Cache, seat: &Seat) {
    let (mut pool, _directory) = cache.pool(Care::Prober);
    let mut call = Call::new();
    let first = seat.with(|hall| hall.random.between(0, 1_000_000));
    seat.think(first);
    while seat.with(|hall| hall.phase) != Phase::Finale {
        let begin = seat.with(|hall| hall.time);
        pool.look_after(&mut call);
        let took = seat.with(|hall| hall.time) - begin;
        seat.think(1_000_000u64.saturating_sub(took));
    }
}

/// A worker process.
struct Worker<'a> {
    cache: &'a Cache,
    seat: &'a Seat,
    pool: Pool,
    _directory: Directory,
    call: Call,
    /// What it read last: which key, the token, and what it was.
    token: Option<(usize, u64, Seen)>,
}

impl<'a> Worker<'a> {
    fn new(cache: &'a Cache, seat: &'a Seat) -> Worker<'a> {
        let (pool, directory) = cache.pool(Care::Probed);
        Worker {
            cache,
            seat,
            pool,
            _directory: directory,
            call: Call::new(),
            token: None,
        }
    }

    /// Requests until the end, and last reads.
    fn works(mut self) {
        loop {
            let (wait, calls, phase) = self.seat.with(|hall| {
                let wait = hall.random.between(2, 160);
                (wait * 1000, hall.random.between(1, 3), hall.phase)
            });
            match phase {
                Phase::Work => {
                    self.seat.think(wait);
                    for _ in 0..calls {
                        self.acts();
                    }
                    self.ends_request();
                }
                Phase::Settle => self.seat.think(200_000),
                Phase::Finale => break,
            }
        }
        for key in 0..KEYS + COUNTERS {
            self.get(key);
        }
        later::end();
    }

    /// What a script says.
    fn follows(mut self, acts: &[(u64, Do)]) {
        // Who was killed does nothing twice.
        let begin = self.seat.with(|hall| hall.time) / 1000;
        for (at, act) in acts.iter().filter(|(at, _)| *at >= begin) {
            let wait = self.seat.with(|hall| {
                let at = at * 1000 + hall.random.between(0, 999);
                at.saturating_sub(hall.time)
            });
            self.seat.think(wait);
            match *act {
                Do::Set(key) => self.store(key, Act::Set, 0),
                Do::Sets(key) => {
                    self.store(key, Act::Set, 0);
                    self.store(key, Act::Set, 0);
                }
                Do::Get(key) => self.get(key),
                Do::Add(key) => self.store(key, Act::Add, 0),
                Do::Delete(key) => self.delete(key),
                Do::Count(key) => self.count(KEYS + key),
                Do::Flush => self.flush(),
            }
            self.ends_request();
        }
        later::end();
    }

    /// As the extension does after the response.
    fn ends_request(&mut self) {
        later::after_request();
        probe::carry_on(Duration::from_millis(5));
    }

    fn acts(&mut self) {
        let (luck, key, counter) = self.seat.with(|hall| {
            let random = &mut hall.random;
            (
                random.below(100),
                random.below(KEYS),
                random.below(COUNTERS),
            )
        });
        match luck {
            0..20 => self.store(key, Act::Set, 0),
            20..28 => self.store(key, Act::Add, 0),
            28..40 => {
                self.get(key);
                self.cas();
            }
            40..48 => self.delete(key),
            48..58 => self.count(KEYS + counter),
            58..64 => self.get(KEYS + counter),
            64 if self.cache.flushes && key == 0 => self.flush(),
            _ => self.get(key),
        }
    }

    fn run(&mut self, verb: Verb, key: usize, fill: impl FnOnce(&mut Call)) -> Outcome {
        self.call.reset(verb);
        let name = name(key);
        self.call
            .push(&KeyRule::default(), name.as_bytes())
            .expect("a key");
        fill(&mut self.call);
        self.pool.run(&mut self.call);
        self.call.outcome(0)
    }

    fn store(&mut self, key: usize, act: Act, cas: u64) {
        let write = self.seat.with(|hall| {
            let number = hall.values.begin(hall.time / 1000, key, act);
            hall.note(|| format!("process {} key{key} {act:?} {number}", self.seat.own));
            number
        });
        let verb = match act {
            Act::Add => Store::Add,
            Act::Cas(_) => Store::Cas,
            _ => Store::Set,
        };
        let outcome = self.run(Verb::Store(verb), key, |call| {
            let start = call.value_mut().len();
            call.value_mut()
                .extend_from_slice(format!("c{write}").as_bytes());
            call.finish_value(start);
            if let Some(entry) = call.entry_mut(0) {
                entry.cas = cas;
            }
        });
        self.ends(write, outcome);
    }

    fn ends(&mut self, write: usize, outcome: Outcome) {
        let end = match outcome {
            Outcome::Done => End::Acked,
            Outcome::NotStored => End::Taken,
            Outcome::Exists => End::Beaten,
            Outcome::NotFound => End::Bare,
            _ => End::Unsure,
        };
        self.seat.with(|hall| {
            hall.note(|| format!("process {} {write}: {end:?}", self.seat.own));
            let time = hall.time / 1000;
            hall.values.end(time, write, end);
        });
    }

    fn delete(&mut self, key: usize) {
        let write = self.seat.with(|hall| {
            let number = hall.values.begin(hall.time / 1000, key, Act::Delete);
            hall.note(|| format!("process {} key{key} delete {number}", self.seat.own));
            number
        });
        let outcome = self.run(Verb::Delete, key, |_| ());
        self.ends(write, outcome);
    }

    fn cas(&mut self) {
        if let Some((key, token, seen)) = self.token.take() {
            self.store(key, Act::Cas(seen), token);
        }
    }

    fn get(&mut self, key: usize) {
        let begin = self.seat.with(|hall| hall.values.begin_read());
        let outcome = self.run(Verb::Gets, key, |_| ());
        let found = match outcome {
            Outcome::Hit { value, cas, .. } => {
                let bytes = self.call.value(value);
                Some((String::from_utf8_lossy(bytes).into_owned(), cas))
            }
            _ => None,
        };
        let own = self.seat.own;
        let seen = self.seat.with(|hall| {
            let time = hall.time / 1000;
            hall.note(|| format!("process {own} key{key} is {outcome:?} {found:?}"));
            let values = &mut hall.values;
            match (&outcome, &found) {
                (Outcome::Hit { .. }, Some((text, _))) if key >= KEYS => {
                    let number = text.trim_end().parse().unwrap_or(u64::MAX);
                    values.counted(time, key, begin, number, false);
                    None
                }
                (Outcome::Hit { .. }, Some((text, _))) => {
                    let write = text
                        .strip_prefix('c')
                        .and_then(|number| number.parse().ok());
                    let value = write.ok_or_else(|| text.clone());
                    values.end_read(time, key, begin, Some(value))
                }
                (Outcome::NotFound, _) if key >= KEYS => {
                    values.not_counted(time, key, begin);
                    None
                }
                (Outcome::NotFound, _) => values.end_read(time, key, begin, None),
                _ => {
                    values.no_answer();
                    None
                }
            }
        });
        self.token = seen.zip(found).map(|(seen, (_, cas))| (key, cas, seen));
    }

    fn count(&mut self, key: usize) {
        let (begin, write) = self.seat.with(|hall| {
            let write = hall.values.begin(hall.time / 1000, key, Act::Increment);
            (hall.values.begin_read(), write)
        });
        let outcome = self.run(Verb::Increment, key, |call| {
            if let Some(entry) = call.entry_mut(0) {
                (entry.delta, entry.initial) = (1, Some(1));
            }
        });
        let own = self.seat.own;
        self.seat.with(|hall| {
            let time = hall.time / 1000;
            hall.note(|| format!("process {own} key{key} counts {outcome:?} ({write})"));
            if let Outcome::Number(number) = outcome {
                hall.values.counted(time, key, begin, number, true);
            }
        });
    }

    fn flush(&mut self) {
        let writes = self.seat.with(|hall| {
            hall.note(|| format!("process {} flushes", self.seat.own));
            hall.values.begin_flush(hall.time / 1000)
        });
        let mut flushing = Flushing {
            seat: self.seat,
            writes,
            done: false,
        };
        let done = self.pool.flush(0, &mut self.call);
        // Where a node is away it is emptied before it shows anything.
        flushing.done = true;
        let own = self.seat.own;
        (self.seat).with(|hall| hall.note(|| format!("process {own} flushed: {done}")));
    }
}

/// A flush under way, whose process may be killed.
struct Flushing<'a> {
    seat: &'a Seat,
    writes: Vec<usize>,
    done: bool,
}

impl Drop for Flushing<'_> {
    fn drop(&mut self) {
        self.seat.with(|hall| {
            let time = self.done.then_some(hall.time / 1000);
            hall.values.end_flush(time, &self.writes);
        });
    }
}
