//! The short way of what nearly every call is: one key, or a get of many, for one node that
//! is connected and well.
//!
//! No list of jobs and no second look at the node: one request, one send, one receive, and
//! the answers go straight to the keys. Client, kernel and server share the processor's
//! cache, so code that is not walked through is most of what there is to win. Whatever is
//! not as usual is left to the long way (`Pool::run`), before a byte is sent or with the
//! answer in hand; this file decides nothing of its own.

use super::{Declared, Pool};
use crate::call::{Call, Job, Outcome, Part, Step, Verb};
use crate::config::{Engine, Protocol};
use crate::fanout;
use crate::request::{Words, redis};
use crate::wire::{Expect, Reply, classic};
use std::time::Instant;

/// How far the short way led.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Swift {
    /// Nothing was sent: this is a call for the long way.
    No,
    /// Every key has its outcome.
    Done,
    /// The exchange is over, and its lane has something unusual to tell.
    Odd,
}

impl Pool {
    /// Runs the call over the first lane, if it is one for the short way.
    pub(super) fn swift(&mut self, call: &mut Call, verb: Verb, now: Instant) -> Swift {
        // The keys of a cluster's node may be in different slots, and its table is the ring's.
        let alone = self.members.len() == 1 && !self.is_cluster();
        let keys = call.entries.len();
        let fits = match verb {
            Verb::Get | Verb::Gets => keys == 1 || alone,
            Verb::Increment | Verb::Decrement if call.details(0).initial.is_some() => false,
            // It answers with a value and a word, not with a list of values.
            Verb::GetAndTouch => false,
            _ if self.waits => false,
            _ => keys == 1 && (alone || call.limits.copies <= 1 || self.is_cluster()),
        };
        if !fits || call.used > 0 || self.policy.protocol != Protocol::Ascii {
            return Swift::No;
        }
        let owner = if alone {
            0
        } else {
            self.ring().owner(call.wire_key(0))
        };
        if !self.is_well(owner, now) {
            return Swift::No;
        }
        let Some(place) = self.lane_index(call, 0, owner) else {
            return Swift::No;
        };
        let details = call.details(0);
        let (Some(lane), Some(entry)) = (call.lanes.get_mut(place), call.entries.first()) else {
            return Swift::No;
        };
        if verb.is_read() {
            lane.repeatable = true;
            let keys = call.entries.iter().map(|entry| entry.key);
            if lane.engine == Engine::Redis {
                lane.keys.extend(keys);
                redis::ask_all(lane, &call.arena, verb);
            } else {
                lane.asks.push(Expect::Values);
                classic::get(&mut lane.out, verb == Verb::Gets);
                lane.get_all(&call.arena, keys);
                classic::end(&mut lane.out);
            }
        } else {
            let words = Words {
                verb,
                step: Step::Ask,
                meta: false,
                opaque: 0,
                alone: true,
            };
            words.say(lane, &call.arena, entry.key, &details);
        }
        fanout::run_alone(lane, &call.arena, now);
        if self.take_answers(call, place, verb) {
            return Swift::Done;
        }
        if let Some(jobs) = call.jobs.get_mut(place) {
            jobs.extend((0..keys).map(|entry| Job {
                entry,
                member: owner,
                part: Part::Owner,
                step: Step::Ask,
                done: false,
            }));
        }
        Swift::Odd
    }

    /// Is the node connected, with no mark on it and nothing said of it?
    fn is_well(&self, index: usize, now: Instant) -> bool {
        self.members.get(index).is_some_and(|member| {
            // Only the first of twins knows what this object was told of their server.
            member.twin == index
                && !member.told
                && member.owed != Some(now)
                && member.declared == Declared::No
                && {
                    let mut node = member.node.borrow_mut();
                    node.health.is_unmarked() && node.is_open(now)
                }
        })
    }

    /// Gives each key its outcome; false, with nothing done, when there is more to tell.
    fn take_answers(&self, call: &mut Call, place: usize, verb: Verb) -> bool {
        let Some(lane) = call.lanes.get(place) else {
            return false;
        };
        let changed = || {
            self.members
                .get(lane.member)
                .is_none_or(|member| member.node.borrow().has_changed())
        };
        if lane.error.is_some() || lane.refused || changed() {
            return false;
        }
        if !verb.is_read() {
            let outcome = match lane.answers.as_slice() {
                [Reply::Done] => Outcome::Done,
                [Reply::NotStored] => Outcome::NotStored,
                [Reply::Exists] => Outcome::Exists,
                [Reply::NotFound] => Outcome::NotFound,
                [Reply::Number(n)] => Outcome::Number(*n),
                _ => return false,
            };
            if let Some(entry) = call.entries.first_mut() {
                entry.outcome = Some(outcome);
            }
            return true;
        }
        let mut entries = call.entries.iter_mut();
        let mut next = 0;
        for hit in &lane.hits {
            // Values come in the order of their keys, without the missing ones.
            for entry in entries.by_ref().take(hit.place.saturating_sub(next)) {
                entry.outcome = Some(Outcome::NotFound);
            }
            let Some(entry) = entries.next() else { break };
            entry.outcome = Some(Outcome::Hit {
                flags: hit.flags,
                cas: hit.cas,
                value: Call::hit(place, hit.data),
            });
            next = hit.place + 1;
        }
        entries.for_each(|entry| entry.outcome = Some(Outcome::NotFound));
        true
    }
}
