//! Redis and Valkey in RESP: requests as arrays of byte strings, answers of RESP2 and RESP3.
//!
//! The commands of the Memcache API are said natively where Redis has them, else as scripts
//! that run whole or not at all ([`scripts`]). How an item lies in a string is [`stored`]'s
//! business, how answers are read [`answer`]'s.
//!
//! | asked for | said |
//! |---|---|
//! | get of one key, of many | `GET`, `MGET` |
//! | set | `SET`, `SETEX` |
//! | add, replace | `SET … NX`, `SET … XX` |
//! | cas, append, prepend, increment, decrement | a script |
//! | touch | `EXPIRE`, `EXPIREAT`; a script where the end is taken away |
//! | get and touch | `GETEX` |
//! | delete, flush | `DEL`, `FLUSHDB` |
//! | stats, version | `INFO` |
//! | watch, multi, exec | `WATCH`; `MULTI`, the commands and `EXEC` in one trip, scripts in full |
//!
//! What appends a request says what its answer looks like, so that the two cannot part.
//! Copied sessions have a script of their own ([`fenced`]), copied values some ([`copied`]), and a
//! cluster has words of its own ([`cluster`]).
//!
//! Source: redis.io "Redis serialization protocol specification" and the command pages.

pub mod answer;
pub mod cluster;
pub mod copied;
pub mod fenced;
pub mod scripts;
pub mod stats;
pub mod stored;
mod words;

use super::Store;
use crate::item::Span;
use scripts::Script;
use stored::HEAD_LEN;
use words::{array, bulk, bulks, length, number};

/// The shape of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// OK; nothing where a condition was not met.
    Stored,
    /// One of the numbers of [`scripts`]: 0 is "no such item", 1 is done.
    Word,
    /// A counter's value as digits; nothing where there is none.
    Number,
    /// The item of one key, or nothing; `true` with its cas value.
    Item(bool),
    /// The items of many keys; `true` with their cas values.
    Values(bool),
    /// How many there are of something.
    Count,
    /// A text.
    Text,
    /// A list of texts and numbers, or nothing.
    List,
    /// Anything but an error: one of the first words on a connection is answered, or a command
    /// of a transaction is in its queue.
    Greeting,
}

/// When an item ends, as Redis takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Never.
    Never,
    /// In so many seconds.
    In(u32),
    /// At that second since 1970.
    At(u32),
}

/// Seconds up to which memcached takes an expiry as relative (memcached.c REALTIME_MAXDELTA).
const RELATIVE_MAX: u32 = 60 * 60 * 24 * 30;

impl End {
    /// The end that memcached makes of the expiry `ttl`.
    ///
    /// What does not fit into 31 bits is a negative number there, and has ended already.
    pub fn of(ttl: u32) -> End {
        match ttl {
            0 => End::Never,
            1..=RELATIVE_MAX => End::In(ttl),
            _ if ttl > i32::MAX as u32 => End::At(1),
            _ => End::At(ttl),
        }
    }

    /// How many arguments it takes.
    const fn arguments(self) -> usize {
        match self {
            End::Never => 0,
            _ => 2,
        }
    }

    /// Appends them.
    fn say(self, out: &mut Vec<u8>) {
        match self {
            End::Never => {}
            End::In(seconds) => {
                bulk(out, b"EX");
                number(out, seconds.into());
            }
            End::At(second) => {
                bulk(out, b"EXAT");
                number(out, second.into());
            }
        }
    }
}

/// A store; its value follows.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// Which of the storing commands.
    pub verb: Store,
    /// The wire key.
    pub key: &'a [u8],
    /// The item's flag bits.
    pub flags: u32,
    /// Expiry as memcached takes it.
    pub ttl: u32,
    /// For `Store::Cas`.
    pub cas: u64,
    /// The value.
    pub value: &'a [u8],
    /// Say scripts in full, for a server that does not know them yet.
    pub whole: bool,
}

/// Appends a `GET`, for the cas value, too.
pub fn get(out: &mut Vec<u8>, key: &[u8], with_cas: bool) -> Shape {
    out.extend_from_slice(b"*2\r\n$3\r\nGET\r\n");
    bulk(out, key);
    Shape::Item(with_cas)
}

/// Appends a `GET`, or an `MGET`, of the keys that lie at `keys` in `arena`.
pub fn get_all(out: &mut Vec<u8>, arena: &[u8], keys: &[Span], with_cas: bool) -> Shape {
    if let [key] = keys {
        get(out, key.of(arena), with_cas);
    } else {
        array(out, 1 + keys.len());
        bulk(out, b"MGET");
        bulks(out, arena, keys);
    }
    Shape::Values(with_cas)
}

/// Appends a `GETEX`: a get that sets the expiry, too.
pub fn get_and_touch(out: &mut Vec<u8>, key: &[u8], ttl: u32) -> Shape {
    let end = End::of(ttl);
    array(out, 2 + end.arguments().max(1));
    bulk(out, b"GETEX");
    bulk(out, key);
    match end {
        End::Never => bulk(out, b"PERSIST"),
        _ => end.say(out),
    }
    Shape::Item(true)
}

/// Appends the request up to where the value begins, if the value is its last argument: then
/// it may be sent from where it lies, and CR LF behind it.
///
/// False, with nothing appended, when it is not.
pub fn store_head(out: &mut Vec<u8>, put: &Put<'_>) -> bool {
    if put.verb != Store::Set {
        return false;
    }
    match End::of(put.ttl) {
        End::Never => {
            out.extend_from_slice(b"*3\r\n$3\r\nSET\r\n");
            bulk(out, put.key);
        }
        End::In(seconds) => {
            out.extend_from_slice(b"*4\r\n$5\r\nSETEX\r\n");
            bulk(out, put.key);
            number(out, seconds.into());
        }
        End::At(_) => return false,
    }
    let head = stored::head(put.flags, put.value);
    length(out, put.value.len() + head.map_or(0, |head| head.len()));
    out.extend_from_slice(head.as_ref().map_or(&[], <[u8; HEAD_LEN]>::as_slice));
    true
}

/// Appends a store, value and all.
pub fn store(out: &mut Vec<u8>, put: &Put<'_>) -> Shape {
    if store_head(out, put) {
        out.extend_from_slice(put.value);
        out.extend_from_slice(b"\r\n");
        return Shape::Stored;
    }
    let end = End::of(put.ttl);
    match put.verb {
        Store::Set | Store::Add | Store::Replace => {
            let condition: &[u8] = match put.verb {
                Store::Add => b"NX",
                Store::Replace => b"XX",
                _ => b"",
            };
            array(
                out,
                3 + end.arguments() + usize::from(!condition.is_empty()),
            );
            bulk(out, b"SET");
            bulk(out, put.key);
            item(out, put.flags, put.value);
            end.say(out);
            if !condition.is_empty() {
                bulk(out, condition);
            }
            Shape::Stored
        }
        Store::Cas => {
            let words = 2 + end.arguments();
            scripts::CAS.say(out, put.whole, put.key, words);
            bulk(out, stored::cas_word(put.cas).as_bytes());
            item(out, put.flags, put.value);
            end.say(out);
            Shape::Word
        }
        Store::Append => joined(out, &scripts::APPEND, put),
        Store::Prepend => joined(out, &scripts::PREPEND, put),
    }
}

/// A script that takes no more than the bytes to join: flags and end stay as they are.
fn joined(out: &mut Vec<u8>, script: &Script, put: &Put<'_>) -> Shape {
    script.say(out, put.whole, put.key, 1);
    bulk(out, put.value);
    Shape::Word
}

/// What to count.
#[derive(Clone, Copy, Debug)]
pub struct Count<'a> {
    /// The wire key.
    pub key: &'a [u8],
    /// Add, or take away.
    pub up: bool,
    /// How much.
    pub delta: u64,
    /// Where a missing counter begins, its flags and its expiry as memcached takes it.
    pub initial: Option<(u64, u32, u32)>,
    /// Say scripts in full, for a server that does not know them yet.
    pub whole: bool,
}

/// Appends an increment or a decrement.
pub fn count(out: &mut Vec<u8>, count: &Count<'_>) -> Shape {
    let script = if count.up {
        &scripts::COUNT_UP
    } else {
        &scripts::COUNT_DOWN
    };
    let Some((begin, flags, ttl)) = count.initial else {
        script.say(out, count.whole, count.key, 1);
        number(out, count.delta);
        return Shape::Number;
    };
    let end = End::of(ttl);
    script.say(out, count.whole, count.key, 3 + end.arguments());
    number(out, count.delta);
    let mut buffer = itoa::Buffer::new();
    let digits = buffer.format(begin).as_bytes();
    item(out, flags, digits);
    bulk(out, digits);
    end.say(out);
    Shape::Number
}

/// Appends a `DEL`.
pub fn delete(out: &mut Vec<u8>, key: &[u8]) -> Shape {
    out.extend_from_slice(b"*2\r\n$3\r\nDEL\r\n");
    bulk(out, key);
    Shape::Word
}

/// Appends what gives an item another end.
pub fn touch(out: &mut Vec<u8>, key: &[u8], ttl: u32, whole: bool) -> Shape {
    match End::of(ttl) {
        End::Never => scripts::KEEP.say(out, whole, key, 0),
        End::In(seconds) => end_at(out, b"EXPIRE", key, seconds),
        End::At(second) => end_at(out, b"EXPIREAT", key, second),
    }
    Shape::Word
}

/// Seconds that a session's mark outlives it; as in [`scripts::CLOSE`].
const MARK_LIFE: u32 = 86_400;

/// Appends what gives the mark of a session that has `seconds` to live its end.
pub fn prolong_mark(out: &mut Vec<u8>, mark: &[u8], seconds: u32) -> Shape {
    prolong(out, mark, seconds.saturating_add(MARK_LIFE))
}

/// Is the mark of a session that of the bytes with this cas value?
pub fn marks(mark: &[u8], cas: u64) -> bool {
    stored::cas_word(cas).as_bytes() == mark
}

/// Appends what gives a session `seconds` to live.
pub fn prolong(out: &mut Vec<u8>, key: &[u8], seconds: u32) -> Shape {
    end_at(out, b"EXPIRE", key, seconds.max(1));
    Shape::Word
}

fn end_at(out: &mut Vec<u8>, word: &[u8], key: &[u8], end: u32) {
    command(
        out,
        &[word, key, itoa::Buffer::new().format(end).as_bytes()],
    );
}

/// Appends what takes the turn `key` for `seconds`, if nobody else has it.
///
/// Like [`give_back`] and [`close`] in full: a pipeline of a session is not said twice.
pub fn take_turn(out: &mut Vec<u8>, key: &[u8], owner: &[u8], seconds: u32) -> Shape {
    scripts::TAKE.say(out, true, key, 2);
    bulk(out, owner);
    number(out, seconds.max(1).into());
    Shape::Word
}

/// Appends what gives the turn `key` back where it is still its owner's.
pub fn give_back(out: &mut Vec<u8>, key: &[u8], owner: &[u8]) -> Shape {
    scripts::GIVE_BACK.say(out, true, key, 1);
    bulk(out, owner);
    Shape::Word
}

/// A session to be stored, and the turn on it.
#[derive(Clone, Copy, Debug)]
pub struct Close<'a> {
    /// The session's key.
    pub key: &'a [u8],
    /// Its data.
    pub value: &'a [u8],
    /// Seconds to live.
    pub life: u32,
    /// The turn's key.
    pub turn: &'a [u8],
    /// Who stores it.
    pub owner: &'a [u8],
    /// What it may go over where the turn is nobody's any more.
    pub over: Over,
    /// The key that says which bytes were stored, if that is to be told.
    pub mark: Option<&'a [u8]>,
}

/// What a session goes over whose turn is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// Whatever is there: a copy, beside a node that decides.
    Whatever,
    /// Nothing.
    Nothing,
    /// What was read, with this cas value.
    Seen(u64),
}

/// Appends what stores a session and gives the turn on it back; see [`scripts::CLOSE`].
pub fn close(out: &mut Vec<u8>, close: &Close<'_>) -> Shape {
    let end = End::In(close.life.max(1));
    let keys = [close.key, close.turn, close.mark.unwrap_or_default()];
    let keys = keys
        .get(..2 + usize::from(close.mark.is_some()))
        .unwrap_or(&keys);
    scripts::CLOSE.call(out, true, keys, 3 + end.arguments());
    bulk(out, close.owner);
    match close.over {
        Over::Whatever => bulk(out, b"any"),
        Over::Nothing => bulk(out, b""),
        Over::Seen(cas) => bulk(out, stored::cas_word(cas).as_bytes()),
    }
    item(out, 0, close.value);
    end.say(out);
    Shape::Word
}

/// Keys that a server looks at for one page of them, about; it serves nobody else meanwhile.
const PAGE: u64 = 500;

/// The cursor of the first page.
pub const FIRST_PAGE: &[u8] = b"0";

/// Appends the question for a page of the keys of copied items, the one at `cursor`.
/// The answer is for [`page`].
pub fn list_keys(out: &mut Vec<u8>, cursor: &[u8], whole: bool) -> Shape {
    scripts::PAGE.call(out, whole, &[], 2);
    bulk(out, cursor);
    number(out, PAGE);
    Shape::List
}

/// Reads such a page out of the list at `list` in `buf`, and gives each key and the bytes of its
/// value to `take`. The cursor of the next one; nothing when that was the last.
///
/// # Errors
/// It is no such page.
pub fn page(
    buf: &[u8],
    list: Span,
    mut take: impl FnMut(&[u8], usize),
) -> Result<Option<Vec<u8>>, &'static str> {
    const WRONG: &str = "a page of keys without its form";
    let parts = answer::parts(buf, list).ok_or(WRONG)?;
    let (Some(answer::Part::Bytes(cursor)), rest) = (parts.first(), parts.get(1..)) else {
        return Err(WRONG);
    };
    for pair in rest.unwrap_or_default().chunks(2) {
        let [answer::Part::Bytes(key), answer::Part::Number(size)] = pair else {
            return Err(WRONG);
        };
        take(key.of(buf), usize::try_from(*size).unwrap_or(0));
    }
    let cursor = cursor.of(buf);
    Ok((cursor != b"0").then(|| cursor.to_vec()))
}

/// Appends a `WATCH`: the connection's next [`exec`] does nothing when one of `keys` changed.
pub fn watch<'a>(out: &mut Vec<u8>, keys: impl ExactSizeIterator<Item = &'a [u8]>) -> Shape {
    array(out, 1 + keys.len());
    bulk(out, b"WATCH");
    keys.for_each(|key| bulk(out, key));
    Shape::Stored
}

/// Appends a `MULTI`: what follows on the connection waits for [`exec`].
pub fn multi(out: &mut Vec<u8>) -> Shape {
    command(out, &[b"MULTI"]);
    Shape::Stored
}

/// Appends an `EXEC`. The answer is for [`answer::each`]; nothing where a watched key changed.
pub fn exec(out: &mut Vec<u8>) -> Shape {
    command(out, &[b"EXEC"]);
    Shape::List
}

/// Appends a `PING`.
pub fn ping(out: &mut Vec<u8>) -> Shape {
    out.extend_from_slice(b"*1\r\n$4\r\nPING\r\n");
    Shape::Greeting
}

/// Appends a `FLUSHDB`: the connection's database alone.
pub fn flush(out: &mut Vec<u8>) -> Shape {
    out.extend_from_slice(b"*1\r\n$7\r\nFLUSHDB\r\n");
    Shape::Stored
}

/// Appends an `INFO` of one section, or of the usual ones when it is empty.
pub fn info(out: &mut Vec<u8>, section: &[u8]) -> Shape {
    array(out, 1 + usize::from(!section.is_empty()));
    bulk(out, b"INFO");
    if !section.is_empty() {
        bulk(out, section);
    }
    Shape::Text
}

/// Appends a `CONFIG RESETSTAT`.
pub fn reset_stats(out: &mut Vec<u8>) -> Shape {
    command(out, &[b"CONFIG", b"RESETSTAT"]);
    Shape::Stored
}

/// Appends a command of these words.
pub fn command(out: &mut Vec<u8>, words: &[&[u8]]) {
    array(out, words.len());
    for word in words {
        bulk(out, word);
    }
}

/// What a line that Redis refused with asks of its reader; `None` for one that says it all.
pub fn remedy(line: &str) -> Option<&'static str> {
    let word = line.split(' ').next().unwrap_or_default();
    Some(match word {
        "NOAUTH" => "Write the password into the node: redis://:PASSWORD@HOST",
        "NOPERM" => "That user's access list (ACL LIST of that server) has to allow it",
        "READONLY" => "This node is a replica: name its master",
        "LOADING" => "It reads its data from disk, and will answer when that is done",
        "MOVED" | "ASK" if line.contains(" ?:") => {
            "The cluster does not know the name of the node that has this key: give each node a cluster-announce-hostname, or all cluster-preferred-endpoint-type ip"
        }
        "MOVED" | "ASK" | "CROSSSLOT" => {
            "This node belongs to a Redis Cluster: write redis-cluster://HOST:PORT,HOST:PORT/ in place of redis://"
        }
        "CLUSTERDOWN" => {
            "A Redis Cluster, which is written as redis-cluster://HOST:PORT,HOST:PORT/, has no master for this key now: it goes on when a replica has taken over (CLUSTER INFO says how it stands)"
        }
        "TRYAGAIN" => "The cluster is moving this key's slot from one node to another: ask again",
        "ERR" if line.contains("cluster support disabled") => {
            "This node belongs to no cluster: write redis:// in place of redis-cluster://"
        }
        "ERR" if line.contains("max number of clients") => {
            "Raise maxclients of that server, or close connections"
        }
        "OOM" => "Raise maxmemory of that server, or, of a cache, let its maxmemory-policy evict",
        "MISCONF" => "It cannot write its data to disk: look into its log",
        "NOREPLICAS" => {
            "Its replicas are away or behind (INFO replication), and its min-replicas-to-write, or wait=, asks for them"
        }
        "MASTERDOWN" => "This node is a replica without a master: name the master",
        "WRONGTYPE" => "Another client keeps something under this key that is no string",
        _ => return None,
    })
}

/// Appends an item as it is stored: flags that are not 0 stand before the value.
fn item(out: &mut Vec<u8>, flags: u32, value: &[u8]) {
    let head = stored::head(flags, value);
    length(out, value.len() + head.map_or(0, |head| head.len()));
    out.extend_from_slice(head.as_ref().map_or(&[], <[u8; HEAD_LEN]>::as_slice));
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests;
