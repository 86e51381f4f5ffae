//! getStats() and getExtendedStats(): the question, and what becomes of a server's lines.
//!
//! ```text
//! STAT pid 42                    → ["pid" => "42"]
//! STAT 6:chunk_size 64           → [6 => ["chunk_size" => "64"]]
//! STAT items:1:number 2          → ["items" => [1 => ["number" => "2"]]]
//! ITEM key [3 b; 1157099416 s]   → ["key" => ["3", "1157099416"]]
//! ```

use crate::ffi::args::Frame;
use crate::ffi::array::Table;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::{Class, Object};
use crate::ffi::resource::Link;
use crate::ffi::scratch::Seat;
use crate::ffi::string::OwnedText;
use crate::ffi::value::{Fresh, Kind};
use crate::memcache::{begin, is_binary, with_nodes};
use crate::report;
use memring_pool::call::Verb;

/// Default of the third argument of getStats (memcache_pool.h MMC_DEFAULT_CACHEDUMP_LIMIT).
const DUMP_LIMIT: i64 = 100;

/// What a caller may ask for; anything else is refused, because a server that does not know it says ERROR.
const TYPES: [&[u8]; 6] = [
    b"reset",
    b"malloc",
    b"slabs",
    b"cachedump",
    b"items",
    b"sizes",
];

/// getstats(): of the first node that answers.
pub(crate) fn stats(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(0, 3)?;
    let object = frame.object(Class::Pool)?;
    let Some((link, question)) = question(frame, object)? else {
        return Ok(Fresh::bool(false));
    };
    for index in serving(&link) {
        // As in pecl-memcache: only getextendedstats() wants to hear of a node left alone.
        if link.with(|state| state.pool.may_ask(index)) != Some(true) {
            continue;
        }
        let answer = ask(object, &link, index, &question)?;
        if !matches!(answer.value().kind(), Kind::Bool(false)) {
            return Ok(answer);
        }
    }
    Ok(Fresh::bool(false))
}

/// getextendedstats(): "host:port" => array, or false for a node that does not answer.
pub(crate) fn extended_stats(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(0, 3)?;
    let object = frame.object(Class::Pool)?;
    let Some((link, question)) = question(frame, object)? else {
        return Ok(Fresh::bool(false));
    };
    let nodes = serving(&link);
    let mut table = Table::new(nodes.len());
    for index in nodes {
        let name = {
            let mut seat = Seat::take();
            let desk = seat.desk();
            link.with(|state| {
                desk.bytes
                    .extend_from_slice(state.pool.name(index).as_bytes())
            });
            OwnedText::new(&desk.bytes)
        };
        let answer = ask(object, &link, index, &question)?;
        table.put(name.text(), answer);
    }
    Ok(Fresh::array(table))
}

/// The nodes that have keys.
fn serving(link: &Link) -> Vec<usize> {
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Get);
    link.with(|state| state.pool.serving(&mut desk.call))
        .unwrap_or_default()
}

/// The words behind `stats`, from the arguments of getstats.
fn question(frame: &Frame<'_>, object: Object<'_>) -> Result<Option<(Link, OwnedText)>, Thrown> {
    let kind = frame.text(0)?;
    let slab = frame.long(1, 0)?;
    let limit = frame.long(2, DUMP_LIMIT)?;
    let Some(link) = with_nodes(object) else {
        return Ok(None);
    };
    let Some(kind) = kind else {
        return Ok(Some((link, OwnedText::new(b""))));
    };
    if !TYPES.contains(&kind.bytes()) {
        errors::warning("Invalid stats type");
        return Ok(None);
    }
    let mut words = kind.bytes().to_vec();
    if slab != 0 {
        words.extend_from_slice(format!(" {slab} {limit}").as_bytes());
    }
    Ok(Some((link, OwnedText::new(&words))))
}

/// What one node says to the question; false when it does not, and always with
/// `protocol=binary`, where pecl-memcache has no stats.
fn ask(
    object: Object<'_>,
    link: &Link,
    index: usize,
    question: &OwnedText,
) -> Result<Fresh, Thrown> {
    if is_binary(link) {
        return Ok(Fresh::bool(false));
    }
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Get);
    let answered = link.with(|state| {
        let lines = state.pool.stats(index, question.bytes(), &mut desk.call);
        desk.bytes
            .extend_from_slice(lines.as_deref().unwrap_or_default());
        lines.is_some()
    });
    report::events(object, desk)?;
    if answered != Some(true) {
        return Ok(Fresh::bool(false));
    }
    // "reset" is answered without a line.
    Ok(array(&desk.bytes).unwrap_or(Fresh::bool(question.bytes() == b"reset")))
}

/// The array of all lines; None when there is none.
fn array(lines: &[u8]) -> Option<Fresh> {
    let mut table = Table::new(0);
    let mut any = false;
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(stat) = line.strip_prefix(b"STAT ") {
            any = true;
            put_stat(&mut table, stat, NESTED);
        } else if let Some(item) = line.strip_prefix(b"ITEM ") {
            any = true;
            put_item(&mut table, item);
        }
    }
    any.then(|| Fresh::array(table))
}

/// Levels of names that are told apart by colons: memcached has "items:1:number".
const NESTED: u32 = 4;

/// Puts "a:b:c value" under [a][b][c], `levels` deep at most.
fn put_stat(table: &mut Table, stat: &[u8], levels: u32) {
    let (name, value) = cut(stat, b' ');
    match name.iter().position(|byte| *byte == b':') {
        Some(_) if levels > 0 => {
            let (outer, _) = cut(stat, b':');
            let inner = stat.get(outer.len() + 1..).unwrap_or_default();
            table.nest(outer, |child| put_stat(child, inner, levels - 1));
        }
        _ => table.put_bytes(name, Fresh::text(value)),
    }
}

/// Puts "key [3 b; 1157099416 s]" under ["key"] as the numbers alone.
fn put_item(table: &mut Table, item: &[u8]) {
    let (key, rest) = cut(item, b' ');
    let mut numbers = Table::new(2);
    for part in rest.split(|byte| matches!(byte, b'[' | b';' | b']')) {
        let part = part.trim_ascii();
        if !part.is_empty() {
            numbers.push(Fresh::text(cut(part, b' ').0));
        }
    }
    table.put_bytes(key, Fresh::array(numbers));
}

/// What stands before and behind the first `mark`.
fn cut(text: &[u8], mark: u8) -> (&[u8], &[u8]) {
    match text.iter().position(|byte| *byte == mark) {
        Some(at) => (
            text.get(..at).unwrap_or_default(),
            text.get(at + 1..).unwrap_or_default(),
        ),
        None => (text, b""),
    }
}
