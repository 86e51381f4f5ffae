//! Copies that follow the answer (mode async) on nodes that behave badly: none of it holds a request up
//! for longer than it must, and no copy is left that is older than it seems.

use crate::cache_copies::{copied, owned, ports};
use crate::copies::caches;
use harness::hostile::Request;
use harness::{Act, Hostile, Memcached, TempDir};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{Mode, NodeSpec, Target};
use memring_pool::copier::{self, Copy, News, What};
use memring_pool::wire::Store;
use memring_pool::wire::copied::{Life, Over};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixListener;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Longer than anything takes that happens at all.
const LONG: Duration = Duration::from_secs(20);
const VERSION: u64 = (1 << 50) + 5;

fn spec(port: u16, limit: Duration) -> NodeSpec {
    let mut spec = NodeSpec::tcp("127.0.0.1", port);
    (spec.connect_timeout, spec.op_timeout) = (limit, limit);
    spec
}

fn put(key: &str, value: &[u8]) -> Copy {
    Copy {
        whose: 7,
        key: key.as_bytes().into(),
        what: What::Put {
            over: Over::Anything,
            version: VERSION,
            flags: 0,
            life: Life::Said(0),
            value: Some(Rc::from(value)),
        },
    }
}

/// The end of a process, and what became of its copies.
fn end() -> News {
    copier::finish(None);
    copier::take_news()
}

/// The usual answer of a server that has nothing and takes everything.
fn empty(request: &Request, version: &str) -> Vec<Act> {
    let opaque = request.line.split(' ').find(|word| word.starts_with('O'));
    vec![match request.verb() {
        "version" => Act::say(format!("VERSION {version}\r\n")),
        "ms" => Act::say(format!("HD {}\r\n", opaque.unwrap_or_default())),
        _ => Act::say("EN\r\n"),
    }]
}

#[test]
fn the_first_copy_to_a_far_node_goes_out_as_soon_as_its_version_is_known() {
    let far = Hostile::start(|request| {
        let mut acts = vec![Act::Pause(Duration::from_millis(30))];
        acts.extend(empty(request, "1.6.38"));
        acts
    });
    copier::push(&spec(far.port(), LONG), put("k", b"v"), Duration::ZERO);
    let begin = Instant::now();
    copier::finish(Some(Duration::from_millis(1)));
    assert!(begin.elapsed() < LONG / 2, "{:?}", begin.elapsed());
    assert!(end().missed.is_empty());
}

#[test]
fn a_server_that_closes_on_each_store_is_given_up_and_not_asked_for_ever() {
    let node = Hostile::start(|request| match (request.verb(), request.connection) {
        ("ms", ..50) => vec![Act::Close],
        _ => empty(request, "1.6.38"),
    });
    copier::push(&spec(node.port(), LONG), put("k", b"v"), Duration::ZERO);
    assert_eq!(end().missed.len(), 1);
    assert!(node.connections() <= 3, "{}", node.connections());
}

#[test]
fn servers_of_two_versions_behind_one_address_get_each_copy_as_they_take_it() {
    let node = Hostile::start(|request| {
        let old = request.connection % 2 == 0 && request.connection < 50;
        let mut acts = empty(request, if old { "1.6.18" } else { "1.6.38" });
        if request.connection == 0 && request.verb() == "ms" {
            acts.push(Act::Close);
        }
        acts
    });
    let spec = spec(node.port(), LONG);
    for key in ["first", "second"] {
        copier::push(&spec, put(key, b"v"), Duration::ZERO);
        copier::wait_for(&spec.target);
        assert!(copier::take_news().missed.is_empty());
        assert!(node.ended(0));
    }
    assert!(node.connections() <= 4, "{}", node.connections());
    let said = node.requests();
    let last = said
        .iter()
        .rfind(|request| request.line.starts_with("ms second"));
    let (old, versioned) = last.map_or((true, true), |request| {
        (request.connection % 2 == 0, request.line.contains(" E"))
    });
    assert_ne!(old, versioned, "{last:?}");
}

#[test]
fn a_server_that_refuses_all_copies_is_not_connected_to_once_for_each() {
    let node = Hostile::start(|request| match request.verb() {
        "ms" => vec![Act::say("SERVER_ERROR out of memory storing object\r\n")],
        _ => empty(request, "1.6.38"),
    });
    let spec = spec(node.port(), LONG);
    let mut missed = 0;
    for n in 0..300 {
        copier::push(&spec, put(&format!("k{n}"), b"value"), LONG);
        if n % 30 == 0 {
            // Also who comes when all before it were refused does not begin anew.
            copier::finish(None);
            missed += copier::take_missed().len();
        }
    }
    missed += end().missed.len();
    assert_eq!(missed, 300);
    assert!(node.connections() <= 20, "{}", node.connections());
}

#[test]
fn an_overtaken_copy_that_was_cut_before_its_answer_is_still_missed() {
    // Its store came through, and over what it went is not there to be seen any more.
    let node = Hostile::start(|request| {
        let opaque = request.line.split(' ').find(|word| word.starts_with('O'));
        let shown = |version: u64| {
            Act::say(format!(
                "HD c{version} f0 s1 t-1 {}\r\n",
                opaque.unwrap_or_default()
            ))
        };
        match (request.verb(), request.connection) {
            ("mg", 0) => vec![shown(VERSION + 1)],
            ("ms", 0) => vec![Act::Close],
            ("mg", _) => vec![shown(VERSION)],
            _ => empty(request, "1.6.38"),
        }
    });
    copier::push(&spec(node.port(), LONG), put("k", b"v"), Duration::ZERO);
    assert_eq!(end().missed.len(), 1);
}

#[test]
fn time_in_which_nobody_sent_the_rest_is_not_the_nodes() {
    let node = Memcached::on_socket();
    let mut spec = spec(0, Duration::from_millis(200));
    spec.target = Target::Unix(node.socket().into());
    copier::push(&spec, put("warm", b"v"), Duration::ZERO);
    copier::wait_for(&spec.target);
    // More than the kernel takes of a socket that nobody reads at that moment.
    for n in 0..4 {
        copier::push(
            &spec,
            put(&format!("k{n}"), &vec![b'x'; 900_000]),
            Duration::ZERO,
        );
    }
    std::thread::sleep(Duration::from_millis(600));
    copier::carry_on();
    let news = end();
    assert!(news.failed.is_empty() && news.missed.is_empty(), "{news:?}");
}

#[test]
fn old_values_that_nobody_read_meanwhile_are_not_the_nodes_silence() {
    // Without versions a look brings the value, and more than the kernel keeps stops the server.
    let node = Memcached::start();
    let mut spec = spec(node.port(), LONG);
    let large = vec![b'x'; 900_000];
    for n in 0..25 {
        copier::push(&spec, put(&format!("k{n}"), &large), Duration::ZERO);
        copier::push(&spec, put("warm", b"v"), Duration::ZERO);
        copier::wait_for(&spec.target);
    }
    spec.op_timeout = Duration::from_secs(1);
    for n in 0..25 {
        copier::push(&spec, put(&format!("k{n}"), b"v"), Duration::ZERO);
    }
    std::thread::sleep(Duration::from_millis(1500));
    let news = end();
    assert!(news.failed.is_empty(), "{news:?}");
}

/// A server on a unix socket, whose kernel holds little, that takes a millisecond for each store.
fn slow(listener: &UnixListener) -> Option<()> {
    let (stream, _) = listener.accept().ok()?;
    let (mut input, mut output) = (BufReader::new(stream.try_clone().ok()?), stream);
    loop {
        let mut line = String::new();
        input.read_line(&mut line).ok()?;
        let mut words = line.trim().split(' ');
        let answer = match words.next()? {
            "version" => "VERSION 1.6.38\r\n".to_owned(),
            "ms" => {
                let mut value = vec![0; words.nth(1)?.parse::<usize>().ok()? + 2];
                input.read_exact(&mut value).ok()?;
                std::thread::sleep(Duration::from_millis(1));
                let opaque = words.find(|word| word.starts_with('O'))?;
                format!("HD {opaque}\r\n")
            }
            _ => "EN\r\n".to_owned(),
        };
        output.write_all(answer.as_bytes()).ok()?;
    }
}

#[test]
fn a_node_that_is_always_a_little_behind_costs_no_more_memory_than_what_is_on_its_way() {
    let directory = TempDir::new("behind");
    let path = directory.path().join("slow.sock");
    let listener = UnixListener::bind(&path).unwrap();
    std::thread::spawn(move || slow(&listener));
    let mut spec = spec(0, LONG);
    spec.target = Target::Unix(path);
    let resident = || {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
        pages * 4096
    };
    let value = vec![b'x'; 200_000];
    for n in 0..500 {
        copier::push(&spec, put(&format!("k{n}"), &value), Duration::ZERO);
    }
    let most = resident();
    assert!(end().missed.is_empty());
    let given_back = most.saturating_sub(resident());
    assert!(given_back < 40 << 20, "{given_back} of {most}");
}

#[test]
fn a_delete_of_what_the_first_node_had_no_more_is_not_undone_by_a_read_meanwhile() {
    for nodes in caches() {
        let ports = ports(&nodes[..2]);
        let mut bench = copied("undone", Mode::Async, &ports);
        bench.pool.policy_mut().hold = LONG;
        let key = owned(&mut bench, 0, 1).remove(0);
        assert_eq!(bench.store(Store::Set, &key, b"value", 0), Outcome::Done);
        copier::finish(None);
        // As an eviction does it.
        nodes[0].raw(format!("delete {key}\r\n"), "\r\n");
        let deleted = bench.run(Verb::Delete, &[&key], |_, _| {})[0];
        assert_eq!(deleted, Outcome::Done);
        // The copy is held, and somebody else reads.
        let read = std::thread::spawn({
            let (ports, key) = (ports.clone(), key.clone());
            move || copied("undone", Mode::Async, &ports).get(&key)
        });
        let _ = read.join().unwrap();
        copier::finish(None);
        assert_eq!(bench.get(&key), None);
    }
}

#[test]
fn a_delete_is_remembered_by_nodes_that_had_nothing_too() {
    for nodes in caches() {
        for mode in [Mode::Sync, Mode::Async] {
            let mut bench = copied("bare", mode, &ports(&nodes[..2]));
            let key = owned(&mut bench, 0, 1).remove(0);
            // In mode async the first node answers for its key, and nobody adds to the others.
            for evicted in &nodes[..if mode == Mode::Sync { 2 } else { 1 }] {
                assert_eq!(bench.store(Store::Set, &key, b"value", 0), Outcome::Done);
                copier::finish(None);
                evicted.raw(format!("delete {key}\r\n"), "\r\n");
                let deleted = bench.run(Verb::Delete, &[&key], |_, _| {})[0];
                assert_eq!(deleted, Outcome::Done);
                let added = evicted.raw(format!("add {key} 0 0 1\r\nv\r\n"), "\r\n");
                assert_eq!(added, b"NOT_STORED\r\n", "{mode:?}");
            }
        }
    }
}
