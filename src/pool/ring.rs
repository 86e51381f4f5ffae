//! WHERE a key lives: owner first, then the nodes to try after it. One walk gives
//! owner, replicas and failover.

use crate::config::{HashFunction, Placement};

/// One node as the ring sees it.
#[derive(Clone, Copy, Debug)]
pub struct RingNode<'a> {
    /// "host:port" exactly as pecl-memcache writes it, or the node's `id=`.
    pub name: &'a str,
    /// Share of the keys relative to the others, at least 1.
    pub weight: u32,
}

/// A built ring; immutable, made anew when a node is added.
#[derive(Clone, Debug)]
pub struct Ring {}

impl Ring {
    /// Builds the ring for `nodes` in their order of addition.
    pub fn new(_nodes: &[RingNode<'_>], _placement: Placement, _hash: HashFunction, _tag: Option<[u8; 2]>) -> Ring {
        Ring {}
    }

    /// Index of the node that owns `key` (wire form).
    pub fn owner(&self, _key: &[u8]) -> usize {
        0
    }

    /// Index of the node to try as number `attempt` (from 0) after the owner.
    ///
    /// pecl's rings hash "<key>-<attempt>" and may name a node twice; the other
    /// placements walk on to the next distinct node.
    pub fn after(&self, _key: &[u8], _attempt: u32) -> usize {
        0
    }
}
