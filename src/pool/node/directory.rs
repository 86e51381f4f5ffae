//! What the pools of one thread share: connections that outlive a request, and what is known of
//! Redis Clusters.

use super::{Node, NodeRef};
use crate::config::{Entrance, NodeSpec, Protocol, Target};
use crate::ring::slots::Table;
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Instant;

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
#[derive(Clone, Debug, Default)]
pub struct Nodes(Rc<RefCell<HashMap<Door, NodeRef>>>);

impl Nodes {
    /// The node for `spec`: a shared one when it is persistent, else one of its own.
    pub fn node(&self, spec: &NodeSpec, protocol: Protocol) -> NodeRef {
        let fresh = || Rc::new(RefCell::new(Node::new(spec)));
        if spec.persistent {
            let mut nodes = self.0.borrow_mut();
            let known = nodes.entry(Door::of(spec, protocol));
            known.or_insert_with(fresh).clone()
        } else {
            fresh()
        }
    }
}

/// What a thread knows of one Redis Cluster.
#[derive(Debug, Default)]
pub struct Cluster {
    /// Who has which slot; `None` while no node was asked.
    pub table: Option<Rc<Table>>,
    /// Counts the tables, so that pools see that there is another one.
    pub edition: u64,
    /// A node said something else than the table.
    pub stale: bool,
    /// When nodes were asked for a table last.
    pub asked: Option<Instant>,
    /// Whom to ask next: not always the same one.
    pub turn: usize,
}

/// A cluster as the pools of a thread share it.
pub type ClusterRef = Rc<RefCell<Cluster>>;

/// What one thread knows: its persistent nodes, epochs and clusters.
#[derive(Debug, Default)]
pub struct Directory {
    nodes: Nodes,
    /// By pool: the highest epoch known to be committed.
    committed: HashMap<String, Rc<Cell<u32>>>,
    /// By the first node that is written of it.
    clusters: HashMap<Door, ClusterRef>,
}

impl Directory {
    /// An empty directory.
    pub fn new() -> Directory {
        Directory::default()
    }

    /// The node for `spec`: a shared one when it is persistent, else one of its own.
    pub fn node(&mut self, spec: &NodeSpec, protocol: Protocol) -> NodeRef {
        self.nodes.node(spec, protocol)
    }

    /// The persistent nodes known, in no order, by where they are and which words they take.
    pub fn all(&self) -> Vec<(Door, NodeRef)> {
        let nodes = self.nodes.0.borrow();
        let shared = |(door, node): (&Door, &NodeRef)| (door.clone(), node.clone());
        nodes.iter().map(shared).collect()
    }

    /// The node for `spec` if it is known and persistent, else one that nobody else will see.
    pub fn look(&self, spec: &NodeSpec, protocol: Protocol) -> NodeRef {
        let nodes = self.nodes.0.borrow();
        let known = nodes.get(&Door::of(spec, protocol));
        known
            .filter(|_| spec.persistent)
            .cloned()
            .unwrap_or_else(|| Rc::new(RefCell::new(Node::new(spec))))
    }

    /// The cluster that `spec` is a node of, and what makes its other nodes.
    pub fn cluster(&mut self, spec: &NodeSpec, protocol: Protocol) -> (ClusterRef, Nodes) {
        let cluster = self.clusters.entry(Door::of(spec, protocol)).or_default();
        (cluster.clone(), self.nodes.clone())
    }

    /// The same for who leaves what is not known yet unknown.
    pub fn look_at_cluster(&self, spec: &NodeSpec, protocol: Protocol) -> (ClusterRef, Nodes) {
        let known = self.clusters.get(&Door::of(spec, protocol));
        let nodes = self.nodes.0.borrow().clone();
        (
            known.cloned().unwrap_or_default(),
            Nodes(Rc::new(RefCell::new(nodes))),
        )
    }

    /// Closes the persistent nodes that are entered so and lets go of them, with the other nodes of
    /// a cluster that one of them names; who still uses one connects again.
    pub fn forget(&mut self, gone: &[Entrance]) {
        let mut all = gone.to_vec();
        self.clusters.retain(|door, cluster| {
            let stays = !gone.contains(&door.entrance);
            let table = cluster.borrow().table.clone().filter(|_| !stays);
            for (host, port) in table.iter().flat_map(|table| table.nodes()) {
                let (host, port) = (host.clone(), *port);
                all.push(Entrance {
                    target: Target::Tcp { host, port },
                    ..door.entrance.clone()
                });
            }
            stays
        });
        self.nodes.0.borrow_mut().retain(|door, node| {
            let stays = !all.contains(&door.entrance);
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
        self.nodes.0.borrow().len()
    }

    /// True when no persistent node is known.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
