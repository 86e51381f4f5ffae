//! What copied sessions do not promise to outlive, and what happens then: all nodes flushed at once, nodes that evict,
//! a hang that takes longer than a session lives, and on two nodes hosts that see different ones, and a second fault
//! right after the first.

use super::stage::{Plan, Scene, Servers};
use super::visits::Tally;
use super::{push_out, seconds};
use crate::copies::{Place, pools};
use crate::sessions::php;
use harness::{Fault, wait_until};
use std::time::{Duration, Instant};

/// What is gone is gone; nothing else comes in its place.
#[track_caller]
fn nothing_comes_back(tally: &Tally) {
    let back = tally.older + tally.revived + tally.foreign;
    assert_eq!(back, 0, "{tally}\n{}", tally.evidence.join("\n   "));
}

/// That is an order to forget: each session is new once, and from then on kept as ever.
#[test]
fn f20_all_nodes_flushed_at_once_make_each_session_new_once_and_nobody_is_told_of_an_error() {
    for servers in Servers::each_kind() {
        let tally = Plan::new("F20 all nodes flushed", servers).play(|scene| {
            let idle = scene.sessions.at_rest();
            scene.nodes.iter().for_each(|node| node.flush());
            drop(idle);
            scene.lap();
            scene.trusted();
            // And what is stored since is kept as ever.
            scene.nodes[0].kill();
            scene.lap();
        });
        nothing_comes_back(&tally);
        let sessions = super::stage::sessions() as u64;
        assert!((1..=sessions).contains(&tally.lost), "{tally}");
        assert_eq!(tally.noticed(), 0, "{tally}\n{:#?}", tally.said);
    }
}

/// How many nodes threw something out.
fn evicting(scene: &Scene<'_>) -> usize {
    let nodes = scene.nodes.iter();
    nodes
        .filter(|node| node.memcached().stat("evictions") > 0)
        .count()
}

/// Without -M. What all nodes threw out is a new session; their records may go, too, and come again.
#[test]
fn f12_nodes_that_evict_lose_sessions_and_show_nothing_older_and_work_again() {
    for servers in Servers::memcached() {
        let plan = Plan {
            extra: &["-m", "4"],
            ..Plan::new("F12 evictions", servers)
        };
        let tally = plan.play(|scene| {
            let idle = scene.sessions.at_rest();
            scene
                .nodes
                .iter()
                .for_each(|node| push_out(node.memcached()));
            drop(idle);
            assert_eq!(evicting(scene), scene.nodes.len());
            scene.lap();
            scene.trusted();
            scene.lap();
        });
        assert!(tally.lost > 0, "{tally}");
        nothing_comes_back(&tally);
        assert_eq!(tally.broken, 0, "{tally}");
    }
}

#[test]
fn f2_a_hang_longer_than_a_session_lives_leaves_it_expired_and_shows_nothing_old() {
    const HANG: Duration = Duration::from_secs(6);
    for nodes in pools() {
        let urls: Vec<String> = nodes.iter().map(|node| node.url()).collect();
        let php = php(&urls.join(", "))
            .ini("session.save_handler", "memring")
            .ini("session.gc_maxlifetime", 3);
        let visit = |work: &str| {
            php.run(&format!(
                "ob_start(); foreach (['a', 'b'] as $id) {{ session_id($id); {work} $_SESSION = []; }}"
            ))
            .ok()
        };
        let write = |n: u32| {
            visit(&format!(
                "session_start(); $_SESSION['n'] = {n}; session_write_close();"
            ))
        };
        let read = "session_start(['read_and_close' => true]); echo $_SESSION['n'] ?? 'none', ' ';";
        assert_eq!(write(1), "");
        assert_eq!(visit(read), "1 1");
        nodes[0].freeze();
        let begin = Instant::now();
        // Only of one of them it misses something.
        assert_eq!(
            visit(
                "if ($id === 'b') continue; session_start(); $_SESSION['n'] = 2; session_write_close();"
            ),
            ""
        );
        assert!(wait_until(2 * HANG, || begin.elapsed() >= HANG));
        assert_eq!(visit(read), "none none");
        nodes[0].resume();
        let back = Instant::now();
        // A server's clock goes on a moment after it.
        while back.elapsed() < Duration::from_secs(3) {
            assert_eq!(visit(read), "none none", "after {:?}", back.elapsed());
        }
        assert_eq!(write(3), "");
        assert_eq!(visit(read), "3 3");
    }
}

/// Two nodes have no majority that two hosts could share.
fn two_nodes(name: &'static str, servers: Servers, hosts: usize) -> Plan {
    Plan {
        nodes: 2,
        copies: 2,
        hosts,
        proxies: hosts > 1,
        ..Plan::new(name, servers)
    }
}

/// What came out of the fault stays as it is: from here on one fault more costs nothing.
fn keeps_its_promise_from_here_on(scene: &mut Scene<'_>) {
    scene.trusted();
    // What was lost shows in the first visits.
    scene.lap();
    scene.lap();
    let before = scene.sessions.tally().wrong();
    scene.nodes[0].kill();
    scene.lap();
    scene.nodes[0].restart();
    scene.trusted();
    scene.nodes[1].kill();
    scene.lap();
    let after = scene.sessions.tally();
    assert_eq!(
        after.wrong(),
        before,
        "{after}\n{}",
        after.evidence.join("\n   ")
    );
}

/// Each host writes to the node that it sees, alone, and is told that it is stored. When both nodes are seen again one of
/// the two is the session, and what the other host stored meanwhile is gone; from then on both have the same.
#[test]
fn f13_two_hosts_that_see_one_of_two_nodes_each_lose_what_one_wrote_and_agree_again_afterwards() {
    for servers in Servers::each_kind() {
        let tally = two_nodes("F13 on two nodes", servers, 2).play(|scene| {
            // Or a turn stays on a node that whoever has it can no longer tell, and the next one waits 30 s for it.
            let idle = scene.sessions.at_rest();
            for (host, web) in scene.hosts.iter().enumerate() {
                web.proxies[host].fault(Fault::Refuse);
                web.proxies[host].cut();
            }
            drop(idle);
            scene.laps_for(seconds(1.0));
            let idle = scene.sessions.at_rest();
            for (host, web) in scene.hosts.iter().enumerate() {
                web.proxies[host].fault(Fault::None);
                web.proxies[host].cut();
            }
            drop(idle);
            keeps_its_promise_from_here_on(scene);
        });
        assert_eq!(
            tally.foreign,
            0,
            "{tally}\n{}",
            tally.evidence.join("\n   ")
        );
        assert_eq!(tally.broken, 0, "{tally}");
        println!(
            "   lost {}, older {}, revived {}: not promised",
            tally.lost, tally.older, tally.revived
        );
    }
}

/// Nobody has all that was acknowledged: who comes while one node is alone is refused, and when both are back, both empty,
/// each session that nobody visited in between is new.
#[test]
fn f14_two_nodes_that_die_one_right_after_the_other_refuse_meanwhile_and_then_begin_anew() {
    for servers in Servers::each_kind() {
        let tally = two_nodes("F14 on two nodes", servers, 1).play(|scene| {
            scene.nodes[0].kill();
            scene.lap();
            scene.nodes[0].restart();
            scene.nodes[1].kill();
            scene.lap();
            scene.nodes[1].restart();
            scene.lap();
            keeps_its_promise_from_here_on(scene);
        });
        nothing_comes_back(&tally);
        assert!(tally.refused > 0, "{tally}");
        assert!(tally.lost <= super::stage::sessions() as u64, "{tally}");
        assert_eq!(tally.broken, 0, "{tally}");
        println!("   lost {}: not promised", tally.lost);
    }
}
