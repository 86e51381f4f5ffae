//! The hash functions of the rings, byte for byte as their owners compute them.
//!
//! Hardly one is chosen for quality: each is here because values already lie where
//! it put them. They allocate nothing.

use crate::config::HashFunction;
use md5::Digest;

/// pecl-memcache's hash of `key`.
pub(super) fn pecl(function: HashFunction, key: &[u8]) -> u32 {
    match function {
        HashFunction::Crc32 => crc32(key),
        HashFunction::Fnv => fnv(FNV_START, key),
    }
}

/// CRC-32 of a key. Most are so short that a table by bytes is done before crc32fast has
/// found out what the processor can do.
fn crc32(key: &[u8]) -> u32 {
    const SHORT: usize = 32;
    if key.len() > SHORT {
        return crc32fast::hash(key);
    }
    let rest = key.iter().fold(u32::MAX, |rest, byte| {
        // The low byte chooses one of 256 remainders, so there always is one.
        let low = usize::from(rest as u8 ^ byte);
        CRC32.get(low).copied().unwrap_or(0) ^ (rest >> 8)
    });
    !rest
}

/// The remainder of each byte for the polynomial of IEEE 802.3, low bit first.
#[allow(
    clippy::indexing_slicing,
    reason = "run by the compiler, which refuses an index out of bounds"
)]
static CRC32: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut byte = 0;
    while byte < 256 {
        // Below 256, so the cast loses nothing.
        let mut rest = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            rest = if rest & 1 == 1 {
                rest >> 1 ^ 0xedb8_8320
            } else {
                rest >> 1
            };
            bit += 1;
        }
        table[byte] = rest;
        byte += 1;
    }
    table
};

/// pecl-memcache's hash of "<key>-<attempt>", the string of its failover and its copies.
pub(super) fn pecl_attempt(function: HashFunction, key: &[u8], attempt: u32) -> u32 {
    let mut digits = itoa::Buffer::new();
    let digits = digits.format(attempt).as_bytes();
    match function {
        HashFunction::Crc32 => {
            let mut crc = crc32fast::Hasher::new();
            crc.update(key);
            crc.update(b"-");
            crc.update(digits);
            crc.finalize()
        }
        HashFunction::Fnv => fnv(fnv(fnv(FNV_START, key), b"-"), digits),
    }
}

/// The hash of "<name>-" as far as it is the same for all points of a node.
pub(super) enum Prefix {
    Crc32(crc32fast::Hasher),
    Fnv(u32),
}

impl Prefix {
    /// Begins the points of the node called `name`.
    pub(super) fn new(function: HashFunction, name: &str) -> Prefix {
        match function {
            HashFunction::Crc32 => {
                let mut crc = crc32fast::Hasher::new();
                crc.update(name.as_bytes());
                crc.update(b"-");
                Prefix::Crc32(crc)
            }
            HashFunction::Fnv => Prefix::Fnv(fnv(fnv(FNV_START, name.as_bytes()), b"-")),
        }
    }

    /// The hash of "<name>-<number>".
    pub(super) fn point(&self, number: u32) -> u32 {
        let mut digits = itoa::Buffer::new();
        let digits = digits.format(number).as_bytes();
        match self {
            Prefix::Crc32(crc) => {
                let mut crc = crc.clone();
                crc.update(digits);
                crc.finalize()
            }
            Prefix::Fnv(state) => fnv(*state, digits),
        }
    }
}

const FNV_START: u32 = 0x811c_9dc5;

/// 32-bit FNV-1a over *signed* bytes: pecl-memcache walks a `char *`, which is signed on
/// x86, so a byte from 0x80 up flips the upper 24 bits as well. On ARM the original
/// differs from itself; ours is the same everywhere.
fn fnv(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |state, byte| {
        (state ^ i32::from(*byte as i8) as u32).wrapping_mul(0x0100_0193)
    })
}

/// What a ketama ring hashes its keys with.
#[derive(Clone, Copy, Debug)]
pub(super) enum KeyHash {
    /// libmemcached's default (HASHKIT_HASH_DEFAULT).
    OneAtATime,
    /// The first four bytes of the MD5, low byte first.
    Md5,
}

impl KeyHash {
    /// The hash of `key`.
    pub(super) fn of(self, key: &[u8]) -> u32 {
        match self {
            KeyHash::OneAtATime => one_at_a_time(key),
            KeyHash::Md5 => md5(key)[0],
        }
    }
}

/// Jenkins' one-at-a-time over signed bytes, as libmemcached compiles it on x86.
pub(super) fn one_at_a_time(bytes: &[u8]) -> u32 {
    let mut state: u32 = 0;
    for byte in bytes {
        state = state.wrapping_add(i32::from(*byte as i8) as u32);
        state = state.wrapping_add(state << 10);
        state ^= state >> 6;
    }
    state = state.wrapping_add(state << 3);
    state ^= state >> 11;
    state.wrapping_add(state << 15)
}

/// The MD5 of `bytes` as four little-endian words.
pub(super) fn md5(bytes: &[u8]) -> [u32; 4] {
    let whole = u128::from_le_bytes(md5::Md5::digest(bytes).into());
    // Truncation picks the word.
    [
        whole as u32,
        (whole >> 32) as u32,
        (whole >> 64) as u32,
        (whole >> 96) as u32,
    ]
}

/// What a ring of 64-bit points hashes its points and its keys with.
#[derive(Clone, Copy, Debug)]
pub(super) enum WideHash {
    /// The first half of MurmurHash3 x64_128. Not x86_32: among its 2^32 places points of
    /// two nodes may meet, and then the order of the list would decide.
    Murmur3,
    /// The first eight bytes of the MD5, low byte first.
    Md5,
    /// Jedis' `Hashing.MURMUR_HASH`: MurmurHash64A. Java sorts it with sign, and that makes no
    /// difference: it begins the circle at another place, and no point gets another neighbour.
    JedisMurmur,
    /// Jedis' `Hashing.MD5`: the first four bytes, low byte first, never negative.
    JedisMd5,
}

impl WideHash {
    /// The hash of `bytes`.
    pub(super) fn of(self, bytes: &[u8]) -> u64 {
        match self {
            WideHash::Murmur3 => murmur3(bytes),
            WideHash::Md5 => {
                let [low, high, ..] = md5(bytes);
                u64::from(high) << 32 | u64::from(low)
            }
            WideHash::JedisMurmur => murmur64a(bytes),
            WideHash::JedisMd5 => u64::from(md5(bytes)[0]),
        }
    }
}

/// MurmurHash64A (Appleby, public domain) with the seed of Jedis (MurmurHash.hash, 0x1234ABCD).
pub(super) fn murmur64a(bytes: &[u8]) -> u64 {
    const FACTOR: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0x1234_abcd;
    let (words, rest) = bytes.as_chunks::<8>();
    let start = SEED ^ (bytes.len() as u64).wrapping_mul(FACTOR);
    let mut state = words.iter().fold(start, |state, word| {
        let mut word = u64::from_le_bytes(*word).wrapping_mul(FACTOR);
        word ^= word >> 47;
        (state ^ word.wrapping_mul(FACTOR)).wrapping_mul(FACTOR)
    });
    // A rest of zeros is still a step; no rest is none.
    if !rest.is_empty() {
        state = (state ^ tail(rest)).wrapping_mul(FACTOR);
    }
    state = (state ^ state >> 47).wrapping_mul(FACTOR);
    state ^ state >> 47
}

/// The first 64 bits of MurmurHash3 x64_128 (Appleby, public domain), seed 0.
pub(super) fn murmur3(bytes: &[u8]) -> u64 {
    const ONE: u64 = 0x87c3_7b91_1142_53d5;
    const TWO: u64 = 0x4cf5_ad43_2745_937f;
    let first = |word: u64| word.wrapping_mul(ONE).rotate_left(31).wrapping_mul(TWO);
    let second = |word: u64| word.wrapping_mul(TWO).rotate_left(33).wrapping_mul(ONE);
    let (words, rest) = bytes.as_chunks::<8>();
    let (pairs, odd) = words.as_chunks::<2>();
    let (mut one, mut two) = (0u64, 0u64);
    for [low, high] in pairs {
        one ^= first(u64::from_le_bytes(*low));
        one = one.rotate_left(27).wrapping_add(two);
        one = one.wrapping_mul(5).wrapping_add(0x52dc_e729);
        two ^= second(u64::from_le_bytes(*high));
        two = two.rotate_left(31).wrapping_add(one);
        two = two.wrapping_mul(5).wrapping_add(0x3849_5ab5);
    }
    // Zeros in place of a missing rest change nothing.
    match odd {
        [low, ..] => {
            one ^= first(u64::from_le_bytes(*low));
            two ^= second(tail(rest));
        }
        [] => one ^= first(tail(rest)),
    }
    one ^= bytes.len() as u64;
    two ^= bytes.len() as u64;
    one = one.wrapping_add(two);
    two = two.wrapping_add(one);
    mix(one).wrapping_add(mix(two))
}

/// Up to seven last bytes as the low ones of a word.
///
/// Byte by byte through an array took as long as the rest of the hash of a short key.
pub(super) fn tail(bytes: &[u8]) -> u64 {
    let half = |four: &[u8; 4]| u64::from(u32::from_le_bytes(*four));
    match (bytes, bytes.first_chunk(), bytes.last_chunk()) {
        // The halves overlap in bytes that both have.
        (_, Some(low), Some(high)) => half(low) | half(high) << (8 * (bytes.len() - 4)),
        ([one, two, three], ..) => half(&[*one, *two, *three, 0]),
        ([one, two], ..) => half(&[*one, *two, 0, 0]),
        ([one], ..) => u64::from(*one),
        _ => 0,
    }
}

/// The finalizer of MurmurHash3 (Appleby, public domain): every input bit reaches every output bit.
pub(super) fn mix(mut word: u64) -> u64 {
    word ^= word >> 33;
    word = word.wrapping_mul(0xff51_afd7_ed55_8ccd);
    word ^= word >> 33;
    word = word.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    word ^ word >> 33
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_check_values_come_out() {
        assert_eq!(pecl(HashFunction::Crc32, b"123456789"), 0xcbf4_3926);
        assert_eq!(pecl(HashFunction::Fnv, b"a"), 0xe40c_292c);
        assert_eq!(pecl(HashFunction::Fnv, b"foobar"), 0xbf9c_f968);
        assert_eq!(one_at_a_time(b"a"), 0xca2e_9442);
        assert_eq!(
            one_at_a_time(b"The quick brown fox jumps over the lazy dog"),
            0x519e_91f5
        );
        assert_eq!(
            md5(b"").map(u32::swap_bytes),
            [0xd41d_8cd9, 0x8f00_b204, 0xe980_0998, 0xecf8_427e]
        );
    }

    #[test]
    fn the_short_way_of_crc32_gives_what_the_long_way_gives() {
        let text: Vec<u8> = (0..=255).rev().cycle().take(300).collect();
        for length in 0..300 {
            let key = text.get(..length).unwrap_or_default();
            assert_eq!(pecl(HashFunction::Crc32, key), crc32fast::hash(key));
        }
    }

    #[test]
    fn a_byte_from_0x80_up_is_hashed_with_its_sign() {
        assert_eq!(
            fnv(FNV_START, b"\xff"),
            (FNV_START ^ 0xffff_ffff).wrapping_mul(0x0100_0193)
        );
    }

    #[test]
    fn an_attempt_hashes_the_key_a_hyphen_and_the_number() {
        for function in [HashFunction::Crc32, HashFunction::Fnv] {
            assert_eq!(
                pecl_attempt(function, b"key", 17),
                pecl(function, b"key-17")
            );
            assert_eq!(
                Prefix::new(function, "host:1").point(159),
                pecl(function, b"host:1-159")
            );
        }
    }
}
