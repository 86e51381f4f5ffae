//! A Redis Cluster from PHP: the class, sessions, and a master that is killed while ten workers use both.

use crate::redis_sessions::phpredis;
use crate::sessions::with_sessions;
use crate::syscalls::calls;
use harness::{Cluster, Php, TempDir, wait_until};
use std::collections::HashMap;
use std::time::{Duration, Instant};

#[test]
fn values_of_every_kind_come_back_to_php_from_a_cluster() {
    let cluster = Cluster::start();
    let script = format!(
        r#"$m = new Memcache; var_dump($m->addServer('{url}'));
        $all = []; for ($i = 0; $i < 300; $i++) $all["k$i"] = [1, 'x' . $i, $i, $i / 4, $i % 2 == 0, false][$i % 6];
        var_dump($m->set($all, null, 0, 300), $m->get(array_keys($all)) == $all);
        foreach ($all as $k => $v) if ($m->get($k) !== $v) echo "$k is another\n";
        var_dump($m->getServerStatus('127.0.0.1', {port}), preg_match('/^\d+\.\d+/', $m->getVersion()));
        $stats = $m->getExtendedStats(); ksort($stats); var_dump(count($stats), array_sum(array_column($stats, 'curr_items')));
        $m->get('k1', $flags, $cas); var_dump($cas > 0, $m->cas('k1', 'new', 0, 0, $cas), $m->cas('k1', 'newer', 0, 0, $cas), $m->get('k1'));
        var_dump($m->findServer('foo') == '127.0.0.1:{foo}');
        $n = new Memcache; var_dump($n->connect('{url}'), $n->get('k2'));
        var_dump(@$m->addServer('127.0.0.1', 1), @$n->addServer('{url}'), $m->flush(), $m->get('k1'));
        $n->close(); var_dump(@$n->addServer('127.0.0.1', 1));"#,
        url = cluster.url(),
        port = cluster.nodes[0].port(),
        foo = cluster.nodes[cluster.owner(12182)].port(),
    );
    let text = Php::new().ini("memcache.redundancy", 2).run(&script).ok();
    assert_eq!(
        text.replace('\n', " "),
        "bool(true) bool(true) bool(true) int(1) int(1) int(3) int(300) bool(true) bool(true) bool(false) string(3) \"new\" \
         bool(true) bool(true) int(2) bool(false) bool(false) bool(true) bool(false) bool(true)"
    );
}

#[test]
fn a_cluster_is_a_whole_pool_and_php_says_so_with_the_text_to_write() {
    let directory = TempDir::new("cluster");
    let file = directory.file(
        "pools.toml",
        "[pool.p]\nnodes = [\"redis-cluster://:geheim@127.0.0.1:1,127.0.0.1:2/\"]\n",
    );
    let php = Php::new().ini("memring.config_file", file.display());
    for (line, words) in [
        (
            "$m->addServer('127.0.0.1'); $m->addServer('redis-cluster://a,b/');",
            "stands for a whole pool",
        ),
        (
            "$m->addServer('redis-cluster://a,b/'); $m->addServer('c');",
            "stands for a whole pool",
        ),
        ("$m->addServer('redis-cluster://a,b/3');", "one database"),
        (
            "$m->addServer('redis-cluster://a,b/?mode=sync');",
            "keeps copies itself",
        ),
        (
            "$m->addServer('redis-cluster://a', 7000);",
            "neither port nor weight",
        ),
        (
            "$m->addServer('redis-cluster://a', 0, true, 5);",
            "neither port nor weight",
        ),
        (
            "$m->addServer('redis-cluster://:geheim@a b/');",
            "redis-cluster",
        ),
        ("$m->addServer('pool:p'); $m->set('k', 1);", "tcp 2"),
        (
            "echo json_encode(Memring\\status());",
            "\"placement\":\"slots\"",
        ),
        (
            "echo json_encode(Memring\\route('p', 'session', 'foo'));",
            "\"slot\":12182",
        ),
    ] {
        let text = php.run(&format!("$m = new Memcache; {line}")).text();
        assert!(text.contains(words), "{line}: {text}");
        assert!(!text.contains("geheim"), "{text}");
    }
    let text = with_sessions(Php::new(), "redis-cluster://a,b/?mode=fenced")
        .run("session_id('s'); var_dump(session_start());")
        .text();
    assert!(
        text.contains("keeps copies itself") && text.contains("bool(false)"),
        "{text}"
    );
}

#[test]
fn a_single_operation_in_a_cluster_costs_two_system_calls() {
    let cluster = Cluster::start();
    let url = cluster.url();
    let calls = |body: &str, rounds: u32| {
        calls(&format!(
            "$m = new Memcache; $m->addServer('{url}'); $m->set('k', 'v'); $m->set('n', 1); $m->increment('n');
             $m->get(['a', 'k', 'n']); for ($i = 0; $i < {rounds}; $i++) {{ {body} }}"
        ))
    };
    for body in ["$m->get('k');", "$m->set('k', 'v');", "$m->increment('n');"] {
        let (Some(few), Some(many)) = (calls(body, 10), calls(body, 210)) else {
            harness::skip("strace is not installed or may not trace here");
            return;
        };
        let each = many.saturating_sub(few) as f64 / 200.0;
        assert!(each < 2.1, "{body} costs {each} system calls");
    }
}

#[test]
fn sessions_in_a_cluster_keep_every_rule_of_those_on_one_redis() {
    let cluster = Cluster::start();
    let exists = |key: &str| -> bool {
        let owner = cluster.owner(cluster.slot(key));
        redis::cmd("EXISTS")
            .arg(key)
            .query(&mut cluster.client(owner))
            .unwrap()
    };
    let flush = || (0..3).for_each(|place| drop(cluster.said(place, &["FLUSHALL"])));
    let url = cluster.url_as("", "prefix=P:");
    let pool = TempDir::new("cluster");
    let file = pool.file("pools.toml", format!("[pool.p]\nnodes = [\"{url}\"]\n"));
    let memring = with_sessions(Php::new(), &url).ini("session.save_handler", "memring");
    let named = with_sessions(Php::new(), "pool:p").ini("memring.config_file", file.display());
    for php in [with_sessions(Php::new(), &url), memring, named] {
        let php = php
            .ini("session.gc_maxlifetime", 500)
            .ini("display_errors", 0);
        flush();
        for id in ["one", "two", "three", "four"] {
            let count = format!(
                "session_id('{id}'); var_dump(session_start()); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];"
            );
            assert_eq!(php.run(&count).ok(), "bool(true)\n1");
            assert_eq!(php.run(&count).ok(), "bool(true)\n2");
            let owner = cluster.owner(cluster.slot(&format!("P:{id}")));
            let stored: String = redis::cmd("GET")
                .arg(format!("P:{id}"))
                .query(&mut cluster.client(owner))
                .unwrap();
            assert_eq!(stored, "n|i:2;");
        }
        for ending in [
            "",
            "session_write_close();",
            "session_abort();",
            "session_reset(); session_write_close();",
            "session_destroy();",
            "no_such_function();",
            "ini_set('memory_limit', '4M'); str_repeat('x', 50000000);",
        ] {
            php.run(&format!(
                "session_id('s'); session_start(); $_SESSION['n'] = 1; {ending}"
            ));
            assert!(!exists("{P:s}_LOCK"), "after {ending}");
        }
        php.run("session_id('s'); session_start(); session_destroy();")
            .ok();
        assert!(!exists("P:s"));
        let add = "session_id('s'); session_start(); $n = $_SESSION['n'] ?? 0; usleep(20000); $_SESSION['n'] = $n + 1;";
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| php.run(add).ok());
            }
        });
        let n = php.run(
            "session_id('s'); session_start(['read_and_close' => true]); echo $_SESSION['n'];",
        );
        assert_eq!(n.ok(), "8");
        // A request whose turn is over stores nothing over a later one.
        let php = php.ini("memcache.lock_timeout", 1).ini("display_errors", 1);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| {
                php.run("session_id('s'); session_start(); $_SESSION['n'] = 'late'; sleep(3);")
                    .text()
            });
            assert!(wait_until(Duration::from_secs(10), || exists("{P:s}_LOCK")));
            let next =
                php.run("session_id('s'); var_dump(session_start()); $_SESSION['n'] = 'next';");
            assert_eq!(next.ok(), "bool(true)");
            assert!(late.join().unwrap().contains("another request has it"));
        });
        // Strict mode, an id made anew, a long id.
        let strict = php.clone().ini("session.use_strict_mode", 1);
        assert_ne!(
            strict
                .run("session_id('unknown'); session_start(); echo session_id();")
                .ok(),
            "unknown"
        );
        let text = php.run("ob_start(); session_id('old'); session_start(); $_SESSION['n'] = 1; session_regenerate_id(true); $new = session_id(); $_SESSION['m'] = 2; session_write_close();
            session_id('old'); session_start(); echo count($_SESSION); session_abort(); session_id($new); session_start(); echo $_SESSION['n'], $_SESSION['m'];");
        assert_eq!(text.ok(), "012");
        let long = "i".repeat(250);
        php.run(&format!(
            "session_id('{long}'); session_start(); $_SESSION['n'] = 1;"
        ))
        .ok();
        assert!(exists(&format!("P:{long}")));
    }
    for place in 0..3 {
        let text = cluster.said(place, &["INFO", "errorstats"]);
        for word in ["CROSSSLOT", "MOVED", "TRYAGAIN"] {
            assert!(!text.contains(word), "node {place}: {text}");
        }
    }
}

#[test]
fn sessions_of_phpredis_in_a_cluster_go_on_here_and_back_there() {
    let cluster = Cluster::start();
    let seeds: Vec<String> = cluster
        .nodes
        .iter()
        .map(|node| format!("seed[]={}", node.address()))
        .collect();
    let Some(theirs) = phpredis(&seeds.join("&")) else {
        return;
    };
    let theirs = theirs.ini("session.save_handler", "rediscluster");
    // Its own save_path, as it is.
    let ours = with_sessions(Php::new(), &seeds.join("&"));
    let visit = "for ($i = (int) getenv('HALF'); $i < 1000; $i += 2) { session_id(\"visitor$i\"); session_start(); echo $_SESSION['n'] ?? 0, ' '; $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close(); }";
    // Their handler takes no turns in a cluster: at each step both hosts visit at the same time, each the half that
    // the other had before.
    for step in 0..4 {
        std::thread::scope(|scope| {
            for (host, php) in [&theirs, &ours].into_iter().enumerate() {
                let php = php.clone().env("HALF", (step + host) % 2);
                scope.spawn(move || {
                    let seen = php.run(visit).ok();
                    assert_eq!(seen, vec![step.to_string(); 500].join(" "), "host {host}");
                });
            }
        });
    }
    let count = |place: usize| -> u64 {
        redis::cmd("DBSIZE")
            .query(&mut cluster.client(place))
            .unwrap()
    };
    assert_eq!((0..3).map(count).sum::<u64>(), 1000, "a lock was left");
}

/// What one worker tells: by session what was acknowledged last, how often it was refused or found something older
/// than that, its longest wait.
struct Worker {
    acknowledged: HashMap<String, u64>,
    refused: u64,
    lost: u64,
    longest: f64,
}

/// Kills a master while ten workers store sessions: acknowledged writes, refusals, lost writes, the longest wait.
fn killed_under_load(options: &str) -> (u64, u64, u64, f64) {
    let mut cluster = Cluster::with_replicas();
    let php = with_sessions(Php::new(), &cluster.url_as("", options))
        .ini("memcache.lock_timeout", 1)
        .limit(Duration::from_secs(60));
    let script = |worker: usize| {
        format!(
            r#"ob_start(); set_error_handler(function ($no, $text) use (&$told) {{ $told = $text; return true; }});
            $acked = []; $refused = 0; $lost = 0; $longest = 0; $n = 0; $texts = [];
            $end = microtime(true) + 9;
            while (($now = microtime(true)) < $end) {{
                $n++; $id = 'w{worker}s' . ($n % 16); $told = null;
                session_id($id);
                if (session_start()) {{
                    if (($_SESSION['n'] ?? 0) < ($acked[$id] ?? 0)) $lost++;
                    $_SESSION['n'] = $n; session_write_close();
                }}
                if ($told === null) $acked[$id] = $n; else {{ $refused++; $texts[substr($told, 0, 400)] = 1; session_abort(); }}
                $longest = max($longest, microtime(true) - $now);
                usleep(2000);
            }}
            ob_end_clean();
            foreach ($acked as $id => $n) echo "$id=$n ";
            echo "refused=$refused lost=$lost longest=$longest\n", implode("\n", array_keys($texts));"#
        )
    };
    let running: Vec<_> = (0..10).map(|worker| php.start(&script(worker))).collect();
    // Every worker has stored something before the master goes.
    let begun = wait_until(Duration::from_secs(20), || {
        let count = |place: usize| -> u64 {
            redis::cmd("DBSIZE")
                .query(&mut cluster.client(place))
                .unwrap()
        };
        (0..3).map(count).sum::<u64>() >= 160
    });
    assert!(begun, "the workers did not begin");
    let dead = cluster.owner(cluster.slot("w0s0"));
    // Loopback is too fast for a loss: its replica sleeps, and the first thing it will hear is more than the kernel
    // keeps for it, so that what comes behind that dies with the master.
    cluster.nodes[dead + 3].freeze();
    redis::cmd("SET")
        .arg("{w0s0}flood")
        .arg(vec![b'x'; 32 << 20])
        .exec(&mut cluster.client(dead))
        .unwrap();
    std::thread::sleep(Duration::from_millis(300));
    cluster.nodes[dead].kill();
    cluster.nodes[dead + 3].resume();
    let workers: Vec<Worker> = running
        .into_iter()
        .map(|worker| {
            let text = worker.finish().text();
            let (first, told) = text.split_once('\n').unwrap_or((&text, ""));
            let known = [
                "could not be",
                "CLUSTERDOWN",
                "Connection",
                "refused",
                "replicas had it",
                "Failed to",
            ];
            for line in told.lines() {
                assert!(known.iter().any(|word| line.contains(word)), "{line}");
            }
            let pairs = first.split(' ').filter_map(|pair| pair.split_once('='));
            let mut worker = Worker {
                acknowledged: HashMap::new(),
                refused: 0,
                lost: 0,
                longest: 0.0,
            };
            for (name, value) in pairs {
                match name {
                    "refused" => worker.refused = value.parse().unwrap(),
                    "lost" => worker.lost = value.parse().unwrap(),
                    "longest" => worker.longest = value.parse().unwrap(),
                    id => drop(
                        worker
                            .acknowledged
                            .insert(id.to_owned(), value.parse().unwrap()),
                    ),
                }
            }
            assert_eq!(worker.acknowledged.len(), 16, "{text}");
            worker
        })
        .collect();
    let mut lost: u64 = workers.iter().map(|worker| worker.lost).sum();
    for (id, acknowledged) in workers.iter().flat_map(|worker| &worker.acknowledged) {
        let owner = (0..6).find(|place| *place != dead && cluster.has(*place, cluster.slot(id)));
        let owner = owner.expect("the slot is served again");
        let stored: Option<String> = redis::cmd("GET")
            .arg(id)
            .query(&mut cluster.client(owner))
            .unwrap();
        let stored = stored.unwrap_or_default();
        let n = stored
            .strip_prefix("n|i:")
            .and_then(|text| text.strip_suffix(';'));
        // Later than acknowledged is no loss.
        lost += u64::from(
            n.and_then(|n| n.parse::<u64>().ok())
                .is_none_or(|n| n < *acknowledged),
        );
    }
    let acknowledged = workers.iter().flat_map(|w| w.acknowledged.values()).sum();
    let refused = workers.iter().map(|worker| worker.refused).sum();
    let longest = workers
        .iter()
        .map(|worker| worker.longest)
        .fold(0.0, f64::max);
    println!(
        "{options:?}: {refused} refused, {lost} times a session was older than acknowledged, longest {longest:.3} s"
    );
    (acknowledged, refused, lost, longest)
}

#[test]
fn a_master_killed_under_ten_workers_loses_no_session_that_a_replica_acknowledged() {
    let begin = Instant::now();
    let (_, refused, lost, longest) = killed_under_load("wait=1");
    assert_eq!(lost, 0);
    assert!(refused > 0, "nobody noticed");
    // Twice the time of a turn, or the limit of a connection and an exchange.
    assert!(longest < 4.0, "{longest}");
    println!("took {:?}", begin.elapsed());
}

#[test]
fn a_master_killed_under_ten_workers_without_wait_goes_on_by_itself_and_its_loss_is_counted() {
    let (_, refused, lost, longest) = killed_under_load("");
    assert!(refused > 0, "nobody noticed");
    assert!(longest < 4.0, "{longest}");
    // What a master acknowledged and could not pass on is gone, once for each of its sessions at most.
    assert!((1..160).contains(&lost), "{lost}");
}
