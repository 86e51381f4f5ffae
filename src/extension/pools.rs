//! What a pool is made of that addServer() begins: the settings of this moment.

use crate::ffi::errors::{self, Thrown};
use crate::ffi::object::{Connection, Object};
use crate::ffi::resource::Link;
use crate::ffi::server;
use crate::ini::{self, KeyHash, Prefix};
use crate::memcache::State;
use memring_pool::codec::Compression;
use memring_pool::config::Policy;
use memring_pool::item::{KeyRule, LongKeys};
use memring_pool::pool::Pool;

/// Default of min_savings (memcache_pool.h MMC_DEFAULT_SAVINGS).
pub(crate) const SAVINGS: f64 = 0.2;

/// The pool behind an object, made where there is none yet; None after a warning.
pub(crate) fn of(object: Object<'_>) -> Result<Option<Link>, Thrown> {
    match object.connection() {
        Connection::Pool(link) => Ok(Some(link)),
        Connection::Broken => Err(errors::type_error(
            "supplied argument is not a valid connection resource",
        )),
        Connection::None => {
            let link = new_pool()?;
            if let Some(link) = &link {
                object.connect(link);
            }
            Ok(link)
        }
    }
}

/// A pool without nodes, with the settings of this moment; None after a warning when they do
/// not go together.
pub(crate) fn new_pool() -> Result<Option<Link>, Thrown> {
    let state = |policy| State {
        pool: Pool::new(policy),
        compression: ini::read(|values| {
            Compression::new(values.compress_threshold, SAVINGS).unwrap_or_default()
        }),
        login: None,
    };
    Ok(blank()?.map(|policy| Link::new(state(policy))))
}

/// What the settings of this moment say of a pool that addServer() begins; None after a warning
/// when they do not go together.
pub(crate) fn blank() -> Result<Option<Policy>, Thrown> {
    let format = match ini::read(|values| values.format).check() {
        Ok(format) => format,
        Err(error) => {
            errors::warning_of(error.to_string());
            errors::check()?;
            return Ok(None);
        }
    };
    let prefix = key_prefix(ini::read(|values| values.prefix.clone()));
    Ok(Some(ini::read(|values| Policy {
        protocol: values.protocol,
        placement: values.placement,
        hash: values.hash,
        keys: KeyRule {
            prefix,
            long: long_keys(values.key_hash),
        },
        format,
        ..Policy::default()
    })))
}

/// What happens to long keys in mode single.
pub(crate) fn long_keys(setting: KeyHash) -> LongKeys {
    match setting {
        KeyHash::Auto | KeyHash::Cut => LongKeys::Cut,
        KeyHash::Hash => LongKeys::Hash,
    }
}

/// The bytes put before each key.
pub(crate) fn key_prefix(rule: Prefix) -> Vec<u8> {
    let mut prefix = rule.label;
    if rule.host
        && let Some(name) = server::server_name()
    {
        let mut host = name.bytes();
        if rule.remove_www
            && host
                .get(..4)
                .is_some_and(|head| head.eq_ignore_ascii_case(b"www."))
        {
            host = host.get(4..).unwrap_or_default();
        }
        if rule.remove_subdomain {
            // The second dot from the right parts what stays from what goes; a leading dot parts nothing.
            let dot = host
                .iter()
                .enumerate()
                .rev()
                .filter(|(at, byte)| *at > 0 && **byte == b'.')
                .nth(1);
            if let Some(rest) = dot
                .and_then(|(at, _)| host.get(at + 1..))
                .filter(|rest| !rest.is_empty())
            {
                host = rest;
            }
        }
        prefix.extend_from_slice(host);
    }
    prefix
}
