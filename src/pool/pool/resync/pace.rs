//! How many keys are mended at the same time: as few as may be, since whoever else asks those nodes waits behind
//! them, and as many as it takes where most of the time goes on the way.

use std::time::Duration;

/// Keys at the same time: where nodes are near, and where they are far.
const FEWEST: usize = 4;
const MOST: usize = 128;
/// What one key costs a node and this process, the way apart: about, measured on loopback.
const KEY: Duration = Duration::from_micros(40);
/// So often the way is measured anew, in batches; and with so many of the fewest keys.
const ROUND: u32 = 64;
const TRIES: u32 = 4;

/// The pace of one pass.
///
/// A batch of the fewest takes as long as its way there and back and a little more. So many keys
/// go at the same time as cost about as much again; where that is less than a few, the few.
#[derive(Debug)]
pub(super) struct Pace {
    batch: u32,
    /// What the fewest took at least, in this round.
    way: Duration,
    keys: usize,
}

impl Pace {
    pub(super) const fn new() -> Pace {
        Pace {
            batch: 0,
            way: Duration::MAX,
            keys: FEWEST,
        }
    }

    /// So many keys go next, at most.
    pub(super) const fn keys(&self) -> usize {
        if self.batch < TRIES {
            FEWEST
        } else {
            self.keys
        }
    }

    /// They took so long.
    pub(super) fn took(&mut self, time: Duration) {
        if self.batch < TRIES {
            // The least of several: in the others somebody else was waited for.
            self.way = self.way.min(time);
        }
        self.batch += 1;
        if self.batch == TRIES {
            let keys = self.way.as_nanos() / KEY.as_nanos();
            self.keys = usize::try_from(keys).unwrap_or(MOST).clamp(FEWEST, MOST);
            self.way = Duration::MAX;
        }
        self.batch %= ROUND;
    }
}

#[cfg(test)]
#[allow(
    clippy::indexing_slicing,
    reason = "a test may stop at the first surprise"
)]
mod tests {
    use super::*;

    /// Keys of each batch, where the way takes so long.
    fn batches(way: Duration, pace: &mut Pace) -> Vec<usize> {
        let next = |_| {
            let keys = pace.keys();
            pace.took(way + KEY * keys as u32 / 2);
            keys
        };
        (0..ROUND).map(next).collect()
    }

    #[test]
    fn few_keys_go_at_a_time_to_nodes_that_are_near_and_many_to_those_that_are_far() {
        let mut pace = Pace::new();
        let near = batches(Duration::from_micros(80), &mut pace);
        assert_eq!(near, [FEWEST; ROUND as usize]);
        let far = batches(Duration::from_millis(2), &mut pace);
        assert_eq!(far[..5], [4, 4, 4, 4, 52]);
        assert_eq!(far[63], 52);
        let farther = batches(Duration::from_millis(50), &mut pace);
        assert_eq!(farther[4..], [MOST; 60]);
        assert_eq!(batches(Duration::ZERO, &mut pace), near, "near again");
    }
}
