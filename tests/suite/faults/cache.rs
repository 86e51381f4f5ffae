//! The same faults with a cache in mode sync: what happens to values that `set()` acknowledged, while PHP reads and
//! writes them all the while.
//!
//! Promised is less than for sessions: an acknowledged `set()` is on two live nodes, so one node may go; what a node
//! shows that was away is not older than what was acknowledged for longer than [`BOUND`] after its return. What a
//! cache loses beyond that is a miss, and never another key's value. Not promised, so only counted: what is old on a node
//! that is back with a dump of what it had (F5), what is missing after full nodes refused or evicted it (F12), what
//! hosts serve that see different nodes, each what it wrote (F13), and what is old on a node that an earlier list had
//! a value on (F18).

use super::clocks;
use super::scripts::{
    all_away, back_with_an_old_snapshot, clocks_apart, cut, disturb, flapping, hangs, idle_cut,
    killed, nonsense, php_killed, resumes_with_old_data, silent, slow, split_views, too_late,
    two_in_a_row,
};
use super::stage::{Plan, Scene, Servers, cache_file};
use super::state::{Disk, State, shared_file};
use super::steps::{LISTS, Named, named, names};
use super::visits::Tally;
use super::{Filled, seconds, stores_refused};
use harness::wait_until;
use std::time::{Duration, Instant};

/// A probe's interval and one round trip: for so long a node that is back may show what it had.
const BOUND: Duration = Duration::from_millis(1100);

pub(super) fn plan(name: &'static str, servers: Servers) -> Plan {
    Plan {
        cache: true,
        ..Plan::new(name, servers)
    }
}

/// No acknowledged value is missing.
#[track_caller]
fn nothing_is_lost(tally: &Tally) {
    assert_eq!(tally.lost, 0, "{tally}\n{}", tally.evidence.join("\n   "));
    nothing_is_stale(tally);
}

/// Nothing older than acknowledged is served, nothing deleted, nothing of another key, but for the bound.
#[track_caller]
pub(super) fn nothing_is_stale(tally: &Tally) {
    let evidence = tally.evidence.join("\n   ");
    assert!(tally.acknowledged > 0, "{tally}");
    assert_eq!(tally.foreign, 0, "{tally}\n{evidence}");
    assert!(tally.stale_for <= BOUND, "{tally}\n{evidence}");
}

fn play(name: &'static str, proxies: bool, script: fn(&mut Scene<'_>)) -> Vec<Tally> {
    play_on(Servers::all(), name, proxies, script)
}

fn play_on(
    servers: Vec<Servers>,
    name: &'static str,
    proxies: bool,
    script: fn(&mut Scene<'_>),
) -> Vec<Tally> {
    servers
        .into_iter()
        .map(|servers| {
            Plan {
                proxies,
                ..plan(name, servers)
            }
            .play(script)
        })
        .collect()
}

#[test]
fn f1_a_killed_node_takes_no_acknowledged_value_with_it() {
    play_on(Servers::each_kind(), "cache F1 killed", false, killed)
        .iter()
        .for_each(nothing_is_lost);
}

/// Goes on for longer than a node that is back may show what it had: only then what is old is not as it should be.
fn past_the_bound(scene: &mut Scene<'_>) {
    scene.laps_for(BOUND);
    scene.lap();
}

#[test]
fn f2_a_hung_node_costs_no_acknowledged_value_and_shows_nothing_old_when_it_goes_on() {
    let script = |scene: &mut Scene<'_>| {
        hangs(scene);
        past_the_bound(scene);
    };
    play_on(Servers::each_kind(), "cache F2 hangs", false, script)
        .iter()
        .for_each(nothing_is_lost);
}

#[test]
fn f3_a_node_that_goes_on_with_old_data_shows_none_of_it_and_is_used_again() {
    let script = |scene: &mut Scene<'_>| {
        resumes_with_old_data(scene);
        past_the_bound(scene);
    };
    play("cache F3 resumes with old data", false, script)
        .iter()
        .for_each(nothing_is_lost);
}

#[test]
fn f4_a_node_back_empty_costs_no_acknowledged_value() {
    let tallies = play("cache F4 back empty", false, |scene| {
        scene.nodes[0].kill();
        scene.lap();
        scene.nodes[0].restart();
        scene.returned();
        scene.lap();
        scene.trusted();
    });
    tallies.iter().for_each(nothing_is_lost);
}

/// What is served is somebody's own at least: no other key's, and no number that was never stored.
#[track_caller]
fn nothing_is_foreign(tally: &Tally) {
    let evidence = tally.evidence.join("\n   ");
    assert!(tally.acknowledged > 0, "{tally}");
    assert_eq!(tally.foreign, 0, "{tally}\n{evidence}");
}

/// Not promised is that nothing old is served: nobody can tell a dump from what a node kept. What is written after it
/// is what is read again, and nothing is missing.
#[test]
fn f5_a_node_back_with_a_dump_costs_no_value_and_shows_no_other_keys() {
    for servers in Servers::each_kind() {
        let tally = Plan {
            proxies: true,
            ..plan("cache F5 back with an old snapshot", servers)
        }
        .play(back_with_an_old_snapshot);
        nothing_is_foreign(&tally);
        println!(
            "   older {}, revived {}: not promised",
            tally.older, tally.revived
        );
        assert_eq!(tally.lost, 0, "{tally}\n{}", tally.evidence.join("\n   "));
    }
}

/// With -M, or noeviction: a full node refuses. What it had of the key is gone from it, so nothing old is read.
#[test]
fn f12_full_nodes_refuse_and_serve_nothing_old_and_work_again_when_there_is_room() {
    for servers in Servers::each_kind() {
        let tally = Plan {
            extra: &["-M", "-m", "4"],
            grows: matches!(servers, Servers::Redis(_)),
            ..plan("cache F12 memory full", servers)
        }
        .play(|scene| {
            let refused =
                |scene: &Scene<'_>| -> u64 { scene.nodes.iter().map(stores_refused).sum() };
            let filled: Vec<Filled> = scene.nodes.iter().map(Filled::fill).collect();
            let before = refused(scene);
            scene.lap();
            assert!(refused(scene) > before, "the nodes were never full");
            for (node, filled) in scene.nodes.iter().zip(filled) {
                filled.empty(node);
            }
            scene.trusted();
            scene.returned();
            scene.lap();
            scene.lap();
        });
        nothing_is_stale(&tally);
    }
}

/// Without -M a full node throws out others' values, which are misses then.
#[test]
fn f12_nodes_that_evict_serve_nothing_old() {
    for servers in Servers::memcached() {
        let tally = Plan {
            extra: &["-m", "4"],
            ..plan("cache F12 evictions", servers)
        }
        .play(|scene| {
            let evicted = |scene: &Scene<'_>| -> u64 {
                let nodes = scene.nodes.iter();
                nodes.map(|node| node.memcached().stat("evictions")).sum()
            };
            for node in scene.nodes.iter() {
                super::push_out(node.memcached());
            }
            assert!(evicted(scene) > 0, "nothing was evicted");
            scene.lap();
            scene.lap();
        });
        nothing_is_stale(&tally);
    }
}

/// Each host serves what it wrote, or could reach; that one is behind the other is not promised, and counted.
#[test]
fn f13_hosts_that_see_different_nodes_serve_no_other_keys_values() {
    for servers in Servers::each_kind() {
        let tally = Plan {
            hosts: 2,
            proxies: true,
            ..plan("cache F13 split views", servers)
        }
        .play(split_views);
        nothing_is_foreign(&tally);
        println!(
            "   lost {}, older {}, revived {}: not promised",
            tally.lost, tally.older, tally.revived
        );
    }
}

#[test]
fn f6_a_slow_node_costs_no_acknowledged_value() {
    let script = |scene: &mut Scene<'_>| disturb(scene, &slow());
    play("cache F6 slow", true, script)
        .iter()
        .for_each(nothing_is_lost);
}

#[test]
fn f7_a_silent_node_costs_no_acknowledged_value() {
    play("cache F7 black hole", true, |scene| {
        disturb(scene, &silent())
    })
    .iter()
    .for_each(nothing_is_lost);
}

/// With each reply that is cut the node is gone, and with the next connection it is back.
#[test]
fn f8_replies_cut_in_the_middle_cost_no_acknowledged_value() {
    let script = |scene: &mut Scene<'_>| {
        for way in cut() {
            scene.sessions.comes_and_goes();
            disturb(scene, &[way]);
        }
    };
    play("cache F8 cut in the middle", true, script)
        .iter()
        .for_each(nothing_is_lost);
}

#[test]
fn f9_replies_nobody_can_believe_cost_no_acknowledged_value() {
    play("cache F9 nonsense", true, |scene| {
        disturb(scene, &nonsense())
    })
    .iter()
    .for_each(nothing_is_lost);
}

#[test]
fn f10_a_reply_after_its_time_is_no_other_keys_value() {
    play("cache F10 too late", true, |scene| {
        disturb(scene, &too_late())
    })
    .iter()
    .for_each(nothing_is_lost);
}

#[test]
fn f11_a_node_that_comes_and_goes_costs_no_acknowledged_value() {
    play("cache F11 flapping", true, flapping)
        .iter()
        .for_each(nothing_is_lost);
}

/// What only these two had is a miss then; nothing that is served is old.
#[test]
fn f14_two_nodes_in_a_row_cost_misses_and_nothing_old_is_served() {
    play("cache F14 two in a row", false, two_in_a_row)
        .iter()
        .for_each(nothing_is_stale);
}

#[test]
fn f17_hosts_whose_clocks_are_minutes_apart_lose_no_acknowledged_value() {
    let Some(clocks) = clocks() else { return };
    for servers in Servers::all() {
        let plan = Plan {
            hosts: 2,
            environment: clocks.clone(),
            ..plan("cache F17 clocks apart", servers)
        };
        nothing_is_lost(&plan.play(clocks_apart));
    }
}

#[test]
fn f19_mixed_servers_lose_no_acknowledged_value() {
    if std::env::var_os("MEMRING_MEMCACHED_NEW").is_none() {
        harness::skip("MEMRING_MEMCACHED_NEW names no newer memcached");
        return;
    }
    nothing_is_lost(&plan("cache F19 mixed", Servers::Mixed).play(killed));
}

#[test]
fn f20_one_node_flushed_costs_no_acknowledged_value() {
    let tallies = play("cache F20 flush_all of one node", false, |scene| {
        scene.nodes[0].flush();
        scene.lap();
    });
    tallies.iter().for_each(nothing_is_lost);
}

/// Meanwhile all are misses, and stores fail.
#[test]
fn f15_no_node_is_reached_and_nothing_old_is_served_afterwards() {
    let tallies = play("cache F15 all away", true, all_away);
    tallies.iter().for_each(nothing_is_stale);
    assert!(tallies.iter().all(|tally| tally.unsure > 0));
}

#[test]
fn f16_php_killed_in_the_middle_of_its_writes_costs_no_acknowledged_value() {
    let tallies = play("cache F16 PHP killed", false, php_killed);
    tallies.iter().for_each(nothing_is_lost);
    assert!(tallies.iter().all(|tally| tally.broken > 0));
}

#[test]
fn f21_connections_cut_while_idle_cost_no_acknowledged_value() {
    play("cache F21 idle connections cut", true, idle_cut)
        .iter()
        .for_each(nothing_is_lost);
}

/// Every kind of change, each from three nodes of one weight to another list.
const CHANGES: [(&str, &[Named]); 5] = [
    (
        "cache F18 one is added",
        &[
            named(0, "node0", 1),
            named(1, "node1", 1),
            named(2, "node2", 1),
            named(3, "node3", 1),
        ],
    ),
    (
        "cache F18 one is reweighted",
        &[
            named(0, "node0", 1),
            named(1, "node1", 3),
            named(2, "node2", 1),
        ],
    ),
    (
        "cache F18 one is renamed",
        &[
            named(0, "node0", 1),
            named(1, "node1", 1),
            named(2, "renamed", 1),
        ],
    ),
    ("cache F18 one is removed", WITHOUT_THE_FIRST),
    (
        "cache F18 one is replaced",
        &[
            named(3, "node3", 1),
            named(1, "node1", 1),
            named(2, "node2", 1),
        ],
    ),
];

/// The list that all begin with, without its first node.
const WITHOUT_THE_FIRST: &[Named] = &[named(1, "node1", 1), named(2, "node2", 1)];

/// Two hosts, and nodes that are in no list yet.
fn listed(name: &'static str, servers: Servers) -> Plan {
    Plan {
        hosts: 2,
        spare: 2,
        ..plan(name, servers)
    }
}

/// The file with this list of nodes.
fn file_of(scene: &Scene<'_>, list: &[Named]) -> String {
    let mut names = names(scene, list);
    names
        .iter_mut()
        .for_each(|name| name.push_str("&timeout=0.5"));
    cache_file(&names)
}

/// While nobody works, every process of every host gets this list.
fn change(scene: &Scene<'_>, list: &[Named], meanwhile: impl Fn(&Scene<'_>)) {
    // They look at their file once a second, and whoever works next looks first.
    const LOOK: Duration = Duration::from_millis(1100);
    let file = file_of(scene, list);
    let idle = scene.sessions.at_rest();
    meanwhile(scene);
    scene.hosts.iter().for_each(|host| host.give(&file));
    let begin = Instant::now();
    assert!(wait_until(2 * LOOK, || begin.elapsed() >= LOOK));
    drop(idle);
    scene.lap();
    scene.lap();
    for Named { place, .. } in list {
        let node = &scene.nodes[*place];
        let mut keys = (0..scene.sessions.count()).map(|key| format!("fault{key:06}"));
        assert!(
            keys.any(|key| node.stored(&key).is_some()),
            "the list is not used"
        );
    }
}

/// Nothing lost, older, alive again or of another key, at no time.
#[track_caller]
fn nothing_is_wrong(tally: &Tally) {
    let evidence = tally.evidence.join("\n   ");
    assert_eq!(tally.wrong(), 0, "{tally}\n{evidence}");
    assert!(tally.acknowledged > 0, "{tally}");
}

/// Each value keeps one of its two nodes, so the other one has it from there. What hosts promise that have different
/// lists at the same time is less.
#[test]
fn f18_a_node_list_that_changes_while_nobody_works_costs_no_value_and_shows_nothing_old() {
    for servers in Servers::all() {
        for (name, list) in CHANGES {
            let tally = listed(name, servers).play(|scene| change(scene, list, |_| {}));
            nothing_is_wrong(&tally);
        }
    }
}

/// One host after the other, as an administrator does it, and one change after the other. Each host has what it wrote where
/// its own list says, so what is old, missing or deleted by the other's list is not promised, and counted.
#[test]
fn f18_node_lists_that_change_under_load_show_no_other_keys_values() {
    for servers in Servers::each_kind() {
        let tally = listed("cache F18 nodes change", servers).play(|scene| {
            for (_, list) in &LISTS[1..] {
                let file = file_of(scene, list);
                for host in scene.hosts {
                    host.give(&file);
                    scene.lap();
                }
                scene.laps_for(seconds(1.1));
                scene.trusted();
            }
            // They are used no more.
            scene.nodes[0].kill();
            scene.nodes[3].kill();
            scene.lap();
        });
        nothing_is_foreign(&tally);
        assert_eq!(tally.noticed(), 0, "{tally}\n{:#?}", tally.said);
        println!(
            "   lost {}, older {}, revived {}: not promised",
            tally.lost, tally.older, tally.revived
        );
    }
}

/// It has what it had, and nobody can tell that from what it was given: so it is to be emptied first.
#[test]
fn f18_a_node_that_is_emptied_before_it_is_listed_again_costs_no_value_and_shows_nothing_old() {
    for servers in Servers::each_kind() {
        let tally = listed("cache F18 listed again, empty", servers).play(|scene| {
            change(scene, WITHOUT_THE_FIRST, |_| {});
            change(scene, LISTS[0].1, |scene| scene.nodes[0].flush());
        });
        nothing_is_wrong(&tally);
    }
}

#[test]
fn f18_a_node_that_is_listed_again_with_what_it_had_shows_no_other_keys_values() {
    for servers in Servers::all() {
        let tally = listed("cache F18 listed again", servers).play(|scene| {
            change(scene, WITHOUT_THE_FIRST, |_| {});
            change(scene, LISTS[0].1, |_| {});
        });
        nothing_is_foreign(&tally);
        println!(
            "   older {}, revived {}: not promised",
            tally.older, tally.revived
        );
        assert_eq!(tally.lost, 0, "{tally}\n{}", tally.evidence.join("\n   "));
    }
}

/// One master's workers still know together what a node missed, and which one is away.
fn without_a_file(scene: &mut Scene<'_>) {
    assert_eq!(shared_file(&scene.hosts[0]), "", "the fault is none");
    resumes_with_old_data(scene);
    past_the_bound(scene);
}

fn stateless(name: &'static str, servers: Servers, state: State) -> Plan {
    Plan {
        state,
        ..plan(name, servers)
    }
}

#[test]
fn f22_without_a_state_directory_no_acknowledged_value_is_lost() {
    for servers in Servers::all() {
        let plan = stateless("cache F22 no state directory", servers, State::File);
        nothing_is_lost(&plan.play(without_a_file));
    }
}

#[test]
fn f22_without_permission_to_write_the_state_no_acknowledged_value_is_lost() {
    for servers in Servers::all() {
        let plan = stateless("cache F22 no permission", servers, State::Forbidden);
        nothing_is_lost(&plan.play(without_a_file));
    }
}

#[test]
fn f22_with_a_full_disk_for_the_state_no_acknowledged_value_is_lost() {
    if !Disk::possible() {
        harness::skip("a small disk cannot be mounted (that takes root)");
        return;
    }
    for servers in Servers::all() {
        let full = stateless("cache F22 disk full", servers, State::Disk(64));
        nothing_is_lost(&full.play(without_a_file));
        let fills = stateless("cache F22 disk fills up", servers, State::Disk(64 << 10));
        let tally = fills.play(|scene| {
            assert_ne!(shared_file(&scene.hosts[0]), "");
            scene.hosts[0].state.fill();
            resumes_with_old_data(scene);
            past_the_bound(scene);
        });
        nothing_is_lost(&tally);
        assert_eq!(tally.broken, 0, "{tally}");
    }
}
