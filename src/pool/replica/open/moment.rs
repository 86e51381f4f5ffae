//! A value on too few nodes to be sure of it, newer than what others have: it is given a moment.
//!
//! One of three that is; or, while the node list changes, two that are no majority of both lists.
//! Its write may be under way; then it is on the others a moment later. Or it is of one whose
//! turn is over, and who is about to hear it from the others and to take it back. Read before
//! that, and repaired, it would take the place of what was acknowledged meanwhile.

use super::super::view::{self, View};
use super::super::{Send, Version};
use super::Open;

/// How long the moment is, milliseconds: who lost takes his value back when his slowest node has
/// answered, or its timeout (100 ms on copies) is over. What is there still is of one who is
/// gone, and may be read.
const MOMENT: u64 = 150;
/// Between looks meanwhile, milliseconds.
const LOOK: u64 = 5;

impl Open {
    /// Is the newest value, on node number `place`, to be looked for again first?
    pub(super) fn gives_a_moment(&mut self, now: u64, place: usize, newest: Version) -> bool {
        let rules = self.wish.rules;
        let versions = (0..self.views.len()).filter_map(|place| {
            let stamp = view::believed(&self.views, place, rules)?;
            view::is_trusted(&self.views, place, rules).then_some((place, stamp.version))
        });
        let (there, elsewhere): (Vec<_>, Vec<_>) =
            versions.partition(|(_, version)| *version == newest);
        let there: Vec<usize> = there.into_iter().map(|(place, _)| place).collect();
        let word = (self.views.get(place).and_then(View::stamp)).is_some_and(|stamp| stamp.witness);
        let few = there.len() == 1 || !view::is_enough(&self.lists, &there);
        let alone = few && (word || !elsewhere.is_empty());
        let cas = self.views.get(place).and_then(|view| view.item.as_ref());
        let Some(cas) = cas.map(|item| item.cas).filter(|_| alone && rules.moment) else {
            return false;
        };
        let since = match self.alone {
            Some((at, seen, since)) if (at, seen) == (place, cas) => since,
            _ => now,
        };
        self.alone = Some((place, cas, since));
        if now >= since.saturating_add(MOMENT) {
            return false;
        }
        self.wake_at = Some(now + LOOK);
        true
    }

    /// May a write have been acknowledged of which there is only word? Who missed it would have
    /// been listed before that; and the records were read again since the word was.
    pub(super) fn counts(&self, now: u64, version: Version) -> bool {
        let rules = self.wish.rules;
        let over = |(place, cas, since): (usize, u64, u64)| {
            let view = self.views.get(place).filter(|view| {
                let item = view.item.as_ref();
                item.is_some_and(|item| item.cas == cas)
            });
            let of = view.and_then(View::stamp).map(|stamp| stamp.version);
            of == Some(version) && now >= since.saturating_add(MOMENT)
        };
        let missed =
            (0..self.views.len()).any(|place| view::lacks(&self.views, rules, version, place));
        let never = missed && self.alone.is_some_and(over);
        rules.word && !never && view::may_count(&self.views, &self.lists, rules, version)
    }

    /// Looks at all that answered once more.
    pub(super) fn look_all(&mut self, out: &mut Vec<Send>) {
        for place in self.places(|open, place| open.views.get(place).is_some_and(View::is_known)) {
            self.look(place, place == 0, out);
        }
    }
}
