//! What happens to nodes, as scripts: played on three nodes, on two, with a cache, and with a rival.

use super::seconds;
use super::snapshot::Copy;
use super::stage::Scene;
use harness::{Fault, wait_until};
use std::time::Duration;

pub(super) fn killed(scene: &mut Scene<'_>) {
    scene.nodes[0].kill();
    scene.lap();
    scene.lap();
}

pub(super) fn hangs(scene: &mut Scene<'_>) {
    scene.nodes[0].freeze();
    scene.lap();
    scene.lap();
    scene.nodes[0].resume();
    scene.returned();
    scene.lap();
    scene.trusted();
}

pub(super) fn resumes_with_old_data(scene: &mut Scene<'_>) {
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

pub(super) fn back_empty(scene: &mut Scene<'_>) {
    for place in 0..scene.nodes.len() {
        scene.nodes[place].kill();
        scene.lap();
        scene.nodes[place].restart();
        scene.lap();
        scene.trusted();
    }
    scene.lap();
}

pub(super) fn two_in_a_row(scene: &mut Scene<'_>) {
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
pub(super) fn slow() -> [(u64, Fault); 3] {
    [
        (1, Fault::Delay(seconds(0.05))),
        (3, Fault::Jitter(seconds(0.0), seconds(0.2))),
        (20, Fault::Delay(seconds(2.0))),
    ]
}

pub(super) fn back_with_an_old_snapshot(scene: &mut Scene<'_>) {
    let snapshot = die_after_a_snapshot(scene);
    come_back_with(&snapshot, scene);
    scene.lap();
    scene.trusted();
    scene.nodes[1].kill();
    scene.lap();
}

/// Nobody visits from its return until the others, which have all, are gone: whoever visited would mend what he read.
pub(super) fn alone_with_an_old_snapshot(scene: &mut Scene<'_>) {
    let snapshot = die_after_a_snapshot(scene);
    let sessions = scene.sessions;
    let idle = sessions.at_rest();
    come_back_with(&snapshot, scene);
    scene.trusted();
    scene.nodes[1].kill();
    scene.nodes[1].restart();
    scene.nodes[2].kill();
    drop(idle);
    scene.lap();
}

/// The first node dies; what it had a lap before that.
fn die_after_a_snapshot(scene: &mut Scene<'_>) -> Copy {
    let snapshot = Copy::of(&scene.nodes[0]);
    assert!(snapshot.len() > 1);
    scene.lap();
    scene.nodes[0].kill();
    scene
        .proxies(0)
        .for_each(|proxy| proxy.fault(Fault::Refuse));
    scene.lap();
    snapshot
}

/// Nobody sees it before all of the old data are in it.
fn come_back_with(snapshot: &Copy, scene: &mut Scene<'_>) {
    scene.nodes[0].restart();
    snapshot.restore(&scene.nodes[0]);
    scene.proxies(0).for_each(|proxy| proxy.fault(Fault::None));
}

/// One node's replies are disturbed in each of these ways, one after the other.
pub(super) fn disturb(scene: &mut Scene<'_>, ways: &[(u64, Fault)]) {
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
pub(super) fn disturbed(scene: &mut Scene<'_>, ways: &[(u64, Fault)]) {
    disturb(scene, ways);
    scene.nodes[1].kill();
    scene.lap();
}

/// Ways to be silent, and how often.
pub(super) fn silent() -> [(u64, Fault); 2] {
    [(1, Fault::BlackHole), (1, Fault::Swallow)]
}

/// Places where replies are cut.
pub(super) fn cut() -> [(u64, Fault); 4] {
    [
        (1, Fault::ResetAfter(300)),
        (1, Fault::CloseAfter(70)),
        (1, Fault::CloseAfter(3)),
        (1, Fault::Bytes(Duration::ZERO)),
    ]
}

/// Replies that nobody can believe, and how often.
pub(super) fn nonsense() -> [(u64, Fault); 11] {
    [
        (5, Fault::Garbage),
        (5, Fault::Before(b"HD\r\n")),
        (5, Fault::Before(b"EN\r\n")),
        (5, Fault::Before(b"VA 2 f0 c1 s2 t100\r\nxx\r\n")),
        (5, Fault::Before(b":1\r\n")),
        (5, Fault::Before(b"*-1\r\n")),
        (5, Fault::OtherKey),
        (5, Fault::Previous),
        (5, Fault::Length(3)),
        (5, Fault::Length(-3)),
        (5, Fault::Twice),
    ]
}

/// Replies after their time.
pub(super) fn too_late() -> [(u64, Fault); 1] {
    [(15, Fault::Delay(seconds(1.3)))]
}

/// Nodes come and go.
pub(super) fn flapping(scene: &mut Scene<'_>) {
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
        scene.returned();
        scene.laps_for(seconds(0.1));
        if round % 2 == 1 {
            scene.trusted();
        }
    }
    scene.trusted();
}

/// No node is reached for a while.
pub(super) fn all_away(scene: &mut Scene<'_>) {
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
}

/// PHP is killed in the middle of its writes, several times.
pub(super) fn php_killed(scene: &mut Scene<'_>) {
    let kills = 3 + scene.sessions.count() / 500;
    for _ in 0..kills {
        for pid in scene.hosts[0].workers() {
            let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
            let _ = rustix::process::kill_process(pid.unwrap(), rustix::process::Signal::KILL);
        }
        assert!(wait_until(seconds(10.0), || !scene.hosts[0]
            .workers()
            .is_empty()));
        scene.sessions.some_visits(50);
    }
    scene.lap();
}

/// Connections are cut while nobody uses them: for longer than after which one is looked at before a write (5 ms,
/// `IDLE_CHECK` of the pool's node.rs). What is cut sooner was in use.
pub(super) fn idle_cut(scene: &mut Scene<'_>) {
    for round in 0..6 {
        let idle = scene.sessions.at_rest();
        std::thread::sleep(Duration::from_millis(20));
        scene.proxies(round % 3).for_each(|proxy| proxy.cut());
        drop(idle);
        scene.lap();
    }
}

/// Each of two hosts is cut off from another node.
pub(super) fn split_views(scene: &mut Scene<'_>) {
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
        scene.returned();
        scene.lap();
        scene.trusted();
    }
    scene.nodes[2].kill();
    scene.lap();
}

/// A node comes back empty while the hosts' clocks are minutes apart.
pub(super) fn clocks_apart(scene: &mut Scene<'_>) {
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
}
