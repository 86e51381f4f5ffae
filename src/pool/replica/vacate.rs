//! A turn that nobody has: a node gave it to who did not hear of it, or did not hear that it was given
//! back. Whoever comes would wait for a lease where that node is needed.
//!
//! ```text
//!   look at all ─► taken there, free on the others ─► after a pause: still the same there, and ours on the others
//!                        │                                    │                │
//!                        └── somebody has it: later ◄─────────┘                └─► ended
//! ```
//!
//! Whoever waits for a turn asks all nodes again within a poll's pause, and has those that are free.
//! So where all the others are free before and after a longer one, nobody waits with this one in his hand;
//! and nobody has the turn, which takes two. Left alone is what would let one be enough: a list of two
//! nodes, others that are not trusted, and an item that was brought by a mend, since whoever did that did
//! not know whose turn it was.

use super::view::{self, View};
use super::{Command, Lost, Machine, Reply, Rules, Send, Stamp};

/// Between the two looks, milliseconds: twice the longest pause of who waits (`open::turn`).
const PAUSE: u64 = 100;

/// What became of a turn that may have been left on a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Vacated {
    /// Somebody has it, or a node that would say so is away: later.
    Later,
    /// There is none, or its holder was there meanwhile.
    Nothing,
    /// Nobody had it; it is free.
    Ended,
}

/// One node's token under way to be free.
#[derive(Debug)]
pub struct Vacate {
    views: Vec<View>,
    target: usize,
    rules: Rules,
    stage: Stage,
    result: Option<Vacated>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// All are looked at.
    Looking,
    /// The second look is for then, our clock; the item as it was, and since when it was taken.
    Waiting(u64, Seen),
    /// All are asked for their tokens.
    Taking(Seen),
    /// The target's is ended.
    Ending,
}

/// An item's cas value and stamp, and since when its token was seen to be another's.
type Seen = (u64, Option<Stamp>, u64);

impl Vacate {
    /// Begins for a key on its preferred node number `target` of `nodes`.
    pub fn new(nodes: &[Box<str>], target: usize, rules: Rules, out: &mut Vec<Send>) -> Vacate {
        let mut vacate = Vacate {
            views: nodes.iter().map(|name| View::new(name.clone())).collect(),
            target,
            rules,
            stage: Stage::Looking,
            result: None,
        };
        vacate.look(false, out);
        vacate
    }

    /// The outcome, once [`Machine::is_done`].
    pub fn result(&self) -> Option<Vacated> {
        self.result
    }

    fn look(&mut self, token: bool, out: &mut Vec<Send>) {
        for (place, view) in self.views.iter_mut().enumerate() {
            let read = Command::Read {
                value: false,
                token,
            };
            view.ask(place, vec![Command::ReadRecord, read], out);
        }
    }

    fn plan(&mut self, now: u64, out: &mut Vec<Send>) {
        match self.stage {
            Stage::Looking => match self.is_left(false) {
                Ok(seen) => {
                    // What is unlocked gives its token to whoever reads it.
                    self.release(out);
                    self.stage = Stage::Waiting(now + PAUSE, seen);
                }
                Err(result) => self.end(result, out),
            },
            Stage::Waiting(..) => {}
            Stage::Taking(before) => match self.is_left(true) {
                Ok(seen) if seen == before => {
                    self.stage = Stage::Ending;
                    let view = self.views.get_mut(self.target);
                    if let Some((view, end)) = view.and_then(|v| v.take_over().map(|end| (v, end)))
                    {
                        view.ask(self.target, vec![end], out);
                    }
                }
                // Somebody was there meanwhile.
                Ok(_) => self.end(Vacated::Nothing, out),
                Err(result) => self.end(result, out),
            },
            Stage::Ending => {
                let view = self.views.get(self.target);
                let heard = view.is_some_and(|view| view.is_known() && !view.stale);
                let result = if heard {
                    Vacated::Ended
                } else {
                    Vacated::Later
                };
                self.end(result, out);
            }
        }
    }

    /// The target's token, if nobody can have it; else what that came to. `ours`: the others must have given
    /// theirs to us.
    fn is_left(&self, ours: bool) -> Result<Seen, Vacated> {
        let target = self.views.get(self.target).ok_or(Vacated::Nothing)?;
        if !view::is_trusted(&self.views, self.target, self.rules) {
            return Err(Vacated::Later);
        }
        let (Some((cas, stamp)), Some(taken)) = (target.item_read(), target.taken) else {
            return Err(Vacated::Nothing);
        };
        let others = self.views.len().saturating_sub(1);
        let free = |place: &usize| {
            let view = self.views.get(*place);
            // An item that ended may have been the token of who has the turn.
            let same = |view: &View| match (stamp, view.stamp()) {
                (Some(one), Some(other)) => !other.mended && other.version.is_of_write(one.version),
                (None, None) => view.item.is_some(),
                _ => false,
            };
            *place != self.target
                && view::is_trusted(&self.views, *place, self.rules)
                && view
                    .is_some_and(|view| view.taken.is_none() && (view.token || !ours) && same(view))
        };
        match others >= 2 && (0..self.views.len()).filter(free).count() == others {
            true => Ok((cas, stamp, taken.since)),
            false => Err(Vacated::Later),
        }
    }

    fn release(&mut self, out: &mut Vec<Send>) {
        for (place, view) in self.views.iter_mut().enumerate() {
            view.release(place, 0, out);
        }
    }

    fn end(&mut self, result: Vacated, out: &mut Vec<Send>) {
        self.release(out);
        self.result = Some(result);
    }
}

impl Machine for Vacate {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        let quiet = view::heard(&mut self.views, now, place, replies);
        if self.result.is_none() && quiet {
            self.plan(now, out);
        }
    }

    fn wait(&self) -> Option<u64> {
        match self.stage {
            Stage::Waiting(until, _) => Some(until),
            _ => None,
        }
    }

    fn wake(&mut self, now: u64, out: &mut Vec<Send>) {
        if let Stage::Waiting(until, seen) = self.stage
            && now >= until
        {
            self.stage = Stage::Taking(seen);
            self.look(true, out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}
