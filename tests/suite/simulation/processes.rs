//! Processes of hosts, their sockets, and one virtual clock: the real code, a thread for each
//! process, of which exactly one runs at any time.
//!
//! ```text
//!   thread ─► pool ─► transport ─► Seat ─► Hall: it waits ─► next event, by time and by chance
//!     ▲                                                     ├─ bytes arrive at a node: Step, Step, …
//!     └────────────── who has what he waits for, goes on ◄──┴─ bytes arrive at a process, or time is over
//! ```
//!
//! Who waits plays the events until somebody can go on, and hands over to him. So a run is the
//! same whatever the machine does, and thread-local memory is a process's own, as it is in
//! reality. What processes of a host share (`shared::Site`) those of other hosts do not see.
//! Times are virtual microseconds.
//!
//! Not in here: what becomes of bytes and what goes wrong (`wires`), what a server does
//! (`memcached`), what processes do (`visitors`, `requests`), what may be seen (`values`,
//! `history`).

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::rc::Rc;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use memring_pool::shared::Site;
use memring_pool::transport::{self, Player};

use super::faults::{Plan, Way};
use super::history::{History, Violation};
use super::memcached::{Memcached, Memory};
use super::random::Random;
use super::values::Values;
use super::wires::{Event, Line, Place};
use super::world::Phase;

mod seat;

/// Virtual 0 in milliseconds since 1970.
pub(super) const EPOCH: u64 = 1_767_225_600_000;
/// Who is not done so long after the planned end is stuck.
const PATIENCE: u64 = 60_000_000;
/// What a process does, from its start to its end.
pub(super) type Program = Arc<dyn Fn(&Seat) + Send + Sync>;

/// A process to be.
#[derive(Clone)]
pub(super) struct Part {
    /// Number of its host.
    pub(super) host: usize,
    pub(super) program: Program,
}

/// How a run is set up.
#[derive(Clone)]
pub(super) struct Setup {
    /// Per node: does it take versions?
    pub(super) nodes: Vec<bool>,
    pub(super) parts: Vec<Part>,
    /// By host: what its clock is off by, milliseconds.
    pub(super) clocks: Vec<i64>,
    /// Until when processes begin new work and faults begin.
    pub(super) duration: u64,
    pub(super) plan: Plan,
    /// A node that is cut off is cut off from some processes, and not from others.
    pub(super) apart: bool,
    /// Nobody can abort a connection.
    pub(super) deaf: bool,
    /// The nodes keep sessions.
    pub(super) sessions: Option<Sessions>,
}

/// What nodes that keep sessions say of themselves.
#[derive(Clone)]
pub(super) struct Sessions {
    pub(super) record_key: Vec<u8>,
    /// What records call the nodes.
    pub(super) names: Vec<String>,
    /// The number of a wire key.
    pub(super) number: fn(&[u8]) -> Option<u32>,
}

/// What a process waits for.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) host: usize,
    /// Sockets; empty for none.
    wanted: Vec<u32>,
    pub(super) waits: bool,
    /// Which wait it is: wakes for an earlier one are void.
    wait: u64,
    pub(super) killed: bool,
    /// It breaks off.
    ends: bool,
    /// How often it was started again.
    life: u64,
    /// The bell that it listens to, for which classes, and whether that rang.
    listens: Option<(usize, u32, bool)>,
    /// It dies at the so manyth send from now.
    pub(super) doomed: Option<u64>,
    pub(super) over: bool,
}

/// Everything but the processes' own memory.
pub(super) struct Hall {
    pub(super) time: u64,
    pub(super) phase: Phase,
    queue: BTreeMap<(u64, u64, u64), Event>,
    entered: u64,
    pub(super) random: Random,
    pub(super) setup: Setup,
    pub(super) clocks: Vec<i64>,
    /// Memory that the processes of a host share.
    pub(super) sites: Vec<Site>,
    pub(super) places: Vec<Place>,
    pub(super) processes: Vec<Process>,
    pub(super) lines: Vec<Line>,
    pub(super) barred: BTreeSet<(usize, usize, Way)>,
    /// What the network keeps back: on which connection, and the bytes, or its end.
    pub(super) held: Vec<(u32, Option<Vec<u8>>)>,
    pub(super) faults: usize,
    pub(super) begun: u64,
    /// Faults that began and faults that ended.
    pub(super) turned: u64,
    pub(super) values: Values,
    pub(super) history: History,
    /// Who can go on, in this order; the last of all numbers is the run itself.
    ready: VecDeque<usize>,
    running: usize,
    /// The run is over: who is left is told so.
    closing: bool,
    /// Processes whose threads are to be started.
    unborn: Vec<usize>,
    threads: Vec<JoinHandle<()>>,
    failure: Option<Box<dyn std::any::Any + std::marker::Send>>,
    trace: bool,
}

/// A run, as its threads share it.
struct House {
    hall: Mutex<Hall>,
    gates: Vec<Condvar>,
}

/// What a process that is killed unwinds with.
struct Killed;

thread_local! {
    /// Regions of hosts of runs before: a new one costs a megabyte or more.
    static SITES: Cell<Vec<Site>> = const { Cell::new(Vec::new()) };
}

/// Plays `seed` to its end, on values of a cache.
pub(super) fn play(setup: Setup, values: Values, seed: u64, trace: bool) -> Values {
    play_all(setup, values, seed, trace).0
}

/// Plays `seed` to its end, on sessions.
pub(super) fn play_sessions(setup: Setup, seed: u64, trace: bool) -> History {
    play_all(setup, Values::default(), seed, trace).1
}

fn play_all(setup: Setup, values: Values, seed: u64, trace: bool) -> (Values, History) {
    let mut sites = SITES.take();
    while sites.len() < setup.clocks.len() {
        sites.push(Site::reserve().expect("memory for a host"));
    }
    for (host, site) in (0..).zip(&sites) {
        site.clear(Random::new(seed ^ host << 56).bits());
    }
    let places = setup.nodes.iter().map(|&has_e| Place {
        server: Memcached::new(has_e),
        state: super::wires::State::Up,
        slow: 0,
        parked: Vec::new(),
        dump: Memory::default(),
    });
    let processes = setup.parts.iter().map(|part| Process {
        host: part.host,
        ..Process::default()
    });
    let count = setup.parts.len();
    let mut hall = Hall {
        time: 0,
        phase: Phase::Work,
        queue: BTreeMap::new(),
        entered: 0,
        random: Random::new(seed),
        clocks: setup.clocks.clone(),
        sites: sites.clone(),
        places: places.collect(),
        processes: processes.collect(),
        lines: Vec::new(),
        barred: BTreeSet::new(),
        held: Vec::new(),
        faults: 0,
        begun: 0,
        turned: 0,
        values,
        history: History::default(),
        ready: VecDeque::new(),
        running: count,
        closing: false,
        unborn: Vec::new(),
        threads: Vec::new(),
        failure: None,
        trace,
        setup,
    };
    for process in 0..count {
        hall.after(0, Event::Start(process));
    }
    if let Plan::Script(script) = hall.setup.plan.clone() {
        for (begin, fault, lasts) in script {
            hall.faults += 1;
            hall.after(begin * 1000, Event::Begin(fault, lasts));
        }
    }
    let first = hall.random.between(200_000, 1_000_000);
    hall.after(first, Event::Next(first));
    let house = Arc::new(House {
        hall: Mutex::new(hall),
        gates: (0..=count).map(|_| Condvar::new()).collect(),
    });
    let mut hall = house.pass(house.lock(), count);
    // Whoever is left is stuck, and has to go.
    hall.closing = true;
    for process in 0..count {
        if !hall.processes[process].over {
            if hall.failure.is_none() {
                let time = hall.time / 1000;
                let words = format!("process {process}");
                hall.report(time, Violation::Stuck, words);
            }
            hall.phase = Phase::Finale;
            hall.processes[process].killed = true;
            hall.processes[process].over = true;
            if hall.processes[process].waits {
                hall.wake(process);
                hall.ready.push_back(count);
                hall = house.pass(hall, count);
            }
            house.gates[process].notify_one();
        }
    }
    let threads = std::mem::take(&mut hall.threads);
    let failure = hall.failure.take();
    let values = std::mem::take(&mut hall.values);
    let history = std::mem::take(&mut hall.history);
    drop(hall);
    for thread in threads {
        // What it has to say stands in `failure`.
        let _ = thread.join();
    }
    SITES.set(sites);
    if let Some(failure) = failure {
        eprintln!("seed {seed}: a process of the simulation stopped");
        resume_unwind(failure);
    }
    (values, history)
}

impl House {
    fn lock(&self) -> MutexGuard<'_, Hall> {
        self.hall.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets others go on until it is this one's turn again.
    fn pass<'a>(
        self: &'a Arc<House>,
        hall: MutexGuard<'a, Hall>,
        own: usize,
    ) -> MutexGuard<'a, Hall> {
        let mut hall = self.hand_over(hall);
        while hall.running != own {
            let gate = &self.gates[own];
            hall = gate.wait(hall).unwrap_or_else(PoisonError::into_inner);
        }
        hall
    }

    /// Plays events until somebody can go on, whose turn it is then.
    fn hand_over<'a>(self: &'a Arc<House>, mut hall: MutexGuard<'a, Hall>) -> MutexGuard<'a, Hall> {
        let everyone = hall.processes.len();
        loop {
            for process in std::mem::take(&mut hall.unborn) {
                let house = Arc::clone(self);
                let thread = std::thread::spawn(move || live(&house, process));
                hall.threads.push(thread);
            }
            let late = hall.time > hall.setup.duration + PATIENCE;
            let over = hall.processes.iter().all(|process| process.over);
            if (over || late || hall.failure.is_some()) && !hall.closing {
                hall.ready.clear();
                hall.ready.push_back(everyone);
            }
            if let Some(next) = hall.ready.pop_front() {
                hall.running = next;
                self.gates[next].notify_one();
                return hall;
            }
            match hall.queue.pop_first() {
                Some(((time, ..), event)) => {
                    hall.time = time;
                    // A process may play it that has ended, and nobody would hear of a panic.
                    let played = catch_unwind(AssertUnwindSafe(|| hall.handle(event)));
                    if let Err(cause) = played {
                        hall.failure.get_or_insert(cause);
                    }
                }
                None => hall.time = u64::MAX / 2,
            }
        }
    }
}

/// A process's thread.
fn live(house: &Arc<House>, own: usize) {
    let mut hall = house.lock();
    while hall.running != own {
        if hall.closing {
            return;
        }
        hall = house.gates[own]
            .wait(hall)
            .unwrap_or_else(PoisonError::into_inner);
    }
    let part = hall.setup.parts[own].clone();
    let site = hall.sites[part.host];
    drop(hall);
    let seat = Rc::new(Seat {
        house: Arc::clone(house),
        own,
    });
    transport::play(Some(Rc::clone(&seat) as Rc<dyn Player>));
    site.enter();
    let lived = catch_unwind(AssertUnwindSafe(|| (part.program)(&seat)));
    // What the thread still has when it ends must not reach those that go on meanwhile.
    transport::play(None);
    let mut hall = house.lock();
    hall.hang_up_all(own);
    let stuck = hall.processes[own].over;
    match lived {
        Ok(()) => hall.processes[own].over = true,
        Err(cause) if cause.is::<Killed>() => {
            if !stuck {
                // Somebody starts it again.
                hall.processes[own] = Process {
                    host: part.host,
                    life: hall.processes[own].life + 1,
                    ..Process::default()
                };
                let wait = hall.random.between(1000, 100_000);
                hall.after(wait, Event::Start(own));
            }
        }
        Err(cause) => {
            hall.processes[own].over = true;
            hall.failure.get_or_insert(cause);
        }
    }
    drop(house.hand_over(hall));
}

impl Hall {
    pub(super) fn after(&mut self, wait: u64, event: Event) {
        let luck = self.random.bits();
        self.entered += 1;
        let at = (self.time + wait, luck, self.entered);
        self.queue.insert(at, event);
    }

    /// A process is to begin.
    pub(super) fn start(&mut self, process: usize) {
        self.unborn.push(process);
        self.ready.push_back(process);
    }

    /// A process can go on.
    pub(super) fn wake(&mut self, process: usize) {
        if std::mem::take(&mut self.processes[process].waits) {
            self.ready.push_back(process);
        }
    }

    /// The time that it waited for has come.
    pub(super) fn ring(&mut self, process: usize, wait: u64) {
        if self.processes[process].wait == wait {
            self.wake(process);
        }
    }

    /// Something happened to a socket: its process may want to know.
    pub(super) fn stir(&mut self, socket: u32) {
        let process = self.lines[socket as usize].process;
        if self.processes[process].wanted.contains(&socket) {
            self.wake(process);
        }
    }

    pub(super) fn report(&mut self, time: u64, violation: Violation, words: String) {
        match self.setup.sessions {
            Some(_) => self.history.report(time, violation, words),
            None => self.values.report(time, violation, words),
        }
    }

    /// The number of a process in this life.
    pub(super) fn number(&self, process: usize) -> u64 {
        (process as u64 + 1) << 24 | self.processes[process].life
    }

    pub(super) fn clock(&self, host: usize) -> u64 {
        (EPOCH + self.time / 1000).saturating_add_signed(self.clocks[host])
    }

    pub(super) fn note(&self, words: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>9.3} {}", self.time as f64 / 1000.0, words());
        }
    }
}

/// A process, as its own code sees the world.
pub(super) struct Seat {
    house: Arc<House>,
    pub(super) own: usize,
}

impl Seat {
    /// Works with the hall, without a moment passing.
    pub(super) fn with<R>(&self, work: impl FnOnce(&mut Hall) -> R) -> R {
        work(&mut self.house.lock())
    }

    /// Waits until `done` says something, or `until` has come.
    fn wait<R>(
        &self,
        sockets: &[u32],
        until: Option<u64>,
        mut done: impl FnMut(&mut Hall) -> Option<R>,
    ) -> Option<R> {
        let mut hall = self.house.lock();
        let mut rings = false;
        loop {
            if let Some(done) = done(&mut hall) {
                return Some(done);
            }
            if until.is_some_and(|until| until <= hall.time) {
                return None;
            }
            let time = hall.time;
            let process = &mut hall.processes[self.own];
            if !rings {
                process.wait += 1;
            }
            process.wanted = sockets.to_vec();
            process.waits = true;
            let wait = process.wait;
            if let (Some(until), false) = (until, rings) {
                hall.after(until - time, Event::Wake(self.own, wait));
                rings = true;
            }
            hall = self.house.pass(hall, self.own);
            if hall.processes[self.own].killed {
                hall.processes[self.own].ends = true;
                drop(hall);
                resume_unwind(Box::new(Killed));
            }
        }
    }

    /// Waits so many virtual microseconds.
    pub(super) fn think(&self, wait: u64) {
        let until = self.with(|hall| hall.time) + wait;
        self.wait(&[], Some(until), |_| None::<()>);
    }
}
