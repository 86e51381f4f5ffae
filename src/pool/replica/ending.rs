//! How a read ends, and what became of that.

use std::sync::Arc;

/// How a read ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// With a new value.
    Write(Arc<[u8]>),
    /// Unchanged: it lives on, and is stored again where it is gone.
    Touch,
    /// With its end.
    Destroy,
    /// With nothing: the turn is given back.
    Release,
}

/// What became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Closed {
    /// It is on two nodes (on one, while the other of two is away), and who missed it is listed.
    Done {
        /// Nodes that have it.
        copies: usize,
    },
    /// Somebody else wrote meanwhile; nothing of his was overwritten.
    Conflict,
    /// Too few nodes took it. It may be seen later all the same.
    Failed,
}
