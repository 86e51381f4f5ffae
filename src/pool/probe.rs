//! Who failed is asked again, off the path of requests: `version`, or `PING` of a Redis, behind
//! the first words of the node, on a connection of its own.
//!
//! A probe never waits for longer than it is told to. It is carried on by whatever this
//! process does next: another look at the node, or the end of a request. A process that does
//! nothing more leaves it undone, and another one takes the next probe when it is due.

use crate::config::NodeSpec;
use crate::counters::Counter;
use crate::error::{Error, Kind};
use crate::node::{Node, NodeRef, Open};
use crate::shared;
use crate::transport::{self, Wish};
use crate::wire::greeting::Greeting;
use crate::wire::{self, Expect, LINE_MAX, Parsed, Reply, classic, redis};
use rustix::event::PollFlags;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags};
use std::cell::RefCell;
use std::time::{Duration, Instant};

/// A probe under way.
#[derive(Debug)]
struct Probe {
    /// Whose health it is about.
    of: NodeRef,
    /// The connection it is made on.
    node: Node,
    stage: Stage,
    question: Vec<u8>,
    /// The shapes of its answers.
    answers: Vec<Expect>,
    /// The beginning of an answer.
    read: Vec<u8>,
    limit: Duration,
    end: Instant,
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Connecting,
    Connected,
    Asked,
}

thread_local! {
    static PROBES: RefCell<Vec<Probe>> = const { RefCell::new(Vec::new()) };
}

/// Begins to ask a node that failed; the caller has claimed the probe that is due.
pub fn begin(of: &NodeRef, spec: &NodeSpec) {
    shared::count(Counter::Probes);
    let mut probe = Probe {
        of: of.clone(),
        node: Node::new(spec),
        stage: Stage::Connecting,
        question: Vec::new(),
        answers: Vec::new(),
        read: Vec::new(),
        limit: spec.op_timeout,
        end: transport::now() + spec.connect_timeout,
        generation: shared::generation(),
    };
    if let Some(greeting) = Greeting::of(spec) {
        // What follows harms nobody, whoever we are: it need not wait for the words before it.
        probe.question = greeting.words;
        probe.answers = greeting
            .steps
            .into_iter()
            .map(|(_, expect)| expect)
            .collect();
    }
    probe.answers.push(match spec.redis {
        Some(_) => Expect::Redis(redis::ping(&mut probe.question)),
        None => {
            classic::version(&mut probe.question);
            Expect::Version
        }
    });
    let opened = probe.node.open(spec.op_timeout);
    if probe.opened(opened).is_none() && probe.step().is_none() {
        PROBES.with_borrow_mut(|probes| probes.push(probe));
    }
}

/// Carries the probes of this thread on, for `wait` at most; without any it costs nothing.
pub fn carry_on(wait: Duration) {
    PROBES.with_borrow_mut(|probes| {
        if probes.is_empty() {
            return;
        }
        // A forked child has no business with its parent's connections.
        probes.retain(|probe| probe.generation == shared::generation());
        let end = transport::now() + wait;
        loop {
            probes.retain_mut(|probe| probe.step().is_none());
            let left = end.saturating_duration_since(transport::now());
            if probes.is_empty() || left.is_zero() {
                return;
            }
            await_any(probes, left);
        }
    });
}

fn await_any(probes: &[Probe], limit: Duration) {
    let mut wishes: Vec<Wish<'_>> = probes
        .iter()
        .filter_map(|probe| {
            let flags = match probe.stage {
                Stage::Connecting => probe.node.awaits(),
                Stage::Connected | Stage::Asked => PollFlags::IN,
            };
            Some(Wish::new(probe.node.socket()?, flags))
        })
        .collect();
    // Whatever became of it, the next step looks at the sockets themselves.
    transport::poll(&mut wishes, Some(limit));
}

impl Probe {
    /// Goes as far as it can without waiting; something when it is over.
    fn step(&mut self) -> Option<()> {
        if self.stage == Stage::Connecting {
            if !self.node.is_ready() {
                return self.late();
            }
            let opened = self.node.open_further(self.limit);
            if self.opened(opened).is_some() {
                return Some(());
            }
            if self.stage == Stage::Connecting {
                return self.late();
            }
        }
        if self.stage == Stage::Connected {
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            let socket = self.node.socket();
            let sent = socket.map(|socket| socket.send(&self.question, flags));
            match sent {
                Some(Ok(count)) if count == self.question.len() => {
                    self.stage = Stage::Asked;
                    // Nobody may have been here for long, which is not the node's fault.
                    self.end = transport::now() + self.limit;
                }
                Some(Err(Errno::AGAIN | Errno::INTR)) => return self.late(),
                _ => return self.closed(),
            }
        }
        if self.stage == Stage::Asked {
            let mut answer = [0u8; 512];
            let got = self
                .node
                .socket()
                .map(|socket| socket.receive(&mut answer, RecvFlags::DONTWAIT));
            return match got {
                Some(Ok(count)) if count > 0 => {
                    self.read
                        .extend_from_slice(answer.get(..count).unwrap_or_default());
                    match self.heard() {
                        Some(found) => self.over(found),
                        None => self.late(),
                    }
                }
                Some(Err(Errno::AGAIN | Errno::INTR)) => self.late(),
                Some(Err(errno)) => self.over(Err(self.node.broken(errno))),
                _ => self.closed(),
            };
        }
        None
    }

    /// What it said, once it said all. A Redis that reads its data from disk is not back yet.
    fn heard(&self) -> Option<Result<(), Error>> {
        let mut at = 0;
        for expect in &self.answers {
            match wire::parse(&self.read, at, *expect) {
                Parsed::Reply(used, Reply::Done | Reply::Version(_)) => at += used,
                Parsed::Reply(_, Reply::ServerError(line) | Reply::ClientError(line)) => {
                    let what = String::from_utf8_lossy(line.of(&self.read)).into_owned();
                    return Some(Err(Error::new(Kind::Server, what)));
                }
                Parsed::More(_) if self.read.len() < LINE_MAX => return None,
                _ => {
                    let what = "Malformed server response: no answer to a probe";
                    return Some(Err(Error::new(Kind::Protocol, what)));
                }
            }
        }
        Some(Ok(()))
    }

    fn opened(&mut self, opened: Result<Open, Error>) -> Option<()> {
        match opened {
            Ok(Open::Ready) => {
                self.stage = Stage::Connected;
                None
            }
            Ok(Open::Waiting) => None,
            Err(error) => self.over(Err(error)),
        }
    }

    fn late(&mut self) -> Option<()> {
        if transport::now() < self.end {
            return None;
        }
        self.over(Err(Error::new(Kind::Timeout, "Network timeout")))
    }

    fn closed(&mut self) -> Option<()> {
        self.over(Err(Error::new(
            Kind::Closed,
            "Connection closed by the server",
        )))
    }

    fn over(&mut self, found: Result<(), Error>) -> Option<()> {
        if let Ok(mut node) = self.of.try_borrow_mut() {
            node.probed(found.as_ref().copied());
        }
        Some(())
    }
}
