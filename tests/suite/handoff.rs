//! A node that was out of reach and kept its memory gets exactly the keys it missed, and one
//! to which something may still be on its way gets a full pass.

use crate::companion::{Tend, is_safe, run};
use crate::faults::snapshot::Copy;
use crate::health::Stage;
use harness::proxy::From;
use harness::{Fault, Memcached, Proxy, Redis, Server, wait_until};
use memring_pool::wire::redis::list_keys;
use std::collections::BTreeSet;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

/// Three nodes of each kind.
fn kinds() -> [Vec<Server>; 2] {
    let memcached = |_| Server::Memcached(Memcached::start());
    let redis = |_| Server::Redis(Redis::start());
    [(0..3).map(memcached).collect(), (0..3).map(redis).collect()]
}

/// The daemon that shares what it knows with the stage's workers, when all nodes are trusted.
fn tend(stage: &Stage<Server>) -> Tend {
    let state = stage.state.path().display().to_string();
    let list = stage.list();
    let tend = Tend::beside(&state, &["--list", &list]);
    tend.says("3 nodes, 3 trusted");
    tend
}

/// Which of `ids` the node behind `proxy` was told of.
fn told(proxy: &Proxy, ids: &[&'static str]) -> BTreeSet<&'static str> {
    let said = proxy.requests_in_time();
    let said = String::from_utf8_lossy(&said);
    let words: BTreeSet<&str> = said.split_ascii_whitespace().collect();
    let ids = ids.iter().copied();
    ids.filter(|id| words.contains(id)).collect()
}

fn listed_keys(stage: &Stage<Server>) -> bool {
    let mut page = Vec::new();
    list_keys(&mut page, b"0", false);
    // A Redis is asked by a script's name (`*5 $7 EVALSHA $40 NAME`).
    let page = String::from_utf8(page).unwrap();
    let script = page.split("\r\n").nth(4).unwrap();
    stage.proxies.iter().any(|proxy| {
        let events = proxy.events();
        let mut asked = events.iter().filter(|event| event.from == From::Client);
        asked.any(|event| {
            let said = String::from_utf8_lossy(&event.bytes);
            said.contains("metadump hash") || said.contains(script)
        })
    })
}

/// Counts in a session, destroys it, or counts after the test let it.
const PAGES: [(&str, &str); 2] = [
    (
        "destroy.php",
        "session_id($_GET['id']); session_start(); echo json_encode(session_destroy());",
    ),
    (
        "wait.php",
        "session_id($_GET['id']); session_start(); $_SESSION['n'] = 70; touch($_GET['in']); \
         while (!file_exists($_GET['go'])) { usleep(2000); clearstatcache(); } \
         echo json_encode(session_write_close());",
    ),
];

#[test]
fn a_node_that_was_out_of_reach_gets_exactly_what_it_missed_and_nothing_old_comes_back() {
    for nodes in kinds() {
        gets_what_it_missed(Stage::on(nodes, 2));
    }
}

fn gets_what_it_missed(stage: Stage<Server>) {
    for (name, script) in PAGES {
        stage.fpm.page(name, script);
    }
    let ids = ["s1", "s2", "s3", "s4", "s5", "s6"];
    for id in ids {
        assert_eq!(stage.visit(id), "[true,1]");
    }
    let tend = tend(&stage);
    let away = format!("127.0.0.1:{}", stage.proxies[0].port());
    stage.nodes[0].freeze();
    tend.says(&format!("{away} does not answer"));
    for id in ["s1", "s2"] {
        assert_eq!(stage.visit(id), "[true,2]");
        assert_eq!(stage.visit(id), "[true,3]");
    }
    assert_eq!(stage.fpm.get("destroy.php", "id=s3", "").text(), "true");
    let state = stage.state.path().display().to_string();
    let list = stage.list();
    let (code, text, _) = run(&["status", "--state-dir", &state, "--list", &list]);
    assert_eq!(code, 1);
    assert!(
        text.contains("3 keys that it missed are kept on this host"),
        "{text}"
    );

    stage.proxies.iter().for_each(Proxy::clear);
    stage.nodes[0].resume();
    tend.says(&format!("{away} got the 3 keys it missed"));
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    assert!(!listed_keys(&stage), "a full pass was made");
    let wanted = BTreeSet::from(["s1", "s2", "s3"]);
    assert_eq!(told(&stage.proxies[0], &ids), wanted);
    // It counts again: beside it each of the others may be away.
    stage.nodes[1].freeze();
    tend.says(&format!(
        "127.0.0.1:{} does not answer",
        stage.proxies[1].port()
    ));
    for (id, count) in [("s1", 4), ("s2", 4), ("s3", 1), ("s4", 2)] {
        assert_eq!(stage.visit(id), format!("[true,{count}]"), "{id}");
    }
    stage.nodes[1].resume();
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
}

#[test]
fn a_node_to_which_a_write_may_still_be_on_its_way_gets_a_full_pass_in_a_new_life() {
    for nodes in kinds() {
        gets_a_full_pass(Stage::on(nodes, 2));
    }
}

fn gets_a_full_pass(stage: Stage<Server>) {
    for (name, script) in PAGES {
        stage.fpm.page(name, script);
    }
    assert_eq!(stage.visit("s1"), "[true,1]");
    let tend = tend(&stage);
    let (inside, go) = (stage.state.path().join("in"), stage.state.path().join("go"));
    let query = format!("id=s1&in={}&go={}", inside.display(), go.display());
    std::thread::scope(|scope| {
        let page = scope.spawn(|| stage.fpm.get("wait.php", &query, "").text());
        assert!(wait_until(SOON, || inside.exists()));
        // Nobody knows it yet when the page writes.
        stage.nodes[0].freeze();
        std::fs::write(&go, "").unwrap();
        assert_eq!(page.join().unwrap(), "true");
    });
    stage.nodes[0].resume();
    let list = stage.list();
    let mended = || listed_keys(&stage) && is_safe(&list);
    assert!(wait_until(SOON, mended), "{}", tend.log());
    assert_eq!(tend.said("keys it missed"), 0, "{}", tend.log());
    assert_eq!(stage.visit("s1"), "[true,71]");
}

/// Its record came back, too, and says that it missed nothing; no write went without it.
#[test]
fn a_node_that_is_back_with_what_it_had_before_is_mended_though_nobody_missed_it() {
    for nodes in kinds() {
        is_mended(Stage::on(nodes, 2));
    }
}

fn is_mended(mut stage: Stage<Server>) {
    assert_eq!(stage.visit("s1"), "[true,1]");
    let tend = tend(&stage);
    let snapshot = Copy::of(&stage.nodes[0]);
    for count in 2..5 {
        assert_eq!(stage.visit("s1"), format!("[true,{count}]"));
    }
    assert_eq!(stage.visit("s2"), "[true,1]");
    let who = format!("127.0.0.1:{}", stage.proxies[0].port());
    let list = stage.list();
    // Then once more with the same old data, whose life tend has long left behind.
    for back in 0..2 {
        // Nobody sees it before all of the old data are in it.
        stage.proxies[0].fault(Fault::Refuse);
        stage.proxies[0].cut();
        stage.nodes[0].restart();
        snapshot.restore(&stage.nodes[0]);
        stage.proxies[0].fault(Fault::None);
        // A Redis says itself which process it is, and its record of another one counts for nothing.
        let other = match stage.nodes[0].is_redis() {
            true => format!("{who} is joining"),
            false => format!("{who} is another process than it was"),
        };
        let told = wait_until(SOON, || tend.said(&other) == back + 1);
        assert!(told, "{}", tend.log());
        assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
        assert!(stage.nodes[0].stored("s2").is_some());
        // Each of the two others may go: the first has all.
        stage.nodes[1].freeze();
        for (id, count) in [("s1", 5 + back), ("s2", 2 + back)] {
            assert_eq!(stage.visit(id), format!("[true,{count}]"), "{id}");
        }
        stage.nodes[1].resume();
        assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    }
}

/// Opens a session and leaves it as it is.
const TOUCH: &str = "session_id($_GET['id']); $begin = microtime(true); echo json_encode([session_start(), \
     $_SESSION['n'] ?? 0, session_write_close()]), ' ', microtime(true) - $begin < 10 ? 'soon' : 'late';";

#[test]
fn a_turn_that_a_hung_node_gave_to_nobody_is_ended_and_keeps_no_visit_waiting_when_another_dies() {
    for nodes in kinds() {
        // Connections that last: of a new one the first question may be no session's.
        let way = |node: &Server| {
            let options = "&persistent=1".to_owned();
            (node.port(), format!("{}://", node.scheme()), options)
        };
        let ways = nodes.iter().map(way).collect();
        keeps_nobody_waiting(Stage::over(nodes, ways, 1));
    }
}

fn keeps_nobody_waiting(stage: Stage<Server>) {
    stage.fpm.page("touch.php", TOUCH);
    let touch = || stage.fpm.get("touch.php", "id=s1", "").text();
    assert_eq!(stage.visit("s1"), "[true,1]");
    let tend = tend(&stage);
    let list = stage.list();
    let who = |place: usize| format!("127.0.0.1:{}", stage.proxies[place].port());
    stage.nodes[0].freeze();
    assert_eq!(touch(), "[true,1,true] soon");
    tend.says(&format!("{} does not answer", who(0)));
    // What it was asked lies in its buffers.
    stage.nodes[0].resume();
    tend.says(&format!(
        "{}: turns that nobody had any more were ended there: 1",
        who(0)
    ));
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    stage.nodes[1].freeze();
    assert_eq!(touch(), "[true,1,true] soon", "{}", tend.log());
    stage.nodes[1].resume();
}
