//! What a session says to a node and reads out of its answers: pecl's commands, byte for byte.
//!
//! Source: pecl-memcache memcache_session.c, recorded in tests/golden/wire-session.txt.

use crate::codec;
use crate::error::{Error, Kind};
use crate::item::Flags;
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

/// Asks for the data.
pub(super) fn get(out: &mut Vec<u8>, asks: &mut Vec<Expect>, key: &[u8]) {
    classic::get(out, false);
    classic::get_key(out, key);
    classic::end(out);
    asks.push(Expect::Values);
}

/// Stores a value.
pub(super) fn store(
    out: &mut Vec<u8>,
    asks: &mut Vec<Expect>,
    key: &[u8],
    flags: Flags,
    ttl: u32,
    value: &[u8],
) {
    classic::store(out, Store::Set, key, flags.0, ttl, value.len(), 0);
    out.extend_from_slice(value);
    classic::end(out);
    asks.push(Expect::Stored);
}

/// Counts at the lock: the turn is ours when the count is 1, or when there was no counter.
pub(super) fn turn(out: &mut Vec<u8>, asks: &mut Vec<Expect>, lock: &[u8], lock_timeout: u32) {
    classic::delta(out, true, lock, 1);
    classic::store(out, Store::Add, lock, codec::INT, lock_timeout, 1, 0);
    out.extend_from_slice(b"1\r\n");
    asks.extend([Expect::Number, Expect::Stored]);
}

/// Gives the turn back.
pub(super) fn unlock(out: &mut Vec<u8>, asks: &mut Vec<Expect>, key: &[u8], lock_timeout: u32) {
    store(out, asks, key, Flags(codec::INT), lock_timeout, b"0");
}

/// The one value a get for `key` may have brought.
pub(super) fn value_of<'b>(
    answers: &[Reply],
    bytes: &'b [u8],
    key: &[u8],
) -> Result<Option<(Flags, &'b [u8])>, Error> {
    for reply in answers {
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
