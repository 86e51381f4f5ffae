//! Values of mode single while two node lists are used: what moved is looked for at its old place.
//!
//! ```text
//!   get                the new place; misses once more, at the old one
//!   set, delete        both places at the same time
//!   all else           carry: a look at both, and `add` at the new one      then the old place
//!                      what only the old one has; then the new one decides  hears it, too
//! ```
//!
//! Carried with `add`, so of two hosts that carry one value one does, and none goes over what
//! was written meanwhile. A host that still has the old file reads and writes the old place alone: what it changes
//! is not seen here once the new place has the key, and that is why the window is for
//! hosts to change in, not to stay in.

use super::Pool;
use super::cache::{by_entry, look};
use super::round::{Answer, Copy, Line, Put, Value, What};
use crate::call::{Call, Job, Outcome, Part, Step, Verb};
use crate::config::Engine;
use crate::replica::Version;
use crate::shared;
use crate::wire::copied::Over;
use crate::wire::{Expect, Reply, Store, classic, meta};
use std::time::Instant;

/// A key whose place is another one now: its number in the call, and the node it was on.
type Moved = (usize, usize);

impl Pool {
    /// Runs a call while the node list before this one is read, too.
    pub(super) fn run_moving(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let (mut moved, mut places) = (Vec::<Moved>::new(), Vec::<Moved>::new());
        for entry in 0..call.entries.len() {
            let limits = call.limits;
            let key = call.wire_key(entry);
            moved.extend(self.owner_before(key).map(|before| (entry, before)));
            if !verb.is_read() {
                let before = self.places_before(key, &limits);
                places.extend(before.into_iter().map(|before| (entry, before)));
            }
        }
        match verb {
            _ if moved.is_empty() && places.is_empty() => self.run_plain(call, verb, now),
            Verb::Get => {
                self.run_plain(call, verb, now);
                let missed = missed(call, moved);
                self.tell_before(call, verb, &missed, now);
                for (entry, _, outcome) in std::mem::take(&mut call.before) {
                    if let Outcome::Hit { .. } = outcome {
                        call.settle_anew(entry, outcome);
                    }
                }
            }
            Verb::Gets => {
                self.run_plain(call, verb, now);
                // Its cas value has to be one of the place where cas() will be decided.
                let missed = missed(call, moved);
                let carried = self.take_along(call, &missed, now);
                self.ask_owners(call, verb, &carried, now);
            }
            Verb::Store(Store::Set) => self.tell_both(call, verb, &places, now),
            Verb::Delete => {
                self.tell_both(call, verb, &places, now);
                settle_deletes(call, &places, &moved);
            }
            _ => {
                // The node it would fail over to may be an old place, and hear it twice.
                let failover = std::mem::replace(&mut call.limits.failover, false);
                self.take_along(call, &moved, now);
                self.run_plain(call, verb, now);
                call.limits.failover = failover;
                let done = |(entry, _): &Moved| {
                    let outcome = call.outcome(*entry);
                    matches!(
                        outcome,
                        Outcome::Done | Outcome::Number(_) | Outcome::Hit { .. }
                    )
                };
                places.retain(done);
                // The old place has another cas value.
                let verb = match verb {
                    Verb::Store(Store::Cas) => Verb::Store(Store::Set),
                    verb => verb,
                };
                self.tell_before(call, verb, &places, now);
            }
        }
    }

    /// Stores or removes at both places at the same time. What the new one says counts: there it is
    /// read first.
    fn tell_both(&mut self, call: &mut Call, verb: Verb, places: &[Moved], now: Instant) {
        self.schedule(call, verb, now);
        self.schedule_before(call, places, now);
        self.say_pending(call, verb, now);
    }

    /// Says the verb at the old places of these keys; what they answer changes no outcome.
    fn tell_before(&mut self, call: &mut Call, verb: Verb, moved: &[Moved], now: Instant) {
        let outcomes: Vec<Outcome> = moved
            .iter()
            .map(|(entry, _)| call.outcome(*entry))
            .collect();
        self.schedule_before(call, moved, now);
        self.say_pending(call, verb, now);
        for ((entry, _), outcome) in moved.iter().zip(outcomes) {
            // A classic get has written it there.
            match call.outcome(*entry) {
                Outcome::Hit { .. } if verb == Verb::Get => {}
                _ => call.settle_anew(*entry, outcome),
            }
        }
    }

    fn schedule_before(&mut self, call: &mut Call, moved: &[Moved], now: Instant) {
        for (entry, member) in moved {
            if self.allows(*member, now) {
                call.pending.push(job(*entry, *member, Part::Before));
            }
        }
    }

    /// Says the verb at the places of these keys as if it had not been said.
    fn ask_owners(&mut self, call: &mut Call, verb: Verb, entries: &[usize], now: Instant) {
        for entry in entries {
            let limits = call.limits;
            let (member, allowed) = self.find_at(call.wire_key(*entry), &limits, now);
            if allowed {
                call.pending.push(job(*entry, member, Part::Owner));
            }
        }
        self.say_pending(call, verb, now);
    }

    /// Says what is pending, and settles it.
    fn say_pending(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let first = call.used;
        self.load(call, verb);
        self.tell_skipped(call);
        if first < call.used {
            self.carry(call, first);
            self.settle_round(call, first, verb, now);
        }
    }

    /// Brings to its new place what only the old one has; the keys that came there, or were there.
    fn take_along(&mut self, call: &mut Call, moved: &[Moved], now: Instant) -> Vec<usize> {
        let mut ways = Vec::with_capacity(moved.len());
        for (entry, before) in moved {
            let limits = call.limits;
            let (owner, allowed) = self.find_at(call.wire_key(*entry), &limits, now);
            if allowed && self.allows(*before, now) {
                ways.push((*entry, owner, *before));
            }
        }
        self.ask_for_words(call, &ways);
        ways.retain(|(_, owner, before)| self.shows_ends(*owner) && self.shows_ends(*before));
        if ways.is_empty() {
            return Vec::new();
        }
        let looks: Vec<Line> = ways
            .iter()
            .flat_map(|(entry, owner, before)| {
                [look(*entry, *owner, true), look(*entry, *before, true)]
            })
            .collect();
        let answers = self.round(call, &looks, now);
        let seen = by_entry(&looks, &answers, call.entries.len());
        let (mut lines, mut there) = (Vec::new(), Vec::new());
        for (entry, owner, before) in ways {
            let at = |node: usize| {
                let seen = seen.get(entry).into_iter().flatten();
                seen.filter(|(of, _)| *of == node)
                    .map(|(_, answer)| *answer)
                    .next()
            };
            match (at(owner), at(before)) {
                (Some(Answer::Found(_)), _) => there.push(entry),
                (Some(Answer::Miss), Some(Answer::Found(copy))) if !copy.gone => {
                    lines.push(store(call, entry, owner, copy));
                }
                _ => {}
            }
        }
        let answers = self.round(call, &lines, now);
        for (line, answer) in lines.iter().zip(answers) {
            // Where it was not stored another host, or a newer value, came first.
            if matches!(answer, Answer::Done | Answer::NotStored) {
                there.push(line.entry);
            }
        }
        there
    }

    /// Asks each memcached of these ways that has not told its version yet.
    fn ask_for_words(&mut self, call: &mut Call, ways: &[(usize, usize, usize)]) {
        let mut strangers: Vec<usize> = Vec::new();
        for node in ways.iter().flat_map(|(_, owner, before)| [*owner, *before]) {
            if self.engine(node) == Engine::Memcached
                && self.speaks_meta(node).is_none()
                && !strangers.contains(&node)
            {
                strangers.push(node);
            }
        }
        let answered = self.exchange_all(&strangers, call, |out, asks| {
            classic::version(out);
            asks.push(Expect::Version);
        });
        for (node, lane) in answered {
            let (answers, received) = call.answers(lane);
            let text = answers.iter().find_map(|reply| match reply {
                Reply::Version(text) => Some(text.of(received)),
                _ => None,
            });
            if let Some(member) = self.members.get(node) {
                let speaks = meta::is_spoken_by(text.unwrap_or_default());
                member.node.borrow_mut().speaks_meta = Some(speaks);
            }
        }
    }

    fn speaks_meta(&self, node: usize) -> Option<bool> {
        self.members.get(node)?.node.borrow().speaks_meta
    }

    /// Does the server say when an item ends? One that does not would have it carried for ever.
    fn shows_ends(&self, node: usize) -> bool {
        self.engine(node) != Engine::Memcached || self.speaks_meta(node) == Some(true)
    }
}

/// Makes outcomes of deletes at both places; `moved` are those that are read at the old one.
fn settle_deletes(call: &mut Call, places: &[Moved], moved: &[Moved]) {
    let told = std::mem::take(&mut call.before);
    for (entry, node) in places {
        let said = told.iter().find(|(of, at, _)| (of, at) == (entry, node));
        let before = match said {
            Some((_, _, outcome)) => *outcome,
            // It may still be there, and would be read again.
            None if moved.contains(&(*entry, *node)) => Outcome::Lost,
            None => continue,
        };
        let outcome = match (call.outcome(*entry), before) {
            (Outcome::Refused, _) | (_, Outcome::Refused) => Outcome::Refused,
            (Outcome::Lost, _) | (_, Outcome::Lost) => Outcome::Lost,
            (Outcome::Done, _) | (_, Outcome::Done) => Outcome::Done,
            (outcome, _) => outcome,
        };
        call.settle_anew(*entry, outcome);
    }
}

/// The keys that were asked for, and are not there.
fn missed(call: &Call, mut moved: Vec<Moved>) -> Vec<Moved> {
    moved.retain(|(entry, _)| call.outcome(*entry) == Outcome::NotFound);
    moved
}

/// Stores a copy as it is where nothing is.
fn store(call: &Call, entry: usize, member: usize, copy: Copy) -> Line {
    let put = Put {
        over: Over::Nothing,
        version: Version(0),
        flags: copy.flags,
        life: copy.life(shared::throw()),
        value: Value::Bytes(call.value(copy.value).into()),
    };
    Line {
        entry,
        member,
        what: What::Put(put),
    }
}

fn job(entry: usize, member: usize, part: Part) -> Job {
    Job {
        entry,
        member,
        part,
        step: Step::Ask,
        done: false,
    }
}
