//! memcached's meta commands: mg, ms, md, ma, mn, each carrying its key and an opaque back.
//!
//! Source: memcached doc/protocol.txt, "Meta Commands" (1.6.18). Every request asks for
//! the opaque (`O`) and, where an item may come back, the key (`k`), so that an answer
//! can be proved to belong to its question.

use super::classic::digits;
use super::{LINE_MAX, Parsed, Reply, Store, VALUE_MAX};
use crate::item::Span;

/// The status of a meta reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// `VA`: a value follows.
    Value,
    /// `HD`: done, without a value.
    Done,
    /// `EN`: a get found nothing.
    Miss,
    /// `NF`: not found.
    NotFound,
    /// `NS`: not stored.
    NotStored,
    /// `EX`: the cas value does not match.
    Exists,
    /// `MN`: the answer to mn, end of a pipeline.
    NoOp,
}

/// A meta reply as read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Its status.
    pub status: Status,
    /// The opaque it returned.
    pub opaque: Option<u64>,
    /// The key it returned.
    pub key: Option<Span>,
    /// The item's flag bits (`f`).
    pub flags: u32,
    /// The item's cas value (`c`).
    pub cas: u64,
    /// The value, empty unless the status is `Value`.
    pub data: Span,
}

/// The first memcached whose meta commands are today's: a miss says whose it is. Before 1.6.10 `ms`
/// has the length of its value elsewhere, and takes the value for commands.
const SINCE: [u32; 3] = [1, 6, 18];

/// Does the memcached that told this version text speak these commands?
pub fn is_spoken_by(text: &[u8]) -> bool {
    version(text) >= SINCE
}

/// The three numbers of a version text, 0 for what is missing.
pub(super) fn version(text: &[u8]) -> [u32; 3] {
    let mut numbers = text
        .split(|byte| !byte.is_ascii_digit())
        .map(|part| std::str::from_utf8(part).ok()?.parse::<u32>().ok())
        .map(Option::unwrap_or_default);
    [(); 3].map(|()| numbers.next().unwrap_or_default())
}

/// Appends `mg`: value, flags and key, and the cas value when `with_cas`; sets the expiry when `ttl` is given.
pub fn get(out: &mut Vec<u8>, key: &[u8], opaque: u64, with_cas: bool, ttl: Option<u32>) {
    out.extend_from_slice(b"mg ");
    out.extend_from_slice(key);
    out.extend_from_slice(if with_cas { b" v f k c" } else { b" v f k" });
    if let Some(ttl) = ttl {
        life(out, b'T', ttl);
    }
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

/// One store, as [`store`] says it.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Which kind.
    pub verb: Store,
    /// The wire key.
    pub key: &'a [u8],
    /// The item's flag bits.
    pub flags: u32,
    /// Expiry as memcached takes it.
    pub ttl: u32,
    /// Bytes of the value that follows.
    pub len: usize,
    /// For `Store::Cas`.
    pub cas: u64,
}

/// Appends the line of an `ms`; the value and CR LF follow it.
pub fn store(out: &mut Vec<u8>, put: Put<'_>, opaque: u64) {
    out.extend_from_slice(b"ms ");
    out.extend_from_slice(put.key);
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(put.len).as_bytes());
    let mode = match put.verb {
        Store::Set => None,
        Store::Cas => {
            token(out, b'C', put.cas);
            None
        }
        Store::Add => Some(b'E'),
        Store::Replace => Some(b'R'),
        Store::Append => Some(b'A'),
        Store::Prepend => Some(b'P'),
    };
    token(out, b'F', u64::from(put.flags));
    life(out, b'T', put.ttl);
    if let Some(mode) = mode {
        out.extend_from_slice(&[b' ', b'M', mode]);
    }
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

/// Appends `md`.
pub fn delete(out: &mut Vec<u8>, key: &[u8], opaque: u64) {
    out.extend_from_slice(b"md ");
    out.extend_from_slice(key);
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

/// Appends `ma`; with `initial` a missing counter begins there and expires after `ttl`.
pub fn delta(
    out: &mut Vec<u8>,
    up: bool,
    key: &[u8],
    amount: u64,
    initial: Option<(u64, u32)>,
    opaque: u64,
) {
    out.extend_from_slice(b"ma ");
    out.extend_from_slice(key);
    out.extend_from_slice(if up { b" v MI" } else { b" v MD" });
    token(out, b'D', amount);
    if let Some((initial, ttl)) = initial {
        token(out, b'J', initial);
        life(out, b'N', ttl);
    }
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

/// Appends a touch: `mg` without a value that sets the expiry.
pub fn touch(out: &mut Vec<u8>, key: &[u8], ttl: u32, opaque: u64) {
    out.extend_from_slice(b"mg ");
    out.extend_from_slice(key);
    life(out, b'T', ttl);
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

/// An expiry. One of the past, which PHP's callers write as a negative number, is said as such:
/// memcached 1.6.45 refuses more than 31 bits (mcmc_tokto32).
fn life(out: &mut Vec<u8>, flag: u8, ttl: u32) {
    if i32::try_from(ttl).is_ok() {
        token(out, flag, u64::from(ttl));
    } else {
        out.extend_from_slice(&[b' ', flag, b'-', b'1']);
    }
}

pub(super) fn token(out: &mut Vec<u8>, flag: u8, n: u64) {
    out.extend_from_slice(&[b' ', flag]);
    out.extend_from_slice(itoa::Buffer::new().format(n).as_bytes());
}

/// Reads one meta reply from `buf[at..]`; spans are positions in `buf` as a whole.
///
/// Error lines come back as `Reply::ServerError`, `ClientError` or `Unknown`.
pub fn parse(buf: &[u8], at: usize) -> Parsed {
    let rest = buf.get(at..).unwrap_or_default();
    let Some(lf) = memchr::memchr(b'\n', rest) else {
        return if rest.len() > LINE_MAX {
            Parsed::Garbage("a line without an end")
        } else {
            Parsed::More(1)
        };
    };
    let Some(line) = rest.get(..lf).and_then(|l| l.strip_suffix(b"\r")) else {
        return Parsed::Garbage("a line that does not end in CR LF");
    };
    let used = lf + 1;
    let whole = Span {
        at,
        len: line.len(),
    };
    let status = match line.get(..2).unwrap_or_default() {
        b"VA" => Status::Value,
        b"HD" => Status::Done,
        b"EN" => Status::Miss,
        b"NF" => Status::NotFound,
        b"NS" => Status::NotStored,
        b"EX" => Status::Exists,
        b"MN" => Status::NoOp,
        _ if line == b"ERROR" || line.starts_with(b"ERROR ") => {
            return Parsed::Reply(used, Reply::Unknown(whole));
        }
        _ if line.starts_with(b"SERVER_ERROR") => {
            return Parsed::Reply(used, Reply::ServerError(whole));
        }
        _ if line.starts_with(b"CLIENT_ERROR") => {
            return Parsed::Reply(used, Reply::ClientError(whole));
        }
        _ => return Parsed::Garbage("a line that answers nothing that was asked"),
    };
    let mut answer = Answer {
        status,
        opaque: None,
        key: None,
        flags: 0,
        cas: 0,
        data: Span::default(),
    };
    let mut len = 0usize;
    let mut place = at + 3;
    let mut fields = line.get(2..).unwrap_or_default().split(|b| *b == b' ');
    // The status stands against a blank or the end of the line.
    if fields.next().is_none_or(|rest| !rest.is_empty()) {
        return Parsed::Garbage("a status of more than two letters");
    }
    if status == Status::Value {
        let text = fields.next().unwrap_or_default();
        let Some(n) = digits(text)
            .and_then(|n| usize::try_from(n).ok())
            .filter(|n| *n <= VALUE_MAX)
        else {
            return Parsed::Garbage("a value without a usable length");
        };
        len = n;
        place += text.len() + 1;
    }
    for field in fields {
        let (flag, value) = (field.first().copied(), field.get(1..).unwrap_or_default());
        let ok = match flag {
            Some(b'O') => digits(value).map(|n| answer.opaque = Some(n)).is_some(),
            Some(b'k') => {
                answer.key = Some(Span {
                    at: place + 1,
                    len: value.len(),
                });
                true
            }
            Some(b'f') => digits(value)
                .and_then(|n| u32::try_from(n).ok())
                .map(|n| answer.flags = n)
                .is_some(),
            Some(b'c') => digits(value).map(|n| answer.cas = n).is_some(),
            // Flags nobody asked for (W, X, Z, …) are hints a server may add.
            _ => true,
        };
        if !ok {
            return Parsed::Garbage("a meta flag that cannot be read");
        }
        place += field.len() + 1;
    }
    if status != Status::Value {
        return Parsed::Reply(used, Reply::Meta(answer));
    }
    let data = at + used;
    let have = buf.len().saturating_sub(data);
    if have < len + 2 {
        return Parsed::More(len + 2 - have);
    }
    if buf.get(data + len..data + len + 2) != Some(b"\r\n".as_slice()) {
        return Parsed::Garbage("a value of another length than announced");
    }
    answer.data = Span { at: data, len };
    Parsed::Reply(used + len + 2, Reply::Meta(answer))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests {
    use super::*;

    fn said(build: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        build(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_request_carries_its_opaque() {
        assert_eq!(said(|o| get(o, b"a", 7, false, None)), "mg a v f k O7\r\n");
        assert_eq!(
            said(|o| get(o, b"a", 7, true, Some(60))),
            "mg a v f k c T60 O7\r\n"
        );
        let put = |verb| Put {
            verb,
            key: b"a",
            flags: 768,
            ttl: 5,
            len: 2,
            cas: 9,
        };
        assert_eq!(
            said(|o| store(o, put(Store::Set), 1)),
            "ms a 2 F768 T5 O1\r\n"
        );
        assert_eq!(
            said(|o| store(o, put(Store::Cas), 1)),
            "ms a 2 C9 F768 T5 O1\r\n"
        );
        assert_eq!(
            said(|o| store(o, put(Store::Append), 1)),
            "ms a 2 F768 T5 MA O1\r\n"
        );
        assert_eq!(said(|o| delete(o, b"a", 2)), "md a O2\r\n");
        assert_eq!(
            said(|o| delta(o, true, b"a", 3, Some((10, 60)), 2)),
            "ma a v MI D3 J10 N60 O2\r\n"
        );
        assert_eq!(
            said(|o| delta(o, false, b"a", 3, None, 2)),
            "ma a v MD D3 O2\r\n"
        );
        assert_eq!(said(|o| touch(o, b"a", 3, 2)), "mg a T3 O2\r\n");
    }

    #[test]
    fn a_value_comes_back_with_key_flags_cas_and_opaque() {
        let buf = b"VA 3 f768 kabc c12 O7\r\nxyz\r\nMN\r\n";
        let Parsed::Reply(28, Reply::Meta(answer)) = parse(buf, 0) else {
            panic!("{:?}", parse(buf, 0))
        };
        assert_eq!(answer.status, Status::Value);
        assert_eq!(
            (answer.opaque, answer.flags, answer.cas),
            (Some(7), 768, 12)
        );
        assert_eq!(
            (answer.key.unwrap().of(buf), answer.data.of(buf)),
            (b"abc".as_slice(), b"xyz".as_slice())
        );
        for cut in 0..28 {
            assert!(
                matches!(parse(&buf[..cut], 0), Parsed::More(n) if n > 0),
                "cut at {cut}"
            );
        }
    }

    #[test]
    fn statuses_and_errors_are_told_apart() {
        for (line, status) in [
            ("HD O1\r\n", Status::Done),
            ("EN\r\n", Status::Miss),
            ("NF O1\r\n", Status::NotFound),
            ("NS O1\r\n", Status::NotStored),
            ("EX O1\r\n", Status::Exists),
            ("MN\r\n", Status::NoOp),
        ] {
            let Parsed::Reply(_, Reply::Meta(answer)) = parse(line.as_bytes(), 0) else {
                panic!("{line}")
            };
            assert_eq!(answer.status, status);
        }
        assert!(matches!(
            parse(b"ERROR\r\n", 0),
            Parsed::Reply(7, Reply::Unknown(_))
        ));
        assert!(matches!(
            parse(b"CLIENT_ERROR bad\r\n", 0),
            Parsed::Reply(_, Reply::ClientError(_))
        ));
        for garbage in [
            "HDX O1\r\n",
            "VA x\r\n",
            "VA 4294967296\r\n",
            "HD Ox\r\n",
            "hello\r\n",
            "VA 1\r\nabc\r\n",
        ] {
            assert!(
                matches!(parse(garbage.as_bytes(), 0), Parsed::Garbage(_)),
                "{garbage}"
            );
        }
    }
}
