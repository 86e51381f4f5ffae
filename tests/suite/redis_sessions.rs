//! Sessions on Redis nodes, from PHP: stored as they are, one request at a time, and never over a later one.

use crate::sessions::with_sessions;
use harness::{Php, Proxy, Redis, wait_until};
use redis::Commands;
use std::time::Duration;

/// Counts in the session `s`.
const COUNT: &str = "session_id('s'); var_dump(session_start()); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";

/// PHP with sessions there, under each of our handlers.
fn both(node: &str) -> [Php; 2] {
    let single = if node.contains('?') {
        "&mode=single"
    } else {
        "?mode=single"
    };
    [
        with_sessions(Php::new(), node),
        with_sessions(Php::new(), &format!("{node}{single}"))
            .ini("session.save_handler", "memring"),
    ]
}

#[test]
fn a_session_lies_in_redis_as_php_wrote_it_and_ends_with_its_life() {
    let server = Redis::start();
    let mut client = server.client();
    for php in both(&format!("redis://{}", server.address())) {
        let php = php.ini("session.gc_maxlifetime", 500);
        let _: () = redis::cmd("FLUSHALL").query(&mut client).unwrap();
        assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
        assert_eq!(php.run(COUNT).ok(), "bool(true)\n2");
        let stored: String = client.get("s").unwrap();
        assert_eq!(stored, "n|i:2;");
        let left: i64 = client.ttl("s").unwrap();
        assert!((400..=500).contains(&left), "{left}");
        // An unchanged one lives on, a destroyed one does not.
        let _: () = client.expire("s", 50).unwrap();
        php.run("session_id('s'); session_start();").ok();
        let left: i64 = client.ttl("s").unwrap();
        assert!((400..=500).contains(&left), "{left}");
        php.run("session_id('s'); session_start(); session_destroy();")
            .ok();
        let keys: u64 = redis::cmd("DBSIZE").query(&mut client).unwrap();
        assert_eq!(keys, 0, "a session or a turn was left");
        // Who wrote it matters not.
        let _: () = client.set("s", "n|i:41;").unwrap();
        assert_eq!(php.run(COUNT).ok(), "bool(true)\n42");
    }
}

#[test]
fn a_session_is_behind_its_password_in_its_database() {
    let server = Redis::with(&["--requirepass", "x"]);
    for php in both(&format!("redis://:x@{}/4", server.address())) {
        let php = php.ini("display_errors", 0);
        php.run("session_id('s'); session_start(); $_SESSION['n'] = 6;")
            .ok();
        let mut client = server.client_as(":x@");
        let _: () = redis::cmd("SELECT").arg(4).query(&mut client).unwrap();
        assert_eq!(client.get::<_, String>("s").unwrap(), "n|i:6;");
    }
    let wrong = with_sessions(Php::new(), &format!("redis://:y@{}", server.address()));
    let text = wrong
        .run("session_id('s'); var_dump(session_start());")
        .text();
    assert!(
        text.contains("refuses the password") && text.contains("bool(false)"),
        "{text}"
    );
}

#[test]
fn a_session_costs_one_trip_to_open_and_one_to_close() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port());
    for php in both(&format!("redis://127.0.0.1:{}", proxy.port())) {
        for page in [
            "session_id('s'); session_start(); $_SESSION['n'] = rand();",
            "session_id('s'); session_start();",
            "session_id('s'); session_start(); session_abort();",
            "session_id('s'); session_start(); session_destroy();",
        ] {
            proxy.clear();
            php.run(page).ok();
            let (count, said) = crate::session::trips(&proxy);
            assert_eq!(count, 2, "{page}: {said:?}");
        }
    }
}

#[test]
fn after_every_ending_the_turn_is_given_back() {
    let server = Redis::start();
    let mut client = server.client();
    for php in both(&format!("redis://{}", server.address())) {
        let php = php.ini("display_errors", 0);
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
            let held: bool = client.exists("s_LOCK").unwrap();
            assert!(!held, "after {ending}");
        }
    }
}

#[test]
fn two_requests_of_one_session_come_one_after_the_other() {
    let server = Redis::start();
    for php in both(&format!("redis://{}", server.address())) {
        let _: () = redis::cmd("FLUSHALL").query(&mut server.client()).unwrap();
        let add = "session_id('s'); session_start(); $n = $_SESSION['n'] ?? 0; usleep(20000); $_SESSION['n'] = $n + 1;";
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| php.run(add).ok());
            }
        });
        assert_eq!(server.client().get::<_, String>("s").unwrap(), "n|i:8;");
    }
}

#[test]
fn a_turn_that_a_worker_left_is_not_waited_for_by_itself_but_by_its_child() {
    let server = Redis::start();
    // As a Redis does that became the master without having heard the end of a visit.
    let left = r#"
        $redis = stream_socket_client('tcp://' . getenv('NODE'));
        $say = function ($words) use ($redis) { fwrite($redis, "$words\r\n"); return trim(fgets($redis)); };
        session_id('s'); session_start(); $_SESSION['n'] = 1;
        $say('GET s_LOCK'); $turn = trim(fgets($redis));
        session_write_close();
        echo $say('EXISTS s_LOCK'), $say("SET s_LOCK $turn EX 600"), ' ';
        if (!$child = pcntl_fork()) { echo @session_start() ? 'in ' : 'out '; exit; }
        pcntl_waitpid($child, $status);
        echo session_start() ? 'in ' : 'out ', $_SESSION['n'];
        $say('GET s_LOCK'); echo trim(fgets($redis)) === $turn ? ' the same' : ' another';"#;
    for php in both(&format!("redis://{}", server.address())) {
        let php = php
            .ini("memcache.lock_timeout", 1)
            .env("NODE", server.address());
        assert_eq!(php.run(left).ok(), ":0+OK out in 1 another");
        assert!(!server.client().exists::<_, bool>("s_LOCK").unwrap());
    }
}

#[test]
fn whose_turn_was_taken_over_does_not_overwrite_the_later_request() {
    let server = Redis::start();
    for php in both(&format!("redis://{}", server.address())) {
        let mut client = server.client();
        let _: () = redis::cmd("FLUSHALL").query(&mut client).unwrap();
        let php = php.ini("memcache.lock_timeout", 1);
        std::thread::scope(|scope| {
            let late = scope.spawn(|| {
                php.run("session_id('s'); session_start(); $_SESSION['n'] = 'late'; sleep(4);")
                    .text()
            });
            let begun = wait_until(Duration::from_secs(10), || {
                server.client().exists::<_, bool>("s_LOCK").unwrap()
            });
            assert!(begun, "the first request did not begin");
            // It waits until the first one's turn is over, and then has it for as long as it likes.
            let next =
                php.run("session_id('s'); var_dump(session_start()); $_SESSION['n'] = 'next';");
            assert_eq!(next.ok(), "bool(true)");
            let holder = "session_id('s'); session_start(); $_SESSION['n'] = 'last'; sleep(1);";
            let last = scope.spawn(|| {
                php.clone()
                    .ini("memcache.lock_timeout", 20)
                    .run(holder)
                    .text()
            });
            assert_eq!(last.join().unwrap(), "");
            // Nobody has the turn now, and nobody else had it when the late one looks.
            let text = late.join().unwrap();
            assert!(text.contains("another request has it"), "{text}");
            assert!(text.contains("memcache.lock_timeout"), "{text}");
        });
        assert_eq!(client.get::<_, String>("s").unwrap(), "n|s:4:\"last\";");
    }
}

#[test]
fn who_logged_out_while_a_late_request_ran_stays_logged_out() {
    let server = Redis::start();
    for php in both(&format!("redis://{}", server.address())) {
        let php = php.ini("memcache.lock_timeout", 1).ini("display_errors", 0);
        for change in ["$_SESSION['n'] = 'late';", ""] {
            let mut client = server.client();
            let _: () = client.set("s", "n|i:1;").unwrap();
            let page = format!("session_id('s'); session_start(); {change} sleep(3);");
            std::thread::scope(|scope| {
                let late = scope.spawn(|| php.run(&page));
                let begun = wait_until(Duration::from_secs(10), || {
                    server.client().exists::<_, bool>("s_LOCK").unwrap()
                });
                assert!(begun, "the first request did not begin");
                let out = php.run("session_id('s'); session_start(); var_dump($_SESSION['n'], session_destroy());");
                assert_eq!(out.ok(), "int(1)\nbool(true)");
                late.join().unwrap();
            });
            assert!(
                !client.exists::<_, bool>("s").unwrap(),
                "alive again: {change:?}"
            );
        }
    }
}

#[test]
fn a_read_that_is_refused_is_no_new_session() {
    let server = Redis::with(&["--user", "app", "on", "nopass", "~*", "+@all", "-get"]);
    let mut client = server.client();
    let _: () = client.set("s", "n|i:41;").unwrap();
    let _: () = client.rpush("list", "somebody else's").unwrap();
    for (user, id) in [("app:x", "s"), ("default:x", "list")] {
        for php in both(&format!("redis://{user}@{}", server.address())) {
            for (strict, closed) in [(0, false), (1, false), (0, true), (1, true)] {
                let php = php.clone().ini("session.use_strict_mode", strict);
                let options = if closed {
                    "['read_and_close' => true]"
                } else {
                    "[]"
                };
                let text = php
                    .run(&format!("session_id('{id}'); var_dump(session_start({options})); $_SESSION['n'] = 1;"))
                    .text();
                assert!(
                    text.contains("bool(false)"),
                    "{id} {strict} {closed}: {text}"
                );
                assert!(text.contains("nothing is overwritten"), "{text}");
                let held: bool = client.exists(format!("{id}_LOCK")).unwrap();
                assert!(!held, "{id}: the turn was left");
            }
        }
    }
    assert_eq!(client.get::<_, String>("s").unwrap(), "n|i:41;");
    assert_eq!(client.llen::<_, u32>("list").unwrap(), 1);
}

#[test]
fn what_a_server_refuses_at_the_end_is_told_and_leaves_no_turn() {
    let server = Redis::with(&["--user", "app", "on", "nopass", "~*", "+@all", "-del"]);
    let mut client = server.client();
    for php in both(&format!("redis://app:x@{}", server.address())) {
        let _: () = client.set("s", "n|i:1;").unwrap();
        let text = php
            .run("session_id('s'); session_start(); var_dump(session_destroy());")
            .text();
        assert!(text.contains("bool(false)"), "{text}");
        assert!(client.exists::<_, bool>("s").unwrap());
        let _: () = client.del("s_LOCK").unwrap();
    }
    let full = "session_id('s'); session_start(); $_SESSION['n'] = 2; $s = stream_socket_client(getenv('NODE')); fwrite($s, \"CONFIG SET maxmemory 1kb\\r\\n\"); echo fgets($s);";
    for php in both(&format!("redis://{}", server.address())) {
        let text = php
            .env("NODE", format!("tcp://{}", server.address()))
            .run(full)
            .text();
        let _: () = redis::cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory")
            .arg(0)
            .query(&mut client)
            .unwrap();
        assert!(
            text.contains("+OK") && text.contains("could not be stored"),
            "{text}"
        );
        assert!(
            !client.exists::<_, bool>("s_LOCK").unwrap(),
            "the turn was left"
        );
        assert_eq!(client.get::<_, String>("s").unwrap(), "n|i:1;");
    }
}

#[test]
fn a_copy_does_not_go_ahead_of_the_node_that_has_the_turn() {
    let servers = [Redis::start(), Redis::start()];
    let list = servers
        .each_ref()
        .map(|server| format!("redis://{}", server.address()))
        .join(",");
    let php = with_sessions(Php::new(), &list).env("NODES", &list);
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
        .ok();
    let kept = |server: &Redis| server.client().get::<_, String>("s").unwrap();
    assert_eq!(servers.each_ref().map(kept), ["n|i:1;", "n|i:1;"]);
    // The node that has the turn takes nothing more from the middle of the request on.
    let page = "session_id('s'); session_start(); $_SESSION['n'] = 2;
        foreach (explode(',', getenv('NODES')) as $node) {
            $s = stream_socket_client(str_replace('redis:', 'tcp:', $node));
            fwrite($s, \"EXISTS s_LOCK\\r\\n\");
            if (fgets($s) === \":1\\r\\n\") { fwrite($s, \"CONFIG SET maxmemory 1kb\\r\\n\"); echo fgets($s); }
        }";
    let text = php.run(page).text();
    assert!(
        text.contains("+OK") && text.contains("could not be stored"),
        "{text}"
    );
    assert_eq!(servers.each_ref().map(kept), ["n|i:1;", "n|i:1;"]);
    for server in &servers {
        assert!(!server.client().exists::<_, bool>("s_LOCK").unwrap());
    }
}

#[test]
fn ids_and_data_of_any_length_lie_under_their_own_key_as_they_are() {
    let server = Redis::start();
    let mut client = server.client();
    for php in both(&format!(
        "redis://{}?prefix=PHPREDIS_SESSION:",
        server.address()
    )) {
        for length in [1, 233, 256] {
            let id = "i".repeat(length);
            let big = format!("b|s:60000:\"{}\";", "b".repeat(60_000));
            let _: () = client.set(format!("PHPREDIS_SESSION:{id}"), &big).unwrap();
            let page = format!(
                "session_id('{id}'); session_start(); echo strlen($_SESSION['b']); $_SESSION['b'] .= 'c';"
            );
            assert_eq!(php.run(&page).ok(), "60000");
            let stored: String = client.get(format!("PHPREDIS_SESSION:{id}")).unwrap();
            assert_eq!(stored, format!("b|s:60001:\"{}c\";", "b".repeat(60_000)));
        }
        // Longer than any second since 1970 can say.
        let php = php.ini("session.gc_maxlifetime", 3_000_000_000_u32);
        php.run("session_id('long'); session_start(); $_SESSION['n'] = 1;")
            .ok();
        let left: i64 = client.ttl("PHPREDIS_SESSION:long").unwrap();
        assert!(left > 2_999_999_000, "{left}");
    }
}

#[test]
fn two_redis_nodes_keep_copies_of_sessions_and_none_in_a_mode_of_caches() {
    let servers = [Redis::start(), Redis::start()];
    let list = servers
        .each_ref()
        .map(|s| format!("redis://{}", s.address()))
        .join(",");
    let php = with_sessions(Php::new(), &list).ini("session.save_handler", "memring");
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
    for server in &servers {
        let stored: String = server.client().hget("s", "d").unwrap();
        assert_eq!(stored, "n|i:1;");
        let _: () = redis::cmd("FLUSHALL").query(&mut server.client()).unwrap();
    }
    for mode in ["sync", "async"] {
        let list = list.replacen(',', &format!("?mode={mode},"), 1);
        let text = with_sessions(Php::new(), &list).run(COUNT).text();
        let wanted = format!("mode {mode} is for caches");
        assert!(text.contains(&wanted), "{text}");
        assert!(text.contains("fenced"), "{text}");
    }
    for server in &servers {
        let keys: u64 = redis::cmd("DBSIZE").query(&mut server.client()).unwrap();
        assert_eq!(keys, 0);
    }
}

/// phpredis with its sessions there, locking as it can; `None` where it is not installed.
pub(crate) fn phpredis(list: &str) -> Option<Php> {
    let php = Php::bare().extension("igbinary").extension("redis");
    if php
        .run("echo phpversion('redis');")
        .text()
        .contains("Warning")
    {
        harness::skip("phpredis is not installed (package php-redis)");
        return None;
    }
    Some(
        with_sessions(php, list)
            .ini("session.save_handler", "redis")
            .ini("redis.session.locking_enabled", 1)
            .ini("redis.session.lock_retries", 1000),
    )
}

#[test]
fn sessions_of_phpredis_go_on_here_and_back_there() {
    let server = Redis::with(&["--requirepass", "p w"]);
    let list = format!(
        "tcp://{}?auth=p+w&database=2&prefix=PHPREDIS_SESSION:",
        server.address()
    );
    let Some(theirs) = phpredis(&list) else {
        return;
    };
    let ours = both(&list).map(|php| php.ini("display_errors", "stderr"));
    let [one, other] = &ours;
    // A thousand visitors, each host in turn: theirs, ours, theirs.
    let visit = "for ($i = 0; $i < 1000; $i++) { session_id(\"visitor$i\"); session_start(); echo $_SESSION['n'] ?? 0, ' '; $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; $_SESSION['name'] = str_repeat(\"v$i\", $i % 100 ? 1 : 9000); session_write_close(); }";
    for (host, php) in [&theirs, one, &theirs, other, &theirs]
        .into_iter()
        .enumerate()
    {
        let seen = php.run(visit).ok();
        assert_eq!(
            seen.trim(),
            vec![host.to_string(); 1000].join(" "),
            "host {host}"
        );
    }
    // Then two hosts at the same time: one is slow, the other catches up with it again and again, and waits for it.
    let visit = visit.replace(
        "echo $_SESSION",
        "usleep((int) getenv('SLOW')); echo $_SESSION",
    );
    for (round, ours) in ours.iter().enumerate() {
        std::thread::scope(|scope| {
            for (host, php) in [&theirs, ours].into_iter().enumerate() {
                let php = php
                    .clone()
                    .env("SLOW", if host == round { 1000 } else { 0 });
                let visit = &visit;
                scope.spawn(move || {
                    let first = 5 + 2 * round;
                    let known = [first.to_string(), (first + 1).to_string()];
                    let seen = php.run(visit).ok();
                    let others = seen.split(' ').filter(|n| !known.iter().any(|k| k == n));
                    assert_eq!(others.count(), 0, "host {host}: {seen}");
                });
            }
        });
    }
    let all = "for ($i = 0; $i < 1000; $i++) { session_id(\"visitor$i\"); session_start(['read_and_close' => true]); echo $_SESSION['n']; }";
    assert_eq!(theirs.run(all).ok(), "9".repeat(1000));
    let mut client = server.client_as(":p%20w@");
    let _: () = redis::cmd("SELECT").arg(2).query(&mut client).unwrap();
    let stored: String = client.get("PHPREDIS_SESSION:visitor999").unwrap();
    assert_eq!(stored, "n|i:9;name|s:4:\"v999\";");
    let keys: u64 = redis::cmd("DBSIZE").query(&mut client).unwrap();
    assert_eq!(keys, 1000, "a lock or a copy was left");
}

#[test]
fn a_request_of_phpredis_and_one_of_ours_wait_for_each_other() {
    let server = Redis::start();
    let list = format!(
        "tcp://{}?database=0&prefix=PHPREDIS_SESSION:",
        server.address()
    );
    let Some(theirs) = phpredis(&list) else {
        return;
    };
    for ours in both(&list) {
        let _: () = redis::cmd("FLUSHALL").query(&mut server.client()).unwrap();
        let add = "session_id('s'); session_start(); $n = $_SESSION['n'] ?? 0; usleep(20000); $_SESSION['n'] = $n + 1;";
        std::thread::scope(|scope| {
            for php in [&theirs, &ours, &theirs, &ours, &theirs, &ours] {
                scope.spawn(|| assert_eq!(php.run(add).ok(), ""));
            }
        });
        let stored: String = server.client().get("PHPREDIS_SESSION:s").unwrap();
        assert_eq!(stored, "n|i:6;");
    }
}

#[test]
fn sessions_of_phpredis_are_found_on_the_host_where_it_keeps_them() {
    let servers = [(); 3].map(|()| Redis::start());
    let host = |(number, server): (usize, &Redis)| {
        format!(
            "tcp://{}?weight={}&database=0&prefix=PHPREDIS_SESSION:",
            server.address(),
            number + 1
        )
    };
    let list = servers
        .iter()
        .enumerate()
        .map(host)
        .collect::<Vec<_>>()
        .join(",");
    let Some(theirs) = phpredis(&list) else {
        return;
    };
    // With several hosts its locks are given back on another one, and stay (phpredis #1422).
    let theirs = theirs.ini("redis.session.locking_enabled", 0);
    // Made by PHP, as visitors' are; each host reads the names from a file.
    let directory = harness::TempDir::new("visitors");
    let names = directory.path().join("names");
    theirs
        .run(&format!(
            "for ($i = 0; $i < 1000; $i++) {{ $ids[] = $id = session_create_id(); }} file_put_contents('{}', implode(\"\\n\", $ids));",
            names.display()
        ))
        .ok();
    let visit = format!(
        "foreach (file('{}', FILE_IGNORE_NEW_LINES) as $i => $id) {{ if ($i % 2 != getenv('HALF')) continue; session_id($id); session_start(); echo $_SESSION['n'] ?? 0; $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close(); }}",
        names.display()
    );
    let nodes = list
        .replace("tcp://", "redis://")
        .replace("&database=0&prefix=PHPREDIS_SESSION:", "");
    let file = directory.file(
        "pools.toml",
        format!(
            "[pool.web]\nnodes = [\"{}\"]\nplacement = \"phpredis\"\nkey_prefix = \"PHPREDIS_SESSION:\"\nmode = \"single\"\n",
            nodes.replace(',', "\", \"")
        ),
    );
    let pool = with_sessions(Php::new(), "pool:web").ini("memring.config_file", file.display());
    let unsaid = format!("{list}&placement=phpredis");
    let refused = with_sessions(Php::new(), &unsaid).ini("session.save_handler", "memring");
    let text = refused.run("session_id('s'); session_start();").text();
    assert!(text.contains("\"phpredis\" is for mode single"), "{text}");
    let listed = format!("{list}&placement=phpredis&mode=single");
    let ours = [
        pool.clone(),
        pool.ini("session.save_handler", "memring"),
        with_sessions(Php::new(), &listed).ini("session.save_handler", "memring"),
    ];
    // Without locks two visits of one session may not meet: at each step both hosts visit at the same time, each the
    // half that the other had before.
    for step in 0..2 * ours.len() {
        std::thread::scope(|scope| {
            for (host, php) in [&theirs, &ours[step / 2]].into_iter().enumerate() {
                let php = php.clone().env("HALF", (step + host) % 2);
                let visit = &visit;
                scope.spawn(move || {
                    assert_eq!(
                        php.run(visit).ok(),
                        step.to_string().repeat(500),
                        "host {host}"
                    );
                });
            }
        });
    }
    let keys = servers
        .each_ref()
        .map(|server| -> u64 { redis::cmd("DBSIZE").query(&mut server.client()).unwrap() });
    assert_eq!(keys.iter().sum::<u64>(), 1000, "{keys:?}");
    assert!(keys.iter().all(|count| *count > 60), "{keys:?}");
}
