//! The rows of the table: each setting's name, default, range, unit, scope and sentence.

use super::{KeyHash, Rule, Scope, Setting};
use memring_pool::codec::{Format, Layout, Serializer};
use memring_pool::config::{HashFunction, Placement, Protocol};
use memring_pool::shared::Sharing;
use std::ffi::CStr;

const fn row(
    name: &'static CStr,
    default: Option<&'static CStr>,
    range: &'static str,
    unit: &'static str,
    sentence: &'static str,
    rule: Rule,
) -> Setting {
    Setting {
        name,
        default,
        range,
        unit,
        scope: Scope::All,
        sentence,
        rule,
    }
}

/// The settings of pecl-memcache, with its names, defaults and checks.
pub(crate) static MEMCACHE: &[Setting] = &[
    row(
        c"memcache.allow_failover",
        Some(c"1"),
        "0, 1",
        "",
        "May a request that a node failed go to another node?",
        Rule::Number(|v| &mut v.failover),
    ),
    row(
        c"memcache.max_failover_attempts",
        Some(c"20"),
        "1 and up",
        "attempts",
        "How many other nodes are looked for when one is down.",
        Rule::Count(1, |v| &mut v.attempts),
    ),
    row(
        c"memcache.default_port",
        Some(c"11211"),
        "0 to 65535",
        "TCP port",
        "The port when connect() or addServer() names none.",
        Rule::Number(|v| &mut v.port),
    ),
    row(
        c"memcache.chunk_size",
        Some(c"32768"),
        "1 and up",
        "bytes",
        "Accepted and shown; what is sent needs no pieces here.",
        Rule::Count(1, |v| &mut v.chunk_size),
    ),
    row(
        c"memcache.protocol",
        Some(c"ascii"),
        "ascii, binary",
        "",
        "ascii sends the classic commands; binary has the meaning of the binary protocol, said in meta commands.",
        Rule::Choice(&["ascii", "binary"], |v, at| {
            v.protocol = if at == 0 {
                Protocol::Ascii
            } else {
                Protocol::Binary
            }
        }),
    ),
    row(
        c"memcache.hash_strategy",
        Some(c"consistent"),
        "standard, consistent",
        "",
        "How keys are spread over the nodes; read when the pool is made.",
        Rule::Choice(&["standard", "consistent"], |v, at| {
            v.placement = if at == 0 {
                Placement::PeclStandard
            } else {
                Placement::PeclConsistent
            }
        }),
    ),
    row(
        c"memcache.hash_function",
        Some(c"crc32"),
        "crc32, fnv",
        "",
        "The hash of keys and nodes; read when the pool is made.",
        Rule::Choice(&["crc32", "fnv"], |v, at| {
            v.hash = if at == 0 {
                HashFunction::Crc32
            } else {
                HashFunction::Fnv
            }
        }),
    ),
    row(
        c"memcache.redundancy",
        Some(c"1"),
        "1 and up",
        "copies",
        "How many nodes a value is written to.",
        Rule::Count(1, |v| &mut v.copies),
    ),
    row(
        c"memcache.session_redundancy",
        Some(c"2"),
        "1 and up",
        "copies",
        "How many nodes a session is written to.",
        Rule::Count(1, |v| &mut v.session_copies),
    ),
    row(
        c"memcache.compress_threshold",
        Some(c"20000"),
        "0 and up",
        "bytes",
        "Values from this size on are compressed, 0 never; read when the pool is made.",
        Rule::Count(0, |v| &mut v.compress_threshold),
    ),
    row(
        c"memcache.lock_timeout",
        Some(c"15"),
        "1 and up",
        "seconds",
        "How long a session stays locked at most; a request waits twice as long for it.",
        Rule::Count(1, |v| &mut v.lock_timeout),
    ),
    row(
        c"memcache.select_api",
        Some(c"select"),
        "select, poll",
        "",
        "Accepted and shown; any number of open files works here.",
        Rule::Choice(&["select", "poll"], |_, _| ()),
    ),
    row(
        c"memcache.session_prefix_host_key",
        Some(c"0"),
        "0, 1",
        "",
        "Put SERVER_NAME before session keys.",
        Rule::Switch(|v| &mut v.session_prefix.host),
    ),
    row(
        c"memcache.session_prefix_host_key_remove_www",
        Some(c"1"),
        "0, 1",
        "",
        "Without its leading www.",
        Rule::Switch(|v| &mut v.session_prefix.remove_www),
    ),
    row(
        c"memcache.session_prefix_host_key_remove_subdomain",
        Some(c"0"),
        "0, 1",
        "",
        "Only its last two labels.",
        Rule::Switch(|v| &mut v.session_prefix.remove_subdomain),
    ),
    row(
        c"memcache.session_prefix_static_key",
        None,
        "text without a dot",
        "",
        "Put this text before session keys.",
        Rule::Label(|v| &mut v.session_prefix.label),
    ),
    row(
        c"memcache.session_save_path",
        None,
        "as session.save_path",
        "",
        "Used in place of session.save_path when not empty.",
        Rule::Text(|v| &mut v.session_save_path),
    ),
    row(
        c"memcache.prefix_host_key",
        Some(c"0"),
        "0, 1",
        "",
        "Put SERVER_NAME before keys; a pool keeps the prefix it was made with.",
        Rule::Switch(|v| &mut v.prefix.host),
    ),
    row(
        c"memcache.prefix_host_key_remove_www",
        Some(c"1"),
        "0, 1",
        "",
        "Without its leading www.",
        Rule::Switch(|v| &mut v.prefix.remove_www),
    ),
    row(
        c"memcache.prefix_host_key_remove_subdomain",
        Some(c"0"),
        "0, 1",
        "",
        "Only its last two labels.",
        Rule::Switch(|v| &mut v.prefix.remove_subdomain),
    ),
    row(
        c"memcache.prefix_static_key",
        None,
        "text without a dot",
        "",
        "Put this text before keys; a pool keeps the prefix it was made with.",
        Rule::Label(|v| &mut v.prefix.label),
    ),
];

/// The settings of memring itself.
pub(crate) static MEMRING: &[Setting] = &[
    row(
        c"memring.key_hash",
        Some(c"auto"),
        "auto, cut, hash",
        "",
        "Keys over 250 bytes are cut as pecl-memcache does, or kept apart by a digest; auto cuts in mode single only.",
        Rule::Choice(&["auto", "cut", "hash"], |v, at| {
            v.key_hash = match at {
                1 => KeyHash::Cut,
                2 => KeyHash::Hash,
                _ => KeyHash::Auto,
            }
        }),
    ),
    row(
        c"memring.serializer",
        Some(c"php"),
        "php, igbinary, msgpack, json, json_object",
        "",
        "What makes text of arrays and objects, igbinary and msgpack by the extensions of that name; json brings all back as arrays, json_object as stdClass. Read when the pool is made; all are read.",
        Rule::Choice(
            &["php", "igbinary", "msgpack", "json", "json_object"],
            |v, at| {
                let (_, serializer) = Serializer::WORDS.get(at).copied().unwrap_or_default();
                v.format.serializer = serializer;
            },
        ),
    ),
    row(
        c"memring.compression",
        Some(c"zlib"),
        "zlib, zstd, lz4, none",
        "",
        "How values from memcache.compress_threshold on are compressed; read when the pool is made; all are read.",
        // `off` is what PHP makes of a bare none; it has no stream, either.
        Rule::Choice(&["zlib", "zstd", "lz4", "none", "off"], |v, at| {
            v.format.stream = Format::STREAMS.get(at).and_then(|(_, stream)| *stream);
        }),
    ),
    row(
        c"memring.codec",
        Some(c"pecl"),
        "pecl, php-memcached",
        "",
        "Whose flag bits values have; read when the pool is made.",
        Rule::Choice(&["pecl", "php-memcached"], |v, at| {
            let (_, layout) = Layout::WORDS.get(at).copied().unwrap_or_default();
            v.format.layout = layout;
        }),
    ),
    row(
        c"memring.connect_timeout",
        Some(c""),
        "above 0, or empty",
        "seconds",
        "Limit of one connect in place of the node's own timeout.",
        Rule::Seconds(|v| &mut v.connect_timeout),
    ),
    row(
        c"memring.op_timeout",
        Some(c""),
        "above 0, or empty",
        "seconds",
        "Limit of one exchange in place of the node's own timeout.",
        Rule::Seconds(|v| &mut v.op_timeout),
    ),
    row(
        c"memring.persistent_idle",
        Some(c""),
        "above 0, or empty for no limit",
        "seconds",
        "A connection unused for longer is replaced by a new one, as where a firewall forgets idle ones.",
        Rule::Seconds(|v| &mut v.persistent_idle),
    ),
    row(
        c"memring.copy_hold",
        Some(c"-1"),
        "-1 and up",
        "milliseconds",
        "How long copies of mode async wait for further ones to go out together; -1 is 1 under a web server and 0 in scripts, which may sleep before their next call.",
        Rule::Count(-1, |v| &mut v.copy_hold),
    ),
    Setting {
        name: c"memring.log_level",
        default: Some(c"notice"),
        range: "notice, off",
        unit: "",
        scope: Scope::System,
        sentence: "Whether a node that goes down or comes up is a line in PHP's error log, once per host and change.",
        rule: Rule::Choice(&["notice", "off"], |v, at| v.log = at == 0),
    },
    Setting {
        name: c"memring.trace",
        default: Some(c""),
        range: "path of a file, or empty",
        unit: "",
        scope: Scope::System,
        sentence: "A line per key and call is appended here: time, operation, hash of the key, node, duration, result.",
        rule: Rule::Text(|v| &mut v.trace),
    },
    Setting {
        name: c"memring.config_file",
        default: Some(c""),
        range: "path of a TOML file, or empty",
        unit: "",
        scope: Scope::System,
        sentence: "Where pool:NAME is looked up; names the nodes, the placement and the mode of each pool.",
        rule: Rule::Text(|v| &mut v.config_file),
    },
    Setting {
        name: c"memring.shared",
        default: Some(c"user"),
        range: "user, master, off",
        unit: "",
        scope: Scope::System,
        sentence: "Who shares what is known of failed nodes and missed keys: all processes of a user, the workers of one master, or nobody. `memring tend` and `memring status` see it with `user` alone.",
        rule: Rule::Choice(&["user", "master", "off"], |v, at| {
            v.sharing = match at {
                1 => Sharing::Master,
                2 => Sharing::Off,
                _ => Sharing::User,
            }
        }),
    },
    Setting {
        name: c"memring.state_dir",
        default: Some(c""),
        range: "directory, or empty for /dev/shm",
        unit: "",
        scope: Scope::System,
        sentence: "Where the files lie that the processes of a user share: memring-UID.5, and memring-UID.mdb for sessions without a server (mode 600).",
        rule: Rule::Text(|v| &mut v.state_dir),
    },
    Setting {
        name: c"memring.allow_schemes",
        default: Some(c"tcp,memcached,unix,redis,tls,memcacheds,rediss,embedded"),
        range: "tcp, memcached, unix, redis, tls, memcacheds, rediss, embedded; a list",
        unit: "",
        scope: Scope::System,
        sentence: "What connect(), addServer() and save_path may open.",
        rule: Rule::Text(|v| &mut v.schemes),
    },
];
