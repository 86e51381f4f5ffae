//! Sessions move from pecl-memcache's way to copies and back, while hosts are on both settings.

use crate::epochs::{Counts, Host, a_while, file, names, tend_file, under_load, visit};
use harness::{Memcached, TempDir, wait_until};
use std::time::Duration;

/// Longer than a change of the file takes to be known.
const KNOWN: Duration = Duration::from_secs(20);

/// The ways a host can be set, in the order of a migration.
fn ways(nodes: &[&Memcached]) -> [String; 3] {
    let nodes = names(nodes);
    let single = format!("[pool.sessions]\nnodes = {nodes:?}\nmode = \"single\"\n");
    let both = file(&nodes, "key_prefix = \"f:\"\nmigrate_from = \"pecl\"");
    let copies = file(&nodes, "key_prefix = \"f:\"");
    [single, both, copies]
}

/// Gives a host its new file, and waits until its workers have it.
fn set(host: &Host, text: &str) {
    host.give(text);
    // Every worker looks once a second, at its next request.
    let begin = std::time::Instant::now();
    assert!(wait_until(KNOWN, || {
        host.visit("warm");
        begin.elapsed() > Duration::from_millis(2500)
    }));
}

#[test]
fn sessions_move_to_copies_and_back_under_load_with_hosts_on_both_settings() {
    let (a, b, c) = (Memcached::start(), Memcached::start(), Memcached::start());
    let [single, both, copies] = ways(&[&a, &b, &c]);
    let (one, two) = (Host::start(&single), Host::start(&single));
    let (hosts, counts) = ([&one, &two], Counts::default());
    let items = || a.stat("curr_items") + b.stat("curr_items") + c.stat("curr_items");
    under_load(hosts, &counts, || a_while(&counts));
    let before = items();
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
            assert!(items() > before + 60, "{} after {before}", items());
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
fn sessions_are_shared_with_hosts_that_still_run_the_original() {
    let Some(original) = harness::php::original() else {
        println!("skipped: MEMRING_PECL_SO names no build of pecl-memcache");
        return;
    };
    let nodes = [(); 3].map(|()| Memcached::start());
    let nodes: Vec<&Memcached> = nodes.iter().collect();
    let [_, both, _] = ways(&nodes);
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
    let (a, b, c) = (Memcached::start(), Memcached::start(), Memcached::start());
    let [single, both, copies] = ways(&[&a, &b, &c]);
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
