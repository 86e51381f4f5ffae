//! A ring of points: each node has many, and a key belongs to the first one at or after its hash.
//!
//! The walk goes on from there, over each node once and round again. Hashes and nodes lie in
//! tables of their own, so that the search for a key touches hashes alone.

/// Points in ascending order; `H` is as wide as the hash that made them.
#[derive(Clone, Debug)]
pub(super) struct Points<H> {
    hashes: Box<[H]>,
    /// The node of each point.
    nodes: Box<[u32]>,
    /// Nodes that have a point at all: a tiny share of the weight may round to none, and
    /// another node's points may stand where all of its own would.
    distinct: u32,
}

impl<H: Copy + Ord> Points<H> {
    /// Of equal points the node that was added first is met first.
    pub(super) fn new(mut points: Vec<(H, u32)>) -> Points<H> {
        points.sort_unstable();
        Points::sorted(&points)
    }

    /// Of equal points only the one of the node that was added last stays.
    pub(super) fn last_wins(mut points: Vec<(H, u32)>) -> Points<H> {
        points.sort_unstable();
        points.dedup_by(|later, kept| {
            let equal = later.0 == kept.0;
            if equal {
                *kept = *later;
            }
            equal
        });
        Points::sorted(&points)
    }

    fn sorted(points: &[(H, u32)]) -> Points<H> {
        let nodes: Box<[u32]> = points.iter().map(|(_, node)| *node).collect();
        let mut met = nodes.to_vec();
        met.sort_unstable();
        met.dedup();
        Points {
            hashes: points.iter().map(|(hash, _)| *hash).collect(),
            nodes,
            distinct: met.len() as u32,
        }
    }

    /// Where the walk of `hash` begins.
    fn start(&self, hash: H) -> usize {
        let at = self.hashes.partition_point(|point| *point < hash);
        if at == self.hashes.len() { 0 } else { at }
    }

    /// The node of the first point at or after `hash`; 0 where there is no point.
    pub(super) fn owner(&self, hash: H) -> u32 {
        self.nodes.get(self.start(hash)).copied().unwrap_or(0)
    }

    /// The node in place `attempt` + 1 of the walk, round again after the last.
    pub(super) fn after(&self, hash: H, attempt: u32) -> u32 {
        let wanted = (attempt % self.distinct.max(1) + 1) % self.distinct.max(1);
        let (ahead, behind) = self
            .nodes
            .split_at_checked(self.start(hash))
            .unwrap_or_default();
        let walk = || behind.iter().chain(ahead).copied();
        // One bit per node already met; past what the stack holds, the walk is read again.
        let mut met = [0u64; 64];
        let mut count = 0;
        for (step, index) in walk().enumerate() {
            let known = match met.get_mut(index as usize / 64) {
                Some(word) => {
                    let bit = 1 << (index % 64);
                    let known = *word & bit != 0;
                    *word |= bit;
                    known
                }
                None => walk().take(step).any(|earlier| earlier == index),
            };
            if known {
                continue;
            }
            if count == wanted {
                return index;
            }
            count += 1;
        }
        0
    }
}
