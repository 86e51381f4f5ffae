//! Passwords of a pool stand nowhere that people read: not in PHP's error log, and not in what the companion says.
//! `redis`, `sentinel` and `login` look at what PHP itself prints.

use crate::companion::run;
use harness::{Memcached, Output, Redis, TempDir};
use std::path::Path;

/// PHP logged something, and neither there nor on its standard error stands `secret`.
#[track_caller]
pub(crate) fn not_in_the_log(secret: &str, log: &Path, output: &Output) {
    let logged = std::fs::read_to_string(log)
        .unwrap_or_else(|error| panic!("PHP logged nothing: {error}\n{}", output.text()));
    assert!(!logged.is_empty());
    let errors = String::from_utf8_lossy(&output.stderr);
    not_said(secret, &format!("{logged}{errors}"));
}

#[track_caller]
fn not_said(secret: &str, text: &str) {
    let lines: Vec<&str> = text.lines().filter(|line| line.contains(secret)).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}

#[test]
fn the_companion_says_no_password_whether_nodes_answer_or_not() {
    let state = TempDir::new("secrets");
    let directory = state.path().display().to_string();
    let mut servers = [(); 2].map(|()| Redis::with(&["--requirepass", "geheim"]));
    let memcached = Memcached::with_logins(&["app:geheim"], &[]);
    let nodes = |password: &str| {
        [
            format!("redis://:{password}@{}?timeout=2", servers[0].address()),
            format!("redis://{}?auth={password}&timeout=2", servers[1].address()),
            format!(
                "memcached://app:{password}@{}?timeout=2",
                memcached.address()
            ),
        ]
    };
    let pools = |password: &str, more: &str| {
        let nodes = nodes(password);
        let table = |name: &str, more: &str| format!("[pool.{name}]\nnodes = {nodes:?}\n{more}\n");
        table("sessions", &format!("mode = \"fenced\"\n{more}"))
            + &table("cache", "mode = \"sync\"")
    };
    let file = |name: &str, text: &str| state.file(name, text).display().to_string();
    let right = file("right.toml", &pools("geheim", ""));
    let wrong = file("wrong.toml", &pools("geheim2", ""));
    // The next step, under another password than the node has.
    let step = format!("epoch = 1\nprevious_nodes = {:?}", nodes("geheim"));
    let next = file("next.toml", &pools("geheim2", &step));
    let unreadable = [
        file("cut.toml", &pools("geheim", "epoch = \"one")),
        file("host.toml", &pools("geheim@a b", "")),
        file("word.toml", &pools("geheim&wieght=1", "")),
        // A & in a password makes its end look like an option.
        file("rest.toml", &pools("ge&heim", "")),
    ];
    let list = nodes("geheim").join(",");
    let look = |alive: bool| {
        let mut codes = Vec::new();
        let mut say = |words: &[&str]| {
            let (code, out, err) = run(words);
            assert!(!(out.clone() + &err).is_empty() || code == 0, "{words:?}");
            not_said("heim", &(out + &err));
            codes.push(code);
        };
        let kept = ["--state-dir", &directory];
        let pools = [
            &right,
            &wrong,
            &unreadable[0],
            &unreadable[1],
            &unreadable[2],
            &unreadable[3],
        ];
        for config in pools {
            let of = ["--config", config];
            say(&[&["tend", "--once"], &kept[..], &of].concat());
            say(&[&["status"], &kept[..], &of].concat());
            say(&[&["status", "--json"], &of[..]].concat());
            for pool in ["sessions", "cache"] {
                say(&[&["route"], &of[..], &[pool, "get", "k"]].concat());
                say(&[&["trust"], &of[..], &[pool]].concat());
            }
        }
        // It tries for seconds where a node keeps it from the end.
        for config in [&right, &next, &unreadable[0]] {
            say(&["commit", "--config", config, "sessions"]);
        }
        say(&["status", "--list", &list]);
        say(&["route", "--list", &list, "session", "k"]);
        say(&["commit", "--list", &list]);
        // The pool with the right password is well, so what was looked at is what people see.
        assert_eq!(codes[0] == 0, alive, "{codes:?}");
        assert_eq!(codes[1] == 0, alive, "{codes:?}");
        let worked = codes.iter().filter(|code| **code == 0).count();
        assert!(worked > 2, "{codes:?}");
    };
    look(true);
    servers[1].kill();
    look(false);
}
