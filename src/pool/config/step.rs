//! From one node list of a copied pool to the next: what may change in one step, and how lists
//! are told apart.
//!
//! Two hosts of which one has the new list and the other the old one must find each other's
//! sessions. They do while both lists are used, from the moment the new file is seen to
//! `memring commit POOL`; that takes a step that is small, has a number (`epoch`) and says
//! where it came from (`previous_nodes`, or a node with `drain=1`). The number alone does not
//! prove that two hosts mean the same list, so records keep the list's [`fingerprint`], too.
//!
//! In mode single there are no records, and a key has one place: the list before is read, and written, for as
//! long as it stands in the file, whatever has changed. No epoch and no commit belong to it.

use super::{Mode, NodeSpec, Placement, Policy, Topology, Wish};
use crate::error::{Error, Kind};

/// A number for the nodes and for how keys are spread over them; never 0.
///
/// The order of the nodes, their addresses and their timeouts have no part in it.
pub fn fingerprint(nodes: &[NodeSpec], policy: &Policy) -> u32 {
    let mut lines: Vec<String> = nodes
        .iter()
        .map(|node| format!("{} {}", node.ring_name(), node.weight))
        .collect();
    lines.sort_unstable();
    lines.push(format!(
        "{:?} {:?} {:?} {:?}",
        policy.placement, policy.tag, policy.copies, policy.keys.prefix
    ));
    // FNV-1a, 32 bits (Fowler, Noll, Vo): known by heart to any tool that wants to compare.
    let hash = lines
        .join("\n")
        .bytes()
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    hash.max(1)
}

/// Is the step that a pool writes one that hosts can take at different times?
pub(super) fn check(topology: &Topology) -> Result<(), Error> {
    let Topology {
        nodes,
        previous,
        policy,
        ..
    } = topology;
    if previous.is_empty() {
        return Ok(());
    }
    if policy.mode == Mode::Single {
        return check_single(policy);
    }
    if policy.mode != Mode::Fenced {
        return refuse(
            "previous_nodes and drain are for sessions with copies, and for mode single",
            "Write mode = \"fenced\" or \"single\", or take them out: elsewhere a changed list holds at once",
        );
    }
    if policy.epoch == 0 {
        return refuse(
            "a changed node list needs a higher epoch",
            "Write epoch = 1 beside it, and next time one more",
        );
    }
    if previous.len() < 2 {
        return refuse(
            "previous_nodes are fewer than two",
            "Write the whole list as it was",
        );
    }
    let has = |list: &[NodeSpec], node: &NodeSpec| {
        let same = |other: &&NodeSpec| other.ring_name() == node.ring_name();
        list.iter().find(same).cloned()
    };
    let (mut added, mut changed) = (0, 0);
    for node in nodes {
        match has(previous, node) {
            None => added += 1,
            Some(other) if other.target != node.target => {
                return refuse(
                    format!(
                        "{} stands for another server than in previous_nodes",
                        node.ring_name()
                    ),
                    "Give the new server an id of its own: under one name hosts with the old file and hosts with this one would take two servers for one",
                );
            }
            Some(other) => changed += usize::from(other.weight != node.weight),
        }
    }
    let removed = previous
        .iter()
        .filter(|node| has(nodes, node).is_none())
        .count();
    if added.max(removed) + changed > 1 {
        return refuse(
            format!("{added} nodes added, {removed} removed and {changed} reweighted in one epoch"),
            "Add, remove, rename or reweight one node per epoch, and end each with memring commit POOL",
        );
    }
    Ok(())
}

/// The same of a pool that keeps one copy.
fn check_single(policy: &Policy) -> Result<(), Error> {
    if policy.placement == Placement::Slots {
        return refuse(
            "previous_nodes and drain are not for a Redis Cluster",
            "Take them out: the cluster itself moves its keys",
        );
    }
    Ok(())
}

/// Checks, once its prefixes are known, that a pool which has them has one node list.
pub(super) fn check_rules(topology: &Topology) -> Result<(), Error> {
    let Topology {
        previous, policy, ..
    } = topology;
    if previous.is_empty() || policy.rules.is_empty() && policy.backup == 0 {
        return Ok(());
    }
    refuse(
        "previous_nodes and drain cannot stand beside prefixes with rules, or a backup",
        "Take them out: a changed list holds at once there",
    )
}

/// What `migrate_from` says of another pool of the file: its name.
pub(super) fn old_pool(from: &str) -> Option<&str> {
    from.strip_prefix("pool:")
}

/// Takes the place in, too, where sessions are that move.
pub(super) fn migrate(from: &str, topology: &mut Topology) -> Result<(), Error> {
    let pool = old_pool(from);
    if from != "pecl" && pool.is_none() {
        return refuse(
            format!(
                "migrate_from \"{}\" is unknown",
                super::address::clean(from)
            ),
            "Write migrate_from = \"pecl\" for mode single on the same nodes, or \"pool:NAME\" for a pool of mode single",
        );
    }
    if topology.policy.mode != Mode::Fenced {
        return refuse(
            "migrate_from is for a pool that keeps copies",
            "Write mode = \"fenced\", or take it out",
        );
    }
    if pool.is_none() && topology.policy.keys.prefix.is_empty() {
        return refuse(
            "migrate_from needs a key_prefix: the copies lie on the same nodes as pecl's sessions, and need names of their own",
            "Write key_prefix = \"f:\"; it stays when migrate_from goes",
        );
    }
    if !topology.previous.is_empty() {
        return refuse(
            "nodes change while sessions migrate",
            "End one of the two first: take out previous_nodes and drain, or migrate_from",
        );
    }
    topology.policy.migrating = true;
    Ok(())
}

/// Takes the pool in that `migrate_from` names.
///
/// # Errors
/// `Kind::Config`: there is none, it is not of mode single, or what lies there has the same names
/// on the same nodes.
pub(super) fn migrate_pool(old: Option<&Wish>, topology: &mut Topology) -> Result<(), Error> {
    let Some(old) = old else {
        return refuse(
            "migrate_from names no pool of this file",
            "Write a [pool.NAME] with the nodes where the sessions are, and migrate_from = \"pool:NAME\"",
        );
    };
    let Topology {
        nodes,
        previous,
        policy,
        ..
    } = &old.topology;
    if !previous.is_empty() {
        return refuse(
            "nodes change in the pool that migrate_from names",
            "End one of the two first: take out its previous_nodes and drain, or migrate_from",
        );
    }
    if policy.mode != Mode::Single || !policy.rules.is_empty() {
        return refuse(
            "the pool that migrate_from names is not of mode single alone",
            "Write mode = \"single\" there, and no prefixes",
        );
    }
    let shared = nodes
        .iter()
        .any(|node| topology.nodes.iter().any(|new| new.target.is(&node.target)));
    if shared && policy.keys.prefix == topology.policy.keys.prefix {
        return refuse(
            "migrate_from needs a key_prefix: copies lie on a node of the old pool, and need names of their own",
            "Write key_prefix = \"f:\"; it stays when migrate_from goes",
        );
    }
    topology.old = Some(Box::new(old.clone()));
    Ok(())
}

/// May `new` follow `old` in a running process?
pub(super) fn follows(new: &Topology, old: &Topology) -> Result<(), Error> {
    if old.policy.mode != Mode::Fenced {
        return Ok(());
    }
    if new.policy.mode != Mode::Fenced {
        if old.policy.migrating {
            return Ok(());
        }
        return refuse(
            "mode = \"fenced\" is gone: all sessions would be",
            "Write it again; to go back to pecl's way write migrate_from = \"pecl\" first",
        );
    }
    let (before, after) = (old.policy.epoch, new.policy.epoch);
    if after < before {
        return refuse(
            format!("epoch goes back from {before} to {after}"),
            format!(
                "Write epoch = {} and previous_nodes to go back to nodes of before",
                before.saturating_add(1)
            ),
        );
    }
    if fingerprint(&new.nodes, &new.policy) == fingerprint(&old.nodes, &old.policy) {
        return Ok(());
    }
    if after == before || new.previous.is_empty() {
        return refuse(
            "the nodes changed, or how keys are spread over them, without a step that hosts can take one after another",
            format!(
                "Write epoch = {} and previous_nodes = [the nodes before], and change one node",
                before.saturating_add(1)
            ),
        );
    }
    Ok(())
}

fn refuse(cause: impl Into<Box<str>>, hint: impl Into<Box<str>>) -> Result<(), Error> {
    Err(Error::new(Kind::Config, cause).hint(hint))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use crate::config::file::File;
    use crate::error::Error;

    #[test]
    fn a_pool_of_one_copy_may_come_from_any_nodes_and_needs_no_epoch() {
        let good = "[pool.p]\nmode = \"single\"\nnodes = [\"a:1\", \"b:1\", \"c:1\"]\n";
        let came = |more: &str| {
            let pool = File::parse("f", &format!("{good}{more}"))?.pool("p")?;
            Ok::<_, Error>(pool.previous.len())
        };
        assert_eq!(came("previous_nodes = [\"d:1\", \"e:1\"]").unwrap(), 2);
        assert_eq!(came("previous_nodes = [\"d:1\"]").unwrap(), 1);
        let drained = good.replace("c:1", "c:1?drain=1");
        let pool = File::parse("f", &drained).unwrap().pool("p").unwrap();
        assert_eq!((pool.nodes.len(), pool.previous.len()), (2, 3));
        for (more, what) in [
            ("[pool.p.prefix.\"x\"]\nmode = \"sync\"", "prefixes"),
            (
                "placement = \"md5\"\nbackup = \"q\"\n[pool.q]\nnodes = [\"q:1\"]",
                "backup",
            ),
        ] {
            let error = came(&format!("previous_nodes = [\"a:1\"]\n{more}")).unwrap_err();
            assert!(error.to_string().contains(what), "{error}");
        }
    }
}
