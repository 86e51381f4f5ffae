//! phpinfo() and `php --ri`: who we are, and who provides class Memcache.

use crate::ffi::info::table;
use crate::ffi::module::{Provider, VERSION, provider};
use crate::ini::{self, Scope, Setting};
use crate::registry;

/// The part of module memring.
pub(crate) fn memring() {
    let memcache = match provider() {
        Provider::Memring => "memring",
        Provider::Other => "the memcache extension (memring provides Memring\\Memcache only)",
    };
    table(&[
        ("memring support", "enabled".to_owned()),
        ("Version", VERSION.to_owned()),
        ("Class Memcache is provided by", memcache.to_owned()),
        (
            "Persistent nodes of this process",
            registry::len().to_string(),
        ),
    ]);
    settings(ini::MEMRING);
}

/// The part of module memcache.
pub(crate) fn memcache() {
    table(&[
        ("memcache support", "enabled".to_owned()),
        ("Version", "8.3.0".to_owned()),
        ("Provided by", format!("memring {VERSION}")),
    ]);
    settings(ini::MEMCACHE);
}

/// What each setting does, and what it may be.
fn settings(settings: &'static [Setting]) {
    let rows: Vec<_> = settings
        .iter()
        .map(|setting| {
            let unit = if setting.unit.is_empty() {
                String::new()
            } else {
                format!(" {}", setting.unit)
            };
            let place = if setting.scope == Scope::System {
                "; php.ini only"
            } else {
                ""
            };
            (
                setting.title(),
                format!("{} [{}{unit}{place}]", setting.sentence, setting.range),
            )
        })
        .collect();
    table(&rows);
}
