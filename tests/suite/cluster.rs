//! A pool that is a Redis Cluster, against a real one: where keys are, and what happens while slots move and masters
//! die. `contract` holds every command's outcome, `cluster_php` what PHP sees.

use crate::pool::Bench;
use crate::sessions::php;
use harness::{Certificates, ClosedPort, Cluster, Redis, wait_until};
use memring_pool::call::{Outcome, Verb};
use memring_pool::codec::Compression;
use memring_pool::config::{NodeSpec, Policy, Protocol, Schemes, cluster};
use memring_pool::error::Kind;
use memring_pool::ring::slots::{beside, slot};
use memring_pool::session::{Sessions, Store as Keeper, Terms};
use memring_pool::wire::Store;
use redis::Commands;
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// A pool of this cluster, with limits that a busy machine keeps.
pub(crate) fn over(url: &str, protocol: Protocol) -> Bench {
    let mut topology = cluster::read(url, &Schemes::default()).unwrap().topology;
    topology.policy.protocol = protocol;
    let mut bench = Bench::of(topology.policy, &[]);
    for spec in topology.nodes {
        bench.pool.add(spec, &mut bench.directory);
    }
    bench
}

pub(crate) fn pool_of(cluster: &Cluster) -> Bench {
    over(&cluster.url(), Protocol::Ascii)
}

/// How often a node refused something with this word.
pub(crate) fn refused(cluster: &Cluster, place: usize, word: &str) -> u64 {
    let text = cluster.said(place, &["INFO", "errorstats"]);
    let found = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("errorstat_{word}:count=")));
    found.map_or(0, |count| count.trim().parse().unwrap())
}

pub(crate) fn refused_anywhere(cluster: &Cluster, word: &str) -> u64 {
    (0..cluster.nodes.len())
        .map(|place| refused(cluster, place, word))
        .sum()
}

pub(crate) fn read(bench: &mut Bench, keys: &[&str]) -> Vec<Option<String>> {
    let outcomes = bench.run(Verb::Get, keys, |_, _| {});
    let text = |outcome: Outcome| match outcome {
        Outcome::Hit { value, .. } => {
            Some(String::from_utf8_lossy(bench.call.value(value)).into_owned())
        }
        Outcome::NotFound => None,
        other => panic!("{other:?}: {:?}", bench.call.events()),
    };
    outcomes.into_iter().map(text).collect()
}

pub(crate) fn set(bench: &mut Bench, key: &str, value: &str) -> Outcome {
    bench.store(Store::Set, key, value.as_bytes(), 0)
}

pub(crate) fn add_one(bench: &mut Bench, key: &str) -> Outcome {
    bench.run(Verb::Increment, &[key], |call, i| {
        call.entry_mut(i).unwrap().delta = 1;
    })[0]
}

pub(crate) fn sessions(url: &str, directory: &mut memring_pool::node::Directory) -> Sessions {
    let topology = cluster::read(url, &Schemes::default()).unwrap().topology;
    let mut pool = memring_pool::pool::Pool::new(topology.policy);
    for spec in topology.nodes {
        pool.add(spec, directory);
    }
    let terms = Terms {
        copies: 1,
        lock_timeout: 5,
        attempts: 20,
        compression: Compression::default(),
        most: memring_pool::codec::INFLATE_MAX,
    };
    Sessions::new(pool, b"S:", terms)
}

#[test]
fn a_key_and_what_lies_beside_it_are_in_the_slot_that_a_server_computes() {
    let cluster = Cluster::start();
    let keys = (0..300).map(|n: u32| {
        let braces = ["", "{", "}", "{}", "a{b}", "{x}{y}", "}{", "{{a}}"];
        let word = n.wrapping_mul(2_654_435_761);
        let (one, two) = (braces[word as usize % 8], braces[word as usize / 8 % 8]);
        format!("{one}k{word:x}{two}{}", n % 7)
    });
    for key in keys {
        let expected = cluster.slot(&key);
        assert_eq!(slot(key.as_bytes()), expected, "{key}");
        let lock = beside(key.as_bytes(), b"_LOCK");
        let lock = String::from_utf8(lock).unwrap();
        assert_eq!(cluster.slot(&lock), expected, "{lock}");
    }
}

#[test]
fn many_keys_come_in_one_trip_for_each_master_and_none_is_asked_for_at_another() {
    let cluster = Cluster::start();
    let mut bench = pool_of(&cluster);
    let names: Vec<String> = (0..300).map(|n| format!("key{n}")).collect();
    for (n, name) in names.iter().enumerate().filter(|(n, _)| n % 3 > 0) {
        assert_eq!(set(&mut bench, name, &n.to_string()), Outcome::Done);
    }
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let trips = || -> Vec<u64> {
        let count = |node: &Redis| node.info("total_reads_processed").parse().unwrap();
        cluster.nodes.iter().map(count).collect()
    };
    // To look costs trips, too: as many each time.
    let (first, second) = (trips(), trips());
    let found = read(&mut bench, &keys);
    let third = trips();
    for (n, value) in found.into_iter().enumerate() {
        assert_eq!(value, (n % 3 > 0).then(|| n.to_string()), "key{n}");
    }
    for place in 0..3 {
        let look = second[place] - first[place];
        let ours = (third[place] - second[place]).saturating_sub(look);
        assert_eq!(ours, 1, "node {place}: {first:?} {second:?} {third:?}");
        let stored: u64 = redis::cmd("DBSIZE")
            .query(&mut cluster.client(place))
            .unwrap();
        assert!(stored > 30, "node {place} has {stored} keys");
    }
    // Keys of one tag lie together; all of them are read, counted and deleted at once all the same.
    let owners: HashSet<usize> = (0..20)
        .map(|n| cluster.owner(slot(format!("{{cart}}{n}").as_bytes())))
        .collect();
    assert_eq!(owners.len(), 1);
    let deleted = bench.run(Verb::Delete, &keys, |_, _| {});
    assert_eq!(deleted.iter().filter(|o| **o == Outcome::Done).count(), 200);
    for word in ["MOVED", "CROSSSLOT", "ASK"] {
        assert_eq!(refused_anywhere(&cluster, word), 0, "{word}");
    }
}

#[test]
fn one_seed_is_enough_and_seeds_that_are_gone_are_no_trouble() {
    let cluster = Cluster::start();
    let gone = ClosedPort::new();
    for hosts in [
        cluster.nodes[2].address(),
        format!("127.0.0.1:{},{}", gone.port(), cluster.nodes[1].address()),
    ] {
        let mut bench = over(&format!("redis-cluster://{hosts}/"), Protocol::Ascii);
        for place in 0..3 {
            let key = cluster.key_at(place, "seed");
            assert_eq!(set(&mut bench, &key, "v"), Outcome::Done);
            assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
        }
    }
    assert_eq!(refused_anywhere(&cluster, "MOVED"), 0);
    let mut bench = over(
        &format!("redis-cluster://127.0.0.1:{}/", gone.port()),
        Protocol::Ascii,
    );
    assert_eq!(set(&mut bench, "k", "v"), Outcome::Lost);
    assert_eq!(bench.call.events().len(), 1, "{:?}", bench.call.events());
}

#[test]
fn a_master_that_dies_costs_its_own_keys_until_its_replica_took_over_and_nothing_waits() {
    let mut cluster = Cluster::with_replicas();
    let mut bench = pool_of(&cluster);
    let keys: Vec<String> = (0..3).map(|place| cluster.key_at(place, "fail")).collect();
    for key in &keys {
        assert_eq!(set(&mut bench, key, "v"), Outcome::Done);
    }
    let copied: bool = redis::cmd("WAIT")
        .arg(1)
        .arg(5000)
        .query(&mut cluster.client(0))
        .unwrap();
    assert!(copied);
    // However many keys nobody has, each node is told of once.
    let names: Vec<String> = (0..60).map(|n| format!("{}{n}", keys[n % 3])).collect();
    let many: Vec<&str> = names.iter().map(String::as_str).collect();
    cluster.nodes[0].kill();
    let (begin, mut longest, mut refusals) = (Instant::now(), Duration::ZERO, 0);
    let back = wait_until(Duration::from_secs(30), || {
        let since = Instant::now();
        let stored = set(&mut bench, &keys[0], "w");
        longest = longest.max(since.elapsed());
        if stored != Outcome::Done {
            refusals += 1;
            let own = bench.call.events().to_vec();
            bench.run(Verb::Get, &many, |_, _| {});
            assert!(bench.call.events().len() <= 3, "{:?}", bench.call.events());
            for event in own {
                let text = &event.message;
                assert!(
                    text.contains("refused")
                        || text.contains("closed")
                        || text.contains("CLUSTERDOWN"),
                    "{text}"
                );
            }
        }
        stored == Outcome::Done
    });
    assert!(back, "it did not go on: {:?}", bench.call.events());
    println!(
        "back after {:?}, {refusals} refusals, the longest took {longest:?}",
        begin.elapsed()
    );
    assert!(
        refusals > 0 && longest < Duration::from_millis(500),
        "{refusals} {longest:?}"
    );
    let all: Vec<&str> = keys.iter().map(String::as_str).collect();
    let well = wait_until(Duration::from_secs(20), || {
        let found = bench.run(Verb::Get, &all, |_, _| {});
        found.iter().all(|one| matches!(one, Outcome::Hit { .. }))
    });
    assert!(well);
    assert_eq!(read(&mut bench, &[&keys[0]]), [Some("w".to_owned())]);
    // The one that died comes back as a replica, which sends all elsewhere; so does the next failover.
    cluster.nodes[0].restart();
    let synced = wait_until(Duration::from_secs(30), || {
        cluster.nodes[0].info("role") == "slave"
            && cluster.nodes[0].info("master_link_status") == "up"
    });
    assert!(synced, "the old master did not become a replica");
    let mut fresh = over(
        &format!("redis-cluster://{}/", cluster.nodes[0].address()),
        Protocol::Ascii,
    );
    assert_eq!(read(&mut fresh, &[&keys[0]]), [Some("w".to_owned())]);
    // Who is still taken for failed would lose its slots again at once, and what was stored with them.
    let trusted = wait_until(Duration::from_secs(30), || {
        (0..6).all(|place| !cluster.said(place, &["CLUSTER", "NODES"]).contains("fail"))
    });
    assert!(trusted, "{}", cluster.said(3, &["CLUSTER", "NODES"]));
    assert_eq!(cluster.said(0, &["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    let taken = wait_until(Duration::from_secs(20), || {
        cluster.has(0, cluster.slot(&keys[0]))
    });
    assert!(taken, "the failover by hand did not come about");
    let known = wait_until(Duration::from_secs(20), || {
        cluster.nodes[3].info("role") == "slave"
    });
    assert!(known);
    // A node that took slots over needs a moment to see that all are served.
    let stored = wait_until(Duration::from_secs(20), || {
        set(&mut fresh, &keys[0], "x") == Outcome::Done
    });
    assert!(stored, "{:?}", fresh.call.events());
    let there: String = redis::cmd("GET")
        .arg(&keys[0])
        .query(&mut cluster.client(0))
        .unwrap();
    assert!(there.ends_with('x'), "{there}");
}

#[test]
fn a_master_that_hangs_costs_one_timeout_until_its_replica_took_over() {
    let cluster = Cluster::with_replicas();
    let mut bench = pool_of(&cluster);
    let key = cluster.key_at(1, "hang");
    for index in 0..6 {
        bench
            .pool
            .set_params(index, Duration::from_millis(300), 15, true);
    }
    assert_eq!(set(&mut bench, &key, "v"), Outcome::Done);
    cluster.nodes[1].freeze();
    let (begin, mut waits, mut refusals) = (Instant::now(), Vec::new(), 0);
    let back = wait_until(Duration::from_secs(30), || {
        let since = Instant::now();
        let stored = set(&mut bench, &key, "w");
        if since.elapsed() > Duration::from_millis(100) {
            waits.push(since.elapsed());
        }
        refusals += u64::from(stored != Outcome::Done);
        stored == Outcome::Done
    });
    assert!(back, "it did not go on: {:?}", bench.call.events());
    println!(
        "back after {:?}, {refusals} refusals, waits of {waits:?}",
        begin.elapsed()
    );
    // One of its own; whoever else is asked for the table may be slow on a busy machine.
    let sum: Duration = waits.iter().sum();
    assert!(
        (Duration::from_millis(250)..Duration::from_millis(900)).contains(&sum),
        "{waits:?}"
    );
    cluster.nodes[1].resume();
}

#[test]
fn a_long_value_is_stored_whole_where_replicas_are_waited_for() {
    let cluster = Cluster::with_replicas();
    let mut bench = over(&cluster.url_as("", "wait=1&timeout=2"), Protocol::Ascii);
    let key = cluster.key_at(0, "long");
    // Its end would be commands, were it not a part of the value.
    for len in [2000, 3000, 200_000] {
        let value = "x".repeat(len) + "\r\nFLUSHALL\r\nFLUSHALL\r\n";
        let events = |bench: &Bench| format!("{:?}", bench.call.events());
        let done = set(&mut bench, &key, &value);
        assert_eq!(done, Outcome::Done, "{}", events(&bench));
        assert_eq!(read(&mut bench, &[&key]), [Some(value)]);
    }
}

#[test]
fn a_write_is_acknowledged_only_when_a_replica_has_it_where_that_is_asked_for() {
    let cluster = Cluster::with_replicas();
    let mut bench = over(&cluster.url_as("", "wait=1&timeout=1"), Protocol::Ascii);
    let key = cluster.key_at(0, "wait");
    let slot = cluster.slot(&key);
    assert_eq!(
        set(&mut bench, &key, "1"),
        Outcome::Done,
        "{:?}",
        bench.call.events()
    );
    assert_eq!(add_one(&mut bench, &key), Outcome::Number(2));
    assert_eq!(bench.run(Verb::Delete, &[&key], |_, _| {}), [Outcome::Done]);
    assert_eq!(
        bench.run(Verb::Delete, &[&key], |_, _| {}),
        [Outcome::NotFound]
    );
    let count = |bench: &mut Bench| {
        bench.run(Verb::Increment, &[&key], |call, i| {
            let entry = call.entry_mut(i).unwrap();
            (entry.delta, entry.initial) = (1, Some(5));
        })[0]
    };
    assert_eq!(count(&mut bench), Outcome::Number(5));
    // Through a redirect, too.
    cluster.move_slot(slot, 0, 1);
    assert_eq!(
        count(&mut bench),
        Outcome::Number(6),
        "{:?}",
        bench.call.events()
    );
    cluster.nodes[4].freeze();
    for outcome in [set(&mut bench, &key, "2"), count(&mut bench)] {
        assert_eq!(outcome, Outcome::Refused);
        let message = &bench.call.events()[0].message;
        assert!(
            message.contains("0 of 1 replicas had it within 750 ms"),
            "{message}"
        );
        assert_eq!(bench.call.events().len(), 1);
        assert!(!bench.call.events()[0].fault, "the master is well");
    }
    // What does not write does not wait, and what changed nothing says so.
    let begin = Instant::now();
    assert_eq!(bench.store(Store::Add, &key, b"x", 0), Outcome::NotStored);
    let begun = Instant::now();
    assert!(bench.get(&key).is_some());
    assert!(
        begun.elapsed() < Duration::from_millis(300),
        "{:?}",
        begin.elapsed()
    );
    let mut directory = memring_pool::node::Directory::new();
    let mut keeper = sessions(&cluster.url_as("", "wait=1"), &mut directory);
    let id = cluster.key_at(1, "S:w").split_off(2);
    assert_eq!(keeper.read(id.as_bytes(), true).unwrap(), b"");
    let error = keeper
        .write(id.as_bytes(), b"v", 100)
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("0 of 1 replicas") && error.contains("INFO replication"),
        "{error}"
    );
    cluster.nodes[4].resume();
    keeper.read(id.as_bytes(), true).unwrap();
    let stored = wait_until(Duration::from_secs(10), || {
        keeper.write(id.as_bytes(), b"v", 100).is_ok()
    });
    assert!(stored);
}

#[test]
fn a_write_whose_master_dies_before_its_replica_has_it_is_not_acknowledged() {
    for moved in [false, true] {
        let mut cluster = Cluster::with_replicas();
        let mut bench = over(&cluster.url_as("", "wait=1"), Protocol::Ascii);
        for index in 0..6 {
            bench
                .pool
                .set_params(index, Duration::from_secs(3), 15, true);
        }
        let key = cluster.key_at(0, "dies");
        assert_eq!(set(&mut bench, &key, "1"), Outcome::Done);
        if moved {
            // The one that dies is where a redirect leads to.
            cluster.move_slot(cluster.slot(&key), 0, 1);
        }
        let dead = usize::from(moved);
        cluster.nodes[dead + 3].freeze();
        let outcome = std::thread::scope(|scope| {
            let mut client = cluster.client(dead);
            let victim = &mut cluster.nodes[dead];
            scope.spawn(move || {
                // It has carried the write out, and waits.
                let blocked = wait_until(Duration::from_secs(10), || {
                    let text: String = redis::cmd("INFO")
                        .arg("clients")
                        .query(&mut client)
                        .unwrap();
                    text.contains("blocked_clients:1")
                });
                assert!(blocked);
                victim.kill();
            });
            set(&mut bench, &key, "2")
        });
        assert!(
            matches!(outcome, Outcome::Lost | Outcome::Refused),
            "{outcome:?}"
        );
        assert_eq!(bench.call.events().len(), 1, "{:?}", bench.call.events());
        cluster.nodes[dead + 3].resume();
    }
}

#[test]
fn who_is_not_let_in_and_who_names_the_wrong_kind_of_server_is_told_what_to_write() {
    let cluster = Cluster::start();
    for place in 0..3 {
        cluster.said(place, &["CONFIG", "SET", "masterauth", "right"]);
        cluster.said(place, &["CONFIG", "SET", "requirepass", "right"]);
    }
    for (who, words) in [(":wrong@", "refuses the password"), ("", "NOAUTH")] {
        let mut bench = over(&cluster.url_as(who, ""), Protocol::Ascii);
        assert_ne!(set(&mut bench, "k", "v"), Outcome::Done);
        let events = bench.call.events();
        assert!(
            events.iter().any(|e| e.message.contains(words)),
            "{events:?}"
        );
        assert!(
            events
                .iter()
                .all(|e| !e.error.to_string().contains("wrong")),
            "{events:?}"
        );
    }
    let mut keeper = sessions(
        &cluster.url_as(":wrong@", ""),
        &mut memring_pool::node::Directory::new(),
    );
    let error = keeper.read(b"s", true).unwrap_err().to_string();
    assert!(
        error.contains("refuses the password") && !error.contains("wrong@"),
        "{error}"
    );
    let mut bench = over(&cluster.url_as(":right@", ""), Protocol::Ascii);
    assert_eq!(set(&mut bench, "k", "v"), Outcome::Done);
    // One of them under redis://, and one that is none under redis-cluster://.
    let plain = Cluster::start();
    let mut bench = Bench::of(Policy::default(), &[]);
    let node = format!("redis://{}", plain.nodes[0].address());
    let spec = NodeSpec::from_add_server(&node, None, 11211, &Schemes::default()).unwrap();
    bench.pool.add(spec, &mut bench.directory);
    let key = plain.key_at(1, "k");
    assert_eq!(set(&mut bench, &key, "v"), Outcome::Refused);
    let message = &bench.call.events()[0].message;
    assert!(
        message.contains("MOVED") && message.contains("write redis-cluster://"),
        "{message}"
    );
    let single = Redis::start();
    let mut bench = over(
        &format!("redis-cluster://{}/", single.address()),
        Protocol::Ascii,
    );
    set(&mut bench, "k", "v");
    let events = bench.call.events();
    assert!(
        events
            .iter()
            .any(|e| e.message.contains("write redis:// in place")),
        "{events:?}"
    );
}

#[test]
fn all_masters_are_emptied_and_each_tells_its_slots() {
    let cluster = Cluster::start();
    // By name the seeds are other members than the addresses the cluster gives.
    let port = cluster.nodes[0].port();
    for url in [cluster.url(), format!("redis-cluster://localhost:{port}/")] {
        let mut bench = over(&url, Protocol::Ascii);
        for n in 0..30 {
            assert_eq!(set(&mut bench, &format!("k{n}"), "v"), Outcome::Done);
        }
        let serving = bench.pool.serving(&mut bench.call);
        let names: Vec<&str> = serving.iter().map(|node| bench.pool.name(*node)).collect();
        let addresses: Vec<String> = cluster.nodes.iter().map(Redis::address).collect();
        assert_eq!(
            names.iter().collect::<HashSet<_>>(),
            addresses
                .iter()
                .map(|a| a.as_str())
                .collect::<Vec<_>>()
                .iter()
                .collect()
        );
        let status = bench.pool.status().json();
        for slots in ["\"0-5460\"", "\"5461-10921\"", "\"10922-16383\""] {
            assert!(status.contains(slots), "{status}");
        }
        assert!(
            bench.pool.flush(0, &mut bench.call),
            "{:?}",
            bench.call.events()
        );
        for place in 0..3 {
            let left: u64 = redis::cmd("DBSIZE")
                .query(&mut cluster.client(place))
                .unwrap();
            assert_eq!(left, 0);
        }
    }
}

#[test]
fn a_key_is_explained_by_its_slot_before_anything_was_asked() {
    use memring_pool::call::Limits;
    use memring_pool::item::KeyRule;
    use memring_pool::pool::route::Op;
    let cluster = Cluster::start();
    let mut bench = pool_of(&cluster);
    let key = cluster.key_at(1, "{route}");
    let told = bench.pool.route(
        Op::Get,
        key.as_bytes(),
        &KeyRule::default(),
        &Limits::default(),
    );
    let told = told.unwrap().json();
    for words in [
        format!("\"slot\":{}", cluster.slot(&key)),
        format!("\"owner\":\"{}\"", cluster.nodes[1].address()),
        format!("it has slot {}", cluster.slot(&key)),
        "\"placed_by\":\"route\"".to_owned(),
        "\"placement\":\"slots\"".to_owned(),
    ] {
        assert!(told.contains(&words), "{words}: {told}");
    }
}

#[test]
fn a_cluster_in_tls_is_one_pool_and_each_of_its_nodes_is_met_in_tls() {
    let made = Certificates::new();
    let cluster = Cluster::with_tls(&made);
    let seeds = format!("ca={}", made.ca().display());
    let mut bench = over(&cluster.url_as("", &seeds), Protocol::Ascii);
    let keys: Vec<String> = (0..3).map(|place| cluster.key_at(place, "k")).collect();
    for key in &keys {
        assert_eq!(bench.store(Store::Set, key, b"v", 0), Outcome::Done);
    }
    // A slot that moves is followed to the port for TLS.
    let slot = cluster.slot(&keys[0]);
    cluster.move_slot(slot, 0, 1);
    assert_eq!(bench.store(Store::Set, &keys[0], b"w", 0), Outcome::Done);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    let text: Vec<u8> = cluster.client(1).get(&keys[0]).unwrap();
    assert!(text.ends_with(b"w"), "{text:?}");
    let strange = format!("ca={}", Certificates::new().ca().display());
    let mut bench = over(&cluster.url_as("", &strange), Protocol::Ascii);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Lost);
    assert_eq!(bench.call.events()[0].error.kind(), Kind::Tls);
    let count =
        "session_id('s'); session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;";
    let php = php(&cluster.url_as("", &seeds)).ini("session.save_handler", "memring");
    assert_eq!(php.run(count).ok() + &php.run(count).ok(), "12");
}
