//! Processes: a forked child never speaks on its parent's connection, and any number of open files is fine.

use harness::{Memcached, Php, Proxy, TempDir};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Per connection: the tags of the keys (`p-7` has the tag `p`) that passed on it.
fn tags(proxy: &Proxy) -> BTreeMap<usize, BTreeSet<String>> {
    let mut tags: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
    for event in proxy
        .events()
        .iter()
        .filter(|event| event.from == harness::proxy::From::Client)
    {
        let text = String::from_utf8_lossy(&event.bytes).to_string();
        for key in text
            .split_ascii_whitespace()
            .filter_map(|word| word.split_once('-'))
        {
            tags.entry(event.connection)
                .or_default()
                .insert(key.0.to_string());
        }
    }
    tags
}

const FORK: &str = r#"
$m = new Memcache; $m->addServer('127.0.0.1', (int)getenv('PORT'), (bool)getenv('PERSISTENT'));
function work($m, $tag) {
    $bad = 0;
    for ($i = 0; $i < 300; $i++) { $m->set("$tag-$i", "$tag:$i"); if ($m->get("$tag-$i") !== "$tag:$i") $bad++; }
    return $bad;
}
$bad = work($m, 'parent');
$children = [];
for ($c = 0; $c < 4; $c++) {
    $pid = pcntl_fork();
    if ($pid == 0) exit(work($m, "child$c") ? 1 : 0);
    $children[] = $pid;
}
$bad += work($m, 'parent');
foreach ($children as $pid) { pcntl_waitpid($pid, $status); $bad += pcntl_wexitstatus($status); }
$bad += work($m, 'parent'); // the children are gone: their end must not have touched our connection
echo $bad;
"#;

#[test]
fn a_forked_child_opens_connections_of_its_own() {
    for persistent in ["", "1"] {
        let server = Memcached::start();
        let proxy = Proxy::start(server.port());
        let php = Php::new()
            .env("PORT", proxy.port())
            .env("PERSISTENT", persistent);
        assert_eq!(
            php.run(FORK).ok(),
            "0",
            "wrong answers, persistent: {persistent:?}"
        );
        proxy.settle(Duration::from_millis(30));
        let tags = tags(&proxy);
        let mixed: Vec<_> = tags.values().filter(|tags| tags.len() > 1).collect();
        assert!(
            mixed.is_empty(),
            "processes shared a connection, persistent: {persistent:?}: {mixed:?}"
        );
        let parents = tags.values().filter(|tags| tags.contains("parent")).count();
        assert_eq!(
            parents, 1,
            "the parent kept one connection, persistent: {persistent:?}"
        );
        assert_eq!(
            tags.len(),
            5,
            "one connection per process, persistent: {persistent:?}"
        );
    }
}

#[test]
fn any_number_of_open_files_is_fine() {
    // The soft limit is often 1024; children inherit what we set here.
    let mut limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|maximum| maximum < 2000) {
        harness::skip("this machine allows fewer than 2000 open files");
        return;
    }
    if limit.current.is_some_and(|current| current < 2000) {
        limit.current = Some(2000);
        rustix::process::setrlimit(rustix::process::Resource::Nofile, limit).unwrap();
    }
    let servers = [Memcached::start(), Memcached::start()];
    let text = Php::new().run(&format!(
        "for ($i = 0; $i < 1500; $i++) $files[] = fopen('/dev/null', 'r');\n\
         $m = new Memcache; $m->addServer('127.0.0.1', {}); $m->addServer('127.0.0.1', {});\n\
         for ($i = 0; $i < 20; $i++) $all[\"k$i\"] = $i;\n\
         echo json_encode([count(array_filter($files)), $m->set($all), $m->get(array_keys($all)) == $all, $m->get('k3')]);",
        servers[0].port(),
        servers[1].port()
    ));
    assert_eq!(text.ok(), "[1500,true,true,3]");
}

/// What it stored would make the parent the one whose turn was taken.
#[test]
fn a_forked_child_leaves_the_session_to_its_parent_that_has_it_open() {
    let servers = [(); 2].map(|()| Memcached::start());
    let state = TempDir::new("fork");
    let list = format!(
        "tcp://{}, tcp://{}",
        servers[0].address(),
        servers[1].address()
    );
    for mode in ["fenced", "single"] {
        let php = crate::sessions::with_sessions(Php::new(), &format!("{list}?mode={mode}"))
            .ini("session.save_handler", "memring")
            .ini("memring.state_dir", state.path().display());
        let script = format!(
            "session_id('{mode}'); session_start(); $_SESSION['n'] = 'parent';
             if (($pid = pcntl_fork()) === 0) {{ $_SESSION['n'] = 'child'; session_write_close(); exit(0); }}
             pcntl_waitpid($pid, $status); $_SESSION['done'] = true; session_write_close();
             session_start(); echo json_encode($_SESSION);"
        );
        let text = php.run(&script).text();
        assert!(text.contains("before pcntl_fork()"), "{mode}: {text}");
        assert!(
            text.ends_with("{\"n\":\"parent\",\"done\":true}"),
            "{mode}: {text}"
        );
    }
}
