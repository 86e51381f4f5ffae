//! The pool without PHP, against real memcached and against servers that lie.

use harness::{Act, BlackHole, ClosedPort, Hostile, Memcached};
use memring_pool::call::{Call, Outcome, Verb};
use memring_pool::config::{NodeSpec, Policy, Protocol};
use memring_pool::item::KeyRule;
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::wire::Store;
use std::time::{Duration, Instant};

/// A pool and what belongs to it in a thread.
pub(crate) struct Bench {
    pub(crate) pool: Pool,
    pub(crate) directory: Directory,
    pub(crate) call: Call,
    pub(crate) rule: KeyRule,
}

impl Bench {
    pub(crate) fn over(protocol: Protocol, ports: &[u16]) -> Bench {
        let policy = Policy {
            protocol,
            ..Policy::default()
        };
        Bench::of(policy, ports)
    }

    /// With limits that a busy machine keeps and a test can wait for.
    pub(crate) fn of(policy: Policy, ports: &[u16]) -> Bench {
        let mut bench = Bench {
            pool: Pool::new(policy),
            directory: Directory::new(),
            call: Call::new(),
            rule: KeyRule::default(),
        };
        for port in ports {
            let mut spec = NodeSpec::tcp("127.0.0.1", *port);
            spec.op_timeout = Duration::from_millis(400);
            spec.connect_timeout = Duration::from_millis(400);
            // Else a pool with copies takes its own.
            spec.written.timeout = true;
            bench.pool.add(spec, &mut bench.directory);
        }
        bench
    }

    /// With limits for calls that move megabytes on a busy machine.
    pub(crate) fn patient(protocol: Protocol, ports: &[u16]) -> Bench {
        let mut bench = Bench::over(protocol, ports);
        for index in 0..ports.len() {
            bench
                .pool
                .set_params(index, Duration::from_secs(20), 15, true);
        }
        bench
    }

    pub(crate) fn run(
        &mut self,
        verb: Verb,
        keys: &[&str],
        fill: impl Fn(&mut Call, usize),
    ) -> Vec<Outcome> {
        self.call.reset(verb);
        for (i, key) in keys.iter().enumerate() {
            self.call.push(&self.rule, key.as_bytes()).unwrap();
            fill(&mut self.call, i);
        }
        self.pool.run(&mut self.call);
        (0..keys.len()).map(|i| self.call.outcome(i)).collect()
    }

    pub(crate) fn store(&mut self, verb: Store, key: &str, value: &[u8], cas: u64) -> Outcome {
        self.run(Verb::Store(verb), &[key], |call, i| {
            let start = call.value_mut().len();
            call.value_mut().extend_from_slice(value);
            call.finish_value(start);
            let entry = call.entry_mut(i).unwrap();
            entry.flags = 7 << 16;
            entry.cas = cas;
        })[0]
    }

    pub(crate) fn get(&mut self, key: &str) -> Option<Vec<u8>> {
        match self.run(Verb::Gets, &[key], |_, _| {})[0] {
            Outcome::Hit { value, flags, .. } => {
                assert_eq!(flags & 0xffff_0000, flags);
                Some(self.call.value(value).to_vec())
            }
            _ => None,
        }
    }
}

#[test]
fn a_dead_owner_is_passed_over_and_costs_one_event() {
    let (live, dead) = (Memcached::start(), ClosedPort::new());
    let mut bench = Bench::over(Protocol::Ascii, &[dead.port(), live.port()]);
    // Time enough for the one that lives.
    bench.pool.set_params(1, Duration::from_secs(10), 15, true);
    let mut faults = 0;
    for i in 0..20 {
        let key = format!("k{i}");
        let stored = bench.store(Store::Set, &key, b"v", 0);
        assert_eq!(stored, Outcome::Done, "{:?}", bench.call.events());
        faults += bench.call.events().len();
        assert_eq!(bench.get(&key), Some(b"v".to_vec()));
        faults += bench.call.events().len();
    }
    assert_eq!(faults, 1);
    assert_eq!(live.stat("curr_items"), 20);
}

#[test]
fn a_swallowed_connect_ends_with_its_limit_while_other_nodes_answer() {
    let (live, hole) = (Memcached::start(), BlackHole::start());
    let mut bench = Bench::over(Protocol::Ascii, &[hole.port(), live.port()]);
    let names: Vec<String> = (0..20).map(|i| format!("k{i}")).collect();
    let keys: Vec<&str> = names.iter().map(String::as_str).collect();
    let start = Instant::now();
    bench.run(Verb::Get, &keys, |_, _| {});
    let took = start.elapsed();
    assert!(
        took >= Duration::from_millis(390) && took < Duration::from_millis(900),
        "{took:?}"
    );
    assert_eq!(bench.call.events().len(), 1);
    assert!(
        bench.call.events()[0]
            .message
            .starts_with("Connection failed: Connection timed out")
    );
}

#[test]
fn a_write_cut_after_sending_is_not_repeated_on_another_node() {
    let (live, mut hung) = (Memcached::start(), Memcached::start());
    let mut bench = Bench::over(Protocol::Ascii, &[hung.port(), live.port()]);
    let hung_first: Vec<String> = (0..50).map(|i| format!("w{i}")).collect();
    let key = hung_first
        .iter()
        .find(|key| bench.pool.find(key.as_bytes(), &bench.call.limits) == 0)
        .unwrap()
        .clone();
    assert_eq!(bench.store(Store::Set, &key, b"v", 0), Outcome::Done);
    hung.freeze();
    assert_eq!(bench.store(Store::Set, &key, b"w", 0), Outcome::Lost);
    assert_eq!(bench.call.events()[0].message, "Network timeout");
    assert_eq!(live.stat("cmd_set"), 0);
    // A read may be asked elsewhere, and so may the next write, which meets a node known to be down.
    assert_eq!(bench.get(&key), None);
    assert_eq!(bench.store(Store::Set, &key, b"w", 0), Outcome::Done);
    assert_eq!(live.stat("cmd_set"), 1);
    hung.resume();
    hung.kill();
}

#[test]
fn a_connection_the_server_closed_while_idle_is_replaced_without_a_word() {
    let mut server = Memcached::start();
    let mut bench = Bench::over(Protocol::Ascii, &[server.port()]);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    server.restart();
    assert_eq!(bench.get("k"), None);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    server.restart();
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
}

#[test]
fn surplus_and_foreign_answers_are_never_believed() {
    for reply in [
        "VALUE a 0 3\r\nold\r\nEND\r\nEND\r\n",
        "VALUE b 0 3\r\nold\r\nEND\r\n",
        "VALUE a 0 2\r\nold\r\nEND\r\n",
        "VALUE a 0 4294967296\r\nold",
        "STORED\r\n",
        "hello\r\n",
    ] {
        let server = Hostile::start(move |_| vec![Act::say(reply), Act::Hang]);
        let mut bench = Bench::over(Protocol::Ascii, &[server.port()]);
        assert_eq!(bench.get("a"), None, "{reply}");
        assert_eq!(bench.call.events().len(), 1, "{reply}");
        assert!(
            bench.call.events()[0]
                .message
                .starts_with("Malformed server response")
        );
        assert!(server.ended(0), "{reply}");
    }
}

#[test]
fn an_answer_in_single_bytes_cannot_stretch_the_limit() {
    let slow = b"VALUE a 0 30\r\n012345678901234567890123456789\r\nEND\r\n".to_vec();
    let server = Hostile::start(move |_| vec![Act::Drip(slow.clone(), Duration::from_millis(100))]);
    let mut bench = Bench::over(Protocol::Ascii, &[server.port()]);
    let start = Instant::now();
    assert_eq!(bench.get("a"), None);
    assert!(
        // Five seconds of bytes meet a limit of 400 ms; the rest is for a busy machine.
        start.elapsed() < Duration::from_millis(2500),
        "{:?}",
        start.elapsed()
    );
    assert_eq!(bench.call.events()[0].message, "Network timeout");
}

#[test]
fn an_answer_in_pieces_within_the_limit_is_read_whole() {
    let slow = b"VALUE a 0 3\r\nabc\r\nEND\r\n".to_vec();
    let server = Hostile::start(move |_| vec![Act::Drip(slow.clone(), Duration::from_millis(1))]);
    let mut bench = Bench::over(Protocol::Ascii, &[server.port()]);
    assert_eq!(bench.get("a"), Some(b"abc".to_vec()));
}
