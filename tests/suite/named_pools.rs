//! Pools of the file in `memring.config_file`, the trace, the log of nodes, and what a wrong setting does.

use harness::{Memcached, Php, TempDir, free_port, wait_until};
use std::time::Duration;

/// A pool file of `nodes` in a directory of its own.
fn file(directory: &TempDir, body: &str) -> String {
    directory.file("memring.toml", body).display().to_string()
}

#[test]
fn a_port_behind_a_host_counts_where_no_other_one_is_passed() {
    let server = Memcached::start();
    let text = Php::new()
        .run(&format!(
            r#"
            $m = new Memcache;
            var_dump($m->addServer('127.0.0.1:{0}'), $m->set('k', 'v'), array_keys($m->getExtendedStats()));
            var_dump((new Memcache)->connect('tcp://127.0.0.1:{0}'), @$m->addServer('127.0.0.1:{0}', 1));
            echo error_get_last()['message'], "\n";
        "#,
            server.port()
        ))
        .ok();
    let found: Vec<&str> = text.split_whitespace().collect();
    let found = found.join(" ");
    let name = format!("127.0.0.1:{}", server.port());
    let wanted = format!(
        "bool(true) bool(true) array(1) {{ [0]=> string({}) \"{name}\" }} bool(true) bool(false)",
        name.len()
    );
    assert!(found.starts_with(&wanted), "{text}");
    assert!(found.ends_with("Write the port once"), "{text}");
}

#[test]
fn add_server_takes_a_whole_pool_of_the_file() {
    let (a, b) = (Memcached::start(), Memcached::start());
    let directory = TempDir::new("named");
    let path = file(
        &directory,
        &format!(
            "[pool.cache]\nnodes = [\"memcached://127.0.0.1:{}\", \"memcached://127.0.0.1:{}\"]\n\
             placement = \"rendezvous\"\ntag = \"{{}}\"\nkey_prefix = \"shop:\"\n",
            a.port(),
            b.port()
        ),
    );
    let text = Php::new()
        .ini("memring.config_file", &path)
        .run(
            r#"
            $m = new Memcache;
            var_dump($m->addServer('pool:cache'));
            for ($i = 0; $i < 200; $i++) $m->set("k$i", $i);
            $homes = [];
            for ($i = 0; $i < 20; $i++) $homes[$m->findServer("user{42}$i")] = 1;
            echo count($homes), " home for one tag\n";
            echo count($m->get(array_map(fn($i) => "k$i", range(0, 199)))), " found\n";
            var_dump(@$m->addServer('127.0.0.1', 11211), @$m->addServer('pool:cache'));
            echo error_get_last()['message'], "\n";
        "#,
        )
        .ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[..4],
        [
            "bool(true)",
            "1 home for one tag",
            "200 found",
            "bool(true)"
        ]
    );
    assert_eq!(lines[4], "bool(false)");
    assert!(
        lines[5].contains("pool:NAME stands for a whole pool"),
        "{text}"
    );
    let (on_a, on_b) = (a.stat("curr_items"), b.stat("curr_items"));
    assert_eq!(on_a + on_b, 200);
    assert!(on_a > 60 && on_b > 60, "{on_a} and {on_b}");
    assert!(a.stored("shop:k0").is_some() || b.stored("shop:k0").is_some());
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_line_and_remedy() {
    let directory = TempDir::new("named");
    let run = |path: &str| {
        let php = Php::new()
            .ini("memring.config_file", path)
            .ini("html_errors", 0);
        php.run("$m = new Memcache; var_dump($m->addServer('pool:cache'));")
            .text()
    };
    let path = file(
        &directory,
        "[pool.cache]\nnodes = [\"memcached://10.0.0.1\"\n",
    );
    let text = run(&path);
    assert!(
        text.contains(&path) && text.contains("line 2") && text.contains("bool(false)"),
        "{text}"
    );
    let path = file(
        &directory,
        "[pool.other]\nnodes = [\"memcached://127.0.0.1\"]\n",
    );
    let text = run(&path);
    assert!(
        text.contains("cache") && text.contains("other") && text.contains("bool(false)"),
        "{text}"
    );
    let path = file(
        &directory,
        "[pool.cache]\nnodes = [\"memcached://127.0.0.1\"]\nmode = \"fenced\"\n",
    );
    let text = run(&path);
    assert!(
        text.contains("mode = \"single\"") && text.contains("bool(false)"),
        "{text}"
    );
    let text = run("/nowhere/memring.toml");
    assert!(
        text.contains("/nowhere/memring.toml") && text.contains("bool(false)"),
        "{text}"
    );
    let text = run("");
    assert!(
        text.contains("memring.config_file") && text.contains("bool(false)"),
        "{text}"
    );
}

#[test]
fn the_trace_has_a_line_per_key_and_neither_keys_nor_values() {
    let server = Memcached::start();
    let directory = TempDir::new("trace");
    let trace = directory.path().join("trace.log");
    Php::new()
        .ini("memring.trace", trace.display())
        .run(&format!(
            "$m = new Memcache; $m->addServer('127.0.0.1', {});\n\
             $m->set('secret-key', 'secret-value'); $m->get(['secret-key', 'missing']); $m->delete('missing');",
            server.port()
        ))
        .ok();
    let text = std::fs::read_to_string(&trace).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|l| l.split(' ').collect()).collect();
    let words: Vec<_> = lines.iter().map(|l| (l[1], l[5])).collect();
    assert_eq!(
        words,
        [
            ("set", "done"),
            ("get", "hit"),
            ("get", "miss"),
            ("delete", "miss")
        ]
    );
    assert_eq!(lines[0][2], lines[1][2], "one key has one hash");
    assert_eq!(lines[0][3], format!("127.0.0.1:{}", server.port()));
    assert!(
        lines[0][0].ends_with('Z') && lines[0][4].ends_with("us"),
        "{text}"
    );
    assert!(!text.contains("secret"), "{text}");
}

#[test]
fn a_node_going_down_and_coming_up_is_one_line_each_in_the_log() {
    let directory = TempDir::new("log");
    let log = directory.path().join("php.log");
    let port = free_port();
    let php = || {
        Php::new()
            .ini("memring.state_dir", directory.path().display())
            .ini("log_errors", 1)
            .ini("display_errors", 0)
            .ini("error_reporting", 0)
            .ini("error_log", log.display())
    };
    let page = format!(
        "$m = new Memcache; $m->addServer('127.0.0.1', {port}, true, 1, 1, 1);\n\
         for ($i = 0; $i < 5; $i++) echo @$m->set('k', 1) ? 'y' : 'n';"
    );
    assert_eq!(php().run(&page).text(), "nnnnn");
    assert_eq!(php().run(&page).text(), "nnnnn");
    let _server = Memcached::on(port, &[]);
    assert!(wait_until(Duration::from_secs(10), || php()
        .run(&page)
        .text()
        == "yyyyy"));
    php().run(&page).ok();
    let text = std::fs::read_to_string(&log).unwrap();
    let down: Vec<_> = text.lines().filter(|l| l.contains("is down")).collect();
    let up: Vec<_> = text
        .lines()
        .filter(|l| l.contains("answers again"))
        .collect();
    assert_eq!((down.len(), up.len()), (1, 1), "{text}");
    assert!(
        down[0].contains(&format!("127.0.0.1:{port}"))
            && down[0].contains("Connection refused (111)"),
        "{text}"
    );
    php().ini("memring.log_level", "off").run(&page).ok();
}

#[test]
fn a_state_dir_that_cannot_be_used_is_told_once_and_costs_nothing_else() {
    let server = Memcached::start();
    let directory = TempDir::new("state");
    let log = directory.path().join("php.log");
    let text = Php::new()
        .ini("memring.state_dir", "/nowhere")
        .ini("log_errors", 1)
        .ini("error_log", log.display())
        .run(&format!(
            "foreach ([1, 2] as $i) {{ $m = new Memcache; $m->addServer('127.0.0.1', {}); var_dump($m->set('k', $i)); }}",
            server.port()
        ))
        .ok();
    assert_eq!(text, "bool(true)\nbool(true)");
    let log = std::fs::read_to_string(&log).unwrap();
    assert_eq!(log.matches("/nowhere").count(), 1, "{log}");
    assert!(log.contains("memring.state_dir"), "{log}");
}

/// Of an owner that this process is not: by its number, and by what the system says where the file cannot even be opened.
#[test]
fn a_shared_file_of_another_owner_is_named_once_left_as_it_is_and_costs_no_value_and_no_session() {
    const NOBODY: u32 = 65534;
    if !rustix::process::geteuid().is_root() {
        harness::skip("a file is given to another user (that takes root)");
        return;
    }
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let urls: Vec<String> = nodes.iter().map(Memcached::address).collect();
    let directory = TempDir::new("owned");
    let log = directory.path().join("php.log");
    let php = || {
        Php::new()
            .ini("memring.state_dir", directory.path().display())
            .ini("session.save_handler", "memring")
            .ini("session.save_path", urls.join(","))
            .ini("session.use_cookies", 0)
            .ini("session.cache_limiter", "")
            .ini("log_errors", 1)
            .ini("error_log", log.display())
    };
    let visit = |n: u32| {
        format!(
            "$m = new Memcache; $m->addServer('127.0.0.1', {}); session_id('s'); session_start();
             echo json_encode([$m->get('k'), $_SESSION['n'] ?? false]);
             $m->set('k', {n}); $_SESSION['n'] = {n}; session_write_close();
             echo ' ', Memring\\status()['host']['shared'], ' ', json_encode(Memring\\status()['host']['file']);",
            nodes[0].port()
        )
    };
    let file = |php: Php| {
        let text = php.run("echo Memring\\status()['host']['file'];").ok();
        std::path::PathBuf::from(text)
    };
    let path = file(php());
    assert!(path.starts_with(directory.path()), "{}", path.display());
    assert!(php().run(&visit(1)).ok().starts_with("[false,false] user "));
    std::os::unix::fs::chown(&path, Some(NOBODY), Some(NOBODY)).unwrap();
    let before = std::fs::read(&path).unwrap();
    for n in 2..4 {
        let text = php().run(&visit(n)).ok();
        assert_eq!(text, format!("[{0},{0}] master null", n - 1));
    }
    assert!(std::fs::read(&path).unwrap() == before, "it was written to");
    let said = std::fs::read_to_string(&log).unwrap();
    for wanted in [
        "owned by user 65534, not 0",
        "share node health only with their own master",
        "Remove it, or set memring.state_dir",
    ] {
        assert!(said.contains(wanted), "{wanted} is not in {said}");
    }
    assert_eq!(
        said.matches("owned by user").count(),
        2,
        "once in each process: {said}"
    );
    std::fs::remove_file(&path).unwrap();
    assert!(php().run(&visit(4)).ok().starts_with("[3,3] user "));
}

#[test]
fn an_idle_connection_past_its_limit_is_replaced() {
    let server = Memcached::start();
    let connections = |limit: &str| {
        let before = server.stat("total_connections");
        Php::new()
            .ini("memring.persistent_idle", limit)
            .run(&format!(
                "$m = new Memcache; $m->addServer('127.0.0.1', {});\n\
                 for ($i = 0; $i < 3; $i++) {{ $m->set('k', 1); usleep(30000); }}",
                server.port()
            ))
            .ok();
        // The question itself is a connection, too.
        server.stat("total_connections") - before - 1
    };
    assert_eq!(connections(""), 1);
    assert_eq!(connections("0.01"), 3);
}

#[test]
fn a_scheme_that_is_not_allowed_is_refused_by_name() {
    let text = Php::new()
        .ini("memring.allow_schemes", "tcp")
        .run("$m = new Memcache; var_dump(@$m->addServer('unix:///run/mc.sock', 0)); echo error_get_last()['message'];")
        .ok();
    assert!(text.starts_with("bool(false)"), "{text}");
    assert!(
        text.contains("unix") && text.contains("memring.allow_schemes"),
        "{text}"
    );
    let text = Php::new()
        .ini("memring.allow_schemes", "tcp")
        .run("$m = new Memcache; var_dump(@$m->addServer('tcp://127.0.0.1?database=0')); echo error_get_last()['message'];")
        .ok();
    assert!(
        text.starts_with("bool(false)") && text.contains("redis is not among"),
        "{text}"
    );
    let text = Php::new()
        .ini("memring.allow_schemes", "tcp,redis")
        .run("$m = new Memcache; var_dump(@$m->addServer('rediss://127.0.0.1', 6379)); echo error_get_last()['message'];")
        .ok();
    assert!(
        text.starts_with("bool(false)") && text.contains("Add rediss"),
        "{text}"
    );
}
