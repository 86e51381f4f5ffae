//! 140 odd calls of the Memcache API: each one's messages and result, as the original gives them.

use crate::golden::{self, Difference};
use harness::{ClosedPort, Memcached, Php, Proxy};

/// The ports the probe was recorded with: a memcached, a proxy before it, nobody.
const RECORDED: [u16; 3] = [28811, 28821, 28899];

/// Runs the probe on free ports and writes the recorded ones back into its output.
fn probe(php: &Php) -> String {
    let server = Memcached::start();
    let proxy = Proxy::start(server.port());
    let closed = ClosedPort::new();
    let ports = [server.port(), proxy.port(), closed.port()];
    let mut script = golden::read("api-probe.php");
    for (recorded, now) in RECORDED.iter().zip(ports) {
        script = with_port(&script, *recorded, now);
    }
    let mut text = String::from_utf8_lossy(&php.run(&script).stdout).to_string();
    for (recorded, now) in RECORDED.iter().zip(ports) {
        text = with_port(&text, now, *recorded);
    }
    normal(&text)
}

/// The text with another port in place of `from`. Digits of a longer number are none of it: a
/// free port can be any five of them.
fn with_port(text: &str, from: u16, to: u16) -> String {
    let from = from.to_string();
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(&from) {
        let (before, found) = rest.split_at(at);
        let behind = &found[from.len()..];
        let alone = !before.ends_with(|c: char| c.is_ascii_digit())
            && !behind.starts_with(|c: char| c.is_ascii_digit());
        out.push_str(before);
        out.push_str(&if alone { to.to_string() } else { from.clone() });
        rest = behind;
    }
    out + rest
}

#[test]
fn a_port_is_no_part_of_a_longer_number() {
    let text = "tcp 37203, 9223372036854775807 and 372037203:37203";
    assert_eq!(
        with_port(text, 37203, 28811),
        "tcp 28811, 9223372036854775807 and 372037203:28811"
    );
}

/// Takes out what depends on the moment, the machine or the version of memcached and not on the extension.
fn normal(text: &str) -> String {
    let mut label = "";
    let mut out = String::new();
    for line in text.lines() {
        label = line.strip_prefix("* ").unwrap_or(label);
        if label == "getVersion" && line.ends_with("(string)") {
            out.push_str("   => '<version>' (string)");
        } else if let Some((head, tail)) = line
            .split_once("array ( 'pid' => '")
            .filter(|_| label == "getExtendedStats")
        {
            let rest = tail.split_once('\'').map_or("", |pair| pair.1);
            out.push_str(&format!("{head}array ( 'pid' => '<pid>'{rest}"));
        } else if label.starts_with("getStats") && line.starts_with("   => array") {
            out.push_str(&stats(label, line));
        } else {
            // A machine without a resolver says this about an unknown name.
            out.push_str(&line.replace(
                "Temporary failure in name resolution",
                "Name or service not known",
            ));
        }
        out.push('\n');
    }
    out
}

/// A line of statistics: every number reads `#`, and a long list is cut.
fn stats(label: &str, line: &str) -> String {
    let mut out = String::new();
    for character in line.chars() {
        match character {
            '0'..='9' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            other => out.push(other),
        }
    }
    match label {
        "getStats slabs" | "getStats items" => out.chars().take(60).collect(),
        // Which keys come first depends on the server's own order.
        "getStats cachedump" => format!(
            "   => {} keys, each with size and expiry",
            out.matches("array ( # => '#', # => '#', )").count()
        ),
        _ => out,
    }
}

/// In the record everything after `cas missing key` met a node that was marked as failed by it.
const DIFFERENCES: &[Difference] = &[
    Difference {
        case: "addServer port 65600 (bug 65635)",
        ours: &[
            "   [Warning] Memcache::addserver(): invalid tcp port number",
            "   => false (boolean)",
        ],
        row: golden::PORTS,
    },
    Difference {
        case: "addServer 10 args",
        ours: &[
            "   !! ArgumentCountError: Memcache::addserver() expects at most 9 arguments, 10 given",
        ],
        row: golden::NINTH,
    },
    Difference {
        case: "key space/newline",
        ours: &[
            "   => array ( 0 => true, 1 => 'v', 2 => array ( 'a b c' . \"\\0\" . 'd \x7f' => 'v', ), ) (array)",
        ],
        row: golden::CALLERS_KEYS,
    },
    Difference {
        case: "types",
        ours: &[
            "   => array ( 0 => '1->1#768', 1 => '-5->-5#768', 2 => '9223372036854775807->9223372036854775807#768', \
             3 => '-9223372036854775807-1->-9223372036854775807-1#768', 4 => 'true->true#256', 5 => 'false->false#256', \
             6 => '1.5->1.5#1792', 7 => '0.30000000000000004->0.30000000000000004#1792', 8 => '1.0E+100->1.0E+100#1792', \
             9 => 'NAN->NAN#1792', 10 => 'INF->INF#1792', 11 => '-0.0->-0.0#1792', 12 => '\\'str\\'->\\'str\\'#0', \
             13 => '\\'\\'->\\'\\'#0', 14 => 'NULL->false#1', \
             15 => 'array ( 0 => 1, 1 => 2, )->array ( 0 => 1, 1 => 2,)#1', ) (array)",
        ],
        row: golden::FLOATS,
    },
    Difference {
        case: "incr missing w default",
        ours: &["   => array ( 0 => 10, 1 => 10, ) (array)"],
        row: golden::DEFAULTS,
    },
    Difference {
        case: "incr multi",
        ours: &[
            "   => array ( 0 => true, 1 => array ( 'i1' => 2, 'i2' => 3, 'i3miss' => false, ), ) (array)",
        ],
        row: golden::CALLERS_KEYS,
    },
    after("cas missing key", &["   => false (boolean)"]),
    after("server status after", &["   => 1 (integer)"]),
    after("get after cas missing", &["   => 'new' (string)"]),
    after("getVersion", &["   => '<version>' (string)"]),
    after(
        "getStats()",
        &["   => array ( 'pid' => '#', 'uptime' => '#', 'time' => '#', ) (array)"],
    ),
    after(
        "getStats slabs",
        &["   => array ( # => array ( 'chunk_size' => '#', 'chunks_per_"],
    ),
    after(
        "getStats items",
        &["   => array ( 'items' => array ( # => array ( 'number' => '#"],
    ),
    after(
        "getStats cachedump",
        &["   => 3 keys, each with size and expiry"],
    ),
    after(
        "getStats sizes",
        &["   => array ( 'sizes_status' => 'disabled', ) (array)"],
    ),
    // The server of this test does not know this word, which is no fault of the node either.
    after(
        "getStats malloc",
        &[
            "   [Notice] MemcachePool::getstats(): Server 127.0.0.1 (tcp 28821, udp 0) failed with: ERROR (0)",
            "   => false (boolean)",
        ],
    ),
    after("getStats reset", &["   => true (boolean)"]),
    after(
        "getExtendedStats",
        &["   => array ( '127.0.0.1:28821' => array ( 'pid' => '<pid>', ), ) (array)"],
    ),
    after(
        "getExtendedStats items keys",
        &["   => array ( '127.0.0.1:28821' => array ( 0 => 'items', ), ) (array)"],
    ),
    Difference {
        case: "setSaslAuthData",
        ours: &[
            "   => array ( 0 => true, 1 => array ( 0 => 'connection', 1 => '_failureCallback', ), ) (array)",
        ],
        row: golden::SASL,
    },
    Difference {
        case: "serialize obj",
        ours: &[
            "   => 'O:8:\"Memcache\":2:{s:10:\"connection\";i:0;s:16:\"_failureCallback\";N;}' (string)",
        ],
        row: golden::SASL,
    },
    after("flush delay", &["   => true (boolean)"]),
    after("clone", &["   => 'five' (string)"]),
    Difference {
        case: "ini session_redundancy 0",
        ours: &[
            "   [Warning] ini_set(): memcache.session_redundancy must be a positive integer ('0' given)",
            "   => false (boolean)",
        ],
        row: golden::NAMES,
    },
    Difference {
        case: "ini prefix dot",
        ours: &[
            "   [Warning] ini_set(): memcache.prefix_static_key cannot have dot inside (.)",
            "   => false (boolean)",
        ],
        row: golden::NAMES,
    },
];

const fn after(case: &'static str, ours: &'static [&'static str]) -> Difference {
    Difference {
        case,
        ours,
        row: golden::NOT_FOUND,
    }
}

#[test]
fn every_odd_call_answers_as_the_original_does() {
    golden::compare(
        &golden::read("api-probe.txt"),
        &probe(&Php::new()),
        DIFFERENCES,
    );
}

#[test]
fn the_original_repeats_its_own_api_record() {
    let Some(original) = golden::original() else {
        return;
    };
    let php = Php::bare().extension(original);
    golden::compare(&normal(&golden::read("api-probe.txt")), &probe(&php), &[]);
}
