//! Nodes in TLS: who is believed, what is said when nobody is, and that a connection costs no more than it must.
//! `contract` holds every command in TLS, `cluster` and `sentinel` have their own servers in it.

use crate::companion::{Tend, is_safe};
use crate::pool::Bench;
use crate::sessions::php;
use harness::proxy::From;
use harness::{
    Certificates, Issued, Memcached, Php, PhpFpm, Proxy, Redis, TempDir, Valid, wait_until,
};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{Mode, NodeSpec, Placement, Policy, Schemes};
use memring_pool::error::Kind;
use memring_pool::pool::later;
use memring_pool::wire::Store;
use redis::Commands;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::time::{Duration, Instant};

fn over(policy: Policy, nodes: &[String]) -> Bench {
    let mut bench = Bench::of(policy, &[]);
    for node in nodes {
        let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
        bench.pool.add(spec, &mut bench.directory);
    }
    bench
}

fn one(node: &str) -> Bench {
    over(Policy::default(), &[node.to_owned()])
}

/// A server of each kind that shows this certificate, and its address without options.
fn both(issued: &Issued, ours: Option<&Certificates>) -> (Memcached, Redis, [String; 2]) {
    let ca = ours.map(Certificates::ca);
    let memcached = Memcached::with_tls(issued, ca.as_deref(), &[]);
    let redis = Redis::with_tls(issued, ca.as_deref(), &[]);
    let nodes = [
        format!("memcacheds://127.0.0.1:{}", memcached.tls_port()),
        format!("rediss://127.0.0.1:{}", redis.tls_port()),
    ];
    (memcached, redis, nodes)
}

/// What a store on this node is told; it must not come about, and be told once.
fn refusal(node: &str) -> (Kind, String) {
    let mut bench = one(node);
    assert_eq!(
        bench.store(Store::Set, "k", b"v", 0),
        Outcome::Lost,
        "{node}"
    );
    let [event] = bench.call.events() else {
        panic!("{node}: {:?}", bench.call.events());
    };
    assert!(event.fault && !bench.pool.is_up(0), "{node}");
    assert_eq!(
        event.error.node(),
        bench.pool.spec(0).map(NodeSpec::name).as_deref()
    );
    (event.error.kind(), event.message.clone())
}

#[test]
fn a_server_that_is_not_the_one_meant_is_named_with_what_to_do() {
    let (made, other) = (Certificates::new(), Certificates::new());
    let ca = format!("ca={}", made.ca().display());
    let good = "DNS:localhost,IP:127.0.0.1";
    for (issued, options, words) in [
        (
            made.issue("old", good, Valid::Before),
            ca.clone(),
            ["has expired", "Renew it"],
        ),
        (
            made.issue("new", good, Valid::Later),
            ca.clone(),
            ["not valid yet", "clock"],
        ),
        (
            made.issue("away", "DNS:cache.example", Valid::Now),
            ca.clone(),
            ["is for cache.example, not for 127.0.0.1", "server_name="],
        ),
        (
            made.server(),
            format!("{ca}&server_name=cache.example"),
            ["not for cache.example", "server_name="],
        ),
        (
            other.server(),
            ca.clone(),
            ["signed the server's certificate", "ca=FILE"],
        ),
        (
            other.server(),
            "retry_interval=1".to_owned(),
            ["nobody in this system's certificates", "ca=FILE"],
        ),
    ] {
        let (memcached, redis, nodes) = both(&issued, None);
        for node in nodes {
            let (kind, message) = refusal(&format!("{node}?timeout=5&{options}"));
            assert_eq!(kind, Kind::Tls, "{message}");
            for words in words {
                assert!(message.contains(words), "{words}: {message}");
            }
            // Who believes anybody is served all the same, and is kept out by nobody's mark.
            let mut bench = one(&format!("{node}?timeout=5&verify=no"));
            assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
        }
        assert_eq!(memcached.stat("curr_items"), 1);
        assert!(redis.client().exists::<_, bool>("k").unwrap());
    }
}

#[test]
fn a_certificate_is_believed_for_the_name_that_is_written_or_for_any() {
    let made = Certificates::new();
    let issued = made.issue("away", "DNS:cache.example", Valid::Now);
    let (_memcached, _redis, nodes) = both(&issued, None);
    for node in nodes {
        for more in [
            "server_name=cache.example",
            "server_name=cache.example.",
            "verify=ca",
        ] {
            let node = format!("{node}?timeout=5&ca={}&{more}", made.ca().display());
            let mut bench = one(&node);
            assert_eq!(
                bench.store(Store::Set, "k", b"v", 0),
                Outcome::Done,
                "{node}"
            );
            assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
        }
    }
    // Any name, but not anybody's.
    let other = Certificates::new();
    let (_memcached, _redis, nodes) = both(&other.server(), None);
    let (_, message) = refusal(&format!(
        "{}?verify=ca&ca={}",
        nodes[1],
        made.ca().display()
    ));
    assert!(
        message.contains("signed the server's certificate"),
        "{message}"
    );
}

#[test]
fn a_server_that_wants_our_certificate_says_so_and_takes_the_right_one() {
    let (made, other) = (Certificates::new(), Certificates::new());
    let (_memcached, _redis, nodes) = both(&made.server(), Some(&made));
    let who = |from: &Certificates| {
        let issued = from.issue("php", "DNS:php", Valid::Now);
        format!(
            "&cert={}&key={}",
            issued.cert.display(),
            issued.key.display()
        )
    };
    let ca = made.ca();
    for node in nodes {
        let node = format!("{node}?timeout=5&ca={}", ca.display());
        for more in [String::new(), who(&other)] {
            let (_, message) = refusal(&format!("{node}{more}"));
            assert!(
                message.contains("cert=FILE and key=FILE"),
                "{node}: {message}"
            );
        }
        let mut bench = one(&format!("{node}{}", who(&made)));
        assert_eq!(
            bench.store(Store::Set, "k", b"v", 0),
            Outcome::Done,
            "{node}"
        );
    }
}

#[test]
fn files_that_are_of_no_use_are_named_and_their_content_is_not() {
    let made = Certificates::new();
    let (server, client) = (made.server(), made.issue("php", "DNS:php", Valid::Now));
    let (_memcached, _redis, nodes) = both(&server, None);
    let secret = std::fs::read_to_string(&client.key).unwrap();
    let secret: Vec<&str> = secret
        .lines()
        .filter(|line| !line.contains("---"))
        .collect();
    let text = made.directory().file("text", "geheim");
    let [ca, cert, key, foreign, text] = [made.ca(), client.cert, client.key, server.key, text]
        .map(|path| path.display().to_string());
    for (options, words) in [
        (
            "ca=/nowhere.pem".to_owned(),
            ["/nowhere.pem cannot be read: No such file", "Let the user"],
        ),
        (format!("ca={text}"), ["holds no certificate", "PEM"]),
        (format!("ca={key}"), ["holds no certificate", "PEM"]),
        (
            format!("ca={ca}&cert={cert}"),
            ["holds no private key", "key=FILE"],
        ),
        (
            format!("ca={ca}&cert={cert}&key={text}"),
            ["holds no private key", "passphrase"],
        ),
        (
            format!("ca={ca}&cert={cert}&key={foreign}"),
            ["do not belong together", "Write the key"],
        ),
    ] {
        for node in &nodes {
            let (kind, message) = refusal(&format!("{node}?{options}"));
            assert_eq!(kind, Kind::Tls, "{message}");
            for words in words {
                assert!(message.contains(words), "{message}");
            }
            assert!(!message.contains("geheim"), "{message}");
            assert!(
                !secret.iter().any(|line| message.contains(line)),
                "{message}"
            );
        }
    }
}

#[test]
fn tls_at_a_plain_port_and_the_reverse_are_told_apart() {
    let made = Certificates::new();
    let (memcached, redis, _) = both(&made.server(), None);
    let ca = format!("timeout=1&ca={}", made.ca().display());
    // A plain server waits for the end of a line, or answers nonsense where it finds one.
    for node in [
        format!("rediss://{}?{ca}", redis.address()),
        format!("memcacheds://{}?{ca}", memcached.address()),
    ] {
        let (_, message) = refusal(&node);
        let words = ["speaks no TLS", "Does this port speak TLS?"];
        assert!(
            words.iter().any(|words| message.contains(words)),
            "{message}"
        );
        assert!(
            message.contains("redis:// in place of rediss://"),
            "{message}"
        );
    }
    for node in [
        format!("redis://127.0.0.1:{}", redis.tls_port()),
        format!("redis://:p@127.0.0.1:{}", redis.tls_port()),
        format!("127.0.0.1:{}", memcached.tls_port()),
        format!("memcached://u:p@127.0.0.1:{}", memcached.tls_port()),
    ] {
        let (_, message) = refusal(&node);
        assert!(
            message.contains("write rediss:// or memcacheds://"),
            "{node}: {message}"
        );
    }
    let keys: u64 = redis::cmd("DBSIZE").query(&mut redis.client()).unwrap();
    assert_eq!((keys, memcached.stat("curr_items")), (0, 0));
}

#[test]
fn a_handshake_that_does_not_end_costs_the_timeout() {
    // Says nothing; says the beginning of a record for ever.
    for trickles in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 1024]);
                let mut sent = stream.write_all(if trickles {
                    b"\x16\x03\x03\x3f\xff"
                } else {
                    b""
                });
                for _ in 0..200 {
                    std::thread::sleep(Duration::from_millis(20));
                    if trickles {
                        sent = sent.and_then(|()| stream.write_all(b"\x02"));
                    }
                }
            }
        });
        let begin = Instant::now();
        let (_, message) = refusal(&format!("rediss://127.0.0.1:{port}?timeout=0.3&verify=no"));
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(2), "{trickles}: {took:?}");
        assert!(message.contains("TLS"), "{message}");
    }
}

/// What servers sent on each connection of a proxy, bytes.
fn received(proxy: &Proxy) -> Vec<usize> {
    let mut bytes = vec![0; proxy.connections()];
    for event in proxy
        .events()
        .iter()
        .filter(|event| event.from == From::Server)
    {
        bytes[event.connection] += event.bytes.len();
    }
    bytes
}

#[test]
fn a_second_connection_resumes_the_session_of_the_first() {
    let made = Certificates::new();
    let (memcached, redis, _) = both(&made.server(), None);
    for (scheme, port) in [
        ("memcacheds", memcached.tls_port()),
        ("rediss", redis.tls_port()),
    ] {
        let proxy = Proxy::start(port);
        let node = format!(
            "{scheme}://127.0.0.1:{}?ca={}",
            proxy.port(),
            made.ca().display()
        );
        for _ in 0..4 {
            let mut bench = one(&node);
            assert_eq!(bench.get("k"), None);
            assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
        }
        proxy.settle(Duration::from_millis(30));
        let bytes = received(&proxy);
        let [first, later @ ..] = &bytes[..] else {
            panic!("{bytes:?}");
        };
        // The certificate and its proof stay away.
        assert_eq!(later.len(), 3, "{scheme}: {bytes:?}");
        let less = |later: &usize| later + 400 < *first;
        assert!(later.iter().all(less), "{scheme}: {bytes:?}");
    }
    // So it is between the requests of a worker, whose connections end with them.
    let proxy = Proxy::start(redis.tls_port());
    let list = format!(
        "rediss://127.0.0.1:{}?mode=single&ca={}",
        proxy.port(),
        made.ca().display()
    );
    let fpm = PhpFpm::with(&php(&list), 1, "");
    fpm.page(
        "count.php",
        "session_id('s'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];",
    );
    for n in 1..=3 {
        assert_eq!(fpm.get("count.php", "", "").text(), n.to_string());
    }
    proxy.settle(Duration::from_millis(30));
    let bytes = received(&proxy);
    assert!(
        bytes.len() == 3 && bytes[1] + 400 < bytes[0] && bytes[2] + 400 < bytes[0],
        "{bytes:?}"
    );
    assert_eq!(redis.client().get::<_, String>("s").unwrap(), "n|i:3;");
}

#[test]
fn a_renewed_certificate_authority_counts_without_a_restart() {
    let (old, new) = (Certificates::new(), Certificates::new());
    let redis = Redis::with_tls(&new.server(), None, &[]);
    let directory = TempDir::new("renewed");
    let trusted = directory.file("ca.pem", std::fs::read(old.ca()).unwrap());
    let node = format!(
        "rediss://127.0.0.1:{}?ca={}",
        redis.tls_port(),
        trusted.display()
    );
    let (_, message) = refusal(&node);
    assert!(
        message.contains("signed the server's certificate"),
        "{message}"
    );
    std::fs::write(&trusted, std::fs::read(new.ca()).unwrap()).unwrap();
    let mut bench = one(&format!("{node}&retry_interval=0"));
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
}

#[test]
fn a_connection_that_the_server_closed_while_it_stood_idle_is_replaced_without_a_word() {
    let made = Certificates::new();
    let redis = Redis::with_tls(&made.server(), None, &["--timeout", "1"]);
    let proxy = Proxy::start(redis.tls_port());
    let mut bench = one(&format!(
        "rediss://127.0.0.1:{}?ca={}",
        proxy.port(),
        made.ca().display()
    ));
    let add = |bench: &mut Bench| {
        bench.run(Verb::Increment, &["n"], |call, i| {
            let entry = call.entry_mut(i).unwrap();
            (entry.delta, entry.initial) = (1, Some(1));
        })[0]
    };
    assert_eq!(add(&mut bench), Outcome::Number(1));
    assert_eq!(add(&mut bench), Outcome::Number(2));
    assert_eq!(proxy.connections(), 1);
    // What stands unread in a connection kept so long is a ticket at most, and no reason to leave it.
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(add(&mut bench), Outcome::Number(3));
    assert_eq!(proxy.connections(), 1);
    let closed = wait_until(Duration::from_secs(10), || {
        redis.info("connected_clients") == "1"
    });
    assert!(closed, "Redis did not close it");
    assert_eq!(add(&mut bench), Outcome::Number(4));
    assert_eq!(proxy.connections(), 2);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
}

#[test]
fn copies_go_over_tls_and_a_node_that_comes_back_is_seen() {
    let made = Certificates::new();
    for mode in [Mode::Sync, Mode::Async] {
        let mut servers = [(); 3].map(|()| Memcached::with_tls(&made.server(), None, &[]));
        let nodes = servers.each_ref().map(|server| {
            let (port, ca) = (server.tls_port(), made.ca());
            format!(
                "memcacheds://localhost:{port}?timeout=0.5&ca={}",
                ca.display()
            )
        });
        let policy = Policy {
            mode,
            copies: Some(3),
            placement: Placement::Rendezvous,
            name: format!("tls-{}", mode.word()),
            ..Policy::default()
        };
        let mut bench = over(policy, &nodes);
        let big = vec![b'x'; 200_000];
        for n in 0..20 {
            assert_eq!(
                bench.store(Store::Set, &format!("k{n}"), &big, 0),
                Outcome::Done
            );
        }
        later::end();
        for server in &servers {
            assert_eq!(server.stat("curr_items"), 20, "{mode:?}");
        }
        servers[0].kill();
        for n in 0..20 {
            assert_eq!(
                bench.get(&format!("k{n}")).map(|value| value.len()),
                Some(big.len())
            );
        }
        servers[0].restart();
        let back = wait_until(Duration::from_secs(10), || {
            for n in 0..20 {
                bench.store(Store::Set, &format!("k{n}"), &big, 0);
            }
            later::end();
            bench.pool.is_up(0)
        });
        assert!(back, "{mode:?}");
    }
}

#[test]
fn sessions_on_copies_in_tls_outlive_a_node_that_comes_back_empty() {
    let made = Certificates::new();
    let mut redis = Redis::with_tls(&made.server(), None, &[]);
    let memcached = [(); 2].map(|()| Memcached::with_tls(&made.server(), None, &[]));
    let ca = format!("?timeout=2&ca={}", made.ca().display());
    let [a, b] = memcached
        .each_ref()
        .map(|server| format!("memcacheds://127.0.0.1:{}{ca}", server.tls_port()));
    let list = format!("rediss://127.0.0.1:{}{ca},{a},{b}", redis.tls_port());
    let php = php(&list).ini("session.save_handler", "memring");
    let count = "session_id('s'); var_dump(session_start()); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    assert_eq!(php.run(count).ok(), "bool(true)\n1");
    redis.kill();
    assert_eq!(php.run(count).ok(), "bool(true)\n2");
    redis.restart();
    assert_eq!(php.run(count).ok(), "bool(true)\n3");
    let tend = Tend::beside(
        made.directory().path().to_str().unwrap(),
        &["--list", &list],
    );
    assert!(
        wait_until(Duration::from_secs(20), || is_safe(&list)),
        "{}",
        tend.log()
    );
    memcached[0].freeze();
    assert_eq!(php.run(count).ok(), "bool(true)\n4");
    memcached[0].resume();
}

#[test]
fn a_forked_child_opens_a_session_of_its_own_and_leaves_its_parents_alone() {
    let made = Certificates::new();
    let (memcached, redis, nodes) = both(&made.server(), None);
    for node in nodes {
        let text = Php::new()
            .env("NODE", format!("{node}?timeout=5&ca={}", made.ca().display()))
            .run(
                r#"$m = new Memcache; $m->addServer(getenv('NODE'));
                function work($m, $tag) {
                    $bad = 0;
                    for ($i = 0; $i < 100; $i++) { $m->set("$tag-$i", "$tag:$i"); if ($m->get("$tag-$i") !== "$tag:$i") $bad++; }
                    return $bad;
                }
                $bad = work($m, 'parent');
                for ($c = 0; $c < 3; $c++) {
                    $pid = pcntl_fork();
                    if ($pid == 0) exit(work($m, "child$c") ? 1 : 0);
                    $children[] = $pid;
                }
                $bad += work($m, 'parent');
                foreach ($children as $pid) { pcntl_waitpid($pid, $status); $bad += pcntl_wexitstatus($status); }
                $bad += work($m, 'parent');
                echo $bad;"#,
            )
            .ok();
        assert_eq!(text, "0", "{node}");
    }
    assert_eq!(memcached.stat("curr_items"), 400);
    let keys: u64 = redis::cmd("DBSIZE").query(&mut redis.client()).unwrap();
    assert_eq!(keys, 400);
}

#[test]
fn phpredis_words_for_tls_are_understood() {
    let made = Certificates::new();
    let ours = made.issue("php", "DNS:php", Valid::Now);
    let redis = Redis::with_tls(&made.server(), Some(&made.ca()), &["--requirepass", "x"]);
    let list = format!(
        "tls://127.0.0.1:{}?auth=x&database=1&prefix=PHPREDIS_SESSION:&mode=single\
         &stream[verify_peer]=1&stream[cafile]={}&stream[peer_name]=localhost&stream[local_cert]={}&stream[local_pk]={}",
        redis.tls_port(),
        made.ca().display(),
        ours.cert.display(),
        ours.key.display()
    );
    let text = php(&list)
        .ini("session.save_handler", "memring")
        .ini("display_errors", 0)
        .run("session_id('s'); var_dump(session_start()); $_SESSION['n'] = 6;")
        .ok();
    assert_eq!(text, "bool(true)");
    let mut client = redis.client_as(":x@");
    let _: () = redis::cmd("SELECT").arg(1).query(&mut client).unwrap();
    assert_eq!(
        client.get::<_, String>("PHPREDIS_SESSION:s").unwrap(),
        "n|i:6;"
    );
}
