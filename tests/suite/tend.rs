//! memring tend where it cannot do all it should: files that do not fit, nodes that cannot be mended.

use crate::companion::Tend;
use harness::{Memcached, TempDir, wait_until};
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
