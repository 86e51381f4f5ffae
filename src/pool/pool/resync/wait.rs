//! A pass where another node lists its keys to nobody: the node waits until all that it may lack has
//! ended (why that is right stands in `replica::wait`).
//!
//! Of three or more nodes one that lists nothing is not missed while all others but the target are
//! trusted and nobody lists them: each key of the target's lies on one of those, too, and who is
//! trusted has all that was acknowledged.

use super::super::Pool;
use super::super::turn::key_beside;
use super::{Pass, Passing};
use crate::call::{Call, Verb};
use crate::config::{Engine, SESSION_LIFE_MAX};
use crate::replica::words::VALUE_LIFE_MAX;
use crate::replica::{
    Moment, PREFERRED, Record, Resynced, State, Survey, TOMBSTONE_EXTRA, Waiting,
};
use crate::shared;
use crate::wire::redis::{self, Put};
use crate::wire::{Expect, Reply, Store, classic};

/// What the key of the note begins with.
const NOTE_KEY: &[u8] = b"~w";
/// So much longer than the longest life a wait is, seconds: servers count whole ones, a repair gives
/// a second to what is about to end, and a request may be under way.
const SPARE: u64 = 10;
/// The configuration has the number of the words.
const _: () = assert!(SESSION_LIFE_MAX == VALUE_LIFE_MAX);
/// And by this part of it, for servers whose clocks nobody keeps right.
const DRIFT: u64 = 1000;

/// A node that lists its keys to nobody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mute {
    /// Its place among the pool's nodes.
    pub place: usize,
    /// What it says when it is asked for them.
    pub said: String,
}

/// A wait for the end of all that a node may lack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wait {
    /// How long it takes in all, seconds.
    pub whole: u64,
    /// What is left of that.
    pub left: u64,
    /// It began just now.
    pub begun: bool,
}

impl Pool {
    /// Which nodes but `target` list their keys to nobody.
    ///
    /// # Errors
    /// The place of a node that did not say: a pass that took it for one that lists would end a wait.
    pub fn mute(&mut self, target: Option<usize>, call: &mut Call) -> Result<Vec<Mute>, usize> {
        call.reset(Verb::Get);
        let asked = (0..self.len()).filter(|index| Some(*index) != target);
        let asked: Vec<usize> = asked
            .filter(|index| self.engine(*index) != Engine::Redis)
            .collect();
        self.exchange_all(&asked, call, |out, asks| {
            classic::ask_for_listing(out);
            asks.push(Expect::Keys);
        });
        if let Some(event) = call.events().iter().find(|event| event.fault) {
            return Err(event.node);
        }
        let refused = call.events().iter().filter(|event| !event.fault);
        let mute = refused.filter_map(|event| {
            let said = event.error.cause().trim_end();
            let place = event.node;
            classic::lists_to_nobody(said.as_bytes()).then(|| Mute {
                place,
                said: said.to_owned(),
            })
        });
        Ok(mute.collect())
    }

    /// How long a node waits in this pool until nothing is left that it may lack, seconds: the
    /// longest life of a session and what its tombstone has beyond that.
    ///
    /// Who tends knows no PHP, and items tell their lives only to who lists them. What hosts write
    /// now is no measure either: another one may have written the longest-lived session before.
    /// So a person says it (`session_life` of the pool). Where he does not it is the longest that any
    /// server keeps one: trusted too early a node would seem to have sessions that it has not.
    pub fn longest_wait(&self) -> u64 {
        let life = self.policy.session_life.unwrap_or(SESSION_LIFE_MAX);
        let life = u64::from(life) + u64::from(TOMBSTONE_EXTRA);
        life + life / DRIFT + SPARE
    }

    /// What is left of the wait of node `target`, whose record is this, seconds; `None` where it
    /// does not wait.
    pub fn wait_left(
        &mut self,
        target: usize,
        record: &Record,
        record_key: &[u8],
        call: &mut Call,
    ) -> Option<u64> {
        let (waiting, lasted) = self.noted_wait(target, record_key, call)?;
        let left = self.longest_wait().saturating_sub(lasted);
        waiting.is_of(record).then_some(left)
    }

    /// Where the clock of node `index` stands, as far as it tells.
    pub(crate) fn moment(&mut self, index: usize, call: &mut Call) -> Option<Moment> {
        call.reset(Verb::Get);
        let text = self.stats(index, b"", call)?;
        moment_of(&String::from_utf8_lossy(&text))
    }

    /// Opens a pass in which the nodes in `mute` list nothing.
    ///
    /// # Errors
    /// What it came to, when it is over already; with a wait, when the target has to wait.
    pub(crate) fn open_beside(
        &mut self,
        mute: &[Mute],
        target: usize,
        record_key: &[u8],
        random: u64,
        call: &mut Call,
    ) -> Result<Passing, Pass> {
        let Some(first) = mute.first().map(|mute| mute.place) else {
            return self.open_pass(target, record_key, random, call);
        };
        let without = |survey: &Survey| self::without(survey, target, mute);
        // With a list before that is shorter a key may lie on nobody else.
        if !self.has_window() && without(&self.records(record_key, call)).is_some() {
            let mut passing = self.open_pass(target, record_key, random, call)?;
            // What they say now is of after the pass began, and so of all that it may have missed;
            // that they are the same when all is listed is looked at in the end.
            return match without(&self.records(record_key, call)) {
                Some(sources) => {
                    passing.beside = sources;
                    Ok(passing)
                }
                None => Err(passing.again()),
            };
        }
        if self.has_window() {
            // A host with the list before writes to that alone.
            return Err(Pass::stopped_at(first));
        }
        let noted = self.noted_wait(target, record_key, call);
        let (waiting, lasted) = noted.unzip();
        let mut passing = self.open_named(target, record_key, waiting, random, call)?;
        let whole = self.longest_wait();
        let wait = |lasted: u64, begun| Wait {
            whole,
            left: whole.saturating_sub(lasted),
            begun,
        };
        let wait = match lasted.filter(|_| passing.resync.waits()) {
            Some(lasted) if lasted >= whole => {
                let pass = self.end_pass(&mut passing, call);
                if pass.end == Resynced::Trusted {
                    self.note_wait(target, record_key, b"", call);
                }
                return Err(pass);
            }
            Some(lasted) => wait(lasted, false),
            None => {
                let moment = self.moment(target, call);
                let note = passing.resync.record().zip(moment);
                let note = note.map(|(record, now)| Waiting::begin(record, now).encode());
                let begun =
                    note.is_some_and(|note| self.note_wait(target, record_key, &note, call));
                wait(0, begun)
            }
        };
        let stopped = Pass::stopped_at(first);
        Err(Pass {
            wait: Some(wait),
            ..stopped
        })
    }

    /// The wait that is noted on a node, and how long it has lasted; `None` for none, and for one
    /// of another process.
    fn noted_wait(
        &mut self,
        target: usize,
        record_key: &[u8],
        call: &mut Call,
    ) -> Option<(Waiting, u64)> {
        call.reset(Verb::Get);
        let key = key_beside(record_key, NOTE_KEY);
        let text = self.noted_at(target, &key, call)??;
        let waiting = Waiting::decode(&text)?;
        let lasted = waiting.lasted(self.moment(target, call)?)?;
        Some((waiting, lasted))
    }

    /// Notes a wait on a node, with no end, since it says itself when it began; true when that is
    /// stored.
    fn note_wait(
        &mut self,
        target: usize,
        record_key: &[u8],
        text: &[u8],
        call: &mut Call,
    ) -> bool {
        call.reset(Verb::Get);
        let key = key_beside(record_key, NOTE_KEY);
        let lane = self.exchange_lane(target, call, |lane| match lane.engine {
            Engine::Memcached | Engine::Embedded => {
                let out = &mut lane.out;
                classic::store(out, Store::Set, &key, 0, 0, text.len(), 0);
                out.extend_from_slice(text);
                classic::end(out);
                lane.asks.push(Expect::Stored);
            }
            Engine::Redis => lane.ask_redis(|out| {
                let put = Put {
                    verb: Store::Set,
                    key: &key,
                    flags: 0,
                    ttl: 0,
                    cas: 0,
                    value: text,
                    whole: true,
                };
                redis::store(out, &put)
            }),
        });
        let lane = lane.and_then(|lane| call.lanes.get(lane));
        lane.is_some_and(|lane| lane.answers.first() == Some(&Reply::Done))
    }
}

/// The nodes that are listed, with their records' ids, where a pass over `target` needs no list of
/// those in `mute`.
fn without(survey: &Survey, target: usize, mute: &[Mute]) -> Option<Vec<(usize, u64)>> {
    let [mute] = mute else { return None };
    let others = (0..survey.len()).filter(|place| *place != target && *place != mute.place);
    trusted_of(survey, others).filter(|_| survey.len() >= PREFERRED)
}

/// These nodes with their records' ids, if all of them are trusted.
pub(super) fn trusted_of(
    survey: &Survey,
    mut places: impl Iterator<Item = usize>,
) -> Option<Vec<(usize, u64)>> {
    places.try_fold(Vec::new(), |mut all, place| {
        let record = survey.record(place);
        let record = record.filter(|_| survey.state(place) == State::Trusted)?;
        all.push((place, record.id));
        Some(all)
    })
}

/// Reads it from the lines of `stats`.
fn moment_of(text: &str) -> Option<Moment> {
    let stat = |name: &str| {
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("STAT "));
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
    };
    let number = |name: &str| -> Option<i64> { stat(name)?.trim().parse().ok() };
    let uptime = number("uptime")?;
    let process = match stat("run_id") {
        Some(run) => shared::name_of(run.trim().as_bytes()),
        // Both come from one clock, so that their difference stays while the process lives.
        None => {
            let began = number("time")? - uptime;
            shared::name_of(format!("{} {began}", number("pid")?).as_bytes())
        }
    };
    Some(Moment { process, uptime })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_by_what_stays_while_it_lives() {
        let at = |pid: u32, uptime: u32, time: u32| {
            moment_of(&format!(
                "STAT pid {pid}\r\nSTAT uptime {uptime}\r\nSTAT time {time}\r\n"
            ))
        };
        let first = at(7, 10, 1010);
        assert_eq!(first.map(|moment| moment.uptime), Some(10));
        let process = |moment: Option<Moment>| moment.map(|moment| moment.process);
        assert_eq!(process(first), process(at(7, 90, 1090)));
        assert_ne!(process(first), process(at(7, 10, 1011)));
        assert_ne!(process(first), process(at(8, 10, 1010)));
        assert_eq!(moment_of("STAT pid 7\r\nSTAT uptime 10\r\n"), None);
        let redis = |run: &str| moment_of(&format!("STAT uptime 5\r\nSTAT run_id {run}\r\n"));
        assert_ne!(process(redis("a")), process(redis("b")));
    }
}
