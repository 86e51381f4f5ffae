//! How a node's TLS is spoken: whose word counts for who it is, and who we are.
//!
//! | written | phpredis | means |
//! |---|---|---|
//! | `ca=FILE` | `stream[cafile]` | certificates to trust, in place of the system's |
//! | `cert=FILE`, `key=FILE` | `stream[local_cert]`, `stream[local_pk]` | who we are, where the server asks |
//! | `server_name=NAME` | `stream[peer_name]` | the name in its certificate, and the one we ask for (SNI) |
//! | `verify=ca` | `stream[verify_peer_name]=0` | trust the certificate under any name |
//! | `verify=no` | `stream[verify_peer]=0` | trust anybody |
//!
//! Files are read when a connection is opened, and again when they have changed.

use super::NodeSpec;
use super::address::clean;
use crate::error::{Error, Kind};
use rustls::pki_types::ServerName;
use std::path::PathBuf;

/// What is believed of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Trust {
    /// A certificate that somebody we trust signed, for the name we asked for.
    #[default]
    Name,
    /// The same, whatever name it is for.
    Certificate,
    /// Anything.
    Anybody,
}

/// How TLS is spoken with a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Tls {
    /// PEM file of the certificates to trust; `None` for the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of our own certificate, and of those between it and its CA.
    pub cert: Option<PathBuf>,
    /// PEM file of its key; `None` where it is in the same file.
    pub key: Option<PathBuf>,
    /// The name in its certificate; `None` for the host that is written.
    pub name: Option<String>,
    /// What is believed of the server.
    pub trust: Trust,
}

/// Is it the name of an option of this file?
pub(super) fn is_option(name: &str) -> bool {
    matches!(name, "ca" | "cert" | "key" | "server_name" | "verify") || name.starts_with("stream[")
}

/// Sets the option `name` on `node`.
///
/// # Errors
/// `Kind::Config`: the node speaks no TLS, an unknown option of phpredis, an empty file name, a
/// name that no certificate can have.
pub(super) fn apply(name: &str, value: String, node: &mut NodeSpec) -> Result<(), Error> {
    let Some(tls) = &mut node.tls else {
        return Err(refuse(
            format!("option \"{}\" is for nodes with TLS", clean(name)),
            "Write memcacheds:// before the host of a memcached, rediss:// before a Redis",
        ));
    };
    let is_no = matches!(value.as_str(), "" | "0" | "no" | "false");
    match name {
        "ca" | "stream[cafile]" => tls.ca = Some(file(name, value)?),
        "cert" | "stream[local_cert]" => tls.cert = Some(file(name, value)?),
        "key" | "stream[local_pk]" => tls.key = Some(file(name, value)?),
        "server_name" | "stream[peer_name]" => {
            if ServerName::try_from(value.as_str()).is_err() {
                return Err(refuse(
                    format!("\"{}\" is no name a certificate can be for", clean(&value)),
                    "Write server_name=HOST as it stands in the certificate of the server",
                ));
            }
            tls.name = Some(value);
        }
        "verify" => {
            tls.trust = match value.as_str() {
                "yes" | "1" => Trust::Name,
                "ca" => Trust::Certificate,
                "no" | "0" => Trust::Anybody,
                other => {
                    return Err(refuse(
                        format!("verify={} is unknown", clean(other)),
                        "Write verify=yes, verify=ca to take any name, or verify=no to take anybody",
                    ));
                }
            }
        }
        "stream[verify_peer]" if is_no => tls.trust = Trust::Anybody,
        "stream[verify_peer_name]" if is_no && tls.trust == Trust::Name => {
            tls.trust = Trust::Certificate;
        }
        "stream[verify_peer]" | "stream[verify_peer_name]" => {}
        other => {
            return Err(refuse(
                format!(
                    "option \"{}\" is not supported by this version",
                    clean(other)
                ),
                "Known are stream[cafile], stream[local_cert], stream[local_pk], stream[peer_name], stream[verify_peer], stream[verify_peer_name]",
            ));
        }
    }
    Ok(())
}

/// Checks what only all options together can tell.
///
/// # Errors
/// `Kind::Config` for a key without a certificate.
pub(super) fn check(node: &NodeSpec, notices: &mut Vec<Error>) -> Result<(), Error> {
    let Some(tls) = &node.tls else {
        return Ok(());
    };
    if tls.key.is_some() && tls.cert.is_none() {
        return Err(refuse(
            "key is written without a certificate",
            "Write cert=FILE beside it",
        ));
    }
    if tls.trust == Trust::Anybody {
        notices.push(refuse(
            "nobody looks who the server is: who can stand in between reads and changes everything",
            "Take verify=no out, and write ca=FILE with the certificate of its CA",
        ));
    }
    Ok(())
}

fn file(name: &str, value: String) -> Result<PathBuf, Error> {
    if value.is_empty() || value.contains('\0') {
        return Err(refuse(
            format!("{} names no file", clean(name)),
            "Write the path of a PEM file",
        ));
    }
    Ok(value.into())
}

fn refuse(cause: impl Into<Box<str>>, hint: &str) -> Error {
    Error::new(Kind::Config, cause).hint(hint)
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "tests may stop at the first surprise"
)]
mod tests {
    use super::super::{Engine, Schemes, save_path};
    use super::*;

    fn parse(list: &str) -> Result<super::super::Wish, Error> {
        save_path::parse(list, &Schemes::default(), &|_| unreachable!())
    }

    #[test]
    fn a_node_speaks_tls_as_its_scheme_and_options_say() {
        let plain = Tls::default;
        let ca = || Some(PathBuf::from("/etc/ca.pem"));
        for (list, engine, port, tls) in [
            ("rediss://a", Engine::Redis, 6379, plain()),
            (
                "REDISS://:p@a:1/2?ca=/etc/ca.pem",
                Engine::Redis,
                1,
                Tls {
                    ca: ca(),
                    ..plain()
                },
            ),
            ("memcacheds://a", Engine::Memcached, 11211, plain()),
            ("memcacheds://u:p@a", Engine::Memcached, 11211, plain()),
            ("tls://a", Engine::Memcached, 11211, plain()),
            // phpredis.
            ("tls://a?auth=p", Engine::Redis, 6379, plain()),
            (
                "tls://a?stream[verify_peer]=1&stream%5Bcafile%5D=/etc/ca.pem&stream[peer_name]=b",
                Engine::Redis,
                6379,
                Tls {
                    ca: ca(),
                    name: Some("b".to_owned()),
                    ..plain()
                },
            ),
            (
                "tls://a?stream[verify_peer_name]=0&stream[local_cert]=/c&stream[local_pk]=/k",
                Engine::Redis,
                6379,
                Tls {
                    cert: Some("/c".into()),
                    key: Some("/k".into()),
                    trust: Trust::Certificate,
                    ..plain()
                },
            ),
            (
                "tls://a?stream[verify_peer]=0&stream[verify_peer_name]=0",
                Engine::Redis,
                6379,
                Tls {
                    trust: Trust::Anybody,
                    ..plain()
                },
            ),
            (
                "memcacheds://a?stream[peer_name]=b",
                Engine::Memcached,
                11211,
                Tls {
                    name: Some("b".to_owned()),
                    ..plain()
                },
            ),
            (
                "memcacheds://a?verify=ca",
                Engine::Memcached,
                11211,
                Tls {
                    trust: Trust::Certificate,
                    ..plain()
                },
            ),
        ] {
            let wish = parse(list).unwrap();
            let node = &wish.topology.nodes[0];
            assert_eq!((node.engine(), node.port), (engine, port), "{list}");
            assert_eq!(node.tls.as_ref(), Some(&tls), "{list}");
            let told = wish
                .notices
                .iter()
                .any(|n| n.to_string().contains("Take verify=no out"));
            assert_eq!(told, tls.trust == Trust::Anybody, "{list}");
        }
        assert_eq!(parse("redis://a,b").unwrap().topology.nodes[0].tls, None);
    }

    #[test]
    fn bad_tls_is_refused_with_the_text_to_write() {
        for (list, cause, hint) in [
            ("redis://a?ca=/f", "is for nodes with TLS", "rediss://"),
            (
                "a?stream[verify_peer]=0",
                "is for nodes with TLS",
                "rediss://",
            ),
            ("rediss://a?ca=", "names no file", "PEM"),
            ("rediss://a?key=/k", "without a certificate", "cert=FILE"),
            (
                "rediss://a?server_name=a%20b",
                "no name a certificate",
                "server_name=HOST",
            ),
            (
                "rediss://a?verify=maybe",
                "verify=maybe is unknown",
                "verify=ca",
            ),
            (
                "rediss://a?stream[ciphers]=x",
                "not supported",
                "stream[cafile]",
            ),
            (
                "tls://a?stream[allow_self_signed]=1",
                "not supported",
                "stream[cafile]",
            ),
        ] {
            let error = parse(list).unwrap_err().to_string();
            assert!(
                error.contains(cause) && error.contains(hint),
                "{list}: {error}"
            );
        }
    }

    #[test]
    fn an_administrator_can_ask_for_tls_alone() {
        let only = Schemes::parse("rediss,memcacheds").unwrap();
        let refused = |list: &str| {
            let parsed = save_path::parse(list, &only, &|_| unreachable!());
            parsed.unwrap_err().to_string()
        };
        for list in [
            "redis://a",
            "a",
            "tcp://a?database=1",
            "tls://a",
            "unix:///s",
        ] {
            assert!(refused(list).contains("memring.allow_schemes"), "{list}");
        }
        for list in ["rediss://a", "memcacheds://a"] {
            assert!(
                save_path::parse(list, &only, &|_| unreachable!()).is_ok(),
                "{list}"
            );
        }
        // A Redis behind tls:// is one like behind rediss://.
        let memcached = Schemes::parse("tls").unwrap();
        let parsed = save_path::parse("tls://a?database=1", &memcached, &|_| unreachable!());
        assert!(parsed.unwrap_err().to_string().contains("Add rediss"));
    }
}
