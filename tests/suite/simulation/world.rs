//! Time, network and clients of one run, all in one event queue.
//!
//! ```text
//!   client ── Send ──► line ──► [Arrive] ──► connection's queue ──► [Step] one command ─┐
//!     ▲                 (cut, held)            (hung: parked)         next command ◄─────┤
//!     └── heard ◄── [Answer], or Lost at [Deadline], or Lost at [Reset] ◄────────────────┘
//! ```
//!
//! Events of one millisecond come in random order, so commands of different clients mix on a
//! node in every way that keeps each connection's own order. A request that timed out is not
//! taken back: its commands wait in the connection the client has closed, and may be carried
//! out when the node goes on (ghosts).
//!
//! Not in here: what becomes of a request on its way (`network`), what the faults are
//! (`faults`) and how they strike (`trouble`), what a node
//! does (`node`), what is allowed (`history`).

use std::cell::{Cell, RefCell};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::rc::Rc;

use memring_pool::replica::{Command, Machine, Reply, Send};

use super::faults::{Fault, Plan, Way};
use super::history::{History, Violation};
use super::node::{Key, Memory, Node};
use super::random::Random;

mod network;
mod scene;
mod trouble;

pub(super) use scene::Scene;

/// Virtual 0 in milliseconds since 1970.
const EPOCH: u64 = 1_767_225_600_000;
/// How long after the planned end a run may take until its clients count as stuck.
const PATIENCE: u64 = 600_000;
/// A calm that does not come is not waited for longer than this.
const CALM: u64 = 60_000;

/// How a run is set up.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    /// Per node: does it know the `E` flag?
    pub(super) nodes: Vec<bool>,
    /// See `Node`: only for rivals.
    pub(super) blind: bool,
    /// After which a pipeline counts as lost, milliseconds.
    pub(super) timeout: u64,
    /// Until when clients begin new work and faults begin.
    pub(super) duration: u64,
    /// What goes wrong.
    pub(super) plan: Plan,
    /// After the last fault, before the last reads, at least.
    pub(super) settle: u64,
    /// What has to be mended before the pool counts as calm.
    pub(super) calm: Rc<Calm>,
}

/// What has to be mended before a pool counts as calm; nothing, where there are no records.
#[derive(Debug, Default)]
pub(super) struct Calm {
    /// Servers that are to be trusted, and by which names nobody may list them.
    nodes: RefCell<Vec<(usize, Box<str>)>>,
    /// A step from one node list to the next has to end before the last reads.
    step: Cell<bool>,
}

impl Calm {
    /// From now on it is these, and whether a step has to end.
    pub(super) fn expect(&self, nodes: Vec<(usize, Box<str>)>, step: bool) {
        self.nodes.replace(nodes);
        self.step.set(step);
    }
}

/// What a client does next.
pub(super) enum Step {
    /// Nothing, for so long.
    Think(u64),
    /// Its machine runs until it is done.
    Run {
        /// About which key.
        key: Key,
        /// Node of each place.
        places: Vec<usize>,
        /// What the machine said first.
        first: Vec<Send>,
    },
    /// Nothing, for good.
    Over,
}

/// A sequential process that drives one machine after the other.
pub(super) trait Client {
    /// Called at the start, after a thought, and when the machine is done.
    fn next(&mut self, scene: &mut Scene<'_>) -> Step;
    /// The machine of the last [`Step::Run`].
    fn machine(&mut self) -> &mut dyn Machine;
    /// The process was killed: what it was about is over for it. `next` follows, as at the start.
    fn killed(&mut self, scene: &mut Scene<'_>);
}

/// Which part of a run it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Faults come and go.
    Work,
    /// No fault begins any more, no new work either.
    Settle,
    /// All is healed and calm: time for the last reads.
    Finale,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Up,
    Down,
    Hung,
}

struct Place {
    node: Node,
    /// Which process it is: another one after each restart.
    process: u64,
    state: State,
    slow: u64,
    parked: Vec<usize>,
    dump: Memory,
}

struct Seat {
    client: Option<Box<dyn Client>>,
    offset: i64,
    /// Counts machines and thoughts: events of an earlier one are void.
    run: u64,
    running: bool,
    key: Key,
    places: Vec<usize>,
    over: bool,
}

struct Pipe {
    client: usize,
    run: u64,
    place: usize,
    node: usize,
    connection: usize,
    key: Key,
    commands: Vec<Command>,
    replies: Vec<Reply>,
    maybe_done: bool,
    arrived: bool,
    /// No command of it will be carried out any more.
    finished: bool,
    answered: bool,
}

#[derive(Clone, Debug)]
enum Event {
    Arrive(usize),
    Step(usize),
    Answer(usize),
    Deadline(usize),
    Reset(usize),
    /// A machine wants to go on by itself.
    Wake(usize, u64),
    /// A thought is over.
    Resume(usize, u64),
    /// Time for the next fault of the plan; since when it waits for calm.
    Next(u64),
    Begin(Fault, u64),
    Strike(Fault, u64),
    Heal(Fault),
}

/// One run.
pub(super) struct World {
    time: u64,
    phase: Phase,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    events: Vec<Option<Event>>,
    /// Places of events that are over.
    vacant: Vec<usize>,
    /// Deadlines to come, as they stand in the queue, with their request: all are equally far
    /// away, so they are in order, and few are ever met.
    deadlines: VecDeque<(u64, u64, usize)>,
    random: Random,
    setup: Setup,
    places: Vec<Place>,
    seats: Vec<Seat>,
    pipes: Vec<Pipe>,
    /// The connection a client has to a node.
    lines: BTreeMap<(usize, usize), usize>,
    /// Requests that are not finished, by connection, in order.
    connections: Vec<VecDeque<usize>>,
    barred: BTreeSet<(usize, usize, Way)>,
    held: Vec<usize>,
    /// Under way.
    faults: usize,
    /// Drawn so far.
    begun: u64,
    /// Faults that began and faults that ended.
    turned: u64,
    turns: BTreeMap<Key, usize>,
    history: History,
    trace: bool,
}

impl World {
    /// Plays `seed` to its end. Clients come with what their clocks are off by, milliseconds.
    pub(super) fn play(
        setup: Setup,
        clients: Vec<(Box<dyn Client>, i64)>,
        seed: u64,
        trace: bool,
    ) -> History {
        let places = setup.nodes.iter().map(|&has_e| Place {
            node: Node::new(has_e, setup.blind),
            process: 0,
            state: State::Up,
            slow: 0,
            parked: Vec::new(),
            dump: Memory::default(),
        });
        let seats = clients.into_iter().map(|(client, offset)| Seat {
            client: Some(client),
            offset,
            run: 0,
            running: false,
            key: 0,
            places: Vec::new(),
            over: false,
        });
        let mut world = World {
            time: 0,
            phase: Phase::Work,
            queue: BinaryHeap::new(),
            events: Vec::new(),
            vacant: Vec::new(),
            deadlines: VecDeque::new(),
            random: Random::new(seed),
            places: places.collect(),
            seats: seats.collect(),
            pipes: Vec::new(),
            lines: BTreeMap::new(),
            connections: Vec::new(),
            barred: BTreeSet::new(),
            held: Vec::new(),
            faults: 0,
            begun: 0,
            turned: 0,
            turns: BTreeMap::new(),
            history: History::default(),
            trace,
            setup,
        };
        world.run();
        world.history
    }

    fn run(&mut self) {
        for client in 0..self.seats.len() {
            self.after(0, Event::Resume(client, 0));
        }
        if let Plan::Script(script) = &self.setup.plan {
            for (begin, fault, lasts) in script.clone() {
                self.faults += 1;
                self.after(begin, Event::Begin(fault, lasts));
            }
        }
        let first = self.random.between(200, 1000);
        self.after(first, Event::Next(first));
        while let Some(Reverse((time, _, at))) = self.next_event() {
            self.time = time;
            if let Some(event) = self.events[at].take() {
                self.vacant.push(at);
                self.handle(event);
            }
            if self.seats.iter().all(|seat| seat.over) {
                return;
            }
            if time > self.setup.duration + PATIENCE {
                break;
            }
        }
        for (who, seat) in self.seats.iter().enumerate().filter(|(_, seat)| !seat.over) {
            let words = format!("client {who} on key {}", seat.key);
            self.history.report(self.time, Violation::Stuck, words);
        }
    }

    fn next_event(&mut self) -> Option<Reverse<(u64, u64, usize)>> {
        // A deadline takes part from its millisecond on, if it still matters.
        while let Some(&(time, luck, pipe)) = self.deadlines.front()
            && self.queue.peek().is_none_or(|next| time <= next.0.0)
        {
            self.deadlines.pop_front();
            if !self.pipes[pipe].answered {
                self.enter(time, luck, Event::Deadline(pipe));
            }
        }
        self.queue.pop()
    }

    fn after(&mut self, wait: u64, event: Event) {
        let luck = self.random.bits();
        self.enter(self.time + wait, luck, event);
    }

    fn enter(&mut self, time: u64, luck: u64, event: Event) {
        let at = self.vacant.pop().unwrap_or(self.events.len());
        if at == self.events.len() {
            self.events.push(None);
        }
        self.events[at] = Some(event);
        self.queue.push(Reverse((time, luck, at)));
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrive(pipe) => {
                self.pipes[pipe].arrived = true;
                self.step_if_first(self.pipes[pipe].connection);
            }
            Event::Step(pipe) => self.step(pipe),
            Event::Answer(pipe) => {
                let Pipe { client, node, .. } = self.pipes[pipe];
                if !self.barred.contains(&(client, node, Way::Back)) {
                    let replies = std::mem::take(&mut self.pipes[pipe].replies);
                    self.deliver(pipe, Ok(replies));
                }
            }
            Event::Deadline(pipe) => self.hang_up(pipe),
            Event::Reset(pipe) => {
                let Pipe { client, node, .. } = self.pipes[pipe];
                if !self.barred.contains(&(client, node, Way::Back)) {
                    self.hang_up(pipe);
                }
            }
            Event::Wake(client, run) => self.wake(client, run),
            Event::Resume(client, run) => {
                if self.seats[client].run == run {
                    self.advance(client);
                }
            }
            Event::Next(since) => self.next_fault(since),
            Event::Begin(fault, lasts) => self.begin(fault, lasts),
            Event::Strike(fault, lasts) => {
                if let Fault::Old { node, .. } = fault {
                    self.crash(node);
                }
                self.after(lasts, Event::Heal(fault));
            }
            Event::Heal(fault) => self.heal(&fault),
        }
    }

    fn now(&self, client: usize) -> u64 {
        (EPOCH + self.time).saturating_add_signed(self.seats[client].offset)
    }

    fn wake(&mut self, client: usize, run: u64) {
        let now = self.now(client);
        let seat = &mut self.seats[client];
        let (true, Some(process)) = (seat.run == run && seat.running, &mut seat.client) else {
            return;
        };
        let mut out = Vec::new();
        if process.machine().wait().is_some_and(|wait| wait <= now) {
            process.machine().wake(now, &mut out);
            self.go_on(client, out);
        }
    }

    /// Sends what a machine said; then it waits, or its client goes on.
    fn go_on(&mut self, client: usize, out: Vec<Send>) {
        for send in out {
            self.send(client, send);
        }
        let now = self.now(client);
        let seat = &mut self.seats[client];
        let run = seat.run;
        let Some(process) = &mut seat.client else {
            return;
        };
        if process.machine().is_done() {
            self.advance(client);
        } else if let Some(wait) = process.machine().wait() {
            self.after(wait.saturating_sub(now), Event::Wake(client, run));
        }
    }

    fn advance(&mut self, client: usize) {
        let step = self.with_scene(client, |process, scene| process.next(scene));
        let seat = &mut self.seats[client];
        seat.run += 1;
        let run = seat.run;
        seat.running = matches!(step, Step::Run { .. });
        match step {
            Step::Think(wait) => self.after(wait, Event::Resume(client, run)),
            Step::Over => seat.over = true,
            Step::Run { key, places, first } => {
                (seat.key, seat.places) = (key, places);
                self.go_on(client, first);
            }
        }
    }

    fn with_scene<T>(
        &mut self,
        who: usize,
        act: impl FnOnce(&mut dyn Client, &mut Scene<'_>) -> T,
    ) -> T {
        let mut client = self.seats[who]
            .client
            .take()
            .expect("a client acts once at a time");
        let mut scene = Scene {
            who,
            time: self.time,
            now: self.now(who),
            phase: self.phase,
            random: &mut self.random,
            history: &mut self.history,
            turns: &mut self.turns,
            places: &self.places,
            barred: &self.barred,
            turned: self.turned,
            trace: self.trace,
        };
        let result = act(&mut *client, &mut scene);
        self.seats[who].client = Some(client);
        result
    }

    fn note(&self, words: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} {}", self.time, words());
        }
    }
}
