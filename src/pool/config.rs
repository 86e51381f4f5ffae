//! WISH: what the caller asked for, parsed whole or refused whole.
//!
//! Three doors lead here: one `addServer()` call, a list in `save_path`, and
//! `pool:NAME` from the TOML file. All three end in the same [`NodeSpec`] and
//! [`Policy`]; nothing behind this file parses text.
//!
//! | door | file |
//! |---|---|
//! | `addServer()` and what stands before and behind a host | [`address`] |
//! | `?weight=2&timeout=1` behind a node | `options` |
//! | who we are at a node | [`login`] |
//! | password and database of a Redis node | [`redis`] |
//! | a Redis Cluster | [`cluster`] |
//! | a master and who watches it | [`sentinel`] |
//! | what messages show of all that | `shown` |
//! | `session.save_path` | [`save_path`] |
//! | `pool:NAME` | [`mod@file`] |
//! | `placement = "…"` | `placement` |
//! | what holds for a whole pool | `policy` |
//! | one node list after another | `step` |
//! | `rediss://`, `memcacheds://`, and whom to trust there | [`tls`] |
//! | the same while the process runs | [`watch`] |
//!
//! Whatever is refused says what, where, and the text to write instead. Ports that are
//! left out are 11211 (pecl-memcache: 0 in a save_path, which starts and then cannot
//! write).

pub mod address;
pub mod cluster;
pub mod file;
pub mod login;
mod options;
mod placement;
mod policy;
pub mod redis;
pub mod save_path;
pub mod sentinel;
mod shown;
pub mod step;
pub mod tls;
pub mod watch;

pub use address::Schemes;
pub use login::{Login, Secret};
pub use placement::{JedisHash, JedisNames, Placement, check_name};
pub use policy::{ALL, HashFunction, Mode, Policy, Protocol, Rule, SESSION_LIFE_MAX};
pub use redis::Redis;
pub use sentinel::Watched;
pub use shown::masked;
pub use tls::{Tls, Trust};

use crate::codec::Format;
use crate::error::{Error, Kind};
use std::time::Duration;

/// Where a node listens.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    /// A name or an IPv4/IPv6 address (without brackets) and a TCP port.
    Tcp {
        /// Name or address.
        host: String,
        /// TCP port, 1 to 65535.
        port: u16,
    },
    /// A path of a unix socket.
    Unix(std::path::PathBuf),
    /// Whichever server Sentinels name as the master.
    Master(Watched),
    /// No server: a database of this host.
    Embedded(Place),
}

/// Where an embedded node keeps what it has, and how much of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The directory of its file, absolute.
    pub directory: std::path::PathBuf,
    /// What its items may take, bytes; then the ones that end first make room.
    pub size: u64,
}

/// What an embedded node may keep where nothing is said of it, bytes.
pub const EMBEDDED_SIZE: u64 = 64 << 20;
/// The least it may be given, bytes.
pub const EMBEDDED_LEAST: u64 = 1 << 20;
/// The most, bytes: four times that is address space.
pub const EMBEDDED_MOST: u64 = 1 << 40;

impl Target {
    /// Is it surely the same server? Names are not resolved, but case, a last dot, ways to
    /// write an address and "localhost" make no difference.
    pub fn is(&self, other: &Target) -> bool {
        let plain = |host: &str| {
            let host = host.trim_end_matches('.').to_ascii_lowercase();
            let host = match host.as_str() {
                "localhost" => "127.0.0.1",
                other => other,
            };
            match host.parse::<std::net::IpAddr>() {
                Ok(address) => address.to_canonical().to_string(),
                Err(_) => host.to_owned(),
            }
        };
        match (self, other) {
            (Target::Tcp { host, port }, Target::Tcp { host: h, port: p }) => {
                port == p && plain(host) == plain(h)
            }
            (Target::Embedded(one), Target::Embedded(two)) => one.directory == two.directory,
            (one, two) => one == two,
        }
    }
}

/// One node as the caller asked for it.
#[derive(Clone, Debug, PartialEq)]
pub struct NodeSpec {
    /// The host exactly as passed, scheme included: pecl's rings hash this text.
    pub host: String,
    /// The port exactly as passed, 0 for a unix socket.
    pub port: u16,
    /// Accepted and shown, never used: this library speaks no UDP.
    pub udp_port: u16,
    /// Where to connect.
    pub target: Target,
    /// How it is entered, if it is a Redis or Valkey; `None` for a memcached.
    pub redis: Option<Redis>,
    /// Who we are at a memcached that asks for it; a Redis has that in `redis`.
    pub login: Option<Login>,
    /// How its TLS is spoken; `None` for plain sockets.
    pub tls: Option<Tls>,
    /// Hashed by the rings in place of "host:port" when given.
    pub id: Option<String>,
    /// Share of the keys, relative to the other nodes; at least 1.
    pub weight: u32,
    /// Limit of one connect, all addresses of the name together.
    pub connect_timeout: Duration,
    /// Limit of one exchange.
    pub op_timeout: Duration,
    /// Seconds a failed node is left alone; 0 tries at once, negative never again.
    pub retry_interval: i64,
    /// A connection unused for longer is not used again.
    pub idle_limit: Duration,
    /// Keep the connection across requests.
    pub persistent: bool,
    /// False: the node is in the ring but never asked (pecl's `status` argument).
    pub status: bool,
    /// Who tries a failed node again.
    pub care: Care,
    /// What was written for this node, and so stays where a copied pool has its own defaults.
    pub written: Written,
}

/// What connections to a server have in common to be shared.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Entrance {
    /// Where it is.
    pub target: Target,
    /// How it is entered, if it is a Redis.
    pub redis: Option<Redis>,
    /// Who we are at a memcached.
    pub login: Option<Login>,
    /// How its TLS is spoken.
    pub tls: Option<Tls>,
}

impl Entrance {
    /// The one that `spec` asks for.
    pub fn of(spec: &NodeSpec) -> Entrance {
        Entrance {
            target: spec.target.clone(),
            redis: spec.redis.clone(),
            login: spec.login.clone(),
            tls: spec.tls.clone(),
        }
    }

    /// Is it what `spec` asks for?
    pub fn is(&self, spec: &NodeSpec) -> bool {
        self.target == spec.target
            && self.redis == spec.redis
            && self.login == spec.login
            && self.tls == spec.tls
    }
}

/// What kind of server a node is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Engine {
    /// memcached.
    #[default]
    Memcached,
    /// Redis or Valkey.
    Redis,
    /// None: a database of this host, in this process.
    Embedded,
}

/// Who tries a failed node again, and when.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Care {
    /// The next request after `retry_interval`, as in pecl-memcache.
    #[default]
    Interval,
    /// A prober, off the path of requests: copied pools.
    Probed,
    /// This process is the prober, and always asks.
    Prober,
}

/// What was written rather than taken by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// A timeout.
    pub timeout: bool,
    /// A retry interval.
    pub retry: bool,
    /// That it is a memcached, by its scheme.
    pub memcached: bool,
}

/// pecl-memcache's default timeout, 1 s (memcache_pool.h MMC_DEFAULT_TIMEOUT).
pub const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1);
/// Timeout in a copied pool where none is written: a hung node costs this much once.
pub const COPIED_TIMEOUT: Duration = Duration::from_millis(100);
/// pecl-memcache's default retry interval, 15 s (memcache_pool.h MMC_DEFAULT_RETRY).
pub const DEFAULT_RETRY: i64 = 15;

/// The port of a node that names none, memcached's own default.
pub const DEFAULT_PORT: u16 = 11211;
/// The same of a `redis://` node.
pub const REDIS_PORT: u16 = 6379;
/// Largest weight of a node. pecl's ring places 160 points per unit, so that this is ten
/// million of them, a tenth of a second to build; the original has no limit.
pub const WEIGHT_MAX: u32 = 65_535;
/// Longest timeout of a node, one day: more is the same as none.
pub const TIMEOUT_MAX: Duration = Duration::from_secs(86_400);

impl NodeSpec {
    /// Is it a database of this host, with no server?
    pub fn is_embedded(&self) -> bool {
        matches!(self.target, Target::Embedded(_))
    }

    /// A TCP node with pecl-memcache's defaults: weight 1, 1 s timeouts, retry after 15 s, persistent.
    pub fn tcp(host: &str, port: u16) -> NodeSpec {
        NodeSpec {
            host: host.to_owned(),
            port,
            udp_port: 0,
            target: Target::Tcp {
                host: host.trim_matches(['[', ']']).to_owned(),
                port,
            },
            redis: None,
            login: None,
            tls: None,
            id: None,
            weight: 1,
            connect_timeout: DEFAULT_TIMEOUT,
            op_timeout: DEFAULT_TIMEOUT,
            idle_limit: Duration::MAX,
            retry_interval: DEFAULT_RETRY,
            persistent: true,
            status: true,
            care: Care::default(),
            written: Written::default(),
        }
    }

    /// The same node in a copied pool: what was not written has other defaults there, since
    /// another copy answers at once and a prober sees the node return.
    #[must_use]
    pub fn copied(mut self) -> NodeSpec {
        if !self.written.timeout {
            self.connect_timeout = self.connect_timeout.min(COPIED_TIMEOUT);
            self.op_timeout = self.op_timeout.min(COPIED_TIMEOUT);
        }
        if !self.written.retry && self.care == Care::Interval {
            self.care = Care::Probed;
        }
        self
    }

    /// What kind of server it is.
    pub fn engine(&self) -> Engine {
        match (&self.redis, &self.target) {
            (Some(_), _) => Engine::Redis,
            (None, Target::Embedded(_)) => Engine::Embedded,
            (None, _) => Engine::Memcached,
        }
    }

    /// Does it have a password that stands where the node was written?
    pub fn has_written_secret(&self) -> bool {
        let redis = self
            .redis
            .as_ref()
            .and_then(|redis| redis.password.as_ref());
        let own = self.login.as_ref().map(|login| &login.password);
        let sentinels = self.redis.as_ref();
        let sentinels = sentinels.and_then(|redis| redis.sentinel_password.as_ref());
        let mut all = [redis, own, sentinels].into_iter().flatten();
        all.any(Secret::is_written)
    }

    /// The node's name, "host:port" as pecl-memcache writes it ("unix:///path:0" for a socket);
    /// of a master that Sentinels watch the name it has there.
    pub fn name(&self) -> String {
        match self.target {
            Target::Master(_) => self.host.clone(),
            _ => format!("{}:{}", self.host, self.port),
        }
    }

    /// The name that records know it by: what the ring hashes, without blanks.
    pub fn ring_name(&self) -> Box<str> {
        let name = self.id.clone().unwrap_or_else(|| self.name());
        name.replace(' ', "_").into()
    }
}

/// What to do about an embedded node beside others.
pub const ALONE: &str = "What it keeps is on this host alone, where no other host would look for it. Give it a pool of its own, in mode single";

/// Nodes and what holds for all of them: a whole pool, ready to be built.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// The nodes in their order of addition; never empty when it comes from a parser.
    pub nodes: Vec<NodeSpec>,
    /// The nodes of the epoch before, where they are written; empty when they are the same.
    pub previous: Vec<NodeSpec>,
    /// Nodes that are written and give up their keys; never among `nodes`.
    pub drained: Vec<NodeSpec>,
    /// The pool of mode single that sessions move from, or back to; `None` where that is
    /// pecl-memcache's place on the same nodes.
    pub old: Option<Box<Wish>>,
    /// What holds for all of them.
    pub policy: Policy,
}

impl Topology {
    /// Checks that an embedded node is its only one, in mode single and with nothing that
    /// needs others.
    pub(crate) fn check_embedded(&self) -> Result<(), Error> {
        let policy = &self.policy;
        let mut all = self.nodes.iter().chain(&self.previous).chain(&self.drained);
        let Some(own) = all.find(|node| node.engine() == Engine::Embedded) else {
            return Ok(());
        };
        let nodes = self.nodes.len() + self.previous.len() + self.drained.len();
        let plain = policy.mode == Mode::Single && policy.rules.is_empty();
        if nodes == 1 && policy.backup == 0 && plain && !policy.migrating {
            return Ok(());
        }
        let cause = format!("{} cannot join other nodes", own.name());
        Err(Error::new(Kind::Config, cause).hint(ALONE))
    }
}

/// A list or a pool of the file, read whole.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// What was asked for.
    pub topology: Topology,
    /// True when a mode was written, rather than taken by default.
    pub mode_written: bool,
    /// True when a placement was written.
    pub placement_written: bool,
    /// What was read otherwise than it may have been meant; to be shown as PHP notices.
    pub notices: Vec<Error>,
}

impl Wish {
    /// A pool of one embedded node in `directory`.
    pub fn embedded(directory: &std::path::Path) -> Wish {
        let mut node = NodeSpec::tcp(&format!("embedded://{}", directory.display()), 0);
        node.target = Target::Embedded(Place {
            directory: directory.to_owned(),
            size: EMBEDDED_SIZE,
        });
        let mut wish = Wish::default();
        wish.topology.nodes.push(node);
        wish
    }

    /// Makes of a list that says nothing of its mode what the session handler `memring` takes
    /// it for: a pool of mode fenced. A Redis Cluster stays what it is.
    ///
    /// # Errors
    /// As [`Wish::check`]; and a placement that is none for this mode.
    pub fn keep_copies(&mut self) -> Result<(), Error> {
        let policy = &mut self.topology.policy;
        if policy.placement == Placement::Slots {
            // It keeps them itself.
            return Ok(());
        }
        policy.mode = Mode::Fenced;
        if !self.placement_written {
            policy.placement = Placement::Rendezvous;
        }
        self.check()?;
        placement::check(&self.topology.nodes, &self.topology.policy)
    }

    /// Its nodes and its policy; keys are spread as `usual` says where it writes neither how nor
    /// a mode.
    pub fn with_usual(self, usual: Policy) -> (Vec<NodeSpec>, Policy) {
        let Topology { nodes, policy, .. } = self.topology;
        let policy = match self.placement_written || self.mode_written {
            true => policy,
            false => Policy {
                placement: usual.placement,
                hash: usual.hash,
                ..policy
            },
        };
        (nodes, policy)
    }

    /// Checks what only the whole pool can tell.
    ///
    /// # Errors
    /// `Kind::Config`: what makes no sense of a cluster; copies without a copied mode, more than nodes or less than 2, in mode
    /// fenced more than 3; in a copied mode fewer than two nodes, or one
    /// server twice; a format of values in mode fenced; an embedded node that is not the only one.
    pub fn check(&self) -> Result<(), Error> {
        let Topology { nodes, policy, .. } = &self.topology;
        let refuse =
            |cause: String, hint: &str| Err(Error::new(Kind::Config, cause).hint(hint.to_owned()));
        if policy.placement == Placement::Slots {
            return cluster::check(nodes, policy);
        }
        sentinel::check(nodes, policy.mode)?;
        redis::check(&self.topology)?;
        self.topology.check_embedded()?;
        if policy.session_life.is_some() && policy.mode != Mode::Fenced {
            return refuse(
                "session_life is for sessions with copies".to_owned(),
                "Write mode = \"fenced\" beside it (mode=fenced in a list), or take it out",
            );
        }
        if policy.mode == Mode::Single {
            return match policy.copies {
                Some(_) => refuse(
                    "copies needs a mode that keeps them".to_owned(),
                    "Write mode = \"sync\" or mode = \"fenced\" beside it (mode=fenced in a list); in mode single memcache.redundancy and memcache.session_redundancy say how many",
                ),
                None => Ok(()),
            };
        }
        if policy.mode == Mode::Fenced && policy.format != Format::default() {
            return refuse(
                "serializer, compression and codec are for values, and sessions with copies are kept as PHP wrote them".to_owned(),
                "Take them out: session.serialize_handler says how PHP writes a session",
            );
        }
        let mode = policy.mode.word();
        // Of a backup it counts only that there is one: its nodes come later.
        let count = nodes.len() + policy.backup.min(1);
        if count < 2 {
            return refuse(
                format!("mode {mode} needs two nodes or more"),
                "Add a node, best two, or write mode = \"single\"",
            );
        }
        match policy.copies {
            Some(copies)
                if policy.mode == Mode::Fenced
                    && copies > nodes.len().min(3)
                    && (copies != ALL || nodes.len() > 3) =>
            {
                let said = match copies {
                    ALL => "\"all\"".to_owned(),
                    copies => copies.to_string(),
                };
                return refuse(
                    format!(
                        "copies = {said} is more than a session has on {} nodes",
                        nodes.len()
                    ),
                    "Leave it out: each session is on three nodes, and on two where there are no more",
                );
            }
            Some(copies) if copies != ALL && copies > count => {
                return refuse(
                    format!("copies = {copies} is more than the {count} nodes"),
                    "Write copies = 2, or copies = \"all\" for one on every node",
                );
            }
            Some(copies) if copies < 2 => {
                return refuse(
                    format!("copies = {copies} keeps no copy"),
                    "Write copies = 2, or mode = \"single\"",
                );
            }
            _ => {}
        }
        for (place, node) in nodes.iter().enumerate() {
            let before = nodes.get(..place).unwrap_or_default();
            let name = |node: &NodeSpec| node.id.clone().unwrap_or_else(|| node.name());
            if let Some(twin) = before
                .iter()
                .find(|other| other.target.is(&node.target) || name(other) == name(node))
            {
                return refuse(
                    format!("{} and {} are one node", name(twin), name(node)),
                    "Name each node once: two copies on one server are one",
                );
            }
        }
        Ok(())
    }
}
