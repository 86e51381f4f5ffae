//! What a session says to a node and reads out of its answers: to a memcached pecl's commands,
//! byte for byte.
//!
//! Source: pecl-memcache memcache_session.c, recorded in tests/golden/wire-session.txt.

use super::Terms;
use crate::chance;
use crate::codec;
use crate::config::Engine;
use crate::error::{Error, Kind};
use crate::fanout::Lane;
use crate::item::{Flags, KeyRule, LongKeys};
use crate::request::refused;
use crate::ring::slots::beside;
use crate::shared;
use crate::wire::redis::{self, Over};
use crate::wire::{Expect, Reply, Store, classic, embedded};
use std::cell::Cell;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// The flag of an item that a worker wrote who keeps copies, too (see `migrate`): a bit that
/// pecl-memcache leaves to callers and its sessions neither set nor look at.
pub(super) const MARK: u32 = 1 << 16;

/// Seconds since 1970, when something stored now for `lifetime` seconds ends: in 31 bits, since a
/// later time has passed for memcached.
pub(super) fn expiry(lifetime: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    let end = now.saturating_add(u64::from(lifetime));
    u32::try_from(end)
        .unwrap_or(u32::MAX)
        .min(i32::MAX.unsigned_abs())
}

/// A turn: for how long it is taken, and who takes it.
///
/// On memcached it is pecl's counter, which has no owner; elsewhere his name.
#[derive(Clone, Copy)]
pub(super) struct Lock<'a> {
    pub(super) keys: &'a Keys,
    /// Seconds.
    pub(super) life: u32,
    pub(super) owner: &'a [u8],
}

/// What is stored, and for how long.
#[derive(Clone, Copy)]
pub(super) struct Data<'a> {
    /// As a memcached is given it: perhaps compressed, with the flags that say so.
    pub(super) value: &'a [u8],
    pub(super) flags: Flags,
    /// As PHP wrote it: every client of a Redis reads that.
    pub(super) plain: &'a [u8],
    /// Seconds.
    pub(super) life: u32,
    /// What it may go over on a Redis where the turn is over.
    pub(super) over: Over,
}

/// The keys of a session: its data, and the turn on it.
#[derive(Clone, Debug)]
pub(super) struct Keys {
    /// On memcached, and for placement on a ring.
    pub(super) data: Vec<u8>,
    /// On memcached, as pecl-memcache has it.
    lock: Vec<u8>,
    /// On Redis, where keys may be as long as they like.
    redis_data: Vec<u8>,
    /// On Redis, as phpredis has it: a worker of either keeps the other waiting. In a cluster it
    /// lies in the slot of the session, or no script could take both.
    redis_lock: Vec<u8>,
    /// On Redis, where strings have no flags: which bytes a worker wrote who keeps copies, too.
    redis_mark: Option<Vec<u8>>,
    /// In a cluster.
    slots: bool,
    /// Bytes of the keys that stand before the id.
    prefix: usize,
}

impl Keys {
    /// Those of session `id` under `rule`; with one for marks where they are set; `slots` for a
    /// cluster.
    ///
    /// # Errors
    /// `Kind::Key` for an id that is empty.
    pub(super) fn of(rule: &KeyRule, id: &[u8], marking: bool, slots: bool) -> Result<Keys, Error> {
        let mut data = Vec::new();
        rule.append(id, &mut data)?;
        let mut lock = Vec::new();
        let plain = KeyRule {
            prefix: Vec::new(),
            long: LongKeys::Hash,
        };
        plain.append(&[data.as_slice(), b".lock"].concat(), &mut lock)?;
        let redis_data = [rule.prefix.as_slice(), id].concat();
        // phpredis redis_session.c, lock_acquire. In a cluster it takes no turns.
        const LOCK: &[u8] = b"_LOCK";
        Ok(Keys {
            lock,
            redis_lock: match slots {
                true => beside(&redis_data, LOCK),
                false => [redis_data.as_slice(), LOCK].concat(),
            },
            redis_mark: marking.then(|| mark_of(&redis_data)),
            redis_data,
            data,
            slots,
            prefix: rule.prefix.len(),
        })
    }

    /// The same with a key for marks.
    pub(super) fn marking(&self) -> Keys {
        Keys {
            redis_mark: Some(mark_of(&self.redis_data)),
            ..self.clone()
        }
    }

    /// Are they those of session `id`?
    pub(super) fn are_of(&self, id: &[u8]) -> bool {
        self.redis_data.get(self.prefix..) == Some(id)
    }

    /// What says where the session is.
    pub(super) fn placed_by(&self) -> &[u8] {
        if self.slots {
            &self.redis_data
        } else {
            &self.data
        }
    }

    /// The turn as `owner` takes it.
    pub(super) fn turn<'a>(&'a self, terms: &Terms, owner: &'a str) -> Lock<'a> {
        Lock {
            keys: self,
            life: terms.lock_timeout,
            owner: owner.as_bytes(),
        }
    }
}

/// The key of a session's mark, on Redis.
fn mark_of(data: &[u8]) -> Vec<u8> {
    [data, b"_MEMRING"].concat()
}

/// Asks for the data.
pub(super) fn get(lane: &mut Lane, keys: &Keys) {
    if lane.engine == Engine::Redis {
        lane.ask_redis(|out| redis::get(out, &keys.redis_data, true));
        if let Some(mark) = &keys.redis_mark {
            lane.ask_redis(|out| redis::get(out, mark, false));
        }
        return;
    }
    let out = &mut lane.out;
    classic::get(out, lane.engine == Engine::Embedded);
    classic::get_key(out, &keys.data);
    classic::end(out);
    lane.asks.push(Expect::Values);
}

/// Stores a value, and gives the turn back.
pub(super) fn close(lane: &mut Lane, data: Data<'_>, lock: Lock<'_>) {
    let Lock { keys, owner, .. } = lock;
    if lane.engine == Engine::Redis {
        // A server of another kind than was said must not take a value for commands.
        (lane.stores, lane.lasting) = (true, true);
        let close = redis::Close {
            key: &keys.redis_data,
            value: data.plain,
            life: data.life,
            turn: &keys.redis_lock,
            owner,
            over: data.over,
            mark: keys.redis_mark.as_deref(),
        };
        return lane.ask_redis(|out| redis::close(out, &close));
    }
    if lane.engine == Engine::Embedded {
        let close = embedded::Close {
            key: &keys.data,
            flags: data.flags.0,
            ttl: expiry(data.life.max(1)),
            owner,
            over: data.over,
            value: data.value,
        };
        embedded::close(&mut lane.out, &close);
        lane.stores = true;
        return lane.asks.push(Expect::Stored);
    }
    store(lane, &keys.data, data.flags, expiry(data.life), data.value);
    unlock(lane, lock);
}

/// A name for who takes turns, of 33 bytes: the worker's, `-`, and the number of the visit.
///
/// A worker has one visit at a time: a turn that it finds and that has its name is left over. A
/// Redis that became the master in the middle of a visit has such turns. A question that comes
/// late must not take the turn from the visit after it, so the numbers grow.
pub(super) fn owner() -> String {
    thread_local! {
        /// The process it was made in, the worker's name, and its visits.
        static WORKER: Cell<(u64, u64, u64)> = const { Cell::new((0, 0, 0)) };
    }
    let generation = shared::generation();
    let (worker, visit) = match WORKER.get() {
        (made, worker, visits) if made == generation => (worker, visits + 1),
        // A forked child is another worker than its parent, whose turns it leaves alone.
        _ => (chance::seed(), 1),
    };
    WORKER.set((generation, worker, visit));
    format!("{worker:016x}-{visit:016x}")
}

/// Has a turn there an owner, who is told when it was over?
pub(super) fn has_owner(engine: Engine) -> bool {
    engine != Engine::Memcached
}

/// Was it stored? `None` where another request had the turn since.
pub(super) fn is_closed(engine: Engine, answers: &[Reply]) -> Option<bool> {
    match (engine, answers) {
        (Engine::Redis | Engine::Embedded, [Reply::Exists]) => None,
        (Engine::Redis | Engine::Embedded, [Reply::Done]) | (_, [Reply::Done, Reply::Done]) => {
            Some(true)
        }
        _ => Some(false),
    }
}

/// Stores a value in a memcached.
fn store(lane: &mut Lane, key: &[u8], flags: Flags, ttl: u32, value: &[u8]) {
    let out = &mut lane.out;
    classic::store(out, Store::Set, key, flags.0, ttl, value.len(), 0);
    out.extend_from_slice(value);
    classic::end(out);
    lane.asks.push(Expect::Stored);
}

/// Gives the data another end, and the turn back.
pub(super) fn touch(lane: &mut Lane, life: u32, lock: Lock<'_>) {
    if lane.engine == Engine::Redis {
        lane.ask_redis(|out| redis::prolong(out, &lock.keys.redis_data, life));
        unlock(lane, lock);
        if let Some(mark) = &lock.keys.redis_mark {
            lane.ask_redis(|out| redis::prolong_mark(out, mark, life));
        }
        return;
    }
    classic::touch(&mut lane.out, &lock.keys.data, expiry(life));
    lane.asks.push(Expect::Touched);
    unlock(lane, lock);
}

/// Takes the data away, and gives the turn back.
pub(super) fn delete(lane: &mut Lane, lock: Lock<'_>) {
    if lane.engine == Engine::Redis {
        lane.lasting = true;
        lane.ask_redis(|out| redis::delete(out, &lock.keys.redis_data));
        if let Some(mark) = &lock.keys.redis_mark {
            lane.ask_redis(|out| redis::delete(out, mark));
        }
        return unlock(lane, lock);
    }
    classic::delete(&mut lane.out, &lock.keys.data);
    if lane.engine == Engine::Embedded {
        lane.asks.push(Expect::Deleted);
        return unlock(lane, lock);
    }
    classic::delete(&mut lane.out, &lock.keys.lock);
    lane.asks.extend([Expect::Deleted, Expect::Deleted]);
}

/// Asks for the turn. On memcached by counting: it is ours when the count is 1, or when there
/// was no counter.
pub(super) fn turn(lane: &mut Lane, lock: Lock<'_>) {
    let keys = lock.keys;
    if lane.engine == Engine::Redis {
        let take = |out: &mut _| redis::take_turn(out, &keys.redis_lock, lock.owner, lock.life);
        return lane.ask_redis(take);
    }
    let out = &mut lane.out;
    if lane.engine == Engine::Embedded {
        embedded::turn(out, &keys.data, lock.owner, lock.life);
        return lane.asks.push(Expect::Stored);
    }
    classic::delta(out, true, &keys.lock, 1);
    classic::store(out, Store::Add, &keys.lock, codec::INT, lock.life, 1, 0);
    out.extend_from_slice(b"1\r\n");
    lane.asks.extend([Expect::Number, Expect::Stored]);
}

/// Is the turn ours? And what was answered behind it; `None` when not enough was.
pub(super) fn is_ours(engine: Engine, answers: &[Reply]) -> Option<(bool, &[Reply])> {
    match engine {
        Engine::Redis | Engine::Embedded => {
            let (taken, rest) = answers.split_first()?;
            Some((*taken == Reply::Done, rest))
        }
        Engine::Memcached => {
            let ([counted, added], rest) = answers.split_first_chunk()?;
            let ours = *counted == Reply::Number(1) || *added == Reply::Done;
            Some((ours, rest))
        }
    }
}

/// Gives the turn back.
pub(super) fn unlock(lane: &mut Lane, lock: Lock<'_>) {
    if lane.engine == Engine::Redis {
        return lane.ask_redis(|out| redis::give_back(out, &lock.keys.redis_lock, lock.owner));
    }
    if lane.engine == Engine::Embedded {
        embedded::give_back(&mut lane.out, &lock.keys.data, lock.owner);
        return lane.asks.push(Expect::Deleted);
    }
    store(lane, &lock.keys.lock, Flags(codec::INT), lock.life, b"0");
}

/// The turn on one session.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) id: Vec<u8>,
    /// Nodes where it is ours, and what each had, as far as it tells: the cas value, 0 for
    /// nothing.
    pub(super) nodes: Vec<(usize, u64)>,
    /// What was read with it, for the read that follows a validation.
    pub(super) found: Option<Vec<u8>>,
    /// A node that was asked had nothing.
    pub(super) lacking: bool,
    /// When it was got.
    pub(super) since: Instant,
}

impl Turn {
    /// The nodes to give it back at: `now` where a cluster says who has it, else where it was taken.
    pub(super) fn nodes_or(&self, now: Option<Vec<usize>>) -> Vec<usize> {
        now.unwrap_or_else(|| self.nodes.iter().map(|(node, _)| *node).collect())
    }

    /// In a cluster it is its slot's, whoever has that now; `keys` may be another session's.
    pub(super) fn move_to(&mut self, keys: &Keys, places: &[usize]) {
        let node = self.nodes.first_mut().filter(|_| keys.are_of(&self.id));
        if let (Some((node, _)), Some(place)) = (node, places.first()) {
            *node = *place;
        }
    }

    /// Is it ours at `node`?
    pub(super) fn has(&self, node: usize) -> bool {
        self.nodes.iter().any(|(held, _)| *held == node)
    }
}

/// What one node said to a request for a turn.
pub(super) enum Said {
    /// The turn is ours; what there is, and its cas value.
    Ours(Option<(Flags, Vec<u8>)>, u64),
    /// The turn is ours, and nobody can say what there is.
    Unread(Error),
    Taken,
    Nothing(Error),
}

/// A session as a node has it.
pub(super) struct Found<'b> {
    pub(super) flags: Flags,
    pub(super) data: &'b [u8],
    /// Where turns have owners: what tells whether it is still the same.
    pub(super) cas: u64,
}

/// The one value a get of a session may have brought.
///
/// # Errors
/// A refusal, which says nothing of whether there is one; the value of another key.
pub(super) fn value_of<'b>(
    answers: &[Reply],
    bytes: &'b [u8],
    keys: &Keys,
) -> Result<Option<Found<'b>>, Error> {
    for (at, reply) in answers.iter().enumerate() {
        if let Some(line) = reply.refusal() {
            return Err(refused(line.of(bytes)));
        }
        match reply {
            Reply::Item { flags, data, cas } => {
                let marked = match answers.get(at + 1) {
                    Some(Reply::Item { data, .. }) if keys.redis_mark.is_some() => {
                        redis::marks(data.of(bytes), *cas)
                    }
                    _ => false,
                };
                return Ok(Some(Found {
                    flags: Flags(if marked { flags | MARK } else { *flags }),
                    data: data.of(bytes),
                    cas: *cas,
                }));
            }
            // What follows is the mark of a session that is gone.
            Reply::NotFound => return Ok(None),
            Reply::Value { key, .. } if key.of(bytes) != keys.data => {
                return Err(Error::new(
                    Kind::Protocol,
                    "Malformed server response: the value of another key",
                ));
            }
            Reply::Value {
                flags, data, cas, ..
            } => {
                return Ok(Some(Found {
                    flags: Flags(*flags),
                    data: data.of(bytes),
                    cas: *cas,
                }));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// A failure that ended a read, with what it meant and what to do.
pub(super) fn advised(error: Error) -> Error {
    if error.kind().is_node_fault() {
        error.hint("The session was not started, so nothing is overwritten. Is the server running there, and reachable?")
    } else {
        error.hint("The session was not started, so nothing is overwritten")
    }
}
