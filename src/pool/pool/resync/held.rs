//! The keys of a pass that are held at a time: as many as there is room for, however many there are.
//!
//! ```text
//!   0 ├──── held ────┤ the rest ───────────────────────────┤ 2^64 - 1      by the hash of the key
//!                    ├──── held ────┤ …                    after all nodes were listed once more
//! ```
//!
//! Where there is no room for another one the range is halved, and what lies behind it is left to
//! a later round: listing a node again is cheap beside mending its keys. The nodes' own order is of
//! no use for that, since each has another one; and a node that lists must not be kept waiting.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

/// What a key takes beside its bytes: its place in a table that has just doubled, and the heap's own.
const EACH: usize = 112;

/// Keys with the bytes of their items.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) keys: HashMap<Vec<u8>, usize>,
    /// What they take, bytes, and what they may take.
    bytes: usize,
    room: usize,
    /// The range of hashes that is held, both ends included.
    from: u64,
    to: u64,
    hash: RandomState,
}

impl Held {
    /// None yet, with so much room, bytes.
    pub(super) fn new(room: usize) -> Held {
        Held {
            keys: HashMap::new(),
            bytes: 0,
            room,
            from: 0,
            to: u64::MAX,
            hash: RandomState::new(),
        }
    }

    /// A key that a node listed, and the bytes of its item there. Of a witness they are those of a
    /// write's word: the most that any node has counts.
    pub(super) fn take(&mut self, key: Vec<u8>, size: usize) {
        if !(self.from..=self.to).contains(&self.hash.hash_one(&key)) {
            return;
        }
        let length = key.len();
        let mut is_new = false;
        let largest = self.keys.entry(key).or_insert_with(|| {
            is_new = true;
            size
        });
        *largest = size.max(*largest);
        self.bytes += if is_new { length + EACH } else { 0 };
        while self.bytes > self.room && self.keys.len() > 1 && self.from < self.to {
            self.halve();
        }
    }

    fn halve(&mut self) {
        self.to = self.from + (self.to - self.from) / 2;
        let (range, hash) = (self.from..=self.to, &self.hash);
        self.keys
            .retain(|key, _| range.contains(&hash.hash_one(key)));
        self.bytes = self.keys.keys().map(|key| key.len() + EACH).sum();
    }

    /// The keys of this round, which are held no longer.
    pub(super) fn give(&mut self) -> HashMap<Vec<u8>, usize> {
        self.bytes = 0;
        std::mem::take(&mut self.keys)
    }

    /// How many there are in all, if so many were found in this round and those before it.
    pub(super) fn all(&self, found: usize) -> usize {
        let share = (self.to as f64 + 1.0) / (u64::MAX as f64 + 1.0);
        (found as f64 / share) as usize
    }

    /// Goes on to the next round; false after the last one.
    pub(super) fn next(&mut self) -> bool {
        // Wider again: where keys lay close together the range may have become a very small one.
        let width = (self.to - self.from).saturating_mul(2);
        let Some(from) = self.to.checked_add(1) else {
            return false;
        };
        (self.from, self.to) = (from, from.saturating_add(width));
        true
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_key_is_held_in_one_round_and_none_of_them_takes_more_than_there_is_room_for() {
        let keys: Vec<Vec<u8>> = (0..5000).map(|n| format!("key{n}").into_bytes()).collect();
        for room in [usize::MAX, 100_000, 30_000, 1] {
            let mut held = Held::new(room);
            let (mut seen, mut rounds) = (HashSet::new(), 0);
            let count = if room == 1 { 20 } else { keys.len() };
            loop {
                // Two nodes list them, in different orders.
                let both = keys[..count].iter().chain(keys[..count].iter().rev());
                both.for_each(|key| held.take(key.clone(), 7));
                let found = held.give();
                let bytes: usize = found.keys().map(|key| key.len() + EACH).sum();
                assert!(bytes <= room.max(EACH + 7), "{bytes}");
                for key in found.into_keys() {
                    assert!(seen.insert(key), "twice");
                }
                rounds += 1;
                let all = held.all(seen.len());
                assert!(count < 100 || all.abs_diff(count) < count / 2, "{all}");
                if !held.next() {
                    break;
                }
            }
            assert_eq!((seen.len(), rounds > 1), (count, room != usize::MAX));
        }
    }
}
