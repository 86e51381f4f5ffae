//! What PHP's memory_limit leaves at this moment.

use super::{ini, sys};

/// What Zend asks of the system at a time (ZEND_MM_CHUNK_SIZE); what is longer has pages of its own.
const CHUNK: usize = 2 << 20;
/// Head of a string, and the rest of its last page.
const ROUNDED: usize = 8192;

/// Most bytes that one text may have and still be had; `None` where nothing bounds it.
pub(crate) fn left() -> Option<usize> {
    let limit = bytes(&ini::text(c"memory_limit"))?;
    // SAFETY: it reads two numbers of this thread's heap.
    let (whole, used) = unsafe { (sys::zend_memory_usage(true), sys::zend_memory_usage(false)) };
    let further = match limit.saturating_sub(whole) {
        further if further >= CHUNK => further - ROUNDED,
        _ => 0,
    };
    // What is free of the chunks that it has lies in pieces.
    let inside = whole.saturating_sub(used) / 2;
    Some(further.max(inside.min(CHUNK / 2)))
}

/// The number of bytes that a setting of PHP says; `None` for -1, and for what is no number.
fn bytes(text: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(text).ok()?.trim();
    let (digits, unit) = match text.char_indices().next_back()? {
        (at, 'k' | 'K') => (text.get(..at)?, 10),
        (at, 'm' | 'M') => (text.get(..at)?, 20),
        (at, 'g' | 'G') => (text.get(..at)?, 30),
        _ => (text, 0),
    };
    digits.trim().parse::<usize>().ok()?.checked_mul(1 << unit)
}
