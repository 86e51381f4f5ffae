//! The pool file changes under running PHP: taken whole by every worker, or not at all.

use harness::{Apache, Memcached, Php, PhpFpm, TempDir, wait_until};
use memring_pool::config::file::File;
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use std::collections::BTreeMap;
use std::time::Duration;

/// Longer than a change takes to be known: a look a second.
const KNOWN: Duration = Duration::from_secs(10);

const PAGE: &str = r#"
    $m = new Memcache;
    if (!$m->addServer('pool:cache')) die('refused');
    $m->set($_GET['k'], 'v');
    echo $m->findServer('k');
"#;

fn cache(nodes: &[&Memcached]) -> String {
    let nodes: Vec<String> = nodes
        .iter()
        .map(|node| format!("\"memcached://127.0.0.1:{}\"", node.port()))
        .collect();
    format!(
        "[pool.cache]\nnodes = [{}]\nplacement = \"rendezvous\"\n",
        nodes.join(", ")
    )
}

/// A php-fpm whose pools stand in a file that begins as `text`, and where it logs.
fn fpm(directory: &TempDir, workers: usize, text: &str) -> PhpFpm {
    let path = directory.file("memring.toml", text);
    let php = Php::new()
        .ini("memring.config_file", path.display())
        .ini("log_errors", 1)
        .ini("error_log", directory.path().join("php.log").display());
    let fpm = PhpFpm::with(&php, workers, "");
    fpm.page("cache.php", PAGE);
    fpm
}

fn ask(fpm: &PhpFpm, key: &str) -> String {
    let reply = fpm.get("cache.php", &format!("k={key}"), "");
    String::from_utf8_lossy(&reply.body).trim().to_owned()
}

#[test]
fn workers_take_a_changed_file_without_a_restart_and_keep_the_sockets_of_nodes_that_stay() {
    let (a, b) = (Memcached::start(), Memcached::start());
    let directory = TempDir::new("reload");
    let fpm = fpm(&directory, 1, &cache(&[&a]));
    assert_eq!(ask(&fpm, "k"), format!("127.0.0.1:{}", a.port()));
    let connections = || a.stat("total_connections");
    let before = connections();
    directory.file("memring.toml", cache(&[&a, &b]));
    let mut number = 0;
    assert!(wait_until(KNOWN, || {
        number += 1;
        ask(&fpm, &format!("n{number}"));
        b.stat("curr_items") > 0
    }));
    // Each question of the test is a connection, too; the worker made none.
    assert_eq!(connections() - before, 1);
    directory.file("memring.toml", cache(&[&b]));
    assert!(wait_until(KNOWN, || ask(&fpm, "k")
        == format!("127.0.0.1:{}", b.port())));
    // Whoever went out of the file is let go of; a server without clients counts the same, its own question in it.
    let nobody = Memcached::start();
    assert!(wait_until(KNOWN, || {
        ask(&fpm, "k");
        // The connection that found the new server ready may not have been closed there yet.
        a.stat("curr_connections") == nobody.stat("curr_connections")
    }));
}

#[test]
fn every_worker_of_mod_php_takes_a_changed_file_without_a_restart() {
    if !Apache::available() {
        harness::skip("no Apache with mod_php here");
        return;
    }
    let (a, b) = (Memcached::start(), Memcached::start());
    let directory = TempDir::new("reload");
    let path = directory.file("memring.toml", cache(&[&a]));
    let apache = Apache::start(&format!("memring.config_file={}", path.display()));
    apache.file(
        "owner.php",
        "<?php $m = new Memcache; if (!$m->addServer('pool:cache')) die('refused');
        echo getmypid(), ' ', $m->findServer('k');",
    );
    // Workers by their process numbers, and whom each named.
    let ask = || -> BTreeMap<String, String> {
        (0..24)
            .map(|_| {
                let body = apache.get("owner.php", "").body;
                let text = String::from_utf8_lossy(&body).trim().to_owned();
                let (worker, owner) = text.split_once(' ').expect(&text);
                (worker.to_owned(), owner.to_owned())
            })
            .collect()
    };
    let all = |seen: &BTreeMap<String, String>, node: &Memcached| {
        seen.values().all(|owner| *owner == node.address())
    };
    let before = ask();
    assert!(before.len() > 1 && all(&before, &a), "{before:?}");
    directory.file("memring.toml", cache(&[&b]));
    let mut after = BTreeMap::new();
    assert!(wait_until(KNOWN, || {
        after = ask();
        all(&after, &b)
    }));
    let stayed = before.keys().filter(|worker| after.contains_key(*worker));
    assert!(stayed.count() > 1, "{before:?} {after:?}");
}

#[test]
fn a_node_that_moves_to_another_address_with_its_id_kept_keeps_its_keys() {
    let pool = |third: &str| {
        let text = format!(
            "[pool.p]\nplacement = \"rendezvous\"\nnodes = [\"10.0.0.1\", \"10.0.0.2\", \"{third}\"]"
        );
        let topology = File::parse("p.toml", &text).unwrap().pool("p").unwrap();
        let mut pool = Pool::new(topology.policy);
        for spec in topology.nodes {
            pool.add(spec, &mut Directory::new());
        }
        pool
    };
    let mut before = pool("10.0.0.3");
    let (mut kept, mut new) = (pool("10.9.9.9?id=10.0.0.3:11211"), pool("10.9.9.9"));
    let mut moved = [0, 0];
    for n in 0..3000 {
        let key = format!("key{n}");
        let first = before.preferred(key.as_bytes(), 3);
        moved[0] += u32::from(kept.preferred(key.as_bytes(), 3) != first);
        moved[1] += u32::from(new.preferred(key.as_bytes(), 3) != first);
    }
    assert_eq!(moved[0], 0);
    assert!(moved[1] > 1000, "{moved:?}");
}

#[test]
fn a_file_cut_spoilt_or_unreadable_leaves_the_pools_as_they_were_and_is_told_once() {
    let a = Memcached::start();
    let directory = TempDir::new("reload");
    let good = cache(&[&a]);
    let fpm = fpm(&directory, 1, &good);
    let own = format!("127.0.0.1:{}", a.port());
    assert_eq!(ask(&fpm, "k"), own);
    let log = || std::fs::read_to_string(directory.path().join("php.log")).unwrap_or_default();
    let told = |word: &str| log().lines().filter(|line| line.contains(word)).count();
    let spoil: [(&[u8], &str); 3] = [
        (&good.as_bytes()[..40], "line 2"),
        (b"\x7fELF\x02\xff\x00", "no UTF-8"),
        (b"", "names no pool"),
    ];
    for (bytes, word) in spoil {
        directory.file("memring.toml", bytes);
        assert!(
            wait_until(KNOWN, || {
                assert_eq!(ask(&fpm, "k"), own, "{}", log());
                told(word) > 0
            }),
            "{word}: {}",
            log()
        );
    }
    std::fs::remove_file(directory.path().join("memring.toml")).unwrap();
    assert!(wait_until(KNOWN, || {
        assert_eq!(ask(&fpm, "k"), own);
        told("cannot be read") > 0
    }));
    let lines = log();
    for word in ["line 2", "no UTF-8", "names no pool", "cannot be read"] {
        assert_eq!(told(word), 1, "{word}: {lines}");
        let line = lines.lines().find(|line| line.contains(word)).unwrap();
        assert!(
            line.contains("memring.toml") && line.contains("stay as they were"),
            "{line}"
        );
    }
}

#[test]
fn a_long_script_meets_the_new_file_at_its_next_add_server() {
    let (a, b) = (Memcached::start(), Memcached::start());
    let directory = TempDir::new("reload");
    let path = directory.file("memring.toml", cache(&[&a]));
    let text = Php::new()
        .ini("memring.config_file", path.display())
        .env("NEW", cache(&[&b]))
        .run(
            r#"
            function owner() { $m = new Memcache; $m->addServer('pool:cache'); return $m->findServer('k'); }
            $old = new Memcache; $old->addServer('pool:cache');
            $first = owner();
            file_put_contents(ini_get('memring.config_file'), getenv('NEW'));
            $until = microtime(true) + 20;
            while (owner() === $first && microtime(true) < $until) usleep(20000);
            echo $first, ' ', owner(), ' ', $old->findServer('k'), ' ', var_export($old->set('k', 1), true);
        "#,
        )
        .ok();
    let (a, b) = (a.port(), b.port());
    assert_eq!(
        text,
        format!("127.0.0.1:{a} 127.0.0.1:{b} 127.0.0.1:{a} true")
    );
}
