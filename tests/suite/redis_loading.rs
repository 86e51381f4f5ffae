//! A Redis that still reads its data from disk: who asks is told so and what to do, nothing takes a session for a new
//! one, and it is used when it is done. `redis_copies` has such a node beside one that serves.

use crate::sessions::with_sessions;
use harness::{Php, Redis, wait_until};
use redis::Commands;
use std::time::Duration;

const COUNT: &str = "session_id('s'); var_dump(session_start()); $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; echo $_SESSION['n'];";

#[test]
fn a_redis_that_loads_its_data_serves_nobody_is_named_with_the_remedy_and_works_afterwards() {
    // 50 ms for each key, and commands are answered in between.
    let mut server = Redis::with(&[
        "--key-load-delay",
        "50000",
        "--loading-process-events-interval-bytes",
        "1024",
        "--rdbcompression",
        "no",
    ]);
    let node = format!("redis://{}", server.address());
    let sessions = [
        with_sessions(Php::new(), &node),
        with_sessions(Php::new(), &format!("{node}?mode=single"))
            .ini("session.save_handler", "memring"),
    ];
    for (seen, php) in sessions.iter().enumerate() {
        assert_eq!(php.run(COUNT).ok(), format!("bool(true)\n{}", seen + 1));
    }
    let mut client = server.client();
    for n in 0..60 {
        let _: () = client.set(format!("k{n}"), "o".repeat(2000)).unwrap();
    }
    let saved = redis::cmd("SAVE").exec(&mut client);
    saved.unwrap();
    server.kill();
    server.restart();
    let pool = format!("$m = new Memcache; $m->addServer('{node}');");
    let told = [
        "LOADING",
        "It reads its data from disk, and will answer when that is done",
    ];
    for call in ["$m->get('k1')", "$m->set('k1', 'new')"] {
        let text = Php::new().run(&format!("{pool} var_dump({call});")).text();
        assert!(text.ends_with("bool(false)"), "{call}: {text}");
        for words in told {
            assert_eq!(text.matches(words).count(), 1, "{call}: {text}");
        }
    }
    for php in &sessions {
        let text = php.run(COUNT).text();
        assert!(text.contains("bool(false)"), "{text}");
        for words in told.into_iter().chain(["nothing is overwritten"]) {
            assert_eq!(text.matches(words).count(), 1, "{words}: {text}");
        }
    }
    assert_eq!(server.info("loading"), "1", "it was ready too soon");
    let ready = wait_until(Duration::from_secs(20), || server.info("loading") == "0");
    assert!(ready, "it loads for ever");
    let text = Php::new().run(&format!(
        "{pool} echo strlen($m->get('k1')); var_dump($m->set('k1', 'new'), $m->get('k1'));"
    ));
    assert_eq!(text.ok(), "2000bool(true)\nstring(3) \"new\"");
    for (seen, php) in sessions.iter().enumerate() {
        assert_eq!(php.run(COUNT).ok(), format!("bool(true)\n{}", seen + 3));
    }
}
