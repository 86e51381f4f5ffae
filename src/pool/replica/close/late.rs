//! Nodes that an ending comes to last: those that would take the write of one who loses.

use super::super::Send;
use super::super::view;
use super::{Close, Step};

impl Close {
    /// A node refused the write and dropped what was there, which made room for it. Whose that
    /// was nobody knows: it comes last.
    pub(super) fn put_off(&mut self, place: usize) {
        self.set(place, Step::Later);
        if let Some(node) = self.nodes.get_mut(place) {
            node.dropped = true;
        }
        if let Some(view) = self.grips.nodes.get_mut(place) {
            view.full = false;
        }
    }

    /// Writes to them, now that nobody wrote otherwise on those that kept what they had.
    pub(super) fn write_late(&mut self, out: &mut Vec<Send>) {
        let later = self.places(Step::Later);
        let both = [&self.places(Step::Stored)[..], &later[..]].concat();
        if !view::is_enough(&self.grips.lists, &both) {
            return self.leave_late(out);
        }
        for place in later {
            if let Some(node) = self.nodes.get_mut(place) {
                node.free = true;
            }
            self.set(place, Step::Missed);
            self.write(place, out);
        }
    }

    /// They do not get the write; what one dropped for it goes back.
    pub(super) fn leave_late(&mut self, out: &mut Vec<Send>) {
        for place in self.places(Step::Later) {
            match self.nodes.get(place).is_some_and(|node| node.dropped) {
                true => self.restore(place, out),
                false => self.set(place, Step::Missed),
            }
        }
    }
}
