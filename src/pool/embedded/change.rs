//! One transaction that changes something: items, the order in which they end, and the counts
//! of both stay in step.

use super::store::Store;
use crate::shared::turns::Process;
use heed::types::Bytes;
use heed::{Database, RoTxn, RwTxn};
use std::io::Write;

/// Ended items that one change takes along at most.
const SWEEP: usize = 2;
/// Items that make room for one change at most.
pub(super) const ROOM: usize = 1000;
/// The share of the cap that one value may take.
const VALUE_SHARE: u64 = 8;

pub(super) type Table = Database<Bytes, Bytes>;

/// memcached's words.
pub(super) const FULL: &str = "out of memory storing object";
const TOO_LARGE: &str = "object too large for cache";

/// What stands before a value.
#[derive(Clone, Copy)]
pub(super) struct Head {
    pub(super) end: u64,
    pub(super) cas: u64,
    pub(super) flags: u32,
}

/// An item as it lies in the map, while its transaction lasts.
pub(super) struct Found<'a> {
    pub(super) head: Head,
    pub(super) data: &'a [u8],
}

/// Why a change did not come about.
pub(super) enum Trouble {
    Lmdb(heed::Error),
    Said(&'static str),
    /// More has to be taken away than one change may: it is undone with all it took away.
    Room,
}

impl From<heed::Error> for Trouble {
    fn from(error: heed::Error) -> Trouble {
        Trouble::Lmdb(error)
    }
}

/// What is counted, as it is stored.
#[derive(Clone, Copy, Default)]
pub(super) struct Counts {
    pub(super) cas: u64,
    pub(super) items: u64,
    pub(super) bytes: u64,
    pub(super) evictions: u64,
    pub(super) expired: u64,
}

/// One transaction that changes something.
pub(super) struct Change<'s> {
    pub(super) store: &'s Store,
    pub(super) txn: RwTxn<'s>,
    pub(super) counts: Counts,
    pub(super) now: u64,
    pub(super) changed: bool,
}

impl Change<'_> {
    /// What stands before the value of `key`, if it has one that has not ended.
    pub(super) fn head(&self, key: &[u8]) -> Result<Option<Head>, Trouble> {
        let found = self.store.items.get(&self.txn, key)?.and_then(found);
        Ok(found
            .map(|found| found.head)
            .filter(|head| !head.is_over(self.now)))
    }

    /// The value of `key`.
    pub(super) fn data(&self, key: &[u8]) -> Result<Vec<u8>, Trouble> {
        let found = self.store.items.get(&self.txn, key)?.and_then(found);
        Ok(found.map(|found| found.data.to_vec()).unwrap_or_default())
    }

    /// Stores an item anew, in place of what there is.
    pub(super) fn store(
        &mut self,
        key: &[u8],
        end: u64,
        flags: u32,
        parts: &[&[u8]],
    ) -> Result<(), Trouble> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        if len as u64 > self.store.size / VALUE_SHARE {
            return Err(Trouble::Said(TOO_LARGE));
        }
        self.remove(key)?;
        let need = cost(key.len(), len);
        for _ in 0..ROOM {
            if self.counts.bytes + need <= self.store.size {
                break;
            }
            self.evict(1)?;
        }
        if self.counts.bytes + need > self.store.size {
            return Err(Trouble::Room);
        }
        self.counts.cas += 1;
        let cas = self.counts.cas;
        self.insert(key, Head { end, cas, flags }, parts)
    }

    /// Adds an item that is not there.
    pub(super) fn insert(
        &mut self,
        key: &[u8],
        head: Head,
        parts: &[&[u8]],
    ) -> Result<(), Trouble> {
        let len: usize = parts.iter().map(|part| part.len()).sum();
        let items = self.store.items;
        items.put_reserved(&mut self.txn, key, HEAD + len, |room| {
            room.write_all(&head.end.to_le_bytes())?;
            room.write_all(&head.cas.to_le_bytes())?;
            room.write_all(&head.flags.to_le_bytes())?;
            parts.iter().try_for_each(|part| room.write_all(part))
        })?;
        self.store.ends.put(&mut self.txn, &head.place(), key)?;
        self.counts.items += 1;
        self.counts.bytes += cost(key.len(), len);
        self.changed = true;
        Ok(())
    }

    /// Takes an item away, ended or not.
    pub(super) fn remove(&mut self, key: &[u8]) -> Result<(), Trouble> {
        let found = self.store.items.get(&self.txn, key)?.and_then(found);
        let Some((head, len)) = found.map(|found| (found.head, found.data.len())) else {
            return Ok(());
        };
        self.store.ends.delete(&mut self.txn, &head.place())?;
        self.store.items.delete(&mut self.txn, key)?;
        self.counts.items = self.counts.items.saturating_sub(1);
        self.counts.bytes = self.counts.bytes.saturating_sub(cost(key.len(), len));
        self.changed = true;
        Ok(())
    }

    /// Takes away up to `count` items that end first.
    pub(super) fn evict(&mut self, count: usize) -> Result<(), Trouble> {
        for _ in 0..count {
            let Some((end, key)) = self.first()? else {
                return Ok(());
            };
            self.remove(&key)?;
            match end <= self.now {
                true => self.counts.expired += 1,
                false => self.counts.evictions += 1,
            }
        }
        Ok(())
    }

    /// Takes away a few items that have ended.
    pub(super) fn sweep(&mut self) -> Result<(), Trouble> {
        self.drop_ended(SWEEP).map(drop)
    }

    /// Takes away up to so many items that have ended; false when there was none.
    pub(super) fn drop_ended(&mut self, count: usize) -> Result<bool, Trouble> {
        for done in 0..count {
            match self.first()? {
                Some((end, _)) if end <= self.now => self.evict(1)?,
                _ => return Ok(done > 0),
            }
        }
        Ok(true)
    }

    /// The item that ends first, and when.
    fn first(&self) -> Result<Option<(u64, Vec<u8>)>, Trouble> {
        let first = self.store.ends.first(&self.txn)?;
        Ok(first.map(|(place, key)| {
            let end = place
                .first_chunk()
                .map_or(0, |end| u64::from_be_bytes(*end));
            (end, key.to_vec())
        }))
    }

    /// Whose the turn on `key` is.
    pub(super) fn turn(&self, key: &[u8]) -> Result<Option<Vec<u8>>, Trouble> {
        let Some(bytes) = self.store.turns.get(&self.txn, key)? else {
            return Ok(None);
        };
        let number = |at| word(bytes, at).unwrap_or_default();
        let process = Process::of_words([number(1), number(2)]);
        let over = number(0) <= self.now || process != self.store.process && process.is_gone();
        Ok((!over).then(|| bytes.get(24..).unwrap_or_default().to_vec()))
    }
}

/// Bytes before a value.
const HEAD: usize = 20;

impl Head {
    pub(super) fn is_over(self, now: u64) -> bool {
        self.end != 0 && self.end <= now
    }

    /// Where the item stands among those that end.
    fn place(self) -> [u8; 16] {
        let end = match self.end {
            0 => u64::MAX,
            end => end,
        };
        (u128::from(end) << 64 | u128::from(self.cas)).to_be_bytes()
    }
}

/// An item as it is stored; `None` for what is none.
pub(super) fn found(bytes: &[u8]) -> Option<Found<'_>> {
    let (head, data) = bytes.split_first_chunk::<HEAD>()?;
    Some(Found {
        head: Head {
            end: word(head, 0)?,
            cas: word(head, 1)?,
            flags: u32::from_le_bytes(*head.last_chunk()?),
        },
        data,
    })
}

/// The little-endian number in place `at`.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    let bytes = bytes.get(at * 8..)?.first_chunk()?;
    Some(u64::from_le_bytes(*bytes))
}

/// What an item takes, bytes, about: entries of both tables in pages that are two thirds full;
/// of a value that does not fit into a page with another one, whole pages.
fn cost(key: usize, len: usize) -> u64 {
    const PAGE: usize = 4096;
    /// Both entries' own words, and the second one's key.
    const ENTRIES: usize = 16 + 16 + 16;
    let (beside, pages) = match HEAD + len + key > PAGE / 2 - 16 {
        true => (ENTRIES + 2 * key, (16 + HEAD + len).next_multiple_of(PAGE)),
        false => (ENTRIES + 2 * key + HEAD + len, 0),
    };
    (beside * 3 / 2 + pages) as u64
}

impl Counts {
    pub(super) fn load(info: Table, txn: &RoTxn<'_>) -> heed::Result<Counts> {
        let bytes = info.get(txn, b"counts")?.unwrap_or_default();
        let number = |at| word(bytes, at).unwrap_or_default();
        Ok(Counts {
            cas: number(0),
            items: number(1),
            bytes: number(2),
            evictions: number(3),
            expired: number(4),
        })
    }

    pub(super) fn save(self, info: Table, txn: &mut RwTxn<'_>) -> heed::Result<()> {
        let Counts {
            cas,
            items,
            bytes,
            evictions,
            expired,
        } = self;
        let words = [cas, items, bytes, evictions, expired].map(u64::to_le_bytes);
        info.put(txn, b"counts", &words.concat())
    }
}
