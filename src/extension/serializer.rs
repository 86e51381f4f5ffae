//! What makes text of arrays and objects: PHP's serialize(), and functions of other extensions.
//!
//! igbinary and msgpack are looked for by the names of their functions, when they are needed:
//! nothing of theirs is linked to, so that PHP starts without them. All of them run userland
//! (`__serialize`, `__wakeup`, `jsonSerialize`), which may call us again.

use crate::ffi::callback;
use crate::ffi::errors;
use crate::ffi::serialize::{self, Failed};
use crate::ffi::string::OwnedText;
use crate::ffi::value::{Fresh, Kind, Value};
use memring_pool::codec::Serializer;

/// PHP's JSON_PRESERVE_ZERO_FRACTION: without it 1.0 comes back as an integer.
const ZERO_FRACTION: i64 = 1024;
/// Depth of json_decode(), its own default.
const DEPTH: i64 = 512;

/// Why no value came out of stored bytes.
pub(crate) enum Unread {
    /// There is no such function; its serializer.
    Missing(&'static str),
    /// The bytes are nothing of this serializer's, or something threw.
    Damaged,
}

/// Makes text of `value`.
pub(crate) fn encode(serializer: Serializer, value: Value<'_>) -> Result<OwnedText, Failed> {
    let (name, function) = match serializer {
        Serializer::Php => return serialize::encode(value),
        Serializer::Igbinary => ("igbinary", "igbinary_serialize"),
        Serializer::Msgpack => ("msgpack", "msgpack_serialize"),
        Serializer::Json | Serializer::JsonObject => ("json", "json_encode"),
    };
    let function = callback::function(function).ok_or(Failed::Missing(name))?;
    let value = value.deref().keep();
    let text = match serializer {
        Serializer::Json | Serializer::JsonObject => {
            callback::call(&function, [value, Fresh::long(ZERO_FRACTION)])
        }
        _ => callback::call(&function, [value]),
    };
    if errors::pending() {
        return Err(Failed::Thrown);
    }
    match text.value().kind() {
        Kind::Text(text) if !text.bytes().is_empty() => Ok(text.keep()),
        _ => Err(Failed::Empty),
    }
}

/// Makes a value of what `serializer` made; `objects` for stdClass where it is JSON.
pub(crate) fn decode(serializer: Serializer, bytes: &[u8], objects: bool) -> Result<Fresh, Unread> {
    // A failure is null or false, which these bytes stand for, too.
    let (name, function, nothing): (_, _, &[&[u8]]) = match serializer {
        Serializer::Php => return serialize::decode(bytes).ok_or(Unread::Damaged),
        Serializer::Igbinary => (
            "igbinary",
            "igbinary_unserialize",
            &[
                b"\0\0\0\x01\0",
                b"\0\0\0\x02\0",
                b"\0\0\0\x01\x04",
                b"\0\0\0\x02\x04",
            ],
        ),
        Serializer::Msgpack => ("msgpack", "msgpack_unserialize", &[b"\xc0", b"\xc2"]),
        Serializer::Json | Serializer::JsonObject => ("json", "json_decode", &[b"null", b"false"]),
    };
    let function = callback::function(function).ok_or(Unread::Missing(name))?;
    let text = Fresh::text(bytes);
    let value = match serializer {
        Serializer::Json | Serializer::JsonObject => {
            callback::call(&function, [text, Fresh::bool(!objects), Fresh::long(DEPTH)])
        }
        _ => callback::call(&function, [text]),
    };
    let failed = match value.value().kind() {
        Kind::Undef => true,
        Kind::Null | Kind::Bool(false) => !nothing.contains(&bytes.trim_ascii()),
        _ => false,
    };
    if failed || errors::pending() {
        return Err(Unread::Damaged);
    }
    Ok(value.value().deref().keep())
}
