//! A master that Sentinels watch: which one, and whom to ask where it is.
//!
//! `redis-sentinel://USER:PASSWORD@HOST:26379,HOST,HOST/NAME`, or the same with one host; in TLS
//! `rediss-sentinel://…`. The rings hash the name: the address is another one after each switch.
//!
//! What Sentinels call a master, and what characters that takes: redis.io "High availability
//! with Redis Sentinel" and sentinel.conf.

use super::address::{self, clean};
use super::{Mode, NodeSpec, Redis};
use crate::error::{Error, Kind};

/// The scheme of such a node.
pub(super) const SCHEME: &str = "redis-sentinel";
/// The same where the master and its Sentinels speak TLS.
pub(super) const SCHEME_TLS: &str = "rediss-sentinel";
/// The port of a Sentinel that names none.
pub const SENTINEL_PORT: u16 = 26379;
/// Seconds until a master that failed is looked for again: another server may be it by then.
pub const RETRY: i64 = 1;

/// A master by its name, and the Sentinels that watch it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Watched {
    /// The master's name in the configuration of the Sentinels.
    pub name: String,
    /// Hosts (IPv6 addresses without brackets) and ports of the Sentinels, as written.
    pub by: Vec<(String, u16)>,
}

impl Watched {
    /// Name and Sentinels in one line: no other master has the same.
    pub fn line(&self) -> String {
        let by: Vec<String> = self
            .by
            .iter()
            .map(|(host, port)| match host.contains(':') {
                true => format!("[{host}]:{port}"),
                false => format!("{host}:{port}"),
            })
            .collect();
        format!("{SCHEME}://{}/{}", by.join(","), self.name)
    }
}

/// What stands behind the scheme, if `text` begins with it.
pub(super) fn behind_scheme(text: &str) -> Option<&str> {
    let (scheme, behind) = text.split_once("://")?;
    is_scheme(scheme).then_some(behind)
}

/// Is this the scheme of such a node, with or without TLS?
pub(super) fn is_scheme(scheme: &str) -> bool {
    let is = |one: &&str| scheme.eq_ignore_ascii_case(one);
    [SCHEME, SCHEME_TLS].iter().any(is)
}

/// Reads what stands behind the scheme and before a `?`.
///
/// # Errors
/// `Kind::Config`: no Sentinel or no master is named, or one that cannot be.
pub(super) fn parse(rest: &str) -> Result<(Redis, Watched), Error> {
    let refuse = |cause: &str, hint: &str| {
        // What is wrong is not repeated: it may be a password whose host was forgotten.
        Err(Error::new(Kind::Config, cause).hint(hint.to_owned()))
    };
    let (redis, rest) = address::entered(rest)?;
    let (hosts, name) = match rest.split_once('/') {
        Some((hosts, name)) => (hosts, name.strip_suffix('/').unwrap_or(name)),
        None => (rest, ""),
    };
    let fits = |c: char| c.is_ascii_alphanumeric() || ".-_".contains(c);
    if name.is_empty() || !name.chars().all(fits) {
        return refuse(
            "no master is named, or not as Sentinels name one",
            "Write redis-sentinel://HOST:26379,HOST,HOST/NAME, with the name of \"sentinel monitor\" in their configuration; a database is written ?db=1",
        );
    }
    let mut by = Vec::new();
    for text in hosts.split(',') {
        let (host, port) = address::server(text, Some("redis-sentinel://"), SENTINEL_PORT)?;
        let sentinel = (
            host.trim_matches(['[', ']']).to_owned(),
            port.unwrap_or(SENTINEL_PORT),
        );
        if by.contains(&sentinel) {
            return refuse(
                "one Sentinel is named twice",
                "Name each Sentinel once, best three of them",
            );
        }
        by.push(sentinel);
    }
    let name = name.to_owned();
    Ok((redis, Watched { name, by }))
}

/// Checks that a pool of this mode may have `nodes`, as far as Sentinels watch them.
///
/// # Errors
/// `Kind::Config`: one of them in a mode that keeps copies itself; two with one name.
pub(super) fn check(nodes: &[NodeSpec], mode: Mode) -> Result<(), Error> {
    let mut seen: Vec<String> = Vec::new();
    for node in nodes {
        let super::Target::Master(watched) = &node.target else {
            continue;
        };
        let name = node.id.clone().unwrap_or_else(|| watched.name.clone());
        if mode != Mode::Single {
            return Err(Error::new(
                Kind::Config,
                format!("mode {} keeps copies itself, and {name} is a master with replicas behind Sentinels", mode.word()),
            )
            .hint("Write mode = \"single\" (mode=single in a list), or name Redis servers that stand alone"));
        }
        if seen.contains(&name) {
            return Err(Error::new(
                Kind::Config,
                format!("two masters are called {}", clean(&name)),
            )
            .hint("Write id=NAME behind each: keys are placed by these names"));
        }
        seen.push(name);
    }
    Ok(())
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests {
    use super::super::{Schemes, Secret, Target, Wish, file, save_path};
    use super::*;

    fn parse(list: &str) -> Result<Wish, Error> {
        save_path::parse(list, &Schemes::default(), &|_| unreachable!())
    }

    fn watched(node: &NodeSpec) -> (String, Vec<String>) {
        let Target::Master(watched) = &node.target else {
            unreachable!("{node:?}")
        };
        let by = watched.by.iter().map(|(h, p)| format!("{h} {p}"));
        (watched.name.clone(), by.collect())
    }

    #[test]
    fn a_master_is_named_with_its_sentinels_in_a_list_a_file_and_add_server() {
        let list = "redis-sentinel://u:p%2Cq@a:1,b,[::1]:2/my.master-1_x?db=3&sentinel_auth=s&sentinel_user=w&mode=single, tcp://c,REDIS-SENTINEL://d/e d:1";
        let wish = parse(list).unwrap();
        let nodes = &wish.topology.nodes;
        assert_eq!(nodes.len(), 4);
        let (name, by) = watched(&nodes[0]);
        assert_eq!(name, "my.master-1_x");
        assert_eq!(by, ["a 1", "b 26379", "::1 2"]);
        assert_eq!(nodes[0].name(), "my.master-1_x");
        assert_eq!((nodes[0].retry_interval, nodes[1].retry_interval), (1, 15));
        let redis = nodes[0].redis.clone().unwrap();
        assert_eq!(redis.password, Some(Secret::new("p,q".to_owned())));
        assert_eq!(redis.sentinel_password, Some(Secret::new("s".to_owned())));
        assert_eq!(redis.sentinel_user.as_deref(), Some("w"));
        assert_eq!((redis.user.as_deref(), redis.database), (Some("u"), 3));
        assert_eq!(
            watched(&nodes[2]),
            ("e".to_owned(), vec!["d 26379".to_owned()])
        );
        assert_eq!(wish.notices.len(), 1, "{:?}", wish.notices);
        let text =
            "[pool.p]\nnodes = [\"redis-sentinel://a,b/m?weight=2&retry_interval=7\", \"c\"]";
        let pool = file::File::parse("f", text).unwrap().pool("p").unwrap();
        assert_eq!((pool.nodes[0].weight, pool.nodes[0].retry_interval), (2, 7));
        let added = NodeSpec::from_add_server(
            "redis-sentinel://a,b/m?database=1",
            Some(11211),
            11211,
            &Schemes::default(),
        );
        let added = added.unwrap();
        assert_eq!((added.host.as_str(), added.port), ("m", 0));
        assert_eq!(watched(&added).1, ["a 26379", "b 26379"]);
    }

    #[test]
    fn a_master_in_tls_has_its_own_scheme() {
        let list = "rediss-sentinel://:p@a,b/m?ca=/ca.pem&mode=single, redis-sentinel://a/n";
        let nodes = parse(list).unwrap().topology.nodes;
        assert_eq!(watched(&nodes[0]).1, ["a 26379", "b 26379"]);
        let ca = nodes[0].tls.clone().and_then(|tls| tls.ca);
        assert_eq!(ca.unwrap().to_str(), Some("/ca.pem"));
        assert!(nodes[1].tls.is_none());
        let only = Schemes::parse("redis").unwrap();
        let error = save_path::parse("rediss-sentinel://a/m", &only, &|_| unreachable!());
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("Add rediss to memring.allow_schemes"),
            "{text}"
        );
    }

    #[test]
    fn what_names_no_master_is_refused_with_the_text_to_write_and_no_password_is_repeated() {
        for (list, words) in [
            ("redis-sentinel://a,b", "/NAME"),
            ("redis-sentinel://:geheim@a,b/", "/NAME"),
            ("redis-sentinel://a/m/1", "?db=1"),
            ("redis-sentinel://:geheim@/m", "no host is named"),
            ("redis-sentinel://a,,b/m", "no host is named"),
            ("redis-sentinel://a,geheim:x/m", "no port"),
            ("redis-sentinel://a;b,c/m", "no host"),
            ("redis-sentinel://a,a:26379/m", "twice"),
            ("redis-sentinel://a/m redis-sentinel://b/m", "id=NAME"),
            ("redis-sentinel://a/m?mode=fenced b", "mode=single"),
            ("redis-sentinel://a/m?mode=sync b", "mode=single"),
            ("tcp://a?sentinel_auth=geheim", "is for Redis nodes"),
            ("redis://a?sentinel_auth=geheim", "redis-sentinel://"),
        ] {
            let text = parse(list).unwrap_err().to_string();
            assert!(text.contains(words), "{list}: {text}");
            assert!(!text.contains("heim"), "{list}: {text}");
        }
        assert!(parse("redis-sentinel://a/m redis-sentinel://b/m?id=n").is_ok());
        for pool in [
            "nodes = [\"redis-sentinel://a/m\", \"b\", \"c\"]\nprefix.\"x\" = { mode = \"async\" }",
            "nodes = [\"a\", \"b\"]\nmode = \"sync\"\nbackup = \"q\"\n[pool.q]\nnodes = [\"redis-sentinel://a/m\"]",
            "nodes = [\"a\", \"b\"]\nmode = \"fenced\"\nepoch = 1\nprevious_nodes = [\"a\", \"redis-sentinel://a/m\"]",
        ] {
            let error = file::File::parse("f", &format!("[pool.p]\n{pool}")).unwrap_err();
            let text = error.to_string();
            assert!(text.contains("behind Sentinels"), "{pool}: {text}");
        }
        let only = Schemes::parse("tcp").unwrap();
        let error = save_path::parse("redis-sentinel://a/m", &only, &|_| unreachable!());
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("Add redis to memring.allow_schemes"),
            "{text}"
        );
    }
}
