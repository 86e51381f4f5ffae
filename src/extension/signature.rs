//! What PHP sees: every class, method, function and constant, with its parameters.
//!
//! Names, counts, types and by-reference marks are pecl-memcache's, letter for letter
//! (facts: Reflection of the original), because a child class or a call by name breaks
//! on the smallest difference. Ours are only the tentative results and the defaults. A
//! default stands only where leaving the argument out means exactly that value.

use crate::door;
use crate::ffi::args::Door;
use crate::ffi::class::mask::{ARRAY, BOOL, CALLABLE, FLOAT, INT, MIXED, NULL, STRING};
use crate::{login, memcache, nodes, procedural, route, stats, status, transaction};
use std::ffi::CStr;

/// A function or method: name, handler, parameters.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    /// As PHP shows it.
    pub(crate) name: &'static CStr,
    /// What runs.
    pub(crate) door: Door,
    /// What it takes and gives.
    pub(crate) signature: &'static Signature,
}

/// Parameters and result.
pub(crate) struct Signature {
    /// In order.
    pub(crate) params: &'static [Param],
    /// How many must be passed.
    pub(crate) required: usize,
    /// Type bits of the result, 0 for none declared.
    pub(crate) result: u32,
}

/// One parameter.
#[derive(Clone, Copy)]
pub(crate) struct Param {
    /// Without the dollar sign.
    pub(crate) name: &'static CStr,
    /// Type bits, 0 for none declared.
    pub(crate) mask: u32,
    /// A class in place of type bits.
    pub(crate) class: Option<&'static CStr>,
    /// Passed by reference.
    pub(crate) by_ref: bool,
    /// Default, as PHP source.
    pub(crate) default: Option<&'static CStr>,
}

impl Param {
    const fn or(mut self, default: &'static CStr) -> Param {
        self.default = Some(default);
        self
    }

    const fn by_ref(mut self) -> Param {
        self.by_ref = true;
        self
    }
}

const fn param(name: &'static CStr, mask: u32) -> Param {
    Param {
        name,
        mask,
        class: None,
        by_ref: false,
        default: None,
    }
}

const fn sig(required: usize, result: u32, params: &'static [Param]) -> Signature {
    Signature {
        params,
        required,
        result,
    }
}

const KEYS: u32 = STRING | ARRAY;
/// The first parameter of the functions.
const THE_POOL: Param = Param {
    name: c"memcache",
    mask: 0,
    class: Some(c"MemcachePool"),
    by_ref: false,
    default: None,
};
const PERSISTENT: Param = param(c"persistent", 0).or(c"true");
const WEIGHT: Param = param(c"weight", 0).or(c"1");
const TIMEOUT: Param = param(c"timeout", 0).or(c"1.0");
const RETRY: Param = param(c"retry_interval", 0).or(c"15");
const STATUS: Param = param(c"status", 0).or(c"true");
const CALLBACK: Param = param(c"failure_callback", 0).or(c"null");

// The original's eight, of which three are read; the last name is a slip of the original's, and kept.
const CONNECT: Signature = sig(
    1,
    0,
    &[
        param(c"host", 0),
        param(c"port", 0),
        param(c"timeout", 0).or(c"1.0"),
        param(c"unused4", 0),
        param(c"unused5", 0),
        param(c"unused6", 0),
        param(c"unused7", 0),
        param(c"unugsed8", 0),
    ],
);
const POOL_CONNECT: Signature = sig(
    1,
    0,
    &[
        param(c"host", 0),
        param(c"tcp_port", 0),
        param(c"udp_port", 0).or(c"0"),
        PERSISTENT,
        WEIGHT,
        TIMEOUT,
        RETRY,
    ],
);
const POOL_ADD_SERVER: Signature = sig(
    1,
    BOOL,
    &[
        param(c"host", 0),
        param(c"tcp_port", 0),
        param(c"udp_port", 0).or(c"0"),
        PERSISTENT,
        WEIGHT,
        TIMEOUT,
        RETRY,
        STATUS,
    ],
);
const ADD_SERVER: Signature = sig(
    1,
    BOOL,
    &[
        param(c"host", 0),
        param(c"tcp_port", 0),
        PERSISTENT,
        WEIGHT,
        TIMEOUT,
        RETRY,
        STATUS,
        CALLBACK,
    ],
);
const HOST: Param = param(c"host", STRING);
const PORT: Param = param(c"tcp_port", INT);
const SET_PARAMS: Signature = sig(
    1,
    BOOL,
    &[
        HOST,
        PORT,
        param(c"timeout", FLOAT).or(c"1.0"),
        param(c"retry_interval", INT).or(c"15"),
        param(c"status", BOOL).or(c"true"),
        param(c"failure_callback", 0),
    ],
);
const SET_CALLBACK: Signature = sig(1, BOOL, &[param(c"failure_callback", CALLABLE | NULL)]);
const STATUS_OF: Signature = sig(1, BOOL | INT, &[HOST, PORT]);
const FIND: Signature = sig(1, STRING | BOOL, &[param(c"key", STRING)]);
const VERSION: Signature = sig(0, STRING | BOOL, &[]);
const VALUE: Param = param(c"value", MIXED);
const FLAGS: Param = param(c"flags", INT).or(c"0");
const EXPIRY: Param = param(c"exptime", INT).or(c"0");
const CAS: Param = param(c"cas", INT).or(c"0");
const STORE: Signature = sig(1, BOOL, &[param(c"key", KEYS), VALUE, FLAGS, EXPIRY, CAS]);
const GET: Signature = sig(
    1,
    MIXED,
    &[
        param(c"key", KEYS),
        param(c"flags", MIXED).by_ref().or(c"null"),
        param(c"cas", MIXED).by_ref().or(c"null"),
    ],
);
const DELETE: Signature = sig(1, BOOL | ARRAY, &[param(c"key", KEYS), EXPIRY]);
const STATS: Signature = sig(
    0,
    BOOL | ARRAY,
    &[
        param(c"type", STRING),
        param(c"slabid", INT).or(c"0"),
        param(c"limit", INT).or(c"100"),
    ],
);
const THRESHOLD: Signature = sig(
    1,
    BOOL,
    &[
        param(c"threshold", INT),
        param(c"min_savings", FLOAT).or(c"0.2"),
    ],
);
// No default for defval: passing 0 and passing nothing differ.
const COUNT: Signature = sig(
    1,
    BOOL | ARRAY | INT,
    &[
        param(c"key", KEYS),
        param(c"value", INT).or(c"1"),
        param(c"defval", INT),
        EXPIRY,
    ],
);
const CLOSE: Signature = sig(0, BOOL, &[]);
const FLUSH: Signature = sig(0, BOOL, &[param(c"delay", INT).or(c"0")]);
const PASSWORD: Signature = sig(
    2,
    BOOL,
    &[param(c"username", STRING), param(c"password", STRING)],
);
const WATCH: Signature = sig(1, BOOL, &[param(c"key", KEYS)]);
const TOUCH: Signature = sig(1, BOOL, &[param(c"key", KEYS), EXPIRY]);
const GET_AND_TOUCH: Signature = sig(
    1,
    MIXED,
    &[
        param(c"key", KEYS),
        EXPIRY,
        param(c"flags", MIXED).by_ref().or(c"null"),
        param(c"cas", MIXED).by_ref().or(c"null"),
    ],
);

const fn entry(name: &'static CStr, door: Door, signature: &'static Signature) -> Entry {
    Entry {
        name,
        door,
        signature,
    }
}

/// class MemcachePool
pub(crate) static POOL: [Entry; 23] = [
    entry(c"connect", door!(nodes::pool_connect), &POOL_CONNECT),
    entry(
        c"addserver",
        door!(nodes::pool_add_server),
        &POOL_ADD_SERVER,
    ),
    entry(
        c"setserverparams",
        door!(nodes::set_server_params),
        &SET_PARAMS,
    ),
    entry(
        c"setfailurecallback",
        door!(nodes::set_failure_callback),
        &SET_CALLBACK,
    ),
    entry(c"getserverstatus", door!(nodes::server_status), &STATUS_OF),
    entry(c"findserver", door!(nodes::find_server), &FIND),
    entry(c"getversion", door!(nodes::version), &VERSION),
    entry(c"add", door!(memcache::add), &STORE),
    entry(c"set", door!(memcache::set), &STORE),
    entry(c"replace", door!(memcache::replace), &STORE),
    entry(c"cas", door!(memcache::cas), &STORE),
    entry(c"append", door!(memcache::append), &STORE),
    entry(c"prepend", door!(memcache::prepend), &STORE),
    entry(c"get", door!(memcache::get), &GET),
    entry(c"delete", door!(memcache::delete), &DELETE),
    entry(c"getstats", door!(stats::stats), &STATS),
    entry(c"getextendedstats", door!(stats::extended_stats), &STATS),
    entry(
        c"setcompressthreshold",
        door!(nodes::set_compress_threshold),
        &THRESHOLD,
    ),
    entry(c"increment", door!(memcache::increment), &COUNT),
    entry(c"decrement", door!(memcache::decrement), &COUNT),
    entry(c"close", door!(nodes::close), &CLOSE),
    entry(c"flush", door!(nodes::flush), &FLUSH),
    entry(c"setSaslAuthData", door!(login::set_sasl), &PASSWORD),
];

/// class Memcache extends MemcachePool
pub(crate) static MEMCACHE: [Entry; 3] = [
    entry(c"connect", door!(nodes::connect), &CONNECT),
    entry(c"pconnect", door!(nodes::pconnect), &CONNECT),
    entry(c"addserver", door!(nodes::add_server), &ADD_SERVER),
];

/// class Memring\Memcache extends Memcache
pub(crate) static MEMRING: [Entry; 7] = [
    entry(c"touch", door!(memcache::touch), &TOUCH),
    entry(
        c"getAndTouch",
        door!(memcache::get_and_touch),
        &GET_AND_TOUCH,
    ),
    entry(c"watch", door!(transaction::watch), &WATCH),
    entry(c"multi", door!(transaction::multi), &NOTHING),
    entry(c"exec", door!(transaction::exec), &EXEC),
    entry(c"discard", door!(transaction::discard), &NOTHING),
    entry(c"route", door!(route::route_of), &ROUTE_OF),
];

const NOTHING: Signature = sig(0, BOOL, &[]);
const EXEC: Signature = sig(0, ARRAY | BOOL | NULL, &[]);

const ROUTE_OF: Signature = sig(2, ARRAY, &[param(c"op", STRING), param(c"key", STRING)]);
const F_ROUTE: Signature = sig(
    3,
    ARRAY,
    &[
        param(c"pool", STRING),
        param(c"op", STRING),
        param(c"key", STRING),
    ],
);
const F_STATUS: Signature = sig(0, ARRAY, &[param(c"pool", STRING | NULL).or(c"null")]);

/// The functions of module memring.
pub(crate) static OWN_FUNCTIONS: [Entry; 4] = [
    entry(c"Memring\\status", door!(status::status), &F_STATUS),
    entry(c"Memring\\route", door!(route::route), &F_ROUTE),
    entry(c"memring_status", door!(status::status), &F_STATUS),
    entry(c"memring_route", door!(route::route), &F_ROUTE),
];

/// class Memring\Memcache where the original owns the other names: all methods in one class.
pub(crate) fn alone() -> Vec<Entry> {
    let inherited = POOL
        .iter()
        .filter(|entry| !MEMCACHE.iter().any(|own| own.name == entry.name));
    MEMCACHE
        .iter()
        .chain(inherited)
        .chain(&MEMRING)
        .copied()
        .collect()
}

/// The constants.
pub(crate) fn constants() -> [(&'static CStr, i64); 6] {
    [
        (
            c"MEMCACHE_COMPRESSED",
            i64::from(memring_pool::codec::COMPRESSED),
        ),
        (c"MEMCACHE_USER1", 1 << 16),
        (c"MEMCACHE_USER2", 1 << 17),
        (c"MEMCACHE_USER3", 1 << 18),
        (c"MEMCACHE_USER4", 1 << 19),
        (
            c"MEMCACHE_HAVE_SESSION",
            i64::from(crate::ffi::module::has_sessions()),
        ),
    ]
}

// The functions: the object first, then what the method takes. Where the original declares no types here,
// neither do we.
const F_ADD_SERVER: Signature = sig(
    2,
    BOOL,
    &[
        THE_POOL,
        param(c"host", 0),
        // The original declares one parameter more than it takes; a call by position is read without it.
        param(c"port", 0),
        param(c"tcp_port", 0),
        param(c"persistent", 0),
        param(c"weight", 0),
        param(c"timeout", 0),
        param(c"retry_interval", 0),
        param(c"status", 0),
        param(c"failure_callback", 0),
    ],
);
const F_SET_PARAMS: Signature = sig(
    2,
    BOOL,
    &[
        THE_POOL,
        HOST,
        PORT,
        param(c"timeout", FLOAT).or(c"1.0"),
        param(c"retry_interval", INT).or(c"15"),
        param(c"status", BOOL).or(c"true"),
        param(c"failure_callback", 0),
    ],
);
const F_SET_CALLBACK: Signature = sig(
    2,
    BOOL,
    &[THE_POOL, param(c"failure_callback", CALLABLE | NULL)],
);
const F_STATUS_OF: Signature = sig(2, BOOL | INT, &[THE_POOL, HOST, PORT]);
const F_VERSION: Signature = sig(1, STRING | BOOL, &[THE_POOL]);
const F_STORE: Signature = sig(
    2,
    BOOL,
    &[THE_POOL, param(c"key", KEYS), VALUE, FLAGS, EXPIRY, CAS],
);
const F_GET: Signature = sig(
    2,
    MIXED,
    &[
        THE_POOL,
        param(c"key", 0),
        param(c"flags", 0).by_ref().or(c"null"),
        param(c"cas", 0).by_ref().or(c"null"),
    ],
);
const F_DELETE: Signature = sig(
    2,
    BOOL | ARRAY,
    &[THE_POOL, param(c"key", 0), param(c"exptime", 0).or(c"0")],
);
const F_DEBUG: Signature = sig(1, BOOL, &[param(c"on_off", 0)]);
const F_STATS: Signature = sig(
    1,
    BOOL | ARRAY,
    &[
        THE_POOL,
        param(c"type", STRING),
        param(c"slabid", INT).or(c"0"),
        param(c"limit", INT).or(c"100"),
    ],
);
const F_THRESHOLD: Signature = sig(
    2,
    BOOL,
    &[
        THE_POOL,
        param(c"threshold", INT),
        param(c"min_savings", FLOAT).or(c"0.2"),
    ],
);
const F_COUNT: Signature = sig(
    2,
    BOOL | ARRAY | INT,
    &[
        THE_POOL,
        param(c"key", KEYS),
        param(c"value", INT).or(c"1"),
        param(c"defval", INT),
        EXPIRY,
    ],
);
const F_CLOSE: Signature = sig(1, BOOL, &[THE_POOL]);
const F_FLUSH: Signature = sig(1, BOOL, &[THE_POOL, param(c"delay", INT).or(c"0")]);
const F_PASSWORD: Signature = sig(
    3,
    BOOL,
    &[
        THE_POOL,
        param(c"username", STRING),
        param(c"password", STRING),
    ],
);

/// The functions memcache_*.
pub(crate) static FUNCTIONS: [Entry; 24] = [
    entry(c"memcache_connect", door!(procedural::connect), &CONNECT),
    entry(c"memcache_pconnect", door!(procedural::pconnect), &CONNECT),
    entry(
        c"memcache_add_server",
        door!(nodes::add_server),
        &F_ADD_SERVER,
    ),
    entry(
        c"memcache_set_server_params",
        door!(nodes::set_server_params),
        &F_SET_PARAMS,
    ),
    entry(
        c"memcache_set_failure_callback",
        door!(nodes::set_failure_callback),
        &F_SET_CALLBACK,
    ),
    entry(
        c"memcache_get_server_status",
        door!(nodes::server_status),
        &F_STATUS_OF,
    ),
    entry(c"memcache_get_version", door!(nodes::version), &F_VERSION),
    entry(c"memcache_add", door!(memcache::add), &F_STORE),
    entry(c"memcache_set", door!(memcache::set), &F_STORE),
    entry(c"memcache_replace", door!(memcache::replace), &F_STORE),
    entry(c"memcache_cas", door!(memcache::cas), &F_STORE),
    entry(c"memcache_append", door!(memcache::append), &F_STORE),
    entry(c"memcache_prepend", door!(memcache::prepend), &F_STORE),
    entry(c"memcache_get", door!(memcache::get), &F_GET),
    entry(c"memcache_delete", door!(memcache::delete), &F_DELETE),
    entry(c"memcache_debug", door!(procedural::debug), &F_DEBUG),
    entry(c"memcache_get_stats", door!(stats::stats), &F_STATS),
    entry(
        c"memcache_get_extended_stats",
        door!(stats::extended_stats),
        &F_STATS,
    ),
    entry(
        c"memcache_set_compress_threshold",
        door!(nodes::set_compress_threshold),
        &F_THRESHOLD,
    ),
    entry(c"memcache_increment", door!(memcache::increment), &F_COUNT),
    entry(c"memcache_decrement", door!(memcache::decrement), &F_COUNT),
    entry(c"memcache_close", door!(nodes::close), &F_CLOSE),
    entry(c"memcache_flush", door!(nodes::flush), &F_FLUSH),
    entry(
        c"memcache_set_sasl_auth_data",
        door!(login::set_sasl),
        &F_PASSWORD,
    ),
];
