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
//!
//! In mode single there are no records: both lists are used for as long as the file names both.
//! What moved is then looked for at its old place, too (`moving`, and sessions in
//! `session::single`).

use super::Pool;
use super::places::{next_on, row_of};
use crate::call::Limits;
use crate::config::step::fingerprint;
use crate::config::{Mode, NodeSpec, Policy};
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

impl Window {
    /// Nodes of the new list.
    pub(super) fn current(&self) -> usize {
        self.now.members.len()
    }
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

    /// pecl's row for a session.
    fn row(&self, key: &[u8], copies: u32, attempts: u32) -> Vec<usize> {
        let wanted = usize::try_from(copies).unwrap_or(1);
        let wanted = wanted.clamp(1, self.members.len().max(1));
        let row = row_of(&self.ring, key, wanted, attempts);
        row.into_iter()
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
        let single = self.policy.mode == Mode::Single;
        let over = !single && self.committed.get() >= self.policy.epoch;
        if previous.is_empty() || over {
            return;
        }
        let specs: Vec<NodeSpec> = self.members.iter().map(|m| m.spec.clone()).collect();
        let now = List::new((0..specs.len()).collect(), &specs, &self.policy);
        let mut members = Vec::with_capacity(previous.len());
        for spec in previous {
            // In mode single a name may have gone from one server to another, whose keys are apart.
            let known = specs.iter().position(|known| {
                known.ring_name() == spec.ring_name() && (!single || is_one(known, spec))
            });
            members.push(match known {
                Some(index) => index,
                None => self.add(spec.clone(), directory),
            });
        }
        let before = List::new(members, previous, &self.policy);
        // Some rings of mode single go by the order of the nodes, which is no part of a fingerprint.
        let same = match single {
            true => {
                let same = |(old, new): (&NodeSpec, &NodeSpec)| old.weight == new.weight;
                before.members == now.members && previous.iter().zip(&specs).all(same)
            }
            false => before.fingerprint == now.fingerprint,
        };
        if !same {
            self.window = Some(Box::new(Window { now, before }));
        }
    }

    /// The node that a key of mode single was on by the list before, where that is another server
    /// than it is on now.
    pub(super) fn owner_before(&mut self, key: &[u8]) -> Option<usize> {
        let window = self.window.as_ref()?;
        let before = window.before.owners(key, 1).first().copied()?;
        let now = self.ring().owner(key);
        (!self.is_one_place(before, now)).then_some(before)
    }

    /// The nodes that a key of mode single was on by the list before, pecl's copies among them, and is not
    /// on now.
    pub(super) fn places_before(&mut self, key: &[u8], limits: &Limits) -> Vec<usize> {
        let copies = usize::try_from(limits.copies).unwrap_or(1).max(1);
        let Some(Window { before: list, .. }) = self.window.as_deref() else {
            return Vec::new();
        };
        let (mut row, mut attempt) = (vec![list.ring.owner(key)], 0);
        while row.len() < copies.min(list.members.len()) {
            let node = next_on(&list.ring, key, &row, &mut attempt, limits.attempts);
            row.push(node);
        }
        row.sort_unstable();
        row.dedup();
        let before = row
            .iter()
            .filter_map(|node| list.members.get(*node).copied());
        let mut before: Vec<usize> = before.collect();
        let owner = self.ring().owner(key);
        let mut now = self.copies_after(key, owner, copies.min(self.current()), limits.attempts);
        now.push(owner);
        before.retain(|node| !now.iter().any(|now| self.is_one_place(*node, *now)));
        before
    }

    /// The nodes that a session of mode single was on by the list before, in pecl's order; `None`
    /// where there is no such list. A server that `now` names has its number there.
    pub(crate) fn session_places_before(
        &self,
        key: &[u8],
        copies: u32,
        attempts: u32,
        now: &[usize],
    ) -> Option<Vec<usize>> {
        let before = &self.window.as_ref()?.before;
        let row = match self.policy.placement.is_behind_prefix() {
            true => before.owners(key, 1),
            false => before.row(key, copies, attempts),
        };
        let same = |node: &usize| now.iter().find(|now| self.is_one_place(**now, *node));
        Some(row.iter().map(|node| *same(node).unwrap_or(node)).collect())
    }

    /// Are they one place for keys?
    fn is_one_place(&self, one: usize, other: usize) -> bool {
        match (self.spec(one), self.spec(other)) {
            _ if one == other => true,
            (Some(one), Some(other)) => is_one(one, other),
            _ => false,
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

/// Are they one server, and one database of it?
fn is_one(one: &NodeSpec, other: &NodeSpec) -> bool {
    let database = |spec: &NodeSpec| spec.redis.as_ref().map(|redis| redis.database);
    one.target.is(&other.target) && database(one) == database(other)
}
