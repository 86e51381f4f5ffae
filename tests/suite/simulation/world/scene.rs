//! What a client sees of the world, and may ask it.

use std::collections::{BTreeMap, BTreeSet};

use memring_pool::replica::{Epochs, Moment, Record, Stamp, Trust, Waiting};

use super::super::faults::Way;
use super::super::files::Spot;
use super::super::history::History;
use super::super::node::Key;
use super::super::random::Random;
use super::{Phase, Place, State};

/// What a client sees of the world while it decides.
pub(in super::super) struct Scene<'a> {
    /// Which client it is.
    pub(in super::super) who: usize,
    /// True virtual time.
    pub(in super::super) time: u64,
    /// The client's own clock, milliseconds since 1970.
    pub(in super::super) now: u64,
    pub(in super::super) phase: Phase,
    pub(in super::super) random: &'a mut Random,
    pub(in super::super) history: &'a mut History,
    /// Who has the turn of a key, for clients whose own locks are not what is tried.
    pub(in super::super) turns: &'a mut BTreeMap<Key, usize>,
    pub(super) places: &'a [Place],
    pub(super) barred: &'a BTreeSet<(usize, usize, Way)>,
    /// Faults that began and faults that ended: who finds it unchanged was disturbed by none.
    pub(in super::super) turned: u64,
    pub(super) trace: bool,
}

impl Scene<'_> {
    /// The node can be talked to from here.
    pub(in super::super) fn reaches(&self, node: usize) -> bool {
        self.places[node].state == State::Up
            && !self.barred.contains(&(self.who, node, Way::There))
            && !self.barred.contains(&(self.who, node, Way::Back))
    }

    /// Two nodes of each list can be talked to, answer in time, and are believed.
    pub(in super::super) fn has_two_of_each(&self, spot: &Spot) -> bool {
        let records = || self.places.iter().filter_map(|place| place.node.record());
        let fit = |at: &&usize| {
            let (node, name) = (spot.places[**at], &spot.names[**at]);
            let place = &self.places[node];
            self.reaches(node)
                && place.slow == 0
                && (place.node.record()).is_some_and(|record| record.trust == Trust::Trusted)
                && !records().any(|record| record.lists(name))
        };
        let lists = spot.lists();
        lists
            .iter()
            .all(|list| list.iter().filter(fit).count() >= 2)
    }

    /// What the records of these nodes say together of node lists, as far as they can be talked to.
    pub(in super::super) fn epochs(&self, nodes: &[usize]) -> Option<Epochs> {
        let there = nodes.iter().filter(|node| self.reaches(**node));
        let records = there.filter_map(|node| self.places[*node].node.record());
        records.map(Record::epochs).reduce(Epochs::joined)
    }

    /// Which process a node is, and in which life it is trusted, if it can be talked to.
    pub(in super::super) fn trusted(&self, node: usize) -> Option<(u64, u64)> {
        let place = &self.places[node];
        let record = place.node.record().filter(|_| self.reaches(node))?;
        (record.trust == Trust::Trusted).then_some((record.id, place.process))
    }

    /// The keys of a node, if it can be talked to.
    pub(in super::super) fn list(&self, node: usize) -> Option<Vec<(Key, Option<Stamp>)>> {
        (self.reaches(node)).then(|| self.places[node].node.keys(self.time))
    }

    /// What a node tells of its clock, and of a wait that is noted there, if it can be talked to.
    pub(in super::super) fn wait(&self, node: usize) -> Option<(Moment, Option<Waiting>)> {
        let place = &self.places[node];
        let now = Moment {
            process: place.process,
            uptime: (self.time / 1000) as i64,
        };
        self.reaches(node).then(|| (now, place.node.noted()))
    }

    /// Notes a wait on a node.
    pub(in super::super) fn note_wait(&self, node: usize, waiting: Waiting) {
        self.places[node].node.note(waiting);
    }

    /// A line of the trace.
    pub(in super::super) fn note(&self, words: impl FnOnce() -> String) {
        if self.trace {
            eprintln!("{:>8} client {}: {}", self.time, self.who, words());
        }
    }
}
