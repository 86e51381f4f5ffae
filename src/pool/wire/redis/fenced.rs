//! Copied items on Redis: what memcached's meta lines do on a server with `E`, as one script.
//!
//! ```text
//!   item      hash   c cas value   f flag word   d value   t there while somebody has the token
//!   record    hash   c cas value   r its text    i run_id of the process it was written in
//!                    k there unless it was doubted
//! ```
//!
//! The machines of `replica` rely on what memcached does, so nothing else is done here: cas
//! values are versions, a missing item becomes a placeholder of 30 seconds that can hold a
//! token, a write goes over one cas value, and what is refused for want of memory leaves
//! nothing behind. What differs, and why that is no loss:
//!
//! - An item that was unlocked gives its token to who asks for it, and to nobody who only looks.
//! - A write with another cas value than the item's harms nothing, however large it is.
//! - Over an item of ours a value that is no longer than its own is stored on a full server, too:
//!   it takes no further memory. So is a record, which is small and of which there is one.
//! - Of an item whose store was refused nothing is there any more, as on memcached, but its room is:
//!   the hash without `c`, until its life ends. What the machines put back goes there for sure,
//!   which memcached does by giving the room of what it dropped to the next of that size.
//! - What is no hash of ours is somebody else's item. It is shown as one without an end, on which
//!   nobody gets a token, with a cas value made of its bytes; of what is no string the kind
//!   stands for the bytes.
//!
//! Cas values have 64 bits and Lua's numbers 53, so scripts take them as decimal digits and only
//! ask whether they are the same. Those the server makes, for placeholders and records, are
//! microseconds, which no version of a clock after 1970 is.
//!
//! A full server (`maxmemory`, `noeviction`) refuses the first command of a script that may need
//! memory, but none behind one that has written already (redis.io, "Eval scripts", memory). So a
//! token is taken and given back behind an `HDEL`, as memcached does both without memory.
//!
//! All is one script, so that a server knows all of a pipeline or nothing of it: a pipeline whose
//! script was not known has done nothing, and is said again with the script in full.

use super::answer::{Part, parts};
use super::scripts::FENCED;
use super::{array, bulk, number};
use crate::item::Span;

/// Over what a store goes, and what it leaves there.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// The cas value of the item it goes over; `None` for nothing.
    pub over: Option<u64>,
    /// The cas value it gets.
    pub cas: u64,
    /// Its flag bits.
    pub flags: u32,
    /// Seconds to live.
    pub life: u32,
    /// Its value.
    pub value: &'a [u8],
}

/// How the script is called: by its name, or in full for a server that does not know it.
#[derive(Clone, Copy, Debug)]
pub struct Saying<'a> {
    /// The wire key.
    pub key: &'a [u8],
    /// Say the script in full.
    pub whole: bool,
}

impl Saying<'_> {
    fn begin(self, out: &mut Vec<u8>, word: &[u8], arguments: usize) {
        FENCED.say(out, self.whole, self.key, 1 + arguments);
        bulk(out, word);
    }

    /// Appends a read, with the value or without. With `vivify` it takes the token, and a
    /// missing item becomes an empty one of that many seconds.
    pub fn read(self, out: &mut Vec<u8>, value: bool, vivify: Option<u32>) {
        self.begin(out, b"read", 2);
        life(out, vivify);
        bulk(out, if value { b"v" } else { b"" });
    }

    /// Appends a read that gives the item `seconds`, and leaves its token where it is.
    pub fn touch(self, out: &mut Vec<u8>, seconds: u32) {
        self.begin(out, b"touch", 2);
        life(out, Some(seconds));
        bulk(out, b"");
    }

    /// Appends a store.
    pub fn store(self, out: &mut Vec<u8>, put: Put<'_>) {
        self.begin(out, b"store", 5);
        match put.over {
            Some(cas) => number(out, cas),
            None => bulk(out, b""),
        }
        number(out, put.cas);
        number(out, put.flags.into());
        life(out, Some(put.life));
        bulk(out, put.value);
    }

    /// Appends what frees an item's token and gives it the cas value `next`, and a life where
    /// one is given.
    pub fn unlock(self, out: &mut Vec<u8>, cas: u64, next: u64, seconds: Option<u32>) {
        self.begin(out, b"unlock", 3);
        number(out, cas);
        number(out, next);
        life(out, seconds);
    }

    /// Appends a delete of the item with this cas value.
    pub fn remove(self, out: &mut Vec<u8>, cas: u64) {
        self.begin(out, b"remove", 1);
        number(out, cas);
    }

    /// Appends the first record of a node without one.
    pub fn add_record(self, out: &mut Vec<u8>, text: &[u8]) {
        self.begin(out, b"add", 2);
        bulk(out, b"");
        bulk(out, text);
    }

    /// Appends a changed record, over the one with this cas value.
    pub fn set_record(self, out: &mut Vec<u8>, cas: u64, text: &[u8]) {
        self.begin(out, b"set", 2);
        number(out, cas);
        bulk(out, text);
    }

    /// Appends the mark that the record with this cas value is not believed any more.
    pub fn doubt_record(self, out: &mut Vec<u8>, cas: u64) {
        self.begin(out, b"doubt", 1);
        number(out, cas);
    }
}

/// Appends the question for a record; no script, since records are looked at most of all.
pub fn record(out: &mut Vec<u8>, key: &[u8]) {
    array(out, 6);
    for word in [b"HMGET", key, b"r", b"c", b"i", b"k"] {
        bulk(out, word);
    }
}

/// Milliseconds, as Redis counts lives best; nothing for none.
fn life(out: &mut Vec<u8>, seconds: Option<u32>) {
    match seconds {
        Some(seconds) => number(out, u64::from(seconds) * 1000),
        None => bulk(out, b""),
    }
}

/// What the answer to a read shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// The cas value.
    pub cas: u64,
    /// The flag bits, 0 of somebody else's item.
    pub flags: u32,
    /// Seconds left to live, begun ones included; `None` for an item without an end.
    pub left: Option<u32>,
    /// The token was given with this answer.
    pub won: bool,
    /// It was given before.
    pub taken: bool,
    /// The value, where it was asked for.
    pub value: Option<Span>,
}

impl Shown {
    /// Reads it from the list that lies at `list` in `buffer`.
    pub fn of(buffer: &[u8], list: Span) -> Option<Shown> {
        let parts = parts(buffer, list)?;
        let (head, rest) = parts.split_first_chunk::<4>()?;
        let [
            Part::Bytes(cas),
            Part::Bytes(flags),
            Part::Number(left),
            Part::Bytes(token),
        ] = *head
        else {
            return None;
        };
        let value = match rest {
            [] => None,
            [Part::Bytes(value)] => Some(*value),
            _ => return None,
        };
        let (won, taken) = match token.of(buffer) {
            b"W" => (true, false),
            b"Z" => (false, true),
            b"-" => (false, false),
            _ => return None,
        };
        Some(Shown {
            cas: digits(buffer, cas).filter(|cas| *cas != 0)?,
            flags: u32::try_from(digits(buffer, flags)?).ok()?,
            left: u64::try_from(left)
                .ok()
                .map(|left| u32::try_from(left.div_ceil(1000)).unwrap_or(u32::MAX - 1)),
            won,
            taken,
            value,
        })
    }
}

/// What the answer to the question for a record shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Told {
    /// Its text.
    pub text: Span,
    /// Its cas value.
    pub cas: u64,
    /// The process it was written in.
    pub process: Option<Process>,
    /// It was doubted since.
    pub doubted: bool,
}

impl Told {
    /// Reads it from the list that lies at `list` in `buffer`; nothing where there is no record.
    ///
    /// # Errors
    /// It is no such list.
    pub fn of(buffer: &[u8], list: Span) -> Result<Option<Told>, &'static str> {
        const WRONG: &str = "a record without its particulars";
        let parts = parts(buffer, list).ok_or(WRONG)?;
        let (text, cas, process, doubted) = match *parts.as_slice() {
            [Part::Nothing, ..] if parts.len() == 4 => return Ok(None),
            [Part::Bytes(text), Part::Bytes(cas), process, mark] => {
                (text, cas, process, mark == Part::Nothing)
            }
            _ => return Err(WRONG),
        };
        Ok(Some(Told {
            text,
            cas: digits(buffer, cas).filter(|cas| *cas != 0).ok_or(WRONG)?,
            process: match process {
                Part::Bytes(name) => Process::of(name.of(buffer)),
                _ => None,
            },
            doubted,
        }))
    }
}

/// One life of a server's process: the first half of the `run_id` that it throws when it
/// starts. Whoever comes back from a file of its own has another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process(u64);

impl Process {
    /// Reads it from a `run_id`.
    pub fn of(name: &[u8]) -> Option<Process> {
        let half = std::str::from_utf8(name.get(..16)?).ok()?;
        u64::from_str_radix(half, 16).ok().map(Process)
    }

    /// Finds it in what `INFO server` says.
    pub fn in_info(info: &[u8]) -> Option<Process> {
        let mut lines = info.split(|byte| *byte == b'\n');
        let name = lines.find_map(|line| line.strip_prefix(b"run_id:"))?;
        Process::of(name)
    }
}

fn digits(buffer: &[u8], at: Span) -> Option<u64> {
    super::super::classic::digits(at.of(buffer))
}
