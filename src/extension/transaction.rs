//! The methods of transactions: watch, multi, exec, discard.

use crate::ffi::args::Frame;
use crate::ffi::array::Table;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::Class;
use crate::ffi::resource::Link;
use crate::ffi::scratch::{Desk, Seat};
use crate::ffi::value::Fresh;
use crate::memcache::{begin, keys, number, with_nodes};
use crate::report;
use memring_pool::call::{Outcome, Verb};
use memring_pool::error::Error;
use memring_pool::pool::Pool;
use memring_pool::pool::transaction::Ended;

/// watch(): exec() does nothing when one of these keys changes before.
pub(crate) fn watch(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 1)?;
    let object = frame.object(Class::Pool)?;
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Get);
    if keys(frame, &link, desk)?.is_none() {
        return Ok(Fresh::bool(false));
    }
    match link.with(|state| state.pool.watch(&mut desk.call)) {
        Some(Ok(done)) => {
            report::events(object, desk)?;
            Ok(Fresh::bool(done))
        }
        Some(Err(error)) => refuse(error),
        None => Ok(Fresh::bool(false)),
    }
}

/// multi(): what follows waits for exec().
pub(crate) fn multi(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    sends_nothing(frame, Pool::multi)
}

/// discard(): nothing is watched any more, and what waits is forgotten.
pub(crate) fn discard(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    sends_nothing(frame, Pool::discard)
}

fn sends_nothing(
    frame: &Frame<'_>,
    act: fn(&mut Pool) -> Result<(), Error>,
) -> Result<Fresh, Thrown> {
    frame.expect(0, 0)?;
    let Some(link) = with_nodes(frame.object(Class::Pool)?) else {
        return Ok(Fresh::bool(false));
    };
    match link.with(|state| act(&mut state.pool)) {
        Some(Err(error)) => refuse(error),
        done => Ok(Fresh::bool(done.is_some())),
    }
}

/// exec(): the result of each command, false when nothing was done, or null when nobody knows.
pub(crate) fn exec(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(0, 0)?;
    let object = frame.object(Class::Pool)?;
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Touch);
    let ended = link.with(|state| state.pool.exec(&mut desk.call));
    if let Some(Err(error)) = ended {
        return refuse(error);
    }
    report::events(object, desk)?;
    match ended {
        Some(Ok(Ended::Done)) => {}
        Some(Ok(Ended::Unknown)) => return Ok(Fresh::null()),
        _ => return Ok(Fresh::bool(false)),
    }
    let mut results = Table::new(desk.call.len());
    for index in 0..desk.call.len() {
        results.push(match desk.call.outcome(index) {
            Outcome::Done => Fresh::bool(true),
            other => number(other),
        });
    }
    Ok(Fresh::array(results))
}

/// Puts the desk's call behind those that wait; what its method returns.
pub(crate) fn collect(link: &Link, desk: &mut Desk) -> Result<Fresh, Thrown> {
    match link.with(|state| state.pool.collect(&mut desk.call)) {
        Some(Err(error)) => refuse(error),
        done => Ok(Fresh::bool(done.is_some())),
    }
}

fn refuse(error: Error) -> Result<Fresh, Thrown> {
    errors::warning_of(error.to_string());
    errors::check()?;
    Ok(Fresh::bool(false))
}
