//! `session.save_path` and `memcache.session_save_path`: a list of servers in one line.
//!
//! The grammar is pecl-memcache's: items between blanks or commas (";" is no separator),
//! each a URL with options behind "?". php-memcached's `host:port` and `host:port:weight`
//! and a whole `pool:NAME` are understood too. Connections of a list are not persistent
//! unless it says so, as in pecl-memcache.
//!
//! Refused whole, with the text to write: a blank list, an item without a host, and a
//! directory, which is what Debian's php.ini leaves here for the `files` handler.

use super::address::{self, Schemes, clean, shown};
use super::options::ForAll;
use super::{Mode, NodeSpec, Placement, REDIS_PORT, Wish, cluster, options, placement, sentinel};
use crate::error::{Error, Kind};

/// Reads `list`. `pools` is asked for the pool when the list is `pool:NAME`.
///
/// # Errors
/// `Kind::Config`, naming the item and what to write instead; and whatever `pools` returns.
///
/// ```
/// use memring_pool::config::{Schemes, save_path};
/// let no_file = |_: &str| unreachable!("the list names no pool");
/// let wish = save_path::parse("tcp://a:11211?weight=2, b:11212", &Schemes::default(), &no_file)?;
/// assert_eq!(wish.topology.nodes.len(), 2);
/// assert_eq!(wish.topology.nodes[0].weight, 2);
/// # Ok::<(), memring_pool::error::Error>(())
/// ```
pub fn parse(
    list: &str,
    allowed: &Schemes,
    pools: &dyn Fn(&str) -> Result<Wish, Error>,
) -> Result<Wish, Error> {
    // Its words may hold blanks and commas.
    let theirs = cluster::shown_seeds(list);
    let items = match &theirs {
        Some(_) => vec![list.trim()],
        None => items(list),
    };
    match items[..] {
        [] => {
            return Err(
                Error::new(Kind::Config, "session.save_path names no server")
                    .hint(format!("Write session.save_path = \"{EXAMPLE}\"")),
            );
        }
        [item] => {
            if let Some(name) = item.strip_prefix("pool:") {
                return pools(name);
            }
        }
        _ => {}
    }
    let mut wish = Wish::default();
    for (number, item) in (1..).zip(items) {
        let place = |error: Error| {
            error.at(&format!(
                "session.save_path, server {number} (\"{}\")",
                theirs.clone().unwrap_or_else(|| shown(item))
            ))
        };
        let before = wish.notices.len();
        one(item, allowed, &mut wish, false).map_err(place)?;
        let node = wish.topology.nodes.last();
        if node.is_some_and(NodeSpec::has_written_secret) {
            wish.notices.push(
                Error::new(Kind::Config, "PHP shows session.save_path, and with it this password, in phpinfo() and in warnings of its own")
                    .hint("Write the pool into the file of memring.config_file, and its name here as pool:NAME"),
            );
        }
        if !wish.topology.drained.is_empty() {
            let error = Error::new(Kind::Config, "a list has no epochs, which drain needs");
            return Err(place(error.hint(
                "Write the pool into the file of memring.config_file, and its name here as pool:NAME",
            )));
        }
        for notice in wish.notices.get_mut(before..).unwrap_or_default() {
            *notice = place(notice.clone());
        }
    }
    wish.check()
        .map_err(|error| error.at("session.save_path"))?;
    if !wish.placement_written {
        wish.topology.policy.placement = usual_placement(wish.topology.policy.mode);
    }
    placement::check(&wish.topology.nodes, &wish.topology.policy)
        .map_err(|error| error.at("session.save_path"))?;
    Ok(wish)
}

/// What stands between blanks or commas. Between the scheme of a node that names several
/// servers and the next slash a comma is part of the node.
fn items(list: &str) -> Vec<&str> {
    let blank = |c: char| c.is_ascii_whitespace() || c == '\x0b';
    let mut items = Vec::new();
    let mut rest = list;
    loop {
        rest = rest.trim_start_matches(|c| c == ',' || blank(c));
        if rest.is_empty() {
            return items;
        }
        // Where those servers end.
        let servers = sentinel::behind_scheme(rest).map_or(0, |behind| {
            rest.len() - behind.find('/').map_or(0, |slash| behind.len() - slash)
        });
        let servers = servers.max(cluster::hosts_end(rest));
        let end = rest
            .char_indices()
            .find(|(at, c)| blank(*c) || (*c == ',' && *at >= servers))
            .map_or(rest.len(), |(at, _)| at);
        let (item, behind) = rest.split_at(end);
        items.push(item);
        rest = behind;
    }
}

/// How keys are spread where nothing is said of it.
pub(super) fn usual_placement(mode: Mode) -> Placement {
    match mode {
        Mode::Single => Placement::default(),
        Mode::Async | Mode::Sync | Mode::Fenced => Placement::Rendezvous,
    }
}

const EXAMPLE: &str = "tcp://127.0.0.1:11211";

/// Adds the node `item` describes to `wish`; `persistent` is the default for its connections.
pub(super) fn one(
    item: &str,
    allowed: &Schemes,
    wish: &mut Wish,
    persistent: bool,
) -> Result<(), Error> {
    let refuse = |cause: String, hint: String| Err(Error::new(Kind::Config, cause).hint(hint));
    if item.starts_with("pool:") {
        return refuse(
            "pool:NAME stands for a whole list".to_owned(),
            "Write it alone".to_owned(),
        );
    }
    if item.starts_with("PERSISTENT=") {
        return refuse(
            "PERSISTENT= is php-memcached's".to_owned(),
            format!("Write {EXAMPLE}?persistent=1"),
        );
    }
    let (place, query) = item.split_once('?').unwrap_or((item, ""));
    if let Some((place, query)) = cluster::of_phpredis(item) {
        let all = cluster::add(&place, &query, allowed, wish, persistent)?;
        return for_all(all, wish);
    }
    if cluster::is_written(place) {
        let all = cluster::add(place, query, allowed, wish, persistent)?;
        return for_all(all, wish);
    }
    if wish.topology.policy.placement == Placement::Slots {
        return Err(cluster::alone());
    }
    let has_scheme = ["unix:", "file:"]
        .iter()
        .any(|scheme| place.starts_with(scheme))
        || place.contains("://");
    if !has_scheme && place.contains('/') && !place.contains('@') {
        // "/var/lib/php/sessions", and "5;0600;/tmp" as the files handler takes it.
        let path = place.rsplit(';').next().unwrap_or(place);
        return refuse(
            format!("\"{}\" is a path, not a server", clean(place)),
            format!(
                "Write session.save_path = \"{EXAMPLE}\", or \"unix://{}\" if that is memcached's socket",
                clean(path)
            ),
        );
    }
    // php-memcached's third field; an IPv6 address has more colons, a URL two slashes.
    let (place, third) = match place.rsplit_once(':') {
        Some((rest, weight))
            if !place.contains(['/', '['])
                && rest.matches(':').count() == 1
                && !rest.ends_with(':') =>
        {
            (rest, Some(weight))
        }
        _ => (place, None),
    };
    let address = address::parse(place, allowed)?;
    let mut node = address.listed();
    node.persistent = persistent;
    if let Some(weight) = third {
        options::apply(
            &format!("weight={weight}"),
            &mut node,
            &mut wish.notices,
            allowed,
        )?;
    }
    let all = options::apply(query, &mut node, &mut wish.notices, allowed)?;
    if address.port.is_none() && address.redis.is_none() && node.redis.is_some() {
        node.move_to(REDIS_PORT);
    }
    if node.redis.is_some() && node.written.retry {
        wish.notices.push(
            Error::new(Kind::Config, "retry_interval counts seconds, as pecl-memcache does; phpredis' counts milliseconds")
                .hint("Write how long a failed node is left alone, in seconds"),
        );
    }
    match all.drain {
        true => wish.topology.drained.push(node),
        false => wish.topology.nodes.push(node),
    }
    for_all(all, wish)
}

/// Takes over what one item says of the whole list.
fn for_all(all: ForAll, wish: &mut Wish) -> Result<(), Error> {
    if let Some(prefix) = all.prefix {
        let keys = &mut wish.topology.policy.keys;
        if !keys.prefix.is_empty() && keys.prefix != prefix.as_bytes() {
            return Err(Error::new(
                Kind::Config,
                "two servers have different prefixes, and a list has one",
            )
            .hint("Write the same prefix= behind each, or none"));
        }
        keys.prefix = prefix.into_bytes();
    }
    if let Some(stream) = all.compression {
        wish.topology.policy.format.stream = stream;
    }
    if let Some(mode) = all.mode {
        wish.topology.policy.mode = mode;
        wish.mode_written = true;
    }
    if let Some(placement) = all.placement {
        wish.topology.policy.placement = placement;
        wish.placement_written = true;
    }
    if all.copies.is_some() {
        wish.topology.policy.copies = all.copies;
    }
    if all.session_life.is_some() {
        wish.topology.policy.session_life = all.session_life;
    }
    Ok(())
}

#[cfg(test)]
#[path = "tests.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "tests may stop at the first surprise"
)]
mod tests;
