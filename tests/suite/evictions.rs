//! Redis nodes of sessions that throw keys away when they are full: one line in the log, with the remedy.

use harness::{Memcached, Php, PhpFpm, Redis, TempDir};

const VISIT: &str =
    "session_id($_GET['id']); session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;";

/// A host of one worker that logs to `log` and keeps its sessions at `path`.
fn host(php: &Php, log: &TempDir, path: &str) -> PhpFpm {
    let php = php
        .clone()
        .ini("log_errors", 1)
        .ini("error_log", log.path().join("php.log").display())
        .ini("session.save_handler", "memring")
        .ini("session.use_cookies", 0)
        .ini("session.cache_limiter", "")
        .ini("session.save_path", path);
    let fpm = PhpFpm::with(&php, 1, "");
    fpm.page("visit.php", VISIT);
    fpm.page(
        "status.php",
        "echo Memring\\status()['counters']['eviction_warnings'];",
    );
    fpm
}

fn visit(fpm: &PhpFpm, id: &str) -> String {
    fpm.get("visit.php", &format!("id={id}"), "").text()
}

fn lines(log: &TempDir) -> Vec<String> {
    let text = std::fs::read_to_string(log.path().join("php.log")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn a_node_that_evicts_is_named_once_for_the_host_with_its_policy_and_the_remedy() {
    let evicts =
        |policy: &str| Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", policy]);
    let (first, second, third) = (
        evicts("allkeys-lru"),
        evicts("noeviction"),
        evicts("volatile-ttl"),
    );
    let one = format!("redis://{}?mode=single", first.address());
    let three = format!(
        "redis://{}, redis://{}, redis://{}",
        first.address(),
        second.address(),
        third.address()
    );
    for (path, named) in [
        (one, vec![(&first, "allkeys-lru")]),
        (
            three,
            vec![(&first, "allkeys-lru"), (&third, "volatile-ttl")],
        ),
    ] {
        let log = TempDir::new("evicts");
        // Two masters of one user: what one of them said is said for the host.
        let php = Php::new();
        for id in ["first", "second"] {
            let fpm = host(&php, &log, &path);
            for count in ["1", "2", "3"] {
                assert_eq!(visit(&fpm, id), count, "{path}");
            }
            assert_eq!(fpm.get("status.php", "", "").text(), "1");
        }
        let lines = lines(&log);
        assert_eq!(lines.len(), named.len(), "{lines:?}");
        for (line, (server, policy)) in lines.iter().zip(named) {
            let begin = format!(
                "memring: node 127.0.0.1:{} throws sessions away when it is full (maxmemory-policy {policy})",
                server.port()
            );
            assert!(
                line.contains(&begin) && line.contains("Write maxmemory-policy noeviction"),
                "{line}"
            );
        }
    }
}

#[test]
fn nothing_is_said_of_nodes_that_keep_what_they_have_nor_of_one_that_does_not_tell() {
    let keeps = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]);
    // Without a limit the policy is of no consequence.
    let endless = Redis::with(&["--maxmemory-policy", "allkeys-lru"]);
    let silent = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let rules = ["SETUSER", "app", "on", ">secret", "~*", "+@all", "-info"];
    let _: () = redis::cmd("ACL")
        .arg(&rules)
        .query(&mut silent.client())
        .unwrap();
    let memcached = Memcached::start();
    for path in [
        format!("redis://{}?mode=single", keeps.address()),
        format!("redis://{}?mode=single", endless.address()),
        format!("redis://app:secret@{}?mode=single", silent.address()),
        format!("tcp://{}?mode=single", memcached.address()),
    ] {
        let log = TempDir::new("keeps");
        assert_eq!(visit(&host(&Php::new(), &log, &path), "id"), "1", "{path}");
        let lines = lines(&log);
        let told = lines
            .iter()
            .any(|line| line.contains("throws") || line.contains("NOPERM"));
        assert!(!told, "{path}: {lines:?}");
    }
}

#[test]
fn the_question_is_asked_once_in_the_life_of_a_process() {
    let server = Redis::with(&["--maxmemory", "100mb", "--maxmemory-policy", "noeviction"]);
    let log = TempDir::new("once");
    let fpm = host(
        &Php::new(),
        &log,
        &format!("redis://{}?mode=single", server.address()),
    );
    // How often INFO was said, this question not counted.
    let asked = || -> u32 {
        let text: String = redis::cmd("INFO")
            .arg("commandstats")
            .query(&mut server.client())
            .unwrap();
        let calls = text
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_info:calls="));
        calls
            .and_then(|rest| rest.split(',').next()?.parse().ok())
            .unwrap_or(0)
    };
    let before = asked();
    for number in 0..30 {
        assert_eq!(visit(&fpm, &format!("s{number}")), "1");
    }
    assert_eq!(asked() - before, 2, "ours, and the look before");
}

#[test]
fn a_database_of_this_host_that_has_thrown_items_away_says_so_with_its_size() {
    let (log, database) = (TempDir::new("thrown"), TempDir::new("full"));
    let path = format!("embedded://{}?size=1M", database.path().display());
    let fpm = host(&Php::new(), &log, &path);
    let filled = |fpm: &PhpFpm| {
        fpm.page("fill.php", "$m = new Memcache; $m->addServer(explode('?', ini_get('session.save_path'))[0] . '?size=1M'); for ($i = 0; $i < 200; $i++) $m->set(\"k$i\", random_bytes(9000), 0, 60);
            echo $m->getStats()['evictions'];");
        fpm.get("fill.php", "", "").text().parse::<u64>().unwrap()
    };
    assert_eq!(visit(&fpm, "early"), "1");
    assert!(lines(&log).is_empty(), "{:?}", lines(&log));
    assert!(filled(&fpm) > 0);
    drop(fpm);
    // Each process looks once.
    let fpm = host(&Php::new(), &log, &path);
    assert_eq!(visit(&fpm, "late"), "1");
    let lines = lines(&log);
    let [line] = &lines[..] else {
        panic!("{lines:?}")
    };
    assert!(
        line.contains("was full and has thrown") && line.contains("more than 1 MB"),
        "{line}"
    );
}
