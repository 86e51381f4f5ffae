//! What others do with two copies, on the same nodes and under the same faults.
//!
//! | policy | who |
//! |---|---|
//! | read the owner, a miss is a miss | magent, php-memcached with replicas |
//! | read the next copy on a miss, delete plainly | pecl-memcache with redundancy |
//! | read both, the newest wins, delete plainly | a client of one's own that does better |
//!
//! They write and delete every copy and call it done when one said so. Their locks are taken
//! to be perfect here (the world keeps the turn), so all that goes wrong is the copies' fault:
//! without faults none of them violates anything, and that is tested first.

use std::rc::Rc;
use std::sync::Arc;

use memring_pool::replica::{
    Command, Lost, Machine, Over, Reply, Send, Stamp, TOMBSTONE_EXTRA, Version,
};

use super::faults::{Fault, Kind, Plan};
use super::history::{Answer, Base, Change, History, Reading, Violation};
use super::node::Key;
use super::random::Random;
use super::world::{Client, Phase, Scene, Setup, Step, World};
use super::{Tally, sweep};

/// Copies each of them keeps.
const COPIES: usize = 2;
/// Seconds a session lives: longer than a run.
const LIFE: u32 = 7200;

/// Which policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Policy {
    Primary,
    Next,
    Newest,
}

/// What a machine is to do.
#[derive(Clone, Debug)]
enum Task {
    Read,
    Write(Version, Arc<[u8]>),
    Delete,
}

/// One call of a rival.
#[derive(Debug)]
struct Rival {
    policy: Policy,
    task: Task,
    asked: usize,
    replies: Vec<Result<Reply, Lost>>,
    done: bool,
}

/// What a rival's read found: version and value, nothing, or no answer.
type Got = Option<Option<(Version, Arc<[u8]>)>>;

impl Rival {
    fn new(policy: Policy, task: Task, out: &mut Vec<Send>) -> Rival {
        let mut rival = Rival {
            policy,
            task,
            asked: 0,
            replies: Vec::new(),
            done: false,
        };
        let at_once = match (&rival.task, policy) {
            (Task::Read, Policy::Primary | Policy::Next) => 1,
            _ => COPIES,
        };
        for _ in 0..at_once {
            rival.ask(out);
        }
        rival
    }

    fn ask(&mut self, out: &mut Vec<Send>) {
        let command = match &self.task {
            Task::Read => Command::Read {
                value: true,
                token: false,
            },
            // A plain set and a plain delete: see `Node::blind`.
            Task::Write(version, data) => Command::Write {
                over: Over::Cas(0),
                stamp: Stamp {
                    version: *version,
                    inc: 1,
                    tombstone: false,
                    mended: false,
                    witness: false,
                },
                life: LIFE,
                data: Arc::clone(data),
            },
            Task::Delete => Command::Remove { cas: 0 },
        };
        let place = self.asked;
        self.asked += 1;
        out.push(Send {
            place,
            commands: vec![command],
        });
    }

    /// A write or a delete is done when one node says so.
    fn stored(&self) -> bool {
        let yes =
            |reply: &Result<Reply, Lost>| matches!(reply, Ok(Reply::Done { .. } | Reply::NotFound));
        self.replies.iter().any(yes)
    }

    /// What a read found.
    fn got(&self) -> Got {
        let answered = self.replies.iter().any(Result::is_ok);
        let items = self.replies.iter().filter_map(|reply| match reply {
            Ok(Reply::Item(item)) => Some((item.stamp?.version, item.data.clone()?)),
            _ => None,
        });
        answered.then(|| items.max_by_key(|(version, _)| *version))
    }
}

impl Machine for Rival {
    fn heard(
        &mut self,
        _now: u64,
        _place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        self.replies
            .extend(replies.map(|mut replies| replies.pop()).transpose());
        if self.replies.len() < self.asked {
            return;
        }
        let again = matches!(
            (&self.task, self.policy, self.replies.last()),
            (Task::Read, Policy::Primary, Some(Err(_)))
                | (Task::Read, Policy::Next, Some(Err(_) | Ok(Reply::Miss)))
        );
        if again && self.asked < COPIES {
            self.ask(out);
        } else {
            self.done = true;
        }
    }

    fn wait(&self) -> Option<u64> {
        None
    }

    fn wake(&mut self, _now: u64, _out: &mut Vec<Send>) {}

    fn is_done(&self) -> bool {
        self.done
    }
}

/// Where a session client is.
#[derive(Debug)]
enum Doing {
    Idle,
    Waiting(Key),
    /// A read in its turn, or without one.
    Reading(Key, Reading, bool),
    /// Between open and close.
    Holding(Key, Reading, Version),
    Changing(Key, Change),
}

/// A process that opens sessions, thinks, and writes or destroys them.
struct Process {
    policy: Policy,
    doing: Doing,
    machine: Rival,
    keys: Key,
    nodes: usize,
    /// Only reads each key once, in the finale.
    last: bool,
    next_key: Key,
}

impl Process {
    fn run(&mut self, key: Key, task: Task) -> Step {
        let mut first = Vec::new();
        self.machine = Rival::new(self.policy, task, &mut first);
        let places = (0..COPIES)
            .map(|place| (key as usize + place) % self.nodes)
            .collect();
        Step::Run { key, places, first }
    }

    fn read(&mut self, key: Key, held: bool, scene: &mut Scene<'_>) -> Step {
        self.doing = Doing::Reading(key, scene.history.begin_read(key), held);
        self.run(key, Task::Read)
    }

    fn idle(&mut self, scene: &mut Scene<'_>) -> Step {
        if self.last {
            if scene.phase != Phase::Finale {
                return Step::Think(200);
            }
            if self.next_key == self.keys {
                return Step::Over;
            }
            self.next_key += 1;
            return self.read(self.next_key - 1, false, scene);
        }
        if scene.phase != Phase::Work {
            return Step::Over;
        }
        let key = some_key(self.keys, scene.random);
        if scene.random.chance(40) {
            return self.read(key, false, scene);
        }
        self.doing = Doing::Waiting(key);
        Step::Think(scene.random.between(1, 60))
    }

    fn over(&mut self, key: Key, scene: &mut Scene<'_>) -> Step {
        if scene.turns.get(&key) == Some(&scene.who) {
            scene.turns.remove(&key);
        }
        self.doing = Doing::Idle;
        Step::Think(scene.random.between(1, 60))
    }
}

impl Client for Process {
    fn next(&mut self, scene: &mut Scene<'_>) -> Step {
        match std::mem::replace(&mut self.doing, Doing::Idle) {
            Doing::Idle => self.idle(scene),
            Doing::Waiting(key) => {
                if scene.turns.contains_key(&key) {
                    self.doing = Doing::Waiting(key);
                    return Step::Think(scene.random.between(1, 10));
                }
                scene.turns.insert(key, scene.who);
                self.read(key, true, scene)
            }
            Doing::Reading(key, reading, held) => {
                let got = self.machine.got();
                let answer = match &got {
                    None => Answer::Refused { needless: false },
                    Some(None) => Answer::Nothing,
                    Some(Some((_, data))) => {
                        Answer::Value(Change::of(data).expect("our own value"))
                    }
                };
                scene.note(|| format!("read {key}: {answer:?}"));
                scene.history.end_read(scene.time, reading, answer);
                match got {
                    Some(found) if held => {
                        let version = found.map_or(Version::default(), |(version, _)| version);
                        self.doing = Doing::Holding(key, reading, version);
                        Step::Think(scene.random.between(0, 20))
                    }
                    _ => self.over(key, scene),
                }
            }
            Doing::Holding(key, reading, seen) => {
                let base = Base::Read(reading);
                if scene.random.chance(15) {
                    let change = scene.history.begin_destroy(key, base);
                    self.doing = Doing::Changing(key, change);
                    return self.run(key, Task::Delete);
                }
                let life = u64::from(LIFE + TOMBSTONE_EXTRA) * 1000;
                let change = scene.history.begin_write(scene.time, key, base, life);
                let version = Version::next(scene.now, seen, scene.random.bits() as u32);
                self.doing = Doing::Changing(key, change);
                self.run(key, Task::Write(version, change.data()))
            }
            Doing::Changing(key, change) => {
                let stored = self.machine.stored();
                scene.note(|| format!("change {} of {key}: {stored}", change.0));
                match stored {
                    true => scene.history.ack(scene.time, change),
                    false => scene.history.fail(change),
                }
                self.over(key, scene)
            }
        }
    }

    fn machine(&mut self) -> &mut dyn Machine {
        &mut self.machine
    }

    fn killed(&mut self, scene: &mut Scene<'_>) {
        if let Doing::Changing(_, change) = self.doing {
            scene.history.fail(change);
        }
        scene.turns.retain(|_, who| *who != scene.who);
        self.doing = Doing::Idle;
    }
}

fn play(policy: Policy, plan: Plan, seed: u64, trace: bool) -> History {
    let setup = Setup {
        nodes: vec![true; 3],
        blind: true,
        timeout: 100,
        duration: 30_000,
        plan,
        settle: 5000,
        calm: Rc::default(),
    };
    let process = |last| Process {
        policy,
        doing: Doing::Idle,
        machine: Rival::new(policy, Task::Read, &mut Vec::new()),
        keys: 8,
        nodes: 3,
        last,
        next_key: 0,
    };
    let clients = [false, false, false, true]
        .into_iter()
        .zip([0, 200_000, -300_000, 0]);
    let clients =
        clients.map(|(last, offset)| (Box::new(process(last)) as Box<dyn Client>, offset));
    World::play(setup, clients.collect(), seed, trace)
}

/// Two sessions are busy; the others are idle for seconds, as most are.
pub(super) fn some_key(keys: Key, random: &mut Random) -> Key {
    let keys = if random.chance(95) { 2 } else { keys as usize };
    random.below(keys) as Key
}

/// The faults of the model, so far apart that any resync could have been done.
const APART: Plan = Plan::Draw {
    kinds: Kind::MODEL,
    row: 1,
    pause: 5000,
};

fn violates(policy: Policy, kinds: &[Violation]) {
    let tally: Tally = sweep(60, |seed, trace| play(policy, APART, seed, trace));
    println!("{policy:?}: {tally}");
    for kind in kinds {
        assert!(
            tally.single || tally.of(*kind) > 0,
            "{policy:?} shows no {kind}: {tally}"
        );
    }
}

#[test]
fn without_faults_no_rival_violates_anything() {
    for policy in [Policy::Primary, Policy::Next, Policy::Newest] {
        let tally = sweep(30, |seed, trace| play(policy, Plan::Calm, seed, trace));
        println!("{policy:?}, calm: {tally}");
        assert!(
            tally.bad == 0 && tally.counts.refused == 0,
            "{policy:?}: {tally}"
        );
        assert!(
            tally.counts.acked == tally.counts.changes,
            "{policy:?}: {tally}"
        );
    }
}

#[test]
fn one_node_back_empty_is_enough_to_lose_sessions_and_an_eviction_too() {
    let crash = Plan::Script(vec![(10_000, Fault::Crash { node: 0 }, 500)]);
    let evict = Plan::Script(vec![(10_000, Fault::Evict { node: 0 }, 0)]);
    for plan in [crash, evict] {
        let tally = sweep(50, |seed, trace| {
            play(Policy::Primary, plan.clone(), seed, trace)
        });
        assert!(
            tally.single || tally.of(Violation::Lost) > 0,
            "{plan:?}: {tally}"
        );
    }
}

#[test]
fn who_reads_the_owner_only_loses_sessions_and_serves_older_ones() {
    violates(
        Policy::Primary,
        &[Violation::Lost, Violation::Older, Violation::Revived],
    );
}

#[test]
fn who_reads_the_next_copy_on_a_miss_serves_older_sessions() {
    violates(
        Policy::Next,
        &[Violation::Lost, Violation::Older, Violation::Revived],
    );
}

#[test]
fn who_takes_the_newest_of_both_but_deletes_plainly_revives_the_destroyed() {
    violates(
        Policy::Newest,
        &[Violation::Lost, Violation::Older, Violation::Revived],
    );
}
