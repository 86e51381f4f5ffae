//! One job as words, and its answer as an outcome.
//!
//! Here the verbs of the API meet the commands of the wire: classic ones, or meta
//! commands where the pool may use them. A counter with a start value is one meta
//! command, and up to three steps in classic words.

use crate::call::{Call, Details, Job, Outcome, Part, Step, Verb};
use crate::config::Engine;
use crate::error::{Error, Kind};
use crate::fanout::Lane;
use crate::item::Span;
use crate::wire::{self, Expect, Reply, Store, classic, meta};

pub(crate) mod redis;

/// Flag bits of a counter made by a default, as pecl-memcache marks an integer (see `codec`).
pub(crate) const FLAGS_INTEGER: u32 = 0x300;

/// May a node be spoken to in meta commands?
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Yes,
    No,
    Unknown,
}

/// How one job is said.
pub(crate) struct Words {
    pub(crate) verb: Verb,
    pub(crate) step: Step,
    pub(crate) meta: bool,
    pub(crate) opaque: u64,
    /// The only job of its call.
    pub(crate) alone: bool,
}

impl Words {
    /// Appends the request and the shape of its answer.
    pub(crate) fn say(&self, lane: &mut Lane, arena: &[u8], key: Span, entry: &Details) {
        if lane.engine == Engine::Redis {
            return self.say_redis(lane, arena, key, entry);
        }
        let key = key.of(arena);
        let up = self.verb == Verb::Increment;
        let out = &mut lane.out;
        let expect = match self.verb {
            Verb::Get | Verb::Gets if self.meta => {
                meta::get(out, key, self.opaque, self.verb == Verb::Gets, None);
                Expect::Meta
            }
            Verb::Get | Verb::Gets => {
                if lane.asks.last() != Some(&Expect::Values) {
                    classic::get(out, self.verb == Verb::Gets);
                    lane.asks.push(Expect::Values);
                }
                classic::get_key(out, key);
                lane.keys.push(Span {
                    at: out.len() - key.len(),
                    len: key.len(),
                });
                return;
            }
            Verb::GetAndTouch if self.meta => {
                meta::get(out, key, self.opaque, true, Some(entry.ttl));
                Expect::Meta
            }
            Verb::GetAndTouch => {
                classic::get_and_touch(out, true, entry.ttl);
                classic::get_key(out, key);
                classic::end(out);
                Expect::Values
            }
            Verb::Store(store) => return self.say_store(lane, arena, key, entry, store),
            Verb::Delete if self.meta => {
                meta::delete(out, key, self.opaque);
                Expect::Meta
            }
            Verb::Delete => {
                classic::delete(out, key);
                Expect::Deleted
            }
            Verb::Increment | Verb::Decrement if self.meta => {
                meta::delta(
                    out,
                    up,
                    key,
                    entry.delta,
                    entry.initial.map(|n| (n, entry.ttl)),
                    self.opaque,
                );
                Expect::Meta
            }
            Verb::Increment | Verb::Decrement if self.step == Step::Create => {
                let mut buffer = itoa::Buffer::new();
                let text = buffer.format(entry.initial.unwrap_or_default()).as_bytes();
                classic::store(
                    out,
                    Store::Add,
                    key,
                    FLAGS_INTEGER,
                    entry.ttl,
                    text.len(),
                    0,
                );
                out.extend_from_slice(text);
                classic::end(out);
                Expect::Stored
            }
            Verb::Increment | Verb::Decrement => {
                classic::delta(out, up, key, entry.delta);
                Expect::Number
            }
            Verb::Touch if self.meta => {
                meta::touch(out, key, entry.ttl, self.opaque);
                Expect::Meta
            }
            Verb::Touch => {
                classic::touch(out, key, entry.ttl);
                Expect::Touched
            }
        };
        lane.asks.push(expect);
    }

    fn say_store(&self, lane: &mut Lane, arena: &[u8], key: &[u8], entry: &Details, verb: Store) {
        /// A value up to this size is copied behind its line, bytes; a longer one that goes
        /// alone is sent from where it lies.
        const COPY_MAX: usize = 2048;
        let value = entry.value.of(arena);
        let Details {
            flags, ttl, cas, ..
        } = *entry;
        if self.meta {
            let put = meta::Put {
                verb,
                key,
                flags,
                ttl,
                len: value.len(),
                cas,
            };
            meta::store(&mut lane.out, put, self.opaque);
        } else {
            classic::store(&mut lane.out, verb, key, flags, ttl, value.len(), cas);
        }
        lane.stores = true;
        if self.alone && value.len() > COPY_MAX {
            lane.tail = entry.value;
        } else {
            lane.out.extend_from_slice(value);
            classic::end(&mut lane.out);
        }
        lane.asks.push(if self.meta {
            Expect::Meta
        } else {
            Expect::Stored
        });
    }
}

/// Reads the answers of one lane, in order.
pub(crate) struct Reader {
    pub(crate) lane: usize,
    pub(crate) verb: Verb,
    /// The job whose answer is next.
    pub(crate) place: usize,
}

impl Reader {
    /// Takes over a get's values, which came in the order of its keys, without the missing ones.
    pub(crate) fn take_hits(&mut self, call: &mut Call, jobs: &mut [Job], hits: &[classic::Hit]) {
        let entries = &mut call.entries;
        // A read goes to one node at a time, so there is no outcome to merge with.
        let mut settle = |job: &mut Job, outcome: Outcome| {
            job.done = true;
            if let Some(entry) = entries.get_mut(job.entry) {
                entry.outcome = Some(outcome);
            }
        };
        for hit in hits {
            let upto = jobs.get_mut(self.place..=hit.place).unwrap_or_default();
            self.place = hit.place + 1;
            let Some((job, missing)) = upto.split_last_mut() else {
                return;
            };
            for job in missing {
                settle(job, Outcome::NotFound);
            }
            let classic::Hit { flags, cas, .. } = *hit;
            let value = Call::hit(self.lane, hit.data);
            settle(job, Outcome::Hit { flags, cas, value });
        }
    }

    pub(crate) fn read(
        &mut self,
        call: &mut Call,
        jobs: &mut [Job],
        reply: Reply,
    ) -> Result<(), &'static str> {
        match reply {
            Reply::Value {
                key,
                flags,
                cas,
                data,
            } => {
                // Of a gat, which has one key; a get's go through `take_hits`.
                let echoed = call
                    .lanes
                    .get(self.lane)
                    .map(|l| key.of(l.received()))
                    .unwrap_or_default();
                let job = jobs.get(self.place).ok_or("an answer to nothing")?;
                if call.wire_key(job.entry) != echoed {
                    return Err("the value of another key");
                }
                let value = Call::hit(self.lane, data);
                Self::settle(call, jobs, self.place, Outcome::Hit { flags, cas, value });
            }
            Reply::End if self.is_one_question(call) => {
                for place in self.place..jobs.len() {
                    Self::settle(call, jobs, place, Outcome::NotFound);
                }
                self.place = jobs.len();
            }
            Reply::End => {
                if jobs.get(self.place).is_some_and(|job| !job.done) {
                    Self::settle(call, jobs, self.place, Outcome::NotFound);
                }
                self.place += 1;
            }
            Reply::Meta(answer) => {
                let place = self.place as u64;
                let echoed = call
                    .lanes
                    .get(self.lane)
                    .and_then(|l| Some(answer.key?.of(l.received())));
                let job = jobs.get(self.place).ok_or("an answer to nothing")?;
                let same_key = echoed.is_none_or(|key| key == call.wire_key(job.entry));
                // memcached leaves the opaque out of a plain miss (EN).
                let same_opaque = answer
                    .opaque
                    .map_or(answer.status == meta::Status::Miss, |o| o == place);
                if !same_key || !same_opaque {
                    return Err("the answer to another question");
                }
                let outcome = self.meta_outcome(call, answer)?;
                Self::settle(call, jobs, self.place, outcome);
                self.place += 1;
            }
            Reply::ServerError(_) | Reply::ClientError(_) | Reply::Unknown(_) => {
                let last = match self.is_one_question(call) {
                    true => jobs.len(),
                    false => self.place + 1,
                };
                for place in self.place..last {
                    Self::settle(call, jobs, place, Outcome::Refused);
                }
                self.place = last;
            }
            Reply::Done => self.next(call, jobs, Outcome::Done),
            Reply::NotStored => self.next(call, jobs, Outcome::NotStored),
            Reply::Exists => self.next(call, jobs, Outcome::Exists),
            Reply::NotFound => self.next(call, jobs, Outcome::NotFound),
            Reply::Number(n) => self.next(call, jobs, Outcome::Number(n)),
            Reply::Item { flags, cas, data } => {
                let value = Call::hit(self.lane, data);
                self.next(call, jobs, Outcome::Hit { flags, cas, value });
            }
            Reply::NoScript => self.again(call, jobs),
            Reply::Stat(_) | Reply::Version(_) | Reply::Text(_) | Reply::List(_) => {
                return Err("an answer to another question");
            }
        }
        Ok(())
    }

    /// Were all keys of the lane asked for at once? Those that each have a question of their own are
    /// answered one by one. Asked at the end of an answer alone: it looks through the questions.
    fn is_one_question(&self, call: &Call) -> bool {
        let one = |lane: &Lane| !lane.apart && lane.asks.iter().any(|expect| expect.is_values());
        self.verb.is_read() && call.lanes.get(self.lane).is_some_and(one)
    }

    /// Has the next job said once more, with its script.
    fn again(&mut self, call: &mut Call, jobs: &mut [Job]) {
        if let Some(job) = jobs.get_mut(self.place) {
            job.done = true;
            call.pending.push(Job {
                step: Step::Again,
                done: false,
                ..*job
            });
        }
        self.place += 1;
    }

    /// Settles the next job, or takes the next step of a counter that needs several.
    fn next(&mut self, call: &mut Call, jobs: &mut [Job], outcome: Outcome) {
        let place = self.place;
        self.place += 1;
        let Some(job) = jobs.get_mut(place) else {
            return;
        };
        let initial = call.details(job.entry).initial;
        let counts = matches!(self.verb, Verb::Increment | Verb::Decrement);
        let further = match (job.step, outcome, initial) {
            (Step::Ask, Outcome::NotFound, Some(_)) if counts => Some(Step::Create),
            (Step::Create, Outcome::NotStored, _) => Some(Step::Again),
            _ => None,
        };
        if let Some(step) = further {
            job.done = true;
            call.pending.push(Job {
                step,
                done: false,
                ..*job
            });
            return;
        }
        let outcome = match (job.step, outcome, initial) {
            (Step::Create, Outcome::Done, Some(n)) => Outcome::Number(n),
            _ => outcome,
        };
        Self::settle(call, jobs, place, outcome);
    }

    fn meta_outcome(&self, call: &Call, answer: meta::Answer) -> Result<Outcome, &'static str> {
        use meta::Status;
        let number = || {
            let text = call
                .lanes
                .get(self.lane)
                .map(|l| answer.data.of(l.received()))?;
            std::str::from_utf8(text).ok()?.trim_end().parse().ok()
        };
        Ok(match (answer.status, self.verb) {
            (Status::Value, Verb::Increment | Verb::Decrement) => {
                Outcome::Number(number().ok_or("a number that is none")?)
            }
            (Status::Value, verb) if verb.wants_values() => {
                let value = Call::hit(self.lane, answer.data);
                Outcome::Hit {
                    flags: answer.flags,
                    cas: answer.cas,
                    value,
                }
            }
            (Status::Done, _) => Outcome::Done,
            (Status::Miss | Status::NotFound, _) => Outcome::NotFound,
            (Status::NotStored, _) => Outcome::NotStored,
            (Status::Exists, _) => Outcome::Exists,
            (Status::Value | Status::NoOp, _) => return Err("an answer to another question"),
        })
    }

    fn settle(call: &mut Call, jobs: &mut [Job], place: usize, outcome: Outcome) {
        if let Some(job) = jobs.get_mut(place) {
            job.done = true;
            match job.part {
                part @ (Part::Owner | Part::Copy) => call.settle(job.entry, part, outcome),
                Part::Before => call.before.push((job.entry, job.member, outcome)),
            }
        }
    }
}

/// pecl-memcache's numbers for a value that is too large for the server, and for one it has no memory for.
const TOO_LARGE: i32 = 3;
const NO_MEMORY: i32 = 0x82;

/// Was a value refused since it is too large, or the server full, and nothing said of what to do?
pub(crate) fn is_for_want_of_room(error: &Error) -> bool {
    // Redis' own word for it comes with its remedy.
    [TOO_LARGE, NO_MEMORY].contains(&error.number()) && !error.cause().starts_with("OOM ")
}

/// A refusal with the number pecl-memcache shows for it (memcache_pool.h MMC_RESPONSE_*).
pub(crate) fn refused(line: &[u8]) -> Error {
    let text = String::from_utf8_lossy(line);
    let (kind, number) = match &*text {
        t if t.starts_with("SERVER_ERROR object too large") => (Kind::Server, TOO_LARGE),
        t if t.starts_with("SERVER_ERROR out of memory") => (Kind::Server, NO_MEMORY),
        t if t.starts_with("SERVER_ERROR") => (Kind::Server, 0),
        t if t.starts_with("CLIENT_ERROR") => (Kind::Client, 6),
        t if t.starts_with("OOM ") => (Kind::Server, NO_MEMORY),
        t if wire::remedy(t).is_some() => (Kind::Server, 0),
        _ => (Kind::Client, 0),
    };
    let cause = match wire::remedy(&text) {
        Some(remedy) => format!("{}. {remedy}", text.trim_end_matches('.')),
        None => text.into_owned(),
    };
    Error::new(kind, cause).code(number)
}
