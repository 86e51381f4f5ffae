//! Copied sessions on Redis nodes, where these are another kind of server: they come back with their own files, forget
//! scripts, and have access lists. What holds for every kind of node stands in `copies.rs`, `fenced.rs`, and `faults`.

use crate::cache_copies::{copied_on, owned};
use crate::companion::{Tend, is_safe, run};
use crate::copies::{Host, value};
use crate::sessions::php;
use harness::{Memcached, Php, PhpFpm, Redis, Server, TempDir, wait_until};
use memring_pool::call::Outcome;
use memring_pool::config::Mode;
use memring_pool::replica::{Closed, Found, Founded, Resynced};
use memring_pool::wire::Store;
use redis::Commands;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

/// Counts in a session; how it started, and how far it came.
const PAGE: &str = "ini_set('session.use_cookies', 0); session_id($_GET['id']); \
    $ok = session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; $n = $_SESSION['n']; \
    $ok = $ok && session_write_close(); echo json_encode([$ok, $n]);";

fn three() -> Vec<Server> {
    (0..3).map(|_| Server::Redis(Redis::start())).collect()
}

fn list(nodes: &[Server]) -> String {
    let urls = nodes
        .iter()
        .map(|node| format!("redis://{}", node.address()));
    urls.collect::<Vec<_>>().join(",")
}

/// Has it write its file, as it does by itself every few minutes.
fn save(node: &Server) {
    redis::cmd("SAVE")
        .exec(&mut node.redis().client())
        .expect("SAVE of our Redis");
}

fn memring(list: &str, state: &TempDir) -> Php {
    php(list)
        .ini("session.save_handler", "memring")
        .ini("memring.state_dir", state.path().display())
}

/// Workers that have these nodes, and a visit to a session.
fn workers(nodes: &[Server], state: &TempDir) -> PhpFpm {
    let fpm = PhpFpm::with(&memring(&list(nodes), state), 2, "");
    fpm.page("count.php", PAGE);
    fpm
}

fn visit(fpm: &PhpFpm, id: &str) -> String {
    fpm.get("count.php", &format!("id={id}"), "").text()
}

#[test]
fn a_session_and_the_record_of_its_node_lie_there_as_they_are_described() {
    let nodes = three();
    let mut host = Host::of(&nodes, 1);
    assert_eq!(host.found(), Founded::New);
    assert_eq!(host.write("s", "one"), Closed::Done { copies: 3 });
    for node in &nodes {
        let mut client = node.redis().client();
        let fields: Vec<String> = client.hkeys("s").unwrap();
        assert_eq!(fields, ["c", "f", "d"], "and no turn");
        let data: String = client.hget("s", "d").unwrap();
        assert_eq!(data, "one");
        let left: i64 = client.ttl("s").unwrap();
        assert!((590..=600).contains(&left), "{left}");
        let (text, run): (String, String) = client.hmget("~r", &["r", "i"]).unwrap();
        assert!(text.starts_with("memring1 trusted "), "{text}");
        assert_eq!(run, node.redis().info("run_id"));
        let left: i64 = client.ttl("~r").unwrap();
        assert_eq!(left, -1);
    }
}

#[test]
fn a_node_back_with_an_old_file_is_not_believed_and_gets_what_it_missed() {
    let mut nodes = three();
    let mut host = Host::of(&nodes, 1);
    host.found();
    for id in ["changed", "destroyed", "same"] {
        assert_eq!(host.write(id, "old"), Closed::Done { copies: 3 });
    }
    save(&nodes[0]);
    // All of it while the node is there: nobody knows of anything that it missed.
    assert_eq!(host.write("changed", "new"), Closed::Done { copies: 3 });
    assert_eq!(host.destroy("destroyed"), Closed::Done { copies: 3 });
    assert_eq!(host.write("later", "new"), Closed::Done { copies: 3 });
    nodes[0].kill();
    nodes[0].restart();
    assert_eq!(nodes[0].stored("changed").as_deref(), Some(&b"old"[..]));
    // A connection of the process before counts for nothing.
    let mut other = Host::of(&nodes, 2);
    for host in [&mut host, &mut other] {
        nodes[1].freeze();
        assert_eq!(host.read("changed"), value("new"));
        assert_ne!(host.read("destroyed"), value("old"));
        assert_ne!(host.read("later"), Found::Nothing);
        nodes[1].resume();
    }
    assert_eq!(other.resync(0), Resynced::Trusted);
    assert_eq!(other.resync(0), Resynced::Nothing);
    assert!(other.bring_back(3));
    nodes[1].kill();
    for host in [&mut host, &mut other] {
        assert_eq!(host.read("changed"), value("new"));
        assert_eq!(host.read("destroyed"), Found::Nothing);
        assert_eq!(host.read("later"), value("new"));
        assert_eq!(host.read("same"), value("old"));
    }
}

#[test]
fn all_nodes_back_at_once_with_their_files_have_the_sessions_again() {
    let mut nodes = three();
    let list = list(&nodes);
    let state = TempDir::new("all");
    let tend = Tend::beside(&state.path().display().to_string(), &["--list", &list]);
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    let mut host = Host::of(&nodes, 1);
    for id in ["a", "b"] {
        assert_eq!(host.write(id, "kept"), Closed::Done { copies: 3 });
    }
    host.destroy("b");
    nodes.iter().for_each(save);
    nodes.iter_mut().for_each(Server::kill);
    nodes.iter_mut().for_each(Server::restart);
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    assert_eq!(host.read("a"), value("kept"));
    assert_eq!(host.read("b"), Found::Nothing);
    assert_eq!(host.write("a", "more"), Closed::Done { copies: 3 });
}

#[test]
fn scripts_that_a_server_forgot_are_said_again_and_nobody_notices() {
    let nodes = three();
    let mut host = Host::of(&nodes, 1);
    host.found();
    let flush = || {
        for node in &nodes {
            redis::cmd("SCRIPT")
                .arg("FLUSH")
                .exec(&mut node.redis().client())
                .unwrap();
        }
    };
    for count in 0..5 {
        flush();
        let text = count.to_string();
        assert_eq!(host.write("s", &text), Closed::Done { copies: 3 });
        flush();
        assert_eq!(host.read("s"), value(&text));
    }
    flush();
    assert_eq!(host.destroy("s"), Closed::Done { copies: 3 });
    assert_eq!(host.read("s"), Found::Nothing);
}

#[test]
fn a_node_back_empty_is_mended_by_workers_where_no_tend_runs() {
    let mut nodes = three();
    let state = TempDir::new("slices");
    let fpm = workers(&nodes, &state);
    let ids: Vec<String> = (0..40).map(|number| format!("s{number}")).collect();
    for id in &ids {
        assert_eq!(visit(&fpm, id), "[true,1]");
    }
    // Many more keys of others than a page has.
    let mut client = nodes[1].redis().client();
    for number in 0..3000 {
        let _: () = client.set(format!("foreign{number}"), "x").unwrap();
    }
    nodes[0].kill();
    nodes[0].restart();
    let list = list(&nodes);
    let mut count = 1;
    let mended = wait_until(SOON, || {
        count += 1;
        assert_eq!(visit(&fpm, "s0"), format!("[true,{count}]"));
        count % 20 == 0 && is_safe(&list)
    });
    assert!(mended, "{}", fpm.log());
    let held = ids.iter().filter(|id| nodes[0].stored(id).is_some());
    assert_eq!(held.count(), ids.len());
}

#[test]
fn a_node_that_hung_gets_from_tend_the_keys_it_missed_and_no_others() {
    let nodes = three();
    let state = TempDir::new("kept");
    let fpm = workers(&nodes, &state);
    for id in ["s1", "s2", "s3"] {
        assert_eq!(visit(&fpm, id), "[true,1]");
    }
    let list = list(&nodes);
    let tend = Tend::beside(&state.path().display().to_string(), &["--list", &list]);
    tend.says("3 nodes, 3 trusted");
    let away = nodes[0].address();
    nodes[0].freeze();
    tend.says(&format!("{away} does not answer"));
    for id in ["s1", "s2"] {
        assert_eq!(visit(&fpm, id), "[true,2]");
    }
    nodes[0].resume();
    tend.says(&format!("{away} got the 2 keys it missed"));
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
    nodes[1].freeze();
    for (id, count) in [("s1", 3), ("s2", 3), ("s3", 2)] {
        assert_eq!(visit(&fpm, id), format!("[true,{count}]"), "{id}");
    }
    nodes[1].resume();
}

/// What a user of the access list needs, as the README has it.
const ALLOWED: &str = "~* resetchannels -@all +@hash +@scripting +info +ping +scan +type +time +get +set +del +expire +pexpire +pttl";

#[test]
fn a_user_with_no_more_than_the_commands_we_name_is_enough_and_one_without_is_told() {
    let nodes = three();
    let grant = |what: &str| {
        for node in &nodes {
            redis::cmd("ACL")
                .arg(&["SETUSER", "app", "reset", "on", ">x"])
                .arg(what.split(' ').collect::<Vec<_>>())
                .exec(&mut node.redis().client())
                .unwrap();
        }
    };
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("redis://app:x@{}/3", node.address()))
        .collect();
    let list = list.join(",");
    let state = TempDir::new("acl");
    let php = memring(&list, &state).ini("display_errors", 1);
    let count = "ob_start(); session_id('s'); var_dump(session_start()); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;";
    grant(&format!("{} +select", ALLOWED.replace(" +info", "")));
    let text = php.run(count).text();
    assert!(text.contains("bool(false)"), "{text}");
    // The page names the command that says why.
    let (code, text, _) = run(&["status", "--list", &list]);
    assert_eq!(code, 1);
    for wanted in ["INFO", "Allow it to that user", "+info"] {
        assert!(text.contains(wanted), "{text}");
    }
    grant(&format!("{ALLOWED} +select"));
    std::thread::sleep(Duration::from_millis(1100));
    for number in 1..4 {
        assert!(php.run(count).ok().ends_with(&number.to_string()));
    }
    assert_eq!(
        php.run("session_id('s'); session_start(); session_destroy();")
            .text(),
        ""
    );
    let (code, text, errors) = run(&["tend", "--once", "--list", &list]);
    assert_eq!(code, 0, "{text}{errors}");
    let (code, text, _) = run(&["status", "--list", &list]);
    assert_eq!(code, 0, "{text}");
}

#[test]
fn what_an_operator_did_to_a_key_is_counted_as_somebody_elses_and_written_over() {
    let nodes = three();
    let mut host = Host::of(&nodes, 1);
    host.found();
    host.write("s", "ours");
    let _: () = nodes[0].redis().client().set("s", "theirs").unwrap();
    assert_eq!(host.read("s"), value("ours"));
    assert_eq!(host.write("s", "next"), Closed::Done { copies: 3 });
    assert_eq!(nodes[0].stored("s").as_deref(), Some(&b"next"[..]));
    // On all of them it is no session, and none is made of it.
    for node in &nodes {
        let _: () = node.redis().client().set("t", "theirs").unwrap();
    }
    assert_ne!(host.read("t"), value("theirs"));
}

/// Else a node would be passed over for ever that has one such key and missed no other.
#[test]
fn a_missed_key_that_is_of_another_kind_on_its_node_gives_way() {
    let mut nodes: Vec<Server> = three().into_iter().take(2).collect();
    let mut bench = copied_on("kinds", Mode::Sync, &nodes);
    let key = &owned(&mut bench, 0, 1)[0];
    nodes[1].kill();
    let done = bench.store(Store::Set, key, b"value", 0);
    assert_eq!(done, Outcome::Done);
    nodes[1].restart();
    let mut other = nodes[1].redis().client();
    let _: i64 = other.lpush(key, "other").unwrap();
    assert!(wait_until(SOON, || {
        bench.get(key);
        bench.pool.debts() == [0, 0]
    }));
    assert_eq!(bench.get(key).as_deref(), Some(b"value".as_slice()));
    let kind: String = redis::cmd("TYPE").arg(key).query(&mut other).unwrap();
    assert_ne!(kind, "list");
}

#[test]
fn a_node_that_still_loads_its_data_is_passed_over_and_that_is_said() {
    // 50 ms for each key, and commands are answered in between.
    let slow = [
        "--key-load-delay",
        "50000",
        "--loading-process-events-interval-bytes",
        "1024",
        "--rdbcompression",
        "no",
    ];
    let mut nodes = [Redis::start(), Redis::with(&slow)].map(Server::Redis);
    let mut bench = copied_on("loading", Mode::Sync, &nodes);
    let keys = owned(&mut bench, 1, 40);
    let old = vec![b'o'; 2000];
    for key in &keys {
        assert_eq!(bench.store(Store::Set, key, &old, 0), Outcome::Done);
    }
    save(&nodes[1]);
    nodes[1].kill();
    assert_eq!(bench.store(Store::Set, &keys[0], b"new", 0), Outcome::Done);
    nodes[1].restart();
    // Who does not know that it was away asks it at once.
    let mut bench = copied_on("loading", Mode::Sync, &nodes);
    let mut told = Vec::new();
    let mut seen = 0;
    while nodes[1].redis().info("loading") == "1" {
        assert_eq!(bench.get(&keys[0]).as_deref(), Some(b"new".as_slice()));
        let events = bench.call.events().iter();
        told.extend(events.map(|event| event.message.clone()));
        seen += 1;
    }
    assert!(seen > 0, "it was ready too soon to see anything");
    let words = ["LOADING", "reads its data from disk"];
    let says = |message: &String| words.iter().all(|word| message.contains(word));
    assert!(told.iter().any(says), "{told:?}");
    assert!(wait_until(SOON, || {
        assert_eq!(bench.get(&keys[0]).as_deref(), Some(b"new".as_slice()));
        bench.pool.debts() == [0, 0]
    }));
    assert_eq!(bench.get(&keys[1]), Some(old));
    let mut client = nodes[1].redis().client();
    let there: Vec<u8> = client.get(&keys[0]).unwrap();
    assert!(there.ends_with(b"new"));
}

#[test]
fn addserver_takes_a_redis_into_a_pool_with_copies_and_none_that_has_replicas() {
    let (memcached, redis) = (Memcached::start(), Redis::start());
    let directory = TempDir::new("joins");
    let file = directory.file(
        "memring.toml",
        format!(
            "[pool.cache]\nnodes = [\"tcp://{0}\", \"redis://{1}\"]\nmode = \"sync\"\n",
            memcached.address(),
            redis.address()
        ),
    );
    let third = Redis::start();
    let code = format!(
        "$m = new Memcache; $m->addServer('pool:cache'); var_dump($m->addServer('redis://{0}?wait=1'), $m->addServer('redis-sentinel://a/m'),
         $m->addServer('redis://{0}')); for ($i = 0; $i < 60; $i++) $m->set(\"k$i\", $i); for ($i = 0; $i < 60; $i++) $sum += $m->get(\"k$i\"); echo $sum;",
        third.address()
    );
    let text = Php::new()
        .ini("memring.config_file", file.display())
        .run(&format!("$sum = 0; {code}"))
        .text();
    assert_eq!(
        text.matches("takes no Redis that has replicas").count(),
        2,
        "{text}"
    );
    assert!(
        text.ends_with("bool(false)\nbool(false)\nbool(true)\n1770"),
        "{text}"
    );
    let kept: usize = redis::cmd("DBSIZE").query(&mut third.client()).unwrap();
    assert!(kept > 10, "{kept}");
}
