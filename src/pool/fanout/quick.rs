//! The short way: requests out, answers in, two system calls for each node.
//!
//! For lanes on open connections whose requests cannot fill both directions. What does not
//! come about so (a slow node, a partial answer) goes on in the poll loop of `fanout`.

use super::{Lane, QUICK_PIPELINE, SWIFT, State, timeout, wait_all};
use crate::node;
use crate::transport;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::time::Instant;

impl Lane {
    /// True when the lane may take the short way: connected, and nothing in it that could
    /// fill both directions of the connection.
    pub(super) fn is_quick(&self, now: Instant) -> bool {
        let small = self.asks.len() == 1 || self.total() <= QUICK_PIPELINE;
        !self.asks.is_empty()
            && small
            && self
                .node
                .as_ref()
                .is_some_and(|node| node.borrow_mut().is_open(now))
    }

    /// First half of the short way: hands the request to the kernel, or as much of it as
    /// fits without waiting; the poll loop, which knows the deadline, has the rest.
    fn quick_send(&mut self, node: &mut node::Node, arena: &[u8], now: Instant) {
        self.start(node, now);
        if self.state != State::Sending {
            // A greeting is out, whose answer is not the request's: the poll loop has the rest.
            return;
        }
        match self.send(node, arena, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) {
            Ok(()) if self.sent == self.total() => self.state = State::Receiving,
            Ok(()) => {}
            Err(errno) => self.broken(node, errno),
        }
    }

    /// Second half: waits for the answer, within the limit of the socket. False when that
    /// ran out.
    fn quick_receive(&mut self, node: &mut node::Node, now: Instant) -> bool {
        match self.receive(node, RecvFlags::empty()) {
            Ok(0) => self.hung_up(node),
            Ok(_) => self.digest(node, now),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                self.failed(node, timeout());
                return false;
            }
            Err(errno) => self.broken(node, errno),
        }
        true
    }

    /// After a wait for another node alone: takes what came meanwhile. A lane in mid-answer
    /// has its limit once more; who said nothing in all that time has had his.
    #[cold]
    fn catch_up(&mut self, arena: &[u8]) {
        if self.state != State::Receiving {
            return;
        }
        let now = transport::now();
        self.deadline = now.checked_add(self.limit);
        self.advance(arena, false, now);
        if self.state == State::Receiving && self.filled == 0 {
            self.expire();
        }
    }
}

/// Runs one lane on a node that [`node::Node::is_open`] just found connected: one send and
/// one receive when all goes well, the same as [`super::run`] when not.
pub fn run_alone(lane: &mut Lane, arena: &[u8], now: Instant) {
    if let Some(node) = lane.node.clone() {
        let mut node = node.borrow_mut();
        lane.quick_send(&mut node, arena, now);
        if lane.state == State::Receiving {
            lane.quick_receive(&mut node, now);
        }
    }
    if lane.state != State::Over {
        wait_all(std::slice::from_mut(lane), arena);
    }
}

/// The short way: all requests out, then all answers in, one after the other; the nodes
/// work at the same time all the same. Two system calls per node. True when all are over.
pub(super) fn quick(lanes: &mut [Lane], arena: &[u8], now: Instant) -> bool {
    for lane in lanes.iter_mut() {
        if let Some(node) = lane.node.clone() {
            lane.quick_send(&mut node.borrow_mut(), arena, now);
        }
    }
    if lanes
        .iter()
        .any(|lane| !matches!(lane.state, State::Receiving | State::Over))
    {
        // Somebody has more to send: no time to listen to one node alone.
        return false;
    }
    let mut waited = false;
    for lane in lanes.iter_mut().filter(|l| l.state == State::Receiving) {
        // The socket's own limit counts from here and not from when the request went out.
        // While the nodes are swift that is the same; if one was not, the poll loop, which
        // keeps to the deadlines, has the rest.
        if waited && transport::since(now) > SWIFT {
            break;
        }
        let Some(node) = lane.node.clone() else {
            continue;
        };
        let answered = lane.quick_receive(&mut node.borrow_mut(), now);
        if !answered {
            for lane in lanes.iter_mut() {
                lane.catch_up(arena);
            }
            break;
        }
        waited = true;
    }
    lanes.iter().all(|lane| lane.state == State::Over)
}
