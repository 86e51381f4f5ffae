//! Bytes made smaller, and back: zlib, zstd and LZ4, and FastLZ to read.
//!
//! A stored value is anybody's: what it unpacks to is bounded, memory grows with what comes
//! out of it and not with what it announces, and a damaged one leaves nothing behind.

use super::fastlz;
use crate::error::{Error, Kind};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use std::io::Cursor;

/// How bytes were made smaller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// A zlib stream.
    Zlib,
    /// A zstd frame that says how long its content is.
    Zstd,
    /// An LZ4 block behind the length of its content (32 bits, low byte first), as Python's
    /// `lz4.block` and Rust's `lz4_flex` have it.
    Lz4,
    /// A FastLZ block, which php-memcached writes: it is read only.
    FastLz,
}

/// Most bytes that are unpacked of one value: 1 GiB, which is memcached's
/// own limit for an item (`-I 1g`). zlib packs a thousand to one, so a stored megabyte
/// could otherwise ask for as much memory as it likes.
pub const INFLATE_MAX: usize = 1 << 30;

/// The number of the error of a value that holds more than may be unpacked (EFBIG).
pub const TOO_LONG: i32 = 27;

/// zstd's own default.
const ZSTD_LEVEL: i32 = 3;
/// LZ4 and FastLZ make at most 255 bytes of one, and a few of the first ones.
const LZ_RATIO: usize = 256;

impl Stream {
    /// Appends the compressed form of `raw` if it has at most `limit` bytes; else `out` stays.
    ///
    /// zlib has its default level and header. Its bytes need not be the original's (zlib-rs
    /// parts blocks a little differently); what they inflate to is promised.
    pub(super) fn pack(self, raw: &[u8], limit: usize, out: &mut Vec<u8>) -> bool {
        match self {
            Stream::Zlib => deflate(raw, limit, out),
            Stream::Zstd => {
                let at = out.len();
                // Never more than the source, so that room for a bad one is not wasted.
                out.resize(at + limit.min(raw.len()), 0);
                let room = out.get_mut(at..).unwrap_or_default();
                let size = zstd_safe::compress(room, raw, ZSTD_LEVEL);
                out.truncate(at + size.unwrap_or(0));
                size.is_ok()
            }
            Stream::Lz4 => {
                let Ok(length) = u32::try_from(raw.len()) else {
                    return false;
                };
                let at = out.len();
                out.extend_from_slice(&length.to_le_bytes());
                let most = lz4_flex::block::get_maximum_output_size(raw.len());
                out.resize(at + 4 + most, 0);
                let room = out.get_mut(at + 4..).unwrap_or_default();
                let size = lz4_flex::block::compress_into(raw, room);
                let size = size.ok().map(|size| 4 + size).filter(|size| *size <= limit);
                out.truncate(at + size.unwrap_or(0));
                size.is_some()
            }
            Stream::FastLz => false,
        }
    }

    /// Appends what `bytes` holds to `out`, at most `limit` bytes of it.
    ///
    /// Bytes behind a zlib stream's end are ignored, as zlib's uncompress() does.
    ///
    /// # Errors
    /// `Kind::Value` "Failed to uncompress data" when `bytes` is damaged, and with the number
    /// [`TOO_LONG`] when it holds more than `limit`; `out` is then as it was.
    pub fn unpack(self, bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Error> {
        let at = out.len();
        let whole = match self {
            Stream::Zlib => inflate(bytes, limit, out),
            Stream::Zstd => unzstd(bytes, limit, out),
            Stream::Lz4 => unlz4(bytes, limit, out),
            // php-memcached's, which has a length of its own.
            Stream::FastLz => fastlz::unpack(bytes, limit, out).ok_or(Cut::Damaged),
        };
        whole.map_err(|cut| {
            out.truncate(at);
            match cut {
                Cut::Damaged => damaged(),
                Cut::TooLong => too_long(),
            }
        })
    }
}

/// What is said of every value that cannot be unpacked, in pecl-memcache's words.
pub(super) fn damaged() -> Error {
    Error::new(Kind::Value, "Failed to uncompress data")
}

/// The same of what holds more than may be unpacked.
pub(super) fn too_long() -> Error {
    damaged().code(TOO_LONG)
}

/// Why a stream was not unpacked to its end.
enum Cut {
    Damaged,
    TooLong,
}

fn unzstd(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Cut> {
    let announced = zstd_safe::get_frame_content_size(bytes).ok().flatten();
    let announced = usize::try_from(announced.ok_or(Cut::Damaged)?);
    let announced = announced.ok().filter(|n| *n <= limit).ok_or(Cut::TooLong)?;
    let at = out.len();
    // Reserved and not written: pages that nothing comes out for are never touched.
    out.try_reserve_exact(announced).map_err(|_| Cut::TooLong)?;
    let mut room = Cursor::new(std::mem::take(out));
    room.set_position(at as u64);
    let size = zstd_safe::decompress(&mut room, bytes);
    *out = room.into_inner();
    match size {
        Ok(size) if size == announced => Ok(()),
        _ => Err(Cut::Damaged),
    }
}

fn unlz4(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Cut> {
    let (length, block) = bytes.split_first_chunk().ok_or(Cut::Damaged)?;
    let length = u32::from_le_bytes(*length) as usize;
    if length > bytes.len().saturating_mul(LZ_RATIO) {
        return Err(Cut::Damaged);
    }
    if length > limit {
        return Err(Cut::TooLong);
    }
    let at = out.len();
    // Where the memory is not to be had, that is told, and nobody aborted.
    out.try_reserve_exact(length).map_err(|_| Cut::TooLong)?;
    if at == 0 {
        // Zeroed by the kernel: pages that nothing comes out for are never touched.
        *out = vec![0; length];
    } else {
        out.resize(at + length, 0);
    }
    let room = out.get_mut(at..).unwrap_or_default();
    match lz4_flex::block::decompress_into(block, room) {
        Ok(size) if size == length => Ok(()),
        _ => Err(Cut::Damaged),
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

/// Appends what a zlib stream holds. Memory grows with what comes out, by doubling.
fn inflate(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Result<(), Cut> {
    let at = out.len();
    let mut zlib = Decompress::new(true);
    let mut step = bytes.len().saturating_mul(4).clamp(256, 1 << 20);
    let whole = loop {
        let (read, written) = (zlib.total_in() as usize, zlib.total_out() as usize);
        // One byte over the limit is let in, to tell "just fits" from "too much".
        let most = limit.saturating_add(1).saturating_sub(written);
        let end = at + written + step.min(most);
        let more = end.saturating_sub(out.len());
        if out.try_reserve(more).is_err() {
            break Err(Cut::TooLong);
        }
        out.resize(end, 0);
        let (Some(rest), Some(room)) = (bytes.get(read..), out.get_mut(at + written..)) else {
            break Err(Cut::Damaged);
        };
        let status = zlib.decompress(rest, room, FlushDecompress::None);
        let moved = (zlib.total_in() as usize, zlib.total_out() as usize) != (read, written);
        match status {
            Ok(_) if zlib.total_out() as usize > limit => break Err(Cut::TooLong),
            Ok(Status::StreamEnd) => break Ok(()),
            Ok(_) if moved => step = step.saturating_mul(2).min(64 << 20),
            _ => break Err(Cut::Damaged),
        }
    };
    out.truncate(at + zlib.total_out() as usize);
    whole
}
