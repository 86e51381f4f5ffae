//! Copies that follow the answer go over a connection that is entered for them: as the node's user,
//! into its database.

use crate::cache_copies::owned;
use crate::late_copies::{holding, set, trailing};
use harness::Redis;
use memring_pool::config::{NodeSpec, Schemes};
use memring_pool::copier;
use memring_pool::pool::later;

/// One server, two databases: what waits to be said over a connection is for that one's.
#[test]
fn copies_for_two_databases_of_one_server_reach_each_its_own() {
    let nodes = [(); 2].map(|()| Redis::start());
    let of = |database: u32| {
        let mut bench = holding(&format!("database{database}"), &[]);
        for node in &nodes {
            let url = format!("redis://{}/{database}", node.address());
            let spec = NodeSpec::from_add_server(&url, None, 11211, &Schemes::default());
            bench.pool.add(spec.unwrap(), &mut bench.directory);
        }
        bench
    };
    let (mut first, mut second) = (of(0), of(1));
    let keys = owned(&mut first, 0, 20);
    for key in &keys {
        set(&mut first, key, "first");
        set(&mut second, key, "second");
    }
    later::end();
    assert!(copier::take_news().missed.is_empty());
    for node in &nodes {
        let mut client = node.client();
        for database in 0..2 {
            redis::cmd("SELECT")
                .arg(database)
                .exec(&mut client)
                .unwrap();
            let here: usize = redis::cmd("DBSIZE").query(&mut client).expect("DBSIZE");
            assert_eq!(here, keys.len());
            for key in &keys {
                let value: Vec<u8> = redis::cmd("GET").arg(key).query(&mut client).expect("GET");
                let wanted: &[u8] = [b"first".as_slice(), b"second"][database];
                assert!(value.ends_with(wanted), "{key} in {database}");
            }
        }
    }
}

/// Nothing may reach another database, and nobody who is not let in.
#[test]
fn copies_of_a_redis_follow_as_its_user_into_its_database() {
    let nodes = [(); 2].map(|()| Redis::with(&["--requirepass", "geheim", "--databases", "4"]));
    let over = |password: &str| {
        let mut bench = trailing("login", &[]);
        for (node, password) in nodes.iter().zip(["geheim", password]) {
            let url = format!("redis://:{password}@{}/3", node.address());
            let spec = NodeSpec::from_add_server(&url, None, 11211, &Schemes::default());
            bench.pool.add(spec.unwrap(), &mut bench.directory);
        }
        bench
    };
    let mut bench = over("geheim");
    let keys = owned(&mut bench, 0, 20);
    for key in &keys {
        set(&mut bench, key, "value");
    }
    later::end();
    assert!(copier::take_news().missed.is_empty());
    let mut client = nodes[1].client_as(":geheim@");
    let found = |client: &mut redis::Connection| -> usize {
        redis::cmd("DBSIZE").query(client).expect("DBSIZE")
    };
    assert_eq!(found(&mut client), 0);
    redis::cmd("SELECT").arg(3).exec(&mut client).unwrap();
    assert_eq!(found(&mut client), keys.len());
    // Who is not let in has missed it, and that is said.
    let mut bench = over("other");
    let before = found(&mut client);
    let key = &owned(&mut bench, 0, 21)[20];
    set(&mut bench, key, "value");
    // Who was quick enough heard of it with the call, else it is told to the next one.
    let mut told: Vec<String> = bench.call.changes().collect();
    later::end();
    let news = copier::take_news();
    told.extend(news.failed.iter().map(|(_, error)| error.to_string()));
    assert!(
        told.iter()
            .any(|error| error.contains("refuses the password")),
        "{told:?}"
    );
    assert!(
        !told.iter().any(|error| error.contains("other")),
        "{told:?}"
    );
    assert_eq!(found(&mut client), before);
}
