//! The methods that work on keys: store, get, delete, count, touch.
//!
//! Each runs in the same steps. (1) Arguments become a call of the pool, whose heap is the
//! desk of this depth. (2) The call runs; nothing of Zend happens meanwhile. (3) Failures
//! are told, which may run userland. (4) Outcomes become PHP values. One handler serves the
//! method and the memcache_* function of the same job.

use crate::ffi::args::Frame;
use crate::ffi::array::{Array, Key, Table};
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::{Class, Connection, Object};
use crate::ffi::resource::Link;
use crate::ffi::scratch::{Desk, Seat};
use crate::ffi::string::{OwnedText, Text};
use crate::ffi::value::{Fresh, Kind, Value};
use crate::value::Refused;
use crate::{ini, report, trace, transaction, value};
use memring_pool::call::{Call, Outcome, Verb};
use memring_pool::codec::Compression;
use memring_pool::config::{Login, Protocol};
use memring_pool::item::Ttl;
use memring_pool::lease;
use memring_pool::pool::Pool;
use memring_pool::wire::Store;
use std::time::Instant;

/// What stands behind the property `connection` of an object.
pub(crate) struct State {
    /// The nodes.
    pub(crate) pool: Pool,
    /// When values are compressed.
    pub(crate) compression: Compression,
    /// Who we are at memcached nodes that do not say so themselves.
    pub(crate) login: Option<Login>,
}

/// add(): only where nothing is stored.
pub(crate) fn add(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    store(frame, Store::Add)
}

/// set(): unconditional.
pub(crate) fn set(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    store(frame, Store::Set)
}

/// replace(): only where something is stored.
pub(crate) fn replace(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    store(frame, Store::Replace)
}

/// cas(): only where the item still has the given cas value.
pub(crate) fn cas(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    store(frame, Store::Cas)
}

/// append(): after the stored bytes.
pub(crate) fn append(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    store(frame, Store::Append)
}

/// prepend(): before the stored bytes.
pub(crate) fn prepend(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    store(frame, Store::Prepend)
}

/// get(): a value or false; for an array of keys the array of hits.
pub(crate) fn get(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 3)?;
    let object = frame.object(Class::Pool)?;
    let verb = if frame.count() >= 3 {
        Verb::Gets
    } else {
        Verb::Get
    };
    fetch(frame, object, verb, 0, 1)
}

/// getAndTouch(): get() that also sets a new expiry.
pub(crate) fn get_and_touch(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 4)?;
    let object = frame.object(Class::Pool)?;
    let expiry = frame.long(1, 0)?;
    fetch(frame, object, Verb::GetAndTouch, expiry, 2)
}

/// delete(): true when all keys were there. The second argument is read and means nothing.
pub(crate) fn delete(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 2)?;
    let object = frame.object(Class::Pool)?;
    frame.long(1, 0)?;
    yes_or_no(frame, object, Verb::Delete, 0)
}

/// touch(): true when all keys were there and have the new expiry.
pub(crate) fn touch(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 2)?;
    let object = frame.object(Class::Pool)?;
    let expiry = frame.long(1, 0)?;
    yes_or_no(frame, object, Verb::Touch, expiry)
}

/// increment(): the new number, or false; for an array of keys an array of both.
pub(crate) fn increment(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    count(frame, false)
}

/// decrement(): increment() the other way, not below 0.
pub(crate) fn decrement(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    count(frame, true)
}

/// The pool of `object`; None after the warning that says why there is none.
pub(crate) fn connected(object: Object<'_>) -> Option<Link> {
    match object.connection() {
        Connection::Pool(link) => return Some(link),
        Connection::None => errors::warning("No servers added to memcache connection"),
        Connection::Broken => errors::warning("Invalid MemcachePool->connection member variable"),
    }
    None
}

/// The same for calls that need a node: a pool closed before is no reason for a warning.
pub(crate) fn with_nodes(object: Object<'_>) -> Option<Link> {
    connected(object).filter(|link| link.with(|state| !state.pool.is_empty()).unwrap_or(false))
}

/// Empties the desk's call for `verb`, with the limits of this moment.
pub(crate) fn begin(desk: &mut Desk, verb: Verb) {
    desk.call.reset(verb);
    lease::call();
    // One look at the settings per call: each is a walk to this thread's own memory.
    (desk.call.limits, desk.traced) =
        ini::read(|values| (values.limits(), !values.trace.is_empty()));
    desk.names.clear();
}

/// Adds a key to the call; false after a warning when it is empty.
#[inline]
pub(crate) fn push(link: &Link, desk: &mut Desk, key: &[u8]) -> Result<bool, Thrown> {
    let pushed = link.with(|state| desk.call.push(&state.pool.policy().keys, key).is_ok());
    if pushed == Some(true) {
        return Ok(true);
    }
    no_key()
}

#[cold]
fn no_key() -> Result<bool, Thrown> {
    errors::warning("Invalid key");
    errors::check().map(|()| false)
}

/// Steps 2 and 3 of every call. Between multi() and exec() the call waits, and this is what its
/// method returns.
fn run(object: Object<'_>, link: &Link, desk: &mut Desk) -> Result<Option<Fresh>, Thrown> {
    let waits = link.with(|state| {
        if state.pool.collects() {
            return true;
        }
        if !desk.call.is_empty() {
            match desk.traced {
                false => state.pool.run(&mut desk.call),
                true => traced(state, &mut desk.call),
            }
        }
        false
    });
    if waits == Some(true) {
        return transaction::collect(link, desk).map(Some);
    }
    report::events(object, desk)?;
    Ok(None)
}

/// Runs a call and writes its lines to the trace.
#[cold]
fn traced(state: &mut State, call: &mut Call) {
    let path = ini::read(|values| values.trace.clone());
    let start = Instant::now();
    state.pool.run(call);
    trace::append(&path, state, call, start.elapsed());
}

fn store(frame: &Frame<'_>, how: Store) -> Result<Fresh, Thrown> {
    frame.expect(1, 5)?;
    let object = frame.object(Class::Pool)?;
    let flags = frame.long(2, 0)?;
    let expiry = frame.long(3, 0)?;
    let cas = frame.long(4, 0)?;
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let joins = matches!(how, Store::Append | Store::Prepend);
    let Some((format, compression)) =
        link.with(|state| (state.pool.policy().format, state.compression))
    else {
        return Ok(Fresh::bool(false));
    };
    let compression = (!joins).then_some(compression);

    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Store(how));
    let put = |desk: &mut Desk, key: &[u8], value: Value<'_>| -> Result<(), Thrown> {
        if !push(&link, desk, key)? {
            return Ok(());
        }
        match value::encode(value, flags, format, compression, desk) {
            Ok(flags) => {
                let last = desk.call.len().saturating_sub(1);
                if let Some(entry) = desk.call.entry_mut(last) {
                    entry.flags = flags;
                    entry.ttl = Ttl::from_php(expiry).0;
                    // A cas value is 64 bits without sign; PHP carries them in an int.
                    entry.cas = cas as u64;
                }
                Ok(())
            }
            Err(Refused::Skipped) => {
                desk.call.pop();
                Ok(())
            }
            Err(Refused::Thrown) => Err(Thrown),
        }
    };
    let Some(keys) = frame.value(0) else {
        return Ok(Fresh::bool(false));
    };
    match (keys.kind(), frame.value(1)) {
        (Kind::Array(list), _) => {
            for (key, value) in list.iter() {
                match key {
                    Key::Name(name) => put(desk, name.bytes(), value)?,
                    // PHP's array keys count from the unsigned side in pecl-memcache: -1 is 18446744073709551615.
                    Key::Index(index) => {
                        put(desk, OwnedText::decimal(index as u64).bytes(), value)?
                    }
                }
            }
        }
        (_, Some(value)) => {
            let name = OwnedText::from_value(keys).ok_or(Thrown)?;
            put(desk, name.bytes(), value)?;
        }
        (_, None) => return Err(errors::wrong_count()),
    }
    if let Some(waits) = run(object, &link, desk)? {
        return Ok(waits);
    }
    let outcomes = || (0..desk.call.len()).map(|index| desk.call.outcome(index));
    let refused = outcomes().any(|outcome| !matches!(outcome, Outcome::Done | Outcome::Lost));
    Ok(Fresh::bool(
        !refused && outcomes().any(|outcome| outcome == Outcome::Done),
    ))
}

/// What argument 0 was.
pub(crate) enum Keys<'a> {
    /// One key.
    One,
    /// A list of them.
    Many(Array<'a>),
}

/// Adds the key or keys of argument 0 to the call; None when the one key was refused.
///
/// A list of strings, as most are, is itself the list of keys for the answer: the call
/// holds it, so nobody changes it meanwhile. Of any other the keys are kept as `names`.
pub(crate) fn keys<'a>(
    frame: &Frame<'a>,
    link: &Link,
    desk: &mut Desk,
) -> Result<Option<Keys<'a>>, Thrown> {
    let Some(keys) = frame.value(0) else {
        return Ok(None);
    };
    let Kind::Array(list) = keys.kind() else {
        let name = OwnedText::from_value(keys).ok_or(Thrown)?;
        return Ok(push(link, desk, name.bytes())?.then_some(Keys::One));
    };
    let mut rest = list.values();
    let odd = link.with(|state| {
        let rule = &state.pool.policy().keys;
        rest.find(|key| match key.kind() {
            Kind::Text(text) => desk.call.push(rule, text.bytes()).is_err(),
            _ => true,
        })
    });
    let Some(odd) = odd.flatten() else {
        return Ok(Some(Keys::Many(list)));
    };
    for key in list.values().take(desk.call.len()) {
        desk.names.push(OwnedText::from_value(key).ok_or(Thrown)?);
    }
    for key in std::iter::once(odd).chain(rest) {
        let name = OwnedText::from_value(key.deref()).ok_or(Thrown)?;
        if push(link, desk, name.bytes())? {
            desk.names.push(name);
        }
    }
    Ok(Some(Keys::Many(list)))
}

/// The caller's key number `index` of an array of keys; `own` is the element of that number.
fn name<'n>(desk: &'n Desk, index: usize, own: Option<Value<'n>>) -> Option<Text<'n>> {
    match (desk.names.get(index), own?.kind()) {
        (Some(name), _) => Some(name.text()),
        (None, Kind::Text(text)) => Some(text),
        _ => None,
    }
}

/// Reads values; the by-reference arguments for flags and cas begin at `out`.
fn fetch(
    frame: &Frame<'_>,
    object: Object<'_>,
    verb: Verb,
    expiry: i64,
    out: u32,
) -> Result<Fresh, Thrown> {
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, verb);
    let Some(keys) = keys(frame, &link, desk)? else {
        return Ok(Fresh::bool(false));
    };
    if verb == Verb::GetAndTouch {
        for index in 0..desk.call.len() {
            if let Some(entry) = desk.call.entry_mut(index) {
                entry.ttl = Ttl::from_php(expiry).0;
            }
        }
    }
    if let Some(waits) = run(object, &link, desk)? {
        return Ok(waits);
    }
    let Keys::Many(list) = keys else {
        return one(frame, &link, desk, out);
    };
    let mut list = list.values();
    let wants_flags = frame.count() > out;
    let wants_cas = frame.count() > out + 1;
    let mut values = Table::new(desk.call.len());
    let mut flag_table: Option<Table> = None;
    let mut cas_table: Option<Table> = None;
    let mut told = 0;
    if !wants_flags && desk.names.is_empty() {
        // What most answers are: texts, of which nobody wants to know more.
        let texts = desk.call.plain(value::is_text);
        told = texts.fold(0, |told, text| {
            if let (Some(Kind::Text(name)), Some(text)) = (list.next().map(Value::kind), text) {
                values.put_text(name, text);
            }
            told + 1
        });
    }
    for index in told..desk.call.len() {
        let own = list.next();
        let Outcome::Hit { flags, cas, value } = desk.call.outcome(index) else {
            continue;
        };
        let name = if value::is_text(flags) {
            let Some(name) = name(desk, index, own) else {
                continue;
            };
            values.put_text(name, desk.call.value(value));
            name
        } else {
            let Some(fresh) = value::decode(desk, &link, index, (flags, value))? else {
                continue;
            };
            let Some(name) = name(desk, index, own) else {
                continue;
            };
            values.put(name, fresh);
            name
        };
        if wants_flags {
            let table = flag_table.get_or_insert_with(|| Table::new(0));
            table.put(name, Fresh::long(i64::from(flags)));
        }
        if wants_cas {
            let table = cas_table.get_or_insert_with(|| Table::new(0));
            table.put(name, Fresh::long(cas as i64));
        }
    }
    let values = Fresh::array(values);
    // Assigning may run a destructor of the old value: the answer is complete by then.
    if let Some(table) = flag_table {
        frame.out(out, Fresh::array(table));
    }
    if let Some(table) = cas_table {
        frame.out(out + 1, Fresh::array(table));
    }
    Ok(values)
}

/// The answer for a single key.
fn one(frame: &Frame<'_>, link: &Link, desk: &mut Desk, out: u32) -> Result<Fresh, Thrown> {
    let Outcome::Hit { flags, cas, value } = desk.call.outcome(0) else {
        return Ok(Fresh::bool(false));
    };
    let Some(fresh) = value::decode(desk, link, 0, (flags, value))? else {
        return Ok(Fresh::bool(false));
    };
    // A stored null comes back as false, as in pecl-memcache; in an array it is null.
    let answer = if fresh.value().is_null() {
        Fresh::bool(false)
    } else {
        fresh
    };
    frame.out(out, Fresh::long(i64::from(flags)));
    frame.out(out + 1, Fresh::long(cas as i64));
    Ok(answer)
}

fn yes_or_no(
    frame: &Frame<'_>,
    object: Object<'_>,
    verb: Verb,
    expiry: i64,
) -> Result<Fresh, Thrown> {
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, verb);
    if keys(frame, &link, desk)?.is_none() {
        return Ok(Fresh::bool(false));
    }
    for index in 0..desk.call.len() {
        if let Some(entry) = desk.call.entry_mut(index) {
            entry.ttl = Ttl::from_php(expiry).0;
        }
    }
    if let Some(waits) = run(object, &link, desk)? {
        return Ok(waits);
    }
    let outcomes = || (0..desk.call.len()).map(|index| desk.call.outcome(index));
    let refused = outcomes().any(|outcome| !matches!(outcome, Outcome::Done | Outcome::Lost));
    Ok(Fresh::bool(
        !refused && outcomes().any(|outcome| outcome == Outcome::Done),
    ))
}

fn count(frame: &Frame<'_>, down: bool) -> Result<Fresh, Thrown> {
    frame.expect(1, 4)?;
    let object = frame.object(Class::Pool)?;
    let step = frame.long(1, 1)?;
    let start = frame.long(2, 0)?;
    let expiry = frame.long(3, 0)?;
    let initial = (frame.count() >= 3).then_some(start as u64);
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    // A negative step goes the other way.
    begin(
        desk,
        if down == (step < 0) {
            Verb::Increment
        } else {
            Verb::Decrement
        },
    );
    let Some(keys) = keys(frame, &link, desk)? else {
        return Ok(Fresh::bool(false));
    };
    for index in 0..desk.call.len() {
        if let Some(entry) = desk.call.entry_mut(index) {
            entry.delta = step.unsigned_abs();
            entry.initial = initial;
            entry.ttl = Ttl::from_php(expiry).0;
        }
    }
    if let Some(waits) = run(object, &link, desk)? {
        return Ok(waits);
    }
    let Keys::Many(list) = keys else {
        return Ok(number(desk.call.outcome(0)));
    };
    let mut list = list.values();
    let mut table = Table::new(desk.call.len());
    for index in 0..desk.call.len() {
        let outcome = desk.call.outcome(index);
        if let (Some(name), false) = (name(desk, index, list.next()), outcome == Outcome::Lost) {
            table.put(name, number(outcome));
        }
    }
    Ok(Fresh::array(table))
}

/// A counter's answer; what PHP's int cannot hold is its largest.
pub(crate) fn number(outcome: Outcome) -> Fresh {
    match outcome {
        Outcome::Number(number) => Fresh::long(i64::try_from(number).unwrap_or(i64::MAX)),
        _ => Fresh::bool(false),
    }
}

/// True when the pool speaks in the meaning of the binary protocol.
pub(crate) fn is_binary(link: &Link) -> bool {
    link.with(|state| state.pool.policy().protocol == Protocol::Binary)
        .unwrap_or(false)
}
