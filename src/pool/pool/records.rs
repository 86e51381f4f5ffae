//! The records of all nodes, looked at together, and what a person may say of them.

use super::Pool;
use super::copies::{Task, speech};
use crate::call::{Call, Verb};
use crate::config::Engine;
use crate::error::{Error, Kind};
use crate::fanout;
use crate::replica::words::Speech;
use crate::replica::{Absent, Command, Founded, Founding, Reply, Standing, State, Survey};
use crate::wire;
use crate::wire::redis::fenced::Told;

/// How often the records are looked at until two looks agree, where nothing speaks against a node.
const LOOKS: usize = 16;

/// What came of a person's word that a pool is new though a node does not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ByHand {
    /// The nodes that answer are trusted; those are listed as absent that do not.
    Founded {
        /// As the nodes stood before.
        before: Survey,
    },
    /// Nothing was changed.
    Refused {
        /// As the nodes stand.
        before: Survey,
        /// Why.
        why: Refusal,
    },
}

/// Why a pool is not founded by hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The node of that place has a record: the pool exists.
    Exists {
        /// Its place.
        place: usize,
    },
    /// No node answers.
    Silent,
    /// Somebody else changed a record meanwhile, or a node went away.
    Again,
}

impl Pool {
    /// Asks every node for its record, all at the same time and whatever their health. Who
    /// answers is marked up again, who does not is marked down, for the whole host.
    ///
    /// Where every node is safe to touch two looks in a row say so.
    pub fn records(&mut self, record_key: &[u8], call: &mut Call) -> Survey {
        call.reset(Verb::Get);
        let mut survey = self.look_at_records(record_key, call);
        // Nodes do not answer at the same moment: one that is back with old data may say "trusted"
        // just before it is made to join, and who lists it answer just after that was taken
        // back. What two looks agree on was so in between.
        for _ in 1..LOOKS {
            if !survey.is_safe() {
                break;
            }
            let again = self.look_at_records(record_key, call);
            if again == survey {
                break;
            }
            survey = again;
        }
        survey
    }

    fn look_at_records(&mut self, record_key: &[u8], call: &mut Call) -> Survey {
        let all: Vec<usize> = (0..self.members.len()).collect();
        let standings = self.standings(&all, record_key, call);
        let named = |(index, standing, _)| (self.ring_name(index), standing);
        Survey::new(standings.into_iter().map(named).collect())
    }

    /// Those of `nodes` whose records nobody here can read, each with the first words of what
    /// stands there.
    pub(crate) fn strange(
        &mut self,
        nodes: &[usize],
        record_key: &[u8],
        call: &mut Call,
    ) -> Vec<(usize, String)> {
        let standings = self.standings(nodes, record_key, call).into_iter();
        let strange = standings.filter(|(_, standing, _)| *standing == Standing::Strange);
        strange.map(|(index, _, words)| (index, words)).collect()
    }

    /// What each of `nodes` says of itself, asked at the same time, and the first words of a record that
    /// cannot be read.
    fn standings(
        &mut self,
        nodes: &[usize],
        record_key: &[u8],
        call: &mut Call,
    ) -> Vec<(usize, Standing, String)> {
        let task = Task {
            key: b"",
            record_key,
            nodes: &[],
        };
        let first = call.used;
        let mut lanes = Vec::with_capacity(nodes.len());
        for index in nodes.iter().copied() {
            self.identify(index);
            let Some(at) = self.lane_index(call, first, index) else {
                continue;
            };
            lanes.push((index, at));
            let words = self.speech_for_records(task, index);
            // A server listed twice has one connection, and is asked once.
            if let Some(lane) = call.lanes.get_mut(at).filter(|lane| lane.asks.is_empty()) {
                words.say(&Command::ReadRecord, 0, &mut lane.out, &mut lane.asks);
                lane.repeatable = true;
            }
        }
        fanout::run(
            call.lanes.get_mut(first..call.used).unwrap_or_default(),
            &[],
        );
        let standings = lanes
            .into_iter()
            .map(|(index, lane)| {
                let standing = self.standing(index, lane, task, call);
                (index, standing, words(call, lane))
            })
            .collect();
        call.used = first;
        standings
    }

    /// Which says the question for a record, the same to every memcached.
    fn speech_for_records<'a>(&self, task: Task<'a>, index: usize) -> Speech<'a> {
        match self.engine(index) {
            Engine::Memcached | Engine::Embedded => speech(task, false),
            Engine::Redis => self.speech_to_redis(task, index, false),
        }
    }

    fn standing(&mut self, index: usize, lane: usize, task: Task<'_>, call: &mut Call) -> Standing {
        if self.note(call, lane) {
            let words = self.speech_for_records(task, index);
            let said = call.lanes.get(lane).and_then(|lane| {
                let reply = lane.answers.first()?;
                Some(words.read(&Command::ReadRecord, 0, *reply, lane.received()))
            });
            let wrong = match said {
                Some(Ok(Reply::Record { record, .. })) => return Standing::Known(record),
                Some(Ok(Reply::NoRecord)) => return Standing::Bare,
                Some(Ok(Reply::StrangeRecord)) => return Standing::Strange,
                Some(Err(what)) => what,
                Some(Ok(_)) | None => "no answer to the question for the record",
            };
            let error = Error::new(
                Kind::Protocol,
                format!("Malformed server response: {wrong}"),
            );
            if let Some(member) = self.members.get(index) {
                member.node.borrow_mut().fail(&error);
            }
            if let Some(lane) = call.lanes.get_mut(lane) {
                lane.error = Some(error);
            }
            self.note(call, lane);
        }
        let twin = |index: usize| self.members.get(index).map(|member| member.twin);
        let event = call
            .events
            .iter()
            .rev()
            .find(|event| twin(event.node) == twin(index));
        Standing::Silent(match event {
            Some(event) => event.error.clone(),
            None => Error::new(Kind::Connect, "Connection failed").at(self.name(index)),
        })
    }

    /// Are these the records of the pool that this host's file speaks of, each of another server?
    ///
    /// # Errors
    /// As [`Pool::stands`]; `Kind::Config` where two names stand for one server.
    pub fn fits(&self, survey: &Survey) -> Result<(), Error> {
        survey.epochs().map_or(Ok(()), |seen| self.stands(seen))?;
        let Some((one, other)) = survey.twins(self.current()) else {
            return Ok(());
        };
        let cause = format!(
            "{one} and {other} are one server: they have the same record, so two copies there are one"
        );
        Err(Error::new(Kind::Config, cause).hint("Name each server once"))
    }

    /// Founds the pool without the nodes that do not answer, by the word of a person: those
    /// that answer get their records and are trusted, if none of them has one.
    ///
    /// What the silent ones have is not believed when they come back: they are listed as
    /// absent in all records, by `host` at `since` (seconds since 1970), and join. `random`
    /// is any number that nobody else has.
    pub fn trust(
        &mut self,
        record_key: &[u8],
        host: &str,
        since: u64,
        random: u64,
        call: &mut Call,
    ) -> ByHand {
        let before = self.records(record_key, call);
        let of_record =
            |place: &usize| !matches!(before.state(*place), State::Silent | State::Bare);
        let why = if let Some(place) = (0..before.len()).find(of_record) {
            Some(Refusal::Exists { place })
        } else if before.all(State::Bare).next().is_none() {
            Some(Refusal::Silent)
        } else {
            None
        };
        if let Some(why) = why {
            return ByHand::Refused { before, why };
        }
        let without: Vec<Absent> = before
            .all(State::Silent)
            .map(|place| Absent {
                node: before.name(place).into(),
                host: host.into(),
                since,
            })
            .collect();
        let (names, nodes) = self.everyone();
        let mut out = Vec::new();
        let founding = Founding::without(&names, without, random, &mut out);
        let mut founding = founding.at(self.epochs());
        let task = Task {
            key: b"",
            record_key,
            nodes: &nodes,
        };
        self.drive(&mut founding, out, task, call);
        match founding.result() {
            Some(Founded::New) => ByHand::Founded { before },
            _ => ByHand::Refused {
                before,
                why: Refusal::Again,
            },
        }
    }
}

/// The first words of what a node has in the place of a record, fit for a message.
fn words(call: &Call, lane: usize) -> String {
    /// Bytes of it that are shown.
    const SHOWN: usize = 24;
    let (answers, received) = call.answers(lane);
    let text = match answers.first() {
        Some(wire::Reply::Meta(answer)) => answer.data.of(received),
        Some(wire::Reply::List(list)) => match Told::of(received, *list) {
            Ok(Some(told)) => told.text.of(received),
            _ => b"",
        },
        // Of a Redis, which refuses to read as a record what is none.
        _ => return "a key of another type".to_owned(),
    };
    let shown = text.get(..SHOWN.min(text.len())).unwrap_or_default();
    let shown = String::from_utf8_lossy(shown);
    let plain = |c: char| {
        if c.is_control() || c == '\u{fffd}' {
            '?'
        } else {
            c
        }
    };
    let shown: String = shown.chars().map(plain).collect();
    format!("\"{shown}\"")
}
