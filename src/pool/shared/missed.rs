//! Keys that nodes missed, kept for the host by whoever wrote them: which key, on which node
//! of which pool.
//!
//! ```text
//!   writer: misses a node ─► keep the key ─► was a withdrawal under way? ─► acknowledges
//!   mender: takes the turn ─► mends the keys ─► none left? ─► withdraws what the records say
//! ```
//!
//! A set under one lock, which is held for microseconds: a key missed a thousand times takes
//! one place. Who does not get the lock, or finds no place, is told so, and has the node mended
//! by a full pass; so a process that dies with the lock costs time and no key.
//!
//! The withdrawal is the point where a key could be lost: the mender finds the set empty, a
//! writer keeps a key and sees itself still listed, and then the listing goes. So the mender
//! announces itself before it looks, and a writer that meets an announcement says to the
//! record anew that the node is absent, which takes the mender's cas value away.

use std::sync::atomic::{AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// Keys a host can keep.
const PLACES: usize = 65_536;
/// Words of a key; a longer one is not kept.
const WORDS: usize = 10;
/// Places a key may lie in, counted from its own.
const REACH: usize = 64;
/// Tries for the lock; each but the first yields the processor.
const TRIES: u32 = 400;
/// A lock held for longer was left behind by a process that died, milliseconds.
const LOCK_LIFE: u64 = 2000;

/// The keys of one host.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Missed {
    /// When it was locked, milliseconds; 0 for free.
    lock: AtomicU64,
    /// Keys kept now.
    kept: AtomicU64,
    /// Grows with each withdrawal.
    withdrawals: AtomicU64,
    /// Until when a withdrawal may be under way, milliseconds.
    until: AtomicU64,
    /// Grows with each key.
    stamp: AtomicU64,
    /// One bit for all owners that fall on it: some of them may have keys here.
    owners: AtomicU64,
    /// Grows with each key that is kept, when it lies in its place.
    changes: AtomicU64,
    spare: AtomicU64,
    place: [Place; PLACES],
}

/// One key.
#[derive(Debug)]
#[repr(C)]
struct Place {
    /// Node and pool; 0 for none.
    whose: AtomicU64,
    /// Stamp and length: stamp << 8 | length.
    about: AtomicU64,
    key: [AtomicU64; WORDS],
}

/// A key as it was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Miss {
    /// The key, as it goes over the wire.
    pub key: Vec<u8>,
    stamp: u64,
}

/// What a writer saw of withdrawals before it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    seen: u64,
    calm: bool,
}

impl Missed {
    /// Keeps a key that `whose` missed; false when that cannot be done.
    pub fn keep(&self, whose: u64, key: &[u8], now: u64) -> bool {
        let Some(words) = words(key) else {
            return false;
        };
        self.locked(now, || {
            let stamp = self.stamp.fetch_add(1, Relaxed) + 1;
            let about = stamp << 8 | key.len() as u64;
            let start = start_of(whose, key);
            let reach = || (0..REACH).filter_map(|step| self.place.get((start + step) % PLACES));
            if let Some(known) = reach().find(|place| place.is(whose, key.len(), &words)) {
                known.about.store(about, Relaxed);
                return true;
            }
            let Some(free) = reach().find(|place| place.whose.load(Relaxed) == 0) else {
                return false;
            };
            for (word, value) in free.key.iter().zip(words) {
                word.store(value, Relaxed);
            }
            free.about.store(about, Relaxed);
            free.whose.store(whose, Relaxed);
            self.kept.fetch_add(1, Relaxed);
            self.owners.fetch_or(bit(whose), Relaxed);
            self.changes.fetch_add(1, Release);
            true
        })
        .unwrap_or(false)
    }

    /// How often a key was kept, for whomever.
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Has anything been kept for `whose` since `seen`, which is brought up to date? Exact, and
    /// seldom goes through all places.
    pub fn has_new(&self, whose: u64, seen: &mut u64) -> bool {
        let changes = self.changes();
        let some = self.owners.load(Relaxed) & bit(whose) != 0;
        std::mem::replace(seen, changes) != changes && some && self.count(whose) > 0
    }

    /// Up to `most` of the keys that `whose` missed; `None` when the lock cannot be had.
    pub fn keys(&self, whose: u64, most: usize, now: u64) -> Option<Vec<Miss>> {
        self.locked(now, || {
            self.places(whose)
                .take(most)
                .map(|place| {
                    let about = place.about.load(Relaxed);
                    let bytes = place
                        .key
                        .iter()
                        .flat_map(|word| word.load(Relaxed).to_le_bytes());
                    Miss {
                        key: bytes.take((about & 0xff) as usize).collect(),
                        stamp: about >> 8,
                    }
                })
                .collect()
        })
    }

    /// Lets a key go that was mended, unless it was missed again since it was taken.
    pub fn mended(&self, whose: u64, miss: &Miss, now: u64) {
        let Some(words) = words(&miss.key) else {
            return;
        };
        self.locked(now, || {
            let start = start_of(whose, &miss.key);
            let found = (0..REACH)
                .filter_map(|step| self.place.get((start + step) % PLACES))
                .find(|place| place.is(whose, miss.key.len(), &words));
            if let Some(place) = found.filter(|p| p.about.load(Relaxed) >> 8 == miss.stamp) {
                self.let_go(place);
            }
        });
    }

    /// Lets all keys of `whose` go: it got a full pass.
    pub fn forget(&self, whose: u64, now: u64) {
        self.locked(now, || {
            for place in self.places(whose) {
                self.let_go(place);
            }
        });
    }

    /// Empties a place, under the lock.
    fn let_go(&self, place: &Place) {
        place.whose.store(0, Relaxed);
        if self.kept.fetch_sub(1, Relaxed) == 1 {
            self.owners.store(0, Relaxed);
        }
    }

    /// How many keys are kept.
    pub fn kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    /// How many keys are kept for `whose`.
    pub fn count(&self, whose: u64) -> usize {
        self.places(whose).count()
    }

    /// What a writer has to see before it writes, for [`Missed::is_calm`].
    pub fn look(&self, now: u64) -> Withdrawal {
        let seen = self.withdrawals.load(Acquire);
        Withdrawal {
            seen,
            calm: self.until.load(Acquire) <= now,
        }
    }

    /// True when no withdrawal was under way since `before`. Asked after the key was kept.
    pub fn is_calm(&self, before: Withdrawal, now: u64) -> bool {
        let after = self.look(now);
        before.calm && after.calm && before.seen == after.seen
    }

    /// Announces a withdrawal of what the records say of `whose`, under way until `until` at
    /// most; false when keys are left, or somebody else has one under way.
    pub fn announce(&self, whose: u64, until: u64, now: u64) -> bool {
        self.locked(now, || {
            if self.until.load(Acquire) > now {
                return false;
            }
            self.until.store(until, Release);
            self.withdrawals.fetch_add(1, Release);
            // The lock orders this after whatever a writer kept that did not see it.
            let empty = self.places(whose).next().is_none();
            if !empty {
                self.until.store(0, Release);
            }
            empty
        })
        .unwrap_or(false)
    }

    /// Ends a withdrawal; one that may still be on its way is `until` a later time.
    pub fn withdrawn(&self, until: u64) {
        self.until.store(until, Release);
    }

    pub(super) fn clear(&self) {
        for place in &self.place {
            place.whose.store(0, Relaxed);
        }
        self.kept.store(0, Relaxed);
        self.owners.store(0, Relaxed);
        self.until.store(0, Relaxed);
        self.lock.store(0, Release);
    }

    #[cfg(test)]
    pub(super) fn hold(&self, at: u64) {
        self.lock.store(at, Relaxed);
    }

    fn places(&self, whose: u64) -> impl Iterator<Item = &Place> {
        // Most often there are none, and nothing is to be looked through.
        let some = self.kept.load(Relaxed) > 0;
        self.place
            .iter()
            .filter(move |place| some && place.whose.load(Relaxed) == whose)
    }

    /// Works under the lock; `None` when it cannot be had.
    fn locked<R>(&self, now: u64, work: impl FnOnce() -> R) -> Option<R> {
        let now = now.max(1);
        for tries in 0..TRIES {
            let held = self.lock.load(Relaxed);
            // A time of the future is from before a reboot.
            let free = held == 0 || held > now + LOCK_LIFE || now.saturating_sub(held) > LOCK_LIFE;
            if free
                && self
                    .lock
                    .compare_exchange(held, now, Acquire, Relaxed)
                    .is_ok()
            {
                let done = work();
                // Who held it for so long that it was taken from him must not free it.
                let _ = self.lock.compare_exchange(now, 0, Release, Relaxed);
                return Some(done);
            }
            if tries > 0 {
                std::thread::yield_now();
            }
        }
        None
    }
}

impl Place {
    fn is(&self, whose: u64, length: usize, words: &[u64; WORDS]) -> bool {
        self.whose.load(Relaxed) == whose
            && self.about.load(Relaxed) & 0xff == length as u64
            && self
                .key
                .iter()
                .zip(words)
                .all(|(word, wanted)| word.load(Relaxed) == *wanted)
    }
}

/// The bit of `owners` that an owner falls on.
fn bit(whose: u64) -> u64 {
    1 << (whose >> 58)
}

/// A key as words, filled up with zeros; `None` for one that is too long.
fn words(key: &[u8]) -> Option<[u64; WORDS]> {
    let mut words = [0; WORDS];
    if key.len() > WORDS * 8 {
        return None;
    }
    for (word, bytes) in words.iter_mut().zip(key.chunks(8)) {
        let mut filled = [0; 8];
        for (to, from) in filled.iter_mut().zip(bytes) {
            *to = *from;
        }
        *word = u64::from_le_bytes(filled);
    }
    Some(words)
}

pub(super) fn start_of(whose: u64, key: &[u8]) -> usize {
    // A multiplication spreads what FNV leaves in the low bits.
    let hash = (super::name_of(key) ^ whose).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (hash >> 32) as usize % PLACES
}
