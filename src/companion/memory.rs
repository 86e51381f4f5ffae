//! What tend knows of a pool's nodes from its earlier looks: who was trusted, in which life and
//! as which process.

use memring_pool::replica::{State, Survey};
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

/// Lives of a node that are remembered. A node begins one whenever it is mended, and an old dump
/// brings one back.
const LIVES: usize = 256;

/// A node that was trusted: in which life, and which process it was then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The name of its memory life.
    pub(crate) id: u64,
    /// Its process, as `handoff::process` tells.
    pub(crate) process: u64,
    /// Since when it answers and another host's word about kept keys stands.
    pub(crate) waits: Option<Instant>,
}

/// What this process knows of a pool's nodes, by place.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory(Arc<Mutex<HashMap<usize, Node>>>);

#[derive(Debug, Default)]
struct Node {
    now: Option<Known>,
    /// Names of lives in which it was trusted, and the process it was; the newest last.
    lives: VecDeque<(u64, u64)>,
}

impl Memory {
    /// Node `place`, if it was trusted since this process began.
    pub(crate) fn of(&self, place: usize) -> Option<Known> {
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(&place).and_then(|node| node.now)
    }

    /// Remembers this of node `place` as it is now.
    pub(crate) fn set(&self, place: usize, known: Option<Known>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.entry(place).or_default().now = known;
    }

    /// Notes who the trusted nodes are, of which `processes` were asked for before the survey was
    /// made: whoever answered to it may be a later one, which shows at the next look.
    ///
    /// A process that is another one in a life it had before has somebody's copy of it, and is not
    /// what was trusted: their places, and the names of their lives.
    pub(crate) fn learn(&self, survey: &Survey, processes: &[Option<u64>]) -> Vec<(usize, u64)> {
        let trusted = survey.all(State::Trusted).filter_map(|place| {
            let id = survey.record(place)?.id;
            Some((place, id, processes.get(place).copied().flatten()?))
        });
        let others = trusted.filter(|(place, id, process)| !self.is_same(*place, *id, *process));
        others.map(|(place, id, _)| (place, id)).collect()
    }

    /// Is node `place`, trusted in the life `id`, the process it was in that?
    fn is_same(&self, place: usize, id: u64, process: u64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let node = all.entry(place).or_default();
        match node.lives.iter().find(|(life, _)| *life == id) {
            Some((_, was)) if *was != process => return false,
            Some(_) => {}
            None => {
                node.lives.push_back((id, process));
                if node.lives.len() > LIVES {
                    node.lives.pop_front();
                }
            }
        }
        if node.now.is_none_or(|now| now.id != id) {
            node.now = Some(Known {
                id,
                process,
                waits: None,
            });
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_in_a_life_that_another_one_had_is_not_what_was_trusted() {
        let memory = Memory::default();
        assert!(memory.is_same(0, 10, 1));
        assert!(memory.is_same(0, 10, 1));
        // It was mended, and another host saw to it.
        assert!(memory.is_same(0, 11, 2));
        assert!(!memory.is_same(0, 11, 3));
        // The same old dump, for the second time.
        assert!(!memory.is_same(0, 10, 3));
        assert!(memory.is_same(1, 10, 3));
        assert!(
            memory
                .of(0)
                .is_some_and(|known| (known.id, known.process) == (11, 2))
        );
    }

    #[test]
    fn the_oldest_lives_are_forgotten() {
        let memory = Memory::default();
        for id in 0..=LIVES as u64 {
            assert!(memory.is_same(0, id, id));
        }
        assert!(!memory.is_same(0, 1, 0));
        assert!(memory.is_same(0, 0, 1));
    }
}
