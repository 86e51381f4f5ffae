//! The methods that work on nodes: add, connect, describe, close.

use crate::ffi::args::Frame;
use crate::ffi::callback;
use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::{Class, Object, object_of};
use crate::ffi::resource::Link;
use crate::ffi::scratch::Seat;
use crate::ffi::string::OwnedText;
use crate::ffi::value::{Fresh, Value};
use crate::memcache::{begin, connected, push, with_nodes};
use crate::pools::{self, SAVINGS};
use crate::report::{self, CALLBACK};
use crate::{ini, registry, session, whole};
use memring_pool::call::Verb;
use memring_pool::codec::Compression;
use memring_pool::config::{
    ALONE, DEFAULT_RETRY, DEFAULT_TIMEOUT, Engine, Login, Mode, NodeSpec, TIMEOUT_MAX, Target,
    Topology, WEIGHT_MAX, cluster,
};
use memring_pool::error::Error;
use memring_pool::pool::Pool;
use std::time::Duration;

/// One server as connect() or addServer() names it.
struct Wish<'a> {
    host: &'a [u8],
    port: i64,
    udp_port: i64,
    persistent: bool,
    weight: i64,
    timeout: f64,
    retry_interval: i64,
    status: bool,
}

impl<'a> Wish<'a> {
    fn new(host: &'a [u8]) -> Wish<'a> {
        Wish {
            host,
            port: ini::read(|values| values.port),
            udp_port: 0,
            persistent: true,
            weight: 1,
            timeout: DEFAULT_TIMEOUT.as_secs_f64(),
            retry_interval: DEFAULT_RETRY,
            status: true,
        }
    }
}

/// MemcachePool::connect()
pub(crate) fn pool_connect(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 7)?;
    let object = frame.object(Class::Pool)?;
    let wish = pool_wish(frame)?;
    join(object, &wish)
}

/// MemcachePool::addserver()
pub(crate) fn pool_add_server(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 8)?;
    let object = frame.object(Class::Pool)?;
    let mut wish = pool_wish(frame)?;
    wish.status = frame.bool(7, true)?;
    Ok(Fresh::bool(add(object, &wish)?.is_some()))
}

/// Memcache::connect(), the connection closed with the request.
pub(crate) fn connect(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    let object = frame.object(Class::Pool)?;
    let wish = plain_wish(frame, false)?;
    join(object, &wish)
}

/// Memcache::pconnect(), the connection kept across requests.
pub(crate) fn pconnect(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    let object = frame.object(Class::Pool)?;
    let wish = plain_wish(frame, true)?;
    join(object, &wish)
}

/// memcache_connect() and memcache_pconnect(): a new object, connected; or false.
pub(crate) fn connect_new(frame: &Frame<'_>, persistent: bool) -> Result<Fresh, Thrown> {
    let wish = plain_wish(frame, persistent)?;
    let made = Object::create(Class::Memcache).ok_or(Thrown)?;
    let Some(object) = object_of(&made) else {
        return Ok(Fresh::bool(false));
    };
    let done = is_true(join(object, &wish)?.value());
    Ok(if done { made } else { Fresh::bool(false) })
}

/// Memcache::addserver() and memcache_add_server(); a ninth argument is `timeoutms`.
pub(crate) fn add_server(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 9)?;
    let object = frame.object(if frame.is_method() {
        Class::Pool
    } else {
        Class::Memcache
    })?;
    let host = frame.text(0)?.ok_or(Thrown)?;
    let mut wish = Wish::new(host.bytes());
    wish.port = frame.long(1, wish.port)?;
    wish.persistent = frame.bool(2, true)?;
    wish.weight = frame.long(3, 1)?;
    wish.timeout = frame.double(4, wish.timeout)?;
    wish.retry_interval = frame.long(5, wish.retry_interval)?;
    wish.status = frame.bool(6, true)?;
    let function = frame.value(7).filter(|value| !value.is_null());
    let milliseconds = frame.long(8, 0)?;
    if milliseconds > 0 {
        wish.timeout = milliseconds as f64 / 1000.0;
    }
    if function.is_some_and(|function| !callback::is_callable(function)) {
        errors::warning("Invalid failure callback");
        return Ok(Fresh::bool(false));
    }
    let added = add(object, &wish)?.is_some();
    if let (true, Some(function)) = (added, function) {
        object.set_property(CALLBACK, &function.keep());
    }
    Ok(Fresh::bool(added))
}

/// setserverparams(): new limits, and up or down, for one node.
pub(crate) fn set_server_params(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 6)?;
    let object = frame.object(Class::Pool)?;
    let host = frame.text(0)?.ok_or(Thrown)?;
    let port = frame.long(1, ini::read(|values| values.port))?;
    let timeout = frame.double(2, DEFAULT_TIMEOUT.as_secs_f64())?;
    let retry_interval = frame.long(3, DEFAULT_RETRY)?;
    let status = frame.bool(4, true)?;
    let function = frame.value(5);
    let Some((link, index)) = node(object, host.bytes(), port) else {
        return Ok(Fresh::bool(false));
    };
    if function.is_some_and(|f| !f.is_null() && !callback::is_callable(f)) {
        errors::warning("Invalid failure callback");
        return Ok(Fresh::bool(false));
    }
    link.with(|state| {
        state
            .pool
            .set_params(index, duration(timeout), retry_interval, status)
    });
    if let Some(function) = function {
        object.set_property(CALLBACK, &function.keep());
    }
    Ok(Fresh::bool(true))
}

/// setfailurecallback(): whom to call when a node fails; null for a notice again.
pub(crate) fn set_failure_callback(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 1)?;
    let object = frame.object(Class::Pool)?;
    let Some(function) = frame.value(0) else {
        return Ok(Fresh::bool(false));
    };
    if connected(object).is_none() {
        return Ok(Fresh::bool(false));
    }
    if !function.is_null() && !callback::is_callable(function) {
        errors::warning("Invalid failure callback");
        return Ok(Fresh::bool(false));
    }
    object.set_property(CALLBACK, &function.keep());
    Ok(Fresh::bool(true))
}

/// getserverstatus(): 1 up, 0 failed, false unknown.
pub(crate) fn server_status(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 2)?;
    let object = frame.object(Class::Pool)?;
    let host = frame.text(0)?.ok_or(Thrown)?;
    let port = frame.long(1, ini::read(|values| values.port))?;
    let Some((link, index)) = node(object, host.bytes(), port) else {
        return Ok(Fresh::bool(false));
    };
    let up = link.with(|state| state.pool.is_up(index)).unwrap_or(false);
    Ok(Fresh::long(i64::from(up)))
}

/// findserver(): "host:port" of the node a key lives on.
pub(crate) fn find_server(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 1)?;
    let object = frame.object(Class::Pool)?;
    let Some(key) = frame.value(0) else {
        return Ok(Fresh::bool(false));
    };
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Get);
    let name = OwnedText::from_value(key).ok_or(Thrown)?;
    if !push(&link, desk, name.bytes())? {
        return Ok(Fresh::bool(false));
    }
    link.with(|state| {
        let index = state.pool.find(desk.call.wire_key(0), &desk.call.limits);
        desk.bytes
            .extend_from_slice(state.pool.name(index).as_bytes());
    });
    Ok(Fresh::text(&desk.bytes))
}

/// getversion(): of the first node that answers.
pub(crate) fn version(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(0, 0)?;
    let object = frame.object(Class::Pool)?;
    let Some(link) = with_nodes(object) else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Get);
    let found = link.with(|state| {
        let version = state.pool.version(&mut desk.call);
        desk.bytes
            .extend_from_slice(version.as_deref().unwrap_or_default().as_bytes());
        version.is_some()
    });
    report::events(object, desk)?;
    Ok(if found == Some(true) {
        Fresh::text(&desk.bytes)
    } else {
        Fresh::bool(false)
    })
}

/// setcompressthreshold(): from which size on values are compressed, and what it must save.
pub(crate) fn set_compress_threshold(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(1, 2)?;
    let object = frame.object(Class::Pool)?;
    let threshold = frame.long(0, 0)?;
    let savings = frame.double(1, SAVINGS)?;
    let Some(link) = connected(object) else {
        return Ok(Fresh::bool(false));
    };
    match Compression::new(threshold, savings) {
        Ok(compression) => {
            link.with(|state| state.compression = compression);
            Ok(Fresh::bool(true))
        }
        Err(error) => {
            errors::warning_of(error.cause().to_owned());
            Ok(Fresh::bool(false))
        }
    }
}

/// close(): the pool has no nodes any more; addserver() begins anew.
pub(crate) fn close(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(0, 0)?;
    let object = frame.object(Class::Pool)?;
    let Some(link) = connected(object) else {
        return Ok(Fresh::bool(false));
    };
    // What a pool of the file says holds for that pool.
    let named = link.with(|state| !state.pool.policy().name.is_empty());
    let blank = match named {
        Some(true) => pools::blank()?,
        _ => None,
    };
    link.with(|state| {
        state.pool.close();
        let mut policy = blank.unwrap_or_else(|| state.pool.policy().clone());
        if state.pool.is_cluster() {
            policy.placement = ini::read(|values| values.placement);
        }
        state.pool = Pool::new(policy);
    });
    Ok(Fresh::bool(true))
}

/// flush(): empties all nodes; true when all of them did it.
pub(crate) fn flush(frame: &Frame<'_>) -> Result<Fresh, Thrown> {
    frame.expect(0, 1)?;
    let object = frame.object(Class::Pool)?;
    let delay = frame.long(0, 0)?;
    let Some(link) = connected(object) else {
        return Ok(Fresh::bool(false));
    };
    if link.with(|state| state.pool.collects()) == Some(true) {
        errors::warning(
            "flush() is not part of a transaction. Call it before multi(), or after exec() or discard()",
        );
        return Ok(Fresh::bool(false));
    }
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Delete);
    let done = link.with(|state| {
        // Truncation is pecl-memcache's; no node at all is no failure.
        state.pool.is_empty() || state.pool.flush(delay as u32, &mut desk.call)
    });
    report::events(object, desk)?;
    Ok(Fresh::bool(done == Some(true)))
}

/// The arguments of MemcachePool's connect and addserver, but for the last.
fn pool_wish<'a>(frame: &Frame<'a>) -> Result<Wish<'a>, Thrown> {
    let host = frame.text(0)?.ok_or(Thrown)?;
    let mut wish = Wish::new(host.bytes());
    wish.port = frame.long(1, wish.port)?;
    wish.udp_port = frame.long(2, 0)?;
    wish.persistent = frame.bool(3, true)?;
    wish.weight = frame.long(4, 1)?;
    wish.timeout = frame.double(5, wish.timeout)?;
    wish.retry_interval = frame.long(6, wish.retry_interval)?;
    Ok(wish)
}

/// The arguments of Memcache's connect and pconnect.
fn plain_wish<'a>(frame: &Frame<'a>, persistent: bool) -> Result<Wish<'a>, Thrown> {
    frame.expect(1, 3)?;
    let host = frame.text(0)?.ok_or(Thrown)?;
    let mut wish = Wish::new(host.bytes());
    wish.persistent = persistent;
    // A null port is port 0, without a deprecation.
    wish.port = match frame.value(1) {
        Some(port) if port.is_null() => 0,
        _ => frame.long(1, wish.port)?,
    };
    wish.timeout = frame.double(2, wish.timeout)?;
    Ok(wish)
}

/// Adds a node and connects to it.
fn join(object: Object<'_>, wish: &Wish<'_>) -> Result<Fresh, Thrown> {
    let Some((link, index)) = add(object, wish)? else {
        return Ok(Fresh::bool(false));
    };
    let mut seat = Seat::take();
    let desk = seat.desk();
    begin(desk, Verb::Get);
    let open = link
        .with(|state| state.pool.connect(index, &mut desk.call))
        .unwrap_or(false);
    report::events(object, desk)?;
    if !open {
        let port = u16::try_from(wish.port).unwrap_or(0);
        report::cannot_connect(&String::from_utf8_lossy(wish.host), port, desk);
    }
    Ok(Fresh::bool(open))
}

/// Adds a node, making the pool if need be; None after a warning.
fn add(object: Object<'_>, wish: &Wish<'_>) -> Result<Option<(Link, usize)>, Thrown> {
    registry::join();
    if wish.weight < 1 {
        errors::warning("weight must be a positive integer");
        return Ok(None);
    }
    // Each unit is 160 points of the ring: without an end to it a slip of the pen would stop the page for minutes.
    if wish.weight > i64::from(WEIGHT_MAX) {
        errors::warning_of(format!(
            "weight must be a positive integer up to {WEIGHT_MAX}"
        ));
        return Ok(None);
    }
    if u16::try_from(wish.port).is_err() {
        errors::warning("invalid tcp port number");
        return Ok(None);
    }
    let Ok(udp_port) = u16::try_from(wish.udp_port) else {
        errors::warning("invalid udp port number");
        return Ok(None);
    };
    let found = match std::str::from_utf8(wish.host) {
        Ok(host) if !host.contains('\0') => found(host, wish),
        _ => Err("invalid host: a host is a name, an address or unix:///path".to_owned()),
    };
    let found = match found {
        Ok(found) => found,
        Err(text) => {
            errors::warning_of(text);
            errors::check()?;
            return Ok(None);
        }
    };
    let Some(link) = pools::of(object)? else {
        return Ok(None);
    };
    let limit = duration(wish.timeout);
    let (connect, op, idle) = ini::read(|v| (v.connect_timeout, v.op_timeout, v.persistent_idle));
    let filled = |spec: NodeSpec| NodeSpec {
        udp_port,
        // What stands behind the host counts where the arguments say nothing else.
        weight: match wish.weight {
            1 => spec.weight,
            weight => u32::try_from(weight).unwrap_or(u32::MAX),
        },
        connect_timeout: match spec.written.timeout {
            true => spec.connect_timeout,
            false => connect.unwrap_or(limit),
        },
        op_timeout: match spec.written.timeout {
            true => spec.op_timeout,
            false => op.unwrap_or(limit),
        },
        idle_limit: idle.unwrap_or(Duration::MAX),
        retry_interval: Some(wish.retry_interval)
            .filter(|passed| *passed != DEFAULT_RETRY)
            .unwrap_or(spec.retry_interval),
        // A node declared down must not mark the connection that other pools share.
        persistent: wish.persistent && wish.status,
        status: wish.status,
        ..spec
    };
    let spec = match found {
        Found::Node(spec) => filled(*spec),
        Found::Pool(topology) => return whole::named(link, *topology),
        Found::Cluster(specs) => return whole::cluster(link, specs.into_iter().map(filled)),
    };
    if link.with(|state| state.pool.is_cluster()) == Some(true) {
        return whole::refuse_beside();
    }
    let copied = link.with(|state| state.pool.policy().mode != Mode::Single);
    let waits = spec.redis.as_ref().is_some_and(|redis| redis.wait > 0);
    if copied == Some(true) && (waits || matches!(spec.target, Target::Master(_))) {
        errors::warning(
            "A pool with copies takes no Redis that has replicas: write redis://HOST of one that stands alone, without wait=",
        );
        return Ok(None);
    }
    let embedded = |node: &NodeSpec| node.engine() == Engine::Embedded;
    let apart = link.with(|state| {
        let first = state.pool.spec(0);
        first.is_some_and(|first| embedded(first) || embedded(&spec))
    });
    if apart == Some(true) {
        errors::warning_of(format!("An embedded node cannot join other nodes. {ALONE}"));
        return Ok(None);
    }
    let index = link.with(|state| {
        let spec = as_the_object(spec, &state.login);
        state.pool.takes_place(&spec)?;
        Ok::<_, Error>(registry::with(|nodes| state.pool.add(spec, nodes)))
    });
    match index {
        Some(Ok(index)) => Ok(Some((link, index))),
        Some(Err(error)) => {
            errors::warning_of(error.to_string());
            errors::check().map(|()| None)
        }
        None => Ok(None),
    }
}

/// The node, entered as the object was told to where the node itself says nothing of it.
pub(crate) fn as_the_object(mut spec: NodeSpec, login: &Option<Login>) -> NodeSpec {
    if spec.engine() == Engine::Memcached && spec.login.is_none() {
        spec.login.clone_from(login);
    }
    spec
}

/// What a host argument names.
enum Found {
    /// One node; everything but host and port is the caller's to fill in.
    Node(Box<NodeSpec>),
    /// A whole pool of the file.
    Pool(Box<Topology>),
    /// Some nodes of a Redis Cluster; what a node's caller fills in is his here, too.
    Cluster(Vec<NodeSpec>),
}

/// What `host` names, or why nothing.
fn found(host: &str, wish: &Wish<'_>) -> Result<Found, String> {
    if let Some(name) = host.strip_prefix("pool:") {
        let file = ini::read(|values| values.config_file.clone());
        let wish = session::named(&file, name).map_err(|error| error.to_string())?;
        return Ok(Found::Pool(Box::new(wish.topology)));
    }
    if cluster::is_written(host) {
        let (schemes, usual) = ini::read(|values| (values.schemes.clone(), values.port));
        let schemes = session::schemes(&schemes).map_err(|error| error.to_string())?;
        if wish.port != usual && wish.port != 0 || wish.weight != 1 {
            return Err("redis-cluster:// takes neither port nor weight: each port stands behind its host, and the cluster says who has which keys".to_owned());
        }
        let read = cluster::read(host, &schemes).map_err(|error| error.to_string())?;
        return Ok(Found::Cluster(read.topology.nodes));
    }
    written(host, wish.port)
        .map(|spec| Found::Node(Box::new(spec)))
        .map_err(|error| error.to_string())
}

/// The node that `host` is written for.
fn written(host: &str, port: i64) -> Result<NodeSpec, Error> {
    let (schemes, usual) = ini::read(|values| (values.schemes.clone(), values.port));
    let schemes = session::schemes(&schemes)?;
    // A port left out is the default already; a port written in the host may only replace that.
    let port = Some(port).filter(|port| *port != usual);
    NodeSpec::from_add_server(host, port, u16::try_from(usual).unwrap_or(0), &schemes)
}

/// The node that `host` and `port` name; None after a warning.
fn node(object: Object<'_>, host: &[u8], port: i64) -> Option<(Link, usize)> {
    let link = connected(object)?;
    let index = link.with(|state| {
        let host = std::str::from_utf8(host).ok()?;
        let as_passed = state.pool.node_at(host, u16::try_from(port).ok()?);
        // The original has no such schemes, and compares what was passed.
        let redis = || written(host, port).ok().filter(|spec| spec.redis.is_some());
        as_passed.or_else(|| state.pool.node_of(&redis()?))
    });
    match index.flatten() {
        Some(index) => Some((link, index)),
        None => {
            errors::warning("Server not found in pool");
            None
        }
    }
}

/// A timeout as PHP callers give it; what is no time at all is the default.
fn duration(seconds: f64) -> Duration {
    if seconds > 0.0 {
        let limit = Duration::try_from_secs_f64(seconds).unwrap_or(TIMEOUT_MAX);
        limit.min(TIMEOUT_MAX)
    } else {
        DEFAULT_TIMEOUT
    }
}

fn is_true(value: Value<'_>) -> bool {
    matches!(value.kind(), crate::ffi::value::Kind::Bool(true))
}
