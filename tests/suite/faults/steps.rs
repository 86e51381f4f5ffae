//! F18: the nodes of a pool change while sessions are visited, one node a step, in the order the README has: the new
//! file to one host after the other, then `memring commit`, then the next step when all nodes are trusted.

use super::stage::{Plan, Scene, Servers, node_name, pool_file};
use super::{nobody_notices, seconds};

/// The node at `place` under this name.
pub(super) struct Named {
    pub(super) place: usize,
    id: &'static str,
    weight: u32,
}

pub(super) const fn named(place: usize, id: &'static str, weight: u32) -> Named {
    Named { place, id, weight }
}

/// Every kind of step, each from the list before it.
pub(super) const LISTS: [(&str, &[Named]); 6] = [
    (
        "as it begins",
        &[
            named(0, "node0", 1),
            named(1, "node1", 1),
            named(2, "node2", 1),
        ],
    ),
    (
        "one is added",
        &[
            named(0, "node0", 1),
            named(1, "node1", 1),
            named(2, "node2", 1),
            named(3, "node3", 1),
        ],
    ),
    (
        "one is reweighted",
        &[
            named(0, "node0", 1),
            named(1, "node1", 3),
            named(2, "node2", 1),
            named(3, "node3", 1),
        ],
    ),
    (
        "one is renamed",
        &[
            named(0, "node0", 1),
            named(1, "node1", 3),
            named(2, "renamed", 1),
            named(3, "node3", 1),
        ],
    ),
    (
        "one is removed",
        &[
            named(1, "node1", 3),
            named(2, "renamed", 1),
            named(3, "node3", 1),
        ],
    ),
    (
        "one is replaced",
        &[
            named(1, "node1", 3),
            named(2, "renamed", 1),
            named(4, "node4", 1),
        ],
    ),
];

pub(super) fn names(scene: &Scene<'_>, list: &[Named]) -> Vec<String> {
    list.iter()
        .map(|node| {
            let server = &scene.nodes[node.place];
            node_name(server.scheme(), server.port(), node.id, node.weight)
        })
        .collect()
}

/// One step; the host that gets the new file last still works with the old one meanwhile.
fn step(scene: &mut Scene<'_>, number: usize) {
    let (what, after) = LISTS[number];
    let before = names(scene, LISTS[number - 1].1);
    let more = format!("epoch = {number}\nprevious_nodes = {before:?}");
    let file = pool_file(&names(scene, after), &more);
    for host in scene.hosts {
        host.give(&file);
        scene.lap();
    }
    // Each process looks at its file once a second.
    scene.laps_for(seconds(1.5));
    let (code, said) = scene.hosts[0].commit();
    assert_eq!(code, 0, "{what}: {said}");
    scene.lap();
    scene.trusted();
}

fn plan(name: &'static str, servers: Servers) -> Plan {
    Plan {
        hosts: 2,
        file: true,
        spare: 2,
        ..Plan::new(name, servers)
    }
}

#[test]
fn f18_nodes_added_reweighted_renamed_removed_and_replaced_and_nobody_notices() {
    for servers in Servers::each_kind() {
        let tally = plan("F18 nodes change", servers).play(|scene| {
            for number in 1..LISTS.len() {
                step(scene, number);
            }
            // They are used no more.
            scene.nodes[0].kill();
            scene.nodes[3].kill();
            scene.lap();
            // And the new ones have all that these had.
            scene.nodes[2].kill();
            scene.lap();
        });
        nobody_notices(&tally);
    }
}
