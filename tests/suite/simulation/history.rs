//! What happened, in the order in which it truly happened, and whether it may.
//!
//! Clients say when a write, a destroy or a read begins and how it ends; each such moment has
//! a number of its own, so "before" is never in doubt. From that, and from nothing the nodes
//! or machines believe, the checker knows:
//!
//! | violation | what was seen |
//! |---|---|
//! | lost | a read says "nothing" after an acknowledged value that no destroy explains |
//! | older | a read returns a value from before one that was acknowledged, or read, already |
//! | revived | a read returns a value from before an acknowledged destroy |
//! | two owners | two acknowledged writes, neither of which knew of the other |
//! | one version, two values | what it says |
//! | a value nobody wrote | what it says |
//! | told of a turn nobody took | who alone had the turn, for less than a lease and while no clock jumped, is told at its end that somebody else wrote (and nobody had the turn for a whole lease right before him) |
//! | refused without need | an id that was just made up, or one for which two trusted nodes were there all the time |
//! | stuck | a client never came to an end |
//!
//! A value served with a warning, because fewer than two trusted nodes answered, is held
//! against all that, too; but what nobody acknowledged does not stand by being read so.
//!
//! Each operation can be lost once: after it was, what follows from it is not counted again.
//! Not checked here: how fast, and what a refused read should have found.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use memring_pool::replica::Version;

use super::node::Key;
use super::turns::{Held, Turns};

/// What is promised and was not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Violation {
    /// Acknowledged and gone.
    Lost,
    /// Something newer was acknowledged or read before.
    Older,
    /// Destroyed and back.
    Revived,
    /// Two writes on the same base, both acknowledged.
    TwoOwners,
    /// One version with two values.
    TwoValues,
    /// A value nobody wrote.
    Strange,
    /// A new id refused, or any though two trusted nodes could tell.
    Refused,
    /// Told that somebody else wrote, who had the turn all the while and alone.
    Needless,
    /// A client that waits for ever.
    Stuck,
}

/// An operation that changes a key, by number. A value carries the number of its write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Change(pub(super) u64);

impl Change {
    /// The bytes that stand for it on a node.
    pub(super) fn data(self) -> Arc<[u8]> {
        Arc::from(self.0.to_le_bytes())
    }

    /// The write whose value this is; none if no client ever wrote it.
    pub(super) fn of(data: &[u8]) -> Option<Change> {
        data.try_into()
            .ok()
            .map(|bytes| Change(u64::from_le_bytes(bytes)))
    }
}

/// A read, by number.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reading(usize);

/// How a read ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// This write's value.
    Value(Change),
    /// This write's value, with a warning: too few nodes could tell.
    Perhaps(Change),
    /// Nothing is stored.
    Nothing,
    /// Bytes that no client wrote.
    Strange,
    /// No answer was given. `needless`: the id was made up just now and a node of it was there,
    /// or two nodes that are believed were there all the time, or all was healed.
    Refused {
        /// A refusal that is never allowed.
        needless: bool,
    },
}

/// On what a change was made.
#[derive(Clone, Copy, Debug)]
pub(super) enum Base {
    /// On what this read returned: the change claims to know all that the read knew.
    Read(Reading),
    /// On nothing: it overwrites blindly, and loses nothing that it promised to keep.
    Blind,
}

#[derive(Debug)]
struct Record {
    key: Key,
    destroys: bool,
    base: Base,
    version: Option<Version>,
    begin: u64,
    /// When the client knew the outcome; a change without may still happen.
    end: Option<u64>,
    acked: bool,
    /// The first moment from which nobody may see anything before it.
    standing: Option<u64>,
    /// Virtual millisecond after which its value may be gone.
    expires_at: u64,
    /// Reported lost already.
    gone: bool,
}

#[derive(Debug)]
struct Read {
    key: Key,
    begin: u64,
    end: u64,
    answer: Answer,
}

/// Tombstone or not, and the value.
type Kept = (bool, Arc<[u8]>);

/// How much happened: a run without violations in which nothing succeeded proves nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counts {
    pub(super) reads: u64,
    pub(super) refused: u64,
    pub(super) changes: u64,
    pub(super) acked: u64,
}

impl Counts {
    /// Adds another run's.
    pub(super) fn add(&mut self, other: Counts) {
        self.reads += other.reads;
        self.refused += other.refused;
        self.changes += other.changes;
        self.acked += other.acked;
    }
}

/// The history of one run.
#[derive(Debug, Default)]
pub(super) struct History {
    moment: u64,
    changes: Vec<Record>,
    by_key: BTreeMap<Key, Vec<usize>>,
    /// Whose turn it was.
    pub(super) turns: Turns,
    /// Of those that stand, the ones no other that stands was made on: enough to check reads by.
    tips: BTreeMap<Key, Vec<usize>>,
    reads: Vec<Read>,
    /// Tombstone or not, and the value, of each version.
    values: BTreeMap<(Key, Version), Kept>,
    /// What was found, with virtual millisecond and words, in order.
    pub(super) found: Vec<(u64, Violation, String)>,
    pub(super) counts: Counts,
}

impl History {
    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A read begins.
    pub(super) fn begin_read(&mut self, key: Key) -> Reading {
        let begin = self.tick();
        self.reads.push(Read {
            key,
            begin,
            end: u64::MAX,
            answer: Answer::Refused { needless: false },
        });
        Reading(self.reads.len() - 1)
    }

    /// A read ends at `time`; what it says is checked.
    pub(super) fn end_read(&mut self, time: u64, reading: Reading, answer: Answer) {
        let end = self.tick();
        let read = &mut self.reads[reading.0];
        (read.end, read.answer) = (end, answer);
        self.counts.reads += 1;
        match answer {
            Answer::Value(change) | Answer::Perhaps(change) => {
                self.check_value(time, reading, change);
            }
            Answer::Nothing => self.check_nothing(time, reading),
            Answer::Strange => {
                let key = self.reads[reading.0].key;
                self.report(time, Violation::Strange, format!("key {key}"));
            }
            Answer::Refused { needless } => {
                self.counts.refused += 1;
                if needless {
                    let key = self.reads[reading.0].key;
                    self.report(time, Violation::Refused, format!("key {key}"));
                }
            }
        }
    }

    /// Who had this turn is told at its end that somebody else wrote. `lease`: milliseconds.
    pub(super) fn lost_turn(&mut self, time: u64, turn: Held, lease: u64) {
        if self.turns.is_needless(time, turn, lease) {
            let words = format!("key {}: held since {}", turn.key, turn.since);
            self.report(time, Violation::Needless, words);
        }
    }

    /// A write begins; its value is the number returned. `life`: milliseconds.
    pub(super) fn begin_write(&mut self, time: u64, key: Key, base: Base, life: u64) -> Change {
        self.begin(key, false, base, time + life)
    }

    /// A destroy begins.
    pub(super) fn begin_destroy(&mut self, key: Key, base: Base) -> Change {
        self.begin(key, true, base, u64::MAX)
    }

    fn begin(&mut self, key: Key, destroys: bool, base: Base, expires_at: u64) -> Change {
        let begin = self.tick();
        self.counts.changes += 1;
        self.by_key.entry(key).or_default().push(self.changes.len());
        self.changes.push(Record {
            key,
            destroys,
            base,
            version: None,
            begin,
            end: None,
            acked: false,
            standing: None,
            expires_at,
            gone: false,
        });
        Change(self.changes.len() as u64)
    }

    /// The client was told that it is done.
    pub(super) fn ack(&mut self, time: u64, change: Change) {
        let end = self.tick();
        let at = self.at(change);
        let record = &mut self.changes[at];
        record.end = Some(end);
        record.acked = true;
        let (key, base) = (record.key, record.base);
        self.counts.acked += 1;
        self.stand(at, end);
        // What had ended before its read began is for that read to have found.
        let since = match base {
            Base::Read(reading) => self.reads[reading.0].begin,
            Base::Blind => u64::MAX,
        };
        for other in self.by_key[&key].clone() {
            let record = &self.changes[other];
            // A destroy and a write may cross: whichever is later stands.
            if other != at
                && record.acked
                && record.end.is_some_and(|end| end > since)
                && !record.gone
                && !record.destroys
                && !self.changes[at].destroys
                && !matches!(record.base, Base::Blind)
                && !self.knew(other, at)
                && !self.knew(at, other)
            {
                let words = format!("key {key}: {} and {}", other + 1, at + 1);
                self.report(time, Violation::TwoOwners, words);
                self.changes[other].gone = true;
            }
        }
    }

    /// The client was told that it may not be done; it may have been, but for the client it is over.
    pub(super) fn fail(&mut self, change: Change) {
        let end = self.tick();
        let at = self.at(change);
        self.changes[at].end = Some(end);
    }

    /// An unchanged session was kept alive for `life` more milliseconds: not only its value
    /// but every later sight of it lasts as long.
    pub(super) fn touched(&mut self, time: u64, change: Change, life: u64) {
        let at = self.at(change);
        let record = &mut self.changes[at];
        record.expires_at = record.expires_at.max(time + life);
    }

    /// A node holds this value under this version.
    pub(super) fn stored(&mut self, time: u64, key: Key, held: (Version, bool, Arc<[u8]>)) {
        let (version, tombstone, data) = held;
        if let (false, Some(change)) = (tombstone, Change::of(&data)) {
            let at = self.at(change);
            // The first: a turn taken over raises the version of the same value.
            self.changes[at].version.get_or_insert(version);
        }
        let value = (tombstone, data);
        let first = self.values.entry((key, version)).or_insert(value.clone());
        if *first != value {
            let words = format!(
                "key {key}: version {} is {first:?} and {value:?}",
                version.0
            );
            self.report(time, Violation::TwoValues, words);
        }
    }

    /// Something no single operation shows.
    pub(super) fn report(&mut self, time: u64, violation: Violation, words: String) {
        self.found.push((time, violation, words));
    }

    fn at(&self, change: Change) -> usize {
        let at = (change.0 as usize).wrapping_sub(1);
        assert!(
            at < self.changes.len(),
            "a value nobody wrote: {}",
            change.0
        );
        at
    }

    fn check_value(&mut self, time: u64, reading: Reading, change: Change) {
        let seen = self.at(change);
        let Read {
            key,
            begin,
            end,
            answer,
        } = self.reads[reading.0];
        assert_eq!(self.changes[seen].key, key, "a value of another key");
        assert!(self.changes[seen].begin < end, "a value before its write");
        let standing: Vec<usize> = self.standing(key, begin).collect();
        let mut worst = None;
        for at in standing {
            let passed = self.came_before(seen, at) || (at != seen && self.overwrote(seen, at));
            if !passed || at == seen {
                continue;
            }
            self.changes[at].gone = true;
            let kind = match self.changes[at].destroys {
                true => Violation::Revived,
                false => Violation::Older,
            };
            worst =
                Some(worst.map_or(
                    (kind, at),
                    |(old, was)| {
                        if kind > old { (kind, at) } else { (old, was) }
                    },
                ));
        }
        if let Some((kind, at)) = worst {
            let words = format!("key {key}: {} read after {}", seen + 1, at + 1);
            self.report(time, kind, words);
        }
        // What was read stands from now on, acknowledged or not, unless it should not be there.
        if worst.is_none() && answer == Answer::Value(change) {
            self.stand(seen, end);
        }
    }

    fn check_nothing(&mut self, time: u64, reading: Reading) {
        let Read {
            key, begin, end, ..
        } = self.reads[reading.0];
        let standing: Vec<usize> = self.standing(key, begin).collect();
        let mut lost = None;
        for at in standing {
            let record = &self.changes[at];
            // Servers count in whole seconds.
            if record.destroys || time + 2000 >= record.expires_at {
                continue;
            }
            let mut reasons = self.by_key[&key].iter().copied().filter(|&other| {
                let destroy = &self.changes[other];
                destroy.destroys && destroy.begin < end && !self.came_before(other, at)
            });
            match (reasons.next(), reasons.next()) {
                (None, _) => {
                    self.changes[at].gone = true;
                    lost = Some(at);
                }
                // Whoever saw it destroyed may rely on it, acknowledged or not.
                (Some(only), None) => {
                    self.stand(only, end);
                }
                (Some(_), Some(_)) => {}
            }
        }
        if let Some(at) = lost {
            self.report(time, Violation::Lost, format!("key {key}: {}", at + 1));
        }
    }

    /// Changes that nobody may be unaware of who begins to read at `begin`.
    fn standing(&self, key: Key, begin: u64) -> impl Iterator<Item = usize> {
        let tips = self.tips.get(&key).into_iter().flatten().copied();
        tips.filter(move |&at| {
            let record = &self.changes[at];
            !record.gone && record.standing.is_some_and(|since| since < begin)
        })
    }

    /// From this moment on nobody may see anything from before it.
    fn stand(&mut self, at: usize, moment: u64) {
        if self.changes[at].standing.is_some() {
            return;
        }
        self.changes[at].standing = Some(moment);
        let key = self.changes[at].key;
        let mut tips = self.tips.remove(&key).unwrap_or_default();
        tips.retain(|&tip| !self.changes[tip].gone && !self.knew(at, tip));
        if !tips.iter().any(|&tip| self.knew(tip, at)) {
            tips.push(at);
        }
        self.tips.insert(key, tips);
    }

    /// `first` belongs before `second`: it was over when that began, or that was made on it,
    /// or they overlapped and `second` has the higher version.
    fn came_before(&self, first: usize, second: usize) -> bool {
        let (one, two) = (&self.changes[first], &self.changes[second]);
        if first == second || two.end.is_some_and(|end| end < one.begin) {
            return false;
        }
        one.end.is_some_and(|end| end < two.begin)
            || self.knew(second, first)
            || matches!((one.version, two.version), (Some(a), Some(b)) if a < b)
    }

    /// `at` was made on a read that `other` was no part of, though `other` was acknowledged or
    /// is a destroy that was: what `at` wrote silently undoes it.
    fn overwrote(&self, at: usize, other: usize) -> bool {
        let undone = &self.changes[other];
        undone.acked
            && !matches!(self.changes[at].base, Base::Blind)
            && !self.knew(at, other)
            && !self.knew(other, at)
    }

    /// `other` is in what `at` was made on, or in what that was made on, and so on.
    fn knew(&self, at: usize, other: usize) -> bool {
        let mut at = at;
        let begin = self.changes[other].begin;
        loop {
            // Each step leads to an earlier one.
            if self.changes[at].begin < begin {
                return false;
            }
            let Base::Read(reading) = self.changes[at].base else {
                return self.changes[other]
                    .end
                    .is_some_and(|end| end < self.changes[at].begin);
            };
            let read = &self.reads[reading.0];
            match read.answer {
                Answer::Value(change) | Answer::Perhaps(change) => {
                    at = self.at(change);
                    if at == other {
                        return true;
                    }
                }
                // Whatever was before nothing is not missed by what comes after it, since a
                // loss is found by the read itself. What was under way then is.
                Answer::Nothing | Answer::Strange | Answer::Refused { .. } => {
                    let past = &self.changes[other];
                    return past.standing.is_some_and(|since| since < read.begin)
                        || past.end.is_some_and(|end| end < read.begin)
                        || (past.destroys && past.begin < read.end)
                        || self.by_key[&past.key].iter().any(|&at| {
                            let destroy = &self.changes[at];
                            destroy.destroys
                                && past.begin < read.end
                                && destroy.begin < read.end
                                && destroy.end.is_none_or(|end| end > past.begin)
                        });
                }
            }
        }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Violation::Lost => "lost",
            Violation::Older => "older",
            Violation::Revived => "revived",
            Violation::TwoOwners => "two owners",
            Violation::TwoValues => "one version, two values",
            Violation::Strange => "a value nobody wrote",
            Violation::Refused => "refused without need",
            Violation::Needless => "told of a turn nobody took",
            Violation::Stuck => "stuck",
        })
    }
}
