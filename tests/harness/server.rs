//! A node of either kind, for tests that hold for both.

use crate::{Memcached, Redis};

/// A memcached or a Redis of this test.
#[derive(Debug)]
pub enum Server {
    /// A memcached.
    Memcached(Memcached),
    /// A Redis or Valkey.
    Redis(Redis),
}

impl Server {
    /// Its TCP port.
    pub fn port(&self) -> u16 {
        match self {
            Server::Memcached(server) => server.port(),
            Server::Redis(server) => server.port(),
        }
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port())
    }

    /// What stands before its host in a list.
    pub fn scheme(&self) -> &'static str {
        match self {
            Server::Memcached(_) => "tcp",
            Server::Redis(_) => "redis",
        }
    }

    /// Is it a Redis?
    pub fn is_redis(&self) -> bool {
        matches!(self, Server::Redis(_))
    }

    /// The memcached it is.
    pub fn memcached(&self) -> &Memcached {
        match self {
            Server::Memcached(server) => server,
            Server::Redis(_) => panic!("a Redis, where a memcached was meant"),
        }
    }

    /// The Redis it is.
    pub fn redis(&self) -> &Redis {
        match self {
            Server::Redis(server) => server,
            Server::Memcached(_) => panic!("a memcached, where a Redis was meant"),
        }
    }

    /// Ends it at once, as a crash does.
    pub fn kill(&mut self) {
        match self {
            Server::Memcached(server) => server.kill(),
            Server::Redis(server) => server.kill(),
        }
    }

    /// Freezes it: connections stay open, nothing is answered.
    pub fn freeze(&self) {
        match self {
            Server::Memcached(server) => server.freeze(),
            Server::Redis(server) => server.freeze(),
        }
    }

    /// Lets a frozen one go on with the data it had.
    pub fn resume(&self) {
        match self {
            Server::Memcached(server) => server.resume(),
            Server::Redis(server) => server.resume(),
        }
    }

    /// Starts it again on the same port: with empty memory, unless a Redis has a file.
    pub fn restart(&mut self) {
        match self {
            Server::Memcached(server) => server.restart(),
            Server::Redis(server) => server.restart(),
        }
    }

    /// The value under `key`; of a Redis that of a copied session.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Server::Memcached(server) => server.stored(key).map(|(_, value)| value),
            Server::Redis(server) => redis::cmd("HGET")
                .arg(key)
                .arg("d")
                .query(&mut server.client())
                .expect("HGET of our Redis"),
        }
    }

    /// Takes `key` away.
    pub fn delete(&self, key: &str) {
        match self {
            Server::Memcached(server) => drop(server.raw(format!("delete {key}\r\n"), "\r\n")),
            Server::Redis(server) => redis::cmd("DEL")
                .arg(key)
                .exec(&mut server.client())
                .expect("DEL of our Redis"),
        }
    }

    /// Empties it.
    pub fn flush(&self) {
        match self {
            Server::Memcached(server) => drop(server.raw("flush_all\r\n", "OK\r\n")),
            Server::Redis(server) => redis::cmd("FLUSHALL")
                .exec(&mut server.client())
                .expect("FLUSHALL of our Redis"),
        }
    }

    /// Starts a memcached again as the newer version; see [`Memcached::upgrade`].
    pub fn upgrade(&mut self) -> bool {
        match self {
            Server::Memcached(server) => server.upgrade(),
            Server::Redis(_) => false,
        }
    }
}
