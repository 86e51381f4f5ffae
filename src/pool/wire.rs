//! HOW IT IS SAID: request → bytes, bytes → reply or "not yet". No I/O here.
//!
//! A connection is a queue of questions. Each question carries an [`Expect`], the
//! shape of its answer; [`parse`] turns the bytes at the
//! head of a read buffer into one [`Reply`], say how many bytes are still missing, or
//! say that this is no answer at all. Positions in a reply are spans of that buffer,
//! so nothing is copied.

pub mod classic;
pub mod copied;
pub mod embedded;
pub mod fenced;
pub mod greeting;
pub mod meta;
pub mod redis;

use crate::item::Span;

/// Longest value accepted from a node, bytes (memcached's own limit for `-I`, 1 GiB).
pub const VALUE_MAX: usize = 1 << 30;

/// Longest line accepted from a node, bytes; key, numbers and error texts fit many times.
pub const LINE_MAX: usize = 8192;

/// Which of memcached's storing commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Store {
    /// Unconditional.
    Set,
    /// Only where nothing is stored.
    Add,
    /// Only where something is stored.
    Replace,
    /// Only where the item still has the given cas value.
    Cas,
    /// After the stored bytes.
    Append,
    /// Before the stored bytes.
    Prepend,
}

/// The shape of the answer a question waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// One line about a store.
    Stored,
    /// One line about a delete.
    Deleted,
    /// One line about a touch.
    Touched,
    /// One line about a flush.
    Flushed,
    /// A bare number, or a line.
    Number,
    /// Values until END.
    Values,
    /// STAT or ITEM lines until END, RESET or OK.
    Stats,
    /// Lines about keys until END (`lru_crawler metadump`).
    Keys,
    /// VERSION and a text.
    Version,
    /// One meta reply: a status of two letters, flags, perhaps a value.
    Meta,
    /// An answer of Redis.
    Redis(redis::Shape),
}

impl Expect {
    /// True for the values of a get, which come as hits.
    #[inline]
    pub fn is_values(self) -> bool {
        matches!(
            self,
            Expect::Values | Expect::Redis(redis::Shape::Values(_))
        )
    }
}

/// One answer, or a part of an answer of several parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// Stored, deleted, touched or done.
    Done,
    /// Refused because of what is stored (add, replace, append, prepend).
    NotStored,
    /// The item changed since its cas value was read.
    Exists,
    /// No such item.
    NotFound,
    /// The counter's new value.
    Number(u64),
    /// One item of a get; more parts follow.
    Value {
        /// The echoed key.
        key: Span,
        /// The item's flag bits.
        flags: u32,
        /// The item's cas value, 0 unless asked for.
        cas: u64,
        /// The value.
        data: Span,
    },
    /// A STAT or ITEM line, or one about a key, without its end; more parts follow.
    Stat(Span),
    /// The server's version text.
    Version(Span),
    /// End of values or stats.
    End,
    /// `SERVER_ERROR …`: the whole line.
    ServerError(Span),
    /// `CLIENT_ERROR …`: the whole line.
    ClientError(Span),
    /// `ERROR`: the server does not know the command.
    Unknown(Span),
    /// A meta reply: status, then what its flags said.
    Meta(meta::Answer),
    /// The item of the one key that was asked for, which Redis does not echo.
    Item {
        /// The item's flag bits.
        flags: u32,
        /// The item's cas value, 0 unless asked for.
        cas: u64,
        /// The value.
        data: Span,
    },
    /// A text.
    Text(Span),
    /// A list, its head included; for `redis::answer::parts`.
    List(Span),
    /// The server does not know the script: it has done nothing.
    NoScript,
}

impl Reply {
    /// True when the question this belongs to is answered with it.
    pub fn is_last(self) -> bool {
        !matches!(self, Reply::Value { .. } | Reply::Stat(_))
    }

    /// True for an error line.
    pub fn is_refusal(self) -> bool {
        self.refusal().is_some()
    }

    /// The error line.
    pub fn refusal(self) -> Option<Span> {
        match self {
            Reply::ServerError(line) | Reply::ClientError(line) | Reply::Unknown(line) => {
                Some(line)
            }
            _ => None,
        }
    }
}

/// Reads one reply from `buf[at..]` for a question that expects `expect`.
///
/// Spans in the reply are positions in `buf` as a whole.
pub fn parse(buf: &[u8], at: usize, expect: Expect) -> Parsed {
    match expect {
        Expect::Meta => meta::parse(buf, at),
        Expect::Redis(shape) => redis::answer::parse(buf, at, shape),
        _ => classic::parse(buf, at, expect),
    }
}

/// What a line that a server refused with asks of its reader; `None` for one that says it all.
pub fn remedy(line: &str) -> Option<&'static str> {
    // memcached's with -Y; a store of ours is read as user and password there.
    let login = [
        "unauthenticated",
        "authentication failure",
        "bad authentication token format",
    ];
    match line.strip_prefix("CLIENT_ERROR ") {
        Some(line) if login.contains(&line) => {
            Some("Write user and password into the node: memcached://USER:PASSWORD@HOST")
        }
        _ => redis::remedy(line),
    }
}

/// What a parser made of the bytes at hand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not enough bytes; at least this many more are needed.
    More(usize),
    /// One reply that took this many bytes.
    Reply(usize, Reply),
    /// No answer to what was asked; the connection is of no more use.
    Garbage(&'static str),
}
