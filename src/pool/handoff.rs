//! WHAT WAS MISSED: the keys a node missed while it was out of reach, handed over when it
//! answers again with the memory it had.
//!
//! ```text
//!   a write goes without the node ─► key kept in the region ─► the records say: absent, host
//!   the node answers: same process, same life ─► each key mended ─► none left ─► withdrawn
//!   anything else: a full pass, in a new life (`pool::resync`)
//! ```
//!
//! Why this is sound is told where the steps are: `replica::keep` (nothing of ours is on its
//! way to the node), `shared::missed` (no key is kept unseen while a word is withdrawn), and
//! `replica::withdraw` (the cas value decides).

use crate::call::{Call, Verb};
use crate::counters::Counter;
use crate::fanout;
use crate::pool::Pool;
use crate::pool::copies::Task;
use crate::pool::rules::Rules;
use crate::replica::{Keep, Kept, Mend, PREFERRED, Vacate, Vacated, Withdraw, Withdrawn};
use crate::shared::{self, Withdrawal};
use std::time::Duration;

/// Keys that are taken from the region at a time.
const BATCH: usize = 256;
/// Times that all keys are mended before this is left to a later look.
const ROUNDS: u32 = 5;
/// How often a key is tried before a full pass takes its place, with a pause in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(20);
/// How long turns are ended before the next look at all nodes, milliseconds; each takes 100.
const AT_ONCE: u64 = 1000;
/// How long a withdrawal may take, milliseconds.
const LEASE: u64 = 10_000;
/// How long a record's change that was not answered may still come, milliseconds.
const LATE: u64 = 120_000;

/// What a handing over came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Handed {
    /// The node has what this host's writes left out, and the records no longer say otherwise.
    Done {
        /// Keys that were mended.
        keys: usize,
    },
    /// Writers kept more keys all the while: later.
    Later,
    /// Only a full pass can say what the node lacks.
    Full,
}

/// Keeps the key of one write for the nodes that miss it.
#[derive(Debug)]
pub struct Keeper {
    record_key: Vec<u8>,
    key: Vec<u8>,
    before: Option<Withdrawal>,
    rules: Rules,
}

impl Keeper {
    /// For a write of `key` (wire form) that has not begun yet.
    pub fn new(record_key: &[u8], key: &[u8], rules: Rules) -> Keeper {
        Keeper {
            record_key: record_key.to_vec(),
            key: key.to_vec(),
            before: shared::missed().map(|missed| missed.look(shared::now())),
            rules,
        }
    }
}

impl Keep for Keeper {
    fn keep(&mut self, node: &str, sent: bool) -> Kept {
        let (Some(missed), Some(before)) = (shared::missed(), self.before) else {
            return Kept::No;
        };
        let now = shared::now();
        let kept = || missed.keep(whose(&self.record_key, node), &self.key, now);
        if sent || kept() != shared::Kept::Yes && self.rules.overflow {
            shared::count(Counter::MissedOverflow);
            return Kept::No;
        }
        shared::count(Counter::MissedKeys);
        if missed.is_calm(before, now) || !self.rules.anew {
            Kept::Yes
        } else {
            Kept::Anew
        }
    }
}

/// The name of a host that keeps keys, for records: it, and which region they are in. Without
/// a region the name alone, and the host keeps none.
pub fn tag(host: &str) -> Box<str> {
    match shared::life() {
        Some(life) => format!("{host}/{life:016x}").into(),
        None => host.into(),
    }
}

/// How many keys are kept on this host for node `node` (its name in records) of a pool.
pub fn left(record_key: &[u8], node: &str) -> usize {
    shared::missed().map_or(0, |missed| missed.count(whose(record_key, node)))
}

/// Keeps `key` (wire form) of which `node` may say for long that somebody has the turn, who has it no more;
/// [`end_turns`] is for whoever tends the pool on this host. Where there is no room it ends with its lease.
pub fn leave_turn(record_key: &[u8], node: &str, key: &[u8]) {
    if let Some(missed) = shared::missed() {
        missed.keep(turns_of(record_key, node), key, shared::now());
    }
}

/// Ends turns on node `target` that were left there, for a second at most; how many there were. For a
/// host with the pool's only node list: by another one two others may have the turn.
pub fn end_turns(pool: &mut Pool, target: usize, record_key: &[u8], call: &mut Call) -> usize {
    let whose = turns_of(record_key, &pool.ring_name(target));
    let Some(missed) = shared::missed().filter(|missed| missed.count(whose) > 0) else {
        return 0;
    };
    let (mut ended, end) = (0, shared::now() + AT_ONCE);
    for miss in missed.keys(whose, BATCH) {
        if shared::now() > end {
            break;
        }
        let became = vacate(pool, target, record_key, &miss.key, call);
        if became != Vacated::Later {
            missed.mended(whose, &miss, shared::now());
        }
        ended += usize::from(became == Vacated::Ended);
    }
    ended
}

fn vacate(
    pool: &mut Pool,
    target: usize,
    record_key: &[u8],
    key: &[u8],
    call: &mut Call,
) -> Vacated {
    let nodes = pool.preferred(key, PREFERRED);
    let Some(place) = nodes.iter().position(|node| *node == target) else {
        return Vacated::Nothing;
    };
    let names: Vec<Box<str>> = nodes.iter().map(|node| pool.ring_name(*node)).collect();
    call.reset(Verb::Get);
    let mut out = Vec::new();
    let mut vacate = Vacate::new(&names, place, pool.rules().machines, &mut out);
    let task = Task {
        key,
        record_key,
        nodes: &nodes,
    };
    pool.drive(&mut vacate, out, task, call);
    vacate.result().unwrap_or(Vacated::Later)
}

/// Lets the keys go that are kept for a node: it got a full pass.
pub fn forget(record_key: &[u8], node: &str) {
    if let Some(missed) = shared::missed() {
        missed.forget(whose(record_key, node), shared::now());
    }
}

/// Which process serves node `index`, as far as it tells: another number is another memory. `None` when it does not say.
pub fn process(pool: &mut Pool, index: usize, call: &mut Call) -> Option<u64> {
    pool.moment(index, call).map(|moment| moment.process)
}

/// Hands node `target`, in its life `id`, the keys that this host (`tag`) keeps for it, and
/// withdraws what the records say for this host.
pub fn hand_over(
    pool: &mut Pool,
    target: usize,
    id: u64,
    record_key: &[u8],
    tag: &str,
    call: &mut Call,
) -> Handed {
    let Some(missed) = shared::missed() else {
        return Handed::Full;
    };
    let name = pool.ring_name(target);
    let whose = whose(record_key, &name);
    let mut done = 0;
    for _ in 0..ROUNDS {
        loop {
            let keys = missed.keys(whose, BATCH);
            if keys.is_empty() {
                break;
            }
            for miss in keys {
                if !mend(pool, target, record_key, &miss.key, call) {
                    return Handed::Full;
                }
                missed.mended(whose, &miss, shared::now());
                done += 1;
            }
        }
        let now = shared::now();
        if !missed.announce(whose, now + LEASE, now) {
            if missed.withdraws_until() > now + LEASE {
                // An earlier change may still come, for minutes: in a new life the node is back sooner.
                return Handed::Full;
            }
            continue;
        }
        call.reset(Verb::Get);
        let (names, nodes) = pool.everyone();
        let mut out = Vec::new();
        let mut withdraw = Withdraw::new(&names, target, id, tag, &mut out);
        let task = Task {
            key: b"",
            record_key,
            nodes: &nodes,
        };
        pool.drive(&mut withdraw, out, task, call);
        let result = withdraw.result().unwrap_or(Withdrawn::Unsure);
        let late = result == Withdrawn::Unsure || shared::now() > now + LEASE;
        missed.withdrawn(if late { shared::now() + LATE } else { 0 });
        match result {
            _ if late => return Handed::Full,
            Withdrawn::Done => return Handed::Done { keys: done },
            Withdrawn::Again => {}
            Withdrawn::Unsure | Withdrawn::Other => return Handed::Full,
        }
    }
    Handed::Later
}

/// Mends one key on node `target`; false when that cannot be done but by a full pass.
fn mend(pool: &mut Pool, target: usize, record_key: &[u8], key: &[u8], call: &mut Call) -> bool {
    let nodes = pool.preferred(key, PREFERRED);
    let Some(place) = nodes.iter().position(|node| *node == target) else {
        // It does not prefer the node any more.
        return true;
    };
    let names: Vec<Box<str>> = nodes.iter().map(|node| pool.ring_name(*node)).collect();
    for tries in 1..=TRIES {
        call.reset(Verb::Get);
        let mut out = Vec::new();
        let mut mend = Mend::new(
            &names,
            place,
            pool.copies(),
            pool.rules().machines,
            &mut out,
        )
        .kept();
        let task = Task {
            key,
            record_key,
            nodes: &nodes,
        };
        pool.drive(&mut mend, out, task, call);
        if mend.result() == Some(true) {
            return true;
        }
        // What was sent and not answered may come late: then only a new life helps.
        if call.events().iter().any(|event| event.fault) {
            return false;
        }
        if tries < TRIES {
            fanout::pause(PAUSE);
        }
    }
    false
}

/// Pool and node as one word, under which keys are kept whose turn was left on `node`.
fn turns_of(record_key: &[u8], node: &str) -> u64 {
    shared::name_of(&[record_key, b" turns ", node.as_bytes()].concat())
}

/// Pool and node as one word, under which keys are kept that `node` (its name in records) missed.
pub fn whose(record_key: &[u8], node: &str) -> u64 {
    shared::name_of(&[record_key, b" ", node.as_bytes()].concat())
}
