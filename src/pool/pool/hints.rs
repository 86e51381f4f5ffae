//! What a node missed: the keys written while it was away, given up by it before it is asked again.
//!
//! ```text
//!   write   a copy is away, or did not answer   ─► its key is kept for that node
//!   later   the node may be asked again         ─► before anything else the keys it missed are
//!                                                  looked for, there and on the others; it is
//!                                                  given what is newer, and gives up what
//!                                                  nobody else has
//! ```
//!
//! So a node that hung and comes back with what it had shows nothing that was changed
//! meanwhile. Many do this at the same time, and some write: so it is given a key over nothing
//! but what was seen there (cas value), and who comes second looks again. A node that missed a
//! flush, or more keys than can be kept, is emptied. One that could not be given all is passed
//! over by that call.
//!
//! What was said to a node and not answered may still lie in its buffers, or in the network.
//! Nothing there can be told to stay away, so a node that is back is given a moment first, and a
//! connection that failed is aborted (`node`).

use super::Pool;
use super::cache::{by_entry, look, newest};
use super::rings::Plan;
use super::round::{Answer, Line, What};
use crate::call::{Call, Verb};
use crate::counters::Counter;
use crate::fanout::{self, Lane};
use crate::item::KeyRule;
use crate::shared::{self, Kept, Miss, Missed};
use crate::transport;
use crate::wire::Reply;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Keys kept for one node of one pool by a process that shares no memory.
const KEYS: usize = 65_536;
/// Keys of one exchange when they are handed over: few enough that large values, too, come within
/// a timeout.
const AT_ONCE: usize = 64;
/// How often keys are looked at again that changed meanwhile.
const AGAIN: usize = 4;
/// Pauses for a write that is under way to several nodes: a moment mostly, all together longer
/// than it has by default (`COPIED_TIMEOUT`), after which it would count as missed.
const UNDER_WAY: [Duration; AGAIN - 1] = [
    Duration::from_millis(2),
    Duration::from_millis(18),
    Duration::from_millis(100),
];
/// How often a key is tried to be kept while others keep theirs, half a millisecond apart.
const BUSY: u32 = 200;
/// For so long a node that is back carries out what was said to it before: a server
/// that goes on finds in its buffers what everybody has given up, and no order among
/// connections. Only then can it be given anything that stays.
pub(super) const LATE: Duration = Duration::from_millis(20);
/// Kept in place of a key by who missed everything. No key of the wire has a zero byte.
const ALL: &[u8] = b"\0all";

/// What this process knows of what one node of one pool missed.
#[derive(Debug, Default)]
struct Known {
    /// Keys that the host's memory has no room for.
    keys: BTreeSet<Box<[u8]>>,
    /// Everything, or more than can be kept.
    all: bool,
    /// The host's memory has some of ours.
    shared: bool,
    /// How far the host's memory was looked through (`Missed::has_new`).
    looked: u64,
}

thread_local! {
    /// Pools come and go with the objects of a request; what was missed stays.
    static KNOWN: RefCell<BTreeMap<u64, Known>> = const { RefCell::new(BTreeMap::new()) };
}

impl Pool {
    /// Keeps the key of `entry` for nodes that missed a write of it.
    pub(super) fn miss(&mut self, call: &Call, entry: usize, members: &[usize]) {
        let members = members.iter().filter(|_| self.rules.hint);
        for member in members {
            self.counts.missed += 1;
            shared::count(Counter::MissedKeys);
            self.keep(*member, call.wire_key(entry));
        }
    }

    /// The same after a write that some node took: for those that are left alone, and for
    /// those that did not answer. Who took nothing loses nothing, or a value would be dropped
    /// that nobody else has.
    pub(super) fn miss_write(&mut self, call: &Call, entry: usize, plan: &Plan, lost: &[usize]) {
        if !plan.plain {
            self.miss(call, entry, &plan.away);
            self.miss(call, entry, lost);
        }
    }

    /// Keeps for a node that it missed a flush.
    pub(super) fn miss_all(&mut self, member: usize) {
        if self.rules.hint_of_flush {
            self.keep(member, ALL);
        }
    }

    fn keep(&self, member: usize, key: &[u8]) {
        keep(self.whose(member), key);
    }

    /// Hands over what nodes missed that may be asked again. When the call begins, which then may
    /// be later than `now`: its own exchanges have all of their time.
    pub(super) fn settle_hints(&mut self, call: &mut Call, now: Instant) -> Instant {
        let mut begin = now;
        self.kept_before = shared::missed().map_or(0, Missed::changes);
        for member in 0..self.members.len() {
            let whose = self.whose(member);
            if !owes(whose) {
                continue;
            }
            if !self.allows(member, now) {
                // Somebody may see it answer while this call is under way.
                if self.rules.meanwhile {
                    self.pass_over(member, now);
                }
            } else {
                let mut own = Call::new();
                let done =
                    self.is_back(member, &mut own) && self.hand_over(member, whose, &mut own, now);
                if !done {
                    self.pass_over(member, now);
                }
                call.events.append(&mut own.events);
                call.changes.append(&mut own.changes);
                begin = transport::now();
            }
        }
        if begin != now {
            for member in &mut self.members {
                for mark in [&mut member.claimed, &mut member.passed, &mut member.owed] {
                    *mark = mark.map(|at| if at == now { begin } else { at });
                }
            }
        }
        self.tell_skipped(call);
        begin
    }

    /// Leaves a node alone in the call that began at `now`.
    fn pass_over(&mut self, member: usize, now: Instant) {
        if let Some(member) = self.members.get_mut(member) {
            member.owed = Some(now);
        }
    }

    /// May node `member` be asked in the call that began at `now`, and has it all that was kept for
    /// it since then?
    pub(super) fn allows_meanwhile(&mut self, member: usize, now: Instant) -> bool {
        if !self.allows(member, now) {
            return false;
        }
        let kept = shared::missed().map_or(0, Missed::changes);
        if kept == self.kept_before || !self.rules.meanwhile || !owes(self.whose(member)) {
            return true;
        }
        self.pass_over(member, now);
        false
    }

    /// Waits until a node has been up for long enough; false when it is not up at all. One that
    /// is not is asked, so that it can be.
    fn is_back(&mut self, member: usize, call: &mut Call) -> bool {
        let up_for = |pool: &Pool| {
            let member = pool.members.get(member)?;
            let up_for = member.node.borrow().health.up_for(shared::now())?;
            Some(Duration::from_millis(up_for))
        };
        if up_for(self).is_none() {
            call.reset(Verb::Get);
            self.exchange_lanes(&[member], call, Lane::ask_for_life);
        }
        let Some(up_for) = up_for(self) else {
            return false;
        };
        if self.rules.late && up_for < LATE {
            fanout::pause(LATE - up_for);
        }
        true
    }

    /// Does a node answer, and to nothing but its keys with a refusal? Else the call is told why.
    fn serves(&mut self, member: usize, call: &mut Call) -> bool {
        let mut own = Call::new();
        let lane = self.exchange_lane(member, &mut own, Lane::ask_for_life);
        let lane = lane.and_then(|lane| own.lanes.get(lane));
        let serves =
            lane.is_some_and(|lane| lane.answers.iter().all(|reply| reply.refusal().is_none()));
        call.events.append(&mut own.events);
        call.changes.append(&mut own.changes);
        serves
    }

    /// Asks every node whether it answers, whatever is known of it; by node.
    pub fn answers(&mut self, call: &mut Call) -> Vec<bool> {
        call.reset(Verb::Get);
        let all: Vec<usize> = (0..self.members.len()).collect();
        let answered = self.exchange_lanes(&all, call, Lane::ask_for_life);
        let of = |member: usize| self.members.get(member).map(|m| m.twin);
        all.iter()
            .map(|member| answered.iter().any(|(who, _)| of(*who) == of(*member)))
            .collect()
    }

    /// The same, and gives those that answer what they missed: for who looks after a pool
    /// whose requests may be far between.
    pub fn look_after(&mut self, call: &mut Call) -> Vec<bool> {
        let answers = self.answers(call);
        self.settle_hints(call, transport::now());
        answers
    }

    /// How many keys are kept for each node, as far as this host knows; a flush is one.
    pub fn debts(&self) -> Vec<usize> {
        let members = 0..self.members.len();
        members.map(|member| kept_for(self.whose(member))).collect()
    }

    /// False when it still owes something.
    fn hand_over(&mut self, member: usize, whose: u64, call: &mut Call, now: Instant) -> bool {
        // A copy that comes after its key was dropped would be taken for a new one.
        self.catch_up_with(call, member);
        let known = KNOWN.with_borrow_mut(|known| known.remove(&whose).unwrap_or_default());
        let region = shared::missed();
        let kept = || region.map_or_else(Vec::new, |missed| missed.keys(whose, KEYS));
        let everything = |kept: &[Miss]| known.all || kept.iter().any(|miss| miss.key == ALL);
        let mut owed = kept();
        if everything(&owed) {
            let Some(claim) = self.claim_emptying(whose, &mut owed, &kept, &everything) else {
                // Somebody is at it, and for long: not in this call.
                KNOWN.with_borrow_mut(|all| all.insert(whose, known));
                return false;
            };
            let empties = everything(&owed);
            let done = empties && self.empty(member, whose, &owed, call);
            if let Some(missed) = region {
                missed.emptied(whose, claim);
            }
            if empties {
                return done;
            }
        }
        let mut all = true;
        for some in owed.chunks(AT_ONCE) {
            let keys: Vec<&[u8]> = some.iter().map(|miss| miss.key.as_slice()).collect();
            if !self.mend_keys(member, &keys, call, now) {
                all = false;
                break;
            }
            if let Some(region) = region {
                some.iter()
                    .for_each(|miss| region.mended(whose, miss, shared::now()));
            }
        }
        let own: Vec<&[u8]> = known.keys.iter().map(AsRef::as_ref).collect();
        let mut done = 0;
        for some in own.chunks(AT_ONCE) {
            if !self.mend_keys(member, some, call, now) {
                break;
            }
            done += some.len();
        }
        let rest = own.get(done..).unwrap_or_default();
        rest.iter().for_each(|key| self.keep(member, key));
        all && rest.is_empty()
    }

    /// Waits a moment for the claim to empty `whose`, and brings what it owes up to date: whoever had the
    /// claim before may have done it. `None` when somebody still has it; 0, which is no claim, where
    /// none is needed.
    fn claim_emptying(
        &self,
        whose: u64,
        owed: &mut Vec<Miss>,
        kept: &impl Fn() -> Vec<Miss>,
        everything: &impl Fn(&[Miss]) -> bool,
    ) -> Option<u64> {
        let Some(missed) = shared::missed() else {
            return Some(0);
        };
        for _ in 0..LATE.as_millis() {
            if let Some(claim) = missed.claim_emptying(whose, shared::now()) {
                *owed = kept();
                return Some(claim);
            }
            fanout::pause(Duration::from_millis(1));
            *owed = kept();
            if !everything(owed) {
                return Some(0);
            }
        }
        None
    }

    /// Empties a node that missed a flush, or more keys than could be kept; false when it did not do it.
    fn empty(&mut self, member: usize, whose: u64, owed: &[Miss], call: &mut Call) -> bool {
        call.reset(Verb::Delete);
        let emptied = self.exchange_lane(member, call, |lane| lane.ask_to_flush(0));
        let lane = emptied.and_then(|lane| call.lanes.get(lane));
        if !lane.is_some_and(|lane| lane.answers.contains(&Reply::Done)) {
            self.miss_all(member);
            return false;
        }
        self.counts.emptied += 1;
        if let Some(missed) = shared::missed() {
            owed.iter()
                .for_each(|miss| missed.mended(whose, miss, shared::now()));
        }
        true
    }

    /// Gives a node what the others have of these keys, in place of what it has; false when
    /// that could not be done.
    fn mend_keys(&mut self, member: usize, keys: &[&[u8]], call: &mut Call, now: Instant) -> bool {
        call.reset(Verb::Delete);
        let rule = KeyRule::default();
        for key in keys {
            // A key of the wire is never empty.
            let _ = call.push(&rule, key);
        }
        let mut open: Vec<usize> = (0..call.entries.len()).collect();
        for turn in 1..=AGAIN {
            let mut looks = Vec::new();
            // Keys of which copies are on their way: they may be newer where they were told first.
            let mut followed = Vec::new();
            for entry in &open {
                let plan = self.plan_to(call, *entry, |pool, node| pool.allows(node, now));
                if !plan.later.is_empty() {
                    followed.push(*entry);
                }
                let others = plan.usable().filter(|node| *node != member);
                looks.push(look(*entry, member, true));
                looks.extend(others.map(|node| look(*entry, node, true)));
            }
            let answers = self.round(call, &looks, now);
            // A Redis that still loads its data refuses every look, and all else. A key that it does
            // not show is of another kind there: it goes.
            let mut own = looks
                .iter()
                .zip(&answers)
                .filter(|(look, _)| look.member == member);
            if own.all(|(_, answer)| *answer == Answer::Refused) && !self.serves(member, call) {
                return false;
            }
            let (mut lines, mut ahead) = (Vec::new(), Vec::new());
            for (entry, mut seen) in by_entry(&looks, &answers, call.entries.len())
                .into_iter()
                .enumerate()
                .filter(|(_, seen)| !seen.is_empty())
            {
                // Its own look stands first.
                let own = seen.remove(0);
                if own.1 == Answer::Lost {
                    return false;
                }
                if own.1 == Answer::Refused {
                    lines.push(Line {
                        entry,
                        member,
                        what: What::Remove(None),
                    });
                    continue;
                }
                match (newest(&seen), own.1) {
                    (Some((_, copy)), Answer::Found(mine))
                        if self.rules.behind
                            && mine.version > copy.version
                            && !followed.contains(&entry) =>
                    {
                        // A write that is under way is elsewhere at the next look. Else who wrote
                        // without this node has a clock that is behind, and was right.
                        if turn < AGAIN {
                            ahead.push(entry);
                            continue;
                        }
                        let behind = Answer::Found(mine.outdated());
                        lines.extend(self.repairs(call, entry, &[(own.0, behind)], copy));
                    }
                    // A new end that it missed. With `max_stale` copies end before their values do, and
                    // an end that differs says nothing.
                    (Some((_, copy)), Answer::Found(mine))
                        if mine.version == copy.version
                            && !copy.lives_as(&mine)
                            && self.policy.max_stale.is_none() =>
                    {
                        lines.push(Line {
                            entry,
                            member,
                            what: What::Touch(copy.life(shared::throw())),
                        });
                    }
                    (Some((_, copy)), _) => lines.extend(self.repairs(call, entry, &[own], copy)),
                    (None, Answer::Found(copy)) => lines.push(Line {
                        entry,
                        member,
                        what: What::Remove(Some(copy.cas)),
                    }),
                    _ => {}
                }
            }
            let answers = self.repair(call, &lines, now);
            if answers.contains(&Answer::Lost) {
                return false;
            }
            // What it has no room for, or may not write, must not stay as it was before.
            let refused = lines.iter().zip(&answers);
            let refused = refused.filter(|(_, answer)| **answer == Answer::Refused);
            let gone: Vec<Line> = refused
                .map(|(line, _)| Line {
                    entry: line.entry,
                    member,
                    what: What::Remove(None),
                })
                .collect();
            if !gone.is_empty() {
                let given_up = self.round(call, &gone, now);
                let stays = |answer: &Answer| matches!(answer, Answer::Lost | Answer::Refused);
                if given_up.iter().any(stays) {
                    return false;
                }
            }
            let done = |answer: &Answer| matches!(answer, Answer::Done | Answer::Refused);
            open = lines
                .iter()
                .zip(answers)
                .filter_map(|(line, answer)| (!done(&answer)).then_some(line.entry))
                .chain(ahead.iter().copied())
                .collect();
            if let (false, Some(pause)) = (ahead.is_empty(), UNDER_WAY.get(turn - 1)) {
                fanout::pause(*pause);
            }
            if open.is_empty() {
                self.counts.handed_over += keys.len() as u64;
                return true;
            }
        }
        false
    }

    pub(super) fn whose(&self, member: usize) -> u64 {
        self.members.get(member).map_or(0, |member| member.whose)
    }
}

/// A pool's name and a node's as one word, as the processes of a host agree on it.
pub(super) fn whose(pool: &str, node: &str) -> u64 {
    shared::name_of(&[pool.as_bytes(), b"\0", node.as_bytes()].concat())
}

/// Keeps a key for `whose`, a pool's node ([`whose`]).
pub(super) fn keep(whose: u64, key: &[u8]) {
    let shared = shared::missed().is_some_and(|missed| keep_for_all(missed, whose, key));
    KNOWN.with_borrow_mut(|known| {
        let known = known.entry(whose).or_default();
        known.shared |= shared;
        if shared {
            return;
        }
        if key == ALL || known.keys.len() >= KEYS {
            shared::count(Counter::MissedOverflow);
            known.all = true;
            known.keys.clear();
        } else if !known.all {
            known.keys.insert(key.into());
        }
    });
}

/// The same in the host's memory, for all its workers; where there is no place for it, that the
/// node missed everything. False when there is none for that either.
fn keep_for_all(missed: &Missed, whose: u64, mut key: &[u8]) -> bool {
    for _ in 0..BUSY {
        match missed.keep(whose, key, shared::now()) {
            Kept::Yes => return true,
            Kept::NoRoom if key == ALL => return false,
            Kept::NoRoom => {
                // What is kept already stays: it is let go when all of it is handed over.
                shared::count(Counter::MissedOverflow);
                key = ALL;
            }
            Kept::Busy => fanout::pause(Duration::from_micros(500)),
        }
    }
    false
}

/// Keys that are kept for `whose`, by this process and by its host.
fn kept_for(whose: u64) -> usize {
    let own = KNOWN.with_borrow(|known| {
        let known = known.get(&whose);
        known.map_or(0, |known| known.keys.len() + usize::from(known.all))
    });
    own + shared::missed().map_or(0, |missed| missed.count(whose))
}

/// Did the node miss something, as far as is known here?
fn owes(whose: u64) -> bool {
    KNOWN.with_borrow_mut(|known| {
        let known = known.entry(whose).or_default();
        if known.shared || known.all || !known.keys.is_empty() {
            return true;
        }
        // Kept in mind until it is handed over.
        known.shared =
            shared::missed().is_some_and(|missed| missed.has_new(whose, &mut known.looked));
        known.shared
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::shared::missed;

    #[test]
    fn where_there_is_no_place_even_for_all_what_was_kept_stays() {
        let region = missed::empty().unwrap();
        assert!(keep_for_all(region, 1, b"first"));
        // Another's keys take each place that these two may lie in.
        for key in [b"second", ALL] {
            let start = missed::start_of(1, key);
            (0..400_000u32)
                .map(u32::to_le_bytes)
                .filter(|other| (start..start + 64).contains(&missed::start_of(2, other)))
                .for_each(|other| {
                    let _ = region.keep(2, &other, shared::now());
                });
        }
        assert!(!keep_for_all(region, 1, b"second"));
        let kept: Vec<Vec<u8>> = region.keys(1, 9).into_iter().map(|miss| miss.key).collect();
        assert_eq!(kept, [b"first"]);
    }
}
