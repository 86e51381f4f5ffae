//! Copies of a cache (mode sync) on real nodes: what each command does, and what faults cost.

use crate::contract::contract_of;
use crate::copies::caches;
use crate::pool::Bench;
use harness::{Fault, Memcached, Proxy, Redis, Server, wait_until};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{Mode, NodeSpec, Placement, Policy, Schemes};
use memring_pool::pool::rules::Rules;
use memring_pool::wire::Store;
use std::sync::Barrier;
use std::time::Duration;

/// A pool of mode sync over these ports.
pub(crate) fn synced(name: &str, ports: &[u16]) -> Bench {
    copied(name, Mode::Sync, ports)
}

pub(crate) fn copied(name: &str, mode: Mode, ports: &[u16]) -> Bench {
    let policy = Policy {
        placement: Placement::Rendezvous,
        mode,
        name: name.to_owned(),
        ..Policy::default()
    };
    Bench::of(policy, ports)
}

pub(crate) fn ports(nodes: &[Memcached]) -> Vec<u16> {
    nodes.iter().map(Memcached::port).collect()
}

/// The same over servers of any kind.
pub(crate) fn copied_on(name: &str, mode: Mode, nodes: &[Server]) -> Bench {
    let mut bench = copied(name, mode, &[]);
    join(&mut bench, nodes);
    bench
}

/// Adds servers of any kind to a pool.
pub(crate) fn join<'node>(bench: &mut Bench, nodes: impl IntoIterator<Item = &'node Server>) {
    for node in nodes {
        let url = format!("{}://{}", node.scheme(), node.address());
        let mut spec = NodeSpec::from_add_server(&url, None, 11211, &Schemes::default()).unwrap();
        // As `Bench::of` has them.
        (spec.op_timeout, spec.connect_timeout) =
            (Duration::from_millis(400), Duration::from_millis(400));
        spec.written.timeout = true;
        bench.pool.add(spec, &mut bench.directory);
    }
}

fn synced_on(name: &str, nodes: &[Server]) -> Bench {
    copied_on(name, Mode::Sync, nodes)
}

/// Three nodes of each kind, and of two kinds in one pool.
pub(crate) fn kinds() -> Vec<Vec<Server>> {
    let redis = || Server::Redis(Redis::start());
    let memcached = |nodes: Vec<Memcached>| nodes.into_iter().map(Server::Memcached).collect();
    let mut kinds: Vec<Vec<Server>> = caches().into_iter().map(memcached).collect();
    kinds.push(vec![redis(), redis(), redis()]);
    kinds.push(vec![
        redis(),
        Server::Memcached(Memcached::start()),
        redis(),
    ]);
    kinds
}

/// Keys that node `owner` of the bench owns.
pub(crate) fn owned(bench: &mut Bench, owner: usize, count: usize) -> Vec<String> {
    (0..)
        .map(|n| format!("key{n}"))
        .filter(|key| bench.pool.preferred(key.as_bytes(), 1) == [owner])
        .take(count)
        .collect()
}

fn delete(bench: &mut Bench, key: &str) -> Outcome {
    bench.run(Verb::Delete, &[key], |_, _| {})[0]
}

/// One of another client's, or from before there were copies: nobody could tell which of two is newer.
#[test]
fn a_counter_without_a_version_has_one_once_it_was_counted() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let mut bench = copied("counted", Mode::Sync, &ports(&nodes));
    let key = &owned(&mut bench, 0, 1)[0];
    nodes[0].raw(format!("set {key} 0 0 1\r\n5\r\n"), "\r\n");
    let counted = bench.run(Verb::Increment, &[key], |call, i| {
        call.entry_mut(i).unwrap().delta = 1;
    });
    assert_eq!(counted, [Outcome::Number(6)]);
    let Outcome::Hit { cas, .. } = bench.run(Verb::Gets, &[key], |_, _| {})[0] else {
        panic!("{key}");
    };
    // Versions count milliseconds since 1970 in their upper bits.
    assert!(cas > 1 << 50, "{cas}");
}

pub(crate) fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

/// A counter's text; its flags say that it is a number.
fn counter(bench: &mut Bench, key: &str) -> String {
    match bench.run(Verb::Get, &[key], |_, _| {})[0] {
        Outcome::Hit { value, .. } => String::from_utf8_lossy(bench.call.value(value)).into_owned(),
        other => panic!("{key}: {other:?}"),
    }
}

fn count(bench: &mut Bench, key: &str, initial: Option<u64>) -> Outcome {
    bench.run(Verb::Increment, &[key], |call, i| {
        let entry = call.entry_mut(i).unwrap();
        entry.delta = 1;
        entry.initial = initial;
    })[0]
}

#[test]
fn every_command_has_its_outcome_on_copies() {
    for nodes in kinds() {
        let version = if nodes[0].is_redis() { "7." } else { "1." };
        contract_of(&mut synced_on("contract", &nodes), version);
        contract_of(&mut synced_on("contract", &nodes[..2]), version);
    }
}

#[test]
fn a_set_is_on_two_nodes_and_a_get_asks_the_owner_alone() {
    for nodes in caches() {
        let proxies: Vec<Proxy> = nodes.iter().map(|n| Proxy::start(n.port())).collect();
        let fronts: Vec<u16> = proxies.iter().map(Proxy::port).collect();
        let mut bench = synced("counted", &fronts);
        // A busy machine makes a write slow, and a slow one is looked at again.
        let usual = Rules {
            confirm: false,
            ..Rules::ALL
        };
        bench.pool.set_rules(usual);
        bench.store(Store::Set, "warm", b"v", 0);
        for n in 0..30 {
            bench.store(Store::Set, &format!("warm{n}"), b"v", 0);
        }
        let said = |bench: &mut Bench, work: &dyn Fn(&mut Bench)| -> Vec<String> {
            proxies.iter().for_each(Proxy::clear);
            work(bench);
            let lines = proxies.iter().flat_map(|proxy| {
                String::from_utf8_lossy(&proxy.requests())
                    .lines()
                    .filter(|line| {
                        line.starts_with("ms ") || line.contains("get") || line.starts_with("mg ")
                    })
                    .map(|line| line.split(' ').next().unwrap().to_owned())
                    .collect::<Vec<_>>()
            });
            lines.collect()
        };
        let set = said(&mut bench, &|bench| {
            assert_eq!(bench.store(Store::Set, "k", b"value", 0), Outcome::Done);
        });
        assert_eq!(set, ["ms", "ms"]);
        let holders = nodes.iter().filter(|node| node.stored("k").is_some());
        assert_eq!(holders.count(), 2);
        let get = said(&mut bench, &|bench| {
            assert_eq!(bench.get("k"), text("value"))
        });
        assert_eq!(get, ["gets"]);
        // A miss is looked for on the copy, too.
        let miss = said(&mut bench, &|bench| assert_eq!(bench.get("none"), None));
        assert_eq!(miss.len(), 2);
        let gone = said(&mut bench, &|bench| {
            assert_eq!(delete(bench, "k"), Outcome::Done)
        });
        assert_eq!(gone, ["mg", "ms", "mg", "ms"]);
        let counted = said(&mut bench, &|bench| {
            assert_eq!(count(bench, "n", Some(7)), Outcome::Number(7));
        });
        assert_eq!(counted.len(), 4, "two looks and two stores: {counted:?}");
        assert_eq!(bench.pool.counts().alone, 0);
    }
}

#[test]
fn a_killed_node_loses_no_acknowledged_set_also_when_it_is_back_empty() {
    for mut nodes in kinds() {
        let mut bench = synced_on("killed", &nodes);
        let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
        for key in &keys {
            assert_eq!(bench.store(Store::Set, key, b"0", 0), Outcome::Done);
        }
        for (turn, node) in nodes.iter_mut().enumerate() {
            node.kill();
            for (n, key) in keys.iter().enumerate() {
                assert_eq!(
                    bench.get(key),
                    text(&turn.to_string()),
                    "{key}, {turn} away"
                );
                if n % 2 == 0 {
                    let next = (turn + 1).to_string();
                    assert_eq!(
                        bench.store(Store::Set, key, next.as_bytes(), 0),
                        Outcome::Done
                    );
                }
            }
            assert!(bench.pool.counts().alone > 0);
            node.restart();
            assert!(wait_until(Duration::from_secs(10), || {
                bench.get("k0");
                bench.pool.is_up(turn)
            }));
            for (n, key) in keys.iter().enumerate() {
                let now = turn + usize::from(n % 2 == 0);
                assert_eq!(
                    bench.get(key),
                    text(&now.to_string()),
                    "{key}, {turn} empty"
                );
                if n % 2 == 1 {
                    let next = (turn + 1).to_string();
                    assert_eq!(
                        bench.store(Store::Set, key, next.as_bytes(), 0),
                        Outcome::Done
                    );
                }
            }
        }
        assert!(bench.pool.counts().repairs > 0);
    }
}

#[test]
fn a_hung_node_comes_back_and_shows_nothing_old_and_nothing_deleted() {
    for nodes in kinds() {
        let mut bench = synced_on("hung", &nodes);
        let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
        for key in &keys {
            assert_eq!(bench.store(Store::Set, key, b"old", 0), Outcome::Done);
        }
        for (frozen, node) in nodes.iter().enumerate() {
            node.freeze();
            for (n, key) in keys.iter().enumerate() {
                match n % 3 {
                    0 => assert_eq!(bench.store(Store::Set, key, b"new", 0), Outcome::Done),
                    1 => drop(delete(&mut bench, key)),
                    _ => {}
                }
            }
            node.resume();
            let before = bench.pool.counts().handed_over;
            // While it is left alone, and when it is back.
            for (n, key) in keys.iter().enumerate() {
                let now = match n % 3 {
                    0 => text("new"),
                    1 => None,
                    _ => text("old"),
                };
                assert_eq!(bench.get(key), now, "{key}, {frozen} is back");
            }
            assert!(wait_until(Duration::from_secs(10), || {
                bench.get("k0");
                bench.pool.counts().handed_over > before
            }));
            for key in &keys {
                bench.get(key);
            }
            // Nor does it on the node itself, once the others are asked no more.
            for (n, key) in keys.iter().enumerate() {
                let raw = node.stored(key).unwrap_or_default();
                let raw = String::from_utf8_lossy(&raw);
                match n % 3 {
                    0 => assert!(!raw.contains("old"), "{key}: {raw}"),
                    1 => assert!(!raw.contains("old") && !raw.contains("new"), "{key}: {raw}"),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn counters_and_joined_values_of_many_writers_lose_nothing() {
    const WORKERS: usize = 4;
    const ROUNDS: usize = 25;
    for mut nodes in kinds() {
        synced_on("count", &nodes).store(Store::Set, "joined", b"", 0);
        let winners: usize = std::thread::scope(|scope| {
            let workers: Vec<_> = (0..WORKERS)
                .map(|worker| {
                    let nodes = &nodes;
                    scope.spawn(move || {
                        let mut bench = synced_on("count", nodes);
                        let mut won = 0;
                        for round in 0..ROUNDS {
                            let counted = count(&mut bench, "n", Some(1));
                            assert!(matches!(counted, Outcome::Number(_)), "{counted:?}");
                            let joined = bench.store(Store::Append, "joined", b"x", 0);
                            assert_eq!(joined, Outcome::Done);
                            let added = bench.store(
                                Store::Add,
                                &format!("a{round}"),
                                &[b'0' + worker as u8],
                                0,
                            );
                            won += usize::from(added == Outcome::Done);
                        }
                        won
                    })
                })
                .collect();
            workers
                .into_iter()
                .map(|worker| worker.join().unwrap())
                .sum()
        });
        assert_eq!(winners, ROUNDS, "one add of each key wins");
        let mut bench = synced_on("count", &nodes);
        let total = (WORKERS * ROUNDS).to_string();
        assert_eq!(counter(&mut bench, "n"), total);
        assert_eq!(bench.get("joined").unwrap().len(), WORKERS * ROUNDS);
        // The copies have the same.
        let owner = bench.pool.preferred(b"n", 1)[0];
        nodes[owner].kill();
        assert_eq!(counter(&mut bench, "n"), total);
    }
}

/// Each count stores it again, and what is left is told in seconds.
#[test]
fn a_counter_that_is_counted_all_the_time_ends_when_it_should() {
    for nodes in kinds() {
        let mut bench = synced_on("ends", &nodes);
        let set = bench.run(Verb::Store(Store::Set), &["n"], |call, i| {
            let start = call.value_mut().len();
            call.value_mut().extend_from_slice(b"0");
            call.finish_value(start);
            call.entry_mut(i).unwrap().ttl = 3;
        });
        assert_eq!(set, [Outcome::Done]);
        let ended = wait_until(Duration::from_secs(15), || {
            count(&mut bench, "n", None) == Outcome::NotFound
        });
        assert!(ended, "{:?}", nodes[0]);
    }
}

#[test]
fn a_cas_value_holds_on_every_copy() {
    for mut nodes in kinds() {
        let mut bench = synced_on("cas", &nodes);
        bench.store(Store::Set, "k", b"one", 0);
        let token = |bench: &mut Bench| match bench.run(Verb::Gets, &["k"], |_, _| {})[0] {
            Outcome::Hit { cas, .. } => cas,
            other => panic!("{other:?}"),
        };
        let seen = token(&mut bench);
        let owner = bench.pool.preferred(b"k", 1)[0];
        nodes[owner].kill();
        assert_eq!(token(&mut bench), seen, "the copy has the same");
        assert_eq!(bench.store(Store::Cas, "k", b"two", seen), Outcome::Done);
        nodes[owner].restart();
        assert_eq!(
            bench.store(Store::Cas, "k", b"three", seen),
            Outcome::Exists
        );
        let seen = token(&mut bench);
        assert_eq!(bench.store(Store::Cas, "k", b"three", seen), Outcome::Done);
        assert_eq!(bench.get("k"), text("three"));
    }
}

#[test]
fn another_clients_value_is_served_and_is_older_than_any_of_ours() {
    for nodes in kinds() {
        let mut bench = synced_on("foreign", &nodes[..2]);
        let key = owned(&mut bench, 0, 1).remove(0);
        nodes[0].put(&key, "alien");
        assert_eq!(bench.get(&key), text("alien"));
        assert_eq!(bench.store(Store::Append, &key, b"s", 0), Outcome::Done);
        assert_eq!(bench.get(&key), text("aliens"));
        bench.store(Store::Set, &key, b"ours", 0);
        // On the copy alone it does not count where the owner has ours.
        nodes[1].put(&key, "alien");
        nodes[0].delete(&key);
        bench.store(Store::Set, &key, b"ours", 0);
        nodes[1].put(&key, "alien");
        assert_eq!(bench.store(Store::Append, &key, b"!", 0), Outcome::Done);
        assert_eq!(bench.get(&key), text("ours!"));
    }
}

#[test]
fn a_deleted_value_is_not_added_back_by_a_read_that_was_slow() {
    for nodes in kinds() {
        let mut bench = synced_on("slow", &nodes[..2]);
        let key = owned(&mut bench, 0, 1).remove(0);
        bench.store(Store::Set, &key, b"value", 0);
        assert_eq!(delete(&mut bench, &key), Outcome::Done);
        // What a read does that found it on the copy before the delete.
        assert!(!nodes[0].add(&key, "value"), "it is remembered");
        assert_eq!(bench.get(&key), None);
        assert_eq!(delete(&mut bench, &key), Outcome::NotFound);
        assert_eq!(
            bench.store(Store::Replace, &key, b"x", 0),
            Outcome::NotStored
        );
        assert_eq!(bench.store(Store::Add, &key, b"again", 0), Outcome::Done);
        assert_eq!(bench.get(&key), text("again"));
    }
}

#[test]
fn a_deleted_value_is_not_added_back_where_it_was_missing_either() {
    for nodes in caches() {
        let mut bench = synced("missing", &ports(&nodes[..2]));
        let key = owned(&mut bench, 0, 1).remove(0);
        bench.store(Store::Set, &key, b"value", 0);
        nodes[0].raw(format!("delete {key}\r\n"), "DELETED\r\n");
        assert_eq!(delete(&mut bench, &key), Outcome::Done);
        // What a read does that began before the delete.
        let late = nodes[0].raw(format!("add {key} 0 0 5\r\nvalue\r\n"), "STORED\r\n");
        assert_eq!(late, b"NOT_STORED\r\n");
        assert_eq!(bench.get(&key), None);
    }
}

/// One host hands over a key that another one deletes at this moment.
#[test]
fn a_missed_value_that_is_deleted_while_it_is_handed_over_stays_deleted() {
    for mut nodes in caches() {
        let proxies: Vec<Proxy> = nodes[..2].iter().map(|n| Proxy::start(n.port())).collect();
        let fronts: Vec<u16> = proxies.iter().map(Proxy::port).collect();
        let mut bench = synced("handed", &fronts);
        let key = owned(&mut bench, 0, 1).remove(0);
        bench.store(Store::Set, &key, b"older", 0);
        nodes[1].freeze();
        assert_eq!(bench.store(Store::Set, &key, b"newer", 0), Outcome::Done);
        nodes[1].resume();
        let looked = format!("mg {key} ");
        let ready = Barrier::new(2);
        std::thread::scope(|scope| {
            let (ready, other) = (&ready, &proxies[0]);
            let (fronts, looked, key) = (&fronts, &looked, &key);
            // What a process missed is its own knowledge here.
            scope.spawn(move || {
                let mut bench = synced("handed", fronts);
                bench.store(Store::Set, "warm", b"v", 0);
                other.clear();
                other.fault(Fault::Delay(Duration::from_millis(150)));
                ready.wait();
                let asked = || String::from_utf8_lossy(&other.requests()).contains(looked);
                assert!(wait_until(Duration::from_secs(10), asked));
                assert_eq!(delete(&mut bench, key), Outcome::Done);
            });
            ready.wait();
            assert!(wait_until(Duration::from_secs(10), || {
                bench.get(key);
                bench.pool.counts().handed_over > 0
            }));
        });
        proxies[0].fault(Fault::None);
        assert_eq!(bench.get(&key), None);
        nodes[0].kill();
        assert_eq!(
            bench.get(&key),
            None,
            "the copy does not know of the delete"
        );
    }
}

#[test]
fn after_a_flush_no_copy_brings_a_value_back() {
    for nodes in caches() {
        let mut bench = synced("flush", &ports(&nodes));
        let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
        for key in &keys {
            bench.store(Store::Set, key, b"v", 0);
        }
        nodes[1].freeze();
        assert!(!bench.pool.flush(0, &mut bench.call), "one is away");
        nodes[1].resume();
        for key in &keys {
            assert_eq!(bench.get(key), None, "{key}");
        }
        assert!(wait_until(Duration::from_secs(10), || {
            assert_eq!(bench.get(&keys[0]), None);
            bench.pool.counts().emptied == 1
        }));
        for key in &keys {
            assert_eq!(bench.get(key), None, "{key}");
        }
        assert_eq!(nodes[1].stored(&keys[0]), None);
    }
}

#[test]
fn a_get_of_many_keys_is_one_wait_for_owners_and_one_for_copies() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let proxies: Vec<Proxy> = nodes.iter().map(|n| Proxy::start(n.port())).collect();
    let fronts: Vec<u16> = proxies.iter().map(Proxy::port).collect();
    let mut bench = synced("many", &fronts);
    let names: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let done = bench.run(Verb::Store(Store::Set), &keys, |call, _| {
        let start = call.value_mut().len();
        call.value_mut().extend_from_slice(b"value");
        call.finish_value(start);
    });
    assert!(done.iter().all(|outcome| *outcome == Outcome::Done));
    let pieces = |proxy: &Proxy| {
        let events = proxy.events();
        let sent = events
            .iter()
            .filter(|e| e.from == harness::proxy::From::Client);
        sent.count()
    };
    let mut wanted = keys.clone();
    wanted.push("missing");
    proxies.iter().for_each(Proxy::clear);
    let found = bench.run(Verb::Get, &wanted, |_, _| {});
    let hits = found.iter().filter(|o| matches!(o, Outcome::Hit { .. }));
    assert_eq!(hits.count(), 100);
    let sent: Vec<usize> = proxies.iter().map(pieces).collect();
    // One request to each of three nodes, and one more to the copy of the missing key.
    assert_eq!(sent.iter().sum::<usize>(), 4, "{sent:?}");
}
