//! The settings: one table, from which registration, checks, phpinfo and the README are made.
//!
//! PHP tells of every change (start, ini_set, end of request); the parsed values are
//! kept per thread, so that a call reads a few words and no text. What a setting means
//! to the pool is decided there; this file only reads texts.

mod table;

pub(crate) use table::{MEMCACHE, MEMRING};

use crate::ffi::errors;
use memring_pool::call::Limits;
use memring_pool::codec::{Format, Layout, Serializer, Stream};
use memring_pool::config::{HashFunction, Placement, Protocol, TIMEOUT_MAX};
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
#[derive(Clone, Debug, PartialEq, Eq)]
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
    pub(crate) format: Format,
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
        format: Format { layout: Layout::Pecl, serializer: Serializer::Php, stream: Some(Stream::Zlib) },
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
                    Some(Ok(seconds)) => Some(seconds.min(TIMEOUT_MAX)),
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
