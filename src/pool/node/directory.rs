//! The persistent nodes of a thread, by how they are entered.

use super::{Node, NodeRef};
use crate::config::{Entrance, NodeSpec, Protocol};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

/// What connections have to have in common to be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Door {
    /// Where it is, and as whom it was entered.
    pub entrance: Entrance,
    /// Which words it takes.
    pub protocol: Protocol,
}

impl Door {
    /// The door of `spec` in a pool of this protocol.
    pub fn of(spec: &NodeSpec, protocol: Protocol) -> Door {
        Door {
            entrance: Entrance::of(spec),
            protocol,
        }
    }
}

/// The persistent nodes of one thread: who asks for the same server gets the same connection.
#[derive(Debug, Default)]
pub struct Directory {
    nodes: HashMap<Door, NodeRef>,
    /// By pool: the highest epoch known to be committed.
    committed: HashMap<String, Rc<Cell<u32>>>,
}

impl Directory {
    /// An empty directory.
    pub fn new() -> Directory {
        Directory::default()
    }

    /// The node for `spec`: a shared one when it is persistent, else one of its own.
    pub fn node(&mut self, spec: &NodeSpec, protocol: Protocol) -> NodeRef {
        let fresh = || Rc::new(RefCell::new(Node::new(spec)));
        if spec.persistent {
            self.nodes
                .entry(Door::of(spec, protocol))
                .or_insert_with(fresh)
                .clone()
        } else {
            fresh()
        }
    }

    /// The persistent nodes known, in no order, by where they are and which words they take.
    pub fn iter(&self) -> impl Iterator<Item = (&Door, &NodeRef)> + use<'_> {
        self.nodes.iter()
    }

    /// The node for `spec` if it is known and persistent, else one that nobody else will see.
    pub fn look(&self, spec: &NodeSpec, protocol: Protocol) -> NodeRef {
        let known = self.nodes.get(&Door::of(spec, protocol));
        known
            .filter(|_| spec.persistent)
            .cloned()
            .unwrap_or_else(|| Rc::new(RefCell::new(Node::new(spec))))
    }

    /// Closes the persistent nodes that are entered so and lets go of them; who still uses one
    /// connects again.
    pub fn forget(&mut self, gone: &[Entrance]) {
        self.nodes.retain(|door, node| {
            let stays = !gone.contains(&door.entrance);
            if !stays {
                node.borrow_mut().close();
            }
            stays
        });
    }

    /// The highest epoch of pool `name` that is known to be committed.
    pub(crate) fn committed(&mut self, name: &str) -> Rc<Cell<u32>> {
        match self.committed.get(name) {
            Some(epoch) => epoch.clone(),
            None => self.committed.entry(name.to_owned()).or_default().clone(),
        }
    }

    /// Number of persistent nodes known.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// True when no persistent node is known.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
}
