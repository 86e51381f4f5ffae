//! `wait=` where a Redis has replicas of its own: what is acknowledged is on one of them, and what is not is told.
//! `cluster` has the same of a Redis Cluster.

use crate::sentinel::under_load;
use crate::sessions::with_sessions;
use harness::{Php, Redis, Watched, wait_until};
use std::time::Duration;

/// A master and its replica, which has found it.
fn pair() -> (Redis, Redis) {
    let master = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let linked = || replica.info("master_link_status") == "up";
    assert!(wait_until(Duration::from_secs(20), linked));
    (master, replica)
}

/// Values, a transaction and a session over a node, the server's own objections before the result.
const WORK: &str = r#"
set_error_handler(function ($level, $text) { echo strpos($text, 'Keep less') ? 'WRONG' : (strpos($text, '0 of 1 replicas had it within') ? '!' : (strpos($text, 'Failed to write session data') ? '?' : $text)); return true; });
$m = new Memring\Memcache; $m->addServer(getenv('NODE'));
echo json_encode([$m->set('k', 1), $m->increment('k'), $m->delete('k'), $m->get('k')]);
$m->multi(); $m->set('a', 1); $m->increment('a'); echo json_encode($m->exec());
session_id('s'); session_start(); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; session_write_close(); echo $_SESSION['n'];
"#;

fn worked(php: &Php) -> String {
    php.run(WORK).text()
}

#[test]
fn what_no_replica_has_is_refused_with_its_words_on_a_node_and_behind_sentinels() {
    let (master, replica) = pair();
    let node = |options: &str| format!("redis://{}{options}", master.address());
    check(&node, &replica);
    let watched = Watched::start();
    check(&|options| watched.node(options), &watched.servers[1]);
}

fn check(node: &dyn Fn(&str) -> String, replica: &Redis) {
    let php = |option: &str| {
        let list = node(&format!("?mode=single{option}"));
        let php = with_sessions(Php::new(), &list).ini("session.save_handler", "memring");
        php.env("NODE", node(&option.replacen('&', "?", 1)))
    };
    let (waits, plain) = (php("&wait=1&timeout=1"), php(""));
    let all = "[true,2,true,false][true,2]";
    assert_eq!(worked(&waits), format!("{all}1"));
    let bare = node("");
    let (_, address) = bare.split_once("://").unwrap();
    println!("{address}: no replica answers");
    replica.freeze();
    // What is read, or changed nothing, waits for nobody.
    assert_eq!(
        worked(&waits),
        "!!![false,false,false,false]!null!?2",
        "{bare}"
    );
    assert_eq!(
        worked(&plain),
        format!("{all}3"),
        "the master has all of it"
    );
    replica.resume();
    assert!(wait_until(Duration::from_secs(20), || worked(&waits).starts_with(all)));
}

#[test]
fn a_master_that_is_killed_takes_no_visit_with_it_where_a_replica_had_to_have_it() {
    let mut watched = Watched::start();
    let (_, met) = under_load(&mut watched, "&wait=1", |watched| watched.servers[0].kill());
    // The new master has no replica, and acknowledges nothing.
    assert!(met.done > 0 && met.errors > 0, "{met:?}");
    assert_eq!((met.lost, met.older), (0, 0), "{met:?}");
}

#[test]
fn a_switch_that_is_asked_for_takes_no_visit_with_it_where_a_replica_had_to_have_it() {
    let mut watched = Watched::start();
    let (_, met) = under_load(&mut watched, "&wait=1", |watched| {
        let said: String = watched.sentinels[0].say(&["SENTINEL", "FAILOVER", "m"]);
        assert_eq!(said, "OK");
    });
    // From the moment the new one is promoted the old master has no replica, and then is one itself.
    assert!(met.done > 0 && met.errors > 0, "{met:?}");
    assert_eq!((met.lost, met.older), (0, 0), "{met:?}");
    let php = Php::new().env("NODE", watched.node("?wait=1"));
    let stored = || {
        let code =
            "$m = new Memcache; $m->addServer(getenv('NODE')); echo json_encode(@$m->set('k', 1));";
        php.run(code).text() == "true"
    };
    assert!(
        wait_until(Duration::from_secs(60), stored),
        "the old master is its replica"
    );
}

#[test]
fn a_pool_that_keeps_copies_itself_waits_for_nobody_elses() {
    let refused = |code: &str| Php::new().run(code).text();
    let text = refused("$m = new Memcache; var_dump($m->addServer('tcp://127.0.0.1:1?wait=1'));");
    assert!(text.contains("is for the replicas of a Redis"), "{text}");
    let list = "redis://127.0.0.1:1?wait=1,redis://127.0.0.1:2,redis://127.0.0.1:3";
    let text = with_sessions(Php::new(), list)
        .ini("session.save_handler", "memring")
        .run("session_id('s'); var_dump(session_start());")
        .text();
    let said = text.contains("this pool keeps copies itself") && text.contains("Take wait out");
    assert!(said && text.contains("bool(false)"), "{text}");
}
