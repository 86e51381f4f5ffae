//! Copied sessions as PHP sees them: handler memring on two nodes or more.

use crate::copies::{Host, Place, pools};
use crate::session::trips;
use crate::sessions::{ENDINGS, php};
use harness::proxy::From;
use harness::{Php, PhpFpm, Proxy, Server, TempDir};
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

fn memring(nodes: &[Server]) -> Php {
    let options = "?retry_interval=0&timeout=0.5";
    let urls: Vec<String> = nodes
        .iter()
        .map(|node| format!("{}{options}", node.url()))
        .collect();
    php(&urls.join(", "))
        .ini("session.save_handler", "memring")
        .limit(Duration::from_secs(60))
}

#[test]
fn a_session_lives_its_whole_life_on_copies() {
    for nodes in pools() {
        let php = memring(&nodes);
        let run = |script: &str| php.run(&format!("ob_start(); {script}")).ok();
        let count =
            "session_id('s'); session_start(); echo $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;";
        assert_eq!(run(count), "1");
        assert_eq!(run(count), "2");
        // Left alone, aborted, only read: the turn is free at once and nothing changed.
        for ending in ["", "$_SESSION['n'] = 99; session_abort();", "exit;"] {
            run(&format!("session_id('s'); session_start(); {ending}"));
        }
        let read = "session_id('s'); session_start(['read_and_close' => true]); echo $_SESSION['n'] ?? 'none';";
        assert_eq!(run(read), "2");
        assert_eq!(
            run(
                "session_id('s'); session_start(); $_SESSION['n'] = 7; session_reset(); echo $_SESSION['n'];"
            ),
            "2"
        );
        // A new name for it; the old one is gone, and gone for good.
        let moved = run(
            "session_id('s'); session_start(); session_regenerate_id(true); echo session_id();",
        );
        assert!(moved.len() > 20, "{moved}");
        assert_eq!(run(read), "none");
        let read_moved = read.replace("'s'", &format!("'{moved}'"));
        assert_eq!(run(&read_moved), "2");
        run(&format!(
            "session_id('{moved}'); session_start(); session_destroy();"
        ));
        assert_eq!(run(&read_moved), "none");
        for node in &nodes {
            assert_eq!(node.stored(&format!("{moved}.lock")), None);
        }
    }
}

/// On a host of its own, where nobody sees that the process before is gone: else its turn could simply be taken.
#[test]
fn a_turn_is_given_back_however_the_request_ends_and_what_it_changed_is_there_on_another_host() {
    for nodes in pools() {
        let states = [TempDir::new("one"), TempDir::new("other")];
        let [one, other] = states
            .each_ref()
            .map(|state| memring(&nodes).ini("memring.state_dir", state.path().display()));
        one.run("session_id('s'); session_start(); $_SESSION['n'] = 0;")
            .ok();
        let mut stored = 0;
        for (name, ending) in ENDINGS {
            one.run(&format!(
                "session_id('s'); session_start(); $_SESSION['n']++; {ending}"
            ));
            stored += u64::from(!ending.contains("session_abort"));
            let begin = Instant::now();
            let text = other
                .run("ob_start(); session_id('s'); echo json_encode(session_start()), ' ', $_SESSION['n']; session_abort();")
                .ok();
            assert_eq!(text, format!("true {stored}"), "after {name}");
            assert!(
                begin.elapsed() < Duration::from_secs(3),
                "after {name} the next request waited {:?}",
                begin.elapsed()
            );
        }
    }
}

#[test]
fn strict_mode_replaces_an_unknown_id_and_keeps_a_known_one() {
    for nodes in pools() {
        let php = memring(&nodes).ini("session.use_strict_mode", 1);
        let start = |id: &str| {
            php.run(&format!(
                "ob_start(); session_id('{id}'); session_start(); $_SESSION['n'] = 1; echo session_id();"
            ))
            .ok()
        };
        let made = start("guessed");
        assert_ne!(made, "guessed");
        assert_eq!(start(&made), made);
        let new = php.run(
            "ob_start(); session_start(); echo strlen(session_create_id()) > 20 ? 'made' : 'no';",
        );
        assert_eq!(new.ok(), "made");
    }
}

/// Commands of each trip on the only connection through `proxy`.
fn commands(proxy: &Proxy) -> Vec<usize> {
    const WORDS: [&str; 8] = [
        "version", "mg", "ms", "md", "mn", "INFO", "HMGET", "EVALSHA",
    ];
    let mut trips = Vec::new();
    let mut listened = true;
    for event in proxy.events() {
        let speaks = event.from == From::Client;
        if speaks && listened {
            trips.push(0);
        }
        listened = !speaks;
        let text = String::from_utf8_lossy(&event.bytes).into_owned();
        let words = text.lines().filter_map(|line| line.split(' ').next());
        if let Some(trip) = trips.last_mut().filter(|_| speaks) {
            *trip += words.filter(|word| WORDS.contains(word)).count();
        }
    }
    trips
}

#[test]
fn opening_and_closing_cost_one_trip_each_and_no_lock_key() {
    for nodes in pools() {
        let proxies: Vec<Proxy> = nodes.iter().map(|node| Proxy::start(node.port())).collect();
        let urls: Vec<String> = (nodes.iter().zip(&proxies))
            .map(|(node, proxy)| format!("{}://127.0.0.1:{}", node.scheme(), proxy.port()))
            .collect();
        let php = php(&urls.join(", ")).ini("session.save_handler", "memring");
        php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
            .ok();
        for page in ["$_SESSION['n']++;", ""] {
            proxies.iter().for_each(Proxy::clear);
            php.run(&format!("session_id('s'); session_start(); {page}"))
                .ok();
            for (node, proxy) in nodes.iter().zip(&proxies) {
                let (count, said) = trips(proxy);
                // On a new connection a Redis is asked which process it is, before anything else.
                let trips = if node.is_redis() { 3 } else { 2 };
                assert_eq!(count, trips, "{page:?}: {said:?}");
                assert!(!said.iter().any(|line| line.contains(".lock")), "{said:?}");
                // Greeting, record and session; what is stored or given back, and the record again.
                let wanted: &[usize] = if node.is_redis() { &[1, 2, 2] } else { &[3, 2] };
                assert_eq!(commands(proxy), wanted, "{page:?}: {said:?}");
            }
        }
    }
}

/// A page that says how long its work took, microseconds.
fn timed(work: &str) -> String {
    format!(
        "ini_set('session.use_cookies', 0); $m = new Memcache; $m->addServer('pool:cache');
        $begin = hrtime(true); {work} echo intdiv(hrtime(true) - $begin, 1000);"
    )
}

/// 100 ms are what a copied pool waits for where nobody says how long; a plain one waits a second.
#[test]
fn a_node_that_hangs_costs_one_request_a_tenth_of_a_second_where_no_timeout_is_written() {
    const NEXT: u32 = 10;
    for work in [
        "for ($i = 0; $i < 20; $i++) $m->set(\"k$i\", 'v');",
        "session_id('s'); session_start(); $_SESSION['n'] = hrtime(true); session_write_close();",
    ] {
        for nodes in pools() {
            let urls: Vec<String> = nodes.iter().map(|node| node.url()).collect();
            let directory = TempDir::new("default");
            let text = format!(
                "[pool.cache]\nnodes = {urls:?}\nmode = \"sync\"\n[pool.sessions]\nnodes = {urls:?}\nmode = \"fenced\"\n"
            );
            let php = php("pool:sessions")
                .ini("session.save_handler", "memring")
                .ini(
                    "memring.config_file",
                    directory.file("memring.toml", text).display(),
                );
            // One worker, so that its connections are there already.
            let fpm = PhpFpm::with(&php, 1, "");
            fpm.page("page.php", &timed(work));
            let visit = || {
                let said = fpm.get("page.php", "", "").text();
                let took = said
                    .trim()
                    .rsplit('\n')
                    .next()
                    .and_then(|word| word.parse().ok());
                Duration::from_micros(took.unwrap_or_else(|| panic!("{said}")))
            };
            visit();
            visit();
            nodes[0].freeze();
            let first = visit();
            let next: Duration = (0..NEXT).map(|_| visit()).sum();
            nodes[0].resume();
            let limit = Duration::from_millis(100);
            assert!(first >= limit && first < 5 * limit, "{work}: {first:?}");
            assert!(next < NEXT * limit / 2, "{work}: {next:?} after {first:?}");
        }
    }
}

#[test]
fn one_node_away_is_not_noticed_and_two_away_refuse_rather_than_forget() {
    for mut nodes in pools() {
        let php = memring(&nodes);
        php.run("session_id('s'); session_start(); $_SESSION['n'] = 1;")
            .ok();
        nodes[0].kill();
        let visit = |id: &str| {
            php.run(&format!(
                "ob_start(); session_id('{id}'); echo json_encode(session_start()), $_SESSION['n'] ?? 'none';"
            ))
            .text()
        };
        assert_eq!(visit("s"), "true1");
        assert_eq!(visit("new"), "truenone");
        assert_eq!(
            php.run("ob_start(); session_start(); $_SESSION['n'] = 2; echo 'in';")
                .ok(),
            "in"
        );
        nodes[1].kill();
        let refused = visit("unknown");
        for wanted in ["false", "fewer than two nodes", "memring status"] {
            assert!(refused.contains(wanted), "{wanted} is not in {refused}");
        }
        // What is known is served all the same.
        assert!(visit("s").contains("true1"));
    }
}

#[test]
fn a_session_too_large_is_refused_and_stays_as_it_was() {
    // A Redis takes up to half a gigabyte.
    let all_memcached = |nodes: &Vec<Server>| !nodes.iter().any(Server::is_redis);
    for nodes in pools().into_iter().filter(all_memcached) {
        let php = memring(&nodes);
        php.run("session_id('s'); session_start(); $_SESSION['n'] = 7;")
            .ok();
        let refused = php
            .run("ob_start(); session_id('s'); session_start(); $_SESSION['n'] = str_repeat('x', 3 << 20); var_dump(session_write_close());")
            .text();
        for wanted in ["could not be stored", "too large", "-I for one item"] {
            assert!(refused.contains(wanted), "{wanted} is not in {refused}");
        }
        let read = php.run("ob_start(); session_id('s'); session_start(); echo $_SESSION['n'];");
        assert_eq!(read.ok(), "7");
    }
}

/// A page that counts in the session it is asked for, and how the session answers.
const PAGE: &str = "ini_set('session.use_cookies', 0); session_id($_GET['id']); \
    $ok = session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; $n = $_SESSION['n']; \
    $ok = $ok && session_write_close(); echo json_encode([$ok, $n]);";

#[test]
fn workers_write_while_each_node_is_killed_and_comes_back_empty_and_nobody_is_logged_out() {
    for nodes in pools() {
        let fpm = PhpFpm::with(&memring(&nodes), 6, "");
        fpm.page("count.php", PAGE);
        let visit = |id: &str| {
            let reply = fpm.get("count.php", &format!("id={id}"), "");
            String::from_utf8_lossy(&reply.body).into_owned()
        };
        assert_eq!(visit("first"), "[true,1]");
        let ends = AtomicBool::new(false);
        let mut nodes = nodes;
        std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|client| {
                    let (ends, visit) = (&ends, &visit);
                    scope.spawn(move || {
                        let mut counts: HashMap<String, u64> = HashMap::new();
                        let mut round = 0u64;
                        while !ends.load(Ordering::Relaxed) {
                            round += 1;
                            let id = format!("c{client}-{}", round % 20);
                            let count = counts.entry(id.clone()).or_default();
                            *count += 1;
                            assert_eq!(visit(&id), format!("[true,{count}]"), "{id}");
                        }
                        round
                    })
                })
                .collect();
            for node in 0..nodes.len() {
                std::thread::sleep(Duration::from_millis(300));
                nodes[node].kill();
                std::thread::sleep(Duration::from_millis(300));
                nodes[node].restart();
                let mut tend = Host::of(&nodes, 77 + node as u64);
                assert!(
                    tend.bring_back(nodes.len()),
                    "node {node} is not trusted again"
                );
            }
            ends.store(true, Ordering::Relaxed);
            for client in clients {
                assert!(client.join().unwrap() > 20);
            }
        });
        // A clean end: none of the workers had anything to say.
        assert!(!fpm.log().contains("Warning"), "{}", fpm.log());
    }
}
