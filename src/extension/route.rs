//! Memring\route(): where a key would go, and why. It only asks the pool and translates.

use crate::ffi::args::Frame;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::Class;
use crate::ffi::value::Fresh;
use crate::memcache::connected;
use crate::session::Handler;
use crate::status::{list, session_wish, tell};
use crate::{ini, pools, registry, session};
use memring_pool::call::Limits;
use memring_pool::error::{Error, Kind};
use memring_pool::fact::Fact;
use memring_pool::item::{KeyRule, LongKeys};
use memring_pool::pool::Pool;
use memring_pool::pool::route::Op;

/// What the settings put before keys, and do to long ones.
struct Prefixes {
    session: Vec<u8>,
    value: Vec<u8>,
    long: LongKeys,
}

/// Memring\route() and memring_route(): of a pool that is named.
pub(crate) fn route(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    let frame = frame.plain();
    frame.expect(3, 3)?;
    let pool = frame.text(0)?.ok_or(Thrown)?;
    let op = frame.text(1)?.ok_or(Thrown)?;
    let key = frame.text(2)?.ok_or(Thrown)?;
    let prefixes = Prefixes {
        session: session::prefix(),
        value: pools::key_prefix(ini::read(|values| values.prefix.clone())),
        long: ini::read(|values| pools::long_keys(values.key_hash)),
    };
    registry::join();
    tell(of_pool(pool.bytes(), op.bytes(), key.bytes(), prefixes))
}

/// Memring\Memcache::route(): of the object's own pool.
pub(crate) fn route_of(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(2, 2)?;
    let object = frame.object(Class::Pool)?;
    let op = frame.text(0)?.ok_or(Thrown)?;
    let key = frame.text(1)?.ok_or(Thrown)?;
    let Some(link) = connected(object) else {
        errors::check()?;
        return Ok(Fresh::array(crate::ffi::array::Table::new(0)));
    };
    let told = link.with(|state| {
        let op = read(op.bytes())?;
        if op == Op::Session {
            return Err(Error::new(
                Kind::Config,
                "an object has no sessions: name the pool they are kept in, as in Memring\\route('pool:NAME', 'session', $id)",
            ));
        }
        let rule = state.pool.policy().keys.clone();
        state.pool.route(op, key.bytes(), &rule, &limits(op))
    });
    tell(told.unwrap_or_else(|| {
        Err(Error::new(
            Kind::Config,
            "this object is in the middle of a call",
        ))
    }))
}

fn of_pool(pool: &[u8], op: &[u8], key: &[u8], prefixes: Prefixes) -> Result<Fact, Error> {
    let op = read(op)?;
    let wish = match op {
        Op::Session => session_wish(pool)?,
        // A list without a mode keeps copies of sessions only.
        _ => session::wish(Handler::Memcache, &list(pool))?,
    };
    let of_file = !wish.topology.policy.name.is_empty();
    let policy = wish.topology.policy;
    let own = policy.keys.clone();
    // The prefix of a pool of the file is the file's, where it writes one.
    let prefixed = |prefix: Vec<u8>| match own.prefix.is_empty() {
        true => prefix,
        false => own.prefix.clone(),
    };
    let rule = match op {
        // As session.rs makes the keys of sessions.
        Op::Session => KeyRule {
            prefix: prefixed(prefixes.session),
            long: LongKeys::Hash,
        },
        _ => KeyRule {
            prefix: prefixed(prefixes.value),
            long: if of_file { own.long } else { prefixes.long },
        },
    };
    let mut pool = Pool::new(policy);
    registry::with(|nodes| {
        for spec in wish.topology.nodes {
            pool.add_to_look(spec, nodes);
        }
        pool.came_from(&wish.topology.previous, nodes);
    });
    pool.route(op, key, &rule, &limits(op))
}

fn read(word: &[u8]) -> Result<Op, Error> {
    Op::of(word).ok_or_else(|| {
        Error::new(
            Kind::Config,
            "an operation is one of \"get\", \"set\", \"delete\" and \"session\"",
        )
    })
}

/// The settings' copies of what `op` works on, and how far it may go.
fn limits(op: Op) -> Limits {
    ini::read(|values| {
        let limits = values.limits();
        match op {
            Op::Session => Limits {
                copies: u32::try_from(values.session_copies).unwrap_or(u32::MAX),
                ..limits
            },
            _ => limits,
        }
    })
}
