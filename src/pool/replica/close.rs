//! A write, a touch or a destroy that ends a read.
//!
//! ```text
//!   write to all ─► each: stored │ fenced │ gone │ silent ─► two have it? ─► they list who has not ─► acknowledged
//!                      ▲             │ look: ours, older, newer                       
//!                      └── older ────┘          newer: conflict, and false
//! ```
//!
//! The record is read behind the write in the same pipeline. What it says holds for the
//! moment after the write, so whoever clears an entry of it later also sees the write.
//!
//! Two kinds of nodes come last, and only if nobody else was found to have written: one that lost
//! its memory since it was read, and one that changed on which the turn was not ours. They would
//! take the write of one who loses, and others would read it there.
//!
//! A node without room drops what it has, whosever that is. While the turn is surely ours it is
//! asked again at once; later it gets nothing more from here, and is doubted.

mod confirm;
mod fill;
mod follow;
mod late;
mod say;
mod undo;

use self::follow::Took;
use super::keep::Notes;
use super::view::{self, Contact, Life, View};
use super::{
    Closed, Command, Ending, Epochs, Grips, Keep, Lost, Machine, Reply, Send, Stamp,
    TOMBSTONE_EXTRA, Version,
};
use std::sync::Arc;

/// How often a node is written to again that was found with an older item.
const RETRIES: u32 = 3;
/// How often a record is changed again that somebody else changed meanwhile.
const RECORD_RETRIES: u32 = 20;

/// An ending under way.
#[derive(Debug)]
pub struct Close {
    grips: Grips,
    ending: Ending,
    version: Version,
    life: u32,
    /// Time in seconds since 1970, for people.
    since: u64,
    nodes: Vec<State>,
    /// The nodes that missed the write, and whether its key was kept for them.
    notes: Notes,
    /// Somebody else wrote meanwhile.
    conflict: bool,
    /// Those that took it were looked at again.
    rechecked: bool,
    /// Enough nodes took it before anybody else's write was seen.
    won: bool,
    /// Nobody can have taken the turn over yet.
    sure: bool,
    closed: Option<Closed>,
}

/// One node on its way.
#[derive(Clone, Copy, Debug)]
struct State {
    step: Step,
    tries: u32,
    record_tries: u32,
    /// Its record was written anew in this ending.
    said: bool,
    /// The turn on this node was ours when the ending began, in this life of it.
    held: Option<Life>,
    /// The others took the write: it may go to a node that came last.
    free: bool,
    /// The life it was read in.
    life: Option<Life>,
    /// Its item as it was read.
    item: Option<(u64, Option<Stamp>)>,
    /// It was told to store something.
    stores: bool,
    /// It took word of the write, and gets the value in another's place.
    filled: bool,
    /// It had what was written.
    took: Option<Took>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// Not part of it.
    Out,
    /// A look whether what was read is still there, before it is written over or let go of.
    Confirming,
    /// The write is on its way.
    Writing,
    /// A look at what is there instead.
    Looking,
    /// It comes last, and gets the write when no other is against it.
    Later,
    /// The tombstone finds no room; the item is taken away in its place.
    Removing,
    /// The new value was refused, and the old one is put back.
    Restoring,
    /// Somebody else wrote elsewhere, and ours is taken back here.
    Withdrawing,
    /// It is to get the value behind its word, if nobody has the turn on that by now.
    Filling,
    /// It has what was written.
    Stored,
    /// It has, but has no room to say who missed it: that decides a race, and acknowledges nothing.
    Silent,
    /// It has not, and will not be asked again.
    Missed,
    /// Somebody else wrote.
    Conflict,
}

impl Close {
    /// Begins to end what was opened. `life` is in seconds, `now` in milliseconds; `random`
    /// has the 20 bits of the new version's tag.
    pub fn new(
        grips: Grips,
        ending: Ending,
        life: u32,
        now: u64,
        random: u32,
        out: &mut Vec<Send>,
    ) -> Close {
        let rules = grips.rules;
        // What was never there, or was destroyed, cannot live on.
        let ending = match ending {
            Ending::Touch if grips.base == Version::default() || grips.destroyed => Ending::Release,
            ending => ending,
        };
        let random = if rules.tag { random } else { 0 };
        let version = match ending {
            Ending::Write(_) | Ending::Destroy => Version::fenced(now, grips.seen, random),
            Ending::Touch | Ending::Release => grips.base,
        };
        let life = match ending {
            Ending::Destroy if rules.tombstone_life => life.saturating_add(TOMBSTONE_EXTRA),
            Ending::Destroy => 1,
            _ => life,
        };
        let mut close = Close {
            nodes: Vec::new(),
            notes: Notes::default(),
            conflict: false,
            rechecked: false,
            won: false,
            sure: false,
            closed: None,
            since: now / 1000,
            ending,
            version,
            life: life.max(1),
            grips,
        };
        close.begin(now, out);
        close
    }

    /// What the records say of the pool's node lists, those read behind the writes included.
    pub fn epochs(&self) -> Option<Epochs> {
        self.grips.epochs()
    }

    /// The nodes that may say for long that somebody has the turn, which nobody has any more, once
    /// [`Machine::is_done`]. Who missed a write gets that, and with it a turn that is free.
    pub fn left_turns(&self) -> Vec<Box<str>> {
        let writes = matches!(self.ending, Ending::Write(_) | Ending::Destroy);
        match self.closed {
            Some(Closed::Done { .. }) if writes => Vec::new(),
            _ => self.grips.left_turns(),
        }
    }

    /// With somebody who keeps the key for nodes that miss the write.
    #[must_use]
    pub fn kept_by(mut self, keeper: Box<dyn Keep>) -> Close {
        self.notes.keeper = Some(keeper);
        self
    }

    /// The outcome, once [`Machine::is_done`].
    pub fn outcome(self) -> Option<Closed> {
        self.closed
    }

    fn begin(&mut self, now: u64, out: &mut Vec<Send>) {
        for place in 0..self.grips.nodes.len() {
            let known = self.view(place).is_some_and(View::is_known);
            let step = match (&self.ending, known) {
                (_, false) => Step::Missed,
                (Ending::Release, true) if !self.holds(place) => Step::Out,
                (_, true) if self.takes_a_value_away(place) => Step::Later,
                (_, true) if self.looks_first(now, place) => Step::Confirming,
                (Ending::Release, true) => Step::Out,
                (_, true) => Step::Writing,
            };
            let view = self.view(place);
            self.nodes.push(State {
                step,
                tries: 0,
                record_tries: 0,
                said: false,
                held: view.filter(|view| view.token).and_then(View::life),
                life: view.and_then(View::life),
                item: view.and_then(View::item_read),
                stores: false,
                free: false,
                filled: false,
                took: None,
            });
            // Nodes beyond the copies asked for were not meant to have it.
            let asked = self
                .view(place)
                .is_some_and(|view| view.contact != Contact::Unasked);
            if !asked && let Some(node) = self.nodes.get_mut(place) {
                node.step = Step::Out;
            }
            match step {
                Step::Writing => self.write(place, out),
                Step::Confirming => self.recheck(place, out),
                Step::Missed => self.look_for(now, place, out),
                _ => {}
            }
        }
        if self.ending == Ending::Release {
            self.release(now.saturating_sub(self.grips.read_at), out);
            if self.places(Step::Confirming).is_empty() {
                self.end(Closed::Done { copies: 0 }, out);
            }
        } else if out.is_empty() {
            self.end(Closed::Failed, out);
        }
    }

    fn release(&mut self, elapsed: u64, out: &mut Vec<Send>) {
        for (place, view) in self.grips.nodes.iter_mut().enumerate() {
            if !view.is_busy() {
                view.release(place, elapsed, out);
            }
        }
    }

    /// The end: whatever token is left, from a look or a node that was not written, goes back.
    fn end(&mut self, closed: Closed, out: &mut Vec<Send>) {
        self.release(0, out);
        self.closed = Some(closed);
    }

    fn view(&self, place: usize) -> Option<&View> {
        self.grips.nodes.get(place)
    }

    /// Sends what the ending is to one node.
    fn write(&mut self, place: usize, out: &mut Vec<Send>) {
        let version = self.version;
        let (life, tombstone) = (self.life, self.ending == Ending::Destroy);
        let data: Arc<[u8]> = match &self.ending {
            Ending::Write(data) => data.clone(),
            Ending::Touch => self.grips.data.clone(),
            Ending::Destroy | Ending::Release => Arc::from([]),
        };
        let touch = self.ending == Ending::Touch;
        let removes = tombstone && !self.grips.rules.tombstone;
        let value = self.nodes.get(place).is_some_and(|node| node.filled) || self.gets_value(place);
        let witness = !(value || tombstone);
        let rules = self.grips.rules;
        let Some(view) = self.grips.nodes.get_mut(place) else {
            return;
        };
        let Some(inc) = view.inc() else {
            // No record, no life to write it in.
            if let Some(node) = self.nodes.get_mut(place) {
                node.step = Step::Missed;
            }
            return;
        };
        let has = view.has(version, value, rules);
        let command = match &view.item {
            // Who waits may have the token here. With `E` the cas value stays, so he would not
            // see that it was given away, and who got it would have the turn beside him.
            Some(_) if touch && has && !view.token => Command::Touch {
                life: life.saturating_add(TOMBSTONE_EXTRA),
            },
            Some(item) if touch && has => Command::Unlock {
                cas: item.cas,
                version,
                life: Some(life),
            },
            Some(item) if removes => Command::Remove { cas: item.cas },
            _ => {
                let stamp = Stamp {
                    version,
                    inc,
                    tombstone,
                    mended: false,
                    witness,
                };
                view.store(stamp, life, &data)
            }
        };
        let stores = matches!(command, Command::Write { .. });
        view.ask(place, vec![command, Command::ReadRecord], out);
        if let Some(node) = self.nodes.get_mut(place) {
            node.step = Step::Writing;
            node.stores |= stores;
        }
    }

    /// Would word of the write go over a value, which may be all that is left where the nodes fail
    /// that are to have the new one? So it is where the list is another than who wrote last had.
    pub(super) fn takes_a_value_away(&self, place: usize) -> bool {
        let writes = matches!(self.ending, Ending::Write(_)) && self.grips.rules.word_last;
        let stamp = self.view(place).and_then(View::stamp);
        writes && stamp.is_some_and(Stamp::has_value) && !self.gets_value(place)
    }

    fn gets_value(&self, place: usize) -> bool {
        let Grips { lists, nodes, .. } = &self.grips;
        view::gets_value(nodes, lists, self.grips.copies, self.grips.rules, place)
    }

    /// Goes on with one node after its answer.
    fn step(&mut self, place: usize, refused: bool, sure: bool, out: &mut Vec<Send>) {
        let Some(state) = self.nodes.get(place).copied() else {
            return;
        };
        let Some(view) = self.view(place) else { return };
        if !view.is_known() || view.record.is_none() {
            // Without a record it lost its memory, or never had one: what it took is nobody's.
            return self.set(place, Step::Missed);
        }
        match state.step {
            Step::Writing if refused && !(sure && state.held == view.life()) => {
                self.set(place, Step::Missed);
            }
            Step::Writing if refused && self.ending == Ending::Destroy => self.remove(place, out),
            Step::Writing if refused => self.restore(place, out),
            Step::Restoring | Step::Withdrawing => self.set(place, Step::Missed),
            Step::Confirming if view.stale => self.set(place, Step::Missed),
            Step::Confirming => self.confirm(place, out),
            Step::Writing if view.stale => self.look(place, out),
            Step::Writing | Step::Looking => self.judge(place, out),
            Step::Filling if view.token && view.has(self.version, false, self.grips.rules) => {
                self.write(place, out);
            }
            Step::Filling => self.judge(place, out),
            Step::Removing if view.stale => self.set(place, Step::Missed),
            Step::Removing => self.set(place, Step::Stored),
            Step::Stored if view.record_full => self.set(place, Step::Silent),
            Step::Stored if view.stale => {
                if let Some(node) = self.nodes.get_mut(place) {
                    // Somebody else changed the record, perhaps to take back what it said.
                    node.said = false;
                }
                self.look(place, out);
            }
            _ => {}
        }
    }

    fn set(&mut self, place: usize, step: Step) {
        if let Some(node) = self.nodes.get_mut(place) {
            node.step = step;
        }
    }

    /// Looks at record and item of a node.
    fn recheck(&mut self, place: usize, out: &mut Vec<Send>) {
        if let Some(view) = self.grips.nodes.get_mut(place) {
            let read = Command::Read {
                value: false,
                token: false,
            };
            view.ask(place, vec![Command::ReadRecord, read], out);
        }
    }

    fn look(&mut self, place: usize, out: &mut Vec<Send>) {
        self.recheck(place, out);
        self.set(place, Step::Looking);
    }

    /// What does the node have, now that it was looked at or said that it was done?
    fn judge(&mut self, place: usize, out: &mut Vec<Send>) {
        let rules = self.grips.rules;
        let Some(view) = self.view(place) else { return };
        let life = view.life();
        let removed = self.ending == Ending::Destroy && !rules.tombstone && view.item.is_none();
        let state = self.nodes.get(place).copied();
        // Without `E` a turn that was taken over shows in the cas value alone. Where the turn was ours
        // nobody else changed it, but for a reader who brought back what a refusal took away.
        let counts_up = view.counts_up() && !view.dropped;
        // So early a mender stored what the others have, where something else was read.
        let brought = |stamp: Stamp| state.and_then(|state| state.item?.1) != Some(stamp);
        let taken_over = |stamp: Stamp| {
            state.is_some_and(|state| state.step == Step::Looking && state.held == life)
                && life.is_some_and(|(inc, _)| inc == stamp.inc)
                && stamp.version == self.grips.base
                && !(self.sure && rules.sure && brought(stamp))
                && counts_up
                && rules.fence
        };
        let current = |stamp: Stamp| !rules.incarnation || view.inc() == Some(stamp.inc);
        let filled = state.is_some_and(|state| state.filled);
        // Hints that stood there when we read were known; newer ones came since, and may have
        // been acknowledged before the node's life ended.
        let known = |stamp: Stamp| {
            if current(stamp) {
                self.grips.base
            } else {
                self.grips.seen
            }
        };
        // A look gives no longer life.
        let touched =
            self.ending != Ending::Touch || state.is_some_and(|state| state.step != Step::Looking);
        let next = match view.stamp() {
            _ if removed => Step::Stored,
            Some(stamp) if stamp.version == self.version && current(stamp) && touched => {
                if let Some(node) = self.nodes.get_mut(place) {
                    let word = stamp.witness;
                    node.took = life.map(|life| Took { life, word });
                }
                Step::Stored
            }
            Some(stamp)
                if stamp.version != self.version
                    && (current(stamp) && taken_over(stamp)
                        || rules.fence && stamp.version > known(stamp)) =>
            {
                // A touch has nothing to lose: who wrote meanwhile also made it live on. And who
                // came before the value had read word of it.
                if self.ending == Ending::Touch || filled {
                    Step::Stored
                } else {
                    Step::Conflict
                }
            }
            // Older, a placeholder, a hint, nothing at all: over that it may go.
            _ => Step::Writing,
        };
        if next != Step::Writing {
            return self.set(place, next);
        }
        let tries = self.nodes.get_mut(place).map_or(RETRIES, |node| {
            node.tries += 1;
            node.tries
        });
        if tries > RETRIES {
            return self.set(place, Step::Missed);
        }
        // Also where the turn was not ours: with what makes a second write go through there, one
        // goes through whose turn was taken over on the others.
        let later = |state: State| {
            let moved = state.step == Step::Looking && state.held != life;
            !(state.free || state.filled) && (state.life != life || moved)
        };
        if rules.late && state.is_some_and(later) {
            return self.set(place, Step::Later);
        }
        if let Some(node) = self.nodes.get_mut(place) {
            // What comes next there may never have seen ours.
            node.took = None;
        }
        self.write(place, out);
    }

    /// All nodes have answered: is it enough?
    fn settle(&mut self, out: &mut Vec<Send>) {
        if self.ending == Ending::Release {
            return self.end(Closed::Done { copies: 0 }, out);
        }
        self.let_follow();
        let newer = self.places(Step::Conflict);
        let silent = self.places(Step::Silent);
        let stored = [&self.places(Step::Stored)[..], &silent[..]].concat();
        let lists = self.grips.lists.clone();
        // A node that lost its memory since it was read took anything: it decides no race.
        let same = |place: &usize| {
            let life = self.nodes.get(*place).and_then(|node| node.life);
            self.view(*place).and_then(View::life) == life
        };
        let steady: Vec<usize> = stored.iter().copied().filter(same).collect();
        let won = view::is_enough(&lists, &steady);
        if self.conflict || (!newer.is_empty() && !won) {
            return self.lose(&stored, out);
        }
        if !newer.is_empty() && !self.rechecked {
            // On two nodes it went over what was read, so who else wrote went over ours, or
            // will be told that he lost. Have ours been written over?
            self.rechecked = true;
            for place in stored {
                self.recheck(place, out);
            }
            return;
        }
        self.won |= won && newer.is_empty();
        let before = out.len();
        self.write_late(out);
        if out.len() > before {
            return;
        }
        let followed = stored.iter().any(|place| self.is_followed(place));
        let all_followed = stored.iter().all(|place| self.is_followed(place));
        let (rules, views) = (self.grips.rules, &self.grips.nodes);
        let mut missed = self.places(Step::Missed);
        if !followed {
            // The rest of a write that lost: its node is not believed before it was mended.
            missed.extend(newer);
        }
        if self.ending == Ending::Touch && all_followed {
            // Where nothing was to be stored nothing was missed.
            missed.retain(|place| self.nodes.get(*place).is_some_and(|node| node.stores));
        }
        // Who is said to have missed something does not count, whatever it has now.
        let (counted, listed): (Vec<usize>, Vec<usize>) =
            self.places(Step::Stored).into_iter().partition(|place| {
                views
                    .get(*place)
                    .is_none_or(|view| !view::is_listed(views, &view.name, rules))
            });
        // What a node took stays: somebody may have read it by now, and found it on two. So a
        // failed write that is on two says who missed it, too, if one of them is believed.
        let enough = view::is_enough(&lists, &counted);
        let lies = [&counted[..], &listed[..], &silent[..]].concat();
        if !enough && (counted.is_empty() || !view::is_enough(&lists, &lies)) {
            return self.end_badly(Closed::Failed, out);
        }
        let absent = self.notes.absent(&missed, &listed, views, rules);
        if rules.absent && !absent.is_empty() {
            for place in &counted {
                self.list(*place, &absent, out);
            }
        }
        let stored = self.places(Step::Stored);
        if out.len() == before && !counted.iter().all(|place| stored.contains(place)) {
            // One of them says of nobody that he missed it.
            return self.settle(out);
        }
        // After the lists: who gets the turn meanwhile does not count the node that failed.
        if out.len() == before && enough {
            self.fill(&counted, out);
        }
        if out.len() == before {
            let copies = counted.len();
            match enough {
                true => self.end(Closed::Done { copies }, out),
                false => self.end_badly(Closed::Failed, out),
            }
        }
    }

    fn places(&self, step: Step) -> Vec<usize> {
        (0..self.nodes.len())
            .filter(|place| self.nodes.get(*place).is_some_and(|n| n.step == step))
            .collect()
    }
}

impl Machine for Close {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        if self.closed.is_some() {
            return;
        }
        let refused = matches!(&replies, Ok(replies) if replies.contains(&Reply::Refused));
        let sure = now < self.grips.sure_until;
        self.sure = sure;
        if let Some(view) = self.grips.nodes.get_mut(place) {
            view.heard(now, replies);
            if view.ask_again(place, sure, out) {
                return;
            }
        }
        self.step(place, refused, sure, out);
        let busy = self.grips.nodes.iter().any(View::is_busy);
        if !busy {
            self.settle(out);
        }
    }

    fn is_done(&self) -> bool {
        self.closed.is_some()
    }
}

#[cfg(test)]
mod tests;
