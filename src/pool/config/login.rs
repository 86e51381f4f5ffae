//! Who we are at a node: what may be shown of it, and what of it stands in the environment.

use crate::error::{Error, Kind};
use std::fmt;

/// A text that no message, status or trace may show.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Secret {
    text: String,
    /// It stands where it was read from, and not in the environment.
    written: bool,
}

impl Secret {
    /// Keeps `text` from being shown.
    pub fn new(text: String) -> Secret {
        Secret {
            text,
            written: true,
        }
    }

    /// The text that somebody wrote; `${NAME}` is what that variable of the environment holds.
    ///
    /// # Errors
    /// `Kind::Config` when there is no such variable.
    pub(super) fn read(text: String) -> Result<Secret, Error> {
        Ok(match variable(&text)? {
            Some(text) => Secret {
                text,
                written: false,
            },
            None => Secret::new(text),
        })
    }

    /// The text itself, for the wire alone.
    pub fn open(&self) -> &str {
        &self.text
    }

    /// Can it be read in the place where the node was written?
    pub fn is_written(&self) -> bool {
        self.written
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("(secret)")
    }
}

/// What a text of the form `${NAME}` stands for; `None` for any other text.
fn variable(text: &str) -> Result<Option<String>, Error> {
    let inner = text
        .strip_prefix("${")
        .and_then(|text| text.strip_suffix('}'));
    let Some(name) = inner else {
        return Ok(None);
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.is_empty() || !name.chars().all(plain) {
        return Ok(None);
    }
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(Some(value)),
        _ => Err(Error::new(
            Kind::Config,
            format!("${{{name}}} is not set in the environment"),
        )
        .hint(format!(
            "Set {name} for the user PHP runs as (env[{name}] in a pool of php-fpm), or write the text itself"
        ))),
    }
}

/// The text that somebody wrote, or the variable it names.
///
/// # Errors
/// As [`Secret::read`].
pub(super) fn read(text: String) -> Result<String, Error> {
    Ok(variable(&text)?.unwrap_or(text))
}

/// User and password of a memcached (`memcached -Y FILE`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

impl Login {
    /// A user and a password, as they are.
    ///
    /// # Errors
    /// `Kind::Config` where memcached would read something else: one of them empty, or with a
    /// blank or a control character.
    pub fn new(user: String, password: Secret) -> Result<Login, Error> {
        let plain = |text: &str| {
            let bad = |c: char| c.is_whitespace() || c.is_control();
            !text.is_empty() && !text.contains(bad)
        };
        if plain(&user) && plain(password.open()) {
            return Ok(Login { user, password });
        }
        Err(Error::new(
            Kind::Config,
            "a memcached takes a user and a password together, neither of them with a blank",
        )
        .hint("Write memcached://USER:PASSWORD@HOST, as they stand in the file of memcached -Y"))
    }

    /// The same as somebody wrote them, `${NAME}` for a variable of the environment.
    ///
    /// # Errors
    /// As [`Login::new`], and for a variable that is not there.
    pub(super) fn read(user: String, password: String) -> Result<Login, Error> {
        Login::new(read(user)?, Secret::read(password)?)
    }
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests {
    use super::super::{Schemes, file, save_path};
    use super::*;

    fn parse(list: &str) -> Result<super::super::Wish, Error> {
        save_path::parse(list, &Schemes::default(), &|_| unreachable!())
    }

    #[test]
    fn a_memcached_is_entered_as_its_address_or_its_options_say() {
        for (list, login) in [
            ("memcached://u:p%40+w@a", Some(("u", "p@+w"))),
            ("tcp://u:p@a:1", Some(("u", "p"))),
            ("memcached://a?user=u&password=p+w%21", None),
            ("unix:///s?user=u&password=p", Some(("u", "p"))),
            ("memcached://u:p@a?password=q", Some(("u", "q"))),
            ("tcp://a", None),
        ] {
            let Ok(wish) = parse(list) else {
                // A blank is no part of a password there.
                assert!(list.contains("p+w%21"), "{list}");
                continue;
            };
            let node = &wish.topology.nodes[0];
            let found = node.login.as_ref();
            let found = found.map(|login| (login.user.as_str(), login.password.open()));
            assert_eq!(found, login, "{list}");
            assert_eq!(node.redis, None);
            assert!(!node.name().contains('@') && !format!("{wish:?}").contains("p@+w"));
            // PHP shows its own settings to whoever asks.
            let told = |n: &Error| n.to_string().contains("pool:NAME");
            assert_eq!(wish.notices.iter().any(told), login.is_some(), "{list}");
        }
        // Words of Redis make a Redis of it.
        let wish = parse("tcp://u:p@a?database=1").unwrap();
        let redis = wish.topology.nodes[0].redis.as_ref().unwrap();
        assert_eq!(redis.user.as_deref(), Some("u"));
        assert_eq!(redis.password.as_ref().map(Secret::open), Some("p"));
        assert_eq!(wish.topology.nodes[0].login, None);
    }

    #[test]
    fn half_a_login_is_refused_and_repeats_no_password() {
        for list in [
            "memcached://geheim@a",
            "memcached://:geheim@a",
            "memcached://u:ge%20heim@a",
            "memcached://u:ge%0Aheim@a",
            "u:geheim@a",
            "u:geheim@a/2",
            "redis//u:geheim@a",
            "unix:///s?password=geheim",
            "tcp://a?user=geheim",
        ] {
            let error = parse(list).unwrap_err().to_string();
            assert!(error.contains("USER:PASSWORD@HOST"), "{list}: {error}");
            assert!(!error.contains("heim"), "{list}: {error}");
        }
    }

    #[test]
    fn a_password_may_stand_in_the_environment() {
        // Any that is set, without a blank, will do.
        let usable = |(_, value): &(String, String)| {
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || c.is_control())
        };
        let (name, value) = std::env::vars().find(usable).unwrap();
        for (list, redis) in [
            (format!("memcached://u:${{{name}}}@a"), false),
            (format!("redis://u:${{{name}}}@a"), true),
            (format!("tcp://a?auth=${{{name}}}"), true),
        ] {
            let wish = parse(&list).unwrap();
            let node = &wish.topology.nodes[0];
            let secret = match redis {
                true => node.redis.as_ref().and_then(|redis| redis.password.clone()),
                false => node.login.as_ref().map(|login| login.password.clone()),
            };
            assert_eq!(secret.unwrap().open(), value, "{list}");
            assert!(wish.notices.is_empty(), "{list}: nobody can read it there");
        }
        let text = "[pool.p]\nnodes = [\"redis://:${MEMRING_NOT_SET}@a\"]";
        let error = file::File::parse("f", text).unwrap_err().to_string();
        assert!(
            error.contains("f, line 2") && error.contains("env[MEMRING_NOT_SET]"),
            "{error}"
        );
        // Anything else with a dollar is a password as it stands.
        let wish = parse("redis://:$${x@a").unwrap();
        let redis = wish.topology.nodes[0].redis.as_ref().unwrap();
        assert_eq!(redis.password.as_ref().map(Secret::open), Some("$${x"));
    }
}
