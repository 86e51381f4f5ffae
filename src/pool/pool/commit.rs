//! The end of a step from one node list to the next, on real nodes: every key that moves is
//! read over both lists and repaired, between the two halves of [`Commit`].

use super::Pool;
use super::copies::{Task, clock};
use crate::call::{Call, Verb};
use crate::error::{Error, Kind};
use crate::fanout;
use crate::replica::{
    Close, Commit, Committing, Ending, Found, LEASE_SLACK, Open, PREFERRED, Turn, Watch, Wish,
};
use crate::shared;
use std::time::Duration;

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
    /// Keys are not on all of their new nodes; the step goes on.
    Failed {
        /// So many could not be brought there.
        keys: usize,
        /// With so many others somebody worked: for two leases, where all the rest was brought.
        held: usize,
        /// Of so many.
        of: usize,
    },
    /// The file of this host does not fit the pool.
    Refused(Error),
}

/// How far the keys of a step are brought over.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// So many are whole.
    pub done: usize,
    /// Of so many.
    pub of: usize,
    /// So many are waited for, since somebody works with them.
    pub held: usize,
}

/// Who ends a step, and how.
#[derive(Clone, Debug)]
pub struct Committer<'a> {
    /// The key of the pool's records.
    pub record_key: &'a [u8],
    /// The file names the list before, be it the same.
    pub named: bool,
    /// This host's name.
    pub host: &'a str,
    /// Any number that nobody else has.
    pub random: u64,
    /// Who worked with a key for so long, and did not write it, loses his turn. Hosts leave it to him
    /// for as long as `lease::term` says, which is [`crate::lease::MOST`] at most unless a lock_timeout is longer.
    pub lease: Duration,
}

/// Between two looks at the keys that are waited for.
const ROUND: Duration = Duration::from_millis(300);

/// So many looks in a row may fail at a key that somebody worked with.
const FAILS: u32 = 10;

/// What came of one key.
enum Brought {
    /// All its new nodes have it.
    Whole,
    /// Somebody works with it.
    Held(Watch),
    /// Not all of them have it.
    Failed,
}

impl Pool {
    /// Ends the step to this pool's node list: announces its epoch, moves the keys, and says
    /// in all records that it is committed.
    ///
    /// `progress` is told after each key.
    pub fn commit(
        &mut self,
        who: &Committer<'_>,
        call: &mut Call,
        progress: &mut dyn FnMut(Progress),
    ) -> Committed {
        let &Committer {
            record_key,
            named,
            random,
            ..
        } = who;
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
        let of = moving.len();
        let (keys, held) = self.bring_all(moving, who, call, progress);
        if keys + held > 0 {
            return Committed::Failed { keys, held, of };
        }
        call.reset(Verb::Get);
        let mut out = Vec::new();
        commit.finish(&mut out);
        self.drive(&mut commit, out, records, call);
        let end = ended(commit.result(), of);
        if matches!(end, Committed::Done { .. }) {
            self.end_window();
        }
        end
    }

    /// Brings these keys to all nodes of their new lists. How many were not brought; and how many not
    /// since somebody works with them: these are waited for where all others are brought.
    fn bring_all(
        &mut self,
        keys: Vec<Vec<u8>>,
        who: &Committer<'_>,
        call: &mut Call,
        progress: &mut dyn FnMut(Progress),
    ) -> (usize, usize) {
        let of = keys.len();
        let (mut done, mut failed) = (0, 0);
        let mut held = Vec::new();
        for key in keys {
            match self.bring_once(&key, who, call) {
                Brought::Held(watch) => held.push((key, watch, 0)),
                Brought::Whole => done += 1,
                Brought::Failed => failed += 1,
            }
            progress(Progress {
                done,
                of,
                held: held.len(),
            });
        }
        let until = shared::now().saturating_add(2 * lease(who));
        let mut last = false;
        while failed == 0 && !held.is_empty() && !last {
            fanout::pause(ROUND);
            last = shared::now() > until;
            for (key, watch, fails) in std::mem::take(&mut held) {
                call.reset(Verb::Get);
                // Nothing but the turn is looked at, so that many keys are not looked away from.
                match self.bring(&key, who, Some(watch.clone()), call) {
                    Brought::Held(watch) => held.push((key, watch, 0)),
                    Brought::Whole => done += 1,
                    Brought::Failed if last || fails == FAILS => failed += 1,
                    // A node was slow, perhaps: what was seen before is not given up for that.
                    Brought::Failed => held.push((key, watch, fails + 1)),
                }
            }
            let held = held.len();
            progress(Progress { done, of, held });
        }
        (failed, held.len())
    }

    /// Brings one key, with a turn only where somebody works with it or it takes one.
    fn bring_once(&mut self, key: &[u8], who: &Committer<'_>, call: &mut Call) -> Brought {
        call.reset(Verb::Get);
        match self.bring(key, who, None, call) {
            Brought::Whole => Brought::Whole,
            _ => self.bring(key, who, Some(Watch::default()), call),
        }
    }

    /// Brings one key to all nodes of its new list; with a `turn` where it says what was seen of
    /// others' turns on it so far.
    ///
    /// Without a turn it leaves alone what only its writer may take away: word of a write that
    /// failed, or in place of the value.
    fn bring(
        &mut self,
        key: &[u8],
        who: &Committer<'_>,
        turn: Option<Watch>,
        call: &mut Call,
    ) -> Brought {
        let lists = self.lists(key);
        let wish = Wish {
            nodes: lists.nodes.iter().map(|n| self.ring_name(*n)).collect(),
            asked: PREFERRED,
            copies: self.copies(),
            rules: self.rules.machines,
            turn: turn.as_ref().map(|_| Turn::to_bring(lease(who))),
            fresh: false,
            epoch: self.policy.list_epoch(),
            host: who.host.into(),
            random: who.random,
        };
        let mut out = Vec::new();
        let mut open = Open::over(wish, lists.parts.clone(), clock(), &mut out);
        let with_turn = turn.is_some();
        open.go_on(turn.unwrap_or_default());
        let task = Task {
            key,
            record_key: who.record_key,
            nodes: &lists.nodes,
        };
        self.drive(&mut open, out, task, call);
        let Some(opened) = open.outcome() else {
            return Brought::Failed;
        };
        if opened.found == Found::Locked {
            return Brought::Held(opened.grips.watch());
        }
        let now = lists.parts.first().map_or(&[][..], Vec::as_slice);
        // He may have the turn by the old list, and write by that when the step is over: what he
        // then leaves behind is word of a write that few have.
        let whole = opened.is_whole(now) && (with_turn || !opened.grips.is_taken());
        if with_turn {
            let mut out = Vec::new();
            let mut close = Close::new(opened.grips, Ending::Release, 1, clock(), 0, &mut out);
            self.drive(&mut close, out, task, call);
        }
        if whole {
            Brought::Whole
        } else {
            Brought::Failed
        }
    }
}

/// For how long whoever works with a key is waited for, milliseconds.
fn lease(who: &Committer<'_>) -> u64 {
    let lease = u64::try_from(who.lease.as_millis()).unwrap_or(u64::MAX);
    lease.saturating_add(LEASE_SLACK)
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
