//! WAITING: many nodes, one deadline each, all at the same time. The only place that waits.
//!
//! A [`Lane`] is one node's share of a call: bytes to send, questions in order, answers
//! as they come. Lanes on open connections take the short way of two system calls each
//! (send, receive under SO_RCVTIMEO); everything else goes through one poll loop.
//!
//! ```text
//!   open ──► greeting ──► sending ──► receiving ──► done
//!     │          │           │           │
//!     └──────────┴───────────┴───────────┴──► failed: error, `sent` says whether bytes went out
//! ```
//!
//! Each lane's limit counts from the moment its request begins to go out, and does not
//! move when bytes trickle in or out. Before that the connect has one limit for all
//! addresses of a name, each of which gets its share of what is left. One exception: while the short way waits for a node that
//! then proves hung, nobody listens to the others, so who is in mid-answer by then has his
//! limit anew.

mod again;
mod answers;
mod greeting;
mod quick;

pub use quick::run_alone;

use crate::config::Engine;
use crate::error::{Error, Kind};
use crate::item::Span;
use crate::node::{self, NodeRef, Open};
use crate::transport::{self, Wish};
use crate::wire::redis::{self, Shape, answer};
use crate::wire::{Expect, Reply, classic};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::io::IoSlice;
use std::time::{Duration, Instant};

/// First size of a read buffer, bytes: most answers fit into one receive.
const READ_FIRST: usize = 16 << 10;
/// A read buffer larger than this is given back after the call, bytes.
const READ_KEEP: usize = 1 << 20;
/// Lists of a get of more keys than this are given back, too.
const KEYS_KEEP: usize = 4 << 10;
/// What one step of growth trusts an announced length for, bytes. A hostile server
/// announces gigabytes; memory follows only what really arrived.
const READ_TRUST: usize = 4 << 20;
/// After this long the answers of further nodes are waited for with the clock in sight.
const SWIFT: Duration = Duration::from_millis(1);
/// A pipeline up to this size cannot fill both directions of a connection, bytes.
const QUICK_PIPELINE: usize = 16 << 10;
/// Lists with room for more than this are given back after the call, entries.
const LIST_KEEP: usize = 4 << 10;

/// One node's share of a call.
#[derive(Debug, Default)]
pub struct Lane {
    node: Option<NodeRef>,
    /// Index of the node in its pool.
    pub member: usize,
    /// What kind of server it is.
    pub engine: Engine,
    /// Request bytes, made by `wire`.
    pub out: Vec<u8>,
    /// A value in the call's arena, sent after `out` and before a final CR LF; empty for none.
    pub tail: Span,
    /// The shapes of the answers, in order.
    pub asks: Vec<Expect>,
    /// May the whole request be sent a second time without harm?
    pub repeatable: bool,
    /// It means something on the connection there is, and on no other.
    pub pinned: bool,
    /// Does the request carry values?
    pub stores: bool,
    /// Its keys may lie in different slots of a cluster: each is asked for by itself.
    pub apart: bool,
    /// It is to be acknowledged only when replicas have it, where the pool says so.
    pub lasting: bool,
    /// Its last question is how many replicas have what was stored.
    pub waited: bool,
    /// The keys of a get in the order they are asked for: of a classic one as spans of `out`,
    /// of one to Redis, which echoes no key, as spans of the call's arena. Else empty.
    pub keys: Vec<Span>,
    /// The values that came for `keys`; they are not among the answers.
    pub hits: Vec<classic::Hit>,
    /// The answers, in order, as far as they came.
    pub answers: Vec<Reply>,
    /// How far the answer of a get to Redis is read.
    values: answer::Progress,
    /// One of the answers is an error line.
    pub refused: bool,
    /// Why the lane failed.
    pub error: Option<Error>,
    connect_limit: Duration,
    limit: Duration,
    read: Vec<u8>,
    filled: usize,
    parsed: usize,
    answered: usize,
    sent: usize,
    state: State,
    deadline: Option<Instant>,
    /// When the connect as a whole has to be done.
    connect_end: Option<Instant>,
    reopened: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Opening,
    Greeting,
    Sending,
    Receiving,
    Over,
}

impl Lane {
    /// Empties the lane for `node`, keeping its buffers.
    pub fn reset(
        &mut self,
        node: NodeRef,
        member: usize,
        connect_limit: Duration,
        limit: Duration,
    ) {
        self.node = Some(node);
        self.member = member;
        self.connect_limit = connect_limit;
        self.limit = limit;
        self.out.clear();
        self.tail = Span::default();
        self.asks.clear();
        if self.keys.capacity() > KEYS_KEEP || self.error.is_some() {
            self.shed();
        }
        self.keys.clear();
        self.hits.clear();
        self.values = answer::Progress::default();
        self.answers.clear();
        self.repeatable = false;
        self.pinned = false;
        (self.stores, self.lasting, self.waited) = (false, false, false);
        self.refused = false;
        self.filled = 0;
        self.parsed = 0;
        self.answered = 0;
        self.sent = 0;
        self.state = State::Closed;
        self.deadline = None;
        self.connect_end = None;
        self.reopened = false;
    }

    /// Lets go of what few calls leave behind: the lists of a large get, and an error.
    #[cold]
    fn shed(&mut self) {
        self.error = None;
        self.keys = Vec::new();
        self.hits = Vec::new();
    }

    /// Lets go of the node, and of buffers that only a rare large call needs.
    pub fn release(&mut self) {
        self.node = None;
        let large = self.read.len() > READ_KEEP
            || self.out.capacity() > READ_KEEP
            || self.asks.capacity().max(self.answers.capacity()) > LIST_KEEP;
        if large {
            self.shrink();
        }
    }

    #[cold]
    fn shrink(&mut self) {
        if self.read.len() > READ_KEEP {
            self.read = Vec::new();
            self.filled = 0;
        }
        if self.out.capacity() > READ_KEEP {
            self.out = Vec::new();
        }
        if self.asks.capacity() > LIST_KEEP {
            self.asks = Vec::new();
        }
        if self.answers.capacity() > LIST_KEEP {
            self.answers = Vec::new();
        }
    }

    /// Asks a Redis something; `say` appends the request and returns the shape of its answer.
    #[inline]
    pub fn ask_redis(&mut self, say: impl FnOnce(&mut Vec<u8>) -> Shape) {
        let shape = say(&mut self.out);
        self.asks.push(Expect::Redis(shape));
    }

    /// Asks whether the server is there.
    pub fn ask_for_life(&mut self) {
        match self.engine {
            Engine::Memcached | Engine::Embedded => {
                classic::version(&mut self.out);
                self.asks.push(Expect::Version);
            }
            Engine::Redis => self.ask_redis(redis::ping),
        }
    }

    /// Asks the server to be empty in `delay` seconds, which a Redis is at once.
    pub fn ask_to_flush(&mut self, delay: u32) {
        match self.engine {
            Engine::Memcached | Engine::Embedded => {
                classic::flush_all(&mut self.out, delay);
                self.asks.push(Expect::Flushed);
            }
            Engine::Redis => self.ask_redis(redis::flush),
        }
    }

    /// Appends all keys of a get, which lie in `arena` as they go out: each with a blank
    /// before it, and nothing between them.
    pub fn get_all(&mut self, arena: &[u8], keys: impl Iterator<Item = Span>) {
        let shift = self.out.len();
        self.out.extend_from_slice(arena);
        self.keys.extend(keys.map(|key| Span {
            at: key.at + shift,
            len: key.len,
        }));
    }

    /// The bytes received; spans in `answers` are positions in it.
    pub fn received(&self) -> &[u8] {
        self.read.get(..self.filled).unwrap_or_default()
    }

    /// True when at least one byte of the request was handed to the kernel.
    pub fn was_sent(&self) -> bool {
        self.sent > 0
    }

    fn total(&self) -> usize {
        self.out.len()
            + if self.tail.len == 0 {
                0
            } else {
                self.tail.len + 2
            }
    }

    /// Hands as much of the request as possible to the kernel.
    fn send(&mut self, node: &node::Node, arena: &[u8], flags: SendFlags) -> Result<(), Errno> {
        let Some(socket) = node.socket() else {
            return Err(Errno::NOTCONN);
        };
        while self.sent < self.total() {
            let head = self.out.get(self.sent..).unwrap_or_default();
            let count = if self.tail.len == 0 {
                socket.send(head, flags)
            } else {
                let skip = self.sent.saturating_sub(self.out.len());
                let value = self.tail.of(arena);
                let end: &[u8] = b"\r\n";
                let parts = [
                    IoSlice::new(head),
                    IoSlice::new(value.get(skip..).unwrap_or_default()),
                    IoSlice::new(
                        end.get(skip.saturating_sub(value.len())..)
                            .unwrap_or_default(),
                    ),
                ];
                socket.send_parts(&parts, flags)
            };
            match count {
                Ok(n) => self.sent += n,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }

    /// Receives once into the read buffer.
    fn receive(&mut self, node: &node::Node, flags: RecvFlags) -> Result<usize, Errno> {
        let Some(socket) = node.socket() else {
            return Err(Errno::NOTCONN);
        };
        if self.filled == self.read.len() {
            self.grow((self.read.len() * 2).max(READ_FIRST));
        }
        let room = self.read.get_mut(self.filled..).unwrap_or_default();
        let count = socket.receive(room, flags)?;
        self.filled += count;
        Ok(count)
    }

    #[cold]
    fn grow(&mut self, size: usize) {
        self.read.resize(size, 0);
    }

    /// The connection broke while sending or receiving.
    #[cold]
    fn broken(&mut self, node: &mut node::Node, errno: Errno) {
        match errno {
            Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN => self.hung_up(node),
            _ => {
                let error = node.broken(errno);
                self.failed(node, error);
            }
        }
    }

    /// The peer is gone. A reused connection without a byte of answer probably stood idle
    /// too long: worth one new connection, if repeating cannot do harm.
    #[cold]
    fn hung_up(&mut self, node: &mut node::Node) {
        if self.pinned {
            return self.unpinned(node);
        }
        let unheard = node.is_reused() && self.filled == 0 && !self.reopened;
        if unheard && (self.repeatable || self.sent == 0) {
            node.close();
            return self.say_again();
        }
        let error = match self.filled {
            0 => node.hung_up(),
            _ => Error::new(Kind::Closed, "Connection closed in mid-answer"),
        };
        self.failed(node, error);
    }

    /// The one connection is gone that this meant something on. That says nothing of the node: who asks it next finds out.
    #[cold]
    fn unpinned(&mut self, node: &mut node::Node) {
        node.close();
        let error = Error::new(Kind::Closed, "Connection closed by the server");
        self.error = Some(error.at(node.name()));
        self.state = State::Over;
    }

    #[cold]
    fn failed(&mut self, node: &mut node::Node, error: Error) {
        node.fail(&error);
        self.error = Some(error.at(node.name()));
        self.state = State::Over;
    }

    /// Goes as far as possible without waiting.
    fn advance(&mut self, arena: &[u8], ready: bool, mut now: Instant) {
        let Some(node) = self.node.clone() else {
            self.state = State::Over;
            return;
        };
        let mut node = node.borrow_mut();
        let mut ready = ready;
        loop {
            match self.state {
                State::Closed => {
                    if node.is_open(now) {
                        self.start(&mut node, now);
                        continue;
                    }
                    if self.pinned {
                        return self.unpinned(&mut node);
                    }
                    let opened = node.open(self.limit);
                    // A name server that takes its time is not the node.
                    now = transport::now();
                    self.connect_end = now.checked_add(self.connect_limit);
                    if !self.opened(&mut node, opened, now) {
                        return;
                    }
                }
                State::Opening => {
                    if !ready {
                        return;
                    }
                    ready = false;
                    let opened = node.open_further(self.limit);
                    now = transport::now();
                    if !self.opened(&mut node, opened, now) {
                        return;
                    }
                }
                State::Greeting => {
                    if !self.greet_further(&mut node, now) {
                        return;
                    }
                    // What was ready is heard; a connect to somebody else may have begun.
                    ready = false;
                }
                State::Sending => {
                    // A pipeline is read while it is still being sent, or both sides would wait for the other to read.
                    if let Err(errno) =
                        self.send(&node, arena, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
                    {
                        self.broken(&mut node, errno);
                        continue;
                    }
                    if self.sent == self.total() {
                        self.state = State::Receiving;
                        if self.parsed < self.filled {
                            // The last answer may have come before all was out.
                            self.digest(&mut node, now);
                            continue;
                        }
                    }
                    if !self.drain(&mut node, now) {
                        return;
                    }
                }
                State::Receiving => {
                    if !self.drain(&mut node, now) {
                        return;
                    }
                }
                State::Over => return,
            }
        }
    }

    /// Goes on after a step of a connect; false when it is time to wait, or over.
    fn opened(&mut self, node: &mut node::Node, step: Result<Open, Error>, now: Instant) -> bool {
        match step {
            Ok(Open::Ready) => {
                self.start(node, now);
                true
            }
            Ok(Open::Waiting) => {
                self.state = State::Opening;
                // An address that swallows packets must leave time for those after it.
                let tries = u32::try_from(node.addresses_left()).unwrap_or(u32::MAX - 1) + 1;
                self.deadline = self
                    .connect_end
                    .map(|end| now + end.saturating_duration_since(now) / tries);
                false
            }
            Err(error) => {
                self.failed(node, error);
                false
            }
        }
    }

    /// Begins the exchange on the open connection; without a question, being open was all.
    fn start(&mut self, node: &mut node::Node, now: Instant) {
        if node.greeting(self.stores).is_some() {
            return self.greet(node, now);
        }
        if self.asks.is_empty() {
            node.recover();
            self.state = State::Over;
            return;
        }
        node.begin(self.limit);
        self.deadline = now.checked_add(self.limit);
        self.state = State::Sending;
    }

    /// Receives what is there; false when it is time to wait.
    fn drain(&mut self, node: &mut node::Node, now: Instant) -> bool {
        match self.receive(node, RecvFlags::DONTWAIT) {
            Ok(0) => self.hung_up(node),
            Ok(_) if self.state == State::Sending && self.asks.len() == 1 => {
                self.digest_early(node, now);
            }
            Ok(_) => self.digest_part(node, now),
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Err(errno) => self.broken(node, errno),
        }
        // A server that never stops talking would keep this loop from the poll loop's clock.
        if matches!(self.state, State::Sending | State::Receiving)
            && self.deadline.is_some_and(|d| d <= transport::now())
        {
            self.failed(node, timeout());
        }
        true
    }

    #[cold]
    fn expire(&mut self) {
        let Some(node) = self.node.clone() else {
            return;
        };
        let mut node = node.borrow_mut();
        let now = transport::now();
        if self.state == State::Opening
            && node.addresses_left() > 0
            && self.connect_end.is_some_and(|end| now < end)
        {
            let opened = node.open_other(self.limit);
            self.opened(&mut node, opened, transport::now());
            return;
        }
        let error = match self.state {
            State::Opening | State::Closed => node.late(),
            _ => timeout(),
        };
        self.failed(&mut node, error);
    }
}

/// Waits for `time`, for a turn somebody else still has.
pub(crate) fn pause(time: Duration) {
    transport::pause(time);
}

#[cold]
fn timeout() -> Error {
    // pecl-memcache's words (memcache_pool.c mmc_select_failure).
    Error::new(Kind::Timeout, "Network timeout")
}

/// Runs all lanes at the same time until each is answered or failed.
///
/// Lanes must be on different nodes. `arena` holds the values `Lane::tail` points to.
/// What failed stands in `Lane::error`; the node is then closed and marked failed.
pub fn run(lanes: &mut [Lane], arena: &[u8]) {
    let now = transport::now();
    if lanes.iter().all(|lane| lane.is_quick(now)) && quick::quick(lanes, arena, now) {
        return;
    }
    wait_all(lanes, arena);
}

#[cold] // in the sense that matters: no call whose nodes are connected and swift comes here
fn wait_all(lanes: &mut [Lane], arena: &[u8]) {
    for lane in lanes.iter_mut() {
        // Each from its own beginning: what one waits for is not the next one's time.
        lane.advance(arena, false, transport::now());
    }
    while wait(lanes, arena) {}
}

/// Waits once for whichever lane is next; false when all are over.
fn wait(lanes: &mut [Lane], arena: &[u8]) -> bool {
    let now = transport::now();
    let mut nearest: Option<Instant> = None;
    for lane in lanes.iter_mut().filter(|l| l.state != State::Over) {
        if lane.deadline.is_some_and(|d| d <= now) {
            // Whoever was kept from running so long may have been answered in time.
            lane.advance(arena, lane.state != State::Opening, now);
            if lane.state != State::Over {
                // A connect may have another address to go on with.
                lane.expire();
            }
        }
        if lane.state != State::Over
            && let Some(deadline) = lane.deadline
        {
            nearest = Some(nearest.map_or(deadline, |n| n.min(deadline)));
        }
    }
    // The nodes stay borrowed while their sockets are polled.
    let nodes: Vec<(usize, PollFlags, std::cell::Ref<'_, node::Node>)> = lanes
        .iter()
        .enumerate()
        .filter_map(|(i, lane)| {
            let want = match lane.state {
                State::Over | State::Closed => return None,
                State::Opening => lane.node.as_ref()?.borrow().awaits(),
                State::Sending => PollFlags::OUT | PollFlags::IN,
                State::Greeting | State::Receiving => PollFlags::IN,
            };
            Some((i, want, lane.node.as_ref()?.borrow()))
        })
        .collect();
    let mut wishes: Vec<Wish<'_>> = nodes
        .iter()
        .filter_map(|(_, want, node)| node.socket().map(|socket| Wish::new(socket, *want)))
        .collect();
    if wishes.is_empty() {
        return false;
    }
    let left = nearest.map(|n| n.saturating_duration_since(now));
    // An interrupted or failed poll shows no lane ready; the loop then looks at the clock again.
    transport::poll(&mut wishes, left);
    let ready: Vec<usize> = nodes
        .iter()
        .zip(&wishes)
        .filter(|(_, wish)| wish.ready)
        .map(|((i, _, _), _)| *i)
        .collect();
    drop(wishes);
    drop(nodes);
    let now = transport::now();
    for index in ready {
        if let Some(lane) = lanes.get_mut(index) {
            lane.advance(arena, true, now);
        }
    }
    true
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests;
