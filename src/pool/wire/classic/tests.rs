//! The classic commands as tables of what is said and what is made of it.

use super::*;

fn said(build: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    build(&mut out);
    String::from_utf8(out).unwrap()
}

#[test]
fn requests_are_spelled_as_pecl_memcache_spells_them() {
    assert_eq!(
        said(|o| store(o, Store::Set, b"i", 768, 0, 2, 0)),
        "set i 768 0 2\r\n"
    );
    assert_eq!(
        said(|o| store(o, Store::Cas, b"i", 768, 60, 1, 67)),
        "cas i 768 60 1 67\r\n"
    );
    assert_eq!(
        said(|o| {
            get(o, false);
            get_key(o, b"i");
            get_key(o, b"b");
            end(o);
        }),
        "get i b\r\n"
    );
    assert_eq!(said(|o| delete(o, b"i")), "delete i\r\n");
    assert_eq!(said(|o| delta(o, false, b"i", 3)), "decr i 3\r\n");
    assert_eq!(said(|o| flush_all(o, 0)), "flush_all\r\n");
    assert_eq!(said(|o| flush_all(o, 50)), "flush_all 50\r\n");
    assert_eq!(
        said(|o| stats(o, b"cachedump 1 5")),
        "stats cachedump 1 5\r\n"
    );
    assert_eq!(said(|o| stats(o, b"")), "stats\r\n");
    assert_eq!(said(|o| touch(o, b"k", 9)), "touch k 9\r\n");
    // PHP's -1.
    assert_eq!(said(|o| touch(o, b"k", u32::MAX)), "touch k -1\r\n");
    assert_eq!(said(|o| get_and_touch(o, false, u32::MAX)), "gat -1");
}

/// One row: what arrives, what was asked, what must be made of it.
fn rows() -> Vec<(&'static [u8], Expect, Parsed)> {
    let done = |n| Parsed::Reply(n, Reply::Done);
    vec![
        (b"STORED\r\n", Expect::Stored, done(8)),
        (b"DELETED\r\nrest", Expect::Deleted, done(9)),
        (b"TOUCHED\r\n", Expect::Touched, done(9)),
        (b"OK\r\n", Expect::Flushed, done(4)),
        (
            b"NOT_STORED\r\n",
            Expect::Stored,
            Parsed::Reply(12, Reply::NotStored),
        ),
        (
            b"EXISTS\r\n",
            Expect::Stored,
            Parsed::Reply(8, Reply::Exists),
        ),
        (
            b"NOT_FOUND\r\n",
            Expect::Number,
            Parsed::Reply(11, Reply::NotFound),
        ),
        (b"6\r\n", Expect::Number, Parsed::Reply(3, Reply::Number(6))),
        (
            b"9  \r\n",
            Expect::Number,
            Parsed::Reply(5, Reply::Number(9)),
        ),
        (
            b"18446744073709551615\r\n",
            Expect::Number,
            Parsed::Reply(22, Reply::Number(u64::MAX)),
        ),
        (
            b"18446744073709551616\r\n",
            Expect::Number,
            Parsed::Garbage("a number that is none"),
        ),
        (b"END\r\n", Expect::Values, Parsed::Reply(5, Reply::End)),
        (b"RESET\r\n", Expect::Stats, Parsed::Reply(7, Reply::End)),
        (
            b"STAT pid 1\r\n",
            Expect::Stats,
            Parsed::Reply(12, Reply::Stat(Span { at: 0, len: 10 })),
        ),
        (
            b"VERSION 1.6.18\r\n",
            Expect::Version,
            Parsed::Reply(16, Reply::Version(Span { at: 8, len: 6 })),
        ),
        (
            b"ERROR\r\n",
            Expect::Stats,
            Parsed::Reply(7, Reply::Unknown(Span { at: 0, len: 5 })),
        ),
        (
            b"SERVER_ERROR x\r\n",
            Expect::Values,
            Parsed::Reply(16, Reply::ServerError(Span { at: 0, len: 14 })),
        ),
        (
            b"CLIENT_ERROR x\r\n",
            Expect::Stored,
            Parsed::Reply(16, Reply::ClientError(Span { at: 0, len: 14 })),
        ),
        (
            b"VALUE i 768 2 67\r\n-5\r\nEND\r\n",
            Expect::Values,
            Parsed::Reply(
                22,
                Reply::Value {
                    key: Span { at: 6, len: 1 },
                    flags: 768,
                    cas: 67,
                    data: Span { at: 18, len: 2 },
                },
            ),
        ),
        (
            b"VALUE i 0 2\r\nabc\r\n",
            Expect::Values,
            Parsed::Garbage("a value of another length than announced"),
        ),
        (
            b"VALUE i 0 4294967296\r\n",
            Expect::Values,
            Parsed::Garbage("a value longer than any server stores"),
        ),
        (
            b"VALUE i 0\r\n",
            Expect::Values,
            Parsed::Garbage("a VALUE line that cannot be read"),
        ),
        (
            b"VALUE i 0 1 2 3\r\n",
            Expect::Values,
            Parsed::Garbage("a VALUE line that cannot be read"),
        ),
        (
            b"VALUE i -1 1\r\n",
            Expect::Values,
            Parsed::Garbage("a VALUE line that cannot be read"),
        ),
        (
            b"STORED\n",
            Expect::Stored,
            Parsed::Garbage("a line that does not end in CR LF"),
        ),
        // An answer to another question is none.
        (
            b"STORED\r\n",
            Expect::Values,
            Parsed::Garbage("a line that answers nothing that was asked"),
        ),
        (
            b"END\r\n",
            Expect::Stored,
            Parsed::Garbage("a line that answers nothing that was asked"),
        ),
        (
            b"5\r\n",
            Expect::Stored,
            Parsed::Garbage("a line that answers nothing that was asked"),
        ),
        (
            b"HTTP/1.1 200 OK\r\n",
            Expect::Values,
            Parsed::Garbage("a line that answers nothing that was asked"),
        ),
    ]
}

#[test]
fn replies_are_read_as_what_was_asked_for() {
    for (bytes, expect, parsed) in rows() {
        assert_eq!(
            parse(bytes, 0, expect),
            parsed,
            "{}",
            String::from_utf8_lossy(bytes)
        );
    }
}

#[test]
fn every_cut_of_a_reply_means_not_yet() {
    for (bytes, expect, parsed) in rows() {
        let Parsed::Reply(used, _) = parsed else {
            continue;
        };
        for cut in 0..used {
            assert!(
                matches!(parse(&bytes[..cut], 0, expect), Parsed::More(n) if n > 0),
                "cut at {cut}"
            );
        }
    }
}

/// What `hits` makes of `buf` when `keys` were asked for.
fn hits_of(buf: &[u8], keys: &[&[u8]]) -> (usize, Vec<Hit>) {
    let (out, spans) = asked(keys);
    let mut found = Vec::new();
    (hits(buf, 0, &out, &spans, &mut found), found)
}

fn asked(keys: &[&[u8]]) -> (Vec<u8>, Vec<Span>) {
    let mut out = b"get".to_vec();
    let spans = keys
        .iter()
        .map(|key| {
            get_key(&mut out, key);
            let len = key.len();
            let at = out.len() - len;
            Span { at, len }
        })
        .collect();
    (out, spans)
}

#[test]
fn whole_values_in_a_row_are_read_as_one_by_one() {
    for (bytes, expect, parsed) in rows().into_iter().filter(|r| r.1 == Expect::Values) {
        match parsed {
            Parsed::Reply(length, reply @ Reply::Value { key, .. }) => {
                let (out, keys) = asked(&[b"other", key.of(bytes)]);
                let one = hit(reply, bytes, &out, &keys, &[]).unwrap();
                assert_eq!(one.place, 1);
                let mut found = Vec::new();
                let used = hits(bytes, 0, &out, &keys, &mut found);
                assert_eq!((used, found), (length, vec![one]));
            }
            _ => assert_eq!(
                (hits_of(bytes, &[b"key"]), expect),
                ((0, vec![]), Expect::Values)
            ),
        }
    }
    // Keys of every length, so that a blank is found at every place of a step.
    for length in 1..40 {
        let key = "\u{ff}".repeat(length / 2) + &"k".repeat(length % 2);
        let text = format!("VALUE {key} 1 3\r\nabc\r\n").repeat(3) + "END\r\n";
        for keys in [[&key; 3].as_slice(), &[&key, &"x".to_owned(), &key, &key]] {
            let keys: Vec<&[u8]> = keys.iter().map(|k| k.as_bytes()).collect();
            let (end, found) = hits_of(text.as_bytes(), &keys);
            assert_eq!(&text[end..], "END\r\n");
            let mut at = 0;
            let (out, spans) = asked(&keys);
            for (index, one) in found.iter().enumerate() {
                let parsed = parse(text.as_bytes(), at, Expect::Values);
                let Parsed::Reply(used, reply) = parsed else {
                    panic!("{parsed:?}")
                };
                let same = hit(reply, text.as_bytes(), &out, &spans, &found[..index]);
                assert_eq!(Some(*one), same);
                at += used;
            }
            assert_eq!(at, end);
        }
    }
}

#[test]
fn a_value_belongs_to_the_next_key_of_its_name_and_to_no_earlier_one() {
    let text = b"VALUE key1 0 1\r\nx\r\nVALUE key 0 1\r\ny\r\n";
    let places = |keys: &[&[u8]]| {
        let (used, found) = hits_of(text, keys);
        (used, found.iter().map(|h| h.place).collect::<Vec<_>>())
    };
    assert_eq!(places(&[b"key1", b"key"]), (text.len(), vec![0, 1]));
    // The key looked for begins as another does.
    assert_eq!(
        places(&[b"key", b"key1", b"k", b"key"]),
        (text.len(), vec![1, 3])
    );
    assert_eq!(places(&[b"key", b"key1"]), (19, vec![1]));
    assert_eq!(places(&[b"key1"]), (19, vec![0]));
    assert_eq!(places(&[b"key10"]), (0, vec![]));
    let (out, keys) = asked(&[b"key1", b"key"]);
    let (_, found) = hits_of(text, &[b"key1", b"key"]);
    let Parsed::Reply(_, reply) = parse(text, 0, Expect::Values) else {
        panic!("no value")
    };
    assert_eq!(hit(reply, text, &out, &keys, &found), None);
}

#[test]
fn values_alike_and_values_that_are_not_are_read_in_any_order() {
    let heads = [" 0 3", " 0 30", " 7 3", " 0 3 9", " 0 3 0", " 00 3"];
    let keys: Vec<&[u8]> = vec![b"key"; 3];
    let (out, spans) = asked(&keys);
    for (first, second, third) in heads
        .iter()
        .flat_map(|a| heads.iter().map(move |b| (a, b)))
        .flat_map(|(a, b)| heads.iter().map(move |c| (a, b, c)))
    {
        let text: String = [first, second, third]
            .iter()
            .map(|head| {
                let len = if head.contains("30") { 30 } else { 3 };
                format!("VALUE key{head}\r\n{}\r\n", "v".repeat(len))
            })
            .collect();
        let bytes = text.as_bytes();
        // Cut anywhere, the whole ones are found, and as the slow parser reads them.
        for cut in 0..=bytes.len() {
            let bytes = &bytes[..cut];
            let (used, found) = hits_of(bytes, &keys);
            let (mut at, mut slow) = (0, Vec::new());
            while let Parsed::Reply(used, reply) = parse(bytes, at, Expect::Values) {
                let one = hit(reply, bytes, &out, &spans, &slow).unwrap();
                slow.push(one);
                at += used;
            }
            assert_eq!(
                (used, found),
                (at, slow),
                "{first}{second}{third} cut at {cut}"
            );
        }
    }
    // As long as the one before by its head, and not by its end.
    let text = b"VALUE key 0 3\r\nabc\r\nVALUE key 0 3\r\nabcd\r\n";
    assert_eq!(hits_of(text, &keys).0, 20);
}

#[test]
fn numbers_of_every_length_are_read() {
    for digits in 1..20 {
        let number = &"9081726354190817263"[..digits];
        for end in ["\r\n", " ", "x", "/", ":", "\u{ff}", "\r\n and more"] {
            let text = format!(" {number}{end}");
            assert_eq!(
                field(text.as_bytes()),
                Some((number.parse().unwrap(), end.as_bytes())),
                "{text}"
            );
        }
    }
    for odd in [
        "",
        " ",
        "1 ",
        " \r\n3456789",
        " 12",
        " x2345678",
        " 00000000000000000000 ",
    ] {
        assert_eq!(field(odd.as_bytes()), None, "{odd}");
    }
}

#[test]
fn a_value_cut_anywhere_is_no_whole_value() {
    let text = b"VALUE key 0 3 18446744073709551615\r\nabc\r\n";
    for cut in 0..text.len() {
        assert_eq!(hits_of(&text[..cut], &[b"key"]).0, 0, "cut at {cut}");
    }
    assert_eq!(hits_of(text, &[b"key"]).0, 0, "20 digits are odd");
    assert!(matches!(
        parse(text, 0, Expect::Values),
        Parsed::Reply(41, Reply::Value { cas: u64::MAX, .. })
    ));
}

#[test]
fn spans_point_into_the_whole_buffer() {
    let buf = b"STORED\r\nVALUE key 0 3\r\nabc\r\nEND\r\n";
    let Parsed::Reply(20, Reply::Value { key, data, .. }) = parse(buf, 8, Expect::Values) else {
        panic!("no value")
    };
    assert_eq!(
        (key.of(buf), data.of(buf)),
        (b"key".as_slice(), b"abc".as_slice())
    );
}

#[test]
fn a_line_that_never_ends_is_given_up() {
    assert_eq!(
        parse(&[b'x'; LINE_MAX + 1], 0, Expect::Stored),
        Parsed::Garbage("a line without an end")
    );
}
