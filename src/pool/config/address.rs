//! Where a node is: scheme, host and port out of the text people write.
//!
//! | written | means |
//! |---|---|
//! | `h`, `tcp://h`, `memcached://h`, `memcache://h` | TCP, with or without `:port` |
//! | `[::1]`, `::1` | an IPv6 address; a port needs the brackets |
//! | `unix:///path`, `unix:/path`, `file:///path` | a unix socket; `:0` behind it is dropped |
//! | `memcached://USER:PASSWORD@h` | the same, to a memcached that wants to know who we are |
//! | `embedded:///dir` | no server: a database in that directory |
//! | `redis://h`, `redis://USER:PASSWORD@h/DATABASE` | TCP to a Redis or Valkey |
//! | `redis-cluster://h,h/`, `rediss-cluster://h,h/` | a Redis Cluster, which is a whole pool ([`super::cluster`]) |
//! | `memcacheds://`, `tls://` and `ssl://`, `rediss://` | the same in TLS |
//! | `redis-sentinel://USER:PASSWORD@h,h,h/NAME`, `rediss-sentinel://` | the same, wherever Sentinels say it is |
//! | `udp://` | reserved, refused |
//!
//! The text pecl's rings hash is kept apart from where to connect: `tcp://h` given to
//! addServer is hashed with its scheme, as pecl-memcache does.

use super::options::decode;
use super::shown::may_hold_secrets;
pub(super) use super::shown::{clean, masked, shown};
use super::{
    DEFAULT_PORT, EMBEDDED_SIZE, Login, NodeSpec, Place, REDIS_PORT, Redis, Secret, Target, Tls,
    Watched, login, options, sentinel,
};
use crate::error::{Error, Kind};
use std::net::Ipv6Addr;

/// What addServer and save_path may open (`memring.allow_schemes`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Schemes {
    tcp: bool,
    memcached: bool,
    unix: bool,
    redis: bool,
    tls: bool,
    memcacheds: bool,
    rediss: bool,
    embedded: bool,
}

/// What a list of them may hold, for messages.
const WORDS: &str = "Write some of tcp, memcached, unix, redis, tls, memcacheds, rediss, embedded, separated by commas";

impl Default for Schemes {
    /// All that this version speaks.
    fn default() -> Schemes {
        Schemes {
            tcp: true,
            memcached: true,
            unix: true,
            redis: true,
            tls: true,
            memcacheds: true,
            rediss: true,
            embedded: true,
        }
    }
}

impl Schemes {
    /// Reads a list such as `tcp,unix`; a host without a scheme counts as `tcp`.
    ///
    /// # Errors
    /// `Kind::Config` for a word that is no scheme of this version, and for an empty list.
    pub fn parse(list: &str) -> Result<Schemes, Error> {
        let mut allowed = Schemes {
            tcp: false,
            memcached: false,
            unix: false,
            redis: false,
            tls: false,
            memcacheds: false,
            rediss: false,
            embedded: false,
        };
        let words = list
            .split(|c: char| c == ',' || c.is_whitespace())
            .filter(|word| !word.is_empty());
        let mut any = false;
        for word in words {
            match word {
                "tcp" => allowed.tcp = true,
                "memcached" | "memcache" => allowed.memcached = true,
                "unix" | "file" => allowed.unix = true,
                "redis" => allowed.redis = true,
                "tls" | "ssl" => allowed.tls = true,
                "memcacheds" => allowed.memcacheds = true,
                "rediss" => allowed.rediss = true,
                "embedded" => allowed.embedded = true,
                other => {
                    return Err(Error::new(
                        Kind::Config,
                        format!(
                            "memring.allow_schemes: \"{}\" is not supported by this version",
                            clean(other)
                        ),
                    )
                    .hint(WORDS));
                }
            }
            any = true;
        }
        if any {
            Ok(allowed)
        } else {
            Err(Error::new(
                Kind::Config,
                "memring.allow_schemes is empty, so that no server could be used",
            )
            .hint(WORDS))
        }
    }
}

impl Schemes {
    /// May nodes without a server be used?
    pub fn allow_embedded(&self) -> bool {
        self.embedded
    }

    /// Checks that Redis nodes may be opened, however it was written that a node is one.
    ///
    /// # Errors
    /// `Kind::Config` with the word to add.
    pub(super) fn check_redis(&self, tls: bool) -> Result<(), Error> {
        let (word, allowed) = match tls {
            true => ("rediss", self.rediss),
            false => ("redis", self.redis),
        };
        if allowed {
            return Ok(());
        }
        Err(Error::new(
            Kind::Config,
            format!("a Redis node is meant, and {word} is not among memring.allow_schemes"),
        )
        .hint(format!("Add {word} to memring.allow_schemes in php.ini")))
    }
}

/// An address as written, its scheme already judged.
#[derive(Debug, PartialEq)]
pub(super) struct Address<'a> {
    /// The scheme as written, empty when there is none.
    pub scheme: &'a str,
    /// Host as written (brackets kept) or the path of a socket.
    pub host: &'a str,
    /// The port, when one is written.
    pub port: Option<u16>,
    /// True for a path: a unix socket, or the directory of an embedded node.
    pub unix: bool,
    /// How the node is entered, of a `redis://`.
    pub redis: Option<Redis>,
    /// Who we are at a memcached.
    pub login: Option<Login>,
    /// True where the scheme asks for TLS.
    pub tls: bool,
    /// Which master is meant, of a `redis-sentinel://`.
    pub watched: Option<Watched>,
}

/// Splits `text`, which is what stands before any `?`.
///
/// # Errors
/// `Kind::Config`: a scheme that is unknown, unsupported or not allowed; no host; a port
/// that is none; a password before a memcached; a path behind its port; a socket path that does not fit.
pub(super) fn parse<'a>(text: &'a str, allowed: &Schemes) -> Result<Address<'a>, Error> {
    let refuse = |cause: String, hint: String| Err(Error::new(Kind::Config, cause).hint(hint));
    let (scheme, rest) = match text.split_once("://") {
        Some((scheme, rest)) => (scheme, rest),
        None => match text.split_once(':') {
            // "unix:/path" has one slash, or, as php-memcached takes it, is a path alone.
            Some((scheme @ ("unix" | "file"), rest)) => (scheme, rest),
            _ => ("", text),
        },
    };
    let lower = scheme.to_ascii_lowercase();
    let (unix, permitted) = match lower.as_str() {
        "" | "tcp" => (false, allowed.tcp),
        "memcached" | "memcache" => (false, allowed.memcached),
        "unix" | "file" => (true, allowed.unix),
        "embedded" => (true, allowed.embedded),
        "redis" | sentinel::SCHEME => (false, allowed.redis),
        "redis-cluster" | "rediss-cluster" => return Err(super::cluster::alone()),
        "tls" | "ssl" => (false, allowed.tls),
        "memcacheds" => (false, allowed.memcacheds),
        "rediss" | sentinel::SCHEME_TLS => (false, allowed.rediss),
        "udp" => {
            return refuse(
                format!("{scheme}:// is not supported by this version"),
                "Write tcp://HOST:PORT or unix:///PATH of a memcached".to_owned(),
            );
        }
        _ => {
            return refuse(
                format!("{}:// is no scheme known here", clean(scheme)),
                "Write tcp://HOST:PORT or unix:///PATH of a memcached".to_owned(),
            );
        }
    };
    if !permitted {
        let name = match scheme {
            "" => "tcp",
            _ if lower == sentinel::SCHEME => "redis",
            _ if lower == sentinel::SCHEME_TLS => "rediss",
            scheme => scheme,
        };
        return refuse(
            format!("{name}:// is not among memring.allow_schemes"),
            format!("Add {name} to memring.allow_schemes in php.ini"),
        );
    }
    let at_path = |host| Address {
        scheme,
        host,
        port: None,
        unix,
        redis: None,
        login: None,
        tls: false,
        watched: None,
    };
    if scheme.eq_ignore_ascii_case("embedded") {
        let path = rest.strip_suffix(":0").unwrap_or(rest);
        if !path.starts_with('/') || path.contains('\0') || path.len() > 3000 {
            return refuse(
                format!("\"{}\" is no directory from / on", clean(path)),
                "Write embedded:///DIRECTORY with three slashes".to_owned(),
            );
        }
        return Ok(at_path(path));
    }
    if unix {
        let path = rest.strip_suffix(":0").unwrap_or(rest);
        // 108 bytes hold a path and its final NUL (sockaddr_un, unix(7)).
        if path.is_empty() || path.len() > 107 || path.contains('\0') {
            return refuse(
                format!(
                    "a socket path has 1 to 107 bytes, \"{}\" does not",
                    clean(path)
                ),
                "Write unix:///run/memcached/memcached.sock".to_owned(),
            );
        }
        return Ok(at_path(path));
    }
    if sentinel::is_scheme(&lower) {
        let (redis, watched) = sentinel::parse(rest)?;
        return Ok(Address {
            scheme,
            host: "",
            port: None,
            unix,
            redis: Some(redis),
            watched: Some(watched),
            login: None,
            tls: lower == sentinel::SCHEME_TLS,
        });
    }
    let (redis, login, rest) = if lower.starts_with("redis") {
        let (redis, rest) = redis_of(rest)?;
        (Some(redis), None, rest)
    } else {
        match rest.rsplit_once('@') {
            // The text is not repeated: what stands before the @ may be a password.
            Some(_) if scheme.is_empty() => {
                return refuse(
                    "a user or a password before a host needs a scheme before both".to_owned(),
                    "Write redis://USER:PASSWORD@HOST or memcached://USER:PASSWORD@HOST".to_owned(),
                );
            }
            Some((who, rest)) => {
                let (user, password) = who_of(who);
                (None, Some(Login::read(user, password)?), rest)
            }
            None => (None, None, rest),
        }
    };
    let rest = rest.strip_suffix('/').unwrap_or(rest);
    let behind = format!("{lower}://");
    let secret = may_hold_secrets(&lower).then_some(behind.as_str());
    let (host, port) = server(rest, secret, default_port(redis.as_ref()))?;
    Ok(Address {
        scheme,
        host,
        port,
        unix,
        redis,
        login,
        tls: matches!(lower.as_str(), "tls" | "ssl" | "memcacheds" | "rediss"),
        watched: None,
    })
}

/// Host and port of one server, as written. `secret` is the scheme of a node that has passwords:
/// what is wrong with it may be one whose host was forgotten, and is not repeated. `usual` is the
/// port of who names none.
///
/// # Errors
/// `Kind::Config`: no host, or a port that is none.
pub(super) fn server<'a>(
    text: &'a str,
    secret: Option<&str>,
    usual: u16,
) -> Result<(&'a str, Option<u16>), Error> {
    let refuse = |cause: String, hint: String| Err(Error::new(Kind::Config, cause).hint(hint));
    let (host, port) = split_port(text);
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let plausible = match bare {
        Some(inner) => {
            inner.parse::<Ipv6Addr>().is_ok()
                || inner
                    .split_once('%')
                    .is_some_and(|(inner, _)| inner.parse::<Ipv6Addr>().is_ok())
        }
        None => {
            !host.is_empty()
                && !host.contains(|c: char| {
                    c.is_whitespace() || c.is_control() || "/[]?#,;\\\"".contains(c)
                })
                && (!host.contains(':') || host.parse::<Ipv6Addr>().is_ok())
        }
    };
    if !plausible {
        let cause = match secret {
            _ if host.is_empty() => "no host is named".to_owned(),
            Some(scheme) => format!("what stands behind {scheme} is no host"),
            None => format!("\"{}\" is no host", clean(host)),
        };
        let scheme = secret.unwrap_or("tcp://");
        let hint = format!("Write {scheme}HOST:PORT, with an IPv6 address in brackets");
        return refuse(cause, hint);
    }
    let Some(port) = port else {
        return Ok((host, None));
    };
    match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => {
            Ok((host, Some(number)))
        }
        _ => {
            let (port, example) = match secret {
                None => (
                    format!("\"{}\" is no port", clean(port)),
                    format!("{host}:{DEFAULT_PORT}"),
                ),
                Some(scheme) => (
                    "what stands behind the colon is no port".to_owned(),
                    format!("{scheme}HOST:{usual}, or {scheme}USER:PASSWORD@HOST"),
                ),
            };
            refuse(
                format!("{port}, which is a number from 1 to 65535"),
                format!("Write {example}"),
            )
        }
    }
}

/// What stands before the hosts of a Redis: `USER:PASSWORD@`; and the rest.
///
/// # Errors
/// `Kind::Config` for a variable of the environment that is not there.
pub(super) fn entered(rest: &str) -> Result<(Redis, &str), Error> {
    let mut redis = Redis::default();
    let Some((who, rest)) = rest.rsplit_once('@') else {
        return Ok((redis, rest));
    };
    let (user, password) = who_of(who);
    if !user.is_empty() {
        redis.user = Some(login::read(user)?);
    }
    if !password.is_empty() {
        redis.password = Some(Secret::read(password)?);
    }
    Ok((redis, rest))
}

/// User and password of a URL, each empty where it is not written.
fn who_of(who: &str) -> (String, String) {
    let (user, password) = who.split_once(':').unwrap_or((who, ""));
    // Of a URL, where only a form's "+" is a blank.
    let plain = |text: &str| decode(&text.replace('+', "%2B"));
    (plain(user), plain(password))
}

/// What stands around the host of a `redis://`: `USER:PASSWORD@` before it, `/DATABASE` behind.
fn redis_of(rest: &str) -> Result<(Redis, &str), Error> {
    let (mut redis, rest) = entered(rest)?;
    match rest.split_once('/') {
        Some((host, "")) => Ok((redis, host)),
        Some((host, database)) => {
            redis.database = self::database(database)?;
            Ok((redis, host))
        }
        None => Ok((redis, rest)),
    }
}

/// The number of a database.
///
/// # Errors
/// `Kind::Config` when it is none.
pub(super) fn database(text: &str) -> Result<u32, Error> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(number) if digits => Ok(number),
        _ => Err(Error::new(
            Kind::Config,
            format!(
                "\"{}\" is no database, which is a number from 0",
                clean(text)
            ),
        )
        .hint("Write redis://HOST/2 for database 2")),
    }
}

/// The port of a node that names none.
fn default_port(redis: Option<&Redis>) -> u16 {
    redis.map_or(DEFAULT_PORT, |_| REDIS_PORT)
}

/// Host and port of `h:1`, `[::1]:1`, `h`, `[::1]`, `::1`.
fn split_port(text: &str) -> (&str, Option<&str>) {
    if text.starts_with('[') {
        return match text.rsplit_once("]:") {
            Some((host, port)) => (text.get(..=host.len()).unwrap_or(text), Some(port)),
            None => (text, None),
        };
    }
    match text.split_once(':') {
        Some((host, port)) if !port.contains(':') => (host, Some(port)),
        _ => (text, None),
    }
}

impl Address<'_> {
    /// The node with pecl-memcache's defaults. `hashed` is the text its rings see as the host.
    fn node(&self, hashed: String, port: u16) -> NodeSpec {
        let mut node = NodeSpec::tcp(&hashed, port);
        node.redis.clone_from(&self.redis);
        node.login.clone_from(&self.login);
        node.tls = self.tls.then(Tls::default);
        let memcached = ["memcached", "memcacheds"];
        let is = |scheme: &&str| self.scheme.eq_ignore_ascii_case(scheme);
        node.written.memcached = memcached.iter().any(is);
        node.target = match &self.watched {
            Some(watched) => {
                node.retry_interval = sentinel::RETRY;
                Target::Master(watched.clone())
            }
            None if self.is_embedded() => Target::Embedded(Place {
                directory: self.host.into(),
                size: EMBEDDED_SIZE,
            }),
            None if self.unix => Target::Unix(self.host.into()),
            None => Target::Tcp {
                host: self.host.trim_matches(['[', ']']).to_owned(),
                port,
            },
        };
        node
    }

    fn is_embedded(&self) -> bool {
        self.scheme.eq_ignore_ascii_case("embedded")
    }

    /// The node of a list or file entry: its rings see the host without a scheme, as
    /// pecl's session handler does, a socket as "unix://" and its path, and a master that
    /// Sentinels watch by the name it has there.
    pub(super) fn listed(&self) -> NodeSpec {
        if self.is_embedded() {
            self.node(format!("embedded://{}", self.host), 0)
        } else if self.unix {
            self.node(format!("unix://{}", self.host), 0)
        } else if let Some(watched) = &self.watched {
            self.node(watched.name.clone(), 0)
        } else {
            let port = self.port.unwrap_or(default_port(self.redis.as_ref()));
            self.node(self.host.to_owned(), port)
        }
    }
}

impl NodeSpec {
    /// The node `addServer($host, $port)` asks for, with pecl-memcache's defaults for the
    /// rest (see [`NodeSpec::tcp`]); `with_weight` and its like set what else was passed.
    ///
    /// `port` is `None` when the caller passed none: then a port written in the host counts,
    /// then `default_port`. A unix socket has port 0 whatever was passed.
    ///
    /// # Errors
    /// `Kind::Config`, as [`Schemes`] and the table above say; "invalid tcp port number"
    /// for a port out of range, the words of pecl-memcache.
    pub fn from_add_server(
        host: &str,
        port: Option<i64>,
        default_port: u16,
        allowed: &Schemes,
    ) -> Result<NodeSpec, Error> {
        let (host, query) = match host.split_once('?') {
            Some((host, query)) => (host, Some(query)),
            None => (host, None),
        };
        let mut node = NodeSpec::added(host, port, default_port, allowed)?;
        if let Some(query) = query {
            let said = options::apply(query, &mut node, &mut Vec::new(), allowed)?;
            if said.mode.is_some()
                || said.copies.is_some()
                || said.drain
                || said.prefix.is_some()
                || said.compression.is_some()
                || said.placement.is_some()
            {
                return Err(Error::new(
                    Kind::Config,
                    "mode, copies, placement, prefix, compression and drain are a whole pool's, not one server's",
                )
                .hint("Write the pool into the file of memring.config_file, and addServer('pool:NAME')"));
            }
        }
        Ok(node)
    }

    /// Gives a TCP node another port.
    pub(super) fn move_to(&mut self, number: u16) {
        if let Target::Tcp { port, .. } = &mut self.target {
            (*port, self.port) = (number, number);
        }
    }

    /// The same without what stands behind a "?".
    fn added(
        host: &str,
        port: Option<i64>,
        default_port: u16,
        allowed: &Schemes,
    ) -> Result<NodeSpec, Error> {
        let address = parse(host, allowed)?;
        if address.unix {
            return Ok(address.node(host.strip_suffix(":0").unwrap_or(host).to_owned(), 0));
        }
        if address.watched.is_some() {
            return Ok(address.listed());
        }
        let passed = match port.map(u16::try_from) {
            None => None,
            // pecl lets 0 pass, and fails at the first connect: a port of its own is meant.
            Some(Ok(0)) if address.port.is_some() => None,
            Some(Ok(number)) => Some(number),
            Some(Err(_)) => {
                return Err(Error::new(Kind::Config, "invalid tcp port number")
                    .hint("A port is a number from 1 to 65535"));
            }
        };
        if let (Some(passed), Some(written)) = (passed, address.port)
            && passed != written
        {
            return Err(Error::new(
                Kind::Config,
                format!("the host names port {written}, the argument {passed}"),
            )
            .hint("Write the port once"));
        }
        let usual = match address.redis {
            Some(_) => REDIS_PORT,
            None => default_port,
        };
        let number = passed.or(address.port).unwrap_or(usual);
        // What is hashed keeps the schemes pecl can open as passed; ours, and a port inside the
        // host, never worked there, so the plain name takes their place.
        let hashed = if matches!(address.scheme, "tcp" | "tls" | "ssl") {
            format!("{}://{}", address.scheme, address.host)
        } else {
            address.host.to_owned()
        };
        Ok(address.node(hashed, number))
    }
}
