//! The Memcache API on Redis nodes, from PHP: what is stored looks as other clients expect it, and what goes wrong
//! is said once, with its remedy. `contract` holds every command's outcome, `redis_sessions` sessions.

use crate::pool::Bench;
use crate::secrets;
use harness::{Memcached, Php, Redis, TempDir};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{NodeSpec, Policy, Schemes};
use memring_pool::error::Kind;
use memring_pool::wire::Store;
use redis::Commands;

/// A pool of these nodes.
fn over(nodes: &[&str]) -> Bench {
    let mut bench = Bench::of(Policy::default(), &[]);
    for node in nodes {
        let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
        bench.pool.add(spec, &mut bench.directory);
    }
    bench
}

/// A page that talks to this server as `$m`.
fn page(php: &Php, node: &str, body: &str) -> String {
    let script = format!("$m = new Memcache; $m->addServer('{node}'); {body}");
    php.run(&script).ok()
}

#[test]
fn an_independent_client_reads_what_php_stored() {
    let server = Redis::start();
    let node = format!("redis://{}", server.address());
    page(
        &Php::new(),
        &node,
        r#"$m->set(['text' => "a\0b\r\n", 'int' => -7, 'yes' => true, 'float' => 2.5, 'list' => [1, 'x'], 'empty' => '']);
        $m->set('long', str_repeat('xy', 9000), false, 60); $m->set('packed', str_repeat('a', 5000), MEMCACHE_COMPRESSED);
        $m->append('text', '!'); $m->prepend('text', '?'); $m->set('n', 41); $m->increment('n'); $m->set('gone', 1); $m->delete('gone');"#,
    );
    let mut client = server.client();
    let plain = |client: &mut redis::Connection, key: &str| -> Vec<u8> { client.get(key).unwrap() };
    // A string is a string for everybody.
    assert_eq!(plain(&mut client, "text"), b"?a\0b\r\n!");
    assert_eq!(plain(&mut client, "empty"), b"");
    assert_eq!(
        plain(&mut client, "long"),
        [b"xy".as_slice(); 9000].concat()
    );
    let left: i64 = client.ttl("long").unwrap();
    assert!((1..=60).contains(&left), "{left}");
    // What PHP has to get back as something else is marked with its flags.
    for (key, flags, text) in [
        ("int", 768_u32, b"-7".as_slice()),
        ("yes", 256, b"1"),
        ("float", 1792, b"2.5"),
        ("list", 1, b"a:2:{i:0;i:1;i:1;s:1:\"x\";}"),
        ("n", 768, b"42"),
    ] {
        let expected = [b"\0mr1".as_slice(), &flags.to_be_bytes(), text].concat();
        assert_eq!(plain(&mut client, key), expected, "{key}");
    }
    let mut unpacked = Vec::new();
    let packed = plain(&mut client, "packed");
    std::io::Read::read_to_end(
        &mut flate2::read::ZlibDecoder::new(&packed[8..]),
        &mut unpacked,
    )
    .unwrap();
    assert_eq!(
        (&packed[..8], unpacked),
        (b"\0mr1\0\0\0\x02".as_slice(), vec![b'a'; 5000])
    );
    assert!(!client.exists::<_, bool>("gone").unwrap());
}

#[test]
fn php_reads_and_counts_what_an_independent_client_stored() {
    let server = Redis::start();
    let mut client = server.client();
    let _: () = client.set("text", "a\0b").unwrap();
    let _: () = client.set("n", 41).unwrap();
    let _: () = client.set("big", vec![b'z'; 300_000]).unwrap();
    let _: () = client.hset("hash", "a", 1).unwrap();
    let text = page(
        &Php::new(),
        &format!("redis://{}", server.address()),
        r#"var_dump($m->get('text'), $m->get('n'), strlen($m->get('big')), $m->increment('n', 1), $m->get(['n', 'none', 'hash']));
        var_dump(@$m->get('hash'));"#,
    );
    assert_eq!(
        text,
        "string(3) \"a\0b\"\nstring(2) \"41\"\nint(300000)\nint(42)\narray(1) {\n  [\"n\"]=>\n  string(2) \"42\"\n}\nbool(false)"
    );
    let n: i64 = client.get("n").unwrap();
    assert_eq!(n, 42);
}

#[test]
fn values_of_every_kind_come_back_to_php_from_a_ring_of_redis_nodes() {
    let servers = [(); 3].map(|()| Redis::start());
    let add: String = servers
        .iter()
        .map(|server| format!("$m->addServer('redis://{}');", server.address()))
        .collect();
    let script = format!(
        r#"$m = new Memcache; {add}
        $all = []; for ($i = 0; $i < 300; $i++) $all["k$i"] = [1, 'x' . $i, $i, $i / 4, $i % 2 == 0, false][$i % 6];
        var_dump($m->set($all, null, 0, 300), $m->get(array_keys($all)) == $all);
        foreach ($all as $k => $v) if ($m->get($k) !== $v) echo "$k is another\n";
        var_dump($m->getServerStatus('{0}', {1}), preg_match('/^\d+\.\d+/', $m->getVersion()));
        $stats = $m->getExtendedStats(); var_dump(count($stats), array_sum(array_column($stats, 'curr_items')));
        $m->get('k1', $flags, $cas); var_dump($cas > 0, $m->cas('k1', 'new', 0, 0, $cas), $m->cas('k1', 'newer', 0, 0, $cas), $m->get('k1'));
        var_dump($m->flush(), $m->get('k1'));"#,
        servers[0].address().split(':').next().unwrap(),
        servers[0].port(),
    );
    let text = Php::new().run(&script).ok();
    assert_eq!(
        text.replace('\n', " "),
        "bool(true) bool(true) int(1) int(1) int(3) int(300) bool(true) bool(true) bool(false) string(3) \"new\" bool(true) bool(false)"
    );
    let used: Vec<bool> = servers
        .iter()
        .map(|server| {
            server
                .info("total_commands_processed")
                .parse::<u32>()
                .unwrap()
                > 50
        })
        .collect();
    assert_eq!(used, [true; 3], "the ring left a node out");
}

#[test]
fn a_server_that_forgot_the_scripts_is_given_them_again() {
    let server = Redis::start();
    let mut bench = over(&[&format!("redis://{}", server.address())]);
    assert_eq!(bench.store(Store::Set, "n", b"1", 0), Outcome::Done);
    for n in 2..5 {
        let _: () = redis::cmd("SCRIPT")
            .arg("FLUSH")
            .query(&mut server.client())
            .unwrap();
        let counted = bench.run(Verb::Increment, &["n"], |call, i| {
            call.entry_mut(i).unwrap().delta = 1;
        });
        assert_eq!(counted, [Outcome::Number(n)]);
        assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    }
    assert_eq!(bench.store(Store::Append, "n", b"0", 0), Outcome::Done);
    assert_eq!(server.client().get::<_, Vec<u8>>("n").unwrap()[8..], *b"40");
}

#[test]
fn who_is_not_let_in_is_told_why_and_nothing_is_stored() {
    let server = Redis::with(&["--requirepass", "right"]);
    let address = server.address();
    for (node, expected) in [
        (
            format!("redis://:wrong@{address}"),
            ["refuses the password", "requirepass"],
        ),
        (
            format!("redis://u:right@{address}"),
            ["refuses the user and password", "ACL LIST"],
        ),
        (
            format!("redis://:right@{address}/99"),
            ["refuses the database", "numbered from 0"],
        ),
        (
            format!("redis://:right@{address}?client=a%20b"),
            ["refuses the client name", "without blanks"],
        ),
    ] {
        let mut bench = over(&[&node]);
        assert_eq!(
            bench.store(Store::Set, "k", b"v", 0),
            Outcome::Lost,
            "{node}"
        );
        let event = &bench.call.events()[0];
        assert_eq!(
            (event.error.kind(), event.fault),
            (Kind::Auth, true),
            "{node}"
        );
        for words in expected {
            assert!(event.message.contains(words), "{node}: {}", event.message);
        }
        assert!(
            !event.error.to_string().contains("wrong"),
            "{}",
            event.error
        );
    }
    // Without a word said, the server itself refuses each command.
    let mut bench = over(&[&format!("redis://{address}")]);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    let message = &bench.call.events()[0].message;
    assert!(
        message.contains("NOAUTH") && message.contains("redis://:PASSWORD@HOST"),
        "{message}"
    );
    // Who was refused does not keep others out.
    let mut bench = over(&[&format!("redis://:right@{address}")]);
    assert_eq!(bench.get("k"), None);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    let keys: u64 = redis::cmd("DBSIZE")
        .query(&mut server.client_as(":right@"))
        .unwrap();
    assert_eq!(keys, 0);
}

#[test]
fn a_password_where_none_is_asked_for_is_an_error_with_its_remedy() {
    let server = Redis::start();
    let mut bench = over(&[&format!("redis://:x@{}", server.address())]);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    let message = &bench.call.events()[0].message;
    assert!(
        message.contains("asks for no password. Take it out"),
        "{message}"
    );
}

#[test]
fn the_wrong_kind_of_server_is_named_with_the_text_to_write() {
    let (redis, memcached) = (Redis::start(), Memcached::start());
    memcached.raw("set precious 0 0 1\r\nv\r\n", "STORED\r\n");
    let mut bench = over(&[&format!("redis://{}", memcached.address())]);
    // A line of a value is a command to who does not know RESP.
    let value = b"x\r\nflush_all\r\n";
    assert_eq!(bench.store(Store::Set, "k", value, 0), Outcome::Lost);
    let message = bench.call.events()[0].message.clone();
    assert!(
        message.contains("speaks as memcached does. Write tcp://"),
        "{message}"
    );
    let mut bench = over(&[&redis.address()]);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    let message = bench.call.events()[0].message.clone();
    assert!(
        message.contains("speaks as Redis does. Write redis://"),
        "{message}"
    );
    let mut bench = over(&[&format!("redis://:x@{}", memcached.address())]);
    assert_eq!(bench.get("k"), None);
    let message = bench.call.events()[0].message.clone();
    assert!(message.contains("speaks as memcached does"), "{message}");
    assert!(
        memcached.stored("precious").is_some(),
        "the value was carried out"
    );
    assert_eq!(memcached.stat("curr_items"), 1);
    let keys: u64 = redis::cmd("DBSIZE").query(&mut redis.client()).unwrap();
    assert_eq!(keys, 0);
}

#[test]
fn what_a_server_refuses_is_said_with_its_remedy_and_costs_no_node() {
    let master = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let cluster = Redis::with(&[
        "--cluster-enabled",
        "yes",
        "--cluster-require-full-coverage",
        "no",
    ]);
    let small = Redis::with(&["--maxmemory", "1mb", "--maxmemory-policy", "noeviction"]);
    let _: () = small.client().hset("hash", "a", 1).unwrap_or_default();
    for (server, value, words) in [
        (&replica, 1, ["READONLY", "name its master"]),
        (&cluster, 1, ["CLUSTERDOWN", "written as redis-cluster://"]),
        (&small, 2_000_000, ["OOM", "Raise maxmemory"]),
    ] {
        let mut bench = over(&[&format!("redis://{}", server.address())]);
        let value = vec![b'x'; value];
        // The first that is too much may still fit in.
        let refused = (0..3)
            .find(|n| bench.store(Store::Set, &format!("k{n}"), &value, 0) == Outcome::Refused);
        assert!(refused.is_some(), "{words:?}");
        let event = &bench.call.events()[0];
        for words in words {
            assert!(event.message.contains(words), "{}", event.message);
        }
        assert!(!event.fault && bench.pool.is_up(0), "{}", event.message);
    }
    let mut bench = over(&[&format!("redis://{}", master.address())]);
    let _: () = master.client().hset("hash", "a", 1).unwrap();
    assert_eq!(
        bench.store(Store::Append, "hash", b"x", 0),
        Outcome::Refused
    );
    let message = &bench.call.events()[0].message;
    assert!(
        message.contains("WRONGTYPE") && message.contains("no string"),
        "{message}"
    );
    // memcached's own ways to ask are refused before anything is sent.
    assert!(!bench.pool.flush(10, &mut bench.call));
    assert!(
        bench.call.events()[0]
            .message
            .contains("Leave the delay out")
    );
    assert!(master.client().exists::<_, bool>("hash").unwrap());
}

#[test]
fn a_server_without_a_command_repeats_no_password_of_ours() {
    let server = Redis::with(&["--rename-command", "AUTH", ""]);
    let mut bench = over(&[&format!("redis://:geheim@{}", server.address())]);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    let told = format!("{:?}", bench.call.events());
    assert!(
        told.contains("unknown command") && !told.contains("geheim"),
        "{told}"
    );
}

#[test]
fn a_node_is_found_by_the_words_that_added_it_and_a_second_database_needs_a_name() {
    let server = Redis::start();
    let php = Php::new().env("AT", server.address());
    let script = r#"
        $at = getenv('AT'); [$host, $port] = explode(':', $at);
        $m = new Memring\Memcache; $m->addServer("redis://$at/1");
        foreach (["redis://$at/1", "redis://$at/0", "redis://$at", "tcp://$at"] as $node) echo json_encode(@$m->getServerStatus($node));
        echo $m->getServerStatus($host, (int)$port), ' ';
        echo json_encode($m->addServer("redis://$at/2")), ' ';
        echo json_encode($m->addServer("redis://$at/2?id=two"));"#;
    let text = php.run(script).ok().replace(&server.address(), "AT");
    let refused = "two databases of AT are one place to placement \"pecl-consistent\", and one of them would get \
        no key. Write id=NAME behind each (redis://HOST/1?id=NAME), or take one out in ";
    assert!(
        text.starts_with("1falsefalsefalse1 ") && text.ends_with("false true"),
        "{text}"
    );
    assert!(text.contains(refused), "{text}");
}

#[test]
fn a_node_that_comes_back_is_used_again_and_greeted_again() {
    let mut server = Redis::with(&["--requirepass", "x"]);
    let node = format!("redis://:x@{}/1", server.address());
    let mut bench = over(&[&node]);
    bench
        .pool
        .set_params(0, std::time::Duration::from_secs(2), 0, true);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    server.kill();
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    server.restart();
    assert_eq!(bench.get("k"), None);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    let mut client = server.client_as(":x@");
    let _: () = redis::cmd("SELECT").arg(1).query(&mut client).unwrap();
    assert!(
        client.exists::<_, bool>("k").unwrap(),
        "it is in another database"
    );
}

#[test]
fn a_password_is_shown_nowhere() {
    let server = Redis::with(&["--requirepass", "geheim"]);
    let memcached = Memcached::with_logins(&["app:geheim"], &[]);
    let directory = TempDir::new("secrets");
    let file = directory.file(
        "pools.toml",
        format!(
            "[pool.p]\nnodes = [\"redis://:geheim@{}\", \"memcached://app:geheim@{}\"]\n",
            server.address(),
            memcached.address()
        ),
    );
    let (log, errors) = (
        directory.path().join("log"),
        directory.path().join("errors"),
    );
    let script = r#"$m = new Memcache; $m->addServer('pool:p'); for ($i = 0; $i < 50; $i++) $m->set("k$i", 1); var_dump($m->get('k1'));
        foreach (explode(' ', getenv('WRONG')) as $wrong) { $w = new Memcache; $w->addServer($wrong); var_dump($w->set('k', 1)); $w->get('k'); }
        print_r($m); var_dump($m, Memring\status(), Memring\route('p', 'get', 'k')); phpinfo(); print_r($m->getExtendedStats());
        // As frameworks do, and the arguments of all calls on the way are in the trace.
        set_error_handler(fn($level, $text) => throw new ErrorException($text));
        $thrown = 0;
        foreach (['redis://:geheim@a b', 'memcached://:geheim@a', 'memcached://u:geheim@a b', 'memcached://u:ge heim@a', 'a?password=geheim'] as $bad)
            foreach ([[$m, 'addServer'], [new MemcachePool, 'addServer'], [$m, 'connect'], 'memcache_connect', 'memcache_pconnect'] as $call)
                try { $call($bad); } catch (Throwable $e) { $thrown++; echo $e; print_r($e->getTrace()); debug_print_backtrace(); }
        try { memcache_add_server($m, 'redis://:geheim@a b'); } catch (Throwable $e) { $thrown++; echo $e; print_r($e->getTrace()); }
        try { $m->setSaslAuthData('app', "geheim\n"); } catch (Throwable $e) { $thrown++; echo $e; print_r($e->getTrace()); }
        try { memcache_set_sasl_auth_data($m, 'app', "geheim\n"); } catch (Throwable $e) { $thrown++; echo $e; print_r($e->getTrace()); }
        echo "thrown: $thrown";"#;
    let output = Php::new()
        .ini("memring.config_file", file.display())
        .ini("memring.trace", log.display())
        .ini("zend.exception_ignore_args", 0)
        .ini("zend.exception_string_param_max_len", 100)
        .ini("log_errors", 1)
        .ini("error_log", errors.display())
        .env(
            "WRONG",
            format!(
                "redis://:geheim2@{} memcached://app:geheim2@{}",
                server.address(),
                memcached.address()
            ),
        )
        .run(script);
    let text = output.text();
    assert!(text.contains("int(1)"), "{text}");
    // Each of five hosts in five ways, and three calls more.
    assert!(text.contains("thrown: 28"), "{text}");
    assert!(text.contains("SensitiveParameterValue"), "{text}");
    let shown = text.lines().filter(|line| line.contains("geheim"));
    // PHP itself shows the environment.
    let ours: Vec<&str> = shown
        .filter(|line| !line.starts_with("WRONG =>") && !line.contains("['WRONG']"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    secrets::not_in_the_log("geheim", &errors, &output);
    let traced = std::fs::read_to_string(&log).expect("a trace was written");
    assert!(!traced.is_empty() && !traced.contains("geheim"), "{traced}");
}

#[test]
fn a_server_that_never_ends_its_first_answer_costs_the_timeout() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 256]);
            let mut sent = stream.write_all(b"*99999999999\r\n");
            while sent.is_ok() {
                sent = stream.write_all(b":1\r\n");
            }
        }
    });
    let mut bench = over(&[&format!("redis://:x@127.0.0.1:{port}")]);
    bench
        .pool
        .set_params(0, std::time::Duration::from_millis(300), 15, true);
    let begin = std::time::Instant::now();
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
}

/// What is asked of a server first is no answer to what comes behind it.
#[test]
fn a_store_right_behind_a_connect_is_stored() {
    let server = Redis::start();
    let script = "foreach (['connect', 'pconnect'] as $way) { $m = new Memcache; \
        echo json_encode([$m->$way('redis://127.0.0.1', (int)getenv('PORT')), $m->set($way, 1), $m->get($way)]); }";
    let php = Php::new().env("PORT", server.port());
    assert_eq!(php.run(script).ok(), "[true,true,1][true,true,1]");
}
