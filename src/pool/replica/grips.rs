//! What a read leaves to the write that ends it.

use super::view::{self, View, Watch};
use super::{Epochs, Rules, Version};
use std::sync::Arc;

/// What a read leaves to the write that ends it.
#[derive(Clone, Debug)]
pub struct Grips {
    pub(super) nodes: Vec<View>,
    /// The preference lists, each as places in order.
    pub(super) lists: Vec<Vec<usize>>,
    /// How many nodes of each list get the value; the others get word of it.
    pub(super) copies: usize,
    pub(super) rules: Rules,
    pub(super) host: Box<str>,
    /// The newest version that was read.
    pub(super) base: Version,
    /// The newest version is a tombstone.
    pub(super) destroyed: bool,
    /// The highest version seen anywhere, believed or not.
    pub(super) seen: Version,
    /// When the read was over, our clock.
    pub(super) read_at: u64,
    /// Since when a token of the turn is held, our clock; `None` without a turn.
    pub(super) held_since: Option<u64>,
    /// Until when nobody can have taken the turn over, our clock.
    pub(super) sure_until: u64,
    /// The value that was read, to store it again where a copy is gone.
    pub(super) data: Arc<[u8]>,
}

impl Grips {
    /// What tells the items whose token is held here from all others, first nodes first; 0
    /// where there is none.
    pub fn marks(&self) -> [u64; 2] {
        let mut held = self.nodes.iter().filter(|view| view.token);
        [(); 2].map(|()| held.next().and_then(View::mark).unwrap_or(0))
    }

    /// Since when the first of the tokens held here is ours, milliseconds of the clock that the
    /// read was given; `None` where it took no turn.
    pub fn held_since(&self) -> Option<u64> {
        self.held_since
    }

    /// Was somebody else's turn seen here?
    pub fn is_taken(&self) -> bool {
        self.nodes.iter().any(|view| view.taken.is_some())
    }

    /// The nodes that may say for long that somebody has the turn, and mean this read, which is over.
    pub fn left_turns(&self) -> Vec<Box<str>> {
        let left = self.nodes.iter().filter(|view| view.may_say_left());
        left.map(|view| view.name.clone()).collect()
    }

    /// Others' turns that were seen here, for the next read: see [`super::Open::go_on`].
    pub fn watch(&self) -> Watch {
        Watch::of(&self.nodes, self.read_at)
    }

    /// What the records that were seen say of the pool's node lists; `None` when none was seen.
    pub fn epochs(&self) -> Option<Epochs> {
        let mut records = self.nodes.iter().filter_map(|view| {
            let (record, _) = view.record.as_ref()?;
            Some(record.epochs())
        });
        let first = records.next()?;
        Some(records.fold(first, Epochs::joined))
    }

    /// Is the newest version that was read a tombstone?
    pub fn is_of_destroyed(&self) -> bool {
        self.destroyed
    }

    /// Has every one of these places answered, and what was found?
    pub(super) fn is_whole(&self, places: &[usize]) -> bool {
        let lists = [places.to_vec()];
        places.iter().all(|place| {
            let value = view::gets_value(&self.nodes, &lists, self.copies, self.rules, *place);
            self.nodes.get(*place).is_some_and(|view| {
                let has = view.has(self.base, value, Rules::ALL);
                view.is_known() && (has || self.base == Version::default())
            })
        })
    }

    /// What the records that were read say of nodes that missed writes.
    pub fn listed(&self) -> impl Iterator<Item = &super::Absent> {
        let known = self.nodes.iter().filter(|view| view.is_known());
        known
            .filter_map(|view| view.record.as_ref())
            .flat_map(|(record, _)| &record.absent)
    }
}
