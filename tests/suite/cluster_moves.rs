//! A Redis Cluster while slots move from master to master: no key is missed, no command carried out twice, no session's
//! turn lost.

use crate::cluster::{add_one, pool_of, read, refused, refused_anywhere, sessions, set};
use crate::pool::Bench;
use harness::{Cluster, wait_until};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::NodeSpec;
use memring_pool::session::Store as Keeper;
use memring_pool::wire::Store;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

#[test]
fn nodes_that_name_each_other_are_given_time_to_agree_and_then_told_of() {
    let cluster = Cluster::start();
    let mut bench = pool_of(&cluster);
    let key = cluster.key_at(0, "argued");
    let slot = cluster.slot(&key);
    for (place, other) in [(0, 1), (1, 0)] {
        cluster.assign(place, slot, other);
    }
    let sent_on = Instant::now();
    assert!(matches!(
        set(&mut bench, &key, "1"),
        Outcome::Refused | Outcome::Lost
    ));
    let told = format!("{:?}", bench.call.events());
    assert!(
        told.contains("do not agree on who has this key's slot"),
        "{told}"
    );
    assert!(sent_on.elapsed() > Duration::from_millis(500));
    let agreed = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let before = refused_anywhere(&cluster, "MOVED");
            let is_asked = || refused_anywhere(&cluster, "MOVED") > before + 3;
            assert!(wait_until(Duration::from_secs(20), is_asked));
            agreed.store(true, Ordering::Relaxed);
            cluster.assign(0, slot, 0);
        });
        assert_eq!(set(&mut bench, &key, "2"), Outcome::Done);
        assert!(agreed.load(Ordering::Relaxed));
    });
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
}

#[test]
fn a_slot_that_was_moved_is_found_again_and_every_command_is_carried_out_once() {
    let cluster = Cluster::start();
    let mut bench = pool_of(&cluster);
    // Another object of the same thread learns with it.
    let mut other = Bench::of(bench.pool.policy().clone(), &[]);
    for index in 0..3 {
        let spec: NodeSpec = bench.pool.spec(index).unwrap().clone();
        other.pool.add(spec, &mut bench.directory);
    }
    let key = cluster.key_at(0, "moved");
    let slot = cluster.slot(&key);
    assert_eq!(set(&mut bench, &key, "41"), Outcome::Done);
    assert_eq!(read(&mut other, &[&key]), [Some("41".to_owned())]);
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        cluster.move_slot(slot, from, to);
        let before = refused_anywhere(&cluster, "MOVED");
        let Outcome::Number(n) = add_one(&mut bench, &key) else {
            panic!("{:?}", bench.call.events())
        };
        assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
        assert_eq!(n, 42 + from as u64 * 3, "counted more than once, or not");
        assert_eq!(bench.store(Store::Append, &key, b"", 0), Outcome::Done);
        assert_eq!(add_one(&mut bench, &key), Outcome::Number(n + 1));
        assert_eq!(add_one(&mut other, &key), Outcome::Number(n + 2));
        assert_eq!(
            refused_anywhere(&cluster, "MOVED"),
            before + 1,
            "it was not learnt"
        );
    }
    // A value of any size goes along, in one request or among others.
    let names: Vec<String> = (0..50).map(|n| format!("{{{key}}}{n}")).collect();
    let big = "x".repeat(300_000);
    cluster.move_slot(slot, 0, 1);
    assert_eq!(set(&mut bench, &names[0], &big), Outcome::Done);
    assert_eq!(read(&mut bench, &[&names[0]]), [Some(big)]);
    cluster.move_slot(slot, 1, 2);
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    let stored = bench.run(Verb::Store(Store::Set), &all, |call, _| {
        let start = call.value_mut().len();
        call.value_mut().extend_from_slice(b"v");
        call.finish_value(start);
    });
    assert_eq!(stored, [Outcome::Done; 50]);
    cluster.move_slot(slot, 2, 0);
    assert_eq!(read(&mut bench, &all), vec![Some("v".to_owned()); 50]);
    cluster.move_slot(slot, 0, 1);
    // One key alone goes the short way.
    assert_eq!(read(&mut bench, &[all[1]]), [Some("v".to_owned())]);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    assert_eq!(refused_anywhere(&cluster, "CROSSSLOT"), 0);
}

#[test]
fn what_one_moved_slot_tells_is_the_whole_table() {
    let cluster = Cluster::start();
    let mut bench = pool_of(&cluster);
    let keys: Vec<String> = (0..20)
        .map(|n| cluster.key_at(0, &format!("m{n}:")))
        .collect();
    let slots: HashSet<u16> = keys.iter().map(|key| cluster.slot(key)).collect();
    for key in &keys {
        assert_eq!(set(&mut bench, key, "v"), Outcome::Done);
    }
    // No table is asked for twice in so short a time.
    std::thread::sleep(Duration::from_millis(250));
    slots.iter().for_each(|slot| cluster.move_slot(*slot, 0, 1));
    for key in &keys {
        assert_eq!(read(&mut bench, &[key]), [Some("v".to_owned())]);
    }
    assert_eq!(refused_anywhere(&cluster, "MOVED"), 1);
}

#[test]
fn in_the_middle_of_a_move_each_key_is_found_where_it_is() {
    let cluster = Cluster::start();
    let mut bench = pool_of(&cluster);
    let tag = cluster.key_at(0, "half");
    let slot = cluster.slot(&tag);
    let names: Vec<String> = (0..10).map(|n| format!("{{{tag}}}{n}")).collect();
    let all: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in &all[..8] {
        assert_eq!(set(&mut bench, name, "1"), Outcome::Done);
    }
    cluster.begin_move(slot, 0, 1);
    for name in &all[..4] {
        cluster.migrate(name, 0, 1);
    }
    let one = || Some("1".to_owned());
    let mut expected = vec![one(); 8];
    expected.extend([None, None]);
    assert_eq!(read(&mut bench, &all), expected);
    for (place, name) in all.iter().enumerate() {
        assert_eq!(read(&mut bench, &[name]), [expected[place].clone()]);
    }
    // Scripts that the other node does not know yet, on keys of either node, and new ones.
    assert_eq!(add_one(&mut bench, all[0]), Outcome::Number(2));
    assert_eq!(add_one(&mut bench, all[7]), Outcome::Number(2));
    assert_eq!(add_one(&mut bench, all[8]), Outcome::NotFound);
    assert_eq!(set(&mut bench, all[9], "new"), Outcome::Done);
    assert_eq!(bench.store(Store::Add, all[1], b"x", 0), Outcome::NotStored);
    let deleted = bench.run(Verb::Delete, &[all[2], all[6], all[8]], |_, _| {});
    assert_eq!(deleted, [Outcome::Done, Outcome::Done, Outcome::NotFound]);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    // A key is asked for there; the slot is not believed to have moved.
    assert!(refused(&cluster, 0, "ASK") > 0);
    assert_eq!(refused_anywhere(&cluster, "MOVED"), 0);
    let there: bool = redis::cmd("EXISTS")
        .arg(all[9])
        .query(&mut {
            let mut client = cluster.client(1);
            redis::cmd("ASKING").exec(&mut client).unwrap();
            client
        })
        .unwrap();
    assert!(
        there,
        "a new key was stored on the node that gives the slot up"
    );
    for name in [all[4], all[5], all[7]] {
        cluster.migrate(name, 0, 1);
    }
    cluster.end_move(slot, 0, 1);
    let two = Some("2".to_owned());
    let expected = [
        two.clone(),
        one(),
        None,
        one(),
        one(),
        one(),
        None,
        two,
        None,
        Some("new".to_owned()),
    ];
    let seen: Vec<Option<String>> = read(&mut bench, &all)
        .into_iter()
        .map(|value| {
            value.map(|value| {
                value
                    .trim_start_matches(|c: char| !c.is_ascii_alphanumeric())
                    .to_owned()
            })
        })
        .collect();
    assert_eq!(seen, expected);
}

#[test]
fn a_session_whose_slot_moves_while_it_is_open_is_stored_and_read() {
    let cluster = Cluster::start();
    let mut directory = memring_pool::node::Directory::new();
    let mut keeper = sessions(&cluster.url(), &mut directory);
    let id = cluster.key_at(0, "S:sess").split_off(2);
    let slot = cluster.slot(&format!("S:{id}"));
    let id = id.as_bytes();
    assert_eq!(keeper.read(id, true).unwrap(), b"");
    keeper.write(id, b"one", 100).unwrap();
    // Opened before the move, closed after it.
    assert_eq!(keeper.read(id, true).unwrap(), b"one");
    cluster.move_slot(slot, 0, 1);
    keeper.write(id, b"two", 100).unwrap();
    // The data still here, the turn already there: no script can have both until they meet again.
    cluster.begin_move(slot, 1, 2);
    assert_eq!(keeper.read(id, true).unwrap(), b"two");
    let key = String::from_utf8([b"S:", id].concat()).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(150));
            cluster.migrate(&key, 1, 2);
        });
        keeper.write(id, b"three", 100).unwrap();
    });
    assert!(
        refused_anywhere(&cluster, "TRYAGAIN") > 0,
        "the test shows nothing"
    );
    assert_eq!(keeper.read(id, false).unwrap(), b"three");
    cluster.end_move(slot, 1, 2);
    assert_eq!(keeper.read(id, true).unwrap(), b"three");
    // Where they never meet it ends with the limit of the exchange, and says why.
    cluster.begin_move(slot, 2, 0);
    redis::cmd("SET")
        .arg(&key)
        .arg("three")
        .exec(&mut cluster.client(2))
        .unwrap();
    keeper.release();
    assert_eq!(keeper.read(id, true).unwrap(), b"three");
    let begin = Instant::now();
    let error = keeper.write(id, b"four", 100).unwrap_err().to_string();
    assert!(
        error.contains("TRYAGAIN") && error.contains("ask again"),
        "{error}"
    );
    assert!(
        begin.elapsed() < Duration::from_millis(1500),
        "{:?}",
        begin.elapsed()
    );
    assert_eq!(keeper.read(id, false).unwrap(), b"three");
    for word in ["CROSSSLOT", "NOSCRIPT"] {
        assert_eq!(refused_anywhere(&cluster, word), 0, "{word}");
    }
}

#[test]
fn whose_turn_was_taken_over_on_another_master_does_not_overwrite_the_later_request() {
    let mut cluster = Cluster::with(3, 0, &["--cluster-require-full-coverage", "no"]);
    let mut directory = memring_pool::node::Directory::new();
    let mut late = sessions(&cluster.url(), &mut directory);
    let mut next = sessions(&cluster.url(), &mut directory);
    let id = cluster.key_at(0, "S:turn").split_off(2);
    let slot = cluster.slot(&format!("S:{id}"));
    assert_eq!(late.read(id.as_bytes(), true).unwrap(), b"");
    cluster.move_slot(slot, 0, 1);
    // Its turn is over, and somebody comes and goes; then the master where it was taken dies.
    let lock = format!("{{S:{id}}}_LOCK");
    let gone: u32 = redis::cmd("DEL")
        .arg(lock)
        .query(&mut cluster.client(1))
        .unwrap();
    assert_eq!(gone, 1, "the turn did not move with the slot");
    assert_eq!(next.read(id.as_bytes(), true).unwrap(), b"");
    next.write(id.as_bytes(), b"later", 100).unwrap();
    cluster.nodes[0].kill();
    let error = late
        .write(id.as_bytes(), b"late", 100)
        .unwrap_err()
        .to_string();
    assert!(error.contains("another request has it"), "{error}");
    assert_eq!(next.read(id.as_bytes(), false).unwrap(), b"later");
}
