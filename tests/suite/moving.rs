//! Nodes added to and taken out of a pool of one copy, while some hosts have the new file and some the old one.

use crate::epochs::{Counts, Host, a_while, under_load, visit};
use crate::migrate::set;
use harness::{Memcached, Php, Redis, Server, TempDir, wait_until};
use std::fmt::Write;
use std::time::Duration;

/// Sessions of a test.
const SESSIONS: usize = 1000;

fn memcached(count: usize) -> Vec<Server> {
    let start = |_| Server::Memcached(Memcached::start());
    (0..count).map(start).collect()
}

fn redis(count: usize) -> Vec<Server> {
    let start = |_| Server::Redis(Redis::start());
    (0..count).map(start).collect()
}

/// The nodes as a file names them: by letters, so that keys have the same places in each run.
fn named(nodes: &[Server]) -> Vec<String> {
    let name = |(node, id): (&Server, char)| {
        let (scheme, more) = match node.is_redis() {
            true => ("redis", ""),
            false => ("memcached", "&retry_interval=0"),
        };
        format!(
            "{scheme}://127.0.0.1:{}?id={id}&timeout=2{more}",
            node.port()
        )
    };
    nodes.iter().zip('a'..).map(name).collect()
}

/// A pool of one copy on these nodes, which came from `previous`.
fn file(nodes: &[String], previous: &[String], more: &str) -> String {
    let mut text = format!("[pool.sessions]\nmode = \"single\"\nnodes = {nodes:?}\n{more}\n");
    if !previous.is_empty() {
        writeln!(text, "previous_nodes = {previous:?}").unwrap();
    }
    text
}

/// PHP that has this file.
fn php(directory: &TempDir, text: &str) -> Php {
    let path = directory.file("memring.toml", text);
    Php::new()
        .ini("memring.config_file", path.display())
        .ini("session.save_handler", "memring")
        .ini("session.save_path", "pool:sessions")
        .ini("session.use_cookies", 0)
        .ini("session.use_only_cookies", 0)
        .ini("session.cache_limiter", "")
        .ini("memcache.session_redundancy", 1)
}

/// How many of the sessions a node has.
fn has(node: &Server) -> usize {
    (0..SESSIONS)
        .filter(|n| node.stored(&format!("s{n}")).is_some())
        .count()
}

/// A thousand sessions stay when a third node comes to two, and when it goes again.
fn a_third_is_added(nodes: &[Server], more: &str) {
    let (names, directory) = (named(nodes), TempDir::new("moving"));
    let (old, new) = (&names[..2], &names[..]);
    let each = |script: &str| {
        format!(
            "$bad = 0; for ($i = 0; $i < {SESSIONS}; $i++) {{ session_id(\"s$i\"); if (!session_start()) $bad++; {script} session_write_close(); }} echo $bad;"
        )
    };
    let visit = |text: &str, visit: i32| {
        let script = format!(
            "if (($_SESSION['n'] ?? -1) !== $i || ($_SESSION['v'] ?? -1) !== {visit} - 1) $bad++; $_SESSION['v'] = {visit};"
        );
        assert_eq!(
            php(&directory, text).run(&each(&script)).ok(),
            "0",
            "{text}"
        );
    };
    let first = each("$_SESSION = ['n' => $i, 'v' => 0];");
    let first = php(&directory, &file(old, &[], more)).run(&first).ok();
    assert_eq!(first, "0");
    visit(&file(new, old, more), 1);
    let moved = has(&nodes[2]);
    println!("{moved} of {SESSIONS} moved");
    // The bar: no more than a third, and 3 % of all.
    assert!((SESSIONS / 5..=SESSIONS / 3 + SESSIONS * 3 / 100).contains(&moved));
    // A host with the old file, one with the new, one that no longer has the old list, and back again.
    visit(&file(old, &[], more), 2);
    visit(&file(new, old, more), 3);
    visit(&file(new, &[], more), 4);
    visit(&file(new, old, more), 5);
    visit(&file(old, &[], more), 6);
    // And out again: what is left on the third is older than all that is on the others.
    visit(&file(new, old, more), 7);
    visit(&file(new, &[], more), 8);
    visit(&file(old, new, more), 9);
    visit(&file(old, &[], more), 10);
    // A destroyed session is gone at both places.
    let gone = each("session_destroy();");
    assert_eq!(php(&directory, &file(new, old, more)).run(&gone).ok(), "0");
    assert!(nodes.iter().all(|node| has(node) == 0));
}

#[test]
fn a_thousand_sessions_stay_when_a_third_memcached_is_added_and_goes() {
    a_third_is_added(&memcached(3), "");
}

#[test]
fn a_thousand_sessions_stay_when_a_third_redis_is_added_and_goes() {
    a_third_is_added(&redis(3), "placement = \"rendezvous\"");
}

/// Two hosts go from two nodes to three and back, one after the other, while sessions are visited on both.
fn under_visits(nodes: &[Server], redundancy: &str) {
    let names = named(nodes);
    let (old, new) = (&names[..2], &names[..]);
    let (before, after) = (file(old, &[], ""), file(new, &[], ""));
    let both = file(new, old, "");
    let settings = [("memcache.session_redundancy", redundancy)];
    let start = || Host::start_with(&before, &settings);
    let (one, two) = (start(), start());
    let (hosts, counts) = ([&one, &two], Counts::default());
    under_load(hosts, &counts, || a_while(&counts));
    for (host, way) in [
        (&one, &both),
        (&two, &both),
        (&one, &after),
        (&two, &after),
        // And back again.
        (&one, &both),
        (&two, &both),
        (&one, &before),
        (&two, &before),
    ] {
        under_load(hosts, &counts, || {
            set(host, way);
            a_while(&counts);
        });
    }
    for host in hosts {
        assert_eq!(host.log(), "");
    }
    let sessions: Vec<String> = counts.lock().unwrap().keys().cloned().collect();
    assert!(
        sessions
            .iter()
            .all(|session| visit(&hosts, session, &counts))
    );
}

#[test]
fn hosts_get_a_third_memcached_one_after_the_other_and_nobody_is_logged_out() {
    under_visits(&memcached(3), "1");
}

#[test]
fn hosts_get_a_third_memcached_with_two_copies_and_nobody_is_logged_out() {
    under_visits(&memcached(3), "2");
}

#[test]
fn hosts_get_a_third_redis_one_after_the_other_and_nobody_is_logged_out() {
    under_visits(&redis(3), "1");
}

#[test]
fn a_session_that_is_only_read_by_hosts_with_the_old_file_stays() {
    let (nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let (before, both) = (file(&names[..2], &[], ""), file(&names, &names[..2], ""));
    let each = |script: &str| {
        format!(
            "for ($i = 0; $i < 100; $i++) {{ session_id(\"s$i\"); session_start(); {script} session_write_close(); }}"
        )
    };
    php(&directory, &both)
        .run(&each("$_SESSION['n'] = $i;"))
        .ok();
    let moved: Vec<usize> = (0..100)
        .filter(|n| nodes[2].stored(&format!("s{n}")).is_some())
        .collect();
    assert!(moved.len() > 10, "{moved:?}");
    php(&directory, &before).run(&each("")).ok();
    // Its time at the new place is over, where nobody has been since.
    for n in &moved {
        nodes[2].delete(&format!("s{n}"));
    }
    let text = php(&directory, &both)
        .run(&format!(
            "$bad = 0; {} echo $bad;",
            each("$bad += ($_SESSION['n'] ?? -1) !== $i;")
        ))
        .ok();
    assert_eq!(text, "0");
    // And it is at its new place again.
    assert!(
        moved
            .iter()
            .all(|n| nodes[2].stored(&format!("s{n}")).is_some())
    );
}

#[test]
fn a_session_is_refused_where_its_old_place_cannot_be_asked() {
    let (mut nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let (before, both) = (file(&names[..2], &[], ""), file(&names, &names[..2], ""));
    let each = |script: &str| {
        format!(
            "for ($i = 0; $i < 60; $i++) {{ session_id(\"s$i\"); $ok = @session_start(); {script} session_write_close(); }}"
        )
    };
    php(&directory, &before)
        .run(&each("$_SESSION['n'] = $i;"))
        .ok();
    nodes[0].kill();
    let text = php(&directory, &both)
        .run(&format!(
            "$new = $refused = 0; {} echo $new, ' ', $refused > 0 ? 'refused' : 'let in';",
            each("if (!$ok) $refused++; elseif (!isset($_SESSION['n'])) $new++;")
        ))
        .ok();
    assert_eq!(text, "0 refused");
}

#[test]
fn what_only_the_old_place_took_is_newer_than_what_its_new_node_comes_back_with() {
    let (mut nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let both = php(&directory, &file(&names, &names[..2], "")).ini("memring.shared", "off");
    let each = |script: &str| {
        format!(
            "$bad = 0; for ($i = 0; $i < 40; $i++) {{ session_id(\"s$i\"); @session_start(); {script} @session_write_close(); }} echo $bad;"
        )
    };
    let visit = |n: i32| {
        let script = format!("$bad += ($_SESSION['n'] ?? 0) !== {n} - 1; $_SESSION['n'] = {n};");
        assert_eq!(both.run(&each(&script)).ok(), "0", "visit {n}");
    };
    visit(1);
    let key = |n: usize| format!("s{n}");
    let stale: Vec<(String, Vec<u8>)> = (0..40)
        .filter_map(|n| Some((key(n), nodes[2].stored(&key(n))?)))
        .collect();
    assert!(stale.len() > 5);
    nodes[2].kill();
    visit(2);
    nodes[2].restart();
    for (key, value) in stale {
        nodes[2].put(&key, &String::from_utf8(value).unwrap());
    }
    visit(3);
}

/// What a script says that is run on each of 60 sessions.
fn each_of_60(script: &str) -> String {
    format!(
        "$refused = $wrong = 0; for ($i = 0; $i < 60; $i++) {{ session_id(\"s$i\"); $ok = @session_start(); {script} @session_write_close(); }} echo $wrong, ' ', $refused;"
    )
}

#[test]
fn what_its_new_place_has_is_not_served_while_the_old_one_that_may_have_newer_is_silent() {
    let (mut nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let (before, both) = (file(&names[..2], &[], ""), file(&names, &names[..2], ""));
    let visit = |file: &str, script: &str| php(&directory, file).run(&each_of_60(script)).ok();
    assert_eq!(visit(&both, "$_SESSION['n'] = 1;"), "0 0");
    let more = "$wrong += ($_SESSION['n'] ?? 0) !== 1; $_SESSION['n'] = 2;";
    assert_eq!(visit(&before, more), "0 0");
    nodes[0].kill();
    let text = visit(
        &both,
        "if (!$ok) $refused++; else $wrong += ($_SESSION['n'] ?? 0) !== 2;",
    );
    let refused: usize = text.strip_prefix("0 ").expect(&text).parse().unwrap();
    assert!((10..50).contains(&refused), "{text}");
}

#[test]
fn a_session_that_was_not_destroyed_at_both_of_its_places_is_said_not_to_be() {
    let (mut nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let both = |script: &str| {
        let php = php(&directory, &file(&names, &names[..2], ""));
        php.run(&each_of_60(script)).ok()
    };
    assert_eq!(both("$_SESSION['n'] = 1;"), "0 0");
    let moved = |n: &usize| nodes[2].stored(&format!("s{n}")).is_some();
    let moved = (0..60).filter(moved).count();
    assert!((10..50).contains(&moved), "{moved}");
    nodes[2].kill();
    // Let in from its old place, all the same.
    let text = both("$wrong += !$ok; $refused += !@session_destroy();");
    assert_eq!(text, format!("0 {moved}"));
}

#[test]
fn a_counter_whose_new_node_is_down_counts_once_or_not_at_all() {
    let (mut nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let head = "$m = new Memring\\Memcache; $m->addServer('pool:sessions');";
    let both = php(&directory, &file(&names, &names[..2], ""));
    let set = "for ($i = 0; $i < 60; $i++) $m->set(\"k$i\", 1000);";
    both.run(&format!("{head} {set}")).ok();
    nodes[2].kill();
    let text = both.run(&format!(
        "{head} $wrong = []; for ($i = 0; $i < 60; $i++) {{ $said = @$m->increment(\"k$i\"); if ($said !== 1001 && $said !== false) $wrong[$i] = $said; }} echo json_encode($wrong), ' ';
         $all = []; for ($i = 0; $i < 60; $i++) $all[] = @$m->get(\"k$i\"); $all = array_count_values($all); ksort($all); echo json_encode(array_keys($all));"
    ));
    let text = text.ok();
    assert!(text == "[] [1000,1001]" || text == "[] [1001]", "{text}");
}

/// The values of a cache, on both kinds of servers.
fn values(nodes: &[Server]) {
    let (names, directory) = (named(nodes), TempDir::new("moving"));
    let (old, new) = (&names[..2], &names[..]);
    let (before, both) = (file(old, &[], ""), file(new, old, ""));
    let run = |text: &str, script: &str| {
        let head = "$m = new Memring\\Memcache; $m->addServer('pool:sessions'); $all = []; for ($i = 0; $i < 100; $i++) $all[] = \"k$i\"; $bad = [];\n";
        let text = php(&directory, text).run(&format!("{head}{script}\necho json_encode($bad);"));
        assert_eq!(text.ok(), "[]", "{script}");
    };
    let moved = || -> Vec<String> {
        let keys = (0..100).map(|n| format!("k{n}"));
        keys.filter(|key| nodes[2].stored(key).is_some()).collect()
    };
    let begin = "foreach ($all as $i => $k) $m->set($k, \"v$i\", 0, 1000);";
    run(&before, begin);
    // Read where they are, one by one and all at once; nothing is carried for that.
    run(
        &both,
        "foreach ($all as $i => $k) if ($m->get($k) !== \"v$i\") $bad[] = $k; if (count($m->get($all)) !== 100) $bad[] = 'all';",
    );
    assert_eq!(moved(), Vec::<String>::new());
    // What is stored is at both places, and what is deleted at neither.
    run(
        &both,
        "foreach ($all as $i => $k) if (!$m->set($k, \"w$i\", 0, 1000)) $bad[] = $k;",
    );
    let there = moved();
    assert!((20..=40).contains(&there.len()), "{there:?}");
    run(
        &before,
        "foreach ($all as $i => $k) if ($m->get($k) !== \"w$i\") $bad[] = $k;",
    );
    run(
        &both,
        "foreach ($all as $k) { if (!$m->delete($k)) $bad[] = $k; if ($m->delete($k)) $bad[] = \"$k twice\"; if ($m->get($k) !== false) $bad[] = \"$k lives\"; }",
    );
    run(
        &before,
        "foreach ($all as $k) if ($m->get($k) !== false) $bad[] = $k;",
    );
    // One that is only at its old place is deleted there, too.
    run(&before, begin);
    run(
        &both,
        "foreach ($all as $k) { if (!$m->delete($k)) $bad[] = $k; if ($m->get($k) !== false) $bad[] = \"$k lives\"; }",
    );
    // What depends on what is stored goes on from what the old place has, and the old place hears of it.
    run(
        &before,
        "foreach ($all as $i => $k) $m->set($k, $i, 0, 1000);",
    );
    run(
        &both,
        "foreach ($all as $i => $k) { if ($m->increment($k, 2) !== $i + 2) $bad[] = $k; if ($m->increment($k, 1, 7) !== $i + 3) $bad[] = \"$k again\"; }",
    );
    run(
        &before,
        "foreach ($all as $i => $k) if ($m->get($k) != $i + 3) $bad[] = $k;",
    );
    for key in moved() {
        let left = match &nodes[2] {
            Server::Memcached(node) => {
                let line = node.raw(format!("mg {key} t\r\n"), "\r\n");
                String::from_utf8_lossy(&line)
                    .trim()
                    .trim_start_matches("HD t")
                    .to_owned()
            }
            Server::Redis(node) => {
                let left: i64 = redis::cmd("TTL")
                    .arg(&key)
                    .query(&mut node.client())
                    .unwrap();
                left.to_string()
            }
        };
        let left: i64 = left.parse().unwrap();
        assert!((900..=1000).contains(&left), "{key} ends in {left} s");
    }
    nodes.iter().for_each(Server::flush);
    std::thread::sleep(Duration::from_millis(1100)); // a memcached is empty until the second is over
    run(&before, begin);
    run(
        &both,
        "foreach ($all as $i => $k) { if ($m->add($k, 'x')) $bad[] = \"$k added\"; if (!$m->append($k, '+')) $bad[] = $k; if ($m->get($k) !== \"v$i+\") $bad[] = \"$k appended\"; if (!$m->touch($k, 500)) $bad[] = \"$k touched\"; }",
    );
    run(
        &before,
        "foreach ($all as $i => $k) if ($m->get($k) !== \"v$i+\") $bad[] = $k;",
    );
    nodes.iter().for_each(Server::flush);
    std::thread::sleep(Duration::from_millis(1100));
    run(&before, begin);
    run(
        &both,
        "foreach ($all as $i => $k) { $flags = $token = null; if ($m->get($k, $flags, $token) !== \"v$i\") $bad[] = $k; if (!$m->cas($k, \"c$i\", 0, 1000, $token)) $bad[] = \"$k cas\"; if ($m->cas($k, 'late', 0, 1000, $token)) $bad[] = \"$k twice\"; if ($m->get($k) !== \"c$i\") $bad[] = \"$k after\"; }",
    );
    run(
        &before,
        "foreach ($all as $i => $k) if ($m->get($k) !== \"c$i\") $bad[] = $k;",
    );
    // An emptied pool is empty.
    run(
        &both,
        "if (!$m->flush()) $bad[] = 'flush'; usleep(1100000); if ($m->get($all)) $bad[] = 'all';",
    );
}

#[test]
fn values_are_read_deleted_and_counted_at_both_places_on_memcached() {
    values(&memcached(3));
}

#[test]
fn values_are_read_deleted_and_counted_at_both_places_on_redis() {
    values(&redis(3));
}

#[test]
fn copies_of_redundancy_are_written_and_deleted_at_their_old_nodes_too() {
    let (nodes, directory) = (memcached(4), TempDir::new("moving"));
    let names = named(&nodes);
    let before = php(&directory, &file(&names[..3], &[], "")).ini("memcache.redundancy", 2);
    let head = "$m = new Memring\\Memcache; $m->addServer('pool:sessions'); $bad = [];";
    let each = |script: &str| {
        format!("{head} for ($i = 0; $i < 60; $i++) {{ {script} }} echo json_encode($bad);")
    };
    let has = |value: &[u8]| -> usize {
        let stored = |n: usize| {
            nodes
                .iter()
                .filter_map(move |node| node.stored(&format!("k{n}")))
        };
        let count = |n: usize| stored(n).filter(|found| found == value).count();
        (0..60).map(count).sum()
    };
    before.run(&each("$m->set(\"k$i\", 'old');")).ok();
    assert_eq!(has(b"old"), 120);
    let both = php(&directory, &file(&names, &names[..3], "")).ini("memcache.redundancy", 2);
    let text = both
        .run(&each("if (!$m->set(\"k$i\", 'new')) $bad[] = $i;"))
        .ok();
    assert_eq!(text, "[]");
    assert_eq!(has(b"old"), 0);
    assert!(has(b"new") > 130, "{}", has(b"new"));
    let text = both
        .run(&each("if (!$m->delete(\"k$i\")) $bad[] = $i;"))
        .ok();
    assert_eq!(text, "[]");
    assert_eq!(has(b"new"), 0);
}

/// Four processes count the same keys at the same time, each the first time they meet them.
fn counted(nodes: &[Server]) {
    let (names, directory) = (named(nodes), TempDir::new("moving"));
    let (old, new) = (&names[..2], &names[..]);
    let head = "$m = new Memring\\Memcache; $m->addServer('pool:sessions');";
    php(&directory, &file(old, &[], ""))
        .run(&format!(
            "{head} for ($i = 0; $i < 60; $i++) $m->set(\"k$i\", 1000);"
        ))
        .ok();
    let both = php(&directory, &file(new, old, ""));
    // All begin at the same moment.
    let ready = directory.path().join("ready");
    let go = directory.path().join("go");
    let count = format!(
        "{head} $m->get('x'); touch('{}' . getmypid()); while (!file_exists('{}')) {{ usleep(200); clearstatcache(); }}\n\
         for ($n = 0; $n < 20; $n++) for ($i = 0; $i < 60; $i++) $m->increment(\"k$i\");",
        ready.display(),
        go.display()
    );
    let running: Vec<_> = (0..4).map(|_| both.start(&count)).collect();
    let begun = || {
        let files = std::fs::read_dir(directory.path()).unwrap();
        let names = files.map(|file| file.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("ready")).count()
    };
    assert!(wait_until(Duration::from_secs(60), || begun() == 4));
    directory.file("go", "");
    for one in running {
        one.finish().ok();
    }
    let text = both
        .run(&format!("{head} $all = []; for ($i = 0; $i < 60; $i++) $all[] = $m->get(\"k$i\"); echo json_encode(array_count_values($all));"))
        .ok();
    assert_eq!(text, r#"{"1080":60}"#);
    let moved = (0..60).filter(|n| nodes[2].stored(&format!("k{n}")).is_some());
    assert!(moved.count() > 10);
}

#[test]
fn what_several_processes_count_at_its_new_memcached_is_carried_there_once() {
    counted(&memcached(3));
}

#[test]
fn what_several_processes_count_at_its_new_redis_is_carried_there_once() {
    counted(&redis(3));
}

#[test]
fn a_renamed_node_keeps_its_keys() {
    let (nodes, directory) = (memcached(2), TempDir::new("moving"));
    let names = named(&nodes);
    let renamed = [names[0].replace("id=a", "id=z"), names[1].clone()];
    let (before, both) = (file(&names, &[], ""), file(&renamed, &names, ""));
    let each = |script: &str| {
        format!(
            "$bad = 0; for ($i = 0; $i < 100; $i++) {{ session_id(\"s$i\"); session_start(); {script} session_write_close(); }} echo $bad;"
        )
    };
    php(&directory, &before)
        .run(&each("$_SESSION['n'] = 0;"))
        .ok();
    for (text, n) in [(&both, 1), (&before, 2), (&both, 3)] {
        let script = format!("$bad += ($_SESSION['n'] ?? -1) !== {n} - 1; $_SESSION['n'] = {n};");
        assert_eq!(
            php(&directory, text).run(&each(&script)).ok(),
            "0",
            "{text}"
        );
    }
}

#[test]
fn route_names_the_node_a_key_was_on_before() {
    let (nodes, directory) = (memcached(3), TempDir::new("moving"));
    let names = named(&nodes);
    let both = php(&directory, &file(&names, &names[..2], ""));
    let text = both
        .run(
            "foreach (['get', 'session'] as $op) { $roles = []; for ($i = 0; $i < 60; $i++) foreach (Memring\\route('pool:sessions', $op, \"k$i\")['nodes'] as $n) @$roles[$n['role']]++; ksort($roles); echo implode(' ', array_keys($roles)), $roles['previous'] < 30 ? \" few\\n\" : \" many\\n\"; }",
        )
        .ok();
    assert_eq!(text, "owner previous few\nowner previous few");
}

#[test]
fn a_transaction_on_a_key_that_moves_is_refused_with_its_reason() {
    let (nodes, directory) = (redis(3), TempDir::new("moving"));
    let names = named(&nodes);
    let both = php(&directory, &file(&names, &names[..2], ""));
    let text = both
        .run(
            "$m = new Memring\\Memcache; $m->addServer('pool:sessions'); $done = 0; $told = '';\n\
             for ($i = 0; $i < 60; $i++) { if (@$m->watch([\"k$i\"])) { $done++; $m->discard(); } else $told = error_get_last()['message']; }\n\
             echo $done > 20 && $done < 60 ? 'some' : $done, ' ', $told;",
        )
        .ok();
    assert!(
        text.starts_with("some") && text.contains("moves from") && text.contains("previous_nodes"),
        "{text}"
    );
}
