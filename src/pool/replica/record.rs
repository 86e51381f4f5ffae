//! What a node says of itself, kept on the node: one small item per node and pool.
//!
//! ```text
//! memring1 trusted 17 5f3a09c2d81e6b47 3 -10.0.0.2:11211 web4 1767225600
//! ^format  ^trust  ^inc ^id of the life ^config epoch  ^absent: node, host, since (may repeat)
//! ```
//! The epoch of a named pool is `4/3/9be1f0a2`: the highest announced, the one whose nodes
//! have every key, and that list's fingerprint.
//!
//! It is text, so that an operator can read it with any client. Names hold no blanks.

use crate::chance::mix;
use crate::item::KeyRule;

/// Can a node be believed when it has no item?
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trust {
    /// It may have missed writes: what it has is used, what it lacks proves nothing.
    Joining,
    /// It has all that was acknowledged.
    Trusted,
}

/// A node's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Whether it is believed.
    pub trust: Trust,
    /// Its memory life, 1 to 4095; after that 1 again.
    pub inc: u16,
    /// Random name of this memory life.
    pub id: u64,
    /// Highest epoch of the configuration that was announced.
    pub epoch: u32,
    /// The epoch whose nodes have every key.
    pub committed: u32,
    /// Fingerprint of the nodes of that epoch; 0 where nobody said it.
    pub nodes: u32,
    /// Other nodes that missed a write which this one took.
    pub absent: Vec<Absent>,
}

/// What records say of a pool's node lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    /// Highest epoch announced: who has a lower one is behind.
    pub seen: u32,
    /// The epoch whose nodes have every key.
    pub committed: u32,
    /// Fingerprint of the nodes of that epoch; 0 where nobody said it.
    pub nodes: u32,
}

impl Epochs {
    /// What follows from two records.
    #[must_use]
    pub fn joined(self, other: Epochs) -> Epochs {
        let later = if (other.committed, other.nodes) > (self.committed, self.nodes) {
            other
        } else {
            self
        };
        Epochs {
            seen: self.seen.max(other.seen),
            ..later
        }
    }
}

/// A node that missed a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Absent {
    /// Its name, as the ring hashes it.
    pub node: Box<str>,
    /// The host that wrote without it, for people.
    pub host: Box<str>,
    /// When first, seconds since 1970, for people.
    pub since: u64,
}

/// The word a record begins with; another number is another format.
const FORMAT: &str = "memring1";
/// Highest memory life: 12 bits of an item's flags.
pub(super) const INC_MAX: u16 = 4095;

/// The key of a node's record: one per node and pool, `~r` for the pool of a list and
/// `~r:NAME` for a named one.
pub fn record_key(pool: Option<&str>) -> Vec<u8> {
    let mut key = b"~r".to_vec();
    if let Some(name) = pool {
        key.push(b':');
        let rule = KeyRule::default();
        // An empty name cannot be; then the bare colon is the key.
        let _ = rule.append(name.as_bytes(), &mut key);
    }
    key
}

impl Record {
    /// The record of a node met without one: joining, in a life of its own.
    pub fn new(inc: u16, id: u64) -> Record {
        Record {
            trust: Trust::Joining,
            inc: inc.clamp(1, INC_MAX),
            id,
            epoch: 0,
            committed: 0,
            nodes: 0,
            absent: Vec::new(),
        }
    }

    /// What it says of the pool's node lists.
    pub fn epochs(&self) -> Epochs {
        Epochs {
            seen: self.epoch,
            committed: self.committed,
            nodes: self.nodes,
        }
    }

    /// The same, and of node lists what it says together with `epochs`.
    #[must_use]
    pub fn with(&self, epochs: Epochs) -> Record {
        let joined = self.epochs().joined(epochs);
        Record {
            epoch: joined.seen,
            committed: joined.committed,
            nodes: joined.nodes,
            ..self.clone()
        }
    }

    /// The next life: what was stored so far becomes a hint.
    #[must_use]
    pub fn reborn(&self) -> Record {
        Record {
            trust: Trust::Joining,
            inc: if self.inc >= INC_MAX { 1 } else { self.inc + 1 },
            ..self.clone()
        }
    }

    /// The same as it is read where the node is in doubt ([`super::Command::DoubtRecord`]): joining,
    /// and under another name, so that nobody goes on with what he began under the one it had.
    #[must_use]
    pub fn doubted(&self) -> Record {
        Record {
            trust: Trust::Joining,
            id: mix(self.id, 1),
            ..self.clone()
        }
    }

    /// The same, believed.
    #[must_use]
    pub fn trusted(&self) -> Record {
        Record {
            trust: Trust::Trusted,
            ..self.clone()
        }
    }

    /// Is `node` among those that missed a write?
    pub fn lists(&self, node: &str) -> bool {
        self.absent.iter().any(|absent| *absent.node == *node)
    }

    /// The bytes it is stored as.
    pub fn encode(&self) -> Vec<u8> {
        let trust = match self.trust {
            Trust::Joining => "joining",
            Trust::Trusted => "trusted",
        };
        let mut text = format!(
            "{FORMAT} {trust} {} {:016x} {}",
            self.inc, self.id, self.epoch
        );
        if (self.committed, self.nodes) != (self.epoch, 0) {
            text.push_str(&format!("/{}/{:08x}", self.committed, self.nodes));
        }
        for Absent { node, host, since } in &self.absent {
            text.push_str(&format!(" -{node} {host} {since}"));
        }
        text.into_bytes()
    }

    /// Reads what [`Record::encode`] wrote; `None` for any other format.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut words = text.split(' ');
        if words.next()? != FORMAT {
            return None;
        }
        let trust = match words.next()? {
            "joining" => Trust::Joining,
            "trusted" => Trust::Trusted,
            _ => return None,
        };
        let inc = words.next()?.parse().ok()?;
        let id = u64::from_str_radix(words.next()?, 16).ok()?;
        let mut numbers = words.next()?.split('/');
        let epoch = numbers.next()?.parse().ok()?;
        let (committed, nodes) = match numbers.next() {
            Some(committed) => (
                committed.parse().ok()?,
                u32::from_str_radix(numbers.next()?, 16).ok()?,
            ),
            None => (epoch, 0),
        };
        if numbers.next().is_some() {
            return None;
        }
        let mut absent = Vec::new();
        while let Some(node) = words.next() {
            absent.push(Absent {
                node: node.strip_prefix('-')?.into(),
                host: words.next()?.into(),
                since: words.next()?.parse().ok()?,
            });
        }
        (1..=INC_MAX).contains(&inc).then_some(Record {
            trust,
            inc,
            id,
            epoch,
            committed,
            nodes,
            absent,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    #[test]
    fn a_record_reads_back_and_another_format_is_refused() {
        let mut record = Record::new(17, 0x5f3a_09c2_d81e_6b47);
        assert_eq!(Record::decode(&record.encode()), Some(record.clone()));
        record = record.trusted();
        (record.epoch, record.committed) = (3, 3);
        record.absent.push(Absent {
            node: "10.0.0.2:11211".into(),
            host: "web4".into(),
            since: 1_767_225_600,
        });
        let bytes = record.encode();
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "memring1 trusted 17 5f3a09c2d81e6b47 3 -10.0.0.2:11211 web4 1767225600"
        );
        assert_eq!(Record::decode(&bytes), Some(record));
        let epochs = Epochs {
            seen: 4,
            committed: 3,
            nodes: 0x9be1_f0a2,
        };
        let record = Record::new(2, 1).with(epochs);
        assert!(String::from_utf8_lossy(&record.encode()).ends_with(" 4/3/9be1f0a2"));
        assert_eq!(Record::decode(&record.encode()), Some(record));
        for strange in [
            "memring1 trusted 17 5f3a09c2d81e6b47 4/3",
            "memring1 trusted 17 5f3a09c2d81e6b47 4/3/1/1",
            "memring2 trusted 17 5f3a09c2d81e6b47 3",
            "memring1 trusted 0 5f3a09c2d81e6b47 3",
            "memring1 trusted 4096 5f3a09c2d81e6b47 3",
            "memring1 trusted 17 5f3a09c2d81e6b47 3 -a b",
            "memring1 trusted 17",
            "",
        ] {
            assert_eq!(Record::decode(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn a_new_life_has_another_number_and_is_not_trusted() {
        let record = Record::new(INC_MAX, 1).trusted();
        assert_eq!(record.reborn().inc, 1);
        assert_eq!(record.reborn().trust, Trust::Joining);
        assert_eq!(Record::new(7, 1).reborn().inc, 8);
    }
}
