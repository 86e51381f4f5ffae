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

    /// The value under `key`, with what stands before it; of a Redis that of a copied session, too.
    pub fn stored(&self, key: &str) -> Option<Vec<u8>> {
        match self {
            Server::Memcached(server) => server.stored(key).map(|(_, value)| value),
            Server::Redis(server) => {
                let mut client = server.client();
                let kind: String = redis::cmd("TYPE")
                    .arg(key)
                    .query(&mut client)
                    .expect("TYPE of our Redis");
                let mut command = redis::cmd(if kind == "hash" { "HGET" } else { "GET" });
                command.arg(key);
                if kind == "hash" {
                    command.arg("d");
                }
                command.query(&mut client).expect("a value of our Redis")
            }
        }
    }

    /// Stores a value as another client does.
    pub fn put(&self, key: &str, value: &str) {
        match self {
            Server::Memcached(server) => {
                let set = format!("set {key} 0 0 {}\r\n{value}\r\n", value.len());
                assert_eq!(server.raw(set, "\r\n"), b"STORED\r\n");
            }
            Server::Redis(server) => redis::cmd("SET")
                .arg(key)
                .arg(value)
                .exec(&mut server.client())
                .expect("SET of our Redis"),
        }
    }

    /// The same where nothing is; false where something was.
    pub fn add(&self, key: &str, value: &str) -> bool {
        match self {
            Server::Memcached(server) => {
                let add = format!("add {key} 0 0 {}\r\n{value}\r\n", value.len());
                server.raw(add, "\r\n") == b"STORED\r\n"
            }
            Server::Redis(server) => redis::cmd("SETNX")
                .arg(key)
                .arg(value)
                .query(&mut server.client())
                .expect("SETNX of our Redis"),
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
