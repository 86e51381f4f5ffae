//! The session handlers: what PHP's callbacks mean to `memring_pool::session`.
//!
//! Two names, one way of working. `memcache` keeps pecl-memcache's bytes on any list of
//! nodes until a mode is written; `memring` takes the same lists, and keeps copies
//! (`fenced`) where there is more than one node.

use crate::ffi::ini::{text, time_limit};
use crate::ffi::{memory, server};
use crate::ini::{self, Prefix};
use crate::registry;
use memring_pool::codec::{Compression, INFLATE_MAX};
use memring_pool::config::file::File;
use memring_pool::config::{Mode, NodeSpec, Policy, Schemes, Wish, save_path};
use memring_pool::error::{Error, Kind};
use memring_pool::lease;
use memring_pool::pool::Pool;
use memring_pool::replica::words::VALUE_LIFE_MAX;
use memring_pool::session::fenced::{self, Fenced};
use memring_pool::session::migrate::Migrating;
use memring_pool::session::{Sessions, Store, Terms, evictions};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

/// Which name stands in `session.save_handler`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Handler {
    /// `memring`.
    Memring,
    /// `memcache`, in place of pecl-memcache's.
    Memcache,
}

/// What one open session handler holds, from open to close.
pub(crate) struct Keeper {
    sessions: Box<dyn Store>,
    /// What it was opened for.
    wish: (Handler, Vec<u8>, Vec<u8>),
    /// The data read last, until PHP has copied them.
    data: Vec<u8>,
    /// The id made last in this request.
    made: Option<Vec<u8>>,
    /// A read was begun, and PHP has not got its value: what it would store is not the session.
    undelivered: bool,
}

thread_local! {
    /// What the settings said of the prefix of session keys when this request began, and the prefix.
    static RULE: RefCell<Option<Prefix>> = const { RefCell::new(None) };
    static PREFIX: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
    /// Notices that were logged.
    static TOLD: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// The prefix of session keys in this request: one for all of it, whatever the script makes of
/// `$_SERVER` or its settings (pecl-memcache: MMC_RINIT).
pub(crate) fn prefix() -> Vec<u8> {
    if let Some(known) = PREFIX.with_borrow(Clone::clone) {
        return known;
    }
    let rule = RULE.with_borrow(Clone::clone);
    let rule = rule.unwrap_or_else(|| ini::read(|values| values.session_prefix.clone()));
    let prefix = crate::pools::key_prefix(rule);
    PREFIX.set(Some(prefix.clone()));
    prefix
}

/// A request begins.
pub(crate) fn note_prefix() {
    RULE.set(Some(ini::read(|values| values.session_prefix.clone())));
}

/// Was this notice not logged yet by this process? A worker would say it with each page.
pub(crate) fn is_news(notice: &str) -> bool {
    /// A path that is another one each time must not fill the memory.
    const MOST: usize = 100;
    TOLD.with_borrow_mut(|told| {
        let news = told.len() < MOST && !told.iter().any(|text| text == notice);
        if news {
            told.push(notice.to_owned());
        }
        news
    })
}

/// The request is over.
pub(crate) fn forget_prefix() {
    RULE.take();
    PREFIX.take();
}

impl Keeper {
    /// Reads the list in `path` and makes a pool of it, without connecting; also what to
    /// say as notices.
    pub(crate) fn open(
        handler: Handler,
        path: &[u8],
        prefix: Vec<u8>,
    ) -> Result<(Keeper, Vec<String>), Error> {
        registry::join();
        let settings = ini::read(Clone::clone);
        let list = list(path);
        let opened_for = (handler, list.clone(), prefix.clone());
        let Wish {
            topology, notices, ..
        } = wish(handler, &list)?;
        let policy = topology.policy;
        // A prefix written in the pool file belongs to that pool, whoever uses it.
        let prefix = if policy.keys.prefix.is_empty() {
            prefix
        } else {
            policy.keys.prefix.clone()
        };
        let migrating = policy.migrating;
        let mut pool = Pool::new(policy);
        if pool.policy().mode == Mode::Single {
            // phpredis' placement goes by what stands behind it.
            pool.policy_mut().keys.prefix.clone_from(&prefix);
        }
        let limited = |spec: NodeSpec| {
            let mut spec = NodeSpec {
                connect_timeout: settings.connect_timeout.unwrap_or(spec.connect_timeout),
                op_timeout: settings.op_timeout.unwrap_or(spec.op_timeout),
                idle_limit: settings.persistent_idle.unwrap_or(spec.idle_limit),
                ..spec
            };
            spec.written.timeout |=
                settings.connect_timeout.is_some() || settings.op_timeout.is_some();
            spec
        };
        let usual = Policy {
            placement: settings.placement,
            hash: settings.hash,
            ..Policy::default()
        };
        let (old_nodes, old_policy) = match topology.old {
            _ if !migrating => (Vec::new(), usual),
            Some(old) => old.with_usual(usual),
            // Where pecl keeps them: on the same nodes, placed as the settings say.
            None => {
                let plain = topology.nodes.iter().cloned();
                let plain = plain.map(|spec| NodeSpec { id: None, ..spec });
                (plain.collect(), usual)
            }
        };
        let old_prefix = match &*old_policy.keys.prefix {
            [] => opened_for.2.clone(),
            own => own.to_vec(),
        };
        let mut old_pool = Pool::new(old_policy);
        old_pool.policy_mut().keys.prefix.clone_from(&old_prefix);
        registry::with(|nodes| {
            for spec in topology.nodes {
                pool.add(limited(spec), nodes);
            }
            for spec in old_nodes {
                old_pool.add(limited(spec), nodes);
            }
            let previous: Vec<_> = topology.previous.into_iter().map(limited).collect();
            pool.came_from(&previous, nodes);
        });
        let count = |n: i64| u32::try_from(n).unwrap_or(u32::MAX);
        let lock_timeout = count(settings.lock_timeout);
        let old_terms = Terms {
            copies: count(settings.session_copies),
            lock_timeout,
            attempts: count(settings.attempts),
            compression: Compression::new(settings.compress_threshold, crate::pools::SAVINGS)?,
            most: memory::left().map_or(INFLATE_MAX, |left| left.min(INFLATE_MAX)),
        };
        if !pool.policy().rules.is_empty() || pool.policy().backup > 0 {
            return Err(Error::new(
                Kind::Config,
                "a pool with prefixes or a backup is for caches",
            )
            .at("session.save_path")
            .hint("Write a pool of its own for sessions, with mode = \"fenced\""));
        }
        let mode = pool.policy().mode;
        let sessions: Box<dyn Store> = match mode {
            Mode::Single => Box::new(Sessions::new(pool, &prefix, old_terms)),
            mode @ (Mode::Sync | Mode::Async) => {
                return Err(Error::new(
                    Kind::Config,
                    format!("mode {} is for caches: it has no turns, so that two requests of one session would overwrite each other", mode.word()),
                )
                .at("session.save_path")
                .hint("Write mode = \"fenced\" in a pool of its own for sessions, or mode = \"single\""));
            }
            Mode::Fenced => {
                let lock = Duration::from_secs(u64::from(lock_timeout));
                let lease = lease::term(lock, time_limit());
                let terms = fenced::Terms::new(lock, lease);
                let fenced = Fenced::new(pool, &prefix, terms);
                if migrating {
                    let old = Sessions::new(old_pool, &old_prefix, old_terms);
                    Box::new(Migrating::new(old, fenced))
                } else {
                    Box::new(fenced)
                }
            }
        };
        let mut notices: Vec<String> = notices.iter().map(ToString::to_string).collect();
        if mode == Mode::Fenced && max_lifetime() > i64::from(VALUE_LIFE_MAX) {
            notices.push(format!(
                "copies of a session live {VALUE_LIFE_MAX} s at most (30 days less two minutes), and session.gc_maxlifetime is longer. Set it to that, or write mode=single"
            ));
        }
        Ok((
            Keeper {
                sessions,
                wish: opened_for,
                data: Vec::new(),
                made: None,
                undelivered: false,
            },
            notices,
        ))
    }

    /// True when an open with these would open the same again.
    pub(crate) fn serves(&self, handler: Handler, path: &[u8], prefix: &[u8]) -> bool {
        self.wish.0 == handler && self.wish.1 == list(path) && self.wish.2 == prefix
    }

    /// The data of session `id`, and the turn on it when `lock`; sessions live for `life` seconds.
    pub(crate) fn read(&mut self, id: &[u8], lock: bool, life: i64) -> Result<&[u8], Error> {
        self.undelivered = true;
        self.sessions.lives(seconds(life));
        self.data = match self.sessions.read(id, lock) {
            Err(error) if error.kind() == Kind::Epoch && self.catch_up() => {
                self.sessions.lives(seconds(life));
                self.sessions.read(id, lock)?
            }
            read => read?,
        };
        Ok(&self.data)
    }

    /// PHP has what was read.
    pub(crate) fn delivered(&mut self) {
        self.undelivered = false;
    }

    /// May what PHP has go over what is stored? Not after a read that failed, or that PHP broke off
    /// (memory_limit): it stores an empty session at the end all the same. Then the turn is given back.
    pub(crate) fn has_value(&mut self) -> bool {
        if self.undelivered {
            self.release();
        }
        !self.undelivered
    }

    /// Stores a changed session.
    pub(crate) fn write(&mut self, id: &[u8], data: &[u8], life: i64) -> Result<(), Error> {
        self.sessions.write(id, data, seconds(life))
    }

    /// Extends an unchanged session.
    pub(crate) fn touch(&mut self, id: &[u8], data: &[u8], life: i64) -> Result<(), Error> {
        self.sessions.touch(id, data, seconds(life))
    }

    /// Removes a session.
    pub(crate) fn destroy(&mut self, id: &[u8]) -> Result<(), Error> {
        self.sessions.destroy(id)
    }

    /// Notes an id that was made just now.
    pub(crate) fn made(&mut self, id: &[u8]) {
        self.made = Some(id.to_vec());
        self.sessions.made(id);
    }

    /// Gives a turn back that is still ours; the end of every session comes here.
    pub(crate) fn release(&mut self) {
        self.sessions.release();
    }

    /// Lines for the log since the last look.
    pub(crate) fn take_log(&mut self) -> Vec<String> {
        let mut log = self.sessions.take_log();
        // A script ends with its first session or two, and would ask each time.
        if !server::is_script() {
            log.append(&mut evictions(&mut *self.sessions));
        }
        log
    }

    /// Is there such a session, or may there be one?
    pub(crate) fn exists(&mut self, id: &[u8], lock: bool) -> bool {
        self.sessions.lives(seconds(max_lifetime()));
        let exists = self.sessions.exists(id, lock);
        if self.sessions.is_behind() && self.catch_up() {
            self.sessions.lives(seconds(max_lifetime()));
            return self.sessions.exists(id, lock);
        }
        exists
    }

    /// Opens anew with the pool file as it is now, since the pool's records are ahead of it.
    fn catch_up(&mut self) -> bool {
        let file = ini::read(|values| values.config_file.clone());
        registry::look_again(Path::new(OsStr::from_bytes(&file)));
        let (handler, list, prefix) = self.wish.clone();
        match Keeper::open(handler, &list, prefix) {
            Ok((mut opened, _)) => {
                opened.undelivered = self.undelivered;
                opened.made.clone_from(&self.made);
                if let Some(id) = &opened.made {
                    opened.sessions.made(id);
                }
                *self = opened;
                true
            }
            Err(_) => false,
        }
    }
}

/// The list that counts: the setting of our own, where it is not empty, before PHP's `path`.
pub(crate) fn list(path: &[u8]) -> Vec<u8> {
    let own = ini::read(|values| values.session_save_path.clone());
    if own.is_empty() { path.to_vec() } else { own }
}

/// What `list` asks for, as the session handler `handler` takes it.
pub(crate) fn wish(handler: Handler, list: &[u8]) -> Result<Wish, Error> {
    let list = std::str::from_utf8(list).map_err(|_| {
        Error::new(Kind::Config, "session.save_path is not UTF-8 text")
            .hint("Write host names and paths in ASCII")
    })?;
    let (file, allowed, placement, hash) = ini::read(|values| {
        (
            values.config_file.clone(),
            values.schemes.clone(),
            values.placement,
            values.hash,
        )
    });
    let schemes = schemes(&allowed)?;
    let mut wish = match list.trim() {
        // Without a server sessions are in the state directory, where a pool needs none.
        "" if handler == Handler::Memring && schemes.allow_embedded() => {
            Wish::embedded(&registry::state_dir())
        }
        _ => save_path::parse(list, &schemes, &|name| named(&file, name))?,
    };
    let policy = &mut wish.topology.policy;
    if wish.mode_written {
        return Ok(wish);
    }
    if handler == Handler::Memring && wish.topology.nodes.len() > 1 {
        wish.keep_copies()
            .map_err(|error| error.at("session.save_path"))?;
    } else if policy.mode == Mode::Single && !wish.placement_written {
        (policy.placement, policy.hash) = (placement, hash);
    }
    Ok(wish)
}

/// The file in `memring.config_file`; `None` where that is empty.
pub(crate) fn file() -> Result<Option<File>, Error> {
    let path = ini::read(|values| values.config_file.clone());
    if path.is_empty() {
        return Ok(None);
    }
    registry::pools(Path::new(OsStr::from_bytes(&path)), |file| Ok(file.clone())).map(Some)
}

/// The pool `name` of the file in `memring.config_file`.
pub(crate) fn named(config_file: &[u8], name: &str) -> Result<Wish, Error> {
    if config_file.is_empty() {
        return Err(Error::new(
            Kind::Config,
            format!("pool:{name} needs a file, and memring.config_file is empty"),
        )
        .hint("Set memring.config_file = /etc/memring.toml in php.ini"));
    }
    registry::pools(Path::new(OsStr::from_bytes(config_file)), |file| {
        file.wish(name)
    })
}

/// What `memring.allow_schemes` allows.
pub(crate) fn schemes(text: &[u8]) -> Result<Schemes, Error> {
    if text.is_empty() {
        Ok(Schemes::default())
    } else {
        Schemes::parse(&String::from_utf8_lossy(text))
    }
}

/// `session.gc_maxlifetime` at this moment, seconds.
fn max_lifetime() -> i64 {
    let text = text(c"session.gc_maxlifetime");
    let text = String::from_utf8_lossy(&text);
    text.trim().parse().unwrap_or_default()
}

fn seconds(life: i64) -> u32 {
    u32::try_from(life.max(0)).unwrap_or(u32::MAX)
}
