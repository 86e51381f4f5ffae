//! The machines' commands as memcached's lines, and its answers as their replies.
//!
//! The lines themselves, and what servers do with them, stand in `wire::fenced`. Here is
//! which command takes which line on a server with `E` and on one without, and what an
//! answer to it may be. Every answer is held against the opaque and the key of its
//! question: one that does not match is nobody's, and the connection of no more use. The
//! change of a record alone has no such answer, and a read of the record stands behind it.
//!
//! | | with `E` (1.6.27 and later) | without |
//! |---|---|---|
//! | version | the cas value, whose low bits name the node's life | in a header before the value |
//! | memory life, tombstone | flag word | flag word and header, which must agree |
//! | a read without the value | asks for none | asks for it anyway, for the header |
//! | unlock | sets the version | the version stays, the cas value changes |
//!
//! A refused store is not harmless: the server takes away what it had (see `wire::fenced`),
//! so after [`Reply::Refused`] a `Write` has left nothing behind. It is the caller who
//! knows what that node is then still good for. A record that is refused stays as it was.

pub mod redis;

use super::{Command, Item, Over, PLACEHOLDER_LIFE, Record, Reply, Stamp, TOMBSTONE_EXTRA};
use super::{Token, Version};
use crate::item::Span;
use crate::wire::fenced::{self, FOR_EVER, HEADER, Header, LIFE_MAX, Put, Shown};
use crate::wire::meta::{Answer, Status};
use crate::wire::{self, Expect, Store, classic};
use std::sync::Arc;

/// What [`Words::read`] says of a server that has no `E` though it was spoken to as if it
/// had: it was exchanged for an older one. It did nothing; look again what it can do.
pub const NO_VERSIONS: &str = "the server takes no versions (E) any more";

/// Longest life of a value, seconds. The server's own limit is left to tombstones, so that
/// one outlives every value also where lives are cut to the limit.
pub const VALUE_LIFE_MAX: u32 = LIFE_MAX - TOMBSTONE_EXTRA;

/// Bytes that memcached counts for an item of ours (`bytes` of its `stats`, `size=` of a listing) on a
/// machine of 64 bits: 48 of head, 8 of cas value, 4 of flags, the key and a byte, the value and two.
/// The chunk it lies in is up to a quarter larger (`-f 1.25`).
pub const fn item_bytes(key: usize, value: usize, has_e: bool) -> usize {
    let header = if has_e { 0 } else { HEADER };
    48 + 8 + 4 + key + 1 + header + value + 2
}

/// How one machine's commands are said to one server.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// The machine's key as it goes over the wire.
    pub key: &'a [u8],
    /// The key of the node's record.
    pub record_key: &'a [u8],
    /// The server takes versions as cas values (memcached 1.6.27 and later).
    pub has_e: bool,
}

/// The words of whichever server a node is.
#[derive(Clone, Copy, Debug)]
pub enum Speech<'a> {
    /// A memcached's.
    Memcached(Words<'a>),
    /// A Redis' or Valkey's.
    Redis(redis::Words<'a>),
}

impl Speech<'_> {
    /// Appends `command` to `out`, and the shape of its one answer to `asks`.
    ///
    /// `opaque` is the number an answer of memcached has to return.
    pub fn say(&self, command: &Command, opaque: u64, out: &mut Vec<u8>, asks: &mut Vec<Expect>) {
        match self {
            Speech::Memcached(words) => words.say(command, opaque, out, asks),
            Speech::Redis(words) => words.say(command, out, asks),
        }
    }

    /// Makes of the server's answer to `command` the machine's reply.
    ///
    /// # Errors
    /// What is wrong with the answer, as [`Words::read`] and [`redis::Words::read`] have it.
    pub fn read(
        &self,
        command: &Command,
        opaque: u64,
        reply: wire::Reply,
        buffer: &[u8],
    ) -> Result<Reply, &'static str> {
        match self {
            Speech::Memcached(words) => words.read(command, opaque, reply, buffer),
            Speech::Redis(words) => words.read(command, reply, buffer),
        }
    }
}

impl Words<'_> {
    /// Appends `command` and its value to `out`, and the shape of its one answer to `asks`.
    ///
    /// `opaque` is the number the answer has to return; each command of a pipeline has its own.
    pub fn say(&self, command: &Command, opaque: u64, out: &mut Vec<u8>, asks: &mut Vec<Expect>) {
        match command {
            Command::ReadRecord => fenced::record(out, self.record_key, opaque),
            Command::AddRecord(record) => return self.put_record(record, Store::Add, 0, out, asks),
            Command::SetRecord { cas, record } => {
                return self.put_record(record, Store::Cas, *cas, out, asks);
            }
            Command::DoubtRecord { cas } => {
                fenced::unlock(out, self.record_key, *cas, None, None, opaque);
            }
            Command::Read { value, token } => {
                let vivify = token.then_some(PLACEHOLDER_LIFE);
                fenced::read(out, self.key, *value || !self.has_e, vivify, opaque);
            }
            Command::Write {
                over,
                stamp,
                life,
                data,
            } => self.put_item(*over, *stamp, *life, data, opaque, out),
            Command::Unlock { cas, version, life } => {
                let version = self.has_e.then_some(version.cas_beside(*cas));
                let life = life.map(|life| life.clamp(1, LIFE_MAX));
                fenced::unlock(out, self.key, *cas, version, life, opaque);
            }
            Command::Touch { life } => {
                fenced::touch(
                    out,
                    self.key,
                    !self.has_e,
                    (*life).clamp(1, LIFE_MAX),
                    opaque,
                );
            }
            Command::Remove { cas } => fenced::remove(out, self.key, *cas, opaque),
        }
        asks.push(Expect::Meta);
    }

    /// In classic words: a server without room for it keeps the record it has.
    fn put_record(
        &self,
        record: &Record,
        verb: Store,
        cas: u64,
        out: &mut Vec<u8>,
        asks: &mut Vec<Expect>,
    ) {
        let bytes = record.encode();
        classic::store(out, verb, self.record_key, 0, 0, bytes.len(), cas);
        out.extend_from_slice(&bytes);
        classic::end(out);
        asks.push(Expect::Stored);
    }

    fn put_item(
        &self,
        over: Over,
        stamp: Stamp,
        life: u32,
        data: &[u8],
        opaque: u64,
        out: &mut Vec<u8>,
    ) {
        let Stamp { inc, tombstone, .. } = stamp;
        let put = Put {
            key: self.key,
            len: data.len() + if self.has_e { 0 } else { HEADER },
            over: said(over),
            version: self.has_e.then_some(stamp.version.cas(inc)),
            flags: Some(flags_of(stamp).word()),
            life: life.clamp(1, longest_life(stamp)),
        };
        fenced::store(out, put, opaque);
        if !self.has_e {
            Header {
                version: stamp.version.0,
                inc,
                tombstone,
            }
            .append(out);
        }
        out.extend_from_slice(data);
        out.extend_from_slice(b"\r\n");
    }

    /// Makes of the server's answer to `command`, whose spans lie in `buffer`, the machine's
    /// reply.
    ///
    /// # Errors
    /// What is wrong with the answer. The connection is then of no more use; what follows on
    /// it belongs to nobody. [`NO_VERSIONS`] is told apart: the server is well, but of
    /// another version than thought.
    pub fn read(
        &self,
        command: &Command,
        opaque: u64,
        reply: wire::Reply,
        buffer: &[u8],
    ) -> Result<Reply, &'static str> {
        let changes_record = matches!(command, Command::AddRecord(_) | Command::SetRecord { .. });
        let answer = match reply {
            wire::Reply::ServerError(line) => return refusal(line.of(buffer)),
            wire::Reply::Done if changes_record => return Ok(Reply::Done { cas: 0 }),
            wire::Reply::NotStored if changes_record => return Ok(Reply::NotStored),
            wire::Reply::Exists if changes_record => return Ok(Reply::Exists),
            wire::Reply::NotFound if changes_record => return Ok(Reply::NotFound),
            wire::Reply::Meta(answer) if !changes_record => answer,
            wire::Reply::ClientError(line) => return Err(self.complaint(command, line, buffer)),
            wire::Reply::Unknown(_) => return Err("the server knows no meta commands"),
            _ => return Err("an answer in other words than the question"),
        };
        let key = match command {
            Command::ReadRecord | Command::DoubtRecord { .. } => self.record_key,
            _ => self.key,
        };
        if answer.opaque != Some(opaque) {
            return Err("an answer to another question");
        }
        if answer.key.is_none_or(|span| span.of(buffer) != key) {
            return Err("an answer about another key");
        }
        match command {
            Command::ReadRecord => record(answer, buffer),
            Command::Read { value, token } => self.item(answer, *value, *token, buffer),
            Command::Touch { .. } => self.item(answer, false, false, buffer),
            Command::AddRecord(_) | Command::SetRecord { .. } => Err("an answer in other words"),
            Command::Write { over, stamp, .. } => stored(
                answer,
                *over,
                self.has_e.then_some(stamp.version.cas(stamp.inc)),
            ),
            Command::Unlock { cas, version, .. } if self.has_e => {
                changed(answer, version.cas_beside(*cas))
            }
            Command::Unlock { .. } | Command::Remove { .. } | Command::DoubtRecord { .. } => {
                changed(answer, 0)
            }
        }
    }

    /// What a `CLIENT_ERROR` means: the texts differ from command to command (1.6.18 says
    /// "invalid flag" to ms and "invalid or duplicate flag" to md).
    fn complaint(&self, command: &Command, line: Span, buffer: &[u8]) -> &'static str {
        let versioned = matches!(command, Command::Write { .. } | Command::Unlock { .. });
        let line = line.of(buffer);
        let of_a_flag = line.starts_with(b"CLIENT_ERROR invalid") && line.ends_with(b" flag");
        if self.has_e && versioned && of_a_flag {
            NO_VERSIONS
        } else {
            "the server does not understand the question"
        }
    }

    fn item(
        &self,
        answer: Answer,
        value: bool,
        token: bool,
        buffer: &[u8],
    ) -> Result<Reply, &'static str> {
        let with_value = match answer.status {
            Status::Value => true,
            Status::Done => false,
            // Also to who asks for the token, where there is no room to make an item (tried).
            Status::Miss => return Ok(Reply::Miss),
            _ => return Err("a status that answers no read"),
        };
        if with_value != (value || !self.has_e) {
            return Err("a value that was not asked for, or none where one was");
        }
        let Some(shown) = Shown::of(answer, buffer).filter(|_| answer.cas != 0) else {
            return Err("an item without cas value, flags, size or life");
        };
        let bytes = answer.data.of(buffer);
        if with_value && bytes.len() != usize::try_from(shown.size).unwrap_or(usize::MAX) {
            return Err("an item of another size than its value");
        }
        let placeholder = shown.size == 0 && answer.flags == 0;
        let (stamp, bytes) = if self.has_e {
            (self.stamp(answer), bytes)
        } else {
            split(answer, bytes)
        };
        let left = match shown.ttl {
            // Just made, and said to have no end.
            FOR_EVER if placeholder && shown.won => PLACEHOLDER_LIFE,
            left => left,
        };
        Ok(Reply::Item(Item {
            cas: answer.cas,
            stamp,
            data: with_value.then(|| Arc::from(bytes)),
            left,
            // A stale item gives its token to a read that did not ask, too: then it is ours
            // all the same, and nobody else's until it is freed.
            token: match (shown.won, token || shown.taken) {
                (true, _) => Token::Won,
                // Asked for and neither W nor Z: an item without an end, on which nobody gets
                // the token.
                (false, true) => Token::Taken,
                (false, false) => Token::Free,
            },
        }))
    }

    fn stamp(&self, answer: Answer) -> Option<Stamp> {
        let version = Version::of_cas(answer.cas);
        stamp_of(version, fenced::Flags::of(answer.flags))
    }
}

fn flags_of(stamp: Stamp) -> fenced::Flags {
    fenced::Flags {
        inc: stamp.inc,
        tombstone: stamp.tombstone,
        mended: stamp.mended,
        witness: stamp.witness,
    }
}

/// Seconds that what has this stamp may live at most.
fn longest_life(stamp: Stamp) -> u32 {
    match stamp.tombstone {
        true => LIFE_MAX,
        false => VALUE_LIFE_MAX,
    }
}

fn stamp_of(version: Version, flags: fenced::Flags) -> Option<Stamp> {
    (flags.inc != 0).then_some(Stamp {
        version,
        inc: flags.inc,
        tombstone: flags.tombstone,
        mended: flags.mended,
        witness: flags.witness,
    })
}

/// Stamp and value of an item from a server without `E`. Flag word and header must say the
/// same; anything else is somebody else's item, whole.
fn split(answer: Answer, stored: &[u8]) -> (Option<Stamp>, &[u8]) {
    let flags = fenced::Flags::of(answer.flags);
    match Header::split(stored) {
        Some((header, value)) if (flags.inc, flags.tombstone) == (header.inc, header.tombstone) => {
            match stamp_of(Version(header.version), flags) {
                Some(stamp) => (Some(stamp), value),
                None => (None, stored),
            }
        }
        _ => (None, stored),
    }
}

fn said(over: Over) -> fenced::Over {
    match over {
        Over::Cas(cas) => fenced::Over::Cas(cas),
        Over::Nothing => fenced::Over::Nothing,
    }
}

fn refusal(line: &[u8]) -> Result<Reply, &'static str> {
    let cause = line.strip_prefix(b"SERVER_ERROR ").unwrap_or_default();
    if cause.starts_with(b"out of memory") || cause.starts_with(b"object too large") {
        Ok(Reply::Refused)
    } else {
        Err("the server is in trouble of its own")
    }
}

fn record(answer: Answer, buffer: &[u8]) -> Result<Reply, &'static str> {
    match answer.status {
        Status::Miss => Ok(Reply::NoRecord),
        Status::Value if answer.cas == 0 => Err("a record without a cas value"),
        Status::Value => Ok(match Record::decode(answer.data.of(buffer)) {
            Some(record) => Reply::Record {
                record: match fenced::is_marked(answer, buffer) {
                    true => record.doubted(),
                    false => record,
                },
                cas: answer.cas,
            },
            None => Reply::StrangeRecord,
        }),
        _ => Err("a status that answers no read"),
    }
}

fn stored(answer: Answer, over: Over, cas: Option<u64>) -> Result<Reply, &'static str> {
    match (answer.status, over) {
        (Status::Done, _) if answer.cas == 0 => Err("a store without its cas value"),
        (Status::Done, _) if cas.is_some_and(|cas| cas != answer.cas) => {
            Err("a store under another version than it was given")
        }
        (Status::Done, _) => Ok(Reply::Done { cas: answer.cas }),
        (Status::Exists, Over::Cas(_)) => Ok(Reply::Exists),
        (Status::NotFound, Over::Cas(_)) => Ok(Reply::NotFound),
        (Status::NotStored, Over::Nothing) => Ok(Reply::NotStored),
        _ => Err("a status that answers no store"),
    }
}

/// Of `md`, which never says the new cas value; 0 where it cannot be known.
fn changed(answer: Answer, cas: u64) -> Result<Reply, &'static str> {
    match answer.status {
        Status::Done => Ok(Reply::Done { cas }),
        Status::Exists => Ok(Reply::Exists),
        Status::NotFound => Ok(Reply::NotFound),
        _ => Err("a status that answers no delete"),
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests;
