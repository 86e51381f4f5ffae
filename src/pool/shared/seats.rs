//! Which slot is whose: found by the node's name, made where there is room, taken over where there is none.
//!
//! Nobody says when he is done with a slot: nodes that left a cluster, or a file, have theirs for
//! as long as the region lives. So when all are taken the one makes way that nobody asked for longest,
//! if that is an hour ago. A process may still have it; it looks at the name in the slot before each
//! use, a word of the line it is about to read, finds another's, and asks for a slot of its own anew.
//!
//! Between that look and a store the slot may change hands. Then one node is marked as another
//! one failed, or a mark is gone: it is left alone until its next probe, or asked once more. The first
//! answer puts it right, as after any wrong mark; no promise rests on marks.

use super::{Region, SLOTS, Slot, name_of, now, region};
use std::cell::Cell;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// A slot that was asked for within so many milliseconds stays its node's.
const IN_USE: u64 = 3_600_000;
/// So old the time may be that is noted, milliseconds: who asks often need not write each time.
const FRESH: u64 = 60_000;

/// When each slot was asked for last, milliseconds as [`now`].
#[derive(Debug)]
#[repr(transparent)]
pub(super) struct Used([AtomicU64; SLOTS]);

impl Used {
    /// Forgets all.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|at| at.store(0, Relaxed));
    }

    fn note(&self, at: usize, now: u64) {
        if let Some(used) = self.0.get(at)
            && used.load(Relaxed).abs_diff(now) > FRESH
        {
            used.store(now, Relaxed);
        }
    }

    /// The slot that was asked for longest ago, if nobody uses it any more.
    fn idle(&self, now: u64) -> Option<usize> {
        let age = |at: &AtomicU64| match at.load(Relaxed) {
            // A time ahead is from before a reboot.
            at if at > now => u64::MAX,
            at => now - at,
        };
        let ages = self.0.iter().map(age).enumerate();
        let (at, age) = ages.max_by_key(|(_, age)| *age)?;
        (age > IN_USE).then_some(at)
    }
}

/// After so many uses a process says again that it has its slot; or, if it has none, looks whether
/// there is one by now.
const OFTEN: u32 = 1024;

/// A node's hold on its slot.
#[derive(Debug, Default)]
pub struct Seat {
    who: u64,
    slot: Cell<Option<&'static Slot>>,
    uses: Cell<u32>,
    /// That there is none was counted.
    counted: Cell<bool>,
}

impl Seat {
    /// The hold of the node at `address`.
    pub fn of(address: &[u8]) -> Seat {
        let seat = Seat {
            who: name_of(address),
            ..Seat::default()
        };
        seat.look(region(), now());
        seat
    }

    /// Its slot; `None` without a region, or when all slots are in use.
    #[inline]
    pub fn slot(&self) -> Option<&'static Slot> {
        match self.slot.get() {
            Some(slot) if slot.who.load(Relaxed) != self.who => self.look(region(), now()),
            slot => slot,
        }
    }

    /// Told of each use: it stays the node's slot while a process uses it. Who has none gets one where
    /// there is one by now and he is `calm`: what he knows of a node that failed would be gone.
    #[inline]
    pub fn used(&self, calm: bool) {
        let uses = self.uses.get().wrapping_add(1);
        self.uses.set(uses);
        if uses.is_multiple_of(OFTEN) && (calm || self.slot.get().is_some()) {
            self.look(region(), now());
        }
    }

    /// Finds it anew: another node may have it by now, or have left one.
    #[cold]
    fn look(&self, region: Option<&'static Region>, now: u64) -> Option<&'static Slot> {
        // A node without an address has none.
        let slot = (region.filter(|_| self.who != 0)).and_then(|region| {
            let slot = find(region, self.who, now);
            if slot.is_none() && !self.counted.replace(true) {
                region.overflow.fetch_add(1, Relaxed);
            }
            slot
        });
        self.slot.set(slot);
        slot
    }
}

/// The slot of that name, made when there is none.
fn find(region: &'static Region, who: u64, now: u64) -> Option<&'static Slot> {
    let start = who as usize % SLOTS;
    let places = (start..SLOTS).chain(0..start);
    for (at, slot) in places.filter_map(|at| Some((at, region.slot.get(at)?))) {
        let found = slot.who.load(Relaxed);
        let taken = || {
            slot.who
                .compare_exchange(0, who, Relaxed, Relaxed)
                .map_or_else(|other| other == who, |_| true)
        };
        if found == who || (found == 0 && taken()) {
            region.used.note(at, now);
            return Some(slot);
        }
    }
    let at = region.used.idle(now)?;
    let slot = region.slot.get(at)?;
    slot.take_over(who).then(|| region.used.note(at, now))?;
    Some(slot)
}

impl Slot {
    /// Becomes that of `who`, with nothing known of it; false when it became another's meanwhile.
    fn take_over(&self, who: u64) -> bool {
        let before = self.who.load(Relaxed);
        let words = [
            &self.failed,
            &self.cause,
            &self.state,
            &self.due,
            &self.pause,
            &self.since,
            &self.server,
        ];
        let taken = self
            .who
            .compare_exchange(before, who, Relaxed, Relaxed)
            .map_or_else(|other| other == who, |_| true);
        if taken {
            words.iter().for_each(|word| word.store(0, Relaxed));
        }
        taken
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const HOUR: u64 = IN_USE + FRESH + 1;

    fn seat(region: &'static Region, who: u64, now: u64) -> Seat {
        let seat = Seat {
            who,
            ..Seat::default()
        };
        seat.look(Some(region), now);
        seat
    }

    #[test]
    fn when_all_slots_are_taken_the_one_that_was_idle_longest_makes_way() {
        let region = super::super::anonymous().unwrap();
        let name = |number: usize| name_of(format!("10.0.0.1:{number}").as_bytes());
        for number in 0..SLOTS {
            assert!(find(region, name(number), 1000 + number as u64).is_some());
        }
        // All are in use: nobody loses his, and it is counted.
        let late = seat(region, name(SLOTS), 5000);
        assert!(late.slot().is_none());
        assert!(late.look(Some(region), 6000).is_none());
        assert_eq!(region.overflow.load(Relaxed), 1, "the same one");
        // All but two were asked for since.
        let held = seat(region, name(7), 1007);
        held.slot().unwrap().fail(9, 9);
        for number in (0..SLOTS).filter(|number| !matches!(number, 7 | 9)) {
            find(region, name(number), HOUR);
        }
        let later = HOUR + 5000;
        let slot = late.look(Some(region), later).unwrap();
        assert!(std::ptr::eq(slot, late.slot().unwrap()));
        // Nothing is left of what was known of the other one, who has no hold on it any more.
        assert_eq!((slot.failed_at(later), slot.cause()), (None, 0));
        assert!(std::ptr::eq(
            slot,
            find(region, name(SLOTS), later).unwrap()
        ));
        assert_ne!(slot.who.load(Relaxed), held.who);
        // The next one has the other's, and there is no third.
        assert!(find(region, name(SLOTS + 1), later).is_some());
        assert!(find(region, name(SLOTS + 2), later).is_none());
        // This process has a region of its own, or none.
        let own = held.slot().map(|own| own.who.load(Relaxed));
        assert!(own.is_none_or(|who| who == held.who), "another's");
        // Who comes back and finds none does without until there is one again.
        assert!(find(region, name(7), later).is_none());
        assert!(find(region, name(7), later + HOUR).is_some());
    }
}
