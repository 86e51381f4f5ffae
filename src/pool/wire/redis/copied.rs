//! Copied values of a cache on Redis: strings, whose version stands before the value.
//!
//! ```text
//! look    a script: cas value, what is left to live, the item or what stands before its value
//! store   SET, SETEX, SET … NX, SET … XX, or a script over a cas value
//! touch   EXPIRE, EXPIREAT; a script where the end is taken away
//! remove  DEL, or a script for the item with a cas value
//! ```
//!
//! An item lies there as [`super::stored`] has it: its flags say that the value begins with a
//! [`Header`], as on a memcached without versions of its own, or that it is a tombstone.

use super::super::copied::{HEADED, Life, Over, Put, TOMBSTONE};
use super::super::fenced::{FOR_EVER, Header};
use super::answer::{Part, parts};
use super::{Shape, Store, bulk, command, scripts, stored};
use crate::item::Span;

/// An item as a look showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its flag bits, those that are ours among them.
    pub flags: u32,
    /// Its cas value.
    pub cas: u64,
    /// Seconds left to live, a part of one for a whole; [`FOR_EVER`] for an item without an end.
    pub left: u32,
    /// So many milliseconds of those are rounded up, 0 to 999.
    pub rounded: u16,
    /// What lies behind the flags: the header, and its value if that was asked for.
    pub data: Span,
}

impl Shown {
    /// Reads the answer at `list` in `buf`; `None` for one that is no answer to a look.
    pub fn of(buf: &[u8], list: Span) -> Option<Shown> {
        let parts = parts(buf, list)?;
        let [Part::Bytes(cas), Part::Number(left), Part::Bytes(item)] = *parts.as_slice() else {
            return None;
        };
        let cas = std::str::from_utf8(cas.of(buf)).ok()?;
        let (flags, head) = stored::split(item.of(buf));
        Some(Shown {
            flags,
            cas: u64::from_str_radix(cas, 16).ok()?,
            left: match u64::try_from(left) {
                Ok(left) => u32::try_from(left.div_ceil(1000).max(1)).unwrap_or(FOR_EVER),
                Err(_) => FOR_EVER,
            },
            rounded: u64::try_from(left).map_or(0, |left| (999 - (left + 999) % 1000) as u16),
            data: Span {
                at: item.at + head,
                len: item.len - head,
            },
        })
    }

    /// Which write it is of; 0 for none and for another client's.
    pub fn version(&self, buf: &[u8]) -> u64 {
        match self.flags & HEADED {
            0 => 0,
            _ => Header::split(self.data.of(buf)).map_or(0, |(header, _)| header.version),
        }
    }
}

/// Appends a look, for the `value`, too.
pub fn look(out: &mut Vec<u8>, key: &[u8], value: bool, whole: bool) -> Shape {
    scripts::LOOK.say(out, whole, key, 1);
    bulk(out, if value { b"1" } else { b"" });
    Shape::List
}

/// Appends a store and its value.
pub fn store(out: &mut Vec<u8>, put: Put<'_>, whole: bool) -> Shape {
    let tombstone = put.value.is_none();
    let headed = put.version != 0;
    let mut value = Vec::new();
    if headed {
        Header {
            version: put.version,
            inc: 0,
            tombstone,
        }
        .append(&mut value);
    }
    value.extend_from_slice(put.value.unwrap_or_default());
    let (verb, cas) = match put.over {
        Over::Anything => (Store::Set, 0),
        Over::Something => (Store::Replace, 0),
        Over::Nothing => (Store::Add, 0),
        Over::Cas(cas) => (Store::Cas, cas),
    };
    let ours = if headed { HEADED } else { 0 } | if tombstone { TOMBSTONE } else { 0 };
    let put = super::Put {
        verb,
        key: put.key,
        flags: put.flags | ours,
        ttl: put.life.ttl(),
        cas,
        value: &value,
        whole,
    };
    super::store(out, &put)
}

/// Appends a new end for an item, whose version stays.
pub fn touch(out: &mut Vec<u8>, key: &[u8], life: Life, whole: bool) -> Shape {
    super::touch(out, key, life.ttl(), whole)
}

/// Appends a delete, of any item or of the one with this cas value.
pub fn remove(out: &mut Vec<u8>, key: &[u8], cas: Option<u64>, whole: bool) -> Shape {
    match cas {
        None => command(out, &[b"DEL", key]),
        Some(cas) => {
            scripts::REMOVE.say(out, whole, key, 1);
            bulk(out, stored::cas_word(cas).as_bytes());
        }
    }
    Shape::Word
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn shown(answer: &[u8]) -> Option<Shown> {
        let len = answer.len();
        Shown::of(answer, Span { at: 0, len })
    }

    #[test]
    fn a_look_shows_flags_cas_value_and_what_is_left_to_live() {
        let answer = b"*3\r\n$15\r\n00000000000002a\r\n:1500\r\n$2\r\nxy\r\n";
        let item = shown(answer).unwrap();
        assert_eq!((item.flags, item.cas, item.left), (0, 42, 2));
        assert_eq!(item.data.of(answer), b"xy");
        assert_eq!(item.version(answer), 0);
        for_ever();
    }

    fn for_ever() {
        let answer = b"*3\r\n$15\r\n00000000000002a\r\n:-1\r\n$0\r\n\r\n";
        assert_eq!(shown(answer).unwrap().left, FOR_EVER);
    }

    #[test]
    fn what_is_no_answer_to_a_look_shows_nothing() {
        for answer in [
            b"*2\r\n$1\r\na\r\n:1\r\n".as_slice(),
            b"*3\r\n$1\r\nz\r\n:1\r\n$0\r\n\r\n",
            b"*3\r\n:1\r\n:1\r\n$0\r\n\r\n",
            b"*3\r\n$1\r\na\r\n$1\r\n1\r\n$0\r\n\r\n",
            b"",
        ] {
            assert_eq!(shown(answer), None, "{}", answer.escape_ascii());
        }
    }

    #[test]
    fn what_is_stored_says_its_version_its_flags_and_that_it_is_deleted() {
        for (value, flags) in [
            (Some(b"xy".as_slice()), HEADED | 3),
            (None, HEADED | TOMBSTONE | 3),
        ] {
            let put = Put {
                key: b"k",
                over: Over::Anything,
                version: 7,
                flags: 3,
                life: Life::Said(0),
                value,
            };
            let mut out = Vec::new();
            assert_eq!(store(&mut out, put, false), Shape::Stored);
            let parts = parts(
                &out,
                Span {
                    at: 0,
                    len: out.len(),
                },
            )
            .unwrap();
            let [Part::Bytes(set), _, Part::Bytes(item)] = *parts.as_slice() else {
                unreachable!("three words");
            };
            assert_eq!(set.of(&out), b"SET");
            let item = item.of(&out);
            let (found, head) = stored::split(item);
            assert_eq!(found, flags);
            let header = Header {
                version: 7,
                inc: 0,
                tombstone: value.is_none(),
            };
            let rest = item.get(head..).unwrap();
            assert_eq!(
                Header::split(rest),
                Some((header, value.unwrap_or_default()))
            );
        }
    }
}
