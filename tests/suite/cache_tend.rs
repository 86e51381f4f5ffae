//! `memring tend` beside a cache with copies: what a node missed is gone from it before anybody asks it.

use crate::cache_copies::kinds;
use crate::companion::{Tend, run};
use harness::{Memcached, Php, Redis, Server, TempDir, wait_until};
use memring_pool::shared::LAYOUT;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(40);

/// A host: what its processes share, and PHP that knows the pools of `path`.
struct Host {
    state: TempDir,
    config: String,
}

impl Host {
    fn new(config: &str) -> Host {
        Host {
            state: TempDir::new("host"),
            config: config.to_owned(),
        }
    }

    fn run(&self, script: &str) -> String {
        Php::new()
            .ini("memring.config_file", &self.config)
            .ini("memring.state_dir", self.state.path().display())
            .run(&format!(
                "$m = new Memcache; $m->addServer('pool:cache'); {script}"
            ))
            .ok()
    }

    fn tend(&self, more: &[&str]) -> Tend {
        let state = self.state.path().display().to_string();
        let mut words = vec!["--config", &self.config];
        words.extend(more);
        Tend::beside(&state, &words)
    }
}

fn memcached(count: usize) -> Vec<Server> {
    let node = |_| Server::Memcached(Memcached::start());
    (0..count).map(node).collect()
}

fn redis(count: usize) -> Vec<Server> {
    (0..count).map(|_| Server::Redis(Redis::start())).collect()
}

fn config(directory: &TempDir, nodes: &[Server], mode: &str) -> String {
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("\"{}://{}?timeout=0.4\"", node.scheme(), node.address()))
        .collect();
    let list = list.join(", ");
    let text = format!(
        "[pool.cache]\nnodes = [{list}]\nmode = \"{mode}\"\n[pool.other]\nnodes = [{list}]\nmode = \"fenced\"\n"
    );
    directory.file("memring.toml", text).display().to_string()
}

#[test]
fn a_node_that_is_back_gives_up_what_it_missed_without_a_request_and_no_host_reads_it_old() {
    for mode in ["sync", "async"] {
        kinds().iter().for_each(|nodes| gives_up(nodes, mode));
    }
}

fn gives_up(nodes: &[Server], mode: &str) {
    let directory = TempDir::new("tended");
    let config = config(&directory, nodes, mode);
    let (writer, reader) = (Host::new(&config), Host::new(&config));
    let (tend, other) = (writer.tend(&[]), reader.tend(&[]));
    for tend in [&tend, &other] {
        tend.says("pool cache: 3 of 3 nodes answer");
    }
    let fill = |value: &str| {
        format!(
            "for ($i = 0; $i < 60; $i++) @$m->set(\"k$i\", '{value}') || die('not stored'); echo 'all';"
        )
    };
    assert_eq!(writer.run(&fill("old")), "all");
    nodes[0].freeze();
    for tend in [&tend, &other] {
        tend.says(&format!("{} is out", nodes[0].address()));
    }
    assert_eq!(writer.run(&fill("new")), "all");
    let state = writer.state.path().display().to_string();
    let status = |more: &[&str]| {
        let mut words = vec!["status", "--config", &config, "--state-dir", &state];
        words.extend(more);
        words.push("cache");
        run(&words)
    };
    let (code, text, errors) = status(&[]);
    assert_eq!(code, 1, "{errors}");
    assert!(
        text.contains("pool cache, a cache") && text.contains("Network timeout"),
        "{text}"
    );
    assert!(text.contains("safe to touch the next node: no"), "{text}");
    let (_, text, _) = status(&["--json"]);
    assert!(
        text.contains(&format!("\"mode\":\"{mode}\",\"safe\":false")),
        "{text}"
    );
    let kept = text
        .split("\"missed_keys\":")
        .nth(1)
        .and_then(|rest| rest.split(',').next());
    assert!(kept.is_some_and(|keys| keys != "0"), "{text}");
    nodes[0].resume();
    // Whose requests end here: only tend is left on that host.
    tend.says("missed keys were given up by their nodes");
    other.says("answers again");
    let old = reader.run(
        "$old = 0; for ($i = 0; $i < 60; $i++) $old += @$m->get(\"k$i\") !== 'new'; echo $old;",
    );
    assert_eq!(old, "0", "{mode}: {}", tend.log());
    let old = (0..60)
        .filter_map(|n| nodes[0].stored(&format!("k{n}")))
        .filter(|bytes| bytes.windows(3).any(|part| part == b"old"));
    assert_eq!(old.count(), 0, "{mode}");
    let (code, _, errors) = run(&[
        "tend",
        "--once",
        "--config",
        &config,
        "--state-dir",
        &writer.state.path().display().to_string(),
        "cache",
    ]);
    assert_eq!(code, 0, "{errors}");
    let (code, text, _) = status(&["--json"]);
    assert!(code == 0 && text.contains("\"safe\":true"), "{text}");
}

#[test]
fn status_of_a_user_who_cannot_see_what_nodes_missed_says_so_and_leaves_no_file() {
    let nodes = memcached(2);
    let directory = TempDir::new("other-user");
    let config = config(&directory, &nodes, "sync");
    let state = TempDir::new("state");
    let dir = state.path().display().to_string();
    let status = |more: &[&str]| {
        let words = ["status", "--config", &config, "--state-dir", &dir, "cache"];
        run(&[&words, more].concat())
    };
    let files = || std::fs::read_dir(state.path()).unwrap().count();
    let (code, text, errors) = status(&[]);
    assert_eq!((code, errors.as_str(), files()), (0, "", 0), "{text}");
    // A user with a name, and one without.
    for (user, name) in [(65534, "nobody"), (54_321, "user 54321")] {
        let file = state.file(&format!("memring-{user}.{LAYOUT}"), "");
        let (code, text, errors) = status(&[]);
        assert_eq!((code, files()), (1, 1), "{text}");
        assert!(
            errors.contains(&dir) && errors.contains(&format!("is of {name}. Run")),
            "{errors}"
        );
        assert!(
            text.contains("unknown") && text.contains("next node: no"),
            "{text}"
        );
        let (_, text, _) = status(&["--json"]);
        assert!(
            text.contains("\"missed_keys\":null") && text.contains("\"safe\":false"),
            "{text}"
        );
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn a_pool_that_tend_was_not_asked_to_look_after_is_probed_by_its_workers() {
    for nodes in [memcached(3), redis(3)] {
        is_probed(nodes);
    }
}

fn is_probed(mut nodes: Vec<Server>) {
    let directory = TempDir::new("untended");
    let own = config(&directory, &nodes, "sync");
    let strangers = memcached(2);
    let elsewhere = TempDir::new("elsewhere");
    let theirs = config(&elsewhere, &strangers, "sync");
    let host = Host::new(&own);
    let state = host.state.path().display().to_string();
    let tend = Tend::beside(&state, &["--config", &theirs, "cache"]);
    tend.says("2 of 2 nodes answer");
    nodes[0].kill();
    let set =
        "for ($i = 0; $i < 60; $i++) @$m->set(\"k$i\", 'v') || die('not stored'); echo 'all';";
    assert_eq!(host.run(set), "all");
    nodes[0].restart();
    assert!(wait_until(SOON, || {
        assert_eq!(host.run(set), "all");
        (0..60).any(|n| nodes[0].stored(&format!("k{n}")).is_some())
    }));
}

#[test]
fn a_worker_that_reads_all_the_while_is_shown_nothing_old_by_a_node_that_is_back() {
    for nodes in [memcached(2), redis(2)] {
        is_shown_nothing_old(&nodes);
    }
}

fn is_shown_nothing_old(nodes: &[Server]) {
    let directory = TempDir::new("all-the-while");
    let host = Host::new(&config(&directory, nodes, "async"));
    let fill = |value: &str| {
        format!("for ($i = 0; $i < 500; $i++) @$m->set(\"k$i\", '{value}'); echo 'all';")
    };
    assert_eq!(host.run(&fill("old")), "all");
    nodes[0].freeze();
    assert_eq!(host.run(&fill("new")), "all");
    let (ready, port) = (directory.path().join("ready"), nodes[0].port());
    let read = format!(
        "$old = 0; $end = microtime(true) + 20; $more = 3; touch('{}');
        while ($more > 0 && microtime(true) < $end) {{
            $more -= $m->getServerStatus('127.0.0.1', {port}) ? 1 : 0;
            for ($i = 0; $i < 500; $i++) $old += @$m->get(\"k$i\") === 'old';
        }}
        echo $old, ' ', $more;",
        ready.display()
    );
    let seen = std::thread::scope(|scope| {
        let reader = scope.spawn(|| host.run(&read));
        assert!(wait_until(SOON, || ready.exists()));
        nodes[0].resume();
        reader.join().unwrap()
    });
    assert_eq!(seen, "0 0");
}

/// Keys of four places each, more than the host's memory has places for.
const TOO_MANY: usize = 17_000;

#[test]
fn a_node_that_missed_more_keys_than_a_host_can_keep_is_emptied_and_one_of_sessions_gets_a_full_pass()
 {
    for nodes in [memcached(3), redis(3)] {
        misses_too_much(&nodes);
    }
}

fn misses_too_much(nodes: &[Server]) {
    let directory = TempDir::new("overflow");
    let host = Host::new(&config(&directory, nodes, "sync"));
    let fill = |value: &str| {
        format!("for ($i = 0; $i < 90; $i++) @$m->set(\"k$i\", '{value}') || die('not stored');")
    };
    let sessions = |work: &str| {
        host.run(&format!(
            "ini_set('session.save_handler', 'memring'); ini_set('session.save_path', 'pool:other');
            ini_set('session.use_cookies', 0); ini_set('session.cache_limiter', ''); ob_start();
            for ($i = 0; $i < 20; $i++) {{ session_id(\"s$i\"); session_start(); {work} session_write_close(); $_SESSION = []; }}"
        ))
    };
    let state = host.state.path().display().to_string();
    let tend = host.tend(&["other"]);
    let safe = || {
        let trusted = || run(&["status", "--config", &host.config, "other"]).0 == 0;
        assert!(wait_until(SOON, trusted), "{}", tend.log());
    };
    safe();
    // Only a node that it saw well does tend give single keys.
    tend.says(&format!("{} is trusted", nodes[0].address()));
    sessions("$_SESSION['v'] = 'old';");
    // While there is room the node gets what it missed, and no more.
    nodes[0].freeze();
    tend.says("does not answer");
    sessions("$_SESSION['v'] = 'mid';");
    nodes[0].resume();
    safe();
    assert_eq!(
        tend.said("and goes on with what it had"),
        1,
        "{}",
        tend.log()
    );
    host.run(&fill("old"));
    host.run("$m->set('untouched', 'v') || die();");
    let holds = |key: &str| nodes[0].stored(key).is_some();
    let (kept, gone): (Vec<String>, Vec<String>) =
        (0..90).map(|n| format!("k{n}")).partition(|key| holds(key));
    assert!(!kept.is_empty() && !gone.is_empty());
    nodes[0].freeze();
    let counters = || {
        let text = host.run("$c = Memring\\status(); echo $c['host']['missed_keys_kept'], ' ', $c['counters']['missed_overflow'];");
        let (kept, over) = text.split_once(' ').unwrap();
        (kept.parse::<u64>().unwrap(), over.parse::<u64>().unwrap())
    };
    // Of these half are the node's.
    host.run(&format!(
        "$pad = str_repeat('x', 236);
        for ($i = 0; $i < 2 * {TOO_MANY}; $i += 500) {{
            $some = [];
            for ($n = $i; $n < $i + 500; $n++) $some[\"$n-$pad\"] = 1;
            @$m->set($some);
        }}"
    ));
    let (keys, over) = counters();
    assert!(keys > 10_000 && over > 0, "{keys} kept, {over} not");
    host.run(&fill("new"));
    sessions("$_SESSION['v'] = 'new';");
    nodes[0].resume();
    // What could not be kept of sessions their node is given by a full pass, with all the rest.
    safe();
    assert_eq!(
        tend.said("and goes on with what it had"),
        1,
        "{}",
        tend.log()
    );
    for n in 0..20 {
        let session = nodes[0].stored(&format!("s{n}"));
        let new = session.is_some_and(|value| value.ends_with(b"v|s:3:\"new\";"));
        assert!(new, "s{n}: {}", tend.log());
    }
    let (code, _, log) = run(&[
        "tend",
        "--once",
        "--config",
        &host.config,
        "--state-dir",
        &state,
        "cache",
    ]);
    assert_eq!(code, 0, "{log}");
    let wanted = "a node that missed a flush, or more keys than can be kept, was emptied";
    assert!(log.contains(wanted), "{log}");
    for key in &kept {
        assert!(!holds(key), "{key}");
    }
    assert_eq!(counters().0, 0);
    let new = host.run(
        "$new = 0; for ($i = 0; $i < 90; $i++) $new += $m->get(\"k$i\") === 'new'; echo $new;",
    );
    assert_eq!(new, "90");
}
