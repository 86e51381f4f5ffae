//! Sessions on copies while other workers still keep them in mode single, or do so again: as
//! pecl-memcache does on the same nodes, or in a pool of its own (`migrate_from`).
//!
//! ```text
//!   read    pecl's lock and place, then ours          who wrote last? an item at pecl's place
//!   close   ours, then pecl's place, with our mark    without our mark is an old worker's: adopted
//! ```
//!
//! Pecl's lock is taken first and given back last, so old and new workers exclude each other.
//! The mark is a bit of the item's flags that pecl neither sets nor looks at; on Redis, whose
//! strings have no flags, a key beside it that says which bytes it is of. Our own item
//! says in a note behind its data that pecl's place has it, too: where every one of
//! pecl's nodes then says that there is nothing, an old worker destroyed the session.
//!
//! It is no mode to stay in: when a node fails, pecl's place keeps only what pecl promises.
//! On the same nodes both places need names of their own, which is what the pool's `key_prefix`
//! is for.

use super::fenced::{Fenced, NOTE, plain};
use super::words::MARK;
use super::{Sessions, Store};
use crate::error::{Error, Kind};

/// The sessions of one save_path in both places, from open to close.
#[derive(Debug)]
pub struct Migrating {
    old: Sessions,
    new: Fenced,
    held: Option<Held>,
    made: Option<Vec<u8>>,
    /// Why a validation could not tell, for the read of the same id that follows.
    unsure: Option<(Vec<u8>, Error)>,
}

/// The turns on one session.
#[derive(Debug)]
struct Held {
    id: Vec<u8>,
    data: Option<Vec<u8>>,
    /// The two places differ: a touch is not enough.
    differs: bool,
}

impl Migrating {
    /// Sessions that `old` keeps as pecl does and `new` on copies.
    pub fn new(mut old: Sessions, new: Fenced) -> Migrating {
        old.mark = MARK;
        Migrating {
            old,
            new: new.noting(),
            held: None,
            made: None,
            unsure: None,
        }
    }

    fn open(&mut self, id: &[u8], turn: bool) -> Result<Option<Vec<u8>>, Error> {
        self.release();
        let asked = if turn {
            self.old.take(id)
        } else {
            self.old.look(id)
        };
        let old = match asked {
            Ok(found) => found,
            // Nobody to ask, but nobody can have stored anything either.
            Err(error) if error.kind() != Kind::Locked && self.made.as_deref() == Some(id) => None,
            Err(error) => {
                self.release();
                return Err(error);
            }
        };
        let marked = self.old.marked;
        let ours = match self.new.open(id, turn) {
            Ok(found) => found,
            Err(error) => {
                self.release();
                return Err(error);
            }
        };
        let ours = ours.as_deref().map(plain);
        let (data, differs) = match (old, ours) {
            (Some(old), _) if !marked => (Some(old), true),
            (Some(_), Some((ours, _))) => (Some(ours.to_vec()), false),
            (None, Some((_, true))) if self.old.proven => {
                // Or it would live again when nobody asks pecl's place any more.
                self.new.destroy(id)?;
                (None, true)
            }
            (None, Some((ours, _))) => (Some(ours.to_vec()), true),
            // It was destroyed, and pecl's place missed that; without a tombstone our copies ended,
            // while who only touches sessions prolonged pecl's.
            (Some(old), None) if !self.new.is_destroyed => (Some(old), true),
            (Some(_) | None, None) => (None, true),
        };
        if turn {
            self.held = Some(Held {
                id: id.to_vec(),
                data: data.clone(),
                differs,
            });
        }
        Ok(data)
    }

    fn holds(&self, id: &[u8]) -> Option<&Held> {
        self.held.as_ref().filter(|held| held.id == id)
    }

    /// Makes sure that both turns are ours.
    fn hold(&mut self, id: &[u8]) -> Result<(), Error> {
        if self.holds(id).is_none() {
            self.open(id, true)?;
        }
        Ok(())
    }
}

impl Store for Migrating {
    fn made(&mut self, id: &[u8]) {
        self.made = Some(id.to_vec());
        self.old.made(id);
        self.new.made(id);
    }

    fn lives(&mut self, seconds: u32) {
        self.new.lives(seconds);
    }

    fn read(&mut self, id: &[u8], turn: bool) -> Result<Vec<u8>, Error> {
        if let Some(held) = self.holds(id) {
            return Ok(held.data.clone().unwrap_or_default());
        }
        match self.unsure.take() {
            Some((asked, error)) if asked == id => Err(error),
            _ => Ok(self.open(id, turn)?.unwrap_or_default()),
        }
    }

    fn exists(&mut self, id: &[u8], turn: bool) -> bool {
        if self.holds(id).is_some() {
            return true;
        }
        let own = self.made.as_deref() == Some(id);
        // session_create_id() asks for an id made at random, while the turn on the running session is ours.
        if own {
            return false;
        }
        if self.held.is_some() {
            return self.old.look(id).is_ok_and(|found| found.is_some())
                || self.new.open(id, false).is_ok_and(|found| found.is_some());
        }
        match self.open(id, turn) {
            Ok(Some(_)) => true,
            Ok(None) => {
                self.release();
                false
            }
            Err(error) => {
                self.unsure = Some((id.to_vec(), error));
                true
            }
        }
    }

    fn write(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        self.hold(id)?;
        let noted = [data, NOTE].concat();
        let written = match self.new.write(id, &noted, lifetime) {
            Ok(()) => self.old.write(id, data, lifetime),
            Err(error) => Err(error),
        };
        self.release();
        written
    }

    fn touch(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        self.hold(id)?;
        if self.holds(id).is_none_or(|held| held.differs) {
            return self.write(id, data, lifetime);
        }
        let touched = match self.new.touch(id, data, lifetime) {
            Ok(()) => self.old.touch(id, data, lifetime),
            Err(error) => Err(error),
        };
        self.release();
        touched
    }

    fn destroy(&mut self, id: &[u8]) -> Result<(), Error> {
        self.hold(id)?;
        let ours = self.new.destroy(id);
        let theirs = self.old.destroy(id);
        self.release();
        ours.and(theirs)
    }

    fn release(&mut self) {
        self.held = None;
        self.new.release();
        self.old.release();
    }

    fn evicting(&mut self) -> Vec<String> {
        self.new.evicting()
    }

    fn take_log(&mut self) -> Vec<String> {
        let mut log = self.new.take_log();
        log.append(&mut self.old.take_log());
        log
    }

    fn is_behind(&self) -> bool {
        let unsure = self.unsure.as_ref();
        unsure.is_some_and(|(_, error)| error.kind() == Kind::Epoch)
    }
}
