//! What a session says to a node and reads out of its answers: to a memcached pecl's commands,
//! byte for byte.
//!
//! Source: pecl-memcache memcache_session.c, recorded in tests/golden/wire-session.txt.

use super::Terms;
use crate::codec;
use crate::config::Engine;
use crate::error::{Error, Kind};
use crate::fanout::Lane;
use crate::item::{Flags, KeyRule, LongKeys};
use crate::wire::redis::{self, Shape};
use crate::wire::{Expect, Reply, Store, classic};
use std::time::{SystemTime, UNIX_EPOCH};

/// The flag of an item that a worker wrote who keeps copies, too (see `migrate`): a bit that
/// pecl-memcache leaves to callers and its sessions neither set nor look at.
pub(super) const MARK: u32 = 1 << 16;

/// Seconds since 1970, when something stored now for `lifetime` seconds ends.
pub(super) fn expiry(lifetime: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    u32::try_from(now.saturating_add(u64::from(lifetime))).unwrap_or(u32::MAX)
}

/// A turn: the key it lies under, for how long it is taken, and who takes it.
///
/// On memcached it is pecl's counter, which has no owner; on Redis his name.
#[derive(Clone, Copy)]
pub(super) struct Lock<'a> {
    pub(super) key: &'a [u8],
    pub(super) redis_key: &'a [u8],
    /// Seconds.
    pub(super) life: u32,
    pub(super) owner: &'a [u8],
}

/// What is stored, and until when (memcached's expiry).
#[derive(Clone, Copy)]
pub(super) struct Data<'a> {
    pub(super) key: &'a [u8],
    pub(super) flags: Flags,
    pub(super) ttl: u32,
    pub(super) value: &'a [u8],
}

/// The keys of a session: its data, and the turn on it.
pub(super) struct Keys {
    pub(super) data: Vec<u8>,
    /// On memcached, as pecl-memcache has it.
    pub(super) lock: Vec<u8>,
    /// On Redis, as phpredis has it: a worker of either keeps the other waiting.
    pub(super) redis_lock: Vec<u8>,
}

impl Keys {
    /// Those of session `id` under `rule`.
    ///
    /// # Errors
    /// `Kind::Key` for an id that is empty.
    pub(super) fn of(rule: &KeyRule, id: &[u8]) -> Result<Keys, Error> {
        let mut data = Vec::new();
        rule.append(id, &mut data)?;
        let suffixed = |suffix: &[u8]| {
            let mut key = Vec::new();
            let rule = KeyRule {
                prefix: Vec::new(),
                long: LongKeys::Hash,
            };
            rule.append(&[data.as_slice(), suffix].concat(), &mut key)
                .map(|_| key)
        };
        Ok(Keys {
            lock: suffixed(b".lock")?,
            // phpredis redis_session.c, lock_acquire.
            redis_lock: suffixed(b"_LOCK")?,
            data,
        })
    }

    /// The turn as `owner` takes it.
    pub(super) fn turn<'a>(&'a self, terms: &Terms, owner: &'a str) -> Lock<'a> {
        Lock {
            key: &self.lock,
            redis_key: &self.redis_lock,
            life: terms.lock_timeout,
            owner: owner.as_bytes(),
        }
    }
}

/// Asks for the data.
pub(super) fn get(lane: &mut Lane, key: &[u8]) {
    let out = &mut lane.out;
    if lane.engine == Engine::Redis {
        redis::get(out, key);
        return lane.asks.push(Expect::Redis(Shape::Item(false)));
    }
    classic::get(out, false);
    classic::get_key(out, key);
    classic::end(out);
    lane.asks.push(Expect::Values);
}

/// Stores a value, and gives the turn back.
pub(super) fn close(lane: &mut Lane, data: Data<'_>, lock: Lock<'_>) {
    if lane.engine == Engine::Redis {
        let put = redis::Put {
            verb: Store::Set,
            key: data.key,
            flags: data.flags.0,
            ttl: data.ttl,
            cas: 0,
            value: data.value,
            whole: true,
        };
        redis::close(&mut lane.out, &put, lock.redis_key, lock.owner);
        return lane.asks.push(Expect::Redis(Shape::Word));
    }
    store(lane, data);
    unlock(lane, lock);
}

/// Was it stored? `None` where another request has the turn by now.
pub(super) fn is_closed(engine: Engine, answers: &[Reply]) -> Option<bool> {
    match (engine, answers) {
        (Engine::Redis, [Reply::Exists]) => None,
        (Engine::Redis, [Reply::Done]) | (_, [Reply::Done, Reply::Done]) => Some(true),
        _ => Some(false),
    }
}

/// Stores a value in a memcached.
fn store(lane: &mut Lane, data: Data<'_>) {
    let out = &mut lane.out;
    let Data {
        key,
        flags,
        ttl,
        value,
    } = data;
    classic::store(out, Store::Set, key, flags.0, ttl, value.len(), 0);
    out.extend_from_slice(value);
    classic::end(out);
    lane.asks.push(Expect::Stored);
}

/// Gives the data another end.
pub(super) fn touch(lane: &mut Lane, key: &[u8], ttl: u32) {
    if lane.engine == Engine::Redis {
        redis::touch(&mut lane.out, key, ttl, true);
        return lane.asks.push(Expect::Redis(Shape::Word));
    }
    classic::touch(&mut lane.out, key, ttl);
    lane.asks.push(Expect::Touched);
}

/// Takes the data away, and gives the turn back.
pub(super) fn delete(lane: &mut Lane, key: &[u8], lock: Lock<'_>) {
    if lane.engine == Engine::Redis {
        redis::delete(&mut lane.out, key);
        lane.asks.push(Expect::Redis(Shape::Word));
        return unlock(lane, lock);
    }
    classic::delete(&mut lane.out, key);
    classic::delete(&mut lane.out, lock.key);
    lane.asks.extend([Expect::Deleted, Expect::Deleted]);
}

/// Asks for the turn. On memcached by counting: it is ours when the count is 1, or when there
/// was no counter.
pub(super) fn turn(lane: &mut Lane, lock: Lock<'_>) {
    let out = &mut lane.out;
    if lane.engine == Engine::Redis {
        redis::take_turn(out, lock.redis_key, lock.owner, lock.life);
        return lane.asks.push(Expect::Redis(Shape::Stored));
    }
    classic::delta(out, true, lock.key, 1);
    classic::store(out, Store::Add, lock.key, codec::INT, lock.life, 1, 0);
    out.extend_from_slice(b"1\r\n");
    lane.asks.extend([Expect::Number, Expect::Stored]);
}

/// Is the turn ours? And what was answered behind it; `None` when not enough was.
pub(super) fn is_ours(engine: Engine, answers: &[Reply]) -> Option<(bool, &[Reply])> {
    match engine {
        Engine::Redis => {
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
        redis::give_back(&mut lane.out, lock.redis_key, lock.owner);
        return lane.asks.push(Expect::Redis(Shape::Word));
    }
    let free = Data {
        key: lock.key,
        flags: Flags(codec::INT),
        ttl: lock.life,
        value: b"0",
    };
    store(lane, free);
}

/// The one value a get for `key` may have brought.
pub(super) fn value_of<'b>(
    answers: &[Reply],
    bytes: &'b [u8],
    key: &[u8],
) -> Result<Option<(Flags, &'b [u8])>, Error> {
    for reply in answers {
        if let Reply::Item { flags, data, .. } = reply {
            return Ok(Some((Flags(*flags), data.of(bytes))));
        }
        if let Reply::Value {
            key: echoed,
            flags,
            data,
            ..
        } = reply
        {
            if echoed.of(bytes) != key {
                return Err(Error::new(
                    Kind::Protocol,
                    "Malformed server response: the value of another key",
                ));
            }
            return Ok(Some((Flags(*flags), data.of(bytes))));
        }
    }
    Ok(None)
}

/// The data as PHP wrote them.
pub(super) fn inflated(
    flags: Flags,
    data: impl AsRef<[u8]> + Into<Vec<u8>>,
) -> Result<Vec<u8>, Error> {
    if !codec::is_compressed(flags) {
        return Ok(data.into());
    }
    let mut plain = Vec::new();
    codec::inflate(data.as_ref(), codec::INFLATE_MAX, &mut plain)?;
    Ok(plain)
}

/// A failure that ended a read, with what it meant and what to do.
pub(super) fn advised(error: Error) -> Error {
    if error.kind().is_node_fault() {
        error.hint("The session was not started, so nothing is overwritten. Is memcached running there, and reachable?")
    } else {
        error.hint("The session was not started, so nothing is overwritten")
    }
}
