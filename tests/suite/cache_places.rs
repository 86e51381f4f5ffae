//! Where the copies of a cache are: backups, rules for prefixes, and how many nodes may be left alone.

use crate::cache_copies::{join, kinds, synced, text};
use crate::pool::Bench;
use harness::{Fault, Memcached, Php, Proxy, Redis, Server, TempDir};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{Mode, Placement, Policy};
use memring_pool::wire::Store;

/// A pool whose last `backup` nodes are its backup's.
fn with_policy<'node>(policy: Policy, nodes: impl IntoIterator<Item = &'node Server>) -> Bench {
    let policy = Policy {
        placement: Placement::Rendezvous,
        name: "rules".to_owned(),
        ..policy
    };
    let mut bench = Bench::of(policy, &[]);
    join(&mut bench, nodes);
    bench
}

#[test]
fn a_backup_has_one_copy_of_each_value_and_serves_it_when_the_pool_is_gone() {
    for mut nodes in kinds() {
        // Of a mixed pool both parts have a Redis.
        nodes.push(match nodes[1].is_redis() {
            true => Server::Redis(Redis::start()),
            false => Server::Memcached(Memcached::start()),
        });
        let policy = Policy {
            mode: Mode::Sync,
            backup: 2,
            ..Policy::default()
        };
        let mut bench = with_policy(policy, &nodes);
        let keys: Vec<String> = (0..40).map(|n| format!("k{n}")).collect();
        for key in &keys {
            assert_eq!(bench.store(Store::Set, key, b"v", 0), Outcome::Done);
            let on = |from: usize, to: usize| {
                nodes[from..to]
                    .iter()
                    .filter(|node| node.stored(key).is_some())
                    .count()
            };
            assert_eq!((on(0, 2), on(2, 4)), (1, 1), "{key}");
        }
        nodes[0].kill();
        nodes[1].kill();
        for key in &keys {
            assert_eq!(bench.get(key), text("v"), "{key}");
        }
    }
}

#[test]
fn a_node_of_both_pools_never_has_both_copies() {
    for nodes in kinds() {
        let policy = Policy {
            mode: Mode::Sync,
            backup: 2,
            ..Policy::default()
        };
        // Pool: nodes 0 and 1; backup: nodes 1 and 2.
        let mut bench = with_policy(policy, [&nodes[0], &nodes[1], &nodes[1], &nodes[2]]);
        for n in 0..40 {
            let key = format!("k{n}");
            assert_eq!(bench.store(Store::Set, &key, b"v", 0), Outcome::Done);
            let holders = nodes.iter().filter(|node| node.stored(&key).is_some());
            assert_eq!(holders.count(), 2, "{key}");
        }
    }
}

#[test]
fn the_longest_prefix_decides_mode_copies_and_nodes() {
    for nodes in kinds() {
        prefixes_decide(&nodes);
    }
}

fn prefixes_decide(nodes: &[Server]) {
    use memring_pool::config::{ALL, Rule};
    let rule = |prefix: &str, mode, copies, on: &[usize]| Rule {
        prefix: prefix.into(),
        mode,
        copies,
        nodes: on.to_vec(),
    };
    let policy = Policy {
        rules: vec![
            rule("cfg:", Some(Mode::Sync), Some(ALL), &[]),
            rule("two:", Some(Mode::Sync), None, &[0, 2]),
            rule("c", Some(Mode::Sync), None, &[]),
        ],
        ..Policy::default()
    };
    let mut bench = with_policy(policy, nodes);
    for n in 0..20 {
        for (prefix, copies) in [("plain", 1), ("cfg:", 3), ("two:", 2), ("c", 2)] {
            let key = format!("{prefix}{n}");
            assert_eq!(bench.store(Store::Set, &key, b"v", 0), Outcome::Done);
            let on: Vec<bool> = nodes
                .iter()
                .map(|node| node.stored(&key).is_some())
                .collect();
            let count = on.iter().filter(|on| **on).count();
            assert_eq!(count, copies, "{key}");
            assert!(prefix != "two:" || !on[1], "{key}");
            assert_eq!(bench.get(&key), text("v"), "{key}");
        }
        // What has no rule is as pecl-memcache has it, also in a call with others.
        let (plain, other) = (format!("plain{n}"), format!("cfg:{n}"));
        let found = bench.run(Verb::Get, &[&plain, &other, "plain-none"], |_, _| {});
        assert!(matches!(
            found[..2],
            [Outcome::Hit { .. }, Outcome::Hit { .. }]
        ));
        assert_eq!(found[2], Outcome::NotFound);
        let gone = bench.run(Verb::Delete, &[&plain, &other], |_, _| {});
        assert_eq!(gone, [Outcome::Done, Outcome::Done]);
        assert!(
            nodes.iter().all(|node| node.stored(&plain).is_none()),
            "no tombstone"
        );
        assert_eq!((bench.get(&plain), bench.get(&other)), (None, None));
    }
}

#[test]
fn as_many_failed_nodes_are_left_alone_as_the_pool_says() {
    const SETS: usize = 60;
    let nodes = [(); 3].map(|()| Memcached::start());
    for (most, left_alone) in [(None, false), (Some(2), true), (Some(0), false)] {
        let proxies = nodes.each_ref().map(|node| Proxy::start(node.port()));
        let mut bench = synced("most", &proxies.each_ref().map(Proxy::port));
        bench.pool.policy_mut().max_out = most;
        bench.pool.policy_mut().copies = Some(3);
        assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
        for proxy in &proxies[1..] {
            proxy.cut();
            proxy.fault(Fault::Refuse);
        }
        let before = proxies[1].connections();
        for _ in 0..SETS {
            assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
        }
        // Probes are connections, too, each later than the one before.
        let tried = proxies[1].connections() - before;
        assert_eq!(tried < SETS / 2, left_alone, "{most:?}: {tried}");
    }
}

/// A node that missed the delete may show the value again; its owner remembers.
#[test]
fn what_the_owner_remembers_as_deleted_no_copy_brings_back_where_rules_name_nodes() {
    for nodes in kinds() {
        nothing_is_brought_back(&nodes);
    }
}

fn nothing_is_brought_back(nodes: &[Server]) {
    use memring_pool::config::Rule;
    let rule = Rule {
        prefix: b"two:".to_vec(),
        mode: Some(Mode::Sync),
        nodes: vec![0, 2],
        ..Rule::default()
    };
    let policy = Policy {
        rules: vec![rule],
        ..Policy::default()
    };
    let mut bench = with_policy(policy, nodes);
    for n in 0..8 {
        let key = format!("two:{n}");
        assert_eq!(bench.store(Store::Set, &key, b"v", 0), Outcome::Done);
        let gone = bench.run(Verb::Delete, &[&key], |_, _| {});
        assert_eq!(gone, [Outcome::Done]);
        let owner = bench.pool.preferred(key.as_bytes(), 1)[0];
        let copy = 2 - owner;
        nodes[copy].put(&key, "old");
        assert_eq!(bench.get(&key), None, "{key}");
    }
}

/// PHP with pools `a` and `b` of two nodes each, which back each other up; `more` stands in the table of each.
fn backed_up(directory: &TempDir, nodes: &[Memcached], more: [&str; 2]) -> Php {
    let urls: Vec<String> = (nodes.iter())
        .map(|node| format!("memcached://{}", node.address()))
        .collect();
    let pool = |name: &str, urls: &[String], backup: &str, more: &str| {
        format!("[pool.{name}]\nnodes = {urls:?}\nmode = \"sync\"\nbackup = \"{backup}\"\n{more}\n")
    };
    let file = pool("a", &urls[..2], "b", more[0]) + &pool("b", &urls[2..], "a", more[1]);
    let file = directory.file("memring.toml", file);
    Php::new().ini("memring.config_file", file.display())
}

/// Sets ten keys of the same names in both pools, `b` last, and says what each then has.
const BOTH: &str = "
    [$a, $b] = array_map(function ($name) { $m = new Memcache; $m->addServer(\"pool:$name\"); return $m; }, ['a', 'b']);
    $all = range(0, 9);
    $values = fn($m) => implode(',', array_unique(array_map(fn($n) => json_encode($m->get(\"k$n\")), $all)));
    foreach ([[$a, 'of a'], [$b, 'of b']] as [$m, $value])
        foreach ($all as $n) $m->set(\"k$n\", $value) || die('not stored');
    echo $values($a), ' ', $values($b);
";

/// The copy of the one would lie where the value of the other does, under the same name.
#[test]
fn pools_that_back_each_other_up_are_refused_where_both_store_under_the_same_names() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("both");
    let php = backed_up(&directory, &nodes, ["", ""]);
    let said = php
        .run("$m = new Memcache; var_dump($m->addServer('pool:a'));")
        .text();
    let words =
        "have copies on the same nodes, and what one stores under a key the other would find";
    assert!(said.contains("line 4") && said.contains(words), "{said}");
    assert!(
        said.contains("Write key_prefix = ") && said.ends_with("bool(false)"),
        "{said}"
    );
}

#[test]
fn pools_that_back_each_other_up_keep_their_own_values_of_one_name_where_each_has_a_prefix() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("prefixes");
    let prefixes = ["key_prefix = \"a:\"", "key_prefix = \"b:\""];
    let php = backed_up(&directory, &nodes, prefixes);
    let said = php.run(&format!(
        "{BOTH} foreach ($all as $n) $a->delete(\"k$n\"); echo ' ', $values($a), ' ', $values($b);"
    ));
    assert_eq!(said.ok(), r#""of a" "of b" false "of b""#);
}

/// A copy that stayed on the backup's nodes would come back, and a node cannot empty one pool alone.
#[test]
fn a_flush_of_a_pool_empties_its_backup_too() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("flushed");
    let php = backed_up(&directory, &nodes, ["key_prefix = \"a:\"", ""]);
    let said = php.run(&format!(
        "ob_start(); {BOTH} ob_end_clean(); echo json_encode($a->flush()), ' ', $values($a), ' ', $values($b);"
    ));
    assert_eq!(said.ok(), "true false false");
    assert!(nodes.iter().all(|node| node.stored("k0").is_none()));
}
