//! A look before a write that comes late, where cas values are a server's own count.
//!
//! Such a count begins anew with the server. A node that lost its memory counts up again to the
//! value that an ending knows, and that may be on this very key: then the write of one whose turn
//! was long over would go over what was acknowledged since. With `E` a cas value is a version, and
//! none comes twice.

use super::super::Send;
use super::super::view::View;
use super::{Close, Step};

/// Without a turn that tells how long nobody else writes: so long after its read an ending looks
/// first, milliseconds.
const LATE: u64 = 1000;

impl Close {
    /// Is this node to be looked at before it is written to?
    pub(super) fn looks_first(&self, now: u64, place: usize) -> bool {
        let sure_until = match self.grips.held_since {
            Some(_) => self.grips.sure_until,
            None => self.grips.read_at.saturating_add(LATE),
        };
        self.grips.rules.confirm
            && now >= sure_until
            && self.view(place).is_some_and(View::counts_up)
    }

    /// Goes on after that look: what is as it was read, in the same life of its node, is written
    /// over. Of anything else is said what a write that was fenced off would have found.
    pub(super) fn confirm(&mut self, place: usize, out: &mut Vec<Send>) {
        let as_read = self.nodes.get(place).is_some_and(|state| {
            let view = self.view(place);
            let cas = view.and_then(|view| Some(view.item.as_ref()?.cas));
            (state.cas, state.life) == (cas, view.and_then(View::life))
        });
        if as_read {
            return self.write(place, out);
        }
        self.set(place, Step::Looking);
        self.judge(place, out);
    }
}
