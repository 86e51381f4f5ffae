//! The straight way of classic gets: from keys to lanes without a list of pending jobs.
//!
//! Every multi-get comes through here, a hundred keys at a time. What is the same for all
//! keys of a node (may it be asked, which lane is its own) is found out once per node and
//! not once per key. The way back is `Reader::take_hits` in `request`.

use super::{Pool, end_gets};
use crate::call::{Call, Job, Part, Step, Verb};
use crate::config::Engine;
use crate::item::Span;
use crate::wire::{Expect, classic};
use std::time::Instant;

impl Pool {
    /// Makes lanes of a classic get.
    pub(super) fn load_reads(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let first = call.used;
        if self.members.len() == 1 {
            self.load_all(call, first, verb, now);
        } else {
            self.load_each(call, first, verb, now);
        }
        for lane in call.lanes.get_mut(first..call.used).unwrap_or_default() {
            end_gets(lane, &call.arena, verb);
        }
    }

    /// All keys to the only node. They lie in the arena as they go out: one copy for all.
    fn load_all(&mut self, call: &mut Call, first: usize, verb: Verb, now: Instant) {
        let Some((place, member)) = self.open_lane(call, first, 0, verb, now) else {
            return;
        };
        if let (Some(lane), Some(jobs)) = (call.lanes.get_mut(place), call.jobs.get_mut(place)) {
            let keys = call.entries.iter().map(|entry| entry.key);
            if lane.engine == Engine::Redis {
                lane.keys.extend(keys);
            } else {
                lane.get_all(&call.arena, keys);
            }
            jobs.extend((0..call.entries.len()).map(|entry| ask(entry, member)));
        }
    }

    /// Each key to the lane of its node.
    fn load_each(&mut self, call: &mut Call, first: usize, verb: Verb, now: Instant) {
        let mut owners = std::mem::take(&mut call.owners);
        let ring = self.ring();
        owners.clear();
        owners.extend(
            call.entries
                .iter()
                .map(|e| ring.owner(e.key.of(&call.arena))),
        );
        // The lane of each owner that may be asked, as far as known.
        let mut lanes = std::mem::take(&mut call.lane_of_owner);
        lanes.clear();
        lanes.resize(self.members.len(), None);
        for (index, owner) in owners.iter().enumerate() {
            let known = lanes.get(*owner).copied().flatten();
            let way = known
                .map(|place| (place, *owner))
                .or_else(|| self.open_lane(call, first, index, verb, now));
            let Some((place, member)) = way else {
                continue;
            };
            if member == *owner
                && let Some(known) = lanes.get_mut(member)
            {
                *known = Some(place);
            }
            if let (Some(entry), Some(lane), Some(jobs)) = (
                call.entries.get(index),
                call.lanes.get_mut(place),
                call.jobs.get_mut(place),
            ) {
                if lane.engine == Engine::Redis {
                    lane.keys.push(entry.key);
                } else {
                    lane.out
                        .extend_from_slice(entry.key_and_blank().of(&call.arena));
                    lane.keys.push(Span {
                        at: lane.out.len() - entry.key.len,
                        len: entry.key.len,
                    });
                }
                jobs.push(ask(index, member));
            }
        }
        call.owners = owners;
        call.lane_of_owner = lanes;
    }

    /// The lane for key number `index`, made when there is none, and its node: the owner or,
    /// when that may not be asked, the next that may; `None` when there is none such.
    fn open_lane(
        &mut self,
        call: &mut Call,
        first: usize,
        index: usize,
        verb: Verb,
        now: Instant,
    ) -> Option<(usize, usize)> {
        let limits = call.limits;
        let (member, allowed) = self.find_at(call.wire_key(index), &limits, now);
        match self.lane_of(call, first, member) {
            Some(place) => Some((place, member)),
            None if allowed => {
                let place = self.lane_index(call, first, member)?;
                let lane = call.lanes.get_mut(place)?;
                lane.repeatable = true;
                if lane.engine != Engine::Redis {
                    lane.asks.push(Expect::Values);
                    classic::get(&mut lane.out, verb == Verb::Gets);
                }
                Some((place, member))
            }
            None => None,
        }
    }
}

fn ask(entry: usize, member: usize) -> Job {
    Job {
        entry,
        member,
        part: Part::Owner,
        step: Step::Ask,
        done: false,
    }
}
