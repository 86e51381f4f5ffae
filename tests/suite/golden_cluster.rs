//! Several servers: copies, failover, dead servers, prefixes and corrupt values, as the original shows them.
//!
//! Placement hashes the port numbers, so this probe needs the recorded ports themselves. A lock file lets two
//! runs on one machine take turns.

use crate::golden::{self, Difference};
use harness::{Memcached, Php};
use rustix::fs::{FlockOperation, flock};

/// Runs the probe on the recorded ports.
fn probe(php: &Php) -> String {
    let lock =
        std::fs::File::create(std::env::temp_dir().join("memring-golden-cluster.lock")).unwrap();
    flock(&lock, FlockOperation::LockExclusive).unwrap();
    let _servers: Vec<Memcached> = [28811, 28812, 28813]
        .iter()
        .map(|port| Memcached::on(*port, &[]))
        .collect();
    let output = php.run(&golden::read("cluster-probe.php"));
    normal(&String::from_utf8_lossy(&output.stdout))
}

/// Timings are compared to a tenth of a second: `[3.02s]` reads `[3.0s]`.
fn normal(text: &str) -> String {
    let lines = text.lines().map(|line| match line.rfind("  [") {
        Some(at) if line.ends_with("s]") => {
            let seconds: f64 = line[at + 3..line.len() - 2].parse().unwrap_or(-1.0);
            format!("{}  [{seconds:.1}s]\n", &line[..at])
        }
        _ => format!("{line}\n"),
    });
    lines.collect()
}

const DIFFERENCES: &[Difference] = &[];

#[test]
fn copies_failover_and_dead_servers_show_as_in_the_original() {
    golden::compare(
        &normal(&golden::read("cluster-probe.txt")),
        &probe(&Php::new()),
        DIFFERENCES,
    );
}

#[test]
fn the_original_repeats_its_own_cluster_record() {
    let Some(original) = golden::original() else {
        return;
    };
    let php = Php::bare().extension(original);
    golden::compare(
        &normal(&golden::read("cluster-probe.txt")),
        &probe(&php),
        &[],
    );
}
