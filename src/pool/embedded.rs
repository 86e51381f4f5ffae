//! A node without a server: what is said to it is carried out in this process, on an LMDB
//! database that all workers of the host share.
//!
//! ```text
//!   Lane ─► transport::Socket::Own ─► Wire ─► words (classic, and a session's) ─► store
//!                 ▲                                                                │
//!                 └────────── answers, as a memcached words them ◄────── LMDB ◄────┘
//! ```
//!
//! Every layer above sees a connection that answers at once, so nothing of what calls,
//! sessions and their promises are made of exists a second time.
//!
//! A process opens a database once and keeps it open: LMDB's locks are the process's, and
//! closing one of two would drop them. A forked child may not use what it inherited; it closes
//! that first (which touches nothing of its parent's: readers and locks carry process ids) and
//! then opens its own. Connections hold on to the database weakly, so that nothing keeps an
//! inherited one open.
//!
//! What a crash costs: of a process nothing, since a commit is in the kernel's hands before it
//! is acknowledged, and the lock of a writer that was killed is taken over (robust mutexes);
//! of the machine the last commit at most, since data are written through before what points
//! to them (`MDB_NOMETASYNC`). On a disk a write waits for the disk, in `/dev/shm` for nothing.

mod change;
mod file;
mod store;
mod words;

use crate::error::{Error, Kind};
use crate::shared;
use crate::transport::Carrier;
use rustix::io::Errno;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use store::Store;

/// A database open in this process.
struct Known {
    /// The process that opened it.
    generation: u64,
    file: PathBuf,
    /// Device and inode of the file when it was opened.
    place: (u64, u64),
    store: Arc<Store>,
}

static OPEN: Mutex<Vec<Known>> = Mutex::new(Vec::new());

/// Opens the database of this user in `directory`, which may hold `size` bytes of items.
///
/// # Errors
/// `State`, with the remedy: no such directory, one that cannot be written or that others may
/// change; a file that is a link, another user's or open to others; a network file system;
/// a database of another program, of a newer version, or open with another size.
pub fn connect(directory: &Path, size: u64) -> Result<Box<dyn Carrier>, Error> {
    let own = shared::generation();
    let mut known = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    known.retain(|known| known.generation == own);
    let (file, place) = file::prepare(directory)?;
    // Who removed the file under a running process means a new one.
    known.retain(|known| known.file != file || known.place == place);
    let store = match known.iter().find(|known| known.place == place) {
        Some(known) if known.store.written() == size => Arc::clone(&known.store),
        Some(known) => {
            return Err(Error::new(
                Kind::State,
                format!(
                    "{} is open in this process with size={}, and not {size}",
                    file.display(),
                    known.store.written()
                ),
            )
            .hint("Write the same size= wherever the directory is named"));
        }
        None => {
            file::reserve(&file)?;
            let store = Arc::new(Store::open(&file, size)?);
            known.push(Known {
                generation: own,
                file,
                place,
                store: Arc::clone(&store),
            });
            store
        }
    };
    Ok(Box::new(Wire {
        store: Arc::downgrade(&store),
        buffers: RefCell::default(),
    }))
}

/// What a database keeps.
#[derive(Clone, Debug)]
pub struct Held {
    /// Its file.
    pub file: PathBuf,
    /// What items may take, bytes.
    pub size: u64,
    /// How many there are, ended ones that nobody met since included.
    pub items: u64,
    /// What they take, bytes, about.
    pub bytes: u64,
    /// Items that had to go though they had not ended.
    pub evictions: u64,
    /// Items that went when they had ended.
    pub expired: u64,
}

/// What lies in `directory`; `None` where this process has not opened it.
pub fn kept(directory: &Path) -> Option<Held> {
    let own = shared::generation();
    let real = directory.canonicalize().ok()?;
    let known = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let fits = |known: &&Known| known.generation == own && known.file.parent() == Some(&real);
    let store = Arc::clone(&known.iter().find(fits)?.store);
    drop(known);
    store.held().ok()
}

/// One connection that is none.
struct Wire {
    store: Weak<Store>,
    buffers: RefCell<Buffers>,
}

#[derive(Default)]
struct Buffers {
    /// The beginning of a request.
    asked: Vec<u8>,
    answers: Vec<u8>,
    /// How much of the answers was received.
    received: usize,
}

/// A buffer larger than this is given back, bytes.
const KEEP: usize = 1 << 20;

impl std::fmt::Debug for Wire {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Wire")
    }
}

impl Carrier for Wire {
    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let Some(store) = self.store.upgrade() else {
            return Err(Errno::CONNRESET);
        };
        let mut buffers = self.buffers.borrow_mut();
        let Buffers { asked, answers, .. } = &mut *buffers;
        if asked.is_empty() {
            let used = words::carry_out(&store, bytes, answers);
            asked.extend_from_slice(bytes.get(used..).unwrap_or_default());
        } else {
            asked.extend_from_slice(bytes);
            let used = words::carry_out(&store, asked, answers);
            asked.drain(..used);
            if asked.is_empty() && asked.capacity() > KEEP {
                *asked = Vec::new();
            }
        }
        Ok(())
    }

    fn receive(&self, room: &mut [u8], peek: bool) -> Result<usize, Errno> {
        let mut buffers = self.buffers.borrow_mut();
        let left = buffers.answers.get(buffers.received..).unwrap_or_default();
        let count = left.len().min(room.len());
        if count == 0 {
            return match self.store.strong_count() {
                0 => Ok(0),
                _ => Err(Errno::AGAIN),
            };
        }
        for (to, from) in room.chunks_mut(count).zip(left.chunks(count)).take(1) {
            to.copy_from_slice(from);
        }
        if !peek {
            buffers.received += count;
            if buffers.received == buffers.answers.len() {
                buffers.received = 0;
                buffers.answers.clear();
                if buffers.answers.capacity() > KEEP {
                    buffers.answers = Vec::new();
                }
            }
        }
        Ok(count)
    }
}
