//! What is asked of servers rather than of keys: version, stats, and to be emptied.

use super::hints::LATE;
use super::{Pool, event};
use crate::call::{Call, Verb};
use crate::config::{Engine, Login, Mode, Target};
use crate::embedded;
use crate::error::{Error, Kind};
use crate::fanout;
use crate::node::Directory;
use crate::transport;
use crate::wire::redis::{self, Shape};
use crate::wire::{Expect, Reply, classic};
use std::rc::Rc;
use std::time::Duration;

/// After a flush, reads that began before it was over everywhere have this long at least to be done.
const SETTLES: Duration = Duration::from_millis(2);

impl Pool {
    /// Says from now on who we are to each memcached that was not told when it was added, or was
    /// told `before`. Connections made so far stay as they are with whoever else uses them.
    pub fn enter_as(&mut self, login: &Login, before: Option<&Login>, directory: &mut Directory) {
        for member in &mut self.members {
            if member.spec.redis.is_none()
                && member
                    .spec
                    .login
                    .as_ref()
                    .is_none_or(|own| Some(own) == before)
            {
                member.spec.login = Some(login.clone());
                member.node = directory.node(&member.spec, self.policy.protocol);
            }
        }
        for index in 0..self.members.len() {
            let own = |node| self.members.iter().position(|m| Rc::ptr_eq(&m.node, node));
            let twin = self.members.get(index).and_then(|m| own(&m.node));
            if let (Some(member), Some(twin)) = (self.members.get_mut(index), twin) {
                member.twin = twin;
            }
        }
    }

    /// The version text of the first node that answers; nodes that do not are events.
    pub fn version(&mut self, call: &mut Call) -> Option<String> {
        (0..self.members.len()).find_map(|index| {
            let lane = match self.engine(index) {
                Engine::Memcached | Engine::Embedded => {
                    self.ask(index, call, Expect::Version, classic::version)?
                }
                Engine::Redis => self.ask_redis(index, call, |out| redis::info(out, b"server"))?,
            };
            let lane = call.lanes.get(lane)?;
            lane.answers.iter().find_map(|reply| match reply {
                Reply::Version(text) => {
                    Some(String::from_utf8_lossy(text.of(lane.received())).into_owned())
                }
                Reply::Text(text) => Some(redis::stats::version(text.of(lane.received()))),
                _ => None,
            })
        })
    }

    /// A line for each Redis node that throws keys away when it is full, which is nothing for a
    /// pool of sessions, and for an embedded one that has done so. It asks them; one that does not say is passed over.
    pub(crate) fn evicting(&mut self, call: &mut Call) -> Vec<String> {
        let asked: Vec<usize> = (0..self.len())
            .filter(|index| self.engine(*index) == Engine::Redis && self.is_up(*index))
            .collect();
        call.reset(Verb::Get);
        let answered = self.exchange_lanes(&asked, call, |lane| {
            lane.ask_redis(|out| redis::info(out, b"memory"));
        });
        let line = |(index, lane): (usize, usize)| {
            let (answers, bytes) = call.answers(lane);
            let Some(Reply::Text(text)) = answers.first() else {
                return None;
            };
            let policy = redis::stats::evicts(text.of(bytes))?;
            Some(format!(
                "node {} throws sessions away when it is full (maxmemory-policy {policy}), and their visitors are logged out. Write maxmemory-policy noeviction into its configuration, and give it room to spare",
                self.name(index)
            ))
        };
        let mut lines: Vec<String> = answered.into_iter().filter_map(line).collect();
        let places = self
            .members
            .iter()
            .filter_map(|member| match &member.spec.target {
                Target::Embedded(place) => Some(place),
                _ => None,
            });
        for place in places {
            let thrown = embedded::kept(&place.directory).map_or(0, |kept| kept.evictions);
            if thrown > 0 {
                lines.push(format!(
                    "node {} was full and has thrown {thrown} items away, those first that end first: visitors whose session was among them are logged out. Write size= behind it, more than {} MB, and keep a cache in another directory",
                    place.directory.display(),
                    place.size >> 20
                ));
            }
        }
        lines
    }

    /// Empties all nodes, in `delay` seconds; true when all did it. A node left alone for
    /// its retry interval is left alone here, too.
    pub fn flush(&mut self, delay: u32, call: &mut Call) -> bool {
        call.reset(Verb::Delete);
        if self.policy.mode == Mode::Fenced {
            self.refuse_call(call, "flush() would log everybody out");
            return false;
        }
        let other = (0..self.len()).find(|index| self.engine(*index) != Engine::Memcached);
        if let (Some(index), 1..) = (other, delay) {
            self.refuse_at(index, call, "flush with a delay is memcached's, and a Redis or embedded node is emptied at once. Leave the delay out");
            return false;
        }
        let (first, now) = (call.used, transport::now());
        let (mut done, mut skipped) = (true, Vec::new());
        for index in self.serving(call) {
            // Else it could come after the flush.
            self.catch_up_with(call, index);
            if !self.allows(index, now) {
                done = false;
                if self.is_copied() {
                    // Else it would bring back what was flushed.
                    self.miss_all(index);
                    skipped.push(index);
                }
            } else if let Some(lane) = self.lane(call, first, index)
                // A server listed twice is emptied once.
                && lane.asks.is_empty()
            {
                lane.ask_to_flush(delay);
                lane.repeatable = true;
            }
        }
        fanout::run(
            call.lanes.get_mut(first..call.used).unwrap_or_default(),
            &[],
        );
        self.tell_skipped(call);
        let (took, mut flushed) = (transport::since(now), Vec::new());
        for lane in first..call.used {
            self.note(call, lane);
            let emptied = call
                .lanes
                .get(lane)
                .is_some_and(|l| l.answers.contains(&Reply::Done));
            done &= emptied;
            let mut refusals = call.lanes.get(lane).into_iter().flat_map(|l| l.refusals());
            if refusals.any(redis::cluster::doubts) {
                self.doubt();
            }
            let member = call.lanes.get(lane).map(|lane| lane.member);
            if let (true, Some(member)) = (self.is_copied(), member) {
                if emptied {
                    flushed.push(member);
                } else {
                    self.miss_all(member);
                }
            }
        }
        if delay == 0 && self.len() > 1 && !flushed.is_empty() && self.rules.flush_again {
            fanout::pause((took * 4).clamp(SETTLES, LATE));
            self.flush_again(&flushed, call);
            // Who was back meanwhile was emptied between the two.
            skipped.iter().for_each(|member| self.miss_all(*member));
        }
        done
    }

    /// Empties these nodes once more. They were not emptied in one moment, and who read meanwhile may
    /// have given one what was still there on another.
    fn flush_again(&mut self, members: &[usize], call: &mut Call) {
        let mut own = Call::new();
        let answered = self.exchange_lanes(members, &mut own, |lane| lane.ask_to_flush(0));
        for member in members {
            let lane = answered.iter().find(|(who, _)| who == member);
            let lane = lane.and_then(|(_, lane)| own.lanes.get(*lane));
            if !lane.is_some_and(|lane| lane.answers.contains(&Reply::Done)) {
                self.miss_all(*member);
            }
        }
        call.events.append(&mut own.events);
        call.changes.append(&mut own.changes);
    }

    /// The STAT or ITEM lines of node `index`, each with CR LF; `None` and an event when it
    /// does not answer or refuses.
    pub fn stats(&mut self, index: usize, args: &[u8], call: &mut Call) -> Option<Vec<u8>> {
        if self.engine(index) == Engine::Redis {
            return self.stats_of_redis(index, args, call);
        }
        let lane = self.ask(index, call, Expect::Stats, |out| classic::stats(out, args))?;
        let lane = call.lanes.get(lane)?;
        let mut text = Vec::with_capacity(lane.received().len());
        for reply in &lane.answers {
            match reply {
                Reply::Stat(line) => {
                    text.extend_from_slice(line.of(lane.received()));
                    text.extend_from_slice(b"\r\n");
                }
                Reply::End => {}
                _ => return None,
            }
        }
        Some(text)
    }

    /// The same lines of a Redis node, which knows no other kinds of them.
    fn stats_of_redis(&mut self, index: usize, args: &[u8], call: &mut Call) -> Option<Vec<u8>> {
        if !matches!(args, b"" | b"reset") {
            let args = String::from_utf8_lossy(args);
            let why = format!(
                "stats of type \"{args}\" are memcached's. A Redis node has those without a type"
            );
            self.refuse_at(index, call, &why);
            return None;
        }
        let lane = self.ask_redis(index, call, |out| match args {
            b"reset" => redis::reset_stats(out),
            _ => redis::info(out, b""),
        })?;
        let lane = call.lanes.get(lane)?;
        match lane.answers.as_slice() {
            [Reply::Text(text)] => Some(redis::stats::lines(text.of(lane.received()))),
            [Reply::Done] => Some(Vec::new()),
            _ => None,
        }
    }

    /// One question to one Redis node, whatever its health; the lane that has the answer.
    fn ask_redis(
        &mut self,
        index: usize,
        call: &mut Call,
        say: impl FnOnce(&mut Vec<u8>) -> Shape,
    ) -> Option<usize> {
        self.exchange_lane(index, call, |lane| lane.ask_redis(say))
    }

    /// Tells the caller what node `index` cannot do; nothing was sent.
    fn refuse_at(&self, index: usize, call: &mut Call, why: &str) {
        if let Some(member) = self.members.get(index) {
            let error = Error::new(Kind::Client, why);
            call.events.push(event(index, member, error));
        }
    }
}
