//! One contract, every backend: each command of the API has the same outcome wherever it is kept.
//!
//! | backend | where it comes from |
//! |---|---|
//! | memcached in classic words, in meta commands, behind user and password (`-Y`) | this machine |
//! | Redis in RESP2, in RESP3, behind user, password and database, on a unix socket | this machine |
//! | both in TLS, and with a certificate of ours | this machine |
//! | memcached and Redis in one pool | this machine |
//! | Redis masters that Sentinels watch | this machine |
//! | a Redis Cluster, in RESP2 and in RESP3 | this machine |
//! | embedded | no server |
//! | Redis 8, Valkey 8 | `MEMRING_REDIS_NEW`, `MEMRING_VALKEY`, where they are set |
//!
//! Copied pools run it in `cache_copies` and `late_copies`.

use crate::pool::Bench;
use harness::{Certificates, Cluster, Memcached, Redis, Sentinel, Valid};
use memring_pool::call::{Call, Outcome, Verb};
use memring_pool::config::{NodeSpec, Policy, Protocol, Schemes};
use memring_pool::replica::Resynced;
use memring_pool::wire::Store;
use std::time::Duration;

/// Every command with its outcome, on a pool whose first node has a version that begins so.
pub(crate) fn contract_of(bench: &mut Bench, version: &str) {
    // The first exchange carries the version probe where there is one; both nodes get it.
    for key in ["p1", "p2", "p3", "p4"] {
        assert_eq!(bench.store(Store::Set, key, b"v", 0), Outcome::Done);
    }
    let big = vec![b'x'; 300_000];
    assert_eq!(bench.store(Store::Set, "big", &big, 0), Outcome::Done);
    assert_eq!(bench.get("big"), Some(big));
    assert_eq!(bench.store(Store::Set, "empty", b"", 0), Outcome::Done);
    assert_eq!(bench.get("empty"), Some(Vec::new()));
    assert_eq!(bench.get("missing"), None);
    assert_eq!(bench.store(Store::Add, "p1", b"w", 0), Outcome::NotStored);
    assert!(matches!(
        bench.store(Store::Replace, "none", b"w", 0),
        Outcome::NotStored | Outcome::NotFound
    ));
    assert!(matches!(
        bench.store(Store::Append, "none", b"w", 0),
        Outcome::NotStored | Outcome::NotFound
    ));
    assert_eq!(bench.store(Store::Append, "p1", b"w", 0), Outcome::Done);
    assert_eq!(bench.store(Store::Prepend, "p1", b"u", 0), Outcome::Done);
    assert_eq!(bench.get("p1"), Some(b"uvw".to_vec()));
    let Outcome::Hit { cas, .. } = bench.run(Verb::Gets, &["p1"], |_, _| {})[0] else {
        panic!("p1 is there")
    };
    assert_eq!(
        bench.store(Store::Cas, "p1", b"1", cas + 99),
        Outcome::Exists
    );
    assert_eq!(bench.store(Store::Cas, "p1", b"1", cas), Outcome::Done);
    assert_eq!(bench.store(Store::Cas, "none", b"1", 1), Outcome::NotFound);

    let count = |initial| {
        move |call: &mut Call, i: usize| {
            let entry = call.entry_mut(i).unwrap();
            entry.delta = 5;
            entry.initial = initial;
        }
    };
    assert_eq!(bench.store(Store::Set, "n", b"10", 0), Outcome::Done);
    assert_eq!(
        bench.run(Verb::Increment, &["n", "fresh", "no"], count(None)),
        [Outcome::Number(15), Outcome::NotFound, Outcome::NotFound]
    );
    assert_eq!(
        bench.run(Verb::Increment, &["fresh"], count(Some(100))),
        [Outcome::Number(100)]
    );
    assert_eq!(
        bench.run(Verb::Increment, &["fresh"], count(Some(100))),
        [Outcome::Number(105)]
    );
    assert_eq!(
        bench.run(Verb::Decrement, &["n"], count(None)),
        [Outcome::Number(10)]
    );
    assert_eq!(bench.store(Store::Set, "text", b"abc", 0), Outcome::Done);
    assert_eq!(
        bench.run(Verb::Increment, &["text"], count(None)),
        [Outcome::Refused]
    );
    assert!(bench.call.events()[0].message.contains("non-numeric value"));
    assert!(!bench.call.events()[0].fault);

    let values = bench.run(Verb::Get, &["p2", "nope", "p3", "p2", "n"], |_, _| {});
    let found: Vec<bool> = values
        .iter()
        .map(|o| matches!(o, Outcome::Hit { .. }))
        .collect();
    assert_eq!(found, [true, false, true, true, true]);
    assert_eq!(
        bench.run(Verb::Touch, &["p2", "nope"], |call, i| call
            .entry_mut(i)
            .unwrap()
            .ttl = 60),
        [Outcome::Done, Outcome::NotFound]
    );
    let touched = bench.run(Verb::GetAndTouch, &["p2", "nope", "p3"], |call, i| {
        call.entry_mut(i).unwrap().ttl = 60;
    });
    assert!(matches!(touched[0], Outcome::Hit { cas: 1.., .. }));
    assert_eq!(touched[1], Outcome::NotFound);
    assert!(matches!(touched[2], Outcome::Hit { .. }));
    assert_eq!(
        bench.run(Verb::Delete, &["p2", "nope"], |_, _| {}),
        [Outcome::Done, Outcome::NotFound]
    );

    assert!(
        bench
            .pool
            .version(&mut bench.call)
            .is_some_and(|found| found.starts_with(version))
    );
    let stats = bench.pool.stats(0, b"", &mut bench.call).unwrap();
    assert!(String::from_utf8_lossy(&stats).contains("STAT pid "));
    assert!(bench.pool.stats(0, b"malloc", &mut bench.call).is_none());
    assert!(bench.pool.is_up(0), "a refusal is no node fault");
    assert!(bench.pool.flush(0, &mut bench.call));
    assert_eq!(bench.get("p3"), None);
    assert!(bench.call.events().is_empty());
}

/// What the API promises beyond single outcomes: expiry, flags and numbers of any size.
fn fine_print(bench: &mut Bench) {
    let put = |bench: &mut Bench, verb, key: &str, value: &[u8], flags, ttl| {
        bench.run(Verb::Store(verb), &[key], |call, i| {
            let start = call.value_mut().len();
            call.value_mut().extend_from_slice(value);
            call.finish_value(start);
            let entry = call.entry_mut(i).unwrap();
            (entry.flags, entry.ttl) = (flags, ttl);
        })[0]
    };
    let read = |bench: &mut Bench, verb, key: &str| match bench.run(verb, &[key], |_, _| {})[0] {
        Outcome::Hit { value, flags, .. } => Some((flags, bench.call.value(value).to_vec())),
        Outcome::NotFound => None,
        other => panic!("{key}: {other:?}"),
    };
    // What looks like our own mark is a value like any other, however it came about.
    for (value, flags) in [
        (b"\0mr1".as_slice(), 0),
        (b"\0mr1\0\0\0\x07text", 0),
        (b"\0mr1", 0x300),
        (b"\0", 0),
        (b"", 0xffff_0000),
        (b"plain", 0),
    ] {
        for verb in [Store::Set, Store::Replace] {
            assert_eq!(put(bench, verb, "mark", value, flags, 60), Outcome::Done);
            assert_eq!(
                read(bench, Verb::Get, "mark"),
                Some((flags, value.to_vec()))
            );
        }
        assert_eq!(
            put(bench, Store::Prepend, "mark", b"\0m", 0, 0),
            Outcome::Done
        );
        assert_eq!(
            put(bench, Store::Append, "mark", b"r1", 0, 0),
            Outcome::Done
        );
        let joined = [b"\0m", value, b"r1"].concat();
        assert_eq!(read(bench, Verb::Gets, "mark"), Some((flags, joined)));
        assert_eq!(put(bench, Store::Set, "mark", b"\0m", 0, 0), Outcome::Done);
        assert_eq!(
            put(bench, Store::Append, "mark", b"r1x", 0, 0),
            Outcome::Done
        );
        assert_eq!(
            read(bench, Verb::Get, "mark"),
            Some((0, b"\0mr1x".to_vec()))
        );
        assert_eq!(put(bench, Store::Set, "mark", b"r1x", 0, 0), Outcome::Done);
        assert_eq!(
            put(bench, Store::Prepend, "mark", b"\0m", 0, 0),
            Outcome::Done
        );
        assert_eq!(
            read(bench, Verb::Get, "mark"),
            Some((0, b"\0mr1x".to_vec()))
        );
    }
    // Neither cas nor append nor a count takes an end away or gives one.
    let far = u32::try_from(
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
            + 3600,
    )
    .unwrap();
    for ttl in [0, 3600, far] {
        assert_eq!(
            put(bench, Store::Set, "end", b"1", 0x300, ttl),
            Outcome::Done
        );
        assert_eq!(
            count(bench, Verb::Increment, "end", 1, None),
            Outcome::Number(2)
        );
        assert_eq!(put(bench, Store::Append, "end", b"0", 0, 0), Outcome::Done);
        assert_eq!(read(bench, Verb::Get, "end"), Some((0x300, b"20".to_vec())));
    }
    // What has ended is not there: a second of long ago, and memcached's negative numbers.
    for ttl in [2_592_001, 4_294_967_295] {
        for verb in [Store::Set, Store::Add] {
            assert_eq!(bench.run(Verb::Delete, &["over"], |_, _| {}).len(), 1);
            assert_eq!(put(bench, verb, "over", b"v", 0, ttl), Outcome::Done);
            assert_eq!(read(bench, Verb::Get, "over"), None, "{verb:?} {ttl}");
        }
        assert_eq!(put(bench, Store::Set, "over", b"v", 0, 0), Outcome::Done);
        let touch = |call: &mut Call, i: usize| call.entry_mut(i).unwrap().ttl = ttl;
        assert_eq!(bench.run(Verb::Touch, &["over"], touch), [Outcome::Done]);
        assert_eq!(read(bench, Verb::Get, "over"), None);
    }
    // A touch with 0 takes the end away.
    assert_eq!(put(bench, Store::Set, "kept", b"v", 0, 1), Outcome::Done);
    let keep = |call: &mut Call, i: usize| call.entry_mut(i).unwrap().ttl = 0;
    let touched = bench.run(Verb::Touch, &["kept"], keep);
    assert_eq!(touched, [Outcome::Done]);
    assert_eq!(put(bench, Store::Set, "short", b"v", 0, 1), Outcome::Done);
    let gone = harness::wait_until(Duration::from_secs(5), || {
        read(bench, Verb::Get, "short").is_none()
    });
    assert!(gone, "an item outlived its end");
    assert_eq!(read(bench, Verb::Get, "kept"), Some((0, b"v".to_vec())));
    // Counters have 64 bits: they wrap upwards and end at 0 downwards.
    let (up, down) = (Verb::Increment, Verb::Decrement);
    for (start, verb, delta, end) in [
        ("9", up, 1, 10),
        ("0", up, 5, 5),
        ("5", down, 5, 0),
        ("007", up, 1, 8),
        ("8 ", down, 1, 7),
        ("9999999999", up, 1, 10_000_000_000),
        ("10000000000", down, 1, 9_999_999_999),
        ("999999999999999", up, 1, 1_000_000_000_000_000),
        ("1000000000000000", down, 1, 999_999_999_999_999),
        ("999999999999999", up, 1 << 60, 1_153_921_504_606_846_975),
        ("9007199254740993", up, 2, 9_007_199_254_740_995),
        ("18446744073709551615", up, 1, 0),
        ("18446744073709551610", up, 10, 4),
        ("18446744073709551615", down, 1, u64::MAX - 1),
        ("1", up, u64::MAX, 0),
        ("5", down, 6, 0),
        ("20000000000", down, 10_000_000_001, 9_999_999_999),
    ] {
        assert_eq!(
            put(bench, Store::Set, "n", start.as_bytes(), 0, 0),
            Outcome::Done
        );
        assert_eq!(
            count(bench, verb, "n", delta, None),
            Outcome::Number(end),
            "{start} {delta}"
        );
    }
    for bad in [
        "",
        "-1",
        "1.5",
        "x",
        "18446744073709551616",
        "123456789012345678901",
    ] {
        assert_eq!(
            put(bench, Store::Set, "n", bad.as_bytes(), 0, 0),
            Outcome::Done
        );
        assert_eq!(
            count(bench, Verb::Increment, "n", 1, None),
            Outcome::Refused,
            "{bad:?}"
        );
    }
    bench.run(Verb::Delete, &["new"], |_, _| {});
    // A new counter is a number for PHP; a meta command has no place for flags.
    assert_eq!(
        count(bench, Verb::Decrement, "new", 1, Some(7)),
        Outcome::Number(7)
    );
    let new = read(bench, Verb::Get, "new").unwrap();
    assert!(matches!(new.0, 0x300 | 0) && new.1 == b"7", "{new:?}");
    // Two clients have the same item; only the first store with its cas value is taken.
    assert_eq!(put(bench, Store::Set, "cas", b"a", 0x100, 0), Outcome::Done);
    let Outcome::Hit { cas, .. } = bench.run(Verb::Gets, &["cas"], |_, _| {})[0] else {
        panic!("it is there")
    };
    assert_eq!(put(bench, Store::Set, "cas", b"b", 0x100, 0), Outcome::Done);
    assert_eq!(bench.store(Store::Cas, "cas", b"c", cas), Outcome::Exists);
    // Many keys of all kinds at once, some of them missing, some twice.
    let names: Vec<String> = (0..300).map(|n| format!("many{}", n % 250)).collect();
    for (n, name) in names
        .iter()
        .enumerate()
        .filter(|(n, _)| n % 3 != 0 && *n < 250)
    {
        let value = vec![b'v'; n * 37];
        let stored = put(bench, Store::Set, name, &value, (n as u32 % 2) << 8, 0);
        assert_eq!(stored, Outcome::Done);
    }
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    for verb in [Verb::Get, Verb::Gets] {
        for (n, outcome) in bench.run(verb, &keys, |_, _| {}).into_iter().enumerate() {
            let n = n % 250;
            match outcome {
                Outcome::Hit { value, flags, cas } => {
                    assert_eq!(bench.call.value(value).len(), n * 37);
                    assert_eq!(flags, (n as u32 % 2) << 8);
                    assert_eq!(cas == 0, verb == Verb::Get);
                    assert!(n % 3 != 0);
                }
                other => assert_eq!((other, n % 3), (Outcome::NotFound, 0), "{n}"),
            }
        }
    }
}

fn count(bench: &mut Bench, verb: Verb, key: &str, delta: u64, initial: Option<u64>) -> Outcome {
    bench.run(verb, &[key], |call, i| {
        let entry = call.entry_mut(i).unwrap();
        (entry.delta, entry.initial, entry.ttl) = (delta, initial, 0);
    })[0]
}

/// A pool of these nodes, with limits that a busy machine keeps.
fn over(protocol: Protocol, nodes: &[String]) -> Bench {
    let policy = Policy {
        protocol,
        ..Policy::default()
    };
    let mut bench = Bench::of(policy, &[]);
    for node in nodes {
        let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
        bench.pool.add(spec, &mut bench.directory);
    }
    bench
}

/// The whole contract on one backend, and on one node of it.
fn all_of_it(protocol: Protocol, nodes: &[String], version: &str) {
    contract_of(&mut over(protocol, nodes), version);
    fine_print(&mut over(protocol, nodes));
    fine_print(&mut over(protocol, &nodes[..1]));
}

fn memcached(protocol: Protocol) {
    let servers = [Memcached::start(), Memcached::start()];
    let nodes = servers.each_ref().map(Memcached::address);
    all_of_it(protocol, &nodes, "1.");
}

#[test]
fn every_command_has_its_outcome_in_classic_words() {
    memcached(Protocol::Ascii);
}

#[test]
fn every_command_has_its_outcome_in_meta_commands() {
    memcached(Protocol::Binary);
}

#[test]
fn every_command_has_its_outcome_on_memcached_behind_a_password() {
    let servers = [(); 2].map(|()| Memcached::with_logins(&["app:pass+word/1"], &[]));
    let nodes = servers
        .each_ref()
        .map(|server| format!("memcached://app:pass+word%2F1@{}", server.address()));
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        all_of_it(protocol, &nodes, "1.");
    }
}

#[test]
fn every_command_has_its_outcome_on_redis() {
    let servers = [Redis::start(), Redis::start()];
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        let nodes = servers
            .each_ref()
            .map(|s| format!("redis://{}", s.address()));
        all_of_it(protocol, &nodes, &servers[0].info("redis_version"));
    }
}

#[test]
fn every_command_has_its_outcome_on_redis_in_resp3() {
    let servers = [Redis::start(), Redis::start()];
    let nodes = servers
        .each_ref()
        .map(|s| format!("redis://{}?resp=3", s.address()));
    all_of_it(Protocol::Ascii, &nodes, &servers[0].info("redis_version"));
    let mut bench = over(Protocol::Ascii, &nodes[..1]);
    assert_eq!(bench.get("none"), None);
    let clients = listed(&mut servers[0].client());
    assert!(clients.contains(" resp=3"), "{clients}");
}

#[test]
fn every_command_has_its_outcome_on_redis_behind_a_password_and_in_a_database() {
    let acl = ["--user", "app", "on", ">pass+word/1", "~*", "+@all"];
    let servers = [Redis::with(&acl), Redis::with(&["--requirepass", "s3cret"])];
    let nodes = [
        format!("redis://app:pass+word%2F1@{}/3", servers[0].address()),
        format!("redis://:s3cret@{}/2?client=php", servers[1].address()),
    ];
    all_of_it(Protocol::Ascii, &nodes, &servers[0].info("redis_version"));
    let mut client = servers[1].client_as(":s3cret@");
    let mut bench = over(Protocol::Ascii, &nodes[1..]);
    assert_eq!(bench.store(Store::Set, "here", b"v", 0), Outcome::Done);
    let clients = listed(&mut client);
    assert!(
        clients.contains(" name=php ") && clients.contains(" db=2 "),
        "{clients}"
    );
    let keys: u64 = ::redis::cmd("DBSIZE").query(&mut client).unwrap();
    assert_eq!(keys, 0, "something was stored in another database");
}

#[test]
fn every_command_has_its_outcome_on_redis_on_a_unix_socket() {
    let server = Redis::start();
    let node = format!("unix://{}?protocol=redis", server.socket().display());
    all_of_it(Protocol::Ascii, &[node], &server.info("redis_version"));
}

#[test]
fn every_command_has_its_outcome_on_a_pool_of_memcached_and_redis() {
    let (redis, memcached) = (Redis::start(), Memcached::start());
    let version = redis.info("redis_version");
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        let nodes = [format!("redis://{}", redis.address()), memcached.address()];
        all_of_it(protocol, &nodes, &version);
    }
}

#[test]
fn every_command_has_its_outcome_in_tls() {
    let made = Certificates::new();
    let (server, ours) = (made.server(), made.issue("php", "DNS:php", Valid::Now));
    let (ca, cert, key) = (made.ca(), ours.cert, ours.key);
    let who = format!("cert={}&key={}", cert.display(), key.display());
    let options = format!("?timeout=5&ca={}&{who}", ca.display());
    let memcached = [(); 2].map(|()| Memcached::with_tls(&server, Some(&ca), &[]));
    let nodes = memcached
        .each_ref()
        .map(|server| format!("memcacheds://localhost:{}{options}", server.tls_port()));
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        all_of_it(protocol, &nodes, "1.");
    }
    let redis = Redis::with_tls(&server, Some(&ca), &["--requirepass", "x"]);
    let node = format!("rediss://:x@127.0.0.1:{}/2{options}", redis.tls_port());
    let info: String = ::redis::cmd("INFO")
        .query(&mut redis.client_as(":x@"))
        .unwrap();
    let mut lines = info.lines();
    let version = lines
        .find_map(|line| line.strip_prefix("redis_version:"))
        .unwrap();
    for nodes in [&[node.clone(), nodes[0].clone()][..], &[node]] {
        all_of_it(Protocol::Ascii, nodes, version);
    }
}

#[test]
fn every_command_has_its_outcome_on_masters_that_sentinels_watch() {
    let servers = [Redis::start(), Redis::start()];
    let [one, two] = servers.each_ref().map(Redis::port);
    let masters = [("one", "127.0.0.1", one), ("two", "127.0.0.1", two)];
    let sentinel = Sentinel::start(&masters, 1, "");
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        let nodes =
            ["one?db=2", "two"].map(|m| format!("redis-sentinel://{}/{m}", sentinel.address()));
        all_of_it(protocol, &nodes, &servers[0].info("redis_version"));
    }
}

#[test]
fn every_command_has_its_outcome_without_a_server() {
    let directory = crate::embedded::Directory::new("contract");
    for protocol in [Protocol::Ascii, Protocol::Binary] {
        let node = [directory.node("")];
        all_of_it(protocol, &node, env!("CARGO_PKG_VERSION"));
    }
}

#[test]
fn every_command_has_its_outcome_on_a_redis_cluster() {
    let cluster = Cluster::start();
    let version = cluster.nodes[0].info("redis_version");
    for (protocol, options) in [
        (Protocol::Ascii, ""),
        (Protocol::Ascii, "resp=3"),
        (Protocol::Binary, ""),
    ] {
        let bench = || crate::cluster::over(&cluster.url_as("", options), protocol);
        contract_of(&mut bench(), &version);
        fine_print(&mut bench());
    }
}

/// Who is connected.
fn listed(client: &mut ::redis::Connection) -> String {
    let mut list = ::redis::cmd("CLIENT");
    list.arg("LIST").query(client).unwrap()
}

/// The contract on servers of another version.
fn another(variable: &str, version: &str) {
    let servers: Option<Vec<Redis>> = (0..2).map(|_| Redis::newer(variable, &[])).collect();
    let Some(servers) = servers else {
        harness::skip(format!("{variable} names no server"));
        return;
    };
    for resp in [2, 3] {
        let node = |server: &Redis| format!("redis://{}?resp={resp}", server.address());
        let nodes: Vec<String> = servers.iter().map(node).collect();
        all_of_it(Protocol::Ascii, &nodes, &servers[0].info(version));
    }
}

#[test]
fn every_command_has_its_outcome_on_a_newer_redis() {
    another("MEMRING_REDIS_NEW", "redis_version");
}

#[test]
fn every_command_has_its_outcome_on_valkey() {
    another("MEMRING_VALKEY", "valkey_version");
}

#[test]
fn the_turn_to_mend_a_node_is_one_runners_on_every_kind_of_node() {
    let (memcached, redis) = (Memcached::start(), Redis::start());
    for node in [memcached.address(), format!("redis://{}", redis.address())] {
        let Bench {
            mut pool, mut call, ..
        } = over(Protocol::Ascii, std::slice::from_ref(&node));
        let mut take = |runner| pool.take_turn(0, b"~r", runner, &mut call);
        assert_eq!(take("one"), Ok(true), "{node}");
        assert_eq!(take("two"), Err("one".to_owned()), "{node}");
        assert_eq!(take("one"), Ok(true), "{node}");
        assert!(pool.is_up(0), "{node}: {:?}", call.events());
        pool.give_turn(0, b"~r", "two", &mut call);
        let other = pool.take_turn(0, b"~r", "two", &mut call);
        assert_eq!(other, Err("one".to_owned()), "{node}");
        pool.give_turn(0, b"~r", "one", &mut call);
        let taken = pool.take_turn(0, b"~r", "two", &mut call);
        assert_eq!(taken, Ok(true), "{node}");
        assert!(call.events().is_empty(), "{node}: {:?}", call.events());
    }
}

#[test]
fn a_pass_ends_when_its_turn_is_gone_or_anothers_and_leaves_it_as_it_is() {
    let nodes = [Memcached::start(), Memcached::start()];
    let put = |node: &Memcached, key: &str, text: &str| {
        let request = format!("set {key} 0 0 {}\r\n{text}\r\n", text.len());
        assert_eq!(node.raw(request, "\r\n"), b"STORED\r\n");
    };
    for (node, trust) in nodes.iter().zip(["joining", "trusted"]) {
        put(node, "~r", &format!("memring1 {trust} 1 {} 0", node.port()));
    }
    let Bench {
        mut pool, mut call, ..
    } = over(Protocol::Ascii, &nodes.each_ref().map(Memcached::address));
    assert_eq!(pool.take_turn(0, b"~r", "one", &mut call), Ok(true));
    let way = memring_pool::pool::resync::Way::of("one");
    let mut pass = || pool.resync_told(0, b"~r", way, 7, &mut call, &mut |_, _| {});
    put(&nodes[0], "~p", "two");
    assert!(pass().lost);
    nodes[0].raw("delete ~p\r\n", "\r\n");
    assert!(pass().lost);
    assert_eq!(nodes[0].stored("~p"), None);
    put(&nodes[0], "~p", "two");
    pool.give_turn(0, b"~r", "one", &mut call);
    assert!(
        nodes[0].stored("~p").is_some(),
        "another's turn was taken away"
    );
    put(&nodes[0], "~p", "one");
    let pass = pool.resync_told(0, b"~r", way, 7, &mut call, &mut |_, _| {});
    assert_eq!((pass.lost, pass.end), (false, Resynced::Trusted));
    // It was made to outlast the listing, so it has an end.
    let told = nodes[0].raw("mg ~p t\r\n", "\r\n");
    assert!(
        told.starts_with(b"HD t") && !told.starts_with(b"HD t-"),
        "{told:?}"
    );
}
