//! Sessions move from pecl-memcache's way to copies and back, while hosts are on both settings.

use crate::epochs::{Counts, Host, a_while, file, names, tend_file, under_load, visit};
use harness::{Memcached, Redis, Server, TempDir, wait_until};
use redis::Commands;
use std::time::Duration;

/// Longer than a change of the file takes to be known.
const KNOWN: Duration = Duration::from_secs(20);

fn memcached() -> Vec<Server> {
    (0..3)
        .map(|_| Server::Memcached(Memcached::start()))
        .collect()
}

fn redis() -> Vec<Server> {
    (0..3).map(|_| Server::Redis(Redis::start())).collect()
}

fn named(nodes: &[Server]) -> Vec<String> {
    let name = |node: &Server| match node {
        Server::Memcached(node) => names(&[node]).remove(0),
        Server::Redis(node) => format!("redis://{}?timeout=2", node.address()),
    };
    nodes.iter().map(name).collect()
}

/// How many items there are.
fn items(nodes: &[Server]) -> u64 {
    let count = |node: &Server| match node {
        Server::Memcached(node) => node.stat("curr_items"),
        Server::Redis(node) => redis::cmd("DBSIZE").query(&mut node.client()).unwrap(),
    };
    nodes.iter().map(count).sum()
}

/// The ways a host can be set, in the order of a migration on the same nodes.
fn ways(nodes: &[String]) -> [String; 3] {
    let single = format!("[pool.sessions]\nnodes = {nodes:?}\nmode = \"single\"\n");
    let both = file(nodes, "key_prefix = \"f:\"\nmigrate_from = \"pecl\"");
    let copies = file(nodes, "key_prefix = \"f:\"");
    [single, both, copies]
}

/// The same from one pool to other nodes.
fn ways_to(old: &[String], new: &[String]) -> [String; 3] {
    let single = format!("[pool.sessions]\nnodes = {old:?}\nmode = \"single\"\n");
    let old = format!("[pool.old]\nnodes = {old:?}\nmode = \"single\"\n");
    let both = file(new, &format!("migrate_from = \"pool:old\"\n{old}"));
    [single, both, file(new, "")]
}

/// Gives a host its new file, and waits until its workers have it.
pub(crate) fn set(host: &Host, text: &str) {
    host.give(text);
    // Every worker looks once a second, at its next request.
    let begin = std::time::Instant::now();
    assert!(wait_until(KNOWN, || {
        host.visit("warm");
        begin.elapsed() > Duration::from_millis(2500)
    }));
}

/// Two hosts go all the way and back, one after the other, while sessions are visited on both.
/// Their copies are on `nodes`.
fn there_and_back([single, both, copies]: [String; 3], nodes: &[Server]) {
    let (one, two) = (Host::start(&single), Host::start(&single));
    let (hosts, counts) = ([&one, &two], Counts::default());
    under_load(hosts, &counts, || a_while(&counts));
    let before = items(nodes);
    // Whoever looks after the pool has the new file first, and founds it.
    let directory = TempDir::new("migrate");
    tend_file(&directory.file("memring.toml", &both).display().to_string());
    for (host, way) in [
        (&one, &both),
        (&two, &both),
        (&one, &copies),
        (&two, &copies),
        // And back again.
        (&one, &both),
        (&two, &both),
        (&one, &single),
        (&two, &single),
    ] {
        under_load(hosts, &counts, || {
            set(host, way);
            a_while(&counts);
        });
        if way == &copies {
            let now = items(nodes);
            assert!(now > before + 60, "{now} after {before}");
        }
    }
    for host in hosts {
        assert_eq!(host.log(), "");
    }
    let sessions: Vec<String> = counts.lock().unwrap().keys().cloned().collect();
    assert!(
        sessions
            .iter()
            .all(|session| visit(&hosts, session, &counts))
    );
}

#[test]
fn sessions_move_to_copies_and_back_under_load_with_hosts_on_both_settings() {
    let nodes = memcached();
    there_and_back(ways(&named(&nodes)), &nodes);
}

#[test]
fn sessions_on_redis_move_to_copies_and_back_under_load_with_hosts_on_both_settings() {
    let nodes = redis();
    there_and_back(ways(&named(&nodes)), &nodes);
}

#[test]
fn sessions_move_from_memcached_to_copies_on_redis_and_back_with_hosts_on_both_settings() {
    let (old, new) = (memcached(), redis());
    there_and_back(ways_to(&named(&old), &named(&new)), &new);
}

/// What a node at the old place missed must not be taken for a later write of an old worker.
#[test]
fn an_older_session_of_ours_at_its_old_place_is_not_taken_for_an_old_workers() {
    let nodes = redis();
    let [_, both, _] = ways(&named(&nodes));
    let host = Host::start(&both);
    assert_eq!(host.visit("s"), "1");
    let clients = || nodes.iter().map(|node| node.redis().client());
    let read = |mut client: redis::Connection| -> (Option<String>, Option<String>) {
        (client.get("s").unwrap(), client.get("s_MEMRING").unwrap())
    };
    let first: Vec<_> = clients().map(read).collect();
    let places = first.iter().filter(|(s, m)| s.is_some() && m.is_some());
    assert_eq!(places.count(), 2, "{first:?}");
    assert_eq!(host.visit("s"), "2");
    for (mut client, (session, mark)) in clients().zip(first) {
        if let (Some(session), Some(mark)) = (session, mark) {
            let _: () = client.set("s", session).unwrap();
            let _: () = client.set("s_MEMRING", mark).unwrap();
        }
    }
    assert_eq!(host.visit("s"), "3", "{}", host.log());
    // An old worker knows nothing of marks.
    for mut client in clients() {
        if client.exists::<_, bool>("s").unwrap() {
            let _: () = client.set("s", "n|i:40;").unwrap();
        }
    }
    assert_eq!(host.visit("s"), "41");
    assert_eq!(host.log(), "");
}

#[test]
fn a_session_that_only_old_workers_prolonged_goes_on_and_a_destroyed_one_does_not() {
    for nodes in [memcached(), redis()] {
        let [_, both, _] = ways(&named(&nodes));
        let host = Host::start(&both);
        assert_eq!(host.visit("s"), "1");
        // Its copies ended; an old worker that reads it touches its old place alone.
        nodes.iter().for_each(|node| node.delete("f:s"));
        assert_eq!(host.visit("s"), "2", "{}", host.log());
        assert_eq!(host.visit("s"), "3");
    }
    let nodes = redis();
    let [_, both, _] = ways(&named(&nodes));
    let host = Host::start(&both);
    host.page(
        "end.php",
        "session_id($_GET['s']); session_start(); var_dump(session_destroy());",
    );
    assert_eq!(host.visit("s"), "1");
    let keep = |node: &Server| {
        ["s", "s_MEMRING"].map(|key| node.redis().client().get::<_, Option<String>>(key).unwrap())
    };
    let kept: Vec<_> = nodes.iter().map(keep).collect();
    assert_eq!(host.ask("end.php", "s"), "bool(true)");
    for (node, kept) in nodes.iter().zip(kept) {
        for (key, value) in ["s", "s_MEMRING"].into_iter().zip(kept) {
            let _: () = value
                .map_or(Ok(()), |value| node.redis().client().set(key, value))
                .unwrap();
        }
    }
    assert_eq!(host.visit("s"), "1");
}

#[test]
fn sessions_are_shared_with_hosts_that_still_run_the_original() {
    let Some(original) = harness::php::original() else {
        harness::skip("MEMRING_PECL_SO names no build of pecl-memcache");
        return;
    };
    let nodes = [(); 3].map(|()| Memcached::start());
    let nodes: Vec<&Memcached> = nodes.iter().collect();
    let [_, both, _] = ways(&names(&nodes));
    let (old, new) = (Host::original(&original, &nodes), Host::start(&both));
    let counts = Counts::default();
    let directory = TempDir::new("migrate");
    tend_file(&directory.file("memring.toml", &both).display().to_string());
    for _ in 0..3 {
        under_load([&old, &new], &counts, || a_while(&counts));
    }
    assert_eq!((old.log(), new.log()), (String::new(), String::new()));
    let visits: u64 = counts.lock().unwrap().values().map(|(n, _)| n).sum();
    assert!(visits > 300, "{visits}");
}

#[test]
fn a_session_that_an_old_worker_destroyed_is_gone_on_copies_too_and_the_other_way_round() {
    let (old, new) = (memcached(), redis());
    destroyed(ways(&named(&old)));
    destroyed(ways(&named(&new)));
    new.iter().for_each(Server::flush);
    old.iter().for_each(Server::flush);
    destroyed(ways_to(&named(&old), &named(&new)));
}

fn destroyed([single, both, copies]: [String; 3]) {
    let (old, new) = (Host::start(&single), Host::start(&both));
    let end = "ini_set('display_errors', 0); session_id($_GET['s']); session_start(); var_dump(session_destroy());";
    old.page("end.php", end);
    new.page("end.php", end);
    for (session, ender) in [("x", &old), ("y", &new)] {
        assert_eq!(new.visit(session), "1");
        assert_eq!(old.visit(session), "2");
        assert_eq!(new.visit(session), "3");
        assert_eq!(ender.ask("end.php", session), "bool(true)");
    }
    for session in ["x", "y"] {
        assert_eq!(new.visit(session), "1", "{session}");
    }
    assert_eq!(new.ask("end.php", "x"), "bool(true)");
    assert_eq!(old.visit("x"), "1");
    // What is only on copies so far is not taken for destroyed.
    set(&new, &copies);
    assert_eq!(new.visit("z"), "1");
    set(&new, &both);
    assert_eq!(new.visit("z"), "2");
    assert_eq!(old.visit("z"), "3");
    assert_eq!(new.visit("z"), "4");
}

#[test]
fn a_migration_without_a_prefix_or_with_changing_nodes_is_refused_with_the_line_to_write() {
    let host = |more: &str| {
        let nodes = ["127.0.0.1:1".to_owned(), "127.0.0.1:2".to_owned()];
        Host::start(&file(&nodes, more))
    };
    for (more, word) in [
        ("migrate_from = \"pecl\"", "key_prefix = \"f:\""),
        ("migrate_from = \"files\"", "migrate_from = \"pecl\""),
        ("migrate_from = \"pool:none\"", "names no pool"),
        (
            "migrate_from = \"pool:old\"\n[pool.old]\nnodes = [\"127.0.0.1:3\", \"127.0.0.1:4\"]\nmode = \"sync\"",
            "not of mode single",
        ),
        (
            "migrate_from = \"pool:old\"\n[pool.old]\nnodes = [\"localhost:2\"]",
            "key_prefix = \"f:\"",
        ),
        (
            "key_prefix = \"f:\"\nmigrate_from = \"pecl\"\nepoch = 1\nprevious_nodes = [\"127.0.0.1:1\", \"127.0.0.1:2\", \"127.0.0.1:3\"]",
            "nodes change while",
        ),
    ] {
        let host = host(more);
        assert_eq!(host.visit("s"), "refused");
        assert!(host.log().contains(word), "{word}: {}", host.log());
        assert!(host.log().contains("line "), "{}", host.log());
    }
}
