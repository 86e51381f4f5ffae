//! A returned node is mended where no tend runs: by workers, in slices at the end of requests.

use crate::companion::{Tend, run};
use crate::health::Stage;
use harness::{Certificates, Memcached, Proxy, TempDir, wait_until};
use std::time::{Duration, Instant};

const SOON: Duration = Duration::from_secs(60);
/// Between two visits.
const PACE: Duration = Duration::from_millis(10);

const STATUS: &str = "echo Memring\\status()['counters']['passes_by_workers'];";

fn is_safe(stage: &Stage) -> bool {
    run(&["status", "--list", &stage.list()]).0 == 0
}

/// How many nodes were asked for their keys.
fn listings(stage: &Stage) -> usize {
    let asked = |proxy: &Proxy| {
        let said = proxy.requests_in_time();
        String::from_utf8_lossy(&said)
            .matches("metadump hash")
            .count()
    };
    stage.proxies.iter().map(asked).sum()
}

#[test]
fn a_node_back_empty_is_mended_by_workers_and_then_each_other_node_may_go() {
    back_empty(Stage::of(3, 2));
}

#[test]
fn a_node_is_mended_from_nodes_in_tls_and_behind_a_password() {
    let made = Certificates::new();
    let (plain, secret) = (
        Memcached::start(),
        Memcached::with_logins(&["app:geheim"], &[]),
    );
    let tls = Memcached::with_tls(&made.server(), None, &[]);
    let ca = format!("&ca={}", made.ca().display());
    let ways = vec![
        (plain.port(), "tcp://".to_owned(), String::new()),
        (
            secret.port(),
            "memcached://app:geheim@".to_owned(),
            String::new(),
        ),
        (tls.tls_port(), "memcacheds://".to_owned(), ca),
    ];
    back_empty(Stage::over(vec![plain, secret, tls], ways, 2));
}

fn back_empty(mut stage: Stage) {
    stage.fpm.page("status.php", STATUS);
    let ids: Vec<String> = (0..300).map(|n| format!("s{n}")).collect();
    for id in &ids {
        assert_eq!(stage.visit(id), "[true,1]");
    }
    assert!(is_safe(&stage));
    stage.nodes[0].restart();
    // One session is visited, and nothing else happens here.
    let mut count = 1;
    let mut slowest = Duration::ZERO;
    let mended = wait_until(SOON, || {
        std::thread::sleep(PACE);
        count += 1;
        let begin = Instant::now();
        assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
        slowest = slowest.max(begin.elapsed());
        count % 20 == 0 && is_safe(&stage)
    });
    assert!(mended, "{}", stage.log());
    // No request waits for more than a slice.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    count += 1;
    assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
    assert_eq!(stage.fpm.get("status.php", "", "").text(), "1");
    let who = format!(
        "node 127.0.0.1:{} got what it missed",
        stage.proxies[0].port()
    );
    let told = wait_until(SOON, || {
        count += 1;
        assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
        stage.log().contains(&who)
    });
    assert!(told, "{}", stage.log());
    let held = ids.iter().filter(|id| stage.nodes[0].stored(id).is_some());
    assert_eq!(held.count(), ids.len());
    stage.nodes[1].freeze();
    for id in &ids[1..] {
        assert_eq!(stage.visit(id), "[true,2]", "{id}");
    }
    stage.nodes[1].resume();
}

/// Of another list, and of a cache in a file.
#[test]
fn beside_a_tend_of_other_pools_a_node_is_mended_by_workers() {
    let stage = Stage::of(3, 2);
    let state = stage.state.path().display().to_string();
    let others = [Memcached::start(), Memcached::start()];
    let names = others
        .each_ref()
        .map(|node| format!("tcp://{}", node.address()));
    let directory = TempDir::new("others");
    let cache = format!("[pool.cache]\nnodes = {names:?}\nmode = \"sync\"\n");
    let cache = directory.file("memring.toml", cache).display().to_string();
    let tends = [
        Tend::beside(&state, &["--list", &names.join(",")]),
        Tend::beside(&state, &["--config", &cache]),
    ];
    tends[0].says("is trusted");
    tends[1].says("2 of 2 nodes answer");
    back_empty(stage);
}

#[test]
fn where_tend_runs_workers_leave_a_returned_node_to_it_also_to_that_of_another_host() {
    for another_host in [false, true] {
        let mut stage = Stage::of(3, 2);
        stage.fpm.page("status.php", STATUS);
        let other = TempDir::new("host");
        let state = if another_host {
            other.path()
        } else {
            stage.state.path()
        };
        let tend = Tend::beside(&state.display().to_string(), &["--list", &stage.list()]);
        tend.says("3 nodes, 3 trusted");
        stage.nodes[0].restart();
        for count in 1..60 {
            assert_eq!(stage.visit("s"), format!("[true,{count}]"));
        }
        assert!(wait_until(SOON, || is_safe(&stage)), "{}", tend.log());
        assert_eq!(stage.fpm.get("status.php", "", "").text(), "0");
    }
}

#[test]
fn a_node_that_somebody_else_mends_keeps_workers_from_no_other_one() {
    let stage = Stage::of(3, 1);
    for node in &stage.nodes[..2] {
        let (_, record) = node.stored("~r").expect("a record");
        let record = String::from_utf8_lossy(&record).replace("trusted", "joining");
        let store = |key: &str, text: &str| format!("set {key} 0 0 {}\r\n{text}\r\n", text.len());
        node.raw(store("~r", &record), "\r\n");
    }
    stage.nodes[0].raw("set ~p 0 0 6\r\nweb9/1\r\n", "\r\n");
    let is = |node: &Memcached, word: &str| {
        let record = node.stored("~r").map(|(_, bytes)| bytes);
        String::from_utf8_lossy(&record.unwrap_or_default()).contains(word)
    };
    let mended = wait_until(SOON, || {
        stage.visit("first");
        is(&stage.nodes[1], " trusted ")
    });
    assert!(mended, "{}", stage.log());
    assert!(is(&stage.nodes[0], " joining "), "{}", stage.log());
}

/// So many keys that no worker is through in a request or two.
fn fill(node: &Memcached) {
    let fillers: String = (0..20_000)
        .map(|n| format!("set filler{n} 0 600 5 noreply\r\nvalue\r\n"))
        .collect();
    node.raw(format!("{fillers}version\r\n"), "\r\n");
}

#[test]
fn status_says_how_far_a_pass_is_that_this_host_runs() {
    let mut stage = Stage::of(3, 1);
    let list = stage.list();
    let state = stage.state.path().display().to_string();
    let status = |more: &[&str]| {
        let arguments = ["status", "--list", &list, "--state-dir", &state];
        run(&[&arguments, more].concat()).1
    };
    assert_eq!(stage.visit("s0"), "[true,1]");
    assert!(!status(&[]).contains("a pass of this host"));
    fill(&stage.nodes[1]);
    stage.nodes[0].restart();
    let mut count = 1;
    let told = wait_until(SOON, || {
        count += 1;
        assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
        status(&[]).contains("keys looked at, ")
    });
    assert!(told, "{}", stage.log());
    let json = status(&["--json"]);
    assert!(json.contains("\"pass\":{\"seen\":"), "{json}");
    let over = wait_until(3 * SOON, || {
        count += 1;
        assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
        count % 50 == 0 && status(&[]).contains("touch the next node: yes")
    });
    assert!(over, "{}", stage.log());
    assert!(!status(&[]).contains("a pass of this host"));
}

#[test]
fn a_worker_says_that_its_turn_goes_on_before_each_node_lists_its_keys() {
    let mut stage = Stage::of(3, 1);
    stage.proxies.iter().for_each(Proxy::clear);
    stage.nodes[0].restart();
    let asked = wait_until(SOON, || {
        stage.visit("first");
        listings(&stage) >= 2
    });
    assert!(asked, "{}", stage.log());
    let said = stage.proxies[0].requests_in_time();
    let said = String::from_utf8_lossy(&said);
    let signs = said.matches("touch ~p 30").count();
    assert!(signs >= listings(&stage), "{signs}: {said}");
}

#[test]
fn a_worker_that_goes_away_in_the_middle_of_a_pass_leaves_it_to_another() {
    let mut stage = Stage::of(3, 1);
    stage.fpm.page("die.php", "exec('kill -9 ' . getmypid());");
    assert_eq!(stage.visit("s0"), "[true,1]");
    fill(&stage.nodes[1]);
    stage.proxies.iter().for_each(Proxy::clear);
    stage.nodes[0].restart();
    let mut count = 1;
    let begun = wait_until(SOON, || {
        count += 1;
        assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
        listings(&stage) > 0
    });
    assert!(begun && !is_safe(&stage));
    // Its place is taken by a new one.
    assert!(stage.fpm.try_get("die.php", "", "").is_err());
    assert!(!is_safe(&stage), "the pass was over before its worker was");
    let mended = wait_until(3 * SOON, || {
        count += 1;
        assert_eq!(stage.visit("s0"), format!("[true,{count}]"));
        // Its turn lives for half a minute, and others want the processor, too.
        std::thread::sleep(PACE);
        count % 50 == 0 && is_safe(&stage)
    });
    assert!(mended, "{}", stage.log());
}
