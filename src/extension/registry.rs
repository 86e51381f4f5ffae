//! What outlives a request: the persistent nodes of this thread.
//!
//! A forked child throws its parent's away: two processes must not talk over one socket.

use memring_pool::node::Directory;
use std::cell::{Cell, RefCell};

thread_local! {
    static NODES: RefCell<Directory> = RefCell::new(Directory::new());
    /// The process the directory was made in.
    static OWNER: Cell<u32> = const { Cell::new(0) };
}

/// Works with this thread's nodes; `work` makes no call into Zend.
pub(crate) fn with<R>(work: impl FnOnce(&mut Directory) -> R) -> R {
    let process = std::process::id();
    NODES.with_borrow_mut(|nodes| {
        if OWNER.replace(process) != process {
            *nodes = Directory::new();
        }
        work(nodes)
    })
}

/// Number of persistent nodes known to this thread.
pub(crate) fn len() -> usize {
    with(|nodes| nodes.len())
}
