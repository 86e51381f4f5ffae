//! Memring\status() and Memring\route() as PHP sees them, and `memring route` beside it.

use crate::companion::run;
use crate::copies::{Host, text};
use harness::{Memcached, Php, TempDir, wait_until};
use memring_pool::replica::{Closed, Turn};
use serde_json::Value;
use std::time::Duration;

/// The JSON that a script prints.
fn json(php: &Php, script: &str) -> Value {
    let text = php.run(script).ok();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

fn file(directory: &TempDir, nodes: &[Memcached]) -> String {
    let names: Vec<String> = nodes
        .iter()
        .map(|node| format!("\"memcached://127.0.0.1:{}\"", node.port()))
        .collect();
    let names = names.join(", ");
    directory
        .file(
            "memring.toml",
            format!("[pool.sessions]\nnodes = [{names}]\nmode = \"fenced\"\n\n[pool.cache]\nnodes = [{names}]\n"),
        )
        .display()
        .to_string()
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array()
        .unwrap()
        .iter()
        .map(|name| name.as_str().unwrap())
        .collect()
}

#[test]
fn status_names_pools_and_nodes_and_shows_records_when_a_pool_is_named() {
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("status");
    let php = Php::new()
        .ini("memring.config_file", file(&directory, &nodes))
        .ini("session.save_handler", "memring")
        .ini("session.save_path", "pool:sessions")
        .ini("session.use_cookies", "0")
        .ini("session.cache_limiter", "");
    let all = json(
        &php,
        "session_id('one'); session_start(); $_SESSION['a'] = 1; \
         if (memring_status()['host']['turns_held'] !== 1) echo 'not held'; session_write_close(); \
         if (memring_status()['host']['turns_held'] !== 0) echo 'still held'; echo json_encode(Memring\\status(), JSON_THROW_ON_ERROR);",
    );
    assert_eq!(all["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(all["host"]["shared"], "user");
    assert_eq!(all["trouble"], Value::Array(Vec::new()));
    let pools = all["pools"].as_array().unwrap();
    let told: Vec<_> = pools
        .iter()
        .map(|pool| {
            (
                pool["pool"].as_str().unwrap(),
                pool["mode"].as_str().unwrap(),
            )
        })
        .collect();
    assert_eq!(told, [("cache", "single"), ("sessions", "fenced")]);
    let sessions = &pools[1];
    assert_eq!(sessions["copies"], 3);
    assert_eq!(
        sessions["safe_to_touch_next"],
        Value::Null,
        "nobody was asked"
    );
    for (node, server) in sessions["nodes"].as_array().unwrap().iter().zip(&nodes) {
        assert_eq!(node["address"], format!("127.0.0.1:{}", server.port()));
        assert_eq!(node["state"], "up");
        assert_eq!(node["connections"], 1, "the session used it");
        assert_eq!(node["trust"], Value::Null);
        assert_eq!(
            (&node["suspect"], &node["missed_keys"]),
            (&false.into(), &Value::Null)
        );
    }

    let asked = "echo json_encode(memring_status('sessions'), JSON_THROW_ON_ERROR);";
    let one = json(&php, asked);
    let pool = &one["pools"][0];
    assert_eq!(pool["safe_to_touch_next"], true);
    for node in pool["nodes"].as_array().unwrap() {
        assert_eq!(
            (&node["answers"], &node["trust"]),
            (&true.into(), &"trusted".into())
        );
        assert!(node["life"].as_u64().unwrap() > 0);
        assert_eq!(node["absent_by"], Value::Array(Vec::new()));
        assert_eq!(node["missed_keys"], 0);
    }

    nodes[1].kill();
    let one = json(&php, asked);
    let pool = &one["pools"][0];
    assert_eq!(pool["safe_to_touch_next"], false);
    let down = &pool["nodes"][1];
    assert_eq!(
        (&down["answers"], &down["trust"]),
        (&false.into(), &"silent".into())
    );
    assert_eq!(down["state"], "ejected");
    assert!(
        down["cause"].as_str().unwrap().contains("refused"),
        "{down}"
    );
    assert!(down["since"].as_u64().unwrap() > 1_700_000_000);
    // Whoever looks after that knows it without asking.
    let all = json(
        &php,
        "echo json_encode(Memring\\status(), JSON_THROW_ON_ERROR);",
    );
    assert_eq!(all["pools"][1]["nodes"][1]["state"], "ejected");
}

#[test]
fn a_node_that_fell_silent_is_suspect_and_what_it_missed_is_counted_for_it() {
    let nodes = [Memcached::start(), Memcached::start()];
    let directory = TempDir::new("suspect");
    let list = nodes
        .each_ref()
        .map(|node| format!("tcp://{}", node.address()));
    let file = directory.file(
        "memring.toml",
        format!("[pool.cache]\nnodes = {list:?}\nmode = \"sync\"\n"),
    );
    let php = Php::new().ini("memring.config_file", file.display());
    nodes[1].freeze();
    let told = json(
        &php,
        "$m = new Memcache; $m->addServer('pool:cache'); for ($i = 0; $i < 20; $i++) @$m->set(\"k$i\", 1); \
         echo json_encode(Memring\\status()['pools'][0]['nodes'], JSON_THROW_ON_ERROR);",
    );
    nodes[1].resume();
    assert_eq!(
        (&told[0]["suspect"], &told[0]["missed_keys"]),
        (&false.into(), &0.into())
    );
    assert_eq!(
        (&told[1]["suspect"], &told[1]["missed_keys"]),
        (&true.into(), &20.into()),
        "{told}"
    );
}

#[test]
fn status_shows_no_secret_and_takes_every_name_into_json() {
    let nodes = [Memcached::start()];
    let php = Php::new().ini("memring.key_hash", "hash");
    let port = nodes[0].port();
    let all = json(
        &php,
        &format!(
            "$m = new Memcache; $m->addServer('127.0.0.1', {port}); $m->set('a', 1); \
             echo json_encode(Memring\\status(), JSON_THROW_ON_ERROR);"
        ),
    );
    let other = &all["other_nodes"][0];
    assert_eq!(other["address"], format!("127.0.0.1:{port}"));
    assert_eq!(
        (&other["state"], &other["connections"]),
        (&"up".into(), &1.into())
    );
    assert_eq!(all["pools"], Value::Array(Vec::new()));
    let wrong = json(
        &php,
        "foreach ([fn() => Memring\\status('nobody'), fn() => Memring\\route('a:1', 'fly', 'k'), \
                   fn() => Memring\\route('a:1', 'get', '')] as $call) \
            try { $call(); } catch (ValueError $e) { $said[] = $e->getMessage(); } \
         echo json_encode($said);",
    );
    let said = names(&wrong);
    assert!(said[0].contains("memring.config_file"), "{said:?}");
    assert!(said[1].contains("\"session\""), "{said:?}");
    assert_eq!(said.len(), 3);
}

#[test]
fn phpinfo_has_the_figures_of_the_pools_and_their_nodes() {
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let addresses: Vec<String> = nodes.iter().map(Memcached::address).collect();
    let directory = TempDir::new("phpinfo");
    let file = directory.file(
        "memring.toml",
        format!("[pool.shop]\nnodes = {addresses:?}\nmode = \"sync\"\ncopies = \"all\"\n"),
    );
    let php = Php::new().ini("memring.config_file", file.display());
    let page = |work: &str| {
        php.run(&format!(
            "$m = new Memcache; $m->addServer('pool:shop'); {work} phpinfo(INFO_MODULES);"
        ))
        .ok()
    };
    page("for ($i = 0; $i < 20; $i++) $m->set(\"k$i\", $i);");
    // What its owner lost it is given back by a read, which is counted.
    nodes
        .iter()
        .for_each(|node| drop(node.raw("delete k7\r\n", "\r\n")));
    let lost: Vec<usize> = (0..20).filter(|n| *n != 7).collect();
    for n in &lost {
        nodes[0].raw(format!("delete k{n}\r\n"), "\r\n");
    }
    let text = page("for ($i = 0; $i < 20; $i++) $m->get(\"k$i\");");
    let rows = |text: &str, name: &str| -> Vec<String> {
        let head = format!("{name} => ");
        let rows = text.lines().filter_map(|line| line.strip_prefix(&head));
        rows.map(str::to_owned).collect()
    };
    let repaired = lost
        .iter()
        .filter(|n| nodes[0].stored(&format!("k{n}")).is_some());
    let repaired = repaired.count();
    assert!(repaired > 0);
    assert_eq!(rows(&text, "repairs"), [repaired.to_string()], "{text}");
    assert_eq!(rows(&text, "Pool"), ["shop: mode sync, 3 nodes"], "{text}");
    let up: Vec<String> = addresses.iter().map(|name| format!("{name}: up")).collect();
    assert_eq!(rows(&text, "Node"), up, "{text}");
    assert_eq!(rows(&text, "shared"), ["user"], "{text}");
    nodes[1].kill();
    let text = page("for ($i = 0; $i < 20; $i++) $m->set(\"k$i\", $i);");
    let down = &rows(&text, "Node")[1];
    let wanted = format!("{}: ejected (", addresses[1]);
    assert!(
        down.starts_with(&wanted) && down.contains("refused"),
        "{down}"
    );
    for name in ["ejections", "missed_keys", "missed_keys_kept"] {
        let [count] = &rows(&text, name)[..] else {
            panic!("no {name}: {text}");
        };
        assert!(count.parse::<u64>().unwrap() > 0, "{name}: {text}");
    }
}

#[test]
fn route_names_the_node_that_findserver_names_and_where_copies_go() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", node.port()))
        .collect();
    let php = Php::new()
        .ini("memcache.redundancy", "2")
        .ini("memring.key_hash", "hash");
    let adds: String = nodes
        .iter()
        .map(|node| format!("$m->addServer('127.0.0.1', {});", node.port()))
        .collect();
    let told = json(
        &php,
        &format!(
            "$m = new Memring\\Memcache; {adds}
             $differ = 0;
             for ($i = 0; $i < 50; $i++) {{
                 $route = Memring\\route('{}', 'get', \"k$i\");
                 if ($route['owner'] !== $m->findServer(\"k$i\") || $route['reads'] !== [$route['owner']]
                     || $route != $m->route('get', \"k$i\")) $differ++;
             }}
             $m->set('k1', 'v');
             echo json_encode(['differ' => $differ, 'set' => $m->route('set', 'k1'),
                 'long' => $m->route('get', str_repeat('x', 300)), 'bytes' => $m->route('get', \"a b\\xff\")]);",
            list.join(",")
        ),
    );
    assert_eq!(told["differ"], 0);
    // What it says is written is what was written.
    let writes = names(&told["set"]["writes"]);
    assert_eq!(writes.len(), 2, "{told}");
    for (node, name) in nodes.iter().zip(&list) {
        assert_eq!(
            node.stored("k1").is_some(),
            writes.contains(&name.as_str()),
            "{name} {told}"
        );
    }
    let wire = told["long"]["wire_key"].as_str().unwrap();
    assert_eq!(
        (wire.len(), &told["long"]["long_key"]),
        (250, &"hashed".into())
    );
    assert_eq!(told["bytes"]["wire_key"], "a_b\\xff");
}

#[test]
fn route_of_a_session_names_its_nodes_in_both_modes() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", node.port()))
        .collect();
    for (mode, count) in [("fenced", 3), ("single", 2)] {
        let path = format!("{}?mode={mode}", list.join(","));
        let php = Php::new()
            .ini("session.save_handler", "memring")
            .ini("session.save_path", &path)
            .ini("session.use_cookies", "0")
            .ini("session.cache_limiter", "");
        let told = json(
            &php,
            &format!(
                "session_id('some{mode}'); session_start(); $_SESSION['a'] = 1; session_write_close();
                 echo json_encode(memring_route(ini_get('session.save_path'), 'session', 'some{mode}'));"
            ),
        );
        assert_eq!(told["mode"], mode, "{told}");
        let writes = names(&told["writes"]);
        assert_eq!(writes.len(), count, "{told}");
        let wire = told["wire_key"].as_str().unwrap();
        for (node, name) in nodes.iter().zip(&list) {
            assert_eq!(
                node.stored(wire).is_some(),
                writes.contains(&name.as_str()),
                "{name} {told}"
            );
        }
    }
}

#[test]
fn a_route_tells_of_a_node_that_is_not_asked_and_who_stands_in() {
    let mut nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let list = format!(
        "127.0.0.1:{},127.0.0.1:{}",
        nodes[0].port(),
        nodes[1].port()
    );
    nodes[0].kill();
    let told = json(
        &Php::new(),
        &format!(
            "for ($i = 0; $i < 99; $i++) {{
                 $route = Memring\\route('{list}', 'get', \"k$i\");
                 if ($route['owner'] === '127.0.0.1:{port}') break;
             }}
             $m = new Memring\\Memcache; $m->addServer('127.0.0.1', {port}); $m->addServer('127.0.0.1', {other});
             @$m->get(\"k$i\");
             echo json_encode(Memring\\route('{list}', 'get', \"k$i\"));",
            port = nodes[0].port(),
            other = nodes[1].port()
        ),
    );
    assert_eq!(
        names(&told["reads"]),
        [format!("127.0.0.1:{}", nodes[1].port())]
    );
    let places = told["nodes"].as_array().unwrap();
    assert_eq!(
        (&places[0]["role"], &places[0]["state"]),
        (&"owner".into(), &"ejected".into())
    );
    assert_eq!(
        (&places[1]["role"], &places[1]["state"]),
        (&"failover".into(), &"up".into())
    );
    assert!(
        told["reason"].as_str().unwrap().contains("refused"),
        "{told}"
    );
}

#[test]
fn with_two_copies_the_route_shows_who_has_only_word_of_a_session() {
    let list = "a:1?mode=fenced&copies=2, b:1, c:1";
    let told = json(
        &Php::new(),
        &format!("echo json_encode(Memring\\route('{list}', 'session', 'abc'));"),
    );
    let roles: Vec<&str> = (told["nodes"].as_array().unwrap().iter())
        .map(|place| place["role"].as_str().unwrap())
        .collect();
    assert_eq!(roles, ["owner", "copy", "witness"]);
    assert_eq!(names(&told["writes"]).len(), 3);
}

#[test]
fn the_companion_tells_the_same_route_as_a_table_and_as_json() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("route");
    let file = file(&directory, &nodes);
    let state = directory.path().display().to_string();
    let run = |words: &[&str]| {
        let given = ["route", "--config", &file, "--state-dir", &state];
        let (code, said, complained) = run(&[&given, words].concat());
        (code, said + &complained)
    };
    let (code, text) = run(&["--json", "sessions", "session", "abc"]);
    assert_eq!(code, 0, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    let php = Php::new().ini("memring.config_file", &file);
    let same = json(
        &php,
        "echo json_encode(Memring\\route('pool:sessions', 'session', 'abc'));",
    );
    assert_eq!(told, same);
    let (code, text) = run(&["sessions", "session", "abc"]);
    assert_eq!(code, 0, "{text}");
    let owner = told["owner"].as_str().unwrap();
    assert!(
        text.contains(&format!("owner    {owner} by rendezvous")),
        "{text}"
    );
    assert_eq!(text.matches("preferred node").count(), 3, "{text}");
    let list = format!("127.0.0.1:{}", nodes[0].port());
    let (code, text) = run(&["--list", &list, "get", "pool:not-a-pool"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("pool:not-a-pool"), "{text}");
    for (words, wants) in [
        (&["sessions", "get"][..], "an operation and a key"),
        (&["sessions", "fly", "k"][..], "no operation"),
        (&["nobody", "get", "k"][..], "there is no pool"),
    ] {
        let (code, text) = run(words);
        assert_eq!(code, 2, "{text}");
        assert!(text.contains(wants), "{text}");
    }
}

#[test]
fn status_counts_what_happened_to_copied_sessions() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("127.0.0.1:{}", node.port()))
        .collect();
    let php = Php::new()
        .ini("session.save_handler", "memring")
        .ini("session.save_path", list.join(","))
        .ini("session.use_cookies", "0")
        .ini("session.cache_limiter", "");
    let counted = |name: &str| {
        let all = json(&php, "echo json_encode(memring_status());");
        all["counters"][name].as_u64().unwrap()
    };
    let visit = |page: &str| {
        php.run(&format!(
            "ob_start(); session_id('s'); session_start(); {page}"
        ))
    };
    visit("$_SESSION['n'] = 1;").ok();
    for name in [
        "repairs",
        "conflicts",
        "fences",
        "tombstones",
        "tombstone_bytes",
        "foreign_items",
    ] {
        assert_eq!(counted(name), 0, "{name}");
    }

    nodes[0].raw("delete s\r\n", "\r\n");
    visit("").ok();
    assert_eq!(counted("repairs"), 1);

    // The turn is taken over and used by somebody of another host while the request works.
    let directory = TempDir::new("marks");
    let (inside, go) = (directory.path().join("inside"), directory.path().join("go"));
    let loser = php.start(&format!(
        "ob_start(); session_id('s'); session_start(); touch('{}'); while (!file_exists('{}')) usleep(1000);
         $_SESSION['n'] = 'lost';",
        inside.display(),
        go.display()
    ));
    assert!(wait_until(Duration::from_secs(30), || inside.exists()));
    let mut host = Host::of(&nodes, 9);
    let impatient = Some(Turn {
        wait: 20_000,
        lease: 50,
    });
    let opened = host.open("s", impatient, false);
    let closed = host.close("s", opened.grips, text("n|i:2;"));
    assert_eq!(closed, Closed::Done { copies: 3 });
    std::fs::write(&go, "").unwrap();
    loser.finish();
    assert_eq!(counted("conflicts"), 1);
    assert!(counted("fences") > 0);

    visit("session_destroy();").ok();
    assert_eq!(counted("tombstones"), 1);
    // As the servers list them.
    let size = |node: &Memcached| -> u64 {
        let listed = node.raw("lru_crawler metadump hash\r\n", "END\r\n");
        let listed = String::from_utf8_lossy(&listed).into_owned();
        let line = listed.lines().find(|line| line.starts_with("key=s "));
        let size = line.and_then(|line| line.split("size=").nth(1)?.split(' ').next());
        size.and_then(|size| size.parse().ok()).expect("a size")
    };
    assert_eq!(
        counted("tombstone_bytes"),
        nodes.iter().map(size).sum::<u64>()
    );
    nodes[0].raw("set foreign 0 0 5\r\nhello\r\n", "\r\n");
    nodes[1].raw("set foreign 0 0 5\r\nhello\r\n", "\r\n");
    nodes[2].raw("set foreign 0 0 5\r\nhello\r\n", "\r\n");
    php.run("session_id('foreign'); @session_start(['read_and_close' => true]);");
    assert!(counted("foreign_items") > 0);
}

#[test]
fn while_a_node_list_changes_a_route_names_the_nodes_of_both() {
    // Nothing is sent, so nobody need listen there.
    let directory = TempDir::new("lists");
    let file = directory.file(
        "memring.toml",
        "[pool.sessions]\nmode = \"fenced\"\nepoch = 1\n\
         nodes = [\"memcached://127.0.0.1:1\", \"memcached://127.0.0.1:2\", \"memcached://127.0.0.1:4\"]\n\
         previous_nodes = [\"memcached://127.0.0.1:1\", \"memcached://127.0.0.1:2\", \"memcached://127.0.0.1:3\"]\n",
    );
    let php = Php::new().ini("memring.config_file", file.display());
    let told = json(
        &php,
        "echo json_encode([Memring\\route('sessions', 'session', 'abc'), Memring\\status()]);",
    );
    let (route, status) = (&told[0], &told[1]);
    let places = route["nodes"].as_array().unwrap();
    assert_eq!(places.len(), 4, "{route}");
    assert_eq!(places[3]["node"], "127.0.0.1:3");
    assert_eq!(places[3]["role"], "previous");
    assert_eq!(names(&route["writes"]).len(), 4);
    assert_eq!(names(&route["reads"]).len(), 4);
    let pool = &status["pools"][0];
    assert_eq!(
        (&pool["epoch"], &pool["two_node_lists"]),
        (&1.into(), &true.into())
    );
}
