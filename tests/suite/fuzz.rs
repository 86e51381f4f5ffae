//! Every decoder against damaged input, from written seeds: the same bytes on every run and machine.
//!
//! What must hold for any bytes: no panic, nothing outside the buffer is named, a cut answer means "not yet" and
//! never asks for more bytes than the whole answer has. A failure prints the bytes.

use memring_pool::codec::{self, Format, Layout, Stream};
use memring_pool::config::file::File;
use memring_pool::config::{Schemes, save_path};
use memring_pool::error::{Error, Kind};
use memring_pool::item::{Flags, KeyRule, LongKeys, Span};
use memring_pool::replica::words::Words;
use memring_pool::replica::{Command, Over, Record, Reply as Shown, Stamp, Version};
use memring_pool::wire::fenced::{self, HEADER, Header};
use memring_pool::wire::redis::{Shape, answer};
use memring_pool::wire::{Expect, Parsed, Reply, classic, meta};

/// Inputs per decoder; about a second each without optimization.
const ROUNDS: usize = 60_000;

/// splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let word = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word ^ (word >> 31)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit.max(1) as u64) as usize
    }

    /// One of the samples, with a few bytes changed, doubled, cut out or put in; now and then only noise.
    fn damaged(&mut self, samples: &[&[u8]]) -> Vec<u8> {
        if self.below(10) == 0 {
            return (0..self.below(60)).map(|_| self.next() as u8).collect();
        }
        let mut bytes = samples[self.below(samples.len())].to_vec();
        for _ in 0..self.below(4) {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 if at < bytes.len() => bytes[at] = self.next() as u8,
                1 => bytes.insert(at, b" \r\n0-9k\0"[self.below(8)]),
                2 if at < bytes.len() => drop(bytes.remove(at)),
                3 => bytes.truncate(at),
                _ => bytes.extend_from_slice(samples[self.below(samples.len())]),
            }
        }
        bytes
    }
}

const CLASSIC: &[&[u8]] = &[
    b"STORED\r\n",
    b"NOT_FOUND\r\n",
    b"42\r\n",
    b"18446744073709551615\r\n",
    b"END\r\n",
    b"VALUE k 0 5\r\nvalue\r\n",
    b"VALUE key 4294967295 12 18446744073709551615\r\n123456789012\r\n",
    b"VALUE k 0 0\r\n\r\nEND\r\n",
    b"VALUE k 0 4294967296\r\n",
    b"STAT pid 1\r\n",
    b"ITEM k [1 b; 0 s]\r\n",
    b"VERSION 1.6.18\r\n",
    b"SERVER_ERROR out of memory\r\n",
    b"CLIENT_ERROR bad\r\n",
    b"ERROR\r\n",
];

const META: &[&[u8]] = &[
    b"HD O1\r\n",
    b"VA 5 kkey f768 c12 O7\r\nvalue\r\n",
    b"VA 0 f0\r\n\r\n",
    b"EN\r\n",
    b"NS O3\r\n",
    b"EX O3\r\n",
    b"NF O3\r\n",
    b"MN\r\n",
    b"VA 18446744073709551615 f0\r\n",
    b"SERVER_ERROR no\r\n",
];

/// Answers of Redis, in RESP2 and RESP3.
const REDIS: &[&[u8]] = &[
    b"+OK\r\n",
    b":1\r\n",
    b":-9223372036854775808\r\n",
    b"$5\r\nvalue\r\n",
    b"$13\r\n\0mr1\0\0\x03\0value\r\n",
    b"$-1\r\n",
    b"_\r\n",
    b"#t\r\n",
    b"=9\r\ntxt:value\r\n",
    b"$20\r\n18446744073709551615\r\n",
    b"(18446744073709551615\r\n",
    b"*3\r\n$1\r\na\r\n$-1\r\n$0\r\n\r\n",
    b"%2\r\n$1\r\na\r\n*2\r\n:1\r\n*0\r\n+b\r\n_\r\n",
    b"-NOSCRIPT No matching script\r\n",
    b"!6\r\nERR no\r\n",
    b"$4294967296\r\n",
    b"ERROR\r\n",
];

/// Lines of a listing, which end with a bare LF.
const KEYS: &[&[u8]] = &[
    b"key=a exp=-1 la=1 cas=7 fetch=no cls=1 size=60 flags=1048576\n",
    b"key=%20b exp=1900000000 la=1 cas=18446744073709551615 fetch=yes cls=39 size=1048576\n",
    b"END\r\n",
    b"BUSY currently processing crawler request\r\n",
    b"ERROR metadump not allowed\r\n",
];

/// Answers about a copied item and about a node's record, to opaque 7.
const COPIES: &[&[u8]] = &[
    b"VA 5 f1048576 c4096 t600 s5 W O7 ka\r\nvalue\r\n",
    b"HD f17825792 c4096 t600 s0 Z O7 ka\r\n",
    b"VA 0 f0 c9 t30 s0 W O7 ka\r\n\r\n",
    b"HD f1081344 c4096 t600 s0 X W O7 ka\r\n",
    b"EN O7 ka\r\n",
    b"HD c4096 O7 ka\r\n",
    b"EX O7 ka\r\n",
    b"NS O7 ka\r\n",
    b"NF O7 ka\r\n",
    b"VA 39 c3 O7 k~r\r\n1 trusted 17 00000000000000ff 2/1/0000abcd\r\n",
    b"SERVER_ERROR out of memory storing object\r\n",
    b"CLIENT_ERROR invalid flag\r\n",
];

/// The spans a reply names.
fn spans(reply: Reply) -> Vec<Span> {
    match reply {
        Reply::Value { key, data, .. } => vec![key, data],
        Reply::Stat(span) | Reply::Version(span) | Reply::Unknown(span) => vec![span],
        Reply::ServerError(span) | Reply::ClientError(span) => vec![span],
        Reply::Item { data: span, .. } | Reply::Text(span) => vec![span],
        Reply::Meta(answer) => answer.key.into_iter().chain([answer.data]).collect(),
        _ => Vec::new(),
    }
}

/// Holds for one decoder and one input.
fn check(bytes: &[u8], parse: &dyn Fn(&[u8]) -> Parsed) {
    let shown = || String::from_utf8_lossy(bytes).to_string();
    match parse(bytes) {
        Parsed::More(missing) => assert!(missing > 0, "asks for nothing: {:?}", shown()),
        Parsed::Garbage(_) => {}
        Parsed::Reply(used, reply) => {
            assert!(
                used > 0 && used <= bytes.len(),
                "took {used} of {} bytes: {:?}",
                bytes.len(),
                shown()
            );
            for span in spans(reply) {
                assert!(
                    span.at + span.len <= used,
                    "names bytes outside the answer: {:?}",
                    shown()
                );
            }
            assert_eq!(
                parse(&bytes[..used]),
                Parsed::Reply(used, reply),
                "depends on what follows: {:?}",
                shown()
            );
            for cut in 0..used {
                match parse(&bytes[..cut]) {
                    Parsed::More(missing) => {
                        assert!(
                            cut + missing <= used,
                            "at {cut} asks for {missing} of {used}: {:?}",
                            shown()
                        );
                    }
                    other => panic!("cut at {cut} of {used} it is {other:?}: {:?}", shown()),
                }
            }
        }
    }
}

#[test]
fn replies_of_every_kind_survive_damage() {
    let mut random = Random(1);
    for _ in 0..ROUNDS {
        let bytes = random.damaged(CLASSIC);
        for expect in [
            Expect::Stored,
            Expect::Deleted,
            Expect::Touched,
            Expect::Flushed,
            Expect::Number,
            Expect::Values,
            Expect::Stats,
            Expect::Version,
        ] {
            check(&bytes, &|bytes| classic::parse(bytes, 0, expect));
        }
        let bytes = random.damaged(META);
        check(&bytes, &|bytes| meta::parse(bytes, 0));
        let bytes = random.damaged(REDIS);
        for shape in [
            Shape::Stored,
            Shape::Word,
            Shape::Number,
            Shape::Item(true),
            Shape::Text,
            Shape::List,
            Shape::Count,
            Shape::Greeting,
        ] {
            check(&bytes, &|bytes| answer::parse(bytes, 0, shape));
        }
        let bytes = random.damaged(KEYS);
        check(&bytes, &|bytes| classic::parse(bytes, 0, Expect::Keys));
    }
}

#[test]
fn values_of_a_damaged_list_lie_inside_it_and_belong_to_keys_that_were_asked_for() {
    let mut random = Random(9);
    let mut whole = 0;
    for _ in 0..ROUNDS {
        let bytes = random.damaged(REDIS);
        let keys = 1 + random.below(4);
        let (mut at, mut progress, mut hits) = (0, answer::Progress::default(), Vec::new());
        let parsed = answer::values(&bytes, &mut at, keys, true, &mut progress, &mut hits);
        whole += u64::from(parsed == Parsed::Reply(0, Reply::End));
        assert!(at <= bytes.len(), "{:?}", bytes.escape_ascii());
        assert!(hits.is_sorted_by(|one, other| one.place < other.place));
        for hit in hits {
            assert!(hit.place < keys && hit.data.at + hit.data.len <= at);
        }
    }
    assert!(
        whole > ROUNDS as u64 / 50,
        "hardly any list was whole: {whole}"
    );
}

#[test]
fn the_answers_of_a_damaged_transaction_are_as_many_as_asked_for_and_inside_of_it() {
    let samples: &[&[u8]] = &[
        b"*3\r\n+OK\r\n:1\r\n$2\r\n42\r\n",
        b"*3\r\n_\r\n-CLIENT_ERROR cannot\r\n$-1\r\n",
        b"*3\r\n$-1\r\n:3\r\n-WRONGTYPE no\r\n",
        b"*0\r\n",
        b"*-1\r\n",
    ];
    let shapes = [Shape::Stored, Shape::Word, Shape::Number];
    let mut random = Random(9);
    let mut read = 0;
    for _ in 0..ROUNDS {
        let bytes = random.damaged(samples);
        let Parsed::Reply(_, Reply::List(list)) = answer::parse(&bytes, 0, Shape::List) else {
            continue;
        };
        let Some(replies) = answer::each(&bytes, list, &shapes) else {
            continue;
        };
        read += 1;
        assert_eq!(replies.len(), shapes.len());
        for line in replies.into_iter().filter_map(Reply::refusal) {
            assert!(
                line.at + line.len <= list.at + list.len,
                "{:?}",
                bytes.escape_ascii()
            );
        }
    }
    assert!(read > ROUNDS / 10, "hardly any was whole: {read}");
}

#[test]
fn a_damaged_record_is_refused_or_means_what_it_says() {
    let mut random = Random(5);
    let mut full = Record::new(17, 0xff).trusted();
    (full.epoch, full.committed, full.nodes) = (3, 2, 0xabcd);
    let plain = full.encode();
    let joining = Record::new(4095, u64::MAX).encode();
    let listing = [&plain[..], b" -10.0.0.1:11211 web1 1700000000 -b web2 5"].concat();
    let mut read = 0;
    for _ in 0..ROUNDS {
        let bytes = random.damaged(&[&plain, &joining, &listing]);
        if let Some(record) = Record::decode(&bytes) {
            read += 1;
            let again = Record::decode(&record.encode());
            assert_eq!(again.as_ref(), Some(&record), "{:?}", bytes.escape_ascii());
        }
    }
    assert!(read > ROUNDS / 10, "hardly anything was a record: {read}");
}

#[test]
fn a_damaged_answer_about_a_copy_is_believed_only_with_its_key_and_its_number() {
    let stamp = Stamp {
        version: Version(4096),
        inc: 17,
        tombstone: false,
        mended: false,
        witness: false,
    };
    let commands = [
        Command::ReadRecord,
        Command::Read {
            value: true,
            token: true,
        },
        Command::Read {
            value: false,
            token: false,
        },
        Command::Write {
            over: Over::Cas(9),
            stamp,
            life: 60,
            data: b"data".to_vec().into(),
        },
        Command::Unlock {
            cas: 4096,
            version: stamp.version,
            life: None,
        },
        Command::Touch { life: 60 },
    ];
    let mut random = Random(6);
    let mut understood = 0;
    for round in 0..ROUNDS {
        let bytes = random.damaged(COPIES);
        let Parsed::Reply(used, reply) = meta::parse(&bytes, 0) else {
            continue;
        };
        let words = Words {
            key: b"a",
            record_key: b"~r",
            has_e: round % 2 == 0,
        };
        for command in &commands {
            let Ok(shown) = words.read(command, 7, reply, &bytes) else {
                continue;
            };
            understood += 1;
            let line = String::from_utf8_lossy(&bytes[..used]).to_string();
            if shown != Shown::Refused {
                let key = match command {
                    Command::ReadRecord => "k~r",
                    _ => "ka",
                };
                let first = line.lines().next().unwrap_or_default();
                let mut words = first.split(' ');
                let number = words
                    .clone()
                    .any(|word| word.strip_prefix('O').map(str::parse) == Some(Ok(7)));
                assert!(
                    number && words.any(|word| word == key),
                    "{command:?} took {line:?}"
                );
            }
            if let Shown::Item(item) = shown {
                assert!(item.cas != 0 && item.stamp.is_none_or(|stamp| stamp.inc != 0));
            }
        }
    }
    assert!(understood > ROUNDS / 10, "hardly anything was understood");
}

#[test]
fn a_damaged_header_is_somebody_elses_value() {
    let mut random = Random(7);
    let mut stored = Vec::new();
    let header = Header {
        version: 0x0123_4567_89ab_cdef,
        inc: 17,
        tombstone: false,
    };
    header.append(&mut stored);
    stored.extend_from_slice(b"value");
    for _ in 0..ROUNDS {
        let bytes = random.damaged(&[&stored]);
        let whole = bytes.get(..HEADER) == stored.get(..HEADER);
        let found = Header::split(&bytes);
        assert_eq!(found.is_some(), whole, "{}", bytes.escape_ascii());
        if let Some((found, value)) = found {
            assert_eq!((found, value), (header, &bytes[HEADER..]));
        }
        let word = random.next() as u32;
        let flags = fenced::Flags::of(word);
        assert_eq!(fenced::Flags::of(flags.word()), flags, "{word:#x}");
    }
}

#[test]
fn stored_values_with_any_flags_decode_or_are_refused() {
    let mut random = Random(2);
    let when = codec::Compression::new(1, 0.0).unwrap();
    let raw = [&[b'a'; 500][..], b"and more of another kind"].concat();
    let mut samples: Vec<Vec<u8>> = Vec::new();
    for layout in LAYOUTS {
        for (_, stream) in Format::STREAMS {
            let mut packed = Vec::new();
            let format = Format {
                layout,
                stream,
                ..Format::default()
            };
            if format.pack(when, &raw, false, &mut packed).is_some() {
                samples.push(packed);
            }
        }
    }
    assert_eq!(samples.len(), 6);
    // FastLZ of both levels, behind php-memcached's length: a run, a copy, a far one.
    samples.push(b"\x0e\0\0\0\x00a\xe0\x04\x00".to_vec());
    samples.push(b"\x09\0\0\0\x02abc\x60\x02\x00x".to_vec());
    samples.push(b"\x30\0\0\0\x23abcd\xe0\xff\x10\x00\x3f\xff\x01\x00".to_vec());
    for text in [
        "-12",
        "1.5e+300",
        "1",
        "",
        "NAN",
        "-INF",
        "9223372036854775808",
        "0x1p3",
    ] {
        samples.push(text.into());
    }
    let samples: Vec<&[u8]> = samples.iter().map(Vec::as_slice).collect();
    let streams = [Stream::Zlib, Stream::Zstd, Stream::Lz4, Stream::FastLz];
    let mut room = Vec::new();
    let mut read = 0;
    for _ in 0..ROUNDS {
        let bytes = random.damaged(&samples);
        for layout in LAYOUTS {
            for flags in FLAGS.into_iter().chain([random.next() as u32]) {
                let decoded = layout.decode(Flags(flags), &bytes, 10_000, &mut room);
                read += usize::from(decoded.is_ok());
            }
        }
        for stream in streams {
            let mut out = vec![7];
            match stream.unpack(&bytes, 10_000, &mut out) {
                Ok(()) => assert!(out.len() <= 10_001),
                Err(_) => assert_eq!(out, [7], "a refused value left bytes behind"),
            }
        }
    }
    assert!(read > ROUNDS, "{read}");
}

const LAYOUTS: [Layout; 2] = [Layout::Pecl, Layout::PhpMemcached];

/// What stored values have as flags, in both layouts.
const FLAGS: [u32; 14] = [
    0,
    1,
    2,
    3,
    5,
    18,
    34,
    50,
    48,
    80,
    144,
    256,
    768,
    0xffff_ffff,
];

#[test]
fn keys_of_any_bytes_become_keys_a_server_accepts_or_are_refused() {
    let mut random = Random(3);
    for _ in 0..ROUNDS / 10 {
        let raw: Vec<u8> = (0..random.below(400))
            .map(|_| random.next() as u8)
            .collect();
        for long in [LongKeys::Cut, LongKeys::Hash] {
            let rule = KeyRule {
                prefix: b"pre_".to_vec(),
                long,
            };
            let mut arena = b"before".to_vec();
            if let Ok(span) = rule.append(&raw, &mut arena) {
                let key = span.of(&arena);
                assert!(!key.is_empty() && key.len() <= 250, "{} bytes", key.len());
                assert!(
                    key.iter().all(|byte| *byte > b' '),
                    "a blank or control byte in a key"
                );
            } else {
                assert!(raw.is_empty(), "a key of {} bytes was refused", raw.len());
            }
        }
    }
}

#[test]
fn save_paths_and_pool_files_are_read_or_refused_with_a_remedy() {
    let mut random = Random(4);
    let paths: &[&[u8]] = &[
        b"tcp://127.0.0.1:11211?weight=2&timeout=0.5, tcp://b:11211",
        b"a:11211,b:11212",
        b"unix:///run/mc.sock",
        b"[::1]:11211",
        b"redis://:secret@10.0.0.1/2",
        b"pool:sessions",
    ];
    let files: &[&[u8]] = &[
        b"[pool.sessions]\nnodes = [\"memcached://10.0.0.1?weight=50\"]\nmode = \"single\"\n",
        b"[pool.a]\nnodes = []\n",
        b"[pool.\"x\"]\nnodes = [\"tcp://a:1\"]\nplacement = \"rendezvous\"\ncopies = 2\n",
    ];
    let none = |_: &str| Err(Error::new(Kind::Config, "there is no such pool").hint("name one"));
    for _ in 0..ROUNDS / 10 {
        let bytes = random.damaged(paths);
        let text = String::from_utf8_lossy(&bytes);
        match save_path::parse(&text, &Schemes::default(), &none) {
            Ok(wish) => assert!(!wish.topology.nodes.is_empty(), "no node in {text:?}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        let bytes = random.damaged(files);
        if let Err(error) = File::parse("pools.toml", &String::from_utf8_lossy(&bytes)) {
            assert!(
                error.to_string().contains("pools.toml"),
                "names no file: {error}"
            );
        }
    }
}
