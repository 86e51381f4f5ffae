//! The bytes of the session handler against the recorded ones of the original, as one joined stream.

use crate::golden;
use crate::golden_wire::{Difference, compare, recorded, requests};
use harness::{Memcached, Php, Proxy};
use std::time::Duration;

/// The calls behind `wire-session.txt`.
const SESSIONS: &str = r#"
function start($id) { session_id($id); session_start(); }
start('A'); $_SESSION['n'] = 1; session_write_close();
start('A'); $_SESSION['n'] = 2; session_write_close();
start('A'); session_write_close();
start('A'); session_destroy();
start('RG'); session_regenerate_id(true); $_SESSION['a'] = 1; session_write_close();
start('RG'); session_write_close();
"#;

/// What our sessions send, in normal form.
fn session_requests(php: Php) -> Vec<String> {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let php = php
        .ini("session.save_handler", "memcache")
        .ini(
            "session.save_path",
            format!("tcp://127.0.0.1:{}", proxy.port()),
        )
        .ini("session.use_cookies", 0)
        .ini("session.cache_limiter", "");
    php.run(SESSIONS).ok();
    proxy.settle(Duration::from_millis(50));
    requests(&proxy.requests())
}

/// What is recorded of a changed session, and of the unchanged one that follows it.
const STORED: &str = "set A 0 <expiry> 6 n|i:2;";

const DIFFERENCES: &[Difference] = &[
    Difference {
        recorded: STORED,
        ours: &[STORED], // it was changed
        row: golden::UNCHANGED,
    },
    Difference {
        recorded: STORED,
        ours: &["touch A <expiry>"],
        row: golden::UNCHANGED,
    },
];

#[test]
fn session_requests_equal_the_originals() {
    compare(
        &recorded("wire-session.txt"),
        &session_requests(Php::new()),
        DIFFERENCES,
    );
}

#[test]
fn the_original_repeats_its_own_session_record() {
    let Some(original) = golden::original() else {
        return;
    };
    let php = Php::bare().extension(original);
    compare(&recorded("wire-session.txt"), &session_requests(php), &[]);
}
