//! Backups and rules for prefixes: what a pool of the file says beside its own nodes and mode.
//!
//! ```toml
//! [pool.cache]
//! nodes  = ["memcached://10.0.0.1?id=a", "memcached://10.0.0.2?id=b"]
//! mode   = "sync"
//! backup = "spare"                            # the last copy lies on a node of pool spare
//! prefix."page:" = { mode = "single" }        # the longest prefix wins
//! prefix."cfg:"  = { copies = "all", nodes = ["a", "b"] }
//! ```

use super::super::{ALL, Mode, Placement, Rule, Topology, Wish, options, sentinel};
use super::{clean, read_copies};
use crate::error::{Error, Kind};
use serde::Deserialize;
use std::collections::BTreeMap;
use toml::Spanned;

/// One rule as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRule {
    mode: Option<Spanned<String>>,
    copies: Option<Spanned<toml::Value>>,
    nodes: Option<Vec<Spanned<String>>>,
}

/// The rules of a pool, the longest prefixes first.
///
/// # Errors
/// `Kind::Config` with the line: an empty prefix, a mode that is none for a cache, a node that
/// is not the pool's or named twice, more copies than nodes, rules in a pool of sessions.
pub(super) fn read(
    raw: &BTreeMap<String, Spanned<RawRule>>,
    topology: &Topology,
    at: &dyn Fn(usize) -> String,
) -> Result<Vec<Rule>, Error> {
    let mut rules = Vec::with_capacity(raw.len());
    for (prefix, raw) in raw {
        let place = at(raw.span().start);
        if topology.policy.mode == Mode::Fenced {
            return Err(refuse(
                "prefix is for caches, and this pool keeps sessions".to_owned(),
                "Write it in a pool with mode = \"sync\" or \"single\"",
            )
            .at(&place));
        }
        if topology.policy.placement == Placement::Slots {
            return Err(refuse(
                "prefix is for pools of single nodes: a cluster spreads all keys alike".to_owned(),
                "Take prefix out, or write these keys into a pool of their own",
            )
            .at(&place));
        }
        if prefix.is_empty() {
            return Err(refuse(
                "a prefix is empty".to_owned(),
                "Write mode and copies of all keys beside nodes",
            )
            .at(&place));
        }
        let rule =
            one(prefix, raw.get_ref(), topology, at).map_err(|error| match error.node() {
                Some(_) => error,
                None => error.at(&place),
            })?;
        rules.push(rule);
    }
    rules.sort_by_key(|rule| std::cmp::Reverse(rule.prefix.len()));
    Ok(rules)
}

fn one(
    prefix: &str,
    raw: &RawRule,
    topology: &Topology,
    at: &dyn Fn(usize) -> String,
) -> Result<Rule, Error> {
    let mode = match &raw.mode {
        None => None,
        Some(mode) => match options::read_mode(mode.get_ref())
            .map_err(|error| error.at(&at(mode.span().start)))?
        {
            Mode::Fenced => {
                return Err(refuse(
                    "mode fenced is for sessions, not for a prefix".to_owned(),
                    "Write mode = \"sync\", or a pool of its own for sessions",
                )
                .at(&at(mode.span().start)));
            }
            mode => Some(mode),
        },
    };
    let mut nodes = Vec::new();
    for name in raw.nodes.iter().flatten() {
        let known = |node: &super::super::NodeSpec| node.id.clone().unwrap_or_else(|| node.name());
        let Some(index) = topology
            .nodes
            .iter()
            .position(|n| known(n) == *name.get_ref())
        else {
            let names: Vec<String> = topology.nodes.iter().map(known).collect();
            return Err(refuse(
                format!("\"{}\" is none of the pool's nodes", clean(name.get_ref())),
                &format!("Write one of \"{}\"", names.join("\", \"")),
            )
            .at(&at(name.span().start)));
        };
        if nodes.contains(&index) {
            return Err(refuse(
                format!("\"{}\" is named twice", clean(name.get_ref())),
                "Name each node once",
            )
            .at(&at(name.span().start)));
        }
        nodes.push(index);
    }
    let copies = match &raw.copies {
        Some(copies) => Some(read_copies(copies, at)?),
        None => None,
    };
    let rule = Rule {
        prefix: prefix.as_bytes().to_vec(),
        mode,
        copies,
        nodes,
    };
    check(&rule, topology)?;
    Ok(rule)
}

fn check(rule: &Rule, topology: &Topology) -> Result<(), Error> {
    let count = match rule.nodes.len() {
        0 => topology.nodes.len(),
        count => count,
    };
    let mode = rule.mode.unwrap_or(topology.policy.mode);
    sentinel::check(&topology.nodes, mode)?;
    match (mode, rule.copies) {
        (Mode::Single, Some(_)) => Err(refuse(
            "copies needs a mode that keeps them".to_owned(),
            "Write mode = \"sync\" beside it",
        )),
        (Mode::Single, None) => Ok(()),
        (_, Some(copies)) if copies < 2 => Err(refuse(
            format!("copies = {copies} keeps no copy"),
            "Write copies = 2, or mode = \"single\"",
        )),
        (_, Some(copies)) if copies != ALL && copies > count => Err(refuse(
            format!("copies = {copies} is more than the {count} nodes"),
            "Write copies = 2, or copies = \"all\" for one on every node",
        )),
        _ if count < 2 => Err(refuse(
            "copies on one node are none".to_owned(),
            "Name two nodes or more, or write mode = \"single\"",
        )),
        _ => Ok(()),
    }
}

/// Gives `wish` the nodes of pool `backup` for its last copy. What that pool has for a backup
/// itself does not count.
///
/// # Errors
/// `Kind::Config`: no such pool, the pool itself, another mode than sync and async, or no node that is
/// not the pool's own.
pub(super) fn back_up(
    wish: &mut Wish,
    backup: &str,
    pools: &BTreeMap<String, Wish>,
) -> Result<(), Error> {
    let policy = &wish.topology.policy;
    if policy.name == backup {
        return Err(refuse(
            "the pool is its own backup".to_owned(),
            "Name another pool; copies = 2 keeps a second copy in the same one",
        ));
    }
    if !matches!(policy.mode, Mode::Sync | Mode::Async) {
        return Err(refuse(
            format!("mode {} keeps no copy for a backup", policy.mode.word()),
            "Write mode = \"sync\" beside it",
        ));
    }
    let Some(other) = pools.get(backup) else {
        let names: Vec<&str> = pools
            .keys()
            .map(String::as_str)
            .filter(|name| *name != policy.name)
            .collect();
        return Err(refuse(
            format!("there is no pool \"{}\" for a backup", clean(backup)),
            &format!("Write one of \"{}\"", names.join("\", \"")),
        ));
    };
    if other.topology.policy.placement == Placement::Slots {
        return Err(refuse(
            format!(
                "pool \"{}\" is a cluster, which is no backup of another pool",
                clean(backup)
            ),
            "Name a pool of single nodes",
        ));
    }
    let nodes = &other.topology.nodes;
    sentinel::check(nodes, policy.mode)?;
    let own = wish.topology.nodes.len();
    if own < 2
        && nodes.iter().all(|node| {
            wish.topology
                .nodes
                .iter()
                .any(|own| own.target == node.target)
        })
    {
        return Err(refuse(
            "the backup has no other node than the pool".to_owned(),
            "Name a pool with a node of its own",
        ));
    }
    wish.topology.policy.backup = nodes.len();
    wish.topology.nodes.extend(nodes.iter().cloned());
    wish.topology.check_embedded()?;
    super::redis::check(&wish.topology)
}

/// Checks that no pool whose copies or values lie on the same nodes stores under the same names: a copy of the one's
/// key would be the other's value. `backups` says which pool has which.
///
/// # Errors
/// `Kind::Config`: one of them has the same `key_prefix`, or none as this one.
pub(super) fn keep_apart(
    wish: &Wish,
    backups: &BTreeMap<&str, &str>,
    pools: &BTreeMap<String, Wish>,
) -> Result<(), Error> {
    let own = &wish.topology.policy;
    let spare = backups.get(own.name.as_str());
    // A backup that has one itself is no mere spare.
    let shares = |(other, theirs): &(&&str, &&str)| {
        **other != own.name && (spare == Some(*theirs) || spare == Some(*other))
    };
    let others = backups.iter().filter(shares);
    let mut others = others.filter_map(|(other, _)| pools.get(*other));
    let same = |other: &&Wish| other.topology.policy.keys.prefix == own.keys.prefix;
    let Some(other) = others.find(same) else {
        return Ok(());
    };
    Err(refuse(
        format!(
            "pools \"{}\" and \"{}\" have copies on the same nodes, and what one stores under a key the other would find",
            clean(&own.name),
            clean(&other.topology.policy.name)
        ),
        &format!(
            "Write key_prefix = \"{}.\" into one of them",
            clean(&own.name)
        ),
    ))
}

fn refuse(cause: String, hint: &str) -> Error {
    Error::new(Kind::Config, cause).hint(hint.to_owned())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::super::File;

    #[test]
    fn pools_with_copies_on_the_same_nodes_need_names_of_their_own() {
        let pool = |name: &str, backup: &str, prefix: &str| {
            let prefix = match prefix {
                "" => String::new(),
                prefix => format!("key_prefix = \"{prefix}\"\n"),
            };
            format!(
                "[pool.{name}]\nnodes = [\"{name}:1\", \"{name}:2\"]\nmode = \"sync\"\nbackup = \"{backup}\"\n{prefix}"
            )
        };
        let spare = "[pool.s]\nnodes = [\"s:1\"]\n".to_owned();
        for (text, line, other) in [
            (pool("a", "b", "") + &pool("b", "a", ""), 4, "b"),
            (pool("a", "b", "x") + &pool("b", "a", "x"), 4, "b"),
            (pool("a", "s", "") + &pool("b", "s", "") + &spare, 4, "b"),
            (
                pool("a", "b", "") + &pool("b", "c", "") + &pool("c", "a", "x"),
                4,
                "b",
            ),
        ] {
            let said = File::parse("f", &text).unwrap_err().to_string();
            let words = format!(
                "f, line {line}: pools \"a\" and \"{other}\" have copies on the same nodes"
            );
            assert!(said.contains(&words), "{said}");
            assert!(
                said.ends_with("Write key_prefix = \"a.\" into one of them"),
                "{said}"
            );
        }
        for text in [
            pool("a", "b", "") + &pool("b", "a", "x"),
            pool("a", "s", "") + &pool("b", "s", "b.") + &spare,
            pool("a", "s", "") + &spare,
        ] {
            File::parse("f", &text).unwrap();
        }
    }

    #[test]
    fn a_backups_nodes_are_checked_as_the_pools_own() {
        let text = "[pool.a]\nnodes = [\"a:1\", \"a:2\"]\nmode = \"sync\"\nbackup = \"s\"\n[pool.s]\nnodes = [\"redis://s?wait=1\"]\n";
        let said = File::parse("f", text).unwrap_err().to_string();
        assert!(
            said.contains("f, line 4: wait= asks for the replicas of"),
            "{said}"
        );
    }

    #[test]
    fn rules_stand_from_the_longest_prefix_to_the_shortest_however_they_are_written() {
        let rule = |prefix: &str| format!("prefix.\"{prefix}\" = {{ mode = \"single\" }}\n");
        for order in [["c", "cfg:x", "cfg:"], ["cfg:x", "cfg:", "c"]] {
            let rules = order.map(rule).concat();
            let text = format!("[pool.p]\nnodes = [\"a:1\", \"b:1\"]\nmode = \"sync\"\n{rules}");
            let rules = File::parse("f", &text)
                .unwrap()
                .pool("p")
                .unwrap()
                .policy
                .rules;
            let prefixes = rules.iter().map(|rule| rule.prefix.as_slice());
            assert_eq!(prefixes.collect::<Vec<_>>(), [&b"cfg:x"[..], b"cfg:", b"c"]);
        }
    }
}
