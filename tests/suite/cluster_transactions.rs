//! watch(), multi() and exec() in a Redis Cluster: all keys in one slot, and all or nothing while it moves.

use crate::cluster::{over, pool_of};
use crate::pool::Bench;
use harness::{Cluster, Php};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::Protocol;
use memring_pool::pool::transaction::Ended;
use memring_pool::wire::Store;
use redis::Commands;

fn fill(bench: &mut Bench, verb: Verb, key: &str, value: &str) {
    let call = &mut bench.call;
    call.reset(verb);
    call.push(&bench.rule, key.as_bytes()).unwrap();
    let start = call.value_mut().len();
    call.value_mut().extend_from_slice(value.as_bytes());
    call.finish_value(start);
    call.entry_mut(0).unwrap().delta = 1;
}

fn watch(bench: &mut Bench, key: &str) -> bool {
    fill(bench, Verb::Get, key, "");
    bench.pool.watch(&mut bench.call).unwrap()
}

/// A value and a counter of one slot are written in one piece.
fn exec(bench: &mut Bench, key: &str, value: &str) -> Ended {
    let [text, number] = both(key);
    bench.pool.multi().unwrap();
    fill(bench, Verb::Store(Store::Set), &text, value);
    bench.pool.collect(&mut bench.call).unwrap();
    fill(bench, Verb::Increment, &number, "");
    bench.pool.collect(&mut bench.call).unwrap();
    bench.call.reset(Verb::Touch);
    bench.pool.exec(&mut bench.call).unwrap()
}

fn both(key: &str) -> [String; 2] {
    [format!("{{{key}}}text"), format!("{{{key}}}number")]
}

fn found(cluster: &Cluster, place: usize, key: &str) -> (String, u32) {
    let [text, number] = both(key);
    let mut client = cluster.client(place);
    (client.get(text).unwrap(), client.get(number).unwrap())
}

fn started(key: &str, cluster: &Cluster) -> Bench {
    let mut bench = pool_of(cluster);
    for (name, value) in both(key).iter().zip(["old", "1"]) {
        assert_eq!(
            bench.store(Store::Set, name, value.as_bytes(), 0),
            Outcome::Done
        );
    }
    // A counter as a number, for whoever counts.
    let place = cluster.owner(cluster.slot(key));
    let [_, number] = both(key);
    cluster.client(place).set::<_, _, ()>(number, 1).unwrap();
    bench
}

#[test]
fn all_keys_of_a_slot_are_written_in_one_piece_and_a_change_of_a_watched_one_leaves_all_as_it_was()
{
    let cluster = Cluster::start();
    for place in 0..3 {
        let key = cluster.key_at(place, "one");
        let mut bench = started(&key, &cluster);
        let [text, _] = both(&key);
        assert!(watch(&mut bench, &text));
        assert_eq!(exec(&mut bench, &key, "new"), Ended::Done);
        assert_eq!(bench.call.outcome(1), Outcome::Number(2));
        assert_eq!(found(&cluster, place, &key), ("new".to_owned(), 2));
        assert!(watch(&mut bench, &text));
        cluster
            .client(place)
            .set::<_, _, ()>(&text, "theirs")
            .unwrap();
        assert_eq!(exec(&mut bench, &key, "lost"), Ended::Changed);
        assert_eq!(found(&cluster, place, &key), ("theirs".to_owned(), 2));
    }
}

#[test]
fn keys_of_two_slots_are_refused_with_both_slots() {
    let cluster = Cluster::start();
    let code = format!(
        "$m = new Memring\\Memcache; $m->addServer('{}');
         var_dump($m->watch(['foo', 'bar'])); $m->multi(); $m->set('foo', 1); var_dump($m->set('bar', 1), $m->exec(), $m->get('foo'));
         echo json_encode([$m->watch(['{{u}}a', '{{u}}b']), $m->multi(), $m->set('{{u}}a', 1), $m->set('{{u}}b', 2), $m->exec(), $m->get(['{{u}}a', '{{u}}b'])]);",
        cluster.url()
    );
    let text = Php::new().run(&code).text();
    let slots = "key \"foo\" is in slot 12182, and \"bar\" in 5061";
    assert_eq!(text.matches(slots).count(), 2, "{text}");
    assert!(text.contains("Write the same {…} into both keys"), "{text}");
    assert!(
        text.ends_with(r#"[true,true,true,true,[true,true],{"{u}a":1,"{u}b":2}]"#),
        "{text}"
    );
}

#[test]
fn a_slot_that_moved_before_is_found_and_one_that_moves_meanwhile_leaves_all_as_it_was() {
    let cluster = Cluster::start();
    let key = cluster.key_at(0, "moves");
    let (slot, [text, _]) = (cluster.slot(&key), both(&key));
    let mut bench = started(&key, &cluster);
    cluster.move_slot(slot, 0, 1);
    assert!(watch(&mut bench, &text), "{:?}", bench.call.events());
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    assert_eq!(exec(&mut bench, &key, "1"), Ended::Done);
    assert_eq!(found(&cluster, 1, &key), ("1".to_owned(), 2));
    // Without watch() the first node it is said to is another one.
    cluster.move_slot(slot, 1, 2);
    assert_eq!(
        exec(&mut bench, &key, "2"),
        Ended::Done,
        "{:?}",
        bench.call.events()
    );
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    assert_eq!(found(&cluster, 2, &key), ("2".to_owned(), 3));
    // What is watched there is not watched here.
    assert!(watch(&mut bench, &text));
    cluster.move_slot(slot, 2, 0);
    let ended = exec(&mut bench, &key, "lost");
    assert!(matches!(ended, Ended::Changed | Ended::Failed), "{ended:?}");
    assert_eq!(found(&cluster, 0, &key), ("2".to_owned(), 3));
    assert!(watch(&mut bench, &text), "{:?}", bench.call.events());
    assert_eq!(exec(&mut bench, &key, "3"), Ended::Done);
    assert_eq!(found(&cluster, 0, &key), ("3".to_owned(), 4));
    // A slot on its way has a key here and another there: nothing is done, and later all is.
    cluster.begin_move(slot, 0, 1);
    let [_, number] = both(&key);
    cluster.migrate(&number, 0, 1);
    assert_eq!(exec(&mut bench, &key, "lost"), Ended::Failed);
    let [event] = bench.call.events() else {
        panic!("{:?}", bench.call.events());
    };
    let said = format!("nothing was done: slot {slot} moves to another node");
    assert!(event.message.contains(&said), "{}", event.message);
    cluster.migrate(&text, 0, 1);
    cluster.end_move(slot, 0, 1);
    assert_eq!(found(&cluster, 1, &key), ("3".to_owned(), 4));
    assert_eq!(
        exec(&mut bench, &key, "4"),
        Ended::Done,
        "{:?}",
        bench.call.events()
    );
    assert_eq!(found(&cluster, 1, &key), ("4".to_owned(), 5));
}

#[test]
fn what_was_read_from_another_node_than_watches_is_no_ground_to_write_on() {
    let cluster = Cluster::start();
    let key = cluster.key_at(0, "read");
    let (slot, [text, number]) = (cluster.slot(&key), both(&key));
    let mut bench = started(&key, &cluster);
    let write_one = |bench: &mut Bench, value: &str| {
        bench.pool.multi().unwrap();
        fill(bench, Verb::Store(Store::Set), &text, value);
        bench.pool.collect(&mut bench.call).unwrap();
        bench.call.reset(Verb::Touch);
        bench.pool.exec(&mut bench.call).unwrap()
    };
    // All that is written is where it is watched, and that alone Redis would carry out.
    cluster.begin_move(slot, 0, 1);
    cluster.migrate(&number, 0, 1);
    assert!(watch(&mut bench, &text));
    assert!(matches!(
        bench.run(Verb::Get, &[&number], |_, _| {})[..],
        [Outcome::Hit { .. }]
    ));
    assert_eq!(write_one(&mut bench, "unseen"), Ended::Failed);
    let message = &bench.call.events()[0].message;
    assert!(message.contains("Begin again with watch()"), "{message}");
    let found: String = cluster.client(0).get(&text).unwrap();
    assert!(found.ends_with("old"), "{found:?}");
    assert!(watch(&mut bench, &text));
    assert!(bench.get(&text).is_some());
    assert_eq!(write_one(&mut bench, "seen"), Ended::Done);
    assert_eq!(cluster.client(0).get::<_, String>(&text).unwrap(), "seen");
}

#[test]
fn a_transaction_that_no_replica_has_is_told_of_as_one_of_which_nobody_knows() {
    let cluster = Cluster::with_replicas();
    let key = cluster.key_at(0, "waits");
    let [text, _] = both(&key);
    let mut bench = over(&cluster.url_as("", "wait=1&timeout=1"), Protocol::Ascii);
    assert!(watch(&mut bench, &text));
    assert_eq!(
        exec(&mut bench, &key, "1"),
        Ended::Done,
        "{:?}",
        bench.call.events()
    );
    cluster.nodes[3].freeze();
    assert_eq!(exec(&mut bench, &key, "2"), Ended::Unknown);
    let message = &bench.call.events()[0].message;
    assert!(
        message.contains("0 of 1 replicas had it within 750 ms"),
        "{message}"
    );
    cluster.nodes[3].resume();
}
