//! What is said to a Redis Cluster beside commands: who has which slot, and what to make of a
//! node that sends us elsewhere.
//!
//! | a node says | it means |
//! |---|---|
//! | `MOVED 866 10.0.0.2:6379` | the slot is that node's, from now on |
//! | `ASK 866 10.0.0.2:6379` | this one key is there already: ask there, after `ASKING` |
//! | `TRYAGAIN …` | of the keys of this command some are there and some here |
//!
//! None of them was carried out. `CLUSTERDOWN` means that nobody has the slot now. A host that is
//! empty is that of the node which said so; "?" is one whose name nobody told it.
//!
//! Source: redis.io "Redis cluster specification" ("Redirection and resharding"), `CLUSTER
//! SLOTS`, `ASKING`, `WAIT`.

use super::answer::Cursor;
use super::{Shape, bulk, command, number};
use crate::item::Span;
use crate::ring::slots::{SLOTS, Table};

/// Appends the question who has which slot. The answer is for [`table`].
pub fn ask_slots(out: &mut Vec<u8>) -> Shape {
    command(out, &[b"CLUSTER", b"SLOTS"]);
    Shape::List
}

/// Reads who has which slot out of the list at `list` in `buf`. `asked` is the host that said it,
/// which is meant where no other is named. `None` for a list of another form.
pub fn table(buf: &[u8], list: Span, asked: &str) -> Option<Table> {
    let mut table = Table::default();
    let mut at = Cursor::new(buf, list);
    for _ in 0..at.list()? {
        let parts = at.list()?;
        let slot = |number: i64| u16::try_from(number).ok().filter(|slot| *slot < SLOTS);
        let (first, last) = (slot(at.number()?)?, slot(at.number()?)?);
        // Its master is named first, then its replicas.
        for place in 2..parts {
            let fields = at.list()?;
            let (mut host, port) = (at.text()?, at.number()?);
            for field in 2..fields {
                match (host, field) {
                    (UNKNOWN, 3) => host = address(&mut at)?,
                    _ => at.skip()?,
                }
            }
            if place == 2 && host != UNKNOWN {
                table.give(first, last, named(host, asked)?, port_of(port)?);
            }
        }
    }
    Some(table)
}

/// The host of a node that announces none where it should: any of them, not the one asked.
const UNKNOWN: &[u8] = b"?";

/// The `ip` among the pairs that stand behind a node's name and id.
fn address<'b>(at: &mut Cursor<'b>) -> Option<&'b [u8]> {
    let mut found = UNKNOWN;
    for _ in 0..at.list()? / 2 {
        let (word, text) = (at.text()?, at.text()?);
        if word == b"ip" && !text.is_empty() {
            found = text;
        }
    }
    Some(found)
}

/// A host as a node names it; it says nothing where it means itself.
fn named<'h>(host: &'h [u8], asked: &'h str) -> Option<&'h str> {
    match host {
        b"" => Some(asked),
        host => std::str::from_utf8(host).ok(),
    }
}

fn port_of(number: i64) -> Option<u16> {
    u16::try_from(number).ok().filter(|port| *port > 0)
}

/// Where a node sends us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redirect<'l> {
    /// The slot has another owner.
    Moved {
        /// The slot.
        slot: u16,
        /// Its owner's host, empty for the one that said so.
        host: &'l str,
        /// Its owner's port.
        port: u16,
    },
    /// This key is there already.
    Ask {
        /// That node's host, empty for the one that said so.
        host: &'l str,
        /// Its port.
        port: u16,
    },
    /// The keys of one command are on both; later they are not.
    Again,
}

/// What the error `line` says of that; `None` for any other, and where the node is not known.
pub fn redirect(line: &[u8]) -> Option<Redirect<'_>> {
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    let word = words.next()?;
    if word == "TRYAGAIN" {
        return Some(Redirect::Again);
    }
    if !matches!(word, "MOVED" | "ASK") {
        return None;
    }
    let slot = words.next()?.parse().ok().filter(|slot| *slot < SLOTS)?;
    // An IPv6 address has colons of its own, and no brackets here.
    let (host, port) = words.next()?.rsplit_once(':')?;
    let port = port.parse().ok().and_then(port_of)?;
    match word {
        _ if host.as_bytes() == UNKNOWN => None,
        "MOVED" => Some(Redirect::Moved { slot, host, port }),
        _ => Some(Redirect::Ask { host, port }),
    }
}

/// Does an error that is no redirect speak against the table all the same?
pub fn doubts(line: &[u8]) -> bool {
    // Whoever loads may have lost its slots to a replica meanwhile.
    let words: [&[u8]; 5] = [b"CLUSTERDOWN", b"LOADING", b"READONLY", b"MOVED", b"ASK"];
    words.iter().any(|word| line.starts_with(word))
}

/// Appends the word that lets the next command in where its slot is only arriving.
pub fn asking(out: &mut Vec<u8>) -> Shape {
    command(out, &[b"ASKING"]);
    Shape::Greeting
}

/// Appends a `WAIT`: how many replicas have all that was written on this connection, within
/// `milliseconds`.
pub fn wait(out: &mut Vec<u8>, replicas: u32, milliseconds: u64) -> Shape {
    out.extend_from_slice(b"*3\r\n");
    bulk(out, b"WAIT");
    number(out, replicas.into());
    // 0 would be for ever.
    number(out, milliseconds.max(1));
    Shape::Count
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<Table> {
        let list = Span {
            at: 0,
            len: text.len(),
        };
        table(text.as_bytes(), list, "asked")
    }

    #[test]
    fn the_answer_to_cluster_slots_is_read_whatever_stands_behind_the_masters() {
        let id = "$4\r\nabcd\r\n*0\r\n";
        let text = format!(
            "*3\r\n\
             *4\r\n:0\r\n:5\r\n*4\r\n$1\r\na\r\n:7000\r\n{id}*4\r\n$1\r\nr\r\n:7009\r\n{id}\
             *3\r\n:6\r\n:16383\r\n*3\r\n$0\r\n\r\n:7001\r\n$4\r\nabcd\r\n\
             *3\r\n:8\r\n:8\r\n*4\r\n$-1\r\n:7002\r\n$4\r\nabcd\r\n*2\r\n$8\r\nhostname\r\n$1\r\nx\r\n"
        );
        let table = read(&text).unwrap();
        let node = |slot| table.nodes().get(table.owner(slot)?).cloned();
        assert_eq!(node(5), Some(("a".to_owned(), 7000)));
        assert_eq!(node(7), Some(("asked".to_owned(), 7001)));
        assert_eq!(node(8), Some(("asked".to_owned(), 7002)));
        for end in 0..text.len() {
            assert_eq!(read(text.get(..end).unwrap()), None, "{end}");
        }
        for odd in [
            "*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\na\r\n:1\r\n",
            "*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\na\r\n:70000\r\n",
            "*1\r\n:1\r\n",
        ] {
            assert_eq!(read(odd), None, "{odd}");
        }
        assert!(read("*0\r\n").unwrap().nodes().is_empty());
    }

    #[test]
    fn a_node_without_a_name_is_found_by_its_address_and_never_taken_for_the_one_asked() {
        let text = "*3\r\n\
             *3\r\n:0\r\n:5\r\n*4\r\n$1\r\n?\r\n:7000\r\n$4\r\nabcd\r\n*2\r\n$2\r\nip\r\n$8\r\n10.0.0.2\r\n\
             *3\r\n:6\r\n:7\r\n*4\r\n$1\r\n?\r\n:7001\r\n$4\r\nabcd\r\n%1\r\n$2\r\nip\r\n$8\r\n10.0.0.3\r\n\
             *4\r\n:8\r\n:8\r\n*3\r\n$1\r\n?\r\n:7002\r\n$4\r\nabcd\r\n*4\r\n$1\r\nr\r\n:7009\r\n$4\r\nabcd\r\n*0\r\n";
        let table = read(text).unwrap();
        let nodes = [("10.0.0.2", 7000), ("10.0.0.3", 7001)];
        assert_eq!(
            table.nodes(),
            nodes.map(|(host, port)| (host.to_owned(), port))
        );
        assert_eq!(
            [5, 7, 8].map(|slot| table.owner(slot)),
            [Some(0), Some(1), None]
        );
    }

    #[test]
    fn a_node_that_sends_us_elsewhere_is_understood() {
        let moved = |host, port| {
            Some(Redirect::Moved {
                slot: 866,
                host,
                port,
            })
        };
        for (line, expected) in [
            ("MOVED 866 10.0.0.2:6379", moved("10.0.0.2", 6379)),
            ("MOVED 866 ::1:6379", moved("::1", 6379)),
            ("MOVED 866 :6379", moved("", 6379)),
            ("MOVED 866 ?:6379", None),
            ("ASK 866 ?:6379", None),
            ("ASK 1 h:2", Some(Redirect::Ask { host: "h", port: 2 })),
            ("TRYAGAIN Multiple keys", Some(Redirect::Again)),
            ("MOVED 16384 h:1", None),
            ("MOVED 1 h:0", None),
            ("MOVED", None),
            ("CLUSTERDOWN The cluster is down", None),
            ("ERR MOVED 866 h:1", None),
        ] {
            assert_eq!(redirect(line.as_bytes()), expected, "{line}");
        }
        for (line, expected) in [
            ("MOVED 866 ?:6379", true),
            ("CLUSTERDOWN The cluster is down", true),
            ("LOADING Redis is loading the dataset in memory", true),
            (
                "READONLY You can't write against a read only replica.",
                true,
            ),
            ("OOM command not allowed", false),
            ("ERR MOVED 866 h:1", false),
        ] {
            assert_eq!(doubts(line.as_bytes()), expected, "{line}");
        }
    }
}
