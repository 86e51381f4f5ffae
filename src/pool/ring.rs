//! WHERE a key lives: owner first, then the nodes to try after it. One walk gives
//! owner, replicas and failover.
//!
//! A ring is built once from the nodes in their order of addition and never changes;
//! asking it costs no allocation. What each placement is equal to, exactly:
//!
//! | placement | equal to |
//! |---|---|
//! | pecl-consistent, pecl-standard | pecl-memcache 8.2, `hash_strategy` and `hash_function` of the same names |
//! | ketama | libmemcached `DISTRIBUTION_CONSISTENT` (php-memcached `OPT_DISTRIBUTION`, `sess_consistent_hash_type=ketama`) with its default hash, chosen before the servers are added |
//! | ketama-weighted | libmemcached `KETAMA_WEIGHTED` (php-memcached `OPT_LIBKETAMA_COMPATIBLE`, `ketama_weighted`) |
//! | jedis-murmur, jedis-md5 | Jedis 2.10 and 3, redis.clients.jedis.util.Sharded with Hashing.MURMUR_HASH (its default) and Hashing.MD5; Jedis 4 and 5, JedisSharding, which has neither names nor weights |
//! | jedis-murmur-2.9, jedis-md5-2.9 | Jedis 2.0 to 2.9, redis.clients.util.Sharded: other points where a shard has a name |
//! | murmur3, md5 | nobody else: our own points, for new pools |
//! | phpredis | phpredis' session handler on several hosts (redis_session.c redis_pool_get_sock): the first four bytes of the id modulo the weights, the host added last first |
//! | slots | Redis Cluster: the node that the cluster names for a key's slot (ring/slots.rs) |
//! | rendezvous | nobody else: our own, the only even one (ring/rendezvous.rs) |
//!
//! libmemcached's own quirk is kept: under ketama, the first weight above 1 switches
//! the *points* to the weighted form (MD5, share of the total) while keys keep the
//! default hash (hosts.cc `server_add`). Ketama and ketama-weighted therefore never
//! agree, not even with equal weights.
//!
//! The points of murmur3 and md5 are the hashes of "NAME-NUMBER", number from 0 to 160 × weight,
//! NAME the node's `id=` or else "host:port". Jedis' are those of "ID*NUMBER", up to 2.9 of
//! "ID*WEIGHTNUMBER", and of "SHARD-PLACE-NODE-NUMBER" for a node without `id=`: **its place in
//! the list, counted from 0, is all that Jedis knows it by**. Where points of two nodes meet
//! (one name twice, or 32 bits of MD5) Jedis' belong to the later one.
//!
//! This file knows nothing of health: who is asked, and who is skipped, is the caller's.

mod hash;
mod points;
mod rendezvous;
pub mod slots;
mod tag;

use crate::config::{HashFunction, JedisHash, JedisNames, Placement};
use hash::WideHash;
use points::Points;
use rendezvous::Rendezvous;
use std::rc::Rc;
use tag::Tag;

/// One node as the ring sees it.
#[derive(Clone, Copy, Debug)]
pub struct RingNode<'a> {
    /// "host:port" exactly as pecl-memcache writes it, or the node's `id=`.
    pub name: &'a str,
    /// Share of the keys relative to the others, at least 1.
    pub weight: u32,
    /// `name` is its `id=`: Jedis' rings hash no other name.
    pub named: bool,
}

/// A built ring; immutable, made anew when a node is added.
#[derive(Clone, Debug)]
pub struct Ring {
    tag: Option<Tag>,
    /// Bytes of each key that its owner does not count, where its client counts them not.
    prefix: usize,
    is_behind: bool,
    rule: Rule,
}

/// How the owner is found. `u32` is the index of a node in its order of addition.
#[derive(Clone, Debug)]
enum Rule {
    /// One node: always that one, whatever the placement (and 0 for an empty ring).
    Only,
    /// pecl-consistent: hash modulo 1024 names the bucket, the bucket names the node.
    Buckets(HashFunction, Box<[u32; BUCKETS]>),
    /// pecl-standard: the upper half of the hash modulo the sum of weights.
    Modulo(HashFunction, Slots),
    /// ketama: the first point at or after the key's hash.
    Points(hash::KeyHash, Points<u32>),
    /// The same among points of 64 bits.
    Wide(WideHash, Points<u64>),
    /// phpredis: the first four bytes of the id modulo the sum of weights.
    FirstBytes(Slots),
    Rendezvous(Rendezvous),
    /// Redis Cluster: the table, and the node behind each number of it.
    Cluster(Rc<slots::Table>, Box<[u32]>),
}

/// Buckets of pecl's consistent strategy (memcache_consistent_hash.c MMC_CONSISTENT_BUCKETS).
const BUCKETS: usize = 1024;
/// Points per unit of weight of pecl's consistent strategy (MMC_CONSISTENT_POINTS).
const PECL_POINTS: u32 = 160;
/// Points per unit of weight of Jedis' sharding (Sharded.initialize), and of our own rings.
const POINTS: u32 = 160;
/// Points per node of libmemcached's unweighted ketama (MEMCACHED_POINTS_PER_SERVER).
const KETAMA_POINTS: u32 = 100;
/// Mean points per node of its weighted form (MEMCACHED_POINTS_PER_SERVER_KETAMA).
const KETAMA_WEIGHTED_POINTS: u32 = 160;

impl Ring {
    /// Builds the ring for `nodes` in their order of addition.
    ///
    /// `hash` counts for pecl's placements only. `tag` names two characters, like `{}`:
    /// where a key holds both with something between them, only that is hashed (ring/tag.rs).
    pub fn new(
        nodes: &[RingNode<'_>],
        placement: Placement,
        hash: HashFunction,
        tag: Option<[u8; 2]>,
    ) -> Ring {
        let rule = match placement {
            _ if nodes.len() < 2 => Rule::Only,
            Placement::PeclConsistent => Rule::Buckets(hash, pecl_buckets(nodes, hash)),
            Placement::PeclStandard => Rule::Modulo(hash, Slots::new(nodes)),
            Placement::Ketama => {
                let weighted = nodes.iter().any(|node| node.weight > 1);
                Rule::Points(hash::KeyHash::OneAtATime, ketama(nodes, weighted))
            }
            Placement::KetamaWeighted => Rule::Points(hash::KeyHash::Md5, ketama(nodes, true)),
            Placement::Murmur3 => Rule::Wide(WideHash::Murmur3, own(nodes, WideHash::Murmur3)),
            Placement::Md5 => Rule::Wide(WideHash::Md5, own(nodes, WideHash::Md5)),
            Placement::Jedis(function, names) => {
                let function = match function {
                    JedisHash::Murmur => WideHash::JedisMurmur,
                    JedisHash::Md5 => WideHash::JedisMd5,
                };
                Rule::Wide(function, jedis(nodes, function, names))
            }
            Placement::Phpredis => Rule::FirstBytes(Slots::last_first(nodes)),
            Placement::Rendezvous => Rule::Rendezvous(Rendezvous::new(nodes)),
            // Who has which slot is not known yet: any node of a cluster says so when it is asked.
            Placement::Slots => Rule::Only,
        };
        let tag = tag.map(|[open, close]| Tag {
            open,
            close,
            jedis: matches!(placement, Placement::Jedis(..)),
        });
        Ring {
            tag: tag.or((placement == Placement::Slots).then_some(slots::TAG)),
            is_behind: placement.is_behind_prefix(),
            prefix: 0,
            rule,
        }
    }

    /// The ring of a cluster: `nodes` has the index of each node of `table`. A slot that nobody
    /// has is asked for at the first one.
    pub fn cluster(table: Rc<slots::Table>, nodes: &[usize]) -> Ring {
        let nodes = nodes.iter().map(|index| u32::try_from(*index).unwrap_or(0));
        Ring {
            tag: Some(slots::TAG),
            is_behind: false,
            prefix: 0,
            rule: Rule::Cluster(table, nodes.collect()),
        }
    }

    /// The same for keys that begin with a prefix of so many bytes, which some clients do not count.
    #[must_use]
    pub fn behind(mut self, prefix: usize) -> Ring {
        self.prefix = if self.is_behind { prefix } else { 0 };
        self
    }

    /// Index of the node that owns `key` (wire form).
    pub fn owner(&self, key: &[u8]) -> usize {
        let key = self.hashed(key);
        let index = match &self.rule {
            Rule::Only => 0,
            Rule::Buckets(function, table) => bucket(table, hash::pecl(*function, key)),
            Rule::Modulo(function, slots) => slots.at(hash::pecl(*function, key)),
            Rule::Points(function, points) => points.owner(function.of(key)),
            Rule::Wide(function, points) => points.owner(function.of(key)),
            Rule::FirstBytes(slots) => slots.of_id(key, 0),
            Rule::Rendezvous(nodes) => nodes.owner(key),
            Rule::Cluster(table, nodes) => {
                let owner = table.owner(slots::slot_of_tag(key));
                nodes.get(owner.unwrap_or(0)).copied().unwrap_or(0)
            }
        };
        index as usize
    }

    /// Index of the node to try as number `attempt` (from 0) after the owner.
    ///
    /// pecl's rings hash `<key>-<attempt>` and may name a node twice; the other
    /// placements walk on to the next distinct node, and round again to the owner.
    pub fn after(&self, key: &[u8], attempt: u32) -> usize {
        let key = self.hashed(key);
        let index = match &self.rule {
            Rule::Only => 0,
            Rule::Buckets(function, table) => {
                bucket(table, hash::pecl_attempt(*function, key, attempt))
            }
            Rule::Modulo(function, slots) => slots.at(hash::pecl_attempt(*function, key, attempt)),
            Rule::Points(function, points) => points.after(function.of(key), attempt),
            Rule::Wide(function, points) => points.after(function.of(key), attempt),
            Rule::FirstBytes(slots) => slots.of_id(key, attempt.saturating_add(1)),
            Rule::Rendezvous(nodes) => nodes.after(key, attempt),
            // What its owner has nobody else has.
            Rule::Cluster(..) => return self.owner(key),
        };
        index as usize
    }

    /// The first `count` different nodes for `key`, of a ring of `nodes`: its owner, then those
    /// that [`Ring::after`] names.
    pub fn owners(&self, key: &[u8], nodes: usize, count: usize) -> Vec<usize> {
        let count = count.min(nodes).max(1);
        let mut owners = Vec::with_capacity(count);
        owners.push(self.owner(key));
        // pecl's rings name a node again and again; the last ones are then taken in order.
        const ATTEMPTS: u32 = 64;
        let mut further = (0..ATTEMPTS)
            .map(|attempt| self.after(key, attempt))
            .chain(0..nodes);
        while owners.len() < count {
            match further.next() {
                Some(node) if owners.contains(&node) => {}
                Some(node) => owners.push(node),
                None => break,
            }
        }
        owners
    }

    /// The part of `key` that is hashed: what stands between the tag characters, else all of it but
    /// a prefix that does not count.
    pub(crate) fn hashed<'k>(&self, key: &'k [u8]) -> &'k [u8] {
        let key = key.get(self.prefix..).unwrap_or_default();
        self.tag.map_or(key, |tag| tag.of(key))
    }
}

fn bucket(table: &[u32; BUCKETS], hash: u32) -> u32 {
    table.get(hash as usize % BUCKETS).copied().unwrap_or(0)
}

/// The 1024 buckets of pecl's consistent strategy: bucket b belongs to the first point
/// at or after b × step, the last ones wrapping to the first point of all.
///
/// The points are not kept: of all that fall between two bucket starts only the lowest
/// counts, so weights may be large without a large table. Equal points: first added wins,
/// as a stable sort leaves them.
fn pecl_buckets(nodes: &[RingNode<'_>], function: HashFunction) -> Box<[u32; BUCKETS]> {
    const STEP: u32 = u32::MAX / BUCKETS as u32;
    let mut lowest: Vec<Option<(u32, u32)>> = vec![None; BUCKETS];
    for (index, node) in (0u32..).zip(nodes) {
        let prefix = hash::Prefix::new(function, node.name);
        for number in 0..node.weight.saturating_mul(PECL_POINTS) {
            let point = prefix.point(number);
            if let Some(slot) = lowest.get_mut(((point / STEP) as usize).min(BUCKETS - 1))
                && slot.is_none_or(|(held, _)| point < held)
            {
                *slot = Some((point, index));
            }
        }
    }
    let mut table = Box::new([0; BUCKETS]);
    let mut next = lowest
        .iter()
        .flatten()
        .next()
        .map_or(0, |(_, index)| *index);
    for (bucket, point) in table.iter_mut().zip(&lowest).rev() {
        next = point.map_or(next, |(_, index)| index);
        *bucket = next;
    }
    table
}

/// pecl's standard strategy: each node stands `weight` times in one row.
#[derive(Clone, Debug)]
struct Slots {
    row: Box<[u32]>,
    total: u64,
}

impl Slots {
    /// The hash has 15 bits, so only the first 32768 places of the row can be hit.
    const REACH: usize = 1 << 15;

    fn new(nodes: &[RingNode<'_>]) -> Slots {
        let row = (0u32..)
            .zip(nodes)
            .flat_map(|(index, node)| std::iter::repeat_n(index, node.weight as usize));
        let total = nodes.iter().map(|node| u64::from(node.weight)).sum();
        Slots {
            row: row.take(Slots::REACH).collect(),
            total,
        }
    }

    /// The row of phpredis, which puts each host before those it has (redis_pool_add).
    fn last_first(nodes: &[RingNode<'_>]) -> Slots {
        let mut row = Vec::new();
        for (index, node) in (0u32..nodes.len() as u32).zip(nodes).rev() {
            row.extend(std::iter::repeat_n(index, node.weight as usize));
        }
        let row: Box<[u32]> = row.into();
        let total = row.len() as u64;
        Slots { row, total }
    }

    /// The node of a session's id, `steps` different ones further.
    ///
    /// phpredis reads the bytes as its processor does: low byte first wherever PHP runs today.
    fn of_id(&self, id: &[u8], steps: u32) -> u32 {
        let mut first = [0; 4];
        first.iter_mut().zip(id).for_each(|(to, byte)| *to = *byte);
        let place = u64::from(u32::from_le_bytes(first)).checked_rem(self.total);
        let place = place.unwrap_or(0) as usize;
        let owner = self.row.get(place).copied().unwrap_or(0);
        let nodes = self.row.first().map_or(1, |last| last + 1);
        // The nodes after it in the list, and round again.
        (owner + steps % nodes) % nodes
    }

    fn at(&self, hash: u32) -> u32 {
        let short = u64::from(hash >> 16 & 0x7fff).max(1);
        let place = short.checked_rem(self.total).unwrap_or(0);
        self.row.get(place as usize).copied().unwrap_or(0)
    }
}

/// libmemcached's continuum; `weighted` is its form by shares of the total.
fn ketama(nodes: &[RingNode<'_>], weighted: bool) -> Points<u32> {
    let total: u64 = nodes.iter().map(|node| u64::from(node.weight)).sum();
    let mut points = Vec::new();
    for (index, node) in (0u32..).zip(nodes) {
        let name = ketama_name(node.name);
        if weighted {
            // Single precision and this order of operations are libmemcached's
            // (hosts.cc update_continuum): they decide how a share is rounded.
            let share = node.weight as f32 / total as f32;
            let rounds = share * KETAMA_WEIGHTED_POINTS as f32 / 4.0 * nodes.len() as f32 + 1e-10;
            for number in 0..rounds.floor() as u32 {
                let digest = hash::md5(format!("{name}-{number}").as_bytes());
                points.extend(digest.into_iter().map(|point| (point, index)));
            }
        } else {
            let point = |number| hash::one_at_a_time(format!("{name}-{number}").as_bytes());
            points.extend((0..KETAMA_POINTS).map(|number| (point(number), index)));
        }
    }
    Points::new(points)
}

/// The points of our own rings.
fn own(nodes: &[RingNode<'_>], function: WideHash) -> Points<u64> {
    let mut points = Vec::new();
    for (index, node) in (0u32..).zip(nodes) {
        numbered(format!("{}-", node.name), node.weight, function, |point| {
            points.push((point, index));
        });
    }
    Points::new(points)
}

/// The points of Jedis' sharding (redis.clients.jedis.util.Sharded, initialize). It puts them
/// into a map, where a later point takes the place of an equal one.
fn jedis(nodes: &[RingNode<'_>], function: WideHash, names: JedisNames) -> Points<u64> {
    let mut points = Vec::new();
    for (index, node) in (0u32..).zip(nodes) {
        let prefix = match names {
            _ if !node.named => format!("SHARD-{index}-NODE-"),
            JedisNames::Plain => format!("{}*", node.name),
            JedisNames::Weight => format!("{}*{}", node.name, node.weight),
        };
        numbered(prefix, node.weight, function, |point| {
            points.push((point, index));
        });
    }
    Points::last_wins(points)
}

/// Hands the hashes of `name` with each number behind it to `each`.
fn numbered(mut name: String, weight: u32, function: WideHash, mut each: impl FnMut(u64)) {
    let length = name.len();
    for number in 0..weight.saturating_mul(POINTS) {
        name.truncate(length);
        name.push_str(itoa::Buffer::new().format(number));
        each(function.of(name.as_bytes()));
    }
}

/// The name libmemcached hashes for a node: no scheme, no brackets, and no port where
/// it is 11211 (hosts.cc update_continuum), which is what php-memcached's `addServer()`
/// gives a unix socket. Its `addServers()` and session lists leave 0 there and hash
/// "/path:0": who comes from those writes that name as the node's `id`.
fn ketama_name(name: &str) -> String {
    if let Some(path) = name.strip_prefix("unix://") {
        return path.strip_suffix(":0").unwrap_or(path).to_owned();
    }
    let bare = ["tcp://", "memcached://"]
        .iter()
        .find_map(|scheme| name.strip_prefix(scheme))
        .unwrap_or(name);
    let bare = bare.strip_suffix(":11211").unwrap_or(bare);
    bare.replace(['[', ']'], "")
}

#[cfg(test)]
#[path = "ring/tests.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "tests may stop at the first surprise"
)]
mod tests;

#[cfg(test)]
#[path = "ring/points_tests.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "tests may stop at the first surprise"
)]
mod points_tests;
