//! What went wrong: a stable kind, the node, the cause, and what the reader can do.
//!
//! One error type for the whole library. It is returned, never logged here: only
//! the products (`extension/report.rs`) speak to people.

use std::fmt;

/// The stable word for what went wrong; callers match on it, messages may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Kind {
    /// A wish that cannot be granted: save_path, addServer argument or file.
    Config,
    /// The key is empty or not usable.
    Key,
    /// The value cannot be encoded or decoded.
    Value,
    /// A name did not resolve to an address.
    Resolve,
    /// No connection came about: refused, unreachable, no such socket.
    Connect,
    /// A node did not answer before the deadline.
    Timeout,
    /// The node closed or reset the connection in the middle of an exchange.
    Closed,
    /// The node does not let us in: password, user or database.
    Auth,
    /// No connection in TLS came about: certificate, name, or a server that speaks none.
    Tls,
    /// The node said something that is not an answer to what was asked.
    Protocol,
    /// The node answered SERVER_ERROR or its like: it works, but refused this request.
    Server,
    /// The node answered CLIENT_ERROR or its like: the request itself is wrong.
    Client,
    /// A session is held by another request past the wait limit.
    Locked,
    /// The pool's records and this host's file mean different node lists.
    Epoch,
    /// Shared state (region file, state_dir) cannot be used.
    State,
}

impl Kind {
    /// Every kind, for tests that a list is whole.
    pub const ALL: [Kind; 15] = [
        Kind::Config,
        Kind::Key,
        Kind::Value,
        Kind::Resolve,
        Kind::Connect,
        Kind::Timeout,
        Kind::Closed,
        Kind::Protocol,
        Kind::Server,
        Kind::Client,
        Kind::Locked,
        Kind::Epoch,
        Kind::State,
        // Marks that hosts share have numbers from this list: what is new comes last.
        Kind::Auth,
        Kind::Tls,
    ];

    /// The kind as one lower-case word, as it stands in traces and status.
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Config => "config",
            Kind::Key => "key",
            Kind::Value => "value",
            Kind::Resolve => "resolve",
            Kind::Connect => "connect",
            Kind::Timeout => "timeout",
            Kind::Closed => "closed",
            Kind::Auth => "auth",
            Kind::Tls => "tls",
            Kind::Protocol => "protocol",
            Kind::Server => "server",
            Kind::Client => "client",
            Kind::Locked => "locked",
            Kind::Epoch => "epoch",
            Kind::State => "state",
        }
    }

    /// True when the node itself is at fault and should be left alone for a while.
    ///
    /// A refusal (`Server`, `Client`) is an answer, so the node is fine.
    pub const fn is_node_fault(self) -> bool {
        matches!(
            self,
            Kind::Resolve
                | Kind::Connect
                | Kind::Timeout
                | Kind::Closed
                | Kind::Auth
                | Kind::Tls
                | Kind::Protocol
        )
    }
}

/// One failure: what happened, to whom, and what the reader can do about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    kind: Kind,
    node: Option<Box<str>>,
    cause: Box<str>,
    hint: Option<Box<str>>,
    code: i32,
}

impl Error {
    /// An error of `kind` with `cause` as a sentence part ("Connection refused").
    pub fn new(kind: Kind, cause: impl Into<Box<str>>) -> Error {
        Error {
            kind,
            node: None,
            cause: cause.into(),
            hint: None,
            code: 0,
        }
    }

    /// The same error, naming the node ("host:port") it happened at.
    #[must_use]
    pub fn at(mut self, node: &str) -> Error {
        self.node = Some(node.into());
        self
    }

    /// The same error with what the reader can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Box<str>>) -> Error {
        self.hint = Some(hint.into());
        self
    }

    /// The same error with the number PHP shows in parentheses: an errno, or
    /// pecl-memcache's MMC_RESPONSE_* code (memcache_pool.h).
    #[must_use]
    pub fn code(mut self, code: i32) -> Error {
        self.code = code;
        self
    }

    /// The stable kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The node it happened at, "host:port", when there is one.
    pub fn node(&self) -> Option<&str> {
        self.node.as_deref()
    }

    /// The cause alone, without node and hint.
    pub fn cause(&self) -> &str {
        &self.cause
    }

    /// The number shown in parentheses, 0 when there is none.
    pub fn number(&self) -> i32 {
        self.code
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(node) = &self.node {
            write!(f, "{node}: ")?;
        }
        f.write_str(&self.cause)?;
        if let Some(hint) = &self.hint {
            write!(f, ". {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_names_the_node_the_cause_and_the_remedy() {
        let error = Error::new(Kind::Connect, "Connection refused")
            .at("cache2:11211")
            .code(111)
            .hint("Is memcached running there?");
        assert_eq!(
            error.to_string(),
            "cache2:11211: Connection refused. Is memcached running there?"
        );
        assert_eq!(error.number(), 111);
    }

    #[test]
    fn every_kind_has_its_own_word() {
        let words: std::collections::HashSet<_> = Kind::ALL.iter().map(|k| k.word()).collect();
        assert_eq!(words.len(), Kind::ALL.len());
    }
}
