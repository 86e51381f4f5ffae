//! What is said to an embedded node, and what it answers: memcached's classic words
//! (doc/protocol.txt), as far as `wire::classic` says them, and a session's (`wire::embedded`).

use super::store::{Closed, Count, Kept, Put, Store, end_of};
use crate::item::KEY_MAX;
use crate::wire::Store as Verb;
use crate::wire::redis::Over;
use std::str::FromStr;

/// Carries out the whole requests at the head of `bytes` and appends the answers; how many
/// bytes they were.
pub(super) fn carry_out(store: &Store, bytes: &[u8], answers: &mut Vec<u8>) -> usize {
    let mut used = 0;
    while let Some(took) = one(store, bytes.get(used..).unwrap_or_default(), answers) {
        used += took;
    }
    used
}

/// Carries out the first request; `None` while it is not whole.
fn one(store: &Store, bytes: &[u8], answers: &mut Vec<u8>) -> Option<usize> {
    let lf = memchr::memchr(b'\n', bytes)?;
    let line = bytes.get(..lf)?;
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.split(|byte| *byte == b' ');
    let verb = words.next().unwrap_or_default();
    let data = bytes.get(lf + 1..).unwrap_or_default();
    let stores = match verb {
        b"set" => Some(Verb::Set),
        b"add" => Some(Verb::Add),
        b"replace" => Some(Verb::Replace),
        b"append" => Some(Verb::Append),
        b"prepend" => Some(Verb::Prepend),
        b"cas" => Some(Verb::Cas),
        _ => None,
    };
    if stores.is_none() && verb != b"close" {
        answer(store, verb, &mut words, answers);
        return Some(lf + 1);
    }
    let Some((key, flags, ttl, len)) = head(&mut words) else {
        answers.extend_from_slice(b"CLIENT_ERROR bad command line format\r\n");
        return Some(lf + 1);
    };
    let value = data.get(..len)?;
    data.get(len..len + 2)?;
    let put = Put {
        key,
        flags,
        end: end_of(ttl),
        value,
    };
    let answered = match stores {
        Some(verb) => store
            .put(verb, number(words.next()).unwrap_or(0), &put)
            .map(stored),
        None => {
            let (owner, over) = (words.next().unwrap_or_default(), words.next());
            let over = match (over, number(over)) {
                (_, Some(0)) => Over::Nothing,
                (_, Some(cas)) => Over::Seen(cas),
                _ => Over::Whatever,
            };
            store.close(&put, owner, over).map(|closed| match closed {
                Closed::Stored => b"STORED\r\n".as_slice(),
                Closed::Overtaken => b"EXISTS\r\n",
            })
        }
    };
    say(answers, answered);
    Some(lf + 1 + len + 2)
}

/// Carries out a request of one line.
fn answer<'a>(
    store: &Store,
    verb: &[u8],
    words: &mut impl Iterator<Item = &'a [u8]>,
    answers: &mut Vec<u8>,
) {
    let answered = match verb {
        b"get" | b"gets" => {
            let start = answers.len();
            let read = store.read(words.by_ref(), |key, kept| {
                value(answers, key, kept, verb == b"gets");
            });
            if read.is_err() {
                answers.truncate(start);
            }
            read.map(|()| b"END\r\n".as_slice())
        }
        b"gat" | b"gats" => {
            let end = end_of(expiry(words.next()));
            let found = words.next().unwrap_or_default();
            store
                .touch(found, end, |kept| {
                    value(answers, found, kept, verb == b"gats")
                })
                .map(|_| b"END\r\n".as_slice())
        }
        b"touch" => {
            let key = words.next().unwrap_or_default();
            let end = end_of(expiry(words.next()));
            store.touch(key, end, |_| ()).map(|found| match found {
                true => b"TOUCHED\r\n".as_slice(),
                false => b"NOT_FOUND\r\n",
            })
        }
        b"delete" => store.delete(words.next().unwrap_or_default()).map(deleted),
        b"incr" | b"decr" => {
            let key = words.next().unwrap_or_default();
            let delta = number(words.next()).unwrap_or(0);
            match store.count(key, verb == b"incr", delta) {
                Ok(Count::Now(now)) => {
                    answers.extend_from_slice(itoa::Buffer::new().format(now).as_bytes());
                    Ok(b"\r\n".as_slice())
                }
                Ok(Count::Missing) => Ok(b"NOT_FOUND\r\n".as_slice()),
                Ok(Count::NoNumber) => Ok(
                    b"CLIENT_ERROR cannot increment or decrement non-numeric value\r\n".as_slice(),
                ),
                Err(error) => Err(error),
            }
        }
        b"turn" => {
            let key = words.next().unwrap_or_default();
            let seconds = number(words.next()).unwrap_or(1);
            let owner = words.next().unwrap_or_default();
            store.turn(key, owner, seconds).map(|taken| match taken {
                true => b"STORED\r\n".as_slice(),
                false => b"NOT_STORED\r\n",
            })
        }
        b"give" => {
            let key = words.next().unwrap_or_default();
            store
                .give(key, words.next().unwrap_or_default())
                .map(deleted)
        }
        b"flush_all" => store.flush().map(|()| b"OK\r\n".as_slice()),
        b"version" => {
            Ok(concat!("VERSION ", env!("CARGO_PKG_VERSION"), " embedded\r\n").as_bytes())
        }
        b"stats" => match words.next() {
            None | Some(b"") => store.stats().map(|pairs| {
                for (name, value) in pairs {
                    answers.extend_from_slice(format!("STAT {name} {value}\r\n").as_bytes());
                }
                b"END\r\n".as_slice()
            }),
            Some(b"reset") => store.forget_counts().map(|()| b"RESET\r\n".as_slice()),
            Some(_) => Ok(b"ERROR\r\n".as_slice()),
        },
        _ => Ok(b"ERROR\r\n".as_slice()),
    };
    say(answers, answered);
}

/// Appends an answer, or why there is none.
fn say(answers: &mut Vec<u8>, answered: Result<&[u8], String>) {
    match answered {
        Ok(line) => answers.extend_from_slice(line),
        Err(why) => {
            answers.extend_from_slice(b"SERVER_ERROR ");
            answers.extend_from_slice(why.replace(['\r', '\n'], " ").as_bytes());
            answers.extend_from_slice(b"\r\n");
        }
    }
}

fn stored(kept: Kept) -> &'static [u8] {
    match kept {
        Kept::Done => b"STORED\r\n",
        Kept::NotStored => b"NOT_STORED\r\n",
        Kept::Exists => b"EXISTS\r\n",
        Kept::NotFound => b"NOT_FOUND\r\n",
    }
}

fn deleted(found: bool) -> &'static [u8] {
    match found {
        true => b"DELETED\r\n",
        false => b"NOT_FOUND\r\n",
    }
}

/// Appends one hit.
fn value(answers: &mut Vec<u8>, key: &[u8], found: super::change::Found<'_>, with_cas: bool) {
    let mut digits = itoa::Buffer::new();
    answers.reserve(key.len() + found.data.len() + 64);
    answers.extend_from_slice(b"VALUE ");
    answers.extend_from_slice(key);
    answers.push(b' ');
    answers.extend_from_slice(digits.format(found.head.flags).as_bytes());
    answers.push(b' ');
    answers.extend_from_slice(digits.format(found.data.len()).as_bytes());
    if with_cas {
        answers.push(b' ');
        answers.extend_from_slice(digits.format(found.head.cas).as_bytes());
    }
    answers.extend_from_slice(b"\r\n");
    answers.extend_from_slice(found.data);
    answers.extend_from_slice(b"\r\n");
}

/// Key, flags, expiry and length of a store.
fn head<'a>(words: &mut impl Iterator<Item = &'a [u8]>) -> Option<(&'a [u8], u32, u32, usize)> {
    let key = words
        .next()
        .filter(|key| (1..=KEY_MAX).contains(&key.len()))?;
    Some((
        key,
        number(words.next())?,
        number(words.next())?,
        number(words.next())?,
    ))
}

/// An expiry; one of the past is a negative number.
fn expiry(word: Option<&[u8]>) -> u32 {
    let number: i64 = number(word).unwrap_or(0);
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn number<T: FromStr>(word: Option<&[u8]>) -> Option<T> {
    std::str::from_utf8(word?).ok()?.parse().ok()
}
