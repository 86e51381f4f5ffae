//! The words behind a command: which pools are meant, and what they are made of.
//!
//! Pools come from the file that `memring.config_file` names to PHP, or from a list as it
//! stands in `session.save_path`. Only copied pools have anything to tend, and only those of
//! sessions have records.

use crate::Stop;
use lexopt::prelude::*;
use memring_pool::config::file::{self, File};
use memring_pool::config::{Mode, Rule, Schemes, Topology, Wish, masked, save_path};
use memring_pool::error::{Error, Kind};
use memring_pool::lease;
use memring_pool::replica::record_key;
use memring_pool::shared;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Where the file lies unless told otherwise.
const CONFIG: &str = "/etc/memring.toml";

/// The part of the help that all commands share.
macro_rules! which_pools {
    () => {
        "\
  --config FILE     the file with [pool.NAME] sections, as memring.config_file names it to PHP
                    (without it and without --list: /etc/memring.toml)
  --list SAVE_PATH  a list as it stands in session.save_path; may be given more than once
  POOL              pools of the file by name; without any, all whose mode is fenced"
    };
}
pub(crate) use which_pools;

/// What was asked for, as it was written.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    config: Option<PathBuf>,
    lists: Vec<String>,
    pools: Vec<String>,
    /// Passes now, then the end (tend).
    pub(crate) once: bool,
    /// For machines (status).
    pub(crate) json: bool,
    /// Between two looks (tend).
    pub(crate) interval: Duration,
    /// After which a request that has a session loses its turn (commit).
    pub(crate) lease: Duration,
    /// Where this user's processes share what they know of nodes (tend).
    pub(crate) state_dir: PathBuf,
}

/// A copied pool to be looked after.
#[derive(Clone, Debug)]
pub(crate) struct Kept {
    /// "pool NAME", or "the list".
    pub(crate) label: String,
    /// What a person writes to mean this pool: "NAME", or "--list 'LIST'".
    pub(crate) written: String,
    /// Its name in the file.
    pub(crate) name: Option<String>,
    /// Its nodes, and what holds for all of them.
    pub(crate) topology: Topology,
    /// The key of its nodes' records.
    pub(crate) record_key: Vec<u8>,
}

impl Asked {
    /// Reads the words; `known` are the options of this command beside those for the pools.
    ///
    /// # Errors
    /// `Usage` for words that are unknown or have no meaning.
    pub(crate) fn read(mut parser: lexopt::Parser, known: &[&str]) -> Result<Asked, Stop> {
        let mut asked = Asked {
            config: None,
            lists: Vec::new(),
            pools: Vec::new(),
            once: false,
            json: false,
            interval: Duration::from_secs(1),
            lease: lease::MOST,
            state_dir: shared::default_dir(),
        };
        while let Some(word) = parser.next()? {
            match word {
                Long("config") => asked.config = Some(PathBuf::from(parser.value()?)),
                Long("list") => asked.lists.push(parser.value()?.string()?),
                Long("once") if known.contains(&"once") => asked.once = true,
                Long("json") if known.contains(&"json") => asked.json = true,
                Long("interval") if known.contains(&"interval") => {
                    let text = parser.value()?.string()?;
                    asked.interval = seconds("interval", &text, [0.05, 3600.0, 1.0])?;
                }
                Long("lease") if known.contains(&"lease") => {
                    let text = parser.value()?.string()?;
                    let least = lease::LEAST.as_secs_f64();
                    asked.lease = seconds("lease", &text, [least, 86_400.0, 300.0])?;
                }
                Long("state-dir") if known.contains(&"state-dir") => {
                    asked.state_dir = PathBuf::from(parser.value()?);
                }
                Value(name) => {
                    let name = name.string()?;
                    let name = name.strip_prefix("pool:").unwrap_or(&name);
                    asked.pools.push(name.to_owned());
                }
                _ => return Err(word.unexpected().into()),
            }
        }
        Ok(asked)
    }

    /// Was a pool named?
    pub(crate) fn names_pools(&self) -> bool {
        !self.pools.is_empty() || !self.lists.is_empty()
    }

    /// The file that is read, if one is.
    pub(crate) fn file(&self) -> Option<&Path> {
        let named = self.config.as_deref();
        let asks_for_one = self.lists.is_empty()
            || !self.pools.is_empty()
            || self.lists.iter().any(|list| is_named(list));
        named.or(asks_for_one.then_some(Path::new(CONFIG)))
    }

    /// The pools of sessions that are meant, each once.
    ///
    /// # Errors
    /// `Wish` when the file or a list cannot be used, or a pool has no records.
    pub(crate) fn kept(&self) -> Result<Vec<Kept>, Stop> {
        self.copied(false)
    }

    /// The same, and the caches with copies.
    ///
    /// # Errors
    /// `Wish` when the file or a list cannot be used, or a pool keeps no copies.
    pub(crate) fn tended(&self) -> Result<Vec<Kept>, Stop> {
        self.copied(true)
    }

    fn copied(&self, caches: bool) -> Result<Vec<Kept>, Stop> {
        let file = match self.file() {
            Some(path) => Some(self.load(path)?),
            None => None,
        };
        let mut kept = Vec::new();
        // A file beside "pool:NAME" is there to look that name up.
        let looked_up = self.lists.iter().any(|list| is_named(list));
        let whole = self.lists.is_empty() || self.config.is_some() && !looked_up;
        if let Some(file) = file.as_ref().filter(|_| whole || !self.pools.is_empty()) {
            self.named(file, caches, &mut kept)?;
        }
        for (number, list) in (1..).zip(&self.lists) {
            let label = match self.lists.len() {
                1 => "the list".to_owned(),
                _ => format!("list {number}"),
            };
            let pool = listed(label, list, file.as_ref())?;
            let again = |other: &Kept| pool.name.is_some() && other.name == pool.name;
            if !kept.iter().any(again) {
                kept.push(pool);
            }
        }
        Ok(kept)
    }

    fn load(&self, path: &Path) -> Result<File, Stop> {
        if self.config.is_none() && !path.exists() {
            return Err(Stop::Wish(format!(
                "{CONFIG}: there is no such file. Name one by --config FILE, or a list by --list SAVE_PATH"
            )));
        }
        file::load(path).map_err(refused)
    }

    fn named(&self, file: &File, caches: bool, kept: &mut Vec<Kept>) -> Result<(), Stop> {
        let given = self.file().unwrap_or(Path::new(CONFIG)).display();
        let all = self.pools.is_empty();
        let names: BTreeSet<&str> = match all {
            true => file.names().collect(),
            false => self.pools.iter().map(String::as_str).collect(),
        };
        for name in names {
            let topology = file.pool(name).map_err(refused)?;
            let policy = &topology.policy;
            let copies = |rule: &Rule| rule.mode.is_some_and(|mode| mode != Mode::Single);
            let is_cache = policy.mode != Mode::Single || policy.rules.iter().any(copies);
            if policy.mode == Mode::Fenced || caches && is_cache {
                kept.push(Kept {
                    label: format!("pool {name}"),
                    written: name.to_owned(),
                    name: Some(name.to_owned()),
                    topology,
                    record_key: record_key(Some(name)),
                });
            } else if !all && is_cache {
                return Err(Stop::Wish(format!(
                    "{given}: pool \"{name}\" is a cache, whose nodes have no records. memring tend and memring status know it; name a pool with mode = \"fenced\" here"
                )));
            } else if !all {
                return Err(Stop::Wish(format!(
                    "{given}: pool \"{name}\" keeps no copies, so there is nothing to do for it. Write mode = \"fenced\" there, or name another pool"
                )));
            }
        }
        if kept.is_empty() && self.lists.is_empty() {
            return Err(Stop::Wish(format!(
                "{given}: no pool keeps copies, so there is nothing to do. Write mode = \"fenced\" in a [pool.NAME] section"
            )));
        }
        Ok(())
    }
}

/// Does this list stand for a pool of the file?
fn is_named(list: &str) -> bool {
    list.trim().starts_with("pool:")
}

/// A pool given as a list, or as `pool:NAME` in its place.
fn listed(label: String, list: &str, file: Option<&File>) -> Result<Kept, Stop> {
    let named = |name: &str| -> Result<Wish, Error> {
        match file {
            Some(file) => file.wish(name),
            None => {
                Err(Error::new(Kind::Config, "no file is named").hint("Name it by --config FILE"))
            }
        }
    };
    let of_list = |error: Error| Stop::Wish(format!("--list: {error}"));
    let mut wish = save_path::parse(list, &Schemes::default(), &named).map_err(of_list)?;
    // As the session handler memring takes a list that says nothing of it.
    if !wish.mode_written {
        wish.keep_copies().map_err(of_list)?;
    }
    if wish.topology.policy.mode != Mode::Fenced {
        return Err(Stop::Wish(format!(
            "--list \"{}\" keeps no copies, so there is nothing to do for it. Write mode=fenced in it, or leave the mode out",
            masked(list)
        )));
    }
    let name = Some(wish.topology.policy.name.clone()).filter(|name| !name.is_empty());
    Ok(Kept {
        label: name.as_ref().map_or(label, |name| format!("pool {name}")),
        written: name.clone().unwrap_or_else(|| open(list)),
        record_key: record_key(name.as_deref()),
        topology: wish.topology,
        name,
    })
}

/// A list as a person wrote it; one that may hold a secret is not told.
fn open(list: &str) -> String {
    match masked(list) == list {
        true => format!("--list '{list}'"),
        false => "--list '…'".to_owned(),
    }
}

fn refused(error: Error) -> Stop {
    Stop::Wish(error.to_string())
}

/// The seconds behind an option: from `least` to `most`, as `example` would be.
fn seconds(option: &str, text: &str, [least, most, example]: [f64; 3]) -> Result<Duration, Stop> {
    text.parse()
        .ok()
        .filter(|seconds| (least..=most).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| {
            Stop::Usage(format!(
                "--{option} takes seconds from {least} to {most}, \"{text}\" is not. Write --{option} {example}"
            ))
        })
}
