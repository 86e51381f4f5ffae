//! The pool files of hosts: which nodes a key prefers, before a step, after it, and meanwhile.
//!
//! A run without a step has one list of three preferred nodes that turn with the key. In a run
//! with one, both lists are real rings, hosts get the new file one after another, and what
//! counts is decided by `memring_pool::replica`, as in a worker's pool. Not in here: who
//! commits the step (`tenders`), and what a host does that is behind (`workers`).

use std::cell::Cell;

use memring_pool::config::{HashFunction, Placement};
use memring_pool::replica::{Epochs, Fit, Lists, PREFERRED, Rules};
use memring_pool::ring::{Ring, RingNode};

use super::node::Key;

/// What a step does to the node list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Three nodes become four.
    Adds,
    /// Four nodes become three.
    Removes,
    /// Another server stands in for one of three.
    Replaces,
    /// One server of three gets another name.
    Renames,
    /// One of four nodes gets three times the keys.
    Reweights,
}

impl Step {
    /// All of them.
    pub(super) const ALL: [Step; 5] = [
        Step::Adds,
        Step::Removes,
        Step::Replaces,
        Step::Renames,
        Step::Reweights,
    ];
}

/// A node list: its members, and where a key is on it.
struct List {
    members: Vec<usize>,
    /// None: the members in turn.
    ring: Option<Ring>,
    epochs: Epochs,
}

impl List {
    /// `weights` are of the members, in order.
    fn new(members: &[usize], weights: &[u32], names: &[Box<str>], epoch: u32) -> List {
        let nodes: Vec<RingNode<'_>> = members
            .iter()
            .zip(weights)
            .map(|(&member, &weight)| RingNode {
                name: &names[member],
                weight,
                named: false,
            })
            .collect();
        List {
            members: members.to_vec(),
            ring: Some(Ring::new(
                &nodes,
                Placement::Rendezvous,
                HashFunction::Crc32,
                None,
            )),
            epochs: Epochs {
                seen: epoch,
                committed: epoch,
                nodes: 11 + epoch,
            },
        }
    }

    fn owners(&self, key: Key) -> Vec<usize> {
        let count = self.members.len();
        match &self.ring {
            Some(ring) => ring
                .owners(&key.to_le_bytes(), count, PREFERRED)
                .into_iter()
                .map(|place| self.members[place])
                .collect(),
            None => (0..count.min(PREFERRED))
                .map(|place| self.members[(key as usize + place) % count])
                .collect(),
        }
    }
}

/// All node lists of a run.
pub(super) struct Files {
    /// Names of all members of both lists.
    names: Vec<Box<str>>,
    /// The server of each.
    servers: Vec<usize>,
    before: List,
    now: Option<List>,
}

/// A key's nodes as a client talks to them.
pub(super) struct Spot {
    pub(super) names: Vec<Box<str>>,
    /// Server of each place.
    pub(super) places: Vec<usize>,
    /// See `Lists`.
    pub(super) parts: Vec<Vec<usize>>,
}

impl Spot {
    /// The places of each list.
    pub(super) fn lists(&self) -> Vec<Vec<usize>> {
        match self.parts.is_empty() {
            true => vec![(0..self.places.len()).collect()],
            false => self.parts.clone(),
        }
    }
}

/// The file of one host.
#[derive(Debug)]
pub(super) struct Host {
    /// From this virtual millisecond on the new one is there.
    since: u64,
    /// It was taken.
    new: Cell<bool>,
    /// It was told by the records that the old list is over.
    alone: Cell<bool>,
}

impl Host {
    pub(super) fn new(since: u64) -> Host {
        Host {
            since,
            new: Cell::new(false),
            alone: Cell::new(false),
        }
    }

    /// Takes the new file if it is there: a request does so when it begins.
    pub(super) fn look(&self, time: u64) {
        self.new.set(time >= self.since);
    }
}

impl Files {
    /// One list of so many servers for the whole run.
    pub(super) fn of(servers: usize) -> Files {
        Files {
            names: (0..servers).map(|node| format!("n{node}").into()).collect(),
            servers: (0..servers).collect(),
            before: List {
                members: (0..servers).collect(),
                ring: None,
                epochs: Epochs::default(),
            },
            now: None,
        }
    }

    /// The two lists of a step, on four servers.
    pub(super) fn step(step: Step) -> Files {
        let names: Vec<Box<str>> = (0..4).map(|node| format!("n{node}").into()).collect();
        let (before, now): (&[usize], &[usize]) = match step {
            Step::Adds => (&[0, 1, 2], &[0, 1, 2, 3]),
            Step::Removes => (&[0, 1, 2, 3], &[0, 1, 2]),
            Step::Replaces | Step::Renames => (&[0, 1, 2], &[0, 1, 3]),
            Step::Reweights => (&[0, 1, 2, 3], &[0, 1, 2, 3]),
        };
        let weights = match step {
            Step::Reweights => [1, 1, 1, 3],
            _ => [1; 4],
        };
        let servers = match step {
            Step::Renames => vec![0, 1, 2, 2],
            _ => vec![0, 1, 2, 3],
        };
        // A file that never named an epoch has 0.
        let epoch = match step {
            Step::Adds | Step::Renames => 0,
            _ => 3,
        };
        Files {
            before: List::new(before, &[1; 4], &names, epoch),
            now: Some(List::new(now, &weights, &names, epoch + 1)),
            names,
            servers,
        }
    }

    /// The list in a host's file, and the one it comes from while that may count.
    fn lists(&self, host: &Host) -> (&List, Option<&List>) {
        match &self.now {
            Some(now) if host.new.get() => (now, Some(&self.before).filter(|_| !host.alone.get())),
            _ => (&self.before, None),
        }
    }

    /// Where a host looks for a key.
    pub(super) fn spot(&self, key: Key, host: &Host, rules: Rules) -> Spot {
        let (now, before) = self.lists(host);
        let lists = match before {
            Some(before) => Lists::both(now.owners(key), &before.owners(key), rules),
            None => Lists::one(now.owners(key)),
        };
        Spot {
            names: self.names_of(&lists.nodes),
            places: self.servers_of(&lists.nodes),
            parts: lists.parts,
        }
    }

    /// All nodes a host knows, and the place of one that goes and may be gone.
    pub(super) fn everyone(&self, host: &Host) -> (Spot, Option<usize>) {
        let (now, before) = self.lists(host);
        let mut members = now.members.clone();
        let going = before.into_iter().flat_map(|before| &before.members);
        members.extend(going.filter(|member| !now.members.contains(member)));
        let goes = members.len() == now.members.len() + 1;
        let spot = Spot {
            names: self.names_of(&members),
            places: self.servers_of(&members),
            parts: Vec::new(),
        };
        let spare = before.filter(|before| goes && before.members.len() >= PREFERRED);
        (spot, spare.map(|_| now.members.len()))
    }

    /// What a new pool's records say of a host's list.
    pub(super) fn epochs(&self, host: &Host) -> Epochs {
        self.lists(host).0.epochs
    }

    /// May the host go on, when records say this?
    pub(super) fn admits(&self, host: &Host, seen: Option<Epochs>, rules: Rules) -> bool {
        let (now, before) = self.lists(host);
        let from = before.unwrap_or(now).epochs.nodes;
        match seen.map(|seen| seen.fits(now.epochs, from)) {
            None | Some(Fit::Window) => true,
            Some(Fit::Alone) => {
                host.alone.set(host.new.get());
                true
            }
            Some(Fit::Behind | Fit::Other | Fit::Elsewhere) => !rules.admits,
        }
    }

    /// Servers, and their names, all of which must be believed before the pool is calm: those
    /// of the list that counts.
    pub(super) fn needed(&self, committed: bool) -> Vec<(usize, Box<str>)> {
        let list = self.now.as_ref().filter(|_| committed);
        let members = &list.unwrap_or(&self.before).members;
        let servers = self.servers_of(members).into_iter();
        servers.zip(self.names_of(members)).collect()
    }

    fn names_of(&self, members: &[usize]) -> Vec<Box<str>> {
        members.iter().map(|&at| self.names[at].clone()).collect()
    }

    fn servers_of(&self, members: &[usize]) -> Vec<usize> {
        members.iter().map(|&at| self.servers[at]).collect()
    }
}
