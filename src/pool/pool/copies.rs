//! Machines of `replica` on real nodes: their pipelines as lanes, their answers back.
//!
//! All pipelines of one step go out together and are waited for together, so a read of two
//! nodes takes as long as one. Which server takes versions is found out on each new
//! connection: the question rides before a first read, and costs a trip of its own only
//! when a write is the first thing said.

use super::Pool;
use crate::call::Call;
use crate::config::Engine;
use crate::counters::Counter;
use crate::error::{Error, Kind};
use crate::fanout;
use crate::replica::words::{Speech, Words, item_bytes, redis};
use crate::replica::{Command, Lost, Machine, Neighbour, Over, Reply, Send};
use crate::shared;
use crate::transport;
use crate::wire::copied::takes_versions;
use crate::wire::{self, Expect, classic, meta};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

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
    transport::clock()
}

/// This host's name, for records; without blanks, which part the words of one. Read once
/// in a process: four system calls less in each request.
pub fn host_name() -> Box<str> {
    static NAME: OnceLock<Box<str>> = OnceLock::new();
    if let Some(name) = transport::host() {
        return name;
    }
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        name.split_whitespace().next().unwrap_or("unnamed").into()
    })
    .clone()
}

impl Pool {
    /// The nodes that `key` (wire form) prefers, first to last, `count` at most; those of
    /// both lists while there are two.
    pub fn preferred(&mut self, key: &[u8], count: usize) -> Vec<usize> {
        if self.has_window() {
            return self.lists(key).nodes;
        }
        let nodes = self.members.len();
        self.ring().owners(key, nodes, count)
    }

    /// Runs a machine to its end. `out` is what it asked for when it was made.
    ///
    /// Failures of nodes are events of the call, as everywhere.
    pub fn drive(
        &mut self,
        machine: &mut dyn Machine,
        out: Vec<Send>,
        task: Task<'_>,
        call: &mut Call,
    ) {
        self.drive_waiting(machine, out, task, call, &mut |limit, _| {
            fanout::pause(limit);
            None
        });
    }

    /// The same, where a pause is spent in `wait`, which may end it early and says what is
    /// known of a neighbour.
    pub(crate) fn drive_waiting(
        &mut self,
        machine: &mut dyn Machine,
        mut out: Vec<Send>,
        task: Task<'_>,
        call: &mut Call,
        wait: &mut dyn FnMut(Duration, bool) -> Option<Neighbour>,
    ) {
        // A clock that is set back meanwhile would have it wait for so much longer, and whoever
        // waits by the other clock asks without a pause. As long as it goes on it is the one that
        // counts: what ends the turn reads it, too.
        let (begun, since) = (clock(), shared::now());
        let clock = || {
            let (wall, steady) = (clock(), begun + shared::now().saturating_sub(since));
            if wall + SET_BACK < steady {
                steady
            } else {
                wall
            }
        };
        loop {
            if !out.is_empty() {
                let sends = std::mem::take(&mut out);
                for (place, replies) in self.exchange_sends(&sends, task, call) {
                    machine.heard(clock(), place, replies, &mut out);
                }
            } else if machine.is_done() {
                return;
            } else if let Some(until) = machine.wait() {
                let limit = Duration::from_millis(until.saturating_sub(clock()));
                let neighbour = wait(limit, machine.holds());
                machine.hurry(clock(), neighbour);
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
        let said: Vec<(Task<'_>, &Send)> = sends.iter().map(|send| (task, send)).collect();
        let heard = self.exchange_each(&said, call);
        let places = sends.iter().map(|send| send.place);
        places.zip(heard).collect()
    }

    /// Pipelines of one or many machines, all under way at the same time; what is for the
    /// same node goes there together. The answers are in the order of `sends`.
    pub(super) fn exchange_each(
        &mut self,
        sends: &[(Task<'_>, &Send)],
        call: &mut Call,
    ) -> Vec<Result<Vec<Reply>, Lost>> {
        let usual = How {
            anyway: self.patient && self.rules.passed,
            whole: false,
        };
        let mut heard = self.exchange_once(sends, call, usual);
        // A node that was left alone for its mark is needed once another one fails, be the mark
        // still there: it may be well for seconds when its next probe is due.
        let lost = |heard: &Heard| matches!(heard, Heard::Lost(_));
        if self.rules.passed && heard.iter().any(lost) {
            let anyway = How {
                anyway: true,
                whole: false,
            };
            self.replace(&mut heard, sends, call, anyway, |heard| {
                matches!(heard, Heard::Passed)
            });
        }
        let whole = How {
            whole: true,
            ..usual
        };
        self.replace(&mut heard, sends, call, whole, |heard| {
            matches!(heard, Heard::NoScript)
        });
        let replies = heard.into_iter().map(|heard| match heard {
            Heard::Replies(replies) => Ok(replies),
            Heard::Lost(lost) => Err(lost),
            // A script that was said in full is known.
            Heard::NoScript | Heard::Passed => Err(Lost { maybe_done: false }),
        });
        replies.collect()
    }

    /// Asks once more those that were `heard` so.
    fn replace(
        &mut self,
        heard: &mut [Heard],
        sends: &[(Task<'_>, &Send)],
        call: &mut Call,
        how: How,
        so: fn(&Heard) -> bool,
    ) {
        let places = heard.iter().zip(sends).filter(|(heard, _)| so(heard));
        let again: Vec<_> = places.map(|(_, send)| *send).collect();
        if again.is_empty() {
            return;
        }
        let answers = self.exchange_once(&again, call, how);
        let places = heard.iter_mut().filter(|heard| so(heard));
        for (place, answer) in places.zip(answers) {
            *place = answer;
        }
    }

    /// All of these once.
    fn exchange_once(
        &mut self,
        sends: &[(Task<'_>, &Send)],
        call: &mut Call,
        how: How,
    ) -> Vec<Heard> {
        let now = transport::now();
        let member = |(task, send): &(Task<'_>, &Send)| task.nodes.get(send.place).copied();
        self.meet(sends, call, how, now);
        let first = call.used;
        let mut asked = Vec::with_capacity(sends.len());
        for send in sends {
            let index = member(send).filter(|index| how.anyway || self.allows(*index, now));
            asked.push(index.and_then(|index| {
                self.identify(index);
                let known = self.takes_versions(index);
                if known.is_none() && !send.1.commands.iter().all(is_read) {
                    // It did not say just now what it is, and may be one that must not be told.
                    return None;
                }
                let lane = self.lane_index(call, first, index)?;
                let start = say_send(*send, call, lane, known, how.whole)?;
                Some(Asked {
                    lane,
                    start,
                    index,
                    known,
                })
            }));
        }
        self.tell_skipped(call);
        fanout::run(
            call.lanes.get_mut(first..call.used).unwrap_or_default(),
            &[],
        );
        let mut well: Vec<bool> = (first..call.used)
            .map(|lane| {
                if let Some(index) = call.lanes.get(lane).map(|lane| lane.member) {
                    self.note_version(index, call, lane);
                }
                self.note(call, lane)
            })
            .collect();
        let replies = asked
            .into_iter()
            .zip(sends)
            .map(|(asked, send)| {
                let Some(asked) = asked else {
                    return Heard::Passed;
                };
                let well = well.get_mut(asked.lane - first);
                self.read_send(*send, call, asked, well)
            })
            .collect();
        call.used = first;
        replies
    }

    /// Asks each server nobody asked yet and that is to be told to write: what it takes has
    /// to be known before.
    fn meet(&mut self, sends: &[(Task<'_>, &Send)], call: &mut Call, how: How, now: Instant) {
        let mut strangers: Vec<usize> = Vec::new();
        for (task, send) in sends {
            if !send.commands.iter().all(is_read)
                && let Some(index) = task.nodes.get(send.place).copied()
                && self.takes_versions(index).is_none()
                && !strangers.contains(&index)
                && (how.anyway || self.allows(index, now))
            {
                strangers.push(index);
            }
        }
        if strangers.is_empty() {
            return;
        }
        let first = call.used;
        let answered = self.exchange_all(&strangers, call, |out, asks| {
            classic::version(out);
            asks.push(Expect::Version);
        });
        self.note_versions(answered, call);
        call.used = first;
    }

    /// The replies to one pipeline out of its lane. `well` says whether the lane can be
    /// believed, and is told when it cannot.
    fn read_send(
        &mut self,
        (task, send): (Task<'_>, &Send),
        call: &mut Call,
        asked: Asked,
        well: Option<&mut bool>,
    ) -> Heard {
        let Asked {
            lane,
            start,
            index,
            known,
        } = asked;
        let sent = call.lanes.get(lane).is_some_and(fanout::Lane::was_sent);
        let Some(well) = well.filter(|well| **well) else {
            return Heard::Lost(Lost { maybe_done: sent });
        };
        let Some(answered) = call.lanes.get(lane) else {
            return Heard::Lost(Lost { maybe_done: sent });
        };
        let end = start + send.commands.len();
        let answers = answered.answers.get(start..end).unwrap_or_default();
        if has_done_nothing(&send.commands, answers) {
            return Heard::NoScript;
        }
        let words = match answered.engine {
            Engine::Memcached | Engine::Embedded => {
                let has_e = known.or(self.takes_versions(index)).unwrap_or(false);
                speech(task, has_e)
            }
            // Who answered, though the connection may be another than was thought.
            Engine::Redis => self.speech_to_redis(task, index, false),
        };
        let replies: Result<Vec<Reply>, &'static str> = answers
            .iter()
            .zip((start as u64..).zip(&send.commands))
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
            Ok(replies) if replies.len() == send.commands.len() => {
                count(&send.commands, &replies);
                Heard::Replies(replies)
            }
            short_or_wrong => {
                *well = false;
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
                Heard::Lost(Lost { maybe_done: true })
            }
        }
    }

    /// Has a Redis say on each new connection which process it is.
    pub(super) fn identify(&self, index: usize) {
        let redis = |member: &&super::Member| member.spec.redis.is_some();
        if let Some(member) = self.members.get(index).filter(redis) {
            member.node.borrow_mut().identify();
        }
    }

    /// The words of node `index`, a Redis, with the process that its connection leads to.
    pub(super) fn speech_to_redis<'a>(
        &self,
        task: Task<'a>,
        index: usize,
        whole: bool,
    ) -> Speech<'a> {
        let process = |member: &super::Member| member.node.borrow().process;
        Speech::Redis(redis::Words {
            key: task.key,
            record_key: task.record_key,
            process: self.members.get(index).and_then(process),
            whole,
        })
    }

    /// Does the memcached behind the open connection take versions? Of a Redis there is nothing
    /// to be found out.
    fn takes_versions(&self, index: usize) -> Option<bool> {
        if self.engine(index) == Engine::Redis {
            return Some(true);
        }
        let node = self.members.get(index)?.node.borrow();
        node.takes_versions.filter(|_| node.is_connected())
    }

    /// Bytes of the tombstones of a key of `key` bytes on the first `copies` of `nodes`, as memcached
    /// counts them; a Redis says only of each key what it takes, and is not asked.
    pub(crate) fn tombstone_bytes(&self, key: usize, nodes: &[usize], copies: usize) -> u64 {
        let nodes = nodes.iter().take(copies);
        let memcached = nodes.filter(|index| self.engine(**index) != Engine::Redis);
        let bytes = memcached.map(|index| {
            let has_e = self.takes_versions(*index).unwrap_or(false);
            item_bytes(key, 0, has_e) as u64
        });
        bytes.sum()
    }

    /// Notes from a server's version text whether it takes versions. One that speaks no meta commands
    /// has failed, as its lane says then: it would take values for commands.
    pub(super) fn note_version(&self, index: usize, call: &mut Call, lane: usize) {
        let Some(lane) = call.lanes.get_mut(lane) else {
            return;
        };
        let text = lane.answers.iter().find_map(|reply| match reply {
            wire::Reply::Version(text) => Some(text.of(lane.received())),
            _ => None,
        });
        let (Some(text), Some(member)) = (text, self.members.get(index)) else {
            return;
        };
        let mut node = member.node.borrow_mut();
        if meta::is_spoken_by(text) {
            node.takes_versions = Some(takes_versions(text));
            return;
        }
        let version = String::from_utf8_lossy(text);
        let cause = format!("memcached {version} cannot be in a pool with copies");
        let error = Error::new(Kind::Server, cause);
        let error = error.hint("Run memcached 1.6.18 or newer there, or write mode = \"single\"");
        node.fail(&error);
        lane.error = Some(error.at(node.name()));
    }

    /// The same of servers that were asked for nothing else.
    pub(super) fn note_versions(&mut self, answered: Vec<(usize, usize)>, call: &mut Call) {
        for (index, lane) in answered {
            self.note_version(index, call, lane);
            if call
                .lanes
                .get(lane)
                .is_some_and(|lane| lane.error.is_some())
            {
                self.note(call, lane);
            }
        }
    }
}

/// A clock that is so far behind what it should say was set back, milliseconds.
const SET_BACK: u64 = 1000;

/// How pipelines are said.
#[derive(Clone, Copy, Debug)]
struct How {
    /// Also to nodes that are to be left alone for their mark.
    anyway: bool,
    /// Scripts in full, not by their names.
    whole: bool,
}

/// What became of a pipeline.
#[derive(Debug)]
enum Heard {
    /// It was answered.
    Replies(Vec<Reply>),
    /// The node did not answer.
    Lost(Lost),
    /// The node was not asked, since it is left alone.
    Passed,
    /// The node does not know the script, and has done nothing.
    NoScript,
}

/// Where the answers to a pipeline will be.
#[derive(Clone, Copy, Debug)]
struct Asked {
    lane: usize,
    /// The first of its answers in the lane; also the opaque number of its first command.
    start: usize,
    /// The node, and whether it takes versions, as far as that was known.
    index: usize,
    known: Option<bool>,
}

/// Adds a pipeline to a lane; the number of answers before its own.
fn say_send(
    (task, send): (Task<'_>, &Send),
    call: &mut Call,
    lane: usize,
    known: Option<bool>,
    whole: bool,
) -> Option<usize> {
    let lane = call.lanes.get_mut(lane)?;
    let reads = send.commands.iter().all(is_read);
    if lane.asks.is_empty() {
        lane.repeatable = reads;
        if known.is_none() {
            classic::version(&mut lane.out);
            lane.asks.push(Expect::Version);
        }
    }
    lane.repeatable &= reads;
    lane.stores |= send
        .commands
        .iter()
        .any(|command| matches!(command, Command::Write { .. }));
    let start = lane.asks.len();
    let words = match lane.engine {
        Engine::Memcached | Engine::Embedded => speech(task, known.unwrap_or(false)),
        // Only answers are compared with the process.
        Engine::Redis => Speech::Redis(redis::Words {
            key: task.key,
            record_key: task.record_key,
            process: None,
            whole,
        }),
    };
    for (opaque, command) in (start as u64..).zip(&send.commands) {
        words.say(command, opaque, &mut lane.out, &mut lane.asks);
    }
    Some(start)
}

/// The words of a memcached.
pub(super) fn speech(task: Task<'_>, has_e: bool) -> Speech<'_> {
    Speech::Memcached(Words {
        key: task.key,
        record_key: task.record_key,
        has_e,
    })
}

/// Did a Redis know the script of no command that changes anything? What it answered to others
/// is asked again. One that learned the script in the middle of a pipeline has done the rest of
/// it, which is for the reader to find.
fn has_done_nothing(commands: &[Command], answers: &[wire::Reply]) -> bool {
    let unknown = |reply: &wire::Reply| *reply == wire::Reply::NoScript;
    let mut pairs = commands.iter().zip(answers);
    answers.iter().any(unknown)
        && pairs.all(|(command, reply)| unknown(reply) || *command == Command::ReadRecord)
}

/// Counts what only the nodes' answers tell.
fn count(commands: &[Command], replies: &[Reply]) {
    for pair in commands.iter().zip(replies) {
        match pair {
            (
                Command::Write {
                    over: Over::Cas(_), ..
                },
                Reply::Exists,
            ) => shared::count(Counter::Fences),
            // A placeholder has no stamp either, but no bytes.
            (Command::Read { .. }, Reply::Item(item))
                if item.stamp.is_none()
                    && item.data.as_ref().is_some_and(|data| !data.is_empty()) =>
            {
                shared::count(Counter::ForeignItems);
            }
            _ => {}
        }
    }
}

fn is_read(command: &Command) -> bool {
    matches!(command, Command::ReadRecord | Command::Read { .. })
}
