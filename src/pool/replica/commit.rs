//! The end of a step from one node list to the next, as the records tell it.
//!
//! ```text
//!   the new epoch announced on every node ─► (every key that moves: read on both lists, repaired) ─► committed
//! ```
//!
//! The order carries the proof. Until the epoch is announced a host with the old list reads
//! and writes as ever, and who has the new list uses both. From then on the old one's writes
//! are acknowledged no more: the record it reads behind each of them says that it is behind.
//! So what it had acknowledged lies on a quorum of the old list before the keys are listed,
//! and a read over both lists brings it to the new one. Only then is the old list let go.

use super::view::{self, View};
use super::{Command, Epochs, Lost, Machine, Record, Reply, Send};
use crate::chance::mix;

/// How often a record is changed again that somebody else changed meanwhile.
const RETRIES: u32 = 20;

/// How far a step's end came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committing {
    /// Now read every key that moves over both lists, and call [`Commit::finish`] when each is
    /// whole on the new one.
    Move,
    /// The new list is the only one.
    Done,
    /// Records change all the while: later.
    Again,
    /// A node that is needed does not answer.
    Stopped {
        /// Its place among the nodes of both lists.
        place: usize,
    },
    /// The pool is ahead of this.
    Behind,
}

/// The records' part of a step's end.
#[derive(Debug)]
pub struct Commit {
    views: Vec<View>,
    /// A node that goes, and may be gone already.
    spare: Option<usize>,
    epochs: Epochs,
    random: u64,
    finishing: bool,
    tries: u32,
    result: Option<Committing>,
}

impl Commit {
    /// Begins the step to `epochs` for the nodes of both lists; places are their indices. The
    /// node at `spare` may be silent.
    pub fn new(
        nodes: &[Box<str>],
        spare: Option<usize>,
        epochs: Epochs,
        random: u64,
        out: &mut Vec<Send>,
    ) -> Commit {
        Commit {
            views: view::of_records(nodes, out),
            spare,
            epochs,
            random,
            finishing: false,
            tries: 0,
            result: None,
        }
    }

    /// How far it came, once [`Machine::is_done`].
    pub fn result(&self) -> Option<Committing> {
        self.result
    }

    /// Goes on after all keys that move are whole on the new list.
    pub fn finish(&mut self, out: &mut Vec<Send>) {
        if self.result != Some(Committing::Move) {
            return;
        }
        self.result = None;
        self.finishing = true;
        self.tries = 0;
        // A node that lost its memory meanwhile lost the announcement, too.
        for (place, view) in self.views.iter_mut().enumerate() {
            if view.is_known() {
                view.ask(place, vec![Command::ReadRecord], out);
            }
        }
    }

    fn plan(&mut self, out: &mut Vec<Send>) {
        let silent = |(place, view): (usize, &View)| !view.is_able() && Some(place) != self.spare;
        if let Some(place) = self.views.iter().enumerate().position(silent) {
            self.result = Some(Committing::Stopped { place });
            return;
        }
        let seen = view::epochs(&self.views);
        if seen.seen > self.epochs.seen {
            self.result = Some(Committing::Behind);
            return;
        }
        self.tries += 1;
        if self.tries > RETRIES {
            self.result = Some(Committing::Again);
            return;
        }
        let announced = Epochs {
            seen: self.epochs.seen,
            ..seen
        };
        let wanted = if self.finishing {
            self.epochs
        } else {
            announced
        };
        let id = mix(self.random, u64::from(self.tries));
        for (place, view) in self.views.iter_mut().enumerate() {
            if !view.is_known() {
                continue;
            }
            let command = match &view.record {
                _ if view.stale => Command::ReadRecord,
                None => {
                    let id = mix(id, place as u64);
                    let inc = u16::try_from(id >> 8 & 0xfff).unwrap_or(0);
                    Command::AddRecord(Record::new(inc, id).with(wanted))
                }
                Some((record, cas)) => {
                    let record_now = record.with(wanted);
                    if record_now == *record {
                        continue;
                    }
                    Command::SetRecord {
                        cas: *cas,
                        record: record_now,
                    }
                }
            };
            view.ask(place, vec![command], out);
        }
        if out.is_empty() {
            self.result = Some(if self.finishing {
                Committing::Done
            } else {
                Committing::Move
            });
        }
    }
}

impl Machine for Commit {
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
