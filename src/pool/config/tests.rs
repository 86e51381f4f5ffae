//! Tables of good and bad lists and addServer calls, and garbage.

use super::super::{Mode, NodeSpec, Target, WEIGHT_MAX};
use super::*;
use std::time::Duration;

fn read(list: &str) -> Result<Wish, Error> {
    parse(list, &Schemes::default(), &|name| {
        Err(Error::new(
            Kind::Config,
            format!("asked for {}", clean(name)),
        ))
    })
}

fn names(list: &str) -> Vec<String> {
    read(list)
        .unwrap_or_else(|error| panic!("{list:?}: {error}"))
        .topology
        .nodes
        .iter()
        .map(NodeSpec::name)
        .collect()
}

#[test]
fn good_lists_give_the_nodes_the_rings_know_by_pecls_names() {
    for (list, expected) in [
        ("tcp://127.0.0.1:11211", &["127.0.0.1:11211"][..]),
        (
            "tcp://a:11211?weight=2, tcp://b:11212",
            &["a:11211", "b:11212"],
        ),
        ("tcp://a:1,tcp://b:2\ttcp://c:3\n", &["a:1", "b:2", "c:3"]),
        (
            ",  unix:///run/mc.sock:0?weight=1, ",
            &["unix:///run/mc.sock:0"],
        ),
        ("unix:/run/mc.sock", &["unix:///run/mc.sock:0"]),
        ("file:///run/mc.sock:0", &["unix:///run/mc.sock:0"]),
        ("a:11211,b:11211", &["a:11211", "b:11211"]),
        ("127.0.0.1:11213", &["127.0.0.1:11213"]),
        ("a:11211:33,b:11212:1", &["a:11211", "b:11212"]),
        ("a", &["a:11211"]),
        ("tcp://a", &["a:11211"]),
        ("tcp://a:11213/", &["a:11213"]),
        ("memcached://a memcache://b:2", &["a:11211", "b:2"]),
        (
            "tcp://[::1]:11212,[fe80::1%eth0]:1,tcp://[::1]",
            &["[::1]:11212", "[fe80::1%eth0]:1", "[::1]:11211"],
        ),
        ("TCP://Cache-1.example:1", &["Cache-1.example:1"]),
        ("a:1,a:1", &["a:1", "a:1"]),
    ] {
        assert_eq!(names(list), expected, "{list:?}");
    }
    assert_eq!(
        read("tcp://[::1]:5").unwrap().topology.nodes[0].target,
        Target::Tcp {
            host: "::1".into(),
            port: 5
        }
    );
    assert_eq!(
        read("unix:///run/mc.sock").unwrap().topology.nodes[0].target,
        Target::Unix("/run/mc.sock".into())
    );
    assert_eq!(read("a:1:33").unwrap().topology.nodes[0].weight, 33);
}

#[test]
fn options_reach_the_node_and_what_is_not_said_is_as_in_pecl() {
    let wish = read("tcp://a:1?persistent=1&udp_port=7&weight=2&timeout=0.25&retry_interval=-1&id=cache%2B1&mode=single,b:2").unwrap();
    let [a, b] = &wish.topology.nodes[..] else {
        panic!("two nodes")
    };
    assert_eq!(
        (a.persistent, a.udp_port, a.weight, a.retry_interval),
        (true, 7, 2, -1)
    );
    assert_eq!(
        (a.connect_timeout, a.op_timeout),
        (Duration::from_millis(250), Duration::from_millis(250))
    );
    assert_eq!(a.id.as_deref(), Some("cache+1"));
    assert_eq!(
        (b.persistent, b.udp_port, b.weight, b.retry_interval),
        (false, 0, 1, 15)
    );
    assert_eq!(
        (b.connect_timeout, b.id.as_deref(), b.status),
        (Duration::from_secs(1), None, true)
    );
    assert!(wish.mode_written && wish.notices.is_empty());
    assert_eq!(wish.topology.policy.mode, Mode::Single);
    assert!(!read("a:1,b:1").unwrap().mode_written);
}

#[test]
fn numbers_that_are_none_are_read_as_php_reads_them_with_a_notice() {
    let wish = read("tcp://a:1?udp_port=0;tcp://b:2?udp_port=0").unwrap();
    assert_eq!(
        (wish.topology.nodes.len(), wish.topology.nodes[0].udp_port),
        (1, 0)
    );
    let notice = wish.notices[0].to_string();
    assert!(
        notice.contains("server 1")
            && notice.contains("read as 0")
            && notice.contains("not by \";\""),
        "{notice}"
    );

    for (list, weight, retry, notices) in [
        ("a:1?weight=2x", 2, 15, 1),
        ("a:1?weight=1e1", 10, 15, 0),
        ("a:1?retry_interval=abc", 1, 0, 1),
        ("a:1?retry_interval", 1, 0, 1),
        ("a:1?retry_interval=99999999999999999999", 1, i64::MAX, 0),
        ("a:1?weight=2&weight=3&", 3, 15, 0),
        ("a:1?persistent=no&weight=%202", 2, 15, 1),
    ] {
        let wish = read(list).unwrap();
        let node = &wish.topology.nodes[0];
        assert_eq!(
            (node.weight, node.retry_interval, wish.notices.len()),
            (weight, retry, notices),
            "{list}"
        );
    }
    assert_eq!(read("a:1?weight=2x").unwrap().topology.nodes[0].weight, 2);
    let surprising = read("a:1?persistent=false").unwrap();
    assert!(
        surprising.topology.nodes[0].persistent
            && surprising.notices[0].to_string().contains("read as true")
    );
    assert_eq!(
        read("a:1?timeout=1e300").unwrap().topology.nodes[0].op_timeout,
        Duration::from_secs(86_400)
    );
    assert_eq!(
        read("a:1?udp_port=-5").unwrap().topology.nodes[0].udp_port,
        0
    );
}

#[test]
fn bad_lists_are_refused_with_what_where_and_the_text_to_write() {
    for (list, what, write) in [
        ("", "names no server", "tcp://127.0.0.1:11211"),
        (" ,\t, \n", "names no server", "tcp://127.0.0.1:11211"),
        (
            "/var/lib/php/sessions",
            "\"/var/lib/php/sessions\" is a path",
            "session.save_path = \"tcp://127.0.0.1:11211\"",
        ),
        (
            "/var/lib/php/sessions",
            "is a path",
            "unix:///var/lib/php/sessions",
        ),
        ("5;0600;/var/lib/php", "is a path", "unix:///var/lib/php"),
        ("sessions/here", "is a path", "tcp://127.0.0.1:11211"),
        (
            "a:1,tcp://",
            "server 2 (\"tcp://\"): no host",
            "tcp://HOST:PORT",
        ),
        ("tcp://:11211", "no host", "tcp://HOST:PORT"),
        ("tcp://a:0", "\"0\" is no port", "a:11211"),
        ("tcp://a:65536", "\"65536\" is no port", "a:11211"),
        ("tcp://a:-1", "\"-1\" is no port", "a:11211"),
        ("tcp://a:+1", "\"+1\" is no port", "a:11211"),
        ("tcp://a:x", "\"x\" is no port", "a:11211"),
        ("tcp://a:", "\"\" is no port", "a:11211"),
        ("tcp://a;b", "\"a;b\" is no host", "tcp://HOST:PORT"),
        ("tcp://a:1;tcp://b:2", "is no", "Write"),
        ("tcp://[::1", "is no host", "brackets"),
        ("tcp://[nonsense]:1", "is no host", "brackets"),
        (
            "a:1?weight=0",
            "weight must be a positive integer",
            "weight=1",
        ),
        (
            "a:1?weight=-3",
            "weight must be a positive integer",
            "weight=1",
        ),
        ("a:1?weight=abc", "0 is not", "weight=1"),
        ("a:1?weight=65536", "65535", "weight=1"),
        ("a:1:0", "weight must be a positive integer", "weight=1"),
        ("a:1?timeout=0", "timeout must be more than 0", "timeout=1"),
        ("a:1?timeout=-1", "timeout must be more than 0", "timeout=1"),
        ("a:1?timeout=x", "timeout must be more than 0", "timeout=1"),
        (
            "a:1?timeout=1e999",
            "timeout must be more than 0",
            "timeout=1",
        ),
        (
            "a:1?wieght=2",
            "\"wieght\" is unknown",
            "persistent, udp_port, weight",
        ),
        (
            "a:1?weight[]=2",
            "is unknown",
            "persistent, udp_port, weight",
        ),
        (
            "a:1?client=secret",
            "\"client\" is for Redis nodes",
            "redis://",
        ),
        (
            "a:1?prefix=x,b:1?prefix=y",
            "different prefixes",
            "the same prefix=",
        ),
        ("a:1?id=", "id is empty", "id=NAME"),
        ("a:1?mode=x", "mode \"x\" is unknown", "mode=fenced"),
        (
            "a:1?mode=fenced",
            "mode fenced needs two nodes or more",
            "Add a node",
        ),
        (
            "a:1?mode=fenced,b:1,a:1",
            "a:1 and a:1 are one node",
            "each node once",
        ),
        (
            "a:1?mode=fenced&id=x,b:1?id=x",
            "x and x are one node",
            "each node once",
        ),
        (
            "a:1?mode=fenced&copies=3,b:1",
            "copies = 3 is more than a session has on 2 nodes",
            "Leave it out",
        ),
        (
            "a:1?mode=fenced&copies=1,b:1",
            "copies = 1 keeps no copy",
            "copies = 2",
        ),
        ("a:1?copies=2,b:1", "copies needs a mode", "mode=fenced"),
        ("redis://a/x", "\"x\" is no database", "redis://HOST/2"),
        ("redis://a/4294967296", "is no database", "redis://HOST/2"),
        ("redis://a?database=-1", "is no database", "redis://HOST/2"),
        ("redis://a?resp=4", "resp=4 is unknown", "resp=3"),
        ("redis://u:geheim@", "no host is named", "HOST"),
        ("redis://:geheim@a:x", "is no port", "HOST:6379"),
        ("redis://u:geheim:6379", "is no host", "HOST"),
        ("redis://u:geheim", "is no port", ":PASSWORD@HOST"),
        (
            "redis://a?password:geheim",
            "\"password\" is unknown",
            "Known",
        ),
        (
            "redis://a?auth=ge&heim",
            "an option after auth= is unknown",
            "%26",
        ),
        (
            "redis://a?auth[pass]=ge&heim=x&weight=2",
            "an option after auth[pass]= is unknown",
            "%26",
        ),
        (
            "a?user=u&password=ge&heim",
            "an option after password= is unknown",
            "%26",
        ),
        (
            "redis-sentinel://a/m?sentinel_auth=ge&weight=1&heim",
            "an option after sentinel_auth= is unknown",
            "%26",
        ),
        ("redis://:ge,heim@h", "no host is named", "HOST"),
        ("a?protocol=mysql", "\"mysql\" is unknown", "protocol=redis"),
        (
            "redis://a?protocol=memcached",
            "contradict each other",
            "tcp://",
        ),
        (
            "memcached://a?protocol=redis",
            "contradict each other",
            "redis://",
        ),
        (
            "memcacheds://a?database=3",
            "option \"database\" is for Redis nodes",
            "redis://",
        ),
        ("rediss://a:x", "is no port", "rediss://HOST:6379"),
        ("memcacheds://u:geheim", "is no port", "USER:PASSWORD@HOST"),
        ("memcached://u:geheim:11211", "is no host", "HOST"),
        (
            "udp://a:1",
            "udp:// is not supported by this version",
            "tcp://",
        ),
        ("gopher://a:1", "gopher:// is no scheme known", "tcp://"),
        ("u:geheim@a:1", "needs a scheme before both", "memcached://"),
        ("unix://", "1 to 107 bytes", "unix:///"),
        ("PERSISTENT=x,a:1", "php-memcached", "persistent=1"),
        ("pool:a,b:1", "whole list", "alone"),
    ] {
        let error = read(list).expect_err(list);
        let text = error.to_string();
        assert_eq!(error.kind(), Kind::Config, "{list:?}");
        assert!(
            text.contains(what),
            "{list:?}: {text:?} does not say {what:?}"
        );
        assert!(
            text.contains(write),
            "{list:?}: {text:?} does not say to write {write:?}"
        );
        assert!(!text.contains("secret") && !text.contains("heim"), "{text}");
    }
    let long = format!("unix:///{}", "x".repeat(107));
    assert!(read(&long).unwrap_err().to_string().contains("107 bytes"));
}

#[test]
fn a_pool_name_is_passed_on_and_its_error_comes_back() {
    let answer = |name: &str| {
        assert_eq!(name, "sessions");
        Ok(Wish {
            mode_written: true,
            ..Wish::default()
        })
    };
    assert!(
        parse(" pool:sessions ", &Schemes::default(), &answer)
            .unwrap()
            .mode_written
    );
    assert!(
        read("pool:x")
            .unwrap_err()
            .to_string()
            .contains("asked for x")
    );
}

#[test]
fn only_allowed_schemes_are_opened() {
    let unix = Schemes::parse("unix").unwrap();
    let refused = parse("tcp://a:1", &unix, &|_| panic!())
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("not among memring.allow_schemes") && refused.contains("Add tcp"),
        "{refused}"
    );
    assert!(parse("a:1", &unix, &|_| panic!()).is_err());
    assert!(parse("unix:///s", &unix, &|_| panic!()).is_ok());
    let tcp = Schemes::parse("tcp, memcached").unwrap();
    assert!(NodeSpec::from_add_server("unix:///s", None, 11211, &tcp).is_err());
    assert!(NodeSpec::from_add_server("memcached://a", None, 11211, &tcp).is_ok());
    for bad in ["", " , ", "udp", "tcp,ftp"] {
        assert!(
            Schemes::parse(bad)
                .unwrap_err()
                .to_string()
                .contains("memcached, unix"),
            "{bad:?}"
        );
    }
    assert_eq!(
        Schemes::parse("tcp memcached,unix redis tls,memcacheds rediss embedded").unwrap(),
        Schemes::default()
    );
}

#[test]
fn add_server_takes_hosts_as_pecl_does_and_ports_from_either_place() {
    let tcp = |host: &str, port| Target::Tcp {
        host: host.into(),
        port,
    };
    for (host, port, name, target) in [
        (
            "localhost",
            None,
            "localhost:11299",
            tcp("localhost", 11299),
        ),
        (
            "localhost",
            Some(11212),
            "localhost:11212",
            tcp("localhost", 11212),
        ),
        ("localhost", Some(0), "localhost:0", tcp("localhost", 0)),
        ("tcp://h", Some(5), "tcp://h:5", tcp("h", 5)),
        ("tcp://h:5", None, "tcp://h:5", tcp("h", 5)),
        ("tcp://h:5", Some(5), "tcp://h:5", tcp("h", 5)),
        ("tcp://h:5", Some(0), "tcp://h:5", tcp("h", 5)),
        ("memcached://h:5", None, "h:5", tcp("h", 5)),
        ("redis://h", None, "h:6379", tcp("h", 6379)),
        ("redis://u:geheim@h:5/3", None, "h:5", tcp("h", 5)),
        ("redis://h?database=3", Some(5), "h:5", tcp("h", 5)),
        (
            "unix:///s?protocol=redis",
            Some(0),
            "unix:///s:0",
            Target::Unix("/s".into()),
        ),
        ("h:5", None, "h:5", tcp("h", 5)),
        ("[::1]", Some(5), "[::1]:5", tcp("::1", 5)),
        ("[::1]:5", None, "[::1]:5", tcp("::1", 5)),
        ("::1", Some(5), "::1:5", tcp("::1", 5)),
        ("unix:///s", None, "unix:///s:0", Target::Unix("/s".into())),
        (
            "unix:///s",
            Some(0),
            "unix:///s:0",
            Target::Unix("/s".into()),
        ),
        (
            "unix:///s:0",
            Some(11211),
            "unix:///s:0",
            Target::Unix("/s".into()),
        ),
    ] {
        let node = NodeSpec::from_add_server(host, port, 11299, &Schemes::default()).unwrap();
        assert_eq!(
            (node.name().as_str(), &node.target),
            (name, &target),
            "{host} {port:?}"
        );
        assert!(node.persistent && node.weight == 1 && node.retry_interval == 15);
    }
    for (host, port, expected) in [
        ("h", Some(-1), "invalid tcp port number"),
        ("h", Some(65536), "invalid tcp port number"),
        ("h:5", Some(6), "the host names port 5"),
        ("", None, "no host"),
        ("a b", None, "no host"),
        ("a\0b", None, "\"a?b\" is no host"),
        ("a/b", None, "is no host"),
        ("udp://h", None, "not supported by this version"),
        ("h?mode=sync", None, "a whole pool's"),
    ] {
        let error = NodeSpec::from_add_server(host, port, 11211, &Schemes::default())
            .unwrap_err()
            .to_string();
        assert!(error.contains(expected), "{host:?} {port:?}: {error}");
    }
}

#[test]
fn weights_and_timeouts_of_add_server_have_limits() {
    let node = NodeSpec::tcp("h", 1);
    assert_eq!(
        node.clone()
            .with_weight(i64::from(WEIGHT_MAX))
            .unwrap()
            .weight,
        WEIGHT_MAX
    );
    for bad in [
        0,
        -1,
        i64::MIN,
        i64::MAX,
        i64::from(WEIGHT_MAX) + 1,
        1 << 32 | 1,
    ] {
        assert!(
            node.clone()
                .with_weight(bad)
                .unwrap_err()
                .to_string()
                .contains("weight must be a positive integer")
        );
    }
    assert_eq!(
        node.clone().with_timeout(0.05).unwrap().op_timeout,
        Duration::from_millis(50)
    );
    for bad in [0.0, -1.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 1e-30] {
        assert!(node.clone().with_timeout(bad).is_err(), "{bad}");
    }
}

#[test]
fn garbage_never_brings_the_parser_down() {
    // Seed 2026: pieces of real lists put together at random, with single bytes between.
    let pieces = [
        "tcp://",
        "unix://",
        "memcached://",
        "unix:",
        "pool:",
        "redis://",
        "h",
        "[::1]",
        "[",
        "]",
        ":",
        "11211",
        "0",
        "/",
        "//",
        "?",
        "&",
        "=",
        "weight",
        "timeout",
        "id",
        "mode",
        "single",
        "persistent",
        "retry_interval",
        "%",
        "%4",
        "%ff",
        "+",
        "-",
        "1e9",
        "NAN",
        ",",
        " ",
        "\t",
        "\0",
        "ľ",
        "\u{10ffff}",
        "@",
        "#",
        ";",
        ".",
        "1e999",
        "65535",
        "\\",
        "\"",
    ];
    let mut state: u64 = 2026;
    let mut next = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let mut accepted = 0;
    for _ in 0..60_000 {
        let text: String = (0..next(14)).map(|_| pieces[next(pieces.len())]).collect();
        let _ = NodeSpec::from_add_server(
            &text,
            Some(next(70_000) as i64 - 2000),
            11211,
            &Schemes::default(),
        );
        let _ = Schemes::parse(&text);
        match read(&text) {
            Ok(wish) => {
                accepted += 1;
                assert!(!wish.topology.nodes.is_empty(), "{text:?}");
                for node in &wish.topology.nodes {
                    assert!(node.weight > 0 && !node.op_timeout.is_zero(), "{text:?}");
                    assert!(
                        !node.host.is_empty() && !node.host.contains('\0'),
                        "{text:?}"
                    );
                }
            }
            Err(error) => assert!(
                error.to_string().chars().all(|c| !c.is_control()),
                "{text:?}"
            ),
        }
    }
    assert!(
        accepted > 500,
        "{accepted}: the pieces should make good lists now and then"
    );
}
