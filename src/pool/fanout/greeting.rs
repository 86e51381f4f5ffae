//! The first words on a connection to a node that wants some: password, database.
//!
//! They are answered before anything else is sent. A command behind a refused `SELECT` would
//! be carried out in another database.

use super::answers::garbage;
use super::{Lane, State, timeout};
use crate::node;
use crate::transport;
use crate::wire::redis::answer;
use crate::wire::redis::fenced::Process;
use crate::wire::{self, Parsed, Reply, greeting};
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::time::Instant;

/// Answers to a greeting are no longer than this, bytes: INFO of one section is the longest.
const GREETING_MAX: usize = 64 << 10;

impl Lane {
    /// Sends the greeting.
    #[cold]
    pub(super) fn greet(&mut self, node: &mut node::Node, now: Instant) {
        node.begin(self.limit);
        self.deadline = now.checked_add(self.limit);
        self.state = State::Greeting;
        let sent = match (node.socket(), node.greeting(self.stores)) {
            (Some(socket), Some(greeting)) => {
                let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
                socket
                    .send(&greeting.words, flags)
                    .map(|sent| sent == greeting.words.len())
            }
            _ => Err(Errno::NOTCONN),
        };
        match sent {
            Ok(true) => {}
            // A new connection has room for a hundred greetings.
            Ok(false) => self.failed(node, garbage("no room for the first words")),
            Err(errno) => self.broken_at_once(node, errno),
        }
    }

    /// Reads answers to the greeting; false when it is time to wait.
    #[cold]
    pub(super) fn greet_further(&mut self, node: &mut node::Node, now: Instant) -> bool {
        match self.receive(node, RecvFlags::DONTWAIT) {
            Ok(0) => self.broken_at_once(node, Errno::CONNRESET),
            Ok(_) => self.digest_greeting(node, now),
            Err(Errno::AGAIN) => return false,
            Err(Errno::INTR) => {}
            Err(errno) => self.broken_at_once(node, errno),
        }
        // A server that never stops talking would keep this from the poll loop's clock.
        if self.state == State::Greeting {
            if self.filled > GREETING_MAX {
                self.failed(node, garbage("an answer longer than any to first words"));
            } else if self.deadline.is_some_and(|end| end <= transport::now()) {
                self.failed(node, timeout());
            }
        }
        true
    }

    fn digest_greeting(&mut self, node: &mut node::Node, now: Instant) {
        let Some(greeting) = node.greeting(self.stores) else {
            return;
        };
        let have = self.read.get(..self.filled).unwrap_or_default();
        let mut at = 0;
        let mut process = None;
        for (about, expect) in &greeting.steps {
            match wire::parse(have, at, *expect) {
                Parsed::Reply(used, reply) => {
                    at += used;
                    if let Reply::Text(info) = reply {
                        process = Process::in_info(info.of(have));
                        if process.is_none() {
                            let what = "no run_id, without which nobody can tell whether it came back with old data";
                            return self.failed(node, garbage(what));
                        }
                    }
                    if let Some(line) = reply.refusal() {
                        let text = String::from_utf8_lossy(line.of(have));
                        return self.failed(node, greeting::refused(about, &text));
                    }
                    if let Reply::List(role) = reply
                        && answer::first(have, role) != Some(b"master")
                    {
                        return self.go_elsewhere(node, now);
                    }
                }
                Parsed::More(_) => return,
                Parsed::Garbage(what) => return self.failed(node, garbage(what)),
            }
        }
        if at < self.filled {
            return self.failed(node, garbage("more answers than questions"));
        }
        self.filled = 0;
        node.process = process;
        node.greeted();
        self.start(node, now);
    }

    /// The server is not the master that Sentinels took it for: they may name another one.
    fn go_elsewhere(&mut self, node: &mut node::Node, now: Instant) {
        self.filled = 0;
        // All of this is one connect, and has one limit.
        if self.connect_end.is_none_or(|end| end <= now) {
            self.connect_end = now.checked_add(self.connect_limit);
        }
        let opened = node.open_elsewhere(self.limit);
        self.opened(node, opened, now);
    }

    /// The connection broke before it could be used: there is nothing to repeat.
    fn broken_at_once(&mut self, node: &mut node::Node, errno: Errno) {
        let error = match errno {
            Errno::CONNRESET | Errno::PIPE | Errno::NOTCONN => node.hung_up(),
            _ => node.broken(errno),
        };
        self.failed(node, error);
    }
}
