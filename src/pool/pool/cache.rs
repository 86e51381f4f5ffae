//! Copies of a cache (modes sync and async): which nodes have a key, reads, blind writes, deletes.
//!
//! ```text
//!   get       the owner                                       one trip
//!             a miss or a silent owner: the copies            one more; what is found there
//!                                                             is added to the owner again
//!   set       all live copies at once; in mode async the      one trip
//!             first, and the others follow the answer (`later`)
//!   delete    the same: look, and leave a tombstone           one trip
//!             where only some had it: on the others, too      one more
//!   others    see `change`
//! ```
//!
//! Each value has a version, by which copies that differ are told apart: the newest is the
//! value. It is the cas value where the server takes versions, else it stands in a header
//! before the value. What another client stored has none, and is older than anything that has.
//!
//! A delete leaves a tombstone, so that no read that began before it can add the value again.
//! A node that missed a write is remembered, and gives up what it missed before it is asked
//! for anything (`hints`). There is no quorum here, no turn and no record: what must never be
//! lost or late is a session's business (`replica`).
//!
//! So three things are not kept, as the simulation shows. A node that in the moment it fails
//! answers one worker and not another decides for the one, and the next node for the other
//! (`change`). Versions of blind writes are their hosts' clocks: a look that meets a new value
//! with a lower version beside the old one, half way through the write, takes the old for the
//! newest. And within a millisecond chance says which of two is newer.

use super::Pool;
use super::rings::Plan;
use super::round::{Answer, Copy, Line, Put, Value, What, blind_version};
use crate::call::{Call, Limits, Outcome, Verb};
use crate::config::Mode;
use crate::counters::Counter;
use crate::replica::{TOMBSTONE_EXTRA, Version};
use crate::shared;
use crate::transport;
use crate::wire::Store;
use crate::wire::copied::{HEADED, Life, Over, TOMBSTONE};
use crate::wire::fenced::Header;
use std::rc::Rc;
use std::time::Instant;

/// Copies of each value where nothing is said of them.
pub(super) const COPIES: usize = 2;

/// Seconds a tombstone lives that all copies have: longer than any read may take.
const TOMBSTONE_LIFE: u32 = TOMBSTONE_EXTRA;
/// Seconds it lives where a copy is away: that one may come back with the value.
const TOMBSTONE_LIFE_AWAY: u32 = 24 * 60 * 60;

impl Pool {
    /// Runs a call on a pool that keeps copies of its values.
    pub(super) fn run_copied(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        self.settle_later(call);
        let now = self.settle_hints(call, now);
        let begin = transport::now();
        match verb {
            Verb::Get | Verb::Gets => self.read_copied(call, verb, now),
            Verb::Store(Store::Set) => self.set_copied(call, now),
            Verb::Delete => self.delete_copied(call, now),
            _ => self.change_copied(call, verb, now),
        }
        if !verb.is_read() {
            self.confirm(call, None, transport::since(begin), now);
        }
        self.tell_skipped(call);
    }

    /// Reads: the owner as any pool does it, then the copies for what it did not have.
    fn read_copied(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let missing: Vec<usize> = if self.has_parts() {
            // The owner is for the rules to say: all are asked, the owner first in line.
            self.read_owners(call, now)
        } else {
            let said = call.limits;
            call.limits = Limits {
                copies: 1,
                failover: false,
                attempts: 1,
            };
            self.run_plain(call, verb, now);
            call.limits = said;
            (0..call.entries.len())
                .filter(|entry| self.is_missing(call, *entry))
                .collect()
        };
        if !missing.is_empty() {
            self.read_copies(call, &missing, now);
        }
    }

    /// Asks the owner of each key, where rules say which that is. The keys of which it knows nothing:
    /// of one that it has, or remembers as deleted, no copy is to be asked.
    fn read_owners(&mut self, call: &mut Call, now: Instant) -> Vec<usize> {
        let mut missing = Vec::new();
        let mut lines = Vec::with_capacity(call.entries.len());
        for entry in 0..call.entries.len() {
            let owner = self.owner_of(call, entry);
            match self.allows(owner, now) {
                true => lines.push(look(entry, owner, true)),
                false => missing.push(entry),
            }
        }
        let answers = self.round(call, &lines, now);
        for (line, answer) in lines.iter().zip(answers) {
            match answer {
                Answer::Found(copy) => call.settle_anew(line.entry, hit(copy)),
                answer => {
                    if answer == Answer::Miss {
                        call.settle_anew(line.entry, Outcome::NotFound);
                    }
                    missing.push(line.entry);
                }
            }
        }
        missing
    }

    /// Makes an owner's answer the caller's; true when the copies have to be asked.
    fn is_missing(&self, call: &mut Call, entry: usize) -> bool {
        let Outcome::Hit { flags, cas, value } = call.outcome(entry) else {
            return true;
        };
        if flags & (TOMBSTONE | HEADED) == 0 {
            return false;
        }
        let header = Header::split(call.value(value));
        let outcome = match header {
            _ if flags & TOMBSTONE != 0 => Outcome::NotFound,
            Some((header, rest)) => Outcome::Hit {
                flags: flags & !HEADED,
                // Who asked for a cas value brings it back to any copy.
                cas: if cas == 0 { 0 } else { header.version },
                value: value.without_head(rest.len()),
            },
            None => Outcome::NotFound,
        };
        if let Some(entry) = call.entries.get_mut(entry) {
            entry.outcome = Some(outcome);
        }
        false
    }

    /// Asks the copies of these keys, whose owner had nothing or did not answer, and gives
    /// the owner back what they have.
    fn read_copies(&mut self, call: &mut Call, missing: &[usize], now: Instant) {
        let mut lines = Vec::new();
        let mut plans = Vec::with_capacity(missing.len());
        for entry in missing {
            let plan = self.plan(call, *entry, now);
            let owner = self.owner_of(call, *entry);
            let others: Vec<usize> = plan.usable().filter(|member| *member != owner).collect();
            self.catch_up(call, *entry, &others);
            lines.extend(others.iter().map(|member| look(*entry, *member, true)));
            plans.push((*entry, owner, plan));
        }
        if lines.is_empty() {
            return;
        }
        let answers = self.round(call, &lines, now);
        let mut found = by_entry(&lines, &answers, call.entries.len());
        let mut repairs = Vec::new();
        for (entry, owner, plan) in plans {
            let mut seen = found.get_mut(entry).map(std::mem::take).unwrap_or_default();
            if call.outcome(entry) == Outcome::NotFound && plan.live.contains(&owner) {
                seen.insert(0, (owner, Answer::Miss));
            }
            let outcome = match newest(&seen) {
                Some((_, copy)) => {
                    repairs.extend(self.repairs(call, entry, &seen, copy));
                    hit(copy)
                }
                None if seen.iter().all(|(_, answer)| *answer == Answer::Lost) => Outcome::Lost,
                None => Outcome::NotFound,
            };
            call.settle_anew(entry, outcome);
        }
        if repairs.is_empty() {
            return;
        }
        let begin = transport::now();
        self.repair(call, &repairs, now);
        // What was given back late may be older by now than what the others have.
        let mut given: Vec<usize> = repairs.iter().map(|line| line.entry).collect();
        given.dedup();
        self.confirm(call, Some(given), transport::since(begin), now);
    }

    /// The lines that give every node of `seen` that has less than `copy` the same.
    pub(super) fn repairs(
        &mut self,
        call: &Call,
        entry: usize,
        seen: &[(usize, Answer)],
        copy: Copy,
    ) -> Vec<Line> {
        let bytes: Rc<[u8]> = call.value(copy.value).into();
        let dice = shared::throw();
        let rules = self.rules;
        let over = |answer: &Answer| match answer {
            Answer::Miss | Answer::Found(_) if !rules.repair_over_seen => Some(Over::Anything),
            Answer::Miss => Some(Over::Nothing),
            Answer::Found(other) if other.version < copy.version => Some(Over::Cas(other.cas)),
            _ => None,
        };
        seen.iter()
            .filter_map(|(member, answer)| Some((*member, over(answer)?)))
            .map(|(member, over)| Line {
                entry,
                member,
                what: What::Put(Put {
                    over,
                    version: copy.version,
                    flags: copy.flags,
                    life: copy.life(dice),
                    value: if copy.gone {
                        Value::Tombstone
                    } else {
                        Value::Bytes(Rc::clone(&bytes))
                    },
                }),
            })
            .collect()
    }

    /// Says repairs. Whoever changed the item meanwhile was right.
    pub(super) fn repair(
        &mut self,
        call: &mut Call,
        repairs: &[Line],
        now: Instant,
    ) -> Vec<Answer> {
        if repairs.is_empty() {
            return Vec::new();
        }
        let answers = self.round(call, repairs, now);
        let stored = answers.iter().filter(|answer| **answer == Answer::Done);
        let stored = stored.count() as u64;
        self.counts.repairs += stored;
        shared::count_many(Counter::Repairs, stored);
        answers
    }

    /// set(): to all live copies, whatever they have; those that are told later follow.
    fn set_copied(&mut self, call: &mut Call, now: Instant) {
        let plans = self.plans(call, now);
        let mut open = Vec::with_capacity(plans.len());
        for (entry, plan) in plans {
            let details = call.details(entry);
            let put = Put {
                over: Over::Anything,
                version: blind_version_of(&plan),
                flags: details.flags,
                life: Life::Said(details.ttl),
                value: Value::Said,
            };
            open.push((entry, plan, put));
        }
        while !open.is_empty() {
            let mut lines = Vec::with_capacity(open.len() * COPIES);
            for (entry, plan, put) in &open {
                lines.extend(plan.live.iter().map(|member| Line {
                    entry: *entry,
                    member: *member,
                    what: What::Put(put.clone()),
                }));
            }
            let mut answers = self.round(call, &lines, now).into_iter();
            let mut again = Vec::new();
            for (entry, mut plan, put) in open {
                let members = plan.live.iter().copied();
                let seen: Vec<(usize, Answer)> = members.zip(answers.by_ref()).collect();
                if plan.turn_over(&seen) {
                    self.catch_up(call, entry, &plan.live);
                    let version = blind_version_of(&plan);
                    again.push((entry, plan, Put { version, ..put }));
                    continue;
                }
                self.acknowledge(call, entry, &seen, &plan);
                if call.outcome(entry) == Outcome::Done {
                    self.follow(call, entry, &plan, &put);
                }
            }
            open = again;
        }
    }

    /// delete(): a tombstone wherever something was, found out in the same trip.
    fn delete_copied(&mut self, call: &mut Call, now: Instant) {
        let mut open = self.plans(call, now);
        while !open.is_empty() {
            open = self.delete_round(call, open, now);
        }
    }

    /// Where each key of a blind write goes; all of those nodes are known, and have the copies that
    /// were on their way to them.
    fn plans(&mut self, call: &mut Call, now: Instant) -> Vec<(usize, Plan)> {
        let mut plans = Vec::with_capacity(call.entries.len());
        for entry in 0..call.entries.len() {
            let plan = self.plan(call, entry, now);
            self.catch_up(call, entry, &plan.live);
            plans.push((entry, plan));
        }
        let copied = plans.iter().filter(|(_, plan)| !plan.plain);
        let live = copied.flat_map(|(_, plan)| plan.live.iter().copied());
        let strangers = self.strangers(live, now);
        self.ask_strangers(call, strangers, now);
        plans
    }

    /// One round of deletes; the keys for which others have to be asked, since nobody answered.
    fn delete_round(
        &mut self,
        call: &mut Call,
        open: Vec<(usize, Plan)>,
        now: Instant,
    ) -> Vec<(usize, Plan)> {
        let mut lines = Vec::with_capacity(open.len() * 2 * COPIES);
        for (entry, plan) in &open {
            let what = match plan.plain || !self.rules.tombstone {
                true => What::Remove(None),
                false => What::Put(tombstone(!plan.away.is_empty())),
            };
            for member in &plan.live {
                lines.push(look(*entry, *member, false));
                lines.push(Line {
                    entry: *entry,
                    member: *member,
                    what: what.clone(),
                });
            }
        }
        let answers = self.round(call, &lines, now);
        let found = by_entry(&lines, &answers, call.entries.len());
        let (mut again, mut late, mut followed) = (Vec::new(), Vec::new(), Vec::new());
        for (entry, mut plan) in open {
            let seen = found.get(entry).map(Vec::as_slice).unwrap_or_default();
            if plan.turn_over(seen) {
                self.catch_up(call, entry, &plan.live);
                again.push((entry, plan));
                continue;
            }
            // Each node answered to a look and to a store.
            let looks = seen.iter().step_by(2);
            let puts: Vec<(usize, Answer)> = seen.iter().skip(1).step_by(2).copied().collect();
            let was_there = looks
                .clone()
                .map(|(_, answer)| answer)
                .any(|answer| matches!(answer, Answer::Found(copy) if !copy.gone));
            let lost = silent(&puts);
            if lost.len() < puts.len() {
                self.miss_write(call, entry, &plan, &lost);
            }
            let outcome = if lost.len() == puts.len() {
                Outcome::Lost
            } else if puts.iter().any(|(_, a)| *a == Answer::Refused) {
                Outcome::Refused
            } else if was_there {
                Outcome::Done
            } else {
                Outcome::NotFound
            };
            if !lost.is_empty() && plan.away.is_empty() && !plan.plain {
                // It may come back with the value: the others must remember for longer.
                let tombstone = tombstone(true);
                let rest = plan.live.iter().filter(|member| !lost.contains(member));
                late.extend(rest.map(|member| Line {
                    entry,
                    member: *member,
                    what: What::Put(tombstone.clone()),
                }));
            }
            if was_there && plan.away.is_empty() && !plan.plain {
                let bare = looks.filter(|(_, answer)| *answer == Answer::Miss);
                late.extend(bare.map(|(member, _)| remembered(entry, *member)));
            }
            call.settle_anew(entry, outcome);
            if !plan.later.is_empty() && matches!(outcome, Outcome::Done | Outcome::NotFound) {
                followed.push((entry, plan, outcome));
            }
        }
        if !late.is_empty() {
            let answers = self.round(call, &late, now);
            let lost = late.iter().zip(answers);
            for (line, _) in lost.filter(|(_, answer)| *answer == Answer::Lost) {
                self.miss(call, line.entry, &[line.member]);
            }
        }
        self.delete_later(call, followed, now);
        again
    }

    /// Deletes on the nodes that are told later. Where the first node had nothing, they say
    /// whether there was something: it may have been evicted there.
    fn delete_later(
        &mut self,
        call: &mut Call,
        followed: Vec<(usize, Plan, Outcome)>,
        now: Instant,
    ) {
        let mut looks = Vec::new();
        for (entry, plan, outcome) in &followed {
            if *outcome == Outcome::NotFound {
                self.catch_up(call, *entry, &plan.later);
                looks.extend(plan.later.iter().map(|member| look(*entry, *member, false)));
            }
        }
        let answers = if looks.is_empty() {
            Vec::new()
        } else {
            self.round(call, &looks, now)
        };
        for (line, answer) in looks.iter().zip(answers) {
            if matches!(answer, Answer::Found(copy) if !copy.gone) {
                call.settle_anew(line.entry, Outcome::Done);
            }
        }
        let mut bare = Vec::new();
        for (entry, plan, _) in followed
            .iter()
            .filter(|(_, _, was)| *was == Outcome::NotFound)
        {
            if call.outcome(*entry) == Outcome::Done {
                let first = plan.live.iter();
                bare.extend(first.map(|member| remembered(*entry, *member)));
            }
        }
        if !bare.is_empty() {
            let answers = self.round(call, &bare, now);
            for (line, _) in bare.iter().zip(answers).filter(|(_, a)| *a == Answer::Lost) {
                self.miss(call, line.entry, &[line.member]);
            }
        }
        for (entry, plan, _) in followed {
            let tombstone = tombstone(!plan.away.is_empty());
            self.follow(call, entry, &plan, &tombstone);
        }
    }

    /// Turns the answers to a write into the key's outcome: stored by all that answered.
    pub(super) fn acknowledge(
        &mut self,
        call: &mut Call,
        entry: usize,
        seen: &[(usize, Answer)],
        plan: &Plan,
    ) {
        let count = |wanted: Answer| seen.iter().filter(|(_, a)| *a == wanted).count();
        let (stored, refused) = (count(Answer::Done), count(Answer::Refused));
        let lost = silent(seen);
        if stored > 0 {
            // Who may have it and did not say so is told when it is back, as who was away.
            self.miss_write(call, entry, plan, &lost);
        }
        if stored == 1 && !plan.plain && plan.later.is_empty() && plan.has_others() {
            self.count_alone();
        }
        call.settle_anew(
            entry,
            if refused > 0 {
                Outcome::Refused
            } else if stored > 0 {
                Outcome::Done
            } else {
                Outcome::Lost
            },
        );
    }

    /// Counts a write that one node alone took.
    pub(super) fn count_alone(&mut self) {
        self.counts.alone += 1;
        shared::count(Counter::OneCopyWrites);
    }

    /// True when this pool's values have copies with versions.
    pub(super) fn is_copied(&self) -> bool {
        let copied = |mode: Mode| matches!(mode, Mode::Sync | Mode::Async);
        let mut rules = self.policy.rules.iter();
        copied(self.policy.mode) || rules.any(|rule| rule.mode.is_some_and(copied))
    }
}

/// The version of a set; 0 where its key is stored as another client does.
fn blind_version_of(plan: &Plan) -> Version {
    match plan.plain {
        true => Version(0),
        false => blind_version(),
    }
}

/// The line that leaves a remembered delete where nothing was: who has read it on another
/// node might add it here again.
fn remembered(entry: usize, member: usize) -> Line {
    let put = Put {
        over: Over::Anything,
        ..tombstone(false)
    };
    Line {
        entry,
        member,
        what: What::Put(put),
    }
}

/// A remembered delete; `away` when a copy may come back that does not know of it. It is
/// left where something is, or everywhere in that case.
fn tombstone(away: bool) -> Put {
    Put {
        over: if away {
            Over::Anything
        } else {
            Over::Something
        },
        version: blind_version(),
        flags: 0,
        life: Life::Said(if away {
            TOMBSTONE_LIFE_AWAY
        } else {
            TOMBSTONE_LIFE
        }),
        value: Value::Tombstone,
    }
}

/// A line that looks for key number `entry` at a node.
pub(super) fn look(entry: usize, member: usize, value: bool) -> Line {
    Line {
        entry,
        member,
        what: What::Look { value },
    }
}

/// The answers of a round by the number of their key, each with the node that gave it.
pub(super) fn by_entry(
    lines: &[Line],
    answers: &[Answer],
    entries: usize,
) -> Vec<Vec<(usize, Answer)>> {
    let mut found = vec![Vec::new(); entries];
    for (line, answer) in lines.iter().zip(answers) {
        if let Some(own) = found.get_mut(line.entry) {
            own.push((line.member, *answer));
        }
    }
    found
}

/// The nodes that did not answer.
pub(super) fn silent(seen: &[(usize, Answer)]) -> Vec<usize> {
    let lost = seen.iter().filter(|(_, answer)| *answer == Answer::Lost);
    lost.map(|(member, _)| *member).collect()
}

/// The newest of the copies found, which may be a tombstone; the first of equals.
pub(super) fn newest(seen: &[(usize, Answer)]) -> Option<(usize, Copy)> {
    let mut best: Option<(usize, Copy)> = None;
    for (member, answer) in seen {
        if let Answer::Found(copy) = answer
            && best.is_none_or(|(_, best)| best.version < copy.version)
        {
            best = Some((*member, *copy));
        }
    }
    best
}

/// What a caller sees of a copy.
pub(super) fn hit(copy: Copy) -> Outcome {
    if copy.gone {
        return Outcome::NotFound;
    }
    Outcome::Hit {
        flags: copy.flags,
        cas: copy.token(),
        value: copy.value,
    }
}
