//! The commands of the copies on real servers: what each promises to the machines, as said by `replica::words`.
//!
//! Every test runs on the memcached of this machine and on the one that MEMRING_MEMCACHED_NEW names, each spoken to
//! without versions and, where it has `E`, with them; and on this machine's Redis and the ones that
//! MEMRING_REDIS_NEW and MEMRING_VALKEY name.

mod limits;
mod redis_alone;

use harness::{Memcached, Redis};
use memring_pool::replica::words::{Speech, Words, redis};
use memring_pool::replica::{Command, Item, Over, Record, Reply, Stamp, Token, Version};
use memring_pool::wire::redis::fenced::Process;
use memring_pool::wire::{self, Expect, Parsed, fenced};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

const KEY: &str = "sess:abc";
const RECORD: &str = "~r";

/// A first version, and one above it.
const FIRST: Version = Version(0x0123_4567_89ab_cd00);
const SECOND: Version = Version(0x0123_4567_89ab_cf00);

/// One connection to one server.
struct Talk {
    stream: TcpStream,
    /// Cas values are versions.
    has_e: bool,
    /// It is a Redis, this process of it.
    process: Option<Process>,
    /// Other words than usual.
    words: Option<Speech<'static>>,
    opaque: u64,
    /// All that was asked and answered: command, opaque, the answer's bytes.
    heard: Vec<(Command, u64, Vec<u8>)>,
}

impl Talk {
    fn to(server: &Memcached, has_e: bool) -> Talk {
        Talk::at(server.port(), has_e, None)
    }

    fn to_redis(server: &Redis) -> Talk {
        let process = Process::of(server.info("run_id").as_bytes());
        Talk::at(server.port(), true, Some(process.unwrap()))
    }

    fn at(port: u16, has_e: bool, process: Option<Process>) -> Talk {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        let limit = Some(Duration::from_secs(5));
        stream.set_read_timeout(limit).unwrap();
        stream.set_nodelay(true).unwrap();
        Talk {
            stream,
            has_e,
            process,
            words: None,
            opaque: 0,
            heard: Vec::new(),
        }
    }

    fn words(&self) -> Speech<'static> {
        let (key, record_key) = (KEY.as_bytes(), RECORD.as_bytes());
        if let Some(words) = self.words {
            return words;
        }
        match self.process {
            None => Speech::Memcached(Words {
                key,
                record_key,
                has_e: self.has_e,
            }),
            Some(process) => Speech::Redis(redis::Words {
                key,
                record_key,
                process: Some(process),
                whole: true,
            }),
        }
    }

    /// Sends all in one pipeline, and reads the answers byte by byte: each is "not yet" until its last byte is there.
    fn pipeline(&mut self, commands: &[Command]) -> Vec<Result<Reply, &'static str>> {
        let (mut out, mut asks) = (Vec::new(), Vec::new());
        let first = self.opaque + 1;
        for command in commands {
            self.opaque += 1;
            self.words().say(command, self.opaque, &mut out, &mut asks);
        }
        assert_eq!(asks.len(), commands.len());
        self.stream.write_all(&out).unwrap();
        let mut replies = Vec::new();
        for ((opaque, command), expect) in (first..).zip(commands).zip(asks) {
            let (reply, buffer) = self.next(expect);
            replies.push(self.words().read(command, opaque, reply, &buffer));
            self.heard.push((command.clone(), opaque, buffer));
        }
        replies
    }

    /// The next whole answer and its bytes.
    fn next(&mut self, expect: Expect) -> (wire::Reply, Vec<u8>) {
        let mut buffer = Vec::new();
        loop {
            let mut byte = [0];
            self.stream.read_exact(&mut byte).unwrap();
            buffer.push(byte[0]);
            match parsed(&buffer, expect) {
                Parsed::More(missing) => assert!(missing > 0),
                Parsed::Reply(used, reply) => {
                    assert_eq!(used, buffer.len());
                    return (reply, buffer);
                }
                Parsed::Garbage(what) => panic!("{what}: {}", String::from_utf8_lossy(&buffer)),
            }
        }
    }

    fn ask(&mut self, command: Command) -> Reply {
        let shown = format!("{command:?}");
        let reply = self.pipeline(&[command]).remove(0);
        reply.unwrap_or_else(|why| {
            let last = self.heard.last().map(|(_, _, bytes)| bytes.clone());
            let bytes = last.unwrap_or_default();
            panic!("{shown}: {why}: {}", String::from_utf8_lossy(&bytes))
        })
    }

    /// The item as a read shows it.
    fn item(&mut self, value: bool, token: bool) -> Item {
        match self.ask(Command::Read { value, token }) {
            Reply::Item(item) => item,
            other => panic!("not an item: {other:?}"),
        }
    }

    /// The record as a read shows it, and its cas value.
    fn record(&mut self) -> (Record, u64) {
        match self.ask(Command::ReadRecord) {
            Reply::Record { record, cas } => (record, cas),
            other => panic!("not a record: {other:?}"),
        }
    }

    fn write(&mut self, over: Over, version: Version, data: &str) -> Reply {
        self.store(over, stamp(version), 100, data.as_bytes())
    }

    fn store(&mut self, over: Over, stamp: Stamp, life: u32, data: &[u8]) -> Reply {
        let data = Arc::from(data);
        self.ask(Command::Write {
            over,
            stamp,
            life,
            data,
        })
    }

    /// Stores a first value over nothing; its cas value.
    fn begin(&mut self) -> u64 {
        match self.write(Over::Nothing, FIRST, "first") {
            Reply::Done { cas } => cas,
            other => panic!("not stored: {other:?}"),
        }
    }

    fn unlock(&mut self, cas: u64, version: Version, life: Option<u32>) -> Reply {
        self.ask(Command::Unlock { cas, version, life })
    }
}

fn parsed(bytes: &[u8], expect: Expect) -> Parsed {
    wire::parse(bytes, 0, expect)
}

fn stamp(version: Version) -> Stamp {
    Stamp {
        version,
        inc: 17,
        tombstone: false,
        mended: false,
        witness: false,
    }
}

fn has_e(server: &Memcached) -> bool {
    let mut talk = Talk::to(server, true);
    let mut out = Vec::new();
    fenced::probe(&mut out, RECORD.as_bytes(), 1);
    talk.stream.write_all(&out).unwrap();
    matches!(talk.next(Expect::Meta).0, wire::Reply::Meta(_))
}

/// Runs `test` on a server of its own for each kind and version, and each way of speaking.
fn each(test: impl Fn(&mut Talk)) {
    each_memcached(&[], |_, talk| test(talk));
    each_redis(&[], |_, talk| test(talk));
}

/// The same on Redis alone, and on the others of its kind that are named.
fn each_redis(extra: &[&str], test: impl Fn(&Redis, &mut Talk)) {
    let others = ["MEMRING_REDIS_NEW", "MEMRING_VALKEY"];
    let others = others.map(|variable| {
        let server = Redis::newer(variable, extra);
        if server.is_none() {
            harness::leave_out(format!("{variable} names no server"));
        }
        server
    });
    for server in [Some(Redis::with(extra))]
        .into_iter()
        .chain(others)
        .flatten()
    {
        println!("Redis {}", server.info("redis_version"));
        test(&server, &mut Talk::to_redis(&server));
    }
}

/// The same on memcached alone.
fn each_memcached(extra: &[&str], test: impl Fn(&Memcached, &mut Talk)) {
    let newer = Memcached::newer(extra);
    if newer.is_none() {
        harness::leave_out("MEMRING_MEMCACHED_NEW names no newer memcached");
    }
    for mut server in [Some(Memcached::with(extra)), newer].into_iter().flatten() {
        let ways: &[bool] = if has_e(&server) {
            &[true, false]
        } else {
            &[false]
        };
        for with_e in ways {
            println!(
                "{} {}",
                String::from_utf8_lossy(&server.raw("version\r\n", "\r\n")).trim(),
                if *with_e { "with E" } else { "without E" }
            );
            test(&server, &mut Talk::to(&server, *with_e));
            server.restart();
        }
    }
}

#[test]
fn the_newer_memcached_has_versions_and_the_probe_changes_nothing() {
    let Some(server) = Memcached::newer(&[]) else {
        harness::skip("MEMRING_MEMCACHED_NEW names no newer memcached");
        return;
    };
    assert!(
        has_e(&server),
        "MEMRING_MEMCACHED_NEW names a memcached before 1.6.27"
    );
    let mut talk = Talk::to(&server, true);
    assert_eq!(talk.ask(Command::ReadRecord), Reply::NoRecord);
    let record = Record::new(1, 7);
    talk.ask(Command::AddRecord(record.clone()));
    let (stored, cas) = talk.record();
    assert_eq!(stored, record);
    assert!(has_e(&server));
    assert_eq!(talk.record(), (record, cas));
}

#[test]
fn a_missing_item_becomes_a_placeholder_that_one_reader_holds() {
    each(|talk| {
        assert_eq!(
            talk.ask(Command::Read {
                value: true,
                token: false
            }),
            Reply::Miss
        );
        let first = talk.item(true, true);
        assert_eq!((first.token, first.stamp), (Token::Won, None));
        assert_eq!(first.left, 30);
        let second = talk.item(true, true);
        assert_eq!((second.token, second.stamp), (Token::Taken, None));
        assert_eq!(second.cas, first.cas);
        assert!((28..=30).contains(&second.left), "{}", second.left);
        // It is there for a store, and in the way of one that wants nothing there.
        assert_eq!(talk.write(Over::Nothing, FIRST, "x"), Reply::NotStored);
        // Its token is freed as an item's is.
        let version = Version(first.cas);
        assert!(matches!(
            talk.unlock(first.cas, version, None),
            Reply::Done { .. }
        ));
        let third = talk.item(false, true);
        assert_eq!((third.token, third.stamp), (Token::Won, None));
        assert!(matches!(
            talk.write(Over::Cas(third.cas), FIRST, "x"),
            Reply::Done { .. }
        ));
        assert_eq!(talk.item(true, false).stamp, Some(stamp(FIRST)));
    });
}

#[test]
fn the_token_is_won_once_and_freed_by_a_write() {
    each(|talk| {
        let cas = talk.begin();
        let won = talk.item(true, true);
        assert_eq!((won.token, won.cas), (Token::Won, cas));
        assert_eq!(won.data.as_deref(), Some(b"first".as_slice()));
        for _ in 0..3 {
            assert_eq!(talk.item(false, true).token, Token::Taken);
        }
        // A look without asking changes nothing, and sees that it is taken.
        assert_eq!(talk.item(false, false).token, Token::Taken);
        assert_eq!(talk.item(false, true).token, Token::Taken);
        assert!(matches!(
            talk.write(Over::Cas(cas), SECOND, "second"),
            Reply::Done { .. }
        ));
        assert_eq!(talk.item(false, false).token, Token::Free);
        assert_eq!(talk.item(false, true).token, Token::Won);
        assert_eq!(talk.item(false, true).token, Token::Taken);
    });
}

#[test]
fn the_token_is_freed_by_an_unlock_that_keeps_version_value_and_life() {
    each(|talk| {
        let cas = talk.begin();
        assert_eq!(talk.item(false, true).token, Token::Won);
        assert_eq!(talk.item(false, true).token, Token::Taken);
        let freed = talk.unlock(cas, FIRST, None);
        // Where versions stand in the header the server makes a new cas value and does not say it.
        let expected = if talk.has_e { cas } else { 0 };
        assert_eq!(freed, Reply::Done { cas: expected });
        let again = talk.item(true, true);
        assert_eq!((again.token, again.stamp), (Token::Won, Some(stamp(FIRST))));
        assert_eq!(again.data.as_deref(), Some(b"first".as_slice()));
        assert_eq!(again.cas == cas, talk.has_e);
        assert!((95..=100).contains(&again.left), "{}", again.left);
        assert_eq!(talk.item(false, true).token, Token::Taken);
        // With a life it is a touch.
        talk.unlock(again.cas, FIRST, Some(500));
        let touched = talk.item(false, true);
        assert_eq!(touched.token, Token::Won);
        assert!((495..=500).contains(&touched.left), "{}", touched.left);
    });
}

#[test]
fn a_touch_gives_a_life_and_leaves_the_token_with_whoever_has_it() {
    each(|talk| {
        assert_eq!(talk.ask(Command::Touch { life: 500 }), Reply::Miss);
        let cas = talk.begin();
        assert_eq!(talk.item(false, true).token, Token::Won);
        let Reply::Item(touched) = talk.ask(Command::Touch { life: 500 }) else {
            panic!("no item");
        };
        assert_eq!((touched.cas, touched.stamp), (cas, Some(stamp(FIRST))));
        let after = talk.item(false, true);
        assert_eq!((after.cas, after.token), (cas, Token::Taken));
        assert!((495..=500).contains(&after.left), "{}", after.left);
    });
}

#[test]
fn a_value_stored_again_in_the_next_life_has_another_cas_value_and_the_same_version() {
    each(|talk| {
        let cas = talk.begin();
        let next = Stamp {
            inc: 18,
            ..stamp(FIRST)
        };
        let again = talk.store(Over::Cas(cas), next, 100, b"first");
        assert!(matches!(again, Reply::Done { .. }), "{again:?}");
        assert_eq!(talk.item(true, false).stamp, Some(next));
        // Who read it in the life before writes over nothing.
        assert_eq!(talk.write(Over::Cas(cas), SECOND, "late"), Reply::Exists);
    });
}

#[test]
fn an_unlocked_item_of_memcached_gives_its_token_to_any_look() {
    each_memcached(&[], |_, talk| {
        let cas = talk.begin();
        talk.unlock(cas, FIRST, None);
        // Nobody asked, and it is given all the same: whoever looks must free it again.
        let look = talk.item(true, false);
        assert_eq!(look.token, Token::Won);
        assert_eq!(talk.item(true, true).token, Token::Taken);
        talk.unlock(look.cas, FIRST, None);
        assert_eq!(talk.item(true, true).token, Token::Won);
    });
}

#[test]
fn an_unlock_over_another_item_or_none_frees_nothing() {
    each(|talk| {
        assert_eq!(talk.unlock(5, FIRST, None), Reply::NotFound);
        assert_eq!(talk.ask(Command::Remove { cas: 5 }), Reply::NotFound);
        let cas = talk.begin();
        assert_eq!(talk.item(false, true).token, Token::Won);
        assert_eq!(talk.unlock(cas + 1, SECOND, Some(5)), Reply::Exists);
        let kept = talk.item(false, true);
        assert_eq!((kept.token, kept.cas), (Token::Taken, cas));
        assert!(kept.left > 90, "{}", kept.left);
        assert_eq!(talk.ask(Command::Remove { cas: cas + 1 }), Reply::Exists);
        assert_eq!(talk.ask(Command::Remove { cas }), Reply::Done { cas: 0 });
        let nothing = Command::Read {
            value: false,
            token: false,
        };
        assert_eq!(talk.ask(nothing), Reply::Miss);
    });
}

#[test]
fn a_write_goes_over_what_was_read_and_nothing_else() {
    each(|talk| {
        assert_eq!(talk.write(Over::Cas(7), FIRST, "x"), Reply::NotFound);
        let cas = talk.begin();
        assert_eq!(talk.write(Over::Nothing, SECOND, "x"), Reply::NotStored);
        assert_eq!(talk.write(Over::Cas(cas + 1), SECOND, "x"), Reply::Exists);
        let item = talk.item(true, false);
        assert_eq!((item.cas, item.stamp), (cas, Some(stamp(FIRST))));
        assert_eq!(item.data.as_deref(), Some(b"first".as_slice()));
        let Reply::Done { cas: second } = talk.write(Over::Cas(cas), SECOND, "second") else {
            panic!("refused over what was read")
        };
        assert_eq!(talk.write(Over::Cas(cas), SECOND, "late"), Reply::Exists);
        let item = talk.item(true, false);
        assert_eq!((item.cas, item.stamp), (second, Some(stamp(SECOND))));
        assert_eq!(item.data.as_deref(), Some(b"second".as_slice()));
        // The version is the cas value, or stands apart from it.
        assert_eq!(second == SECOND.cas(17), talk.has_e);
    });
}

#[test]
fn a_taken_over_turn_fences_its_old_owner() {
    each(|talk| {
        let cas = talk.begin();
        assert_eq!(talk.item(true, true).token, Token::Won);
        // Somebody waited long enough, and raises the version by a tick.
        talk.unlock(cas, FIRST.tick(), None);
        let taken = talk.item(true, true);
        assert_eq!(taken.token, Token::Won);
        assert_eq!(talk.write(Over::Cas(cas), SECOND, "late"), Reply::Exists);
        assert!(matches!(
            talk.write(Over::Cas(taken.cas), SECOND, "second"),
            Reply::Done { .. }
        ));
    });
}

#[test]
fn a_tombstone_is_seen_by_its_flag_with_and_without_the_value() {
    each(|talk| {
        let cas = talk.begin();
        let grave = Stamp {
            tombstone: true,
            ..stamp(SECOND)
        };
        assert!(matches!(
            talk.store(Over::Cas(cas), grave, 220, b""),
            Reply::Done { .. }
        ));
        for value in [false, true] {
            let item = talk.item(value, false);
            assert_eq!(item.stamp, Some(grave));
            assert!((210..=220).contains(&item.left), "{}", item.left);
            if value {
                assert_eq!(item.data.as_deref(), Some(b"".as_slice()));
            }
        }
        // It holds a turn as any item does, and nothing is stored over it unseen.
        assert_eq!(talk.item(false, true).token, Token::Won);
        assert_eq!(talk.item(false, true).token, Token::Taken);
        assert_eq!(talk.write(Over::Nothing, FIRST, "x"), Reply::NotStored);
        assert_eq!(talk.write(Over::Cas(cas), FIRST, "x"), Reply::Exists);
    });
}

#[test]
fn values_of_every_byte_and_of_a_large_size_come_back_whole() {
    each(|talk| {
        let mut over = Over::Nothing;
        for data in [
            Vec::new(),
            (0..=255).collect::<Vec<u8>>(),
            b"\r\nHD c1\r\n".repeat(9),
            vec![b'x'; 100_000],
        ] {
            let Reply::Done { cas } = talk.store(over, stamp(FIRST), 100, &data) else {
                panic!("{} bytes were not stored", data.len())
            };
            over = Over::Cas(cas);
            let item = talk.item(true, false);
            assert_eq!(item.stamp, Some(stamp(FIRST)));
            assert!(item.data.as_deref() == Some(&data), "{} bytes", data.len());
        }
    });
}

#[test]
fn a_record_is_added_once_and_changed_only_over_the_one_that_was_read() {
    each(|talk| {
        assert_eq!(talk.ask(Command::ReadRecord), Reply::NoRecord);
        let joining = Record::new(3, 0x5f3a);
        let set = |cas, record: &Record| Command::SetRecord {
            cas,
            record: record.clone(),
        };
        assert_eq!(talk.ask(set(1, &joining)), Reply::NotFound);
        let done = Reply::Done { cas: 0 };
        assert_eq!(talk.ask(Command::AddRecord(joining.clone())), done);
        let other = Record::new(9, 9);
        assert_eq!(talk.ask(Command::AddRecord(other)), Reply::NotStored);
        let (stored, cas) = talk.record();
        assert_eq!(stored, joining);
        let trusted = joining.trusted();
        assert_eq!(talk.ask(set(cas + 1, &trusted)), Reply::Exists);
        assert_eq!(talk.ask(set(cas, &trusted)), done);
        assert_eq!(talk.ask(set(cas, &joining)), Reply::Exists);
        let (stored, second) = talk.record();
        assert!(stored == trusted && second != cas);
        // What is not believed any more is another record, too.
        let doubt = |cas| Command::DoubtRecord { cas };
        assert_eq!(talk.ask(doubt(cas)), Reply::Exists);
        assert_eq!(talk.ask(doubt(second)), done);
        assert_eq!(talk.ask(doubt(second)), Reply::Exists);
        let (stored, third) = talk.record();
        assert_eq!(stored, trusted.doubted());
        assert_eq!(talk.ask(set(second, &trusted)), Reply::Exists);
        assert_eq!(talk.ask(set(third, &trusted)), done);
        assert_eq!(talk.record().0, trusted);
    });
}

#[test]
fn a_record_of_memcached_has_no_end_and_another_format_is_told_apart() {
    each_memcached(&[], |server, talk| {
        talk.ask(Command::AddRecord(Record::new(3, 0x5f3a)));
        // It has no end, and its key is not the item's.
        let life = server.raw(format!("mg {RECORD} t\r\n"), "\r\n");
        assert_eq!(life, b"HD t-1\r\n");
        server.raw(format!("ms {RECORD} 9\r\nmemring2 \r\n"), "\r\n");
        assert_eq!(talk.ask(Command::ReadRecord), Reply::StrangeRecord);
    });
}

#[test]
fn a_pipeline_is_answered_in_order_each_by_itself() {
    each(|talk| {
        let replies = talk.pipeline(&[
            Command::ReadRecord,
            Command::AddRecord(Record::new(1, 1)),
            Command::Read {
                value: true,
                token: true,
            },
            Command::Read {
                value: false,
                token: true,
            },
            Command::Unlock {
                cas: 1,
                version: FIRST,
                life: None,
            },
            Command::ReadRecord,
        ]);
        let replies: Vec<Reply> = replies.into_iter().map(Result::unwrap).collect();
        assert!(
            matches!(
                replies.as_slice(),
                [
                    Reply::NoRecord,
                    Reply::Done { .. },
                    Reply::Item(Item {
                        token: Token::Won,
                        ..
                    }),
                    Reply::Item(Item {
                        token: Token::Taken,
                        ..
                    }),
                    Reply::Exists,
                    Reply::Record { .. },
                ]
            ),
            "{replies:?}"
        );
    });
}
