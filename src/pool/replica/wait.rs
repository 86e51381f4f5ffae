//! A node that cannot be given what it lacks, since another one lists its keys to nobody: it is
//! trusted when all that it may lack has ended.
//!
//! ```text
//!   joining, listed by nobody ─► noted on the node: in which life, and when by its own clock
//!        ▲                                  │
//!        ├── listed, doubted, renamed; ◄────┤
//!        │   another process, list          └─► the longest life later ─► trusted
//!        └──────────┘
//! ```
//!
//! What was acknowledged before it was noted ends within the longest life that anything has, unless
//! somebody extends it or writes it anew. Whoever does that does it on this node, too, and stores what
//! is missing there; or he lists it as absent before he is acknowledged, and then the wait begins
//! anew, as it does for everything else that may have taken something from the node. So what is
//! left after that time is here.
//!
//! The node's server counts the seconds, as it does for the ends of items: no two clocks are
//! compared. And the note says since when, not until when: if it is lost the wait begins anew, and a
//! shorter or longer life that somebody writes into the pool's file counts at once.

use super::{Epochs, Record, Trust};

/// The word a note begins with; another number is another format.
const FORMAT: &str = "memring1";

/// Where a server's own clock stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Which process it is.
    pub process: u64,
    /// For how long it has been running, seconds.
    pub uptime: i64,
}

/// The note on a node that it waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Waiting {
    id: u64,
    inc: u16,
    epochs: Epochs,
    since: Moment,
}

impl Waiting {
    /// A wait that begins now, on the node of this record.
    pub fn begin(record: &Record, now: Moment) -> Waiting {
        Waiting {
            id: record.id,
            inc: record.inc,
            epochs: record.epochs(),
            since: now,
        }
    }

    /// Is it that of the node as its record is now?
    pub fn is_of(&self, record: &Record) -> bool {
        record.trust == Trust::Joining
            && (record.id, record.inc) == (self.id, self.inc)
            && record.epochs() == self.epochs
    }

    /// How long it has lasted, seconds; `None` where it was begun in another process.
    pub fn lasted(&self, now: Moment) -> Option<u64> {
        let same = now.process == self.since.process;
        let lasted = now.uptime.checked_sub(self.since.uptime)?;
        u64::try_from(lasted).ok().filter(|_| same)
    }

    /// The bytes it is stored as: `memring1 ID INC EPOCH/COMMITTED/NODES PROCESS SINCE`.
    pub fn encode(&self) -> Vec<u8> {
        let Waiting {
            id,
            inc,
            epochs,
            since,
        } = self;
        let Epochs {
            seen,
            committed,
            nodes,
        } = epochs;
        let Moment { process, uptime } = since;
        format!("{FORMAT} {id:016x} {inc} {seen}/{committed}/{nodes:08x} {process:016x} {uptime}")
            .into_bytes()
    }

    /// Reads what [`Waiting::encode`] wrote; `None` for any other format.
    pub fn decode(bytes: &[u8]) -> Option<Waiting> {
        let text = std::str::from_utf8(bytes).ok()?;
        let words = text.strip_prefix(FORMAT)?.strip_prefix(' ')?;
        let mut words = words.split([' ', '/']);
        let hex = |word: Option<&str>| u64::from_str_radix(word?, 16).ok();
        let number = |word: Option<&str>| word?.parse::<i64>().ok();
        let waiting = Waiting {
            id: hex(words.next())?,
            inc: u16::try_from(number(words.next())?).ok()?,
            epochs: Epochs {
                seen: u32::try_from(number(words.next())?).ok()?,
                committed: u32::try_from(number(words.next())?).ok()?,
                nodes: u32::try_from(hex(words.next())?).ok()?,
            },
            since: Moment {
                process: hex(words.next())?,
                uptime: number(words.next())?,
            },
        };
        words.next().is_none().then_some(waiting)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;

    const NOW: Moment = Moment {
        process: 0xabc,
        uptime: 700,
    };

    #[test]
    fn a_wait_reads_back_and_another_format_is_none() {
        let record = Record {
            epoch: 4,
            committed: 3,
            nodes: 0x9be1_f0a2,
            ..Record::new(17, 0x5f3a)
        };
        let waiting = Waiting::begin(&record, NOW);
        let text = String::from_utf8(waiting.encode()).unwrap();
        assert_eq!(
            text,
            "memring1 0000000000005f3a 17 4/3/9be1f0a2 0000000000000abc 700"
        );
        assert_eq!(Waiting::decode(text.as_bytes()), Some(waiting));
        for strange in [
            "",
            "memring2 0000000000005f3a 17 4/3/9be1f0a2 0000000000000abc 700",
            "memring1 0000000000005f3a 17 4/3/9be1f0a2 0000000000000abc",
            "memring1 0000000000005f3a 17 4/3/9be1f0a2 0000000000000abc 700 1",
            "memring1 0000000000005f3a 70000 4/3/9be1f0a2 0000000000000abc 700",
        ] {
            assert_eq!(Waiting::decode(strange.as_bytes()), None, "{strange}");
        }
    }

    #[test]
    fn a_wait_is_over_with_all_that_may_have_taken_something_from_the_node() {
        let record = Record::new(17, 5);
        let waiting = Waiting::begin(&record, NOW);
        let mut other = record.clone();
        other.absent.push(super::super::Absent {
            node: "b:1".into(),
            host: "web1".into(),
            since: 1,
        });
        assert!(waiting.is_of(&record) && waiting.is_of(&other));
        for changed in [
            record.trusted(),
            record.reborn(),
            record.doubted(),
            // Stored again, by who lists another node there, a record in doubt stays another one.
            Record::decode(&record.doubted().encode()).unwrap(),
            record.doubted().doubted(),
            record.with(Epochs {
                seen: 1,
                ..Epochs::default()
            }),
        ] {
            assert!(!waiting.is_of(&changed), "{changed:?}");
        }
        let at = |process, uptime| waiting.lasted(Moment { process, uptime });
        assert_eq!((at(0xabc, 700), at(0xabc, 760)), (Some(0), Some(60)));
        assert_eq!((at(0xabd, 760), at(0xabc, 699)), (None, None));
    }
}
