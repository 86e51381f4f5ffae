//! What getStats() makes of a server's lines.
//!
//! ```text
//! STAT pid 42                    → ["pid" => "42"]
//! STAT 6:chunk_size 64           → [6 => ["chunk_size" => "64"]]
//! STAT items:1:number 2          → ["items" => [1 => ["number" => "2"]]]
//! ITEM key [3 b; 1157099416 s]   → ["key" => ["3", "1157099416"]]
//! ```

use crate::ffi::array::Table;
use crate::ffi::value::Fresh;

/// What a caller may ask for; anything else is refused, because a server that does not know it says ERROR.
pub(crate) const TYPES: [&[u8]; 6] = [
    b"reset",
    b"malloc",
    b"slabs",
    b"cachedump",
    b"items",
    b"sizes",
];

/// The array of all lines; None when there is none.
pub(crate) fn array(lines: &[u8]) -> Option<Fresh> {
    let mut table = Table::new(0);
    let mut any = false;
    for line in lines.split(|byte| *byte == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if let Some(stat) = line.strip_prefix(b"STAT ") {
            any = true;
            put_stat(&mut table, stat);
        } else if let Some(item) = line.strip_prefix(b"ITEM ") {
            any = true;
            put_item(&mut table, item);
        }
    }
    any.then(|| Fresh::array(table))
}

/// Puts "a:b:c value" under [a][b][c].
fn put_stat(table: &mut Table, stat: &[u8]) {
    let (name, value) = cut(stat, b' ');
    match name.iter().position(|byte| *byte == b':') {
        Some(_) => {
            let (outer, _) = cut(stat, b':');
            let inner = stat.get(outer.len() + 1..).unwrap_or_default();
            table.nest(outer, |child| put_stat(child, inner));
        }
        None => table.put_bytes(name, Fresh::text(value)),
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
