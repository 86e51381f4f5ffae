//! From bytes to answers: RESP2, and what of RESP3 can stand in its place.

use super::super::classic::Hit;
use super::super::{LINE_MAX, Parsed, Reply, VALUE_MAX};
use super::{Shape, stored};
use crate::item::Span;

/// One piece of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Piece {
    /// `+…`, without the sign.
    Status(Span),
    /// `-…` or a `!` of RESP3, without the sign.
    Error(Span),
    /// `:…`.
    Number(i64),
    /// `$…`, or a `=` of RESP3 without its kind.
    Bytes(Span),
    /// Nothing: `$-1`, `*-1`, or `_` of RESP3.
    Nothing,
    /// The head of a list of so many pieces, or of a map of half as many pairs.
    List(usize),
}

/// What could be made of the bytes at hand.
enum Read {
    More(usize),
    /// A piece that took so many bytes.
    Piece(usize, Piece),
    Garbage(&'static str),
}

/// Reads one answer from `buf[at..]`. Spans in it are positions in `buf` as a whole.
///
/// For [`Shape::Values`] only an error is an answer here; see [`values`].
pub fn parse(buf: &[u8], at: usize, shape: Shape) -> Parsed {
    let (used, piece) = match piece(buf, at) {
        Read::More(missing) => return Parsed::More(missing),
        Read::Garbage(what) => return Parsed::Garbage(what),
        Read::Piece(used, piece) => (used, piece),
    };
    let reply = match (shape, piece) {
        (_, Piece::Error(line)) => refusal(buf, line),
        (Shape::Greeting, Piece::List(pieces)) => match skip(buf, at + used, pieces) {
            Ok(end) => return Parsed::Reply(end - at, Reply::Done),
            Err(parsed) => return parsed,
        },
        (Shape::Greeting, _) => Reply::Done,
        (Shape::Stored, Piece::Status(text)) if text.of(buf) == b"OK" => Reply::Done,
        (Shape::Stored, Piece::Nothing) => Reply::NotStored,
        (Shape::Word, Piece::Number(0)) => Reply::NotFound,
        (Shape::Word, Piece::Number(1)) => Reply::Done,
        (Shape::Word, Piece::Number(2)) => Reply::Exists,
        (Shape::Word, Piece::Number(3)) => Reply::NotStored,
        (Shape::Number | Shape::Item(_), Piece::Nothing) => Reply::NotFound,
        (Shape::Number, Piece::Bytes(digits)) => match digits_of(digits.of(buf)) {
            Some(number) => Reply::Number(number),
            None => return Parsed::Garbage("a number that is none"),
        },
        (Shape::Item(with_cas), Piece::Bytes(bytes)) => {
            let Hit {
                flags, cas, data, ..
            } = hit(0, bytes.of(buf), bytes.at + bytes.len, with_cas);
            Reply::Item { flags, cas, data }
        }
        (Shape::Count | Shape::Number, Piece::Number(count)) => match u64::try_from(count) {
            Ok(count) => Reply::Number(count),
            Err(_) => return Parsed::Garbage("a number that is none"),
        },
        (Shape::Text, Piece::Bytes(text) | Piece::Status(text)) => Reply::Text(text),
        (Shape::List, Piece::Nothing) => Reply::NotFound,
        (Shape::List, Piece::List(pieces)) => match skip(buf, at + used, pieces) {
            Ok(end) => {
                let list = Span { at, len: end - at };
                return Parsed::Reply(list.len, Reply::List(list));
            }
            Err(parsed) => return parsed,
        },
        _ => return Parsed::Garbage("an answer to something else"),
    };
    Parsed::Reply(used, reply)
}

/// Where the list of `pieces` pieces at `at` ends, lists within it included.
fn skip(buf: &[u8], at: usize, pieces: usize) -> Result<usize, Parsed> {
    let (mut at, mut left) = (at, pieces);
    while left > 0 {
        left -= 1;
        match piece(buf, at) {
            Read::Piece(used, piece) => {
                at += used;
                if let Piece::List(more) = piece {
                    left = left.saturating_add(more);
                }
            }
            Read::More(missing) => return Err(Parsed::More(missing)),
            Read::Garbage(what) => return Err(Parsed::Garbage(what)),
        }
    }
    Ok(at)
}

/// One part of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Nothing.
    Nothing,
    /// A number.
    Number(i64),
    /// Bytes.
    Bytes(Span),
}

/// The parts of the list that lies at `list` in `buf`; `None` for one with lists in it, or errors.
pub fn parts(buf: &[u8], list: Span) -> Option<Vec<Part>> {
    let buf = buf.get(..list.at.checked_add(list.len)?)?;
    let Read::Piece(used, Piece::List(count)) = piece(buf, list.at) else {
        return None;
    };
    let mut at = list.at + used;
    // What was announced counts for nothing: each part takes bytes that are there.
    let mut parts = Vec::with_capacity(count.min(list.len));
    for _ in 0..count {
        let Read::Piece(used, piece) = piece(buf, at) else {
            return None;
        };
        at += used;
        parts.push(match piece {
            Piece::Nothing => Part::Nothing,
            Piece::Number(number) => Part::Number(number),
            Piece::Bytes(bytes) | Piece::Status(bytes) => Part::Bytes(bytes),
            Piece::Error(_) | Piece::List(_) => return None,
        });
    }
    Some(parts)
}

/// The answers in the list that lies at `list` in `buf`, one for each of `shapes`; `None` when
/// they are others.
pub fn each(buf: &[u8], list: Span, shapes: &[Shape]) -> Option<Vec<Reply>> {
    let buf = buf.get(..list.at.checked_add(list.len)?)?;
    let Read::Piece(used, Piece::List(count)) = piece(buf, list.at) else {
        return None;
    };
    let mut at = list.at + used;
    let mut replies = Vec::with_capacity(shapes.len());
    if count != shapes.len() {
        return None;
    }
    for shape in shapes {
        let Parsed::Reply(used, reply) = parse(buf, at, *shape) else {
            return None;
        };
        at += used;
        replies.push(reply);
    }
    Some(replies)
}

/// The first part of the list that lies at `list` in `buf`, where that is a text; whatever else
/// is in the list.
pub fn first(buf: &[u8], list: Span) -> Option<&[u8]> {
    let Read::Piece(used, Piece::List(1..)) = piece(buf, list.at) else {
        return None;
    };
    match piece(buf, list.at + used) {
        Read::Piece(_, Piece::Bytes(text) | Piece::Status(text)) => Some(text.of(buf)),
        _ => None,
    }
}

/// Where the answer, or the request, that begins at `at` ends; `None` when it is not all there.
pub fn end(buf: &[u8], at: usize) -> Option<usize> {
    skip(buf, at, 1).ok()
}

/// A walk over a list with lists in it: each step is `None` where something else stands.
pub(super) struct Cursor<'b> {
    buf: &'b [u8],
    at: usize,
}

impl<'b> Cursor<'b> {
    /// Before the head of the list at `list`.
    pub(super) fn new(buf: &'b [u8], list: Span) -> Cursor<'b> {
        let end = list.at.saturating_add(list.len);
        Cursor {
            buf: buf.get(..end).unwrap_or_default(),
            at: list.at,
        }
    }

    fn step(&mut self) -> Option<Piece> {
        let Read::Piece(used, piece) = piece(self.buf, self.at) else {
            return None;
        };
        self.at += used;
        Some(piece)
    }

    /// The head of a list: how many parts it has.
    pub(super) fn list(&mut self) -> Option<usize> {
        match self.step()? {
            Piece::List(parts) => Some(parts),
            _ => None,
        }
    }

    /// A number.
    pub(super) fn number(&mut self) -> Option<i64> {
        match self.step()? {
            Piece::Number(number) => Some(number),
            _ => None,
        }
    }

    /// A text; an empty one where nothing stands.
    pub(super) fn text(&mut self) -> Option<&'b [u8]> {
        match self.step()? {
            Piece::Bytes(text) | Piece::Status(text) => Some(text.of(self.buf)),
            Piece::Nothing => Some(b""),
            _ => None,
        }
    }

    /// Whatever stands here.
    pub(super) fn skip(&mut self) -> Option<()> {
        self.at = end(self.buf, self.at)?;
        Some(())
    }
}

/// How far the values of a get are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The head of the list was read.
    begun: bool,
    /// The key whose value is next.
    place: usize,
}

/// Reads all whole values of a get of `keys` keys from `buf[*at..]` on into `hits`, and moves
/// `at` behind them; what is missing, or [`Reply::End`] when all are there.
pub fn values(
    buf: &[u8],
    at: &mut usize,
    keys: usize,
    with_cas: bool,
    progress: &mut Progress,
    hits: &mut Vec<Hit>,
) -> Parsed {
    // One key is asked for by a command that answers without a list.
    if !progress.begun && keys != 1 {
        match piece(buf, *at) {
            Read::Piece(used, Piece::List(count)) if count == keys => *at += used,
            Read::Piece(used, Piece::Error(line)) => {
                return Parsed::Reply(used, refusal(buf, line));
            }
            Read::Piece(..) => return Parsed::Garbage("a list of another length than asked for"),
            Read::More(missing) => return Parsed::More(missing),
            Read::Garbage(what) => return Parsed::Garbage(what),
        }
    }
    progress.begun = true;
    hits.reserve(keys - progress.place.min(keys));
    loop {
        whole_values(buf, at, keys, with_cas, progress, hits);
        if progress.place >= keys {
            return Parsed::Reply(0, Reply::End);
        }
        let (bytes, used) = match other_piece(buf, *at) {
            Read::Piece(used, Piece::Bytes(bytes)) => (Some(bytes), used),
            Read::Piece(used, Piece::Nothing) => (None, used),
            Read::Piece(used, Piece::Error(line)) if keys == 1 => {
                return Parsed::Reply(used, refusal(buf, line));
            }
            Read::Piece(..) => return Parsed::Garbage("something that is no value"),
            Read::More(missing) => return Parsed::More(missing),
            Read::Garbage(what) => return Parsed::Garbage(what),
        };
        if let Some(bytes) = bytes {
            hits.push(hit(
                progress.place,
                bytes.of(buf),
                bytes.at + bytes.len,
                with_cas,
            ));
        }
        *at += used;
        progress.place += 1;
    }
}

/// Reads the values that lie whole at `at`, one behind the other: most of what comes, and a get has a hundred.
#[inline]
fn whole_values(
    buf: &[u8],
    at: &mut usize,
    keys: usize,
    with_cas: bool,
    progress: &mut Progress,
    hits: &mut Vec<Hit>,
) {
    let (mut rest, mut place) = (buf.get(*at..).unwrap_or_default(), progress.place);
    while place < keys {
        let Some((value, behind)) = whole_value(rest) else {
            break;
        };
        // Its CR LF lies between them.
        let end = buf.len() - behind.len() - 2;
        hits.push(hit(place, value, end, with_cas));
        (rest, place) = (behind, place + 1);
    }
    *at = buf.len() - rest.len();
    progress.place = place;
}

/// The stored item of key number `place`, which ends before `end` in what was received.
#[inline(always)]
fn hit(place: usize, item: &[u8], end: usize, with_cas: bool) -> Hit {
    let (flags, head) = stored::split(item);
    let len = item.len() - head;
    Hit {
        place,
        flags,
        cas: if with_cas { stored::cas(item) } else { 0 },
        data: Span { at: end - len, len },
    }
}

/// An error as what it is for the caller: a script to be given in full, a mistake of his, or
/// the server's own trouble.
fn refusal(buf: &[u8], line: Span) -> Reply {
    let text = line.of(buf);
    let begins = |word: &str| text.starts_with(word.as_bytes());
    if begins("NOSCRIPT") {
        Reply::NoScript
    } else if begins("ERR unknown command") {
        // Behind its name it repeats what was said, which may be a password.
        let end = text.windows(12).position(|word| word == b", with args ");
        Reply::Unknown(Span {
            at: line.at,
            len: end.unwrap_or(line.len),
        })
    } else if begins("CLIENT_ERROR") || begins("WRONGTYPE") {
        Reply::ClientError(line)
    } else {
        Reply::ServerError(line)
    }
}

/// Reads one piece at `at`.
fn piece(buf: &[u8], at: usize) -> Read {
    let rest = buf.get(at..).unwrap_or_default();
    let Some((value, behind)) = whole_value(rest) else {
        return other_piece(buf, at);
    };
    let used = rest.len() - behind.len();
    let len = value.len();
    let at = at + used - 2 - len;
    Read::Piece(used, Piece::Bytes(Span { at, len }))
}

/// The value that `text` begins with and what stands behind it, if all of it is there.
#[inline(always)]
fn whole_value(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = short_length(text.strip_prefix(b"$")?)?;
    let (value, behind) = rest.split_at_checked(len)?;
    Some((value, behind.strip_prefix(b"\r\n")?))
}

/// A length of up to nine digits, and what stands behind it and its CR LF.
#[inline(always)]
fn short_length(text: &[u8]) -> Option<(usize, &[u8])> {
    let mut len = 0;
    for (place, byte) in text.iter().take(10).enumerate() {
        let digit = byte.wrapping_sub(b'0');
        if digit > 9 {
            let rest = text.get(place..)?.strip_prefix(b"\r\n")?;
            return (place > 0).then_some((len, rest));
        }
        len = len * 10 + usize::from(digit);
    }
    None
}

#[inline(never)]
fn other_piece(buf: &[u8], at: usize) -> Read {
    let rest = buf.get(at..).unwrap_or_default();
    let Some(sign) = rest.first().copied() else {
        return Read::More(1);
    };
    if !b"+-:$*_#(=!%~".contains(&sign) {
        return Read::Garbage(stranger(rest));
    }
    let Some(lf) = memchr::memchr(b'\n', rest) else {
        return if rest.len() > LINE_MAX {
            Read::Garbage("a line without an end")
        } else {
            Read::More(1)
        };
    };
    let Some(line) = rest.get(1..lf).and_then(|line| line.strip_suffix(b"\r")) else {
        return Read::Garbage("a line that does not end in CR LF");
    };
    let used = lf + 1;
    let text = Span {
        at: at + 1,
        len: line.len(),
    };
    let piece = match sign {
        b'+' => Piece::Status(text),
        b'-' => Piece::Error(text),
        b'_' => Piece::Nothing,
        b'$' | b'*' if line == b"-1" => Piece::Nothing,
        b'#' => match line {
            b"t" => Piece::Number(1),
            b"f" => Piece::Number(0),
            _ => return Read::Garbage("a truth that is none"),
        },
        b'(' => Piece::Bytes(text),
        b':' => match std::str::from_utf8(line).ok().and_then(|n| n.parse().ok()) {
            Some(number) => Piece::Number(number),
            None => return Read::Garbage("a number that is none"),
        },
        _ => {
            let Some(len) = digits_of(line).and_then(|len| usize::try_from(len).ok()) else {
                return Read::Garbage("a length that is none");
            };
            match sign {
                b'*' | b'~' => Piece::List(len),
                b'%' => Piece::List(len.saturating_mul(2)),
                b'!' => match body(rest, at, used, len, 0) {
                    Read::Piece(used, Piece::Bytes(text)) => {
                        return Read::Piece(used, Piece::Error(text));
                    }
                    other => return other,
                },
                // Three letters and a colon say what kind of text it is.
                b'=' if len < 4 => return Read::Garbage("a text without its kind"),
                b'=' => return body(rest, at, used, len, 4),
                _ => return body(rest, at, used, len, 0),
            }
        }
    };
    Read::Piece(used, piece)
}

/// The `len` bytes that begin `head` bytes into `rest`, without the first `skip` of them.
#[inline]
fn body(rest: &[u8], at: usize, head: usize, len: usize, skip: usize) -> Read {
    if len > VALUE_MAX {
        return Read::Garbage("a value longer than any may be");
    }
    let end = head + len;
    match rest.get(end..end + 2) {
        Some(b"\r\n") => {
            let bytes = Span {
                at: at + head + skip,
                len: len - skip,
            };
            Read::Piece(end + 2, Piece::Bytes(bytes))
        }
        Some(_) => Read::Garbage("a value of another length than announced"),
        None => Read::More(end + 2 - rest.len()),
    }
}

/// Who answers like this?
#[cold]
fn stranger(rest: &[u8]) -> &'static str {
    let begins = |word: &str| {
        let len = word.len().min(rest.len());
        rest.get(..len) == word.as_bytes().get(..len)
    };
    if ["ERROR", "CLIENT_ERROR", "SERVER_ERROR"]
        .into_iter()
        .any(begins)
    {
        "it speaks as memcached does. Write tcp:// before its host, not redis://"
    } else {
        "an answer that is not RESP"
    }
}

/// Decimal digits only; `None` when empty or over 64 bits.
fn digits_of(text: &[u8]) -> Option<u64> {
    super::super::classic::digits(text)
}
