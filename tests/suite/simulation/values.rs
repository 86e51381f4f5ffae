//! What happened to the values of a cache, and whether it may.
//!
//! A cache is no register with an order of writes: who sets at the same time as somebody else
//! may win or not, now or later. Only what was over before something began is before it. So a
//! write that was acknowledged stands from then on, and whoever begins to read later must not
//! see what was before it; a write whose outcome nobody was told may happen at any time.
//!
//! What a fault may cost is told by where it strikes. A key lies on two nodes. One of them
//! loses its memory, and before the key was written again something happens to the other one:
//! that is two faults, and the key is excused until its next acknowledged write.
//!
//! Counters are keys of their own: each success is one more, for all that anybody sees.

use std::collections::{BTreeMap, BTreeSet};

use super::faults::Fault;
use super::history::{Counts, Violation};
use super::memcached::Held;

/// A probe's interval and one round trip, milliseconds: for so long after its return a node may
/// show what it had.
pub(super) const BOUND: u64 = 1100;

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Act {
    Set,
    Add,
    /// On what this read showed.
    Cas(Seen),
    Delete,
    Increment,
}

/// A value that a read showed: which write's, and when that read was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) write: usize,
    end: u64,
}

/// How it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Done.
    Acked,
    /// Not done, since there was something.
    Taken,
    /// Not done, since there was nothing.
    Bare,
    /// Not done, since another one was first.
    Beaten,
    /// Nobody knows.
    Unsure,
}

#[derive(Debug)]
struct Write {
    key: usize,
    act: Act,
    begin: u64,
    /// When it was over, for who was told; a write without may still happen.
    end: Option<u64>,
    /// Both in milliseconds.
    begun: u64,
    ended: u64,
    acked: bool,
    /// It was not done.
    refused: bool,
}

impl Write {
    fn deletes(&self) -> bool {
        self.act == Act::Delete
    }
}

#[derive(Debug, Default)]
struct Key {
    writes: Vec<usize>,
    /// The nodes it lies on.
    homes: Vec<usize>,
    /// Since which moment it is excused.
    excused: Option<u64>,
    /// When each of its nodes lost its memory last.
    wiped: BTreeMap<usize, u64>,
    /// The highest count that was acknowledged, by the moment of that.
    counted: BTreeMap<u64, u64>,
    /// The counts that were acknowledged since it was excused.
    numbers: BTreeSet<u64>,
    /// Increments that began.
    begun: u64,
}

/// The history of one run.
#[derive(Debug, Default)]
pub(super) struct Values {
    moment: u64,
    keys: Vec<Key>,
    writes: Vec<Write>,
    held: BTreeMap<(Vec<u8>, u64), (bool, Vec<u8>)>,
    /// Hosts may see different nodes while a fault lasts, and for so long after it.
    pub(super) apart: bool,
    /// Nothing is excused, whatever struck, and one process writes, whose versions grow.
    pub(super) strict: bool,
    /// When the last flush began or ended, as a moment.
    flushed: u64,
    /// Flushes under way: what is counted meanwhile may be gone again before they are over.
    flushing: usize,
    /// Faults that last.
    under: usize,
    /// When the last one ended, milliseconds.
    returned: u64,
    pub(super) found: Vec<(u64, Violation, String)>,
    pub(super) counts: Counts,
    /// The longest that something old was shown after a node's return, milliseconds.
    pub(super) stale_for: u64,
}

impl Values {
    /// Keys by number, each with the nodes it lies on.
    pub(super) fn new(homes: Vec<Vec<usize>>, apart: bool) -> Values {
        let keys = homes.into_iter().map(|homes| Key {
            homes,
            ..Key::default()
        });
        Values {
            keys: keys.collect(),
            apart,
            ..Values::default()
        }
    }

    fn tick(&mut self) -> u64 {
        self.moment += 1;
        self.moment
    }

    /// A write begins; its number is what it writes.
    pub(super) fn begin(&mut self, time: u64, key: usize, act: Act) -> usize {
        let begin = self.tick();
        self.counts.changes += 1;
        self.keys[key].begun += u64::from(act == Act::Increment);
        self.keys[key].writes.push(self.writes.len());
        self.writes.push(Write {
            key,
            act,
            begin,
            end: None,
            begun: time,
            ended: u64::MAX,
            acked: false,
            refused: false,
        });
        self.writes.len() - 1
    }

    /// It ends at millisecond `time`.
    pub(super) fn end(&mut self, time: u64, write: usize, end: End) {
        let moment = self.tick();
        let Write {
            key, act, begin, ..
        } = self.writes[write];
        match end {
            End::Acked => {
                self.counts.acked += 1;
                match act {
                    Act::Add => self.check_nothing(time, key, begin, moment, Some(write)),
                    Act::Cas(base) => self.check_cas(time, write, base),
                    _ => {}
                }
                let own = &mut self.writes[write];
                (own.end, own.ended, own.acked) = (Some(moment), time, true);
                let key = &mut self.keys[key];
                if !matches!(act, Act::Delete) {
                    key.excused = key.excused.filter(|since| *since > begin);
                }
            }
            End::Taken | End::Beaten | End::Bare => {
                let own = &mut self.writes[write];
                // A delete that found nothing may have met what came just then.
                own.refused = !own.deletes();
                (own.end, own.ended) = (Some(moment), time);
                match (act, end) {
                    (Act::Add, End::Taken) => self.check_something(time, key, begin, moment),
                    (Act::Cas(_), End::Bare) => self.check_nothing(time, key, begin, moment, None),
                    _ => {}
                }
            }
            End::Unsure => {}
        }
    }

    /// A read of `key` began at this moment.
    pub(super) fn begin_read(&mut self) -> u64 {
        self.tick()
    }

    /// It ends with the value of a write, or with none; `Err` is another one's value.
    pub(super) fn end_read(
        &mut self,
        time: u64,
        key: usize,
        begin: u64,
        value: Option<Result<usize, String>>,
    ) -> Option<Seen> {
        let end = self.tick();
        self.counts.reads += 1;
        match value {
            None => {
                self.check_nothing(time, key, begin, end, None);
                None
            }
            Some(Ok(write)) if self.writes.get(write).is_some_and(|own| own.key == key) => {
                self.check_value(time, key, begin, write);
                Some(Seen { write, end })
            }
            Some(found) => {
                self.report(time, Violation::Strange, format!("key {key}: {found:?}"));
                None
            }
        }
    }

    /// A read was not answered.
    pub(super) fn no_answer(&mut self) {
        self.counts.reads += 1;
        self.counts.refused += 1;
    }

    /// All keys are deleted, and counters begin anew.
    pub(super) fn begin_flush(&mut self, time: u64) -> Vec<usize> {
        self.flushing += 1;
        self.count_anew();
        (0..self.keys.len())
            .map(|key| self.begin(time, key, Act::Delete))
            .collect()
    }

    /// So is that, at this millisecond; without a `time` who did it was killed.
    pub(super) fn end_flush(&mut self, time: Option<u64>, writes: &[usize]) {
        self.flushing -= 1;
        self.count_anew();
        if let Some(time) = time {
            for write in writes {
                self.end(time, *write, End::Acked);
            }
        }
    }

    fn count_anew(&mut self) {
        self.flushed = self.tick();
        for key in &mut self.keys {
            key.counted.clear();
            key.numbers.clear();
        }
    }

    /// A counter stands at `number` for who began at `begin`; `own` when that is his increment.
    pub(super) fn counted(&mut self, time: u64, key: usize, begin: u64, number: u64, own: bool) {
        let end = self.tick();
        let Key {
            counted,
            numbers,
            begun,
            ..
        } = &mut self.keys[key];
        // Who began before a flush was over may count on from before it, or from nothing.
        let whole = begin > self.flushed && self.flushing == 0;
        let before = counted.range(..begin).next_back();
        let least = before.map_or(0, |(_, most)| *most) + u64::from(own);
        let twice = own && whole && !numbers.insert(number);
        if own {
            self.counts.acked += 1;
            let most = counted.last_key_value().map_or(0, |(_, most)| *most);
            if whole {
                counted.insert(end, most.max(number));
            }
        } else {
            self.counts.reads += 1;
        }
        let most = *begun;
        if number > most {
            let words = format!("key {key}: {number} of {most} increments");
            self.report(time, Violation::Strange, words);
        } else if number < least {
            self.stale(time, key, Violation::Older, || {
                format!("key {key}: {number} after {least}")
            });
        } else if twice {
            self.stale(time, key, Violation::TwoOwners, || {
                format!("key {key}: {number} twice")
            });
        }
    }

    /// Nothing stands at a counter that `begin` began to look at.
    pub(super) fn not_counted(&mut self, time: u64, key: usize, begin: u64) {
        self.tick();
        self.counts.reads += 1;
        let before = self.keys[key].counted.range(..begin).next_back();
        if let Some((_, most)) = before.map(|(a, b)| (*a, *b)) {
            self.stale(time, key, Violation::Lost, || format!("key {key}: {most}"));
        }
    }

    /// A node holds this.
    pub(super) fn stored(&mut self, time: u64, key: &[u8], held: Held) {
        let (version, gone, data) = held;
        let value = (gone, data);
        let first = self
            .held
            .entry((key.to_vec(), version))
            .or_insert_with(|| value.clone());
        if *first != value {
            let words = format!("{}: version {version}", String::from_utf8_lossy(key));
            self.report(time, Violation::TwoValues, words);
        }
    }

    /// A node lost its memory.
    pub(super) fn wiped(&mut self, node: usize) {
        let moment = self.tick();
        for key in &mut self.keys {
            if key.homes.contains(&node) {
                key.wiped.insert(node, moment);
            }
        }
        self.strikes(node);
    }

    /// Something happens to a node: for who lost another one it is the second.
    fn strikes(&mut self, node: usize) {
        let moment = self.moment;
        for number in 0..self.keys.len() {
            let key = &self.keys[number];
            let bare = key.homes.contains(&node)
                && key.wiped.iter().any(|(other, wiped)| {
                    // Written on both since: nothing is missing there.
                    *other != node && !self.is_whole(number, *wiped)
                });
            if bare {
                let key = &mut self.keys[number];
                key.excused = Some(moment);
                key.counted.clear();
                key.numbers.clear();
            }
        }
    }

    /// Was the key acknowledged by a write that began after this moment?
    fn is_whole(&self, key: usize, moment: u64) -> bool {
        let key = &self.keys[key];
        let later = |write: &&usize| {
            let write = &self.writes[**write];
            write.acked && write.begin > moment
        };
        key.writes.iter().rev().any(|write| later(&write))
            || key.counted.range(moment..).next().is_some()
    }

    /// A fault begins.
    pub(super) fn begins(&mut self, _time: u64, fault: &Fault) {
        self.under += 1;
        match fault {
            Fault::Hang { node }
            | Fault::Slow { node, .. }
            | Fault::Partition { node, .. }
            | Fault::Cut { node, .. } => self.strikes(*node),
            _ => {}
        }
    }

    /// It ends at this millisecond.
    pub(super) fn healed(&mut self, time: u64, _fault: &Fault) {
        self.under -= 1;
        self.returned = time;
    }

    pub(super) fn report(&mut self, time: u64, violation: Violation, words: String) {
        self.found.push((time, violation, words));
    }

    /// Something old is shown: a violation, but for what faults may cost. A node that answers one
    /// and not the other in the moment it fails has decided for the one, and the next node for
    /// the other.
    fn stale(&mut self, time: u64, key: usize, kind: Violation, words: impl FnOnce() -> String) {
        if self.keys[key].excused.is_some() && !self.strict {
            return;
        }
        let since = time.saturating_sub(self.returned);
        let apart = self.apart || kind == Violation::TwoOwners;
        if apart && !self.strict && (self.under > 0 || since <= BOUND) {
            return;
        }
        self.stale_for = self.stale_for.max(since);
        let words = format!("{}, {since} after a fault", words());
        self.report(time, kind, words);
    }

    /// `one` was over before `two` began, by more than what versions tell apart, a millisecond.
    fn came_before(&self, one: usize, two: usize) -> bool {
        let (one, two) = (&self.writes[one], &self.writes[two]);
        let apart = self.strict || one.ended.saturating_add(1) < two.begun;
        apart && one.end.is_some_and(|end| end < two.begin)
    }

    /// Writes that stand for who begins to read at this moment.
    fn standing(&self, key: usize, begin: u64) -> impl Iterator<Item = usize> {
        let writes = self.keys[key].writes.iter().rev().copied();
        writes.filter(move |write| {
            let write = &self.writes[*write];
            write.acked && write.end.is_some_and(|end| end < begin)
        })
    }

    fn check_value(&mut self, time: u64, key: usize, begin: u64, seen: usize) {
        let own = &self.writes[seen];
        if own.refused {
            let words = format!("key {key}: {seen}, which was not done");
            return self.report(time, Violation::Strange, words);
        }
        let newer = self
            .standing(key, begin)
            .find(|write| self.came_before(seen, *write));
        if let Some(newer) = newer {
            let kind = match self.writes[newer].deletes() {
                true => Violation::Revived,
                false => Violation::Older,
            };
            self.stale(time, key, kind, || {
                format!("key {key}: {seen} after {newer}")
            });
        }
    }

    /// Nothing was found by who looked between these moments; `own` is the add that found it.
    fn check_nothing(&mut self, time: u64, key: usize, begin: u64, end: u64, own: Option<usize>) {
        let Some(lost) = self
            .standing(key, begin)
            .find(|w| !self.writes[*w].deletes())
        else {
            return self.check_adds(time, key, begin, own);
        };
        let explained = self.keys[key].writes.iter().any(|write| {
            let delete = &self.writes[*write];
            delete.deletes() && delete.begin < end && !self.came_before(*write, lost)
        });
        if !explained {
            self.stale(time, key, Violation::Lost, || format!("key {key}: {lost}"));
        }
    }

    /// Two adds that were acknowledged at the same time, with nothing between them.
    fn check_adds(&mut self, time: u64, key: usize, begin: u64, own: Option<usize>) {
        let Some(own) = own else { return };
        let deleted = self.keys[key].writes.iter().any(|write| {
            let delete = &self.writes[*write];
            delete.deletes() && delete.end.is_none_or(|end| end > begin)
        });
        let rival = self.keys[key].writes.iter().copied().find(|write| {
            let other = &self.writes[*write];
            let late = other.end.is_some_and(|end| end > begin);
            *write != own && other.act == Act::Add && other.acked && late
        });
        if let (false, Some(rival)) = (deleted, rival)
            // A delete that ended while the other was under way let both in.
            && !self.keys[key].writes.iter().any(|write| {
                let delete = &self.writes[*write];
                let since = self.writes[rival].begin;
                delete.deletes() && delete.end.is_none_or(|end| end > since)
            })
        {
            self.stale(time, key, Violation::TwoOwners, || {
                format!("key {key}: both {rival} and {own} added")
            });
        }
    }

    /// Something was there for who looked between these moments: not only what was deleted.
    fn check_something(&mut self, time: u64, key: usize, begin: u64, end: u64) {
        let Some(delete) = self
            .standing(key, begin)
            .find(|w| self.writes[*w].deletes())
        else {
            return;
        };
        let there = self.keys[key].writes.iter().any(|write| {
            let other = &self.writes[*write];
            let may = !other.deletes() && !other.refused && other.begin < end;
            may && !self.came_before(*write, delete)
        });
        if !there {
            self.stale(time, key, Violation::Revived, || {
                format!("key {key}: something after {delete}")
            });
        }
    }

    /// A write on what was seen: nobody else wrote in between.
    fn check_cas(&mut self, time: u64, write: usize, base: Seen) {
        let own = &self.writes[write];
        let key = own.key;
        let rival = self.keys[key].writes.iter().copied().find(|other| {
            let one = &self.writes[*other];
            let same = one.act == own.act;
            let between = one.begin > base.end && one.end.is_some_and(|end| end < own.begin);
            // A delete that found nothing changed nothing.
            *other != write && one.acked && (same || between)
        });
        if let Some(rival) = rival {
            self.stale(time, key, Violation::TwoOwners, || {
                format!("key {key}: {write} over {}, and {rival}", base.write)
            });
        }
    }
}

#[cfg(test)]
mod tests;
