//! THE DOOR: nodes used together, and one call of the API run on them.
//!
//! ```text
//!   call ─► jobs (one key at one node) ─► lanes (one per node) ─► fanout ─► outcomes
//!              ▲                                                     │
//!              └──── failover: not sent, or harmless to repeat ◄─────┘
//! ```
//!
//! `single` mode is pecl-memcache's: the owner, copies on the nodes its failover
//! sequence names, reads from one node only.

mod cache;
mod change;
mod cluster;
pub mod commit;
mod confirm;
pub mod copies;
mod fenced;
mod hints;
mod lanes;
pub mod later;
mod moving;
mod places;
mod reads;
pub mod records;
mod redirect;
pub mod resync;
mod rings;
mod round;
pub mod route;
pub mod rules;
mod servers;
mod settle;
pub mod status;
mod swift;
pub mod transaction;
mod turn;
pub mod window;

pub(crate) use fenced::NOTE;

use crate::call::{Call, Event, Limits, Verb};
use crate::config::{Engine, Mode, NodeSpec, Policy, Protocol};
use crate::error::Error;
use crate::fanout;
use crate::node::{Directory, NodeRef};
use crate::request::{self, Meta, Words, refused};
use crate::ring::Ring;
use crate::shared;
use crate::transport;
use crate::wire::{Expect, classic};
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use swift::Swift;

/// Nodes used together under one policy.
#[derive(Debug, Default)]
pub struct Pool {
    policy: Policy,
    members: Vec<Member>,
    ring: Option<Ring>,
    /// Those of the policy's rules and of its backup, in that order; see `rings`.
    rings: Vec<rings::Part>,
    /// Nodes passed over for somebody else's mark, to be told of.
    skipped: Vec<usize>,
    /// How often anything had been kept for a node of this host when the call began.
    kept_before: u64,
    /// The node list before this one, while both are used.
    window: Option<Box<window::Window>>,
    /// Who has which slot, of a Redis Cluster.
    cluster: Option<Box<cluster::Hold>>,
    /// Nodes that the file has with `drain`, as they are shown.
    drained: Vec<String>,
    /// Something was said to another node of the cluster than the one it was meant for, since this was set to false.
    sent_on: bool,
    /// Does a write to some node wait for its replicas?
    waits: bool,
    /// The highest epoch of this pool that this thread knows to be committed.
    committed: Rc<Cell<u32>>,
    counts: Counts,
    rules: rules::Rules,
    /// Nodes are asked whatever their marks.
    patient: bool,
    transaction: Option<Box<transaction::Transaction>>,
}

/// What a pool that keeps copies of values did beside answering.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Copies that a read stored again.
    pub repairs: u64,
    /// Writes acknowledged with one copy only.
    pub alone: u64,
    /// Keys kept for a node that missed them.
    pub missed: u64,
    /// Missed keys that a node gave up when it was back.
    pub handed_over: u64,
    /// Nodes emptied because they missed more than could be kept, or a flush.
    pub emptied: u64,
}

/// What the caller said of a node's state: it holds for his object alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Declared {
    /// Nothing.
    No,
    /// Usable, whatever is known of it.
    Up,
    /// Not usable.
    Down,
}

/// A node as this pool uses it.
#[derive(Debug)]
struct Member {
    spec: NodeSpec,
    name: String,
    node: NodeRef,
    /// The first member with the same node, most often this one.
    twin: usize,
    /// What the caller said of it; ends with the next exchange, as in pecl.
    declared: Declared,
    /// The call that took the try which was due; of twins the first one's counts.
    claimed: Option<Instant>,
    /// The call that passed the node over.
    passed: Option<Instant>,
    /// The call in which it was not given what it missed, and so is not asked for anything.
    owed: Option<Instant>,
    /// Pool and node as one word, under which is kept what it missed.
    whose: u64,
    /// The call in which it did not say what it takes, and is not asked again.
    mute: Option<Instant>,
    /// This object knows that the node is failed; of twins the first one's counts.
    told: bool,
}

impl Pool {
    /// A pool without nodes.
    pub fn new(policy: Policy) -> Pool {
        Pool {
            policy,
            ..Pool::default()
        }
    }

    /// What holds for the whole pool.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// The same, to change prefix or tag before the next call.
    pub fn policy_mut(&mut self) -> &mut Policy {
        &mut self.policy
    }

    /// Adds a node without connecting to it; its index is the number of nodes before it.
    pub fn add(&mut self, spec: NodeSpec, directory: &mut Directory) -> usize {
        let spec = match self.policy.mode {
            Mode::Single => spec,
            _ => spec.copied(),
        };
        let protocol = self.policy.protocol;
        self.seed(|| directory.cluster(&spec, protocol));
        let node = directory.node(&spec, protocol);
        self.join(spec, node)
    }

    /// Adds a node that is only to be told of: what the directory does not know yet stays
    /// unknown to it.
    pub fn add_to_look(&mut self, spec: NodeSpec, directory: &Directory) -> usize {
        let protocol = self.policy.protocol;
        self.seed(|| directory.look_at_cluster(&spec, protocol));
        let node = directory.look(&spec, protocol);
        self.join(spec, node)
    }

    fn join(&mut self, spec: NodeSpec, node: NodeRef) -> usize {
        self.waits |= spec.redis.as_ref().is_some_and(|redis| redis.wait > 0);
        let twin = self
            .members
            .iter()
            .position(|m| Rc::ptr_eq(&m.node, &node))
            .unwrap_or(self.members.len());
        let name = spec.name();
        self.members.push(Member {
            twin,
            whose: hints::whose(&self.policy.name, spec.id.as_deref().unwrap_or(&name)),
            name,
            node,
            declared: if spec.status {
                Declared::No
            } else {
                Declared::Down
            },
            claimed: None,
            passed: None,
            owed: None,
            mute: None,
            told: false,
            spec,
        });
        self.ring = None;
        self.rings.clear();
        self.members.len() - 1
    }

    /// What it did beside answering, since it was made.
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True when no node was added.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The first node added with this host and port, as passed.
    pub fn node_at(&self, host: &str, port: u16) -> Option<usize> {
        self.members
            .iter()
            .position(|m| m.spec.host == host && m.spec.port == port)
    }

    /// "host:port" of a node as passed; empty when there is none of that index.
    pub fn name(&self, index: usize) -> &str {
        self.members.get(index).map_or("", |m| m.name.as_str())
    }

    /// What was asked for node `index`.
    pub fn spec(&self, index: usize) -> Option<&NodeSpec> {
        self.members.get(index).map(|m| &m.spec)
    }

    /// What kind of server node `index` is.
    pub(crate) fn engine(&self, index: usize) -> Engine {
        self.spec(index).map_or(Engine::default(), NodeSpec::engine)
    }

    /// What its servers are, for a sentence about them.
    pub(crate) fn servers(&self) -> &'static str {
        let redis = self.members.iter().filter(|m| m.spec.redis.is_some());
        match redis.count() {
            0 => "memcached",
            count if count == self.members.len() => "Redis",
            _ => "each server",
        }
    }

    /// False when the node failed last time or was declared down.
    pub fn is_up(&self, index: usize) -> bool {
        self.members.get(index).is_some_and(|m| match m.declared {
            Declared::Down => false,
            Declared::Up => true,
            Declared::No => m.node.borrow().health.is_up(shared::now()),
        })
    }

    /// Changes a node's limits and declares it up or down.
    pub fn set_params(&mut self, index: usize, limit: Duration, retry_interval: i64, status: bool) {
        if let Some(member) = self.members.get_mut(index) {
            member.spec.connect_timeout = limit;
            member.spec.op_timeout = limit;
            member.spec.retry_interval = retry_interval;
            member.declared = if status { Declared::Up } else { Declared::Down };
        }
    }

    /// Closes the connections that do not outlive the request.
    pub fn close(&mut self) {
        for member in self.members.iter().filter(|m| !m.spec.persistent) {
            member.node.borrow_mut().close();
        }
    }

    /// The node a call for the wire key `key` would go to: its owner, or the next usable one.
    pub fn find(&mut self, key: &[u8], limits: &Limits) -> usize {
        self.find_masters();
        self.walk(key, limits, |pool, index| pool.seems_usable(index))
            .0
    }

    /// Opens a connection to node `index` now, whatever its health; false and an event when
    /// that fails.
    pub fn connect(&mut self, index: usize, call: &mut Call) -> bool {
        call.reset(Verb::Get);
        let first = call.used;
        if self.is_cluster() {
            // Who has the slots is what makes a connection to a cluster.
            self.prepare(call);
            return self.has_table();
        }
        // No question: being open is all that is asked, as pecl-memcache sends nothing here.
        if self.lane(call, first, index).is_none() {
            return false;
        }
        fanout::run(
            call.lanes.get_mut(first..call.used).unwrap_or_default(),
            &[],
        );
        self.note(call, first)
    }

    /// Runs the call: each key's outcome stands in it afterwards, and an event for each
    /// node that failed or refused.
    pub fn run(&mut self, call: &mut Call) {
        let Some(verb) = call.verb else { return };
        if self.members.is_empty() {
            return;
        }
        let now = transport::now();
        match self.policy.mode {
            Mode::Single if self.transaction.is_some() => self.run_watched(call, verb, now),
            Mode::Single if self.has_window() => self.run_moving(call, verb, now),
            Mode::Single if self.policy.rules.is_empty() => self.run_plain(call, verb, now),
            Mode::Fenced => self.run_fenced(call, verb),
            _ if self.is_plain(call) => self.run_plain(call, verb, now),
            _ => self.run_copied(call, verb, now),
        }
    }

    /// Runs a call on the owner of each key, and on pecl's copies.
    fn run_plain(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        if self.is_cluster() {
            self.prepare(call);
        }
        match self.swift(call, verb, now) {
            Swift::Done => {}
            Swift::Odd => {
                if self.is_cluster() {
                    self.redirect(call, 0);
                }
                self.settle_round(call, 0, verb, now);
            }
            Swift::No => self.run_long(call, verb, now),
        }
    }

    /// The long way: any number of keys, nodes and rounds.
    fn run_long(&mut self, call: &mut Call, verb: Verb, now: Instant) {
        self.renew(call);
        let first = call.used;
        if verb.is_read() && self.policy.protocol == Protocol::Ascii && !self.is_cluster() {
            self.load_reads(call, verb, now);
        } else {
            self.schedule(call, verb, now);
            self.load(call, verb);
        }
        self.tell_skipped(call);
        if first < call.used {
            self.carry(call, first);
            self.settle_round(call, first, verb, now);
        }
    }

    /// Settles the lanes from `first` on, and runs what is to be asked of other nodes, until
    /// nothing is.
    fn settle_round(&mut self, call: &mut Call, first: usize, verb: Verb, now: Instant) {
        let mut first = first;
        loop {
            let last = call.used;
            self.know_failed(call, first);
            for lane in first..last {
                self.settle(call, lane, verb, now);
            }
            first = last;
            self.tell_skipped(call);
            if call.pending.is_empty() {
                break;
            }
            self.load(call, verb);
            self.carry(call, first);
        }
    }

    /// May node `index` be asked now, or is it left alone for its retry interval? True means
    /// that the try which was due is the caller's, who must make it.
    pub fn may_ask(&mut self, index: usize) -> bool {
        self.allows(index, transport::now())
    }

    /// One question to one node, whatever its health; the lane that has the answer.
    fn ask(
        &mut self,
        index: usize,
        call: &mut Call,
        expect: Expect,
        say: impl FnOnce(&mut Vec<u8>),
    ) -> Option<usize> {
        self.exchange(index, call, |out, asks| {
            say(out);
            asks.push(expect);
        })
    }

    /// A pipeline of questions to node `index`, whatever its health; the lane that has the
    /// answers, or `None` and an event. It is asked again on a connection found closed, so
    /// it may hold only what can be repeated.
    pub(crate) fn exchange(
        &mut self,
        index: usize,
        call: &mut Call,
        say: impl FnOnce(&mut Vec<u8>, &mut Vec<Expect>),
    ) -> Option<usize> {
        self.exchange_lane(index, call, |lane| say(&mut lane.out, &mut lane.asks))
    }

    /// The same, said in the words of the node's engine.
    pub(crate) fn exchange_lane(
        &mut self,
        index: usize,
        call: &mut Call,
        say: impl FnOnce(&mut fanout::Lane),
    ) -> Option<usize> {
        let first = call.used;
        let lane = self.lane(call, first, index)?;
        say(lane);
        lane.repeatable = true;
        self.carry(call, first);
        self.note(call, first).then_some(first)
    }

    /// The same pipeline to several nodes at the same time, asked only once; each lane that
    /// was answered, with the node it belongs to. What was not becomes an event.
    pub(crate) fn exchange_all(
        &mut self,
        nodes: &[usize],
        call: &mut Call,
        say: impl Fn(&mut Vec<u8>, &mut Vec<Expect>),
    ) -> Vec<(usize, usize)> {
        self.exchange_lanes(nodes, call, |lane| say(&mut lane.out, &mut lane.asks))
    }

    /// The same, said in the words of each node's engine.
    pub(crate) fn exchange_lanes(
        &mut self,
        nodes: &[usize],
        call: &mut Call,
        say: impl Fn(&mut fanout::Lane),
    ) -> Vec<(usize, usize)> {
        let first = call.used;
        for index in nodes {
            // A server listed twice has one connection, and is asked once.
            if let Some(lane) = self.lane(call, first, *index)
                && lane.asks.is_empty()
            {
                say(lane);
            }
        }
        self.carry(call, first);
        (first..call.used)
            .filter_map(|lane| {
                let node = call.lanes.get(lane)?.member;
                self.note(call, lane).then_some((node, lane))
            })
            .collect()
    }

    /// Turns a lane's failure and its refusals into events; true when it was answered.
    fn note(&mut self, call: &mut Call, lane: usize) -> bool {
        let Some(lane) = call.lanes.get_mut(lane) else {
            return false;
        };
        let index = lane.member;
        let Some(member) = self.members.get_mut(index) else {
            return false;
        };
        // A hundred values need not be looked through for a line that is rarely there.
        let answers = lane.answers.iter().filter(|_| lane.refused);
        for reply in answers {
            if let Some(line) = reply.refusal() {
                let error = refused(line.of(lane.received()));
                let told = |event: &Event| event.node == index && event.message == error.cause();
                if lane.apart && call.events.iter().any(told) {
                    // A hundred keys of a slot that nobody has are one thing to tell.
                    continue;
                }
                if lane.stores && lane.engine == Engine::Memcached {
                    // A refused value may still be in the stream, to be read as commands.
                    member.node.borrow_mut().close();
                }
                call.events.push(event(index, member, error));
            }
        }
        if let Some(change) = member.node.borrow_mut().take_change() {
            let change = change.told(member.spec.care);
            call.changes
                .push((member.name.clone(), change, lane.error.clone()));
        }
        member.declared = Declared::No;
        let (twin, failed) = (member.twin, lane.error.is_some());
        if let Some(error) = lane.error.take() {
            call.events.push(event(index, member, error));
        }
        if let Some(first) = self.members.get_mut(twin) {
            first.told = failed;
        }
        !failed
    }

    /// Makes lanes of the pending jobs.
    fn load(&mut self, call: &mut Call, verb: Verb) {
        let first = call.used;
        let mut pending = std::mem::take(&mut call.pending);
        let alone = pending.len() == 1;
        for mut job in pending.drain(..) {
            if self.is_cluster() {
                // What is said once more is said where a redirect led to.
                job.member = self.ring().owner(call.wire_key(job.entry));
            }
            let Some(index) = self.lane_index(call, first, job.member) else {
                continue;
            };
            let meta = self.meta(job.member);
            let details = call.details(job.entry);
            let Some(entry) = call.entries.get(job.entry) else {
                continue;
            };
            let (Some(lane), Some(jobs)) = (call.lanes.get_mut(index), call.jobs.get_mut(index))
            else {
                continue;
            };
            if meta == Meta::Unknown && jobs.is_empty() && lane.engine == Engine::Memcached {
                // The probe rides in front of the first request, which is said in classic words.
                classic::version(&mut lane.out);
                lane.asks.push(Expect::Version);
            }
            lane.repeatable = verb.is_read();
            let opaque = jobs.len() as u64;
            let words = Words {
                verb,
                step: job.step,
                meta: meta == Meta::Yes,
                opaque,
                alone,
            };
            words.say(lane, &call.arena, entry.key, &details);
            jobs.push(job);
        }
        call.pending = pending;
        for lane in call.lanes.get_mut(first..call.used).unwrap_or_default() {
            if verb.is_read() {
                end_gets(lane, &call.arena, verb);
            }
        }
    }

    fn meta(&self, index: usize) -> Meta {
        let speaks = self
            .members
            .get(index)
            .and_then(|m| m.node.borrow().speaks_meta);
        match (self.policy.protocol, speaks) {
            (Protocol::Ascii, _) | (Protocol::Binary, Some(false)) => Meta::No,
            (Protocol::Binary, Some(true)) => Meta::Yes,
            (Protocol::Binary, None) => Meta::Unknown,
        }
    }
}

/// Ends what asks for values, now that all keys of the lane are known.
fn end_gets(lane: &mut fanout::Lane, arena: &[u8], verb: Verb) {
    if lane.engine == Engine::Redis {
        if !lane.apart {
            request::redis::ask_all(lane, arena, verb);
        }
    } else if lane.asks.last() == Some(&Expect::Values) {
        classic::end(&mut lane.out);
    }
}

fn event(index: usize, member: &Member, error: Error) -> Event {
    Event {
        node: index,
        host: member.spec.host.clone(),
        port: member.spec.port,
        udp_port: member.spec.udp_port,
        fault: error.kind().is_node_fault(),
        message: error.cause().to_owned(),
        number: error.number(),
        error: error.at(&member.name),
    }
}
