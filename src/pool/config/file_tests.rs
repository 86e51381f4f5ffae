//! Good and bad pool files, and files cut and damaged at every place.

use super::super::{Mode, Target};
use super::*;
use std::time::Duration;

const GOOD: &str = r#"# two pools
[pool.sessions]
nodes = [
    "memcached://10.0.0.1?weight=50",
    "memcached://10.0.0.2:11212?weight=100&timeout=0.2&persistent=0",
    "unix:///run/mc.sock?id=c",
]
mode = "single"
placement = "rendezvous"
tag = "{}"

[pool.cache]
nodes = ["a:11211", "[::1]:11211"]
placement = "pecl-standard"
hash = "fnv"
protocol = "binary"
key_prefix = "app."
long_keys = "cut"
"#;

fn refused(text: &str) -> String {
    let error = File::parse("/etc/memring.toml", text).expect_err(text);
    assert_eq!(error.kind(), Kind::Config);
    error.to_string()
}

#[test]
fn a_good_file_gives_its_pools_with_everything_they_say() {
    let file = File::parse("f", GOOD).unwrap();
    assert_eq!(file.names().collect::<Vec<_>>(), ["cache", "sessions"]);
    let sessions = file.wish("sessions").unwrap();
    assert!(sessions.mode_written && sessions.notices.is_empty());
    let Topology { nodes, policy, .. } = sessions.topology;
    assert_eq!(
        nodes.iter().map(|node| node.name()).collect::<Vec<_>>(),
        ["10.0.0.1:11211", "10.0.0.2:11212", "unix:///run/mc.sock:0"]
    );
    assert_eq!(
        nodes.iter().map(|node| node.weight).collect::<Vec<_>>(),
        [50, 100, 1]
    );
    assert_eq!(
        nodes.iter().map(|node| node.persistent).collect::<Vec<_>>(),
        [true, false, true]
    );
    assert_eq!(nodes[1].op_timeout, Duration::from_millis(200));
    assert_eq!(
        (nodes[2].id.as_deref(), &nodes[2].target),
        (Some("c"), &Target::Unix("/run/mc.sock".into()))
    );
    assert_eq!(
        (policy.placement, policy.mode, policy.tag),
        (Placement::Rendezvous, Mode::Single, Some(*b"{}"))
    );

    let cache = file.wish("cache").unwrap();
    assert!(!cache.mode_written);
    let policy = file.pool("cache").unwrap().policy;
    assert_eq!(
        (policy.placement, policy.hash, policy.protocol),
        (Placement::PeclStandard, HashFunction::Fnv, Protocol::Binary)
    );
    assert_eq!(
        (policy.keys.prefix.as_slice(), policy.keys.long, policy.tag),
        (&b"app."[..], LongKeys::Cut, None)
    );
}

#[test]
fn bad_files_are_refused_naming_file_line_and_remedy() {
    let pool = |line: &str| format!("[pool.p]\nnodes = [\"a:1\"]\n{line}\n");
    let two = |line: &str| format!("[pool.p]\nnodes = [\"a:1\", \"b:1\"]\n{line}\n");
    for (text, line, what, write) in [
        (
            String::new(),
            "/etc/memring.toml: ",
            "names no pool",
            "[pool.NAME]",
        ),
        (
            "# only words\n".into(),
            "/etc/memring.toml: ",
            "names no pool",
            "[pool.NAME]",
        ),
        ("[pool.p]\n".into(), "line 1", "nodes", "[pool.NAME]"),
        (
            "[pool.p]\nnodes = []\n".into(),
            "line 1: [pool.p]",
            "nodes is empty",
            "nodes = [",
        ),
        (
            "[pool.p]\nnodes = [\"a:1\",\n".into(),
            "line ",
            "array",
            "[pool.NAME]",
        ),
        (
            "[pool.p]\nnodes = \"a:1\"\n".into(),
            "line 2",
            "invalid type",
            "[pool.NAME]",
        ),
        (
            "[pool.p]\nnodes = [1]\n".into(),
            "line 2",
            "invalid type",
            "[pool.NAME]",
        ),
        (
            "[pool.p]\nnodes = [\n\"a:1\",\n\"b:1?weight=0\",\n]\n".into(),
            "line 4 (\"b:1\")",
            "weight must be",
            "weight=1",
        ),
        (
            "[pool.p]\nnodes = [\"/var/lib/php\"]".into(),
            "line 2",
            "is a path",
            "unix:///var/lib/php",
        ),
        (
            "[pool.p]\nnodes = [\"redis://a\", \"b\"]\nmode = \"fenced\"\nmigrate_from = \"pool:q\"".into(),
            "line 4",
            "migrate_from names no pool of this file",
            "migrate_from = \"pool:NAME\"",
        ),
        (
            "[pool.p]\nnodes = [\"udp://10.0.0.3\"]".into(),
            "line 2",
            "not supported by this version",
            "tcp://",
        ),
        (
            "[pool.p]\nnodes = [\"\"]".into(),
            "line 2",
            "no host",
            "tcp://",
        ),
        (
            "[pool.p]\nnodes = [\"pool:q\"]".into(),
            "line 2",
            "whole list",
            "alone",
        ),
        (
            pool("nods = 1"),
            "line 3",
            "unknown field `nods`",
            "[pool.NAME]",
        ),
        (
            pool("max_out = 1"),
            "line 3",
            "max_out needs a mode with copies",
            "retry_interval",
        ),
        (
            "[pool.a]\nnodes = [\"a:1\", \"b:1\"]\nmode = \"sync\"\nmax_out = 2\n".to_owned(),
            "line 4",
            "from 0 to 1",
            "Leave it out",
        ),
        (
            "[pool.a]\nnodes = [\"a:1\", \"b:1\"]\nmode = \"sync\"\nmax_stale = 300\n".to_owned(),
            "line 4",
            "max_stale needs mode = \"async\"",
            "Leave it out",
        ),
        (
            "[pool.a]\nnodes = [\"a:1\", \"b:1\"]\nmode = \"async\"\nmax_stale = 0\n".to_owned(),
            "line 4",
            "seconds from 1 to 2592000",
            "Leave it out",
        ),
        (
            two("mode = \"fenced\"\nsession_life = 2592000"),
            "line 4",
            "session_life is a number of seconds from 1 to 2591880",
            "gc_maxlifetime",
        ),
        (
            two("session_life = 1440"),
            "line 1: [pool.p]",
            "session_life is for sessions with copies",
            "mode = \"fenced\"",
        ),
        (
            pool("mode = \"twice\""),
            "line 3",
            "mode \"twice\" is unknown",
            "mode = \"fenced\"",
        ),
        (
            two("mode = \"sync\"\ncopies = 3"),
            "line 1: [pool.p]",
            "copies = 3 is more than the 2 nodes",
            "copies = \"all\"",
        ),
        (
            two("mode = \"sync\"\ncopies = 1"),
            "line 1: [pool.p]",
            "copies = 1 keeps no copy",
            "mode = \"single\"",
        ),
        (
            two("mode = \"sync\"\ncopies = \"two\""),
            "line 4",
            "neither a number nor \"all\"",
            "copies = 2",
        ),
        (
            pool("mode = \"sync\""),
            "line 1: [pool.p]",
            "mode sync needs two nodes",
            "Add a node",
        ),
        (
            "[pool.p]\nnodes = [\"a:1\", \"a:1\"]\nmode = \"sync\"\n".into(),
            "line 1: [pool.p]",
            "are one node",
            "Name each node once",
        ),
        (
            pool("copies = 2"),
            "line 1",
            "copies needs a mode",
            "mode = \"fenced\"",
        ),
        (
            two("mode = \"sync\"\nbackup = \"p\""),
            "line 4",
            "is its own backup",
            "Name another pool",
        ),
        (
            two("mode = \"sync\"\nbackup = \"q\""),
            "line 4",
            "there is no pool \"q\" for a backup",
            "Write one of",
        ),
        (
            two("backup = \"q\"\n[pool.q]\nnodes = [\"c:1\"]"),
            "line 3",
            "mode single keeps no copy for a backup",
            "mode = \"sync\"",
        ),
        (
            pool("mode = \"sync\"\nbackup = \"q\"\n[pool.q]\nnodes = [\"a:1\"]"),
            "line 4",
            "no other node than the pool",
            "node of its own",
        ),
        (
            two("prefix.\"+\" = { mode = \"fenced\" }"),
            "line 3",
            "is for sessions",
            "mode = \"sync\"",
        ),
        (
            two("prefix.\"+\" = { mode = \"sync\", copies = 3 }"),
            "line 3",
            "copies = 3 is more than the 2 nodes",
            "copies = 2",
        ),
        (
            two("prefix.\"+\" = { copies = 2 }"),
            "line 3",
            "copies needs a mode",
            "mode = \"sync\"",
        ),
        (
            two("prefix.\"+\" = { mode = \"sync\", nodes = [\"c\"] }"),
            "line 3",
            "\"c\" is none of the pool's nodes",
            "\"a:1\", \"b:1\"",
        ),
        (
            two("prefix.\"+\" = { mode = \"sync\", nodes = [\"a:1\", \"a:1\"] }"),
            "line 3",
            "named twice",
            "each node once",
        ),
        (
            two("prefix.\"+\" = { mode = \"sync\", nodes = [\"a:1\"] }"),
            "line 3",
            "copies on one node are none",
            "two nodes or more",
        ),
        (
            two("prefix.\"\" = { mode = \"sync\" }"),
            "line 3",
            "a prefix is empty",
            "beside nodes",
        ),
        (
            two("prefix.\"+\" = { mod = \"sync\" }"),
            "line 3",
            "unknown field `mod`",
            "[pool.NAME]",
        ),
        (
            two("mode = \"fenced\"\nprefix.\"+\" = { mode = \"sync\" }"),
            "line 4",
            "prefix is for caches",
            "mode = \"sync\"",
        ),
        (
            pool("previous = \"memcached://x\""),
            "line 3",
            "previous is not supported",
            "Take it out",
        ),
        (
            pool("placement = \"ring\""),
            "line 3",
            "placement \"ring\" is unknown",
            "\"rendezvous\"",
        ),
        (
            pool("hash = \"md5\""),
            "line 3",
            "hash \"md5\" is unknown",
            "\"crc32\", \"fnv\"",
        ),
        (
            pool("protocol = \"udp\""),
            "line 3",
            "protocol \"udp\" is unknown",
            "\"ascii\", \"binary\"",
        ),
        (
            pool("tag = \"{\""),
            "line 3",
            "two ASCII characters",
            "tag = \"{}\"",
        ),
        (
            pool("tag = \"ľ\u{e9}\""),
            "line 3",
            "two ASCII characters",
            "tag = \"{}\"",
        ),
        (
            pool("mode = \"single\"\nmode = \"single\""),
            "line 4",
            "duplicate key",
            "[pool.NAME]",
        ),
        (
            pool("[pools.q]"),
            "line 3",
            "unknown field `pools`",
            "[pool.NAME]",
        ),
        (pool("[pool.p]"), "line 3", "duplicate", "[pool.NAME]"),
        (
            "nodes = [\"a\"]".into(),
            "line 1",
            "unknown field `nodes`",
            "[pool.NAME]",
        ),
        ("{\"pool\": 1}".into(), "line 1", "", "[pool.NAME]"),
    ] {
        let error = refused(&text);
        assert!(error.starts_with("/etc/memring.toml"), "{error}");
        for part in [line, what, write] {
            assert!(
                error.contains(part),
                "{text:?}: {error:?} does not say {part:?}"
            );
        }
    }
}

#[test]
fn a_pool_with_copies_says_its_mode_and_how_many() {
    let text = |copies: &str| {
        format!("[pool.p]\nnodes = [\"a:1\", \"b:1\", \"c:1\"]\nmode = \"sync\"\n{copies}")
    };
    for (line, copies) in [
        ("", None),
        ("copies = 2", Some(2)),
        ("copies = 3", Some(3)),
        ("copies = \"all\"", Some(super::super::ALL)),
    ] {
        let policy = File::parse("f", &text(line))
            .unwrap()
            .pool("p")
            .unwrap()
            .policy;
        assert_eq!(
            (policy.mode, policy.copies, policy.placement),
            (Mode::Sync, copies, Placement::Rendezvous),
            "{line}"
        );
    }
}

#[test]
fn a_backup_stands_behind_the_pools_own_nodes_and_two_may_back_each_other_up() {
    let text = "[pool.a]\nnodes = [\"a:1\"]\nmode = \"sync\"\nbackup = \"b\"\n\
                prefix.\"x\" = { mode = \"single\" }\nprefix.\"xy:\" = { copies = \"all\" }\n\
                [pool.b]\nnodes = [\"b:1\", \"c:1\"]\nmode = \"sync\"\nbackup = \"a\"\nkey_prefix = \"b.\"\n";
    let file = File::parse(
        "f",
        &text.replace("prefix.\"xy:\" = { copies = \"all\" }\n", ""),
    )
    .unwrap();
    let names = |pool: &str| {
        let topology = file.pool(pool).unwrap();
        let names: Vec<String> = topology.nodes.iter().map(|node| node.name()).collect();
        (names, topology.policy.backup)
    };
    assert_eq!(
        names("a"),
        (vec!["a:1".into(), "b:1".into(), "c:1".into()], 2)
    );
    assert_eq!(
        names("b"),
        (vec!["b:1".into(), "c:1".into(), "a:1".into()], 1)
    );
    let rules = file.pool("a").unwrap().policy.rules;
    assert_eq!((rules.len(), rules[0].mode), (1, Some(Mode::Single)));
    assert!(
        refused(text).contains("line 6"),
        "one node has no room for two copies"
    );
}

#[test]
fn an_unknown_pool_is_refused_with_the_names_there_are() {
    let error = File::parse("/etc/m.toml", GOOD)
        .unwrap()
        .pool("session")
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "/etc/m.toml: there is no pool \"session\". Write one of pool:cache, pool:sessions"
    );
}

#[test]
fn a_file_that_cannot_be_read_is_refused_naming_it() {
    let directory = std::env::temp_dir().join(format!("memring-file-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = directory.join("pools.toml");
    let refused = |path: &Path| load(path).expect_err("refused").to_string();

    let missing = refused(&path);
    assert!(
        missing.contains("pools.toml") && missing.contains("No such file"),
        "{missing}"
    );
    assert!(refused(&directory).contains("is no file"));
    std::fs::write(&path, GOOD).unwrap();
    assert_eq!(load(&path).unwrap().names().count(), 2);
    std::fs::write(&path, b"[pool.p]\n\nnodes = [\"\xff\"]").unwrap();
    let binary = refused(&path);
    assert!(binary.contains("line 3: this is no UTF-8"), "{binary}");
    std::fs::write(&path, vec![b'#'; (SIZE_MAX + 1) as usize]).unwrap();
    assert!(refused(&path).contains("over 1 MiB"));
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_file_cut_or_damaged_anywhere_never_brings_the_reader_down() {
    for cut in 0..GOOD.len() {
        if let Err(error) = File::parse("f", &GOOD[..cut]) {
            assert!(error.to_string().starts_with('f'), "{error}");
        }
    }
    // Seed 9: bytes of the good file replaced by others of it, or by signs TOML knows.
    let signs = b"[]{}\"'\\=.,#\n\t \0-+0e";
    let mut state: u64 = 9;
    let mut next = move |below: usize| {
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    for _ in 0..5000 {
        let mut bytes = GOOD.as_bytes().to_vec();
        for _ in 0..1 + next(4) {
            let at = next(bytes.len());
            match next(3) {
                0 => bytes[at] = signs[next(signs.len())],
                1 => drop(bytes.remove(at)),
                _ => bytes.insert(at, GOOD.as_bytes()[next(GOOD.len())]),
            }
        }
        let text = String::from_utf8(bytes).unwrap();
        if let Ok(file) = File::parse("f", &text) {
            assert!(
                file.names()
                    .all(|name| !file.pool(name).unwrap().nodes.is_empty())
            );
        }
    }
}

#[test]
fn a_step_names_its_epoch_and_where_it_comes_from_and_is_small() {
    let good = "[pool.p]\nmode = \"fenced\"\nepoch = 4\nnodes = [\"a:1\", \"b:1\", \"c:1\"]\n";
    let pool = File::parse("f", &format!("{good}previous_nodes = [\"a:1\", \"b:1\"]"))
        .unwrap()
        .pool("p")
        .unwrap();
    assert_eq!(
        (pool.policy.epoch, pool.nodes.len(), pool.previous.len()),
        (4, 3, 2)
    );
    let drained = good.replace("c:1", "c:1?drain=1");
    let pool = File::parse("f", &drained).unwrap().pool("p").unwrap();
    let numbers = (pool.nodes.len(), pool.drained.len(), pool.previous.len());
    assert_eq!(numbers, (2, 1, 3));
    for (text, line, what, write) in [
        (
            good.replace("epoch = 4", "epoch = -1"),
            "line 3",
            "epoch is a number",
            "one more",
        ),
        (
            format!("{good}previous_nodes = [\"a:1\", \"d:1\", \"e:1\"]"),
            "line 5",
            "2 nodes added, 2 removed",
            "one node per epoch",
        ),
        (
            format!("{good}previous_nodes = [\"a:1\", \"b:1\", \"d:1?id=c:1\"]"),
            "line 5",
            "c:1 stands for another server",
            "id of its own",
        ),
        (
            drained.replace("epoch = 4\n", ""),
            "line 1",
            "needs a higher epoch",
            "epoch = 1",
        ),
        (
            drained.replace("fenced", "sync"),
            "line 1",
            "for sessions with copies, and for mode single",
            "mode = \"fenced\"",
        ),
    ] {
        let said = refused(&text);
        assert!(
            said.contains(line) && said.contains(what) && said.contains(write),
            "{said}"
        );
    }
}

#[test]
fn a_fingerprint_tells_lists_apart_by_names_weights_and_placement_alone() {
    let of = |nodes: &str, more: &str| {
        let text = format!("[pool.p]\nmode = \"fenced\"\nnodes = [{nodes}]\n{more}");
        let pool = File::parse("f", &text).unwrap().pool("p").unwrap();
        step::fingerprint(&pool.nodes, &pool.policy)
    };
    let one = of("\"a:1\", \"b:1\"", "");
    assert_eq!(one, of("\"b:1?timeout=2\", \"a:1\"", ""));
    assert_eq!(one, of("\"b:1\", \"x:9?id=a:1\"", ""));
    assert_ne!(one, of("\"a:1\", \"b:1?weight=2\"", ""));
    assert_ne!(one, of("\"a:1\", \"c:1\"", ""));
    assert_ne!(one, of("\"a:1\", \"b:1\"", "tag = \"{}\""));
    assert_ne!(one, of("\"a:1\", \"b:1\"", "key_prefix = \"x\""));
}

#[test]
fn two_ways_to_write_one_server_are_one_node() {
    for (one, other) in [
        ("localhost:1", "127.0.0.1:1"),
        ("Cache.lan:1", "cache.lan.:1"),
        ("[::1]:1", "[0:0:0:0:0:0:0:1]:1"),
        ("10.0.0.1", "10.0.0.1:11211?id=other"),
    ] {
        let text = format!("[pool.p]\nmode = \"fenced\"\nnodes = [\"{one}\", \"{other}\"]");
        let said = refused(&text);
        assert!(
            said.contains("are one node") && said.contains("line 1"),
            "{said}"
        );
    }
}
