//! The settings: one table, from which registration, checks, phpinfo and the README are made.
//!
//! PHP tells of every change (start, ini_set, end of request); the parsed values are
//! kept per thread, so that a call reads a few words and no text. What a setting means
//! to the pool is decided there; this file only reads texts.

use crate::ffi::errors;
use memring_pool::call::Limits;
use memring_pool::config::{HashFunction, Placement, Protocol};
use memring_pool::shared::Sharing;
use std::cell::RefCell;
use std::ffi::CStr;
use std::time::Duration;

/// One setting: a row of the table.
pub(crate) struct Setting {
    /// Full name, as in php.ini.
    pub(crate) name: &'static CStr,
    /// Default text; None is shown as "no value".
    pub(crate) default: Option<&'static CStr>,
    /// What it may be, for people.
    pub(crate) range: &'static str,
    /// Unit of a number, or nothing.
    pub(crate) unit: &'static str,
    /// Where it may be set.
    pub(crate) scope: Scope,
    /// What it does, in one sentence.
    pub(crate) sentence: &'static str,
    rule: Rule,
}

/// Where a setting may be set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Anywhere, ini_set() included.
    All,
    /// php.ini and the server's configuration only.
    System,
}

/// How a text is read, and where the result goes.
enum Rule {
    /// On or off.
    Switch(fn(&mut Values) -> &mut bool),
    /// An integer from a least value on.
    Count(i64, fn(&mut Values) -> &mut i64),
    /// Any integer.
    Number(fn(&mut Values) -> &mut i64),
    /// One of these words; the index of the word is stored.
    Choice(&'static [&'static str], fn(&mut Values, usize)),
    /// A text without a dot.
    Label(fn(&mut Values) -> &mut Vec<u8>),
    /// Any text.
    Text(fn(&mut Values) -> &mut Vec<u8>),
    /// Seconds with a fraction, above 0; empty for none.
    Seconds(fn(&mut Values) -> &mut Option<Duration>),
}

impl Setting {
    /// True for on/off settings.
    pub(crate) fn is_switch(&self) -> bool {
        matches!(self.rule, Rule::Switch(_))
    }

    /// The name as text.
    pub(crate) fn title(&self) -> &'static str {
        self.name.to_str().unwrap_or_default()
    }
}

/// How a prefix is made of host name and a fixed text.
#[derive(Clone, Debug)]
pub(crate) struct Prefix {
    /// Put the request's SERVER_NAME before each key.
    pub(crate) host: bool,
    /// Without its leading "www.".
    pub(crate) remove_www: bool,
    /// Only its last two labels.
    pub(crate) remove_subdomain: bool,
    /// A fixed text before that.
    pub(crate) label: Vec<u8>,
}

impl Prefix {
    const NONE: Prefix = Prefix {
        host: false,
        remove_www: true,
        remove_subdomain: false,
        label: Vec::new(),
    };
}

/// What happens to keys over 250 bytes (`memring.key_hash`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyHash {
    /// Cut in mode single, hashed in all others.
    Auto,
    /// Always cut.
    Cut,
    /// Always hashed.
    Hash,
}

/// All settings, parsed.
#[derive(Clone, Debug)]
pub(crate) struct Values {
    pub(crate) failover: i64,
    pub(crate) attempts: i64,
    pub(crate) port: i64,
    pub(crate) chunk_size: i64,
    pub(crate) protocol: Protocol,
    pub(crate) placement: Placement,
    pub(crate) hash: HashFunction,
    pub(crate) copies: i64,
    pub(crate) session_copies: i64,
    pub(crate) compress_threshold: i64,
    pub(crate) lock_timeout: i64,
    pub(crate) prefix: Prefix,
    pub(crate) session_prefix: Prefix,
    pub(crate) session_save_path: Vec<u8>,
    pub(crate) key_hash: KeyHash,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) op_timeout: Option<Duration>,
    pub(crate) schemes: Vec<u8>,
    pub(crate) config_file: Vec<u8>,
    pub(crate) state_dir: Vec<u8>,
    pub(crate) sharing: Sharing,
    pub(crate) persistent_idle: Option<Duration>,
    pub(crate) copy_hold: i64,
    pub(crate) log: bool,
    pub(crate) trace: Vec<u8>,
}

impl Values {
    /// How far a call may go.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            copies: u32::try_from(self.copies).unwrap_or(u32::MAX),
            failover: self.failover != 0,
            attempts: u32::try_from(self.attempts).unwrap_or(u32::MAX),
        }
    }
}

thread_local! {
    // PHP announces every default before the first use, so these are only the state before that.
    static VALUES: RefCell<Values> = const { RefCell::new(Values {
        failover: 1,
        attempts: 20,
        port: 11211,
        chunk_size: 32768,
        protocol: Protocol::Ascii,
        placement: Placement::PeclConsistent,
        hash: HashFunction::Crc32,
        copies: 1,
        session_copies: 2,
        compress_threshold: 20000,
        lock_timeout: 15,
        prefix: Prefix::NONE,
        session_prefix: Prefix::NONE,
        session_save_path: Vec::new(),
        key_hash: KeyHash::Auto,
        connect_timeout: None,
        op_timeout: None,
        schemes: Vec::new(),
        config_file: Vec::new(),
        state_dir: Vec::new(),
        sharing: Sharing::User,
        persistent_idle: None,
        copy_hold: -1,
        log: true,
        trace: Vec::new(),
    }) };
}

/// Reads the settings; `look` makes no call into Zend.
pub(crate) fn read<R>(look: impl FnOnce(&Values) -> R) -> R {
    VALUES.with_borrow(look)
}

/// A setting is about to change: checks `text`, keeps what it means, and says whether it stands.
///
/// False leaves the old value in force, after a warning in pecl-memcache's words.
pub(crate) fn change(setting: &Setting, text: Option<&[u8]>) -> bool {
    let value = text.unwrap_or_default();
    let shown = String::from_utf8_lossy(value);
    let name = setting.title();
    match &setting.rule {
        Rule::Switch(place) => {
            let yes = [&b"on"[..], b"yes", b"true"]
                .iter()
                .any(|word| value.eq_ignore_ascii_case(word));
            let yes = yes || integer(value) != 0;
            VALUES.with_borrow_mut(|values| *place(values) = yes);
        }
        Rule::Count(least, place) => {
            let number = integer(value);
            if number < *least {
                errors::warning_of(format!(
                    "{name} must be a positive integer ('{shown}' given)"
                ));
                return false;
            }
            VALUES.with_borrow_mut(|values| *place(values) = number);
        }
        Rule::Number(place) => {
            let number = integer(value);
            VALUES.with_borrow_mut(|values| *place(values) = number);
        }
        Rule::Choice(words, place) => {
            // PHP hands over an unquoted off, no or false of php.ini as nothing.
            let given = if value.is_empty() { b"off" } else { value };
            let Some(index) = words
                .iter()
                .position(|word| given.eq_ignore_ascii_case(word.as_bytes()))
            else {
                errors::warning_of(format!(
                    "{name} must be in set {{{}}} ('{shown}' given)",
                    words.join(", ")
                ));
                return false;
            };
            VALUES.with_borrow_mut(|values| place(values, index));
        }
        Rule::Label(place) => {
            if value.contains(&b'.') {
                errors::warning_of(format!("{name} cannot have dot inside (.)"));
                return false;
            }
            VALUES.with_borrow_mut(|values| *place(values) = value.to_vec());
        }
        Rule::Text(place) => VALUES.with_borrow_mut(|values| *place(values) = value.to_vec()),
        Rule::Seconds(place) => {
            let seconds = if value.is_empty() {
                None
            } else {
                match shown
                    .trim()
                    .parse::<f64>()
                    .ok()
                    .filter(|s| *s > 0.0)
                    .map(Duration::try_from_secs_f64)
                {
                    Some(Ok(seconds)) => Some(seconds),
                    _ => {
                        errors::warning_of(format!(
                            "{name} must be a number of seconds above 0, or empty ('{shown}' given)"
                        ));
                        return false;
                    }
                }
            };
            VALUES.with_borrow_mut(|values| *place(values) = seconds);
        }
    }
    true
}

/// An integer as PHP reads one in a setting: leading blanks, sign, digits, then K, M or G.
fn integer(text: &[u8]) -> i64 {
    let text = text.trim_ascii();
    let (negative, digits) = match text.split_first() {
        Some((b'-', rest)) => (true, rest),
        Some((b'+', rest)) => (false, rest),
        _ => (false, text),
    };
    let mut number: i64 = 0;
    for digit in digits.iter().take_while(|b| b.is_ascii_digit()) {
        number = number
            .saturating_mul(10)
            .saturating_add(i64::from(digit - b'0'));
    }
    let shift = match digits.last() {
        Some(b'k' | b'K') => 10,
        Some(b'm' | b'M') => 20,
        Some(b'g' | b'G') => 30,
        _ => 0,
    };
    let number = number.saturating_mul(1 << shift);
    if negative { -number } else { number }
}

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
        sentence: "Who shares what is known of failed nodes: all processes of a user, the workers of one master, or nobody.",
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
        sentence: "Where the file lies that the processes of a user share (memring-UID.3, mode 600).",
        rule: Rule::Text(|v| &mut v.state_dir),
    },
    Setting {
        name: c"memring.allow_schemes",
        default: Some(c"tcp,memcached,unix,redis"),
        range: "tcp, memcached, unix, redis; a list",
        unit: "",
        scope: Scope::System,
        sentence: "What connect(), addServer() and save_path may open.",
        rule: Rule::Text(|v| &mut v.schemes),
    },
];
