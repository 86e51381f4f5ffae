//! LATER: copies that follow the answer, said to their nodes while nobody waits for them.
//!
//! ```text
//!   push ─► waiting ─► connect, version ─► said ─► stored
//!                                           │
//!            refused, cut, too late, ───────┴─► missed: the key is the pool's to keep
//!            or over something newer
//! ```
//!
//! Each node has one connection for this in each thread, beside that of its calls. It is
//! carried on by whatever the process does next: another copy, a call, the end of a request
//! ([`finish`]). Until a request is over the kernel has the bytes, so that a process that
//! then sleeps, or is killed, leaves nothing behind. Answers are read when somebody is there
//! to read them.
//!
//! Copies of two writers may cross on their way. So a store is preceded by a look at what it
//! goes over: was that newer, the node has the older of the two now, and counts as one that
//! missed the key. Only between these two commands a third writer can still slip in.

mod line;

use crate::config::{Entrance, NodeSpec, Target};
use crate::counters::Counter;
use crate::error::Error;
use crate::node::Change;
use crate::shared;
use crate::transport::{self, Wish};
use crate::wire::copied::{Life, Over};
use line::Line;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Bytes of values that are held for one node at most; who has more to say waits for it.
const HOLD: usize = 4 << 20;

/// A write that a node is told of later.
#[derive(Clone, Debug)]
pub struct Copy {
    /// Pool and node as one word, for who keeps the key if it is missed.
    pub whose: u64,
    /// The wire key.
    pub key: Rc<[u8]>,
    /// What is written.
    pub what: What,
}

/// What a [`struct@Copy`] writes.
#[derive(Clone, Debug)]
pub enum What {
    /// A value with its version, or for `None` a tombstone.
    Put {
        /// Over what.
        over: Over,
        /// Its version, above `wire::copied::VERSION_LEAST`.
        version: u64,
        /// Its flag bits.
        flags: u32,
        /// When it ends.
        life: Life,
        /// Its bytes.
        value: Option<Rc<[u8]>>,
    },
    /// A new end for what is there.
    Touch(Life),
}

impl Copy {
    /// Bytes it takes up, its words counted for a hundred.
    fn size(&self) -> usize {
        let value = match &self.what {
            What::Put { value, .. } => value.as_deref().map_or(0, <[u8]>::len),
            What::Touch(_) => 0,
        };
        value + self.key.len() + 100
    }
}

/// A key whose copy a node does not have.
#[derive(Clone, Debug)]
pub struct Missed {
    /// As in [`struct@Copy`].
    pub whose: u64,
    /// The wire key.
    pub key: Rc<[u8]>,
}

/// What became of copies since somebody asked.
#[derive(Debug, Default)]
pub struct News {
    /// Keys to keep for their nodes.
    pub missed: Vec<Missed>,
    /// Nodes that went down or came up: name, change, cause.
    pub changes: Vec<(String, Change, Option<Error>)>,
    /// Nodes whose connection failed, and why.
    pub failed: Vec<(Target, Error)>,
}

thread_local! {
    /// In an order that is the same each time, as all that is done to them.
    static LINES: RefCell<BTreeMap<Target, Line>> = RefCell::default();
    static NEWS: RefCell<News> = RefCell::default();
    /// The process whose lines they are (`shared::generation`).
    static OWNER: Cell<u64> = const { Cell::new(0) };
    /// False while nothing is on its way and nothing is to be told.
    static BUSY: Cell<bool> = const { Cell::new(false) };
}

/// Hands a copy over for the node of `spec`. It goes out at once where it can; of several within
/// `hold` those after the first go out together when that is over, or there are 64, with
/// whatever this thread does next. The caller waits only while more than 4 MiB are on their
/// way to that node, and for its timeout at most.
pub fn push(spec: &NodeSpec, copy: Copy, hold: Duration) {
    shared::count(Counter::LateCopies);
    BUSY.set(true);
    lines(|lines| {
        // As somebody else, or for another database, it is entered when nothing is on its way any
        // more: what goes over a connection is for who it was opened for.
        if let Some(line) = lines.get_mut(&spec.target)
            && !line.entrance.is(spec)
        {
            drain(line);
            lines.remove(&spec.target);
        }
        let line = match lines.get_mut(&spec.target) {
            Some(line) => line,
            None => lines
                .entry(spec.target.clone())
                .or_insert_with(|| Line::new(spec)),
        };
        let now = transport::now();
        line.take(spec, copy, hold, now);
        if line.is_due(now) || line.held() > HOLD {
            line.step(now);
        }
        while line.held() > HOLD {
            await_any(&[line], None);
            line.step(transport::now());
        }
    });
}

/// True while a copy is on its way or its end is not told.
pub fn is_busy() -> bool {
    BUSY.get()
}

/// Is a copy of `key` on its way to the node at `target`?
pub fn has(target: &Target, key: &[u8]) -> bool {
    is_busy() && lines(|lines| lines.get(target).is_some_and(|line| line.has(key)))
}

/// Goes on with all copies that are due, as far as that needs no waiting.
pub fn carry_on() {
    if is_busy() {
        lines(|lines| {
            let now = transport::now();
            let due = lines.values_mut().filter(|line| line.is_due(now));
            due.for_each(|line| line.step(now));
        });
    }
}

/// Waits until the node at `target` has answered to all its copies, for its timeout at most.
pub fn wait_for(target: &Target) {
    lines(|lines| {
        if let Some(line) = lines.get_mut(target) {
            drain(line);
        }
    });
}

/// Waits until nothing is on its way over a line.
fn drain(line: &mut Line) {
    line.step(transport::now());
    while !line.is_idle() {
        await_any(&[line], None);
        line.step(transport::now());
    }
}

/// The end of a request: all copies are with the kernel, or given up after the timeouts of
/// their nodes, and for their answers it waits `patience`; `None` is as long as the timeouts.
pub fn finish(patience: Option<Duration>) {
    if !is_busy() {
        return;
    }
    lines(|lines| {
        let end = patience.map(|patience| transport::now() + patience);
        loop {
            let now = transport::now();
            lines.values_mut().for_each(|line| line.step(now));
            let late = end.is_some_and(|end| end <= now);
            let open: Vec<&Line> = lines
                .values()
                .filter(|line| !line.is_idle() && (!late || line.is_unsent()))
                .collect();
            if open.is_empty() {
                return;
            }
            await_any(&open, end.filter(|_| !late));
        }
    });
}

/// What became of copies since the last look; the caller has it all to itself.
pub fn take_news() -> News {
    let idle = lines(|lines| lines.values().all(Line::is_idle));
    BUSY.set(!idle);
    NEWS.take()
}

/// Only the keys that were missed since the last look; the rest is told to who asks for it all.
pub fn take_missed() -> Vec<Missed> {
    NEWS.with_borrow_mut(|news| std::mem::take(&mut news.missed))
}

/// Closes the connections that were made so; what is on its way over them is missed.
pub fn forget(gone: &[Entrance]) {
    lines(|lines| {
        lines.retain(|_, line| {
            let stays = !gone.contains(&line.entrance);
            if !stays {
                line.give_up();
                BUSY.set(true);
            }
            stays
        });
    });
}

/// Works with the lines of this process; those a parent had are the parent's business.
fn lines<R>(work: impl FnOnce(&mut BTreeMap<Target, Line>) -> R) -> R {
    let own = shared::generation();
    LINES.with_borrow_mut(|lines| {
        if OWNER.replace(own) != own {
            lines.clear();
            NEWS.take();
        }
        work(lines)
    })
}

/// Waits until one of the sockets is ready, or the first of their ends or `end` is reached.
fn await_any(open: &[&Line], end: Option<Instant>) {
    let now = transport::now();
    let nearest = open.iter().filter_map(|line| line.end()).chain(end).min();
    let left = nearest.map(|end| end.saturating_duration_since(now));
    let mut wishes: Vec<Wish<'_>> = open
        .iter()
        .filter_map(|line| Some(Wish::new(line.socket()?, line.wish())))
        .collect();
    // Whatever became of it, the next step looks at the sockets themselves.
    transport::poll(&mut wishes, Some(left.unwrap_or_default()));
    let now = transport::now();
    open.iter().for_each(|line| line.seen.set(now));
}

/// Keeps what a failed connection says of its node.
fn tell_failed(name: &str, target: &Target, change: Option<Change>, error: &Error) {
    NEWS.with_borrow_mut(|news| {
        if let Some(change) = change {
            let told = (name.to_owned(), change, Some(error.clone()));
            news.changes.push(told);
        }
        news.failed.push((target.clone(), error.clone()));
    });
}

/// Keeps the key of a copy that its node does not have.
fn tell_missed(copy: Copy) {
    shared::count(Counter::LateMissed);
    let Copy { whose, key, .. } = copy;
    NEWS.with_borrow_mut(|news| news.missed.push(Missed { whose, key }));
}
