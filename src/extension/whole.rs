//! What stands where a host does and is a whole pool: `pool:NAME` and `redis-cluster://`.

use crate::ffi::errors::{self, Thrown};
use crate::ffi::resource::Link;
use crate::nodes::as_the_object;
use crate::registry;
use memring_pool::config::{NodeSpec, Placement, Topology};
use memring_pool::pool::Pool;

/// Makes an empty pool the pool of the file: its nodes and its placement.
pub(crate) fn named(link: Link, topology: Topology) -> Result<Option<(Link, usize)>, Thrown> {
    let hold = registry::copy_hold();
    let index = link.with(|state| {
        if !state.pool.is_empty() {
            return None;
        }
        let keys = state.pool.policy().keys.clone();
        let mut policy = topology.policy;
        // What the file leaves out is the setting's.
        if policy.keys.prefix.is_empty() {
            policy.keys.prefix = keys.prefix;
        }
        policy.hold = hold;
        state.pool = Pool::new(policy);
        registry::with(|nodes| {
            let last = topology
                .nodes
                .into_iter()
                .map(|spec| state.pool.add(as_the_object(spec, &state.login), nodes))
                .last();
            let previous = topology.previous.into_iter();
            let previous: Vec<_> = previous
                .map(|spec| as_the_object(spec, &state.login))
                .collect();
            state.pool.came_from(&previous, nodes);
            last
        })
    });
    match index.flatten() {
        Some(index) => Ok(Some((link, index))),
        None => {
            errors::warning(
                "pool:NAME stands for a whole pool and cannot join other nodes; use an object of its own",
            );
            errors::check().map(|()| None)
        }
    }
}

/// Makes an empty pool that cluster.
pub(crate) fn cluster(
    link: Link,
    specs: impl Iterator<Item = NodeSpec>,
) -> Result<Option<(Link, usize)>, Thrown> {
    let added = link.with(|state| {
        if !state.pool.is_empty() {
            return false;
        }
        state.pool.policy_mut().placement = Placement::Slots;
        registry::with(|nodes| {
            for spec in specs {
                state.pool.add(spec, nodes);
            }
        });
        true
    });
    match added {
        Some(true) => Ok(Some((link, 0))),
        _ => refuse_beside(),
    }
}

/// Says that a cluster and another node cannot be one pool.
pub(crate) fn refuse_beside() -> Result<Option<(Link, usize)>, Thrown> {
    errors::warning(
        "redis-cluster:// stands for a whole pool and cannot join other nodes; use an object of its own",
    );
    errors::check().map(|()| None)
}
