//! What a session says to an embedded node beyond memcached's classic words: its turn has an
//! owner, and a session is stored together with giving the turn back.
//!
//! ```text
//!   turn KEY SECONDS OWNER                        STORED · NOT_STORED: another has it
//!   give KEY OWNER                                DELETED · NOT_FOUND: it was not his
//!   close KEY FLAGS EXPIRY LEN OWNER OVER, data   STORED · EXISTS: another has it, or had
//! ```
//!
//! `OVER` is what a session may go over whose turn is over: `any`, or the cas value that was
//! read, 0 for nothing. The words are the same as a Redis is told by scripts (`wire::redis`).

use super::redis::Over;

/// Appends what asks for the turn on `key` for `seconds`.
pub fn turn(out: &mut Vec<u8>, key: &[u8], owner: &[u8], seconds: u32) {
    let seconds = seconds.to_string();
    line(out, &[b"turn", key, seconds.as_bytes(), owner]);
}

/// Appends what gives a turn back, where it is still its owner's.
pub fn give_back(out: &mut Vec<u8>, key: &[u8], owner: &[u8]) {
    line(out, &[b"give", key, owner]);
}

/// A session to be stored, and its turn given back.
#[derive(Clone, Copy, Debug)]
pub struct Close<'a> {
    /// Its key, and that of the turn.
    pub key: &'a [u8],
    /// The item's flag bits.
    pub flags: u32,
    /// Expiry as memcached takes it.
    pub ttl: u32,
    /// Who has the turn.
    pub owner: &'a [u8],
    /// What it may go over when he has it no more.
    pub over: Over,
    /// The data.
    pub value: &'a [u8],
}

/// Appends what stores a session and gives the turn on it back.
pub fn close(out: &mut Vec<u8>, close: &Close<'_>) {
    let over = match close.over {
        Over::Whatever => "any".to_owned(),
        Over::Nothing => "0".to_owned(),
        Over::Seen(cas) => cas.to_string(),
    };
    let numbers = [
        u64::from(close.flags),
        close.ttl.into(),
        close.value.len() as u64,
    ];
    let [flags, ttl, len] = numbers.map(|number| number.to_string());
    line(
        out,
        &[
            b"close",
            close.key,
            flags.as_bytes(),
            ttl.as_bytes(),
            len.as_bytes(),
            close.owner,
            over.as_bytes(),
        ],
    );
    out.extend_from_slice(close.value);
    out.extend_from_slice(b"\r\n");
}

fn line(out: &mut Vec<u8>, words: &[&[u8]]) {
    out.extend_from_slice(&words.join(b" ".as_slice()));
    out.extend_from_slice(b"\r\n");
}
