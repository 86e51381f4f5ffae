//! A pool of the file beside Jedis: names, weights, order and tags as they are written there must reach every ring
//! that a pool makes. What the rings compute is proven in the library, with the same record.

use memring_pool::call::Limits;
use memring_pool::config::file::File;
use memring_pool::fact::Fact;
use memring_pool::item::KeyRule;
use memring_pool::node::Directory;
use memring_pool::pool::Pool;
use memring_pool::pool::route::Op;
use std::fmt::Write;

/// One list of shards as Jedis was given it.
struct Case {
    head: &'static str,
    /// Name, or "-", and weight.
    shards: Vec<(&'static str, &'static str)>,
    settings: String,
}

impl Case {
    fn read(line: &'static str) -> Case {
        let [_, version, hash, tag, shards] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("no case: {line}")
        };
        let old = if version == "2.9.0" { "-2.9" } else { "" };
        let mut settings = format!("placement = \"jedis-{hash}{old}\"\n");
        if tag != "-" {
            writeln!(settings, "tag = \"{tag}\"").unwrap();
        }
        let shards = shards.split(',');
        Case {
            head: line,
            shards: shards
                .map(|shard| shard.rsplit_once('*').unwrap())
                .collect(),
            settings,
        }
    }

    fn nodes(&self) -> String {
        let node = |(place, (name, weight)): (usize, &(&str, &str))| {
            let id = match *name {
                "-" => String::new(),
                // The record writes bytes as a URL does.
                name => format!("&id={name}"),
            };
            format!("\"10.9.0.{place}:6379?weight={weight}{id}\"")
        };
        let nodes: Vec<String> = self.shards.iter().enumerate().map(node).collect();
        nodes.join(", ")
    }

    /// The pool of a file that says this and `more`.
    fn pool(&self, nodes: &str, more: &str) -> Pool {
        let text = format!("[pool.p]\nnodes = [{nodes}]\n{}{more}", self.settings);
        let file = File::parse("f", &text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        let topology = file.pool("p").unwrap();
        let mut pool = Pool::new(topology.policy);
        let mut directory = Directory::new();
        for spec in topology.nodes {
            pool.add_to_look(spec, &directory);
        }
        pool.came_from(&topology.previous, &mut directory);
        pool
    }

    /// One name twice, which no pool with copies takes.
    fn has_twins(&self) -> bool {
        let named = self.shards.iter().filter(|(name, _)| *name != "-");
        let names: Vec<&str> = named.map(|(name, _)| *name).collect();
        (1..names.len()).any(|at| names[..at].contains(&names[at]))
    }

    fn is_named(&self) -> bool {
        self.shards.iter().all(|(name, _)| *name != "-")
    }
}

/// A key and its shard in each case, as a digit.
type Lookups = (Vec<u8>, &'static [u8]);

fn recorded() -> (Vec<Case>, Vec<Lookups>) {
    let text = include_str!("../golden/jedis-ring.tsv");
    let cases = text.lines().filter(|line| line.starts_with("case\t"));
    let keys = text.lines().filter(|line| line.starts_with("key\t"));
    let keys = keys.map(|line| {
        let [_, key, _, _, places] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("no key: {line}")
        };
        (unescape(key), places.as_bytes())
    });
    (cases.map(Case::read).collect(), keys.collect())
}

fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split('%');
    let mut bytes = parts.next().unwrap().as_bytes().to_vec();
    for part in parts {
        bytes.push(u8::from_str_radix(&part[..2], 16).unwrap());
        bytes.extend(&part.as_bytes()[2..]);
    }
    bytes
}

#[test]
fn a_pool_of_the_file_finds_what_jedis_placed() {
    let (cases, keys) = recorded();
    for (number, case) in cases.iter().enumerate() {
        let mut pool = case.pool(&case.nodes(), "");
        for (key, places) in &keys {
            let place = usize::from(places[number] - b'0');
            let found = pool.find(key, &Limits::default());
            assert_eq!(found, place, "{}: {}", case.head, key.escape_ascii());
        }
    }
}

#[test]
fn so_does_a_rule_s_ring_of_its_own() {
    let (cases, keys) = recorded();
    for (number, case) in cases
        .iter()
        .enumerate()
        .filter(|(_, case)| !case.has_twins())
    {
        // The rule names the nodes of the case; the pool has one more, before them.
        let names = case
            .shards
            .iter()
            .enumerate()
            .map(|(place, (name, _))| match *name {
                "-" => format!("\"10.9.0.{place}:6379\""),
                name => format!("\"{}\"", String::from_utf8(unescape(name)).unwrap()),
            });
        let names: Vec<String> = names.collect();
        let mut pool = case.pool(
            &format!("\"10.9.1.0:6379?id=other\", {}", case.nodes()),
            &format!(
                "mode = \"sync\"\nprefix.\"key\" = {{ nodes = [{}] }}\n",
                names.join(", ")
            ),
        );
        for (key, places) in keys.iter().filter(|(key, _)| key.starts_with(b"key")) {
            let told = pool
                .route(Op::Get, key, &KeyRule::default(), &Limits::default())
                .unwrap();
            let Some(Fact::Text(owner)) = told.find("owner") else {
                panic!("no owner of {}", key.escape_ascii())
            };
            let expected = format!("10.9.0.{}:6379", char::from(places[number]));
            assert_eq!(*owner, expected, "{}", case.head);
        }
    }
}

#[test]
fn so_does_a_pool_of_sessions_while_its_nodes_change() {
    let (cases, keys) = recorded();
    let fit = |case: &Case| case.is_named() && !case.has_twins();
    let mut count = 0;
    for (number, case) in cases.iter().enumerate().filter(|(_, case)| fit(case)) {
        let more = format!(
            "mode = \"fenced\"\nepoch = 1\nprevious_nodes = [{}, \"10.9.1.0:6379?id=gone\"]\n",
            case.nodes()
        );
        let mut pool = case.pool(&case.nodes(), &more);
        assert!(pool.has_window());
        for (key, places) in &keys {
            let place = usize::from(places[number] - b'0');
            assert_eq!(pool.lists(key).nodes[0], place, "{}", case.head);
        }
        count += 1;
    }
    assert_eq!(count, 16);
}
