//! Masters behind Sentinels: whoever is the master is found, and a switch is over for PHP when it is over for them.
//! `contract` has every command's outcome on such nodes.

use crate::pool::Bench;
use crate::secrets;
use crate::sessions::with_sessions;
use harness::{
    Act, Certificates, ClosedPort, Hostile, Memcached, Php, Redis, Sentinel, TempDir, Watched,
    wait_until,
};
use memring_pool::call::{Outcome, Verb};
use memring_pool::config::{NodeSpec, Policy, Schemes};
use memring_pool::error::Kind;
use memring_pool::wire::Store;
use redis::Commands;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A pool of one node.
fn over(node: &str) -> Bench {
    let mut bench = Bench::of(Policy::default(), &[]);
    let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
    bench.pool.add(spec, &mut bench.directory);
    bench
}

fn said(server: &Redis, words: &[&str]) {
    let mut command = redis::cmd(words[0]);
    words[1..].iter().for_each(|word| {
        command.arg(word);
    });
    command.exec(&mut server.client()).unwrap();
}

fn seconds() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs_f64()
}

/// Values and visits of one worker until the file STOP is there; then what became of them.
const WORKER: &str = r#"
$m = new Memcache; $m->addServer(getenv('NODE')); $me = getenv('ME');
$n = $done = $visits = $older = $fell = 0; $wrong = $acked = $times = [];
while (!file_exists(getenv('STOP'))) {
    $k = "k$me-" . (++$n % 50);
    if (@$m->set($k, $n)) { $acked[$k] = $n; $done++; } else $times[] = microtime(true);
    session_id("s$me");
    // A turn that a switch cut off may have to be waited for.
    $asked = microtime(true);
    if (@session_start()) {
        $found = $_SESSION['n'] ?? 0;
        if ($found < $visits) { $older += $visits - $found; $visits = $found; $fell = $asked; }
        $_SESSION['n'] = $found + 1;
        // It is true whatever became of it: that it failed is a warning.
        error_clear_last(); @session_write_close();
        if (!error_get_last()) { $visits = $found + 1; $done++; } else $times[] = microtime(true);
    } else $times[] = microtime(true);
}
foreach ($acked as $k => $v) if ($m->get($k) < $v) $wrong[] = $k;
echo json_encode(['done' => $done, 'errors' => count($times), 'first' => $times[0] ?? 0, 'last' => $times ? end($times) : 0,
    'lost' => count($wrong), 'older' => $older, 'fell' => $fell]);
"#;

/// What the workers of a load met, all together.
#[derive(Debug, Default)]
pub(crate) struct Met {
    pub(crate) done: u64,
    pub(crate) errors: u64,
    first: f64,
    pub(crate) last: f64,
    pub(crate) lost: u64,
    /// Acknowledged visits that were not found again, and when the last visit began that saw so.
    pub(crate) older: u64,
    fell: f64,
}

/// Four workers write values and count in sessions on `watched`, while `act` makes server 1 the master; when all
/// Sentinels knew it, and what was met. The node is entered with this `option`, `&NAME=VALUE` or nothing.
pub(crate) fn under_load(
    watched: &mut Watched,
    option: &str,
    act: impl FnOnce(&mut Watched),
) -> (f64, Met) {
    let directory = TempDir::new("switch");
    let stop = directory.path().join("stop");
    let php = with_sessions(Php::new(), &watched.node(&format!("?mode=single{option}")))
        .ini("session.save_handler", "memring")
        .env("NODE", watched.node(&option.replacen('&', "?", 1)))
        .env("STOP", stop.display())
        .limit(Duration::from_secs(120));
    let workers: Vec<_> = (0..4)
        .map(|me| php.clone().env("ME", me).start(WORKER))
        .collect();
    let busy = |server: &Redis, from: u64| {
        let count = || {
            server
                .info("total_commands_processed")
                .parse::<u64>()
                .unwrap()
        };
        let from = from + count();
        assert!(wait_until(Duration::from_secs(30), || count() > from));
    };
    busy(&watched.servers[0], 4000);
    act(watched);
    watched.await_master(1);
    let switched = seconds();
    busy(&watched.servers[1], 8000);
    // Longer than anybody leaves a node alone.
    assert!(wait_until(Duration::from_secs(30), || seconds() > switched + 4.0));
    std::fs::write(&stop, "").unwrap();
    let mut met = Met::default();
    for worker in workers {
        let text = worker.finish().ok();
        let facts: serde_json::Value =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("{text}"));
        let count = |name: &str| facts[name].as_u64().unwrap();
        met.done += count("done");
        met.errors += count("errors");
        met.lost += count("lost");
        met.older += count("older");
        let time = |name: &str| facts[name].as_f64().unwrap();
        met.last = met.last.max(time("last"));
        met.fell = met.fell.max(time("fell"));
        let first = time("first");
        if first > 0.0 && (met.first == 0.0 || first < met.first) {
            met.first = first;
        }
    }
    println!("{met:?}, all errors within {:.2} s", met.last - met.first);
    (switched, met)
}

#[test]
fn a_killed_master_costs_errors_until_the_switch_and_none_after_it() {
    let mut watched = Watched::start();
    let killed = std::cell::Cell::new(0.0);
    let (switched, met) = under_load(&mut watched, "", |watched| {
        killed.set(seconds());
        watched.servers[0].kill();
    });
    println!("switched {:.2} s after the kill", switched - killed.get());
    assert!(met.errors > 0 && met.first >= killed.get(), "{met:?}");
    assert!(
        met.last < switched + 2.0,
        "errors {:.2} s after it",
        met.last - switched
    );
    // What was acknowledged in the moment of the kill may not have reached the replica.
    assert!(met.lost == 0 && met.older <= 4, "{met:?}");
}

#[test]
fn a_switch_that_is_asked_for_is_followed_within_a_second_or_two_and_costs_no_error_after_it() {
    let mut watched = Watched::start();
    let (switched, met) = under_load(&mut watched, "", |watched| {
        let said: String = watched.sentinels[0].say(&["SENTINEL", "FAILOVER", "m"]);
        assert_eq!(said, "OK");
    });
    let (late, fell) = (met.last - switched, met.fell - switched);
    assert!(late < 2.0, "errors {late:.2} s after it");
    // Sentinels promote the new master while the old one still takes writes, and go on naming the
    // old one for a second: nobody can know better. But they all know by now.
    assert!(
        met.older > 0 && fell < 2.0,
        "still on the old one {fell:.2} s after it: {met:?}"
    );
    assert_eq!(met.lost, 0, "{met:?}");
}

#[test]
fn a_master_that_hung_is_not_believed_when_it_goes_on() {
    let watched = Watched::start();
    let mut bench = over(&watched.node(""));
    assert_eq!(bench.store(Store::Set, "k", b"1", 0), Outcome::Done);
    watched.servers[0].freeze();
    watched.await_master(1);
    let _: () = watched.servers[1].client().set("k", "2").unwrap();
    // For seconds it still says that it is the master: this worker's connection to it is open.
    watched.servers[0].resume();
    assert_eq!(watched.servers[0].info("role"), "master");
    assert_eq!(bench.store(Store::Append, "k", b"3", 0), Outcome::Done);
    assert_eq!(bench.call.events().len(), 0);
    let text: String = watched.servers[1].client().get("k").unwrap();
    assert_eq!(text, "23");
}

#[test]
fn who_finds_the_new_master_finds_it_for_all_processes_of_the_host() {
    let watched = Watched::start();
    let php = Php::new().env("NODE", watched.node(""));
    let head = "$m = new Memcache; $m->addServer(getenv('NODE')); $m->set('a', 1);";
    // One looks once in a second. Of these two only the second one does so after the switch.
    let directory = TempDir::new("found");
    let flag = |name: &str| directory.path().join(name).display().to_string();
    let script = format!(
        "{head} touch('{}'); while (!file_exists('{}')) usleep(2000); $m->set('b', 2); echo $m->get('b');",
        flag("ready"),
        flag("go")
    );
    let first = php.start(&script);
    assert!(wait_until(Duration::from_secs(20), || {
        std::path::Path::new(&flag("ready")).exists()
    }));
    watched.servers[0].freeze();
    watched.await_master(1);
    watched.servers[0].resume();
    assert_eq!(php.run(&format!("{head} echo 'found';")).ok(), "found");
    std::fs::write(flag("go"), "").unwrap();
    assert_eq!(first.finish().ok(), "2");
    let mut client = watched.servers[1].client();
    assert!(client.exists::<_, bool>("b").unwrap());
}

#[test]
fn a_request_that_a_demoted_master_refuses_goes_to_the_new_one() {
    let servers = [Redis::start(), Redis::start()];
    let sentinel = Sentinel::start(&[("m", "127.0.0.1", servers[0].port())], 1, "");
    let mut bench = over(&format!("redis-sentinel://{}/m", sentinel.address()));
    let keys: Vec<String> = (0..100).map(|n| format!("k{n}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let ports = servers.each_ref().map(|s| s.port().to_string());
    let switch = |from: usize, to: usize| {
        let to_port = ports[to].as_str();
        said(&servers[to], &["REPLICAOF", "NO", "ONE"]);
        said(&servers[from], &["REPLICAOF", "127.0.0.1", to_port]);
        let _: String = sentinel.say(&["SENTINEL", "REMOVE", "m"]);
        let _: String = sentinel.say(&["SENTINEL", "MONITOR", "m", "127.0.0.1", to_port, "1"]);
    };
    let errors = |server: &Redis| {
        let text: String = redis::cmd("INFO")
            .arg("errorstats")
            .query(&mut server.client())
            .unwrap();
        text.contains("READONLY")
    };
    assert_eq!(bench.store(Store::Set, "k", b"1", 0), Outcome::Done);
    switch(0, 1);
    assert_eq!(bench.store(Store::Set, "k", b"2", 0), Outcome::Done);
    assert_eq!(bench.call.events().len(), 0);
    switch(1, 0);
    let stored = bench.run(Verb::Increment, &keys, |call, i| {
        let entry = call.entry_mut(i).unwrap();
        (entry.delta, entry.initial) = (1, Some(5));
    });
    assert_eq!(stored, [Outcome::Number(5); 100]);
    assert_eq!(bench.call.events().len(), 0);
    assert!(
        errors(&servers[0]) && errors(&servers[1]),
        "nothing was refused"
    );
    let keys: u64 = redis::cmd("DBSIZE")
        .query(&mut servers[0].client())
        .unwrap();
    assert_eq!(
        keys,
        100 + u64::from(servers[0].client().exists::<_, bool>("k").unwrap())
    );
}

#[test]
fn what_a_master_carried_out_before_it_refused_the_rest_is_not_said_again() {
    let master = Hostile::start(|request| match request.last() {
        "ROLE" => vec![Act::say("*3\r\n$6\r\nmaster\r\n:0\r\n*0\r\n")],
        "PING" => vec![Act::say("+PONG\r\n")],
        "first" => vec![Act::say(":1\r\n")],
        "second" => vec![Act::say(
            "-NOREPLICAS Not enough good replicas to write.\r\n",
        )],
        _ => vec![],
    });
    let port = master.port();
    let sentinel = Hostile::start(move |request| match request.last() {
        "m" => vec![Act::say(format!(
            "*2\r\n$9\r\n127.0.0.1\r\n${}\r\n{port}\r\n",
            port.to_string().len()
        ))],
        _ => vec![],
    });
    let mut bench = over(&format!("redis-sentinel://127.0.0.1:{}/m", sentinel.port()));
    let times = |key: &str| {
        let all = master.requests();
        all.iter().filter(|one| one.last() == key).count()
    };
    // Nothing of it was done: another server may be the master.
    let deleted = bench.run(Verb::Delete, &["second"], |_, _| {});
    assert_eq!(deleted, [Outcome::Refused]);
    assert_eq!(times("second"), 2);
    let deleted = bench.run(Verb::Delete, &["first", "second"], |_, _| {});
    assert_eq!(deleted, [Outcome::Done, Outcome::Refused]);
    assert_eq!((times("first"), times("second")), (1, 3));
    assert_eq!(bench.call.events().len(), 1, "{:?}", bench.call.events());
}

#[test]
fn a_sentinel_that_names_a_replica_is_passed_over_and_alone_is_an_error() {
    let master = Redis::start();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &master.port().to_string()]);
    let wrong = Sentinel::start(&[("m", "127.0.0.1", replica.port())], 3, "");
    let right = Sentinel::start(&[("m", "127.0.0.1", master.port())], 3, "");
    let by = [&wrong, &right].map(Sentinel::address).join(",");
    let mut bench = over(&format!("redis-sentinel://{by}/m"));
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    assert!(master.client().exists::<_, bool>("k").unwrap());
    assert_eq!(wrong.names("m"), replica.port());
    let mut bench = over(&format!("redis-sentinel://{}/m", wrong.address()));
    assert_eq!(bench.store(Store::Set, "k", b"w", 0), Outcome::Lost);
    let text = bench.call.events()[0].error.to_string();
    let at = format!(
        "a switch is under way, or they are wrong (Sentinels name {})",
        replica.address()
    );
    assert!(
        text.contains("it is a replica") && text.contains(&at),
        "{text}"
    );
}

#[test]
fn a_transaction_keeps_its_connection_for_longer_than_others_are_looked_at() {
    let server = Redis::start();
    let sentinel = Sentinel::start(&[("m", "127.0.0.1", server.port())], 1, "");
    let script = r#"$m = new Memring\Memcache; $m->addServer(getenv('NODE'));
        var_dump($m->watch(['a'])); usleep(1200000); $m->multi(); $m->set('a', 1); $m->increment('n', 2, 5); echo json_encode($m->exec());"#;
    let php = Php::new().env("NODE", format!("redis-sentinel://{}/m", sentinel.address()));
    assert_eq!(php.run(script).ok(), "bool(true)\n[true,5]");
}

#[test]
fn masters_that_are_named_by_host_are_found() {
    let watched = Watched::with("localhost", "sentinel announce-hostnames yes");
    let place: Vec<String> =
        watched.sentinels[0].say(&["SENTINEL", "get-master-addr-by-name", "m"]);
    assert_eq!(place[0], "localhost");
    let mut bench = over(&watched.node(""));
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    assert!(watched.servers[0].client().exists::<_, bool>("k").unwrap());
}

#[test]
fn a_master_stays_in_use_when_all_its_sentinels_are_gone() {
    let server = Redis::start();
    let mut sentinel = Sentinel::start(&[("m", "127.0.0.1", server.port())], 1, "");
    let node = format!("redis-sentinel://{}/m", sentinel.address());
    let mut bench = over(&node);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    sentinel.kill();
    // Well past the second in which it looks again, and once with a connection that was cut.
    for cut in [false, true] {
        let begin = seconds();
        assert!(wait_until(Duration::from_secs(10), || {
            let stored = bench.store(Store::Set, "k", b"w", 0);
            assert_eq!(stored, Outcome::Done, "{:?}", bench.call.events());
            seconds() > begin + 1.3
        }));
        if !cut {
            said(&server, &["CLIENT", "KILL", "TYPE", "normal"]);
            assert_eq!(bench.get("k"), Some(b"w".to_vec()));
        }
    }
    assert_eq!(bench.get("k"), Some(b"w".to_vec()));
    // Who comes now finds nobody to ask.
    let text = Php::new().run(&format!(
        "$m = new Memcache; $m->addServer('{node}'); var_dump($m->set('k', 1));"
    ));
    let text = text.text();
    assert!(
        text.contains("Are Sentinels running there") && text.contains("bool(false)"),
        "{text}"
    );
}

#[test]
fn what_leads_to_no_master_is_one_error_with_its_remedy() {
    let server = Redis::with(&["--requirepass", "geheim"]);
    let (plain, memcached, closed) = (Redis::start(), Memcached::start(), ClosedPort::new());
    let masters = [("m", "127.0.0.1", server.port())];
    let sentinel = Sentinel::start(
        &masters,
        1,
        "sentinel auth-pass m geheim\nrequirepass geheim2",
    );
    let stranger = Sentinel::start(&[("other", "127.0.0.1", server.port())], 1, "");
    let by = sentinel.address();
    let right = "sentinel_auth=geheim2";
    let cases = [
        (format!("{by}/m"), Kind::Auth, "sentinel_auth=PASSWORD"),
        (
            format!("{by}/m?sentinel_auth=geheim3"),
            Kind::Auth,
            "sentinel_auth=PASSWORD",
        ),
        (
            format!("{by}/x?{right}"),
            Kind::Resolve,
            "knows no master of that name",
        ),
        (
            format!("{}/m", stranger.address()),
            Kind::Resolve,
            "SENTINEL MASTERS",
        ),
        (
            format!("127.0.0.1:{}/m", closed.port()),
            Kind::Resolve,
            "Connection refused",
        ),
        (
            format!("{}/m", plain.address()),
            Kind::Resolve,
            "it is no Sentinel). Name Sentinels",
        ),
        (
            format!("{}/m", memcached.address()),
            Kind::Resolve,
            "speaks as memcached does",
        ),
        (
            format!(":geheim4@{by}/m?{right}"),
            Kind::Auth,
            "refuses the password",
        ),
        (format!("{by}/m?{right}"), Kind::Server, "NOAUTH"),
    ];
    for (place, kind, words) in cases {
        let mut bench = over(&format!("redis-sentinel://{place}"));
        let stored = bench.store(Store::Set, "k", b"v", 0);
        assert_ne!(stored, Outcome::Done, "{place}");
        assert_eq!(
            bench.call.events().len(),
            1,
            "{place}: {:?}",
            bench.call.events()
        );
        let event = &bench.call.events()[0];
        let text = event.error.to_string();
        assert!(text.contains(words), "{place}: {text}");
        assert!(!text.contains("heim") && !text.contains('\n'), "{text}");
        assert!(
            event.error.kind() == kind || words == "NOAUTH",
            "{place}: {:?}",
            event.error
        );
    }
    // A Sentinel that is gone, and one that knows nothing, are passed over.
    let node = format!(
        "redis-sentinel://:geheim@127.0.0.1:{},{},{by}/m?{right}",
        closed.port(),
        plain.address()
    );
    let mut bench = over(&node);
    assert_eq!(bench.store(Store::Set, "k", b"v", 0), Outcome::Done);
    assert!(bench.call.events().is_empty());
    assert!(server.client_as(":geheim@").exists::<_, bool>("k").unwrap());
}

#[test]
fn the_passwords_of_a_watched_master_are_shown_nowhere() {
    let server = Redis::with(&["--requirepass", "geheim"]);
    let masters = [("m", "127.0.0.1", server.port())];
    let sentinel = Sentinel::start(
        &masters,
        1,
        "sentinel auth-pass m geheim\nrequirepass geheim2",
    );
    let node = format!(
        "redis-sentinel://:geheim@{}/m?sentinel_auth=geheim2",
        sentinel.address()
    );
    let directory = TempDir::new("secrets");
    let file = directory.file("pools.toml", format!("[pool.p]\nnodes = [\"{node}\"]\n"));
    let (log, errors) = (
        directory.path().join("log"),
        directory.path().join("errors"),
    );
    // The wrong ones first: a master that is known is used though no Sentinel answers.
    let script = r#"$w = new Memcache; $w->connect(getenv('WRONG')); $w->addServer(getenv('WRONG') . '4'); var_dump($w->set('k', 1));
        $m = new Memcache; $m->addServer('pool:p'); $m->set('k', 1); var_dump($m->get('k'));
        print_r($m); var_dump($m, Memring\status(), Memring\route('p', 'get', 'k'), $m->getServerStatus('m', 0), $m->findServer('k'));
        phpinfo(); print_r($m->getExtendedStats());"#;
    let output = Php::new()
        .ini("memring.config_file", file.display())
        .ini("memring.trace", log.display())
        .ini("log_errors", 1)
        .ini("error_log", errors.display())
        .env("WRONG", format!("{node}3"))
        .run(script);
    let text = output.text();
    assert!(
        ["no Sentinel names the master", "int(1)", "string(1) \"m\""]
            .iter()
            .all(|wanted| text.contains(wanted)),
        "{text}"
    );
    let shown = text.lines().filter(|line| line.contains("geheim"));
    // PHP itself shows the environment.
    let ours: Vec<&str> = shown
        .filter(|line| !line.starts_with("WRONG =>") && !line.contains("['WRONG']"))
        .collect();
    assert!(ours.is_empty(), "{ours:?}");
    secrets::not_in_the_log("geheim", &errors, &output);
    let traced = std::fs::read_to_string(&log).expect("a trace was written");
    assert!(!traced.is_empty() && !traced.contains("geheim"), "{traced}");
}

#[test]
fn keys_are_placed_by_the_names_of_masters_and_stay_there_after_a_switch() {
    let servers = [(); 3].map(|()| Redis::start());
    let names = ["one", "two", "three"];
    let masters: Vec<(&str, &str, u16)> = names
        .iter()
        .zip(&servers)
        .map(|(name, server)| (*name, "127.0.0.1", server.port()))
        .collect();
    let sentinel = Sentinel::start(&masters, 1, "");
    let list = names.map(|name| format!("redis-sentinel://{}/{name}", sentinel.address()));
    let mut bench = Bench::of(Policy::default(), &[]);
    let add = |bench: &mut Bench| {
        for node in &list {
            let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
            bench.pool.add(spec, &mut bench.directory);
        }
    };
    add(&mut bench);
    for n in 0..60 {
        assert_eq!(
            bench.store(Store::Set, &format!("k{n}"), b"v", 0),
            Outcome::Done
        );
    }
    let sizes = servers.each_ref().map(|server| {
        redis::cmd("DBSIZE")
            .query::<u64>(&mut server.client())
            .unwrap()
    });
    assert!(
        sizes.iter().all(|size| *size > 0) && sizes.iter().sum::<u64>() == 60,
        "{sizes:?}"
    );
    // Another server takes the place of the first, with its data.
    let port = servers[0].port().to_string();
    let heir = Redis::with(&["--replicaof", "127.0.0.1", &port]);
    assert!(wait_until(Duration::from_secs(20), || {
        heir.info("master_link_status") == "up"
    }));
    said(&heir, &["REPLICAOF", "NO", "ONE"]);
    said(
        &servers[0],
        &["REPLICAOF", "127.0.0.1", &heir.port().to_string()],
    );
    let _: String = sentinel.say(&["SENTINEL", "REMOVE", "one"]);
    let heir_port = heir.port().to_string();
    let _: String = sentinel.say(&["SENTINEL", "MONITOR", "one", "127.0.0.1", &heir_port, "1"]);
    for n in 0..60 {
        let key = format!("k{n}");
        assert_eq!(
            bench.store(Store::Append, &key, b"w", 0),
            Outcome::Done,
            "{key}"
        );
    }
    let mut client = heir.client();
    let key: String = redis::cmd("RANDOMKEY").query(&mut client).unwrap();
    let stored: Vec<u8> = client.get(key).unwrap();
    assert!(stored.ends_with(b"vw"), "{stored:?}");
}

#[test]
fn a_master_in_tls_is_found_by_sentinels_in_tls_and_so_is_the_next() {
    let made = Certificates::new();
    let mut watched = Watched::with_tls(&made);
    let node = watched.node(&format!("?ca={}", made.ca().display()));
    let mut bench = over(&node);
    assert_eq!(bench.store(Store::Set, "k", b"1", 0), Outcome::Done);
    assert!(bench.call.events().is_empty(), "{:?}", bench.call.events());
    watched.servers[0].kill();
    watched.await_master(1);
    assert!(wait_until(Duration::from_secs(10), || {
        bench.store(Store::Set, "k", b"2", 0) == Outcome::Done
    }));
    let text: Vec<u8> = watched.servers[1].client().get("k").unwrap();
    assert!(text.ends_with(b"2"), "{text:?}");
    // Sentinels that cannot prove who they are are not believed, and named.
    let strange = Certificates::new();
    let mut bench = over(&watched.node(&format!("?ca={}", strange.ca().display())));
    assert_eq!(bench.store(Store::Set, "k", b"3", 0), Outcome::Lost);
    let error = &bench.call.events()[0].error;
    let text = error.to_string();
    assert_eq!(error.kind(), Kind::Resolve, "{text}");
    assert!(
        text.contains("no Sentinel names the master") && text.contains("ca="),
        "{text}"
    );
}
