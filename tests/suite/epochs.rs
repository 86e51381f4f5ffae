//! A copied pool's nodes change under load, while some hosts have the new file and some the
//! old one: no session is lost, and none goes backwards.

use crate::companion::{Tend, run};
use harness::{Memcached, Php, PhpFpm, Redis, TempDir, wait_until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Long enough for a busy machine.
const SOON: Duration = Duration::from_secs(30);

const PAGE: &str = r#"
    ini_set('display_errors', 0);
    session_id($_GET['s']);
    if (!session_start()) die('refused');
    $n = $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
    echo session_write_close() ? "$n" : "unsure $n";
"#;

/// A web host: a php-fpm with a pool file of its own.
pub(crate) struct Host {
    fpm: PhpFpm,
    directory: TempDir,
}

impl Host {
    pub(crate) fn start(file: &str) -> Host {
        Host::start_with(file, &[])
    }

    /// The same with these settings.
    pub(crate) fn start_with(file: &str, settings: &[(&str, &str)]) -> Host {
        let directory = TempDir::new("epochs");
        let path = directory.file("memring.toml", file);
        let php = Php::new()
            .ini("memring.config_file", path.display())
            .ini("session.save_handler", "memring")
            .ini("session.save_path", "pool:sessions");
        let php = settings
            .iter()
            .fold(php, |php, (name, value)| php.ini(name, value));
        Host::with(directory, php)
    }

    /// One with pecl-memcache, the shared object `original`, on these nodes.
    pub(crate) fn original(original: &Path, nodes: &[&Memcached]) -> Host {
        let list: Vec<String> = nodes
            .iter()
            .map(|node| format!("tcp://{}", node.address()))
            .collect();
        let php = Php::bare()
            .extension(original)
            .ini("session.save_handler", "memcache")
            .ini("session.save_path", list.join(", "));
        Host::with(TempDir::new("original"), php)
    }

    fn with(directory: TempDir, php: Php) -> Host {
        let php = php
            .ini("session.use_cookies", 0)
            .ini("session.cache_limiter", "")
            .ini("log_errors", 1)
            .ini("error_log", directory.path().join("php.log").display());
        let fpm = PhpFpm::with(&php, 3, "");
        fpm.page("count.php", PAGE);
        Host { fpm, directory }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("memring.toml")
    }

    /// Puts a new file in place, as an administrator should: whole.
    pub(crate) fn give(&self, file: &str) {
        let new = self.directory.file("memring.toml.new", file);
        std::fs::rename(new, self.path()).unwrap();
    }

    pub(crate) fn visit(&self, session: &str) -> String {
        self.ask("count.php", session)
    }

    pub(crate) fn page(&self, name: &str, script: &str) {
        self.fpm.page(name, script);
    }

    pub(crate) fn ask(&self, page: &str, session: &str) -> String {
        let reply = self.fpm.get(page, &format!("s={session}"), "");
        String::from_utf8_lossy(&reply.body).trim().to_owned()
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("php.log")).unwrap_or_default()
    }
}

/// A pool of these nodes; `more` is added to its table.
pub(crate) fn file(nodes: &[String], more: &str) -> String {
    format!("[pool.sessions]\nnodes = {nodes:?}\nmode = \"fenced\"\n{more}\n")
}

pub(crate) fn names(nodes: &[&Memcached]) -> Vec<String> {
    let name = |node: &&Memcached| format!("127.0.0.1:{}?retry_interval=0&timeout=2", node.port());
    nodes.iter().map(name).collect()
}

/// What is known of each session: the count acknowledged last, and the highest one that may
/// have been stored without an acknowledgement.
pub(crate) type Counts = Mutex<BTreeMap<String, (u64, u64)>>;

/// Visits one session on the first of these hosts that lets it in, and checks its count.
pub(crate) fn visit(hosts: &[&Host], session: &str, counts: &Counts) -> bool {
    let (known, perhaps) = *counts.lock().unwrap().get(session).unwrap_or(&(0, 0));
    let Some(said) = hosts
        .iter()
        .map(|host| host.visit(session))
        .find(|said| said != "refused")
    else {
        return false;
    };
    let number = |text: &str| {
        text.parse::<u64>()
            .unwrap_or_else(|_| panic!("{session}: {said}"))
    };
    let (n, sure) = match said.strip_prefix("unsure ") {
        Some(n) => (number(n), false),
        None => (number(&said), true),
    };
    assert!(
        (known + 1..=perhaps.max(known) + 1).contains(&n),
        "{session}: {said} after {known}, or {perhaps}"
    );
    let now = if sure { (n, n) } else { (known, n) };
    counts.lock().unwrap().insert(session.to_owned(), now);
    true
}

/// Visits all sessions again and again on both hosts in turn, while `work` is done.
pub(crate) fn under_load(hosts: [&Host; 2], counts: &Counts, work: impl FnOnce()) {
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for thread in 0..3 {
            let over = &over;
            scope.spawn(move || {
                let mut turn = thread;
                while !over.load(Ordering::Relaxed) {
                    for number in 0..12 {
                        turn += 1;
                        let mut order = hosts;
                        if turn % 2 == 1 {
                            order.reverse();
                        }
                        let session = format!("s{thread}x{number}");
                        assert!(
                            visit(&order, &session, counts),
                            "{session}: refused everywhere: {}",
                            order[0].log()
                        );
                    }
                }
            });
        }
        // A panic in `work` must end the threads, too.
        struct End<'a>(&'a AtomicBool);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = End(&over);
        work();
    });
}

fn commit(host: &Host) -> (i32, String) {
    commit_with(host, &[])
}

/// The same with these options.
fn commit_with(host: &Host, options: &[&str]) -> (i32, String) {
    let path = host.path().display().to_string();
    let words = [&["commit", "--config", &path], options, &["sessions"]].concat();
    let (code, out, err) = run(&words);
    (code, out + &err)
}

/// Has every node of the pool brought up to date.
pub(crate) fn tend(host: &Host) {
    tend_file(&host.path().display().to_string());
}

/// The same with the pool file at this path.
pub(crate) fn tend_file(path: &str) {
    let mut said = String::new();
    let safe = wait_until(SOON, || {
        let (code, _, err) = run(&["tend", "--once", "--config", path]);
        said = err;
        code == 0
    });
    assert!(safe, "{said}");
}

/// A few more rounds of visits.
pub(crate) fn a_while(counts: &Counts) {
    let total = || counts.lock().unwrap().values().map(|(n, _)| n).sum::<u64>();
    let before = total();
    assert!(wait_until(SOON, || total() > before + 150), "no visits");
}

/// One step from `before` to `after` under load: first one host has it, then it is committed,
/// then the other one has it, too. A tend runs on the first: a node that a request could not wait
/// for is whole again before the step ends.
fn step(hosts: [&Host; 2], counts: &Counts, after: &str, meanwhile: impl FnOnce()) {
    let [first, second] = hosts;
    let log = second.log().len();
    let tended = Tend::of(&["--config", &first.path().display().to_string()]);
    under_load(hosts, counts, || {
        a_while(counts);
        first.give(after);
        a_while(counts);
        meanwhile();
        let (code, said) = commit(first);
        let path = first.path().display().to_string();
        let (_, status, _) = run(&["status", "--config", &path]);
        let logs = [tended.log(), first.log(), second.log()].join("\n");
        assert_eq!(code, 0, "{said}\n{status}\n{logs}");
        a_while(counts);
    });
    // Who is behind lets nobody in, and says why.
    assert_eq!(second.visit("s0x0"), "refused");
    let said = second.log()[log..].to_owned();
    assert!(
        said.contains("epoch") && said.contains("Bring the new file"),
        "{said}"
    );
    second.give(after);
    under_load(hosts, counts, || {
        a_while(counts);
        tend(first);
    });
    for session in counts.lock().unwrap().keys() {
        assert_ne!(second.visit(session), "refused", "{}", second.log());
    }
    let mut now = counts.lock().unwrap();
    now.values_mut().for_each(|(n, perhaps)| {
        *n += 1;
        *perhaps = (*perhaps).max(*n);
    });
}

#[test]
fn nodes_are_added_removed_and_replaced_under_load_and_no_session_goes_backwards() {
    let [mut a, mut b, c, d] = [(); 4].map(|()| Memcached::start());
    let three = names(&[&a, &b, &c]);
    let first = file(&three, "");
    let (one, two) = (Host::start(&first), Host::start(&first));
    let counts = Counts::default();
    let hosts = [&one, &two];
    // The first visit makes the pool; that is not what is looked at here.
    assert!(visit(&hosts, "first", &counts), "{}", one.log());

    let four = names(&[&a, &b, &c, &d]);
    let added = file(&four, &format!("epoch = 1\nprevious_nodes = {three:?}"));
    step(hosts, &counts, &added, || {});
    assert!(d.stat("curr_items") > 10, "{}", d.stat("curr_items"));

    // A node that goes may be gone before the step ends.
    let left = names(&[&b, &c, &d]);
    let removed = file(&left, &format!("epoch = 2\nprevious_nodes = {four:?}"));
    step(hosts, &counts, &removed, || a.kill());

    // Another one in its place, drained away first.
    let e = Memcached::start();
    let mut drained = left.clone();
    drained[0].push_str("&drain=1");
    drained.push(names(&[&e]).remove(0));
    let previous = format!("epoch = 3\nprevious_nodes = {left:?}");
    step(hosts, &counts, &file(&drained, &previous), || {});
    let path = one.path().display().to_string();
    let (code, out, _) = run(&["status", "--config", &path]);
    let b_name = format!("127.0.0.1:{}", b.port());
    assert!(
        code == 0 && out.contains(&format!("{b_name}: safe to stop")),
        "{out}"
    );
    b.kill();
    let asked = counts.lock().unwrap().keys().cloned().collect::<Vec<_>>();
    for session in asked {
        assert!(visit(&hosts, &session, &counts));
    }
}

/// By the old list a node lacks what was written by the new one: that is no reason to doubt it.
#[test]
fn visits_on_a_host_that_has_the_old_file_cost_no_node_its_trust() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let of = |count: usize| names(&nodes[..count].iter().collect::<Vec<_>>());
    let first = file(&of(3), "");
    let (one, two) = (Host::start(&first), Host::start(&first));
    let sessions: Vec<String> = (0..30).map(|number| format!("s{number}")).collect();
    let visit_all = |count: &str| {
        for session in &sessions {
            assert_eq!(one.visit(session), count, "{session}\n{}", one.log());
        }
    };
    visit_all("1");
    one.give(&file(
        &of(4),
        &format!("epoch = 1\nprevious_nodes = {:?}", of(3)),
    ));
    assert!(wait_until(SOON, || {
        one.visit("another");
        commit(&one).0 == 0
    }));
    tend(&one);
    visit_all("2");
    for session in &sessions {
        assert_eq!(two.visit(session), "refused");
    }
    let path = one.path().display().to_string();
    let (code, said, _) = run(&["status", "--config", &path]);
    assert_eq!(code, 0, "{said}");
    visit_all("3");
}

/// A node that had only word of a session is among its first two when another leaves the list.
#[test]
fn with_two_copies_a_node_that_goes_leaves_each_value_on_two_nodes() {
    let mut nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let four = names(&nodes.iter().collect::<Vec<_>>());
    let host = Host::start(&file(&four, "copies = 2"));
    let sessions: Vec<String> = (0..60).map(|number| format!("s{number}")).collect();
    let visit_all = |count: &str| {
        for session in &sessions {
            assert_eq!(host.visit(session), count, "{session}\n{}", host.log());
        }
    };
    visit_all("1");
    let three = names(&nodes[1..].iter().collect::<Vec<_>>());
    host.give(&file(
        &three,
        &format!("copies = 2\nepoch = 1\nprevious_nodes = {four:?}"),
    ));
    // One look at the new file; the other sessions are not visited before the commit.
    assert!(wait_until(SOON, || {
        host.visit("another");
        commit(&host).0 == 0
    }));
    nodes[0].kill();
    tend(&host);
    nodes[1].kill();
    visit_all("2");
}

/// The third node has only word of the session, so it takes the turn to give it the value.
#[test]
fn a_commit_does_not_wait_for_ever_for_a_request_that_was_killed() {
    let mut nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let four = names(&nodes.iter().collect::<Vec<_>>());
    let host = Host::start(&file(&four, "copies = 2"));
    host.page(
        "owner.php",
        r"echo Memring\route('pool:sessions', 'session', $_GET['s'])['owner'];",
    );
    let address = nodes[0].address();
    let owned = |session: &String| host.ask("owner.php", session) == address;
    let session = (0..1000).map(|number| format!("s{number}")).find(owned);
    let session = session.unwrap();
    assert_eq!(host.visit(&session), "1");
    host.page(
        "die.php",
        "session_id($_GET['s']); session_start(); exec('kill -9 ' . getmypid());",
    );
    let killed = host.fpm.try_get("die.php", &format!("s={session}"), "");
    assert!(killed.is_err());
    let three = names(&nodes[1..].iter().collect::<Vec<_>>());
    let step = format!("copies = 2\nepoch = 1\nprevious_nodes = {four:?}");
    host.give(&file(&three, &step));
    host.visit("another");
    let since = Instant::now();
    let (code, said) = commit_with(&host, &["--lease", "30"]);
    assert_eq!(code, 0, "{said}");
    assert!(since.elapsed() > Duration::from_secs(30), "{said}");
    assert!(
        said.contains("; requests work with 1: waited for, at most 60 s"),
        "{said}"
    );
    nodes[0].kill();
    assert_eq!(host.visit(&session), "2", "{}", host.log());
}

#[test]
fn a_changed_node_list_without_a_step_is_refused_and_the_old_one_serves_on() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let of = |places: &[usize]| names(&places.iter().map(|n| &nodes[*n]).collect::<Vec<_>>());
    let host = Host::start(&file(&of(&[0, 1, 2]), "epoch = 3"));
    assert_eq!(host.visit("s"), "1");
    let (mut count, back) = (1, "line 4: [pool.sessions]: epoch goes back");
    for (text, word) in [
        (file(&of(&[0, 1, 3]), "epoch = 3"), "epoch = 4"),
        (file(&of(&[0, 1, 2]), "epoch = 2"), back),
        (file(&of(&[0, 1, 3]), "epoch = 4"), "previous_nodes = ["),
        (
            file(
                &of(&[3, 1]),
                &format!("epoch = 4\nprevious_nodes = {:?}", of(&[0, 1, 2])),
            ),
            "one node per epoch",
        ),
        (
            file(
                &of(&[0, 1, 2])
                    .iter()
                    .chain(&of(&[2]))
                    .cloned()
                    .collect::<Vec<_>>(),
                "epoch = 4",
            ),
            "are one node",
        ),
    ] {
        host.give(&text);
        assert!(
            wait_until(SOON, || {
                count += 1;
                assert_eq!(host.visit("s"), count.to_string());
                host.log().contains(word)
            }),
            "{word}: {}",
            host.log()
        );
    }
    assert_eq!(nodes[3].stat("curr_items"), 0);
    // A host whose first file has other nodes at the same epoch is told by the records.
    let other = Host::start(&file(&of(&[0, 1, 3]), "epoch = 3"));
    assert_eq!(other.visit("s"), "refused");
    assert!(other.log().contains("names other nodes"), "{}", other.log());
    let stranger = Host::start(&file(&of(&[0, 1, 3]), "epoch = 4"));
    assert_eq!(stranger.visit("s"), "refused");
    assert!(
        stranger.log().contains("previous_nodes"),
        "{}",
        stranger.log()
    );
    count += 1;
    assert_eq!(host.visit("s"), count.to_string());
    let path = other.path().display().to_string();
    let (code, _, said) = run(&["tend", "--once", "--config", &path]);
    assert!(code == 1 && said.contains("names other nodes"), "{said}");
}

/// What a host with the old list wrote while one node was away lies on the old list's other
/// two. With the new list alone, a node that missed it and a new one would be believed.
#[test]
fn what_was_written_by_the_old_list_is_found_by_who_has_the_new_one_though_nodes_fail() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let of = |places: &[usize]| -> Vec<String> {
        let nodes: Vec<_> = places.iter().map(|n| &nodes[*n]).collect();
        let quick = |name: String| name.replace("timeout=2", "timeout=0.2");
        names(&nodes).into_iter().map(quick).collect()
    };
    let three = of(&[0, 1, 2]);
    let first = file(&three, "");
    let more = format!("epoch = 1\nprevious_nodes = {three:?}");
    let (one, two) = (Host::start(&first), Host::start(&first));
    let sessions: Vec<String> = (0..8).map(|number| format!("s{number}")).collect();
    for session in &sessions {
        assert_eq!(two.visit(session), "1");
        assert_eq!(one.visit(session), "2");
    }
    one.give(&file(&of(&[0, 1, 2, 3]), &more));
    // The new node joins and is trusted, as `memring tend` on that host would have it.
    let mut visitors = 0;
    assert!(wait_until(SOON, || {
        // Another one each time: one in four has nothing to do with the new node.
        visitors += 1;
        one.visit(&format!("warm{visitors}"));
        nodes[3].stat("curr_items") > 0
    }));
    tend(&one);
    nodes[1].freeze();
    for session in &sessions {
        assert_eq!(two.visit(session), "3", "{}", two.log());
    }
    nodes[1].resume();
    nodes[0].freeze();
    let read =
        "session_id($_GET['s']); session_start(['read_and_close' => true]); echo $_SESSION['n'];";
    one.page("read.php", read);
    for session in &sessions {
        assert_eq!(
            one.ask("read.php", session),
            "3",
            "{session}: {}",
            one.log()
        );
    }
    nodes[0].resume();
}

/// Of two nodes and of three each session has its copies on all: what moves is who has it first.
#[test]
fn from_two_redis_nodes_to_three_a_third_of_the_sessions_moves_and_each_is_read() {
    const IDS: usize = 3000;
    const VISITED: usize = 60;
    let mut nodes = [(); 3].map(|()| Redis::start());
    // Places come from these names, the same in every run.
    let addresses = nodes.each_ref().map(Redis::address);
    let name = |place: usize| {
        let address = &addresses[place];
        format!("redis://{address}?id=node{place}&retry_interval=0&timeout=2")
    };
    let (two, three) = (vec![name(0), name(1)], vec![name(0), name(1), name(2)]);
    let host = Host::start(&file(&two, ""));
    host.page(
        "owners.php",
        &format!(
            "for ($i = 0; $i < {IDS}; $i++) echo Memring\\route('sessions', 'session', \"s$i\")['owner'], ' ';"
        ),
    );
    let owners = || -> Vec<String> {
        let text = host.ask("owners.php", "");
        text.split_whitespace().map(str::to_owned).collect()
    };
    let visit_all = |count: &str| {
        for number in 0..VISITED {
            let session = format!("s{number}");
            assert_eq!(host.visit(&session), count, "{session}\n{}", host.log());
        }
    };
    visit_all("1");
    let before = owners();
    host.give(&file(
        &three,
        &format!("epoch = 1\nprevious_nodes = {two:?}"),
    ));
    assert!(wait_until(SOON, || {
        host.visit("another");
        commit(&host).0 == 0
    }));
    visit_all("2");
    let after = owners();
    assert_eq!((before.len(), after.len()), (IDS, IDS), "{before:?}");
    let moved: Vec<&String> = before
        .iter()
        .zip(&after)
        .filter_map(|(before, after)| (before != after).then_some(after))
        .collect();
    let share = moved.len() as f64 / IDS as f64;
    assert!((0.2..=1.0 / 3.0 + 0.03).contains(&share), "{share}");
    let new = &addresses[2];
    assert!(moved.iter().all(|owner| *owner == new), "{moved:?}");
    // And the new node has what it owns.
    tend(&host);
    nodes[0].kill();
    visit_all("3");
}

/// A file that forgot previous_nodes would let the list before go without moving a key.
#[test]
fn a_step_whose_file_forgot_the_list_before_is_refused_also_where_a_person_founded_the_pool() {
    let nodes: Vec<Memcached> = (0..4).map(|_| Memcached::start()).collect();
    let of = |places: &[usize]| names(&places.iter().map(|n| &nodes[*n]).collect::<Vec<_>>());
    let directory = TempDir::new("founded");
    let give = |text: String| directory.file("memring.toml", text).display().to_string();
    let (three, other) = (of(&[0, 1, 2]), of(&[0, 1, 3]));

    nodes[2].freeze();
    let path = give(file(&three, ""));
    let (code, _, said) = run(&["trust", "--config", &path, "sessions"]);
    assert_eq!(code, 0, "{said}");
    nodes[2].resume();
    tend_file(&path);
    let forgot = give(file(&other, "epoch = 1"));
    let (code, _, said) = run(&["commit", "--config", &forgot, "sessions"]);
    assert!(code == 1 && said.contains("previous_nodes"), "{said}");

    // Records that do not name the nodes.
    for node in &nodes[..3] {
        let record = format!("memring1 trusted 1 {} 0", node.port());
        let request = format!("set ~r:sessions 0 0 {}\r\n{record}\r\n", record.len());
        assert_eq!(node.raw(request, "\r\n"), b"STORED\r\n");
    }
    let (code, _, said) = run(&["commit", "--config", &forgot, "sessions"]);
    assert!(
        code == 1 && said.contains("neither the records nor the file say"),
        "{said}"
    );
    let same = give(file(
        &three,
        &format!("epoch = 1\nprevious_nodes = {three:?}"),
    ));
    let (code, said, _) = run(&["commit", "--config", &same, "sessions"]);
    assert!(code == 0 && said.contains("epoch 1 is committed"), "{said}");
}
