//! What stands behind the `?` of a node: read as PHP reads it, refused where it is unknown.
//!
//! pecl-memcache turns each value into a number the way PHP casts a string, so `2x` is 2
//! and `abc` is 0. That is kept, since lists in the field rely on it, with a notice.

use super::address::{Schemes, clean};
use super::{
    ALL, EMBEDDED_LEAST, EMBEDDED_MOST, Login, Mode, NodeSpec, Placement, Redis, SESSION_LIFE_MAX,
    Secret, TIMEOUT_MAX, Target, WEIGHT_MAX,
};
use super::{address, login, tls};
use crate::codec::{self, Format, Stream};
use crate::error::{Error, Kind};
use std::time::Duration;

/// What may stand there, for messages.
pub(super) const KNOWN: &str = "persistent, udp_port, weight, timeout, retry_interval, id, mode, copies, placement, session_life, drain, prefix, compression, protocol, user, password; with TLS ca, cert, key, server_name, verify; of an embedded node size; and of a Redis node auth, database (or db), client, read_timeout, resp, sentinel_auth, sentinel_user, wait";

/// What stands behind a node and holds for the whole list.
#[derive(Clone, Debug, Default)]
pub(super) struct ForAll {
    pub(super) mode: Option<Mode>,
    pub(super) copies: Option<usize>,
    /// Of this node alone: it gives up its keys.
    pub(super) drain: bool,
    /// How keys are spread.
    pub(super) placement: Option<Placement>,
    /// How long a session lives at most, seconds.
    pub(super) session_life: Option<u32>,
    /// Before every key, as phpredis' `prefix`.
    pub(super) prefix: Option<String>,
    /// How what is long is made smaller.
    pub(super) compression: Option<Option<Stream>>,
}

/// Sets what `query` ("a=1&b=2") says on `node`; returns what it says of the list.
///
/// # Errors
/// `Kind::Config`, with the text to write: an unknown or unsupported option, weight or
/// timeout of 0 or less or past its limit, an empty id.
pub(super) fn apply(
    query: &str,
    node: &mut NodeSpec,
    notices: &mut Vec<Error>,
    allowed: &Schemes,
) -> Result<ForAll, Error> {
    let mut all = ForAll::default();
    // It says what the others mean, wherever it stands.
    let mut names = query.split('&').map(|pair| pair.split('=').next());
    if let Some(protocol) = query
        .split('&')
        .find_map(|pair| pair.strip_prefix("protocol="))
    {
        engine(&decode(protocol), node)?;
    } else if !node.written.memcached && names.any(|name| name.is_some_and(is_phpredis)) {
        node.redis.get_or_insert_default();
    }
    if let Some(redis) = &mut node.redis {
        allowed.check_redis(node.tls.is_some())?;
        if let Some(login) = node.login.take() {
            (redis.user, redis.password) = (Some(login.user), Some(login.password));
        }
    }
    let (mut user, mut password) = (None, None);
    // Of the last password so far: a & in one makes its rest look like an option.
    let mut secret: Option<String> = None;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let (name, value) = (decode(name), decode(value));
        let behind = secret.clone();
        if is_secret(&name) {
            secret = Some(word(&name));
        }
        if let Target::Embedded(place) = &mut node.target {
            match name.as_str() {
                "size" => {
                    place.size = size(&value)?;
                    continue;
                }
                "persistent" | "udp_port" | "weight" | "timeout" | "retry_interval" | "id"
                | "mode" | "copies" | "placement" | "drain" | "prefix" => {}
                _ if behind.is_some() => return Err(cut_secret(behind)),
                other => {
                    return Err(refuse(
                        format!(
                            "option \"{}\" is for servers, and an embedded node has none",
                            word(other)
                        ),
                        "Take it out; size=64M says how much it may keep",
                    ));
                }
            }
        }
        let mut number = || {
            let (number, exact) = php_number(&value);
            if !exact {
                notices.push(inexact(&name, &value, &number.to_string()));
            }
            number
        };
        match name.as_str() {
            "persistent" => {
                // PHP: "" and "0" are false, any other text is true.
                node.persistent = !matches!(value.as_str(), "" | "0");
                if !matches!(value.as_str(), "" | "0" | "1") {
                    let read = if node.persistent { "true" } else { "false" };
                    notices.push(inexact(&name, &value, read));
                }
            }
            "udp_port" => node.udp_port = u16::try_from(number() as i64).unwrap_or(0),
            "weight" => node.weight = weight(number() as i64)?,
            "retry_interval" => {
                node.retry_interval = number() as i64;
                node.written.retry = true;
            }
            // phpredis: no limit.
            "timeout" | "read_timeout" if node.redis.is_some() && value == "0" => {
                node.written.timeout = true;
                match name.as_str() {
                    "timeout" => node.connect_timeout = TIMEOUT_MAX,
                    _ => node.op_timeout = TIMEOUT_MAX,
                }
            }
            "persistent_id" if node.redis.is_some() => {}
            "timeout" => {
                let limit = timeout(number())?;
                node.connect_timeout = limit;
                node.op_timeout = limit;
                node.written.timeout = true;
            }
            "id" if value.is_empty() => {
                return Err(refuse("id is empty", "Write id=NAME, or leave it out"));
            }
            "id" => node.id = Some(value),
            "drain" => all.drain = !matches!(value.as_str(), "" | "0" | "false"),
            "mode" => all.mode = Some(read_mode(&value)?),
            "copies" if value == "all" => all.copies = Some(ALL),
            "copies" => all.copies = Some(usize::try_from(number() as i64).unwrap_or(0)),
            "session_life" => all.session_life = Some(read_session_life(number() as i64)?),
            "protocol" => {}
            "prefix" if value.len() > PREFIX_MAX => {
                return Err(refuse(
                    format!("prefix is longer than {PREFIX_MAX} bytes"),
                    "Choose a shorter one",
                ));
            }
            "prefix" => all.prefix = Some(value),
            "compression" => all.compression = Some(read_stream(&value)?),
            "serializer" | "codec" => {
                return Err(refuse(
                    format!(
                        "{name} is for values, and a list is for sessions, which PHP writes itself"
                    ),
                    "Set session.serialize_handler for sessions; for values write it into a pool of the file of memring.config_file, or set memring.serializer and memring.codec",
                ));
            }
            "read_timeout" if node.redis.is_some() => {
                node.op_timeout = timeout(number())?;
                node.written.timeout = true;
            }
            "user" if node.redis.is_none() => user = Some(value),
            "password" if node.redis.is_none() => password = Some(value),
            "sentinel_auth" | "sentinel_user"
                if node.redis.is_some() && !matches!(node.target, Target::Master(_)) =>
            {
                return Err(refuse(
                    format!("option \"{name}\" is for a master behind Sentinels"),
                    "Write redis-sentinel://HOST,HOST,HOST/NAME, or take it out",
                ));
            }
            "user" | "password" | "client" | "resp" | "database" | "db" | "auth" | "auth[]"
            | "auth[user]" | "auth[pass]" | "auth[0]" | "auth[1]" | "sentinel_auth"
            | "sentinel_user" => match &mut node.redis {
                Some(redis) => of_redis(&name, value, redis)?,
                None => {
                    return Err(refuse(
                        format!("option \"{name}\" is for Redis nodes"),
                        "Write redis:// before the host, or protocol=redis behind a socket's path",
                    ));
                }
            },
            name if tls::is_option(name) => tls::apply(name, value, node)?,
            "wait" => match &mut node.redis {
                Some(redis) => redis.wait = wait(&value)?,
                None => {
                    return Err(refuse(
                        "option \"wait\" is for the replicas of a Redis",
                        "Write redis://, redis-sentinel:// or redis-cluster:// before the host, or take wait out",
                    ));
                }
            },
            "placement" => all.placement = Some(Placement::read(&value)?),
            "read_timeout" => {
                return Err(refuse(
                    "option \"read_timeout\" is for Redis nodes",
                    "Write redis:// before the host if it is one; of a memcached timeout= is the limit",
                ));
            }
            "stream" => {
                return Err(refuse(
                    "option \"stream\" is no single one",
                    "Write ca=, cert=, key=, server_name= or verify=, or phpredis' stream[cafile]= and so on",
                ));
            }
            _ if behind.is_some() => return Err(cut_secret(behind)),
            other => {
                return Err(refuse(
                    // What stands behind its name may be a password with a slip before it.
                    format!("option \"{}\" is unknown", word(other)),
                    format!("Known are {KNOWN}"),
                ));
            }
        }
    }
    tls::check(node, notices)?;
    if user.is_some() || password.is_some() {
        let before = node.login.take().map(|login| (login.user, login.password));
        let (old_user, old_password) = before.unzip();
        let user = login::read(user.or(old_user).unwrap_or_default())?;
        let password = match (password, old_password) {
            (Some(password), _) => Secret::read(password)?,
            (None, old) => old.unwrap_or_else(|| Secret::new(String::new())),
        };
        node.login = Some(Login::new(user, password)?);
    }
    Ok(all)
}

/// Longest prefix, bytes: half of memcached's longest key is left.
pub(super) const PREFIX_MAX: usize = 128;

/// Is it a word of phpredis' session.save_path that no list of memcached has?
fn is_phpredis(name: &str) -> bool {
    let name = decode(name);
    let begins = ["auth[", "stream["]
        .iter()
        .any(|begin| name.starts_with(begin));
    begins || name == "database" || name == "auth"
}

/// Makes the node what `protocol` says.
fn engine(protocol: &str, node: &mut NodeSpec) -> Result<(), Error> {
    match protocol {
        "redis" if node.written.memcached => Err(refuse(
            "memcached:// and protocol=redis contradict each other",
            "Write redis:// before the host of a Redis",
        )),
        "redis" => {
            node.redis.get_or_insert_default();
            Ok(())
        }
        "memcached" if node.redis.is_none() => Ok(()),
        "memcached" => Err(refuse(
            "redis:// and protocol=memcached contradict each other",
            "Write tcp:// before the host of a memcached",
        )),
        other => Err(refuse(
            format!("protocol \"{}\" is unknown", clean(other)),
            "Write protocol=redis or protocol=memcached",
        )),
    }
}

/// Sets an option that only Redis nodes have.
fn of_redis(name: &str, value: String, redis: &mut Redis) -> Result<(), Error> {
    match name {
        // phpredis' two: "auth[]" twice, or with names.
        "auth[]" if redis.user.is_none() => redis.user = Some(login::read(value)?),
        "user" | "auth[user]" | "auth[0]" => {
            let user = login::read(value)?;
            redis.user = (!user.is_empty()).then_some(user);
        }
        "password" | "auth" | "auth[]" | "auth[pass]" | "auth[1]" => {
            let password = Secret::read(value)?;
            redis.password = (!password.open().is_empty()).then_some(password);
        }
        "sentinel_auth" => {
            let password = Secret::read(value)?;
            redis.sentinel_password = (!password.open().is_empty()).then_some(password);
        }
        "sentinel_user" => {
            let user = login::read(value)?;
            redis.sentinel_user = (!user.is_empty()).then_some(user);
        }
        "database" | "db" => redis.database = address::database(&value)?,
        "client" => redis.client = (!value.is_empty()).then_some(value),
        _ => match value.as_str() {
            "2" => redis.resp3 = false,
            "3" => redis.resp3 = true,
            other => {
                return Err(refuse(
                    format!("resp={} is unknown", clean(other)),
                    "Write resp=2 or resp=3",
                ));
            }
        },
    }
    Ok(())
}

/// A number of replicas: a master has a handful at most.
fn wait(value: &str) -> Result<u32, Error> {
    let number = value.parse().ok().filter(|number| *number <= 100);
    number.ok_or_else(|| {
        refuse(
            "wait is a number of replicas, from 0 to 100",
            "Write wait=1, or take it out",
        )
    })
}

/// Does a password stand behind this name?
fn is_secret(name: &str) -> bool {
    name.contains("auth") || name.contains("pass")
}

/// What is said of an option that nobody knows and that may be the rest of a password.
fn cut_secret(name: Option<String>) -> Error {
    let name = name.unwrap_or_default();
    refuse(
        format!(
            "an option after {name}= is unknown, and not shown: it may be a part of what stands there"
        ),
        format!("Write & as %26 in a password, and % as %25. Known are {KNOWN}"),
    )
}

/// The beginning of `text` that can be the name of an option.
fn word(text: &str) -> String {
    let name = |c: char| c.is_ascii_alphanumeric() || "_[]".contains(c);
    let end = text.find(|c| !name(c)).unwrap_or(text.len());
    clean(text.get(..end).unwrap_or_default())
}

/// What to write for a mode.
const MODES: &str = "Write mode = \"fenced\" for sessions, \"sync\" or \"async\" for a cache with copies, or \"single\" (mode=fenced in a list)";

/// The mode of that name.
///
/// # Errors
/// `Kind::Config` for one this version has not, or nobody knows.
pub(super) fn read_mode(name: &str) -> Result<Mode, Error> {
    match name {
        "single" => Ok(Mode::Single),
        "sync" => Ok(Mode::Sync),
        "fenced" => Ok(Mode::Fenced),
        "async" => Ok(Mode::Async),
        other => Err(refuse(
            format!("mode \"{}\" is unknown", clean(other)),
            MODES,
        )),
    }
}

/// How long a session lives at most, seconds.
///
/// # Errors
/// `Kind::Config` for a number no server keeps a copy for.
pub(super) fn read_session_life(seconds: i64) -> Result<u32, Error> {
    let life = u32::try_from(seconds).ok();
    life.filter(|life| (1..=SESSION_LIFE_MAX).contains(life))
        .ok_or_else(|| {
            refuse(
                format!("session_life is a number of seconds from 1 to {SESSION_LIFE_MAX}"),
                "Write the longest session.gc_maxlifetime of all hosts, or leave it out for the longest there is",
            )
        })
}

/// The compression of that name.
fn read_stream(name: &str) -> Result<Option<Stream>, Error> {
    let found = Format::STREAMS.iter().find(|(word, _)| *word == name);
    found.map(|(_, stream)| *stream).ok_or_else(|| {
        refuse(
            format!("compression \"{}\" is unknown", clean(name)),
            "Write compression=zlib, zstd, lz4 or none",
        )
    })
}

/// A number of bytes, with K, M or G behind it, within the limits of an embedded node.
fn size(text: &str) -> Result<u64, Error> {
    let (digits, unit) = match text.char_indices().next_back() {
        Some((at, 'k' | 'K')) => (text.get(..at), 10),
        Some((at, 'm' | 'M')) => (text.get(..at), 20),
        Some((at, 'g' | 'G')) => (text.get(..at), 30),
        _ => (Some(text), 0),
    };
    digits
        .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(1 << unit))
        .filter(|size| (EMBEDDED_LEAST..=EMBEDDED_MOST).contains(size))
        .ok_or_else(|| {
            refuse(
                format!(
                    "size \"{}\" is no number of bytes from 1M to 1024G",
                    clean(text)
                ),
                "Write size=64M",
            )
        })
}

/// A weight within its limits.
fn weight(number: i64) -> Result<u32, Error> {
    u32::try_from(number)
        .ok()
        .filter(|weight| (1..=WEIGHT_MAX).contains(weight))
        .ok_or_else(|| {
            refuse(
                format!("weight must be a positive integer up to {WEIGHT_MAX}, {number} is not"),
                "Write weight=1",
            )
        })
}

/// A timeout in seconds within its limits.
fn timeout(seconds: f64) -> Result<Duration, Error> {
    // Below a microsecond no socket option can express it.
    if seconds.is_finite() && seconds >= 1e-6 {
        Ok(Duration::try_from_secs_f64(seconds)
            .unwrap_or(TIMEOUT_MAX)
            .min(TIMEOUT_MAX))
    } else {
        Err(refuse(
            format!("timeout must be more than 0 seconds, {seconds} is not"),
            "Write timeout=1",
        ))
    }
}

impl NodeSpec {
    /// The same node with the weight addServer was given.
    ///
    /// # Errors
    /// `Kind::Config` "weight must be a positive integer…" outside 1 to [`WEIGHT_MAX`].
    pub fn with_weight(mut self, number: i64) -> Result<NodeSpec, Error> {
        self.weight = weight(number)?;
        Ok(self)
    }

    /// The same node with one timeout, in seconds, for connecting and for each exchange.
    ///
    /// # Errors
    /// `Kind::Config` when it is not more than 0; more than [`TIMEOUT_MAX`] is that.
    pub fn with_timeout(mut self, seconds: f64) -> Result<NodeSpec, Error> {
        self.connect_timeout = timeout(seconds)?;
        self.op_timeout = self.connect_timeout;
        self.written.timeout = true;
        Ok(self)
    }
}

/// The number PHP makes of `text`, and whether all of it was one.
///
/// As (int) and (float) on a string: leading blanks and sign, as many digits as there are,
/// then whatever; "INF" and "0x1A" are 0.
fn php_number(text: &str) -> (f64, bool) {
    let start = text.trim_start().trim_start_matches(['+', '-']);
    if !start.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return (0.0, false);
    }
    let exact = text.trim().parse::<f64>().is_ok();
    (codec::read_float(text.as_bytes()), exact)
}

fn inexact(name: &str, value: &str, read: &str) -> Error {
    let mut notice = format!("option {name}: \"{}\" is read as {read}", clean(value));
    if value.contains(';') {
        notice.push_str("; servers are separated by a comma or a blank, not by \";\"");
    }
    Error::new(Kind::Config, notice)
}

fn refuse(cause: impl Into<Box<str>>, hint: impl Into<Box<str>>) -> Error {
    Error::new(Kind::Config, cause).hint(hint)
}

/// URL decoding as PHP's parse_str: `+` is a blank, `%41` is `A`, bytes that are no UTF-8
/// become U+FFFD.
pub(super) fn decode(text: &str) -> String {
    if !text.contains(['%', '+']) {
        return text.to_owned();
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    loop {
        match rest {
            [] => break,
            [b'+', after @ ..] => {
                bytes.push(b' ');
                rest = after;
            }
            [b'%', high, low, after @ ..]
                if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() =>
            {
                let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
                bytes.push(digit(*high) << 4 | digit(*low));
                rest = after;
            }
            [byte, after @ ..] => {
                bytes.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_php_casts_them() {
        for (text, number, exact) in [
            ("5", 5.0, true),
            (" 5 ", 5.0, true),
            ("+7", 7.0, true),
            ("-1", -1.0, true),
            ("1e3", 1000.0, true),
            (".5", 0.5, true),
            ("0;tcp://b:1", 0.0, false),
            ("1.5x", 1.5, false),
            ("", 0.0, false),
            ("abc", 0.0, false),
            ("true", 0.0, false),
            ("INF", 0.0, false),
            ("nan", 0.0, false),
            ("0x1A", 0.0, false),
        ] {
            assert_eq!(php_number(text), (number, exact), "{text:?}");
        }
    }

    #[test]
    fn a_url_is_decoded_and_broken_escapes_stay() {
        for (text, plain) in [
            ("a%20b+c", "a b c"),
            ("%41%6a", "Aj"),
            ("100%", "100%"),
            ("%zz%4", "%zz%4"),
            ("%C4%BE", "ľ"),
        ] {
            assert_eq!(decode(text), plain);
        }
        assert_eq!(decode("%ff"), "\u{fffd}");
    }
}
