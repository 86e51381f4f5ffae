//! Which node a job goes to: owner, copies, and after a failure the next one.
//!
//! pecl-memcache's own sequence (memcache_pool.c): the owner, then the nodes that
//! `"key-0"`, `"key-1"`, … hash to, leaving out those already used or not usable.

use super::{Declared, Pool};
use crate::call::{Call, Job, Limits, Part, Step, Verb};
use crate::config::{COPIED_TIMEOUT, Care, NodeSpec, check_name};
use crate::error::Error;
use crate::fanout::Lane;
use crate::ring::Ring;
use crate::{probe, shared};
use std::time::{Duration, Instant};

/// Timeout of a second try when nobody answered a first one: rather late than not at all.
const PATIENT: Duration = Duration::from_millis(500);

impl Pool {
    /// Which nodes get which keys first.
    pub(crate) fn schedule(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let limits = call.limits;
        // A cluster keeps copies itself, and nobody else takes a key of its slots.
        let copies = if verb.wants_values() || self.is_cluster() {
            1
        } else {
            usize::try_from(limits.copies).unwrap_or(1)
        };
        for entry in 0..call.entries.len() {
            let (owner, allowed) = self.find_at(call.wire_key(entry), &limits, now);
            if allowed {
                call.pending.push(Job {
                    entry,
                    member: owner,
                    part: Part::Owner,
                    step: Step::Ask,
                    done: false,
                });
            }
            if copies > 1 {
                self.schedule_copies(call, entry, owner, copies.min(self.current()), now);
            }
        }
    }

    /// pecl's copies 2..N: the failover sequence without the nodes already used
    /// (memcache_pool.c mmc_pool_schedule_key); unusable ones are passed over in silence.
    fn schedule_copies(
        &mut self,
        call: &mut Call,
        entry: usize,
        owner: usize,
        copies: usize,
        now: Instant,
    ) {
        let row = self.copies_after(call.wire_key(entry), owner, copies, call.limits.attempts);
        for (place, member) in row.iter().enumerate() {
            let before = row.get(..place).unwrap_or_default();
            let again = *member == owner || before.contains(member);
            if self.allows(*member, now) && !again {
                call.pending.push(Job {
                    entry,
                    member: *member,
                    part: Part::Copy,
                    step: Step::Ask,
                    done: false,
                });
            }
        }
    }

    /// The nodes that pecl's copies 2 to `copies` go to, `owner` having the first; one named
    /// again takes a copy's place without being one.
    pub(crate) fn copies_after(
        &mut self,
        key: &[u8],
        owner: usize,
        copies: usize,
        attempts: u32,
    ) -> Vec<usize> {
        let mut taken = vec![owner];
        let mut attempt = 0;
        while taken.len() < copies {
            let member = self.next(key, &taken, &mut attempt, attempts);
            taken.push(member);
        }
        taken.split_off(1)
    }

    /// The nodes of a session in pecl's order: those of "<key>-0", "<key>-1", …; never the
    /// owner of the bare key (memcache_session.c PS_READ_FUNC).
    ///
    /// phpredis and php-memcached keep a session where its id says, and nowhere else; a cluster where
    /// its slot is.
    pub(crate) fn session_places(&mut self, key: &[u8], copies: u32, attempts: u32) -> Vec<usize> {
        if self.is_cluster() {
            self.find_masters();
            return vec![self.ring().owner(key)];
        }
        if self.policy.placement.is_behind_prefix() {
            return vec![self.ring().owner(key)];
        }
        let wanted = usize::try_from(copies)
            .unwrap_or(1)
            .clamp(1, self.current().max(1));
        row_of(self.ring(), key, wanted, attempts)
    }

    /// Sends a failed job to the next usable node; false when there is none
    /// (memcache_pool.c mmc_pool_failover_handler).
    pub(crate) fn fail_over(&mut self, call: &mut Call, job: Job, now: Instant) -> bool {
        let limits = call.limits;
        let mut attempt = call.entries.get(job.entry).map_or(0, |e| e.attempt);
        // A first failure has nobody to avoid yet; with thousands of keys on one failing node
        // the search would be most of the time.
        let mut taken: Vec<usize> = match attempt {
            0 => Vec::new(),
            _ => call
                .tried
                .iter()
                .filter(|(entry, _)| *entry == job.entry)
                .map(|(_, member)| *member)
                .collect(),
        };
        if !limits.failover || attempt >= limits.attempts || taken.len() >= self.members.len() {
            return false;
        }
        let mut member = job.member;
        loop {
            taken.push(member);
            call.tried.push((job.entry, member));
            member = self.next(
                call.wire_key(job.entry),
                &taken,
                &mut attempt,
                limits.attempts,
            );
            if self.allows(member, now)
                || attempt >= limits.attempts
                || taken.len() >= self.members.len()
            {
                break;
            }
        }
        if let Some(entry) = call.entries.get_mut(job.entry) {
            entry.attempt = attempt;
        }
        let usable = self.allows(member, now) && !taken.contains(&member);
        if usable {
            call.pending.push(Job { member, ..job });
        }
        usable
    }

    /// The node a request for `key` goes to: its owner, or the next one that may be asked.
    /// False beside it when it may not, like all before it.
    pub(crate) fn find_at(&mut self, key: &[u8], limits: &Limits, now: Instant) -> (usize, bool) {
        self.walk(key, limits, |pool, index| pool.allows(index, now))
    }

    /// pecl's walk (memcache_pool.c mmc_pool_find): the owner, then the failover sequence
    /// until a node is `usable` or the attempts are used up. True beside it when it is.
    pub(crate) fn walk(
        &mut self,
        key: &[u8],
        limits: &Limits,
        usable: impl Fn(&mut Pool, usize) -> bool,
    ) -> (usize, bool) {
        let mut found = self.ring().owner(key);
        let mut fits = usable(self, found);
        if !fits && limits.failover {
            for attempt in 0..limits.attempts.max(1) {
                found = self.ring().after(key, attempt);
                fits = usable(self, found);
                if fits {
                    break;
                }
            }
        }
        (found, fits)
    }

    /// As [`Pool::allows`], for who only wants to know: the try that may be due stays due.
    pub(crate) fn seems_usable(&self, index: usize) -> bool {
        self.members.get(index).is_some_and(|member| {
            let pause = member.spec.retry_interval;
            match member.declared {
                Declared::Down => pause >= 0,
                Declared::Up => true,
                Declared::No => member.node.borrow().health.is_due(pause, shared::now()),
            }
        })
    }

    /// The next node of the failover sequence that is not `taken`
    /// (memcache_pool.c mmc_pool_find_next).
    pub(crate) fn next(
        &mut self,
        key: &[u8],
        taken: &[usize],
        attempt: &mut u32,
        attempts: u32,
    ) -> usize {
        next_on(self.ring(), key, taken, attempt, attempts)
    }

    /// Checks that keys could be spread to a node beside those that are here.
    ///
    /// # Errors
    /// As `config::check_name`.
    pub fn takes_place(&self, spec: &NodeSpec) -> Result<(), Error> {
        let here = self.members.iter().map(|member| &member.spec);
        check_name(spec, here, self.policy.placement)
    }

    /// The first node that is the server of `spec`, and its database, however it was passed.
    pub fn node_of(&self, spec: &NodeSpec) -> Option<usize> {
        let database = |spec: &NodeSpec| spec.redis.as_ref().map(|redis| redis.database);
        self.members.iter().position(|member| {
            member.spec.target == spec.target && database(&member.spec) == database(spec)
        })
    }

    /// May node `index` be asked in the call that began at `now`?
    ///
    /// A node passed over for a mark that this object has not been told of is remembered,
    /// and told of once (`tell_skipped`).
    pub(crate) fn allows(&mut self, index: usize, now: Instant) -> bool {
        // A server listed twice has one connection: the try that is due is both entries'.
        let Some((twin, claimed, passed, told)) = self.members.get(index).and_then(|member| {
            let first = self.members.get(member.twin)?;
            Some((member.twin, first.claimed, first.passed, first.told))
        }) else {
            return false;
        };
        let Some(member) = self.members.get_mut(index) else {
            return false;
        };
        let pause = member.spec.retry_interval;
        if member.owed == Some(now) {
            return false;
        }
        if member.declared == Declared::Down {
            // Down by hand, long ago: whoever may try again at all may do so at once.
            return pause >= 0;
        }
        let due = member.node.borrow().health.is_unmarked()
            || member.declared == Declared::Up
            // A directory costs no time, and only who tries it can say what is wrong with it.
            || (member.spec.is_embedded() && !told)
            // The try that was due is this whole call's, not its first key's.
            || claimed == Some(now);
        if due {
            return true;
        }
        if passed == Some(now) {
            // A pause that ends in the middle of a call ends for the next one.
            return false;
        }
        let allowed = if member.spec.care == Care::Probed {
            self.allows_probed(index)
        } else {
            let mut node = member.node.borrow_mut();
            node.health.may_ask(pause, shared::now())
        };
        if let Some(twin) = self.members.get_mut(twin) {
            if allowed {
                twin.claimed = Some(now);
            } else {
                twin.passed = Some(now);
                if !told {
                    twin.told = true;
                    self.skipped.push(index);
                }
            }
        }
        allowed
    }

    /// May a node be asked that failed, and that a prober looks after? It may when more are
    /// out than the pool can do without: then nobody is left out.
    #[cold]
    fn allows_probed(&mut self, index: usize) -> bool {
        probe::carry_on(Duration::ZERO);
        let Some(member) = self.members.get(index) else {
            return false;
        };
        let now = shared::now();
        let due = {
            let node = member.node.borrow();
            // Only the host's mark counts: tend, or another worker, may have seen it come back.
            if node.health.is_up(now) {
                return true;
            }
            node.health.claim_probe(now)
        };
        if due {
            probe::begin(&member.node, &member.spec);
        }
        self.out().len() > self.most_out()
    }

    /// The nodes that are marked as failed, each server once.
    pub fn out(&self) -> Vec<usize> {
        let now = shared::now();
        let is_out = |(index, member): &(usize, &super::Member)| {
            member.twin == *index && !member.node.borrow().health.is_up(now)
        };
        let members = self.members.iter().enumerate();
        members.filter(is_out).map(|(index, _)| index).collect()
    }

    /// Asks the nodes that are marked as failed, all at the same time; who is still out.
    pub fn ask_out(&mut self, call: &mut Call) -> Vec<usize> {
        let out = self.out();
        let first = call.used;
        self.exchange_lanes(&out, call, Lane::ask_for_life);
        call.used = first;
        self.out()
    }

    /// Gives all nodes longer to answer, where no timeout is written for them, or takes that back.
    /// Copied sessions are asked for meanwhile also of nodes that are marked as failed.
    pub fn be_patient(&mut self, patient: bool) {
        self.patient = patient;
        let limit = if patient { PATIENT } else { COPIED_TIMEOUT };
        for member in self.members.iter_mut().filter(|m| !m.spec.written.timeout) {
            (member.spec.connect_timeout, member.spec.op_timeout) = (limit, limit);
        }
    }

    /// How many nodes may be left out at the same time: as written, or fewer than half, but one
    /// of two.
    fn most_out(&self) -> usize {
        let usual = (self.members.len().saturating_sub(1) / 2).max(1);
        self.policy.max_out.unwrap_or(usual)
    }

    /// Makes an event of each node passed over for somebody else's mark.
    #[inline]
    pub(crate) fn tell_skipped(&mut self, call: &mut Call) {
        if !self.skipped.is_empty() {
            self.tell_each_skipped(call);
        }
    }

    #[cold]
    fn tell_each_skipped(&mut self, call: &mut Call) {
        for index in std::mem::take(&mut self.skipped) {
            if let Some(member) = self.members.get(index) {
                let cause = member.node.borrow().health.cause();
                call.events.push(super::event(index, member, cause));
            }
        }
    }
}

/// pecl's row for a session: the nodes of "<key>-0", "<key>-1", …, `wanted` at most.
pub(super) fn row_of(ring: &Ring, key: &[u8], wanted: usize, attempts: u32) -> Vec<usize> {
    let mut attempt = 0;
    let mut places = Vec::with_capacity(wanted);
    for _ in 0..wanted {
        let node = next_on(ring, key, &places, &mut attempt, attempts);
        if !places.contains(&node) {
            places.push(node);
        }
    }
    places
}

/// The next node of a ring's failover sequence that is not `taken`.
pub(super) fn next_on(
    ring: &Ring,
    key: &[u8],
    taken: &[usize],
    attempt: &mut u32,
    attempts: u32,
) -> usize {
    loop {
        let member = ring.after(key, *attempt);
        *attempt += 1;
        if !taken.contains(&member) || *attempt >= attempts {
            return member;
        }
    }
}
