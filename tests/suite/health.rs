//! Failed nodes of copied pools, behind php-fpm: who pays, who probes, who is left out.
//!
//! What is counted is what passes a proxy before the node: connections and commands, not time.

use crate::companion::{Tend, is_safe};
use crate::sessions::php;
use harness::proxy::From;
use harness::{Memcached, PhpFpm, Proxy, Server, TempDir, wait_until};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// A page that counts in the session it is asked for.
const PAGE: &str = "ini_set('session.use_cookies', 0); session_id($_GET['id']); \
    $ok = session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; $n = $_SESSION['n']; \
    $ok = $ok && session_write_close(); echo json_encode([$ok, $n]);";

/// Longer than the default: a busy machine lets a well node wait, too.
const TIMEOUT: &str = "?timeout=2";

/// Some nodes behind proxies, a php-fpm that keeps its sessions there, and what it shares.
pub(crate) struct Stage<Node = Memcached> {
    pub(crate) nodes: Vec<Node>,
    pub(crate) proxies: Vec<Proxy>,
    list: Vec<String>,
    pub(crate) fpm: PhpFpm,
    pub(crate) state: TempDir,
    log: TempDir,
}

impl Stage {
    pub(crate) fn of(count: usize, workers: usize) -> Stage {
        let nodes: Vec<Memcached> = (0..count).map(|_| Memcached::start()).collect();
        let way = |node: &Memcached| (node.port(), "tcp://".to_owned(), String::new());
        let ways = nodes.iter().map(way).collect();
        Stage::over(nodes, ways, workers)
    }
}

impl Stage<Server> {
    /// The same over these nodes, of whatever kind.
    pub(crate) fn on(nodes: Vec<Server>, workers: usize) -> Stage<Server> {
        let way = |node: &Server| (node.port(), format!("{}://", node.scheme()), String::new());
        let ways = nodes.iter().map(way).collect();
        Stage::over(nodes, ways, workers)
    }
}

impl<Node: Sync> Stage<Node> {
    /// The same over nodes that are entered so: port, what stands before the host, and options.
    pub(crate) fn over(
        nodes: Vec<Node>,
        ways: Vec<(u16, String, String)>,
        workers: usize,
    ) -> Stage<Node> {
        let proxies: Vec<Proxy> = ways.iter().map(|way| Proxy::start(way.0)).collect();
        let list: Vec<String> = proxies
            .iter()
            .zip(&ways)
            .map(|(proxy, (_, before, options))| {
                format!("{before}127.0.0.1:{}{TIMEOUT}{options}", proxy.port())
            })
            .collect();
        let (state, log) = (TempDir::new("health"), TempDir::new("log"));
        let php = php(&list.join(", "))
            .ini("session.save_handler", "memring")
            .ini("memring.state_dir", state.path().display())
            .ini("log_errors", 1)
            .ini("error_log", log.path().join("php").display());
        let fpm = PhpFpm::with(&php, workers, "");
        fpm.page("count.php", PAGE);
        let stage = Stage {
            nodes,
            proxies,
            list,
            fpm,
            state,
            log,
        };
        assert_eq!(stage.visit("first"), "[true,1]");
        stage
    }

    /// The nodes as PHP sees them, as a list for the companion.
    pub(crate) fn list(&self) -> String {
        self.list.join(",")
    }

    /// What PHP logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.log.path().join("php")).unwrap_or_default()
    }

    pub(crate) fn visit(&self, id: &str) -> String {
        let reply = self.fpm.get("count.php", &format!("id={id}"), "");
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    /// A counter of the region, by its place: counters follow eight words of head.
    fn counted(&self, place: usize) -> u64 {
        let entries = std::fs::read_dir(self.state.path()).expect("the state directory");
        let region = entries.flatten().next().expect("a region").path();
        let bytes = std::fs::read(region).expect("the region");
        let at = 64 + 8 * place;
        u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
    }

    /// Probes made by workers (`memring_pool::counters`).
    fn probes(&self) -> u64 {
        self.counted(memring_pool::counters::Counter::Probes.index())
    }

    /// What workers sent to a node since `since`, but for probes.
    fn requests(&self, node: usize, since: Instant) -> Vec<String> {
        self.proxies[node]
            .events()
            .iter()
            .filter(|event| event.from == From::Client && event.at >= since)
            .map(|event| String::from_utf8_lossy(&event.bytes).into_owned())
            .filter(|said| said != "version\r\n")
            .collect()
    }

    /// Has `clients` visit their sessions all the while `act` runs; every visit must succeed
    /// and find its session as it left it. How many there were.
    fn under_load(&self, clients: usize, act: impl FnOnce(&AtomicU64)) -> u64 {
        let (ends, visits) = (AtomicBool::new(false), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..clients)
                .map(|client| {
                    let (ends, visits) = (&ends, &visits);
                    scope.spawn(move || {
                        let mut counts: HashMap<String, u64> = HashMap::new();
                        let mut round = 0;
                        while !ends.load(Ordering::Relaxed) {
                            round += 1;
                            let id = format!("c{client}-{}", round % 5);
                            let count = counts.entry(id.clone()).or_default();
                            *count += 1;
                            let answer = self.visit(&id);
                            assert_eq!(answer, format!("[true,{count}]"), "{id}: {}", self.log());
                            visits.fetch_add(1, Ordering::Relaxed);
                        }
                    })
                })
                .collect();
            let end = End(&ends);
            act(&visits);
            drop(end);
            for thread in threads {
                thread.join().unwrap();
            }
        });
        visits.into_inner()
    }
}

/// Ends the load, however the test goes on.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Waits until so many more visits were made.
fn more(visits: &AtomicU64, count: u64) {
    let from = visits.load(Ordering::Relaxed);
    let enough = || visits.load(Ordering::Relaxed) >= from + count;
    assert!(wait_until(Duration::from_secs(60), enough), "no visits");
}

#[test]
fn a_node_killed_under_20_workers_costs_one_connect_and_no_request() {
    let mut stage = Stage::of(3, 20);
    let mut gone = stage.nodes.remove(0);
    stage.under_load(20, |visits| {
        more(visits, 100);
        gone.kill();
        // Those in flight, one try each, and each worker's first connection.
        more(visits, 60);
        let late = Instant::now();
        let before = stage.proxies[0].connections() as u64;
        let probes = stage.probes();
        more(visits, 300);
        let connects = stage.proxies[0].connections() as u64 - before;
        assert!(
            connects <= stage.probes() - probes + 1,
            "{connects} connects, {} probes",
            stage.probes() - probes
        );
        assert_eq!(stage.requests(0, late), Vec::<String>::new());
    });
    let log = stage.log();
    assert_eq!(log.matches("is out: ").count(), 1, "{log}");
    assert!(!log.contains("Warning"), "{log}");
}

#[test]
fn a_hung_node_is_waited_for_by_those_in_flight_and_by_nobody_after_and_returns_without_an_error() {
    let stage = Stage::of(3, 8);
    stage.under_load(8, |visits| {
        more(visits, 50);
        stage.nodes[0].freeze();
        // One more visit each: who was in flight when it fell silent has ended by then.
        more(visits, 16);
        let late = Instant::now();
        more(visits, 150);
        assert_eq!(stage.requests(0, late), Vec::<String>::new());
        assert!(stage.probes() > 0);
        stage.nodes[0].resume();
        let back = Instant::now();
        // It is probed, and used again.
        let used = || !stage.requests(0, back).is_empty();
        assert!(wait_until(Duration::from_secs(30), used), "not used again");
        more(visits, 50);
    });
    let log = stage.log();
    assert_eq!(log.matches("fell silent").count(), 1, "{log}");
    assert!(!log.contains("Warning"), "{log}");
}

#[test]
fn nobody_is_left_out_when_all_nodes_failed() {
    let stage = Stage::of(2, 1);
    stage.nodes.iter().for_each(Memcached::freeze);
    for _ in 0..2 {
        assert!(!stage.visit("first").starts_with("[true"));
    }
    stage.nodes.iter().for_each(Memcached::resume);
    // The very next request asks both, whatever is known of them and whenever a probe is due.
    // (The turn on the first session may now be with a request that was not answered.)
    assert_eq!(stage.visit("second"), "[true,1]");
}

#[test]
fn a_host_that_alone_cannot_reach_two_nodes_writes_nothing_and_names_itself() {
    let stage = Stage::of(5, 1);
    stage.nodes[0].freeze();
    stage.nodes[1].freeze();
    let ids: Vec<String> = (0..12).map(|n| format!("s{n}")).collect();
    for id in &ids {
        stage.visit(id);
    }
    // Both are known to be out by now: no session is stored, not even one that prefers one of them.
    let mut refused = 0;
    for id in &ids {
        let answer = stage.visit(id);
        assert!(!answer.starts_with("[true"), "{answer}");
        refused += usize::from(answer.contains("cannot reach two nodes"));
    }
    assert!(refused > 0, "{}", stage.log());
    let listed = |node: &Memcached| {
        let record = node
            .stored("~r")
            .map(|(_, bytes)| bytes)
            .unwrap_or_default();
        String::from_utf8_lossy(&record).matches(" -").count()
    };
    for node in &stage.nodes[2..] {
        assert!(listed(node) <= 1, "two nodes are listed as absent");
    }
    stage.nodes[0].resume();
    stage.nodes[1].resume();
    let well = || stage.visit("s0").starts_with("[true");
    assert!(
        wait_until(Duration::from_secs(20), well),
        "{}",
        stage.visit("s0")
    );
}

#[test]
fn a_node_that_is_back_is_asked_though_still_marked_when_another_one_hangs() {
    let mut nodes = [(); 3].map(|()| Memcached::start());
    let entry = |node: &Memcached| format!("127.0.0.1:{}{TIMEOUT}", node.port());
    let list = nodes.each_ref().map(entry).join(",");
    let php = php(&list).ini("session.save_handler", "memring");
    let count =
        "session_id('s'); session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;";
    assert_eq!(php.run(count).ok(), "1");
    nodes[0].kill();
    assert_eq!(php.run(count).ok(), "2");
    nodes[0].restart();
    // It mends, and knows nothing of the marks in the state directory of PHP.
    let elsewhere = TempDir::new("elsewhere");
    let tend = Tend::beside(elsewhere.path().to_str().unwrap(), &["--list", &list]);
    let back = wait_until(Duration::from_secs(20), || is_safe(&list));
    assert!(back, "{}", tend.log());
    nodes[1].freeze();
    assert_eq!(php.run(count).ok(), "3");
    nodes[1].resume();
}
