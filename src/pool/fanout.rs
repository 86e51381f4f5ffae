//! WAITING: many nodes, one deadline each, all at the same time. The only place that waits.
//!
//! A [`Lane`] is one node's share of a call: bytes to send, questions in order, answers
//! as they come. Lanes on open connections take the short way of two system calls each
//! (send, receive under SO_RCVTIMEO); everything else goes through one poll loop.
//!
//! ```text
//!   open ──► sending ──► receiving ──► done
//!     │          │           │
//!     └──────────┴───────────┴──► failed: error, `sent` says whether bytes went out
//! ```
//!
//! Each lane's limit counts from the moment its request begins to go out, and does not
//! move when bytes trickle in. One exception: while the short way waits for a node that
//! then proves hung, nobody listens to the others, so who is in mid-answer by then has his
//! limit anew.

use crate::error::{Error, Kind};
use crate::item::Span;
use crate::node::{self, NodeRef, Open};
use crate::wire::{Expect, Parsed, Reply, VALUE_MAX, classic, meta};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags};
use std::io::IoSlice;
use std::time::{Duration, Instant};

/// First size of a read buffer, bytes: most answers fit into one receive.
const READ_FIRST: usize = 16 << 10;
/// A read buffer larger than this is given back after the call, bytes.
const READ_KEEP: usize = 1 << 20;
/// What one step of growth trusts an announced length for, bytes. A hostile server
/// announces gigabytes; memory follows only what really arrived.
const READ_TRUST: usize = 4 << 20;
/// After this long the answers of further nodes are waited for with the clock in sight.
const SWIFT: Duration = Duration::from_millis(1);
/// A pipeline up to this size cannot fill both directions of a connection, bytes.
const QUICK_PIPELINE: usize = 16 << 10;

/// One node's share of a call.
#[derive(Debug, Default)]
pub struct Lane {
    node: Option<NodeRef>,
    /// Index of the node in its pool.
    pub member: usize,
    /// Request bytes, made by `wire`.
    pub out: Vec<u8>,
    /// A value in the call's arena, sent after `out` and before a final CR LF; empty for none.
    pub tail: Span,
    /// The shapes of the answers, in order.
    pub asks: Vec<Expect>,
    /// May the whole request be sent a second time without harm?
    pub repeatable: bool,
    /// Does the request carry values?
    pub stores: bool,
    /// The answers, in order, as far as they came.
    pub answers: Vec<Reply>,
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
    reopened: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Closed,
    Opening,
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
        self.answers.clear();
        self.repeatable = false;
        self.stores = false;
        self.refused = false;
        self.error = None;
        self.filled = 0;
        self.parsed = 0;
        self.answered = 0;
        self.sent = 0;
        self.state = State::Closed;
        self.deadline = None;
        self.reopened = false;
        if self.read.len() > READ_KEEP {
            self.read = Vec::new();
        }
    }

    /// Lets go of the node; buffers and answers stay readable.
    pub fn release(&mut self) {
        self.node = None;
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

    /// True when the lane may take the short way: connected, and nothing in it that could
    /// fill both directions of the connection.
    fn is_quick(&self, now: Instant) -> bool {
        let small = self.asks.len() == 1 || self.total() <= QUICK_PIPELINE;
        !self.asks.is_empty()
            && small
            && self
                .node
                .as_ref()
                .is_some_and(|node| node.borrow_mut().is_open(now))
    }

    /// First half of the short way: hands the whole request to the kernel.
    fn quick_send(&mut self, arena: &[u8], now: Instant) {
        let Some(node) = self.node.clone() else {
            return;
        };
        let mut node = node.borrow_mut();
        self.start(&mut node, now);
        // Blocking, so a short count here is final, and the poll loop's business.
        match self.send(&node, arena, SendFlags::NOSIGNAL) {
            Ok(()) if self.sent == self.total() => self.state = State::Receiving,
            Ok(()) => {}
            Err(errno) => self.broken(&mut node, errno),
        }
    }

    /// Second half: waits for the answer, within the limit of the socket. False when that
    /// ran out.
    fn quick_receive(&mut self, now: Instant) -> bool {
        let Some(node) = self.node.clone() else {
            return true;
        };
        let mut node = node.borrow_mut();
        match self.receive(&node, RecvFlags::empty()) {
            Ok(0) => self.hung_up(&mut node),
            Ok(_) => self.digest(&mut node, now),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                self.failed(&mut node, timeout());
                return false;
            }
            Err(errno) => self.broken(&mut node, errno),
        }
        true
    }

    /// Gives a lane in mid-answer its limit once more, after a wait for another node alone.
    fn listen_anew(&mut self) {
        if self.state == State::Receiving && self.filled > 0 {
            self.deadline = Instant::now().checked_add(self.limit);
        }
    }

    /// Hands as much of the request as possible to the kernel.
    fn send(&mut self, node: &node::Node, arena: &[u8], flags: SendFlags) -> Result<(), Errno> {
        let Some(fd) = node.fd() else {
            return Err(Errno::NOTCONN);
        };
        while self.sent < self.total() {
            let head = self.out.get(self.sent..).unwrap_or_default();
            let count = if self.tail.len == 0 {
                rustix::net::send(fd, head, flags)
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
                rustix::net::sendmsg(fd, &parts, &mut SendAncillaryBuffer::default(), flags)
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
        let Some(fd) = node.fd() else {
            return Err(Errno::NOTCONN);
        };
        if self.filled == self.read.len() {
            self.read.resize((self.read.len() * 2).max(READ_FIRST), 0);
        }
        let room = self.read.get_mut(self.filled..).unwrap_or_default();
        let (count, _) = rustix::net::recv(fd, room, flags)?;
        self.filled += count;
        Ok(count)
    }

    /// Reads every whole reply out of what arrived.
    fn digest(&mut self, node: &mut node::Node, now: Instant) {
        while let Some(expect) = self.asks.get(self.answered).copied() {
            let have = self.read.get(..self.filled).unwrap_or_default();
            if expect == Expect::Values {
                self.parsed = classic::values(have, self.parsed, &mut self.answers);
            }
            let parsed = match expect {
                Expect::Meta => meta::parse(have, self.parsed),
                _ => classic::parse(have, self.parsed, expect),
            };
            match parsed {
                Parsed::More(missing) => {
                    let wanted = self.filled.saturating_add(missing.min(READ_TRUST));
                    if self.filled > VALUE_MAX {
                        return self.failed(node, garbage("an answer longer than any value"));
                    }
                    if wanted > self.read.len() {
                        self.read.resize(wanted.max(self.read.len() * 2), 0);
                    }
                    return;
                }
                Parsed::Reply(used, reply) => {
                    self.parsed += used;
                    self.answers.push(reply);
                    self.refused |= reply.is_refusal();
                    if reply.is_last() {
                        self.answered += 1;
                    }
                }
                Parsed::Garbage(what) => return self.failed(node, garbage(what)),
            }
        }
        if self.sent < self.total() {
            return self.failed(node, garbage("an answer before the question was out"));
        }
        if self.parsed < self.filled {
            // Whose answer is this? Nothing on this connection can be believed any more.
            return self.failed(node, garbage("more answers than questions"));
        }
        self.state = State::Over;
        node.finish(now);
    }

    /// The connection broke while sending or receiving.
    fn broken(&mut self, node: &mut node::Node, errno: Errno) {
        match errno {
            Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN => self.hung_up(node),
            _ => {
                let error =
                    Error::new(Kind::Closed, node::strerror(errno)).code(errno.raw_os_error());
                self.failed(node, error);
            }
        }
    }

    /// The peer is gone. A reused connection without a byte of answer probably stood idle
    /// too long: worth one new connection, if repeating cannot do harm.
    fn hung_up(&mut self, node: &mut node::Node) {
        let unheard = node.is_reused() && self.filled == 0 && !self.reopened;
        if unheard && (self.repeatable || self.sent == 0) {
            self.reopened = true;
            self.sent = 0;
            self.deadline = None;
            node.close();
            self.state = State::Closed;
            return;
        }
        let cause = if self.filled == 0 {
            "Connection closed by the server"
        } else {
            "Connection closed in mid-answer"
        };
        self.failed(node, Error::new(Kind::Closed, cause));
    }

    fn failed(&mut self, node: &mut node::Node, error: Error) {
        node.fail(&error);
        self.error = Some(error.at(node.name()));
        self.state = State::Over;
    }

    /// Goes as far as possible without waiting.
    fn advance(&mut self, arena: &[u8], ready: bool, now: Instant) {
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
                    self.deadline = now.checked_add(self.connect_limit);
                    match node.open(self.limit) {
                        Ok(Open::Ready) => self.start(&mut node, now),
                        Ok(Open::Waiting) => {
                            self.state = State::Opening;
                            return;
                        }
                        Err(error) => return self.failed(&mut node, error),
                    }
                }
                State::Opening => {
                    if !ready {
                        return;
                    }
                    ready = false;
                    match node.open_further(self.limit) {
                        Ok(Open::Ready) => self.start(&mut node, now),
                        Ok(Open::Waiting) => return,
                        Err(error) => return self.failed(&mut node, error),
                    }
                }
                State::Sending => {
                    // A pipeline is read while it is still being sent, or both sides would
                    // wait for the other to read.
                    if let Err(errno) =
                        self.send(&node, arena, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)
                    {
                        self.broken(&mut node, errno);
                        continue;
                    }
                    if self.sent == self.total() {
                        self.state = State::Receiving;
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

    /// Begins the exchange on the open connection; without a question, being open was all.
    fn start(&mut self, node: &mut node::Node, now: Instant) {
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
                // An error line may come before the value is out; whatever it says, the
                // connection cannot be used on.
                self.failed(node, garbage("an answer before the question was out"));
            }
            Ok(_) => self.digest_part(node, now),
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Err(errno) => self.broken(node, errno),
        }
        true
    }

    /// As `digest`, but while a pipeline is still going out its first answers are welcome.
    fn digest_part(&mut self, node: &mut node::Node, now: Instant) {
        if self.state == State::Receiving {
            self.digest(node, now);
        }
        // Else they stay in the buffer, which grows as needed, until all is sent.
    }

    fn expire(&mut self) {
        let Some(node) = self.node.clone() else {
            return;
        };
        let mut node = node.borrow_mut();
        let error = match self.state {
            State::Opening | State::Closed => node::connect_timeout(node.name()),
            _ => timeout(),
        };
        self.failed(&mut node, error);
    }
}

/// Waits for `time`, for a turn somebody else still has.
pub(crate) fn pause(time: Duration) {
    std::thread::sleep(time);
}

fn timeout() -> Error {
    // pecl-memcache's words (memcache_pool.c mmc_select_failure).
    Error::new(Kind::Timeout, "Network timeout")
}

fn garbage(what: &str) -> Error {
    Error::new(Kind::Protocol, format!("Malformed server response: {what}"))
}

/// Runs all lanes at the same time until each is answered or failed.
///
/// Lanes must be on different nodes. `arena` holds the values `Lane::tail` points to.
/// What failed stands in `Lane::error`; the node is then closed and marked failed.
pub fn run(lanes: &mut [Lane], arena: &[u8]) {
    let now = Instant::now();
    if lanes.iter().all(|lane| lane.is_quick(now)) && quick(lanes, arena, now) {
        return;
    }
    for lane in lanes.iter_mut() {
        lane.advance(arena, false, now);
    }
    while wait(lanes, arena) {}
}

/// The short way: all requests out, then all answers in, one after the other; the nodes
/// work at the same time all the same. Two system calls per node. True when all are over.
fn quick(lanes: &mut [Lane], arena: &[u8], now: Instant) -> bool {
    for lane in lanes.iter_mut() {
        lane.quick_send(arena, now);
    }
    let mut waited = false;
    for lane in lanes.iter_mut().filter(|l| l.state == State::Receiving) {
        // The socket's own limit counts from here and not from when the request went out.
        // While the nodes are swift that is the same; if one was not, the poll loop, which
        // keeps to the deadlines, has the rest.
        if waited && now.elapsed() > SWIFT {
            break;
        }
        if !lane.quick_receive(now) {
            // Nobody listened to the others meanwhile.
            for lane in lanes.iter_mut() {
                lane.advance(arena, false, now);
                lane.listen_anew();
            }
            break;
        }
        waited = true;
    }
    lanes.iter().all(|lane| lane.state == State::Over)
}

/// Waits once for whichever lane is next; false when all are over.
fn wait(lanes: &mut [Lane], arena: &[u8]) -> bool {
    let now = Instant::now();
    let mut nearest: Option<Instant> = None;
    for lane in lanes.iter_mut().filter(|l| l.state != State::Over) {
        if lane.deadline.is_some_and(|d| d <= now) {
            lane.expire();
        } else if let Some(deadline) = lane.deadline {
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
                State::Opening => PollFlags::OUT,
                State::Sending => PollFlags::OUT | PollFlags::IN,
                State::Receiving => PollFlags::IN,
            };
            Some((i, want, lane.node.as_ref()?.borrow()))
        })
        .collect();
    let mut polled: Vec<PollFd<'_>> = nodes
        .iter()
        .filter_map(|(_, want, node)| node.fd().map(|fd| PollFd::new(fd, *want)))
        .collect();
    if polled.is_empty() {
        return false;
    }
    let left = nearest.map(|n| n.saturating_duration_since(now));
    let limit = left.and_then(|d| Timespec::try_from(d).ok());
    // An interrupted or failed poll shows no lane ready; the loop then looks at the clock again.
    let _ = rustix::event::poll(&mut polled, limit.as_ref());
    let ready: Vec<usize> = nodes
        .iter()
        .zip(&polled)
        .filter(|(_, p)| !p.revents().is_empty())
        .map(|((i, _, _), _)| *i)
        .collect();
    drop(polled);
    drop(nodes);
    let now = Instant::now();
    for index in ready {
        if let Some(lane) = lanes.get_mut(index) {
            lane.advance(arena, true, now);
        }
    }
    true
}
