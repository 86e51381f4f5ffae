//! Two node lists at once: where a key is during a step, and which of them the records let count.
//!
//! From the moment a host sees a new list to the commit of its epoch a key is on the nodes of
//! both, a quorum in each: so hosts with the old list see every write, and nothing they write
//! is missed. The records decide when that is over, not what a process remembers of a file.

use super::{Epochs, Rules};

/// The nodes a key is on, as a machine takes them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lists {
    /// Indices of all of them, by place.
    pub nodes: Vec<usize>,
    /// The new and the old list as places, in order; none where there is only one list, or
    /// both are the same.
    pub parts: Vec<Vec<usize>>,
}

impl Lists {
    /// Where a key is that prefers the nodes `now`, and nothing else counts.
    pub fn one(now: Vec<usize>) -> Lists {
        Lists {
            nodes: now,
            parts: Vec::new(),
        }
    }

    /// Where a key is that prefers the nodes `now` by the new list and `before` by the old one.
    pub fn both(now: Vec<usize>, before: &[usize], rules: Rules) -> Lists {
        if now == before || !rules.double_list {
            return Lists::one(now);
        }
        let mut nodes = now.clone();
        nodes.extend(before.iter().filter(|node| !now.contains(node)));
        let places = |list: &[usize]| -> Vec<usize> {
            list.iter()
                .filter_map(|node| nodes.iter().position(|other| other == node))
                .collect()
        };
        let parts = vec![places(&now), places(before)];
        Lists { nodes, parts }
    }
}

/// What the records say of the node list in a host's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fit {
    /// It is as they say, or is the next one: the old list, if there is one, counts beside it.
    Window,
    /// It is committed: it counts alone.
    Alone,
    /// A higher epoch was announced.
    Behind,
    /// The pool has other nodes at this epoch.
    Other,
    /// The pool has other nodes at the epoch before.
    Elsewhere,
}

impl Epochs {
    /// Has a higher epoch been announced than `own`, the one of a list? Not where that has none.
    pub fn are_ahead_of(self, own: Option<u32>) -> bool {
        own.is_some_and(|own| self.seen > own)
    }

    /// Does the file fit that has this list (`own`, with its epoch), coming from one whose
    /// fingerprint is `before`? Both lists are the same where there is no step.
    pub fn fits(self, own: Epochs, before: u32) -> Fit {
        let known = |nodes: u32| self.nodes == 0 || self.nodes == nodes;
        if own.nodes == 0 {
            // Lists without a name have no epochs.
            Fit::Window
        } else if self.seen > own.seen {
            Fit::Behind
        } else if self.committed >= own.seen {
            match known(own.nodes) {
                true => Fit::Alone,
                false => Fit::Other,
            }
        } else if known(before) {
            Fit::Window
        } else {
            Fit::Elsewhere
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_on_two_lists_is_on_the_nodes_of_both_and_each_node_is_named_once() {
        let both = Lists::both(vec![3, 0, 1], &[0, 1, 2], Rules::ALL);
        assert_eq!(both.nodes, [3, 0, 1, 2]);
        assert_eq!(both.parts, [vec![0, 1, 2], vec![1, 2, 3]]);
        let same = Lists::both(vec![1, 0, 2], &[1, 0, 2], Rules::ALL);
        assert_eq!(same, Lists::one(vec![1, 0, 2]));
        // The order counts: hosts ask for the turn in it.
        let turned = Lists::both(vec![1, 0, 2], &[0, 1, 2], Rules::ALL);
        assert_eq!((turned.nodes.len(), turned.parts.len()), (3, 2));
    }

    #[test]
    fn a_file_fits_records_of_its_epoch_and_of_the_one_it_comes_from() {
        let says = |seen, committed, nodes| Epochs {
            seen,
            committed,
            nodes,
        };
        let own = says(4, 4, 44);
        for (records, fit) in [
            (says(3, 3, 33), Fit::Window),
            (says(4, 3, 33), Fit::Window),
            (says(3, 3, 0), Fit::Window),
            (says(4, 4, 44), Fit::Alone),
            (says(4, 4, 0), Fit::Alone),
            (says(4, 4, 45), Fit::Other),
            (says(5, 4, 44), Fit::Behind),
            (says(3, 3, 32), Fit::Elsewhere),
        ] {
            assert_eq!(records.fits(own, 33), fit, "{records:?}");
        }
        let unnamed = says(0, 0, 0);
        assert_eq!(says(9, 9, 9).fits(unnamed, 0), Fit::Window);
    }
}
