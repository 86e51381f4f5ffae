//! Sessions on copies: the machines of `replica`, from PHP's open to its close.
//!
//! ```text
//!   read    record and item of the preferred nodes, with the turn     one trip
//!   write   the new value over what was read, on all of them          one trip
//!   touch   a new life and the turn back                              one trip
//!   close   the turn back, where it is still ours                     one trip
//! ```
//!
//! There is no lock key: the turn is the win token of the item itself. What cannot be told
//! is never taken for a new session: the read fails, and says what to do.

use super::Store;
use crate::call::{Call, Verb};
use crate::counters::Counter;
use crate::error::{Error, Kind};
use crate::handoff::{self, Keeper};
use crate::item::{KeyRule, LongKeys};
use crate::lease::{self, Lease, Queue};
pub(super) use crate::pool::NOTE;
use crate::pool::Pool;
use crate::pool::copies::{Task, clock, host_name};
use crate::replica::{
    Close, Closed, Ending, Epochs, Found, Founded, Grips, LEASE_SLACK, Lists, Neighbour, Open,
    Opened, PREFERRED, Turn, Wish, record_key,
};
use crate::shared;
use crate::slices;
use std::sync::Arc;
use std::time::Duration;

/// What was stored without the note, and whether it had one.
pub(super) fn plain(stored: &[u8]) -> (&[u8], bool) {
    match stored.strip_suffix(NOTE) {
        Some(data) => (data, true),
        None => (stored, false),
    }
}

/// How copied sessions are kept.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// How long a read waits for the turn.
    pub wait: Duration,
    /// How long a turn lasts at least before somebody else may take it over; between hosts that
    /// is [`LEASE_SLACK`] later.
    pub lease: Duration,
    /// Life of a session that is destroyed, seconds: its tombstone outlives that.
    pub life: u32,
}

impl Terms {
    /// Those of sessions whose lock is waited for as long as `lock`, twice that at most, and whose
    /// turns last a `lease`: who waits always outlasts the turn of a request that was killed.
    pub fn new(lock: Duration, lease: Duration) -> Terms {
        let over = lease + Duration::from_millis(LEASE_SLACK);
        Terms {
            wait: (lock * 2).max(over) + Duration::from_secs(1),
            lease,
            life: 0,
        }
    }
}

/// The copied sessions of one save_path, from open to close.
#[derive(Debug)]
pub struct Fenced {
    pool: Pool,
    rule: KeyRule,
    terms: Terms,
    call: Call,
    record_key: Vec<u8>,
    host: Box<str>,
    held: Option<Held>,
    /// An id made in this request, which is new by construction.
    made: Option<Vec<u8>>,
    /// Why a validation could not tell, for the read of the same id that follows.
    unsure: Option<(Vec<u8>, Error)>,
    log: Vec<String>,
    /// Somebody above keeps pecl's place, too: notes are his.
    noting: bool,
    /// What was opened last has a tombstone.
    pub(super) is_destroyed: bool,
}

/// The turn on one session.
#[derive(Debug)]
struct Held {
    id: Vec<u8>,
    key: Vec<u8>,
    nodes: Vec<usize>,
    grips: Grips,
    /// What was read with it; nothing, for a session that is new.
    data: Option<Arc<[u8]>>,
    lease: Lease,
}

impl Fenced {
    /// Sessions on `pool`, under `prefix`.
    pub fn new(pool: Pool, prefix: &[u8], terms: Terms) -> Fenced {
        let name = &pool.policy().name;
        Fenced {
            record_key: record_key((!name.is_empty()).then_some(name.as_str())),
            rule: KeyRule {
                prefix: prefix.to_vec(),
                long: LongKeys::Hash,
            },
            pool,
            terms,
            call: Call::new(),
            host: host_name(),
            held: None,
            made: None,
            unsure: None,
            log: Vec::new(),
            noting: false,
            is_destroyed: false,
        }
    }

    /// The same for who keeps pecl's place, too.
    pub(super) fn noting(mut self) -> Fenced {
        self.noting = true;
        self
    }

    /// Reads session `id`, with the turn when `turn`. What is held afterwards must be ended.
    pub(super) fn open(&mut self, id: &[u8], turn: bool) -> Result<Option<Arc<[u8]>>, Error> {
        let mut key = Vec::new();
        self.rule.append(id, &mut key)?;
        let lists = self.pool.lists(&key);
        let mut opened = self.ask(id, &key, &lists, turn)?;
        let own = self.pool.policy().list_epoch();
        let doubtful = |opened: &Opened| {
            let behind = |seen: Epochs| seen.are_ahead_of(own);
            opened.found == Found::Doubt && !opened.grips.epochs().is_some_and(behind)
        };
        if doubtful(&opened) {
            // Nobody was trusted: perhaps the pool is new, and then it is for us to say so.
            let random = shared::throw();
            let founded = self.pool.found(&self.record_key, random, &mut self.call);
            if !matches!(founded, Founded::Stopped { .. }) {
                opened = self.ask(id, &key, &lists, turn)?;
            }
        }
        if doubtful(&opened) && self.pool.rules().patient {
            // Two nodes silent at once: more likely this host or its network has a hiccup.
            self.pool.be_patient(true);
            let again = self.ask(id, &key, &lists, turn);
            self.pool.be_patient(false);
            opened = again?;
        }
        if !opened.joining.is_empty() {
            slices::want(&self.pool, &self.record_key);
        }
        self.log.append(&mut slices::news());
        let seen = opened.grips.epochs();
        let nodes = lists.nodes;
        if let Err(error) = seen.map_or(Ok(()), |seen| self.pool.stands(seen)) {
            if turn {
                let place = self.place(&key, &nodes);
                self.held = Some(Held {
                    id: id.to_vec(),
                    key,
                    nodes,
                    lease: Lease::note(place, opened.grips.marks(), self.terms.lease),
                    grips: opened.grips,
                    data: None,
                });
                self.release();
            }
            return Err(error);
        }
        self.is_destroyed = opened.grips.is_of_destroyed();
        let data = match opened.found {
            Found::Value(data) => Some(data),
            Found::Nothing => None,
            Found::Doubt => {
                shared::count(Counter::Doubts);
                return Err(self.doubt(&nodes));
            }
            Found::Locked => return Err(self.locked(&nodes)),
        };
        if opened.repairs > 0 {
            shared::count_many(Counter::Repairs, u64::from(opened.repairs));
        }
        if opened.unsure {
            shared::count(Counter::KnownHitsServed);
            self.log.push(format!(
                "a session was served though fewer than two trusted nodes of {} answered",
                self.names(&nodes)
            ));
        }
        if turn {
            let place = self.place(&key, &nodes);
            self.held = Some(Held {
                id: id.to_vec(),
                key,
                nodes,
                lease: Lease::note(place, opened.grips.marks(), self.terms.lease),
                grips: opened.grips,
                data: data.clone(),
            });
        }
        Ok(data)
    }

    fn ask(&mut self, id: &[u8], key: &[u8], lists: &Lists, turn: bool) -> Result<Opened, Error> {
        let nodes = &lists.nodes;
        self.fresh();
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let wish = Wish {
            nodes: nodes
                .iter()
                .map(|node| self.pool.ring_name(*node))
                .collect(),
            asked: PREFERRED,
            copies: self.pool.copies(),
            rules: self.pool.rules().machines,
            turn: turn.then(|| Turn {
                wait: milliseconds(self.terms.wait),
                lease: milliseconds(self.terms.lease).saturating_add(LEASE_SLACK),
            }),
            fresh: self.made.as_deref() == Some(id),
            epoch: self.pool.policy().list_epoch(),
            host: handoff::tag(&self.host),
            random: shared::throw(),
        };
        // Before the nodes are asked, so that no bell is missed that rings meanwhile. Who wants
        // no turn stands in nobody's queue.
        let queue = turn.then(|| Queue::new(self.place(key, nodes), self.terms.wait));
        let mut out = Vec::new();
        let mut open = Open::over(wish, lists.parts.clone(), clock(), &mut out);
        let task = Task {
            key,
            record_key: &self.record_key,
            nodes,
        };
        let call = &mut self.call;
        match queue {
            Some(mut queue) => {
                let rules = self.pool.rules();
                let mut wait = |limit, holds| {
                    let neighbour = queue.wait(limit, holds).filter(|_| rules.neighbour);
                    neighbour.map(|neighbour| Neighbour {
                        over: neighbour.over || !rules.works,
                        ..neighbour
                    })
                };
                self.pool
                    .drive_waiting(&mut open, out, task, call, &mut wait);
            }
            None => self.pool.drive(&mut open, out, task, call),
        }
        let opened = open.outcome().ok_or_else(|| self.doubt(nodes))?;
        if matches!(opened.found, Found::Doubt | Found::Locked) {
            // No ending follows that would say so.
            self.leave_turns(&opened.grips.left_turns(), key);
        }
        Ok(opened)
    }

    /// Has the turns ended that these nodes may say somebody has, who is none but this request.
    fn leave_turns(&self, nodes: &[Box<str>], key: &[u8]) {
        if self.pool.rules().machines.vacate {
            for node in nodes {
                handoff::leave_turn(&self.record_key, node, key);
            }
        }
    }

    /// The name under which this host's processes know the turn on `key`.
    fn place(&self, key: &[u8], nodes: &[usize]) -> u64 {
        let names = nodes.iter().map(|node| self.pool.name(*node).as_bytes());
        lease::name([self.record_key.as_slice(), key].into_iter().chain(names))
    }

    /// Ends what is held with `ending`; `what` says in a message what could not be done.
    fn end(&mut self, ending: Ending, life: u32, what: &str) -> Result<(), Error> {
        let Some(held) = self.held.take() else {
            return Ok(());
        };
        self.fresh();
        let ending = match self.refusal(&held, &ending, what) {
            Some(error) => {
                // The turn goes back; nothing else does.
                self.close(held, Ending::Release, life);
                return Err(error);
            }
            None => ending,
        };
        let (releases, destroys) = (ending == Ending::Release, ending == Ending::Destroy);
        let (nodes, key) = (held.nodes.clone(), held.key.len());
        let (closed, seen) = self.close(held, ending, life);
        // What a host with an older list writes is nowhere safe once that was announced.
        let seen = seen.filter(|_| !releases);
        if let Some(seen) = seen.filter(|seen| seen.seen > self.pool.policy().epoch) {
            self.pool.stands(seen)?;
        }
        match closed {
            Some(Closed::Done { copies }) => {
                if copies == 1 && !releases {
                    shared::count(Counter::OneCopyWrites);
                }
                if destroys {
                    shared::count(Counter::Tombstones);
                    let bytes = self.pool.tombstone_bytes(key, &nodes, copies);
                    shared::count_many(Counter::TombstoneBytes, bytes);
                }
            }
            Some(Closed::Conflict) => shared::count(Counter::Conflicts),
            Some(Closed::Failed) | None => {}
        }
        match closed {
            Some(Closed::Done { .. }) => Ok(()),
            Some(Closed::Conflict) => Err(Error::new(
                Kind::Locked,
                format!("the session could not be {what}: another request took it over and changed it meanwhile, and nothing of that was overwritten"),
            )
            .at(&self.names(&nodes))
            .hint("Call session_write_close() earlier in slow requests, or raise memcache.lock_timeout")),
            Some(Closed::Failed) | None => {
                let last = self.call.events().last().map(|event| event.error.clone());
                let hint = if last.as_ref().is_some_and(|error| !error.kind().is_node_fault()) {
                    match self.pool.servers() {
                        "memcached" => "It is as it was. Keep less in the session, or give memcached more room (-I for one item, -m for all)".to_owned(),
                        _ => "It is as it was. Keep less in the session, or give the nodes more room (of memcached -I for one item and -m for all, of Redis maxmemory)".to_owned(),
                    }
                } else {
                    let servers = self.pool.servers();
                    format!("Is {servers} running there? memring status says more")
                };
                Err(Error::new(
                    Kind::Connect,
                    format!(
                        "the session could not be {what}: fewer than two of its nodes took it ({})",
                        last.as_ref().map_or("none could be asked", Error::cause)
                    ),
                )
                .at(&self.names(&nodes))
                .hint(hint))
            }
        }
    }

    fn close(&mut self, held: Held, ending: Ending, life: u32) -> (Option<Closed>, Option<Epochs>) {
        let random = shared::throw() as u32; // 20 bits of it count
        // Before the nodes hear of it: whoever is killed in between costs the next one a lease,
        // and nobody a turn that is another's by then.
        let bell = held.lease.leave();
        let keeper = Keeper::new(&self.record_key, &held.key, self.pool.rules());
        let mut out = Vec::new();
        let mut close = Close::new(held.grips, ending, life, clock(), random, &mut out)
            .kept_by(Box::new(keeper));
        let task = Task {
            key: &held.key,
            record_key: &self.record_key,
            nodes: &held.nodes,
        };
        self.pool.drive(&mut close, out, task, &mut self.call);
        bell.ring();
        self.leave_turns(&close.left_turns(), &held.key);
        let seen = close.epochs();
        (close.outcome(), seen)
    }

    /// Why this host may not write: it alone cannot reach two nodes of the pool at once, so
    /// it is more likely that it is cut off than that both are down. Were it to say of both
    /// that they missed writes, nobody would be left to be trusted.
    fn refusal(&mut self, held: &Held, ending: &Ending, what: &str) -> Option<Error> {
        if *ending == Ending::Release || !self.pool.rules().broken {
            return None;
        }
        let mut out = self.pool.out();
        if out.len() >= 2 {
            // Marks are a second old at times: what is refused now is asked now.
            out = self.pool.ask_out(&mut self.call);
        }
        let host = &self.host;
        let by_others = |node: &usize| {
            let name = self.pool.ring_name(*node);
            let listed = held.grips.listed();
            let mut others = listed.filter(|absent| *absent.people() != **host);
            others.any(|absent| absent.node == name)
        };
        let broken = out.len() >= 2 && !out.iter().all(by_others);
        if shared::set_broken(&self.record_key, broken) {
            self.log.push(if broken {
                format!(
                    "this host ({host}) alone cannot reach {}: it counts itself broken and stores no session until it can",
                    self.names(&out)
                )
            } else {
                format!("this host ({host}) reaches its nodes again")
            });
        }
        broken.then(|| {
            Error::new(
                Kind::Connect,
                format!("the session was not {what}: this host ({host}) cannot reach two nodes of its pool at once, and no other host says the same"),
            )
            .at(&self.names(&out))
            .hint("Is this host's network as it should be? memring status on another host says who answers there")
        })
    }

    fn doubt(&mut self, nodes: &[usize]) -> Error {
        const DOUBT: &str = "the session may exist, but fewer than two nodes that can be trusted to know it answered";
        // Who answered and was not believed may have another program's record, which neither waiting nor tend mends.
        let silent = |node: &usize| {
            let events = self.call.events().iter();
            events
                .filter(|event| event.fault)
                .any(|event| event.node == *node)
        };
        let answered: Vec<usize> = (nodes.iter().copied())
            .filter(|node| self.pool.is_up(*node) && !silent(node))
            .collect();
        let strange = self
            .pool
            .strange(&answered, &self.record_key, &mut self.call);
        if !strange.is_empty() {
            let key = String::from_utf8_lossy(&self.record_key);
            let strangers: Vec<usize> = strange.iter().map(|(node, _)| *node).collect();
            let found = strange.iter();
            let found = found.map(|(node, words)| format!("{} has {words}", self.pool.name(*node)));
            let found: Vec<String> = found.collect();
            let count = match (strangers.len(), nodes.len()) {
                (some, all) if some == all => "all of them have".to_owned(),
                (some, all) => format!("{some} of {all} have"),
            };
            return Error::new(
                Kind::Connect,
                format!("{DOUBT}: {count} a record of an unknown format under the key {key}, which a newer memring or another program wrote ({})", found.join(", ")),
            )
            .at(&self.names(&strangers))
            .hint("The session was not started, so nothing is overwritten. Bring this host to the version of memring that wrote it, or give the pool nodes that no other program uses; memring status says more");
        }
        Error::new(Kind::Connect, DOUBT)
        .at(&self.names(nodes))
        .hint(format!("The session was not started, so nothing is overwritten. Is {} running there? memring status says who is trusted, and memring tend brings back who is not", self.pool.servers()))
    }

    fn locked(&self, nodes: &[usize]) -> Error {
        let seconds = self.terms.wait.as_secs();
        Error::new(
            Kind::Locked,
            format!(
                "another request has held this session for {seconds} s, so this one was not let in"
            ),
        )
        .at(&self.names(nodes))
        .hint("Call session_write_close() earlier in that request, or raise memcache.lock_timeout")
    }

    fn names(&self, nodes: &[usize]) -> String {
        let names: Vec<&str> = nodes.iter().map(|node| self.pool.name(*node)).collect();
        names.join(" and ")
    }

    /// Empties the call for the next exchange, keeping what is worth a log line.
    fn fresh(&mut self) {
        self.log.extend(self.call.changes());
        self.call.reset(Verb::Get);
    }

    fn holds(&self, id: &[u8]) -> bool {
        self.held.as_ref().is_some_and(|held| held.id == id)
    }
}

impl Store for Fenced {
    fn made(&mut self, id: &[u8]) {
        self.made = Some(id.to_vec());
    }

    fn lives(&mut self, seconds: u32) {
        self.terms.life = seconds;
    }

    fn read(&mut self, id: &[u8], turn: bool) -> Result<Vec<u8>, Error> {
        if let Some(held) = self.held.as_ref().filter(|held| held.id == id) {
            // The validation before this read asked already; session_reset() reads again
            // what nobody else can have changed.
            return Ok(plain(held.data.as_deref().unwrap_or_default()).0.to_vec());
        }
        self.release();
        match self.unsure.take() {
            Some((asked, error)) if asked == id => Err(error),
            _ => {
                let found = self.open(id, turn)?;
                Ok(plain(found.as_deref().unwrap_or_default()).0.to_vec())
            }
        }
    }

    fn exists(&mut self, id: &[u8], turn: bool) -> bool {
        if self.holds(id) {
            return true;
        }
        let own = self.made.as_deref() == Some(id);
        // session_create_id() asks for an id made at random, while the turn on the running session is ours.
        let turn = turn && self.held.is_none() && !own;
        match self.open(id, turn) {
            Ok(Some(_)) => true,
            Ok(None) => {
                if turn {
                    self.release();
                }
                false
            }
            Err(_) if own => false,
            Err(error) => {
                self.unsure = Some((id.to_vec(), error));
                true
            }
        }
    }

    fn write(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        if !self.holds(id) {
            self.release();
            self.open(id, true)?;
        }
        self.end(Ending::Write(Arc::from(data)), lifetime, "stored")
    }

    fn touch(&mut self, id: &[u8], data: &[u8], lifetime: u32) -> Result<(), Error> {
        if !self.holds(id) {
            self.release();
            self.open(id, true)?;
        }
        // A new one is stored, though it is empty: its id was sent to the browser.
        let stored = self.held.as_ref().and_then(|held| held.data.as_deref());
        // A note says that pecl's place lives as long, which nobody sees to here.
        let is_new = stored.is_none_or(|stored| !self.noting && plain(stored).1);
        let ending = if is_new {
            Ending::Write(Arc::from(data))
        } else {
            Ending::Touch
        };
        self.end(ending, lifetime, "extended")
    }

    fn destroy(&mut self, id: &[u8]) -> Result<(), Error> {
        if !self.holds(id) {
            self.release();
            self.open(id, true)?;
        }
        let life = self.terms.life;
        self.end(Ending::Destroy, life, "destroyed")
    }

    fn release(&mut self) {
        // Whom it does not reach lets the turn go when the lease is over.
        let _ = self.end(Ending::Release, 1, "released");
    }

    fn is_behind(&self) -> bool {
        let unsure = self.unsure.as_ref();
        unsure.is_some_and(|(_, error)| error.kind() == Kind::Epoch)
    }

    fn evicting(&mut self) -> Vec<String> {
        self.pool.evicting(&mut self.call)
    }

    fn take_log(&mut self) -> Vec<String> {
        self.fresh();
        std::mem::take(&mut self.log)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_for_a_lock_outlasts_the_turn_of_a_request_that_was_killed() {
        for (lock, limit) in [(15, 30), (1, 0), (15, 300), (60, 30), (0, 30)] {
            let lock = Duration::from_secs(lock);
            let lease = lease::term(lock, Duration::from_secs(limit));
            let terms = Terms::new(lock, lease);
            let over = terms.lease + Duration::from_millis(LEASE_SLACK);
            assert!(terms.wait > over && terms.wait >= lock * 2, "{terms:?}");
        }
    }
}
