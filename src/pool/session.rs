//! Sessions in `single` mode: open, read, write, touch, destroy, with pecl-memcache's
//! bytes, placement and counter lock, so that its workers and ours serve the same sessions.
//!
//! ```text
//!   read    incr K.lock 1 · add K.lock 1 · get K     one trip; the turn is ours when
//!                                                    incr said 1 or add stored
//!   write   set K · set K.lock 0                     to every copy, one trip
//!   touch   touch K · set K.lock 0                   to every copy; set K where it is missing
//!   close   set K.lock 0                             wherever the turn is still ours
//! ```
//!
//! What pecl does not do and we add: the turn is given back at every close without a
//! write; a turn not got within the limit fails the read instead of giving an empty
//! session; an unchanged session is touched; a new id is proved to be new.
//! A counter carries no owner, so neither fence nor takeover is possible here.
//!
//! Source of keys, values and order: pecl-memcache memcache_session.c, recorded in
//! tests/golden/wire-session.txt.

use crate::call::{Call, Verb};
use crate::codec::{self, Compression};
use crate::error::{Error, Kind};
use crate::fanout;
use crate::item::{Flags, KeyRule, LongKeys};
use crate::pool::Pool;
use crate::wire::{Expect, Reply, Store, classic};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// First pause while somebody else has the turn (pecl: usleep(5000)).
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause. pecl doubles up to 1 s; a shorter one ends a wait sooner, at ten small
/// requests a second.
const PAUSE_MAX: Duration = Duration::from_millis(100);

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
}

/// The sessions of one save_path, from open to close.
#[derive(Debug)]
pub struct Sessions {
    pool: Pool,
    rule: KeyRule,
    terms: Terms,
    call: Call,
    held: Option<Turn>,
    /// An id made in this request, which is new by construction.
    made: Option<Vec<u8>>,
    log: Vec<String>,
}

/// The turn on one session.
#[derive(Debug)]
struct Turn {
    id: Vec<u8>,
    /// Nodes whose counter we hold.
    nodes: Vec<usize>,
    /// What was read with it, for the read that follows a validation.
    found: Option<Vec<u8>>,
}

/// The two keys of a session.
struct Keys {
    data: Vec<u8>,
    lock: Vec<u8>,
}

/// What one node said to a request for a turn.
enum Said {
    Ours(Option<(Flags, Vec<u8>)>),
    Taken,
    Nothing(Error),
}

impl Sessions {
    /// Sessions on `pool`, under `prefix`.
    pub fn new(pool: Pool, prefix: &[u8], terms: Terms) -> Sessions {
        // Hashing touches only keys pecl cannot store at all.
        let rule = KeyRule {
            prefix: prefix.to_vec(),
            long: LongKeys::Hash,
        };
        Sessions {
            pool,
            rule,
            terms,
            call: Call::new(),
            held: None,
            made: None,
            log: Vec::new(),
        }
    }

    /// Notes that `id` was made in this request: nobody can have stored anything under it.
    pub fn made(&mut self, id: &[u8]) {
        self.made = Some(id.to_vec());
    }

    /// The data of session `id`, empty for a new one, and the turn on it.
    ///
    /// With `lock` false (read_and_close) no turn is taken and none waited for.
    ///
    /// # Errors
    /// `Locked` when the turn was not got within twice the lock's life; the error of the
    /// last node when none could be asked; `Value` when stored data cannot be inflated.
    pub fn read(&mut self, id: &[u8], lock: bool) -> Result<Vec<u8>, Error> {
        if let Some(turn) = self.held.as_mut().filter(|turn| turn.id == id) {
            // The validation before this read asked already; session_reset reads again.
            if let Some(found) = turn.found.take() {
                return Ok(found);
            }
            return self.look(id).map(Option::unwrap_or_default);
        }
        self.release();
        let found = if lock { self.take(id) } else { self.look(id) };
        match found {
            Ok(found) => Ok(found.unwrap_or_default()),
            // Nobody to ask, but nobody can have stored anything either.
            Err(error) if error.kind() != Kind::Locked && self.made.as_deref() == Some(id) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    /// Is there a session `id`? Absence must be proved: where no node can say, the answer is yes.
    ///
    /// The turn taken on the way is kept for the read that follows, and given back at once
    /// when there is no such session.
    pub fn exists(&mut self, id: &[u8]) -> bool {
        if self.held.as_ref().is_some_and(|turn| turn.id == id) {
            return true;
        }
        if self.made.as_deref() == Some(id) {
            return self.look(id).is_ok_and(|found| found.is_some());
        }
        self.release();
        match self.take(id) {
            Ok(Some(found)) => {
                if let Some(turn) = &mut self.held {
                    turn.found = Some(found);
                }
                true
            }
            Ok(None) => {
                self.release();
                false
            }
            Err(_) => true,
        }
    }

    /// Stores session `id` for `lifetime` seconds on every copy and gives the turn back.
    ///
    /// # Errors
    /// The last node's error when no node took both.
    pub fn write(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        let keys = self.keys(id)?;
        let mut flags = Flags(0);
        let mut packed = Vec::new();
        let value = if self.terms.compression.apply(data, &mut flags, &mut packed) {
            &packed
        } else {
            data
        };
        let (expiry, lock_timeout) = (expiry(lifetime), self.terms.lock_timeout);
        let stored = self.everywhere(&keys, |out, asks| {
            store(out, asks, &keys.data, flags, expiry, value);
            unlock(out, asks, &keys.lock, lock_timeout);
        });
        self.forget(id, &stored);
        let whole = stored
            .iter()
            .any(|(_, lane)| matches!(self.call.answers(*lane).0, [Reply::Done, Reply::Done]));
        if whole {
            Ok(())
        } else {
            Err(self.complaint("could not be stored"))
        }
    }

    /// Gives unchanged session `id` another `lifetime` seconds on every copy, stores it again
    /// where it is missing, and gives the turn back.
    ///
    /// # Errors
    /// As [`Sessions::write`].
    pub fn touch(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        let keys = self.keys(id)?;
        let (expiry, lock_timeout) = (expiry(lifetime), self.terms.lock_timeout);
        let touched = self.everywhere(&keys, |out, asks| {
            classic::touch(out, &keys.data, expiry);
            asks.push(Expect::Line);
            unlock(out, asks, &keys.lock, lock_timeout);
        });
        self.forget(id, &touched);
        let first = |lane: usize| self.call.answers(lane).0.first().copied();
        let missing = touched
            .iter()
            .any(|(_, lane)| first(*lane) == Some(Reply::NotFound));
        let whole = touched
            .iter()
            .any(|(_, lane)| first(*lane) == Some(Reply::Done));
        if missing {
            return self.write(id, data, lifetime);
        }
        if whole {
            Ok(())
        } else {
            Err(self.complaint("could not be extended"))
        }
    }

    /// Removes session `id` and its turn from every copy.
    ///
    /// # Errors
    /// The last node's error when no node answered.
    pub fn destroy(&mut self, id: &[u8]) -> Result<(), Error> {
        let keys = self.keys(id)?;
        let removed = self.everywhere(&keys, |out, asks| {
            classic::delete(out, &keys.data);
            classic::delete(out, &keys.lock);
            asks.extend([Expect::Line, Expect::Line]);
        });
        self.forget(id, &removed);
        if removed.is_empty() {
            Err(self.complaint("could not be destroyed"))
        } else {
            Ok(())
        }
    }

    /// Gives the turn back wherever it is still ours; the end of a request must call it.
    pub fn release(&mut self) {
        let Some(turn) = self.held.take() else { return };
        let Ok(keys) = self.keys(&turn.id) else {
            return;
        };
        let lock_timeout = self.terms.lock_timeout;
        self.fresh();
        // A node that cannot be told lets the turn go when the lock's life ends.
        self.pool
            .exchange_all(&turn.nodes, &mut self.call, |out, asks| {
                unlock(out, asks, &keys.lock, lock_timeout);
            });
    }

    /// Takes the turn, waiting for it; what is stored, if anything.
    fn take(&mut self, id: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let keys = self.keys(id)?;
        let limit = Duration::from_secs(u64::from(self.terms.lock_timeout) * 2);
        let (mut waited, mut pause) = (Duration::ZERO, PAUSE_FIRST);
        let mut silent = None;
        let mut asked = false;
        for node in self.places(&keys) {
            loop {
                if !self.pool.allows(node, Instant::now()) {
                    break;
                }
                match self.ask(node, &keys) {
                    Said::Ours(found) => {
                        asked = true;
                        let turn = self.held.get_or_insert_with(|| Turn {
                            id: id.to_vec(),
                            nodes: Vec::new(),
                            found: None,
                        });
                        turn.nodes.push(node);
                        match found.map(|(flags, data)| inflated(flags, data)).transpose() {
                            Ok(None) => break,
                            Ok(found) => return Ok(found),
                            Err(error) => {
                                self.release();
                                return Err(error);
                            }
                        }
                    }
                    Said::Taken if waited >= limit => {
                        self.release();
                        return Err(Error::new(
                            Kind::Locked,
                            format!("another request has held this session for {} s", limit.as_secs()),
                        )
                        .at(self.pool.name(node))
                        .hint("Shorten that request, call session_write_close() in it, or raise memcache.lock_timeout"));
                    }
                    Said::Taken => {
                        fanout::pause(pause);
                        waited += pause;
                        pause = (pause * 2).min(PAUSE_MAX);
                    }
                    Said::Nothing(error) => {
                        silent = Some(error);
                        break;
                    }
                }
            }
        }
        if asked {
            Ok(None)
        } else {
            Err(silent.unwrap_or_else(|| self.nobody()))
        }
    }

    /// What is stored, without a turn; `None` when a node said there is nothing.
    fn look(&mut self, id: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let keys = self.keys(id)?;
        let mut silent = None;
        let mut asked = false;
        for node in self.places(&keys) {
            if !self.pool.allows(node, Instant::now()) {
                continue;
            }
            self.fresh();
            let lane = self.pool.exchange(node, &mut self.call, |out, asks| {
                get(out, asks, &keys.data);
            });
            let Some(lane) = lane else {
                silent = self.last_error();
                continue;
            };
            asked = true;
            let (answers, bytes) = self.call.answers(lane);
            if let Some((flags, data)) = value_of(answers, bytes, &keys.data)? {
                return inflated(flags, data).map(Some);
            }
        }
        if asked {
            Ok(None)
        } else {
            Err(silent.unwrap_or_else(|| self.nobody()))
        }
    }

    /// Asks one node for the turn and the data.
    fn ask(&mut self, node: usize, keys: &Keys) -> Said {
        let lock_timeout = self.terms.lock_timeout;
        self.fresh();
        let lanes = self
            .pool
            .exchange_all(&[node], &mut self.call, |out, asks| {
                classic::delta(out, true, &keys.lock, 1);
                asks.push(Expect::Number);
                classic::store(out, Store::Add, &keys.lock, codec::INT, lock_timeout, 1, 0);
                out.extend_from_slice(b"1\r\n");
                asks.push(Expect::Line);
                get(out, asks, &keys.data);
            });
        let Some((_, lane)) = lanes.first() else {
            return Said::Nothing(self.last_error().unwrap_or_else(|| self.nobody()));
        };
        let (answers, bytes) = self.call.answers(*lane);
        let Some(([counted, added], rest)) = answers.split_first_chunk() else {
            return Said::Nothing(self.nobody());
        };
        if *counted != Reply::Number(1) && *added != Reply::Done {
            return match self.last_error() {
                // A refusal (out of memory, not a number) will not go away by waiting.
                Some(error) => Said::Nothing(error),
                None => Said::Taken,
            };
        }
        match value_of(rest, bytes, &keys.data) {
            Ok(found) => Said::Ours(found.map(|(flags, data)| (flags, data.to_vec()))),
            Err(error) => Said::Nothing(error),
        }
    }

    /// One pipeline to all usable nodes of a session, at the same time.
    fn everywhere(
        &mut self,
        keys: &Keys,
        say: impl Fn(&mut Vec<u8>, &mut Vec<Expect>),
    ) -> Vec<(usize, usize)> {
        let now = Instant::now();
        let mut nodes = self.places(keys);
        nodes.retain(|node| self.pool.allows(*node, now));
        self.fresh();
        self.pool.exchange_all(&nodes, &mut self.call, say)
    }

    /// The nodes of a session in pecl's order: those of "<key>-0", "<key>-1", …; never the
    /// owner of the bare key (memcache_session.c PS_READ_FUNC).
    fn places(&mut self, keys: &Keys) -> Vec<usize> {
        let wanted = usize::try_from(self.terms.copies)
            .unwrap_or(1)
            .clamp(1, self.pool.len().max(1));
        let mut attempt = 0;
        let mut places = Vec::with_capacity(wanted);
        for _ in 0..wanted {
            let node = self
                .pool
                .next(&keys.data, &places, &mut attempt, self.terms.attempts);
            if !places.contains(&node) {
                places.push(node);
            }
        }
        places
    }

    /// The nodes that were told keep no turn of ours.
    fn forget(&mut self, id: &[u8], told: &[(usize, usize)]) {
        if let Some(turn) = self.held.as_mut().filter(|turn| turn.id == id) {
            turn.nodes
                .retain(|node| !told.iter().any(|(told, _)| told == node));
            if turn.nodes.is_empty() {
                self.held = None;
            }
        }
    }

    fn keys(&self, id: &[u8]) -> Result<Keys, Error> {
        let mut data = Vec::new();
        self.rule.append(id, &mut data)?;
        let mut lock = Vec::new();
        let suffixed = [data.as_slice(), b".lock"].concat();
        KeyRule {
            prefix: Vec::new(),
            long: LongKeys::Hash,
        }
        .append(&suffixed, &mut lock)?;
        Ok(Keys { data, lock })
    }

    /// Empties the call for the next exchange, keeping what is worth a log line.
    fn fresh(&mut self) {
        self.log.extend(self.call.changes());
        self.call.reset(Verb::Get);
    }

    /// Lines for a log since the last look: nodes that went down or came up.
    pub fn take_log(&mut self) -> Vec<String> {
        self.fresh();
        std::mem::take(&mut self.log)
    }

    fn last_error(&self) -> Option<Error> {
        self.call.events().last().map(|event| event.error.clone())
    }

    fn complaint(&self, what: &str) -> Error {
        self.last_error().unwrap_or_else(|| {
            Error::new(
                Kind::Connect,
                format!("the session {what}: none of its nodes is usable right now"),
            )
        })
    }

    fn nobody(&self) -> Error {
        Error::new(
            Kind::Connect,
            "none of this session's nodes is usable right now",
        )
        .hint("Bring a node back, or wait for its retry_interval to end")
    }
}

/// Seconds since 1970, when something stored now for `lifetime` seconds ends.
fn expiry(lifetime: u32) -> u32 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |d| d.as_secs());
    u32::try_from(now.saturating_add(u64::from(lifetime))).unwrap_or(u32::MAX)
}

fn get(out: &mut Vec<u8>, asks: &mut Vec<Expect>, key: &[u8]) {
    classic::get(out, false);
    classic::get_key(out, key);
    classic::end(out);
    asks.push(Expect::Values);
}

fn store(
    out: &mut Vec<u8>,
    asks: &mut Vec<Expect>,
    key: &[u8],
    flags: Flags,
    ttl: u32,
    value: &[u8],
) {
    classic::store(out, Store::Set, key, flags.0, ttl, value.len(), 0);
    out.extend_from_slice(value);
    classic::end(out);
    asks.push(Expect::Line);
}

fn unlock(out: &mut Vec<u8>, asks: &mut Vec<Expect>, key: &[u8], lock_timeout: u32) {
    store(out, asks, key, Flags(codec::INT), lock_timeout, b"0");
}

/// The one value a get for `key` may have brought.
fn value_of<'b>(
    answers: &[Reply],
    bytes: &'b [u8],
    key: &[u8],
) -> Result<Option<(Flags, &'b [u8])>, Error> {
    for reply in answers {
        if let Reply::Value {
            key: echoed,
            flags,
            data,
            ..
        } = reply
        {
            if echoed.of(bytes) != key {
                return Err(Error::new(
                    Kind::Protocol,
                    "Malformed server response: the value of another key",
                ));
            }
            return Ok(Some((Flags(*flags), data.of(bytes))));
        }
    }
    Ok(None)
}

fn inflated(flags: Flags, data: impl AsRef<[u8]> + Into<Vec<u8>>) -> Result<Vec<u8>, Error> {
    if !codec::is_compressed(flags) {
        return Ok(data.into());
    }
    let mut plain = Vec::new();
    codec::inflate(data.as_ref(), codec::INFLATE_MAX, &mut plain)?;
    Ok(plain)
}
