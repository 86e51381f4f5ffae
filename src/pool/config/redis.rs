//! What only a Redis or Valkey node has: who we are there, and which database is meant.

use super::{Mode, NodeSpec, Secret, Topology};
use crate::error::{Error, Kind};

/// How a Redis or Valkey node is entered.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Redis {
    /// The user of its access list; `None` for the default one.
    pub user: Option<String>,
    /// The password; `None` where none is asked for.
    pub password: Option<Secret>,
    /// Number of the database.
    pub database: u32,
    /// The name its `CLIENT LIST` shows; `None` for none.
    pub client: Option<String>,
    /// Speak RESP3.
    pub resp3: bool,
    /// The user that the Sentinels before it know; `None` for the default one.
    pub sentinel_user: Option<String>,
    /// Their password; `None` where none is asked for.
    pub sentinel_password: Option<Secret>,
    /// It is one of a cluster.
    pub cluster: bool,
    /// How many replicas of its own have to have a write before it is acknowledged.
    pub wait: u32,
}

/// Checks that the pool may ask for what replicas have.
///
/// # Errors
/// `Kind::Config`: it keeps copies itself, which are written at the same time and wait for nobody else.
pub(super) fn check(topology: &Topology) -> Result<(), Error> {
    let Topology { nodes, policy, .. } = topology;
    let plain = policy.mode == Mode::Single && policy.rules.is_empty() && policy.backup == 0;
    let waits = |node: &&NodeSpec| node.redis.as_ref().is_some_and(|redis| redis.wait > 0);
    match nodes.iter().find(waits) {
        Some(node) if !plain => Err(Error::new(
            Kind::Config,
            format!(
                "wait= asks for the replicas of {}, and this pool keeps copies itself",
                node.name()
            ),
        )
        .hint("Take wait out, or write mode = \"single\" (mode=single in a list) without prefixes and backup",
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests {
    use super::super::{Schemes, Wish, file, save_path};
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn parse(list: &str) -> Result<Wish, Error> {
        save_path::parse(list, &Schemes::default(), &|_| unreachable!())
    }

    #[test]
    fn a_redis_node_is_entered_as_its_address_says() {
        let redis = |user: &str, password: &str, database| Redis {
            user: (!user.is_empty()).then(|| user.to_owned()),
            password: (!password.is_empty()).then(|| Secret::new(password.to_owned())),
            database,
            ..Redis::default()
        };
        for (list, expected) in [
            ("redis://a", redis("", "", 0)),
            ("REDIS://a:1/", redis("", "", 0)),
            ("redis://a/7", redis("", "", 7)),
            ("redis://:p%40+w@a/7", redis("", "p@+w", 7)),
            ("redis://u:p:q@a", redis("u", "p:q", 0)),
            ("redis://u@a", redis("u", "", 0)),
            ("redis://a?database=3&auth=p+w&user=u", redis("u", "p w", 3)),
            ("unix:///s?password=p&protocol=redis", redis("", "p", 0)),
            // phpredis' grammar.
            ("tcp://a?auth=p&database=3", redis("", "p", 3)),
            ("a?auth[]=u&auth[]=p", redis("u", "p", 0)),
            ("a?auth%5Bpass%5D=p&auth%5Buser%5D=u", redis("u", "p", 0)),
            ("unix:///s?database=1", redis("", "", 1)),
        ] {
            let wish = parse(list).unwrap();
            let node = &wish.topology.nodes[0];
            assert_eq!(node.redis.as_ref(), Some(&expected), "{list}");
            assert!(!format!("{wish:?}").contains("p@+w"), "{wish:?}");
            // PHP shows its own settings to whoever asks.
            let told = wish
                .notices
                .iter()
                .any(|n| n.to_string().contains("pool:NAME"));
            assert_eq!(told, expected.password.is_some(), "{list}");
        }
        assert_eq!(parse("a:1").unwrap().topology.nodes[0].redis, None);
        // phpredis' default port, and its prefix.
        let wish =
            parse("tcp://a?database=1&prefix=P:,redis://b?prefix=P%3A&read_timeout=2").unwrap();
        let names: Vec<String> = wish.topology.nodes.iter().map(|n| n.name()).collect();
        assert_eq!(names, ["a:6379", "b:6379"]);
        assert_eq!(wish.topology.policy.keys.prefix, b"P:");
        assert_eq!(wish.topology.nodes[1].op_timeout.as_secs(), 2);
    }

    #[test]
    fn no_message_repeats_a_password_whatever_slip_is_made() {
        for pool in [
            "nodes = \"redis://:geheim@h\"",
            "nodes = [\"redis://:geheim@h\", \"x y\"]",
            "nodes = [\"redis://u:geheim:6379\"]",
            "nodes = [\"redis://h?password:geheim\"]",
            "nodes = [\"app:geheim@10.0.0.1:6379/2\"]",
            "nodes = \"app:geheim@h/2\"",
            "nodes = [\"redis//:geheim@h\"]",
            "nodes = [\"app:geheim@h, redis://h\"]",
            "nodes = [\"redis://:geheim@h\"]\nplacement = \"redis://:geheim@h\"",
            "nodes = [\"a\", \"b\"]\nmode = \"sync\"\nbackup = \"redis://:geheim@h\"",
            "nodes = [\"a\", \"b\"]\nprefix.\"c\" = { mode = \"sync\", nodes = [\"redis://:geheim@h\"] }",
            "nodes = [\"a\"]\n\"redis://:geheim@h\" = 1",
        ] {
            let error = file::File::parse("f", &format!("[pool.p]\n{pool}")).unwrap_err();
            assert!(!error.to_string().contains("heim"), "{pool}: {error}");
        }
    }

    #[test]
    fn a_file_with_a_password_that_everybody_can_read_has_a_notice() {
        let directory =
            std::env::temp_dir().join(format!("memring-readers-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let path = directory.join("pools.toml");
        let text = "[pool.a]\nnodes = [\"redis://:geheim@h\"]\n[pool.b]\nnodes = [\"redis://h\"]";
        std::fs::write(&path, text).unwrap();
        for (mode, told) in [(0o644, true), (0o640, false)] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let file = file::load(&path).unwrap();
            let notices = file.wish("a").unwrap().notices;
            assert_eq!(notices.len(), usize::from(told), "{mode:o}");
            for notice in notices {
                let text = notice.to_string();
                assert!(
                    text.contains("chmod o-r") && !text.contains("geheim"),
                    "{text}"
                );
            }
            assert!(file.wish("b").unwrap().notices.is_empty());
        }
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
