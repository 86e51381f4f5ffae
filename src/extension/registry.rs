//! What outlives a request: the persistent nodes of this thread, and the pool file as read last.
//!
//! A forked child throws its parent's away: two processes must not talk over one socket.

use crate::ffi::{errors, server};
use crate::ini;
use memring_pool::config::file::File;
use memring_pool::config::watch::Watched;
use memring_pool::error::Error;
use memring_pool::node::Directory;
use memring_pool::pool::later;
use memring_pool::{copier, probe, shared, slices};
use std::cell::{Cell, RefCell};
use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

thread_local! {
    static NODES: RefCell<Directory> = RefCell::new(Directory::new());
    /// The process the directory was made in.
    static OWNER: Cell<u32> = const { Cell::new(0) };
    /// The pool file; a forked child goes on with what its parent read.
    static POOLS: RefCell<Option<Watched>> = const { RefCell::new(None) };
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

/// What `look` takes of the pool file at `path`, as it is now. Sockets of servers that went
/// out of it are closed; a change that is not used is one line in the log.
pub(crate) fn pools<R>(
    path: &Path,
    look: impl FnOnce(&File) -> Result<R, Error>,
) -> Result<R, Error> {
    let (found, news, gone) = watched(path, |pools| {
        let found = pools.file(Instant::now()).and_then(look);
        (found, pools.take_news(), pools.take_gone())
    });
    if !gone.is_empty() {
        with(|nodes| nodes.forget(&gone));
        copier::forget(&gone);
    }
    if let Some(news) = news {
        errors::log_of(format!("memring: {news}"));
    }
    found
}

/// Looks at the file at `path` again, since the records of one of its pools are ahead of it.
pub(crate) fn look_again(path: &Path) {
    watched(path, |pools| pools.look(Instant::now(), true));
}

/// Reads the file before the first request, so that workers that are forked later, when it
/// may be spoilt, have one to go on with. Trouble is for the first who needs a pool of it.
pub(crate) fn read_ahead() {
    let path = ini::read(|values| values.config_file.clone());
    if !path.is_empty() {
        let path = PathBuf::from(OsString::from_vec(path));
        watched(&path, |pools| pools.look(Instant::now(), false));
    }
}

fn watched<R>(path: &Path, work: impl FnOnce(&mut Watched) -> R) -> R {
    POOLS.with_borrow_mut(|pools| match pools {
        Some(watched) if watched.path() == path => work(watched),
        _ => work(pools.insert(Watched::new(path))),
    })
}

/// Joins what the processes of this host share; trouble is logged once per process.
pub(crate) fn join() {
    let sharing = ini::read(|values| values.sharing);
    if let Err(error) = shared::start(sharing, &state_dir()) {
        errors::log_of(format!("memring: {error}"));
    }
}

/// Where the files lie that the processes of a user share.
pub(crate) fn state_dir() -> PathBuf {
    let dir = ini::read(|values| values.state_dir.clone());
    if dir.is_empty() {
        shared::default_dir()
    } else {
        PathBuf::from(OsString::from_vec(dir))
    }
}

/// How long the end of a request may go on for the host's sake.
const SLICE: Duration = Duration::from_millis(5);

/// How long copies that follow may wait for further ones.
pub(crate) fn copy_hold() -> Duration {
    let milliseconds = match ini::read(|values| values.copy_hold) {
        // A script may sleep for hours before it calls again; a request ends.
        -1 => u64::from(!server::is_script()),
        other => u64::try_from(other).unwrap_or(0),
    };
    Duration::from_millis(milliseconds)
}

/// What is done at the end of a request: copies that follow the answer, probes of nodes that
/// failed, a piece of what returned nodes missed.
pub(crate) fn after_request() {
    later::after_request();
    probe::carry_on(SLICE);
    slices::carry_on(SLICE);
}

/// The end of the process or thread: copies that follow the answer have followed, and nobody
/// waits for a pass of ours.
pub(crate) fn end() {
    later::end();
    slices::end();
}

/// Number of persistent nodes known to this thread.
pub(crate) fn len() -> usize {
    with(|nodes| nodes.len())
}
