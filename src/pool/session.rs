//! WHO COMES BACK: open, read, write, touch, destroy, in each mode that keeps sessions.
//!
//! | file | what it is |
//! |---|---|
//! | [`single`] | pecl-memcache's way: counters for turns, copies without versions |
//! | [`fenced`] | copies that lose nobody |
//! | [`migrate`] | both places, while hosts move from one to the other |
//! | `words` | what `single` says to a node |

use crate::codec::Compression;
use crate::counters::Counter;
use crate::error::Error;
use crate::shared;
use std::cell::Cell;

pub mod fenced;
pub mod migrate;
pub mod single;
mod words;

pub use single::Sessions;

/// How sessions are kept; read from the settings when a session is opened.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Copies of each session, at least 1 (`memcache.session_redundancy`).
    pub copies: u32,
    /// Life of a turn, seconds; waiting for one ends after twice that (`memcache.lock_timeout`).
    pub lock_timeout: u32,
    /// Probes when looking for the next node (`memcache.max_failover_attempts`).
    pub attempts: u32,
    /// When data are compressed.
    pub compression: Compression,
    /// Most bytes that are unpacked of one session.
    pub most: usize,
}

/// Where sessions are kept, from PHP's open to its close.
pub trait Store {
    /// Notes that `id` was made in this request: nobody can have stored anything under it.
    fn made(&mut self, id: &[u8]);

    /// Notes how long sessions live, seconds: so long a destroyed one has to be remembered.
    fn lives(&mut self, seconds: u32);

    /// The data of session `id`, empty for a new one, and the turn on it.
    ///
    /// With `turn` false (read_and_close) no turn is taken and none waited for.
    ///
    /// # Errors
    /// `Locked` when the turn was not got within the limit; else why nobody can say what
    /// is stored.
    fn read(&mut self, id: &[u8], turn: bool) -> Result<Vec<u8>, Error>;

    /// Is there a session `id`? Absence must be proved: where nobody can say, the answer is
    /// yes, and the read that follows fails. A turn taken on the way is kept for that read,
    /// and given back at once when there is no such session.
    fn exists(&mut self, id: &[u8], turn: bool) -> bool;

    /// Stores session `id` for `lifetime` seconds and gives the turn back.
    ///
    /// # Errors
    /// Why it is not stored.
    fn write(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error>;

    /// Gives unchanged session `id` another `lifetime` seconds, stores it again where it is
    /// missing, and gives the turn back. A new one is stored, though it is empty.
    ///
    /// # Errors
    /// As [`Store::write`].
    fn touch(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error>;

    /// Ends session `id`, and the turn on it.
    ///
    /// # Errors
    /// Why it may live on.
    fn destroy(&mut self, id: &[u8]) -> Result<(), Error>;

    /// Gives the turn back wherever it is still ours; the end of a request must call it.
    fn release(&mut self);

    /// Lines for a log since the last look: nodes that went down or came up.
    fn take_log(&mut self) -> Vec<String>;

    /// A line for each node that throws sessions away when it is full; it asks them.
    fn evicting(&mut self) -> Vec<String>;

    /// Did the last validation end because this host's file is behind the pool?
    fn is_behind(&self) -> bool {
        false
    }
}

/// The lines of [`Store::evicting`], asked for once in the life of a process, when its first
/// session is closed, and as long as no process of this host has shown any.
pub fn evictions(store: &mut dyn Store) -> Vec<String> {
    thread_local! {
        static ASKED: Cell<bool> = const { Cell::new(false) };
    }
    if ASKED.replace(true) || shared::counted(Counter::EvictionWarnings) > 0 {
        return Vec::new();
    }
    let lines = store.evicting();
    if !lines.is_empty() {
        shared::count(Counter::EvictionWarnings);
    }
    lines
}
