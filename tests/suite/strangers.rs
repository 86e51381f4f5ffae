//! Nodes of copied sessions that are not what a host takes them for: one with a record of a version to come, and two
//! names for one server.

use crate::companion::{Tend, run};
use crate::copies::{Place, pools};
use crate::sessions::php;
use harness::{Memcached, Proxy, Server, TempDir};

/// What a version to come may write.
const STRANGE: &str = "memring2 whatever comes later";

fn list(nodes: &[Server]) -> String {
    let urls: Vec<String> = nodes
        .iter()
        .map(|node| format!("{}?timeout=2", node.url()))
        .collect();
    urls.join(", ")
}

#[test]
fn php_writes_nothing_over_a_record_of_an_unknown_format_and_refuses_where_all_have_one() {
    for nodes in pools() {
        let list = list(&nodes);
        let php = php(&list).ini("session.save_handler", "memring");
        let visit = || {
            php.run("ob_start(); session_id('s'); $in = session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
                echo json_encode($in), $_SESSION['n'];")
                .text()
        };
        assert_eq!(visit(), "true1");
        nodes[0].delete("~r");
        nodes[0].put("~r", STRANGE);
        // It counts as a node that is away.
        assert_eq!(visit(), "true2");
        assert_eq!(visit(), "true3");
        for node in &nodes[1..] {
            node.delete("~r");
            node.put("~r", STRANGE);
        }
        let refused = visit();
        for wanted in [
            "false1",
            "session may exist",
            "not started",
            "memring status",
            "all of them have a record of an unknown format under the key ~r",
            "Bring this host to the version of memring",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(nodes.iter().map(|node| match node.is_redis() {
            true => format!("{} has a key of another type", node.address()),
            false => format!("{} has \"memring2 whatever comes \"", node.address()),
        })) {
            assert!(refused.contains(&wanted), "{wanted} is not in {refused}");
        }
        let (code, told, _) = run(&["status", "--list", &list]);
        assert_eq!(code, 1, "{told}");
        assert_eq!(told.matches("strange").count(), nodes.len(), "{told}");
        for node in &nodes {
            assert_eq!(node.stored("~r").as_deref(), Some(STRANGE.as_bytes()));
        }
        // And the session is as it was.
        let value = nodes[1].stored("s").unwrap();
        assert!(value.ends_with(b"n|i:3;"), "{value:?}");
    }
}

#[test]
fn two_names_for_one_server_are_named_by_tend_and_not_taken_for_two_copies() {
    let nodes = [Memcached::start(), Memcached::start()];
    let names = [(); 2].map(|()| Proxy::start(nodes[0].port()));
    let list = format!(
        "tcp://127.0.0.1:{}?timeout=2, tcp://127.0.0.1:{}?timeout=2, {}?timeout=2",
        names[0].port(),
        names[1].port(),
        nodes[1].url()
    );
    let state = TempDir::new("twins");
    let state = state.path().display().to_string();
    let once = || run(&["tend", "--once", "--state-dir", &state, "--list", &list]);
    let (_, _, first) = once();
    let (code, _, log) = once();
    assert_eq!(code, 1, "{first}{log}");
    let wanted = format!(
        "127.0.0.1:{} and 127.0.0.1:{} are one server",
        names[0].port(),
        names[1].port()
    );
    assert!(log.contains(&wanted), "{first}{log}");
    assert!(log.contains("Name each server once"), "{log}");
    let (code, told, _) = run(&["status", "--list", &list]);
    assert!(code == 1 && told.contains(&wanted), "{told}");
    let tend = Tend::of(&["--list", &list]);
    tend.says(&wanted);
}
