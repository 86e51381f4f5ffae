//! The nodes behind a session: copies, their life and loss, and what a save_path, the pool file and the settings
//! do to them.

use crate::session::{to, trips, turn};
use crate::sessions::{path, php};
use harness::{Act, Hostile, Memcached, PhpFpm, Proxy, TempDir, wait_until};
use std::time::{Duration, Instant};

/// The seconds `key` has left, and its cas number, which changes when it is stored again.
fn life(server: &Memcached, key: &str) -> Option<(i64, u64)> {
    let line = String::from_utf8(server.raw(format!("mg {key} t c\r\n"), "\r\n")).unwrap();
    let mut words = line.trim().strip_prefix("HD ")?.split(' ');
    let left = words.next()?.strip_prefix('t')?.parse().unwrap();
    Some((left, words.next()?.strip_prefix('c')?.parse().unwrap()))
}

#[test]
fn two_copies_cost_no_trip_more_than_one() {
    let servers = [Memcached::start(), Memcached::start()];
    let proxies = [
        Proxy::start(servers[0].port()),
        Proxy::start(servers[1].port()),
    ];
    let list = format!(
        "{}, {}",
        to(proxies[0].port(), ""),
        to(proxies[1].port(), "")
    );
    let php = php(&list);
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
        .ok();
    for page in ["$_SESSION['n']++;", ""] {
        proxies.iter().for_each(Proxy::clear);
        php.run(&format!("session_id('s'); session_start(); {page}"))
            .ok();
        let counts: Vec<usize> = proxies.iter().map(|proxy| trips(proxy).0).collect();
        // One node is asked and told; the other is told at the same time.
        assert_eq!(counts.iter().sum::<usize>(), 3, "{counts:?} with {page:?}");
    }
    let stored = servers.iter().map(|server| server.stored("s"));
    assert!(
        stored
            .into_iter()
            .all(|copy| copy == Some((0, b"n|i:2;".to_vec())))
    );
}

#[test]
fn an_unchanged_session_lives_on_at_every_copy_and_returns_to_one_that_lost_it() {
    let servers = [Memcached::start(), Memcached::start()];
    let php = php(&format!("{}, {}", path(&servers[0]), path(&servers[1])));
    php.clone()
        .ini("session.gc_maxlifetime", 50)
        .run("session_id('s'); session_start(); $_SESSION['n'] = 7;")
        .ok();
    let before: Vec<u64> = servers.iter().map(|s| life(s, "s").unwrap().1).collect();
    let php = php.ini("session.gc_maxlifetime", 5000);
    php.run("session_id('s'); session_start();").ok();
    for (server, cas) in servers.iter().zip(before) {
        let (left, now) = life(server, "s").unwrap();
        assert!(left > 4000, "{left} s left");
        assert_eq!(now, cas, "stored again without need");
    }
    for lost in &servers {
        lost.raw("flush_all\r\n", "OK\r\n");
        // A server that was flushed in this second refuses what is stored in it.
        assert!(wait_until(Duration::from_secs(5), || {
            lost.raw("set probe 0 0 1\r\n1\r\n", "STORED\r\n");
            lost.stored("probe").is_some()
        }));
        assert_eq!(
            php.run("session_id('s'); session_start(); echo $_SESSION['n'];")
                .ok(),
            "7"
        );
        assert_eq!(lost.stored("s"), Some((0, b"n|i:7;".to_vec())));
        for server in &servers {
            assert_eq!(turn(server, "s").as_deref(), Some("0"));
        }
    }
}

#[test]
fn a_copy_that_was_missed_at_the_start_is_stored_with_the_turn_still_held() {
    let servers = [Memcached::start(), Memcached::start()];
    let proxies = servers.each_ref().map(|server| Proxy::start(server.port()));
    let list = proxies.each_ref().map(|proxy| to(proxy.port(), ""));
    let php = php(&list.join(", "));
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 7;")
        .ok();
    for at in 0..2 {
        servers[at].raw("delete s\r\n", "DELETED\r\n");
        proxies.iter().for_each(Proxy::clear);
        php.run("session_id('s'); session_start();").ok();
        assert_eq!(servers[at].stored("s"), Some((0, b"n|i:7;".to_vec())));
        let said: Vec<Vec<String>> = proxies.iter().map(|proxy| trips(proxy).1).collect();
        let asked_first = said[at]
            .first()
            .is_some_and(|line| line.starts_with("incr"));
        let touched = said.iter().flatten().any(|line| line.starts_with("touch"));
        // The copy asked first was missed at the start; the other one is found missing by the touch.
        assert_eq!(touched, !asked_first, "{said:?}");
    }
}

#[test]
fn without_lazy_write_an_unchanged_session_is_stored_again() {
    let server = Memcached::start();
    let php = php(&path(&server)).ini("session.lazy_write", 0);
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 7;")
        .ok();
    let (_, before) = life(&server, "s").unwrap();
    php.run("session_id('s'); session_start();").ok();
    assert_ne!(life(&server, "s").unwrap().1, before);
}

#[test]
fn a_session_lives_as_long_as_gc_maxlifetime_says() {
    let server = Memcached::start();
    let php = php(&path(&server));
    for seconds in [3, 1440, 2_592_001, 100_000_000] {
        php.clone()
            .ini("session.gc_maxlifetime", seconds)
            .run("session_id('s'); session_start(); $_SESSION['n'] = rand();")
            .ok();
        let (left, _) = life(&server, "s").unwrap();
        assert!(
            (seconds - 2..=seconds + 2).contains(&left),
            "{left} of {seconds} s"
        );
    }
    let text = php
        .ini("session.gc_maxlifetime", 1)
        .env("PORT", server.port())
        .run(
            "session_id('t'); session_start(); $_SESSION['n'] = 1; session_write_close();\n\
             $m = new Memcache; $m->addServer('127.0.0.1', getenv('PORT'));\n\
             for ($i = 0; $i < 500 && $m->get('t') !== false; $i++) usleep(10000);\n\
             session_id('t'); session_start(); echo json_encode($_SESSION), session_gc();",
        );
    assert_eq!(text.ok(), "[]0");
}

#[test]
fn an_unknown_id_is_served_by_the_copy_that_is_left() {
    // One copy says that there is no such session, the other says nothing: as with the original, visitors with an
    // old cookie must not be locked out for as long as a node is away.
    for (strict, kept) in [(0, "kept"), (1, "replaced")] {
        let mut servers = [Memcached::start(), Memcached::start()];
        servers[strict].kill();
        let text = php(&format!("{}, {}", path(&servers[0]), path(&servers[1])))
            .ini("session.use_strict_mode", strict)
            .run("session_id('old'); echo json_encode([session_start(), $_SESSION]), session_id() === 'old' ? 'kept' : 'replaced'; $_SESSION['n'] = 1;")
            .ok();
        assert_eq!(text, format!("[true,[]]{kept}"));
        // Where no copy is left, nobody can say, and nothing is begun.
        servers[1 - strict].kill();
        let text = php(&format!("{}, {}", path(&servers[0]), path(&servers[1])))
            .ini("session.use_strict_mode", strict)
            .ini("display_errors", 0)
            .run("session_id('old'); echo json_encode(session_start());")
            .ok();
        assert_eq!(text, "false");
    }
}

#[test]
fn every_session_is_read_when_any_one_of_three_nodes_is_gone() {
    let mut servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let list = servers.iter().map(path).collect::<Vec<_>>().join(", ");
    let php = php(&list)
        .ini("memcache.session_redundancy", 2)
        .ini("memring.shared", "off") // or the node would be left alone after it is back
        .ini("display_errors", 0);
    let all = |script: &str| {
        format!(
            "for ($i = 0; $i < 60; $i++) {{ session_id(\"s$i\"); session_start(); {script} session_write_close(); }}"
        )
    };
    php.run(&all("$_SESSION['n'] = $i;")).ok();
    for lost in &mut servers {
        lost.kill();
        let text = php
            .run(&format!(
                "$bad = 0; {} echo $bad;",
                all("$bad += ($_SESSION['n'] ?? -1) !== $i; $_SESSION['m'] = 1;")
            ))
            .ok();
        assert_eq!(text, "0", "sessions lost with node {}", lost.port());
        // Back empty: an unchanged session repairs it.
        lost.restart();
        php.run(&all("")).ok();
    }
}

#[test]
fn large_sessions_are_compressed_and_small_ones_are_not() {
    let server = Memcached::start();
    let text = php(&path(&server)).run(
        "foreach ([19985, 20000, 500000] as $n) { session_id(\"s$n\"); session_start(); $_SESSION['x'] = str_repeat('a', $n); session_write_close();\n\
         session_id(\"s$n\"); session_start(); echo strlen($_SESSION['x']), ' '; session_write_close(); }",
    );
    assert_eq!(text.ok(), "19985 20000 500000");
    for (id, flags) in [("s19985", 0), ("s20000", 2), ("s500000", 2)] {
        let (stored, bytes) = server.stored(id).unwrap();
        assert_eq!((stored, bytes.len() < 2000), (flags, flags == 2), "{id}");
    }
}

#[test]
fn a_session_too_large_for_the_server_warns_and_gives_the_turn_back() {
    let server = Memcached::start();
    let text = php(&path(&server))
        .run("session_id('s'); session_start(); $_SESSION['x'] = base64_encode(random_bytes(2000000)); var_dump(session_write_close());")
        .ok();
    assert!(
        text.contains("the session could not be stored: ") && text.contains("-I"),
        "{text}"
    );
    assert_eq!(turn(&server, "s").as_deref(), Some("0"));
}

#[test]
fn an_idle_connection_the_server_closed_costs_no_session() {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let fpm = PhpFpm::start(
        1,
        &format!(
            "php_admin_value[session.save_handler] = memcache\nphp_admin_value[session.save_path] = \"{}\"\n",
            to(proxy.port(), "?persistent=1")
        ),
    );
    fpm.page(
        "count.php",
        "session_id('s'); session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;",
    );
    for n in 1..=5 {
        assert_eq!(fpm.get("count.php", "", "").text(), n.to_string());
        proxy.cut();
    }
    assert!(proxy.connections() >= 5);
}

#[test]
fn a_connection_that_ends_at_the_question_is_opened_again() {
    // The first connection serves one session and ends without a word at the next question.
    let server = Hostile::start(|request| {
        if request.connection == 0 && request.number >= 5 {
            return vec![Act::Close];
        }
        let answer = match request.verb() {
            "incr" => "NOT_FOUND\r\n",
            "add" | "set" => "STORED\r\n",
            _ => "END\r\n",
        };
        vec![Act::say(answer)]
    });
    let text = php(&to(server.port(), "?persistent=1"))
        .run("foreach (['a', 'b'] as $id) { session_id($id); var_dump(session_start()); $_SESSION['n'] = 1; var_dump(session_write_close()); }")
        .ok();
    assert_eq!(text, ["bool(true)"; 4].join("\n"));
    assert_eq!(server.connections(), 2);
}

#[test]
fn a_node_that_hangs_at_the_write_costs_one_timeout() {
    let server = Memcached::start();
    let php = php(&to(server.port(), "?timeout=0.5")).ini("display_errors", 0);
    let files = TempDir::new("hang");
    let (ready, go) = (files.path().join("ready"), files.path().join("go"));
    let running = php
        .env("READY", ready.display())
        .env("GO", go.display())
        .start(
            "session_id('h'); session_start(); $_SESSION['n'] = 1; touch(getenv('READY')); while (!file_exists(getenv('GO'))) { usleep(1000); clearstatcache(); }\n\
             $t = microtime(true); @session_write_close(); echo error_get_last()['message'], \"\\n\", microtime(true) - $t;",
        );
    assert!(wait_until(Duration::from_secs(10), || ready.exists()));
    server.freeze();
    files.file("go", "");
    let text = running.finish().ok();
    server.resume();
    let (told, took) = text.rsplit_once('\n').unwrap();
    assert!(told.contains("Failed to write session data"), "{told}");
    let took: f64 = took.parse().unwrap();
    assert!(
        (0.4..0.9).contains(&took),
        "{took} s for a timeout of 0.5 s"
    );
}

#[test]
fn a_failed_node_is_asked_again_after_its_retry_interval() {
    for (interval, back) in [(1, true), (60, false)] {
        let mut server = Memcached::start();
        let php = php(&to(server.port(), &format!("?retry_interval={interval}")))
            .ini("display_errors", 0);
        let start = |script: &str| {
            php.run(&format!(
                "session_id('s'); var_dump(session_start()); {script}"
            ))
            .ok()
        };
        server.kill();
        assert_eq!(start(""), "bool(false)");
        server.restart();
        let since = Instant::now();
        assert_eq!(
            start(""),
            "bool(false)",
            "asked before its interval of {interval} s"
        );
        let came = wait_until(Duration::from_secs(4), || start("") == "bool(true)");
        assert_eq!(came, back, "retry_interval={interval}");
        assert!(!back || since.elapsed() > Duration::from_millis(500));
    }
}

#[test]
fn a_heavier_node_gets_more_sessions() {
    let servers = [Memcached::start(), Memcached::start()];
    let list = format!(
        "{}, {}",
        to(servers[0].port(), "?weight=1"),
        to(servers[1].port(), "?weight=9")
    );
    php(&list)
        .ini("memcache.session_redundancy", 1)
        .run("for ($i = 0; $i < 200; $i++) { session_id(\"s$i\"); session_start(); $_SESSION['n'] = $i; session_write_close(); }")
        .ok();
    let count = |server: &Memcached| {
        (0..200)
            .filter(|i| server.stored(&format!("s{i}")).is_some())
            .count()
    };
    let (light, heavy) = (count(&servers[0]), count(&servers[1]));
    assert_eq!(light + heavy, 200);
    assert!(
        (5..60).contains(&light),
        "{light} sessions on the node of weight 1"
    );
}

#[test]
fn numbers_of_a_save_path_are_read_as_php_reads_them_and_the_log_says_so() {
    let server = Memcached::start();
    let log = TempDir::new("log");
    let file = log.path().join("php.log");
    let text = php(&format!(
        "{}?retry_interval=0;tcp://127.0.0.1:1",
        path(&server)
    ))
    .ini("log_errors", 1)
    .ini("error_log", file.display())
    .run("session_id('s'); var_dump(session_start());");
    assert_eq!(text.ok(), "bool(true)");
    let told = std::fs::read_to_string(&file).unwrap_or_default();
    for wanted in [
        "retry_interval",
        "0;tcp://127.0.0.1:1",
        "is read as 0",
        "comma",
    ] {
        assert!(told.contains(wanted), "{wanted} is not in: {told}");
    }
}

#[test]
fn handler_memring_works_as_pecl_where_mode_single_is_written_and_on_one_node() {
    let servers = [Memcached::start(), Memcached::start()];
    let memring = |list: String| php(&list).ini("session.save_handler", "memring");
    let script = "session_id('s'); var_dump(session_start()); $_SESSION['n'] = 1;";
    let written = format!("{}?mode=single, {}", path(&servers[0]), path(&servers[1]));
    assert_eq!(memring(written).run(script).ok(), "bool(true)");
    let plain = Some((0, b"n|i:1;".to_vec()));
    assert!(servers.iter().all(|server| server.stored("s") == plain));
    servers[0].raw("delete s\r\n", "\r\n");
    assert_eq!(memring(path(&servers[0])).run(script).ok(), "bool(true)");
    assert_eq!(servers[0].stored("s"), plain);
}

#[test]
fn a_pool_of_the_config_file_keeps_sessions_and_a_wrong_file_names_its_line() {
    let server = Memcached::start();
    let directory = TempDir::new("config");
    let good = format!(
        "[pool.web]\nnodes = [\"memcached://127.0.0.1:{}\"]\nmode = \"single\"\nkey_prefix = \"web:\"\n",
        server.port()
    );
    let run = |name: &str, text: &[u8], pool: &str| {
        let file = directory.file(name, text);
        php(pool)
            .ini("session.save_handler", "memring")
            .ini("memring.config_file", file.display())
            .run("session_id('s'); var_dump(session_start()); $_SESSION['n'] = 1;")
            .ok()
    };
    assert_eq!(run("good.toml", good.as_bytes(), "pool:web"), "bool(true)");
    assert!(server.stored("web:s").is_some());
    let wrong: [(&str, Vec<u8>, &str); 5] = [
        (
            "cut.toml",
            good.as_bytes()[..good.len() / 3].to_vec(),
            "cut.toml, line 2",
        ),
        (
            "wrong.toml",
            good.replace("single", "singel").into_bytes(),
            "wrong.toml, line 3",
        ),
        (
            "unknown.toml",
            good.replace("mode", "moed").into_bytes(),
            "unknown.toml, line 3",
        ),
        (
            "binary.toml",
            [good.as_bytes(), b"\xff\xfe"].concat(),
            "binary.toml, line 5",
        ),
        (
            "other.toml",
            good.replace("pool.web", "pool.other").into_bytes(),
            "other.toml",
        ),
    ];
    for (name, text, place) in wrong {
        let told = run(name, &text, "pool:web");
        assert!(told.contains("bool(false)"), "{name}: {told}");
        assert!(told.contains(place), "{name} does not name {place}: {told}");
    }
    let missing = php("pool:web")
        .ini("memring.config_file", "/nowhere/memring.toml")
        .run("session_id('s'); var_dump(session_start());")
        .ok();
    assert!(
        missing.contains("/nowhere/memring.toml") && missing.contains("bool(false)"),
        "{missing}"
    );
}

#[test]
fn session_prefixes_stand_before_keys_of_data_and_turn() {
    let server = Memcached::start();
    let php = php(&path(&server)).ini("memcache.session_prefix_static_key", "fixed_");
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
        .ok();
    assert!(server.stored("fixed_s").is_some());
    assert_eq!(turn(&server, "fixed_s").as_deref(), Some("0"));
    assert_eq!(server.stored("s"), None);
    let fpm = PhpFpm::with(&php.ini("memcache.session_prefix_host_key", 1), 1, "");
    fpm.page(
        "a.php",
        "session_id('h'); session_start(); $_SESSION['n'] = 1; session_write_close(); echo 'done';",
    );
    assert_eq!(fpm.get("a.php", "", "").text(), "done");
    // The fixed text, then the host, as the original puts them.
    assert!(server.stored("fixed_localhosth").is_some());
}

#[test]
fn an_error_handler_may_end_or_throw_inside_any_callback() {
    let closed = harness::ClosedPort::new();
    for handler in ["exit('out');", "throw new Exception('thrown');"] {
        for script in [
            "session_start();",
            "session_start(['read_and_close' => true]);",
            "ini_set('session.save_path', '/tmp'); session_start();",
            "ini_set('session.use_strict_mode', 1); session_start();",
        ] {
            let output = php(&to(closed.port(), "")).run(&format!(
                "set_error_handler(function () {{ {handler} }}); session_id('s'); {script} echo 'went on';"
            ));
            assert_eq!(output.signal, None, "{handler} {script}");
            let text = output.text();
            assert!(
                text.contains("out") || text.contains("thrown"),
                "{handler} {script}: {text}"
            );
        }
    }
}

#[test]
fn each_fpm_pool_keeps_its_sessions_in_its_own_place() {
    let servers = [Memcached::start(), Memcached::start()];
    let second = harness::free_port();
    let user = "user = root\ngroup = root\n"; // read by masters that run as root only
    let pool = |server: &Memcached| {
        format!(
            "php_admin_value[session.save_handler] = memcache\nphp_admin_value[session.save_path] = \"{}\"\n",
            path(server)
        )
    };
    let fpm = PhpFpm::start(
        1,
        &format!(
            "{}{user}[second]\nlisten = 127.0.0.1:{second}\npm = static\npm.max_children = 1\n{}",
            pool(&servers[0]),
            pool(&servers[1])
        ),
    );
    // php_admin_value cannot be changed by the script.
    let page = fpm.page(
        "count.php",
        "ini_set('session.save_path', 'tcp://127.0.0.1:1'); session_id('s'); session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;",
    );
    let file = page.display().to_string();
    let variables = [
        ("SCRIPT_FILENAME", file),
        ("REQUEST_METHOD", "GET".to_owned()),
    ];
    for (port, counts) in [(fpm.port(), ["1", "2"]), (second, ["1", "2"])] {
        for count in counts {
            let reply = harness::fastcgi::ask(port, &variables, b"", Duration::from_secs(20));
            assert_eq!(reply.unwrap().text(), count);
        }
    }
    assert!(servers.iter().all(|server| server.stored("s").is_some()));
}
