//! Who serves sessions by the real code: workers of several hosts, and a tend on some of them.
//!
//! Each is a process with a pool of mode fenced and `session::fenced` on it, called as the
//! extension calls it: a request opens a session with its turn or without, thinks, ends it, and
//! then does what follows the answer. What was asked and what came of it goes to `history`.
//!
//! Not in here: who mends (`mending`), what is promised (`hosts`). One request is told in order, from
//! its opening to what follows the answer, in one file: that is why it is longer than others.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use memring_pool::config::{Care, Mode, NodeSpec, Placement, Policy};
use memring_pool::error::{Error, Kind};
use memring_pool::handoff;
use memring_pool::lease;
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::later;
use memring_pool::pool::rules::Rules;
use memring_pool::probe;
use memring_pool::replica::{PREFERRED, record_key};
use memring_pool::session::Store;
use memring_pool::session::fenced::{Fenced, Terms};
use memring_pool::shared;
use memring_pool::shared::missed::{REACH, start_of};
use memring_pool::slices;

use super::clients::{LEASE, PROMISED};
use super::faults::Plan;
use super::history::{Answer, Base, Change, History, Reading};
use super::mending::tend;
use super::node::Key;
use super::processes::{Part, Program, Seat, Sessions, Setup, play_sessions};
use super::random::Random;
use super::rivals::some_key;
use super::turns::Held;
use super::world::Phase;

/// Seconds a session lives: longer than a run.
const LIFE: u32 = 7200;
/// The pool's name, and what stands before a session's name in its key.
const POOL: &str = "sessions";
const PREFIX: &str = "s.";

/// What a worker of a script does. An ending whose open failed is left out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Do {
    /// Opens a session with its turn.
    Open(Key),
    /// Reads it without.
    Look(Key),
    /// Uses something else of memring, which its turn lives on by.
    Call,
    /// Keeps so many keys of another pool that there is no room for this session's.
    Fill(Key),
    /// Ends what it opened with a new value …
    Write,
    /// … unchanged …
    Touch,
    /// … or with its end.
    Destroy,
}

/// A worker of a script: its host, and what it does when, milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Role {
    pub(super) host: usize,
    pub(super) acts: Vec<(u64, Do)>,
}

/// A host of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// What its clock is off by, milliseconds.
    pub(super) clock: i64,
    pub(super) workers: usize,
    /// A tend runs there; where none does, workers mend in slices.
    pub(super) tends: bool,
}

/// Sessions of one pool, and the hosts that serve them.
#[derive(Debug)]
pub(super) struct Service {
    /// Per node: does it take versions?
    pub(super) nodes: Vec<bool>,
    pub(super) copies: usize,
    pub(super) hosts: Vec<Host>,
    pub(super) rules: Rules,
    pub(super) plan: Plan,
    /// Milliseconds.
    pub(super) duration: u64,
    /// A node that is cut off is cut off from some hosts, and not from others.
    pub(super) apart: bool,
    /// How long a worker of a script waits for a turn, milliseconds.
    pub(super) wait: u64,
    /// Nobody may be refused.
    pub(super) prompt: bool,
    /// Who plays, where chance does not say it.
    pub(super) cast: Vec<Role>,
    /// Sessions 0 to here exist or did.
    pub(super) keys: AtomicU32,
}

impl Clone for Service {
    fn clone(&self) -> Service {
        Service {
            nodes: self.nodes.clone(),
            hosts: self.hosts.clone(),
            plan: self.plan.clone(),
            cast: self.cast.clone(),
            keys: AtomicU32::new(8),
            ..*self
        }
    }
}

impl Service {
    /// A service whose nodes and hosts the seed draws: `least` to `most` nodes.
    pub(super) fn drawn(seed: u64, nodes: [u64; 2], plan: Plan) -> Service {
        let mut random = Random::new(!seed);
        let count = random.between(nodes[0], nodes[1]) as usize;
        let kind = random.below(4);
        let has_e = |random: &mut Random| match kind {
            0 => true,
            1 => false,
            _ => random.chance(50),
        };
        let tends = random.below(4);
        let hosts = (0..1 + random.below(3)).map(|_| Host {
            clock: random.between(0, 600_000) as i64 - 300_000,
            workers: 1 + random.below(2),
            tends: tends > 0 && (tends > 1 || random.chance(50)),
        });
        let mut hosts: Vec<Host> = hosts.collect();
        if hosts.len() == 1 {
            hosts[0].workers += 1;
        }
        Service {
            nodes: (0..count).map(|_| has_e(&mut random)).collect(),
            copies: 2 + random.below(2),
            hosts,
            ..Service::new(3, plan)
        }
    }

    /// One host on so many nodes, for a script.
    pub(super) fn new(nodes: usize, plan: Plan) -> Service {
        let host = Host {
            clock: 0,
            workers: 0,
            tends: true,
        };
        Service {
            nodes: vec![true; nodes],
            copies: 3,
            hosts: vec![host],
            rules: Rules::ALL,
            plan,
            duration: 12_000,
            apart: true,
            wait: 1500,
            prompt: false,
            cast: Vec::new(),
            keys: AtomicU32::new(8),
        }
    }

    /// The pool, as a process of a host has it.
    pub(super) fn pool(&self, care: Care, directory: &mut Directory) -> Pool {
        let policy = Policy {
            placement: Placement::Rendezvous,
            mode: Mode::Fenced,
            name: POOL.into(),
            copies: Some(self.copies),
            ..Policy::default()
        };
        let mut pool = Pool::new(policy);
        pool.set_rules(self.rules);
        for node in 0..self.nodes.len() {
            // The port is the node's number and 1.
            let mut spec = NodeSpec::tcp("10.0.0.1", node as u16 + 1);
            spec.care = care;
            if care == Care::Prober {
                spec.retry_interval = 0;
            }
            pool.add(spec, directory);
        }
        pool
    }
}

/// The key of nodes' records.
pub(super) fn record() -> Vec<u8> {
    record_key(Some(POOL))
}

/// The name of a session.
fn name(key: Key) -> String {
    format!("k{key}")
}

/// The session of a wire key.
fn number(key: &[u8]) -> Option<Key> {
    let text = std::str::from_utf8(key).ok()?;
    text.strip_prefix(PREFIX)?.strip_prefix('k')?.parse().ok()
}

/// The nodes that a session prefers, in order.
pub(super) fn homes(pool: &mut Pool, key: Key) -> Vec<usize> {
    let key = format!("{PREFIX}{}", name(key));
    pool.preferred(key.as_bytes(), PREFERRED)
}

/// Plays one seed of a service.
pub(super) fn serve(service: &Service, seed: u64, trace: bool) -> History {
    let shared = Arc::new(service.clone());
    let names = {
        let mut directory = Directory::new();
        let pool = service.pool(Care::Probed, &mut directory);
        let names = (0..pool.len()).map(|node| pool.ring_name(node).into());
        names.collect()
    };
    let mut parts = Vec::new();
    let part = |host, program: Program| Part { host, program };
    for role in &service.cast {
        let (shared, role) = (Arc::clone(&shared), role.clone());
        let host = role.host;
        let follows = move |seat: &Seat| Worker::new(&shared, seat).follows(&role.acts);
        parts.push(part(host, Arc::new(follows)));
    }
    for (number, host) in service.hosts.iter().enumerate() {
        for _ in 0..host.workers {
            let shared = Arc::clone(&shared);
            let works = move |seat: &Seat| Worker::new(&shared, seat).works();
            parts.push(part(number, Arc::new(works)));
        }
        if host.tends {
            let shared = Arc::clone(&shared);
            parts.push(part(
                number,
                Arc::new(move |seat: &Seat| tend(&shared, seat)),
            ));
        }
    }
    let setup = Setup {
        nodes: service.nodes.clone(),
        parts,
        clocks: service.hosts.iter().map(|host| host.clock).collect(),
        duration: service.duration * 1000,
        plan: service.plan.clone(),
        apart: service.apart,
        deaf: false,
        sessions: Some(Sessions {
            record_key: record(),
            names,
            number,
        }),
    };
    play_sessions(setup, seed, trace)
}

/// What a worker has open.
struct Holding {
    key: Key,
    reading: Reading,
    /// What was read, and its bytes.
    found: Option<Change>,
    held: Held,
}

/// A worker process.
struct Worker<'a> {
    service: &'a Service,
    seat: &'a Seat,
    directory: Directory,
    store: Fenced,
    homes: Pool,
    /// Whose turn is over, and which change may be done or not, if the process is killed now.
    turn: Option<Held>,
    change: Option<Change>,
}

impl Drop for Worker<'_> {
    fn drop(&mut self) {
        let (turn, change) = (self.turn.take(), self.change.take());
        self.seat.with(|hall| {
            let time = hall.time / 1000;
            if let Some(held) = turn {
                hall.history.turns.end(time, held);
            }
            if let Some(change) = change {
                hall.history.fail(change);
            }
        });
    }
}

impl<'a> Worker<'a> {
    fn new(service: &'a Service, seat: &'a Seat) -> Worker<'a> {
        let mut directory = Directory::new();
        Worker {
            service,
            seat,
            store: sessions(service, service.wait, &mut directory),
            homes: service.pool(Care::Probed, &mut Directory::new()),
            directory,
            turn: None,
            change: None,
        }
    }

    fn nodes(&mut self, key: Key) -> Vec<usize> {
        homes(&mut self.homes, key)
    }

    fn note(&self, words: impl FnOnce() -> String) {
        let own = self.seat.own;
        (self.seat).with(|hall| hall.note(|| format!("process {own}: {}", words())));
    }

    /// Requests until the end, and last reads.
    fn works(mut self) {
        loop {
            let (wait, phase, renewed) = self.seat.with(|hall| {
                let wait = hall.random.between(1, 60);
                (wait * 1000, hall.phase, hall.random.chance(10))
            });
            if phase == Phase::Finale {
                break;
            }
            // What follows answers mends nodes, too, so there is always somebody who comes by.
            self.seat
                .think(if phase == Phase::Work { wait } else { wait * 3 });
            if renewed {
                // Some give up before a lease is over, as no real one does; most outwait it.
                let patient = self.seat.with(|hall| hall.random.chance(60));
                let wait = if patient { LEASE + 2000 } else { 1500 };
                self.store = sessions(self.service, wait, &mut self.directory);
            }
            self.request(phase == Phase::Work);
            ends_request();
        }
        for key in 0..self.service.keys.load(Relaxed) {
            self.open(key, false, false);
        }
        later::end();
        slices::end();
    }

    /// What a script says.
    fn follows(mut self, acts: &[(u64, Do)]) {
        // Who was killed does nothing twice.
        let begin = self.seat.with(|hall| hall.time) / 1000;
        let mut holding = None;
        for (at, act) in acts.iter().filter(|(at, _)| *at >= begin) {
            let wait = self.seat.with(|hall| {
                let at = at * 1000 + hall.random.between(0, 999);
                at.saturating_sub(hall.time)
            });
            self.seat.think(wait);
            match (*act, holding.take()) {
                (Do::Open(key), _) => holding = self.open(key, true, false),
                (Do::Look(key), _) => {
                    self.open(key, false, false);
                    self.store.release();
                }
                (Do::Call, open) => {
                    lease::call();
                    holding = open;
                }
                (Do::Fill(key), open) => {
                    fill(&self.homes, key);
                    holding = open;
                }
                (Do::Write, Some(open)) => self.write(open),
                (Do::Touch, Some(open)) => self.touch(open),
                (Do::Destroy, Some(open)) => self.destroy(open),
                (Do::Write | Do::Touch | Do::Destroy, None) => {}
            }
            if holding.is_none() {
                ends_request();
            }
        }
        later::end();
        slices::end();
    }

    fn request(&mut self, works: bool) {
        let (key, fresh, turn) = self.seat.with(|hall| {
            let random = &mut hall.random;
            let keys = &self.service.keys;
            let fresh = works && random.chance(2);
            let key = match fresh {
                true => keys.fetch_add(1, Relaxed),
                false => some_key(keys.load(Relaxed), random),
            };
            (key, fresh, fresh || works && random.chance(65))
        });
        let Some(holding) = self.open(key, turn, fresh) else {
            return self.store.release();
        };
        self.thinks();
        match self.seat.with(|hall| hall.random.below(20)) {
            0..=9 => self.write(holding),
            10..=13 => self.touch(holding),
            14..=15 => self.destroy(holding),
            16..=17 => self.regenerates(holding),
            _ => self.lets_go(holding),
        }
    }

    /// Some think longer than a turn lasts, and of them some use something else of memring.
    fn thinks(&mut self) {
        let (think, calls) = self.seat.with(|hall| {
            let random = &mut hall.random;
            match random.below(100) {
                0 => (random.between(2500, 11_000), random.chance(50)),
                _ => (random.between(0, 20), false),
            }
        });
        let end = self.seat.with(|hall| hall.time) + think * 1000;
        while calls && self.seat.with(|hall| hall.time) + 500_000 < end {
            self.seat.think(500_000);
            lease::call();
        }
        let left = end.saturating_sub(self.seat.with(|hall| hall.time));
        self.seat.think(left);
    }

    /// session_start(), with the turn or as read_and_close; what is open then.
    fn open(&mut self, key: Key, turn: bool, fresh: bool) -> Option<Holding> {
        let id = name(key).into_bytes();
        let homes = self.nodes(key);
        let own = self.seat.own;
        let (reading, since, there, strict, begun) = self.seat.with(|hall| {
            let reading = hall.history.begin_read(key);
            let since = hall.has_two(own, &homes).then_some(hall.turned);
            let there = hall.is_there(own, &homes).then_some(hall.turned);
            let strict = hall.random.chance(30);
            (reading, since, there, strict, hall.time / 1000)
        });
        self.store.lives(LIFE);
        if fresh {
            self.store.made(&id);
        }
        let read = if strict && !self.store.exists(&id, turn) && !fresh {
            // PHP makes a new id, of no interest here.
            self.end_read(reading, Answer::Nothing);
            return None;
        } else {
            self.store.read(&id, turn)
        };
        let log = self.store.take_log();
        let unsure = log
            .iter()
            .any(|line| line.contains("fewer than two trusted"));
        let last = self.seat.with(|hall| hall.phase) == Phase::Finale;
        let answer = match &read {
            Ok(data) if data.is_empty() => Answer::Nothing,
            Ok(data) => match (Change::of(data), unsure) {
                (None, _) => Answer::Strange,
                (Some(change), false) => Answer::Value(change),
                (Some(change), true) => Answer::Perhaps(change),
            },
            Err(error) => Answer::Refused {
                needless: match error.kind() {
                    _ if self.service.prompt => true,
                    Kind::Locked => false,
                    _ => self.seat.with(|hall| {
                        let same = Some(hall.turned);
                        let two = since == same && hall.has_two(own, &homes);
                        let any = fresh && there == same && hall.is_there(own, &homes);
                        last || two || any
                    }),
                },
            },
        };
        self.note(|| match &read {
            Err(error) => format!("open {key}, turn {turn}: {error}"),
            Ok(_) => format!("open {key}, turn {turn}: {answer:?}"),
        });
        self.end_read(reading, answer);
        if !turn || read.is_err() || answer == Answer::Strange {
            return None;
        }
        let held = self.seat.with(|hall| {
            let time = hall.time / 1000;
            // The first token came some time between the two.
            hall.history.turns.begin(begun, time, key)
        });
        self.turn = Some(held);
        let found = read.ok().and_then(|data| Change::of(&data));
        Some(Holding {
            key,
            reading,
            found,
            held,
        })
    }

    fn end_read(&mut self, reading: Reading, answer: Answer) {
        self.seat.with(|hall| {
            let time = hall.time / 1000;
            hall.history.end_read(time, reading, answer);
        });
    }

    /// An ending that changes something begins: `None` for a destroy.
    fn begins(&mut self, open: &Holding, writes: bool) -> Change {
        let change = self.seat.with(|hall| {
            let (time, base) = (hall.time / 1000, Base::Read(open.reading));
            let history = &mut hall.history;
            history.turns.ending(time, open.held, true);
            match writes {
                true => history.begin_write(time, open.key, base, u64::from(LIFE) * 1000),
                false => history.begin_destroy(open.key, base),
            }
        });
        self.change = Some(change);
        change
    }

    /// An ending is over.
    fn ends(&mut self, open: &Holding, what: &str, done: Result<(), Error>) {
        self.note(|| {
            let said = done.as_ref().err().map(ToString::to_string);
            let said = said.unwrap_or_else(|| "done".into());
            format!("{what} {} {:?}: {said}", open.key, self.change)
        });
        self.turn = None;
        let change = self.change.take();
        self.seat.with(|hall| {
            let time = hall.time / 1000;
            let history = &mut hall.history;
            history.turns.end(time, open.held);
            match (change, &done) {
                (Some(change), Ok(())) => history.ack(time, change),
                (Some(change), Err(_)) => history.fail(change),
                (None, _) => {}
            }
            let taken = |error: &Error| error.kind() == Kind::Locked;
            if done.as_ref().is_err_and(taken) {
                history.lost_turn(time, open.held, PROMISED);
            }
        });
    }

    fn write(&mut self, open: Holding) {
        let change = self.begins(&open, true);
        let done = (self.store).write(name(open.key).as_bytes(), &change.data(), LIFE);
        self.ends(&open, "write", done);
    }

    /// An unchanged session lives on; of a new one that is its first value.
    fn touch(&mut self, open: Holding) {
        let id = name(open.key);
        let Some(found) = open.found else {
            let change = self.begins(&open, true);
            let done = self.store.touch(id.as_bytes(), &change.data(), LIFE);
            return self.ends(&open, "touch of a new one", done);
        };
        let since = self.seat.with(|hall| {
            let time = hall.time / 1000;
            hall.history.turns.ending(time, open.held, false);
            time
        });
        let done = self.store.touch(id.as_bytes(), &found.data(), LIFE);
        if done.is_ok() {
            let life = u64::from(LIFE) * 1000;
            self.seat
                .with(|hall| hall.history.touched(since, found, life));
        }
        self.ends(&open, "touch", done);
    }

    fn destroy(&mut self, open: Holding) {
        self.begins(&open, false);
        let done = self.store.destroy(name(open.key).as_bytes());
        self.ends(&open, "destroy", done);
    }

    /// session_regenerate_id(true): the old one ends, and a new one begins with its data.
    fn regenerates(&mut self, open: Holding) {
        self.destroy(open);
        let key = self.service.keys.fetch_add(1, Relaxed);
        if let Some(new) = self.open(key, true, true) {
            self.write(new);
        }
    }

    /// session_abort().
    fn lets_go(&mut self, open: Holding) {
        self.seat.with(|hall| {
            let time = hall.time / 1000;
            hall.history.turns.ending(time, open.held, false);
        });
        self.store.release();
        self.ends(&open, "abort", Ok(()));
    }
}

/// The session store of a process that waits so long for turns, milliseconds.
fn sessions(service: &Service, wait: u64, directory: &mut Directory) -> Fenced {
    let terms = Terms {
        wait: Duration::from_millis(wait),
        lease: Duration::from_millis(PROMISED),
        life: LIFE,
    };
    Fenced::new(
        service.pool(Care::Probed, directory),
        PREFIX.as_bytes(),
        terms,
    )
}

/// Takes the room that a session's key would find on its host, for whichever node.
fn fill(pool: &Pool, key: Key) {
    let missed = shared::missed().expect("memory of the host");
    let key = format!("{PREFIX}{}", name(key));
    for node in 0..pool.len() {
        let whose = handoff::whose(&record(), &pool.ring_name(node));
        let start = start_of(whose, key.as_bytes());
        let others = (0..400_000u32).map(u32::to_le_bytes);
        others
            .filter(|other| (start..start + REACH).contains(&start_of(1, other)))
            .for_each(|other| _ = missed.keep(1, &other, shared::now()));
    }
}

/// As the extension does after the response.
fn ends_request() {
    let slice = Duration::from_millis(5);
    later::after_request();
    probe::carry_on(slice);
    slices::carry_on(slice);
}
