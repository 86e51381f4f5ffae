//! values ⇄ bytes: the flag bits and texts pecl-memcache stores, and zlib.
//!
//! | PHP value | flags | bytes |
//! |---|---|---|
//! | string | 0 | as they are |
//! | int | [`INT`] | decimal text |
//! | bool | [`BOOL`] | `1` or `0` |
//! | float | [`FLOAT`] | decimal text, see [`float`] |
//! | null, array, object | [`SERIALIZED`] | PHP's serialize(), made by the caller |
//! | compressed string or serialized text | + [`COMPRESSED`] | a zlib stream |
//!
//! Bits 16 to 31 belong to the caller and are kept. What stays out: PHP's own values
//! (`extension/value.rs` turns them into these calls) and the wire.
//!
//! append and prepend must not pass through [`Compression`]: a compressed piece joined
//! to a stored value can be read by nobody. pecl-memcache does it all the same.

use crate::error::{Error, Kind};
use crate::item::Flags;
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};

/// The bytes are PHP's serialize() (memcache_pool.h MMC_SERIALIZED).
pub const SERIALIZED: u32 = 0x0001;
/// The bytes are a zlib stream (MMC_COMPRESSED, PHP's MEMCACHE_COMPRESSED).
pub const COMPRESSED: u32 = 0x0002;
/// The type bits (memcache_pool.h: 0x0f00 is the type mask).
pub const TYPE_MASK: u32 = 0x0f00;
/// A bool (MMC_TYPE_BOOL).
pub const BOOL: u32 = 0x0100;
/// An int (MMC_TYPE_LONG).
pub const INT: u32 = 0x0300;
/// A float (MMC_TYPE_DOUBLE).
pub const FLOAT: u32 = 0x0700;
/// The bits a caller may use for his own ends: MEMCACHE_USER1 to USER4 and above.
pub const USER_MASK: u32 = 0xffff_0000;

/// Appends an int; returns its type bits.
pub fn int(value: i64, out: &mut Vec<u8>) -> Flags {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    Flags(INT)
}

/// Appends a bool; returns its type bits.
pub fn bool(value: bool, out: &mut Vec<u8>) -> Flags {
    out.push(if value { b'1' } else { b'0' });
    Flags(BOOL)
}

/// Appends a float; returns its type bits.
///
/// pecl-memcache writes `%.14g` and loses what comes after. Here the same text is written
/// where reading it gives the value back (`0.3`, `1.0e+15`, `100000`), so that whatever it
/// kept whole stays equal byte for byte; any other value gets the fewest digits, 15 to 17,
/// that read back as itself (`0.30000000000000004`), in the same style. pecl-memcache reads
/// both, with sscanf("%lg"). `NAN`, `INF`, `-INF` and `-0` are as there.
pub fn float(value: f64, out: &mut Vec<u8>) -> Flags {
    if value.is_nan() {
        out.extend_from_slice(b"NAN");
    } else if value.is_infinite() {
        out.extend_from_slice(if value > 0.0 { b"INF" } else { b"-INF" });
    } else {
        let short = format!("{value:.13e}");
        // Rust's {:e} without a precision gives the fewest digits that read back.
        if short.parse() == Ok(value) {
            php_digits(&short, 14, out)
        } else {
            php_digits(&format!("{value:e}"), 17, out)
        }
    }
    Flags(FLOAT)
}

/// Writes "d.ddde±x" the way PHP's %g does (main/snprintf.c php_gcvt): no trailing zeros,
/// an exponent only below 1e-4 and from 10^`precision` up, and then always a point.
fn php_digits(scientific: &str, precision: i32, out: &mut Vec<u8>) {
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |rest| ("-", rest));
    let (first, rest) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let rest = rest.trim_end_matches('0');
    out.extend_from_slice(sign.as_bytes());
    let mut put = |text: &str| out.extend_from_slice(text.as_bytes());
    if exponent < -4 || exponent >= precision {
        put(first);
        put(".");
        put(if rest.is_empty() { "0" } else { rest });
        put(if exponent < 0 { "e-" } else { "e+" });
        put(itoa::Buffer::new().format(exponent.unsigned_abs()));
    } else if exponent < 0 {
        put("0.");
        (1..exponent.unsigned_abs()).for_each(|_| put("0"));
        put(first);
        put(rest);
    } else {
        let whole = exponent.unsigned_abs() as usize;
        let (before, after) = rest.split_at_checked(whole).unwrap_or((rest, ""));
        put(first);
        put(before);
        (before.len()..whole).for_each(|_| put("0"));
        if !after.is_empty() {
            put(".");
            put(after);
        }
    }
}

/// What stored bytes are, after inflating.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoded {
    /// A string: the bytes themselves.
    Bytes,
    /// An int.
    Int(i64),
    /// A float.
    Float(f64),
    /// A bool.
    Bool(bool),
    /// PHP's serialize(): the bytes are for unserialize().
    Serialized,
}

/// Reads inflated `bytes` as their flags say; any bytes give an answer, as in pecl-memcache.
///
/// The order is pecl-memcache's (memcache_pool.c mmc_unpack_value): inflate first (the
/// caller, see [`is_compressed`]), then the serialized bit, then the type bits. A type it
/// does not know is a string.
pub fn decode(flags: Flags, bytes: &[u8]) -> Decoded {
    if flags.0 & SERIALIZED != 0 {
        return Decoded::Serialized;
    }
    match flags.0 & TYPE_MASK {
        INT => Decoded::Int(read_int(bytes)),
        FLOAT => Decoded::Float(read_float(bytes)),
        BOOL => Decoded::Bool(bytes == b"1"),
        _ => Decoded::Bytes,
    }
}

/// True when the bytes are a zlib stream and [`inflate`] comes first.
pub fn is_compressed(flags: Flags) -> bool {
    flags.0 & COMPRESSED != 0
}

/// strtol(…, 10): blanks, a sign, digits, then whatever; nothing to read is 0, too much is the limit.
///
/// Also the reading of a counter, which a server pads with blanks behind.
pub fn read_int(bytes: &[u8]) -> i64 {
    let (negative, rest) = sign(bytes.trim_ascii_start_c());
    let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
    let value = digits.fold(0i64, |value, digit| {
        // Summed on the negative side, whose limit is one further out.
        value
            .saturating_mul(10)
            .saturating_sub(i64::from(digit - b'0'))
    });
    if negative {
        value
    } else {
        value.checked_neg().unwrap_or(i64::MAX)
    }
}

/// sscanf(…, "%lg"): blanks, a sign, then inf, nan or a decimal number, then whatever;
/// nothing to read is 0. Hexadecimal floats, which no PHP client writes, are read as 0.
pub fn read_float(bytes: &[u8]) -> f64 {
    let (negative, rest) = sign(bytes.trim_ascii_start_c());
    let starts = |word: &[u8]| {
        rest.get(..word.len())
            .is_some_and(|head| head.eq_ignore_ascii_case(word))
    };
    let value = match () {
        () if starts(b"inf") => f64::INFINITY,
        () if starts(b"nan") => f64::NAN,
        () => number(rest),
    };
    if negative { -value } else { value }
}

/// The longest decimal number at the start of `text`, 0 when there is none.
fn number(text: &[u8]) -> f64 {
    let digits = |from: usize| {
        text.get(from..)
            .unwrap_or_default()
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count()
    };
    let whole = digits(0);
    let mut end = whole;
    if text.get(end) == Some(&b'.') {
        end += 1 + digits(end + 1);
        if end == 1 {
            return 0.0;
        }
    }
    if end > 0 && matches!(text.get(end), Some(b'e' | b'E')) {
        let signed = usize::from(matches!(text.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(end + 1 + signed);
        if exponent > 0 {
            end += 1 + signed + exponent;
        }
    }
    let text = text
        .get(..end)
        .and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0.0)
}

fn sign(text: &[u8]) -> (bool, &[u8]) {
    match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    }
}

/// What C's isspace() skips: as Rust's, and the vertical tab.
trait TrimLikeC {
    fn trim_ascii_start_c(&self) -> &Self;
}

impl TrimLikeC for [u8] {
    fn trim_ascii_start_c(&self) -> &[u8] {
        let blanks = self
            .iter()
            .take_while(|byte| byte.is_ascii_whitespace() || **byte == 0x0b)
            .count();
        self.get(blanks..).unwrap_or_default()
    }
}

/// When a value is compressed, and when that was worth it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compression {
    /// From this length (bytes) on a value is compressed unasked; 0 is never.
    threshold: usize,
    /// Share of the length that must be saved, or the value stays raw; 0 to 1.
    savings: f64,
}

impl Default for Compression {
    /// pecl-memcache's defaults: from 20,000 bytes, if a fifth is saved.
    fn default() -> Compression {
        Compression {
            threshold: 20_000,
            savings: 0.2,
        }
    }
}

impl Compression {
    /// What `setCompressThreshold(threshold, savings)` asks for.
    ///
    /// # Errors
    /// `Kind::Config` when `threshold` is negative or `savings` lies outside of 0 to 1.
    pub fn new(threshold: i64, savings: f64) -> Result<Compression, Error> {
        let threshold = usize::try_from(threshold)
            .map_err(|_| Error::new(Kind::Config, "threshold must be a positive integer"))?;
        if !(0.0..=1.0).contains(&savings) {
            return Err(Error::new(
                Kind::Config,
                "min_savings must be a float in the 0..1 range",
            ));
        }
        Ok(Compression { threshold, savings })
    }

    /// Compresses `raw` where it is asked for ([`COMPRESSED`] in `flags`) or long enough.
    ///
    /// True: the stream was appended to `out` and the bit is set. False: `out` is as it was,
    /// the bit is cleared and `raw` goes out as it is, because nothing asked for compression
    /// or because the stream would be longer than len × (1 − savings).
    ///
    /// The stream has zlib's default level and header. Its bytes need not be the original's
    /// (zlib-rs parts blocks a little differently); what they inflate to is promised.
    pub fn apply(self, raw: &[u8], flags: &mut Flags, out: &mut Vec<u8>) -> bool {
        let wanted =
            flags.0 & COMPRESSED != 0 || (self.threshold > 0 && raw.len() >= self.threshold);
        // Truncation is pecl's: its limit is a double turned into an unsigned long.
        let limit = (raw.len() as f64 * (1.0 - self.savings)) as usize;
        let done = wanted && deflate(raw, limit, out);
        flags.0 = if done {
            flags.0 | COMPRESSED
        } else {
            flags.0 & !COMPRESSED
        };
        done
    }
}

/// Appends the zlib stream of `raw` if it has at most `limit` bytes; else `out` stays.
fn deflate(raw: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
    let at = out.len();
    out.resize(at + limit, 0);
    let mut zlib = Compress::new(flate2::Compression::default(), true);
    let mut ended = false;
    loop {
        // Both counts are within the slices they were counted on.
        let (read, written) = (zlib.total_in() as usize, zlib.total_out() as usize);
        let (Some(rest), Some(room)) = (raw.get(read..), out.get_mut(at + written..)) else {
            break;
        };
        let status = zlib.compress(rest, room, FlushCompress::Finish);
        ended = matches!(status, Ok(Status::StreamEnd));
        // A round that moved nothing cannot go on: the room is used up.
        if ended
            || status.is_err()
            || (zlib.total_in() as usize, zlib.total_out() as usize) == (read, written)
        {
            break;
        }
    }
    out.truncate(if ended {
        at + zlib.total_out() as usize
    } else {
        at
    });
    ended
}

/// Most bytes [`inflate`] makes of one value unless told less: 1 GiB, which is memcached's
/// own limit for an item (`-I 1g`). zlib packs a thousand to one, so a stored megabyte
/// could otherwise ask for as much memory as it likes.
pub const INFLATE_MAX: usize = 1 << 30;

/// Appends what the zlib stream `bytes` holds to `out`, at most `limit` bytes of it.
///
/// Memory grows with what comes out, by doubling; bytes behind the stream's end are
/// ignored, as zlib's uncompress() does.
///
/// # Errors
/// `Kind::Value` "Failed to uncompress data" when `bytes` is no whole zlib stream or holds
/// more than `limit`; `out` is then as it was.
pub fn inflate(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let at = out.len();
    let mut zlib = Decompress::new(true);
    let mut step = bytes.len().saturating_mul(4).clamp(256, 1 << 20);
    let whole = loop {
        let (read, written) = (zlib.total_in() as usize, zlib.total_out() as usize);
        // One byte over the limit is let in, to tell "just fits" from "too much".
        let most = limit.saturating_add(1).saturating_sub(written);
        out.resize(at + written + step.min(most), 0);
        let (Some(rest), Some(room)) = (bytes.get(read..), out.get_mut(at + written..)) else {
            break false;
        };
        let status = zlib.decompress(rest, room, FlushDecompress::None);
        let moved = (zlib.total_in() as usize, zlib.total_out() as usize) != (read, written);
        match status {
            Ok(Status::StreamEnd) => break zlib.total_out() as usize <= limit,
            Ok(_) if moved && zlib.total_out() as usize <= limit => {
                step = step.saturating_mul(2).min(64 << 20)
            }
            _ => break false,
        }
    };
    out.truncate(if whole {
        at + zlib.total_out() as usize
    } else {
        at
    });
    if whole {
        Ok(())
    } else {
        Err(Error::new(Kind::Value, "Failed to uncompress data"))
    }
}

#[cfg(test)]
#[path = "codec/tests.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]
mod tests;
