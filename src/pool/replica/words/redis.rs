//! The machines' commands as Redis' words, and its answers as their replies.
//!
//! Each command is one call of the script of `wire::redis::fenced`, which does what memcached's
//! line does on a server with `E`. Answers come in the order of the questions and name neither
//! key nor number: which answer is whose is the connection's to know, and a connection on which
//! one was late is closed, as everywhere.
//!
//! A Redis can come back with an old copy of its memory, record and all. So a record says in which
//! process it was written, and one that was written in another is not believed: it reads as the
//! same node in its next life, joining. What the old copy holds is of an earlier life then, and a
//! hint. The first change of such a record makes it the present process' own.

use super::super::{Command, Item, Over, PLACEHOLDER_LIFE, Record, Reply};
use super::super::{Token, Version};
use super::{flags_of, longest_life, stamp_of};
use crate::wire::fenced::{FOR_EVER, Flags, LIFE_MAX};
use crate::wire::redis::Shape;
use crate::wire::redis::fenced::{self, Process, Put, Saying, Shown, Told};
use crate::wire::{self, Expect};
use std::sync::Arc;

/// What [`Words::read`] says where the server did not know the script: it did nothing.
pub const NO_SCRIPT: &str = "the server does not know the script";

/// How one machine's commands are said to one Redis.
#[derive(Clone, Copy, Debug)]
pub struct Words<'a> {
    /// The machine's key as it goes over the wire.
    pub key: &'a [u8],
    /// The key of the node's record.
    pub record_key: &'a [u8],
    /// Who answers on the connection.
    pub process: Option<Process>,
    /// Say the script in full.
    pub whole: bool,
}

impl Words<'_> {
    /// Appends `command` to `out`, and the shape of its one answer to `asks`.
    pub fn say(&self, command: &Command, out: &mut Vec<u8>, asks: &mut Vec<Expect>) {
        let whole = self.whole;
        let record = Saying {
            key: self.record_key,
            whole,
        };
        let item = Saying {
            key: self.key,
            whole,
        };
        let mut shape = Shape::Word;
        match command {
            Command::ReadRecord => {
                fenced::record(out, self.record_key);
                shape = Shape::List;
            }
            Command::AddRecord(new) => record.add_record(out, &new.encode()),
            Command::SetRecord { cas, record: new } => {
                record.set_record(out, *cas, &new.encode());
            }
            Command::DoubtRecord { cas } => record.doubt_record(out, *cas),
            Command::Read { value, token } => {
                item.read(out, *value, token.then_some(PLACEHOLDER_LIFE));
                shape = Shape::List;
            }
            Command::Write {
                over,
                stamp,
                life,
                data,
            } => {
                let flags = flags_of(*stamp);
                // As on memcached, whose limit Redis has not: of one session all copies live
                // equally long, and every tombstone longer.
                let longest = longest_life(*stamp);
                let put = Put {
                    over: match over {
                        Over::Cas(cas) => Some(*cas),
                        Over::Nothing => None,
                    },
                    cas: stamp.version.cas(stamp.inc),
                    flags: flags.word(),
                    life: (*life).clamp(1, longest),
                    value: data,
                };
                item.store(out, put);
            }
            Command::Unlock { cas, version, life } => {
                let life = life.map(|life| life.clamp(1, LIFE_MAX));
                item.unlock(out, *cas, version.cas_beside(*cas), life);
            }
            Command::Touch { life } => {
                item.touch(out, (*life).clamp(1, LIFE_MAX));
                shape = Shape::List;
            }
            Command::Remove { cas } => item.remove(out, *cas),
        }
        asks.push(Expect::Redis(shape));
    }

    /// Makes of the server's answer to `command`, whose spans lie in `buffer`, the machine's
    /// reply.
    ///
    /// # Errors
    /// What is wrong with the answer. [`NO_SCRIPT`] is told apart: the server did nothing.
    pub fn read(
        &self,
        command: &Command,
        reply: wire::Reply,
        buffer: &[u8],
    ) -> Result<Reply, &'static str> {
        use wire::Reply as Said;
        let asks_for_list = match command {
            Command::ReadRecord | Command::Read { .. } | Command::Touch { .. } => true,
            Command::AddRecord(_)
            | Command::SetRecord { .. }
            | Command::DoubtRecord { .. }
            | Command::Write { .. }
            | Command::Unlock { .. }
            | Command::Remove { .. } => false,
        };
        match (reply, command) {
            (Said::NoScript, _) => Err(NO_SCRIPT),
            // Somebody else's key of another kind has that name.
            (Said::ClientError(_), Command::ReadRecord) => Ok(Reply::StrangeRecord),
            (Said::ServerError(line) | Said::ClientError(line) | Said::Unknown(line), _) => {
                match (refusal(line.of(buffer))?, command) {
                    // No room for a placeholder: there is nothing, and nothing was made.
                    (Reply::Refused, Command::Read { .. }) => Ok(Reply::Miss),
                    (refused, _) => Ok(refused),
                }
            }
            (Said::List(list), Command::ReadRecord) => match Told::of(buffer, list)? {
                Some(told) => Ok(self.record(told, buffer)),
                None => Ok(Reply::NoRecord),
            },
            (Said::List(list), Command::Read { value, token }) => {
                shown(buffer, list, *value, *token)
            }
            (Said::List(list), Command::Touch { .. }) => shown(buffer, list, false, false),
            (Said::NotFound, Command::Read { token: true, .. } | Command::ReadRecord) => {
                Err("nothing, where something was to be made")
            }
            (Said::NotFound, _) if asks_for_list => Ok(Reply::Miss),
            (_, _) if asks_for_list => Err("an answer in other words than the question"),
            (Said::Done, Command::Write { stamp, .. }) => Ok(Reply::Done {
                cas: stamp.version.cas(stamp.inc),
            }),
            (Said::Done, Command::Unlock { cas, version, .. }) => Ok(Reply::Done {
                cas: version.cas_beside(*cas),
            }),
            (Said::Done, _) => Ok(Reply::Done { cas: 0 }),
            (Said::NotFound, _) => Ok(Reply::NotFound),
            (Said::Exists, _) => Ok(Reply::Exists),
            (Said::NotStored, _) => Ok(Reply::NotStored),
            _ => Err("an answer in other words than the question"),
        }
    }

    fn record(&self, told: Told, buffer: &[u8]) -> Reply {
        let Some(mut record) = Record::decode(told.text.of(buffer)) else {
            return Reply::StrangeRecord;
        };
        if told.process.is_none() || told.process != self.process {
            record = record.reborn();
        }
        if told.doubted {
            record = record.doubted();
        }
        Reply::Record {
            record,
            cas: told.cas,
        }
    }
}

fn shown(
    buffer: &[u8],
    list: crate::item::Span,
    value: bool,
    token: bool,
) -> Result<Reply, &'static str> {
    let shown = Shown::of(buffer, list).ok_or("an item without its particulars")?;
    if shown.value.is_some() != value {
        return Err("a value that was not asked for, or none where one was");
    }
    Ok(Reply::Item(Item {
        cas: shown.cas,
        stamp: stamp_of(Version::of_cas(shown.cas), Flags::of(shown.flags)),
        data: shown.value.map(|span| Arc::from(span.of(buffer))),
        left: shown.left.unwrap_or(FOR_EVER),
        token: match (shown.won, token || shown.taken) {
            (true, _) => Token::Won,
            // Asked for and not given: somebody has it, or it has no end and nobody can.
            (false, true) => Token::Taken,
            (false, false) => Token::Free,
        },
    }))
}

/// What the server refuses with.
fn refusal(line: &[u8]) -> Result<Reply, &'static str> {
    let begins = |word: &str| line.starts_with(word.as_bytes());
    // Some versions put another sign before what a script was refused with.
    if begins("OOM") || begins("-OOM") {
        return Ok(Reply::Refused);
    }
    Err(if begins("NOPERM") {
        "its access list does not allow EVAL, EVALSHA and what they need"
    } else if begins("READONLY") {
        "it is a replica"
    } else if begins("MISCONF") {
        "it cannot write its data to disk and therefore takes none"
    } else {
        "the server is in trouble of its own"
    })
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop at the first surprise"
)]
mod tests {
    use super::*;
    use crate::replica::Stamp;
    use crate::wire::Parsed;
    use crate::wire::redis::answer;

    const RUN: &str = "5f3a09c2d81e6b475f3a09c2d81e6b475f3a09c2";
    const STAMP: Stamp = Stamp {
        version: Version(1024),
        inc: 17,
        tombstone: false,
        mended: false,
        witness: false,
    };

    fn words() -> Words<'static> {
        Words {
            key: b"a",
            record_key: b"~r",
            process: Process::of(RUN.as_bytes()),
            whole: false,
        }
    }

    fn read(value: bool, token: bool) -> Command {
        Command::Read { value, token }
    }

    fn write(tombstone: bool, life: u32) -> Command {
        Command::Write {
            over: Over::Cas(9),
            stamp: Stamp { tombstone, ..STAMP },
            life,
            data: Arc::from(b"xyz".as_slice()),
        }
    }

    /// The words behind script, key and what they are about.
    fn said(command: &Command) -> Vec<String> {
        let (mut out, mut asks) = (Vec::new(), Vec::new());
        words().say(command, &mut out, &mut asks);
        assert_eq!(asks.len(), 1);
        let Parsed::Reply(used, wire::Reply::List(list)) = answer::parse(&out, 0, Shape::List)
        else {
            panic!("no command");
        };
        assert_eq!(used, out.len());
        let parts = answer::parts(&out, list).unwrap();
        let text = |part: &answer::Part| match part {
            answer::Part::Bytes(span) => String::from_utf8_lossy(span.of(&out)).into_owned(),
            other => panic!("{other:?}"),
        };
        let skip = if *command == Command::ReadRecord {
            0
        } else {
            3
        };
        parts.iter().skip(skip).map(text).collect()
    }

    fn heard(command: &Command, bytes: &str) -> Result<Reply, &'static str> {
        let mut asks = Vec::new();
        words().say(command, &mut Vec::new(), &mut asks);
        match wire::parse(bytes.as_bytes(), 0, asks.remove(0)) {
            Parsed::Reply(_, reply) => words().read(command, reply, bytes.as_bytes()),
            Parsed::Garbage(what) => Err(what),
            Parsed::More(_) => panic!("{bytes:?} is not whole"),
        }
    }

    #[test]
    fn commands_are_said_as_a_word_and_what_it_takes() {
        let record = Record::new(3, 0xabc);
        let text = "memring1 joining 3 0000000000000abc 0";
        for (command, wanted) in [
            (Command::ReadRecord, "HMGET ~r r c i k".to_owned()),
            (
                Command::AddRecord(record.clone()),
                format!("~r add  {text}"),
            ),
            (
                Command::SetRecord { cas: 5, record },
                format!("~r set 5 {text}"),
            ),
            (Command::DoubtRecord { cas: 5 }, "~r doubt 5".into()),
            (read(false, false), "a read  ".into()),
            (read(true, true), "a read 30000 v".into()),
            (write(false, 60), "a store 9 1041 17825792 60000 xyz".into()),
            (
                Command::Unlock {
                    cas: 9,
                    version: Version(1280),
                    life: Some(60),
                },
                "a unlock 9 1289 60000".into(),
            ),
            (Command::Touch { life: 60 }, "a touch 60000 ".into()),
            (Command::Remove { cas: 9 }, "a remove 9".into()),
        ] {
            assert_eq!(said(&command).join(" "), wanted);
        }
        assert_eq!(said(&write(false, u32::MAX))[5], "2591880000");
        assert_eq!(said(&write(true, u32::MAX))[5], "2592000000");
    }

    #[test]
    fn answers_are_what_the_machines_know() {
        let item = |cas, stamp, data: Option<&str>, left, token| {
            Ok(Reply::Item(Item {
                cas,
                stamp,
                data: data.map(|data| Arc::from(data.as_bytes())),
                left,
                token,
            }))
        };
        let stamp = Some(STAMP);
        for (command, bytes, wanted) in [
            (read(false, false), "*-1\r\n", Ok(Reply::Miss)),
            (
                read(true, true),
                "*5\r\n$4\r\n1041\r\n$8\r\n17825792\r\n:59001\r\n$1\r\nW\r\n$3\r\nxyz\r\n",
                item(1041, stamp, Some("xyz"), 60, Token::Won),
            ),
            (
                read(false, true),
                "*4\r\n$4\r\n1041\r\n$8\r\n17825792\r\n:1\r\n$1\r\nZ\r\n",
                item(1041, stamp, None, 1, Token::Taken),
            ),
            (
                read(false, false),
                "*4\r\n$4\r\n1041\r\n$8\r\n17825792\r\n:0\r\n$1\r\n-\r\n",
                item(1041, stamp, None, 0, Token::Free),
            ),
            // Somebody else's, on which nobody gets the token.
            (
                read(true, true),
                "*5\r\n$2\r\n77\r\n$1\r\n0\r\n:-1\r\n$1\r\n-\r\n$2\r\nhi\r\n",
                item(77, None, Some("hi"), FOR_EVER, Token::Taken),
            ),
            (write(false, 9), ":1\r\n", Ok(Reply::Done { cas: 1041 })),
            (write(false, 9), ":2\r\n", Ok(Reply::Exists)),
            (write(false, 9), ":0\r\n", Ok(Reply::NotFound)),
            (write(false, 9), ":3\r\n", Ok(Reply::NotStored)),
            (write(false, 9), "-OOM no room\r\n", Ok(Reply::Refused)),
            (read(true, true), "-OOM no room\r\n", Ok(Reply::Miss)),
            (write(false, 9), "-NOSCRIPT no\r\n", Err(NO_SCRIPT)),
            (write(false, 9), "-READONLY x\r\n", Err("it is a replica")),
            (
                Command::ReadRecord,
                "-WRONGTYPE x\r\n",
                Ok(Reply::StrangeRecord),
            ),
            (
                Command::ReadRecord,
                "*4\r\n$-1\r\n$-1\r\n$-1\r\n$-1\r\n",
                Ok(Reply::NoRecord),
            ),
        ] {
            assert_eq!(heard(&command, bytes), wanted, "{bytes:?}");
        }
        for (command, bytes) in [
            (read(false, true), "*-1\r\n"),
            (read(false, false), ":1\r\n"),
            (
                read(true, false),
                "*4\r\n$4\r\n1041\r\n$8\r\n17825792\r\n:1\r\n$1\r\nZ\r\n",
            ),
            (
                read(false, false),
                "*4\r\n$1\r\n0\r\n$8\r\n17825792\r\n:1\r\n$1\r\nZ\r\n",
            ),
            (Command::ReadRecord, "*-1\r\n"),
            (Command::ReadRecord, "*1\r\n$-1\r\n"),
            (write(false, 9), ":4\r\n"),
            (write(false, 9), "*0\r\n"),
        ] {
            assert!(heard(&command, bytes).is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn a_record_of_another_process_is_of_an_earlier_life_and_not_believed() {
        let stored = Record::new(17, 5).trusted();
        let text = String::from_utf8(stored.encode()).unwrap();
        let told = |process: &str, mark: &str| {
            let text = format!(
                "*4\r\n${}\r\n{text}\r\n$2\r\n77\r\n${}\r\n{process}\r\n{mark}\r\n",
                text.len(),
                process.len()
            );
            match heard(&Command::ReadRecord, &text) {
                Ok(Reply::Record { record, cas: 77 }) => record,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(RUN, "$1\r\n1"), stored);
        assert_eq!(told(RUN, "$-1"), Record::new(17, 5).doubted(), "doubted");
        let other = RUN.replace('5', "6");
        assert_eq!(told(&other, "$1\r\n1"), Record::new(18, 5));
        assert_eq!(told("", "$1\r\n1"), Record::new(18, 5));
    }
}
