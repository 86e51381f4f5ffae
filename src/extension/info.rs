//! phpinfo() and `php --ri`: who we are, and who provides class Memcache.

use crate::ffi::info::table;
use crate::ffi::module::{Provider, VERSION, provider};
use crate::ini::{self, Scope, Setting};
use crate::{registry, status};
use memring_pool::fact::Fact;

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
    figures();
    settings(ini::MEMRING);
}

/// The main figures of `Memring\status()`.
fn figures() {
    registry::join();
    let told = status::whole();
    let mut rows = Vec::new();
    let mut nodes: Vec<&Fact> = Vec::new();
    for pool in told.find("pools").map_or(&[][..], Fact::items) {
        let text = |name| pool.find(name).and_then(Fact::text).unwrap_or_default();
        let members = pool.find("nodes").map_or(&[][..], Fact::items);
        let name = match text("pool") {
            "" => text("source"),
            name => name,
        };
        rows.push((
            "Pool",
            format!("{name}: mode {}, {} nodes", text("mode"), members.len()),
        ));
        nodes.extend(members);
    }
    nodes.extend(told.find("other_nodes").map_or(&[][..], Fact::items));
    for node in nodes {
        let text = |name| node.find(name).and_then(Fact::text).unwrap_or_default();
        let why = match text("cause") {
            "" => String::new(),
            cause => format!(" ({cause})"),
        };
        rows.push(("Node", format!("{}: {}{why}", text("node"), text("state"))));
    }
    for part in ["host", "counters"] {
        let Some(Fact::Map(figures)) = told.find(part) else {
            continue;
        };
        for (name, value) in figures {
            let value = value.text().map_or_else(|| value.json(), str::to_owned);
            rows.push((name, value));
        }
    }
    table(&rows);
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
