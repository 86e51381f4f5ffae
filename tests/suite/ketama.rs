//! Both ketama forms against php-memcached itself: 10,000 keys for each list of servers.
//!
//! php-memcached only computes here, so no server runs; where it is not installed the
//! test says so and fails, since nothing else proves these placements.

use memring_pool::config::{HashFunction, Placement};
use memring_pool::ring::{Ring, RingNode};
use std::io::Write;
use std::process::{Command, Stdio};

/// Host and port as php-memcached takes them, weight, and the name our ring is given.
type Server = (&'static str, u16, u32, &'static str);

/// The lists, each with the method of php-memcached that takes it.
const LISTS: [(&str, &[Server]); 8] = [
    (
        "addServer",
        &[
            ("10.0.0.1", 11211, 1, "10.0.0.1:11211"),
            ("10.0.0.2", 11211, 1, "10.0.0.2:11211"),
            ("10.0.0.3", 11211, 1, "10.0.0.3:11211"),
        ],
    ),
    (
        "addServer",
        &[
            ("127.0.0.1", 11212, 50, "127.0.0.1:11212"),
            ("127.0.0.1", 11213, 100, "127.0.0.1:11213"),
            ("127.0.0.1", 11214, 50, "127.0.0.1:11214"),
        ],
    ),
    // Ports 11211 and others in one list, and names.
    (
        "addServer",
        &[
            ("cache0.example", 11211, 1, "cache0.example:11211"),
            ("cache1.example", 22122, 1, "tcp://cache1.example:22122"),
            (
                "cache2.example",
                11211,
                1,
                "memcached://cache2.example:11211",
            ),
            ("cache3.example", 1, 1, "cache3.example:1"),
            ("cache4.example", 65535, 1, "cache4.example:65535"),
        ],
    ),
    // Shares that single precision rounds one way or the other.
    (
        "addServer",
        &[
            ("a", 11211, 1, "a:11211"),
            ("b", 11212, 2, "b:11212"),
            ("c", 11211, 3, "c:11211"),
            ("d", 11213, 7, "d:11213"),
            ("e", 11211, 13, "e:11211"),
            ("f", 11211, 29, "f:11211"),
            ("g", 11211, 1000, "g:11211"),
        ],
    ),
    // A unix socket and an IPv6 address.
    (
        "addServer",
        &[
            (
                "/run/memcached/one.sock",
                0,
                1,
                "unix:///run/memcached/one.sock:0",
            ),
            ("localhost", 11211, 1, "localhost:11211"),
            ("::1", 11215, 1, "[::1]:11215"),
        ],
    ),
    (
        "addServer",
        &[
            (
                "/run/memcached/one.sock",
                0,
                2,
                "unix:///run/memcached/one.sock:0",
            ),
            ("localhost", 11211, 3, "localhost:11211"),
            ("::1", 11211, 1, "[::1]:11211"),
        ],
    ),
    // The same socket as addServers() names it: reached by writing that name as the node's id.
    (
        "addServers",
        &[
            ("/run/memcached/one.sock", 0, 1, "/run/memcached/one.sock:0"),
            ("localhost", 11211, 1, "localhost:11211"),
        ],
    ),
    ("addServer", &[("only", 11211, 5, "only:11211")]),
];

const FORMS: [(&str, Placement); 2] = [
    ("ketama", Placement::Ketama),
    ("ketama-weighted", Placement::KetamaWeighted),
];

#[test]
fn both_ketama_forms_agree_with_php_memcached_on_ten_thousand_keys_of_every_list() {
    let cases: Vec<_> = FORMS
        .iter()
        .flat_map(|form| LISTS.iter().map(move |list| (form, list)))
        .collect();
    let printed = ask_php_memcached(&cases_as_json(&cases));

    let rings: Vec<_> = cases
        .iter()
        .map(|((_, placement), (_, list))| {
            let nodes: Vec<_> = list
                .iter()
                .map(|(.., weight, name)| RingNode {
                    name,
                    weight: *weight,
                    named: false,
                })
                .collect();
            Ring::new(&nodes, *placement, HashFunction::Crc32, None)
        })
        .collect();
    let mut agreed = vec![0; cases.len()];
    let mut differing = Vec::new();
    for line in printed.lines() {
        let [case, key, place] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("unexpected line {line}")
        };
        let case: usize = case.parse().unwrap();
        if rings[case].owner(&unhex(key)) == place.parse::<usize>().unwrap() {
            agreed[case] += 1;
        } else {
            differing.push(format!("{} {:?}: {line}", cases[case].0.0, cases[case].1));
        }
    }
    assert!(
        differing.is_empty(),
        "{} differ, first {}",
        differing.len(),
        differing[0]
    );
    assert_eq!(agreed, vec![10_000; cases.len()]);
}

fn ask_php_memcached(cases: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/suite/php/ketama.php");
    let mut php = Command::new("php")
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("this test needs php with php-memcached");
    php.stdin
        .take()
        .unwrap()
        .write_all(cases.as_bytes())
        .unwrap();
    let output = php.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "is php-memcached installed? {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// A form by its PHP name, and a list of servers by its name and contents.
type Case<'a> = (&'a (&'a str, Placement), &'a (&'a str, &'a [Server]));

fn cases_as_json(cases: &[Case<'_>]) -> String {
    let cases: Vec<_> = cases
        .iter()
        .map(|((form, _), (call, list))| {
            let list: Vec<_> = list
                .iter()
                .map(|(host, port, weight, _)| format!("[{host:?},{port},{weight}]"))
                .collect();
            format!(
                "{{\"form\":{form:?},\"call\":{call:?},\"list\":[{}]}}",
                list.join(",")
            )
        })
        .collect();
    format!("[{}]", cases.join(","))
}

fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}
