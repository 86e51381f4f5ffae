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

mod mend;

use super::view::{self, View};
use super::{Command, Lost, Machine, Record, Reply, Rules, Send, Trust, Waiting};
use crate::chance::mix;
pub use mend::Mend;

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
    /// The target waits for the end of what it lacks, or did.
    waiting: Option<Waiting>,
    /// It still does: its record keeps its name.
    waits: bool,
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
            waiting: None,
            waits: false,
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

    /// The same for a target on which this wait was noted: if nothing ended it, the record keeps
    /// the name it has.
    #[must_use]
    pub fn waiting(mut self, waiting: Option<Waiting>) -> Resync {
        self.waiting = waiting;
        self
    }

    /// Does the target still wait, in the life in which that was noted?
    pub fn waits(&self) -> bool {
        self.waits
    }

    /// The target's record as it was seen last.
    pub fn record(&self) -> Option<&Record> {
        let view = self.views.get(self.target)?;
        view.record.as_ref().map(|(record, _)| record)
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
                    // No two nodes have one name, or they would pass for one server.
                    let id = mix(id, place as u64);
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
        let record = target.record.as_ref().map(|(record, _)| record);
        let waits = (self.waiting.as_ref().zip(record)).is_some_and(|(wait, now)| wait.is_of(now));
        if waits && !listed {
            // Nobody lists it under this name: what it was given for is as it was.
            (self.waits, self.stage, self.tries) = (true, Stage::Copying, 0);
            self.result = Some(Resynced::Copy);
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

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests;
