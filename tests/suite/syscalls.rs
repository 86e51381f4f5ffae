//! What an operation costs in system calls: one to send, one to receive.

use harness::{Certificates, Memcached, Php, Redis, TempDir, php, place};
use std::process::Command;

/// The calls of the kernel a script makes, all of them.
pub(crate) fn calls(script: &str) -> Option<u64> {
    let strace = place::program(&["strace"])?;
    let directory = TempDir::new("strace");
    let file = directory.file("script.php", format!("<?php\n{script}"));
    let trace = directory.path().join("trace");
    let status = Command::new(strace)
        .args(["-f", "-qq", "-o"])
        .arg(&trace)
        .arg(php::binary())
        .args(Php::new().arguments())
        .arg(file)
        .output()
        .ok()?
        .status;
    // A container may forbid tracing.
    status.success().then(|| {
        std::fs::read_to_string(&trace)
            .unwrap_or_default()
            .lines()
            .count() as u64
    })
}

#[test]
fn a_single_operation_costs_two_system_calls() {
    let server = Memcached::start();
    each_costs_two(&server.address());
}

#[test]
fn a_single_operation_costs_two_system_calls_in_tls() {
    let made = Certificates::new();
    let memcached = Memcached::with_tls(&made.server(), None, &[]);
    let redis = Redis::with_tls(&made.server(), None, &[]);
    let ca = made.ca();
    for (scheme, port) in [
        ("memcacheds", memcached.tls_port()),
        ("rediss", redis.tls_port()),
    ] {
        each_costs_two(&format!("{scheme}://127.0.0.1:{port}?ca={}", ca.display()));
    }
}

fn each_costs_two(node: &str) {
    let script = |body: &str, rounds: u32| {
        format!(
            "$m = new Memcache; $m->addServer('{node}'); $m->set('k', 'v'); $m->set('n', 1); $m->get('k'); $m->increment('n');\n\
             for ($i = 0; $i < {rounds}; $i++) {{ {body} }}"
        )
    };
    for body in [
        "$m->get('k');",
        "$m->set('k', 'v');",
        "$m->increment('n');",
        "$m->delete('missing');",
        "$m->get(['k', 'n', 'missing']);",
    ] {
        let (Some(few), Some(many)) = (calls(&script(body, 10)), calls(&script(body, 210))) else {
            harness::skip("strace is not installed or may not trace here");
            return;
        };
        let each = many.saturating_sub(few) as f64 / 200.0;
        assert!(each < 2.1, "{node}: {body} costs {each} system calls");
    }
}
