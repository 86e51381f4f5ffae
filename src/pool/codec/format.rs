//! What the values of a pool look like to its servers: flag bits, serializer, compression.
//!
//! | bits | `pecl`, as pecl-memcache has them | `php-memcached` |
//! |---|---|---|
//! | 0 to 3 | 0 serialized, 1 compressed; 2 and 3 by what | the type: 0 string, 1 int, 2 float, 3 bool, 4 serialize(), 5 igbinary, 6 JSON, 7 msgpack |
//! | 4 to 7 | 4 and 5 how it is compressed | 4 compressed, by 5 zlib, 6 FastLZ or 7 zstd |
//! | 8 to 11 | the type: bool, int, float | – |
//! | 12 to 15 | word of a copy (`wire::copied`) | the same |
//! | 16 to 31 | the caller's | the caller's |
//!
//! Bits 2 to 5 are memring's own, and free in pecl-memcache, which does not look at them: what
//! it cannot read has its bit 0 or 1 set all the same, so that it fails there and is not taken
//! for a string. What is compressed has its length before it in `php-memcached`, 32 bits as
//! the machine has them (php_memcached.c s_compress_value; 3.2 and 3.3).

use super::stream::{Stream, damaged, too_long};
use super::{
    BOOL, COMPRESSED, Compression, FLOAT, INT, SERIALIZED, TYPE_MASK, bool, float, int, read_float,
    read_int,
};
use crate::error::{Error, Kind};
use crate::item::Flags;

/// How the values of a pool are written; all of them are read, whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// Whose flag bits they have.
    pub layout: Layout,
    /// What makes text of arrays and objects.
    pub serializer: Serializer,
    /// How long values are made smaller; `None` for never.
    pub stream: Option<Stream>,
}

impl Default for Format {
    fn default() -> Format {
        Format {
            layout: Layout::Pecl,
            serializer: Serializer::Php,
            stream: Some(Stream::Zlib),
        }
    }
}

/// Whose flag bits values have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Layout {
    /// pecl-memcache's.
    #[default]
    Pecl,
    /// php-memcached's.
    PhpMemcached,
}

/// What makes text of arrays and objects, and them of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Serializer {
    /// PHP's serialize().
    #[default]
    Php,
    /// The extension igbinary.
    Igbinary,
    /// The extension msgpack.
    Msgpack,
    /// json_encode(); everything comes back as arrays.
    Json,
    /// The same bytes; maps come back as stdClass.
    JsonObject,
}

/// What a value is, whoever wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// A string.
    Text,
    /// An int.
    Int,
    /// A float.
    Float,
    /// A bool.
    Bool,
    /// What a serializer made.
    Serialized(Serializer),
}

/// What stored bytes are, once they are unpacked.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Decoded<'a> {
    /// A string: the bytes themselves.
    Bytes(&'a [u8]),
    /// An int.
    Int(i64),
    /// A float.
    Float(f64),
    /// A bool.
    Bool(bool),
    /// The bytes are for this serializer.
    Serialized(Serializer, &'a [u8]),
}

impl Layout {
    /// Each with the word for it in settings.
    pub const WORDS: [(&'static str, Layout); 2] = [
        ("pecl", Layout::Pecl),
        ("php-memcached", Layout::PhpMemcached),
    ];

    /// The flag bits of a value that is `content`, compressed by `stream`.
    pub fn flags(self, content: Content, stream: Option<Stream>) -> u32 {
        use Serializer::{Igbinary, Json, JsonObject, Msgpack, Php};
        match self {
            Layout::Pecl => {
                let what = match content {
                    Content::Text => 0,
                    Content::Int => INT,
                    Content::Float => FLOAT,
                    Content::Bool => BOOL,
                    Content::Serialized(Php) => SERIALIZED,
                    Content::Serialized(Igbinary) => SERIALIZED | 1 << 2,
                    Content::Serialized(Msgpack) => SERIALIZED | 2 << 2,
                    Content::Serialized(Json | JsonObject) => SERIALIZED | 3 << 2,
                };
                let how = match stream {
                    // FastLZ is nobody's here, and never written.
                    None | Some(Stream::FastLz) => 0,
                    Some(Stream::Zlib) => COMPRESSED,
                    Some(Stream::Zstd) => COMPRESSED | 1 << 4,
                    Some(Stream::Lz4) => COMPRESSED | 2 << 4,
                };
                what | how
            }
            Layout::PhpMemcached => {
                let what = match content {
                    Content::Text => 0,
                    Content::Int => 1,
                    Content::Float => 2,
                    Content::Bool => 3,
                    Content::Serialized(Php) => 4,
                    Content::Serialized(Igbinary) => 5,
                    Content::Serialized(Json | JsonObject) => 6,
                    Content::Serialized(Msgpack) => 7,
                };
                let how = match stream {
                    None | Some(Stream::Lz4) => 0,
                    Some(Stream::Zlib) => 0b0011 << 4,
                    Some(Stream::FastLz) => 0b0101 << 4,
                    Some(Stream::Zstd) => 0b1001 << 4,
                };
                what | how
            }
        }
    }

    /// Reads stored `bytes` as their flags say, unpacking at most `limit` bytes into `room`.
    ///
    /// In pecl-memcache's layout the order is its own (memcache_pool.c mmc_unpack_value):
    /// inflate first, then the serialized bit, then the type bits, and a type it does not
    /// know is a string. In php-memcached's what that would not have written is read as
    /// pecl-memcache's, so that a pool may be switched over.
    ///
    /// # Errors
    /// `Kind::Value`: the bytes cannot be unpacked, or the flags are nobody's.
    pub fn decode<'a>(
        self,
        flags: Flags,
        bytes: &'a [u8],
        limit: usize,
        room: &'a mut Vec<u8>,
    ) -> Result<Decoded<'a>, Error> {
        let (content, stream, sized) = self.marks(flags.0, bytes)?;
        let bytes = match stream {
            None => bytes,
            Some(stream) => {
                room.clear();
                let (packed, limit) = match sized {
                    false => (bytes, limit),
                    true => {
                        let (length, packed) = bytes.split_first_chunk().ok_or_else(damaged)?;
                        let length = u32::from_ne_bytes(*length) as usize;
                        if length > limit {
                            return Err(too_long());
                        }
                        (packed, length)
                    }
                };
                let unpacked = stream.unpack(packed, limit, room);
                // More than it says it has is too much for nobody, but wrong.
                unpacked.map_err(|error| if sized { damaged() } else { error })?;
                if sized && room.len() != limit {
                    return Err(damaged());
                }
                room
            }
        };
        Ok(match content {
            Content::Text => Decoded::Bytes(bytes),
            Content::Int => Decoded::Int(read_int(bytes)),
            Content::Float => Decoded::Float(read_float(bytes)),
            Content::Bool => Decoded::Bool(bytes == b"1"),
            Content::Serialized(serializer) => Decoded::Serialized(serializer, bytes),
        })
    }

    /// What the flags say, and whether the length stands before what is compressed.
    fn marks(self, flags: u32, bytes: &[u8]) -> Result<(Content, Option<Stream>, bool), Error> {
        let foreign = self == Layout::PhpMemcached;
        if let (true, Some((content, stream))) = (foreign, php_memcached(flags, bytes)) {
            return Ok((content, stream, true));
        }
        let (content, stream) = pecl(flags)?;
        if foreign && Layout::Pecl.flags(content, stream) != flags & OURS {
            return Err(unknown(flags));
        }
        Ok((content, stream, false))
    }
}

/// The text of `data`, as pecl-memcache's flags say; at most `limit` bytes are unpacked.
///
/// # Errors
/// As [`Layout::decode`].
pub fn unpacked(
    flags: Flags,
    data: impl AsRef<[u8]> + Into<Vec<u8>>,
    limit: usize,
) -> Result<Vec<u8>, Error> {
    let (_, stream) = pecl(flags.0)?;
    let Some(stream) = stream else {
        return Ok(data.into());
    };
    let mut plain = Vec::new();
    stream.unpack(data.as_ref(), limit, &mut plain)?;
    Ok(plain)
}

/// The bits that say what a value is; those above them are words of copies and the caller's.
const OURS: u32 = 0x0fff;
/// The first byte of zlib's streams; no text of a number and no list begins so.
const ZLIB: u8 = 0x78;

/// What flags say in pecl-memcache's layout.
fn pecl(flags: u32) -> Result<(Content, Option<Stream>), Error> {
    let content = match (flags & SERIALIZED != 0, flags & TYPE_MASK) {
        (true, _) => Content::Serialized(match flags >> 2 & 3 {
            0 => Serializer::Php,
            1 => Serializer::Igbinary,
            2 => Serializer::Msgpack,
            _ => Serializer::Json,
        }),
        (false, INT) => Content::Int,
        (false, FLOAT) => Content::Float,
        (false, BOOL) => Content::Bool,
        (false, _) => Content::Text,
    };
    let stream = match (flags & COMPRESSED != 0, flags >> 4 & 3) {
        (false, _) => None,
        (true, 0) => Some(Stream::Zlib),
        (true, 1) => Some(Stream::Zstd),
        (true, 2) => Some(Stream::Lz4),
        (true, _) => return Err(unknown(flags)),
    };
    Ok((content, stream))
}

/// What flags say in php-memcached's layout; `None` for what it would not have written.
fn php_memcached(flags: u32, bytes: &[u8]) -> Option<(Content, Option<Stream>)> {
    let stream = match flags >> 4 & 0xff {
        0 => None,
        0b0011 => Some(Stream::Zlib),
        0b0101 => Some(Stream::FastLz),
        0b1001 => Some(Stream::Zstd),
        _ => return None,
    };
    let plain = stream.is_none();
    let content = match flags & 15 {
        0 => Content::Text,
        // "5", and not "s:5:…" nor "N;", which is what pecl-memcache has under these flags.
        1 if plain && !matches!(bytes.get(1), Some(b':' | b';')) => Content::Int,
        2 if plain && bytes.first() != Some(&ZLIB) => Content::Float,
        3 if plain && bytes.first() != Some(&ZLIB) => Content::Bool,
        4 => Content::Serialized(Serializer::Php),
        5 => Content::Serialized(Serializer::Igbinary),
        6 => Content::Serialized(Serializer::Json),
        7 if !plain || bytes.first() != Some(&ZLIB) => Content::Serialized(Serializer::Msgpack),
        _ => return None,
    };
    Some((content, stream))
}

fn unknown(flags: u32) -> Error {
    Error::new(
        Kind::Value,
        format!("The value has flags {flags}, which nothing that is known here writes"),
    )
    .hint("It stays stored: another client, or a newer version, reads it")
}

impl Serializer {
    /// Each with the word for it in settings.
    pub const WORDS: [(&'static str, Serializer); 5] = [
        ("php", Serializer::Php),
        ("igbinary", Serializer::Igbinary),
        ("msgpack", Serializer::Msgpack),
        ("json", Serializer::Json),
        ("json_object", Serializer::JsonObject),
    ];
}

impl Format {
    /// The ways to compress, each with the word for it in settings.
    pub const STREAMS: [(&'static str, Option<Stream>); 4] = [
        ("zlib", Some(Stream::Zlib)),
        ("zstd", Some(Stream::Zstd)),
        ("lz4", Some(Stream::Lz4)),
        ("none", None),
    ];

    /// Says whether its parts go together.
    ///
    /// # Errors
    /// `Kind::Config`: LZ4 in php-memcached's layout, which has no bit for it.
    pub fn check(self) -> Result<Format, Error> {
        if self.layout == Layout::PhpMemcached && self.stream == Some(Stream::Lz4) {
            return Err(
                Error::new(Kind::Config, "php-memcached has no flag for lz4").hint(
                    "Write compression = \"zlib\", which every php-memcached reads, or \"zstd\" for 3.3",
                ),
            );
        }
        Ok(self)
    }

    /// The same for sessions, which are text, and pecl-memcache's: php-memcached reads its own
    /// without a look at their flags, so none is compressed there.
    #[must_use]
    pub fn of_sessions(self) -> Format {
        Format {
            stream: self.stream.filter(|_| self.layout == Layout::Pecl),
            ..Format::default()
        }
    }

    /// Appends an int; returns its flags.
    pub fn int(self, value: i64, out: &mut Vec<u8>) -> u32 {
        int(value, out);
        self.layout.flags(Content::Int, None)
    }

    /// Appends a float; returns its flags. Any reader of decimal text has it back; what is
    /// no number has php-memcached's names in its layout (g_fmt.c).
    pub fn float(self, value: f64, out: &mut Vec<u8>) -> u32 {
        match self.layout {
            Layout::PhpMemcached if value.is_nan() => out.extend_from_slice(b"NaN"),
            Layout::PhpMemcached if value == f64::INFINITY => out.extend_from_slice(b"Infinity"),
            Layout::PhpMemcached if value == -f64::INFINITY => out.extend_from_slice(b"-Infinity"),
            _ => drop(float(value, out)),
        }
        self.layout.flags(Content::Float, None)
    }

    /// Appends a bool; returns its flags. php-memcached's false is an empty value.
    pub fn bool(self, value: bool, out: &mut Vec<u8>) -> u32 {
        if value || self.layout == Layout::Pecl {
            bool(value, out);
        }
        self.layout.flags(Content::Bool, None)
    }

    /// Appends the compressed form of `raw` where it is long enough or `asked` for, and short
    /// enough; the flags of the two go together with [`Layout::flags`].
    ///
    /// `None`: `out` is as it was, and `raw` goes out as it is.
    pub fn pack(
        self,
        when: Compression,
        raw: &[u8],
        asked: bool,
        out: &mut Vec<u8>,
    ) -> Option<Stream> {
        let stream = self.stream?;
        if !when.wants(raw.len(), asked) {
            return None;
        }
        let at = out.len();
        if self.layout == Layout::PhpMemcached {
            out.extend_from_slice(&u32::try_from(raw.len()).ok()?.to_ne_bytes());
        }
        let limit = when.limit(raw.len()).saturating_sub(out.len() - at);
        let done = stream.pack(raw, limit, out);
        if !done {
            out.truncate(at);
        }
        done.then_some(stream)
    }
}
