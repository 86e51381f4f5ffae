//! The turn: whose it is, how it is waited for, and when it is taken over.

use super::super::view::{self, Taken, View};
use super::super::{Command, Send};
use super::{Found, Neighbour, Open, Turn};

/// First pause between looks at a turn somebody else has, milliseconds; it doubles …
pub(super) const POLL_FIRST: u64 = 5;
/// … up to this in the first half second, which is as long as most requests last …
const POLL_SOON: u64 = 20;
const SOON: u64 = 500;
/// … and then up to this.
const POLL_MOST: u64 = 50;

/// Whose turn it is was asked so many milliseconds ago at most when it is taken from him, or it is asked
/// once more: behind a node that is slow to answer another may have it by now.
const FRESH: u64 = 20;

/// No lease is shorter, milliseconds (`pool::lease`).
const LEASE_LEAST: u64 = 30_000;

impl Open {
    /// Is it our turn? If not, everything was done to get it: released, polled or given up.
    pub(super) fn has_turn(&mut self, now: u64, out: &mut Vec<Send>) -> bool {
        let Some(turn) = self.wish.turn else {
            return true;
        };
        let since = self.held_since.unwrap_or(now);
        self.held_since = (self.views.iter()).any(|view| view.token).then_some(since);
        let live = self.places(|open, place| open.views.get(place).is_some_and(View::is_known));
        let held = self.places(|open, place| {
            open.views
                .get(place)
                .is_some_and(|view| view.token || view.is_endless())
                || (open.lists.len() > 1 && view::is_held_beside(&open.views, place))
        });
        for place in &held {
            // What is held by another name of the server is nobody else's.
            if let Some(view) = self.views.get_mut(*place) {
                view.taken = None;
            }
        }
        // A majority of the preferred nodes, and of two both. A node that lost its memory lost
        // our token, too, and gives it to the next who asks: its word does not count.
        let rules = self.wish.rules;
        let sure = |places: &[usize]| {
            places
                .iter()
                .filter(|place| view::is_trusted(&self.views, **place, rules))
                .count()
        };
        let mut let_go = Vec::new();
        let mut ours = true;
        for list in &self.lists {
            let of = |places: &[usize]| -> Vec<usize> {
                let there = list.iter().filter(|place| places.contains(place));
                there.copied().collect()
            };
            let (live, held) = (of(&live), of(&held));
            let (needed, counted) = match sure(&live) {
                2.. => (2, sure(&held)),
                _ => (live.len(), held.len()),
            };
            if counted < needed || self.has_elder(&live, &held) {
                ours = false;
                // Who holds only later nodes lets go at once, or two would wait for each other.
                if held.first() != live.first() {
                    let_go.extend(list);
                }
            }
        }
        if ours {
            let before = out.len();
            if let Some(at) = self.took_over.filter(|_| rules.takeover) {
                // Whoever was seen to come since then is not whom it was taken from.
                let came = |place: &&usize| {
                    let taken = self.views.get(**place).and_then(|view| view.taken);
                    taken.is_some_and(|taken| taken.anew && taken.since > at)
                };
                let others = live.iter().filter(|place| !held.contains(place));
                let others: Vec<usize> = others.filter(|place| !came(place)).copied().collect();
                self.fence(now, &others, out);
            }
            return out.len() == before;
        }
        if now >= self.begun.saturating_add(turn.wait) {
            // Who asks but once has waited in reads before. Who waited here may have been stopped
            // meanwhile, and not have seen that the turn changed hands.
            if turn.wait > 0 || !self.take_over_late(now, turn, out) {
                self.end(now, Found::Locked, None, out);
            }
            return false;
        }
        for (place, view) in self.views.iter_mut().enumerate() {
            if let_go.contains(&place) {
                view.release(place, 0, out);
            }
        }
        if !self.views.iter().any(|view| view.token) {
            self.held_since = None;
        }
        // Here every node was looked at a moment ago. A poll's pause earlier somebody else may have
        // had the turn, of whom it would be taken now.
        if self.take_over_late(now, turn, out) {
            return false;
        }
        self.wake_at = Some(now + self.pause);
        let most = if now < self.begun.saturating_add(SOON) {
            POLL_SOON
        } else {
            POLL_MOST
        };
        self.pause = (self.pause * 2).min(most);
        false
    }

    /// May somebody have had the turn since before one of these nodes lost its memory?
    ///
    /// He had it on that node and on another. Where the item was brought by a mend since, the
    /// node gives the turn away again; the other one still says that it is taken.
    fn has_elder(&self, live: &[usize], held: &[usize]) -> bool {
        let mended = |place: &usize| {
            let stamp = self.views.get(*place).and_then(View::stamp);
            stamp.is_some_and(|stamp| stamp.mended)
        };
        let mut others = live.iter().filter(|place| !held.contains(place));
        self.wish.rules.elders
            && held.iter().any(mended)
            && others.any(|place| {
                let view = self.views.get(*place);
                view.is_some_and(|view| view.taken.is_some())
            })
    }

    /// The turn was taken over on some nodes and is ours. Who had it before may not have heard of
    /// it from those that were late to say that it was taken: on them his write would go through.
    ///
    /// Where one was asked too long ago all are looked at once more, and nobody's turn is taken before
    /// that: then it is false.
    fn fence(&mut self, now: u64, others: &[usize], out: &mut Vec<Send>) -> bool {
        let rules = self.wish.rules;
        let taken = |place: &usize| (self.views.get(*place)).filter(|view| view.taken.is_some());
        let is_old = |view: &View| now > view.asked_at.saturating_add(FRESH);
        let old = others.iter().filter_map(taken).any(is_old);
        let others = others.iter().filter(|place| taken(place).is_some());
        let others: Vec<usize> = others.copied().collect();
        if old && rules.fresh && !std::mem::replace(&mut self.looked_again, true) {
            for place in others {
                self.look(place, false, out);
            }
            return false;
        }
        self.looked_again = false;
        for place in others {
            let Some(view) = self.views.get_mut(place) else {
                continue;
            };
            if let Some(take_over) = view.take_over() {
                let read = Command::Read {
                    value: false,
                    token: true,
                };
                view.ask(place, vec![take_over, read], out);
            }
        }
        true
    }

    /// Until when nobody can have taken a turn over that is ours, our clock: half a lease, and of
    /// the shortest that anybody gives us.
    pub(super) fn sure_until(&self) -> u64 {
        let lease = self.wish.turn.map_or(0, |turn| turn.lease.min(LEASE_LEAST));
        self.held_since.map_or(0, |since| since + lease / 2)
    }

    /// Lets go of all tokens.
    pub(super) fn release(&mut self, out: &mut Vec<Send>) {
        for (place, view) in self.views.iter_mut().enumerate() {
            view.release(place, 0, out);
        }
    }

    /// Who on this host has the turn, as far as is known without asking. Only of the very items
    /// that were noted: others' turns end with their lease.
    fn neighbour(&self) -> Option<Neighbour> {
        self.neighbour.filter(|neighbour| {
            let marks = self.views.iter().filter(|view| !view.token);
            marks
                .filter_map(View::mark)
                .any(|mark| neighbour.marks.contains(&mark))
        })
    }

    /// Takes over what somebody was seen to have for a whole lease; true when there is such.
    fn take_over_late(&mut self, now: u64, turn: Turn, out: &mut Vec<Send>) -> bool {
        let before = out.len();
        // Once between two pauses: what a node does not give stays taken.
        if self.neighbour().is_some() || self.tried {
            return false;
        }
        let late = self.places(|open, place| {
            (open.views.get(place)).is_some_and(|view| {
                let over = |taken: Taken| now >= taken.since.saturating_add(turn.lease);
                view.is_known() && !view.token && view.taken.is_some_and(over)
            })
        });
        self.tried = self.fence(now, &late, out);
        let any = out.len() > before;
        let took = any && self.tried;
        self.took_over = self.took_over.or(took.then_some(now));
        any
    }

    /// Looks whether a turn is free now; what a neighbour held who is gone is taken over.
    pub(super) fn poll(&mut self, now: u64, out: &mut Vec<Send>) {
        let neighbour = self.neighbour();
        for place in self.places(|open, place| {
            open.views
                .get(place)
                .is_some_and(|view| view.is_known() && !view.is_busy())
        }) {
            // Also where the turn is ours: who had it before us may have written over it.
            let Some(view) = self.views.get_mut(place) else {
                continue;
            };
            let mut commands = vec![Command::ReadRecord];
            let over = neighbour.is_some_and(|neighbour| neighbour.over);
            if let Some(take_over) = view.take_over().filter(|_| over && !view.token) {
                commands.push(take_over);
                self.took_over.get_or_insert(now);
            }
            commands.push(Command::Read {
                value: place == 0,
                token: true,
            });
            view.ask(place, commands, out);
        }
    }
}
