//! What a node holds, taken and put back as it was: the way a virtual machine returns from a snapshot.
//!
//! Taken with classic `gets`: to `mg`, with or without flags, a stale item gives its win token, and with it the turn.

use harness::{Memcached, Redis, Server};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One item.
struct Item {
    key: String,
    flags: String,
    version: String,
    life: String,
    value: Vec<u8>,
}

/// All items of a node.
pub(crate) struct Snapshot(Vec<Item>);

/// The same of a node of either kind.
pub(crate) enum Copy {
    /// Of a memcached.
    Items(Snapshot),
    /// A Redis keeps it in a file, and comes back with it by itself.
    File(usize),
}

impl Copy {
    /// Takes it.
    pub(crate) fn of(node: &Server) -> Copy {
        match node {
            Server::Memcached(node) => Copy::Items(Snapshot::of(node)),
            Server::Redis(node) => Copy::File(save(node)),
        }
    }

    /// How many items it holds.
    pub(crate) fn len(&self) -> usize {
        match self {
            Copy::Items(snapshot) => snapshot.len(),
            Copy::File(items) => *items,
        }
    }

    /// Puts every item back.
    pub(crate) fn restore(&self, node: &Server) {
        match self {
            Copy::Items(snapshot) => snapshot.restore(node.memcached()),
            // It was killed and had no time to write another one.
            Copy::File(_) => {
                let items: usize = redis::cmd("DBSIZE")
                    .query(&mut node.redis().client())
                    .expect("DBSIZE of our Redis");
                assert!(items > 1, "it came back empty");
            }
        }
    }
}

/// Has a Redis write its file; how many items it holds.
fn save(node: &Redis) -> usize {
    let mut client = node.client();
    let saved = redis::cmd("SAVE").exec(&mut client);
    saved.expect("SAVE of our Redis");
    redis::cmd("DBSIZE")
        .query(&mut client)
        .expect("DBSIZE of our Redis")
}

fn connect(node: &Memcached) -> BufReader<TcpStream> {
    let stream = TcpStream::connect(("127.0.0.1", node.port())).expect("connect to our memcached");
    stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .expect("a time limit");
    BufReader::new(stream)
}

fn line(connection: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    connection.read_line(&mut line).expect("a line");
    line.trim_end().to_string()
}

impl Snapshot {
    /// Takes it.
    pub(crate) fn of(node: &Memcached) -> Snapshot {
        let mut connection = connect(node);
        connection
            .get_mut()
            .write_all(b"lru_crawler metadump all\r\n")
            .expect("ask for all keys");
        let mut keys = Vec::new();
        loop {
            let line = line(&mut connection);
            if line == "END" {
                break;
            }
            let word = |name: &str| {
                let mut words = line.split(' ');
                words.find_map(|word| word.strip_prefix(name).map(str::to_string))
            };
            if let (Some(key), Some(end)) = (word("key="), word("exp=")) {
                keys.push((key.replace("%7E", "~").replace("%7e", "~"), end));
            }
        }
        let items = keys
            .into_iter()
            .filter_map(|(key, end)| item(&mut connection, key, &end))
            .collect();
        Snapshot(items)
    }

    /// How many items it holds.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Puts every item back, versions included where the server can.
    pub(crate) fn restore(&self, node: &Memcached) {
        let mut connection = connect(node);
        for item in &self.0 {
            let versioned = format!(
                "ms {} {} F{} T{} E{}\r\n",
                item.key,
                item.value.len(),
                item.flags,
                item.life,
                item.version
            );
            if put(&mut connection, &versioned, &item.value) == "HD" {
                continue;
            }
            // A server without E: the version stands in the value.
            let plain = versioned.replace(&format!(" E{}\r", item.version), "\r");
            assert_eq!(put(&mut connection, &plain, &item.value), "HD");
        }
    }
}

fn item(connection: &mut BufReader<TcpStream>, key: String, end: &str) -> Option<Item> {
    write!(connection.get_mut(), "gets {key}\r\n").expect("ask for an item");
    let head = line(connection);
    let words: Vec<&str> = head.split(' ').collect();
    let ["VALUE", _, flags, length, version] = words[..] else {
        return None;
    };
    let mut value = vec![0; length.parse::<usize>().ok()? + 2];
    connection.read_exact(&mut value).expect("the value");
    value.truncate(value.len() - 2);
    assert_eq!(line(connection), "END");
    // An end is seconds since 1970; -1 is none.
    let since = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs();
    let left = end
        .parse::<u64>()
        .map_or(0, |end| end.saturating_sub(since).max(1));
    Some(Item {
        flags: flags.to_string(),
        version: version.to_string(),
        life: left.to_string(),
        key,
        value,
    })
}

fn put(connection: &mut BufReader<TcpStream>, head: &str, value: &[u8]) -> String {
    // In one piece: the kernel holds back the second of two small ones.
    let request = [head.as_bytes(), value, b"\r\n"].concat();
    connection
        .get_mut()
        .write_all(&request)
        .expect("send an item");
    line(connection)
}
