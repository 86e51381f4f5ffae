//! watch(), multi(), exec() and discard(): Redis' transaction, for keys of one node.
//!
//! ```text
//!   watch a, b ──► WATCH a b            a connection of its own, that nothing else uses
//!   get a      ──► GET a                as ever, over the pool's connection
//!   multi
//!   set a, incr b                       kept here; nothing is sent
//!   exec       ──► MULTI                one trip to know that they will wait,
//!              ──► SET … EVAL … EXEC    and one for all of it, or nothing where a or b changed
//! ```
//! The connection belongs to the object that asked for it, and is closed with it: no other
//! call, object or request can get into its queue, and a server that loses it drops what it
//! watched and what waited. Where it was lost between watch() and exec() nothing is sent, since
//! a new one watches nothing. Scripts are said in full: one that a server did not know would fail
//! alone, in the middle of the others.
//!
//! A get between watch() and multi() is answered by the node that watches, or by nobody: what another node has of a
//! key is another value, and no change of it is seen. Where that node did not answer, exec() does nothing.
//!
//! In a Redis Cluster all keys are in one slot. A slot that moves takes its keys from the node that watches them, which counts
//! as a change, what is queued there for keys that are gone is refused, and what was read elsewhere meanwhile counts as not
//! read, so that exec() does nothing: who was sent elsewhere before anything was watched asks there once, and all others begin anew.

use super::redirect::too_few;
use super::{Pool, event};
use crate::call::{Call, Entry, Outcome, Step, Verb};
use crate::config::{Engine, Mode};
use crate::error::{Error, Kind};
use crate::fanout::{self, Lane};
use crate::node::{Node, NodeRef};
use crate::request::{Words, refused};
use crate::transport;
use crate::wire::redis::cluster::{self, Redirect};
use crate::wire::redis::{self, Shape, answer};
use crate::wire::{Expect, Reply};
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Instant;

/// What became of a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was carried out; the call has an outcome for each command.
    Done,
    /// A watched key was changed by somebody: nothing was done.
    Changed,
    /// The node refused it, or was not told of it: nothing was done, and the call has an event.
    Failed,
    /// The node was told to carry it out, and did not say whether it did: the call has an event.
    Unknown,
}

/// A transaction from watch() or multi() to exec() or discard(), and its connection.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// The node's connection, kept from one transaction to the next.
    connection: Option<(usize, NodeRef)>,
    /// The node of its keys, and the first of them.
    place: Option<(usize, Vec<u8>)>,
    watches: bool,
    /// A read since watch() that its node did not answer: what follows was not made of what is watched.
    unread: Option<Box<str>>,
    /// What waits since multi().
    queue: Option<Lane>,
}

impl Pool {
    /// Has the node of the call's keys watch them: exec() does nothing when one of them changes
    /// before. False, with an event, when it was not done; nothing is watched then.
    ///
    /// # Errors
    /// `Kind::Config`: multi() was said already, the keys are on several nodes, or on one that
    /// has no transactions; what was watched before still is.
    pub fn watch(&mut self, call: &mut Call) -> Result<bool, Error> {
        if self.collects() {
            return Err(misplaced("watch() comes before multi()"));
        }
        let place = self.place_of(call)?;
        let keys: Vec<Vec<u8>> = (0..call.len()).map(|n| call.wire_key(n).to_vec()).collect();
        let transaction = self.transaction.get_or_insert_default();
        transaction.place = Some(place);
        let pinned = transaction.watches;
        transaction.watches = true;
        let ask = |pool: &mut Pool, call: &mut Call| {
            let lane = pool.converse(call, |lane| {
                (lane.pinned, lane.repeatable) = (pinned, !pinned);
                lane.ask_redis(|out| redis::watch(out, keys.iter().map(Vec::as_slice)));
            });
            lane.is_some_and(|lane| call.answers(lane).0 == [Reply::Done])
        };
        let (first, told) = (call.used, call.events.len());
        let mut done = ask(self, call);
        if !done && self.was_sent_elsewhere(call, first) {
            call.events.truncate(told);
            let second = call.used;
            let goes = !pinned && self.go_after(call);
            done = goes && ask(self, call);
            if !goes || (!done && self.was_sent_elsewhere(call, second)) {
                call.events.truncate(told);
                self.tell_elsewhere(call);
            }
        }
        if !done {
            self.transaction = None;
        }
        Ok(done)
    }

    /// Runs a call outside of multi(): what is read of the node that watches is read of no other.
    pub(super) fn run_watched(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        let open = self.transaction.as_ref().filter(|open| open.watches);
        let place = open.and_then(|open| open.place.clone());
        let mut watched = Vec::new();
        if let (Some((node, first)), true) = (place, verb.wants_values()) {
            let slot = self.slot(&first);
            for entry in 0..call.len() {
                let key = call.wire_key(entry);
                let is_there = match slot {
                    Some(_) => self.slot(key) == slot,
                    None => self.ring().owner(key) == node,
                };
                if is_there {
                    watched.push(entry);
                }
            }
        }
        self.sent_on = false;
        let failover = call.limits.failover;
        call.limits.failover &= watched.is_empty();
        match self.has_window() {
            true => self.run_moving(call, verb, now),
            false => self.run_plain(call, verb, now),
        }
        call.limits.failover = failover;
        // What the node of a cluster sent on was answered by one that watches nothing.
        let elsewhere = self.sent_on;
        let unread = watched.into_iter().find(|entry| {
            let outcome = call.outcome(*entry);
            elsewhere || !matches!(outcome, Outcome::Hit { .. } | Outcome::NotFound)
        });
        if let (Some(entry), Some(open)) = (unread, &mut self.transaction) {
            open.unread = Some(String::from_utf8_lossy(call.wire_key(entry)).into());
        }
    }

    /// From now on calls wait for exec().
    ///
    /// # Errors
    /// `Kind::Config`: they do already, or this pool has no transactions.
    pub fn multi(&mut self) -> Result<(), Error> {
        if self.collects() {
            return Err(misplaced("multi() inside of multi()"));
        }
        self.has_transactions()?;
        let mut queue = Lane::default();
        queue.engine = Engine::Redis;
        self.transaction.get_or_insert_default().queue = Some(queue);
        Ok(())
    }

    /// Do calls wait for exec()?
    pub fn collects(&self) -> bool {
        let transaction = self.transaction.as_ref();
        transaction.is_some_and(|transaction| transaction.queue.is_some())
    }

    /// Puts the call's commands behind those that wait: all of them, or none.
    ///
    /// # Errors
    /// `Kind::Config`: it reads, or its keys are not on the transaction's node.
    pub fn collect(&mut self, call: &mut Call) -> Result<(), Error> {
        let Some(verb) = call.verb else {
            return Ok(());
        };
        if verb.wants_values() {
            return Err(misplaced("a value cannot be read inside of multi()")
                .hint("Read it before, after watch(): exec() does nothing when it changed"));
        }
        if call.is_empty() {
            return Ok(());
        }
        let place = self.place_of(call)?;
        let Some(transaction) = &mut self.transaction else {
            return Ok(());
        };
        transaction.place = Some(place);
        let Some(queue) = &mut transaction.queue else {
            return Ok(());
        };
        for (number, entry) in call.entries.iter().enumerate() {
            let words = Words {
                verb,
                step: Step::Again,
                meta: false,
                opaque: 0,
                alone: false,
            };
            words.say(queue, &call.arena, entry.key, &call.details(number));
        }
        Ok(())
    }

    /// Carries out what waits, in one piece.
    ///
    /// # Errors
    /// `Kind::Config`: multi() was not said.
    pub fn exec(&mut self, call: &mut Call) -> Result<Ended, Error> {
        let Some(queue) = self.transaction.as_mut().and_then(|t| t.queue.take()) else {
            return Err(misplaced("exec() without multi()"));
        };
        let shapes: Vec<Shape> = queue.asks.iter().filter_map(shape_of).collect();
        if self.is_unread(call) {
            self.transaction = None;
            return Ok(Ended::Failed);
        }
        let pinned = self.transaction.as_ref().is_some_and(|t| t.watches);
        if !pinned && shapes.is_empty() {
            self.transaction = None;
            return Ok(Ended::Done);
        }
        let (first, told) = (call.used, call.events.len());
        let mut ended = self.carry_out(call, &queue, &shapes, pinned);
        if ended == Ended::Failed && self.was_sent_elsewhere(call, first) {
            call.events.truncate(told);
            let second = call.used;
            let goes = !pinned && self.go_after(call);
            if goes {
                ended = self.carry_out(call, &queue, &shapes, pinned);
            }
            if !goes || (ended == Ended::Failed && self.was_sent_elsewhere(call, second)) {
                call.events.truncate(told);
                self.tell_elsewhere(call);
            }
        }
        match (ended, &mut self.transaction) {
            // Nothing is watched any more, and the connection is as good as new.
            (Ended::Done | Ended::Changed, Some(kept)) => {
                (kept.place, kept.watches, kept.unread) = (None, false, None);
            }
            (_, kept) => *kept = None,
        }
        Ok(ended)
    }

    /// Says what waits to its node, in two trips; what became of it.
    fn carry_out(
        &mut self,
        call: &mut Call,
        queue: &Lane,
        shapes: &[Shape],
        pinned: bool,
    ) -> Ended {
        // Behind a MULTI that was refused, as by an access list, they would be carried out one by one.
        let begun = self.converse(call, |lane| {
            (lane.pinned, lane.repeatable, lane.stores) = (pinned, !pinned, queue.stores);
            lane.ask_redis(redis::multi);
        });
        let begun = begun.filter(|lane| call.answers(*lane).0 == [Reply::Done]);
        let first = call.used;
        let lane = begun.and_then(|_| {
            self.converse(call, |lane| {
                lane.pinned = true;
                lane.out.extend_from_slice(&queue.out);
                let waits = shapes.iter().map(|_| Expect::Redis(Shape::Greeting));
                lane.asks.extend(waits);
                lane.ask_redis(redis::exec);
            })
        });
        let mut said = call.lanes.get(first..call.used).unwrap_or_default().iter();
        let ended = match lane {
            Some(lane) => self.outcomes(call, lane, shapes),
            None if said.any(Lane::was_sent) => Ended::Unknown,
            None => Ended::Failed,
        };
        match ended {
            Ended::Done if has_changed(call) && !self.lasts(call) => Ended::Unknown,
            ended => ended,
        }
    }

    /// Do as many replicas have what was carried out as the pool asks for? If not, the call has an event.
    fn lasts(&mut self, call: &mut Call) -> bool {
        let place = self.transaction.as_ref().and_then(|t| t.place.as_ref());
        let member = place.map_or(0, |(member, _)| *member);
        let wanted = self.replicas_wanted(member);
        if wanted == 0 {
            return true;
        }
        let limit = self.wait_limit(member);
        let lane = self.converse(call, |lane| {
            lane.pinned = true;
            lane.ask_redis(|out| cluster::wait(out, wanted, limit));
        });
        let Some(lane) = lane else { return false };
        let had = match call.answers(lane).0 {
            [Reply::Number(had)] => *had,
            // The server's own words stand in an event.
            _ => return false,
        };
        if had < u64::from(wanted)
            && let Some(node) = self.members.get(member)
        {
            let line = too_few(had, wanted, limit);
            let error = refused(line.as_bytes());
            call.events.push(event(member, node, error));
            return false;
        }
        true
    }

    /// Did a node of a cluster say, in the lanes from `first` on, that the keys are elsewhere? Notes where.
    fn was_sent_elsewhere(&self, call: &Call, first: usize) -> bool {
        let mut sent = false;
        let lanes = call.lanes.get(first..call.used).unwrap_or_default();
        for lane in lanes
            .iter()
            .filter(|lane| self.is_cluster() && lane.refused)
        {
            let refusals = lane.answers.iter().filter_map(|reply| reply.refusal());
            for line in refusals.map(|line| line.of(lane.received())) {
                let Some(found) = cluster::redirect(line) else {
                    continue;
                };
                sent = true;
                if let Redirect::Moved { slot, host, port } = found {
                    self.slot_moved(slot, &self.host_or(host, lane.member), port);
                }
            }
        }
        sent
    }

    /// Goes to who has the slot of the transaction now; true when it is another node than before. What the node itself
    /// said of it counts: who is asked for the whole table may not have heard of it yet.
    fn go_after(&mut self, call: &mut Call) -> bool {
        self.adopt();
        if !self.has_table() {
            self.renew(call);
        }
        let place = self.transaction.as_ref().and_then(|t| t.place.clone());
        let Some((before, key)) = place else {
            return false;
        };
        let node = self.ring().owner(&key);
        if let Some(transaction) = &mut self.transaction {
            transaction.place = Some((node, key));
        }
        node != before
    }

    /// Says that a slot moves, in the place of the node's own words.
    fn tell_elsewhere(&self, call: &mut Call) {
        let open = self.transaction.as_ref();
        let place = open.and_then(|open| open.place.as_ref());
        if let Some((node, key)) = place
            && let Some(member) = self.members.get(*node)
        {
            let slot = self.slot(key).unwrap_or_default();
            let cause = format!(
                "nothing was done: slot {slot} moves to another node of the cluster, with the keys of the transaction. Begin again"
            );
            let error = Error::new(Kind::Server, cause);
            call.events.push(event(*node, member, error));
        }
    }

    /// Was a key read that its node did not answer for? Then the call has an event that says so.
    fn is_unread(&self, call: &mut Call) -> bool {
        let open = self.transaction.as_ref();
        let found = open.and_then(|open| Some((open.unread.as_ref()?, open.place.as_ref()?)));
        let Some((key, (node, _))) = found else {
            return false;
        };
        if let Some(member) = self.members.get(*node) {
            let cause = format!(
                "nothing was done: key \"{key}\" was read after watch(), and the node did not answer. Begin again with watch()"
            );
            let error = Error::new(Kind::Client, cause);
            call.events.push(event(*node, member, error));
        }
        true
    }

    /// Forgets what is watched and what waits.
    ///
    /// # Errors
    /// `Kind::Config`: there is nothing of either.
    pub fn discard(&mut self) -> Result<(), Error> {
        let open = self.transaction.as_ref();
        if !open.is_some_and(|open| open.watches || open.queue.is_some()) {
            return Err(misplaced("discard() without watch() or multi()"));
        }
        // Its connection goes with it, and with that what the server watched.
        self.transaction = None;
        Ok(())
    }

    /// Has this pool transactions at all?
    fn has_transactions(&self) -> Result<(), Error> {
        let policy = &self.policy;
        if policy.mode != Mode::Single || !policy.rules.is_empty() || policy.backup > 0 {
            return Err(Error::new(
                Kind::Config,
                "a transaction is one node's, and this pool keeps copies or has rules for prefixes",
            )
            .hint("Use a pool of mode single without them"));
        }
        Ok(())
    }

    /// The node of the transaction with the call's keys in it, and its first key.
    fn place_of(&mut self, call: &mut Call) -> Result<(usize, Vec<u8>), Error> {
        self.has_transactions()?;
        self.renew(call);
        if call.limits.copies > 1 && !self.is_cluster() {
            return Err(Error::new(
                Kind::Config,
                "a transaction is one node's, and memcache.redundancy keeps copies",
            )
            .hint("Set memcache.redundancy = 1"));
        }
        let mut place = self.transaction.as_ref().and_then(|t| t.place.clone());
        for number in 0..call.len() {
            let key = call.wire_key(number);
            if let Some(before) = self.owner_before(key) {
                return Err(Error::new(
                    Kind::Config,
                    format!(
                        "key \"{}\" moves from {} to another node, and may be on either",
                        String::from_utf8_lossy(key),
                        self.name(before)
                    ),
                )
                .hint("Use cas() as long as the pool file has previous_nodes"));
            }
            let node = self.ring().owner(key);
            match &place {
                None => place = Some((node, key.to_vec())),
                Some((_, first)) if self.slot(first) != self.slot(key) => {
                    return Err(Error::new(
                        Kind::Config,
                        format!(
                            "in a cluster a transaction is one slot's: key \"{}\" is in slot {}, and \"{}\" in {}",
                            String::from_utf8_lossy(first),
                            self.slot(first).unwrap_or_default(),
                            String::from_utf8_lossy(key),
                            self.slot(key).unwrap_or_default(),
                        ),
                    )
                    .hint("Write the same {…} into both keys"));
                }
                // Where the slot has moved since, its node says so.
                Some(_) if self.is_cluster() => {}
                Some((other, first)) if *other != node => {
                    return Err(Error::new(
                        Kind::Config,
                        format!(
                            "a transaction is one node's: key \"{}\" is on {}, and \"{}\" on {}",
                            String::from_utf8_lossy(first),
                            self.name(*other),
                            String::from_utf8_lossy(key),
                            self.name(node)
                        ),
                    )
                    .hint("Write tag = \"{}\" into a pool of the file, and the same {…} into both keys"));
                }
                Some(_) => {}
            }
        }
        let (node, key) = place.ok_or_else(|| misplaced("watch() names no key"))?;
        if self.engine(node) != Engine::Redis {
            return Err(Error::new(
                Kind::Config,
                format!(
                    "{} is a memcached, which has no transactions",
                    self.name(node)
                ),
            )
            .hint("Use cas() there, or name Redis nodes: redis://HOST"));
        }
        Ok((node, key))
    }

    /// One exchange on the transaction's connection; the lane that has the answers, or `None`
    /// and an event.
    fn converse(&mut self, call: &mut Call, say: impl FnOnce(&mut Lane)) -> Option<usize> {
        let transaction = self.transaction.as_mut()?;
        let (member, _) = transaction.place.as_ref()?;
        let member = *member;
        let spec = self.members.get(member).map(|member| &member.spec)?;
        let node = match &transaction.connection {
            Some((of, node)) if *of == member => Rc::clone(node),
            _ => {
                let mut node = Node::new(spec);
                node.stays = true;
                Rc::new(RefCell::new(node))
            }
        };
        transaction.connection = Some((member, Rc::clone(&node)));
        let (connect, limit) = (spec.connect_timeout, spec.op_timeout);
        // A node that is left alone is not waited for here, either.
        if !self.allows(member, transport::now()) {
            self.tell_skipped(call);
            if let (true, Some(node)) = (call.events.is_empty(), self.members.get(member)) {
                // Who is not told would take it for a change of a key, and try again for ever.
                let cause = node.node.borrow().health.cause();
                call.events.push(event(member, node, cause));
            }
            return None;
        }
        let first = call.used;
        let lane = self.lane(call, first, member)?;
        lane.reset(node, member, connect, limit);
        lane.engine = Engine::Redis;
        say(lane);
        fanout::run(
            call.lanes.get_mut(first..call.used).unwrap_or_default(),
            &[],
        );
        self.note(call, first).then_some(first)
    }

    /// Makes outcomes of the answers to a transaction.
    fn outcomes(&mut self, call: &mut Call, lane: usize, shapes: &[Shape]) -> Ended {
        let (answers, bytes) = call.answers(lane);
        let list = match answers.last() {
            Some(Reply::NotFound) => return Ended::Changed,
            Some(Reply::List(list)) => *list,
            // What was refused stands in an event.
            _ => return Ended::Failed,
        };
        let Some(replies) = answer::each(bytes, list, shapes) else {
            return Ended::Unknown;
        };
        let mut refusals = Vec::new();
        let mut entries = Vec::with_capacity(replies.len());
        for reply in replies {
            let outcome = match reply {
                Reply::Done => Outcome::Done,
                Reply::Number(number) => Outcome::Number(number),
                Reply::NotStored => Outcome::NotStored,
                Reply::Exists => Outcome::Exists,
                Reply::NotFound => Outcome::NotFound,
                other => {
                    let line = other.refusal().map(|line| line.of(bytes));
                    refusals.push(refused(line.unwrap_or_default()));
                    Outcome::Refused
                }
            };
            entries.push(Entry {
                outcome: Some(outcome),
                ..Entry::default()
            });
        }
        let member = call.lanes.get(lane).map_or(0, |lane| lane.member);
        if let Some(node) = self.members.get(member) {
            let events = refusals.into_iter().map(|error| event(member, node, error));
            call.events.extend(events);
        }
        call.entries = entries;
        Ended::Done
    }
}

/// Did any of its commands change something, as far as their outcomes tell?
fn has_changed(call: &Call) -> bool {
    let mut outcomes = (0..call.len()).map(|entry| call.outcome(entry));
    outcomes.any(|outcome| matches!(outcome, Outcome::Done | Outcome::Number(_)))
}

fn shape_of(expect: &Expect) -> Option<Shape> {
    match expect {
        Expect::Redis(shape) => Some(*shape),
        _ => None,
    }
}

fn misplaced(what: &'static str) -> Error {
    Error::new(Kind::Config, what)
}
