//! Copies that follow the answer (mode async): what is handed to `copier`, and what becomes of it.
//!
//! The first node of a key that may be asked answers the caller. The others are told right
//! after, on connections of their own. A copy that did not arrive is a missed key like any
//! other: the node gives up what it has of it before it is asked again (`hints`).
//!
//! A node is asked for a key on the connection of the calls only when no copy of that key is
//! on its way to it, or what is read would be older than what was written.

use super::Pool;
use super::copies::clock;
use super::hints;
use super::rings::Plan;
use super::round::{Put, Value};
use crate::call::Call;
use crate::copier::{self, Copy, What};
use crate::wire::copied::Life;
use std::rc::Rc;
use std::time::Duration;

/// How long the end of a request waits for answers that the kernel will bring anyway. Near
/// nodes have answered by then; of far ones it is known with the next request.
const PATIENCE: Duration = Duration::from_millis(1);

impl Pool {
    /// Sends a write of key number `entry` after the answer, to the nodes that are told later.
    pub(super) fn follow(&mut self, call: &mut Call, entry: usize, plan: &Plan, put: &Put) {
        if plan.later.is_empty() {
            return;
        }
        let value = match &put.value {
            Value::Said => Some(call.details(entry).value.of(&call.arena).into()),
            Value::Bytes(bytes) => Some(Rc::clone(bytes)),
            Value::Tombstone => None,
        };
        let what = What::Put {
            over: put.over,
            version: put.version.0,
            flags: put.flags,
            life: self.later_life(put.life),
            value,
        };
        self.tell_later(call, entry, plan, &what);
    }

    /// The same for a new end.
    pub(super) fn touch_later(&mut self, call: &mut Call, entry: usize, plan: &Plan, life: Life) {
        let life = self.later_life(life);
        self.tell_later(call, entry, plan, &What::Touch(life));
    }

    /// What a later write does not reach is gone after `max_stale`.
    fn later_life(&self, life: Life) -> Life {
        match self.policy.max_stale {
            Some(most) => life.at_most(most, clock() / 1000),
            None => life,
        }
    }

    fn tell_later(&mut self, call: &mut Call, entry: usize, plan: &Plan, what: &What) {
        let key: Rc<[u8]> = call.wire_key(entry).into();
        for member in &plan.later {
            let whose = self.whose(*member);
            if let Some(spec) = self.spec(*member) {
                let (key, what) = (Rc::clone(&key), what.clone());
                copier::push(spec, Copy { whose, key, what }, self.policy.hold);
            }
        }
        self.heed_copies(call);
    }

    /// Waits for copies of key number `entry` that are on their way to nodes which are to be
    /// asked for it now.
    pub(super) fn catch_up(&mut self, call: &mut Call, entry: usize, members: &[usize]) {
        if !copier::is_busy() {
            return;
        }
        for member in members {
            if let Some(spec) = self.spec(*member)
                && copier::has(&spec.target, call.wire_key(entry))
            {
                copier::wait_for(&spec.target);
            }
        }
        self.heed_copies(call);
    }

    /// Waits for all copies that are on their way to a node.
    pub(super) fn catch_up_with(&mut self, call: &mut Call, member: usize) {
        if let Some(spec) = self.spec(member).filter(|_| copier::is_busy()) {
            copier::wait_for(&spec.target);
            self.heed_copies(call);
        }
    }

    /// Goes on with copies, and takes note of those that did not arrive.
    pub(super) fn settle_later(&mut self, call: &mut Call) {
        copier::carry_on();
        self.heed_copies(call);
    }

    /// Takes note of copies that did not arrive.
    fn heed_copies(&mut self, call: &mut Call) {
        if !copier::is_busy() {
            return;
        }
        let news = copier::take_news();
        self.counts.missed += news.missed.len() as u64;
        if self.rules.hint {
            keep(&news.missed);
        }
        for (target, error) in &news.failed {
            let same = |m: &&super::Member| m.spec.target == *target;
            for member in self.members.iter().filter(same) {
                let mut node = member.node.borrow_mut();
                // Without shared memory each connection has only a mark of its own.
                if node.health.is_unmarked() {
                    node.fail(error);
                    // It is told below.
                    node.take_change();
                }
            }
        }
        for (name, change, error) in news.changes {
            let care = self.members.iter().find(|member| member.name == name);
            let change = care.map_or(change, |member| change.told(member.spec.care));
            call.changes.push((name, change, error));
        }
    }
}

/// The end of a request: every copy is with the kernel, or its key is kept for its node.
pub fn after_request() {
    copier::finish(Some(PATIENCE));
    if copier::is_busy() {
        keep(&copier::take_missed());
    }
}

/// The end of the process: as [`after_request`], and every node has answered, or its timeout
/// is over.
pub fn end() {
    copier::finish(None);
    keep(&copier::take_missed());
}

fn keep(missed: &[copier::Missed]) {
    for copier::Missed { whose, key } in missed {
        hints::keep(*whose, key);
    }
}
