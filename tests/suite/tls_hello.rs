//! What a server is told before anything is secret, and who it is shown: the name in the ClientHello (SNI), and a
//! client certificate that was renewed while PHP ran. `tls` holds whom we believe.

use crate::pool::Bench;
use harness::{Certificates, Issued, Memcached, Php, PhpFpm, Proxy, Redis, TempDir, Valid};
use memring_pool::call::Outcome;
use memring_pool::config::{NodeSpec, Policy, Schemes};
use memring_pool::wire::Store;
use std::path::Path;
use std::time::Duration;

fn one(node: &str) -> Bench {
    let mut bench = Bench::of(Policy::default(), &[]);
    let spec = NodeSpec::from_add_server(node, None, 11211, &Schemes::default()).unwrap();
    bench.pool.add(spec, &mut bench.directory);
    bench
}

/// Takes `count` bytes off the front.
fn take<'b>(bytes: &mut &'b [u8], count: usize) -> &'b [u8] {
    let (first, rest) = bytes.split_at(count);
    *bytes = rest;
    first
}

/// Takes a length of `width` bytes and so many bytes.
fn sized<'b>(bytes: &mut &'b [u8], width: usize) -> &'b [u8] {
    let length = take(bytes, width).iter();
    let length = length.fold(0, |sum, byte| sum << 8 | usize::from(*byte));
    take(bytes, length)
}

/// The name that a ClientHello asks for.
///
/// Source: RFC 8446 section 4.1.2, RFC 6066 section 3.
fn name_asked_for(mut stream: &[u8]) -> Option<String> {
    // Handshake; its version is that of TLS 1.0 in every first record.
    assert_eq!(take(&mut stream, 3)[0], 22, "no TLS");
    let mut record = sized(&mut stream, 2);
    assert_eq!(take(&mut record, 1), [1], "no ClientHello");
    let mut hello = sized(&mut record, 3);
    // Version and random bytes, session, ciphers, compressions.
    take(&mut hello, 34);
    for width in [1, 2, 1] {
        sized(&mut hello, width);
    }
    let mut extensions = sized(&mut hello, 2);
    while !extensions.is_empty() {
        let kind = take(&mut extensions, 2);
        let mut body = sized(&mut extensions, 2);
        if kind == [0, 0] {
            let mut names = sized(&mut body, 2);
            assert_eq!(take(&mut names, 1), [0], "no host name");
            let name = sized(&mut names, 2);
            assert!(names.is_empty() && body.is_empty(), "one name is asked for");
            return Some(String::from_utf8(name.to_vec()).unwrap());
        }
    }
    None
}

#[test]
fn the_name_that_is_written_or_else_the_host_is_asked_for_and_no_address_is() {
    let made = Certificates::new();
    let names = "DNS:localhost,DNS:cache.example,IP:127.0.0.1";
    let issued = made.issue("server", names, Valid::Now);
    let (memcached, redis) = (
        Memcached::with_tls(&issued, None, &[]),
        Redis::with_tls(&issued, None, &[]),
    );
    for (scheme, port) in [
        ("memcacheds", memcached.tls_port()),
        ("rediss", redis.tls_port()),
    ] {
        for (host, options, asked) in [
            (
                "127.0.0.1",
                "server_name=cache.example",
                Some("cache.example"),
            ),
            (
                "127.0.0.1",
                "server_name=cache.example.",
                Some("cache.example"),
            ),
            (
                "localhost",
                "server_name=cache.example",
                Some("cache.example"),
            ),
            (
                "127.0.0.1",
                "server_name=cache.example&verify=ca",
                Some("cache.example"),
            ),
            (
                "127.0.0.1",
                "server_name=cache.example&verify=no",
                Some("cache.example"),
            ),
            (
                "127.0.0.1",
                "stream[peer_name]=cache.example",
                Some("cache.example"),
            ),
            ("localhost", "retry_interval=1", Some("localhost")),
            // RFC 6066: literal addresses are not permitted.
            ("127.0.0.1", "retry_interval=1", None),
        ] {
            // phpredis' words are for Redis.
            if scheme == "memcacheds" && options.starts_with("stream") {
                continue;
            }
            let proxy = Proxy::start(port);
            let ca = made.ca();
            let node = format!(
                "{scheme}://{host}:{}?timeout=5&ca={}&{options}",
                proxy.port(),
                ca.display()
            );
            let mut bench = one(&node);
            assert_eq!(
                bench.store(Store::Set, "k", b"v", 0),
                Outcome::Done,
                "{node} {:?}",
                bench.call.events()
            );
            let found = name_asked_for(&proxy.requests());
            assert_eq!(found.as_deref(), asked, "{node}");
        }
    }
}

/// Puts a certificate and its key where PHP is told to find them, each whole, as an administrator should.
fn put(directory: &TempDir, issued: &Issued) {
    for (from, name) in [(&issued.cert, "php.pem"), (&issued.key, "php.key")] {
        let new = directory.file(&format!("{name}.new"), std::fs::read(from).unwrap());
        std::fs::rename(new, directory.path().join(name)).unwrap();
    }
}

/// Has a Redis believe only who this authority signed, and leave everybody it knows.
fn believe(redis: &Redis, ca: &Path) {
    let mut client = redis.client();
    redis::cmd("CONFIG")
        .arg(&["SET", "tls-ca-cert-file"])
        .arg(ca.display().to_string())
        .exec(&mut client)
        .unwrap();
    redis::cmd("CLIENT")
        .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
        .exec(&mut client)
        .unwrap();
    // What was used a moment ago (5 ms) is not asked whether it is still open.
    std::thread::sleep(Duration::from_millis(30));
}

#[test]
fn a_renewed_client_certificate_is_shown_on_new_connections_without_a_restart() {
    let (old, new) = (Certificates::new(), Certificates::new());
    let redis = Redis::with_tls(&old.server(), Some(&old.ca()), &[]);
    let directory = TempDir::new("renewed");
    put(&directory, &old.issue("php", "DNS:php", Valid::Now));
    let [ca, cert, key] = [
        old.ca(),
        directory.path().join("php.pem"),
        directory.path().join("php.key"),
    ]
    .map(|path| path.display().to_string());
    let node = format!(
        "rediss://127.0.0.1:{}?timeout=5&retry_interval=0&ca={ca}&cert={cert}&key={key}",
        redis.tls_port()
    );
    let fpm = PhpFpm::with(&Php::new().env("NODE", node), 1, "");
    fpm.page(
        "page.php",
        "$m = new Memcache; $m->addServer(getenv('NODE')); $m->increment('n', 1, 1); echo $m->get('n'), ' ', getmypid();",
    );
    let visit = || fpm.get("page.php", "", "").text();
    let first = visit();
    let (n, worker) = first.split_once(' ').expect(&first);
    assert_eq!(n, "1", "{first}");
    // The one it has is of no more use there.
    believe(&redis, &new.ca());
    let refused = visit();
    assert!(refused.contains("cert=FILE and key=FILE"), "{refused}");
    put(&directory, &new.issue("php", "DNS:php", Valid::Now));
    assert_eq!(visit(), format!("2 {worker}"));
    // Not only once.
    believe(&redis, &old.ca());
    put(&directory, &old.issue("php2", "DNS:php", Valid::Now));
    assert_eq!(visit(), format!("3 {worker}"));
}
