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

/// Without the times the probe prints: how long a busy machine takes is no answer of ours. What a dead or hung
/// node may cost is held by `pool`, `limits` and `unreachable`, which measure against limits.
fn normal(text: &str) -> String {
    let lines = text.lines().map(|line| match line.rfind("  [") {
        Some(at) if line.ends_with("s]") => format!("{}\n", &line[..at]),
        _ => format!("{line}\n"),
    });
    lines.collect()
}

const DIFFERENCES: &[Difference] = &[
    Difference {
        case: "prefix",
        // The last pair: making a second pool without a prefix leaves the first one's alone.
        ours: &[
            "   => array ( 0 => true, 1 => 'v', 2 => array ( 'k' => 'v', ), 3 => array ( 'nok' => false, ), 4 => true, \
             5 => 1, 6 => 'v', 7 => array ( 0 => 'v', 1 => 'v', ), ) (array)",
        ],
        row: golden::PREFIXES,
    },
    own_keys("host prefix"),
    own_keys("host prefix - no www strip"),
    own_keys("host prefix - subdomain + static"),
];

/// What is stored under, these cases cannot show of us; `a_prefix_is_part_of_the_stored_key` does.
const fn own_keys(case: &'static str) -> Difference {
    Difference {
        case,
        ours: &["   => array ( 0 => true, 1 => array ( 0 => 'hk', ), ) (array)"],
        row: golden::CALLERS_KEYS,
    }
}

#[test]
fn a_prefix_is_part_of_the_stored_key() {
    let stored = [
        ("memcache.prefix_static_key=pre_", "pre_hk"),
        ("memcache.prefix_host_key=1", "shop.example.comhk"),
        (
            "memcache.prefix_host_key=1 memcache.prefix_host_key_remove_www=0",
            "www.shop.example.comhk",
        ),
        (
            "memcache.prefix_host_key=1 memcache.prefix_host_key_remove_subdomain=1 memcache.prefix_static_key=S",
            "Sexample.comhk",
        ),
    ];
    for (settings, key) in stored {
        let server = Memcached::start();
        let mut php = Php::new().env("PORT", server.port());
        for (name, value) in settings
            .split(' ')
            .filter_map(|setting| setting.split_once('='))
        {
            php = php.ini(name, value);
        }
        php.run(
            "$_SERVER['SERVER_NAME'] = 'www.shop.example.com';\n\
             $m = new Memcache; $m->addServer('127.0.0.1', (int)getenv('PORT')); $m->set('hk', 'v');",
        )
        .ok();
        assert_eq!(server.stored(key), Some((0, b"v".to_vec())), "{settings}");
    }
}

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
