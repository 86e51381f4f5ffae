//! A node that came back: what it missed is copied to it, and then it is trusted again.
//!
//! ```text
//!   new name for the pass ─► its entries elsewhere cleared ─► (every key: Mend) ─► trusted, if
//!   in the node's record                                                          the name stands
//! ```
//!
//! The order carries the proof. A write that goes without the node after its entries are
//! cleared lists it anew, which every read sees; one that went before is found when the keys
//! are listed. And a second pass gives the record another name, so that a first one that
//! listed too early cannot vouch for the node.

use super::view::{self, Newest, View};
use super::{Command, Lost, Machine, Record, Reply, Rules, Send, Stamp, Trust};
use crate::chance::mix;
use std::sync::Arc;

/// How often a record is changed again that somebody else changed meanwhile.
const RETRIES: u32 = 20;

/// How far a pass came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resynced {
    /// The node is trusted and nobody lists it.
    Nothing,
    /// Now list the keys of all other nodes, [`Mend`] each that prefers this one, and call
    /// [`Resync::finish`] when that went well for all.
    Copy,
    /// It is trusted.
    Trusted,
    /// Something changed meanwhile: another pass is needed.
    Again,
    /// A node that is needed does not answer.
    Stopped {
        /// Its place among the pool's nodes.
        place: usize,
    },
}

/// The records' part of a pass over a whole pool.
#[derive(Debug)]
pub struct Resync {
    views: Vec<View>,
    target: usize,
    rules: Rules,
    random: u64,
    /// The epoch of this host's file: with an older node list nobody is made trusted.
    epoch: u32,
    stage: Stage,
    /// The target's record as it was when the keys were listed, and its cas value: that tells
    /// whether it was doubted since.
    named: Option<(Record, u64)>,
    tries: u32,
    result: Option<Resynced>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// All records are being read.
    Reading,
    /// The target's record gets its new name.
    Naming,
    /// The other records lose what they say of the target.
    Clearing,
    /// The keys are being copied.
    Copying,
    /// The target is to be trusted.
    Trusting,
}

impl Resync {
    /// Begins a pass for node number `target` of a pool's `nodes`; places are their indices.
    pub fn new(
        nodes: &[Box<str>],
        target: usize,
        rules: Rules,
        random: u64,
        out: &mut Vec<Send>,
    ) -> Resync {
        Resync {
            views: view::of_records(nodes, out),
            target,
            rules,
            random,
            epoch: u32::MAX,
            stage: Stage::Reading,
            named: None,
            tries: 0,
            result: None,
        }
    }

    /// The same by a host whose file has this epoch: it stops at a record that is ahead.
    #[must_use]
    pub fn at(mut self, epoch: u32) -> Resync {
        self.epoch = epoch;
        self
    }

    /// How far it came, once [`Machine::is_done`].
    pub fn result(&self) -> Option<Resynced> {
        self.result
    }

    /// Goes on after all keys were copied.
    ///
    /// The record is read once more: a server that was started anew meanwhile counts its cas
    /// values from the start, and the next record may have that of the one we named.
    pub fn finish(&mut self, out: &mut Vec<Send>) {
        if self.result != Some(Resynced::Copy) {
            return;
        }
        self.result = None;
        self.stage = Stage::Trusting;
        if let Some(view) = self.views.get_mut(self.target) {
            self.named = view.record.take();
            view.ask(self.target, vec![Command::ReadRecord], out);
        }
    }

    fn trust(&mut self, out: &mut Vec<Send>) {
        self.change(self.target, Record::trusted, out);
    }

    /// Changes the record of one node as last seen.
    fn change(&mut self, place: usize, how: impl Fn(&Record) -> Record, out: &mut Vec<Send>) {
        if let Some(view) = self.views.get_mut(place)
            && let Some((record, cas)) = &view.record
        {
            let command = Command::SetRecord {
                cas: *cas,
                record: how(record),
            };
            view.ask(place, vec![command], out);
        }
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        if let Some(place) = self.views.iter().position(|view| !view.is_able()) {
            self.result = Some(Resynced::Stopped { place });
            return;
        }
        self.tries += 1;
        if self.tries > RETRIES {
            self.result = Some(Resynced::Again);
            return;
        }
        match self.stage {
            Stage::Reading => self.name(out),
            Stage::Naming => {
                if self.is_stale(self.target) {
                    // Somebody changed it: all is read again.
                    return self.read(out);
                }
                self.stage = Stage::Clearing;
                self.clear(out);
            }
            Stage::Clearing => self.clear(out),
            Stage::Trusting => {
                if self.is_stale(self.target) {
                    self.result = Some(Resynced::Again);
                    return;
                }
                let view = self.views.get(self.target);
                let seen = view.and_then(|view| view.record.as_ref());
                let same = seen == self.named.as_ref() || !self.rules.cas_on_trust;
                let named = self.named.as_ref().map(|(record, _)| record.trusted());
                match seen.map(|(record, _)| record) {
                    Some(record) if named.as_ref() == Some(record) => {
                        self.result = Some(Resynced::Trusted);
                    }
                    Some(record) if same && record.trust == Trust::Joining => self.trust(out),
                    Some(_) if !self.rules.cas_on_trust => self.result = Some(Resynced::Trusted),
                    _ => self.result = Some(Resynced::Again),
                }
            }
            Stage::Copying => {}
        }
    }

    fn is_stale(&self, place: usize) -> bool {
        self.views.get(place).is_some_and(|view| view.stale)
    }

    fn read(&mut self, out: &mut Vec<Send>) {
        self.stage = Stage::Reading;
        for (place, view) in self.views.iter_mut().enumerate() {
            view.ask(place, vec![Command::ReadRecord], out);
        }
    }

    /// Gives the target's record the name of this pass, and a new life if it missed something.
    fn name(&mut self, out: &mut Vec<Send>) {
        let epochs = view::epochs(&self.views);
        let ahead = self.views.iter().position(|view| {
            let record = view.record.as_ref();
            record.is_some_and(|(record, _)| record.epoch > self.epoch)
        });
        if let Some(place) = ahead {
            self.result = Some(Resynced::Stopped { place });
            return;
        }
        let mut added = false;
        let id = mix(self.random, u64::from(self.tries));
        for (place, view) in self.views.iter_mut().enumerate() {
            if view.record.is_none() || view.stale {
                added = true;
                let command = if view.stale {
                    Command::ReadRecord
                } else {
                    let inc = u16::try_from(id >> 8 & 0xfff).unwrap_or(0);
                    Command::AddRecord(Record::new(inc, id).with(epochs))
                };
                view.ask(place, vec![command], out);
            }
        }
        if added {
            return;
        }
        let Some(target) = self.views.get(self.target) else {
            return;
        };
        let listed = view::is_listed(&self.views, &target.name, self.rules);
        let trusted = target
            .record
            .as_ref()
            .is_some_and(|(record, _)| record.trust == Trust::Trusted);
        if trusted && !listed {
            self.result = Some(Resynced::Nothing);
            return;
        }
        self.stage = Stage::Naming;
        let incarnation = self.rules.incarnation;
        self.change(
            self.target,
            |record| {
                let born = if listed && incarnation {
                    record.reborn()
                } else {
                    record.clone()
                };
                Record {
                    id,
                    trust: Trust::Joining,
                    ..born.with(epochs)
                }
            },
            out,
        );
    }

    /// Clears the target from the records of the others.
    fn clear(&mut self, out: &mut Vec<Send>) {
        let Some(name) = self.views.get(self.target).map(|view| view.name.clone()) else {
            return;
        };
        let before = out.len();
        for place in 0..self.views.len() {
            if self.is_stale(place) {
                if let Some(view) = self.views.get_mut(place) {
                    view.ask(place, vec![Command::ReadRecord], out);
                }
                continue;
            }
            let lists = self.views.get(place).is_some_and(|view| {
                view.record
                    .as_ref()
                    .is_some_and(|(record, _)| record.lists(&name))
            });
            if lists {
                self.change(
                    place,
                    |record| Record {
                        absent: record
                            .absent
                            .iter()
                            .filter(|absent| absent.node != name)
                            .cloned()
                            .collect(),
                        ..record.clone()
                    },
                    out,
                );
            }
        }
        if out.len() == before {
            self.stage = Stage::Copying;
            self.tries = 0;
            self.result = Some(Resynced::Copy);
        }
    }
}

impl Machine for Resync {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        let quiet = view::heard(&mut self.views, now, place, replies);
        if self.result.is_none() && quiet {
            self.plan(out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}

/// One key of a pass: the target gets the newest value that the others have.
#[derive(Debug)]
pub struct Mend {
    views: Vec<View>,
    target: usize,
    rules: Rules,
    /// How many nodes of the list get a value; the others get word of it.
    copies: usize,
    /// Places whose nodes have all that was acknowledged once they are trusted.
    whole: Vec<usize>,
    /// The target goes on in its life, and is not believed before it is mended.
    goes_on: bool,
    /// What the target was to get when it refused, if that made it drop what it had: it may have
    /// been the only copy.
    spare: Option<(Stamp, u32, Arc<[u8]>)>,
    tries: u32,
    result: Option<bool>,
}

impl Mend {
    /// Begins to mend a key on its preferred node number `target`, of which the first `copies`
    /// have its value.
    pub fn new(
        nodes: &[Box<str>],
        target: usize,
        copies: usize,
        rules: Rules,
        out: &mut Vec<Send>,
    ) -> Mend {
        let mut mend = Mend {
            views: nodes.iter().map(|name| View::new(name.clone())).collect(),
            target,
            rules,
            copies,
            whole: (0..nodes.len()).collect(),
            goes_on: false,
            spare: None,
            tries: 0,
            result: None,
        };
        for place in 0..mend.views.len() {
            mend.look(place, out);
        }
        mend
    }

    /// The same while nodes change: only those at `whole` have got every write so far.
    #[must_use]
    pub fn believing(mut self, whole: Vec<usize>) -> Mend {
        self.whole = whole;
        // In which list it stands where is not known here: nobody gets less than the value.
        self.copies = usize::MAX;
        self
    }

    /// The same for a node that goes on in its life: it gets a key that it missed, and keeps
    /// what is newer than all that the others have, which somebody is just writing.
    #[must_use]
    pub fn kept(mut self) -> Mend {
        self.goes_on = true;
        self
    }

    /// True when the target has the newest value, once [`Machine::is_done`].
    pub fn result(&self) -> Option<bool> {
        self.result
    }

    fn look(&mut self, place: usize, out: &mut Vec<Send>) {
        if let Some(view) = self.views.get_mut(place) {
            let read = Command::Read {
                value: true,
                token: false,
            };
            view.ask(place, vec![Command::ReadRecord, read], out);
        }
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        self.tries += 1;
        let all = self.views.iter().all(|view| view.is_known());
        if !all || self.tries > RETRIES {
            return self.end(false, out);
        }
        self.keep_spare();
        if self.views.get(self.target).is_some_and(|view| view.stale) {
            let again = if self.goes_on || self.spare.is_some() {
                0..self.views.len()
            } else {
                self.target..self.target + 1
            };
            return again.for_each(|place| self.look(place, out));
        }
        let others = self.whole.iter().filter(|place| **place != self.target);
        // One trusted node that nobody lists has all that was acknowledged.
        let trusted: Vec<&View> = others
            .filter(|place| view::is_trusted(&self.views, **place, self.rules))
            .filter_map(|place| self.views.get(*place))
            .collect();
        let sure = !trusted.is_empty();
        let own = self.views.get(self.target).and_then(View::stamp);
        let counts = |version| trusted.iter().all(|view| view.has_write(version));
        let newest = view::newest(&self.views, !sure, self.rules);
        let found = match newest
            .map(|newest| view::newest_value(&self.views, newest, !sure, self.rules, counts))
        {
            None | Some(Newest::Nothing) => None,
            Some(Newest::Elsewhere(..)) if self.goes_on => return self.end(false, out),
            Some(Newest::At(place, stamp) | Newest::Elsewhere(place, stamp)) => {
                Some((place, stamp))
            }
        };
        if self.goes_on
            && (!sure
                || own.is_some()
                    && own.map(|own| own.version) > found.map(|(_, newest)| newest.version))
        {
            // Nobody to believe, or a write under way, or the rest of one: not now.
            return self.end(false, out);
        }
        if !self.goes_on && self.tries <= RETRIES / 2 && self.is_written(found.map(|(_, at)| at)) {
            return (0..self.views.len()).for_each(|place| self.look(place, out));
        }
        let spare = self
            .spare
            .as_ref()
            .filter(|(spare, ..)| found.is_none_or(|(_, newest)| newest.version <= spare.version));
        if let (Some((stamp, life, data)), Some(view)) = (spare, self.views.get_mut(self.target))
            && view.stamp().is_none()
            && !view.full
        {
            let write = view.store(*stamp, *life, data);
            return view.ask(self.target, vec![write], out);
        }
        let Some((place, newest)) = found else {
            return self.keep_turn(out);
        };
        let source = self.views.get(place).and_then(|view| view.item.clone());
        let list = [(0..self.views.len()).collect()];
        let value = view::gets_value(&self.views, &list, self.copies, self.rules, self.target);
        let Some(view) = self.views.get_mut(self.target) else {
            return;
        };
        let (Some(source), Some(inc)) = (source, view.inc()) else {
            return self.end(false, out);
        };
        let value = value && !newest.witness;
        let has = view.has(newest.version, value, self.rules);
        if has || view.full {
            return self.end(has, out);
        }
        let witness = !value && !newest.tombstone;
        let stamp = Stamp {
            inc,
            // Who goes on in its life has not forgotten whose turn it is.
            mended: !self.goes_on,
            witness,
            ..newest
        };
        let data = source.data.unwrap_or_else(|| Arc::from([]));
        let write = view.store(stamp, source.left.max(1), &data);
        view.ask(self.target, vec![write], out);
    }

    /// Has the target, in its present life, a later write than was `found` elsewhere, while somebody
    /// has the turn there? He is about to write there, too, most likely, and another look shows it.
    fn is_written(&self, found: Option<Stamp>) -> bool {
        let target = self.views.get(self.target);
        let own =
            target.and_then(|view| Some(view.stamp()?).filter(|own| view.inc() == Some(own.inc)));
        let later = own.map(|own| own.version) > found.map(|found| found.version);
        let mut others = self.whole.iter().filter(|place| **place != self.target);
        let taken = others.any(|place| {
            let view = self.views.get(*place);
            view.is_some_and(|view| view.taken.is_some())
        });
        own.is_some() && later && taken
    }

    /// The target had no room, and dropped what it had: that made some. All are looked at again,
    /// since what was dropped may have been newer than what is known.
    fn keep_spare(&mut self) {
        let Some(view) = self.views.get_mut(self.target) else {
            return;
        };
        let Some(refusal) = view.refusal.take() else {
            return;
        };
        let write = refusal
            .commands
            .into_iter()
            .find_map(|command| match command {
                Command::Write {
                    stamp, life, data, ..
                } => Some((stamp, life, data)),
                _ => None,
            });
        if self.spare.is_none() && !self.goes_on {
            (self.spare, view.full, view.stale) = (write, false, true);
        } else {
            // What it dropped now may be what another runner, or a writer, had just brought.
            view.dropped = true;
        }
    }

    /// There is no value yet. A turn that somebody has on it elsewhere is his here, too: the
    /// placeholder made for it is not given back, and ends when his does.
    fn keep_turn(&mut self, out: &mut Vec<Send>) {
        let mut others = self.whole.iter().filter(|place| **place != self.target);
        let elder = others.any(|place| {
            let view = self.views.get(*place);
            view.is_some_and(|view| view.stamp().is_none() && view.taken.is_some())
        });
        let view = self.views.get_mut(self.target);
        let Some(view) = view.filter(|_| elder && !self.goes_on && self.rules.elders) else {
            return self.end(true, out);
        };
        if view.item.is_none() {
            let take = Command::Read {
                value: false,
                token: true,
            };
            return view.ask(self.target, vec![take], out);
        }
        view.token = false;
        self.end(true, out);
    }

    /// The end; a token that a read brought along goes back. A target that dropped what it had,
    /// and does not get it again, is not to be believed by another runner either.
    fn end(&mut self, result: bool, out: &mut Vec<Send>) {
        let before = out.len();
        let target = self.views.get_mut(self.target).filter(|_| !result);
        if let Some(view) = target.filter(|_| self.tries <= 2 * RETRIES) {
            view.doubt_dropped(self.target, out);
        }
        if out.len() > before {
            return;
        }
        for (place, view) in self.views.iter_mut().enumerate() {
            view.release(place, 0, out);
        }
        self.result = Some(result);
    }
}

impl Machine for Mend {
    fn heard(
        &mut self,
        now: u64,
        place: usize,
        replies: Result<Vec<Reply>, Lost>,
        out: &mut Vec<Send>,
    ) {
        let quiet = view::heard(&mut self.views, now, place, replies);
        if self.result.is_none() && quiet {
            self.plan(out);
        }
    }

    fn is_done(&self) -> bool {
        self.result.is_some()
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests;
