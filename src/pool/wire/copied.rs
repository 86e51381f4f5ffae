//! The meta lines of copied values of a cache: versioned where the server has `E`, else with a header.
//!
//! Bytes only; what they are for is `pool::cache`'s to know. Reads are said by
//! [`super::fenced::read`], and their answers read by [`super::fenced::Shown`].
//!
//! ```text
//! store   ms KEY len [C<cas>|ME|MR] [E<version>] F<flags> T<life> O
//! touch   mg KEY T<life> O
//! remove  md KEY [C<cas>] O
//! ```
//!
//! What servers did when tried (1.6.18 and 1.6.38): `flush_all` takes items with a version of
//! ours, too; `T-1` is gone at once; `mg … T` and `ms … MR` leave an absent item absent.

use super::fenced::{HEADER, Header, LIFE_MAX};
use super::meta::{self, Answer, Status, token};

/// The flag bit of a remembered delete, as in copied sessions.
pub const TOMBSTONE: u32 = 1 << 12;
/// The flag bit of a value that begins with a [`super::fenced::Header`].
pub const HEADED: u32 = 1 << 13;

/// Versions are above this and a server's own cas values below: the one counts microseconds
/// since 1970, roughly, the other changes since it was started.
pub const VERSION_LEAST: u64 = 1 << 50;

/// The first memcached whose meta commands take a version to store (`E`).
const VERSIONS_SINCE: [u32; 3] = [1, 6, 27];

/// Does the memcached that told this version text take versions (`E`)?
pub fn takes_versions(text: &[u8]) -> bool {
    meta::version(text) >= VERSIONS_SINCE
}

/// Which write an item is of that a look showed in `read`; 0 for none and for another client's.
pub fn version_of(answer: Answer, read: &[u8]) -> u64 {
    match answer.status {
        Status::Value | Status::Done if answer.flags & HEADED != 0 => {
            Header::split(answer.data.of(read)).map_or(0, |(header, _)| header.version)
        }
        Status::Value | Status::Done if answer.cas >= VERSION_LEAST => answer.cas,
        _ => 0,
    }
}

/// Over what a value is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Whatever there is.
    Anything,
    /// An item, whichever.
    Something,
    /// Nothing.
    Nothing,
    /// The item with this cas value.
    Cas(u64),
}

/// One store, as [`store`] says it.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// The wire key.
    pub key: &'a [u8],
    /// Over what.
    pub over: Over,
    /// Which write it is, above [`VERSION_LEAST`]; 0 for a value as another client stores it.
    pub version: u64,
    /// Its flag bits, without those that are ours.
    pub flags: u32,
    /// When it ends.
    pub life: Life,
    /// Its bytes; `None` for a tombstone.
    pub value: Option<&'a [u8]>,
}

/// When an item ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// As a caller of the Memcache class says it: 0 never, up to 30 days in seconds, else a date.
    Said(u32),
    /// After this many seconds, however many; [`super::fenced::FOR_EVER`] never. `now` is this
    /// host's clock in seconds since 1970, for lives a server takes as a date only.
    Left {
        /// Seconds.
        seconds: u32,
        /// Seconds since 1970.
        now: u64,
    },
}

impl Life {
    /// The same, but `most` seconds at most; `now` is this host's clock in seconds since 1970.
    pub fn at_most(self, most: u32, now: u64) -> Life {
        let left = match self {
            Life::Said(0) => super::fenced::FOR_EVER,
            Life::Said(said) if said <= LIFE_MAX => said,
            // One that has passed, or is below 0, is to be said as it is.
            Life::Said(date) if u64::from(date) <= now || i32::try_from(date).is_err() => {
                return self;
            }
            Life::Said(date) => u32::try_from(u64::from(date) - now).unwrap_or(u32::MAX),
            Life::Left { seconds, .. } => seconds,
        };
        if left <= most {
            return self;
        }
        Life::Left { seconds: most, now }
    }

    /// The expiry that says so, as callers of the Memcache class say it.
    pub fn ttl(self) -> u32 {
        match self {
            Life::Said(said) => said,
            Life::Left {
                seconds: super::fenced::FOR_EVER,
                ..
            } => 0,
            // 0 would be for ever.
            Life::Left { seconds, .. } if seconds <= LIFE_MAX => seconds.max(1),
            Life::Left { seconds, now } => {
                let end = now.saturating_add(u64::from(seconds));
                u32::try_from(end.min(i32::MAX as u64)).unwrap_or(0)
            }
        }
    }
}

/// Appends a store and its value, to a server that takes `versions` (`E`) or does not.
pub fn store(out: &mut Vec<u8>, put: Put<'_>, versions: bool, opaque: u64) {
    let tombstone = put.value.is_none();
    let value = put.value.unwrap_or_default();
    // Where the cas value cannot be the version, that stands before the value.
    let headed = !versions && put.version != 0;
    let len = value.len() + if headed { HEADER } else { 0 };
    let flags = put.flags | if headed { HEADED } else { 0 } | if tombstone { TOMBSTONE } else { 0 };
    out.extend_from_slice(b"ms ");
    out.extend_from_slice(put.key);
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(len).as_bytes());
    match put.over {
        Over::Anything => {}
        Over::Something => out.extend_from_slice(b" MR"),
        Over::Nothing => out.extend_from_slice(b" ME"),
        Over::Cas(cas) => token(out, b'C', cas),
    }
    if versions && put.version != 0 {
        token(out, b'E', put.version);
    }
    token(out, b'F', u64::from(flags));
    end_of(out, put.life);
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
    if headed {
        Header {
            version: put.version,
            inc: 0,
            tombstone,
        }
        .append(out);
    }
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends a new end for an item, whose version stays.
pub fn touch(out: &mut Vec<u8>, key: &[u8], life: Life, opaque: u64) {
    out.extend_from_slice(b"mg ");
    out.extend_from_slice(key);
    end_of(out, life);
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

/// Appends a delete, of any item or of the one with this cas value.
pub fn remove(out: &mut Vec<u8>, key: &[u8], cas: Option<u64>, opaque: u64) {
    out.extend_from_slice(b"md ");
    out.extend_from_slice(key);
    if let Some(cas) = cas {
        token(out, b'C', cas);
    }
    token(out, b'O', opaque);
    out.extend_from_slice(b"\r\n");
}

fn end_of(out: &mut Vec<u8>, life: Life) {
    let ttl = life.ttl();
    if i32::try_from(ttl).is_err() {
        // Gone at once, as the classic commands have it.
        out.extend_from_slice(b" T-1");
    } else {
        token(out, b'T', u64::from(ttl));
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::wire::fenced::FOR_EVER;

    fn said(build: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        build(&mut out);
        String::from_utf8(out).unwrap()
    }

    fn put(over: Over, version: u64, life: Life) -> String {
        let put = Put {
            key: b"a",
            over,
            version,
            flags: 768,
            life,
            value: Some(b"xy"),
        };
        said(|out| store(out, put, true, 7))
    }

    #[test]
    fn a_store_says_over_what_which_version_and_how_long() {
        for (over, words) in [
            (Over::Anything, ""),
            (Over::Something, " MR"),
            (Over::Nothing, " ME"),
            (Over::Cas(9), " C9"),
        ] {
            assert_eq!(
                put(over, 12, Life::Said(60)),
                format!("ms a 2{words} E12 F768 T60 O7\r\nxy\r\n")
            );
        }
        assert_eq!(
            put(Over::Anything, 0, Life::Said(0)),
            "ms a 2 F768 T0 O7\r\nxy\r\n"
        );
    }

    #[test]
    fn a_server_without_versions_gets_them_before_the_value_and_a_flag_that_says_so() {
        for (value, version, line, headed) in [
            (Some(b"xy".as_slice()), 12, "ms a 18 F8960 T0 O7\r\n", true),
            (None, 12, "ms a 16 F13056 T0 O7\r\n", true),
            (Some(b"xy".as_slice()), 0, "ms a 2 F768 T0 O7\r\n", false),
        ] {
            let put = Put {
                key: b"a",
                over: Over::Anything,
                version,
                flags: 768,
                life: Life::Said(0),
                value,
            };
            let mut out = Vec::new();
            store(&mut out, put, false, 7);
            let stored = out.strip_prefix(line.as_bytes()).unwrap();
            let stored = stored.strip_suffix(b"\r\n").unwrap();
            let header = Header {
                version,
                inc: 0,
                tombstone: value.is_none(),
            };
            let split = headed.then_some((header, value.unwrap_or_default()));
            assert_eq!(Header::split(stored), split);
        }
    }

    #[test]
    fn versions_are_taken_since_1_6_27() {
        for (text, takes) in [
            ("1.6.27", true),
            ("1.6.38", true),
            ("1.10.0_beta", true),
            ("2.0.0", true),
            ("1.6.26", false),
            ("1.6.18-dirty", false),
            ("1.4.39", false),
            ("", false),
        ] {
            assert_eq!(takes_versions(text.as_bytes()), takes, "{text}");
        }
    }

    #[test]
    fn a_life_is_cut_where_it_is_longer_and_one_that_is_over_is_not_begun_anew() {
        let now = 1_700_000_000;
        let (said, left) = (Life::Said, |seconds| Life::Left { seconds, now });
        let date = |seconds: i64| said((now as i64 + seconds) as u32);
        for (life, cut) in [
            (said(0), left(300)),
            (said(299), said(299)),
            (said(301), left(300)),
            (date(300), date(300)),
            (date(301), left(300)),
            (date(-1), date(-1)),
            (said(u32::MAX), said(u32::MAX)),
            (left(u32::MAX), left(300)),
            (left(5), left(5)),
        ] {
            assert_eq!(life.at_most(300, now), cut, "{life:?}");
        }
    }

    #[test]
    fn a_life_is_said_so_that_every_server_takes_it() {
        let now = 1_700_000_000;
        let left = |seconds| Life::Left { seconds, now };
        for (life, word) in [
            (Life::Said(u32::MAX), "T-1"),
            (Life::Said(2_000_000_000), "T2000000000"),
            (left(0), "T1"),
            (left(60), "T60"),
            (left(LIFE_MAX), "T2592000"),
            (left(LIFE_MAX + 1), "T1702592001"),
            (left(FOR_EVER), "T0"),
        ] {
            let line = put(Over::Anything, 0, life);
            assert!(line.contains(&format!(" {word} ")), "{life:?}: {line}");
        }
    }

    #[test]
    fn touch_and_remove_are_one_line_each() {
        assert_eq!(
            said(|out| touch(out, b"a", Life::Said(5), 1)),
            "mg a T5 O1\r\n"
        );
        assert_eq!(said(|out| remove(out, b"a", None, 1)), "md a O1\r\n");
        assert_eq!(said(|out| remove(out, b"a", Some(4), 1)), "md a C4 O1\r\n");
    }
}
