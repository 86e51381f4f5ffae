//! Operations that depend on what is stored, on copies: cas, add, replace, append, count, touch.
//!
//! ```text
//!   look      all live copies, in mode async the first that has   one trip
//!             it; the newest is what is stored
//!   decide    store over it on the first live node, and on no     one trip
//!             other item (cas value): who comes second begins
//!             again, or is told
//!   follow    the other copies, over what was seen there or       one trip
//!             over what is older, never over what is newer;
//!             in mode async after the answer (`later`)
//! ```
//!
//! One node decides, so of two who add or cas at the same time one wins, and no increment is
//! lost. A server's own `incr` would be one trip, but on one copy it counts what on another it
//! does not. Versions of counters and joined values go on from the one that was seen, so that
//! a clock that is ahead does not outlive its owner.

use super::Pool;
use super::cache::{by_entry, hit, look, newest, silent};
use super::copies::clock;
use super::rings::Plan;
use super::round::{Answer, Copy, Line, Put, Value, What, next_version};
use crate::call::{Call, Outcome, Verb};
use crate::fanout;
use crate::replica::Version;
use crate::request::{FLAGS_INTEGER, refused};
use crate::shared;
use crate::wire::Store;
use crate::wire::copied::{Life, Over};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// How often an operation begins again because somebody else was first.
const TURNS: u32 = 200;
/// How often a copy is looked at again that changed meanwhile.
const FOLLOW: usize = 4;

/// What a look leads to.
enum Decision {
    /// This outcome; nothing is stored.
    Settle(Outcome),
    /// Store this.
    Store(Put, Outcome),
    /// Set a new end on all copies.
    Touch(Copy, Outcome),
}

/// One key under way.
struct Way {
    entry: usize,
    plan: Plan,
    /// What each live node showed.
    seen: Vec<(usize, Answer)>,
}

/// One store under way.
struct Chosen {
    way: Way,
    put: Put,
    outcome: Outcome,
    decider: usize,
}

/// What the looks of a call lead to.
#[derive(Default)]
struct Decided {
    chosen: Vec<Chosen>,
    touched: Vec<(Way, Copy, Outcome)>,
    repairs: Vec<Line>,
}

impl Pool {
    /// Runs a call whose verb depends on what is stored.
    pub(super) fn change_copied(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let mut open: Vec<usize> = (0..call.entries.len()).collect();
        for turn in 0..TURNS {
            let ways = self.look_all(call, &open, now);
            let decided = self.decide_all(call, verb, ways);
            self.repair(call, &decided.repairs, now);
            self.touch_all(call, &decided.touched, now);
            open = self.store_all(call, verb, decided.chosen, now);
            if open.is_empty() {
                return;
            }
            // Others want the same: without chance they would meet again and again.
            let longest = u64::from(turn.min(20)) * 100 + 1;
            fanout::pause(Duration::from_micros(shared::throw() % longest));
        }
    }

    fn look_all(&mut self, call: &mut Call, open: &[usize], now: Instant) -> Vec<Way> {
        let mut ways = Vec::with_capacity(open.len());
        for entry in open {
            let plan = self.plan(call, *entry, now);
            ways.push(Way {
                entry: *entry,
                plan,
                seen: Vec::new(),
            });
        }
        self.look_at(call, &mut ways, now);
        // Who is told later has to say now what the first has not or did not say.
        let (mut unsure, mut sure): (Vec<Way>, Vec<Way>) = ways.into_iter().partition(|way| {
            let found = |(_, answer): &(usize, Answer)| matches!(answer, Answer::Found(_));
            !way.plan.later.is_empty() && !way.seen.iter().any(found)
        });
        if !unsure.is_empty() {
            for way in &mut unsure {
                let later = std::mem::take(&mut way.plan.later);
                way.plan.live.extend(later);
            }
            self.look_at(call, &mut unsure, now);
            sure.append(&mut unsure);
        }
        sure
    }

    /// Looks at the live nodes of each way that were not looked at.
    fn look_at(&mut self, call: &mut Call, ways: &mut [Way], now: Instant) {
        let mut lines = Vec::with_capacity(ways.len() * 2);
        for way in ways.iter() {
            let is_new = |member: &usize| way.seen.iter().all(|(node, _)| node != member);
            let new: Vec<usize> = way.plan.live.iter().copied().filter(is_new).collect();
            self.catch_up(call, way.entry, &new);
            lines.extend(new.iter().map(|member| look(way.entry, *member, true)));
        }
        let answers = self.round(call, &lines, now);
        let mut found = by_entry(&lines, &answers, call.entries.len());
        for way in ways {
            let seen = found.get_mut(way.entry).map(std::mem::take);
            way.seen.append(&mut seen.unwrap_or_default());
            way.plan.away.extend(silent(&way.seen));
            way.seen.retain(|(_, answer)| *answer != Answer::Lost);
            let away = &way.plan.away;
            way.plan.live.retain(|member| !away.contains(member));
        }
    }

    fn decide_all(&mut self, call: &mut Call, verb: Verb, ways: Vec<Way>) -> Decided {
        let mut decided = Decided::default();
        for way in ways {
            let Some(decider) = way.plan.live.first().copied() else {
                call.settle_anew(way.entry, Outcome::Lost);
                continue;
            };
            // Where one copy has ended, the rest of another is not stored again: the second in which
            // each ends begins at another moment, and together they would never end.
            let ended = way.seen.iter().any(|(_, answer)| *answer == Answer::Miss);
            let stored = newest(&way.seen)
                .map(|(_, copy)| copy)
                .filter(|copy| copy.left > 1 || !(ended || copy.is_over(shared::throw())));
            let mut decision = self.decide(call, verb, way.entry, decider, stored);
            if let (Decision::Store(put, _), true) = (&mut decision, way.plan.plain) {
                put.version = Version(0);
            }
            match decision {
                Decision::Settle(outcome) => {
                    if let Some(copy) = stored {
                        let repairs = self.repairs(call, way.entry, &way.seen, copy);
                        decided.repairs.extend(repairs);
                    }
                    call.settle_anew(way.entry, outcome);
                }
                Decision::Touch(copy, outcome) => decided.touched.push((way, copy, outcome)),
                Decision::Store(put, outcome) => decided.chosen.push(Chosen {
                    way,
                    put,
                    outcome,
                    decider,
                }),
            }
        }
        decided
    }

    /// What becomes of one key, of which `stored` is the newest copy.
    fn decide(
        &mut self,
        call: &mut Call,
        verb: Verb,
        entry: usize,
        decider: usize,
        stored: Option<Copy>,
    ) -> Decision {
        let details = call.details(entry);
        let seen = stored.map_or(Version(0), |copy| copy.version);
        let there = stored.filter(|copy| !copy.gone);
        let anew = || Put {
            over: Over::Nothing,
            version: next_version(clock(), seen),
            flags: details.flags,
            life: Life::Said(details.ttl),
            value: Value::Said,
        };
        match (verb, there) {
            (Verb::Store(Store::Add), None) => Decision::Store(anew(), Outcome::Done),
            (Verb::Store(Store::Add), Some(_)) => Decision::Settle(Outcome::NotStored),
            (Verb::Store(Store::Cas), None) => Decision::Settle(Outcome::NotFound),
            (Verb::Store(Store::Cas), Some(copy)) if copy.token() != details.cas => {
                Decision::Settle(Outcome::Exists)
            }
            (Verb::Store(Store::Cas | Store::Replace), Some(_)) => {
                Decision::Store(anew(), Outcome::Done)
            }
            (Verb::Store(Store::Append | Store::Prepend), Some(copy)) => {
                let (old, new) = (call.value(copy.value), details.value.of(&call.arena));
                let joined = match verb {
                    Verb::Store(Store::Append) => [old, new].concat(),
                    _ => [new, old].concat(),
                };
                go_on(copy, joined, Outcome::Done)
            }
            (Verb::Store(_), _) => Decision::Settle(Outcome::NotStored),
            (Verb::Increment | Verb::Decrement, Some(copy)) => {
                let text = call.value(copy.value).trim_ascii_end();
                let Some(number) = counter(text) else {
                    self.refuse(call, decider, NOT_A_NUMBER);
                    return Decision::Settle(Outcome::Refused);
                };
                let number = match verb {
                    Verb::Increment => number.wrapping_add(details.delta),
                    _ => number.saturating_sub(details.delta),
                };
                go_on(copy, number.to_string().into(), Outcome::Number(number))
            }
            (Verb::Increment | Verb::Decrement, None) => match details.initial {
                Some(number) => {
                    let put = Put {
                        flags: FLAGS_INTEGER,
                        value: Value::Bytes(number.to_string().into_bytes().into()),
                        ..anew()
                    };
                    Decision::Store(put, Outcome::Number(number))
                }
                None => Decision::Settle(Outcome::NotFound),
            },
            (Verb::Touch, Some(copy)) => Decision::Touch(copy, Outcome::Done),
            (Verb::GetAndTouch, Some(copy)) => Decision::Touch(copy, hit(copy)),
            _ => Decision::Settle(Outcome::NotFound),
        }
    }

    /// Stores what was chosen, on the node that decides and then on the others; the keys that
    /// have to begin again.
    fn store_all(
        &mut self,
        call: &mut Call,
        verb: Verb,
        chosen: Vec<Chosen>,
        now: Instant,
    ) -> Vec<usize> {
        if chosen.is_empty() {
            return Vec::new();
        }
        let mut lines = Vec::with_capacity(chosen.len());
        for one in &chosen {
            lines.push(self.over_seen(&one.way, one.decider, &one.put));
        }
        let answers = self.round(call, &lines, now);
        let (mut again, mut won) = (Vec::new(), Vec::new());
        for (one, answer) in chosen.into_iter().zip(answers) {
            let entry = one.way.entry;
            match answer {
                Answer::Done => {
                    self.miss_write(call, entry, &one.way.plan, &[]);
                    won.push(one);
                }
                Answer::Refused => call.settle_anew(entry, Outcome::Refused),
                Answer::Lost => {
                    // It may have been stored, and said twice it would count twice.
                    if one.way.plan.usable().count() > 1 {
                        self.miss(call, entry, &[one.decider]);
                    }
                    call.settle_anew(entry, Outcome::Lost);
                }
                // What was looked at is not there any more.
                _ if verb == Verb::Store(Store::Cas) => call.settle_anew(entry, Outcome::Exists),
                _ => again.push(entry),
            }
        }
        self.follow_all(call, won, now);
        again
    }

    /// Brings the other copies to what was decided.
    fn follow_all(&mut self, call: &mut Call, won: Vec<Chosen>, now: Instant) {
        let mut lines = Vec::new();
        for one in &won {
            let others = one.way.plan.live.iter().filter(|m| **m != one.decider);
            lines.extend(others.map(|member| self.over_seen(&one.way, *member, &one.put)));
        }
        let mut lost: Vec<(usize, usize)> = Vec::new();
        let mut stored = vec![1usize; call.entries.len()];
        for _ in 0..FOLLOW {
            let answers = self.round(call, &lines, now);
            let mut changed = Vec::new();
            for (line, answer) in lines.into_iter().zip(answers) {
                match answer {
                    Answer::Done => {
                        if let Some(count) = stored.get_mut(line.entry) {
                            *count += 1;
                        }
                    }
                    Answer::Lost | Answer::Refused => lost.push((line.entry, line.member)),
                    _ => changed.push(line),
                }
            }
            lines = self.over_older(call, changed, &mut stored, now);
            if lines.is_empty() {
                break;
            }
        }
        lost.extend(lines.iter().map(|line| (line.entry, line.member)));
        for (entry, member) in lost {
            self.miss(call, entry, &[member]);
        }
        for one in won {
            let copies = stored.get(one.way.entry).copied().unwrap_or(1);
            let plan = &one.way.plan;
            if copies == 1 && plan.later.is_empty() && plan.has_others() {
                self.count_alone();
            }
            call.settle_anew(one.way.entry, one.outcome);
            // What they have is not known here: whatever it is, unless it is newer.
            let put = Put {
                over: Over::Anything,
                ..one.put
            };
            self.follow(call, one.way.entry, plan, &put);
        }
    }

    /// Looks again at copies that changed meanwhile; the stores that are still to be said.
    fn over_older(
        &mut self,
        call: &mut Call,
        changed: Vec<Line>,
        stored: &mut [usize],
        now: Instant,
    ) -> Vec<Line> {
        if changed.is_empty() {
            return Vec::new();
        }
        let looks: Vec<Line> = changed
            .iter()
            .map(|line| look(line.entry, line.member, true))
            .collect();
        let found = self.round(call, &looks, now);
        let mut still = Vec::new();
        for (mut line, answer) in changed.into_iter().zip(found) {
            let What::Put(put) = &mut line.what else {
                continue;
            };
            match answer {
                Answer::Found(copy) if self.rules.newest && copy.version >= put.version => {
                    // Somebody went on from what was decided.
                    if let Some(count) = stored.get_mut(line.entry) {
                        *count += 1;
                    }
                    continue;
                }
                Answer::Found(copy) => put.over = Over::Cas(copy.cas),
                _ => put.over = Over::Nothing,
            }
            still.push(line);
        }
        still
    }

    /// Sets a new end where the newest copy is, and stores it with that end where it is not.
    fn touch_all(&mut self, call: &mut Call, touched: &[(Way, Copy, Outcome)], now: Instant) {
        let mut lines = Vec::new();
        for (way, copy, _) in touched {
            let life = Life::Said(call.details(way.entry).ttl);
            let mut rest = Vec::new();
            for (member, answer) in &way.seen {
                match answer {
                    Answer::Found(other) if other.version == copy.version => lines.push(Line {
                        entry: way.entry,
                        member: *member,
                        what: What::Touch(life),
                    }),
                    _ => rest.push((*member, *answer)),
                }
            }
            for mut line in self.repairs(call, way.entry, &rest, *copy) {
                if let What::Put(put) = &mut line.what {
                    put.life = life;
                }
                lines.push(line);
            }
        }
        if lines.is_empty() {
            return;
        }
        let answers = self.round(call, &lines, now);
        let found = by_entry(&lines, &answers, call.entries.len());
        for (way, _, outcome) in touched {
            let seen = found.get(way.entry).map(Vec::as_slice).unwrap_or_default();
            let lost = silent(seen);
            if lost.len() < seen.len() {
                self.miss_write(call, way.entry, &way.plan, &lost);
            }
            let outcome = if lost.len() == seen.len() {
                Outcome::Lost
            } else {
                *outcome
            };
            call.settle_anew(way.entry, outcome);
            if outcome != Outcome::Lost {
                let life = Life::Said(call.details(way.entry).ttl);
                self.touch_later(call, way.entry, &way.plan, life);
            }
        }
    }

    /// The store of `put` at `member`, over what was seen there and nothing else.
    fn over_seen(&self, way: &Way, member: usize, put: &Put) -> Line {
        let seen = way.seen.iter().find(|(node, _)| *node == member);
        let over = match seen {
            _ if !self.rules.over_seen => Over::Anything,
            Some((_, Answer::Found(copy))) => Over::Cas(copy.cas),
            _ => Over::Nothing,
        };
        Line {
            entry: way.entry,
            member,
            what: What::Put(Put {
                over,
                ..put.clone()
            }),
        }
    }

    /// Tells the caller what a server would have said.
    fn refuse(&self, call: &mut Call, index: usize, line: &[u8]) {
        if let Some(member) = self.members.get(index) {
            call.events.push(super::event(index, member, refused(line)));
        }
    }
}

/// A value made of the stored one: its flags and its end stay.
fn go_on(copy: Copy, value: Vec<u8>, outcome: Outcome) -> Decision {
    let put = Put {
        over: Over::Cas(copy.cas),
        // Never this host's clock, but where there is no version yet: counted often, it would
        // outrun all others.
        version: next_version(
            if copy.version == Version(0) {
                clock()
            } else {
                0
            },
            copy.version,
        ),
        flags: copy.flags,
        life: copy.life(shared::throw()),
        value: Value::Bytes(Rc::from(value)),
    };
    Decision::Store(put, outcome)
}

/// memcached's words (proto_text.c process_arithmetic_command).
const NOT_A_NUMBER: &[u8] = b"CLIENT_ERROR cannot increment or decrement non-numeric value";

/// A stored number: decimal digits that fit into 64 bits.
fn counter(text: &[u8]) -> Option<u64> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    let text = std::str::from_utf8(text).ok()?;
    text.trim_end_matches(' ').parse().ok()
}
