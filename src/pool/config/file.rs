//! The file behind `pool:NAME` (`memring.config_file`): pools by name, in TOML.
//!
//! ```toml
//! [pool.sessions]
//! nodes = ["memcached://10.0.0.1", "memcached://10.0.0.2", "memcached://10.0.0.3"]
//! mode = "fenced"
//! copies = 3
//! ```
//!
//! Read whole or refused whole: one mistake anywhere, and no pool of it is used; the
//! message names file, line and remedy. Connections of its pools are persistent unless a
//! node says `persistent=0`. What is for later (previous) is known by name and refused, so
//! that nobody believes it works.

mod rules;

use super::address::{Schemes, clean, masked, shown};
use super::{
    ALL, Entrance, HashFunction, Mode, NodeSpec, Placement, Policy, Protocol, Topology, Wish,
    options, placement, redis, save_path, sentinel, step,
};
use crate::codec::{Format, Layout, Serializer};
use crate::error::{Error, Kind};
use crate::item::{KeyRule, LongKeys};
use serde::Deserialize;
use std::collections::{BTreeMap, HashSet};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use toml::Spanned;

/// All pools of one file, each read whole.
#[derive(Clone, Debug)]
pub struct File {
    name: String,
    pools: BTreeMap<String, Wish>,
    /// Where each pool says its epoch, or where it begins.
    steps: BTreeMap<String, String>,
}

/// Largest file that is read, bytes: a pool file has a few hundred.
const SIZE_MAX: u64 = 1 << 20;
/// Longest `max_stale`, seconds: memcached takes more for a date (realtime(), memcached.c).
const STALE_MAX: u32 = 30 * 24 * 60 * 60;

/// Reads the file at `path`.
///
/// # Errors
/// `Kind::Config`: it cannot be read, is over 1 MiB, no UTF-8, no TOML, or holds what is
/// unknown or refused; each with file, line and what to write.
pub fn load(path: &Path) -> Result<File, Error> {
    let name = path.display().to_string();
    let unreadable = |cause: std::io::Error| {
        Error::new(
            Kind::Config,
            format!("memring.config_file cannot be read: {cause}"),
        )
        .at(&name)
        .hint("Let the user PHP runs as read it, or empty the setting")
    };
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() || about.len() > SIZE_MAX {
        return Err(Error::new(
            Kind::Config,
            "memring.config_file is no file, or one over 1 MiB",
        )
        .at(&name)
        .hint("Name a TOML file with [pool.NAME] sections"));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let before = error
            .as_bytes()
            .get(..error.utf8_error().valid_up_to())
            .unwrap_or_default();
        let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
        Error::new(Kind::Config, "this is no UTF-8 text")
            .at(&format!("{name}, line {line}"))
            .hint("Save the file as UTF-8")
    })?;
    let mut file = File::parse(&name, &text)?;
    if about.permissions().mode() & 0o004 != 0 {
        file.warn_of_readers();
    }
    Ok(file)
}

impl File {
    /// Reads `text`; `name` stands for the file in messages.
    ///
    /// # Errors
    /// `Kind::Config`, as [`load`].
    pub fn parse(name: &str, text: &str) -> Result<File, Error> {
        let at = |offset: usize| {
            let line = text
                .bytes()
                .take(offset)
                .filter(|byte| *byte == b'\n')
                .count()
                + 1;
            format!("{name}, line {line}")
        };
        let raw: RawFile = toml::from_str(text).map_err(|error| {
            let place = error
                .span()
                .map_or_else(|| name.to_owned(), |span| at(span.start));
            Error::new(Kind::Config, masked(error.message().trim_end()))
                .at(&place)
                .hint(SHAPE)
        })?;
        let (mut pools, mut steps) = (BTreeMap::new(), BTreeMap::new());
        for (pool, raw) in &raw.pool {
            let mut wish = raw
                .get_ref()
                .read(&at)
                .map_err(|error| match error.node() {
                    Some(_) => error,
                    None => error.at(&format!("{}: [pool.{}]", at(raw.span().start), clean(pool))),
                })?;
            wish.topology.policy.name.clone_from(pool);
            let step = raw.get_ref().epoch.as_ref().map(Spanned::span);
            steps.insert(pool.clone(), at(step.unwrap_or(raw.span()).start));
            pools.insert(pool.clone(), wish);
        }
        let own = pools.clone();
        let backups = raw.pool.iter().filter_map(|(name, raw)| {
            let backup = raw.get_ref().backup.as_ref()?;
            Some((name.as_str(), backup.get_ref().as_str()))
        });
        let backups: BTreeMap<&str, &str> = backups.collect();
        for (name, wish) in &mut pools {
            let from = raw
                .pool
                .get(name)
                .and_then(|raw| raw.get_ref().migrate_from.as_ref());
            if let Some(from) = from
                && let Some(old) = step::old_pool(from.get_ref())
            {
                step::migrate_pool(own.get(old), &mut wish.topology)
                    .map_err(|error| error.at(&at(from.span().start)))?;
            }
            let backup = raw
                .pool
                .get(name)
                .and_then(|raw| raw.get_ref().backup.as_ref());
            if let Some(backup) = backup {
                rules::back_up(wish, backup.get_ref(), &own)
                    .and_then(|()| rules::keep_apart(wish, &backups, &own))
                    .and_then(|()| {
                        let Topology { nodes, policy, .. } = &wish.topology;
                        placement::check(nodes, policy)
                    })
                    .map_err(|error| error.at(&at(backup.span().start)))?;
            }
        }
        if pools.is_empty() {
            return Err(Error::new(Kind::Config, "the file names no pool")
                .at(name)
                .hint(SHAPE));
        }
        Ok(File {
            name: name.to_owned(),
            pools,
            steps,
        })
    }

    /// Adds a notice to each pool that has a password, since everybody on the host can read it.
    fn warn_of_readers(&mut self) {
        for wish in self.pools.values_mut() {
            if wish.topology.nodes.iter().any(NodeSpec::has_written_secret) {
                let notice = Error::new(
                    Kind::Config,
                    "it holds a password, and every user of this host can read it",
                );
                wish.notices.push(
                    notice
                        .at(&self.name)
                        .hint("Take that away: chmod o-r, with the group of the user PHP runs as"),
                );
            }
        }
    }

    /// The pool of that name.
    ///
    /// # Errors
    /// `Kind::Config` when there is none, with the names there are.
    pub fn pool(&self, name: &str) -> Result<Topology, Error> {
        self.wish(name).map(|wish| wish.topology)
    }

    /// The pool of that name, with whether it wrote a mode and what was read otherwise.
    ///
    /// # Errors
    /// As [`File::pool`].
    pub fn wish(&self, name: &str) -> Result<Wish, Error> {
        self.pools.get(name).cloned().ok_or_else(|| {
            Error::new(
                Kind::Config,
                format!("there is no pool \"{}\"", clean(name)),
            )
            .at(&self.name)
            .hint(format!(
                "Write one of pool:{}",
                self.names().collect::<Vec<_>>().join(", pool:")
            ))
        })
    }

    /// May this file follow `before` in a running process?
    ///
    /// # Errors
    /// `Kind::Config`: a copied pool's epoch goes back, or its nodes changed without a step.
    pub(super) fn follows(&self, before: &File) -> Result<(), Error> {
        for (name, wish) in &self.pools {
            if let Some(before) = before.pools.get(name) {
                let place = self.steps.get(name).unwrap_or(&self.name);
                step::follows(&wish.topology, &before.topology)
                    .map_err(|error| error.at(&format!("{place}: [pool.{}]", clean(name))))?;
            }
        }
        Ok(())
    }

    /// The servers of this file that no pool of `other` names, or enters in the same way.
    pub(super) fn without(&self, other: &File) -> Vec<Entrance> {
        let entrances = |file: &File| -> HashSet<Entrance> {
            let pools = file.pools.values().map(|wish| &wish.topology);
            let nodes = pools.flat_map(|pool| pool.nodes.iter().chain(&pool.previous));
            nodes.map(Entrance::of).collect()
        };
        let (own, other) = (entrances(self), entrances(other));
        own.difference(&other).cloned().collect()
    }

    /// The names of all pools, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.pools.keys().map(String::as_str)
    }
}

const SHAPE: &str = "A pool is written as [pool.NAME] with nodes = [\"tcp://HOST:PORT\"] below";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    pool: BTreeMap<String, Spanned<RawPool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPool {
    nodes: Vec<Spanned<String>>,
    mode: Option<Spanned<String>>,
    placement: Option<Spanned<String>>,
    hash: Option<Spanned<String>>,
    protocol: Option<Spanned<String>>,
    key_prefix: Option<Spanned<String>>,
    long_keys: Option<Spanned<String>>,
    tag: Option<Spanned<String>>,
    migrate_from: Option<Spanned<String>>,
    epoch: Option<Spanned<i64>>,
    previous_nodes: Option<Spanned<Vec<Spanned<String>>>>,
    copies: Option<Spanned<toml::Value>>,
    backup: Option<Spanned<String>>,
    max_out: Option<Spanned<i64>>,
    max_stale: Option<Spanned<i64>>,
    session_life: Option<Spanned<i64>>,
    serializer: Option<Spanned<String>>,
    compression: Option<Spanned<String>>,
    codec: Option<Spanned<String>>,
    #[serde(default)]
    prefix: BTreeMap<String, Spanned<rules::RawRule>>,
    // Known by name only.
    previous: Option<Spanned<toml::Value>>,
}

impl RawPool {
    /// The pool; `at` names the place of an offset. An error without a node has no line of its own.
    fn read(&self, at: &dyn Fn(usize) -> String) -> Result<Wish, Error> {
        let later = [("previous", &self.previous)];
        for (name, value) in later {
            if let Some(value) = value {
                return Err(Error::new(
                    Kind::Config,
                    format!("{name} is not supported by this version"),
                )
                .at(&at(value.span().start))
                .hint("Take it out, write mode = \"single\""));
            }
        }
        let mut wish = Wish::default();
        wish.topology.policy = self.policy(at)?;
        if let Some(mode) = &self.mode {
            let place = |error: Error| error.at(&at(mode.span().start));
            wish.topology.policy.mode = options::read_mode(mode.get_ref()).map_err(place)?;
            wish.mode_written = true;
        }
        if let Some(copies) = &self.copies {
            wish.topology.policy.copies = Some(read_copies(copies, at)?);
        }
        if let Some(life) = &self.session_life {
            let place = |error: Error| error.at(&at(life.span().start));
            let life = options::read_session_life(*life.get_ref()).map_err(place)?;
            wish.topology.policy.session_life = Some(life);
        }
        wish.placement_written = self.placement.is_some();
        if self.placement.is_none() {
            wish.topology.policy.placement = save_path::usual_placement(wish.topology.policy.mode);
        }
        read_nodes(&self.nodes, at, &mut wish)?;
        if wish.topology.nodes.is_empty() {
            return Err(Error::new(Kind::Config, "nodes is empty")
                .hint("Write nodes = [\"tcp://127.0.0.1:11211\"]"));
        }
        wish.topology.policy.backup = usize::from(self.backup.is_some());
        wish.check()?;
        placement::check(&wish.topology.nodes, &wish.topology.policy)?;
        wish.topology.policy.max_out = self.read_max_out(at, &wish.topology)?;
        self.read_step(at, &mut wish)?;
        for nodes in [&wish.topology.previous, &wish.topology.drained] {
            sentinel::check(nodes, wish.topology.policy.mode)?;
        }
        placement::check(&wish.topology.previous, &wish.topology.policy)?;
        if let Some(from) = &self.migrate_from {
            step::migrate(from.get_ref(), &mut wish.topology)
                .map_err(|error| error.at(&at(from.span().start)))?;
        }
        wish.topology.policy.rules = rules::read(&self.prefix, &wish.topology, at)?;
        step::check_rules(&wish.topology)?;
        wish.topology.policy.max_stale = self.read_max_stale(at, &wish.topology.policy)?;
        // Now that all else of the pool is known, too.
        wish.topology.check_embedded()?;
        redis::check(&wish.topology)?;
        Ok(wish)
    }

    /// How many failed nodes may be left alone: never all of them.
    fn read_max_out(
        &self,
        at: &dyn Fn(usize) -> String,
        topology: &Topology,
    ) -> Result<Option<usize>, Error> {
        let Some(said) = &self.max_out else {
            return Ok(None);
        };
        let refuse = |cause: &str, hint| refuse(at, said, cause, hint);
        if topology.policy.mode == Mode::Single {
            return refuse(
                "max_out needs a mode with copies",
                "In mode single a failed node is left alone for its retry_interval",
            );
        }
        let most = topology.nodes.len() - 1;
        match usize::try_from(*said.get_ref()) {
            Ok(count) if count <= most => Ok(Some(count)),
            _ => refuse(
                &format!("max_out is a number from 0 to {most} here, so that one node is left"),
                "Leave it out for fewer than half of the nodes",
            ),
        }
    }

    /// How long a copy lives that follows the answer.
    fn read_max_stale(
        &self,
        at: &dyn Fn(usize) -> String,
        policy: &Policy,
    ) -> Result<Option<u32>, Error> {
        let Some(said) = &self.max_stale else {
            return Ok(None);
        };
        let refuse = |cause: &str, hint| refuse(at, said, cause, hint);
        let mut modes = policy.rules.iter().filter_map(|rule| rule.mode);
        if policy.mode != Mode::Async && !modes.any(|mode| mode == Mode::Async) {
            return refuse(
                "max_stale needs mode = \"async\", for the pool or for a prefix",
                "Leave it out: in other modes no write ends before its copies are told",
            );
        }
        match u32::try_from(*said.get_ref()) {
            Ok(seconds) if (1..=STALE_MAX).contains(&seconds) => Ok(Some(seconds)),
            _ => refuse(
                &format!("max_stale is a number of seconds from 1 to {STALE_MAX}"),
                "Leave it out for copies that live as long as their values",
            ),
        }
    }

    /// The epoch, and which nodes there were before it.
    fn read_step(&self, at: &dyn Fn(usize) -> String, wish: &mut Wish) -> Result<(), Error> {
        if let Some(epoch) = &self.epoch {
            let number = u32::try_from(*epoch.get_ref()).map_err(|_| {
                Error::new(Kind::Config, "epoch is a number from 0 to 4294967295")
                    .at(&at(epoch.span().start))
                    .hint("Write one more than the last one, or leave it out")
            })?;
            wish.topology.policy.epoch = number;
        }
        let mut place = None;
        if let Some(previous) = &self.previous_nodes {
            place = Some(at(previous.span().start));
            let mut before = Wish::default();
            read_nodes(previous.get_ref(), at, &mut before)?;
            wish.notices.append(&mut before.notices);
            wish.topology.previous = before.topology.nodes;
            wish.topology.previous.append(&mut before.topology.drained);
        } else if !wish.topology.drained.is_empty() {
            let Topology { nodes, drained, .. } = &wish.topology;
            wish.topology.previous = nodes.iter().chain(drained).cloned().collect();
        }
        step::check(&wish.topology).map_err(|error| match place {
            Some(place) => error.at(&place),
            None => error,
        })
    }

    fn policy(&self, at: &dyn Fn(usize) -> String) -> Result<Policy, Error> {
        let placement = word(
            &self.placement,
            "placement",
            at,
            &Placement::ALL.map(|one| (one.word(), one)),
        )?;
        let tag = match &self.tag {
            None => None,
            Some(tag) => match tag.get_ref().as_bytes() {
                [open, close] => Some([*open, *close]),
                _ => {
                    return Err(Error::new(Kind::Config, "tag is not two ASCII characters")
                        .at(&at(tag.span().start))
                        .hint("Write tag = \"{}\""));
                }
            },
        };
        let prefix = match &self.key_prefix {
            None => Vec::new(),
            // Leave room for the key itself: the protocol takes 250 bytes of both.
            Some(prefix) if prefix.get_ref().len() > options::PREFIX_MAX => {
                return Err(
                    Error::new(Kind::Config, "key_prefix is longer than 128 bytes")
                        .at(&at(prefix.span().start))
                        .hint("Write a shorter one"),
                );
            }
            Some(prefix) => prefix.get_ref().as_bytes().to_vec(),
        };
        Ok(Policy {
            protocol: word(
                &self.protocol,
                "protocol",
                at,
                &[("ascii", Protocol::Ascii), ("binary", Protocol::Binary)],
            )?,
            placement,
            hash: word(
                &self.hash,
                "hash",
                at,
                &[("crc32", HashFunction::Crc32), ("fnv", HashFunction::Fnv)],
            )?,
            keys: KeyRule {
                prefix,
                long: word(
                    &self.long_keys,
                    "long_keys",
                    at,
                    &[("hash", LongKeys::Hash), ("cut", LongKeys::Cut)],
                )?,
            },
            tag,
            format: self.format(at)?,
            ..Policy::default()
        })
    }

    /// How values are written.
    fn format(&self, at: &dyn Fn(usize) -> String) -> Result<Format, Error> {
        let layout = word(&self.codec, "codec", at, &Layout::WORDS)?;
        let serializer = word(&self.serializer, "serializer", at, &Serializer::WORDS)?;
        let Some(compression) = &self.compression else {
            return Ok(Format {
                layout,
                serializer,
                ..Format::default()
            });
        };
        let format = Format {
            layout,
            serializer,
            stream: word(&self.compression, "compression", at, &Format::STREAMS)?,
        };
        format
            .check()
            .map_err(|error| error.at(&at(compression.span().start)))
    }
}

/// Adds the nodes of one list to `wish`.
fn read_nodes(
    nodes: &[Spanned<String>],
    at: &dyn Fn(usize) -> String,
    wish: &mut Wish,
) -> Result<(), Error> {
    for node in nodes {
        let place = |error: Error| {
            error.at(&format!(
                "{} (\"{}\")",
                at(node.span().start),
                shown(node.get_ref())
            ))
        };
        let before = wish.notices.len();
        // allow_schemes bounds what PHP code may open; the file is the administrator's.
        save_path::one(node.get_ref(), &Schemes::default(), wish, true).map_err(place)?;
        for notice in wish.notices.get_mut(before..).unwrap_or_default() {
            *notice = place(notice.clone());
        }
    }
    Ok(())
}

/// A number of copies, or "all".
fn read_copies(
    copies: &Spanned<toml::Value>,
    at: &dyn Fn(usize) -> String,
) -> Result<usize, Error> {
    match copies.get_ref() {
        toml::Value::Integer(number) => Ok(usize::try_from(*number).unwrap_or(0)),
        toml::Value::String(word) if word == "all" => Ok(ALL),
        _ => refuse(
            at,
            copies,
            "copies is neither a number nor \"all\"",
            "Write copies = 2, or copies = \"all\"",
        ),
    }
}

/// What is wrong with a value, at its line.
fn refuse<T, R>(
    at: &dyn Fn(usize) -> String,
    said: &Spanned<T>,
    cause: &str,
    hint: &str,
) -> Result<R, Error> {
    let error = Error::new(Kind::Config, cause).at(&at(said.span().start));
    Err(error.hint(hint))
}

/// What the word in `field` stands for, its default when it is not written.
fn word<T: Copy + Default>(
    value: &Option<Spanned<String>>,
    field: &str,
    at: &dyn Fn(usize) -> String,
    words: &[(&str, T)],
) -> Result<T, Error> {
    let Some(value) = value else {
        return Ok(T::default());
    };
    if let Some((_, meaning)) = words.iter().find(|(name, _)| name == value.get_ref()) {
        return Ok(*meaning);
    }
    let known: Vec<_> = words.iter().map(|(name, _)| *name).collect();
    Err(Error::new(
        Kind::Config,
        format!("{field} \"{}\" is unknown", clean(value.get_ref())),
    )
    .at(&at(value.span().start))
    .hint(format!(
        "Write {field} = one of \"{}\"",
        known.join("\", \"")
    )))
}

#[cfg(test)]
#[path = "file_tests.rs"]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::expect_used,
    reason = "tests may stop at the first surprise"
)]
mod tests;
