//! watch(), multi(), exec() and discard() on real Redis nodes, from PHP: all or nothing, and nothing left behind.

use harness::{Fault, Memcached, Php, Proxy, Redis, TempDir, wait_until};
use redis::Commands;
use std::time::Duration;

/// The beginning of a script: an object on `node`, and another client of the server at `port`.
fn head(node: &str, port: u16) -> String {
    format!(
        r#"
        set_error_handler(function ($level, $text) {{ echo "  $text\n"; return true; }});
        function say(...$all) {{ echo json_encode($all), "\n"; }}
        $other = fsockopen('127.0.0.1', {port});
        function other(...$words) {{
            global $other; fwrite($other, implode(' ', $words) . "\r\n"); return trim(fgets($other));
        }}
        $m = new Memring\Memcache; $m->addServer('{node}');
        "#
    )
}

fn run(server: &Redis, query: &str, body: &str) -> Vec<String> {
    let node = format!("redis://{}{query}", server.address());
    let text = Php::new().run(&(head(&node, server.port()) + body)).ok();
    text.lines().map(str::to_owned).collect()
}

#[test]
fn all_of_a_transaction_is_done_and_each_command_has_its_result() {
    for query in ["", "?resp=3"] {
        let server = Redis::start();
        let lines = run(
            &server,
            query,
            r#"
            $m->set(['text' => 'a', 'n' => 41, 'gone' => 1, 'list' => [1, 2]]);
            say($m->watch(['text', 'n']), $m->watch('list'), $m->get('list'));
            say($m->multi(), $m->set('list', [1, 2, 3], 0, 60), $m->increment('n'), $m->increment('fresh', 1, 10), $m->decrement('n', 2),
                $m->delete('gone'), $m->delete('gone'), $m->add('text', 'no'), $m->append('text', 'b'), $m->touch('text', 100),
                $m->set('bytes', "\0mr1\r\n" . str_repeat('x', 9000)), $m->set(['i' => 1, 'j' => 2.5]), $m->increment(['n', 'nobody']));
            say(strlen(other('GET', 'fresh')), $m->exec());
            say($m->get(['text', 'n', 'fresh', 'list', 'i', 'j', 'gone']), strlen($m->get('bytes')));
            // A second one over the same connection, without watch(), and an empty one.
            other('SCRIPT', 'FLUSH');
            say($m->multi(), $m->increment('n'), $m->prepend('text', '<'), $m->exec(), $m->get('text'));
            say($m->multi(), $m->exec(), $m->watch('n'), $m->multi(), $m->exec());
            say($m->watch('n'), $m->discard(), $m->multi(), $m->set('n', 5), $m->discard(), $m->get('n'));
            "#,
        );
        assert_eq!(
            lines,
            [
                "[true,true,[1,2]]",
                "[true,true,true,true,true,true,true,true,true,true,true,true,true]",
                "[3,[true,42,10,40,true,false,false,true,true,true,true,true,41,false]]",
                r#"[{"text":"ab","n":41,"fresh":10,"list":[1,2,3],"i":1,"j":2.5},9006]"#,
                r#"[true,true,true,[42,true],"<ab"]"#,
                "[true,[],true,true,[]]",
                "[true,true,true,true,true,42]",
            ],
            "{query}"
        );
        let left: i64 = server.client().ttl("list").unwrap();
        assert!((1..=60).contains(&left), "{left}");
    }
}

#[test]
fn nothing_is_done_when_a_watched_key_changed_and_the_next_try_can_succeed() {
    let server = Redis::start();
    let lines = run(
        &server,
        "",
        r#"
        foreach (['SET k other', 'SET k mine', 'DEL k', 'EXPIRE k 100', 'SET new 1', 'FLUSHDB'] as $change) {
            $m->set('k', 'mine'); $m->delete('new');
            $m->watch('k'); $m->watch(['new']); $m->get('k'); other($change);
            $m->multi(); $m->set('done', 1); $m->increment('count', 1, 1);
            say($change, $m->exec(), $m->get(['done', 'count']));
        }
        // What was watched before is not any more.
        $m->watch('k'); $m->discard(); other('SET k again'); $m->multi(); $m->set('k', 'ours'); say($m->exec(), $m->get('k'));
        // What this object itself changes counts as any change does.
        $m->watch('k'); $m->set('k', 'self'); $m->multi(); $m->set('done', 1); say($m->exec(), $m->get('done'));
        // Ten writers, each of whom adds one to a number that it read.
        $all = []; for ($i = 0; $i < 10; $i++) { $all[$i] = new Memring\Memcache; $all[$i]->addServer(NODE); }
        $m->set('sum', 0); $tries = 0; $left = array_fill(0, 10, 5);
        while (array_sum($left)) {
            foreach ($all as $i => $one) if ($left[$i]) { $one->watch('sum'); $seen[$i] = $one->get('sum'); }
            foreach ($all as $i => $one) if ($left[$i]) { $one->multi(); $one->set('sum', $seen[$i] + 1); $tries++; if ($one->exec()) $left[$i]--; }
        }
        say($m->get('sum'), $tries > 200);
        "#
        .replace("NODE", &format!("'redis://{}'", server.address()))
        .as_str(),
    );
    let expected: Vec<String> = [
        "SET k other",
        "SET k mine",
        "DEL k",
        "EXPIRE k 100",
        "SET new 1",
        "FLUSHDB",
    ]
    .map(|change| format!("[\"{change}\",false,[]]"))
    .to_vec();
    assert_eq!(lines[..6], expected);
    assert_eq!(
        lines[6..],
        ["[[true],\"ours\"]", "[false,false]", "[50,true]"]
    );
}

#[test]
fn keys_of_several_nodes_are_refused_with_their_names_and_a_tag_keeps_them_together() {
    let (a, b) = (Redis::start(), Redis::start());
    let directory = TempDir::new("tags");
    let text = format!(
        "[pool.p]\nnodes = [\"redis://{}\", \"redis://{}\"]\ntag = \"{{}}\"\nplacement = \"rendezvous\"\n",
        a.address(),
        b.address()
    );
    let path = directory.file("memring.toml", &text);
    let script = head("pool:p", a.port())
        + r#"
        $first = 'k0'; for ($i = 1; $m->findServer("k$i") === $m->findServer($first); $i++); $far = "k$i";
        for ($i++; $m->findServer("k$i") !== $m->findServer($first); $i++); $near = "k$i";
        $m->set($first, 'before');
        say($m->watch([$first, $far]), $m->watch($first), $m->watch($far), $m->multi());
        say($m->set($near, 1), $m->set([$near => 2, $far => 2]), $m->increment($far), $m->exec(), $m->get($near), $m->get($far));
        say($m->watch($first), other('SET', $first, 'changed'), $m->multi(), $m->set($near, 3));
        $m->exec();
        for ($i = 0; $i < 20; $i++) { $m->multi(); $m->set("{user17}:$i", $i); $m->set("cart{user17}$i", $i); if ($m->exec() !== [true, true]) echo "no\n"; }
        "#;
    let text = Php::new()
        .ini("memring.config_file", path.display())
        .run(&script)
        .ok();
    let lines: Vec<&str> = text.lines().collect();
    let refused = |line: &str, call: &str| {
        line.starts_with(&format!("  Memring\\Memcache::{call}(): a transaction is one node's: key \"k0\" is on 127.0.0.1:"))
            || line.starts_with(&format!("  MemcachePool::{call}(): a transaction is one node's: key \"k"))
    };
    assert!(
        refused(lines[0], "watch") && refused(lines[1], "watch"),
        "{text}"
    );
    assert!(
        lines[0].contains(&a.address()) && lines[0].contains(&b.address()),
        "{text}"
    );
    assert!(
        lines[0].ends_with(
            "Write tag = \"{}\" into a pool of the file, and the same {…} into both keys"
        ),
        "{text}"
    );
    assert_eq!(lines[2], "[false,true,false,true]");
    assert!(
        refused(lines[3], "set") && refused(lines[4], "increment"),
        "{text}"
    );
    assert_eq!(lines[5], "[true,false,false,[true],1,false]");
    assert_eq!(lines.len(), 7, "{text}");
}

#[test]
fn pools_without_transactions_and_calls_out_of_order_are_refused_clearly() {
    let (redis, node) = (Redis::start(), Memcached::start());
    let directory = TempDir::new("refused");
    let other = Redis::start();
    let text = format!(
        "[pool.sync]\nnodes = [\"redis://{}\", \"redis://{}\"]\nmode = \"sync\"\n[pool.mc]\nnodes = [\"tcp://127.0.0.1:{}\"]\nmode = \"single\"\n",
        redis.address(),
        other.address(),
        node.port()
    );
    let path = directory.file("memring.toml", &text);
    let script = head(&format!("redis://{}", redis.address()), redis.port())
        + r#"
        say($m->exec(), $m->discard());
        say($m->multi(), $m->multi(), $m->watch('k'), $m->get('k'), $m->getAndTouch('k', 5), $m->set('k', 1), $m->exec());
        foreach (['pool:sync', 'pool:mc'] as $pool) {
            $p = new Memring\Memcache; $p->addServer($pool);
            say($p->watch('k'), $p->multi(), $p->set('k', 2), $p->exec());
        }
        ini_set('memcache.redundancy', 2); say($m->watch('k'));
        $none = new Memring\Memcache; say($none->watch('k'), $none->multi(), $none->exec(), $none->discard());
        "#;
    let text = Php::new()
        .ini("memring.config_file", path.display())
        .run(&script)
        .ok();
    let expected = [
        "exec() without multi()",
        "discard() without watch() or multi()",
        "[false,false]",
        "multi() inside of multi()",
        "watch() comes before multi()",
        "a value cannot be read inside of multi(). Read it before, after watch(): exec() does nothing when it changed",
        "a value cannot be read inside of multi(). Read it before, after watch(): exec() does nothing when it changed",
        "[true,false,false,false,false,true,[true]]",
        "a transaction is one node's, and this pool keeps copies or has rules for prefixes. Use a pool of mode single without them",
        "a transaction is one node's, and this pool keeps copies or has rules for prefixes. Use a pool of mode single without them",
        "exec() without multi()",
        "[false,false,true,false]",
        "is a memcached, which has no transactions. Use cas() there, or name Redis nodes: redis://HOST",
        "is a memcached, which has no transactions. Use cas() there, or name Redis nodes: redis://HOST",
        "[false,true,false,[]]",
        "a transaction is one node's, and memcache.redundancy keeps copies. Set memcache.redundancy = 1",
        "[false]",
        "No servers added to memcache connection",
        "No servers added to memcache connection",
        "No servers added to memcache connection",
        "No servers added to memcache connection",
        "[false,false,false,false]",
    ];
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), expected.len(), "{text}");
    for (line, end) in lines.iter().zip(expected) {
        assert!(line.ends_with(end), "{line}\n{end}");
    }
    assert!(node.stored("k").is_none());
}

#[test]
fn a_connection_that_is_lost_takes_the_transaction_with_it_and_nothing_is_done() {
    let server = Redis::start();
    let lines = run(
        &server,
        "",
        r#"
        $kill = function ($kind) { global $other; other('CLIENT', 'KILL', 'TYPE', $kind, 'SKIPME', 'yes'); };
        $m->set('k', 'before');
        // Lost between watch() and exec(): a new connection would watch nothing.
        $m->watch('k'); $m->get('k'); $kill('normal'); usleep(20000); other('SET', 'k', 'changed');
        $m->multi(); $m->set('k', 'ours'); say($m->exec(), other('GET', 'k') . fgets($other));
        // At once, too, before anybody could have looked.
        $m->watch('k'); $kill('normal'); $m->multi(); $m->set('k', 'ours'); say($m->exec());
        // Lost between two watch(): nothing is watched, and it says so.
        $m->watch('k'); $kill('normal'); usleep(20000); say($m->watch('l'), $m->multi(), $m->set('l', 1), $m->exec());
        // An idle one that watches nothing is replaced without a word.
        $m->multi(); $m->set('l', 2); $m->exec(); $kill('normal'); usleep(20000); $m->multi(); $m->set('l', 3); say($m->exec(), $m->get('l'));
        "#,
    );
    let lost = |line: &str| line.contains("failed with: Connection closed by the server");
    assert!(lost(&lines[0]), "{lines:?}");
    assert_eq!(lines[1], r#"[false,"$7changed\r\n"]"#);
    let rest: Vec<&str> = lines[2..]
        .iter()
        .map(String::as_str)
        .filter(|line| !lost(line))
        .collect();
    assert_eq!(
        rest,
        ["[false]", "[false,true,true,[true]]", "[[true],3]"],
        "{lines:?}"
    );
    let k: String = server.client().get("k").unwrap();
    assert_eq!(k, "changed");
}

#[test]
fn what_nobody_knows_the_outcome_of_is_null_and_no_reason_to_try_again() {
    let server = Redis::start();
    let proxy = Proxy::start(server.port());
    // What multi() answers comes through, and of the answers behind it one byte.
    proxy.fault(Fault::CloseAfter(b"+OK\r\n+".len()));
    let body = r#"
        for ($try = 0; $try < 3; $try++) {
            $m->multi(); $m->increment('seats', 1, 1);
            if (($done = $m->exec()) !== false) break;
        }
        say($done, $try);
        "#;
    let node = format!("redis://127.0.0.1:{}", proxy.port());
    let text = Php::new().run(&(head(&node, server.port()) + body)).ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 2, "{text}");
    assert!(lines[0].contains("Connection closed"), "{text}");
    assert_eq!(lines[1], "[null,0]");
    let seats: Vec<u8> = server.client().get("seats").unwrap();
    assert_eq!(seats[8..], *b"1");
}

#[test]
fn flush_is_no_part_of_a_transaction_and_empties_nothing_in_one() {
    let server = Redis::start();
    let lines = run(
        &server,
        "",
        r#"
        $m->set('keep', 1); $m->multi(); $m->set('k', 2);
        say($m->flush(), $m->exec(), $m->get(['keep', 'k']), $m->flush(), $m->get('keep'));
        "#,
    );
    assert!(
        lines[0].ends_with(
            "flush() is not part of a transaction. Call it before multi(), or after exec() or discard()"
        ),
        "{lines:?}"
    );
    assert_eq!(
        lines[1..],
        [r#"[false,[true],{"keep":1,"k":2},true,false]"#]
    );
}

#[test]
fn a_node_that_is_down_is_told_of_at_each_try_and_nothing_is_done() {
    let server = Redis::start();
    let lines = run(
        &server,
        "",
        r#"
        $m->set('k', 1); $m->watch('k'); $m->multi(); $m->set('k', 2);
        fwrite($other, "SHUTDOWN NOSAVE\r\n"); fgets($other); fgets($other);
        for ($i = 0; $i < 3; $i++) { say($m->exec()); say($m->watch('k')); $m->multi(); $m->set('k', 3); }
        "#,
    );
    let (told, said): (Vec<_>, Vec<_>) = lines.iter().partition(|line| line.starts_with("  "));
    assert_eq!(said, ["[false]"; 6], "{lines:?}");
    assert_eq!(told.len(), 6, "{lines:?}");
    assert!(
        told.iter()
            .all(|line| line.contains("failed with: Connection")),
        "{lines:?}"
    );
}

#[test]
fn the_example_books_the_last_seat_once() {
    let server = Redis::start();
    let text = Php::new()
        .env("MEMRING_REDIS", format!("redis://{}", server.address()))
        .run_file(&harness::workspace().join("php/examples/transaction.php"))
        .ok();
    assert_eq!(
        text,
        "anna has a seat, 1 left\nanna was there meanwhile: once more\nben has a seat, 0 left\ncara: no seat left"
    );
}

#[test]
fn the_end_of_a_request_and_a_killed_worker_leave_nothing_behind() {
    let server = Redis::start();
    let node = format!("redis://{}", server.address());
    let wait = |what: &str, done: &dyn Fn() -> bool| {
        assert!(wait_until(Duration::from_secs(20), done), "{what}");
    };
    let clients = || -> String {
        redis::cmd("CLIENT")
            .arg("LIST")
            .query(&mut server.client())
            .unwrap()
    };
    let begun = head(&node, server.port())
        + "$m->set('k', 1); $m->watch('k'); $m->multi(); $m->set('k', 2); $m->increment('k'); ";
    // The object goes while the process and its persistent connections stay.
    let text = Php::new()
        .run(&format!(
            "function page() {{ global $m, $other; {begun} }} page(); $m = null; gc_collect_cycles();
            $n = new Memring\\Memcache; $n->addServer('{node}'); var_dump($n->get('k'), $n->set('l', 5), $n->get('l'));
            $n->multi(); $n->set('k', 7); say($n->exec());"
        ))
        .ok();
    assert_eq!(text, "int(1)\nbool(true)\nint(5)\n[[true]]");
    // exit, and an exception nobody catches.
    for end in ["exit;", "throw new Exception;"] {
        Php::new().run(&format!("{begun} {end}")).text();
        assert_eq!(
            server.client().get::<_, Vec<u8>>("k").unwrap()[8..],
            *b"1",
            "{end}"
        );
    }
    // Killed with the queue full, and with MULTI under way.
    let mut php = Php::new().start(&format!("{begun} other('SET', 'here', '1'); sleep(60);"));
    wait("the worker waits", &|| {
        server.client().exists::<_, bool>("here").unwrap()
    });
    assert!(
        clients().contains("watch=1") || clients().contains("sub=0"),
        "{}",
        clients()
    );
    php.kill();
    wait("its connections are gone", &|| {
        clients().lines().count() == 1
    });
    assert_eq!(server.client().get::<_, Vec<u8>>("k").unwrap()[8..], *b"1");
}

#[test]
fn a_user_without_the_commands_is_told_and_nothing_is_done_one_by_one() {
    let server = Redis::start();
    let mut client = server.client();
    for (name, rules) in [
        ("nomulti", "-multi"),
        ("nowatch", "-watch"),
        ("noset", "-set"),
    ] {
        let rules = [
            "ACL", "SETUSER", name, "on", ">secret", "~*", "+@all", rules,
        ];
        let _: () = redis::cmd(rules[0])
            .arg(&rules[1..])
            .query(&mut client)
            .unwrap();
    }
    let as_user = |name: &str, body: &str| -> String {
        let node = format!("redis://{name}:secret@{}", server.address());
        Php::new().run(&(head(&node, server.port()) + body)).ok()
    };
    let both = "$m->multi(); $m->delete('d'); $m->set('k', 1); say($m->exec());";
    for name in ["nomulti", "noset"] {
        let _: () = client.set("d", 1).unwrap();
        let text = as_user(name, both);
        assert!(
            text.contains("NOPERM") && text.ends_with("[false]"),
            "{text}"
        );
        assert!(!text.contains("secret"), "{text}");
        assert!(
            client.exists::<_, bool>("d").unwrap() && !client.exists::<_, bool>("k").unwrap(),
            "{name}"
        );
    }
    let text = as_user("nowatch", "say($m->watch('k'));");
    assert!(
        text.contains("NOPERM") && text.ends_with("[false]"),
        "{text}"
    );
}

#[test]
fn a_command_that_cannot_be_carried_out_is_false_among_the_others() {
    let server = Redis::start();
    let lines = run(
        &server,
        "",
        r#"
        $m->set('text', 'abc'); other('LPUSH', 'list', 'x');
        $m->multi(); $m->set('a', 1); $m->increment('text'); $m->append('list', 'x'); $m->set('b', 2);
        say($m->exec(), $m->get(['a', 'b', 'text']));
        "#,
    );
    assert!(
        lines[0].contains("cannot increment or decrement non-numeric value"),
        "{lines:?}"
    );
    assert!(lines[1].contains("WRONGTYPE"), "{lines:?}");
    assert_eq!(
        lines[2],
        r#"[[true,false,false,true],{"a":1,"b":2,"text":"abc"}]"#
    );
}

#[test]
fn what_another_node_has_of_a_watched_key_is_not_read_and_nothing_is_done_then() {
    let servers = [Redis::start(), Redis::start()];
    // One value where it is watched, and another on the node that stands in for it.
    for (server, value) in servers.iter().zip([5, 500]) {
        for number in 0..20 {
            let () = server.client().set(format!("k{number}"), value).unwrap();
        }
    }
    let node = format!("redis://{}", servers[0].address());
    let other = format!("redis://{}", servers[1].address());
    let script = head(&node, servers[0].port())
        + &format!(
            r#"
            $m->addServer('{other}');
            $i = 0; while (strpos($m->findServer("k$i"), '{port}') === false) $i++;
            $k = "k$i";
            function away($m, bool $away) {{ $m->setServerParams('{node}', {port}, 1, $away ? -1 : 15, !$away); }}
            away($m, true); say($m->get($k));
            away($m, false); say($m->watch($k));
            away($m, true); say($m->get($k), $m->get([$k]));
            away($m, false); $m->multi(); $m->set($k, 1); say($m->exec(), $m->get($k));
            say($m->watch($k), $m->get($k), $m->multi(), $m->set($k, 6), $m->exec(), $m->get($k));
            "#,
            port = servers[0].port()
        );
    let text = Php::new().run(&script).ok();
    let lines: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with("  "))
        .collect();
    assert_eq!(
        lines,
        [
            "[\"500\"]",
            "[true]",
            "[false,[]]",
            "[false,\"5\"]",
            "[true,\"5\",true,true,[true],6]"
        ],
        "{text}"
    );
    assert!(text.contains("was read after watch()"), "{text}");
}
