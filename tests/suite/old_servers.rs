//! memcacheds that do not speak today's meta commands, and what one refused line of them costs. Before 1.6.10 `ms`
//! has the length of its value elsewhere, so such a server would take a stored value for commands.

use crate::cache_copies::copied;
use crate::pool::Bench;
use harness::hostile::Request;
use harness::{Act, Hostile, Memcached, Php, TempDir};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{Mode, Protocol};
use memring_pool::pool::later;
use memring_pool::wire::Store;

/// The last version that is too old, one that takes a value of `ms` for commands, and one that knows no such words.
const OLD: [&str; 3] = ["1.6.17", "1.6.9", "1.5.22"];

fn of_version(version: &'static str) -> Hostile {
    Hostile::start(move |request| match request.verb() {
        "version" => vec![Act::say(format!("VERSION {version}\r\n"))],
        "set" | "add" => vec![Act::say("STORED\r\n")],
        "mg" if version.starts_with("1.6") => vec![Act::say("EN\r\n")],
        _ => vec![Act::say("ERROR\r\n")],
    })
}

fn was_told_ms(server: &Hostile) -> bool {
    let is_store = |request: &Request| matches!(request.verb(), "ms" | "ma" | "md");
    server.requests().iter().any(is_store)
}

#[test]
fn a_value_never_reaches_a_server_that_would_take_it_for_commands() {
    for version in OLD {
        for mode in [Mode::Sync, Mode::Async] {
            let (old, new) = (of_version(version), Memcached::start());
            let mut bench = copied("old", mode, &[old.port(), new.port()]);
            let mut told = String::new();
            for number in 0..20 {
                bench.store(Store::Set, &format!("k{number}"), b"flush_all", 0);
                told += &format!("{:?} ", bench.call.events());
                later::end();
            }
            assert!(!was_told_ms(&old), "{version} {mode:?}");
            if mode == Mode::Sync {
                assert!(told.contains("Run memcached 1.6.18 or newer"), "{told}");
            }
        }
        let (old, state) = (of_version(version), TempDir::new("old"));
        let new = [(); 2].map(|()| Memcached::start());
        let list = format!(
            "tcp://127.0.0.1:{},tcp://{},tcp://{}",
            old.port(),
            new[0].address(),
            new[1].address()
        );
        let php = crate::sessions::with_sessions(Php::new(), &list)
            .ini("session.save_handler", "memring")
            .ini("memring.state_dir", state.path().display());
        let visit = "for ($i = 0; $i < 5; $i++) { session_id(\"s$i\"); session_start(); $_SESSION['n'] = 'flush_all'; session_write_close(); }";
        php.run(visit);
        assert!(
            !old.requests().is_empty() && !was_told_ms(&old),
            "{version}"
        );
    }
}

#[test]
fn a_pool_without_copies_speaks_classic_words_to_an_old_server() {
    for version in OLD {
        let old = of_version(version);
        let mut bench = Bench::over(Protocol::Binary, &[old.port()]);
        assert_eq!(bench.store(Store::Set, "k", b"flush_all", 0), Outcome::Done);
        assert!(!was_told_ms(&old), "{version}");
    }
}

#[test]
fn one_refused_key_of_many_in_meta_words_costs_no_other() {
    let server = Hostile::start(|request| match (request.verb(), request.word(0)) {
        ("version", _) => vec![Act::say("VERSION 1.6.38\r\n")],
        ("mg", "k1") => vec![Act::say("SERVER_ERROR refcount overflow during fetch\r\n")],
        ("mg", key) => {
            let opaque = request.line.rsplit(' ').next().unwrap();
            vec![Act::say(format!("VA 1 f0 k{key} {opaque}\r\nv\r\n"))]
        }
        // What is asked before the version is known.
        _ => vec![Act::say("END\r\n")],
    });
    let mut bench = Bench::over(Protocol::Binary, &[server.port()]);
    bench.get("first");
    for _ in 0..2 {
        let outcomes = bench.run(Verb::Get, &["k0", "k1", "k2", "k3"], |_, _| {});
        let hits: Vec<bool> = outcomes
            .iter()
            .map(|outcome| matches!(outcome, Outcome::Hit { .. }))
            .collect();
        assert_eq!(hits, [true, false, true, true], "{:?}", bench.call.events());
        assert_eq!(outcomes[1], Outcome::Refused);
        assert!(bench.pool.is_up(0), "{:?}", bench.call.events());
    }
}
