//! The faults of copied sessions (and of a cache, `cache`), on real servers, one at a time, while PHP works.
//!
//! Each test plays one fault: web hosts visit every session again and again, the script breaks something and mends
//! it, and what each visit finds is compared with what was acknowledged before it (`visits`). `cargo test faults`
//! visits 60 sessions for each; the bar is 10,000:
//!
//! ```text
//! MEMRING_FAULT_SESSIONS=10000 cargo test --release -p memring-tests --test suite -- faults:: --test-threads=1 --nocapture
//! ```
//!
//! With MEMRING_MEMCACHED_NEW every fault is played on those servers, too; MEMRING_FAULT_SERVERS=own or newer picks
//! one. What the promise leaves out is written beside the fault.

mod cache;
mod rivals;
pub(crate) mod snapshot;
mod stage;
mod state;
mod steps;
mod visits;

use harness::{Fault, Memcached, wait_until};
use snapshot::Snapshot;
use stage::{Plan, Scene, Servers};
use std::path::Path;
use std::time::Duration;
use visits::Tally;

/// No session lost, older, alive again or somebody else's.
#[track_caller]
fn nothing_is_lost(tally: &Tally) {
    assert_eq!(
        tally.wrong(),
        0,
        "{tally}\n{}",
        tally.evidence.join("\n   ")
    );
    assert!(tally.acknowledged > 0, "{tally}");
}

/// And no visitor noticed anything.
#[track_caller]
fn nobody_notices(tally: &Tally) {
    nothing_is_lost(tally);
    assert_eq!(tally.noticed(), 0, "{tally}\n{:#?}", tally.said);
}

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

// As scripts: they are played on three nodes, on two, with a cache, and with a rival.

fn killed(scene: &mut Scene<'_>) {
    scene.nodes[0].kill();
    scene.lap();
    scene.lap();
}

fn hangs(scene: &mut Scene<'_>) {
    scene.nodes[0].freeze();
    scene.lap();
    scene.lap();
    scene.nodes[0].resume();
    scene.returned();
    scene.lap();
    scene.trusted();
}

fn resumes_with_old_data(scene: &mut Scene<'_>) {
    scene.nodes[0].freeze();
    scene.lap();
    scene.nodes[0].resume();
    scene.returned();
    scene.lap();
    scene.trusted();
    // Now it must know all that it missed.
    scene.nodes[1].kill();
    scene.lap();
}

fn back_empty(scene: &mut Scene<'_>) {
    for place in 0..scene.nodes.len() {
        scene.nodes[place].kill();
        scene.lap();
        scene.nodes[place].restart();
        scene.lap();
        scene.trusted();
    }
    scene.lap();
}

fn two_in_a_row(scene: &mut Scene<'_>) {
    for (first, second) in [(0, 1), (2, 0)] {
        scene.nodes[first].kill();
        scene.lap();
        scene.nodes[first].restart();
        scene.nodes[second].kill();
        scene.lap();
        scene.nodes[second].restart();
        scene.returned();
        scene.lap();
        scene.trusted();
    }
}

/// Ways to be slow, and how often.
fn slow() -> [(u64, Fault); 3] {
    [
        (1, Fault::Delay(seconds(0.05))),
        (3, Fault::Jitter(seconds(0.0), seconds(0.2))),
        (20, Fault::Delay(seconds(2.0))),
    ]
}

fn back_with_an_old_snapshot(scene: &mut Scene<'_>) {
    let snapshot = Snapshot::of(&scene.nodes[0]);
    assert!(snapshot.len() > 1);
    scene.lap();
    scene.nodes[0].kill();
    scene
        .proxies(0)
        .for_each(|proxy| proxy.fault(Fault::Refuse));
    scene.lap();
    // Nobody sees it before all of the old data are in it.
    scene.nodes[0].restart();
    snapshot.restore(&scene.nodes[0]);
    scene.proxies(0).for_each(|proxy| proxy.fault(Fault::None));
    scene.lap();
    scene.trusted();
    scene.nodes[1].kill();
    scene.lap();
}

#[test]
fn f1_a_node_is_killed_and_nobody_notices() {
    for servers in Servers::all() {
        nobody_notices(&Plan::new("F1 killed", servers).play(killed));
    }
}

#[test]
fn f2_a_node_hangs_and_nobody_notices() {
    for servers in Servers::all() {
        nobody_notices(&Plan::new("F2 hangs", servers).play(hangs));
    }
}

#[test]
fn f3_a_node_resumes_with_old_data_and_nobody_notices() {
    for servers in Servers::all() {
        let plan = Plan::new("F3 resumes with old data", servers);
        nobody_notices(&plan.play(resumes_with_old_data));
    }
}

#[test]
fn f4_each_node_comes_back_empty_and_nobody_notices() {
    for servers in Servers::all() {
        nobody_notices(&Plan::new("F4 back empty", servers).play(back_empty));
    }
}

#[test]
fn f5_a_node_comes_back_with_an_old_snapshot_and_it_is_not_believed() {
    for servers in Servers::all() {
        let plan = Plan::proxied("F5 back with an old snapshot", servers);
        nothing_is_lost(&plan.play(back_with_an_old_snapshot));
    }
}

/// A script on so many nodes with so many copies. Two nodes, and two copies with word of each write on a third node, keep the
/// promise when the next fault comes after the first is mended.
fn with(
    nodes: usize,
    copies: usize,
    name: &'static str,
    proxies: bool,
    script: fn(&mut Scene<'_>),
) {
    for servers in Servers::all() {
        let plan = Plan {
            nodes,
            copies,
            proxies,
            ..Plan::new(name, servers)
        };
        nothing_is_lost(&plan.play(script));
    }
}

#[test]
fn f1_on_two_nodes_loses_nothing() {
    with(2, 3, "F1 on two nodes", false, killed);
}

#[test]
fn f2_on_two_nodes_loses_nothing() {
    with(2, 3, "F2 on two nodes", false, hangs);
}

#[test]
fn f3_on_two_nodes_with_a_pause_loses_nothing() {
    with(2, 3, "F3 on two nodes", false, resumes_with_old_data);
}

#[test]
fn f4_on_two_nodes_with_a_pause_loses_nothing() {
    with(2, 3, "F4 on two nodes", false, back_empty);
}

#[test]
fn f5_on_two_nodes_with_a_pause_loses_nothing() {
    with(2, 3, "F5 on two nodes", true, back_with_an_old_snapshot);
}

#[test]
fn f1_with_two_copies_loses_nothing() {
    with(3, 2, "F1 with two copies", false, killed);
}

#[test]
fn f2_with_two_copies_loses_nothing() {
    with(3, 2, "F2 with two copies", false, hangs);
}

#[test]
fn f3_with_two_copies_and_a_pause_loses_nothing() {
    with(3, 2, "F3 with two copies", false, resumes_with_old_data);
}

#[test]
fn f4_with_two_copies_and_a_pause_loses_nothing() {
    with(3, 2, "F4 with two copies", false, back_empty);
}

#[test]
fn f5_with_two_copies_and_a_pause_loses_nothing() {
    with(3, 2, "F5 with two copies", true, back_with_an_old_snapshot);
}

/// One node's replies are disturbed in each of these ways, one after the other.
fn disturb(scene: &mut Scene<'_>, ways: &[(u64, Fault)]) {
    for (every, fault) in ways {
        let each = || scene.proxies(0);
        each().for_each(|proxy| proxy.fault_every(*every, fault.clone()));
        scene.laps_for(seconds(0.4));
        each().for_each(|proxy| {
            proxy.fault(Fault::None);
            proxy.cut();
        });
        scene.returned();
    }
    scene.trusted();
}

/// And then the next node is killed.
fn disturbed(scene: &mut Scene<'_>, ways: &[(u64, Fault)]) {
    disturb(scene, ways);
    scene.nodes[1].kill();
    scene.lap();
}

#[test]
fn f6_a_slow_node_loses_nothing() {
    for servers in Servers::all() {
        let plan = Plan::proxied("F6 slow", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &slow())));
    }
}

#[test]
fn f7_a_node_behind_a_black_hole_loses_nothing() {
    let ways = [(1, Fault::BlackHole), (1, Fault::Swallow)];
    for servers in Servers::all() {
        let plan = Plan::proxied("F7 black hole", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &ways)));
    }
}

#[test]
fn f8_replies_cut_in_the_middle_lose_nothing() {
    let ways = [
        (1, Fault::ResetAfter(300)),
        (1, Fault::CloseAfter(70)),
        (1, Fault::CloseAfter(3)),
        (1, Fault::Bytes(Duration::ZERO)),
    ];
    for servers in Servers::all() {
        let plan = Plan::proxied("F8 cut in the middle", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &ways)));
    }
}

#[test]
fn f9_replies_nobody_can_believe_lose_nothing() {
    let ways = [
        (5, Fault::Garbage),
        (5, Fault::Before(b"HD\r\n")),
        (5, Fault::Before(b"EN\r\n")),
        (5, Fault::Before(b"VA 2 f0 c1 s2 t100\r\nxx\r\n")),
        (5, Fault::OtherKey),
        (5, Fault::Previous),
        (5, Fault::Length(3)),
        (5, Fault::Length(-3)),
        (5, Fault::Twice),
    ];
    for servers in Servers::all() {
        let plan = Plan::proxied("F9 nonsense", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &ways)));
    }
}

#[test]
fn f10_a_reply_after_its_time_is_nobody_elses_reply() {
    let ways = [(15, Fault::Delay(seconds(1.3)))];
    for servers in Servers::all() {
        let plan = Plan::proxied("F10 too late", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &ways)));
    }
}

#[test]
fn f11_a_node_that_comes_and_goes_loses_nothing() {
    for servers in Servers::all() {
        let tally = Plan::proxied("F11 flapping", servers).play(|scene| {
            for round in 0..6 {
                // Twice the same; another one only when it is mended, or it would be a second fault (F14).
                let place = round / 2;
                for proxy in scene.proxies(place) {
                    proxy.fault(Fault::Refuse);
                    proxy.cut();
                }
                scene.laps_for(seconds(0.3));
                scene
                    .proxies(place)
                    .for_each(|proxy| proxy.fault(Fault::None));
                scene.laps_for(seconds(0.1));
                if round % 2 == 1 {
                    scene.trusted();
                }
            }
            scene.trusted();
        });
        nothing_is_lost(&tally);
    }
}

/// Fills a node until it stores nothing more, whatever its size; returns how many items that took.
pub(crate) fn fill(node: &Memcached) -> usize {
    // Many at a time; the answer to the last command ends the batch.
    const BATCH: usize = 100;
    let version = node.raw("version\r\n", "\r\n");
    let end = String::from_utf8_lossy(&version).into_owned();
    let sizes = [500_000, 100_000, 10_000]
        .into_iter()
        .chain((0..28).map(|step| (1500.0 * 0.86_f64.powi(step)) as usize));
    let mut stored = 0;
    for size in sizes {
        let value = "f".repeat(size);
        loop {
            let mut request = String::new();
            for number in 0..BATCH.min(2_000_000 / size) {
                let key = format!("filler{}", stored + number);
                request.push_str(&format!("set {key} 0 0 {size}\r\n{value}\r\n"));
            }
            request.push_str("version\r\n");
            let reply = String::from_utf8_lossy(&node.raw(request, &end)).into_owned();
            stored += BATCH;
            if !reply.contains("\r\nSTORED") && !reply.starts_with("STORED") {
                break;
            }
        }
    }
    stored
}

/// Takes away what [`fill`] stored.
pub(crate) fn empty(node: &Memcached, fillers: usize) {
    let version = node.raw("version\r\n", "\r\n");
    let end = String::from_utf8_lossy(&version).into_owned();
    let mut request: String = (0..fillers)
        .map(|number| format!("delete filler{number}\r\n"))
        .collect();
    request.push_str("version\r\n");
    node.raw(request, &end);
}

/// With -M, as a session node should be run. Without it the server throws sessions away, which no copy mends.
/// A full node keeps its record; how soon it is trusted again is not asked here.
#[test]
fn f12_full_nodes_refuse_and_lose_nothing() {
    for servers in Servers::all() {
        let plan = Plan {
            // Room for all sessions, until it is filled.
            extra: match stage::sessions() {
                ..1000 => &["-M", "-m", "4"],
                _ => &["-M", "-m", "32"],
            },
            ..Plan::new("F12 memory full", servers)
        };
        let tally = plan.play(|scene| {
            let refused = |scene: &Scene<'_>| -> u64 {
                let nodes = scene.nodes.iter();
                nodes.map(|node| node.stat("store_no_memory")).sum()
            };
            let mut fillers = vec![fill(&scene.nodes[0])];
            scene.lap();
            fillers.extend(scene.nodes[1..].iter().map(fill));
            let before = refused(scene);
            scene.lap();
            assert!(refused(scene) > before, "the nodes were never full");
            for (node, fillers) in scene.nodes.iter().zip(fillers) {
                empty(node, fillers);
            }
            scene.lap();
            let log = scene.hosts[0].tend_log();
            let bare = log.matches("has no record").count();
            assert_eq!(
                bare,
                scene.nodes.len(),
                "only when the pool was new:\n{log}"
            );
        });
        nothing_is_lost(&tally);
    }
}

/// Each of two web hosts is cut off from another node. On two nodes this is not promised.
#[test]
fn f13_hosts_that_see_different_nodes_lose_nothing() {
    for servers in Servers::all() {
        let plan = Plan {
            hosts: 2,
            ..Plan::proxied("F13 split views", servers)
        };
        let tally = plan.play(|scene| {
            for fault in [Fault::Refuse, Fault::BlackHole] {
                for (host, web) in scene.hosts.iter().enumerate() {
                    web.proxies[host].fault(fault.clone());
                    web.proxies[host].cut();
                }
                scene.laps_for(seconds(1.0));
                // Only these: who loses both other nodes for a moment serves what the third has (a second fault).
                for (host, web) in scene.hosts.iter().enumerate() {
                    web.proxies[host].fault(Fault::None);
                    web.proxies[host].cut();
                }
                scene.lap();
                scene.trusted();
            }
            scene.nodes[2].kill();
            scene.lap();
        });
        nothing_is_lost(&tally);
    }
}

/// With three copies, which is the default on three nodes. On two nodes this is not promised.
#[test]
fn f14_a_second_node_dies_right_after_the_first_came_back_empty_and_nothing_is_lost() {
    for servers in Servers::all() {
        let plan = Plan::new("F14 two in a row", servers);
        nothing_is_lost(&plan.play(two_in_a_row));
    }
}

/// Nothing can be served meanwhile; what matters is that nobody is given a new session in place of his own.
#[test]
fn f15_no_node_is_reached_and_every_session_is_there_again_afterwards() {
    for servers in Servers::all() {
        let tally = Plan::proxied("F15 all away", servers).play(|scene| {
            for place in 0..scene.nodes.len() {
                for proxy in scene.proxies(place) {
                    proxy.fault(Fault::Refuse);
                    proxy.cut();
                }
            }
            scene.lap();
            for place in 0..scene.nodes.len() {
                scene
                    .proxies(place)
                    .for_each(|proxy| proxy.fault(Fault::None));
            }
            scene.trusted();
            scene.lap();
        });
        nothing_is_lost(&tally);
        assert!(tally.refused > 0, "{tally}");
    }
}

/// Whose turn died with its process waits until the turn is over (30 s); nothing else is seen of it.
#[test]
fn f16_php_killed_in_the_middle_of_its_writes_loses_nothing() {
    for servers in Servers::all() {
        let tally = Plan::new("F16 PHP killed", servers).play(|scene| {
            let kills = 3 + scene.sessions.count() / 500;
            for _ in 0..kills {
                for pid in scene.hosts[0].workers() {
                    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
                    let _ =
                        rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL);
                }
                assert!(wait_until(seconds(10.0), || !scene.hosts[0]
                    .workers()
                    .is_empty()));
                scene.sessions.some_visits(50);
            }
            scene.lap();
        });
        nothing_is_lost(&tally);
        assert!(tally.broken > 0, "{tally}");
    }
}

const FAKETIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";

#[test]
fn f17_hosts_whose_clocks_are_minutes_apart_lose_nothing() {
    if !Path::new(FAKETIME).exists() {
        eprintln!("skipped: libfaketime is not installed (apt-get install libfaketime)");
        return;
    }
    let clock = |offset: &str| {
        let pairs = [
            ("LD_PRELOAD", FAKETIME),
            ("FAKETIME", offset),
            // Waits take as long as they take.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec()
    };
    for servers in Servers::all() {
        let plan = Plan {
            hosts: 2,
            environment: vec![clock("+5m"), clock("-5m")],
            ..Plan::new("F17 clocks apart", servers)
        };
        let tally = plan.play(|scene| {
            let clocks: Vec<i64> = (scene.hosts.iter())
                .map(|host| host.show("clock.php", "echo time();").parse().unwrap())
                .collect();
            assert!(clocks[0] - clocks[1] > 500, "{clocks:?}");
            scene.lap();
            scene.nodes[0].kill();
            scene.lap();
            scene.nodes[0].restart();
            scene.lap();
            scene.trusted();
            scene.lap();
        });
        nobody_notices(&tally);
    }
}

#[test]
fn f19_mixed_servers_and_an_upgrade_of_one_after_the_other_lose_nothing() {
    if std::env::var_os("MEMRING_MEMCACHED_NEW").is_none() {
        eprintln!("skipped: MEMRING_MEMCACHED_NEW names no newer memcached");
        return;
    }
    nobody_notices(&Plan::new("F19 mixed, back empty", Servers::Mixed).play(back_empty));
    let upgrade = Plan::new("F19 upgrade", Servers::Own).play(|scene| {
        for place in 0..scene.nodes.len() {
            assert!(scene.nodes[place].upgrade());
            scene.lap();
            scene.trusted();
        }
        scene.lap();
    });
    nobody_notices(&upgrade);
}

/// All nodes flushed at once is an order to forget, and is not undone.
#[test]
fn f20_one_node_flushed_loses_nothing() {
    for servers in Servers::all() {
        let tally = Plan::new("F20 flush_all of one node", servers).play(|scene| {
            for place in 0..scene.nodes.len() {
                scene.nodes[place].raw("flush_all\r\n", "OK\r\n");
                scene.lap();
                scene.trusted();
            }
            scene.lap();
        });
        nothing_is_lost(&tally);
    }
}

#[test]
fn f21_connections_cut_while_idle_are_replaced_and_nobody_notices() {
    for servers in Servers::all() {
        let tally = Plan::proxied("F21 idle connections cut", servers).play(|scene| {
            for round in 0..6 {
                let idle = scene.sessions.at_rest();
                scene.proxies(round % 3).for_each(|proxy| proxy.cut());
                drop(idle);
                scene.lap();
            }
        });
        nobody_notices(&tally);
    }
}
