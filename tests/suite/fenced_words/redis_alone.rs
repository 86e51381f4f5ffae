//! What of it is Redis' alone: scripts by their names, items of other kinds, full memory, old copies of the memory.

use super::{FIRST, KEY, RECORD, SECOND, Talk, each_redis, stamp};
use harness::{Redis, wait_until};
use memring_pool::replica::words::redis::NO_SCRIPT;
use memring_pool::replica::words::{Speech, redis};
use memring_pool::replica::{Absent, Command, Item, Over, Record, Reply, Token, Trust};
use std::sync::Arc;
use std::time::Duration;

const LOOK: Command = Command::Read {
    value: false,
    token: false,
};

fn run(server: &Redis, words: &[&str]) {
    let [name, arguments @ ..] = words else {
        return;
    };
    let command = ::redis::cmd(name).arg(arguments).to_owned();
    command.exec(&mut server.client()).unwrap();
}

#[test]
fn an_unlocked_item_keeps_its_token_for_who_asks_for_it() {
    each_redis(&[], |_, talk| {
        let cas = talk.begin();
        talk.unlock(cas, FIRST, None);
        assert_eq!(talk.item(true, false).token, Token::Free);
        assert_eq!(talk.item(true, true).token, Token::Won);
        assert_eq!(talk.item(true, false).token, Token::Taken);
    });
}

#[test]
fn cas_values_are_compared_to_the_last_bit() {
    each_redis(&[], |_, talk| {
        let cas = talk.begin();
        // Numbers of Lua know none of these from the other.
        for other in [cas - 1, cas + 1, cas ^ 2] {
            assert_eq!(talk.write(Over::Cas(other), SECOND, "x"), Reply::Exists);
            assert_eq!(talk.unlock(other, SECOND, None), Reply::Exists);
            assert_eq!(talk.ask(Command::Remove { cas: other }), Reply::Exists);
        }
        assert_eq!(talk.item(true, false).cas, cas);
    });
}

#[test]
fn each_placeholder_is_another_one() {
    each_redis(&[], |_, talk| {
        let mut seen = Vec::new();
        for _ in 0..200 {
            let item = talk.item(false, true);
            assert!(!seen.contains(&item.cas) && item.cas != 0);
            seen.push(item.cas);
            assert_eq!(
                talk.ask(Command::Remove { cas: item.cas }),
                Reply::Done { cas: 0 }
            );
        }
    });
}

#[test]
fn an_item_of_another_kind_is_somebody_elses_and_holds_no_token() {
    each_redis(&[], |server, talk| {
        for (put, data) in [
            (&["SET", KEY, "abc"][..], "abc"),
            (&["SET", KEY, "abc", "EX", "50"], "abc"),
            (&["RPUSH", KEY, "a", "b"], "list"),
            (&["HSET", KEY, "c", "5"], "hash"),
            (&["HSET", KEY, "c", "five", "f", "1", "d", "x"], "hash"),
        ] {
            run(server, &["DEL", KEY]);
            run(server, put);
            let item = talk.item(true, true);
            assert_eq!((item.stamp, item.token), (None, Token::Taken), "{put:?}");
            assert_eq!(item.left, u32::MAX);
            assert_eq!(item.data.as_deref(), Some(data.as_bytes()));
            assert_eq!(talk.item(false, false).token, Token::Free);
            assert_eq!(talk.unlock(item.cas, FIRST, Some(9)), Reply::Exists);
            assert_eq!(talk.write(Over::Nothing, FIRST, "x"), Reply::NotStored);
            let wrong = Over::Cas(item.cas + 1);
            assert_eq!(talk.write(wrong, FIRST, "x"), Reply::Exists);
            let over = talk.write(Over::Cas(item.cas), FIRST, "x");
            assert!(matches!(over, Reply::Done { .. }), "{over:?}");
            let stored = talk.item(true, false);
            assert_eq!(stored.stamp, Some(stamp(FIRST)));
            assert_eq!(stored.data.as_deref(), Some(b"x".as_slice()));
            assert!((98..=100).contains(&stored.left), "{}", stored.left);
        }
        run(server, &["DEL", KEY]);
        run(server, &["SET", KEY, "abc"]);
        let cas = talk.item(false, false).cas;
        run(server, &["SET", KEY, "abd"]);
        assert_eq!(talk.ask(Command::Remove { cas }), Reply::Exists);
        let cas = talk.item(false, false).cas;
        assert_eq!(talk.ask(Command::Remove { cas }), Reply::Done { cas: 0 });
        assert_eq!(talk.ask(LOOK), Reply::Miss);
    });
}

#[test]
fn an_item_whose_end_was_taken_away_gives_no_token() {
    each_redis(&[], |server, talk| {
        talk.begin();
        run(server, &["PERSIST", KEY]);
        let item = talk.item(false, true);
        assert_eq!((item.token, item.left), (Token::Taken, u32::MAX));
    });
}

#[test]
fn a_record_of_another_kind_or_format_is_strange() {
    each_redis(&[], |server, talk| {
        run(server, &["SET", RECORD, "memring1 trusted 17 5f3a 0"]);
        assert_eq!(talk.ask(Command::ReadRecord), Reply::StrangeRecord);
        let record = Record::new(1, 1);
        assert_eq!(talk.ask(Command::AddRecord(record)), Reply::NotStored);
        run(server, &["DEL", RECORD]);
        run(server, &["HSET", RECORD, "r", "memring2 ", "c", "5"]);
        assert_eq!(talk.ask(Command::ReadRecord), Reply::StrangeRecord);
    });
}

#[test]
fn a_server_that_does_not_know_the_script_does_nothing_and_says_so() {
    each_redis(&[], |server, talk| {
        let cas = talk.begin();
        run(server, &["SCRIPT", "FLUSH"]);
        let Speech::Redis(words) = talk.words() else {
            panic!("no words of Redis");
        };
        talk.words = Some(Speech::Redis(redis::Words {
            whole: false,
            ..words
        }));
        let remove = Command::Remove { cas };
        let replies = talk.pipeline(&[remove.clone(), Command::ReadRecord, LOOK]);
        let no = Err(NO_SCRIPT);
        assert_eq!(replies, [no.clone(), Ok(Reply::NoRecord), no]);
        talk.words = None;
        assert_eq!(talk.item(true, false).cas, cas);
        // Said once in full it is known.
        talk.words = Some(Speech::Redis(redis::Words {
            whole: false,
            ..words
        }));
        assert_eq!(talk.ask(remove), Reply::Done { cas: 0 });
    });
}

#[test]
fn a_server_back_with_an_old_copy_shows_its_record_as_joining_in_the_next_life() {
    each_redis(&[], |_, talk| {
        let trusted = Record::new(17, 5).trusted();
        talk.ask(Command::AddRecord(trusted.clone()));
        let (stored, cas) = talk.record();
        assert_eq!(stored, trusted);
        let own = talk.process;
        // Another process has that record and all.
        talk.process = memring_pool::wire::redis::fenced::Process::of(&[b'7'; 40]);
        let (shown, same) = talk.record();
        assert_eq!((shown.trust, shown.inc, same), (Trust::Joining, 18, cas));
        // Whoever changes it makes it this process' own.
        let set = Command::SetRecord {
            cas,
            record: shown.trusted(),
        };
        assert_eq!(talk.ask(set), Reply::Done { cas: 0 });
        talk.process = own;
        assert_eq!(talk.record().0, shown.trusted());
    });
}

/// Fills the memory until nothing more is stored; then it has far less than a session's room.
fn fill(server: &Redis) {
    let value = "x".repeat(20_000);
    let mut client = server.client();
    let full = (0..10_000).any(|number| {
        let stored: Result<(), _> = ::redis::cmd("SET")
            .arg(format!("filler{number}"))
            .arg(&value)
            .query(&mut client);
        stored.is_err()
    });
    assert!(full, "memory does not fill");
}

#[test]
fn a_full_memory_frees_and_gives_tokens_takes_what_does_not_grow_and_leaves_nothing_of_what_it_refuses()
 {
    each_redis(&["--maxmemory", "4mb"], |server, talk| {
        let trusted = Record::new(3, 0x5f3a).trusted();
        talk.ask(Command::AddRecord(trusted.clone()));
        let cas = talk.begin();
        fill(server);
        assert_eq!(talk.item(false, true).token, Token::Won);
        let done = |reply: &Reply| matches!(reply, Reply::Done { .. });
        assert!(done(&talk.unlock(cas, FIRST.tick(), Some(200))));
        let item = talk.item(false, true);
        assert_eq!(item.token, Token::Won);
        // The same size, and none at all.
        let over = Over::Cas(item.cas);
        assert!(done(&talk.write(over, SECOND, "other")));
        let item = talk.item(true, true);
        assert_eq!(item.data.as_deref(), Some(b"other".as_slice()));
        // Larger with another cas value harms nothing; over its own it is gone.
        let large = "y".repeat(2_000_000);
        let wrong = Over::Cas(item.cas + 1);
        assert_eq!(talk.write(wrong, SECOND, &large), Reply::Exists);
        assert_eq!(talk.item(true, false).cas, item.cas);
        let over = Over::Cas(item.cas);
        assert_eq!(talk.write(over, SECOND, &large), Reply::Refused);
        assert_eq!(talk.ask(LOOK), Reply::Miss);
        assert_eq!(talk.write(Over::Nothing, SECOND, &large), Reply::Refused);
        assert_eq!(talk.ask(LOOK), Reply::Miss);
        // Its room is there for what it was, also where somebody waits with a token meanwhile.
        let placeholder = talk.item(true, true);
        assert_eq!((placeholder.token, placeholder.stamp), (Token::Won, None));
        assert_eq!(placeholder.data.as_deref(), Some(b"".as_slice()));
        assert_eq!(talk.item(true, true).token, Token::Taken);
        assert_eq!(talk.ask(Command::Remove { cas: 7 }), Reply::Exists);
        let over = Over::Cas(placeholder.cas);
        assert_eq!(talk.write(over, SECOND, &large), Reply::Refused);
        assert_eq!(talk.ask(LOOK), Reply::Miss);
        assert!(done(&talk.write(Over::Nothing, SECOND, "other")));
        let item = talk.item(true, true);
        assert_eq!(item.data.as_deref(), Some(b"other".as_slice()));
        assert!(done(&talk.ask(Command::Remove { cas: item.cas })));
        fill(server);
        let placeholder = Command::Read {
            value: true,
            token: true,
        };
        assert_eq!(talk.ask(placeholder), Reply::Miss);
        assert_eq!(talk.write(Over::Nothing, SECOND, "x"), Reply::Refused);
        // Records are small and few: they are changed all the same, and doubted.
        let (_, cas) = talk.record();
        let mut listing = trusted.clone();
        listing.absent.push(Absent {
            node: "10.0.0.2:6379".into(),
            host: "web".into(),
            since: 1_767_225_600,
        });
        let set = Command::SetRecord {
            cas,
            record: listing.clone(),
        };
        assert!(done(&talk.ask(set)));
        let (stored, cas) = talk.record();
        assert_eq!(stored, listing);
        assert!(done(&talk.ask(Command::DoubtRecord { cas })));
        assert_eq!(talk.record().0.trust, Trust::Joining);
    });
}

#[test]
fn a_placeholder_ends_by_itself() {
    each_redis(&[], |server, talk| {
        talk.item(false, true);
        let left: i64 = ::redis::cmd("PTTL")
            .arg(KEY)
            .query(&mut server.client())
            .unwrap();
        assert!((25_000..=30_000).contains(&left), "{left}");
        run(server, &["PEXPIRE", KEY, "20"]);
        let gone = || matches!(talk_of(server).ask(LOOK), Reply::Miss);
        assert!(wait_until(Duration::from_secs(5), gone));
    });
}

fn talk_of(server: &Redis) -> Talk {
    Talk::to_redis(server)
}

/// Every command with every outcome, and what becomes of damaged answers to them.
#[test]
fn damaged_answers_never_stop_the_reader() {
    each_redis(&[], |_, talk| {
        let record = Record::new(3, 4);
        talk.ask(Command::ReadRecord);
        talk.ask(Command::AddRecord(record));
        talk.ask(Command::ReadRecord);
        let cas = talk.begin();
        talk.item(true, true);
        talk.item(false, false);
        talk.unlock(cas + 1, FIRST, None);
        talk.write(Over::Cas(cas), SECOND, "second");
        talk.ask(Command::Write {
            over: Over::Nothing,
            stamp: stamp(FIRST),
            life: 9,
            data: Arc::from(b"x".as_slice()),
        });
        let heard = std::mem::take(&mut talk.heard);
        let words = talk.words();
        let mut random = 5u64;
        let mut below = |limit: usize| {
            random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(11);
            ((random >> 33) % limit.max(1) as u64) as usize
        };
        for _ in 0..60_000 {
            let (_, _, bytes) = &heard[below(heard.len())];
            let (command, opaque, _) = &heard[below(heard.len())];
            let mut bytes = bytes.clone();
            for _ in 0..below(4) {
                let at = below(bytes.len() + 1);
                match below(4) {
                    0 if at < bytes.len() => bytes[at] = below(256) as u8,
                    1 => bytes.insert(at, b" \r\n0-9*$:+_WZ"[below(13)]),
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    _ => bytes.truncate(at),
                }
            }
            let (mut out, mut asks) = (Vec::new(), Vec::new());
            words.say(command, *opaque, &mut out, &mut asks);
            let parsed = super::parsed(&bytes, asks.remove(0));
            if let memring_pool::wire::Parsed::Reply(used, reply) = parsed {
                assert!(used <= bytes.len());
                let read = words.read(command, *opaque, reply, &bytes);
                // What was read is an answer that this command can have.
                if let Ok(Reply::Item(Item { cas, .. })) = read {
                    assert!(cas != 0 && matches!(command, Command::Read { .. }));
                }
                let _ = words.read(command, *opaque, reply, &bytes[..used / 2]);
            }
        }
    });
}
