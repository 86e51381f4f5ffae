//! The same where things end or go wrong: foreign items, lives, full memory, a server that lost its versions, damage.

use super::super::faults;
use super::{FIRST, KEY, RECORD, SECOND, Talk, each, each_memcached, has_e, parsed, stamp};
use harness::{Memcached, wait_until};
use memring_pool::item::Span;
use memring_pool::replica::words::{NO_VERSIONS, VALUE_LIFE_MAX};
use memring_pool::replica::{Absent, Command, Over, Record, Reply, Token};
use memring_pool::wire::{self, Expect, Parsed, fenced};
use std::sync::Arc;
use std::time::Duration;

#[test]
fn an_item_of_somebody_else_has_no_stamp_and_without_an_end_no_token() {
    each_memcached(&[], |server, talk| {
        server.raw(format!("set {KEY} 768 0 3\r\nabc\r\n"), "STORED\r\n");
        let item = talk.item(true, true);
        assert_eq!((item.stamp, item.token), (None, Token::Taken));
        assert_eq!(item.left, u32::MAX);
        assert_eq!(item.data.as_deref(), Some(b"abc".as_slice()));
        server.raw(format!("set {KEY} 768 50 3\r\nabc\r\n"), "STORED\r\n");
        let item = talk.item(true, true);
        assert_eq!((item.stamp, item.token), (None, Token::Won));
        if talk.has_e {
            return;
        }
        // Flag bits of ours over a value without a header, and over the header of another life.
        let flags = life(17);
        server.raw(format!("set {KEY} {flags} 50 3\r\nabc\r\n"), "STORED\r\n");
        assert_eq!(talk.item(false, false).stamp, None);
        let Reply::Done { .. } = talk.ask(Command::Remove {
            cas: talk_cas(server),
        }) else {
            panic!("not removed")
        };
        talk.begin();
        let (_, stored) = server.stored(KEY).unwrap();
        let other = life(18);
        let mut request = format!("set {KEY} {other} 50 {}\r\n", stored.len()).into_bytes();
        request.extend_from_slice(&stored);
        request.extend_from_slice(b"\r\n");
        server.raw(request, "STORED\r\n");
        assert_eq!(talk.item(false, false).stamp, None);
    });
}

/// The item's cas value, from outside.
fn talk_cas(server: &Memcached) -> u64 {
    let line = server.raw(format!("mg {KEY} c\r\n"), "\r\n");
    let line = String::from_utf8(line).unwrap();
    line.trim().strip_prefix("HD c").unwrap().parse().unwrap()
}

#[test]
fn the_longest_life_is_a_life_and_not_a_date_and_a_short_one_ends() {
    each(|talk| {
        let Reply::Done { cas } = talk.store(Over::Nothing, stamp(FIRST), u32::MAX, b"x") else {
            panic!("not stored")
        };
        let left = talk.item(false, false).left;
        assert!(
            (VALUE_LIFE_MAX - 5..=VALUE_LIFE_MAX).contains(&left),
            "{left}"
        );
        let Reply::Done { .. } = talk.store(Over::Cas(cas), stamp(SECOND), 1, b"x") else {
            panic!("not stored")
        };
        let gone = Command::Read {
            value: false,
            token: false,
        };
        assert!(wait_until(Duration::from_secs(10), || {
            talk.ask(gone.clone()) == Reply::Miss
        }));
    });
}

#[test]
fn a_store_too_large_for_the_server_takes_the_item_away_whatever_its_fence_says() {
    let large = vec![b'x'; 2_000_000];
    each_memcached(&[], |_, talk| {
        for over in ["its cas value", "another", "nothing"] {
            let cas = talk.begin();
            let over = match over {
                "its cas value" => Over::Cas(cas),
                "another" => Over::Cas(cas + 1),
                _ => Over::Nothing,
            };
            assert_eq!(talk.store(over, stamp(SECOND), 100, &large), Reply::Refused);
            let look = Command::Read {
                value: false,
                token: false,
            };
            // This is why Refused is no harmless reply. A server that keeps the item is welcome: then this, and
            // the head of wire/fenced.rs, can say so.
            assert_eq!(talk.ask(look), Reply::Miss, "{over:?}");
        }
    });
}

#[test]
fn a_full_memory_refuses_a_larger_value_and_still_frees_tokens() {
    each_memcached(&["-M", "-m", "2"], |server, talk| {
        let cas = talk.begin();
        assert_eq!(talk.item(false, true).token, Token::Won);
        // Fills the memory with items of another size class.
        let mut number = 0;
        loop {
            number += 1;
            let request = format!("ms f{number} 5000 T1000\r\n{}\r\n", "x".repeat(5000));
            if !server.raw(request, "\r\n").starts_with(b"HD") {
                break;
            }
            assert!(number < 10_000, "memory does not fill");
        }
        assert!(matches!(
            talk.unlock(cas, FIRST, Some(200)),
            Reply::Done { .. }
        ));
        let item = talk.item(false, true);
        assert_eq!(item.token, Token::Won);
        let value = vec![b'y'; 4800];
        assert_eq!(
            talk.store(Over::Cas(item.cas), stamp(SECOND), 100, &value),
            Reply::Refused
        );
    });
}

#[test]
fn a_full_memory_makes_no_item_for_a_token_and_says_that_there_is_none() {
    each_memcached(&["-M", "-m", "2"], |server, talk| {
        faults::fill(server);
        for value in [true, false] {
            let take = Command::Read { value, token: true };
            assert_eq!(talk.ask(take), Reply::Miss);
        }
    });
}

#[test]
fn a_full_memory_keeps_its_record_which_can_be_doubted_and_has_room_for_what_it_dropped() {
    each_memcached(&["-M", "-m", "2"], |server, talk| {
        let trusted = Record::new(3, 0x5f3a).trusted();
        talk.ask(Command::AddRecord(trusted.clone()));
        let cas = talk.begin();
        let fillers = faults::fill(server);
        let (_, record_cas) = talk.record();
        let mut listing = trusted.clone();
        listing.absent.push(Absent {
            node: "10.0.0.2:11211".into(),
            host: "web".into(),
            since: 1_767_225_600,
        });
        let set = Command::SetRecord {
            cas: record_cas,
            record: listing,
        };
        assert_eq!(talk.ask(set), Reply::Refused);
        assert_eq!(talk.record(), (trusted.clone(), record_cas));
        // The same size: where the old one is kept until the new one is there, that is one too many.
        let write = |talk: &mut Talk, over| talk.write(over, SECOND, "other");
        assert_eq!(write(talk, Over::Cas(cas)), Reply::Refused);
        assert!(matches!(write(talk, Over::Nothing), Reply::Done { .. }));
        let doubt = Command::DoubtRecord { cas: record_cas };
        assert!(matches!(talk.ask(doubt.clone()), Reply::Done { .. }));
        assert_eq!(talk.ask(doubt), Reply::Exists);
        let joining = trusted.doubted();
        let (doubted, cas) = talk.record();
        assert_eq!(doubted, joining);
        assert_eq!(talk.record(), (joining, cas), "as long as it stands");
        faults::empty(server, fillers);
        let set = Command::SetRecord {
            cas,
            record: trusted.clone(),
        };
        assert!(matches!(talk.ask(set), Reply::Done { .. }));
        assert_eq!(talk.record().0, trusted, "stored anew, without the mark");
    });
}

#[test]
fn a_server_without_versions_says_so_and_keeps_what_it_has() {
    let server = Memcached::start();
    if has_e(&server) {
        harness::skip("the memcached of this machine has versions");
        return;
    }
    let mut old = Talk::to(&server, false);
    let cas = old.begin();
    let mut talk = Talk::to(&server, true);
    let data: Arc<[u8]> = Arc::from(b"second".as_slice());
    let replies = talk.pipeline(&[
        Command::Write {
            over: Over::Cas(cas),
            stamp: stamp(SECOND),
            life: 100,
            data: data.clone(),
        },
        Command::Unlock {
            cas,
            version: FIRST,
            life: None,
        },
        Command::Write {
            over: Over::Nothing,
            stamp: stamp(SECOND),
            life: 100,
            data,
        },
    ]);
    assert_eq!(replies, vec![Err(NO_VERSIONS); 3]);
    let item = old.item(true, false);
    assert_eq!((item.cas, item.stamp), (cas, Some(stamp(FIRST))));
    assert_eq!(item.data.as_deref(), Some(b"first".as_slice()));
}

/// splitmix64.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((word ^ (word >> 31)) % limit.max(1) as u64) as usize
    }
}

#[test]
fn damaged_answers_never_stop_the_reader_and_no_foreign_one_passes() {
    const SEED: u64 = 5;
    each_memcached(&[], |server, talk| {
        a_life_of_everything(server, talk);
        let heard = std::mem::take(&mut talk.heard);
        let words = talk.words();
        let mut random = Random(SEED);
        for round in 0..60_000 {
            let (command, opaque, bytes) = &heard[random.below(heard.len())];
            // The answer to one command is read as that of another now and then.
            let (command, opaque) = match random.below(4) {
                0 => {
                    let (command, opaque, _) = &heard[random.below(heard.len())];
                    (command, opaque)
                }
                _ => (command, opaque),
            };
            let mut bytes = bytes.clone();
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len() + 1);
                match random.below(5) {
                    0 if at < bytes.len() => bytes[at] = random.below(256) as u8,
                    1 => bytes.insert(at, b" \r\n0-9kcfstWZX\0"[random.below(15)]),
                    2 if at < bytes.len() => drop(bytes.remove(at)),
                    3 => bytes.truncate(at),
                    _ => bytes.extend_from_slice(&heard[random.below(heard.len())].2),
                }
            }
            let changes_record =
                matches!(command, Command::AddRecord(_) | Command::SetRecord { .. });
            let expect = match changes_record {
                true => Expect::Stored,
                false => Expect::Meta,
            };
            let Parsed::Reply(used, reply) = parsed(&bytes, expect) else {
                continue;
            };
            let read = words.read(command, *opaque, reply, &bytes);
            let line = String::from_utf8_lossy(&bytes[..used]).into_owned();
            if !reply.is_refusal() && read.is_ok() && !changes_record {
                // Right is only what echoes its question.
                let key = match command {
                    Command::ReadRecord => RECORD,
                    _ => KEY,
                };
                let head = line.lines().next().unwrap_or_default();
                let says = |word: String| head.split(' ').any(|field| field == word);
                let number = format!("O{opaque}");
                let zero = |field: &str| {
                    field
                        .strip_prefix('O')
                        .is_some_and(|n| n.parse() == Ok(*opaque))
                };
                assert!(
                    (says(number) || head.split(' ').any(zero)) && says(format!("k{key}")),
                    "seed {SEED} round {round}: {command:?} took {line:?}"
                );
            }
            // Spans and statuses of every kind, in a buffer they do not fit.
            let _ = words.read(command, *opaque, reply, &bytes[..used / 2]);
            let _ = words.read(
                command,
                *opaque,
                wire::Reply::ServerError(Span { at: used, len: 9 }),
                &bytes,
            );
        }
    });
}

/// Every command with every outcome, for its bytes.
fn a_life_of_everything(server: &Memcached, talk: &mut Talk) {
    talk.ask(Command::ReadRecord);
    let record = Record::new(3, 4);
    for _ in 0..2 {
        talk.ask(Command::AddRecord(record.clone()));
    }
    let (_, record_cas) = talk.record();
    for cas in [record_cas + 1, record_cas] {
        let record = record.trusted();
        talk.ask(Command::SetRecord { cas, record });
    }
    talk.ask(Command::ReadRecord);
    talk.ask(Command::Read {
        value: true,
        token: false,
    });
    talk.unlock(3, FIRST, None);
    talk.write(Over::Cas(3), FIRST, "x");
    let cas = talk.begin();
    for token in [false, true, true] {
        talk.item(true, token);
        talk.item(false, token);
    }
    talk.unlock(cas + 1, FIRST, Some(60));
    talk.unlock(cas, FIRST, Some(60));
    let item = talk.item(true, true);
    talk.write(Over::Nothing, SECOND, "second");
    talk.write(Over::Cas(item.cas), SECOND, "second");
    let cas = talk_cas(server);
    talk.ask(Command::Remove { cas: cas + 1 });
    talk.ask(Command::Remove { cas });
    talk.item(false, true);
    talk.item(true, true);
    talk.store(Over::Nothing, stamp(FIRST), 100, &vec![b'x'; 2_000_000]);
}

/// The flag word of an item of this memory life.
fn life(inc: u16) -> u32 {
    let flags = fenced::Flags {
        inc,
        ..fenced::Flags::default()
    };
    flags.word()
}
