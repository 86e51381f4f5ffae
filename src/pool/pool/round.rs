//! One parallel round of lines about copies of values: said to all nodes at once, waited for once.
//!
//! A [`Line`] is one command about one key at one node. Lines to the same node share its
//! pipeline, so a hundred keys on three nodes are three exchanges. What a server said is held
//! against key and opaque; what it means for the key is decided elsewhere (`cache`, `change`).

use super::Pool;
use super::copies::clock;
use crate::call::{Call, ValueRef};
use crate::config::Engine;
use crate::fanout::{self, Lane};
use crate::item::Span;
use crate::replica::Version;
use crate::shared;
use crate::transport;
use crate::wire::copied::{self, HEADED, Life, Over, TOMBSTONE, VERSION_LEAST};
use crate::wire::fenced::{self, FOR_EVER, HEADER, Header, Shown};
use crate::wire::meta::Status;
use crate::wire::{Expect, Reply, classic, redis};
use std::cell::Cell;
use std::rc::Rc;
use std::time::Instant;

/// A value up to this size is copied behind its line, bytes; a longer one that goes alone is
/// sent from where it lies.
const COPY_MAX: usize = 2048;

/// A version so many milliseconds ahead of the clock is another host's.
const AHEAD: u64 = 1000;

thread_local! {
    /// The highest version that this thread's clock gave of late; pools come and go with the objects of a
    /// request.
    static LAST: Cell<Version> = const { Cell::new(Version(0)) };
}

/// One command about one key of the call at one node.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// Number of the key in its call.
    pub(super) entry: usize,
    /// Which node.
    pub(super) member: usize,
    pub(super) what: What,
}

impl Line {
    fn looks(&self) -> bool {
        matches!(self.what, What::Look { .. })
    }
}

#[derive(Clone, Debug)]
pub(super) enum What {
    /// Is it there, which version, until when; and its value, if asked for.
    Look { value: bool },
    /// Store.
    Put(Put),
    /// Set a new end.
    Touch(Life),
    /// Take it away: whatever it is, or the item with this cas value.
    Remove(Option<u64>),
}

/// A store of one copy.
#[derive(Clone, Debug)]
pub(super) struct Put {
    pub(super) over: Over,
    /// 0 for a value without one, as another client stored it.
    pub(super) version: Version,
    pub(super) flags: u32,
    pub(super) life: Life,
    pub(super) value: Value,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    /// The one that the call has for this key.
    Said,
    /// Another one.
    Bytes(Rc<[u8]>),
    /// None: a remembered delete.
    Tombstone,
}

/// What one line came to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Answer {
    /// The node did not answer; the line may have been carried out.
    Lost,
    /// The node answered with an error, of which the call has an event.
    Refused,
    /// Looked for, and not there.
    Miss,
    /// Looked for, and found.
    Found(Copy),
    /// Stored, touched or taken away.
    Done,
    /// There is something, or nothing, where the other was wanted.
    NotStored,
    /// There is another one than was seen.
    Exists,
    /// There is none to change.
    NotFound,
    /// The node does not know the script, and has done nothing.
    NoScript,
}

/// A copy as a node showed it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Copy {
    /// Which write it is of; 0 for another client's.
    pub(super) version: Version,
    /// The server's cas value.
    pub(super) cas: u64,
    /// Flag bits of its value, without those that are ours.
    pub(super) flags: u32,
    /// A remembered delete, or bytes that nobody can read.
    pub(super) gone: bool,
    /// Seconds left; `FOR_EVER` without an end.
    pub(super) left: u32,
    /// Milliseconds by which that is more than it is, where the server says so (Redis).
    rounded: u16,
    /// Where its value lies, when it was asked for.
    pub(super) value: ValueRef,
    /// When it was seen.
    seen: Instant,
}

impl Copy {
    /// What a caller is given as cas value, and has to bring back.
    pub(super) fn token(&self) -> u64 {
        match self.version.0 {
            0 => self.cas,
            version => version,
        }
    }

    /// Was a second of what is left given away, as often as that must be?
    fn has_ticked(&self, dice: u64) -> bool {
        let given = transport::since(self.seen).as_micros() as u64 + u64::from(self.rounded) * 1000;
        given > dice % 1_000_000
    }

    /// Is what is left so little that it is not to be stored again? `dice` as in [`Copy::life`].
    pub(super) fn is_over(&self, dice: u64) -> bool {
        self.left <= u32::from(self.has_ticked(dice))
    }

    /// Does it end when `other` does, but for what seconds do not show?
    pub(super) fn lives_as(&self, other: &Copy) -> bool {
        self.left.abs_diff(other.left) <= 2
    }

    /// The same as one that is older than all others.
    pub(super) fn outdated(self) -> Copy {
        Copy {
            version: Version(0),
            ..self
        }
    }

    /// The life to store it again with. `dice` are random bits.
    ///
    /// A server's clock ticks once per second. Storing "what is left" again and again would
    /// make a counter that is counted fast live for ever, since each tick between look and
    /// store gives a second away: so one is taken back as often as a tick must have happened. The
    /// same goes for what is rounded up.
    pub(super) fn life(&self, dice: u64) -> Life {
        let ticked = self.has_ticked(dice);
        let seconds = match self.left {
            FOR_EVER => FOR_EVER,
            left => left.saturating_sub(u32::from(ticked)),
        };
        Life::Left {
            seconds,
            now: clock() / 1000,
        }
    }
}

impl Pool {
    /// Says all `lines` at once; their answers, in the same order.
    pub(super) fn round(&mut self, call: &mut Call, lines: &[Line], now: Instant) -> Vec<Answer> {
        // A look that is asked again for its script would see what was written behind it.
        let mixed = lines.iter().any(Line::looks) && !lines.iter().all(Line::looks);
        let mut answers = self.round_once(call, lines, now, mixed);
        let unknown = |place: &usize| answers.get(*place) == Some(&Answer::NoScript);
        let again: Vec<usize> = (0..answers.len()).filter(unknown).collect();
        if !again.is_empty() {
            let said = again.iter().filter_map(|place| lines.get(*place).cloned());
            let said: Vec<Line> = said.collect();
            let heard = self.round_once(call, &said, now, true);
            for (place, answer) in again.into_iter().zip(heard) {
                if let Some(slot) = answers.get_mut(place) {
                    // Said in full it is known.
                    *slot = match answer {
                        Answer::NoScript => Answer::Lost,
                        answer => answer,
                    };
                }
            }
        }
        answers
    }

    /// The same, with scripts by their names or in `whole`.
    fn round_once(
        &mut self,
        call: &mut Call,
        lines: &[Line],
        now: Instant,
        whole: bool,
    ) -> Vec<Answer> {
        self.ask_versions(call, lines, now);
        let first = call.used;
        let mut places: Vec<Option<(usize, usize)>> = Vec::with_capacity(lines.len());
        for line in lines {
            // Who did not say what it takes did not answer just now.
            let silent = self.is_mute(line.member, now)
                && self.needs_versions(line)
                && self.sure_of_versions(line.member, now).is_none();
            let place = (!silent)
                .then(|| self.lane_index(call, first, line.member))
                .flatten();
            places.push(place.and_then(|lane| self.say_line(call, lane, line, whole)));
        }
        self.send_long_value(call, first, lines, &places);
        let (lanes, arena) = (&mut call.lanes, &call.arena);
        fanout::run(lanes.get_mut(first..call.used).unwrap_or_default(), arena);
        self.know_failed(call, first);
        for lane in first..call.used {
            let wrong = self.check(call, lane, lines, &places);
            if let Some(what) = wrong {
                self.disbelieve(call, lane, what);
            }
        }
        let answered: Vec<bool> = (first..call.used)
            .map(|lane| self.note(call, lane))
            .collect();
        // Only what was looked at has a moment in which it was seen.
        let seen = match lines.iter().any(Line::looks) {
            true => transport::now(),
            false => now,
        };
        lines
            .iter()
            .zip(places)
            .map(|(line, place)| match place {
                Some((lane, at)) if answered.get(lane - first) == Some(&true) => {
                    read(call, &line.what, (lane, at), seen)
                }
                _ => Answer::Lost,
            })
            .collect()
    }

    /// Asks the servers that a value goes to, and that nobody asked yet, what they take.
    fn ask_versions(&mut self, call: &mut Call, lines: &[Line], now: Instant) {
        let need = lines.iter().filter(|line| self.needs_versions(line));
        let strangers = self.strangers(need.map(|line| line.member), now);
        self.ask_strangers(call, strangers, now);
    }

    /// Those of these nodes that nobody asked yet what they take.
    pub(super) fn strangers(
        &self,
        members: impl IntoIterator<Item = usize>,
        now: Instant,
    ) -> Vec<usize> {
        let mut strangers: Vec<usize> = Vec::new();
        for member in members {
            if self.engine(member) == Engine::Memcached
                && self.sure_of_versions(member, now).is_none()
                && !strangers.contains(&member)
                && !self.is_mute(member, now)
            {
                strangers.push(member);
            }
        }
        strangers
    }

    /// Did the node not say in this call what it takes?
    fn is_mute(&self, member: usize, now: Instant) -> bool {
        let member = self.members.get(member);
        member.is_some_and(|member| member.mute == Some(now))
    }

    /// Asks them. Before versions are drawn: one drawn long before it is sent may be lower than what was
    /// written meanwhile.
    pub(super) fn ask_strangers(&mut self, call: &mut Call, strangers: Vec<usize>, now: Instant) {
        if strangers.is_empty() {
            return;
        }
        let answered = self.exchange_all(&strangers, call, |out, asks| {
            classic::version(out);
            asks.push(Expect::Version);
        });
        self.note_versions(answered, call);
        for place in strangers {
            let silent = self.sure_of_versions(place, now).is_none();
            if let (true, Some(member)) = (silent, self.members.get_mut(place)) {
                member.mute = Some(now);
            }
        }
    }

    /// Appends a line to a lane; which lane and which answer of it is its own.
    fn say_line(
        &self,
        call: &mut Call,
        lane: usize,
        line: &Line,
        whole: bool,
    ) -> Option<(usize, usize)> {
        let versions = self.known_versions(line.member);
        let key = call.entries.get(line.entry)?.key;
        let said = call.details(line.entry).value;
        let (lanes, arena) = (&mut call.lanes, &call.arena);
        let key = key.of(arena);
        let lane_at = lane;
        let lane = lanes.get_mut(lane)?;
        let at = lane.asks.len();
        if at == 0 {
            lane.repeatable = true;
        }
        lane.repeatable &= !matches!(line.what, What::Put(_) | What::Remove(_));
        lane.stores |= matches!(line.what, What::Put(_));
        let put = match &line.what {
            What::Put(put) => Some(copied::Put {
                key,
                over: put.over,
                version: put.version.0,
                flags: put.flags,
                life: put.life,
                value: match &put.value {
                    Value::Said => Some(said.of(arena)),
                    Value::Bytes(bytes) => Some(&**bytes),
                    Value::Tombstone => None,
                },
            }),
            _ => None,
        };
        if lane.engine == Engine::Redis {
            lane.ask_redis(|out| match (&line.what, put) {
                (_, Some(put)) => redis::copied::store(out, put, whole),
                (What::Touch(life), _) => redis::copied::touch(out, key, *life, whole),
                (What::Remove(cas), _) => redis::copied::remove(out, key, *cas, whole),
                (what, None) => {
                    let value = matches!(what, What::Look { value: true });
                    redis::copied::look(out, key, value, whole)
                }
            });
            return Some((lane_at, at));
        }
        let opaque = at as u64;
        match (&line.what, put) {
            // Without versions in the cas value they stand before the value.
            (_, Some(put)) => copied::store(&mut lane.out, put, versions, opaque),
            (What::Touch(life), _) => copied::touch(&mut lane.out, key, *life, opaque),
            (What::Remove(cas), _) => copied::remove(&mut lane.out, key, *cas, opaque),
            (what, None) => {
                let value = matches!(what, What::Look { value: true });
                fenced::read(&mut lane.out, key, value || !versions, None, opaque);
            }
        }
        lane.asks.push(Expect::Meta);
        Some((lane_at, at))
    }

    /// A long value that goes alone is sent from where it lies, to every node.
    fn send_long_value(
        &self,
        call: &mut Call,
        first: usize,
        lines: &[Line],
        places: &[Option<(usize, usize)>],
    ) {
        for (line, place) in lines.iter().zip(places) {
            let (Some((lane, _)), What::Put(put)) = (place, &line.what) else {
                continue;
            };
            let value = call.details(line.entry).value;
            if !matches!(put.value, Value::Said) || value.len <= COPY_MAX || *lane < first {
                continue;
            }
            let alone = |l: &&mut Lane| l.asks.len() == 1 && l.engine == Engine::Memcached;
            if let Some(lane) = call.lanes.get_mut(*lane).filter(alone) {
                lane.out
                    .truncate(lane.out.len().saturating_sub(value.len + 2));
                lane.tail = value;
            }
        }
    }

    /// What is wrong with the answers of a lane, if anything.
    fn check(
        &self,
        call: &Call,
        lane: usize,
        lines: &[Line],
        places: &[Option<(usize, usize)>],
    ) -> Option<&'static str> {
        let (answers, received) = call.answers(lane);
        let asked = call.lanes.get(lane).filter(|l| l.error.is_none())?;
        if answers.len() != asked.asks.len() {
            return Some("fewer answers than questions");
        }
        let mine = lines.iter().zip(places).filter_map(|(line, place)| {
            let (its, at) = (*place)?;
            (its == lane).then_some((line, at))
        });
        for (line, at) in mine {
            if let Some(Reply::List(list)) = answers.get(at)
                && redis::copied::Shown::of(received, *list).is_none()
            {
                return Some("an item without its particulars");
            }
            let Some(Reply::Meta(answer)) = answers.get(at) else {
                // An error line has no opaque.
                continue;
            };
            let own_key = answer
                .key
                .is_none_or(|key| key.of(received) == call.wire_key(line.entry));
            // memcached leaves the opaque out of a plain miss (EN).
            let own = answer
                .opaque
                .map_or(answer.status == Status::Miss, |o| o == at as u64);
            if !own_key || !own {
                return Some("the answer to another question");
            }
            let shows = matches!(line.what, What::Look { .. })
                && matches!(answer.status, Status::Value | Status::Done);
            if shows && Shown::of(*answer, received).is_none() {
                return Some("an item without its particulars");
            }
        }
        None
    }

    /// Is the line another one for a server that takes versions?
    fn needs_versions(&self, line: &Line) -> bool {
        matches!(line.what, What::Put(_) | What::Look { value: false })
            && self.engine(line.member) == Engine::Memcached
    }

    /// Does the connected server take versions? None where nobody asked on this connection.
    fn sure_of_versions(&self, index: usize, now: Instant) -> Option<bool> {
        let mut node = self.members.get(index)?.node.borrow_mut();
        node.takes_versions.filter(|_| node.is_open(now))
    }

    fn known_versions(&self, index: usize) -> bool {
        let node = self.members.get(index).map(|m| m.node.borrow());
        node.is_some_and(|node| node.takes_versions == Some(true) && node.is_connected())
    }
}

/// A version above `seen`, by this host's clock when `now` is that, or just above for 0.
pub(super) fn next_version(now: u64, seen: Version) -> Version {
    let random = shared::throw() as u32; // 20 bits of it count
    let version = Version::next(now, seen, random);
    // Not from a counter, which counts on in it, nor from another host's clock that is ahead.
    if now != 0 && version.milliseconds() < now + AHEAD {
        LAST.set(version.max(LAST.get()));
    }
    version
}

/// A version for a write that looked at nothing, above those of this thread before it.
pub(super) fn blind_version() -> Version {
    let random = shared::throw() as u32; // 20 bits of it count
    let version = Version::blind(clock(), LAST.get(), random);
    LAST.set(version);
    version
}

/// What the answer at a place (lane, number) of a checked lane means.
fn read(call: &Call, what: &What, (lane, at): (usize, usize), seen: Instant) -> Answer {
    let (answers, received) = call.answers(lane);
    match answers.get(at) {
        Some(Reply::Meta(answer)) => match answer.status {
            Status::Miss => Answer::Miss,
            Status::NotStored => Answer::NotStored,
            Status::Exists => Answer::Exists,
            Status::NotFound => Answer::NotFound,
            Status::Value | Status::Done => match Shown::of(*answer, received) {
                Some(shown) => {
                    let mut copy = Copy {
                        cas: answer.cas,
                        left: shown.ttl,
                        ..copy(answer.flags, lane, answer.data, received, seen)
                    };
                    if answer.flags & HEADED == 0 && answer.cas >= VERSION_LEAST {
                        copy.version = Version(answer.cas);
                    }
                    Answer::Found(copy)
                }
                None => Answer::Done,
            },
            Status::NoOp => Answer::Lost,
        },
        Some(Reply::List(list)) => match redis::copied::Shown::of(received, *list) {
            Some(shown) => Answer::Found(Copy {
                cas: shown.cas,
                left: shown.left,
                rounded: shown.rounded,
                ..copy(shown.flags, lane, shown.data, received, seen)
            }),
            None => Answer::Lost,
        },
        Some(Reply::Done) => Answer::Done,
        Some(Reply::NotStored) => Answer::NotStored,
        Some(Reply::Exists) => Answer::Exists,
        Some(Reply::NotFound) => match what {
            What::Look { .. } | What::Touch(_) => Answer::Miss,
            _ => Answer::NotFound,
        },
        Some(Reply::NoScript) => Answer::NoScript,
        _ => Answer::Refused,
    }
}

/// A copy with these flags, `span` being what lies behind them; its version, where that stands
/// before the value.
fn copy(flags: u32, lane: usize, mut span: Span, received: &[u8], seen: Instant) -> Copy {
    let (mut version, mut gone) = (0, flags & TOMBSTONE != 0);
    if flags & HEADED != 0 {
        match Header::split(span.of(received)) {
            Some((header, value)) => {
                version = header.version;
                gone |= header.tombstone;
                span = Span {
                    at: span.at + HEADER,
                    len: value.len(),
                };
            }
            // Somebody prepended to it, who does not know what stands there.
            None => gone = true,
        }
    }
    Copy {
        version: Version(version),
        cas: 0,
        flags: flags & !(HEADED | TOMBSTONE),
        gone,
        left: FOR_EVER,
        rounded: 0,
        value: Call::hit(lane, span),
        seen,
    }
}
