//! One call of the API: what is asked for, and after `Pool::run` what came of it.
//!
//! A call owns every byte of heap an operation needs and is used again for the next
//! one. So a PHP engine that jumps out of the middle of an operation (longjmp on a
//! memory limit) leaves one object behind that its owner can reset, and nothing leaks.

use crate::error::Error;
use crate::fanout::Lane;
use crate::item::{KeyRule, Span};
use crate::node::Change;
use crate::wire::{Reply, Store};

/// What to do with the keys of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Read values and flags.
    Get,
    /// Read values, flags and cas values.
    Gets,
    /// One of the storing commands.
    Store(Store),
    /// Remove.
    Delete,
    /// Add `delta` to a counter.
    Increment,
    /// Take `delta` from a counter, not below 0.
    Decrement,
    /// Set a new expiry.
    Touch,
    /// Read, and set a new expiry.
    GetAndTouch,
}

impl Verb {
    /// True for what only reads: it goes to one node, and may be asked again.
    pub fn is_read(self) -> bool {
        matches!(self, Verb::Get | Verb::Gets)
    }

    /// True when hits carry values.
    pub fn wants_values(self) -> bool {
        matches!(self, Verb::Get | Verb::Gets | Verb::GetAndTouch)
    }
}

/// What one key's request came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Outcome {
    /// No node could be asked, or the one asked did not answer.
    #[default]
    Lost,
    /// Stored, deleted or touched.
    Done,
    /// Refused because of what is stored (add, replace, append, prepend).
    NotStored,
    /// The item changed since its cas value was read.
    Exists,
    /// No such item.
    NotFound,
    /// A counter's new value.
    Number(u64),
    /// An item.
    Hit {
        /// Its flag bits.
        flags: u32,
        /// Its cas value, 0 unless asked for.
        cas: u64,
        /// Where its value lies; see [`Call::value`].
        value: ValueRef,
    },
    /// The node answered with an error; a matching [`Event`] has its words.
    Refused,
}

/// Where a received value lies, until the call is reset.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ValueRef {
    lane: u32,
    span: Span,
}

impl ValueRef {
    /// The last `len` bytes of it: without what stands before a value.
    pub(crate) fn without_head(self, len: usize) -> ValueRef {
        let head = self.span.len.saturating_sub(len);
        ValueRef {
            span: Span {
                at: self.span.at + head,
                len: self.span.len - head,
            },
            ..self
        }
    }
}

/// One key of a call: a cache line of it, since a get has hundreds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) key: Span,
    pub(crate) outcome: Option<Outcome>,
    /// Failover probes used so far.
    pub(crate) attempt: u32,
}

/// What a request says beside its key; a get has none of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Details {
    pub(crate) value: Span,
    /// Flag bits to store.
    pub flags: u32,
    /// Expiry as memcached takes it.
    pub ttl: u32,
    /// For `Store::Cas`.
    pub cas: u64,
    /// For `Increment` and `Decrement`.
    pub delta: u64,
    /// Where a missing counter begins; `None` leaves it missing.
    pub initial: Option<u64>,
}

impl Entry {
    /// Where the key lies with the blank before it, see [`Call::push`].
    pub(crate) fn key_and_blank(&self) -> Span {
        Span {
            at: self.key.at.saturating_sub(1),
            len: self.key.len + 1,
        }
    }
}

/// A failure or a refusal to tell the caller about.
#[derive(Clone, Debug)]
pub struct Event {
    /// Index of the node in its pool.
    pub node: usize,
    /// Its host as passed.
    pub host: String,
    /// Its port as passed.
    pub port: u16,
    /// Its UDP port as passed.
    pub udp_port: u16,
    /// True when the node is at fault (the failure callback's business), false when it
    /// answered and merely refused.
    pub fault: bool,
    /// What happened, in pecl-memcache's words where it has some.
    pub message: String,
    /// The number shown in parentheses.
    pub number: i32,
    /// The whole error, for logs.
    pub error: Error,
}

/// How far a call may go; read from the settings at each call, as pecl-memcache does.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Copies of each write, at least 1 (`memcache.redundancy`).
    pub copies: u32,
    /// May a failed request go to another node (`memcache.allow_failover`)?
    pub failover: bool,
    /// Failover probes at most (`memcache.max_failover_attempts`).
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Limits {
        // pecl-memcache's defaults (memcache.c PHP_INI).
        Limits {
            copies: 1,
            failover: true,
            attempts: 20,
        }
    }
}

/// One call: keys and values in, outcomes out.
#[derive(Debug, Default)]
pub struct Call {
    pub(crate) verb: Option<Verb>,
    /// How far it may go.
    pub limits: Limits,
    pub(crate) arena: Vec<u8>,
    pub(crate) entries: Vec<Entry>,
    /// As many as the last key that has some.
    details: Vec<Details>,
    pub(crate) events: Vec<Event>,
    /// Nodes that went down or came up during this call: name, which, and why.
    pub(crate) changes: Vec<(String, Change, Option<Error>)>,
    pub(crate) lanes: Vec<Lane>,
    pub(crate) used: usize,
    /// What each lane carries, in the order of its questions.
    pub(crate) jobs: Vec<Vec<Job>>,
    pub(crate) pending: Vec<Job>,
    /// For a get: the owner of each key, and the lane of each owner; see `pool/reads`.
    pub(crate) owners: Vec<usize>,
    pub(crate) lane_of_owner: Vec<Option<usize>>,
    /// Nodes that failed a request of this call: entry and node.
    pub(crate) tried: Vec<(usize, usize)>,
    /// What nodes of the list before said: entry and node; see `pool/moving`.
    pub(crate) before: Vec<(usize, usize, Outcome)>,
}

/// One request for one key at one node.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job {
    pub(crate) entry: usize,
    pub(crate) member: usize,
    pub(crate) part: Part,
    pub(crate) step: Step,
    /// Its answer came.
    pub(crate) done: bool,
}

/// Whose request a job is. Only the owner's fails over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// That of the node which has the key.
    Owner,
    /// A copy beside it.
    Copy,
    /// That of a node which had the key by the node list before.
    Before,
}

/// A counter with a start value is up to three requests in classic words, a script up to two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The command itself.
    Ask,
    /// The counter was missing: add it.
    Create,
    /// Once more: somebody else created the counter meanwhile, or a Redis did not know the script.
    Again,
}

/// More lanes than a call ever needs at once are not kept.
const LANES_KEEP: usize = 64;
/// A rare large call's arena is not kept, bytes.
const ARENA_KEEP: usize = 1 << 20;
/// Nor are its lists, entries.
const LIST_KEEP: usize = 4 << 10;

impl Call {
    /// An empty call.
    pub fn new() -> Call {
        Call::default()
    }

    /// Empties the call for another operation, keeping its buffers.
    pub fn reset(&mut self, verb: Verb) {
        self.verb = Some(verb);
        self.arena.clear();
        if self.arena.capacity() > ARENA_KEEP || self.entries.capacity() > LIST_KEEP {
            self.shrink();
        }
        self.entries.clear();
        self.details.clear();
        if !self.events.is_empty() || !self.changes.is_empty() {
            self.events.clear();
            self.changes.clear();
        }
        self.pending.clear();
        self.tried.clear();
        self.before.clear();
        self.let_go();
        self.used = 0;
        // A value that many counted at the same time took a lane for each turn.
        self.lanes.truncate(LANES_KEEP);
        self.jobs.truncate(LANES_KEEP);
    }

    /// Lets go of the nodes it went to: they live as long as whoever else has them.
    pub fn let_go(&mut self) {
        for lane in self.lanes.iter_mut().take(self.used) {
            lane.release();
        }
    }

    /// Gives back what only a rare large call needs.
    #[cold]
    fn shrink(&mut self) {
        self.arena = Vec::new();
        if self.entries.capacity() > LIST_KEEP {
            self.entries = Vec::new();
            self.details = Vec::new();
            self.jobs.iter_mut().for_each(|jobs| *jobs = Vec::new());
            self.pending = Vec::new();
            self.owners = Vec::new();
            self.tried = Vec::new();
        }
    }

    /// Adds `raw_key`; its index is the number of keys added before it.
    ///
    /// # Errors
    /// `Kind::Key` when the key is empty; the call is then unchanged.
    #[inline(always)] // twice in the extension: in the loop over a list's keys, and for one key
    pub fn push(&mut self, rule: &KeyRule, raw_key: &[u8]) -> Result<usize, Error> {
        // A blank before each key: so a get takes its keys from here as they go out.
        let start = self.arena.len();
        self.arena.push(b' ');
        let key = match rule.append(raw_key, &mut self.arena) {
            Ok(key) => key,
            Err(error) => {
                self.arena.truncate(start);
                return Err(error);
            }
        };
        self.entries.push(Entry {
            key,
            ..Entry::default()
        });
        Ok(self.entries.len() - 1)
    }

    /// The bytes the value of the key added last is appended to; [`Call::finish_value`] ends it.
    pub fn value_mut(&mut self) -> &mut Vec<u8> {
        &mut self.arena
    }

    /// Takes everything in [`Call::value_mut`] from `start` on as the value of the key added last.
    pub fn finish_value(&mut self, start: usize) {
        let len = self.arena.len().saturating_sub(start);
        let last = self.entries.len().saturating_sub(1);
        if let Some(details) = self.entry_mut(last) {
            details.value = Span { at: start, len };
        }
    }

    /// What one key's request says beside the key, to be filled in.
    pub fn entry_mut(&mut self, index: usize) -> Option<&mut Details> {
        if index >= self.entries.len() {
            return None;
        }
        if index >= self.details.len() {
            self.details.resize_with(index + 1, Details::default);
        }
        self.details.get_mut(index)
    }

    /// The same, to be read.
    pub(crate) fn details(&self, index: usize) -> Details {
        self.details.get(index).copied().unwrap_or_default()
    }

    /// Takes back the key added last, as when its value cannot be encoded.
    pub fn pop(&mut self) {
        if let Some(entry) = self.entries.pop() {
            self.details.truncate(self.entries.len());
            self.arena.truncate(entry.key_and_blank().at);
        }
    }

    /// What it is for, once it was reset for something.
    pub fn verb(&self) -> Option<Verb> {
        self.verb
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True when there is no key.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What became of key number `index`.
    #[inline]
    pub fn outcome(&self, index: usize) -> Outcome {
        self.entries
            .get(index)
            .and_then(|e| e.outcome)
            .unwrap_or_default()
    }

    /// The bytes of a hit.
    #[inline]
    pub fn value(&self, value: ValueRef) -> &[u8] {
        self.lanes.get(value.lane as usize).map_or_else(
            || value.span.of(&self.arena),
            |lane| value.span.of(lane.received()),
        )
    }

    /// What came of the keys, in their order, up to the first hit whose flags are not `plain`: the bytes of
    /// a value, or `None` where there is none.
    #[inline]
    pub fn plain(&self, plain: impl Fn(u32) -> bool) -> impl Iterator<Item = Option<&[u8]>> {
        self.entries
            .iter()
            .map_while(move |entry| match entry.outcome {
                Some(Outcome::Hit { flags, value, .. }) => {
                    plain(flags).then(|| Some(self.value(value)))
                }
                _ => Some(None),
            })
    }

    /// Keeps a value in the call itself, that lies in no answer.
    pub(crate) fn keep_value(&mut self, bytes: &[u8]) -> ValueRef {
        let at = self.arena.len();
        self.arena.extend_from_slice(bytes);
        let len = bytes.len();
        // There is no lane of that number, see `value`.
        ValueRef {
            lane: u32::MAX,
            span: Span { at, len },
        }
    }

    /// Key number `index` as it goes over the wire.
    pub fn wire_key(&self, index: usize) -> &[u8] {
        self.entries
            .get(index)
            .map(|e| e.key.of(&self.arena))
            .unwrap_or_default()
    }

    /// True when there is nothing to tell: neither a failure nor a change.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.events.is_empty() && self.changes.is_empty()
    }

    /// Failures and refusals, in the order they happened.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Nodes that changed during this call, as far as a mark reaches (the
    /// host, or this process): one line each for a log.
    pub fn changes(&self) -> impl Iterator<Item = String> {
        self.changes
            .iter()
            .map(|(node, change, error)| match (change, error) {
                (Change::Up, _) => format!("node {node} answers again"),
                (Change::Out, Some(error)) => format!(
                    "node {node} is out: {}. It is left alone until a probe finds it well",
                    error.cause()
                ),
                (Change::Out, None) => format!("node {node} is out: it answers no probe"),
                (Change::Down, Some(error)) => format!(
                    "node {node} is down: {} ({}). It is left alone for its retry interval",
                    error.cause(),
                    error.number()
                ),
                (Change::Down, None) => format!("node {node} is down"),
                (Change::Suspect, _) => format!(
                    "node {node} fell silent. Nobody waits for it until a probe has told whether it is well"
                ),
                (Change::Flaps, _) => format!(
                    "node {node} failed again soon after it came back; it is probed less often until it stays"
                ),
            })
    }

    /// The answers of one lane of an exchange, with the bytes they point into.
    pub(crate) fn answers(&self, lane: usize) -> (&[Reply], &[u8]) {
        self.lanes
            .get(lane)
            .map(|l| (l.answers.as_slice(), l.received()))
            .unwrap_or_default()
    }

    pub(crate) fn hit(lane: usize, span: Span) -> ValueRef {
        // More lanes than nodes there are not; the number is kept short for `Entry`'s sake.
        let lane = u32::try_from(lane).unwrap_or(u32::MAX);
        ValueRef { lane, span }
    }

    /// Sets a key's outcome, whatever it was.
    pub(crate) fn settle_anew(&mut self, index: usize, outcome: Outcome) {
        if let Some(entry) = self.entries.get_mut(index) {
            entry.outcome = Some(outcome);
        }
    }

    /// Merges one answer into a key's outcome: with several copies any refusal makes the
    /// whole a refusal, and any success outweighs silence (pecl-memcache mmc_stored_handler).
    pub(crate) fn settle(&mut self, index: usize, part: Part, new: Outcome) {
        let counts = matches!(self.verb, Some(Verb::Increment | Verb::Decrement));
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        entry.outcome = Some(match (entry.outcome, new) {
            (None | Some(Outcome::Lost), new) => new,
            (Some(old), Outcome::Lost) => old,
            // The owner's number is the one to show, whoever answered first: a copy counts on its own.
            (Some(_), new) if counts && part == Part::Owner => new,
            (Some(old), _) if counts => old,
            (Some(Outcome::Done), new) => new,
            (Some(old), _) => old,
        });
    }
}
