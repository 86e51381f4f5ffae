//! Copied sessions on real nodes: what the machines of `replica` promise, without PHP.

use harness::{Memcached, Redis, Server, wait_until};
use memring_pool::call::{Call, Verb};
use memring_pool::config::{NodeSpec, Placement, Policy};
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::copies::{Task, clock};
use memring_pool::replica::{
    Close, Closed, Ending, Found, Founded, Grips, Open, Opened, PREFERRED, Resynced, Rules, Turn,
    Wish,
};
use memring_pool::session::Store;
use memring_pool::session::fenced::{Fenced, Terms};
use std::sync::{Arc, Barrier};
use std::time::Duration;

const RECORD: &[u8] = b"~r";
const LIFE: u32 = 600;
/// Longer than what a node without the value has.
const LONG: &str = "a value of which other nodes have no more than word";

/// A node of a pool.
pub(crate) trait Place {
    fn spec(&self) -> NodeSpec;

    /// As a save_path names it.
    fn url(&self) -> String {
        let spec = self.spec();
        let scheme = spec.redis.map_or("tcp", |_| "redis");
        format!("{scheme}://127.0.0.1:{}", spec.port)
    }
}

impl Place for Memcached {
    fn spec(&self) -> NodeSpec {
        NodeSpec::tcp("127.0.0.1", self.port())
    }
}

impl Place for Server {
    fn spec(&self) -> NodeSpec {
        NodeSpec {
            redis: self.is_redis().then(Default::default),
            ..NodeSpec::tcp("127.0.0.1", self.port())
        }
    }
}

/// One host of a copied pool: its connections, and its dice.
pub(crate) struct Host {
    pool: Pool,
    call: Call,
    dice: u64,
    life: u32,
}

impl Host {
    pub(crate) fn of(nodes: &[impl Place], seed: u64) -> Host {
        let mut directory = Directory::new();
        let mut pool = Pool::new(Policy {
            placement: Placement::Rendezvous,
            ..Policy::default()
        });
        for node in nodes {
            let mut spec = node.spec();
            spec.op_timeout = Duration::from_millis(300);
            spec.connect_timeout = Duration::from_millis(300);
            spec.retry_interval = 0;
            spec.persistent = false;
            pool.add(spec, &mut directory);
        }
        let mut call = Call::new();
        call.reset(Verb::Get);
        Host {
            pool,
            call,
            dice: seed << 32,
            life: LIFE,
        }
    }

    /// The same with sessions that live so many seconds.
    pub(crate) fn lasting(self, life: u32) -> Host {
        Host { life, ..self }
    }

    fn throw(&mut self) -> u64 {
        self.dice += 1;
        // Any numbers do that no other host has.
        self.dice.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }

    pub(crate) fn found(&mut self) -> Founded {
        let random = self.throw();
        self.pool.found(RECORD, random, &mut self.call)
    }

    pub(crate) fn resync(&mut self, node: usize) -> Resynced {
        let random = self.throw();
        self.pool.resync(node, RECORD, random, &mut self.call).end
    }

    /// Passes over all nodes until each is trusted and none is listed, also a moment later: a
    /// request that began while a node was away lists it when it ends.
    pub(crate) fn bring_back(&mut self, nodes: usize) -> bool {
        let mut calm = 0;
        wait_until(Duration::from_secs(30), || {
            let whole = (0..nodes).all(|node| self.resync(node) == Resynced::Nothing);
            calm = if whole { calm + 1 } else { 0 };
            calm > 10
        })
    }

    pub(crate) fn open(&mut self, id: &str, turn: Option<Turn>, fresh: bool) -> Opened {
        self.call.reset(Verb::Get);
        let nodes = self.pool.preferred(id.as_bytes(), PREFERRED);
        let wish = Wish {
            nodes: nodes
                .iter()
                .map(|node| self.pool.ring_name(*node))
                .collect(),
            asked: PREFERRED,
            copies: self.pool.copies(),
            rules: Rules::ALL,
            turn,
            fresh,
            epoch: None,
            host: "web1".into(),
            random: self.throw(),
        };
        let mut out = Vec::new();
        let mut open = Open::new(wish, clock(), &mut out);
        let task = Task {
            key: id.as_bytes(),
            record_key: RECORD,
            nodes: &nodes,
        };
        self.pool.drive(&mut open, out, task, &mut self.call);
        open.outcome().unwrap()
    }

    pub(crate) fn close(&mut self, id: &str, grips: Grips, ending: Ending) -> Closed {
        let nodes = self.pool.preferred(id.as_bytes(), PREFERRED);
        let random = self.throw() as u32;
        let mut out = Vec::new();
        let mut close = Close::new(grips, ending, self.life, clock(), random, &mut out);
        let task = Task {
            key: id.as_bytes(),
            record_key: RECORD,
            nodes: &nodes,
        };
        self.pool.drive(&mut close, out, task, &mut self.call);
        close.outcome().unwrap()
    }

    /// A whole request that stores `value`.
    pub(crate) fn write(&mut self, id: &str, value: &str) -> Closed {
        let opened = self.open(id, TURN, true);
        assert!(
            matches!(opened.found, Found::Value(_) | Found::Nothing),
            "{id}: {:?}",
            opened.found
        );
        self.close(id, opened.grips, text(value))
    }

    /// What a read without a turn finds.
    pub(crate) fn read(&mut self, id: &str) -> Found {
        self.open(id, None, false).found
    }

    pub(crate) fn destroy(&mut self, id: &str) -> Closed {
        let opened = self.open(id, TURN, false);
        self.close(id, opened.grips, Ending::Destroy)
    }
}

pub(crate) const TURN: Option<Turn> = Some(Turn {
    wait: 3000,
    lease: 30_000,
});

pub(crate) fn text(value: &str) -> Ending {
    Ending::Write(Arc::from(value.as_bytes()))
}

pub(crate) fn value(value: &str) -> Found {
    Found::Value(Arc::from(value.as_bytes()))
}

/// Three nodes of a cache: all of this machine's memcached, and, where another is named, all of that one
/// and a mixture.
pub(crate) fn caches() -> Vec<Vec<Memcached>> {
    let mut pools = vec![(0..3).map(|_| Memcached::start()).collect::<Vec<_>>()];
    let newer = |count: usize| -> Option<Vec<Memcached>> {
        (0..count).map(|_| Memcached::newer(&[])).collect()
    };
    if let (Some(all), Some(mut mixed)) = (newer(3), newer(1)) {
        pools.push(all);
        mixed.push(Memcached::start());
        mixed.push(Memcached::start());
        pools.push(mixed);
    } else {
        harness::leave_out("MEMRING_MEMCACHED_NEW names no newer memcached");
    }
    pools
}

/// Three nodes of sessions: those of a cache, three Redis, and one memcached with two Redis.
pub(crate) fn pools() -> Vec<Vec<Server>> {
    let caches = caches().into_iter();
    let mut pools: Vec<Vec<Server>> = caches
        .map(|nodes| nodes.into_iter().map(Server::Memcached).collect())
        .collect();
    let redis = || Server::Redis(Redis::start());
    pools.push(vec![redis(), redis(), redis()]);
    pools.push(vec![
        Server::Memcached(Memcached::start()),
        redis(),
        redis(),
    ]);
    pools
}

#[test]
fn many_first_visitors_of_a_new_pool_are_all_let_in() {
    const VISITORS: usize = 12;
    for _ in 0..4 {
        let nodes = [(); 3].map(|()| Memcached::start());
        let begin = Barrier::new(VISITORS);
        let visit = |number: usize| {
            let terms = Terms {
                wait: Duration::from_secs(5),
                lease: Duration::from_secs(30),
                life: LIFE,
            };
            let mut sessions = Fenced::new(Host::of(&nodes, 1).pool, b"", terms);
            begin.wait();
            let id = format!("visitor{number:020}");
            sessions
                .read(id.as_bytes(), true)
                .and_then(|_| sessions.write(id.as_bytes(), b"here", LIFE))
        };
        std::thread::scope(|scope| {
            let visit = &visit;
            let visits: Vec<_> = (0..VISITORS)
                .map(|number| scope.spawn(move || visit(number)))
                .collect();
            for visit in visits {
                assert_eq!(visit.join().unwrap(), Ok(()));
            }
        });
    }
}

#[test]
fn a_written_session_is_read_back_and_lies_on_all_three_nodes() {
    for nodes in pools() {
        let mut host = Host::of(&nodes, 1);
        assert_eq!(host.found(), Founded::New);
        assert_eq!(host.found(), Founded::Nothing);
        assert_eq!(host.read("s1"), Found::Nothing);
        assert_eq!(host.write("s1", "one"), Closed::Done { copies: 3 });
        assert_eq!(host.write("s1", "two"), Closed::Done { copies: 3 });
        assert_eq!(host.read("s1"), value("two"));
        for node in &nodes {
            assert!(node.stored("s1").is_some());
        }
        assert_eq!(host.destroy("s1"), Closed::Done { copies: 3 });
        assert_eq!(host.read("s1"), Found::Nothing);
        assert_eq!(host.write("s1", "again"), Closed::Done { copies: 3 });
        assert_eq!(host.read("s1"), value("again"));
    }
}

#[test]
fn with_two_copies_the_third_node_has_word_of_a_session_and_gets_the_value_when_another_is_away() {
    for mut nodes in pools() {
        let mut host = Host::of(&nodes, 1);
        host.pool.policy_mut().copies = Some(2);
        host.found();
        assert_eq!(host.write("s1", LONG), Closed::Done { copies: 3 });
        let order = host.pool.preferred(b"s1", PREFERRED);
        let has = |nodes: &[Server], place: usize| {
            let stored = nodes[order[place]].stored("s1").unwrap();
            String::from_utf8_lossy(&stored).contains(LONG)
        };
        assert_eq!(
            [0, 1, 2].map(|place| has(&nodes, place)),
            [true, true, false]
        );
        nodes[order[0]].freeze();
        assert_eq!(host.read("s1"), value(LONG));
        assert!(!has(&nodes, 2), "somebody else may have the turn");
        let opened = host.open("s1", TURN, false);
        assert_eq!(opened.found, value(LONG));
        assert!(has(&nodes, 2), "who has the turn brings it there");
        host.close("s1", opened.grips, Ending::Release);
        nodes[order[0]].resume();
        assert!(host.bring_back(3));
        // The owner goes while the write is under way: the third gets the value behind its word.
        let opened = host.open("s1", TURN, false);
        assert_eq!(opened.found, value(LONG));
        nodes[order[0]].freeze();
        let longer = LONG.repeat(2);
        assert_eq!(
            host.close("s1", opened.grips, text(&longer)),
            Closed::Done { copies: 2 }
        );
        let stored = nodes[order[2]].stored("s1").unwrap();
        assert!(String::from_utf8_lossy(&stored).contains(&longer));
        nodes[order[0]].resume();
        assert!(host.bring_back(3));
        // Word alone is no session: while both who had it are away nobody is given another one.
        nodes[order[0]].kill();
        nodes[order[0]].restart();
        assert!(host.bring_back(3));
        assert_eq!(host.write("s1", LONG), Closed::Done { copies: 3 });
        assert!(!has(&nodes, 2));
        nodes[order[0]].freeze();
        nodes[order[1]].freeze();
        assert_eq!(host.read("s1"), Found::Doubt);
        nodes[order[0]].resume();
        nodes[order[1]].resume();
        assert!(host.bring_back(3));
        assert_eq!(host.read("s1"), value(LONG));
    }
}

#[test]
fn each_node_killed_and_back_empty_in_turn_loses_no_session() {
    for mut nodes in pools() {
        let mut host = Host::of(&nodes, 1);
        assert_eq!(host.found(), Founded::New);
        let ids: Vec<String> = (0..40).map(|n| format!("s{n}")).collect();
        for id in &ids {
            assert_eq!(host.write(id, "0"), Closed::Done { copies: 3 });
        }
        for (turn, node) in nodes.iter_mut().enumerate() {
            node.kill();
            for (n, id) in ids.iter().enumerate() {
                let before = host.read(id);
                assert_eq!(before, value(&turn.to_string()), "{id}, node {turn} away");
                // Half of them change while the node is away, half when it is back and empty.
                if n % 2 == 0 {
                    let now = (turn + 1).to_string();
                    assert_eq!(host.write(id, &now), Closed::Done { copies: 2 });
                }
            }
            node.restart();
            for (n, id) in ids.iter().enumerate() {
                if n % 2 == 1 {
                    assert_eq!(
                        host.read(id),
                        value(&turn.to_string()),
                        "{id}, node {turn} empty"
                    );
                    let stored = host.write(id, &(turn + 1).to_string());
                    assert!(matches!(stored, Closed::Done { .. }), "{id}: {stored:?}");
                }
            }
            assert_eq!(host.resync(turn), Resynced::Trusted, "node {turn}");
            assert_eq!(host.resync(turn), Resynced::Nothing);
        }
        for id in &ids {
            assert_eq!(host.read(id), value("3"));
        }
    }
}

#[test]
fn a_node_that_hung_brings_back_no_older_session_and_no_destroyed_one() {
    for mut nodes in pools() {
        let mut host = Host::of(&nodes, 1);
        host.found();
        let ids: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
        for id in &ids {
            host.write(id, "old");
        }
        nodes[0].freeze();
        for (n, id) in ids.iter().enumerate() {
            let done = if n % 2 == 0 {
                host.write(id, "new")
            } else {
                host.destroy(id)
            };
            assert_eq!(done, Closed::Done { copies: 2 }, "{id}");
        }
        nodes[0].resume();
        let mut other = Host::of(&nodes, 2);
        for (n, id) in ids.iter().enumerate() {
            let now = if n % 2 == 0 {
                value("new")
            } else {
                Found::Nothing
            };
            assert_eq!(other.read(id), now, "{id}");
        }
        assert_eq!(other.resync(0), Resynced::Trusted);
        // Now each of the others may go.
        nodes[1].kill();
        for (n, id) in ids.iter().enumerate() {
            let now = if n % 2 == 0 {
                value("new")
            } else {
                Found::Nothing
            };
            assert_eq!(other.read(id), now, "{id}");
        }
    }
}

#[test]
fn a_turn_is_had_by_one_at_a_time_and_handed_over_at_close() {
    for nodes in pools() {
        let mut host = Host::of(&nodes, 1);
        host.found();
        host.write("counter", "0");
        const WORKERS: u64 = 6;
        const ROUNDS: u64 = 15;
        std::thread::scope(|scope| {
            for worker in 0..WORKERS {
                let nodes = &nodes;
                scope.spawn(move || {
                    let mut host = Host::of(nodes, worker + 2);
                    for _ in 0..ROUNDS {
                        let turn = Some(Turn {
                            wait: 30_000,
                            lease: 60_000,
                        });
                        let opened = host.open("counter", turn, false);
                        let Found::Value(data) = &opened.found else {
                            panic!("{:?}", opened.found)
                        };
                        let count: u64 = std::str::from_utf8(data).unwrap().parse().unwrap();
                        let closed =
                            host.close("counter", opened.grips, text(&(count + 1).to_string()));
                        assert!(matches!(closed, Closed::Done { .. }), "{closed:?}");
                    }
                });
            }
        });
        assert_eq!(host.read("counter"), value(&(WORKERS * ROUNDS).to_string()));
    }
}

#[test]
fn who_lost_his_turn_overwrites_nothing_and_is_told() {
    for nodes in pools() {
        let (mut slow, mut quick) = (Host::of(&nodes, 1), Host::of(&nodes, 2));
        slow.found();
        slow.write("s", "base");
        let opened = slow.open("s", TURN, false);
        let impatient = Some(Turn {
            wait: 5000,
            lease: 50,
        });
        let taken = quick.open("s", impatient, false);
        assert_eq!(taken.found, value("base"));
        assert_eq!(
            slow.close("s", opened.grips, text("slow")),
            Closed::Conflict
        );
        assert_eq!(quick.read("s"), value("base"));
        assert_eq!(
            quick.close("s", taken.grips, text("quick")),
            Closed::Done { copies: 3 }
        );
        assert_eq!(slow.read("s"), value("quick"));
    }
}

#[test]
fn an_unchanged_session_gives_its_turn_back_and_is_stored_again_where_it_is_gone() {
    for nodes in pools() {
        let mut host = Host::of(&nodes, 1);
        host.found();
        host.write("s", "kept");
        let opened = host.open("s", TURN, false);
        nodes[1].delete("s");
        assert_eq!(
            host.close("s", opened.grips, Ending::Touch),
            Closed::Done { copies: 3 }
        );
        assert!(nodes[1].stored("s").is_some());
        // Nobody waits: the turn is free at once, after a touch as after a release.
        let at_once = Some(Turn {
            wait: 0,
            lease: 30_000,
        });
        let opened = host.open("s", at_once, false);
        assert_eq!(opened.found, value("kept"));
        host.close("s", opened.grips, Ending::Release);
        assert_eq!(host.read("s"), value("kept"));
        assert_eq!(host.open("s", at_once, false).found, value("kept"));
        assert_eq!(host.open("s", at_once, false).found, Found::Locked);
    }
}
