//! Sessions in `single` mode: open, read, write, touch, destroy, with pecl-memcache's
//! bytes, placement and counter lock, so that its workers and ours serve the same sessions.
//!
//! ```text
//!   read    incr K.lock 1 · add K.lock 1 · get K     one trip; the turn is ours when
//!                                                    incr said 1 or add stored
//!   write   set K · set K.lock 0                     to every copy, one trip
//!   touch   touch K · set K.lock 0                   to every copy; where one lacks K, the turn
//!                                                    is taken again and K is set on all
//!   close   set K.lock 0                             wherever the turn is still ours
//! ```
//!
//! What pecl does not do and we add: the turn is given back at every close without a
//! write; a turn not got within the limit fails the read instead of giving an empty
//! session; an unchanged session is touched; a new id is proved to be new.
//! Where one copy has nothing and another is silent, the session is a new one, as in pecl:
//! more than pecl's copies is promised by modes with more than counters.
//! A counter carries no owner, so neither fence nor takeover is possible on memcached. On Redis
//! and on embedded nodes a turn has one: what a request stores whose turn is over goes only over what it read.
//!
//! Source of keys, values and order: pecl-memcache memcache_session.c, recorded in
//! tests/golden/wire-session.txt.

mod mend;
mod moving;
mod trouble;

use super::words::{self, Data, Found, Keys, Lock, MARK, Said, Turn, advised, value_of};
use super::{Store, Terms};
use crate::call::{Call, Verb};
use crate::codec::Content;
use crate::error::{Error, Kind};
use crate::fanout::{self, Lane};
use crate::item::{Flags, KeyRule, LongKeys};
use crate::pool::Pool;
use crate::wire::Reply;
use crate::wire::redis::Over;
use moving::Moving;
use std::time::{Duration, Instant};

/// First pause while somebody else has the turn (pecl: usleep(5000)).
const PAUSE_FIRST: Duration = Duration::from_millis(5);
/// Longest pause. pecl doubles up to 1 s; a shorter one ends a wait sooner, at ten small
/// requests a second.
const PAUSE_MAX: Duration = Duration::from_millis(100);

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
    /// Why a validation could not tell, for the read of the same id that follows.
    unsure: Option<(Vec<u8>, Error)>,
    log: Vec<String>,
    /// Flags of our own on what is written.
    pub(super) mark: u32,
    /// What was found last has the mark.
    pub(super) marked: bool,
    /// Every node of the session said that there is nothing.
    pub(super) proven: bool,
    /// Who takes turns, where they have an owner.
    owner: String,
    /// Why no node of a cluster said who has which slot.
    trouble: Option<Error>,
    /// The two places of the session asked for last, where it moves.
    moving: Option<Moving>,
}

/// A wait for turns: since when, and the next pause.
struct Wait {
    since: Instant,
    pause: Duration,
}

/// What came of asking for the turn at one node.
enum Won {
    /// It is ours; what there is.
    Ours(Option<(Flags, Vec<u8>)>),
    /// Nobody can say; why, if the node was asked.
    Silent(Option<Error>),
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
            unsure: None,
            log: Vec::new(),
            mark: 0,
            marked: false,
            proven: false,
            owner: words::owner(),
            trouble: None,
            moving: None,
        }
    }

    /// Takes the turn, waiting for it; what is stored, if anything.
    pub(super) fn take(&mut self, id: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let keys = self.keys(id)?;
        let mut wait = Wait {
            since: Instant::now(),
            pause: PAUSE_FIRST,
        };
        let mut silent = None;
        let mut asked = false;
        (self.marked, self.proven) = (false, true);
        let places = self.places(&keys);
        if self.moving.is_some() {
            return self.take_both(id, &keys, &mut wait);
        }
        for node in places {
            let found = match self.win(id, node, &keys, &mut wait)? {
                Won::Ours(found) => found,
                Won::Silent(error) => {
                    silent = error.or(silent);
                    continue;
                }
            };
            asked = true;
            self.marked = found.as_ref().is_some_and(|(flags, _)| flags.0 & MARK != 0);
            match self.unpacked(found)? {
                // An id of our own making is on no other node either.
                None if self.made.as_deref() == Some(id) => return Ok(None),
                None => {}
                found => return Ok(found),
            }
        }
        if asked {
            return Ok(None);
        }
        self.release();
        Err(advised(silent.unwrap_or_else(|| self.nobody(&keys))))
    }

    /// Takes the turn at one node, waiting for it.
    fn win(&mut self, id: &[u8], node: usize, keys: &Keys, wait: &mut Wait) -> Result<Won, Error> {
        let limit = Duration::from_secs(u64::from(self.terms.lock_timeout) * 2);
        loop {
            if !self.pool.allows(node, Instant::now()) {
                self.proven = false;
                return Ok(Won::Silent(None));
            }
            match self.ask(node, keys) {
                Said::Unread(error) => {
                    // Given back at the end, with the others.
                    self.holds(id, node, 0);
                    self.proven = false;
                    return Ok(Won::Silent(Some(error)));
                }
                Said::Ours(found, cas) => {
                    self.holds(id, node, cas).lacking |= found.is_none();
                    return Ok(Won::Ours(found));
                }
                Said::Taken if wait.since.elapsed() >= limit => {
                    self.release();
                    return Err(Error::new(
                        Kind::Locked,
                        format!("another request has held this session for {} s, so this one was not let in", limit.as_secs()),
                    )
                    .at(self.pool.name(node))
                    .hint("Call session_write_close() earlier in that request, or raise memcache.lock_timeout"));
                }
                Said::Taken => {
                    fanout::pause(wait.pause);
                    wait.pause = (wait.pause * 2).min(PAUSE_MAX);
                }
                Said::Nothing(error) => {
                    self.proven = false;
                    return Ok(Won::Silent(Some(error)));
                }
            }
        }
    }

    /// What was found, as PHP wrote it; turns go back where nobody can read it.
    fn unpacked(&mut self, found: Option<(Flags, Vec<u8>)>) -> Result<Option<Vec<u8>>, Error> {
        let most = self.terms.most;
        let found = found.map(|(flags, data)| trouble::plain(flags, data, most));
        let found = found.transpose();
        if found.is_err() {
            self.release();
        }
        found
    }

    /// Notes that the turn at `node` is ours, and what lay there.
    fn holds(&mut self, id: &[u8], node: usize, seen: u64) -> &mut Turn {
        let turn = self.held.get_or_insert_with(|| Turn {
            id: id.to_vec(),
            nodes: Vec::new(),
            found: None,
            lacking: false,
            since: Instant::now(),
        });
        turn.nodes.push((node, seen));
        turn
    }

    /// What is stored, without a turn; `None` when a node said there is nothing.
    pub(super) fn look(&mut self, id: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let keys = self.keys(id)?;
        let mut silent = None;
        let mut asked = false;
        (self.marked, self.proven) = (false, true);
        let places = self.places(&keys);
        if self.moving.is_some() {
            return self.look_at_both(&keys, &places);
        }
        for node in places {
            if !self.pool.allows(node, Instant::now()) {
                self.proven = false;
                continue;
            }
            self.fresh();
            let lane = self.pool.exchange_lane(node, &mut self.call, |lane| {
                words::get(lane, &keys);
            });
            let Some(lane) = lane else {
                self.proven = false;
                silent = self.last_error();
                continue;
            };
            let (answers, bytes) = self.call.answers(lane);
            match value_of(answers, bytes, &keys) {
                Ok(Some(Found { flags, data, .. })) => {
                    self.marked = flags.0 & MARK != 0;
                    return trouble::plain(flags, data, self.terms.most).map(Some);
                }
                Ok(None) => asked = true,
                Err(error) => {
                    self.proven = false;
                    silent = Some(error.at(self.pool.name(node)));
                }
            }
        }
        if asked {
            Ok(None)
        } else {
            Err(advised(silent.unwrap_or_else(|| self.nobody(&keys))))
        }
    }

    /// Asks one node for the turn and the data.
    ///
    /// Asked again on a connection that was closed while it stood idle: should the first
    /// asking have been heard after all, the turn is waited for, and nothing is lost.
    fn ask(&mut self, node: usize, keys: &Keys) -> Said {
        self.fresh();
        let there = moving::keys_at(&self.moving, node, keys);
        let lock = there.turn(&self.terms, &self.owner);
        let lane = self.pool.exchange_lane(node, &mut self.call, |lane| {
            words::turn(lane, lock);
            words::get(lane, there);
        });
        let Some(lane) = lane else {
            return Said::Nothing(self.last_error().unwrap_or_else(|| self.nobody(keys)));
        };
        let (answers, bytes) = self.call.answers(lane);
        let Some((ours, rest)) = words::is_ours(self.pool.engine(node), answers) else {
            return Said::Nothing(self.nobody(keys));
        };
        if !ours {
            return match self.last_error() {
                // A refusal (out of memory, not a number) will not go away by waiting.
                Some(error) => Said::Nothing(error),
                None => Said::Taken,
            };
        }
        let there = moving::keys_at(&self.moving, node, keys);
        match value_of(rest, bytes, there) {
            Ok(None) => Said::Ours(None, 0),
            Ok(Some(Found { flags, data, cas })) => Said::Ours(Some((flags, data.to_vec())), cas),
            Err(error) => Said::Unread(error.at(self.pool.name(node))),
        }
    }

    /// One pipeline to all usable nodes of a session, at the same time.
    fn everywhere(
        &mut self,
        keys: &Keys,
        say: impl Fn(&mut Lane, Lock<'_>),
    ) -> Vec<(usize, usize)> {
        let nodes = self.places(keys);
        self.fresh();
        self.tell(&nodes, keys, say)
    }

    /// The same to those of `nodes` that may be asked.
    fn tell(
        &mut self,
        nodes: &[usize],
        keys: &Keys,
        say: impl Fn(&mut Lane, Lock<'_>),
    ) -> Vec<(usize, usize)> {
        let now = Instant::now();
        let mut nodes = nodes.to_vec();
        nodes.retain(|node| self.pool.allows(*node, now));
        let (terms, owner, moving) = (&self.terms, &self.owner, &self.moving);
        self.pool.exchange_lanes(&nodes, &mut self.call, |lane| {
            let keys = moving::keys_at(moving, lane.member, keys);
            say(lane, keys.turn(terms, owner));
        })
    }

    /// The nodes of a session in the order in which they are stored to, and what it may go over
    /// at each of them.
    ///
    /// Where turns have owners, the nodes where the turn was taken say whether it is still ours, and copies are
    /// not asked before they did.
    fn stages(&mut self, id: &[u8], keys: &Keys) -> Vec<(Vec<usize>, Over)> {
        let places = self.places(keys);
        let owned = |node: &usize| words::has_owner(self.pool.engine(*node));
        let held = self.held.as_ref().filter(|turn| turn.id == id);
        let Some(turn) = held.filter(|_| places.iter().any(owned)) else {
            let new = self.made.as_deref() == Some(id);
            let over = if new { Over::Nothing } else { Over::Whatever };
            return self.new_places_first(vec![(places, over)]);
        };
        let over = |cas| match cas {
            0 => Over::Nothing,
            cas => Over::Seen(cas),
        };
        let held = turn
            .nodes
            .iter()
            .map(|(node, cas)| (vec![*node], over(*cas)));
        let mut stages = self.new_places_first(held.collect());
        let mut copies = places;
        copies.retain(|node| !turn.has(*node));
        if !copies.is_empty() {
            stages.extend(self.new_places_first(vec![(copies, Over::Whatever)]));
        }
        stages
    }

    /// Is it `node` that says whether a session stored over `over` is stored at all?
    fn decides(&self, node: usize, over: Over) -> bool {
        words::has_owner(self.pool.engine(node)) && over != Over::Whatever
    }

    fn places(&mut self, keys: &Keys) -> Vec<usize> {
        let terms = self.terms;
        self.trouble = self.pool.find_masters().or(self.trouble.take());
        let places = self
            .pool
            .session_places(keys.placed_by(), terms.copies, terms.attempts);
        if let (true, Some(turn)) = (self.pool.is_cluster(), &mut self.held) {
            turn.move_to(keys, &places);
        }
        self.both_places(keys, places)
    }

    /// The nodes that were told keep no turn of ours.
    fn forget(&mut self, id: &[u8], told: &[(usize, usize)]) {
        if let Some(turn) = self.held.as_mut().filter(|turn| turn.id == id) {
            turn.nodes
                .retain(|(node, _)| !told.iter().any(|(told, _)| told == node));
            if turn.nodes.is_empty() {
                self.held = None;
            }
        }
    }

    fn keys(&self, id: &[u8]) -> Result<Keys, Error> {
        Keys::of(&self.rule, id, self.mark != 0, self.pool.is_cluster())
    }

    /// Empties the call for the next exchange, keeping what is worth a log line.
    fn fresh(&mut self) {
        self.log.extend(self.call.changes());
        self.call.reset(Verb::Get);
    }
}

impl Store for Sessions {
    fn lives(&mut self, _seconds: u32) {}

    fn made(&mut self, id: &[u8]) {
        self.made = Some(id.to_vec());
    }

    fn read(&mut self, id: &[u8], lock: bool) -> Result<Vec<u8>, Error> {
        if let Some(turn) = self.held.as_mut().filter(|turn| turn.id == id) {
            // The validation before this read asked already; session_reset reads again.
            if let Some(found) = turn.found.take() {
                return Ok(found);
            }
            return self.look(id).map(Option::unwrap_or_default);
        }
        self.release();
        let found = match self.unsure.take() {
            // The validation waited already; a second wait would bring the same.
            Some((asked, error)) if asked == id => Err(error),
            _ if lock => self.take(id),
            _ => self.look(id),
        };
        match found {
            Ok(found) => Ok(found.unwrap_or_default()),
            // Nobody to ask, but nobody can have stored anything either.
            Err(error) if error.kind() != Kind::Locked && self.made.as_deref() == Some(id) => {
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    fn exists(&mut self, id: &[u8], lock: bool) -> bool {
        if self.held.as_ref().is_some_and(|turn| turn.id == id) {
            return true;
        }
        // session_create_id() asks for an id made at random, while the turn on the running session is ours.
        if self.held.is_some() || self.made.as_deref() == Some(id) {
            return self.look(id).is_ok_and(|found| found.is_some());
        }
        match if lock { self.take(id) } else { self.look(id) } {
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
            Err(error) => {
                self.unsure = Some((id.to_vec(), error));
                true
            }
        }
    }

    fn write(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        let keys = self.keys(id)?;
        let mut format = self.pool.policy().format.of_sessions();
        if self.pool.policy().placement.is_behind_prefix() {
            // Their owner reads them as they lie there.
            format.stream = None;
        }
        let mut packed = Vec::new();
        let stream = format.pack(self.terms.compression, data, false, &mut packed);
        let flags = Flags(self.mark | format.layout.flags(Content::Text, stream));
        let value = if stream.is_some() { &packed } else { data };
        let mut whole = false;
        let stages = self.stages(id, &keys);
        self.fresh();
        for (nodes, over) in stages {
            let data = Data {
                value,
                flags: self.marked_for(&nodes, flags, whole),
                plain: data,
                life: lifetime,
                over,
            };
            let stored = self.tell(&nodes, &keys, |lane, lock| words::close(lane, data, lock));
            self.forget(id, &stored);
            for (node, lane) in &stored {
                match words::is_closed(self.pool.engine(*node), self.call.answers(*lane).0) {
                    Some(true) => whole = true,
                    // What it had stays, unlike on a memcached: a copy that went ahead would be
                    // the only one that has what was acknowledged, and not the one that is read.
                    Some(false) if self.decides(*node, over) => {
                        let error = self.complaint(&keys, "stored");
                        self.release();
                        return Err(error);
                    }
                    Some(false) => {}
                    None => {
                        self.release();
                        return Err(self.overtaken(*node));
                    }
                }
            }
        }
        if whole {
            Ok(())
        } else {
            Err(self.complaint(&keys, "stored"))
        }
    }

    fn touch(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        if self.held.as_ref().is_some_and(|t| t.id == id && t.lacking) {
            return self.write(id, data, lifetime);
        }
        let keys = self.keys(id)?;
        let touched = self.everywhere(&keys, |lane, lock| words::touch(lane, lifetime, lock));
        // Where turns have owners it is told whether the turn was still ours when it was given back.
        let lost = self.held.as_ref().is_some_and(|turn| {
            touched.iter().any(|(node, lane)| {
                let answers = self.call.answers(*lane).0;
                let owned = words::has_owner(self.pool.engine(*node));
                owned && turn.has(*node) && answers.get(1) == Some(&Reply::NotFound)
            })
        });
        // Where they have none it is over by itself after so long, and who came then may have ended it.
        let term = Duration::from_secs(u64::from(self.terms.lock_timeout.max(1)));
        let over = (self.held.as_ref()).is_some_and(|turn| turn.since.elapsed() >= term);
        self.forget(id, &touched);
        let first = |lane: usize| self.call.answers(lane).0.first().copied();
        let missing = touched
            .iter()
            .any(|(_, lane)| first(*lane) == Some(Reply::NotFound));
        let whole = touched
            .iter()
            .any(|(_, lane)| first(*lane) == Some(Reply::Done));
        if missing && (lost || over) && !whole {
            // Somebody had it since, and ended it.
            return Ok(());
        }
        if missing {
            return self.mend(id, &keys, data, lifetime, whole);
        }
        if whole {
            Ok(())
        } else {
            Err(self.complaint(&keys, "extended"))
        }
    }

    fn destroy(&mut self, id: &[u8]) -> Result<(), Error> {
        let keys = self.keys(id)?;
        let removed = self.everywhere(&keys, words::delete);
        self.forget(id, &removed);
        let gone = |(_, lane): &(usize, usize)| {
            let first = self.call.answers(*lane).0.first();
            matches!(first, Some(Reply::Done | Reply::NotFound))
        };
        // Where it has two places it would come back from the one that was not told.
        let told = self.moving.as_ref().is_none_or(|moving| {
            let told = |node| removed.iter().any(|(of, _)| of == node);
            moving.nodes().all(told)
        });
        if removed.is_empty() || !told || !removed.iter().all(gone) {
            Err(self.complaint(&keys, "destroyed"))
        } else {
            Ok(())
        }
    }

    fn release(&mut self) {
        let Some(turn) = self.held.take() else {
            return;
        };
        let Ok(keys) = self.keys(&turn.id) else {
            return;
        };
        let nodes = turn.nodes_or(self.pool.is_cluster().then(|| self.places(&keys)));
        self.fresh();
        // It may be of another session, which was looked for meanwhile.
        self.moving = None;
        // A node that cannot be told lets the turn go when the lock's life ends.
        self.tell(&nodes, &keys, words::unlock);
    }

    fn evicting(&mut self) -> Vec<String> {
        self.pool.evicting(&mut self.call)
    }

    fn take_log(&mut self) -> Vec<String> {
        self.fresh();
        std::mem::take(&mut self.log)
    }
}
