//! FastLZ, which php-memcached compresses with unless told otherwise: read, never written.
//!
//! ```text
//!   000nnnnn                              n + 1 bytes follow, as they are
//!   lllddddd [more l] dddddddd            copy l + 2 bytes from d + 1 bytes back
//!   level 2 only, d all ones: + 16 bits   the same from 8,191 further back
//! ```
//! The first byte's three high bits are the level (0 is level 1, 1 is level 2), and it is
//! always the first kind. l = 7 takes more from the next byte, in level 2 from all next ones
//! up to one that is not 255 (FastLZ's fastlz.c, MIT; php-memcached ships it).

/// Distance (bytes) from which level 2 writes 16 bits of it.
const FAR: usize = 8191;

/// Appends what the block `bytes` holds to `out`; None when it is damaged or holds more than
/// `limit` bytes, and `out` may then have a part of it.
pub(super) fn unpack(bytes: &[u8], limit: usize, out: &mut Vec<u8>) -> Option<()> {
    let start = out.len();
    let (first, mut rest) = bytes.split_first()?;
    let two = match first >> 5 {
        0 => false,
        1 => true,
        _ => return None,
    };
    let mut next = || {
        let (byte, after) = rest.split_first()?;
        rest = after;
        Some(usize::from(*byte))
    };
    let mut control = usize::from(first & 31);
    loop {
        let room = limit.saturating_sub(out.len() - start);
        if control < 32 {
            if control + 1 > room {
                return None;
            }
            for _ in 0..=control {
                out.push(u8::try_from(next()?).ok()?);
            }
        } else {
            let mut length = (control >> 5) + 2;
            let mut distance = (control & 31) << 8;
            if control >> 5 == 7 {
                loop {
                    let more = next()?;
                    length = length.checked_add(more)?;
                    if !two || more != 255 {
                        break;
                    }
                }
            }
            let low = next()?;
            distance += low + 1;
            if two && low == 255 && control & 31 == 31 {
                distance = (next()? << 8) + next()? + FAR + 1;
            }
            if length > room || distance > out.len() - start {
                return None;
            }
            // What is copied may be what is being written: a run of one byte has distance 1.
            let from = out.len() - distance;
            for at in from..from + length {
                out.push(*out.get(at)?);
            }
        }
        match next() {
            Some(byte) => control = byte,
            None => return Some(()),
        }
    }
}
