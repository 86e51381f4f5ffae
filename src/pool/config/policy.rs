//! What holds for a whole pool, and what for the keys that begin with something.

use super::Placement;
use crate::codec::Format;
use crate::item::KeyRule;
use std::time::Duration;

/// Which words go over the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Classic text commands only, byte for byte what pecl-memcache sends.
    #[default]
    Ascii,
    /// pecl's `protocol=binary` in meaning (increment honours defaults, cas and replace
    /// errors), said in meta commands, or in classic ones where the server has no meta.
    Binary,
}

/// The hash function of pecl's rings (`memcache.hash_function`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HashFunction {
    /// zlib's CRC-32.
    #[default]
    Crc32,
    /// 32-bit FNV-1a over signed bytes, as pecl-memcache compiles it on x86.
    Fnv,
}

/// How many copies, and how safe (design: single, async, sync, fenced).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Exactly what pecl-memcache does, its redundancy included.
    #[default]
    Single,
    /// Each value on one node before it is acknowledged, its copies right after (see `copier`).
    Async,
    /// Each value on several nodes before it is acknowledged (see `pool::cache`).
    Sync,
    /// Each session on several nodes, with versions, trust and repair (see `replica`).
    Fenced,
}

impl Mode {
    /// The mode as it is written in a pool file.
    pub const fn word(self) -> &'static str {
        match self {
            Mode::Single => "single",
            Mode::Async => "async",
            Mode::Sync => "sync",
            Mode::Fenced => "fenced",
        }
    }
}

/// As many copies as there are nodes (`copies = "all"`).
pub const ALL: usize = usize::MAX;

/// Longest life of a session with copies, seconds: 30 days are the longest that memcached counts, and
/// two minutes of them are for its tombstone.
pub const SESSION_LIFE_MAX: u32 = 30 * 24 * 60 * 60 - 120;

/// What holds for a whole pool.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Which words go over the wire.
    pub protocol: Protocol,
    /// How keys are spread.
    pub placement: Placement,
    /// Hash of pecl's rings.
    pub hash: HashFunction,
    /// Copies and their safety.
    pub mode: Mode,
    /// Copies of each item in a copied mode, [`ALL`] for one on every node; `None` for 2, and in
    /// mode fenced for as many as there are nodes, up to 3.
    pub copies: Option<usize>,
    /// The pool's name in the file, empty for a list.
    pub name: String,
    /// Sessions are at their old place, too, while other workers keep them there: at
    /// pecl-memcache's, or in the pool [`super::Topology::old`].
    pub migrating: bool,
    /// Number of the pool's node list; each change of that list has a higher one.
    pub epoch: u32,
    /// Prefix and long-key rule.
    pub keys: KeyRule,
    /// Two characters, like `{}`: only what stands between them is hashed for placement. Jedis'
    /// placements read them as Jedis does, all others as Redis Cluster.
    pub tag: Option<[u8; 2]>,
    /// How many nodes that failed are left alone at the same time, where a prober looks after
    /// them; when more fail, all are asked. `None` for fewer than half, but one of two.
    pub max_out: Option<usize>,
    /// How many of the pool's nodes, the last ones, are its backup's: they have the last copy
    /// of each value, on a ring of their own.
    pub backup: usize,
    /// How long copies that follow the answer may wait for further ones, to go out together.
    pub hold: Duration,
    /// Longest life of a copy that follows the answer, seconds: so old at most is what a copy
    /// has that a write did not reach. `None` for as long as the value's.
    pub max_stale: Option<u32>,
    /// The longest that a session of the pool lives, seconds; `None` for [`SESSION_LIFE_MAX`].
    pub session_life: Option<u32>,
    /// How values are written.
    pub format: Format,
    /// What holds for keys that begin with something, the longest beginnings first.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// Number of the pool's node list; `None` for a list without a name: two applications may well
    /// share nodes by those.
    pub fn list_epoch(&self) -> Option<u32> {
        (!self.name.is_empty()).then_some(self.epoch)
    }
}

/// What holds for keys that begin with `prefix`, where it is another than for the pool.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rule {
    /// The beginning, without the pool's own prefix; never empty.
    pub prefix: Vec<u8>,
    /// Its mode, any but `Fenced`; `None` for the pool's.
    pub mode: Option<Mode>,
    /// Copies; `None` for the pool's.
    pub copies: Option<usize>,
    /// Indices of the nodes it is kept on; empty for all.
    pub nodes: Vec<usize>,
}
