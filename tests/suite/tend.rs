//! memring tend where it cannot do all it should: files that do not fit, nodes that cannot be mended.

use crate::companion::{Tend, program, run};
use harness::process::Process;
use harness::{ClosedPort, Memcached, Php, Proxy, TempDir, wait_until, workspace};
use serde_json::Value;
use std::io::Write;
use std::process::Command;
use std::time::Duration;

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(20);

fn put(node: &Memcached, key: &str, text: &str) {
    let request = format!("set {key} 0 0 {}\r\n{text}\r\n", text.len());
    assert_eq!(node.raw(request, "\r\n"), b"STORED\r\n");
}

/// A pool of these nodes in a file; `more` is added to its table.
fn file(nodes: &[Memcached], more: &str) -> String {
    let names: Vec<String> = nodes.iter().map(Memcached::address).collect();
    format!("[pool.sessions]\nnodes = {names:?}\nmode = \"fenced\"\n{more}\n")
}

/// Does a tend with this state directory say that it looks, and that it mends a pool?
fn marks(state: &TempDir) -> (bool, bool) {
    let entries = std::fs::read_dir(state.path()).expect("the state directory");
    let Some(region) = entries.flatten().next() else {
        return (false, false);
    };
    // Eight words of head, 64 counters, then a word for tend, one for broken pools, and six.
    let bytes = std::fs::read(region.path()).expect("the region");
    let is_set = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    (is_set(&bytes[576..584]), is_set(&bytes[592..640]))
}

#[test]
fn only_a_tend_whose_file_fits_keeps_workers_from_mending() {
    let nodes: Vec<Memcached> = (0..2).map(|_| Memcached::start()).collect();
    let (directory, state) = (TempDir::new("unfit"), TempDir::new("state"));
    let path = directory.file("memring.toml", file(&nodes, ""));
    let others = |trust: &str, id: u8| format!("memring1 {trust} 1 {id} 0/0/9be1f0a2");
    put(&nodes[0], "~r:sessions", &others("trusted", 1));
    put(&nodes[1], "~r:sessions", &others("joining", 2));
    let config = path.display().to_string();
    let tend = Tend::beside(&state.path().display().to_string(), &["--config", &config]);
    tend.says("names other nodes");
    assert_eq!(marks(&state), (true, false));
    for node in &nodes {
        node.raw("delete ~r:sessions\r\n", "\r\n");
    }
    assert!(
        wait_until(SOON, || marks(&state) == (true, true)),
        "{}",
        tend.log()
    );
}

#[test]
fn status_calls_nothing_safe_by_the_records_of_another_node_list() {
    let mut nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let directory = TempDir::new("unfit");
    let before: Vec<String> = nodes.iter().map(Memcached::address).collect();
    let mut after = before[..2].to_vec();
    after.push(format!("{}?drain=1", before[2]));
    let path = directory.file(
        "memring.toml",
        format!("[pool.sessions]\nnodes = {after:?}\nmode = \"fenced\"\nepoch = 4\n"),
    );
    let config = path.display().to_string();
    let drained = format!("{}: ", nodes[2].address());
    let unknown = format!("{drained}no record of this pool says whether it is drained");
    let status = || {
        let (code, text, _) = run(&["status", "--config", &config]);
        let (_, json, _) = run(&["status", "--config", &config, "--json"]);
        let json: Value = serde_json::from_str(&json).expect("JSON");
        (code, text, json["pools"][0].clone())
    };
    let records = |epochs: &str| {
        for (id, node) in (1..).zip(&nodes[..2]) {
            let record = format!("memring1 trusted 1 {id} {epochs}");
            put(node, "~r:sessions", &record);
        }
    };
    // Others at this epoch, and a file that is behind.
    for (epochs, why) in [
        ("4/4/9be1f0a2", "names other nodes"),
        ("5/4/00000000", "Bring the new file to this host"),
    ] {
        records(epochs);
        let (code, text, json) = status();
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(why) && text.contains(&unknown), "{text}");
        assert!(
            text.ends_with("safe to touch the next node: no\n"),
            "{text}"
        );
        assert_eq!(
            (&json["safe"], &json["committed"]),
            (&Value::Bool(false), &Value::Null)
        );
        assert_eq!(json["drain"][0]["drained"], false);
        assert!(
            json["trouble"]
                .as_str()
                .is_some_and(|text| text.contains(why)),
            "{json}"
        );
        let php = Php::new().ini("memring.config_file", &config);
        let told = php.run("echo json_encode(Memring\\status('sessions'), JSON_THROW_ON_ERROR);");
        let told: Value = serde_json::from_str(&told.ok()).expect("JSON");
        let told = &told["pools"][0];
        assert_eq!(told["safe_to_touch_next"], false);
        let address = nodes[2].address();
        assert_eq!(
            told["drain"],
            serde_json::json!([{"node": address, "drained": null}])
        );
        assert!(
            told["trouble"]
                .as_str()
                .is_some_and(|text| text.contains(why)),
            "{told}"
        );
    }
    records("4");
    let (code, text, json) = status();
    assert_eq!((code, &json["trouble"]), (0, &Value::Null), "{text}");
    assert!(text.contains(&format!("{drained}safe to stop")), "{text}");
    let php = Php::new().ini("memring.config_file", &config);
    let told = php.run("echo json_encode(Memring\\status('sessions')['pools'][0]['drain'][0]['drained'], JSON_THROW_ON_ERROR);");
    assert_eq!(told.ok(), "true");
    // Nobody answers, so nobody knows.
    nodes.iter_mut().for_each(Memcached::kill);
    let (code, text, json) = status();
    assert_eq!((code, &json["committed"]), (1, &Value::Null), "{text}");
    assert!(text.contains(&unknown), "{text}");
    assert!(
        !text.contains("safe to stop\n") || text.contains("not safe to stop"),
        "{text}"
    );
}

#[test]
fn a_node_that_cannot_be_mended_keeps_no_other_one_from_it() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let names: Vec<String> = nodes.iter().map(Memcached::address).collect();
    for (node, trust) in nodes.iter().zip(["joining", "joining", "trusted"]) {
        put(node, "~r", &format!("memring1 {trust} 1 {} 0", node.port()));
    }
    put(&nodes[0], "~p", "web9/1");
    let (code, _, log) = run(&["tend", "--once", "--list", &names.join(",")]);
    assert_eq!(code, 1, "{log}");
    let wanted = format!("{} is being mended by web9/1", names[0]);
    assert_eq!(log.matches(&wanted).count(), 1, "{log}");
    let record = |node: &Memcached| {
        node.stored("~r")
            .map(|(_, bytes)| bytes)
            .unwrap_or_default()
    };
    assert!(record(&nodes[0]).starts_with(b"memring1 joining "), "{log}");
    assert!(record(&nodes[1]).starts_with(b"memring1 trusted "), "{log}");
}

#[test]
fn two_names_for_one_server_are_told_in_a_new_pool_and_where_all_are_trusted() {
    let nodes = [Memcached::start(), Memcached::start()];
    // The configuration sees through "localhost", and through no proxy.
    let proxy = Proxy::start(nodes[0].port());
    let (one, other) = (nodes[0].address(), format!("127.0.0.1:{}", proxy.port()));
    let list = format!("{one},{other},{}", nodes[1].address());
    let told = |text: &str| {
        text.contains(&format!("{one} and {other} are one server"))
            || text.contains(&format!("{other} and {one} are one server"))
    };
    let (code, _, log) = run(&["tend", "--once", "--list", &list]);
    assert!(code == 1 && told(&log), "{log}");
    put(&nodes[0], "~r", "memring1 trusted 1 1 0");
    put(&nodes[1], "~r", "memring1 trusted 1 2 0");
    let (code, _, log) = run(&["tend", "--once", "--list", &list]);
    assert!(code == 1 && told(&log), "{log}");
    let (code, text, _) = run(&["status", "--list", &list]);
    assert!(code == 1 && told(&text), "{text}");
    assert!(
        text.ends_with("safe to touch the next node: no\n"),
        "{text}"
    );
    let (_, json, _) = run(&["status", "--json", "--list", &list]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert!(
        told(json["pools"][0]["trouble"].as_str().unwrap_or("")),
        "{json}"
    );
    let tend = Tend::of(&["--list", &list]);
    assert!(wait_until(SOON, || told(&tend.log())), "{}", tend.log());
}

#[test]
fn a_password_in_a_list_is_told_to_nobody() {
    let one = Memcached::with_logins(&["app:geheim"], &[]);
    let closed = ClosedPort::new();
    let list = format!(
        "memcached://app:geheim@{},memcached://app:geheim@127.0.0.1:{}",
        one.address(),
        closed.port()
    );
    let state = TempDir::new("state");
    let state = state.path().display().to_string();
    let (_, _, waits) = run(&["tend", "--once", "--state-dir", &state, "--list", &list]);
    assert!(waits.contains("memring trust --list '…'"), "{waits}");
    let alone = format!("memcached://app:geheim@{}?mode=single", one.address());
    let (_, _, alone) = run(&["status", "--list", &alone]);
    assert!(alone.contains("keeps no copies"), "{alone}");
    assert!(
        !format!("{waits}{alone}").contains("geheim"),
        "{waits}{alone}"
    );
}

/// A copy of the program that tends the pools of `config`, and what it says.
struct Installed {
    directory: TempDir,
    process: Process,
}

impl Installed {
    fn start(config: &str) -> Installed {
        let directory = TempDir::new("installed");
        std::fs::copy(program().get_program(), directory.path().join("memring")).expect("a copy");
        let log = std::fs::File::create(directory.path().join("log")).expect("a log file");
        let process = Process::start(
            Command::new(directory.path().join("memring"))
                .args([
                    "tend",
                    "--interval",
                    "0.1",
                    "--config",
                    config,
                    "--state-dir",
                ])
                .arg(directory.path())
                .stderr(log),
        )
        .expect("start memring tend");
        Installed { directory, process }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("log")).expect("the log")
    }

    fn says(&self, text: &str) {
        let said = || self.log().contains(text);
        assert!(wait_until(SOON, said), "{text}: {}", self.log());
    }
}

#[test]
fn each_change_of_the_file_is_taken_also_after_another_program_was_installed() {
    let nodes = [Memcached::start(), Memcached::start()];
    let directory = TempDir::new("changes");
    let named = |name: &str| file(&nodes, "").replace("pool.sessions", &format!("pool.{name}"));
    let path = directory.file("memring.toml", named("one"));
    let mut tend = Installed::start(&path.display().to_string());
    tend.says("pool one: 2 nodes");

    // As many bytes in the same place, with the time that it had.
    let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
    let mut open = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    open.write_all(named("two").as_bytes()).unwrap();
    open.set_modified(modified).unwrap();
    drop(open);
    tend.says("pool two: 2 nodes");

    let (new, own) = ["new", "memring"]
        .map(|name| tend.directory.path().join(name))
        .into();
    std::fs::copy(&own, &new).unwrap();
    std::fs::rename(&new, &own).unwrap();
    std::fs::write(&path, named("three")).unwrap();
    tend.says("pool three: 2 nodes");

    // Nothing to go on with: who started it starts another one.
    std::fs::remove_file(&own).unwrap();
    std::fs::write(&path, named("four")).unwrap();
    let status = tend.process.wait(SOON);
    assert_eq!(
        status.and_then(|status| status.code()),
        Some(1),
        "{}",
        tend.log()
    );
}

#[test]
fn it_waits_for_a_file_that_can_be_used() {
    let nodes = [Memcached::start(), Memcached::start()];
    let directory = TempDir::new("wrong");
    let path = directory.path().join("memring.toml");
    let tend = Installed::start(&path.display().to_string());
    tend.says("It waits for a file that it can use");
    std::fs::write(&path, "[pool.sessions\n").unwrap();
    tend.says("line 1");
    std::fs::write(&path, file(&nodes, "")).unwrap();
    tend.says("pool sessions: 2 nodes");
    assert!(!tend.process.ended());
    // Words that no file can mend end it.
    let (code, _, _) = run(&["tend", "--list", "127.0.0.1:1"]);
    assert_eq!(code, 2);
}

#[test]
fn the_unit_lets_tend_reach_what_php_reaches() {
    let unit = workspace().join("src/companion/memring-tend.service");
    let unit = std::fs::read_to_string(unit).expect("the unit");
    let has = |line: &str| unit.lines().any(|other| other == line);
    assert!(has("ProtectHome=read-only") && has("EnvironmentFile=-/etc/default/memring"));
    assert!(!unit.lines().any(|line| line.starts_with("PrivateTmp=")));
}
