//! Copies that follow the answer (mode async): off the caller's path, and none dropped in silence.

use crate::cache_copies::{copied, copied_on, kinds, owned, ports};
use crate::contract::contract_of;
use crate::copies::caches;
use crate::pool::Bench;
use harness::proxy::Fault;
use harness::{Memcached, Php, PhpFpm, Proxy, TempDir, wait_until};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{Mode, NodeSpec};
use memring_pool::copier::{self, Copy, What};
use memring_pool::pool::later;
use memring_pool::wire::Store;
use memring_pool::wire::copied::{Life, Over};
use std::rc::Rc;
use std::time::Duration;

/// Longer than anything takes that happens at all.
const LONG: Duration = Duration::from_secs(20);

pub(crate) fn trailing(name: &str, ports: &[u16]) -> Bench {
    copied(name, Mode::Async, ports)
}

/// The same, where copies after the first are held until something makes them go out.
pub(crate) fn holding(name: &str, ports: &[u16]) -> Bench {
    let mut bench = trailing(name, ports);
    bench.pool.policy_mut().hold = LONG;
    bench
}

fn text(value: &str) -> Option<Vec<u8>> {
    Some(value.as_bytes().to_vec())
}

pub(crate) fn set(bench: &mut Bench, key: &str, value: &str) {
    let done = bench.store(Store::Set, key, value.as_bytes(), 0);
    assert_eq!(done, Outcome::Done, "{key}");
}

/// Did these words come to the server behind a proxy?
fn came(proxy: &Proxy, words: &str) -> bool {
    String::from_utf8_lossy(&proxy.requests()).contains(words)
}

#[test]
fn every_command_has_its_outcome_where_copies_follow() {
    for nodes in kinds() {
        let version = if nodes[0].is_redis() { "7." } else { "1." };
        contract_of(&mut copied_on("contract", Mode::Async, &nodes), version);
        contract_of(
            &mut copied_on("contract", Mode::Async, &nodes[..2]),
            version,
        );
    }
}

#[test]
fn the_first_node_answers_and_at_the_end_of_the_request_each_copy_has_the_value() {
    for mut nodes in kinds() {
        let mut bench = copied_on("follow", Mode::Async, &nodes);
        bench.pool.policy_mut().hold = LONG;
        let keys: Vec<String> = (0..60).map(|n| format!("k{n}")).collect();
        for key in &keys {
            set(&mut bench, key, "old");
            set(&mut bench, key, "value");
        }
        for key in keys.iter().take(10) {
            assert_eq!(bench.run(Verb::Delete, &[key], |_, _| {})[0], Outcome::Done);
        }
        later::end();
        assert!(!copier::is_busy() || copier::take_news().missed.is_empty());
        assert_eq!(bench.pool.counts().alone, 0);
        nodes[0].kill();
        for (n, key) in keys.iter().enumerate() {
            let value = if n < 10 { None } else { text("value") };
            assert_eq!(bench.get(key), value, "{key}");
        }
    }
}

/// A write that a copy misses, and that nobody knows of any more, is read no longer than that.
#[test]
fn a_copy_lives_no_longer_than_max_stale_and_the_value_as_long_as_it_was_given() {
    let nodes = [(); 2].map(|()| Memcached::start());
    let mut bench = trailing("stale", &ports(&nodes));
    bench.pool.policy_mut().max_stale = Some(300);
    let left = |place: usize, key: &str| -> i64 {
        let said = nodes[place].raw(format!("mg {key} t\r\n"), "\r\n");
        let said = String::from_utf8(said).unwrap();
        let life = said.trim_end().strip_prefix("HD t");
        life.and_then(|life| life.parse().ok())
            .unwrap_or_else(|| panic!("{said:?}"))
    };
    let keys = owned(&mut bench, 0, 3);
    let live = |bench: &mut Bench, verb: Verb, key: &str, seconds: u32| {
        let done = bench.run(verb, &[key], |call, i| {
            let start = call.value_mut().len();
            call.value_mut().extend_from_slice(b"value");
            call.finish_value(start);
            call.entry_mut(i).unwrap().ttl = seconds;
        });
        assert_eq!(done, [Outcome::Done], "{key}");
        later::end();
    };
    let set = Verb::Store(Store::Set);
    for (key, seconds, owner, copy) in [
        (&keys[0], 0, -1..=-1, 299..=300),
        (&keys[1], 3600, 3599..=3600, 299..=300),
        (&keys[2], 60, 59..=60, 59..=60),
    ] {
        live(&mut bench, set, key, seconds);
        assert!(owner.contains(&left(0, key)), "{key}: {}", left(0, key));
        assert!(copy.contains(&left(1, key)), "{key}: {}", left(1, key));
    }
    live(&mut bench, Verb::Touch, &keys[2], 3600);
    assert!(left(0, &keys[2]) > 3500 && (200..=300).contains(&left(1, &keys[2])));
}

#[test]
fn nobody_waits_for_a_copy_whose_node_is_slow_and_it_gets_there_without_another_call() {
    for nodes in caches() {
        let far = Proxy::start(nodes[1].port());
        let mut bench = holding("slow", &[nodes[0].port(), far.port()]);
        let near = owned(&mut bench, 0, 20);
        set(&mut bench, &near[0], "warm");
        later::end();
        far.fault(Fault::Delay(Duration::from_millis(300)));
        far.clear();
        for key in &near {
            set(&mut bench, key, "value");
        }
        later::after_request();
        // The answers came from the near node, and nothing of the far one was heard by then.
        let target = NodeSpec::tcp("127.0.0.1", far.port()).target;
        assert!(near.iter().all(|key| copier::has(&target, key.as_bytes())));
        assert!(wait_until(LONG, || nodes[1].stored(&near[19]).is_some()));
        later::end();
        assert!(copier::take_news().missed.is_empty());
    }
}

#[test]
fn what_was_written_is_read_though_its_copy_is_still_on_its_way() {
    for mut nodes in caches() {
        let far = Proxy::start(nodes[1].port());
        let mut bench = holding("own", &[nodes[0].port(), far.port()]);
        let key = owned(&mut bench, 0, 1).remove(0);
        set(&mut bench, &key, "old");
        later::end();
        far.fault(Fault::Delay(Duration::from_millis(100)));
        set(&mut bench, &key, "between");
        set(&mut bench, &key, "new");
        nodes[0].kill();
        assert_eq!(bench.get(&key), text("new"));
        set(&mut bench, &key, "newer");
        assert_eq!(bench.get(&key), text("newer"));
    }
}

#[test]
fn a_first_node_that_dies_costs_no_write_and_is_up_to_date_when_it_is_back() {
    for nodes in caches() {
        let mut bench = trailing("first", &ports(&nodes));
        let keys: Vec<String> = (0..30).map(|n| format!("k{n}")).collect();
        for key in &keys {
            set(&mut bench, key, "old");
        }
        later::end();
        for (turn, node) in nodes.iter().enumerate() {
            node.freeze();
            let value = format!("new{turn}");
            for (n, key) in keys.iter().enumerate() {
                match n % 3 {
                    0 => set(&mut bench, key, &value),
                    1 => {
                        let added = bench.run(Verb::Delete, &[key], |_, _| {})[0];
                        assert!(
                            matches!(added, Outcome::Done | Outcome::NotFound),
                            "{added:?}"
                        );
                    }
                    _ => {}
                }
            }
            later::end();
            node.resume();
            assert!(wait_until(LONG, || {
                bench.get("k0");
                bench.pool.is_up(turn)
            }));
            for (n, key) in keys.iter().enumerate() {
                let now = match n % 3 {
                    0 => text(&value),
                    1 => None,
                    _ => text("old"),
                };
                assert_eq!(bench.get(key), now, "{key}, {turn} is back");
            }
        }
    }
}

#[test]
fn a_copy_that_does_not_arrive_is_counted_and_its_node_gives_up_what_it_has() {
    for nodes in caches() {
        let mut bench = trailing("hung", &ports(&nodes[..2]));
        let near = owned(&mut bench, 0, 30);
        for key in &near {
            set(&mut bench, key, "old");
        }
        later::end();
        nodes[1].freeze();
        for key in &near {
            set(&mut bench, key, "new");
        }
        assert!(wait_until(LONG, || {
            assert_eq!(bench.get(&near[0]), text("new"));
            bench.pool.counts().missed == 30
        }));
        nodes[1].resume();
        assert!(wait_until(LONG, || {
            bench.get(&near[0]);
            bench.pool.counts().handed_over >= 30
        }));
        for key in &near {
            let raw = nodes[1].raw(format!("get {key}\r\n"), "END\r\n");
            let raw = String::from_utf8_lossy(&raw);
            assert!(raw.contains("new"), "{key}: {raw}");
        }
    }
}

#[test]
fn a_connection_cut_while_it_was_idle_loses_no_copy() {
    for nodes in caches() {
        let far = Proxy::start(nodes[1].port());
        let mut bench = trailing("cut", &[nodes[0].port(), far.port()]);
        let near = owned(&mut bench, 0, 3);
        set(&mut bench, &near[0], "value");
        later::end();
        far.cut();
        set(&mut bench, &near[1], "value");
        later::end();
        // In the middle of an answer, too.
        far.fault(Fault::CloseAfter(3));
        set(&mut bench, &near[2], "value");
        copier::carry_on();
        far.fault(Fault::None);
        later::end();
        assert!(copier::take_news().missed.is_empty());
        for key in &near {
            assert!(nodes[1].stored(key).is_some(), "{key}");
        }
    }
}

#[test]
fn of_two_copies_that_cross_the_older_does_not_stay() {
    for nodes in caches() {
        let mut bench = trailing("cross", &ports(&nodes[..2]));
        let key = owned(&mut bench, 0, 1).remove(0);
        set(&mut bench, &key, "newer");
        later::end();
        // What another writer said before, and what comes only now.
        let old = Copy {
            whose: 7,
            key: key.as_bytes().into(),
            what: What::Put {
                over: Over::Anything,
                version: (1 << 50) + 1,
                flags: 0,
                life: Life::Said(0),
                value: Some(Rc::from(&b"older"[..])),
            },
        };
        let mut spec = NodeSpec::tcp("127.0.0.1", nodes[1].port());
        spec.op_timeout = LONG;
        copier::push(&spec, old, Duration::ZERO);
        copier::wait_for(&spec.target);
        let missed = copier::take_news().missed;
        assert_eq!(missed.len(), 1);
        assert_eq!((missed[0].whose, &*missed[0].key), (7, key.as_bytes()));
    }
}

#[test]
fn a_server_of_another_version_on_the_same_port_gets_copies_as_it_takes_them() {
    let (a, mut b) = (Memcached::start(), Memcached::start());
    let mut bench = trailing("upgrade", &[a.port(), b.port()]);
    let near = owned(&mut bench, 0, 40);
    for key in &near[..20] {
        set(&mut bench, key, "before");
    }
    later::end();
    if !b.upgrade() {
        harness::skip("MEMRING_MEMCACHED_NEW names no newer memcached");
        return;
    }
    for key in &near {
        set(&mut bench, key, "after");
    }
    later::end();
    // And back again.
    let port = b.port();
    drop(b);
    let _b = Memcached::on(port, &[]);
    for key in &near {
        set(&mut bench, key, "again");
    }
    later::end();
    assert_eq!(bench.pool.counts().missed, 0);
    assert!(copier::take_news().missed.is_empty());
    drop(a);
    for key in &near {
        assert_eq!(bench.get(key), text("again"), "{key}");
    }
}

#[test]
fn more_than_can_be_held_is_waited_for_and_not_dropped() {
    for nodes in caches() {
        let far = Proxy::start(nodes[1].port());
        let mut bench = trailing("large", &[nodes[0].port(), far.port()]);
        let near = owned(&mut bench, 0, 24);
        let value = vec![b'x'; 700_000];
        let target = NodeSpec::tcp("127.0.0.1", far.port()).target;
        far.fault(Fault::Delay(Duration::from_millis(30)));
        for key in &near {
            assert_eq!(bench.store(Store::Set, key, &value, 0), Outcome::Done);
            let on_their_way = |key: &&String| copier::has(&target, key.as_bytes());
            let held = near.iter().filter(on_their_way).count();
            assert!(held * value.len() < 5 << 20, "{held} values are held");
        }
        later::end();
        assert!(copier::take_news().missed.is_empty());
        for key in &near {
            let size = nodes[1].stored(key).map_or(0, |(_, bytes)| bytes.len());
            assert!(size >= value.len(), "{key}: {size}");
        }
        // One that no server takes costs that copy and none else.
        let (before, huge) = (bench.pool.counts().missed, vec![b'x'; 2 << 20]);
        assert_eq!(
            bench.store(Store::Set, &near[0], &huge, 0),
            Outcome::Refused
        );
        set(&mut bench, &near[1], "small");
        later::end();
        assert_eq!(bench.get(&near[1]), text("small"));
        assert_eq!(bench.pool.counts().missed, before);
    }
}

#[test]
fn after_a_flush_no_copy_on_its_way_brings_a_value_back() {
    for nodes in caches() {
        let far = Proxy::start(nodes[1].port());
        let mut bench = holding("flush", &[nodes[0].port(), far.port()]);
        let near = owned(&mut bench, 0, 20);
        set(&mut bench, &near[0], "v");
        later::end();
        far.fault(Fault::Delay(Duration::from_millis(50)));
        for key in &near {
            set(&mut bench, key, "v");
        }
        assert!(bench.pool.flush(0, &mut bench.call));
        later::end();
        for key in &near {
            assert_eq!(bench.get(key), None, "{key}");
            assert_eq!(nodes[1].stored(key), None, "{key}");
        }
    }
}

/// A pool file of mode async over these ports, and PHP that knows it.
fn php(directory: &TempDir, ports: &[u16]) -> Php {
    let nodes: Vec<String> = ports
        .iter()
        .map(|port| format!("\"memcached://127.0.0.1:{port}?timeout=20\""))
        .collect();
    let text = format!(
        "[pool.p]\nmode = \"async\"\nnodes = [{}]\n",
        nodes.join(", ")
    );
    let path = directory.file("memring.toml", &text);
    Php::new().ini("memring.config_file", path.display())
}

/// Sets a value under a key that node 0 owns, whose name it says.
const PAGE: &str = r#"
    $m = new Memcache; $m->addServer('pool:p');
    for ($i = 0; strpos($m->findServer($key = $_GET['k'] . $i), $_GET['near']) === false; $i++);
    if ($m->set($key, $_GET['v'])) echo $key;
"#;

#[test]
fn the_response_ends_before_a_far_copy_is_answered_and_a_killed_worker_takes_none_with_it() {
    let nodes = [Memcached::start(), Memcached::start()];
    let far = Proxy::start(nodes[1].port());
    let directory = TempDir::new("async");
    let fpm = PhpFpm::with(&php(&directory, &[nodes[0].port(), far.port()]), 1, "");
    fpm.page("set.php", PAGE);
    let ask = |k: &str| {
        let query = format!("k={k}&v=value&near={}", nodes[0].port());
        let reply = fpm.get("set.php", &query, "");
        String::from_utf8_lossy(&reply.body).trim().to_owned()
    };
    let first = ask("warm");
    assert!(wait_until(LONG, || nodes[1].stored(&first).is_some()));
    // Who waited for it would wait for the timeout, and then leave the node out.
    far.fault(Fault::Swallow);
    let keys: Vec<String> = (0..5).map(|n| ask(&format!("n{n}-"))).collect();
    // What the worker had to say is with the kernel, whatever becomes of the worker.
    fpm.page("die.php", "posix_kill(getmypid(), 9);");
    let _ = fpm.try_get("die.php", "", "");
    for key in &keys {
        assert!(wait_until(LONG, || came(&far, key)), "{key}");
        assert!(wait_until(LONG, || nodes[1].stored(key).is_some()), "{key}");
    }
}

#[test]
fn a_script_that_ends_has_its_copies_on_their_nodes() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let directory = TempDir::new("script");
    let text = php(&directory, &nodes.each_ref().map(Memcached::port))
        .run(
            r#"
            $m = new Memcache; $m->addServer('pool:p');
            for ($i = 0; $i < 500; $i++) $m->set("k$i", str_repeat('v', $i));
            $m->increment('n', 1, 5); $m->append('k1', 'w'); $m->delete('k2');
            echo json_encode([$m->get('k1'), $m->get('k2'), memring_route('pool:p', 'set', 'k3')['reason']]);
            "#,
        )
        .ok();
    assert_eq!(
        text,
        r#"["vw",false,"mode async: the first node that can be asked answers, the copies follow"]"#
    );
    for n in (0..500).filter(|n| *n != 2) {
        let key = format!("k{n}");
        let copies = nodes.iter().filter(|node| node.stored(&key).is_some());
        assert_eq!(copies.count(), 2, "{key}");
    }
}

#[test]
fn a_forked_child_says_its_own_copies_and_not_its_parents() {
    let nodes = [Memcached::start(), Memcached::start()];
    let far = Proxy::start(nodes[1].port());
    let directory = TempDir::new("fork");
    let text = php(&directory, &[nodes[0].port(), far.port()])
        .run(
            r#"
            $m = new Memcache; $m->addServer('pool:p');
            for ($i = 0; $i < 50; $i++) $m->set("parent$i", 'p');
            $pid = pcntl_fork();
            for ($i = 0; $i < 50; $i++) $m->set(($pid ? 'late' : 'child') . $i, 'c');
            if ($pid) { pcntl_waitpid($pid, $status); echo $status; }
            "#,
        )
        .ok();
    assert_eq!(text, "0");
    let said = String::from_utf8_lossy(&far.requests()).into_owned();
    for who in ["parent", "late", "child"] {
        for n in 0..50 {
            let key = format!("{who}{n}");
            assert!(
                nodes.iter().all(|node| node.stored(&key).is_some()),
                "{key}"
            );
            let times = said.matches(&format!("ms {key} ")).count();
            assert_eq!(times, 1, "{key}");
        }
    }
}

/// A figure, for a quiet machine: `cargo test --release -p memring-tests --test suite -- --ignored --nocapture far_copy`.
#[test]
#[ignore = "a figure, no check"]
fn what_a_far_copy_costs_the_response() {
    const VISITS: usize = 300;
    let nodes = [Memcached::start(), Memcached::start()];
    let far = Proxy::start(nodes[1].port()).unrecorded();
    let directory = TempDir::new("far");
    let near = nodes[0].port();
    let text = format!(
        "[pool.one]\nnodes = [\"memcached://127.0.0.1:{near}\"]\n\
         [pool.two]\nmode = \"async\"\nnodes = [\"memcached://127.0.0.1:{near}?timeout=5\"]\nbackup = \"far\"\n\
         [pool.far]\nnodes = [\"memcached://127.0.0.1:{}?timeout=5\"]\n",
        far.port()
    );
    let path = directory.file("memring.toml", text);
    let fpm = PhpFpm::with(
        &Php::new().ini("memring.config_file", path.display()),
        1,
        "",
    );
    fpm.page(
        "set.php",
        "$m = new Memcache; $m->addServer('pool:' . $_GET['p']);
        for ($i = 0; $i < 10; $i++) echo $m->set(\"k$i\", 'value') ? 'y' : 'n';",
    );
    let median = |pool: &str| {
        let mut times: Vec<Duration> = (0..VISITS)
            .map(|_| {
                let begin = std::time::Instant::now();
                let reply = fpm.get("set.php", &format!("p={pool}"), "");
                assert_eq!(reply.body, b"yyyyyyyyyy");
                begin.elapsed()
            })
            .collect();
        times.sort();
        (times[VISITS / 2], times[VISITS * 99 / 100])
    };
    median("two");
    let report = |what: &str, (half, most): (Duration, Duration)| {
        println!("{what}: median {half:?}, p99 {most:?}");
    };
    report("one node, 10 sets", median("one"));
    report("copy near", median("two"));
    far.fault(Fault::Delay(Duration::from_millis(50)));
    report("copy 50 ms away", median("two"));
}
