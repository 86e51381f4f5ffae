//! A Redis Cluster as it is written: `redis-cluster://USER:PASSWORD@HOST:PORT,HOST:PORT/?options`, or in TLS
//! `rediss-cluster://…`.
//!
//! The hosts are some of its nodes, any; the others it names itself. It is a pool by itself: it
//! spreads keys and keeps copies on its own, so that nothing else can stand beside it, and what
//! says how to do that in other pools has no meaning.

use super::address::{self, shown};
use super::options::{self, ForAll};
use super::{Mode, NodeSpec, Placement, Policy, Schemes, Wish, save_path};
use crate::error::{Error, Kind};

/// What stands before its hosts, and before one of them if it stood alone.
const SCHEMES: [(&str, &str); 2] = [
    ("redis-cluster://", "redis://"),
    ("rediss-cluster://", "rediss://"),
];

/// Seconds until a node that failed is asked again: another may have its slots by then, and one that
/// was slow once has keys that nobody else has.
const RETRY: i64 = 1;

/// Is a cluster written there?
pub fn is_written(text: &str) -> bool {
    scheme(text).is_some()
}

/// Prefix of the keys where phpredis' handler rediscluster writes none (redis_session.c, PS_OPEN_FUNC(rediscluster)).
const THEIR_PREFIX: &str = "PHPREDIS_CLUSTER_SESSION:";

/// The cluster that phpredis' handler rediscluster takes as `seed[]=HOST:PORT&seed[]=HOST:PORT&timeout=2&…`, as place and
/// options that are written here: its prefix where it has none, and without what has no meaning, since nothing is read
/// from replicas. `None` for anything else.
pub(super) fn of_phpredis(text: &str) -> Option<(String, String)> {
    let (mut tls, mut hosts) = (false, Vec::new());
    for seed in seeds(text)? {
        let (scheme, host) = seed.split_once("://").unwrap_or(("tcp", &seed));
        tls |= scheme == "tls" || scheme == "ssl";
        hosts.push(host.to_owned());
    }
    let name = |word: &str| options::decode(word.split('=').next().unwrap_or(word));
    let words = text.split('&').filter(|word| seed(word).is_none());
    let mut rest: Vec<&str> = words.filter(|word| name(word) != "failover").collect();
    let prefix = format!("prefix={THEIR_PREFIX}");
    if !rest.iter().any(|word| name(word) == "prefix") {
        rest.push(&prefix);
    }
    let [(plain, _), (in_tls, _)] = SCHEMES;
    let scheme = if tls { in_tls } else { plain };
    Some((format!("{scheme}{}/", hosts.join(",")), rest.join("&")))
}

/// The host in a word `seed[]=HOST`.
fn seed(word: &str) -> Option<String> {
    let (name, host) = word.split_once('=')?;
    let is_one = options::decode(name).trim_start().starts_with("seed[");
    is_one.then(|| options::decode(host))
}

/// The hosts that phpredis' handler rediscluster would read in such a text, which may have its words in any order; `None`
/// for anything else.
fn seeds(text: &str) -> Option<Vec<String>> {
    let seeds: Vec<String> = text.split('&').filter_map(seed).collect();
    (!seeds.is_empty()).then_some(seeds)
}

/// Such a text as far as it may be shown: its hosts alone, since passwords stand between them as any other word.
pub(super) fn shown_seeds(text: &str) -> Option<String> {
    let hosts: Vec<String> = seeds(text)?.iter().map(|host| shown(host)).collect();
    Some(format!("seed[]={}&…", hosts.join("&seed[]=")))
}

/// The schemes of a cluster that is written there, and of one of its nodes.
fn scheme(text: &str) -> Option<(&'static str, &'static str)> {
    SCHEMES.into_iter().find(|(scheme, _)| {
        let head = text.get(..scheme.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(scheme))
    })
}

/// The cluster `text` that stands alone, as where addServer takes a host.
///
/// # Errors
/// `Kind::Config`: a scheme that is not allowed, a host or option that is none, a database, or
/// what makes no sense of a cluster.
pub fn read(text: &str, allowed: &Schemes) -> Result<Wish, Error> {
    let mut wish = Wish::default();
    save_path::one(text, allowed, &mut wish, true)?;
    wish.check()?;
    let policy = &wish.topology.policy;
    if !policy.keys.prefix.is_empty() || policy.format != Policy::default().format {
        return Err(refuse(
            "prefix and compression are a whole pool's, not one server's",
            "Write the pool into the file of memring.config_file, and addServer('pool:NAME')",
        ));
    }
    Ok(wish)
}

/// Where the hosts of the cluster that `text` begins with end, whose commas part nothing else; 0
/// where it begins with none.
pub(super) fn hosts_end(text: &str) -> usize {
    let Some((scheme, _)) = scheme(text) else {
        return 0;
    };
    let hosts = text.get(scheme.len()..).unwrap_or_default();
    let ends = |c: char| "/?".contains(c);
    hosts
        .find(ends)
        .map_or(text.len(), |end| scheme.len() + end)
}

/// Makes the pool of `wish` the cluster at `place`, with the options `query`; returns what they
/// say of the pool.
pub(super) fn add(
    place: &str,
    query: &str,
    allowed: &Schemes,
    wish: &mut Wish,
    persistent: bool,
) -> Result<ForAll, Error> {
    if !wish.topology.nodes.is_empty() || !wish.topology.drained.is_empty() {
        return Err(alone());
    }
    if wish.placement_written {
        return Err(refuse(
            "placement is for nodes that stand alone: a cluster says itself where a key is",
            "Take placement out",
        ));
    }
    let Some((scheme, single)) = scheme(place) else {
        return Err(alone());
    };
    allowed.check_redis(single == SCHEMES[1].1)?;
    let rest = place.get(scheme.len()..).unwrap_or_default();
    let (hosts, database) = rest.split_once('/').unwrap_or((rest, ""));
    if database.starts_with('/') {
        // "a,tcp://b": the slashes are another node's.
        return Err(alone());
    }
    let (who, hosts) = match hosts.rsplit_once('@') {
        Some((who, hosts)) => (format!("{who}@"), hosts),
        None => (String::new(), hosts),
    };
    let mut said = ForAll::default();
    for (number, host) in hosts.split(',').enumerate() {
        let written = format!("{single}{who}{host}/{database}");
        let read = address::parse(&written, allowed).map_err(|error| {
            refuse(
                &error.cause().replace(single, scheme),
                &format!("Write {scheme}HOST:PORT,HOST:PORT/, with an IPv6 address in brackets"),
            )
        });
        let mut node = read?.listed();
        (node.persistent, node.retry_interval) = (persistent, RETRY);
        node.redis.get_or_insert_default().cluster = true;
        let mut notices = Vec::new();
        let all = options::apply(query, &mut node, &mut notices, allowed)?;
        if number == 0 {
            said = all;
            wish.notices.append(&mut notices);
        }
        wish.topology.nodes.push(node);
    }
    if said.placement.is_some() || said.drain {
        return Err(refuse(
            "placement and drain are for nodes that stand alone: a cluster says itself where a key is",
            "Take them out",
        ));
    }
    wish.topology.policy.placement = Placement::Slots;
    // No setting may take another one.
    wish.placement_written = true;
    Ok(said)
}

/// Why nothing stands beside a cluster.
pub(super) fn alone() -> Error {
    refuse(
        "a cluster is a pool by itself, and nothing can stand beside redis-cluster://",
        "Write its hosts between commas, then a slash: redis-cluster://HOST:PORT,HOST:PORT/, and other nodes into another pool",
    )
}

/// Checks what is said of a cluster's pool and nodes.
///
/// # Errors
/// `Kind::Config` for what only pools of single nodes have.
pub(super) fn check(nodes: &[NodeSpec], policy: &Policy) -> Result<(), Error> {
    if policy.mode != Mode::Single || policy.copies.is_some() {
        return Err(refuse(
            "a cluster keeps copies itself, on its replicas, so that mode and copies have no meaning",
            "Take them out; wait=1 acknowledges a write only when a replica has it",
        ));
    }
    if policy.tag.is_some() {
        return Err(refuse(
            "tag is for nodes that stand alone: a cluster reads {} itself",
            "Take tag out",
        ));
    }
    if policy.backup > 0 {
        return Err(refuse("a cluster takes no backup", "Take backup out"));
    }
    for node in nodes {
        if node.weight != 1 || node.id.is_some() {
            return Err(refuse(
                "weight and id are for nodes that stand alone: a cluster says itself what each of its nodes has",
                "Take them out",
            ));
        }
        if node.redis.as_ref().is_some_and(|redis| redis.database != 0) {
            return Err(refuse(
                "a cluster has one database, number 0",
                "Write the address without it, and part applications by a prefix",
            ));
        }
    }
    Ok(())
}

fn refuse(cause: &str, hint: &str) -> Error {
    Error::new(Kind::Config, cause).hint(hint)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests {
    use super::super::file;
    use super::*;

    fn parse(list: &str) -> Result<Wish, Error> {
        save_path::parse(list, &Schemes::default(), &|_| unreachable!())
    }

    fn of_file(lines: &str) -> Result<super::super::Topology, Error> {
        file::File::parse("f", &format!("[pool.p]\n{lines}"))?.pool("p")
    }

    #[test]
    fn a_cluster_is_written_with_its_hosts_in_a_list_a_file_and_where_a_host_stands() {
        let text = "redis-cluster://u:p%40,w@a:7000,b,[::1]:7001/?timeout=2&wait=1&client=x";
        let list = parse(text).unwrap();
        let file = of_file(&format!("nodes = [\"{text}\"]")).unwrap();
        let host = read(text, &Schemes::default()).unwrap();
        for (topology, persistent) in [
            (&list.topology, false),
            (&file, true),
            (&host.topology, true),
        ] {
            let names: Vec<String> = topology.nodes.iter().map(NodeSpec::name).collect();
            assert_eq!(names, ["a:7000", "b:6379", "[::1]:7001"]);
            assert_eq!(topology.policy.placement, Placement::Slots);
            assert_eq!(topology.policy.mode, Mode::Single);
            for node in &topology.nodes {
                let redis = node.redis.clone().unwrap();
                assert_eq!(redis.user.as_deref(), Some("u"));
                assert_eq!(redis.password.unwrap().open(), "p@,w");
                assert_eq!((redis.wait, redis.cluster), (1, true));
                assert_eq!(redis.client.as_deref(), Some("x"));
                assert_eq!((node.op_timeout.as_secs(), node.retry_interval), (2, 1));
                assert_eq!(node.persistent, persistent);
            }
        }
        assert!(
            list.notices
                .iter()
                .any(|n| n.to_string().contains("pool:NAME"))
        );
        let patient = parse("redis-cluster://a/?retry_interval=15").unwrap();
        assert_eq!(patient.topology.nodes[0].retry_interval, 15);
        // However the handler memring takes lists of several nodes.
        let mut wish = parse("REDIS-CLUSTER://a,b").unwrap();
        wish.keep_copies().unwrap();
        assert_eq!(wish.topology.policy.mode, Mode::Single);
        assert_eq!(wish.topology.nodes.len(), 2);
    }

    #[test]
    fn what_phpredis_takes_for_a_cluster_is_one_with_its_prefix() {
        let of = |list: &str| {
            let topology = parse(list).unwrap().topology;
            let names: Vec<String> = topology.nodes.iter().map(NodeSpec::name).collect();
            assert!(
                topology
                    .nodes
                    .iter()
                    .all(|node| node.redis.clone().unwrap().cluster)
            );
            (names, topology)
        };
        let (names, topology) = of(
            "seed[]=a:7000&seed[]=b:7001&timeout=2&read_timeout=3&failover=error&persistent=1&auth[]=u&auth[]=p%2Bw",
        );
        assert_eq!(names, ["a:7000", "b:7001"]);
        assert_eq!(topology.policy.keys.prefix, THEIR_PREFIX.as_bytes());
        let node = &topology.nodes[1];
        assert_eq!(
            (node.connect_timeout.as_secs(), node.op_timeout.as_secs()),
            (2, 3)
        );
        let redis = node.redis.clone().unwrap();
        assert_eq!(
            (redis.user.unwrap(), redis.password.unwrap().open()),
            ("u".to_owned(), "p+w")
        );
        assert!(node.persistent && node.tls.is_none());
        let (names, topology) =
            of("seed%5B0%5D=tls%3A%2F%2Fa%3A7000&prefix=mine:&stream[cafile]=/ca.pem");
        assert_eq!(names, ["a:7000"]);
        assert_eq!(topology.policy.keys.prefix, b"mine:");
        let tls = topology.nodes[0].tls.clone().unwrap();
        assert_eq!(tls.ca.unwrap().to_str(), Some("/ca.pem"));
        for (list, words) in [
            ("seed[]=a:7000&seed[]=", "no host"),
            ("seed[]=a:7000&nonsense=1", "\"nonsense\" is unknown"),
            ("seed[]=a:7000&timeout=x", "timeout"),
            ("timeout=2&seed[]=a:7000&weight=2", "weight and id"),
            ("seed[]=a:7000&mode=fenced", "keeps copies itself"),
            ("seed[]=a b", "a b"),
        ] {
            for auth in [
                "auth=SECRET",
                "auth[]=u&auth[]=p,SECRET",
                "auth=p%26SECRET@x",
                "auth=a,b@SECRET",
                "auth=a SECRET",
            ] {
                for list in [format!("{list}&{auth}"), format!("{auth}&{list}")] {
                    let error = parse(&list).unwrap_err().to_string();
                    // Behind a password an unknown word may be its rest.
                    let said = error.contains(words) || error.contains("an option after auth");
                    assert!(said, "{list}: {error}");
                    assert!(!error.contains("SECRET"), "{list}: {error}");
                }
            }
        }
        let only = Schemes::parse("redis").unwrap();
        let list = "auth=SECRET&seed[]=tls://a:7000";
        let error = save_path::parse(list, &only, &|_| unreachable!())
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("Add rediss to") && !error.contains("SECRET"),
            "{error}"
        );
        assert_eq!(of("seed[]=a:1& seed[]=b:2").0, ["a:1", "b:2"]);
        let (names, topology) = of("timeout=2&auth=p,w&seed[]=a:7000");
        let redis = topology.nodes[0].redis.clone().unwrap();
        assert_eq!((names.len(), redis.password.unwrap().open()), (1, "p,w"));
    }

    #[test]
    fn a_cluster_in_tls_has_its_own_scheme_and_each_of_its_nodes_the_options() {
        let wish = parse("REDISS-cluster://u:p@a:7000,b/?ca=/ca.pem&verify=ca").unwrap();
        assert_eq!(wish.topology.nodes.len(), 2);
        for node in &wish.topology.nodes {
            let tls = node.tls.clone().unwrap();
            assert_eq!(tls.ca.unwrap().to_str(), Some("/ca.pem"));
            assert!(node.redis.clone().unwrap().cluster);
        }
        assert!(
            parse("redis-cluster://a/").unwrap().topology.nodes[0]
                .tls
                .is_none()
        );
        for (scheme, word) in [("redis", "rediss"), ("rediss", "redis")] {
            let only = Schemes::parse(word).unwrap();
            let text = format!("{scheme}-cluster://a/");
            let error = read(&text, &only).unwrap_err().to_string();
            assert!(
                error.contains(&format!("Add {scheme} to")),
                "{text}: {error}"
            );
            assert!(read(&format!("{word}-cluster://a/"), &only).is_ok());
        }
        let error = parse("rediss-cluster://a,,b").unwrap_err().to_string();
        assert!(
            error.contains("Write rediss-cluster://HOST:PORT"),
            "{error}"
        );
    }

    #[test]
    fn what_makes_no_sense_of_a_cluster_is_refused_with_its_reason() {
        for (list, words) in [
            ("redis-cluster://a,b/, tcp://c", "nothing can stand beside"),
            ("redis-cluster://a,b,tcp://c", "nothing can stand beside"),
            ("tcp://c redis-cluster://a,b", "nothing can stand beside"),
            (
                "redis-cluster://a redis-cluster://b",
                "nothing can stand beside",
            ),
            ("redis-cluster://a/3", "one database"),
            ("redis-cluster://a/?database=1", "one database"),
            ("redis-cluster://a/?mode=fenced", "keeps copies itself"),
            (
                "redis-cluster://a,b/?mode=sync&copies=2",
                "keeps copies itself",
            ),
            ("redis-cluster://a/?copies=2", "keeps copies itself"),
            ("redis-cluster://a/?placement=ketama", "where a key is"),
            ("redis-cluster://a/?weight=2", "weight and id"),
            ("redis-cluster://a/?id=x", "weight and id"),
            ("redis-cluster://a/?drain=1", "placement and drain"),
            ("redis-cluster://a/?protocol=memcached", "contradict"),
            ("redis-cluster://", "no host"),
            ("redis-cluster://a,,b", "no host"),
            ("redis-cluster://a/?wait=x", "wait"),
            ("tcp://a?wait=1", "redis-cluster://"),
        ] {
            let error = parse(list).unwrap_err().to_string();
            assert!(error.contains(words), "{list}: {error}");
        }
        for (lines, words) in [
            (
                "nodes = [\"redis-cluster://a\", \"b\"]",
                "nothing can stand beside",
            ),
            (
                "nodes = [\"b\", \"redis-cluster://a\"]",
                "nothing can stand beside",
            ),
            (
                "nodes = [\"redis-cluster://a\"]\nplacement = \"rendezvous\"",
                "placement",
            ),
            (
                "nodes = [\"redis-cluster://a,b\"]\nmode = \"fenced\"",
                "keeps copies itself",
            ),
            (
                "nodes = [\"redis-cluster://a\"]\ntag = \"{}\"",
                "reads {} itself",
            ),
            (
                "nodes = [\"redis-cluster://a\"]\nprefix.\"x\" = { mode = \"single\" }",
                "prefix",
            ),
            (
                "nodes = [\"redis-cluster://a\"]\nmigrate_from = \"pecl\"",
                "migrate_from",
            ),
            (
                "nodes = [\"redis-cluster://a\"]\nbackup = \"q\"\n[pool.q]\nnodes = [\"c\"]",
                "backup",
            ),
            ("nodes = [\"c\"]\nplacement = \"slots\"", "unknown"),
        ] {
            let error = of_file(lines).unwrap_err().to_string();
            assert!(error.contains(words), "{lines}: {error}");
        }
        for text in [
            "redis-cluster://a/?mode=sync",
            "redis-cluster://a/?prefix=x",
        ] {
            assert!(read(text, &Schemes::default()).is_err(), "{text}");
        }
        let schemes = Schemes::parse("tcp").unwrap();
        let error = read("redis-cluster://a", &schemes).unwrap_err().to_string();
        assert!(error.contains("memring.allow_schemes"), "{error}");
    }

    #[test]
    fn no_message_repeats_a_password_before_a_clusters_hosts() {
        for list in [
            "redis-cluster://:geheim@a b/",
            "redis-cluster://:geheim@a,b:x/",
            "redis-cluster://:gehe/im@a,b/",
            "redis-cluster://u:geheim",
            "redis-cluster://:geheim@a/?mode=fenced",
            "redis-cluster://a/?password=geheim&mode=fenced",
            "redis-cluster://a/?password:geheim",
        ] {
            let error = parse(list).unwrap_err().to_string();
            assert!(
                !error.contains("geh") && !error.contains("heim"),
                "{list}: {error}"
            );
        }
    }
}
