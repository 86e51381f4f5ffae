//! A memcached node as a session pool sees it: items with cas values and tokens, and the record.
//!
//! One command at a time, at a given millisecond, exactly as memcached 1.6 carries it out (what
//! is not in its doc/protocol.txt was tried on 1.6.18). Here is no network and no failure but
//! those of memory: the world decides when a command arrives and whether its reply does.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;

use memring_pool::replica::{
    Command, Item, Over, PLACEHOLDER_LIFE, Record, Reply, Stamp, Token, Version, Waiting,
};

use super::random::Random;

/// A session's name. What it is called does not matter here.
pub(super) type Key = u32;

/// What a node keeps under a key.
#[derive(Clone, Debug)]
struct Slot {
    cas: u64,
    stamp: Option<Stamp>,
    data: Arc<[u8]>,
    /// Virtual millisecond from which it is gone.
    expires_at: u64,
    token_taken: bool,
    /// Unlocked and not written since: memcached calls it stale (`X`), and gives its token
    /// to the next reader whether or not he asks for it.
    stale: bool,
}

/// All that a crash takes away and a dump keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    items: BTreeMap<Key, Slot>,
    record: Option<(Record, u64)>,
    /// Since when it waits, where others list nothing.
    note: RefCell<Option<Waiting>>,
    /// The last cas value given out. A restart counts from the start again, a snapshot goes
    /// on from where it was, so cas values of two memory lives do collide.
    last_cas: u64,
}

/// One simulated server.
#[derive(Debug)]
pub(super) struct Node {
    memory: Memory,
    /// The server knows the `E` flag: cas values are versions.
    has_e: bool,
    /// A cas value of 0 in a write or removal stands for "whatever is there". The rivals need it
    /// for their plain set and delete; to our own commands 0 is a cas value nothing has.
    blind: bool,
    /// No memory for anything new in most cases.
    pub(super) full: bool,
    /// What a full node dropped, in whose room the next may go.
    freed: Vec<Version>,
}

/// When what is stored at `time` (milliseconds) for `life` seconds is over: a server's clock has
/// whole seconds (memcached's `current_time`).
fn end(time: u64, life: u32) -> u64 {
    (time / 1000 + u64::from(life)) * 1000
}

impl Node {
    /// An empty server.
    pub(super) fn new(has_e: bool, blind: bool) -> Node {
        Node {
            memory: Memory::default(),
            has_e,
            blind,
            full: false,
            freed: Vec::new(),
        }
    }

    /// Carries out one command at `time`.
    pub(super) fn apply(
        &mut self,
        time: u64,
        key: Key,
        command: &Command,
        random: &mut Random,
    ) -> Reply {
        self.expire(time, key);
        match command {
            Command::ReadRecord => match &self.memory.record {
                Some((record, cas)) => Reply::Record {
                    record: record.clone(),
                    cas: *cas,
                },
                None => Reply::NoRecord,
            },
            Command::AddRecord(record) => {
                // In classic words, which keep what is there (tried).
                if self.no_room(random) {
                    return Reply::Refused;
                }
                if self.memory.record.is_some() {
                    return Reply::NotStored;
                }
                self.put_record(record)
            }
            Command::SetRecord { cas, record } => {
                // In classic words, which keep what is there (tried).
                if self.no_room(random) {
                    return Reply::Refused;
                }
                match &self.memory.record {
                    None => Reply::NotFound,
                    Some((_, current)) if current != cas => Reply::Exists,
                    Some(_) => self.put_record(record),
                }
            }
            Command::DoubtRecord { cas } => {
                let doubted = match &self.memory.record {
                    None => return Reply::NotFound,
                    Some((_, current)) if current != cas => return Reply::Exists,
                    Some((record, _)) => record.doubted(),
                };
                self.put_record(&doubted)
            }
            Command::Read { value, token } => self.read(time, key, *value, *token, random),
            Command::Write {
                over,
                stamp,
                life,
                data,
            } => self.write(time, key, *over, *stamp, *life, data, random),
            Command::Unlock { cas, version, life } => {
                let fresh = self.fresh_cas();
                let has_e = self.has_e;
                let Some(slot) = self.memory.items.get_mut(&key) else {
                    return Reply::NotFound;
                };
                if slot.cas != *cas {
                    return Reply::Exists;
                }
                slot.token_taken = false;
                slot.stale = true;
                slot.cas = if has_e {
                    version.cas_beside(*cas)
                } else {
                    fresh
                };
                if let (true, Some(stamp)) = (has_e, &mut slot.stamp) {
                    stamp.version = *version;
                }
                if let Some(life) = life {
                    slot.expires_at = end(time, *life);
                }
                Reply::Done { cas: slot.cas }
            }
            Command::Touch { life } => {
                // memcached says what was left before.
                let said = self.read(time, key, false, false, random);
                if let Some(slot) = self.memory.items.get_mut(&key) {
                    slot.expires_at = end(time, *life);
                }
                said
            }
            Command::Remove { cas } => match self.memory.items.get(&key) {
                None => Reply::NotFound,
                Some(slot) if slot.cas != *cas && !(self.blind && *cas == 0) => Reply::Exists,
                Some(_) => {
                    self.memory.items.remove(&key);
                    Reply::Done { cas: 0 }
                }
            },
        }
    }

    fn read(
        &mut self,
        time: u64,
        key: Key,
        value: bool,
        token: bool,
        random: &mut Random,
    ) -> Reply {
        if !self.memory.items.contains_key(&key) {
            // A full server makes no placeholder and says EN (tried).
            if !token || self.no_room(random) {
                return Reply::Miss;
            }
            let placeholder = Slot {
                cas: self.fresh_cas(),
                stamp: None,
                data: Arc::from([]),
                expires_at: end(time, PLACEHOLDER_LIFE),
                token_taken: false,
                stale: false,
            };
            self.memory.items.insert(key, placeholder);
        }
        let Some(slot) = self.memory.items.get_mut(&key) else {
            return Reply::Miss;
        };
        let wanted = token || slot.stale;
        let shown = match (wanted, slot.token_taken) {
            (true, false) => Token::Won,
            (_, true) => Token::Taken,
            (false, false) => Token::Free,
        };
        slot.token_taken |= wanted;
        Reply::Item(Item {
            cas: slot.cas,
            stamp: slot.stamp,
            data: (value || !self.has_e).then(|| Arc::clone(&slot.data)),
            left: (slot.expires_at / 1000 - time / 1000) as u32,
            token: shown,
        })
    }

    #[allow(clippy::too_many_arguments, reason = "the fields of Command::Write")]
    fn write(
        &mut self,
        time: u64,
        key: Key,
        over: Over,
        stamp: Stamp,
        life: u32,
        data: &Arc<[u8]>,
        random: &mut Random,
    ) -> Reply {
        if self.full && !self.has_freed(stamp.version, random) && self.no_room(random) {
            // Whatever was asked, with C or ME, and however the comparison would have ended: a
            // server that cannot allocate the new item unlinks the old one (tried).
            let dropped = self.memory.items.remove(&key);
            let version = dropped.and_then(|slot| Some(slot.stamp?.version));
            self.freed.extend(version);
            return Reply::Refused;
        }
        match (over, self.memory.items.get(&key)) {
            (Over::Cas(0), _) if self.blind => {}
            (Over::Cas(_), None) => return Reply::NotFound,
            (Over::Cas(cas), Some(slot)) if slot.cas != cas => return Reply::Exists,
            (Over::Nothing, Some(_)) => return Reply::NotStored,
            (Over::Cas(_), Some(_)) | (Over::Nothing, None) => {}
        }
        let fresh = self.fresh_cas();
        let cas = if self.has_e {
            stamp.version.cas(stamp.inc)
        } else {
            fresh
        };
        let slot = Slot {
            cas,
            stamp: Some(stamp),
            data: Arc::clone(data),
            expires_at: end(time, life),
            token_taken: false,
            stale: false,
        };
        self.memory.items.insert(key, slot);
        Reply::Done { cas }
    }

    /// A plain set of somebody else's, without a version.
    pub(super) fn store_plain(&mut self, time: u64, key: Key) {
        let slot = Slot {
            cas: self.fresh_cas(),
            stamp: None,
            data: Arc::from(*b"foreign"),
            expires_at: end(time, 3600),
            token_taken: false,
            stale: false,
        };
        self.memory.items.insert(key, slot);
    }

    fn put_record(&mut self, record: &Record) -> Reply {
        let cas = self.fresh_cas();
        self.memory.record = Some((record.clone(), cas));
        // The classic words do not say it.
        Reply::Done { cas: 0 }
    }

    fn fresh_cas(&mut self) -> u64 {
        self.memory.last_cas += 1;
        self.memory.last_cas
    }

    /// Is there the room of an item that was dropped? What goes back fits for sure, and another
    /// value if it is of about that size.
    fn has_freed(&mut self, version: Version, random: &mut Random) -> bool {
        let same = self.freed.iter().position(|freed| *freed == version);
        let other = || {
            self.freed
                .len()
                .checked_sub(1)
                .filter(|_| random.chance(70))
        };
        let found = same.or_else(other);
        found.map(|at| self.freed.swap_remove(at)).is_some()
    }

    fn no_room(&self, random: &mut Random) -> bool {
        self.full && random.chance(80)
    }

    fn expire(&mut self, time: u64, key: Key) {
        if (self.memory.items.get(&key)).is_some_and(|slot| slot.expires_at <= time) {
            self.memory.items.remove(&key);
        }
    }

    /// What a listing shows (metadump): every key that has not expired, with its stamp.
    pub(super) fn keys(&self, time: u64) -> Vec<(Key, Option<Stamp>)> {
        let live = (self.memory.items.iter()).filter(|(_, slot)| slot.expires_at > time);
        live.map(|(key, slot)| (*key, slot.stamp)).collect()
    }

    /// Version, kind and value of an item, for the checker.
    pub(super) fn peek(&self, key: Key) -> Option<(Version, bool, Arc<[u8]>)> {
        let slot = self.memory.items.get(&key)?;
        let stamp = slot.stamp?;
        (!stamp.witness).then(|| (stamp.version, stamp.tombstone, Arc::clone(&slot.data)))
    }

    /// The record, for the plan of faults and for traces.
    pub(super) fn record(&self) -> Option<&Record> {
        self.memory.record.as_ref().map(|(record, _)| record)
    }

    /// What is noted of its wait.
    pub(super) fn noted(&self) -> Option<Waiting> {
        self.memory.note.borrow().clone()
    }

    /// Notes one.
    pub(super) fn note(&self, waiting: Waiting) {
        self.memory.note.replace(Some(waiting));
    }

    /// All of it, as a dump on disk or a snapshot of the machine would keep it.
    pub(super) fn dump(&self) -> Memory {
        self.memory.clone()
    }

    /// Starts with the memory of a dump, or with none.
    pub(super) fn restart(&mut self, memory: Memory) {
        self.memory = memory;
        self.full = false;
        self.freed.clear();
    }

    /// Forgets one item in `every`, by chance (evictions), and the record no more than others.
    pub(super) fn evict(&mut self, every: u64, random: &mut Random) {
        (self.memory.items).retain(|_, _| random.between(1, every.max(1)) != 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        version: Version(7 << 20),
        inc: 1,
        tombstone: false,
        mended: false,
        witness: false,
    };

    fn write(over: Over, version: u64) -> Command {
        Command::Write {
            over,
            stamp: Stamp {
                version: Version(version),
                ..STAMP
            },
            life: 100,
            data: Arc::from(*b"value"),
        }
    }

    const READ: Command = Command::Read {
        value: true,
        token: false,
    };
    const TAKE: Command = Command::Read {
        value: false,
        token: true,
    };

    fn item(reply: Reply) -> Item {
        match reply {
            Reply::Item(item) => item,
            other => panic!("no item: {other:?}"),
        }
    }

    #[test]
    fn a_node_keeps_one_token_per_item_until_a_write_or_an_unlock() {
        for has_e in [true, false] {
            let mut random = Random::new(1);
            let mut node = Node::new(has_e, false);
            let mut say = |time, command: &Command| node.apply(time, 1, command, &mut random);
            assert_eq!(say(0, &READ), Reply::Miss);
            let placeholder = item(say(0, &TAKE));
            assert_eq!((placeholder.stamp, placeholder.token), (None, Token::Won));
            assert_eq!(item(say(1, &TAKE)).token, Token::Taken);
            assert_eq!(item(say(1, &READ)).token, Token::Taken);
            assert_eq!(say(2, &write(Over::Nothing, 512)), Reply::NotStored);
            assert_eq!(say(2, &write(Over::Cas(99), 512)), Reply::Exists);
            let Reply::Done { cas } = say(3, &write(Over::Cas(placeholder.cas), 512)) else {
                panic!("not written");
            };
            // The version, and the life it was written in.
            assert_eq!(cas == 513, has_e);
            let mine = item(say(4, &TAKE));
            assert_eq!((mine.token, mine.data.is_some()), (Token::Won, !has_e));
            let touched = item(say(4, &Command::Touch { life: 300 }));
            assert_eq!((touched.token, touched.left), (Token::Taken, 100));
            assert_eq!(item(say(4, &READ)).left, 300);
            let unlock = Command::Unlock {
                cas: mine.cas,
                version: Version(768),
                life: Some(200),
            };
            assert!(matches!(say(5, &unlock), Reply::Done { .. }));
            assert_eq!(say(5, &unlock), Reply::Exists);
            let after = item(say(6, &READ));
            assert_eq!(item(say(6, &TAKE)).token, Token::Taken);
            assert_eq!((after.token, after.left), (Token::Won, 200));
            let version = after.stamp.map(|stamp| stamp.version.0);
            assert_eq!(version, Some(if has_e { 768 } else { 512 }));
            assert_eq!(
                say(7, &Command::Remove { cas: after.cas }),
                Reply::Done { cas: 0 }
            );
            assert_eq!(say(7, &unlock), Reply::NotFound);
        }
    }

    #[test]
    fn a_placeholder_and_an_item_end_with_their_life() {
        let mut random = Random::new(1);
        let mut node = Node::new(true, false);
        node.apply(0, 1, &TAKE, &mut random);
        assert_eq!(node.apply(30_000, 1, &READ, &mut random), Reply::Miss);
        node.apply(30_000, 1, &write(Over::Nothing, 9), &mut random);
        assert_eq!(
            node.keys(40_000),
            [(
                1,
                Some(Stamp {
                    version: Version(9),
                    ..STAMP
                })
            )]
        );
        assert_eq!(node.keys(130_000), []);
    }

    #[test]
    fn a_full_node_loses_what_it_was_to_replace() {
        let mut random = Random::new(1);
        let mut node = Node::new(true, false);
        node.apply(0, 1, &write(Over::Nothing, 9), &mut random);
        node.full = true;
        while node.apply(0, 1, &write(Over::Cas(9), 9), &mut random) != Reply::Refused {}
        assert_eq!(node.apply(0, 1, &READ, &mut random), Reply::Miss);
        assert_eq!(node.peek(1), None);
        // What it was has room.
        let back = node.apply(0, 1, &write(Over::Nothing, 9), &mut random);
        assert!(matches!(back, Reply::Done { .. }));
    }

    #[test]
    fn a_record_is_changed_over_the_one_that_was_read_and_comes_back_with_an_old_dump() {
        let mut random = Random::new(1);
        let mut node = Node::new(false, false);
        let record = Record::new(3, 4);
        let mut say = |command: &Command| node.apply(0, 1, command, &mut random);
        assert_eq!(say(&Command::ReadRecord), Reply::NoRecord);
        let add = Command::AddRecord(record.clone());
        assert_eq!(say(&add), Reply::Done { cas: 0 });
        assert_eq!(say(&add), Reply::NotStored);
        let Reply::Record { cas, .. } = say(&Command::ReadRecord) else {
            panic!("not added");
        };
        let set = Command::SetRecord {
            cas,
            record: record.trusted(),
        };
        let dump = node.dump();
        assert!(matches!(
            node.apply(0, 1, &set, &mut random),
            Reply::Done { .. }
        ));
        assert_eq!(node.apply(0, 1, &set, &mut random), Reply::Exists);
        assert_eq!(node.record(), Some(&record.trusted()));
        let mut say = |command: &Command| node.apply(0, 1, command, &mut random);
        let Reply::Record { cas, .. } = say(&Command::ReadRecord) else {
            panic!("not there");
        };
        assert_eq!(say(&Command::DoubtRecord { cas }), Reply::Done { cas: 0 });
        assert_eq!(say(&Command::DoubtRecord { cas }), Reply::Exists);
        assert_eq!(node.record(), Some(&record.doubted()));
        node.restart(dump);
        assert_eq!(node.record(), Some(&record));
        node.restart(Memory::default());
        assert_eq!(node.apply(0, 1, &set, &mut random), Reply::NotFound);
        node.evict(1, &mut random);
    }

    #[test]
    fn a_cas_value_of_0_means_anything_only_to_the_rivals() {
        let mut random = Random::new(1);
        for blind in [true, false] {
            let mut node = Node::new(true, blind);
            let reply = node.apply(0, 1, &write(Over::Cas(0), 9), &mut random);
            assert_eq!(reply != Reply::NotFound, blind);
        }
    }
}
