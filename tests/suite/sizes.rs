//! How much memory sessions with copies take, as the README says it: compared with what servers count.

use crate::copies::{Host, caches};
use harness::Memcached;
use memring_pool::replica::{Closed, Founded};

const SESSIONS: usize = 3000;
const DESTROYED: usize = 1000;
/// Bytes of a session's data, and of its id.
const DATA: usize = 500;
const ID: usize = 32;
/// Of what stands in `stats`, for the record.
const SOME: f64 = 0.005;

/// What the README says an item takes: 63 bytes, those of key and value, and 16 before 1.6.27.
fn item(value: usize, old: bool) -> usize {
    63 + ID + value + if old { 16 } else { 0 }
}

/// A number of `stats slabs`, the largest of all classes where each has one.
fn slabs(node: &Memcached, name: &str) -> Vec<u64> {
    let reply = node.raw("stats slabs\r\n", "END\r\n");
    let reply = String::from_utf8_lossy(&reply).into_owned();
    let numbers = reply.lines().filter_map(|line| {
        let (key, number) = line.strip_prefix("STAT ")?.split_once(' ')?;
        let key = key.rsplit(':').next()?;
        (key == name).then(|| number.trim().parse().ok())?
    });
    numbers.collect()
}

/// Is `wanted` what was found, within a few thousandths?
fn is_about(found: u64, wanted: usize) -> bool {
    (found as f64 / wanted as f64 - 1.0).abs() < SOME
}

#[test]
fn sessions_and_tombstones_take_the_memory_that_the_formula_says() {
    for nodes in caches() {
        assert_eq!(Host::of(&nodes, 1).found(), Founded::New);
        let mut host = Host::of(&nodes, 2);
        let ids: Vec<String> = (0..SESSIONS).map(|n| format!("{n:0ID$}")).collect();
        let data = "x".repeat(DATA);
        for id in &ids {
            assert_eq!(host.write(id, &data), Closed::Done { copies: 3 });
        }
        let old = |node: &Memcached| {
            let version = node.raw("version\r\n", "\r\n");
            String::from_utf8_lossy(&version).contains(" 1.6.18")
        };
        for node in &nodes {
            let each = item(DATA, old(node));
            let bytes = node.stat("bytes");
            assert!(is_about(bytes, SESSIONS * each), "{bytes}, {each} each");
            // Each lies in a chunk that is up to a quarter larger, and chunks in pages of 1 MB.
            let page = 1 << 20;
            let used = slabs(node, "total_malloced")[0];
            let most = SESSIONS as u64 * each as u64 * 5 / 4;
            let classes = slabs(node, "chunk_size").len() as u64;
            assert!(
                used >= bytes && used <= most + (classes + 1) * page,
                "{used}, {most}"
            );
        }
        for id in &ids[..DESTROYED] {
            assert_eq!(host.destroy(id), Closed::Done { copies: 3 });
        }
        for node in &nodes {
            let old = old(node);
            let left = (SESSIONS - DESTROYED) * item(DATA, old) + DESTROYED * item(0, old);
            let bytes = node.stat("bytes");
            assert!(is_about(bytes, left), "{bytes}, {left}");
        }
    }
}
