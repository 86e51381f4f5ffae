//! A memcached node as a cache's pool meets it: bytes in, bytes out, and a memory to lose.
//!
//! The words that copies of a cache and sessions are said in, each as memcached 1.6 carries it out
//! (what is not in its doc/protocol.txt was tried on 1.6.18 and 1.6.38). The machines' own node is
//! `node`, which takes commands and not bytes. Here is no network and no failure but those of
//! memory: `processes` decides when bytes arrive and whether the answer does.

use std::collections::BTreeMap;
use std::sync::Arc;

use memring_pool::replica::{Record, Trust, Version};
use memring_pool::wire::copied::{HEADED, TOMBSTONE, VERSION_LEAST};
use memring_pool::wire::fenced::{Flags, Header};

use super::random::Random;

/// How a server without room refuses a value.
const FULL: &str = "SERVER_ERROR out of memory storing object";

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
    token_taken: bool,
    /// Unlocked and not stored since: whoever looks gets the token.
    stale: bool,
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
    /// Another number after each restart, and since when it runs, seconds.
    process: u64,
    /// No memory for anything new in most cases.
    pub(super) full: bool,
    /// The sizes of what a full server dropped, in whose room another may go.
    freed: Vec<usize>,
}

/// What became of the first command of some input.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Carried {
    /// Its length, value included.
    pub(super) used: usize,
    pub(super) answer: Vec<u8>,
    /// The key that it stored something under, or gave another version.
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
            process: 1,
            full: false,
            freed: Vec::new(),
        }
    }

    /// Carries out the first command of `input` at millisecond `time`, where `date` is its clock
    /// in seconds since 1970; nothing while it has not all arrived.
    pub(super) fn hear(
        &mut self,
        time: u64,
        date: u64,
        input: &[u8],
        random: &mut Random,
    ) -> Option<Carried> {
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
            "mg" => carried.answer = self.show(time, date, &rest, random),
            "md" => {
                carried.answer = self.remove(time, date, &rest);
                let unlocks = rest.contains(&"I") && carried.answer.starts_with(b"HD");
                carried.stored = unlocks.then(|| rest[0].as_bytes().to_vec());
            }
            "stats" => {
                let (process, up) = (self.process, 1);
                let text =
                    format!("STAT pid {process}\r\nSTAT uptime {up}\r\nSTAT time {up}\r\nEND\r\n");
                carried.answer = text.into();
            }
            "lru_crawler" => carried.answer = self.list(time, date),
            "delete" | "touch" => carried.answer = self.classic(time, date, verb, &rest),
            "add" | "cas" => {
                let len: usize = rest[3].parse().expect("a length");
                let value = input.get(end + 2..end + 2 + len + 2)?;
                carried.used = end + 2 + len + 2;
                carried.answer = self.put(time, date, &rest, &value[..len], random).into();
            }
            "ms" => {
                let len: usize = rest[1].parse().expect("a length");
                let from = end + 2;
                let value = input.get(from..from + len + 2)?;
                assert_eq!(&value[len..], b"\r\n", "a value of another length");
                carried.used = from + len + 2;
                let status = self.store(time, date, &rest, &value[..len], random);
                let done = status == "HD";
                carried.stored = done.then(|| rest[0].as_bytes().to_vec());
                let cas = match self.memory.items.get(rest[0].as_bytes()) {
                    Some(item) if done && rest.contains(&"c") => format!(" c{}", item.cas),
                    _ => String::new(),
                };
                carried.answer = match status {
                    FULL => format!("{FULL}\r\n").into(),
                    _ => format!("{status}{cas}{}\r\n", echo(rest[0], &rest[2..])).into(),
                };
            }
            other => panic!("no word of copies: {other}"),
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

    fn show(&mut self, time: u64, date: u64, rest: &[&str], random: &mut Random) -> Vec<u8> {
        let key = rest[0];
        let flags = &rest[1..];
        let mut made = false;
        if let (None, Some(life)) = (self.live(time, key.as_bytes()), number(flags, 'N'))
            && !self.has_no_room(random)
        {
            made = true;
            let cas = self.fresh_cas();
            let placeholder = Item {
                flags: 0,
                cas,
                expires_at: end_of(time, date, life),
                data: Vec::new(),
                token_taken: false,
                stale: false,
            };
            self.memory.items.insert(key.into(), placeholder);
        }
        let Some(item) = self.live(time, key.as_bytes()) else {
            return format!("EN{}\r\n", echo(key, flags)).into();
        };
        // memcached says what was left before.
        let ends = item.expires_at;
        if let Some(life) = number(flags, 'T') {
            item.expires_at = end_of(time, date, life);
        }
        let mut fields = String::new();
        for flag in flags {
            match *flag {
                "c" => fields += &format!(" c{}", item.cas),
                "f" => fields += &format!(" f{}", item.flags),
                "s" => fields += &format!(" s{}", item.data.len()),
                "t" if made || ends == u64::MAX => fields += " t-1",
                "t" => fields += &format!(" t{}", ends / 1000 - time / 1000),
                "k" => fields += &format!(" k{key}"),
                opaque if opaque.starts_with('O') => fields += &format!(" {opaque}"),
                _ => {}
            }
        }
        let wanted = number(flags, 'R').is_some() || item.stale;
        fields += match (wanted, item.token_taken) {
            (true, false) => " W",
            (_, true) => " Z",
            (false, false) => "",
        };
        item.token_taken |= wanted;
        if item.stale {
            fields += " X";
        }
        if !flags.contains(&"v") {
            return format!("HD{fields}\r\n").into();
        }
        let mut out = format!("VA {}{fields}\r\n", item.data.len()).into_bytes();
        out.extend_from_slice(&item.data);
        out.extend_from_slice(b"\r\n");
        out
    }

    fn remove(&mut self, time: u64, date: u64, rest: &[&str]) -> Vec<u8> {
        let (key, cas) = (rest[0].as_bytes(), number(&rest[1..], 'C'));
        let version = number(&rest[1..], 'E');
        let unlocks = rest.contains(&"I") && version.is_none();
        let fresh = if unlocks { self.fresh_cas() } else { 0 };
        let status = match self.live(time, key) {
            None => "NF",
            Some(item) if cas.is_some_and(|cas| cas != item.cas) => "EX",
            Some(item) if rest.contains(&"I") => {
                (item.token_taken, item.stale) = (false, true);
                item.cas = version.unwrap_or(fresh);
                if let Some(life) = number(&rest[1..], 'T') {
                    item.expires_at = end_of(time, date, life);
                }
                "HD"
            }
            Some(_) => {
                self.memory.items.remove(key);
                "HD"
            }
        };
        format!("{status}{}\r\n", echo(rest[0], &rest[1..])).into()
    }

    fn classic(&mut self, time: u64, date: u64, verb: &str, rest: &[&str]) -> Vec<u8> {
        let key = rest[0].as_bytes();
        let Some(item) = self.live(time, key) else {
            return b"NOT_FOUND\r\n".to_vec();
        };
        if verb == "delete" {
            self.memory.items.remove(key);
            return b"DELETED\r\n".to_vec();
        }
        item.expires_at = end_of(time, date, rest[1].parse().expect("a life"));
        b"TOUCHED\r\n".to_vec()
    }

    /// The classic stores, which keep what is there when there is no room.
    fn put(
        &mut self,
        time: u64,
        date: u64,
        rest: &[&str],
        value: &[u8],
        random: &mut Random,
    ) -> String {
        if self.has_no_room(random) {
            return format!("{FULL}\r\n");
        }
        let key = rest[0].as_bytes();
        let there = self.live(time, key).map(|item| item.cas);
        let wanted: Option<u64> = rest.get(4).map(|cas| cas.parse().expect("a cas value"));
        let refused = match (wanted, there) {
            (None, Some(_)) => Some("NOT_STORED"),
            (Some(_), None) => Some("NOT_FOUND"),
            (Some(cas), Some(there)) if cas != there => Some("EXISTS"),
            _ => None,
        };
        if refused.is_none() {
            let number = |at: usize| rest[at].parse().expect("a number");
            let item = Item {
                flags: number(1) as u32,
                cas: self.fresh_cas(),
                expires_at: end_of(time, date, number(2)),
                data: value.to_vec(),
                token_taken: false,
                stale: false,
            };
            self.memory.items.insert(key.to_vec(), item);
        }
        format!("{}\r\n", refused.unwrap_or("STORED"))
    }

    fn list(&mut self, time: u64, date: u64) -> Vec<u8> {
        let mut out = String::new();
        for (key, item) in &self.memory.items {
            if item.expires_at > time {
                let key = String::from_utf8_lossy(key).replace(':', "%3A");
                let exp = date + (item.expires_at.min(time + 9_000_000) - time) / 1000;
                let size = item.data.len() + 60;
                out += &format!(
                    "key={key} exp={exp} la={date} cas={} fetch=no cls=1 size={size}\n",
                    item.cas
                );
            }
        }
        (out + "END\r\n").into()
    }

    fn fresh_cas(&mut self) -> u64 {
        self.memory.last_cas += 1;
        self.memory.last_cas
    }

    fn has_no_room(&self, random: &mut Random) -> bool {
        self.full && random.chance(80)
    }

    fn has_freed(&mut self, size: usize, random: &mut Random) -> bool {
        let fits = |freed: &usize| *freed >= size;
        let found = self.freed.iter().position(fits);
        let found = found.filter(|_| random.chance(90));
        found.map(|at| self.freed.swap_remove(at)).is_some()
    }

    fn store(
        &mut self,
        time: u64,
        date: u64,
        rest: &[&str],
        value: &[u8],
        random: &mut Random,
    ) -> &'static str {
        let (key, flags) = (rest[0].as_bytes(), &rest[2..]);
        if self.full && !self.has_freed(value.len(), random) && self.has_no_room(random) {
            // Whatever was asked, with C or ME, and however the comparison would have ended: a
            // server that cannot allocate the new item unlinks the old one (tried).
            let dropped = self.memory.items.remove(key);
            self.freed.extend(dropped.map(|item| item.data.len()));
            return FULL;
        }
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
        let fresh = self.fresh_cas();
        let item = Item {
            flags: number(flags, 'F').unwrap_or(0) as u32,
            cas: version.unwrap_or(fresh),
            expires_at: end_of(time, date, number(flags, 'T').unwrap_or(0)),
            data: value.to_vec(),
            token_taken: false,
            stale: false,
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
        self.process += 1;
        self.full = false;
        self.freed.clear();
    }

    /// Forgets one item in `every`, by chance (evictions), and no record.
    pub(super) fn evict(&mut self, every: u64, random: &mut Random) {
        let stays = |key: &Vec<u8>| key.starts_with(b"~");
        (self.memory.items).retain(|key, _| stays(key) || random.between(1, every) != 1);
    }

    /// The same process without what it had.
    pub(super) fn empty(&mut self) {
        self.memory.items.clear();
    }

    /// Version, kind and value of a session, for the checker; nothing of what has none, nor of
    /// word of a write.
    pub(super) fn session(&self, key: &[u8]) -> Option<(Version, bool, Arc<[u8]>)> {
        let item = self.memory.items.get(key)?;
        let flags = Flags::of(item.flags);
        if flags.inc == 0 || flags.witness {
            return None;
        }
        let (version, value) = if self.has_e {
            (Version::of_cas(item.cas), item.data.as_slice())
        } else {
            let (header, value) = Header::split(&item.data)?;
            (Version(header.version), value)
        };
        Some((version, flags.tombstone, Arc::from(value)))
    }

    /// The record it has, for the plan of faults and for traces.
    pub(super) fn record(&self, key: &[u8]) -> Option<Record> {
        let item = self.memory.items.get(key)?;
        let mut record = Record::decode(&item.data)?;
        if item.stale {
            record.trust = Trust::Joining;
        }
        Some(record)
    }
}

/// The number behind a flag.
fn number(flags: &[&str], letter: char) -> Option<u64> {
    let text = flags.iter().find_map(|flag| flag.strip_prefix(letter))?;
    text.parse().ok()
}

/// What of a question every answer gives back, in its order.
fn echo(key: &str, flags: &[&str]) -> String {
    let mut all = String::new();
    for flag in flags {
        match *flag {
            "k" => all += &format!(" k{key}"),
            opaque if opaque.starts_with('O') => all += &format!(" {opaque}"),
            _ => {}
        }
    }
    all
}

fn end_of(time: u64, date: u64, life: u64) -> u64 {
    match life {
        0 => u64::MAX,
        life if life > LIFE_MAX => (time / 1000 + life.saturating_sub(date)) * 1000,
        // The server's clock has whole seconds.
        life => (time / 1000 + life) * 1000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_keeps_what_it_is_told_under_the_conditions_it_is_told() {
        let (mut node, mut random) = (Memcached::new(true), Random::new(1));
        let mut say = |time, text: &str| {
            let carried = node
                .hear(time, 1_700_000_000, text.as_bytes(), &mut random)
                .expect("a whole command");
            assert_eq!(carried.used, text.len());
            String::from_utf8(carried.answer).unwrap()
        };
        for (time, text, answer) in [
            (0, "version\r\n", "VERSION 1.6.38\r\n"),
            (0, "mg a v c f s t O3 k\r\n", "EN O3 ka\r\n"),
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
            // Tokens: one for each item, until a store or an unlock.
            (
                10_999,
                "mg b c s t N30 R9 O1 k\r\n",
                "HD c3 s0 t-1 O1 kb W\r\n",
            ),
            (
                10_999,
                "mg b c s t N30 R9 O1 k\r\n",
                "HD c3 s0 t30 O1 kb Z\r\n",
            ),
            (
                10_999,
                "ms b 1 C3 E90 F1 T100 c O1 k\r\nx\r\n",
                "HD c90 O1 kb\r\n",
            ),
            (10_999, "mg b c R9 O1 k\r\n", "HD c90 O1 kb W\r\n"),
            (10_999, "md b I C90 E91 T50 O1 k\r\n", "HD O1 kb\r\n"),
            (10_999, "md b I C90 E91 T50 O1 k\r\n", "EX O1 kb\r\n"),
            (11_000, "mg b c t O1 k\r\n", "HD c91 t49 O1 kb W X\r\n"),
            (11_000, "mg b v R9 O1 k\r\n", "VA 1 O1 kb Z X\r\nx\r\n"),
            (11_000, "add b 0 0 1\r\nx\r\n", "NOT_STORED\r\n"),
            (11_000, "cas b 0 0 1 9\r\nx\r\n", "EXISTS\r\n"),
            (11_000, "cas b 0 0 1 91\r\ny\r\n", "STORED\r\n"),
            (11_000, "touch b 9\r\n", "TOUCHED\r\n"),
            (11_000, "delete b\r\n", "DELETED\r\n"),
        ] {
            assert_eq!(say(time, text), answer, "{text}");
        }
        let part = b"ms a 2 F0 T1 O1\r\nxy";
        assert_eq!(node.hear(0, 0, part, &mut random), None);
    }
}
