//! `memring tend` beside a cache with copies: what a node missed is gone from it before anybody asks it.

use crate::companion::{Tend, run};
use harness::{Memcached, Php, TempDir, wait_until};
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

fn config(directory: &TempDir, nodes: &[Memcached], mode: &str) -> String {
    let list: Vec<String> = nodes
        .iter()
        .map(|node| format!("\"memcached://{}?timeout=0.4\"", node.address()))
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
        let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
        let directory = TempDir::new("tended");
        let config = config(&directory, &nodes, mode);
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
            .filter(|(_, bytes)| bytes.windows(3).any(|part| part == b"old"));
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
}

#[test]
fn status_of_a_user_who_cannot_see_what_nodes_missed_says_so_and_leaves_no_file() {
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
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
        let file = state.file(&format!("memring-{user}.3"), "");
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
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("untended");
    let own = config(&directory, &nodes, "sync");
    let strangers: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
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
        nodes[0].stat("curr_items") > 0
    }));
}

#[test]
fn a_worker_that_reads_all_the_while_is_shown_nothing_old_by_a_node_that_is_back() {
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("all-the-while");
    let host = Host::new(&config(&directory, &nodes, "async"));
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
