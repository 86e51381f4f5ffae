//! WHAT is stored: the wire key (made once from what the caller said), flags, expiry.
//!
//! A key is parsed exactly once, into a byte arena of the call it belongs to, so that
//! one call of a hundred keys costs one allocation and not a hundred. Nothing here
//! knows a protocol or a node.

use crate::error::{Error, Kind};

/// Longest key the memcached protocol takes, bytes (memcached protocol.txt "KEY_MAX_LENGTH").
pub const KEY_MAX: usize = 250;

/// A piece of a byte arena: where it begins and how long it is, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// Offset of the first byte.
    pub at: usize,
    /// Number of bytes.
    pub len: usize,
}

impl Span {
    /// The bytes this span names; empty when it lies outside of `arena`.
    pub fn of(self, arena: &[u8]) -> &[u8] {
        arena
            .get(self.at..self.at.saturating_add(self.len))
            .unwrap_or_default()
    }
}

/// What happens to a key longer than [`KEY_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LongKeys {
    /// Cut to 250 bytes, as pecl-memcache does: different long keys may collide.
    Cut,
    /// The tail is replaced by a 128-bit digest of the whole, so that no two collide.
    #[default]
    Hash,
}

/// How the caller's key becomes the wire key: prefix, then cleaning, then the length rule.
#[derive(Clone, Debug, Default)]
pub struct KeyRule {
    /// Put before every key, bytes.
    pub prefix: Vec<u8>,
    /// What happens to long ones.
    pub long: LongKeys,
}

impl KeyRule {
    /// Appends the wire form of `raw` to `arena` and says where it lies.
    ///
    /// Bytes up to 0x20 become `_`, as in pecl-memcache (memcache_pool.c mmc_prepare_key_ex).
    ///
    /// # Errors
    /// `Kind::Key` when `raw` is empty; `arena` is then unchanged.
    #[inline]
    pub fn append(&self, raw: &[u8], arena: &mut Vec<u8>) -> Result<Span, Error> {
        // Nearly all keys are clean: looking is cheaper than writing.
        if self.prefix.is_empty() && (1..=KEY_MAX).contains(&raw.len()) && is_clean(raw) {
            let at = arena.len();
            arena.extend_from_slice(raw);
            return Ok(Span { at, len: raw.len() });
        }
        self.append_prefixed(raw, arena)
    }

    /// The same with a prefix, or with bytes that cannot go over the wire.
    fn append_prefixed(&self, raw: &[u8], arena: &mut Vec<u8>) -> Result<Span, Error> {
        let len = self.prefix.len() + raw.len();
        if raw.is_empty() || len > KEY_MAX {
            return self.append_odd(raw, arena);
        }
        let at = arena.len();
        arena.extend_from_slice(&self.prefix);
        arena.extend_from_slice(raw);
        let key = arena.get_mut(at..).unwrap_or_default();
        if first_blank(key).is_some() {
            clean(key);
        }
        Ok(Span { at, len })
    }

    /// An empty key or one over the length.
    #[cold]
    fn append_odd(&self, raw: &[u8], arena: &mut Vec<u8>) -> Result<Span, Error> {
        if raw.is_empty() {
            return Err(Error::new(Kind::Key, "Invalid key"));
        }
        let at = arena.len();
        arena.extend_from_slice(&self.prefix);
        arena.extend_from_slice(raw);
        // The digest is taken before cleaning, so that "a b…" and "a_b…" stay apart.
        // A prefix that leaves no room for keys would make one key of them all.
        let hashed = self.long == LongKeys::Hash || self.prefix.len() >= KEY_MAX;
        let tail = hashed.then(|| digest(arena.get(at..).unwrap_or_default()));
        arena.truncate(at + KEY_MAX);
        clean(arena.get_mut(at..).unwrap_or_default());
        if let Some(tail) = tail {
            arena.truncate(at + KEY_MAX - tail.len());
            arena.extend_from_slice(&tail);
        }
        Ok(Span {
            at,
            len: arena.len() - at,
        })
    }
}

/// Blanks and control bytes would end a key on the wire.
#[cold]
fn clean(key: &mut [u8]) {
    for byte in key {
        if *byte <= b' ' {
            *byte = b'_';
        }
    }
}

/// No byte up to a blank in it? The last eight may be looked at twice: a get has a hundred keys.
#[inline(always)]
fn is_clean(text: &[u8]) -> bool {
    let Some(last) = text.last_chunk::<8>() else {
        return text.iter().all(|byte| *byte > b' ');
    };
    let (words, _) = text.as_chunks::<8>();
    blanks(*last) == 0 && words.iter().all(|word| blanks(*word) == 0)
}

/// Where the first byte up to a blank lies, looked for in steps of eight.
#[inline]
pub(crate) fn first_blank(text: &[u8]) -> Option<usize> {
    let (words, rest) = text.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let below = blanks(*word);
        if below != 0 {
            return Some(index * 8 + below.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|b| *b <= b' ')?;
    Some(words.len() * 8 + at)
}

/// The top bit of the first byte up to a blank; bits above that say nothing, and none says that there is none.
#[inline(always)]
fn blanks(word: [u8; 8]) -> u64 {
    const ONES: u64 = u64::MAX / 0xff;
    let word = u64::from_le_bytes(word);
    // Taking 0x21 from each byte sets the top bit of those below it. A borrow can set
    // bits only above the first such byte, so the lowest bit set is right.
    word.wrapping_sub(ONES * 0x21) & !word & (ONES * 0x80)
}

/// The 128-bit digest of a long key as `~` and 32 hexadecimal digits.
fn digest(key: &[u8]) -> [u8; 33] {
    use md5::Digest;
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'~'; 33];
    let hash = md5::Md5::digest(key);
    for (pair, byte) in text
        .get_mut(1..)
        .unwrap_or_default()
        .chunks_exact_mut(2)
        .zip(hash)
    {
        for (digit, nibble) in pair.iter_mut().zip([byte >> 4, byte & 15]) {
            *digit = *HEX.get(usize::from(nibble)).unwrap_or(&b'0');
        }
    }
    text
}

/// The 32 flag bits stored with an item; see `codec` for what each means.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Flags(pub u32);

/// An expiry as memcached takes it: 0 never, up to 30 days relative seconds, else a Unix time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ttl(pub u32);

impl Ttl {
    /// The expiry a PHP caller meant, cut to 32 bits as pecl-memcache does: −1 becomes
    /// 4294967295 (memcached 1.6 expires that at once).
    pub fn from_php(seconds: i64) -> Ttl {
        // Truncation is the point: pecl-memcache casts to unsigned int.
        Ttl(seconds as u32)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn wire(rule: &KeyRule, raw: &[u8]) -> Vec<u8> {
        let mut arena = b"before".to_vec();
        let span = rule.append(raw, &mut arena).unwrap();
        span.of(&arena).to_vec()
    }

    #[test]
    fn control_bytes_and_blanks_become_underscores_and_the_rest_stays() {
        let rule = KeyRule::default();
        assert_eq!(
            wire(&rule, b"a b\nc\0d\t\x7f\xc4\xbe"),
            b"a_b_c_d_\x7f\xc4\xbe"
        );
    }

    #[test]
    fn a_blank_is_found_at_every_place() {
        for length in 0..30 {
            for at in 0..length {
                for (blank, other) in [(0, b'!'), (b' ', 0xff), (0x1f, 0x80), (b'\n', 0x7f)] {
                    let mut text = vec![other; length];
                    assert_eq!(first_blank(&text), None);
                    text.iter_mut().skip(at).for_each(|b| *b = blank);
                    assert_eq!(first_blank(&text), Some(at), "{text:?}");
                }
            }
        }
    }

    #[test]
    fn an_empty_key_is_refused_and_leaves_the_arena_alone() {
        let mut arena = b"x".to_vec();
        let error = KeyRule {
            prefix: b"p".to_vec(),
            long: LongKeys::Cut,
        }
        .append(b"", &mut arena);
        assert_eq!(error.map_err(|e| e.kind()), Err(Kind::Key));
        assert_eq!(arena, b"x");
    }

    /// The name of the host that a visitor asks for may be its prefix.
    #[test]
    fn a_prefix_that_fills_a_key_leaves_keys_apart() {
        let rule = KeyRule {
            prefix: vec![b'h'; 250],
            long: LongKeys::Cut,
        };
        let (one, two) = (wire(&rule, b"one"), wire(&rule, b"two"));
        assert!(one != two && one.len() == KEY_MAX && two.len() == KEY_MAX);
    }

    #[test]
    fn long_keys_are_cut_like_pecl_or_kept_apart_by_a_digest() {
        let (one, two) = (vec![b'k'; 251], vec![b'k'; 300]);
        let cut = KeyRule {
            prefix: Vec::new(),
            long: LongKeys::Cut,
        };
        assert_eq!(wire(&cut, &one), vec![b'k'; 250]);
        assert_eq!(wire(&cut, &one), wire(&cut, &two));
        let hash = KeyRule::default();
        assert_eq!(wire(&hash, &one).len(), KEY_MAX);
        assert_ne!(wire(&hash, &one), wire(&hash, &two));
        assert_eq!(wire(&hash, &vec![b'k'; 250]), vec![b'k'; 250]);
    }

    #[test]
    fn the_prefix_counts_towards_the_length() {
        let cut = KeyRule {
            prefix: b"pre_".to_vec(),
            long: LongKeys::Cut,
        };
        assert_eq!(wire(&cut, &vec![b'k'; 250]).len(), 250);
        assert!(wire(&cut, b"k").starts_with(b"pre_k"));
    }

    #[test]
    fn negative_expiry_goes_out_unsigned() {
        assert_eq!(Ttl::from_php(-1).0, u32::MAX);
        assert_eq!(Ttl::from_php(i64::MAX).0, u32::MAX);
    }
}
