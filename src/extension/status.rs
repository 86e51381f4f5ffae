//! Memring\status(): what this process and its host know, as one array.
//!
//! Pools are those of the file and the one sessions are kept in; nodes that belong to none
//! of them (addServer) follow. Nothing is asked of a node unless a pool is named. Secrets
//! never get here: a list is shown by the names of its nodes alone.

use crate::ffi::args::Frame;
use crate::ffi::array::Table;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::ini::text as ini_text;
use crate::ffi::module::VERSION;
use crate::ffi::scratch::Seat;
use crate::ffi::value::Fresh;
use crate::registry;
use crate::session::{self, Handler};
use memring_pool::call::Call;
use memring_pool::config::{Mode, Wish};
use memring_pool::counters::Counter;
use memring_pool::error::Error;
use memring_pool::fact::Fact;
use memring_pool::handoff;
use memring_pool::pool::Pool;
use memring_pool::pool::status::other_nodes;
use memring_pool::replica::record_key;
use memring_pool::shared::turns::Turns;
use memring_pool::shared::{self, Missed};

/// A pool, and where its wish stands: "file" or "session.save_path".
type Known = (&'static str, Pool);

/// Memring\status() and memring_status().
pub(crate) fn status(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    let frame = frame.plain();
    frame.expect(0, 1)?;
    let asked = match frame.value(0) {
        Some(value) if !value.is_null() => frame.text(0)?.map(|text| text.bytes().to_vec()),
        _ => None,
    };
    registry::join();
    let told = match asked {
        None => Ok(whole()),
        Some(name) => named(&name),
    };
    tell(told)
}

/// A fact as PHP's result, or the exception that says why there is none.
pub(crate) fn tell(told: Result<Fact, Error>) -> Result<Fresh, Thrown> {
    let mut seat = Seat::take();
    let desk = seat.desk();
    match told {
        // On the desk, because PHP may jump out of the making of the array (memory_limit).
        Ok(fact) => desk.told = Some(fact),
        Err(error) => {
            let text = error.to_string();
            drop(error);
            return Err(errors::value_error(text));
        }
    }
    let result = desk.told.as_ref().map_or_else(Fresh::null, fresh);
    desk.told = None;
    Ok(result)
}

/// Everything, nobody asked.
pub(crate) fn whole() -> Fact {
    let (pools, trouble) = known();
    let list: Fact = pools
        .iter()
        .map(|(source, pool)| from(source, pool.status()))
        .collect();
    let pools: Vec<Pool> = pools.into_iter().map(|(_, pool)| pool).collect();
    let others = registry::with(|nodes| other_nodes(nodes, &pools));
    Fact::Map(vec![
        ("version", VERSION.into()),
        ("host", host()),
        ("counters", counters()),
        ("pools", list),
        ("other_nodes", others),
        ("trouble", trouble.into_iter().collect()),
    ])
}

/// One pool, with what its nodes say of themselves now.
fn named(name: &[u8]) -> Result<Fact, Error> {
    let wish = session_wish(name)?;
    // Only pools of sessions have records.
    let copied = wish.topology.policy.mode == Mode::Fenced;
    let mut pool = Pool::new(wish.topology.policy);
    registry::with(|nodes| {
        for spec in wish.topology.nodes {
            pool.add(spec, nodes);
        }
        pool.came_from(&wish.topology.previous, nodes);
        pool.drains(&wish.topology.drained);
    });
    let told = if copied {
        let name = &pool.policy().name;
        let key = record_key((!name.is_empty()).then_some(name.as_str()));
        let missed = |node: &str| handoff::left(&key, node);
        pool.status_now(&key, &mut Call::new(), &missed)
    } else {
        pool.status()
    };
    let source = if pool.policy().name.is_empty() {
        "list"
    } else {
        "file"
    };
    Ok(Fact::Map(vec![
        ("version", VERSION.into()),
        ("host", host()),
        ("counters", counters()),
        ("pools", Fact::List(vec![from(source, told)])),
        ("other_nodes", Fact::List(Vec::new())),
        ("trouble", Fact::List(Vec::new())),
    ]))
}

/// A pool as sessions would be kept in it. Where it is not the one they are kept in now, a
/// list is taken as handler memring takes it, and a pool of the file as it is written.
pub(crate) fn session_wish(pool: &[u8]) -> Result<Wish, Error> {
    let list = list(pool);
    let other = if list.starts_with(b"pool:") {
        Handler::Memcache
    } else {
        Handler::Memring
    };
    let current = handler().filter(|_| session::list(&ini_text(c"session.save_path")) == list);
    session::wish(current.unwrap_or(other), &list)
}

/// A pool as it stands in a list: NAME alone is `pool:NAME`.
pub(crate) fn list(pool: &[u8]) -> Vec<u8> {
    if pool.iter().any(|byte| b":,/.".contains(byte)) {
        pool.to_vec()
    } else {
        [b"pool:", pool].concat()
    }
}

/// The pools this process was told of, and what could not be read of them.
fn known() -> (Vec<Known>, Vec<String>) {
    let mut pools = Vec::new();
    let mut trouble = Vec::new();
    match session::file() {
        Ok(Some(file)) => {
            for name in file.names() {
                match session_wish(format!("pool:{name}").as_bytes()) {
                    Ok(wish) => pools.push(("file", look(wish))),
                    Err(error) => trouble.push(error.to_string()),
                }
            }
        }
        Ok(None) => {}
        Err(error) => trouble.push(error.to_string()),
    }
    if let Some(handler) = handler() {
        let path = session::list(&ini_text(c"session.save_path"));
        // A pool of the file stands in the list already.
        if !path.is_empty() && !path.starts_with(b"pool:") {
            match session::wish(handler, &path) {
                Ok(wish) => pools.push(("session.save_path", look(wish))),
                Err(error) => trouble.push(error.to_string()),
            }
        }
    }
    (pools, trouble)
}

fn look(wish: Wish) -> Pool {
    let mut pool = Pool::new(wish.topology.policy);
    registry::with(|directory| {
        for spec in wish.topology.nodes {
            pool.add_to_look(spec, directory);
        }
        pool.came_from(&wish.topology.previous, directory);
        pool.drains(&wish.topology.drained);
    });
    pool
}

/// Which of our session handlers is set, if one is.
pub(crate) fn handler() -> Option<Handler> {
    match ini_text(c"session.save_handler").as_slice() {
        b"memring" => Some(Handler::Memring),
        b"memcache" => Some(Handler::Memcache),
        _ => None,
    }
}

/// What the processes of this host share.
fn host() -> Fact {
    let (state, now) = (shared::state(), shared::now());
    Fact::Map(vec![
        ("shared", state.sharing.word().into()),
        (
            "file",
            state
                .file
                .map(|path| path.to_string_lossy().into_owned())
                .into(),
        ),
        ("nodes_known", state.nodes.into()),
        ("nodes_at_most", shared::SLOTS.into()),
        ("nodes_without_a_slot", shared::overflow().into()),
        (
            "missed_keys_kept",
            shared::missed().map(Missed::kept).into(),
        ),
        ("turns_held", shared::turns().map(Turns::held).into()),
        (
            "seconds_since_tend",
            shared::tended(now).map(|at| (now - at) / 1000).into(),
        ),
    ])
}

/// What this host's processes counted, since their region was made.
fn counters() -> Fact {
    let all = Counter::ALL.iter();
    Fact::Map(
        all.map(|counter| (counter.name(), shared::counted(*counter).into()))
            .collect(),
    )
}

fn from(source: &'static str, pool: Fact) -> Fact {
    match pool {
        Fact::Map(mut pairs) => {
            pairs.insert(1, ("source", source.into()));
            Fact::Map(pairs)
        }
        other => other,
    }
}

/// A fact as PHP holds it.
pub(crate) fn fresh(fact: &Fact) -> Fresh {
    match fact {
        Fact::Null => Fresh::null(),
        Fact::Bool(yes) => Fresh::bool(*yes),
        Fact::Int(number) => Fresh::long(*number),
        Fact::Text(text) => Fresh::text(text.as_bytes()),
        Fact::List(items) => {
            let mut table = Table::new(items.len());
            for item in items {
                table.push(fresh(item));
            }
            Fresh::array(table)
        }
        Fact::Map(pairs) => {
            let mut table = Table::new(pairs.len());
            for (name, value) in pairs {
                table.put_bytes(name.as_bytes(), fresh(value));
            }
            Fresh::array(table)
        }
    }
}
