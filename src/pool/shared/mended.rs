//! Which pools a tend of this host mends: their workers leave a returned node to it, and only they.
//!
//! A word is the upper half of the hash of a pool's name and the second of the last look. Where
//! more pools are mended than there are words, the oldest word makes way; then workers of that pool
//! work beside tend, which costs time and nothing else.

use super::name_of;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Pools that have a word.
const POOLS: usize = 6;
/// The half of a word that is a time, seconds of the monotonic clock.
const TIME: u64 = 0xffff_ffff;

/// A word for each pool.
#[derive(Debug, Default)]
#[repr(transparent)]
pub(super) struct Mended([AtomicU64; POOLS]);

impl Mended {
    /// Notes that the pool of that name is mended at `now`, milliseconds.
    pub(super) fn note(&self, pool: &[u8], now: u64) {
        let (name, now) = (half_of(pool), now / 1000);
        let age = |word: &&AtomicU64| {
            let word = word.load(Relaxed);
            match word {
                0 => u64::MAX,
                // A time ahead is from before a reboot.
                _ => now.checked_sub(word & TIME).unwrap_or(u64::MAX - 1),
            }
        };
        let own = |word: &&AtomicU64| word.load(Relaxed) & !TIME == name;
        let word = self
            .0
            .iter()
            .find(own)
            .or_else(|| self.0.iter().max_by_key(age));
        if let Some(word) = word {
            // Two that take the same word at a time: one of them takes another at its next look.
            word.store(name | now & TIME, Relaxed);
        }
    }

    /// When that was noted last, milliseconds; `None` when never, or before a reboot.
    pub(super) fn at(&self, pool: &[u8], now: u64) -> Option<u64> {
        let words = self.0.iter().map(|word| word.load(Relaxed));
        let noted = words.filter(|word| word & !TIME == half_of(pool));
        noted.map(|word| (word & TIME) * 1000).find(|at| *at <= now)
    }

    /// Forgets all.
    pub(super) fn clear(&self) {
        self.0.iter().for_each(|word| word.store(0, Relaxed));
    }
}

/// The half of a word that is a pool's, never 0.
fn half_of(pool: &[u8]) -> u64 {
    (name_of(pool) & !TIME).max(TIME + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_mended_says_nothing_of_another_one() {
        let words = Mended::default();
        assert_eq!(words.at(b"~r:a", 9000), None);
        words.note(b"~r:a", 7300);
        words.note(b"~r:b", 8000);
        words.note(b"~r:a", 9999);
        assert_eq!(words.at(b"~r:a", 9999), Some(9000));
        assert_eq!(words.at(b"~r:b", 9999), Some(8000));
        assert_eq!(words.at(b"~r:c", 9999), None);
        // Before a reboot.
        assert_eq!(words.at(b"~r:b", 7999), None);
    }

    #[test]
    fn the_pool_that_was_looked_at_longest_ago_makes_way() {
        let words = Mended::default();
        let name = |pool: usize| format!("~r:{pool}").into_bytes();
        for pool in 0..=POOLS {
            words.note(&name(pool), 1000 * (pool as u64 + 1));
        }
        assert_eq!(words.at(&name(0), 99_000), None);
        for pool in 1..=POOLS {
            assert!(words.at(&name(pool), 99_000).is_some(), "{pool}");
        }
    }
}
