//! How an item lies in a Redis string: the value alone, or flags before it.
//!
//! ```text
//!   flags 0            value                      any client reads and writes it
//!   other flags        00 'm' 'r' '1'  flags (32 bits, high byte first)  value
//!   flags 0, and the   the same, with flags 0
//!   value begins so
//! ```
//!
//! Redis has no cas value. Ours is made of the bytes that lie there, so that it changes when,
//! and only when, the item does: the first 60 bits of their SHA-1, which scripts know, too.

use sha1::{Digest, Sha1};

/// What stands before flags.
pub const MARK: [u8; 4] = *b"\0mr1";
/// Mark and flags together, bytes.
pub const HEAD_LEN: usize = 8;
/// Hexadecimal digits of the SHA-1 that a cas value has: it has to fit into PHP's integers.
pub const CAS_DIGITS: usize = 15;

/// What stands before `value`, if anything has to.
pub fn head(flags: u32, value: &[u8]) -> Option<[u8; HEAD_LEN]> {
    if flags == 0 && !value.starts_with(&MARK) {
        return None;
    }
    let [a, b, c, d] = MARK;
    let [e, f, g, h] = flags.to_be_bytes();
    Some([a, b, c, d, e, f, g, h])
}

/// Flags of the item `bytes`, and how many of its bytes stand before the value.
pub fn split(bytes: &[u8]) -> (u32, usize) {
    match bytes.strip_prefix(&MARK).and_then(<[u8]>::first_chunk) {
        Some(flags) => (u32::from_be_bytes(*flags), HEAD_LEN),
        None => (0, 0),
    }
}

/// The cas value of the item `bytes`.
pub fn cas(bytes: &[u8]) -> u64 {
    let digest: [u8; 20] = Sha1::digest(bytes).into();
    digest.first_chunk().map_or(0, |first| {
        u64::from_be_bytes(*first) >> (64 - 4 * CAS_DIGITS)
    })
}

/// A cas value as scripts compare it.
pub fn cas_word(cas: u64) -> String {
    format!("{cas:0width$x}", width = CAS_DIGITS)
}
