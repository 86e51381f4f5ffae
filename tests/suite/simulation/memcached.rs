//! A memcached node as a cache's pool meets it: bytes in, bytes out, and a memory to lose.
//!
//! The words that copies of a cache are said in, each as memcached 1.6 carries it out (what is not
//! in its doc/protocol.txt was tried on 1.6.18 and 1.6.38). The sessions' own node is `node`,
//! which takes commands and not bytes. Here is no network and no failure: `processes` decides
//! when bytes arrive and whether the answer does.

use std::collections::BTreeMap;

use memring_pool::wire::copied::{HEADED, TOMBSTONE, VERSION_LEAST};
use memring_pool::wire::fenced::Header;

/// Longer lives are dates (protocol.txt "Expiration times"), seconds.
const LIFE_MAX: u64 = 30 * 24 * 60 * 60;

/// What is kept under a key.
#[derive(Clone, Debug)]
struct Item {
    flags: u32,
    cas: u64,
    /// Virtual millisecond from which it is gone.
    expires_at: u64,
    data: Vec<u8>,
}

/// All that a crash takes away and a dump keeps.
#[derive(Clone, Debug, Default)]
pub(super) struct Memory {
    items: BTreeMap<Vec<u8>, Item>,
    last_cas: u64,
}

/// One simulated server.
#[derive(Debug)]
pub(super) struct Memcached {
    memory: Memory,
    /// It takes versions (`E`).
    has_e: bool,
}

/// What became of the first command of some input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Its length, value included.
    pub(super) used: usize,
    pub(super) answer: Vec<u8>,
    /// The key that it stored something under.
    pub(super) stored: Option<Vec<u8>>,
    /// It emptied the node.
    pub(super) flushed: bool,
}

/// What a node has under a key: which version, tombstone or not, and the value.
pub(super) type Held = (u64, bool, Vec<u8>);

impl Memcached {
    /// An empty server.
    pub(super) fn new(has_e: bool) -> Memcached {
        Memcached {
            memory: Memory::default(),
            has_e,
        }
    }

    /// Carries out the first command of `input` at millisecond `time`, where `date` is its clock
    /// in seconds since 1970; nothing while it has not all arrived.
    pub(super) fn hear(&mut self, time: u64, date: u64, input: &[u8]) -> Option<Carried> {
        let end = input.windows(2).position(|two| two == b"\r\n")?;
        let line = String::from_utf8_lossy(&input[..end]).into_owned();
        let mut words = line.split(' ');
        let verb = words.next().unwrap_or_default();
        let rest: Vec<&str> = words.collect();
        let mut carried = Carried {
            used: end + 2,
            ..Carried::default()
        };
        match verb {
            "version" => {
                let text = if self.has_e { "1.6.38" } else { "1.6.18" };
                carried.answer = format!("VERSION {text}\r\n").into();
            }
            "flush_all" => {
                self.memory.items.clear();
                carried.flushed = true;
                carried.answer = b"OK\r\n".to_vec();
            }
            "get" | "gets" => {
                for key in &rest {
                    self.show_classic(time, key, verb == "gets", &mut carried.answer);
                }
                carried.answer.extend_from_slice(b"END\r\n");
            }
            "mg" => carried.answer = self.show(time, date, &rest),
            "md" => carried.answer = self.remove(time, &rest),
            "ms" => {
                let len: usize = rest[1].parse().expect("a length");
                let from = end + 2;
                let value = input.get(from..from + len + 2)?;
                assert_eq!(&value[len..], b"\r\n", "a value of another length");
                carried.used = from + len + 2;
                let status = self.store(time, date, &rest, &value[..len]);
                carried.stored = (status == "HD").then(|| rest[0].as_bytes().to_vec());
                carried.answer = format!("{status}{}\r\n", opaque(&rest[2..])).into();
            }
            other => panic!("no word of a cache's copies: {other}"),
        }
        Some(carried)
    }

    fn show_classic(&mut self, time: u64, key: &str, with_cas: bool, out: &mut Vec<u8>) {
        let Some(item) = self.live(time, key.as_bytes()) else {
            return;
        };
        let cas = match with_cas {
            true => format!(" {}", item.cas),
            false => String::new(),
        };
        let head = format!("VALUE {key} {} {}{cas}\r\n", item.flags, item.data.len());
        out.extend_from_slice(head.as_bytes());
        out.extend_from_slice(&item.data);
        out.extend_from_slice(b"\r\n");
    }

    fn show(&mut self, time: u64, date: u64, rest: &[&str]) -> Vec<u8> {
        let key = rest[0];
        let flags = &rest[1..];
        let Some(item) = self.live(time, key.as_bytes()) else {
            return b"EN\r\n".to_vec();
        };
        if let Some(life) = number(flags, 'T') {
            item.expires_at = end_of(time, date, life);
        }
        let mut fields = String::new();
        for flag in flags {
            match *flag {
                "c" => fields += &format!(" c{}", item.cas),
                "f" => fields += &format!(" f{}", item.flags),
                "s" => fields += &format!(" s{}", item.data.len()),
                "t" if item.expires_at == u64::MAX => fields += " t-1",
                "t" => fields += &format!(" t{}", (item.expires_at - time) / 1000),
                "k" => fields += &format!(" k{key}"),
                opaque if opaque.starts_with('O') => fields += &format!(" {opaque}"),
                _ => {}
            }
        }
        if !flags.contains(&"v") {
            return format!("HD{fields}\r\n").into();
        }
        let mut out = format!("VA {}{fields}\r\n", item.data.len()).into_bytes();
        out.extend_from_slice(&item.data);
        out.extend_from_slice(b"\r\n");
        out
    }

    fn remove(&mut self, time: u64, rest: &[&str]) -> Vec<u8> {
        let (key, cas) = (rest[0].as_bytes(), number(&rest[1..], 'C'));
        let status = match self.live(time, key) {
            None => "NF",
            Some(item) if cas.is_some_and(|cas| cas != item.cas) => "EX",
            Some(_) => {
                self.memory.items.remove(key);
                "HD"
            }
        };
        format!("{status}{}\r\n", opaque(&rest[1..])).into()
    }

    fn store(&mut self, time: u64, date: u64, rest: &[&str], value: &[u8]) -> &'static str {
        let (key, flags) = (rest[0].as_bytes(), &rest[2..]);
        let there = self.live(time, key).map(|item| item.cas);
        match (number(flags, 'C'), there) {
            (Some(_), None) => return "NF",
            (Some(cas), Some(there)) if cas != there => return "EX",
            _ => {}
        }
        if there.is_some() && flags.contains(&"ME") || there.is_none() && flags.contains(&"MR") {
            return "NS";
        }
        let version = number(flags, 'E');
        assert!(
            version.is_none() || self.has_e,
            "a version to a server that takes none"
        );
        self.memory.last_cas += 1;
        let item = Item {
            flags: number(flags, 'F').unwrap_or(0) as u32,
            cas: version.unwrap_or(self.memory.last_cas),
            expires_at: end_of(time, date, number(flags, 'T').unwrap_or(0)),
            data: value.to_vec(),
        };
        self.memory.items.insert(key.to_vec(), item);
        "HD"
    }

    fn live(&mut self, time: u64, key: &[u8]) -> Option<&mut Item> {
        if self
            .memory
            .items
            .get(key)
            .is_some_and(|item| item.expires_at <= time)
        {
            self.memory.items.remove(key);
        }
        self.memory.items.get_mut(key)
    }

    /// What it has under a key, for the checker; nothing of what has no version.
    pub(super) fn peek(&self, key: &[u8]) -> Option<Held> {
        let item = self.memory.items.get(key)?;
        let gone = item.flags & TOMBSTONE != 0;
        if item.flags & HEADED != 0 {
            let (header, value) = Header::split(&item.data)?;
            return Some((header.version, gone, value.to_vec()));
        }
        (item.cas >= VERSION_LEAST).then(|| (item.cas, gone, item.data.clone()))
    }

    /// All of it, as a dump on disk would keep it.
    pub(super) fn dump(&self) -> Memory {
        self.memory.clone()
    }

    /// Starts with the memory of a dump, or with none.
    pub(super) fn restart(&mut self, memory: Memory) {
        self.memory = memory;
    }
}

/// The number behind a flag.
fn number(flags: &[&str], letter: char) -> Option<u64> {
    let text = flags.iter().find_map(|flag| flag.strip_prefix(letter))?;
    text.parse().ok()
}

fn opaque(flags: &[&str]) -> String {
    let found = flags.iter().find(|flag| flag.starts_with('O'));
    found.map_or_else(String::new, |flag| format!(" {flag}"))
}

fn end_of(time: u64, date: u64, life: u64) -> u64 {
    match life {
        0 => u64::MAX,
        life if life > LIFE_MAX => time + life.saturating_sub(date) * 1000,
        life => time + life * 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_what_it_is_told_under_the_conditions_it_is_told() {
        let mut node = Memcached::new(true);
        let mut say = |time, text: &str| {
            let carried = node
                .hear(time, 1_700_000_000, text.as_bytes())
                .expect("a whole command");
            assert_eq!(carried.used, text.len());
            String::from_utf8(carried.answer).unwrap()
        };
        for (time, text, answer) in [
            (0, "version\r\n", "VERSION 1.6.38\r\n"),
            (0, "mg a v c f s t O3 k\r\n", "EN\r\n"),
            (0, "ms a 2 MR F1 T0 O1\r\nxy\r\n", "NS O1\r\n"),
            (0, "ms a 2 C9 F1 T0 O1\r\nxy\r\n", "NF O1\r\n"),
            (0, "ms a 2 ME E77 F1 T9 O1\r\nxy\r\n", "HD O1\r\n"),
            (0, "ms a 2 ME E78 F1 T9 O1\r\nzz\r\n", "NS O1\r\n"),
            (0, "ms a 2 C1 E78 F1 T9 O1\r\nzz\r\n", "EX O1\r\n"),
            (
                1000,
                "mg a v c f s t O3 k\r\n",
                "VA 2 c77 f1 s2 t8 O3 ka\r\nxy\r\n",
            ),
            (1000, "mg a T0 O4\r\n", "HD O4\r\n"),
            (9999, "gets a b\r\n", "VALUE a 1 2 77\r\nxy\r\nEND\r\n"),
            (9999, "mg a c f s t O3 k\r\n", "HD c77 f1 s2 t-1 O3 ka\r\n"),
            (9999, "md a C1 O2\r\n", "EX O2\r\n"),
            (9999, "md a C77 O2\r\n", "HD O2\r\n"),
            (9999, "md a O2\r\n", "NF O2\r\n"),
            (9999, "ms a 2 F0 T1 O1\r\nxy\r\n", "HD O1\r\n"),
            (10_999, "get a\r\n", "END\r\n"),
        ] {
            assert_eq!(say(time, text), answer, "{text}");
        }
        assert_eq!(node.hear(0, 0, b"ms a 2 F0 T1 O1\r\nxy"), None);
    }
}
