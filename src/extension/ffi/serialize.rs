//! PHP's serialize() and unserialize().

use super::errors;
use super::string::OwnedText;
use super::sys;
use super::value::{Fresh, Value};

/// Why a value could not be serialized.
pub(crate) enum Failed {
    /// Nothing came out; an exception may be under way or not.
    Empty,
    /// An exception came up half-way.
    Thrown,
}

/// Serializes `value`.
///
/// Runs `__sleep` and `__serialize`, which may call us again.
pub(crate) fn encode(value: Value<'_>) -> Result<OwnedText, Failed> {
    // SAFETY: the buffer and the table of seen values belong to this call and are given back below; the buffer's
    // string may be null when nothing was written.
    unsafe {
        let mut buffer = sys::smart_str {
            s: std::ptr::null_mut(),
            a: 0,
        };
        let mut seen = sys::php_var_serialize_init();
        sys::php_var_serialize(&raw mut buffer, value.raw(), &raw mut seen);
        sys::php_var_serialize_destroy(seen);
        if buffer.s.is_null() {
            return Err(Failed::Empty);
        }
        // smart_str leaves the terminating NUL to its user; PHP strings always carry one.
        let length = (*buffer.s).len;
        (&raw mut (*buffer.s).val).cast::<u8>().add(length).write(0);
        let text = OwnedText::adopt(buffer.s);
        if errors::pending() {
            return Err(Failed::Thrown);
        }
        if length == 0 {
            Err(Failed::Empty)
        } else {
            Ok(text)
        }
    }
}

/// Unserializes `bytes`; None when they are no serialized value or something threw.
///
/// Runs `__wakeup` and `__unserialize`, which may call us again: `bytes` must not
/// lie where a nested call writes.
pub(crate) fn decode(bytes: &[u8]) -> Option<Fresh> {
    let range = bytes.as_ptr_range();
    let mut at = range.start;
    // SAFETY: `at` and `end` bound one slice that lives through the call; the zval is initialised and ours.
    unsafe {
        let mut zval = Fresh::null().into_raw();
        let mut seen = sys::php_var_unserialize_init();
        let done = sys::php_var_unserialize(&raw mut *zval, &raw mut at, range.end, &raw mut seen);
        sys::php_var_unserialize_destroy(seen);
        let fresh = Fresh::adopt(zval);
        (done != 0 && !errors::pending()).then_some(fresh)
    }
}
