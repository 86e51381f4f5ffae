//! Why a session could not be opened or stored, for who reads the warning.

use super::{Error, Flags, Keys, Kind, Sessions};
use crate::codec::{TOO_LONG, unpacked};
use crate::request;

impl Sessions {
    pub(super) fn last_error(&self) -> Option<Error> {
        self.call.events().last().map(|event| event.error.clone())
    }

    /// Why a session could not be `what` ("stored"): the last node's failure, or that none was asked.
    pub(super) fn complaint(&mut self, keys: &Keys, what: &str) -> Error {
        let Some(error) = self.last_error() else {
            return self.nobody(keys);
        };
        let told = Error::new(
            error.kind(),
            format!("the session could not be {what}: {}", error.cause()),
        )
        .at(error.node().unwrap_or("memcached"));
        if error.kind().is_node_fault() {
            told.hint("Is the server running there, and reachable?")
        } else if request::is_for_want_of_room(&error) {
            told.hint("Keep less in the session, or give the server more room (memcached: -I for one item, -m for all)")
        } else {
            // Whatever else a server refuses has its remedy behind its own words.
            told
        }
    }

    /// Another request has the turn by now: what this one has is not stored over it.
    pub(super) fn overtaken(&self, node: usize) -> Error {
        let life = self.terms.lock_timeout;
        let cause = format!(
            "the session was not stored, since another request has it: this one's turn ended after {life} s"
        );
        Error::new(Kind::Locked, cause)
            .at(self.pool.name(node))
            .hint("Call session_write_close() earlier, or raise memcache.lock_timeout")
    }

    /// No node of a session may be asked: all failed a moment ago.
    pub(super) fn nobody(&mut self, keys: &Keys) -> Error {
        if let Some(error) = self.trouble.take() {
            return error;
        }
        let places = self.places(keys);
        let names: Vec<&str> = places.iter().map(|node| self.pool.name(*node)).collect();
        Error::new(
            Kind::Connect,
            "not asked, since it failed less than its retry_interval ago",
        )
        .at(&names.join(" and "))
        .hint("Is the server running there, and reachable?")
    }
}

/// A session as PHP wrote it; at most `most` bytes of it.
pub(super) fn plain(
    flags: Flags,
    data: impl AsRef<[u8]> + Into<Vec<u8>>,
    most: usize,
) -> Result<Vec<u8>, Error> {
    unpacked(flags, data, most).map_err(|error| match error.number() {
        TOO_LONG => Error::new(
            Kind::Value,
            format!(
                "the session unpacks to more than {most} bytes, for which memory_limit has no room"
            ),
        )
        .hint("It was not started, and is as it was. Raise memory_limit"),
        _ => error,
    })
}
