//! The program memring as it is run beside PHP: tend, status, trust, on real nodes.

use crate::copies::{Host, Place, caches, pools, value};
use harness::process::Process;
use harness::proxy::{Fault, From};
use harness::{Memcached, Proxy, TempDir, wait_until, workspace};
use memring_pool::replica::{Closed, Found, Founded};
use rustix::process::Signal;
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);

/// The program, built current once per test run.
pub(crate) fn program() -> Command {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    Command::new(PROGRAM.get_or_init(|| {
        let status = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--quiet", "-p", "memring-companion"])
            .current_dir(workspace())
            .status()
            .expect("run cargo");
        assert!(
            status.success(),
            "`cargo build -p memring-companion` failed; its messages stand above"
        );
        let target = std::env::var_os("CARGO_TARGET_DIR")
            .map_or_else(|| workspace().join("target"), PathBuf::from);
        target.join("debug/memring")
    }))
}

/// Runs it to its end: exit code, stdout, stderr.
pub(crate) fn run(arguments: &[&str]) -> (i32, String, String) {
    let output = program()
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .expect("run memring");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().expect("an exit code"),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// A running `memring tend` that looks ten times a second and shares its marks with nobody else.
pub(crate) struct Tend {
    process: Process,
    directory: TempDir,
}

impl Tend {
    pub(crate) fn of(arguments: &[&str]) -> Tend {
        let directory = TempDir::new("tend");
        let state = directory.path().display().to_string();
        Tend::in_directory(directory, &state, arguments)
    }

    /// One that shares its marks with whoever has `state` for a state directory.
    pub(crate) fn beside(state: &str, arguments: &[&str]) -> Tend {
        Tend::in_directory(TempDir::new("tend"), state, arguments)
    }

    fn in_directory(directory: TempDir, state: &str, arguments: &[&str]) -> Tend {
        let log = std::fs::File::create(directory.path().join("log")).expect("a log file");
        let process = Process::start(
            program()
                .args(["tend", "--interval", "0.1", "--state-dir", state])
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log),
        )
        .expect("start memring tend");
        Tend { process, directory }
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("the log")
    }

    /// How often `text` was said.
    pub(crate) fn said(&self, text: &str) -> usize {
        self.log().matches(text).count()
    }

    /// The most memory it ever had, KiB (proc(5), VmHWM).
    pub(crate) fn peak(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.pid());
        let status = std::fs::read_to_string(status).expect("its status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        number.expect("VmHWM")
    }

    pub(crate) fn says(&self, text: &str) {
        assert!(
            wait_until(SOON, || self.said(text) > 0),
            "tend never said \"{text}\", but:\n{}",
            self.log()
        );
    }

    /// Nodes that are marked as failed in what this user's processes share: 1,024 times eight
    /// words after 80 words of head, the second of which is the time of the failure.
    fn marked(&self) -> usize {
        let entries = std::fs::read_dir(self.directory.path()).expect("the state directory");
        let region = entries
            .flatten()
            .find(|entry| entry.file_name().to_string_lossy().starts_with("memring-"))
            .expect("a region");
        let bytes = std::fs::read(region.path()).expect("the region");
        let slots = bytes[640..].chunks_exact(64).take(1024);
        slots.filter(|slot| slot[8..16] != [0; 8]).count()
    }
}

fn list(nodes: &[impl Place]) -> String {
    let urls: Vec<String> = nodes.iter().map(Place::url).collect();
    urls.join(",")
}

pub(crate) fn is_safe(list: &str) -> bool {
    run(&["status", "--list", list]).0 == 0
}

fn put(node: &Memcached, key: &str, text: &str) {
    let request = format!("set {key} 0 0 {}\r\n{text}\r\n", text.len());
    assert_eq!(node.raw(request, "\r\n"), b"STORED\r\n");
}

fn record(node: &Memcached, key: &str) -> String {
    let stored = node.stored(key).map(|(_, bytes)| bytes);
    String::from_utf8(stored.unwrap_or_default()).expect("a record is text")
}

#[test]
fn each_node_in_turn_killed_and_back_empty_is_mended_by_tend_and_no_session_is_lost() {
    for mut nodes in pools() {
        let list = list(&nodes);
        let tend = Tend::of(&["--list", &list]);
        assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
        assert_eq!(tend.said("the pool is new"), 1, "{}", tend.log());
        let mut host = Host::of(&nodes, 1);
        assert_eq!(host.found(), Founded::Nothing);
        let ids: Vec<String> = (0..60).map(|n| format!("s{n}")).collect();
        for id in &ids {
            assert_eq!(host.write(id, "0"), Closed::Done { copies: 3 });
        }
        host.destroy("s59");
        for (turn, node) in nodes.iter_mut().enumerate() {
            let who = node.address();
            node.kill();
            tend.says(&format!("{who} does not answer: "));
            // What is written while a node is away is on two, and it is listed by them.
            for id in &ids[..20] {
                let stored = host.write(id, &(turn + 1).to_string());
                assert_eq!(stored, Closed::Done { copies: 2 });
            }
            assert!(!is_safe(&list));
            node.restart();
            tend.says(&format!("{who} answers again and "));
            assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
        }
        for (n, id) in ids[..59].iter().enumerate() {
            let now = if n < 20 { "3" } else { "0" };
            assert_eq!(host.read(id), value(now), "{id}");
        }
        assert_eq!(host.read("s59"), Found::Nothing);
        // Each change was told once.
        let log = tend.log();
        for node in &nodes {
            let line = format!("{} does not answer", node.address());
            assert_eq!(log.matches(&line).count(), 1, "{log}");
        }
    }
}

#[test]
fn a_node_that_answers_again_is_marked_up_for_the_whole_host() {
    let mut nodes = [Memcached::start(), Memcached::start()];
    let tend = Tend::of(&["--list", &list(&nodes)]);
    tend.says("is trusted");
    assert_eq!(tend.marked(), 0);
    nodes[1].kill();
    assert!(wait_until(SOON, || tend.marked() == 1), "{}", tend.log());
    nodes[1].restart();
    assert!(wait_until(SOON, || tend.marked() == 0), "{}", tend.log());
}

#[test]
fn a_node_that_hung_is_mended_when_it_goes_on_with_what_it_had() {
    for nodes in pools() {
        let list = list(&nodes);
        let tend = Tend::of(&["--list", &list]);
        assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
        let mut host = Host::of(&nodes, 1);
        host.write("a", "old");
        host.write("b", "old");
        nodes[0].freeze();
        assert_eq!(host.write("a", "new"), Closed::Done { copies: 2 });
        assert_eq!(host.destroy("b"), Closed::Done { copies: 2 });
        tend.says(&format!(
            "{} does not answer: Network timeout",
            nodes[0].address()
        ));
        nodes[0].resume();
        tend.says("answers again and missed writes, says ");
        assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
        nodes[1].freeze();
        let mut other = Host::of(&nodes, 2);
        assert_eq!(other.read("a"), value("new"));
        assert_eq!(other.read("b"), Found::Nothing);
        nodes[1].resume();
    }
}

#[test]
fn status_tells_each_state_and_its_exit_code_is_zero_for_trusted_alone() {
    let mut nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    let list = list(&nodes);
    let status = |json: bool| {
        let mut arguments = vec!["status", "--list", &list];
        arguments.extend(json.then_some("--json"));
        let (code, text, errors) = run(&arguments);
        assert_eq!(errors, "");
        (code, text)
    };
    let row = |text: &str, node: &Memcached| -> Vec<String> {
        let address = node.address();
        let mut lines = text.lines().map(str::split_whitespace);
        let found = lines.find_map(|mut words| (words.next()? == address).then_some(words));
        found.expect("a row").map(str::to_owned).collect()
    };
    let (code, text) = status(false);
    assert_eq!(code, 1);
    assert_eq!(row(&text, &nodes[0]), ["yes", "bare", "-", "-", "-"]);
    assert!(
        text.ends_with("safe to touch the next node: no\n"),
        "{text}"
    );

    put(&nodes[0], "~r", "memring1 trusted 17 5f3a09c2d81e6b47 3");
    put(&nodes[1], "~r", "memring1 trusted 1 1 3");
    put(&nodes[2], "~r", "memring1 trusted 4095 2 3");
    let (code, text) = status(false);
    assert_eq!(code, 0);
    assert_eq!(row(&text, &nodes[0]), ["yes", "trusted", "17", "3", "-"]);
    assert!(
        text.ends_with("safe to touch the next node: yes\n"),
        "{text}"
    );
    let (code, text) = status(true);
    let json: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((code, &json["safe"]), (0, &Value::Bool(true)));
    assert_eq!(json["pools"][0]["nodes"][0]["id"], "5f3a09c2d81e6b47");

    put(&nodes[0], "~r", "memring1 joining 17 5f3a09c2d81e6b47 3");
    let (code, text) = status(false);
    assert_eq!(code, 1);
    assert_eq!(row(&text, &nodes[0])[..3], ["yes", "joining", "17"]);

    let listing = format!(
        "memring1 trusted 17 5f3a09c2d81e6b47 3 -{} web4 1767225600",
        nodes[1].address()
    );
    put(&nodes[0], "~r", &listing);
    let (code, text) = status(false);
    assert_eq!(code, 1);
    assert_eq!(row(&text, &nodes[0])[..2], ["yes", "trusted"]);
    assert_eq!(row(&text, &nodes[1])[..2], ["yes", "absent"]);
    let by = format!(
        "{} (host web4, since 2026-01-01 00:00:00 UTC)",
        nodes[0].address()
    );
    assert!(text.contains(&by), "{text}");
    let json: Value = serde_json::from_str(&status(true).1).expect("JSON");
    let node = &json["pools"][0]["nodes"][1];
    assert_eq!(
        (&node["trust"], &node["absent_by"][0]["host"]),
        (&"absent".into(), &"web4".into())
    );
    assert_eq!(node["absent_by"][0]["since"], 1_767_225_600);

    put(&nodes[0], "~r", "memring2 trusted 17 5f3a09c2d81e6b47 3");
    nodes[2].kill();
    let (code, text) = status(false);
    assert_eq!(code, 1);
    assert_eq!(row(&text, &nodes[0])[..2], ["yes", "strange"]);
    assert_eq!(row(&text, &nodes[2])[..2], ["no", "silent"]);
    assert!(text.contains("Connection refused"), "{text}");
    let json: Value = serde_json::from_str(&status(true).1).expect("JSON");
    assert_eq!(json["pools"][0]["nodes"][2]["answers"], false);
}

/// The first answers just before it is made to join for its old data, the second when it has said so no longer.
#[test]
fn a_node_that_joins_while_status_asks_is_not_called_safe() {
    let nodes = [Memcached::start(), Memcached::start()];
    let proxies = nodes.each_ref().map(|node| Proxy::start(node.port()));
    let names = proxies
        .each_ref()
        .map(|p| format!("127.0.0.1:{}", p.port()));
    let list = names
        .each_ref()
        .map(|name| format!("tcp://{name}?timeout=5"));
    let second = "memring1 trusted 1 2 0";
    put(&nodes[0], "~r", "memring1 trusted 1 1 0");
    put(
        &nodes[1],
        "~r",
        &format!("{second} -{} web4 1767225600", names[0]),
    );
    proxies[1].fault(Fault::DelayRequests(Duration::from_millis(300)));
    let (code, text, _) = std::thread::scope(|scope| {
        let status = scope.spawn(|| run(&["status", "--list", &list.join(",")]));
        let answered = || proxies[0].events().iter().any(|e| e.from == From::Server);
        assert!(wait_until(SOON, answered), "nobody asks");
        put(&nodes[0], "~r", "memring1 joining 2 3 0");
        put(&nodes[1], "~r", second);
        status.join().expect("status ends")
    });
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("joining"), "{text}");
}

#[test]
fn once_mends_what_can_be_mended_and_its_exit_code_says_whether_that_was_all() {
    for mut nodes in pools() {
        let list = list(&nodes);
        let state = TempDir::new("once");
        let state = state.path().display().to_string();
        let once = || run(&["tend", "--once", "--state-dir", &state, "--list", &list]);
        let (code, out, log) = once();
        assert_eq!((code, out.as_str()), (0, ""), "{log}");
        assert!(log.contains("the pool is new"), "{log}");
        let mut host = Host::of(&nodes, 1);
        host.write("s", "kept");
        nodes[2].kill();
        let (code, _, log) = once();
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("does not answer"), "{log}");
        nodes[2].restart();
        let (code, _, log) = once();
        assert_eq!(code, 0, "{log}");
        // The one that was empty vouches for it with any other.
        nodes[0].kill();
        assert_eq!(host.read("s"), value("kept"));
    }
}

#[test]
fn a_record_of_an_unknown_format_is_reported_and_never_overwritten() {
    let nodes = [Memcached::start(), Memcached::start(), Memcached::start()];
    let list = list(&nodes);
    let strange = "memring2 whatever comes later";
    put(&nodes[0], "~r", "memring1 joining 17 5f3a09c2d81e6b47 3");
    put(&nodes[1], "~r", strange);
    let tend = Tend::of(&["--list", &list]);
    tend.says(&format!(
        "{} has a record of an unknown format",
        nodes[1].address()
    ));
    tend.says("cannot be mended while");
    let (code, _, log) = run(&[
        "tend",
        "--once",
        "--list",
        &list,
        "--state-dir",
        "/nonexistent",
    ]);
    assert_eq!(code, 1);
    assert!(log.contains("/nonexistent/"), "{log}");
    let (code, _, log) = run(&["trust", "--list", &list]);
    assert_eq!(code, 1, "{log}");
    assert_eq!(record(&nodes[1], "~r"), strange);
    assert_eq!(
        record(&nodes[0], "~r"),
        "memring1 joining 17 5f3a09c2d81e6b47 3"
    );
    assert_eq!(record(&nodes[2], "~r"), "");
    // It was a mistake: as soon as it is gone, all goes its way.
    nodes[1].raw("delete ~r\r\n", "\r\n");
    assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
}

#[test]
fn a_new_pool_with_a_silent_node_is_founded_by_a_persons_word_only() {
    for mut nodes in caches() {
        let list = list(&nodes);
        // Before it went away it was trusted, and had a session.
        put(&nodes[2], "~r", "memring1 trusted 17 5f3a09c2d81e6b47 0");
        put(&nodes[2], "s", "old");
        nodes[2].freeze();
        let tend = Tend::of(&["--list", &list]);
        tend.says("the pool is not founded: ");
        tend.says(&format!("memring trust --list '{list}'"));
        assert_eq!(record(&nodes[0], "~r"), "");
        let (code, text, errors) = run(&["trust", "--list", &list]);
        assert_eq!((code, errors.as_str()), (0, ""), "{text}");
        assert!(
            text.contains("is founded: ") && text.contains("is noted as absent"),
            "{text}"
        );
        for node in &nodes[..2] {
            let record = record(node, "~r");
            assert!(record.starts_with("memring1 trusted "), "{record}");
            assert!(
                record.contains(&format!("-{} ", nodes[2].address())),
                "{record}"
            );
        }
        let mut host = Host::of(&nodes, 1);
        assert_eq!(host.write("s", "new"), Closed::Done { copies: 2 });
        nodes[2].resume();
        assert!(wait_until(SOON, || is_safe(&list)), "{}", tend.log());
        assert_eq!(host.read("s"), value("new"));
        // It exists now, so nobody's word founds it again.
        nodes[2].kill();
        let (code, _, errors) = run(&["trust", "--list", &list]);
        assert_eq!(code, 1);
        assert!(
            errors.contains("is not new") && errors.contains("nothing was changed"),
            "{errors}"
        );
    }
}

#[test]
fn pools_of_the_file_have_records_of_their_own_and_a_changed_file_is_taken_at_once() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("file");
    let pool = |name: &str, count: usize, mode: &str| {
        let nodes: Vec<String> = nodes[..count]
            .iter()
            .map(|node| format!("\"tcp://{}\"", node.address()))
            .collect();
        format!(
            "[pool.{name}]\nnodes = [{}]\nmode = \"{mode}\"\n",
            nodes.join(", ")
        )
    };
    let text = pool("one", 2, "fenced") + &pool("cache", 3, "single");
    let path = directory.file("memring.toml", &text);
    let config = path.display().to_string();
    let status = |name: &str| run(&["status", "--config", &config, name]);
    let tend = Tend::of(&["--config", &config]);
    assert!(wait_until(SOON, || status("one").0 == 0), "{}", tend.log());
    assert_eq!(tend.said("pool cache"), 0);
    assert!(record(&nodes[0], "~r:one").starts_with("memring1 trusted "));
    assert_eq!(record(&nodes[0], "~r"), "");
    let (code, _, errors) = status("cache");
    assert_eq!(code, 2);
    assert!(
        errors.contains("keeps no copies") && errors.contains("mode = \"fenced\""),
        "{errors}"
    );
    let (code, _, errors) = status("nobody");
    assert_eq!(code, 2);
    assert!(errors.contains("pool:cache, pool:one"), "{errors}");

    // A mistake: said once, and the pools are tended as before.
    std::fs::write(&path, "[pool.one\n").unwrap();
    tend.says("The pools are tended as they were");
    std::fs::write(&path, pool("one", 2, "fenced") + &pool("two", 3, "fenced")).unwrap();
    tend.says("the pools are tended as it says now");
    assert!(wait_until(SOON, || status("two").0 == 0), "{}", tend.log());
    let (code, text, _) = run(&["status", "--config", &config]);
    assert_eq!(code, 0, "{text}");
    assert!(
        text.contains("pool one\n") && text.contains("pool two\n"),
        "{text}"
    );
}

#[test]
fn a_node_that_does_not_list_its_keys_is_named_with_the_remedy() {
    let nodes = [Memcached::with(&["-X"]), Memcached::start()];
    let list = list(&nodes);
    put(&nodes[0], "~r", "memring1 trusted 17 5f3a09c2d81e6b47 0");
    let (code, _, log) = run(&["tend", "--once", "--list", &list]);
    assert_eq!(code, 1, "{log}");
    let wanted = format!("{} does not list its keys (", nodes[0].address());
    assert!(log.contains(&wanted) && log.contains("without -X"), "{log}");
}

#[test]
fn several_hosts_that_tend_one_pool_do_not_keep_each_other_from_the_end() {
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let list = list(&nodes);
    assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
    let mut host = Host::of(&nodes, 2);
    for n in 0..500 {
        host.write(&format!("s{n}"), "x");
    }
    nodes[1].kill();
    nodes[1].restart();
    let tends: Vec<Tend> = (0..4).map(|_| Tend::of(&["--list", &list])).collect();
    assert!(
        wait_until(SOON, || is_safe(&list)),
        "{}",
        tends.iter().map(Tend::log).collect::<String>()
    );
    assert!(nodes[1].stored("s1").is_some() && nodes[1].stored("s499").is_some());
}

#[test]
fn it_ends_at_once_when_it_is_told_to() {
    let nodes = [Memcached::start(), Memcached::start()];
    for signal in [Signal::TERM, Signal::INT] {
        let mut tend = Tend::of(&["--list", &list(&nodes)]);
        tend.says("2 nodes");
        tend.process.signal(signal);
        assert!(tend.process.wait(SOON).is_some());
    }
}

#[test]
fn who_asks_wrongly_is_told_what_to_write_and_gets_exit_code_two() {
    let directory = TempDir::new("wrong");
    let broken = directory.file("broken.toml", "[pool.a]\nnodes = 3\n");
    let single = directory.file("single.toml", "[pool.a]\nnodes = [\"tcp://127.0.0.1:1\"]\n");
    let (broken, single) = (broken.display().to_string(), single.display().to_string());
    let wrong: &[(&[&str], &str)] = &[
        (&[], "no command given"),
        (&["mend"], "there is no command \"mend\""),
        (&["tend", "--twice"], "--twice"),
        (&["status", "--once"], "--once"),
        (&["tend", "--interval", "soon"], "Write --interval 1"),
        (&["tend", "--interval", "0"], "Write --interval 1"),
        (&["commit", "--lease", "29", "a"], "Write --lease 300"),
        (&["tend", "--lease", "300"], "--lease"),
        (&["status", "--config"], "--config"),
        (
            &["status", "--config", "/nonexistent/m.toml"],
            "/nonexistent/m.toml",
        ),
        (&["status", "--config", &broken], "line 2"),
        (&["status", "--config", &single], "mode = \"fenced\""),
        (&["status", "--list", "127.0.0.1:1"], "two nodes or more"),
        (
            &["status", "--list", "tcp://a:1?mode=single,b:1"],
            "keeps no copies",
        ),
        (&["status", "--list", "/var/lib/php/sessions"], "is a path"),
        (
            &["trust", "--list", "a:1,b:1", "--list", "c:1,d:1"],
            "one pool at a time",
        ),
    ];
    for (arguments, part) in wrong {
        let (code, out, errors) = run(arguments);
        assert_eq!((code, out.as_str()), (2, ""), "{arguments:?}: {errors}");
        assert!(
            errors.starts_with("memring: ") && errors.contains(part),
            "{arguments:?}: {errors}"
        );
    }
    for arguments in [
        &["--help"][..],
        &["tend", "--help"],
        &["status", "--help"],
        &["trust", "--help"],
        &["--version"],
    ] {
        let (code, out, errors) = run(arguments);
        assert_eq!((code, errors.as_str()), (0, ""));
        assert!(out.starts_with("memring "), "{out}");
    }
}
