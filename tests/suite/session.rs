//! The turn on a session: who takes it, how often a node is asked for it, and that it lies back at the server
//! however a request ends. `sessions.rs` holds what a script sees, `session_nodes.rs` nodes and settings.

use crate::sessions::{path, php};
use harness::{Act, Hostile, Memcached, Php, PhpFpm, Proxy, wait_until};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// The save_path that leads to `port` with these options ("" or "?weight=2").
pub(crate) fn to(port: u16, options: &str) -> String {
    format!("tcp://127.0.0.1:{port}{options}")
}

/// What the server holds as the turn on session `id`.
pub(crate) fn turn(server: &Memcached, id: &str) -> Option<String> {
    let (_, text) = server.stored(&format!("{id}.lock"))?;
    Some(String::from_utf8(text).unwrap())
}

/// How often a client spoke after it had listened, and the lines it said.
pub(crate) fn trips(proxy: &Proxy) -> (usize, Vec<String>) {
    proxy.settle(Duration::from_millis(50));
    let events = proxy.events();
    let mut count = 0;
    for connection in 0..proxy.connections() {
        let mut listened = true;
        for event in events.iter().filter(|e| e.connection == connection) {
            let speaks = event.from == harness::proxy::From::Client;
            if speaks && listened {
                count += 1;
            }
            listened = !speaks;
        }
    }
    let said = String::from_utf8_lossy(&proxy.requests()).into_owned();
    (count, said.lines().map(str::to_owned).collect())
}

#[test]
fn a_session_costs_one_trip_to_open_and_one_to_close() {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let php = php(&to(proxy.port(), ""));
    let pages = [
        (
            "new",
            "session_id('s'); session_start(); $_SESSION['n'] = 1;",
        ),
        (
            "changed",
            "session_id('s'); session_start(); $_SESSION['n']++;",
        ),
        ("unchanged", "session_id('s'); session_start();"),
        ("new and empty", "session_id('e'); session_start();"),
        ("empty", "session_id('e'); session_start();"),
        (
            "aborted",
            "session_id('s'); session_start(); session_abort();",
        ),
        (
            "destroyed",
            "session_id('s'); session_start(); session_destroy();",
        ),
        ("made by PHP", "session_start(); $_SESSION['n'] = 1;"),
        (
            "known in strict mode",
            "ini_set('session.use_strict_mode', 1); session_id('e'); session_start(); $_SESSION['n'] = 1;",
        ),
    ];
    for (name, page) in pages {
        proxy.clear();
        php.run(page).ok();
        let (count, said) = trips(&proxy);
        assert_eq!(count, 2, "{name}: {said:?}");
    }
    proxy.clear();
    php.run("session_id('e'); session_start(['read_and_close' => true]);")
        .ok();
    let (count, said) = trips(&proxy);
    assert_eq!((count, said), (1, vec!["get e".to_owned()]));
}

#[test]
fn after_every_ending_the_turn_lies_back_at_the_server() {
    let server = Memcached::start();
    let php = php(&path(&server)).ini("display_errors", 0);
    let endings = [
        "",
        "session_write_close();",
        "$_SESSION['n'] = rand(); session_write_close();",
        "session_abort();",
        "session_reset();",
        "session_reset(); session_write_close();",
        "session_destroy();",
        "exit;",
        "no_such_function();",
        "throw new Exception('x');",
        "ini_set('memory_limit', '4M'); str_repeat('x', 50000000);",
        "set_error_handler(function () { exit; }); trigger_error('x');",
        "$_SESSION['f'] = function () {};",
        "session_regenerate_id(true); session_id('s');",
        "fastcgi_finish_request();",
    ];
    for ending in endings {
        php.run(&format!("session_id('s'); session_start(); {ending}"));
        let held = turn(&server, "s");
        assert!(
            held.is_none() || held.as_deref() == Some("0"),
            "{held:?} after {ending}"
        );
        let start = Instant::now();
        let text = php
            .run("session_id('s'); $t = microtime(true); var_dump(session_start()); session_abort(); echo microtime(true) - $t < 1 ? 'at once' : 'waited';")
            .ok();
        assert_eq!(text, "bool(true)\nat once", "after {ending}");
        assert!(start.elapsed() < Duration::from_secs(10));
    }
}

#[test]
fn a_reset_session_keeps_its_turn_and_does_not_wait_for_itself() {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let php = php(&to(proxy.port(), ""));
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
        .ok();
    proxy.clear();
    let text = php.run(
        "session_id('s'); session_start(); $_SESSION['n'] = 2; $t = microtime(true);\n\
         var_dump(session_reset()); echo $_SESSION['n'], microtime(true) - $t < 0.5 ? ' at once' : ' waited';\n\
         $_SESSION['n'] = 4; session_write_close();",
    );
    assert_eq!(text.ok(), "bool(true)\n1 at once");
    assert_eq!(server.stored("s"), Some((0, b"n|i:4;".to_vec())));
    let (_, said) = trips(&proxy);
    let turns: Vec<&str> = said
        .iter()
        .map(String::as_str)
        .filter(|line| line.contains(".lock"))
        .collect();
    // Taken once, given back once, and not in between.
    assert_eq!(
        turns,
        [
            "incr s.lock 1",
            "add s.lock 768 15 1",
            "set s.lock 768 15 1"
        ]
    );
}

#[test]
fn reading_and_closing_takes_no_turn_however_it_is_said() {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let php = php(&to(proxy.port(), ""));
    php.run("session_id('s'); session_start(); $_SESSION['n'] = 5;")
        .ok();
    let class = "class Mine extends SessionHandler { public function read(string $id): string|false { return parent::read($id); } }\n\
                 session_set_save_handler(new Mine, true);";
    let forms = [
        ("", "session_start(['read_and_close' => true]);"),
        ("", "session_start(options: ['read_and_close' => 1]);"),
        (
            "",
            "$o = ['read_and_close' => true]; $p = &$o; session_start($p);",
        ),
        (
            "",
            "call_user_func('session_start', ['read_and_close' => true]);",
        ),
        (
            "",
            "(function () { session_start(['cookie_path' => '/', 'read_and_close' => true]); })();",
        ),
        (class, "session_start(['read_and_close' => true]);"),
        (
            "ini_set('session.use_strict_mode', 1);",
            "session_start(['read_and_close' => true]);",
        ),
    ];
    for (before, form) in forms {
        proxy.clear();
        let text = php
            .run(&format!(
                "session_id('s'); {before} {form} echo $_SESSION['n'];"
            ))
            .ok();
        assert_eq!(text, "5", "{before} {form}");
        let (_, said) = trips(&proxy);
        assert!(
            said.iter().all(|line| line == "get s"),
            "{before} {form}: {said:?}"
        );
    }
    // And whoever does not say it, or says no, takes one.
    for form in [
        "session_start();",
        "session_start([]);",
        "session_start(['read_and_close' => false]);",
    ] {
        proxy.clear();
        php.run(&format!("session_id('s'); {form}")).ok();
        let (_, said) = trips(&proxy);
        assert_eq!(
            said.first().map(String::as_str),
            Some("incr s.lock 1"),
            "{form}"
        );
    }
}

#[test]
fn a_lost_wait_says_what_to_do_and_is_not_waited_for_twice() {
    let server = Memcached::start();
    server.raw("set s 0 0 6\r\nn|i:7;\r\n", "STORED\r\n");
    for strict in [0, 1] {
        server.raw("set s.lock 768 0 1\r\n1\r\n", "STORED\r\n");
        let php = php(&path(&server))
            .ini("memcache.lock_timeout", 1)
            .ini("session.use_strict_mode", strict);
        let text = php
            .run("$t = microtime(true); session_id('s'); var_dump(session_start()); echo round(microtime(true) - $t, 1), ' s';")
            .ok();
        for wanted in [
            "another request has held this session for 2 s",
            "session_write_close()",
            "memcache.lock_timeout",
            "bool(false)",
        ] {
            assert!(text.contains(wanted), "{wanted} is not in: {text}");
        }
        let waited: f64 = text
            .rsplit('\n')
            .next()
            .and_then(|line| line.strip_suffix(" s"))
            .and_then(|number| number.parse().ok())
            .unwrap();
        assert!((2.0..3.5).contains(&waited), "strict {strict}: {waited} s");
        assert_eq!(server.stored("s"), Some((0, b"n|i:7;".to_vec())));
    }
}

#[test]
fn a_new_id_that_exists_already_is_not_given_away() {
    // Whatever id is asked for first exists, and the second one does not.
    let server = Hostile::start(|request| {
        let answer = match request.verb() {
            "incr" => "NOT_FOUND\r\n".to_owned(),
            "add" | "set" => "STORED\r\n".to_owned(),
            "touch" => "TOUCHED\r\n".to_owned(),
            "get" if request.word(0) == "s" => "VALUE s 0 6\r\nn|i:1;\r\nEND\r\n".to_owned(),
            "get" if request.number < 4 => {
                format!("VALUE {} 0 6\r\nx|i:1;\r\nEND\r\n", request.word(0))
            }
            _ => "END\r\n".to_owned(),
        };
        vec![Act::say(answer)]
    });
    let text = php(&to(server.port(), ""))
        .run("session_id('s'); session_start(); $id = session_create_id('x-'); session_write_close(); echo $id;")
        .ok();
    let asked: Vec<String> = server
        .requests()
        .iter()
        .filter(|request| request.verb() == "get" && request.word(0) != "s")
        .map(|request| request.word(0).to_owned())
        .collect();
    assert_eq!(asked.len(), 2, "{asked:?}");
    // PHP puts the prefix before an id only after it asked for it.
    assert_eq!(
        text,
        format!("x-{}", asked[1]),
        "the id that exists was given away"
    );
    // The running session kept its turn until its own close.
    let turns: Vec<String> = server
        .requests()
        .iter()
        .filter(|request| request.line.contains(".lock"))
        .map(|request| request.line.clone())
        .collect();
    assert!(
        turns.iter().all(|line| line.contains(" s.lock ")),
        "{turns:?}"
    );
}

#[test]
fn ids_change_inside_a_request_and_every_turn_goes_back() {
    let server = Memcached::start();
    let text = php(&path(&server)).run(
        "foreach (['a', 'b', 'a', 'c'] as $id) { session_id($id); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close(); }\n\
         session_id('b'); session_start(); session_regenerate_id(); $_SESSION['of'] = 'b'; echo session_id();",
    );
    let made = text.ok();
    for (id, data) in [
        ("a", "n|i:2;"),
        ("b", "n|i:1;"),
        ("c", "n|i:1;"),
        (&made, "n|i:1;of|s:1:\"b\";"),
    ] {
        assert_eq!(
            server.stored(id),
            Some((0, data.as_bytes().to_vec())),
            "{id}"
        );
        assert_eq!(turn(&server, id).as_deref(), Some("0"), "{id}");
    }
}

#[test]
fn strict_mode_makes_regenerated_ids_known() {
    let server = Memcached::start();
    for delete in ["true", "false"] {
        let text = php(&path(&server)).ini("session.use_strict_mode", 1).run(&format!(
            "session_start(); $old = session_id(); $_SESSION['n'] = 1; session_regenerate_id({delete}); $new = session_id(); session_write_close();\n\
             session_id($new); session_start(); echo $_SESSION['n'], session_id() === $new ? ' kept ' : ' lost '; session_write_close();\n\
             session_id($old); session_start(); echo session_id() === $old ? 'old kept' : 'old unknown';"
        ));
        let old = if delete == "true" {
            "old unknown"
        } else {
            "old kept"
        };
        assert_eq!(text.ok(), format!("1 kept {old}"));
    }
}

#[test]
fn strict_mode_takes_an_empty_session_for_a_known_one() {
    let server = Memcached::start();
    let text = php(&path(&server)).ini("session.use_strict_mode", 1).run(
        "session_start(); $id = session_id(); session_write_close(); session_id($id); session_start(); echo $id === session_id() ? 'kept' : 'lost';",
    );
    assert_eq!(text.ok(), "kept");
}

#[test]
fn sessions_start_by_themselves_with_auto_start() {
    let server = Memcached::start();
    let fpm = PhpFpm::start(
        1,
        &format!(
            "php_admin_value[session.save_handler] = memcache\nphp_admin_value[session.save_path] = \"{}\"\nphp_admin_value[session.auto_start] = 1\n",
            path(&server)
        ),
    );
    fpm.page(
        "auto.php",
        "echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;",
    );
    for n in 1..=3 {
        assert_eq!(
            fpm.get("auto.php", "", "PHPSESSID=auto").text(),
            n.to_string()
        );
    }
    assert_eq!(turn(&server, "auto").as_deref(), Some("0"));
}

#[test]
fn a_class_may_override_every_method_and_call_its_parent() {
    let server = Memcached::start();
    let text = php(&path(&server)).ini("session.gc_probability", 0).run(
        "class Mine extends SessionHandler {\n\
           function open($path, $name): bool { echo 'open '; return parent::open($path, $name); }\n\
           function close(): bool { echo 'close '; return parent::close(); }\n\
           function read($id): string|false { echo 'read '; return parent::read($id); }\n\
           function write($id, $data): bool { echo 'write '; return parent::write($id, $data); }\n\
           function destroy($id): bool { echo 'destroy '; return parent::destroy($id); }\n\
           function gc($life): int|false { echo 'gc '; return parent::gc($life); }\n\
           function create_sid(): string { echo 'create '; return parent::create_sid(); }\n\
         }\n\
         ob_start(); session_set_save_handler(new Mine, true);\n\
         session_start(); $_SESSION['n'] = 1; session_regenerate_id(true); echo session_gc(), ' '; $id = session_id(); session_write_close();\n\
         session_id($id); session_start(); session_reset(); echo $_SESSION['n'], ' '; session_destroy();",
    );
    assert_eq!(
        text.ok(),
        "open create read destroy close open create read gc 0 write close open read open read 1 destroy close"
    );
}

#[test]
fn a_class_that_forgets_to_close_its_parent_keeps_no_turn() {
    let server = Memcached::start();
    let class = "class Mine extends SessionHandler { function close(): bool { return true; } }\n\
                 session_set_save_handler(new Mine, true);\n";
    php(&path(&server))
        .run(&format!(
            "{class} session_id('s'); session_start(); session_abort();"
        ))
        .ok();
    assert_eq!(
        turn(&server, "s").as_deref(),
        Some("0"),
        "after the request"
    );
    let text = php(&path(&server)).run(&format!(
        "{class} $t = microtime(true); for ($i = 0; $i < 3; $i++) {{ session_id('s'); session_start(); session_abort(); }} echo microtime(true) - $t < 1 ? 'at once' : 'waited';"
    ));
    assert_eq!(text.ok(), "at once");
    // Nor does it keep the servers of another list.
    let text = php(&path(&server)).ini("display_errors", 0).run(&format!(
        "{class} session_id('s'); session_start(); session_write_close();\n\
         ini_set('session.save_path', 'tcp://127.0.0.1:1'); session_id('s'); var_dump(session_start());"
    ));
    assert_eq!(text.ok(), "bool(false)");
}

#[test]
fn progress_of_an_upload_is_read_by_another_request() {
    let server = Memcached::start();
    let fpm = PhpFpm::start(
        2,
        &format!(
            "php_admin_value[session.save_handler] = memcache\nphp_admin_value[session.save_path] = \"{}\"\n\
             php_admin_value[session.upload_progress.enabled] = 1\nphp_admin_value[session.upload_progress.cleanup] = 0\n\
             php_admin_value[session.upload_progress.freq] = 1\nphp_admin_value[session.upload_progress.min_freq] = 0\n",
            path(&server)
        ),
    );
    let upload = fpm.page("upload.php", "session_id('u'); session_start(); echo $_FILES['f']['size'], ' ', $_SESSION['own'] ?? '?';");
    fpm.page(
        "progress.php",
        "session_id('u'); session_start(); $_SESSION['own'] = 'kept'; $p = $_SESSION['upload_progress_x'] ?? null; echo json_encode($p ? [$p['bytes_processed'] > 0, $p['done']] : null);",
    );
    let body = {
        let mut body = b"--B\r\nContent-Disposition: form-data; name=\"PHP_SESSION_UPLOAD_PROGRESS\"\r\n\r\nx\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.txt\"\r\n\r\n".to_vec();
        body.extend(vec![b'y'; 200_000]);
        body.extend_from_slice(b"\r\n--B--\r\n");
        body
    };
    let variables = [
        ("SCRIPT_FILENAME", upload.display().to_string()),
        ("REQUEST_METHOD", "POST".to_owned()),
        ("CONTENT_TYPE", "multipart/form-data; boundary=B".to_owned()),
        ("CONTENT_LENGTH", body.len().to_string()),
        ("HTTP_COOKIE", "PHPSESSID=u".to_owned()),
    ];
    let mut stream = TcpStream::connect(("127.0.0.1", fpm.port())).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_secs(30)))
        .unwrap();
    let record = |kind: u8, content: &[u8]| {
        let size = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[1, kind, 0, 1, size[0], size[1], 0, 0], content].concat()
    };
    let mut pairs = Vec::new();
    for (name, value) in &variables {
        pairs.push(u8::try_from(name.len()).unwrap());
        pairs.extend_from_slice(&(u32::try_from(value.len()).unwrap() | 0x8000_0000).to_be_bytes());
        pairs.extend_from_slice(name.as_bytes());
        pairs.extend_from_slice(value.as_bytes());
    }
    stream
        .write_all(&record(1, &[0, 1, 0, 0, 0, 0, 0, 0]))
        .unwrap();
    stream.write_all(&record(4, &pairs)).unwrap();
    stream.write_all(&record(4, &[])).unwrap();
    // Half of the file, and then the other request looks.
    let (first, second) = body.split_at(body.len() / 2);
    for piece in first.chunks(8000) {
        stream.write_all(&record(5, piece)).unwrap();
    }
    let mut seen = String::new();
    let found = wait_until(Duration::from_secs(10), || {
        seen = fpm.get("progress.php", "", "PHPSESSID=u").text();
        seen != "null"
    });
    assert!(found && seen == "[true,false]", "{seen}");
    for piece in second.chunks(8000) {
        stream.write_all(&record(5, piece)).unwrap();
    }
    stream.write_all(&record(5, &[])).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.contains("200000 kept"), "{answer}");
    assert_eq!(
        fpm.get("progress.php", "", "PHPSESSID=u").text(),
        "[true,true]"
    );
    assert_eq!(turn(&server, "u").as_deref(), Some("0"));
}

#[test]
fn two_fpm_pages_on_one_session_take_turns() {
    let server = Memcached::start();
    let php = Php::new()
        .ini("session.save_handler", "memcache")
        .ini("session.save_path", path(&server));
    let fpm = PhpFpm::with(&php, 8, "");
    fpm.page("count.php", "session_id('s'); session_start(); $n = $_SESSION['n'] ?? 0; usleep(2000); $_SESSION['n'] = $n + 1;");
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                (0..5).for_each(|_| {
                    fpm.get("count.php", "", "");
                })
            });
        }
    });
    assert_eq!(server.stored("s"), Some((0, b"n|i:40;".to_vec())));
}
