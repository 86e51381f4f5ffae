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
    /// There is no such serializer in this PHP.
    Missing(&'static str),
}

/// Serializes `value`.
///
/// Runs `__sleep` and `__serialize`, which may call us again.
pub(crate) fn encode(value: Value<'_>) -> Result<OwnedText, Failed> {
    // The caller's array keeps a reference in it alive, but not what the reference holds: __sleep may assign
    // another value through it while this one is being walked.
    let kept = value.deref().keep();
    // SAFETY: the zval is live, and by `kept` so is what it holds or refers to. The buffer and the table of seen values belong to this call and are given back below; the buffer's
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
        drop(kept);
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
    // SAFETY: `at` and `end` bound one slice that lives through the call. The place written to is PHP's own and
    // lives as long as `seen`: inside of a Serializable's unserialize() that is the table of the outer value, whose
    // later "R:n" and "r:n" may point at it, so it must not be on our stack. What is kept has a reference of its
    // own, taken before the table goes.
    let fresh = unsafe {
        let mut seen = sys::php_var_unserialize_init();
        let place = sys::var_tmp_var(&raw mut seen);
        let done = sys::php_var_unserialize(place, &raw mut at, range.end, &raw mut seen);
        let fresh = Value::new(place).keep();
        sys::php_var_unserialize_destroy(seen);
        (done != 0 && !errors::pending()).then_some(fresh)
    }?;
    // "R:1" makes the whole value a reference, which no call may return. Only now, because the __wakeup calls of
    // the table's end may still assign through it.
    Some(fresh.value().deref().keep())
}
