//! memcached's classic text commands, byte for byte as pecl-memcache sends them.
//!
//! Source: memcached doc/protocol.txt; the exact spelling (no `noreply`, no time after
//! `delete`) is pecl-memcache's, recorded in tests/golden/wire-ascii.txt.

use super::{Expect, LINE_MAX, Parsed, Reply, Store, VALUE_MAX};
use crate::item::{Span, first_blank};

/// Appends the command line of a store; the value and CR LF follow it.
pub fn store(
    out: &mut Vec<u8>,
    verb: Store,
    key: &[u8],
    flags: u32,
    ttl: u32,
    len: usize,
    cas: u64,
) {
    out.extend_from_slice(match verb {
        Store::Set => b"set ",
        Store::Add => b"add ",
        Store::Replace => b"replace ",
        Store::Cas => b"cas ",
        Store::Append => b"append ",
        Store::Prepend => b"prepend ",
    });
    out.extend_from_slice(key);
    number(out, u64::from(flags));
    number(out, u64::from(ttl));
    number(out, len as u64);
    if verb == Store::Cas {
        number(out, cas);
    }
    out.extend_from_slice(b"\r\n");
}

/// Begins a `get` (or `gets`, when the cas values are wanted); [`get_key`] adds keys, [`end`] ends it.
pub fn get(out: &mut Vec<u8>, with_cas: bool) {
    out.extend_from_slice(if with_cas { b"gets" } else { b"get" });
}

/// Begins a `gat` (or `gats`): a get that sets the expiry, too.
pub fn get_and_touch(out: &mut Vec<u8>, with_cas: bool, ttl: u32) {
    out.extend_from_slice(if with_cas { b"gats" } else { b"gat" });
    life(out, ttl);
}

/// Adds one key to a begun get.
pub fn get_key(out: &mut Vec<u8>, key: &[u8]) {
    out.push(b' ');
    out.extend_from_slice(key);
}

/// Ends a begun command line.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\r\n");
}

/// Appends a `delete`.
pub fn delete(out: &mut Vec<u8>, key: &[u8]) {
    out.extend_from_slice(b"delete ");
    out.extend_from_slice(key);
    end(out);
}

/// Appends an `incr` (up) or `decr` (down).
pub fn delta(out: &mut Vec<u8>, up: bool, key: &[u8], amount: u64) {
    out.extend_from_slice(if up { b"incr " } else { b"decr " });
    out.extend_from_slice(key);
    number(out, amount);
    end(out);
}

/// Appends a `touch`.
pub fn touch(out: &mut Vec<u8>, key: &[u8], ttl: u32) {
    out.extend_from_slice(b"touch ");
    out.extend_from_slice(key);
    life(out, ttl);
    end(out);
}

/// An expiry; as in `meta`, one of the past is said as such.
fn life(out: &mut Vec<u8>, ttl: u32) {
    if i32::try_from(ttl).is_ok() {
        number(out, u64::from(ttl));
    } else {
        out.extend_from_slice(b" -1");
    }
}

/// Appends a `flush_all`, in `delay` seconds when that is not 0.
pub fn flush_all(out: &mut Vec<u8>, delay: u32) {
    out.extend_from_slice(b"flush_all");
    if delay != 0 {
        number(out, u64::from(delay));
    }
    end(out);
}

/// Appends a `version`.
pub fn version(out: &mut Vec<u8>) {
    out.extend_from_slice(b"version\r\n");
}

/// Appends a `stats` with `args` ("slabs", "cachedump 1 100" or nothing).
pub fn stats(out: &mut Vec<u8>, args: &[u8]) {
    out.extend_from_slice(b"stats");
    if !args.is_empty() {
        out.push(b' ');
        out.extend_from_slice(args);
    }
    end(out);
}

/// Appends the question for all keys (memcached doc/protocol.txt, "lru_crawler metadump").
/// The hash table is walked, since the lists of recent use may be switched off.
pub fn list_keys(out: &mut Vec<u8>) {
    out.extend_from_slice(b"lru_crawler metadump hash\r\n");
}

/// Appends the question for the keys of a class that no server has: one that lists keys says that
/// there is no such class, one that does not says so (tried on 1.6.18 and 1.6.38).
pub fn ask_for_listing(out: &mut Vec<u8>) {
    out.extend_from_slice(b"lru_crawler metadump 0\r\n");
}

/// Is this how a server refuses that lists its keys to nobody? Started with `-X` it says the first,
/// with `-o no_lru_crawler` the second (proto_text.c process_lru_crawler_command).
pub fn lists_to_nobody(line: &[u8]) -> bool {
    line == b"ERROR metadump not allowed" || line == b"CLIENT_ERROR lru crawler disabled"
}

fn number(out: &mut Vec<u8>, n: u64) {
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Reads one reply from `buf[at..]` for a question that expects `expect`.
///
/// Spans in the reply are positions in `buf` as a whole.
pub fn parse(buf: &[u8], at: usize, expect: Expect) -> Parsed {
    let rest = buf.get(at..).unwrap_or_default();
    if expect == Expect::Values
        && let Some(head) = rest.strip_prefix(VALUE)
    {
        return value(at, head);
    }
    // The two lines that nearly all answers end with.
    match expect {
        Expect::Values if rest.starts_with(b"END\r\n") => return Parsed::Reply(5, Reply::End),
        Expect::Stored if rest.starts_with(b"STORED\r\n") => return Parsed::Reply(8, Reply::Done),
        _ => {}
    }
    let Some(lf) = memchr::memchr(b'\n', rest) else {
        return unfinished(rest);
    };
    // The only lines of memcached that end with a bare LF (crawler.c crawler_metadump_eval).
    if expect == Expect::Keys && rest.starts_with(b"key=") {
        return Parsed::Reply(lf + 1, Reply::Stat(Span { at, len: lf }));
    }
    // memcached ends every line with CR LF; a bare LF is somebody else speaking.
    let Some(line) = rest.get(..lf).and_then(|l| l.strip_suffix(b"\r")) else {
        return Parsed::Garbage("a line that does not end in CR LF");
    };
    let used = lf + 1;
    let span = Span {
        at,
        len: line.len(),
    };
    let reply = match (expect, line) {
        (Expect::Values | Expect::Stats | Expect::Keys, b"END") => Reply::End,
        (Expect::Keys, b"BADCLASS invalid class id") => Reply::End,
        (Expect::Keys, _) if line.starts_with(b"BUSY") => Reply::ServerError(span),
        (Expect::Stats, b"RESET" | b"OK") => Reply::End,
        (Expect::Stats, _) if line.starts_with(b"STAT ") || line.starts_with(b"ITEM ") => {
            Reply::Stat(span)
        }
        // Each command has one word for success: another command's would be another's answer.
        (Expect::Stored, b"STORED")
        | (Expect::Deleted, b"DELETED")
        | (Expect::Touched, b"TOUCHED")
        | (Expect::Flushed, b"OK") => Reply::Done,
        (Expect::Stored, b"NOT_STORED") => Reply::NotStored,
        (Expect::Stored, b"EXISTS") => Reply::Exists,
        (Expect::Stored | Expect::Deleted | Expect::Touched | Expect::Number, b"NOT_FOUND") => {
            Reply::NotFound
        }
        (Expect::Number, [b'0'..=b'9', ..]) => match counter(line) {
            Some(n) => Reply::Number(n),
            None => return Parsed::Garbage("a number that is none"),
        },
        (Expect::Version, _) if line.starts_with(b"VERSION ") => Reply::Version(Span {
            at: at + 8,
            len: line.len() - 8,
        }),
        (_, b"ERROR") => Reply::Unknown(span),
        _ if line.starts_with(b"ERROR ") => Reply::Unknown(span),
        _ if line.starts_with(b"SERVER_ERROR") => Reply::ServerError(span),
        _ if line.starts_with(b"CLIENT_ERROR") => Reply::ClientError(span),
        (_, [b'-' | b'+' | b'$' | b':', ..]) => {
            return Parsed::Garbage("it speaks as Redis does. Write redis:// before its host");
        }
        _ => return Parsed::Garbage("a line that answers nothing that was asked"),
    };
    Parsed::Reply(used, reply)
}

/// A line whose end has not arrived: not yet, unless it is too long to be one.
fn unfinished(rest: &[u8]) -> Parsed {
    if rest.len() > LINE_MAX {
        Parsed::Garbage("a line without an end")
    } else {
        Parsed::More(1)
    }
}

/// The word a hit begins with.
const VALUE: &[u8] = b"VALUE ";

/// One value of a get, and which of its keys it answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// Place of the key among those asked for.
    pub place: usize,
    /// The item's flag bits.
    pub flags: u32,
    /// The item's cas value, 0 unless asked for.
    pub cas: u64,
    /// The value, as a span of what was received.
    pub data: Span,
}

/// Reads all whole VALUE blocks from `buf[at..]` on into `hits`, and says where the first
/// byte lies that is none of theirs. The hot loop of every get: what is not a block as
/// every server sends it, with a key of those asked for, is left to [`parse`] and [`hit`].
///
/// `keys` are the keys in the order they were asked for, as spans of the request `out`;
/// values come in the same order, without the missing ones. Knowing the next key spares
/// looking for its end.
pub fn hits(buf: &[u8], at: usize, out: &[u8], keys: &[Span], hits: &mut Vec<Hit>) -> usize {
    let mut at = at;
    let mut next = next_place(hits);
    // What followed the last key, up to its data: values asked for together are often alike
    // in flags and length, and comparing is half the work of reading two numbers.
    let mut alike: (&[u8], u32, usize) = (b"", 0, 0);
    loop {
        let Some(likely) = keys.get(next).map(|key| key.of(out)) else {
            return at;
        };
        let block = buf.get(at..).unwrap_or_default();
        let key_len = if is_of(block, likely) {
            likely.len()
        } else {
            match other_key(block, out, keys, next) {
                Some((place, len)) => {
                    next = place;
                    len
                }
                None => return at,
            }
        };
        let rest = block.get(VALUE.len() + key_len..).unwrap_or_default();
        let (used, flags, cas, data) = if !alike.0.is_empty() && begins(rest, alike.0) {
            let (head, flags, len) = (VALUE.len() + key_len + alike.0.len(), alike.1, alike.2);
            let end = rest.get(alike.0.len() + len..).unwrap_or_default();
            if !end.starts_with(b"\r\n") {
                return at;
            }
            let data = Span { at: at + head, len };
            (head + len + 2, flags, 0, data)
        } else {
            let Some((used, flags, cas, data)) = whole_value(block, at, key_len) else {
                return at;
            };
            if cas == 0 {
                let head = rest.get(..used - VALUE.len() - key_len - data.len - 2);
                alike = (head.unwrap_or_default(), flags, data.len);
            }
            (used, flags, cas, data)
        };
        hits.push(Hit {
            place: next,
            flags,
            cas,
            data,
        });
        next += 1;
        at += used;
    }
}

/// The same for one value that [`parse`] read; `None` when its key was not asked for, or
/// not at this place.
pub fn hit(reply: Reply, buf: &[u8], out: &[u8], keys: &[Span], before: &[Hit]) -> Option<Hit> {
    let Reply::Value {
        key,
        flags,
        cas,
        data,
    } = reply
    else {
        return None;
    };
    let place = place(key.of(buf), out, keys, next_place(before))?;
    Some(Hit {
        place,
        flags,
        cas,
        data,
    })
}

fn next_place(hits: &[Hit]) -> usize {
    hits.last().map_or(0, |hit| hit.place + 1)
}

/// Where `key` is asked for, from place `next` on: what lies between is missing.
fn place(key: &[u8], out: &[u8], keys: &[Span], next: usize) -> Option<usize> {
    let found = keys
        .get(next..)?
        .iter()
        .position(|asked| asked.of(out) == key)?;
    Some(next + found)
}

/// Is this a VALUE block of `key`?
#[inline]
fn is_of(block: &[u8], key: &[u8]) -> bool {
    let head = block.strip_prefix(VALUE).unwrap_or_default();
    head.get(key.len()).is_some_and(|b| *b == b' ') && begins(head, key) && !key.is_empty()
}

/// Does `text` begin with `key`? Keys are short: comparing words in place costs less than a
/// call of memcmp, a hundred times per get.
#[inline]
fn begins(text: &[u8], key: &[u8]) -> bool {
    let Some(text) = text.get(..key.len()) else {
        return false;
    };
    let (Some(tail), Some(last)) = (text.last_chunk::<8>(), key.last_chunk::<8>()) else {
        return text == key;
    };
    // The last word overlaps the one before it.
    let words = text.as_chunks::<8>().0.iter().zip(key.as_chunks::<8>().0);
    tail == last && words.into_iter().all(|(a, b)| a == b)
}

/// Place and length of the key of the VALUE block `block`, when it is another than the next one.
#[inline(never)]
fn other_key(block: &[u8], out: &[u8], keys: &[Span], next: usize) -> Option<(usize, usize)> {
    let head = block.strip_prefix(VALUE)?;
    let key = head.get(..first_blank(head)?)?;
    Some((place(key, out, keys, next)?, key.len()))
}

/// The VALUE block `block`, which begins at `at` and has a key of `key_len` bytes, and its
/// length, flags, cas value and data, if all of it is there and nothing is odd.
#[inline]
fn whole_value(block: &[u8], at: usize, key_len: usize) -> Option<(usize, u32, u64, Span)> {
    let rest = block.get(VALUE.len() + key_len..)?;
    // Plain strings have no flags, and most values are strings.
    let (flags, rest) = if rest.starts_with(b" 0 ") {
        (0, rest.get(2..)?)
    } else {
        long_field(rest.strip_prefix(b" ")?)?
    };
    let (len, rest) = field(rest)?;
    let (cas, rest) = match rest.first() {
        Some(b' ') => long_field(rest.get(1..)?)?,
        _ => (0, rest),
    };
    let rest = rest.strip_prefix(b"\r\n")?;
    let (flags, len) = (u32::try_from(flags).ok()?, usize::try_from(len).ok()?);
    let after = rest.get(len..)?.strip_prefix(b"\r\n")?;
    let data = Span {
        at: at + (block.len() - rest.len()),
        len,
    };
    if len > VALUE_MAX {
        return None;
    }
    Some((block.len() - after.len(), flags, cas, data))
}

/// A blank and a number of one to seven digits behind it, and what follows; read as one
/// word of eight bytes, for numbers of different lengths make a loop's end hard to foresee.
#[inline]
fn field(text: &[u8]) -> Option<(u64, &[u8])> {
    const ONES: u64 = u64::MAX / 0xff;
    let text = text.strip_prefix(b" ")?;
    let Some(word) = text.first_chunk::<8>() else {
        return long_field(text);
    };
    // Digits become 0 to 9; adding 0x76 sets the top bit of what is more.
    let word = u64::from_le_bytes(*word) ^ (ONES * 0x30);
    let others = (word.wrapping_add(ONES * 0x76) | word) & (ONES * 0x80);
    let digits = others.trailing_zeros() as usize / 8;
    if digits == 0 || digits == 8 {
        return long_field(text);
    }
    // The digits move to the upper end, behind zeros; then neighbours are joined: to
    // numbers of two digits, of four, of eight (low byte first).
    let ones = word << (64 - 8 * digits);
    let twos = (ones.wrapping_mul(10).wrapping_add(ones >> 8)) & 0x00ff_00ff_00ff_00ff;
    let fours = (twos.wrapping_mul(100).wrapping_add(twos >> 16)) & 0x0000_ffff_0000_ffff;
    let number = (fours.wrapping_mul(10_000).wrapping_add(fours >> 32)) & 0xffff_ffff;
    Some((number, text.get(digits..)?))
}

/// The same for any length, without the blank; up to 19 digits cannot overflow.
#[inline(never)]
fn long_field(text: &[u8]) -> Option<(u64, &[u8])> {
    let mut number = 0u64;
    for (place, byte) in text.iter().enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let usual = (1..20).contains(&place);
            return usual.then_some((number, text.get(place..)?));
        }
        number = number.wrapping_mul(10).wrapping_add(u64::from(digit));
    }
    None
}

/// Reads the VALUE block at `at`, odd or not all there; `head` is what follows the word.
fn value(at: usize, head: &[u8]) -> Parsed {
    const GARBAGE: Parsed = Parsed::Garbage("a VALUE line that cannot be read");
    let Some(key_len) = head.iter().position(|b| *b <= b' ') else {
        return unfinished(head);
    };
    let mut fields = [0u64; 3];
    let mut count = 0;
    let mut place = key_len;
    // Each turn reads one blank and one number; the line ends with CR LF.
    while head.get(place) == Some(&b' ') {
        let start = place + 1;
        place = start;
        let mut number = 0u64;
        while let Some(digit) = head
            .get(place)
            .map(|b| b.wrapping_sub(b'0'))
            .filter(|d| *d < 10)
        {
            // 19 digits cannot overflow; more are checked one by one.
            number = if place - start < 19 {
                number * 10 + u64::from(digit)
            } else {
                match number
                    .checked_mul(10)
                    .and_then(|n| n.checked_add(u64::from(digit)))
                {
                    Some(number) => number,
                    None => return GARBAGE,
                }
            };
            place += 1;
        }
        match fields.get_mut(count) {
            Some(field) if place > start => *field = number,
            _ if place == head.len() => return unfinished(head),
            _ => return GARBAGE,
        }
        count += 1;
    }
    match head.get(place..place + 2) {
        Some(b"\r\n") if count >= 2 => place += 2,
        None if head.get(place).is_none_or(|b| *b == b'\r') => return unfinished(head),
        _ => return GARBAGE,
    }
    let [flags, len, cas] = fields;
    let (Ok(flags), Ok(len)) = (u32::try_from(flags), usize::try_from(len)) else {
        return GARBAGE;
    };
    if len > VALUE_MAX {
        return Parsed::Garbage("a value longer than any server stores");
    }
    match head.get(place + len..place + len + 2) {
        Some(b"\r\n") => {}
        Some(_) => return Parsed::Garbage("a value of another length than announced"),
        None => return Parsed::More(place + len + 2 - head.len()),
    }
    let head_at = at + VALUE.len();
    let key = Span {
        at: head_at,
        len: key_len,
    };
    let data = Span {
        at: head_at + place,
        len,
    };
    Parsed::Reply(
        VALUE.len() + place + len + 2,
        Reply::Value {
            key,
            flags,
            cas,
            data,
        },
    )
}

/// A number alone on its line; `decr` pads its answer with blanks (memcached keeps the old length).
fn counter(line: &[u8]) -> Option<u64> {
    digits(line.trim_ascii_end())
}

/// Decimal digits only, without sign; `None` when empty or over 64 bits.
pub(super) fn digits(text: &[u8]) -> Option<u64> {
    if text.is_empty() {
        return None;
    }
    text.iter().try_fold(0u64, |n, b| {
        let digit = b.checked_sub(b'0').filter(|d| *d < 10)?;
        n.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests;
