//! memcache.redundancy: pecl-memcache's copies of values in mode single.

use harness::{Memcached, Php, Redis, Server};

#[test]
fn a_counter_shows_its_owners_number_though_a_copy_answers_first() {
    let pools = [
        [(); 2].map(|()| Server::Memcached(Memcached::start())),
        [(); 2].map(|()| Server::Redis(Redis::start())),
    ];
    for nodes in pools {
        let names = nodes.each_ref().map(|node| match node.is_redis() {
            true => format!("redis://{}", node.address()),
            false => format!("tcp://{}", node.address()),
        });
        for protocol in ["ascii", "binary"] {
            let php = Php::new()
                .ini("memcache.redundancy", 2)
                .ini("memcache.protocol", protocol);
            let head = format!(
                "$m = new Memcache; $m->addServer('{}'); $m->addServer('{}'); for ($i = 0; $i < 40; $i++) $all[] = \"k$i\";\n",
                names[0], names[1]
            );
            let owners = php
                .run(&format!(
                    "{head} foreach ($all as $k) echo $m->findServer($k), \"\\n\";"
                ))
                .ok();
            let mut firsts = 0;
            for (n, owner) in owners.lines().enumerate() {
                let first = owner.contains(&nodes[0].address());
                firsts += usize::from(first);
                nodes[usize::from(!first)].put(&format!("k{n}"), "100");
                nodes[usize::from(first)].put(&format!("k{n}"), "900");
            }
            // Or nobody answers for another one first.
            assert!((5..=35).contains(&firsts), "{owners}");
            let text = php
                .run(&format!("{head} echo json_encode(array_count_values($m->increment($all))), json_encode(array_count_values($m->decrement($all)));"))
                .ok();
            assert_eq!(text, r#"{"101":40}{"100":40}"#, "{protocol}");
            // The copy counts, too: on its own.
            let copy = nodes.each_ref().map(|node| node.stored("k0").unwrap());
            assert!(
                copy.iter().any(|value| value.starts_with(b"900")),
                "{copy:?}"
            );
        }
    }
}
