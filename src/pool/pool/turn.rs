//! The turn to run passes over a node: a small item on the node itself that its runner renews.
//!
//! It decides nothing but who works. Who finds it gone, or another's, ends his pass.

use super::Pool;
use crate::call::{Call, Verb};
use crate::config::Engine;
use crate::transport;
use crate::wire::{Expect, Reply, Store, classic, redis};
use std::time::{Duration, Instant};

/// How long the turn of a pass outlives the last sign of its runner, seconds.
const TURN: u32 = 30;
/// How often the runner gives a sign.
const SIGN: Duration = Duration::from_secs(10);

/// What its key begins with.
const TURN_KEY: &[u8] = b"~p";

/// A turn that was taken.
#[derive(Debug)]
pub(super) struct Turn {
    target: usize,
    key: Vec<u8>,
    runner: Box<str>,
    /// When its runner gave a sign last.
    sign: Instant,
}

impl Turn {
    /// That of `runner` on node `target`.
    pub(super) fn of(target: usize, record_key: &[u8], runner: &str) -> Turn {
        Turn {
            target,
            key: key_beside(record_key, TURN_KEY),
            runner: runner.into(),
            sign: transport::now(),
        }
    }

    /// Is it time for a sign?
    pub(super) fn is_due(&self) -> bool {
        transport::since(self.sign) > SIGN
    }
}

impl Pool {
    /// Takes the turn to run passes over node `target`, for `runner`, a name of which there is
    /// one; false where the node keeps none.
    ///
    /// # Errors
    /// The name of whoever has it. A node that cannot say is no reason not to try.
    pub fn take_turn(
        &mut self,
        target: usize,
        record_key: &[u8],
        runner: &str,
        call: &mut Call,
    ) -> Result<bool, String> {
        call.reset(Verb::Get);
        let key = key_beside(record_key, TURN_KEY);
        let lane = self.exchange_lane(target, call, |lane| {
            if lane.engine == Engine::Redis {
                lane.ask_redis(|out| redis::take_turn(out, &key, runner.as_bytes(), TURN));
                return lane.ask_redis(|out| redis::get(out, &key, false));
            }
            let (out, asks) = (&mut lane.out, &mut lane.asks);
            classic::store(out, Store::Add, &key, 0, TURN, runner.len(), 0);
            out.extend_from_slice(runner.as_bytes());
            out.extend_from_slice(b"\r\n");
            classic::get(out, false);
            classic::get_key(out, &key);
            classic::end(out);
            asks.extend([Expect::Stored, Expect::Values]);
        });
        let Some(lane) = lane.and_then(|lane| call.lanes.get(lane)) else {
            return Ok(false);
        };
        let has = lane.answers.iter().find_map(|reply| match reply {
            Reply::Value { data, .. } | Reply::Item { data, .. } => Some(data.of(lane.received())),
            _ => None,
        });
        match has {
            Some(other) if other != runner.as_bytes() => {
                Err(String::from_utf8_lossy(other).into_owned())
            }
            has => Ok(has.is_some()),
        }
    }

    /// Gives the turn back, if it is still that of `runner`.
    pub fn give_turn(&mut self, target: usize, record_key: &[u8], runner: &str, call: &mut Call) {
        call.reset(Verb::Get);
        let key = key_beside(record_key, TURN_KEY);
        let has = self.noted_at(target, &key, call).flatten();
        if has.as_deref() != Some(runner.as_bytes()) {
            return;
        }
        // Whom it does not reach lets the turn go when its life ends.
        self.exchange_lane(target, call, |lane| match lane.engine {
            Engine::Memcached | Engine::Embedded => {
                classic::delete(&mut lane.out, &key);
                lane.asks.push(Expect::Deleted);
            }
            Engine::Redis => lane.ask_redis(|out| redis::delete(out, &key)),
        });
    }

    /// Gives a sign that the turn's runner goes on, and will be heard of again after `pause`; false
    /// when the turn is gone, or another's, and then it is left as it is. A node that cannot say is
    /// no reason to end.
    ///
    /// Between the look and the sign somebody may take a turn that ends just then: it decides
    /// nothing but who works.
    pub(super) fn sign(&mut self, turn: &mut Turn, pause: Duration, call: &mut Call) -> bool {
        call.reset(Verb::Get);
        match self.noted_at(turn.target, &turn.key, call) {
            Some(has) if has.as_deref() != Some(turn.runner.as_bytes()) => return false,
            Some(_) => {}
            None => return true,
        }
        turn.sign = transport::now();
        let seconds = TURN + u32::try_from(pause.as_secs()).unwrap_or(0);
        self.exchange_lane(turn.target, call, |lane| match lane.engine {
            Engine::Memcached | Engine::Embedded => {
                classic::touch(&mut lane.out, &turn.key, seconds);
                lane.asks.push(Expect::Touched);
            }
            Engine::Redis => lane.ask_redis(|out| redis::touch(out, &turn.key, seconds, true)),
        });
        true
    }

    /// Who has that turn, if anybody, or what else lies there; nothing when the node cannot say.
    pub(super) fn noted_at(
        &mut self,
        target: usize,
        key: &[u8],
        call: &mut Call,
    ) -> Option<Option<Vec<u8>>> {
        let lane = self.exchange_lane(target, call, |lane| {
            if lane.engine == Engine::Redis {
                return lane.ask_redis(|out| redis::get(out, key, false));
            }
            classic::get(&mut lane.out, false);
            classic::get_key(&mut lane.out, key);
            classic::end(&mut lane.out);
            lane.asks.push(Expect::Values);
        });
        let lane = call.lanes.get(lane?)?;
        lane.answers.iter().find_map(|reply| match reply {
            Reply::Value { data, .. } | Reply::Item { data, .. } => {
                Some(Some(data.of(lane.received()).to_vec()))
            }
            Reply::End | Reply::NotFound => Some(None),
            _ => None,
        })
    }
}

/// The key of something that lies beside the record on a node: where that is `~r`, `head` itself.
pub(super) fn key_beside(record_key: &[u8], head: &[u8]) -> Vec<u8> {
    let name = record_key.strip_prefix(b"~r").unwrap_or(record_key);
    [head, name].concat()
}
