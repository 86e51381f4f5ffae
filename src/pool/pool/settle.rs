//! From a lane's answers to the outcomes of its keys; what failed goes on to another node.

use super::Pool;
use crate::call::{Call, Job, Outcome, Part, Verb};
use crate::error::{Error, Kind};
use crate::fanout;
use crate::item::Span;
use crate::request::{Meta, Reader};
use crate::wire::{Expect, Reply, meta};
use std::time::Instant;

impl Pool {
    /// Reads a lane's answers into outcomes and sends what failed to other nodes.
    pub(super) fn settle(&mut self, call: &mut Call, lane: usize, verb: Verb, now: Instant) {
        let mut jobs = call
            .jobs
            .get_mut(lane)
            .map(std::mem::take)
            .unwrap_or_default();
        if let Err(what) = self.read_answers(call, lane, &mut jobs, verb) {
            self.disbelieve(call, lane, what);
            // What it said before is not believed either.
            for job in &mut jobs {
                job.done = false;
                if let Some(entry) = call.entries.get_mut(job.entry) {
                    entry.outcome = None;
                }
            }
        }
        let was_sent = call.lanes.get(lane).is_some_and(fanout::Lane::was_sent);
        if !self.note(call, lane) {
            for job in jobs
                .iter()
                .filter(|job| !job.done && job.part == Part::Owner)
            {
                // A write that went out may have been done: it is never said twice.
                let repeat = verb.is_read() || !was_sent;
                if !(repeat && self.fail_over(call, *job, now)) {
                    call.settle(job.entry, Part::Owner, Outcome::Lost);
                }
            }
        }
        jobs.clear();
        if let Some(kept) = call.jobs.get_mut(lane) {
            *kept = jobs;
        }
    }

    /// Gives a node up whose answers cannot belong to the questions.
    pub(super) fn disbelieve(&mut self, call: &mut Call, lane: usize, what: &str) {
        let Some(lane) = call.lanes.get_mut(lane) else {
            return;
        };
        lane.answers.clear();
        let error = Error::new(Kind::Protocol, format!("Malformed server response: {what}"));
        if let Some(member) = self.members.get(lane.member) {
            member.node.borrow_mut().fail(&error);
        }
        lane.error = Some(error);
    }

    /// Reads the answers of one lane into outcomes and marks the jobs they answer.
    ///
    /// # Errors
    /// What is wrong, when an echoed key or opaque is not the one asked for.
    fn read_answers(
        &mut self,
        call: &mut Call,
        lane: usize,
        jobs: &mut [Job],
        verb: Verb,
    ) -> Result<(), &'static str> {
        // Garbage in a lane means its earlier answers may be anybody's, and a get that was
        // cut before its END says nothing.
        if call.lanes.get(lane).is_some_and(|l| {
            l.error.as_ref().is_some_and(|e| {
                e.kind() == Kind::Protocol || l.asks.iter().any(|ask| ask.is_values())
            })
        }) {
            return Ok(());
        }
        let (mut answers, mut hits) = call
            .lanes
            .get_mut(lane)
            .map(|l| (std::mem::take(&mut l.answers), std::mem::take(&mut l.hits)))
            .unwrap_or_default();
        let mut reader = Reader {
            lane,
            verb,
            place: 0,
        };
        reader.take_hits(call, jobs, &hits);
        let mut verdict = Ok(());
        for reply in &answers {
            match reply {
                Reply::Version(text) => self.learn(call, lane, Some(*text)),
                // The probe's own refusal: a server that does not know its version has no meta.
                Reply::Unknown(_) if self.probes(call, lane) => self.learn(call, lane, None),
                _ => verdict = reader.read(call, jobs, *reply),
            }
            if verdict.is_err() {
                break;
            }
        }
        if let Some(lane) = call.lanes.get_mut(lane) {
            std::mem::swap(&mut lane.answers, &mut answers);
            std::mem::swap(&mut lane.hits, &mut hits);
        }
        verdict
    }

    /// True while the lane's node has not told its version.
    fn probes(&self, call: &Call, lane: usize) -> bool {
        call.lanes.get(lane).is_some_and(|l| {
            l.asks.first() == Some(&Expect::Version) && self.meta(l.member) == Meta::Unknown
        })
    }

    /// Notes from its version text whether a node speaks meta commands.
    fn learn(&self, call: &Call, lane: usize, text: Option<Span>) {
        let Some(lane) = call.lanes.get(lane) else {
            return;
        };
        let text = text.map(|t| t.of(lane.received())).unwrap_or_default();
        if let Some(member) = self.members.get(lane.member) {
            member.node.borrow_mut().speaks_meta = Some(meta::is_spoken_by(text));
        }
    }
}
