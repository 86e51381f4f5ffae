//! Machines of `replica` on real nodes: their pipelines as lanes, their answers back.
//!
//! All pipelines of one step go out together and are waited for together, so a read of two
//! nodes takes as long as one. Which server takes versions is found out on each new
//! connection: the question rides before a first read, and costs a trip of its own only
//! when a write is the first thing said.

use super::Pool;
use crate::call::Call;
use crate::error::{Error, Kind};
use crate::fanout;
use crate::replica::words::Words;
use crate::replica::{Command, Lost, Machine, Reply, Send};
use crate::wire::{self, Expect, classic};
use std::time::{Duration, Instant, SystemTime};

/// The first memcached whose meta commands take a version to store (`E`).
const VERSIONS_SINCE: [u32; 3] = [1, 6, 27];

/// What a machine works on.
#[derive(Clone, Copy, Debug)]
pub struct Task<'a> {
    /// Its key as it goes over the wire; empty for work on records alone.
    pub key: &'a [u8],
    /// The key of the nodes' records.
    pub record_key: &'a [u8],
    /// Indices of its nodes, by place.
    pub nodes: &'a [usize],
}

/// This host's clock, milliseconds since 1970: what machines take for the time.
pub fn clock() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |time| {
        u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
    })
}

impl Pool {
    /// The nodes that `key` (wire form) prefers, first to last, `count` at most.
    pub fn preferred(&mut self, key: &[u8], count: usize) -> Vec<usize> {
        let nodes = self.members.len();
        self.ring().owners(key, nodes, count)
    }

    /// Runs a machine to its end. `out` is what it asked for when it was made.
    ///
    /// Failures of nodes are events of the call, as everywhere.
    pub fn drive(
        &mut self,
        machine: &mut dyn Machine,
        mut out: Vec<Send>,
        task: Task<'_>,
        call: &mut Call,
    ) {
        loop {
            if !out.is_empty() {
                let sends = std::mem::take(&mut out);
                for (place, replies) in self.exchange_sends(&sends, task, call) {
                    machine.heard(clock(), place, replies, &mut out);
                }
            } else if machine.is_done() {
                return;
            } else if let Some(until) = machine.wait() {
                fanout::pause(Duration::from_millis(until.saturating_sub(clock())));
                machine.wake(clock(), &mut out);
            } else {
                // It asked for nothing and waits for nothing: there is nothing to drive.
                return;
            }
        }
    }

    fn exchange_sends(
        &mut self,
        sends: &[Send],
        task: Task<'_>,
        call: &mut Call,
    ) -> Vec<(usize, Result<Vec<Reply>, Lost>)> {
        let now = Instant::now();
        let member = |place: usize| task.nodes.get(place).copied();
        // A write to a server nobody asked yet: what it takes has to be known before.
        let strangers: Vec<usize> = sends
            .iter()
            .filter(|send| !send.commands.iter().all(is_read))
            .filter_map(|send| member(send.place))
            .filter(|index| self.takes_versions(*index).is_none() && self.allows(*index, now))
            .collect();
        if !strangers.is_empty() {
            let first = call.used;
            let answered = self.exchange_all(&strangers, call, |out, asks| {
                classic::version(out);
                asks.push(Expect::Version);
            });
            for (index, lane) in answered {
                self.note_version(index, call, lane);
            }
            call.used = first;
        }
        let first = call.used;
        let mut results = Vec::with_capacity(sends.len());
        let mut asked = Vec::with_capacity(sends.len());
        for send in sends {
            let index = member(send.place).filter(|index| self.allows(*index, now));
            let place = index.and_then(|index| {
                let known = self.takes_versions(index);
                let lane = self.lane_index(call, first, index)?;
                Some((lane, index, known))
            });
            match place {
                Some((lane, index, known)) => {
                    self.say_send(send, task, call, lane, known);
                    asked.push((send, lane, index, known));
                }
                None => results.push((send.place, Err(Lost { maybe_done: false }))),
            }
        }
        self.tell_skipped(call);
        fanout::run(
            call.lanes.get_mut(first..call.used).unwrap_or_default(),
            &[],
        );
        for (send, lane, index, known) in asked {
            let replies = self.read_send(send, task, call, lane, index, known);
            results.push((send.place, replies));
        }
        call.used = first;
        results
    }

    fn say_send(
        &self,
        send: &Send,
        task: Task<'_>,
        call: &mut Call,
        lane: usize,
        known: Option<bool>,
    ) {
        let Some(lane) = call.lanes.get_mut(lane) else {
            return;
        };
        if known.is_none() {
            classic::version(&mut lane.out);
            lane.asks.push(Expect::Version);
        }
        lane.repeatable = send.commands.iter().all(is_read);
        lane.stores = send
            .commands
            .iter()
            .any(|command| matches!(command, Command::Write { .. }));
        let words = words(task, known.unwrap_or(false));
        for (opaque, command) in (0..).zip(&send.commands) {
            words.say(command, opaque, &mut lane.out, &mut lane.asks);
        }
    }

    fn read_send(
        &mut self,
        send: &Send,
        task: Task<'_>,
        call: &mut Call,
        lane: usize,
        index: usize,
        known: Option<bool>,
    ) -> Result<Vec<Reply>, Lost> {
        if known.is_none() {
            self.note_version(index, call, lane);
        }
        let sent = call.lanes.get(lane).is_some_and(fanout::Lane::was_sent);
        if !self.note(call, lane) {
            return Err(Lost { maybe_done: sent });
        }
        let Some(answered) = call.lanes.get(lane) else {
            return Err(Lost { maybe_done: sent });
        };
        let words = words(task, known.or(self.takes_versions(index)).unwrap_or(false));
        let answers = answered.answers.iter();
        let replies: Result<Vec<Reply>, &'static str> = answers
            .filter(|reply| !matches!(reply, wire::Reply::Version(_)))
            .zip((0..).zip(&send.commands))
            .map(|(reply, (opaque, command))| {
                // Before the server was known the value was asked for in any case.
                let command = match command {
                    Command::Read { token, .. } if known.is_none() => Command::Read {
                        value: true,
                        token: *token,
                    },
                    other => other.clone(),
                };
                words.read(&command, opaque, *reply, answered.received())
            })
            .collect();
        match replies {
            Ok(replies) if replies.len() == send.commands.len() => Ok(replies),
            short_or_wrong => {
                let what = short_or_wrong
                    .err()
                    .unwrap_or("fewer answers than questions");
                let error =
                    Error::new(Kind::Protocol, format!("Malformed server response: {what}"));
                if let Some(member) = self.members.get(index) {
                    member.node.borrow_mut().fail(&error);
                }
                if let Some(lane) = call.lanes.get_mut(lane) {
                    lane.error = Some(error);
                }
                self.note(call, lane);
                Err(Lost { maybe_done: true })
            }
        }
    }

    fn takes_versions(&self, index: usize) -> Option<bool> {
        let node = self.members.get(index)?.node.borrow();
        node.takes_versions.filter(|_| node.is_connected())
    }

    /// Notes from a server's version text whether it takes versions.
    fn note_version(&self, index: usize, call: &Call, lane: usize) {
        let Some(lane) = call.lanes.get(lane) else {
            return;
        };
        let text = lane.answers.iter().find_map(|reply| match reply {
            wire::Reply::Version(text) => Some(text.of(lane.received())),
            _ => None,
        });
        let Some(text) = text else { return };
        let mut numbers = text
            .split(|byte| !byte.is_ascii_digit())
            .map(|part| std::str::from_utf8(part).ok()?.parse::<u32>().ok())
            .map(Option::unwrap_or_default);
        let version = [(); 3].map(|()| numbers.next().unwrap_or_default());
        if let Some(member) = self.members.get(index) {
            member.node.borrow_mut().takes_versions = Some(version >= VERSIONS_SINCE);
        }
    }
}

fn words<'a>(task: Task<'a>, has_e: bool) -> Words<'a> {
    Words {
        key: task.key,
        record_key: task.record_key,
        has_e,
    }
}

fn is_read(command: &Command) -> bool {
    matches!(command, Command::ReadRecord | Command::Read { .. })
}
