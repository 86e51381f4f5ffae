//! A node that came back gets what it missed: keys listed elsewhere, mended one by one.
//!
//! Any host may do it, and two at the same time do no harm but to each other's pass: the
//! later one takes the earlier one's proof away, and so on for ever. So a pass has a turn
//! (`turn`), and ends when that is lost.

mod held;
mod listing;
mod pace;
pub(crate) mod stream;
pub mod wait;

use super::Pool;
use super::copies::{Task, clock};
use super::turn::Turn;
use crate::call::{Call, Verb};
use crate::fanout;
use crate::replica::{
    Distrust, Founded, Founding, Lists, Machine, Mend, Resync, Resynced, Send, Waiting,
};
use crate::shared::{self, Progress};
use crate::transport;
use held::Held;
use listing::Unlisted;
use pace::Pace;
use std::collections::HashMap;
use std::iter::Peekable;
use std::time::Duration;
use std::vec::IntoIter;
use wait::{Mute, Wait};

/// How long somebody else may need to found a pool, and how often is looked whether he has.
const FOUNDING: Duration = Duration::from_millis(500);
const LOOK: Duration = Duration::from_millis(10);
/// Bytes of the items that are mended at the same time, unless one alone has more: a step is said by
/// a node within its time limit.
const BATCH_BYTES: usize = 256 * 1024;
/// Keys that are looked at for them: of many nodes few keys are one node's.
const LOOKED: usize = 1024;
/// Memory for the keys of a pass unless something else is said, bytes: more than a million sessions.
const ROOM: usize = 192 << 20;

/// What a pass over one node came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pass {
    /// How it ended.
    pub end: Resynced,
    /// Keys that prefer the node and were looked at.
    pub keys: usize,
    /// Of those, how many could not be mended.
    pub failed: usize,
    /// It was given up because its turn was gone, or another's.
    pub lost: bool,
    /// Its node has to wait, since another one lists its keys to nobody.
    pub wait: Option<Wait>,
}

impl Pass {
    const fn ended(end: Resynced) -> Pass {
        Pass {
            end,
            keys: 0,
            failed: 0,
            lost: false,
            wait: None,
        }
    }

    /// One that the node at `place` kept from its beginning.
    const fn stopped_at(place: usize) -> Pass {
        Pass::ended(Resynced::Stopped { place })
    }
}

/// How a pass is run.
#[derive(Clone, Copy, Debug)]
pub struct Way<'a> {
    /// Who took the turn for it, if somebody did.
    pub runner: Option<&'a str>,
    /// The nodes that list their keys to nobody ([`Pool::mute`]).
    pub mute: &'a [Mute],
    /// How much memory the keys may take that are held at a time, bytes: where that is not enough for
    /// all of them the other nodes are listed several times.
    pub room: usize,
}

impl<'a> Way<'a> {
    /// In the turn that `runner` took, with nothing else said.
    pub fn of(runner: &'a str) -> Way<'a> {
        Way {
            runner: Some(runner),
            ..Way::default()
        }
    }
}

impl Default for Way<'_> {
    fn default() -> Self {
        Way {
            runner: None,
            mute: &[],
            room: ROOM,
        }
    }
}

/// A pass under way, piece by piece.
#[derive(Debug)]
pub struct Passing {
    target: usize,
    record_key: Vec<u8>,
    resync: Resync,
    /// Those still to be mended, each with the bytes of its item.
    keys: Peekable<IntoIter<(Vec<u8>, usize)>>,
    all: usize,
    seen: usize,
    /// The turn that was taken for it, if one was.
    turn: Option<Turn>,
    noted: Noted,
    /// Where a node that lists nothing is not missed: those that are listed, with their records' ids.
    beside: Vec<(usize, u64)>,
    done: Pass,
}

/// What the host's processes know of a pass, until it is dropped.
#[derive(Debug)]
struct Noted(u64);

impl Noted {
    fn at(&self, seen: usize, all: usize) {
        let (seen, all) = (seen as u64, all as u64);
        shared::note_pass(self.0, Some(Progress { seen, all }));
    }
}

impl Drop for Noted {
    fn drop(&mut self) {
        shared::note_pass(self.0, None);
    }
}

impl Passing {
    /// The keys that the other nodes hold, each with the bytes of one copy, listed since the
    /// pass began.
    pub fn copy(&mut self, keys: HashMap<Vec<u8>, usize>) {
        self.all = keys.len();
        let mut keys: Vec<(Vec<u8>, usize)> = keys.into_iter().collect();
        if transport::is_played() {
            // A map has another order each time.
            keys.sort_unstable();
        }
        self.keys = keys.into_iter().peekable();
    }

    /// The same pass in the turn that `runner` took.
    #[must_use]
    pub fn of(mut self, runner: &str) -> Passing {
        self.turn = Some(Turn::of(self.target, &self.record_key, runner));
        self
    }

    /// What it came to when records changed meanwhile.
    fn again(&self) -> Pass {
        Pass {
            end: Resynced::Again,
            ..self.done
        }
    }

    /// What it came to when its turn is gone.
    fn lost(&self) -> Pass {
        Pass {
            end: Resynced::Again,
            lost: true,
            ..self.done
        }
    }

    /// What it came to when the node at `place` does not answer.
    fn stopped(&self, place: usize) -> Pass {
        Pass {
            end: Resynced::Stopped { place },
            ..self.done
        }
    }
}

impl Pool {
    /// Gives the pool's nodes their records, where they have none.
    ///
    /// Where somebody else is at it, he is waited for, half a second at most. `random` is any
    /// number that nobody else has.
    pub fn found(&mut self, record_key: &[u8], random: u64, call: &mut Call) -> Founded {
        let begin = transport::now();
        loop {
            let late = transport::since(begin) > FOUNDING;
            match self.found_once(record_key, random, late, call) {
                Founded::Again if !late => fanout::pause(LOOK),
                end => return end,
            }
        }
    }

    fn found_once(
        &mut self,
        record_key: &[u8],
        random: u64,
        late: bool,
        call: &mut Call,
    ) -> Founded {
        let (names, nodes) = self.everyone();
        let mut out = Vec::new();
        let mut founding = Founding::new(&names, random, &mut out)
            .at(self.epochs())
            .under(self.rules().machines);
        if late {
            founding = founding.late();
        }
        let task = Task {
            key: b"",
            record_key,
            nodes: &nodes,
        };
        self.drive(&mut founding, out, task, call);
        founding.result().unwrap_or(Founded::Stopped { place: 0 })
    }

    /// Takes the trust from node `target`, if it has it in the life of that name: it is another
    /// process than it was. False when that could not be said to it.
    pub fn distrust(&mut self, target: usize, id: u64, record_key: &[u8], call: &mut Call) -> bool {
        call.reset(Verb::Get);
        let mut out = Vec::new();
        let mut distrust = Distrust::new(self.ring_name(target), id, &mut out);
        let task = Task {
            key: b"",
            record_key,
            nodes: &[target],
        };
        self.drive(&mut distrust, out, task, call);
        distrust.result() == Some(true)
    }

    /// The sign of a runner, where one is due or `now`.
    ///
    /// # Errors
    /// What the pass came to, when its turn is gone.
    pub(crate) fn goes_on(
        &mut self,
        passing: &mut Passing,
        now: bool,
        call: &mut Call,
    ) -> Result<(), Pass> {
        if let Some(turn) = &mut passing.turn
            && (now || turn.is_due())
            && !self.sign(turn, Duration::ZERO, call)
        {
            return Err(passing.lost());
        }
        Ok(())
    }

    /// One pass over node `target`: when it goes well the node is trusted again.
    ///
    /// `random` is any number that nobody else has.
    pub fn resync(
        &mut self,
        target: usize,
        record_key: &[u8],
        random: u64,
        call: &mut Call,
    ) -> Pass {
        let mute = match self.mute(Some(target), call) {
            Ok(mute) => mute,
            Err(place) => return Pass::stopped_at(place),
        };
        let way = Way {
            mute: &mute,
            ..Way::default()
        };
        self.resync_told(target, record_key, way, random, call, &mut |_, _| {})
    }

    /// The same in that way, in a turn that was taken while he who took it has it; and after each key
    /// `progress` is told how many are done, and of how many.
    pub fn resync_told(
        &mut self,
        target: usize,
        record_key: &[u8],
        way: Way<'_>,
        random: u64,
        call: &mut Call,
        progress: &mut dyn FnMut(usize, usize),
    ) -> Pass {
        let mut passing = match self.open_beside(way.mute, target, record_key, random, call) {
            Ok(passing) => passing,
            Err(done) => return done,
        };
        passing.turn = (way.runner).map(|runner| Turn::of(target, record_key, runner));
        let mute = |index: &usize| way.mute.iter().any(|mute| mute.place == *index);
        let lists = |index: &usize| *index != target && !mute(index);
        let sources: Vec<usize> = (0..self.members.len()).filter(lists).collect();
        let mut held = Held::new(way.room);
        let mut pace = Pace::new();
        loop {
            for index in &sources {
                if let Err(lost) = self.goes_on(&mut passing, true, call) {
                    return lost;
                }
                let turn = passing.turn.as_mut();
                match self.keys_of(*index, record_key, &mut held, turn, call) {
                    Ok(()) => {}
                    Err(Unlisted::Silent) => return passing.stopped(*index),
                    Err(Unlisted::Lost) => return passing.lost(),
                }
            }
            let keys = held.give();
            let all = held.all(passing.seen + keys.len());
            passing.copy(keys);
            passing.all = all;
            while passing.keys.peek().is_some() {
                let (begun, before) = (transport::now(), passing.done.keys);
                if let Some(done) = self.go_on(&mut passing, pace.keys(), call) {
                    return done;
                }
                // Where no key was the node's, nobody was asked.
                if passing.done.keys > before {
                    pace.took(transport::since(begun));
                }
                progress(passing.seen, passing.all);
            }
            if !held.next() {
                return self.end_pass(&mut passing, call);
            }
        }
    }

    /// The records' part of a pass, up to where all keys of the other nodes are to be listed.
    ///
    /// # Errors
    /// What it came to, when it is over already.
    pub fn open_pass(
        &mut self,
        target: usize,
        record_key: &[u8],
        random: u64,
        call: &mut Call,
    ) -> Result<Passing, Pass> {
        self.open_named(target, record_key, None, random, call)
    }

    /// The same for a node on which this wait was noted.
    fn open_named(
        &mut self,
        target: usize,
        record_key: &[u8],
        waiting: Option<Waiting>,
        random: u64,
        call: &mut Call,
    ) -> Result<Passing, Pass> {
        call.reset(Verb::Get);
        let (names, nodes) = self.everyone();
        let mut out = Vec::new();
        let epoch = self.policy.list_epoch().unwrap_or(u32::MAX);
        let resync = Resync::new(&names, target, self.rules.machines, random, &mut out).at(epoch);
        let mut resync = resync.waiting(waiting);
        let task = Task {
            key: b"",
            record_key,
            nodes: &nodes,
        };
        self.drive(&mut resync, out, task, call);
        let done = Pass::ended(resync.result().unwrap_or(Resynced::Again));
        if done.end != Resynced::Copy {
            return Err(done);
        }
        let noted = Noted(shared::pass_of(record_key, &self.ring_name(target)));
        noted.at(0, 0);
        Ok(Passing {
            noted,
            target,
            record_key: record_key.to_vec(),
            resync,
            keys: Vec::new().into_iter().peekable(),
            all: 0,
            seen: 0,
            turn: None,
            beside: Vec::new(),
            done,
        })
    }

    /// Mends up to `most` further keys of a pass, or ends it; what it came to, when it is over.
    pub fn go_on(&mut self, passing: &mut Passing, most: usize, call: &mut Call) -> Option<Pass> {
        let mut batch: Vec<(Vec<u8>, Lists, usize)> = Vec::new();
        let (mut bytes, mut looked) = (0, 0);
        while batch.len() < most
            && looked < LOOKED
            && let Some((key, size)) = passing
                .keys
                .next_if(|(_, size)| batch_has_room(bytes, *size))
        {
            looked += 1;
            let lists = self.lists(&key);
            let place = lists.nodes.iter().position(|node| *node == passing.target);
            if let Some(place) = place {
                bytes += size;
                batch.push((key, lists, place));
            }
        }
        if looked == 0 {
            return Some(self.end_pass(passing, call));
        }
        if let Err(lost) = self.goes_on(passing, false, call) {
            return Some(lost);
        }
        let Passing {
            record_key,
            all,
            seen,
            noted,
            done,
            ..
        } = passing;
        // What was refused for so many keys needs no list of its own.
        call.reset(Verb::Get);
        *seen += looked;
        noted.at(*seen, *all);
        self.mend_batch(batch, record_key, call, done);
        // A node that went away would cost each further batch a timeout.
        let gone = call.events.iter().find(|event| event.fault);
        gone.filter(|_| passing.done.failed > 0)
            .map(|event| passing.stopped(event.node))
    }

    fn end_pass(&mut self, passing: &mut Passing, call: &mut Call) -> Pass {
        let mut done = passing.done;
        if done.failed > 0 {
            done.end = Resynced::Again;
            return done;
        }
        if !passing.beside.is_empty() {
            let survey = self.records(&passing.record_key, call);
            if wait::trusted_of(&survey, passing.beside.iter().map(|(place, _)| *place))
                != Some(passing.beside.clone())
            {
                return passing.again();
            }
        }
        let (_, nodes) = self.everyone();
        let mut out = Vec::new();
        passing.resync.finish(&mut out);
        let task = Task {
            key: b"",
            record_key: &passing.record_key,
            nodes: &nodes,
        };
        self.drive(&mut passing.resync, out, task, call);
        done.end = passing.resync.result().unwrap_or(Resynced::Again);
        done
    }

    /// Mends so many keys at the same time, each with its lists and the place in them of the node that
    /// is to have it: each step of all of them is one pipeline to each
    /// node, so that the way there and back counts once and not for every key.
    fn mend_batch(
        &mut self,
        keys: Vec<(Vec<u8>, Lists, usize)>,
        record_key: &[u8],
        call: &mut Call,
        done: &mut Pass,
    ) {
        struct Job {
            mend: Mend,
            key: Vec<u8>,
            nodes: Vec<usize>,
        }
        let mut jobs: Vec<Job> = Vec::with_capacity(keys.len());
        let mut sends: Vec<(usize, Send)> = Vec::new();
        let mut out = Vec::new();
        for (key, lists, place) in keys {
            let nodes = lists.nodes;
            let names: Vec<Box<str>> = nodes.iter().map(|node| self.ring_name(*node)).collect();
            let mut mend = Mend::new(&names, place, self.copies(), self.rules.machines, &mut out);
            if let Some(before) = lists.parts.last() {
                mend = mend.believing(before.clone());
            }
            sends.extend(out.drain(..).map(|send| (jobs.len(), send)));
            jobs.push(Job { mend, key, nodes });
        }
        // A machine asks for something until it is done: there is nothing it waits for.
        while !sends.is_empty() {
            let task = |job: &usize| {
                let job = jobs.get(*job);
                Task {
                    key: job.map_or(b"".as_slice(), |job| &job.key),
                    record_key,
                    nodes: job.map_or(&[][..], |job| &job.nodes),
                }
            };
            let said: Vec<(Task<'_>, &Send)> =
                sends.iter().map(|(job, send)| (task(job), send)).collect();
            let heard = self.exchange_each(&said, call);
            let mut next = Vec::new();
            for ((number, send), replies) in sends.iter().zip(heard) {
                if let Some(job) = jobs.get_mut(*number) {
                    job.mend.heard(clock(), send.place, replies, &mut out);
                    next.extend(out.drain(..).map(|send| (*number, send)));
                }
            }
            sends = next;
        }
        done.keys += jobs.len();
        done.failed += jobs
            .iter()
            .filter(|job| job.mend.result() != Some(true))
            .count();
    }

    pub(crate) fn everyone(&self) -> (Vec<Box<str>>, Vec<usize>) {
        let nodes: Vec<usize> = (0..self.members.len()).collect();
        let names = nodes.iter().map(|node| self.ring_name(*node)).collect();
        (names, nodes)
    }

    /// The name a node has in records: what the ring hashes, without blanks.
    pub fn ring_name(&self, index: usize) -> Box<str> {
        self.members
            .get(index)
            .map_or_else(|| "".into(), |member| member.spec.ring_name())
    }
}

fn batch_has_room(bytes: usize, size: usize) -> bool {
    bytes == 0 || bytes + size <= BATCH_BYTES
}
