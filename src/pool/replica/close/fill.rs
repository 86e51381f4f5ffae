//! A node that gets the value in the place of one that failed.

use super::super::view::{self, View};
use super::super::{Command, Send};
use super::{Close, Step};

impl Close {
    /// Where a node failed that was to have the value, the next that took word of it gets it.
    ///
    /// Whoever took the turn since reads word of it there and one value, and brings the other
    /// himself: a write of ours would free his token, and change the cas value under him.
    pub(super) fn fill(&mut self, stored: &[usize], out: &mut Vec<Send>) {
        let (copies, rules) = (self.grips.copies, self.grips.rules);
        if !rules.fill {
            return;
        }
        let ours = |place: &usize| {
            let stamp = self.view(*place).and_then(View::stamp);
            stamp.filter(|stamp| stamp.version == self.version)
        };
        let mut next = Vec::new();
        for list in &self.grips.lists {
            let there = list.iter().filter(|place| stored.contains(place));
            let (words, others): (Vec<usize>, Vec<usize>) =
                there.partition(|place| ours(place).is_some_and(|stamp| stamp.witness));
            let relied = others
                .iter()
                .filter(|place| view::is_trusted(&self.grips.nodes, **place, rules));
            let wanted = copies.saturating_sub(relied.count());
            next.extend(words.into_iter().take(wanted));
        }
        for place in next {
            if let Some(node) = self.nodes.get_mut(place).filter(|node| !node.filled) {
                (node.filled, node.step) = (true, Step::Filling);
                let take = Command::Read {
                    value: false,
                    token: true,
                };
                if let Some(view) = self.grips.nodes.get_mut(place) {
                    view.ask(place, vec![Command::ReadRecord, take], out);
                }
            }
        }
    }
}
