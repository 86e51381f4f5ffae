//! The session handler `memcache` through PHP: locks are released however a request ends, nothing is lost or
//! invented, and what the original wrote is read, and the other way round.

use harness::{Apache, BlackHole, ClosedPort, Hostile, Memcached, Php, PhpFpm, TempDir};
use std::time::{Duration, Instant};

/// PHP with sessions on this save_path, without cookies.
pub(crate) fn php(save_path: &str) -> Php {
    with_sessions(Php::new(), save_path)
}

pub(crate) fn with_sessions(php: Php, save_path: &str) -> Php {
    php.ini("session.save_handler", "memcache")
        .ini("session.save_path", save_path)
        .ini("session.use_cookies", 0)
        .ini("session.use_only_cookies", 0)
        .ini("session.cache_limiter", "")
}

pub(crate) fn path(server: &Memcached) -> String {
    format!("tcp://127.0.0.1:{}", server.port())
}

/// Opens the session `s`, counts in it and closes it.
const COUNT: &str = "session_id('s'); var_dump(session_start()); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";

/// How a page ends that has a session open: what it is called, and its last words.
pub(crate) const ENDINGS: [(&str, &str); 10] = [
    ("write", "session_write_close();"),
    ("abort", "session_abort();"),
    ("reset, then abort", "session_reset(); session_abort();"),
    ("exit", "exit;"),
    ("a fatal error", "no_such_function();"),
    ("an exception", "throw new Exception('x');"),
    (
        "a memory limit",
        "ini_set('memory_limit', '4M'); $x = str_repeat('x', 50000000);",
    ),
    ("a time limit", "set_time_limit(1); while (true);"),
    (
        "exit in a shutdown function",
        "register_shutdown_function(function () { exit; });",
    ),
    ("nothing", ""),
];

#[test]
fn a_lock_is_released_however_the_request_ends() {
    let server = Memcached::start();
    let php = php(&path(&server)).limit(Duration::from_secs(40));
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
        .ok();
    for (name, ending) in ENDINGS {
        php.run(&format!("session_id('s'); session_start(); {ending}"));
        let start = Instant::now();
        let text = php
            .run(
                "session_id('s'); var_dump(session_start()); echo $_SESSION['n']; session_abort();",
            )
            .ok();
        assert_eq!(text, "bool(true)\n1", "after {name}");
        assert!(
            start.elapsed() < Duration::from_secs(3),
            "after {name} the next request waited {:?}",
            start.elapsed()
        );
    }
    // read_and_close never holds a lock at all: the next one does not wait while it is still running.
    let text = php.run(
        "session_id('s'); session_start(['read_and_close' => true]); $n = $_SESSION['n'];\n\
         $t = microtime(true); session_id('s'); session_start(); echo $n, microtime(true) - $t < 0.5 ? ' at once' : ' waited';",
    );
    assert_eq!(text.ok(), "1 at once");
}

#[test]
fn fifty_processes_on_one_session_lose_no_count() {
    let server = Memcached::start();
    let php = php(&path(&server)).limit(Duration::from_secs(120));
    let text = php.run(
        "for ($i = 0; $i < 50; $i++) { if (($pids[] = pcntl_fork()) == 0) {\n\
           session_id('s'); session_start(); $n = $_SESSION['n'] ?? 0; usleep(500); $_SESSION['n'] = $n + 1; session_write_close(); exit(0); } }\n\
         foreach ($pids as $pid) pcntl_waitpid($pid, $status);\n\
         session_id('s'); session_start(); echo $_SESSION['n'];",
    );
    assert_eq!(text.ok(), "50");
}

#[test]
fn sessions_survive_a_fork() {
    let server = Memcached::start();
    let php = php(&format!("{}?persistent=1", path(&server)));
    let text = php.run(
        "session_id('s'); session_start(); $_SESSION['n'] = 1; session_write_close();\n\
         $pids = []; for ($c = 0; $c < 5; $c++) { $pid = pcntl_fork(); if ($pid == 0) {\n\
         session_id('s'); session_start(); $_SESSION['n']++; session_write_close(); exit(0); } $pids[] = $pid; }\n\
         foreach ($pids as $pid) pcntl_waitpid($pid, $status);\n\
         session_id('s'); session_start(); echo $_SESSION['n'];",
    );
    assert_eq!(text.ok(), "6");
}

#[test]
fn a_lock_that_is_never_released_fails_the_start_and_harms_nothing() {
    let server = Memcached::start();
    let php = php(&path(&server))
        .ini("memcache.lock_timeout", 1)
        .ini("display_errors", 0);
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 7;")
        .ok();
    // Somebody holds the lock and never lets go.
    server.raw("set s.lock 768 0 1\r\n1\r\n", "STORED\r\n");
    let before = server.stored("s");
    let text = php.run("session_id('s'); var_dump(session_start()); $_SESSION['n'] = 0; session_write_close(); echo 'end';");
    assert_eq!(text.ok(), "bool(false)\nend");
    assert_eq!(
        server.stored("s"),
        before,
        "the session of the other request was touched"
    );
}

#[test]
fn an_unchanged_session_is_kept_alive_and_not_rewritten() {
    let server = Memcached::start();
    let php = php(&path(&server));
    php.clone()
        .ini("session.gc_maxlifetime", 3)
        .run("session_id('s'); session_start(); $_SESSION['n'] = 7;")
        .ok();
    let cas = || {
        String::from_utf8(server.raw("gets s\r\n", "END\r\n"))
            .unwrap()
            .split(' ')
            .nth(4)
            .map(|word| word.split('\r').next().unwrap_or("").to_string())
    };
    let before = cas();
    php.clone()
        .ini("session.gc_maxlifetime", 500)
        .run("session_id('s'); session_start();")
        .ok();
    assert_eq!(cas(), before, "the session was stored again");
    let meta = String::from_utf8(server.raw("mg s t\r\n", "\r\n")).unwrap();
    let left: i64 = meta
        .trim()
        .trim_start_matches("HD t")
        .parse()
        .unwrap_or_else(|_| panic!("{meta}"));
    assert!(left > 400, "the session still ends in {left} s");
}

#[test]
fn every_id_php_allows_keeps_a_session() {
    let server = Memcached::start();
    let text = php(&path(&server)).limit(Duration::from_secs(100)).run(
        "$bad = [];\n\
         for ($n = 1; $n <= 256; $n++) {\n\
           session_id(str_repeat('i', $n - 1) . 'A'); if (!session_start()) { $bad[] = $n; continue; } $_SESSION['n'] = $n; session_write_close();\n\
         }\n\
         for ($n = 1; $n <= 256; $n++) { session_id(str_repeat('i', $n - 1) . 'A'); session_start(); if (($_SESSION['n'] ?? 0) !== $n) $bad[] = -$n; session_abort(); }\n\
         echo json_encode($bad);",
    );
    assert_eq!(text.ok(), "[]");
}

#[test]
fn regenerating_an_id_keeps_the_data_and_ends_the_old_one_when_asked() {
    let server = Memcached::start();
    let text = php(&path(&server)).run(
        "ob_start(); session_id('old'); session_start(); $_SESSION['n'] = 1; session_regenerate_id(true); $new = session_id(); $_SESSION['m'] = 2; session_write_close();\n\
         session_id('old'); session_start(); echo json_encode($_SESSION), ' '; session_abort();\n\
         session_id($new); session_start(); echo json_encode($_SESSION), ' '; session_regenerate_id(false); $third = session_id(); session_write_close();\n\
         session_id($new); session_start(); echo json_encode($_SESSION), ' '; session_abort();\n\
         session_id($third); session_start(); echo json_encode($_SESSION), ' ', strlen($third) > 20 && $third !== $new;",
    );
    assert_eq!(
        text.ok(),
        r#"[] {"n":1,"m":2} {"n":1,"m":2} {"n":1,"m":2} 1"#
    );
}

#[test]
fn a_destroyed_session_is_gone_and_reset_brings_back_what_was_stored() {
    let server = Memcached::start();
    let text = php(&path(&server)).run(
        "session_id('s'); session_start(); $_SESSION['n'] = 1; session_write_close();\n\
         session_id('s'); session_start(); $_SESSION['n'] = 2; session_reset(); echo $_SESSION['n']; $_SESSION['m'] = 3; session_write_close();\n\
         session_id('s'); session_start(); echo json_encode($_SESSION); session_destroy();\n\
         session_id('s'); session_start(); echo json_encode($_SESSION); session_write_close();\n\
         $a = session_create_id('pre-'); echo str_starts_with($a, 'pre-');",
    );
    assert_eq!(text.ok(), "1{\"n\":1,\"m\":3}[]1");
}

#[test]
fn strict_mode_refuses_an_id_nobody_stored() {
    let server = Memcached::start();
    let text = php(&path(&server)).ini("session.use_strict_mode", 1).run(
        "session_id('chosen'); session_start(); $id = session_id(); echo $id === 'chosen' ? 'taken' : 'new', ' '; $_SESSION['n'] = 1; session_write_close();\n\
         session_id($id); session_start(); echo session_id() === $id ? 'kept' : 'lost', ' ', $_SESSION['n'] ?? 0;",
    );
    assert_eq!(text.ok(), "new kept 1");
}

#[test]
fn strict_mode_with_an_unsure_node_fails_the_start_and_keeps_the_id() {
    let hole = BlackHole::start();
    let save_path = format!("tcp://127.0.0.1:{}?timeout=0.3", hole.port());
    let text = php(&save_path).ini("session.use_strict_mode", 1).ini("display_errors", 0).run(
        "session_id('mine'); var_dump(session_start()); echo session_id() === 'mine' || session_id() === '' ? 'no new id' : 'a new id';",
    );
    assert_eq!(text.ok(), "bool(false)\nno new id");
}

#[test]
fn a_dead_or_lying_node_never_gives_an_empty_session() {
    let lying = Hostile::start(|_| vec![harness::Act::say("BANANA\r\n")]);
    let (hole, closed) = (BlackHole::start(), ClosedPort::new());
    for (name, port) in [
        ("refused", closed.port()),
        ("lying", lying.port()),
        ("swallowed", hole.port()),
    ] {
        let php = php(&format!("tcp://127.0.0.1:{port}?timeout=0.3")).ini("display_errors", 0);
        let start = Instant::now();
        let text = php.run("session_id('s'); var_dump(session_start());").ok();
        assert_eq!(text, "bool(false)", "{name}");
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "{name} took {:?}",
            start.elapsed()
        );
    }
}

/// PHP stores what it has at the end of a page, also where it never got the session.
#[test]
fn a_page_that_ends_in_a_read_that_failed_stores_nothing_over_the_session() {
    let server = Memcached::start();
    let php = php(&path(&server)).ini("memcache.lock_timeout", 1);
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
        .ok();
    // Somebody has the session, and may change it while this page gives up.
    server.raw("set s.lock 768 30 1\r\n1\r\n", "\r\n");
    let ends = "set_error_handler(function () { trigger_error('no session', E_USER_ERROR); });";
    let broken = php.run(&format!(
        "{ends} session_id('s'); session_start(); echo 'went on';"
    ));
    let said = String::from_utf8_lossy(&broken.stdout);
    assert!(
        said.contains("no session") && !said.contains("went on"),
        "{said}"
    );
    assert!(
        server.stored("s.lock").is_some(),
        "somebody else's turn was given back"
    );
    server.raw("delete s.lock\r\n", "\r\n");
    let text =
        php.run("session_id('s'); var_dump(session_start()); echo $_SESSION['n'] ?? 'nothing';");
    assert_eq!(text.ok(), "bool(true)\n1");
}

#[test]
fn a_host_name_that_the_script_changes_moves_no_session() {
    let server = Memcached::start();
    let php = php(&path(&server)).ini("memcache.session_prefix_host_key", 1);
    let id = php
        .run(
            "$_SERVER['SERVER_NAME'] = 'a.example'; session_id('s'); session_start(); $_SERVER['SERVER_NAME'] = 'b.example';\n\
             session_regenerate_id(true); $_SESSION['user'] = 1; echo session_id();",
        )
        .ok();
    let text = php.run(&format!(
        "$_SERVER['SERVER_NAME'] = 'a.example'; session_id('{id}'); session_start(); echo $_SESSION['user'] ?? 'nobody';"
    ));
    assert_eq!(text.ok(), "1");
}

/// pecl-memcache reads them when a request begins, and so has a script that writes them never moved one.
#[test]
fn a_prefix_that_the_script_sets_moves_no_session() {
    let server = Memcached::start();
    let php = php(&path(&server));
    let set = "ini_set('memcache.session_prefix_static_key', 'app_');";
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
    assert_eq!(php.run(&format!("{set} {COUNT}")).ok(), "bool(true)\n2");
}

#[test]
fn a_life_over_the_longest_of_copies_is_said_in_the_log() {
    let servers = [(); 2].map(|()| Memcached::start());
    let list = format!("{}, {}", path(&servers[0]), path(&servers[1]));
    let directory = TempDir::new("life");
    let log = directory.path().join("php.log");
    for (life, told) in [(2_591_880, false), (7_776_000, true)] {
        let text = php(&list)
            .ini("session.save_handler", "memring")
            .ini("memring.state_dir", directory.path().display())
            .ini("session.gc_maxlifetime", life)
            .ini("log_errors", 1)
            .ini("error_log", log.display())
            .run(COUNT);
        assert!(text.ok().starts_with("bool(true)"));
        let log = std::fs::read_to_string(&log).unwrap_or_default();
        assert_eq!(log.contains("2591880 s at most"), told, "{life}: {log}");
    }
}

#[test]
fn a_session_survives_the_loss_of_either_node() {
    for lost in 0..2 {
        let mut servers = [Memcached::start(), Memcached::start()];
        let php = php(&format!("{}, {}", path(&servers[0]), path(&servers[1])));
        assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
        servers[lost].kill();
        let text = php.ini("display_errors", 0).run(COUNT).ok();
        assert_eq!(text, "bool(true)\n2", "node {lost} lost");
    }
}

#[test]
fn wrong_save_paths_are_refused_with_the_text_to_write() {
    let wrong = [
        "",
        "  ",
        " , ,",
        "tcp://",
        "tcp://127.0.0.1:11211?weight=0",
        "tcp://127.0.0.1:11211?weight=-1",
        "tcp://127.0.0.1:11211?timeout=0",
        "/var/lib/php/sessions",
    ];
    for save_path in wrong {
        let text = php(save_path)
            .run("session_id('s'); var_dump(session_start());")
            .ok();
        assert!(text.contains("bool(false)"), "{save_path:?}: {text}");
        let told = text.contains("tcp://") || text.contains("weight") || text.contains("timeout");
        assert!(
            told && text.contains("Warning"),
            "{save_path:?} says nothing of what to write: {text}"
        );
    }
}

#[test]
fn every_written_form_of_a_save_path_is_understood() {
    let server = Memcached::start();
    let on_socket = Memcached::on_socket();
    let port = server.port();
    let forms = [
        format!("tcp://127.0.0.1:{port}"),
        format!("127.0.0.1:{port}"),
        format!("tcp://127.0.0.1:{port}?persistent=1&weight=2&timeout=2&retry_interval=15"),
        format!(" tcp://127.0.0.1:{port} ,"),
        format!("unix://{}", on_socket.socket().display()),
        format!("unix://{}:0", on_socket.socket().display()),
    ];
    for form in forms {
        assert!(
            php(&form).run(COUNT).ok().starts_with("bool(true)"),
            "{form}"
        );
    }
    // memcache.session_save_path wins over session.save_path.
    let text = php("tcp://127.0.0.1:1")
        .ini("memcache.session_save_path", path(&server))
        .run(COUNT)
        .ok();
    assert!(text.starts_with("bool(true)"), "{text}");
}

#[test]
fn a_persistent_save_path_keeps_its_connection_and_another_does_not() {
    for (persistent, most) in [(0, 25), (1, 3)] {
        let server = Memcached::start();
        let fpm = PhpFpm::start(
            1,
            &format!(
                "php_admin_value[session.save_handler] = memcache\nphp_admin_value[session.save_path] = \"{}?persistent={persistent}\"\n",
                path(&server)
            ),
        );
        fpm.page("count.php", "session_id('s'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];");
        let before = server.stat("total_connections");
        for n in 1..=20 {
            assert_eq!(fpm.get("count.php", "", "").text(), n.to_string());
        }
        let opened = server.stat("total_connections") - before - 1; // one is the question itself
        assert!(
            opened <= most,
            "persistent={persistent} opened {opened} connections for 20 pages"
        );
        assert!(
            persistent == 1 || opened >= 20,
            "persistent=0 opened only {opened} connections for 20 pages"
        );
    }
}

#[test]
fn a_timeout_in_the_save_path_bounds_the_wait() {
    let server = Memcached::start();
    server.freeze();
    let php = php(&format!("{}?timeout=0.3", path(&server))).ini("display_errors", 0);
    let text = php.run("$t = microtime(true); session_id('s'); session_start(); echo round(microtime(true) - $t, 2);").ok();
    let seconds: f64 = text.parse().unwrap();
    assert!((0.25..1.5).contains(&seconds), "waited {seconds} s");
}

#[test]
fn a_user_handler_that_extends_session_handler_works() {
    let server = Memcached::start();
    let text = php(&path(&server)).run(
        "class Mine extends SessionHandler { function read($id): string|false { echo 'read '; return parent::read($id); } function write($id, $data): bool { echo 'write '; return parent::write($id, $data); } }\n\
         session_set_save_handler(new Mine, true);\n\
         session_id('s'); session_start(); $_SESSION['n'] = 1; session_write_close();\n\
         session_id('s'); session_start(); echo $_SESSION['n'];",
    );
    assert_eq!(text.ok(), "read write read 1write");
}

#[test]
fn the_original_and_we_serve_the_same_sessions() {
    let Some(original) = harness::php::original() else {
        harness::skip("MEMRING_PECL_SO names no build of pecl-memcache");
        return;
    };
    let servers = [Memcached::start(), Memcached::start(), Memcached::start()];
    let save_path = servers.iter().map(path).collect::<Vec<_>>().join(", ");
    let ours = php(&save_path);
    let theirs = with_sessions(Php::bare().extension(original), &save_path);
    let count = |id: usize| {
        format!(
            "session_id('shared{id}'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];"
        )
    };
    for id in 0..6 {
        assert_eq!(ours.run(&count(id)).ok(), "1");
        assert_eq!(theirs.run(&count(id)).ok(), "2");
        assert_eq!(ours.run(&count(id)).ok(), "3");
    }
    // Each waits for the other's lock.
    let holder = "session_id('locked'); session_start(); echo 'in'; flush(); usleep(700000); $_SESSION['n'] = 'held';";
    for (first, second) in [(&ours, &theirs), (&theirs, &ours)] {
        let held = first.start(holder);
        let server_holds = || {
            servers.iter().any(|server| {
                server
                    .stored("locked.lock")
                    .is_some_and(|lock| lock.1 != b"0")
            })
        };
        assert!(harness::wait_until(Duration::from_secs(10), server_holds));
        assert_eq!(
            second
                .run("session_id('locked'); session_start(); echo $_SESSION['n'] ?? 'not waited';")
                .ok(),
            "held"
        );
        held.finish().ok();
        servers.iter().for_each(|server| {
            server.raw("flush_all\r\n", "OK\r\n");
        });
    }
}

#[test]
fn settings_from_htaccess_ini_set_and_the_fpm_pool_are_obeyed() {
    let server = Memcached::start();
    let page = "session_id('s'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    let fpm = PhpFpm::start(
        2,
        &format!(
            "php_admin_value[session.save_handler] = memcache\nphp_admin_value[session.save_path] = \"{}\"\n",
            path(&server)
        ),
    );
    fpm.page("count.php", page);
    assert_eq!(fpm.get("count.php", "", "").text(), "1");
    let text = Php::new().run(&format!(
        "ini_set('session.save_handler', 'memcache'); ini_set('session.save_path', '{}'); ini_set('session.use_cookies', 0);\n{page}",
        path(&server)
    ));
    assert_eq!(text.ok(), "2");
    if !Apache::available() {
        harness::leave_out("apache with mod_php is not installed");
        return;
    }
    let apache = Apache::start("");
    apache.file("count.php", &format!("<?php {page}"));
    apache.file(
        ".htaccess",
        &format!(
            "php_value session.save_handler memcache\nphp_value session.save_path \"{}\"\n",
            path(&server)
        ),
    );
    assert_eq!(apache.get("count.php", "").text(), "3");
    assert_eq!(apache.get("count.php", "").text(), "4");
}
