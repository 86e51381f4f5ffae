//! Two node lists at once: from the moment a new one is seen to the commit of its epoch.
//!
//! ```text
//!   nodes of the new list ─► ring ─┐
//!                                  ├─► both preference lists of a key, a quorum in each
//!   nodes of the old list ─► ring ─┘
//! ```
//!
//! The records decide which lists count ([`Pool::stands`]), not what a process remembers of
//! the file. A node in both lists is one member; those that go stand behind all others.

use super::Pool;
use crate::config::step::fingerprint;
use crate::config::{NodeSpec, Policy};
use crate::error::{Error, Kind};
use crate::node::Directory;
use crate::replica::{Epochs, Fit, Lists, PREFERRED, Rules};
use crate::ring::{Ring, RingNode};

/// The old list beside the new one.
#[derive(Debug)]
pub(super) struct Window {
    now: List,
    before: List,
}

/// The nodes of one list.
#[derive(Debug)]
struct List {
    /// Index of each in the pool.
    members: Vec<usize>,
    ring: Ring,
    fingerprint: u32,
}

impl List {
    fn new(members: Vec<usize>, specs: &[NodeSpec], policy: &Policy) -> List {
        let names: Vec<String> = specs
            .iter()
            .map(|spec| spec.id.clone().unwrap_or_else(|| spec.name()))
            .collect();
        let nodes: Vec<RingNode<'_>> = names
            .iter()
            .zip(specs)
            .map(|(name, spec)| RingNode {
                name,
                weight: spec.weight,
                named: spec.id.is_some(),
            })
            .collect();
        List {
            members,
            ring: Ring::new(&nodes, policy.placement, policy.hash, policy.tag)
                .behind(policy.keys.prefix.len()),
            fingerprint: fingerprint(specs, policy),
        }
    }

    fn owners(&self, key: &[u8], count: usize) -> Vec<usize> {
        let owners = self.ring.owners(key, self.members.len(), count);
        owners
            .into_iter()
            .filter_map(|node| self.members.get(node).copied())
            .collect()
    }
}

impl Pool {
    /// Takes the list that was before this one, unless this thread knows that it is over.
    ///
    /// To be called once, after all nodes were added.
    pub fn came_from(&mut self, previous: &[NodeSpec], directory: &mut Directory) {
        self.adopt();
        self.committed = directory.committed(&self.policy.name);
        if previous.is_empty() || self.committed.get() >= self.policy.epoch {
            return;
        }
        let specs: Vec<NodeSpec> = self.members.iter().map(|m| m.spec.clone()).collect();
        let now = List::new((0..specs.len()).collect(), &specs, &self.policy);
        let mut members = Vec::with_capacity(previous.len());
        for spec in previous {
            let known = specs
                .iter()
                .position(|known| known.ring_name() == spec.ring_name());
            members.push(match known {
                Some(index) => index,
                None => self.add(spec.clone(), directory),
            });
        }
        let before = List::new(members, previous, &self.policy);
        if before.fingerprint != now.fingerprint {
            self.window = Some(Box::new(Window { now, before }));
        }
    }

    /// Lets the old list go: its epoch is over.
    pub fn end_window(&mut self) {
        self.committed
            .set(self.committed.get().max(self.policy.epoch));
        if let Some(window) = self.window.take() {
            self.members.truncate(window.now.members.len());
            self.ring = None;
        }
    }

    /// True while two node lists are used.
    pub fn has_window(&self) -> bool {
        self.window.is_some()
    }

    /// Nodes of the new list; the others stand behind them.
    pub fn current(&self) -> usize {
        match &self.window {
            Some(window) => window.now.members.len(),
            None => self.members.len(),
        }
    }

    /// A node that is only in the old list and may be gone already: the old list is a
    /// majority without it.
    pub fn spare(&self) -> Option<usize> {
        let window = self.window.as_ref()?;
        let going = self.current()..self.members.len();
        (going.len() == 1 && window.before.members.len() >= PREFERRED).then_some(going.start)
    }

    /// The nodes that `key` (wire form) is on, by both lists while there are two.
    pub fn lists(&mut self, key: &[u8]) -> Lists {
        let Some(window) = &self.window else {
            return Lists::one(self.preferred(key, PREFERRED));
        };
        let now = window.now.owners(key, PREFERRED);
        let before = window.before.owners(key, PREFERRED);
        Lists::both(now, &before, Rules::ALL)
    }

    /// What the first records of this pool say of its node list.
    pub fn epochs(&self) -> Epochs {
        let epoch = self.policy.epoch;
        let specs: Vec<NodeSpec> = self
            .members
            .iter()
            .take(self.current())
            .map(|member| member.spec.clone())
            .collect();
        // Lists have neither name nor epoch: two applications may well share nodes by them.
        let nodes = if self.policy.name.is_empty() {
            0
        } else {
            fingerprint(&specs, &self.policy)
        };
        Epochs {
            seen: epoch,
            committed: epoch,
            nodes,
        }
    }

    /// May this host use the pool as its file says, when the records say `seen`?
    ///
    /// Where the records say that the old list is over, pools made later do without it.
    ///
    /// # Errors
    /// `Kind::Epoch`: the file is behind, or says other nodes than the pool has.
    pub fn stands(&self, seen: Epochs) -> Result<(), Error> {
        let own = self.epochs();
        let (mine, name) = (own.seen, self.policy.name.clone());
        // Nothing moves where the nodes are the same.
        let before = self
            .window
            .as_ref()
            .map_or(own.nodes, |window| window.before.fingerprint);
        let (cause, hint) = match seen.fits(own, before) {
            Fit::Window => return Ok(()),
            Fit::Alone => {
                // For the next pool of this name; this one may be in the middle of something.
                self.committed.set(self.committed.get().max(mine));
                return Ok(());
            }
            Fit::Behind => (
                format!("its nodes changed: the pool is at epoch {}, and the file on this host at {mine}", seen.seen),
                "Bring the new file to this host. Until then no session is opened or stored here, and none is lost".to_owned(),
            ),
            Fit::Other => (
                format!(
                    "the file on this host names other nodes, or spreads keys otherwise, than the pool has at epoch {mine}"
                ),
                format!(
                    "Bring the same file to all hosts; for a change write epoch = {} and previous_nodes",
                    mine.saturating_add(1)
                ),
            ),
            Fit::Elsewhere => (
                format!(
                    "the file on this host is at epoch {mine} and does not come from the nodes the pool has at epoch {}",
                    seen.committed
                ),
                format!(
                    "Write previous_nodes = [the nodes at epoch {}], and commit each epoch before the next one",
                    seen.committed
                ),
            ),
        };
        Err(Error::new(Kind::Epoch, cause)
            .at(&format!("pool {name}"))
            .hint(hint))
    }
}
