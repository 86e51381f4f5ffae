//! A worker: it opens a session (with its turn, or as read_and_close), thinks, and closes it
//! with a new value, unchanged, with its end, or not at all. A last reader reads every key when
//! all is healed; a worker of a script does what it says.

use std::collections::VecDeque;
use std::rc::Rc;

use memring_pool::replica::{
    Close, Closed, Ending, Epochs, Found, Grips, Machine, Open, Opened, Turn, Wish,
};

use super::clients::{Act, Engine, LEASE, PROMISED, Shared};
use super::files::{Host, Spot};
use super::history::{Answer, Base, Change, Reading};
use super::node::Key;
use super::rivals::some_key;
use super::turns::Held;
use super::world::{Client, Phase, Scene, Step};

/// Where a worker is.
enum Doing {
    Idle,
    Opening(Opening),
    Holding {
        key: Key,
        reading: Reading,
        spot: Rc<Spot>,
        opened: Box<Opened>,
        held: Held,
    },
    /// With the change it makes, or the value it keeps alive since then.
    Closing {
        change: Option<Change>,
        touch: Option<(Change, u64)>,
        held: Option<Held>,
    },
}

/// A read under way.
struct Opening {
    key: Key,
    spot: Rc<Spot>,
    reading: Reading,
    turn: bool,
    fresh: bool,
    /// Two trusted nodes were there when it began, and so many faults had begun and ended.
    since: Option<u64>,
}

/// What a worker is there for.
pub(super) enum Part {
    /// Anything, as chance has it.
    Any,
    /// Reads each key once, in the finale: the next one.
    Last(Key),
    /// A script: what is left of it.
    Script(VecDeque<(u64, Act)>),
}

/// A process that serves requests.
pub(super) struct Worker {
    shared: Rc<Shared>,
    host: Host,
    engine: Engine,
    doing: Doing,
    part: Part,
}

impl Worker {
    /// Such a process on a host with this file.
    pub(super) fn new(shared: &Rc<Shared>, host: Host, part: Part) -> Worker {
        Worker {
            shared: Rc::clone(shared),
            host,
            engine: Engine::Idle,
            doing: Doing::Idle,
            part,
        }
    }

    fn open(&mut self, key: Key, turn: bool, fresh: bool, scene: &mut Scene<'_>) -> Step {
        self.host.look(scene.time);
        let rules = self.shared.pool.rules;
        let spot = Rc::new(self.shared.files.spot(key, &self.host, rules));
        // Most give up before a lease is over, some outwait it and take the turn.
        let patient = matches!(self.part, Part::Script(_)) || scene.random.chance(20);
        let wait = if patient { LEASE + 2000 } else { 1500 };
        let wish = Wish {
            nodes: spot.names.clone(),
            asked: self.shared.pool.asked,
            copies: self.shared.pool.copies,
            rules,
            turn: turn.then_some(Turn { wait, lease: LEASE }),
            fresh,
            epoch: Some(self.shared.files.epochs(&self.host).seen),
            host: format!("host{}", scene.who).into(),
            random: scene.random.bits(),
        };
        let reading = scene.history.begin_read(key);
        let mut first = Vec::new();
        let open = Open::over(wish, spot.parts.clone(), scene.now, &mut first);
        self.engine = Engine::Open(Box::new(open));
        let places = spot.places.clone();
        self.doing = Doing::Opening(Opening {
            key,
            reading,
            turn,
            fresh,
            since: scene.has_two_of_each(&spot).then_some(scene.turned),
            spot,
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
            spot,
            reading,
            turn,
            fresh,
            since,
        } = opening;
        if !self.is_let_in(opened.grips.epochs()) {
            scene.note(|| format!("open {key}: this host's file is behind"));
            let answer = Answer::Refused { needless: false };
            scene.history.end_read(scene.time, reading, answer);
            return self.give_back(key, &spot, opened.grips, scene);
        }
        let known = matches!(self.part, Part::Last(_))
            || (fresh && spot.places.iter().any(|&node| scene.reaches(node)))
            || (scene.has_two_of_each(&spot) && since == Some(scene.turned));
        let answer = match &opened.found {
            Found::Value(data) => match (Change::of(data), opened.unsure) {
                (None, _) => Answer::Strange,
                (Some(change), false) => Answer::Value(change),
                (Some(change), true) => Answer::Perhaps(change),
            },
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
        // A lease begins with the first token, which may be long before the turn is complete.
        let before = opened
            .grips
            .held_since()
            .map_or(0, |at| scene.now.saturating_sub(at));
        let since = scene.time.saturating_sub(before);
        let opened = Box::new(opened);
        self.doing = Doing::Holding {
            key,
            reading,
            spot,
            opened,
            held: scene.history.turns.begin(since, scene.time, key),
        };
        if let Part::Script(acts) = &self.part {
            let until = acts.front().map_or(scene.time, |(time, _)| *time);
            return Step::Think(until.saturating_sub(scene.time));
        }
        // Some think longer than a turn lasts.
        Step::Think(match scene.random.below(200) {
            0 => scene.random.between(2500, 11_000),
            _ => scene.random.between(0, 20),
        })
    }

    fn is_let_in(&self, seen: Option<Epochs>) -> bool {
        let rules = self.shared.pool.rules;
        self.shared.files.admits(&self.host, seen, rules)
    }

    /// Lets a turn go that was taken by a host that may not have it.
    fn give_back(&mut self, key: Key, spot: &Spot, grips: Grips, scene: &mut Scene<'_>) -> Step {
        let mut first = Vec::new();
        let close = Close::new(grips, Ending::Release, 1, scene.now, 0, &mut first);
        self.engine = Engine::Close(Box::new(close));
        self.doing = Doing::Closing {
            change: None,
            touch: None,
            held: None,
        };
        Step::Run {
            key,
            places: spot.places.clone(),
            first,
        }
    }

    fn close(
        &mut self,
        (key, spot): (Key, &Spot),
        (reading, held): (Reading, Held),
        opened: Opened,
        scene: &mut Scene<'_>,
    ) -> Step {
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
        let turns = &mut scene.history.turns;
        turns.ending(scene.time, held, change.is_some());
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
        self.doing = Doing::Closing {
            change,
            touch,
            held: Some(held),
        };
        Step::Run {
            key,
            places: spot.places.clone(),
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
                    spot,
                    opened,
                    held,
                },
                _,
            ) => self.close((key, &spot), (reading, held), *opened, scene),
            (
                Doing::Closing {
                    change,
                    touch,
                    held,
                },
                Engine::Close(close),
            ) => {
                // What a host with an older list writes is nowhere safe once that was announced.
                let stands = self.is_let_in(close.epochs());
                let closed = close.outcome().expect("done");
                scene.note(|| format!("closed {change:?}: {closed:?}, counts: {stands}"));
                let done = stands && matches!(closed, Closed::Done { .. });
                if let Some(held) = held {
                    scene.history.turns.end(scene.time, held);
                }
                if let (Closed::Conflict, Some(held)) = (&closed, held) {
                    scene.history.lost_turn(scene.time, held, PROMISED);
                }
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
        let held = match self.doing {
            Doing::Holding { held, .. } => Some(held),
            Doing::Closing { held, .. } => held,
            _ => None,
        };
        if let Some(held) = held {
            scene.history.turns.end(scene.time, held);
        }
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
