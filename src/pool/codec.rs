//! values ⇄ bytes: the flag bits and texts of pecl-memcache or php-memcached, and streams.
//!
//! | PHP value | flags of pecl-memcache | bytes |
//! |---|---|---|
//! | string | 0 | as they are |
//! | int | [`INT`] | decimal text |
//! | bool | [`BOOL`] | `1` or `0` |
//! | float | [`FLOAT`] | decimal text, see [`float`] |
//! | null, array, object | [`SERIALIZED`] | PHP's serialize(), made by the caller |
//! | compressed string or serialized text | + [`COMPRESSED`] | a zlib stream |
//!
//! Other serializers, other streams and php-memcached's flags: `format`. Bits 16 to 31 belong
//! to the caller and are kept. What stays out: PHP's own values (`extension/value.rs` turns
//! them into these calls) and the wire.
//!
//! append and prepend must not pass through [`Format::pack`]: a compressed piece joined
//! to a stored value can be read by nobody. pecl-memcache does it all the same.

mod fastlz;
mod format;
mod stream;

pub use format::{Content, Decoded, Format, Layout, Serializer, unpacked};
pub use stream::{INFLATE_MAX, Stream, TOO_LONG};

use crate::error::{Error, Kind};
use crate::item::Flags;

/// The bytes are PHP's serialize() (memcache_pool.h MMC_SERIALIZED), or another serializer's:
/// see [`Format`].
pub const SERIALIZED: u32 = 0x0001;
/// The bytes are a zlib stream (MMC_COMPRESSED, PHP's MEMCACHE_COMPRESSED), or another
/// compressed form.
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

    /// Is a value of `length` bytes to be compressed; `asked` when the caller said so?
    fn wants(self, length: usize, asked: bool) -> bool {
        asked || (self.threshold > 0 && length >= self.threshold)
    }

    /// Most bytes a compressed form may have of a value of `length`, or the value stays raw.
    fn limit(self, length: usize) -> usize {
        // Truncation is pecl's: its limit is a double turned into an unsigned long.
        (length as f64 * (1.0 - self.savings)) as usize
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

#[cfg(test)]
#[path = "codec/format_tests.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]
mod format_tests;
