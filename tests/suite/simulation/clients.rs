//! Sessions as we keep them, on the machines of `memring_pool::replica`: a pool, who works on
//! it (`workers`, `tenders`), and with which node lists (`files`).

use std::cell::Cell;
use std::rc::Rc;

use memring_pool::replica::{
    Close, Commit, Distrust, Founding, LEASE_SLACK, Machine, Mend, Open, PREFERRED, Resync, Rules,
};

use super::faults::Plan;
use super::files::{Files, Host, Step};
use super::history::History;
use super::node::Key;
use super::random::Random;
use super::tenders::{Committer, Tender};
use super::workers::{Part, Worker};
use super::world::{Calm, Client, Setup, World};

/// Seconds a session lives: longer than a run.
const LIFE: u32 = 7200;
/// How long somebody else may have a turn, milliseconds.
pub(super) const LEASE: u64 = PROMISED + LEASE_SLACK;
/// No turn is taken over sooner, milliseconds.
pub(super) const PROMISED: u64 = 3000;

/// How a pool is run, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Pool {
    /// Per node: does it know the `E` flag?
    pub(super) nodes: Vec<bool>,
    /// How many nodes are asked at once.
    pub(super) asked: usize,
    /// How many have the value.
    pub(super) copies: usize,
    pub(super) rules: Rules,
    pub(super) plan: Plan,
    /// Seconds a session lives.
    pub(super) life: u32,
    /// Until when work and faults begin, milliseconds.
    pub(super) duration: u64,
    /// Who does what when, and one tender. Nobody: three workers who do anything, and two tenders.
    pub(super) cast: Vec<Role>,
    /// No node lists its keys, and who lost something waits so many seconds.
    pub(super) mute: Option<u64>,
    /// How the node list changes in the run. Without a script it is committed, too.
    pub(super) step: Option<Step>,
    /// In a script: from which virtual millisecond on that is committed.
    pub(super) commit: Option<u64>,
}

/// One worker of a script.
#[derive(Clone, Debug)]
pub(super) struct Role {
    /// What its clock is off by, milliseconds.
    pub(super) clock: i64,
    /// Not before which virtual millisecond it does what.
    pub(super) acts: Vec<(u64, Act)>,
    /// From which virtual millisecond on its host has the new file of a step.
    pub(super) file: u64,
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
            asked: PREFERRED,
            copies,
            rules: Rules::ALL,
            plan,
            life: LIFE,
            duration: 20_000,
            cast: Vec::new(),
            mute: None,
            step: None,
            commit: None,
        }
    }
}

/// What the clients of one run share.
pub(super) struct Shared {
    pub(super) pool: Pool,
    pub(super) files: Files,
    pub(super) founded: Cell<bool>,
    /// Sessions 0 to here exist or did.
    pub(super) keys: Cell<Key>,
    calm: Rc<Calm>,
}

impl Shared {
    /// The step is over: from now on the new list's nodes must be believed for a calm.
    pub(super) fn committed(&self) {
        self.calm.expect(self.files.needed(true), false);
    }
}

/// Whatever machine a client runs.
pub(super) enum Engine {
    Idle,
    Open(Box<Open>),
    Close(Box<Close>),
    Founding(Founding),
    Resync(Resync),
    Mend(Mend),
    Commit(Commit),
    Distrust(Distrust),
}

impl Engine {
    pub(super) fn machine(&mut self) -> &mut dyn Machine {
        match self {
            Engine::Idle => panic!("no machine runs"),
            Engine::Open(machine) => &mut **machine,
            Engine::Close(machine) => &mut **machine,
            Engine::Founding(machine) => machine,
            Engine::Resync(machine) => machine,
            Engine::Mend(machine) => machine,
            Engine::Commit(machine) => machine,
            Engine::Distrust(machine) => machine,
        }
    }
}

/// When hosts get the new file of a step, if there is one, and when it is committed.
struct Times {
    random: Random,
    first: u64,
}

impl Times {
    fn new(pool: &Pool, seed: u64) -> Times {
        let mut random = Random::new(!seed);
        let first = match (pool.step, pool.cast.iter().map(|role| role.file).min()) {
            (None, _) => u64::MAX,
            (Some(_), Some(first)) => first,
            (Some(_), None) => random.between(2000, 6000),
        };
        Times { random, first }
    }

    /// A host that gets it at once, or some time later.
    fn host(&mut self, late: bool) -> Host {
        let later = match late {
            true => self.random.between(0, 10_000),
            false => 0,
        };
        Host::new(self.first.saturating_add(later))
    }
}

/// Plays one seed of such a pool.
pub(super) fn play(pool: &Pool, seed: u64, trace: bool) -> History {
    let files = match pool.step {
        Some(step) => Files::step(step),
        None => Files::of(pool.nodes.len()),
    };
    let commits = pool.step.is_some() && (pool.cast.is_empty() || pool.commit.is_some());
    let calm = Rc::new(Calm::default());
    if pool.rules.resync {
        calm.expect(files.needed(false), commits);
    }
    let setup = Setup {
        nodes: pool.nodes.clone(),
        blind: false,
        timeout: 100,
        duration: pool.duration,
        plan: pool.plan.clone(),
        settle: 5000,
        calm: Rc::clone(&calm),
    };
    let shared = Rc::new(Shared {
        pool: pool.clone(),
        files,
        founded: Cell::new(false),
        keys: Cell::new(8),
        calm,
    });
    let mut times = Times::new(pool, seed);
    let worker = |part, host| Box::new(Worker::new(&shared, host, part)) as Box<dyn Client>;
    let tender = |host| Box::new(Tender::new(&shared, host)) as Box<dyn Client>;
    let mut clients = match pool.cast.is_empty() {
        true => vec![
            (worker(Part::Any, times.host(false)), 0),
            (worker(Part::Any, times.host(true)), 300_000),
            (worker(Part::Any, times.host(true)), -300_000),
            (tender(times.host(false)), 10_000),
            (tender(times.host(true)), -40_000),
        ],
        false => {
            let roles = pool.cast.iter().map(|role| {
                let acts = role.acts.iter().copied().collect();
                let host = Host::new(role.file);
                (worker(Part::Script(acts), host), role.clock)
            });
            roles.chain([(tender(times.host(false)), 10_000)]).collect()
        }
    };
    clients.push((worker(Part::Last(0), times.host(false)), 0));
    if commits {
        let (host, wait) = (times.host(false), times.random.between(300, 10_000));
        let from = pool.commit.unwrap_or(times.first + wait);
        clients.push((Box::new(Committer::new(&shared, host, from)), 20_000));
    }
    World::play(setup, clients, seed, trace)
}
