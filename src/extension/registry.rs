//! What outlives a request: the persistent nodes of this thread.
//!
//! A forked child throws its parent's away: two processes must not talk over one socket.

use crate::ffi::errors;
use crate::ini;
use memring_pool::node::Directory;
use memring_pool::shared;
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

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

/// Joins what the processes of this host share; trouble is logged once per process.
pub(crate) fn join() {
    let (sharing, dir) = ini::read(|values| (values.sharing, values.state_dir.clone()));
    let dir = if dir.is_empty() {
        shared::default_dir()
    } else {
        PathBuf::from(OsString::from_vec(dir))
    };
    if let Err(error) = shared::start(sharing, &dir) {
        errors::log_of(format!("memring: {error}"));
    }
}

/// Number of persistent nodes known to this thread.
pub(crate) fn len() -> usize {
    with(|nodes| nodes.len())
}
