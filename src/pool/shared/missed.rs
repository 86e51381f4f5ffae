//! Keys that nodes missed, kept for the host by whoever wrote them: which key, on which node
//! of which pool.
//!
//! ```text
//!   writer: misses a node ─► keep the key ─► was a withdrawal under way? ─► acknowledges
//!   mender: takes the turn ─► mends the keys ─► none left? ─► withdraws what the records say
//! ```
//!
//! A set under one lock, which is held for microseconds: a key missed a thousand times takes
//! one place, and a long one some more. Lists are read without the lock. Who does not get it, or
//! finds no place, is told so, and has the node mended by a full pass; so a process that dies with
//! the lock costs time and no key.
//!
//! The withdrawal is the point where a key could be lost: the mender finds the set empty, a
//! writer keeps a key and sees itself still listed, and then the listing goes. So the mender
//! announces itself before it looks, and a writer that meets an announcement says to the
//! record anew that the node is absent, which takes the mender's cas value away.

use std::sync::atomic::{
    AtomicU64, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence,
};
use std::time::Duration;

/// Keys a host can keep.
const PLACES: usize = 65_536;
/// Numbers that owners fall on: a host has far fewer nodes, so that most have one of their own.
const OWNERS: usize = 256;
/// Words of a key in one place; a longer key has its rest in others, as [`REST`]'s.
const WORDS: usize = 10;
/// Places a key takes at most.
const PARTS: usize = 4;
/// Whose the places are that hold the rest of a key. Their `about` is the key's stamp, and which
/// part of it this is. No name of an owner is that.
const REST: u64 = u64::MAX;
/// Places a key may lie in, counted from its own.
pub const REACH: usize = 64;
/// Tries for the lock; each but the first yields the processor.
const TRIES: u32 = 400;
/// So often who has mended a key comes back for the lock, each time a millisecond later.
const PATIENCE: u64 = 20;
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
    /// Grows with each key that is kept, when it lies in its place.
    changes: AtomicU64,
    spare: [AtomicU64; 2],
    /// Since when a process empties a node of this number that missed everything, milliseconds; 0 for nobody.
    emptying: [AtomicU64; OWNERS],
    /// Keys of all the owners that fall on one number: never fewer than lie here.
    owners: [AtomicU64; OWNERS],
    place: [Place; PLACES],
}

/// One key.
#[derive(Debug)]
#[repr(C)]
struct Place {
    /// Node and pool; 0 for none.
    whose: AtomicU64,
    /// Stamp and length: stamp << 8 | length. No two keys ever have the same stamp.
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

/// What became of a key that was to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// It is kept.
    Yes,
    /// There is no place for it.
    NoRoom,
    /// The lock could not be had.
    Busy,
}

/// What a writer saw of withdrawals before it wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    seen: u64,
    calm: bool,
}

impl Missed {
    /// Keeps a key that `whose` missed.
    pub fn keep(&self, whose: u64, key: &[u8], now: u64) -> Kept {
        let Some(parts) = parts(key) else {
            return Kept::NoRoom;
        };
        let kept = self.locked(now, || {
            let stamp = self.stamp.fetch_add(1, Relaxed) + 1;
            let about = stamp << 8 | key.len() as u64;
            let start = start_of(whose, key);
            if let Some(known) = self.find(whose, start, key.len(), &parts) {
                for (number, place) in self.rest(start, known, parts.len()) {
                    place.about.store(stamp << 8 | number as u64, Relaxed);
                }
                known.about.store(about, Release);
                self.changes.fetch_add(1, Release);
                return true;
            }
            let reach = self.reach(start);
            let free = reach.filter(|place| place.whose.load(Relaxed) == 0);
            let free: Vec<&Place> = free.take(parts.len()).collect();
            if free.len() < parts.len() {
                return false;
            }
            // Who read the list meanwhile sees that the place is another's.
            fence(Release);
            for (number, (place, words)) in free.iter().zip(&parts).enumerate() {
                for (word, value) in place.key.iter().zip(words) {
                    word.store(*value, Relaxed);
                }
                if number > 0 {
                    place.about.store(stamp << 8 | number as u64, Relaxed);
                    place.whose.store(REST, Release);
                }
            }
            // First: who dies in between leaves a count that is too high, which costs time only.
            self.kept.fetch_add(1, Relaxed);
            self.of(whose).fetch_add(1, Relaxed);
            if let Some(first) = free.first() {
                first.about.store(about, Relaxed);
                first.whose.store(whose, Release);
            }
            self.changes.fetch_add(1, Release);
            true
        });
        match kept {
            Some(true) => Kept::Yes,
            Some(false) => Kept::NoRoom,
            None => Kept::Busy,
        }
    }

    /// The places a key may lie in that begins at `start`.
    fn reach(&self, start: usize) -> impl Iterator<Item = &Place> {
        (0..REACH).filter_map(move |step| self.place.get((start + step) % PLACES))
    }

    /// The rest of the key that begins in `first`, by the number of the part.
    fn rest<'a>(&'a self, start: usize, first: &'a Place, parts: usize) -> Vec<(usize, &'a Place)> {
        let stamp = first.about.load(Relaxed) >> 8;
        let find = |number: usize| {
            let is = |place: &&Place| {
                place.whose.load(Acquire) == REST
                    && place.about.load(Relaxed) == stamp << 8 | number as u64
            };
            self.reach(start).find(is).map(|place| (number, place))
        };
        (1..parts).filter_map(find).collect()
    }

    /// Where a key of `whose` begins, under the lock.
    fn find(
        &self,
        whose: u64,
        start: usize,
        length: usize,
        parts: &[[u64; WORDS]],
    ) -> Option<&Place> {
        self.reach(start).find(|place| {
            let is = parts
                .first()
                .is_some_and(|first| place.is(whose, length, first));
            is && {
                let rest = self.rest(start, place, parts.len());
                rest.len() + 1 == parts.len()
                    && rest.iter().all(|(number, place)| {
                        parts.get(*number).is_some_and(|words| place.holds(words))
                    })
            }
        })
    }

    /// How often a key was kept, for whomever.
    pub fn changes(&self) -> u64 {
        self.changes.load(Acquire)
    }

    /// Has anything been kept for `whose` since `seen`, which is brought up to date? Exact, and
    /// seldom goes through all places.
    pub fn has_new(&self, whose: u64, seen: &mut u64) -> bool {
        let changes = self.changes();
        std::mem::replace(seen, changes) != changes && self.places(whose).next().is_some()
    }

    /// Up to `most` of the keys that `whose` missed, as they lie there now. One that changes just
    /// then may be left out: it is kept anew, and [`Missed::changes`] grows.
    pub fn keys(&self, whose: u64, most: usize) -> Vec<Miss> {
        let places = self.places(whose);
        places
            .filter_map(|place| self.key_at(place, whose))
            .take(most)
            .collect()
    }

    /// The places around one: the rest of a key is there, from wherever its reach was counted.
    fn near(&self, place: &Place) -> impl Iterator<Item = &Place> {
        let base = self.place.as_ptr().addr();
        let number = std::ptr::from_ref(place).addr().saturating_sub(base) / size_of::<Place>();
        let begin = number + PLACES - REACH;
        (0..2 * REACH).filter_map(move |step| self.place.get((begin + step) % PLACES))
    }

    /// The key that begins in a place, without the lock: `None` when it changed meanwhile.
    fn key_at(&self, place: &Place, whose: u64) -> Option<Miss> {
        // First: the key's words are stored before this is.
        if place.whose.load(Acquire) != whose {
            return None;
        }
        let about = place.about.load(Acquire);
        let length = (about & 0xff) as usize;
        let mut key = place.bytes();
        let parts = length.div_ceil(WORDS * 8).max(1);
        if parts > 1 {
            for part in 1..parts {
                let wanted = about >> 8 << 8 | part as u64;
                let found = self.near(place).find(|place| {
                    place.whose.load(Acquire) == REST && place.about.load(Relaxed) == wanted
                })?;
                key.extend(found.bytes());
                fence(Acquire);
                if found.about.load(Relaxed) != wanted || found.whose.load(Relaxed) != REST {
                    return None;
                }
            }
        }
        fence(Acquire);
        let same = place.about.load(Relaxed) == about && place.whose.load(Relaxed) == whose;
        key.truncate(length);
        same.then_some(Miss {
            key,
            stamp: about >> 8,
        })
    }

    /// Lets a key go that was mended, unless it was missed again since it was taken. While another process goes
    /// through all places it waits, some 20 ms at most: what stayed would be mended again, and nothing called safe until then.
    pub fn mended(&self, whose: u64, miss: &Miss, now: u64) {
        let Some(parts) = parts(&miss.key) else {
            return;
        };
        for waited in 0..PATIENCE {
            let done = self.locked(now + waited, || {
                let start = start_of(whose, &miss.key);
                let found = self.find(whose, start, miss.key.len(), &parts);
                if let Some(place) = found.filter(|p| p.about.load(Relaxed) >> 8 == miss.stamp) {
                    self.let_go(place);
                }
            });
            if done.is_some() {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
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
        let (about, whose) = (place.about.load(Relaxed), place.whose.load(Relaxed));
        // Whose lock was taken from him finds the place empty, or another's.
        let gone = |whose| place.whose.compare_exchange(whose, 0, Release, Relaxed);
        if whose == 0 || whose == REST || gone(whose).is_err() {
            return;
        }
        if (about & 0xff) as usize > WORDS * 8 {
            let rest = self.near(place).filter(|place| {
                place.whose.load(Relaxed) == REST && place.about.load(Relaxed) >> 8 == about >> 8
            });
            rest.for_each(|place| place.whose.store(0, Release));
        }
        self.kept.fetch_sub(1, Relaxed);
        self.of(whose).fetch_sub(1, Relaxed);
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

    /// Until when nothing may be announced, milliseconds; a time that is over for nothing under way.
    pub fn withdraws_until(&self) -> u64 {
        self.until.load(Acquire)
    }

    /// Ends a withdrawal; one that may still be on its way is `until` a later time.
    pub fn withdrawn(&self, until: u64) {
        self.until.store(until, Release);
    }

    /// What the one process of the host has in hand that is to empty `whose` now, for [`Missed::emptied`]:
    /// were a second one to do it later, what came after the first would go, too. `None` for all others;
    /// who dies with it keeps them from it for 2 s.
    pub fn claim_emptying(&self, whose: u64, now: u64) -> Option<u64> {
        let (slot, now) = (self.emptying.get(number(whose))?, now.max(1));
        let held = slot.load(Relaxed);
        // A time of the future is from before a reboot.
        let free = held == 0 || held > now + LOCK_LIFE || now.saturating_sub(held) > LOCK_LIFE;
        let claim = || slot.compare_exchange(held, now, Acquire, Relaxed);
        (free && claim().is_ok()).then_some(now)
    }

    /// Ends what was claimed, unless somebody else has it by now.
    pub fn emptied(&self, whose: u64, claim: u64) {
        if let Some(slot) = self.emptying.get(number(whose)) {
            let _ = slot.compare_exchange(claim, 0, Release, Relaxed);
        }
    }

    pub(super) fn clear(&self) {
        for place in &self.place {
            place.whose.store(0, Relaxed);
        }
        self.kept.store(0, Relaxed);
        for number in self.owners.iter().chain(&self.emptying) {
            number.store(0, Relaxed);
        }
        self.until.store(0, Relaxed);
        self.lock.store(0, Release);
    }

    /// Places that are taken.
    #[cfg(test)]
    pub(super) fn taken(&self) -> usize {
        let taken = |place: &&Place| place.whose.load(Relaxed) != 0;
        self.place.iter().filter(taken).count()
    }

    #[cfg(test)]
    pub(super) fn hold(&self, at: u64) {
        self.lock.store(at, Relaxed);
    }

    /// The count of the number that an owner falls on.
    #[allow(clippy::indexing_slicing, reason = "a number below OWNERS")]
    fn of(&self, whose: u64) -> &AtomicU64 {
        &self.owners[number(whose)]
    }

    fn places(&self, whose: u64) -> impl Iterator<Item = &Place> {
        // Most often there are none, and nothing is to be looked through.
        let some = self.of(whose).load(Acquire) > 0;
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
            && self.holds(words)
    }

    fn holds(&self, words: &[u64; WORDS]) -> bool {
        let mut words = self.key.iter().zip(words);
        words.all(|(word, wanted)| word.load(Relaxed) == *wanted)
    }

    fn bytes(&self) -> Vec<u8> {
        let words = self.key.iter();
        words
            .flat_map(|word| word.load(Relaxed).to_le_bytes())
            .collect()
    }
}

/// A part of its own, for tests.
#[cfg(test)]
pub(crate) fn empty() -> Option<&'static Missed> {
    super::anonymous().map(|region| &region.missed)
}

/// A key as words, place by place, filled up with zeros; `None` for one that is too long.
fn parts(key: &[u8]) -> Option<Vec<[u64; WORDS]>> {
    if key.len() > (PARTS * WORDS * 8).min(0xff) {
        return None;
    }
    let words = |part: &[u8]| {
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(part.chunks(8)) {
            let mut filled = [0; 8];
            for (to, from) in filled.iter_mut().zip(bytes) {
                *to = *from;
            }
            *word = u64::from_le_bytes(filled);
        }
        words
    };
    match key {
        [] => Some(vec![[0; WORDS]]),
        key => Some(key.chunks(WORDS * 8).map(words).collect()),
    }
}

/// The first of the places, by number, that a key of `whose` may lie in.
pub fn start_of(whose: u64, key: &[u8]) -> usize {
    spread(super::name_of(key) ^ whose) % PLACES
}

/// The number that an owner falls on.
pub(super) fn number(whose: u64) -> usize {
    spread(whose) % OWNERS
}

/// A number of 32 bits from a hash: a multiplication spreads what FNV leaves in the low bits, in
/// which names differ that end differently.
fn spread(hash: u64) -> usize {
    (hash.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize
}
