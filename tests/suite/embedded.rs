//! Nodes without a server: one database for all workers of a host, from PHP and without it.

use crate::pool::Bench;
use harness::{Php, PhpFpm, wait_until};
use memring_pool::call::{Call, Outcome, Verb};
use memring_pool::config::{NodeSpec, Policy, Schemes};
use memring_pool::wire::Store;
use rustix::process::geteuid;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::Duration;

/// A directory for one database, in memory where there is such a place: a write to a disk waits
/// for the disk.
pub(crate) struct Directory(PathBuf);

impl Directory {
    pub(crate) fn new(name: &str) -> Directory {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let memory = Path::new("/dev/shm");
        let parent = match memory.is_dir() {
            true => memory.to_owned(),
            false => std::env::temp_dir(),
        };
        let number = NEXT.fetch_add(1, Relaxed);
        let path = parent.join(format!("memring-{name}-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        permit(&path, 0o755);
        Directory(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// The node, with options behind it.
    pub(crate) fn node(&self, options: &str) -> String {
        format!("embedded://{}{options}", self.0.display())
    }

    fn file(&self) -> PathBuf {
        let user = geteuid().as_raw();
        self.0.join(format!("memring-{user}.mdb"))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn bench(node: &str) -> Bench {
    let mut bench = Bench::of(Policy::default(), &[]);
    let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
    bench.pool.add(spec, &mut bench.directory);
    bench
}

fn stat(bench: &mut Bench, name: &str) -> u64 {
    let stats = bench.pool.stats(0, b"", &mut bench.call).unwrap();
    let text = String::from_utf8(stats).unwrap();
    let mut lines = text.lines();
    let found = lines.find_map(|line| line.strip_prefix(&format!("STAT {name} ")));
    found.unwrap_or_else(|| panic!("{text}")).parse().unwrap()
}

/// PHP with sessions on this list.
fn with_sessions(php: Php, list: &str) -> Php {
    crate::sessions::with_sessions(php, list).ini("session.save_handler", "memring")
}

/// Opens the session `s`, counts in it and closes it.
const COUNT: &str = "session_id('s'); var_dump(session_start()); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";

/// A page that counts in the session of its query.
const VISIT: &str = "session_id($_GET['id']); if (!session_start()) { http_response_code(500); exit; } $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close(); echo $_SESSION['n'];";

#[test]
fn values_and_sessions_live_on_in_the_next_process() {
    let directory = Directory::new("embedded");
    let php = with_sessions(Php::new(), &directory.node(""));
    let host = directory.node("");
    php.run(&format!("$m = new Memcache; $m->addServer('{host}'); $m->set('a', [1, 'b' => 2.5]); $m->increment('n', 1, 5);"))
        .ok();
    let read = php.run(&format!("$m = new Memcache; var_dump($m->addServer('{host}')); echo json_encode($m->get(['a', 'n', 'no']));"));
    assert_eq!(read.ok(), "bool(true)\n{\"a\":{\"0\":1,\"b\":2.5},\"n\":5}");
    for n in 1..4 {
        assert_eq!(php.run(COUNT).ok(), format!("bool(true)\n{n}"));
    }
    // It is this user's alone.
    for file in [
        directory.file(),
        directory.file().with_extension("mdb-lock"),
    ] {
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600, "{}", file.display());
    }
    php.run("session_id('s'); session_start(); session_destroy();")
        .ok();
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
}

#[test]
fn an_empty_save_path_keeps_sessions_in_the_state_directory() {
    let directory = Directory::new("embedded");
    let php = with_sessions(Php::new(), "").ini("memring.state_dir", directory.path().display());
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n2");
    assert!(directory.file().exists());
    let refused = php
        .clone()
        .ini("memring.allow_schemes", "tcp")
        .run(COUNT)
        .text();
    assert!(refused.contains("names no server"), "{refused}");
    // pecl-memcache's handler has servers.
    let refused = php
        .ini("session.save_handler", "memcache")
        .run(COUNT)
        .text();
    assert!(refused.contains("names no server"), "{refused}");
}

#[test]
fn each_who_tries_a_place_that_is_refused_is_told_why_and_goes_on_as_soon_as_it_is_there() {
    let directory = Directory::new("embedded");
    let place = directory.path().join("later");
    let (node, state) = (place.display(), directory.path().display());
    let php = with_sessions(Php::new(), &format!("embedded://{node}"));
    let fpm = PhpFpm::with(&php.ini("memring.state_dir", state), 2, "");
    let calls = format!(
        "foreach ([1, 2] as $n) {{ $m = new Memcache; $m->addServer('embedded://{node}');
           var_dump($m->set('k', $n), $m->get('k') === $n); }}"
    );
    fpm.page("calls.php", &calls);
    fpm.page("visit.php", "session_id('s'); var_dump(session_start());");
    // Nobody goes by what another one found, neither an object nor a worker.
    for (page, told, results) in [("calls.php", 2, 4), ("visit.php", 1, 1)].repeat(3) {
        let text = fpm.get(page, "", "").text();
        let why = text.matches("Name a directory that user").count();
        let no = text.matches("bool(false)").count();
        assert_eq!((why, no), (told, results), "{page}: {text}");
    }
    std::fs::create_dir(&place).unwrap();
    for (page, results) in [("calls.php", 4), ("visit.php", 1)].repeat(3) {
        let text = fpm.get(page, "", "").text();
        assert_eq!(text, ["bool(true)"].repeat(results).join("\n"), "{page}");
    }
}

#[test]
fn requests_of_one_session_take_turns_under_ten_workers() {
    let directory = Directory::new("embedded");
    let php = with_sessions(Php::new(), &directory.node(""));
    let fpm = PhpFpm::with(&php, 10, "");
    fpm.page("visit.php", VISIT);
    std::thread::scope(|scope| {
        for worker in 0..10 {
            let fpm = &fpm;
            scope.spawn(move || {
                for visit in 0..20 {
                    let reply = fpm.get("visit.php", &format!("id=s{}", (worker + visit) % 4), "");
                    assert!(reply.text().parse::<u32>().is_ok(), "{}", reply.text());
                }
            });
        }
    });
    // Each look is a visit, too.
    let sum = |fpm: &PhpFpm, looks: u32| -> u32 {
        let visits = |n| fpm.get("visit.php", &format!("id=s{n}"), "").text();
        (0..4)
            .map(|n| visits(n).parse::<u32>().unwrap() - looks)
            .sum()
    };
    let (counted, log) = (sum(&fpm, 1), fpm.log());
    assert_eq!(counted, 200, "a visit overwrote another one: {log}");
    // The next master goes on with what the last one's workers stored.
    drop(fpm);
    let fpm = PhpFpm::with(&php, 2, "");
    fpm.page("visit.php", VISIT);
    assert_eq!(sum(&fpm, 2), 200);
}

#[test]
fn nothing_acknowledged_is_lost_and_nobody_waits_for_ever_when_workers_are_killed() {
    let directory = Directory::new("embedded");
    let log = directory.path().join("log");
    // A line is written when the write it tells of was acknowledged.
    let script = format!(
        "$m = new Memcache; $m->addServer('{}'); $log = fopen('{}' . getmypid(), 'a');
         for ($n = 1; ; $n++) {{ if ($m->set(getmypid() . '-' . $n % 50, $n) !== true) exit(3);
           fwrite($log, \"$n\\n\"); if ($n % 7 == 0) $m->increment('all', 1, 1); }}",
        directory.node("?size=8M"),
        log.display()
    );
    let mut pids = Vec::new();
    let mut running: Vec<_> = (0..4).map(|_| Php::new().start(&script)).collect();
    for round in 0..24 {
        let slot = round % running.len();
        let pid = running[slot].pid();
        let path = PathBuf::from(format!("{}{pid}", log.display()));
        let wrote = wait_until(Duration::from_secs(20), || {
            std::fs::metadata(&path).is_ok_and(|file| file.len() > 400)
        });
        assert!(wrote, "round {round}: a writer stands still");
        running[slot].kill();
        pids.push(pid);
        running[slot] = Php::new().start(&script);
    }
    for php in &mut running {
        php.kill();
    }
    let mut bench = bench(&directory.node("?size=8M"));
    for pid in pids {
        let text = std::fs::read_to_string(format!("{}{pid}", log.display())).unwrap();
        let last = text
            .lines()
            .filter_map(|line| line.parse::<u64>().ok())
            .max()
            .unwrap();
        for n in last.saturating_sub(40)..=last {
            let key = format!("{pid}-{}", n % 50);
            let Outcome::Hit { value, .. } = bench.run(Verb::Get, &[&key], |_, _| {})[0] else {
                panic!("{key} was acknowledged");
            };
            let value = bench.call.value(value).to_vec();
            let found: u64 = String::from_utf8(value).unwrap().parse().unwrap();
            // The one that was on its way may have come, too.
            assert!([n, n + 50].contains(&found), "{pid}: {n} became {found}");
        }
    }
    assert_eq!(bench.store(Store::Set, "after", b"v", 0), Outcome::Done);
}

#[test]
fn the_turn_of_a_killed_process_is_free_at_once() {
    let directory = Directory::new("embedded");
    let php = with_sessions(Php::new(), &directory.node(""));
    let ready = directory.path().join("ready");
    let mut holder = php.start(&format!(
        "session_id('s'); session_start(); touch('{}'); sleep(60);",
        ready.display()
    ));
    assert!(wait_until(Duration::from_secs(10), || ready.exists()));
    let waiter = php.start(COUNT);
    holder.kill();
    let since = std::time::Instant::now();
    assert_eq!(waiter.finish().ok(), "bool(true)\n1");
    // Its time would have been memcache.lock_timeout, 15 s.
    assert!(
        since.elapsed() < Duration::from_secs(10),
        "{:?}",
        since.elapsed()
    );
}

#[test]
fn who_lost_its_turn_overwrites_nothing() {
    let directory = Directory::new("embedded");
    let php = with_sessions(Php::new(), &directory.node("")).ini("memcache.lock_timeout", 1);
    php.run(COUNT).ok();
    let [ready, go] = ["ready", "go"].map(|name| directory.path().join(name));
    let slow = php.start(&format!(
        "session_id('s'); session_start(); $_SESSION['n'] = 99; touch('{}'); while (!file_exists('{}')) {{ usleep(1000); clearstatcache(); }} var_dump(session_write_close());",
        ready.display(),
        go.display()
    ));
    assert!(wait_until(Duration::from_secs(10), || ready.exists()));
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n2");
    std::fs::write(&go, "").unwrap();
    let text = slow.finish().text();
    assert!(text.contains("another request has it"), "{text}");
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n3");
}

#[test]
fn a_forked_child_opens_the_database_for_itself() {
    let directory = Directory::new("embedded");
    let script = format!(
        "$m = new Memcache; $m->addServer('{}');
        function work($m, $tag) {{ $bad = 0; for ($i = 0; $i < 300; $i++) {{ $m->set(\"$tag-$i\", \"$tag:$i\"); if ($m->get(\"$tag-$i\") !== \"$tag:$i\") $bad++; }} return $bad; }}
        $bad = work($m, 'parent'); $children = [];
        for ($c = 0; $c < 4; $c++) {{ $pid = pcntl_fork(); if ($pid == 0) exit(work($m, \"child$c\") ? 1 : 0); $children[] = $pid; }}
        $bad += work($m, 'parent');
        foreach ($children as $pid) {{ pcntl_waitpid($pid, $status); $bad += $status; }}
        $bad += work($m, 'parent');
        echo $bad, ' ', $m->get('child3-299');",
        directory.node("")
    );
    assert_eq!(Php::new().run(&script).ok(), "0 child3:299");
}

#[test]
fn a_full_one_lets_go_of_what_ends_first_and_stays_within_its_size() {
    let directory = Directory::new("embedded");
    let size = 2 << 20;
    let mut bench = bench(&directory.node("?size=2M"));
    assert_eq!(
        bench.store(Store::Set, "oldest", &[b'v'; 300], 0),
        Outcome::Done
    );
    let soon = |call: &mut Call, i: usize| {
        let start = call.value_mut().len();
        call.value_mut().extend_from_slice(b"soon");
        call.finish_value(start);
        call.entry_mut(i).unwrap().ttl = 3600;
    };
    let verb = Verb::Store(Store::Set);
    assert_eq!(bench.run(verb, &["soon"], soon), [Outcome::Done]);
    let mut seen = false;
    for n in 0..20_000 {
        let len = [300, 40, 5000, 900][n % 4];
        let key = format!("k{n}");
        assert_eq!(
            bench.store(Store::Set, &key, &vec![b'v'; len], 0),
            Outcome::Done,
            "{n}"
        );
        if !seen && stat(&mut bench, "evictions") > 0 {
            seen = true;
            assert_eq!(bench.get("soon"), None, "what ends first goes first");
            let [oldest, next] = ["oldest", "k0"].map(|key| bench.get(key).is_some());
            assert!(!oldest || next, "what never ends goes in the order it came");
        }
        if n % 1000 == 0 {
            assert!(stat(&mut bench, "bytes") <= size);
        }
    }
    assert!(seen && bench.get("oldest").is_none());
    assert_eq!(bench.get("k19999").map(|value| value.len()), Some(900));
    assert!(stat(&mut bench, "evictions") > 10_000);
    // The count is no dream: the file keeps to it, with what a change needs.
    assert!(stat(&mut bench, "file_bytes") <= 2 * size + (16 << 20));
    let large = vec![b'v'; 300_000];
    assert_eq!(
        bench.store(Store::Set, "large", &large, 0),
        Outcome::Refused
    );
    assert!(bench.call.events()[0].message.contains("too large"));
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
}

#[test]
fn a_large_value_finds_room_among_thousands_of_small_ones_and_in_a_smaller_size() {
    let directory = Directory::new("embedded");
    let mut large = bench(&directory.node("?size=8M"));
    let fill = |bench: &mut Bench, name: &str| {
        for n in 0..30_000 {
            let key = format!("{name}-{n:010}");
            assert_eq!(
                bench.store(Store::Set, &key, &[b'v'; 100], 0),
                Outcome::Done
            );
        }
    };
    fill(&mut large, "first");
    assert!(stat(&mut large, "evictions") > 0, "it is not full");
    assert_eq!(
        large.store(Store::Set, "long", &vec![b'v'; 1_000_000], 0),
        Outcome::Done
    );
    assert_eq!(large.get("long").map(|value| value.len()), Some(1_000_000));
    drop(large);
    // A process of its own: this one has it open.
    let script = format!(
        "$m = new Memring\\Memcache; $m->addServer('{}'); var_dump($m->set('k', 'v'), $m->get('k'));
         echo array_values($m->getExtendedStats())[0]['bytes'] <= 1 << 20 ? 'small ' : 'large ';
         // What is refused for its size leaves no old value behind.
         var_dump(@$m->set('k', random_bytes(1000000)), $m->get('k'));",
        directory.node("?size=1M")
    );
    assert_eq!(
        Php::new().run(&script).ok(),
        "bool(true)\nstring(1) \"v\"\nsmall bool(false)\nbool(false)"
    );
}

#[test]
fn what_has_ended_is_taken_along_by_later_writes() {
    let directory = Directory::new("embedded");
    let mut bench = bench(&directory.node(""));
    let verb = Verb::Store(Store::Set);
    for n in 0..50 {
        bench.run(verb, &[&format!("e{n}")], |call, i| {
            let start = call.value_mut().len();
            call.finish_value(start);
            call.entry_mut(i).unwrap().ttl = 1;
        });
    }
    assert_eq!(stat(&mut bench, "curr_items"), 50);
    let gone = wait_until(Duration::from_secs(10), || {
        bench.store(Store::Set, "k", b"v", 0);
        stat(&mut bench, "curr_items") == 1
    });
    assert!(gone, "ended items stay");
    assert_eq!(stat(&mut bench, "evictions"), 0);
}

/// What PHP says when it cannot use this node.
fn complaint(node: &str) -> String {
    let script =
        format!("$m = new Memcache; $m->addServer('{node}'); var_dump($m->set('k', 'v'));");
    Php::new().run(&script).text()
}

#[test]
fn a_bad_place_is_one_clear_error_and_nothing_is_changed() {
    let directory = Directory::new("embedded");
    let base = directory.path();
    let sub = |name: &str| {
        let path = base.join(name);
        std::fs::create_dir(&path).unwrap();
        path
    };
    let file_in = |path: &Path| path.join(format!("memring-{}.mdb", geteuid().as_raw()));
    let none = base.join("none");
    let open = sub("open");
    permit(&open, 0o777);
    let linked = base.join("linked");
    std::os::unix::fs::symlink(&open, &linked).unwrap();
    let [target, foreign, readable, newer, strange] =
        ["target", "foreign", "readable", "newer", "strange"].map(sub);
    std::fs::write(base.join("precious"), "precious").unwrap();
    std::os::unix::fs::symlink(base.join("precious"), file_in(&target)).unwrap();
    std::fs::write(file_in(&readable), "").unwrap();
    permit(&file_in(&readable), 0o644);
    std::fs::write(file_in(&strange), vec![7; 100_000]).unwrap();
    permit(&file_in(&strange), 0o600);
    make_newer(&newer, &file_in(&newer));
    let before = std::fs::read(file_in(&newer)).unwrap();
    let mut cases = vec![
        (&none, "No such file or directory", "mkdir"),
        (&open, "others may change", "chmod go-w"),
        (&linked, "symbolic link", "Name a directory"),
        (&target, "it is a link", "Remove it"),
        (&readable, "open to other users", "chmod it to 600"),
        (
            &strange,
            "no database of this version",
            "name another directory",
        ),
        (
            &newer,
            "its format 2 is newer than 1",
            "name another directory",
        ),
    ];
    if geteuid().is_root() {
        rustix::fs::chown(&foreign, Some(rustix::fs::Uid::from_raw(65534)), None).unwrap();
        cases.push((&foreign, "belongs to user 65534", "Chown it"));
    } else {
        permit(&foreign, 0o500);
        cases.push((&foreign, "Permission denied", "may write"));
    }
    for (path, cause, remedy) in cases {
        let text = complaint(&format!("embedded://{}", path.display()));
        assert!(
            text.contains(cause) && text.contains(remedy),
            "{}: {text}",
            path.display()
        );
        assert!(text.contains("bool(false)"), "{text}");
    }
    assert_eq!(std::fs::read(base.join("precious")).unwrap(), b"precious");
    assert_eq!(std::fs::read(file_in(&newer)).unwrap(), before);
    assert_eq!(std::fs::read(file_in(&strange)).unwrap(), vec![7; 100_000]);
}

/// A database as a later version would leave it.
fn make_newer(directory: &Path, file: &Path) {
    bench(&format!("embedded://{}", directory.display())).store(Store::Set, "k", b"v", 0);
    let mut bytes = std::fs::read(file).unwrap();
    let mark = [b"format".as_slice(), &1u64.to_le_bytes()].concat();
    let places: Vec<usize> = (0..bytes.len() - mark.len())
        .filter(|at| bytes[*at..].starts_with(&mark))
        .collect();
    assert!(!places.is_empty());
    for at in places {
        bytes[at + 6] = 2;
    }
    std::fs::write(file, bytes).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused_when_it_is_written() {
    let directory = Directory::new("embedded");
    let node = directory.node("");
    for (list, words) in [
        (
            format!("{node}, tcp://127.0.0.1:1"),
            "cannot join other nodes",
        ),
        (format!("{node}?mode=fenced"), "cannot join other nodes"),
        (format!("{node}?mode=sync"), "cannot join other nodes"),
        (format!("{node}?password=x"), "is for servers"),
        (format!("{node}?protocol=redis"), "is for servers"),
        (format!("{node}?size=much"), "is no number of bytes"),
        (format!("{node}?size=1K"), "is no number of bytes"),
        ("embedded://relative".to_owned(), "three slashes"),
    ] {
        let text = with_sessions(Php::new(), &list).run(COUNT).text();
        assert!(
            text.contains(words) && text.contains("bool(false)"),
            "{list}: {text}"
        );
    }
    let text = Php::new()
        .run(&format!(
            "$m = new Memcache; var_dump($m->addServer('127.0.0.1', 1), $m->addServer('{node}'));
             $n = new Memcache; var_dump($n->addServer('{node}'), $n->addServer('127.0.0.1', 1));"
        ))
        .text();
    assert_eq!(text.matches("cannot join other nodes").count(), 2, "{text}");
    let text = Php::new()
        .ini("memring.allow_schemes", "tcp")
        .run(&format!(
            "$m = new Memcache; var_dump($m->addServer('{node}'));"
        ))
        .text();
    assert!(
        text.contains("Add embedded to memring.allow_schemes"),
        "{text}"
    );
    assert!(!directory.file().exists());
}

#[test]
fn users_have_databases_of_their_own_in_one_directory() {
    if !geteuid().is_root() {
        harness::skip("only root may be two users");
        return;
    }
    let directory = Directory::new("embedded");
    permit(directory.path(), 0o1777);
    let php = with_sessions(Php::new(), &directory.node("")).ini("memring.shared", "off");
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n1");
    let fpm = PhpFpm::of(&php, 1, "", Some(65534));
    fpm.page("visit.php", VISIT);
    assert_eq!(
        fpm.get("visit.php", "id=s", "").text(),
        "1",
        "{}",
        fpm.log()
    );
    assert_eq!(php.run(COUNT).ok(), "bool(true)\n2");
    for user in [0, 65534] {
        let file = directory.path().join(format!("memring-{user}.mdb"));
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(&file).unwrap());
        assert_eq!(owner, user);
    }
}

#[test]
fn status_and_stats_tell_what_is_kept() {
    let directory = Directory::new("embedded");
    let node = directory.node("?size=4M");
    let text = Php::new()
        .run(&format!(
            "$m = new Memring\\Memcache; $m->addServer('{node}'); $m->set('k', 'v');
             $stats = array_values($m->getExtendedStats())[0];
             echo $stats['curr_items'], ' ', $stats['limit_maxbytes'], ' ', $stats['evictions'], ' ', basename($stats['file']), \"\\n\";
             echo json_encode(Memring\\status()), \"\\n\", json_encode($m->route('get', 'k'));"
        ))
        .ok();
    let user = geteuid().as_raw();
    assert!(
        text.starts_with(&format!("1 4194304 0 memring-{user}.mdb\n")),
        "{text}"
    );
    for fact in [
        "\"items\":1",
        "\"size\":4194304",
        "\"evictions\":0",
        "\"file\":",
    ] {
        assert!(text.contains(fact), "{fact}: {text}");
    }
}
