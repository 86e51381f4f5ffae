//! What nodes of a cluster sent elsewhere is said there.
//!
//! ```text
//!   lanes ─► fanout ─► "MOVED", "ASK" ─► lanes of the nodes they name ─► fanout ─► answers
//!                          │                       │
//!            that slot ◄───┘                       └───► and the whole table with the same trip
//! ```
//!
//! A request that a node sent elsewhere was not carried out, and so is said there, whatever it
//! is; one that was not answered is not. All this happens below calls and sessions: both find
//! the answers in their lane as if its node had given them.

use super::Pool;
use crate::call::Call;
use crate::error::Error;
use crate::fanout::{self, Lane};
use crate::transport;
use crate::wire::redis::Shape;
use crate::wire::redis::cluster::{self, Redirect};
use crate::wire::{Expect, Reply};
use std::ops::Range;
use std::time::Duration;

/// So often a request is sent on at once. A cluster that is well does it once, or twice in the
/// middle of a move. Behind a move its nodes may name each other until they have heard of it.
const HOPS: u32 = 3;
/// First and longest pause until then, and while the keys of one command are on two nodes.
const AGAIN: [Duration; 2] = [Duration::from_millis(2), Duration::from_millis(50)];

/// A request that has to be said elsewhere.
struct Errand {
    /// The lane it was said in, and its place there.
    lane: usize,
    place: usize,
    member: usize,
    /// After `ASKING`.
    asking: bool,
    /// At the same node, a little later.
    again: bool,
    words: Vec<u8>,
    expect: Expect,
}

/// What a write is refused with of which fewer replicas than wanted have heard.
pub(super) fn too_few(had: u64, wanted: u32, milliseconds: u64) -> String {
    carried_out_but(&format!(
        "{had} of {wanted} replicas had it within {milliseconds} ms"
    ))
}

fn carried_out_but(why: &str) -> String {
    format!("NOREPLICAS carried out by the master, but {why}")
}

impl Pool {
    /// Runs the lanes from `first` on; what nodes of a cluster sent elsewhere is asked there.
    #[inline]
    pub(super) fn carry(&mut self, call: &mut Call, first: usize) {
        if self.waits || self.cluster.is_some() {
            self.carry_on(call, first);
            return;
        }
        let (lanes, arena) = (&mut call.lanes, &call.arena);
        fanout::run(lanes.get_mut(first..call.used).unwrap_or_default(), arena);
    }

    #[inline(never)]
    fn carry_on(&mut self, call: &mut Call, first: usize) {
        self.run_lanes(call, first);
        if self.cluster.is_some() {
            self.redirect(call, first);
        }
    }

    /// Runs the lanes from `first` on, each with the question whether replicas have what it
    /// stored, where that is wanted.
    fn run_lanes(&mut self, call: &mut Call, first: usize) {
        let lanes = call.lanes.get_mut(first..call.used).unwrap_or_default();
        if !self.waits {
            fanout::run(lanes, &call.arena);
            return;
        }
        let wanted = |lane: &Lane| match lane.lasting {
            true => self.replicas_wanted(lane.member),
            false => 0,
        };
        for lane in lanes.iter_mut() {
            let wanted = wanted(lane);
            if wanted == 0 {
                continue;
            }
            let limit = self.wait_limit(lane.member);
            lane.take_tail(&call.arena);
            lane.ask_redis(|out| cluster::wait(out, wanted, limit));
            lane.waited = true;
        }
        fanout::run(lanes, &call.arena);
        for lane in lanes.iter_mut() {
            let wanted = wanted(lane);
            if wanted == 0 {
                continue;
            }
            let limit = self.wait_limit(lane.member);
            let line = match lane.take_last() {
                Some(Reply::Number(had)) if had >= u64::from(wanted) => continue,
                Some(Reply::Number(had)) => too_few(had, wanted, limit),
                Some(
                    Reply::ServerError(line) | Reply::ClientError(line) | Reply::Unknown(line),
                ) => carried_out_but(&String::from_utf8_lossy(line.of(lane.received()))),
                // Cut off: what came before it is as good as not answered, and the lane has its error.
                _ => {
                    lane.answer_with(&[]);
                    continue;
                }
            };
            let line = format!("-{line}\r\n");
            let mut raw = lane.raw_answers();
            raw.truncate(lane.asks.len());
            for (reply, raw) in lane.answers.iter().zip(&mut raw) {
                if matches!(reply, Reply::Done | Reply::Number(_)) {
                    *raw = line.clone().into_bytes();
                }
            }
            lane.answer_with(&raw);
        }
    }

    /// How many replicas of a node have to have what was stored before it is acknowledged.
    pub(super) fn replicas_wanted(&self, member: usize) -> u32 {
        let redis = self.spec(member).and_then(|spec| spec.redis.as_ref());
        redis.map_or(0, |redis| redis.wait)
    }

    /// How long a node waits for its replicas, milliseconds: its answer has to be here within
    /// the limit of the exchange.
    pub(super) fn wait_limit(&self, member: usize) -> u64 {
        let limit = self
            .spec(member)
            .map_or(Duration::ZERO, |spec| spec.op_timeout);
        u64::try_from((limit - limit / 4).as_millis()).unwrap_or(u64::MAX)
    }

    /// Says what nodes sent elsewhere in the lanes from `first` on there, and puts the answers in
    /// the place of theirs.
    pub(super) fn redirect(&mut self, call: &mut Call, first: usize) {
        let lanes = call.lanes.get(first..call.used).unwrap_or_default();
        if lanes.iter().any(|lane| lane.refused) {
            self.run_elsewhere(call, first);
        }
    }

    #[cold]
    fn run_elsewhere(&mut self, call: &mut Call, first: usize) {
        let (last, since) = (call.used, transport::now());
        let (mut hops, [mut pause, longest]) = (0, AGAIN);
        let mut errands = Vec::new();
        loop {
            errands = self.errands(call, first..last, &errands);
            if errands.is_empty() {
                return;
            }
            self.sent_on = true;
            let again = errands.iter().any(|errand| errand.again);
            let mut agreed = true;
            hops += u32::from(!again);
            if again || hops > HOPS {
                let limit = self.spec(0).map_or(Duration::ZERO, |spec| spec.op_timeout);
                let late = transport::since(since) + pause > limit;
                if late && again {
                    return;
                }
                agreed = !late;
                if agreed {
                    fanout::pause(pause);
                    pause = (pause * 2).min(longest);
                }
            }
            let answers = if agreed {
                self.run_errands(call, &mut errands)
            } else {
                let line = format!(
                    "-ERR sent on {} times: the nodes of the cluster do not agree on who has this key's slot. Compare CLUSTER NODES of each\r\n",
                    hops - 1
                );
                errands.iter().map(|_| line.clone().into_bytes()).collect()
            };
            for lane in first..last {
                let Some(lane_of) = call.lanes.get_mut(lane) else {
                    continue;
                };
                let here = errands.iter().zip(&answers);
                let here: Vec<_> = here.filter(|(errand, _)| errand.lane == lane).collect();
                if here.is_empty() {
                    continue;
                }
                let mut raw = lane_of.raw_answers();
                for (errand, answer) in here {
                    if let Some(raw) = raw.get_mut(errand.place) {
                        raw.clone_from(answer);
                    }
                }
                lane_of.answer_with(&raw);
            }
        }
    }

    /// What nodes sent elsewhere, in the order of lanes and places. Notes what they said of slots.
    /// Who was asked in the `round` before says where, and stands for a host that is not named.
    fn errands(&mut self, call: &Call, lanes: Range<usize>, round: &[Errand]) -> Vec<Errand> {
        let mut errands = Vec::new();
        for index in lanes {
            let Some(lane) = call.lanes.get(index).filter(|lane| lane.refused) else {
                continue;
            };
            let requests = lane.requests(&call.arena);
            for (place, reply) in lane.answers.iter().enumerate() {
                let Reply::ServerError(line) = reply else {
                    continue;
                };
                let line = line.of(lane.received());
                let (Some(words), Some(expect)) = (requests.get(place), lane.asks.get(place))
                else {
                    continue;
                };
                let Some(found) = cluster::redirect(line) else {
                    if cluster::doubts(line) {
                        self.doubt();
                    }
                    continue;
                };
                let said = (round.iter())
                    .find(|errand| (errand.lane, errand.place) == (index, place))
                    .map_or(lane.member, |errand| errand.member);
                let member = match found {
                    Redirect::Again => lane.member,
                    Redirect::Moved { slot, host, port } => {
                        let host = self.host_or(host, said);
                        self.slot_moved(slot, &host, port);
                        self.member_at(&host, port)
                    }
                    Redirect::Ask { host, port } => {
                        let host = self.host_or(host, said);
                        self.member_at(&host, port)
                    }
                };
                errands.push(Errand {
                    lane: index,
                    place,
                    member,
                    asking: matches!(found, Redirect::Ask { .. }),
                    again: found == Redirect::Again,
                    words: words.clone(),
                    expect: match expect {
                        // It is one key here.
                        Expect::Redis(Shape::Values(cas)) => Expect::Redis(Shape::Item(*cas)),
                        other => *other,
                    },
                });
            }
        }
        self.adopt();
        errands
    }

    /// Says each errand where it belongs, in lanes behind those of the call; the answers, byte
    /// for byte.
    fn run_errands(&mut self, call: &mut Call, errands: &mut [Errand]) -> Vec<Vec<u8>> {
        let (last, now) = (call.used, transport::now());
        // Lane and place of each one's answer there.
        let mut places = Vec::with_capacity(errands.len());
        for errand in errands.iter_mut() {
            let origin = call.lanes.get(errand.lane);
            let (repeatable, stores, lasting) = origin.map_or((false, false, false), |lane| {
                (lane.repeatable, lane.stores, lane.lasting)
            });
            // First: a lane without a question would connect to a node that is left alone.
            let lane = match self.allows(errand.member, now) {
                true => self.lane_index(call, last, errand.member),
                false => None,
            };
            let place = match lane {
                Some(index) => {
                    let fresh = call
                        .lanes
                        .get(index)
                        .is_some_and(|lane| lane.asks.is_empty());
                    call.lanes.get_mut(index).map(|lane| {
                        lane.repeatable = repeatable && (fresh || lane.repeatable);
                        lane.stores |= stores;
                        lane.lasting |= lasting;
                        if errand.asking {
                            lane.ask_redis(cluster::asking);
                        }
                        lane.out.append(&mut errand.words);
                        lane.asks.push(errand.expect);
                        (index, lane.asks.len() - 1)
                    })
                }
                None => None,
            };
            places.push(place);
        }
        // It is told as an answer.
        self.skipped.clear();
        let table = self.ask_along(call, last);
        self.run_lanes(call, last);
        if let Some((lane, place)) = table
            && let Some(lane) = call.lanes.get(lane)
            && let Some(table) = self.table_in(lane, place, lane.member)
        {
            self.learn_table(table);
            self.adopt();
        }
        let lanes = call.lanes.get(last..call.used).unwrap_or_default();
        let mut raw: Vec<Vec<Vec<u8>>> = lanes.iter().map(fanout::Lane::raw_answers).collect();
        let mut take = |(lane, place): (usize, usize)| {
            let answer = raw.get_mut(lane - last)?.get_mut(place)?;
            Some(std::mem::take(answer))
        };
        let mut answers = Vec::with_capacity(errands.len());
        for (errand, place) in errands.iter().zip(places) {
            let lane = place.and_then(|(lane, _)| call.lanes.get(lane));
            let error = lane.and_then(|lane| lane.error.clone());
            let answer = place.and_then(&mut take);
            answers.push(answer.unwrap_or_else(|| self.unanswered(errand.member, error)));
        }
        self.drop_lanes(call, last);
        answers
    }

    /// Puts the question for the table behind the errands of one lane, where a slot has moved:
    /// the node that got it knows best. Lane and place of its answer.
    fn ask_along(&self, call: &mut Call, last: usize) -> Option<(usize, usize)> {
        if !self.takes_table() {
            return None;
        }
        let mut lanes = (last..).zip(call.lanes.get_mut(last..call.used)?);
        let (index, lane) = lanes.find(|(_, lane)| !lane.asks.is_empty())?;
        lane.ask_redis(cluster::ask_slots);
        Some((index, lane.asks.len() - 1))
    }

    /// The answer in place of one that did not come.
    fn unanswered(&self, member: usize, error: Option<Error>) -> Vec<u8> {
        let cause = match (error, self.members.get(member)) {
            (Some(error), _) => error.cause().to_owned(),
            (None, Some(member)) => member.node.borrow().health.cause().cause().to_owned(),
            (None, None) => String::new(),
        };
        let name = self.name(member);
        format!("-CLUSTERDOWN {name} has this key's slot now, and does not answer: {cause}\r\n")
            .into_bytes()
    }
}
