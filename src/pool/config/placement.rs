//! How keys are spread over the nodes: the placements by name, and what each asks of a list.
//!
//! What a placement computes is `ring`'s; here stand the words for it and its limits.

use super::address::clean;
use super::{Mode, NodeSpec, Policy};
use crate::error::{Error, Kind};

/// How keys are spread over the nodes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Placement {
    /// pecl-memcache `hash_strategy=consistent`: 160 points per weight, 1024 buckets.
    #[default]
    PeclConsistent,
    /// pecl-memcache `hash_strategy=standard`: modulo over the weighted list.
    PeclStandard,
    /// libmemcached's consistent distribution with its default hash (php-memcached
    /// `OPT_DISTRIBUTION`, `sess_consistent_hash_type=ketama`).
    Ketama,
    /// libmemcached's weighted ketama (php-memcached `OPT_LIBKETAMA_COMPATIBLE`).
    KetamaWeighted,
    /// Points by MurmurHash3, 160 per weight: nobody else's, for new pools.
    Murmur3,
    /// The same points by MD5, which any language has at hand.
    Md5,
    /// Jedis' `Sharded`, the sharding of `ShardedJedis` and `ShardedJedisPool`.
    Jedis(JedisHash, JedisNames),
    /// phpredis' sessions on several hosts.
    Phpredis,
    /// Weighted rendezvous (highest random weight).
    Rendezvous,
    /// Redis Cluster's own, of a `redis-cluster://` and of nothing else.
    Slots,
}

/// The hash of Jedis' sharding (redis.clients.jedis.util.Hashing).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JedisHash {
    /// `Hashing.MURMUR_HASH`, Jedis' default.
    Murmur,
    /// `Hashing.MD5`.
    Md5,
}

/// How Jedis names the points of a shard that has a name. Those without one never changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JedisNames {
    /// "NAME*NUMBER": Jedis 2.10 and 3 (Sharded.initialize).
    Plain,
    /// "NAME*WEIGHT" and the number right behind it: Jedis 2.0 to 2.9.
    Weight,
}

/// Largest sum of weights where all points are kept, 160 for each: 19 MB in each process and
/// some tenths of a second to make.
const WEIGHTS_MAX: u64 = 10_000;

impl Placement {
    /// Every placement that can be written, in the order in which messages list them.
    pub const ALL: [Placement; 12] = [
        Placement::PeclConsistent,
        Placement::PeclStandard,
        Placement::Ketama,
        Placement::KetamaWeighted,
        Placement::Rendezvous,
        Placement::Murmur3,
        Placement::Md5,
        Placement::Jedis(JedisHash::Murmur, JedisNames::Plain),
        Placement::Jedis(JedisHash::Md5, JedisNames::Plain),
        Placement::Jedis(JedisHash::Murmur, JedisNames::Weight),
        Placement::Jedis(JedisHash::Md5, JedisNames::Weight),
        Placement::Phpredis,
    ];

    /// The placement of that name.
    ///
    /// # Errors
    /// `Kind::Config` for an unknown one, with all there are.
    pub(super) fn read(name: &str) -> Result<Placement, Error> {
        let mut all = Placement::ALL.into_iter();
        all.find(|placement| placement.word() == name)
            .ok_or_else(|| {
                let known = Placement::ALL.map(Placement::word).join(", ");
                Error::new(
                    Kind::Config,
                    format!("placement \"{}\" is unknown", clean(name)),
                )
                .hint(format!("Write one of {known}"))
            })
    }

    /// Is it another client's whose key prefix counts for nothing: phpredis' sessions, and what
    /// libmemcached is told as its namespace (hash.cc, without `HASH_WITH_NAMESPACE`)? Its sessions
    /// are where that client looks for them, and nowhere else.
    pub(crate) const fn is_behind_prefix(self) -> bool {
        matches!(
            self,
            Placement::Phpredis | Placement::Ketama | Placement::KetamaWeighted
        )
    }

    /// The placement as it is written in a pool file.
    pub const fn word(self) -> &'static str {
        match self {
            Placement::PeclConsistent => "pecl-consistent",
            Placement::PeclStandard => "pecl-standard",
            Placement::Ketama => "ketama",
            Placement::KetamaWeighted => "ketama-weighted",
            Placement::Phpredis => "phpredis",
            Placement::Rendezvous => "rendezvous",
            Placement::Slots => "slots",
            Placement::Murmur3 => "murmur3",
            Placement::Md5 => "md5",
            Placement::Jedis(JedisHash::Murmur, JedisNames::Plain) => "jedis-murmur",
            Placement::Jedis(JedisHash::Md5, JedisNames::Plain) => "jedis-md5",
            Placement::Jedis(JedisHash::Murmur, JedisNames::Weight) => "jedis-murmur-2.9",
            Placement::Jedis(JedisHash::Md5, JedisNames::Weight) => "jedis-md5-2.9",
        }
    }
}

/// Checks that `node` is not the place of one of `others` to a placement that goes by names: of two
/// databases of one server the second would never get a key.
///
/// # Errors
/// `Kind::Config`: it is.
pub fn check_name<'a>(
    node: &NodeSpec,
    mut others: impl Iterator<Item = &'a NodeSpec>,
    placement: Placement,
) -> Result<(), Error> {
    // These go by the order of nodes.
    let by_place = matches!(
        placement,
        Placement::PeclStandard | Placement::Phpredis | Placement::Jedis(..) | Placement::Slots
    );
    let database = |node: &NodeSpec| node.redis.as_ref().map(|redis| redis.database);
    let clashes = |other: &NodeSpec| {
        database(other) != database(node) && other.ring_name() == node.ring_name()
    };
    if by_place || !others.any(clashes) {
        return Ok(());
    }
    Err(Error::new(
        Kind::Config,
        format!("two databases of {} are one place to placement \"{}\", and one of them would get no key", clean(&node.name()), placement.word()),
    )
    .hint("Write id=NAME behind each (redis://HOST/1?id=NAME), or take one out"))
}

/// Checks what the placement of a pool asks of `nodes`.
///
/// # Errors
/// `Kind::Config`: weights too large for a ring that keeps all its points; in mode fenced a
/// node that Jedis' rings know by its place in the list alone; as [`check_name`].
pub(super) fn check(nodes: &[NodeSpec], policy: &Policy) -> Result<(), Error> {
    for (at, node) in nodes.iter().enumerate() {
        check_name(node, nodes.iter().take(at), policy.placement)?;
    }
    let word = policy.placement.word();
    let jedis = match policy.placement {
        Placement::Jedis(..) => true,
        Placement::Murmur3 | Placement::Md5 => false,
        // A session of phpredis is on one host, and no other client looks for it elsewhere.
        Placement::Phpredis if policy.mode != Mode::Single => {
            let cause = "placement \"phpredis\" is for mode single";
            return Err(Error::new(Kind::Config, cause)
                .hint("Write mode = \"single\" (mode=single in a list), or another placement"));
        }
        Placement::Phpredis if policy.tag.is_some() => {
            let cause =
                "placement \"phpredis\" goes by the beginning of an id, and tag by a part of it";
            return Err(Error::new(Kind::Config, cause).hint("Take tag out"));
        }
        _ => return Ok(()),
    };
    let sum: u64 = nodes.iter().map(|node| u64::from(node.weight)).sum();
    if sum > WEIGHTS_MAX {
        let hint = if jedis {
            "Write smaller ones in the same proportion, here and in Jedis"
        } else {
            "Write smaller ones in the same proportion, or placement = \"rendezvous\", which takes any"
        };
        return Err(Error::new(
            Kind::Config,
            format!(
                "the weights add up to {sum}, and placement \"{word}\" takes {WEIGHTS_MAX} at most"
            ),
        )
        .hint(hint));
    }
    // Who is known by a place in the list gets another one when a node before it goes: that
    // is no small step, and hosts that list the nodes otherwise would not notice.
    let unnamed = nodes.iter().find(|node| node.id.is_none());
    match unnamed {
        Some(node) if jedis && policy.mode == Mode::Fenced => Err(Error::new(
            Kind::Config,
            format!(
                "{} has no id, and placement \"{word}\" would know it by its place in the list",
                node.name()
            ),
        )
        .hint("Write ?id=NAME behind each node in mode fenced")),
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
    use super::super::file::File;
    use super::*;

    fn read(lines: &str) -> Result<super::super::Topology, Error> {
        File::parse("f", &format!("[pool.p]\n{lines}"))?.pool("p")
    }

    /// Every word, as README's table has it.
    const WORDS: &str = "\"pecl-consistent\", \"pecl-standard\", \"ketama\", \"ketama-weighted\", \"rendezvous\", \
        \"murmur3\", \"md5\", \"jedis-murmur\", \"jedis-md5\", \"jedis-murmur-2.9\", \"jedis-md5-2.9\", \"phpredis\"";

    #[test]
    fn every_placement_can_be_written_and_an_unknown_one_is_told_all_of_them() {
        for placement in Placement::ALL {
            let text = format!("nodes = [\"a\"]\nplacement = \"{}\"", placement.word());
            assert_eq!(read(&text).unwrap().policy.placement, placement);
        }
        assert_eq!(Placement::ALL.len(), WORDS.split(", ").count());
        let said = read("nodes = [\"a\"]\nplacement = \"murmur\"").unwrap_err();
        assert_eq!(
            said.to_string(),
            format!("f, line 3: placement \"murmur\" is unknown. Write placement = one of {WORDS}")
        );
    }

    #[test]
    fn two_databases_of_one_server_need_names_where_placement_goes_by_names() {
        for placement in Placement::ALL {
            let word = placement.word();
            let of = |nodes| read(&format!("nodes = [{nodes}]\nplacement = \"{word}\""));
            let by_place = matches!(
                placement,
                Placement::PeclStandard | Placement::Phpredis | Placement::Jedis(..)
            );
            let two = of("\"redis://a/0\", \"redis://b\", \"redis://a/1\"");
            assert_eq!(two.is_ok(), by_place, "{word}");
            if let Err(error) = two {
                let text = error.to_string();
                assert!(text.contains("two databases of a:6379"), "{text}");
                assert!(text.contains("id=NAME"), "{text}");
            }
            assert!(
                of("\"redis://a/0?id=x\", \"redis://a/1?id=y\"").is_ok(),
                "{word}"
            );
            // A server that is listed twice has twice the weight, as ever.
            assert!(of("\"redis://a/1\", \"redis://a/1\"").is_ok(), "{word}");
        }
    }

    #[test]
    fn a_ring_that_keeps_all_points_takes_weights_up_to_ten_thousand_together() {
        for placement in Placement::ALL {
            let word = placement.word();
            let all = matches!(
                placement,
                Placement::Murmur3 | Placement::Md5 | Placement::Jedis(..)
            );
            let of = |weight: u32| {
                read(&format!(
                    "placement = \"{word}\"\nnodes = [\"a?weight=4000\", \"b?weight={weight}\"]"
                ))
            };
            assert!(of(6000).is_ok(), "{word}");
            match of(6001) {
                Err(error) if all => {
                    let error = error.to_string();
                    assert!(
                        error.contains("10001") && error.contains("smaller"),
                        "{error}"
                    );
                }
                read => assert!(read.is_ok() && !all, "{word}: {read:?}"),
            }
        }
    }

    #[test]
    fn the_weights_of_a_backup_and_of_the_nodes_before_count_too() {
        let backup = "placement = \"md5\"\nmode = \"sync\"\nbackup = \"q\"\nnodes = [\"a\", \"b\"]\n\
            [pool.q]\nnodes = [\"c?weight=20000\"]";
        let error = read(backup).unwrap_err().to_string();
        assert!(
            error.contains("line 4") && error.contains("20002"),
            "{error}"
        );
        let before = "placement = \"md5\"\nmode = \"fenced\"\nepoch = 1\nnodes = [\"a\", \"b\"]\n\
            previous_nodes = [\"a?weight=20000\", \"b\"]";
        let error = read(before).unwrap_err().to_string();
        assert!(error.contains("20001"), "{error}");
    }

    #[test]
    fn sessions_are_not_placed_by_a_place_in_the_list() {
        let of = |nodes: &str, mode: &str| {
            read(&format!(
                "placement = \"jedis-murmur\"\nmode = \"{mode}\"\nnodes = [{nodes}]"
            ))
        };
        assert!(of("\"a?id=a\", \"b?id=b\"", "fenced").is_ok());
        assert!(of("\"a\", \"b\"", "sync").is_ok());
        let error = of("\"a?id=a\", \"b\"", "fenced").unwrap_err().to_string();
        assert!(
            error.contains("b:11211 has no id") && error.contains("?id=NAME"),
            "{error}"
        );
    }
}
