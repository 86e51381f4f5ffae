//! One memcached of three is newer than the others, as while a package is upgraded node by node: versions are its cas
//! values, and stand before the values on the others. Killed and back empty it is in F19; here is what else happens to such
//! pools.

use super::cache::{self, nothing_is_stale};
use super::scripts::{alone_with_an_old_snapshot, resumes_with_old_data, two_in_a_row};
use super::stage::{Plan, Scene, Servers};
use super::{memory_full, nobody_notices, nothing_is_lost, that_refuses};

/// Where no newer memcached is named there is nothing to mix.
fn mixed() -> Option<Servers> {
    if std::env::var_os("MEMRING_MEMCACHED_NEW").is_none() {
        harness::skip("MEMRING_MEMCACHED_NEW names no newer memcached");
        return None;
    }
    Some(Servers::Mixed)
}

/// The others have what the old one missed with versions of both kinds.
#[test]
fn f3_an_old_node_of_a_mixed_pool_resumes_with_old_data_and_nobody_notices() {
    let Some(servers) = mixed() else { return };
    nobody_notices(&Plan::new("F3 mixed", servers).play(resumes_with_old_data));
}

#[test]
fn f3_the_new_node_of_a_mixed_pool_resumes_with_old_data_and_nobody_notices() {
    let Some(servers) = mixed() else { return };
    let tally = Plan::new("F3 mixed, the new one", servers).play(|scene| {
        // The script begins with the first.
        scene.nodes[1].freeze();
        scene.lap();
        scene.nodes[1].resume();
        scene.returned();
        scene.lap();
        scene.trusted();
        scene.nodes[0].kill();
        scene.lap();
    });
    nobody_notices(&tally);
}

#[test]
fn f5_an_old_node_of_a_mixed_pool_comes_back_with_an_old_snapshot_and_it_is_not_believed() {
    let Some(servers) = mixed() else { return };
    let tally = Plan::proxied("F5 mixed", servers).play(alone_with_an_old_snapshot);
    nothing_is_lost(&tally);
    assert_eq!(tally.refused, 0, "{tally}\n{:#?}", tally.said);
}

#[test]
fn f12_full_nodes_of_both_kinds_refuse_and_lose_nothing() {
    let Some(servers) = mixed() else { return };
    nothing_is_lost(&that_refuses("F12 mixed", servers).play(memory_full));
}

#[test]
fn f14_two_nodes_of_a_mixed_pool_in_a_row_lose_nothing() {
    let Some(servers) = mixed() else { return };
    nothing_is_lost(&Plan::new("F14 mixed", servers).play(two_in_a_row));
}

/// Each node comes back newer, and empty. The first one takes nothing with it; when the next one goes down, what nobody has
/// written since may be a miss: a read gives an owner its value back, not a copy.
#[test]
fn f19_a_cache_whose_servers_are_upgraded_one_after_the_other_serves_nothing_old() {
    if mixed().is_none() {
        return;
    }
    let after = |scene: &mut Scene<'_>, place: usize| {
        assert!(scene.nodes[place].upgrade());
        scene.returned();
        scene.lap();
        scene.trusted();
        scene.lap();
        scene.sessions.tally().lost
    };
    let tally = cache::plan("cache F19 upgrade", Servers::Own).play(|scene| {
        assert_eq!(after(scene, 0), 0);
        println!(
            "   lost {} and {}: not promised",
            after(scene, 1),
            after(scene, 2)
        );
    });
    nothing_is_stale(&tally);
}
