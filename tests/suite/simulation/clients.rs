//! Sessions as we keep them, on the machines of `memring_pool::replica`.
//!
//! A worker opens a session (with its turn, or as read_and_close), thinks, and closes it with
//! a new value, unchanged, with its end, or not at all. A tender brings nodes back: it founds
//! the pool, then passes over every node again and again. Two of them get in each other's way,
//! as two hosts do. A last reader reads every key when all is healed.

use std::cell::Cell;
use std::collections::VecDeque;
use std::rc::Rc;

use memring_pool::replica::{
    Close, Closed, Ending, Found, Founded, Founding, Machine, Mend, Open, Opened, Resync, Resynced,
    Rules, Send, Turn, Wish,
};

use super::faults::Plan;
use super::history::{Answer, Base, Change, History, Reading};
use super::node::Key;
use super::rivals::some_key;
use super::world::{Client, Phase, Scene, Setup, Step, World};

/// Seconds a session lives: longer than a run.
const LIFE: u32 = 7200;
/// How long somebody else may have a turn, milliseconds.
pub(super) const LEASE: u64 = 3000;

/// How a pool is run, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// Per node: does it know the `E` flag?
    pub(super) nodes: Vec<bool>,
    pub(super) copies: usize,
    pub(super) rules: Rules,
    pub(super) plan: Plan,
    /// Seconds a session lives.
    pub(super) life: u32,
    /// Until when work and faults begin, milliseconds.
    pub(super) duration: u64,
    /// Who does what when, and one tender. Nobody: three workers who do anything, and two tenders.
    pub(super) cast: Vec<Role>,
}

/// One worker of a script.
#[derive(Clone, Debug)]
pub(super) struct Role {
    /// What its clock is off by, milliseconds.
    pub(super) clock: i64,
    /// Not before which virtual millisecond it does what.
    pub(super) acts: Vec<(u64, Act)>,
}

/// What a worker of a script does. An ending whose open was refused is left out.
#[derive(Clone, Copy, Debug)]
pub(super) enum Act {
    /// Opens a session and takes its turn.
    Open(Key),
    /// The same, with an id that was just made up.
    New(Key),
    /// Reads it without a turn.
    Look(Key),
    /// Ends what it opened with a new value …
    Write,
    /// … unchanged …
    Touch,
    /// … or with its end.
    Destroy,
}

impl Pool {
    /// Such a pool under all rules, with sessions that outlive a run of random work.
    pub(super) fn new(nodes: &[bool], copies: usize, plan: Plan) -> Pool {
        Pool {
            nodes: nodes.to_vec(),
            copies,
            rules: Rules::ALL,
            plan,
            life: LIFE,
            duration: 20_000,
            cast: Vec::new(),
        }
    }
}

/// What the clients of one run share.
struct Shared {
    pool: Pool,
    names: Vec<Box<str>>,
    founded: Cell<bool>,
    /// Sessions 0 to here exist or did.
    keys: Cell<Key>,
}

impl Shared {
    /// Nodes of a key in order of preference.
    fn places(&self, key: Key) -> Vec<usize> {
        let nodes = self.names.len();
        (0..nodes.min(3))
            .map(|place| (key as usize + place) % nodes)
            .collect()
    }

    fn names(&self, places: &[usize]) -> Vec<Box<str>> {
        places
            .iter()
            .map(|&node| self.names[node].clone())
            .collect()
    }
}

/// Whatever machine a client runs.
enum Engine {
    Idle,
    Open(Box<Open>),
    Close(Box<Close>),
    Founding(Founding),
    Resync(Resync),
    Mend(Mend),
}

impl Engine {
    fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Engine::Idle => panic!("no machine runs"),
            Engine::Open(machine) => &mut **machine,
            Engine::Close(machine) => &mut **machine,
            Engine::Founding(machine) => machine,
            Engine::Resync(machine) => machine,
            Engine::Mend(machine) => machine,
        }
    }
}

/// Where a worker is.
enum Doing {
    Idle,
    Opening(Opening),
    Holding {
        key: Key,
        reading: Reading,
        opened: Box<Opened>,
    },
    /// With the change it makes, or the value it keeps alive since then.
    Closing {
        change: Option<Change>,
        touch: Option<(Change, u64)>,
    },
}

/// A read under way.
#[derive(Clone, Copy)]
struct Opening {
    key: Key,
    reading: Reading,
    turn: bool,
    fresh: bool,
    /// Two trusted nodes were there when it began, and so many faults had begun and ended.
    since: Option<u64>,
}

/// What a worker is there for.
enum Part {
    /// Anything, as chance has it.
    Any,
    /// Reads each key once, in the finale: the next one.
    Last(Key),
    /// A script: what is left of it.
    Script(VecDeque<(u64, Act)>),
}

struct Worker {
    shared: Rc<Shared>,
    engine: Engine,
    doing: Doing,
    part: Part,
}

impl Worker {
    fn open(&mut self, key: Key, turn: bool, fresh: bool, scene: &mut Scene<'_>) -> Step {
        let places = self.shared.places(key);
        // Most give up before a lease is over, some outwait it and take the turn.
        let patient = matches!(self.part, Part::Script(_)) || scene.random.chance(20);
        let wait = if patient { LEASE + 2000 } else { 1500 };
        let wish = Wish {
            nodes: self.shared.names(&places),
            copies: self.shared.pool.copies,
            rules: self.shared.pool.rules,
            turn: turn.then_some(Turn { wait, lease: LEASE }),
            fresh,
            host: format!("host{}", scene.who).into(),
            random: scene.random.bits(),
        };
        let reading = scene.history.begin_read(key);
        let mut first = Vec::new();
        self.engine = Engine::Open(Box::new(Open::new(wish, scene.now, &mut first)));
        self.doing = Doing::Opening(Opening {
            key,
            reading,
            turn,
            fresh,
            since: scene.has_two(&places).then_some(scene.turned),
        });
        Step::Run { key, places, first }
    }

    fn idle(&mut self, scene: &mut Scene<'_>) -> Step {
        match &mut self.part {
            Part::Any => {}
            Part::Last(_) if scene.phase != Phase::Finale => return Step::Think(200),
            Part::Last(key) if *key == self.shared.keys.get() => return Step::Over,
            Part::Last(key) => {
                let now = *key;
                *key += 1;
                return self.open(now, false, false, scene);
            }
            Part::Script(_) => return self.act(scene),
        }
        if scene.phase != Phase::Work {
            return Step::Over;
        }
        if !self.shared.founded.get() {
            return Step::Think(20);
        }
        if scene.random.chance(1) {
            let key = self.shared.keys.get();
            self.shared.keys.set(key + 1);
            return self.open(key, true, true, scene);
        }
        let key = some_key(self.shared.keys.get(), scene.random);
        let turn = scene.random.chance(65);
        self.open(key, turn, false, scene)
    }

    /// What the script says now.
    fn act(&mut self, scene: &mut Scene<'_>) -> Step {
        let Part::Script(acts) = &mut self.part else {
            return Step::Over;
        };
        match acts.front().copied() {
            None => Step::Over,
            Some((time, _)) if time > scene.time => Step::Think(time - scene.time),
            Some((_, act)) => {
                acts.pop_front();
                match act {
                    Act::Open(key) => self.open(key, true, false, scene),
                    Act::New(key) => self.open(key, true, true, scene),
                    Act::Look(key) => self.open(key, false, false, scene),
                    Act::Write | Act::Touch | Act::Destroy => self.act(scene),
                }
            }
        }
    }

    fn opened(&mut self, opening: Opening, opened: Opened, scene: &mut Scene<'_>) -> Step {
        let Opening {
            key,
            reading,
            turn,
            fresh,
            since,
        } = opening;
        let places = self.shared.places(key);
        let known = matches!(self.part, Part::Last(_))
            || (fresh && places.iter().any(|&node| scene.reaches(node)))
            || (scene.has_two(&places) && since == Some(scene.turned));
        let answer = match &opened.found {
            Found::Value(data) => Change::of(data).map_or(Answer::Strange, Answer::Value),
            Found::Nothing => Answer::Nothing,
            Found::Doubt | Found::Locked => Answer::Refused {
                needless: known && opened.found == Found::Doubt,
            },
        };
        scene.note(|| format!("open {key}: {answer:?} {:?}", opened.found));
        scene.history.end_read(scene.time, reading, answer);
        if !turn || matches!(answer, Answer::Refused { .. }) {
            return self.rest(scene);
        }
        let opened = Box::new(opened);
        self.doing = Doing::Holding {
            key,
            reading,
            opened,
        };
        if let Part::Script(acts) = &self.part {
            let until = acts.front().map_or(scene.time, |(time, _)| *time);
            return Step::Think(until.saturating_sub(scene.time));
        }
        // Some think longer than a turn lasts.
        Step::Think(match scene.random.below(200) {
            0 => scene.random.between(2500, 8000),
            _ => scene.random.between(0, 20),
        })
    }

    fn close(&mut self, key: Key, reading: Reading, opened: Opened, scene: &mut Scene<'_>) -> Step {
        let base = Base::Read(reading);
        let (mut change, mut touch) = (None, None);
        let life = u64::from(self.shared.pool.life) * 1000;
        let chosen = match &mut self.part {
            Part::Script(acts) => match acts.pop_front() {
                Some((_, Act::Write)) => 0,
                Some((_, Act::Touch)) => 11,
                Some((_, Act::Destroy)) => 15,
                _ => panic!("a script ends what it opens"),
            },
            Part::Any | Part::Last(_) => scene.random.below(20),
        };
        let ending = match chosen {
            0..=10 => {
                let made = scene.history.begin_write(scene.time, key, base, life);
                change = Some(made);
                Ending::Write(made.data())
            }
            11..=14 => {
                if let Found::Value(data) = &opened.found {
                    touch = Change::of(data).map(|change| (change, scene.time));
                }
                Ending::Touch
            }
            15..=17 => {
                change = Some(scene.history.begin_destroy(key, base));
                Ending::Destroy
            }
            _ => Ending::Release,
        };
        scene.note(|| format!("close {key}: {ending:?}"));
        let random = scene.random.bits() as u32;
        let mut first = Vec::new();
        let close = Close::new(
            opened.grips,
            ending,
            self.shared.pool.life,
            scene.now,
            random,
            &mut first,
        );
        self.engine = Engine::Close(Box::new(close));
        self.doing = Doing::Closing { change, touch };
        Step::Run {
            key,
            places: self.shared.places(key),
            first,
        }
    }

    fn rest(&mut self, scene: &mut Scene<'_>) -> Step {
        self.doing = Doing::Idle;
        Step::Think(scene.random.between(1, 60))
    }
}

impl Client for Worker {
    fn next(&mut self, scene: &mut Scene<'_>) -> Step {
        let engine = std::mem::replace(&mut self.engine, Engine::Idle);
        match (std::mem::replace(&mut self.doing, Doing::Idle), engine) {
            (Doing::Opening(opening), Engine::Open(open)) => {
                let opened = open.outcome().expect("done");
                self.opened(opening, opened, scene)
            }
            (
                Doing::Holding {
                    key,
                    reading,
                    opened,
                },
                _,
            ) => self.close(key, reading, *opened, scene),
            (Doing::Closing { change, touch }, Engine::Close(close)) => {
                let closed = close.outcome().expect("done");
                scene.note(|| format!("closed {change:?}: {closed:?}"));
                let done = matches!(closed, Closed::Done { .. });
                match (change, touch) {
                    (Some(change), _) if done => scene.history.ack(scene.time, change),
                    (Some(change), _) => scene.history.fail(change),
                    (None, Some((change, since))) if done => {
                        let life = u64::from(self.shared.pool.life) * 1000;
                        scene.history.touched(since, change, life);
                    }
                    (None, _) => {}
                }
                self.rest(scene)
            }
            (_, _) => self.idle(scene),
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.engine.machine()
    }

    fn killed(&mut self, scene: &mut Scene<'_>) {
        if let Doing::Closing {
            change: Some(change),
            ..
        } = self.doing
        {
            scene.history.fail(change);
        }
        self.doing = Doing::Idle;
        self.engine = Engine::Idle;
    }
}

/// Brings nodes back.
struct Tender {
    shared: Rc<Shared>,
    engine: Engine,
    target: usize,
    /// A pass under way, and the keys it still has to copy.
    pass: Option<(Resync, Vec<Key>)>,
}

impl Tender {
    fn all(&self, first: Vec<Send>) -> Step {
        Step::Run {
            key: Key::MAX,
            places: (0..self.shared.names.len()).collect(),
            first,
        }
    }

    /// The keys that prefer the target, as all other nodes list them.
    fn missing(&self, scene: &Scene<'_>) -> Option<Vec<Key>> {
        let mut keys = Vec::new();
        for node in (0..self.shared.names.len()).filter(|&node| node != self.target) {
            keys.extend(scene.list(node)?.into_iter().map(|(key, _)| key));
        }
        keys.retain(|&key| self.shared.places(key).contains(&self.target));
        keys.sort_unstable();
        keys.dedup();
        Some(keys)
    }

    fn mend(&mut self) -> Step {
        let Some((mut resync, mut keys)) = self.pass.take() else {
            return Step::Think(1);
        };
        let mut first = Vec::new();
        let Some(key) = keys.pop() else {
            resync.finish(&mut first);
            self.engine = Engine::Resync(resync);
            return self.all(first);
        };
        let places = self.shared.places(key);
        let target = places
            .iter()
            .position(|&node| node == self.target)
            .unwrap_or(0);
        let names = self.shared.names(&places);
        let mend = Mend::new(&names, target, self.shared.pool.rules, &mut first);
        self.engine = Engine::Mend(mend);
        self.pass = Some((resync, keys));
        Step::Run { key, places, first }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Step {
        let mut first = Vec::new();
        let random = scene.random.bits();
        let names = &self.shared.names;
        if !self.shared.founded.get() {
            // Nobody else founds here: what a fault left half done is its own.
            let founding = Founding::new(names, random, &mut first).late();
            self.engine = Engine::Founding(founding);
            return self.all(first);
        }
        if scene.phase == Phase::Finale || !self.shared.pool.rules.resync {
            return Step::Over;
        }
        self.target = (self.target + 1) % names.len();
        let resync = Resync::new(
            names,
            self.target,
            self.shared.pool.rules,
            random,
            &mut first,
        );
        self.engine = Engine::Resync(resync);
        self.all(first)
    }
}

impl Client for Tender {
    fn next(&mut self, scene: &mut Scene<'_>) -> Step {
        match std::mem::replace(&mut self.engine, Engine::Idle) {
            Engine::Founding(founding) => {
                let result = founding.result();
                scene.note(|| format!("founding: {result:?}"));
                if matches!(
                    result,
                    Some(Founded::New | Founded::Nothing | Founded::Joined)
                ) {
                    self.shared.founded.set(true);
                }
                Step::Think(scene.random.between(1, 30))
            }
            Engine::Resync(resync) => {
                let result = resync.result();
                scene.note(|| format!("pass for {}: {result:?}", self.target));
                let keys = match result {
                    Some(Resynced::Copy) => self.missing(scene),
                    _ => None,
                };
                self.pass = keys.map(|keys| (resync, keys));
                match self.pass {
                    Some(_) => self.mend(),
                    None => Step::Think(scene.random.between(20, 200)),
                }
            }
            Engine::Mend(mend) if mend.result() != Some(true) => {
                self.pass = None;
                Step::Think(scene.random.between(20, 200))
            }
            Engine::Mend(_) => self.mend(),
            Engine::Idle | Engine::Open(_) | Engine::Close(_) => self.begin(scene),
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.engine.machine()
    }

    fn killed(&mut self, _scene: &mut Scene<'_>) {
        self.engine = Engine::Idle;
        self.pass = None;
    }
}

/// Plays one seed of such a pool.
pub(super) fn play(pool: &Pool, seed: u64, trace: bool) -> History {
    let setup = Setup {
        nodes: pool.nodes.clone(),
        blind: false,
        timeout: 100,
        duration: pool.duration,
        plan: pool.plan.clone(),
        settle: 5000,
        records: pool.rules.resync,
    };
    let shared = Rc::new(Shared {
        pool: pool.clone(),
        names: (0..pool.nodes.len())
            .map(|node| format!("n{node}").into())
            .collect(),
        founded: Cell::new(false),
        keys: Cell::new(8),
    });
    let worker = |part| -> Box<dyn Client> {
        Box::new(Worker {
            shared: Rc::clone(&shared),
            engine: Engine::Idle,
            doing: Doing::Idle,
            part,
        })
    };
    let tender = || -> Box<dyn Client> {
        Box::new(Tender {
            shared: Rc::clone(&shared),
            engine: Engine::Idle,
            target: 0,
            pass: None,
        })
    };
    let mut clients = match pool.cast.is_empty() {
        true => vec![
            (worker(Part::Any), 0),
            (worker(Part::Any), 300_000),
            (worker(Part::Any), -300_000),
            (tender(), 10_000),
            (tender(), -40_000),
        ],
        false => {
            let roles = pool.cast.iter().map(|role| {
                let acts = role.acts.iter().copied().collect();
                (worker(Part::Script(acts)), role.clock)
            });
            roles.chain([(tender(), 10_000)]).collect()
        }
    };
    clients.push((worker(Part::Last(0)), 0));
    World::play(setup, clients, seed, trace)
}
