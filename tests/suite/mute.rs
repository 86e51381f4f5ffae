//! Servers that list their keys to nobody (`-X`, `-o no_lru_crawler`): a node beside them is trusted
//! when all that it may lack has ended.

use crate::companion::{Tend, is_safe, run};
use crate::copies::{Host, value};
use crate::health::Stage;
use harness::{Memcached, Php, TempDir, wait_until};
use memring_pool::replica::{Closed, Ending, Found, Founded};
use serde_json::Value;
use std::time::Duration;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(30);
/// Seconds a session lives here.
const LIFE: u32 = 10;
/// How long a node waits for that: a tombstone's two minutes and ten seconds are added.
const WAIT: &str = "2 min 20 s";

/// Nodes that list nothing, of this machine's version and, where there is one, of another.
fn pools(count: usize, extra: &[&str]) -> Vec<Vec<Memcached>> {
    let own = (0..count).map(|_| Memcached::with(extra)).collect();
    let newer: Option<Vec<Memcached>> = (0..count).map(|_| Memcached::newer(extra)).collect();
    [Some(own), newer].into_iter().flatten().collect()
}

fn list(nodes: &[Memcached]) -> String {
    let urls: Vec<String> = (nodes.iter())
        .map(|node| format!("tcp://{}?mode=fenced&session_life={LIFE}", node.address()))
        .collect();
    urls.join(",")
}

fn once(list: &str) -> (i32, String) {
    let state = TempDir::new("mute");
    let state = state.path().display().to_string();
    let (code, _, log) = run(&["tend", "--once", "--state-dir", &state, "--list", list]);
    (code, log)
}

fn text(node: &Memcached, key: &str) -> String {
    let stored = node.stored(key).map(|(_, bytes)| bytes);
    String::from_utf8(stored.unwrap_or_default()).expect("text")
}

/// The first word of what is noted on a node: the life in which it waits.
fn life(note: &str) -> &str {
    note.split(' ').nth(1).unwrap_or_default()
}

/// Makes of the wait that is noted on a node one that began `seconds` before.
fn age(node: &Memcached, seconds: i64) {
    let note = text(node, "~w");
    let (rest, since) = note.rsplit_once(' ').expect("a note");
    let since: i64 = since.parse().expect("seconds");
    // A server that has just begun counts from the start, and a note of before that is none.
    let uptime = i64::try_from(node.stat("uptime")).expect("seconds");
    assert!(since <= uptime, "{note}");
    let note = format!("{rest} {}", since - seconds);
    let store = format!("set ~w 0 0 {}\r\n{note}\r\n", note.len());
    assert_eq!(node.raw(store, "\r\n"), b"STORED\r\n");
}

/// Sessions that nobody visits end for good while the node waits; those that are visited are on it.
#[test]
fn a_node_that_came_back_empty_is_trusted_after_one_session_life_and_has_all_that_is_left() {
    for extra in [&["-X"][..], &["-o", "no_lru_crawler"]] {
        for mut nodes in pools(2, extra) {
            let list = list(&nodes);
            assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
            let mut host = Host::of(&nodes, 2).lasting(LIFE);
            let ids: Vec<String> = (0..30).map(|n| format!("s{n}")).collect();
            assert_eq!(once(&list).0, 0);
            for id in &ids {
                host.write(id, "0");
            }
            nodes[0].restart();
            let (code, log) = once(&list);
            assert_eq!(code, 1, "{log}");
            let wanted = format!("{} does not list its keys (", nodes[1].address());
            assert!(log.contains(&wanted), "{log}");
            assert!(
                log.contains(&format!("{WAIT} after the last write")),
                "{log}"
            );
            let note = text(&nodes[0], "~w");
            // Half of them are visited all the while, one is destroyed.
            let mut rounds = 0;
            let over = wait_until(SOON, || {
                rounds += 1;
                for (n, id) in ids.iter().enumerate().take(15) {
                    let opened = host.open(id, crate::copies::TURN, false);
                    assert_eq!(opened.found, value("0"), "{id}");
                    let ending = match n {
                        0 => Ending::Touch,
                        _ => crate::copies::text("0"),
                    };
                    host.close(id, opened.grips, ending);
                }
                ids[15..].iter().all(|id| nodes[1].stored(id).is_none())
            });
            assert!(over && rounds > 1, "sessions did not end");
            host.destroy("s14");
            // Not yet, and it is the same wait.
            let (code, log) = once(&list);
            assert_eq!((code, text(&nodes[0], "~w")), (1, note.clone()), "{log}");
            age(&nodes[0], 120);
            assert_eq!(once(&list).0, 1);
            age(&nodes[0], 20);
            let (code, log) = once(&list);
            assert_eq!(code, 0, "{log}");
            assert!(is_safe(&list) && text(&nodes[0], "~w").is_empty());
            // All that is left is on it alone, too.
            nodes[1].kill();
            let mut other = Host::of(&nodes, 3);
            for id in &ids[..14] {
                assert_eq!(other.read(id), value("0"), "{id}");
            }
            assert_eq!(other.read("s14"), Found::Nothing);
        }
    }
}

#[test]
fn whatever_takes_something_from_a_node_that_waits_begins_its_wait_anew() {
    let mut nodes: Vec<Memcached> = (0..2).map(|_| Memcached::with(&["-X"])).collect();
    let list = list(&nodes);
    assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
    let mut host = Host::of(&nodes, 2);
    host.write("s", "0");
    nodes[0].restart();
    assert_eq!(once(&list).0, 1);
    let first = text(&nodes[0], "~w");
    assert!(text(&nodes[0], "~r").contains(life(&first)), "{first}");

    // A write that does not reach it.
    nodes[0].freeze();
    assert_eq!(host.write("s", "1"), Closed::Done { copies: 1 });
    nodes[0].resume();
    age(&nodes[0], 200);
    assert_eq!(once(&list).0, 1);
    let second = text(&nodes[0], "~w");
    assert_ne!(life(&second), life(&first));

    // A store that took away what it had, and was not made good: the mark on its record.
    age(&nodes[0], 200);
    let found = nodes[0].raw("mg ~r c v\r\n", "\r\n");
    let found = String::from_utf8_lossy(&found).into_owned();
    let cas = found
        .split(" c")
        .nth(1)
        .and_then(|rest| rest.split_whitespace().next());
    let mark = format!("md ~r I C{}\r\n", cas.expect("a cas value"));
    assert_eq!(nodes[0].raw(mark, "\r\n"), b"HD\r\n");
    assert_eq!(once(&list).0, 1);
    let third = text(&nodes[0], "~w");
    assert_ne!(life(&third), life(&second));

    // Its memory, or the note alone.
    age(&nodes[0], 200);
    nodes[0].restart();
    assert_eq!(once(&list).0, 1);
    let fourth = text(&nodes[0], "~w");
    assert!(!fourth.is_empty() && life(&fourth) != life(&third));
    nodes[0].raw("delete ~w\r\n", "\r\n");
    assert_eq!(once(&list).0, 1);
    assert!(!text(&nodes[0], "~w").is_empty());
    // Nothing of all that keeps it from its end.
    age(&nodes[0], 200);
    assert_eq!(once(&list).0, 0);
}

#[test]
fn of_three_nodes_one_that_lists_nothing_is_not_missed_while_the_others_are_trusted() {
    let mut nodes = vec![
        Memcached::start(),
        Memcached::with(&["-X"]),
        Memcached::start(),
    ];
    let list = list(&nodes);
    assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
    let mut host = Host::of(&nodes, 2);
    let ids: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
    for id in &ids {
        host.write(id, "kept");
    }
    nodes[0].restart();
    let (code, log) = once(&list);
    assert_eq!(code, 0, "{log}");
    assert!(ids.iter().all(|id| nodes[0].stored(id).is_some()));
    // The one that lists has missed something: then only time helps.
    let record = text(&nodes[2], "~r").replace("trusted", "joining");
    let store = format!("set ~r 0 0 {}\r\n{record}\r\n", record.len());
    nodes[2].raw(store, "\r\n");
    nodes[0].restart();
    let (code, log) = once(&list);
    assert!(code == 1 && log.contains(WAIT), "{log}");
    assert!(!text(&nodes[0], "~w").is_empty());
}

#[test]
fn status_and_the_log_say_who_lists_nothing_how_long_that_takes_and_what_to_do() {
    let mut nodes = vec![
        Memcached::with(&["-X"]),
        Memcached::with(&["-o", "no_lru_crawler"]),
    ];
    let long: Vec<String> = nodes
        .iter()
        .map(|node| format!("tcp://{}", node.address()))
        .collect();
    let (list, long) = (list(&nodes), long.join(","));
    assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
    let status = |list: &str| {
        let (_, text, _) = run(&["status", "--list", list]);
        let (_, json, _) = run(&["status", "--json", "--list", list]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        (text, json["pools"][0]["nodes"].clone())
    };
    // While all is well it is time to do something about it.
    let (text, json) = status(&list);
    for part in [
        "it does not list its keys (ERROR metadump not allowed)",
        "without -X, but not before memring status says",
        "it does not list its keys (CLIENT_ERROR lru crawler disabled)",
        "Say lru_crawler enable to it",
        "safe to touch the next node: yes",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert_eq!(
        (&json[0]["lists_keys"], &json[0]["waits"]),
        (&false.into(), &Value::Null)
    );
    nodes[0].restart();
    let tend = Tend::of(&["--list", &long]);
    tend.says("does not list its keys (CLIENT_ERROR lru crawler disabled)");
    for part in [
        "30 d 0 h after the last write",
        "write session_life = SECONDS",
    ] {
        assert_eq!(tend.said(part), 1, "{}", tend.log());
    }
    let (text, json) = status(&list);
    assert!(
        text.contains("has ended, since a node does not list its keys: 2 min "),
        "{text}"
    );
    let left = json[0]["waits"].as_u64().expect("seconds");
    assert!((120..=140).contains(&left), "{left}");
    // PHP tells the same of a pool in a file, which has a record and a wait of its own.
    let directory = TempDir::new("pool");
    let names: Vec<String> = nodes.iter().map(Memcached::address).collect();
    let file = directory.file(
        "memring.toml",
        format!("[pool.sessions]\nnodes = {names:?}\nmode = \"fenced\"\nsession_life = {LIFE}\n"),
    );
    for key in ["~r", "~w"] {
        let found = self::text(&nodes[0], key);
        let store = format!("set {key}:sessions 0 0 {}\r\n{found}\r\n", found.len());
        nodes[0].raw(store, "\r\n");
    }
    let php = Php::new().ini("memring.config_file", file.display());
    let told = php.run("echo json_encode(Memring\\status('sessions')['pools'][0]['nodes']);");
    let told: Value = serde_json::from_str(&told.ok()).expect("JSON");
    assert!(
        told[0]["waits"].as_u64().is_some_and(|left| left <= 140),
        "{told}"
    );
    assert_eq!(told[1]["waits"], Value::Null);
    assert!(status(&long).1[0]["waits"].as_u64().expect("seconds") > 2_500_000);
    // It is told once, however long it lasts; and what needs no start helps at once.
    assert_eq!(nodes[1].raw("lru_crawler enable\r\n", "\r\n"), b"OK\r\n");
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    assert_eq!(tend.said("does not list its keys"), 1, "{}", tend.log());
}

#[test]
fn where_no_tend_runs_workers_begin_the_wait_and_end_it() {
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::with(&["-X"])).collect();
    let options = format!("&mode=fenced&session_life={LIFE}");
    let way = |node: &Memcached| (node.port(), "tcp://".to_owned(), options.clone());
    let ways = nodes.iter().map(way).collect();
    let mut stage = Stage::over(nodes, ways, 1);
    stage.nodes[0].restart();
    let waits = wait_until(2 * SOON, || {
        stage.visit("s");
        stage
            .log()
            .contains("does not list its keys (ERROR metadump not allowed)")
    });
    assert!(waits, "{}", stage.log());
    age(&stage.nodes[0], 140);
    // The worker looks again after a minute, another process at once.
    stage.fpm.page("die.php", "exec('kill -9 ' . getmypid());");
    assert!(stage.fpm.try_get("die.php", "", "").is_err());
    let over = wait_until(2 * SOON, || {
        stage.visit("s");
        run(&["status", "--list", &stage.list()]).0 == 0
    });
    assert!(over, "{}", stage.log());
}

#[test]
fn a_commit_that_needs_a_list_says_who_gives_none() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::with(&["-X"])).collect();
    let names: Vec<String> = nodes.iter().map(Memcached::address).collect();
    let directory = TempDir::new("commit");
    let pool = |nodes: &[String], more: &str| {
        let text = format!("[pool.sessions]\nnodes = {nodes:?}\nmode = \"fenced\"\n{more}");
        directory.file("memring.toml", text).display().to_string()
    };
    let config = pool(&names[..2], "");
    let state = directory.path().display().to_string();
    let tend = ["tend", "--once", "--state-dir", &state, "--config", &config];
    assert_eq!(run(&tend).0, 0);
    let before = format!("epoch = 1\nprevious_nodes = {:?}\n", &names[..2]);
    pool(&names, &before);
    let (code, _, log) = run(&["commit", "--config", &config, "sessions"]);
    let wanted = "does not list its keys (ERROR metadump not allowed), so nobody can say which sessions move";
    assert!(code == 1 && log.contains(wanted), "{log}");
    assert!(
        log.contains("without -X") && log.contains("nothing is lost"),
        "{log}"
    );
}
