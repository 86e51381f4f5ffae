//! Requests byte for byte, answers whole, cut anywhere and broken.

use super::answer::{Progress, parse, values};
use super::*;
use crate::wire::classic::Hit;
use crate::wire::{Parsed, Reply};

fn said<T>(say: impl FnOnce(&mut Vec<u8>) -> T) -> String {
    let mut out = Vec::new();
    say(&mut out);
    String::from_utf8(out).unwrap().replace("\r\n", " ")
}

fn put(verb: Store, value: &[u8]) -> Put<'_> {
    Put {
        verb,
        key: b"k",
        flags: 0,
        ttl: 0,
        cas: 0,
        value,
        whole: false,
    }
}

#[test]
fn requests_are_arrays_of_byte_strings() {
    for (request, expected) in [
        (said(|out| get(out, b"key", false)), "*2 $3 GET $3 key "),
        (
            said(|out| {
                let keys = [(0, 1), (2, 2)].map(|(at, len)| Span { at, len });
                get_all(out, b"a bc", &keys, false)
            }),
            "*3 $4 MGET $1 a $2 bc ",
        ),
        (said(|out| delete(out, b"k")), "*2 $3 DEL $1 k "),
        (
            said(|out| touch(out, b"k", 60, false)),
            "*3 $6 EXPIRE $1 k $2 60 ",
        ),
        (
            said(|out| touch(out, b"k", 1_700_000_000, false)),
            "*3 $8 EXPIREAT $1 k $10 1700000000 ",
        ),
        (
            said(|out| get_and_touch(out, b"k", 0)),
            "*3 $5 GETEX $1 k $7 PERSIST ",
        ),
        (
            said(|out| get_and_touch(out, b"k", 9)),
            "*4 $5 GETEX $1 k $2 EX $1 9 ",
        ),
        (said(|out| info(out, b"")), "*1 $4 INFO "),
        (said(|out| info(out, b"server")), "*2 $4 INFO $6 server "),
        (said(|out| prolong(out, b"k", 0)), "*3 $6 EXPIRE $1 k $1 1 "),
    ] {
        assert_eq!(request, expected);
    }
}

#[test]
fn a_store_says_its_end_and_its_condition() {
    for (verb, ttl, expected) in [
        (Store::Set, 0, "*3 $3 SET $1 k $1 v "),
        (Store::Set, 60, "*4 $5 SETEX $1 k $2 60 $1 v "),
        (
            Store::Set,
            1_700_000_000,
            "*5 $3 SET $1 k $1 v $4 EXAT $10 1700000000 ",
        ),
        // A negative number of memcached's 32 bits: it has ended.
        (Store::Set, u32::MAX, "*5 $3 SET $1 k $1 v $4 EXAT $1 1 "),
        (Store::Add, 0, "*4 $3 SET $1 k $1 v $2 NX "),
        (Store::Replace, 5, "*6 $3 SET $1 k $1 v $2 EX $1 5 $2 XX "),
    ] {
        let mut put = put(verb, b"v");
        put.ttl = ttl;
        let mut shape = Shape::Text;
        let request = said(|out| shape = store(out, &put));
        assert_eq!((request.as_str(), shape), (expected, Shape::Stored));
    }
}

#[test]
fn flags_stand_before_the_value_and_are_counted_with_it() {
    let mut out = Vec::new();
    let mut put = put(Store::Set, b"5");
    put.flags = 0x300;
    store(&mut out, &put);
    assert_eq!(
        out,
        b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$9\r\n\0mr1\0\0\x03\x005\r\n"
    );
    assert_eq!(stored::split(b"\0mr1\0\0\x03\x005"), (0x300, 8));
    // Whatever is no whole head is a value.
    for plain in [
        b"".as_slice(),
        b"\0mr1",
        b"\0mr1\0\0\0",
        b"text",
        b"\0mr2\0\0\0\0x",
    ] {
        assert_eq!(stored::split(plain), (0, 0));
    }
}

#[test]
fn a_script_is_called_by_the_name_that_a_server_gives_it() {
    // printf 'return 1' | sha1sum
    let hash = |text| {
        let mut put = put(Store::Append, b"x");
        put.whole = text;
        said(|out| {
            store(out, &put);
        })
    };
    let called = hash(false);
    assert!(called.starts_with("*5 $7 EVALSHA $40 "), "{called}");
    assert!(called.ends_with(" $1 1 $1 k $1 x "), "{called}");
    assert!(hash(true).starts_with("*5 $4 EVAL $"), "{}", hash(true));
}

#[test]
fn each_answer_is_what_was_asked_for_or_garbage() {
    use Shape::{Item, Number, Stored, Text, Word};
    let span = |at, len| Span { at, len };
    for (text, shape, expected) in [
        ("+OK\r\n", Stored, Reply::Done),
        ("$-1\r\n", Stored, Reply::NotStored),
        ("_\r\n", Stored, Reply::NotStored),
        (":1\r\n", Word, Reply::Done),
        (":0\r\n", Word, Reply::NotFound),
        (":2\r\n", Word, Reply::Exists),
        (":3\r\n", Word, Reply::NotStored),
        ("#t\r\n", Word, Reply::Done),
        (
            "$20\r\n18446744073709551615\r\n",
            Number,
            Reply::Number(u64::MAX),
        ),
        ("*-1\r\n", Number, Reply::NotFound),
        ("$-1\r\n", Item(false), Reply::NotFound),
        (
            "$2\r\nhi\r\n",
            Item(false),
            Reply::Item {
                flags: 0,
                cas: 0,
                data: span(4, 2),
            },
        ),
        ("$2\r\nhi\r\n", Text, Reply::Text(span(4, 2))),
        ("=6\r\ntxt:hi\r\n", Text, Reply::Text(span(8, 2))),
        ("-ERR no\r\n", Word, Reply::ServerError(span(1, 6))),
        ("!6\r\nERR no\r\n", Word, Reply::ServerError(span(4, 6))),
        (
            "-WRONGTYPE x\r\n",
            Item(true),
            Reply::ClientError(span(1, 11)),
        ),
        (
            "-ERR unknown command\r\n",
            Text,
            Reply::Unknown(span(1, 19)),
        ),
        ("-NOSCRIPT x\r\n", Word, Reply::NoScript),
        ("+OK\r\n", Shape::Greeting, Reply::Done),
        (
            "%2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n+b\r\n_\r\n",
            Shape::Greeting,
            Reply::Done,
        ),
    ] {
        let bytes = text.as_bytes();
        assert_eq!(
            parse(bytes, 0, shape),
            Parsed::Reply(bytes.len(), expected),
            "{text:?}"
        );
        for cut in 0..bytes.len() {
            let parsed = parse(&bytes[..cut], 0, shape);
            assert!(
                matches!(parsed, Parsed::More(n) if n > 0),
                "{text:?} {cut}: {parsed:?}"
            );
        }
    }
    for (text, shape) in [
        ("+NO\r\n", Stored),
        (":4\r\n", Word),
        ("$1\r\n5\r\n", Word),
        ("$1\r\nx\r\n", Number),
        ("$21\r\n184467440737095516150\r\n", Number),
        ("+OK\r\n", Number),
        ("*1\r\n:1\r\n", Word),
        (":1\n", Word),
        ("$1x\r\n", Text),
        ("$2\r\nabc\r\n", Text),
        ("$-2\r\n", Text),
        ("$99999999999\r\n", Text),
        ("=2\r\nab\r\n", Text),
        (">1\r\n:1\r\n", Text),
        ("STORED\r\n", Stored),
    ] {
        let parsed = parse(text.as_bytes(), 0, shape);
        assert!(matches!(parsed, Parsed::Garbage(_)), "{text:?}: {parsed:?}");
    }
}

#[test]
fn who_speaks_memcached_is_told_apart() {
    for text in [
        "ERROR\r\n",
        "CLIENT_ERROR bad\r\n",
        "SERVER_ERROR x\r\n",
        "ER",
    ] {
        let Parsed::Garbage(what) = parse(text.as_bytes(), 0, Shape::Stored) else {
            panic!("{text:?}")
        };
        assert!(what.contains("Write tcp://"), "{what}");
    }
}

/// Reads the answer to a get of `keys` keys in pieces of `step` bytes.
fn read(bytes: &[u8], keys: usize, step: usize) -> Result<Vec<Hit>, Parsed> {
    let (mut at, mut progress, mut hits) = (0, Progress::default(), Vec::new());
    let mut have = 0;
    loop {
        have = (have + step).min(bytes.len());
        match values(
            &bytes[..have],
            &mut at,
            keys,
            true,
            &mut progress,
            &mut hits,
        ) {
            Parsed::More(_) if have < bytes.len() => {}
            Parsed::Reply(0, Reply::End) if at == bytes.len() => return Ok(hits),
            other => return Err(other),
        }
    }
}

#[test]
fn values_come_in_the_order_of_their_keys_however_they_arrive() {
    let list = b"*4\r\n$1\r\na\r\n$-1\r\n$9\r\n\0mr1\0\0\x01\0b\r\n$0\r\n\r\n";
    for step in 1..=list.len() {
        let hits = read(list, 4, step).unwrap();
        let found: Vec<(usize, u32, &[u8])> = hits
            .iter()
            .map(|hit| (hit.place, hit.flags, hit.data.of(list)))
            .collect();
        assert_eq!(
            found,
            [(0, 0, b"a".as_slice()), (2, 0x100, b"b"), (3, 0, b"")],
            "{step}"
        );
        assert!(hits.iter().all(|hit| hit.cas != 0));
        assert_eq!(read(b"$1\r\na\r\n", 1, step).unwrap().len(), 1);
        assert_eq!(read(b"$-1\r\n", 1, step), Ok(Vec::new()));
    }
    for (bad, keys) in [
        (b"*3\r\n".as_slice(), 4),
        (b"*-1\r\n", 4),
        (b"$1\r\na\r\n", 2),
        (b"*2\r\n:1\r\n", 2),
        (b"*2\r\n-ERR\r\n", 2),
        (b"*1\r\n$1\r\na\r\n", 1),
    ] {
        assert!(
            matches!(read(bad, keys, 99), Err(Parsed::Garbage(_))),
            "{bad:?}"
        );
    }
    let refused = read(b"-LOADING x\r\n", 2, 99);
    assert!(matches!(
        refused,
        Err(Parsed::Reply(12, Reply::ServerError(_)))
    ));
}

#[test]
fn a_cas_value_is_of_the_bytes_and_fits_into_an_integer_of_php() {
    // printf abc | sha1sum: a9993e364706816aba3e25717850c26c9cd0d89d
    assert_eq!(stored::cas(b"abc"), 0xa99_93e3_6470_6816);
    assert_eq!(stored::cas_word(stored::cas(b"abc")), "a9993e364706816");
    assert_eq!(stored::cas_word(1).len(), stored::CAS_DIGITS);
    assert!(i64::try_from(u64::MAX >> (64 - 4 * stored::CAS_DIGITS)).is_ok());
}

#[test]
fn info_has_the_names_of_both_worlds() {
    let info = b"# Server\r\nredis_version:7.2.4\r\nvalkey_version:8.1.1\r\nprocess_id:7\r\n\
        maxmemory:0\r\n# Keyspace\r\ndb0:keys=3,expires=1,avg_ttl=0\r\ndb2:keys=4,expires=0\r\n";
    let lines = String::from_utf8(stats::lines(info)).unwrap();
    for line in [
        "STAT pid 7",
        "STAT version 7.2.4",
        "STAT limit_maxbytes 0",
        "STAT curr_items 7",
        "STAT process_id 7",
        "STAT db2 keys=4,expires=0",
    ] {
        assert!(lines.contains(&format!("{line}\r\n")), "{line}: {lines}");
    }
    assert_eq!(stats::version(info), "8.1.1");
    assert_eq!(stats::version(b"redis_version:7.0.15\r\n"), "7.0.15");
    assert_eq!(stats::version(b""), "");
}

#[test]
fn keys_of_every_length_go_out_whole_wherever_they_lie() {
    let lengths = [1, 7, 9, 10, 15, 16, 17, 99, 100, 250];
    let short = [1, 16, 9, 10];
    // Once with others behind them, once the other way round: the shortest is the last of all. Between them
    // many short ones, and a long one at many places among those.
    let many = (0..300).map(|place| match place % 37 {
        36 => 40,
        place => short[place % 4],
    });
    let all: Vec<usize> = lengths
        .into_iter()
        .chain(many)
        .chain(lengths.into_iter().rev())
        .collect();
    let mut arena = Vec::new();
    let mut keys = Vec::new();
    let mut wanted = format!("*{}\r\n$4\r\nMGET\r\n", 1 + all.len());
    for len in all {
        let at = arena.len();
        arena.extend((0..len).map(|n| b'a' + n as u8 % 26));
        keys.push(Span { at, len });
        let key = std::str::from_utf8(&arena[at..]).unwrap();
        wanted += &format!("${len}\r\n{key}\r\n");
    }
    let mut out = Vec::new();
    get_all(&mut out, &arena, &keys, false);
    assert_eq!(std::str::from_utf8(&out).unwrap(), wanted);
}
