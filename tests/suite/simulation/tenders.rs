//! Who looks after nodes and lists: a tender founds the pool, then brings nodes back, one after
//! the other; a committer ends a step from one node list to the next.
//!
//! Two tenders get in each other's way, as two hosts do.

use std::collections::HashMap;
use std::rc::Rc;

use memring_pool::replica::{
    Close, Commit, Committing, Distrust, Ending, Found, Founded, Founding, Machine, Mend, Open,
    PREFERRED, Resync, Resynced, Send, Turn, Waiting, Watch, Wish,
};

use super::clients::{Engine, LEASE, Shared};
use super::files::{Host, Spot};
use super::node::Key;
use super::world::{Client, Phase, Scene, Step};

/// A machine about the records of all nodes at these places.
fn about(all: &Spot, first: Vec<Send>) -> Step {
    Step::Run {
        key: Key::MAX,
        places: all.places.clone(),
        first,
    }
}

/// The keys that the nodes at these places list; none, when one of them does not tell.
fn listed(all: &Spot, places: impl Iterator<Item = usize>, scene: &Scene<'_>) -> Option<Vec<Key>> {
    let mut keys = Vec::new();
    for place in places {
        let list = scene.list(all.places[place])?;
        keys.extend(list.into_iter().map(|(key, _)| key));
    }
    keys.sort_unstable();
    keys.dedup();
    Some(keys)
}

/// Brings nodes back.
pub(super) struct Tender {
    shared: Rc<Shared>,
    host: Host,
    engine: Engine,
    /// All nodes, as the pass under way knows them.
    all: Spot,
    target: usize,
    /// Which process each node was when it was last seen trusted, and in which life.
    known: HashMap<(usize, u64), u64>,
    /// A pass under way, and the keys it still has to copy.
    pass: Option<(Resync, Vec<Key>)>,
    /// How long the target has waited, where nobody lists anything, seconds.
    lasted: Option<u64>,
}

impl Tender {
    /// Such a process on a host with this file.
    pub(super) fn new(shared: &Rc<Shared>, host: Host) -> Tender {
        Tender {
            all: shared.files.everyone(&host).0,
            shared: Rc::clone(shared),
            host,
            engine: Engine::Idle,
            target: 0,
            known: HashMap::new(),
            pass: None,
            lasted: None,
        }
    }

    fn spot(&self, key: Key) -> Spot {
        let rules = self.shared.pool.rules;
        self.shared.files.spot(key, &self.host, rules)
    }

    /// The keys that prefer the target, as all other nodes list them.
    fn missing(&self, scene: &Scene<'_>) -> Option<Vec<Key>> {
        let others = (0..self.all.places.len()).filter(|&place| place != self.target);
        let mut keys = listed(&self.all, others, scene)?;
        let name = &self.all.names[self.target];
        keys.retain(|&key| self.spot(key).names.contains(name));
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
            return about(&self.all, first);
        };
        let Spot {
            names,
            places,
            mut parts,
        } = self.spot(key);
        let name = &self.all.names[self.target];
        let target = names.iter().position(|other| other == name).unwrap_or(0);
        let mut mend = Mend::new(
            &names,
            target,
            self.shared.pool.copies,
            self.shared.pool.rules,
            &mut first,
        );
        if let Some(before) = parts.pop() {
            mend = mend.believing(before);
        }
        self.engine = Engine::Mend(mend);
        self.pass = Some((resync, keys));
        Step::Run { key, places, first }
    }

    /// Nobody lists anything: the target waits, or has waited long enough.
    fn wait(&mut self, mut resync: Resync, wait: u64, scene: &mut Scene<'_>) -> Step {
        if !resync.waits() {
            let node = self.all.places[self.target];
            let noted = resync.record().zip(scene.wait(node));
            if let Some((record, (now, _))) = noted {
                scene.note(|| format!("{} waits from now on", self.target));
                scene.note_wait(node, Waiting::begin(record, now));
            }
        } else if self.lasted.is_some_and(|lasted| lasted >= wait) {
            let mut first = Vec::new();
            resync.finish(&mut first);
            self.engine = Engine::Resync(resync);
            return about(&self.all, first);
        }
        Step::Think(scene.random.between(20, 200))
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Step {
        let mut first = Vec::new();
        let random = scene.random.bits();
        self.host.look(scene.time);
        (self.all, _) = self.shared.files.everyone(&self.host);
        let names = &self.all.names;
        let epochs = self.shared.files.epochs(&self.host);
        if !self.shared.founded.get() {
            // Nobody else founds here: what a fault left half done is its own.
            let founding = Founding::new(names, random, &mut first).at(epochs).late();
            self.engine = Engine::Founding(founding);
            return about(&self.all, first);
        }
        if scene.phase == Phase::Finale || !self.shared.pool.rules.resync {
            return Step::Over;
        }
        if self.shared.pool.step.is_some() {
            // A tender looks at all records before it does anything.
            let seen = scene.epochs(&self.all.places);
            let rules = self.shared.pool.rules;
            if !self.shared.files.admits(&self.host, seen, rules) {
                return Step::Think(100);
            }
        }
        self.target = (self.target + 1) % names.len();
        let rules = self.shared.pool.rules;
        let node = self.all.places[self.target];
        if let Some((id, process)) = scene.trusted(node) {
            let known = *self.known.entry((node, id)).or_insert(process);
            if known != process && rules.process {
                let name = names[self.target].clone();
                self.engine = Engine::Distrust(Distrust::new(name, id, &mut first));
                return Step::Run {
                    key: Key::MAX,
                    places: vec![node],
                    first,
                };
            }
        }
        let noted = match self.shared.pool.mute.and_then(|_| scene.wait(node)) {
            Some((now, Some(waiting))) => Some((waiting.lasted(now), waiting)),
            _ => None,
        };
        self.lasted = noted.as_ref().and_then(|(lasted, _)| *lasted);
        let waiting = noted.and_then(|(lasted, waiting)| lasted.map(|_| waiting));
        let resync = Resync::new(names, self.target, rules, random, &mut first);
        let mut resync = resync.waiting(waiting);
        if self.shared.pool.step.is_some() {
            resync = resync.at(epochs.seen);
        }
        self.engine = Engine::Resync(resync);
        about(&self.all, first)
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
                if let (Some(Resynced::Copy), Some(wait)) = (result, self.shared.pool.mute) {
                    return self.wait(resync, wait, scene);
                }
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
            Engine::Distrust(distrust) => {
                let result = distrust.result();
                scene.note(|| format!("trust taken from {}: {result:?}", self.target));
                Step::Think(scene.random.between(20, 200))
            }
            _ => self.begin(scene),
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.engine.machine()
    }

    fn killed(&mut self, _scene: &mut Scene<'_>) {
        self.engine = Engine::Idle;
        self.known.clear();
        self.pass = None;
    }
}

/// Ends the step: announces the new list, brings every key that moves to its nodes, and has all
/// records say that it counts alone.
pub(super) struct Committer {
    shared: Rc<Shared>,
    host: Host,
    engine: Engine,
    /// Not before this virtual millisecond.
    from: u64,
    all: Spot,
    /// Between the two halves: the keys that still have to move, the one that moves, and its
    /// nodes of the new list.
    moving: Option<(Commit, Vec<Key>)>,
    now: Vec<usize>,
    /// The key is brought with its turn, as it could not be without.
    turn: bool,
    /// Whether it lies on all nodes of the new list, once its turn is given back.
    whole: bool,
    /// Who had its turn when it could not be had.
    watch: (Key, Watch),
}

impl Committer {
    /// Such a process on a host with this file, which begins at `from`, virtual milliseconds.
    pub(super) fn new(shared: &Rc<Shared>, host: Host, from: u64) -> Committer {
        Committer {
            all: shared.files.everyone(&host).0,
            shared: Rc::clone(shared),
            host,
            engine: Engine::Idle,
            from,
            moving: None,
            now: Vec::new(),
            turn: false,
            whole: false,
            watch: Default::default(),
        }
    }

    fn begin(&mut self, scene: &mut Scene<'_>) -> Step {
        if scene.time < self.from || !self.shared.founded.get() {
            return Step::Think(100);
        }
        let files = &self.shared.files;
        self.host.look(scene.time);
        let spare;
        (self.all, spare) = files.everyone(&self.host);
        let seen = scene.epochs(&self.all.places);
        let rules = self.shared.pool.rules;
        if seen.is_none() || !files.admits(&self.host, seen, rules) {
            return Step::Think(100);
        }
        let mut first = Vec::new();
        let random = scene.random.bits();
        let epochs = files.epochs(&self.host);
        let commit = Commit::new(&self.all.names, spare, epochs, random, &mut first);
        self.engine = Engine::Commit(commit);
        about(&self.all, first)
    }

    /// The first half is done: which keys move?
    fn list(&mut self, commit: Commit, scene: &mut Scene<'_>) -> Step {
        let (_, spare) = self.shared.files.everyone(&self.host);
        let here = |place: &usize| Some(*place) != spare || scene.reaches(self.all.places[*place]);
        let places = (0..self.all.places.len()).filter(here);
        let Some(mut keys) = listed(&self.all, places, scene) else {
            return Step::Think(scene.random.between(20, 200));
        };
        keys.retain(|&key| !self.spot(key).parts.is_empty());
        self.moving = Some((commit, keys));
        self.bring(scene)
    }

    fn spot(&self, key: Key) -> Spot {
        let rules = self.shared.pool.rules;
        self.shared.files.spot(key, &self.host, rules)
    }

    fn bring(&mut self, scene: &mut Scene<'_>) -> Step {
        let Some((mut commit, keys)) = self.moving.take() else {
            return Step::Think(1);
        };
        let mut first = Vec::new();
        let Some(key) = keys.last().copied() else {
            commit.finish(&mut first);
            self.engine = Engine::Commit(commit);
            return about(&self.all, first);
        };
        let Spot {
            names,
            places,
            parts,
        } = self.spot(key);
        self.now = parts.first().cloned().unwrap_or_default();
        let wish = Wish {
            nodes: names,
            asked: PREFERRED,
            copies: self.shared.pool.copies,
            rules: self.shared.pool.rules,
            turn: self.turn.then_some(Turn::to_bring(LEASE)),
            fresh: false,
            epoch: Some(self.shared.files.epochs(&self.host).seen),
            host: "committer".into(),
            random: scene.random.bits(),
        };
        let mut open = Open::over(wish, parts, scene.now, &mut first);
        if self.turn && self.watch.0 == key {
            open.go_on(self.watch.1.clone());
        }
        self.engine = Engine::Open(Box::new(open));
        self.moving = Some((commit, keys));
        Step::Run { key, places, first }
    }

    /// One key was read, and its turn given back if it was taken.
    fn brought(&mut self, scene: &mut Scene<'_>) -> Step {
        let tried = std::mem::take(&mut self.turn);
        match (self.whole, tried) {
            (true, _) => {
                if let Some((_, keys)) = &mut self.moving {
                    keys.pop();
                }
                self.bring(scene)
            }
            (false, false) => {
                self.turn = true;
                self.bring(scene)
            }
            (false, true) => {
                self.moving = None;
                Step::Think(scene.random.between(20, 200))
            }
        }
    }

    fn key(&self) -> (Key, Vec<usize>) {
        let keys = self.moving.as_ref().map(|(_, keys)| keys.as_slice());
        let key = keys.and_then(<[Key]>::last).copied().unwrap_or_default();
        (key, self.spot(key).places)
    }
}

impl Client for Committer {
    fn next(&mut self, scene: &mut Scene<'_>) -> Step {
        match std::mem::replace(&mut self.engine, Engine::Idle) {
            Engine::Commit(commit) => {
                let result = commit.result();
                scene.note(|| format!("commit: {result:?}"));
                match result {
                    Some(Committing::Move) => self.list(commit, scene),
                    Some(Committing::Done) => {
                        self.shared.committed();
                        Step::Over
                    }
                    _ => Step::Think(scene.random.between(20, 200)),
                }
            }
            Engine::Open(open) => {
                let Some(opened) = open.outcome() else {
                    return Step::Think(1);
                };
                let free = self.turn || !opened.grips.is_taken();
                self.whole = opened.is_whole(&self.now) && free;
                if opened.found == Found::Locked {
                    self.watch = (self.key().0, opened.grips.watch());
                }
                if !self.turn {
                    return self.brought(scene);
                }
                let mut first = Vec::new();
                let grips = opened.grips;
                let close = Close::new(grips, Ending::Release, 1, scene.now, 0, &mut first);
                self.engine = Engine::Close(Box::new(close));
                let (key, places) = self.key();
                Step::Run { key, places, first }
            }
            Engine::Close(_) => self.brought(scene),
            _ => self.begin(scene),
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        self.engine.machine()
    }

    fn killed(&mut self, _scene: &mut Scene<'_>) {
        self.engine = Engine::Idle;
        self.moving = None;
    }
}
