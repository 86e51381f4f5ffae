//! From received bytes to answers: what is whole, what is early, what is too much.

use super::{Lane, READ_TRUST, State};
use crate::error::{Error, Kind};
use crate::node;
use crate::wire::redis::{Shape, answer};
use crate::wire::{self, Expect, Parsed, Reply, VALUE_MAX, classic};
use std::time::Instant;

/// How far the answers could be read.
pub(super) enum Read {
    /// All of them are there.
    Whole,
    /// So many more bytes are needed at least.
    More(usize),
    /// This is no answer.
    Wrong(&'static str),
}

impl Lane {
    /// Reads every whole reply out of what arrived.
    pub(super) fn digest(&mut self, node: &mut node::Node, now: Instant) {
        match self.read_answers() {
            Read::Whole => {}
            Read::More(missing) => {
                let wanted = self.filled.saturating_add(missing.min(READ_TRUST));
                if self.filled > VALUE_MAX {
                    return self.failed(node, garbage("an answer longer than any value"));
                }
                if wanted > self.read.len() {
                    self.grow(wanted.max(self.read.len() * 2));
                }
                return;
            }
            Read::Wrong(what) => return self.failed(node, garbage(what)),
        }
        if self.sent < self.total() {
            return self.failed(node, garbage("an answer before the question was out"));
        }
        if self.parsed < self.filled {
            // Whose answer is this? Nothing on this connection can be believed any more.
            return self.failed(node, garbage("more answers than questions"));
        }
        let again = self.refused && !self.reopened && !self.pinned;
        if again && self.is_from_replica(node.is_watched()) {
            let watched = node.is_watched();
            node.demoted();
            if watched && self.may_repeat() {
                return self.say_again();
            }
        }
        self.state = State::Over;
        node.finish(now);
    }

    /// May all of it be said to the new master? That may be the same server, and then has what it
    /// carried out.
    #[cold]
    fn may_repeat(&self) -> bool {
        let done = |reply: &Reply| matches!(reply, Reply::Done | Reply::Number(_));
        // How many replicas have it is no word of whether there was anything to have.
        let own = self.answers.len() - usize::from(self.waited && !self.answers.is_empty());
        self.repeatable || !self.answers.iter().take(own).any(done)
    }

    /// The lines it was refused with.
    #[cold]
    pub(crate) fn refusals(&self) -> impl Iterator<Item = &[u8]> {
        let lines = self.answers.iter().filter_map(|reply| reply.refusal());
        lines.map(|line| line.of(self.received()))
    }

    /// Reads the answers that are there, from where it stopped last.
    #[inline(always)] // once on the path of every call
    pub(super) fn read_answers(&mut self) -> Read {
        while let Some(expect) = self.asks.get(self.answered).copied() {
            let have = self.read.get(..self.filled).unwrap_or_default();
            if expect == Expect::Values && !self.keys.is_empty() {
                let (out, keys) = (&self.out, &self.keys);
                self.parsed = classic::hits(have, self.parsed, out, keys, &mut self.hits);
            }
            let parsed = match expect {
                Expect::Redis(Shape::Values(with_cas)) => {
                    let (at, keys) = (&mut self.parsed, self.keys.len());
                    answer::values(have, at, keys, with_cas, &mut self.values, &mut self.hits)
                }
                _ => wire::parse(have, self.parsed, expect),
            };
            match parsed {
                Parsed::More(missing) => return Read::More(missing),
                Parsed::Reply(used, value @ Reply::Value { .. }) if !self.keys.is_empty() => {
                    self.parsed += used;
                    match classic::hit(value, have, &self.out, &self.keys, &self.hits) {
                        Some(hit) => self.hits.push(hit),
                        None => return Read::Wrong("the value of another key"),
                    }
                }
                Parsed::Reply(used, reply) => {
                    self.parsed += used;
                    self.answers.push(reply);
                    self.refused |= reply.is_refusal();
                    if reply.is_last() {
                        self.answered += 1;
                    }
                }
                Parsed::Garbage(what) => return Read::Wrong(what),
            }
        }
        Read::Whole
    }

    /// Begins anew on another connection.
    #[cold]
    pub(super) fn say_again(&mut self) {
        self.reopened = true;
        self.sent = 0;
        self.filled = 0;
        self.parsed = 0;
        self.answered = 0;
        self.answers.clear();
        self.hits.clear();
        self.values = answer::Progress::default();
        self.refused = false;
        self.deadline = None;
        self.state = State::Closed;
    }

    /// Does the server refuse what a master does not? One that is watched, and has lost its replicas,
    /// may have lost them to a new one (`min-replicas-to-write`).
    #[cold]
    fn is_from_replica(&self, watched: bool) -> bool {
        let received = self.received();
        let words: [&[u8]; 3] = [b"READONLY ", b"MASTERDOWN ", b"NOREPLICAS "];
        let words = words.get(..2 + usize::from(watched)).unwrap_or_default();
        self.answers.iter().any(|reply| match reply {
            Reply::ServerError(line) => {
                let line = line.of(received);
                // Redis 6 shows what a script was refused behind words of its own.
                words
                    .iter()
                    .any(|word| memchr::memmem::find(line, word).is_some())
            }
            _ => false,
        })
    }

    /// A server may refuse a value before all of it is out, and then need not be sent the
    /// rest. The connection is of no further use, and anything but a refusal is a lie.
    #[cold]
    pub(super) fn digest_early(&mut self, node: &mut node::Node, now: Instant) {
        let Some(expect) = self.asks.first().copied() else {
            return;
        };
        let have = self.read.get(..self.filled).unwrap_or_default();
        match wire::parse(have, 0, expect) {
            Parsed::More(_) => {}
            Parsed::Reply(_, reply) if self.stores && reply.is_refusal() => {
                self.answers.push(reply);
                self.refused = true;
                self.state = State::Over;
                node.finish(now);
                node.close();
            }
            _ => self.failed(node, garbage("an answer before the question was out")),
        }
    }

    /// As `digest`, but while a pipeline is still going out its first answers are welcome.
    #[cold]
    pub(super) fn digest_part(&mut self, node: &mut node::Node, now: Instant) {
        if self.state == State::Receiving {
            self.digest(node, now);
        }
        // Else they stay in the buffer, which grows as needed, until all is sent.
        else if self.filled > VALUE_MAX {
            self.failed(node, garbage("an answer longer than any value"));
        }
    }
}

#[cold]
pub(super) fn garbage(what: &str) -> Error {
    Error::new(Kind::Protocol, format!("Malformed server response: {what}"))
}
