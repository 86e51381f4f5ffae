//! The turn on a copied session among PHP processes: who waits is woken, who was killed is
//! followed at once, and a pause costs few commands. Processes with one state_dir are one host.

use crate::copies::{Place, pools};
use crate::sessions::php;
use harness::{Memcached, Php, TempDir, wait_until};
use std::time::Duration;

fn memring(nodes: &[impl Place]) -> Php {
    let list: Vec<String> = nodes.iter().map(Place::url).collect();
    php(&list.join(", ")).ini("session.save_handler", "memring")
}

/// Reads asked of all nodes so far: a look at a turn is two of each.
fn reads(nodes: &[Memcached]) -> u64 {
    nodes.iter().map(|node| node.stat("cmd_get")).sum()
}

/// A request that is in its session when this returns, and stays there.
fn inside(php: &Php, marks: &TempDir, name: &str, page: &str) -> harness::php::Running {
    let mark = marks.path().join(name);
    let running = php.start(&format!(
        "session_id('s'); session_start(); touch('{}'); {page}",
        mark.display()
    ));
    assert!(wait_until(Duration::from_secs(30), || mark.exists()));
    running
}

#[test]
fn the_next_request_of_a_host_gets_in_at_once_when_the_holder_was_killed() {
    for nodes in pools() {
        let marks = TempDir::new("marks");
        let php = memring(&nodes);
        php.run("session_id('s'); session_start(); $_SESSION['n'] = 'kept';")
            .ok();
        for page in ["$_SESSION['n'] = 'lost';", ""] {
            let mut holder = inside(
                &php,
                &marks,
                &format!("in{}", page.len()),
                &format!("{page} sleep(60);"),
            );
            holder.kill();
            let next = php
                .run("ob_start(); session_id('s'); $since = hrtime(true); session_start(); echo $_SESSION['n'], ' ', intdiv(hrtime(true) - $since, 1000000);")
                .ok();
            let (value, milliseconds) = next.split_once(' ').unwrap();
            assert_eq!(value, "kept");
            // A lease is 30 s.
            let milliseconds: u64 = milliseconds.parse().unwrap();
            assert!(milliseconds < 10_000, "{milliseconds} ms");
        }
    }
}

#[test]
fn the_turn_of_a_request_that_works_is_not_taken_by_its_neighbours() {
    for nodes in pools().into_iter().take(1) {
        let marks = TempDir::new("marks");
        let php = memring(&nodes);
        let holder = inside(
            &php,
            &marks,
            "in",
            "usleep(1500000); $_SESSION['n'] = ($_SESSION['n'] ?? '') . 'a'; session_write_close(); echo 'done';",
        );
        let next = php.start("ob_start(); session_id('s'); session_start(); $_SESSION['n'] .= 'b'; echo $_SESSION['n'];");
        assert_eq!(holder.finish().text(), "done");
        assert_eq!(next.finish().ok(), "ab");
    }
}

#[test]
fn waiting_costs_what_one_waiter_asks_and_the_next_is_woken() {
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    let marks = TempDir::new("marks");
    let php = memring(&nodes);
    let count = "ob_start(); session_id('s'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";
    php.run(count).ok();
    let holder = inside(&php, &marks, "in", "sleep(2);");
    let waiters: Vec<_> = (0..4).map(|_| php.start(count)).collect();
    // Let all of them come to wait before it is counted.
    let before = reads(&nodes);
    assert!(wait_until(Duration::from_secs(30), || {
        reads(&nodes) >= before + 4 * 6
    }));
    let begun = reads(&nodes);
    holder.finish().ok();
    let mut seen: Vec<u32> = waiters
        .into_iter()
        .map(|waiter| waiter.finish().ok().parse().unwrap())
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, [2, 3, 4, 5]);
    // One look each 50 ms, at 3 nodes with 2 reads, for 2 s, is 240; four waiters who all look
    // would be four times that.
    let asked = reads(&nodes) - begun;
    assert!(asked < 500, "{asked} reads while waiting");
}

/// Prints how long a hand-over takes and what it costs. `MEMRING_HANDOVER` is the number of
/// rounds of each of six workers; few without it, since it is no figure then.
#[test]
fn hand_overs_on_one_host_and_between_hosts() {
    let rounds: usize = std::env::var("MEMRING_HANDOVER")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(10);
    const WORKERS: usize = 6;
    const HOLD: usize = 20;
    let nodes: Vec<Memcached> = (0..3).map(|_| Memcached::start()).collect();
    for between_hosts in [false, true] {
        let here = memring(&nodes);
        here.run("session_id('s'); session_start(); session_destroy();")
            .ok();
        // The same two trips where nobody waits: what the machine itself takes at this moment.
        let alone = here
            .run(&format!(
                "ob_start(); session_id('alone');
                 for ($i = 0; $i < {rounds}; $i++) {{
                     session_start(); $times[] = hrtime(true) - ($left ?? hrtime(true));
                     usleep({HOLD}000); $_SESSION['n'] = $i; $left = hrtime(true); session_write_close();
                 }}
                 array_shift($times); sort($times); echo round($times[intdiv(count($times), 2)] / 1e6, 1);"
            ))
            .ok();
        let before = reads(&nodes);
        let states: Vec<TempDir> = (0..WORKERS).map(|_| TempDir::new("host")).collect();
        let running: Vec<_> = states
            .iter()
            .map(|state| {
                let php = match between_hosts {
                    true => here
                        .clone()
                        .ini("memring.state_dir", state.path().display()),
                    false => here.clone(),
                };
                php.start(&format!(
                    "ob_start(); session_id('s');
                     for ($i = 0; $i < {rounds}; $i++) {{
                         $asked = hrtime(true); session_start(); $got = hrtime(true);
                         $left = $_SESSION['left'] ?? 0;
                         if ($left > $asked) echo $got - $left, ' ';
                         usleep({HOLD}000);
                         $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1;
                         $_SESSION['left'] = hrtime(true); session_write_close();
                         usleep({HOLD}000);
                     }}"
                ))
            })
            .collect();
        let mut times: Vec<u64> = running
            .into_iter()
            .flat_map(|worker| {
                let text = worker.finish().ok();
                let times = text.split_whitespace().map(|time| time.parse().unwrap());
                times.collect::<Vec<u64>>()
            })
            .collect();
        times.sort_unstable();
        let all = here
            .run("ob_start(); session_id('s'); session_start(); echo $_SESSION['n'];")
            .ok();
        assert_eq!(all, (WORKERS * rounds).to_string(), "a turn was had by two");
        for node in &nodes {
            let record = node
                .stored("~r")
                .map(|(_, bytes)| bytes)
                .unwrap_or_default();
            let record = String::from_utf8_lossy(&record).into_owned();
            assert!(record.starts_with("memring1 trusted"), "{record}");
        }
        let at = |share: f64| {
            let place = (times.len() as f64 * share) as usize;
            times
                .get(place.min(times.len().saturating_sub(1)))
                .map_or(0.0, |t| *t as f64 / 1e6)
        };
        println!(
            "hand-over {}: {} of them, median {:.1} ms ({alone} ms where nobody waits), p99 {:.1} ms, {:.1} reads per session (6 without a wait)",
            if between_hosts {
                "between hosts"
            } else {
                "on one host"
            },
            times.len(),
            at(0.5),
            at(0.99),
            (reads(&nodes) - before) as f64 / (WORKERS * rounds) as f64
        );
    }
}
