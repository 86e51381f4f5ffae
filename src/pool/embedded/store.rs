//! Items on LMDB: what memcached's commands mean there, who has which turn, and what has to go.
//!
//! ```text
//!   items  key ─► end · cas · flags · value
//!   ends   end · cas ─► key       in the order in which they end: what never does comes last,
//!                                 the oldest first
//!   turns  key ─► end · process · owner
//!   info   "format" ─► 1, "counts" ─► items, bytes, evictions, …
//! ```
//!
//! Times are milliseconds of this host's clock since 1970, 0 for never; numbers of items are
//! little-endian, those of `ends` big-endian, since LMDB sorts bytes. A command that changes
//! something is one transaction, so it happened whole or not at all.
//!
//! Room is counted in what items take, rounded up, and not left to LMDB's map: a map that is
//! full has no page left to delete in either. The map is larger than the cap, and when it is
//! full for all that (or the disk is), items go before the command is tried again: only ended ones
//! where others filled the disk, since what they give back is little.

use super::Held;
use super::change::{Change, Counts, FULL, Found, Head, ROOM, Table, Trouble, found, word};
use crate::error::{Error, Kind};
use crate::shared::lmdb;
use crate::shared::turns::Process;
use crate::transport;
use crate::wire::Store as Verb;
use crate::wire::redis::Over;
use heed::{Env, MdbError, RoTxn, RwTxn, WithTls};
use rustix::fs::{StatVfs, statvfs};
use rustix::io::Errno;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

/// The shape of the database; another number is another shape.
const FORMAT: u64 = 1;
/// Threads of all processes that may read at the same time; 64 bytes each in the lock file.
pub(super) const READERS: u32 = 4096;
/// Beside twice the cap, for small caps: what a change needs until old pages are free, bytes.
const SPARE: u64 = 16 << 20;
/// How often a change is tried when the map or the disk is full.
const TRIES: usize = 4;
/// A disk with less room is full, bytes.
const CRAMPED: u64 = 1 << 20;
/// A relative expiry is no longer than this, seconds (memcached, realtime()).
const RELATIVE_MAX: u32 = 60 * 60 * 24 * 30;

/// The database of one user in one directory.
pub(super) struct Store {
    env: Env,
    pub(super) items: Table,
    pub(super) ends: Table,
    pub(super) turns: Table,
    pub(super) info: Table,
    /// What items may take, bytes: what was written, and a third of the disk at most.
    pub(super) size: u64,
    written: u64,
    file: PathBuf,
    pub(super) process: Process,
}

/// What is to be stored.
pub(super) struct Put<'a> {
    pub(super) key: &'a [u8],
    pub(super) flags: u32,
    pub(super) end: u64,
    pub(super) value: &'a [u8],
}

/// What became of a store.
pub(super) enum Kept {
    Done,
    NotStored,
    Exists,
    NotFound,
}

/// What became of a counter.
pub(super) enum Count {
    Now(u64),
    Missing,
    NoNumber,
}

/// What became of a session's close.
pub(super) enum Closed {
    Stored,
    Overtaken,
}

/// The end that a client's `ttl` means.
///
/// What does not fit into 31 bits is a negative number in memcached, and has ended already.
pub(super) fn end_of(ttl: u32) -> u64 {
    match ttl {
        0 => 0,
        1..=RELATIVE_MAX => transport::clock() + u64::from(ttl) * 1000,
        _ if ttl > i32::MAX as u32 => 1,
        _ => u64::from(ttl) * 1000,
    }
}

impl Store {
    /// Opens `file`, which is checked to be ours.
    pub(super) fn open(file: &Path, size: u64) -> Result<Store, Error> {
        let refuse = |cause: String, hint: &str| {
            Error::new(Kind::State, format!("{}: {cause}", file.display())).hint(hint.to_owned())
        };
        let failed = |error: heed::Error| match error {
            heed::Error::Mdb(
                MdbError::Invalid | MdbError::Corrupted | MdbError::VersionMismatch,
            ) => refuse(
                format!("it is no database of this version of LMDB ({error})"),
                "Remove it and its -lock file while no PHP runs, or name another directory",
            ),
            _ => refuse(
                error.to_string(),
                "Has the disk room, and may this user lock files there?",
            ),
        };
        // A database that fills its disk could not even drop what it has, which takes pages, too.
        let disk = file.parent().and_then(|directory| statvfs(directory).ok());
        let disk = disk.map_or(u64::MAX, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        let limit = size.min(disk / 3);
        let map = limit.saturating_mul(2).saturating_add(SPARE);
        let map = map.min(disk / 10 * 9);
        let map = usize::try_from(map.next_multiple_of(1 << 16)).unwrap_or(usize::MAX);
        let env = lmdb::open(file, map, READERS).map_err(failed)?;
        env.clear_stale_readers().map_err(failed)?;
        let mut txn = env.write_txn().map_err(failed)?;
        let main: Table = env.create_database(&mut txn, None).map_err(failed)?;
        let empty = main.is_empty(&txn).map_err(failed)?;
        let info: Option<Table> = env.open_database(&txn, Some("info")).map_err(failed)?;
        let format = match info {
            Some(info) => {
                let found = info.get(&txn, b"format").map_err(failed)?;
                found.map_or(Some(0), |bytes| word(bytes, 0))
            }
            None => empty.then_some(FORMAT),
        };
        if format != Some(FORMAT) {
            let cause = match format {
                Some(number @ FORMAT..) => format!("its format {number} is newer than {FORMAT}"),
                _ => "it is a database of another program".to_owned(),
            };
            return Err(refuse(
                cause,
                "Use the version of memring that made it, or name another directory",
            ));
        }
        let table = |txn: &mut RwTxn<'_>, name| env.create_database(txn, Some(name));
        let items = table(&mut txn, "items").map_err(failed)?;
        let ends = table(&mut txn, "ends").map_err(failed)?;
        let turns = table(&mut txn, "turns").map_err(failed)?;
        let info: Table = table(&mut txn, "info").map_err(failed)?;
        info.put(&mut txn, b"format", &FORMAT.to_le_bytes())
            .map_err(failed)?;
        txn.commit().map_err(failed)?;
        Ok(Store {
            env,
            items,
            ends,
            turns,
            info,
            written: size,
            size: limit,
            file: file.to_owned(),
            process: Process::own(),
        })
    }

    /// The size it was opened with, bytes.
    pub(super) fn written(&self) -> u64 {
        self.written
    }

    /// Shows each of `keys` that is there, in their order.
    pub(super) fn read<'k>(
        &self,
        keys: impl Iterator<Item = &'k [u8]>,
        mut show: impl FnMut(&[u8], Found<'_>),
    ) -> Result<(), String> {
        let now = transport::clock();
        let txn = self.look().map_err(|error| self.told(error.into()))?;
        for key in keys.filter(|key| !key.is_empty()) {
            let bytes = self.items.get(&txn, key);
            let bytes = bytes.map_err(|error| self.told(error.into()))?;
            if let Some(found) = bytes
                .and_then(found)
                .filter(|found| !found.head.is_over(now))
            {
                show(key, found);
            }
        }
        Ok(())
    }

    /// A view of what is committed; a reader that was killed makes room for this one.
    fn look(&self) -> heed::Result<RoTxn<'_, WithTls>> {
        match self.env.read_txn() {
            Err(heed::Error::Mdb(MdbError::ReadersFull)) => {
                self.env.clear_stale_readers()?;
                self.env.read_txn()
            }
            txn => txn,
        }
    }

    /// One of the storing commands.
    pub(super) fn put(&self, verb: Verb, cas: u64, put: &Put<'_>) -> Result<Kept, String> {
        self.change(|change| {
            let there = change.head(put.key)?;
            match (verb, there) {
                (Verb::Add, Some(_)) | (Verb::Replace | Verb::Append | Verb::Prepend, None) => {
                    Ok(Kept::NotStored)
                }
                (Verb::Cas, None) => Ok(Kept::NotFound),
                (Verb::Cas, Some(head)) if head.cas != cas => Ok(Kept::Exists),
                (Verb::Append | Verb::Prepend, Some(head)) => {
                    let old = change.data(put.key)?;
                    let parts: [&[u8]; 2] = match verb {
                        Verb::Append => [&old, put.value],
                        _ => [put.value, &old],
                    };
                    change.store(put.key, head.end, head.flags, &parts)?;
                    Ok(Kept::Done)
                }
                _ => {
                    change.store(put.key, put.end, put.flags, &[put.value])?;
                    Ok(Kept::Done)
                }
            }
        })
        .inspect_err(|_| {
            // As memcached does (process_update_command): better nothing than the old value.
            if verb == Verb::Set {
                let _ = self.delete(put.key);
            }
        })
    }

    /// Takes an item away; was there one?
    pub(super) fn delete(&self, key: &[u8]) -> Result<bool, String> {
        self.change(|change| {
            let there = change.head(key)?.is_some();
            change.remove(key)?;
            Ok(there)
        })
    }

    /// Gives an item another end, and shows it; is there one?
    pub(super) fn touch(
        &self,
        key: &[u8],
        end: u64,
        show: impl FnOnce(Found<'_>),
    ) -> Result<bool, String> {
        let touched = self.change(|change| {
            let Some(head) = change.head(key)? else {
                return Ok(None);
            };
            let data = change.data(key)?;
            let head = Head { end, ..head };
            change.remove(key)?;
            change.insert(key, head, &[&data])?;
            Ok(Some((head, data)))
        })?;
        let is_there = touched.is_some();
        if let Some((head, data)) = touched {
            show(Found { head, data: &data });
        }
        Ok(is_there)
    }

    /// Counts up or down, with memcached's 64 bits: round upwards, to 0 downwards.
    pub(super) fn count(&self, key: &[u8], up: bool, delta: u64) -> Result<Count, String> {
        self.change(|change| {
            let Some(head) = change.head(key)? else {
                return Ok(Count::Missing);
            };
            let old = change.data(key)?;
            // memcached leaves blanks behind a number that became shorter: values brought over have them.
            let text = std::str::from_utf8(&old).unwrap_or_default();
            let text = text.trim_end_matches(' ');
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let Some(number) = text.parse::<u64>().ok().filter(|_| digits) else {
                return Ok(Count::NoNumber);
            };
            let number = match up {
                true => number.wrapping_add(delta),
                false => number.saturating_sub(delta),
            };
            let mut text = itoa::Buffer::new();
            change.store(key, head.end, head.flags, &[text.format(number).as_bytes()])?;
            Ok(Count::Now(number))
        })
    }

    /// Takes the turn on `key` for `seconds`, unless somebody else has it.
    ///
    /// A turn is over when its time is, or when the process that took it is gone.
    pub(super) fn turn(&self, key: &[u8], owner: &[u8], seconds: u64) -> Result<bool, String> {
        self.change(|change| {
            if change.turn(key)?.is_some_and(|other| other != owner) {
                return Ok(false);
            }
            let end = change.now.saturating_add(seconds.saturating_mul(1000));
            let [name, space] = self.process.words();
            let numbers = [end, name, space].map(u64::to_le_bytes).concat();
            let turn = [&numbers, owner].concat();
            // Nobody gives back the turns of who was killed: who takes one looks at the next.
            let next = self.turns.get_greater_than(&change.txn, key)?;
            let next = next.filter(|(_, bytes)| word(bytes, 0).is_none_or(|end| end <= change.now));
            if let Some(key) = next.map(|(key, _)| key.to_vec()) {
                self.turns.delete(&mut change.txn, &key)?;
            }
            self.turns.put(&mut change.txn, key, &turn)?;
            change.changed = true;
            Ok(true)
        })
    }

    /// Gives the turn on `key` back; false when it is not `owner`'s.
    pub(super) fn give(&self, key: &[u8], owner: &[u8]) -> Result<bool, String> {
        self.change(|change| {
            let own = change.turn(key)?.is_some_and(|other| other == owner);
            if own {
                self.turns.delete(&mut change.txn, key)?;
                change.changed = true;
            }
            Ok(own)
        })
    }

    /// Stores a session and gives its turn back; as a Redis does (`wire::redis::scripts`).
    pub(super) fn close(&self, put: &Put<'_>, owner: &[u8], over: Over) -> Result<Closed, String> {
        let closed = self.change(|change| {
            match change.turn(put.key)? {
                Some(other) if other != owner => return Ok(Closed::Overtaken),
                Some(_) => {}
                None => {
                    let cas = change.head(put.key)?.map_or(0, |head| head.cas);
                    let same = match over {
                        Over::Whatever => true,
                        Over::Nothing => cas == 0,
                        Over::Seen(seen) => cas == seen,
                    };
                    if !same {
                        return Ok(Closed::Overtaken);
                    }
                }
            }
            change.store(put.key, put.end, put.flags, &[put.value])?;
            self.turns.delete(&mut change.txn, put.key)?;
            Ok(Closed::Stored)
        });
        if closed.is_err() {
            // What is refused gives the turn back, too; a second failure has the same cause.
            let _ = self.give(put.key, owner);
        }
        closed
    }

    /// Takes all items away. Turns stay: whose it is does not change.
    pub(super) fn flush(&self) -> Result<(), String> {
        self.change(|change| {
            self.items.clear(&mut change.txn)?;
            self.ends.clear(&mut change.txn)?;
            (change.counts.items, change.counts.bytes) = (0, 0);
            change.changed = true;
            Ok(())
        })
    }

    /// Begins to count evictions anew.
    pub(super) fn forget_counts(&self) -> Result<(), String> {
        self.change(|change| {
            (change.counts.evictions, change.counts.expired) = (0, 0);
            change.changed = true;
            Ok(())
        })
    }

    /// What is kept.
    pub(super) fn held(&self) -> Result<Held, String> {
        let counts = self.look().and_then(|txn| Counts::load(self.info, &txn));
        let counts = counts.map_err(|error| self.told(error.into()))?;
        Ok(Held {
            file: self.file.clone(),
            size: self.size,
            items: counts.items,
            bytes: counts.bytes,
            evictions: counts.evictions,
            expired: counts.expired,
        })
    }

    /// The same to be told, under memcached's names where it has some.
    pub(super) fn stats(&self) -> Result<Vec<(&'static str, String)>, String> {
        let held = self.held()?;
        let file_bytes = self.env.real_disk_size().unwrap_or_default();
        Ok(vec![
            ("pid", std::process::id().to_string()),
            ("time", (transport::clock() / 1000).to_string()),
            ("version", env!("CARGO_PKG_VERSION").to_owned()),
            ("engine", "embedded".to_owned()),
            ("curr_items", held.items.to_string()),
            ("bytes", held.bytes.to_string()),
            ("limit_maxbytes", held.size.to_string()),
            ("evictions", held.evictions.to_string()),
            ("expired", held.expired.to_string()),
            ("file", held.file.display().to_string()),
            ("file_bytes", file_bytes.to_string()),
        ])
    }

    /// Runs `work` in one transaction, and makes room for it where there is none.
    fn change<R>(
        &self,
        mut work: impl FnMut(&mut Change<'_>) -> Result<R, Trouble>,
    ) -> Result<R, String> {
        let mut tries = 0;
        while tries < TRIES {
            match self.attempt(&mut work) {
                Err(Trouble::Room) => {
                    let evict = |change: &mut Change<'_>| {
                        let before = change.counts.items;
                        change.evict(ROOM)?;
                        Ok(change.counts.items < before)
                    };
                    match self.attempt(&mut { evict }) {
                        Ok(true) => {}
                        Ok(false) => break,
                        Err(error) => return Err(self.told(error)),
                    }
                }
                Err(Trouble::Lmdb(error)) if self.is_full(&error) => {
                    tries += 1;
                    // A reader that was killed keeps old pages from being used again.
                    let cleared = self.env.clear_stale_readers();
                    cleared.map_err(|error| self.told(error.into()))?;
                    // A disk that others filled is no reason to lose what has not ended.
                    let crowded = matches!(error, heed::Error::Io(_)) && self.is_crowded();
                    let mut evict = |change: &mut Change<'_>| match crowded {
                        true => change.drop_ended(ROOM / 10),
                        false => change.evict(ROOM / 10).map(|()| true),
                    };
                    match self.attempt(&mut evict) {
                        Ok(true) => {}
                        Ok(false) => return Err(self.told(error.into())),
                        Err(error) => return Err(self.told(error)),
                    }
                }
                Ok(done) => return Ok(done),
                Err(error) => return Err(self.told(error)),
            }
        }
        Err(self.told(Trouble::Said(FULL)))
    }

    fn attempt<R>(
        &self,
        work: &mut impl FnMut(&mut Change<'_>) -> Result<R, Trouble>,
    ) -> Result<R, Trouble> {
        let txn = self.env.write_txn()?;
        let counts = Counts::load(self.info, &txn)?;
        let mut change = Change {
            store: self,
            txn,
            counts,
            now: transport::clock(),
            changed: false,
        };
        let done = work(&mut change)?;
        if change.changed {
            change.sweep()?;
            let Change {
                mut txn, counts, ..
            } = change;
            counts.save(self.info, &mut txn)?;
            txn.commit()?;
        }
        Ok(done)
    }

    /// A failure in the words of an answer, with its remedy.
    fn told(&self, trouble: Trouble) -> String {
        let file = self.file.display();
        match trouble {
            Trouble::Said(why) => why.to_owned(),
            Trouble::Room => FULL.to_owned(),
            // LMDB tells readers apart by the numbers of their processes.
            Trouble::Lmdb(heed::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => {
                format!(
                    "{file}: a process of another container has this one's number. Have the containers share their process numbers (a pid namespace), or give each a directory of its own"
                )
            }
            Trouble::Lmdb(error) if self.is_full(&error) => {
                format!("{FULL}. {file} has no room: empty its disk, or write a smaller size=")
            }
            Trouble::Lmdb(heed::Error::Io(error)) => {
                format!("{file}: {error}. Can it be read and written there?")
            }
            Trouble::Lmdb(heed::Error::Mdb(MdbError::MapResized)) => format!(
                "{file} is used with a larger size= elsewhere. Write the same everywhere, and start PHP anew"
            ),
            Trouble::Lmdb(error) => format!(
                "{file}: {error}. Is the file as LMDB left it? Stop PHP and remove it if not"
            ),
        }
    }

    /// Has the map, or the disk, no page left?
    fn is_full(&self, error: &heed::Error) -> bool {
        match error {
            heed::Error::Mdb(MdbError::MapFull | MdbError::TxnFull) => true,
            heed::Error::Io(error) => match error.kind() {
                ErrorKind::StorageFull | ErrorKind::QuotaExceeded => true,
                // Of a write that went halfway LMDB says nothing else (mdb.c, mdb_page_flush).
                _ if error.raw_os_error() == Some(Errno::IO.raw_os_error()) => {
                    let room = |disk: StatVfs| disk.f_bavail.saturating_mul(disk.f_frsize);
                    statvfs(&self.file).is_ok_and(|disk| room(disk) < CRAMPED)
                }
                _ => false,
            },
            _ => false,
        }
    }

    /// Is most of its disk somebody else's, so that little comes free with its items?
    fn is_crowded(&self) -> bool {
        let own = self.env.real_disk_size().unwrap_or_default();
        statvfs(&self.file).is_ok_and(|disk| own < disk.f_blocks.saturating_mul(disk.f_frsize) / 2)
    }
}
