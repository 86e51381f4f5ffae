//! How far passes over returned nodes are that this host runs, by tend or by a worker: for who asks.
//!
//! An entry is a pass's, named after pool and node, until it is over; one that nobody went on with for
//! a while was given up, and makes way. What two write at a time is wrong for a moment and nothing else.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Passes that have an entry.
const PASSES: usize = 16;
/// A pass that nobody went on with for so long was given up, milliseconds.
const LIFE: u64 = 60_000;

/// All entries.
#[derive(Debug, Default)]
#[repr(C, align(64))]
pub(super) struct Passes([Entry; PASSES]);

#[derive(Debug, Default)]
#[repr(C)]
struct Entry {
    whose: AtomicU64,
    /// When it was gone on with last, milliseconds; 0 for none.
    at: AtomicU64,
    /// Keys looked at.
    seen: AtomicU64,
    /// All of its keys, as far as they are listed.
    all: AtomicU64,
}

/// How far a pass is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Keys looked at.
    pub seen: u64,
    /// All that the other nodes hold; 0 while they are listed.
    pub all: u64,
}

impl Progress {
    /// Keys that are left; `None` while they are listed.
    pub fn left(self) -> Option<u64> {
        (self.all > 0).then(|| self.all.saturating_sub(self.seen))
    }
}

impl Entry {
    /// Milliseconds since it was gone on with; `None` for no pass, or one that was given up.
    fn age(&self, now: u64) -> Option<u64> {
        let at = self.at.load(Relaxed);
        // A time ahead is from before a reboot.
        let age = now.checked_sub(at)?;
        (at != 0 && age < LIFE).then_some(age)
    }

    fn is(&self, whose: u64, now: u64) -> bool {
        self.whose.load(Relaxed) == whose && self.age(now).is_some()
    }
}

impl Passes {
    /// Notes how far the pass of that name is at `now`, milliseconds; nothing where all entries
    /// are in use.
    pub(super) fn note(&self, whose: u64, progress: Progress, now: u64) {
        let own = self.0.iter().find(|entry| entry.is(whose, now));
        let free = || self.0.iter().find(|entry| entry.age(now).is_none());
        if let Some(entry) = own.or_else(free) {
            entry.whose.store(whose, Relaxed);
            entry.seen.store(progress.seen, Relaxed);
            entry.all.store(progress.all, Relaxed);
            entry.at.store(now.max(1), Relaxed);
        }
    }

    /// How far it is; `None` where none is under way.
    pub(super) fn of(&self, whose: u64, now: u64) -> Option<Progress> {
        let entry = self.0.iter().find(|entry| entry.is(whose, now))?;
        Some(Progress {
            seen: entry.seen.load(Relaxed),
            all: entry.all.load(Relaxed),
        })
    }

    /// It is over.
    pub(super) fn over(&self, whose: u64) {
        let own = |entry: &&Entry| entry.whose.load(Relaxed) == whose;
        let own = self.0.iter().filter(own);
        own.for_each(|entry| entry.at.store(0, Relaxed));
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|entry| entry.at.store(0, Relaxed));
    }
}

/// Notes how far a pass over a node is that this host runs; `None` for over. `whose`: pool and node
/// as one word ([`pass_of`]).
pub(crate) fn note_pass(whose: u64, progress: Option<Progress>) {
    if let Some(region) = super::region() {
        match progress {
            Some(progress) => region.passes.note(whose, progress, super::now()),
            None => region.passes.over(whose),
        }
    }
}

/// How far a pass over the node of that name is that this host runs, in the pool of that record
/// key; `None` where it runs none.
pub fn pass(record_key: &[u8], node: &str) -> Option<Progress> {
    super::region()?
        .passes
        .of(pass_of(record_key, node), super::now())
}

/// Pool and node as one word.
pub(crate) fn pass_of(record_key: &[u8], node: &str) -> u64 {
    super::name_of(&[record_key, b"\0", node.as_bytes()].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_is_told_until_it_is_over_or_given_up() {
        let passes = Passes::default();
        let some = |seen| Progress { seen, all: 50 };
        assert_eq!(passes.of(1, 1000), None);
        passes.note(1, some(0), 1000);
        passes.note(2, some(7), 1000);
        passes.note(1, some(20), 2000);
        assert_eq!(passes.of(1, 2000), Some(some(20)));
        assert_eq!(some(20).left(), Some(30));
        assert_eq!(passes.of(2, 1000 + LIFE), None);
        passes.over(1);
        assert_eq!(passes.of(1, 2000), None);
        // As many as there are entries, and one more that finds none.
        for whose in 10..=10 + PASSES as u64 {
            passes.note(whose, some(1), 3000 + LIFE);
        }
        let told = |whose: &u64| passes.of(*whose, 3000 + LIFE).is_some();
        assert_eq!((10..99).filter(told).count(), PASSES);
    }
}
