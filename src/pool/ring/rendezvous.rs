//! Weighted rendezvous: every node draws a number for the key, the best draw owns it.
//!
//! Even by construction (no points, no buckets: over 10 nodes and a million keys the
//! fullest is within 1 % of the mean), and a node that comes or goes moves only its own
//! share. The price is one short mix per node and look-up, some nanoseconds each.
//!
//! With weights, node i wins with probability wᵢ / Σw when it draws −log(uᵢ) / wᵢ, u even
//! in (0, 1), and the smallest wins. **No floating point takes part**: the logarithm of
//! one C library differs from another's in the last bit, and two web hosts that disagree
//! on one key in a billion would each keep their own copy of it. So the logarithm is read
//! from a table of integers made at compile time, and the division is done by
//! multiplying across.
//!
//! The result does not depend on the order in which the nodes are listed.

use super::RingNode;
use super::hash::{mix, tail};
use std::cmp::Ordering;

/// The nodes of a rendezvous ring.
#[derive(Clone, Debug)]
pub(super) struct Rendezvous {
    nodes: Box<[Voter]>,
    /// All weights equal: the larger draw wins and no logarithm is needed.
    even: bool,
}

#[derive(Clone, Debug)]
struct Voter {
    seed: u64,
    weight: u32,
}

/// What one node drew for one key.
#[derive(Clone, Copy)]
struct Draw {
    /// −log2(u), with [`FRACTION`] bits behind the point; smaller is better.
    distance: u64,
    weight: u32,
    hash: u64,
    index: u32,
}

impl Draw {
    /// `Less` is better. Equal logarithms (within the table's precision) are told apart by
    /// the hash they came from, equal hashes (a node listed twice) by order of addition.
    fn compare(&self, other: &Draw) -> Ordering {
        let ours = u128::from(self.distance) * u128::from(other.weight);
        let theirs = u128::from(other.distance) * u128::from(self.weight);
        ours.cmp(&theirs)
            .then(other.hash.cmp(&self.hash))
            .then(self.index.cmp(&other.index))
    }
}

impl Rendezvous {
    pub(super) fn new(nodes: &[RingNode<'_>]) -> Rendezvous {
        let voters = nodes.iter().map(|node| Voter {
            seed: hash(node.name.as_bytes()),
            weight: node.weight.max(1),
        });
        let nodes: Box<[Voter]> = voters.collect();
        let even = nodes
            .windows(2)
            .all(|pair| matches!(pair, [one, two] if one.weight == two.weight));
        Rendezvous { nodes, even }
    }

    pub(super) fn owner(&self, key: &[u8]) -> u32 {
        let key = hash(key);
        if !self.even {
            return self.best(key, None).map_or(0, |draw| draw.index);
        }
        // The same as best(), without the arithmetic that equal weights make void.
        let mut owner = (0, 0);
        for (index, voter) in (0u32..).zip(&self.nodes) {
            let drawn = mix(key ^ voter.seed);
            if drawn > owner.0 {
                owner = (drawn, index);
            }
        }
        owner.1
    }

    /// The draw in place `attempt` + 1 of the ranking, round again after the last.
    pub(super) fn after(&self, key: &[u8], attempt: u32) -> u32 {
        let count = (self.nodes.len() as u32).max(1);
        let key = hash(key);
        let mut last = self.best(key, None);
        // One pass per place instead of a sort: a sort would need the heap.
        for _ in 0..(attempt % count + 1) % count {
            last = self.best(key, last.as_ref());
        }
        last.map_or(0, |draw| draw.index)
    }

    /// The best draw that is worse than `than`.
    fn best(&self, key: u64, than: Option<&Draw>) -> Option<Draw> {
        let mut best: Option<Draw> = None;
        for (index, voter) in (0u32..).zip(&self.nodes) {
            let hash = mix(key ^ voter.seed);
            let distance = if self.even {
                u64::MAX - hash
            } else {
                distance(hash)
            };
            let draw = Draw {
                distance,
                weight: voter.weight,
                hash,
                index,
            };
            if than.is_none_or(|than| draw.compare(than) == Ordering::Greater)
                && best.is_none_or(|best| draw.compare(&best) == Ordering::Less)
            {
                best = Some(draw);
            }
        }
        best
    }
}

/// 64 bits of `bytes`. Each step can be undone, so two keys that differ in one word never meet.
///
/// Its values decide where keys lie: changing it moves every key of every rendezvous pool.
fn hash(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let step = |state: u64, word: u64| {
        let state = (state ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        state ^ state >> 32
    };
    let state = words.iter().fold(bytes.len() as u64, |state, word| {
        step(state, u64::from_le_bytes(*word))
    });
    mix(step(state, tail(rest)))
}

/// Bits behind the point of a [`Draw`]'s distance.
const FRACTION: u32 = 48;
/// The table holds log2(1 + i / 2^TABLE_BITS); between two entries a straight line is good to 1 in 8,000.
const TABLE_BITS: u32 = 12;
static LOG2: [u64; (1 << TABLE_BITS) + 1] = log2_table();

/// −log2((hash + 1) / 2^64), fixed point; falls (or stays) as `hash` grows.
fn distance(hash: u64) -> u64 {
    let Some(word) = hash.checked_add(1) else {
        return 0;
    };
    let zeros = word.leading_zeros();
    // The leading 1 is shifted out: what stays is the fraction of 1.fraction × 2^(63 − zeros).
    let fraction = (word << zeros) << 1;
    let slot = (fraction >> (64 - TABLE_BITS)) as usize;
    let within = u128::from(fraction << TABLE_BITS);
    let low = LOG2.get(slot).copied().unwrap_or(0);
    let high = LOG2.get(slot + 1).copied().unwrap_or(low);
    let log = low + ((u128::from(high - low) * within) >> 64) as u64;
    (u64::from(zeros + 1) << FRACTION) - log
}

/// log2 of 1 + i / 2^TABLE_BITS by repeated squaring: whole numbers only, so it is the
/// same on every machine that compiles it.
const fn log2_table() -> [u64; (1 << TABLE_BITS) + 1] {
    let mut table = [0; (1 << TABLE_BITS) + 1];
    let mut i = 0;
    while i < (1 << TABLE_BITS) {
        let mut value: u128 = (1 << 62) + ((i as u128) << (62 - TABLE_BITS));
        let mut log = 0;
        let mut bit = FRACTION;
        while bit > 0 {
            bit -= 1;
            value = (value * value) >> 62;
            if value >> 63 != 0 {
                value >>= 1;
                log |= 1 << bit;
            }
        }
        #[allow(
            clippy::indexing_slicing,
            reason = "i is below the length, and the compiler evaluates it"
        )]
        {
            table[i] = log;
        }
        i += 1;
    }
    #[allow(
        clippy::indexing_slicing,
        reason = "the last entry, evaluated by the compiler"
    )]
    {
        table[1 << TABLE_BITS] = 1 << FRACTION;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_the_logarithm_and_never_rises() {
        let mut last = u64::MAX;
        for step in 0..=4000u64 {
            let word = (u64::MAX / 4000).saturating_mul(step);
            let ours = distance(word);
            assert!(ours <= last, "at {word}");
            last = ours;
            let exact = 64.0 - (word as f64 + 1.0).log2();
            let got = ours as f64 / (1u64 << FRACTION) as f64;
            assert!(
                (got - exact).abs() <= exact * 2e-4 + 1e-12,
                "{word}: {got} is not {exact}"
            );
        }
        assert_eq!(distance(u64::MAX), 0);
        assert_eq!(distance(0), 64 << FRACTION);
    }

    #[test]
    fn the_hash_stays_what_it_was_when_the_first_pool_was_filled() {
        assert_eq!(
            [
                hash(b""),
                hash(b"key0"),
                hash(b"a key of more than eight bytes")
            ],
            PINNED
        );
    }

    /// Recorded once; a change here moves keys in every pool that uses rendezvous.
    const PINNED: [u64; 3] = [0, 4_322_892_634_292_978_784, 6_971_332_061_050_507_041];
}
