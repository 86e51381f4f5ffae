//! WHO MENDS where no tend runs: workers, in slices at the end of requests.
//!
//! ```text
//!   a session meets a node without trust ─► wanted
//!   the request is over ─► the turn of that node's passes ─► the other nodes' keys listed
//!                          ─► each mended ─► trusted           a slice of it after each request
//! ```
//!
//! A worker goes on with its pass after its own next requests, and gives it up when there was
//! none for a while: then another one begins anew. It does what tend does, slower: one node
//! after the other, every key of it, and only while all others answer. A pool whose node list
//! changes, and one with more keys than a worker should hold, are left to tend.

use crate::call::{Call, Verb};
use crate::config::{Care, NodeSpec, Policy};
use crate::counters::Counter;
use crate::error::{Error, Kind};
use crate::handoff;
use crate::node::Directory;
use crate::pool::Pool;
use crate::pool::copies::host_name;
use crate::pool::resync::stream::Listing;
use crate::pool::resync::wait::Mute;
use crate::pool::resync::{Pass, Passing};
use crate::pool::rules::Rules;
use crate::replica::Resynced;
use crate::shared;
use crate::transport;
use crate::wire::redis::FIRST_PAGE;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A pool that tend looked at within so many milliseconds is mended by it.
const TENDED: u64 = 5000;
/// A node is left for so many milliseconds to the tend of another host, which looks each second.
const GRACE: u64 = 3000;
/// Who met no node without trust for so long begins to wait anew, milliseconds.
const FORGET: u64 = 60_000;
/// Milliseconds between two tries of one process to begin a pass.
const PAUSE: u64 = 1000;
/// The same when only tend can help.
const LONG_PAUSE: u64 = 60_000;
/// A pass that was not gone on with for so long is given up; its turn lives twice as long.
const IDLE: Duration = Duration::from_secs(15);
/// Keys mended at a time: what is begun is ended, however long the slice, and begun only where it
/// is likely to fit.
const AT_ONCE: usize = 16;
/// Most keys of all other nodes together that a worker holds.
const KEYS: usize = 200_000;

/// A pool with a node to be mended.
#[derive(Debug)]
struct Wanted {
    policy: Policy,
    specs: Vec<NodeSpec>,
    rules: Rules,
    record_key: Vec<u8>,
}

/// A pass of this process.
#[derive(Debug)]
struct Work {
    pool: Pool,
    call: Call,
    record_key: Vec<u8>,
    target: usize,
    /// Who has the turn.
    runner: String,
    passing: Passing,
    /// The nodes that list their keys to nobody, and are not missed.
    mute: Vec<Mute>,
    /// The keys found so far, which node is listing, and which one is next.
    keys: HashMap<Vec<u8>, usize>,
    listing: Option<Listing>,
    /// The next page of the node that is next, a Redis.
    cursor: Option<Vec<u8>>,
    next: usize,
    /// When it was gone on with last.
    last: Instant,
    /// The process it belongs to (`shared::generation`).
    owner: u64,
}

/// What a slice came to.
enum Slice {
    /// There is more to do.
    More,
    /// The pass is over.
    Over(Pass),
    /// It cannot be done here, or not now.
    GivenUp(u64),
}

thread_local! {
    static WANTED: RefCell<Option<Wanted>> = const { RefCell::new(None) };
    static WORK: RefCell<Option<Box<Work>>> = const { RefCell::new(None) };
    /// False while there is neither.
    static BUSY: Cell<bool> = const { Cell::new(false) };
    /// Not before this moment anything new is begun, milliseconds as `shared::now`.
    static PAUSED: Cell<u64> = const { Cell::new(0) };
    /// Since when nodes without trust are met, and when one was last, milliseconds.
    static MET: Cell<(u64, u64)> = const { Cell::new((0, 0)) };
    /// Nodes whose last pass here did not mend them, the last one last.
    static FAILED: RefCell<Vec<Box<str>>> = const { RefCell::new(Vec::new()) };
    static NEWS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Tells the workers of this host that a tend mends this pool.
pub fn leave_to_tend(pool: &Pool, record_key: &[u8]) {
    shared::mend(&whose(pool, record_key), shared::now());
}

/// The name of a pool on this host.
fn whose(pool: &Pool, record_key: &[u8]) -> Vec<u8> {
    let mut whose = record_key.to_vec();
    // All lists have the same record key: their nodes tell them apart.
    if pool.policy().name.is_empty() {
        let (mut names, _) = pool.everyone();
        names.sort_unstable();
        whose.extend_from_slice(names.join(" ").as_bytes());
    }
    whose
}

/// Notes that a session of this pool met a node without trust. Where tend mends the
/// pool, or a node does not answer, nothing is to be done here; nor at once, since a tend of
/// another host does it sooner and with less.
pub(crate) fn want(pool: &Pool, record_key: &[u8]) {
    let (now, paused) = (shared::now(), PAUSED.get());
    // A time far ahead is from before a reboot.
    if BUSY.get() || now < paused && paused < now + 2 * LONG_PAUSE {
        return;
    }
    let tended = shared::mended(&whose(pool, record_key), now);
    if tended.is_some_and(|at| now - at < TENDED) {
        return;
    }
    let (first, last) = MET.get();
    let first = if now.saturating_sub(last) > FORGET {
        now
    } else {
        first
    };
    MET.set((first, now));
    if now.saturating_sub(first) < GRACE || pool.has_window() || !pool.out().is_empty() {
        return;
    }
    let specs = (0..pool.len()).filter_map(|index| pool.spec(index).cloned());
    let wanted = Wanted {
        policy: pool.policy().clone(),
        specs: specs.collect(),
        rules: pool.rules(),
        record_key: record_key.to_vec(),
    };
    WANTED.with_borrow_mut(|slot| *slot = Some(wanted));
    BUSY.set(true);
}

/// Begins what is wanted, or goes on with it, for about `slice`; without either it costs nothing.
pub fn carry_on(slice: Duration) {
    if !BUSY.get() {
        return;
    }
    let end = transport::now() + slice;
    let own = shared::generation();
    let work = WORK.take();
    let work = work.filter(|work| work.owner == own && transport::since(work.last) < IDLE);
    let wanted = WANTED.take();
    let mut work = match (work, wanted) {
        (Some(work), _) => work,
        (None, Some(wanted)) => match Work::begin(wanted) {
            Ok(work) => Box::new(work),
            Err(milliseconds) => return pause(milliseconds),
        },
        (None, None) => return pause(0),
    };
    match work.slice(end) {
        Slice::More => {
            work.last = transport::now();
            WORK.set(Some(work));
        }
        Slice::Over(pass) => {
            work.give_turn();
            let who = work.pool.ring_name(work.target);
            work.note(pass.end == Resynced::Trusted);
            if pass.end == Resynced::Trusted {
                shared::count(Counter::WorkerPasses);
                handoff::forget(&work.record_key, &who);
                tell(format!(
                    "node {who} got what it missed ({} keys looked at by this worker, at the end of requests) and is trusted. With memring tend it takes seconds",
                    pass.keys
                ));
            }
            pause(PAUSE);
        }
        Slice::GivenUp(milliseconds) => {
            work.give_turn();
            work.note(false);
            pause(milliseconds);
        }
    }
}

/// The end of the process: who waits for the turn of a pass need not wait longer.
pub fn end() {
    if let Some(mut work) = WORK
        .take()
        .filter(|work| work.owner == shared::generation())
    {
        work.give_turn();
    }
}

/// What there is to tell since the last look, as sentences for the log.
pub(crate) fn news() -> Vec<String> {
    NEWS.take()
}

fn tell(news: String) {
    NEWS.with_borrow_mut(|all| all.push(news));
}

/// Nothing is under way, and nothing begins for so many milliseconds.
fn pause(milliseconds: u64) {
    BUSY.set(false);
    PAUSED.set(shared::now() + milliseconds);
}

/// Tells of a node that waits because others list their keys to nobody, when that begins and when it
/// is over; for how long it is left, milliseconds.
fn waited(pool: &Pool, target: usize, record_key: &[u8], mute: &[Mute], pass: Pass) -> u64 {
    let who = pool.ring_name(target);
    match (pass.wait, mute.first()) {
        (Some(wait), Some(mute)) => {
            if wait.begun {
                tell(format!(
                    "node {who} cannot be given what it lacks: {} does not list its keys ({}). It is trusted when all that it may lack has ended, in {} s; memring status says what can be done",
                    pool.ring_name(mute.place),
                    mute.said,
                    wait.left
                ));
            }
            (wait.left * 1000).clamp(PAUSE, LONG_PAUSE)
        }
        (None, Some(_)) if pass.end == Resynced::Trusted => {
            shared::count(Counter::WorkerPasses);
            handoff::forget(record_key, &who);
            tell(format!(
                "node {who} is trusted: all that it may have lacked has ended"
            ));
            PAUSE
        }
        _ => PAUSE,
    }
}

impl Work {
    /// Takes the turn and opens a pass for the first node that can be mended now.
    ///
    /// # Errors
    /// How long to leave it, milliseconds, where there is none.
    fn begin(wanted: Wanted) -> Result<Work, u64> {
        let mut pool = Pool::new(wanted.policy);
        pool.set_rules(wanted.rules);
        let mut directory = Directory::new();
        for mut spec in wanted.specs {
            // Who is asked here was not out a moment ago.
            (spec.retry_interval, spec.care) = (0, Care::Interval);
            spec.written.retry = true;
            pool.add(spec, &mut directory);
        }
        let (record_key, mut call) = (wanted.record_key, Call::new());
        let survey = pool.records(&record_key, &mut call);
        if pool.fits(&survey).is_err() || survey.blocker().is_some() {
            return Err(PAUSE);
        }
        let own = transport::process().unwrap_or_else(|| std::process::id().into());
        let runner = format!("{}/{own}", host_name());
        // Whose turn somebody has, or who could not be mended, keeps no other one from it.
        let mut targets: Vec<usize> = survey.to_mend().collect();
        let failed = FAILED.with_borrow(Clone::clone);
        targets.sort_by_key(|target| failed.iter().position(|who| **who == *survey.name(*target)));
        let mut left = PAUSE;
        for target in targets {
            let Ok(held) = pool.take_turn(target, &record_key, &runner, &mut call) else {
                continue;
            };
            let Ok(mute) = pool.mute(Some(target), &mut call) else {
                pool.give_turn(target, &record_key, &runner, &mut call);
                continue;
            };
            match pool.open_beside(&mute, target, &record_key, shared::throw(), &mut call) {
                Ok(passing) => {
                    return Ok(Work {
                        pool,
                        call,
                        record_key,
                        target,
                        passing: if held { passing.of(&runner) } else { passing },
                        runner,
                        mute,
                        keys: HashMap::new(),
                        listing: None,
                        cursor: None,
                        next: 0,
                        last: transport::now(),
                        owner: shared::generation(),
                    });
                }
                Err(pass) => {
                    left = left.max(waited(&pool, target, &record_key, &mute, pass));
                    pool.give_turn(target, &record_key, &runner, &mut call);
                }
            }
        }
        Err(left)
    }

    /// Remembers what its node came to: others are tried before one that could not be mended.
    fn note(&self, mended: bool) {
        let who = self.pool.ring_name(self.target);
        FAILED.with_borrow_mut(|failed| {
            failed.retain(|other| *other != who);
            if !mended {
                failed.push(who);
            }
        });
    }

    fn give_turn(&mut self) {
        let (pool, call) = (&mut self.pool, &mut self.call);
        pool.give_turn(self.target, &self.record_key, &self.runner, call);
    }

    fn slice(&mut self, end: Instant) -> Slice {
        while self.listing.is_some() || self.next < self.pool.len() {
            if let Some(slice) = self.list(end) {
                return slice;
            }
        }
        if self.next == self.pool.len() {
            self.next += 1;
            self.passing.copy(std::mem::take(&mut self.keys));
        }
        loop {
            let begun = transport::now();
            if let Some(pass) = self.pool.go_on(&mut self.passing, AT_ONCE, &mut self.call) {
                return Slice::Over(pass);
            }
            // The next keys will take as long as these did.
            if transport::now() + transport::since(begun) >= end {
                return Slice::More;
            }
        }
    }

    /// Lists on; `None` when a node has told all it has.
    fn list(&mut self, end: Instant) -> Option<Slice> {
        let mute = self.mute.iter().any(|mute| mute.place == self.next);
        if (self.next == self.target || mute) && self.listing.is_none() {
            self.next += 1;
            return None;
        }
        let begins = self.listing.is_none() && self.cursor.is_none();
        let (passing, call) = (&mut self.passing, &mut self.call);
        if self.pool.goes_on(passing, begins, call).is_err() {
            return Some(Slice::GivenUp(PAUSE));
        }
        let keys = &mut self.keys;
        let mut take = |key: Vec<u8>, size: usize| {
            keys.insert(key, size);
        };
        let listed = match (&mut self.listing, self.pool.spec(self.next)) {
            (Some(listing), _) => listing.step(end, &mut take),
            (None, Some(spec)) if spec.redis.is_some() => self.list_pages(end),
            (None, Some(spec)) => match Listing::new(spec) {
                Ok(listing) => self.listing.insert(listing).step(end, &mut take),
                Err(error) => Err(error),
            },
            (None, None) => Ok(true),
        };
        if self.keys.len() > KEYS {
            tell(format!(
                "node {} cannot be mended by workers: the other nodes hold more than {KEYS} keys. Run memring tend on this host",
                self.pool.ring_name(self.target)
            ));
            return Some(Slice::GivenUp(LONG_PAUSE));
        }
        match listed {
            Ok(false) => Some(Slice::More),
            Ok(true) => {
                self.keys.remove(&self.record_key);
                self.listing = None;
                self.next += 1;
                None
            }
            // Who lists for somebody else (BUSY) will list for us.
            Err(error) if error.cause().contains("BUSY") => Some(Slice::GivenUp(PAUSE)),
            Err(error) => {
                tell(format!(
                    "node {} cannot be mended by workers: {} does not list its keys: {}",
                    self.pool.ring_name(self.target),
                    self.pool.ring_name(self.next),
                    error.cause()
                ));
                Some(Slice::GivenUp(LONG_PAUSE))
            }
        }
    }

    /// Asks a Redis for its keys, page by page; true when that was all. A page takes it less time
    /// than a slice has.
    fn list_pages(&mut self, end: Instant) -> Result<bool, Error> {
        loop {
            let at = self.cursor.take();
            let at = at.as_deref().unwrap_or(FIRST_PAGE);
            self.call.reset(Verb::Get);
            let keys = &mut self.keys;
            let mut take = |key: Vec<u8>, size: usize| {
                keys.insert(key, size);
            };
            match (self.pool).page(self.next, at, &mut take, &mut self.call) {
                Some(None) => return Ok(true),
                Some(next) => self.cursor = next,
                None => {
                    let event = self.call.events().last().map(|event| event.error.clone());
                    let silent = || Error::new(Kind::Server, "it does not say which it has");
                    return Err(event.unwrap_or_else(silent));
                }
            }
            if self.keys.len() > KEYS || transport::now() >= end {
                return Ok(false);
            }
        }
    }
}
