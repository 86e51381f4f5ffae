//! The one door to LMDB: opening a database file is a promise about the file that only its
//! caller can keep.

use heed::{Env, EnvFlags, EnvOpenOptions};
use std::path::Path;

/// Opens the database `file`, with its lock file beside it, into a map of `map` bytes for up to
/// `readers` reading threads of all processes.
///
/// The caller has to have checked that both files belong to this user alone, lie on a local
/// file system and are not open in this process; they must not be cut off while it is open.
///
/// # Errors
/// As LMDB's, or the operating system's.
pub(crate) fn open(file: &Path, map: usize, readers: u32) -> Result<Env, heed::Error> {
    let mut options = EnvOpenOptions::new();
    options.map_size(map).max_readers(readers).max_dbs(4);
    // SAFETY: neither flag weakens what LMDB guarantees to this process or to others: the file
    // is not a directory of its own, and the last commit before a crash of the machine may be
    // missing, while the database stays whole (lmdb.h, MDB_NOMETASYNC).
    unsafe { options.flags(EnvFlags::NO_SUB_DIR | EnvFlags::NO_META_SYNC) };
    // SAFETY: the map is read-only, and the file is written by LMDB alone: it is this user's
    // (0600, owner checked, no link followed, see `embedded`), so that others cannot change it.
    // It is not open in this process, which heed checks again by its path; a forked child
    // closes what it inherited before it opens anew (`embedded::connect`).
    unsafe { options.open(file) }
}
