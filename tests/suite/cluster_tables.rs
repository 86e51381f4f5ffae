//! Who has which slot, when nodes are wrong about it or gone: whom a cluster's pool asks, what it believes, and how long
//! that may take.

use crate::cluster::{over, pool_of, read, refused_anywhere, set};
use crate::pool::Bench;
use harness::{Act, BlackHole, ClosedPort, Cluster, Hostile, wait_until};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::Protocol;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::time::{Duration, Instant};

/// Longer than between two questions for the table.
const PAUSE: Duration = Duration::from_millis(250);
const SECONDS: Duration = Duration::from_secs(20);

/// The answer to CLUSTER SLOTS that gives these slots to ports of this host.
fn table(runs: &[(u16, u16, u16)]) -> Vec<Act> {
    let run = |(first, last, port): &(u16, u16, u16)| {
        format!("*3\r\n:{first}\r\n:{last}\r\n*2\r\n$9\r\n127.0.0.1\r\n:{port}\r\n")
    };
    let runs: Vec<String> = runs.iter().map(run).collect();
    vec![Act::say(format!("*{}\r\n{}", runs.len(), runs.concat()))]
}

/// A node that has the lower half of the slots, as it says, where port `other` has the upper one; it gives `answer`
/// to the key `b`, of slot 3300.
fn half(other: u16, answer: &'static str) -> Hostile {
    let own = Arc::new(AtomicU16::new(0));
    let port = Arc::clone(&own);
    let node = Hostile::start(move |request| match request.last() {
        "SLOTS" => table(&[
            (0, 8191, port.load(Ordering::Relaxed)),
            (8192, 16383, other),
        ]),
        "b" => vec![Act::say(answer)],
        _ => vec![],
    });
    own.store(node.port(), Ordering::Relaxed);
    node
}

fn get(bench: &mut Bench, key: &str) -> Outcome {
    bench.run(Verb::Get, &[key], |_, _| {})[0]
}

fn names(bench: &Bench) -> Vec<&str> {
    (0..bench.pool.len())
        .map(|index| bench.pool.name(index))
        .collect()
}

#[test]
fn a_node_that_lost_its_slots_is_not_asked_for_ever() {
    let cluster = Cluster::with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let mut bench = pool_of(&cluster);
    let key = cluster.key_at(0, "lost");
    assert_eq!(read(&mut bench, &[&key]), [None]);
    let id = cluster.id(0);
    for place in [1, 2] {
        assert_eq!(cluster.said(place, &["CLUSTER", "FORGET", &id]), "OK");
    }
    cluster.said(1, &["CLUSTER", "ADDSLOTSRANGE", "0", "5460"]);
    assert_eq!(cluster.said(0, &["CLUSTER", "RESET", "SOFT"]), "OK");
    let found = wait_until(Duration::from_secs(5), || {
        get(&mut bench, &key) == Outcome::NotFound
    });
    assert!(found, "{:?}", bench.call.events());
}

#[test]
fn a_master_that_loads_makes_others_be_asked_who_took_its_slots() {
    let (own, loading) = (
        Arc::new(AtomicU16::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let (port, loads) = (Arc::clone(&own), Arc::clone(&loading));
    let old = Hostile::start(move |request| {
        let loads = loads.load(Ordering::Relaxed);
        match request.last() {
            "SLOTS" | "key" if loads => {
                vec![Act::say(
                    "-LOADING Redis is loading the dataset in memory\r\n",
                )]
            }
            "SLOTS" => table(&[(0, 16383, port.load(Ordering::Relaxed))]),
            "key" => vec![Act::say("$3\r\nold\r\n")],
            _ => vec![],
        }
    });
    own.store(old.port(), Ordering::Relaxed);
    let own = Arc::new(AtomicU16::new(0));
    let (port, taken) = (Arc::clone(&own), Arc::clone(&loading));
    let new = Hostile::start(move |request| match request.last() {
        "SLOTS" if taken.load(Ordering::Relaxed) => {
            table(&[(0, 16383, port.load(Ordering::Relaxed))])
        }
        "SLOTS" => table(&[]),
        "key" => vec![Act::say("$3\r\nnew\r\n")],
        _ => vec![],
    });
    own.store(new.port(), Ordering::Relaxed);
    let url = format!(
        "redis-cluster://127.0.0.1:{},127.0.0.1:{}/",
        old.port(),
        new.port()
    );
    let mut bench = over(&url, Protocol::Ascii);
    assert_eq!(read(&mut bench, &["key"]), [Some("old".to_owned())]);
    loading.store(true, Ordering::Relaxed);
    let found = wait_until(Duration::from_secs(5), || {
        matches!(get(&mut bench, "key"), Outcome::Hit { .. })
    });
    assert!(found, "{:?}", bench.call.events());
    assert_eq!(read(&mut bench, &["key"]), [Some("new".to_owned())]);
}

#[test]
fn who_is_left_alone_is_not_waited_for_while_others_know_the_table() {
    let hole = BlackHole::start();
    let node = half(hole.port(), "$1\r\nv\r\n");
    let questions = || {
        let all = node.requests();
        all.iter().filter(|one| one.last() == "SLOTS").count()
    };
    let mut bench = over(
        &format!(
            "redis-cluster://127.0.0.1:{}/?timeout=0.4&retry_interval=0",
            node.port()
        ),
        Protocol::Ascii,
    );
    assert_eq!(read(&mut bench, &["b"]), [Some("v".to_owned())]);
    // Slot 12182.
    assert_eq!(get(&mut bench, "foo"), Outcome::Lost);
    assert_eq!(bench.call.events().len(), 1, "{:?}", bench.call.events());
    std::thread::sleep(PAUSE);
    let (asked, since) = (questions(), Instant::now());
    let found = bench.run(Verb::Get, &["b", "b"], |_, _| {});
    assert!(
        found.iter().all(|one| matches!(one, Outcome::Hit { .. })),
        "{found:?}"
    );
    assert!(
        since.elapsed() < Duration::from_millis(300),
        "{:?}",
        since.elapsed()
    );
    assert_eq!(questions(), asked + 1);
}

#[test]
fn whose_silence_cost_the_table_a_wait_is_told_of_with_his_key() {
    let hole = BlackHole::start();
    let node = half(hole.port(), "-CLUSTERDOWN Hash slot not served\r\n");
    let url = format!("redis-cluster://127.0.0.1:{}/?timeout=0.4", node.port());
    let mut bench = over(&url, Protocol::Ascii);
    assert_eq!(get(&mut bench, "b"), Outcome::Refused);
    std::thread::sleep(PAUSE);
    let since = Instant::now();
    assert_eq!(get(&mut bench, "foo"), Outcome::Lost);
    assert!(since.elapsed() < Duration::from_millis(700));
    assert_eq!(bench.call.events().len(), 1, "{:?}", bench.call.events());
}

#[test]
fn seeds_that_swallow_connects_cost_no_call_more_than_one_timeout() {
    let cluster = Cluster::start();
    let holes: Vec<BlackHole> = (0..7).map(|_| BlackHole::start()).collect();
    let hosts: Vec<String> = holes
        .iter()
        .map(|hole| format!("127.0.0.1:{}", hole.port()))
        .collect();
    let url = format!(
        "redis-cluster://{},{}/?timeout=0.4",
        hosts.join(","),
        cluster.nodes[0].address()
    );
    let mut bench = over(&url, Protocol::Ascii);
    let mut waits = Vec::new();
    let stored = wait_until(SECONDS, || {
        let since = Instant::now();
        let stored = set(&mut bench, "k", "v");
        waits.push(since.elapsed());
        stored == Outcome::Done
    });
    assert!(stored, "{:?}", bench.call.events());
    let longest = waits.iter().max().unwrap();
    assert!(*longest < Duration::from_millis(750), "{waits:?}");
}

#[test]
fn a_first_seed_that_swallows_connects_costs_the_first_call_one_timeout_and_the_next_none() {
    let (cluster, hole) = (Cluster::start(), BlackHole::start());
    let url = format!(
        "redis-cluster://127.0.0.1:{},{}/?timeout=0.4",
        hole.port(),
        cluster.nodes[0].address()
    );
    let mut bench = over(&url, Protocol::Ascii);
    let mut waits = Vec::new();
    for place in 0..3 {
        let key = cluster.key_at(place, "hole");
        let since = Instant::now();
        let stored = set(&mut bench, &key, "v");
        waits.push(since.elapsed());
        assert_eq!(stored, Outcome::Done, "{:?}", bench.call.events());
        assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    }
    let one = Duration::from_millis(380)..Duration::from_millis(750);
    assert!(one.contains(&waits[0]), "{waits:?}");
    assert!(
        waits[1..]
            .iter()
            .all(|wait| *wait < Duration::from_millis(300)),
        "{waits:?}"
    );
}

#[test]
fn dead_seeds_of_any_number_are_no_trouble_before_a_living_one() {
    let cluster = Cluster::start();
    let gone: Vec<ClosedPort> = (0..4).map(|_| ClosedPort::new()).collect();
    let hosts: Vec<String> = gone
        .iter()
        .map(|gone| format!("127.0.0.1:{}", gone.port()))
        .collect();
    let url = format!(
        "redis-cluster://{},{}/",
        hosts.join(","),
        cluster.nodes[1].address()
    );
    let mut bench = over(&url, Protocol::Ascii);
    for place in 0..3 {
        let key = cluster.key_at(place, "seed");
        let stored = set(&mut bench, &key, "v");
        assert_eq!(stored, Outcome::Done, "{:?}", bench.call.events());
        assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    }
    assert_eq!(refused_anywhere(&cluster, "MOVED"), 0);
}

#[test]
fn a_master_that_was_slow_once_is_back_within_seconds() {
    let cluster = Cluster::with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let mut bench = over(&cluster.url_as("", "timeout=0.4"), Protocol::Ascii);
    let key = cluster.key_at(1, "slow");
    assert_eq!(set(&mut bench, &key, "v"), Outcome::Done);
    cluster.nodes[1].freeze();
    assert_eq!(get(&mut bench, &key), Outcome::Lost);
    cluster.nodes[1].resume();
    let back = wait_until(Duration::from_secs(8), || {
        matches!(get(&mut bench, &key), Outcome::Hit { .. })
    });
    assert!(back, "{:?}", bench.call.events());
}

#[test]
fn all_masters_of_the_table_may_go_while_a_seed_lives_that_was_none() {
    let mut cluster = Cluster::with_replicas();
    let url = format!("redis-cluster://{}/", cluster.nodes[3].address());
    let mut bench = over(&url, Protocol::Ascii);
    let keys: Vec<String> = (0..3).map(|place| cluster.key_at(place, "all")).collect();
    for key in &keys {
        assert_eq!(set(&mut bench, key, "v"), Outcome::Done);
    }
    for place in 0..3 {
        cluster.nodes[place].kill();
    }
    for place in 3..6 {
        let said = cluster.said(place, &["CLUSTER", "FAILOVER", "TAKEOVER"]);
        assert_eq!(said, "OK");
    }
    for key in &keys {
        let stored = wait_until(SECONDS, || set(&mut bench, key, "w") == Outcome::Done);
        assert!(stored, "{:?}", bench.call.events());
    }
}

#[test]
fn a_flush_that_a_former_master_refuses_finds_the_new_one_next_time() {
    let cluster = Cluster::with_replicas();
    let mut bench = pool_of(&cluster);
    let keys: Vec<String> = (0..3).map(|place| cluster.key_at(place, "f")).collect();
    for key in &keys {
        assert_eq!(set(&mut bench, key, "v"), Outcome::Done);
    }
    assert_eq!(cluster.said(3, &["CLUSTER", "FAILOVER", "TAKEOVER"]), "OK");
    let demoted = wait_until(SECONDS, || cluster.nodes[0].info("role") == "slave");
    assert!(demoted, "the failover by hand did not come about");
    assert!(!bench.pool.flush(0, &mut bench.call));
    let told = format!("{:?}", bench.call.events());
    assert!(told.contains("READONLY"), "{told}");
    let emptied = wait_until(Duration::from_secs(10), || {
        bench.pool.flush(0, &mut bench.call)
    });
    assert!(emptied, "{:?}", bench.call.events());
    let left: u64 = redis::cmd("DBSIZE").query(&mut cluster.client(3)).unwrap();
    assert_eq!(left, 0);
}

#[test]
fn who_names_no_host_in_a_second_hop_means_his_own() {
    for word in ["MOVED", "ASK"] {
        let elsewhere = |line: String| {
            move |request: &harness::hostile::Request| match request.last() {
                "SLOTS" => table(&[]),
                "ASKING" => vec![Act::say("+OK\r\n")],
                "hop" | "{hop}2" => vec![Act::say(&line)],
                _ => vec![],
            }
        };
        let c = Hostile::start(elsewhere("$1\r\nv\r\n".to_owned()));
        let b = Hostile::start(elsewhere(format!("-{word} 1 :{}\r\n", c.port())));
        let a = Hostile::start(elsewhere(format!("-MOVED 1 localhost:{}\r\n", b.port())));
        for keys in [&["hop"][..], &["hop", "{hop}2"]] {
            let url = format!("redis-cluster://127.0.0.1:{}/", a.port());
            let mut bench = over(&url, Protocol::Ascii);
            assert_eq!(
                read(&mut bench, keys),
                vec![Some("v".to_owned()); keys.len()]
            );
            assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
            let (right, wrong) = (
                format!("localhost:{}", c.port()),
                format!("127.0.0.1:{}", c.port()),
            );
            let names = names(&bench);
            assert!(names.contains(&right.as_str()), "{names:?}");
            assert!(!names.contains(&wrong.as_str()), "{names:?}");
        }
    }
}

#[test]
fn a_move_to_a_node_without_a_name_is_no_move_to_the_one_that_tells_of_it() {
    let new = Hostile::start(|request| match request.last() {
        "hop" => vec![Act::say("$1\r\nv\r\n")],
        _ => vec![],
    });
    let (own, moved) = (Arc::new(AtomicU16::new(0)), AtomicBool::new(false));
    let (old_port, new_port) = (Arc::clone(&own), new.port());
    let old = Hostile::start(move |request| match request.last() {
        "SLOTS" if moved.load(Ordering::Relaxed) => vec![Act::say(format!(
            "*1\r\n*3\r\n:0\r\n:16383\r\n*4\r\n$1\r\n?\r\n:{new_port}\r\n$2\r\nid\r\n*2\r\n$2\r\nip\r\n$9\r\n127.0.0.1\r\n"
        ))],
        "SLOTS" => table(&[(0, 16383, old_port.load(Ordering::Relaxed))]),
        "hop" => {
            moved.store(true, Ordering::Relaxed);
            vec![Act::say(format!("-MOVED 5961 ?:{new_port}\r\n"))]
        }
        _ => vec![],
    });
    own.store(old.port(), Ordering::Relaxed);
    // By another name than the one in the table, so that nobody can be taken for anybody else.
    let url = format!("redis-cluster://localhost:{}/", old.port());
    let mut bench = over(&url, Protocol::Ascii);
    assert_eq!(get(&mut bench, "hop"), Outcome::Refused);
    let told = format!("{:?}", bench.call.events());
    assert!(told.contains("cluster-announce-hostname"), "{told}");
    let found = wait_until(Duration::from_secs(5), || {
        matches!(get(&mut bench, "hop"), Outcome::Hit { .. })
    });
    assert!(found, "{:?}", bench.call.events());
    let right = format!("127.0.0.1:{new_port}");
    assert!(
        names(&bench).contains(&right.as_str()),
        "{:?}",
        names(&bench)
    );
}
