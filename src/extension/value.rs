//! zval ⇄ item: what a PHP value becomes in a node, and back.
//!
//! The bytes and flag bits are `memring_pool::codec`'s; here is only the part that needs
//! PHP: looking into a zval, serialize(), and building the result in request memory
//! straight from the bytes received.

use crate::ffi::errors::{self, Thrown};
use crate::ffi::ini;
use crate::ffi::memory;
use crate::ffi::resource::Link;
use crate::ffi::scratch::Desk;
use crate::ffi::serialize::Failed;
use crate::ffi::value::{Fresh, Kind, Value};
use crate::serializer::{self, Unread};
use memring_pool::call::ValueRef;
use memring_pool::codec::{
    COMPRESSED, Compression, Content, Decoded, Format, INFLATE_MAX, Serializer, TOO_LONG,
};
use memring_pool::item::Flags;

/// Why a value did not get into a call: the caller was told already.
pub(crate) enum Refused {
    /// A warning was raised; other values of the call go on.
    Skipped,
    /// An exception is under way.
    Thrown,
}

impl From<Thrown> for Refused {
    fn from(_: Thrown) -> Refused {
        Refused::Thrown
    }
}

/// Bits of which one is set where a value is compressed: pecl-memcache's, and php-memcached's.
const COMPRESSED_ANYHOW: u32 = COMPRESSED | 1 << 4;

/// Flag bits a caller may set: the upper half, and the wish to compress.
const CALLERS: u32 = 0xffff_0000 | COMPRESSED;

/// Gives the key added last to `desk` the value `value`, and says what flags it goes with.
///
/// `format` is the pool's; `compression` is None for pieces that are joined to a stored value: a compressed piece
/// in the middle of it could be read by nobody.
pub(crate) fn encode(
    value: Value<'_>,
    wish: i64,
    format: Format,
    compression: Option<Compression>,
    desk: &mut Desk,
) -> Result<u32, Refused> {
    // Truncation is pecl-memcache's: its flags are 32 bits wide.
    let wish = wish as u32;
    if wish & !CALLERS != 0 {
        errors::warning(
            "The lowest two bytes of the flags array is reserved for pecl/memcache internal use",
        );
        return Err(skipped());
    }
    let plain = wish & !COMPRESSED;
    let out = desk.call.value_mut();
    let start = out.len();
    let mut pack = |bytes: &[u8], content: Content| {
        let asked = wish & COMPRESSED != 0;
        let stream = compression.and_then(|when| format.pack(when, bytes, asked, out));
        if stream.is_none() {
            out.extend_from_slice(bytes);
        }
        plain | format.layout.flags(content, stream)
    };
    let flags = match value.kind() {
        Kind::Long(number) => plain | format.int(number, out),
        Kind::Double(number) => plain | format.float(number, out),
        Kind::Bool(yes) => plain | format.bool(yes, out),
        Kind::Text(text) => pack(text.bytes(), Content::Text),
        _ => {
            // Userland may run in here, and the desk is not borrowed from it: it has another one.
            let text = match serializer::encode(format.serializer, value) {
                Ok(text) => text,
                Err(Failed::Thrown) => return Err(Refused::Thrown),
                Err(Failed::Empty) => {
                    errors::warning("Failed to serialize value");
                    return Err(skipped());
                }
                Err(Failed::Missing(name)) => {
                    errors::warning_of(format!(
                        "The pool's serializer is {name}, which this PHP does not have: the value is not stored. Load the extension {name}, or write serializer = php"
                    ));
                    return Err(skipped());
                }
            };
            pack(text.bytes(), Content::Serialized(format.serializer))
        }
    };
    desk.call.finish_value(start);
    Ok(flags)
}

/// Without a bit in the half that is ours the bytes are a string, as most values are.
#[inline]
pub(crate) fn is_text(flags: u32) -> bool {
    flags & 0xffff == 0
}

/// Builds the PHP value of a hit of `link`'s pool for key number `index`; None after a notice or a warning when it
/// cannot be read.
#[inline]
pub(crate) fn decode(
    desk: &mut Desk,
    link: &Link,
    index: usize,
    (flags, value): (u32, ValueRef),
) -> Result<Option<Fresh>, Thrown> {
    if is_text(flags) {
        return Ok(Some(Fresh::text(desk.call.value(value))));
    }
    decode_marked(desk, link, index, (flags, value))
}

/// The same for a value whose flags say what to do with its bytes.
#[inline(never)]
fn decode_marked(
    desk: &mut Desk,
    link: &Link,
    index: usize,
    (flags, value): (u32, ValueRef),
) -> Result<Option<Fresh>, Thrown> {
    let format = link
        .with(|state| state.pool.policy().format)
        .unwrap_or_default();
    // What is packed a thousand to one is not for PHP to find out when it has become too much.
    let left = match flags & COMPRESSED_ANYHOW {
        0 => None,
        _ => memory::left(),
    };
    let most = left.map_or(INFLATE_MAX, |left| left.min(INFLATE_MAX));
    let Desk {
        call,
        bytes: unpacked,
        ..
    } = desk;
    let decoded = format
        .layout
        .decode(Flags(flags), call.value(value), most, unpacked);
    let (serializer, bytes) = match decoded {
        Ok(Decoded::Bytes(bytes)) => return Ok(Some(Fresh::text(bytes))),
        Ok(Decoded::Int(number)) => return Ok(Some(Fresh::long(number))),
        Ok(Decoded::Float(number)) => return Ok(Some(Fresh::double(number))),
        Ok(Decoded::Bool(yes)) => return Ok(Some(Fresh::bool(yes))),
        Ok(Decoded::Serialized(serializer, bytes)) => (serializer, bytes),
        Err(error) if error.number() == TOO_LONG && most < INFLATE_MAX => {
            // A handler that ends the page leaves behind what is still held here.
            let text = format!(
                "The value of key \"{}\" is not read: its {} bytes unpack to more than {most}, which is all that memory_limit = {} leaves. Raise memory_limit, or keep less under one key",
                String::from_utf8_lossy(call.wire_key(index)),
                call.value(value).len(),
                String::from_utf8_lossy(&ini::text(c"memory_limit"))
            );
            errors::warning_of(text);
            errors::check()?;
            return Ok(None);
        }
        Err(error) => {
            errors::notice_of(error.to_string());
            errors::check()?;
            return Ok(None);
        }
    };
    // A nested call cannot overwrite `bytes`: it works at a desk of its own.
    let objects = format.serializer == Serializer::JsonObject;
    let read = serializer::decode(serializer, bytes, objects);
    errors::check()?;
    match read {
        Ok(fresh) => return Ok(Some(fresh)),
        Err(Unread::Damaged) => errors::notice("Failed to unserialize data"),
        Err(Unread::Missing(name)) => errors::warning_of(format!(
            "The value was serialized by {name}, which this PHP does not have: it is not read, and stays stored. Load the extension {name}"
        )),
    }
    errors::check()?;
    Ok(None)
}

/// Skipped, unless the warning just raised was turned into an exception.
fn skipped() -> Refused {
    match errors::check() {
        Ok(()) => Refused::Skipped,
        Err(thrown) => thrown.into(),
    }
}
