//! Hosts with php-memcached beside hosts with us: sessions and values of both, under prefixes, on the same servers.

use crate::sessions::with_sessions;
use harness::{Memcached, Php, TempDir};
use std::time::Duration;

/// A thousand visitors, a few of them with more than others compress; what each counted before.
const VISIT: &str = "for ($i = 0; $i < 1000; $i++) { session_id(\"visitor$i\"); session_start(); \
    echo $_SESSION['n'] ?? 0, ' '; $_SESSION['n'] = ($_SESSION['n'] ?? 0) + 1; \
    $_SESSION['name'] = str_repeat(\"v$i\", $i % 100 ? 1 : 9000); session_write_close(); }";

/// php-memcached alone, with what it is linked to.
fn bare() -> Php {
    let php = Php::bare().extension("igbinary").extension("msgpack");
    php.extension("memcached")
}

/// php-memcached with its sessions there, as it is by default but for `weighted`.
fn theirs(servers: &[Memcached], weighted: bool) -> Php {
    let list: Vec<String> = servers.iter().map(Memcached::address).collect();
    let kind = if weighted {
        "ketama_weighted"
    } else {
        "ketama"
    };
    with_sessions(bare(), &list.join(","))
        .ini("session.save_handler", "memcached")
        .ini("memcached.sess_consistent_hash_type", kind)
        .limit(Duration::from_secs(60))
}

/// The same list for both of our handlers.
fn ours(servers: &[Memcached], weighted: bool) -> [Php; 2] {
    let placement = if weighted {
        "ketama-weighted"
    } else {
        "ketama"
    };
    let node = |server: &Memcached| {
        let address = server.address();
        format!("tcp://{address}?prefix=memc.sess.key.&placement={placement}&mode=single")
    };
    let list: Vec<String> = servers.iter().map(node).collect();
    ["memcache", "memring"].map(|handler| {
        with_sessions(Php::new(), &list.join(","))
            .ini("session.save_handler", handler)
            .ini("display_errors", "stderr")
            .limit(Duration::from_secs(60))
    })
}

#[test]
fn sessions_of_php_memcached_go_on_here_and_back_there() {
    for (count, weighted) in [(1, false), (3, false), (3, true)] {
        let servers: Vec<Memcached> = (0..count).map(|_| Memcached::start()).collect();
        let theirs = theirs(&servers, weighted);
        let [one, other] = ours(&servers, weighted);
        for (host, php) in [&theirs, &one, &theirs, &other, &theirs]
            .into_iter()
            .enumerate()
        {
            let seen = php.run(VISIT).ok();
            let wanted = vec![host.to_string(); 1000].join(" ");
            assert_eq!(seen.trim(), wanted, "host {host} of {count}, {weighted}");
        }
        // Each session once, and pecl-memcache's counter of its turns, which stays at 0.
        let items: u64 = servers.iter().map(|s| s.stat("curr_items")).sum();
        assert_eq!(items, 2000, "a copy was left");
    }
}

#[test]
fn values_of_php_memcached_are_found_behind_its_prefix() {
    let servers = [(); 3].map(|()| Memcached::start());
    let list = servers
        .iter()
        .map(|server| format!("['127.0.0.1', {}]", server.port()))
        .collect::<Vec<_>>()
        .join(", ");
    let theirs = format!(
        "$m = new Memcached; $m->setOption(Memcached::OPT_DISTRIBUTION, Memcached::DISTRIBUTION_CONSISTENT); \
         $m->setOption(Memcached::OPT_PREFIX_KEY, 'shop:'); $m->addServers([{list}]); \
         for ($i = 0; $i < 300; $i++) $m->set(\"k$i\", \"v$i\"); echo $m->getResultMessage();"
    );
    let said = bare().run(&theirs).ok();
    assert_eq!(said, "SUCCESS");
    let nodes = servers
        .iter()
        .map(|server| format!("\"{}\"", server.address()))
        .collect::<Vec<_>>()
        .join(", ");
    let directory = TempDir::new("behind-prefix");
    let file = directory.path().join("pools.toml");
    let pool = format!(
        "[pool.shop]\nnodes = [{nodes}]\nmode = \"single\"\nplacement = \"ketama\"\nkey_prefix = \"shop:\"\n"
    );
    std::fs::write(&file, pool).unwrap();
    let ours = "$m = new Memcache; $m->addServer('pool:shop'); $found = 0; \
        for ($i = 0; $i < 300; $i++) $found += $m->get(\"k$i\") === \"v$i\"; echo $found;";
    let php = Php::new().ini("memring.config_file", file.display());
    assert_eq!(php.run(ours).ok(), "300");
}
