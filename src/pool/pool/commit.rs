//! The end of a step from one node list to the next, on real nodes: every key that moves is
//! read over both lists and repaired, between the two halves of [`Commit`].

use super::Pool;
use super::copies::{Task, clock};
use crate::call::{Call, Verb};
use crate::error::{Error, Kind};
use crate::replica::{Close, Commit, Committing, Ending, Open, PREFERRED, Turn, Wish};

/// What came of a commit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The new list is the only one; so many keys were looked at.
    Done {
        /// Keys whose nodes changed.
        keys: usize,
    },
    /// It was so before.
    Nothing,
    /// Records changed all the while.
    Again,
    /// A node that is needed does not answer, or does not list its keys.
    Stopped {
        /// Its index.
        place: usize,
    },
    /// Keys that could not be brought to all of their new nodes; the step goes on.
    Failed {
        /// So many.
        keys: usize,
        /// Of so many.
        of: usize,
    },
    /// The file of this host does not fit the pool.
    Refused(Error),
}

impl Pool {
    /// Ends the step to this pool's node list: announces its epoch, moves the keys, and says
    /// in all records that it is committed.
    ///
    /// `named`: does the file name the list before, be it the same? `random` is any number that
    /// nobody else has, `host` this host's name; `progress` is told after each key how many are
    /// done, and of how many.
    pub fn commit(
        &mut self,
        record_key: &[u8],
        named: bool,
        host: &str,
        random: u64,
        call: &mut Call,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Committed {
        let survey = self.records(record_key, call);
        let Some(seen) = survey.epochs() else {
            return Committed::Refused(
                Error::new(Kind::Epoch, "no node has a record: there is no step to end")
                    .hint("A new pool begins at the epoch of its file"),
            );
        };
        if let Err(error) = self.stands(seen) {
            return Committed::Refused(error);
        }
        let wanted = self.epochs();
        // Any list fits records that name none, and without the one before no key would move.
        if seen.nodes == 0 && seen.committed < wanted.committed && !named {
            return Committed::Refused(
                Error::new(
                    Kind::Epoch,
                    format!(
                        "neither the records nor the file say which nodes the pool had at epoch {}",
                        seen.committed
                    ),
                )
                .hint(format!(
                    "Write previous_nodes = [the nodes at epoch {}], also where they are the same",
                    seen.committed
                )),
            );
        }
        if seen.committed >= wanted.committed {
            // Nodes that were away when it was done may not say so yet.
            let all = (0..survey.len()).filter_map(|place| survey.record(place));
            if all.clone().count() == survey.len() && all.into_iter().all(|r| r.epochs() == wanted)
            {
                return Committed::Nothing;
            }
        }
        let (names, nodes) = self.everyone();
        let spare = self.spare();
        let records = Task {
            key: b"",
            record_key,
            nodes: &nodes,
        };
        call.reset(Verb::Get);
        let mut out = Vec::new();
        let mut commit = Commit::new(&names, spare, wanted, random, &mut out);
        self.drive(&mut commit, out, records, call);
        match commit.result() {
            Some(Committing::Move) => {}
            other => return ended(other, 0),
        }
        let gone: Vec<usize> = spare
            .filter(|place| !self.records(record_key, call).answers(*place))
            .into_iter()
            .collect();
        let keys = match self.keys_elsewhere(&gone, record_key, call) {
            Ok(keys) => keys,
            Err(place) => return Committed::Stopped { place },
        };
        let moving: Vec<Vec<u8>> = keys
            .into_keys()
            .filter(|key| !self.lists(key).parts.is_empty())
            .collect();
        let mut failed = 0;
        for (number, key) in (1..).zip(&moving) {
            call.reset(Verb::Get);
            // With a turn only where it takes one: who works with the session is not disturbed.
            let mut bring = |turn| self.bring(key, record_key, host, random, turn, call);
            if !bring(None) && !bring(Some(Turn::TO_BRING)) {
                failed += 1;
            }
            progress(number, moving.len());
        }
        if failed > 0 {
            return Committed::Failed {
                keys: failed,
                of: moving.len(),
            };
        }
        call.reset(Verb::Get);
        let mut out = Vec::new();
        commit.finish(&mut out);
        self.drive(&mut commit, out, records, call);
        let end = ended(commit.result(), moving.len());
        if matches!(end, Committed::Done { .. }) {
            self.end_window();
        }
        end
    }

    /// Brings one key to all nodes of its new list; false when one of them has not got it.
    ///
    /// Without a turn it leaves alone what only its writer may take away: word of a write that
    /// failed, or in place of the value.
    fn bring(
        &mut self,
        key: &[u8],
        record_key: &[u8],
        host: &str,
        random: u64,
        turn: Option<Turn>,
        call: &mut Call,
    ) -> bool {
        let lists = self.lists(key);
        let wish = Wish {
            nodes: lists.nodes.iter().map(|n| self.ring_name(*n)).collect(),
            asked: PREFERRED,
            copies: self.copies(),
            rules: self.rules.machines,
            turn,
            fresh: false,
            epoch: self.policy.epoch,
            host: host.into(),
            random,
        };
        let mut out = Vec::new();
        let mut open = Open::over(wish, lists.parts.clone(), clock(), &mut out);
        let task = Task {
            key,
            record_key,
            nodes: &lists.nodes,
        };
        self.drive(&mut open, out, task, call);
        let Some(opened) = open.outcome() else {
            return false;
        };
        let now = lists.parts.first().map_or(&[][..], Vec::as_slice);
        let whole = opened.is_whole(now);
        if turn.is_some() {
            let mut out = Vec::new();
            let mut close = Close::new(opened.grips, Ending::Release, 1, clock(), 0, &mut out);
            self.drive(&mut close, out, task, call);
        }
        whole
    }
}

fn ended(result: Option<Committing>, keys: usize) -> Committed {
    match result {
        Some(Committing::Done) => Committed::Done { keys },
        Some(Committing::Stopped { place }) => Committed::Stopped { place },
        Some(Committing::Behind) => Committed::Refused(
            Error::new(Kind::Epoch, "somebody announced a higher epoch meanwhile")
                .hint("Bring the newest file to this host"),
        ),
        Some(Committing::Move | Committing::Again) | None => Committed::Again,
    }
}
