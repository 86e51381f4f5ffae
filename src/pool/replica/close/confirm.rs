//! A look before an ending that comes late, where cas values are a server's own count.
//!
//! Such a count begins anew with the server. A node that lost its memory counts up again to the
//! value that an ending knows, and that may be on this very key: then the write of one whose turn
//! was long over would go over what was acknowledged since, or end another's turn. With `E` the cas
//! value of all but a placeholder is a version, and none comes twice.

use super::super::view::View;
use super::super::{Ending, Send};
use super::{Close, Step};

/// Without a turn that tells how long nobody else writes: so long after its read an ending looks
/// first, milliseconds.
const LATE: u64 = 1000;

impl Close {
    /// Is this node to be looked at before it is written to, or let go of?
    pub(super) fn looks_first(&self, now: u64, place: usize) -> bool {
        let sure_until = match self.grips.held_since {
            Some(_) => self.grips.sure_until,
            None => self.grips.read_at.saturating_add(LATE),
        };
        self.grips.rules.confirm
            && now >= sure_until
            && self.view(place).is_some_and(View::counts_up)
    }

    /// Is the turn on this node ours, as far as known?
    pub(super) fn holds(&self, place: usize) -> bool {
        self.view(place).is_some_and(|view| view.token)
    }

    /// Goes on after that look: what is as it was read, in the same life of its node, is written
    /// over, or let go of. Of anything else is said what a write that was fenced off would have found.
    pub(super) fn confirm(&mut self, place: usize, out: &mut Vec<Send>) {
        let as_read = self.nodes.get(place).is_some_and(|state| {
            let view = self.view(place);
            let read = (state.item, state.life);
            read == (view.and_then(View::item_read), view.and_then(View::life))
        });
        if self.ending == Ending::Release {
            self.set(place, Step::Out);
            if let Some(view) = self.grips.nodes.get_mut(place).filter(|_| as_read) {
                view.release(place, u64::MAX, out);
            }
            return;
        }
        if as_read {
            return self.write(place, out);
        }
        self.set(place, Step::Looking);
        self.judge(place, out);
    }
}
