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
use super::{Command, Epochs, Lost, Machine, Record, Reply, Send, Trust};
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
    /// The nodes as the keys began to move: places, their memory lives, and who was trusted.
    before: Vec<(usize, u16, bool)>,
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
            before: Vec::new(),
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
        if self.finishing && !self.are_as_before() {
            // What was brought to one of them may be gone: all keys once more.
            self.result = Some(Committing::Again);
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
            self.before = self.lives().collect();
            self.result = Some(if self.finishing {
                Committing::Done
            } else {
                Committing::Move
            });
        }
    }

    fn lives(&self) -> impl Iterator<Item = (usize, u16, bool)> {
        let views = self.views.iter().enumerate();
        views.filter_map(|(place, view)| {
            let (record, _) = view.record.as_ref().filter(|_| view.is_known())?;
            Some((place, record.inc, record.trust == Trust::Trusted))
        })
    }

    /// Has every node the memory, and the trust, that it had when the keys began to move?
    fn are_as_before(&self) -> bool {
        let now: Vec<_> = self.lives().collect();
        let stays = |(place, inc, trusted): &(usize, u16, bool)| {
            let same =
                |now: &(usize, u16, bool)| (now.0, now.1) == (*place, *inc) && now.2 >= *trusted;
            Some(*place) == self.spare || now.iter().any(same)
        };
        self.before.iter().all(stays)
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

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests {
    use super::*;

    const STEP: Epochs = Epochs {
        seen: 1,
        committed: 1,
        nodes: 7,
    };

    /// Two nodes' records, changed as they are told.
    fn answer(commit: &mut Commit, records: &mut [Option<Record>], out: &mut Vec<Send>) {
        while !out.is_empty() {
            let Send { place, commands } = out.remove(0);
            let replies = commands.into_iter().map(|command| match command {
                Command::ReadRecord => match records[place].clone() {
                    Some(record) => Reply::Record { record, cas: 1 },
                    None => Reply::NoRecord,
                },
                Command::AddRecord(record) | Command::SetRecord { record, .. } => {
                    records[place] = Some(record);
                    Reply::Done { cas: 0 }
                }
                other => panic!("{other:?}"),
            });
            let replies = replies.collect();
            commit.heard(1, place, Ok(replies), out);
        }
    }

    /// How a step of two nodes ends when this becomes of the first one's record while keys move.
    fn ends(meanwhile: impl FnOnce(&Record) -> Option<Record>) -> (Option<Committing>, u32) {
        let mut records = [3, 4].map(|inc| Some(Record::new(inc, inc.into()).trusted()));
        let mut out = Vec::new();
        let names = ["a", "b"].map(Box::from);
        let mut commit = Commit::new(&names, None, STEP, 5, &mut out);
        answer(&mut commit, &mut records, &mut out);
        assert_eq!(commit.result(), Some(Committing::Move));
        records[0] = records[0].as_ref().and_then(meanwhile);
        commit.finish(&mut out);
        answer(&mut commit, &mut records, &mut out);
        let other = records[1].as_ref().map_or(0, |record| record.committed);
        (commit.result(), other)
    }

    #[test]
    fn a_step_does_not_end_when_a_node_lost_its_memory_while_keys_moved() {
        assert_eq!(
            ends(|record| Some(record.clone())),
            (Some(Committing::Done), 1)
        );
        assert_eq!(ends(|_| None), (Some(Committing::Again), 0));
        assert_eq!(
            ends(|record| Some(record.reborn())),
            (Some(Committing::Again), 0)
        );
    }
}
