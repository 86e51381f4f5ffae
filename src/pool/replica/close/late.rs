//! Nodes that come last in an ending: those that lost their memory since they were read, those that
//! were away then and are back, and those that have a value and are to have only word.

use super::super::view::{self, Contact, View};
use super::super::{Ending, Send};
use super::{Close, Step};

/// From so long after it failed to answer an ending looks for a node again, milliseconds: sooner than
/// that hardly one is back.
const LATE: u64 = 1000;

impl Close {
    /// Looks whether a node that was away when this was read is back. Said to have missed what it
    /// was not asked to take, a node that is whole loses its trust; beside another that fails in
    /// that moment, too many would have lost it at once.
    pub(super) fn look_for(&mut self, now: u64, place: usize, out: &mut Vec<Send>) {
        let lost_at = self.view(place).map_or(now, |view| view.lost_at);
        let is_late = now >= lost_at.saturating_add(LATE);
        // What was sent to it may have been carried out after all: that one is listed.
        let away = self
            .view(place)
            .is_some_and(|view| view.contact == Contact::Down { maybe: false });
        let known = (0..self.grips.nodes.len())
            .filter(|place| self.view(*place).is_some_and(View::is_known));
        // Who read without a quorum does not get one by what he overlooked.
        let sure = view::is_enough(&self.grips.lists, &known.collect::<Vec<_>>());
        let ends = self.ending != Ending::Release;
        if self.grips.rules.absent && is_late && away && ends && sure {
            self.look(place, out);
        }
    }

    /// Writes to nodes that lost their memory since they were read, or have a value in the place of
    /// word, now that nobody wrote otherwise on the others.
    pub(super) fn write_late(&mut self, out: &mut Vec<Send>) {
        let later = self.places(Step::Later);
        let both = [&self.places(Step::Stored)[..], &later[..]].concat();
        let enough = view::is_enough(&self.grips.lists, &both);
        // A value gives way to word only when nobody is left who may refuse the next one.
        let (words, others): (Vec<usize>, Vec<usize>) =
            (later.into_iter()).partition(|place| self.takes_a_value_away(*place));
        for place in if others.is_empty() { words } else { others } {
            self.set(place, Step::Missed);
            if let Some(node) = self.nodes.get_mut(place).filter(|_| enough) {
                node.free = true;
                self.write(place, out);
            }
        }
    }
}
