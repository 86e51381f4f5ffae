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
//! On three nodes every fault is played on memcached and on Redis, on two nodes and with two copies on memcached; with
//! MEMRING_MEMCACHED_NEW on those servers, too. MEMRING_FAULT_SERVERS picks: own or newer, redis, redis-newer or valkey
//! (those that MEMRING_REDIS_NEW and MEMRING_VALKEY name), or both for pools of one memcached and two Redis. What the promise leaves out is written beside the fault.

mod cache;
mod crowd;
mod exempt;
mod mixed;
mod rivals;
mod scripts;
pub(crate) mod snapshot;
mod stage;
mod state;
mod steps;
mod visits;

use harness::{Memcached, Redis, Server};
use scripts::{
    all_away, alone_with_an_old_snapshot, back_empty, back_with_an_old_snapshot, clocks_apart, cut,
    disturbed, flapping, hangs, idle_cut, killed, nonsense, php_killed, resumes_with_old_data,
    silent, slow, split_views, too_late, two_in_a_row,
};
use stage::{Plan, Scene, Servers};
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

#[test]
fn f1_a_node_is_killed_and_nobody_notices() {
    for servers in Servers::each_kind() {
        nobody_notices(&Plan::new("F1 killed", servers).play(killed));
    }
}

#[test]
fn f2_a_node_hangs_and_nobody_notices() {
    for servers in Servers::each_kind() {
        nobody_notices(&Plan::new("F2 hangs", servers).play(hangs));
    }
}

#[test]
fn f3_a_node_resumes_with_old_data_and_nobody_notices() {
    for servers in Servers::each_kind() {
        let plan = Plan::new("F3 resumes with old data", servers);
        nobody_notices(&plan.play(resumes_with_old_data));
    }
}

#[test]
fn f4_each_node_comes_back_empty_and_nobody_notices() {
    for servers in Servers::each_kind() {
        nobody_notices(&Plan::new("F4 back empty", servers).play(back_empty));
    }
}

#[test]
fn f5_a_node_comes_back_with_an_old_snapshot_and_it_is_not_believed() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F5 back with an old snapshot", servers);
        nothing_is_lost(&plan.play(back_with_an_old_snapshot));
    }
}

/// With three copies: all that is left of them is on the node that came back.
#[test]
fn f5_a_node_back_with_an_old_snapshot_has_all_before_it_is_trusted_though_nobody_visits() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F5 alone with an old snapshot", servers);
        let tally = plan.play(alone_with_an_old_snapshot);
        nothing_is_lost(&tally);
        // What it was not given it would not be believed in, and nobody else has it.
        assert_eq!(tally.refused, 0, "{tally}\n{:#?}", tally.said);
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

#[test]
fn f6_a_slow_node_loses_nothing() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F6 slow", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &slow())));
    }
}

#[test]
fn f7_a_node_behind_a_black_hole_loses_nothing() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F7 black hole", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &silent())));
    }
}

#[test]
fn f8_replies_cut_in_the_middle_lose_nothing() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F8 cut in the middle", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &cut())));
    }
}

#[test]
fn f9_replies_nobody_can_believe_lose_nothing() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F9 nonsense", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &nonsense())));
    }
}

#[test]
fn f10_a_reply_after_its_time_is_nobody_elses_reply() {
    for servers in Servers::each_kind() {
        let plan = Plan::proxied("F10 too late", servers);
        nothing_is_lost(&plan.play(|scene| disturbed(scene, &too_late())));
    }
}

#[test]
fn f11_a_node_that_comes_and_goes_loses_nothing() {
    for servers in Servers::each_kind() {
        let tally = Plan::proxied("F11 flapping", servers).play(flapping);
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

/// Stores so much on a small node that may evict that what it had is thrown out.
fn push_out(node: &Memcached) {
    // Of each size more than a page of the server's memory (1 MiB) has room for.
    const BATCHES: usize = 120;
    let version = node.raw("version\r\n", "\r\n");
    let end = String::from_utf8_lossy(&version).into_owned();
    for size in [60, 100, 150, 200, 250, 300] {
        let value = "f".repeat(size);
        for batch in 0..BATCHES {
            let mut request = String::new();
            for number in 0..100 {
                request.push_str(&format!(
                    "set pusher{size}x{batch}x{number} 0 0 {size}\r\n{value}\r\n"
                ));
            }
            request.push_str("version\r\n");
            node.raw(request, &end);
        }
    }
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

/// A node without room.
enum Filled {
    /// A memcached with so many items more.
    Items(usize),
    /// A Redis that was told to have no more than it has.
    Limit,
}

impl Filled {
    fn fill(node: &Server) -> Filled {
        match node {
            Server::Memcached(node) => Filled::Items(fill(node)),
            Server::Redis(node) => {
                limit(node, "1");
                Filled::Limit
            }
        }
    }

    fn empty(self, node: &Server) {
        match self {
            Filled::Items(fillers) => empty(node.memcached(), fillers),
            Filled::Limit => limit(node.redis(), "0"),
        }
    }
}

/// Gives a Redis so many bytes; 0 is as many as there are.
fn limit(node: &Redis, bytes: &str) {
    let words = ["SET", "maxmemory", bytes, "maxmemory-policy", "noeviction"];
    redis::cmd("CONFIG")
        .arg(&words)
        .exec(&mut node.client())
        .expect("CONFIG SET of our Redis");
}

/// How often a node had no room.
fn stores_refused(node: &Server) -> u64 {
    match node {
        Server::Memcached(node) => node.stat("store_no_memory"),
        Server::Redis(node) => {
            let text: String = redis::cmd("INFO")
                .arg("errorstats")
                .query(&mut node.client())
                .expect("INFO of our Redis");
            let mut lines = text.lines();
            let count = lines.find_map(|line| line.strip_prefix("errorstat_OOM:count="));
            count.map_or(0, |count| count.trim().parse().unwrap())
        }
    }
}

/// One node is full, then all are, then there is room again.
fn memory_full(scene: &mut Scene<'_>) {
    let refused = |scene: &Scene<'_>| -> u64 { scene.nodes.iter().map(stores_refused).sum() };
    let mut filled = vec![Filled::fill(&scene.nodes[0])];
    scene.lap();
    filled.extend(scene.nodes[1..].iter().map(Filled::fill));
    let before = refused(scene);
    scene.lap();
    assert!(refused(scene) > before, "the nodes were never full");
    for (node, filled) in scene.nodes.iter().zip(filled) {
        filled.empty(node);
    }
    scene.lap();
    let log = scene.hosts[0].tend_log();
    let bare = log.matches("has no record").count();
    assert_eq!(
        bare,
        scene.nodes.len(),
        "only when the pool was new:\n{log}"
    );
}

/// With -M, as a session node should be run. Without it the server throws sessions away, which no copy mends.
/// A full node keeps its record; how soon it is trusted again is not asked here.
fn that_refuses(name: &'static str, servers: Servers) -> Plan {
    Plan {
        // Room for all sessions, until it is filled.
        extra: match stage::sessions() {
            ..1000 => &["-M", "-m", "4"],
            _ => &["-M", "-m", "32"],
        },
        // A Redis stores what does not grow.
        grows: matches!(servers, Servers::Redis(_) | Servers::Both),
        ..Plan::new(name, servers)
    }
}

#[test]
fn f12_full_nodes_refuse_and_lose_nothing() {
    for servers in Servers::each_kind() {
        nothing_is_lost(&that_refuses("F12 memory full", servers).play(memory_full));
    }
}

/// Each of two web hosts is cut off from another node. On two nodes this is not promised.
#[test]
fn f13_hosts_that_see_different_nodes_lose_nothing() {
    for servers in Servers::each_kind() {
        let plan = Plan {
            hosts: 2,
            ..Plan::proxied("F13 split views", servers)
        };
        let tally = plan.play(split_views);
        nothing_is_lost(&tally);
    }
}

/// With three copies, which is the default on three nodes. On two nodes this is not promised.
#[test]
fn f14_a_second_node_dies_right_after_the_first_came_back_empty_and_nothing_is_lost() {
    for servers in Servers::each_kind() {
        let plan = Plan::new("F14 two in a row", servers);
        nothing_is_lost(&plan.play(two_in_a_row));
    }
}

/// Nothing can be served meanwhile; what matters is that nobody is given a new session in place of his own.
#[test]
fn f15_no_node_is_reached_and_every_session_is_there_again_afterwards() {
    for servers in Servers::each_kind() {
        let tally = Plan::proxied("F15 all away", servers).play(all_away);
        nothing_is_lost(&tally);
        assert!(tally.refused > 0, "{tally}");
    }
}

/// Whose turn died with its process waits until the turn is over (30 s); nothing else is seen of it.
#[test]
fn f16_php_killed_in_the_middle_of_its_writes_loses_nothing() {
    for servers in Servers::each_kind() {
        let tally = Plan::new("F16 PHP killed", servers).play(php_killed);
        nothing_is_lost(&tally);
        assert!(tally.broken > 0, "{tally}");
    }
}

/// Environments of two hosts whose clocks are ten minutes apart; none where that cannot be.
fn clocks() -> Option<Vec<Vec<(String, String)>>> {
    let Some(faketime) = libfaketime() else {
        harness::skip("libfaketime is not installed (apt-get install libfaketime)");
        return None;
    };
    let clock = |offset: &str| {
        let pairs = [
            ("LD_PRELOAD", faketime.as_str()),
            ("FAKETIME", offset),
            // Waits take as long as they take.
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        pairs
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .to_vec()
    };
    Some(vec![clock("+5m"), clock("-5m")])
}

/// Where Debian has it: below the folder of this machine's architecture.
fn libfaketime() -> Option<String> {
    let folders = std::fs::read_dir("/usr/lib").ok()?;
    folders
        .filter_map(Result::ok)
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .find(|file| file.exists())
        .map(|file| file.display().to_string())
}

#[test]
fn f17_hosts_whose_clocks_are_minutes_apart_lose_nothing() {
    let Some(clocks) = clocks() else { return };
    for servers in Servers::each_kind() {
        let plan = Plan {
            hosts: 2,
            environment: clocks.clone(),
            ..Plan::new("F17 clocks apart", servers)
        };
        let tally = plan.play(clocks_apart);
        nobody_notices(&tally);
    }
}

#[test]
fn f19_memcached_and_redis_in_one_pool_lose_nothing() {
    nobody_notices(&Plan::new("F19 both kinds, back empty", Servers::Both).play(back_empty));
}

#[test]
fn f19_mixed_servers_and_an_upgrade_of_one_after_the_other_lose_nothing() {
    if std::env::var_os("MEMRING_MEMCACHED_NEW").is_none() {
        harness::skip("MEMRING_MEMCACHED_NEW names no newer memcached");
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
    for servers in Servers::each_kind() {
        let tally = Plan::new("F20 flush_all of one node", servers).play(|scene| {
            for place in 0..scene.nodes.len() {
                scene.nodes[place].flush();
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
    for servers in Servers::each_kind() {
        let tally = Plan::proxied("F21 idle connections cut", servers).play(idle_cut);
        nobody_notices(&tally);
    }
}
