//! The trace: one line per key and call, for whoever looks for a slow node or a strange key.
//!
//! `2026-11-20T23:00:00.123Z get 9f86d081884c7d65 10.0.0.1:11211 182us hit`: time, operation,
//! hash of the wire key, the node that owns it, duration of the whole call, result. Never a
//! value, never a key: only who knows a key can find its lines.

use crate::memcache::State;
use memring_pool::call::{Call, Outcome, Verb};
use memring_pool::wire::Store;
use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::hash::{DefaultHasher, Hasher};
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Appends the lines of one finished call to the file at `path`; a file that cannot be
/// written loses them in silence, since a trace must not break what it watches.
pub(crate) fn append(path: &[u8], state: &mut State, call: &Call, took: Duration) {
    let Some(verb) = call.verb() else { return };
    let mut lines = String::new();
    let time = stamp(SystemTime::now());
    for index in 0..call.len() {
        let key = call.wire_key(index);
        let owner = state.pool.find(key, &call.limits);
        let node = state.pool.name(owner);
        let (word, result) = (word(verb), result(call.outcome(index)));
        // Writing to a String cannot fail.
        let _ = writeln!(
            lines,
            "{time} {word} {:016x} {node} {}us {result}",
            hash(key),
            took.as_micros()
        );
    }
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(std::ffi::OsStr::from_bytes(path));
    if let Ok(mut file) = file {
        // One write per call, so that lines of several workers do not mix.
        let _ = file.write_all(lines.as_bytes());
    }
}

/// The same in every process, since it has no random keys.
fn hash(key: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(key);
    hasher.finish()
}

fn word(verb: Verb) -> &'static str {
    match verb {
        Verb::Get => "get",
        Verb::Gets => "gets",
        Verb::Store(Store::Set) => "set",
        Verb::Store(Store::Add) => "add",
        Verb::Store(Store::Replace) => "replace",
        Verb::Store(Store::Cas) => "cas",
        Verb::Store(Store::Append) => "append",
        Verb::Store(Store::Prepend) => "prepend",
        Verb::Delete => "delete",
        Verb::Increment => "increment",
        Verb::Decrement => "decrement",
        Verb::Touch => "touch",
        Verb::GetAndTouch => "get_and_touch",
    }
}

fn result(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Hit { .. } => "hit",
        Outcome::NotFound => "miss",
        Outcome::Done | Outcome::Number(_) => "done",
        Outcome::NotStored => "not_stored",
        Outcome::Exists => "exists",
        Outcome::Refused => "refused",
        Outcome::Lost => "lost",
    }
}

/// A time as RFC 3339 in UTC with milliseconds.
fn stamp(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Civil date from days since 1970, by eras of 400 years (Hinnant, "chrono-compatible
    // low-level date algorithms", civil_from_days).
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year_of_era = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let (month, day) = (
        if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        },
        day_of_year - (153 * shifted + 2) / 5 + 1,
    );
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (rest / 3600, rest / 60 % 60, rest % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}.{:03}Z",
        since.subsec_millis()
    )
}
