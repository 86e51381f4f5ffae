//! Who wrote over a write that had won, while that still says who missed it.

use super::super::view::{Life, View};
use super::{Close, Step};

/// A node that took a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Took {
    /// Its memory's life then, and the name of that, which is another after it was doubted.
    pub(super) life: Life,
    /// It took only word of it.
    pub(super) word: bool,
}

impl Close {
    /// Has this node a later write than ours by now?
    pub(super) fn is_followed(&self, place: &usize) -> bool {
        let stamp = self.view(*place).and_then(View::stamp);
        stamp.is_some_and(|stamp| stamp.version > self.version)
    }

    /// Who got the turn meanwhile goes over a write where he read it: he is no conflict.
    ///
    /// Who goes over word of it need not have read it, so one who went over its value must be there, too.
    pub(super) fn let_follow(&mut self) {
        let gone_over = |place: usize| {
            let view = self.view(place)?;
            let stamp = view.stamp()?;
            let took = self.nodes.get(place)?.took?;
            let same = view.life() == Some(took.life) && view.inc() == Some(stamp.inc);
            (same && stamp.version > self.version).then_some((place, took.word))
        };
        let over: Vec<(usize, bool)> = (0..self.nodes.len()).filter_map(gone_over).collect();
        if !self.won || over.iter().all(|(_, word)| *word) {
            return;
        }
        for (place, _) in over {
            if let Some(node) = self.nodes.get_mut(place)
                && node.step == Step::Conflict
            {
                node.step = Step::Stored;
            }
        }
    }
}
