//! zval ⇄ item: what a PHP value becomes in a node, and back.
//!
//! The bytes and flag bits are `memring_pool::codec`'s; here is only the part that needs
//! PHP: looking into a zval, serialize(), and building the result in request memory
//! straight from the bytes received.

use crate::ffi::errors::{self, Thrown};
use crate::ffi::scratch::Desk;
use crate::ffi::serialize::{self, Failed};
use crate::ffi::value::{Fresh, Kind, Value};
use memring_pool::call::ValueRef;
use memring_pool::codec::{self, COMPRESSED, Compression, Decoded, INFLATE_MAX, SERIALIZED};
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

/// Flag bits a caller may set: the upper half, and the wish to compress.
const CALLERS: u32 = 0xffff_0000 | COMPRESSED;

/// Gives the key added last to `desk` the value `value`, and says what flags it goes with.
///
/// `compression` is None for pieces that are joined to a stored value: a compressed piece
/// in the middle of it could be read by nobody.
pub(crate) fn encode(
    value: Value<'_>,
    wish: i64,
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
    let flags = match value.kind() {
        Kind::Long(number) => plain | codec::int(number, out).0,
        Kind::Double(number) => plain | codec::float(number, out).0,
        Kind::Bool(yes) => plain | codec::bool(yes, out).0,
        Kind::Text(text) => pack(text.bytes(), wish, compression, out),
        _ => {
            // Userland may run in here, and the desk is not borrowed from it: it has another one.
            let text = match serialize::encode(value) {
                Ok(text) => text,
                Err(Failed::Thrown) => return Err(Refused::Thrown),
                Err(Failed::Empty) => {
                    errors::warning("Failed to serialize value");
                    return Err(skipped());
                }
            };
            pack(text.bytes(), wish | SERIALIZED, compression, out)
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

/// Builds the PHP value of a hit; None after a notice when the bytes cannot be read.
#[inline]
pub(crate) fn decode(
    desk: &mut Desk,
    flags: u32,
    value: ValueRef,
) -> Result<Option<Fresh>, Thrown> {
    if is_text(flags) {
        return Ok(Some(Fresh::text(desk.call.value(value))));
    }
    decode_marked(desk, flags, value)
}

/// The same for a value whose flags say what to do with its bytes.
#[inline(never)]
fn decode_marked(desk: &mut Desk, flags: u32, value: ValueRef) -> Result<Option<Fresh>, Thrown> {
    let Desk {
        call,
        bytes: inflated,
        ..
    } = desk;
    let mut bytes = call.value(value);
    if codec::is_compressed(Flags(flags)) {
        inflated.clear();
        if codec::inflate(bytes, INFLATE_MAX, inflated).is_err() {
            errors::notice("Failed to uncompress data");
            return if errors::pending() {
                Err(Thrown)
            } else {
                Ok(None)
            };
        }
        bytes = inflated;
    }
    Ok(Some(match codec::decode(Flags(flags), bytes) {
        Decoded::Bytes => Fresh::text(bytes),
        Decoded::Int(number) => Fresh::long(number),
        Decoded::Float(number) => Fresh::double(number),
        Decoded::Bool(yes) => Fresh::bool(yes),
        Decoded::Serialized => {
            // A nested call cannot overwrite `bytes`: it works at a desk of its own.
            let decoded = serialize::decode(bytes);
            if errors::pending() {
                return Err(Thrown);
            }
            if decoded.is_none() {
                errors::notice("Failed to unserialize data");
                return if errors::pending() {
                    Err(Thrown)
                } else {
                    Ok(None)
                };
            }
            return Ok(decoded);
        }
    }))
}

fn pack(bytes: &[u8], wish: u32, compression: Option<Compression>, out: &mut Vec<u8>) -> u32 {
    let mut flags = Flags(wish);
    match compression {
        Some(compression) if compression.apply(bytes, &mut flags, out) => {}
        _ => {
            flags.0 &= !COMPRESSED;
            out.extend_from_slice(bytes);
        }
    }
    flags.0
}

/// Skipped, unless the warning just raised was turned into an exception.
fn skipped() -> Refused {
    if errors::pending() {
        Refused::Thrown
    } else {
        Refused::Skipped
    }
}
