//! Nodes that let in only who says user and password, `memcached -Y`: who is let in, who is not and what he is told,
//! and what happens when the password changes. `contract` holds every command behind one.

use crate::pool::Bench;
use crate::secrets;
use harness::{Memcached, Php, PhpFpm, Redis, TempDir, wait_until};
use memring_pool::call::Outcome;
use memring_pool::config::{Mode, NodeSpec, Placement, Policy, Protocol, Schemes};
use memring_pool::error::Kind;
use memring_pool::pool::later;
use memring_pool::wire::Store;
use std::time::Duration;

const LOGIN: &str = "app:geheim";

/// A pool of these nodes.
fn over(policy: Policy, nodes: &[String]) -> Bench {
    let mut bench = Bench::of(policy, &[]);
    for node in nodes {
        let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
        bench.pool.add(spec, &mut bench.directory);
    }
    bench
}

fn one(node: String) -> Bench {
    over(Policy::default(), &[node])
}

#[test]
fn who_is_not_let_in_is_told_once_what_to_do_and_keeps_nobody_out() {
    let server = Memcached::with_logins(&[LOGIN], &[]);
    let address = server.address();
    for who in ["app:wrong", "other:geheim"] {
        let mut bench = one(format!("memcached://{who}@{address}"));
        let stored = bench.store(Store::Set, "k", b"v", 0);
        assert_eq!(stored, Outcome::Lost, "{who}");
        let [event] = bench.call.events() else {
            panic!("{who}: {:?}", bench.call.events());
        };
        assert_eq!((event.error.kind(), event.fault), (Kind::Auth, true));
        for words in [
            "refuses the user and password",
            "-Y FILE",
            "authentication failure",
        ] {
            assert!(event.message.contains(words), "{who}: {}", event.message);
        }
        for secret in ["wrong", "geheim", "other"] {
            assert!(!event.message.contains(secret), "{}", event.message);
        }
        assert!(!bench.pool.is_up(0));
        // The next call does not ask again.
        assert_eq!(bench.get("k"), None);
    }
    // Who says nothing is refused each command by the server itself.
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        let policy = Policy {
            protocol,
            ..Policy::default()
        };
        let mut bench = over(policy, std::slice::from_ref(&address));
        assert_eq!(bench.get("k"), None);
        let message = &bench.call.events()[0].message;
        assert!(
            message.contains("memcached://USER:PASSWORD@HOST"),
            "{message}"
        );
        assert_ne!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    }
    let mut bench = one(format!("memcached://{LOGIN}@{address}"));
    assert_eq!(bench.get("k"), None);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    assert_eq!(server.stat("curr_items"), 0);
}

#[test]
fn a_password_that_nobody_asks_for_is_kept_by_no_server() {
    let (memcached, redis) = (Memcached::start(), Redis::start());
    let mut bench = one(format!("memcached://{LOGIN}@{}", memcached.address()));
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    assert_eq!(memcached.stored("~login"), None);
    assert_eq!(memcached.stat("curr_items"), 1, "only the value");
    let mut bench = one(format!("memcached://{LOGIN}@{}", redis.address()));
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    let message = &bench.call.events()[0].message;
    assert!(
        message.contains("speaks as Redis does") && !message.contains("geheim"),
        "{message}"
    );
    let keys: u64 = redis::cmd("DBSIZE").query(&mut redis.client()).unwrap();
    assert_eq!(keys, 0);
}

#[test]
fn copies_go_to_nodes_behind_a_password_and_come_back_to_them() {
    for mode in [Mode::Sync, Mode::Async] {
        let mut servers = [(); 3].map(|()| Memcached::with_logins(&[LOGIN], &[]));
        let nodes = servers
            .each_ref()
            .map(|server| format!("memcached://{LOGIN}@{}?timeout=0.4", server.address()));
        let policy = Policy {
            mode,
            copies: Some(3),
            placement: Placement::Rendezvous,
            name: format!("login-{}", mode.word()),
            ..Policy::default()
        };
        let mut bench = over(policy, &nodes);
        for key in ["a", "b", "c"] {
            assert_eq!(
                bench.store(Store::Set, key, b"v", 0),
                Outcome::Done,
                "{mode:?}"
            );
        }
        later::end();
        for server in &servers {
            assert_eq!(server.stat("curr_items"), 3, "{mode:?}");
        }
        servers[0].kill();
        for key in ["a", "b", "c"] {
            assert_eq!(bench.get(key), Some(b"v".to_vec()), "{mode:?}");
        }
        servers[0].restart();
        // A probe enters as the calls do.
        let back = wait_until(Duration::from_secs(10), || {
            for key in ["a", "b", "c", "d", "e", "f"] {
                bench.store(Store::Set, key, b"v", 0);
            }
            later::end();
            bench.pool.is_up(0)
        });
        assert!(back, "{mode:?}");
    }
}

#[test]
fn sasl_data_hold_for_all_nodes_of_the_object_and_are_shown_nowhere() {
    let servers = [(); 4].map(|()| Memcached::with_logins(&[LOGIN, "b:b"], &[]));
    let ports: Vec<String> = servers.iter().map(|s| s.port().to_string()).collect();
    let directory = TempDir::new("secrets");
    let log = directory.path().join("errors");
    let php = Php::new()
        .env("PORTS", ports.join(","))
        .ini("log_errors", 1)
        .ini("error_log", log.display());
    let output = php
        .run(
            r#"[$a, $b, $c, $d] = array_map('intval', explode(',', getenv('PORTS')));
            $m = new Memcache;
            var_dump($m->setSaslAuthData('app', ''), @$m->setSaslAuthData('app', 'ge heim'));
            $m->addServer('127.0.0.1', $a);
            var_dump(@$m->set('k', 1));
            var_dump($m->setSaslAuthData('app', 'geheim'));
            var_dump($m->set('k', 1), $m->get('k'));
            $m->addServer('127.0.0.1', $b);
            $m->addServer("memcached://b:b@127.0.0.1:$c");
            for ($i = 0; $i < 300; $i++) if (!$m->set("k$i", $i) || $m->get("k$i") !== $i) die("k$i");
            foreach ($m->getExtendedStats() as $node => $stats) echo isset($stats['pid']) ? 'in' : 'out', "\n";
            $first = new Memcache;
            memcache_set_sasl_auth_data($first, 'app', 'geheim');
            var_dump($first->connect('127.0.0.1', $d), $first->set('x', 'y'), $first->get('x'));
            $n = new Memcache; $n->addServer('127.0.0.1', $d);
            var_dump(@$n->get('x'));
            $m->setSaslAuthData('app', 'wrong');
            $told = []; set_error_handler(function ($n, $text) use (&$told) { $told[] = $text; return true; });
            for ($i = 0; $i < 300; $i++) $m->get("k$i");
            echo count($told), "\n";
            var_dump($m); print_r($m); echo serialize($m); phpinfo(); print_r(Memring\status()); echo implode("\n", $told);"#,
        );
    let text = output.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..14].join(" "),
        "bool(false) bool(false) bool(false) bool(true) bool(true) int(1) in in in bool(true) bool(true) string(1) \"y\" bool(false) 2",
        "{text}"
    );
    assert!(text.contains("refuses the user and password"), "{text}");
    assert!(!text.contains("geheim") && !text.contains("wrong"));
    secrets::not_in_the_log("geheim", &log, &output);
    secrets::not_in_the_log("wrong", &log, &output);
}

/// Two workers that use nodes `a` and `b` of a pool file, and visits to them.
struct Workers {
    directory: TempDir,
    fpm: PhpFpm,
}

impl Workers {
    fn of(file: &str) -> Workers {
        let directory = TempDir::new("rotation");
        let path = directory.file("memring.toml", file);
        let php = Php::new().ini("memring.config_file", path.display());
        let fpm = PhpFpm::with(&php, 2, "");
        fpm.page(
            "page.php",
            "$m = new Memcache; $m->addServer('pool:cache');
            for ($i = 0; $i < 40; $i++) if (!$m->set(\"k$i\", $i) || $m->get(\"k$i\") !== $i) die(\"lost k$i\");
            usleep(2000); echo getmypid();",
        );
        Workers { directory, fpm }
    }

    fn give(&self, file: &str) {
        self.directory.file("memring.toml", file);
    }

    /// So many visits at the same time; each must find what it stored.
    fn visit(&self, times: usize) {
        std::thread::scope(|scope| {
            let visits: Vec<_> = (0..times)
                .map(|_| scope.spawn(|| self.fpm.get("page.php", "", "").body))
                .collect();
            for visit in visits {
                let body = String::from_utf8_lossy(&visit.join().unwrap()).into_owned();
                assert!(body.trim().parse::<u32>().is_ok(), "{body}");
            }
        });
    }
}

#[test]
fn a_changed_password_of_the_pool_file_is_used_at_once_and_cuts_no_other_node() {
    let (mut a, b) = (
        Memcached::with_logins(&["app:old", "app:new"], &[]),
        Memcached::with_logins(&[LOGIN], &[]),
    );
    let at = (a.address(), b.address());
    let pools = |password: &str| {
        let nodes = format!(
            "\"memcached://app:{password}@{}\", \"memcached://{LOGIN}@{}\"",
            at.0, at.1
        );
        format!("[pool.cache]\nnodes = [{nodes}]\n")
    };
    let workers = Workers::of(&pools("old"));
    workers.visit(8);
    let (before_a, before_b) = (a.stat("total_connections"), b.stat("total_connections"));
    let open = a.stat("curr_connections");
    workers.give(&pools("new"));
    // Each worker enters once more, and leaves what it had. Looking at `open` was a connection, too.
    let entered = wait_until(Duration::from_secs(10), || {
        workers.visit(4);
        let asked = b.stat("total_connections") - before_b;
        a.stat("total_connections") - before_a >= asked + 3
    });
    assert!(entered, "the new password was not used");
    let left = || a.stat("curr_connections") <= open;
    let left = wait_until(Duration::from_secs(5), left);
    assert!(left, "connections made with the old password stay open");
    // The old one is not let in any more, and nobody notices.
    a.change_logins(&["app:new"]);
    workers.visit(8);
}

/// A Redis leaves who is in where he is when his password goes, so the old one is used for nothing new.
#[test]
fn a_changed_password_of_a_redis_in_the_pool_file_is_used_at_once_and_cuts_no_other_node() {
    let allowed = ["~*", "+@all"];
    let user =
        |passwords: &[&'static str]| [&["--user", "app", "on"], passwords, &allowed].concat();
    let (a, b) = (
        Redis::with(&user(&[">old", ">new"])),
        Redis::with(&user(&[">geheim"])),
    );
    let pools = |password: &str| {
        let (a, b) = (a.address(), b.address());
        let nodes = format!("\"redis://app:{password}@{a}\", \"redis://{LOGIN}@{b}\"");
        format!("[pool.cache]\nnodes = [{nodes}]\n")
    };
    let workers = Workers::of(&pools("old"));
    workers.visit(8);
    // One connection for all looks.
    let (mut eye, mut other) = (a.client(), b.client());
    let count = |eye: &mut redis::Connection, name: &str| -> u64 {
        let text: String = redis::cmd("INFO").query(eye).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap()
            .trim_start_matches(':')
            .trim()
            .parse()
            .unwrap()
    };
    let made = "total_connections_received";
    let before = [count(&mut eye, made), count(&mut other, made)];
    let open = count(&mut eye, "connected_clients");
    workers.give(&pools("new"));
    let entered = wait_until(Duration::from_secs(10), || {
        workers.visit(4);
        count(&mut eye, made) >= before[0] + 2
    });
    assert!(entered, "the new password was not used");
    assert_eq!(
        count(&mut other, made),
        before[1],
        "the other node was left"
    );
    let left = wait_until(Duration::from_secs(5), || {
        count(&mut eye, "connected_clients") <= open
    });
    assert!(left, "connections made with the old password stay open");
    for words in [
        &["ACL", "SETUSER", "app", "<old"][..],
        &["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"],
    ] {
        let command = redis::cmd(words[0]).arg(&words[1..]).exec(&mut eye);
        command.unwrap();
    }
    // What was used a moment ago (5 ms) is not asked whether it is still open.
    std::thread::sleep(Duration::from_millis(30));
    workers.visit(8);
}
