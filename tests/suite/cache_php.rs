//! Copies of a cache and copied sessions as class Memcache sees them.

use harness::{Fault, Memcached, Php, Proxy, TempDir, wait_until};
use std::time::Duration;

/// PHP with a pool file over these nodes.
fn php(directory: &TempDir, nodes: &[Memcached], body: &str) -> Php {
    let list: Vec<String> = nodes
        .iter()
        .map(|node| {
            format!(
                "\"memcached://127.0.0.1:{}?timeout=0.4&retry_interval=0\"",
                node.port()
            )
        })
        .collect();
    let text = format!("[pool.p]\nnodes = [{}]\n{body}\n", list.join(", "));
    let path = directory.file("memring.toml", &text);
    Php::new()
        .ini("memring.config_file", path.display())
        .ini("html_errors", 0)
}

#[test]
fn every_method_works_on_copies_and_goes_on_when_a_node_dies() {
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("sync");
    let php = php(&directory, &nodes, "mode = \"sync\"");
    let text = php
        .run(
            r#"
            $m = new Memring\Memcache; $m->addServer('pool:p');
            $say = fn(...$all) => print(json_encode($all) . "\n");
            $say($m->set('text', 'value'), $m->set('list', ['a' => 1]), $m->set('no', false), $m->set('n', 41));
            $say($m->get('text'), $m->get('list'), $m->get('no'), $m->get('missing'));
            $say($m->increment('n'), $m->decrement('n', 2), $m->increment('fresh', 1, 10), $m->get('n'));
            $say($m->add('text', 'x'), $m->add('new', str_repeat('z', 30000)), $m->replace('none', 1), $m->replace('new', 'short'));
            $m->get('text', $flags, $cas);
            $say($m->cas('text', 'two', 0, 0, $cas), $m->cas('text', 'three', 0, 0, $cas), $m->get('text'));
            $say($m->append('text', '!'), $m->prepend('text', '<'), $m->get('text'));
            $say($m->touch('text', 100), $m->getAndTouch('text', 200), $m->touch('none', 1));
            $say($m->delete('text'), $m->delete('text'), $m->get('text'), $m->add('text', 'anew'), $m->get('text'));
            $all = []; for ($i = 0; $i < 100; $i++) $all["k$i"] = "v$i";
            $say($m->set($all), count($m->get(array_keys($all))), count($m->getExtendedStats()));
            "#,
        )
        .ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines,
        [
            "[true,true,true,true]",
            r#"["value",{"a":1},false,false]"#,
            "[42,40,10,40]",
            "[false,true,false,true]",
            r#"[true,false,"two"]"#,
            r#"[true,true,"<two!"]"#,
            r#"[true,"<two!",false]"#,
            r#"[true,false,false,true,"anew"]"#,
            "[true,100,3]",
        ]
    );
    let copies: usize = (0..100)
        .map(|n| {
            nodes
                .iter()
                .filter(|node| node.stored(&format!("k{n}")).is_some())
                .count()
        })
        .sum();
    assert_eq!(copies, 200, "each value is on two nodes");
    nodes[0].kill();
    let text = php
        .run(
            r#"
            $m = new Memcache; $m->addServer('pool:p');
            echo count(@$m->get(array_map(fn($i) => "k$i", range(0, 99)))), "\n";
            echo @$m->set('k0', 'again') ? 'stored' : 'lost', ' ', @$m->get('k0'), "\n";
            echo @$m->flush() ? 'all' : 'not all', "\n";
            "#,
        )
        .ok();
    assert_eq!(text, "100\nstored again\nnot all");
}

/// Whoever else did it later would take with it what came since.
#[test]
fn a_node_that_missed_a_flush_is_emptied_by_one_of_all_who_come_by() {
    const MANY: usize = 8;
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("flush");
    let php = php(&directory, &nodes, "mode = \"sync\"");
    let begin = "$m = new Memcache; $m->addServer('pool:p');";
    let keys = "array_map(fn($i) => \"k$i\", range(0, 29))";
    php.run(&format!("{begin} $m->set(array_fill_keys({keys}, 1));"))
        .ok();
    nodes[1].freeze();
    let text = php.run(&format!("{begin} var_dump(@$m->flush());")).ok();
    assert_eq!(text, "bool(false)");
    nodes[1].resume();
    // What was said to it while it hung it carries out now.
    assert!(wait_until(Duration::from_secs(5), || nodes[1]
        .stat("cmd_flush")
        == 1));
    let place = directory.path().display();
    let script = format!(
        "{begin} touch('{place}/ready' . getmypid());
        do {{ usleep(200); clearstatcache(); }} while (!file_exists('{place}/go'));
        var_dump(@$m->get({keys}), $m->set('k' . getmypid() % 30, 2));"
    );
    let all: Vec<_> = (0..MANY).map(|_| php.start(&script)).collect();
    let ready = || {
        let files = std::fs::read_dir(directory.path()).expect("the directory");
        let names = files.filter_map(|file| Some(file.ok()?.file_name()));
        let is = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("ready");
        names.filter(is).count() == MANY
    };
    assert!(wait_until(Duration::from_secs(20), ready));
    directory.file("go", "");
    for one in all {
        one.finish().ok();
    }
    assert_eq!(nodes[1].stat("cmd_flush"), 2);
}

#[test]
fn a_copied_session_is_read_plainly_and_nothing_else_is_done_to_it() {
    for nodes in crate::copies::caches() {
        let directory = TempDir::new("fenced");
        let php = php(&directory, &nodes, "mode = \"fenced\"");
        let text = php
            .ini("session.save_handler", "memring")
            .ini("session.save_path", "pool:p")
            .ini("session.use_cookies", 0)
            .ini("session.cache_limiter", "")
            .run(
                r#"
                session_id('abcdefghijklmnop'); session_start(); $_SESSION['who'] = 'me'; session_write_close();
                $m = new Memcache; $m->addServer('pool:p');
                var_dump($m->get('abcdefghijklmnop'), $m->get(['abcdefghijklmnop', 'nobody']));
                var_dump(@$m->set('abcdefghijklmnop', 'x'), error_get_last()['message']);
                var_dump(@$m->delete('abcdefghijklmnop'), @$m->flush());
                session_start(); session_destroy();
                var_dump($m->get('abcdefghijklmnop'));
                "#,
            )
            .ok();
        let data = "who|s:2:\"me\";";
        assert!(
            text.starts_with(&format!("string(13) \"{data}\"\narray(1) {{")),
            "{text}"
        );
        assert!(
            text.contains("pool:p keeps sessions (mode = \"fenced\")"),
            "{text}"
        );
        assert!(
            text.ends_with("bool(false)\nbool(false)\nbool(false)"),
            "{text}"
        );
    }
}

#[test]
fn sessions_do_not_take_a_mode_without_turns() {
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("refused");
    let text = php(&directory, &nodes, "mode = \"sync\"")
        .ini("session.save_handler", "memring")
        .ini("session.save_path", "pool:p")
        .ini("session.use_cookies", 0)
        .ini("session.cache_limiter", "")
        .run("var_dump(@session_start()); session_start();")
        .text();
    assert!(text.contains("bool(false)"), "{text}");
    assert!(
        text.contains("mode sync is for caches") && text.contains("mode = \"fenced\""),
        "{text}"
    );
}

/// Keys of each kind in [`prefixes`].
const KEYS: usize = 20;

/// PHP with a pool of two nodes, the third for a backup, and these rules.
fn prefixes(directory: &TempDir, ports: [u16; 3], rules: &str) -> Php {
    let [a, b, spare] = ports.map(|port| format!("\"127.0.0.1:{port}?timeout=2\""));
    let text = format!(
        "[pool.p]\nnodes = [{a}, {b}]\nmode = \"sync\"\nbackup = \"spare\"\n{rules}\n[pool.spare]\nnodes = [{spare}]\n"
    );
    let path = directory.file("memring.toml", text);
    Php::new().ini("memring.config_file", path.display())
}

fn page(php: &Php, script: &str) -> String {
    let head = format!(
        "$m = new Memcache; $m->addServer('pool:p'); $keys = [];
        foreach (['cfg:', 'cart', 'plain'] as $prefix) for ($i = 0; $i < {KEYS}; $i++) $keys[] = \"$prefix$i\";"
    );
    php.run(&format!("{head} {script}")).ok()
}

const SET: &str = "foreach ($keys as $key) $m->set($key, 'v') || die($key);";
const FOUND: &str = "echo count($m->get($keys));";

#[test]
fn the_longest_prefix_of_the_file_decides_for_php_whatever_its_place_in_it() {
    let rules = [
        "prefix.\"c\" = { mode = \"async\" }",
        "prefix.\"cfg:\" = { mode = \"single\" }",
    ];
    for rules in [rules, [rules[1], rules[0]]] {
        let nodes = [(); 3].map(|()| Memcached::start());
        let directory = TempDir::new("prefixes");
        let ports = nodes.each_ref().map(Memcached::port);
        let php = prefixes(&directory, ports, &rules.join("\n"));
        page(&php, SET);
        for n in 0..KEYS {
            let on = |prefix: &str| {
                let key = format!("{prefix}{n}");
                let on = nodes.each_ref().map(|node| node.stored(&key));
                let own = on[..2].iter().flatten().count();
                // Of what follows another answer the backup has the bytes, too.
                (own, on[2].is_some(), on.into_iter().flatten().next())
            };
            // As pecl-memcache has it: one node, and the bytes alone.
            let (own, backed, stored) = on("cfg:");
            assert_eq!((own, backed), (1, false), "cfg:{n}");
            assert_eq!(stored, Some((0, b"v".to_vec())), "cfg:{n}");
            for prefix in ["cart", "plain"] {
                let (own, backed, _) = on(prefix);
                assert_eq!((own, backed), (1, true), "{prefix}{n}");
            }
        }
        let late = page(&php, "echo Memring\\status()['counters']['late_copies'];");
        assert_eq!(late, KEYS.to_string(), "only the keys of prefix c follow");
        assert_eq!(page(&php, FOUND), (3 * KEYS).to_string());
    }
}

#[test]
fn what_was_flushed_no_backup_brings_back_also_one_that_was_away() {
    let nodes = [(); 3].map(|()| Memcached::start());
    let spare = Proxy::start(nodes[2].port());
    let directory = TempDir::new("flushed");
    let ports = [nodes[0].port(), nodes[1].port(), spare.port()];
    let rules = "prefix.\"c\" = { mode = \"async\" }\nprefix.\"cfg:\" = { mode = \"single\" }";
    let php = prefixes(&directory, ports, rules);
    let used =
        "foreach (Memring\\status()['pools'][0]['nodes'] as $node) echo $node['state'], ' ';";
    page(&php, SET);
    assert_eq!(
        page(&php, &format!("$m->flush() || die('not all'); {FOUND}")),
        "0"
    );
    assert!(nodes.iter().all(|node| node.stored("plain0").is_none()));
    page(&php, SET);
    spare.fault(Fault::Refuse);
    spare.cut();
    assert_eq!(page(&php, "var_dump(@$m->flush());"), "bool(false)");
    assert!(nodes[2].stored("plain0").is_some(), "the backup was away");
    spare.fault(Fault::None);
    let back = wait_until(Duration::from_secs(20), || {
        page(&php, &format!("@$m->get('plain0'); {used}")) == "up up up"
    });
    assert!(back, "the backup is not used again");
    assert_eq!(page(&php, FOUND), "0");
    assert_eq!(
        nodes[2].stored("plain0").filter(|(_, value)| value == b"v"),
        None
    );
}
