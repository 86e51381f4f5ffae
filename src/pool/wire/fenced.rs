//! The meta lines of copied items: fenced by cas value, versioned, with memcached's win token.
//!
//! Bytes and shapes only; what they are for is `replica`'s to know (`replica::words`).
//! Answers are read by [`super::meta::parse`], which everybody else's gets pass through and
//! which therefore knows nothing of size, life and token: [`Shown::of`] has those.
//!
//! ```text
//! record    mg KEY v c u O k                      u: looking does not keep it in memory
//! probe     mg KEY v c u E1 O k                   the same; is E known?
//! read      mg KEY [v] c f s t [N30 R2147483647] O k
//! touch     mg KEY [v] c f s t T<life> O k
//! store     ms KEY len C<cas>|ME [E<version>] F<flags> T<life> c O k
//! unlock    md KEY I C<cas> [E<version>] [T<life>] O k     of a record: doubt
//! remove    md KEY C<cas> O k
//! ```
//!
//! Source: memcached doc/protocol.txt, "Meta Commands" (1.6.18; `E` since 1.6.27), and what
//! both versions did when tried:
//!
//! - The token (`W`) is freed by every store and by `md … I`, which marks the item stale.
//! - A stale item gives its token to **any** `mg`, with `R` or without. Who looked and was
//!   given `W` holds it, and must free it.
//! - `R` gives nothing on an item without an end, and says neither `W` nor `Z` there.
//! - The answer that makes a placeholder says `t-1`, though it lives as long as `N` said.
//! - `md` never says the new cas value, though asked. With `E` it is the version; without,
//!   `md … I` makes a new one.
//! - A store that is refused for want of memory, or as too large, **takes away what was
//!   stored**, even with a `C` that does not match, and with `ME`. The classic `cas` and
//!   `add` keep it, but have neither `E` nor an opaque.
//! - A server without `E` refuses the command, keeps the item and swallows the value.
//!
//! A server without `E` gives items cas values of its own, so there the version stands in
//! a [`Header`] before the value.

use super::classic::digits;
use super::meta::{Answer, token};

/// How far `R` looks ahead, seconds: past the end of every item that has one, so that each
/// has its token.
const ALWAYS: u64 = i32::MAX as u64;

/// Longest life the server takes as such, seconds; above it is a date (protocol.txt
/// "Expiration times"), and what was meant to live 31 days is gone at once.
pub const LIFE_MAX: u32 = 30 * 24 * 60 * 60;

/// Over what a store goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Over {
    /// The item with this cas value.
    Cas(u64),
    /// Nothing.
    Nothing,
}

/// One store, as [`store`] says it.
#[derive(Clone, Copy, Debug)]
pub struct Put<'a> {
    /// The wire key.
    pub key: &'a [u8],
    /// Bytes of the value, its header included.
    pub len: usize,
    /// Over what.
    pub over: Over,
    /// The cas value it gets, where the server has `E`.
    pub version: Option<u64>,
    /// Its flag bits, where it has any.
    pub flags: Option<u32>,
    /// Seconds to live, at most [`LIFE_MAX`]; 0 for ever.
    pub life: u32,
}

/// Appends the read of a small item whose token is of no interest.
pub fn record(out: &mut Vec<u8>, key: &[u8], opaque: u64) {
    head(out, b"mg ", key);
    out.extend_from_slice(b" v c u");
    end(out, opaque);
}

/// Appends the same, to find out whether the server has `E`: one without refuses it
/// (`CLIENT_ERROR`); for one with `E` it means nothing here, since nothing is made.
pub fn probe(out: &mut Vec<u8>, key: &[u8], opaque: u64) {
    head(out, b"mg ", key);
    out.extend_from_slice(b" v c u E1");
    end(out, opaque);
}

/// Appends a read: cas value, flag bits, size and life, with `value` the value, too. With
/// `vivify` it takes the token, and a missing item becomes an empty one of that many seconds.
pub fn read(out: &mut Vec<u8>, key: &[u8], value: bool, vivify: Option<u32>, opaque: u64) {
    head(out, b"mg ", key);
    out.extend_from_slice(if value { b" v c f s t" } else { b" c f s t" });
    if let Some(life) = vivify {
        token(out, b'N', u64::from(life));
        token(out, b'R', ALWAYS);
    }
    end(out, opaque);
}

/// Appends a read that gives the item `life` seconds, and leaves its token where it is.
pub fn touch(out: &mut Vec<u8>, key: &[u8], value: bool, life: u32, opaque: u64) {
    head(out, b"mg ", key);
    out.extend_from_slice(if value { b" v c f s t" } else { b" c f s t" });
    token(out, b'T', u64::from(life));
    end(out, opaque);
}

/// Appends the line of a store; the value and CR LF follow it.
pub fn store(out: &mut Vec<u8>, put: Put<'_>, opaque: u64) {
    head(out, b"ms ", put.key);
    out.push(b' ');
    out.extend_from_slice(itoa::Buffer::new().format(put.len).as_bytes());
    match put.over {
        Over::Cas(cas) => token(out, b'C', cas),
        Over::Nothing => out.extend_from_slice(b" ME"),
    }
    if let Some(version) = put.version {
        token(out, b'E', version);
    }
    if let Some(flags) = put.flags {
        token(out, b'F', u64::from(flags));
    }
    token(out, b'T', u64::from(put.life));
    out.extend_from_slice(b" c");
    end(out, opaque);
}

/// Appends what frees an item's token, and sets version and life where given.
pub fn unlock(
    out: &mut Vec<u8>,
    key: &[u8],
    cas: u64,
    version: Option<u64>,
    life: Option<u32>,
    opaque: u64,
) {
    head(out, b"md ", key);
    out.extend_from_slice(b" I");
    token(out, b'C', cas);
    if let Some(version) = version {
        token(out, b'E', version);
    }
    if let Some(life) = life {
        token(out, b'T', u64::from(life));
    }
    end(out, opaque);
}

/// Appends a delete of the item with this cas value.
pub fn remove(out: &mut Vec<u8>, key: &[u8], cas: u64, opaque: u64) {
    head(out, b"md ", key);
    token(out, b'C', cas);
    end(out, opaque);
}

fn head(out: &mut Vec<u8>, verb: &[u8], key: &[u8]) {
    out.extend_from_slice(verb);
    out.extend_from_slice(key);
}

/// What lets an answer be proved to belong to its question.
fn end(out: &mut Vec<u8>, opaque: u64) {
    token(out, b'O', opaque);
    out.extend_from_slice(b" k\r\n");
}

/// What the answer to a [`read`] shows beside value, cas value and flag bits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Bytes of the stored value.
    pub size: u32,
    /// Seconds left to live; [`FOR_EVER`] for an item without an end.
    pub ttl: u32,
    /// The token was given with this answer (`W`).
    pub won: bool,
    /// It was given before (`Z`).
    pub taken: bool,
    /// The token was freed by [`unlock`] (`X`). Means nothing more.
    pub stale: bool,
}

/// The `ttl` of an item that does not expire.
pub const FOR_EVER: u32 = u32::MAX;

impl Shown {
    /// Reads it from the line that holds the key `answer` returned, in `buffer`. `None` when
    /// cas value, flag bits, size and life are not all there: what is left out must not pass
    /// for a 0, for that is how an absent item looks.
    pub fn of(answer: Answer, buffer: &[u8]) -> Option<Shown> {
        let mut shown = Shown::default();
        let (mut cas, mut flags, mut size, mut ttl) = (false, false, None, None);
        for field in fields(answer, buffer)? {
            match field {
                b"W" => shown.won = true,
                b"Z" => shown.taken = true,
                b"X" => shown.stale = true,
                [b'c', ..] => cas = true,
                [b'f', ..] => flags = true,
                [b's', text @ ..] => size = Some(u32::try_from(digits(text)?).ok()?),
                [b't', text @ ..] => ttl = Some(seconds(text)?),
                _ => {}
            }
        }
        shown.size = size?;
        shown.ttl = ttl?;
        (cas && flags).then_some(shown)
    }
}

/// Was the item of this answer marked by [`unlock`] (`X`), and not stored since?
pub fn is_marked(answer: Answer, buffer: &[u8]) -> bool {
    fields(answer, buffer).is_some_and(|mut fields| fields.any(|field| field == b"X"))
}

/// What stands behind the status on the line that holds the key `answer` returned.
fn fields(answer: Answer, buffer: &[u8]) -> Option<impl Iterator<Item = &[u8]>> {
    let key = answer.key?;
    let before = buffer.get(..key.at)?;
    let start = memchr::memrchr(b'\n', before).map_or(0, |lf| lf + 1);
    let line = buffer.get(start..)?;
    let line = line.get(..memchr::memchr(b'\r', line)?)?;
    Some(line.split(|byte| *byte == b' ').skip(1))
}

/// What is left of a life. A server whose clock ticks between finding an item and saying
/// this counts past zero, in 32 bits.
fn seconds(text: &[u8]) -> Option<u32> {
    if text == b"-1" {
        return Some(FOR_EVER);
    }
    let left = u32::try_from(digits(text)?).ok()?;
    Some(if left > i32::MAX as u32 { 0 } else { left })
}

/// Bits of the flag word above the memory life's: an item's kind and its caller's bits.
const INC_SHIFT: u32 = 20;
/// The flag bit of a remembered delete.
const TOMBSTONE: u32 = 1 << 12;

/// The flag bit of an item that was brought by who mended its node; the one between is
/// `super::copied::HEADED`.
const MENDED: u32 = 1 << 14;

/// The flag bit of an item that is word of a write without its value.
const WITNESS: u32 = 1 << 15;

/// What the flag word of an item says: 12 bits at the top and one for each word. The low 12 bits
/// are the value's own; a session's are 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Memory life of its node, 1 to 4095; 0 in a word that is of somebody else's item.
    pub inc: u16,
    /// A remembered delete.
    pub tombstone: bool,
    /// Brought by who mended its node.
    pub mended: bool,
    /// Word of a write without its value.
    pub witness: bool,
}

impl Flags {
    /// The flag word.
    pub fn word(self) -> u32 {
        let bit = |set: bool, bit: u32| if set { bit } else { 0 };
        u32::from(self.inc) << INC_SHIFT
            | bit(self.tombstone, TOMBSTONE)
            | bit(self.mended, MENDED)
            | bit(self.witness, WITNESS)
    }

    /// What a flag word says.
    pub fn of(word: u32) -> Flags {
        Flags {
            // 12 bits are left after the shift.
            inc: (word >> INC_SHIFT) as u16,
            tombstone: word & TOMBSTONE != 0,
            mended: word & MENDED != 0,
            witness: word & WITNESS != 0,
        }
    }
}

/// Bytes of a [`Header`].
pub const HEADER: usize = 16;
/// Mixed into the check, so that no other format's sixteen bytes pass for ours by design.
const SALT: &[u8] = b"memring header 1";

/// What stands before the value where the server has no `E`.
///
/// ```text
/// 0        8     10     12      16
/// version  inc   kind   check   value …      big endian; kind 1 is a tombstone
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Which write the value is of.
    pub version: u64,
    /// Memory life of the node when it was written there.
    pub inc: u16,
    /// A remembered delete.
    pub tombstone: bool,
}

impl Header {
    /// Appends its bytes.
    pub fn append(self, out: &mut Vec<u8>) {
        let at = out.len();
        out.extend_from_slice(&self.version.to_be_bytes());
        out.extend_from_slice(&self.inc.to_be_bytes());
        out.extend_from_slice(&u16::from(self.tombstone).to_be_bytes());
        let sum = check(out.get(at..).unwrap_or_default());
        out.extend_from_slice(&sum.to_be_bytes());
    }

    /// Reads it from the start of a stored value, and says what follows it; `None` when
    /// that value has no header of ours.
    pub fn split(stored: &[u8]) -> Option<(Header, &[u8])> {
        let (head, value) = stored.split_first_chunk::<HEADER>()?;
        let (fields, sum) = head.split_last_chunk::<4>()?;
        let (version, rest) = fields.split_first_chunk::<8>()?;
        let (inc, kind) = rest.split_first_chunk::<2>()?;
        let tombstone = match kind {
            [0, 0] => false,
            [0, 1] => true,
            _ => return None,
        };
        let header = Header {
            version: u64::from_be_bytes(*version),
            inc: u16::from_be_bytes(*inc),
            tombstone,
        };
        (check(fields) == u32::from_be_bytes(*sum)).then_some((header, value))
    }
}

fn check(fields: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(SALT);
    sum.update(fields);
    sum.finalize()
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]
mod tests;
